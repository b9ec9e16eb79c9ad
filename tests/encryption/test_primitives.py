"""The paths to the primitives, against the vectors of others: Wycheproof and the Fernet specification."""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path

import pytest
from cryptography.fernet import Fernet, InvalidToken

from secmiddleware.encryption.derivation import derive
from secmiddleware.encryption.kek import Kek
from secmiddleware.encryption.tokens import check_fernet_spelling, format_of
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
