"""The rows, as frozen data: what goes in, what the app does, what must come out.

One row is one `[[exchange]]` of a rows_*.toml. A driver turns it into a real exchange of its shell and hands
what came out to `outcome.check`; the row does not know the driver. Where a row says something about one
driver (`refused_by`, `elsewhere`), it does so by the driver's name.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Literal

HERE = Path(__file__).parent


@dataclass(frozen=True)
class Request:
    method: str = "GET"
    target: str = "/"
    """As it goes over the wire, query included, byte for byte (`<<bytes ff>>` for what is no text)."""
    headers: tuple[tuple[str, str], ...] = ()
    chunks: tuple[str, ...] = ()
    """The body; no chunk at all means a request without a body and without a length."""
    truncated: bool = False
    """The caller goes away after the chunks."""
    length: int | Literal["true", "chunked", "none"] = "true"
    """The Content-Length that is announced; "chunked": Transfer-Encoding instead; "none": neither, as in
    HTTP/2."""
    root_path: str = ""
    """What the server says the prefix is; the target then comes without it."""
    raw: bool = True
    """Whether the server hands over the raw target."""


@dataclass(frozen=True)
class App:
    does: Literal["respond", "echo", "raise", "break", "unfinished", "silent", "overrun", "restart"] = (
        "respond"
    )
    """echo: the request's body and type; raise: before any answer; break: raises after head and one chunk;
    unfinished: returns after head and one chunk; silent: returns without a word; overrun: a whole response,
    then another chunk; restart: head and one chunk, then a head again, which whoever takes it may refuse."""
    status: int = 200
    headers: tuple[tuple[str, str], ...] = (("content-type", "application/json"),)
    chunks: tuple[str, ...] = ()


@dataclass(frozen=True)
class Expect:
    status: int = 200
    code: str | None = None
    where: str | None = None
    """The mark that the problem names; without it, the problem names nothing."""
    headers: Mapping[str, str] = field(default_factory=dict)
    """Each of these once, with this value."""
    absent: tuple[str, ...] = ()
    body: str | None = None
    pieces: tuple[str, ...] | None = None
    """The body's pieces, as they were sent."""
    without: tuple[str, ...] = ()
    """Texts that appear nowhere, in no header and not in the body."""
    broken: bool = False
    """The response begins and does not end."""
    broken_by: str | None = None
    """The code that the record has of a response that did not end for it; the caller never sees it."""
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
    """The name of a certificate (people.py), or nothing."""
    refused_by: tuple[str, ...] = ()
    """Drivers whose server answers this request with a 4xx of its own, before anybody is asked."""
    elsewhere: Mapping[str, str] = field(default_factory=dict)
    """Drivers that cannot run the row, each with the reason."""


def _frozen(value: Any) -> Any:
    if isinstance(value, list):
        return tuple(_frozen(item) for item in value)
    return value


def _part(raw: Mapping[str, Any]) -> dict[str, Any]:
    return {key: _frozen(value) for key, value in raw.items()}


def _row(raw: Mapping[str, Any]) -> Exchange:
    rest = {key: value for key, value in raw.items() if key not in {"request", "app", "expect"}}
    return Exchange(
        **_part(rest),
        request=Request(**_part(raw.get("request", {}))),
        app=App(**_part(raw.get("app", {}))),
        expect=Expect(**_part(raw["expect"])),
    )


@cache
def rows() -> tuple[Exchange, ...]:
    """Every row of every file of this folder; names are unique."""
    found = [
        _row(raw)
        for path in sorted(HERE.glob("rows_*.toml"))
        for raw in tomllib.loads(path.read_text("utf-8"))["exchange"]
    ]
    names = [row.name for row in found]
    assert len(names) == len(set(names)), {name for name in names if names.count(name) > 1}
    return tuple(found)


@cache
def configs() -> dict[str, dict[str, Any]]:
    """The named settings, as mappings with `{pki}` and `{state}` still to be filled in."""
    return tomllib.loads((HERE / "configs.toml").read_text("utf-8"))
