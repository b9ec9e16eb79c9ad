"""Headers that speak of a client certificate: none reaches an app, in any spelling, and nothing else goes."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from secmiddleware.identity.certificate_headers import (
    _USUAL,
    CERTIFICATE_HEADERS,
    is_certificate_header,
    strip,
)
from secmiddleware.identity.presets import PRESETS

FAMILIES_WORDS = """
x-ssl-client-cert x-ssl-client-verify x-ssl-client-used x-ssl-client-chain-der x-ssl-client-cert-chain-0
x-ssl-client x-ssl-client-s-dn x-ssl-client-anything x-ssl-cert x-ssl-issuer x-ssl-subject x-ssl-verified
x-ssl-my-client-cert ssl-client-cert ssl-client-verify ssl-client-subject-dn ssl-cert client-cert
client-cert-chain client-verify x-client-cert x-client-cert-leaf x-client-cert-present
x-client-cert-der-base64 x-client-certificate x-client-verify x-client-verified x-client-subject
x-client-issuer x-client-serial x-client-san-uris x-client-fingerprint x-clientcert x-forwarded-client-cert
x-forwarded-client-cert-chain x-forwarded-tls-client-cert x-forwarded-tls-client-cert-info
x-amzn-mtls-clientcert x-amzn-mtls-clientcert-leaf x-amzn-mtls-clientcert-subject x-arr-clientcert
cf-client-cert-der-base64 cf-client-cert-sha256 cf-cert-verified cf-cert-revoked cf-cert-presented
cf-cert-subject-dn cloudfront-viewer-cert-pem cloudfront-viewer-cert-subject tls-client-cert
x-tls-client-cert x-mtls-subject
"""
FAMILIES = FAMILIES_WORDS.split()

ORDINARY_WORDS = """
host accept accept-encoding connection content-type content-length cookie user-agent authorization client
client-ip client-id x-forwarded-for x-forwarded-proto x-forwarded-host x-forwarded-ssl x-forwarded-client
x-forwarded-clien x-request-id x-client-id x-client-ip x-client-version x-client x-ssl x-ssl-protocol
x-ssl-cipher x-amzn-trace-id x-amzn-tls-version x-arr-log-id x-arr-ssl cf-ray cf-connecting-ip cf-visitor
cloudfront-viewer-country ssl tls x c cf clientcert x-cert x- x-s x-ssl- x-certificate traceparent
x-amz-date ssl-clien x-real-ip x-csrf-token
"""
ORDINARY = ORDINARY_WORDS.split()


def spellings(name: str) -> set[bytes]:
    first = name.replace("-", "_", 1)
    last = name[::-1].replace("-", "_", 1)[::-1]
    return {spelled.encode() for spelled in (name, name.replace("-", "_"), first, last)}


@pytest.mark.parametrize("name", FAMILIES)
def test_what_speaks_of_a_client_certificate_goes_in_every_spelling(name: str) -> None:
    for spelled in spellings(name):
        assert is_certificate_header(spelled), spelled
        assert strip(((b"host", b"x"), (spelled, b"y"), (b"accept", b"z"))) == (
            (b"host", b"x"),
            (b"accept", b"z"),
        )


@pytest.mark.parametrize("name", ORDINARY)
def test_what_does_not_stays(name: str) -> None:
    for spelled in spellings(name):
        assert not is_certificate_header(spelled), spelled


def test_every_header_that_a_preset_reads_by_its_usual_name_goes() -> None:
    for preset in PRESETS.values():
        for name in preset.names:
            assert is_certificate_header(name), name
            assert is_certificate_header(name.replace(b"-", b"_")), name


def test_headers_of_which_nothing_goes_are_the_same_object() -> None:
    headers = tuple((name.encode(), b"x") for name in ORDINARY)
    assert strip(headers) is headers
    assert strip(headers, frozenset({b"x-not-there"})) is headers
    empty = ()
    assert strip(empty) is empty


def test_names_that_the_operator_chose_go_in_both_spellings() -> None:
    also = PRESETS["nginx"].named({"certificate": "x-peer"}).names
    headers = (
        (b"x-peer", b"1"),
        (b"x_peer", b"2"),
        (b"x-peers", b"3"),
        (b"x-ssl-client-verify", b"4"),
        (b"a", b"5"),
    )
    assert strip(headers, also) == ((b"x-peers", b"3"), (b"a", b"5"))
    assert strip(headers[:3]) is not headers
    assert strip(headers[:3]) == headers[:3]


name_bytes = st.binary(max_size=20) | st.sampled_from(FAMILIES + ORDINARY).map(str.encode)


@given(name=st.tuples(name_bytes, st.binary(max_size=6)).map(b"".join))
def test_a_name_is_of_a_family_if_it_begins_like_one(name: bytes) -> None:
    hyphened = name.replace(b"_", b"-")
    expected = hyphened.startswith(CERTIFICATE_HEADERS) or (
        hyphened.startswith(b"x-ssl-") and b"client" in hyphened
    )
    assert is_certificate_header(name) is expected


@given(st.lists(st.tuples(name_bytes, st.binary(max_size=5)), max_size=8).map(tuple))
def test_what_stays_keeps_its_order_and_its_duplicates(headers: tuple[tuple[bytes, bytes], ...]) -> None:
    assert strip(headers) == tuple(pair for pair in headers if not is_certificate_header(pair[0]))


def test_a_header_costs_little_and_a_long_one_no_more_than_its_length() -> None:
    headers = tuple((name.encode(), b"x") for name in ORDINARY)
    took = []
    for _ in range(20):
        began = time.thread_time()
        for _ in range(20):
            strip(headers)
        took.append((time.thread_time() - began) / 20 / len(headers))
    assert min(took) < 2e-6  # some 0.1 us
    for name in (b"x-ssl-" + b"c" * 1_000_000, b"_" * 1_000_000, b"x-cl" + b"_" * 1_000_000):
        began = time.thread_time()
        assert not is_certificate_header(name)
        assert time.thread_time() - began < 0.5


@pytest.mark.parametrize("name", [b"x-our-own", b"x_our_own", b"x-our_own"])
def test_a_name_that_only_these_settings_give_a_proxy_goes_where_nothing_else_does(name: bytes) -> None:
    headers = ((b"host", b"x"), (name, b"y"))
    assert strip(headers, frozenset({b"x-our-own"})) == headers[:1]
    assert strip(headers) is headers


@given(
    st.lists(
        st.sampled_from([*FAMILIES, *ORDINARY]).flatmap(lambda name: st.sampled_from([*spellings(name)]))
    )
)
def test_what_goes_is_what_speaks_of_a_certificate_whatever_stands_beside_it(names: list[bytes]) -> None:
    headers = tuple((name, b"x") for name in names)
    assert strip(headers) == tuple(pair for pair in headers if not is_certificate_header(pair[0]))


def test_no_usual_header_speaks_of_a_certificate() -> None:
    assert _USUAL
    assert not any(map(is_certificate_header, _USUAL))
