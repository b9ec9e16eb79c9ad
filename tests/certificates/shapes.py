"""Certificates of any shape, good and bad, for tests: every fault is one argument."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed25519, rsa, x25519
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from secmiddleware.messages import Presented

NOW = datetime(2026, 6, 1, 12, 0, tzinfo=UTC)
CLIENT = ExtendedKeyUsageOID.CLIENT_AUTH
SERVER = ExtendedKeyUsageOID.SERVER_AUTH
USAGES = (
    "digital_signature",
    "content_commitment",
    "key_encipherment",
    "data_encipherment",
    "key_agreement",
    "key_cert_sign",
    "crl_sign",
    "encipher_only",
    "decipher_only",
)
ANY = ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE


@cache
def key_of(kind: str, number: int = 0) -> Any:
    """A key of a kind; another number is another key. Made once, since RSA is slow."""
    del number
    match kind:
        case "p256":
            return ec.generate_private_key(ec.SECP256R1())
        case "p224":
            return ec.generate_private_key(ec.SECP224R1())
        case "p192":
            return ec.generate_private_key(ec.SECP192R1())
        case "p521":
            return ec.generate_private_key(ec.SECP521R1())
        case "p384":
            return ec.generate_private_key(ec.SECP384R1())
        case "ed25519":
            return ed25519.Ed25519PrivateKey.generate()
        case "x25519":
            return x25519.X25519PrivateKey.generate()
        case "dsa":
            return dsa.generate_private_key(2048)
        case _:
            return rsa.generate_private_key(65537, int(kind.removeprefix("rsa")))


@dataclass(frozen=True)
class Made:
    certificate: x509.Certificate
    key: Any

    @property
    def der(self) -> bytes:
        return self.certificate.public_bytes(Encoding.DER)

    @property
    def pem(self) -> bytes:
        return self.certificate.public_bytes(Encoding.PEM)

    @property
    def key_pem(self) -> bytes:
        return self.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def usage(*bits: str) -> x509.KeyUsage:
    return x509.KeyUsage(**{bit: bit in bits for bit in USAGES})


def san(*names: x509.GeneralName) -> x509.SubjectAlternativeName:
    return x509.SubjectAlternativeName(list(names))


def raw(oid: str, der: bytes) -> x509.UnrecognizedExtension:
    return x509.UnrecognizedExtension(x509.ObjectIdentifier(oid), der)


def raw_san(tag: int, value: bytes) -> x509.UnrecognizedExtension:
    """A subjectAltName with one name of any tag and any bytes."""
    body = bytes([tag, len(value)]) + value
    return raw("2.5.29.17", bytes([0x30, len(body)]) + body)


def make(
    subject: str,
    issuer: Made | None = None,
    *,
    key: Any = None,
    extensions: list[tuple[x509.ExtensionType, bool]] | None = None,
    begin: datetime = NOW - timedelta(days=1),
    end: datetime = NOW + timedelta(days=30),
    digest: hashes.HashAlgorithm | None = hashes.SHA256(),  # noqa: B008
) -> Made:
    """A certificate with exactly these extensions; self-signed without an issuer."""
    key = key or key_of("p256", hash(subject))
    signer = key if issuer is None else issuer.key
    builder = (
        x509.CertificateBuilder()
        .subject_name(name(subject))
        .issuer_name(name(subject) if issuer is None else issuer.certificate.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(begin)
        .not_valid_after(end)
    )
    for extension, critical in extensions or []:
        builder = builder.add_extension(extension, critical)
    if isinstance(signer, ed25519.Ed25519PrivateKey):
        digest = None
    return Made(builder.sign(signer, digest), key)


def strict_ca(
    subject: str = "ca", issuer: Made | None = None, path_length: int | None = None, **rest: Any
) -> Made:
    key = rest.pop("key", None) or key_of("p256", hash(subject))
    extensions: list[tuple[x509.ExtensionType, bool]] = [
        (x509.BasicConstraints(True, path_length), True),
        (usage("key_cert_sign", "crl_sign"), True),
        (x509.SubjectKeyIdentifier.from_public_key(key.public_key()), False),
        *rest.pop("more", []),
    ]
    if issuer is not None:
        extensions.append((authority_key_id(issuer), False))
    return make(subject, issuer, key=key, extensions=extensions, **rest)


def authority_key_id(issuer: Made) -> x509.AuthorityKeyIdentifier:
    return x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer.key.public_key())


def strict_leaf(
    issuer: Made,
    *,
    names: x509.ExtensionType | None = None,
    eku: list[x509.ObjectIdentifier] | None = None,
    ku: x509.KeyUsage | None = None,
    ca: bool | None = False,
    more: list[tuple[x509.ExtensionType, bool]] | None = None,
    **rest: Any,
) -> Made:
    extensions: list[tuple[x509.ExtensionType, bool]] = [
        (names or san(x509.DNSName("client.example.org")), False),
        (x509.ExtendedKeyUsage([CLIENT] if eku is None else eku), False),
        (ku or usage("digital_signature"), True),
        (authority_key_id(issuer), False),
        *(more or []),
    ]
    if ca is not None:
        extensions.append((x509.BasicConstraints(ca, None), True))
    return make(rest.pop("subject", "leaf"), issuer, extensions=extensions, **rest)


def plain_ca(subject: str = "ca", **rest: Any) -> Made:
    """What `openssl req -x509` makes by default: no keyUsage."""
    return make(subject, extensions=[(x509.BasicConstraints(True, None), True)], **rest)


def presented(leaf: Made, *chain: Made) -> Presented:
    return Presented(leaf.der, tuple(made.der for made in chain))


def openssl(folder: Path, *arguments: str) -> None:
    """Run the real thing in a folder."""
    subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True, timeout=60)


def signed_over(made: Made, digest: str) -> bytes:
    """The DER of an RSA-signed certificate that says it was signed over MD5 or SHA-1.

    The signature itself does not fit any more, since cryptography signs over neither; the verdict comes
    before it.
    """
    last = {"md5": 0x04, "sha1": 0x05}[digest]
    pkcs1 = bytes.fromhex("2a864886f70d0101")
    return made.der.replace(pkcs1 + b"\x0b", pkcs1 + bytes([last]))


def revocation_list(
    issuer: Made,
    *revoked: Made | int,
    reason: x509.ReasonFlags | None = None,
    entry_extensions: list[tuple[x509.ExtensionType, bool]] | None = None,
    begin: datetime = NOW - timedelta(hours=1),
    end: datetime = NOW + timedelta(days=1),
    extensions: list[tuple[x509.ExtensionType, bool]] | None = None,
    number: int | None = 1,
    key: Any = None,
    name_of: Made | None = None,
) -> x509.CertificateRevocationList:
    """A list of `issuer` (signed by another `key`, in another's name, where that is the fault)."""
    builder = (
        x509.CertificateRevocationListBuilder()
        .issuer_name((name_of or issuer).certificate.subject)
        .last_update(begin)
        .next_update(end)
    )
    if number is not None:
        builder = builder.add_extension(x509.CRLNumber(number), critical=False)
    for extension, critical in extensions or []:
        builder = builder.add_extension(extension, critical)
    for one in revoked:
        serial = one if isinstance(one, int) else one.certificate.serial_number
        entry = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(begin)
        if reason is not None:
            entry = entry.add_extension(x509.CRLReason(reason), critical=False)
        for extension, critical in entry_extensions or []:
            entry = entry.add_extension(extension, critical)
        builder = builder.add_revoked_certificate(entry.build())
    signer = key or issuer.key
    return builder.sign(signer, None if isinstance(signer, ed25519.Ed25519PrivateKey) else hashes.SHA256())
