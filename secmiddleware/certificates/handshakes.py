"""The terms of a server's handshakes, as values: its pair, whom it asks, who may answer; contexts of them.

A resumed session has no chain, and lets in a client whose CA was removed since: nothing here resumes. Where
the values come from, and when others take their place, is `following`'s.
"""

from __future__ import annotations

import os
import ssl
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Final, Literal

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID

from secmiddleware.certificates.encoding import UNREADABLE
from secmiddleware.certificates.faults import date_fault
from secmiddleware.certificates.trust import CertificateError

Handshake = Literal["optional", "required", "off"]

_VERIFY_MODE: Final = {
    "optional": ssl.CERT_OPTIONAL,
    "required": ssl.CERT_REQUIRED,
    "off": ssl.CERT_NONE,
}

HTTP_1: Final = ("http/1.1",)
HTTP_2: Final = ("h2", "http/1.1")

# Those of TLS 1.2; a client may end an HTTP/2 connection with any other (RFC 9113 §9.2.2).
_H2_CIPHERS: Final = "ECDHE+AESGCM:ECDHE+CHACHA20"

_SERVER_USES: Final = (ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE)


class _FullHandshakes:
    """Ends a connection that resumed a session, before anything is read from it."""

    def do_handshake(self, *arguments: bool) -> None:
        """As the one that this is mixed into does it."""
        super().do_handshake(*arguments)  # type: ignore[misc]
        if self.session_reused:  # type: ignore[attr-defined]
            raise ssl.SSLError("a session was resumed")


class FullObject(_FullHandshakes, ssl.SSLObject):
    """Resumes no session, and lets the alert out that says why a handshake failed.

    asyncio and uvloop drop the connection at once, and what OpenSSL has to say with it: the client would hear
    nothing but that it is closed. As long as more is wanted, they send what there is.
    """

    _failure: ssl.SSLError | None = None

    def do_handshake(self, *arguments: bool) -> None:
        """As SSLObject does it."""
        if self._failure is not None:
            raise self._failure
        try:
            super().do_handshake(*arguments)
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            raise
        except ssl.SSLError as failure:
            # Told when the client closes, sends more, or lets the handshake's time run out.
            self._failure = failure
            raise ssl.SSLWantReadError("the alert goes out first") from failure


class FullSocket(_FullHandshakes, ssl.SSLSocket):
    """A socket that resumes no session."""


@dataclass(frozen=True, slots=True)
class Terms:
    """The terms of a server's handshakes. Immutable; a context is made of them without reading a file."""

    chain: bytes = field(repr=False)
    """The server's certificate and whatever stands behind it, in PEM."""
    key: bytes = field(repr=False)
    """Its private key, in PEM, not encrypted."""
    anchors: tuple[x509.Certificate, ...]
    """Any of them ends a client's chain."""
    intermediates: tuple[x509.Certificate, ...]
    """Help those who send their leaf alone."""
    handshake: Handshake
    alpn: tuple[str, ...]

    @property
    def leaf(self) -> x509.Certificate:
        """The server's certificate; ValueError where it cannot be read."""
        return x509.load_pem_x509_certificates(self.chain)[0]

    def context(self) -> ssl.SSLContext:
        """A new context on these terms; raises OSError, as `ssl` does, where the pair is none."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.sslobject_class, context.sslsocket_class = FullObject, FullSocket
        return self.configure(context)

    def configure(self, context: ssl.SSLContext) -> ssl.SSLContext:
        """The context that is given, with these terms; raises as `context` does."""
        context.options |= ssl.OP_NO_TICKET
        context.num_tickets = 0
        # A renegotiated TLS 1.2 connection may change its client certificate under a request.
        context.options |= ssl.OP_NO_RENEGOTIATION
        context.set_alpn_protocols(list(self.alpn))
        if "h2" in self.alpn:
            context.set_ciphers(_H2_CIPHERS)
        harden(context)
        with _as_file(self.chain) as chain, _as_file(self.key) as key:
            load_pair(context, chain, key)
        trusted = dict.fromkeys((*self.anchors, *self.intermediates))
        if trusted:
            der = b"".join(one.public_bytes(Encoding.DER) for one in trusted)
            context.load_verify_locations(cadata=der)
        # Without partial chains OpenSSL ends one in self-signed certificates only, whatever others it has.
        if self.intermediates and all(anchor.subject == anchor.issuer for anchor in self.anchors):
            context.verify_flags &= ~ssl.VERIFY_X509_PARTIAL_CHAIN
        context.verify_mode = _VERIFY_MODE[self.handshake]
        return context

    def fault(self, now: datetime) -> str | None:
        """What keeps the server's certificate from being one that clients would take, or None."""
        try:
            leaf = self.leaf
            dates = date_fault(leaf, now)
            if dates is not None:
                return f"it is {dates[1]}"
            usages = leaf.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
        except x509.ExtensionNotFound:
            return None
        except UNREADABLE:
            return "it cannot be read"
        return None if any(use in usages for use in _SERVER_USES) else "it is not for servers"


def harden(context: ssl.SSLContext) -> None:
    """TLS 1.2 or 1.3, and chains that end wherever somebody is trusted."""
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_COMPRESSION
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN


def load_pair(context: ssl.SSLContext, certificate: str | Path, key: str | Path | None) -> None:
    """Has a context show a certificate; raises OSError where the two cannot be used."""
    # An encrypted key would make OpenSSL ask on the terminal; an empty password makes it fail instead.
    context.load_cert_chain(certificate, key, password=lambda: "")


def unusable(pair: str, error: OSError) -> CertificateError:
    """What is said of a pair that could not be loaded."""
    reason = error.strerror if not isinstance(error, ssl.SSLError) else error.reason or "not PEM"
    return CertificateError(
        f"{pair} cannot be used: {reason}; both must be PEM, belong together, and the key be unencrypted"
    )


@contextmanager
def _as_file(data: bytes) -> Iterator[str]:
    """A path at which `data` stands for a moment, for nobody else: OpenSSL takes keys from files only.

    In memory where the system can do that, else in a folder of our own that is gone afterwards.
    """
    with ExitStack() as stack:
        if hasattr(os, "memfd_create") and Path("/proc/self/fd").is_dir():
            descriptor = os.memfd_create("secmiddleware", os.MFD_CLOEXEC)
            file = stack.enter_context(os.fdopen(descriptor, "wb", buffering=0))
            path = f"/proc/self/fd/{descriptor}"
        else:
            folder = stack.enter_context(tempfile.TemporaryDirectory())  # 0700
            path = f"{folder}/pem"
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            file = stack.enter_context(os.fdopen(descriptor, "wb", buffering=0))
        file.write(data)
        yield path
