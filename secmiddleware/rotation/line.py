"""The rotation line: one daemon thread of a process looks at the store, tends the ring and tells callbacks.

It looks at what else is watched, too: the files of certificates. The only place where shared state is read
while requests are served; requests themselves see snapshots. When it looks: at every poll, when a notice says
so, when listening for notices has begun (again), when a request asks.
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
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime, timedelta
from typing import Any, Final, Literal

from secmiddleware.encryption.document import show_time
from secmiddleware.encryption.manager import EncryptionManager, Transition, utc_now
from secmiddleware.encryption.record import RECORD
from secmiddleware.rotation.callbacks import Callback, check_events, resolve, steps_of
from secmiddleware.rotation.notices import Messenger, Notice, NoticeReader, write_notice

_JITTER: Final = 0.1
"""Looks are spread by a tenth, so that processes that started together do not look together for ever."""
_NEAR_SECONDS: Final = 1.0
"""A store of this host is looked at this often at least: one stat()."""
_LOOK_GAP_SECONDS: Final = 1.0
"""The least time between looks that requests ask for: callers choose key ids."""
_TEND_GAP_SECONDS: Final = 0.05
"""The least time between turns when uses are short: while the store is away, every seal asks."""
_SPREAD_SECONDS: Final = 0.2
"""Over which the processes of a fleet spread the look that a notice asks them for."""
_SHORTEST_SECONDS: Final = 0.001
_STOP_SECONDS: Final = 0.08
"""How long `stop` waits for the thread; one that hangs in the store is left to end by itself."""

_Call = Literal["look", "tend", "notice", "stop"]

_chance: Final = random.SystemRandom()
"""Without a state, which a fork would copy and which an app may have seeded."""

_logger: Final = logging.getLogger("secmiddleware.rotation")


class RotationLine:
    """Watches the store of one EncryptionManager, and what else there is, in one thread.

    Started in the process that serves, after `manager.start()`. The child of a fork has no thread; it gets
    one of its own at its first `start`, or as soon as a request asks for a look or for uses.
    """

    def __init__(
        self,
        manager: EncryptionManager | None,
        *,
        poll: timedelta = timedelta(seconds=30),
        callbacks: Sequence[str] = (),
        messenger: Messenger | None = None,
        watches: Sequence[Callable[[], object]] = (),
    ) -> None:
        """Starts and imports nothing.

        Args:
            manager: whose store is watched; None where there is nothing but `watches`.
            poll: the longest time between two looks; a store of this host is looked at every second at least.
            callbacks: `module:function`, each called with a Transition; sync or async.
            messenger: tells other processes what this one has published, and brings their notices; it is
                started and stopped with the line.
            watches: called at every look; each stats files of this host, and takes long only where one has
                changed.

        Raises:
            ValueError: `poll` is not longer than nothing.
        """
        if poll <= timedelta(0):
            raise ValueError("the time between two looks at the store must be longer than nothing")
        self._manager = manager
        self._watches = tuple(watches)
        longest = poll.total_seconds()
        far = manager is not None and manager.reach == "network"
        self._interval = longest if far else min(longest, _NEAR_SECONDS)
        self._references = tuple(callbacks)
        self._listeners: list[tuple[Callable[[Transition], object], frozenset[str]]] = []
        self._callbacks: tuple[Callback, ...] = ()
        self._messenger = messenger
        self._notices = None if manager is None else NoticeReader(manager.ring, manager.mac_of_notice)
        self._not_new = 0
        self._connections = 0
        """How often listening has begun, and for which of these the store was looked at since."""
        self._caught_up = 0
        self._told: set[tuple[str, str]] = set()
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
            self._callbacks = (
                *(Callback(name, function, self._loop) for name, function in functions),
                *(self._listening(function, events) for function, events in self._listeners),
            )
            self._wanted = True
            self._begin()
        if self._manager is not None:
            self._manager.watched_by(self.wake, self.tend_soon, self._announce)

    def on(self, events: Iterable[str], function: Callable[[Transition], object]) -> None:
        """Has a function, sync or async, told of each step with one of these names, from now on.

        It gets a Transition of that one step, once in a process for each key, however it was learned of.

        Raises:
            ValueError: there is no event of such a name.
        """
        names = check_events(events)
        if self._wanted and self._thread is None:
            self._begin_in_child()
        with self._starting:
            self._listeners.append((function, names))
            if self._thread is not None:
                self._callbacks = (*self._callbacks, self._listening(function, names))

    def wake(self) -> None:
        """Asks for a look at the store, at most one a second. Never blocks; a stopped line does nothing."""
        self._call("look")

    def tend_soon(self) -> None:
        """Asks for a turn at once, because uses run short or this process has rotated. Never blocks."""
        self._call("tend")

    def stop(self) -> None:
        """Ends the thread; takes less than 100 ms whatever store and broker do. It can be started again."""
        until = time.monotonic() + _STOP_SECONDS
        with self._starting:
            self._wanted = False
            thread, self._thread = self._thread, None
            self._calls.put("stop")
            for callback in self._callbacks:
                callback.end()
            if self._messenger is not None:
                self._messenger.stop()
        if thread is not None and thread is not threading.current_thread():
            thread.join(max(0.0, until - time.monotonic()))
        if self._messenger is not None:
            self._messenger.join(max(0.0, until - time.monotonic()))

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
            "broker": self._broker_health(),
        }

    def _broker_health(self) -> dict[str, Any] | None:
        if self._messenger is None or self._notices is None:
            return None
        health = self._messenger.health()
        connected = health["connected_since"] is not None
        return health | {
            # Whatever was told before it listened was not heard: only a look after that makes it ready.
            "ready": connected and self._caught_up == self._connections,
            "notices_seen": self._notices.seen,
            "notices_not_new": self._not_new,
            "notices_dropped": dict(self._notices.dropped),
        }

    def _listening(self, function: Callable[[Transition], object], events: frozenset[str]) -> Callback:
        # An object that can be called may have neither name.
        where = getattr(function, "__module__", type(function).__module__)
        name = f"{where}:{getattr(function, '__qualname__', type(function).__qualname__)}"
        return Callback(name, function, self._loop, events)

    def _announce(self) -> None:
        if self._messenger is not None:
            self._messenger.announce()

    def _take(self, body: bytes) -> None:
        """What the messenger brought. Only an authentic notice of something new makes the line look."""
        if self._notices is None or self._manager is None:
            return
        result = self._notices.read(body, utc_now())
        if not isinstance(result, Notice):
            _logger.debug("ring %s: a notice was dropped: %s", self._manager.ring, result.reason)
        elif result.record != RECORD or result.gen <= self._gen():
            # Our own too, for a broker brings them back.
            self._not_new += 1
        else:
            _logger.info("ring %s: a notice says that generation %d is there", result.ring, result.gen)
            self._call("notice")

    def _compose(self) -> bytes:
        if self._manager is None:
            raise AssertionError("where there is no ring, nobody is told of one")
        return write_notice(self._manager.ring, RECORD, self._gen(), utc_now(), self._manager.mac_of_notice)

    def _connected(self) -> None:
        self._connections += 1
        self._call("notice")

    def _gen(self) -> int:
        keyring = None if self._manager is None else self._manager.keyring
        return 0 if keyring is None else keyring.gen

    def _begin(self) -> None:
        self._calls = queue.SimpleQueue()
        self._called = set()
        # The thread gets its queue: one that was left behind by `stop` must not read the next one's.
        self._thread = threading.Thread(
            target=self._run, args=(self._calls, self._called), name="secmiddleware-rotation", daemon=True
        )
        self._thread.start()
        if self._messenger is not None:
            self._messenger.start(take=self._take, compose=self._compose, connected=self._connected)

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
                connections = self._connections
                self._turn()
                self._caught_up = connections
                last = time.monotonic()
                due = last + self._pause()
                continue
            try:
                call = calls.get(timeout=wait)
            except queue.Empty:
                continue
            match call:
                case "stop":
                    return
                case "look":
                    asked = last + min(_LOOK_GAP_SECONDS, self._interval)
                case "tend":
                    asked = last + _TEND_GAP_SECONDS
                case "notice":
                    spread = time.monotonic() + _chance.uniform(0, _SPREAD_SECONDS)
                    asked = max(last + _TEND_GAP_SECONDS, spread)
            due = min(due, asked)

    def _turn(self) -> None:
        for watch in self._watches:
            try:
                watch()
            except Exception:
                _logger.exception("what is watched beside the ring met an error; the line goes on")
        for step in () if self._manager is None else (self._manager.look, self._manager.tend):
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
            state = "distrusted" if transition.distrusted else transition.after
            _logger.info("ring %s: key %s is %s", transition.ring, transition.kid, state)
            for callback in self._callbacks:
                if callback.events is None:
                    callback.tell(transition)
            for event, step in steps_of(transition):
                # A clock that was put back comes by the same instant twice.
                if (step.kid, event) in self._told:
                    continue
                self._told.add((step.kid, event))
                for callback in self._callbacks:
                    if callback.events is not None and event in callback.events:
                        callback.tell(step)

    def _pause(self) -> float:
        pause = self._interval * _chance.uniform(1 - _JITTER, 1 + _JITTER)
        change = None if self._manager is None else self._manager.seconds_to_change()
        return pause if change is None else max(_SHORTEST_SECONDS, min(pause, change))

    def _leave_the_parent(self) -> None:
        self._thread = None
        self._starting = threading.Lock()


def _after_fork_in_child() -> None:
    for line in list(_lines):
        line._leave_the_parent()  # noqa: SLF001  (this module's own)


_lines: Final[weakref.WeakSet[RotationLine]] = weakref.WeakSet()
os.register_at_fork(after_in_child=_after_fork_in_child)
