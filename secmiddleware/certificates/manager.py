"""CertificateManager: the public face of this room: what is trusted, and the server's TLS contexts."""

from __future__ import annotations

import ssl
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes

from secmiddleware.certificates.contexts import HTTP_1, Handshake, server_context
from secmiddleware.certificates.files import TrustFiles, TrustWatch
from secmiddleware.certificates.following import Certificates, Source, served_from
from secmiddleware.certificates.judgement import Judged, Rejected, Trust
from secmiddleware.certificates.revocation import RevocationList
from secmiddleware.certificates.trust import CertificateError
from secmiddleware.messages import Presented


class CertificateManager:
    """Judges what callers present, and makes the server's TLS contexts.

    `certificate` and `key` are the server's own pair, PEM; without them it judges only. They are not read
    before they are used. The trust may come with the files that it is made of: `look` puts into force what
    has changed there, and contexts follow by themselves. `doors` are bundles of those who vouch for whoever
    connects, where it is not the callers: a proxy has a trust list of its own.
    """

    def __init__(
        self,
        trust: Trust | TrustFiles,
        certificate: Path | None = None,
        key: Path | None = None,
        handshake: Handshake = "optional",
        *,
        doors: tuple[Path, ...] | None = None,
    ) -> None:
        self._watch: TrustWatch | None = None
        if isinstance(trust, TrustFiles):
            self._watch = TrustWatch(trust)
            trust = self._watch.trust
        self.trust = trust
        """What is believed just now; immutable, and another one where a file has changed."""
        self._certificate = certificate
        self._key = key
        self._handshake = handshake
        self._doors = doors

    def judge(self, presented: Presented, now: datetime) -> Judged | Rejected:
        """The verdict on a presented chain at `now` (aware), with a reason for the log."""
        return self.trust.judge(presented, now)

    @property
    def watches(self) -> bool:
        """Whether there are files to look at."""
        return self._watch is not None

    def look(self, now: datetime | None = None) -> None:
        """Look whether files of the trust have changed: never raises for bad ones, which change nothing.

        For one thread at a time.
        """
        if self._watch is not None:
            self._watch.look(datetime.now(UTC) if now is None else now)
            self.trust = self._watch.trust

    def server_context(self, alpn: Sequence[str] = HTTP_1) -> ssl.SSLContext:
        """A new context of the server, for what is spoken over it (ALPN, the best first).

        It follows its files: the pair, and those of whoever vouches for callers. Raises CertificateError
        where the pair is not there or not usable.
        """
        if self._certificate is None or self._key is None:
            raise CertificateError("there is no server certificate: set [mtls] certificate and key")
        anchors, helpers = self._vouching()
        return server_context(self._certificate, self._key, anchors, self._handshake, helpers, alpn)

    def _vouching(self) -> tuple[Certificates, Certificates]:
        """Who ends a client's chain in the handshake, and who helps to find one."""
        if self._doors is not None:
            return self._doors, ()
        if self._watch is None:
            trust = self.trust
            return tuple(anchor.certificate for anchor in trust.anchors), trust.intermediates
        files = self._watch.files
        return tuple(path for path, _ in files.trust), files.intermediates

    def _served(self) -> Source | None:
        """What this process shows itself with, where it does."""
        if self._certificate is None or self._key is None:
            return None
        return served_from(self._certificate, self._key)

    def expiries(self) -> dict[str, datetime]:
        """When the first certificate of each role is over, and the first of the revocation lists."""
        trust = self.trust
        ends = {
            "anchor": [anchor.certificate.not_valid_after_utc for anchor in trust.anchors],
            "intermediate": [certificate.not_valid_after_utc for certificate in trust.intermediates],
            "crl": [one.next_update for one in _lists_of(trust)],
        }
        if self._certificate is not None:
            served = self._served()
            # While files are being replaced there may be nothing to read; then nothing is told.
            with suppress(OSError, ValueError):
                pem = self._certificate.read_bytes() if served is None else served.terms.chain
                chain = x509.load_pem_x509_certificates(pem)
                ends["server"] = [certificate.not_valid_after_utc for certificate in chain]
        return {role: min(dates) for role, dates in ends.items() if dates}

    def status(self) -> dict[str, Any]:
        """What is trusted until when, and what is wrong with the files, as JSON-ready data."""
        trust, served, now = self.trust, self._served(), datetime.now(UTC)
        return {
            "profile": trust.profile,
            "handshake": self._handshake,
            "anchors": [
                {
                    "sha256": anchor.sha256,
                    "not_after": anchor.certificate.not_valid_after_utc.isoformat(),
                    "may_assert": list(anchor.may_assert),
                }
                for anchor in trust.anchors
            ],
            "intermediates": [
                {
                    "sha256": certificate.fingerprint(hashes.SHA256()).hex(),
                    "not_after": certificate.not_valid_after_utc.isoformat(),
                }
                for certificate in trust.intermediates
            ],
            "revocation_lists": [
                {
                    "issuer_sha256": one.issuer_sha256,
                    "this_update": one.this_update.isoformat(),
                    "next_update": one.next_update.isoformat(),
                    "current": one.is_current(now),
                    "entries": len(one.revoked),
                }
                for one in _lists_of(trust)
            ],
            "trouble": None if self._watch is None else self._watch.trouble,
            "server": None if served is None else _status_of(served),
        }


def _status_of(served: Source) -> dict[str, Any]:
    """The certificate that clients are shown just now, and why another one is not."""
    leaf = served.terms.leaf
    return {
        "sha256": leaf.fingerprint(hashes.SHA256()).hex(),
        "not_after": leaf.not_valid_after_utc.isoformat(),
        "trouble": served.trouble,
    }


def _lists_of(trust: Trust) -> tuple[RevocationList, ...]:
    return () if trust.revocations is None else trust.revocations.lists
