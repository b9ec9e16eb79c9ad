"""The root of a key ring: the secret that the KEK wraps and that everything in the document hangs off."""

from __future__ import annotations

import hmac
import os
from typing import Final, Self

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from secmiddleware.encryption.derivation import DOCUMENT_MAC, KEY_WRAPPING, LENGTH, NOTICE_MAC, derive, lp
from secmiddleware.encryption.document import RingDocument, canonical, check_ring_name, parse, serialise
from secmiddleware.encryption.kek import NONCE, TAG, Entropy, Kek
from secmiddleware.errors import KeyringError

_ROOT_CONTEXT: Final = b"secmw/root/v1"
_KEY_CONTEXT: Final = b"secmw/key/v1"


class Root:
    """An opened root: wraps and unwraps the keys of its ring, writes and reads the ring's documents."""

    __slots__ = ("_cipher", "_mac_key", "_notice_key", "ring", "wrapped")

    def __init__(self, ring: str, secret: bytes, wrapped: bytes) -> None:
        """`wrapped` is what the document carries as `root`."""
        self.ring = ring
        self.wrapped = wrapped
        self._cipher = AESGCM(derive(secret, KEY_WRAPPING, ring.encode("ascii")))
        self._mac_key = derive(secret, DOCUMENT_MAC, ring.encode("ascii"))
        self._notice_key = derive(secret, NOTICE_MAC, ring.encode("ascii"))

    @classmethod
    def fresh(cls, ring: str, kek: Kek, entropy: Entropy = os.urandom) -> Self:
        """The root of a new ring. Raises KeyringError where `ring` is no name for one."""
        check_ring_name(ring)
        secret = entropy(LENGTH)
        return cls(ring, secret, kek.wrap(secret, _root_context(ring), entropy))

    @classmethod
    def opened(cls, ring: str, kek: Kek, wrapped: bytes) -> Self:
        """The root that a document carries. Raises KeyringError: another KEK, another ring's, or forged."""
        secret = kek.unwrap(wrapped, _root_context(ring))
        if len(secret) != LENGTH:
            raise KeyringError(f"the root of ring {ring} has not {LENGTH} bytes")
        return cls(ring, secret, wrapped)

    def wrap(self, kid: str, secret: bytes, entropy: Entropy = os.urandom) -> bytes:
        """A ring key as the document carries it: nonce (12 bytes), ciphertext, tag (16 bytes)."""
        nonce = entropy(NONCE)
        return nonce + self._cipher.encrypt(nonce, secret, self._key_context(kid))

    def unwrap(self, kid: str, wrapped: bytes) -> bytes:
        """The 32 bytes of a ring key. Raises KeyringError where they are not those of `kid` in this ring."""
        if len(wrapped) != NONCE + LENGTH + TAG:
            raise KeyringError(f"key {kid} of ring {self.ring} has a wrong length")
        try:
            return self._cipher.decrypt(wrapped[:NONCE], wrapped[NONCE:], self._key_context(kid))
        except InvalidTag:
            raise KeyringError(f"key {kid} of ring {self.ring} does not open under the ring's root") from None

    def write(self, document: RingDocument) -> bytes:
        """The document with its MAC, as it is stored."""
        return serialise(document, self._mac(document))

    def check(self, document: RingDocument, mac: bytes) -> None:
        """Raises KeyringError unless `mac` is this root's over `document`."""
        if not hmac.compare_digest(mac, self._mac(document)):
            raise KeyringError(f"the document of ring {self.ring} is forged or damaged: its MAC does not fit")

    def mac_of_notice(self, message: bytes) -> bytes:
        """HMAC-SHA-256 of what a notice says, under the subkey that is for notices only: 32 bytes."""
        return hmac.digest(self._notice_key, message, "sha256")

    def _mac(self, document: RingDocument) -> bytes:
        return hmac.digest(self._mac_key, canonical(document), "sha256")

    def _key_context(self, kid: str) -> bytes:
        return _KEY_CONTEXT + lp(self.ring.encode("ascii")) + bytes.fromhex(kid)

    def __repr__(self) -> str:
        return f"Root(ring={self.ring!r})"

    def __reduce__(self) -> str:
        raise TypeError("the root of a key ring is not written down")


def read_document(body: bytes, ring: str, kek: Kek, known: Root | None = None) -> tuple[RingDocument, Root]:
    """An authentic document of `ring`, and its root; `known`, one opened before, saves work where it is it.

    Raises:
        KeyringError: not a ring document, another ring's, of another KEK, or forged.
    """
    document, mac = parse(body)
    if document.ring != ring:
        raise KeyringError(f"the store holds ring {document.ring}, not ring {ring}")
    if known is not None and known.wrapped == document.root:
        root = known
    else:
        root = Root.opened(ring, kek, document.root)
    root.check(document, mac)
    return document, root


def _root_context(ring: str) -> bytes:
    return _ROOT_CONTEXT + lp(ring.encode("ascii"))
