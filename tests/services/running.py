"""A server of our own: on a free port of 127.0.0.1, with throw-away data, ended by its own process id."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Self

READY_SECONDS = 60.0
"""Redis takes a tenth of one, RabbitMQ some three, and more on a machine that has much else to do."""
_END_SECONDS = 10.0


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def of_the_system() -> dict[str, str]:
    """The environment for a server with the system's Python built in.

    That looks for its library beside the first `python3` in the PATH, which may be a virtual environment's.
    """
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "VIRTUAL"))}
    return kept | {"PATH": os.defpath, "LC_ALL": "C.UTF-8"}


class Server:
    """One server process (a group of its own), with a folder that goes with it.

    It can be killed, halted and started again on the same port; subclasses say how it is run and what it
    answers when it is ready.
    """

    name: str

    def __init__(self, binary: Path) -> None:
        self.binary = binary
        self.port = free_port()
        self.folder = Path(tempfile.mkdtemp(prefix=f"secmw-{self.name}-"))
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        raise NotImplementedError

    def command(self) -> Sequence[str]:
        raise NotImplementedError

    def environ(self) -> Mapping[str, str]:
        return os.environ

    def answers(self) -> bool:
        """Whether it serves."""
        raise NotImplementedError

    @property
    def running(self) -> bool:
        return self._process is not None

    def begin(self) -> None:
        """Starts it and waits for nothing."""
        with (self.folder / "output").open("ab") as output:
            self._process = subprocess.Popen(
                self.command(),
                cwd=self.folder,
                env=self.environ(),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def start(self) -> Self:
        """Starts it, and waits until it serves."""
        self.begin()
        self.wait()
        return self

    def wait(self) -> None:
        assert self._process is not None
        until = time.monotonic() + READY_SECONDS
        while not answered(self.answers):
            if self._is_over() or time.monotonic() > until:
                tail = (self.folder / "output").read_text(errors="replace")[-2000:]
                raise AssertionError(f"{self.name} did not start: {tail}")
            time.sleep(0.02)

    def kill(self) -> None:
        """Kills it with -9, as a crash would."""
        self._signal(signal.SIGKILL)
        self._reap()

    def halt(self) -> None:
        """Stops it where it stands: connections stay open, and nobody answers."""
        self._signal(signal.SIGSTOP)

    def go_on(self) -> None:
        self._signal(signal.SIGCONT)

    def end(self) -> None:
        """Ends it and throws its data away; may be called twice."""
        if self._process is not None:
            self._signal(signal.SIGCONT)
            self._signal(signal.SIGTERM)
            self._reap()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _signal(self, number: signal.Signals) -> None:
        if self._process is not None:
            # The group that was made for it: a start script has its server for a child.
            os.killpg(self._process.pid, number)

    def _reap(self) -> None:
        if self._process is None:
            return
        until = time.monotonic() + _END_SECONDS
        # Not reaped yet: as long as its leader is there, the number of the group is nobody else's.
        while not self._is_over() and time.monotonic() < until:
            time.sleep(0.01)
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait(_END_SECONDS)
        self._process = None

    def _is_over(self) -> bool:
        assert self._process is not None
        return os.waitid(os.P_PID, self._process.pid, os.WEXITED | os.WNOWAIT | os.WNOHANG) is not None


def answered(answers: Callable[[], bool]) -> bool:
    try:
        return answers()
    except OSError:
        return False


def ask(port: int, question: bytes, length: int) -> bytes:
    """What a server says to some bytes, at most so many."""
    with socket.create_connection(("127.0.0.1", port), timeout=2) as connection:
        connection.sendall(question)
        return connection.recv(length)
