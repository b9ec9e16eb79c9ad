"""The suites of `sm1.` tokens: what each makes of a value under one ring key (docs/token-format.md §2).

Every suite has a subkey of its own. A token comes here when the key ring has read its header.
"""

from __future__ import annotations

import os
import struct
from binascii import a2b_base64, b2a_base64
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, AESSIV
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.cmac import CMAC

from secmiddleware.encryption.derivation import SUITE_1, SUITE_2, SUITE_3, derive, lp
from secmiddleware.encryption.kek import NONCE
from secmiddleware.encryption.tokens import (
    DOMAIN,
    ENDS,
    FROM_URL,
    HEADER,
    PREFIX,
    SUITES,
    TO_URL,
    Context,
    does_not_open,
    spell,
)
from secmiddleware.errors import SealError

LONG_NONCE: Final = 24
_SIV_KEY: Final = 64
"""AES-256-SIV: 32 bytes for the MAC and 32 for the cipher."""

_UNOPENED: Final = (InvalidTag, ValueError, OverflowError)
"""Another tag; no base64, or too short for a nonce; 2 GiB and more."""

_NONCE_END: Final = HEADER + NONCE
_LONG_NONCE_END: Final = HEADER + LONG_NONCE


class SuiteOne:
    """AES-256-GCM under one subkey of a ring key; the cipher is set up once."""

    __slots__ = ("_bound", "_cipher", "_header")

    def __init__(self, ring: str, kid: str, secret: bytes) -> None:
        """`secret` is the ring key."""
        self._cipher = AESGCM(derive(secret, SUITE_1))
        self._header = SUITES["aead"] + bytes.fromhex(kid)
        self._bound = _bound(self._header, ring)

    def seal(self, value: bytes, slots: bytes, nonce: bytes) -> bytes:
        """The token, with a nonce of 12 bytes. Raises SealError where the value is over 2 GiB."""
        try:
            sealed = self._cipher.encrypt(nonce, value, self._bound + slots)
        except OverflowError:
            raise _too_large() from None
        # `spell`, without a call: it would take a twentieth of the time.
        return PREFIX + b2a_base64(self._header + nonce + sealed).translate(TO_URL, b"=\n")

    def open(self, token: bytes, slots: bytes) -> bytes:
        """The value of a token that begins as one with this key's header. Raises TokenError.

        The text itself, and not what it spells as for the other suites: this is `unspell`, less a call.
        """
        last, padding = ENDS[len(token) & 3]
        try:
            if token[-1] not in last:
                raise does_not_open()
            raw = a2b_base64(token[4:].translate(FROM_URL) + padding, strict_mode=True)
            return self._cipher.decrypt(raw[HEADER:_NONCE_END], raw[_NONCE_END:], self._bound + slots)
        except _UNOPENED:
            raise does_not_open() from None


class Xaes:
    """XAES-256-GCM as C2SP specifies it (c2sp.org/XAES-256-GCM), over AES-CMAC and AES-256-GCM."""

    __slots__ = ("_mac",)

    def __init__(self, key: bytes) -> None:
        """`key` has 32 bytes."""
        # Copied for each nonce, which spares the key schedule and the subkey K1.
        self._mac = CMAC(AES(key))

    def cipher(self, nonce: bytes) -> AESGCM:
        """AES-256-GCM for one nonce: to be used once, with the last 12 of its 24 bytes.

        The key is NIST SP 800-108r1 §4.1 in counter mode: two blocks of CMAC over a counter of 16 bits, the
        label X, a zero and the first 12 bytes of the nonce, without the optional length.
        """
        fixed = b"X\x00" + nonce[:NONCE]
        first, second = self._mac.copy(), self._mac.copy()
        first.update(b"\x00\x01" + fixed)
        second.update(b"\x00\x02" + fixed)
        return AESGCM(first.finalize() + second.finalize())

    def seal(self, nonce: bytes, value: bytes, associated: bytes) -> bytes:
        """Ciphertext and tag. Raises OverflowError for 2 GiB and more."""
        return self.cipher(nonce).encrypt(nonce[NONCE:], value, associated)

    def open(self, nonce: bytes, sealed: bytes, associated: bytes) -> bytes:
        """The value. Raises InvalidTag, and OverflowError for 2 GiB and more."""
        return self.cipher(nonce).decrypt(nonce[NONCE:], sealed, associated)


class SuiteTwo:
    """XAES-256-GCM under one subkey of a ring key: a nonce of 24 random bytes, of which none meet."""

    __slots__ = ("_bound", "_cipher", "_header")

    def __init__(self, ring: str, kid: str, secret: bytes) -> None:
        """`secret` is the ring key."""
        self._cipher = Xaes(derive(secret, SUITE_2))
        self._header = SUITES["xaes"] + bytes.fromhex(kid)
        self._bound = _bound(self._header, ring)

    def seal(self, value: bytes, slots: bytes, nonce: bytes) -> bytes:
        """The token, with a nonce of 24 bytes. Raises SealError where the value is over 2 GiB."""
        try:
            sealed = self._cipher.seal(nonce, value, self._bound + slots)
        except OverflowError:
            raise _too_large() from None
        return spell(self._header + nonce + sealed)

    def open(self, raw: bytes, slots: bytes) -> bytes:
        """The value of a decoded token. Raises TokenError."""
        nonce, sealed = raw[HEADER:_LONG_NONCE_END], raw[_LONG_NONCE_END:]
        try:
            return self._cipher.open(nonce, sealed, self._bound + slots)
        except _UNOPENED:
            raise does_not_open() from None


class SuiteThree:
    """AES-256-SIV (RFC 5297) under a subkey of a ring key for one field, purpose and tenant.

    Deterministic: equal values of one field, tenant and caller have equal tokens under one key.
    """

    __slots__ = ("_bound", "_cipher", "_header")

    def __init__(self, ring: str, kid: str, secret: bytes, context: Context) -> None:
        """`secret` is the ring key."""
        parts = (context.field, context.purpose, context.tenant)
        named = (part.encode("utf-8") for part in (ring, *parts))
        self._cipher = AESSIV(derive(secret, SUITE_3, *named, length=_SIV_KEY))
        self._header = SUITES["deterministic"] + bytes.fromhex(kid)
        self._bound = _bound(self._header, ring)

    def seal(self, value: bytes, slots: bytes) -> bytes:
        """The token. Raises SealError where the value is over 2 GiB."""
        try:
            sealed = self._cipher.encrypt(value, [self._bound + slots])
        except OverflowError:
            raise _too_large() from None
        return spell(self._header + sealed)

    def open(self, raw: bytes, slots: bytes) -> bytes:
        """The value of a decoded token. Raises TokenError."""
        try:
            return self._cipher.decrypt(raw[HEADER:], [self._bound + slots])
        except _UNOPENED:
            raise does_not_open() from None


class Nonces:
    """Nonces of 12 random bytes, drawn by the dozen: one at a time they cost as much as sealing.

    A nonce is given out once. Threads need no lock: `pop` and `extend` on a list are one step of the
    interpreter each, and who draws while another draws adds nonces of its own. The child of a fork draws its
    own.
    """

    __slots__ = ("_drawn", "pop")

    _AT_ONCE = struct.Struct(f"{NONCE}s" * 21)
    """252 bytes: up to 256, Linux gives all or nothing, and no signal comes between (getrandom(2))."""

    def __init__(self) -> None:
        self._drawn: list[bytes] = []
        self.pop: Final = self._drawn.pop
        """The next one, without a call of ours. IndexError where it has to be drawn, which `take` does."""

    def take(self) -> bytes:
        """The next one."""
        while True:
            try:
                return self.pop()
            except IndexError:
                self._drawn.extend(self._AT_ONCE.unpack(os.urandom(self._AT_ONCE.size)))

    def forget(self) -> None:
        """Lets go of what is drawn. For the child of a fork: its parent gives out the very same."""
        self._drawn.clear()

    def __reduce__(self) -> str:
        raise TypeError("nonces are not written down")


random_nonces: Final = Nonces()
"""96 random bits each."""
os.register_at_fork(after_in_child=random_nonces.forget)


def long_random_nonce() -> bytes:
    """192 random bits."""
    return os.urandom(LONG_NONCE)


def _bound(header: bytes, ring: str) -> bytes:
    """The associated data up to the slots."""
    return DOMAIN + header + lp(ring.encode("ascii"))


def _too_large() -> SealError:
    return SealError("the value is too large")
