"""An ASGI app called as a server calls it, message by message, without a server."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable
from typing import Any

from secmiddleware.messages import PRESENTED_KEY, Presented


def http_scope(
    path: str = "/",
    *,
    method: str = "GET",
    presented: Presented | None = None,
    headers: Iterable[tuple[bytes, bytes]] = (),
    **more: Any,
) -> dict[str, Any]:
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": method,
        "scheme": "https",
        "path": path,
        "raw_path": path.encode(),
        "root_path": "",
        "query_string": b"",
        "headers": list(headers),
        "client": ("127.0.0.1", 50000),
        "server": ("127.0.0.1", 8443),
        PRESENTED_KEY: presented,
        **more,
    }


class Call:
    """One scope and its messages; after the last one the client is gone."""

    def __init__(self, scope: dict[str, Any], *messages: dict[str, Any]) -> None:
        self.scope = scope
        self.sent: list[dict[str, Any]] = []
        self._messages = deque(messages)

    async def receive(self) -> dict[str, Any]:
        if self._messages:
            return self._messages.popleft()
        return {"type": "websocket.disconnect" if self.scope["type"] == "websocket" else "http.disconnect"}

    async def send(self, message: dict[str, Any]) -> None:
        self.sent.append(dict(message))

    async def to(self, app: Any) -> Call:
        await app(self.scope, self.receive, self.send)
        return self

    @property
    def status(self) -> int:
        (start,) = (m for m in self.sent if m["type"].endswith("http.response.start"))
        return start["status"]

    @property
    def body(self) -> bytes:
        return b"".join(m.get("body", b"") for m in self.sent if m["type"].endswith("http.response.body"))


def call(app: Any, scope: dict[str, Any], *messages: dict[str, Any]) -> Call:
    """The call when it is over."""
    return asyncio.run(Call(scope, *messages).to(app))


def body_messages(*chunks: bytes) -> list[dict[str, Any]]:
    """The messages of a whole body."""
    last = len(chunks) - 1
    return [
        {"type": "http.request", "body": chunk, "more_body": index < last}
        for index, chunk in enumerate(chunks)
    ]
