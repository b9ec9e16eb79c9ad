"""The puppet as a Flask view."""

from __future__ import annotations

from collections.abc import Iterator

from flask import Response, g, request
from werkzeug.exceptions import ClientDisconnected

from exchanges.puppet import Puppet, ToldToRaiseError, shown
from exchanges.world import to_text


class FlaskPuppet(Puppet):
    """One view for all rows."""

    def view(self, rest: str = "") -> Response | None:
        body, complete = _read()
        identity = g.client_identity
        claims = g.token_claims
        self.seen.append(
            {
                "method": request.method,
                "scheme": request.scheme,
                "path": request.root_path.rstrip("/") + request.path,
                "query": to_text(request.query_string),
                "body": to_text(body),
                "complete": complete,
                "headers": [
                    (name.lower(), to_text(value.encode("latin-1"))) for name, value in request.headers
                ],
                "identity": str(identity) if identity is not None else None,
                "sub": claims["sub"] if claims is not None else None,
                "peer": request.remote_addr,
                **shown(request.environ),
            }
        )
        return self.respond(body)

    def respond(self, body: bytes) -> Response | None:
        does, chunks = self._app.does, self._chunks
        headers = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in self._headers]
        if does == "raise":
            raise ToldToRaiseError
        if does == "silent":
            return None
        if does == "echo":
            headers, chunks = [("content-type", request.content_type)] if request.content_type else [], [body]
        whole = chunks[0] if len(chunks) == 1 and does != "break" else _stream(chunks, breaks=does == "break")
        response = Response(whole, self._app.status)
        response.headers.remove("Content-Type")  # Flask's default
        for name in {name for name, _ in headers}:
            response.headers.remove(name)
        for name, value in headers:
            response.headers.add(name, value)
        return response


def _stream(chunks: list[bytes], *, breaks: bool) -> Iterator[bytes]:
    for chunk in chunks:
        yield chunk
        if breaks:
            raise ToldToRaiseError


def _read() -> tuple[bytes, bool]:
    """The request's body, and whether it was whole."""
    body, length = b"", request.content_length
    try:
        while piece := request.stream.read(65536 if length is None else length - len(body)):
            body += piece
    except (ClientDisconnected, OSError):
        return body, False
    return body, length in (None, len(body))
