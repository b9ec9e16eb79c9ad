"""The seam through which an exchange is seen: one frozen record, handed to one observer.

The shells call `begin` after the verdict and `end` once. An observer never changes an outcome, and is never
given the value of a field, a certificate or an exception's text.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Final, Literal, Protocol

from secmiddleware.engine import Admission
from secmiddleware.fields.flows import Report
from secmiddleware.messages import Refusal, RequestHead, message

Stage = Literal["request", "response"]
"""Whose flow: the request's on its way to the app, or the response's on its way to the caller."""


@message
class ExchangeRecord:
    """How an exchange ended."""

    status: int | None
    """The HTTP status that left, 101 for an accepted websocket; None where none did or nobody `watches`."""
    refusal: Refusal | None = None
    route: str | None = None
    """The framework's template of the path, prefix included, where it tells and somebody `watches`."""
    error: str | None = None
    """The qualified name of the type of the exception that the app ended with; never its text."""


class Observation(Protocol):
    """One exchange, as an observer sees it."""

    @property
    def trace_id(self) -> str | None:
        """The id under which the exchange can be found again, 32 hex digits, or None where there is none."""

    @property
    def head(self) -> RequestHead:
        """The head that the app is to see (an observer may have replaced `traceparent`)."""

    @property
    def watches(self) -> bool:
        """Whether status and route of a response that passes untouched are wanted: else nobody looks."""

    def active(self) -> AbstractContextManager[None]:
        """A context manager to put round the call of the app; `NOTHING` need not be put there."""

    def stage(self, name: Stage, start_ns: int, end_ns: int, report: Report) -> None:
        """A flow of this exchange has worked from `start_ns` to `end_ns` (of `time.time_ns`)."""

    def end(self, record: ExchangeRecord) -> None:
        """Tell how the exchange ended; called exactly once."""


class Observer(Protocol):
    """Sees every exchange. Called from many threads and tasks at once."""

    def begin(self, head: RequestHead, verdict: Admission | Refusal, started_ns: int) -> Observation:
        """The observation of an exchange that began at `started_ns` and was judged just now."""


NOTHING: Final = nullcontext()
"""To put round the call of the app where nothing is to be in force."""


class Unobserved:
    """The observation of an exchange that nobody looks at; it need not be told of any."""

    __slots__ = ("head",)

    trace_id = None
    watches = False

    def __init__(self, head: RequestHead) -> None:
        self.head = head

    def active(self) -> AbstractContextManager[None]:
        """Nothing."""
        return NOTHING

    def stage(self, name: Stage, start_ns: int, end_ns: int, report: Report) -> None:
        """Nothing."""

    def end(self, record: ExchangeRecord) -> None:
        """Nothing."""
