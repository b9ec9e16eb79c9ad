"""The rows, as frozen data: what goes in, what the app does, what must come out."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent


@dataclass(frozen=True)
class Request:
    method: str = "GET"
    target: str = "/"
    headers: tuple[tuple[str, str], ...] = ()
    chunks: tuple[str, ...] = ()
    truncated: bool = False
    """The caller goes away after the chunks."""
    declared: int | None = None
    """The Content-Length that is announced; None: the true one; -1: none, the body is chunked."""
    root_path: str = ""
    """What the server says the prefix is; only shells that take one from the server can run the row."""
    raw: bool = True
    """Whether the server hands over the raw target."""


@dataclass(frozen=True)
class App:
    does: str = "respond"
    """respond | echo (the request's body and type) | raise | unfinished (head and chunk, then it returns)"""
    status: int = 200
    headers: tuple[tuple[str, str], ...] = (("content-type", "application/json"),)
    chunks: tuple[str, ...] = ()


@dataclass(frozen=True)
class Expect:
    status: int = 200
    code: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    absent: tuple[str, ...] = ()
    body: str | None = None
    app_saw: Mapping[str, Any] | None = None
    """What the app must have seen, as far as it is told; {}: it was called; None: it was not."""


@dataclass(frozen=True)
class Exchange:
    name: str
    config: str
    request: Request
    expect: Expect
    app: App = App()
    presented: str = ""
    """The name of a certificate of the world (world.py), or nothing."""

    @property
    def needs_injection(self) -> bool:
        """Whether a real handshake, server or client library would not let this row through to the shell."""
        return (
            self.presented
            in {"expired", "not-yet", "stranger", "weak", "sha1", "server-only", "garbage", "doubled"}
            or not self.request.raw
            or bool(self.request.root_path)
            or self.request.target.startswith("@")
        )


def _frozen(value: Any) -> Any:
    if isinstance(value, list):
        return tuple(_frozen(item) for item in value)
    return value


def _row(raw: Mapping[str, Any]) -> Exchange:
    rest = {key: value for key, value in raw.items() if key not in {"request", "app", "expect"}}
    return Exchange(
        **rest,
        request=Request(**{key: _frozen(value) for key, value in raw.get("request", {}).items()}),
        app=App(**{key: _frozen(value) for key, value in raw.get("app", {}).items()}),
        expect=Expect(**{key: _frozen(value) for key, value in raw["expect"].items()}),
    )


def rows() -> list[Exchange]:
    """Every row of every file of this folder; names are unique."""
    found = [
        _row(raw)
        for path in sorted(HERE.glob("rows_*.toml"))
        for raw in tomllib.loads(path.read_text())["exchange"]
    ]
    names = [row.name for row in found]
    assert len(names) == len(set(names)), "two rows of one name"
    return found


def configs() -> dict[str, dict[str, Any]]:
    """The named settings, as mappings with `{pki}` and `{state}` still to be filled in."""
    return tomllib.loads((HERE / "configs.toml").read_text())
