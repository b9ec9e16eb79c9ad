"""The Django shell: a request becomes data, the engine decides, the events are performed on Django's objects.

It decides nothing. `__call__` and `__acall__` are one sequence in two colours; what they have in common is an
exchange. Django knows no lifespan: what must start does so with the first request of a process.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Any, Final

from asgiref.sync import iscoroutinefunction, markcoroutinefunction
from django.core.exceptions import ImproperlyConfigured
from django.http import HttpRequest
from django.http.response import HttpResponseBase

from secmiddleware.engine import Admission, seen_by_the_app
from secmiddleware.errors import SecMiddlewareError
from secmiddleware.identity.presentation import hands_over
from secmiddleware.messages import Refusal, RequestHead
from secmiddleware.server_check import ServerCheck
from secmiddleware.telemetry.observer import Observer
from secmiddleware_django.configuration import configured
from secmiddleware_django.exchange import Exchange
from secmiddleware_django.requests import head_of, surroundings_of
from secmiddleware_django.serving import server_of_this_request

logger = logging.getLogger("secmiddleware.django")

_APPLIED_KEY: Final = "secmiddleware.applied"
"""What a shell round Django leaves in the scope or environ."""

_APPLIED: Final = "_secmiddleware_applied"
"""The attribute that we leave ourselves: a test may give one scope to many requests at once."""


class SecMiddleware:
    """Lets through to the views what settings.SECMIDDLEWARE allows, rewritten as it says.

    It stands first in MIDDLEWARE, and runs sync and async. Raises ImproperlyConfigured, with every mistake,
    where the setting cannot be used.
    """

    sync_capable = True
    async_capable = True

    def __init__(self, get_response: Any, *, observer: Observer | None = None) -> None:
        self.get_response = get_response
        try:
            self._manager = configured()
        except SecMiddlewareError as error:
            raise ImproperlyConfigured(f"secmiddleware: {error}") from error
        self._observer = observer or self._manager.observer
        self._silent_server_told = False
        self._unable_server_told = False
        self._check = ServerCheck.of(self._manager)
        self._offload = self._manager.settings.service.offload
        self._is_async = iscoroutinefunction(get_response)
        if self._is_async:
            markcoroutinefunction(self)

    def __call__(self, request: HttpRequest) -> Any:
        """The response to one request; a coroutine where the next middleware is one."""
        if self._is_async:
            return self.__acall__(request)
        exchange = self._begin(request)
        try:
            if exchange.receive():
                exchange.let_in()
            if not exchange.refused:
                with exchange.observation.active():
                    response = self.get_response(request)
                download = exchange.hold(response)
                if download is not None:
                    try:
                        download.feed()
                    except Exception as raised:  # noqa: BLE001  (it is logged, as Django does, and answered)
                        exchange.break_off(raised)
                    exchange.let_out()
            return exchange.leave()
        except BaseException as raised:
            exchange.end(raised)
            raise

    async def __acall__(self, request: HttpRequest) -> HttpResponseBase:
        """The response to one request, on the loop."""
        if not self._manager.running:
            await asyncio.to_thread(self._start)
        exchange = self._begin(request)
        try:
            if exchange.receive():
                await self._aside_if_large(exchange.load, exchange.let_in)
            if not exchange.refused:
                with exchange.observation.active():
                    response = await self.get_response(request)
                download = exchange.hold(response)
                if download is not None:
                    try:
                        await download.afeed()
                    except Exception as raised:  # noqa: BLE001  (it is logged, as Django does, and answered)
                        exchange.break_off(raised)
                    await self._aside_if_large(download.load, exchange.let_out)
            return exchange.leave()
        except BaseException as raised:
            exchange.end(raised)
            raise

    def _begin(self, request: HttpRequest) -> Exchange:
        started_ns = time.time_ns()
        head = head_of(request)
        verdict = self._verdict(request, head)
        observation = self._observer.begin(seen_by_the_app(head, verdict), verdict, started_ns)
        return Exchange(request, head, verdict, observation, self._manager.look_soon)

    def _verdict(self, request: HttpRequest, head: RequestHead) -> Admission | Refusal:
        if _APPLIED_KEY in surroundings_of(request) or hasattr(request, _APPLIED):
            logger.error("SecMiddleware is applied twice: the inner one would judge what the outer made")
            return Refusal("internal_error")
        setattr(request, _APPLIED, True)
        if not self._start():
            return Refusal("internal_error")
        if not hasattr(request, "scope"):
            return self._check.refusal_of(request.environ) or self._manager.admit(head)
        if not hands_over(request.scope) and self._manager.asks_the_server:
            kind = server_of_this_request()
            required = self._manager.snapshot.policy.requires
            if kind is not None and kind.hands_over == "never" and required:
                if not self._unable_server_told:
                    self._unable_server_told = True
                    logger.error("%s; every request is refused", kind.refusal())
                return Refusal("internal_error", "mtls.source")
            if not self._silent_server_told and head.scheme == "https":
                self._silent_server_told = True
                logger.error(
                    "this server says nothing about client certificates, so nobody can be recognised: serve "
                    "with `secmiddleware run`, or give uvicorn "
                    "`--http secmiddleware.servers.uvicorn:H11Protocol`"
                )
        return self._manager.admit(head)

    def _start(self) -> bool:
        """Whether the manager runs now."""
        try:
            if not self._manager.running:
                self._manager.start()
        except SecMiddlewareError:
            logger.exception("a request came where the settings cannot be used; it is refused")
            return False
        return True

    async def _aside_if_large(self, load: int, work: Callable[[], None]) -> None:
        """Do the work; where that may be much, in a thread while the loop goes on."""
        if load < self._offload:
            work()
        else:
            await asyncio.to_thread(work)
