"""The rows of telemetry: with an SDK and without, beside the instrumentations of opentelemetry-contrib."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any
from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

from opentelemetry.instrumentation.asgi import OpenTelemetryMiddleware as PeerOfAsgi
from opentelemetry.instrumentation.wsgi import OpenTelemetryMiddleware as PeerOfWsgi
from opentelemetry.metrics import MeterProvider
from opentelemetry.sdk.metrics import MeterProvider as SdkMeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace import TracerProvider as SdkTracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.trace import TracerProvider

from bench.measure import Row, Step
from bench.rows import asgi_request, small_app
from secmiddleware import asgi, wsgi
from secmiddleware.messages import PRESENTED_KEY
from secmiddleware.scopes import App
from secmiddleware.security import SecurityManager
from secmiddleware.telemetry.audit import AuditObserver
from secmiddleware.telemetry.opentelemetry import OpenTelemetryObserver

TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
HEADERS = [(b"host", b"bench.example"), (b"user-agent", b"bench"), (b"traceparent", TRACEPARENT.encode())]


TRACED = {"HTTP_TRACEPARENT": TRACEPARENT, PRESENTED_KEY: None}


class _Nowhere(SpanExporter):
    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:  # noqa: ARG002  (the SDK's)
        return SpanExportResult.SUCCESS


class _Sdk:
    """An SDK as services have it, but for the network: spans in batches, metrics with a reader."""

    def __init__(self) -> None:
        tracers = SdkTracerProvider(shutdown_on_exit=False)
        tracers.add_span_processor(BatchSpanProcessor(_Nowhere()))
        self.tracers: TracerProvider = tracers
        self.meters: MeterProvider = SdkMeterProvider([InMemoryMetricReader()], shutdown_on_exit=False)

    def observer(self) -> AuditObserver:
        return AuditObserver(
            # The peers believe every caller: for the same work, so does this.
            OpenTelemetryObserver(
                trust_inbound_context="always", tracer_provider=self.tracers, meter_provider=self.meters
            )
        )

    def options(self) -> dict[str, Any]:
        return {"tracer_provider": self.tracers, "meter_provider": self.meters}


def telemetry_rows(manager: SecurityManager) -> Iterator[Row]:
    """A GET without a certificate: ours judges the path and the route beside what the peers do."""
    os.environ["OTEL_SEMCONV_STABILITY_OPT_IN"] = "http"  # the peers' own default are the old conventions
    yield from _rows("ASGI", lambda observer: _asgi(manager, observer), lambda options: _asgi_peer(**options))
    yield from _rows("WSGI", lambda observer: _wsgi(manager, observer), lambda options: _wsgi_peer(**options))
    yield Row(
        "ASGI, SDK",
        _asgi(manager, _Sdk().observer()),
        "its sends left out",
        _asgi_peer(exclude_spans=["send", "receive"], **_Sdk().options()),
    )


def _rows(
    what: str, ours: Callable[[AuditObserver | None], Step], peer: Callable[[dict[str, Any]], Step]
) -> Iterator[Row]:
    yield Row(f"{what}, no SDK", ours(None), "telemetry off", ours(AuditObserver()))
    yield Row(f"{what}, no SDK", ours(None), "contrib", peer({}))
    yield Row(f"{what}, SDK", ours(_Sdk().observer()), "telemetry off", ours(AuditObserver()))
    yield Row(f"{what}, SDK", ours(_Sdk().observer()), "contrib", peer(_Sdk().options()))


def _asgi(manager: SecurityManager, observer: AuditObserver | None) -> Step:
    return _get(asgi.SecMiddleware(small_app(), config=manager, observer=observer))


def _asgi_peer(**options: Any) -> Step:
    return _get(PeerOfAsgi(small_app(), **options))


def _get(app: App) -> Step:
    return asgi_request(app, "GET", "/healthz", b"", {"headers": HEADERS, PRESENTED_KEY: None}, None)


def _wsgi(manager: SecurityManager, observer: AuditObserver | None) -> Step:
    return wsgi_request(wsgi.SecMiddleware(health, config=manager, observer=observer), TRACED)


def _wsgi_peer(**options: Any) -> Step:
    return wsgi_request(PeerOfWsgi(health, **options), TRACED)


def health(_environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    start_response("200 OK", [("Content-Type", "application/json"), ("Content-Length", "15")])
    return [b'{"status":"ok"}']


def wsgi_request(app: WSGIApplication, extra: dict[str, Any]) -> Step:
    """One request as a server makes it, without a socket."""
    environ: WSGIEnvironment = {
        "REQUEST_METHOD": "GET",
        "SCRIPT_NAME": "",
        "PATH_INFO": "/healthz",
        "RAW_URI": "/healthz",
        "QUERY_STRING": "",
        "SERVER_NAME": "bench.example",
        "SERVER_PORT": "443",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "REMOTE_ADDR": "127.0.0.1",
        "REMOTE_PORT": "40000",
        "HTTP_HOST": "bench.example",
        "HTTP_USER_AGENT": "bench",
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": "https",
        "wsgi.input": io.BytesIO(),
        "wsgi.errors": sys.stderr,
        "wsgi.multithread": True,
        "wsgi.multiprocess": False,
        "wsgi.run_once": False,
        **extra,
    }
    statuses: list[str] = []

    def start_response(status: str, _headers: Any, _exc_info: Any = None, /) -> Callable[[bytes], object]:
        statuses.append(status)
        return lambda _data: None

    def once() -> bytes:
        statuses.clear()
        iterable = app(dict(environ), start_response)
        body = b"".join(iterable)
        close = getattr(iterable, "close", None)
        if close is not None:
            close()
        return body

    if once() != b'{"status":"ok"}' or statuses != ["200 OK"]:
        raise RuntimeError(f"not the app's answer: {statuses}")
    return once
