"""What is measured and counted: bounded in its series, and the same word for a failure everywhere."""

from __future__ import annotations

import json
import sys
import threading
from dataclasses import replace

import pytest

from secmiddleware.messages import STATUS_OF, Refusal, RequestHead
from secmiddleware.security import SecurityManager
from secmiddleware.telemetry.counts import Counts
from secmiddleware.telemetry.observer import ExchangeRecord
from secmiddleware.telemetry.opentelemetry import OpenTelemetryObserver
from telemetry.conftest import Shop
from telemetry.seeing import Sdk, series
from telemetry.shells import Request, Shell, through_asgi

DURATION = "http.server.request.duration"
BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0)


def test_a_duration_is_as_the_conventions_have_it(shop: Shop, sdk: Sdk, shell: Shell) -> None:
    shell(shop.manager, sdk.observer(), Request("/x/7", presented=shop.caller, headers=(("host", "evil"),)))
    (metric,) = (metric for metric in sdk.metrics() if metric.name == DURATION)
    assert metric.unit == "s"
    (point,) = metric.data.data_points
    assert point.explicit_bounds == BUCKETS
    assert frozenset(point.attributes.items()) == series(
        http_request_method="GET",
        url_scheme="https",
        network_protocol_version="1.1",
        http_response_status__code=200,
    )
    # The span and the metric tell one time, and the metric points to the span.
    span = sdk.tree.span
    assert point.sum == pytest.approx(((span.end_time or 0) - (span.start_time or 0)) / 1e9, abs=1e-9)
    assert span.context is not None
    assert [exemplar.span_id for exemplar in point.exemplars] == [span.context.span_id]


@pytest.mark.parametrize(
    ("request_", "error"),
    [
        (Request(status=404), None),
        (Request(status=502), "502"),
        (Request(raises=ValueError("canary")), "builtins.ValueError"),
        (Request("/customers", body=b"{}", says=b"{"), "seal_failed"),
        (Request("/customers", body=b"{"), None),
    ],
    ids=["404", "502", "raises", "refused by the server's fault", "refused by the caller's"],
)
def test_a_failure_has_one_name_on_span_and_metric(
    shop: Shop, sdk: Sdk, shell: Shell, request_: Request, error: str | None
) -> None:
    shell(shop.manager, sdk.observer(), replace(request_, presented=shop.caller))
    (labels,) = sdk.points(DURATION)
    assert dict(labels).get("error.type") == error
    assert (sdk.trees[0].span.attributes or {}).get("error.type") == error


def test_verdicts_refusals_and_crypto_work_are_counted(shop: Shop, sdk: Sdk, shell: Shell) -> None:
    observer = sdk.observer()
    body = json.dumps({"ssn": shop.token(b'"123-45-6789"')}).encode()
    for request in (
        Request(presented=shop.caller),
        Request("/open/x"),
        Request(),
        Request("/ops/x", presented=shop.caller),
        Request("/customers", "POST", shop.caller, body=body),
        # The first is opened before the second one is refused.
        Request("/customers", "POST", shop.caller, body=body[:-1] + b', "again": 7}'),
    ):
        shell(shop.manager, observer, request)
    assert sdk.points("secmiddleware.mtls.verifications") == {
        series(secmiddleware_decision="allow"): 3,
        series(secmiddleware_decision="deny", error_type="certificate_missing"): 1,
        series(secmiddleware_decision="deny", error_type="identity_not_allowed"): 1,
    }
    assert sdk.points("secmiddleware.refusals") == {
        series(error_type="certificate_missing"): 1,
        series(error_type="identity_not_allowed"): 1,
        series(error_type="field_undecryptable"): 1,
    }
    assert sdk.points("secmiddleware.crypto.operations") == {
        series(secmiddleware_crypto_operation="decrypt"): 1,
        series(secmiddleware_crypto_operation="encrypt"): 1,
        series(secmiddleware_crypto_operation="decrypt", error_type="field_undecryptable"): 1,
    }
    assert sdk.points("secmiddleware.crypto.fields") == {
        series(secmiddleware_crypto_operation="decrypt"): 2,
        series(secmiddleware_crypto_operation="encrypt"): 1,
    }
    overhead = sdk.points("secmiddleware.overhead.time")
    assert {dict(labels)["secmiddleware.stage"] for labels in overhead} == {"verdict", "request", "response"}
    assert 0 < sum(overhead.values()) < 1


def test_the_age_of_the_key_and_the_first_expiry_are_looked_at_when_asked_for(shop: Shop, sdk: Sdk) -> None:
    observer = sdk.observer(vitals=shop.manager.vitals)
    through_asgi(shop.manager, observer, Request(presented=shop.caller))
    (age,) = sdk.points("secmiddleware.key.age").values()
    assert 0 <= age < 600
    assert sdk.points("secmiddleware.keyring.generation") == {
        series(secmiddleware_ring="shop"): shop.manager.snapshot.keyring.gen  # type: ignore[union-attr]
    }
    expiry = sdk.points("secmiddleware.certificate.expiry")
    anchor = shop.authority.certificate.not_valid_after_utc
    assert list(expiry) == [series(secmiddleware_certificate_role="anchor")]
    (left,) = expiry.values()
    assert 0 < left <= (anchor - shop.authority.certificate.not_valid_before_utc).total_seconds()


def test_a_service_without_keys_has_no_levels_of_them(sdk: Sdk) -> None:
    manager = SecurityManager.from_config({"service": {"name": "x"}, "mtls": {"client": "off"}}, {})
    observer = OpenTelemetryObserver(meter_provider=sdk.meters, vitals=manager.vitals)
    through_asgi(manager, observer, Request())
    assert sum(sdk.points(DURATION).values()) == 1
    for name in (
        "secmiddleware.key.age",
        "secmiddleware.keyring.generation",
        "secmiddleware.certificate.expiry",
    ):
        assert sdk.points(name) == {}


def test_two_apps_of_one_process_are_counted_together_and_warn_of_nothing(
    shop: Shop, sdk: Sdk, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(2):
        through_asgi(shop.manager, sdk.observer(), Request(presented=shop.caller))
    assert sdk.points("secmiddleware.mtls.verifications") == {series(secmiddleware_decision="allow"): 2}
    assert not [record for record in caplog.records if record.name.startswith("opentelemetry")]


def test_routes_made_of_paths_cannot_fill_a_backend(shop: Shop, sdk: Sdk) -> None:
    observer = OpenTelemetryObserver(meter_provider=sdk.meters)
    head = RequestHead("http", "GET", "https", "/open/x")
    verdict = shop.manager.admit(head)
    for number in range(1700):
        observer.begin(head, verdict, 1).end(ExchangeRecord(200, route=f"/{number}"))
    points = sdk.points(DURATION)
    assert len(points) == 1501
    assert sum(points.values()) == 1700
    overflow = series(
        http_request_method="GET", url_scheme="https", network_protocol_version="1.1", http_route="_OTHER"
    )
    assert points[overflow] == 200


def test_nothing_that_callers_choose_is_on_any_metric(shop: Shop, sdk: Sdk) -> None:
    observer = sdk.observer(names=True)
    for number in range(50):
        headers = (("host", f"h{number}"), ("user-agent", f"u{number}"))
        request = Request(f"/p{number}", f"M{number}", shop.caller, headers, query=f"q{number}=1")
        through_asgi(shop.manager, observer, request)
    metrics = [metric for metric in sdk.metrics() if metric.name.startswith(("http.", "secmiddleware."))]
    assert len(metrics) == 3
    assert max(len(metric.data.data_points) for metric in metrics) <= 3
    assert not any("clients/ada" in metric.to_json() for metric in metrics)


def test_every_code_of_a_refusal_can_be_counted_and_makes_one_series(shop: Shop) -> None:
    sums = Counts()
    for code in STATUS_OF:
        sums.add_verdict(Refusal(code), 1)
    denied = {dict(label)["error.type"] for label, _ in sums.of("secmiddleware.mtls.verifications")}
    assert denied == {code for code in STATUS_OF if code.startswith("certificate_")} | {
        "identity_not_allowed",
        "proxy_untrusted",
    }


def test_no_addition_of_many_threads_is_lost() -> None:
    sums = Counts()

    def add() -> None:
        for _ in range(5000):
            sums.add("secmiddleware.refusals", 1, ("error.type", "x"))

    threads = [threading.Thread(target=add) for _ in range(4)]
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    assert sums.of("secmiddleware.refusals") == [((("error.type", "x"),), 20000)]
