"""What each proxy writes for a certificate, and certificates to write: the other end of the presets."""

from __future__ import annotations

import base64
import hashlib
import ssl
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import cache
from urllib.parse import quote

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import NameOID

from secmiddleware.identity.presets import PRESETS, Preset
from secmiddleware.messages import Headers, Refusal

Key = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey

KINDS = ("rsa", "p256", "p384", "ed25519", "utf8", "long", "intermediate")


@cache
def certificate(kind: str) -> bytes:
    """DER of a certificate that signs itself, which no codec minds."""
    makers: dict[str, Callable[[], Key]] = {
        "rsa": lambda: rsa.generate_private_key(65537, 2048),
        "p384": lambda: ec.generate_private_key(ec.SECP384R1()),
        "ed25519": ed25519.Ed25519PrivateKey.generate,
    }
    subjects = {"utf8": 'Zoë "Z" Müller, Söhne; a=b + 50 % <é> {x} \\'}
    names: dict[str, list[x509.GeneralName]] = {
        "utf8": [
            x509.UniformResourceIdentifier("spiffe://example.org/a%2Cb"),
            x509.RFC822Name("a@b.example"),
        ],
        "long": [x509.DNSName(f"host-{number}.of-a-long-list.example") for number in range(300)],
    }
    return signed(
        makers.get(kind, lambda: ec.generate_private_key(ec.SECP256R1()))(),
        subjects.get(kind, kind),
        names.get(kind, [x509.DNSName(f"{kind}.example")]),
    )


def signed(key: Key, subject: str, names: list[x509.GeneralName]) -> bytes:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, subject)])
    now = datetime.now(UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
    )
    algorithm = None if isinstance(key, ed25519.Ed25519PrivateKey) else hashes.SHA256()
    return builder.sign(key, algorithm).public_bytes(serialization.Encoding.DER)


@cache
def certificate_with_plus() -> bytes:
    """One in whose base64 a plus stands and an equals sign, so that whoever loses them shows."""
    while True:
        der = signed(ec.generate_private_key(ec.SECP256R1()), "plus", [x509.DNSName("plus.example")])
        if b"+" in b64(der) and b64(der).endswith(b"="):
            return der


# How a certificate is written.


def b64(der: bytes) -> bytes:
    return base64.b64encode(der)


def pem(*ders: bytes) -> bytes:
    return "".join(map(ssl.DER_cert_to_PEM_cert, ders)).encode()


def escaped(*ders: bytes) -> bytes:
    """nginx and Envoy: everything that is not unreserved."""
    return quote(pem(*ders), safe="").encode()


def amazon(*ders: bytes) -> bytes:
    return quote(pem(*ders), safe="+=/").encode()


def sequence(der: bytes) -> bytes:
    return b":" + b64(der) + b":"


def spaced(der: bytes) -> bytes:
    return pem(der).replace(b"\n", b" ")


def apache_escaped(der: bytes) -> bytes:
    return pem(der).replace(b" ", b"%20").replace(b"\n", b"%0a")


def apache_encoded(der: bytes) -> bytes:
    return b64(pem(der))


def traefik(*ders: bytes) -> bytes:
    return b",".join(map(b64, ders))


def traefik_escaped(*ders: bytes) -> bytes:
    return b",".join(quote(b64(der), safe="").encode() for der in ders)


def element(leaf: bytes, *chain: bytes, by: str = "spiffe://example.org/proxy", tail: str = "") -> bytes:
    """An element of XFCC as Envoy's mutateXfccRequestHeader builds it: Chain has the leaf too."""
    pairs = [f"By={by}", f"Hash={hashlib.sha256(leaf).hexdigest()}", f'Cert="{escaped(leaf).decode()}"']
    if chain:
        pairs.append(f'Chain="{escaped(leaf, *chain).decode()}"')
    return ";".join(pairs).encode() + tail.encode()


def xfcc(leaf: bytes, *chain: bytes) -> bytes:
    return element(
        leaf, *chain, tail=';Subject="CN=a\\\\, \\"b\\",O=c";URI=spiffe://example.org/client;DNS=c.example'
    )


# What a proxy sends: name of the preset, and of the form where there are several.


def _nginx(leaf: bytes, *_: bytes) -> Headers:
    return (b"x-ssl-client-verify", b"SUCCESS"), (b"x-ssl-client-cert", escaped(leaf))


def _haproxy(leaf: bytes, *chain: bytes) -> Headers:
    return (
        (b"x-ssl-client-verify", b"0"),
        (b"x-ssl-client-used", b"1"),
        (b"x-ssl-client-cert", b64(leaf)),
        (b"x-ssl-client-chain-der", b64(b"".join(chain))),
    )


def _apache(form: Callable[[bytes], bytes]) -> Callable[..., Headers]:
    def headers(leaf: bytes, *chain: bytes) -> Headers:
        numbered = [
            (
                b"x-ssl-client-cert-chain-%d" % number,
                form(chain[number]) if number < len(chain) else b"(null)",
            )
            for number in range(max(3, len(chain)))
        ]
        return (b"x-ssl-client-verify", b"SUCCESS"), (b"x-ssl-client-cert", form(leaf)), *numbered

    return headers


def _one(name: bytes, form: Callable[..., bytes], *, whole: bool = False) -> Callable[..., Headers]:
    return lambda leaf, *chain: ((name, form(leaf, *chain) if whole else form(leaf)),)


def _rfc9440(leaf: bytes, *chain: bytes) -> Headers:
    listed = ((b"client-cert-chain", b", ".join(map(sequence, chain))),) if chain else ()
    return (b"client-cert", sequence(leaf)), *listed


def _google(leaf: bytes, *chain: bytes) -> Headers:
    return (
        (b"x-client-cert-present", b"true"),
        (b"x-client-cert-chain-verified", b"true"),
        (b"x-client-cert-leaf", sequence(leaf)),
        (b"x-client-cert-chain", b",".join(map(sequence, chain))),
    )


def _cloudflare(leaf: bytes, *_: bytes) -> Headers:
    return (
        (b"cf-cert-presented", b"true"),
        (b"cf-cert-verified", b"true"),
        (b"cf-cert-revoked", b"false"),
        (b"cf-client-cert-der-base64", b64(leaf)),
    )


PROXIES: dict[str, Callable[..., Headers]] = {
    "nginx": _nginx,
    "haproxy": _haproxy,
    "apache spaced": _apache(spaced),
    "apache escaped": _apache(apache_escaped),
    "apache encoded": _apache(apache_encoded),
    "caddy": _one(b"x-client-cert-der-base64", b64),
    "caddy sequence": _one(b"x-client-cert-der-base64", sequence),
    "rfc9440": _rfc9440,
    "envoy": _one(b"x-forwarded-client-cert", xfcc, whole=True),
    "traefik": _one(b"x-forwarded-tls-client-cert", traefik, whole=True),
    "traefik escaped": _one(b"x-forwarded-tls-client-cert", traefik_escaped, whole=True),
    "aws-alb": _one(b"x-amzn-mtls-clientcert-leaf", amazon),
    "aws-alb-passthrough": _one(b"x-amzn-mtls-clientcert", amazon, whole=True),
    "gcp-lb": _google,
    "azure-app-service": _one(b"x-arr-clientcert", b64),
    "cloudflare": _cloudflare,
}
"""Each hands over a leaf, and a chain where the proxy can."""

WITH_CHAIN = frozenset(
    {
        "haproxy",
        "apache spaced",
        "apache escaped",
        "apache encoded",
        "rfc9440",
        "envoy",
        "traefik",
        "traefik escaped",
    }
    | {"aws-alb-passthrough", "gcp-lb"}
)

NOBODY: dict[str, Headers] = {
    "nginx": ((b"x-ssl-client-verify", b"NONE"),),
    "haproxy": (
        (b"x-ssl-client-verify", b"0"),
        (b"x-ssl-client-used", b"0"),
        (b"x-ssl-client-cert", b""),
        (b"x-ssl-client-chain-der", b""),
    ),
    "apache spaced": (
        (b"x-ssl-client-verify", b"NONE"),
        (b"x-ssl-client-cert", b"(null)"),
        (b"x-ssl-client-cert-chain-0", b"(null)"),
    ),
    "apache escaped": ((b"x-ssl-client-verify", b"NONE"), (b"x-ssl-client-cert", b"")),
    "rfc9440": (),
    "envoy": (),
    "traefik": (),
    "aws-alb": (),
    "aws-alb-passthrough": (),
    "gcp-lb": (
        (b"x-client-cert-present", b"false"),
        (b"x-client-cert-chain-verified", b"false"),
        (b"x-client-cert-leaf", b""),
        (b"x-client-cert-chain", b""),
    ),
    "azure-app-service": (),
    "cloudflare": (
        (b"cf-cert-presented", b"false"),
        (b"cf-cert-verified", b"false"),
        (b"cf-cert-revoked", b"false"),
    ),
}
"""What a proxy sends where the client had no certificate."""


# How a test asks.

AMBIGUOUS, MALFORMED = "header_ambiguous", "certificate_malformed"
UNTRUSTED, DENIED = "certificate_untrusted", "proxy_untrusted"

FORMS = sorted(PROXIES)


def preset_of(form: str) -> Preset:
    return PRESETS[form.partition(" ")[0]]


def header_of(form: str) -> bytes:
    return preset_of(form).roles["certificate"].encode()


def value_of(form: str, headers: Headers) -> bytes:
    (value,) = (value for name, value in headers if name == header_of(form))
    return value


def with_value(form: str, headers: Headers, value: bytes) -> Headers:
    return tuple((name, value if name == header_of(form) else old) for name, old in headers)


def code_of(outcome: object) -> str | None:
    return outcome.code if isinstance(outcome, Refusal) else None
