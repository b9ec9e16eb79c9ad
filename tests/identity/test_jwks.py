"""A JWK Set: read whole, or refused with every mistake that it has."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from hypothesis import given
from hypothesis import strategies as st
from identity.issuing import KIND_OF, Issuer, base64url
from joserfc.jwk import ECKey, OctKey, OKPKey

from secmiddleware.errors import ConfigError, Finding
from secmiddleware.identity.jwks import load_jwks
from secmiddleware.jose import decode_base64url, parse_object


@pytest.fixture(scope="module")
def public() -> dict[str, dict[str, Any]]:
    return Issuer(*KIND_OF).public


def _mistakes(path: Path) -> tuple[Finding, ...]:
    with pytest.raises(ConfigError) as raised:
        load_jwks(path)
    return raised.value.findings


def _written(path: Path, *keys: object) -> Path:
    file = path / "jwks.json"
    file.write_text(json.dumps({"keys": keys}))
    return file


def test_each_key_is_good_for_the_algorithms_of_its_kind_and_no_others(public: Any, tmp_path: Path) -> None:
    keys = load_jwks(_written(tmp_path, *public.values()))
    rsa_ones = {"RS256", "RS384", "RS512", "PS256", "PS384", "PS512"}
    assert {key.kid: set(key.checks) for key in keys.keys} == {
        "es": {"ES256"},
        "es384": {"ES384"},
        "es512": {"ES512"},
        "rsa": rsa_ones,
        "pss": rsa_ones,
        "ed": {"EdDSA", "Ed25519"},
        "ed448": {"EdDSA", "Ed448"},
    }


def test_a_key_that_names_its_algorithm_is_good_for_nothing_else(public: Any, tmp_path: Path) -> None:
    keys = load_jwks(_written(tmp_path, public["rsa"] | {"alg": "PS256"}))
    assert keys.algorithms == {"PS256"}


def test_what_else_a_key_says_does_no_harm(public: Any, tmp_path: Path) -> None:
    more = {"x5c": ["no certificate"], "x5u": 7, "key_ops": ["verify"], "use": "sig", "nbf": 1}
    assert len(load_jwks(_written(tmp_path, public["es"] | more)).keys) == 1


def _weak() -> dict[str, Any]:
    numbers = rsa.generate_private_key(65537, 1024).public_key().public_numbers()
    return {"kty": "RSA", "e": "AQAB", "n": base64url(numbers.n.to_bytes(128, "big"))}


def test_every_mistake_is_told_at_once_and_no_key_is(public: Any, tmp_path: Path) -> None:
    private = ECKey.generate_key("P-256").as_dict(private=True)
    mistakes: list[tuple[Any, str]] = [
        (private, "private key"),
        (OctKey.generate_key(256).as_dict(private=True), "secret (oct)"),
        (public["es"], "has the kid of keys[0]"),
        (_weak(), "too weak: its RSA key has 1024 bits"),
        (public["rsa"] | {"kid": "even", "e": "Ag"}, "cannot be read|too weak"),
        ({"kty": "AKP", "pub": "AAAA"}, "of a kind that is not accepted"),
        ({"kty": ["RSA"]}, "of a kind that is not accepted"),
        ({}, "of a kind that is not accepted"),
        (public["es"] | {"kid": "k1", "crv": "secp256k1"}, "of a kind that is not accepted"),
        (OKPKey.generate_key("X25519").as_dict(private=False), "of a kind that is not accepted"),
        (public["rsa"] | {"kid": "enc", "use": "enc"}, 'its use is not "sig"'),
        (public["rsa"] | {"kid": "ops", "key_ops": ["encrypt"]}, "not for verifying"),
        (public["rsa"] | {"kid": "hmac", "alg": "HS256"}, "an alg that is not one of its kind"),
        (public["es"] | {"kid": "other", "alg": "ES384"}, "an alg that is not one of its kind"),
        (public["es"] | {"kid": "alg", "alg": ["ES256"]}, "an alg that is not one of its kind"),
        (public["es"] | {"kid": 7}, "kid that is not a text"),
        (public["es"] | {"kid": ""}, "kid that is not a text"),
        (public["es"] | {"kid": "off", "x": base64url(bytes(32))}, "cannot be read"),
        (public["es"] | {"kid": "padded", "x": public["es"]["x"] + "="}, "cannot be read"),
        ({"kty": "EC", "crv": "P-256", "x": public["es"]["x"]}, "cannot be read"),
        ({"kty": "RSA", "n": 7, "e": "AQAB"}, "cannot be read"),
        ({"kty": "OKP", "crv": "Ed25519", "x": "AAAA"}, "cannot be read"),
        ("no object", "is not an object"),
    ]
    path = _written(tmp_path, public["es"], *(key for key, _ in mistakes))
    findings = _mistakes(path)
    assert len(findings) == len(mistakes)
    for index, (finding, (_, told)) in enumerate(zip(findings, mistakes, strict=True), 1):
        assert finding.key == "tokens.jwks"
        assert finding.message.startswith(f"{path}: keys[{index}] ")
        assert any(text in finding.message for text in told.split("|")), finding
    assert private["d"] not in str(findings)


NO_SET = {
    "nothing": b"",
    "a list": b"[]",
    "no keys": b"{}",
    "keys an object": b'{"keys": {}}',
    "no key": b'{"keys": []}',
    "keys twice": b'{"keys": [], "keys": [{}]}',
    "a certificate": b"-----BEGIN CERTIFICATE-----",
    "UTF-16": '{"keys": []}'.encode("utf-16"),
    "a hundred and one": b'{"keys": [' + b"{}," * 100 + b"{}]}",
    "a megabyte": b" " * ((1 << 20) + 1),
    "deep": b'{"keys":' * 5000,
}


@pytest.mark.parametrize("data", NO_SET.values(), ids=NO_SET)
def test_what_is_no_set_is_one_mistake(data: bytes, tmp_path: Path) -> None:
    path = tmp_path / "jwks.json"
    path.write_bytes(data)
    (finding,) = _mistakes(path)
    assert finding.key == "tokens.jwks"
    assert str(path) in finding.message


def test_a_file_that_cannot_be_read_is_named_and_nobody_waits_for_it(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    for name, told in (("gone", "there is no file"), (".", "not a regular file"), ("fifo", "not a regular")):
        (finding,) = _mistakes(tmp_path / name)
        assert told in finding.message


@given(st.binary(max_size=60))
def test_base64url_has_one_text_for_some_bytes(data: bytes) -> None:
    assert decode_base64url(base64url(data).encode()) == data


@given(st.text(alphabet="ABQgw_-=+/ \n", max_size=8))
def test_a_text_that_is_not_the_one_is_refused(text: str) -> None:
    try:
        data = decode_base64url(text.encode())
    except ValueError:
        return
    assert base64url(data) == text


@given(
    st.dictionaries(
        st.text(), st.integers() | st.text() | st.lists(st.floats(allow_nan=False, allow_infinity=False))
    )
)
def test_an_object_is_read_as_it_was_written(value: dict[str, Any]) -> None:
    assert parse_object(json.dumps(value).encode()) == value


@pytest.mark.parametrize(
    "text",
    ['{"a":1,"a":1}', '{"b":[{"a":1,"\\u0061":2}]}', '{"a":Infinity}', '{"a":-1e999}', "1", "\ufeff{}"],
)
def test_what_two_readers_might_read_differently_is_no_object(text: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011  (its text says nothing)
        parse_object(text.encode())
