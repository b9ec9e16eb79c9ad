"""What is started with the server stops with it; and what cannot be used says so before a request comes."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from servers.pki import Pki
from servers.serving import PATIENCE, Connection, answer_lifespan, ask, protected, reply, serving
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Mount, Route
from starlette.testclient import TestClient

from asgi.calling import call, http_scope
from secmiddleware.errors import SecMiddlewareError
from secmiddleware.files import make_private_folder, write_secret
from secmiddleware.security import SecurityManager
from secmiddleware.settings.loading import load


@pytest.fixture
def settings(pki: Pki) -> dict[str, Any]:
    return pki.settings(mtls={"client": "off"})


@pytest.fixture
def manager(settings: dict[str, Any], keys: dict[str, str]) -> Iterator[SecurityManager]:
    manager = SecurityManager.from_config({**settings, "keys": keys}, {})
    yield manager
    manager.stop()


class Lifespan:
    """A server's side of one lifespan."""

    def __init__(self, app: Any, watched: SecurityManager | None = None) -> None:
        self.running: list[bool | None] = []
        self._watched = watched
        self.scope: dict[str, Any] = {"type": "lifespan", "asgi": {"version": "3.0"}, "state": {}}
        self.to_app: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self.from_app: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self.task = asyncio.create_task(app(self.scope, self.to_app.get, self._hear))

    async def _hear(self, message: dict[str, Any]) -> None:
        """A server may act on a message at once; `running` tells how the watched manager was just then."""
        self.running.append(self._watched and self._watched.running)
        await self.from_app.put(message)

    async def say(self, event: str) -> dict[str, Any]:
        """Tell the app, and get what it answers; the type is empty where it ends without an answer."""
        await self.to_app.put({"type": f"lifespan.{event}"})
        answer = asyncio.create_task(self.from_app.get())
        await asyncio.wait({answer, self.task}, return_when=asyncio.FIRST_COMPLETED, timeout=PATIENCE)
        if not answer.done():
            answer.cancel()
            return {"type": ""}
        return answer.result()


class Living:
    """An app that notes its life; `manager` is looked at in each moment."""

    def __init__(self, manager: SecurityManager, failing: str = "") -> None:
        self.notes: list[tuple[str, bool]] = []
        self._manager = manager
        self._failing = failing

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "lifespan":
            await reply(send, b"{}")
            return
        for event in ("startup", "shutdown"):
            assert (await receive())["type"] == f"lifespan.{event}"
            self.notes.append((event, self._manager.running))
            if self._failing == event:
                await send({"type": f"lifespan.{event}.failed", "message": f"no {event} today"})
                return
            await send({"type": f"lifespan.{event}.complete"})


def test_it_is_started_before_the_app_and_stopped_after_it(manager: SecurityManager) -> None:
    app = Living(manager)

    async def life() -> None:
        server = Lifespan(protected(app, manager), manager)
        assert await server.say("startup") == {"type": "lifespan.startup.complete"}
        assert manager.running
        assert await server.say("shutdown") == {"type": "lifespan.shutdown.complete"}
        await server.task
        # A server may end the process as soon as it hears of the end: by then all of ours is over.
        assert server.running == [True, False]

    asyncio.run(life())
    assert app.notes == [("startup", True), ("shutdown", True)]


def test_a_shell_lives_as_often_as_it_is_started(manager: SecurityManager) -> None:
    app = Living(manager)
    shell = protected(app, manager)
    for _ in range(3):
        with TestClient(shell) as client:
            assert manager.running
            assert client.get("/").status_code == 200
        assert not manager.running
    assert app.notes == [("startup", True), ("shutdown", True)] * 3


def test_the_app_gets_the_state_of_the_lifespan(settings: dict[str, Any]) -> None:
    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[dict[str, str]]:
        yield {"pool": "made at startup"}

    async def show(request: Request) -> PlainTextResponse:
        return PlainTextResponse(request.state.pool)

    app = Starlette(routes=[Route("/", show)], lifespan=lifespan)
    with TestClient(protected(app, settings)) as client:
        assert client.get("/").text == "made at startup"


async def raises_at_once(scope: Any, receive: Any, send: Any) -> None:
    assert scope["type"] != "lifespan", "what is a lifespan?"
    await reply(send, b"{}")


async def raises_after_listening(scope: Any, receive: Any, send: Any) -> None:
    if scope["type"] == "lifespan":
        await receive()
        raise RuntimeError("an event of a type that is not known")
    await reply(send, b"{}")


async def returns_at_once(scope: Any, receive: Any, send: Any) -> None:
    if scope["type"] == "http":
        await reply(send, b"{}")


def test_for_an_app_without_a_lifespan_ours_is_lived_alone(manager: SecurityManager) -> None:
    async def life() -> None:
        server = Lifespan(protected(returns_at_once, manager))
        assert await server.say("startup") == {"type": "lifespan.startup.complete"}
        assert manager.running
        assert not server.task.done()
        assert await server.say("shutdown") == {"type": "lifespan.shutdown.complete"}
        await server.task

    asyncio.run(life())
    assert not manager.running


@pytest.mark.parametrize("app", [raises_at_once, raises_after_listening])
def test_what_an_app_raises_at_a_lifespan_is_raised_when_ours_is_over(
    manager: SecurityManager, app: Any
) -> None:
    async def life() -> None:
        server = Lifespan(protected(app, manager))
        assert await server.say("startup") == {"type": "lifespan.startup.complete"}
        assert manager.running
        assert not server.task.done()
        assert await server.say("shutdown") == {"type": ""}
        with pytest.raises((AssertionError, RuntimeError), match=r"what is a lifespan|not known"):
            await server.task

    asyncio.run(life())
    assert not manager.running


def test_a_test_client_hears_of_middleware_that_cannot_be_made(manager: SecurityManager) -> None:
    class Broken:
        def __init__(self, app: Any) -> None:
            raise RuntimeError("no such cache")

    app = Starlette(middleware=[Middleware(Broken)])
    with pytest.raises(RuntimeError, match="no such cache"), TestClient(protected(app, manager)):
        pass
    assert not manager.running


@pytest.mark.parametrize("app", [raises_at_once, raises_after_listening, returns_at_once])
def test_a_real_server_serves_an_app_without_a_lifespan(pki: Pki, settings: dict[str, Any], app: Any) -> None:
    with serving(protected(app, settings), pki, lifespan="on") as port:
        assert ask(port, pki.client(None)).status == 200


def test_an_app_that_fails_to_start_is_heard_and_ours_is_stopped(manager: SecurityManager) -> None:
    async def life() -> None:
        server = Lifespan(protected(Living(manager, failing="startup"), manager))
        answer = await server.say("startup")
        assert answer == {"type": "lifespan.startup.failed", "message": "no startup today"}
        await server.task
        assert server.from_app.empty()

    asyncio.run(life())
    assert not manager.running


def test_an_app_that_fails_to_stop_is_heard_and_ours_is_stopped(manager: SecurityManager) -> None:
    async def life() -> None:
        server = Lifespan(protected(Living(manager, failing="shutdown"), manager), manager)
        await server.say("startup")
        answer = await server.say("shutdown")
        assert answer == {"type": "lifespan.shutdown.failed", "message": "no shutdown today"}
        await server.task
        assert server.running == [True, False]
        assert server.from_app.empty()

    asyncio.run(life())


def test_an_app_that_raises_after_it_started_raises_through_and_ours_is_stopped(
    manager: SecurityManager,
) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        raise RuntimeError("the app's own trouble")

    async def life() -> None:
        server = Lifespan(protected(app, manager))
        await server.say("startup")
        await server.say("shutdown")
        with pytest.raises(RuntimeError, match="the app's own trouble"):
            await server.task

    asyncio.run(life())
    assert not manager.running


def test_an_app_that_ends_its_lifespan_early_is_stopped_with_the_server(manager: SecurityManager) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "lifespan.startup.complete"})

    async def life() -> None:
        server = Lifespan(protected(app, manager))
        assert await server.say("startup") == {"type": "lifespan.startup.complete"}
        assert manager.running
        assert await server.say("shutdown") == {"type": "lifespan.shutdown.complete"}

    asyncio.run(life())
    assert not manager.running


def test_who_started_the_manager_stops_it(manager: SecurityManager) -> None:
    with manager:
        with TestClient(protected(Living(manager), manager)) as client:
            assert client.get("/").status_code == 200
        assert manager.running
    assert not manager.running


def test_settings_that_were_loaded_before_are_as_good_as_a_file(pki: Pki, settings: dict[str, Any]) -> None:
    with TestClient(protected(returns_at_once, load(settings, {}))) as client:
        assert client.get("/").status_code == 200


def test_without_a_lifespan_it_is_started_by_the_first_request(manager: SecurityManager) -> None:
    shell = protected(Living(manager), manager)
    assert not manager.running
    assert call(shell, http_scope()).status == 200
    assert manager.running
    assert call(shell, http_scope()).status == 200


def test_a_real_server_without_a_lifespan_serves(pki: Pki, manager: SecurityManager) -> None:
    with serving(protected(Living(manager), manager), pki, lifespan="off") as port:
        assert not manager.running
        assert ask(port, pki.client(None)).status == 200
        assert manager.running


class Called:
    """An app that must not be called."""

    def __init__(self) -> None:
        self.scopes: list[str] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.scopes.append(scope["type"])
        if scope["type"] == "lifespan":
            await answer_lifespan(receive, send)
            return
        await reply(send, b"{}")


def lifespan_of(app: Any) -> dict[str, Any]:
    """What is answered to the startup, after which everything is over."""

    async def life() -> dict[str, Any]:
        server = Lifespan(app)
        answer = await server.say("startup")
        if answer["type"] == "lifespan.startup.failed":
            with pytest.raises(SecMiddlewareError):  # some take whoever returns for started
                await server.task
            return answer
        await server.say("shutdown")
        await server.task
        return answer

    return asyncio.run(life())


def test_bad_settings_fail_the_startup_with_every_mistake(settings: dict[str, Any]) -> None:
    app = Called()
    mistaken = {**settings, "routes": [{"path": "x"}, {"pth": "/x"}], "mtls": {"client": "requird"}}
    answer = lifespan_of(protected(app, mistaken))
    assert answer["type"] == "lifespan.startup.failed"
    for key in ("routes[0].path", "routes[1].pth", "mtls.client"):
        assert key in answer["message"]
    assert app.scopes == []


def test_bad_settings_let_no_request_through_either(settings: dict[str, Any]) -> None:
    app = Called()
    done = call(protected(app, {**settings, "mtls": {"client": "requird"}}), http_scope())
    assert done.status == 500
    problem = json.loads(done.body)
    assert problem["code"] == "internal_error"
    assert "requird" not in done.body.decode()
    assert "mtls" not in done.body.decode()
    assert app.scopes == []


def test_a_file_of_settings_that_is_not_there_fails_the_startup(tmp_path: Path) -> None:
    app = Called()
    for config in (tmp_path / "nowhere.toml", str(tmp_path / "nowhere.toml")):
        answer = lifespan_of(protected(app, config))
        assert answer["type"] == "lifespan.startup.failed"
        assert "nowhere.toml" in answer["message"]
    assert app.scopes == []


@pytest.mark.parametrize(
    "trouble", ["a broken ring", "a folder in the way", "a callback that cannot be imported"]
)
def test_what_is_found_out_at_the_start_fails_the_startup(
    tmp_path: Path,
    settings: dict[str, Any],
    keys: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
    trouble: str,
) -> None:
    more: dict[str, Any] = {}
    if trouble == "a broken ring":
        make_private_folder(tmp_path / "state")
        write_secret(tmp_path / "state" / "ring.json", b"{}")
        more["keys"] = {**keys, "store": f"file:{tmp_path}/state/ring.json"}
    elif trouble == "a folder in the way":
        make_private_folder(tmp_path / "state")
        (tmp_path / "state" / "ring.json").mkdir()
        more["keys"] = {**keys, "store": f"file:{tmp_path}/state/ring.json"}
    else:
        (tmp_path / "breaking.py").write_text("raise ValueError('at import')")
        monkeypatch.syspath_prepend(tmp_path)
        more = {"keys": keys, "rotation": {"callbacks": ["breaking:on_rotation"]}}
    app = Called()
    shell = protected(app, {**settings, **more})
    answer = lifespan_of(shell)
    assert answer["type"] == "lifespan.startup.failed", answer
    assert answer["message"].startswith("secmiddleware: ")
    done = call(shell, http_scope())
    assert (done.status, json.loads(done.body)["code"]) == (500, "internal_error")
    assert app.scopes == []


def test_applied_twice_the_server_does_not_start(settings: dict[str, Any], manager: SecurityManager) -> None:
    app = Called()
    answer = lifespan_of(protected(protected(app, settings), manager))
    assert answer["type"] == "lifespan.startup.failed"
    assert "applied twice" in answer["message"]
    assert not manager.running
    assert app.scopes == []


def test_applied_twice_no_request_reaches_the_app(settings: dict[str, Any]) -> None:
    app = Called()
    for twice in (
        protected(protected(app, settings), settings),
        # Out of sight of the lifespan.
        protected(Starlette(routes=[Mount("/", app=protected(app, settings))]), settings),
    ):
        done = call(twice, http_scope())
        assert (done.status, json.loads(done.body)["code"]) == (500, "internal_error")
    assert app.scopes == []


def test_a_scope_may_be_given_once_more_when_it_is_over(settings: dict[str, Any]) -> None:
    app = Called()
    shell, scope = protected(app, settings), http_scope()
    assert [call(shell, scope).status for _ in range(2)] == [200, 200]
    assert len(app.scopes) == 2


def test_beside_each_other_it_may_be_applied_as_often_as_there_are_apps(settings: dict[str, Any]) -> None:
    app = Called()
    routes = [
        Mount(f"/{name}", app=protected(app, {**settings, "service": {"name": name, "mount": f"/{name}"}}))
        for name in ("a", "b")
    ]
    with TestClient(Starlette(routes=routes)) as client:
        assert [client.get(path).status_code for path in ("/a/x", "/b/x", "/a/x")] == [200, 200, 200]


def test_a_scope_of_a_type_that_nobody_has_judged_is_not_let_through(settings: dict[str, Any]) -> None:
    app = Called()
    for kind in ("webtransport", "HTTP", ""):
        with pytest.raises(SecMiddlewareError, match="cannot be judged"):
            call(protected(app, settings), http_scope(type=kind))
    assert app.scopes == []


@pytest.mark.parametrize("stock", ["h11", "httptools"])
def test_a_server_that_says_nothing_of_certificates_lets_nobody_in_and_is_told_on_once(
    pki: Pki, caplog: pytest.LogCaptureFixture, stock: str
) -> None:
    app = Called()
    with (
        caplog.at_level(logging.ERROR, "secmiddleware.asgi"),
        serving(protected(app, pki.settings()), pki, http=stock) as port,
        Connection(port, pki.client("shop/alice")) as connection,
    ):
        for _ in range(3):
            response = connection.ask()
            assert (response.status, response.code) == (401, "certificate_missing")
        assert ask(port, pki.client("ops/oscar")).status == 401
    said = [record.getMessage() for record in caplog.records if record.name == "secmiddleware.asgi"]
    assert len(said) == 1
    assert "says nothing about client certificates" in said[0]
    assert app.scopes == ["lifespan"]


def test_ours_says_nothing_of_the_kind_where_a_client_has_no_certificate(
    pki: Pki, caplog: pytest.LogCaptureFixture
) -> None:
    with (
        caplog.at_level(logging.ERROR, "secmiddleware.asgi"),
        serving(protected(Called(), pki.settings()), pki) as port,
    ):
        assert ask(port, pki.client(None)).status == 401
    assert [record for record in caplog.records if record.name == "secmiddleware.asgi"] == []
