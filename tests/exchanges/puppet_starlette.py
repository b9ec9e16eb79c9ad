"""The puppet as a Starlette endpoint: it reads a `Request` and answers with a `Response`.

What no `Response` of Starlette's does (end in the middle, begin twice) one of the puppet's own does: to
Starlette a response is whatever can be called with a scope.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Any, Final

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response, StreamingResponse

from exchanges.puppet import Puppet, ToldToRaiseError, shown
from exchanges.world import to_text

EVERY_METHOD: Final = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "CONNECT"]


class StarlettePuppet(Puppet):
    """One endpoint for all rows; FastAPI, being Starlette, takes it too."""

    async def endpoint(self, request: Request) -> Response:
        body, complete = b"", True
        try:
            async for chunk in request.stream():
                body += chunk
        except ClientDisconnect:
            complete = False
        identity = request.state.client_identity
        claims = request.state.token_claims
        assert request.client is not None
        self.seen.append(
            {
                "method": request.method,
                "scheme": request.url.scheme,
                "path": request.scope["path"],
                "query": to_text(request.scope["query_string"]),
                "body": to_text(body),
                "complete": complete,
                "headers": [(to_text(name), to_text(value)) for name, value in request.headers.raw],
                "identity": str(identity) if identity is not None else None,
                "sub": claims["sub"] if claims is not None else None,
                "peer": request.client.host,
                **shown(request.scope),
            }
        )
        return self.respond(request, body)

    def respond(self, request: Request, body: bytes) -> Response:
        app, headers, chunks = self._app, self._headers, self._chunks
        match app.does:
            case "raise":
                raise ToldToRaiseError
            case "silent" | "unfinished" | "overrun" | "restart":
                return Misbehaving(app.does, app.status, headers, chunks)
            case "echo":
                headers, chunks = [pair for pair in request.headers.raw if pair[0] == b"content-type"], [body]
            case "break":
                return _with_headers(StreamingResponse(_breaking(chunks[0]), app.status), headers)
        if len(chunks) == 1:
            return _with_headers(Response(chunks[0], app.status), headers)
        return _with_headers(StreamingResponse(_stream(chunks), app.status), headers)


def _with_headers(response: Response, headers: Sequence[tuple[bytes, bytes]]) -> Response:
    """With the row's headers, and a length of Starlette's own where the row has none."""
    names = {name.lower() for name, _ in headers}
    own = [pair for pair in response.raw_headers if pair[0] not in names]
    response.raw_headers = [*headers, *own]
    return response


async def _stream(chunks: Sequence[bytes]) -> AsyncIterator[bytes]:
    for chunk in chunks:
        yield chunk


async def _breaking(chunk: bytes) -> AsyncIterator[bytes]:
    yield chunk
    raise ToldToRaiseError


class Misbehaving(Response):
    """A response of which not everything comes, or more than that."""

    def __init__(
        self, does: str, status: int, headers: Sequence[tuple[bytes, bytes]], chunks: Sequence[bytes]
    ) -> None:
        self._does, self._status, self._headers, self._chunks = does, status, headers, chunks
        self.background = None

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if self._does == "silent":
            return
        start = {"type": "http.response.start", "status": self._status, "headers": list(self._headers)}
        whole = self._does == "overrun"
        await send(start)
        await send({"type": "http.response.body", "body": self._chunks[0], "more_body": not whole})
        if self._does == "restart":
            await send(start)
        if self._does == "overrun":
            await send({"type": "http.response.body", "body": self._chunks[-1], "more_body": False})
