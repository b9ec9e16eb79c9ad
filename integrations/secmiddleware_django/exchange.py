"""One request and its response, in the steps that the two colours of the middleware have in common."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any, Final

from django.core.signals import got_request_exception
from django.http import HttpRequest
from django.http.response import HttpResponseBase
from django.utils.log import log_response

from secmiddleware.engine import Admission
from secmiddleware.errors import BrokenOffError
from secmiddleware.messages import Refusal, RequestHead
from secmiddleware.telemetry.observer import ExchangeRecord, Observation
from secmiddleware_django.requests import Upload, put_head, remake, route_of, show
from secmiddleware_django.responses import Download, problem_of, watched

_RAISED: Final = "_secmiddleware_raised"
"""The attribute of a request that has, in a list, the types of what was raised for it and not caught."""


class Exchange:
    """What is known of one exchange; its steps wait for nothing but the reading of what Django has read."""

    def __init__(
        self,
        request: HttpRequest,
        came: RequestHead,
        verdict: Admission | Refusal,
        observation: Observation,
        on_unknown_key: Callable[[], None],
    ) -> None:
        self.observation = observation
        self._request = request
        self._came = came
        self._verdict = verdict
        self._on_unknown_key = on_unknown_key
        self._upload: Upload | None = None
        self._download: Download | None = None
        self._response: HttpResponseBase | None = None
        self._refusal: Refusal | None = None
        self._raised: list[str] = []
        self._ended = False

    @property
    def refused(self) -> bool:
        """Whether the app is not called."""
        return self._refusal is not None

    @property
    def load(self) -> int:
        """Bytes of the request's body that `let_in` may go through."""
        return 0 if self._upload is None else self._upload.load

    def receive(self) -> bool:
        """Whether the body is held now, for `let_in`; else the request is let in already, or refused."""
        if isinstance(self._verdict, Refusal):
            self._refuse(self._verdict)
            return False
        verdict = self._verdict
        show(self._request, verdict.identity, verdict.claims, verdict.unaccepted)
        setattr(self._request, _RAISED, self._raised)
        if self._verdict.request.passive:
            put_head(self._request, self._came, self.observation.head)
            return False
        self._upload = Upload(self._verdict.request, self._request, self.observation)
        outcome = self._upload.start(self.observation.head)
        if outcome is None:
            return True
        self._take(self._upload, outcome)
        return False

    def let_in(self) -> None:
        """Let the held request go to the app, rewritten, or refuse it."""
        if self._upload is not None:
            self._take(self._upload, self._upload.finish())

    def _take(self, upload: Upload, outcome: RequestHead | Refusal) -> None:
        if isinstance(outcome, Refusal):
            self._refuse(outcome)
        elif isinstance(self._verdict, Admission):
            put_head(self._request, self._came, outcome)
            remake(self._request, upload.file())

    def hold(self, response: HttpResponseBase) -> Download | None:
        """What is to be fed with the app's response before `let_out`; None where it may go as it is."""
        self._response = response
        if isinstance(self._verdict, Refusal):
            return None
        flow = self._verdict.respond(self.observation.head.method)
        if flow.passive:
            return None
        self._download = Download(flow, response, self.observation, under_asgi=self._under_asgi)
        return self._download

    def break_off(self, raised: Exception) -> None:
        """The response ended in an exception: have it known by those who hear of every other one."""
        got_request_exception.send(sender=type(self), request=self._request)
        self._refuse(Refusal("internal_error"))
        log_response(
            "%s: %s",
            "Internal Server Error",
            self._request.path,
            response=self._response,
            request=self._request,
            exception=raised,
        )

    def let_out(self) -> None:
        """Let the held response go to the caller, rewritten, or refuse it."""
        if self._download is None or self.refused:
            return
        self._download.finish()
        refusal = self._download.refusal
        if refusal is not None:
            # Django has made a page of what was raised. Not to be sealed is not what is wrong with it.
            self._refuse(Refusal("internal_error") if self._raised else refusal)

    def leave(self) -> HttpResponseBase:
        """The response for Django. The exchange ends with it, or with the stream that it is."""
        response = self._response
        if response is None:
            raise TypeError("an exchange without an answer")
        if response.streaming and (self._download is None or self._download.streams):
            response._resource_closers.append(self.end)  # noqa: SLF001  (as Django's own handlers do)
            if getattr(response, "file_to_stream", None) is None or self._under_asgi:
                # Under ASGI, Django does not close a response whose stream has raised.
                response.streaming_content = watched(response, self.end)
        else:
            self.end()
        return response

    @property
    def _under_asgi(self) -> bool:
        return hasattr(self._request, "scope")

    def _refuse(self, refusal: Refusal) -> None:
        self._refusal = refusal
        problem = problem_of(
            refusal, self.observation.trace_id or "", bodiless=self.observation.head.method == "HEAD"
        )
        if self._response is not None:
            # Closed with the problem, not now: closing a response also says that the request is over.
            problem._resource_closers += self._response._resource_closers  # noqa: SLF001  (see `leave`)
        self._response = problem

    def end(self, raised: BaseException | None = None) -> None:
        """Tell how it ended, the first time."""
        if self._ended:
            return
        self._ended = True
        if self._refusal is None and self._download is not None:
            self._refusal = self._download.broken_by
        if self._refusal is not None and self._refusal.code == "key_unknown":
            self._on_unknown_key()
        if raised is not None and not isinstance(raised, BrokenOffError):
            self._raised.append(_name_of(type(raised)))
        error = self._raised[0] if self._raised else None
        status = None if self._response is None else self._response.status_code
        self.observation.end(ExchangeRecord(status, self._refusal, route_of(self._request), error))


def _name_of(kind: type[BaseException]) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"


def _on_exception(*, request: HttpRequest | None = None, **_: Any) -> None:
    """Note for its exchange what was raised for a request and became a page."""
    raised: list[str] | None = getattr(request, _RAISED, None)
    kind = sys.exc_info()[0]
    if raised is not None and kind is not None:
        raised.append(_name_of(kind))


got_request_exception.connect(_on_exception, dispatch_uid="secmiddleware")
