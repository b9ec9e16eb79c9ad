"""JWE in its compact form (RFC 7516): under a key of the ring, or to the public key of whoever is to read it.

A field pins `alg`; `enc` is A256GCM. What a token is for stands in its protected header and is compared after
its tag was. The cryptography is joserfc's, which is imported when the first token is sealed or opened; what a
header says is read here first, since joserfc takes the last of two members of one name, imports an `epk` that
is a text, and minds the shape of parameters that nobody here listens to (docs/token-format.md §6).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache
from typing import Any, Final, Literal

from cryptography.exceptions import InvalidTag, UnsupportedAlgorithm

from secmiddleware.encryption.derivation import JWE_DIRECT, derive
from secmiddleware.encryption.jwe_keys import Algorithm, OpeningKey, SealingKey, key_of_caller
from secmiddleware.encryption.tokens import Context, does_not_open
from secmiddleware.errors import SealError
from secmiddleware.jose import decode_base64url, parse_object

ENC: Final = "A256GCM"
DIRECT: Final = "dir"
CALLER: Final = "caller"

LONGEST_HEADER: Final = 16 << 10
"""Characters of a protected header, both ways: names of certificates stand in it, and they may be long."""
_LONGEST_KEY: Final = 4096
"""Characters of an encrypted key: RSA of 16,384 bits has 2731."""
_LONGEST: Final = 1 << 31
"""What GCM takes at once; the message that a token came in was bounded before."""

# They bring or point to keys of their sender's choosing (RFC 7516 §4.1.4 to §4.1.8), or say nothing that is
# asked here. Nobody listens to them, whatever their shape.
_UNHEARD: Final = ("jku", "jwk", "x5u", "x5c", "x5t", "x5t#S256", "typ", "cty", "b64")
_EPK: Final = ("crv", "x", "y")

_CALLERS_KEPT: Final = 256
"""Certificates whose keys a field remembers: reading one takes as long as sealing to it."""

_UNOPENED: Final = (
    ValueError, TypeError, KeyError, AttributeError, AssertionError, OverflowError,
    InvalidTag, UnsupportedAlgorithm,
)  # fmt: skip
"""What joserfc lets through of what is wrong with a token, beside its own errors."""


class DirectJwe:
    """`dir` under a subkey of a ring key: what only this ring's servers seal, and open."""

    __slots__ = ("_key", "_kid", "_ring")

    def __init__(self, ring: str, kid: str, secret: bytes) -> None:
        """`secret` is the ring key."""
        from joserfc.jwk import OctKey  # takes 30 ms, and is there where it is configured only

        self._ring = ring
        self._kid = kid
        self._key = OctKey.import_key(derive(secret, JWE_DIRECT))

    def seal(self, value: bytes, context: Context) -> bytes:
        """The token; its nonce has 96 random bits, so sealing takes a use of the key. Raises SealError."""
        return _seal(value, self._ring, context, DIRECT, ("kid", self._kid), self._key)

    def open(self, token: bytes, header: dict[str, Any], context: Context) -> bytes:
        """The value of a token with this header. Raises TokenError."""
        return _open(token, header, self._ring, context, DIRECT, self._key)

    def __reduce__(self) -> str:
        raise TypeError("a key is not written down")


@dataclass(frozen=True, slots=True)
class FieldJwe:
    """To whom a field's values are sealed, and what opens those that others have sealed to us.

    Raises ValueError where a key is of an algorithm that the field has not.
    """

    algorithms: tuple[Algorithm, ...]
    recipient: SealingKey | Literal["caller"] | None = None
    """None where nothing is sealed."""
    keys: tuple[OpeningKey, ...] = ()
    """The newest first; no two of one name."""
    _callers: dict[bytes, SealingKey] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        known: list[SealingKey | OpeningKey] = list(self.keys)
        if isinstance(self.recipient, SealingKey):
            known.append(self.recipient)
        if any(key.algorithm not in self.algorithms for key in known):
            raise ValueError("a key is of another alg than the field")
        if len({key.kid for key in self.keys}) != len(self.keys):
            raise ValueError("two keys have one name")

    @property
    def to_caller(self) -> bool:
        """Whether whoever calls is the one that can read what is sealed."""
        return self.recipient == CALLER

    def seal(self, value: bytes, context: Context, ring: str, certificate: bytes | None) -> bytes:
        """The token of a value.

        Args:
            value: its bytes; for a field the raw JSON value.
            context: what it is for.
            ring: the ring's name.
            certificate: the caller's, verified, in DER; looked at where the field is sealed to the caller.

        Raises:
            SealError: there is nobody to seal it to, or its key is not for that.
        """
        recipient = self._key_of(certificate) if self.recipient == CALLER else self.recipient
        if recipient is None or recipient.algorithm not in self.algorithms:
            raise SealError("there is no key of the field's alg to seal to")
        return _seal(value, ring, context, recipient.algorithm, recipient.named, recipient.key)

    def open(self, token: bytes, context: Context, ring: str) -> bytes:
        """The value of a token that was sealed to one of our keys. Raises TokenError.

        The one that its header names; where it names none, the only one of its algorithm. No two are tried.
        """
        header = read_header(token)
        named, algorithm = header.get("kid"), header["alg"]
        keys = [key for key in self.keys if key.algorithm == algorithm and named in (None, key.kid)]
        if len(keys) != 1:
            raise does_not_open()
        return _open(token, header, ring, context, keys[0].algorithm, keys[0].key)

    def _key_of(self, certificate: bytes | None) -> SealingKey | None:
        if certificate is None:
            return None
        key = self._callers.get(certificate)
        if key is None:
            key = key_of_caller(certificate)
            if len(self._callers) >= _CALLERS_KEPT:
                self._callers.clear()
            self._callers[certificate] = key
        return key


def read_header(token: bytes) -> dict[str, Any]:
    """The protected header of a token, which nothing has authenticated yet.

    Raises TokenError for one that nothing here opens: no JSON object in one reading, not A256GCM, compressed,
    with an extension that it calls critical (RFC 7516 §4.1.13), or with a `kid` that is no text.
    """
    head = token.partition(b".")[0]
    if len(head) > LONGEST_HEADER:
        raise does_not_open()
    try:
        header = parse_object(decode_base64url(head))
    except ValueError:
        raise does_not_open() from None
    fits = isinstance(header.get("alg"), str) and header.get("enc") == ENC
    if not fits or "zip" in header or "crit" in header or not isinstance(header.get("kid", ""), str):
        raise does_not_open()
    return header


def kid_of_jwe(token: bytes) -> str | None:
    """The key that a token names, if it names one. Raises TokenError as `read_header` does."""
    kid: str | None = read_header(token).get("kid")
    return kid


def _slots(ring: str, context: Context) -> dict[str, str]:
    """What a token is for, by the names that it has in the protected header."""
    return {
        "secmw.ring": ring,
        "secmw.field": context.field,
        "secmw.purpose": context.purpose,
        "secmw.tenant": context.tenant,
        "secmw.caller": context.caller,
    }


def _seal(
    value: bytes, ring: str, context: Context, algorithm: str, named: tuple[str, str], key: Any
) -> bytes:
    from joserfc.errors import JoseError
    from joserfc.jwe import encrypt_compact

    told = {name: slot for name, slot in _slots(ring, context).items() if slot}
    header = {"alg": algorithm, "enc": ENC, **dict([named]), **told}
    try:
        token = encrypt_compact(header, value, key, registry=_registry(algorithm)).encode("ascii")
    except OverflowError:
        raise SealError("the value is too large") from None
    except (JoseError, ValueError):
        raise SealError("nothing can be sealed to this key") from None
    if token.index(b".") > LONGEST_HEADER:
        raise SealError("what the token is for has too long a name")
    return token


def _open(
    token: bytes, header: dict[str, Any], ring: str, context: Context, algorithm: str, key: Any
) -> bytes:
    from joserfc.errors import JoseError
    from joserfc.jwe import decrypt_compact

    if not _is_public(header.get("epk")):
        raise does_not_open()
    try:
        value = decrypt_compact(token, key, registry=_registry(algorithm)).plaintext
    except (JoseError, *_UNOPENED):
        raise does_not_open() from None
    # Only now: until here anybody may have written the header.
    if value is None or any(header.get(name, "") != slot for name, slot in _slots(ring, context).items()):
        raise does_not_open()
    return value


def _is_public(epk: object) -> bool:
    """Whether an ephemeral key is a public one of texts (RFC 7518 §4.6.1.1), or is not there.

    Of another type joserfc would read it as a key's file; whether it is on the curve, and on which, it says.
    """
    if epk is None:
        return True
    if not isinstance(epk, dict) or "d" in epk or epk.get("kty") != "EC":
        return False
    return all(isinstance(epk.get(name), str) for name in _EPK)


@cache
def _registry(algorithm: str) -> Any:
    """What joserfc may do for one algorithm: it, A256GCM, no compression."""
    from joserfc.jwe import JWERegistry
    from joserfc.registry import HeaderParameter

    unheard = {name: HeaderParameter(name, _unheard) for name in _UNHEARD}
    registry = JWERegistry(unheard, (algorithm, ENC), strict_check_header=False)
    registry.max_protected_header_length = LONGEST_HEADER
    registry.max_encrypted_key_length = _LONGEST_KEY
    registry.max_ciphertext_length = _LONGEST  # 64 KiB by default: we would not open what we have sealed
    return registry


def _unheard(_value: object) -> None:
    """Takes a parameter of any shape."""
