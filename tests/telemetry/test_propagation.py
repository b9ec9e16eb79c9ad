"""Whose word on a trace is taken, and what the app is told of it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from asgi.calling import call, http_scope
from opentelemetry import baggage, propagate, trace
from opentelemetry.propagators.composite import CompositePropagator
from opentelemetry.propagators.textmap import TextMapPropagator

from secmiddleware.asgi import SecMiddleware
from telemetry.conftest import Shop
from telemetry.seeing import Sdk
from telemetry.shells import Request, Shell

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
THEIRS = (
    ("traceparent", f"00-{TRACE}-{SPAN}-01"),
    ("tracestate", "vendor=theirs"),
    ("baggage", "user=ada"),
)


def _exchange(
    shop: Shop, sdk: Sdk, shell: Shell, trusting: str, *, known: bool, headers: Any = THEIRS
) -> dict[str, Any]:
    """What the app found: headers by name, and the baggage in force."""
    seen: dict[str, Any] = {}

    def look(scope: dict[str, Any]) -> None:
        seen["baggage"] = dict(baggage.get_all())
        for name in ("traceparent", "tracestate", "baggage"):
            if "headers" in scope:
                values = [value for key, value in scope["headers"] if key == name.encode()]
                assert len(values) < 2
                seen[name + "_header"] = values[0].decode() if values else None
            else:
                seen[name + "_header"] = scope.get(f"HTTP_{name.upper()}")

    request = Request(
        "/x" if known else "/open/x", presented=shop.caller if known else None, headers=headers, look=look
    )
    assert shell(shop.manager, sdk.observer(trust_inbound_context=trusting), request).status == 200
    return seen


@pytest.mark.parametrize("known", [True, False], ids=["known", "stranger"])
@pytest.mark.parametrize("trusting", ["always", "mtls_only", "link", "never"])
def test_a_trace_is_joined_linked_or_left_as_the_settings_say(
    shop: Shop, sdk: Sdk, shell: Shell, trusting: str, known: bool
) -> None:
    seen = _exchange(shop, sdk, shell, trusting, known=known)
    span = sdk.tree.span
    assert span.context is not None
    joined = trusting == "always" or (trusting == "mtls_only" and known)
    if joined:
        assert span.parent is not None
        assert (f"{span.parent.trace_id:032x}", f"{span.parent.span_id:016x}") == (TRACE, SPAN)
        assert seen["tracestate_header"] == "vendor=theirs"
        assert seen["baggage_header"] == "user=ada"
        assert seen["baggage"] == {"user": "ada"}
    else:
        assert span.parent is None
        assert f"{span.context.trace_id:032x}" != TRACE
        assert seen["tracestate_header"] is None
        assert seen["baggage_header"] is None
        assert seen["baggage"] == {}
    linked = [f"{link.context.trace_id:032x}-{link.context.span_id:016x}" for link in span.links]
    assert linked == ([f"{TRACE}-{SPAN}"] if trusting == "link" else [])
    ours, _, flags = seen["traceparent_header"].rpartition("-")
    assert ours == f"00-{span.context.trace_id:032x}-{span.context.span_id:016x}"
    assert int(flags, 16) & 1, "sampled"


def test_a_certificate_that_is_not_looked_at_earns_no_belief(shop: Shop, sdk: Sdk, shell: Shell) -> None:
    request = Request("/open/x", presented=shop.caller, headers=THEIRS)
    shell(shop.manager, sdk.observer(), request)
    assert sdk.tree.span.parent is None


def test_a_caller_who_is_known_and_not_allowed_is_denied_within_its_own_trace(
    shop: Shop, sdk: Sdk, shell: Shell
) -> None:
    request = Request("/ops/x", presented=shop.caller, headers=THEIRS)
    assert shell(shop.manager, sdk.observer(), request).status == 403
    assert sdk.tree.span.parent is not None
    assert sdk.tree.outline == ("SERVER GET", "INTERNAL secmiddleware.authenticate")


def test_a_stranger_cannot_have_itself_sampled_or_not(shop: Shop, sdk: Sdk, shell: Shell) -> None:
    unsampled = (("traceparent", f"00-{TRACE}-{SPAN}-00"),)
    _exchange(shop, sdk, shell, "mtls_only", known=False, headers=unsampled)
    assert len(sdk.spans) == 1
    _exchange(shop, sdk, shell, "link", known=False, headers=unsampled)
    assert len(sdk.spans) == 2


@pytest.mark.parametrize(
    "headers",
    [
        (),
        (("traceparent", "rubbish"),),
        (("traceparent", "00-" + "0" * 32 + f"-{SPAN}-01"),),
        (("traceparent", f"ff-{TRACE}-{SPAN}-01"),),
        (("traceparent", ""),),
        (("tracestate", "a=b"), ("baggage", "%%%")),
    ],
)
@pytest.mark.parametrize("trusting", ["always", "link"])
def test_what_is_no_trace_begins_one(
    shop: Shop, sdk: Sdk, shell: Shell, trusting: str, headers: Any, caplog: pytest.LogCaptureFixture
) -> None:
    seen = _exchange(shop, sdk, shell, trusting, known=True, headers=headers)
    assert sdk.tree.span.parent is None
    assert sdk.tree.span.links == ()
    assert seen["traceparent_header"] is not None


def test_two_traceparents_are_none(shop: Shop, sdk: Sdk) -> None:
    headers = [
        (b"traceparent", f"00-{TRACE}-{SPAN}-01".encode()),
        (b"TraceParent", f"00-{TRACE[::-1]}-{SPAN}-01".encode()),
    ]
    given: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        given.extend(value for name, value in scope["headers"] if name == b"traceparent")
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body"})

    shell = SecMiddleware(app, config=shop.manager, observer=sdk.observer(trust_inbound_context="always"))
    call(shell, http_scope("/x", presented=shop.caller, headers=headers))
    assert sdk.tree.span.parent is None
    assert len(given) == 1


def test_other_headers_keep_their_order(shop: Shop, sdk: Sdk) -> None:
    headers = [(b"a", b"1"), (b"traceparent", b"x"), (b"b", b"2"), (b"a", b"3"), (b"baggage", b"k=v")]
    given: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        given.extend(scope["headers"])
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body"})

    shell = SecMiddleware(app, config=shop.manager, observer=sdk.observer(trust_inbound_context="never"))
    call(shell, http_scope("/x", presented=shop.caller, headers=headers))
    assert given[:3] == [(b"a", b"1"), (b"b", b"2"), (b"a", b"3")]
    assert [name for name, _ in given[3:]] == [b"traceparent"]


class _Uber(TextMapPropagator):
    """Jaeger's own header, as far as this test needs it."""

    fields = {"uber-trace-id"}  # noqa: RUF012  (the API's name for it)

    def extract(self, carrier: Any, context: Any = None, getter: Any = None) -> Any:
        (value,) = carrier["uber-trace-id"]
        trace_id, span_id, *_ = value.split(":")
        remote = trace.SpanContext(int(trace_id, 16), int(span_id, 16), True, trace.TraceFlags(1))
        return trace.set_span_in_context(trace.NonRecordingSpan(remote), context)

    def inject(self, carrier: Any, context: Any = None, setter: Any = None) -> None:
        here = trace.get_current_span(context).get_span_context()
        carrier["uber-trace-id"] = f"{here.trace_id:032x}:{here.span_id:016x}:0:1"


@pytest.fixture
def spoken() -> Iterator[None]:
    before = propagate.get_global_textmap()
    propagate.set_global_textmap(CompositePropagator([_Uber()]))
    yield
    propagate.set_global_textmap(before)


@pytest.mark.parametrize("trusting", ["always", "never"])
def test_a_trace_travels_in_the_headers_that_the_process_speaks(
    shop: Shop, sdk: Sdk, spoken: None, trusting: str
) -> None:
    given: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        given.extend(value.decode() for name, value in scope["headers"] if name == b"uber-trace-id")
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body"})

    shell = SecMiddleware(app, config=shop.manager, observer=sdk.observer(trust_inbound_context=trusting))
    headers = [(b"uber-trace-id", f"{TRACE}:{SPAN}:0:1".encode())]
    call(shell, http_scope("/x", presented=shop.caller, headers=headers))
    span = sdk.tree.span
    assert (span.parent is not None) == (trusting == "always")
    assert span.context is not None
    assert given == [f"{span.context.trace_id:032x}:{span.context.span_id:016x}:0:1"]


def test_a_websocket_gets_our_span_too(shop: Shop, sdk: Sdk) -> None:
    given: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        given.extend(value.decode() for name, value in scope["headers"] if name == b"traceparent")
        await send({"type": "websocket.accept"})

    scope = http_scope("/live", type="websocket", scheme="wss", presented=shop.caller)
    call(SecMiddleware(app, config=shop.manager, observer=sdk.observer()), scope)
    assert sdk.tree.span.context is not None
    assert f"{sdk.tree.span.context.span_id:016x}" in given[0]
