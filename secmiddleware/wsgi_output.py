"""What leaves under WSGI: the app's response, through the response flow, as the server sends it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from http.client import responses
from types import TracebackType
from typing import Final
from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

from secmiddleware.environs import (
    RAISED_KEY,
    method_of,
    route_of,
    without_passages,
)
from secmiddleware.errors import BrokenOffError, SecMiddlewareError
from secmiddleware.fields.flows import Flow
from secmiddleware.messages import Body, Event, Head, Refusal, ResponseHead
from secmiddleware.security import SecurityManager
from secmiddleware.telemetry.observer import ExchangeRecord, Observation
from secmiddleware.wsgi_input import finish

_END: Final = bytes(8)
"""Compared by identity."""

_ExcInfo = tuple[type[BaseException], BaseException, TracebackType] | tuple[None, None, None]


class Exchange:
    """One request: what leaves towards the caller, the refusal where there is one, and the one end of it."""

    __slots__ = (
        *("_ended", "_manager", "_refusal", "_route", "_status"),
        *("environ", "goes_on", "observation", "start_response", "write"),
    )

    def __init__(
        self,
        manager: SecurityManager,
        observation: Observation,
        environ: WSGIEnvironment,
        start_response: StartResponse,
    ) -> None:
        self.observation = observation
        self.environ = environ
        """What the app was given: it may say there which route it chose."""
        self.start_response = start_response
        self.write: Callable[[bytes], object] | None = None
        """The server's, once it has got a head; some adapters from ASGI to WSGI have none to give."""
        self.goes_on = False
        """Whether the exchange outlasts the call: then the end comes with the iterable's."""
        self._manager = manager
        self._status: int | None = None
        self._refusal: Refusal | None = None
        self._route: str | None = None
        self._ended = False

    def look_at_route(self) -> None:
        """See which route the app chose, while it answers: Flask takes it away again when it has."""
        self._route = route_of(self.environ)

    def answer(self, head: ResponseHead, body: bytes, line: str | None = None) -> Iterable[bytes]:
        """A whole response; `line` is its status line where the app's own may leave."""
        self.begin(head, line)
        return [body] if body else []

    def begin(self, head: ResponseHead, line: str | None) -> None:
        """The head of a response."""
        self._status = head.status
        line = line or f"{head.status} {responses.get(head.status, 'Unknown')}"
        headers = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in head.headers]
        self.write = self.start_response(line, headers)

    def break_off(self, refusal: Refusal) -> None:
        """Note why a response that was begun cannot go on."""
        self._refusal = refusal

    def refuse(self, refusal: Refusal) -> Iterable[bytes]:
        """The problem in place of a response."""
        self._refusal = refusal
        head, problem = refusal.problem(self.observation.trace_id or "")
        return self.answer(head, b"" if method_of(self.environ) == "HEAD" else problem)

    def watch(self, app: WSGIApplication) -> Iterable[bytes]:
        """The app's own response, with an eye on its status and on its end."""
        with self.observation.active():
            iterable = app(self.environ, self._watched)
        self.goes_on = True
        return _Watched(iterable, self)

    def _watched(
        self, status: str, headers: list[tuple[str, str]], exc_info: _ExcInfo | None = None, /
    ) -> Callable[[bytes], object]:
        code = status[:3]
        self._status = int(code) if code.isdecimal() else None
        self.look_at_route()
        more = () if exc_info is None else (exc_info,)
        return self.start_response(status, headers, *more)

    def end(self, raised: BaseException | None = None) -> None:
        """Tell how it ended, the first time."""
        if self._ended:
            return
        self._ended = True
        if self._refusal is not None and self._refusal.code == "key_unknown":
            self._manager.look_soon()
        error = self.environ.get(RAISED_KEY)
        if raised is not None:
            error = f"{type(raised).__module__}.{type(raised).__qualname__}"
        self.observation.end(ExchangeRecord(self._status, self._refusal, self._route, error))


class _Leaving(Iterator[bytes]):
    """What the server sends: nothing of the app's is read ahead, and `close` ends the exchange."""

    def __init__(self, iterable: Iterable[bytes], exchange: Exchange) -> None:
        """`iterable` is the app's, to be closed."""
        self._iterable = iterable
        self._exchange = exchange
        self._raised: BaseException | None = None
        self._closed = False

    def close(self) -> None:
        """Close the app's iterable, once."""
        if self._closed:
            return
        self._closed = True
        try:
            with self._exchange.observation.active():
                _close(self._iterable)
        except BaseException as raised:
            self._raised = self._raised or raised
            raise
        finally:
            self._abandon()
            self._exchange.end(self._raised)

    def _abandon(self) -> None:
        """Let go of what the app did not end."""


class _Watched(_Leaving):
    """The app's own pieces, while somebody watches."""

    def __init__(self, iterable: Iterable[bytes], exchange: Exchange) -> None:
        super().__init__(iterable, exchange)
        self._iterator: Iterator[bytes] | None = None

    def __next__(self) -> bytes:
        try:
            with self._exchange.observation.active():
                if self._iterator is None:
                    self._iterator = iter(self._iterable)
                # The end is no exception to whoever watches.
                chunk = next(self._iterator, _END)
        except BaseException as raised:
            self._raised = raised
            raise
        if chunk is _END:
            raise StopIteration
        return chunk


def _close(iterable: object) -> None:
    close = getattr(iterable, "close", None)
    if close is not None:
        close()


class Download:
    """Drives the response flow with what the app gives; nothing of it leaves before the flow lets it go."""

    def __init__(self, flow: Flow, exchange: Exchange, *, keeps_line: bool) -> None:
        self._flow = flow
        self._exchange = exchange
        self._keeps_line = keeps_line
        self._line: str | None = None
        self._head: ResponseHead | None = None
        self._begun = False
        self._answered = False
        """Whether the server has got a head."""
        self._outcome: Refusal | ResponseHead = Refusal("internal_error")
        self._body = b""
        self.streams = False
        """Whether the flow has let the head go before the end."""
        self.ended = False
        self.broken: BrokenOffError | None = None

    def drive(self, app: WSGIApplication, environ: WSGIEnvironment) -> Iterable[bytes]:
        """What the server is to send. Where the app raises, so does this, after a whole answer."""
        environ = self._exchange.environ = without_passages(environ)
        try:
            with self._exchange.observation.active():
                rest = self._run(app, environ)
        except Exception as raised:
            if self._answered:
                raise
            self.end(complete=False)
            answer = self._answer()
            self._exchange.end(raised)
            if self._exchange.write is None:
                return _answered(answer, raised)
            # A test client hears only of what is raised here, and shows it to the test.
            self._exchange.write(b"".join(answer))
            raise
        return rest

    def _run(self, app: WSGIApplication, environ: WSGIEnvironment) -> Iterable[bytes]:
        """Take what the app gives until the flow has decided; what is returned closes the app's iterable."""
        iterable = app(environ, self._start_response)
        try:
            iterator = iter(iterable)
            while not self.streams and not self.ended:
                self.pull(iterator)
            if self.streams:
                self._answer_now()
            else:
                self._body = b"".join(self._answer())
        except BaseException:
            _close(iterable)
            raise
        return _Answered(self, self._exchange, iterator, iterable)

    def pull(self, iterator: Iterator[bytes]) -> None:
        """Give the flow what comes next of the app, or its end."""
        # The end is no exception to whoever watches.
        chunk = next(iterator, _END)
        if chunk is _END:
            self.end(complete=True)
        elif chunk:
            self._write(chunk)

    def take(self) -> bytes:
        """What may leave now."""
        taken, self._body = self._body, b""
        return taken

    def _start_response(
        self, status: str, headers: list[tuple[str, str]], exc_info: _ExcInfo | None = None, /
    ) -> Callable[[bytes], object]:
        """PEP 3333: with `exc_info`, the head may be replaced until the first byte of the body is there."""
        if exc_info is not None and exc_info[1] is not None:
            if self._begun:
                raise exc_info[1].with_traceback(exc_info[2])
        elif self._head is not None:
            raise SecMiddlewareError("the app called start_response once more, and without exc_info")
        self._exchange.look_at_route()
        lower = tuple((name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in headers)
        self._head, self._line = ResponseHead(int(status[:3]), lower), status if self._keeps_line else None
        return self._write_now

    def _write_now(self, chunk: bytes, /) -> None:
        """What an app writes before it returns anything leaves before it does, where it may leave at all."""
        self._write(chunk)
        if not self.streams:
            return
        self._answer_now()
        if self._exchange.write is not None and self._body:
            self._exchange.write(self.take())
        if self.broken is not None:
            raise self.broken

    def _write(self, chunk: bytes) -> None:
        if not isinstance(chunk, bytes):
            raise TypeError(f"the app gave {type(chunk).__name__} where the body is bytes")
        if self.ended:
            return
        self._begin()
        if not self.ended:
            self._perform(self._flow.feed(chunk))

    def _begin(self) -> None:
        if self._begun:
            return
        if self._head is None:
            raise SecMiddlewareError("the app gave a body before it called start_response")
        self._begun = True
        self._perform(self._flow.start(self._head))

    def end(self, *, complete: bool) -> None:
        """Have the flow decide, the first time."""
        if self.ended:
            return
        if complete and self._head is not None:
            self._begin()
        if not self.ended:
            self.ended = True
            self._perform(finish(self._flow, "response", self._exchange.observation, complete=complete))

    def abandon(self) -> None:
        """End a stream that the server has not come to the end of: the caller is gone, or the app raised."""
        if not self.ended:
            self.ended = True
            finish(self._flow, "response", self._exchange.observation, complete=False)

    def _perform(self, events: Iterable[Event]) -> None:
        for event in events:
            match event:
                case Head(ResponseHead() as head):
                    self._outcome = head
                    self.streams = not self.ended
                case Body(data, _):
                    self._body = self._body + data if self._body else data
                case Refusal() if self.streams:
                    self.ended = True
                    self._exchange.break_off(event)
                    self.broken = BrokenOffError(f"the response was broken off: {event.code}")
                    finish(self._flow, "response", self._exchange.observation, complete=False)
                    return
                case Refusal():
                    self.ended = True
                    self._outcome = event
                    return

    def _answer(self) -> Iterable[bytes]:
        if isinstance(self._outcome, Refusal):
            # That the page made of it cannot be sealed is not what is wrong.
            failed = RAISED_KEY in self._exchange.environ
            return self._exchange.refuse(Refusal("internal_error") if failed else self._outcome)
        return self._exchange.answer(self._outcome, self._body, self._line)

    def _answer_now(self) -> None:
        if not self._answered and isinstance(self._outcome, ResponseHead):
            self._answered = True
            self._exchange.begin(self._outcome, self._line)


class _Answered(_Leaving):
    """What the flow lets go, at once or record by record."""

    def __init__(
        self,
        download: Download,
        exchange: Exchange,
        iterator: Iterator[bytes],
        iterable: Iterable[bytes],
    ) -> None:
        super().__init__(iterable, exchange)
        self._download = download
        self._iterator = iterator
        exchange.goes_on = True

    def __next__(self) -> bytes:
        """What may leave of the app's next piece, be it nothing: PEP 3333 has nobody wait for several."""
        ready = self._ready()
        if ready is not None:
            return ready
        try:
            with self._exchange.observation.active():
                self._download.pull(self._iterator)
        except BaseException as raised:
            self._raised = raised
            raise
        return self._ready() or b""

    def _ready(self) -> bytes | None:
        """What may leave without the app; None where it is the app's turn."""
        ready = self._download.take()
        if ready:
            return ready
        if self._download.broken is not None:
            raise self._download.broken
        if self._download.ended:
            raise StopIteration
        return None

    def _abandon(self) -> None:
        self._download.abandon()


def _answered(answer: Iterable[bytes], raised: Exception) -> Iterator[bytes]:
    """The whole answer, and then what the app raised, for the server to log."""
    empty = True
    for chunk in answer:
        empty = False
        yield chunk
    if empty:
        yield b""  # what is raised before any chunk would be answered by the server in its own way
    raise raised
