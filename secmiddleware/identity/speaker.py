"""Who a presented chain speaks for: the verdict, the leaf's names, and what its anchor may assert."""

from __future__ import annotations

import hashlib
from datetime import datetime
from functools import lru_cache
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from secmiddleware.certificates.judgement import Judged, Rejected, Trust
from secmiddleware.certificates.names import Names
from secmiddleware.identity.patterns import NameKind, NamePattern
from secmiddleware.messages import Identity, Presented, Refusal

# Reading a leaf's names costs 20 to 50 us; an entry a few KiB. It is a pure function: an old entry is never
# wrong.
_IDENTITIES_KEPT: Final = 1024


def identify(presented: Presented, trust: Trust, now: datetime) -> Identity | Refusal:
    """The identity that a presented chain speaks for at `now`, or the refusal; no reason beside its code.

    Where the chain's anchor may assert certain names only, every name of the leaf must be one of them, and a
    leaf without any name is refused: it could be anybody's.
    """
    match trust.judge(presented, now):
        case Rejected(code=code):
            return Refusal(code, "mtls.trust" if code == "certificate_untrusted" else None)
        case Judged() if presented.rejected:
            return Refusal("certificate_untrusted", "mtls.source")
        case Judged() as judged:
            return _speak(judged, presented.source)


@lru_cache(maxsize=_IDENTITIES_KEPT)
def _speak(judged: Judged, source: str) -> Identity | Refusal:
    names = Names.of(judged.leaf)
    anchor = judged.anchor
    if anchor.may_assert and not _may_assert(anchor.may_assert, names):
        return Refusal("certificate_untrusted", "mtls.trust.may_assert")
    leaf = judged.leaf
    above = judged.chain[1:]
    return Identity(
        subject=leaf.subject.rfc4514_string(),
        issuer=leaf.issuer.rfc4514_string(),
        serial=leaf.serial_number,
        dns=names.dns,
        uris=names.uris,
        emails=names.emails,
        ips=names.ips,
        spiffe_id=names.spiffe_id,
        sha256=leaf.fingerprint(SHA256()).hex(),
        spki_sha256=_spki_sha256(leaf),
        not_before=leaf.not_valid_before_utc,
        not_after=leaf.not_valid_after_utc,
        anchor=anchor.sha256,
        source=source,
        der=leaf.public_bytes(Encoding.DER),
        issuers=tuple(ca.fingerprint(SHA256()).hex() for ca in above),
        issuer_spkis=tuple(map(_spki_sha256, above)),
    )


def _spki_sha256(certificate: x509.Certificate) -> str:
    spki = certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return hashlib.sha256(spki).hexdigest()


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
