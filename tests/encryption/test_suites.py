"""The suites beside each other: their keys, what they spend, whose tokens are equal, whence nonces come."""

from __future__ import annotations

import base64
import binascii
import copy
import pickle
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta

import pytest
from cryptography.fernet import Fernet, MultiFernet
from encryption.rings import DELAY, RETIRE, Clock, manager_of, started, stored, tended
from hypothesis import given, settings
from hypothesis import strategies as st
from rotation.processes import outputs

from secmiddleware.encryption import derivation, suites
from secmiddleware.encryption.fernet import ListedFernet
from secmiddleware.encryption.keyring import Context, RingKey
from secmiddleware.encryption.suites import Nonces
from secmiddleware.encryption.tokens import format_of, kid_of, spell, unspell
from secmiddleware.encryption.uses import FIRST_BLOCK
from secmiddleware.errors import KeyUnknown, SealError, TokenError
from secmiddleware.rotation.stores import MemoryStore

VALUE = b'"123-45-6789"'
AEAD, XAES, SIV = (Context("ssn", format=name) for name in ("aead", "xaes", "deterministic"))
SUITES = pytest.mark.parametrize("context", [AEAD, XAES, SIV], ids=lambda context: context.format)

SHARED = manager_of(MemoryStore(), Clock())
"""For the property tests, which may not take fixtures: one ring for all their examples."""
SHARED.start()

thorough = settings(deadline=None, max_examples=150)


# Formats.


@thorough
@given(value=st.binary(max_size=300), context=st.sampled_from([XAES, SIV]))
def test_what_was_sealed_opens_byte_for_byte(value, context):
    keyring, now = SHARED.keyring, SHARED._clock()
    token = keyring.seal(value, context, now)
    assert format_of(token) == context.format
    assert kid_of(token) == keyring.primary(now).kid
    assert keyring.open(token, context, now) == value


@thorough
@given(st.data())
def test_no_changed_token_opens(data):
    keyring, now = SHARED.keyring, SHARED._clock()
    context = data.draw(st.sampled_from([AEAD, XAES, SIV]))
    token = keyring.seal(VALUE, context, now)
    at = data.draw(st.integers(0, len(token) - 1))
    changed = token[:at] + data.draw(st.binary(max_size=2)) + token[at + data.draw(st.integers(0, 1)) :]
    if changed != token:
        with pytest.raises(TokenError):
            keyring.open(changed, context, now)


@settings(deadline=None, max_examples=1000)
@given(
    st.text("AQgw-_+/=.\n ü\0", max_size=12) | st.binary(max_size=12).map(lambda raw: spell(raw)[4:].decode())
)
def test_a_text_is_read_exactly_where_it_is_what_its_bytes_are_spelled_as(text):
    data = b"sm1." + text.encode()
    try:
        raw = unspell(data)
    except TokenError:
        raw = None
    # As docs/token-format.md has it: decode leniently, encode again and compare.
    try:
        lenient = base64.urlsafe_b64decode(data[4:] + b"==")
    except binascii.Error:
        lenient = b""
    canonical = base64.urlsafe_b64encode(lenient).rstrip(b"=") == data[4:] != b""
    assert raw == (lenient if canonical else None)


@SUITES
@pytest.mark.parametrize("due", [AEAD, XAES, SIV, Context("ssn", format="fernet")], ids=lambda c: c.format)
def test_a_token_opens_as_its_own_format_only(manager, clock, context, due):
    token = manager.keyring.seal(VALUE, context, clock.now)
    if due == context:
        assert manager.keyring.open(token, due, clock.now) == VALUE
        return
    with pytest.raises(TokenError) as raised:
        manager.keyring.open(token, due, clock.now)
    assert not isinstance(raised.value, KeyUnknown)
    # Nor where its first byte says that it is what is due: every suite has a key of its own.
    raw = unspell(manager.keyring.seal(VALUE, due, clock.now)) if due.format != "fernet" else b""
    if raw:
        with pytest.raises(TokenError):
            manager.keyring.open(spell(raw[:1] + unspell(token)[1:]), due, clock.now)


@SUITES
def test_a_token_of_a_key_that_the_ring_never_had_is_told_apart(make, clock, context):
    stranger = manager_of(MemoryStore(), clock)
    stranger.start()
    token = stranger.keyring.seal(VALUE, context, clock.now)
    with pytest.raises(KeyUnknown):
        started(make).keyring.open(token, context, clock.now)


@SUITES
def test_a_value_opens_to_the_last_tick_before_its_key_retires(manager, clock, context):
    token = manager.keyring.seal(VALUE, context, clock.now)
    manager.rotate()
    retired = clock.now + DELAY + RETIRE
    assert manager.keyring.open(token, context, retired - timedelta(microseconds=1)) == VALUE
    with pytest.raises(TokenError):
        manager.keyring.open(token, context, retired)


def test_every_use_of_a_ring_key_has_a_key_of_its_own(monkeypatch):
    made = []

    def watched(secret, label, *parts, length=32):
        made.append(derivation.derive(secret, label, *parts, length=length))
        return made[-1]

    monkeypatch.setattr(suites, "derive", watched)
    key = RingKey("payments", "12345678", bytes(range(32)), ration=None)
    contexts = [
        Context("a", "b", "c"),
        Context("ab", "", "c"),
        Context("a", "b", "cd"),
        Context("x", "b", "c"),
    ]
    ciphers = [key.suite_1, key.suite_2, *(key.suite_3(context) for context in contexts)]
    assert len({id(cipher) for cipher in ciphers}) == 6
    halves = [made[0], made[1], *(half for found in made[2:] for half in (found[:32], found[32:]))]
    assert len(made) == 6
    assert len(set(halves)) == 10
    # They are made once.
    assert key.suite_2 is key.suite_2
    assert key.suite_3(contexts[0]) is ciphers[2]
    assert len(made) == 6


def test_ciphers_of_many_tenants_are_not_kept_for_ever():
    keyring, now = SHARED.keyring, SHARED._clock()
    key = keyring.secret_of(keyring.primary(now).kid)
    for number in range(600):
        key.suite_3(Context("ssn", tenant=f"t{number}", format="deterministic"))
        assert len(key._sivs) <= 256


# Whose tokens are equal.

slot = st.text(st.characters(codec="utf-8"), max_size=3)
place = st.tuples(st.sampled_from(["ssn", "iban"]), st.just("field"), slot, slot)


@thorough
@given(place, place, st.binary(max_size=40), st.binary(max_size=40))
def test_equal_values_have_equal_tokens_only_in_one_context_and_under_one_key(one, other, value, second):
    keyring, now = SHARED.keyring, SHARED._clock()
    here, there = (Context(*slots, format="deterministic") for slots in (one, other))
    same = (here, value) == (there, second)
    assert (keyring.seal(value, here, now) == keyring.seal(second, there, now)) == same


def test_equal_values_differ_behind_the_synthetic_iv_too(manager, clock):
    """Not only by associated data: another field or tenant has another key."""
    found = {
        unspell(manager.keyring.seal(VALUE, context, clock.now))[5:]
        for context in (SIV, replace(SIV, field="iban"), replace(SIV, tenant="a"), replace(SIV, caller="a"))
    }
    assert len(found) == 4


def test_equality_tokens_are_those_of_every_key_that_opens_the_newest_first(make, clock):
    manager = started(make)
    sealed = [manager.seal("ssn", VALUE, tenant="a", format="deterministic")]
    for _ in range(3):
        manager.rotate()
        clock.forward(DELAY)
        sealed.append(manager.seal("ssn", VALUE, tenant="a", format="deterministic"))
    assert manager.equality_tokens("ssn", VALUE, tenant="a") == tuple(reversed(sealed))
    assert set(manager.equality_tokens("ssn", VALUE, tenant="b")).isdisjoint(sealed)
    assert set(manager.equality_tokens("iban", VALUE, tenant="a")).isdisjoint(sealed)
    assert set(manager.equality_tokens("ssn", VALUE, caller="a")).isdisjoint(sealed)
    assert set(manager.equality_tokens("ssn", VALUE + b" ", tenant="a")).isdisjoint(sealed)
    # A key that waits opens already: a process whose clock is ahead may have sealed with it.
    manager.rotate()
    assert manager.equality_tokens("ssn", VALUE, tenant="a")[1:] == tuple(reversed(sealed))
    # What has retired opens no more, and is not searched for.
    clock.forward(DELAY + RETIRE)
    (only,) = manager.equality_tokens("ssn", VALUE, tenant="a")
    assert only not in sealed
    assert manager.open("ssn", only, tenant="a", format="deterministic") == VALUE


@pytest.mark.parametrize(
    "context",
    [AEAD, XAES, Context("ssn", format="fernet"), Context("ssn", format="jwe")],
    ids=lambda c: c.format,
)
def test_only_deterministic_tokens_can_be_searched_for(manager, clock, context):
    with pytest.raises(ValueError, match="deterministic"):
        manager.keyring.equality_tokens(VALUE, context, clock.now)


# What they spend.


def test_suites_two_and_three_take_no_uses_and_are_not_out_of_them(make, store):
    manager = tended(make, first_block=1)
    for _ in range(3):
        manager.seal("ssn", VALUE, format="xaes")
        manager.seal("ssn", VALUE, format="deterministic")
    manager.equality_tokens("ssn", VALUE)
    assert manager.status()["keys"][0]["uses_left_here"] == 1
    assert stored(store).keys[0].uses == 1
    manager.seal("ssn", VALUE)
    with pytest.raises(SealError):
        manager.seal("ssn", VALUE)
    manager.seal("ssn", VALUE, format="xaes")


def test_every_seal_of_suite_one_takes_a_use(make):
    manager = started(make)
    for _ in range(3):
        manager.seal("ssn", VALUE)
    assert manager.status()["keys"][0]["uses_left_here"] == FIRST_BLOCK - 3


# Whence nonces come.


def test_a_nonce_is_given_out_once():
    nonces = Nonces()
    found = [nonces.take() for _ in range(10_000)]
    assert {len(nonce) for nonce in found} == {12}
    assert len(set(found)) == 10_000
    # And every bit of it is drawn: none is the same in all.
    every, none = (1 << 96) - 1, 0
    for nonce in found:
        every &= int.from_bytes(nonce, "big")
        none |= int.from_bytes(nonce, "big")
    assert (every, none) == (0, (1 << 96) - 1)


def test_threads_are_never_given_the_same_nonce():
    nonces = Nonces()
    with ThreadPoolExecutor(8) as threads:
        found = list(threads.map(lambda _: [nonces.take() for _ in range(2000)], range(8)))
    counts = Counter(nonce for part in found for nonce in part)
    assert len(counts) == 16_000


FORKING = """
import os, sys
from encryption.rings import Clock, manager_of
from secmiddleware.encryption.keyring import Context
from secmiddleware.encryption.suites import random_nonces
from secmiddleware.encryption.tokens import unspell
from secmiddleware.rotation.stores import MemoryStore

manager = manager_of(MemoryStore(), Clock())
manager.start()

def drawn():
    found = [random_nonces.take().hex() for _ in range(30)]
    xaes = (unspell(manager.seal("ssn", b"1", format="xaes").encode())[5:29].hex() for _ in range(30))
    return " ".join([*found, *xaes])

random_nonces.take()  # some of what was drawn together are left
read, write = os.pipe()
if os.fork() == 0:
    os.write(write, drawn().encode())
    os._exit(0)
os.wait()
os.close(write)
print(os.read(read, 1 << 16).decode())
print(drawn())
"""


def test_the_child_of_a_fork_draws_other_nonces_than_its_parent():
    ((child, parent),) = outputs(FORKING)
    assert len({*child.split(), *parent.split()}) == 120


def test_nonces_that_wait_are_not_written_down():
    nonces = Nonces()
    nonces.take()
    for write in (pickle.dumps, copy.deepcopy):
        with pytest.raises(TypeError):
            write(nonces)


# Fernet from elsewhere.


def test_tokens_of_multifernet_open_under_whichever_of_its_keys_sealed_them():
    keys = [Fernet.generate_key() for _ in range(3)]
    listed = ListedFernet(key.decode() for key in keys)
    for token in (
        MultiFernet(list(map(Fernet, keys))).encrypt(b"123-45-6789"),
        *(Fernet(key).encrypt(b"123-45-6789") for key in keys),
        MultiFernet(list(map(Fernet, keys))).rotate(Fernet(keys[2]).encrypt(b"123-45-6789")),
        Fernet(keys[1]).encrypt_at_time(b"123-45-6789", 0),  # of whatever age
    ):
        assert listed.open(token) == b"123-45-6789"
    assert listed.open(Fernet(Fernet.generate_key()).encrypt(b"123-45-6789")) is None


def test_a_foreign_fernet_token_has_one_spelling():
    key = Fernet.generate_key()
    listed = ListedFernet([key.decode()])
    token = Fernet(key).encrypt(b"1")
    assert token.endswith(b"=")
    for other in (
        token.rstrip(b"="),
        token + b"=",
        token + b"\n",
        b" " + token,
        token[:9] + b"\n" + token[9:],
        b"",
    ):
        with pytest.raises(TokenError):
            listed.open(other)
    turned = b"A" if token[20:21] != b"A" else b"B"
    assert listed.open(token[:20] + turned + token[21:]) is None


def test_listed_keys_are_told_and_written_down_nowhere():
    key = base64.urlsafe_b64encode(bytes(range(32))).decode()
    listed = ListedFernet([key])
    assert repr(listed) == "ListedFernet(1 keys)"
    for write in (pickle.dumps, copy.deepcopy):
        with pytest.raises(TypeError):
            write(listed)
