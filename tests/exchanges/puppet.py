"""The puppet in raw ASGI: it does what the row's `app` says, and writes down what it saw."""

from __future__ import annotations

from typing import Any

from exchanges.table import Exchange
from secmiddleware.messages import IDENTITY_KEY


class Puppet:
    """One app for all rows; `row` is set before each exchange."""

    def __init__(self) -> None:
        self.row: Exchange | None = None
        self.chunks: tuple[str, ...] = ()
        self.headers: tuple[tuple[str, str], ...] = ()
        self.seen: list[dict[str, Any]] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            await receive()
            await send({"type": "lifespan.startup.complete"})
            await receive()
            await send({"type": "lifespan.shutdown.complete"})
            return
        assert self.row is not None
        body = b""
        more = True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                break
            body += message.get("body", b"")
            more = message.get("more_body", False)
        headers = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in scope["headers"]]
        identity = scope[IDENTITY_KEY]
        self.seen.append(
            {
                "method": scope["method"],
                "path": scope["path"],
                "body": body.decode("utf-8", "surrogateescape"),
                "headers": headers,
                "identity": str(identity) if identity is not None else None,
            }
        )
        app = self.row.app
        if app.does == "raise":
            raise RuntimeError("the puppet was told to raise")
        answer: list[bytes] = [chunk.encode("utf-8", "surrogateescape") for chunk in self.chunks] or [b""]
        answer_headers = list(self.headers)
        if app.does == "echo":
            answer = [body]
            answer_headers = [pair for pair in headers if pair[0] == "content-type"]
        await send(
            {
                "type": "http.response.start",
                "status": app.status,
                "headers": [
                    (name.encode("latin-1"), value.encode("latin-1")) for name, value in answer_headers
                ],
            }
        )
        if app.does == "unfinished":
            await send({"type": "http.response.body", "body": answer[0], "more_body": True})
            return
        for index, chunk in enumerate(answer):
            await send({"type": "http.response.body", "body": chunk, "more_body": index + 1 < len(answer)})
