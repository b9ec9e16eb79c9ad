"""What users' callbacks may do to each other, to the ring and to us: nothing."""

from __future__ import annotations

import asyncio
import logging
import sys
import threading
import time

import pytest
from rotation import listeners
from rotation.processes import until

from secmiddleware.encryption.document import KeyState
from secmiddleware.encryption.kek import Kek
from secmiddleware.encryption.manager import EncryptionManager, Transition
from secmiddleware.errors import ConfigError
from secmiddleware.rotation import callbacks
from secmiddleware.rotation.callbacks import Callback, resolve
from secmiddleware.rotation.line import RotationLine
from secmiddleware.rotation.stores import MemoryStore


def transition(gen=1):
    return Transition("payments", gen, "00000001", None, KeyState.PENDING)


@pytest.fixture
def begin():
    """A running callback; ended after the test."""
    begun = []

    def make(function, loop=None):
        begun.append(Callback(function.__name__, function, loop))
        return begun[-1]

    yield make
    for callback in begun:
        callback.end()


# Found.


@pytest.mark.parametrize(
    "reference",
    ["rotation.listeners:note", "rotation.listeners:Pager.page", "rotation.listeners:pager",
     "rotation.listeners:note_async"],
)  # fmt: skip
def test_a_reference_finds_what_can_be_called(begin, reference):
    function = resolve(reference, "rotation.callbacks[0]")
    callback = Callback(reference, function, None)
    callback.tell(transition())
    callback.end()
    until(lambda: listeners.heard == [transition()])


@pytest.mark.parametrize(
    "reference",
    [
        "rotation.listeners:nobody",
        "rotation.listeners:Pager.nobody",
        "rotation.listeners:number",
        "rotation.nobody:note",
        "nobody:note",
        "rotation.listeners",
        "rotation.listeners:",
        ":note",
        ":",
        "",
        ".listeners:note",
        "..:note",
        "rotation..listeners:note",
        "rotation.listeners:.",
        "rotation/listeners:note",
        "a\0b:note",
    ],
)
def test_a_reference_to_nothing_is_a_finding_under_its_key(reference):
    with pytest.raises(ConfigError) as raised:
        resolve(reference, "rotation.callbacks[3]")
    (finding,) = raised.value.findings
    assert finding.key == "rotation.callbacks[3]"
    assert repr(reference) in finding.message


@pytest.mark.parametrize(
    "source", ["raise RuntimeError('not now')", "def broken(:", "1 / 0", "import nothing_of_that_name"]
)
def test_a_module_that_cannot_be_imported_is_a_finding_whatever_it_raises(tmp_path, monkeypatch, source):
    (tmp_path / "broken_shop.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "broken_shop", raising=False)
    with pytest.raises(ConfigError) as raised:
        resolve("broken_shop:on_rotation", "rotation.callbacks[0]")
    assert raised.value.findings[0].key == "rotation.callbacks[0]"
    assert raised.value.__cause__ is not None


def test_a_line_with_a_callback_that_is_missing_does_not_start():
    manager = EncryptionManager(MemoryStore(), Kek(bytes(range(200, 232))), "payments")
    manager.start()
    line = RotationLine(manager, callbacks=["rotation.listeners:note", "rotation.listeners:nobody"])
    before = threading.active_count()
    with pytest.raises(ConfigError) as raised:
        line.start()
    assert [finding.key for finding in raised.value.findings] == ["rotation.callbacks[1]"]
    assert not line.health()["running"]
    assert threading.active_count() == before


# Told.


@pytest.mark.parametrize("function", [listeners.note, listeners.note_async])
def test_everything_is_told_once_and_in_order(begin, function):
    callback = begin(function)
    for gen in range(1, 51):
        callback.tell(transition(gen))
    until(lambda: callback.told == 50)
    assert [told.gen for told in listeners.heard] == list(range(1, 51))
    assert callback.failed == 0


@pytest.mark.parametrize(
    "function", [listeners.fail, listeners.fail_async, listeners.leave, listeners.give_up]
)
def test_what_a_callback_raises_is_logged_and_counted_and_the_next_is_told(begin, function, caplog):
    callback = begin(function)
    with caplog.at_level(logging.ERROR, "secmiddleware.rotation"):
        callback.tell(transition(1))
        callback.tell(transition(2))
        until(lambda: len(caplog.records) == 2)
    assert (callback.told, callback.failed) == (0, 2)
    assert {record.levelname for record in caplog.records} == {"ERROR"}
    assert function.__name__ in caplog.text


@pytest.mark.parametrize("other", [listeners.fail, listeners.leave, listeners.hang, listeners.hang_async])
def test_one_callback_does_not_hold_up_another(begin, other):
    bad, good = begin(other), begin(listeners.note)
    for gen in range(1, 4):
        bad.tell(transition(gen))
        good.tell(transition(gen))
    until(lambda: good.told == 3)
    assert bad.told == 0


def test_telling_never_blocks_and_what_is_too_much_for_a_hanging_one_is_dropped(begin, caplog):
    callback = begin(listeners.hang)
    callback.tell(transition())
    until(lambda: callback._waiting.empty())
    begun = time.monotonic()
    with caplog.at_level(logging.WARNING, "secmiddleware.rotation"):
        for gen in range(300):
            callback.tell(transition(gen))
    assert time.monotonic() - begun < 2
    assert callback.failed == 300 - 256
    assert "hangs" in caplog.text
    listeners.let_go.set()
    until(lambda: callback.told == 257)


def test_an_async_callback_that_hangs_is_cancelled_and_the_next_is_told(begin, monkeypatch):
    monkeypatch.setattr(callbacks, "_ASYNC_SECONDS", 0.05)
    callback = begin(listeners.hang_async)
    callback.tell(transition(1))
    callback.tell(transition(2))
    until(lambda: callback.failed == 2)


def test_an_async_callback_runs_on_the_loop_of_the_server(begin):
    async def serve():
        callback = begin(listeners.note_async, asyncio.get_running_loop())
        callback.tell(transition())
        await asyncio.to_thread(until, lambda: callback.told)

    asyncio.run(serve())
    assert listeners.threads == [threading.current_thread()]


def test_an_async_callback_outlives_the_loop_that_it_was_given(begin):
    async def serve():
        return asyncio.get_running_loop()

    callback = begin(listeners.note_async, asyncio.run(serve()))
    callback.tell(transition())
    until(lambda: callback.told == 1)
    assert listeners.threads != [threading.current_thread()]


def test_a_sync_callback_does_not_run_on_the_loop_and_does_not_block_it(begin):
    async def serve():
        callback = begin(listeners.hang, asyncio.get_running_loop())
        callback.tell(transition())
        begun = time.monotonic()
        await asyncio.sleep(0.01)
        return time.monotonic() - begun

    assert asyncio.run(serve()) < 2


def test_what_was_queued_before_the_end_is_still_told(begin):
    callback = begin(listeners.note)
    for gen in range(1, 11):
        callback.tell(transition(gen))
    callback.end()
    callback._thread.join(20)
    assert not callback._thread.is_alive()
    assert callback.told == 10


def test_a_callback_holds_no_process_up_at_its_end(begin):
    assert begin(listeners.hang)._thread.daemon
