"""A server of one websocket in process, under asyncio and trio, with a strict eye on what the app sends."""

from __future__ import annotations

from typing import Any
from urllib.parse import unquote_to_bytes

import anyio

from exchanges.sockets import OFFERED, Closed, Denied, Opened, Row, Said, playing
from exchanges.wire import SECONDS
from exchanges.world import World, to_bytes, to_text
from secmiddleware.messages import IDENTITY_KEY, PRESENTED_KEY, TOKEN_CLAIMS_KEY


class Server:
    """What a server is to an app: the messages of one websocket both ways."""

    def __init__(self, world: World, row: Row, *, offered: bool) -> None:
        self._world, self._row, self._offered = world, row, offered
        self._put, self._inbox = anyio.create_memory_object_stream[dict[str, Any]](100)
        self._out, self._outbox = anyio.create_memory_object_stream[dict[str, Any]](100)

    def scope(self) -> dict[str, Any]:
        row, fill = self._row, self._world.fill
        target, _, query = to_bytes(fill(row, row.target)).partition(b"?")
        return {
            "type": "websocket",
            "asgi": {"version": "3.0", "spec_version": "2.4"},
            "http_version": "1.1",
            "scheme": "wss",
            "path": unquote_to_bytes(target).decode("utf-8", "replace"),
            "raw_path": target,
            "query_string": query,
            "root_path": "",
            "headers": [(to_bytes(name), to_bytes(fill(row, value))) for name, value in row.headers],
            "subprotocols": list(row.subprotocols),
            "client": ("127.0.0.1", 50000),
            "server": ("localhost", 8443),
            "extensions": {OFFERED: {}} if self._offered else {},
            IDENTITY_KEY: "what somebody outside of us says",
            TOKEN_CLAIMS_KEY: {"sub": "somebody outside of us"},
            PRESENTED_KEY: self._world.people.presented(row.presented),
        }

    async def serve(self, app: Any) -> None:
        """Run the app and play the client's part; returns when both are through."""
        with anyio.fail_after(SECONDS):
            async with self._inbox, self._put, self._outbox, self._out, anyio.create_task_group() as group:
                group.start_soon(app, self.scope(), self._inbox.receive, self._send)
                await self._put.send({"type": "websocket.connect"})
                await self._play()
                await self._put.send({"type": "websocket.disconnect", "code": 1000})

    async def _send(self, message: Any) -> None:
        for name, value in message.get("headers", ()):
            assert isinstance(name, bytes), message
            assert isinstance(value, bytes), message
            assert name == name.lower(), message
        await self._out.send(dict(message))

    async def _play(self) -> None:
        handshake = await self._handshake()
        part = playing(self._world, self._row, handshake, offered=self._offered)
        answer: Said | Closed | None = None
        while True:
            try:
                said = part.send(answer)
            except StopIteration:
                return
            answer = None
            if said is None:
                answer = await self._next()
            else:
                kind = "text" if isinstance(said, str) else "bytes"
                await self._put.send({"type": "websocket.receive", kind: said})

    async def _handshake(self) -> Opened | Denied:
        first = await self._outbox.receive()
        headers = tuple((to_text(name), to_text(value)) for name, value in first.get("headers", ()))
        match first["type"]:
            case "websocket.accept":
                return Opened(headers, first.get("subprotocol"))
            case "websocket.close":
                row = self._row
                if row.code is not None and row.app.does != "deny":
                    code = 1011 if row.status == 500 else 1008
                    assert (first["code"], first["reason"]) == (code, row.code), first
                return Denied(403)
        assert first["type"] == "websocket.http.response.start", first
        assert self._offered, first
        body = b""
        while True:
            piece = await self._outbox.receive()
            assert piece["type"] == "websocket.http.response.body", piece
            body += piece.get("body", b"")
            if not piece.get("more_body", False):
                return Denied(first["status"], headers, body)

    async def _next(self) -> Said | Closed:
        message = await self._outbox.receive()
        if message["type"] == "websocket.close":
            return Closed(message["code"], message["reason"])
        assert message["type"] == "websocket.send", message
        text = message.get("text")
        return message["bytes"] if text is None else text
