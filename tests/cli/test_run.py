"""`secmiddleware run`: an app served over mutual TLS by a process of its own, until a signal ends it."""

from __future__ import annotations

import http.client
import json
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from cli.command import (
    OURS,
    PATIENCE,
    change,
    changed,
    children,
    ended,
    environment,
    free_port,
    inside,
    is_free,
    is_gone,
    listens,
    run,
    running,
    until,
)
from secmiddleware.certificates.contexts import client_context

APP = """
import json, os, pathlib
pathlib.Path(__file__).with_name("imported").touch()

async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        while True:
            kind = (await receive())["type"]
            await send({"type": kind + ".complete"})
            if kind == "lifespan.shutdown":
                return
    told = {"pid": os.getpid(), "caller": str(scope["secmiddleware.identity"])}
    body = json.dumps(told).encode()
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": body})

def create_app():
    return app
"""
WSGI_APP = """
import json, os, pathlib
with pathlib.Path(__file__).with_name("imported").open("a") as file:
    print(os.getpid(), file=file)

def app(environ, start_response):
    keys = ("SCRIPT_NAME", "PATH_INFO", "wsgi.multithread", "wsgi.multiprocess")
    told = {key: environ[key] for key in keys}
    told |= {"pid": os.getpid(), "caller": str(environ["secmiddleware.identity"])}
    start_response("200 OK", [("Content-Type", "application/json")])
    yield json.dumps(told).encode()

def create_app(settings=None, testing=False):
    return app
"""
# Imported by the probe, and by three workers, which fail all at once.
TROUBLE = """
import os, pathlib, time
folder = pathlib.Path(__file__).parent
folder.joinpath(f"import-{os.getpid()}").touch()
imports = lambda: len(list(folder.glob("import-*")))
if imports() > 1:
    until = time.monotonic() + 10
    while imports() < 4 and time.monotonic() < until:
        time.sleep(0.002)
    raise RuntimeError("not here")
from flat import app
"""
MISTAKE = ('client = "required"', 'client = "requierd"')


@dataclass
class Served:
    process: subprocess.Popen[bytes]
    port: int
    config: Path
    log: Path

    def get(self, target: str = "/", *, certificate: bool = True) -> tuple[int, Any]:
        """The status and the JSON of a response, on a connection of its own."""
        pki = self.config.parent / "pki"
        pair = (pki / "client.pem", pki / "client.key") if certificate else ()
        context = client_context(pki / "ca.pem", *pair)
        connection = http.client.HTTPSConnection("localhost", self.port, context=context, timeout=PATIENCE)
        try:
            connection.request("GET", target)
            response = connection.getresponse()
            return response.status, json.loads(response.read())
        finally:
            connection.close()


@contextmanager
def served(config: Path, target: str, folder: Path, *options: str) -> Iterator[Served]:
    """`run` in the folder of the app, on a free port, once it answers."""
    port, log = free_port(), folder / "log"
    command = [*OURS, "run", target, "--config", config, "--port", str(port), *options]
    with running(command, log=log, cwd=folder) as process:
        until(lambda: listens(port) or process.poll() is not None, "it listens", log)
        assert process.poll() is None, log.read_text()
        yield Served(process, port, config, log)


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    """A folder with an app in it."""
    folder = tmp_path / "shop"
    folder.mkdir()
    (folder / "shop.py").write_text(APP)
    return folder


def test_an_app_is_served_over_mutual_tls_until_sigterm(config: Path, shop: Path) -> None:
    with served(config, "shop:app", shop) as server:
        status, told = server.get()
        assert status == 200
        assert told == {"pid": server.process.pid, "caller": "spiffe://example.org/clients/demo"}
        status, problem = server.get(certificate=False)
        assert (status, problem["code"]) == (401, "certificate_missing")
        assert server.get("/healthz", certificate=False)[0] == 200
        status, problem = server.get("/admin/x")
        assert (status, problem["code"]) == (403, "identity_not_allowed")
        assert ended(server.process, signal.SIGTERM) in (0, -signal.SIGTERM)
        assert is_free(server.port)
        said = server.log.read_text()
    assert "Traceback" not in said
    audited = [json.loads(line) for line in said.splitlines() if line.startswith("{")]
    assert [entry["code"] for entry in audited] == ["certificate_missing", "identity_not_allowed"]


def test_an_app_that_raises_at_a_lifespan_is_served_and_ends_in_peace(config: Path, shop: Path) -> None:
    change(shop / "shop.py", ("while True:", 'raise ValueError("can only handle HTTP")\n        while True:'))
    with served(config, "shop:app", shop) as server:
        assert server.get()[0] == 200
        assert ended(server.process, signal.SIGTERM) in (0, -signal.SIGTERM)
        said = server.log.read_text()
    assert "does not speak the lifespan protocol" in said
    assert ("Traceback" in said, "ERROR" in said) == (False, False)
    assert "Application shutdown complete." in said


def test_ctrl_c_ends_it_in_peace(config: Path, shop: Path) -> None:
    with served(config, "shop:app", shop) as server:
        assert ended(server.process, signal.SIGINT) in (0, 130, -signal.SIGINT)
        assert is_free(server.port)
        assert "Traceback" not in server.log.read_text()


@pytest.mark.parametrize(("http", "loop"), [("h11", "asyncio"), ("httptools", "uvloop"), ("zttp", "asyncio")])
def test_a_factory_in_another_folder_is_called(config: Path, shop: Path, http: str, loop: str) -> None:
    options = ["--factory", "--app-dir", str(shop), "--http", http, "--loop", loop]
    with served(config, "shop:create_app", shop.parent, *options) as server:
        status, told = server.get()
    assert (status, told["caller"]) == (200, "spiffe://example.org/clients/demo")


def test_several_workers_serve_and_all_of_them_end(config: Path, shop: Path) -> None:
    with served(config, "shop:app", shop, "--workers", "2") as server:
        pids: set[int] = set()

        def both_answered() -> bool:
            pids.add(server.get()[1]["pid"])
            return len(pids) == 2

        until(both_answered, "both answer", server.log)
        assert server.get(certificate=False)[0] == 401
        assert pids <= set(children(server.process.pid))
        assert ended(server.process, signal.SIGTERM) in (0, -signal.SIGTERM)
        assert is_free(server.port)
        assert all(map(is_gone, pids))


@pytest.fixture
def flat(shop: Path) -> Path:
    """The folder has a WSGI app, too."""
    (shop / "flat.py").write_text(WSGI_APP)
    return shop


@pytest.mark.parametrize(
    ("target", "options"),
    [
        ("flat:app", ()),
        ("flat:app", ("--threads", "1", "--interface", "wsgi")),
        ("flat:create_app", ("--factory", "--workers", "2", "--preload")),
    ],
)
def test_a_wsgi_app_is_served_over_mutual_tls_until_sigterm(
    config: Path, flat: Path, target: str, options: tuple[str, ...]
) -> None:
    with served(config, target, flat, *options) as server:
        status, told = server.get("/x")
        assert status == 200
        assert (told["caller"], told["PATH_INFO"]) == ("spiffe://example.org/clients/demo", "/x")
        assert told["wsgi.multithread"] == ("--threads" not in options)
        assert told["wsgi.multiprocess"] == ("--workers" in options)
        assert told["pid"] in children(server.process.pid)
        status, problem = server.get(certificate=False)
        assert (status, problem["code"]) == (401, "certificate_missing")
        imported = {int(pid) for pid in (flat / "imported").read_text().split()}
        # Beside the probe, the one that serves imports the app: a worker, or the parent before it forks.
        assert (server.process.pid in imported) == ("--preload" in options)
        assert (told["pid"] in imported) == ("--preload" not in options)
        assert ended(server.process, signal.SIGTERM) == 0
        assert is_free(server.port)
        assert is_gone(told["pid"])
        said = server.log.read_text()
    assert "Traceback" not in said
    audited = [json.loads(line) for line in said.splitlines() if line.startswith("{")]
    assert [entry["code"] for entry in audited] == ["certificate_missing"]


def test_a_wsgi_app_under_a_mount_finds_it_in_script_name(config: Path, flat: Path, tmp_path: Path) -> None:
    mounted = changed(config, tmp_path / "mounted", ('mount = ""', 'mount = "/api"'))
    with served(mounted, "flat:app", flat) as server:
        status, told = server.get("/x")
        assert status == 200
        assert (told["SCRIPT_NAME"], told["PATH_INFO"]) == ("/api", "/x")


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["shop:app", "--interface", "wsgi"], "is not a WSGI app but an ASGI app"),
        (["shop:app", "--interface", "wsgi", "--preload"], "is not a WSGI app but an ASGI app"),
        (["flat:app", "--interface", "asgi"], "is not an ASGI app but a WSGI app"),
        (["flat:app", "--interface", "asgi", "--workers", "2"], "is not an ASGI app but a WSGI app"),
        (["flat:create_app"], "is not an ASGI or a WSGI app; is it a factory? try --factory"),
        (["shop:app", "--threads", "4"], "--threads: is for WSGI apps, and this one speaks ASGI"),
        (["shop:app", "--preload"], "--preload: is for WSGI apps, and this one speaks ASGI"),
        (["flat:app", "--http", "h11"], "--http: is for ASGI apps, and this one speaks WSGI"),
        (["flat:app", "--loop", "uvloop"], "--loop: is for ASGI apps, and this one speaks WSGI"),
    ],
)
def test_what_does_not_go_together_is_wrong_use(
    config: Path, flat: Path, options: list[str], told: str
) -> None:
    done = run("run", *options, "--config", config, "--port", str(free_port()), cwd=flat)
    assert (done.status, done.out) == (2, "")
    assert told in done.err
    assert "Traceback" not in done.err


def test_a_port_that_is_taken_is_told_by_gunicorn_too(config: Path, flat: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        done = run("run", "flat:app", "--config", config, "--port", port, cwd=flat)
    assert done.status > 0
    assert "address already in use" in done.err.lower()


def test_a_wsgi_worker_that_cannot_start_ends_everything(config: Path, flat: Path) -> None:
    (flat / "broken.py").write_text(TROUBLE)
    port = free_port()
    command = [*OURS, "run", "broken:app", "--config", config, "--port", str(port), "--workers", "3"]
    with running(command, log=flat / "log", cwd=flat) as process:
        assert process.wait(PATIENCE) == 3
    said = (flat / "log").read_text()
    assert "RuntimeError: not here" in said
    # gunicorn stumbles over a second one, while it ends because of the first.
    assert "HaltServer" not in said
    assert is_free(port)


@pytest.mark.parametrize("server", ["gunicorn", "uvicorn"])
def test_a_server_that_is_not_installed_is_told_with_how_to_get_it(
    config: Path, flat: Path, tmp_path: Path, server: str
) -> None:
    lacking = (
        "import importlib.util, sys\n"
        "find = importlib.util.find_spec\n"
        f"importlib.util.find_spec = lambda name, *more: None if name == {server!r} else find(name, *more)\n"
        "from secmiddleware.cli import main\n"
        "main()\n"
    )
    target = "flat:app" if server == "gunicorn" else "shop:app"
    done = subprocess.run(
        [sys.executable, "-c", lacking, "run", target, "--config", config],
        cwd=flat,
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE,
    )
    assert done.returncode == 1
    assert f'{server} is not installed: pip install "secmiddleware[{server}]"' in done.stderr


@pytest.mark.parametrize(
    ("target", "told"),
    [
        ("shop", "'shop' does not name an app; the form is module:attribute"),
        ("ship:app", "there is no module 'ship'"),
        ("shop:create_app", "try --factory"),
    ],
)
def test_a_target_that_is_no_app_is_wrong_use(config: Path, shop: Path, target: str, told: str) -> None:
    done = run("run", target, "--config", config, "--port", str(free_port()), cwd=shop)
    assert (done.status, done.out) == (2, "")
    assert "Invalid value for MODULE:APP" in done.err
    assert told in done.err


def test_mistakes_in_the_settings_are_told_before_anything_else_happens(
    config: Path, shop: Path, tmp_path: Path
) -> None:
    wrong = changed(config, tmp_path / "wrong", MISTAKE, ('poll = "30s"', 'pol = "30s"'))
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        done = run("run", "shop:app", "--config", wrong, "--port", str(port), cwd=shop)
    assert (done.status, done.out) == (1, "")
    assert f"{wrong}:8: mtls.client: " in done.err
    assert f"{wrong}:41: rotation.pol: " in done.err
    assert done.err.endswith("\n2 mistakes.\n")
    assert not (shop / "imported").exists()


def test_settings_that_are_good_but_not_to_serve_with_are_findings(
    config: Path, shop: Path, tmp_path: Path
) -> None:
    short = changed(
        config,
        tmp_path / "short",
        ('certificate = "pki/server.pem"   # what this server shows\nkey = "pki/server.key"\n', ""),
        ('store = "file:state/keyring.json"', 'store = "memory:"'),
    )
    assert inside("check", config=short).status == 0
    done = run("run", "shop:app", "--config", short, "--workers", "2", cwd=shop)
    assert (done.status, done.out) == (1, "")
    assert f"{short}: mtls.certificate: is missing" in done.err
    assert f"{short}: keys.store: " in done.err
    assert done.err.endswith("\n2 mistakes.\n")
    assert not (shop / "imported").exists()


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_port_that_is_taken_is_told(config: Path, shop: Path, workers: str) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        done = run("run", "shop:app", "--config", config, "--port", port, "--workers", workers, cwd=shop)
    assert done.status > 0
    assert "address already in use" in done.err.lower()


def test_workers_that_cannot_import_the_app_end_the_parent(config: Path, shop: Path) -> None:
    (shop / "broken.py").write_text("import surely_not_there\n")
    port = free_port()
    command = [*OURS, "run", "broken:app", "--config", config, "--port", str(port), "--workers", "2"]
    with running(command, log=shop / "log", cwd=shop) as process:
        assert process.wait(PATIENCE) > 0
    said = (shop / "log").read_text()
    assert "ModuleNotFoundError: No module named 'surely_not_there'" in said
    assert 1 <= said.count("ModuleNotFoundError") <= 2, "each worker was started once"
    assert is_free(port)


def test_an_app_that_cannot_start_ends_the_process(config: Path, shop: Path) -> None:
    failing = '{"type": "lifespan.startup.failed", "message": "no database"}'
    change(shop / "shop.py", ('{"type": kind + ".complete"}', failing))
    done = run("run", "shop:app", "--config", config, "--port", str(free_port()), cwd=shop)
    assert done.status > 0
    assert "no database" in done.err


@pytest.mark.parametrize(
    "option", ["--port=0", "--port=65536", "--workers=0", "--app-dir=nowhere", "--http=h3", "--threads=0"]
)
def test_an_option_that_cannot_be_is_wrong_use(config: Path, option: str) -> None:
    done = inside("run", "shop:app", option, config=config)
    assert (done.status, done.out) == (2, "")
    assert option.partition("=")[0] in done.err
