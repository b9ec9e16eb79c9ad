"""User callbacks: told of every transition, each in a thread of its own, so that none holds up another."""

from __future__ import annotations

import asyncio
import importlib
import inspect
import logging
import queue
import threading
from collections.abc import Awaitable, Callable, Iterable, Iterator
from dataclasses import replace
from difflib import get_close_matches
from typing import Any, Final

from secmiddleware.encryption.document import KeyState
from secmiddleware.encryption.manager import Transition
from secmiddleware.errors import ConfigError, Finding

_WAITING_LIMIT: Final = 256
"""Transitions kept for a callback that is busy; a ring has a few a month."""
_ASYNC_SECONDS: Final = 30.0
"""After which an async callback is cancelled and counts as failed."""

EVENTS: Final = {
    "key.published": KeyState.PENDING,
    "key.activated": KeyState.PRIMARY,
    "key.demoted": KeyState.DECRYPT_ONLY,
    "key.retired": KeyState.RETIRED,
    "key.destroyed": KeyState.DESTROYED,
}
"""What a key goes through, in this order, and the state that each step leads to."""
DISTRUSTED: Final = "key.distrusted"
"""What may become of a key in whatever state it is."""
_STEPS: Final = tuple(EVENTS.items())
_NAMES: Final = (*EVENTS, DISTRUSTED)

_logger: Final = logging.getLogger("secmiddleware.rotation")


def check_events(events: Iterable[str]) -> frozenset[str]:
    """The names as a set. Raises ValueError, with all that there are, for another one and for none."""
    wanted = tuple(events)
    if not wanted:
        raise ValueError(f"name at least one event: {', '.join(_NAMES)}")
    for event in wanted:
        if event not in _NAMES:
            near = get_close_matches(str(event), _NAMES, 1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise ValueError(f"there is no event {event!r}: there are {', '.join(_NAMES)}{hint}")
    return frozenset(wanted)


def steps_of(transition: Transition) -> Iterator[tuple[str, Transition]]:
    """Each step of a key's life that lies in a transition, with the name of its event.

    A process that slept, or that learns of a key late, sees several at once. None where a clock was put
    back.
    """
    if transition.distrusted:
        yield DISTRUSTED, transition
        return
    order = [state for _, state in _STEPS]
    first = 0 if transition.before is None else order.index(transition.before) + 1
    before = transition.before
    for event, after in _STEPS[first : order.index(transition.after) + 1]:
        yield event, replace(transition, before=before, after=after)
        before = after


def resolve(reference: str, key: str) -> Callable[[Transition], object]:
    """The callable that `module:function` names. Imports the module.

    Raises:
        ConfigError: there is no such thing, or it cannot be called; says so under `key`.
    """
    module, _, name = reference.partition(":")
    if not module or not name:
        raise ConfigError([Finding(key, f"{reference!r} is not module:function")])
    try:
        found: Any = importlib.import_module(module)
        for part in name.split("."):
            found = getattr(found, part)
    except Exception as error:  # a module that is being imported may raise anything
        raise ConfigError([Finding(key, f"{reference!r} cannot be imported: {error}")]) from error
    if not callable(found):
        raise ConfigError([Finding(key, f"{reference!r} cannot be called")])
    return found  # type: ignore[no-any-return]


class Callback:
    """One callback with its own queue and daemon thread; what it raises is logged and counted."""

    def __init__(
        self,
        name: str,
        function: Callable[[Transition], object],
        loop: asyncio.AbstractEventLoop | None,
        events: frozenset[str] | None = None,
    ) -> None:
        """An async function runs on `loop`, or on a loop of its own where there is none.

        `events` are the steps that it is told; None is for one that is told transitions as they were seen.
        """
        self.name = name
        self.events = events
        self.told = 0
        self.failed = 0
        self._function = function
        self._loop = loop
        self._waiting: queue.SimpleQueue[Transition | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name=f"secmiddleware-{name}", daemon=True)
        self._thread.start()

    def tell(self, transition: Transition) -> None:
        """Queues a transition. Never blocks: where a callback hangs, what is too much is dropped."""
        if self._waiting.qsize() >= _WAITING_LIMIT:
            self.failed += 1
            _logger.warning("callback %s hangs; %s is not told to it", self.name, transition)
            return
        self._waiting.put(transition)

    def end(self) -> None:
        """Lets the thread end after what is queued; waits for nothing."""
        self._waiting.put(None)

    def anew(self) -> Callback:
        """The same for the child of a fork, which has neither the thread nor the loop."""
        return Callback(self.name, self._function, None, self.events)

    def _run(self) -> None:
        while (transition := self._waiting.get()) is not None:
            try:
                result = self._function(transition)
                if inspect.isawaitable(result):
                    self._await(result)
            except BaseException:  # SystemExit and CancelledError too: the next transition is told as well
                self.failed += 1
                _logger.exception("callback %s failed for %s", self.name, transition)
            else:
                self.told += 1

    def _await(self, result: Awaitable[object]) -> None:
        async def limited() -> None:
            await asyncio.wait_for(result, _ASYNC_SECONDS)

        if self._loop is not None and self._loop.is_running():
            asyncio.run_coroutine_threadsafe(limited(), self._loop).result(2 * _ASYNC_SECONDS)
        else:
            asyncio.run(limited())
