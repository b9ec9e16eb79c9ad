"""Subkeys and length-prefixed parts: one secret, one key of its own for every use of it.

Labels are part of docs/token-format.md: a changed label is another format.
"""

from __future__ import annotations

from typing import Final

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

SUITE_1: Final = b"secmw/suite-1/aes-256-gcm/v1"
"""From a ring key: the key of suite 1."""
SUITE_2: Final = b"secmw/suite-2/xaes-256-gcm/v1"
"""From a ring key: the key of suite 2."""
SUITE_3: Final = b"secmw/suite-3/aes-256-siv/v1"
"""From a ring key, with ring, field, purpose and tenant: a key of suite 3, of 64 bytes."""
FERNET: Final = b"secmw/fernet/v1"
"""From a ring key, with ring, field and purpose: a Fernet key."""
JWE_DIRECT: Final = b"secmw/jwe/dir/a256gcm/v1"
"""From a ring key: the content encryption key of JWE with `dir`."""
ENTITY_TAG: Final = b"secmw/entity-tag/v1"
"""From a ring key, with the ring: what entity tags are made opaque with, of 64 bytes."""
KEY_WRAPPING: Final = b"secmw/key-wrapping/v1"
"""From the root, with the ring: what ring keys are wrapped under."""
DOCUMENT_MAC: Final = b"secmw/document-mac/v1"
"""From the root, with the ring: what the ring document is authenticated with."""
NOTICE_MAC: Final = b"secmw/notice-mac/v1"
"""From the root, with the ring: what notices of a new version are authenticated with."""

LENGTH: Final = 32
"""Bytes of a secret, and of what is derived from one where nothing else is said."""


def lp(part: bytes) -> bytes:
    """A part behind its length in bytes, as four bytes, big-endian: no two lists of parts look alike."""
    return len(part).to_bytes(4, "big") + part


def derive(secret: bytes, label: bytes, *parts: bytes, length: int = LENGTH) -> bytes:
    """The subkey of `secret` for one use, of `length` bytes.

    HKDF-SHA-256 (RFC 5869) without salt; info is the label, then every part length-prefixed.
    """
    info = label + b"".join(lp(part) for part in parts)
    return HKDF(algorithm=SHA256(), length=length, salt=None, info=info).derive(secret)
