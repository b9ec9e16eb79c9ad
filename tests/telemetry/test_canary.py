"""A secret that is put everywhere a caller or an app can put one is found nowhere that operators look.

Not in a span, a metric, a log, a problem, a `repr` or `status()`; whatever became of the request.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pytest

from secmiddleware.certificates.authority import Authority
from secmiddleware.messages import IDENTITY_KEY, Presented
from secmiddleware.telemetry.audit import AuditObservation, AuditObserver
from telemetry.adapters import ADAPTERS
from telemetry.conftest import Shop, presented
from telemetry.seeing import Sdk
from telemetry.shells import SHELLS, Answer, Request, Shell

CANARY = "canary-5f1c93e2"


EVERY = {**SHELLS, **ADAPTERS}


@dataclass(frozen=True)
class Case:
    name: str
    code: str | None
    """With which it is refused; None: it is not."""
    who: str = "ada"
    path: str = "/customers"
    body: str = '{"ssn": "<token>"}'
    says: str | None = None
    raises: bool = False
    status: int = 200


CASES = [
    Case("served", None),
    Case("failed by the app", None, status=500),
    Case("raised by the app, where nothing is held", None, path="/plain", raises=True),
    Case("raised by the app", "internal_error", raises=True),
    Case("nobody", "certificate_missing", who="nobody"),
    Case("a stranger", "certificate_untrusted", who="stranger"),
    Case("rubbish for a certificate", "certificate_malformed", who="rubbish"),
    Case("not allowed here", "identity_not_allowed", path="/ops/x"),
    Case("an ambiguous path", "path_ambiguous", path="//customers"),
    Case("plaintext in place of a token", "field_undecryptable", body=f'{{"ssn": "{CANARY}"}}'),
    Case("a forged token", "field_undecryptable", body=f'{{"ssn": "sm1.{CANARY}"}}'),
    Case("no JSON", "payload_malformed", body=f'{{"ssn": "{CANARY}'),
    Case("too large", "payload_too_large", body=f'{{"ssn": "{CANARY}"{" " * 5000}}}'),
    Case("leaked by the app", "seal_failed", says=f'{{"other": "{CANARY}"}}'),
    Case("no JSON from the app", "seal_failed", says=f'{{"ssn": "{CANARY}'),
]


def _who(shop: Shop, case: Case) -> Presented | None:
    match case.who:
        case "nobody":
            return None
        case "rubbish":
            return Presented(CANARY.encode())
        case "stranger":
            strange = Authority.create(f"{CANARY} CA")
            return presented(strange, spiffe_id=f"spiffe://x.example/{CANARY}", common_name=CANARY)
    return shop.certificate(spiffe_id="spiffe://example.org/clients/ada", common_name=CANARY)


class _Keeping(AuditObserver):
    """Keeps what shells are given, for its `repr`."""

    def __init__(self, within: AuditObserver) -> None:
        super().__init__(within._within)
        self.kept: list[object] = []

    def begin(self, head: Any, verdict: Any, started_ns: int) -> AuditObservation:
        observation = super().begin(head, verdict, started_ns)
        within = [getattr(observation, name) for name in observation.__slots__]
        self.kept += [head, verdict, observation, within]
        return observation


@contextmanager
def _all_logs(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Everything, ours and everybody's, down to the last detail."""
    loggers = [logging.getLogger(name) for name in ("secmiddleware", "opentelemetry")]
    with caplog.at_level(logging.DEBUG):
        for logger in loggers:
            logger.setLevel(logging.DEBUG)
        try:
            yield
        finally:
            for logger in loggers:
                logger.setLevel(logging.NOTSET)


@pytest.mark.parametrize("trusting", ["always", "never"])
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
@pytest.mark.parametrize("shell", EVERY.values(), ids=EVERY)
def test_a_secret_is_found_nowhere(
    shop: Shop, sdk: Sdk, shell: Shell, case: Case, trusting: str, caplog: pytest.LogCaptureFixture
) -> None:
    token = shop.token(json.dumps(CANARY).encode())
    seen: list[Any] = []
    request = Request(
        path=case.path,
        method="POST",
        presented=_who(shop, case),
        headers=(
            ("authorization", f"Bearer {CANARY}"),
            ("cookie", f"session={CANARY}"),
            ("x-forwarded-client-cert", CANARY),
            ("baggage", f"user={CANARY}"),
            ("referer", f"https://x.example/{CANARY}"),
        ),
        query=f"ssn={CANARY}&{CANARY}",
        body=case.body.replace("<token>", token).encode(),
        status=case.status,
        raises=RuntimeError(CANARY) if case.raises else None,
        says=None if case.says is None else case.says.encode(),
        look=lambda scope: seen.append(scope[IDENTITY_KEY]),
    )
    observer = _Keeping(sdk.observer(trust_inbound_context=trusting, vitals=shop.manager.vitals))
    with _all_logs(caplog):
        answer = shell(shop.manager, observer, request)
    assert _code(answer) == case.code
    if case.code is None and not case.raises:
        # It was there to be found: the app was given all of it.
        assert seen
        assert CANARY in seen[0].subject
    haystacks = {
        "spans and metrics": sdk.everything(),
        "logs": "\n".join(f"{record.getMessage()} {record.args}" for record in caplog.records),
        "problem": answer.body.decode() + str(answer.headers),
        "status": json.dumps(shop.manager.status()),
        "reprs": repr(
            [observer.kept, observer, shop.manager, shop.manager.snapshot, shop.manager.encryption]
        ),
    }
    assert len(haystacks["spans and metrics"]) > 1000
    for where, hay in haystacks.items():
        assert CANARY not in hay, where


def _code(answer: Answer) -> str | None:
    try:
        told = json.loads(answer.body)
    except ValueError:
        return None
    return told.get("code") if isinstance(told, dict) else None
