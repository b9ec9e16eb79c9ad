"""Which keys and signatures are too weak to prove anything."""

from __future__ import annotations

from typing import Final

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa
from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes

# NIST SP 800-131A rev. 2 and the CA/Browser Forum's baseline requirements: 112 bits of security at least.
_MIN_RSA_BITS: Final = 2048
# P-224 would have 112 bits too, but no TLS 1.3 signature scheme uses it (RFC 8446 §4.2.3).
_MIN_EC_BITS: Final = 256
_BROKEN_HASHES: Final = ("md5", "sha1")


def weakness_of(certificate: x509.Certificate) -> str | None:
    """What is too weak about a certificate's key or its signature, or None."""
    return weakness_of_key(certificate) or _weakness_of_signature(certificate)


def weakness_of_key(certificate: x509.Certificate) -> str | None:
    """What is too weak about the key that a certificate is for, or None. A kind that is not known is weak."""
    try:
        key = certificate.public_key()
    except (ValueError, UnsupportedAlgorithm):
        return "its key is of a kind that is not accepted"
    return weakness_of_public_key(key)


def weakness_of_public_key(key: PublicKeyTypes) -> str | None:
    """What is too weak about a key, or None. A kind that is not known is weak."""
    match key:
        case rsa.RSAPublicKey():
            exponent = key.public_numbers().e
            if key.key_size < _MIN_RSA_BITS:
                return f"its RSA key has {key.key_size} bits, {_MIN_RSA_BITS} are the least"
            # With an exponent of 1 everybody can sign, and an even one is no RSA (NIST SP 800-56B §6.2).
            return None if exponent > 1 and exponent % 2 else "its RSA key has an impossible exponent"
        case ec.EllipticCurvePublicKey():
            if key.key_size < _MIN_EC_BITS:
                return f"its curve has {key.key_size} bits, {_MIN_EC_BITS} are the least"
            return None
        case ed25519.Ed25519PublicKey() | ed448.Ed448PublicKey():
            return None
        case _:
            return "its key is of a kind that is not accepted"


def _weakness_of_signature(certificate: x509.Certificate) -> str | None:
    try:
        algorithm = certificate.signature_hash_algorithm
    except UnsupportedAlgorithm:
        return "its signature is of a kind that is not accepted"
    if algorithm is not None and algorithm.name in _BROKEN_HASHES:
        return f"its signature is over {algorithm.name.upper()}"
    return None
