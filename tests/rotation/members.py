"""A fleet of processes over one ring, each with a line, a broker and requests that never pause."""

from __future__ import annotations

import json
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

from encryption.rings import RING, manager_of
from rotation.processes import BOUND_SECONDS, begin

from secmiddleware.encryption.manager import utc_now
from secmiddleware.rotation import broker as broker_module
from secmiddleware.rotation.broker import Broker
from secmiddleware.rotation.line import RotationLine
from secmiddleware.rotation.stores import FileStore


class FarStore(FileStore):
    """A file as if on another host: looked at only every `poll`, or when somebody says so."""

    @property
    def reach(self) -> str:  # type: ignore[override]
        return "network"


class Requests:
    """One thread that seals, and opens what it has sealed, a hundred times a second at most."""

    def __init__(self, manager: Any) -> None:
        self.done = 0
        self.failed: list[str] = []
        self.worst = 0.0
        self._manager = manager
        self._ended = threading.Event()
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        while not self._ended.wait(0.01):
            begun = time.monotonic()
            try:
                token = self._manager.seal("ssn", b"1")
                assert self._manager.open("ssn", token) == b"1"
                self.done += 1
            except Exception as error:  # noqa: BLE001  (whatever it is, a request has failed)
                self.failed.append(repr(error))
            self.worst = max(self.worst, time.monotonic() - begun)

    def end(self) -> dict[str, Any]:
        self._ended.set()
        return {"done": self.done, "failed": self.failed, "worst": self.worst}


def serve(path: str, url: str, delay: str, poll: str, _: str) -> None:
    """What a member does: commands from its input, one answer for each; what it hears is told in between."""
    manager = manager_of(FarStore(path), utc_now, activation_delay=timedelta(seconds=float(delay)))
    manager.start()
    # What a test waits for is that it comes again, not how patient it is.
    broker_module._LONGEST_PAUSE = 1.0
    broker = Broker(url, RING) if url else None
    line = RotationLine(manager, poll=timedelta(seconds=float(poll)), messenger=broker)
    line.on(["key.published"], lambda told: say("published", told.kid, time.time()))
    line.on(["key.activated"], lambda told: say("activated", told.kid, time.time()))
    line.start()
    requests = Requests(manager)
    say("answer", "here")
    for command in sys.stdin:
        match command.strip():
            case "rotate":
                begun = time.monotonic()
                kid = manager.rotate()
                say("answer", kid, time.time(), time.monotonic() - begun)
            case "health":
                say("answer", line.health()["broker"])
            case "stop":
                begun = time.monotonic()
                line.stop()
                say("answer", time.monotonic() - begun, requests.end())


def say(*words: object) -> None:
    sys.stdout.write(json.dumps(words) + "\n")
    sys.stdout.flush()


class Member:
    """A member, seen from outside."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self._answers: queue.Queue[list[Any]] = queue.Queue()
        self.heard: list[tuple[str, str, float]] = []
        """What, which key, and when."""
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            kind, *words = json.loads(line)
            if kind == "answer":
                self._answers.put(words)
            else:
                self.heard.append((kind, *words))

    def ask(self, command: str) -> list[Any]:
        assert self._process.stdin is not None
        self._process.stdin.write(command + "\n")
        self._process.stdin.flush()
        return self.answer()

    def answer(self) -> list[Any]:
        return self._answers.get(timeout=BOUND_SECONDS)

    def kill(self) -> None:
        """As a crash would."""
        self._process.kill()

    @property
    def ready(self) -> bool:
        return bool(self.ask("health")[0]["ready"])

    @property
    def told(self) -> list[tuple[str, str]]:
        """What and which key, in order."""
        return [(what, kid) for what, kid, _ in self.heard]

    def knows(self, kid: str) -> float | None:
        """When it has learned of a key."""
        return next((when for what, told, when in self.heard if (what, told) == ("published", kid)), None)


@contextmanager
def members(path: object, url: str, polls: list[float], delay: float = 300) -> Iterator[list[Member]]:
    """As many as there are polls, each with a ring; killed at the end. All in seconds."""
    code = "import sys; from rotation.members import serve; serve(*sys.argv[1:])"
    started = [begin(code, path, url, delay, poll, number) for number, poll in enumerate(polls)]
    try:
        fleet = [Member(process) for process in started]
        for member in fleet:
            member.answer()
        yield fleet
    finally:
        for process in started:
            process.kill()
            process.wait()
            for stream in (process.stdin, process.stdout):
                stream.close()
