"""The key-encryption key: wraps the root of a key ring, and nothing else."""

from __future__ import annotations

import base64
import binascii
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from secmiddleware.encryption.derivation import LENGTH
from secmiddleware.errors import ConfigError, Finding, KeyringError
from secmiddleware.files import SecretFileError, read_secret

Entropy = Callable[[int], bytes]
"""So many random bytes: `os.urandom`, or fixed ones where vectors are made."""

NONCE: Final = 12
TAG: Final = 16
_KEY: Final = "keys.kek"


class Kek:
    """A key-encryption key held by this process. Its `repr` tells nothing, it cannot be pickled."""

    __slots__ = ("_cipher",)

    def __init__(self, key: bytes) -> None:
        """Takes exactly 32 bytes, drawn at random. Raises ValueError for another length, or for mere text."""
        if len(key) != LENGTH:
            raise ValueError(f"a key-encryption key has exactly {LENGTH} bytes; this has {len(key)}")
        if all(0x20 <= byte < 0x7F for byte in key):
            # 32 random bytes are all printable once in 10**13 times; hex or a pass phrase always.
            raise ValueError("this is text; a key-encryption key is 32 random bytes")
        self._cipher = AESGCM(key)

    def wrap(self, secret: bytes, associated: bytes, entropy: Entropy = os.urandom) -> bytes:
        """The secret under this key: nonce (12 bytes), ciphertext, tag (16 bytes)."""
        nonce = entropy(NONCE)
        return nonce + self._cipher.encrypt(nonce, secret, associated)

    def unwrap(self, wrapped: bytes, associated: bytes) -> bytes:
        """What `wrap` was given. Raises KeyringError: another key, another use, or forged."""
        if len(wrapped) < NONCE + TAG:
            raise KeyringError("the wrapped root is too short")
        try:
            return self._cipher.decrypt(wrapped[:NONCE], wrapped[NONCE:], associated)
        except InvalidTag:
            raise KeyringError(
                "the root of the key ring does not open under this key-encryption key: either [keys] kek is "
                "not the one that the ring was made with, or the ring was tampered with"
            ) from None

    def __repr__(self) -> str:
        return "Kek(…)"

    def __reduce__(self) -> str:
        raise TypeError("a key-encryption key is not written down")


def load_kek(reference: str, environ: Mapping[str, str] | None = None) -> Kek:
    """The key-encryption key that `[keys] kek` names.

    Args:
        reference: `file:PATH`, a file of mode 0600 with exactly 32 raw bytes; or `env:NAME`, a variable with
            the standard base64 (RFC 4648 §4) of 32 bytes.
        environ: `os.environ` unless given.

    Raises:
        ConfigError: there is none, others may read it, or it is not 32 random bytes. The value is never told.
    """
    scheme, _, name = reference.partition(":")
    match scheme:
        case "file" if name:
            return _from_file(Path(name))
        case "env" if name:
            return _from_environment(name, os.environ if environ is None else environ)
        case _:
            # Not echoed: somebody may have written the key itself here.
            raise _finding("is neither file:PATH nor env:NAME", None)


def _from_file(path: Path) -> Kek:
    make = f"make one: (umask 077; head -c {LENGTH} /dev/urandom > {path})"
    try:
        return Kek(read_secret(path, limit=4096))
    except SecretFileError as error:
        raise _finding(str(error), make if not path.exists() else None) from error
    except ValueError as error:
        raise _finding(f"{path}: {error}", make) from error


def _from_environment(name: str, environ: Mapping[str, str]) -> Kek:
    make = f"make one: {name}=$(head -c {LENGTH} /dev/urandom | base64)"
    text = environ.get(name)
    if text is None:
        raise _finding(f"the environment has no {name}", make)
    try:
        return Kek(base64.b64decode(text.strip().encode("ascii"), validate=True))
    except (binascii.Error, UnicodeEncodeError):
        # `from None`: the causes quote what they could not read.
        raise _finding(f"{name} is not standard base64", make) from None
    except ValueError as error:
        raise _finding(f"{name}: {error}", make) from None


def _finding(message: str, hint: str | None) -> ConfigError:
    return ConfigError([Finding(_KEY, message, hint=hint)])
