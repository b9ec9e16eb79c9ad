"""The files that JWE keys come from: what is taken, by which name, and what is said of what is not."""

from __future__ import annotations

import base64
import json
import os

import pytest
from certificates.shapes import key_of, make, raw, raw_san, usage
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from encryption.jose import b64u, jwk_of, opened
from encryption.rings import RING

from secmiddleware.encryption.jwe import FieldJwe
from secmiddleware.encryption.jwe_keys import key_of_caller, load_opening_keys, load_sealing_key
from secmiddleware.encryption.keyring import Context
from secmiddleware.errors import ConfigError, SealError

CARD = Context("card", format="jwe")
RSA, EC = "RSA-OAEP-256", "ECDH-ES+A256KW"

# The public key of RFC 7638 §3.1, and the thumbprint that it gives for it.
RFC_7638 = {
    "kty": "RSA",
    "n": "0vx7agoebGcQSuuPiLJXZptN9nndrQmbXEps2aiAFbWhM78LhWx4cbbfAAtVT86zwu1RK7aPFFxuhDR1L6tSoc_BJE"
    "CPebWKRXjBZCiFV4n3oknjhMstn64tZ_2W-5JsGY4Hc5n9yBXArwl93lqt7_RN5w6Cf0h4QyQ5v-65YGjQR0_FDW2Q"
    "vzqY368QQMicAtaSqzs8KJZgnYb9c7d0zgdAZHzu6qMQvRL5hajrn1n91CbOpbISD08qNLyrdkt-bFTWhAI4vMQFh6"
    "WeZu0fM4lFd2NcRwr3XPksINHaQ-G_xBniIqbw0Ls1jF44-csFCur-kEgU8awapJzKnqDKgw",
    "e": "AQAB",
}
THUMBPRINT = "NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs"


@pytest.fixture
def put(tmp_path):
    """A file, private to its owner, of bytes or of JSON."""

    def written(data, mode=0o600):
        path = tmp_path / f"key-{len(list(tmp_path.iterdir()))}"
        path.write_bytes(data if isinstance(data, bytes) else json.dumps(data).encode())
        path.chmod(mode)
        return path

    return written


def pem(private, form=PrivateFormat.PKCS8, encryption=None):
    return private.private_bytes(Encoding.PEM, form, encryption or NoEncryption())


def public_pem(private):
    return private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def private_jwk(private):
    """With the private half, of either kind; RSA's without its factors, as the least that there may be."""
    numbers = private.private_numbers()

    def text(number, size):
        return b64u(number.to_bytes(size, "big"))

    if hasattr(numbers, "private_value"):
        return {**jwk_of(private.public_key()), "d": text(numbers.private_value, (private.key_size + 7) // 8)}
    public = numbers.public_numbers
    return {"kty": "RSA", "n": text(public.n, 256), "e": "AQAB", "d": text(numbers.d, 256)}


def told(load, path):
    with pytest.raises(ConfigError) as error:
        load(path, "fields.card.jwe.x")
    (finding,) = error.value.findings
    assert finding.key == "fields.card.jwe.x"
    assert str(path) in finding.message
    return finding.message.removeprefix(str(path)).lstrip(": ")


@pytest.mark.parametrize("form", [PrivateFormat.PKCS8, PrivateFormat.TraditionalOpenSSL])
@pytest.mark.parametrize("kind", ["rsa2048", "p256", "p384", "p521"])
def test_keys_in_pem_and_jwk_are_one_key_by_one_name(put, kind, form):
    private = key_of(kind)
    algorithm = RSA if kind == "rsa2048" else EC
    ours = [load_opening_keys(put(data), "")[0] for data in (pem(private, form), private_jwk(private))]
    jwk = {name: value for name, value in private_jwk(private).items() if name != "d"}
    theirs = [load_sealing_key(put(data, 0o644), "") for data in (public_pem(private), jwk)]
    names = {key.kid for key in ours} | {key.named[1] for key in theirs}
    assert len(names) == 1
    assert {key.algorithm for key in (*ours, *theirs)} == {algorithm}
    assert {key.named[0] for key in theirs} == {"kid"}
    for sealing in theirs:
        for opening in ours:
            field = FieldJwe((algorithm,), sealing, (opening,))
            token = field.seal(b"1", CARD, RING, None)
            assert field.open(token, CARD, RING) == opened(token, private) == b"1"


def test_a_key_without_a_name_goes_by_the_thumbprint_of_rfc_7638(put):
    assert load_sealing_key(put(RFC_7638), "").named == ("kid", THUMBPRINT)
    told = {**RFC_7638, "kid": "2011-04-29", "alg": RSA, "use": "enc", "key_ops": ["wrapKey"]}
    assert load_sealing_key(put(told), "").named == ("kid", "2011-04-29")
    named = {**private_jwk(key_of("p256")), "kid": "ours", "use": "enc", "alg": EC, "key_ops": ["deriveKey"]}
    assert load_opening_keys(put(named), "")[0].kid == "ours"


def test_a_recipient_may_be_a_certificate_and_goes_by_its_thumbprint(put):
    made = make("partner", key=key_of("p384"), extensions=[(usage("key_agreement"), True)])
    key = load_sealing_key(put(made.pem, 0o644), "")
    assert key.named == ("x5t#S256", b64u(made.certificate.fingerprint(hashes.SHA256())))
    token = FieldJwe((EC,), key).seal(b"1", CARD, RING, None)
    assert opened(token, made.key) == b"1"
    signs = make("partner", key=key_of("p384"), extensions=[(usage("digital_signature"), True)])
    assert "lacks keyAgreement" in told(load_sealing_key, put(signs.pem))


@pytest.mark.parametrize("odd", [raw_san(0xA3, b"\x30\0"), raw_san(0xA5, b"\xa1\3\x0c\1x"), "twice"], ids=str)
def test_a_certificate_with_a_part_that_cannot_be_read_is_told_and_nothing_is_sealed_to_it(put, odd):
    extensions = [(raw("2.5.29.99", b"\x03\x02\x05\x20") if odd == "twice" else odd, False)]
    made = make("partner", key=key_of("rsa2048"), extensions=[(usage("key_encipherment"), True), *extensions])
    der = made.der.replace(b"\x06\x03\x55\x1d\x63", b"\x06\x03\x55\x1d\x0f")  # once more: keyUsage
    armour = "CERTIFICATE-----\n"
    armed = f"-----BEGIN {armour}{base64.encodebytes(der).decode()}-----END {armour}".encode()
    assert "holds no public key" in told(load_sealing_key, put(armed))
    with pytest.raises(SealError, match="cannot be read"):
        key_of_caller(der)


@pytest.mark.parametrize(("bits", "exponent"), [(4096, (1 << 65) + 1), (16_392, 65_537)])
def test_a_key_that_the_library_does_not_calculate_with_seals_nothing_and_breaks_nothing(put, bits, exponent):
    numbers = ((1 << bits) - 1).to_bytes(bits // 8, "big"), exponent.to_bytes(9, "big").lstrip(b"\0")
    key = load_sealing_key(put({"kty": "RSA", "n": b64u(numbers[0]), "e": b64u(numbers[1])}), "")
    with pytest.raises(SealError, match="to this key"):
        FieldJwe((RSA,), key).seal(b"1", CARD, RING, None)


PUBLIC = RFC_7638
EVEN = b64u(base64.urlsafe_b64decode(PUBLIC["n"] + "==")[:-1] + b"\0")
CURVE = private_jwk(key_of("p256"))

NOT_FOR_SEALING = {
    "a private key in PEM": (pem(key_of("p256")), "holds a private key"),
    "a private key as JWK": (CURVE, "holds a private key"),
    "a secret": ({"kty": "oct", "k": "AAAA"}, "is not of a kind"),
    "a set of keys": ({"keys": [PUBLIC]}, "is a set of keys"),
    "a key for signatures": ({**PUBLIC, "use": "sig"}, 'its use is not "enc"'),
    "a key whose operations are others": ({**PUBLIC, "key_ops": ["verify"]}, "key_ops"),
    "a key whose operations are none": ({**PUBLIC, "key_ops": "encrypt"}, "key_ops"),
    "a key for another algorithm": ({**PUBLIC, "alg": "RSA-OAEP"}, "is for another alg"),
    "a name that is no text": ({**PUBLIC, "kid": 7}, "a kid that is not a text"),
    "an empty name": ({**PUBLIC, "kid": ""}, "a kid that is not a text"),
    "a member twice": (b'{"kty":"EC","kty":"RSA","n":"AQAB","e":"AQAB"}', "holds no public key"),
    "a key without its numbers": ({"kty": "RSA", "e": "AQAB"}, "holds no public key"),
    "numbers that are no key": ({**PUBLIC, "n": "AQAB"}, "holds no public key"),
    "a modulus that is even": ({**PUBLIC, "n": EVEN}, "too weak"),
    "an exponent of one": ({**PUBLIC, "e": "AQ"}, "holds no public key"),
    "a point that is not on its curve": (
        {"kty": "EC", "crv": "P-256", "x": CURVE["x"], "y": CURVE["x"]}, "holds no public key",
    ),
    "a curve that is not taken": (
        {"kty": "EC", "crv": "secp256k1", "x": CURVE["x"], "y": CURVE["y"]}, "holds no public key",
    ),
    "a kind that is not taken": ({"kty": "OKP", "crv": "X25519", "x": b64u(bytes(32))}, "is not of a kind"),
    "a kind that is no text": ({"kty": ["RSA"]}, "is not of a kind"),
    "a kind that is not taken, in PEM": (public_pem(key_of("ed25519")), "is not of a kind"),
    "a weak key": (public_pem(key_of("rsa1024")), "too weak"),
    "another curve in PEM": (public_pem(key_of("p224")), "is not of a kind"),
    "nothing": (b"", "holds no public key"),
    "anything": (os.urandom(100), "holds no public key"),
    "a list": (b"[]", "holds no public key"),
    "half a certificate": (b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", "holds no"),
}  # fmt: skip


@pytest.mark.parametrize("case", NOT_FOR_SEALING)
def test_what_nothing_can_be_sealed_to_is_told_and_nothing_of_it(put, case):
    data, message = NOT_FOR_SEALING[case]
    found = told(load_sealing_key, put(data))
    assert message in found
    for secret in (CURVE["d"], CURVE["x"], RFC_7638["n"][:20]):
        assert secret not in found


def test_a_file_may_hold_several_private_keys_and_says_which_is_first(put):
    one, other = key_of("p256"), key_of("rsa2048")
    jwks = {"keys": [private_jwk(one), private_jwk(other)]}
    # As OpenSSL writes it, with what it is of above.
    old = b"-----BEGIN EC PARAMETERS-----\nBggqhkjOPQMBBw==\n-----END EC PARAMETERS-----\n" + pem(
        one, PrivateFormat.TraditionalOpenSSL
    )
    for data in (pem(one) + pem(other), old + b"and so on\n" + pem(other), jwks):
        keys = load_opening_keys(put(data), "")
        assert [key.algorithm for key in keys] == [EC, RSA]
        assert [key.kid for key in keys] == [load_opening_keys(put(pem(k)), "")[0].kid for k in (one, other)]


NOT_FOR_OPENING = {
    "half of a second key": (
        pem(key_of("p256")) + pem(key_of("p256", 1))[:100], "breaks off within a key",
    ),
    "half of a first key": (
        pem(key_of("p256"))[:100] + pem(key_of("p256", 1)), "breaks off within a key",
    ),
    "a second key that is none": (
        pem(key_of("p256")) + b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n",
        "holds no private key",
    ),
    "one key twice": (pem(key_of("p256")) * 2, "holds two keys of one kid"),
    "an empty set of keys": ({"keys": []}, "holds no private key"),
    "a set of texts": ({"keys": ["a"]}, "holds no private key"),
    "a set with a public key": ({"keys": [CURVE, PUBLIC]}, "holds a public key"),
    "a set that is none": ({"keys": {"a": CURVE}}, "holds no private key"),
    "a public key in PEM": (public_pem(key_of("p256")), "holds no private key"),
    "a public key as JWK": (PUBLIC, "holds a public key"),
    "an encrypted key": (
        pem(key_of("p256"), encryption=BestAvailableEncryption(b"password")), "is encrypted",
    ),
    "an encrypted key of old": (
        pem(key_of("p256"), PrivateFormat.TraditionalOpenSSL, BestAvailableEncryption(b"password")),
        "is encrypted",
    ),
    "halves of two keys": (
        {**CURVE, "d": private_jwk(key_of("p256", 1))["d"]}, "holds no private key",
    ),
    "a private key that is no number": ({**CURVE, "d": "!"}, "holds no private key"),
    "a weak key": (pem(key_of("rsa1024")), "too weak"),
    "a key for signatures": ({**CURVE, "use": "sig"}, 'its use is not "enc"'),
    "a key that only seals": ({**private_jwk(key_of("rsa2048")), "key_ops": ["encrypt"]}, "key_ops"),
    "a kind that is not taken": (pem(key_of("ed25519")), "is not of a kind"),
    "nothing": (b"", "holds no private key"),
}  # fmt: skip


@pytest.mark.parametrize("case", NOT_FOR_OPENING)
def test_what_nothing_can_be_opened_with_is_told_and_nothing_of_it(put, case):
    data, message = NOT_FOR_OPENING[case]
    found = told(load_opening_keys, put(data))
    assert message in found
    assert CURVE["d"] not in found


def test_a_private_key_that_others_may_read_is_not_taken_and_a_public_one_is(put):
    assert "others may use it" in told(load_opening_keys, put(pem(key_of("p256")), 0o640))
    load_sealing_key(put(public_pem(key_of("p256")), 0o644), "")


@pytest.mark.parametrize("load", [load_sealing_key, load_opening_keys])
def test_what_is_no_file_or_too_large_is_told(tmp_path, put, load):
    assert "there is no such file" in told(load, tmp_path / "nothing")
    folder = tmp_path / "folder"
    folder.mkdir(mode=0o700)
    assert "is not a regular file" in told(load, folder)
    os.mkfifo(tmp_path / "pipe", 0o600)
    assert "is not a regular file" in told(load, tmp_path / "pipe")
    assert "is larger than" in told(load, put(b" " * 70000))
