"""Holding a body back until it is whole, within the limits of one body and of all bodies of the process."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from secmiddleware.fields.codings import largest
from secmiddleware.fields.limits import Limits
from secmiddleware.messages import Event, Headers, Refusal, header_values

BODY_KEY: Final = "service.max_body"
HELD_KEY: Final = "service.max_held"


class Holding:
    """The body held back, up to the limits, and the end that comes once."""

    __slots__ = ("_chunks", "_ended", "_limits", "held")

    passive = False

    def __init__(self, limits: Limits) -> None:
        self.held = 0
        self._chunks: list[bytes] = []
        self._ended = False
        self._limits = limits

    def __del__(self) -> None:
        # Whoever drove the flow may have been cancelled, and cannot be relied on to end it.
        if self.held:
            self._limits.held.abandon(self.held)

    def _load_under(self, headers: Headers) -> int:
        """Bytes that the body may have without the codings that these headers tell of."""
        if not self.held or not header_values(headers, b"content-encoding"):
            return self.held
        return largest(self.held, self._limits)

    def trail(self, trailers: Headers) -> None:
        """Takes trailers, and lets go of them: servers hand over none of a request."""

    def _hold(self, chunk: bytes) -> str | None:
        """Holds the chunk; the key of the limit that the body now goes beyond, None where it is within."""
        # Servers and apps also hand over buffers, which they may fill again; of bytes this is no copy.
        chunk = bytes(chunk)
        self._chunks.append(chunk)
        beyond = self._hold_too(len(chunk))
        return BODY_KEY if self.held > self._limits.body else beyond

    def _hold_too(self, size: int) -> str | None:
        """Counts what is held beside the chunks; the key of the limit of all bodies, where it is exceeded."""
        self.held += size
        return None if self._limits.held.take(size) else HELD_KEY

    def _whole(self) -> bytes:
        """The whole body; where it came in one piece, that very object. It counts as held until `_drop`."""
        body = self._chunks[0] if len(self._chunks) == 1 else b"".join(self._chunks)
        self._chunks = []
        return body

    def _drop(self) -> None:
        self._ended = True
        self._chunks = []
        self._limits.held.give_back(self.held)
        self.held = 0

    def _refuse(self, refusal: Refusal) -> Iterable[Event]:
        self._drop()
        return (refusal,)
