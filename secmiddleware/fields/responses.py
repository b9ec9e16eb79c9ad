"""The flow of a response that may not leave as it is: held, head and body, until its body decides."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Final

from secmiddleware.fields.bodies import WHOLE_KINDS, Marked, Rewritten, rewrite, unmarked
from secmiddleware.fields.codings import (
    DecodedTooLarge,
    Undecodable,
    UnknownCoding,
    admits,
    decoded,
    encoded,
)
from secmiddleware.fields.digests import with_digests_of, without_digests
from secmiddleware.fields.entity_tags import EntityTags
from secmiddleware.fields.heads import (
    AmbiguousHeader,
    body_from_elsewhere,
    codings_of,
    declared_length,
    for_one_caller,
    that_vary_by_coding,
    with_length,
    without_codings,
    without_content,
    without_length,
    without_parts,
)
from secmiddleware.fields.holding import BODY_KEY, Holding
from secmiddleware.fields.leaks import LeakGuard
from secmiddleware.fields.limits import Limits
from secmiddleware.fields.media_types import media_type_of
from secmiddleware.fields.values import Exchange, Report, ValueWork
from secmiddleware.messages import (
    SWITCHING_PROTOCOLS,
    Body,
    Event,
    Head,
    Headers,
    Refusal,
    RequestHead,
    ResponseHead,
    Trailers,
    header_values,
)

_BODILESS: Final = frozenset({204, 205, 304})
"""Besides 1xx: statuses whose responses have no content (RFC 9110 §15.3.5, §15.3.6, §15.4.5)."""
_REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})


class ResponseFlow(Holding):
    """A response that may not leave as it is: its head is held until its body decides.

    With marks, their values are sealed or opened; and whatever the marks, nothing that was opened for the app
    leaves outside of them. Where that cannot be told, the response is refused and none of it was sent.
    """

    __slots__ = (
        "_accepted",
        "_bodiless",
        "_guard",
        "_head",
        "_marked",
        "_method",
        "_private",
        "_tags",
        "_trailers",
        "_varies",
        "_work",
    )

    def __init__(
        self,
        exchange: Exchange,
        method: str,
        marked: Marked | None,
        limits: Limits,
        tags: EntityTags,
        *,
        private: bool,
        varies: bool,
    ) -> None:
        """`marked` is None where only the leak guard holds.

        `private` keeps it out of shared caches; `varies` says that equal responses of the app's are not equal
        when they leave.
        """
        super().__init__(limits)
        self._method = method
        self._marked = marked
        self._private = private
        self._varies = varies
        self._tags = tags
        # What the caller asked for: the app was asked for a body under no coding.
        came = () if exchange.head is None else exchange.head.headers
        self._accepted = header_values(came, b"accept-encoding")
        self._trailers: Headers | None = None
        self._work = ValueWork(exchange)
        self._guard = LeakGuard.over(exchange.opened)
        self._head: ResponseHead | None = None
        self._bodiless = False

    @property
    def load(self) -> int:
        """Bytes that `finish` may go through: the body without its codings."""
        return 0 if self._head is None else self._load_under(self._head.headers)

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
            too_large = (declared_length(head.headers) or 0) > self._limits.body
        except AmbiguousHeader as ambiguous:
            return self._refuse(Refusal("seal_failed", str(ambiguous)))
        return self._refuse(Refusal("seal_failed", BODY_KEY)) if too_large else ()

    def feed(self, chunk: bytes) -> Iterable[Event]:
        """Holds the piece."""
        if self._ended or self._head is None or self._bodiless or not chunk:
            return ()
        beyond = self._hold(chunk)
        return () if beyond is None else self._refuse(Refusal("seal_failed", beyond))

    def trail(self, trailers: Headers) -> None:
        """Takes the trailers, which come behind the body and before the end."""
        self._trailers = (self._trailers or ()) + trailers

    def finish(self, complete: bool) -> Iterable[Event]:
        """Lets the rewritten response go, or refuses it."""
        if self._ended:
            return ()
        if not complete or self._head is None:
            return self._refuse(Refusal("internal_error"))
        try:
            return self._finished(self._head)
        finally:
            self._drop()

    def _finished(self, head: ResponseHead) -> Iterable[Event]:
        trailers = self._trailers
        if trailers is not None:
            if (leaked := self._guard.found_in_headers(trailers)) is not None:
                return (_leak(leaked),)
            if self._marked is not None:
                trailers = without_digests(trailers)
            trailers = self._with_tag(head, trailers)
        events = self._judged(head, self._whole())
        if trailers is None or isinstance(events[0], Refusal):
            return events
        return (*events, Trailers(trailers))

    def _judged(self, head: ResponseHead, body: bytes) -> tuple[Event, ...]:
        headers = self._with_tag(head, head.headers)
        if self._marked is not None:
            headers = without_parts(headers)
            if self._private and head.status != SWITCHING_PROTOCOLS:
                headers = for_one_caller(headers)
        if self._bodiless:
            return _go(head, self._without_body(headers, head.status), b"")
        if not body:
            return _go(head, headers, body)
        try:
            media_type = media_type_of(headers)
        except AmbiguousHeader as ambiguous:
            return (Refusal("seal_failed", str(ambiguous)),)
        plain = self._without_codings(body, headers)
        if isinstance(plain, Refusal) or (self._marked is not None and media_type.kind not in WHOLE_KINDS):
            if self._is_for_nobody(headers):
                return _go(head, without_content(headers), b"")
            return (plain if isinstance(plain, Refusal) else Refusal("seal_failed", "content-type"),)
        rewritten = Rewritten(plain)
        if self._marked is not None:
            result = rewrite(plain, self._marked, self._work.on_response, "seal_failed", media_type)
            if isinstance(result, Refusal):
                return (result,)
            rewritten = result
        if (leaked := self._guard.found_in_body(unmarked(plain, rewritten.hits))) is not None:
            return (_leak(leaked),)
        if self._marked is None:
            return _go(head, headers, body)
        if rewritten.body is plain:
            return _go(head, with_length(headers, len(body)), body)
        return self._changed(head, headers, rewritten.body)

    def _with_tag(self, head: ResponseHead, headers: Headers) -> Headers:
        """The headers, or trailers, with the entity tag that callers see.

        Where nothing is marked, something was opened: the app's own tag may be a digest of it.
        """
        weak = self._varies or (self._marked is not None and bool(codings_of(head.headers)))
        return self._tags.outward(head, headers, weak=weak)

    def _without_codings(self, body: bytes, headers: Headers) -> bytes | Refusal:
        codings = codings_of(headers)
        if not codings:
            return body
        try:
            plain = decoded(body, codings, self._limits)
        except (UnknownCoding, Undecodable):
            return Refusal("seal_failed", "content-encoding")
        except DecodedTooLarge as too_large:
            return Refusal("seal_failed", str(too_large))
        beyond = self._hold_too(len(plain))
        return plain if beyond is None else Refusal("seal_failed", beyond)

    def _changed(self, head: ResponseHead, headers: Headers, body: bytes) -> tuple[Event, ...]:
        """The response with another body than the app's: under its codings, if the caller takes them."""
        codings = codings_of(headers)
        if codings:
            headers = that_vary_by_coding(headers)
            if admits(self._accepted, codings):
                body = encoded(body, codings)
            else:
                headers = without_codings(headers)
        return _go(head, with_length(with_digests_of(headers, body), len(body)), body)

    def _is_for_nobody(self, headers: Headers) -> bool:
        """Whether clients act on the head alone: frameworks add a page to a redirect, "OK" to a preflight.

        RFC 9110 §15.4: the content of a redirect is a short note; §9.3.7 defines none for OPTIONS.
        """
        redirects = self._head is not None and self._head.status in _REDIRECTS
        return self._method == "OPTIONS" or (redirects and bool(header_values(headers, b"location")))

    def _without_body(self, headers: Headers, status: int) -> Headers:
        headers = without_digests(headers)  # of what the caller cannot see, in any case
        if self._marked is not None:
            headers = without_length(headers)
            if not admits(self._accepted, codings_of(headers)):
                headers = without_codings(headers)
        elif self._method != "HEAD" and status != 304:
            headers = without_length(headers)
        # RFC 9110 §15.3.6: a 205 says that it has no body.
        return with_length(headers, 0) if status == 205 and self._method != "HEAD" else headers


def _go(head: ResponseHead, headers: Headers, body: bytes) -> tuple[Event, ...]:
    return Head(head if headers is head.headers else replace(head, headers=headers)), Body(body)


def _leak(field: str) -> Refusal:
    return Refusal("seal_failed", f"fields.{field}.leak_guard")
