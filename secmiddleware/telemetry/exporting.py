"""An OpenTelemetry SDK for a server that has none: what `OTEL_*` asks for, set up where requests are served.

For the servers of `secmiddleware run` alone; whoever embeds the middleware sets up an SDK as ever. Nothing is
set up unless a variable asks for an exporter, nothing where the app has done it, and never does a failure
here keep a service from running.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Mapping
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Final, Literal

logger = logging.getLogger("secmiddleware.telemetry")

Signal = Literal["traces", "metrics"]

_SIGNALS: Final[tuple[Signal, ...]] = ("traces", "metrics")

# A collector that does not answer may hold up the end of a process for so long, and no longer. Exporters
# themselves would try for 10 s each.
_FLUSH_SECONDS: Final = 3.0

# The names under which packages announce what speaks a protocol of OTLP.
_OTLP: Final = {"http/protobuf": "otlp_proto_http", "grpc": "otlp_proto_grpc"}

_HINT: Final = 'pip install "secmiddleware[otel]"'


def wanted(environ: Mapping[str, str] = os.environ) -> dict[Signal, tuple[str, ...]]:
    """The exporters that `OTEL_*` asks for, by signal; nothing where it does not, or forbids all.

    `OTEL_TRACES_EXPORTER` and `OTEL_METRICS_EXPORTER` name them; where they are silent, an endpoint of OTLP
    asks for `otlp`.
    """
    if environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return {}
    found: dict[Signal, tuple[str, ...]] = {}
    for signal in _SIGNALS:
        upper = signal.upper()
        ends = ("OTEL_EXPORTER_OTLP_ENDPOINT", f"OTEL_EXPORTER_OTLP_{upper}_ENDPOINT")
        asked = environ.get(f"OTEL_{upper}_EXPORTER") or ("otlp" if any(map(environ.get, ends)) else "")
        names = tuple(name.strip() for name in asked.split(",") if name.strip() not in ("", "none"))
        if names:
            found[signal] = names
    return found


def start_exporting(service: str) -> Callable[[], None]:
    """Set up what `OTEL_*` asks for in this process, and only here: call it after a fork.

    `service` is the service's name, unless `OTEL_SERVICE_NAME` or `OTEL_RESOURCE_ATTRIBUTES` has one. What
    cannot be set up is logged, and left out.

    Returns:
        What sends the rest and shuts down; it takes three seconds at most, and may be called twice.
    """
    # Which of the service's processes is telling: the sums of several would be taken for one's else.
    told = {"service.name": service, "service.instance.id": os.urandom(16).hex()}
    stops = [stop for signal, names in wanted().items() if (stop := _start(signal, names, told))]
    return _in_time(stops) if stops else _nothing


def _start(signal: Signal, names: tuple[str, ...], told: Mapping[str, str]) -> Callable[[], None] | None:
    """What stops the exporting of one signal; None where there is nothing to stop."""
    try:
        return _start_traces(names, told) if signal == "traces" else _start_metrics(names, told)
    except ImportError as error:
        logger.error("OTEL_* asks for %s, but there is no %s: %s", signal, error.name, _HINT)
    except Exception:
        logger.exception("OpenTelemetry cannot be set up as OTEL_* asks for; no %s are exported", signal)
    return None


def _nothing() -> None:
    """Stops nothing: nothing was set up."""


def _in_time(stops: list[Callable[[], None]]) -> Callable[[], None]:
    once = threading.Lock()

    def stop() -> None:
        if not once.acquire(blocking=False):
            return
        deadline = time.monotonic() + _FLUSH_SECONDS
        threads = [threading.Thread(target=one, name="secmiddleware-flush", daemon=True) for one in stops]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(max(0.0, deadline - time.monotonic()))

    return stop


def _start_traces(names: tuple[str, ...], told: Mapping[str, str]) -> Callable[[], None] | None:
    from opentelemetry import trace

    if not isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider):
        return None  # the app has set up its own
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor, SimpleSpanProcessor

    exporters = [(name, _exporter("traces", name)) for name in names]
    # At the process's end it is ours to flush, and in time.
    provider = TracerProvider(resource=_resource(told), shutdown_on_exit=False)
    for name, exporter in exporters:
        together = SimpleSpanProcessor if name == "console" else BatchSpanProcessor
        provider.add_span_processor(together(exporter()))
    trace.set_tracer_provider(provider)
    return provider.shutdown


def _start_metrics(names: tuple[str, ...], told: Mapping[str, str]) -> Callable[[], None] | None:
    from opentelemetry import metrics

    if not type(metrics.get_meter_provider()).__module__.startswith("opentelemetry.metrics."):
        return None  # the app has set up its own
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.metrics.export import MetricReader, PeriodicExportingMetricReader

    readers = []
    for exporter in [_exporter("metrics", name) for name in names]:
        # Prometheus asks, and is not sent to: its package announces a reader.
        is_reader = isinstance(exporter, type) and issubclass(exporter, MetricReader)
        readers.append(exporter() if is_reader else PeriodicExportingMetricReader(exporter()))
    provider = MeterProvider(readers, resource=_resource(told), shutdown_on_exit=False)
    metrics.set_meter_provider(provider)
    return provider.shutdown


def _exporter(signal: Signal, name: str) -> Any:
    """The class of an exporter, as the package that has it announces it."""
    if name == "otlp":
        protocol = os.environ.get(f"OTEL_EXPORTER_OTLP_{signal.upper()}_PROTOCOL") or os.environ.get(
            "OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf"
        )
        name = _OTLP.get(protocol, protocol)
    found: list[EntryPoint] = list(entry_points(group=f"opentelemetry_{signal}_exporter", name=name))
    if not found:
        raise ImportError("no package announces it", name=f"exporter {name!r}")
    return found[0].load()


def _resource(told: Mapping[str, str]) -> Any:
    """Who is telling; what `OTEL_SERVICE_NAME` and `OTEL_RESOURCE_ATTRIBUTES` say goes before."""
    from opentelemetry.sdk.resources import OTELResourceDetector, Resource

    return Resource.create({**told, **OTELResourceDetector().detect().attributes})
