"""Tokens as docs/token-format.md specifies them: their text, their header, and what they are bound to.

What the suites make of a value is in suites.py, fernet.py and jwe.py; which key a token needs, and whether
that key may be used, is the key ring's business (keyring.py).
"""

from __future__ import annotations

import binascii
import re
from binascii import a2b_base64, b2a_base64
from dataclasses import dataclass
from dataclasses import field as member
from typing import Final, Literal, get_args

from secmiddleware.encryption.derivation import lp
from secmiddleware.errors import TokenError

Format = Literal["aead", "xaes", "deterministic", "fernet", "jwe"]

PREFIX: Final = b"sm1."
DOMAIN: Final = b"secmw/token/v1"
SUITES: Final[dict[Format, bytes]] = {"aead": b"\x01", "xaes": b"\x02", "deterministic": b"\x03"}
HEADER: Final = 5
"""Suite (1 byte) and key id (4 bytes)."""
BEGINNING: Final = 11
"""Characters of a token that tell its header: the prefix, and seven signs for five bytes."""
SHORTEST: Final[dict[Format, int]] = {
    "aead": HEADER + 12 + 16,
    "xaes": HEADER + 24 + 16,
    "deterministic": HEADER + 16,
}
"""Bytes that a token of the suite spells at least: header, nonce, and a tag or synthetic IV."""
WITHOUT_ASSOCIATED_DATA: Final[frozenset[Format]] = frozenset({"fernet"})
"""Formats whose tokens are bound to no tenant and no caller."""

_FORMATS: Final = frozenset(get_args(Format))
_PADDED_FERNET: Final = re.compile(rb"gAAAA[A-Za-z0-9_-]{93,}={0,2}")
"""Version 0x80 and a 64-bit time in seconds, its upper four bytes zero until 2106; at least version, time,
IV, one block and HMAC: 73 bytes."""

_COMPACT_JWE: Final = re.compile(rb"eyJ[A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]*){4}")
"""Five parts, of which the first is an object of JSON that begins with a member, as every encoder has it."""

_ALPHABET: Final = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
TO_URL: Final = bytes.maketrans(b"+/", b"-_")
"""The signs of base64url for those that base64 has in their place."""
FROM_URL: Final = bytes.maketrans(b"-_+/", b"+/..")
"""The signs of base64 that base64url has not become one that neither has."""
ENDS: Final = ((_ALPHABET, b""), (b"", b""), (_ALPHABET[::16], b"=="), (_ALPHABET[::4], b"="))
"""By a text's length modulo four: what it may end in, so that the bits that spell nothing are zero, and what
base64 has behind it."""

_FORMAT_OF: Final[dict[bytes, Format]] = {
    b2a_base64(suite + bytes([rest]), newline=False).translate(TO_URL)[:2]: name
    for name, suite in SUITES.items()
    for rest in range(256)
}
"""The suite by the first two signs behind the prefix."""

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
        if self.format not in _FORMATS:
            raise ValueError(f"unknown token format {self.format!r}")
        if self.format in WITHOUT_ASSOCIATED_DATA and (self.tenant or self.caller):
            raise ValueError("a Fernet token cannot be bound to a tenant or a caller")
        parts = (self.field, self.purpose, self.tenant, self.caller)
        object.__setattr__(self, "slots", b"".join(lp(part.encode("utf-8")) for part in parts))


def format_of(value: bytes) -> Format | None:
    """The format that a string's content has the form of, None for no token; says nothing of its being one.

    What has our prefix is a token, be it of a suite that nobody knows: it goes by the name of suite 1, as
    which it does not open.
    """
    if value.startswith(PREFIX):
        return _FORMAT_OF.get(value[4:6], "aead")
    if value.startswith(b"eyJ"):
        return "jwe" if _COMPACT_JWE.fullmatch(value) is not None else None
    return "fernet" if _PADDED_FERNET.fullmatch(value) is not None else None


def looks_like_token(value: bytes) -> bool:
    """Whether a string's content has our prefix: it is a token to every field, and never sealed again."""
    return value.startswith(PREFIX)


def kid_of(token: bytes) -> str:
    """The id of the key that a token with our prefix names. Raises TokenError for what is none."""
    return unspell(token[: len(PREFIX) + 8])[1:HEADER].hex()


def beginnings(header: bytes) -> tuple[bytes, ...]:
    """What a token with this header begins with: the last sign has two bits of what stands behind it."""
    return tuple(spell(header + bytes([rest << 6]))[:BEGINNING] for rest in range(4))


def spell(raw: bytes) -> bytes:
    """The token: the prefix, and base64url without padding."""
    return PREFIX + b2a_base64(raw).translate(TO_URL, b"=\n")


def unspell(token: bytes) -> bytes:
    """What a token spells. Raises TokenError unless it is the one spelling of it that there is."""
    if token[:4] != PREFIX:
        raise does_not_open()
    last, padding = ENDS[len(token) & 3]  # of the text behind the prefix it is the same
    # `strict_mode` refuses signs that are not of the alphabet, but not bits to spare: they are ours to judge.
    # Encoding again to compare would say the same, and takes longer.
    if token[-1] not in last:
        raise does_not_open()
    try:
        return a2b_base64(token[4:].translate(FROM_URL) + padding, strict_mode=True)
    except binascii.Error:
        raise does_not_open() from None


def check_fernet_spelling(token: bytes) -> None:
    """Raises TokenError unless it is padded base64url in its one spelling; Fernet itself takes others."""
    unpadded = token.rstrip(b"=")
    if unpadded + b"=" * (-len(unpadded) % 4) != token:
        raise does_not_open()
    unspell(PREFIX + unpadded)


def does_not_open() -> TokenError:
    """The one thing that is ever said of a token that does not open."""
    return TokenError(_DOES_NOT_OPEN)
