"""An app that says who is calling, over HTTP and over websockets, and servers that run it elsewhere."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import secmiddleware
from secmiddleware.messages import IDENTITY_KEY, PEER_KEY
from servers.pki import Pki
from servers.serving import PATIENCE, Response, answer_lifespan, ask, reply, until

PATHS = (Path(__file__).parents[1], Path(next(iter(secmiddleware.__path__))).parent)

ROUTES = """
[[routes]]
path = "/healthz"
client = "off"
[[routes]]
path = "/maybe/**"
client = "optional"
[[routes]]
path = "/admin/**"
allow = ["spiffe://example.org/ops/*"]
"""


async def show(scope: Any, receive: Any, send: Any) -> None:
    """Say who is calling, before and after others had their turn, and what the caller said to be told."""
    if scope["type"] == "lifespan":
        await answer_lifespan(receive, send)
        return
    told = {key: scope.get(key) for key in ("type", "http_version", "path", "root_path", "scheme")}
    told["identity"], told["process"] = _name(scope), os.getpid()
    told["seen"] = getattr(scope.get(PEER_KEY), "seen", False)
    told["said"] = dict(scope["headers"]).get(b"x-said", b"").decode()
    for _ in range(3):
        await asyncio.sleep(0)
    told["later"] = _name(scope)
    if scope["type"] == "http":
        await reply(send, json.dumps(told).encode())
        return
    assert (await receive())["type"] == "websocket.connect"
    await send({"type": "websocket.accept"})
    while (message := await receive())["type"] == "websocket.receive":
        told["later"] = _name(scope)
        await send({"type": "websocket.send", "text": json.dumps({**told, "said": message["text"]})})


def _name(scope: Any) -> str | None:
    identity = scope[IDENTITY_KEY]
    return None if identity is None else identity.spiffe_id


APP = """
from secmiddleware.asgi import SecMiddleware
from servers.shown import show
app = SecMiddleware(show, config="secmiddleware.toml")
"""


def furnish(
    folder: Path, pki: Pki, *, mount: str = "", client: str = "required", routes: str = ROUTES, **files: str
) -> None:
    """What a server needs to serve the app; `files` are modules beside it, by name."""
    (folder / "secmiddleware.toml").write_text(
        f'[service]\nname = "shown"\nmount = "{mount}"\n[mtls]\nclient = "{client}"\ntrust = ["{pki.ca}"]\n'
        f'certificate = "{pki.certificate}"\nkey = "{pki.key}"\n{routes}'
    )
    for name, source in {"shown_app": APP, **files}.items():
        (folder / f"{name}.py").write_text(source)


def start(folder: Path, *command: str) -> subprocess.Popen[str]:
    """A server in a process of its own; all that it says is in one stream."""
    paths = os.pathsep.join(map(str, (folder, *PATHS)))
    return subprocess.Popen(
        [sys.executable, "-m", *command],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": paths, "PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


class Output:
    """What a process says, read while it runs."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.lines: list[str] = []
        self._process = process
        self._thread = threading.Thread(target=self._read)
        self._thread.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        self.lines.extend(iter(self._process.stdout.readline, ""))

    @property
    def text(self) -> str:
        return "".join(self.lines)

    def end(self) -> str:
        """All of it, when the process has ended; workers that it has left behind end too."""
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait(PATIENCE)
        self._thread.join(PATIENCE)
        assert not self._thread.is_alive()
        assert self._process.stdout is not None
        self._process.stdout.close()
        return self.text


@contextmanager
def running(folder: Path, pki: Pki, port: int, *command: str, plain: bool = False) -> Iterator[Output]:
    """A server until the end; ready when it answers on the port."""
    process = start(folder, *command)
    output = Output(process)
    try:
        until(
            lambda: process.poll() is not None or answers(port, pki, plain=plain), "it answers", 3 * PATIENCE
        )
        assert process.poll() is None, output.end()
        yield output
        process.terminate()
        process.wait(PATIENCE)
    finally:
        output.end()


def refused(folder: Path, *command: str) -> tuple[int, str]:
    """The exit status and the words of a server that does not start."""
    process = start(folder, *command)
    output = Output(process)
    try:
        status = process.wait(2 * PATIENCE)
    finally:
        text = output.end()
    return status, text


def answers(port: int, pki: Pki, *, plain: bool = False) -> bool:
    try:
        if plain:
            ask_plainly(port, "/healthz")
        else:
            ask(port, pki.client(None), "/healthz")
    except OSError:
        return False
    return True


def ask_plainly(port: int, target: str = "/") -> Response:
    """One request without TLS."""
    connection = HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
    try:
        connection.request("GET", target)
        response = connection.getresponse()
        return Response(response.status, tuple(response.getheaders()), response.read())
    finally:
        connection.close()


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port: int = free.getsockname()[1]
        return port
