"""The ASGI shell: turns a scope into data, asks the engine, performs the events.

It decides nothing. Where a flow is passive the app gets the very `receive` and `send` of the server; else
both are driven through the flows. HTTP, websocket and lifespan all pass here; a scope of any other type is
refused, since nobody has judged it.
"""

from __future__ import annotations

import logging
import ssl
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Mapping, MutableMapping
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

from secmiddleware.engine import Admission, admit
from secmiddleware.errors import ConfigError, SecMiddlewareError
from secmiddleware.fields.flows import Flow
from secmiddleware.identity.presentation import hands_over, presented_in
from secmiddleware.messages import (
    IDENTITY_KEY,
    PRESENTED_KEY,
    Body,
    Event,
    Head,
    Headers,
    Identity,
    Peer,
    Presented,
    Refusal,
    RequestHead,
    ResponseHead,
)
from secmiddleware.security import SecurityManager
from secmiddleware.settings.models import Settings
from secmiddleware.telemetry.audit import AuditObserver
from secmiddleware.telemetry.observer import ExchangeRecord, Observation, Observer

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

logger = logging.getLogger("secmiddleware.asgi")

_APPLIED_KEY: Final = "secmiddleware.applied"

# What would carry a response past `send`, or a head past the one that is held (ASGI extensions).
_PAST_THE_FLOW: Final = frozenset(
    {
        "http.response.pathsend",
        "http.response.zerocopysend",
        "http.response.trailers",
        "http.response.push",
        "http.response.early_hint",
    }
)


class SecMiddleware:
    """An ASGI app that lets through to `app` what the settings allow, rewritten as they say.

    `config` is the path of a secmiddleware.toml, a mapping with the same keys, `Settings`, or a
    `SecurityManager` (which the caller then starts and stops, or leaves to the lifespan). A config that
    cannot be used does not raise here, since frameworks build their middleware inside the lifespan, where a
    raised error is taken for "no lifespan": it is answered with `lifespan.startup.failed`, which ends the
    server, and every request with a 500.
    """

    def __init__(
        self,
        app: App,
        *,
        config: str | Path | Mapping[str, Any] | Settings | SecurityManager,
        observer: Observer | None = None,
    ) -> None:
        self.app = app
        self._observer: Observer = observer or AuditObserver()
        self._silent_server_told = False
        self._manager: SecurityManager | None = None
        self._unusable: SecMiddlewareError | None = None
        try:
            self._manager = SecurityManager.of(config)
        except ConfigError as error:
            self._unusable = error

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One scope: a lifespan, an HTTP request or a websocket."""
        kind = scope["type"]
        if kind == "lifespan":
            await _Lifespan(self, scope, receive, send).run()
        elif kind in ("http", "websocket"):
            await self._exchange(scope, receive, send)
        else:
            raise SecMiddlewareError(f"a scope of type {kind!r} cannot be judged and is not let through")

    def start(self, scope: Scope) -> Callable[[], None]:
        """What stops again that which this call has started: whoever starts, stops.

        Raises SecMiddlewareError where the settings cannot be used, or not here.
        """
        running = self._manager is not None and self._manager.running
        manager = self._ready(scope)
        return _nothing if running else manager.stop

    def _ready(self, scope: Scope) -> SecurityManager:
        if self._manager is None:
            raise self._unusable or SecMiddlewareError("not configured")
        if _APPLIED_KEY in scope:
            raise SecMiddlewareError(
                "SecMiddleware is applied twice to this app: the inner one would judge what the outer made"
            )
        if not self._manager.running:
            self._manager.start()
        scope[_APPLIED_KEY] = True
        return self._manager

    async def _exchange(self, scope: Scope, receive: Receive, send: Send) -> None:
        started_ns = time.time_ns()
        head = _head_of(scope)
        verdict: Admission | Refusal
        manager: SecurityManager | None = None
        try:
            manager = self._ready(scope)
        except SecMiddlewareError:
            logger.exception("a request came before the settings could be used; it is refused")
            verdict = Refusal("internal_error")
        else:
            verdict = admit(head, manager.snapshot, datetime.now(UTC))
            self._tell_of_a_silent_server(scope)
        observation = self._observer.begin(head, verdict, started_ns)
        reply = _Reply(send, observation, scope)
        try:
            if isinstance(verdict, Refusal):
                await reply.refuse(verdict, receive)
            else:
                await self._admitted(verdict, scope, receive, reply, observation)
        finally:
            if manager is not None and reply.refusal is not None and reply.refusal.code == "key_unknown":
                manager.look_soon()
            observation.end(ExchangeRecord(reply.status, reply.refusal))

    async def _admitted(
        self, admission: Admission, scope: Scope, receive: Receive, reply: _Reply, observation: Observation
    ) -> None:
        _show(scope, admission.identity)
        head = observation.head
        if scope["type"] == "websocket":
            with observation.active():
                await self.app(scope, receive, reply.send)
            return
        upload = _Upload(admission.request, receive)
        first = await upload.begin(head)
        if isinstance(first, Refusal):
            await reply.refuse(first, receive)
            return
        if first.headers is not head.headers:
            scope["headers"] = list(first.headers)
        flow = admission.respond(head.method)
        if not flow.passive:
            scope["extensions"] = {
                name: value
                for name, value in (scope.get("extensions") or {}).items()
                if name not in _PAST_THE_FLOW
            }
        with observation.active():
            await self.app(
                scope,
                receive if admission.request.passive else upload.receive,
                reply.send if flow.passive else reply.through(flow),
            )
        await reply.close()

    def _tell_of_a_silent_server(self, scope: Scope) -> None:
        if self._silent_server_told or hands_over(scope) or scope.get("scheme") not in ("https", "wss"):
            return
        self._silent_server_told = True
        logger.error(
            "this server says nothing about client certificates, so nobody can be recognised: serve with "
            "`secmiddleware run`, or give uvicorn `--http secmiddleware.servers.uvicorn:H11Protocol`"
        )


def _nothing() -> None:
    """Stops nothing: it was running before us."""


def _head_of(scope: Scope) -> RequestHead:
    client = scope.get("client")
    return RequestHead(
        protocol=scope["type"],
        method=scope.get("method", "GET"),
        scheme=scope.get("scheme", "http"),
        path=scope["path"],
        raw_path=scope.get("raw_path"),
        root_path=scope.get("root_path", ""),
        query=scope.get("query_string", b""),
        http_version=scope.get("http_version", "1.1"),
        headers=tuple((name, value) for name, value in scope["headers"]),
        peer=Peer(client[0], client[1]) if client else Peer(),
        presented=presented_in(scope),
    )


def _show(scope: Scope, identity: Identity | None) -> None:
    """Let the app see who is calling, and nothing of a certificate that was not accepted."""
    scope[IDENTITY_KEY] = identity
    presented = scope.get(PRESENTED_KEY)
    scope[PRESENTED_KEY] = None
    extensions = scope.get("extensions") or {}
    if identity is None and "tls" not in extensions:
        return
    chain = () if identity is None else _pem_chain(identity.der, presented)
    tls = {
        "server_cert": None,
        "tls_version": None,
        "cipher_suite": None,
        **(extensions.get("tls") or {}),
        "client_cert_chain": chain,
        "client_cert_name": identity.subject if identity is not None else None,
        "client_cert_error": None,
    }
    scope["extensions"] = {**extensions, "tls": tls}


@lru_cache(maxsize=1024)
def _pem_chain(leaf: bytes, presented: Presented | None) -> tuple[str, ...]:
    rest = presented.chain if presented is not None else ()
    return tuple(ssl.DER_cert_to_PEM_cert(der) for der in (leaf, *rest))


class _Upload:
    """Drives the request flow with what the server receives."""

    def __init__(self, flow: Flow, receive: Receive) -> None:
        self._flow = flow
        self._receive = receive
        self._pending: deque[Event] = deque()
        self._ended = False

    async def begin(self, head: RequestHead) -> RequestHead | Refusal:
        """The head for the app, as soon as the flow lets it go; or why it does not."""
        self._pending.extend(self._flow.start(head))
        event = await self._next()
        if isinstance(event, Head) and isinstance(event.head, RequestHead):
            return event.head
        return event if isinstance(event, Refusal) else Refusal("internal_error")

    async def receive(self) -> Message:
        """The app's `receive`: the body as the flow lets it through, then what the server has to say."""
        event = await self._next()
        if event is None:
            return await self._receive()
        if isinstance(event, Body):
            return {"type": "http.request", "body": event.data, "more_body": event.more}
        return {"type": "http.disconnect"}

    async def _next(self) -> Event | None:
        while not self._pending and not self._ended:
            message = await self._receive()
            if message["type"] == "http.request":
                self._pending.extend(self._flow.feed(message.get("body", b"")))
                if not message.get("more_body", False):
                    self._end(complete=True)
            else:
                self._end(complete=False)
        return self._pending.popleft() if self._pending else None

    def _end(self, *, complete: bool) -> None:
        self._ended = True
        self._pending.extend(self._flow.finish(complete))


class _Reply:
    """What leaves towards the caller: the app's response through its flow, or a refusal in its place."""

    def __init__(self, send: Send, observation: Observation, scope: Scope) -> None:
        self.send = send
        self.status: int | None = None
        self.refusal: Refusal | None = None
        self._observation = observation
        self._scope = scope
        self._flow: Flow | None = None
        self._ended = False

    def through(self, flow: Flow) -> Send:
        """The app's `send`, its response driven through `flow`."""
        self._flow = flow
        return self._take

    async def close(self) -> None:
        """The app has returned: a response that it left unfinished is none."""
        if self._flow is not None and not self._ended:
            self._ended = True
            await self._perform(self._flow.finish(complete=False))

    async def _take(self, message: Message) -> None:
        assert self._flow is not None
        if self._ended:
            return  # refused already: what the app still has to say goes nowhere
        match message["type"]:
            case "http.response.start":
                headers = tuple(
                    (bytes(name).lower(), bytes(value)) for name, value in message.get("headers", ())
                )
                await self._perform(self._flow.start(ResponseHead(message["status"], headers)))
            case "http.response.body":
                await self._perform(self._flow.feed(message.get("body", b"")))
                if not self._ended and not message.get("more_body", False):
                    self._ended = True
                    await self._perform(self._flow.finish(complete=True))
            case _:
                await self._perform((Refusal("seal_failed"),))

    async def _perform(self, events: Iterable[Event]) -> None:
        for event in events:
            match event:
                case Head(ResponseHead() as head):
                    await self._send_head(head)
                case Body(data, more):
                    await self.send({"type": "http.response.body", "body": data, "more_body": more})
                case Refusal():
                    await self._send_problem(event)
                    return

    async def refuse(self, refusal: Refusal, receive: Receive) -> None:
        """The answer to a request that the app never sees."""
        if self._scope["type"] == "http":
            await self._send_problem(refusal)
            return
        await receive()  # websocket.connect: nothing may be sent before it
        if "websocket.http.response" in (self._scope.get("extensions") or {}):
            await self._send_problem(refusal, prefix="websocket.")
            return
        self.refusal = refusal
        await self.send({"type": "websocket.close", "code": 1008, "reason": refusal.code})

    async def _send_problem(self, refusal: Refusal, prefix: str = "") -> None:
        self._ended = True
        self.refusal = refusal
        head, body = refusal.problem(self._observation.trace_id or "")
        await self._send_head(head, prefix)
        data = b"" if self._scope.get("method") == "HEAD" else body
        await self.send({"type": f"{prefix}http.response.body", "body": data, "more_body": False})

    async def _send_head(self, head: ResponseHead, prefix: str = "") -> None:
        self.status = head.status
        headers: Headers = head.headers
        await self.send(
            {"type": f"{prefix}http.response.start", "status": head.status, "headers": list(headers)}
        )


class _Lifespan:
    """The lifespan of the app with ours round it: started before the app, stopped after it.

    Where the app does not speak lifespan (it raises, or returns without an answer), the answers are ours.
    """

    def __init__(self, shell: SecMiddleware, scope: Scope, receive: Receive, send: Send) -> None:
        self._shell = shell
        self._scope = scope
        self._receive = receive
        self._send = send
        self._first: Message | None = None
        self._answered = False
        self._failed = False
        self._asked_to_stop = False
        self._ended = False
        self._stop: Callable[[], None] = _nothing

    async def run(self) -> None:
        """From startup to shutdown."""
        self._first = await self._receive()
        try:
            self._stop = self._shell.start(self._scope)
        except SecMiddlewareError as error:
            await self._send({"type": "lifespan.startup.failed", "message": f"secmiddleware: {error}"})
            return
        try:
            await self._app_lifespan()
            if not self._failed:
                await self._finish_for_the_app()
        finally:
            self._stop()
        if not self._failed and not self._ended:
            await self._send({"type": "lifespan.shutdown.complete"})

    async def _app_lifespan(self) -> None:
        try:
            await self._shell.app(self._scope, self._receive_for_app, self._send_for_app)
        except Exception:
            if self._answered or self._failed:
                raise
            logger.info("the app does not speak the lifespan protocol; it is answered for it")

    async def _finish_for_the_app(self) -> None:
        if not self._answered:
            await self._send({"type": "lifespan.startup.complete"})
        if not self._asked_to_stop:
            await self._receive()

    async def _receive_for_app(self) -> Message:
        if self._first is not None:
            message, self._first = self._first, None
            return message
        message = await self._receive()
        self._asked_to_stop = message["type"] == "lifespan.shutdown"
        return message

    async def _send_for_app(self, message: Message) -> None:
        match message["type"]:
            case "lifespan.startup.complete":
                self._answered = True
            case "lifespan.startup.failed":
                self._failed = True
            case "lifespan.shutdown.complete" | "lifespan.shutdown.failed":
                self._ended = True
                self._stop()  # before the server hears of it and ends the process
        await self._send(message)
