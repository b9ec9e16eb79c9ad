"""A certificate authority for development: it makes what passes the profile `strict`, and keeps no records.

Whoever has its key is everybody, so it is for a developer's machine and for tests, not for production.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from secmiddleware.certificates.spiffe import check_spiffe_id
from secmiddleware.certificates.trust import CertificateError

# Clocks of machines that talk to each other differ by minutes at most; a fresh certificate works on all of
# them.
_BACKDATING: Final = timedelta(minutes=5)
_CLIENT: Final = ExtendedKeyUsageOID.CLIENT_AUTH
_MAX_COMMON_NAME: Final = 64  # RFC 5280 appendix A.1, ub-common-name


@dataclass(frozen=True, slots=True)
class Issued:
    """A certificate and its new private key, as PEM."""

    certificate_pem: bytes
    key_pem: bytes = field(repr=False)
    """PKCS #8, unencrypted."""
    chain_pem: bytes = field(repr=False)
    """What is presented: the certificate, and the authority's own unless that is self-signed."""


@dataclass(frozen=True, slots=True)
class Authority:
    """A CA: its certificate and its key, with which it issues certificates for servers and for clients."""

    certificate: x509.Certificate
    _key: ec.EllipticCurvePrivateKey = field(repr=False)

    @classmethod
    def create(
        cls, name: str, *, lifetime: timedelta = timedelta(days=3650), now: datetime | None = None
    ) -> Authority:
        """A new self-signed authority (P-256) that issues leaves only; `name` is its common name.

        ValueError for a name without or with more than 64 characters, and for a lifetime that is none.
        """
        _check_lifetime(lifetime)
        key = ec.generate_private_key(ec.SECP256R1())
        public_key = key.public_key()
        subject = _subject(name)
        begin = _now(now)
        certificate = (
            _builder(subject, subject, public_key, begin, begin + lifetime)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_key_usage(ca=True), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
            .sign(key, hashes.SHA256())
        )
        return cls(certificate, key)

    @classmethod
    def load(cls, certificate_pem: bytes, key_pem: bytes) -> Authority:
        """The authority with this certificate and this unencrypted key.

        Raises CertificateError where they are no PEM, not of each other, not a CA's or not on an elliptic
        curve.
        """
        try:
            certificate = x509.load_pem_x509_certificate(certificate_pem)
            key = load_pem_private_key(key_pem, password=None)
        except (ValueError, TypeError, x509.InvalidVersion) as error:
            raise CertificateError("the authority's certificate and key are not unencrypted PEM") from error
        if not isinstance(key, ec.EllipticCurvePrivateKey):
            raise CertificateError("the authority's key is not one on an elliptic curve")
        if certificate.public_key() != key.public_key():
            raise CertificateError("the authority's key is not the one of its certificate")
        try:
            is_ca = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
        except x509.ExtensionNotFound:
            is_ca = False
        if not is_ca:
            raise CertificateError("the authority's certificate is not one of a CA")
        return cls(certificate, key)

    @property
    def certificate_pem(self) -> bytes:
        """The authority's own certificate, for those who shall trust it."""
        return self.certificate.public_bytes(Encoding.PEM)

    @property
    def key_pem(self) -> bytes:
        """The authority's private key, PKCS #8, unencrypted: a secret."""
        return _key_pem(self._key)

    def issue_server(
        self,
        *,
        dns: Sequence[str] = (),
        ips: Sequence[str] = (),
        spiffe_id: str | None = None,
        common_name: str | None = None,
        lifetime: timedelta = timedelta(days=90),
        now: datetime | None = None,
    ) -> Issued:
        """A certificate with which a server is reached under these names; it ends with the authority at last.

        ValueError without any name, for what is none, and where nothing would be left of the lifetime.
        """
        names = _names(spiffe_id, dns, ips)
        return self._issue(names, ExtendedKeyUsageOID.SERVER_AUTH, common_name, lifetime, _now(now))

    def issue_client(
        self,
        *,
        spiffe_id: str | None = None,
        dns: Sequence[str] = (),
        common_name: str | None = None,
        lifetime: timedelta = timedelta(days=90),
        now: datetime | None = None,
    ) -> Issued:
        """A certificate with which a client calls under these names; it ends with the authority at last.

        ValueError without any name, for what is none, and where nothing would be left of the lifetime.
        """
        names = _names(spiffe_id, dns, ())
        return self._issue(names, _CLIENT, common_name, lifetime, _now(now))

    def _issue(
        self,
        names: list[x509.GeneralName],
        usage: x509.ObjectIdentifier,
        common_name: str | None,
        lifetime: timedelta,
        begin: datetime,
    ) -> Issued:
        if not names:
            raise ValueError("a certificate needs a name: a SPIFFE id, a DNS name or an IP address")
        _check_lifetime(lifetime)
        if begin >= self.certificate.not_valid_after_utc:
            raise ValueError("the authority has expired: make a new one")
        key = ec.generate_private_key(ec.SECP256R1())
        subject = _subject(common_name if common_name is not None else str(names[0].value)[:_MAX_COMMON_NAME])
        end = min(begin + lifetime, self.certificate.not_valid_after_utc)
        certificate = (
            _builder(subject, self.certificate.subject, key.public_key(), begin, end)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_key_usage(ca=False, receives=usage == _CLIENT), critical=True)
            .add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
            .add_extension(x509.SubjectAlternativeName(names), critical=False)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .add_extension(_key_identifier_of(self.certificate), critical=False)
            .sign(self._key, hashes.SHA256())
        )
        certificate_pem = certificate.public_bytes(Encoding.PEM)
        self_signed = self.certificate.subject == self.certificate.issuer
        chain_pem = certificate_pem if self_signed else certificate_pem + self.certificate_pem
        return Issued(certificate_pem, _key_pem(key), chain_pem)


def _now(now: datetime | None) -> datetime:
    return datetime.now(UTC) if now is None else now


def _subject(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def _check_lifetime(lifetime: timedelta) -> None:
    if lifetime <= timedelta(0):
        raise ValueError("the lifetime of a certificate must be longer than zero")


def _names(spiffe_id: str | None, dns: Sequence[str], ips: Sequence[str]) -> list[x509.GeneralName]:
    if isinstance(dns, str) or isinstance(ips, str):
        raise ValueError("DNS names and IP addresses are lists, also where there is only one")
    if spiffe_id is not None:
        check_spiffe_id(spiffe_id)
    return [
        *([] if spiffe_id is None else [x509.UniformResourceIdentifier(spiffe_id)]),
        *(x509.DNSName(name) for name in dns),
        *(x509.IPAddress(ipaddress.ip_address(address)) for address in ips),
    ]


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, begin: datetime, end: datetime
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(begin - _BACKDATING)
        .not_valid_after(end)
    )


def _key_identifier_of(ca: x509.Certificate) -> x509.AuthorityKeyIdentifier:
    """The CA's own choice of key identifier where it made one: OpenSSL compares the two."""
    try:
        identifier = ca.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    except x509.ExtensionNotFound:
        return x509.AuthorityKeyIdentifier.from_issuer_public_key(ca.public_key())  # type: ignore[arg-type]
    return x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identifier)


def _key_usage(*, ca: bool, receives: bool = False) -> x509.KeyUsage:
    """`receives` is for a client's: fields can be sealed to its certificate."""
    return x509.KeyUsage(
        digital_signature=not ca,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=receives,
        key_cert_sign=ca,
        crl_sign=ca,
        encipher_only=False,
        decipher_only=False,
    )


def _key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
