"""The snapshot that requests use: states by the clock, what seals, what opens, and what it never tells."""

from __future__ import annotations

import copy
import pickle
from dataclasses import FrozenInstanceError, replace
from datetime import timedelta

import pytest
from encryption.rings import DELAY, KEK, RETIRE, RING, TICK, Clock, manager_of, rewrite
from hypothesis import given, settings
from hypothesis import strategies as st

from secmiddleware.encryption.document import KeyState
from secmiddleware.encryption.kek import Kek
from secmiddleware.encryption.keyring import Context
from secmiddleware.encryption.record import RECORD
from secmiddleware.encryption.root import Root, read_document
from secmiddleware.encryption.tokens import format_of, kid_of
from secmiddleware.errors import KeyringError, KeyUnknown, SealError, TokenError
from secmiddleware.rotation.stores import MemoryStore

SSN = Context("ssn")
AS_FERNET = Context("ssn", format="fernet")
AS_JWE = Context("ssn", format="jwe")
VALUE = b'"123-45-6789"'

SHARED = manager_of(MemoryStore(), Clock())
"""For the property tests, which may not take fixtures: one ring for all their examples."""
SHARED.start()

thorough = settings(deadline=None, max_examples=150)


@pytest.fixture
def rotated(manager, clock):
    """A ring of two keys, the second published an hour after the first and still PENDING."""
    clock.forward(hours=1)
    manager.rotate()
    return manager


# What a key is good for, to the tick.


def test_a_first_key_is_primary_at_once_and_even_for_a_clock_that_is_behind(manager, clock):
    (first,) = manager.keyring.keys
    for now in (clock.now, clock.now - timedelta(hours=5), clock.now + timedelta(days=5000)):
        assert manager.keyring.state_of(first.kid, now) is KeyState.PRIMARY


def test_states_change_at_their_exact_instants(rotated, clock):
    keyring, published = rotated.keyring, clock.now
    first, second = keyring.keys
    active = published + DELAY
    retired = active + RETIRE

    def states(now):
        return keyring.state_of(first.kid, now), keyring.state_of(second.kid, now)

    assert (second.activate_at, first.retire_at, second.retire_at) == (active, retired, None)
    assert states(published) == (KeyState.PRIMARY, KeyState.PENDING)
    assert states(active - TICK) == (KeyState.PRIMARY, KeyState.PENDING)
    assert states(active) == (KeyState.DECRYPT_ONLY, KeyState.PRIMARY)
    assert states(retired - TICK) == (KeyState.DECRYPT_ONLY, KeyState.PRIMARY)
    assert states(retired) == (KeyState.RETIRED, KeyState.PRIMARY)


def test_the_sealing_key_changes_at_the_instant_of_activation(rotated, clock):
    first, second = rotated.keyring.keys
    active = clock.now + DELAY
    assert kid_of(rotated.keyring.seal(VALUE, SSN, active - TICK)) == first.kid
    assert kid_of(rotated.keyring.seal(VALUE, SSN, active)) == second.kid


def test_the_state_of_a_key_that_the_ring_has_not_is_a_key_error(manager, clock):
    with pytest.raises(KeyError):
        manager.keyring.state_of("00000000", clock.now)


@pytest.mark.parametrize("context", [SSN, AS_FERNET, AS_JWE], ids=["aead", "fernet", "jwe"])
def test_a_value_opens_to_the_last_tick_before_its_key_retires(manager, clock, context):
    token = manager.keyring.seal(VALUE, context, clock.now)
    manager.rotate()
    retired = clock.now + DELAY + RETIRE
    keyring = manager.keyring
    for now in (clock.now, clock.now + DELAY, retired - TICK):
        assert keyring.open(token, context, now) == VALUE
    with pytest.raises(TokenError) as raised:
        keyring.open(token, context, retired)
    assert not isinstance(raised.value, KeyUnknown)


@pytest.mark.parametrize("context", [SSN, AS_FERNET, AS_JWE], ids=["aead", "fernet", "jwe"])
def test_a_pending_key_opens_for_a_writer_whose_clock_is_ahead(rotated, clock, context):
    token = rotated.keyring.seal(VALUE, context, clock.now + DELAY)
    assert rotated.keyring.open(token, context, clock.now) == VALUE


def test_an_old_snapshot_goes_on_sealing_with_what_it_knows(manager, clock):
    old = manager.keyring
    manager.rotate()
    clock.forward(DELAY)
    assert kid_of(old.seal(VALUE, SSN, clock.now)) == old.keys[0].kid
    assert manager.keyring.open(old.seal(VALUE, SSN, clock.now), SSN, clock.now) == VALUE


# What is distrusted.


def distrust(manager, store, kid):
    def step(document):
        keys = (replace(key, distrusted=key.distrusted or key.kid == kid) for key in document.keys)
        return replace(document, gen=document.gen + 1, keys=tuple(keys))

    rewrite(store, step)
    manager.look()


@pytest.mark.parametrize("context", [SSN, AS_FERNET, AS_JWE], ids=["aead", "fernet", "jwe"])
def test_nothing_opens_or_seals_with_a_distrusted_key_although_its_bytes_are_there(
    manager, store, clock, context
):
    token = manager.keyring.seal(VALUE, context, clock.now)
    (key,) = manager.keyring.keys
    distrust(manager, store, key.kid)
    (key,) = manager.keyring.keys
    assert key.distrusted
    assert key.wrapped is not None
    assert manager.keyring.state_of(key.kid, clock.now) is KeyState.PRIMARY
    with pytest.raises(TokenError) as raised:
        manager.keyring.open(token, context, clock.now)
    assert not isinstance(raised.value, KeyUnknown)
    with pytest.raises(SealError):
        manager.keyring.seal(VALUE, context, clock.now)


def test_a_distrusted_key_spoils_no_other(rotated, store, clock):
    old = rotated.keyring.seal(VALUE, SSN, clock.now)
    new = rotated.keyring.seal(VALUE, SSN, clock.now + DELAY)
    first, second = rotated.keyring.keys
    distrust(rotated, store, first.kid)
    now = clock.forward(DELAY)
    assert rotated.keyring.open(new, SSN, now) == VALUE
    assert kid_of(rotated.keyring.seal(VALUE, SSN, now)) == second.kid
    with pytest.raises(TokenError):
        rotated.keyring.open(old, SSN, now)


# Whose tokens open for whom.

BOUND = Context("ssn", tenant="spiffe://a.example", caller="spiffe://a.example/shop")


@pytest.mark.parametrize(
    "other",
    [
        replace(BOUND, tenant="spiffe://b.example"),
        replace(BOUND, caller="spiffe://a.example/admin"),
        replace(BOUND, tenant=""),
        replace(BOUND, caller=""),
        replace(BOUND, tenant="", caller=""),
        replace(BOUND, tenant=BOUND.caller, caller=BOUND.tenant),
        replace(BOUND, tenant=BOUND.tenant + BOUND.caller, caller=""),
        replace(BOUND, tenant=BOUND.tenant.upper()),
        replace(BOUND, tenant=BOUND.tenant + "\0"),
        replace(BOUND, field="iban"),
        replace(BOUND, purpose="probe"),
        Context("ssn"),
    ],
    ids=str,
)
def test_a_bound_token_opens_for_nobody_else(manager, clock, other):
    token = manager.keyring.seal(VALUE, BOUND, clock.now)
    assert manager.keyring.open(token, BOUND, clock.now) == VALUE
    with pytest.raises(TokenError):
        manager.keyring.open(token, other, clock.now)
    # And the other way round.
    token = manager.keyring.seal(VALUE, other, clock.now)
    with pytest.raises(TokenError):
        manager.keyring.open(token, BOUND, clock.now)


slot = st.text(st.characters(codec="utf-8"), max_size=6)


@thorough
@given(st.tuples(slot, slot, slot, slot), st.tuples(slot, slot, slot, slot))
def test_two_contexts_are_bound_alike_only_where_they_are_equal(one, other):
    assert (Context(*one).slots == Context(*other).slots) == (one == other)


def test_a_slot_that_is_no_text_cannot_be_bound():
    with pytest.raises(ValueError, match="surrogates"):
        Context("ssn", tenant="\ud800")


@pytest.mark.parametrize("name", ["tenant", "caller"])
def test_fernet_cannot_be_bound_to_anybody(name):
    with pytest.raises(ValueError, match="Fernet"):
        Context("ssn", format="fernet", **{name: "spiffe://a.example"})


def test_another_format_is_refused():
    with pytest.raises(ValueError, match="jws"):
        Context("ssn", format="jws")


def test_a_context_cannot_be_changed_after_it_was_checked():
    with pytest.raises(FrozenInstanceError):
        AS_FERNET.tenant = "spiffe://a.example"


def test_another_ring_opens_nothing_even_with_the_same_key(make, store, clock):
    manager = make()
    manager.start()
    token = manager.keyring.seal(VALUE, SSN, clock.now)
    document, root = read_document(store.read(RECORD).body, RING, Kek(KEK))
    (key,) = document.keys
    # Whoever holds the KEK puts the very key, under its id, into a ring of another name.
    there = Root.fresh("invoices", Kek(KEK))
    wrapped = there.wrap(key.kid, root.unwrap(key.kid, key.wrapped))
    twin = replace(document, ring="invoices", root=there.wrapped, keys=(replace(key, wrapped=wrapped),))
    elsewhere = MemoryStore()
    elsewhere.cas(RECORD, 0, there.write(twin))
    other = manager_of(elsewhere, clock, ring="invoices")
    other.start()
    assert other.keyring.open(other.keyring.seal(VALUE, SSN, clock.now), SSN, clock.now) == VALUE
    with pytest.raises(TokenError):
        other.keyring.open(token, SSN, clock.now)
    sealed_as_fernet = manager.keyring.seal(VALUE, AS_FERNET, clock.now)
    with pytest.raises(TokenError):
        other.keyring.open(sealed_as_fernet, AS_FERNET, clock.now)


# Formats.


def test_each_format_opens_its_own_tokens_only(manager, clock):
    for mine, other in ((SSN, AS_FERNET), (AS_FERNET, SSN)):
        token = manager.keyring.seal(VALUE, mine, clock.now)
        assert manager.keyring.open(token, mine, clock.now) == VALUE
        with pytest.raises(TokenError) as raised:
            manager.keyring.open(token, other, clock.now)
        assert not isinstance(raised.value, KeyUnknown)


def test_fernet_is_tried_with_the_newest_key_first(manager, clock):
    for _ in range(3):
        clock.forward(DELAY)
        manager.rotate()
    keyring, tried = manager.keyring, []

    class Watched:
        def __init__(self, kid, cipher):
            self.kid, self.cipher = kid, cipher

        def open(self, token):
            tried.append(self.kid)
            return self.cipher.open(token)

    token = keyring.seal(VALUE, AS_FERNET, clock.now)
    for entry in keyring.keys:
        key = keyring.secret_of(entry.kid)
        key._fernets = {("ssn", "field"): Watched(entry.kid, key.fernet(AS_FERNET))}
    assert keyring.open(token, AS_FERNET, clock.now) == VALUE
    newest_first = [entry.kid for entry in reversed(keyring.keys)]
    # The newest is PENDING, the one that sealed stands behind it; nothing older is asked.
    assert tried == newest_first[:2]


def test_a_ring_tells_apart_a_token_of_a_key_that_it_never_had(manager, make, clock):
    stranger = manager_of(MemoryStore(), clock)
    stranger.start()
    token = stranger.keyring.seal(VALUE, SSN, clock.now)
    with pytest.raises(KeyUnknown):
        manager.keyring.open(token, SSN, clock.now)


@thorough
@given(value=st.binary(max_size=300), aead=st.booleans())
def test_what_was_sealed_opens_byte_for_byte_and_every_token_is_another(value, aead):
    keyring, now = SHARED.keyring, SHARED._clock()
    context = SSN if aead else AS_FERNET
    one, two = (keyring.seal(value, context, now) for _ in range(2))
    assert one != two
    assert format_of(one) == context.format
    assert keyring.open(one, context, now) == keyring.open(two, context, now) == value


@thorough
@given(st.data())
def test_no_changed_token_opens(data):
    keyring, now = SHARED.keyring, SHARED._clock()
    context = data.draw(st.sampled_from([SSN, AS_FERNET]))
    token = keyring.seal(VALUE, context, now)
    at = data.draw(st.integers(0, len(token) - 1))
    changed = token[:at] + data.draw(st.binary(max_size=2)) + token[at + data.draw(st.integers(0, 1)) :]
    if changed != token:
        with pytest.raises(TokenError):
            keyring.open(changed, context, now)


@thorough
@given(st.binary(max_size=200) | st.binary(max_size=120).map(lambda tail: b"sm1." + tail))
def test_no_bytes_at_all_bring_anything_but_a_token_error(token):
    for context in (SSN, AS_FERNET):
        with pytest.raises(TokenError):
            SHARED.keyring.open(token, context, SHARED._clock())


# What a snapshot never does.


@pytest.mark.parametrize("name", ["document", "ring", "gen", "keys"])
def test_a_snapshot_cannot_be_changed(manager, name):
    with pytest.raises(AttributeError):
        setattr(manager.keyring, name, None)
    with pytest.raises(AttributeError):
        manager.keyring.note = "slots leave no room"


def test_what_a_snapshot_says_of_its_keys_cannot_be_changed(manager):
    with pytest.raises(FrozenInstanceError):
        manager.keyring.keys[0].distrusted = False
    with pytest.raises(FrozenInstanceError):
        manager.keyring.document.gen = 99


def secret_bytes(manager, store):
    """Everything that opens something: the KEK, the root, the ring keys."""
    document, root = read_document(store.read(RECORD).body, RING, Kek(KEK))
    return [
        KEK,
        Kek(KEK).unwrap(document.root, b"secmw/root/v1" + len(RING).to_bytes(4, "big") + RING.encode()),
        *(root.unwrap(key.kid, key.wrapped) for key in document.keys),
    ]


def parts_of(manager):
    keyring = manager.keyring
    key = keyring.secret_of(keyring.keys[0].kid)
    return {
        "manager": manager,
        "keyring": keyring,
        "document": keyring.document,
        "entry": keyring.keys[0],
        "key": key,
        "suite": key.suite_1,
        "fernet": key.fernet(AS_FERNET),
        "jwe": key.jwe,
        "root": manager._record._root,
        "kek": Kek(KEK),
        "status": manager.status(),
    }


def test_no_repr_shows_a_secret_nor_what_is_wrapped(rotated, store):
    shown = [*secret_bytes(rotated, store), rotated.keyring.document.root]
    shown += [key.wrapped for key in rotated.keyring.keys]
    for part in parts_of(rotated).values():
        for text in (repr(part), str(part)):
            for secret in shown:
                assert secret.hex() not in text
                assert repr(secret)[2:-1] not in text


@pytest.mark.parametrize("name", ["manager", "keyring", "key", "suite", "fernet", "jwe", "root", "kek"])
def test_nothing_that_holds_a_secret_can_be_pickled_or_copied(manager, name):
    part = parts_of(manager)[name]
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        with pytest.raises((TypeError, pickle.PicklingError)):
            pickle.dumps(part, protocol)
    with pytest.raises(TypeError):
        copy.deepcopy(part)


def test_no_refusal_to_open_names_a_key_or_quotes_a_token(manager, clock):
    token = manager.keyring.seal(VALUE, SSN, clock.now)
    stranger = manager_of(MemoryStore(), clock)
    stranger.start()
    for keyring in (manager.keyring, stranger.keyring):
        with pytest.raises(TokenError) as raised:
            keyring.open(token, Context("iban"), clock.now)
        for told in (kid_of(token), token.decode(), "iban", "tag", "mac"):
            assert told not in str(raised.value).lower()


# Limits.


def test_a_destroyed_key_opens_nothing_and_is_not_unknown(manager, clock):
    token = manager.keyring.seal(VALUE, SSN, clock.now)
    as_fernet = manager.keyring.seal(VALUE, AS_FERNET, clock.now)
    (first,) = manager.keyring.keys
    manager.rotate()
    clock.forward(DELAY + RETIRE)
    manager.destroy(first.kid)
    assert manager.keyring.secret_of(first.kid) is None
    for sealed, context in ((token, SSN), (as_fernet, AS_FERNET)):
        with pytest.raises(TokenError) as raised:
            manager.keyring.open(sealed, context, clock.now)
        assert not isinstance(raised.value, KeyUnknown)


@pytest.mark.parametrize("name", ["", "-x", "a b", "ü", "x" * 129, "a\n", "../ring"])
def test_a_name_that_no_ring_may_have_is_refused(make, name):
    with pytest.raises(KeyringError):
        make(ring=name)
