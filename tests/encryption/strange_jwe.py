"""JWEs as Wycheproof has them, made anew with keys of a test's own: each kind of case, by its name there.

SOURCE: json_web_encryption_test.json, rsa_oaep_2048_sha256_mgf1sha256_test.json and
ecdh_secp256r1_webcrypto_test.json of the commit that tests/vectors/wycheproof/SOURCE.txt names. Their keys
are private ones, which no tree of ours holds; so the numbers here are Wycheproof's tcIds, and the bytes are
not its bytes. `jwe`, `oaep` and `ecdh` say of which of the three files a case is, `rfc` that it is of none.
"""

from __future__ import annotations

import hashlib
import json
import os
import zlib
from collections.abc import Iterator
from typing import Any

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.keywrap import aes_key_wrap
from encryption.jose import CURVES, agreed, b64u, compact, jwk_of, to_ec, to_rsa, unb64u
from joserfc.jwe import JWERegistry, encrypt_compact
from joserfc.jwk import ECKey, OctKey, RSAKey

RSA, EC, DIRECT = "RSA-OAEP-256", "ECDH-ES+A256KW", "dir"
PARTS = ("Header", "EncryptedKey", "Iv", "Ciphertext", "AuthenticationTag")
ENCS = ("A128GCM", "A192GCM", "A128CBC-HS256", "A192CBC-HS384", "A256CBC-HS512")
SHA256 = hashes.SHA256()


def good(header: dict[str, Any], key: Any, value: bytes) -> str:
    """A token that opens, to a public key or under the secret of `dir`."""
    match key:
        case rsa.RSAPublicKey():
            return to_rsa(header, key, value).decode()
        case ec.EllipticCurvePublicKey():
            return to_ec(header, key, value).decode()
    return compact(header, key, value).decode()


def strange(header: dict[str, Any], key: Any, value: bytes) -> Iterator[tuple[str, str]]:
    """Tokens that must not open, each with what it is called: all that there are for a key of this kind."""
    token = good(header, key, value)
    yield from _changed(token)
    yield from _misspelled(token)
    yield from _of_other_algorithms(header, key, value)
    told = {**header, "zip": "DEF"}
    yield "jwe 135 CompressedPlaintext", good(told, key, _deflated(value))
    for name, more in {"crit": ["x"], "b64": False}.items():
        yield f"rfc 7516 §4.1.13 {name}", good({**header, name: more, "crit": [name], "x": 1}, key, value)
    match key:
        case rsa.RSAPublicKey():
            yield from _of_oaep(header, key, value)
        case ec.EllipticCurvePublicKey():
            yield from _of_ecdh(header, key, value)
        case _:
            yield "rfc 7516 §5.2 an encrypted key with dir", _with(token, 1, b64u(os.urandom(40)))


def _with(token: str, part: int, text: str | None) -> str:
    """The token with another part, or without it and its separator."""
    parts = token.split(".")
    parts[part : part + 1] = [] if text is None else [text]
    return ".".join(parts)


def _changed(token: str) -> Iterator[tuple[str, str]]:
    """jwe 2 to 22, 24 to 27, 36 to 50, 63 to 65."""
    parts = token.split(".")
    for number, name in enumerate(PARTS):
        if not parts[number]:
            continue  # The encrypted key of dir.
        raw = unb64u(parts[number])
        if number:
            yield f"jwe rejectsModified{name}", _with(token, number, b64u(bytes([raw[0] ^ 0x40]) + raw[1:]))
            yield (
                f"jwe rejectsModified{name}AtEnd",
                _with(token, number, b64u(raw[:-1] + bytes([raw[-1] ^ 1]))),
            )
            for size in (1, 4, 8):
                yield f"jwe rejectsTruncated{name}By{size}", _with(token, number, b64u(raw[:-size]))
            for size in (1, 3, 8):
                yield f"jwe rejects{name}TooLong {size}", _with(token, number, b64u(raw + bytes(size)))
        yield f"jwe rejectsMissing{name}", _with(token, number, "")
        yield f"jwe rejectsMissing{name}AndSeparator", _with(token, number, None)
    head = unb64u(parts[0])
    yield "jwe 48 rejectsModifiedHeader", _with(token, 0, b64u(head.replace(b'"alg"', b'"Alg"')))
    yield "jwe 19 rejectsModifiedHeader", _with(token, 0, b64u(head[:-1] + b',"x":1}'))
    yield "rfc 7516 §3.1 a part too many", token + "."
    names = ("protected", "encrypted_key", "iv", "ciphertext", "tag")
    yield "jwe 22 rejectsValidJsonSerialization", json.dumps(dict(zip(names, parts, strict=True)))


def _misspelled(token: str) -> Iterator[tuple[str, str]]:
    """What is not the one text for its bytes (RFC 7515 §2): padding, blanks, another alphabet, spare bits."""
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    for number, text in enumerate(token.split(".")):
        for name, other in {
            "padding": text + "=" * (-len(text) % 4 or 4),
            "a blank": text + " ",
            "a line feed": text[:4] + "\n" + text[4:],
            "a tab before": "\t" + text,
            "a letter of no alphabet": text[:4] + "*" + text[4:],
            "a NUL": text + "\0",
            "the other alphabet": text.replace("-", "+").replace("_", "/"),
        }.items():
            if other != text and text:
                yield f"rfc 7515 §2 {name} in {PARTS[number]}", _with(token, number, other)
        if len(text) % 4:
            spare = alphabet[alphabet.index(text[-1]) | 1]
            yield f"rfc 7515 §2 spare bits in {PARTS[number]}", _with(token, number, text[:-1] + spare)


def _of_other_algorithms(header: dict[str, Any], key: Any, value: bytes) -> Iterator[tuple[str, str]]:
    """jwe 1, 23, 28, 30 to 35, 52 to 62, 67 to 93, 100 to 109: good tokens of what no field takes here."""
    own: Any = OctKey.import_key(key) if isinstance(key, bytes) else None
    others = ["A256KW", "A256GCMKW"]  # 106 to 109: WrongCipher
    if isinstance(key, rsa.RSAPublicKey):
        own, others = RSAKey(key, key), ["RSA-OAEP"]  # RSA1_5 is below: joserfc makes none without a warning
    elif isinstance(key, ec.EllipticCurvePublicKey):
        own, others = ECKey(key, key), ["ECDH-ES", "ECDH-ES+A128KW", "ECDH-ES+A192KW"]
    cases = [(header["alg"], enc) for enc in ENCS] if own is not None and not isinstance(key, bytes) else []
    for alg, enc in [*cases, *((alg, "A256GCM") for alg in others)]:
        registry = JWERegistry(algorithms=[alg, enc], strict_check_header=False)
        told = {**header, "alg": alg, "enc": enc}
        yield f"jwe {alg} with {enc}", encrypt_compact(told, value, own, registry=registry)
    if isinstance(key, bytes):
        for enc in ENCS:
            yield f"jwe dir with {enc}", good({**header, "enc": enc}, key, value)


def _of_oaep(header: dict[str, Any], key: rsa.RSAPublicKey, value: bytes) -> Iterator[tuple[str, str]]:
    cek, numbers, size = os.urandom(32), key.public_numbers(), key.key_size // 8

    def token(encrypted: bytes) -> str:
        return compact(header, cek, value, encrypted).decode()

    def raw(number: int) -> bytes:
        return pow(number, numbers.e, numbers.n).to_bytes(size, "big")

    def padded(
        *, label: bytes = hashlib.sha256().digest(), ps: bytes | None = None, end: int = 1, first: int = 0
    ):
        """The CEK in OAEP (RFC 8017 §7.1.1), with one thing as it must not be."""
        zeros = bytes(size - 32 - 2 * 32 - 2) if ps is None else ps
        block = label + zeros + bytes([end]) + cek
        seed = os.urandom(32)
        masked = _xor(block, _mgf1(seed, len(block)))
        whole = bytes([first]) + _xor(seed, _mgf1(masked, 32)) + masked
        return token(raw(int.from_bytes(whole, "big")))

    right, length = hashlib.sha256().digest(), size - 32 - 2 * 32 - 2
    yield "oaep first byte of l_hash modified", padded(label=bytes([right[0] ^ 1]) + right[1:])
    yield "oaep last byte of l_hash modified", padded(label=right[:-1] + bytes([right[-1] ^ 1]))
    yield "oaep l_hash changed to all 0", padded(label=bytes(32))
    yield "oaep l_hash changed to all 1", padded(label=b"\xff" * 32)
    yield "oaep EncryptionWithLabel", padded(label=hashlib.sha256(b"label").digest())
    yield "oaep first byte of ps modified", padded(ps=b"\x02" + bytes(length - 1))
    yield "oaep all bits in ps flipped, ps replaced by 0xff's", padded(ps=b"\xff" * length)
    yield "oaep ps terminated by 0xff", padded(end=0xFF)
    yield "oaep ps is all zero", padded(end=0)
    yield "oaep First byte is 1", padded(first=1)
    for name, number in {"0": 0, "1": 1, "n-1": numbers.n - 1}.items():
        yield f"oaep m is {name}", token(raw(number))
    encrypted = key.encrypt(cek, padding.OAEP(padding.MGF1(SHA256), SHA256, None))
    more = int.from_bytes(encrypted, "big") + numbers.n
    yield "oaep added n to c, ciphertext not reduced", token(more.to_bytes(size + 1, "big"))
    yield "oaep ciphertext is n", token(numbers.n.to_bytes(size, "big"))
    yield "oaep ciphertext is empty", token(b"")
    yield "oaep prepended bytes to ciphertext", token(b"\0" + encrypted)
    yield "oaep appended bytes to ciphertext", token(encrypted + b"\0")
    yield "oaep truncated ciphertext", token(encrypted[:-1])
    sha1 = padding.OAEP(padding.MGF1(hashes.SHA1()), SHA256, None)
    yield "oaep mgf1sha1", token(key.encrypt(cek, sha1))
    for kind in (RSA, "RSA1_5"):
        told = {**header, "alg": kind}
        yield f"jwe 94 Pkcs15WithOaepKey, {kind}", to_rsa(told, key, value, padding.PKCS1v15()).decode()
        for name, block in {
            "122 InvalidPadding": b"\x00\x01" + b"\xff" * (size - 35) + b"\0" + cek,
            "123 InvalidPkcs15Padding": b"\x00\x02" + b"\x11" * (size - 2),
            "127 InvalidPkcs15PaddingWithEmptyMessage": b"\x00\x02" + b"\x11" * (size - 3) + b"\0",
        }.items():
            encrypted_key = raw(int.from_bytes(block, "big"))
            yield f"jwe {name}, {kind}", compact(told, cek, value, encrypted_key).decode()
    oaep = padding.OAEP(padding.MGF1(SHA256), SHA256, None)
    for length in (0, 16, 24, 31, 33, 64):
        short = os.urandom(length)
        using = short if length in (16, 24) else cek
        yield (
            f"rfc 7518 §5.3 a CEK of {length}",
            compact(header, using, value, key.encrypt(short, oaep)).decode(),
        )


def _of_ecdh(
    header: dict[str, Any], key: ec.EllipticCurvePublicKey, value: bytes
) -> Iterator[tuple[str, str]]:
    own = ec.generate_private_key(key.curve)
    epk, size = jwk_of(own.public_key()), (key.key_size + 7) // 8
    x, y = unb64u(epk["x"]), unb64u(epk["y"])

    def token(**other: Any) -> str:
        """One whose encrypted key is good for the right ephemeral key, and whose header tells another."""
        return to_ec(header, key, value, own, epk={**epk, **other}).decode()

    def number(of: int) -> str:
        return b64u(of.to_bytes(size, "big"))

    yield "jwe 51 rejectsInvalidCurvePoint", token(y=b64u(y[:-1] + bytes([y[-1] ^ 1])))
    for px, py in ((0, 0), (0, 1), (1, 0), (1, 1), (2, 3), (0, (1 << key.key_size) - 1)):
        yield f"ecdh point is not on curve, ({px}, {py})", token(x=number(px), y=number(py))
    yield "ecdh public point not on curve", token(x=epk["y"], y=epk["x"])
    yield "ecdh a coordinate that is not reduced", token(x=b64u(b"\xff" * size))
    yield "ecdh a coordinate that is too short", token(y=b64u(y[:-1]))
    yield "ecdh no coordinate", token(x="", y="")
    yield "ecdh a compressed point", token(x=b64u(bytes([2 + (y[-1] & 1)]) + x), y="")
    yield "ecdh using secp256k1", token(**_of_secp256k1())
    for name, curve in CURVES.items():
        if name != epk["crv"]:
            yield f"ecdh WrongCurve {name}", token(**jwk_of(ec.generate_private_key(curve).public_key()))
            yield f"ecdh ModifiedGroup {name}", token(crv=name)
    yield "ecdh WrongCurve X25519", token(kty="OKP", crv="X25519", x=b64u(os.urandom(32)))
    for odd in (None, "", [], {}, {"kty": "EC"}, {"kty": "oct", "k": b64u(bytes(32))}):
        yield f"rfc 7518 §4.6.1.1 epk {odd}", to_ec(header, key, value, own, epk=odd).decode()
    secret = number(own.private_numbers().private_value)
    yield "rfc 7518 §4.6.1.1 a private epk", token(d=secret)
    cek, without = os.urandom(32), dict(header)
    wrapping = agreed(own.exchange(ec.ECDH(), key), header)
    yield "rfc 7518 §4.6.1.1 no epk", compact(without, cek, value, aes_key_wrap(wrapping, cek)).decode()
    told = {**header, "epk": epk}
    for length in (16, 24, 40):
        other = os.urandom(length)
        using = other if length < 32 else cek
        yield (
            f"rfc 7518 §5.3 a CEK of {length}",
            compact(told, using, value, aes_key_wrap(wrapping, other)).decode(),
        )
    yield "aes_wrap empty keys cannot be wrapped", compact(told, cek, value, bytes([0xA6] * 8)).decode()
    yield "jwe 46 rejectsMissingEncryptedKey, with a good tag", compact(told, wrapping, value).decode()


def _of_secp256k1() -> dict[str, str]:
    numbers = ec.generate_private_key(ec.SECP256K1()).public_key().public_numbers()
    x, y = (b64u(one.to_bytes(32, "big")) for one in (numbers.x, numbers.y))
    return {"crv": "secp256k1", "x": x, "y": y}


def _deflated(value: bytes) -> bytes:
    compressor = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    return compressor.compress(value) + compressor.flush()


def _mgf1(seed: bytes, length: int) -> bytes:
    """RFC 8017 §B.2.1."""
    blocks = (hashlib.sha256(seed + count.to_bytes(4, "big")).digest() for count in range(length // 32 + 1))
    return b"".join(blocks)[:length]


def _xor(one: bytes, other: bytes) -> bytes:
    return bytes(a ^ b for a, b in zip(one, other, strict=True))
