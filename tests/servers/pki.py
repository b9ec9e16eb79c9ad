"""A trusted authority, a strange one, and whoever calls."""

from __future__ import annotations

import itertools
import ssl
from datetime import timedelta
from pathlib import Path
from typing import Any

from secmiddleware.certificates.authority import Authority, Issued
from secmiddleware.certificates.contexts import client_context
from secmiddleware.files import write_secret


class Pki:
    """Everything stands as files in one folder; a client's context is made when it is first asked for."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.trusted = Authority.create("trusted")
        self.strange = Authority.create("strange")
        self.ca = folder / "ca.pem"
        self.ca.write_bytes(self.trusted.certificate_pem)
        self.certificate, self.key = self.written(
            "server", self.trusted.issue_server(dns=["localhost"], ips=["127.0.0.1"])
        )
        self._numbers = itertools.count()
        self._contexts: dict[tuple[str | None, str, bool], ssl.SSLContext] = {}

    def written(self, name: str, issued: Issued) -> tuple[Path, Path]:
        """The files of a certificate and of its key."""
        certificate, key = self.folder / f"{name}.pem", self.folder / f"{name}.key"
        certificate.write_bytes(issued.chain_pem)
        write_secret(key, issued.key_pem)
        return certificate, key

    def client(self, name: str | None, tls: str = "", *, http2: bool = False) -> ssl.SSLContext:
        """The context of `spiffe://example.org/<name>`, of a stranger of that name (`!name`), of nobody.

        `tls` is "1.2" or "1.3", or empty for whatever both ends like best; `http2` speaks nothing else.
        """
        if (name, tls, http2) not in self._contexts:
            if name is None:
                context = client_context(self.ca)
            else:
                authority = self.strange if name.startswith("!") else self.trusted
                issued = authority.issue_client(spiffe_id=self.spiffe(name.removeprefix("!")))
                file = name.replace("/", "-").replace("!", "strange-") + tls + "-h2" * http2
                context = client_context(self.ca, *self.written(file, issued))
            if tls:
                version = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}[tls]
                context.minimum_version = context.maximum_version = version
            if http2:
                context.set_alpn_protocols(["h2"])
            self._contexts[name, tls, http2] = context
        return self._contexts[name, tls, http2]

    def fresh(self, name: str, issued: Issued) -> tuple[Path, Path]:
        """The files of a certificate that shares its name with others."""
        return self.written(f"{name.replace('/', '-')}-{next(self._numbers)}", issued)

    def short_lived(self, name: str, lifetime: timedelta) -> ssl.SSLContext:
        """The context of a client whose certificate ends so long from now."""
        issued = self.trusted.issue_client(spiffe_id=self.spiffe(name), lifetime=lifetime)
        return client_context(self.ca, *self.fresh(name, issued))

    @staticmethod
    def spiffe(name: str) -> str:
        return f"spiffe://example.org/{name}"

    def settings(self, **sections: Any) -> dict[str, Any]:
        """Settings that ask for a certificate of the trusted authority, with more sections or other keys."""
        mtls = {
            "trust": [str(self.ca)],
            "certificate": str(self.certificate),
            "key": str(self.key),
            **sections.pop("mtls", {}),
        }
        service = {"name": "served", **sections.pop("service", {})}
        return {"service": service, "mtls": mtls, **sections}
