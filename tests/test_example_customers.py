"""The example app, bare: what it does before anything of ours is around it."""

from __future__ import annotations

import ast
import importlib.util
import json
import re
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
from starlette.testclient import TestClient

SOURCE = Path(__file__).parents[1] / "examples" / "customers_starlette.py"


@pytest.fixture(scope="module")
def example() -> ModuleType:
    spec = importlib.util.spec_from_file_location("customers_starlette", SOURCE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def client(example: ModuleType) -> Iterator[TestClient]:
    with TestClient(example.create_app()) as client:
        yield client


def test_it_imports_nothing_of_ours() -> None:
    named = {
        name.partition(".")[0]
        for node in ast.walk(ast.parse(SOURCE.read_text()))
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in (
            [alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module or ""]
        )
    }
    assert "starlette" in named
    assert not {name for name in named if name.startswith("secmiddleware")}


def test_a_customer_that_was_added_is_shown_listed_and_held(client: TestClient) -> None:
    added = client.post("/customers", json={"name": "Ada", "ssn": "123-45-6789"})
    ada = {"id": 1, "name": "Ada", "ssn": "123-45-6789"}
    assert (added.status_code, added.json()) == (201, ada)
    assert client.get(added.headers["location"]).json() == ada
    assert client.get("/customers").json() == {"people": [ada]}
    assert client.get("/debug/store").json() == {"held": [ada]}


def test_without_the_middleware_the_caller_is_nobody(client: TestClient) -> None:
    assert client.get("/whoami").json() == {"caller": "nobody"}


def test_with_an_identity_in_the_scope_the_caller_is_its_string_form(example: ModuleType) -> None:
    inner = example.create_app()

    async def told(scope, receive, send):
        await inner({**scope, "secmiddleware.identity": "spiffe://example.org/ada"}, receive, send)

    with TestClient(told) as client:
        assert client.get("/whoami").json() == {"caller": "spiffe://example.org/ada"}


def test_it_says_that_it_lives(client: TestClient) -> None:
    assert client.get("/healthz").json() == {"status": "ok"}


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"{", 400),
        (b"\xff\xfe{", 400),
        (b"[]", 422),
        (b'{"name": "Ada"}', 422),
        (b'{"name": "Ada", "ssn": 1}', 422),
        (b'{"name": "", "ssn": "1"}', 422),
    ],
)
def test_a_bad_customer_is_refused_in_json_and_not_held(client: TestClient, body: bytes, status: int) -> None:
    response = client.post("/customers", content=body)
    assert response.status_code == status
    assert list(response.json()) == ["error"]
    assert client.get("/debug/store").json() == {"held": []}


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("GET", "/customers/7", 404), ("GET", "/nowhere", 404), ("DELETE", "/customers", 405)],
)
def test_an_error_is_json_too(client: TestClient, method: str, path: str, status: int) -> None:
    response = client.request(method, path)
    assert response.status_code == status
    assert list(response.json()) == ["error"]


def test_two_apps_share_nothing(example: ModuleType) -> None:
    with TestClient(example.create_app()) as one, TestClient(example.create_app()) as other:
        one.post("/customers", json={"name": "Ada", "ssn": "1"})
        assert other.get("/customers").json() == {"people": []}


def test_it_runs_by_the_command_that_it_names() -> None:
    command = ["-m", "uvicorn", "--app-dir", "examples", "customers_starlette:app", "--port", "0"]
    with subprocess.Popen(
        [sys.executable, *command], cwd=SOURCE.parents[1], stderr=subprocess.PIPE, text=True
    ) as server:
        try:
            assert server.stderr is not None
            found = next(
                m for line in server.stderr if (m := re.search(r"running on (http://[\d.:]+)", line))
            )
            with urllib.request.urlopen(f"{found[1]}/healthz", timeout=10) as response:
                assert json.load(response) == {"status": "ok"}
        finally:
            server.terminate()
