"""Padding: spaces behind a JSON value, so that its token tells its length in steps only.

Sound for raw JSON and for nothing else: a JSON value does not end in a space, so what follows it can be told
from it, and whoever does not know of padding still reads the same JSON. The spaces are sealed with the value
(docs/token-format.md §2).
"""

from __future__ import annotations

from typing import Final

_SPACE: Final = b" "


def padded(value: bytes, step: int) -> bytes:
    """A raw JSON value with spaces up to the next multiple of `step` bytes; as it is where `step` is 0."""
    return value + _SPACE * (-len(value) % step) if step else value


def unpadded(value: bytes) -> bytes:
    """The raw JSON value of what was sealed, padded or not."""
    return value.rstrip(_SPACE)
