"""The flow of a request with marks: held until it is whole, then its values are opened or sealed."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Final

from secmiddleware.fields.bodies import JSON, WHOLE_KINDS, Marked, rewrite
from secmiddleware.fields.heads import (
    AmbiguousHeader,
    codings_of,
    declared_length,
    for_readable_answer,
    with_length,
    without_conditions,
    without_digests,
)
from secmiddleware.fields.holding import BODY_KEY, Holding
from secmiddleware.fields.limits import Limits
from secmiddleware.fields.media_types import media_type_of
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

_WITHOUT_CONTENT: Final = frozenset({"GET", "HEAD", "DELETE", "OPTIONS", "TRACE", "CONNECT"})
"""Methods for whose requests content means nothing (RFC 9110 §9.3): of them none is required."""


class RequestFlow(Holding):
    """A request with marks: held until it is whole, then its values are opened or sealed for the app."""

    __slots__ = (
        "_declared",
        "_exchange",
        "_head",
        "_judged",
        "_marked",
        "_media_type",
        "_response_marked",
        "_work",
    )

    def __init__(self, exchange: Exchange, marked: Marked, limits: Limits, *, response_marked: bool) -> None:
        super().__init__(limits)
        self._marked = marked
        self._response_marked = response_marked
        self._exchange = exchange
        self._work = ValueWork(exchange)
        self._head: RequestHead | ResponseHead | None = None
        self._declared: int | None = None
        self._judged = False
        self._media_type = JSON

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
        body = self._whole()
        headers = head.headers
        if not body and (missing := self._missing(head)) is not None:
            return (missing,)
        if self._response_marked:
            headers = without_conditions(headers)
        rewritten = rewrite(body, self._marked, self._work.on_request, "payload_malformed", self._media_type)
        if isinstance(rewritten, Refusal):
            return (rewritten,)
        if self._response_marked or self._exchange.opened:
            headers = for_readable_answer(headers)
        if rewritten.body is not body:
            headers = without_digests(headers)
        if not body and self._declared is None and not header_values(headers, b"transfer-encoding"):
            return _go(head, headers, body)
        return _go(head, with_length(headers, len(rewritten.body)), rewritten.body)

    def _missing(self, head: RequestHead | ResponseHead) -> Refusal | None:
        """Why a request without a body may not go on."""
        if isinstance(head, RequestHead) and head.method in _WITHOUT_CONTENT:
            return None
        return self._marked.missing(())

    def _judge_kind(self, headers: Headers) -> Iterable[Event]:
        """Refuses a body that could not be read for its marks. An app might read it all the same."""
        if self._judged:
            return ()
        self._judged = True
        try:
            self._media_type = media_type_of(headers)
        except AmbiguousHeader as ambiguous:
            return self._refuse(Refusal("header_ambiguous", str(ambiguous)))
        readable = self._media_type.kind in WHOLE_KINDS and not codings_of(headers)
        return () if readable else self._refuse(Refusal("payload_encoding"))


def _go(head: RequestHead | ResponseHead, headers: Headers, body: bytes) -> Iterable[Event]:
    return Head(head if headers is head.headers else replace(head, headers=headers)), Body(body)
