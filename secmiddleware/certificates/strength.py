"""Which keys and signatures are too weak to prove anything."""

from __future__ import annotations

from typing import Final

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa
from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes
from cryptography.x509.oid import SignatureAlgorithmOID

# NIST SP 800-131A rev. 2 and the CA/Browser Forum's baseline requirements: 112 bits of security at least.
_MIN_RSA_BITS: Final = 2048
# P-224 would have 112 bits too, but no TLS 1.3 signature scheme uses it (RFC 8446 §4.2.3).
_MIN_EC_BITS: Final = 256
_BROKEN_HASHES: Final = ("md5", "sha1")

# What most leaves have. The encoding of a key on P-256 (uncompressed) begins so, and has so many bytes in all
# (RFC 5480 §2); a signature by ECDSA over SHA-256 or SHA-384 is named so (RFC 5758 §3.2).
USUAL_KEY: Final = bytes.fromhex("3059301306072a8648ce3d020106082a8648ce3d03010703420004")
USUAL_KEY_BYTES: Final = 91
USUAL_SIGNATURES: Final = bytes.fromhex("300a06082a8648ce3d040302"), bytes.fromhex("300a06082a8648ce3d040303")
_GOOD_SIGNATURES: Final = frozenset(
    {SignatureAlgorithmOID.ECDSA_WITH_SHA256, SignatureAlgorithmOID.ECDSA_WITH_SHA384}
)
_UNKNOWN_KEY: Final = ("key_kind", "its key is of a kind that is not accepted")


Weakness = tuple[str, str]
"""A rule, and a sentence for the log."""


def weakness_of(certificate: x509.Certificate) -> Weakness | None:
    """What is too weak about a certificate's key or its signature, or None."""
    return weakness_of_key(certificate) or _weakness_of_signature(certificate)


def weakness_of_key(certificate: x509.Certificate) -> Weakness | None:
    """What is too weak about the key that a certificate is for, or None. A kind that is not known is weak."""
    try:
        key = certificate.public_key()
    except (ValueError, UnsupportedAlgorithm):
        return _UNKNOWN_KEY
    return weakness_of_public_key(key)


def weakness_of_public_key(key: PublicKeyTypes) -> Weakness | None:
    """What is too weak about a key, or None. A kind that is not known is weak."""
    match key:
        case rsa.RSAPublicKey():
            exponent = key.public_numbers().e
            if key.key_size < _MIN_RSA_BITS:
                return "rsa_bits", f"its RSA key has {key.key_size} bits, {_MIN_RSA_BITS} are the least"
            # With an exponent of 1 everybody can sign, and an even one is no RSA (NIST SP 800-56B §6.2).
            if exponent > 1 and exponent % 2:
                return None
            return "rsa_exponent", "its RSA key has an impossible exponent"
        case ec.EllipticCurvePublicKey():
            if key.key_size < _MIN_EC_BITS:
                return "ec_bits", f"its curve has {key.key_size} bits, {_MIN_EC_BITS} are the least"
            return None
        case ed25519.Ed25519PublicKey() | ed448.Ed448PublicKey():
            return None
        case _:
            return _UNKNOWN_KEY


def weakness_of_leaf(certificate: x509.Certificate, spki: bytes) -> Weakness | None:
    """As `weakness_of`, without parsing a key whose encoding says its kind and size: most leaves have one."""
    is_usual = spki.startswith(USUAL_KEY) and len(spki) == USUAL_KEY_BYTES
    if not is_usual or certificate.signature_algorithm_oid not in _GOOD_SIGNATURES:
        return weakness_of(certificate)
    return None


def is_broken(algorithm: hashes.HashAlgorithm | None) -> bool:
    """Whether a hash is one over which signatures can be forged; Ed25519 and Ed448 name none."""
    return algorithm is not None and algorithm.name in _BROKEN_HASHES


def _weakness_of_signature(certificate: x509.Certificate) -> Weakness | None:
    try:
        algorithm = certificate.signature_hash_algorithm
    except (ValueError, UnsupportedAlgorithm):  # RSASSA-PSS without parameters is a ValueError
        return "signature_kind", "its signature is of a kind that is not accepted"
    if algorithm is not None and is_broken(algorithm):
        return "signature_hash", f"its signature is over {algorithm.name.upper()}"
    return None
