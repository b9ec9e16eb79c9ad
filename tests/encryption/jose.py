"""JWEs made and opened by hand, of primitives alone: as another implementation and a forger would do it."""

from __future__ import annotations

import json
import os
import struct
from base64 import urlsafe_b64decode, urlsafe_b64encode
from typing import Any

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.concatkdf import ConcatKDFHash
from cryptography.hazmat.primitives.keywrap import aes_key_unwrap, aes_key_wrap

OAEP = padding.OAEP(padding.MGF1(hashes.SHA256()), hashes.SHA256(), None)
CURVES: dict[str, ec.EllipticCurve] = {
    "P-256": ec.SECP256R1(),
    "P-384": ec.SECP384R1(),
    "P-521": ec.SECP521R1(),
}


def b64u(raw: bytes) -> str:
    return urlsafe_b64encode(raw).rstrip(b"=").decode("ascii")


def unb64u(text: str) -> bytes:
    return urlsafe_b64decode(text + "=" * (-len(text) % 4))


def header_of(token: bytes | str) -> dict[str, Any]:
    text = token.decode() if isinstance(token, bytes) else token
    header: dict[str, Any] = json.loads(unb64u(text.split(".")[0]))
    return header


def compact(
    header: dict[str, Any] | str | bytes, cek: bytes, value: bytes, encrypted_key: bytes = b""
) -> bytes:
    """A token whose tag is good, whatever its header says; the header may be a text of any kind, or none."""
    text = json.dumps(header, separators=(",", ":")) if isinstance(header, dict) else header
    head, iv = b64u(text.encode() if isinstance(text, str) else text), os.urandom(12)
    sealed = AESGCM(cek).encrypt(iv, value, head.encode())
    parts = (head, b64u(encrypted_key), b64u(iv), b64u(sealed[:-16]), b64u(sealed[-16:]))
    return ".".join(parts).encode()


def to_rsa(
    header: dict[str, Any] | str | bytes, public: rsa.RSAPublicKey, value: bytes, pad: Any = OAEP
) -> bytes:
    cek = os.urandom(32)
    return compact(header, cek, value, public.encrypt(cek, pad))


def jwk_of(public: ec.EllipticCurvePublicKey) -> dict[str, str]:
    name = next(name for name, curve in CURVES.items() if curve.name == public.curve.name)
    size, numbers = (public.key_size + 7) // 8, public.public_numbers()
    return {
        "kty": "EC",
        "crv": name,
        "x": b64u(numbers.x.to_bytes(size, "big")),
        "y": b64u(numbers.y.to_bytes(size, "big")),
    }


def agreed(shared: bytes, header: dict[str, Any]) -> bytes:
    """The key-wrapping key of ECDH-ES+A256KW (RFC 7518 §4.6.2)."""

    def lp(data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + data

    parties = lp(unb64u(header.get("apu", ""))) + lp(unb64u(header.get("apv", "")))
    info = lp(header["alg"].encode()) + parties + struct.pack(">I", 256)
    return ConcatKDFHash(hashes.SHA256(), 32, info).derive(shared)


def to_ec(
    header: dict[str, Any],
    public: ec.EllipticCurvePublicKey,
    value: bytes,
    ephemeral: ec.EllipticCurvePrivateKey | None = None,
    **more: Any,
) -> bytes:
    """`more` goes into the header after the key was agreed on, and may replace `epk`."""
    ephemeral = ephemeral or ec.generate_private_key(public.curve)
    wrapping = agreed(ephemeral.exchange(ec.ECDH(), public), header)
    cek = os.urandom(32)
    told = {**header, "epk": jwk_of(ephemeral.public_key()), **more}
    return compact(told, cek, value, aes_key_wrap(wrapping, cek))


def opened(token: bytes | str, private: Any) -> bytes:
    """What is in a token; raises whatever it raises where the key is another one."""
    text = token.decode() if isinstance(token, bytes) else token
    head, encrypted_key, iv, sealed, tag = text.split(".")
    header = header_of(text)
    if isinstance(private, rsa.RSAPrivateKey):
        cek = private.decrypt(unb64u(encrypted_key), OAEP)
    elif isinstance(private, ec.EllipticCurvePrivateKey):
        epk, curve = header["epk"], CURVES[header["epk"]["crv"]]
        x, y = (int.from_bytes(unb64u(epk[name]), "big") for name in "xy")
        ephemeral = ec.EllipticCurvePublicNumbers(x, y, curve).public_key()
        cek = aes_key_unwrap(agreed(private.exchange(ec.ECDH(), ephemeral), header), unb64u(encrypted_key))
    else:
        assert encrypted_key == ""
        cek = private
    return AESGCM(cek).decrypt(unb64u(iv), unb64u(sealed) + unb64u(tag), head.encode())
