"""The paths to the primitives, against vectors of others: Wycheproof, C2SP and the Fernet specification."""

from __future__ import annotations

import hashlib
import json
from datetime import datetime
from pathlib import Path

import pytest
from cryptography.fernet import Fernet, InvalidToken
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from secmiddleware.encryption import suites
from secmiddleware.encryption.derivation import derive
from secmiddleware.encryption.kek import Kek
from secmiddleware.encryption.tokens import Context, check_fernet_spelling, format_of, spell, unspell
from secmiddleware.errors import KeyringError, TokenError

VECTORS = Path(__file__).parent.parent / "vectors"


def wycheproof(name):
    loaded = json.loads((VECTORS / "wycheproof" / f"{name}.json").read_text())
    tests = [test for group in loaded["testGroups"] for test in group["tests"]]
    assert len(tests) == loaded["numberOfTests"] > 10
    return tests


@pytest.mark.parametrize("case", wycheproof("aes_gcm_test"), ids=lambda case: f"{case['tcId']}")
def test_wrapping_is_aes_gcm_as_wycheproof_has_it(case):
    key, nonce, associated = (bytes.fromhex(case[name]) for name in ("key", "iv", "aad"))
    message, sealed = bytes.fromhex(case["msg"]), bytes.fromhex(case["ct"] + case["tag"])
    kek = Kek(key)
    if case["result"] == "valid":
        assert kek.wrap(message, associated, lambda length: nonce[:length]) == nonce + sealed
        assert kek.unwrap(nonce + sealed, associated) == message
    else:
        with pytest.raises(KeyringError):
            kek.unwrap(nonce + sealed, associated)


def suite_with(key, associated, monkeypatch, kind, *arguments):
    """A suite as it seals, but with the key and the associated data of a vector."""
    monkeypatch.setattr(suites, "derive", lambda *_parts, **_options: key)
    suite = kind("payments", "12345678", b"", *arguments)
    suite._bound = associated
    return suite


@pytest.mark.parametrize("case", wycheproof("aes_gcm_test"), ids=lambda case: f"{case['tcId']}")
def test_suite_1_is_aes_gcm_as_wycheproof_has_it(case, monkeypatch):
    key, nonce, associated = (bytes.fromhex(case[name]) for name in ("key", "iv", "aad"))
    message, sealed = bytes.fromhex(case["msg"]), bytes.fromhex(case["ct"] + case["tag"])
    suite = suite_with(key, associated, monkeypatch, suites.SuiteOne)
    raw = b"\x01" + bytes.fromhex("12345678") + nonce + sealed
    if case["result"] == "valid":
        assert unspell(suite.seal(message, b"", nonce)) == raw
        assert suite.open(spell(raw), b"") == message
    else:
        with pytest.raises(TokenError):
            suite.open(spell(raw), b"")


@pytest.mark.parametrize("case", wycheproof("aes_siv_cmac_test"), ids=lambda case: f"{case['tcId']}")
def test_suite_3_is_aes_siv_as_wycheproof_has_it(case, monkeypatch):
    key, associated = bytes.fromhex(case["key"]), bytes.fromhex(case["aad"])
    suite = suite_with(key, associated, monkeypatch, suites.SuiteThree, Context("ssn"))
    raw = b"\x03" + bytes.fromhex("12345678") + bytes.fromhex(case["ct"])
    if case["result"] == "valid":
        assert unspell(suite.seal(bytes.fromhex(case["msg"]), b"")) == raw
        assert suite.open(raw, b"") == bytes.fromhex(case["msg"])
    else:
        with pytest.raises(TokenError):
            suite.open(raw, b"")


XAES = json.loads((VECTORS / "xaes" / "xaes-256-gcm.json").read_text())


@pytest.mark.parametrize("case", XAES["tests"], ids=lambda case: case["key"][:2])
def test_suite_2_is_xaes_as_c2sp_has_it(case, monkeypatch):
    key, nonce = bytes.fromhex(case["key"]), case["nonce"].encode()
    sealed, associated = bytes.fromhex(case["ciphertext"]), case["aad"].encode()
    derived = AESGCM(bytes.fromhex(case["derived"]))
    assert derived.decrypt(nonce[12:], sealed, associated) == case["plaintext"].encode()
    suite = suite_with(key, associated, monkeypatch, suites.SuiteTwo)
    raw = b"\x02" + bytes.fromhex("12345678") + nonce + sealed
    assert unspell(suite.seal(case["plaintext"].encode(), b"", nonce)) == raw
    assert suite.open(raw, b"") == case["plaintext"].encode()


def accumulated(count):
    """C2SP's digest over `count` random seals, each opened again."""
    # One string of SHAKE-128, read bit by bit: what a case needs at most, times all of them.
    stream, at = hashlib.shake_128().digest(count * (32 + 24 + 2 * 256)), 0
    digest = hashlib.shake_128()

    def taken(length):
        nonlocal at
        at += length
        return stream[at - length : at]

    for _ in range(count):
        key, nonce = taken(32), taken(24)
        message = taken(taken(1)[0])
        associated = taken(taken(1)[0])
        cipher = suites.Xaes(key)
        sealed = cipher.seal(nonce, message, associated)
        assert cipher.open(nonce, sealed, associated) == message
        digest.update(sealed)
    return digest.hexdigest(32)


def test_ten_thousand_random_seals_of_xaes_are_those_of_c2sp():
    assert accumulated(10_000) == XAES["accumulated"]["10000"]


@pytest.mark.parametrize("case", wycheproof("hkdf_sha256_test"), ids=lambda case: f"{case['tcId']}")
def test_derivation_is_hkdf_as_wycheproof_has_it(case):
    found = derive(bytes.fromhex(case["ikm"]), bytes.fromhex(case["info"]))
    # The first block of the output does not depend on how much is asked for.
    assert found == bytes.fromhex(case["okm"])[:32]


def fernet_spec(name):
    return json.loads((VECTORS / "fernet-spec" / f"{name}.json").read_text())


@pytest.mark.parametrize("name", ["generate", "verify"])
def test_good_tokens_of_the_fernet_specification_pass(name):
    for case in fernet_spec(name):
        token = case["token"].encode()
        check_fernet_spelling(token)
        assert format_of(token) == "fernet"
        assert Fernet(case["secret"]).decrypt(token) == case["src"].encode()


def test_bad_tokens_of_the_fernet_specification_do_not():
    for case in fernet_spec("invalid"):
        token, at = case["token"].encode(), int(datetime.fromisoformat(case["now"]).timestamp())
        with pytest.raises((TokenError, InvalidToken)):
            opened_by_both(token, Fernet(case["secret"]), case["ttl_sec"], at)


def opened_by_both(token, cipher, ttl, at):
    """The spelling is ours to judge, the rest the library's; a token needs both."""
    check_fernet_spelling(token)
    return cipher.decrypt_at_time(token, ttl, at)
