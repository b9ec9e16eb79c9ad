"""The invariants of the key ring, one by one, each as one process or several see it."""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from datetime import timedelta

import pytest
from encryption.rings import (
    DELAY,
    RETIRE,
    TICK,
    Clock,
    manager_of,
    rewrite,
    sealing_key,
    started,
    states,
    stored,
)
from rotation.processes import running

from secmiddleware.encryption.document import MAX_CLOCK_AHEAD, KeyState
from secmiddleware.encryption.kek import Kek
from secmiddleware.encryption.record import RECORD
from secmiddleware.encryption.tokens import kid_of
from secmiddleware.encryption.uses import FIRST_BLOCK
from secmiddleware.errors import KeyringError, SealError, StoreUnavailable, TokenError
from secmiddleware.rotation.stores import FileStore

MONTH = timedelta(days=30)


# 1. Nothing is sealed with a key that was not published at least activation_delay ago.


def test_invariant_1_nothing_is_sealed_with_a_key_published_less_than_activation_delay_ago(make, clock):
    here, there = started(make), started(make)
    old = sealing_key(here)
    new = here.rotate()
    there.look()
    there.tend()
    clock.forward(DELAY - TICK)
    assert sealing_key(here) == sealing_key(there) == old
    clock.forward(TICK)
    assert sealing_key(here) == sealing_key(there) == new


@pytest.mark.parametrize("seconds", [0.6, 200, 299, 301, 5000])
def test_invariant_1_counts_from_the_moment_at_which_others_can_see_the_key(make, store, clock, seconds):
    manager = started(make)
    store.slow = timedelta(seconds=seconds)
    new = manager.rotate()
    visible = clock.now
    clock.now = visible + DELAY - TICK
    assert sealing_key(manager) != new
    clock.forward(TICK)
    assert sealing_key(manager) == new


def test_a_publication_within_half_a_second_is_written_once(make, store, clock):
    manager = started(make)
    store.slow = timedelta(seconds=0.5)
    gen = manager.keyring.gen
    manager.rotate()
    assert manager.keyring.gen == gen + 1


def test_a_key_is_published_anew_for_the_time_of_each_attempt(make, clock, store):
    here, there = started(make), started(make)
    original = store.cas

    def overtaken(name, expect, body, fence=None):
        # Another is faster once, and it takes a while until the next attempt.
        store.cas = original
        there.look()
        there._record.publish(lambda document: document.reissued(clock.now))
        clock.forward(seconds=100)
        return original(name, expect, body, fence)

    store.cas = overtaken
    here.rotate()
    last = here.keyring.keys[-1]
    assert (last.created_at, last.activate_at) == (clock.now, clock.now + DELAY)


# 2. Exactly one PRIMARY at any instant.


def test_invariant_2_exactly_one_key_is_primary_at_any_instant(make, clock):
    manager = started(make)
    for _ in range(4):
        manager.rotate()
        clock.forward(DELAY)
    keyring = manager.keyring
    instants = {at for key in keyring.keys for at in (key.created_at, key.activate_at, key.retire_at)} - {
        None
    }
    for instant in instants:
        for now in (instant - TICK, instant, instant + TICK):
            found = [key.kid for key in keyring.keys if keyring.state_of(key.kid, now) is KeyState.PRIMARY]
            assert found == [keyring.primary(now).kid]


# 3. `gen` only grows.


def copied(store):
    return store.read(RECORD)


def put_back(store, document):
    store._records[RECORD] = document


def test_invariant_3_a_lower_generation_than_was_seen_is_not_taken(make, store, clock):
    manager = started(make)
    old = copied(store)
    manager.rotate()
    clock.forward(DELAY)
    good = manager.keyring
    put_back(store, old)
    manager.look()
    assert manager.keyring is good
    assert "restore the newer one" in manager.status()["alarms"]["store"]
    with pytest.raises(KeyringError, match="restore the newer one"):
        manager.rotate()
    with pytest.raises(KeyringError, match="restore the newer one"):
        manager.destroy(good.keys[0].kid)


def test_invariant_3_the_same_generation_with_other_contents_is_not_taken(make, store, clock):
    here, there = started(make), started(make)
    before = copied(store)
    here.look()
    here.rotate()
    put_back(store, before)
    there.look()
    there.rotate()
    # Both have made the same generation, each another one.
    assert here.keyring.gen == there.keyring.gen
    good = here.keyring
    with pytest.raises(KeyringError):
        here._record.take_in()
    assert here.keyring is good


def test_invariant_3_a_generation_below_min_generation_is_not_taken(make):
    gen = started(make).keyring.gen
    with pytest.raises(KeyringError, match=f"was at {gen + 1}"):
        make(min_generation=gen + 1).start()
    make(min_generation=gen).start()


def test_invariant_3_the_store_and_the_document_must_agree_on_the_generation(make, store):
    manager = started(make)
    put_back(store, replace(copied(store), gen=copied(store).gen + 5))
    good = manager.keyring
    manager.look()
    assert manager.keyring is good
    assert manager.status()["alarms"]
    with pytest.raises(KeyringError, match="the store says generation"):
        make().start()


def test_invariant_3_a_new_node_refuses_a_document_that_is_too_old(make, clock):
    old = started(make)
    clock.forward(2 * MONTH)
    make(first_block=0).start()
    clock.forward(TICK)
    with pytest.raises(KeyringError, match="max_document_age"):
        make().start()
    make(max_document_age=2 * MONTH + TICK).start()
    # Who has it already keeps it.
    old.look()
    assert old.status()["alarms"] == {}


def test_a_document_is_issued_anew_long_before_it_is_too_old(make, clock):
    manager = started(make, rotate_every=10 * MONTH, max_document_age=2 * MONTH)
    clock.forward(MONTH)
    gen = manager.keyring.gen
    manager.tend()
    assert manager.keyring.gen == gen
    clock.forward(TICK)
    manager.tend()
    assert manager.keyring.gen == gen + 1
    assert manager.keyring.document.issued_at == clock.now
    clock.forward(2 * MONTH)
    make(max_document_age=2 * MONTH).start()


def test_a_document_from_the_future_is_not_taken(make, store, clock):
    ahead = Clock()
    ahead.forward(MAX_CLOCK_AHEAD)
    manager_of(store, ahead).start()
    behind = make()
    behind.start()
    ahead.forward(TICK)
    rewrite(store, lambda document: document.reissued(ahead.now))
    good = behind.keyring
    behind.look()
    assert behind.keyring is good
    assert "yet to come" in behind.status()["alarms"]["store"]
    with pytest.raises(KeyringError, match="yet to come"):
        make().start()


# 4. At most one PENDING.


def test_invariant_4_a_second_rotation_before_promotion_is_refused_for_every_process(make, clock):
    here, there = started(make), started(make)
    here.rotate()
    for manager in (here, there):
        with pytest.raises(KeyringError, match="pending until"):
            manager.rotate()
    clock.forward(DELAY - TICK)
    with pytest.raises(KeyringError, match="pending until"):
        there.rotate()
    clock.forward(TICK)
    there.rotate()
    assert states(there) == ["decrypt_only", "primary", "pending"]


# 5. A value stays readable until demotion + retire_after, unless its key is distrusted.


def test_invariant_5_a_value_is_readable_until_demotion_and_retire_after(make, clock):
    manager = started(make)
    token = manager.seal("ssn", b"1")
    clock.forward(MONTH)
    manager.rotate()
    demoted = clock.now + DELAY
    clock.now = demoted + RETIRE - TICK
    assert manager.open("ssn", token) == b"1"
    clock.forward(TICK)
    with pytest.raises(TokenError):
        manager.open("ssn", token)


def test_invariant_5_a_distrusted_key_opens_nothing_for_requests_and_is_replaced(make, store, clock):
    manager = started(make)
    token = manager.seal("ssn", b"1")
    (key,) = manager.keyring.keys

    def distrust(document):
        return replace(document.reissued(clock.now), keys=(replace(document.keys[0], distrusted=True),))

    rewrite(store, distrust)
    manager.look()
    with pytest.raises(TokenError):
        manager.open("ssn", token)
    with pytest.raises(SealError):
        manager.seal("ssn", b"1")
    manager.tend()
    clock.forward(DELAY)
    assert sealing_key(manager) != key.kid
    # An operator still finds its bytes.
    assert manager.keyring.keys[0].wrapped is not None


# 6. DESTROYED only out of RETIRED.


def test_invariant_6_only_a_retired_key_is_destroyed_and_its_bytes_leave_the_store(make, store, clock):
    manager = started(make)
    first = sealing_key(manager)
    wrapped = json.loads(copied(store).body)["keys"][0]["wrapped"]
    for step in (timedelta(), DELAY, RETIRE - TICK):
        if step == timedelta():
            second = manager.rotate()
        clock.forward(step)
        for kid in (first, second):
            with pytest.raises(KeyringError, match="only a retired key"):
                manager.destroy(kid)
    clock.forward(TICK)
    assert wrapped in copied(store).body.decode()
    manager.destroy(first)
    assert wrapped not in copied(store).body.decode()
    assert states(manager) == ["destroyed", "primary"]
    with pytest.raises(KeyringError, match="no key"):
        manager.destroy("00000000")


def test_invariant_6_time_and_tending_alone_destroy_nothing(make, clock):
    manager = started(make)
    for _ in range(30):
        clock.forward(MONTH)
        manager.tend()
        manager.look()
    assert KeyState.RETIRED in states(manager)
    assert KeyState.DESTROYED not in states(manager)


# 7. Any failure keeps the last good state and raises an alarm.


def forge(store, body):
    gen = copied(store).gen + 1
    put_back(store, replace(copied(store), gen=gen, body=body))


FORGERIES = {
    "nothing": lambda body: b"",
    "half": lambda body: body[: len(body) // 2],
    "noise": lambda body: bytes(range(256)),
    "another MAC": lambda body: json.dumps(json.loads(body) | {"mac": "A" * 43}).encode(),
    "a later generation": lambda body: body.replace(b'"gen":2', b'"gen":3'),
    "another ring": lambda body: body.replace(b'"payments"', b'"invoices"'),
    "no key": lambda body: json.dumps(json.loads(body) | {"keys": []}).encode(),
}


@pytest.mark.parametrize("forged", FORGERIES.values(), ids=FORGERIES)
def test_invariant_7_a_forged_document_leaves_the_last_good_one_in_force(make, store, clock, forged, caplog):
    manager = started(make)
    manager._record.publish(lambda document: document.reissued(clock.now))
    token, good, kept = manager.seal("ssn", b"1"), manager.keyring, copied(store)
    forge(store, forged(kept.body))
    with caplog.at_level(logging.INFO, "secmiddleware.rotation"):
        for _ in range(3):
            manager.look()
    assert manager.keyring is good
    assert manager.open("ssn", token) == b"1"
    assert manager.open("ssn", manager.seal("ssn", b"2")) == b"2"
    assert list(manager.status()["alarms"]) == ["store"]
    assert len(caplog.records) == 1  # once, not at every look
    with pytest.raises(KeyringError):
        make().start()
    put_back(store, kept)
    with caplog.at_level(logging.INFO, "secmiddleware.rotation"):
        manager.look()
    assert manager.status()["alarms"] == {}
    assert "well again" in caplog.text


def test_invariant_7_a_store_that_is_away_leaves_the_last_good_ring_in_force(make, store, clock):
    manager = started(make)
    store.away = True
    manager.look()
    manager.start()
    clock.forward(MONTH)
    manager.tend()
    assert manager.open("ssn", manager.seal("ssn", b"1")) == b"1"
    assert set(manager.status()["alarms"]) == {"store", "rotation"}
    with pytest.raises(StoreUnavailable):
        manager.rotate()
    with pytest.raises(StoreUnavailable):
        make().start()
    store.away = False
    manager.look()
    manager.tend()
    assert manager.status()["alarms"] == {}
    assert states(manager) == ["primary", "pending"]


def test_a_ring_under_another_kek_does_not_start(make):
    started(make)
    with pytest.raises(KeyringError, match="kek"):
        make(kek=Kek(bytes(range(100, 132)))).start()


def test_a_ring_of_another_name_does_not_start(make):
    started(make)
    with pytest.raises(KeyringError, match="payments"):
        make(ring="invoices").start()


def test_before_start_nothing_seals_and_nothing_opens(make):
    manager = make()
    assert manager.keyring is None
    assert manager.tend() == manager.look() == ()
    assert manager.seconds_to_change() is None
    assert manager.status()["keys"] == []
    for use in (lambda: manager.seal("ssn", b"1"), lambda: manager.open("ssn", "sm1.x"), manager.rotate):
        with pytest.raises(KeyringError, match="start"):
            use()


# 8. No new ring is ever made where one was seen before.


def test_invariant_8_a_ring_that_is_gone_is_not_made_anew(make, store, clock):
    manager = started(make)
    token, good = manager.seal("ssn", b"1"), manager.keyring
    store._records.clear()
    manager.look()
    manager.start()
    clock.forward(MONTH)
    manager.tend()
    with pytest.raises(KeyringError, match="is gone"):
        manager.rotate()
    assert manager.keyring is good
    assert manager.open("ssn", token) == b"1"
    assert "is gone" in manager.status()["alarms"]["store"]
    assert store.read(RECORD) is None


def test_invariant_8_an_empty_store_is_not_filled_where_min_generation_says_that_there_was_a_ring(
    make, store
):
    with pytest.raises(KeyringError, match="min_generation"):
        make(min_generation=1).start()
    assert store.read(RECORD) is None


def test_invariant_8_holds_across_a_restart_where_the_ring_is_a_file(tmp_path, clock):
    path = tmp_path / "ring.json"
    manager_of(FileStore(path), clock).start()
    path.unlink()
    with pytest.raises(KeyringError, match="is gone"):
        manager_of(FileStore(path), clock).start()
    assert not path.exists()


def test_invariant_8_many_processes_that_begin_together_make_one_ring(tmp_path):
    code = """
import sys
from encryption.rings import manager_of
from secmiddleware.encryption.manager import utc_now
from secmiddleware.rotation.stores import FileStore
print("ready", flush=True)
sys.stdin.readline()
manager = manager_of(FileStore(sys.argv[1]), utc_now)
manager.start()
print(manager.seal("ssn", b"1"))
"""
    with running(code, tmp_path / "new" / "ring.json", count=4) as processes:
        for process in processes:
            assert process.stdout.readline() == "ready\n"
        for process in processes:
            process.stdin.write("go\n")
            process.stdin.flush()
        tokens = [process.communicate(timeout=20)[0].strip() for process in processes]
    document = stored(FileStore(tmp_path / "new" / "ring.json"))
    assert {kid_of(token.encode()) for token in tokens} == {key.kid for key in document.keys}
    assert document.keys[0].uses == 4 * FIRST_BLOCK
