"""The messages of a websocket with marks: each is a JSON text, opened or sealed with the keys of its moment.

Where a direction is marked in bodies, what is no JSON text does not pass in it: it could not be looked into.
Whatever the marks, nothing that was opened for the app leaves outside of them, as long as the socket lives:
of its handshake all, of its messages as far as the leak guard remembers.
"""

from __future__ import annotations

from collections.abc import Iterable

from secmiddleware.fields.bodies import Act, Marked, Rewritten, rewrite, unmarked
from secmiddleware.fields.flows import Flow
from secmiddleware.fields.holding import BODY_KEY
from secmiddleware.fields.leaks import LeakGuard
from secmiddleware.fields.limits import Limits
from secmiddleware.fields.streams import REMEMBERED
from secmiddleware.fields.values import Exchange, Report, ValueWork
from secmiddleware.messages import Refusal


class Frames:
    """What happens to the messages of one websocket, both ways. It waits for nothing."""

    __slots__ = (
        "_exchange", "_guards", "_inward", "_inward_work", "_limits", "_outward", "_outward_work", "answer"
    )  # fmt: skip

    def __init__(
        self,
        exchange: Exchange,
        inward: Marked | None,
        outward: Marked | None,
        limits: Limits,
        answer: Flow,
    ) -> None:
        """`inward` and `outward` are the marks of each direction; None where no body is marked in it.

        `answer` is the flow of what the app answers to the handshake, be it an acceptance or a denial.
        """
        self.answer = answer
        self._exchange = exchange
        self._inward = inward
        self._outward = outward
        self._limits = limits
        self._inward_work = ValueWork(exchange)
        self._outward_work = ValueWork(exchange)
        # No number of messages makes the guard forget what the handshake has brought.
        guards = [LeakGuard(tuple(exchange.opened))] if exchange.opened else []
        if inward is not None:
            exchange.opened.limit = REMEMBERED
            guards.append(LeakGuard(exchange.opened))
        self._guards = tuple(guards)

    @property
    def reports(self) -> tuple[Report, Report, Report]:
        """What was done so far: to messages on the way in, to the answer, to messages on the way out."""
        return self._inward_work.report, self.answer.report, self._outward_work.report

    @property
    def opens(self) -> bool:
        """Whether messages that come are read."""
        return self._inward is not None

    @property
    def reads_what_leaves(self) -> bool:
        """Whether messages that leave are: there are marks in them, or there is something to watch for."""
        return self._outward is not None or bool(self._guards)

    def receive(self, message: str | bytes) -> str | bytes | Refusal:
        """What the app gets of a message; or why there must be an end."""
        if self._inward is None:
            return message
        if isinstance(message, bytes):
            return Refusal("payload_encoding")
        act, unreadable = self._inward_work.on_request, "payload_malformed"
        rewritten = self._rewritten(message, self._inward, act, unreadable, "payload_too_large")
        return rewritten if isinstance(rewritten, Refusal) else _text(message, rewritten)

    def send(self, message: str | bytes) -> str | bytes | Refusal:
        """What the caller gets of a message; or why there must be an end."""
        if self._outward is None:
            data = message if isinstance(message, bytes) else message.encode("utf-8", "surrogatepass")
            return self._leaked((data,)) or message
        if isinstance(message, bytes):
            return Refusal("seal_failed")
        act = self._outward_work.on_response
        rewritten = self._rewritten(message, self._outward, act, "seal_failed", "seal_failed")
        if isinstance(rewritten, Refusal):
            return rewritten
        leaked = self._leaked(unmarked(message.encode("utf-8"), rewritten.hits))
        return _text(message, rewritten) if leaked is None else leaked

    def leaks(self, text: str) -> bool:
        """Whether a text beside the messages holds what was opened: a subprotocol, the reason of a close."""
        data = text.encode("utf-8", "surrogatepass")
        return any(guard.found_in_body((data,)) is not None for guard in self._guards)

    def _leaked(self, pieces: Iterable[bytes]) -> Refusal | None:
        pieces = tuple(pieces)
        found = [guard.found_in_next(pieces, runs_on=True) for guard in self._guards]
        return next((_leak(field) for field in found if field is not None), None)

    def _rewritten(
        self, message: str, marked: Marked, act: Act, unreadable: str, too_large: str
    ) -> Rewritten | Refusal:
        self._exchange.renew()
        try:
            body = message.encode("utf-8")
        except UnicodeEncodeError:
            return Refusal(unreadable)
        if len(body) > self._limits.body:
            return Refusal(too_large, BODY_KEY)
        return rewrite(body, marked, act, unreadable)


def _text(message: str, rewritten: Rewritten) -> str:
    return rewritten.body.decode("utf-8") if rewritten.hits else message


def _leak(field: str) -> Refusal:
    return Refusal("seal_failed", f"fields.{field}.leak_guard")
