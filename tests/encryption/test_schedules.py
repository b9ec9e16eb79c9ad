"""Rotation by the calendar, by the count and by chance; what is told of it."""

from __future__ import annotations

import json
from datetime import timedelta

import pytest
from encryption.rings import (
    DELAY,
    KEK,
    RETIRE,
    RING,
    TICK,
    Clock,
    FailingStore,
    manager_of,
    rewrite,
    sealing_key,
    started,
    states,
    stored,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from secmiddleware.encryption.document import KeyState
from secmiddleware.encryption.manager import Transition
from secmiddleware.encryption.record import RECORD
from secmiddleware.encryption.tokens import kid_of
from secmiddleware.encryption.uses import ROTATE_AT
from secmiddleware.errors import KeyringError, KeyUnknown, SealError, TokenError
from secmiddleware.rotation.stores import MemoryStore

MONTH = timedelta(days=30)


# All of it at once, by chance.

HOUR = timedelta(hours=1)
SHORT = {"activation_delay": timedelta(minutes=5), "rotate_every": HOUR, "retire_after": 3 * HOUR}
steps = st.lists(
    st.tuples(
        st.sampled_from(["rotate", "tend", "look", "seal"]),
        st.integers(0, 2),
        st.sampled_from([0, 0, 1, 60, 299, 300, 301, 3599, 3600, 9000]) | st.integers(0, 4000),
    ),
    max_size=40,
)


@settings(deadline=None, max_examples=150)
@given(steps)
def test_under_any_schedule_one_key_is_primary_and_none_seals_too_soon(schedule):
    clock = Clock()
    store = FailingStore(clock)
    managers = [started(lambda **_: manager_of(store, clock, max_document_age=timedelta(days=999), **SHORT))
                for _ in range(3)]  # fmt: skip
    delay, retire = SHORT["activation_delay"], SHORT["retire_after"]
    published = {stored(store).keys[0].kid: clock.now - delay}
    order, tokens, gen = list(published), [], 1
    fresh_at = [clock.now] * 3
    for action, who, seconds in schedule:
        now = clock.forward(seconds=seconds)
        manager = managers[who]
        if action == "rotate":
            last = order[-1]
            if now < published[last] + delay:
                with pytest.raises(KeyringError, match="pending"):
                    manager.rotate()
            else:
                manager.rotate()
        elif action == "tend":
            manager.look()
            manager.tend()
        elif action == "look":
            manager.look()
        if action != "seal":
            fresh_at[who] = now
        document = stored(store)
        for key in document.keys:
            if key.kid not in published:
                published[key.kid] = now
                order.append(key.kid)
        # 2 and 3
        assert document.gen >= gen
        gen = document.gen
        assert [document.state_of(key, now) for key in document.keys].count(KeyState.PRIMARY) == 1
        assert [document.state_of(key, now) for key in document.keys].count(KeyState.PENDING) <= 1
        # 1, for everybody, however long ago they looked
        for sealer in managers:
            try:
                token = sealer.seal("ssn", b"1")
            except SealError:
                # Its key came up while it was not tended: it has no uses, which fails safely.
                assert sealer.keyring.secret_of(sealer.keyring.primary(now).kid).ration.left == 0
                continue
            kid = kid_of(token.encode())
            assert published[kid] + delay <= now
            tokens.append((kid, token))
        # 5, for everybody who has looked within the delay
        for kid, token in tokens[-12:]:
            place = order.index(kid)
            demoted = published[order[place + 1]] + delay if place + 1 < len(order) else None
            for reader, looked in zip(managers, fresh_at, strict=True):
                if now - looked >= delay:
                    continue
                if demoted is None or now < demoted + retire:
                    assert reader.open("ssn", token) == b"1"
                else:
                    with pytest.raises(TokenError):
                        reader.open("ssn", token)
    assert all(not manager.status()["alarms"] for manager in managers)


# What is due.


def test_a_ring_is_rotated_by_the_calendar_once_for_all_processes(make, clock):
    here, there = started(make), started(make)
    clock.forward(MONTH - TICK)
    for manager in (here, there):
        manager.tend()
    assert states(here) == ["primary"]
    clock.forward(TICK)
    for _ in range(3):
        for manager in (here, there):
            manager.look()
            manager.tend()
    assert states(here) == states(there) == ["primary", "pending"]
    clock.forward(DELAY)
    assert sealing_key(here) == sealing_key(there)


def test_who_does_not_get_the_lease_rotates_nothing(make, store, clock):
    manager = started(make)
    clock.forward(MONTH)
    store.try_lease(RECORD, "somebody", 30.0)
    manager.tend()
    assert states(manager) == ["primary"]
    assert manager.status()["alarms"] == {}


def test_a_rotation_that_another_has_done_meanwhile_is_not_done_again(make, clock):
    here, there = started(make), started(make)
    clock.forward(MONTH)
    here.tend()
    # `there` has not looked, and the lease has run out: to it, the rotation seems due.
    here._store._leases.clear()
    there.tend()
    assert len(stored(here._store).keys) == 2
    assert there.status()["alarms"] == {}


def test_a_ring_is_rotated_by_the_count_of_uses(make, store, clock):
    manager = started(make)
    (key,) = stored(store).keys
    rewrite(store, lambda document: document.with_uses(key.kid, ROTATE_AT - key.uses, clock.now))
    manager.look()
    manager.tend()
    assert states(manager) == ["primary", "pending"]


# What is told.


def test_transitions_are_told_once_whoever_caused_them(make, clock):
    here, there = started(make), started(make)
    (first,) = here.keyring.keys
    second = here.rotate()
    gen = here.keyring.gen
    come = (Transition(RING, gen, second, None, KeyState.PENDING),)
    assert here.look() == there.look() == come
    assert here.look() == there.look() == ()
    clock.forward(DELAY)
    assert there.tend() == (
        Transition(RING, there.keyring.gen, first.kid, KeyState.PRIMARY, KeyState.DECRYPT_ONLY),
        Transition(RING, there.keyring.gen, second, KeyState.PENDING, KeyState.PRIMARY),
    )
    clock.forward(RETIRE)
    assert [(change.kid, change.after) for change in there.look()] == [(first.kid, KeyState.RETIRED)]
    here.destroy(first.kid)
    assert [(change.kid, change.after) for change in there.look()] == [(first.kid, KeyState.DESTROYED)]


def test_an_unknown_key_asks_for_a_look_and_nothing_else_does(make, clock):
    manager, asked = started(make), []
    manager.watched_by(lambda: asked.append("look"), lambda: asked.append("tend"))
    stranger = started(lambda **_: manager_of(MemoryStore(), clock))
    for token, error in (
        (stranger.seal("ssn", b"1"), KeyUnknown),
        (manager.seal("ssn", b"1")[:-2], TokenError),
        ("größe", TokenError),
        ("", TokenError),
    ):
        with pytest.raises(error):
            manager.open("ssn", token)
    assert asked == ["look"]


def test_the_clock_alone_changes_states_at_a_time_that_is_known_before(make, clock):
    manager = started(make)
    assert manager.seconds_to_change() is None
    manager.rotate()
    assert manager.seconds_to_change() == DELAY.total_seconds()


def test_a_change_between_a_look_and_the_next_pause_is_not_slept_over(make, clock):
    manager = started(make)
    kid = manager.rotate()
    clock.forward(DELAY - timedelta(milliseconds=1))
    manager.tend()
    clock.forward(milliseconds=2)
    assert manager.seconds_to_change() == -0.001
    assert [(told.kid, told.after) for told in manager.tend()][-1] == (kid, "primary")
    assert manager.seconds_to_change() > 60


def test_the_status_is_json_and_tells_states_times_and_uses(make, clock):
    manager = started(make)
    manager.rotate()
    status = json.loads(json.dumps(manager.status()))
    assert status["ring"] == RING
    assert status["gen"] == manager.keyring.gen
    assert [key["state"] for key in status["keys"]] == ["primary", "pending"]
    assert status["keys"][1]["activate_at"] == "2026-06-01T12:05:00.000000Z"
    assert KEK.hex() not in json.dumps(status)
    assert all("wrapped" not in key for key in status["keys"])


def test_a_second_start_is_a_look_that_fails_softly(make, store):
    manager = started(make)
    store.away = True
    manager.start()
    assert "away" in manager.status()["alarms"]["store"]
