"""An OpenTelemetry SDK in memory, and what an observer made it see."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_ON, Sampler

from secmiddleware.telemetry.audit import AuditObserver
from secmiddleware.telemetry.opentelemetry import OpenTelemetryObserver


@dataclass(frozen=True)
class Node:
    """A span with the spans below it, in the order of their beginning."""

    span: ReadableSpan
    below: tuple[Node, ...]

    @property
    def outline(self) -> Any:
        """Kind and name, with what is below."""
        head = f"{self.span.kind.name} {self.span.name}"
        return (head, *(node.outline for node in self.below)) if self.below else head


class Sdk:
    """Spans and metrics end in memory. It is not the process's own: that could be set once only."""

    def __init__(self, sampler: Sampler = ALWAYS_ON) -> None:
        self._exporter = InMemorySpanExporter()
        self._reader = InMemoryMetricReader()
        self.tracers = TracerProvider(sampler=sampler, shutdown_on_exit=False)
        self.tracers.add_span_processor(SimpleSpanProcessor(self._exporter))
        self.meters = MeterProvider([self._reader], shutdown_on_exit=False)

    def observer(self, *, traces: bool = True, metrics: bool = True, **options: Any) -> AuditObserver:
        return AuditObserver(
            OpenTelemetryObserver(
                tracer_provider=self.tracers if traces else None,
                meter_provider=self.meters if metrics else None,
                **options,
            )
        )

    @property
    def spans(self) -> tuple[ReadableSpan, ...]:
        return self._exporter.get_finished_spans()

    def span(self, name: str) -> ReadableSpan:
        (span,) = (span for span in self.spans if span.name == name)
        return span

    @property
    def trees(self) -> list[Node]:
        """Every root, or span whose parent is elsewhere, with what is below."""
        spans = sorted(self.spans, key=lambda span: (span.start_time or 0, -(span.end_time or 0)))
        ids = {span.context.span_id for span in spans if span.context}

        def node(span: ReadableSpan) -> Node:
            below = (one for one in spans if one.parent and one.parent.span_id == span.context.span_id)
            return Node(span, tuple(map(node, below)))

        return [node(span) for span in spans if span.parent is None or span.parent.span_id not in ids]

    @property
    def tree(self) -> Node:
        (tree,) = self.trees
        return tree

    def points(self, name: str) -> dict[frozenset[tuple[str, Any]], Any]:
        """A metric by the attributes of its points: a sum, a level, or how many durations there were."""
        return {
            frozenset(point.attributes.items()): point.count if hasattr(point, "count") else point.value
            for metric in self.metrics()
            if metric.name == name
            for point in metric.data.data_points
        }

    def everything(self) -> str:
        """All that was exported, as text."""
        spans = "\n".join(span.to_json() for span in self.spans)
        return spans + "\n".join(metric.to_json() for metric in self.metrics())

    def metrics(self) -> Iterator[Any]:
        data = self._reader.get_metrics_data()
        for resource in data.resource_metrics if data is not None else ():
            for scope in resource.scope_metrics:
                yield from scope.metrics


def series(**values: Any) -> frozenset[tuple[str, Any]]:
    """Of a data point; `_` stands for a dot, and `__` for an underscore."""
    return frozenset(
        (name.replace("__", "\0").replace("_", ".").replace("\0", "_"), value)
        for name, value in values.items()
    )
