"""The ASGI shell: turns a scope into data, asks the engine, performs the events.

It decides nothing. Where a flow is passive the app gets the very `receive` and `send` of the server; else
both are driven through the flows. HTTP, websocket and lifespan all pass here; a scope of any other type is
refused, since nobody has judged it.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Final

from secmiddleware.asgi_bodies import Answer, Download, Upload
from secmiddleware.asgi_lifespan import Lifespan, nothing
from secmiddleware.asgi_talk import Talk
from secmiddleware.asgi_websocket import Socket
from secmiddleware.engine import Admission, seen_by_the_app
from secmiddleware.errors import BrokenOffError, SecMiddlewareError
from secmiddleware.identity.presentation import hands_over
from secmiddleware.messages import (
    Refusal,
    RequestHead,
)
from secmiddleware.scopes import App, Receive, Scope, Send, head_of, route_of, show
from secmiddleware.security import SecurityManager
from secmiddleware.server_kinds import UNKNOWN, kind_of_callables
from secmiddleware.settings.models import Settings
from secmiddleware.telemetry.audit import AuditObserver
from secmiddleware.telemetry.observer import NOTHING, ExchangeRecord, Observer, Stage, Unobserved

logger = logging.getLogger("secmiddleware.asgi")

_APPLIED_KEY: Final = "secmiddleware.applied"

# Different things that a shell tells of; what goes wrong anew with each request is not told for ever.
_MOST_TOLD: Final = 20

_OVER_TLS: Final = ("https", "wss")

# Whose work each report of a websocket's is.
_STAGES: Final[tuple[Stage, Stage, Stage]] = ("request", "response", "response")


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
        self._told: set[str] = set()
        self._manager: SecurityManager | None = None
        self._unusable: SecMiddlewareError | None = None
        try:
            self._manager = SecurityManager.of(config)
        except SecMiddlewareError as error:
            self._unusable = error
        watching = AuditObserver() if self._manager is None else self._manager.observer
        self._offload = 0 if self._manager is None else self._manager.settings.service.offload
        self._observer: Observer = observer or watching

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One scope: a lifespan, an HTTP request or a websocket."""
        kind = scope["type"]
        if kind == "lifespan":
            await Lifespan(self.app, self.start, scope, receive, send).run()
        elif kind in ("http", "websocket"):
            await self._exchange(scope, receive, send)
        else:
            raise SecMiddlewareError(f"a scope of type {kind!r} cannot be judged and is not let through")

    def start(self, scope: Scope, receive: Receive, send: Send) -> Callable[[], None]:
        """What stops again that which this call has started: whoever starts, stops.

        Raises SecMiddlewareError where the settings cannot be used, or not here.
        """
        running = self._manager is not None and self._manager.running
        manager = self._ready(scope, receive, send)
        return nothing if running else manager.stop

    def _ready(self, scope: Scope, receive: Receive, send: Send) -> SecurityManager:
        if self._manager is None:
            raise self._unusable or SecMiddlewareError("not configured")
        if _APPLIED_KEY in scope:
            raise SecMiddlewareError(
                "SecMiddleware is applied twice to this app: the inner one would judge what the outer made"
            )
        if not hands_over(scope) and self._manager.asks_the_server:
            self._judge_silence(self._manager, scope, receive, send)
        if not self._manager.running:
            self._manager.start()
        scope[_APPLIED_KEY] = True
        return self._manager

    async def _exchange(self, scope: Scope, receive: Receive, send: Send) -> None:
        started_ns = time.time_ns()
        head = head_of(scope)
        verdict: Admission | Refusal
        manager: SecurityManager | None = None
        try:
            manager = self._ready(scope, receive, send)
        except SecMiddlewareError as reason:
            self._tell(f"a request came where the settings cannot be used; it is refused: {reason}")
            verdict = Refusal("internal_error")
        else:
            verdict = manager.admit(head)
        observation = self._observer.begin(seen_by_the_app(head, verdict), verdict, started_ns)
        try:
            if type(observation) is Unobserved and isinstance(verdict, Admission) and verdict.passes:
                show(scope, verdict.identity, verdict.claims, verdict.unaccepted)
                scope["headers"] = list(verdict.head.headers)
                scope["query_string"] = verdict.head.query
                await self.app(scope, receive, send)
            else:
                await self._perform(verdict, scope, receive, Answer(scope, receive, send, observation), head)
        finally:
            if manager is not None:
                scope.pop(_APPLIED_KEY, None)  # a test may give the same scope once more

    async def _perform(
        self,
        verdict: Admission | Refusal,
        scope: Scope,
        receive: Receive,
        answer: Answer,
        came: RequestHead,
    ) -> None:
        """What comes of an exchange that somebody watches, or that may still be refused."""
        observation = answer.observation
        error: str | None = None
        try:
            if isinstance(verdict, Admission):
                await self._admitted(verdict, scope, receive, answer, came)
            else:
                await answer.refuse(verdict)
        except BrokenOffError:
            raise  # the refusal says why
        except Exception as raised:
            error = f"{type(raised).__module__}.{type(raised).__qualname__}"
            raise
        finally:
            if (
                answer.refusal is not None
                and answer.refusal.code == "key_unknown"
                and self._manager is not None
            ):
                self._manager.look_soon()
            route = route_of(scope) if observation.watches else None
            observation.end(ExchangeRecord(answer.status, answer.refusal, route, error))

    async def _admitted(
        self,
        admission: Admission,
        scope: Scope,
        receive: Receive,
        answer: Answer,
        came: RequestHead,
    ) -> None:
        observation = answer.observation
        show(scope, admission.identity, admission.claims, admission.unaccepted)
        head, hear = observation.head, answer.receive
        is_socket = head.protocol == "websocket"
        upload: Upload | None = None
        if not admission.request.passive:
            upload = Upload(admission.streamed(), answer.receive, observation, self._offload)
            rewritten = await upload.begin(head)
            if isinstance(rewritten, Refusal):
                await answer.refuse(rewritten)
                return
            head = rewritten
            if not is_socket:
                receive = hear = upload.receive
        scope["headers"] = list(head.headers)
        scope["query_string"] = head.query
        flow = admission.respond(head.method)
        send = answer.watched if observation.watches else answer.send
        around = observation.active()
        if around is NOTHING and flow.passive and not is_socket:
            await self.app(scope, receive, send)
            return
        with around:
            if not flow.passive:
                download = Download(flow, answer, observation, self._offload, upload)
                await download.drive(self.app, scope, hear)
            elif is_socket:
                await self._connected(admission, scope, receive, send, answer, came)
            else:
                await self.app(scope, receive, send)

    async def _connected(
        self,
        admission: Admission,
        scope: Scope,
        receive: Receive,
        send: Send,
        answer: Answer,
        came: RequestHead,
    ) -> None:
        manager = self._manager
        frames = admission.frames()
        if manager is None or (manager.settings.mtls.recheck is None and frames is None):
            await self.app(scope, receive, send)
            return
        # The head that came, and not what is left of it for the app: a proxy's word stands in its headers.
        judge, recheck = partial(manager.admit, came), manager.settings.mtls.recheck
        talk = None if frames is None else Talk(frames, self._offload)
        socket = Socket(receive, send, judge=judge, recheck=recheck, deny=answer.deny, talk=talk)
        try:
            await socket.drive(self.app, scope, admission)
        finally:
            answer.refusal = socket.refusal
            if frames is not None:
                now_ns = time.time_ns()
                for stage, report in zip(_STAGES, frames.reports, strict=True):
                    answer.observation.stage(stage, now_ns, now_ns, report)

    def _judge_silence(self, manager: SecurityManager, scope: Scope, receive: Receive, send: Send) -> None:
        """Tell of a server that says nothing about client certificates; refuse one that never does."""
        kind = kind_of_callables(receive, send) or UNKNOWN
        if kind.hands_over == "never" and manager.snapshot.policy.requires:
            raise SecMiddlewareError(kind.refusal())
        if scope.get("scheme") in _OVER_TLS:
            self._tell(
                f"{kind.name} says nothing about client certificates, so nobody can be recognised: "
                f"{kind.way_out}"
            )

    def _tell(self, what: str) -> None:
        """Log what is wrong with the server or the settings, once: it is so for every request."""
        if what not in self._told and len(self._told) < _MOST_TOLD:
            self._told.add(what)
            logger.error("%s", what)
