"""`manager.on(…)`: whoever wants to know what becomes of keys is told each step once, and disturbs nobody."""

from __future__ import annotations

import asyncio
import json
import logging
import threading
from datetime import timedelta
from functools import partial
from itertools import pairwise

import pytest
import trustme
from encryption.rings import RING, manager_of
from rotation import listeners
from rotation.processes import until

from secmiddleware import SecurityManager
from secmiddleware.encryption.document import KeyState
from secmiddleware.encryption.manager import Transition, utc_now
from secmiddleware.rotation.broker import Broker
from secmiddleware.rotation.callbacks import EVENTS, steps_of
from secmiddleware.rotation.line import RotationLine

STATES = list(KeyState)
SOON = {"activation_delay": timedelta(milliseconds=100), "retire_after": timedelta(milliseconds=100)}


def told(heard=None):
    return [(step.kid, step.before, step.after) for step in (listeners.heard if heard is None else heard)]


def life(kid, *states):
    """The steps of a key through some states; the first one is where it comes from."""
    return [(kid, before, after) for before, after in pairwise(states)]


# Steps.


@pytest.mark.parametrize("after", STATES)
@pytest.mark.parametrize("before", [None, *STATES])
def test_a_transition_is_all_the_steps_that_lie_in_it(before, after):
    first = 0 if before is None else STATES.index(before) + 1
    steps = list(steps_of(Transition(RING, 7, "00000001", before, after)))
    passed = STATES[first : STATES.index(after) + 1]
    assert [step.after for _, step in steps] == passed
    assert [EVENTS[event] for event, _ in steps] == passed
    assert [step.before for _, step in steps] == ([before, *passed[:-1]] if passed else [])
    assert {(step.ring, step.gen, step.kid) for _, step in steps} <= {(RING, 7, "00000001")}


def test_that_a_key_is_distrusted_is_one_step_and_none_of_its_life():
    transition = Transition(RING, 7, "00000001", KeyState.PRIMARY, KeyState.PRIMARY, distrusted=True)
    assert list(steps_of(transition)) == [("key.distrusted", transition)]


# Told.


def test_each_event_is_told_to_those_who_named_it_and_in_order(watch, far):
    manager, line = watch(far, **SOON)
    heard = {event: [] for event in EVENTS}
    for event, steps in heard.items():
        line.on([event], steps.append)
    line.on(EVENTS, listeners.note)
    first = manager.keyring.keys[0].kid
    kid = manager.rotate()
    until(lambda: heard["key.retired"])
    manager.destroy(first)
    until(lambda: heard["key.destroyed"])
    assert told(heard["key.published"]) == [(kid, None, KeyState.PENDING)]
    assert told(heard["key.activated"]) == [(kid, KeyState.PENDING, KeyState.PRIMARY)]
    assert told(heard["key.demoted"]) == [(first, KeyState.PRIMARY, KeyState.DECRYPT_ONLY)]
    assert told(heard["key.retired"]) == [(first, KeyState.DECRYPT_ONLY, KeyState.RETIRED)]
    assert told(heard["key.destroyed"]) == [(first, KeyState.RETIRED, KeyState.DESTROYED)]
    until(lambda: len(listeners.heard) == 5)
    assert [step for step in told() if step[0] == kid] == life(kid, None, KeyState.PENDING, KeyState.PRIMARY)


@pytest.mark.parametrize("way", ["own doing", "notice", "poll"])
def test_a_step_is_told_once_however_it_was_learned_of(watch, far, way):
    messenger = partial(Broker, "memory://", RING) if way == "notice" else lambda: None
    poll = timedelta(seconds=0.1 if way == "poll" else 30)
    manager, line = watch(far, messenger=messenger(), poll=poll, **SOON)
    other, outside = watch(far, messenger=messenger(), poll=poll, **SOON)
    if way == "notice":
        until(lambda: all(found.health()["broker"]["ready"] for found in (line, outside)))
    line.on(["key.published", "key.activated"], listeners.note)
    kid = (manager if way == "own doing" else other).rotate()
    until(lambda: len(listeners.heard) == 2)
    # Everything that could tell it again does.
    for _ in range(3):
        line._call("notice")
        turn = line.health()["last_turn"]
        until(lambda turn=turn: line.health()["last_turn"] != turn)
    assert told() == life(kid, None, KeyState.PENDING, KeyState.PRIMARY)


def test_who_learns_of_a_key_late_is_told_the_steps_that_it_has_slept_over(watch, far):
    _, line = watch(far)
    line.on(["key.published", "key.activated"], listeners.note)
    other = manager_of(far, utc_now, activation_delay=timedelta(0))
    other.start()
    kid = other.rotate()
    line.wake()
    until(lambda: len(listeners.heard) == 2)
    assert told() == life(kid, None, KeyState.PENDING, KeyState.PRIMARY)


def test_a_clock_that_is_put_back_tells_nothing_twice(far):
    clock_is_off = [timedelta(0)]
    manager = manager_of(
        far, lambda: utc_now() + clock_is_off[0], activation_delay=timedelta(milliseconds=100)
    )
    manager.start()
    line = RotationLine(manager)
    line.on(["key.activated"], listeners.note)
    line.start()
    try:
        kid = manager.rotate()
        until(lambda: listeners.heard)
        for off in (-timedelta(minutes=1), timedelta(0)):
            clock_is_off[0] = off
            state = "pending" if off else "primary"
            line.tend_soon()
            until(lambda state=state: manager._states.get(kid) == state)
    finally:
        line.stop()
    assert told() == [(kid, KeyState.PENDING, KeyState.PRIMARY)]


def test_async_listeners_are_awaited_and_callables_of_all_kinds_are_told(watch, far):
    manager, line = watch(far)
    for function in (listeners.note, listeners.note_async, listeners.pager, partial(listeners.note)):
        line.on(["key.published"], function)
    manager.rotate()
    until(lambda: len(listeners.heard) == 4)
    names = [told["name"] for told in line.health()["callbacks"]]
    assert names[:2] == ["rotation.listeners:note", "rotation.listeners:note_async"]
    json.dumps(line.health())


@pytest.mark.parametrize("bad", ["fail", "fail_async", "leave", "give_up", "hang", "hang_async"])
def test_a_listener_that_fails_or_hangs_disturbs_nobody(watch, far, caplog, bad):
    manager, line = watch(far, **SOON)
    line.on(EVENTS, getattr(listeners, bad))
    line.on(["key.published", "key.activated"], listeners.note)
    with caplog.at_level(logging.CRITICAL, "secmiddleware.rotation"):
        kid = manager.rotate()
        until(lambda: len(listeners.heard) == 2)
    assert manager.keyring.keys[-1].kid == kid
    line.stop()


def test_listeners_hear_again_after_a_stop_and_a_start(watch, far):
    manager, line = watch(far, **SOON)
    line.on(["key.activated"], listeners.note)
    for number in (1, 2):
        manager.rotate()
        until(lambda number=number: len(listeners.heard) == number)
        line.stop()
        line.start()


def test_many_threads_that_begin_to_listen_at_once_are_all_told(watch, far):
    manager, line = watch(far)
    heard = [[] for _ in range(20)]
    threads = [threading.Thread(target=line.on, args=(["key.published"], steps.append)) for steps in heard]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    manager.rotate()
    until(lambda: all(len(steps) == 1 for steps in heard))


# By the manager.


@pytest.fixture
def shop(tmp_path):
    """Makes managers from settings, as an app does."""
    (tmp_path / "kek").write_bytes(bytes(range(100, 132)))
    (tmp_path / "kek").chmod(0o600)

    def make(**rotation):
        return SecurityManager.from_config(
            {
                "service": {"name": "shop"},
                "mtls": {"client": "off"},
                "keys": {
                    "ring": "shop",
                    "store": f"file:{tmp_path / 'state' / 'ring.json'}",
                    "kek": f"file:{tmp_path / 'kek'}",
                    "activation_delay": "1s",
                },
                "rotation": {"poll": "100ms"} | rotation,
            },
            {},
        )

    return make


def test_the_manager_takes_listeners_by_a_decorator_before_its_start_and_after_it(shop):
    manager = shop(callbacks=["rotation.listeners:note"])
    heard = []

    @manager.on("key.published", "key.activated")
    def before(transition):
        heard.append(("before", transition.after))

    with manager:

        @manager.on("key.activated")
        async def after(transition):
            await asyncio.sleep(0)
            heard.append(("after", transition.after))

        assert callable(before)
        assert asyncio.iscoroutinefunction(after)
        manager.encryption.rotate()
        until(lambda: len(heard) == 3)
        assert sorted(heard) == [
            ("after", KeyState.PRIMARY), ("before", KeyState.PENDING), ("before", KeyState.PRIMARY),
        ]  # fmt: skip
        # Those of the file are told transitions as before: of the old key too.
        until(lambda: len(listeners.heard) == 3)


@pytest.mark.parametrize(
    ("events", "message"),
    [
        (
            ["key.activatd"],
            r"no event 'key\.activatd': there are key\.published, .*did you mean 'key\.activated'",
        ),
        (["activated"], "there are key.published, key.activated, key.demoted, key.retired, key.destroyed, "),
        (["distrusted"], "key.distrusted; did you mean 'key.distrusted'"),
        (["key.published", ""], "no event ''"),
        ([None], "no event None"),
        ([lambda transition: None], "no event <function"),
        ([], "name at least one event: key.published"),
    ],
)
def test_an_event_that_there_is_not_is_told_with_those_that_there_are(shop, events, message):
    with pytest.raises(ValueError, match=message):
        shop().on(*events)


def test_without_keys_there_is_nothing_to_tell_and_names_are_checked_all_the_same():
    manager = SecurityManager.from_config({"service": {"name": "shop"}, "mtls": {"client": "off"}}, {})

    @manager.on("key.activated")
    def listen(transition):
        raise AssertionError

    with manager, pytest.raises(ValueError, match="did you mean"):
        manager.on("key.retire")


def test_two_managers_of_one_ring_tell_each_other_over_a_broker_and_say_how_it_is(shop, redis_url):
    heard = []
    with shop(broker=redis_url) as first, shop(broker=redis_url) as second:
        second.on("key.published")(heard.append)
        for manager in (first, second):
            until(lambda manager=manager: manager.status()["rotation"]["broker"]["ready"])
        kid = first.encryption.rotate()
        until(lambda: heard)
        assert [step.kid for step in heard] == [kid]
        until(lambda: second.status()["rotation"]["broker"]["notices_seen"] == 1)
        status = json.dumps(second.status())
        assert redis_url not in status
        assert redis_url.partition("@")[0].rpartition(":")[2] not in status
        assert set(second.status()["rotation"]["broker"]) == {
            "address", "connected_since", "ready", "reconnects", "trouble",
            "notices_sent", "notices_seen", "notices_not_new", "notices_dropped",
        }  # fmt: skip


def test_the_broker_of_the_settings_is_asked_for_a_certificate_of_its_ca(shop, tmp_path):
    trustme.CA().cert_pem.write_to_path(tmp_path / "broker.pem")
    manager = shop(broker="amqps://127.0.0.1:1", broker_ca=str(tmp_path / "broker.pem"))
    with manager:
        assert manager.status()["rotation"]["broker"]["address"] == "amqps://127.0.0.1:1"


def test_a_manager_without_a_broker_says_that_there_is_none(shop):
    with shop() as manager:
        assert manager.status()["rotation"]["broker"] is None
