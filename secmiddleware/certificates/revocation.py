"""Revocation lists (RFC 5280 §5): checked once where they are read, then looked up in a dict.

A list counts only where its issuer is a trust anchor or an intermediate that the settings name: checking a
signature over a large list takes 50 ms, which no request is to wait for, so a CA that only callers present
cannot speak. Lists over a part of the reasons, of other CAs' certificates (indirect) or of changes (delta)
are refused, for each says less than it seems to.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final, Literal

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from secmiddleware.certificates.encoding import UNREADABLE, is_cut_short
from secmiddleware.certificates.strength import is_broken
from secmiddleware.certificates.trust import CertificateError

Missing = Literal["refuse", "allow"]
Signer = tuple[bytes, bytes]
"""Who signs a list: the DER of a name and of a public key. A CA's renewed certificate is the same signer."""

_PEM: Final = re.compile(
    rb"-----BEGIN X509 CRL-----\r?\n[A-Za-z0-9+/=\s]+-----END X509 CRL-----"
)  # RFC 7468 §6
_BEGIN: Final = b"-----BEGIN X509 CRL-----"
# So that requests are not held up while a list of 100,000 entries is read beside them.
_ENTRIES_AT_ONCE: Final = 500


class UnknownIssuerError(CertificateError):
    """A list is signed by nobody who may: its issuer is no anchor and no configured intermediate."""


@dataclass(frozen=True, slots=True)
class Scope:
    """Which of its issuer's certificates a list speaks of (RFC 5280 §5.2.5)."""

    only: Literal["leaves", "cas"] | None = None
    points: frozenset[x509.GeneralName] = frozenset()
    """Of those whose cRLDistributionPoints name one of these only; empty: of all."""

    def covers(self, certificate: x509.Certificate, *, is_ca: bool) -> bool:
        """Whether the list says anything about this certificate."""
        if self.only is not None and (self.only == "cas") != is_ca:
            return False
        return not self.points or not self.points.isdisjoint(_points_of(certificate))


@dataclass(frozen=True, slots=True)
class Revoked:
    """An entry of a list."""

    reason: str
    since: datetime

    def __str__(self) -> str:
        return f"{self.reason}, since {self.since:%Y-%m-%dT%H:%M:%SZ}"


@dataclass(frozen=True, slots=True, eq=False)
class RevocationList:
    """A list that was checked, as it is looked up."""

    signer: Signer = field(repr=False)
    issuer_sha256: str
    """SHA-256 of the DER of the certificate that it was checked against, lower-case hex."""
    scope: Scope
    number: int | None
    this_update: datetime
    next_update: datetime
    revoked: Mapping[int, Revoked] = field(repr=False)

    def is_current(self, now: datetime) -> bool:
        """Whether it is neither from the future nor overdue."""
        return self.this_update <= now < self.next_update


@dataclass(frozen=True, slots=True)
class Standing:
    """What the lists say of one certificate: whether it is revoked, and how long that answer holds."""

    revoked: Revoked | None
    current: RevocationList | None
    """The list to go by; None where there is none, or none that is current."""


class Revocations:
    """The lists that are in force. Immutable."""

    def __init__(self, lists: Iterable[RevocationList], missing: Missing = "refuse") -> None:
        """`missing` is what becomes of a certificate whose issuer has no current list."""
        self.missing = missing
        newest: dict[tuple[Signer, Scope], RevocationList] = {}
        for one in lists:
            other = newest.get((one.signer, one.scope))
            if other is None or (other.this_update, other.number or 0) < (one.this_update, one.number or 0):
                newest[one.signer, one.scope] = one
        self.lists = tuple(newest.values())
        self._of: dict[Signer, tuple[RevocationList, ...]] = {}
        for one in self.lists:
            self._of[one.signer] = (*self._of.get(one.signer, ()), one)

    def standing(
        self, certificate: x509.Certificate, issuer: x509.Certificate, now: datetime, *, is_ca: bool
    ) -> Standing:
        """What is known of a certificate that `issuer` has issued.

        A list that is overdue still revokes; it just does not say that anything is good.
        """
        current = None
        for one in self._of.get(signer_of(issuer), ()):
            if not one.scope.covers(certificate, is_ca=is_ca):
                continue
            revoked = one.revoked.get(certificate.serial_number)
            if revoked is not None:
                return Standing(revoked, None)
            if one.is_current(now) and (current is None or current.next_update < one.next_update):
                current = one
        return Standing(None, current)


def signer_of(certificate: x509.Certificate) -> Signer:
    """What a list that this certificate's key has signed is found by."""
    spki = certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return certificate.subject.public_bytes(), spki


def parse_lists(data: bytes) -> tuple[x509.CertificateRevocationList, ...]:
    """The lists of a file, PEM (any number) or DER (one), not checked yet. ValueError where there is none."""
    try:
        if _BEGIN not in data:
            return (x509.load_der_x509_crl(data),)
        blocks = _PEM.findall(data)
        if len(blocks) != data.count(_BEGIN) or is_cut_short(data):
            raise ValueError("a list is not complete")
        return tuple(x509.load_pem_x509_crl(block) for block in blocks)
    except x509.InvalidVersion as error:  # which is no ValueError
        raise ValueError("a list is of a version that there is not (RFC 5280 §5.1.2.1)") from error


def check_list(crl: x509.CertificateRevocationList, issuers: Sequence[x509.Certificate]) -> RevocationList:
    """The list, ready to be looked up, where one of `issuers` has signed it and we understand all it says.

    That it is overdue is no fault of it here. Raises UnknownIssuerError where none of them has, and
    CertificateError for everything else: both say what is wrong, after the name of the file.
    """
    if crl.next_update_utc is None:
        raise CertificateError(
            "has no nextUpdate, so nobody could tell when it is overdue (RFC 5280 §5.1.2.5)"
        )
    if crl.next_update_utc < crl.last_update_utc:
        raise CertificateError("its nextUpdate is before its thisUpdate")
    try:
        if is_broken(crl.signature_hash_algorithm):
            raise CertificateError("its signature is over a hash that is broken")
        scope, number = _read_extensions(crl)
        issuer = _issuer_of(crl, issuers)
        revoked = dict(_read_entries(crl))
    except UNREADABLE as error:
        raise CertificateError("cannot be read: a part of it is broken or of a kind not known") from error
    return RevocationList(
        signer=signer_of(issuer),
        issuer_sha256=issuer.fingerprint(hashes.SHA256()).hex(),
        scope=scope,
        number=number,
        this_update=crl.last_update_utc,
        next_update=crl.next_update_utc,
        revoked=revoked,
    )


def _issuer_of(crl: x509.CertificateRevocationList, issuers: Sequence[x509.Certificate]) -> x509.Certificate:
    namesakes = [issuer for issuer in issuers if issuer.subject == crl.issuer]
    if not namesakes:
        raise UnknownIssuerError("is of an issuer that is neither in trust nor in intermediates")
    signers = [issuer for issuer in namesakes if _has_signed(crl, issuer)]
    if not signers:
        raise UnknownIssuerError("is not signed by its issuer as it stands in trust or in intermediates")
    for signer in signers:
        if _may_sign(signer):
            return signer
    raise CertificateError("is signed by a certificate that may not sign lists: no CA, or without cRLSign")


def _has_signed(crl: x509.CertificateRevocationList, issuer: x509.Certificate) -> bool:
    try:
        # A key of a kind that signs nothing is a TypeError.
        return crl.is_signature_valid(issuer.public_key())  # type: ignore[arg-type]
    except (TypeError, ValueError, UnsupportedAlgorithm):
        return False


def _may_sign(issuer: x509.Certificate) -> bool:
    """A CA, which cRLSign where it says at all what its key is for (RFC 5280 §6.3.3 (f))."""
    is_ca = False
    for extension in issuer.extensions:
        match extension.value:
            case x509.BasicConstraints(ca=True):
                is_ca = True
            case x509.KeyUsage(crl_sign=False):
                return False
    return is_ca


def _read_extensions(crl: x509.CertificateRevocationList) -> tuple[Scope, int | None]:
    scope = Scope()
    number: int | None = None
    for extension in crl.extensions:
        match extension.value:
            case x509.CRLNumber() as count if not extension.critical:
                number = count.crl_number
            case x509.IssuingDistributionPoint() as point:
                scope = _read_scope(point)
            case x509.DeltaCRLIndicator():
                raise CertificateError("is a delta list, which is of no use alone: name the complete one")
            case _ if extension.critical:
                oid = extension.oid.dotted_string
                raise CertificateError(f"has the critical extension {oid}, which is not understood here")
    return scope, number


def _read_scope(point: x509.IssuingDistributionPoint) -> Scope:
    if point.indirect_crl:
        raise CertificateError("is an indirect list: it speaks for other CAs than its issuer")
    if point.only_some_reasons is not None:
        raise CertificateError("is a list of some reasons only: what is revoked for others is not in it")
    if point.only_contains_attribute_certs:
        raise CertificateError("is a list of attribute certificates, which nobody presents")
    if point.relative_name is not None:
        raise CertificateError(
            "is a list of a part that is named relative to its issuer: not understood here"
        )
    only: Literal["leaves", "cas"] | None = None
    if point.only_contains_user_certs:
        only = "leaves"
    elif point.only_contains_ca_certs:
        only = "cas"
    return Scope(only, frozenset(point.full_name or ()))


def _read_entries(crl: x509.CertificateRevocationList) -> Iterator[tuple[int, Revoked]]:
    for count, entry in enumerate(crl):
        if count % _ENTRIES_AT_ONCE == 0:
            time.sleep(0)
        reason = "unspecified"
        for extension in entry.extensions:
            match extension.value:
                case x509.CRLReason(reason=flag):
                    reason = flag.value
                case x509.InvalidityDate():
                    pass
                case _ if extension.critical:
                    oid = extension.oid.dotted_string
                    raise CertificateError(
                        f"has an entry with the critical extension {oid}: not understood here"
                    )
        # RFC 5280 §6.3.3 (k): it takes a hold back, and is no revocation.
        if reason != x509.ReasonFlags.remove_from_crl.value:
            yield entry.serial_number, Revoked(reason, entry.revocation_date_utc)


def _points_of(certificate: x509.Certificate) -> set[x509.GeneralName]:
    """Where a certificate says that lists about it, for all reasons, are found."""
    try:
        points = certificate.extensions.get_extension_for_class(x509.CRLDistributionPoints).value
    except x509.ExtensionNotFound:
        return set()
    return {
        name
        for point in points
        if point.reasons is None and point.crl_issuer is None
        for name in point.full_name or ()
    }
