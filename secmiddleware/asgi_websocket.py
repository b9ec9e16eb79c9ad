"""A websocket at the gate and after it: how it is denied, rewritten, and judged again if it lives long.

A websocket is judged before it is accepted, and then every `[mtls] recheck` by the same pure verdict: on the
head that it came with, the snapshot and the time of that moment. Where the verdict has changed the socket is
ended: the client gets the close code 1008, the app `websocket.disconnect`. What this takes of the loop,
asyncio's or trio's, its vigil knows.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Final

from secmiddleware.asgi_loops import SocketEndedError, Vigil, make_vigil
from secmiddleware.asgi_talk import Talk
from secmiddleware.engine import Admission
from secmiddleware.messages import Identity, Refusal
from secmiddleware.scopes import App, Message, Receive, Scope, Send

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

# A thousand clients that came back at once after a restart shall not be looked at in one go ever after.
_EARLIEST: Final = 0.75

# Clocks are coarse: a timer may fire a little before the instant at which a certificate ends.
_SOON_SECONDS: Final = 0.02


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
        talk: Talk | None = None,
    ) -> None:
        """`judge` gives the verdict of now; `deny` refuses a socket that the app has not accepted yet.

        `talk` rewrites its messages, and what the app answers to the handshake. Made within the loop.
        """
        self.refusal: Refusal | None = None
        self._receive = receive
        self._send = send
        self._judge = judge
        self._recheck = None if recheck is None else recheck.total_seconds()
        self._talk = talk
        self._code = _POLICY_VIOLATION
        self._deny = deny
        self._identity: Identity | None = None
        self._raises = False
        self._connected = False
        self._greeted = False
        """Whether the app has heard of the connection: nothing comes before that, an end neither."""
        self._accepted = False
        self._denied = False
        """Whether the app's own denial has begun to leave."""
        self._vigil: Vigil = make_vigil()

    async def drive(self, app: App, scope: Scope, admission: Admission) -> None:
        """Call the app; returns when it has, and the client of an ended socket has been told."""
        self._raises = _raises_after_the_end(scope)
        self._identity = admission.identity

        async def call() -> None:
            self._wait(admission)
            try:
                await app(scope, self._hear, self._say)
            except* self._its_end():
                pass  # let through by the app, in a group of its tasks or not: it is no error of the app's

        await self._vigil.keep(call)

    def _its_end(self) -> tuple[type[SocketEndedError], ...]:
        """What is no error of the app's: but that of another socket, which the app wrote to, is one."""
        return () if self.refusal is None else (SocketEndedError,)

    async def _hear(self) -> Message:
        """The app's `receive`."""
        if self.refusal is None:
            with suppress(SocketEndedError):
                heard = await (self._next() if self._talk is None else self._talk.hear(self._next))
                if self.refusal is None:
                    if not isinstance(heard, Refusal):
                        self._greeted = True
                        return heard
                    self._end(heard)
        if not self._greeted:
            self._greeted = True
            return {"type": "websocket.connect"}  # frameworks take anything else for an error of the server's
        reason = "" if self.refusal is None else self.refusal.code
        return {"type": "websocket.disconnect", "code": self._code, "reason": reason}

    async def _next(self) -> Message:
        """The server's next message, as it comes."""
        if self.refusal is not None:
            raise SocketEndedError("the websocket was ended")  # while this one waited for its turn
        message = await self._vigil.unless_over(self._receive())
        self._connected = True
        if message["type"] == "websocket.disconnect":
            self._vigil.rest()
        return message

    async def _say(self, message: Message) -> None:
        """The app's `send`."""
        if self.refusal is None:
            said = (message,) if self._talk is None else await self._talk.say(message)
            if self.refusal is None:
                if not isinstance(said, Refusal):
                    if message["type"] in ("websocket.close", "websocket.http.response.start"):
                        self._vigil.rest()  # not earlier: until its turn the app may take it back
                    await self._deliver(said)
                    return
                self._end(said)
                if self._raises:
                    raise SocketEndedError("the websocket was ended: a message could not be sealed")
                return
        if self._raises and message["type"] != "websocket.close":
            raise SocketEndedError(f"the websocket was ended: {self.refusal.code}")

    async def _deliver(self, messages: Sequence[Message]) -> None:
        for message in messages:
            match message["type"]:
                case "websocket.accept":
                    self._accepted = True
                case "websocket.http.response.start":
                    self._denied = True
            await self._vigil.unless_over(self._send(message))

    def _wait(self, admission: Admission) -> None:
        """Have it judged again after a while: at the end of its certificate, or sooner."""
        if self._recheck is None:
            return
        seconds = self._recheck * random.uniform(_EARLIEST, 1)  # noqa: S311  (a pace is no secret)
        if admission.identity is not None:
            # The last second counts (see `judgement`).
            left = admission.identity.not_after - datetime.now(UTC) + timedelta(seconds=1)
            seconds = max(_SOON_SECONDS, min(seconds, left.total_seconds()))
        self._vigil.look_in(seconds, self._look)

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
        self._end(verdict, _POLICY_VIOLATION)

    def _end(self, refusal: Refusal, code: int | None = None) -> None:
        """It is over: say so to whoever waits, and to the client, by `code` or by the refusal's own."""
        self._vigil.rest()
        self.refusal = refusal
        self._code = _CLOSE_CODES.get(refusal.code, _POLICY_VIOLATION) if code is None else code
        self._vigil.end(partial(self._say_farewell, refusal))

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


def _raises_after_the_end(scope: Scope) -> bool:
    """Whether the app is to expect an OSError where nobody is there any more: since version 2.4 of ASGI."""
    version = str((scope.get("asgi") or {}).get("spec_version", "2.0"))
    major, _, minor = version.partition(".")
    return major.isdecimal() and minor.isdecimal() and (int(major), int(minor)) >= (2, 4)
