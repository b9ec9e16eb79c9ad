"""The WSGI shell: turns an environ into data, asks the engine, performs the events.

It decides nothing. Where nothing is marked and nobody watches, the app gets the very `start_response` and
`wsgi.input` of the server, and the server gets the very iterable of the app; else they are driven through the
flows. WSGI has no lifespan: what must start does so with the first request of a process, unless somebody has
started it.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Final
from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

from secmiddleware.engine import Admission, seen_by_the_app
from secmiddleware.environ_names import Names, names_of
from secmiddleware.environs import (
    head_of,
    put_head,
    show,
)
from secmiddleware.errors import SecMiddlewareError
from secmiddleware.messages import Refusal, RequestHead
from secmiddleware.security import SecurityManager
from secmiddleware.server_check import ServerCheck
from secmiddleware.settings.models import Settings
from secmiddleware.telemetry.observer import NOTHING, Observer, Unobserved
from secmiddleware.wsgi_input import Upload
from secmiddleware.wsgi_output import Download, Exchange

logger = logging.getLogger("secmiddleware.wsgi")

_APPLIED_KEY: Final = "secmiddleware.applied"

_TWICE: Final = "SecMiddleware is applied twice to this app: the inner one would judge what the outer made"


class SecMiddleware:
    """A WSGI app that lets through to `app` what the settings allow, rewritten as they say.

    `config` is the path of a secmiddleware.toml, a mapping with the same keys, `Settings`, or a
    `SecurityManager` (which the caller then starts and stops, or leaves to the first request of a process).

    Raises:
        ConfigError: the settings cannot be used; every mistake is in it.
        SecMiddlewareError: a file that they name cannot be used, or `app` has a SecMiddleware already.
    """

    def __init__(
        self,
        app: WSGIApplication,
        *,
        config: str | Path | Mapping[str, Any] | Settings | SecurityManager,
        observer: Observer | None = None,
    ) -> None:
        if _is_wrapped(app):
            raise SecMiddlewareError(_TWICE)
        self.app = app
        self._manager = SecurityManager.of(config)
        self._observer: Observer = observer or self._manager.observer
        self._check = ServerCheck.of(self._manager)

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """One request."""
        started_ns = time.time_ns()
        names = names_of(environ)
        head = head_of(environ, names)
        verdict = self._verdict(environ, head)
        observation = self._observer.begin(seen_by_the_app(head, verdict), verdict, started_ns)
        try:
            if type(observation) is Unobserved and isinstance(verdict, Admission) and verdict.passes:
                show(environ, verdict.identity, verdict.claims, verdict.unaccepted, names)
                if verdict.head is not head:
                    put_head(environ, head, verdict.head)
                return self.app(environ, start_response)
            exchange = Exchange(self._manager, observation, environ, start_response)
            return self._perform(head, verdict, environ, exchange, names)
        finally:
            if environ.get(_APPLIED_KEY) is self:
                del environ[_APPLIED_KEY]  # the same environ may be given to another app, or once more

    def _verdict(self, environ: WSGIEnvironment, head: RequestHead) -> Admission | Refusal:
        try:
            applied: object = environ.setdefault(_APPLIED_KEY, self)
            if applied is not self:
                raise SecMiddlewareError(_TWICE)
            if not self._manager.running:
                self._manager.start()
        except SecMiddlewareError:
            logger.exception("a request came where the settings cannot be used; it is refused")
            return Refusal("internal_error")
        return self._check.refusal_of(environ) or self._manager.admit(head)

    def _perform(
        self,
        head: RequestHead,
        verdict: Admission | Refusal,
        environ: WSGIEnvironment,
        exchange: Exchange,
        names: Names,
    ) -> Iterable[bytes]:
        """What comes of an exchange that somebody watches, or that may still be refused."""
        try:
            if isinstance(verdict, Admission):
                return self._admitted(head, verdict, environ, exchange, names)
            return exchange.refuse(verdict)
        except BaseException as raised:
            exchange.end(raised)
            raise
        finally:
            if not exchange.goes_on:
                exchange.end()

    def _admitted(
        self,
        came: RequestHead,
        admission: Admission,
        environ: WSGIEnvironment,
        exchange: Exchange,
        names: Names,
    ) -> Iterable[bytes]:
        observation = exchange.observation
        show(environ, admission.identity, admission.claims, admission.unaccepted, names)
        head = observation.head
        if not admission.request.passive:
            upload = Upload(admission.request, environ, observation)
            rewritten = upload.begin(head)
            if isinstance(rewritten, Refusal):
                return exchange.refuse(rewritten)
            head = rewritten
            environ["wsgi.input"] = upload.input
        if head is not came:
            put_head(environ, came, head)
        flow = admission.respond(head.method)
        if not flow.passive:
            # What an app writes into its status line may say what it was given.
            return Download(flow, exchange, keeps_line=not admission.has_opened).drive(self.app, environ)
        if observation.watches:
            return exchange.watch(self.app)
        around = observation.active()
        if around is NOTHING:
            return self.app(environ, exchange.start_response)
        with around:
            return self.app(environ, exchange.start_response)


def _is_wrapped(app: object) -> bool:
    """Whether this is ours already, as far as it can be seen: itself, or as a Flask app's `wsgi_app`."""
    while isinstance(app, partial):
        app = app.func
    return isinstance(app, SecMiddleware) or isinstance(getattr(app, "wsgi_app", None), SecMiddleware)
