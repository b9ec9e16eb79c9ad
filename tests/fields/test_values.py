"""What happens to one marked value: every decision, with a real key ring."""

import pickle
import traceback
from datetime import timedelta

import pytest
from fields.flowing import (
    NOW,
    RING,
    STRANGE_RING,
    caller,
    exchange,
    forged,
    having_opened,
    place,
    request,
    response,
    seal,
    unseal,
    unsealed,
)

from secmiddleware.encryption.kek import Kek
from secmiddleware.encryption.manager import EncryptionManager
from secmiddleware.errors import TokenError
from secmiddleware.fields.bodies import Rewritten, rewrite
from secmiddleware.fields.limits import Limits
from secmiddleware.fields.rules import Plan
from secmiddleware.fields.values import Exchange, FieldRule, ValueWork
from secmiddleware.messages import Refusal
from secmiddleware.rotation.stores import MemoryStore

SSN = b'"078-05-1120"'
UNDECRYPTABLE = Refusal("field_undecryptable", "$.ssn")
MISSING = Refusal("field_missing", "$.ssn")


def asked(value, *, within=None, **field):
    """What the app gets for a value: its bytes, or the refusal."""
    work = ValueWork(exchange() if within is None else within)
    return work.on_request(place("$.ssn", **field), value, "$.ssn")


def answered(value, *, within=None, **field):
    """What the caller gets for a value: its bytes, or the refusal."""
    work = ValueWork(exchange() if within is None else within)
    return work.on_response(place("$.ssn", **field), value, "$.ssn")


@pytest.mark.parametrize(
    "value",
    [
        SSN,
        b"null",
        b"0",
        b"1.10",
        b"true",
        b'""',
        b'"***"',
        b"[]",
        b'{"ssn":"x"}',
        b"[%s]" % seal("1"),
        b'"sm1."',
        b'"sm1.AQ"',
        b'"SM1.' + seal("1")[5:],
        b'" ' + seal("1")[1:],
        seal("1")[:-1] + b' "',
        seal("1")[:-1] + b'="',
        seal("1")[:-1] + b'\\u0000"',
        seal("1")[:-2] + b'"',
        forged(seal("1")),
        seal("1", field="other"),
        seal("1", purpose="other"),
        seal("1", tenant="x"),
        seal("1", caller="x"),
        b'"\\ud800"',
    ],
    ids=lambda value: f"{len(value)} bytes",
)
def test_only_a_token_of_this_field_is_opened_and_nobody_is_told_why(value):
    assert asked(value, request="decrypt") == UNDECRYPTABLE


def test_a_token_of_a_key_that_is_not_known_yet_is_told_apart():
    strange = seal(SSN, ring=STRANGE_RING)
    assert asked(strange, request="decrypt") == Refusal("key_unknown", "$.ssn")
    assert asked(strange, request="encrypt", already_sealed="skip") == Refusal("key_unknown", "$.ssn")
    assert asked(seal("1"), request="decrypt", within=exchange(ring=None)) == Refusal("key_unknown", "$.ssn")
    assert asked(b"1", request="encrypt", within=exchange(ring=None)) == Refusal("key_unknown", "$.ssn")


@pytest.mark.parametrize(
    "sealed", [b"", b"x", b'"a","admin":true', b"1}", b"1 2", b"\xef\xbb\xbf1", b'"\xff"', b"NaN"]
)
def test_what_was_sealed_and_is_no_json_value_is_not_spliced_in(sealed):
    token = seal(sealed)
    assert asked(token, request="decrypt") == UNDECRYPTABLE
    assert asked(token, request="encrypt", already_sealed="skip") == UNDECRYPTABLE
    assert answered(token, response="encrypt", already_sealed="skip").code == "seal_failed"
    assert answered(token, response="decrypt", within=exchange(revealed={"ssn"})).code == "seal_failed"


def test_a_token_where_a_value_is_due_is_refused_and_nobody_is_told_whether_it_opens():
    token = seal(SSN)
    for one in (token, forged(token), seal("1", field="other"), seal("1", ring=STRANGE_RING), b'"sm1."'):
        assert asked(one, request="encrypt") == MISSING
        assert answered(one, response="encrypt") == Refusal("seal_failed", "$.ssn")
        for otherwise in ("mask", "null", "refuse"):
            assert asked(one, request="encrypt", otherwise=otherwise) == MISSING


def test_a_token_goes_on_as_it_is_where_the_place_says_so_and_only_if_it_opens():
    token = seal(SSN)
    kept = {"request": "encrypt", "already_sealed": "skip"}
    assert asked(token, **kept) == token
    escaped = b'"\\u0073' + token[2:]
    assert asked(escaped, **kept) == escaped
    for bad in (forged(token), seal("1", field="other"), seal("1", tenant="x"), b'"sm1."', b'"sm1.hello"'):
        assert asked(bad, **kept) == UNDECRYPTABLE
    assert answered(token, response="encrypt", already_sealed="skip") == token


@pytest.mark.parametrize(
    "value", [SSN, b"null", b"1.10", b'{"a":[ 1]}', b'"***"', b'""', b'" sm1.x"', b'"gAAAA"']
)
def test_anything_else_that_comes_to_be_sealed_is(value):
    token = asked(value, request="encrypt")
    assert unseal(token) == value
    assert unseal(answered(value, response="encrypt")) == value


@pytest.mark.parametrize(
    ("otherwise", "value", "comes_back"),
    [
        ("mask", b'"***"', True),
        ("mask", b'"\\u002a**"', True),
        ("mask", b'"****"', False),
        ("mask", b"null", False),
        ("null", b"null", True),
        ("null", b'"null"', False),
        ("null", b'"***"', False),
        ("token", b'"***"', False),
        ("token", b"null", False),
        ("refuse", b'"***"', False),
        ("refuse", b"null", False),
    ],
)
def test_a_mask_or_null_that_was_shown_is_not_stored_when_it_comes_back(otherwise, value, comes_back):
    stored = asked(value, request="encrypt", otherwise=otherwise)
    assert stored == MISSING if comes_back else unseal(stored) == value


@pytest.mark.parametrize("otherwise", ["mask", "null"])
def test_what_a_stranger_was_shown_is_refused_on_its_way_back(otherwise):
    places = [place("$.ssn", request="encrypt", response="decrypt", otherwise=otherwise)]
    stored = request(places, b'{"ssn":%s}' % SSN).body
    shown = response(places, stored).body
    assert shown != stored
    assert request(places, shown).refusal == MISSING
    # And in between nothing was lost.
    assert response(places, stored, within=exchange(revealed={"ssn"})).body == b'{"ssn":%s}' % SSN


def test_at_rest_the_app_stores_tokens_and_the_caller_sees_plaintext():
    places = [place("$..ssn", request="encrypt", response="decrypt")]
    body = b'{"ssn": 1.10, "n":[{"ssn":"\\u0041"}]}'
    within = exchange(revealed={"ssn"})
    stored = request(places, body, within=within).body
    assert unsealed(stored) == b'{"ssn": <1.10>, "n":[{"ssn":<"\\u0041">}]}'
    assert within.opened == []
    assert response(places, stored, within=within).body == body


def test_in_transit_the_app_sees_plaintext_and_the_caller_tokens():
    places = [place("$..ssn", request="decrypt", response="encrypt")]
    within = exchange()
    body = b'{"ssn":%s}' % seal(SSN)
    seen = request(places, body, within=within).body
    assert seen == b'{"ssn":%s}' % SSN
    assert unsealed(response(places, seen, within=within).body) == b'{"ssn":<%s>}' % SSN


ALICE, BOB = caller("spiffe://a.example/alice"), caller("spiffe://b.example/bob")
EVE = caller("spiffe://a.example/eve")


@pytest.mark.parametrize(
    ("bind", "who", "opens"),
    [
        ("none", ALICE, True),
        ("none", None, True),
        ("tenant", ALICE, True),
        ("tenant", EVE, True),
        ("tenant", BOB, False),
        ("caller", ALICE, True),
        ("caller", EVE, False),
        ("caller", BOB, False),
    ],
)
def test_a_token_opens_for_those_it_is_bound_to(bind, who, opens):
    token = asked(SSN, request="encrypt", bind=bind, within=exchange(identity=ALICE))
    seen = asked(token, request="decrypt", bind=bind, within=exchange(identity=who))
    assert seen == (SSN if opens else UNDECRYPTABLE)
    shown = answered(token, response="decrypt", bind=bind, within=exchange(identity=who, revealed={"ssn"}))
    assert shown == (SSN if opens else Refusal("seal_failed", "$.ssn"))


@pytest.mark.parametrize("bind", ["tenant", "caller"])
def test_where_nobody_is_known_a_bound_field_neither_opens_nor_seals(bind):
    token = seal(SSN, tenant=ALICE.tenant) if bind == "tenant" else seal(SSN, caller=ALICE.name)
    nobody = Refusal("certificate_missing", "$.ssn")
    assert asked(token, request="decrypt", bind=bind) == nobody
    assert asked(token, request="encrypt", bind=bind, already_sealed="skip") == nobody
    assert asked(SSN, request="encrypt", bind=bind) == nobody
    assert asked(b"null", request="encrypt", bind=bind, otherwise="null") == MISSING
    failed = Refusal("seal_failed", "$.ssn")
    assert answered(SSN, response="encrypt", bind=bind) == failed
    assert answered(token, response="encrypt", bind=bind, already_sealed="skip") == failed
    assert answered(token, response="decrypt", bind=bind, within=exchange(revealed={"ssn"})) == failed


def test_an_unbound_token_does_not_open_where_tokens_are_bound_nor_the_reverse():
    within = exchange(identity=ALICE)
    assert asked(seal("1"), request="decrypt", bind="caller", within=within) == UNDECRYPTABLE
    assert asked(seal("1", caller=ALICE.name), request="decrypt", within=within) == UNDECRYPTABLE
    # A caller whose name is a tenant's is not that tenant.
    assert (
        asked(seal("1", tenant=ALICE.name), request="decrypt", bind="caller", within=within) == UNDECRYPTABLE
    )


def fernet(value=SSN, **context):
    return seal(value, format="fernet", **context)


def test_a_fernet_field_seals_and_opens_fernet():
    token = asked(SSN, request="encrypt", format="fernet")
    assert token.startswith(b'"gAAAA')
    assert asked(token, request="decrypt", format="fernet") == SSN
    assert asked(token, request="encrypt", format="fernet", already_sealed="skip") == token
    assert answered(token, response="encrypt", format="fernet", already_sealed="skip") == token
    assert answered(token, response="decrypt", format="fernet", within=exchange(revealed={"ssn"})) == SSN
    assert answered(token, response="decrypt", format="fernet", otherwise="mask") == b'"***"'
    escaped = token.replace(b"=", b"\\u003d")
    assert asked(escaped, request="decrypt", format="fernet") == SSN


def test_a_field_opens_its_own_format_and_what_it_is_told_to_and_nothing_else():
    assert asked(fernet(), request="decrypt") == UNDECRYPTABLE
    assert asked(fernet(), request="decrypt", also_open=("fernet",)) == SSN
    assert asked(seal(SSN), request="decrypt", format="fernet") == UNDECRYPTABLE
    assert asked(seal(SSN), request="decrypt", format="fernet", also_open=("aead",)) == SSN
    # What another format of ours made is not plaintext to seal either.
    for kept in ("refuse", "skip"):
        refused = asked(seal(SSN), request="encrypt", format="fernet", already_sealed=kept)
        assert refused == (UNDECRYPTABLE if kept == "skip" else MISSING)
        refused = answered(seal(SSN), response="encrypt", format="fernet", already_sealed=kept)
        assert refused.code == "seal_failed"
    # A token of the old format goes on as it is: it is not renewed in passing.
    old = fernet()
    assert asked(old, request="encrypt", also_open=("fernet",), already_sealed="skip") == old


def test_what_looks_like_a_token_of_a_format_that_a_field_has_not_is_a_value_to_it():
    strange = fernet()
    assert unseal(asked(strange, request="encrypt")) == strange
    assert unseal(answered(strange, response="encrypt")) == strange
    assert answered(strange, response="decrypt").code == "seal_failed"


@pytest.mark.parametrize(
    "spoil",
    [
        forged,
        lambda token: token.replace(b"=", b""),
        lambda token: token[:-1] + b'="',
        lambda token: b'"gBAAA' + token[6:],
        lambda token: token.replace(b"gAAAA", b"gAAA\\n"),
    ],
)
def test_a_spoiled_fernet_token_does_not_open(spoil):
    assert asked(spoil(fernet()), request="decrypt", format="fernet") == UNDECRYPTABLE
    assert asked(fernet(field="other"), request="decrypt", format="fernet") == UNDECRYPTABLE


@pytest.mark.parametrize(("form", "also"), [("fernet", ()), ("aead", ("fernet",))])
def test_a_field_of_fernet_tokens_cannot_be_bound(form, also):
    for bind in ("tenant", "caller"):
        with pytest.raises(ValueError, match="cannot be bound"):
            FieldRule("ssn", form, bind, also_open=also)
    assert FieldRule("ssn", form, "none", also_open=also).format == form


def test_a_replaced_key_still_opens_old_values_and_the_new_one_seals():
    clock = [NOW]
    manager = EncryptionManager(MemoryStore(), Kek(bytes(32)), "shop", clock=lambda: clock[0])
    manager.start()
    token = seal(SSN, ring=manager.keyring)
    kid = manager.rotate()
    clock[0] += manager.policy.activation_delay
    later = exchange(ring=manager.keyring, now=clock[0])
    assert asked(token, request="decrypt", within=later) == SSN
    work = ValueWork(later)
    renewed = work.on_request(place("$.ssn", request="encrypt"), SSN, "$.ssn")
    assert work.report.kids == {kid}
    assert asked(renewed, request="decrypt", within=later) == SSN
    much_later = exchange(
        ring=manager.keyring, now=clock[0] + manager.policy.retire_after + timedelta(days=1)
    )
    assert asked(token, request="decrypt", within=much_later) == UNDECRYPTABLE


def test_where_the_uses_of_a_key_are_spent_nothing_is_sealed():
    manager = EncryptionManager(MemoryStore(), Kek(bytes(32)), "shop", first_block=2, clock=lambda: NOW)
    manager.start()
    within = exchange(ring=manager.keyring)
    assert [type(asked(b"1", request="encrypt", within=within)) for _ in range(3)] == [bytes, bytes, Refusal]
    assert asked(b"1", request="encrypt", within=within) == Refusal("seal_failed", "$.ssn")
    assert answered(b"1", response="encrypt", within=within) == Refusal("seal_failed", "$.ssn")


def test_only_what_the_app_was_given_is_remembered_for_the_guard():
    within = exchange(revealed={"ssn"})
    token = seal(SSN)
    asked(token, request="decrypt", within=within)
    assert within.opened == [("ssn", SSN)]
    asked(token, request="encrypt", already_sealed="skip", within=within)
    answered(token, response="decrypt", within=within)
    answered(token, response="encrypt", already_sealed="skip", within=within)
    asked(forged(token), request="decrypt", within=within)
    asked(token, request="decrypt", leak_guard=False, within=within)
    asked(seal("12345"), request="decrypt", within=within)
    assert within.opened == [("ssn", SSN)]


def test_no_plaintext_token_or_key_stands_in_any_repr():
    secret = "secret-078-05-1120"
    places = [place("$.t", request="decrypt")]
    within = having_opened(places, f'"{secret}"', identity=ALICE)
    assert within.opened
    refused = request(places, b'{"t":"%s"}' % secret.encode(), within=within).refusal
    work = ValueWork(within)
    for thing in (within, work, work.report, refused, places, RING, RING.keys):
        for text in (repr(thing), str(thing), f"{thing!r:.1000}"):
            assert "secret" not in text
            assert "078" not in text


def test_no_plaintext_stands_in_what_the_flows_keep():
    body = b'{"ssn":"secret-1"}'
    plan = Plan.compile([place("$.ssn", request="encrypt")], Limits(100))
    rewritten = rewrite(body, plan._request, lambda place, value, where: value, unreadable="seal_failed")
    assert isinstance(rewritten, Rewritten)
    for thing in (rewritten, plan, plan.request_flow(exchange()), plan.response_flow(exchange(), "GET")):
        assert "secret" not in repr(thing)


@pytest.mark.parametrize("value", [b"x", b'"\xff"', b"\xef\xbb\xbf1"])
def test_no_plaintext_stands_in_an_exception(value):
    work = ValueWork(exchange())
    rule = place("$.ssn", request="decrypt").field
    token = seal(b"secret-" + value)
    with pytest.raises(TokenError) as raised:
        work._open(rule, token[1:-1])
    text = "".join(traceback.format_exception(raised.value))
    assert "secret-" not in text
    assert token[6:-1].decode() not in text


def test_an_exchange_with_its_keys_cannot_be_pickled_away():
    with pytest.raises(TypeError):
        pickle.dumps(Exchange(RING, NOW, None))
