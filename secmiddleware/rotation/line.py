"""The rotation line: one daemon thread of a process looks at the store, tends the ring and tells callbacks.

The only place where shared state is read while requests are served; requests themselves see snapshots.
"""

from __future__ import annotations

import asyncio
import logging
import os
import queue
import random
import threading
import time
import weakref
from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from typing import Any, Final, Literal

from secmiddleware.encryption.document import show_time
from secmiddleware.encryption.manager import EncryptionManager, Transition, utc_now
from secmiddleware.rotation.callbacks import Callback, resolve

_JITTER: Final = 0.1
"""Looks are spread by a tenth, so that processes that started together do not look together for ever."""
_NEAR_SECONDS: Final = 1.0
"""A store of this host is looked at this often at least: one stat()."""
_LOOK_GAP_SECONDS: Final = 1.0
"""The least time between looks that requests ask for: callers choose key ids."""
_TEND_GAP_SECONDS: Final = 0.05
"""The least time between turns when uses are short: while the store is away, every seal asks."""
_SHORTEST_SECONDS: Final = 0.001
_STOP_SECONDS: Final = 0.08
"""How long `stop` waits for the thread; one that hangs in the store is left to end by itself."""

_Call = Literal["look", "tend", "stop"]

_chance: Final = random.SystemRandom()
"""Without a state, which a fork would copy and which an app may have seeded."""

_logger: Final = logging.getLogger("secmiddleware.rotation")


class RotationLine:
    """Watches the store of one EncryptionManager in one thread.

    Started in the process that serves, after `manager.start()`. The child of a fork has no thread; it gets
    one of its own at its first `start`, or as soon as a request asks for a look or for uses.
    """

    def __init__(
        self,
        manager: EncryptionManager,
        *,
        poll: timedelta = timedelta(seconds=30),
        callbacks: Sequence[str] = (),
    ) -> None:
        """Starts and imports nothing.

        Args:
            manager: whose store is watched.
            poll: the longest time between two looks; a store of this host is looked at every second at least.
            callbacks: `module:function`, each called with a Transition; sync or async.

        Raises:
            ValueError: `poll` is not longer than nothing.
        """
        if poll <= timedelta(0):
            raise ValueError("the time between two looks at the store must be longer than nothing")
        self._manager = manager
        longest = poll.total_seconds()
        self._interval = longest if manager.reach == "network" else min(longest, _NEAR_SECONDS)
        self._references = tuple(callbacks)
        self._callbacks: tuple[Callback, ...] = ()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._starting = threading.Lock()
        self._wanted = False
        self._thread: threading.Thread | None = None
        self._calls: queue.SimpleQueue[_Call] = queue.SimpleQueue()
        self._called: set[_Call] = set()
        self._last_turn: datetime | None = None
        _lines.add(self)

    def start(self) -> None:
        """Starts the thread, if there is none. Called on an event loop, that loop runs async callbacks.

        Raises:
            ConfigError: a callback cannot be imported.
        """
        try:
            self._loop = asyncio.get_running_loop()
        except RuntimeError:
            self._loop = None
        with self._starting:
            if self._thread is not None:
                return
            functions = [
                (reference, resolve(reference, f"rotation.callbacks[{index}]"))
                for index, reference in enumerate(self._references)
            ]
            self._callbacks = tuple(Callback(name, function, self._loop) for name, function in functions)
            self._wanted = True
            self._begin()
        self._manager.watched_by(self.wake, self.tend_soon)

    def wake(self) -> None:
        """Asks for a look at the store, at most one a second. Never blocks; a stopped line does nothing."""
        self._call("look")

    def tend_soon(self) -> None:
        """Asks for a turn at once, because uses run short or this process has rotated. Never blocks."""
        self._call("tend")

    def stop(self) -> None:
        """Ends the thread; takes less than 100 ms whatever the store does. The line can be started again."""
        with self._starting:
            self._wanted = False
            thread, self._thread = self._thread, None
            self._calls.put("stop")
            for callback in self._callbacks:
                callback.end()
        if thread is not None and thread is not threading.current_thread():
            thread.join(_STOP_SECONDS)

    def health(self) -> dict[str, Any]:
        """How the line is, as JSON-ready data."""
        thread = self._thread
        return {
            "running": thread is not None and thread.is_alive(),
            "look_every_seconds": self._interval,
            "last_turn": None if self._last_turn is None else show_time(self._last_turn),
            "callbacks": [
                {"name": callback.name, "told": callback.told, "failed": callback.failed}
                for callback in self._callbacks
            ],
        }

    def _begin(self) -> None:
        self._calls = queue.SimpleQueue()
        self._called = set()
        # The thread gets its queue: one that was left behind by `stop` must not read the next one's.
        self._thread = threading.Thread(
            target=self._run, args=(self._calls, self._called), name="secmiddleware-rotation", daemon=True
        )
        self._thread.start()

    def _call(self, call: _Call) -> None:
        if not self._wanted:
            return
        if self._thread is None:
            self._begin_in_child()
        if call not in self._called:
            self._called.add(call)
            self._calls.put(call)

    def _begin_in_child(self) -> None:
        if self._starting.acquire(blocking=False):
            try:
                if self._wanted and self._thread is None:
                    self._callbacks = tuple(callback.anew() for callback in self._callbacks)
                    self._begin()
            finally:
                self._starting.release()

    def _run(self, calls: queue.SimpleQueue[_Call], called: set[_Call]) -> None:
        due = last = time.monotonic()
        while True:
            wait = due - time.monotonic()
            if wait <= 0:
                # Asked for until now is answered by this turn; whoever asks during it gets another.
                called.clear()
                self._turn()
                last = time.monotonic()
                due = last + self._pause()
                continue
            try:
                call = calls.get(timeout=wait)
            except queue.Empty:
                continue
            if call == "stop":
                return
            gap = min(_LOOK_GAP_SECONDS, self._interval) if call == "look" else _TEND_GAP_SECONDS
            due = min(due, last + gap)

    def _turn(self) -> None:
        for step in (self._manager.look, self._manager.tend):
            try:
                transitions = step()
            except Exception:
                # The manager keeps its own troubles; anything else is a defect, and must not end the watch.
                _logger.exception("the rotation line met an error; it goes on")
                return
            # What the one step has learned is told even where the next one fails.
            self._tell(transitions)
        self._last_turn = utc_now()

    def _tell(self, transitions: Iterable[Transition]) -> None:
        for transition in transitions:
            _logger.info("ring %s: key %s is %s", transition.ring, transition.kid, transition.after)
            for callback in self._callbacks:
                callback.tell(transition)

    def _pause(self) -> float:
        pause = self._interval * _chance.uniform(1 - _JITTER, 1 + _JITTER)
        change = self._manager.seconds_to_change()
        return pause if change is None else max(_SHORTEST_SECONDS, min(pause, change))

    def _leave_the_parent(self) -> None:
        self._thread = None
        self._starting = threading.Lock()


def _after_fork_in_child() -> None:
    for line in list(_lines):
        line._leave_the_parent()  # noqa: SLF001  (this module's own)


_lines: Final[weakref.WeakSet[RotationLine]] = weakref.WeakSet()
os.register_at_fork(after_in_child=_after_fork_in_child)
