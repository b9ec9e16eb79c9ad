"""One SERVER span by the stable conventions, a child for a denial and for crypto work, and nothing secret."""

from __future__ import annotations

import asyncio
import json
import logging
from typing import Any

import pytest
from asgi.calling import call, http_scope
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import SpanKind, StatusCode

from secmiddleware.asgi import SecMiddleware
from secmiddleware.certificates.authority import Authority
from secmiddleware.certificates.judgement import Trust
from secmiddleware.certificates.manager import CertificateManager
from secmiddleware.security import SecurityManager
from telemetry.conftest import CALLER, Shop, presented
from telemetry.seeing import Sdk
from telemetry.shells import Request, Shell, through_asgi

CONNECT = {"type": "websocket.connect"}


class SecretError(Exception):
    pass


def _told(span: ReadableSpan) -> dict[str, Any]:
    return dict(span.attributes or {})


def test_a_request_is_one_server_span_by_the_stable_conventions(shop: Shop, sdk: Sdk, shell: Shell) -> None:
    headers = (("host", "shop.example:8443"), ("user-agent", "curl/8.5"))
    request = Request("/things/7", presented=shop.caller, query="page=2&q=ada", headers=headers)
    assert shell(shop.manager, sdk.observer(), request).status == 200
    (span,) = sdk.spans
    assert span.kind is SpanKind.SERVER
    assert span.name == "GET"
    assert span.status.status_code is StatusCode.UNSET
    assert span.instrumentation_scope is not None
    assert span.instrumentation_scope.name == "secmiddleware"
    assert span.instrumentation_scope.schema_url == "https://opentelemetry.io/schemas/1.44.0"
    told = _told(span)
    assert {name: told[name] for name in told if not name.startswith(("secmiddleware.", "tls."))} == {
        "http.request.method": "GET",
        "http.response.status_code": 200,
        "url.scheme": "https",
        "url.path": "/things/7",
        "url.query": "page=REDACTED&q=REDACTED",
        "network.protocol.version": "1.1",
        "client.address": "127.0.0.1",
        "network.peer.address": "127.0.0.1",
        "network.peer.port": 50000,
        "server.address": "shop.example",
        "server.port": 8443,
        "user_agent.original": "curl/8.5",
    }


def test_who_called_is_told_by_the_digest_of_a_certificate_that_was_judged(
    shop: Shop, sdk: Sdk, shell: Shell
) -> None:
    shell(shop.manager, sdk.observer(), Request(presented=shop.caller))
    told = _told(sdk.tree.span)
    assert told["secmiddleware.decision"] == "allow"
    assert told["tls.client.issuer"] == "CN=test CA"
    assert len(told["tls.client.hash.sha256"]) == 64
    assert told["tls.client.hash.sha256"] == told["tls.client.hash.sha256"].upper()
    assert told["tls.client.not_after"].endswith("Z")
    assert CALLER not in sdk.everything()


def test_a_name_is_told_where_the_settings_want_it(shop: Shop, sdk: Sdk) -> None:
    through_asgi(shop.manager, sdk.observer(names=True), Request(presented=shop.caller))
    assert _told(sdk.tree.span)["secmiddleware.identity"] == CALLER


@pytest.mark.parametrize(
    ("status", "expected", "error"),
    [
        (204, StatusCode.UNSET, None),
        (404, StatusCode.UNSET, None),
        (500, StatusCode.ERROR, "500"),
        (503, StatusCode.ERROR, "503"),
    ],
)
def test_only_a_status_of_5xx_is_an_error_of_the_server(
    shop: Shop, sdk: Sdk, shell: Shell, status: int, expected: StatusCode, error: str | None
) -> None:
    shell(shop.manager, sdk.observer(), Request(presented=shop.caller, status=status))
    span = sdk.tree.span
    assert span.status.status_code is expected
    assert _told(span)["http.response.status_code"] == status
    assert _told(span).get("error.type") == error


@pytest.mark.parametrize("path", ["/plain", "/customers"])
def test_an_exception_is_told_by_its_type_and_never_by_its_text(
    shop: Shop, sdk: Sdk, shell: Shell, path: str
) -> None:
    error = SecretError("canary-in-the-text")
    request = Request(path, "POST", shop.caller, raises=error, body=b"{}")
    assert shell(shop.manager, sdk.observer(), request).raised is error
    span = sdk.trees[0].span
    assert span.status.status_code is StatusCode.ERROR
    assert span.status.description is None
    assert span.events == ()
    assert _told(span)["error.type"] == f"{__name__}.SecretError"
    assert "canary" not in sdk.everything()


def test_a_denied_caller_is_a_child_that_failed_below_a_span_that_did_not(
    shop: Shop, sdk: Sdk, shell: Shell
) -> None:
    assert shell(shop.manager, sdk.observer(), Request()).status == 401
    assert sdk.tree.outline == ("SERVER GET", "INTERNAL secmiddleware.authenticate")
    span, child = sdk.tree.span, sdk.tree.below[0].span
    assert span.status.status_code is StatusCode.UNSET
    assert "error.type" not in _told(span)
    assert _told(span)["secmiddleware.decision"] == "deny"
    assert _told(span)["secmiddleware.reason"] == "certificate_missing"
    assert child.status.status_code is StatusCode.ERROR
    assert child.status.description is None
    assert _told(child) == {
        "secmiddleware.decision": "deny",
        "secmiddleware.reason": "certificate_missing",
        "secmiddleware.where": "mtls.client",
        "error.type": "certificate_missing",
    }
    assert span.start_time == child.start_time
    assert (child.end_time or 0) <= (span.end_time or 0)


def test_of_a_certificate_that_is_not_good_only_the_digest_is_told(shop: Shop, sdk: Sdk) -> None:
    strange = presented(Authority.create("canary CA"), spiffe_id="spiffe://canary.example/x")
    through_asgi(shop.manager, sdk.observer(names=True), Request(presented=strange))
    told = _told(sdk.span("secmiddleware.authenticate"))
    assert told["error.type"] == "certificate_untrusted"
    assert {name for name in told if name.startswith("tls.")} == {"tls.client.hash.sha256"}
    assert told["secmiddleware.certificate.rule"] == "issuer_unknown"
    assert told["secmiddleware.certificate.place"] == "0"
    assert "canary" not in sdk.everything()


def test_the_caller_the_audit_log_and_the_span_say_one_trace_id(
    shop: Shop, sdk: Sdk, shell: Shell, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "secmiddleware.audit"):
        answer = shell(shop.manager, sdk.observer(), Request())
    (line,) = (record.getMessage() for record in caplog.records if record.name == "secmiddleware.audit")
    assert sdk.tree.span.context is not None
    trace_id = f"{sdk.tree.span.context.trace_id:032x}"
    assert json.loads(answer.body)["trace_id"] == json.loads(line)["trace_id"] == trace_id


def test_crypto_work_has_children_with_their_times_and_counts(shop: Shop, sdk: Sdk, shell: Shell) -> None:
    body = json.dumps({"ssn": shop.token(b'"123-45-6789"')}).encode()
    assert (
        shell(shop.manager, sdk.observer(), Request("/customers", "POST", shop.caller, body=body)).status
        == 200
    )
    tree = sdk.tree
    assert tree.outline == ("SERVER POST", "INTERNAL secmiddleware.decrypt", "INTERNAL secmiddleware.encrypt")
    assert _told(tree.span)["secmiddleware.crypto.decrypted_fields"] == 1
    assert _told(tree.span)["secmiddleware.crypto.encrypted_fields"] == 1
    decrypt, encrypt = (node.span for node in tree.below)
    keyring = shop.manager.snapshot.keyring
    assert keyring is not None
    assert _told(decrypt) == {
        "secmiddleware.stage": "request",
        "secmiddleware.crypto.decrypted_fields": 1,
        "secmiddleware.crypto.encrypted_fields": 0,
        "secmiddleware.crypto.key_ids": (keyring.keys[0].kid,),
    }
    assert _told(encrypt)["secmiddleware.stage"] == "response"
    times = [
        tree.span.start_time,
        decrypt.start_time,
        decrypt.end_time,
        encrypt.start_time,
        encrypt.end_time,
        tree.span.end_time,
    ]
    assert times == sorted(times, key=lambda time: time or 0)
    spent = sum((span.end_time or 0) - (span.start_time or 0) for span in (decrypt, encrypt)) / 1e9
    assert spent < _told(tree.span)["secmiddleware.overhead.duration"] < 1


def test_a_body_in_which_nothing_is_marked_has_no_child(shop: Shop, sdk: Sdk, shell: Shell) -> None:
    shell(shop.manager, sdk.observer(), Request("/customers", "POST", shop.caller, body=b'{"a": 1}'))
    assert sdk.tree.outline == "SERVER POST"


@pytest.mark.parametrize(
    ("request_", "code", "child", "status"),
    [
        (Request(body=b'{"ssn": "sm1.forged"}'), "field_undecryptable", "decrypt", StatusCode.UNSET),
        (Request(body=b"{"), "payload_malformed", "decrypt", StatusCode.UNSET),
        (Request(body=b"[" + b" " * 5000 + b"]"), "payload_too_large", "decrypt", StatusCode.UNSET),
        (Request(body=b"{}", says=b"{"), "seal_failed", "encrypt", StatusCode.ERROR),
        (Request(body=b"{}", says=b"[" + b" " * 5000 + b"]"), "seal_failed", "encrypt", StatusCode.ERROR),
    ],
    ids=["forged", "malformed", "too large", "response malformed", "response too large"],
)
def test_a_refusal_after_the_verdict_is_told_by_the_stage_that_refused(
    shop: Shop, sdk: Sdk, shell: Shell, request_: Request, code: str, child: str, status: StatusCode
) -> None:
    request = Request("/customers", "POST", shop.caller, body=request_.body, says=request_.says)
    answer = shell(shop.manager, sdk.observer(), request)
    assert json.loads(answer.body)["code"] == code
    assert sdk.tree.outline == ("SERVER POST", f"INTERNAL secmiddleware.{child}")
    failed = sdk.tree.below[0].span
    assert failed.status.status_code is StatusCode.ERROR
    assert _told(failed)["error.type"] == code
    assert sdk.tree.span.status.status_code is status
    assert _told(sdk.tree.span)["secmiddleware.reason"] == code
    assert _told(sdk.tree.span)["secmiddleware.decision"] == "deny"
    # What is the caller's fault is no error of the server's.
    assert _told(sdk.tree.span).get("error.type") == (code if status is StatusCode.ERROR else None)


def test_an_unknown_method_makes_no_name_of_its_own(shop: Shop, sdk: Sdk) -> None:
    through_asgi(shop.manager, sdk.observer(), Request(presented=shop.caller, method="BREW" * 20))
    span = sdk.tree.span
    assert span.name == "HTTP"
    assert _told(span)["http.request.method"] == "_OTHER"
    assert _told(span)["http.request.method_original"] == ("BREW" * 20)[:32]


def test_the_known_methods_may_be_replaced(shop: Shop, sdk: Sdk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_INSTRUMENTATION_HTTP_KNOWN_METHODS", "BREW, GET")
    observer = sdk.observer()
    for method in ("BREW", "POST"):
        through_asgi(shop.manager, observer, Request(presented=shop.caller, method=method))
    assert [span.name for span in sdk.spans] == ["BREW", "HTTP"]


def test_tokens_and_parameters_in_a_path_are_not_told(shop: Shop, sdk: Sdk) -> None:
    token = shop.token(b'"1"')
    through_asgi(
        shop.manager, sdk.observer(), Request(f"/by/{token}/x;session=canary/y", presented=shop.caller)
    )
    assert _told(sdk.tree.span)["url.path"] == "/by/REDACTED/x;session=REDACTED/y"


def test_a_websocket_is_a_span_as_long_as_it_lasts(shop: Shop, sdk: Sdk) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        while (await receive())["type"] != "websocket.disconnect":
            pass

    scope = http_scope("/live", type="websocket", scheme="wss", presented=shop.caller)
    del scope["method"]
    call(
        SecMiddleware(app, config=shop.manager, observer=sdk.observer()), scope, {"type": "websocket.connect"}
    )
    assert sdk.tree.outline == "SERVER GET"
    told = _told(sdk.tree.span)
    assert (told["http.response.status_code"], told["url.scheme"]) == (101, "wss")
    assert sdk.points("http.server.request.duration") == {}


def test_a_websocket_that_is_ended_has_the_child_of_a_denial_and_is_counted(shop: Shop, sdk: Sdk) -> None:
    manager = SecurityManager.from_config(
        {**shop.config, "mtls": {**shop.config["mtls"], "recheck": "1s"}}, {}
    )

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        manager.certificates = CertificateManager(Trust(()))
        while (await receive())["type"] != "websocket.disconnect":
            pass

    async def receive() -> Any:
        if (message := next(first, None)) is None:
            await asyncio.Event().wait()
        return message

    async def send(message: Any) -> None:
        pass

    first = iter([CONNECT])
    scope = http_scope("/live", type="websocket", scheme="wss", presented=shop.caller)
    asyncio.run(SecMiddleware(app, config=manager, observer=sdk.observer())(scope, receive, send))
    manager.stop()
    assert sdk.tree.outline == ("SERVER GET", "INTERNAL secmiddleware.authenticate")
    child = sdk.span("secmiddleware.authenticate")
    assert _told(child)["error.type"] == "certificate_untrusted"
    assert sdk.tree.span.status.status_code is StatusCode.UNSET
    assert sdk.points("secmiddleware.refusals") != {}


def test_a_websocket_that_is_refused_has_the_child_of_a_denial(shop: Shop, sdk: Sdk) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        raise AssertionError

    scope = http_scope("/live", type="websocket", scheme="wss")
    call(
        SecMiddleware(app, config=shop.manager, observer=sdk.observer()), scope, {"type": "websocket.connect"}
    )
    assert sdk.tree.outline == ("SERVER GET", "INTERNAL secmiddleware.authenticate")
    assert "http.response.status_code" not in _told(sdk.tree.span)


def test_a_handshake_with_marks_has_the_children_of_what_was_done_to_it(shop: Shop, sdk: Sdk) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "websocket.accept", "headers": scope["headers"]})

    place = {"routes": ["/live"], "marks": ["header:X-SSN"], "request": "decrypt", "response": "encrypt"}
    config = {**shop.config, "fields": {"ssn": {"places": [place]}}}
    with SecurityManager.from_config(config, {}) as manager:
        assert manager.encryption is not None
        shell = SecMiddleware(app, config=manager, observer=sdk.observer())
        for value in (manager.encryption.seal("ssn", b'"1"').encode(), b"plain"):
            scope = http_scope("/live", type="websocket", scheme="wss", presented=shop.caller)
            call(shell, {**scope, "headers": [(b"x-ssn", value)]}, CONNECT)
    opened, denied = sdk.trees
    assert opened.outline == (
        "SERVER GET",
        "INTERNAL secmiddleware.decrypt",
        "INTERNAL secmiddleware.encrypt",
    )
    assert denied.outline == ("SERVER GET", "INTERNAL secmiddleware.decrypt")
    failed = [span.name for span in sdk.spans if _told(span).get("error.type") == "field_undecryptable"]
    assert failed == ["secmiddleware.decrypt"]
