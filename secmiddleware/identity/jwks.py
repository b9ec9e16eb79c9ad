"""A JWK Set (RFC 7517) as the keys that may have signed a token, and the one check of a signature.

A set is read strictly and as a whole: public keys of known kinds only, each good for the algorithms of its
own kind. What a token says is `bound_tokens`'s. joserfc is imported by `load_jwks` and not before.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from cryptography.hazmat.primitives.asymmetric import rsa

from secmiddleware.certificates.strength import weakness_of_public_key
from secmiddleware.errors import ConfigError, Finding
from secmiddleware.jose import decode_base64url, parse_object

_KEY: Final = "tokens.jwks"

# An issuer publishes a handful of keys, with certificate chains some KiB each.
_LARGEST: Final = 1 << 20
_MOST_KEYS: Final = 100

# What a key may verify follows from its kind (RFC 7518 §3.1, RFC 8037 §3.1, RFC 9864 §2), never from a token.
_RSA: Final = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512")
_EC: Final = {"P-256": ("ES256",), "P-384": ("ES384",), "P-521": ("ES512",)}
_OKP: Final = {"Ed25519": ("Ed25519", "EdDSA"), "Ed448": ("Ed448", "EdDSA")}

# What is the key itself, for each kind; joserfc is shown nothing else.
_MATERIAL: Final = {"RSA": ("n", "e"), "EC": ("crv", "x", "y"), "OKP": ("crv", "x")}
# RFC 7518 §6.2.2, §6.3.2, §6.4.1, RFC 8037 §2.
_PRIVATE: Final = frozenset({"d", "p", "q", "dp", "dq", "qi", "oth", "k"})

Check = Callable[[bytes, bytes], bool]
"""Whether a signature (second) is one of these bytes (first)."""


@dataclass(frozen=True, slots=True)
class VerificationKey:
    """One public key: its name, if it has one, and its check for each algorithm that it is good for."""

    kid: str | None
    checks: dict[str, Check] = field(repr=False)


@dataclass(frozen=True, slots=True)
class KeySet:
    """The keys of an issuer; no two have one name."""

    keys: tuple[VerificationKey, ...]

    @property
    def algorithms(self) -> frozenset[str]:
        """Every algorithm that some key is good for."""
        return frozenset(name for key in self.keys for name in key.checks)

    def verifies(self, kid: str | None, algorithm: str, signed: bytes, signature: bytes) -> bool:
        """Whether the one key that fits has signed these bytes.

        That is the key of this name; without a name, the only one that is good for the algorithm. No two keys
        are ever tried.
        """
        named = self.keys if kid is None else [key for key in self.keys if key.kid == kid]
        fitting = [key.checks[algorithm] for key in named if algorithm in key.checks]
        return len(fitting) == 1 and fitting[0](signed, signature)


def load_jwks(path: Path) -> KeySet:
    """The keys of a file.

    Raises ConfigError with every mistake of it, each under the key `tokens.jwks`. Nothing of a key is told
    but its place.
    """
    keys, findings = [], []
    names: dict[str, int] = {}
    for index, raw in enumerate(_members(path)):
        problem = _problem_of(raw)
        key = None if problem else _import(raw)
        if isinstance(key, _Problem):
            problem = key
        kid = raw.get("kid") if isinstance(raw, dict) else None
        if problem is None and kid is not None and names.setdefault(kid, index) != index:
            problem = _Problem(f"has the kid of keys[{names[kid]}]", "a kid names one key")
        if problem is not None:
            findings.append(_finding(f"{path}: keys[{index}] {problem.message}", problem.hint))
        elif isinstance(key, VerificationKey):
            keys.append(key)
    if findings:
        raise ConfigError(findings)
    return KeySet(tuple(keys))


@dataclass(frozen=True, slots=True)
class _Problem:
    message: str
    hint: str | None = None


def _finding(message: str, hint: str | None = None) -> Finding:
    return Finding(_KEY, message, hint=hint)


def _members(path: Path) -> list[Any]:
    """The JWKs of a file, whatever they are."""
    data = _read(path)
    try:
        document = parse_object(data)
    except ValueError:
        message = f"{path} is not a JWK Set: no JSON object, or one with a member twice"
        raise ConfigError([_finding(message, 'it is { "keys": [ … ] }, RFC 7517 §5')]) from None
    keys = document.get("keys")
    if not isinstance(keys, list):
        hint = 'it is { "keys": [ … ] }, RFC 7517 §5'
        raise ConfigError([_finding(f'{path} is not a JWK Set: "keys" is not a list', hint)])
    if not 0 < len(keys) <= _MOST_KEYS:
        message = f"{path} holds {len(keys)} keys: it must be 1 to {_MOST_KEYS}"
        raise ConfigError([_finding(message)])
    return keys


def _read(path: Path) -> bytes:
    try:
        # O_NONBLOCK: opening a fifo would wait for somebody to write into it.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        raise ConfigError([_finding(f"there is no file {path}")]) from None
    except OSError as error:
        raise ConfigError([_finding(f"{path} cannot be read: {error.strerror}")]) from error
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise ConfigError([_finding(f"{path} is not a regular file")])
        with os.fdopen(descriptor, "rb", closefd=False) as file:
            data = file.read(_LARGEST + 1)
    except OSError as error:
        raise ConfigError([_finding(f"{path} cannot be read: {error.strerror}")]) from error
    finally:
        os.close(descriptor)
    if len(data) > _LARGEST:
        raise ConfigError([_finding(f"{path} is larger than {_LARGEST // 1024} KiB")])
    return data


def _problem_of(raw: object) -> _Problem | None:
    """Why a JWK is of no use here, as far as its members say."""
    if not isinstance(raw, dict):
        return _Problem("is not an object")
    kid, use, operations = raw.get("kid"), raw.get("use"), raw.get("key_ops")
    if raw.get("kty") == "oct":
        return _Problem("is a secret (oct): whoever could check a token could make one", "use a key pair")
    if _PRIVATE & raw.keys():
        return _Problem("is a private key", "the issuer keeps it: only its public half belongs here")
    if "kid" in raw and not (isinstance(kid, str) and kid):
        return _Problem("has a kid that is not a text")
    if "use" in raw and use != "sig":
        return _Problem('is not for signatures: its use is not "sig"', "remove it from the file")
    if "key_ops" in raw and not (isinstance(operations, list) and "verify" in operations):
        return _Problem('is not for verifying: key_ops does not say "verify"', "remove it from the file")
    possible = _algorithms_of(raw)
    if not possible:
        return _Problem(
            "is of a kind that is not accepted",
            "RSA, EC with P-256, P-384 or P-521, or OKP with Ed25519 or Ed448",
        )
    if "alg" in raw and raw["alg"] not in possible:
        return _Problem("names an alg that is not one of its kind", f"one of {', '.join(possible)}, or none")
    return None


def _algorithms_of(raw: dict[str, Any]) -> tuple[str, ...]:
    curve = raw.get("crv")
    match raw.get("kty"):
        case "RSA":
            return _RSA
        case "EC" if isinstance(curve, str):
            return _EC.get(curve, ())
        case "OKP" if isinstance(curve, str):
            return _OKP.get(curve, ())
    return ()


def _import(raw: dict[str, Any]) -> VerificationKey | _Problem:
    """The key of a JWK without a problem of its members."""
    from joserfc.jwk import JWKRegistry  # takes 30 ms, and is there where it is configured only

    unreadable = _Problem("cannot be read: its numbers are missing, or are no such key")
    try:
        material = {name: raw[name] for name in ("kty", *_MATERIAL[raw["kty"]])}
        numbers = {
            name: decode_base64url(material[name].encode("ascii"))
            for name in material.keys() - {"kty", "crv"}
        }
        weakness = _weakness_of_rsa(numbers) if raw["kty"] == "RSA" else None
        if weakness is not None:
            return _Problem(f"is too weak: {weakness}", "no token that it signed would prove anything")
        key: Any = JWKRegistry.import_key(material)
    except (KeyError, ValueError, TypeError, AttributeError, OverflowError):
        return unreadable
    names = (raw["alg"],) if "alg" in raw else _algorithms_of(raw)
    return VerificationKey(raw.get("kid"), dict(_checks(key, names)))


def _weakness_of_rsa(numbers: dict[str, bytes]) -> str | None:
    """Before joserfc sees it, which only warns. The curves that are accepted are all strong enough."""
    n, e = (int.from_bytes(numbers[name], "big") for name in ("n", "e"))
    weakness = weakness_of_public_key(rsa.RSAPublicNumbers(e, n).public_key())
    return None if weakness is None else weakness[1]


def _checks(key: Any, names: tuple[str, ...]) -> Iterator[tuple[str, Check]]:
    from joserfc.jwa import JWS_ALGORITHMS

    for model in JWS_ALGORITHMS:
        if model.name in names:
            model.check_key(key)
            yield model.name, _check_by(model, key)


def _check_by(model: Any, key: Any) -> Check:
    def check(signed: bytes, signature: bytes) -> bool:
        return model.verify(signed, signature, key) is True

    return check
