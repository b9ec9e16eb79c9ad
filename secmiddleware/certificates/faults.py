"""Why no path was found: which certificate broke which rule, worked out after the library has said no.

The library's verifier tells one sentence. What it says is the verdict; this only looks for the certificate
and the rule behind it, by steps that anybody can repeat, and says `path` where it cannot tell.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.x509.oid import ExtendedKeyUsageOID

from secmiddleware.messages import Reason

# Each costs 0.03 to 0.1 ms, and a stranger can present ten namesakes: what is not found by then is a `path`.
_MOST_SIGNATURES: Final = 12
_ANY: Final = ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE
_LONGEST_DETAIL: Final = 200
_SECOND: Final = timedelta(seconds=1)

# In the order in which they are looked for in the library's sentence.
_RULES: Final[tuple[tuple[str, str], ...]] = (
    ("unaccounted-for critical", "critical_extension"),
    ("name constraint", "name_constraints"),
    ("nameConstraints", "name_constraints"),
    ("path length", "path_length"),
    ("max chain depth", "path_length"),
    ("EKU", "extended_key_usage"),
    ("extendedKeyUsage", "extended_key_usage"),
    ("Forbidden public key", "key_kind"),
    ("Forbidden signature", "signature_kind"),
    ("invalid version", "version"),
    ("subjectAltName", "subject_alt_name"),
    ("2.5.29.17:", "subject_alt_name"),
    ("2.5.29.35:", "authority_key_id"),
    ("2.5.29.14:", "subject_key_id"),
    ("2.5.29.19:", "basic_constraints"),
    ("2.5.29.15:", "key_usage"),
    ("2.5.29.37:", "extended_key_usage"),
)
_OF_SOMEBODY: Final = re.compile(r" \(encountered processing .*", re.DOTALL)


def end_of(certificate: x509.Certificate) -> datetime:
    """The first instant at which a certificate is not valid any more."""
    return behind(certificate.not_valid_after_utc)


def behind(last: datetime) -> datetime:
    """The first instant after the end of a certificate, whose last second counts."""
    try:
        return last + _SECOND
    except OverflowError:  # 99991231235959Z, "no well-defined expiration date"
        return last


def date_fault(certificate: x509.Certificate, now: datetime) -> tuple[str, str] | None:
    """The rule about dates that a certificate breaks at `now`, and a sentence; None where it breaks none."""
    if now < certificate.not_valid_before_utc:
        return "not_before", f"not before {certificate.not_valid_before_utc:%Y-%m-%dT%H:%M:%SZ}"
    if now >= end_of(certificate):
        return "not_after", f"not after {certificate.not_valid_after_utc:%Y-%m-%dT%H:%M:%SZ}"
    return None


class Places:
    """Where each certificate of a judgement stands: its place in what was presented, or its digest."""

    def __init__(self, leaf: x509.Certificate, rest: Sequence[x509.Certificate]) -> None:
        self.leaf = leaf
        self.rest = rest

    def of(self, certificate: x509.Certificate) -> int | str:
        """0 for the leaf, 1 and on for what was presented with it, else `sha256:` and the digest."""
        if certificate == self.leaf:
            return 0
        for place, other in enumerate(self.rest, 1):
            if certificate == other:
                return place
        return f"sha256:{certificate.fingerprint(hashes.SHA256()).hex()}"


def find_fault(
    places: Places,
    ours: Iterable[x509.Certificate],
    anchors: Mapping[x509.Certificate, object],
    usage: x509.ObjectIdentifier,
    now: datetime,
    message: str,
) -> Reason:
    """The reason why the library refused this leaf: `ours` are certificates that nobody has to present.

    Goes from the leaf to who issued it, and on, until something is wrong or a trust anchor is reached; then
    the library's own sentence decides.
    """
    pool = tuple(dict.fromkeys((*anchors, *ours, *places.rest)))
    subjects = [(other.subject, other) for other in pool]
    certificate, issued, signatures = places.leaf, 0, _MOST_SIGNATURES
    seen = {certificate}
    while certificate not in anchors:
        wanted = certificate.issuer
        namesakes = [other for subject, other in subjects if subject == wanted and other not in seen]
        if not namesakes:
            return Reason("issuer_unknown", places.of(certificate), "nobody with the name of its issuer")
        signers = []
        for other in namesakes:
            if signatures <= 0:
                return _by_message(places, pool, message)
            signatures -= 1
            if _has_signed(other, certificate):
                signers.append(other)
        if not signers:
            detail = "not signed by any certificate with the name of its issuer"
            return Reason("signature", places.of(certificate), detail)
        # What signs itself under one name is no step further (RFC 5280 §4.2.1.9).
        issued += certificate is not places.leaf and certificate.subject != certificate.issuer
        faults = [(_fault_of_issuer(other, issued, usage, now), other) for other in signers]
        fault, issuer = next(((fault, other) for fault, other in faults if fault is None), faults[0])
        if fault is not None:
            return Reason(fault[0], places.of(issuer), fault[1])
        seen.add(issuer)
        certificate = issuer
    return _by_message(places, pool, message)


def _has_signed(issuer: x509.Certificate, certificate: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(issuer)
    except (InvalidSignature, ValueError, TypeError, UnsupportedAlgorithm):
        return False
    return True


def _fault_of_issuer(
    issuer: x509.Certificate, below: int, usage: x509.ObjectIdentifier, now: datetime
) -> tuple[str, str] | None:
    """What keeps a certificate from issuing (RFC 5280 §6.1.4), `below` CAs down to the leaf not counted."""
    dates = date_fault(issuer, now)
    if dates is not None:
        return dates
    is_ca, length = False, None
    for extension in issuer.extensions:
        match extension.value:
            case x509.BasicConstraints(ca=ca, path_length=path_length):
                is_ca, length = ca, path_length
            case x509.KeyUsage(key_cert_sign=False):
                return "key_cert_sign", "its keyUsage does not let it sign certificates"
            case x509.ExtendedKeyUsage() as usages if usage not in usages and _ANY not in usages:
                return "eku_client_auth", "it issues for other purposes only"
            case x509.UnrecognizedExtension() if extension.critical:
                return "critical_extension", f"has the critical extension {extension.oid.dotted_string}"
    if not is_ca:
        return "ca_flag", "is not the certificate of a CA"
    if length is not None and length < below:
        return "path_length", f"{below} CAs stand below it, {length} may"
    return None


def _by_message(places: Places, pool: Iterable[x509.Certificate], message: str) -> Reason:
    """The reason as far as the library's sentence tells; the part with a subject is taken off."""
    detail = _OF_SOMEBODY.sub("", message).removeprefix("validation failed: ")[:_LONGEST_DETAIL]
    rule = next((rule for words, rule in _RULES if words in detail), "path")
    named = (one for one in (places.leaf, *pool) if f"processing {one!r})" in message)
    return Reason(rule, places.of(next(named, places.leaf)), detail)
