"""Digests in headers: what fits, what does not, and what is made anew."""

import contextlib
import hashlib
from base64 import b64encode

import pytest
from fields.flowing import JSON, exchange, place, request, response, seal
from hypothesis import given, settings
from hypothesis import strategies as st

from secmiddleware.fields.digests import DigestMismatch, verify_digests, with_digests_of, without_digests

PROPERTY = settings(max_examples=200, deadline=None)


def of(algorithm, body):
    return b64encode(hashlib.new(algorithm.replace("-", ""), body).digest())


def said(algorithm, body):
    return algorithm.encode() + b"=:" + of(algorithm, body) + b":"


# RFC 9530 §2 and appendix B: digests that others have made.
@pytest.mark.parametrize(
    ("body", "value"),
    [
        (b'{"hello": "world"}\n', b"sha-256=:RK/0qy18MlBSVnWgjwz6lZEWjP/lF5HF9bvEF8FabDg=:"),
        (
            b'{"hello": "world"}\n',
            b"sha-512=:YMAam51Jz/jOATT6/zvHrLVgOYTGFy1d6GJiOHTohq4yP+pgk4vf2aCsyRZOtw8MjkM7iw7yZ/WkppmM44T3qg==:",
        ),
        (b'{"hello": "world"}', b"sha-256=:X48E9qOokqqrvdts8nOJRJN3OWDUoyWxBf7kbu9DBPE=:"),
        (b"", b"sha-256=:47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=:"),
    ],
)
def test_digests_of_the_rfc_fit(body, value):
    for name in (b"content-digest", b"repr-digest"):
        verify_digests(((name, value),), body)
        with pytest.raises(DigestMismatch, match=name.decode()):
            verify_digests(((name, value),), body + b" ")


ORDERS = st.permutations(["sha-256", "sha-512", "x"])
PARAMETERS = st.sampled_from([b"", b";a", b';a=1;*b="c,=:\\""'])


@given(st.binary(), ORDERS, st.booleans(), PARAMETERS)
@PROPERTY
def test_what_is_made_anew_fits_and_keeps_its_order(body, order, apart, parameters):
    members = [(said(name, b"old") if name != "x" else b"x=:AA==:") + parameters for name in order]
    values = members if apart else [b" ,\t".join(members)]
    headers = tuple((b"content-digest", value) for value in values)
    made = with_digests_of((*headers, (b"x-a", b"1"), (b"content-md5", b"AA"), (b"digest", b"x")), body)
    verify_digests(made, body)
    known = b", ".join(said(name, body) for name in order if name != "x")
    assert made == ((b"content-digest", known), (b"x-a", b"1"))
    assert with_digests_of(made, body) is made


def test_headers_without_a_digest_stay_the_same_object():
    headers = (*JSON, (b"want-repr-digest", b"sha-256=1"), (b"signature-input", b'sig=("content-digest")'))
    assert with_digests_of(headers, b"x") is headers
    assert without_digests(headers) == headers


GOOD = said("sha-256", b"x")


@pytest.mark.parametrize(
    "value",
    [
        *(b"", b",", b"sha-256", b"sha-256=", b"sha-256=::", b"sha-256=:AAAA:", b"sha-256=:!:", b"=:AAAA:"),
        *(GOOD + b",", b"," + GOOD, GOOD[:-1], GOOD.replace(b":", b'"'), GOOD + b" " + GOOD, GOOD + b"x"),
        *(GOOD.upper(), b"SHA-256" + GOOD[7:], b"sha-256 =" + GOOD[8:], GOOD + b";", GOOD + b";A=1"),
        *(GOOD.replace(b"=:", b"=:=", 1), GOOD + b", md5", GOOD + b", md5=1", GOOD + b', md5="AAAA"'),
        *(GOOD + b", " + said("sha-256", b"y"), said("sha-256", b"y") + b", " + GOOD),
        *(GOOD + b", " + said("sha-512", b"y"), b"md5=:A:", b"md5=:AA:", GOOD + b"\x00", b"\xff" + GOOD),
    ],
)
def test_a_digest_that_does_not_fit_or_cannot_be_read_is_no_digest_of_the_body(value):
    for name in (b"content-digest", b"repr-digest"):
        with pytest.raises(DigestMismatch, match=name.decode()):
            verify_digests(((name, value),), b"x")


@given(st.binary(max_size=80))
@PROPERTY
def test_whatever_a_digest_says_it_is_judged(value):
    headers = ((b"repr-digest", value),)
    with contextlib.suppress(DigestMismatch):
        verify_digests(headers, b"x")
    assert with_digests_of(headers, b"x") in ((), headers, ((b"repr-digest", GOOD),))


def test_hostile_digests_are_read_in_linear_time():
    body = bytes(4 << 20)
    thousand = b", ".join([said("sha-512", body)] * 1000)
    verify_digests(((b"content-digest", thousand),), body)  # hashed once
    parameters = (b";a" * 100_000 + b"!", b';a="' + b"\\" * 200_000)
    for value in (b"a" * 200_000, b"a=:" + b"A" * 200_000, *(b"a=:AA==:" + said for said in parameters)):
        with pytest.raises(DigestMismatch):
            verify_digests(((b"content-digest", value),), b"x")


DECRYPT = [place("$.ssn", request="decrypt")]


def test_nothing_is_opened_of_a_body_that_is_not_the_one_that_was_sent():
    body = b'{"ssn":%s}' % seal("1")
    for name in (b"content-digest", b"repr-digest"):
        within = exchange()
        sent = request(DECRYPT, body, headers=(*JSON, (name, said("sha-256", b"another"))), within=within)
        assert (sent.code, sent.refusal.where) == ("payload_malformed", name.decode())
        assert within.opened == []
    good = request(DECRYPT, body, headers=(*JSON, (b"content-digest", said("sha-512", body))))
    assert good.values(b"content-digest") == [said("sha-512", b'{"ssn":1}')]


def test_a_digest_of_a_body_without_a_hit_stays_as_it_was():
    body = b'{"x":1}'
    value = b"sha-256=:%s:;x=1, md5=:AAAA:" % of("sha-256", body)
    assert request(DECRYPT, body, headers=((b"repr-digest", value),)).values(b"repr-digest") == [value]


def test_what_leaves_fits_its_digests():
    places = [place("$.ssn", response="encrypt")]
    body = b'{"ssn":"078-05-1120"}'
    headers = (*JSON, (b"content-digest", said("sha-256", body)), (b"repr-digest", said("sha-512", body)))
    answer = response(places, body, headers=headers)
    assert answer.body != body
    verify_digests(answer.headers, answer.body)
    assert [value[:8] for value in answer.values(b"content-digest")] == [b"sha-256="]
    assert [value[:8] for value in answer.values(b"repr-digest")] == [b"sha-512="]
    assert of("sha-256", body) not in b"".join(value for _, value in answer.headers)
