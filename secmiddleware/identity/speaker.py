"""Who a presented chain speaks for: the verdict, the leaf's names, and what its anchor may assert."""

from __future__ import annotations

from datetime import datetime
from typing import Final

from secmiddleware.certificates.judgement import Judged, Rejected, Trust
from secmiddleware.certificates.names import Names
from secmiddleware.identity.patterns import NameKind, NamePattern
from secmiddleware.messages import Identity, Presented, Reason, Refusal

_KEY_OF: Final = {
    "certificate_untrusted": "mtls.trust",
    "certificate_revoked": "mtls.crl",
    "revocation_unavailable": "mtls.crl",
}


def identify(presented: Presented, trust: Trust, now: datetime) -> Identity | Refusal:
    """The identity that a presented chain speaks for at `now`, or the refusal, with the reason for our log.

    Where the chain's anchor may assert certain names only, every name of the leaf must be one of them, and a
    leaf without any name is refused: it could be anybody's.
    """
    judged = trust.judge(presented, now)
    if isinstance(judged, Rejected):
        return Refusal(judged.code, _KEY_OF.get(judged.code), reason=judged.reason)
    if presented.rejected:
        return Refusal("certificate_untrusted", "mtls.source")
    # By source: one certificate may come over several ways, and it is the verdict's own.
    found = judged.spoken.get(presented.source)
    if found is None:
        found = judged.spoken[presented.source] = _speak(judged, presented.source)
    return found


def _speak(judged: Judged, source: str) -> Identity | Refusal:
    leaf, anchor = judged.leaf, judged.anchor
    names = leaf.names
    if anchor.may_assert and not _may_assert(anchor.may_assert, names):
        reason = Reason("may_assert", f"sha256:{anchor.sha256}", "it may not speak for all names of the leaf")
        return Refusal("certificate_untrusted", "mtls.trust.may_assert", reason=reason)
    line = judged.line
    return Identity(
        subject=leaf.subject,
        issuer=line.issuers[0].subject if line.issuers else anchor.certificate.issuer.rfc4514_string(),
        serial=leaf.serial,
        dns=names.dns,
        uris=names.uris,
        emails=names.emails,
        ips=names.ips,
        spiffe_id=names.spiffe_id,
        sha256=leaf.sha256,
        spki_sha256=leaf.spki_sha256,
        not_before=leaf.since,
        not_after=leaf.last,
        anchor=anchor.sha256,
        source=source,
        der=leaf.der,
        issuers=line.sha256s,
        issuer_spkis=line.spki_sha256s,
    )


def _may_assert(texts: tuple[str, ...], names: Names) -> bool:
    """Whether each of a leaf's names falls under one of the patterns, and there is one."""
    if names.others:
        return False
    asserted: list[tuple[NameKind, str]] = [
        *(("dns", name) for name in names.dns),
        *(("email", name) for name in names.emails),
        *(("ip", name) for name in names.ips),
        *(("spiffe" if name == names.spiffe_id else "uri", name) for name in names.uris),
    ]
    patterns = tuple(NamePattern.parse(text) for text in texts)
    return bool(asserted) and all(
        any(pattern.matches_name(kind, name) for pattern in patterns) for kind, name in asserted
    )
