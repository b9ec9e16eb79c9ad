"""Whom a JWE is sealed to, and what opens one: keys of files, and of the certificates of callers.

A key is of one algorithm, by its kind: RSA keys of RSA-OAEP-256, keys on a NIST curve of ECDH-ES+A256KW. What
tokens are made of is `jwe`'s. joserfc is imported where a key is read, and not before.
"""

from __future__ import annotations

import hashlib
import re
from base64 import urlsafe_b64encode
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from secmiddleware.errors import ConfigError, Finding, SealError
from secmiddleware.files import SecretFileError, read_file, read_secret
from secmiddleware.jose import parse_object

Algorithm = Literal["RSA-OAEP-256", "ECDH-ES+A256KW"]

_LARGEST: Final = 1 << 16
"""Bytes of a key's file: an RSA key of 16,384 bits in PEM has some 13 KB."""
_LEAST_BITS: Final = 2048
"""RFC 7518 §4.3: a key of 2048 bits or larger must be used."""
_CURVES: Final = ("secp256r1", "secp384r1", "secp521r1")

# What is the key itself (RFC 7518 §6.2, §6.3); joserfc is shown nothing else of a JWK.
_PUBLIC: Final = {"RSA": ("n", "e"), "EC": ("crv", "x", "y")}
_SECRET: Final = {"RSA": ("d", "p", "q", "dp", "dq", "qi"), "EC": ("d",)}
# RFC 7517 §4.3: what a key says that it is for, each half.
_OPERATIONS: Final[dict[bool, frozenset[str]]] = {
    False: frozenset({"encrypt", "wrapKey", "deriveKey", "deriveBits"}),
    True: frozenset({"decrypt", "unwrapKey", "deriveKey", "deriveBits"}),
}

# The last four a certificate brings about: its version, a part that is there twice, a name that the library
# has no word for, and what is only a warning unless the interpreter runs with -W error.
_UNREADABLE: Final = (
    ValueError, TypeError, KeyError, AttributeError, OverflowError, UnsupportedAlgorithm,
    x509.InvalidVersion, x509.DuplicateExtension, x509.UnsupportedGeneralNameType, Warning,
)  # fmt: skip
# The two lines of each key in PEM have the same words.
_PRIVATE_BLOCK: Final = re.compile(
    rb"-----BEGIN ([A-Z0-9 ]*)PRIVATE KEY-----.*?-----END \1PRIVATE KEY-----", re.DOTALL
)
_PRIVATE_LINE: Final = b"PRIVATE KEY-----"
_NOT_ACCEPTED: Final = "is not of a kind that is accepted"
_KINDS: Final = "RSA of 2048 bits or more, or an elliptic curve: P-256, P-384 or P-521"


@dataclass(frozen=True, slots=True)
class SealingKey:
    """The public key of somebody who is to open what is sealed to it, and how a header names it."""

    algorithm: Algorithm
    named: tuple[str, str]
    """`kid`, or `x5t#S256` where it came in a certificate, and its value."""
    key: Any = field(repr=False, compare=False)


@dataclass(frozen=True, slots=True)
class OpeningKey:
    """A private key of ours."""

    algorithm: Algorithm
    kid: str
    key: Any = field(repr=False, compare=False)

    def __reduce__(self) -> str:
        raise TypeError("a private key is not written down")


class _Unfit(Exception):  # noqa: N818  (does not leave this module)
    """Why a key will not do, and what would."""

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.hint = hint


def load_sealing_key(path: Path, setting: str) -> SealingKey:
    """The recipient's key in a file: a public key or a certificate in PEM, or a JWK.

    Its name is the JWK's `kid`, else the thumbprint of RFC 7638, or for a certificate that of RFC 7515
    §4.1.8. Raises ConfigError under the key path `setting`, and tells nothing of the key.
    """
    try:
        data = read_file(path, limit=_LARGEST)
        if b"PRIVATE KEY-----" in data:
            raise _Unfit("holds a private key", "its owner keeps it: only the public half belongs here")
        if data.lstrip().startswith(b"{"):
            return SealingKey(*_of_jwk(parse_object(data), private=False))
        if b"-----BEGIN CERTIFICATE-----" in data:
            return _of_certificate(x509.load_pem_x509_certificate(data))
        key = _checked(serialization.load_pem_public_key(data))
        return SealingKey(_algorithm_of(key), ("kid", key.thumbprint()), key)
    except SecretFileError as error:
        raise ConfigError([Finding(setting, str(error))]) from None
    except _Unfit as error:
        raise ConfigError([Finding(setting, f"{path} {error}", hint=error.hint)]) from None
    except _UNREADABLE:
        hint = "it is a PUBLIC KEY or a CERTIFICATE in PEM, or a JWK"
        raise ConfigError([Finding(setting, f"{path} holds no public key", hint=hint)]) from None


def load_opening_keys(path: Path, setting: str) -> tuple[OpeningKey, ...]:
    """The private keys of ours in a file that is private to its owner, in its order; one at least.

    They are in PEM, unencrypted, one below the other; or a JWK, or a JWK Set (RFC 7517 §5). The name of each
    is the JWK's `kid`, else the thumbprint of RFC 7638. Raises ConfigError under the key path `setting`, and
    tells nothing of a key.
    """
    try:
        data = read_secret(path, limit=_LARGEST)
        is_jwk = data.lstrip().startswith(b"{")
        keys = tuple(_opening_jwks(parse_object(data)) if is_jwk else _opening_pems(data))
        if len({key.kid for key in keys}) < len(keys):
            raise _Unfit("holds two keys of one kid", "a kid names one key")
        return keys
    except SecretFileError as error:
        raise ConfigError([Finding(setting, str(error))]) from None
    except _Unfit as error:
        raise ConfigError([Finding(setting, f"{path} {error}", hint=error.hint)]) from None
    except _UNREADABLE:
        hint = "it is a PRIVATE KEY in PEM, unencrypted, or a JWK, or several of them"
        raise ConfigError([Finding(setting, f"{path} holds no private key", hint=hint)]) from None


def _opening_pems(data: bytes) -> Iterator[OpeningKey]:
    if b"ENCRYPTED" in data:
        raise _Unfit("is encrypted", "a server starts without a password: decrypt the key")
    blocks = [found[0] for found in _PRIVATE_BLOCK.finditer(data)]
    if not blocks:
        raise ValueError("no key")
    if data.count(_PRIVATE_LINE) != 2 * len(blocks):
        raise _Unfit("breaks off within a key")
    for block in blocks:
        key = _checked(serialization.load_pem_private_key(block, password=None))
        yield OpeningKey(_algorithm_of(key), key.thumbprint(), key)


def _opening_jwks(raw: dict[str, Any]) -> Iterator[OpeningKey]:
    members = raw.get("keys", [raw])
    if not isinstance(members, list) or not members or not all(isinstance(one, dict) for one in members):
        raise ValueError("no set of keys")
    for member in members:
        algorithm, (_, kid), key = _of_jwk(member, private=True)
        yield OpeningKey(algorithm, kid, key)


def key_of_caller(certificate: bytes) -> SealingKey:
    """The key of a caller's verified certificate (DER), where its key usage lets the caller open with it.

    Raises:
        SealError: it does not, or the key is of another kind.
    """
    try:
        return _of_certificate(x509.load_der_x509_certificate(certificate))
    except _Unfit as error:
        raise SealError(f"nothing can be sealed to the caller: its certificate {error}") from None
    except _UNREADABLE:
        raise SealError("nothing can be sealed to the caller: its certificate cannot be read") from None


def _of_certificate(certificate: x509.Certificate) -> SealingKey:
    key = _checked(certificate.public_key())
    algorithm = _algorithm_of(key)
    _check_usage(certificate, algorithm)
    digest = hashlib.sha256(certificate.public_bytes(serialization.Encoding.DER)).digest()
    thumbprint = urlsafe_b64encode(digest).rstrip(b"=").decode("ascii")
    return SealingKey(algorithm, ("x5t#S256", thumbprint), key)


def _check_usage(certificate: x509.Certificate, algorithm: Algorithm) -> None:
    """Where there is no key usage, nothing is restricted (RFC 5280 §4.2.1.3)."""
    try:
        usage = certificate.extensions.get_extension_for_class(x509.KeyUsage).value
    except x509.ExtensionNotFound:
        return
    if algorithm == "RSA-OAEP-256":
        if not usage.key_encipherment:
            raise _Unfit("is not for encryption: its key usage lacks keyEncipherment")
    # Who may only encipher by an agreed key cannot open.
    elif not usage.key_agreement or usage.encipher_only:
        raise _Unfit("is not for encryption: its key usage lacks keyAgreement")


def _of_jwk(raw: dict[str, Any], *, private: bool) -> tuple[Algorithm, tuple[str, str], Any]:
    from joserfc.errors import JoseError
    from joserfc.jwk import JWKRegistry

    kind, kid, use, operations = raw.get("kty"), raw.get("kid"), raw.get("use"), raw.get("key_ops")
    if "keys" in raw:
        raise _Unfit("is a set of keys", "name a file that holds one")
    if not isinstance(kind, str) or kind not in _PUBLIC:
        raise _Unfit(_NOT_ACCEPTED, _KINDS)
    if not private and (raw.keys() & {*_SECRET["RSA"], "oth", "k"}):
        raise _Unfit("holds a private key", "its owner keeps it: only the public half belongs here")
    if private and "d" not in raw:
        raise _Unfit("holds a public key", "the private half is needed to open with")
    if "kid" in raw and not (isinstance(kid, str) and kid):
        raise _Unfit("has a kid that is not a text")
    if "use" in raw and use != "enc":
        raise _Unfit('is not for encryption: its use is not "enc"')
    if "key_ops" in raw and not (
        isinstance(operations, list) and any(one in _OPERATIONS[private] for one in operations)
    ):
        raise _Unfit("is not for encryption: its key_ops do not say so")
    names = ("kty", *_PUBLIC[kind], *(_SECRET[kind] if private else ()))
    try:
        imported: Any = JWKRegistry.import_key({name: raw[name] for name in names if name in raw})
    except JoseError:
        raise ValueError("no such key") from None
    key = _checked(imported.raw_value)
    algorithm = _algorithm_of(key)
    if "alg" in raw and raw["alg"] != algorithm:
        raise _Unfit(f"is for another alg than {algorithm}")
    return algorithm, ("kid", key.thumbprint() if kid is None else kid), key


def _checked(key: object) -> Any:
    """The key as joserfc has it. Raises _Unfit for another kind, and for what is too weak."""
    from joserfc.jwk import ECKey, RSAKey  # takes 30 ms, and is there where it is configured only

    match key:
        case rsa.RSAPublicKey() | rsa.RSAPrivateKey():
            public = key.public_key() if isinstance(key, rsa.RSAPrivateKey) else key
            numbers = public.public_numbers()
            # With an exponent of 1 what is sealed is plain, and an even number is no RSA.
            if key.key_size < _LEAST_BITS or numbers.e < 3 or not (numbers.e % 2 and numbers.n % 2):
                raise _Unfit("has a key that is too weak", _KINDS)
            return RSAKey(key, key)
        case ec.EllipticCurvePublicKey() | ec.EllipticCurvePrivateKey() if key.curve.name in _CURVES:
            return ECKey(key, key)
        case _:
            raise _Unfit(_NOT_ACCEPTED, _KINDS)


def _algorithm_of(key: Any) -> Algorithm:
    return "RSA-OAEP-256" if key.key_type == "RSA" else "ECDH-ES+A256KW"
