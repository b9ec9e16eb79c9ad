"""A WSGI app called as a server calls it, without a server; every step of it is written down."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from secmiddleware.messages import PRESENTED_KEY, Presented


def environ_of(
    path: str = "/",
    body: bytes = b"",
    *,
    method: str = "GET",
    presented: Presented | None = None,
    **more: Any,
) -> dict[str, Any]:
    """An environ as a small server makes it: no `wsgi.input_terminated`, no raw target."""
    environ = {
        "REQUEST_METHOD": method,
        "SCRIPT_NAME": "",
        "PATH_INFO": path,
        "QUERY_STRING": "",
        "CONTENT_TYPE": "application/json" if body else "",
        "CONTENT_LENGTH": str(len(body)) if body else "",
        "SERVER_NAME": "localhost",
        "SERVER_PORT": "8443",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "SERVER_SOFTWARE": "calling/1",
        "REMOTE_ADDR": "127.0.0.1",
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": "https",
        "wsgi.input": io.BytesIO(body),
        "wsgi.errors": sys.stderr,
        "wsgi.multithread": True,
        "wsgi.multiprocess": False,
        "wsgi.run_once": False,
        PRESENTED_KEY: presented,
    }
    return {**environ, **more}


@dataclass
class Response:
    """What a server got of an app."""

    status: int = 0
    line: str = ""
    headers: list[tuple[str, str]] = field(default_factory=list)
    pieces: list[bytes] = field(default_factory=list)
    raised: BaseException | None = None
    iterable: Any = None

    @property
    def body(self) -> bytes:
        return b"".join(self.pieces)

    def header(self, name: str) -> str | None:
        values = [value for key, value in self.headers if key.lower() == name]
        assert len(values) < 2, self.headers
        return values[0] if values else None

    def start(
        self, status: str, headers: list[tuple[str, str]], exc_info: Any = None
    ) -> Callable[[bytes], object]:
        """The `start_response` of this server."""
        if exc_info is not None and self.pieces:
            raise exc_info[1].with_traceback(exc_info[2])
        assert exc_info is not None or not self.line, "start_response was called twice"
        self.status, self.line, self.headers = int(status[:3]), status, list(headers)
        return self.pieces.append


def call(app: Any, environ: dict[str, Any]) -> Response:
    """The whole response: iterated and closed, whatever happens on the way."""
    response = Response()
    try:
        response.iterable = app(environ, response.start)
        for piece in response.iterable:
            assert response.line, "a body before the head"
            response.pieces.append(piece)
    except Exception as error:  # noqa: BLE001  (a server lives on)
        response.raised = error
    finally:
        if hasattr(response.iterable, "close"):
            response.iterable.close()
    return response


class Body:
    """What an app gives: an iterable that counts how often it is closed, and how far it was read."""

    def __init__(self, *pieces: bytes, fails: Exception | None = None) -> None:
        self.closed = 0
        self.read = 0
        self._pieces = pieces
        self._fails = fails

    def __iter__(self) -> Any:
        for piece in self._pieces:
            self.read += 1
            yield piece
        if self._fails is not None:
            raise self._fails

    def close(self) -> None:
        self.closed += 1


JSON = [("Content-Type", "application/json")]
SSN = b'{"ssn":"123-45-6789"}'


def answering(body: Any, status: str = "200 OK", headers: Any = JSON) -> Any:
    """An app that answers with this iterable."""

    def app(environ: dict[str, Any], start_response: Any) -> Any:
        start_response(status, list(headers))
        return body

    return app
