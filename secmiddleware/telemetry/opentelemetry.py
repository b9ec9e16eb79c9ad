"""The OpenTelemetry observer: spans and metrics of exchanges, where an SDK has been set up.

The one module that knows OpenTelemetry's API; SDKs and exporters are others' business. If somebody in this
process owns the request already (the current span is valid and not remote), that span is enriched and gets
children. Else the SERVER span is ours, what a caller says of a trace is believed as far as the settings go,
and the app is told of our span in the caller's place. Without an SDK an exchange passes untouched.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import cached_property
from typing import Final, Literal
from weakref import WeakKeyDictionary, WeakSet

from opentelemetry import baggage, metrics, propagate, trace
from opentelemetry import context as contexts
from opentelemetry.context import Context
from opentelemetry.trace import Link, Span, SpanKind, Status, StatusCode, Tracer

from secmiddleware import __version__
from secmiddleware.engine import Admission
from secmiddleware.fields.flows import Report
from secmiddleware.messages import Headers, Identity, Refusal, RequestHead, header_values
from secmiddleware.telemetry import attributes as words
from secmiddleware.telemetry.attributes import Attributes, Certificates, Series
from secmiddleware.telemetry.counts import COUNTERS, LEVELS, REFUSALS, Counts, Vitals, operation_of
from secmiddleware.telemetry.observer import NOTHING, ExchangeRecord, Observation, Stage, Unobserved

Trusting = Literal["always", "mtls_only", "link", "never"]

_SCOPE: Final = "secmiddleware"

_SECOND_NS: Final = 1_000_000_000

# The conventions' own advice for http.server.request.duration, in seconds.
_BUCKETS: Final = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0)

# Series of one histogram. Methods, schemes and statuses are few; routes are the app's, and one that makes
# them out of paths shall not fill a backend. SDKs stop at 2000, and then tell nothing apart.
_MOST_SERIES: Final = 1500


class OpenTelemetryObserver:
    """Makes spans and metrics of exchanges. Safe to use from many threads and tasks.

    Which SDK there is, it asks once a second, so that one may be set up at any time.
    """

    def __init__(
        self,
        *,
        trust_inbound_context: Trusting = "mtls_only",
        names: bool = False,
        vitals: Callable[[], Vitals] | None = None,
        tracer_provider: trace.TracerProvider | None = None,
        meter_provider: metrics.MeterProvider | None = None,
    ) -> None:
        """Touches nothing yet.

        Args:
            trust_inbound_context: whose `traceparent` and `baggage` are believed, as in `[telemetry]`.
            names: whether spans say a caller's name, and not only the digest of its certificate.
            vitals: tells how certificates and keys are; asked when metrics are exported.
            tracer_provider: other than the process's own.
            meter_provider: other than the process's own.
        """
        self._trusting = trust_inbound_context
        self.links = trust_inbound_context == "link"
        self.vitals = vitals
        self.certificates = Certificates(names=names)
        self.known_methods = words.known_methods(os.environ)
        self._tracer_provider = tracer_provider
        self._meter_provider = meter_provider
        # What was found for which provider; providers that do nothing have none.
        self._tracer: tuple[object, Tracer | None] = (None, None)
        self._instruments: tuple[object, Instruments | None] = (None, None)
        # The second in which both were looked for. To ask for the providers takes 1.5 us, a fifth of what a
        # request that passes may cost.
        self._looked_in: int | None = None
        self._propagated: tuple[object, frozenset[bytes]] | None = None

    def begin(self, head: RequestHead, verdict: Admission | Refusal, started_ns: int) -> Observation:
        """The observation of an exchange that began at `started_ns` and was judged just now."""
        second = started_ns // _SECOND_NS
        if self._looked_in != second:
            self._find_tracer()
            self._find_instruments()
            self._looked_in = second  # last: another thread goes on with what is there
        tracer, instruments = self._tracer[1], self._instruments[1]
        if tracer is None and instruments is None and not contexts.get_current():
            return Unobserved(head)
        current = trace.get_current_span()
        here = current.get_span_context()
        begun = _Begun(self, head, verdict, started_ns, time.time_ns(), tracer, instruments)
        return _Enriched(begun, current) if here.is_valid and not here.is_remote else _Owned(begun)

    def believes(self, identity: Identity | None) -> bool:
        """Whether what this caller says of a trace is taken as it is."""
        return self._trusting == "always" or (self._trusting == "mtls_only" and identity is not None)

    def propagated(self) -> frozenset[bytes]:
        """The names of the headers in which a trace travels, as `OTEL_PROPAGATORS` has it."""
        propagator = propagate.get_global_textmap()
        if self._propagated is None or self._propagated[0] is not propagator:
            names = frozenset(name.lower().encode("ascii") for name in propagator.fields)
            self._propagated = propagator, names
        return self._propagated[1]

    def _find_tracer(self) -> None:
        provider = self._tracer_provider or trace.get_tracer_provider()
        if self._tracer[0] is not provider:
            idle = isinstance(provider, trace.ProxyTracerProvider | trace.NoOpTracerProvider)
            tracer = None if idle else provider.get_tracer(_SCOPE, __version__, words.SCHEMA_URL)
            self._tracer = provider, tracer

    def _find_instruments(self) -> None:
        provider = self._meter_provider or metrics.get_meter_provider()
        if self._instruments[0] is not provider:
            # The API's own providers do nothing; the one that waits for an SDK has no public name.
            idle = type(provider).__module__.startswith("opentelemetry.metrics.")
            instruments = None if idle else Instruments.of(provider)
            if instruments is not None:
                instruments.join(self)
            self._instruments = provider, instruments


@dataclass(slots=True)  # a frozen one takes 1 µs more to make
class _Begun:
    """All that is known of an exchange when it has been judged; nobody changes it."""

    observer: OpenTelemetryObserver
    head: RequestHead
    verdict: Admission | Refusal
    started_ns: int
    judged_ns: int
    tracer: Tracer | None
    instruments: Instruments | None

    def verdict_attributes(self) -> Attributes:
        return words.verdict_attributes(self.verdict, self.observer.certificates)


class _Seen:
    """One exchange with a span, whoever owns it: what happens is told on it, and by children below it."""

    def __init__(self, begun: _Begun, span: Span, context: Context, told: Attributes) -> None:
        """`told` is what the span has been told of the verdict."""
        self._begun = begun
        self._span = span
        self._context = context
        # Another's span may end with the response, before our end; children may be added to it still.
        self._recording = span.is_recording()
        self._stages: list[tuple[Stage, int, int, Report]] = []
        self._app_called = False
        if isinstance(begun.verdict, Refusal):
            self._add_child("authenticate", begun.started_ns, begun.judged_ns, told, begun.verdict.code)
        if begun.instruments is not None:
            begun.instruments.counts.add_verdict(begun.verdict, begun.judged_ns - begun.started_ns)

    @property
    def trace_id(self) -> str | None:
        """The id of the trace that the exchange is part of."""
        here = self._span.get_span_context()
        return trace.format_trace_id(here.trace_id) if here.is_valid else None

    def stage(self, name: Stage, start_ns: int, end_ns: int, report: Report) -> None:
        """Keep it to the end: only then it is known what became of it."""
        self._stages.append((name, start_ns, end_ns, report))

    def _work(self) -> Attributes:
        """What the span is to say of our work so far."""
        begun = self._begun
        spent_ns = begun.judged_ns - begun.started_ns
        opened = sealed = 0
        for _, start_ns, end_ns, report in self._stages:
            spent_ns += end_ns - start_ns
            opened, sealed = opened + report.opened, sealed + report.sealed
        work: Attributes = {words.OVERHEAD: spent_ns / 1e9}
        if opened:
            work[words.DECRYPTED] = opened
        if sealed:
            work[words.ENCRYPTED] = sealed
        return work

    def _account(self, record: ExchangeRecord) -> Attributes:
        """Make children and counts of what came after the verdict; what the span is to say of the outcome."""
        refusal, instruments = record.refusal, self._begun.instruments
        if refusal is not None and instruments is not None:
            instruments.counts.add(REFUSALS, 1, (words.ERROR_TYPE, refusal.code))
        if isinstance(self._begun.verdict, Refusal):
            return {}
        code = None
        if refusal is not None and self._begun.head.protocol == "websocket" and self._app_called:
            # It was open, and is not let in any more.
            now_ns = time.time_ns()
            self._add_child("authenticate", now_ns, now_ns, {}, refusal.code)
        elif refusal is not None and record.error is None:
            code = refusal.code
            failed: Stage = "response" if self._app_called else "request"
            if not self._stages or self._stages[-1][0] != failed:
                # Refused before its end, as a body too large is: no work was done that would have times.
                now_ns = time.time_ns()
                self._stages.append((failed, now_ns, now_ns, Report()))
        for index, (name, start_ns, end_ns, report) in enumerate(self._stages, 1):
            failure = code if index == len(self._stages) else None
            if report.opened or report.sealed or failure is not None:
                told = words.stage_attributes(name, report)
                self._add_child(operation_of(name, report), start_ns, end_ns, told, failure)
            if instruments is not None:
                instruments.counts.add_stage(name, report, failure, end_ns - start_ns)
        return {} if refusal is None else words.refusal_attributes(refusal)

    def _add_child(self, name: str, start_ns: int, end_ns: int, told: Attributes, code: str | None) -> None:
        if self._begun.tracer is None or not self._recording:
            return
        child = self._begun.tracer.start_span(
            f"{_SCOPE}.{name}",
            context=self._context,
            attributes=told if code is None else {**told, words.ERROR_TYPE: code},
            start_time=start_ns,
        )
        if code is not None:
            child.set_status(Status(StatusCode.ERROR))
        child.end(end_ns)


class _Enriched(_Seen):
    """An exchange whose span is somebody else's."""

    watches = False

    def __init__(self, begun: _Begun, span: Span) -> None:
        told = begun.verdict_attributes()
        super().__init__(begun, span, contexts.get_current(), told)
        self.head = begun.head
        if self._recording:
            span.set_attributes(told | self._work())

    def active(self) -> AbstractContextManager[None]:
        """Nothing: their span is current already."""
        self._app_called = True
        return NOTHING

    def stage(self, name: Stage, start_ns: int, end_ns: int, report: Report) -> None:
        """Told at once, since their span may end with the response."""
        super().stage(name, start_ns, end_ns, report)
        if self._recording:
            self._span.set_attributes(self._work())

    def end(self, record: ExchangeRecord) -> None:
        """Add the children, and what their span still takes."""
        outcome = self._account(record)
        if outcome and self._span.is_recording():
            self._span.set_attributes(outcome)


class _Owned(_Seen):
    """An exchange whose SERVER span is ours, and its metrics with it."""

    def __init__(self, begun: _Begun) -> None:
        self._method = words.method_of(begun.head, begun.observer.known_methods)
        self._name = "HTTP" if self._method == words.OTHER else self._method
        told = begun.verdict_attributes()
        parent, around, links = _parent(begun)
        span: Span = trace.INVALID_SPAN
        if begun.tracer is not None:
            begin = words.request_attributes(begun.head, self._method) | told
            span = begun.tracer.start_span(
                self._name, parent, SpanKind.SERVER, begin, links, begun.started_ns, record_exception=False
            )
        here = span.get_span_context()
        self._is_ours = here.is_valid and not here.is_remote  # else the SDK is disabled
        if not self._is_ours:
            span = trace.INVALID_SPAN
        super().__init__(begun, span, trace.set_span_in_context(span, around), told)

    @property
    def watches(self) -> bool:
        """Whether a span or a metric wants the status."""
        return self._begun.instruments is not None or self._recording

    @cached_property
    def head(self) -> RequestHead:
        """The head with our span in the place of the caller's: a framework's own span becomes a child."""
        head = self._begun.head
        if not self._is_ours:
            return head
        carrier: dict[str, str] = {}
        propagate.inject(carrier, self._context)
        ours: Headers = tuple((name.lower().encode(), value.encode()) for name, value in carrier.items())
        travelling = self._begun.observer.propagated()
        return replace(head, headers=(*(pair for pair in head.headers if pair[0] not in travelling), *ours))

    def active(self) -> AbstractContextManager[None]:
        """Our span is the current one while the app is called."""
        self._app_called = True
        return _Attached(self._context) if self._is_ours else NOTHING

    def end(self, record: ExchangeRecord) -> None:
        """End the span, and record how long it was."""
        outcome = self._work() | self._account(record)
        error = words.error_of(record)
        ended_ns = time.time_ns()
        if self._recording:
            if record.status is not None:
                outcome[words.STATUS] = record.status
            if record.route is not None:
                route = outcome[words.ROUTE] = words.shown(record.route)
                self._span.update_name(f"{self._name} {route}")
            if error is not None:
                outcome[words.ERROR_TYPE] = error
                self._span.set_status(Status(StatusCode.ERROR))
            self._span.set_attributes(outcome)
        self._span.end(ended_ns)
        # A websocket lasts as long as somebody is there: that is no duration of a request.
        if self._begun.instruments is not None and self._begun.head.protocol == "http":
            seconds = (ended_ns - self._begun.started_ns) / 1e9
            series = words.series_of(self._begun.head, self._method, record)
            self._begun.instruments.record(seconds, series, self._context)


class Instruments:
    """The metrics of one meter provider, shared by all observers of it: instruments are made once."""

    _all: Final[WeakKeyDictionary[metrics.MeterProvider, Instruments]] = WeakKeyDictionary()
    _making: Final = threading.Lock()

    def __init__(self, provider: metrics.MeterProvider) -> None:
        self.counts = Counts()
        self._observers: WeakSet[OpenTelemetryObserver] = WeakSet()
        self._joining = threading.Lock()
        self._kept: dict[Series, dict[str, str | int]] = {}
        meter = provider.get_meter(_SCOPE, __version__, words.SCHEMA_URL)
        self._duration = meter.create_histogram(
            "http.server.request.duration",
            "s",
            "Duration of HTTP server requests.",
            explicit_bucket_boundaries_advisory=_BUCKETS,
        )
        for name, (unit, about) in COUNTERS.items():
            meter.create_observable_counter(name, [self._reading(name)], unit, about)
        for name, (unit, about) in LEVELS.items():
            meter.create_observable_gauge(name, [self._looking(name)], unit, about)

    @classmethod
    def of(cls, provider: metrics.MeterProvider) -> Instruments:
        """The instruments of a provider, made when they are first asked for."""
        with cls._making:
            instruments = cls._all.get(provider)
            if instruments is None:
                instruments = cls._all[provider] = cls(provider)
            return instruments

    def join(self, observer: OpenTelemetryObserver) -> None:
        """Look at the vitals of this observer's service too, as long as it lives."""
        with self._joining:
            self._observers.add(observer)

    def record(self, seconds: float, series: Series, context: Context) -> None:
        """Record a request's duration; `context` has its span, for an exemplar."""
        kept = self._kept.get(series)
        if kept is None:
            if len(self._kept) >= _MOST_SERIES:
                series = tuple(
                    (name, words.OTHER if name in (words.ROUTE, words.ERROR_TYPE) else value)
                    for name, value in series
                    if name != words.STATUS
                )
            # Never changed after this: SDKs keep the very object.
            kept = self._kept.setdefault(series, dict(series))
        self._duration.record(seconds, kept, context)

    def _reading(self, name: str) -> Callable[[metrics.CallbackOptions], Iterable[metrics.Observation]]:
        return lambda _options: [
            metrics.Observation(amount, dict(label)) for label, amount in self.counts.of(name)
        ]

    def _looking(self, name: str) -> Callable[[metrics.CallbackOptions], Iterable[metrics.Observation]]:
        def look(_options: metrics.CallbackOptions) -> Iterable[metrics.Observation]:
            now = datetime.now(UTC)
            with self._joining:
                observers = list(self._observers)
            for observer in observers:
                if observer.vitals is not None:
                    for label, level in observer.vitals().levels(name, now):
                        yield metrics.Observation(level, dict(label))

        return look


def _parent(begun: _Begun) -> tuple[Context, Context, list[Link]]:
    """The context in which our span begins, the one that it is put into, and what it is linked to."""
    here = contexts.get_current()
    travelling = begun.observer.propagated()
    came = {
        name.decode("ascii"): [value.decode("latin-1") for value in header_values(begun.head.headers, name)]
        for name in travelling.intersection(name for name, _ in begun.head.headers)
    }
    if len(came.get("traceparent", ())) > 1:  # W3C Trace Context §3.2.1: one, or it is not to be believed
        del came["traceparent"]
    if begun.observer.believes(begun.verdict.identity):
        joined = propagate.extract(came, here) if came else here
        return joined, joined, []
    links = []
    if begun.observer.links and came:
        theirs = trace.get_current_span(propagate.extract(came, Context())).get_span_context()
        links = [Link(theirs)] if theirs.is_valid else []
    # Somebody may have read the caller's headers into the context already.
    extracted = trace.get_current_span(here).get_span_context().is_remote
    return Context(), baggage.clear(here) if extracted else here, links


class _Attached:
    """A context that is the current one for the time of a `with`."""

    __slots__ = ("_context", "_token")

    def __init__(self, context: Context) -> None:
        self._context = context

    def __enter__(self) -> None:
        self._token = contexts.attach(self._context)

    def __exit__(self, *raised: object) -> None:
        contexts.detach(self._token)
