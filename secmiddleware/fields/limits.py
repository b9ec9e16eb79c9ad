"""How much of bodies may be held back: one of them, and all of a process together."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from threading import get_ident
from typing import Final

from secmiddleware.fields.json_reading import MAX_DEPTH
from secmiddleware.fields.json_rewriting import MAX_HITS, Duplicates

DEFAULT_HELD: Final = 256 << 20
"""Bytes: 64 of the largest bodies that are read by default."""

DEFAULT_LINE: Final = 1 << 20
"""Bytes. A record is a row of a table or a message; the readers of streams stop at 64 KiB to 1 MiB."""

DEFAULT_PLAIN_EVENTS: Final = frozenset({b"[DONE]"})
"""What ends a stream of a language model's, by the custom that OpenAI began."""

MOST_PADDING: Final = 16 << 20
"""Bytes by which `pad` makes the values of one body longer, together: two bytes of a body can become four
thousand. The most values that there may be by default have room for `pad = 256`."""

DEFAULT_RATIO: Final = 200
"""A list of ten thousand alike records is a 65th of itself under gzip, a 170th under zstd at its best."""


class HeldBytes:
    """The bytes of bodies that a process holds back, counted for all of them together without a lock.

    Every thread has a count of its own, which nobody else writes; what one thread takes another may give
    back, so only their sum means anything.
    """

    __slots__ = ("_abandoned", "_counts", "limit")

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._counts: dict[int, int] = {}
        self._abandoned: deque[int] = deque()

    @property
    def total(self) -> int:
        """The bytes that are held now."""
        while self._abandoned:
            try:
                self._count(-self._abandoned.popleft())
            except IndexError:
                break  # another thread was faster
        # `list` copies in one step: another thread may be adding its count just now.
        return sum(list(self._counts.values()))

    def take(self, size: int) -> bool:
        """Count these bytes in; whether all of them together are within the limit."""
        self._count(size)
        return self.total <= self.limit

    def give_back(self, size: int) -> None:
        """Count these bytes out."""
        self._count(-size)

    def abandon(self, size: int) -> None:
        """Count these bytes out from a destructor, which may run in the middle of any other call."""
        self._abandoned.append(size)

    def _count(self, size: int) -> None:
        thread = get_ident()
        self._counts[thread] = self._counts.get(thread, 0) + size


@dataclass(frozen=True, slots=True)
class Limits:
    """What may be held back of messages with marks; `held` is one for the whole process."""

    body: int
    """Bytes of the largest body, each way (`[service] max_body`)."""
    held: HeldBytes = field(default_factory=lambda: HeldBytes(DEFAULT_HELD))
    """All that is held back, with its limit (`[service] max_held`)."""
    depth: int = MAX_DEPTH
    """Arrays and objects inside each other (`[service] max_depth`)."""
    marked: int = MAX_HITS
    """Marked values in one body (`[service] max_marked`)."""
    duplicates: Duplicates = "reject"
    """What becomes of a body with a name of a mark twice in one place (`[service] duplicates`)."""
    line: int = DEFAULT_LINE
    """Bytes of the longest record or event of a stream (`[service] max_line`)."""
    plain_events: frozenset[bytes] = DEFAULT_PLAIN_EVENTS
    """The data of events that are no JSON and may pass (`[service] plain_events`)."""
    ratio: int = DEFAULT_RATIO
    """How many times its size a coded body may become (`[service] max_ratio`)."""
