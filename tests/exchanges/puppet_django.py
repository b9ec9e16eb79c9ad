"""The puppet as Django views, one for each colour, behind the adapter."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any, ClassVar

from django.http import HttpRequest, HttpResponse, StreamingHttpResponse, UnreadablePostError
from django.urls import re_path

from exchanges.outcome import Recorder
from exchanges.puppet import Puppet, ToldToRaiseError, shown
from exchanges.world import to_text
from secmiddleware_django import SecMiddleware


class Recorded(SecMiddleware):
    """The adapter, with its observer looked at."""

    recorder: ClassVar = Recorder()

    def __init__(self, get_response: Any) -> None:
        super().__init__(get_response, observer=self.recorder)


class DjangoPuppet(Puppet):
    """What both views do."""

    def answer(self, request: HttpRequest, *, asynchronous: bool) -> Any:
        body, complete = _read(request)
        identity = request.client_identity
        claims = request.token_claims
        headers = [
            (name.lower(), to_text(value.encode("latin-1"))) for name, value in request.headers.items()
        ]
        headers = [(name, value) for name, value in headers if value or name != "content-type"]
        self.seen.append(
            {
                "method": request.method,
                "scheme": request.scheme,
                "path": request.path,
                "query": request.META["QUERY_STRING"],
                "body": to_text(body),
                "complete": complete,
                "headers": headers,
                "identity": str(identity) if identity is not None else None,
                "sub": claims["sub"] if claims is not None else None,
                "peer": request.META["REMOTE_ADDR"],
                **shown(request.scope if asynchronous else request.environ),
            }
        )
        return self.respond(body, request, asynchronous=asynchronous)

    def respond(self, body: bytes, request: HttpRequest, *, asynchronous: bool) -> Any:
        does, chunks = self._app.does, self._chunks
        headers = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in self._headers]
        if does == "raise":
            raise ToldToRaiseError
        if does == "silent":
            return None
        if does == "echo":
            headers, chunks = [("content-type", request.content_type)] if request.content_type else [], [body]
        if does == "break" or len(chunks) > 1:
            stream = _stream(chunks, breaks=does == "break")
            content = _async(stream) if asynchronous else stream
            response: Any = StreamingHttpResponse(content, status=self._app.status)
        else:
            response = HttpResponse(chunks[0], status=self._app.status)
        del response["Content-Type"]  # Django's default
        for name, value in headers:
            response[name] = value
        return response


def _stream(chunks: list[bytes], *, breaks: bool) -> Iterator[bytes]:
    for chunk in chunks:
        yield chunk
        if breaks:
            raise ToldToRaiseError


async def _async(chunks: Iterator[bytes]) -> AsyncIterator[bytes]:
    for chunk in chunks:
        yield chunk


def _read(request: HttpRequest) -> tuple[bytes, bool]:
    """The request's body, and whether it was whole."""
    body = b""
    try:
        while piece := request.read(65536):
            body += piece
    except UnreadablePostError:
        return body, False
    return body, request.META.get("CONTENT_LENGTH", "") in ("", str(len(body)))


PUPPET = DjangoPuppet()


def sync_view(request: HttpRequest) -> Any:
    return PUPPET.answer(request, asynchronous=hasattr(request, "scope"))


async def async_view(request: HttpRequest) -> Any:
    return PUPPET.answer(request, asynchronous=hasattr(request, "scope"))


class SyncUrls:
    urlpatterns: ClassVar = [re_path("", sync_view)]


class AsyncUrls:
    urlpatterns: ClassVar = [re_path("", async_view)]
