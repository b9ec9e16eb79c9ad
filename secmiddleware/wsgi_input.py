"""The body of a request under WSGI: what the server reads, through the request flow, as the app reads it."""

from __future__ import annotations

import io
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Final
from wsgiref.types import WSGIEnvironment

from secmiddleware.environs import length_of_body
from secmiddleware.fields.flows import Flow
from secmiddleware.messages import Body, Event, Head, Refusal, RequestHead
from secmiddleware.telemetry.observer import Observation, Stage

# What is asked of the server at once, where all of a body is wanted.
_PIECE_BYTES: Final = 64 * 1024


def finish(flow: Flow, stage: Stage, observation: Observation, *, complete: bool) -> tuple[Event, ...]:
    """The flow's last events; the observation is told how long they took."""
    start_ns = time.time_ns()
    events = tuple(flow.finish(complete))
    observation.stage(stage, start_ns, time.time_ns(), flow.report)
    return events


class Upload:
    """Drives the request flow with what the server reads: never past the end of the body."""

    def __init__(self, flow: Flow, environ: WSGIEnvironment, observation: Observation) -> None:
        self._flow = flow
        self._observation = observation
        self._server = environ.get("wsgi.input", io.BytesIO())
        self._left = length_of_body(environ)
        self._ready = bytearray()
        self._whole = b""
        self._verdict: RequestHead | Refusal | None = None
        self._ended = False

    def begin(self, head: RequestHead) -> RequestHead | Refusal:
        """The head for the app, as soon as the flow lets it go; or why it does not."""
        self._perform(self._flow.start(head))
        if self._verdict is None and isinstance(self._left, Refusal):
            return self._left
        while self._verdict is None:
            try:
                self._pull(self._server.read, _PIECE_BYTES)
            except Exception:  # noqa: BLE001  (each server has its own for a caller who goes away)
                self._end(complete=False)
        return self._verdict

    @property
    def input(self) -> io.BytesIO | Upload:
        """What the app reads: the whole body, or the rest of it as it comes."""
        return io.BytesIO(self._whole) if self._ended else self

    def read(self, size: int | None = -1, /) -> bytes:
        """As `wsgi.input` does it."""
        wanted = sys.maxsize if size is None or size < 0 else size
        while len(self._ready) < wanted and not self._ended:
            self._pull(self._server.read, min(wanted - len(self._ready), _PIECE_BYTES))
        return self._take(wanted)

    def readline(self, size: int | None = -1, /) -> bytes:
        """As `wsgi.input` does it."""
        wanted = sys.maxsize if size is None or size < 0 else size
        while (end := self._ready.find(b"\n") + 1) == 0 and len(self._ready) < wanted and not self._ended:
            self._pull(self._server.readline, min(wanted - len(self._ready), _PIECE_BYTES))
        return self._take(min(end or wanted, wanted))

    def readlines(self, hint: int | None = -1, /) -> list[bytes]:
        """As `wsgi.input` does it."""
        lines: list[bytes] = []
        while line := self.readline():
            lines.append(line)
            if hint is not None and 0 < hint <= sum(map(len, lines)):
                break
        return lines

    def __iter__(self) -> Iterator[bytes]:
        """Its lines."""
        return iter(self.readline, b"")

    def _take(self, size: int) -> bytes:
        piece = bytes(self._ready[:size])
        del self._ready[:size]
        return piece

    def _pull(self, read: Callable[[int], bytes], size: int) -> None:
        """Give the flow what the server reads, or the news that there is no more."""
        if isinstance(self._left, int):
            size = min(size, self._left)
        piece = read(size) if size else b""
        if isinstance(self._left, int):
            self._left -= len(piece)
        if piece:
            self._perform(self._flow.feed(piece))
        else:
            self._end(complete=not self._left)

    def _end(self, *, complete: bool) -> None:
        self._ended = True
        self._perform(finish(self._flow, "request", self._observation, complete=complete))

    def _perform(self, events: Iterable[Event]) -> None:
        for event in events:
            match event:
                case Head(RequestHead() as head):
                    self._verdict = head
                case Body(data, _) if self._ended and not self._ready:
                    self._whole = self._whole + data if self._whole else data
                case Body(data, _):
                    self._ready += data
                case Refusal():
                    # After the head, the app sees the body end too soon, as it would without us.
                    self._verdict = self._verdict or event
