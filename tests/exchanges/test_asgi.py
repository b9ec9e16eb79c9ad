"""Every row, in process, through the ASGI shell; what a server would have found out is put into the scope."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest

from exchanges.asgi_server import Server, scope_of
from exchanges.outcome import Recorder, check, check_record, check_seen
from exchanges.puppet import Puppet, ToldToRaiseError
from exchanges.table import Exchange, rows
from exchanges.world import World
from secmiddleware.asgi import SecMiddleware
from secmiddleware.errors import SecMiddlewareError
from secmiddleware.telemetry.audit import AuditObserver
from secmiddleware.telemetry.observer import Observer

RUN_HERE = [row for row in rows() if "asgi" not in row.elsewhere]


def run(world: World, row: Exchange, scope: dict[str, Any]) -> None:
    """One exchange through the shell, and all checks."""
    recorder = Recorder()
    send(world, row, scope, recorder)
    (record,) = recorder.records
    check_record(row, record)


def send(world: World, row: Exchange, scope: dict[str, Any], observer: Observer) -> None:
    """One exchange through the shell, and all checks of what app and caller saw."""
    puppet, server = Puppet(), Server(world, row)
    puppet.play(world, row)
    shell = SecMiddleware(puppet, config=world.manager(row.config), observer=observer)
    try:
        asyncio.run(shell(scope, server.receive, server.send))
    except ToldToRaiseError:
        assert row.app.does in ("raise", "break")
    except SecMiddlewareError:
        assert row.app.does == "restart" or row.expect.broken_by is not None
    check(world, row, server.outcome())
    check_seen(world, row, puppet.seen)


@pytest.mark.parametrize("row", RUN_HERE, ids=lambda row: row.name)
def test_a_row_comes_out_as_expected(world: World, row: Exchange) -> None:
    run(world, row, scope_of(world, row))


@pytest.mark.parametrize("row", RUN_HERE, ids=lambda row: row.name)
def test_a_row_comes_out_the_same_where_nobody_watches(world: World, row: Exchange) -> None:
    send(world, row, scope_of(world, row), AuditObserver())


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


# What the rows seal and what their apps try to let out; and how every access token begins.
SECRETS = ("123-45-6789", "078-05-1120", "DE89370400440532013000", "eyJ")
