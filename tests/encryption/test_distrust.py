"""A key that is in other hands is distrusted: no request opens with it any more, and another one seals."""

from __future__ import annotations

import threading
from dataclasses import replace

import pytest
from encryption.rings import DELAY, RETIRE, TICK, manager_of, rewrite, sealing_key, started, states, stored

from secmiddleware.encryption.document import KeyState
from secmiddleware.encryption.manager import Transition
from secmiddleware.errors import KeyringError, SealError, StoreUnavailable, TokenError

VALUE = b'"078-05-1120"'
FORMATS = ["aead", "xaes", "deterministic", "fernet", "jwe"]


@pytest.fixture
def rotated(make, clock):
    """A manager whose second key seals, and the id of its first."""
    manager = started(make)
    first = sealing_key(manager)
    manager.rotate()
    clock.forward(DELAY)
    manager.tend()
    return manager, first


def distrusted(manager):
    return [key["kid"] for key in manager.status()["keys"] if key["distrusted"]]


@pytest.mark.parametrize("format_", FORMATS)
def test_what_a_distrusted_key_sealed_opens_in_no_process_and_is_renewed_by_an_operator(make, clock, format_):
    here, there = started(make), started(make)
    token = here.seal("ssn", VALUE, format=format_)
    first = sealing_key(here)
    here.rotate()
    clock.forward(DELAY)
    assert here.distrust(first) is None
    there.look()
    for manager in (here, there, started(make)):
        with pytest.raises(TokenError):
            manager.open("ssn", token, format=format_)
        with pytest.raises(TokenError):
            manager.rewrap("ssn", token, format=format_)
    renewed = there.rewrap("ssn", token, format=format_, recover=True)
    assert here.open("ssn", renewed, format=format_) == VALUE


def test_a_key_that_opens_or_is_retired_is_distrusted_without_anything_else_changing(rotated, store, clock):
    manager, first = rotated
    for wait in (TICK, RETIRE):
        clock.forward(wait)
        second = manager.keyring.keys[1]
        manager.distrust(first)
        assert distrusted(manager) == [first]
        assert manager.keyring.keys[1] == second
        assert stored(store) == manager.keyring.document
        assert manager.seal("ssn", VALUE)


def test_a_second_time_it_changes_nothing(rotated):
    manager, first = rotated
    manager.distrust(first)
    gen = manager.keyring.gen
    assert manager.distrust(first) is None
    assert manager.distrust(first, rotate=True) is None
    assert manager.keyring.gen == gen


def test_the_key_that_seals_is_not_distrusted_for_itself(make, store, clock):
    manager = started(make)
    first = sealing_key(manager)
    before = stored(store)
    with pytest.raises(KeyringError, match=f"key {first} of ring payments seals now: rotate the ring"):
        manager.distrust(first)
    assert stored(store) == before

    second = manager.rotate()
    before = stored(store)
    until = "2026-06-01T12:05:00.000000Z"
    with pytest.raises(
        KeyringError, match=f"key {first} of ring payments seals until {until}: distrust it then"
    ):
        manager.distrust(first)
    with pytest.raises(
        KeyringError, match=f"key {second} of ring payments is the next to seal: rotate the ring"
    ):
        manager.distrust(second)
    assert stored(store) == before


def test_with_a_rotation_the_key_that_seals_is_distrusted_and_followed_in_one_generation(make, store, clock):
    here, there = started(make), started(make)
    token = here.seal("ssn", VALUE)
    first, gen = sealing_key(here), stored(store).gen
    new = here.distrust(first, rotate=True)
    assert stored(store).gen == gen + 1
    assert (distrusted(here), states(here)) == ([first], ["primary", "pending"])
    there.look()
    for manager in (here, there):
        # Invariant 1: the new one waits for all to know it, and meanwhile there is nothing to seal with.
        clock_before = clock.now
        with pytest.raises(SealError):
            manager.seal("ssn", VALUE)
        with pytest.raises(TokenError):
            manager.open("ssn", token)
        assert clock.now == clock_before
    clock.forward(DELAY - TICK)
    with pytest.raises(SealError):
        there.seal("ssn", VALUE)
    clock.forward(TICK)
    there.tend()
    assert sealing_key(here) == sealing_key(there) == new


def test_where_nothing_can_be_sealed_it_says_until_when_and_to_rotate_only_where_that_may_be_done(
    make, store, clock
):
    manager = started(make)
    first = sealing_key(manager)
    new = manager.distrust(first, rotate=True)
    turn = f"nothing is sealed until key {new} has its turn, at 2026-06-01T12:05:00.000000Z"
    with pytest.raises(SealError, match=f"key {first} of ring payments may not be used; {turn}"):
        manager.seal("ssn", VALUE)
    with pytest.raises(KeyringError, match="pending"):
        manager.rotate()
    clock.forward(DELAY)
    rewrite(
        store,
        lambda document: replace(
            document.reissued(clock.now),
            keys=tuple(replace(key, distrusted=True) for key in document.keys),
        ),
    )
    manager.look()
    with pytest.raises(SealError, match=f"key {new} of ring payments may not be used; rotate the ring"):
        manager.seal("ssn", VALUE)
    manager.rotate()


def test_where_a_key_waits_already_none_is_added(make, clock):
    manager = started(make)
    first, second = sealing_key(manager), manager.rotate()
    assert manager.distrust(first, rotate=True) is None
    assert [key.kid for key in manager.keyring.keys] == [first, second]
    clock.forward(DELAY)
    assert sealing_key(manager) == second


def test_a_key_that_waits_never_seals_once_it_is_distrusted_and_what_it_sealed_can_be_renewed(
    make, store, clock
):
    manager = started(make)
    ahead = manager_of(store, lambda: clock.now + DELAY)
    ahead.start()
    first = sealing_key(manager)
    kept = manager.seal("ssn", VALUE)
    second = manager.rotate()
    clock.forward(DELAY / 2)
    ahead.look()
    ahead.tend()
    token = ahead.seal("ssn", VALUE)
    assert sealing_key(ahead) == second
    third = manager.distrust(second, rotate=True)
    assert [key.kid for key in manager.keyring.keys] == [first, second, third]
    assert states(manager) == ["decrypt_only", "primary", "pending"]
    turn = manager.keyring.keys[-1].activate_at
    assert turn == clock.now + DELAY
    for now in (clock.now, turn - TICK):
        clock.now = now
        with pytest.raises(SealError):
            manager.seal("ssn", VALUE)
    clock.forward(TICK)
    assert sealing_key(manager) == third
    assert manager.open("ssn", kept) == VALUE
    with pytest.raises(TokenError):
        manager.open("ssn", token)
    assert manager.open("ssn", manager.rewrap("ssn", token, recover=True)) == VALUE


def test_it_can_be_distrusted_in_the_instant_after_it_was_published(make, clock):
    manager = started(make, activation_delay=DELAY)
    second = manager.rotate()
    third = manager.distrust(second, rotate=True)
    assert manager.keyring.keys[-1].kid == third
    assert manager.keyring.keys[-1].activate_at >= clock.now + DELAY


def test_a_successor_that_took_long_to_be_published_waits_as_long_as_any_other(make, store, clock):
    manager = started(make)
    store.slow = DELAY
    new = manager.distrust(sealing_key(manager), rotate=True)
    visible = clock.now
    clock.now = visible + DELAY - TICK
    with pytest.raises(SealError):
        manager.seal("ssn", VALUE)
    clock.forward(TICK)
    assert sealing_key(manager) == new


def test_a_key_that_is_destroyed_or_not_there_is_told_apart_and_nothing_is_written(rotated, store, clock):
    manager, first = rotated
    clock.forward(RETIRE)
    manager.destroy(first)
    before = stored(store)
    with pytest.raises(KeyringError, match=f"key {first} of ring payments is destroyed"):
        manager.distrust(first)
    for odd in ("00000000", "", first.upper() + "\n", "../" + first):
        with pytest.raises(KeyringError, match="has no key"):
            manager.distrust(odd, rotate=True)
    assert stored(store) == before


def test_a_store_that_is_away_refuses_and_nothing_is_distrusted_here_alone(rotated, store):
    manager, first = rotated
    store.away = True
    with pytest.raises(StoreUnavailable):
        manager.distrust(first)
    assert distrusted(manager) == []


def test_it_is_judged_by_the_newest_document_where_another_was_faster(rotated, store, clock):
    manager, first = rotated
    second = manager.keyring.keys[1].kid
    original = store.cas

    def overtaken(name, expect, body, fence=None):
        store.cas = original
        rewrite(store, lambda document: document.with_uses(second, 1, clock.now))
        return original(name, expect, body, fence)

    store.cas = overtaken
    manager.distrust(first)
    assert distrusted(manager) == [first]
    assert stored(store).keys[1].uses > manager.keyring.document.keys[0].uses - 1


def test_many_at_once_leave_one_successor(make, clock):
    managers = [started(make) for _ in range(6)]
    first = sealing_key(managers[0])
    found = []
    barrier = threading.Barrier(len(managers))

    def distrust(manager):
        barrier.wait()
        found.append(manager.distrust(first, rotate=True))

    threads = [threading.Thread(target=distrust, args=(manager,)) for manager in managers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    managers[0].look()
    assert [key.kid for key in managers[0].keyring.keys] == [first, *filter(None, found)]
    assert len(managers[0].keyring.keys) == 2


def test_it_is_a_transition_of_its_own_told_once_however_it_was_learned_of(make, clock):
    here, there = started(make), started(make)
    first = sealing_key(here)
    here.rotate()
    clock.forward(DELAY)
    there.look()
    here.look()
    here.distrust(first)
    gone = KeyState.DECRYPT_ONLY
    for manager in (here, there):
        told = Transition("payments", here.keyring.gen, first, gone, gone, distrusted=True)
        assert manager.look() == (told,)
        assert manager.look() == ()
    # Whoever starts afterwards finds it so.
    assert started(make).look() == ()


def test_a_rotation_in_the_same_step_is_told_with_it(make):
    here, there = started(make), started(make)
    first = sealing_key(here)
    new = here.distrust(first, rotate=True)
    gen, seals = here.keyring.gen, KeyState.PRIMARY
    assert there.look() == (
        Transition("payments", gen, new, None, KeyState.PENDING),
        Transition("payments", gen, first, seals, seals, distrusted=True),
    )
