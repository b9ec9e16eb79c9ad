"""Django's responses as data for a flow, and made into what comes out of it."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Iterator
from contextlib import aclosing
from typing import Any

from asgiref.sync import async_to_sync, sync_to_async
from django.http import HttpResponse
from django.http.response import HttpResponseBase

from secmiddleware.errors import BrokenOffError
from secmiddleware.fields.flows import Flow
from secmiddleware.messages import Body, Event, Head, Refusal, ResponseHead, header_values
from secmiddleware.telemetry.observer import Observation


class Download:
    """Drives the response flow with a Django response, and makes the response what the flow lets through."""

    def __init__(
        self, flow: Flow, response: HttpResponseBase, observation: Observation, *, under_asgi: bool
    ) -> None:
        self._flow = flow
        self._response = response
        self._observation = observation
        self._under_asgi = under_asgi
        self._events: list[Event] = []
        self._pieces: Any = None
        """What a streamed response still has to give; `streaming_content` is another iterator each time."""
        self.broken_by: Refusal | None = None
        """Why a stream whose head had gone did not go on."""

    @property
    def streams(self) -> bool:
        """Whether the flow has let the head of a streamed response go before its end."""
        return self._pieces is not None and any(isinstance(event, Head) for event in self._events)

    @property
    def load(self) -> int:
        """Bytes that `finish` may go through."""
        return self._flow.load

    @property
    def refusal(self) -> Refusal | None:
        """Why the response does not leave, as far as it is known."""
        return next((event for event in self._events if isinstance(event, Refusal)), None)

    def feed(self) -> None:
        """Give the flow the response's head and its body. Raises what a streamed body raises."""
        response = self._response
        if self._begin():
            return
        if not response.streaming:
            self._events += self._flow.feed(response.content)
        elif response.is_async:
            async_to_sync(self._feed_async_stream)()
        else:
            self._feed_stream()

    async def afeed(self) -> None:
        """As `feed`, on the loop; a body that has to be waited for in a thread is."""
        response = self._response
        if self._begin():
            return
        if not response.streaming:
            self._events += self._flow.feed(response.content)
        elif response.is_async:
            await self._feed_async_stream()
        else:
            await sync_to_async(self._feed_stream)()

    def finish(self) -> None:
        """Have the flow decide, and the response be as it says."""
        if self.refusal is not None:
            return
        if self.streams:
            self._apply()
            return
        start_ns = time.time_ns()
        self._events += self._flow.finish(complete=True)
        self._observation.stage("response", start_ns, time.time_ns(), self._flow.report)
        if self.refusal is None:
            self._apply()

    def _begin(self) -> bool:
        """Whether there is no need of a body."""
        self._events += self._flow.start(head_of(self._response))
        return self.refusal is not None or self._observation.head.method == "HEAD"

    def _feed_stream(self) -> None:
        self._pieces = iter(self._response.streaming_content)
        for piece in self._pieces:
            self._events += self._flow.feed(piece)
            if self._decided:
                return
        self._pieces = None

    async def _feed_async_stream(self) -> None:
        pieces = self._pieces = self._response.streaming_content
        try:
            async for piece in pieces:
                self._events += self._flow.feed(piece)
                if self._decided:
                    return
            self._pieces = None
        finally:
            if not self.streams:
                await pieces.aclose()

    @property
    def _decided(self) -> bool:
        return self.refusal is not None or self.streams

    def _rest(self) -> Iterator[bytes]:
        """A stream as it goes on, piece by piece as the app gives it."""
        try:
            yield from self._let_go(self._events)
            for piece in self._pieces:
                yield from self._let_go(self._flow.feed(piece))
            yield from self._let_go(self._flow.finish(complete=True))
        finally:
            self._end()

    async def _arest(self) -> AsyncIterator[bytes]:
        """The same, where the app's stream is async."""
        try:
            for data in self._let_go(self._events):
                yield data
            async for piece in self._pieces:
                for data in self._let_go(self._flow.feed(piece)):
                    yield data
            for data in self._let_go(self._flow.finish(complete=True)):
                yield data
        finally:
            self._end()
            await self._pieces.aclose()

    def _let_go(self, events: Iterable[Event]) -> Iterator[bytes]:
        for event in events:
            match event:
                case Body(data) if data:
                    yield data
                case Refusal():
                    self.broken_by = event
                    raise BrokenOffError(f"the response was broken off: {event.code}")

    def _end(self) -> None:
        """Tell what was done to a stream. Where it has not come to its end nothing more goes on."""
        start_ns = time.time_ns()
        self._flow.finish(complete=False)
        self._observation.stage("response", start_ns, time.time_ns(), self._flow.report)

    def _apply(self) -> None:
        response, before = self._response, head_of(self._response)
        (head,) = (event.head for event in self._events if isinstance(event, Head))
        body = b"".join(event.data for event in self._events if isinstance(event, Body))
        _put_headers(response, before, head.headers)
        _put_cookies(response, before, head.headers)
        response.reason_phrase = None  # free text, which no flow has looked at
        if not response.streaming:
            response.content = body
        elif self.streams:
            response.streaming_content = self._arest() if response.is_async else self._rest()
        else:
            # The setter of a FileResponse also forgets the file, which the server would send in our place.
            response.streaming_content = _async_stream(body) if self._under_asgi else _stream(body)


def head_of(response: HttpResponseBase) -> ResponseHead:
    """Status and headers of a response, its cookies among them; names in lower case."""
    headers = [(name.lower(), value) for name, value in response.items()]
    headers += [("set-cookie", cookie.OutputString()) for cookie in response.cookies.values()]
    return ResponseHead(
        response.status_code,
        tuple((name.encode("latin-1"), value.encode("latin-1")) for name, value in headers),
    )


def problem_of(refusal: Refusal, trace_id: str, *, bodiless: bool) -> HttpResponse:
    """The problem as a response."""
    head, body = refusal.problem(trace_id)
    headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in head.headers}
    return HttpResponse(b"" if bodiless else body, status=head.status, headers=headers)


def watched(
    response: HttpResponseBase, on_error: Callable[[Exception], None]
) -> Iterator[bytes] | AsyncIterator[bytes]:
    """The stream of a response, piece by piece as it comes; `on_error` hears what ends it before its end."""
    pieces = response.streaming_content
    return _awatched(pieces, on_error) if response.is_async else _watched(pieces, on_error)


def _watched(pieces: Iterable[bytes], on_error: Callable[[Exception], None]) -> Iterator[bytes]:
    try:
        yield from pieces
    except Exception as raised:
        on_error(raised)
        raise


async def _awatched(
    pieces: AsyncGenerator[bytes, None], on_error: Callable[[Exception], None]
) -> AsyncIterator[bytes]:
    try:
        async with aclosing(pieces):
            async for piece in pieces:
                yield piece
    except Exception as raised:
        on_error(raised)
        raise


def _put_headers(
    response: HttpResponseBase, before: ResponseHead, after: Iterable[tuple[bytes, bytes]]
) -> None:
    """Only what differs is touched: the other names keep their letters. Cookies stand elsewhere."""
    wanted: dict[bytes, bytes] = {}
    for name, value in after:
        # Django has one value of each name, which may be a list (RFC 9110 §5.3).
        wanted[name] = wanted[name] + b", " + value if name in wanted else value
    for name, value in before.headers:
        if name == b"set-cookie":
            continue
        if name not in wanted:
            del response.headers[name.decode("latin-1")]
        elif wanted[name] == value:
            del wanted[name]
    for name, value in wanted.items():
        if name != b"set-cookie":
            response.headers[name.decode("latin-1")] = value.decode("latin-1")


def _put_cookies(
    response: HttpResponseBase, before: ResponseHead, after: Iterable[tuple[bytes, bytes]]
) -> None:
    """Values change, attributes never do; an app may also have written a cookie as a plain header."""
    came, wanted = header_values(before.headers, b"set-cookie"), header_values(tuple(after), b"set-cookie")
    as_header = "Set-Cookie" in response.headers
    for index, (old, new) in enumerate(zip(came, wanted, strict=True)):
        if new == old:
            continue
        if as_header and index == 0:  # as head_of has them
            response.headers["Set-Cookie"] = new.decode("latin-1")
        else:
            name, _, value = new.partition(b";")[0].decode("ascii").partition("=")
            response.cookies[name].set(name, value, value)


def _stream(body: bytes) -> Iterator[bytes]:
    if body:
        yield body


async def _async_stream(body: bytes) -> AsyncIterator[bytes]:
    if body:
        yield body
