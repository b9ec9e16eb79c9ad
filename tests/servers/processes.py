"""`serve` of a server in a process of its own, with its workers."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import secmiddleware
from servers.pki import Pki
from servers.serving import PATIENCE, ask, until

SOURCE = Path(next(iter(secmiddleware.__path__))).parent

RUN = """
import importlib, json, sys
if __name__ == "__main__":
    server = importlib.import_module("secmiddleware.servers." + sys.argv[1])
    server.serve(server.Serving(**json.loads(sys.argv[2])))
"""


def start(folder: Path, *, server: str = "uvicorn", **serving: Any) -> tuple[subprocess.Popen[bytes], int]:
    """The process that serves, and the port on which it will."""
    (folder / "run.py").write_text(RUN)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    told = {
        "target": "shop:app",
        "config": "secmiddleware.toml",
        "port": port,
        "app_dir": str(folder),
        **serving,
    }
    process = subprocess.Popen(
        [sys.executable, "run.py", server, json.dumps(told)],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(SOURCE)},
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
    )
    return process, port


@contextlib.contextmanager
def running(folder: Path, pki: Pki, **serving: Any) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    process, port = start(folder, **serving)
    try:
        until(lambda: answers(port, pki) or process.poll() is not None, "it serves", 2 * PATIENCE)
        assert process.poll() is None, process.communicate()[1].decode()
        yield process, port
    finally:
        process.terminate()
        try:
            process.communicate(timeout=PATIENCE)
        except subprocess.TimeoutExpired:
            process.kill()
            raise


def answers(port: int, pki: Pki) -> bool:
    with contextlib.suppress(OSError):
        ask(port, pki.client(None))
        return True
    return False


def end_of(process: subprocess.Popen[bytes]) -> tuple[int, str]:
    """The exit status and what was said on stderr."""
    try:
        _, said = process.communicate(timeout=2 * PATIENCE)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGTERM)
        raise
    return process.returncode, said.decode()
