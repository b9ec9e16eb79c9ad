"""A WSGI server in process: the environ of a row as gunicorn makes it, and a strict eye on the app.

`wsgiref.validate` stands on both sides: between this server and the app that is called, and, where the caller
asks for it, between that and the puppet.
"""

from __future__ import annotations

import io
import sys
import warnings
from collections.abc import Iterable
from typing import Any, Final
from urllib.parse import unquote_to_bytes
from wsgiref.types import WSGIApplication
from wsgiref.validate import WSGIWarning, validator

from exchanges.outcome import Outcome
from exchanges.table import Exchange
from exchanges.world import World, to_bytes, to_text
from secmiddleware.messages import IDENTITY_KEY, PRESENTED_KEY, TOKEN_CLAIMS_KEY

NO_CONTENT: Final = (204, 304)


class GoneError(OSError):
    """What reading says once the caller has gone away."""


class Input:
    """`wsgi.input`: the chunks as they came, and no more; it may be read in any way, but not past the end."""

    def __init__(self, chunks: Iterable[bytes], *, gone: bool, length: int | None) -> None:
        self._body = io.BytesIO(b"".join(chunks))
        self._gone = gone
        self._left = length

    def read(self, size: int = -1) -> bytes:
        return self._count(self._body.read(size), asked=size)

    def readline(self, size: int = -1) -> bytes:
        return self._count(self._body.readline(size), asked=0)

    def readlines(self, hint: int = -1) -> list[bytes]:
        return list(self)

    def __iter__(self) -> Any:
        return iter(self.readline, b"")

    def _count(self, data: bytes, *, asked: int) -> bytes:
        if self._left is not None:
            assert asked <= self._left, "asked for more than CONTENT_LENGTH"
            assert asked >= 0, "asked for everything, past CONTENT_LENGTH"
            self._left -= len(data)
        if self._gone and not data and asked:
            raise GoneError("the caller has gone away")
        return data


def environ_of(world: World, row: Exchange, *, prefixed: bool = False) -> dict[str, Any]:
    """The environ that a server makes of a row's request; `prefixed`: its target has SCRIPT_NAME in front."""
    request = row.request
    target, _, query = to_bytes(world.fill(row, request.target)).partition(b"?")
    chunks = [to_bytes(world.fill(row, chunk)) for chunk in request.chunks]
    environ: dict[str, Any] = {
        "REQUEST_METHOD": request.method,
        "SCRIPT_NAME": request.root_path,
        "PATH_INFO": unquote_to_bytes(target).decode("latin-1"),
        "QUERY_STRING": query.decode("latin-1"),
        "SERVER_NAME": "localhost",
        "SERVER_PORT": "8443",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "SERVER_SOFTWARE": "gunicorn/table",
        "REMOTE_ADDR": "127.0.0.1",
        "REMOTE_PORT": "50000",
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": "https",
        "wsgi.errors": sys.stderr,
        "wsgi.multithread": True,
        "wsgi.multiprocess": False,
        "wsgi.run_once": False,
        "wsgi.input_terminated": True,
        IDENTITY_KEY: "what somebody outside of us says",
        TOKEN_CLAIMS_KEY: {"sub": "somebody outside of us"},
        PRESENTED_KEY: world.people.presented(row.presented),
    }
    if request.raw:
        whole = (request.root_path.encode("ascii") if prefixed else b"") + to_bytes(
            world.fill(row, request.target)
        )
        environ["RAW_URI"] = whole.decode("latin-1")
    headers = [(name.lower(), to_bytes(world.fill(row, value))) for name, value in request.headers]
    match request.length:
        case int(length):
            headers.append(("content-length", b"%d" % length))
        case "true" if request.chunks:
            headers.append(("content-length", b"%d" % sum(map(len, chunks))))
        case "chunked":
            headers.append(("transfer-encoding", b"chunked"))
    for name, value in headers:
        key = name.upper().replace("-", "_")
        key = key if key in ("CONTENT_TYPE", "CONTENT_LENGTH") else f"HTTP_{key}"
        text = value.decode("latin-1")
        environ[key] = f"{environ[key]},{text}" if key in environ else text
    length = environ.get("CONTENT_LENGTH", "")
    environ["wsgi.input"] = Input(
        chunks, gone=request.truncated, length=int(length) if length.isdigit() else None
    )
    return environ


def is_valid(row: Exchange, environ: dict[str, Any]) -> bool:
    """Whether PEP 3333, as `wsgiref.validate` reads it, knows such a request and such a response."""
    length = environ.get("CONTENT_LENGTH", "0")
    asked = environ["PATH_INFO"].startswith("/") and length.isdigit()
    kinds = (
        ["CONTENT_TYPE" in environ]
        if row.app.does == "echo"
        else [n == "content-type" for n, _ in row.app.headers]
    )
    return asked and (any(kinds) or row.app.status in NO_CONTENT)


def call(
    app: WSGIApplication, environ: dict[str, Any], *, validated: bool = True
) -> tuple[Outcome, BaseException | None]:
    """What a client gets of the app, and what the app raised; `validated`: called through a validator."""
    started: list[tuple[str, list[tuple[str, str]]]] = []
    pieces: list[bytes] = []

    def start_response(status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Any:
        if exc_info is not None and pieces:
            raise exc_info[1].with_traceback(exc_info[2])
        assert exc_info is not None or not started, "start_response was called twice"
        started[:] = [(status, headers)]
        return pieces.append

    raised: BaseException | None = None
    iterable: Any = None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", WSGIWarning)  # it does not know some methods that we do
        try:
            iterable = (validator(app) if validated else app)(environ, start_response)
            for piece in iterable:
                assert isinstance(piece, bytes)
                pieces.append(piece)
        except Exception as error:  # noqa: BLE001  (whatever it is, a server lives on)
            raised = error
        finally:
            if hasattr(iterable, "close"):
                iterable.close()
    if not started:
        return Outcome(500, (), ()), raised
    status, headers = started[0]
    outcome = Outcome(
        int(status[:3]),
        tuple((name.lower(), to_text(value.encode("latin-1"))) for name, value in headers),
        tuple(piece for piece in pieces if piece),
        broken=_is_short(headers, pieces, environ) or (raised is not None and not _is_whole(headers, pieces)),
    )
    return outcome, raised


def _is_whole(headers: list[tuple[str, str]], pieces: list[bytes]) -> bool:
    lengths = [value for name, value in headers if name.lower() == "content-length"]
    return lengths == [str(sum(map(len, pieces)))]


def _is_short(headers: list[tuple[str, str]], pieces: list[bytes], environ: dict[str, Any]) -> bool:
    """Whether a client would wait for more than there is."""
    lengths = [value for name, value in headers if name.lower() == "content-length"]
    return bool(lengths) and environ["REQUEST_METHOD"] != "HEAD" and sum(map(len, pieces)) < int(lengths[0])
