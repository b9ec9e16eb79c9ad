"""A server in process: the ASGI scope and messages of a row, and a strict eye on what the app sends."""

from __future__ import annotations

from typing import Any
from urllib.parse import unquote_to_bytes

from exchanges.outcome import Outcome
from exchanges.table import Exchange
from exchanges.world import World, to_bytes, to_text
from secmiddleware.messages import IDENTITY_KEY, PRESENTED_KEY, TOKEN_CLAIMS_KEY


class Server:
    """What a server is to an app: the messages of one request, and a strict eye on those of the response."""

    def __init__(self, world: World, row: Exchange) -> None:
        self._incoming = [
            {"type": "http.request", "body": to_bytes(world.fill(row, chunk)), "more_body": True}
            for chunk in row.request.chunks
        ]
        if row.request.truncated:
            self._incoming.append({"type": "http.disconnect"})
        elif self._incoming:
            self._incoming[-1]["more_body"] = False
        else:
            self._incoming.append({"type": "http.request"})
        self._start: dict[str, Any] | None = None
        self._pieces: list[bytes] = []
        self._ended = False

    async def receive(self) -> dict[str, Any]:
        return self._incoming.pop(0) if self._incoming else {"type": "http.disconnect"}

    async def send(self, message: dict[str, Any]) -> None:
        assert not self._ended, f"sent after the end: {message}"
        if self._start is None:
            assert message["type"] == "http.response.start", message
            assert isinstance(message["status"], int)
            for name, value in message["headers"]:
                assert isinstance(name, bytes), message
                assert isinstance(value, bytes), message
            self._start = message
            return
        assert message["type"] == "http.response.body", message
        assert isinstance(message["body"], bytes), message
        self._pieces.append(message["body"])
        self._ended = not message.get("more_body", False)

    def outcome(self) -> Outcome:
        """What a client gets; where the app never began, what every server says then."""
        if self._start is None:
            return Outcome(500, (), ())
        headers = tuple((to_text(name), to_text(value)) for name, value in self._start["headers"])
        assert all(name == name.lower() for name, _ in headers), headers
        pieces = tuple(piece for piece in self._pieces if piece)
        return Outcome(self._start["status"], headers, pieces, broken=not self._ended)


def scope_of(world: World, row: Exchange, *, prefixed: bool = True) -> dict[str, Any]:
    """The scope that a server makes of a row's request; `prefixed`: its raw target has root_path in front."""
    request = row.request
    target, _, query = to_bytes(world.fill(row, request.target)).partition(b"?")
    prefix = request.root_path.encode("ascii")
    headers = [(to_bytes(name).lower(), to_bytes(world.fill(row, value))) for name, value in request.headers]
    match request.length:
        case int(length):
            headers.append((b"content-length", b"%d" % length))
        case "true" if request.chunks:
            whole = sum(len(to_bytes(world.fill(row, chunk))) for chunk in request.chunks)
            headers.append((b"content-length", b"%d" % whole))
        case "chunked":
            headers.append((b"transfer-encoding", b"chunked"))
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.4"},
        "http_version": "1.1",
        "method": request.method,
        "scheme": "https",
        "path": (prefix + unquote_to_bytes(target)).decode("utf-8", "replace"),
        "raw_path": ((prefix if prefixed else b"") + target) if request.raw else None,
        "query_string": query,
        "root_path": request.root_path,
        "headers": headers,
        "client": ("127.0.0.1", 50000),
        "server": ("localhost", 8443),
        "extensions": {"http.response.pathsend": {}, "http.response.trailers": {}},
        IDENTITY_KEY: "what somebody outside of us says",
        TOKEN_CLAIMS_KEY: {"sub": "somebody outside of us"},
        PRESENTED_KEY: world.people.presented(row.presented),
    }
