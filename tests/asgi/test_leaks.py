"""Plaintext that was opened for the app does not come back in what frameworks say of errors."""

from __future__ import annotations

import html
import json
import logging
from collections.abc import Iterator
from typing import Any

import pytest
from fastapi import FastAPI, Request
from pydantic import BaseModel, Field
from servers.pki import Pki
from servers.serving import Connection, protected, request, serving
from starlette.applications import Starlette
from starlette.responses import (
    HTMLResponse,
    JSONResponse,
    PlainTextResponse,
    RedirectResponse,
    StreamingResponse,
)
from starlette.routing import Route
from starlette.testclient import TestClient

from secmiddleware.security import SecurityManager

SSN = "078-05-1120"
HARD = "0\"7\\8<&>'é/\n05"  # written differently in JSON, HTML, a URL and a repr


@pytest.fixture(scope="module")
def manager(pki: Pki, keys: dict[str, str], started: Any) -> SecurityManager:
    def field(guard: bool, *places: dict[str, Any]) -> dict[str, Any]:
        return {"leak_guard": guard, "places": list(places)}

    both = {
        "routes": ["/people", "/people/*"],
        "marks": ["$.ssn"],
        "request": "decrypt",
        "response": "encrypt",
    }
    inward = {"routes": ["/inward", "/inward/*"], "marks": ["$.ssn"], "request": "decrypt"}
    careless = {"routes": ["/careless"], "marks": ["$.ssn"], "request": "decrypt"}
    fields = {"ssn": field(True, both, inward), "nickname": field(False, careless)}
    return started(pki.settings(mtls={"client": "off"}, keys=keys, fields=fields))


def sealed(manager: SecurityManager, value: str, field: str = "ssn") -> str:
    assert manager.encryption is not None
    return manager.encryption.seal(field, json.dumps(value).encode())


class Person(BaseModel):
    name: str
    ssn: str = Field(max_length=20)
    age: int


class Numbered(BaseModel):
    ssn: int


def fastapi_app() -> FastAPI:
    app = FastAPI()

    @app.post("/people")
    @app.post("/inward")
    @app.post("/careless")
    async def add(person: Person) -> Person:
        return person

    @app.post("/people/numbered")
    @app.post("/inward/numbered")
    async def add_numbered(person: Numbered) -> Numbered:
        return person

    return app


@pytest.fixture(scope="module")
def fastapi(manager: SecurityManager) -> Iterator[TestClient]:
    with TestClient(protected(fastapi_app(), manager), raise_server_exceptions=False) as client:
        yield client


def assert_nothing_leaks(response: Any, *values: str) -> None:
    everything = response.content + b"\n".join(name + b": " + value for name, value in response.headers.raw)
    for value in (SSN, HARD, *values):
        forms = (
            value,
            json.dumps(value),
            json.dumps(value, ensure_ascii=False),
            value.encode("unicode_escape").decode(),
        )
        for form in forms:
            assert form.strip('"').encode() not in everything


def assert_withheld(response: Any, *values: str) -> None:
    assert response.status_code == 500
    assert response.headers["content-type"] == "application/problem+json"
    assert response.json()["code"] == "seal_failed"
    assert_nothing_leaks(response, *values)


@pytest.mark.parametrize("route", ["/people", "/inward"])
@pytest.mark.parametrize("value", [SSN, HARD])
def test_a_422_that_echoes_the_input_does_not_leave(
    fastapi: TestClient, manager: SecurityManager, route: str, value: str
) -> None:
    # Without `age` FastAPI shows the whole input, opened value and all. The token may be another's.
    stolen = sealed(manager, value)
    assert_withheld(fastapi.post(route, json={"name": "Mallory", "ssn": stolen}), value)


@pytest.mark.parametrize("route", ["/people/numbered", "/inward/numbered"])
def test_a_422_that_echoes_the_value_alone_does_not_leave(
    fastapi: TestClient, manager: SecurityManager, route: str
) -> None:
    assert_withheld(fastapi.post(route, json={"ssn": sealed(manager, SSN)}))


@pytest.mark.parametrize("route", ["/people", "/inward"])
def test_a_422_about_the_length_of_the_value_does_not_leave(
    fastapi: TestClient, manager: SecurityManager, route: str
) -> None:
    long = "4000 1234 5678 9010 and more than twenty characters"
    response = fastapi.post(route, json={"name": "Mallory", "age": 1, "ssn": sealed(manager, long)})
    assert_withheld(response, long)


def test_a_422_that_echoes_no_opened_value_leaves_as_it_is(
    fastapi: TestClient, manager: SecurityManager
) -> None:
    response = fastapi.post("/inward/numbered", json={"nothing": "of the kind"})
    assert response.status_code == 422
    assert response.json()["detail"][0]["loc"] == ["body", "ssn"]


def test_a_good_answer_has_its_value_sealed_and_a_value_elsewhere_is_withheld(
    fastapi: TestClient, manager: SecurityManager
) -> None:
    good = fastapi.post("/people", json={"name": "Ada", "age": 36, "ssn": sealed(manager, SSN)})
    assert good.status_code == 200
    assert good.json()["ssn"].startswith("sm1.")
    assert_nothing_leaks(good)
    # The same value in a field that is not marked.
    assert_withheld(fastapi.post("/people", json={"name": SSN, "age": 36, "ssn": sealed(manager, SSN)}))


def test_a_guard_that_is_switched_off_lets_it_leave(fastapi: TestClient, manager: SecurityManager) -> None:
    # What the tests above see is the guard's doing, and nothing else's.
    response = fastapi.post("/careless", json={"name": "A", "ssn": sealed(manager, SSN, "nickname")})
    assert response.status_code == 422
    assert SSN in response.text


async def echo(request: Request) -> Any:
    """Puts the opened value wherever the path says."""
    ssn = json.loads(await request.body())["ssn"]
    match request.path_params["where"]:
        case "header":
            return JSONResponse({"ok": True}, headers={"x-seen": ssn.encode("unicode_escape").decode()})
        case "cookie":
            response = JSONResponse({"ok": True})
            response.set_cookie("ssn", ssn)
            return response
        case "location":
            return RedirectResponse(f"/people/{ssn}")
        case "text":
            return PlainTextResponse(f"thank you, {ssn}!")
        case "html":
            return HTMLResponse(f"<p title='{html.escape(ssn)}'>")
        case "key":
            return JSONResponse({ssn: "as a key"})
        case "nested":
            return JSONResponse({"ssn": ssn, "log": [{"message": f"got {ssn} today"}]})
        case "pieces":
            half = len(ssn) // 2

            async def pieces() -> Any:
                for piece in ('{"echo": "', ssn[:half], ssn[half:], '"}'):
                    yield piece

            return StreamingResponse(pieces(), media_type="application/json")
        case "error":
            raise ValueError(f"cannot work with {ssn}")
    raise AssertionError


@pytest.fixture(scope="module", params=[False, True], ids=["plain", "debug"])
def starlette(request: pytest.FixtureRequest, manager: SecurityManager) -> Iterator[TestClient]:
    routes = [
        Route("/people/{where}", echo, methods=["POST"]),
        Route("/inward/{where}", echo, methods=["POST"]),
    ]
    app = Starlette(routes=routes, debug=request.param)
    with TestClient(protected(app, manager), raise_server_exceptions=False, follow_redirects=False) as client:
        yield client


@pytest.mark.parametrize("where", ["header", "cookie", "location", "text", "html", "key", "nested", "pieces"])
@pytest.mark.parametrize("route", ["/people", "/inward"])
def test_an_opened_value_leaves_neither_in_a_header_nor_outside_a_mark(
    starlette: TestClient, manager: SecurityManager, route: str, where: str
) -> None:
    response = starlette.post(f"{route}/{where}", json={"ssn": sealed(manager, SSN)})
    assert_withheld(response)


@pytest.mark.parametrize("route", ["/people", "/inward"])
@pytest.mark.parametrize("value", [SSN, HARD])
@pytest.mark.parametrize("accept", ["text/html", "*/*"])
def test_an_error_page_that_shows_the_value_does_not_leave(
    starlette: TestClient, manager: SecurityManager, route: str, value: str, accept: str
) -> None:
    response = starlette.post(
        f"{route}/error", json={"ssn": sealed(manager, value)}, headers={"accept": accept}
    )
    assert response.status_code == 500
    assert_nothing_leaks(response, value)
    if starlette.app.app.debug:
        assert response.json()["code"] == "seal_failed"


def test_over_the_wire_not_a_byte_of_it_is_sent_before_it_is_found(
    pki: Pki, manager: SecurityManager, caplog: pytest.LogCaptureFixture
) -> None:
    body = json.dumps({"name": "Mallory", "ssn": sealed(manager, SSN)}).encode()
    with (
        caplog.at_level(logging.DEBUG),
        serving(protected(fastapi_app(), manager), pki) as port,
        Connection(port, pki.client("shop/mallory")) as connection,
    ):
        headers = [("content-type", "application/json"), ("connection", "close")]
        connection.send(request("/people", method="POST", headers=headers, body=body))
        everything = b""
        while piece := connection.tls.recv(65536):
            everything += piece
    assert everything.startswith(b"HTTP/1.1 500 ")
    assert everything.count(b"HTTP/1.1") == 1
    assert b"seal_failed" in everything
    assert SSN.encode() not in everything
    assert b"Mallory" not in everything
    # Nor does any log of ours tell it.
    ours = [record.getMessage() for record in caplog.records if record.name.startswith("secmiddleware")]
    assert any("seal_failed" in line for line in ours)
    assert not any(SSN in line for line in ours)
