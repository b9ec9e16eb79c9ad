"""Whoever else makes spans, and wherever: one request is one tree, and one SERVER span stands at its root."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from asgi.calling import Call, body_messages, call, http_scope
from cli.command import environment
from fastapi import FastAPI
from flask import Flask
from opentelemetry import trace
from opentelemetry.instrumentation.asgi import OpenTelemetryMiddleware as ContribAsgi
from opentelemetry.instrumentation.wsgi import OpenTelemetryMiddleware as ContribWsgi
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF
from opentelemetry.trace import SpanKind
from starlette.applications import Starlette
from starlette.middleware.opentelemetry import OpenTelemetryMiddleware as StarletteOwn
from starlette.requests import Request as StarletteRequest
from starlette.responses import JSONResponse
from starlette.routing import Mount, Route

from secmiddleware.asgi import SecMiddleware
from secmiddleware.engine import Admission
from secmiddleware.messages import Refusal, RequestHead
from secmiddleware.security import SecurityManager
from secmiddleware.telemetry.audit import AuditObservation, AuditObserver
from secmiddleware.telemetry.opentelemetry import OpenTelemetryObserver
from telemetry.conftest import Shop
from telemetry.seeing import Sdk
from telemetry.shells import Request, Shell, through_asgi, through_wsgi

REMOTE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def _items() -> Starlette:
    async def item(request: StarletteRequest) -> JSONResponse:
        return JSONResponse(request.path_params)

    return Starlette(routes=[Route("/items/{id}", item), Mount("/v1", routes=[Route("/items/{id}", item)])])


def _get(app: Any, shop: Shop, path: str = "/items/7", **headers: str) -> Call:
    told = [(name.encode(), value.encode()) for name, value in headers.items()]
    return call(app, http_scope(path, presented=shop.caller, headers=told), {"type": "http.request"})


@pytest.mark.parametrize(
    ("path", "route"),
    [("/items/7", "/items/{id}"), ("/v1/items/7", "/v1/items/{id}"), ("/v1/items/v1", "/items/{id}")],
)
def test_ours_outermost_is_named_after_the_route_that_the_framework_chose(
    shop: Shop, sdk: Sdk, path: str, route: str
) -> None:
    done = _get(SecMiddleware(_items(), config=shop.manager, observer=sdk.observer()), shop, path)
    assert done.status == 200
    assert sdk.tree.outline == f"SERVER GET {route}"
    assert (sdk.tree.span.attributes or {})["http.route"] == route


@pytest.mark.parametrize("path", ["/items/7", "/customers/7"], ids=["watched", "held"])
def test_a_flask_app_is_named_after_its_rule_too(shop: Shop, sdk: Sdk, path: str) -> None:
    app = Flask(__name__)

    @app.get("/items/<int:id>")
    @app.get("/customers/<int:id>")
    def item(id: int) -> dict[str, int]:  # noqa: A002  (as in the path)
        return {"id": id}

    request = Request(path, presented=shop.caller, wrap=lambda _: app)
    assert through_wsgi(shop.manager, sdk.observer(), request).status == 200
    template = path.replace("7", "<int:id>")
    assert sdk.tree.span.name == f"GET {template}"
    (labels,) = sdk.points("http.server.request.duration")
    assert dict(labels)["http.route"] == template


def test_inside_the_contrib_middleware_its_span_is_enriched_and_gets_the_children(
    shop: Shop, sdk: Sdk
) -> None:
    ours = SecMiddleware(_items(), config=shop.manager, observer=sdk.observer())
    app = ContribAsgi(
        ours, tracer_provider=sdk.tracers, meter_provider=sdk.meters, exclude_spans=["send", "receive"]
    )
    assert call(app, http_scope("/items/7")).status == 401
    root, child = sdk.tree.outline
    assert root.startswith("SERVER GET")
    assert child == "INTERNAL secmiddleware.authenticate"
    told = dict(sdk.tree.span.attributes or {})
    assert told["secmiddleware.decision"] == "deny"
    assert told["secmiddleware.reason"] == "certificate_missing"
    assert "secmiddleware.overhead.duration" in told
    # What is theirs to say, they say: in the conventions that they speak.
    assert "url.path" not in told
    assert sdk.points("http.server.request.duration") == {}


def test_a_span_that_ends_with_the_response_still_has_the_children_and_the_counts(
    shop: Shop, sdk: Sdk
) -> None:
    async def echo(scope: Any, receive: Any, send: Any) -> None:
        headers = [(b"content-type", b"application/json")]
        body = (await receive())["body"]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    ours = SecMiddleware(echo, config=shop.manager, observer=sdk.observer())
    app = ContribAsgi(ours, tracer_provider=sdk.tracers, exclude_spans=["send", "receive"])
    body = json.dumps({"ssn": shop.token(b'"123-45-6789"')}).encode()
    headers = [(b"content-type", b"application/json")]
    scope = http_scope("/customers", method="POST", presented=shop.caller, headers=headers)
    assert call(app, scope, *body_messages(body)).status == 200
    root, *below = sdk.tree.outline
    assert root.startswith("SERVER POST")
    assert below == ["INTERNAL secmiddleware.decrypt", "INTERNAL secmiddleware.encrypt"]
    told = sdk.tree.span.attributes or {}
    assert told["secmiddleware.crypto.decrypted_fields"] == 1
    assert told["secmiddleware.crypto.encrypted_fields"] == 1


def test_a_span_of_the_app_around_us_is_enriched_whatever_its_kind(
    shop: Shop, sdk: Sdk, shell: Shell
) -> None:
    with sdk.tracers.get_tracer("app").start_as_current_span("mine"):
        shell(shop.manager, sdk.observer(), Request())
    assert sdk.tree.outline == ("INTERNAL mine", "INTERNAL secmiddleware.authenticate")


def test_the_contrib_middleware_inside_ours_is_below_it(shop: Shop, sdk: Sdk) -> None:
    inner = ContribAsgi(_items(), tracer_provider=sdk.tracers, exclude_spans=["send", "receive"])
    _get(SecMiddleware(inner, config=shop.manager, observer=sdk.observer()), shop, traceparent=REMOTE)
    assert sdk.tree.outline == ("SERVER GET /items/{id}", "INTERNAL GET /items/7")


def test_the_contrib_wsgi_middleware_inside_and_outside(shop: Shop, sdk: Sdk) -> None:
    def wrap(app: Any) -> Any:
        return ContribWsgi(app, tracer_provider=sdk.tracers)

    answer = through_wsgi(shop.manager, sdk.observer(), Request("/x", presented=shop.caller, wrap=wrap))
    assert answer.status == 200
    root, *below = sdk.tree.outline
    assert root == "SERVER GET"
    assert below == ["INTERNAL GET /x"]


def test_starlettes_own_inside_ours_nests_though_it_reads_the_headers_anew(shop: Shop, sdk: Sdk) -> None:
    inner = StarletteOwn(_items(), tracer_provider=sdk.tracers)
    _get(SecMiddleware(inner, config=shop.manager, observer=sdk.observer()), shop, traceparent=REMOTE)
    assert sdk.tree.outline == ("SERVER GET /items/{id}", "SERVER GET /items/{id}")
    assert sdk.tree.span.instrumentation_scope is not None
    assert sdk.tree.span.instrumentation_scope.name == "secmiddleware"
    assert sdk.tree.span.parent is not None
    assert f"{sdk.tree.span.parent.trace_id:032x}" in REMOTE


def _fastapi(sdk: Sdk) -> FastAPI:
    app = FastAPI(
        telemetry={"tracer_provider": sdk.tracers, "meter_provider": sdk.meters, "operation_spans": False}
    )

    @app.get("/items/{id}")
    async def item(id: str) -> dict[str, str]:  # noqa: A002  (as in the path)
        return {"id": id}

    return app


def test_fastapis_own_outside_ours_is_enriched(shop: Shop, sdk: Sdk) -> None:
    app = _fastapi(sdk)
    app.add_middleware(SecMiddleware, config=shop.manager, observer=sdk.observer())
    assert _get(app, shop, traceparent=REMOTE).status == 200
    assert sdk.tree.outline == "SERVER GET /items/{id}"
    assert sdk.tree.span.instrumentation_scope is not None
    assert sdk.tree.span.instrumentation_scope.name == "fastapi"
    assert (sdk.tree.span.attributes or {})["secmiddleware.decision"] == "allow"
    assert sum(sdk.points("http.server.request.duration").values()) == 1


def test_fastapis_own_inside_ours_is_one_tree(shop: Shop, sdk: Sdk) -> None:
    _get(SecMiddleware(_fastapi(sdk), config=shop.manager, observer=sdk.observer()), shop, traceparent=REMOTE)
    assert sdk.tree.outline == ("SERVER GET /items/{id}", "SERVER GET /items/{id}")


def test_spans_of_the_app_are_below_ours(shop: Shop, sdk: Sdk, shell: Shell) -> None:
    def look(_scope: Any) -> None:
        sdk.tracers.get_tracer("app").start_span("query").end()

    shell(shop.manager, sdk.observer(), Request(presented=shop.caller, look=look))
    assert sdk.tree.outline == ("SERVER GET", "INTERNAL query")
    assert trace.get_current_span() is trace.INVALID_SPAN, "nothing of ours stays in force"


def test_a_request_that_is_not_sampled_makes_no_root_anywhere_and_is_measured(
    shop: Shop, shell: Shell
) -> None:
    sdk = Sdk(ALWAYS_OFF)
    seen: list[Any] = []

    def look(_scope: Any) -> None:
        seen.append(trace.get_current_span().get_span_context())
        sdk.tracers.get_tracer("app").start_span("query").end()

    shell(shop.manager, sdk.observer(), Request(presented=shop.caller, look=look))
    assert sdk.spans == ()
    assert seen[0].is_valid
    assert not seen[0].trace_flags.sampled
    (labels,) = sdk.points("http.server.request.duration")
    assert dict(labels)["http.response.status_code"] == 200


def test_an_outer_span_that_is_not_sampled_gets_no_children_and_no_sibling(shop: Shop, shell: Shell) -> None:
    off, on = Sdk(ALWAYS_OFF), Sdk()
    with off.tracers.get_tracer("app").start_as_current_span("mine", kind=SpanKind.SERVER):
        shell(shop.manager, on.observer(), Request())
    assert on.spans == ()


def test_metrics_alone_make_no_spans_and_touch_no_header(shop: Shop, sdk: Sdk, shell: Shell) -> None:
    seen: list[Any] = []
    headers = (("traceparent", REMOTE),)
    request = Request(presented=shop.caller, headers=headers, look=seen.append)
    shell(shop.manager, sdk.observer(traces=False), request)
    assert sdk.spans == ()
    assert REMOTE in str(seen[0])
    assert sum(sdk.points("http.server.request.duration").values()) == 1


def test_spans_alone_make_no_metrics(shop: Shop, sdk: Sdk, shell: Shell) -> None:
    shell(shop.manager, sdk.observer(metrics=False), Request(presented=shop.caller))
    assert len(sdk.spans) == 1
    assert sdk.points("http.server.request.duration") == {}


def test_without_an_sdk_the_app_gets_the_servers_own_send_and_its_headers(shop: Shop) -> None:
    observation = shop.manager.observer
    given: dict[str, Any] = {}

    async def app(scope: Any, receive: Any, send: Any) -> None:
        given.update(send=send, receive=receive, headers=scope["headers"])
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body"})

    server = Call(http_scope("/x", presented=shop.caller, headers=[(b"traceparent", REMOTE.encode())]))

    async def run() -> None:
        await server.to(SecMiddleware(app, config=shop.manager, observer=observation))

    asyncio.run(run())
    assert given["send"] == server.send
    assert given["receive"] == server.receive
    assert given["headers"] == [(b"traceparent", REMOTE.encode())]


def test_an_sdk_that_the_process_sets_up_late_is_found_within_a_second(tmp_path: Path) -> None:
    (tmp_path / "late.py").write_text(LATE)
    done = subprocess.run(
        [sys.executable, str(tmp_path / "late.py")],
        env={**environment(), "PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["nobody", "somebody", "GET", "1"]


def test_the_sdk_is_asked_for_once_a_second_and_when_the_clock_was_set_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    observer, asked = OpenTelemetryObserver(), []
    nobody = trace.get_tracer_provider()

    def provider() -> trace.TracerProvider:
        asked.append(len(asked))
        return nobody

    monkeypatch.setattr(trace, "get_tracer_provider", provider)
    told = []
    for seconds in (5, 5.9, 6, 6.1, 3, 3):
        head = RequestHead("http", "GET", "https", "/")
        observer.begin(head, Refusal("internal_error"), int(seconds * 1e9))
        told.append(len(asked))
    assert told == [1, 1, 2, 2, 3, 3]


LATE = """
import asyncio
from opentelemetry import metrics, trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from secmiddleware.messages import RequestHead
from secmiddleware.security import SecurityManager
from secmiddleware.telemetry.observer import ExchangeRecord, Unobserved

manager = SecurityManager.from_config({"service": {"name": "x"}, "mtls": {"client": "off"}}, {})

def exchange(started_ns):
    head = RequestHead("http", "GET", "https", "/")
    observation = manager.observer.begin(head, manager.admit(head), started_ns)
    observation.end(ExchangeRecord(200))
    return observation

def within(observation):
    return "nobody" if type(observation) is Unobserved else "somebody"

print(within(exchange(1)))
spans, reader = InMemorySpanExporter(), InMemoryMetricReader()
trace.set_tracer_provider(TracerProvider())
trace.get_tracer_provider().add_span_processor(SimpleSpanProcessor(spans))
metrics.set_meter_provider(MeterProvider([reader]))
print(within(exchange(10**9)))
print(spans.get_finished_spans()[0].name)
told = reader.get_metrics_data().resource_metrics[0].scope_metrics[0].metrics
print([m.data.data_points[0].count for m in told if m.name == "http.server.request.duration"][0])
"""


def test_a_disabled_sdk_is_as_good_as_none(shop: Shop, monkeypatch: pytest.MonkeyPatch, shell: Shell) -> None:
    monkeypatch.setenv("OTEL_SDK_DISABLED", "true")
    disabled = Sdk()
    seen: list[Any] = []
    headers = (("traceparent", REMOTE),)
    request = Request(presented=shop.caller, headers=headers, look=seen.append)
    assert shell(shop.manager, disabled.observer(), request).status == 200
    assert REMOTE in str(seen[0])
    assert disabled.spans == ()
    denied = Request(headers=headers)
    answer = shell(shop.manager, disabled.observer(trust_inbound_context="always"), denied)
    assert json.loads(answer.body)["trace_id"] not in REMOTE


def test_a_span_read_from_elsewhere_into_the_context_does_not_own_the_request(shop: Shop, sdk: Sdk) -> None:
    theirs = trace.NonRecordingSpan(trace.SpanContext(1, 2, is_remote=True, trace_flags=trace.TraceFlags(1)))
    with trace.use_span(theirs):
        through_asgi(shop.manager, sdk.observer(), Request())  # nobody whom we know
    assert sdk.tree.span.parent is None
    assert sdk.tree.span.kind is SpanKind.SERVER


def test_the_settings_switch_all_of_it_off(shop: Shop) -> None:
    seen: list[Any] = []
    manager = SecurityManager.from_config({**shop.config, "telemetry": {"traces": "off"}}, {})
    here = trace.SpanContext(1, 2, is_remote=False)
    with trace.use_span(trace.NonRecordingSpan(here)):
        answer = through_asgi(manager, None, Request(look=seen.append))
    told = json.loads(answer.body)["trace_id"]
    assert len(told) == 32
    assert told != trace.format_trace_id(here.trace_id)


class _Quiet(AuditObserver):
    """Wants a context round the app, and nothing else."""

    def __init__(self) -> None:
        super().__init__()
        self.around: list[str] = []

    def begin(self, head: RequestHead, verdict: Admission | Refusal, started_ns: int) -> AuditObservation:
        around = self.around

        class Observation(AuditObservation):
            @contextmanager
            def active(self) -> Iterator[None]:
                around.append("in")
                yield
                around.append("out")

        return Observation(head, verdict)


def test_what_an_observer_wants_in_force_is_round_the_app_though_nothing_is_watched(
    shop: Shop, shell: Shell
) -> None:
    observer, seen = _Quiet(), []
    request = Request(presented=shop.caller, look=lambda _: seen.append(list(observer.around)))
    assert shell(shop.manager, observer, request).status == 200
    assert seen == [["in"]]
    assert observer.around == ["in", "out"]
