"""The ring document: what a reader takes for one, what it refuses, and the steps from one to the next."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from encryption.rings import DELAY, KEK, RETIRE, RING, TICK, stored
from hypothesis import given, settings
from hypothesis import strategies as st

from secmiddleware.encryption.document import (
    MAX_BYTES,
    MAX_GEN,
    MAX_KEYS,
    KeyState,
    canonical,
    first_document,
    parse,
    show_time,
)
from secmiddleware.encryption.kek import Kek
from secmiddleware.encryption.record import RECORD
from secmiddleware.encryption.root import Root, read_document
from secmiddleware.encryption.uses import USES_LIMIT
from secmiddleware.errors import KeyringError

NOW = datetime(2026, 6, 1, 12, tzinfo=UTC)
ROOT = Root.fresh(RING, Kek(KEK))


def fresh(ring=RING, root=ROOT):
    return first_document(ring, root.wrapped, "00000001", root.wrap("00000001", bytes(32)), uses=7, now=NOW)


def grown(keys=4):
    """A ring of several keys, the newest PENDING, the oldest destroyed."""
    document, now = fresh(), NOW
    for number in range(2, keys):
        now += DELAY
        document = with_key(document, number, now)
    now += RETIRE
    document = document.without_secret("00000001", now)
    return with_key(document, keys, now), now


def with_key(document, number, now, delay=DELAY, uses=7):
    kid = f"{number:08x}"
    return document.with_key(
        kid, ROOT.wrap(kid, bytes(32)), uses=uses, now=now, delay=delay, retire_after=RETIRE
    )


def read(body, ring=RING):
    return read_document(body, ring, Kek(KEK))[0]


BODY = ROOT.write(grown()[0])


def test_what_was_written_is_read_as_it_was():
    document, _ = grown()
    assert read(ROOT.write(document)) == document


def test_a_document_is_small_and_ascii():
    assert BODY.isascii()
    assert len(BODY) < 500 * len(grown()[0].keys)


# Forged, byte by byte.


def spans():
    """Every byte of a document, by what it is part of."""
    text, found = BODY.decode(), {}
    loaded = json.loads(text)
    for name in ("ring", "issued_at", "root", "mac"):
        found[name] = [text.index(json.dumps(loaded[name]), text.index(f'"{name}"')) + 1, len(loaded[name])]
    found["gen"] = [text.index('"gen":') + 6, len(str(loaded["gen"]))]
    for index, key in enumerate(loaded["keys"]):
        where = text.index("".join(json.dumps(key, sort_keys=True, separators=(",", ":"))))
        for name, value in key.items():
            shown = json.dumps(value)
            found[f"keys[{index}].{name}"] = [text.index(f'"{name}":', where) + len(name) + 3, len(shown)]
    return found


@pytest.mark.parametrize(("at", "length"), spans().values(), ids=spans())
def test_a_flipped_byte_anywhere_in_a_member_is_noticed(at, length):
    for place in range(at, at + length):
        for mask in (0x01, 0x20, 0x80):
            forged = bytearray(BODY)
            forged[place] ^= mask
            with pytest.raises(KeyringError):
                read(bytes(forged))


@settings(deadline=None, max_examples=300)
@given(at=st.integers(0, len(BODY) - 1), cut=st.integers(0, 3), put=st.binary(max_size=3))
def test_whatever_is_spliced_in_is_refused_or_says_the_same(at, cut, put):
    forged = BODY[:at] + put + BODY[at + cut :]
    try:
        found = read(forged)
    except KeyringError:
        return
    # White space between members, a letter as an escape: another spelling, not another document.
    assert found == read(BODY)


@pytest.mark.parametrize("length", [*range(0, len(BODY) - 1, 97), len(BODY) - 2])
def test_a_truncated_document_is_refused(length):
    with pytest.raises(KeyringError):
        read(BODY[:length])


def test_a_document_under_another_kek_is_refused():
    with pytest.raises(KeyringError, match="kek"):
        read_document(BODY, RING, Kek(bytes(range(100, 132))))


def test_a_document_of_another_ring_is_refused_even_under_the_same_kek():
    other = Root.fresh("invoices", Kek(KEK))
    body = other.write(fresh("invoices", other))
    assert read(body, "invoices").ring == "invoices"
    with pytest.raises(KeyringError, match="invoices"):
        read(body)
    with pytest.raises(KeyringError):
        read(body.replace(b'"invoices"', b'"payments"'))


def test_the_root_of_another_ring_is_no_root_of_this_one():
    other = Root.fresh("invoices", Kek(KEK))
    with pytest.raises(KeyringError):
        Root.opened(RING, Kek(KEK), other.wrapped)


def test_a_root_that_was_opened_before_vouches_for_its_own_documents_only():
    stranger = Root.fresh(RING, Kek(KEK))
    for root in (stranger.wrapped, b"nothing that opens under the key-encryption key"):
        with pytest.raises(KeyringError):
            read_document(ROOT.write(replace(fresh(), root=root)), RING, Kek(KEK), known=ROOT)
    with pytest.raises(KeyringError, match="MAC"):
        read_document(
            stranger.write(fresh()), RING, Kek(KEK), known=ROOT
        )  # signed by another root than the one it names


def test_a_key_that_is_wrapped_as_another_does_not_unwrap():
    wrapped = ROOT.wrap("00000001", bytes(32))
    assert ROOT.unwrap("00000001", wrapped) == bytes(32)
    for kid, data in (("00000002", wrapped), ("00000001", wrapped[:-1]), ("00000001", wrapped + b"\0")):
        with pytest.raises(KeyringError):
            ROOT.unwrap(kid, data)


# Forms that a lenient reader would take.


def changed(**members):
    """The document with members set, and the MAC of the original."""
    return json.dumps(json.loads(BODY) | members).encode()


def key_changed(**members):
    keys = json.loads(BODY)["keys"]
    return changed(keys=[*keys[:-1], keys[-1] | members])


MALFORMED = {
    "nothing": b"",
    "white space": b" \n",
    "null": b"null",
    "a list": b"[]",
    "a text": b'"ring"',
    "not UTF-8": BODY.replace(b"payments", b"p\xffyments"),
    "UTF-16": BODY.decode().encode("utf-16"),
    "a byte order mark": b"\xef\xbb\xbf" + BODY,
    "two documents": BODY + BODY,
    "a comma at the end": BODY.replace(b"}\n", b",}\n"),
    "deep nesting": b"[" * 100_000 + b"]" * 100_000,
    "too large": b" " * (MAX_BYTES - len(BODY) + 1) + BODY,
    "a doubled member": BODY.replace(b'"gen":', b'"gen":1,"gen":', 1),
    "a doubled member in a key": BODY.replace(b'"uses":', b'"uses":1,"uses":', 1),
    "a member too many": changed(note=""),
    "a member too many in a key": key_changed(note=""),
    "a member missing": json.dumps({k: v for k, v in json.loads(BODY).items() if k != "mac"}).encode(),
    "gen as a float": changed(gen=5.0),
    "gen as a text": changed(gen="5"),
    "gen as true": changed(gen=True),
    "gen as NaN": BODY.replace(b'"gen":5', b'"gen":NaN'),
    "gen with an exponent": BODY.replace(b'"gen":5', b'"gen":5e0'),
    "gen of ten thousand digits": BODY.replace(b'"gen":5', b'"gen":' + b"5" * 10_000),
    "gen zero": changed(gen=0),
    "gen below zero": changed(gen=-1),
    "gen too large": changed(gen=MAX_GEN + 1),
    "keys as an object": changed(keys={}),
    "no keys": changed(keys=[]),
    "keys that are no objects": changed(keys=[1]),
    "more keys than there may be": changed(keys=[{}] * (MAX_KEYS + 1)),
    "ring as a number": changed(ring=1),
    "ring with a line end": changed(ring="payments\n"),
    "a time without its digits": changed(issued_at="2026-06-01T12:00:00Z"),
    "a time in another zone": changed(issued_at="2026-06-01T12:00:00.000000+00:00"),
    "a time in other digits": changed(issued_at="２026-06-01T12:00:00.000000Z"),
    "a day that is none": changed(issued_at="2026-02-30T12:00:00.000000Z"),
    "a time as a number": changed(issued_at=1780315200),
    "a time before there was such a thing": changed(issued_at="1970-01-01T00:00:00.000000Z"),
    "a time after everything": changed(issued_at="9999-12-31T23:59:59.999999Z"),
    "no root": changed(root=""),
    "a root with padding": changed(root=json.loads(BODY)["root"] + "="),
    "a root in the alphabet of base64": changed(root="++++"),
    "a root that is not ASCII": changed(root="ü" * 80),
    "a root of one letter": changed(root="A"),
    "a mac of null": changed(mac=None),
    "a kid in capitals": key_changed(kid="0000000A"),
    "a kid that is short": key_changed(kid="0004"),
    "a kid as a number": key_changed(kid=4),
    "a kid twice": key_changed(kid="00000003"),
    "uses below zero": key_changed(uses=-1),
    "uses over the limit": key_changed(uses=USES_LIMIT + 1),
    "uses as true": key_changed(uses=True),
    "distrusted as 0": key_changed(distrusted=0),
    "distrusted as null": key_changed(distrusted=None),
    "a living key without its bytes": key_changed(wrapped=None),
    "destroyed and not retired": key_changed(wrapped=None, destroyed_at=show_time(NOW + 2 * RETIRE)),
    "destroyed with its bytes": key_changed(destroyed_at=show_time(NOW)),
    "the newest key with an end": key_changed(retire_at=show_time(NOW + 4 * RETIRE)),
    "the keys in another order": changed(keys=json.loads(BODY)["keys"][::-1]),
}


@pytest.mark.parametrize("body", MALFORMED.values(), ids=MALFORMED)
def test_what_is_not_exactly_a_ring_document_is_refused_before_its_mac_is_looked_at(body):
    with pytest.raises(KeyringError) as raised:
        parse(body)
    assert "not valid" in str(raised.value)


def test_a_refusal_quotes_nothing_but_key_ids():
    for body in MALFORMED.values():
        with pytest.raises(KeyringError) as raised:
            parse(body)
        assert len(str(raised.value)) < 200
        for key in json.loads(BODY)["keys"]:
            assert key["wrapped"] is None or key["wrapped"] not in str(raised.value)


def test_the_mac_is_over_every_member():
    document, _ = grown()
    *others, last = document.keys
    for other in (
        replace(document, gen=document.gen + 1),
        replace(document, issued_at=document.issued_at + TICK),
        replace(document, root=b"another"),
        replace(document, keys=(*others, replace(last, uses=last.uses + 1))),
        replace(document, keys=(*others, replace(last, activate_at=last.activate_at + TICK))),
        replace(document, keys=(*others, replace(last, distrusted=True))),
        replace(document, keys=(*others, replace(last, wrapped=b"another"))),
    ):
        assert canonical(other) != canonical(document)
        with pytest.raises(KeyringError, match="MAC"):
            ROOT.check(other, parse(ROOT.write(document))[1])


# Steps.


def test_invariant_4_a_second_key_while_one_is_pending_is_refused():
    document = with_key(fresh(), 2, NOW)
    with pytest.raises(KeyringError, match="pending until"):
        with_key(document, 3, NOW + DELAY - TICK)
    assert len(with_key(document, 3, NOW + DELAY).keys) == 3


def test_invariant_4_a_document_with_two_pending_keys_is_no_document():
    document = with_key(with_key(fresh(), 2, NOW), 3, NOW + DELAY)
    *others, last = document.keys
    with pytest.raises(KeyringError, match="pending at once"):
        replace(document, keys=(*others, replace(last, created_at=NOW + DELAY - TICK)))


def test_invariant_6_only_a_retired_key_is_destroyed_and_its_bytes_are_gone():
    document = with_key(fresh(), 2, NOW)
    retired = NOW + DELAY + RETIRE
    for kid, now in (
        ("00000001", NOW),  # PRIMARY
        ("00000002", NOW),  # PENDING
        ("00000001", retired - TICK),  # DECRYPT_ONLY
        ("00000002", retired),  # PRIMARY
        ("00000009", retired),  # nobody
    ):
        with pytest.raises(KeyringError):
            document.without_secret(kid, now)
    bytes_before = json.loads(ROOT.write(document))["keys"][0]["wrapped"]
    destroyed = document.without_secret("00000001", retired)
    assert bytes_before not in ROOT.write(destroyed).decode()
    assert destroyed.state_of(destroyed.keys[0], retired) is KeyState.DESTROYED
    # And for a clock that is behind as well: destroyed is not a matter of time.
    assert destroyed.state_of(destroyed.keys[0], NOW) is KeyState.DESTROYED
    with pytest.raises(KeyringError):
        destroyed.without_secret("00000001", retired)


def test_every_step_is_one_generation_and_never_goes_back_in_time():
    document, now = grown()
    past = now - timedelta(days=1000)
    for step in (
        document.reissued(past),
        document.with_uses("00000004", 5, past),
        document.postponed("00000004", now + 2 * DELAY, past),
        document.postponed("00000003", now + 2 * DELAY, past),
    ):
        assert step.gen == document.gen + 1
        assert step.issued_at == document.issued_at


def test_a_key_may_be_reserved_to_its_limit_and_not_once_more():
    document = fresh().with_uses("00000001", USES_LIMIT - 7, NOW)
    assert document.keys[0].uses == USES_LIMIT
    with pytest.raises(KeyringError, match="used up"):
        document.with_uses("00000001", 1, NOW)
    with pytest.raises(KeyringError, match="no key"):
        document.with_uses("00000009", 1, NOW)


def test_a_key_that_is_published_late_is_put_off_with_the_end_of_the_one_before():
    document = with_key(fresh(), 2, NOW)
    late = document.postponed("00000002", NOW + 3 * DELAY, NOW + 2 * DELAY)
    first, second = late.keys
    assert (second.activate_at, first.retire_at) == (NOW + 3 * DELAY, NOW + 3 * DELAY + RETIRE)
    assert late.state_of(second, NOW + 3 * DELAY - TICK) is KeyState.PENDING


def test_with_no_delay_at_all_two_rotations_in_one_tick_still_have_an_order():
    document = with_key(with_key(fresh(), 2, NOW, timedelta()), 3, NOW + TICK, timedelta())
    instants = [key.activate_at for key in document.keys]
    assert instants == sorted(set(instants))
    assert read(ROOT.write(document)) == document


def test_a_full_ring_can_still_be_written_read_and_tended_but_not_rotated():
    document, now = fresh(), NOW
    for number in range(2, MAX_KEYS + 1):
        now += DELAY
        document = with_key(document, number, now)
    body = ROOT.write(document)
    assert len(body) < MAX_BYTES // 2
    assert read(body).with_uses(f"{MAX_KEYS:08x}", 1, now).gen == document.gen + 1
    with pytest.raises(KeyringError, match=str(MAX_KEYS)):
        with_key(document, MAX_KEYS + 1, now + DELAY)


def test_the_same_kid_twice_is_refused():
    with pytest.raises(KeyringError, match="same kid"):
        with_key(fresh(), 1, NOW)


def test_the_next_change_is_the_first_instant_at_which_a_state_changes():
    document = with_key(fresh(), 2, NOW)
    assert document.next_change(NOW) == NOW + DELAY
    assert document.next_change(NOW + DELAY - TICK) == NOW + DELAY
    assert document.next_change(NOW + DELAY) == NOW + DELAY + RETIRE
    assert document.next_change(NOW + DELAY + RETIRE) is None


def test_a_store_holds_the_document_and_its_name_is_ring(manager, store):
    assert RECORD == "ring"
    assert stored(store) == manager.keyring.document
