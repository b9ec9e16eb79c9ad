"""Other processes: Python run on a text, with the package and the tests' own modules on its path."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import secmiddleware

BOUND_SECONDS = 20.0
"""What any single thing that a test waits for may take, on a machine that has much else to do."""


def begin(code: str, *arguments: object) -> subprocess.Popen[str]:
    """A process that runs `code`, with lines to its input and from its output."""
    path = [str(Path(next(iter(secmiddleware.__path__))).parent), str(Path(__file__).parent.parent)]
    return subprocess.Popen(
        [sys.executable, "-P", "-c", code, *map(str, arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(path)},
    )


@contextmanager
def running(code: str, *arguments: object, count: int = 1) -> Iterator[list[subprocess.Popen[str]]]:
    """Such processes, killed at the end if they have not ended."""
    started = [begin(code, *arguments, number) for number in range(count)]
    try:
        yield started
    finally:
        for process in started:
            process.kill()
            process.communicate()


def outputs(code: str, *arguments: object, count: int = 1) -> list[list[str]]:
    """The lines of `count` processes at once, each with its number as the last argument; all must succeed."""
    with running(code, *arguments, count=count) as started:
        texts = [process.communicate(timeout=BOUND_SECONDS)[0] for process in started]
        assert [process.returncode for process in started] == [0] * count
    return [text.split("\n")[:-1] for text in texts]


def until(holds: Callable[[], object], seconds: float = BOUND_SECONDS) -> float:
    """Waits for a condition; tells how long it took, in seconds."""
    begun = time.monotonic()
    while not holds():
        assert time.monotonic() - begun < seconds, "it never came true"
        time.sleep(0.002)
    return time.monotonic() - begun
