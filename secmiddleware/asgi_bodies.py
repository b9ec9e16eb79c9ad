"""Bodies under ASGI: what comes and what leaves, through their flows, as server and app hand it over."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable
from typing import Final

from secmiddleware.asgi_loops import aside
from secmiddleware.asgi_websocket import deny
from secmiddleware.errors import BrokenOffError, SecMiddlewareError
from secmiddleware.fields.flows import Flow
from secmiddleware.messages import (
    SWITCHING_PROTOCOLS,
    Body,
    Event,
    Head,
    Headers,
    Refusal,
    RequestHead,
    ResponseHead,
    Trailers,
)
from secmiddleware.scopes import App, Message, Receive, Scope, Send, headers_of
from secmiddleware.telemetry.observer import Observation, Stage

# Extensions may carry a response past `send`: of a held one, the app is offered none but these.
_TRAILERS: Final = "http.response.trailers"
_HARMLESS_EXTENSIONS: Final = ("tls", _TRAILERS)

# What stands for none where some were promised: servers break the connection over an empty list. This one is
# meant for trailers, and says nothing (W3C Server Timing §3).
_NO_TRAILERS: Final[Headers] = ((b"server-timing", b""),)


async def _finish(
    flow: Flow, stage: Stage, observation: Observation, offload: int, into: deque[Event], *, complete: bool
) -> None:
    """Have the flow's last events in `into`, also where whoever waits for them is cancelled.

    From `offload` bytes on they are worked out in a thread while the loop goes on.
    """
    start_ns = time.time_ns()

    def finish() -> None:
        into.extend(tuple(flow.finish(complete)))  # all of them, or none where one fails

    try:
        if flow.load < offload:
            finish()
        else:
            await aside(finish)
    finally:
        observation.stage(stage, start_ns, time.time_ns(), flow.report)


class Upload:
    """Drives the request flow with what the server receives."""

    def __init__(self, flow: Flow, receive: Receive, observation: Observation, offload: int) -> None:
        self._flow = flow
        self._offload = offload
        self._receive = receive
        self._observation = observation
        self._pending: deque[Event] = deque()
        self._ended = False
        self._gone = False
        self.refusal: Refusal | None = None
        """Why the body ends too soon for the app; not set where the caller has gone away."""

    async def begin(self, head: RequestHead) -> RequestHead | Refusal:
        """The head for the app, as soon as the flow lets it go; or why it does not."""
        self._pending.extend(self._flow.start(head))
        if head.protocol == "websocket":
            await self._end(complete=True)  # nothing comes behind the head of its handshake
        match await self._next():
            case Head(RequestHead() as for_the_app):
                return for_the_app
            case Refusal() as refusal:
                return refusal
        raise SecMiddlewareError("a request flow gave something else before its head")

    async def receive(self) -> Message:
        """The app's `receive`: the body as the flow lets it through, then what the server has to say."""
        match await self._next():
            case None:
                return await self._receive()
            case Body(data, more):
                return {"type": "http.request", "body": data, "more_body": more}
            case Refusal() as refusal if not self._gone:
                self.refusal = refusal
        return {"type": "http.disconnect"}

    async def _next(self) -> Event | None:
        while not self._pending and not self._ended:
            message = await self._receive()
            if message["type"] != "http.request":
                self._gone = True
                await self._end(complete=False)
                break
            self._pending.extend(self._flow.feed(message.get("body", b"")))
            if not message.get("more_body", False):
                await self._end(complete=True)
        return self._pending.popleft() if self._pending else None

    async def _end(self, *, complete: bool) -> None:
        self._ended = True
        into = self._pending
        await _finish(self._flow, "request", self._observation, self._offload, into, complete=complete)


class Answer:
    """What leaves towards the caller, and the refusal where there is one."""

    __slots__ = ("_receive", "_scope", "gone", "observation", "refusal", "send", "status")

    def __init__(self, scope: Scope, receive: Receive, send: Send, observation: Observation) -> None:
        self.send = send
        self.status: int | None = None
        self.refusal: Refusal | None = None
        self.gone = False
        """Whether the server has said that the caller is gone: then what is left unfinished is no fault."""
        self._scope = scope
        self._receive = receive
        self.observation = observation

    async def receive(self) -> Message:
        """The server's `receive`, with an ear for a caller who goes away."""
        message = await self._receive()
        self.gone = self.gone or message["type"] == "http.disconnect"
        return message

    async def watched(self, message: Message) -> None:
        """The server's `send`, with an eye on the status."""
        match message["type"]:
            case "http.response.start" | "websocket.http.response.start":
                self.status = message["status"]
            case "websocket.accept":
                self.status = SWITCHING_PROTOCOLS
        await self.send(message)

    async def head(self, head: ResponseHead, *, trailers: bool = False) -> None:
        """Send a response's head; `trailers` says that there will be some."""
        self.status = head.status
        start = {"type": "http.response.start", "status": head.status, "headers": list(head.headers)}
        await self.send(start | {"trailers": True} if trailers else start)

    async def body(self, data: bytes, *, more: bool) -> None:
        """Send a piece of its body."""
        await self.send({"type": "http.response.body", "body": data, "more_body": more})

    async def trailers(self, headers: Headers) -> None:
        """Send all its trailers."""
        await self.send({"type": _TRAILERS, "headers": list(headers or _NO_TRAILERS), "more_trailers": False})

    async def refuse(self, refusal: Refusal) -> None:
        """Send the problem in place of a response, or of a websocket's acceptance."""
        self.refusal = refusal
        if self._scope["type"] == "websocket":
            await self._receive()  # websocket.connect: nothing may be sent before it
            await self.deny(refusal)
            return
        head, problem = refusal.problem(self.observation.trace_id or "")
        await self.head(head)
        bodiless = self._scope.get("method") == "HEAD"
        await self.body(b"" if bodiless else problem, more=False)

    async def deny(self, refusal: Refusal) -> None:
        """Send the problem in place of a websocket; close it where it cannot have one."""
        self.status = await deny(self._scope, self.send, refusal, self.observation.trace_id or "")


class Download:
    """Drives the response flow with what the app sends."""

    def __init__(
        self,
        flow: Flow,
        answer: Answer,
        observation: Observation,
        offload: int,
        upload: Upload | None = None,
    ) -> None:
        """`upload` is the request that may still be on its way to the app."""
        self._flow = flow
        self._offload = offload
        self._answer = answer
        self._observation = observation
        self._upload = upload
        self._started = False
        self._begun = False
        """Whether anything has left."""
        self._ended = False
        self._broken: BrokenOffError | None = None
        self._trailing = False
        """Whether the app has said that trailers come: then the body's end is not yet the response's."""
        self._body_ended = False

    async def drive(self, app: App, scope: Scope, receive: Receive) -> None:
        """Call the app. A response that it leaves unfinished is none, also where it raises."""
        extensions = scope.get("extensions") or {}
        scope["extensions"] = {name: extensions[name] for name in extensions if name in _HARMLESS_EXTENSIONS}
        try:
            await app(scope, receive, self._send)
        except Exception:
            # Some apps make another error of ours, which says that nobody is there any more.
            if self._broken is None and not await self._break_off():
                raise
        await self._break_off()
        if self._broken is not None:
            raise self._broken

    async def _break_off(self) -> bool:
        """End what the app has not ended. Whether what it raised is what the caller has been told."""
        told = None if self._upload is None else self._upload.refusal
        if self._answer.refusal is None:
            self._answer.refusal = told
        if self._ended or self._answer.gone:
            return False
        if told is not None and not self._begun:
            await self._perform((told,))
            return True
        if self._begun:
            self._ended = True
            into: deque[Event] = deque()  # what is not whole goes nowhere
            await _finish(self._flow, "response", self._observation, self._offload, into, complete=False)
            self._broken = BrokenOffError("the app left its response unfinished")
        elif self._started:
            await self._end(complete=False)
        else:
            await self._perform((Refusal("internal_error"),))
        return False

    async def _send(self, message: Message) -> None:
        if self._broken is not None:
            raise self._broken  # as servers do after a disconnect: nobody is there any more
        if self._ended:
            return  # refused already: what the app still has to say goes nowhere
        match message["type"], self._started:
            case "http.response.start", False:
                self._started = True
                self._trailing = message.get("trailers", False)
                head = ResponseHead(message["status"], headers_of(message))
                await self._perform(self._flow.start(head))
            case "http.response.body", True if not self._body_ended:
                await self._perform(self._flow.feed(message.get("body", b"")))
                self._body_ended = not message.get("more_body", False)
                if not self._ended and self._body_ended and not self._trailing:
                    await self._end(complete=True)
            case "http.response.trailers", True if self._body_ended:
                self._flow.trail(headers_of(message))
                if not message.get("more_trailers", False):
                    await self._end(complete=True)
            case kind, _:
                raise SecMiddlewareError(f"the app sent {kind!r} where the ASGI specification allows no such")
        if self._broken is not None:
            raise self._broken

    async def _end(self, *, complete: bool) -> None:
        self._ended = True
        events: deque[Event] = deque()
        await _finish(self._flow, "response", self._observation, self._offload, events, complete=complete)
        if not self._begun:
            self._trailing = any(isinstance(event, Trailers) and event.headers for event in events)
        if await self._perform(events) and self._trailing:
            await self._answer.trailers(())  # the head has promised some

    async def _perform(self, events: Iterable[Event]) -> bool:
        """Whether the response goes on: no event has refused it."""
        for event in events:
            match event:
                case Head(ResponseHead() as head):
                    self._begun = True
                    await self._answer.head(head, trailers=self._trailing)
                case Body(data, more):
                    await self._answer.body(data, more=more)
                case Trailers(headers) if self._trailing:
                    self._trailing = False
                    await self._answer.trailers(headers)
                case Refusal() if self._begun:
                    self._ended = True
                    self._answer.refusal = event
                    self._broken = BrokenOffError(f"the response was broken off: {event.code}")
                    now_ns = time.time_ns()
                    self._observation.stage("response", now_ns, now_ns, self._flow.report)
                    return False
                case Refusal():
                    self._ended = True
                    await self._answer.refuse(event)
                    return False
        return True
