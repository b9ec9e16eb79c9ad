"""The seam through which an exchange is seen: one frozen record, handed to one observer.

The shells call `begin` after the verdict and `end` once. An observer never changes an outcome, and is never
given the value of a field, a certificate or an exception's text.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

from secmiddleware.engine import Admission
from secmiddleware.messages import Refusal, RequestHead


@dataclass(frozen=True, slots=True)
class ExchangeRecord:
    """How an exchange ended."""

    status: int | None
    """The HTTP status that left, or None where nothing did (a websocket, a caller who went away)."""
    refusal: Refusal | None = None


class Observation(Protocol):
    """One exchange, as an observer sees it."""

    @property
    def trace_id(self) -> str | None:
        """The id under which the exchange can be found again, 32 hex digits, or None where there is none."""

    @property
    def head(self) -> RequestHead:
        """The head that the app is to see (an observer may have replaced `traceparent`)."""

    def active(self) -> AbstractContextManager[None]:
        """A context manager to put round the call of the app."""

    def end(self, record: ExchangeRecord) -> None:
        """Tell how the exchange ended; called exactly once."""


class Observer(Protocol):
    """Sees every exchange. Called from many threads and tasks at once."""

    def begin(self, head: RequestHead, verdict: Admission | Refusal, started_ns: int) -> Observation:
        """The observation of an exchange that began at `started_ns` and was judged just now."""
