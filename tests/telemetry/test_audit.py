"""The audit log: one line of JSON for every refusal, and nothing in it that is secret or breaks the line."""

from __future__ import annotations

import asyncio
import json
import logging
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding

from secmiddleware.asgi import SecMiddleware
from secmiddleware.certificates.authority import Authority
from secmiddleware.messages import PRESENTED_KEY, Presented


async def _app(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"ok"})


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority.create("test CA")


@pytest.fixture
def wrapped(authority: Authority, tmp_path: Path) -> SecMiddleware:
    (tmp_path / "ca.pem").write_bytes(authority.certificate_pem)
    return SecMiddleware(
        _app,
        config={
            "service": {"name": "shop"},
            "mtls": {"trust": [str(tmp_path / "ca.pem")]},
            "routes": [{"path": "/ops", "allow": ["spiffe://example.org/ops"]}],
        },
    )


def _presented(authority: Authority, **names: Any) -> tuple[Presented, str]:
    pem = authority.issue_client(**names).certificate_pem
    certificate = x509.load_pem_x509_certificate(pem)
    return Presented(certificate.public_bytes(Encoding.DER)), certificate.fingerprint(hashes.SHA256()).hex()


def _call(app: SecMiddleware, path: str, presented: Presented | None) -> list[dict[str, Any]]:
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b""}

    async def send(message: Any) -> None:
        sent.append(message)

    scope: dict[str, Any] = {
        "type": "http",
        "method": "GET",
        "scheme": "https",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"secret=1",
        "headers": [(b"authorization", b"secret")],
        "client": ("192.0.2.7", 4711),
        PRESENTED_KEY: presented,
    }
    asyncio.run(app(scope, receive, send))
    return sent


def _lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name == "secmiddleware.audit"]


def test_a_refusal_is_one_line_with_the_trace_id_that_the_caller_was_shown(
    wrapped: SecMiddleware, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "secmiddleware.audit"):
        sent = _call(wrapped, "/", None)
    problem = json.loads(sent[1]["body"])
    (line,) = _lines(caplog)
    assert json.loads(line) == {
        "event": "access.denied",
        "code": "certificate_missing",
        "status": 401,
        "where": "mtls.client",
        "rule": None,
        "certificate": None,
        "detail": None,
        "protocol": "http",
        "peer": "192.0.2.7",
        "client": None,
        "client_sha256": None,
        "trace_id": problem["trace_id"],
    }


def test_whom_a_rule_refused_is_named(
    wrapped: SecMiddleware, authority: Authority, caplog: pytest.LogCaptureFixture
) -> None:
    presented, digest = _presented(authority, spiffe_id="spiffe://example.org/shop")
    with caplog.at_level(logging.INFO, "secmiddleware.audit"):
        _call(wrapped, "/ops", presented)
    line = json.loads(_lines(caplog)[0])
    assert line["code"] == "identity_not_allowed"
    assert line["where"] == "routes[0].allow"
    assert line["client"] == "spiffe://example.org/shop"
    assert line["client_sha256"] == digest


def test_a_certificate_that_is_not_good_is_named_by_its_digest_alone(
    wrapped: SecMiddleware, caplog: pytest.LogCaptureFixture
) -> None:
    presented, digest = _presented(Authority.create("strange CA"), spiffe_id="spiffe://example.org/ops")
    with caplog.at_level(logging.INFO, "secmiddleware.audit"):
        _call(wrapped, "/ops", presented)
    line = json.loads(_lines(caplog)[0])
    assert line["code"] == "certificate_untrusted"
    assert line["client"] is None
    assert line["client_sha256"] == digest


def test_the_rule_and_the_certificate_that_broke_it_are_for_the_log_alone(
    wrapped: SecMiddleware, authority: Authority, caplog: pytest.LogCaptureFixture
) -> None:
    ended = datetime.now(UTC) - timedelta(days=2)
    presented, _ = _presented(authority, dns=["a.example"], now=ended, lifetime=timedelta(days=1))
    with caplog.at_level(logging.INFO, "secmiddleware.audit"):
        sent = _call(wrapped, "/", presented)
    line = json.loads(_lines(caplog)[0])
    assert (line["code"], line["rule"], line["certificate"]) == ("certificate_expired", "not_after", 0)
    assert line["detail"].startswith("not after 2")
    answer = repr(sent)
    assert "not_after" not in answer
    assert "not after" not in answer


def test_whose_names_a_ca_may_not_assert_is_told_by_the_digest_of_the_ca(
    authority: Authority, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "ca.pem").write_bytes(authority.certificate_pem)
    trust = [{"ca": str(tmp_path / "ca.pem"), "trust_domain": "example.org"}]
    app = SecMiddleware(_app, config={"service": {"name": "shop"}, "mtls": {"trust": trust}})
    presented, _ = _presented(authority, spiffe_id="spiffe://example.com/shop")
    with caplog.at_level(logging.INFO, "secmiddleware.audit"):
        _call(app, "/", presented)
    line = json.loads(_lines(caplog)[0])
    assert (line["code"], line["rule"]) == ("certificate_untrusted", "may_assert")
    assert line["certificate"] == f"sha256:{authority.certificate.fingerprint(hashes.SHA256()).hex()}"


def test_a_name_cannot_break_out_of_its_line(
    wrapped: SecMiddleware, authority: Authority, caplog: pytest.LogCaptureFixture
) -> None:
    presented, _ = _presented(authority, dns=('x.example"}\n{"event": "access.granted',))
    with caplog.at_level(logging.INFO, "secmiddleware.audit"):
        _call(wrapped, "/ops", presented)
    (line,) = _lines(caplog)
    assert "\n" not in line
    assert json.loads(line)["event"] == "access.denied"


def test_a_line_has_no_path_no_query_and_no_header(
    wrapped: SecMiddleware, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "secmiddleware.audit"):
        _call(wrapped, "/very-secret-path", None)
    (line,) = _lines(caplog)
    assert "secret" not in line


def test_who_is_admitted_is_not_logged(
    wrapped: SecMiddleware, authority: Authority, caplog: pytest.LogCaptureFixture
) -> None:
    presented, _ = _presented(authority, spiffe_id="spiffe://example.org/ops")
    with caplog.at_level(logging.INFO, "secmiddleware.audit"):
        assert _call(wrapped, "/ops", presented)[0]["status"] == 200
    assert _lines(caplog) == []
