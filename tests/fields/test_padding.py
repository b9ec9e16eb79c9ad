"""Padding: that lengths are hidden, and that every value comes back byte for byte."""

from __future__ import annotations

import pytest
from fields.documents import value as random_value
from fields.flowing import NOW, RING, exchange, place, request, response, seal, unseal
from hypothesis import given
from hypothesis import strategies as st

from secmiddleware.encryption.kek import Kek
from secmiddleware.encryption.keyring import Context
from secmiddleware.encryption.manager import EncryptionManager
from secmiddleware.encryption.padding import padded, unpadded
from secmiddleware.fields.values import FieldRule, ValueWork
from secmiddleware.rotation.stores import MemoryStore

SSN = b'"078-05-1120"'
REVEALED = exchange(revealed={"ssn"})
SPACED = (b'"ends in spaces  "', b'"\\u0020"', b"[1, 2 ]", b'{ "a" : 1 }', b"1.10", b"null", b'""')


def sealed(value, **field):
    work = ValueWork(exchange())
    return work.on_request(place("$.ssn", request="encrypt", **field), value, "$.ssn")


def opened(token, **field):
    work = ValueWork(REVEALED)
    return work.on_response(place("$.ssn", response="decrypt", otherwise="mask", **field), token, "$.ssn")


@pytest.mark.parametrize("form", ["aead", "xaes", "fernet"])
@pytest.mark.parametrize("step", [2, 32, 4096])
def test_what_is_sealed_is_as_long_as_a_step_allows_and_comes_back_as_it_was(form, step):
    for value in SPACED:
        token = sealed(value, format=form, pad=step)
        assert len(unseal(token, format=form)) == -(-len(value) // step) * step
        assert opened(token, format=form) == value


def test_values_of_one_step_have_tokens_of_one_length():
    lengths = {len(sealed(b'"%s"' % (b"x" * length), pad=32)) for length in range(31)}
    assert len(lengths) == 1
    assert len({len(sealed(value, pad=32)) for value in (b"true", b"false", b"null", SSN)}) == 1
    assert len(sealed(b'"%s"' % (b"x" * 31), pad=32)) > lengths.pop()


@given(st.randoms(use_true_random=False), st.integers(0, 100))
def test_every_value_comes_back_byte_for_byte_through_bodies(random, step):
    # A value as it stands in a document: no white space round it.
    value = random_value(random, 3, narrow=False).strip().encode()
    places = [place("$.ssn", request="encrypt", response="decrypt", pad=step)]
    body = b'{"ssn": %s }' % value
    stored = request(places, body).body
    assert response(places, stored, within=REVEALED).body == body


@given(st.randoms(use_true_random=False), st.integers(0, 100))
def test_padding_can_be_told_from_the_value(random, step):
    value = random_value(random, 3, narrow=False).strip().encode()
    assert unpadded(padded(value, step)) == value
    assert padded(value, 0) == value


def test_a_token_without_padding_opens_where_there_is_some_and_the_reverse():
    assert opened(seal(SSN), pad=32) == SSN
    assert opened(sealed(SSN, pad=32)) == SSN
    assert opened(sealed(SSN, pad=32), pad=8) == SSN


def test_nothing_but_spaces_is_padding():
    for other in (b"\n", b"\t", b" \n"):
        assert opened(seal(SSN + other), pad=32) == SSN + other
    for other in (b"\x00", b" \x00", b"\x80", b"\xc2\xa0"):
        assert opened(seal(SSN + other), pad=32).code == "seal_failed"


def test_in_transit_the_app_sees_the_value_without_its_padding():
    places = [place("$.ssn", request="decrypt", response="encrypt", pad=32)]
    within = exchange()
    seen = request(places, b'{"ssn":%s}' % sealed(SSN, pad=32), within=within).body
    assert seen == b'{"ssn":%s}' % SSN
    assert within.opened == [("ssn", SSN)]
    assert len(unseal(response(places, seen, within=within).body[7:-1])) == 32


def test_an_app_finds_padded_values_by_their_tokens():
    manager = EncryptionManager(MemoryStore(), Kek(bytes(32)), "shop", clock=lambda: NOW)
    manager.start()
    field = {"format": "deterministic", "otherwise": "mask", "pad": 32}
    work = ValueWork(exchange(ring=manager.keyring))
    stored = work.on_request(place("$.ssn", request="encrypt", **field), SSN, "$.ssn")
    assert manager.equality_tokens("ssn", SSN, pad=32) == (stored[1:-1].decode(),)
    assert manager.seal("ssn", SSN, pad=32, format="deterministic") == stored[1:-1].decode()
    assert manager.equality_tokens("ssn", SSN) != manager.equality_tokens("ssn", SSN, pad=32)
    assert manager.equality_tokens("ssn", SSN, pad=64) != manager.equality_tokens("ssn", SSN, pad=32)


def test_padding_is_sealed_with_the_value():
    """Whoever cuts the padding off, or adds to it, has no token any more: there is nothing behind the tag."""
    token = sealed(SSN, pad=32)
    assert RING.open(token[1:-1], Context("ssn"), NOW) == SSN + b" " * 19
    assert opened(token[:-9] + b'"').code == "seal_failed"


@pytest.mark.parametrize(("pad", "count"), [(4096, 4098), (1024, 16_401)])
def test_padding_does_not_make_hundreds_of_megabytes_of_a_small_body(pad, count):
    body = b'{"ssn":[' + b",".join([b"1"] * count) + b"]}"
    marked = place("$.ssn[*]", request="encrypt", response="encrypt", pad=pad)
    refused = request([marked], body)
    assert (refused.code, refused.refusal.where) == ("payload_too_large", "fields.ssn.pad")
    assert response([marked], body).code == "seal_failed"
    assert request([marked], body.replace(b"1,", b"", 20)).code is None
    # What is opened, or is null, gets no longer.
    opening = place("$.ssn[*]", response="decrypt", pad=pad)
    assert response([opening], body.replace(b"1", b"null")).code is None


def test_texts_are_not_padded():
    with pytest.raises(ValueError, match="padding"):
        FieldRule("ssn", encoding="text", pad=32)
    # And of what a text ends in nothing is taken for padding.
    assert opened(seal(b"a  "), encoding="text") == b'"a  "'
