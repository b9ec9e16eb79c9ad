"""The puppet in raw ASGI: it does what the row's `app` says, and writes down what it saw."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from exchanges.table import App, Exchange
from exchanges.world import World, to_bytes, to_text
from secmiddleware.messages import IDENTITY_KEY, PRESENTED_KEY, TOKEN_CLAIMS_KEY, UNACCEPTED_KEY


def shown(around: Any) -> dict[str, Any]:
    """What a scope or an environ says of a certificate beside the identity."""
    unaccepted = around[UNACCEPTED_KEY]
    if "type" in around:
        chain = around.get("extensions", {}).get("tls", {}).get("client_cert_chain")
        verify = "SUCCESS" if chain else "NONE"
    else:
        verify = around["SSL_CLIENT_VERIFY"]
        assert ("SSL_CLIENT_CERT" in around) == (verify == "SUCCESS")
    return {
        "presented": around[PRESENTED_KEY],
        "unaccepted": unaccepted and unaccepted.code,
        "verify": verify,
    }


class ToldToRaiseError(Exception):
    """What the puppet raises when it is told to."""


class Puppet:
    """One app for all rows; `play` before each exchange."""

    def __init__(self) -> None:
        self.seen: list[dict[str, Any]] = []
        self._app = App()
        self._headers: list[tuple[bytes, bytes]] = []
        self._chunks: list[bytes] = []

    def play(self, world: World, row: Exchange) -> None:
        """Be the app of this row."""
        self.seen = []
        self._app = row.app
        self._headers = [(to_bytes(n), to_bytes(world.fill(row, v))) for n, v in row.app.headers]
        self._chunks = [to_bytes(world.fill(row, chunk)) for chunk in row.app.chunks] or [b""]

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            await receive()
            await send({"type": "lifespan.startup.complete"})
            await receive()
            await send({"type": "lifespan.shutdown.complete"})
            return
        body, complete = await _read(receive)
        identity = scope[IDENTITY_KEY]
        claims = scope[TOKEN_CLAIMS_KEY]
        self.seen.append(
            {
                "method": scope["method"],
                "scheme": scope["scheme"],
                "path": scope["path"],
                "query": to_text(scope["query_string"]),
                "body": to_text(body),
                "complete": complete,
                "headers": [(to_text(name), to_text(value)) for name, value in scope["headers"]],
                "identity": str(identity) if identity is not None else None,
                "sub": claims["sub"] if claims is not None else None,
                "peer": scope["client"][0],
                **shown(scope),
            }
        )
        await self._answer(body, scope, send)

    async def _answer(
        self, body: bytes, scope: Any, send: Callable[[dict[str, Any]], Awaitable[None]]
    ) -> None:
        does, headers, chunks = self._app.does, self._headers, self._chunks
        if does == "raise":
            raise ToldToRaiseError
        if does == "silent":
            return
        if does == "echo":
            headers = [pair for pair in scope["headers"] if pair[0] == b"content-type"]
            chunks = [body]
        await send({"type": "http.response.start", "status": self._app.status, "headers": headers})
        ends = does not in ("break", "unfinished", "restart")
        for index, chunk in enumerate(chunks if ends else chunks[:1]):
            more = not ends or index + 1 < len(chunks)
            await send({"type": "http.response.body", "body": chunk, "more_body": more})
        if does == "restart":
            await send({"type": "http.response.start", "status": self._app.status, "headers": headers})
        if does == "overrun":
            await send({"type": "http.response.body", "body": chunks[-1], "more_body": False})
        if does == "break":
            raise ToldToRaiseError


async def _read(receive: Any) -> tuple[bytes, bool]:
    """The request's body, and whether it was whole."""
    body = b""
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return body, False
        body += message.get("body", b"")
        if not message.get("more_body", False):
            return body, True
