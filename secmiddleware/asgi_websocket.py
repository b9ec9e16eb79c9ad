"""A websocket at the gate and after it: how it is denied, rewritten, and judged again if it lives long.

A websocket is judged before it is accepted, and then every `[mtls] recheck` by the same pure verdict: on the
head that it came with, the snapshot and the time of that moment. Where the verdict has changed the socket is
ended: the client gets the close code 1008, the app `websocket.disconnect`. One timer for each socket, no task
and no thread; without asyncio (hypercorn has trio's workers, too) it is judged at its messages instead.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any, Final, TypeVar

from secmiddleware.engine import Admission
from secmiddleware.fields.flows import Flow
from secmiddleware.fields.frames import Frames
from secmiddleware.messages import (
    SWITCHING_PROTOCOLS,
    Body,
    Event,
    Head,
    Identity,
    Refusal,
    ResponseHead,
)
from secmiddleware.scopes import App, Message, Receive, Scope, Send, headers_of

logger = logging.getLogger("secmiddleware.asgi")

_POLICY_VIOLATION: Final = 1008  # RFC 6455 §7.4.1
_INTERNAL_ERROR: Final = 1011
# Besides it: a type that is not taken, data that is not what it says, too much, and what is wrong with us.
_CLOSE_CODES: Final = {
    "payload_encoding": 1003,
    "payload_malformed": 1007,
    "payload_too_large": 1009,
    "seal_failed": _INTERNAL_ERROR,
    "internal_error": _INTERNAL_ERROR,
}

# A client that does not answer a close frame, or does not read, is the server's business from then on.
_FAREWELL_SECONDS: Final = 5.0

# A thousand clients that came back at once after a restart shall not be looked at in one go ever after.
_EARLIEST: Final = 0.75

# Clocks are coarse: a timer may fire a little before the instant at which a certificate ends.
_SOON_SECONDS: Final = 0.02

_Result = TypeVar("_Result")


class SocketEndedError(OSError):
    """What an app's `send` raises once its websocket was ended by us, as servers do after a disconnect."""


async def deny(scope: Scope, send: Send, refusal: Refusal, trace_id: str) -> int | None:
    """Send the problem in place of an acceptance; the status that left.

    Where the server offers no denial response it is a close with 1008, or 1011 where the fault is ours, and
    the code as its reason, and None.
    """
    if "websocket.http.response" not in (scope.get("extensions") or {}):
        code = _INTERNAL_ERROR if refusal.status == 500 else _POLICY_VIOLATION
        await send({"type": "websocket.close", "code": code, "reason": refusal.code})
        return None
    head, problem = refusal.problem(trace_id)
    start = {"type": "websocket.http.response.start", "status": head.status, "headers": list(head.headers)}
    await send(start)
    await send({"type": "websocket.http.response.body", "body": problem, "more_body": False})
    return head.status


class Socket:
    """An admitted websocket, judged again as long as it lives; `refusal` says why it was ended, if it was."""

    def __init__(
        self,
        receive: Receive,
        send: Send,
        *,
        judge: Callable[[], Admission | Refusal],
        recheck: timedelta | None,
        deny: Callable[[Refusal], Awaitable[None]],
        frames: Frames | None = None,
    ) -> None:
        """`judge` gives the verdict of now; `deny` refuses a socket that the app has not accepted yet.

        `frames` rewrites its messages, and what the app answers to the handshake.
        """
        self.refusal: Refusal | None = None
        self._receive = receive
        self._send = send
        self._judge = judge
        self._recheck = None if recheck is None else recheck.total_seconds()
        self._frames = frames
        self._code = _POLICY_VIOLATION
        self._deny = deny
        self._identity: Identity | None = None
        self._raises = False
        self._connected = False
        self._accepted = False
        self._denied = False
        """Whether the app's own denial has begun to leave."""
        self._due = 0.0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._farewell: asyncio.Task[None] | None = None
        self._waits: set[asyncio.Task[Any]] = set()
        """The tasks of the app that wait for the server just now."""
        self._woken: set[asyncio.Task[Any]] = set()
        """Those of them that we have cancelled."""

    async def drive(self, app: App, scope: Scope, admission: Admission) -> None:
        """Call the app; returns when it has, and the client of an ended socket has been told."""
        self._raises = _raises_after_the_end(scope)
        with suppress(RuntimeError):  # another loop than asyncio's
            self._loop = asyncio.get_running_loop()
        self._identity = admission.identity
        self._wait(admission)
        try:
            await app(scope, self._hear, self._say)
        except SocketEndedError:
            pass  # the app has let it through: it is no error of the app's
        finally:
            self._rest()
            if self._farewell is not None:
                await asyncio.wait((self._farewell,), timeout=_FAREWELL_SECONDS)
                self._farewell.cancel()

    async def _hear(self) -> Message:
        """The app's `receive`."""
        if self.refusal is None:
            with suppress(SocketEndedError):
                message = await self._unless_ended(self._receive())
                await self._look_without_timer()
                if self.refusal is None:
                    self._connected = True
                    if message["type"] == "websocket.disconnect":
                        self._rest()
                    rewritten = await self._rewritten(message)
                    if rewritten:
                        return rewritten[0]
        reason = "" if self.refusal is None else self.refusal.code
        return {"type": "websocket.disconnect", "code": self._code, "reason": reason}

    async def _say(self, message: Message) -> None:
        """The app's `send`."""
        await self._look_without_timer()
        if self.refusal is not None:
            if self._raises and message["type"] != "websocket.close":
                raise SocketEndedError(f"the websocket was ended: {self.refusal.code}")
            return
        if message["type"] in ("websocket.close", "websocket.http.response.start"):
            self._rest()
        rewritten = await self._rewritten(message)
        if rewritten is None and self._raises:
            raise SocketEndedError("the websocket was ended: a message could not be sealed")
        for leaving in rewritten or ():
            match leaving["type"]:
                case "websocket.accept":
                    self._accepted = True
                case "websocket.http.response.start":
                    self._denied = True
            await self._unless_ended(self._send(leaving))

    async def _rewritten(self, message: Message) -> Sequence[Message] | None:
        """What goes on now of the message; None where it must not, and the socket is ended for it."""
        if self._frames is None:
            return (message,)
        outcome = _rewritten(self._frames, message)
        if not isinstance(outcome, Refusal):
            return outcome
        self._end(outcome, _CLOSE_CODES.get(outcome.code, _POLICY_VIOLATION))
        if self._loop is None:
            await self._say_farewell(outcome)
        return None

    async def _unless_ended(self, waiting: Awaitable[_Result]) -> _Result:
        """What it gives; SocketEndedError as soon as the socket is ended.

        As `asyncio.timeout` does it, at a fifth of the cost: a task that others have cancelled stays so.
        """
        task = None if self._loop is None else asyncio.current_task()
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

    def _wait(self, admission: Admission) -> None:
        """Have it judged again after a while: at the end of its certificate, or sooner."""
        if self._recheck is None:
            self._due = float("inf")
            return
        seconds = self._recheck * random.uniform(_EARLIEST, 1)  # noqa: S311  (a pace is no secret)
        if admission.identity is not None:
            # The last second counts (see `judgement`).
            left = admission.identity.not_after - datetime.now(UTC) + timedelta(seconds=1)
            seconds = max(_SOON_SECONDS, min(seconds, left.total_seconds()))
        if self._loop is None:
            self._due = time.monotonic() + seconds
        else:
            self._timer = self._loop.call_later(seconds, self._look)

    def _rest(self) -> None:
        """Look no more: it is over."""
        self._due = float("inf")
        if self._timer is not None:
            self._timer.cancel()

    def _look(self) -> None:
        """Judge it again; end it where it is not let in any more."""
        try:
            verdict = self._judge()
        except Exception:
            logger.exception("an open websocket cannot be judged; it is ended")
            verdict = Refusal("internal_error")
        if isinstance(verdict, Admission):
            if verdict.identity == self._identity:
                self._wait(verdict)
                return
            # It may come in, but as somebody else, or as nobody: the app goes by what it was told.
            lost = verdict.unaccepted
            verdict = Refusal("identity_not_allowed" if lost is None else lost.code)
        self._end(verdict)

    def _end(self, refusal: Refusal, code: int = _POLICY_VIOLATION) -> None:
        """It is over: say so to whoever waits, and to the client."""
        self._rest()
        self.refusal = refusal
        self._code = code
        if self._loop is None:
            return
        self._farewell = self._loop.create_task(self._say_farewell(refusal))
        self._woken |= self._waits
        for task in self._waits:
            task.cancel()

    async def _look_without_timer(self) -> None:
        if self._loop is None and time.monotonic() >= self._due:
            self._look()
            if self.refusal is not None:
                await self._say_farewell(self.refusal)

    async def _say_farewell(self, refusal: Refusal) -> None:
        with suppress(Exception):  # the client may be gone by itself: then nobody is left to be told
            if self._accepted:
                close = {"type": "websocket.close", "code": self._code, "reason": refusal.code}
                await self._send(close)
                return
            if self._denied:
                return  # that it stays unfinished tells the client
            if not self._connected:
                await self._receive()
            await self._deny(refusal)


def _rewritten(frames: Frames, message: Message) -> Sequence[Message] | Refusal:
    """What goes on of a message that comes or leaves, or why the socket must end."""
    content = _content(message)
    outcome: str | bytes | Refusal
    match message["type"]:
        case "websocket.send" if message.get("text") is not None and message.get("bytes") is not None:
            # Servers send the bytes; the specification allows one of them, and nobody looks at two.
            outcome = Refusal("seal_failed")
        case "websocket.receive":
            outcome = frames.receive(content)
        case "websocket.send":
            outcome = frames.send(content)
        case "websocket.accept" if frames.leaks(str(message.get("subprotocol") or "")):
            outcome = Refusal("seal_failed")
        case "websocket.accept" | "websocket.http.response.start" | "websocket.http.response.body":
            return _answered(frames.answer, message)
        case "websocket.close" if frames.leaks(str(message.get("reason") or "")):
            return ({**message, "reason": ""},)
        case _:
            return (message,)
    if isinstance(outcome, Refusal):
        return outcome
    return (message if outcome is content else {**message, "text": outcome},)


def _answered(flow: Flow, message: Message) -> Sequence[Message] | Refusal:
    """What goes on now of the app's answer to the handshake: an acceptance has no body, a denial has one."""
    kind = message["type"]
    events: list[Event] = []
    if kind == "websocket.http.response.body":
        events += flow.feed(message.get("body", b""))
    else:
        events += flow.start(ResponseHead(message.get("status", SWITCHING_PROTOCOLS), headers_of(message)))
    if kind == "websocket.accept" or (kind.endswith("body") and not message.get("more_body", False)):
        events += flow.finish(complete=True)
    leaves: list[Message] = []
    for event in events:
        match event:
            case Refusal():
                return event
            case Head(ResponseHead(_, headers)) if kind == "websocket.accept":
                leaves.append({**message, "headers": list(headers)})
            case Head(ResponseHead(status, headers)):
                start = {"type": "websocket.http.response.start", "status": status, "headers": list(headers)}
                leaves.append(start)
            case Body(data, more) if kind != "websocket.accept":
                leaves.append({"type": "websocket.http.response.body", "body": data, "more_body": more})
    return leaves


def _content(message: Message) -> str | bytes:
    """What a message holds: the text where it has one."""
    text: str | None = message.get("text")
    return bytes(message.get("bytes") or b"") if text is None else text


def _raises_after_the_end(scope: Scope) -> bool:
    """Whether the app is to expect an OSError where nobody is there any more: since version 2.4 of ASGI."""
    version = str((scope.get("asgi") or {}).get("spec_version", "2.0"))
    major, _, minor = version.partition(".")
    return major.isdecimal() and minor.isdecimal() and (int(major), int(minor)) >= (2, 4)
