"""The Starlette adapter beyond the table: in Starlette and FastAPI apps, under Starlette's test client."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Annotated, Any

import pytest
from fastapi import BackgroundTasks, Depends, FastAPI
from pydantic import BaseModel
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.requests import HTTPConnection, Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Mount, Route, WebSocketRoute
from starlette.testclient import TestClient
from starlette.websockets import WebSocket, WebSocketDisconnect

from integrations.shop import SECRET, Shop
from secmiddleware.messages import PRESENTED_KEY, Identity, Presented
from secmiddleware.security import SecurityManager
from secmiddleware_starlette import SecMiddleware


class Server:
    """Hands over what a server's hook would: what the connection presented."""

    def __init__(self, app: Any, presented: Presented | None) -> None:
        self.app, self.presented = app, presented

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        await self.app({**scope, PRESENTED_KEY: self.presented}, receive, send)


def client(app: Any, presented: Presented | None = None, **more: Any) -> TestClient:
    return TestClient(Server(app, presented), **more)


def who(connection: HTTPConnection) -> str:
    identity: Identity | None = connection.state.client_identity
    return "nobody" if identity is None else str(identity)


async def who_am_i(request: Request) -> Response:
    return PlainTextResponse(who(request))


async def echo(request: Request) -> Response:
    return JSONResponse(await request.json())


async def live(websocket: WebSocket) -> None:
    await websocket.accept()
    await websocket.send_text(who(websocket))
    await websocket.close()


ROUTES = [
    Route("/", who_am_i),
    Route("/open/x", who_am_i),
    Route("/customers", echo, methods=["POST"]),
    WebSocketRoute("/live", live),
    WebSocketRoute("/open/live", live),
]


def starlette_app(config: Any, **more: Any) -> Starlette:
    return Starlette(routes=ROUTES, middleware=[Middleware(SecMiddleware, config=config)], **more)


def fastapi_app(config: Any, **more: Any) -> FastAPI:
    app = FastAPI(**more)
    app.router.routes.extend(ROUTES)
    app.add_middleware(SecMiddleware, config=config)
    return app


class Customer(BaseModel):
    ssn: int


def caller(request: Request) -> Identity | None:
    return request.state.client_identity


Caller = Annotated[Identity | None, Depends(caller)]

BOTH = pytest.mark.parametrize("build", [starlette_app, fastapi_app])
Build = Callable[..., Starlette]


@BOTH
def test_a_request_carries_the_identity_of_its_caller_or_none(shop: Shop, build: Build) -> None:
    app = build(shop.manager)
    assert client(app, shop.alice).get("/").text == "spiffe://example.org/alice"
    assert client(app, shop.alice).get("/open/x").text == "nobody"
    refused = client(app).get("/")
    assert (refused.status_code, refused.json()["code"]) == (401, "certificate_missing")


@BOTH
def test_a_websocket_carries_the_identity_of_its_caller_or_none(shop: Shop, build: Build) -> None:
    app = build(shop.manager)
    for path, presented, text in (
        ("/live", shop.alice, "spiffe://example.org/alice"),
        ("/open/live", None, "nobody"),
    ):
        with client(app, presented).websocket_connect(path) as websocket:
            assert websocket.receive_text() == text


@BOTH
def test_a_websocket_without_a_certificate_is_denied_before_the_app_sees_it(shop: Shop, build: Build) -> None:
    with (
        pytest.raises(WebSocketDisconnect) as refused,
        client(build(shop.manager)).websocket_connect("/live"),
    ):
        pass
    denial = refused.value
    assert getattr(denial, "status_code", None) == 401 or denial.code == 1008


@BOTH
def test_marked_values_are_opened_for_the_app_and_sealed_for_the_caller(shop: Shop, build: Build) -> None:
    answer = client(build(shop.manager), shop.alice).post(
        "/customers", json={"ssn": shop.seal(f'"{SECRET}"')}
    )
    assert answer.status_code == 200, answer.text
    assert shop.open(answer.json()["ssn"]) == f'"{SECRET}"'


@BOTH
def test_the_config_may_be_a_path_or_a_mapping(shop: Shop, build: Build) -> None:
    for config in (shop.written(), str(shop.written()), shop.settings):
        with client(build(config), shop.alice) as started:
            assert started.get("/").text == "spiffe://example.org/alice"


@BOTH
def test_what_the_lifespan_starts_it_stops(shop: Shop, build: Build) -> None:
    manager = SecurityManager.from_config(shop.settings, {})
    with client(build(manager), shop.alice) as started:
        assert manager.running
        assert started.get("/").status_code == 200
    assert not manager.running


@BOTH
def test_the_lifespan_of_the_app_and_its_state_go_on_inside_of_ours(shop: Shop, build: Build) -> None:
    @contextlib.asynccontextmanager
    async def lifespan(app: Any) -> AsyncIterator[dict[str, str]]:
        yield {"from_lifespan": "here"}

    def both(request: Request) -> Response:
        return PlainTextResponse(f"{request.state.from_lifespan} {who(request)}")

    app = build(shop.manager, lifespan=lifespan)
    app.router.routes.append(Route("/both", both))
    with client(app, shop.alice) as started:
        assert started.get("/both").text == "here spiffe://example.org/alice"
        assert started.get("/open/x").text == "nobody"  # no state is left from the request before


@BOTH
def test_a_config_that_cannot_be_used_ends_the_start_and_names_every_mistake(
    shop: Shop, build: Build
) -> None:
    bad = {"mtls": {"trust": ["/nowhere/ca.pem"], "clinet": "off"}}
    with (
        pytest.raises(Exception, match=r"(?s)mtls\.trust.*mtls\.clinet|mtls\.clinet.*mtls\.trust"),
        client(build(bad), shop.alice),
    ):
        pass


@BOTH
def test_without_a_lifespan_a_config_that_cannot_be_used_lets_nothing_through(
    shop: Shop, build: Build
) -> None:
    answer = client(build({"nonsense": 1}), shop.alice).get("/open/x")
    assert (answer.status_code, answer.json()["code"]) == (500, "internal_error")


@BOTH
def test_applied_twice_the_second_one_refuses_to_start(shop: Shop, build: Build) -> None:
    app = build(shop.manager)
    app.add_middleware(SecMiddleware, config=shop.manager)
    with pytest.raises(Exception, match="applied twice"), client(app):
        pass


@BOTH
def test_middleware_that_stands_before_us_sees_the_identity_afterwards_and_the_app_s_own_state(
    shop: Shop, build: Build
) -> None:
    seen = []

    async def outer(request: Request, call_next: Any) -> Response:
        request.state.from_outer = "there"
        response = await call_next(request)
        seen.append(who(request))
        return response

    def inner(request: Request) -> Response:
        return PlainTextResponse(request.state.from_outer)

    app = build(shop.manager)
    app.router.routes.append(Route("/inner", inner))
    app.add_middleware(BaseHTTPMiddleware, dispatch=outer)
    assert client(app, shop.alice).get("/inner").text == "there"
    assert seen == ["spiffe://example.org/alice"]


def test_an_app_under_a_mount_is_judged_by_what_follows_the_prefix(shop: Shop) -> None:
    def mounted(mount: str) -> TestClient:
        settings = {**shop.settings, "service": {"name": "shop", "mount": mount}}
        inner = starlette_app(SecurityManager.from_config(settings, {}))
        return client(Starlette(routes=[Mount("/api", inner)]), shop.alice)

    good = mounted("/api")
    assert good.get("/api/").text == "spiffe://example.org/alice"
    assert good.get("/api/open/x").text == "nobody"
    assert mounted("").get("/api/").json()["code"] == "path_ambiguous"


def test_compression_outside_of_us_packs_what_is_sealed_already(shop: Shop) -> None:
    app = starlette_app(shop.manager)
    app.add_middleware(GZipMiddleware, minimum_size=0)
    answer = client(app, shop.alice).post("/customers", json={"ssn": shop.seal(f'"{SECRET}"')})
    assert answer.headers["content-encoding"] == "gzip"
    assert shop.open(answer.json()["ssn"]) == f'"{SECRET}"'


def test_a_background_task_runs_after_a_sealed_response(shop: Shop) -> None:
    ran = []

    async def later(request: Request) -> Response:
        return JSONResponse(await request.json(), background=BackgroundTask(ran.append, who(request)))

    app = starlette_app(shop.manager)
    app.router.routes.append(Route("/customers/1", later, methods=["PUT"]))
    answer = client(app, shop.alice).put("/customers/1", json={"ssn": shop.seal(f'"{SECRET}"')})
    assert shop.open(answer.json()["ssn"]) == f'"{SECRET}"'
    assert ran == ["spiffe://example.org/alice"]


def test_a_background_task_runs_also_where_the_response_is_refused(shop: Shop) -> None:
    ran = []

    async def later(request: Request) -> Response:
        return PlainTextResponse(SECRET, background=BackgroundTask(ran.append, who(request)))

    app = starlette_app(shop.manager)
    app.router.routes.append(Route("/customers/1", later))
    answer = client(app, shop.alice).get("/customers/1")
    assert (answer.status_code, answer.json()["code"]) == (500, "seal_failed")
    assert ran == ["spiffe://example.org/alice"]


def test_an_error_handler_for_everything_does_not_answer_for_a_sealed_response(shop: Shop) -> None:
    async def fails(request: Request) -> Response:
        raise RuntimeError(str(await request.json()))

    async def tell_all(request: Request, error: Exception) -> Response:
        return PlainTextResponse(str(error), 500)

    for more in ({"exception_handlers": {Exception: tell_all}}, {"debug": True}):
        app = starlette_app(shop.manager, **more)
        app.router.routes.append(Route("/customers/1", fails, methods=["PUT"]))
        answer = client(app, shop.alice, raise_server_exceptions=False).put(
            "/customers/1", json={"ssn": shop.seal(f'"{SECRET}"')}
        )
        assert (answer.status_code, answer.json()["code"]) == (500, "internal_error")
        assert SECRET not in answer.text


def test_where_nothing_is_marked_a_stream_comes_piece_by_piece(shop: Shop) -> None:
    async def count() -> AsyncIterator[str]:
        for number in range(3):
            yield f"data: {number}\n\n"

    def stream(request: Request) -> Response:
        return StreamingResponse(count(), media_type="text/event-stream")

    app = starlette_app(shop.manager)
    app.router.routes.append(Route("/stream", stream))
    with client(app, shop.alice).stream("GET", "/stream") as answer:
        assert [piece for piece in answer.iter_raw() if piece] == [
            b"data: 0\n\n",
            b"data: 1\n\n",
            b"data: 2\n\n",
        ]


def test_fastapi_s_own_complaint_does_not_tell_what_was_opened(shop: Shop) -> None:
    def add(customer: Customer) -> Customer:
        return customer

    app = FastAPI()
    app.add_middleware(SecMiddleware, config=shop.manager)
    app.post("/customers")(add)
    answer = client(app, shop.alice).post("/customers", json={"ssn": shop.seal('"not-a-number"')})
    assert (answer.status_code, answer.json()["code"]) == (500, "seal_failed")
    assert "not-a-number" not in answer.text
    answer = client(app, shop.alice).post("/customers", json={"ssn": shop.seal("12")})
    assert (answer.status_code, shop.open(answer.json()["ssn"])) == (200, "12")


def test_a_dependency_of_fastapi_finds_the_identity_in_a_sync_and_in_an_async_path_operation(
    shop: Shop,
) -> None:
    told: list[str] = []
    app = FastAPI()
    app.add_middleware(SecMiddleware, config=shop.manager)

    @app.get("/sync")
    def sync(who: Caller, tasks: BackgroundTasks) -> str:
        tasks.add_task(told.append, str(who))
        return str(who)

    @app.get("/async")
    async def not_sync(who: Caller) -> str:
        return str(who)

    for path in ("/sync", "/async"):
        assert client(app, shop.alice).get(path).json() == "spiffe://example.org/alice"
    assert told == ["spiffe://example.org/alice"]
