"""TLS contexts in which a client certificate can be trusted to be the one of this very connection.

A resumed session has no chain, and lets in a client whose CA was removed since: nothing here resumes. What a
context accepts is judged again by `Trust`, which also knows purposes, strengths and who may assert which
name.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Final, Literal

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

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


class _FullHandshakes:
    """Ends a connection that resumed a session, before anything is read from it."""

    def do_handshake(self, *arguments: bool) -> None:
        super().do_handshake(*arguments)  # type: ignore[misc]
        if self.session_reused:  # type: ignore[attr-defined]
            raise ssl.SSLError("a session was resumed")


class _Object(_FullHandshakes, ssl.SSLObject):
    """Also lets the alert out that says why a handshake failed.

    asyncio and uvloop drop the connection at once, and what OpenSSL has to say with it: the client would hear
    nothing but that it is closed. As long as more is wanted, they send what there is.
    """

    _failure: ssl.SSLError | None = None

    def do_handshake(self, *arguments: bool) -> None:
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


class _Socket(_FullHandshakes, ssl.SSLSocket):
    pass


class _Unresumed(ssl.SSLContext):
    """A context that leaves itself for a new one as soon as OpenSSL has put a session into its cache.

    `OP_NO_TICKET` is not enough: where both ends close cleanly, as asyncio does, OpenSSL keeps TLS 1.2
    sessions by their id, and Python cannot switch that cache off. A client that offers a session finds an
    empty cache then, and makes a full handshake. One that connects before the session is made and offers it
    afterwards gets no connection. With TLS 1.3 the cache stays empty, and so the context.
    """

    sslobject_class = _Object
    sslsocket_class = _Socket
    _again: Callable[[], ssl.SSLContext]
    _successor: ssl.SSLContext | None = None

    def wrap_bio(self, *arguments: Any, **options: Any) -> ssl.SSLObject:
        """As SSLContext does it, on a context without sessions."""
        context = self._unused()
        return (
            super().wrap_bio(*arguments, **options)
            if context is self
            else context.wrap_bio(*arguments, **options)
        )

    def wrap_socket(self, *arguments: Any, **options: Any) -> ssl.SSLSocket:
        """As SSLContext does it, on a context without sessions."""
        context = self._unused()
        if context is self:
            return super().wrap_socket(*arguments, **options)
        return context.wrap_socket(*arguments, **options)

    def _unused(self) -> ssl.SSLContext:
        context = self._successor or self
        if context.session_stats()["number"]:
            try:
                context = self._successor = self._again()
            except CertificateError:
                # The files are being replaced by bad ones: the old pair stays, and who resumes gets no
                # connection.
                return context
        return context


def server_context(
    certificate: Path,
    key: Path,
    anchors: Iterable[x509.Certificate],
    handshake: Handshake,
    intermediates: Iterable[x509.Certificate] = (),
    alpn: Sequence[str] = HTTP_1,
) -> ssl.SSLContext:
    """The context of a server that asks for client certificates: TLS 1.2 or 1.3, no resumption.

    `alpn`: what is spoken over it, the best first (RFC 7301); `HTTP_1` or `HTTP_2`.
    `optional`: a caller without a certificate gets through, one with a certificate of a strange CA does not.
    `required`: neither does. `off`: none is asked for. Any of the anchors ends a chain, also one that is not
    self-signed. `certificate` may hold the chain behind the leaf. `intermediates` help those who send their
    leaf alone; beside an anchor that is not self-signed TLS takes them for ends of chains, and only the judge
    knows better. Raises CertificateError, which names the files; they are read again from time to time, and
    bad ones change nothing then.
    """
    ends, helpers = tuple(anchors), tuple(intermediates)
    trusted = b"".join(one.public_bytes(Encoding.DER) for one in dict.fromkeys((*ends, *helpers)))
    # Without partial chains OpenSSL ends one in self-signed certificates only, however many others it has.
    whole = bool(helpers) and all(anchor.subject == anchor.issuer for anchor in ends)

    def configure(context: ssl.SSLContext) -> ssl.SSLContext:
        context.options |= ssl.OP_NO_TICKET
        context.num_tickets = 0
        # A renegotiated TLS 1.2 connection may change its client certificate under a request.
        context.options |= ssl.OP_NO_RENEGOTIATION
        context.set_alpn_protocols(list(alpn))
        if "h2" in alpn:
            context.set_ciphers(_H2_CIPHERS)
        _harden(context)
        _load_pair(context, certificate, key)
        if trusted:
            context.load_verify_locations(cadata=trusted)
        if whole:
            context.verify_flags &= ~ssl.VERIFY_X509_PARTIAL_CHAIN
        context.verify_mode = _VERIFY_MODE[handshake]
        return context

    def another() -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.sslobject_class, context.sslsocket_class = _Object, _Socket
        return configure(context)

    first = _Unresumed(ssl.PROTOCOL_TLS_SERVER)
    first._again = another  # noqa: SLF001  (SSLContext.__new__ takes a protocol and nothing else)
    return configure(first)


def client_context(ca: Path, certificate: Path | None = None, key: Path | None = None) -> ssl.SSLContext:
    """The context of a client that trusts one CA bundle, checks host names, and may present a certificate.

    Raises CertificateError, which names the files.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.set_alpn_protocols(["http/1.1"])
    _harden(context)
    try:
        context.load_verify_locations(cafile=ca)
    except OSError as error:  # SSLError is one
        raise CertificateError(f"{ca} cannot be used as a bundle of trusted certificates: {error}") from error
    if certificate is not None:
        _load_pair(context, certificate, key)
    return context


def _harden(context: ssl.SSLContext) -> None:
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_COMPRESSION
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN


def _load_pair(context: ssl.SSLContext, certificate: Path, key: Path | None) -> None:
    try:
        # An encrypted key would make OpenSSL ask on the terminal; an empty password makes it fail instead.
        context.load_cert_chain(certificate, key, password=lambda: "")
    except OSError as error:  # SSLError is one
        pair = certificate if key is None else f"{certificate} with {key}"
        reason = error.strerror if not isinstance(error, ssl.SSLError) else error.reason or "not PEM"
        raise CertificateError(
            f"{pair} cannot be used: {reason}; both must be PEM, belong together, and the key be unencrypted"
        ) from error
