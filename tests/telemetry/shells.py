"""One request through each shell, to an app that does as it is told."""

from __future__ import annotations

import asyncio
import io
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from asgi.calling import Call, body_messages, http_scope

from secmiddleware import asgi, wsgi
from secmiddleware.messages import PRESENTED_KEY, Presented
from secmiddleware.security import SecurityManager
from secmiddleware.telemetry.observer import Observer

JSON = ("content-type", "application/json")


@dataclass(frozen=True)
class Request:
    """What a caller sends, and what the app does with it."""

    path: str = "/"
    method: str = "GET"
    presented: Presented | None = None
    headers: tuple[tuple[str, str], ...] = ()
    query: str = ""
    body: bytes = b""
    status: int = 200
    raises: Exception | None = None
    says: bytes | None = None
    """The response's body; None echoes the request's."""
    look: Callable[[dict[str, Any]], None] | None = None
    """Called in the app with its scope or environ."""
    wrap: Callable[[Any], Any] = lambda app: app
    """What stands between the shell and the app."""


@dataclass(frozen=True)
class Answer:
    status: int | None
    headers: tuple[tuple[str, str], ...]
    body: bytes
    raised: Exception | None


class Shell(Protocol):
    def __call__(self, manager: SecurityManager, observer: Observer | None, request: Request) -> Answer: ...


class _Patient(Call):
    """A client who waits for the answer: Django listens for one who does not."""

    async def receive(self) -> dict[str, Any]:
        return await super().receive() if self._messages else await asyncio.Event().wait()


def through_asgi(manager: SecurityManager, observer: Observer | None, request: Request) -> Answer:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        if request.look is not None:
            request.look(scope)
        body = (await receive())["body"]
        if request.raises is not None:
            raise request.raises
        headers = [(b"content-type", b"application/json")]
        await send({"type": "http.response.start", "status": request.status, "headers": headers})
        await send({"type": "http.response.body", "body": body if request.says is None else request.says})

    return drive_asgi(asgi.SecMiddleware(request.wrap(app), config=manager, observer=observer), request)


def drive_asgi(shell: Any, request: Request) -> Answer:
    """What comes of the request where `shell` is an ASGI app that has ours in it."""
    headers = [(name.encode(), value.encode()) for name, value in (*request.headers, JSON)]
    scope = http_scope(
        request.path,
        method=request.method,
        presented=request.presented,
        headers=headers,
        query_string=request.query.encode(),
    )
    server = _Patient(scope, *body_messages(request.body))
    raised: Exception | None = None
    try:
        asyncio.run(server.to(shell))
    except Exception as error:  # noqa: BLE001  (whatever it is, a server lives on)
        raised = error
    start, *pieces = server.sent or [{"status": None, "headers": ()}]
    body = b"".join(piece.get("body", b"") for piece in pieces)
    told = tuple((name.decode(), value.decode()) for name, value in start["headers"])
    return Answer(start["status"], told, body, raised)


def through_wsgi(manager: SecurityManager, observer: Observer | None, request: Request) -> Answer:
    def app(environ: Any, start_response: Any) -> Any:
        if request.look is not None:
            request.look(environ)
        body = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        if request.raises is not None:
            raise request.raises
        start_response(f"{request.status} Whatever", [("Content-Type", "application/json")])
        return [body if request.says is None else request.says]

    return drive_wsgi(wsgi.SecMiddleware(request.wrap(app), config=manager, observer=observer), request)


def drive_wsgi(shell: Any, request: Request) -> Answer:
    """What comes of the request where `shell` is a WSGI app that has ours in it."""
    environ: dict[str, Any] = {
        "REQUEST_METHOD": request.method,
        "SCRIPT_NAME": "",
        "PATH_INFO": request.path,
        "RAW_URI": request.path,
        "QUERY_STRING": request.query,
        "CONTENT_TYPE": "application/json",
        "CONTENT_LENGTH": str(len(request.body)),
        "SERVER_NAME": "localhost",
        "SERVER_PORT": "8443",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "REMOTE_ADDR": "127.0.0.1",
        "REMOTE_PORT": "50000",
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": "https",
        "wsgi.input": io.BytesIO(request.body),
        "wsgi.errors": sys.stderr,
        "wsgi.multithread": True,
        "wsgi.multiprocess": False,
        "wsgi.run_once": False,
        PRESENTED_KEY: request.presented,
        **{f"HTTP_{name.upper().replace('-', '_')}": value for name, value in request.headers},
    }
    started: list[Any] = []
    pieces: list[bytes] = []
    iterable: Any = None
    raised: Exception | None = None
    try:
        iterable = shell(environ, lambda *begin: started.append(begin))
        pieces.extend(iterable)
    except Exception as error:  # noqa: BLE001  (whatever it is, a server lives on)
        raised = error
    finally:
        if hasattr(iterable, "close"):
            iterable.close()
    if not started:
        return Answer(None, (), b"", raised)
    return Answer(int(started[-1][0][:3]), tuple(started[-1][1]), b"".join(pieces), raised)


SHELLS = {"asgi": through_asgi, "wsgi": through_wsgi}
