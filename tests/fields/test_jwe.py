"""JWE at marks: who can read what a response seals, what is opened of a request, and what is refused."""

from __future__ import annotations

from dataclasses import replace

import msgspec
import pytest
from certificates.shapes import key_of, make, usage
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from encryption.jose import header_of, opened, to_rsa
from fields.flowing import RING, caller, exchange, place, request, response, seal, unseal

from secmiddleware.encryption.jwe import FieldJwe
from secmiddleware.encryption.jwe_keys import load_opening_keys
from secmiddleware.encryption.keyring import Context
from secmiddleware.encryption.tokens import format_of
from secmiddleware.fields.values import ValueWork
from secmiddleware.messages import Refusal

SSN = b'"078-05-1120"'
RSA, EC = "RSA-OAEP-256", "ECDH-ES+A256KW"
UNDECRYPTABLE = Refusal("field_undecryptable", "$.ssn")
UNSEALED = Refusal("seal_failed", "$.ssn")

TO_CALLER = FieldJwe((RSA, EC), "caller")
FOR_SSN = {"enc": "A256GCM", "secmw.ring": "shop", "secmw.field": "ssn", "secmw.purpose": "field"}


def with_certificate(kind, *usages, spiffe_id="spiffe://shop.example/web"):
    """Who calls with a certificate of this key, and the key."""
    extensions = [(usage(*usages), True)] if usages else []
    made = make("caller", key=key_of(kind, 5), extensions=extensions)
    return msgspec.structs.replace(caller(spiffe_id), der=made.der), made.key


@pytest.fixture(scope="module")
def ours(tmp_path_factory):
    """What opens that which callers have sealed to us: of an RSA key."""
    path = tmp_path_factory.mktemp("ours") / "open.pem"
    path.write_bytes(key_of("rsa2048").private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    path.chmod(0o600)
    return FieldJwe((RSA,), None, (load_opening_keys(path, "")[0],))


def sealed_to_us(value, **told):
    token = to_rsa({"alg": RSA, **FOR_SSN, **told}, key_of("rsa2048").public_key(), value)
    return b'"' + token + b'"'


def kind_of(jwe):
    """How a rule says whose these keys are."""
    return "ring" if jwe is None else "caller" if jwe.to_caller else "files"


def asked(value, *, within=None, action="decrypt", jwe=None, **field):
    """What the app gets for a value: its bytes, or the refusal."""
    within = exchange() if within is None else within
    work = ValueWork(replace(within, jwes={"ssn": jwe}))
    field["jwe"] = kind_of(jwe)
    return work.on_request(place("$.ssn", request=action, **field), value, "$.ssn")


def answered(value, identity=None, *, jwe=None, **field):
    """What the caller gets for a value of the app's."""
    work = ValueWork(exchange(identity=identity, jwes={"ssn": jwe}))
    field["jwe"] = kind_of(jwe)
    return work.on_response(place("$.ssn", response="encrypt", **field), value, "$.ssn")


# Under the ring.


def test_a_field_seals_and_opens_jwe_under_the_ring_and_counts_the_key():
    work = ValueWork(exchange())
    token = work.on_response(place("$.ssn", response="encrypt", format="jwe"), SSN, "$.ssn")
    assert format_of(token[1:-1]) == "jwe"
    assert unseal(token, format="jwe") == SSN
    assert asked(token, format="jwe") == asked(token, also_open=("jwe",)) == SSN
    assert asked(token) == UNDECRYPTABLE
    (kid,) = work.report.kids
    assert kid == header_of(token[1:-1])["kid"] == RING.keys[0].kid
    work.on_request(place("$.ssn", request="decrypt", format="jwe"), token, "$.ssn")
    assert (work.report.sealed, work.report.opened, work.report.kids) == (1, 1, {kid})


@pytest.mark.parametrize("bind", ["tenant", "caller"])
def test_what_is_bound_opens_for_nobody_else(bind):
    token = answered(SSN, caller("spiffe://a.example/x"), format="jwe", bind=bind)
    field = {"format": "jwe", "bind": bind}
    assert asked(token, within=exchange(identity=caller("spiffe://a.example/x")), **field) == SSN
    assert asked(token, within=exchange(identity=caller("spiffe://b.example/x")), **field) == UNDECRYPTABLE
    assert asked(token, within=exchange(), **field) == Refusal("certificate_missing", "$.ssn")


def test_another_fields_token_does_not_open():
    assert asked(seal(SSN, "iban", format="jwe"), format="jwe") == UNDECRYPTABLE


def test_what_looks_like_jwe_is_any_text_where_no_jwe_is_due():
    jwt = b'"eyJhbGciOiJkaXIifQ..AAAA.AAAA.AAAA"'
    assert unseal(asked(jwt, action="encrypt")) == jwt
    assert asked(jwt, action="encrypt", format="jwe") == Refusal("field_missing", "$.ssn")
    for text in (
        b'"eyJ.a.b.c"',
        b'"eyJhbGciOiJkaXIifQ.a.b.c.d.e"',
        b'"eyJhbGciOiJkaXIifQ.a.b.c.d="',
        b'"eyJ"',
    ):
        assert unseal(asked(text, action="encrypt", format="jwe"), format="jwe") == text


def test_a_text_stands_in_a_token_without_quotes():
    token = answered(SSN, format="jwe", encoding="text")
    assert unseal(token, format="jwe") == SSN[1:-1]
    assert asked(token, format="jwe", encoding="text") == SSN


# To the caller's certificate.


@pytest.mark.parametrize(
    ("kind", "usages"), [("p256", ["key_agreement"]), ("rsa2048", ["key_encipherment"]), ("p384", [])]
)
def test_what_a_response_seals_to_the_caller_only_its_key_opens(kind, usages):
    identity, key = with_certificate(kind, *usages)
    token = answered(SSN, identity, format="jwe", jwe=TO_CALLER)
    assert opened(token[1:-1], key) == SSN
    assert asked(token, within=exchange(identity=identity), format="jwe", jwe=TO_CALLER) == UNDECRYPTABLE
    with pytest.raises(Exception):  # noqa: B017, PT011  (whatever the primitives raise)
        opened(token[1:-1], key_of(kind, 6))


def test_each_caller_gets_tokens_of_its_own():
    field = FieldJwe((RSA, EC), "caller")
    tokens = []
    for kind in ("p256", "rsa2048"):
        identity, key = with_certificate(kind)
        token = answered(SSN, identity, format="jwe", jwe=field)
        assert opened(token[1:-1], key) == SSN
        tokens.append(token)
    with pytest.raises(Exception):  # noqa: B017, PT011
        opened(tokens[0][1:-1], key)


@pytest.mark.parametrize(
    ("kind", "usages"), [("p256", ["digital_signature"]), ("rsa2048", ["digital_signature"]), ("ed25519", [])]
)
def test_nothing_is_sent_to_a_caller_whose_certificate_is_not_for_encryption(kind, usages):
    identity, _ = with_certificate(kind, *usages)
    assert answered(SSN, identity, format="jwe", jwe=TO_CALLER) == UNSEALED
    answer = response(
        [place("$.ssn", response="encrypt", format="jwe", jwe="caller")],
        b'{"ssn":%s}' % SSN,
        within=exchange(identity=identity, jwes={"ssn": TO_CALLER}),
    )
    assert (answer.code, answer.pieces) == ("seal_failed", [])


def test_who_has_no_certificate_gets_nothing():
    assert answered(SSN, None, format="jwe", jwe=TO_CALLER) == UNSEALED
    refused = asked(SSN, action="encrypt", format="jwe", jwe=TO_CALLER)
    assert refused == Refusal("certificate_missing", "$.ssn")


def test_a_response_for_one_caller_is_not_for_caches():
    identity, _ = with_certificate("p256")
    for jwe, private in (("caller", True), ("ring", False)):
        answer = response(
            [place("$.ssn", response="encrypt", format="jwe", jwe=jwe)],
            b'{"ssn":%s}' % SSN,
            within=exchange(identity=identity, jwes={"ssn": TO_CALLER}),
        )
        assert (b"private" in b"".join(answer.values(b"cache-control"))) is private


# Sealed to us.


def test_what_callers_seal_to_us_is_opened_for_the_app(ours):
    token = sealed_to_us(SSN)
    for field in ({"format": "jwe"}, {"also_open": ("jwe",)}):
        assert asked(token, jwe=ours, **field) == SSN
    opened_here = request(
        [place("$.ssn", request="decrypt", also_open=("jwe",), jwe="files")],
        b'{"n":1.10,"ssn":%s}' % token,
        within=exchange(jwes={"ssn": ours}),
    )
    assert opened_here.body == b'{"n":1.10,"ssn":"078-05-1120"}'
    # The field's own tokens stay what they were, and a token of ours is none that was sealed to us.
    assert asked(seal(SSN), also_open=("jwe",), jwe=ours) == SSN
    assert asked(seal(SSN, format="jwe"), also_open=("jwe",), jwe=ours) == UNDECRYPTABLE


@pytest.mark.parametrize(
    "told", [{"secmw.field": "iban"}, {"secmw.ring": "other"}, {"secmw.purpose": "x"}, {"secmw.tenant": "a"}]
)
def test_what_was_sealed_to_us_for_something_else_is_not_opened(ours, told):
    assert asked(sealed_to_us(SSN, **told), format="jwe", jwe=ours) == UNDECRYPTABLE


def test_what_was_sealed_to_us_for_another_caller_is_not_opened(ours):
    token = sealed_to_us(SSN, **{"secmw.caller": "spiffe://a.example/x"})
    field = {"format": "jwe", "jwe": ours, "bind": "caller"}
    assert asked(token, within=exchange(identity=caller("spiffe://a.example/x")), **field) == SSN
    assert asked(token, within=exchange(identity=caller("spiffe://a.example/y")), **field) == UNDECRYPTABLE
    assert asked(token, format="jwe", jwe=ours) == UNDECRYPTABLE


@pytest.mark.parametrize("value", [b"", b"1,2", b'"a","b":1', b"{", b"\xff", b'"\xff"', b"NaN"])
def test_what_is_no_json_value_is_not_put_into_the_body(ours, value):
    assert asked(sealed_to_us(value), format="jwe", jwe=ours) == UNDECRYPTABLE


def test_a_key_of_ours_is_told_where_the_token_names_it(ours):
    (key,) = ours.keys
    for told, kids in (({"kid": key.kid}, {key.kid}), ({}, set())):
        work = ValueWork(exchange(jwes={"ssn": ours}))
        rule = place("$.ssn", request="decrypt", format="jwe", jwe="files")
        assert work.on_request(rule, sealed_to_us(SSN, **told), "$.ssn") == SSN
        assert (work.report.opened, work.report.kids) == (1, kids)


def test_without_a_ring_nothing_is_sealed_or_opened(ours):
    # Its name is in every token.
    unread = exchange(ring=None)
    assert asked(sealed_to_us(SSN), within=unread, format="jwe", jwe=ours).code == "key_unknown"


def test_a_field_without_a_recipient_seals_nothing(ours):
    assert answered(SSN, format="jwe", jwe=ours) == UNSEALED


def test_a_context_is_the_same_for_every_format():
    assert Context("ssn", format="jwe").slots == Context("ssn").slots
