"""How often this process may still seal with a key: blocks reserved in the document, spent without a lock."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Final

from secmiddleware.errors import SealError

FIRST_BLOCK: Final = 1 << 18
"""Uses a process reserves first. Lost at its end, so kept small: a key lasts for 16,384 starts."""
NEXT_BLOCK: Final = 1 << 20
"""Uses it reserves from then on: at a million seals a second still one write a second."""
USES_LIMIT: Final = 1 << 32
"""Seals with one key and random 96-bit nonces, NIST SP 800-38D §8.3."""
ROTATE_AT: Final = 1 << 31
"""Reserved uses from which a new key is asked for, whatever the calendar says."""


class Ration:
    """The uses of one key that this process has reserved.

    `take` needs no lock: `next` on an `itertools.count` is one step of the interpreter. `grant` is called by
    one thread at a time, whichever tends the ring.
    """

    __slots__ = ("_block", "_counter", "_first_block", "_granted", "_low", "_taken", "_wanted")

    def __init__(self, first_block: int, wanted: Callable[[], None]) -> None:
        """Nothing is granted yet; `wanted` must not block: it is called when uses run low, or are spent."""
        self._first_block = first_block
        self._wanted = wanted
        self.drop()

    def drop(self) -> None:
        """Forgets every use. For the child of a fork: what its parent reserved stays the parent's."""
        self._counter = itertools.count(1)
        self._taken = 0
        self._block = 0
        self._granted = 0
        self._low = 0

    @property
    def left(self) -> int:
        """Uses that can still be taken; a snapshot."""
        return max(0, self._granted - self._taken)

    @property
    def block(self) -> int:
        """How many uses were granted last; 0 where none ever were."""
        return self._block

    @property
    def next_block(self) -> int | None:
        """What should be reserved now, or None while more than half of the last block is left."""
        if self._block == 0:
            return self._first_block
        return NEXT_BLOCK if self.left <= self._block // 2 else None

    def grant(self, block: int) -> None:
        """Adds uses that the ring document now has as reserved."""
        self._low = self._granted + block - block // 2
        self._block = block
        self._granted += block

    def take(self) -> None:
        """Takes one use. Raises SealError where none is left, at no cost to a later grant."""
        # Looked at before counting: while the store is away, failing calls must not eat the next block.
        if self._taken < self._granted:
            number = self._taken = next(self._counter)
            if number == self._low:
                self._wanted()
            if number <= self._granted:
                return
        self._wanted()
        raise SealError("the reserved uses of the key are spent; more are being asked for")

    def __repr__(self) -> str:
        return f"Ration(left={self.left})"
