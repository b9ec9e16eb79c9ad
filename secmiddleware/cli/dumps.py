"""What `secmiddleware fields` reads and writes: standard streams or files, values, documents and dumps.

A file that is written is there only when all of it is: nothing that is half done takes its place.
"""

from __future__ import annotations

import os
import stat
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Final, Self

import click

from secmiddleware.errors import SecMiddlewareError
from secmiddleware.files import begun_secret

if TYPE_CHECKING:
    from rich.progress import Progress

LARGEST_VALUE: Final = 12 << 20
"""Of one value, and of one line of a dump, sealed or not. The largest body by default, 4 MiB,
has room in it with every value sealed: that takes four bytes for three, and some fifty for each value."""
LARGEST_DOCUMENT: Final = 96 << 20
"""Of a document, which is held as a whole, twice. What is larger is a dump, and goes line by line."""

_BAR_AFTER: Final = 0.5
"""Seconds after which something is long."""
_BAR_EVERY: Final = 0.1


@contextmanager
def source(path: Path | None) -> Iterator[BinaryIO]:
    """The bytes that come in, from a file or else from standard input."""
    if path is None:
        if sys.stdin is None:  # closed by whoever started the command
            raise click.ClickException("there is no standard input to read the value from")
        yield sys.stdin.buffer
        return
    try:
        file = path.open("rb")
    except OSError as error:
        raise click.ClickException(f"{path}: cannot be read: {error.strerror}") from None
    with file:
        yield file


def sink(path: Path | None, *, force: bool) -> AbstractContextManager[BinaryIO]:
    """Where bytes go: standard output, or a file that only its owner may read, there once it is whole."""
    if path is not None:
        return _file(path, force=force)
    if sys.stdout is None:
        raise click.ClickException("there is no standard output to write to")
    return nullcontext(sys.stdout.buffer)


@contextmanager
def _file(path: Path, *, force: bool) -> Iterator[BinaryIO]:
    try:
        with begun_secret(path, replace=force) as file:
            yield file
    except FileExistsError:
        hint = "is no regular file" if force else "is there already; --force replaces it"
        raise click.ClickException(f"{path}: {hint}") from None
    except OSError as error:
        raise click.ClickException(f"{path}: cannot be written: {error.strerror}") from None


def read_value(file: BinaryIO) -> bytes:
    """One value, less the line end behind it."""
    return _read(file, LARGEST_VALUE).removesuffix(b"\n").removesuffix(b"\r")


def read_document(file: BinaryIO) -> bytes:
    """One document, as it is."""
    return _read(file, LARGEST_DOCUMENT)


def _read(file: BinaryIO, most: int) -> bytes:
    data = file.read(most + 1)
    if len(data) > most:
        raise click.ClickException(f"the input is larger than {most} bytes")
    return data


def no_larger(data: bytes, most: int) -> bytes:
    """The same bytes, where a run that reads them again would take them. Raises ClickException."""
    if len(data) > most:
        raise click.ClickException(f"would be larger than {most} bytes, and could not be opened again")
    return data


def rewrite_lines(incoming: BinaryIO, outgoing: BinaryIO, change: Callable[[bytes], bytes], bar: Bar) -> int:
    """Writes each line changed, and tells how many there were. Empty lines and line ends stay as they are.

    Raises ClickException with the number of a line that is too long or cannot be changed, never with
    anything that stands in it.
    """
    number = 0
    while line := incoming.readline(LARGEST_VALUE + 1):
        number += 1
        content = line.removesuffix(b"\n")
        end = line[len(content) :]
        if len(content) > LARGEST_VALUE:
            raise click.ClickException(f"line {number}: is longer than {LARGEST_VALUE} bytes")
        if content.strip(b" \t\r"):
            try:
                content = change(content)
            except (SecMiddlewareError, click.ClickException) as error:
                raise click.ClickException(f"line {number}: {error}") from None
        outgoing.write(content + end)
        bar.advance(len(line))
    return number


class Bar:
    """A progress bar on standard error, for what takes longer than a moment and is watched at a terminal."""

    def __init__(self, incoming: BinaryIO, *, to_terminal: bool) -> None:
        """`to_terminal`: the output goes to a terminal itself, where a bar would stand between its lines."""
        self._total = _size(incoming)
        self._done = 0
        self._begun = self._shown = time.monotonic()
        self._progress: Progress | None = None
        self._wanted = sys.stderr is not None and sys.stderr.isatty() and not to_terminal

    def advance(self, count: int) -> None:
        """Bytes that were dealt with."""
        self._done += count
        if not self._wanted:
            return
        now = time.monotonic()
        if now < self._shown + (_BAR_AFTER if self._progress is None else _BAR_EVERY):
            return
        self._shown = now
        if self._progress is None:
            self._progress = _progress()
            self._progress.start()
            self._progress.add_task("", total=self._total)
        self._progress.update(self._progress.task_ids[0], completed=self._done)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Takes the bar away."""
        if self._progress is not None:
            self._progress.stop()


def _progress() -> Progress:
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn, TransferSpeedColumn

    columns = (BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    return Progress(*columns, console=Console(stderr=True), transient=True)


def _size(file: BinaryIO) -> int | None:
    """The bytes of a regular file; None where nobody knows how much will come."""
    try:
        found = os.fstat(file.fileno())
    except (OSError, ValueError):
        return None
    return found.st_size if stat.S_ISREG(found.st_mode) else None
