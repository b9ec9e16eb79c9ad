"""`options`: an app that is wrapped in code, served by a uvicorn that the user starts."""

from __future__ import annotations

import os
import pickle
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from secmiddleware.errors import ConfigError
from secmiddleware.servers.uvicorn import options
from servers.pki import Pki
from servers.serving import PATIENCE, ask, until

SHOP = """
import sys, uvicorn
from secmiddleware.asgi import SecMiddleware
from secmiddleware.servers.uvicorn import options

async def shop(scope, receive, send):
    body = str(scope["secmiddleware.identity"]).encode()
    headers = [(b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})

app = SecMiddleware(shop, config="secmiddleware.toml")

if __name__ == "__main__":
    uvicorn.run("shop:app", port=int(sys.argv[1]), **options("secmiddleware.toml", workers=int(sys.argv[2])))
"""


@pytest.fixture
def folder(tmp_path: Path, pki: Pki) -> Path:
    (tmp_path / "shop.py").write_text(SHOP)
    (tmp_path / "secmiddleware.toml").write_text(
        f'[service]\nname = "shop"\n[mtls]\ntrust = ["{pki.ca}"]\n'
        f'certificate = "{pki.certificate}"\nkey = "{pki.key}"\n'
    )
    return tmp_path


def _listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 1.0).close()
    except OSError:
        return False
    return True


@pytest.mark.parametrize("workers", [1, 2])
def test_a_uvicorn_of_ones_own_knows_who_is_calling(folder: Path, pki: Pki, workers: int) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    process = subprocess.Popen(
        [sys.executable, "shop.py", str(port), str(workers)],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": os.pathsep.join((str(folder), os.environ.get("PYTHONPATH", "")))},
        stderr=subprocess.DEVNULL,
    )
    try:
        until(lambda: _listens(port) or process.poll() is not None, "it listens")
        if workers > 1:  # the socket is bound before the workers are ready
            until(lambda: ask(port, pki.client("alice")).status == 200, "a worker answers")
        assert ask(port, pki.client("alice")).body == b"spiffe://example.org/alice"
        assert ask(port, pki.client(None)).code == "certificate_missing"
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(PATIENCE)


def test_what_it_gives_reaches_worker_processes(folder: Path) -> None:
    pickle.loads(pickle.dumps(options(folder / "secmiddleware.toml")))


def test_settings_that_cannot_serve_are_told_before_anything_listens(pki: Pki) -> None:
    settings = {"service": {"name": "shop"}, "mtls": {"trust": [str(pki.ca)]}}
    with pytest.raises(ConfigError, match=r"mtls\.certificate: is missing"):
        options(settings)


def test_a_ring_in_memory_is_not_for_several_workers(pki: Pki, tmp_path: Path) -> None:
    (tmp_path / "kek").write_bytes(bytes(range(32)))
    (tmp_path / "kek").chmod(0o600)
    settings = pki.settings(keys={"ring": "shop", "store": "memory:", "kek": f"file:{tmp_path / 'kek'}"})
    assert options(settings)["workers"] == 1
    with pytest.raises(ConfigError, match=r"keys\.store: .* 2 workers"):
        options(settings, workers=2)


def test_a_broker_in_memory_is_not_for_several_workers(pki: Pki, tmp_path: Path) -> None:
    (tmp_path / "kek").write_bytes(bytes(range(32)))
    (tmp_path / "kek").chmod(0o600)
    keys = {"ring": "shop", "store": f"file:{tmp_path / 'ring.json'}", "kek": f"file:{tmp_path / 'kek'}"}
    settings = pki.settings(keys=keys, rotation={"broker": "memory://"})
    assert options(settings)["workers"] == 1
    with pytest.raises(ConfigError, match=r"rotation\.broker: .* 2 workers"):
        options(settings, workers=2)


def test_a_name_of_an_implementation_is_kept(folder: Path) -> None:
    assert options(folder / "secmiddleware.toml", http="h11")["http"].endswith(":H11Protocol")
    assert options(folder / "secmiddleware.toml")["http"].endswith(":HttpToolsProtocol")


def test_nothing_believes_a_forwarded_header(folder: Path) -> None:
    assert options(folder / "secmiddleware.toml")["proxy_headers"] is False
