"""Trust anchors: the certificates that a chain may end in, and what each of them may speak for."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes

from secmiddleware.certificates.strength import weakness_of_key
from secmiddleware.errors import SecMiddlewareError


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
        weakness = weakness_of_key(self.certificate)
        if weakness is not None:
            subject = self.certificate.subject.rfc4514_string()
            raise CertificateError(f"the trust anchor {subject!r} cannot be trusted: {weakness}")
        object.__setattr__(self, "sha256", self.certificate.fingerprint(hashes.SHA256()).hex())


def load_anchors(path: Path) -> tuple[x509.Certificate, ...]:
    """The certificates of a PEM bundle, each once, in their order.

    Raises CertificateError, which names the file, where it cannot be read, holds no certificate, or holds
    one that is broken or whose key is too weak to vouch for anybody. Dates are not looked at: they are
    judged when used.
    """
    try:
        certificates = x509.load_pem_x509_certificates(path.read_bytes())
    except OSError as error:
        raise CertificateError(f"{path} cannot be read: {error.strerror}") from error
    except (ValueError, x509.InvalidVersion) as error:
        raise CertificateError(f"{path} is not a bundle of certificates in PEM") from error
    for certificate in certificates:
        weakness = weakness_of_key(certificate)
        if weakness is not None:
            subject = certificate.subject.rfc4514_string()
            raise CertificateError(f"{path}: {subject!r} cannot be trusted: {weakness}")
    return tuple(dict.fromkeys(certificates))
