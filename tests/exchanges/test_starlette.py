"""Every row through the Starlette adapter, in a Starlette app and in a FastAPI app, in process."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from fastapi import FastAPI
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.routing import Route

from exchanges.asgi_server import Server, scope_of
from exchanges.outcome import Recorder, check, check_record, check_seen
from exchanges.puppet import ToldToRaiseError
from exchanges.puppet_starlette import EVERY_METHOD, StarlettePuppet
from exchanges.table import Exchange, rows
from exchanges.world import World
from secmiddleware.errors import SecMiddlewareError
from secmiddleware.security import SecurityManager
from secmiddleware_starlette import SecMiddleware

RUN_HERE = [row for row in rows() if not {"asgi", "starlette"} & set(row.elsewhere)]


def starlette_app(puppet: StarlettePuppet, manager: SecurityManager, recorder: Recorder) -> Starlette:
    return Starlette(
        routes=[Route("/{rest:path}", puppet.endpoint, methods=EVERY_METHOD)],
        middleware=[Middleware(SecMiddleware, config=manager, observer=recorder)],
    )


def fastapi_app(puppet: StarlettePuppet, manager: SecurityManager, recorder: Recorder) -> FastAPI:
    app = FastAPI(openapi_url=None)
    app.add_middleware(SecMiddleware, config=manager, observer=recorder)
    app.add_api_route("/{rest:path}", puppet.endpoint, methods=EVERY_METHOD, response_model=None)
    return app


class Stage:
    """An app for each of the settings, made once, and the one puppet in all of them."""

    def __init__(self, world: World, build: Callable[..., Starlette]) -> None:
        self.puppet, self.recorder = StarlettePuppet(), Recorder()
        self._world, self._build = world, build
        self._apps: dict[str, Any] = {}

    def app(self, config: str) -> Any:
        if config not in self._apps:
            self._apps[config] = self._build(self.puppet, self._world.manager(config), self.recorder)
        return self._apps[config]


@pytest.fixture(scope="module", params=[starlette_app, fastapi_app], ids=["starlette", "fastapi"])
def stage(world: World, request: pytest.FixtureRequest) -> Iterator[Stage]:
    return Stage(world, request.param)


@pytest.mark.parametrize("row", RUN_HERE, ids=lambda row: row.name)
def test_a_row_comes_out_as_expected(world: World, stage: Stage, row: Exchange) -> None:
    server = Server(world, row)
    stage.puppet.play(world, row)
    stage.recorder.records.clear()
    try:
        asyncio.run(stage.app(row.config)(scope_of(world, row), server.receive, server.send))
    except ToldToRaiseError:
        assert row.app.does in ("raise", "break")
    except SecMiddlewareError:
        assert row.app.does == "restart" or row.expect.broken_by is not None
    check(world, row, server.outcome())
    check_seen(world, row, stage.puppet.seen)
    (record,) = stage.recorder.records
    check_record(row, record)


def test_every_row_is_run_here() -> None:
    assert list(rows()) == RUN_HERE
