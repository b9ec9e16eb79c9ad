"""`serve` in processes of its own: one worker and several, and how they end where they cannot begin."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from secmiddleware.files import make_private_folder, write_secret
from servers.pki import Pki
from servers.processes import SOURCE, end_of, running, start
from servers.serving import PATIENCE, Connection, ask, until

APP = """
import json, os
async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        raise NotImplementedError
    body = json.dumps({
        "pid": os.getpid(), "client": scope["client"][0], "path": scope["path"],
        "root_path": scope["root_path"], "scheme": scope["scheme"],
        "identity": getattr(scope["secmiddleware.identity"], "spiffe_id", None),
    }).encode()
    headers = [(b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "shop.py").write_text(APP)
    (tmp_path / "broken.py").write_text("import nowhere_to_be_found")
    return tmp_path


def write_settings(folder: Path, pki: Pki, more: str = "", mount: str = "") -> None:
    (folder / "secmiddleware.toml").write_text(
        f'[service]\nname = "shop"\nmount = "{mount}"\n'
        f'[mtls]\ntrust = ["{pki.ca}"]\ncertificate = "{pki.certificate}"\nkey = "{pki.key}"\n{more}'
    )


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def quickest_response(port: int, pki: Pki) -> float:
    """In seconds. Nagle's algorithm against delayed acknowledgements makes each take 40 ms at least."""
    took = []
    with Connection(port, pki.client("shop/alice")) as connection:
        for _ in range(20):
            before = time.monotonic()
            connection.ask()
            took.append(time.monotonic() - before)
    return min(took)


@pytest.mark.parametrize(("http", "loop"), [("h11", "asyncio"), ("httptools", "uvloop")])
def test_two_workers_both_serve_and_know_their_callers_and_end_together(
    folder: Path, pki: Pki, http: str, loop: str
) -> None:
    write_settings(folder, pki)
    names = [f"shop/{name}" for name in ("alice", "bob", "carol", "dave")]
    with running(folder, pki, workers=2, http=http, loop=loop) as (process, port):
        pids: dict[int, set[str]] = {}

        def both_have_served_everybody() -> bool:
            # Connections that are held open at once get spread over the workers.
            with contextlib.ExitStack() as stack:
                connections = [
                    (name, stack.enter_context(Connection(port, pki.client(name)))) for name in names
                ]
                for name, connection in connections:
                    for _ in range(2):
                        told = connection.ask().json
                        assert told["identity"] == pki.spiffe(name)
                        pids.setdefault(told["pid"], set()).add(name)
            return len(pids) == 2 and all(seen == set(names) for seen in pids.values())

        until(both_have_served_everybody, "both workers have served all four", 2 * PATIENCE)
        assert process.pid not in pids
        assert quickest_response(port, pki) < 0.030
        process.send_signal(signal.SIGTERM)
        status, said = end_of(process)
        assert status == 0, said
        until(lambda: not any(is_alive(pid) for pid in pids), "the workers are gone")


def test_one_worker_serves_in_the_process_itself_and_believes_no_forwarded_header(
    folder: Path, pki: Pki
) -> None:
    write_settings(folder, pki)
    forwarded = [("x-forwarded-for", "203.0.113.7"), ("x-forwarded-proto", "http")]
    with running(folder, pki) as (process, port):
        told = ask(port, pki.client("shop/alice"), headers=forwarded).json
        assert told == {
            "pid": process.pid,
            "client": "127.0.0.1",
            "path": "/",
            "root_path": "",
            "scheme": "https",
            "identity": pki.spiffe("shop/alice"),
        }
        refused = ask(port, pki.client(None))
        assert (refused.status, refused.code) == (401, "certificate_missing")
        assert "server" not in dict(refused.headers)
        process.send_signal(signal.SIGTERM)
        status, said = end_of(process)
    # uvicorn ends itself by the signal that it was sent.
    assert status in (0, -signal.SIGTERM), said
    denials = [json.loads(line) for line in said.splitlines() if line.startswith("{")]
    assert {denial["code"] for denial in denials} == {"certificate_missing"}


def test_a_mount_of_the_settings_is_the_root_path_of_the_app(folder: Path, pki: Pki) -> None:
    write_settings(folder, pki, mount="/api", more='[[routes]]\npath = "/open"\nclient = "off"\n')
    with running(folder, pki) as (_, port):
        told = ask(port, pki.client("shop/alice"), "/x").json
        assert (told["path"], told["root_path"]) == ("/api/x", "/api")
        assert ask(port, pki.client(None), "/open").status == 200


def test_bad_settings_end_it_before_it_listens_with_all_that_is_wrong(folder: Path, pki: Pki) -> None:
    write_settings(folder, pki, more='client = "requird"\n[[routes]]\npth = "/x"\n')
    process, _ = start(folder, workers=2)
    status, said = end_of(process)
    assert status != 0
    assert 'mtls.client: must be "required", "optional" or "off"' in said
    assert "routes[0].pth: unknown key" in said
    assert "Started" not in said


def test_without_a_server_certificate_it_ends_before_it_listens(folder: Path, pki: Pki) -> None:
    (folder / "secmiddleware.toml").write_text(f'[service]\nname = "shop"\n[mtls]\ntrust = ["{pki.ca}"]\n')
    process, _ = start(folder, workers=2)
    status, said = end_of(process)
    assert status != 0
    assert "mtls.certificate: is missing" in said
    assert "Started" not in said


def test_workers_that_cannot_import_the_app_end_all_with_status_3(folder: Path, pki: Pki) -> None:
    write_settings(folder, pki)
    process, _ = start(folder, target="broken:app", workers=2)
    status, said = end_of(process)
    assert status == 3, said
    assert "No module named 'nowhere_to_be_found'" in said


def test_a_key_ring_that_cannot_be_read_ends_the_start_with_status_3(folder: Path, pki: Pki) -> None:
    make_private_folder(folder / "state")
    write_secret(folder / "state" / "ring.json", b"{}")
    write_secret(folder / "kek", os.urandom(32))
    keys = '[keys]\nring = "shop"\nstore = "file:state/ring.json"\nkek = "file:kek"\n'
    write_settings(folder, pki, more=keys)
    process, _ = start(folder)
    status, said = end_of(process)
    assert status == 3, said
    assert "ring.json: is no record with a generation" in said
    assert "Application startup failed" in said


def test_a_port_that_is_taken_ends_the_start(folder: Path, pki: Pki) -> None:
    write_settings(folder, pki)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        for workers in (1, 2):
            process, _ = start(folder, port=taken.getsockname()[1], workers=workers)
            status, said = end_of(process)
            assert status != 0, said
            assert "ddress already in use" in said


def test_stock_uvicorn_ends_with_status_3_where_the_settings_of_a_wrapped_app_are_bad(folder: Path) -> None:
    (folder / "secmiddleware.toml").write_text('[service]\nname = "shop"\n[mtls]\nclient = "requird"\n')
    (folder / "wrapped.py").write_text(
        "from secmiddleware.asgi import SecMiddleware\n"
        "from shop import app\n"
        "app = SecMiddleware(app, config='secmiddleware.toml')\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-m", "uvicorn", "wrapped:app", "--port", "0"],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(SOURCE)},
        stderr=subprocess.PIPE,
    )
    status, said = end_of(process)
    assert status == 3
    assert 'secmiddleware.toml:4: mtls.client: must be "required", "optional" or "off"' in said
    assert "Traceback" not in said


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_a_client_that_idles_does_not_hold_up_the_end(folder: Path, pki: Pki, loop: str) -> None:
    """The loops wait 30 seconds for the other end's close_notify."""
    write_settings(folder, pki)
    with running(folder, pki, loop=loop) as (process, port), Connection(port, pki.client("alice")) as idle:
        assert idle.ask().status == 200
        process.terminate()
        assert process.wait(PATIENCE) is not None


def test_an_error_of_the_apps_module_shows_where_it_is(folder: Path, pki: Pki) -> None:
    write_settings(folder, pki)
    (folder / "typo.py").write_text("app = None + 1\n")
    process, _ = start(folder, target="typo:app")
    status, said = end_of(process)
    assert status != 0
    assert 'typo.py", line 1' in said
