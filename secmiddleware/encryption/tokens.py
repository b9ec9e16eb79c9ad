"""Tokens as docs/token-format.md specifies them: their text, their header, and what they are bound to.

Which key a token needs, and whether that key may be used, is the key ring's business (keyring.py).
"""

from __future__ import annotations

import base64
import binascii
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from dataclasses import field as member
from typing import Final, Literal, NamedTuple

from cryptography.exceptions import InvalidTag
from cryptography.fernet import Fernet, InvalidToken
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from secmiddleware.encryption.derivation import FERNET, SUITE_1, derive, lp
from secmiddleware.encryption.kek import NONCE, TAG
from secmiddleware.errors import SealError, TokenError

Format = Literal["aead", "fernet"]
NonceSource = Callable[[], bytes]

PREFIX: Final = b"sm1."
_DOMAIN: Final = b"secmw/token/v1"
_SUITE: Final = b"\x01"
_HEADER: Final = 5
"""Suite (1 byte) and key id (4 bytes)."""
_SHORTEST: Final = _HEADER + NONCE + TAG

# Version 0x80 and a 64-bit time in seconds, its upper four bytes zero until 2106; at least version, time, IV,
# one block and HMAC: 73 bytes.
_FERNET_TEXT: Final = re.compile(rb"gAAAA[A-Za-z0-9_-]{93,}={0,2}")

_DOES_NOT_OPEN: Final = "the token does not open here"


@dataclass(frozen=True, slots=True)
class Context:
    """What a value is sealed for: a token opens in an equal context only.

    Raises ValueError where a slot cannot be bound: Fernet has no associated data, so no tenant and no caller.
    """

    field: str
    purpose: str = "field"
    tenant: str = ""
    caller: str = ""
    format: Format = "aead"
    slots: bytes = member(init=False, repr=False, compare=False)
    """Field, purpose, tenant and caller as they stand in the associated data."""

    def __post_init__(self) -> None:
        if self.format not in ("aead", "fernet"):
            raise ValueError(f"unknown token format {self.format!r}")
        if self.format == "fernet" and (self.tenant or self.caller):
            raise ValueError("a Fernet token cannot be bound to a tenant or a caller")
        parts = (self.field, self.purpose, self.tenant, self.caller)
        object.__setattr__(self, "slots", b"".join(lp(part.encode("utf-8")) for part in parts))


def random_nonce() -> bytes:
    """96 random bits."""
    return os.urandom(NONCE)


def looks_like_token(value: bytes, format: Format = "aead") -> bool:  # noqa: A002  (as in Context)
    """Whether a string's content has the form of a token of this format; says nothing of its being one."""
    if format == "fernet":
        return _FERNET_TEXT.fullmatch(value) is not None
    return value.startswith(PREFIX)


class Parts(NamedTuple):
    """A token of suite 1, taken apart, nothing of it authenticated yet."""

    header: bytes
    kid: str
    nonce: bytes
    sealed: bytes


def take_apart(token: bytes) -> Parts:
    """The parts of an `sm1.` token. Raises TokenError unless it is the one spelling of some suite 1 token."""
    if not token.startswith(PREFIX):
        raise TokenError(_DOES_NOT_OPEN)
    raw = _unspell(token[len(PREFIX) :])
    if len(raw) < _SHORTEST or not raw.startswith(_SUITE):
        raise TokenError(_DOES_NOT_OPEN)
    header = raw[:_HEADER]
    return Parts(header, header[1:].hex(), raw[_HEADER : _HEADER + NONCE], raw[_HEADER + NONCE :])


class SuiteOne:
    """AES-256-GCM under the suite's own subkey of one ring key; the cipher is set up once."""

    __slots__ = ("_cipher", "_header", "_ring")

    def __init__(self, ring: str, kid: str, secret: bytes) -> None:
        """`secret` is the ring key."""
        self._cipher = AESGCM(derive(secret, SUITE_1))
        self._header = _SUITE + bytes.fromhex(kid)
        self._ring = lp(ring.encode("ascii"))

    def seal(self, value: bytes, slots: bytes, nonce: bytes) -> bytes:
        """The token. Raises SealError where the value is over 2 GiB or the nonce has not 12 bytes."""
        if len(nonce) != NONCE:
            raise SealError(f"a nonce has {NONCE} bytes")
        associated = _DOMAIN + self._header + self._ring + slots
        try:
            sealed = self._cipher.encrypt(nonce, value, associated)
        except OverflowError:
            raise SealError("the value is too large") from None
        return PREFIX + _spell(self._header + nonce + sealed)

    def open(self, parts: Parts, slots: bytes) -> bytes:
        """The value. Raises TokenError."""
        try:
            return self._cipher.decrypt(
                parts.nonce, parts.sealed, _DOMAIN + parts.header + self._ring + slots
            )
        except (InvalidTag, OverflowError):
            raise TokenError(_DOES_NOT_OPEN) from None


class FieldFernet:
    """Fernet under a subkey of a ring key for one ring, field and purpose: the key binds, Fernet cannot."""

    __slots__ = ("_cipher",)

    def __init__(self, ring: str, secret: bytes, context: Context) -> None:
        """`secret` is the ring key."""
        parts = (ring.encode("ascii"), context.field.encode("utf-8"), context.purpose.encode("utf-8"))
        self._cipher = Fernet(base64.urlsafe_b64encode(derive(secret, FERNET, *parts)))

    def seal(self, value: bytes, seconds: int) -> bytes:
        """The token, with `seconds` since 1970 readable in it, as Fernet has it."""
        return self._cipher.encrypt_at_time(value, seconds)

    def open(self, token: bytes) -> bytes | None:
        """The value, of whatever age; None where the token is not one of this key."""
        try:
            return self._cipher.decrypt(token)
        except InvalidToken:
            return None

    def __reduce__(self) -> str:
        raise TypeError("a Fernet key is not written down")


def check_fernet_spelling(token: bytes) -> None:
    """Raises TokenError unless it is padded base64url in its one spelling; Fernet itself takes others."""
    unpadded = token.rstrip(b"=")
    if unpadded + b"=" * (-len(unpadded) % 4) != token:
        raise TokenError(_DOES_NOT_OPEN)
    _unspell(unpadded)


def does_not_open() -> TokenError:
    """The one thing that is ever said of a token that does not open."""
    return TokenError(_DOES_NOT_OPEN)


def _spell(raw: bytes) -> bytes:
    return base64.urlsafe_b64encode(raw).rstrip(b"=")


def _unspell(text: bytes) -> bytes:
    try:
        raw = base64.urlsafe_b64decode(text + b"=" * (-len(text) % 4))
    except binascii.Error:
        raise TokenError(_DOES_NOT_OPEN) from None
    # The decoder skips what is not of the alphabet and ignores left-over bits: one token, many spellings.
    if _spell(raw) != text:
        raise TokenError(_DOES_NOT_OPEN)
    return raw
