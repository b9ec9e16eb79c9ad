"""The stage of the tour: the example app on servers of its own, each a process with a log."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from secmiddleware.cli.starter import Starter
from secmiddleware.errors import SecMiddlewareError

_START_SECONDS: Final = 20.0
STOP_SECONDS: Final = 5.0


@dataclass(frozen=True, slots=True)
class Server:
    """A process that serves the example app, where it listens and what it says."""

    process: subprocess.Popen[bytes]
    port: int
    log: Path

    def said(self) -> str:
        """Everything that it has printed so far."""
        return self.log.read_text(encoding="utf-8", errors="replace")


def environment() -> dict[str, str]:
    """The environment less what would change the demo's settings, or send its traces somewhere."""
    ours = ("SECMIDDLEWARE", "OTEL_")
    return {name: value for name, value in os.environ.items() if not name.startswith(ours)}


def example_folder(app: str) -> Path:
    """Where the example app is: beside this module in a wheel, in examples/ in a checkout."""
    here = Path(__file__).parent
    for folder in (here / "examples", here.parents[1] / "examples"):
        if (folder / f"{app}.py").is_file():
            return folder
    raise SecMiddlewareError("the example app is not there: this installation is incomplete")


@contextmanager
def served(
    starter: Starter, app: str, options: Sequence[str], variables: Mapping[str, str], *, servers: int
) -> Iterator[tuple[Server, ...]]:
    """Several servers of the example app, wrapped alike; they end with the context.

    `options` are for `secmiddleware run`, `variables` for the environment of the first of them.
    """
    command = [sys.executable, "-m", "secmiddleware", "run", f"{app}:app"]
    command += ["--app-dir", str(example_folder(app)), "--config", str(starter.settings), *options]
    with ExitStack() as ending:
        started = tuple(
            ending.enter_context(_running(command, starter.folder / f"server-{number}.log", more))
            for number, more in enumerate([variables, *([{}] * (servers - 1))], 1)
        )
        for server in started:
            _wait_until_it_answers(server)
        yield started


@contextmanager
def _running(command: Sequence[str], log: Path, variables: Mapping[str, str]) -> Iterator[Server]:
    port = _free_port()
    with log.open("wb") as output:
        process = subprocess.Popen(  # noqa: S603  (our own command, no shell)
            [*command, "--port", str(port)],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**environment(), **variables},
        )
    try:
        yield Server(process, port, log)
    finally:
        process.terminate()
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _wait_until_it_answers(server: Server) -> None:
    until = time.monotonic() + _START_SECONDS
    while time.monotonic() < until and server.process.poll() is None:
        try:
            socket.create_connection(("127.0.0.1", server.port), 1.0).close()
        except OSError:
            time.sleep(0.05)
        else:
            return
    raise SecMiddlewareError(f"the server did not start; it said:\n{server.said()}")
