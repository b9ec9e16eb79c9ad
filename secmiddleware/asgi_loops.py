"""What the ASGI shell asks of the loop that runs it, asyncio's or trio's: work aside of it, and a vigil.

A vigil stands beside the one app of a websocket: a timer, waits for the server that can be broken off, and a
last word to the client that is said beside whatever the app does. Under asyncio that is a timer of the loop
and, at the end, a task; under trio a nursery round the app, from which nothing comes out in a group that did
not go in so. trio is imported where it runs, and nowhere else.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager, suppress
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeVar

if TYPE_CHECKING:
    import trio

# A client that does not answer a close frame, or does not read, is the server's business from then on.
_FAREWELL_SECONDS: Final = 5.0

_Result = TypeVar("_Result")


class SocketEndedError(OSError):
    """What an app's `send` raises once its websocket was ended by us, as servers do after a disconnect."""


def _on_trio() -> bool:
    """Whether it is a task of trio's that asks. Within its guest mode there is a loop of asyncio's, too."""
    if "trio" not in sys.modules:
        return False
    import trio

    try:
        trio.lowlevel.current_task()
    except RuntimeError:
        return False
    return True


async def aside(work: Callable[[], _Result]) -> _Result:
    """What the work gives, done in a thread while the loop goes on.

    Once begun it is done to its end, also where whoever waits is cancelled: nobody meets it half done.
    """
    if _on_trio():
        import trio

        return await trio.to_thread.run_sync(work)
    done = asyncio.ensure_future(asyncio.to_thread(work))
    try:
        return await asyncio.shield(done)
    except asyncio.CancelledError:
        while not done.done():
            with suppress(asyncio.CancelledError):
                await asyncio.wait((done,))
        if not done.cancelled():
            done.exception()  # looked at: whoever was to hear of it is cancelled
        raise


def make_lock() -> AbstractAsyncContextManager[Any]:
    """A lock of the loop that runs us; whoever has come first has it first."""
    if _on_trio():
        import trio

        return trio.Lock()
    return asyncio.Lock()


class Vigil(Protocol):
    """What stands beside the app of one websocket."""

    async def keep(self, call: Callable[[], Awaitable[None]]) -> None:
        """Call the app, and return when it has and the last word is said; what it raises comes as it is."""

    def look_in(self, seconds: float, look: Callable[[], None]) -> None:
        """Have `look` called after so long, in place of what was to be called before."""

    def rest(self) -> None:
        """Have nothing called any more."""

    def end(self, farewell: Callable[[], Awaitable[None]]) -> None:
        """Break off all waits, and have the last word said."""

    async def unless_over(self, waiting: Awaitable[_Result]) -> _Result:
        """What it gives; SocketEndedError as soon as `end` is called. Others' cancellations stay theirs."""


def make_vigil() -> Vigil:
    """The vigil for the loop that runs us."""
    return _TrioVigil() if _on_trio() else _AsyncioVigil()


class _AsyncioVigil:
    """One timer for each websocket, and no task but the last word's."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._farewell: asyncio.Future[None] | None = None
        self._waits: set[asyncio.Task[Any]] = set()
        """The tasks of the app that wait for the server just now."""
        self._woken: set[asyncio.Task[Any]] = set()
        """Those of them that we have cancelled."""

    async def keep(self, call: Callable[[], Awaitable[None]]) -> None:
        try:
            await call()
        finally:
            self.rest()
            if self._farewell is not None:
                try:
                    await asyncio.wait((self._farewell,), timeout=_FAREWELL_SECONDS)
                finally:
                    self._farewell.cancel()

    def look_in(self, seconds: float, look: Callable[[], None]) -> None:
        self.rest()
        self._timer = self._loop.call_later(seconds, look)

    def rest(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def end(self, farewell: Callable[[], Awaitable[None]]) -> None:
        self._farewell = asyncio.ensure_future(farewell())
        self._woken |= self._waits
        for task in self._waits:
            task.cancel()

    async def unless_over(self, waiting: Awaitable[_Result]) -> _Result:
        # As `asyncio.timeout` does it, at a fifth of the cost: a task that others have cancelled stays so.
        task = asyncio.current_task()
        if task is None:
            return await waiting
        before = task.cancelling()
        self._waits.add(task)
        try:
            return await waiting
        except asyncio.CancelledError as cancelled:
            if self._was_woken(task) and task.cancelling() <= before:
                raise SocketEndedError("the websocket was ended") from cancelled
            raise
        finally:
            self._waits.discard(task)
            self._was_woken(task)

    def _was_woken(self, task: asyncio.Task[Any]) -> bool:
        """Whether we have cancelled it; if so, takes that back."""
        if task not in self._woken:
            return False
        self._woken.discard(task)
        task.uncancel()
        return True


class _TrioVigil:
    """One task beside the app that sleeps until the next look."""

    def __init__(self) -> None:
        self._nursery: trio.Nursery | None = None
        """Round the app, as long as it runs."""
        self._timer: trio.CancelScope | None = None
        self._waits: set[trio.CancelScope] = set()

    async def keep(self, call: Callable[[], Awaitable[None]]) -> None:
        import trio

        raised: BaseException | None = None
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            try:
                await call()
            except BaseException as error:  # noqa: BLE001  (raised below: as it is, and not in a group)
                raised = error
            self.rest()
            self._nursery = None
            nursery.cancel_scope.deadline = trio.current_time() + _FAREWELL_SECONDS
        if raised is not None:
            try:
                raise raised
            finally:
                del raised  # its traceback has this frame in it

    def look_in(self, seconds: float, look: Callable[[], None]) -> None:
        import trio

        self.rest()
        if self._nursery is not None:
            self._timer = trio.CancelScope()
            self._nursery.start_soon(self._look_after, self._timer, seconds, look)

    def rest(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def end(self, farewell: Callable[[], Awaitable[None]]) -> None:
        if self._nursery is not None:
            self._nursery.start_soon(self._speak, farewell)
        for scope in self._waits:
            scope.cancel()

    async def unless_over(self, waiting: Awaitable[_Result]) -> _Result:
        import trio

        scope = trio.CancelScope()
        self._waits.add(scope)
        try:
            with scope:
                return await waiting
        finally:
            self._waits.discard(scope)
        raise SocketEndedError("the websocket was ended")

    # Neither of the two lets a cancellation out: a nursery would put it into a group, and the app's own with
    # it. Whoever cancels them cancels the app, or has seen it return.

    @staticmethod
    async def _look_after(timer: trio.CancelScope, seconds: float, look: Callable[[], None]) -> None:
        import trio

        with suppress(trio.Cancelled), timer:
            await trio.sleep(seconds)
            look()

    @staticmethod
    async def _speak(farewell: Callable[[], Awaitable[None]]) -> None:
        import trio

        with suppress(trio.Cancelled):
            await farewell()
