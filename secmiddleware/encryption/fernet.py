"""Fernet: under keys of the ring, and under keys that an app had before there was a ring.

Fernet has neither a key id nor associated data, so a reader tries its keys one after the other, and what a
token is bound to is its key alone.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable

from cryptography.fernet import Fernet, InvalidToken

from secmiddleware.encryption.derivation import FERNET, derive
from secmiddleware.encryption.tokens import Context, check_fernet_spelling


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
        return _opened(self._cipher, token)

    def __reduce__(self) -> str:
        raise TypeError("a Fernet key is not written down")


class ListedFernet:
    """Fernet under keys that were in use elsewhere, as MultiFernet has them: any of them opens, none seals.

    Its tokens are bound to nothing, neither field nor ring: whoever has one may put it wherever its keys are
    listed.
    """

    __slots__ = ("_ciphers",)

    def __init__(self, keys: Iterable[str]) -> None:
        """Takes Fernet keys in base64url, the newest first. Raises ValueError where one is none."""
        self._ciphers = tuple(Fernet(key) for key in keys)

    def open(self, token: bytes) -> bytes | None:
        """The value, of whatever age; None where the token is of none of these keys.

        Raises:
            TokenError: it is not spelled as Fernet spells.
        """
        check_fernet_spelling(token)
        for cipher in self._ciphers:
            value = _opened(cipher, token)
            if value is not None:
                return value
        return None

    def __repr__(self) -> str:
        return f"ListedFernet({len(self._ciphers)} keys)"

    def __reduce__(self) -> str:
        raise TypeError("a Fernet key is not written down")


def _opened(cipher: Fernet, token: bytes) -> bytes | None:
    try:
        return cipher.decrypt(token)
    except InvalidToken:
        return None
