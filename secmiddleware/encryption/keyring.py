"""The key ring as requests use it: an immutable snapshot that seals with one key and opens with several.

No I/O, no lock, no clock: the time is an argument. What a snapshot counts, the uses of a key, is shared with
the snapshots before and after it.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Final

from secmiddleware.encryption.document import KeyEntry, KeyState, RingDocument
from secmiddleware.encryption.tokens import (
    Context,
    FieldFernet,
    NonceSource,
    SuiteOne,
    check_fernet_spelling,
    does_not_open,
    looks_like_token,
    random_nonce,
    take_apart,
)
from secmiddleware.encryption.uses import Ration
from secmiddleware.errors import KeyUnknown, SealError

__all__ = ["Context", "KeyEntry", "KeyState", "Keyring", "RingKey", "looks_like_token"]

_FERNETS_KEPT: Final = 256
"""Fernet ciphers kept for each key: field names come from the settings, so this many is many."""


class RingKey:
    """The secret of one key with its ciphers, set up once and kept from one snapshot to the next."""

    __slots__ = ("_fernets", "_ring", "_secret", "kid", "ration", "suite_1")

    def __init__(self, ring: str, kid: str, secret: bytes, ration: Ration) -> None:
        """`secret` has 32 bytes; `ration` is spent by sealing."""
        self.kid = kid
        self.ration = ration
        self.suite_1 = SuiteOne(ring, kid, secret)
        self._ring = ring
        self._secret = secret
        self._fernets: dict[tuple[str, str], FieldFernet] = {}

    def fernet(self, context: Context) -> FieldFernet:
        """The Fernet cipher for a field."""
        name = (context.field, context.purpose)
        cipher = self._fernets.get(name)
        if cipher is None:
            if len(self._fernets) >= _FERNETS_KEPT:
                self._fernets.clear()
            cipher = self._fernets[name] = FieldFernet(self._ring, self._secret, context)
        return cipher

    def __repr__(self) -> str:
        return f"RingKey(kid={self.kid!r})"

    def __reduce__(self) -> str:
        raise TypeError("a ring key is not written down")


class Keyring:
    """One generation of a key ring, verified; never changes, so an exchange may keep it to its end.

    Cannot be pickled or copied: what counts the uses of a key must be one.
    """

    __slots__ = ("_by_kid", "_document", "_entries", "_newest_first")

    def __init__(self, document: RingDocument, keys: Iterable[RingKey]) -> None:
        """`keys` are those of the document that are not destroyed."""
        self._document = document
        self._entries = {entry.kid: entry for entry in document.keys}
        self._by_kid = {key.kid: key for key in keys}
        self._newest_first = tuple(
            (entry, self._by_kid[entry.kid]) for entry in reversed(document.keys) if entry.kid in self._by_kid
        )

    @property
    def document(self) -> RingDocument:
        """What was verified."""
        return self._document

    @property
    def ring(self) -> str:
        """The name of the ring, which is in every token."""
        return self._document.ring

    @property
    def gen(self) -> int:
        """The generation of the document."""
        return self._document.gen

    @property
    def keys(self) -> tuple[KeyEntry, ...]:
        """What the document says of its keys, in the order of their activation."""
        return self._document.keys

    def primary(self, now: datetime) -> KeyEntry:
        """The one key that seals at `now`."""
        return self._document.primary(now)

    def state_of(self, kid: str, now: datetime) -> KeyState:
        """What a key of this ring is good for at `now`. Raises KeyError for a key that it has not."""
        return self._document.state_of(self._entries[kid], now)

    def secret_of(self, kid: str) -> RingKey | None:
        """A key's ciphers, kept for the next snapshot; None where it is destroyed or not of this ring."""
        return self._by_kid.get(kid)

    def seal(self, value: bytes, context: Context, now: datetime, nonce: NonceSource = random_nonce) -> bytes:
        """The token of a value, in ASCII.

        Args:
            value: its bytes; for a field the raw JSON value.
            context: what it is sealed for.
            now: chooses the key.
            nonce: for suite 1; gives 12 bytes, never the same ones twice for a key.

        Raises:
            SealError: the primary key is distrusted, this process has no reserved use of it left, or the
                value is over 2 GiB.
        """
        entry = self._document.primary(now)
        key = self._by_kid.get(entry.kid)
        if key is None or entry.distrusted:
            raise SealError(f"key {entry.kid} of ring {self.ring} may not be used; rotate the ring")
        key.ration.take()
        if context.format == "fernet":
            return key.fernet(context).seal(value, int(now.timestamp()))
        return key.suite_1.seal(value, context.slots, nonce())

    def open(self, token: bytes, context: Context, now: datetime) -> bytes:
        """The value of a token.

        Raises:
            KeyUnknown: the token names a key that this ring has never had, as far as this snapshot knows.
            TokenError: it does not open; why, nobody is told.
        """
        if context.format == "fernet":
            return self._open_fernet(token, context, now)
        parts = take_apart(token)
        entry = self._entries.get(parts.kid)
        if entry is None:
            raise KeyUnknown("the token names a key that is not known here")
        key = self._by_kid.get(parts.kid)
        if key is None:
            raise does_not_open()
        # Opened before the state is asked for: a retired key's token takes as long as a forged one.
        value = key.suite_1.open(parts, context.slots)
        if not entry.readable(now):
            raise does_not_open()
        return value

    def _open_fernet(self, token: bytes, context: Context, now: datetime) -> bytes:
        check_fernet_spelling(token)
        for entry, key in self._newest_first:
            if entry.readable(now):
                value = key.fernet(context).open(token)
                if value is not None:
                    return value
        raise does_not_open()

    def __repr__(self) -> str:
        return f"Keyring(ring={self.ring!r}, gen={self.gen}, keys={[entry.kid for entry in self.keys]})"

    def __reduce__(self) -> str:
        raise TypeError("a key ring is not written down")
