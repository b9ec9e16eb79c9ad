"""What is known of a CA once and for all, so that it is not worked out again for each of its callers."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final, Self

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from secmiddleware.certificates.encoding import spki_of
from secmiddleware.certificates.faults import end_of
from secmiddleware.certificates.spiffe import is_spiffe_uri
from secmiddleware.certificates.strength import Weakness, weakness_of

# Constraints on these names are not understood by the library; only where they are critical it says so.
_UNREAD_CONSTRAINTS: Final = (x509.DirectoryName, x509.OtherName, x509.RegisteredID)


@dataclass(frozen=True, slots=True, eq=False)
class Issuer:
    """A certificate that stands, or may stand, behind a leaf."""

    certificate: x509.Certificate
    subject: str
    """RFC 4514: what its leaves have as their issuer."""
    sha256: str
    """SHA-256 of its DER, lower-case hex."""
    spki_sha256: str
    """SHA-256 of its SubjectPublicKeyInfo, lower-case hex."""
    spiffe_ids: tuple[str, ...]
    constrained: bool
    """Whether it constrains names of a kind that nobody can be held to."""
    weakness: Weakness | None
    since: datetime
    until: datetime
    """The first instant at which it is not valid any more."""

    @classmethod
    def of(cls, certificate: x509.Certificate) -> Self:
        """What is known of a certificate; raises ValueError and others where a part cannot be read."""
        ids: tuple[str, ...] = ()
        constrained = False
        for extension in certificate.extensions:
            match extension.value:
                case x509.SubjectAlternativeName() as names:
                    uris = names.get_values_for_type(x509.UniformResourceIdentifier)
                    ids = tuple(uri for uri in uris if is_spiffe_uri(uri))
                case x509.NameConstraints() as constraints:
                    trees = (*(constraints.permitted_subtrees or ()), *(constraints.excluded_subtrees or ()))
                    constrained = any(isinstance(tree, _UNREAD_CONSTRAINTS) for tree in trees)
        _ = certificate.issuer
        der = certificate.public_bytes(Encoding.DER)
        return cls(
            certificate,
            certificate.subject.rfc4514_string(),
            hashlib.sha256(der).hexdigest(),
            hashlib.sha256(spki_of(der)).hexdigest(),
            ids,
            constrained,
            weakness_of(certificate),
            certificate.not_valid_before_utc,
            end_of(certificate),
        )


@dataclass(frozen=True, slots=True, eq=False)
class Line:
    """The CAs behind a leaf, from the one that issued it to the anchor; none behind a leaf that is one."""

    issuers: tuple[Issuer, ...]
    sha256s: tuple[str, ...]
    """SHA-256 of the DER of each, lower-case hex."""
    spki_sha256s: tuple[str, ...]
    """SHA-256 of their SubjectPublicKeyInfo, in the same order."""
    peculiar: bool
    """Whether one of them has a SPIFFE id, or constrains names of a kind that nobody can be held to."""
    since: datetime
    until: datetime
    """From when, and before when, all of them are valid."""

    @classmethod
    def of(cls, issuers: tuple[Issuer, ...]) -> Self:
        """What is known of these together."""
        return cls(
            issuers,
            tuple(issuer.sha256 for issuer in issuers),
            tuple(issuer.spki_sha256 for issuer in issuers),
            any(issuer.constrained or issuer.spiffe_ids for issuer in issuers),
            max((issuer.since for issuer in issuers), default=datetime.min.replace(tzinfo=UTC)),
            min((issuer.until for issuer in issuers), default=datetime.max.replace(tzinfo=UTC)),
        )
