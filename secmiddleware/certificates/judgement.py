"""Whether a presented chain is good: `Trust` is what is believed, `judge` the verdict.

The order is fixed, so that a certificate with two faults is always refused for the same one: malformed,
dates, strength, purpose, chain. Revocation and policy come after, and elsewhere. TLS has judged already
where the source is the server; it is judged again because a resumed session, a proxy or an ageing connection
proves nothing.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Final, Literal

from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID
from cryptography.x509.verification import (
    Criticality,
    ExtensionPolicy,
    Policy,
    PolicyBuilder,
    Store,
    VerificationError,
)

from secmiddleware.certificates.names import Names
from secmiddleware.certificates.strength import weakness_of
from secmiddleware.certificates.trust import CertificateError, TrustAnchor
from secmiddleware.messages import Presented

Profile = Literal["strict", "private-pki"]

# Real chains have two or three certificates; OpenSSL takes 100 KiB at most for a whole list, and so do we.
_MAX_CHAIN: Final = 10
_MAX_CHAIN_BYTES: Final = 100 * 1024

# A good chain costs 0.1 to 0.4 ms to verify and a look-up 1 us; each entry holds a few KiB of certificates.
_MAX_KEPT: Final = 256


@dataclass(frozen=True, slots=True)
class Judged:
    """A chain that is good now: the leaf, the whole path from it to the anchor's, and the anchor."""

    leaf: x509.Certificate
    chain: tuple[x509.Certificate, ...]
    anchor: TrustAnchor


@dataclass(frozen=True, slots=True)
class Rejected:
    """A chain that is not good, with the refusal's code; `detail` is for our own log, not the caller's."""

    code: str
    detail: str


@dataclass(frozen=True, slots=True)
class _Kept:
    """A verdict, and when all certificates of its path are valid: from `since`, before `until`."""

    judged: Judged
    since: datetime
    until: datetime


@dataclass(frozen=True, slots=True)
class Trust:
    """What is believed: the anchors, and how much is asked of the chains that end in them. Immutable.

    `strict` is what the web's PKI asks for. `private-pki` takes what everyday private CAs make (no
    subjectAltName, or a critical one; a critical extendedKeyUsage; no authorityKeyIdentifier; a CA without
    keyUsage, or whose basicConstraints are not critical) and asks for everything else: purpose, CA flags,
    path lengths, name constraints, known critical extensions.

    A leaf that is itself an anchor is good without any CA, so that a single client can be pinned; it passes
    every other check like any leaf, and it never vouches for another certificate. A CA is no leaf, not even
    as an anchor. Raises CertificateError where one certificate is to be trusted in two ways.
    """

    anchors: tuple[TrustAnchor, ...]
    profile: Profile = "strict"
    _anchor_of: dict[x509.Certificate, TrustAnchor] = field(init=False, repr=False, compare=False)
    _store: Store | None = field(init=False, repr=False, compare=False)
    # Read and written by many threads without a lock: single dict operations only, and losing an entry is
    # harmless.
    _kept: dict[tuple[bytes, tuple[bytes, ...]], _Kept] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        anchor_of: dict[x509.Certificate, TrustAnchor] = {}
        for anchor in self.anchors:
            if anchor_of.setdefault(anchor.certificate, anchor) != anchor:
                subject = anchor.certificate.subject.rfc4514_string()
                raise CertificateError(f"{subject!r} is trusted twice, with different may_assert")
        object.__setattr__(self, "_anchor_of", anchor_of)
        object.__setattr__(self, "_store", Store(list(anchor_of)) if anchor_of else None)
        object.__setattr__(self, "_kept", {})

    def judge(self, presented: Presented, now: datetime) -> Judged | Rejected:
        """The verdict on a presented chain at `now` (aware); never raises for anything that a caller sends.

        A verdict is kept for as long as every certificate of its path is valid, and given again for the same
        bytes.
        """
        kept = self._kept.get((presented.leaf, presented.chain))
        if kept is not None and kept.since <= now < kept.until:
            return kept.judged
        verdict = self._judge(presented, now)
        if isinstance(verdict, Judged):
            if len(self._kept) >= _MAX_KEPT:
                self._kept.clear()
            since = max(certificate.not_valid_before_utc for certificate in verdict.chain)
            until = min(_end_of(certificate) for certificate in verdict.chain)
            self._kept[presented.leaf, presented.chain] = _Kept(verdict, since, until)
        return verdict

    def _judge(self, presented: Presented, now: datetime) -> Judged | Rejected:
        read = _read(presented)
        if isinstance(read, Rejected):
            return read
        leaf, rest = read
        for rejected in (_judge_dates(leaf, now), self._judge_strength(leaf, rest), _judge_purpose(leaf)):
            if rejected is not None:
                return rejected
        return self._judge_chain(leaf, rest, now)

    def _judge_strength(self, leaf: x509.Certificate, rest: Iterable[x509.Certificate]) -> Rejected | None:
        for certificate in (leaf, *rest):
            # An anchor's key was looked at when it was trusted, and its signature is never relied upon.
            if certificate is not leaf and certificate in self._anchor_of:
                continue
            weakness = weakness_of(certificate)
            if weakness is not None:
                return Rejected("certificate_weak", weakness)
        return None

    def _judge_chain(
        self, leaf: x509.Certificate, rest: Iterable[x509.Certificate], now: datetime
    ) -> Judged | Rejected:
        if self._store is None:
            return Rejected("certificate_untrusted", "nothing is trusted")
        builder = PolicyBuilder().store(self._store).time(now.astimezone(UTC).replace(microsecond=0))
        if self.profile == "private-pki":
            builder = builder.extension_policies(ca_policy=_PRIVATE_CA, ee_policy=_PRIVATE_LEAF)
        intermediates = [certificate for certificate in dict.fromkeys(rest) if certificate != leaf]
        try:
            chain = builder.build_client_verifier().verify(leaf, intermediates).chain
        except VerificationError as error:
            return Rejected("certificate_untrusted", str(error))
        return Judged(leaf, tuple(chain), self._anchor_of[chain[-1]])


def _read(presented: Presented) -> tuple[x509.Certificate, list[x509.Certificate]] | Rejected:
    """The leaf and the rest of a presented chain, each of them wholly readable."""
    if len(presented.chain) > _MAX_CHAIN:
        return Rejected("certificate_malformed", f"more than {_MAX_CHAIN} certificates beside the leaf")
    if len(presented.leaf) + sum(map(len, presented.chain)) > _MAX_CHAIN_BYTES:
        return Rejected("certificate_malformed", f"more than {_MAX_CHAIN_BYTES} bytes of certificates")
    try:
        leaf, *rest = (_read_certificate(der) for der in (presented.leaf, *presented.chain))
        Names.of(leaf)
    # A warning is an exception where the interpreter runs with -W error: cryptography warns of a serial
    # number that is not positive and of other faults.
    except (
        ValueError,
        TypeError,
        OverflowError,
        x509.InvalidVersion,
        x509.DuplicateExtension,
        Warning,
    ) as error:
        return Rejected("certificate_malformed", str(error))
    return leaf, rest


def _read_certificate(der: bytes) -> x509.Certificate:
    """A certificate whose lazy parts have all been read; ValueError and others where one cannot be."""
    certificate = x509.load_der_x509_certificate(der)
    if certificate.serial_number <= 0:
        raise ValueError("the serial number is not positive (RFC 5280 §4.1.2.2)")
    if certificate.not_valid_before_utc > certificate.not_valid_after_utc:
        raise ValueError("the validity ends before it begins")
    _ = certificate.subject, certificate.issuer, certificate.extensions
    return certificate


def _judge_dates(leaf: x509.Certificate, now: datetime) -> Rejected | None:
    if now < leaf.not_valid_before_utc:
        return Rejected(
            "certificate_not_yet_valid", f"not before {leaf.not_valid_before_utc:%Y-%m-%dT%H:%M:%SZ}"
        )
    if now >= _end_of(leaf):
        return Rejected("certificate_expired", f"not after {leaf.not_valid_after_utc:%Y-%m-%dT%H:%M:%SZ}")
    return None


def _end_of(certificate: x509.Certificate) -> datetime:
    """The first instant at which a certificate is not valid any more: its last second counts."""
    try:
        return certificate.not_valid_after_utc + timedelta(seconds=1)
    except OverflowError:  # 99991231235959Z, "no well-defined expiration date"
        return certificate.not_valid_after_utc


def _judge_purpose(leaf: x509.Certificate) -> Rejected | None:
    """Whether the certificate is for a client of TLS (RFC 5280 §4.2.1.3, .9, .12; RFC 8446 §4.4.2.2)."""
    for extension in leaf.extensions:
        match extension.value:
            case x509.BasicConstraints(ca=True):
                return Rejected("certificate_purpose", "it is the certificate of a CA")
            case x509.KeyUsage() as usage:
                if usage.key_cert_sign or usage.crl_sign:
                    return Rejected("certificate_purpose", "its key is for signing certificates or CRLs")
                if not usage.digital_signature:
                    return Rejected("certificate_purpose", "its key is not for signatures")
            case x509.ExtendedKeyUsage() as usages:
                if ExtendedKeyUsageOID.CLIENT_AUTH not in usages:
                    return Rejected("certificate_purpose", "it is not for client authentication")
    return None


def _require_ca(_policy: Policy, _of: x509.Certificate, extension: x509.BasicConstraints) -> None:
    if not extension.ca:
        raise ValueError("basicConstraints.cA must be asserted in a certificate that issues")


def _require_cert_sign(_policy: Policy, _of: x509.Certificate, extension: x509.KeyUsage | None) -> None:
    if extension is not None and not extension.key_cert_sign:
        raise ValueError("keyUsage must assert keyCertSign in a certificate that issues")


def _require_for_clients(
    _policy: Policy, _of: x509.Certificate, extension: x509.ExtendedKeyUsage | None
) -> None:
    if extension is not None and ExtendedKeyUsageOID.CLIENT_AUTH not in extension:
        raise ValueError("extendedKeyUsage must have clientAuth")


def _require_for_clients_or_all(
    _policy: Policy, _of: x509.Certificate, extension: x509.ExtendedKeyUsage | None
) -> None:
    if extension is not None and ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE not in extension:
        _require_for_clients(_policy, _of, extension)


# Built by relaxing the strict defaults one extension at a time, not from `permit_all`, which drops the
# checks of purpose, of the CA flag and of unknown critical extensions along with the rest.
_PRIVATE_CA: Final = (
    ExtensionPolicy.webpki_defaults_ca()
    .require_present(x509.BasicConstraints, Criticality.AGNOSTIC, _require_ca)
    .may_be_present(x509.KeyUsage, Criticality.AGNOSTIC, _require_cert_sign)
    .may_be_present(x509.ExtendedKeyUsage, Criticality.AGNOSTIC, _require_for_clients_or_all)
    .may_be_present(x509.AuthorityKeyIdentifier, Criticality.AGNOSTIC, None)
    .may_be_present(x509.SubjectKeyIdentifier, Criticality.AGNOSTIC, None)
)
_PRIVATE_LEAF: Final = (
    ExtensionPolicy.webpki_defaults_ee()
    .may_be_present(x509.SubjectAlternativeName, Criticality.AGNOSTIC, None)
    .may_be_present(x509.ExtendedKeyUsage, Criticality.AGNOSTIC, _require_for_clients)
    .may_be_present(x509.AuthorityKeyIdentifier, Criticality.AGNOSTIC, None)
)
