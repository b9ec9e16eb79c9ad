"""What is made of files of the operator's, and made again when one of them has changed.

Looking is stat() as long as nothing has. What cannot be used changes nothing: what was good stays in force,
and `trouble` says what is wrong until it is mended. Nobody waits for whoever looks: what is in force is one
attribute.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Generic, TypeVar

from secmiddleware.errors import ConfigError, SecMiddlewareError

Made = TypeVar("Made")

Stamp = tuple[int, int, int, int] | None
"""When a file was changed (two clocks), its size, its inode; None where there is none."""


def stamp_of(path: Path) -> Stamp:
    """By what a file is told from what stood there before; links are followed."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_ctime_ns, found.st_size, found.st_ino


def stamps_of(paths: Iterable[Path]) -> tuple[Stamp, ...]:
    """The stamps of several files, in their order."""
    return tuple(map(stamp_of, paths))


class Watched(Generic[Made]):
    """Something made of files, and a look whether they have changed. One thread at a time may look."""

    def __init__(
        self, paths: Iterable[Path], make: Callable[[], Made], what: str, logger: logging.Logger
    ) -> None:
        """Makes it; raises what `make` raises, a SecMiddlewareError that names the file.

        `what` is its name in the log, a plural.
        """
        self._paths = tuple(paths)
        self._make = make
        self._what = what
        self._logger = logger
        self._stamps = stamps_of(self._paths)
        self.made = make()
        """What is in force; swapped as a whole."""
        self.trouble: str | None = None
        """Why the files as they are now are not in force; None where they are."""

    def look(self, settling: float = 0.0, *, again: bool = False) -> bool:
        """Puts into force what has changed and is good, and says so; says in the log, once, what is not.

        Args:
            settling: for how many seconds what has changed must stand still before it is read.
            again: whether to read it though nothing has changed.
        """
        stamps = stamps_of(self._paths)
        if stamps != self._stamps and settling:
            time.sleep(settling)
            if stamps_of(self._paths) != stamps:
                return False
        return (again or stamps != self._stamps) and self._take(stamps)

    def _take(self, stamps: tuple[Stamp, ...]) -> bool:
        try:
            made = self._make()
        except SecMiddlewareError as error:
            told = "; ".join(map(str, error.findings)) if isinstance(error, ConfigError) else str(error)
            if told != self.trouble:
                self.trouble = told
                self._logger.error("changed %s are not used, the last good ones stay: %s", self._what, told)
            # What was changed while it was read is read again at the next look.
            self._stamps = stamps
            return False
        if stamps_of(self._paths) != stamps:
            # Written to while it was read, it may be half of something: there is another look soon.
            return False
        self._stamps = stamps
        self.made, self.trouble = made, None
        self._logger.info("changed %s are in force", self._what)
        return True
