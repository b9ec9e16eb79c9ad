"""The flows of messages that are streams of records: each record goes on as soon as it is whole.

Lines, sequences and server-sent events are rewritten unit by unit, with the keys and the clock of that
moment. The head goes on with the first of them: until then a stream can be refused as any other message. What
is refused later breaks off, and must be seen to.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from itertools import islice
from typing import Final

from secmiddleware.fields.bodies import Marked, Rewritten, rewrite, unmarked
from secmiddleware.fields.digests import without_digests
from secmiddleware.fields.entity_tags import EntityTags
from secmiddleware.fields.flows import Exchange, Flow
from secmiddleware.fields.heads import (
    AmbiguousHeader,
    codings_of,
    declared_length,
    for_one_caller,
    for_readable_answer,
    with_length,
    without_length,
    without_parts,
)
from secmiddleware.fields.holding import HELD_KEY
from secmiddleware.fields.leaks import LeakGuard
from secmiddleware.fields.limits import Limits
from secmiddleware.fields.media_types import MediaType, media_type_of
from secmiddleware.fields.records import RecordKind, data_of_events, has_text, passes_by, splitter_for
from secmiddleware.fields.requests import WITHOUT_CONTENT
from secmiddleware.fields.values import Report, ValueWork
from secmiddleware.messages import (
    Body,
    Event,
    Head,
    Headers,
    Refusal,
    RequestHead,
    ResponseHead,
    Trailers,
    without_headers,
)

LINE_KEY: Final = "service.max_line"

REMEMBERED: Final = 256 << 10
"""Bytes of opened values that the leak guard remembers of a stream without end: thousands of them."""

_GROUP: Final = 64
"""Records that are looked at together for whether they can go on as they are."""
_FEWEST: Final = 4
"""Below that, one by one is as quick."""

_BODILESS: Final = frozenset({204, 205, 206, 304})
_DIGESTS: Final = (b"content-digest", b"repr-digest", b"digest", b"content-md5")
_KINDS: Final[dict[str, RecordKind]] = {"lines": "lines", "sequence": "sequence", "events": "events"}


class _Stream:
    """What both directions do: cut, rewrite, let go, and count what is held."""

    __slots__ = (
        "_counted", "_ended", "_head", "_kind", "_limits", "_media_type", "_splitter", "_too_large", "_work"
    )  # fmt: skip

    passive = False

    def __init__(self, exchange: Exchange, limits: Limits, kind: RecordKind, *, too_large: str) -> None:
        self._limits = limits
        self._kind = kind
        self._media_type = MediaType(kind, plain=limits.plain_events)
        self._splitter = splitter_for(kind)
        self._work = ValueWork(exchange)
        self._head: Head | None = None
        self._ended = False
        self._counted = 0
        self._too_large = too_large

    def __del__(self) -> None:
        # Whoever drove the flow may have been cancelled, and cannot be relied on to end it.
        if self._counted:
            self._limits.held.abandon(self._counted)

    @property
    def load(self) -> int:
        """Bytes that `finish` may go through: those held back now."""
        return self._counted

    @property
    def report(self) -> Report:
        """What was done so far."""
        return self._work.report

    def feed(self, chunk: bytes) -> Iterable[Event]:
        """Lets the units go that end with this piece."""
        if self._ended or not chunk:
            return ()
        return self._let_go(self._splitter.feed(bytes(chunk)))

    def finish(self, complete: bool) -> Iterable[Event]:
        """Lets the rest go, or says that the message broke off."""
        if self._ended:
            return ()
        if not complete:
            return self._refuse([], self._broken_off())
        rest = self._splitter.finish()
        events = self._let_go([rest] if rest else [], last=True)
        if not self._ended:
            self._end()
        return events

    def trail(self, trailers: Headers) -> None:
        """No request has any that a server hands over."""

    def _let_go(self, units: Iterable[bytes], *, last: bool = False) -> Iterable[Event]:
        """The units as they go on; up to one that does not."""
        done: list[bytes] = []
        units = iter(units)
        while group := list(islice(units, _GROUP)):
            if self._go_as_they_are(group):
                done += group
                continue
            for unit in group:
                if len(unit) > self._limits.line:
                    return self._refuse(done, Refusal(self._too_large, LINE_KEY))
                outcome = self._rewritten(unit)
                if isinstance(outcome, Refusal):
                    return self._refuse(done, outcome)
                done.append(outcome)
        if self._splitter.held > self._limits.line:
            return self._refuse(done, Refusal(self._too_large, LINE_KEY))
        if not self._count() and not last:
            return self._refuse(done, Refusal(self._too_large, HELD_KEY))
        return self._events(done, last=last)

    def _go_as_they_are(self, units: list[bytes]) -> bool:
        """Whether many units can go on, for certain, and by one look at all of them.

        A piece of 64 KiB may have tens of thousands, each of which takes some microseconds by itself, with
        nobody else served meanwhile.
        """
        if len(units) < _FEWEST or len(max(units, key=len)) > self._limits.line:
            return False
        return self._pass_by(b"".join(units))

    def _pass_by(self, block: bytes) -> bool:
        raise NotImplementedError

    def _rewritten(self, unit: bytes) -> bytes | Refusal:
        raise NotImplementedError

    def _broken_off(self) -> Refusal:
        raise NotImplementedError

    def _events(self, units: list[bytes], *, last: bool = False) -> list[Event]:
        data = b"".join(units)
        events: list[Event] = []
        if self._head is not None and (data or last):
            events.append(self._head)
            self._head = None
        if data or last:
            events.append(Body(data, more=not last))
        return events

    def _refuse(self, done: list[bytes], refusal: Refusal) -> Iterable[Event]:
        """What was good before goes on where the head has: else there is time for a problem in its place."""
        events = [] if self._head is not None else self._events(done)
        self._end()
        return (*events, refusal)

    def _count(self) -> bool:
        """Count what is held; whether the process is within its limit."""
        held = self._splitter.held
        grown, self._counted = held - self._counted, held
        if grown > 0:
            return self._limits.held.take(grown)
        self._limits.held.give_back(-grown)
        return True

    def _end(self) -> None:
        self._ended = True
        self._limits.held.give_back(self._counted)
        self._counted = 0


class RequestStream(_Stream):
    """A request that is a stream: its records are opened or sealed for the app, one by one."""

    __slots__ = ("_exchange", "_lacking", "_marked", "_may_be_none", "_tags")

    def __init__(
        self, exchange: Exchange, marked: Marked, limits: Limits, kind: RecordKind, tags: EntityTags
    ) -> None:
        super().__init__(exchange, limits, kind, too_large="payload_too_large")
        self._exchange = exchange
        self._marked = marked
        self._tags = tags
        self._lacking = marked.missing(())
        """Why the stream may not end yet: something is required, and no record was there."""
        self._may_be_none = False
        """Whether nothing is required of it if there is nothing of it."""
        exchange.streaming = True
        exchange.opened.limit = REMEMBERED

    def start(self, head: RequestHead | ResponseHead) -> Iterable[Event]:
        """Takes the head; it goes on with the first record."""
        headers = for_readable_answer(self._tags.inward(head.headers))
        headers = without_length(without_digests(headers))
        if isinstance(head, RequestHead) and head.http_version.startswith("1."):
            # RFC 9112 §6: by one of two headers an app knows that there is a body.
            headers = (*headers, (b"transfer-encoding", b"chunked"))
        self._head = Head(replace(head, headers=headers))
        self._may_be_none = isinstance(head, RequestHead) and head.method in WITHOUT_CONTENT
        return ()

    def _let_go(self, units: Iterable[bytes], *, last: bool = False) -> Iterable[Event]:
        units = tuple(units)
        if self._lacking is not None:
            self._may_be_none = self._may_be_none and not units
            if has_text(b"".join(units)):
                self._lacking = None
            elif last and not self._may_be_none:
                return self._refuse([], self._lacking)
        return super()._let_go(units, last=last)

    def _pass_by(self, block: bytes) -> bool:
        if self._marked.required and has_text(block):
            return False
        return passes_by(block, self._kind, self._marked.locator)

    def _rewritten(self, unit: bytes) -> bytes | Refusal:
        self._exchange.renew()
        work = self._work.on_request
        outcome = rewrite(unit, self._marked, work, "payload_malformed", self._media_type)
        return outcome.body if isinstance(outcome, Rewritten) else outcome

    def _broken_off(self) -> Refusal:
        return Refusal("payload_malformed")


class ResponseStream(_Stream):
    """A response that is a stream: its records are sealed or opened for the caller, one by one.

    Whatever the marks, nothing that was opened for the app leaves outside of them.
    """

    __slots__ = ("_exchange", "_guard", "_marked", "_private", "_trailers", "_withheld")

    def __init__(
        self, exchange: Exchange, marked: Marked | None, limits: Limits, kind: RecordKind, *, private: bool
    ) -> None:
        """`marked` is None where only the leak guard holds; `private` keeps it out of shared caches."""
        super().__init__(exchange, limits, kind, too_large="seal_failed")
        self._exchange = exchange
        self._marked = marked
        self._private = private
        self._guard = LeakGuard.over(exchange.opened)
        self._withheld = b""
        self._trailers: Headers | None = None

    def start(self, head: RequestHead | ResponseHead) -> Iterable[Event]:
        """Takes the head, which has been looked at; it goes on with the first record."""
        # What tags a stream, or digests it, says of what was opened what no reader of a stream asks for.
        headers = without_digests(without_length(without_headers(head.headers, b"etag")))
        if self._marked is not None:
            headers = without_parts(headers)
            if self._private:
                headers = for_one_caller(headers)
        self._head = Head(replace(head, headers=headers))
        return ()

    def _pass_by(self, block: bytes) -> bool:
        if self._withheld or self._guard.heeds_edges:
            return False
        locator = None if self._marked is None else self._marked.locator
        # Whose unit holds what would leak is asked again, and then those before it go on.
        return passes_by(block, self._kind, locator) and self._guard.found_in_next((block,)) is None

    def _rewritten(self, unit: bytes) -> bytes | Refusal:
        self._exchange.renew()
        outcome = self._sealed(unit)
        if isinstance(outcome, Refusal):
            return outcome
        if (leaked := self._leaked(unit, outcome)) is not None:
            return Refusal("seal_failed", f"fields.{leaked}.leak_guard")
        rewritten, self._withheld = self._withheld + outcome.body, b""
        if self._guard.may_have_begun:
            # A value of several lines, and the first of them: it goes with the next unit, or not at all.
            rewritten, self._withheld = b"", rewritten
            if len(self._withheld) > self._limits.line:
                return Refusal("seal_failed", LINE_KEY)
        return rewritten

    def _sealed(self, unit: bytes) -> Rewritten | Refusal:
        if self._marked is None:
            return Rewritten(unit)
        return rewrite(unit, self._marked, self._work.on_response, "seal_failed", self._media_type)

    def _leaked(self, unit: bytes, outcome: Rewritten) -> str | None:
        found = self._guard.found_in_next(unmarked(unit, outcome.hits))
        if found is None and self._kind == "events" and unit.count(b"data") > 1 and not outcome.hits:
            found = self._guard.found_in_body(data_of_events(unit))
        return found

    def _events(self, units: list[bytes], *, last: bool = False) -> list[Event]:
        if last:
            units, self._withheld = [*units, self._withheld], b""
        return super()._events(units, last=last)

    def trail(self, trailers: Headers) -> None:
        """Takes the trailers, which come behind the last record."""
        self._trailers = (self._trailers or ()) + trailers

    def finish(self, complete: bool) -> Iterable[Event]:
        """Lets the rest go, or says that the response broke off."""
        ended, trailers = self._ended, self._trailers
        leaked = None if ended or trailers is None else self._guard.found_in_headers(trailers)
        if leaked is not None:
            return self._refuse([], Refusal("seal_failed", f"fields.{leaked}.leak_guard"))
        events = tuple(super().finish(complete))
        if ended or trailers is None or not events or isinstance(events[-1], Refusal):
            return events
        return (*events, Trailers(without_digests(without_headers(trailers, b"etag"))))

    def _broken_off(self) -> Refusal:
        return Refusal("internal_error")


class _ByKind:
    """The flow of a message that is held where it must be, and streams where its records can."""

    __slots__ = ("_exchange", "_flow", "_limits")

    passive = False

    def __init__(self, exchange: Exchange, whole: Flow, limits: Limits) -> None:
        self._flow = whole
        self._exchange = exchange
        self._limits = limits

    @property
    def load(self) -> int:
        """Bytes that `finish` may go through."""
        return self._flow.load

    @property
    def report(self) -> Report:
        """What was done so far."""
        return self._flow.report

    def feed(self, chunk: bytes) -> Iterable[Event]:
        """Takes a piece of the body."""
        return self._flow.feed(chunk)

    def finish(self, complete: bool) -> Iterable[Event]:
        """Takes the end of the message, or the news that it broke off."""
        return self._flow.finish(complete)

    def trail(self, trailers: Headers) -> None:
        """Takes the trailers."""
        self._flow.trail(trailers)

    def _start_stream(self, stream: Flow, head: RequestHead | ResponseHead) -> Iterable[Event]:
        """Takes the head of a stream. What is wrong with the head of a body is wrong with a stream's."""
        # A stream has no length that matters; that it is no empty one does.
        wrong = tuple(self._flow.start(replace(head, headers=with_length(head.headers, 1))))
        if wrong:
            return wrong
        self._flow = stream
        return stream.start(head)


class RequestByKind(_ByKind):
    """A request that streams where its records can: lines and sequences."""

    __slots__ = ("_marked", "_tags")

    def __init__(
        self, exchange: Exchange, whole: Flow, marked: Marked, limits: Limits, tags: EntityTags
    ) -> None:
        """`whole` is the flow of one that must be held."""
        super().__init__(exchange, whole, limits)
        self._marked = marked
        self._tags = tags

    def start(self, head: RequestHead | ResponseHead) -> Iterable[Event]:
        """Takes the head, which says which it is. A digest can only be held to a whole body."""
        kind = _kind_of(head.headers)
        has_digest = any(name in _DIGESTS for name, _ in head.headers)
        if kind not in ("lines", "sequence") or has_digest or not _has_body(head.headers):
            return self._flow.start(head)
        stream = RequestStream(self._exchange, self._marked, self._limits, kind, self._tags)
        return self._start_stream(stream, head)


class ResponseByKind(_ByKind):
    """A response that streams where its records can: lines, sequences and events."""

    __slots__ = ("_marked", "_method", "_private")

    def __init__(
        self,
        exchange: Exchange,
        method: str,
        whole: Flow,
        marked: Marked | None,
        limits: Limits,
        *,
        private: bool,
    ) -> None:
        """`whole` is the flow of one that must be held."""
        super().__init__(exchange, whole, limits)
        self._method = method
        self._marked = marked
        self._private = private

    def start(self, head: RequestHead | ResponseHead) -> Iterable[Event]:
        """Takes the head, which says which it is."""
        kind = _kind_of(head.headers)
        if kind is None or not isinstance(head, ResponseHead) or self._is_bodiless(head):
            return self._flow.start(head)
        stream = ResponseStream(self._exchange, self._marked, self._limits, kind, private=self._private)
        return self._start_stream(stream, head)

    def _is_bodiless(self, head: ResponseHead) -> bool:
        return self._method == "HEAD" or head.status < 200 or head.status in _BODILESS


def _has_body(headers: Headers) -> bool:
    """Whether there is one, as far as its length can be read; what cannot be is a body's to refuse."""
    try:
        return declared_length(headers) != 0
    except AmbiguousHeader:
        return False


def _kind_of(headers: Headers) -> RecordKind | None:
    """The kind of a stream under no coding, which must be undone for a whole body; None for anything else."""
    try:
        kind = media_type_of(headers).kind
    except AmbiguousHeader:
        return None
    return None if codings_of(headers) else _KINDS.get(kind)
