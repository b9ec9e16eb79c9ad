"""The rows of certificates: who is calling, from a certificate that is known and from one that is not."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from itertools import cycle

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from cryptography.x509.verification import PolicyBuilder, Store

from bench.measure import Row, Step
from secmiddleware.certificates.judgement import Trust
from secmiddleware.certificates.trust import TrustAnchor
from secmiddleware.identity.speaker import identify
from secmiddleware.messages import Identity, Presented

# More than are kept anywhere: in a round of them each is met as if for the first time.
_CALLERS = 1100


class _Issuer:
    """A CA of the bench's own: what the development CA makes has no intermediates."""

    def __init__(self, name: str, above: _Issuer | None = None) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        self.certificate = (above or self)._issue(self._name, self._key.public_key(), ca=True)  # noqa: SLF001
        self.der = self.certificate.public_bytes(Encoding.DER)

    def leaves(self, count: int) -> list[bytes]:
        """So many leaves of clients, each another one, on one key."""
        key = ec.generate_private_key(ec.SECP256R1()).public_key()
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "client")])
        return [self._issue(name, key, ca=False).public_bytes(Encoding.DER) for _ in range(count)]

    def _issue(self, subject: x509.Name, key: ec.EllipticCurvePublicKey, *, ca: bool) -> x509.Certificate:
        own = x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key())
        usage = dict.fromkeys(
            ("content_commitment", "key_encipherment", "data_encipherment", "key_agreement",
             "encipher_only", "decipher_only"),
            False,
        )  # fmt: skip
        key_usage = x509.KeyUsage(digital_signature=not ca, key_cert_sign=ca, crl_sign=ca, **usage)
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(datetime.now(UTC) - timedelta(hours=1))
            .not_valid_after(datetime.now(UTC) + timedelta(days=1))
            .add_extension(x509.BasicConstraints(ca, None), critical=True)
            .add_extension(key_usage, critical=True)
            .add_extension(own, critical=False)
        )
        if not ca:
            name = x509.UniformResourceIdentifier("spiffe://example.org/clients/bench")
            builder = builder.add_extension(x509.SubjectAlternativeName([name]), critical=False)
            client = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH])
            builder = builder.add_extension(client, critical=False)
        return builder.sign(self._key, hashes.SHA256())


def certificate_rows() -> Iterator[Row]:
    """Warm: a connection that is kept, and a proxy's header with the same certificate again; cold: neither.

    All of `identify` is measured: verdict and identity. The peer of the cold rows is the library alone: it
    loads the same certificates, verifies them, and checks neither strength nor names nor revocation.
    """
    root = _Issuer("root")
    middle = _Issuer("middle", root)
    trust, store = Trust((TrustAnchor(root.certificate),)), Store([root.certificate])
    now = datetime.now(UTC)

    def who(leaf: bytes, *chain: bytes) -> Identity:
        identity = identify(Presented(leaf, chain), trust, now)
        assert isinstance(identity, Identity)
        return identity

    def verify(leaf: bytes, *chain: bytes) -> object:
        load = x509.load_der_x509_certificate
        verifier = PolicyBuilder().store(store).time(now).build_client_verifier()
        return verifier.verify(load(leaf), [load(one) for one in chain])

    leaves = root.leaves(_CALLERS)
    kept, first = Presented(leaves[0]), leaves[0]

    def digest() -> str:
        return hashlib.sha256(first).hexdigest()

    yield Row("who, warm: a kept connection", lambda: identify(kept, trust, now), "SHA-256 of leaf", digest)
    yield Row("who, warm: the same in a new header", lambda: who(first), "SHA-256 of leaf", digest)
    for label, given, chain in (
        ("leaf, root", leaves, ()),
        ("leaf, intermediate, root", middle.leaves(_CALLERS), (middle.der,)),
    ):
        yield Row(
            f"who, cold: {label}", _each(who, given, chain), "cryptography", _each(verify, given, chain)
        )


def _each(function: Callable[..., object], leaves: list[bytes], chain: tuple[bytes, ...]) -> Step:
    """Does it to the next leaf at each call."""
    endless = cycle(leaves)
    return lambda: function(next(endless), *chain)
