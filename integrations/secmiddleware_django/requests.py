"""Django's requests as data, and the body of one on its way through a flow.

The request object stays the same one: what Django's handlers and test clients have hung on it, and what they
take from it afterwards, would be lost with it. Where its body changes, its own constructor sets it up again.
"""

from __future__ import annotations

import io
import time
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Final

from django.http import HttpRequest

from secmiddleware import environs, scopes
from secmiddleware.fields.flows import Flow
from secmiddleware.messages import (
    Body,
    Event,
    Head,
    Identity,
    Refusal,
    RequestHead,
    TokenClaims,
    Unaccepted,
)
from secmiddleware.telemetry.observer import Observation

# What is read at once, where all of a body is wanted.
_PIECE_BYTES: Final = 64 * 1024

# What a request remembers of its head, and of its body, once they were read.
_HEAD_READINGS: Final = (
    *("accepted_types", "accepted_types_by_precedence", "headers"),
    *("GET", "COOKIES", "_cookies"),
)
_BODY_READINGS: Final = ("_body", "_files", "_post")


def surroundings_of(request: HttpRequest) -> dict[str, Any]:
    """The scope of a request under ASGI, else its environ."""
    found: dict[str, Any] = request.scope if hasattr(request, "scope") else request.environ
    return found


def head_of(request: HttpRequest) -> RequestHead:
    """What is known of a request; of its path, what Django routes it by."""
    if hasattr(request, "scope"):
        head, query = scopes.head_of(request.scope), request.scope.get("query_string", b"")
        if isinstance(query, str):  # as Django's own test clients have it
            query = query.encode()
        # FORCE_SCRIPT_NAME has the last word on the prefix.
        return replace(head, query=query, root_path=request.META["SCRIPT_NAME"])
    return environs.head_of(request.environ | _wired(request))


def show(
    request: HttpRequest,
    identity: Identity | None,
    claims: TokenClaims | None,
    unaccepted: Unaccepted | None,
) -> None:
    """Let the app see who is calling and with what token, and nothing that was not accepted."""
    request.client_identity = identity
    request.token_claims = claims
    if hasattr(request, "scope"):
        scopes.show(request.scope, identity, claims, unaccepted)
    else:
        environs.show(request.environ, identity, claims, unaccepted)


def route_of(request: HttpRequest) -> str | None:
    """The template of the URL pattern that Django chose, prefix included, or None where it chose none."""
    match = request.resolver_match
    return None if match is None else f"{request.META['SCRIPT_NAME']}/{match.route}"


class Upload(io.RawIOBase):
    """Drives the request flow with a Django request's body; read, it gives what the flow lets through."""

    def __init__(self, flow: Flow, request: HttpRequest, observation: Observation) -> None:
        super().__init__()
        self._flow = flow
        self._observation = observation
        self._read, self._left = _source(request)
        self._pending: deque[Event] = deque()
        self._rest = b""
        self._ended = False

    @property
    def load(self) -> int:
        """Bytes that `finish` may go through."""
        return self._flow.load

    def start(self, head: RequestHead) -> RequestHead | Refusal | None:
        """The head, where the flow lets it go at once; a refusal; or None: the body is held for `finish`."""
        self._pending.extend(self._flow.start(head))
        if not self._pending and isinstance(self._left, Refusal):
            return self._left
        while not self._pending:
            try:
                piece = self._piece()
            except OSError:  # the caller is gone
                self._left = None
                return self.finish(complete=False)
            if not piece:
                return None
            self._pending.extend(self._flow.feed(piece))
        return self._verdict()

    def finish(self, *, complete: bool = True) -> RequestHead | Refusal:
        """The head or the refusal of a body that was held and has come to its end."""
        self._end(complete=complete and not self._left)
        return self._verdict()

    def file(self) -> io.IOBase:
        """What the app reads: the whole body, or the rest of it as it comes."""
        if self._ended:
            pieces = [event.data for event in self._pending if isinstance(event, Body)]
            return io.BytesIO(pieces[0] if len(pieces) == 1 else b"".join(pieces))
        return io.BufferedReader(self, _PIECE_BYTES)

    def readable(self) -> bool:
        """It is."""
        return True

    def readinto(self, buffer: Any) -> int:
        """As `io.RawIOBase` says; a body that breaks off ends too soon, as it would without us."""
        while not self._rest and (self._pending or not self._ended):
            if not self._pending:
                piece = self._piece()
                if piece:
                    self._pending.extend(self._flow.feed(piece))
                else:
                    self._end(complete=not self._left)
                continue
            event = self._pending.popleft()
            self._rest = event.data if isinstance(event, Body) else b""
        count = min(len(buffer), len(self._rest))
        buffer[:count], self._rest = self._rest[:count], self._rest[count:]
        return count

    def _verdict(self) -> RequestHead | Refusal:
        match self._pending.popleft():
            case Head(RequestHead() as head):
                return head
            case Refusal() as refusal:
                return refusal
            case event:
                raise TypeError(f"a request flow gave {event!r} before its head")

    def _piece(self) -> bytes:
        """What comes next of the body, never past its end."""
        size = _PIECE_BYTES
        if isinstance(self._left, Refusal):
            return b""  # without a length there is no body to Django
        if self._left is not None:
            size = min(size, self._left)
        piece = self._read(size) if size else b""
        if self._left is not None:
            self._left -= len(piece)
        return piece

    def _end(self, *, complete: bool) -> None:
        self._ended = True
        start_ns = time.time_ns()
        self._pending.extend(self._flow.finish(complete))
        self._observation.stage("request", start_ns, time.time_ns(), self._flow.report)


def _source(request: HttpRequest) -> tuple[Callable[[int], bytes], int | Refusal | None]:
    """Where the body is read from, and how long it is, as `length_of_body` says; None: to the end."""
    if request._read_started:  # noqa: SLF001  (Django tells it nowhere else)
        # Other middleware was there before us. What it has read as `body` is still there; else this raises.
        return io.BytesIO(request.body).read, None
    if hasattr(request, "scope"):
        # Django has the whole body already. `request.read` would read what the request is made anew round.
        return request._stream.read, None  # noqa: SLF001
    length = environs.length_of_body(request.environ)
    if isinstance(length, Refusal) and "HTTP_TRANSFER_ENCODING" not in request.environ:
        length = 0  # Django reads nothing that has no length, and test clients send it so
    return request.environ["wsgi.input"].read, length


def put_head(request: HttpRequest, before: RequestHead, after: RequestHead) -> None:
    """Let the app see headers and query of `after`."""
    if after.headers is before.headers and after.query == before.query:
        return
    if hasattr(request, "scope"):
        request.scope["headers"] = list(after.headers)
        request.scope["query_string"] = after.query
    environs.put_head(request.META, before, after)
    _forget(request, _HEAD_READINGS)


def remake(request: HttpRequest, body: io.IOBase) -> None:
    """Let the app read this body: the same request object, set up again by its own constructor."""
    path, path_info, script_name = request.path, request.path_info, request.META["SCRIPT_NAME"]
    _forget(request, _BODY_READINGS)
    if hasattr(request, "scope"):
        request.__init__(request.scope, body)
    else:
        environ = environs.without_passages(request.environ) | _wired(request) | {"wsgi.input": body}
        request.__init__(environ)
    # What was judged stays, whatever else Django would make them of (SCRIPT_URL).
    request.path, request.path_info = path, path_info
    request.META["PATH_INFO"], request.META["SCRIPT_NAME"] = path_info, script_name


def _forget(request: HttpRequest, readings: tuple[str, ...]) -> None:
    for name in readings:
        request.__dict__.pop(name, None)


def _wired(request: HttpRequest) -> dict[str, str]:
    """The path as an environ has it (PEP 3333); Django has put decoded text in its place."""
    return {
        "PATH_INFO": _wire(request.path_info),
        "SCRIPT_NAME": _wire(request.META["SCRIPT_NAME"]),
    }


def _wire(text: str) -> str:
    return text.encode("utf-8", "surrogateescape").decode("latin-1")
