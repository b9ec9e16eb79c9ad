"""Where a key-encryption key comes from, and that a wrong one is refused without being told."""

from __future__ import annotations

import base64

import pytest
from encryption.rings import KEK

from secmiddleware.encryption.kek import Kek, load_kek
from secmiddleware.errors import ConfigError, KeyringError
from secmiddleware.files import write_secret

TEXT = base64.b64encode(KEK).decode()


@pytest.fixture
def file(tmp_path):
    write_secret(tmp_path / "kek", KEK)
    return tmp_path / "kek"


def same(kek, other=KEK):
    return kek.unwrap(Kek(other).wrap(b"secret", b"use"), b"use") == b"secret"


def finding_of(reference, environ=None):
    with pytest.raises(ConfigError) as raised:
        load_kek(reference, environ or {})
    (finding,) = raised.value.findings
    assert finding.key == "keys.kek"
    return finding


def test_a_file_holds_the_raw_bytes(file):
    assert same(load_kek(f"file:{file}"))


@pytest.mark.parametrize("text", [TEXT, TEXT + "\n", f" {TEXT} "])
def test_a_variable_holds_base64(text):
    assert same(load_kek("env:SHOP_KEK", {"SHOP_KEK": text}))


def test_the_environment_is_that_of_the_process_unless_given(monkeypatch):
    monkeypatch.setenv("SHOP_KEK", TEXT)
    assert same(load_kek("env:SHOP_KEK"))


@pytest.mark.parametrize(
    "reference", ["", "file", "file:", "env", "env:", "kms:key", "FILE:kek", TEXT, KEK.hex(), "/var/kek"]
)
def test_any_other_reference_is_a_finding_that_does_not_echo_it(reference):
    finding = finding_of(reference)
    assert "neither file:PATH nor env:NAME" in finding.message
    assert len(reference) < 10 or reference not in str(finding)


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "has 0"),
        (KEK[:-1], "has 31"),
        (KEK + b"\n", "has 33"),
        (KEK + KEK, "has 64"),
        (b"0123456789abcdef0123456789abcdef", "is text"),
        (b"correct horse battery staple!!!!", "is text"),
        (b"x" * 5000, "larger than"),
    ],
)
def test_what_is_not_32_random_bytes_is_a_finding_that_does_not_echo_it(tmp_path, data, says):
    write_secret(tmp_path / "kek", data)
    finding = finding_of(f"file:{tmp_path / 'kek'}")
    assert says in finding.message
    assert str(tmp_path / "kek") in finding.message
    assert len(data) < 8 or data.decode("latin-1") not in str(finding)


@pytest.mark.parametrize("bits", [0o640, 0o604, 0o644])
def test_a_file_that_others_may_read_is_a_finding_with_the_command_that_helps(file, bits):
    file.chmod(bits)
    assert f"chmod 600 {file}" in finding_of(f"file:{file}").message


def test_a_missing_file_is_a_finding_that_says_how_to_make_one(tmp_path):
    finding = finding_of(f"file:{tmp_path / 'kek'}")
    assert "/dev/urandom" in finding.hint
    assert "umask 077" in finding.hint


@pytest.mark.parametrize(
    "text",
    ["", "x", TEXT[:-4], TEXT[:-1], TEXT + "AAAA", TEXT.replace("=", "*"), "ü" * 44, KEK.hex(), "a b" + TEXT],
)
def test_a_variable_with_anything_else_is_a_finding_that_does_not_echo_it(text):
    finding = finding_of("env:SHOP_KEK", {"SHOP_KEK": text})
    assert "SHOP_KEK" in finding.message
    assert len(text) < 8 or text not in str(finding)
    with pytest.raises(ConfigError) as raised:
        load_kek("env:SHOP_KEK", {"SHOP_KEK": text})
    error = raised.value
    while error is not None:
        assert len(text) < 8 or text not in str(error)
        error = error.__cause__


def test_a_missing_variable_is_a_finding_that_says_how_to_make_one():
    assert "base64" in finding_of("env:SHOP_KEK").hint


def test_what_is_wrapped_for_one_use_does_not_unwrap_for_another():
    wrapped = Kek(KEK).wrap(b"secret", b"one use")
    for forged, use in (
        (wrapped, b"another use"),
        (wrapped[:-1], b"one use"),
        (wrapped[:27], b"one use"),
        (b"", b"one use"),
        (bytes([wrapped[0] ^ 1]) + wrapped[1:], b"one use"),
    ):
        with pytest.raises(KeyringError):
            Kek(KEK).unwrap(forged, use)


def test_wrapping_twice_never_uses_a_nonce_again():
    kek = Kek(KEK)
    assert len({kek.wrap(b"secret", b"use")[:12] for _ in range(1000)}) == 1000
