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
from cryptography.x509.verification import ClientVerifier, PolicyBuilder, Store, VerificationError
from msgspec import Struct

from secmiddleware.certificates.encoding import UNREADABLE
from secmiddleware.certificates.faults import Places, behind, date_fault, find_fault
from secmiddleware.certificates.issuers import Issuer, Line
from secmiddleware.certificates.leaves import Leaf, Loaded, MalformedError, load
from secmiddleware.certificates.names import Names
from secmiddleware.certificates.profiles import Profile, policies_of
from secmiddleware.certificates.revocation import Revocations
from secmiddleware.certificates.spiffe import trust_domain_of
from secmiddleware.certificates.trust import CertificateError, TrustAnchor
from secmiddleware.messages import Identity, Presented, Reason, Refusal

# Real chains have two or three certificates; OpenSSL takes 100 KiB at most for a whole list, and so do we.
_MAX_CHAIN: Final = 10
_MAX_CHAIN_BYTES: Final = 100 * 1024

# A good chain costs 0.1 to 0.4 ms to verify and a look-up 1 us; each entry holds a few KiB of certificates.
_MAX_KEPT: Final = 1024
_MAX_HELD_BYTES: Final = 4096

_OTHERS_KEPT: Final = 128
_LINES_KEPT: Final = 128

_ALWAYS: Final = datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC)

# A leaf, and each certificate that came with it, or its digest where they are large.
_Key = bytes | tuple[bytes | str, ...]

# What a certificate of the path was issued by, and what it is itself.
_Link = tuple[x509.Certificate, x509.Certificate]


class Judged(Struct, frozen=True, gc=False):
    """A chain that is good now: the leaf, and what it ends in."""

    leaf: Leaf
    anchor: TrustAnchor
    line: Line
    """What is known of the certificates of the path behind the leaf."""
    judge: object
    """Whose verdict it is."""
    since: datetime
    until: datetime
    """From when, and before when, it holds."""
    spoken: dict[str, Identity | Refusal]
    """What a speaker remembers of it, by source; nobody else's business."""


@dataclass(frozen=True, slots=True)
class Rejected:
    """A chain that is not good: the refusal's code, and for our own log, not the caller's, the reason."""

    code: str
    reason: Reason


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
    _anchor_at: dict[int, TrustAnchor] = field(init=False, repr=False, compare=False)
    _issuer_of: dict[int, Issuer] = field(init=False, repr=False, compare=False)
    _verifiers: _Verifiers | None = field(init=False, repr=False, compare=False)
    # Read and written by many threads without a lock: single dict operations only, and losing an entry is
    # harmless.
    _kept: dict[_Key, Judged] = field(init=False, repr=False, compare=False)
    # By the identities of the certificates of a path behind the leaf.
    _lines: dict[tuple[int, ...], Line] = field(init=False, repr=False, compare=False)
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
        object.__setattr__(self, "_anchor_at", {id(one): anchor for one, anchor in anchor_of.items()})
        known = {id(one): Issuer.of(one) for one in (*anchor_of, *self.intermediates)}
        object.__setattr__(self, "_issuer_of", known)
        object.__setattr__(self, "_verifiers", None if builder is None else _Verifiers(builder))
        object.__setattr__(self, "_kept", {})
        object.__setattr__(self, "_lines", {})
        object.__setattr__(self, "_myself", object())

    @property
    def issuers(self) -> tuple[x509.Certificate, ...]:
        """Who may issue revocation lists: the anchors and the intermediates."""
        return (*self._anchor_of, *self.intermediates)

    def judge(self, presented: Presented, now: datetime) -> Judged | Rejected:
        """The verdict on a presented chain at `now` (aware); never raises for anything that a caller sends.

        A good verdict is kept, with the connection and by what was presented, for as long as every
        certificate of its path is valid and every list that it rests on is current. A bad one is not: callers
        can make any number of them.
        """
        kept = presented.kept
        if isinstance(kept, Judged) and kept.judge is self._myself and kept.since <= now < kept.until:
            return kept
        key = _key_of(presented)
        judged = self._kept.get(key)
        if judged is None or not judged.since <= now < judged.until:
            verdict = self._judge(presented, now)
            if isinstance(verdict, Rejected):
                return verdict
            judged = verdict
            if len(self._kept) >= _MAX_KEPT:
                self._kept.clear()
            self._kept[key] = judged
        object.__setattr__(presented, "kept", judged)
        return judged

    def _judge(self, presented: Presented, now: datetime) -> Judged | Rejected:
        read = _load(presented)
        if isinstance(read, Rejected):
            return read
        loaded, others = read
        certificate = loaded[0]
        # The library goes first though its verdict comes fourth: behind a path, less is left to be read.
        found = self._find_path(certificate, others, now)
        leaf = _read(loaded, presented.leaf, found)
        if isinstance(leaf, Rejected):
            return leaf
        if not leaf.since <= now < leaf.until:
            return _out_of_date(certificate, now)
        if leaf.weakness is not None or others:
            weakness = self._weakness(leaf, others)
            if weakness is not None:
                return weakness
        fault = leaf.purpose.fault(self._usage, is_svid=leaf.names.spiffe_id is not None)
        if fault is not None:
            return Rejected("certificate_purpose", Reason(fault[0], 0, fault[1]))
        if isinstance(found, str):
            places = _places(certificate, others)
            reason = find_fault(places, self.intermediates, self._anchor_of, self._usage, now, found)
            return Rejected("certificate_untrusted", reason)
        line = self._lines.get(tuple(map(id, found[1:]))) or self._line_of(found[1:], others)
        if line.peculiar:
            rejected = _judge_issuers(line.issuers, leaf.names, _places(certificate, others))
            if rejected is not None:
                return rejected
        since = max(line.since, leaf.since)
        until = min(line.until, leaf.until)
        if self.revocations is not None:
            span = _judge_revocations(found, _places(certificate, others), self.revocations, now)
            if isinstance(span, Rejected):
                return span
            since, until = max(since, span[0]), min(until, span[1])
        end = found[-1]
        # A pinned leaf is another object than the anchor that it equals.
        anchor = self._anchor_at.get(id(end)) or self._anchor_of[end]
        return Judged(leaf, anchor, line, self._myself, since, until, {})

    def _line_of(self, path: tuple[x509.Certificate, ...], others: list[Issuer]) -> Line:
        """What is known of the certificates of a path behind the leaf; remembered."""
        line = Line.of(tuple(self._issuer_of.get(id(one)) or _issuer_among(others, one) for one in path))
        if len(self._lines) >= _LINES_KEPT:
            self._lines.clear()
        # The line holds the certificates, so that no other gets their identity.
        self._lines[tuple(map(id, path))] = line
        return line

    def _weakness(self, leaf: Leaf, others: list[Issuer]) -> Rejected | None:
        if leaf.weakness is not None:
            return Rejected("certificate_weak", Reason(leaf.weakness[0], 0, leaf.weakness[1]))
        for place, other in enumerate(others, 1):
            # An anchor's key was looked at when it was trusted, and its signature is never relied upon.
            if other.weakness is not None and other.certificate not in self._anchor_of:
                return Rejected("certificate_weak", Reason(other.weakness[0], place, other.weakness[1]))
        return None

    def _find_path(
        self, leaf: x509.Certificate, others: list[Issuer], now: datetime
    ) -> tuple[x509.Certificate, ...] | str:
        """The path that the library finds, or what it says why there is none."""
        if self._verifiers is None:
            return "nothing is trusted"
        verifier = self._verifiers.at(now)
        helping = self._helping(leaf, others) if others or self.intermediates else []
        try:
            return tuple(verifier.verify(leaf, helping).chain)
        except VerificationError as error:
            return str(error)
        except UNREADABLE:
            return "a part of a certificate cannot be read"

    def _helping(self, leaf: x509.Certificate, others: list[Issuer]) -> list[x509.Certificate]:
        """What may stand between a leaf and an anchor, each once; no leaf helps itself."""
        pool = [*[other.certificate for other in others], *self.intermediates]
        if len(pool) > 1:  # to be told apart, certificates are hashed
            pool = list(dict.fromkeys(pool))
        return [one for one in pool if one != leaf]


class _Verifiers:
    """The library's verifiers, each for a whole second: callers come in crowds, after a restart say."""

    __slots__ = ("_builder", "_last")

    def __init__(self, builder: PolicyBuilder) -> None:
        self._builder = builder
        # Read and written by many threads without a lock: as one, and losing it is harmless.
        self._last: tuple[datetime, datetime, ClientVerifier] | None = None

    def at(self, now: datetime) -> ClientVerifier:
        last = self._last
        if last is not None and last[0] <= now < last[1]:
            return last[2]
        second = now.replace(microsecond=0)
        verifier = self._builder.time(second.astimezone(UTC)).build_client_verifier()
        self._last = second, behind(second), verifier
        return verifier


def _key_of(presented: Presented) -> _Key:
    """What a presented chain is found again by; no two have the same.

    The verdict holds the leaf as it is. What else is sent along is held where it is small, as it mostly is.
    """
    chain = presented.chain
    if not chain:
        return presented.leaf
    if sum(map(len, chain)) <= _MAX_HELD_BYTES:
        return (presented.leaf, *chain)
    return (presented.leaf, *[hashlib.sha256(der).hexdigest() for der in chain])


def _load(presented: Presented) -> tuple[Loaded, list[Issuer]] | Rejected:
    """The leaf of a presented chain, and what is known of the rest; that is wholly readable."""
    der, chain, place = presented.leaf, presented.chain, 0
    if len(chain) > _MAX_CHAIN or len(der) + sum(map(len, chain)) > _MAX_CHAIN_BYTES:
        return _too_much(chain)
    others: list[Issuer] = []
    try:
        leaf = load(der)
        for der in chain:
            place += 1
            others.append(_load_other(der))
    except MalformedError as error:
        return Rejected("certificate_malformed", Reason(error.rule, place, str(error)))
    except UNREADABLE:
        # What the library says may quote the certificate.
        detail = f"{len(der)} bytes that are not one certificate in DER"
        return Rejected("certificate_malformed", Reason("der", place, detail))
    return leaf, others


def _too_much(chain: tuple[bytes, ...]) -> Rejected:
    if len(chain) > _MAX_CHAIN:
        detail = f"more than {_MAX_CHAIN} certificates beside the leaf"
        return Rejected("certificate_malformed", Reason("chain_length", 0, detail))
    detail = f"more than {_MAX_CHAIN_BYTES} bytes of certificates"
    return Rejected("certificate_malformed", Reason("chain_bytes", 0, detail))


def _read(loaded: Loaded, der: bytes, path: tuple[x509.Certificate, ...] | str) -> Leaf | Rejected:
    """The leaf that a certificate is: the whole of it can be read, and its names in one way only."""
    if len(path) > 1 and isinstance(path, tuple):
        leaf = Leaf.usual(loaded, der)
        if leaf is not None:
            return leaf
    certificate = loaded[0]
    try:
        _ = certificate.subject, certificate.issuer, certificate.extensions
    except UNREADABLE:
        return Rejected("certificate_malformed", Reason("der", 0, "a part of it cannot be read"))
    try:
        return Leaf.of(loaded, der)
    except ValueError as error:
        return Rejected("certificate_malformed", Reason("names", 0, str(error)))


# Callers of one CA present the same few certificates behind their leaves.
@lru_cache(maxsize=_OTHERS_KEPT)
def _load_other(der: bytes) -> Issuer:
    return Issuer.of(load(der)[0])


def _issuer_among(others: list[Issuer], certificate: x509.Certificate) -> Issuer:
    """What is known of a certificate that was presented; the library hands out the same object."""
    for other in others:
        if other.certificate is certificate:
            return other
    return Issuer.of(certificate)


def _places(leaf: x509.Certificate, others: list[Issuer]) -> Places:
    return Places(leaf, [other.certificate for other in others])


def _out_of_date(certificate: x509.Certificate, now: datetime) -> Rejected:
    rule, detail = date_fault(certificate, now) or ("not_after", "")
    code = "certificate_not_yet_valid" if rule == "not_before" else "certificate_expired"
    return Rejected(code, Reason(rule, 0, detail))


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


def _judge_revocations(
    path: tuple[x509.Certificate, ...], places: Places, revocations: Revocations, now: datetime
) -> tuple[datetime, datetime] | Rejected:
    """From when until when lists say that all of a path is good."""
    since, until = _ALWAYS
    for link in pairwise(path):
        standing = _judge_revocation(link, places, revocations, now)
        if isinstance(standing, Rejected):
            return standing
        if standing is not None:
            since, until = max(since, standing[0]), min(until, standing[1])
    return since, until


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
