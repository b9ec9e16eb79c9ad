"""The examples: one customer register in three frameworks, bare, wrapped by `run`, and with each adapter.

One set of facts holds for all of them, and every server is started by the command that its example names.
"""

from __future__ import annotations

import ast
import http.client
import json
import os
import re
import shlex
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from secmiddleware.certificates.contexts import client_context
from secmiddleware.security import SecurityManager

ROOT = Path(__file__).parents[1]
EXAMPLES = ROOT / "examples"
FRAMEWORKS = ("starlette", "flask", "django")
PATIENCE = 30.0  # seconds for what takes one, on a machine that does other things too

SSN = "123-45-6789"


@dataclass(frozen=True)
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


@dataclass(frozen=True)
class Served:
    """An example that is served on this port, over TLS where there is a context."""

    port: int
    context: ssl.SSLContext | None = None

    def ask(self, method: str, path: str, body: bytes | None = None) -> Answer:
        if self.context is None:
            connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        else:
            connection = http.client.HTTPSConnection("127.0.0.1", self.port, timeout=10, context=self.context)
        try:
            connection.request(method, path, body)
            got = connection.getresponse()
            return Answer(got.status, {n.lower(): v for n, v in got.getheaders()}, got.read())
        finally:
            connection.close()

    def post(self, path: str, value: Any) -> Answer:
        return self.ask("POST", path, json.dumps(value).encode())


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return free.getsockname()[1]


@contextmanager
def running(
    command: list[str], port: int, cwd: Path, output: Path, **environ: str
) -> Iterator[subprocess.Popen[bytes]]:
    """The server that the command starts, from when it listens; what it prints is in `output`."""
    paths = os.pathsep.join([str(ROOT), str(ROOT / "integrations")])
    kept = {name: value for name, value in os.environ.items() if not name.startswith("SECMIDDLEWARE")}
    with output.open("wb") as printed:
        server = subprocess.Popen(
            command, cwd=cwd, env={**kept, "PYTHONPATH": paths, **environ}, stdout=printed, stderr=printed
        )
    try:
        until = time.monotonic() + PATIENCE
        while True:
            assert server.poll() is None, output.read_text()
            assert time.monotonic() < until, output.read_text()
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                break
            except OSError:
                time.sleep(0.02)
        yield server
    finally:
        server.terminate()
        server.wait(PATIENCE)


def commands_of(example: Path) -> list[list[str]]:
    """The commands that an example's docstring names, for this interpreter."""
    docstring = ast.get_docstring(ast.parse(example.read_text())) or ""
    named = [shlex.split(line) for line in re.findall(r"^    (\S.*)$", docstring, re.MULTILINE)]
    return [[sys.executable, *(() if name == "python" else ("-m", name)), *words] for name, *words in named]


# --- Bare.


@pytest.fixture(scope="module", params=FRAMEWORKS)
def bare(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """The example as its first command starts it, on another port."""
    port = free_port()
    command = commands_of(EXAMPLES / f"customers_{request.param}.py")[0]
    where = {"uvicorn": ["--port", str(port)], "gunicorn": ["--bind", f"127.0.0.1:{port}"]}[command[2]]
    output = tmp_path_factory.mktemp("bare") / "output"
    with running([*command, *where], port, ROOT, output):
        yield Served(port)


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_the_register_imports_nothing_of_ours(framework: str) -> None:
    named = {
        name.partition(".")[0]
        for node in ast.walk(ast.parse((EXAMPLES / f"customers_{framework}.py").read_text()))
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in (
            [alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module or ""]
        )
    }
    assert framework in named
    assert not {name for name in named if name.startswith("secmiddleware")}


def test_a_customer_that_was_added_is_shown_listed_and_held(bare: Served) -> None:
    numbers = []
    for name in ("Ada", "Bob"):
        added = bare.post("/customers", {"name": name, "ssn": SSN})
        customer = added.json()
        assert (added.status, customer) == (201, {"id": customer["id"], "name": name, "ssn": SSN})
        assert added.headers["location"] == f"/customers/{customer['id']}"
        assert added.headers["content-type"] == "application/json"
        assert bare.ask("GET", added.headers["location"]).json() == customer
        assert bare.ask("GET", "/customers").json()["people"][-1] == customer
        assert bare.ask("GET", "/debug/store").json()["held"][-1] == customer
        numbers.append(customer["id"])
    assert numbers == [numbers[0], numbers[0] + 1]


def test_without_the_middleware_the_caller_is_nobody(bare: Served) -> None:
    assert bare.ask("GET", "/whoami").json() == {"caller": "nobody"}


def test_it_says_that_it_lives(bare: Served) -> None:
    assert bare.ask("GET", "/healthz").json() == {"status": "ok"}
    head = bare.ask("HEAD", "/healthz")
    assert (head.status, head.body) == (200, b"")


@pytest.mark.parametrize(
    ("body", "status", "error"),
    [
        (b"{", 400, "the body is not JSON"),
        (b"\xff\xfe{", 400, "the body is not JSON"),
        (b"[]", 422, "a JSON object is expected"),
        (b'{"name": "Ada"}', 422, "ssn is missing or not a string"),
        (b'{"name": "Ada", "ssn": 1}', 422, "ssn is missing or not a string"),
        (b'{"name": "", "ssn": "1"}', 422, "name is missing or not a string"),
    ],
)
def test_a_bad_customer_is_refused_in_json_and_not_held(
    bare: Served, body: bytes, status: int, error: str
) -> None:
    before = bare.ask("GET", "/debug/store").json()
    refused = bare.ask("POST", "/customers", body)
    assert (refused.status, refused.json()) == (status, {"error": error})
    assert bare.ask("GET", "/debug/store").json() == before


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/customers/70000", 404),
        ("GET", "/nowhere", 404),
        ("DELETE", "/customers", 405),
        ("POST", "/healthz", 405),
    ],
)
def test_an_error_is_json_too(bare: Served, method: str, path: str, status: int) -> None:
    refused = bare.ask(method, path)
    assert refused.status == status
    assert list(refused.json()) == ["error"]
    assert refused.headers["content-type"] == "application/json"
    assert ("allow" in refused.headers) == (status == 405)


# --- Wrapped.


@dataclass(frozen=True)
class Home:
    """A folder after `secmiddleware init .`."""

    folder: Path

    def context(self, *, certified: bool = True) -> ssl.SSLContext:
        pki = self.folder / "pki"
        pair = (pki / "client.pem", pki / "client.key") if certified else ()
        return client_context(pki / "ca.pem", *pair)

    def seal(self, value: str) -> str:
        with SecurityManager.from_config(self.folder / "secmiddleware.toml", {}) as manager:
            assert manager.encryption is not None
            return manager.encryption.seal("ssn", value.encode())

    def open(self, token: str) -> str:
        with SecurityManager.from_config(self.folder / "secmiddleware.toml", {}) as manager:
            assert manager.encryption is not None
            return manager.encryption.open("ssn", token).decode()


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    made = Home(tmp_path_factory.mktemp("home"))
    command = [sys.executable, "-m", "secmiddleware", "init", "."]
    done = subprocess.run(
        command,
        cwd=made.folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return made


def wrapped_by_run(home: Home, target: str, port: int, output: Path) -> Any:
    command = [sys.executable, "-m", "secmiddleware", "run", target, "--port", str(port)]
    (home.folder / "examples").exists() or (home.folder / "examples").symlink_to(EXAMPLES)
    return running(command, port, home.folder, output)


REGISTERS = (
    "customers_starlette:app",
    "customers_flask:app",
    "customers_django:app",
    "customers_django:asgi_app",
)


@pytest.mark.parametrize("target", REGISTERS)
def test_wrapped_by_run_the_register_knows_its_callers_and_its_wire_carries_tokens(
    home: Home, tmp_path: Path, target: str
) -> None:
    port, token = free_port(), home.seal(f'"{SSN}"')
    with wrapped_by_run(home, f"examples.{target}", port, tmp_path / "output"):
        alice, nobody = Served(port, home.context()), Served(port, home.context(certified=False))
        assert alice.ask("GET", "/whoami").json()["caller"].startswith("spiffe://")
        assert nobody.ask("GET", "/healthz").json() == {"status": "ok"}
        assert (nobody.ask("GET", "/whoami").status, nobody.ask("GET", "/whoami").json()["code"]) == (
            401,
            "certificate_missing",
        )
        added = alice.post("/customers", {"name": "Ada", "ssn": token})
        assert added.status == 201
        assert SSN.encode() not in added.body
        assert home.open(added.json()["ssn"]) == f'"{SSN}"'
        (listed,) = alice.ask("GET", "/customers").json()["people"]
        assert home.open(listed["ssn"]) == f'"{SSN}"'
        held = alice.ask("GET", "/debug/store").json()["held"]
        assert [customer["ssn"] for customer in held] == [SSN]
        assert alice.post("/customers", {"name": "Ada", "ssn": SSN}).json()["code"] == "field_undecryptable"
        assert alice.ask("DELETE", "/customers", b"{}").status == 405


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_with_the_adapter_the_app_protects_itself_by_the_command_that_it_names(
    home: Home, tmp_path: Path, framework: str
) -> None:
    example = EXAMPLES / f"wrapped_{framework}.py"
    (interpreter, path), *_ = commands_of(example)
    assert ROOT / path == example
    port, token = free_port(), home.seal(f'"{SSN}"')
    output = tmp_path / "output"
    with running([interpreter, str(example)], port, home.folder, output, PORT=str(port)):
        alice, nobody = Served(port, home.context()), Served(port, home.context(certified=False))
        assert alice.ask("GET", "/whoami").json()["caller"].startswith("spiffe://")
        assert nobody.ask("GET", "/whoami").json()["code"] == "certificate_missing"
        connection = http.client.HTTPSConnection("127.0.0.1", port, timeout=10, context=home.context())
        connection.request(
            "POST", "/customers", json.dumps({"ssn": token}), {"content-type": "application/json"}
        )
        answer = connection.getresponse()
        body = answer.read()
        connection.close()
        assert (answer.status, SSN.encode() in body) == (201, False), body
        assert home.open(json.loads(body)["ssn"]) == f'"{SSN}"'
    assert f"the app sees {SSN}" in output.read_text()


def test_the_django_example_is_checked_by_its_second_command(home: Home, tmp_path: Path) -> None:
    def checked(folder: Path) -> subprocess.CompletedProcess[str]:
        paths = os.pathsep.join([str(ROOT), str(ROOT / "integrations")])
        return subprocess.run(
            [sys.executable, str(EXAMPLES / "wrapped_django.py"), "check"],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": paths},
            capture_output=True,
            text=True,
            check=False,
        )

    assert commands_of(EXAMPLES / "wrapped_django.py")[1][1:] == ["examples/wrapped_django.py", "check"]
    good, bad = checked(home.folder), checked(tmp_path)
    assert (good.returncode, good.stdout) == (0, "System check identified no issues (0 silenced).\n"), (
        good.stderr
    )
    assert bad.returncode == 1
    assert "secmiddleware.E005" in bad.stderr
