"""Trust anchors: the certificates that a chain may end in, and what each of them may speak for."""

from __future__ import annotations

import os
import re
import stat
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes

from secmiddleware.certificates.encoding import UNREADABLE, is_cut_short
from secmiddleware.certificates.strength import weakness_of, weakness_of_key
from secmiddleware.errors import SecMiddlewareError

# The public CAs of the whole world take a quarter of this.
_LARGEST_BUNDLE: Final = 1 << 20

# OpenSSL's TRUSTED CERTIFICATE is one, and the library passes it over.
_CERTIFICATE: Final = re.compile(rb"-----BEGIN [A-Z0-9 ]*CERTIFICATE-----")


class CertificateError(SecMiddlewareError):
    """A certificate or a key of ours cannot be used; the message names the file and what to do."""


@dataclass(frozen=True, slots=True)
class TrustAnchor:
    """A certificate that is trusted because the configuration says so, and the names it may speak for.

    `may_assert` are name patterns in their text form; none at all means every name. A restriction binds the
    chains that end in this anchor and no others: an anchor that vouches for another one is not held to the
    other's names.
    """

    certificate: x509.Certificate
    may_assert: tuple[str, ...] = ()
    sha256: str = field(init=False, compare=False)
    """SHA-256 of the certificate's DER, lower-case hex."""

    def __post_init__(self) -> None:
        fault = _fault_of(self.certificate)
        if fault is not None:
            subject = self.certificate.subject.rfc4514_string()
            raise CertificateError(f"the trust anchor {subject!r} cannot be trusted: {fault}")
        object.__setattr__(self, "sha256", self.certificate.fingerprint(hashes.SHA256()).hex())


def load_anchors(path: Path) -> tuple[x509.Certificate, ...]:
    """The certificates of a PEM bundle, each once, in their order.

    Raises CertificateError, which names the file, where it cannot be read, holds no certificate, or holds
    one that is broken, not whole, or whose key is too weak to vouch for anybody. Dates are not looked at:
    they are judged when used.
    """
    data = read_file(path, _LARGEST_BUNDLE)
    try:
        certificates = x509.load_pem_x509_certificates(data)
    except (ValueError, x509.InvalidVersion, Warning) as error:
        raise CertificateError(f"{path} is not a bundle of certificates in PEM") from error
    if is_cut_short(data):
        raise CertificateError(f"{path} is not whole, a certificate in it breaks off: replace it by a rename")
    if len(_CERTIFICATE.findall(data)) != len(certificates):
        message = f"{path} holds a certificate that does not begin with -----BEGIN CERTIFICATE-----"
        raise CertificateError(message)
    for certificate in certificates:
        fault = _fault_of(certificate)
        if fault is not None:
            subject = certificate.subject.rfc4514_string()
            raise CertificateError(f"{path}: {subject!r} cannot be trusted: {fault}")
    return tuple(dict.fromkeys(certificates))


def load_intermediates(path: Path) -> tuple[x509.Certificate, ...]:
    """The certificates of a PEM bundle that help to find a path and end none, each once, in their order.

    Raises CertificateError as `load_anchors` does, and for one that can issue nothing, that signs itself
    (it would have to be trusted to be of any use) or whose signature is too weak to rely upon.
    """
    certificates = load_anchors(path)
    for certificate in certificates:
        weakness = weakness_of(certificate)
        if weakness is not None:
            fault = weakness[1]
        elif certificate.subject == certificate.issuer:
            fault = "it is signed by itself, so it belongs into trust or nowhere"
        elif not is_ca(certificate):
            fault = "it is not the certificate of a CA"
        else:
            continue
        subject = certificate.subject.rfc4514_string()
        raise CertificateError(f"{path}: {subject!r} is no intermediate: {fault}")
    return certificates


def read_file(path: Path, largest: int) -> bytes:
    """The bytes of a file of at most `largest`; never waits, as for who writes into a fifo.

    Raises CertificateError, which names the file.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError as error:
        raise CertificateError(f"there is no file {path}") from error
    except OSError as error:
        raise CertificateError(f"{path} cannot be read: {error.strerror}") from error
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise CertificateError(f"{path} is not a regular file")
        with os.fdopen(os.dup(descriptor), "rb") as file:
            data = file.read(largest + 1)
    except OSError as error:
        raise CertificateError(f"{path} cannot be read: {error.strerror}") from error
    finally:
        os.close(descriptor)
    if len(data) > largest:
        raise CertificateError(f"{path} is larger than {largest >> 20} MiB")
    return data


def is_ca(certificate: x509.Certificate) -> bool:
    """Whether a certificate says that it is one of a CA (RFC 5280 §4.2.1.9)."""
    return any(
        isinstance(extension.value, x509.BasicConstraints) and extension.value.ca
        for extension in certificate.extensions
    )


def _fault_of(certificate: x509.Certificate) -> str | None:
    """Why a certificate of ours cannot be relied upon, or None."""
    weakness = weakness_of_key(certificate)
    if weakness is not None:
        return weakness[1]
    try:
        # Read once and for all: on the way of a request nothing of it must be able to fail.
        _ = certificate.subject, certificate.issuer, certificate.extensions
    except UNREADABLE:
        return "a part of it cannot be read"
    return None
