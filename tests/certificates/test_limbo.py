"""x509-limbo: the judge agrees with every case, or docs/x509-limbo.md says why it does not."""

from __future__ import annotations

import json
import lzma
import re
import warnings
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, ClassVar

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID

from secmiddleware.certificates.judgement import Judged, Trust
from secmiddleware.certificates.revocation import Revocations, check_list, parse_lists
from secmiddleware.certificates.trust import CertificateError, TrustAnchor
from secmiddleware.messages import Presented

TESTS = Path(__file__).parents[1]
CASES: list[dict[str, Any]] = json.loads(
    lzma.decompress((TESTS / "vectors" / "x509-limbo" / "limbo.json.xz").read_bytes())
)["testcases"]
PAGE = (TESTS.parent / "docs" / "x509-limbo.md").read_text()
LISTED = {match[1] for match in re.finditer(r"^\| `([^`]+)` \|", PAGE, re.MULTILINE)}
ACCEPTED = {
    match[1] for match in re.finditer(r"^\| `([^`]+)` \|", PAGE.partition("## Refused")[0], re.MULTILINE)
}
NOW = datetime(2026, 11, 24, tzinfo=UTC)


class _TrustInServers(Trust):
    """The same judge, asked for servers."""

    _usage: ClassVar[x509.ObjectIdentifier] = ExtendedKeyUsageOID.SERVER_AUTH


def accepts(case: dict[str, Any], profile: Any = "strict") -> bool:
    kind = Trust if case["validation_kind"] == "CLIENT" else _TrustInServers
    now = NOW if case["validation_time"] is None else datetime.fromisoformat(case["validation_time"])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of certificates that the case wants to be refused
        roots = [x509.load_pem_x509_certificate(pem.encode()) for pem in case["trusted_certs"]]
        leaf, *rest = (
            x509.load_pem_x509_certificate(pem.encode()).public_bytes(Encoding.DER)
            for pem in (case["peer_certificate"], *case["untrusted_intermediates"])
        )
    try:
        lists = [check_list(crl, roots) for pem in case["crls"] for crl in parse_lists(pem.encode())]
        revocations = Revocations(lists) if case["crls"] else None
        trust = kind(tuple(TrustAnchor(root) for root in roots), profile, (), revocations)
    except CertificateError:
        return False  # the service would not start
    return isinstance(trust.judge(Presented(leaf, tuple(rest)), now), Judged)


@pytest.mark.parametrize("case", CASES, ids=[case["id"] for case in CASES])
def test_a_case_agrees_or_stands_in_the_table_with_a_reason(case: dict[str, Any]) -> None:
    agrees = accepts(case) == (case["expected_result"] == "SUCCESS")
    assert agrees != (case["id"] in LISTED)
    if not agrees:
        assert accepts(case) == (case["id"] in ACCEPTED)


def test_every_case_for_clients_agrees() -> None:
    of_clients = {case["id"] for case in CASES if case["validation_kind"] == "CLIENT"}
    assert of_clients
    assert not of_clients & LISTED


def test_the_table_names_cases_that_are_there_and_gives_each_a_reason() -> None:
    assert {case["id"] for case in CASES} >= LISTED
    rows = re.findall(r"^\| `[^`]+` \| (.*) \|$", PAGE, re.MULTILINE)
    assert len(rows) == len(LISTED)
    assert all(reason.strip() for reason in rows)
    assert f"all {len(CASES)} cases" in PAGE


def test_the_lists_are_what_the_cases_with_lists_hang_on() -> None:
    of_lists = [case for case in CASES if case["crls"]]
    assert len(of_lists) == 7
    revoked = next(case for case in of_lists if case["id"] == "crl::revoked-certificate-with-crl")
    assert not accepts(revoked)
    assert accepts(revoked | {"crls": []})
    silent = next(case for case in of_lists if case["id"] == "crl::issuer-no-keyusage-extension")
    assert accepts(silent, "private-pki")
