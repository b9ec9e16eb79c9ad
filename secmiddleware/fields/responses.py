"""The flow of a response that may not leave as it is: held, head and body, until its body decides."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Final

from secmiddleware.fields.bodies import WHOLE_KINDS, Marked, Rewritten, rewrite, unmarked
from secmiddleware.fields.heads import (
    AmbiguousHeader,
    body_from_elsewhere,
    codings_of,
    declared_length,
    for_one_caller,
    with_length,
    without_content,
    without_digests,
    without_length,
    without_validators,
)
from secmiddleware.fields.holding import BODY_KEY, Holding
from secmiddleware.fields.leaks import LeakGuard
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

_BODILESS: Final = frozenset({204, 205, 304})
"""Besides 1xx: statuses whose responses have no content (RFC 9110 §15.3.5, §15.3.6, §15.4.5)."""
_REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})


class ResponseFlow(Holding):
    """A response that may not leave as it is: its head is held until its body decides.

    With marks, their values are sealed or opened; and whatever the marks, nothing that was opened for the app
    leaves outside of them. Where that cannot be told, the response is refused and none of it was sent.
    """

    __slots__ = ("_bodiless", "_guard", "_head", "_marked", "_method", "_private", "_work")

    def __init__(
        self, exchange: Exchange, method: str, marked: Marked | None, limits: Limits, *, private: bool
    ) -> None:
        """`marked` is None where only the leak guard holds; `private` keeps it out of shared caches."""
        super().__init__(limits)
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
        body = self._whole()
        headers = head.headers
        if self._marked is not None:
            headers = without_validators(headers)
            if self._private:
                headers = for_one_caller(headers)
        if self._bodiless:
            return _go(head, self._without_body(headers, head.status), body)
        if not body:
            return _go(head, headers, body)
        coded = bool(codings_of(headers))
        try:
            media_type = media_type_of(headers)
        except AmbiguousHeader as ambiguous:
            return (Refusal("seal_failed", str(ambiguous)),)
        if coded or (media_type.kind not in WHOLE_KINDS and self._marked is not None):
            if self._is_for_nobody(headers):
                return _go(head, without_content(headers), b"")
            return (Refusal("seal_failed", "content-encoding" if coded else "content-type"),)
        rewritten = Rewritten(body)
        if self._marked is not None:
            result = rewrite(body, self._marked, self._work.on_response, "seal_failed", media_type)
            if isinstance(result, Refusal):
                return (result,)
            rewritten = result
            if rewritten.body is not body:
                headers = without_digests(headers)
            headers = with_length(headers, len(rewritten.body))
        if (leaked := self._guard.found_in_body(unmarked(body, rewritten.hits))) is not None:
            return (_leak(leaked),)
        return _go(head, headers, rewritten.body)

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


def _go(head: ResponseHead, headers: Headers, body: bytes) -> Iterable[Event]:
    return Head(head if headers is head.headers else replace(head, headers=headers)), Body(body)


def _leak(field: str) -> Refusal:
    return Refusal("seal_failed", f"fields.{field}.leak_guard")
