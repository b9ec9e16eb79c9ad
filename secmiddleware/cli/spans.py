"""Spans that OpenTelemetry's console exporter has printed, read back and shown as a tree."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from rich.text import Text

# What the tree says of a span, out of much more.
_SHOWN: Final = (
    "http.response.status_code",
    "secmiddleware.decision",
    "secmiddleware.reason",
    "secmiddleware.crypto.algorithm",
    "secmiddleware.crypto.key_id",
    "secmiddleware.crypto.field_count",
    "error.type",
)


@dataclass(frozen=True, slots=True)
class PrintedSpan:
    """One span, as far as the tree shows it."""

    id: str
    parent: str | None
    name: str
    kind: str
    begun: datetime
    milliseconds: float
    attributes: dict[str, Any]


def spans_of(output: str, trace_id: str) -> list[PrintedSpan]:
    """The spans of one trace that stand in what a process has printed, in the order of their beginnings."""
    found = [_span(printed) for printed in _objects(output) if _trace_of(printed) == trace_id]
    return sorted(found, key=lambda span: span.begun)


def tree_of(spans: Sequence[PrintedSpan], root: PrintedSpan) -> Iterator[Text]:
    """A span with all that is below it, a line for each."""
    yield _label(root)
    below = [span for span in spans if span.parent == root.id]
    for span in below:
        last = span is below[-1]
        first, *more = tree_of(spans, span)
        yield Text("└─ " if last else "├─ ").append_text(first)
        for line in more:
            yield Text("   " if last else "│  ").append_text(line)


def _objects(output: str) -> Iterator[dict[str, Any]]:
    """The JSON objects that begin at the beginning of a line, whatever else was printed between them."""
    decoder = json.JSONDecoder()
    at = 0
    while (at := output.find("{\n", at)) != -1:
        if at and output[at - 1] != "\n":
            at += 1
            continue
        try:
            printed, at = decoder.raw_decode(output, at)
        except ValueError:
            at += 1
            continue
        yield printed


def _trace_of(printed: dict[str, Any]) -> str:
    return str(printed.get("context", {}).get("trace_id", "")).removeprefix("0x")


def _span(printed: dict[str, Any]) -> PrintedSpan:
    begun, ended = (datetime.fromisoformat(printed[key]) for key in ("start_time", "end_time"))
    parent = printed["parent_id"]
    return PrintedSpan(
        printed["context"]["span_id"].removeprefix("0x"),
        None if parent is None else parent.removeprefix("0x"),
        printed["name"],
        printed["kind"].removeprefix("SpanKind."),
        begun,
        (ended - begun).total_seconds() * 1000,
        printed["attributes"],
    )


def _label(span: PrintedSpan) -> Text:
    told = [f"{key.rpartition('.')[2]}={span.attributes[key]}" for key in _SHOWN if key in span.attributes]
    label = Text(f"{span.kind} ", "dim")
    label.append(span.name, "bold")
    label.append(f"  {span.milliseconds:.2f} ms", "yellow")
    return label.append("  " + " ".join(told) if told else "", "dim")
