"""The command `secmiddleware`, run as a process of its own, as a shell would run it."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from click.testing import CliRunner

import secmiddleware
from secmiddleware.cli import main

PACKAGE = Path(secmiddleware.__file__).parent
OURS = (sys.executable, "-m", "secmiddleware")
PATIENCE = 30.0  # seconds for what takes one, on a machine that does other things too
ESCAPE = "\x1b"

# What of this process's surroundings would change what a command prints.
_MEDDLING = {
    "FORCE_COLOR",
    "NO_COLOR",
    "TTY_COMPATIBLE",
    "COLUMNS",
    "LINES",
    "TERM",
    "COLORTERM",
    "PYTHONSAFEPATH",
}


def environment(**more: str) -> dict[str, str]:
    """This process's environment less what changes a command's words, with the package on the path."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if name not in _MEDDLING and not name.startswith("SECMIDDLEWARE")
    }
    return {**kept, "PYTHONPATH": str(PACKAGE.parent), **more}


@dataclass(frozen=True)
class Done:
    """What is left of a command that has ended."""

    status: int
    stdout: bytes
    err: str

    @property
    def out(self) -> str:
        return self.stdout.decode()

    @property
    def json(self) -> Any:
        return json.loads(self.stdout)

    @property
    def printed(self) -> str:
        """Everything, wherever it went."""
        return self.out + self.err


def run(
    *words: str | Path, cwd: Path, stdin: bytes = b"", env: Mapping[str, str] | None = None, **options: Any
) -> Done:
    """`secmiddleware WORDS`, waited for. No command of ours ever ends in a traceback."""
    done = subprocess.run(
        [*OURS, *map(str, words)],
        cwd=cwd,
        input=stdin,
        capture_output=True,
        env=environment(**(env or {})),
        check=False,
        timeout=PATIENCE,
        **options,
    )
    result = Done(done.returncode, done.stdout, done.stderr.decode())
    assert "Traceback" not in result.err, result.err
    return result


def inside(
    *words: str, config: Path, stdin: bytes = b"", env: Mapping[str, str | None] | None = None
) -> Done:
    """The same as `run`, in this process, for tables of many cases: a process takes half a second."""
    result = CliRunner().invoke(main, [*words, "--config", str(config)], input=stdin, env=env)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return Done(result.exit_code, result.stdout_bytes, result.stderr)


def made(folder: Path, *options: str, **how: Any) -> Path:
    """What `init` makes in a new folder, by a process if there is more to say of it: its file of settings."""
    if how:
        done = run("init", folder.name, *options, cwd=folder.parent, **how)
        assert done.status == 0, done.err
    else:
        result = CliRunner().invoke(main, ["init", str(folder), *options])
        assert result.exit_code == 0, result.output
    return folder / "secmiddleware.toml"


def changed(config: Path, to: Path, *changes: tuple[str, str]) -> Path:
    """A copy of the folder of `config`, whose text differs by (from, to); the copied file of settings."""
    shutil.copytree(config.parent, to)
    copy = to / config.name
    change(copy, *changes)
    return copy


def change(file: Path, *changes: tuple[str, str]) -> None:
    text = file.read_text()
    for before, after in changes:
        assert text.count(before) == 1, before
        text = text.replace(before, after)
    file.write_text(text)


def tree(folder: Path) -> dict[str, bytes | str | None]:
    """Everything below a folder: the bytes of files, where links lead, None for folders."""
    return {
        str(path.relative_to(folder)): (
            str(path.readlink()) if path.is_symlink() else None if path.is_dir() else path.read_bytes()
        )
        for path in sorted(folder.rglob("*"))
    }


@contextmanager
def running(command: list[str | Path], *, log: Path, **options: Any) -> Iterator[subprocess.Popen[bytes]]:
    """A process whose output goes to the file `log`; unless it ends, all that it started is killed."""
    with log.open("wb") as output:
        process = subprocess.Popen(
            [str(word) for word in command],
            **{
                "stdin": subprocess.DEVNULL,
                "stdout": output,
                "stderr": subprocess.STDOUT,
                "env": environment(),
                "start_new_session": True,
                **options,
            },
        )
    try:
        yield process
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def until(holds: Callable[[], Any], what: str, log: Path | None = None) -> Any:
    """What `holds()` gives as soon as it is true."""
    deadline = time.monotonic() + PATIENCE
    while not (result := holds()):
        said = "" if log is None else log.read_text(errors="replace")
        assert time.monotonic() < deadline, f"not within {PATIENCE} s: {what}\n{said}"
        time.sleep(0.02)
    return result


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def listens(port: int) -> bool:
    """Whether anybody takes connections there."""
    try:
        socket.create_connection(("127.0.0.1", port), 1.0).close()
    except OSError:
        return False
    return True


def is_free(port: int) -> bool:
    """Whether another server may listen there now."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


def ended(process: subprocess.Popen[bytes], number: int | None = None) -> int:
    """The status of a process that ends, if need be of the signal."""
    if number is not None:
        process.send_signal(number)
    # A gunicorn worker that has just been forked misses the signal, and is killed when its 30 s are over.
    return process.wait(PATIENCE + 30)


def is_gone(pid: int) -> bool:
    """Whether there is no such process, or only what its parent has yet to bury."""
    try:
        return re.search(r"^State:\s+[ZX]", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE) is not None
    except FileNotFoundError:
        return True


def children(pid: int) -> list[int]:
    """The processes that a process has started."""
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
