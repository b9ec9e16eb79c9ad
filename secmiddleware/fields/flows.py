"""Flows: a message goes in piece by piece, and comes out as events, its marked values opened or sealed.

A flow waits for nothing and knows no framework; a shell feeds it and performs its events. What a marked
message goes through is in requests.py and responses.py, what is done to one value in values.py.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Final, Protocol

from secmiddleware.fields.entity_tags import EntityTags
from secmiddleware.fields.heads import for_readable_answer
from secmiddleware.fields.values import Exchange, Report
from secmiddleware.messages import Body, Event, Head, Headers, Refusal, RequestHead, ResponseHead

__all__ = ["PASSIVE", "PASSIVE_RESPONSE", "Bodiless", "Exchange", "Flow", "Report", "Unconditional"]


class Flow(Protocol):
    """What happens to one message on its way. A new one for each message, except where it is passive.

    A shell calls `start` once with the head, `feed` with each piece of the body and `finish` once, and it
    performs the events of each call before the next:

    - `Head`: the head that goes on. It comes once, before any `Body`. For a request: now the app is called,
      with this head, and not earlier. `start` may give it already; then the pieces come out as they are fed.
    - `Body`: a piece that goes on; the last one has `more` False.
    - `Refusal`: the message does not go on, and nothing comes after it. In place of a head it is answered,
      and of a request, the app is not called. After a request's head it says that the body broke off, and
      the app is told what it is told of any disconnect; after a response's, which only a stream's flow does,
      that the response must end so that nobody takes it for a whole one.

    `finish(complete=False)` says that the message broke off: the client disconnected, or the app failed. No
    method waits for anything, and only `finish` works on more than one piece.

    A passive flow changes nothing: a shell may leave `receive` and `send` unwrapped, and need not call it.
    """

    @property
    def passive(self) -> bool:
        """Whether the message goes on untouched, head and body."""

    @property
    def load(self) -> int:
        """Bytes that `finish` may go through, at most. Where they are many it takes time: off the loop."""

    @property
    def report(self) -> Report:
        """What was done so far."""

    def start(self, head: RequestHead | ResponseHead) -> Iterable[Event]:
        """Takes the head."""

    def feed(self, chunk: bytes) -> Iterable[Event]:
        """Takes a piece of the body."""

    def trail(self, trailers: Headers) -> None:
        """Takes trailers, between the last piece and the end; they come out as an event behind the body."""

    def finish(self, complete: bool) -> Iterable[Event]:
        """Takes the end of the message, or the news that it broke off."""


class _Passive:
    """The flow of a message that nothing is to be done to. Without state, it serves any number of them."""

    passive = True
    load = 0
    _broken_off = "payload_malformed"

    @property
    def report(self) -> Report:
        return Report()

    def start(self, head: RequestHead | ResponseHead) -> Iterable[Event]:
        return (Head(head),)

    def feed(self, chunk: bytes) -> Iterable[Event]:
        return (Body(chunk, more=True),) if chunk else ()

    def trail(self, trailers: Headers) -> None:
        """No request has any that a server hands over; a passive response's go past us."""

    def finish(self, complete: bool) -> Iterable[Event]:
        return (Body(b""),) if complete else (Refusal(self._broken_off),)


class _PassiveResponse(_Passive):
    """The same for a response: that it breaks off is no fault of the caller's."""

    _broken_off = "internal_error"


class Unconditional(_Passive):
    """The flow of a request of which only the response is marked: its head changes, its body streams."""

    passive = False

    def __init__(self, tags: EntityTags) -> None:
        self._tags = tags

    def start(self, head: RequestHead | ResponseHead) -> Iterable[Event]:
        """Takes the head."""
        headers = for_readable_answer(self._tags.inward(head.headers))
        return (Head(head if headers is head.headers else replace(head, headers=headers)),)


PASSIVE: Final[Flow] = _Passive()
"""The flow of every request that nothing is to be done to, and, where a shell need not drive it, response."""

PASSIVE_RESPONSE: Final[Flow] = _PassiveResponse()
"""The flow of a response's body that nothing is to be done to, while something is to its head."""


@dataclass(frozen=True, slots=True)
class Bodiless:
    """The flow of a request that was let in because it has no body: the first byte of one ends it.

    HTTP/2 announces no body: that there is one is known when it comes.
    """

    flow: Flow

    passive = False

    @property
    def load(self) -> int:
        """Bytes that `finish` may go through."""
        return self.flow.load

    @property
    def report(self) -> Report:
        """What was done so far."""
        return self.flow.report

    def start(self, head: RequestHead | ResponseHead) -> Iterable[Event]:
        """Takes the head."""
        return self.flow.start(head)

    def feed(self, chunk: bytes) -> Iterable[Event]:
        """Takes a piece of what must be nothing."""
        return (Refusal("payload_malformed"),) if chunk else ()

    def trail(self, trailers: Headers) -> None:
        """Takes trailers."""
        self.flow.trail(trailers)

    def finish(self, complete: bool) -> Iterable[Event]:
        """Takes the end of the message."""
        return self.flow.finish(complete)
