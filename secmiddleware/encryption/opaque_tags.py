"""Entity tags that tell nothing: an app's own under AES-SIV, the same for the same, opened again on return.

A digest over plaintext as an entity tag lets its reader try every value; a keyed one could not be mapped
back without a table of all that was ever sent. What is here is both, and needs no state.
"""

from __future__ import annotations

import binascii
from binascii import a2b_base64, b2a_base64
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESSIV

from secmiddleware.encryption.derivation import ENTITY_TAG, derive, lp

_MARK: Final = b"sm"
_KID: Final = 4
_KEY: Final = 64
"""AES-256-SIV (RFC 5297): 32 bytes for the MAC and 32 for the cipher."""
_SHORTEST: Final = _KID + 16

_PAD: Final = 16
"""A tag is filled up with zeros, which none has in it: its length may be that of a number within."""

LONGEST: Final = 1024
"""Bytes of an app's tag, and four thirds of them and a bit of one outside: most are under 50."""

_TO_URL: Final = bytes.maketrans(b"+/", b"-_")
_FROM_URL: Final = bytes.maketrans(b"-_+/", b"+/..")


class OpaqueTags:
    """AES-256-SIV under one subkey of a ring key; the cipher is set up once."""

    __slots__ = ("_bound", "_cipher", "_kid")

    def __init__(self, ring: str, kid: str, secret: bytes) -> None:
        """`secret` is the ring key."""
        named = ring.encode("utf-8")
        self._kid = bytes.fromhex(kid)
        self._cipher = AESSIV(derive(secret, ENTITY_TAG, named, length=_KEY))
        self._bound = ENTITY_TAG + self._kid + lp(named)

    def seal(self, tag: bytes, bound: bytes) -> bytes | None:
        """What stands for the tag outside; None for one that is too long, or has a zero in it."""
        if len(tag) > LONGEST or b"\0" in tag:
            return None
        filled = tag.ljust(-(-len(tag) // _PAD) * _PAD, b"\0")
        raw = self._kid + self._cipher.encrypt(filled, [self._bound, bound])
        return _MARK + b2a_base64(raw).translate(_TO_URL, b"=\n")

    def open(self, text: bytes, bound: bytes) -> bytes | None:
        """The tag again; None for what this key has not made, or not for this."""
        raw = _unspelled(text)
        try:
            return self._cipher.decrypt(raw[_KID:], [self._bound, bound]).rstrip(b"\0")
        except (InvalidTag, ValueError):
            return None


def kid_of_tag(text: bytes) -> str | None:
    """The id of the key that a tag from outside names; None for what cannot be ours."""
    raw = _unspelled(text)
    return raw[:_KID].hex() if len(raw) >= _SHORTEST else None


def _unspelled(text: bytes) -> bytes:
    if not text.startswith(_MARK) or len(text) > 2 * LONGEST:
        return b""
    body = text[len(_MARK) :].translate(_FROM_URL)
    try:
        raw = a2b_base64(body + b"=" * (-len(body) % 4), strict_mode=True)
    except binascii.Error:
        return b""
    return raw
