"""TLS contexts in which a client certificate can be trusted to be the one of this very connection.

What a context accepts is judged again by `Trust`, which also knows purposes, strengths and who may assert
which name.
"""

from __future__ import annotations

import ssl
from collections.abc import Iterable, Sequence
from pathlib import Path

from cryptography import x509

from secmiddleware.certificates.following import ServerFiles, following_context
from secmiddleware.certificates.handshakes import HTTP_1, HTTP_2, Handshake, harden, load_pair, unusable
from secmiddleware.certificates.trust import CertificateError

__all__ = ["HTTP_1", "HTTP_2", "Handshake", "client_context", "server_context"]


def server_context(
    certificate: Path,
    key: Path,
    anchors: Iterable[Path | x509.Certificate],
    handshake: Handshake,
    intermediates: Iterable[Path | x509.Certificate] = (),
    alpn: Sequence[str] = HTTP_1,
) -> ssl.SSLContext:
    """The context of a server that asks for client certificates: TLS 1.2 or 1.3, no resumption.

    `alpn`: what is spoken over it, the best first (RFC 7301); `HTTP_1` or `HTTP_2`.
    `optional`: a caller without a certificate gets through, one with a certificate of a strange CA does not.
    `required`: neither does. `off`: none is asked for. Any of the anchors ends a chain, also one that is not
    self-signed. `certificate` may hold the chain behind the leaf. `intermediates` help those who send their
    leaf alone; beside an anchor that is not self-signed TLS takes them for ends of chains, and only the judge
    knows better. Anchors and intermediates may be bundles, by their paths.

    The files are watched once something is served: connections that come later have what is there then, if it
    is good. Raises CertificateError, which names the files.
    """
    files = ServerFiles(certificate, key, tuple(anchors), tuple(intermediates), handshake, tuple(alpn))
    return following_context(files)


def client_context(ca: Path, certificate: Path | None = None, key: Path | None = None) -> ssl.SSLContext:
    """The context of a client that trusts one CA bundle, checks host names, and may present a certificate.

    Raises CertificateError, which names the files.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.set_alpn_protocols(["http/1.1"])
    harden(context)
    try:
        context.load_verify_locations(cafile=ca)
    except OSError as error:  # SSLError is one
        raise CertificateError(f"{ca} cannot be used as a bundle of trusted certificates: {error}") from error
    if certificate is not None:
        try:
            load_pair(context, certificate, key)
        except OSError as error:
            raise unusable(str(certificate) if key is None else f"{certificate} with {key}", error) from error
    return context
