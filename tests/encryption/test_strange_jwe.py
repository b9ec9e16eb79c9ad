"""What Wycheproof has of JWE, its key wrapping and its content encryption, on every path that opens one."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest
from certificates.shapes import key_of
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from encryption.jose import compact, jwk_of
from encryption.strange_jwe import DIRECT, EC, RSA, good, strange
from encryption.test_primitives import wycheproof
from fields.flowing import RING, exchange, place
from joserfc._rfc7518 import jwe_algs
from joserfc.errors import JoseError

from secmiddleware.encryption import jwe
from secmiddleware.encryption.derivation import JWE_DIRECT, derive
from secmiddleware.encryption.jwe import FieldJwe
from secmiddleware.encryption.jwe_keys import load_opening_keys
from secmiddleware.encryption.tokens import Context
from secmiddleware.errors import TokenError
from secmiddleware.fields.values import ValueWork
from secmiddleware.messages import Refusal

KINDS = ("rsa2048", "p256", "p384", "p521", DIRECT)
SSN = b'"078-05-1120"'
FOR_SSN = {"enc": "A256GCM", "secmw.ring": "shop", "secmw.field": "ssn", "secmw.purpose": "field"}
ROOT = Path(__file__).parents[2]
NODE = shutil.which("node")


def algorithm_of(kind):
    return {"rsa2048": RSA, DIRECT: DIRECT}.get(kind, EC)


def pem_of(kind):
    return key_of(kind, 7).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


@pytest.fixture(scope="module")
def cases():
    """By kind of key: a token that opens, and all that must not, by name."""
    made = {}
    for kind in KINDS:
        header = {"alg": algorithm_of(kind), **FOR_SSN}
        if kind == DIRECT:
            key = derive(RING.secret_of(RING.keys[0].kid)._secret, JWE_DIRECT)
            header["kid"] = RING.keys[0].kid
        else:
            key = key_of(kind, 7).public_key()
        made[kind] = good(header, key, SSN), list(strange(header, key, SSN))
    return made


@pytest.fixture(scope="module")
def field_of(tmp_path_factory):
    def made(kind):
        if kind == DIRECT:
            return None
        path = tmp_path_factory.mktemp("ours") / "open.pem"
        path.write_bytes(pem_of(kind))
        path.chmod(0o600)
        return FieldJwe((algorithm_of(kind),), None, load_opening_keys(path, ""))

    return made


@pytest.mark.parametrize("kind", KINDS)
def test_of_all_that_wycheproof_has_of_jwe_only_what_is_valid_opens(cases, field_of, kind):
    token, others = cases[kind]
    field = field_of(kind)

    def asked(text):
        work = ValueWork(exchange(jwes={"ssn": field}))
        kind_of = "ring" if field is None else "files"
        rule = place("$.ssn", request="decrypt", format="jwe", jwe=kind_of)
        return work.on_request(rule, json.dumps(text).encode(), "$.ssn")

    assert asked(token) == SSN
    assert len({name for name, _ in others}) == len(others) > 50
    for name, text in others:
        assert asked(text) == Refusal("field_undecryptable", "$.ssn"), name
        context = Context("ssn", format="jwe")
        with pytest.raises(TokenError, match=r"^the token does not open here$"):  # noqa: PT012  (says which)
            if field is None:
                RING.open(text.encode(), context, exchange().now)
            else:
                field.open(text.encode(), context, "shop")
            pytest.fail(name)


@pytest.mark.skipif(NODE is None, reason="needs Node, which is not on this machine")
@pytest.mark.parametrize("kind", KINDS[:-1])
def test_the_decoder_in_another_language_opens_what_is_valid_and_nothing_else(cases, kind):
    token, others = cases[kind]
    tokens = [token, *(text for _, text in others)]
    told = json.dumps({"key": pem_of(kind).decode(), "ring": "shop", "field": "ssn", "tokens": tokens})
    script, decoder = Path(__file__).with_name("open_sealed.mjs"), ROOT / "examples" / "open_token.mjs"
    done = subprocess.run(
        [NODE, script, decoder], input=told, capture_output=True, text=True, timeout=30, check=True
    )
    opened, *refused = json.loads(done.stdout)
    assert opened == SSN.decode()
    assert [(name, told) for (name, _), told in zip(others, refused, strict=True) if told is not None] == []


@pytest.mark.parametrize("case", wycheproof("aes_gcm_test"), ids=lambda case: f"{case['tcId']}")
def test_the_content_of_a_jwe_is_aes_gcm_as_wycheproof_has_it(case):
    model = jwe._registry(DIRECT).get_enc("A256GCM")
    key, nonce, associated, message, sealed, tag = (
        bytes.fromhex(case[name]) for name in ("key", "iv", "aad", "msg", "ct", "tag")
    )
    if case["result"] == "valid":
        assert model.encrypt(message, key, nonce, associated) == (sealed, tag)
        assert model.decrypt(sealed, tag, key, nonce, associated) == message
    else:
        with pytest.raises(JoseError):
            model.decrypt(sealed, tag, key, nonce, associated)


@pytest.mark.parametrize("case", wycheproof("aes_wrap_test"), ids=lambda case: f"{case['tcId']}")
def test_the_key_of_a_jwe_is_wrapped_as_wycheproof_has_it(case, field_of, monkeypatch):
    wrapping, cek, wrapped = (bytes.fromhex(case[name]) for name in ("key", "msg", "ct"))
    model = jwe._registry(EC).get_alg(EC).key_wrapping
    if case["result"] == "valid":
        assert model.wrap_cek(cek, wrapping) == wrapped
        assert model.unwrap_cek(wrapped, wrapping) == cek
    # And in a token: the key that was agreed on is the vector's, all else is as ever.
    monkeypatch.setattr(jwe_algs, "derive_key_for_concat_kdf", lambda *_: wrapping)
    public = key_of("p256", 7).public_key()
    content = cek if len(cek) == 32 else bytes(32)
    token = compact({"alg": EC, **FOR_SSN, "epk": jwk_of(public)}, content, SSN, wrapped)
    field = field_of("p256")
    if case["result"] == "valid" and len(cek) == 32:
        assert field.open(token, Context("ssn", format="jwe"), "shop") == SSN
    else:
        with pytest.raises(TokenError):
            field.open(token, Context("ssn", format="jwe"), "shop")
