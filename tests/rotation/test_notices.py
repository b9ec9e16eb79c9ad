"""Notices: what they are made of, and that nothing else is taken for one."""

from __future__ import annotations

import base64
import hmac
import json
import pickle
from datetime import datetime, timedelta

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from encryption.rings import KEK, RING, Clock, manager_of
from hypothesis import given
from hypothesis import strategies as st

from secmiddleware.encryption.document import MAX_GEN
from secmiddleware.encryption.kek import Kek
from secmiddleware.errors import KeyringError
from secmiddleware.rotation import notices
from secmiddleware.rotation.notices import Dropped, Notice, NoticeReader, write_notice
from secmiddleware.rotation.stores import MemoryStore


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def store():
    return MemoryStore()


@pytest.fixture
def manager(store, clock):
    manager = manager_of(store, clock)
    manager.start()
    return manager


@pytest.fixture
def reader(manager):
    return NoticeReader(RING, manager.mac_of_notice)


@pytest.fixture
def write(manager, clock):
    """An authentic notice, with some of its members exchanged before it is signed."""

    def made(ring=RING, record="ring", gen=7, now=None, mac=manager.mac_of_notice):
        return write_notice(ring, record, gen, now or clock.now, mac)

    return made


def changed(body, **members):
    loaded = json.loads(body) | members
    return json.dumps({name: value for name, value in loaded.items() if value is not None}).encode()


def test_what_one_process_writes_another_reads(store, clock, write):
    other = manager_of(store, clock)
    other.start()
    reader = NoticeReader(RING, other.mac_of_notice)
    assert reader.read(write(), clock.now) == Notice(RING, "ring", 7)
    assert (reader.seen, reader.dropped) == (1, {})


def test_a_notice_is_a_cloud_event_that_holds_a_generation_and_nothing_of_the_ring(manager, write):
    body = write()
    event = json.loads(body)
    assert {name: event[name] for name in ("specversion", "source", "type", "subject", "secmwgen")} == {
        "specversion": "1.0",
        "source": "/secmiddleware/rings/payments",
        "type": "secmiddleware.record.written.v1",
        "subject": "ring",
        "secmwgen": "7",
    }
    # CloudEvents 1.0, 3.1.1: names of attributes are lower-case letters and digits, at most 20.
    assert all(name.isalnum() and name.islower() and len(name) <= 20 for name in event)
    assert datetime.fromisoformat(event["time"]).tzinfo is not None
    assert len(body) < 500
    assert manager.keyring.keys[0].kid not in body.decode()


def test_the_mac_is_the_one_that_the_page_says(store, clock, write):
    def lp(part):
        return len(part).to_bytes(4, "big") + part

    event = json.loads(write())
    document = json.loads(store.read("ring").body)
    wrapped = base64.urlsafe_b64decode(document["root"] + "==")
    root = Kek(KEK).unwrap(wrapped, b"secmw/root/v1" + lp(RING.encode()))
    info = b"secmw/notice-mac/v1" + lp(RING.encode())
    key = HKDF(hashes.SHA256(), 32, None, info).derive(root)
    names = ("specversion", "id", "source", "type", "subject", "time", "secmwgen")
    message = b"secmw/notice/v1" + b"".join(lp(event[name].encode()) for name in names)
    mac = base64.urlsafe_b64encode(hmac.digest(key, message, "sha256")).decode().rstrip("=")
    assert event["secmwmac"] == mac


def test_a_process_that_has_no_ring_yet_can_sign_nothing(clock):
    with pytest.raises(KeyringError):
        manager_of(MemoryStore(), clock).mac_of_notice(b"")


@pytest.mark.parametrize(
    ("member", "value"),
    [
        ("id", "0" * 32),
        ("time", "2026-06-01T12:00:01.000000Z"),
        ("secmwgen", "8"),
        ("subject", "revocations"),
        ("secmwmac", "A" * 43),
    ],
)
def test_a_notice_with_anything_changed_is_forged(reader, clock, write, member, value):
    assert reader.read(changed(write(), **{member: value}), clock.now) == Dropped("forged")
    assert (reader.seen, reader.dropped) == (0, {"forged": 1})


def test_a_notice_under_the_document_mac_or_any_other_key_is_forged(reader, manager, clock, write):
    root = manager._record._root
    for key in (root._mac_key, KEK, bytes(32), b""):
        body = write(mac=lambda message, key=key: hmac.digest(key, message, "sha256"))
        assert reader.read(body, clock.now) == Dropped("forged")


def test_a_notice_of_another_ring_is_not_for_us_whoever_signed_it(reader, clock, write):
    assert reader.read(write(ring="orders"), clock.now) == Dropped("elsewhere")
    assert reader.read(changed(write(), type="secmiddleware.record.written.v2"), clock.now) == Dropped(
        "elsewhere"
    )


def test_the_ring_of_the_same_name_with_another_root_is_another(reader, clock):
    other = manager_of(MemoryStore(), clock)
    other.start()
    body = write_notice(RING, "ring", 7, clock.now, other.mac_of_notice)
    assert reader.read(body, clock.now) == Dropped("forged")


@pytest.mark.parametrize("off", [timedelta(minutes=5), -timedelta(minutes=5)])
def test_a_notice_is_good_for_five_minutes_either_way(reader, clock, write, off):
    assert isinstance(reader.read(write(now=clock.now + off), clock.now), Notice)
    late = write(now=clock.now + off * 1.0001)
    assert reader.read(late, clock.now) == Dropped("out_of_time")


def test_a_notice_is_heard_once(reader, clock, write):
    body = write()
    assert isinstance(reader.read(body, clock.now), Notice)
    # Another spelling of the same JSON is the same notice.
    for again in (body, json.dumps(json.loads(body), indent=1).encode()):
        assert reader.read(again, clock.now) == Dropped("replayed")
    assert isinstance(reader.read(write(), clock.now), Notice)


def test_forged_notices_push_none_out_of_memory(reader, clock, write, monkeypatch):
    monkeypatch.setattr(notices, "_REMEMBERED", 3)
    body = write()
    reader.read(body, clock.now)
    for number in range(10):
        assert reader.read(changed(body, id=f"{number:032x}"), clock.now) == Dropped("forged")
    assert reader.read(body, clock.now) == Dropped("replayed")
    for _ in range(10):
        reader.read(write(), clock.now)
    assert len(reader._heard) == 3


class Explosive:
    def __reduce__(self):
        return (pytest.exit, ("a pickle was opened",))


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b'"ring"',
        b"NaN",
        b"\xff\xfe{\x00",
        b'{"\xff": 1}',
        b"[" * 4000,
        b'{"a":' * 800,
        b"1" * 4000,
        pickle.dumps(Explosive()),
        lambda body: body[:-1],
        lambda body: body + b"{}",
        lambda body: b"\xef\xbb\xbf" + body,
        lambda body: b"[" + body + b"]",
        lambda body: body.replace(b'"subject"', b'"subject":"ring","subject"'),
        lambda body: changed(body, subject=None),
        lambda body: changed(body, data={}),
        lambda body: changed(body, secmwmac=None),
        lambda body: changed(body, secmwmac=""),
        lambda body: changed(body, secmwmac="é" * 43),
        lambda body: changed(body, secmwmac=["A" * 43]),
        lambda body: changed(body, secmwgen=7),
        lambda body: changed(body, secmwgen="07"),
        lambda body: changed(body, secmwgen="0"),
        lambda body: changed(body, secmwgen="-1"),
        lambda body: changed(body, secmwgen="٧"),
        lambda body: changed(body, secmwgen="7\n"),
        lambda body: changed(body, secmwgen=str(MAX_GEN + 1)),
        lambda body: changed(body, secmwgen="9" * 4000)[:4000],
        lambda body: changed(body, specversion="0.3"),
        lambda body: changed(body, time="2026-06-01T12:00:00Z"),
        lambda body: changed(body, time="2026-06-31T12:00:00.000000Z"),
        lambda body: changed(body, time="2026-06-01T12:00:00.000000+00:00"),
        lambda body: changed(body, id="A" * 32),
        lambda body: changed(body, id=""),
        lambda body: changed(body, subject="../ring"),
        lambda body: changed(body, source="\ud800"),
    ],
)
def test_what_is_no_notice_is_dropped_and_never_raises(reader, clock, write, body):
    body = body(write()) if callable(body) else body
    assert reader.read(body, clock.now) == Dropped("malformed")
    assert reader.dropped == {"malformed": 1}


def test_what_is_too_large_is_not_even_read(reader, clock, write):
    body = write()
    assert isinstance(reader.read(body + b" " * (4096 - len(body)), clock.now), Notice)
    assert reader.read(write() + b" " * 4096, clock.now) == Dropped("too_large")


@given(body=st.binary(max_size=200) | st.text().map(str.encode), cut=st.integers(0, 400))
def test_no_bytes_raise_and_no_part_of_a_notice_is_one(body, cut):
    clock = Clock()
    key = bytes(32)
    reader = NoticeReader(RING, lambda message: hmac.digest(key, message, "sha256"))
    whole = write_notice(RING, "ring", 7, clock.now, lambda message: hmac.digest(key, message, "sha256"))
    for bad in (body, whole[:cut] + body, body + whole[cut + 1 :], whole[:cut] + b"~" + whole[cut + 1 :]):
        if bad not in (whole, b""):
            assert isinstance(reader.read(bad, clock.now), Dropped) or json.loads(bad) == json.loads(whole)
