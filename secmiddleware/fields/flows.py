"""Flows: a message goes in piece by piece, and comes out as events, its marked values opened or sealed.

A flow waits for nothing and knows no framework; a shell feeds it and performs its events. What is done to one
value is values.py's business, where the values stand json_rewriting's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Final, Protocol

from secmiddleware.fields.heads import (
    AmbiguousHeader,
    body_from_elsewhere,
    declared_length,
    for_one_caller,
    for_readable_answer,
    kind_of_body,
    with_length,
    without_conditions,
    without_content,
    without_digests,
    without_length,
    without_validators,
)
from secmiddleware.fields.json_reading import UnreadableJSON
from secmiddleware.fields.json_rewriting import Hit, Locator, TooManyHits, splice
from secmiddleware.fields.leaks import LeakGuard
from secmiddleware.fields.values import Exchange, PlaceRule, Report, ValueWork
from secmiddleware.messages import (
    Body,
    Event,
    Head,
    Headers,
    Refusal,
    RequestHead,
    ResponseHead,
    header_values,
)

__all__ = [
    "PASSIVE",
    "UNCONDITIONAL",
    "Bodiless",
    "Exchange",
    "Flow",
    "Marked",
    "Report",
    "RequestFlow",
    "ResponseFlow",
]

_LIMIT_KEY: Final = "service.max_body"
_BODILESS: Final = frozenset({204, 205, 304})
"""Besides 1xx: statuses whose responses have no content (RFC 9110 §15.3.5, §15.3.6, §15.4.5)."""
_REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})


class Flow(Protocol):
    """What happens to one message on its way. A new one for each message, except where it is passive.

    A shell calls `start` once with the head, `feed` with each piece of the body and `finish` once, and it
    performs the events of each call before the next:

    - `Head`: the head that goes on. It comes once, before any `Body`. For a request: now the app is called,
      with this head, and not earlier. `start` may give it already; then the pieces come out as they are fed.
    - `Body`: a piece that goes on; the last one has `more` False.
    - `Refusal`: the message does not go on, and nothing comes after it. In place of a request's head it is
      answered, and the app is not called; after the head it says that the body broke off, and the app is told
      what it is told of any disconnect. A response's flow refuses before its head or not at all, so that the
      refusal can be answered in its place.

    `finish(complete=False)` says that the message broke off: the client disconnected, or the app failed. No
    method waits for anything, and only `finish` works on more than one piece.

    A passive flow changes nothing: a shell may leave `receive` and `send` unwrapped, and need not call it.
    """

    @property
    def passive(self) -> bool:
        """Whether the message goes on untouched, head and body."""

    @property
    def held(self) -> int:
        """Bytes of body held back now. Where they are many, `finish` takes time: off the loop with it."""

    @property
    def report(self) -> Report:
        """What was done so far."""

    def start(self, head: RequestHead | ResponseHead) -> Iterable[Event]:
        """Takes the head."""

    def feed(self, chunk: bytes) -> Iterable[Event]:
        """Takes a piece of the body."""

    def finish(self, complete: bool) -> Iterable[Event]:
        """Takes the end of the message, or the news that it broke off."""


class _Passive:
    """The flow of a message that nothing is to be done to. Without state, it serves any number of them."""

    passive = True
    held = 0

    @property
    def report(self) -> Report:
        return Report()

    def start(self, head: RequestHead | ResponseHead) -> Iterable[Event]:
        return (Head(head),)

    def feed(self, chunk: bytes) -> Iterable[Event]:
        return (Body(chunk, more=True),) if chunk else ()

    def finish(self, complete: bool) -> Iterable[Event]:
        return (Body(b""),) if complete else (Refusal("payload_malformed"),)


class _Unconditional(_Passive):
    """The flow of a request whose body is not marked but whose response is: only its conditions go."""

    passive = False

    def start(self, head: RequestHead | ResponseHead) -> Iterable[Event]:
        headers = for_readable_answer(without_conditions(head.headers))
        return (Head(head if headers is head.headers else replace(head, headers=headers)),)


PASSIVE: Final[Flow] = _Passive()
"""The flow of every message that nothing is to be done to."""

UNCONDITIONAL: Final[Flow] = _Unconditional()
"""The flow of every request of which only the response is marked: its head changes, its body streams."""


@dataclass(frozen=True, slots=True)
class Bodiless:
    """The flow of a request that was let in because it has no body: the first byte of one ends it.

    HTTP/2 announces no body: that there is one is known when it comes.
    """

    flow: Flow

    passive = False

    @property
    def held(self) -> int:
        """Bytes held back: what the flow inside holds."""
        return self.flow.held

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

    def finish(self, complete: bool) -> Iterable[Event]:
        """Takes the end of the message."""
        return self.flow.finish(complete)


@dataclass(frozen=True, slots=True)
class Marked:
    """The marks of one direction: where their values are, and for each mark its place and its text."""

    locator: Locator
    places: tuple[tuple[PlaceRule, str], ...]


class _Holding:
    """The body held back, up to a limit, and the end that comes once."""

    __slots__ = ("_chunks", "_ended", "_limit", "held")

    passive = False

    def __init__(self, limit: int) -> None:
        self._chunks: list[bytes] = []
        self._ended = False
        self._limit = limit
        self.held = 0

    def _hold(self, chunk: bytes) -> bool:
        """Whether the chunk, which is held now, keeps the body within the limit."""
        # Servers and apps also hand over buffers, which they may fill again; of bytes this is no copy.
        chunk = bytes(chunk)
        self._chunks.append(chunk)
        self.held += len(chunk)
        return self.held <= self._limit

    def _let_go(self) -> bytes:
        """The whole body; where it came in one piece, that very object."""
        body = self._chunks[0] if len(self._chunks) == 1 else b"".join(self._chunks)
        self._drop()
        return body

    def _drop(self) -> None:
        self._ended = True
        self._chunks = []
        self.held = 0

    def _refuse(self, refusal: Refusal) -> Iterable[Event]:
        self._drop()
        return (refusal,)


class RequestFlow(_Holding):
    """A request with marks: held until it is whole, then its values are opened or sealed for the app."""

    __slots__ = ("_declared", "_exchange", "_head", "_judged", "_marked", "_response_marked", "_work")

    def __init__(self, exchange: Exchange, marked: Marked, limit: int, *, response_marked: bool) -> None:
        """`limit` is the largest body, in bytes."""
        super().__init__(limit)
        self._marked = marked
        self._response_marked = response_marked
        self._exchange = exchange
        self._work = ValueWork(exchange)
        self._head: RequestHead | ResponseHead | None = None
        self._declared: int | None = None
        self._judged = False

    @property
    def report(self) -> Report:
        """What was done so far."""
        return self._work.report

    def start(self, head: RequestHead | ResponseHead) -> Iterable[Event]:
        """Takes the head; refuses what its headers show to be no body for us, before any of it has come."""
        self._head = head
        try:
            self._declared = declared_length(head.headers)
        except AmbiguousHeader as ambiguous:
            return self._refuse(Refusal("header_ambiguous", str(ambiguous)))
        if self._declared is None or self._declared == 0:
            return ()
        if self._declared > self._limit:
            return self._refuse(Refusal("payload_too_large", _LIMIT_KEY))
        return self._judge_kind(head.headers)

    def feed(self, chunk: bytes) -> Iterable[Event]:
        """Holds the piece."""
        if self._ended or self._head is None or not chunk:
            return ()
        if not self._hold(chunk):
            return self._refuse(Refusal("payload_too_large", _LIMIT_KEY))
        return self._judge_kind(self._head.headers)

    def finish(self, complete: bool) -> Iterable[Event]:
        """Lets the rewritten request go, or refuses it."""
        if self._ended or self._head is None:
            return ()
        if not complete or self._declared not in (None, self.held):
            return self._refuse(Refusal("payload_malformed"))
        body = self._let_go()
        headers = self._head.headers
        if self._response_marked:
            headers = without_conditions(headers)
        rewritten = _rewrite(body, self._marked, self._work.on_request, unreadable="payload_malformed")
        if isinstance(rewritten, Refusal):
            return (rewritten,)
        if self._response_marked or self._exchange.opened:
            headers = for_readable_answer(headers)
        if rewritten.body is not body:
            headers = without_digests(headers)
        if not body and self._declared is None and not header_values(headers, b"transfer-encoding"):
            return _go(self._head, headers, body)
        return _go(self._head, with_length(headers, len(rewritten.body)), rewritten.body)

    def _judge_kind(self, headers: Headers) -> Iterable[Event]:
        """Refuses a body that could not be read for its marks. An app might read it all the same."""
        if self._judged:
            return ()
        self._judged = True
        try:
            kind = kind_of_body(headers)
        except AmbiguousHeader as ambiguous:
            return self._refuse(Refusal("header_ambiguous", str(ambiguous)))
        return () if kind == "json" else self._refuse(Refusal("payload_encoding"))


class ResponseFlow(_Holding):
    """A response that may not leave as it is: its head is held until its body decides.

    With marks, their values are sealed or opened; and whatever the marks, nothing that was opened for the app
    leaves outside of them. Where that cannot be told, the response is refused and none of it was sent.
    """

    __slots__ = ("_bodiless", "_guard", "_head", "_marked", "_method", "_private", "_work")

    def __init__(
        self, exchange: Exchange, method: str, marked: Marked | None, limit: int, *, private: bool
    ) -> None:
        """`marked` is None where only the leak guard holds; `private` keeps it out of shared caches."""
        super().__init__(limit)
        self._method = method
        self._marked = marked
        self._private = private
        self._work = ValueWork(exchange)
        self._guard = LeakGuard(exchange.opened)
        self._head: ResponseHead | None = None
        self._bodiless = False

    @property
    def report(self) -> Report:
        """What was done so far."""
        return self._work.report

    def start(self, head: RequestHead | ResponseHead) -> Iterable[Event]:
        """Takes the head; refuses it where no body could make it good."""
        if not isinstance(head, ResponseHead):
            raise TypeError("the flow of a response takes its head")
        self._head = head
        self._bodiless = self._method == "HEAD" or head.status < 200 or head.status in _BODILESS
        if (leaked := self._guard.found_in_headers(head.headers)) is not None:
            return self._refuse(_leak(leaked))
        if self._bodiless:
            return ()
        # A part is no JSON, and cannot be searched for a value that lies across its edge.
        if head.status == 206 or header_values(head.headers, b"content-range"):
            return self._refuse(Refusal("seal_failed", "content-range"))
        if (handed_over := body_from_elsewhere(head.headers)) is not None:
            return self._refuse(Refusal("seal_failed", handed_over))
        try:
            too_large = (declared_length(head.headers) or 0) > self._limit
        except AmbiguousHeader as ambiguous:
            return self._refuse(Refusal("seal_failed", str(ambiguous)))
        return self._refuse(Refusal("seal_failed", _LIMIT_KEY)) if too_large else ()

    def feed(self, chunk: bytes) -> Iterable[Event]:
        """Holds the piece."""
        if self._ended or self._head is None or self._bodiless or not chunk:
            return ()
        if not self._hold(chunk):
            return self._refuse(Refusal("seal_failed", _LIMIT_KEY))
        return ()

    def finish(self, complete: bool) -> Iterable[Event]:
        """Lets the rewritten response go, or refuses it."""
        if self._ended:
            return ()
        if not complete or self._head is None:
            return self._refuse(Refusal("internal_error"))
        body = self._let_go()
        headers = self._head.headers
        if self._marked is not None:
            headers = without_validators(headers)
            if self._private:
                headers = for_one_caller(headers)
        if self._bodiless:
            return _go(self._head, self._without_body(headers, self._head.status), body)
        if not body:
            return _go(self._head, headers, body)
        try:
            kind = kind_of_body(headers)
        except AmbiguousHeader as ambiguous:
            return (Refusal("seal_failed", str(ambiguous)),)
        if kind == "coded" or (kind == "other" and self._marked is not None):
            if self._is_for_nobody(headers):
                return _go(self._head, without_content(headers), b"")
            return (Refusal("seal_failed", "content-encoding" if kind == "coded" else "content-type"),)
        rewritten = _Rewritten(body, ())
        if self._marked is not None:
            result = _rewrite(body, self._marked, self._work.on_response, unreadable="seal_failed")
            if isinstance(result, Refusal):
                return (result,)
            rewritten = result
            if rewritten.body is not body:
                headers = without_digests(headers)
            headers = with_length(headers, len(rewritten.body))
        if (leaked := self._guard.found_in_body(_unmarked(body, rewritten.hits))) is not None:
            return (_leak(leaked),)
        return _go(self._head, headers, rewritten.body)

    def _is_for_nobody(self, headers: Headers) -> bool:
        """Whether clients act on the head alone: frameworks add a page to a redirect, "OK" to a preflight.

        RFC 9110 §15.4: the content of a redirect is a short note; §9.3.7 defines none for OPTIONS.
        """
        redirects = self._head is not None and self._head.status in _REDIRECTS
        return self._method == "OPTIONS" or (redirects and bool(header_values(headers, b"location")))

    def _without_body(self, headers: Headers, status: int) -> Headers:
        if self._marked is not None:
            headers = without_length(without_digests(headers))
        elif self._method != "HEAD" and status != 304:
            headers = without_length(headers)
        # RFC 9110 §15.3.6: a 205 says that it has no body.
        return with_length(headers, 0) if status == 205 and self._method != "HEAD" else headers


def _go(head: RequestHead | ResponseHead, headers: Headers, body: bytes) -> Iterable[Event]:
    return Head(head if headers is head.headers else replace(head, headers=headers)), Body(body)


@dataclass(frozen=True, slots=True)
class _Rewritten:
    body: bytes = field(repr=False)
    """What goes on; the same object where nothing changed."""
    hits: Sequence[Hit]
    """Where the marked values were in the body that came."""


def _rewrite(
    body: bytes, marked: Marked, act: Callable[[PlaceRule, bytes, str], bytes | Refusal], unreadable: str
) -> _Rewritten | Refusal:
    if not body:
        return _Rewritten(body, ())
    try:
        hits = marked.locator.locate(body)
    except UnreadableJSON:
        return Refusal(unreadable)
    except TooManyHits:
        return Refusal("payload_too_large" if unreadable == "payload_malformed" else unreadable, "fields")
    values: list[bytes] = []
    changed = False
    for hit in hits:
        place, where = marked.places[hit.mark]
        before = body[hit.start : hit.end]
        value = act(place, before, where)
        if isinstance(value, Refusal):
            return value
        changed = changed or value != before
        values.append(value)
    return _Rewritten(splice(body, hits, values) if changed else body, hits)


def _unmarked(body: bytes, hits: Sequence[Hit]) -> Iterator[bytes]:
    position = 0
    for hit in hits:
        yield body[position : hit.start]
        position = hit.end
    yield body[position:] if position else body


def _leak(field: str) -> Refusal:
    return Refusal("seal_failed", f"fields.{field}.leak_guard")
