"""JWE: what is sealed opens here and elsewhere, and nothing else does, however it was made."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zlib
from dataclasses import replace
from functools import cache
from types import SimpleNamespace

import pytest
from certificates.shapes import key_of, make, usage
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from encryption.jose import b64u, compact, header_of, jwk_of, opened, to_ec, to_rsa
from encryption.rings import DELAY, RETIRE, RING, Clock, manager_of, tended
from hypothesis import given, settings
from hypothesis import strategies as st

from secmiddleware.encryption.derivation import JWE_DIRECT, derive
from secmiddleware.encryption.jwe import LONGEST_HEADER, DirectJwe, FieldJwe, kid_of_jwe, read_header
from secmiddleware.encryption.jwe_keys import load_opening_keys, load_sealing_key
from secmiddleware.encryption.keyring import Context
from secmiddleware.encryption.tokens import format_of
from secmiddleware.errors import KeyUnknown, SealError, TokenError
from secmiddleware.rotation.stores import MemoryStore

VALUE = b'"4111 1111 1111 1111"'
CARD = Context("card", format="jwe")
FOR_CARD = {"secmw.ring": RING, "secmw.field": "card", "secmw.purpose": "field"}
RSA, EC = "RSA-OAEP-256", "ECDH-ES+A256KW"
SECRET = bytes(range(100, 132))

SHARED = manager_of(MemoryStore(), Clock())
SHARED.start()
DIRECT = DirectJwe(RING, "00c0ffee", SECRET)
CEK = derive(SECRET, JWE_DIRECT)
TO_RING = {"alg": "dir", "enc": "A256GCM", "kid": "00c0ffee", **FOR_CARD}

some_text = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
thorough = settings(deadline=None, max_examples=150)


@pytest.fixture(scope="session")
def pair(tmp_path_factory):
    """A private key of a kind as we have it, and its public half as who seals to us has it."""
    folder = tmp_path_factory.mktemp("pairs")

    @cache
    def made(kind, number=0):
        private = key_of(kind, number)
        ours, theirs = folder / f"{kind}-{number}.key", folder / f"{kind}-{number}.pem"
        ours.write_bytes(private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        ours.chmod(0o600)
        theirs.write_bytes(private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
        return SimpleNamespace(
            private=private,
            public=private.public_key(),
            ours=load_opening_keys(ours, "")[0],
            theirs=load_sealing_key(theirs, ""),
        )

    return made


@pytest.fixture(scope="session")
def field_of(pair):
    """A field that is sealed to one key of a kind, and opens with it."""

    @cache
    def made(kind):
        keys = pair(kind)
        return FieldJwe((keys.ours.algorithm,), keys.theirs, (keys.ours,))

    return made


KINDS = ["rsa2048", "p256", "p384", "p521"]


def refused(work):
    with pytest.raises(TokenError) as error:
        work()
    assert str(error.value) == "the token does not open here"
    assert not isinstance(error.value, KeyUnknown)


# There and back.


@given(st.binary(max_size=200), some_text, some_text, some_text)
@thorough
def test_what_the_ring_seals_it_opens_for_the_same_and_for_nobody_else(value, field, tenant, caller):
    context = Context(field, tenant=tenant, caller=caller, format="jwe")
    token = SHARED.keyring.seal(value, context, SHARED._clock())
    assert format_of(token) == "jwe"
    assert SHARED.keyring.open(token, context, SHARED._clock()) == value
    for other in (
        replace(context, field=field + "x"),
        replace(context, purpose="other"),
        replace(context, tenant=tenant + "x"),
        replace(context, caller=caller + "x"),
        replace(context, tenant=caller + "y", caller=tenant),
    ):
        refused(lambda other=other: SHARED.keyring.open(token, other, SHARED._clock()))


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_sealed_to_a_key_opens_with_it_here_and_elsewhere(field_of, pair, kind):
    field = field_of(kind)
    for value in (VALUE, b"", b"1.10", os.urandom(300)):
        token = field.seal(value, CARD, RING, None)
        assert field.open(token, CARD, RING) == value
        assert opened(token, pair(kind).private) == value
    header = header_of(token)
    assert header.pop("epk", {}).keys() <= {"kty", "crv", "x", "y"}
    named = pair(kind).ours.kid
    assert header == {"alg": field.algorithms[0], "enc": "A256GCM", "kid": named, **FOR_CARD}
    assert kid_of_jwe(token) == named


def test_no_two_tokens_of_one_value_are_alike(field_of):
    for kind in KINDS:
        assert len({field_of(kind).seal(VALUE, CARD, RING, None) for _ in range(5)}) == 5
    assert len({DIRECT.seal(VALUE, CARD) for _ in range(5)}) == 5


def test_what_others_seal_by_hand_opens(field_of, pair):
    assert opened(DIRECT.seal(VALUE, CARD), CEK) == VALUE
    token = compact(TO_RING, CEK, VALUE)
    assert DIRECT.open(token, header_of(token), CARD) == VALUE
    header = {"alg": RSA, "enc": "A256GCM", **FOR_CARD}
    assert field_of("rsa2048").open(to_rsa(header, pair("rsa2048").public, VALUE), CARD, RING) == VALUE
    header = {"alg": EC, "enc": "A256GCM", **FOR_CARD, "apu": b64u(b"Alice"), "apv": b64u(b"Bob")}
    for kind in KINDS[1:]:
        assert field_of(kind).open(to_ec(header, pair(kind).public, VALUE), CARD, RING) == VALUE


def test_a_value_beyond_the_limits_of_joserfc_is_sealed_and_opened(field_of):
    large = b'"' + b"x" * (1 << 20) + b'"'
    for kind in ("rsa2048", "p256"):
        assert field_of(kind).open(field_of(kind).seal(large, CARD, RING, None), CARD, RING) == large
    assert (
        SHARED.keyring.open(SHARED.keyring.seal(large, CARD, SHARED._clock()), CARD, SHARED._clock()) == large
    )


# The ring's keys.


def test_a_token_under_the_ring_names_its_key_and_outlives_its_rotation(manager, clock):
    token = manager.seal("card", VALUE, format="jwe")
    (first,) = manager.keyring.keys
    assert kid_of_jwe(token.encode()) == first.kid
    manager.rotate()
    clock.forward(DELAY)
    assert kid_of_jwe(manager.seal("card", VALUE, format="jwe").encode()) != first.kid
    assert manager.open("card", token, format="jwe") == VALUE
    clock.forward(RETIRE)
    refused(lambda: manager.open("card", token, format="jwe"))
    manager.destroy(first.kid)
    refused(lambda: manager.open("card", token, format="jwe"))


def test_a_key_that_is_not_known_is_told_apart_and_one_that_cannot_be_is_not(manager):
    header = {**TO_RING, "kid": "00c0ffee"}
    with pytest.raises(KeyUnknown):
        manager.open("card", compact(header, CEK, VALUE), format="jwe")
    for kid in ("", "00C0FFEE", "00c0ffee0", "x" * 8, "00c0ffee\n"):
        refused(
            lambda kid=kid: manager.open("card", compact({**header, "kid": kid}, CEK, VALUE), format="jwe")
        )
    del header["kid"]
    refused(lambda: manager.open("card", compact(header, CEK, VALUE), format="jwe"))


def test_each_token_under_the_ring_takes_a_use(make):
    manager = tended(make, first_block=2)
    for _ in range(2):
        manager.seal("card", VALUE, format="jwe")
    with pytest.raises(SealError, match="spent"):
        manager.seal("card", VALUE, format="jwe")


def test_the_subkey_is_for_nothing_else(manager):
    token = manager.seal("card", VALUE, format="jwe")
    for other in ("aead", "xaes", "deterministic", "fernet"):
        refused(lambda other=other: manager.open("card", token, format=other))
        sealed = manager.seal("card", VALUE, format=other)
        refused(lambda sealed=sealed: manager.open("card", sealed, format="jwe"))


# What a token is for is read once it is authentic.


FOR_OTHERS = [
    {"secmw.ring": "others"},
    {"secmw.field": "iban"},
    {"secmw.purpose": "backup"},
    {"secmw.tenant": "spiffe://example.org"},
    {"secmw.caller": "spiffe://example.org/shop"},
    {"secmw.field": None},
    {"secmw.field": ["card"]},
    {"secmw.tenant": None},
    {"secmw.caller": 0},
]


@pytest.mark.parametrize("told", FOR_OTHERS, ids=str)
def test_a_good_token_that_is_for_something_else_does_not_open(field_of, pair, told):
    token = compact({**TO_RING, **told}, CEK, VALUE)
    refused(lambda: DIRECT.open(token, header_of(token), CARD))
    header = {"enc": "A256GCM", **FOR_CARD, **told}
    token = to_rsa({"alg": RSA, **header}, pair("rsa2048").public, VALUE)
    refused(lambda: field_of("rsa2048").open(token, CARD, RING))
    token = to_ec({"alg": EC, **header}, pair("p256").public, VALUE)
    refused(lambda: field_of("p256").open(token, CARD, RING))


@pytest.mark.parametrize("missing", FOR_CARD)
def test_a_token_that_does_not_say_what_it_is_for_does_not_open(field_of, pair, missing):
    header = {"alg": RSA, "enc": "A256GCM", **FOR_CARD}
    del header[missing]
    token = to_rsa(header, pair("rsa2048").public, VALUE)
    refused(lambda: field_of("rsa2048").open(token, CARD, RING))


def test_what_is_bound_opens_for_whom_it_is_bound_to(field_of):
    bound = replace(CARD, tenant="spiffe://a.example", caller="spiffe://a.example/x")
    token = field_of("p256").seal(VALUE, bound, RING, None)
    assert header_of(token)["secmw.caller"] == "spiffe://a.example/x"
    assert field_of("p256").open(token, bound, RING) == VALUE
    for other in (CARD, replace(bound, tenant=""), replace(bound, caller="spiffe://a.example/y")):
        refused(lambda other=other: field_of("p256").open(token, other, RING))


def test_a_header_with_another_field_put_in_does_not_open(field_of):
    token = field_of("rsa2048").seal(VALUE, replace(CARD, field="iban"), RING, None)
    header = {**header_of(token), "secmw.field": "card"}
    changed = b64u(json.dumps(header).encode()).encode() + token[token.index(b".") :]
    refused(lambda: field_of("rsa2048").open(changed, CARD, RING))


# Algorithms, compression, extensions, and headers that are read in two ways.


@pytest.mark.parametrize(
    "told",
    [
        {"alg": "none"},
        {"alg": "RSA1_5"},
        {"alg": "RSA-OAEP"},
        {"alg": "dir"},
        {"alg": EC},
        {"alg": "rsa-oaep-256"},
        {"alg": [RSA]},
        {"alg": None},
        {"alg": {}},
        {"enc": "A128GCM"},
        {"enc": "A256CBC-HS512"},
        {"enc": ["A256GCM"]},
        {"enc": None},
        {"zip": "DEF"},
        {"zip": None},
        {"crit": ["secmw.field"]},
        {"crit": []},
        {"crit": None},
        {"kid": 7},
        {"kid": None},
    ],
    ids=str,
)
def test_a_good_token_that_says_otherwise_than_the_field_does_not_open(field_of, pair, told):
    header = {"alg": RSA, "enc": "A256GCM", **FOR_CARD}
    field, public = field_of("rsa2048"), pair("rsa2048").public
    assert field.open(to_rsa(header, public, VALUE), CARD, RING) == VALUE
    refused(lambda: field.open(to_rsa({**header, **told}, public, VALUE), CARD, RING))


@pytest.mark.parametrize(
    "told", [{"enc": "A128GCM"}, {"zip": "DEF"}, {"crit": []}, {"kid": 7}, {"kid": None}, {"alg": 7}], ids=str
)
def test_what_no_field_takes_is_refused_before_any_key_is_used(told):
    refused(lambda: read_header(compact({**TO_RING, **told}, CEK, VALUE)))


def test_an_encrypted_key_of_another_padding_does_not_open(field_of, pair):
    header = {"alg": RSA, "enc": "A256GCM", **FOR_CARD}
    sha1 = padding.OAEP(padding.MGF1(hashes.SHA1()), hashes.SHA1(), None)
    for pad in (padding.PKCS1v15(), sha1):
        refused(
            lambda pad=pad: field_of("rsa2048").open(
                to_rsa(header, pair("rsa2048").public, VALUE, pad), CARD, RING
            )
        )


def test_a_bomb_is_not_inflated(field_of, pair):
    compressor = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    bomb = compressor.compress(b"0" * (50 << 20)) + compressor.flush()
    header = {"alg": RSA, "enc": "A256GCM", "zip": "DEF", **FOR_CARD}
    refused(lambda: field_of("rsa2048").open(to_rsa(header, pair("rsa2048").public, bomb), CARD, RING))
    token = compact({**TO_RING, "zip": "DEF"}, CEK, bomb)
    refused(lambda: SHARED.open("card", token, format="jwe"))


@pytest.mark.parametrize(
    "text",
    [
        '{{"alg":"{0}","alg":"{0}",{1}}}',
        '{{"alg":"none","alg":"{0}",{1}}}',
        '{{"alg":"{0}",{1},"secmw.field":"card"}}',
        '{{"alg":"{0}","jwk":{{"kty":"a","kty":"b"}},{1}}}',
        '[{{"alg":"{0}",{1}}}]',
        '"{{{0}{1}}}"',
        '{{"alg":"{0}",{1},"n":NaN}}',
        '{{"alg":"{0}",{1}}} x',
        "\ufeff" + '{{"alg":"{0}",{1}}}',
        "",
    ],
)
def test_a_header_that_is_read_in_two_ways_or_in_none_does_not_open(field_of, pair, text):
    rest = json.dumps({"enc": "A256GCM", **FOR_CARD})[1:-1]
    good = f'{{ "alg" : "{RSA}" ,{rest}}}'
    assert field_of("rsa2048").open(to_rsa(good, pair("rsa2048").public, VALUE), CARD, RING) == VALUE
    bad = to_rsa(text.format(RSA, rest), pair("rsa2048").public, VALUE)
    refused(lambda: field_of("rsa2048").open(bad, CARD, RING))


# Keys: which one, and whose.


def test_a_token_opens_with_the_key_that_it_names_and_old_ones_with_the_old(pair):
    new, old, curve = pair("rsa2048"), pair("rsa2048", 1), pair("p256")
    field = FieldJwe((RSA, EC), new.theirs, (new.ours, old.ours, curve.ours))
    header = {"alg": RSA, "enc": "A256GCM", **FOR_CARD}
    for keys in (new, old):
        token = to_rsa({**header, "kid": keys.ours.kid}, keys.public, VALUE)
        assert field.open(token, CARD, RING) == VALUE
    for kid in (old.ours.kid, curve.ours.kid, "", "x"):
        refused(lambda kid=kid: field.open(to_rsa({**header, "kid": kid}, new.public, VALUE), CARD, RING))
    # Without a name, the only key of its algorithm, and of two none.
    refused(lambda: field.open(to_rsa(header, new.public, VALUE), CARD, RING))
    assert field.open(to_ec({**header, "alg": EC}, curve.public, VALUE), CARD, RING) == VALUE


def test_what_was_sealed_to_somebody_else_does_not_open(field_of, pair):
    header = {"alg": RSA, "enc": "A256GCM", **FOR_CARD}
    refused(lambda: field_of("rsa2048").open(to_rsa(header, pair("rsa2048", 1).public, VALUE), CARD, RING))
    header["alg"] = EC
    refused(lambda: field_of("p256").open(to_ec(header, pair("p256", 1).public, VALUE), CARD, RING))
    refused(lambda: field_of("p256").open(to_ec(header, pair("p384").public, VALUE), CARD, RING))


def test_a_public_key_is_no_secret_of_dir(pair):
    # Where one key were good for whatever a token says, anybody could use the public half as a secret.
    field = FieldJwe((RSA, EC), None, (pair("rsa2048").ours, pair("p256").ours))
    spki = pair("p256").public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    for cek in (spki[-32:], spki[:32], bytes(32)):
        token = compact({**TO_RING, "kid": pair("p256").ours.kid}, cek, VALUE)
        refused(lambda token=token: field.open(token, CARD, RING))


BROUGHT = {
    "jwk": ({"kty": "oct", "k": "AA"}, "garbage", 7, None, []),
    "jku": ("https://attacker.example/keys", "file:///etc/passwd", 7, None),
    "x5u": ("https://attacker.example/chain", {}, ""),
    "x5c": (["AAAA"], "AAAA", [7]),
    "x5t#S256": ("AAAA", 7),
    "typ": (7,),
    "cty": ([],),
    "unheard-of": ({"a": [1]},),
}


@pytest.mark.parametrize("name", BROUGHT)
def test_keys_that_a_header_brings_or_points_to_are_not_listened_to(field_of, pair, name):
    for value in BROUGHT[name]:
        header = {"alg": RSA, "enc": "A256GCM", **FOR_CARD, name: value}
        token = to_rsa(header, pair("rsa2048").public, VALUE)
        assert field_of("rsa2048").open(token, CARD, RING) == VALUE


def test_a_token_under_a_key_that_it_brings_does_not_open(field_of, pair):
    theirs = pair("p256", 7)
    header = {"alg": EC, "enc": "A256GCM", **FOR_CARD, "jwk": jwk_of(theirs.public)}
    refused(lambda: field_of("p256").open(to_ec(header, theirs.public, VALUE), CARD, RING))
    secret = os.urandom(32)
    brought = {**TO_RING, "jwk": {"kty": "oct", "k": b64u(secret)}}
    token = compact(brought, secret, VALUE)
    refused(lambda: DIRECT.open(token, header_of(token), CARD))


OTHER_CURVE = {"kty": "EC", "crv": "secp256k1", "x": b64u(b"\1" * 32), "y": b64u(b"\2" * 32)}


@pytest.mark.parametrize(
    "epk",
    [
        None,
        7,
        [],
        "",
        "x",
        {},
        {"kty": "EC", "crv": "P-256"},
        {"kty": "EC", "crv": "P-256", "x": 1, "y": 2},
        {"kty": "EC", "crv": "P-256", "x": "", "y": ""},
        {"kty": "EC", "crv": "P-256", "x": "!", "y": "\u00e9"},
        {"kty": "EC", "crv": "P-256", "x": b64u(bytes(32)), "y": b64u(bytes(32))},
        {"kty": "EC", "crv": "P-256", "x": b64u(b"\xff" * 32), "y": b64u(b"\xff" * 32)},
        {"kty": "EC", "crv": "P-256", "x": b64u(b"\1" * 1000), "y": b64u(b"\1" * 1000)},
        {"kty": "EC", "crv": "P-256K", "x": "AA", "y": "AA"},
        {"kty": ["EC"], "crv": "P-256", "x": "AA", "y": "AA"},
        {"kty": "EC", "crv": {}, "x": "AA", "y": "AA"},
        {"kty": "oct", "k": "AA"},
        {"kty": "OKP", "crv": "X25519", "x": b64u(bytes(32))},
        {"kty": "RSA", "n": "AQAB", "e": "AQAB"},
        OTHER_CURVE,
    ],
    ids=str,
)
def test_an_ephemeral_key_that_is_none_of_the_curve_does_not_open(field_of, pair, epk):
    header = {"alg": EC, "enc": "A256GCM", **FOR_CARD}
    token = to_ec(header, pair("p256").public, VALUE, epk=epk)
    refused(lambda: field_of("p256").open(token, CARD, RING))


def test_a_point_off_the_curve_or_of_another_one_does_not_open(field_of, pair):
    header = {"alg": EC, "enc": "A256GCM", **FOR_CARD}
    for public in (ec.generate_private_key(ec.SECP384R1()).public_key(), pair("p256", 3).public):
        epk = jwk_of(public)
        for wrong in (epk, {**epk, "crv": "P-256"}, {**epk, "y": epk["x"]}):
            token = to_ec(header, pair("p256").public, VALUE, epk=wrong)
            refused(lambda token=token: field_of("p256").open(token, CARD, RING))


def test_an_ephemeral_key_with_its_secret_half_of_another_kind_or_as_a_file_does_not_open(field_of, pair):
    # All would agree on the right key: joserfc takes them.
    header = {"alg": EC, "enc": "A256GCM", **FOR_CARD}
    ephemeral = ec.generate_private_key(ec.SECP256R1())
    pem = ephemeral.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
    secret = b64u(ephemeral.private_numbers().private_value.to_bytes(32, "big"))
    public = jwk_of(ephemeral.public_key())
    for epk in (pem, {**public, "d": secret}, {**public, "kty": "oct"}, {**public, "kty": "RSA"}):
        token = to_ec(header, pair("p256").public, VALUE, ephemeral, epk=epk)
        refused(lambda token=token: field_of("p256").open(token, CARD, RING))
    token = to_ec(header, pair("p256").public, VALUE, ephemeral)
    assert field_of("p256").open(token, CARD, RING) == VALUE


@pytest.mark.parametrize("told", [{"apu": 7}, {"apv": []}, {"apu": "!"}, {"apv": None}], ids=str)
def test_parties_that_are_no_text_do_not_open(field_of, pair, told):
    header = {"alg": EC, "enc": "A256GCM", **FOR_CARD}
    refused(lambda: field_of("p256").open(to_ec(header, pair("p256").public, VALUE, **told), CARD, RING))


# Damage.


def test_a_token_of_another_number_of_parts_or_lengths_does_not_open(field_of):
    for kind in ("rsa2048", "p256"):
        field = field_of(kind)
        parts = field.seal(VALUE, CARD, RING, None).split(b".")
        for wrong in (parts[:4], [*parts, b""], parts * 2, [parts[0]], [b""], [b""] * 5):
            refused(lambda wrong=wrong, field=field: field.open(b".".join(wrong), CARD, RING))
        for place in range(5):
            for part in (b"", parts[place][:-1], parts[place] + b"A", parts[place] * 2, parts[place][4:]):
                wrong = [*parts[:place], part, *parts[place + 1 :]]
                refused(lambda wrong=wrong, field=field: field.open(b".".join(wrong), CARD, RING))


def test_a_tag_that_is_shorter_does_not_open():
    head, key, iv, sealed, tag = DIRECT.seal(VALUE, CARD).split(b".")
    header = header_of(head)
    for length in range(22):
        short = b".".join((head, key, iv, sealed, tag[:length]))
        refused(lambda short=short: DIRECT.open(short, header, CARD))


def test_dir_has_no_encrypted_key():
    head, _, iv, sealed, tag = DIRECT.seal(VALUE, CARD).split(b".")
    refused(lambda: DIRECT.open(b".".join((head, b"AAAA", iv, sealed, tag)), header_of(head), CARD))


def test_a_token_in_another_spelling_does_not_open(field_of):
    token = field_of("p256").seal(b'"12"', CARD, RING, None)
    parts = token.split(b".")
    for place in range(5):
        for part in (parts[place] + b"=", parts[place] + b"\n", b" " + parts[place], parts[place] + b"!"):
            wrong = b".".join([*parts[:place], part, *parts[place + 1 :]])
            refused(lambda wrong=wrong: field_of("p256").open(wrong, CARD, RING))
    # The value has four bytes: the last sign spells two bits and four to spare.
    last = parts[3][-1:]
    for sign in b"ABCDEFGHIJKLMNOPQRSTUVWXYZ":
        if bytes([sign]) != last:
            wrong = b".".join([*parts[:3], parts[3][:-1] + bytes([sign]), parts[4]])
            refused(lambda wrong=wrong: field_of("p256").open(wrong, CARD, RING))


@given(st.integers(0, 1000), st.integers(1, 255))
@thorough
def test_a_token_with_a_byte_changed_does_not_open(place, change):
    token = bytearray(SHARED.keyring.seal(VALUE, CARD, SHARED._clock()))
    token[place % len(token)] ^= change
    with pytest.raises(TokenError):
        SHARED.keyring.open(bytes(token), CARD, SHARED._clock())


@given(st.one_of(st.binary(max_size=200), st.text("eyJ.AQ_-{}\x00", max_size=60).map(str.encode)))
@thorough
def test_whatever_is_no_token_does_not_open(data):
    with pytest.raises(TokenError):
        SHARED.keyring.open(data, CARD, SHARED._clock())


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=5,
)


@given(
    st.dictionaries(
        st.sampled_from(["alg", "enc", "kid", "epk", "apu", "zip", "crit", "jwk", "b64", "p2c", "iv", "tag"]),
        json_values,
    )
)
@thorough
def test_whatever_a_header_says_nothing_but_a_refusal_comes_of_it(told):
    header = {"alg": EC, "enc": "A256GCM", **FOR_CARD, **told, "secmw.field": "not this one"}
    field = FieldJwe((EC,), None, (LATE["ec"],))
    with pytest.raises(TokenError):
        field.open(to_ec_raw(header), CARD, RING)
    with pytest.raises(TokenError):
        SHARED.keyring.open(compact({**header, **told}, CEK, VALUE), CARD, SHARED._clock())


LATE = {}


@pytest.fixture(autouse=True, scope="session")
def _late(pair):
    """A property test takes no fixtures."""
    LATE["ec"], LATE["public"] = pair("p256").ours, pair("p256").public


def to_ec_raw(header):
    """A token to the key whose header is exactly this one, but for an `epk` where it has none."""
    return to_ec(
        {"alg": EC}, LATE["public"], VALUE, **{"epk": jwk_of(key_of("p256", 9).public_key()), **header}
    )


def test_a_header_beyond_the_limit_is_neither_read_nor_made(field_of, pair, monkeypatch):
    header = {"alg": RSA, "enc": "A256GCM", **FOR_CARD, "x": ""}
    header["x"] = "x" * (LONGEST_HEADER * 3 // 4 - len(json.dumps(header, separators=(",", ":"))))
    token = to_rsa(header, pair("rsa2048").public, VALUE)
    assert token.index(b".") == LONGEST_HEADER
    assert field_of("rsa2048").open(token, CARD, RING) == VALUE
    header["x"] += "x"
    refused(lambda: field_of("rsa2048").open(to_rsa(header, pair("rsa2048").public, VALUE), CARD, RING))
    with monkeypatch.context() as patch:
        patch.setattr("secmiddleware.encryption.jwe.decode_base64url", None)
        refused(lambda: read_header(b"A" * (LONGEST_HEADER + 1) + b"...."))
    long = replace(CARD, caller="x" * LONGEST_HEADER)
    for seal in (lambda: field_of("p256").seal(VALUE, long, RING, None), lambda: DIRECT.seal(VALUE, long)):
        with pytest.raises(SealError, match="too long"):
            seal()


def test_a_deep_header_does_not_open(field_of, pair):
    for levels in (64, 4000):
        deep = "[" * levels + "]" * levels
        text = json.dumps({"alg": RSA, "enc": "A256GCM", **FOR_CARD})[:-1] + f',"x":{deep}}}'
        token = to_rsa(text, pair("rsa2048").public, VALUE)
        refused(lambda token=token: field_of("rsa2048").open(token, CARD, RING))


# To the caller.


def certificate(kind, *usages):
    extensions = [(usage(*usages), True)] if usages else []
    return make(f"caller-{kind}", key=key_of(kind, 5), extensions=extensions)


@pytest.mark.parametrize(
    ("kind", "usages"),
    [
        ("rsa2048", ["digital_signature", "key_encipherment"]),
        ("rsa2048", []),
        ("p256", ["digital_signature", "key_agreement"]),
        ("p384", ["key_agreement", "decipher_only"]),
        ("p521", ["key_agreement"]),
        ("p256", []),
    ],
)
def test_the_caller_opens_what_is_sealed_to_its_certificate_and_nobody_else_does(kind, usages):
    made, field = certificate(kind, *usages), FieldJwe((RSA, EC), "caller")
    token = field.seal(VALUE, CARD, RING, made.der)
    assert opened(token, made.key) == VALUE
    with pytest.raises(Exception):  # noqa: B017, PT011  (whatever the primitives raise)
        opened(token, key_of(kind, 6))
    header = header_of(token)
    assert header["x5t#S256"] == b64u(made.certificate.fingerprint(hashes.SHA256()))
    assert "kid" not in header
    refused(lambda: field.open(token, CARD, RING))


@pytest.mark.parametrize(
    ("kind", "usages"),
    [
        ("rsa2048", ["digital_signature"]),
        ("rsa2048", ["key_agreement"]),
        ("rsa2048", ["data_encipherment"]),
        ("p256", ["digital_signature"]),
        ("p256", ["key_encipherment"]),
        ("p256", ["key_agreement", "encipher_only"]),
        ("ed25519", []),
        ("p224", []),
    ],
)
def test_nothing_is_sealed_to_a_certificate_that_is_not_for_it(kind, usages):
    made, field = certificate(kind, *usages), FieldJwe((RSA, EC), "caller")
    for _ in range(2):
        with pytest.raises(SealError, match="certificate"):
            field.seal(VALUE, CARD, RING, made.der)


def test_nothing_is_sealed_to_nobody_to_no_certificate_or_by_another_algorithm():
    curve, rsa = certificate("p256"), certificate("rsa2048")
    for field, der in (
        (FieldJwe((RSA, EC), "caller"), None),
        (FieldJwe((RSA, EC), "caller"), b""),
        (FieldJwe((RSA, EC), "caller"), curve.der[:-1]),
        (FieldJwe((RSA,), "caller"), curve.der),
        (FieldJwe((EC,), "caller"), rsa.der),
        (FieldJwe((RSA, EC)), curve.der),
    ):
        with pytest.raises(SealError):
            field.seal(VALUE, CARD, RING, der)


def test_many_callers_are_remembered_up_to_a_bound(monkeypatch):
    monkeypatch.setattr("secmiddleware.encryption.jwe._CALLERS_KEPT", 3)
    field = FieldJwe((EC,), "caller")
    made = [make(f"caller-{number}", key=key_of("p256", 5)) for number in range(5)]
    for one in made * 2:
        assert opened(field.seal(VALUE, CARD, RING, one.der), one.key) == VALUE
        assert len(field._callers) <= 3


# What is never told, and what is never loaded.


def test_no_field_is_made_of_keys_that_do_not_go_together(pair):
    rsa, curve = pair("rsa2048"), pair("p256")
    for arguments in (
        ((RSA,), curve.theirs),
        ((EC,), None, (rsa.ours,)),
        ((RSA,), None, (rsa.ours, rsa.ours)),
    ):
        with pytest.raises(ValueError, match="key"):
            FieldJwe(*arguments)


def test_no_secret_stands_in_what_is_shown(pair, field_of):
    shown = repr((DIRECT, field_of("p256"), pair("p256").ours, pair("p256").theirs))
    assert "object at" in shown  # of DIRECT, which shows nothing
    for secret in (
        CEK.hex(),
        b64u(CEK),
        b64u(pair("p256").private.private_numbers().private_value.to_bytes(32)),
    ):
        assert secret not in shown
    import pickle

    for secret in (DIRECT, pair("p256").ours):
        with pytest.raises(TypeError):
            pickle.dumps(secret)


def test_joserfc_is_not_loaded_before_a_token_needs_it():
    program = (
        "import sys, secmiddleware.security, secmiddleware.fields.values\n"
        "assert 'joserfc' not in sys.modules\n"
        "from secmiddleware.encryption.jwe import DirectJwe\n"
        "DirectJwe('a', '00000000', bytes(32))\n"
        "assert 'joserfc' in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
