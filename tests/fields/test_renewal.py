"""Tokens of old keys, renewed on their way through: bound as they were, and readable for the same."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest
from cryptography.fernet import Fernet
from fields.flowing import NOW, caller, exchange, forged, place, response, seal, unseal

from secmiddleware.encryption.fernet import ListedFernet
from secmiddleware.encryption.kek import Kek
from secmiddleware.encryption.keyring import Keyring
from secmiddleware.encryption.manager import EncryptionManager
from secmiddleware.encryption.tokens import format_of, kid_of
from secmiddleware.fields.values import ValueWork
from secmiddleware.rotation.stores import MemoryStore

SSN = b'"078-05-1120"'


class Rotated:
    """A ring with an old key, the one that seals, and one that waits."""

    def __init__(self, first_block: int = 100) -> None:
        now = [NOW]
        manager = EncryptionManager(
            MemoryStore(), Kek(bytes(32)), "shop", first_block=first_block, clock=lambda: now[0]
        )
        manager.start()
        self.first = manager.keyring
        self.old = self.first.keys[0].kid
        self.primary = manager.rotate()
        now[0] += manager.policy.activation_delay
        manager.tend()
        self.now = now[0]
        self.pending = manager.rotate()
        self.ring = manager.keyring
        self.later = now[0] + manager.policy.activation_delay
        self.retired = now[0] + manager.policy.retire_after + timedelta(days=1)

    def sealed_by(self, kid: str, value: bytes = SSN, **context) -> bytes:
        at = {self.old: NOW, self.primary: self.now, self.pending: self.later}[kid]
        token = self.ring.seal(value, context_of(**context), at)
        assert context.get("format", "aead") == "fernet" or kid_of(token) == kid
        return b'"' + token + b'"'

    def within(self, **arguments):
        return exchange(ring=self.ring, **({"now": self.now} | arguments))


def context_of(field="ssn", **slots):
    from secmiddleware.encryption.keyring import Context

    return Context(field, **slots)


@pytest.fixture(scope="module")
def rotated() -> Rotated:
    return Rotated()


def kept(value, way, within, **field):
    """What becomes of a token that a place lets through: on either way, or not opened for who may not."""
    work = ValueWork(within)
    field = {"rewrap": True} | field
    match way:
        case "in":
            rule = place("$.ssn", request="encrypt", already_sealed="skip", **field)
            return work.on_request(rule, value, "$.ssn"), work.report
        case "out":
            rule = place("$.ssn", response="encrypt", already_sealed="skip", **field)
        case "shown":
            rule = place("$.ssn", response="decrypt", **field)
    return work.on_response(rule, value, "$.ssn"), work.report


WAYS = pytest.mark.parametrize("way", ["in", "out", "shown"])


@WAYS
def test_a_token_of_an_old_key_is_renewed_with_what_it_holds(rotated, way):
    old = rotated.sealed_by(rotated.old)
    new, report = kept(old, way, rotated.within())
    assert new != old
    assert kid_of(new[1:-1]) == rotated.primary
    assert unseal(new, ring=rotated.ring) == SSN
    assert (report.opened, report.sealed) == (1, 1)
    assert report.kids == {rotated.old, rotated.primary}


@WAYS
def test_tokens_stay_as_they_are_where_nobody_says_that_they_are_renewed(rotated, way):
    old = rotated.sealed_by(rotated.old)
    assert kept(old, way, rotated.within(), rewrap=False)[0] == old


@WAYS
def test_a_token_of_the_key_that_seals_or_of_a_newer_one_stays(rotated, way):
    for kid in (rotated.primary, rotated.pending):
        token = rotated.sealed_by(kid)
        new, report = kept(token, way, rotated.within())
        assert new == token
        assert report.sealed == 0


@WAYS
@pytest.mark.parametrize("bind", ["tenant", "caller"])
def test_a_renewed_token_is_bound_as_it_was(rotated, way, bind):
    alice = caller("spiffe://a.example/alice")
    slots = {"tenant": alice.tenant} if bind == "tenant" else {"caller": alice.name}
    old = rotated.sealed_by(rotated.old, **slots)
    new, _ = kept(old, way, rotated.within(identity=alice), bind=bind)
    assert new != old
    assert unseal(new, ring=rotated.ring, **slots) == SSN


@pytest.mark.parametrize("bind", ["tenant", "caller"])
def test_a_token_of_another_caller_is_not_renewed_for_who_is_calling(rotated, bind):
    alice, bob = caller("spiffe://a.example/alice"), caller("spiffe://b.example/bob")
    slots = {"tenant": alice.tenant} if bind == "tenant" else {"caller": alice.name}
    old = rotated.sealed_by(rotated.old, **slots)
    for who in (bob, None):
        # Where tokens are for everybody, it goes on as it is; where it must open, it is refused.
        assert kept(old, "shown", rotated.within(identity=who), bind=bind)[0] == old
        for way in ("in", "out"):
            refused, report = kept(old, way, rotated.within(identity=who), bind=bind)
            assert not isinstance(refused, bytes)
            assert report.sealed == 0


def test_a_token_that_does_not_open_goes_on_as_it_is_to_those_who_get_tokens(rotated):
    for token in (
        forged(rotated.sealed_by(rotated.old)),
        rotated.sealed_by(rotated.old, field="other"),
        seal(SSN),  # of a key that is not known here
        b'"sm1."',
        b'"sm1.AQ"',
    ):
        assert kept(token, "shown", rotated.within())[0] == token
        assert kept(token, "shown", exchange(ring=None))[0] == token


@WAYS
def test_the_old_token_of_a_distrusted_or_retired_key_is_not_renewed(rotated, way):
    old = rotated.sealed_by(rotated.old)
    document = rotated.ring.document
    first, *rest = document.keys
    distrusted = replace(document, keys=(replace(first, distrusted=True), *rest))
    ring = Keyring(distrusted, [rotated.ring.secret_of(entry.kid) for entry in distrusted.keys])
    for within in (exchange(ring=ring, now=rotated.now), rotated.within(now=rotated.retired)):
        token, report = kept(old, way, within)
        assert token == old if way == "shown" else not isinstance(token, bytes)
        assert report.sealed == 0


@WAYS
def test_fernet_is_never_renewed_in_passing(rotated, way):
    old = rotated.sealed_by(rotated.old, format="fernet")
    assert kept(old, way, rotated.within(), format="fernet")[0] == old
    assert kept(old, way, rotated.within(), also_open=("fernet",))[0] == old
    key = Fernet.generate_key()
    foreign = b'"' + Fernet(key).encrypt(SSN) + b'"'
    listed = ListedFernet([key.decode()])
    assert kept(foreign, way, rotated.within(), also_open=("fernet",), listed=listed)[0] == foreign
    # Nor does a bound token become one that is bound to nothing.
    bound = rotated.sealed_by(rotated.old)
    assert kept(bound, way, rotated.within(), format="fernet", also_open=("aead",))[0] == bound


@WAYS
def test_a_renewed_token_is_of_the_fields_own_format(rotated, way):
    old = rotated.sealed_by(rotated.old)
    new, _ = kept(old, way, rotated.within(), format="xaes", also_open=("aead",))
    assert format_of(new[1:-1]) == "xaes"
    assert unseal(new, ring=rotated.ring, format="xaes") == SSN


@WAYS
def test_texts_and_padded_values_are_renewed_whole(rotated, way):
    text = b"ends in spaces  "
    new, _ = kept(rotated.sealed_by(rotated.old, text), way, rotated.within(), encoding="text")
    assert unseal(new, ring=rotated.ring) == text
    new, _ = kept(rotated.sealed_by(rotated.old, SSN + b" " * 19), way, rotated.within(), pad=8)
    assert unseal(new, ring=rotated.ring) == SSN + b" " * 3


@WAYS
def test_where_nothing_can_be_sealed_the_old_token_goes_on(way):
    spent = Rotated(first_block=2)
    old = spent.sealed_by(spent.old)
    within = spent.within()
    found = [kept(old, way, within)[0] for _ in range(5)]
    assert found[-1] == old
    assert unseal(found[0], ring=spent.ring) == SSN


def test_a_body_with_a_renewed_token_has_its_true_length(rotated):
    old = rotated.sealed_by(rotated.old)
    answer = response(
        [place("$.ssn", response="decrypt", rewrap=True)], b'{"ssn": %s}' % old, within=rotated.within()
    )
    assert answer.body != b'{"ssn": %s}' % old
    assert answer.values(b"content-length") == [b"%d" % len(answer.body)]
    assert unseal(answer.body[8:-1], ring=rotated.ring) == SSN
