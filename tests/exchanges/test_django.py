"""Every row through the Django adapter, under WSGI and under ASGI, in process."""

from __future__ import annotations

import asyncio
import dataclasses
import gc
import warnings
from collections.abc import Iterator
from typing import Any, Final

import integrations.django_project  # noqa: F401  (sets Django up)
import pytest
from django.core.handlers.asgi import ASGIHandler
from django.core.handlers.wsgi import WSGIHandler
from django.test import override_settings

from exchanges.asgi_server import Server, scope_of
from exchanges.outcome import Outcome, check, check_record, check_seen
from exchanges.puppet import ToldToRaiseError
from exchanges.puppet_django import PUPPET, AsyncUrls, Recorded, SyncUrls
from exchanges.table import Exchange, rows
from exchanges.world import World
from exchanges.wsgi_server import call, environ_of
from secmiddleware.errors import BrokenOffError

MIDDLEWARE: Final = ["exchanges.puppet_django.Recorded", "django.middleware.common.CommonMiddleware"]


def reason(row: Exchange, interface: str) -> str | None:
    """Why a row cannot be run here, if it cannot."""
    if interface in row.elsewhere:
        return row.elsewhere[interface]
    if interface == "asgi" and row.request.truncated:
        return "Django drops whoever goes away before it asks any middleware"
    if row.app.does in ("overrun", "restart"):
        return "a view returns one response"
    names = [name.lower() for name, _ in row.app.headers]
    if row.app.does == "unfinished" and "content-length" not in names:
        return "a response that comes to its end is whole, unless it has said that it is longer"
    if len(names) != len(set(names)):
        return "a Django response has one value of a header"
    return None


def cases(interface: str) -> list[Exchange]:
    return [row for row in rows() if reason(row, interface) is None]


class Patient(Server):
    """A server whose client waits for the answer: Django listens for one who does not."""

    def __init__(self, world: World, row: Exchange) -> None:
        super().__init__(world, row)
        self.method = row.request.method

    async def receive(self) -> dict[str, Any]:
        return await super().receive() if self._incoming else await asyncio.Event().wait()

    async def send(self, message: dict[str, Any]) -> None:
        if "headers" in message:  # Django leaves it to the server to make them lower case
            message["headers"] = [(name.lower(), value) for name, value in message["headers"]]
        if message["type"] == "http.response.body":
            message.setdefault("body", b"")
        await super().send(message)

    def outcome(self) -> Outcome:
        outcome = super().outcome()
        length = int(dict(outcome.headers).get("content-length", 0))
        short = self.method != "HEAD" and len(outcome.body) < length
        return dataclasses.replace(outcome, broken=outcome.broken or short)


class Stage:
    """A handler of each kind for each of the settings, made once."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._handlers: dict[tuple[str, type], Any] = {}

    def handler(self, config: str, kind: type) -> Any:
        if (config, kind) not in self._handlers:
            with override_settings(SECMIDDLEWARE=self._world.manager(config), MIDDLEWARE=MIDDLEWARE):
                self._handlers[config, kind] = kind()
        return self._handlers[config, kind]

    def play(self, row: Exchange) -> None:
        PUPPET.play(self._world, row)
        Recorded.recorder.records.clear()

    def judge(self, row: Exchange, outcome: Outcome, raised: BaseException | None) -> None:
        assert raised is None or isinstance(raised, ToldToRaiseError | BrokenOffError)
        check(self._world, row, outcome)
        check_seen(self._world, row, PUPPET.seen)
        (record,) = Recorded.recorder.records
        check_record(row, record)
        assert record.status == outcome.status
        assert (record.error is not None) == (row.app.does in ("raise", "break", "silent"))


@pytest.fixture(scope="module")
def stage(world: World) -> Iterator[Stage]:
    return Stage(world)


@pytest.mark.parametrize("row", cases("wsgi"), ids=lambda row: row.name)
def test_a_row_comes_out_as_expected_under_wsgi(world: World, stage: Stage, row: Exchange) -> None:
    stage.play(row)
    with override_settings(ROOT_URLCONF=SyncUrls):
        outcome, raised = call(
            stage.handler(row.config, WSGIHandler), environ_of(world, row), validated=False
        )
    stage.judge(row, outcome, raised)


@pytest.mark.parametrize("row", cases("asgi"), ids=lambda row: row.name)
def test_a_row_comes_out_as_expected_under_asgi(world: World, stage: Stage, row: Exchange) -> None:
    stage.play(row)
    server, raised = Patient(world, row), None
    with override_settings(ROOT_URLCONF=AsyncUrls):
        handler = stage.handler(row.config, ASGIHandler)
        try:
            asyncio.run(handler(scope_of(world, row), server.receive, server.send))
        except (ToldToRaiseError, BrokenOffError) as error:
            raised = error.with_traceback(None)
    if raised is not None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)  # Django leaves the request's file open then
            gc.collect()
    stage.judge(row, server.outcome(), raised)


@pytest.mark.parametrize("interface", ["wsgi", "asgi"])
def test_what_is_not_run_here_has_a_reason_and_is_little(interface: str) -> None:
    missing = [row for row in rows() if row not in cases(interface)]
    assert all(reason(row, interface) for row in missing)
    assert len(missing) < 0.03 * len(rows()), [row.name for row in missing]
