"""CertificateManager: the public face of this room: what is trusted, and the server's TLS contexts."""

from __future__ import annotations

import ssl
from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any

from cryptography import x509

from secmiddleware.certificates.contexts import HTTP_1, Handshake, server_context
from secmiddleware.certificates.judgement import Judged, Rejected, Trust
from secmiddleware.certificates.trust import CertificateError, TrustAnchor
from secmiddleware.messages import Presented


class CertificateManager:
    """Judges what callers present, and makes the server's TLS contexts.

    `certificate` and `key` are the server's own pair, PEM; without them it judges only. Nothing is read
    before it is used, and every context is made anew from the files as they are then. `doors` are the anchors
    of those who connect, where they are not the callers: a proxy has a trust list of its own.
    """

    def __init__(
        self,
        trust: Trust,
        certificate: Path | None = None,
        key: Path | None = None,
        handshake: Handshake = "optional",
        *,
        doors: tuple[TrustAnchor, ...] | None = None,
    ) -> None:
        self.trust = trust
        self._certificate = certificate
        self._key = key
        self._handshake = handshake
        self._doors = trust.anchors if doors is None else doors

    def judge(self, presented: Presented, now: datetime) -> Judged | Rejected:
        """The verdict on a presented chain at `now` (aware), with a detail for the log."""
        return self.trust.judge(presented, now)

    def server_context(self, alpn: Sequence[str] = HTTP_1) -> ssl.SSLContext:
        """A new context of the server, for what is spoken over it (ALPN, the best first).

        Raises CertificateError where the pair is not there or not usable.
        """
        if self._certificate is None or self._key is None:
            raise CertificateError("there is no server certificate: set [mtls] certificate and key")
        anchors = [anchor.certificate for anchor in self._doors]
        return server_context(self._certificate, self._key, anchors, self._handshake, alpn)

    def expiries(self) -> dict[str, datetime]:
        """When the first of the trust anchors is over, and when what stands in the server's own file is."""
        ends = {"anchor": [anchor.certificate.not_valid_after_utc for anchor in self.trust.anchors]}
        if self._certificate is not None:
            # While files are being replaced there may be nothing to read; then nothing is told.
            with suppress(OSError, ValueError):
                chain = x509.load_pem_x509_certificates(self._certificate.read_bytes())
                ends["server"] = [certificate.not_valid_after_utc for certificate in chain]
        return {role: min(dates) for role, dates in ends.items() if dates}

    def status(self) -> dict[str, Any]:
        """What is trusted until when, as JSON-ready data."""
        return {
            "profile": self.trust.profile,
            "handshake": self._handshake,
            "anchors": [
                {
                    "sha256": anchor.sha256,
                    "not_after": anchor.certificate.not_valid_after_utc.isoformat(),
                    "may_assert": list(anchor.may_assert),
                }
                for anchor in self.trust.anchors
            ],
        }
