"""Every row, in process, through the ASGI shell; what a server would have found out is put into the scope."""

from __future__ import annotations

import asyncio
import logging
from typing import Any
from urllib.parse import unquote_to_bytes

import pytest

from exchanges.outcome import Outcome, Recorder, check, check_record, check_seen
from exchanges.puppet import Puppet, ToldToRaiseError
from exchanges.table import Exchange, rows
from exchanges.world import World, to_bytes, to_text
from secmiddleware.asgi import SecMiddleware
from secmiddleware.errors import SecMiddlewareError
from secmiddleware.messages import IDENTITY_KEY, PRESENTED_KEY

RUN_HERE = [row for row in rows() if "asgi" not in row.elsewhere]


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
        PRESENTED_KEY: world.people.presented(row.presented),
    }


def run(world: World, row: Exchange, scope: dict[str, Any]) -> None:
    """One exchange through the shell, and all checks."""
    puppet, recorder, server = Puppet(), Recorder(), Server(world, row)
    puppet.play(world, row)
    shell = SecMiddleware(puppet, config=world.manager(row.config), observer=recorder)
    try:
        asyncio.run(shell(scope, server.receive, server.send))
    except ToldToRaiseError:
        assert row.app.does in ("raise", "break")
    except SecMiddlewareError:
        assert row.app.does == "restart"
    check(world, row, server.outcome())
    check_seen(world, row, puppet.seen)
    (record,) = recorder.records
    check_record(row, record)


@pytest.mark.parametrize("row", RUN_HERE, ids=lambda row: row.name)
def test_a_row_comes_out_as_expected(world: World, row: Exchange) -> None:
    run(world, row, scope_of(world, row))


@pytest.mark.parametrize("row", [row for row in RUN_HERE if row.request.root_path], ids=lambda row: row.name)
def test_a_mounted_row_comes_out_the_same_where_the_raw_target_has_no_prefix(
    world: World, row: Exchange
) -> None:
    run(world, row, scope_of(world, row, prefixed=False))


@pytest.mark.parametrize("row", [row for row in RUN_HERE if row.expect.code], ids=lambda row: row.name)
def test_a_refused_row_leaves_one_line_in_the_audit_log_and_no_value_in_any(
    world: World, row: Exchange, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG, "secmiddleware"):
        run(world, row, scope_of(world, row))
    lines = [record for record in caplog.records if record.name == "secmiddleware.audit"]
    assert len(lines) == 1
    assert f'"code": "{row.expect.code}"' in lines[0].getMessage()
    assert not any(secret in record.getMessage() for record in caplog.records for secret in SECRETS)


# What the rows seal and what their apps try to let out.
SECRETS = ("123-45-6789", "078-05-1120", "DE89370400440532013000")
