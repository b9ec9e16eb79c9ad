"""Whoever a row may name as `presented`: certificates of every shape, good and bad, made anew each time."""

from __future__ import annotations

import datetime as dt
import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from secmiddleware.files import write_secret
from secmiddleware.messages import Presented

DAY: Final = dt.timedelta(days=1)
CLIENT: Final = ExtendedKeyUsageOID.CLIENT_AUTH
SERVER: Final = ExtendedKeyUsageOID.SERVER_AUTH
ANY: Final = ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE

DIES_IN_TLS: Final = frozenset(
    {
        "expired",
        "not-yet",
        "stranger",
        "weak",
        "server-only",
        "any-usage",
        "sub-ca",
        "root",
        "below-alone",
        "below-expired-ca",
        "below-weak-ca",
        "below-alice",
        "expired-and-weak",
        "not-yet-and-server-only",
        "weak-and-server-only",
        "server-only-and-stranger",
        "control-and-expired",
    }
)
"""OpenSSL refuses these itself, in the handshake, where it asks for a certificate."""

BYTES_ONLY: Final = {
    "garbage": "no TLS library presents what is not a certificate",
    "doubled": "no TLS library presents what is not a certificate",
    "garbage-behind": "no TLS library presents what is not a certificate",
    "by-proxy": "a proxy's word does not come by TLS",
    "p224": "TLS 1.3 has no signature scheme for this curve, so a client presents nothing",
}
"""What can be handed over in process only, and why."""


@dataclass(frozen=True)
class Minted:
    """A certificate with its key and whatever stands between it and the CA."""

    certificate: x509.Certificate
    key: Any
    chain: tuple[x509.Certificate, ...] = ()

    @property
    def der(self) -> bytes:
        return self.certificate.public_bytes(serialization.Encoding.DER)

    @property
    def pem(self) -> bytes:
        chain = (self.certificate, *self.chain)
        return b"".join(one.public_bytes(serialization.Encoding.PEM) for one in chain)

    @property
    def presented(self) -> Presented:
        chain = tuple(one.public_bytes(serialization.Encoding.DER) for one in self.chain)
        return Presented(self.der, chain)

    def behind(self, *chain: Minted) -> Minted:
        """The same, presented with these others behind it."""
        return Minted(self.certificate, self.key, tuple(one.certificate for one in chain))

    def write(self, folder: Path, name: str) -> None:
        (folder / f"{name}.pem").write_bytes(self.pem)
        write_secret(
            folder / f"{name}.key",
            self.key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            ),
        )


def mint(
    name: str,
    signer: Minted | None,
    *,
    uris: Sequence[str] = (),
    dns: Sequence[str] = (),
    ips: Sequence[str] = (),
    emails: Sequence[str] = (),
    ca: bool = False,
    usage: Sequence[x509.ObjectIdentifier] = (CLIENT,),
    directory: str = "",
    agrees_only: bool = False,
    signs: bool | None = None,
    critical_names: bool = False,
    starts: dt.timedelta = -DAY,
    ends: dt.timedelta = DAY,
    key: Any = None,
) -> Minted:
    """A certificate of any shape, good or bad; good where nothing else is asked for."""
    key = key or ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = dt.datetime.now(dt.UTC)
    issuer_key = signer.key if signer else key
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(signer.certificate.subject if signer else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now + starts)
        .not_valid_after(now + ends)
        .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()), critical=False
        )
        .add_extension(
            x509.KeyUsage(
                digital_signature=(not ca and not agrees_only) if signs is None else signs,
                content_commitment=False,
                key_encipherment=False,
                data_encipherment=False,
                key_agreement=agrees_only,
                key_cert_sign=ca and not signs,
                crl_sign=ca and not signs,
                encipher_only=False,
                decipher_only=False,
            ),
            critical=True,
        )
    )
    names: list[x509.GeneralName] = [x509.UniformResourceIdentifier(uri) for uri in uris]
    names += [x509.DNSName(host) for host in dns]
    names += [x509.RFC822Name(email) for email in emails]
    names += [x509.IPAddress(ipaddress.ip_address(ip)) for ip in ips]
    if directory:
        attribute = x509.NameAttribute(NameOID.COMMON_NAME, directory)
        names.append(x509.DirectoryName(x509.Name([attribute])))
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=critical_names)
    if usage and not ca:
        builder = builder.add_extension(x509.ExtendedKeyUsage(usage), critical=False)
    return Minted(builder.sign(issuer_key, hashes.SHA256()), key)


class People:
    """The CA of the table, one that nobody trusts, and everybody by name."""

    def __init__(self) -> None:
        self.ca = mint("table CA", None, ca=True, ends=100 * DAY)
        self.strange_ca = mint("strange CA", None, ca=True, ends=100 * DAY)
        self.server = mint("localhost", self.ca, dns=("localhost",), ips=("127.0.0.1",), usage=(SERVER,))

    @cached_property
    def minted(self) -> dict[str, Minted]:
        """All that have a key and could stand in a handshake."""
        return self._accepted() | self._refused() | self._refused_for_one_of_two()

    def _accepted(self) -> dict[str, Minted]:
        ca = self.ca
        sub = mint("table sub CA", ca, ca=True, ends=50 * DAY)
        below = mint("below", sub, uris=("spiffe://example.org/shop/below",))
        return {
            "alice": mint("alice", ca, uris=("spiffe://example.org/shop/alice",)),
            "oscar": mint("oscar", ca, uris=("spiffe://example.org/ops/oscar",)),
            "deep-oscar": mint("oscar", ca, uris=("spiffe://example.org/ops/oscar/deep",)),
            "bob": mint("bob", ca, uris=("spiffe://other.org/shop/bob",)),
            "carol": mint("carol", ca, dns=("Carol.Example",)),
            "named-oscar": mint("spiffe://example.org/ops/oscar", ca, dns=("oscar.example",)),
            "host": mint("host", ca, dns=("a.internal.example",)),
            "deep-host": mint("host", ca, dns=("a.b.internal.example",)),
            "star-host": mint("host", ca, dns=("*.internal.example",)),
            "oscar-and-host": mint(
                "oscar", ca, uris=("spiffe://example.org/ops/oscar",), dns=("oscar.elsewhere.example",)
            ),
            "oscar-and-directory": mint(
                "oscar", ca, uris=("spiffe://example.org/ops/oscar",), directory="somebody else"
            ),
            "dave": mint("dave", ca, emails=("dave@Example.org",), ips=("10.1.2.3",)),
            "rsa": mint("rsa", ca, dns=("rsa.example",), key=rsa.generate_private_key(65537, 2048)),
            "backslash": mint("backslash", ca, uris=("https://example.org/a\\b%0a<script>",)),
            "any-usage-none-said": mint("free", ca, dns=("free.example",), usage=()),
            "plain": mint("plain", ca),
            "critical-names": mint("critical", ca, dns=("critical.example",), critical_names=True),
            "below": below.behind(sub),
            "below-with-more": below.behind(self.strange_ca, sub, ca, sub),
        }

    def _refused(self) -> dict[str, Minted]:
        ca = self.ca
        sub = mint("table sub CA", ca, ca=True, ends=50 * DAY)
        old = mint("old sub CA", ca, ca=True, starts=-3 * DAY, ends=-DAY)
        thin = mint("thin sub CA", ca, ca=True, key=rsa.generate_private_key(65537, 1024))
        alice = mint("alice", ca, uris=("spiffe://example.org/shop/alice",))
        some = {"dns": ("x.example",)}
        return {
            "expired": mint("expired", ca, **some, starts=-3 * DAY, ends=-DAY),
            "not-yet": mint("not yet", ca, **some, starts=DAY, ends=2 * DAY),
            "stranger": mint("alice", self.strange_ca, uris=("spiffe://example.org/shop/alice",)),
            "weak": mint("weak", ca, **some, key=rsa.generate_private_key(65537, 1024)),
            "p224": mint("p224", ca, **some, key=ec.generate_private_key(ec.SECP224R1())),
            "server-only": mint("s", ca, **some, usage=(SERVER,)),
            "any-usage": mint("s", ca, **some, usage=(ANY,)),
            "agrees-only": mint("s", ca, **some, agrees_only=True),
            "sub-ca": sub,
            "long-chain": alice.behind(*[ca] * 11),
            "root": ca,
            "signing-ca": mint("signing CA", ca, **some, ca=True, signs=True),
            "control": mint("eve\nadmin", ca, uris=("https://eve.example/\x7f",)),
            "two-spiffe": mint("two", ca, uris=("spiffe://example.org/a", "spiffe://example.org/b")),
            "spiffe-and-uri": mint("two", ca, uris=("spiffe://example.org/a", "https://example.org/b")),
            "upper-spiffe": mint("upper", ca, uris=("spiffe://Example.org/ops/oscar",)),
            "dotted-spiffe": mint("dotted", ca, uris=("spiffe://example.org/shop/../ops/oscar",)),
            "below-alone": mint("below", sub, **some),
            "below-expired-ca": mint("below", old, **some).behind(old),
            "below-weak-ca": mint("below", thin, **some).behind(thin),
            "below-alice": mint("below", alice, uris=("spiffe://example.org/ops/oscar",)).behind(alice),
        }

    def _refused_for_one_of_two(self) -> dict[str, Minted]:
        ca = self.ca
        weak = rsa.generate_private_key(65537, 1024)
        past = {"starts": -3 * DAY, "ends": -DAY}
        some = {"dns": ("x.example",)}
        return {
            "control-and-expired": mint("two", ca, uris=("https://eve.example/\x7f",), **past),
            "expired-and-weak": mint("two", ca, **some, key=weak, **past),
            "not-yet-and-server-only": mint("two", ca, **some, usage=(SERVER,), starts=DAY, ends=2 * DAY),
            "weak-and-server-only": mint("two", ca, **some, key=weak, usage=(SERVER,)),
            "server-only-and-stranger": mint("two", self.strange_ca, **some, usage=(SERVER,)),
        }

    def presented(self, name: str) -> Presented | None:
        """What a server hands over for a name of a row."""
        alice = self.minted["alice"].der
        match name:
            case "":
                return None
            case "garbage":
                return Presented(b"0\x82\x01\x00not a certificate")
            case "doubled":
                return Presented(alice + alice)
            case "garbage-behind":
                return Presented(alice, (b"0\x82\x01\x00not a certificate",))
            case "by-proxy":
                return Presented(alice, source="nginx")
        return self.minted[name].presented
