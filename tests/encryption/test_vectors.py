"""docs/token-format.md, decoded again from the page alone, against the vectors and against the package."""

from __future__ import annotations

import base64
import hmac
import json
import re
import runpy
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes, padding
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.cmac import CMAC
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from secmiddleware.encryption import derivation
from secmiddleware.encryption.kek import Kek
from secmiddleware.encryption.keyring import Context, Keyring, RingKey
from secmiddleware.encryption.root import read_document
from secmiddleware.encryption.suites import SuiteOne, SuiteThree, SuiteTwo
from secmiddleware.encryption.uses import Ration
from secmiddleware.errors import KeyringError, KeyUnknown, TokenError

FOLDER = Path(__file__).parent.parent / "vectors" / "tokens"
VECTORS: dict[str, Any] = json.loads((FOLDER / "tokens.json").read_text(encoding="utf-8"))
NOW = datetime.fromisoformat(VECTORS["now"])
SLOTS = ("field", "purpose", "tenant", "caller")


class RefusedError(Exception):
    pass


class UnknownError(Exception):
    pass


# The second implementation. Nothing of secmiddleware below this line, up to the tests.


def lp(data: bytes) -> bytes:
    return len(data).to_bytes(4, "big") + data


def hkdf(secret: bytes, label: bytes, *parts: bytes, length: int = 32) -> bytes:
    info = label + b"".join(map(lp, parts))
    return HKDF(hashes.SHA256(), length, None, info).derive(secret)


def xaes_key(key: bytes, half: bytes) -> bytes:
    """C2SP's steps 1 to 5, with the block cipher alone."""
    cipher = Cipher(algorithms.AES(key), modes.ECB()).encryptor()
    l_value = int.from_bytes(cipher.update(bytes(16)), "big")
    k1 = (l_value << 1) % (1 << 128) ^ (0x87 if l_value >> 127 else 0)
    return b"".join(
        cipher.update((int.from_bytes(bytes([0, i]) + b"X\0" + half, "big") ^ k1).to_bytes(16, "big"))
        for i in (1, 2)
    )


def cmac(key: bytes, data: bytes) -> bytes:
    mac = CMAC(algorithms.AES(key))
    mac.update(data)
    return mac.finalize()


def doubled(block: bytes) -> bytes:
    number = int.from_bytes(block, "big")
    return ((number << 1) % (1 << 128) ^ (0x87 if number >> 127 else 0)).to_bytes(16, "big")


def xor(one: bytes, other: bytes) -> bytes:
    return bytes(a ^ b for a, b in zip(one, other, strict=True))


def siv(key: bytes, sealed: bytes, associated: bytes) -> bytes:
    """RFC 5297 §2.4 and §2.7 for one string of associated data."""
    vector, text = sealed[:16], sealed[16:]
    counter = (int.from_bytes(vector, "big") & ~((1 << 63) | (1 << 31))).to_bytes(16, "big")
    value = Cipher(algorithms.AES(key[32:]), modes.CTR(counter)).decryptor().update(text)
    d_value = xor(doubled(cmac(key[:32], bytes(16))), cmac(key[:32], associated))
    if len(value) >= 16:
        last = value[:-16] + xor(value[-16:], d_value)
    else:
        last = xor(doubled(d_value), (value + b"\x80").ljust(16, b"\0"))
    if not hmac.compare_digest(cmac(key[:32], last), vector):
        raise RefusedError
    return value


def b64u(text: str) -> bytes:
    if re.fullmatch("[A-Za-z0-9_-]*", text) is None or len(text) % 4 == 1:
        raise RefusedError
    bits = "".join(
        f"{'ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_'.index(char):06b}"
        for char in text
    )
    whole = len(bits) // 8 * 8
    if "1" in bits[whole:]:
        raise RefusedError
    return int(bits[:whole] or "0", 2).to_bytes(whole // 8, "big")


def gcm(key: bytes, sealed: bytes, associated: bytes) -> bytes:
    try:
        return AESGCM(key).decrypt(sealed[:12], sealed[12:], associated)
    except (InvalidTag, ValueError):
        raise RefusedError from None


class SecondReader:
    def __init__(self, kek: bytes, ring: str, text: str, now: str) -> None:
        self.ring, self.now = ring.encode(), now
        self.document = json.loads(text, object_pairs_hook=self._object)
        if self.document.keys() != {"ring", "gen", "issued_at", "root", "keys", "mac"}:
            raise RefusedError
        if self.document["ring"] != ring:
            raise RefusedError
        self.root = gcm(kek, b64u(self.document["root"]), b"secmw/root/v1" + lp(self.ring))
        rest = {name: value for name, value in self.document.items() if name != "mac"}
        canonical = json.dumps(rest, sort_keys=True, separators=(",", ":")).encode("ascii")
        mac = hmac.digest(hkdf(self.root, b"secmw/document-mac/v1", self.ring), canonical, "sha256")
        if mac != b64u(self.document["mac"]):
            raise RefusedError
        wrapping = hkdf(self.root, b"secmw/key-wrapping/v1", self.ring)
        self.secrets = {
            key["kid"]: gcm(
                wrapping, b64u(key["wrapped"]), b"secmw/key/v1" + lp(self.ring) + bytes.fromhex(key["kid"])
            )
            for key in self.document["keys"]
            if key["wrapped"] is not None
        }

    @staticmethod
    def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len(dict(pairs)) != len(pairs):
            raise RefusedError
        return dict(pairs)

    def readable(self) -> Iterator[str]:
        # Times of one form compare as text.
        for key in reversed(self.document["keys"]):
            if (
                key["wrapped"]
                and not key["distrusted"]
                and (not key["retire_at"] or self.now < key["retire_at"])
            ):
                yield key["kid"]

    def open(self, token: str, form: str, slots: list[str]) -> bytes:
        if form == "fernet":
            return self._open_fernet(token, *slots[:2])
        if form == "jwe":
            return self._open_jwe(token, slots)
        if not token.startswith("sm1."):
            raise RefusedError
        raw = b64u(token[4:])
        suite, shortest = {"aead": (1, 33), "xaes": (2, 45), "deterministic": (3, 21)}[form]
        if len(raw) < shortest or raw[0] != suite:
            raise RefusedError
        kid = raw[1:5].hex()
        if kid not in {key["kid"] for key in self.document["keys"]}:
            raise UnknownError
        if kid not in self.readable():
            raise RefusedError
        associated = (
            b"secmw/token/v1" + raw[:5] + lp(self.ring) + b"".join(lp(slot.encode()) for slot in slots)
        )
        secret = self.secrets[kid]
        if suite == 1:
            return gcm(hkdf(secret, b"secmw/suite-1/aes-256-gcm/v1"), raw[5:], associated)
        if suite == 2:
            key = xaes_key(hkdf(secret, b"secmw/suite-2/xaes-256-gcm/v1"), raw[5:17])
            return gcm(key, raw[17:], associated)
        parts = (self.ring, *(slot.encode() for slot in slots[:3]))
        return siv(hkdf(secret, b"secmw/suite-3/aes-256-siv/v1", *parts, length=64), raw[5:], associated)

    def _open_jwe(self, token: str, slots: list[str]) -> bytes:
        parts = token.split(".")
        if len(parts) != 5 or parts[1]:
            raise RefusedError
        try:
            header = json.loads(b64u(parts[0]), object_pairs_hook=self._object)
        except ValueError:
            raise RefusedError from None
        if not isinstance(header, dict) or {"zip", "crit"} & header.keys():
            raise RefusedError
        kid = header.get("kid")
        if header.get("alg") != "dir" or header.get("enc") != "A256GCM":
            raise RefusedError
        if not isinstance(kid, str) or re.fullmatch("[0-9a-f]{8}", kid) is None:
            raise RefusedError
        if kid not in {key["kid"] for key in self.document["keys"]}:
            raise UnknownError
        if kid not in self.readable() or len(b64u(parts[4])) != 16:
            raise RefusedError
        key = hkdf(self.secrets[kid], b"secmw/jwe/dir/a256gcm/v1")
        value = gcm(key, b64u(parts[2]) + b64u(parts[3]) + b64u(parts[4]), parts[0].encode())
        told = [header.get(f"secmw.{name}", "") for name in ("ring", *SLOTS)]
        if told != [self.ring.decode(), *slots]:
            raise RefusedError
        return value

    def _open_fernet(self, token: str, field: str, purpose: str) -> bytes:
        unpadded = token.rstrip("=")
        if len(token) % 4 or len(token) - len(unpadded) > 2:
            raise RefusedError
        raw = b64u(unpadded)
        for kid in self.readable():
            key = hkdf(self.secrets[kid], b"secmw/fernet/v1", self.ring, field.encode(), purpose.encode())
            if hmac.compare_digest(hmac.digest(key[:16], raw[:-32], "sha256"), raw[-32:]) and raw[0] == 0x80:
                decryptor = Cipher(algorithms.AES(key[16:]), modes.CBC(raw[9:25])).decryptor()
                unpadder = padding.PKCS7(128).unpadder()
                text = decryptor.update(raw[25:-32]) + decryptor.finalize()
                return unpadder.update(text) + unpadder.finalize()
        raise RefusedError


# The tests.


def nothing_wanted() -> None:
    raise AssertionError("opening takes no use")


def our_keyring(text: str) -> Keyring:
    document, root = read_document(text.encode(), VECTORS["ring"], Kek(bytes.fromhex(VECTORS["kek"])))
    keys = [
        RingKey(document.ring, entry.kid, root.unwrap(entry.kid, entry.wrapped), Ration(0, nothing_wanted))
        for entry in document.keys
        if entry.wrapped is not None
    ]
    return Keyring(document, keys)


def second_reader(text: str) -> SecondReader:
    return SecondReader(bytes.fromhex(VECTORS["kek"]), VECTORS["ring"], text, VECTORS["now"])


def context_of(case: dict[str, Any]) -> Context:
    return Context(*(case[name] for name in SLOTS), format=case["format"])


def named(group: str) -> Any:
    return pytest.mark.parametrize("case", VECTORS[group], ids=lambda case: case["name"])


@named("tokens")
def test_a_reader_written_from_the_page_opens_the_vectors(case):
    value = second_reader(VECTORS["document"]).open(case["token"], case["format"], [case[s] for s in SLOTS])
    assert value == case["value"].encode()


@named("tokens")
def test_the_package_opens_the_vectors(case):
    value = our_keyring(VECTORS["document"]).open(case["token"].encode(), context_of(case), NOW)
    assert value == case["value"].encode()


@named("tokens")
def test_a_fixed_nonce_makes_the_token_of_the_vectors(case):
    secret = bytes.fromhex(VECTORS["ring_keys"][case["kid"]])
    named, nonce = (VECTORS["ring"], case["kid"], secret), bytes.fromhex(case["nonce"])
    value, context = case["value"].encode(), context_of(case)
    match case["format"]:
        case "aead":
            sealed = SuiteOne(*named).seal(value, context.slots, nonce)
        case "xaes":
            sealed = SuiteTwo(*named).seal(value, context.slots, nonce)
        case "deterministic":
            sealed = SuiteThree(*named, context).seal(value, context.slots)
        case "jwe":
            # joserfc draws the nonce; the header is what ours has.
            sealed = RingKey(*named, Ration(1, nothing_wanted)).jwe.seal(value, context)
            head, _, drawn, *_ = case["token"].split(".")
            assert b64u(drawn) == nonce
            assert sealed.split(b".")[0] == head.encode()
            return
        case _:
            # Fernet's nonce cannot be given; what it says of itself can be read.
            assert base64.urlsafe_b64decode(case["token"])[9:25] == nonce
            return
    assert sealed == case["token"].encode()


@named("refused")
def test_a_reader_written_from_the_page_refuses_what_is_near_a_token(case):
    expected = UnknownError if case["error"] == "key_unknown" else RefusedError
    with pytest.raises(expected):
        second_reader(VECTORS["document"]).open(case["token"], case["format"], [case[s] for s in SLOTS])


@named("refused")
def test_the_package_refuses_what_is_near_a_token(case):
    with pytest.raises(TokenError) as raised:
        our_keyring(VECTORS["document"]).open(case["token"].encode(), context_of(case), NOW)
    assert isinstance(raised.value, KeyUnknown) == (case["error"] == "key_unknown")


def test_every_refusal_of_a_token_reads_the_same():
    messages = set()
    for case in VECTORS["refused"]:
        if case["error"] != "key_unknown":
            with pytest.raises(TokenError) as raised:
                our_keyring(VECTORS["document"]).open(case["token"].encode(), context_of(case), NOW)
            messages.add((str(raised.value), raised.value.__cause__, raised.value.__suppress_context__))
    assert len({message for message, *_ in messages}) == 1


@named("refused_documents")
def test_both_readers_refuse_a_changed_document(case):
    assert case["document"] != VECTORS["document"]
    with pytest.raises(RefusedError):
        second_reader(case["document"])
    with pytest.raises(KeyringError):
        our_keyring(case["document"])


def test_the_second_reader_finds_the_root_and_the_keys():
    reader = second_reader(VECTORS["document"])
    assert reader.root.hex() == VECTORS["root"]
    assert {kid: secret.hex() for kid, secret in reader.secrets.items()} == VECTORS["ring_keys"]


def test_the_page_has_every_label_and_every_slot_that_the_package_uses():
    page = (FOLDER.parents[2] / "docs" / "token-format.md").read_text(encoding="utf-8")
    labels = {value.decode() for value in vars(derivation).values() if isinstance(value, bytes)}
    assert len(labels) == 9
    table = set(re.findall(r"^\| `(secmw/[^`]+)` \|", page, re.MULTILINE))
    assert table == labels
    bound = '"secmw/token/v1" ‖ header ‖ lp(ring) ‖ lp(field) ‖ lp(purpose) ‖ lp(tenant) ‖ lp(caller)'
    assert page.count(bound) == 1
    assert dict(re.findall(r"^\| ([123]) \| .*?(AES-256-GCM|XAES-256-GCM|AES-SIV)", page, re.MULTILINE)) == {
        "1": "AES-256-GCM",
        "2": "XAES-256-GCM",
        "3": "AES-SIV",
    }


def test_the_vectors_are_what_the_script_writes():
    written = runpy.run_path(str(FOLDER / "generate.py"))["text"]()
    assert written == (FOLDER / "tokens.json").read_text(encoding="utf-8")
