"""`OTEL_EXPORTER_OTLP_ENDPOINT=… secmiddleware run …` is enough, and nothing less exports anything."""

from __future__ import annotations

import http.client
import json
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from cli.command import OURS, PATIENCE, ended, environment, free_port, listens, made, running, until

from secmiddleware.certificates.contexts import client_context
from secmiddleware.encryption.keyring import Context
from secmiddleware.security import SecurityManager
from secmiddleware.telemetry.exporting import wanted
from telemetry.collector import Collector, values

CANARY = "canary-7b1f0d"
APP = """
from opentelemetry import trace

async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        while True:
            kind = (await receive())["type"]
            await send({"type": kind + ".complete"})
            if kind == "lifespan.shutdown":
                return
    if scope["path"] == "/customers/none":
        raise RuntimeError("canary-7b1f0d")
    if scope["path"] == "/healthz":
        trace.get_tracer("shop").start_span("look").end()
    body = (await receive())["body"]
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})
"""
WSGI_APP = """
def app(environ, start_response):
    if environ["PATH_INFO"] == "/customers/none":
        raise RuntimeError("canary-7b1f0d")
    body = environ["wsgi.input"].read(int(environ["CONTENT_LENGTH"]))
    start_response("200 OK", [("Content-Type", "application/json"), ("Content-Length", str(len(body)))])
    return [body]
"""
OWN_SDK = """
from opentelemetry import metrics, trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.trace import TracerProvider
trace.set_tracer_provider(TracerProvider(shutdown_on_exit=False))
metrics.set_meter_provider(MeterProvider(shutdown_on_exit=False))
"""


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("starter") / "app"
    config = made(folder)
    (folder / "shop.py").write_text(APP)
    (folder / "wsgi_shop.py").write_text(WSGI_APP)
    (folder / "tracing_shop.py").write_text(OWN_SDK + APP)
    return config


class Served:
    def __init__(self, process: subprocess.Popen[bytes], port: int, config: Path, log: Path) -> None:
        self.process, self.port, self.config, self.log = process, port, config, log

    def call(self, target: str, document: object = None, *, certificate: bool = True, **headers: str) -> int:
        pki = self.config.parent / "pki"
        pair = (pki / "client.pem", pki / "client.key") if certificate else ()
        context = client_context(pki / "ca.pem", *pair)
        connection = http.client.HTTPSConnection("localhost", self.port, context=context, timeout=PATIENCE)
        body = json.dumps({} if document is None else document)
        try:
            connection.request("POST", target, body, {"content-type": "application/json", **headers})
            response = connection.getresponse()
            response.read()
            return response.status
        finally:
            connection.close()

    def token(self, value: str) -> str:
        with SecurityManager.from_config(self.config, {}) as manager:
            keyring = manager.snapshot.keyring
            assert keyring is not None
            return keyring.seal(json.dumps(value).encode(), Context("ssn"), datetime.now(UTC)).decode()


@contextmanager
def served(config: Path, app: str, folder: Path, *options: str, **env: str) -> Iterator[Served]:
    port, log = free_port(), folder / "log"
    command = [*OURS, "run", app, "--config", config, "--port", str(port), *options]
    kept = {name: value for name, value in environment().items() if not name.startswith("OTEL_")}
    with running(command, log=log, cwd=config.parent, env={**kept, **env}) as process:
        until(lambda: listens(port) or process.poll() is not None, "it listens", log)
        assert process.poll() is None, log.read_text()
        yield Served(process, port, config, log)


@pytest.mark.parametrize(("app", "workers"), [("shop:app", 1), ("shop:app", 2), ("wsgi_shop:app", 2)])
def test_an_endpoint_is_enough_to_find_the_tree_and_the_metrics(
    config: Path, tmp_path: Path, app: str, workers: int
) -> None:
    with Collector() as collector:
        options = {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.endpoint}
        with served(config, app, tmp_path, "--workers", str(workers), **options) as server:
            document = {"ssn": server.token(CANARY), "name": "Ada"}
            assert server.call(f"/customers?q={CANARY}", document, authorization=CANARY) == 200
            assert server.call("/customers", document, certificate=False) == 401
            assert server.call("/customers/none", document) == 500
            # Neither the batch's 5 s nor the reader's 60 s are waited for: what is left is sent at the end.
            assert ended(server.process, signal.SIGTERM) in (0, -signal.SIGTERM)
        spans = {span.span_id: span for span in collector.spans}
        assert sorted(
            (spans[span.parent_span_id].name if span.parent_span_id in spans else None, span.name)
            for span in collector.spans
            if span.parent_span_id
        ) == [
            ("POST", "secmiddleware.authenticate"),
            ("POST", "secmiddleware.decrypt"),
            ("POST", "secmiddleware.decrypt"),
            ("POST", "secmiddleware.encrypt"),
        ]
        assert sorted(
            values(span.attributes).get("http.response.status_code", 0)
            for span in collector.spans
            if not span.parent_span_id
        ) == [200, 401, 500]
        names = {metric.name for metric in collector.metrics}
        assert {
            "http.server.request.duration",
            "secmiddleware.mtls.verifications",
            "secmiddleware.crypto.fields",
            "secmiddleware.key.age",
            "secmiddleware.certificate.expiry",
        } <= names
        assert {resource["service.name"] for resource in collector.resources} == {"app"}
        told = {resource["service.instance.id"] for resource in collector.resources}
        assert all(re.fullmatch("[0-9a-f]{32}", one) for one in told)
        assert len(told) == 1 if workers == 1 else len(told) in (1, 2)
        assert CANARY.encode() not in collector.raw
    # An exception that the app lets out is in the server's own log, as ever.
    assert "OTEL" not in server.log.read_text()


def test_a_service_that_names_itself_to_opentelemetry_keeps_that_name(config: Path, tmp_path: Path) -> None:
    with Collector() as collector:
        options = {
            "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": f"{collector.endpoint}/v1/traces",
            "OTEL_SERVICE_NAME": "shop-eu",
            "OTEL_BSP_SCHEDULE_DELAY": "50",
        }
        with served(config, "shop:app", tmp_path, **options) as server:
            assert server.call("/healthz", certificate=False) == 200
            collector.wait(lambda: len(collector.spans) == 2)
        assert [span.name for span in collector.spans] == ["look", "POST"]
        assert collector.spans[0].parent_span_id == collector.spans[1].span_id
        assert collector.resources[0]["service.name"] == "shop-eu"
        assert collector.metrics == []


def test_an_sdk_of_the_app_is_left_alone(config: Path, tmp_path: Path) -> None:
    with Collector() as collector:
        options = {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.endpoint}
        with served(config, "tracing_shop:app", tmp_path, **options) as server:
            assert server.call("/healthz", certificate=False) == 200
            assert ended(server.process, signal.SIGTERM) in (0, -signal.SIGTERM)
        assert collector.raw == b""
    assert "Overriding" not in server.log.read_text()


@pytest.mark.parametrize("change", ['traces = "off"', None], ids=["off", "disabled"])
def test_nothing_is_exported_where_that_is_off(config: Path, tmp_path: Path, change: str | None) -> None:
    with Collector() as collector:
        options = {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.endpoint}
        options |= {"SECMIDDLEWARE__TELEMETRY__TRACES": "off"} if change else {"OTEL_SDK_DISABLED": "true"}
        with served(config, "shop:app", tmp_path, **options) as server:
            assert server.call("/healthz", certificate=False) == 200
            assert ended(server.process, signal.SIGTERM) in (0, -signal.SIGTERM)
        assert collector.raw == b""


def test_a_collector_that_never_answers_holds_up_neither_requests_nor_the_end(
    config: Path, tmp_path: Path
) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        options = {"OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{silent.getsockname()[1]}"}
        with served(config, "shop:app", tmp_path, **options) as server:
            assert server.call("/healthz", certificate=False) == 200
            began = time.monotonic()
            assert ended(server.process, signal.SIGTERM) in (0, -signal.SIGTERM)
            assert time.monotonic() - began < 6


def test_an_exporter_that_is_not_installed_is_told_and_the_service_runs(config: Path, tmp_path: Path) -> None:
    options = {"OTEL_TRACES_EXPORTER": "zipkin", "OTEL_METRICS_EXPORTER": "none"}
    with served(config, "shop:app", tmp_path, **options) as server:
        assert server.call("/healthz", certificate=False) == 200
        said = until(lambda: "zipkin" in (text := server.log.read_text()) and text, "it is told", server.log)
    assert "OTEL_* asks for traces, but there is no exporter 'zipkin'" in said
    assert 'pip install "secmiddleware[otel]"' in said


OTLP = {"traces": ("otlp",), "metrics": ("otlp",)}


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({}, {}),
        ({"OTEL_SERVICE_NAME": "shop"}, {}),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://x"}, OTLP),
        ({"OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": "http://x"}, {"metrics": ("otlp",)}),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://x", "OTEL_METRICS_EXPORTER": "none"}, {"traces": ("otlp",)}),
        ({"OTEL_TRACES_EXPORTER": "console, otlp"}, {"traces": ("console", "otlp")}),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://x", "OTEL_SDK_DISABLED": "True"}, {}),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": ""}, {}),
    ],
)
def test_only_a_variable_that_asks_for_an_exporter_brings_one(
    environ: dict[str, str], expected: dict[str, Any]
) -> None:
    assert wanted(environ) == expected


def test_no_sdk_is_even_imported_where_nothing_asks_for_an_exporter() -> None:
    code = (
        "import sys; from secmiddleware.telemetry import exporting; exporting.start_exporting('shop')();"
        "print([name for name in sys.modules if name.startswith('opentelemetry')])"
    )
    env = {name: value for name, value in environment().items() if not name.startswith("OTEL_")}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
