"""The rows about websockets (sockets.toml): the client's part, the app's, and what both must see.

A driver opens a socket as its row says and then does what `playing` asks of it; the row does not know the
driver. Where a server offers no denial response, a refusal is a plain 403, and so is the app's.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Generator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Literal

from exchanges.outcome import Recorder
from exchanges.table import HERE
from exchanges.world import World, to_bytes, to_text
from secmiddleware.messages import IDENTITY_KEY

OFFERED = "websocket.http.response"


@dataclass(frozen=True)
class App:
    does: Literal["answer", "close", "deny"] = "answer"
    """answer: each message by the next of `says`, or by itself; close: after the first message."""
    says: tuple[str, ...] = ()
    close: tuple[str, str] = ("1000", "")
    subprotocol: str | None = None
    status: int = 403
    headers: tuple[tuple[str, str], ...] = ()
    """Of the acceptance, or of the denial."""
    chunks: tuple[str, ...] = ()


@dataclass(frozen=True)
class Row:
    name: str
    target: str
    config: str = "live"
    presented: str = ""
    headers: tuple[tuple[str, str], ...] = ()
    subprotocols: tuple[str, ...] = ()
    app: App = App()
    steps: tuple[tuple[str, ...], ...] = ()
    status: int = 101
    """101: it is accepted, whatever the protocol says then (RFC 8441 has a 200 for it)."""
    code: str | None = None
    where: str | None = None
    answer: Mapping[str, str] = field(default_factory=dict)
    """Each of these headers once, with this value: of the acceptance, or of the denial."""
    absent: tuple[str, ...] = ()
    subprotocol: str | None = None
    body: str | None = None
    app_saw: Mapping[str, Any] | None = None
    """None: it was not called."""

    @property
    def ends_with(self) -> str | None:
        """The code with which the socket is refused, or ended by us; None where it is not."""
        ours = self.steps and self.steps[-1][0] == "ended" and self.app.does != "close"
        return self.steps[-1][2] if ours else self.code


def _frozen(value: Any) -> Any:
    return tuple(_frozen(item) for item in value) if isinstance(value, list) else value


@cache
def socket_rows() -> tuple[Row, ...]:
    """Every row; names are unique."""
    found = []
    for raw in tomllib.loads((HERE / "sockets.toml").read_text("utf-8"))["socket"]:
        parts = {key: _frozen(value) for key, value in raw.items()}
        parts["app"] = App(**{key: _frozen(value) for key, value in raw.get("app", {}).items()})
        found.append(Row(**parts))
    names = [row.name for row in found]
    assert len(names) == len(set(names)), names
    return tuple(found)


@dataclass(frozen=True)
class Opened:
    """What a client sees of an acceptance."""

    headers: tuple[tuple[str, str], ...]
    subprotocol: str | None


@dataclass(frozen=True)
class Denied:
    """What a client sees of a refusal."""

    status: int
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes = b""


@dataclass(frozen=True)
class Closed:
    code: int
    reason: str


Said = str | bytes
Playing = Generator[Said | None, Said | Closed | None, None]


def playing(world: World, row: Row, handshake: Opened | Denied, *, offered: bool) -> Playing:
    """The client's part: asks for what it yields to be sent, and with None for what comes next."""
    shown = f"{row.name}: {handshake}"
    if row.status != 101:
        assert isinstance(handshake, Denied), shown
        _check_denial(world, row, handshake, shown, offered=offered)
        return
    assert isinstance(handshake, Opened), shown
    _check_headers(world, row, handshake.headers, shown)
    assert handshake.subprotocol == row.subprotocol, shown
    for verb, *told in row.steps:
        match verb:
            case "send":
                yield world.fill(row, told[0])
            case "send-bytes":
                yield to_bytes(world.fill(row, told[0]))
            case "get":
                got = yield None
                text = to_text(got) if isinstance(got, bytes) else got
                assert isinstance(text, str), f"{row.name}: {got}"
                assert world.matches(row, told[0], text), f"{row.name}: {got!r}"
            case "ended":
                got = yield None
                assert got == Closed(int(told[0]), told[1]), f"{row.name}: {got!r}"


def _check_denial(world: World, row: Row, denied: Denied, shown: str, *, offered: bool) -> None:
    if not offered:
        assert denied.status == 403, shown
        return
    assert denied.status == row.status, shown
    _check_headers(world, row, denied.headers, shown)
    if row.body is not None:
        assert world.matches(row, row.body, to_text(denied.body)), shown
    if row.code is not None:
        problem = json.loads(denied.body)
        assert dict(denied.headers)["content-type"] == "application/problem+json", shown
        assert (problem["code"], problem["status"]) == (row.code, row.status), shown
        assert problem.get("where") == row.where, shown


def _check_headers(world: World, row: Row, headers: tuple[tuple[str, str], ...], shown: str) -> None:
    for name, expected in row.answer.items():
        (value,) = (v for n, v in headers if n == name)
        assert world.matches(row, expected, value), shown
    for name in row.absent:
        assert name not in dict(headers), shown
    for secret in ("123-45-6789", "secret-"):
        assert not any(secret in value for _, value in headers), shown


def check_end(world: World, row: Row, puppet: SocketPuppet, recorder: Recorder, *, offered: bool) -> None:
    """Assert what the app has seen and what the observer was told, when all is over."""
    refusal = recorder.wait().refusal
    denied_plainly = row.app.does == "deny" and not offered  # the app's close is a refusal of its own
    assert (refusal and refusal.code) == (None if denied_plainly else row.ends_with), f"{row.name}: {refusal}"
    if row.app_saw is None:
        assert puppet.seen == [], row.name
        return
    assert len(puppet.seen) == 1, row.name
    seen = puppet.seen[0]
    for key, wanted in row.app_saw.items():
        shown = f"{row.name}: {key} of {seen}"
        match key:
            case "heard":
                assert seen["heard"] == [world.fill(row, text) for text in wanted], shown
            case "headers":
                for name, value in wanted.items():
                    assert [v for n, v in seen["headers"] if n == name] == [value], shown
            case "end":
                assert seen["end"] == tuple(wanted), shown
            case _:
                assert seen[key] == wanted, shown
    assert ("end" in row.app_saw) == (row.ends_with is not None and bool(row.steps)), row.name


class SocketPuppet:
    """One app for all rows; `play` before each."""

    gone: tuple[type[Exception], ...] = (OSError,)
    """What a `send` may raise where nobody is there any more."""

    def __init__(self) -> None:
        self.seen: list[dict[str, Any]] = []
        self._app = App()
        self._headers: list[tuple[bytes, bytes]] = []

    def play(self, world: World, row: Row) -> None:
        self.seen = []
        self._app = row.app
        self._headers = [(to_bytes(n), to_bytes(world.fill(row, v))) for n, v in row.app.headers]

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            await receive()
            await send({"type": "lifespan.startup.complete"})
            await receive()
            await send({"type": "lifespan.shutdown.complete"})
            return
        await self.attend(scope, receive, send, scope[IDENTITY_KEY])

    async def attend(self, scope: Any, receive: Any, send: Any, identity: Any) -> None:
        """One socket, from its handshake to its end."""
        seen: dict[str, Any] = {
            "identity": "" if identity is None else str(identity),
            "path": scope["path"],
            "query": to_text(scope["query_string"]),
            "headers": [(to_text(name), to_text(value)) for name, value in scope["headers"]],
            "heard": [],
        }
        self.seen.append(seen)
        assert (await receive())["type"] == "websocket.connect"
        if self._app.does == "deny":
            await self._deny(scope, send)
            return
        accept = {"type": "websocket.accept", "headers": self._headers, "subprotocol": self._app.subprotocol}
        await send(accept)
        says = list(self._app.says)
        while (message := await receive())["type"] == "websocket.receive":
            text = message.get("text")
            seen["heard"].append(to_text(message["bytes"]) if text is None else text)
            if self._app.does == "close":
                code, reason = self._app.close
                await send({"type": "websocket.close", "code": int(code), "reason": reason})
                return
            content = {"bytes": message["bytes"]} if text is None else {"text": text}
            with suppress(*self.gone):
                await send({"type": "websocket.send", **({"text": says.pop(0)} if says else content)})
        seen["end"] = (str(message.get("code")), message.get("reason") or "")

    async def _deny(self, scope: Any, send: Any) -> None:
        if OFFERED not in (scope.get("extensions") or {}):
            await send({"type": "websocket.close", "code": 4403})
            return
        start = {"type": "websocket.http.response.start", "status": self._app.status}
        await send({**start, "headers": self._headers})
        for number, chunk in enumerate(self._app.chunks, 1):
            more = number < len(self._app.chunks)
            body = {"type": "websocket.http.response.body", "body": to_bytes(chunk), "more_body": more}
            await send(body)
