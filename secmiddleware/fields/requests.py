"""The flow of a request with marks: held until it is whole, then its values are opened or sealed."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Final

from secmiddleware.fields.bodies import JSON, WHOLE_KINDS, Marked, rewrite
from secmiddleware.fields.codings import (
    DecodedTooLarge,
    Undecodable,
    UnknownCoding,
    coders_of,
    decoded,
)
from secmiddleware.fields.digests import DigestMismatch, verify_digests, with_digests_of
from secmiddleware.fields.entity_tags import EntityTags
from secmiddleware.fields.heads import (
    AmbiguousHeader,
    codings_of,
    declared_length,
    for_readable_answer,
    with_length,
    without_codings,
)
from secmiddleware.fields.holding import BODY_KEY, Holding
from secmiddleware.fields.leaks import LeakGuard
from secmiddleware.fields.limits import Limits
from secmiddleware.fields.media_types import media_type_of
from secmiddleware.fields.records import has_text
from secmiddleware.fields.values import Exchange, Report, ValueWork
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

WITHOUT_CONTENT: Final = frozenset({"GET", "HEAD", "DELETE", "OPTIONS", "TRACE", "CONNECT"})
"""Methods for whose requests content means nothing (RFC 9110 §9.3): of them none is required."""


class RequestFlow(Holding):
    """A request with marks: held until it is whole, then its values are opened or sealed for the app."""

    __slots__ = ("_declared", "_exchange", "_head", "_judged", "_marked", "_media_type", "_tags", "_work")

    def __init__(self, exchange: Exchange, marked: Marked, limits: Limits, tags: EntityTags) -> None:
        super().__init__(limits)
        self._marked = marked
        self._tags = tags
        self._exchange = exchange
        self._work = ValueWork(exchange)
        self._head: RequestHead | ResponseHead | None = None
        self._declared: int | None = None
        self._judged = False
        self._media_type = JSON

    @property
    def load(self) -> int:
        """Bytes that `finish` may go through: the body without its codings."""
        return 0 if self._head is None else self._load_under(self._head.headers)

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
        if self._declared > self._limits.body:
            return self._refuse(Refusal("payload_too_large", BODY_KEY))
        return self._judge_kind(head.headers)

    def feed(self, chunk: bytes) -> Iterable[Event]:
        """Holds the piece."""
        if self._ended or self._head is None or not chunk:
            return ()
        if (beyond := self._hold(chunk)) is not None:
            return self._refuse(Refusal("payload_too_large", beyond))
        return self._judge_kind(self._head.headers)

    def finish(self, complete: bool) -> Iterable[Event]:
        """Lets the rewritten request go, or refuses it."""
        if self._ended or self._head is None:
            return ()
        if not complete or self._declared not in (None, self.held):
            return self._refuse(Refusal("payload_malformed"))
        try:
            return self._finished(self._head)
        finally:
            self._drop()

    def _finished(self, head: RequestHead | ResponseHead) -> Iterable[Event]:
        came = self._whole()
        try:
            verify_digests(head.headers, came)
        except DigestMismatch as mismatch:
            return (Refusal("payload_malformed", str(mismatch)),)
        body = self._without_codings(came, head.headers)
        if isinstance(body, Refusal):
            return (body,)
        if (missing := self._missing(head, body)) is not None:
            return (missing,)
        rewritten = rewrite(body, self._marked, self._work.on_request, "payload_malformed", self._media_type)
        if isinstance(rewritten, Refusal):
            return (rewritten,)
        # Here, where the work on a large body is done: the response begins on the loop.
        LeakGuard.over(self._exchange.opened).prepare()
        headers = self._headers_for_app(head.headers)
        if rewritten.body is not came:
            headers = with_digests_of(without_codings(headers), rewritten.body)
        if not came and self._declared is None and not header_values(headers, b"transfer-encoding"):
            return _go(head, headers, came)
        return _go(head, with_length(headers, len(rewritten.body)), rewritten.body)

    def _missing(self, head: RequestHead | ResponseHead, body: bytes) -> Refusal | None:
        """Why a request without a body, or with rows of nothing, may not go on."""
        if not body and isinstance(head, RequestHead) and head.method in WITHOUT_CONTENT:
            return None
        is_rows = self._media_type.kind in ("lines", "sequence")
        return self._marked.missing(()) if not body or (is_rows and not has_text(body)) else None

    def _without_codings(self, body: bytes, headers: Headers) -> bytes | Refusal:
        """The body as it is to be read; of none, nothing is asked. The same object under no coding."""
        codings = codings_of(headers)
        if not codings or not body:
            return body
        try:
            plain = decoded(body, codings, self._limits)
        except UnknownCoding:
            return Refusal("payload_encoding")
        except Undecodable:
            return Refusal("payload_malformed", "content-encoding")
        except DecodedTooLarge as too_large:
            return Refusal("payload_too_large", str(too_large))
        beyond = self._hold_too(len(plain))
        return plain if beyond is None else Refusal("payload_too_large", beyond)

    def _headers_for_app(self, headers: Headers) -> Headers:
        """The headers as far as they ask for an answer: for one that can be rewritten, or looked through."""
        headers = self._tags.inward(headers)
        if self._tags.beside and not self._exchange.opened:
            return headers
        return for_readable_answer(headers)

    def _judge_kind(self, headers: Headers) -> Iterable[Event]:
        """Refuses a body that could not be read for its marks. An app might read it all the same."""
        if self._judged:
            return ()
        self._judged = True
        try:
            self._media_type = media_type_of(headers)
        except AmbiguousHeader as ambiguous:
            return self._refuse(Refusal("header_ambiguous", str(ambiguous)))
        # RFC 9110 §14.5: whoever takes a part for the whole, as apps do, stores the part.
        if header_values(headers, b"content-range"):
            return self._refuse(Refusal("payload_malformed", "content-range"))
        try:
            coders_of(codings_of(headers))
        except UnknownCoding:
            return self._refuse(Refusal("payload_encoding"))
        return () if self._media_type.kind in WHOLE_KINDS else self._refuse(Refusal("payload_encoding"))


def _go(head: RequestHead | ResponseHead, headers: Headers, body: bytes) -> Iterable[Event]:
    return Head(head if headers is head.headers else replace(head, headers=headers)), Body(body)
