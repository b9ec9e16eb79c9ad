"""Whether a presented chain is good: `Trust` is what is believed, `judge` the verdict.

The order is fixed, so that a certificate with two faults is always refused for the same one: malformed,
dates, strength, purpose, chain, revocation. Policy comes after, and elsewhere. TLS has judged already where
the source is the server; it is judged again because a resumed session, a proxy or an ageing connection proves
nothing.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import lru_cache
from itertools import pairwise
from typing import ClassVar, Final

from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID
from cryptography.x509.verification import PolicyBuilder, Store, VerificationError, VerifiedClient

from secmiddleware.certificates.encoding import UNREADABLE, spki_of
from secmiddleware.certificates.faults import Places, date_fault, end_of, find_fault
from secmiddleware.certificates.issuers import Issuer
from secmiddleware.certificates.names import Names
from secmiddleware.certificates.profiles import Profile, policies_of
from secmiddleware.certificates.revocation import Revocations
from secmiddleware.certificates.spiffe import trust_domain_of
from secmiddleware.certificates.strength import weakness_of_leaf
from secmiddleware.certificates.trust import CertificateError, TrustAnchor
from secmiddleware.messages import Presented, Reason

# Real chains have two or three certificates; OpenSSL takes 100 KiB at most for a whole list, and so do we.
_MAX_CHAIN: Final = 10
_MAX_CHAIN_BYTES: Final = 100 * 1024

# A good chain costs 0.1 to 0.4 ms to verify and a look-up 2 us; each entry holds a few KiB of certificates.
_MAX_KEPT: Final = 1024

_OTHERS_KEPT: Final = 128

# What a certificate of the path was issued by, and what it is itself.
_Link = tuple[x509.Certificate, x509.Certificate]


@dataclass(frozen=True, slots=True, eq=False)
class Judged:
    """A chain that is good now: the leaf, the whole path from it to the anchor's, the anchor."""

    leaf: x509.Certificate
    chain: tuple[x509.Certificate, ...]
    anchor: TrustAnchor
    names: Names
    """The leaf's."""
    issuers: tuple[Issuer, ...]
    """What is known of each certificate of the path behind the leaf."""
    der: bytes = field(repr=False)
    """The leaf's, whole."""
    spki: bytes = field(repr=False)
    """The leaf's SubjectPublicKeyInfo, as it stands there."""


@dataclass(frozen=True, slots=True)
class Rejected:
    """A chain that is not good: the refusal's code, and for our own log, not the caller's, the reason."""

    code: str
    reason: Reason


@dataclass(frozen=True, slots=True)
class _Kept:
    """A good verdict, whose it is, and from when (`since`) until when (before `until`) it holds."""

    judged: Judged
    judge: object
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
    as an anchor. `intermediates` help to find a path and end none. With `revocations`, every certificate of
    a path but the anchor is looked up. Raises CertificateError where one certificate is to be trusted in two
    ways.
    """

    anchors: tuple[TrustAnchor, ...]
    profile: Profile = "strict"
    intermediates: tuple[x509.Certificate, ...] = ()
    revocations: Revocations | None = None
    _anchor_of: dict[x509.Certificate, TrustAnchor] = field(init=False, repr=False, compare=False)
    # By identity: to hash a certificate is to hash all of its bytes.
    _issuer_of: dict[int, Issuer] = field(init=False, repr=False, compare=False)
    _builder: PolicyBuilder | None = field(init=False, repr=False, compare=False)
    # Read and written by many threads without a lock: single dict operations only, and losing an entry is
    # harmless.
    _kept: dict[bytes, _Kept] = field(init=False, repr=False, compare=False)
    # Verdicts on connections are told apart by this and not by the Trust, so that they do not keep it alive.
    _myself: object = field(init=False, repr=False, compare=False)
    _usage: ClassVar[x509.ObjectIdentifier] = ExtendedKeyUsageOID.CLIENT_AUTH

    def __post_init__(self) -> None:
        anchor_of: dict[x509.Certificate, TrustAnchor] = {}
        for anchor in self.anchors:
            if anchor_of.setdefault(anchor.certificate, anchor) != anchor:
                subject = anchor.certificate.subject.rfc4514_string()
                raise CertificateError(f"{subject!r} is trusted twice, with different may_assert")
        builder = PolicyBuilder().store(Store(list(anchor_of))) if anchor_of else None
        # The library's own defaults are the strict profile for clients.
        if builder is not None and (self.profile, self._usage) != ("strict", ExtendedKeyUsageOID.CLIENT_AUTH):
            ca, leaf = policies_of(self.profile, self._usage)
            builder = builder.extension_policies(ca_policy=ca, ee_policy=leaf)
        object.__setattr__(self, "_anchor_of", anchor_of)
        known = {id(one): Issuer.of(one) for one in (*anchor_of, *self.intermediates)}
        object.__setattr__(self, "_issuer_of", known)
        object.__setattr__(self, "_builder", builder)
        object.__setattr__(self, "_kept", {})
        object.__setattr__(self, "_myself", object())

    @property
    def issuers(self) -> tuple[x509.Certificate, ...]:
        """Who may issue revocation lists: the anchors and the intermediates."""
        return (*self._anchor_of, *self.intermediates)

    def judge(self, presented: Presented, now: datetime) -> Judged | Rejected:
        """The verdict on a presented chain at `now` (aware); never raises for anything that a caller sends.

        A good verdict is kept, with the connection and by digest, for as long as every certificate of its
        path is valid and every list that it rests on is current. A bad one is not: callers can make any
        number of them.
        """
        kept = presented.kept
        if isinstance(kept, _Kept) and kept.judge is self._myself and kept.since <= now < kept.until:
            return kept.judged
        digest = _digest_of(presented)
        kept = self._kept.get(digest)
        if kept is None or not kept.since <= now < kept.until:
            verdict = self._judge(presented, now)
            if isinstance(verdict, Rejected):
                return verdict
            kept = verdict
            if len(self._kept) >= _MAX_KEPT:
                self._kept.clear()
            self._kept[digest] = kept
        object.__setattr__(presented, "kept", kept)
        return kept.judged

    def _judge(self, presented: Presented, now: datetime) -> _Kept | Rejected:
        loaded = _load(presented)
        if isinstance(loaded, Rejected):
            return loaded
        leaf, others = loaded
        places = Places(leaf, [other.certificate for other in others])
        # The library goes first though its verdict comes fourth: what it has read need not be read again.
        found = self._find_path(places, now)
        names = _read(leaf, found)
        if isinstance(names, Rejected):
            return names
        spki = spki_of(presented.leaf)
        since, until = leaf.not_valid_before_utc, end_of(leaf)
        rejected = (
            (None if since <= now < until else _judge_dates(leaf, now))
            or self._judge_strength(leaf, spki, others)
            or _judge_purpose(leaf, names, self._usage)
        )
        if rejected is not None:
            return rejected
        if isinstance(found, str):
            reason = find_fault(places, self.intermediates, self._anchor_of, self._usage, now, found)
            return Rejected("certificate_untrusted", reason)
        path = tuple(found.chain)
        issuers = self._issuers_of(path, others)
        rejected = _judge_issuers(issuers, names, places)
        if rejected is not None:
            return rejected
        begins, ends = [since], [until]
        for issuer in issuers:
            begins.append(issuer.since)
            ends.append(issuer.until)
        if self.revocations is not None:
            for link in pairwise(path):
                standing = _judge_revocation(link, places, self.revocations, now)
                if isinstance(standing, Rejected):
                    return standing
                if standing is not None:
                    begins.append(standing[0])
                    ends.append(standing[1])
        anchor = self._anchor_of[path[-1]]
        judged = Judged(leaf, path, anchor, names, tuple(issuers), presented.leaf, spki)
        return _Kept(judged, self._myself, max(begins), min(ends))

    def _issuers_of(self, path: tuple[x509.Certificate, ...], others: list[Issuer]) -> list[Issuer]:
        """What is known of each certificate of a path behind the leaf."""
        presented = {id(other.certificate): other for other in others}
        return [self._issuer_of.get(id(one)) or presented.get(id(one)) or Issuer.of(one) for one in path[1:]]

    def _judge_strength(self, leaf: x509.Certificate, spki: bytes, others: list[Issuer]) -> Rejected | None:
        weakness = weakness_of_leaf(leaf, spki)
        if weakness is not None:
            return Rejected("certificate_weak", Reason(weakness[0], 0, weakness[1]))
        for place, other in enumerate(others, 1):
            # An anchor's key was looked at when it was trusted, and its signature is never relied upon.
            if other.weakness is not None and other.certificate not in self._anchor_of:
                return Rejected("certificate_weak", Reason(other.weakness[0], place, other.weakness[1]))
        return None

    def _find_path(self, places: Places, now: datetime) -> VerifiedClient | str:
        """The path that the library finds, with the leaf's names, or what it says why there is none."""
        if self._builder is None:
            return "nothing is trusted"
        verifier = self._builder.time(now.astimezone(UTC).replace(microsecond=0)).build_client_verifier()
        others: list[x509.Certificate] = []
        if places.rest or self.intermediates:
            others = [one for one in dict.fromkeys((*places.rest, *self.intermediates)) if one != places.leaf]
        try:
            return verifier.verify(places.leaf, others)
        except VerificationError as error:
            return str(error)
        except UNREADABLE:
            return "a part of a certificate cannot be read"


def _digest_of(presented: Presented) -> bytes:
    """What a presented chain is found again by; no two have the same."""
    digests = [hashlib.sha256(der).digest() for der in (presented.leaf, *presented.chain)]
    return b"".join(digests)


def _load(presented: Presented) -> tuple[x509.Certificate, list[Issuer]] | Rejected:
    """The leaf of a presented chain, and what is known of the rest; that is wholly readable."""
    if len(presented.chain) > _MAX_CHAIN:
        detail = f"more than {_MAX_CHAIN} certificates beside the leaf"
        return Rejected("certificate_malformed", Reason("chain_length", 0, detail))
    if len(presented.leaf) + sum(map(len, presented.chain)) > _MAX_CHAIN_BYTES:
        detail = f"more than {_MAX_CHAIN_BYTES} bytes of certificates"
        return Rejected("certificate_malformed", Reason("chain_bytes", 0, detail))
    others: list[Issuer] = []
    der, place = presented.leaf, 0
    try:
        leaf = _load_certificate(der)
        for place, der in enumerate(presented.chain, 1):  # noqa: B007  (for the error below)
            others.append(_load_other(der))
    except _MalformedError as error:
        return Rejected("certificate_malformed", Reason(error.rule, place, str(error)))
    except UNREADABLE:
        # What the library says may quote the certificate.
        detail = f"{len(der)} bytes that are not one certificate in DER"
        return Rejected("certificate_malformed", Reason("der", place, detail))
    return leaf, others


def _read(leaf: x509.Certificate, found: VerifiedClient | str) -> Names | Rejected:
    """The names of a leaf that can be read wholly; what the library has read of it is not read again."""
    try:
        _ = leaf.subject, leaf.extensions
        # With a path behind it, it is the subject of the next certificate, which was read.
        if isinstance(found, str) or len(found.chain) == 1:
            _ = leaf.issuer
    except UNREADABLE:
        return Rejected("certificate_malformed", Reason("der", 0, "a part of it cannot be read"))
    try:
        if isinstance(found, str) or found.subjects is None:
            return Names.of(leaf)
        return Names.among(found.subjects)
    except ValueError as error:
        return Rejected("certificate_malformed", Reason("names", 0, str(error)))


class _MalformedError(ValueError):
    def __init__(self, rule: str, detail: str) -> None:
        super().__init__(detail)
        self.rule = rule


def _load_certificate(der: bytes) -> x509.Certificate:
    certificate = x509.load_der_x509_certificate(der)
    if certificate.serial_number <= 0:
        raise _MalformedError("serial_number", "the serial number is not positive (RFC 5280 §4.1.2.2)")
    if certificate.not_valid_before_utc > certificate.not_valid_after_utc:
        raise _MalformedError("validity", "the validity ends before it begins")
    return certificate


# Callers of one CA present the same few certificates behind their leaves.
@lru_cache(maxsize=_OTHERS_KEPT)
def _load_other(der: bytes) -> Issuer:
    return Issuer.of(_load_certificate(der))


def _judge_dates(leaf: x509.Certificate, now: datetime) -> Rejected | None:
    fault = date_fault(leaf, now)
    if fault is None:
        return None
    code = "certificate_not_yet_valid" if fault[0] == "not_before" else "certificate_expired"
    return Rejected(code, Reason(fault[0], 0, fault[1]))


def _judge_purpose(leaf: x509.Certificate, names: Names, usage: x509.ObjectIdentifier) -> Rejected | None:
    """Whether the certificate is for a client of TLS (RFC 5280 §4.2.1.3, .9, .12; RFC 8446 §4.4.2.2).

    A SPIFFE id asks for more: keyUsage must be there and say what the key is for (X509-SVID §4.3).
    """
    fault = None
    says_usage = False
    for extension in leaf.extensions:
        # Not `match`: a class pattern over the library's abstract classes costs 1 us each.
        value, kind = extension.value, type(extension.value)
        if kind is x509.BasicConstraints and value.ca:
            fault = "ca_as_leaf", "it is the certificate of a CA"
        elif kind is x509.KeyUsage:
            says_usage = True
            if value.key_cert_sign or value.crl_sign:
                fault = "leaf_signs", "its key is for signing certificates or CRLs"
            elif not value.digital_signature:
                fault = "digital_signature", "its key is not for signatures"
        elif kind is x509.ExtendedKeyUsage and usage not in value:
            fault = "eku_client_auth", "it is not for client authentication"
        if fault is not None:
            return Rejected("certificate_purpose", Reason(fault[0], 0, fault[1]))
    if names.spiffe_id is not None and not says_usage:
        detail = "it has a SPIFFE id and does not say what its key is for"
        return Rejected("certificate_purpose", Reason("svid_key_usage", 0, detail))
    return None


def _judge_issuers(issuers: Iterable[Issuer], names: Names, places: Places) -> Rejected | None:
    """What the library does not ask of the CAs of a path.

    It passes over constraints on names that it cannot read where they are not critical. And a CA that calls
    itself by a SPIFFE id vouches for leaves of that trust domain only (X509-SVID §3.2, §5).
    """
    spiffe_id = names.spiffe_id
    for issuer in issuers:
        ids, fault = issuer.spiffe_ids, None
        if issuer.constrained:
            fault = "name_constraints", "it constrains names of a kind that cannot be held to it"
        elif ids and spiffe_id is not None and ids != (f"spiffe://{trust_domain_of(spiffe_id)}",):
            fault = "svid_signer", "its SPIFFE id has a path, or is of another trust domain than the leaf's"
        if fault is not None:
            reason = Reason(fault[0], places.of(issuer.certificate), fault[1])
            return Rejected("certificate_untrusted", reason)
    return None


def _judge_revocation(
    link: _Link, places: Places, revocations: Revocations, now: datetime
) -> tuple[datetime, datetime] | Rejected | None:
    """From when until when a list says that a certificate is good; None where it may do without one."""
    certificate, issuer = link
    is_ca = certificate is not places.leaf
    standing = revocations.standing(certificate, issuer, now, is_ca=is_ca)
    if standing.revoked is not None:
        reason = Reason("crl", places.of(certificate), str(standing.revoked))
        return Rejected("certificate_revoked", reason)
    if standing.current is not None:
        return standing.current.this_update, standing.current.next_update
    if revocations.missing == "allow":
        return None
    detail = "its issuer has no current list about it"
    return Rejected("revocation_unavailable", Reason("crl", places.of(certificate), detail))
