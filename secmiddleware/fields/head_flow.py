"""The flow of a message with marks in its head: the head is rewritten at once, the body is another's."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from secmiddleware.fields.flows import Flow
from secmiddleware.fields.head_values import MarkedHead
from secmiddleware.fields.heads import for_one_caller, for_readable_answer
from secmiddleware.fields.values import Exchange, Report, ValueWork
from secmiddleware.messages import (
    SWITCHING_PROTOCOLS,
    Event,
    Headers,
    Refusal,
    RequestHead,
    ResponseHead,
    Trailers,
)


class HeadFlow:
    """Opens or seals what is marked in the head, and has `body` do the rest."""

    __slots__ = ("_body", "_exchange", "_marked", "_private", "_refused", "_trailers", "_work")

    passive = False

    def __init__(self, exchange: Exchange, marked: MarkedHead, body: Flow, *, private: bool = False) -> None:
        """`private` keeps a response out of shared caches."""
        self._body = body
        self._exchange = exchange
        self._marked = marked
        self._private = private
        self._refused = False
        self._work = ValueWork(exchange)
        self._trailers: Headers | None = None

    @property
    def load(self) -> int:
        """Bytes that `finish` may go through."""
        return self._body.load

    @property
    def report(self) -> Report:
        """What was done so far, in head and body."""
        head, body = self._work.report, self._body.report
        return Report(head.opened + body.opened, head.sealed + body.sealed, head.kids | body.kids)

    def start(self, head: RequestHead | ResponseHead) -> Iterable[Event]:
        """Takes the head; refuses it where a marked value does not open or cannot be sealed."""
        rewritten = self._rewritten(head)
        if isinstance(rewritten, Refusal):
            self._refused = True
            return (rewritten,)
        return self._body.start(rewritten)

    def feed(self, chunk: bytes) -> Iterable[Event]:
        """Takes a piece of the body."""
        return () if self._refused else self._body.feed(chunk)

    def trail(self, trailers: Headers) -> None:
        """Takes trailers: what is marked in the head is marked there, and where it cannot be, none leave."""
        rewritten = self._marked.rewrite_response(ResponseHead(200, trailers), self._work.on_response)
        kept = () if isinstance(rewritten, Refusal) else rewritten.headers
        if self._body.passive:
            self._trailers = (self._trailers or ()) + kept
        else:
            self._body.trail(kept)

    def finish(self, complete: bool) -> Iterable[Event]:
        """Takes the end of the message, or the news that it broke off."""
        if self._refused:
            return ()
        events = self._body.finish(complete)
        if self._trailers is None or not complete:
            return events
        return (*events, Trailers(self._trailers))

    def _rewritten(self, head: RequestHead | ResponseHead) -> RequestHead | ResponseHead | Refusal:
        if isinstance(head, ResponseHead):
            response = self._marked.rewrite_response(head, self._work.on_response)
            if self._private and head.status != SWITCHING_PROTOCOLS and not isinstance(response, Refusal):
                return replace(response, headers=for_one_caller(response.headers))
            return response
        request = self._marked.rewrite_request(head, self._work.on_request)
        if self._exchange.opened and not isinstance(request, Refusal):
            return replace(request, headers=for_readable_answer(request.headers))
        return request
