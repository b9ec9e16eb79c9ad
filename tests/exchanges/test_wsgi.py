"""Every row, in process, through the WSGI shell; `wsgiref.validate` looks at both of its sides."""

from __future__ import annotations

import logging
from typing import Any
from wsgiref.validate import validator

import pytest

from exchanges.outcome import Recorder, check, check_record, check_seen
from exchanges.puppet import ToldToRaiseError
from exchanges.puppet_wsgi import WsgiPuppet
from exchanges.table import Exchange, rows
from exchanges.world import World
from exchanges.wsgi_server import call, environ_of, is_valid
from secmiddleware.errors import SecMiddlewareError
from secmiddleware.telemetry.audit import AuditObserver
from secmiddleware.telemetry.observer import Observer
from secmiddleware.wsgi import SecMiddleware

RUN_HERE = [row for row in rows() if "wsgi" not in row.elsewhere]


def run(world: World, row: Exchange, environ: dict[str, Any]) -> None:
    """One exchange through the shell, and all checks."""
    recorder = Recorder()
    send(world, row, environ, recorder)
    (record,) = recorder.records
    check_record(row, record)


def send(world: World, row: Exchange, environ: dict[str, Any], observer: Observer) -> None:
    """One exchange through the shell, and all checks of what app and caller saw."""
    puppet = WsgiPuppet()
    puppet.play(world, row)
    valid = is_valid(row, environ)
    app = validator(puppet.wsgi) if valid else puppet.wsgi
    shell = SecMiddleware(app, config=world.manager(row.config), observer=observer)
    outcome, raised = call(shell, environ, validated=valid)
    if isinstance(raised, ToldToRaiseError):
        assert row.app.does in ("raise", "break")
    elif isinstance(raised, SecMiddlewareError):
        assert row.app.does == "restart" or row.expect.broken_by is not None
    elif raised is not None and row.app.does != "silent":
        raise raised
    check(world, row, outcome)
    check_seen(world, row, puppet.seen)


@pytest.mark.parametrize("row", RUN_HERE, ids=lambda row: row.name)
def test_a_row_comes_out_as_expected(world: World, row: Exchange) -> None:
    run(world, row, environ_of(world, row))


@pytest.mark.parametrize("row", RUN_HERE, ids=lambda row: row.name)
def test_a_row_comes_out_the_same_where_nobody_watches(world: World, row: Exchange) -> None:
    send(world, row, environ_of(world, row), AuditObserver())


@pytest.mark.parametrize("row", [row for row in RUN_HERE if row.request.root_path], ids=lambda row: row.name)
def test_a_mounted_row_comes_out_the_same_where_the_raw_target_has_the_prefix(
    world: World, row: Exchange
) -> None:
    run(world, row, environ_of(world, row, prefixed=True))


@pytest.mark.parametrize("row", [row for row in RUN_HERE if row.expect.code], ids=lambda row: row.name)
def test_a_refused_row_leaves_one_line_in_the_audit_log_and_no_value_in_any(
    world: World, row: Exchange, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG, "secmiddleware"):
        run(world, row, environ_of(world, row))
    lines = [record for record in caplog.records if record.name == "secmiddleware.audit"]
    assert len(lines) == 1
    assert f'"code": "{row.expect.code}"' in lines[0].getMessage()
    assert not any(secret in record.getMessage() for record in caplog.records for secret in SECRETS)


# What the rows seal and what their apps try to let out.
SECRETS = ("123-45-6789", "078-05-1120", "DE89370400440532013000")


def test_what_is_not_run_here_has_a_reason_and_is_little() -> None:
    missing = [row for row in rows() if row not in RUN_HERE]
    assert all(row.elsewhere["wsgi"] for row in missing)
    assert len(missing) < 0.04 * len(rows())


def test_what_no_validator_looks_at_is_little(world: World) -> None:
    invalid = [row for row in RUN_HERE if not is_valid(row, environ_of(world, row))]
    assert len(invalid) < 0.06 * len(RUN_HERE), [row.name for row in invalid]
