"""What headers say of a body, and what becomes of them; what a table of media types cannot say."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from secmiddleware.fields.heads import (
    AmbiguousHeader,
    codings_of,
    declared_length,
    for_one_caller,
    for_readable_answer,
    that_vary_by_coding,
    with_length,
    without_codings,
    without_length,
    without_parts,
)
from secmiddleware.fields.media_types import media_type_of

NAMES = st.sampled_from(
    b"content-length transfer-encoding content-type etag range if-match if-range if-none-match accept-ranges "
    b"digest cache-control accept-encoding x-a x-b".split()
)
VALUES = st.sampled_from([b"1", b"*", b"identity", b"x", b""])
HEADERS = st.lists(st.tuples(NAMES, VALUES), max_size=8).map(tuple)
CHANGES = [
    lambda headers: with_length(headers, 1),
    without_length,
    without_codings,
    that_vary_by_coding,
    for_readable_answer,
    without_parts,
    for_one_caller,
]


@given(HEADERS)
@settings(max_examples=200, deadline=None)
def test_a_change_of_headers_keeps_the_order_of_the_rest_and_is_done_once(headers):
    for change in CHANGES:
        once = change(headers)
        names = [name for name, _ in once if name.startswith(b"x-")]
        assert names == [name for name, _ in headers if name.startswith(b"x-")]
        assert change(once) == once


@given(HEADERS)
@settings(max_examples=200, deadline=None)
def test_headers_that_need_no_change_stay_the_same_object(headers):
    for change in (lambda headers: with_length(headers, 1), that_vary_by_coding, for_readable_answer):
        assert (change(headers) is headers) == (change(headers) == headers)


@given(HEADERS, st.integers(0, 10**9))
@settings(max_examples=200, deadline=None)
def test_there_is_exactly_one_length(headers, length):
    changed = with_length(headers, length)
    assert [value for name, value in changed if name == b"content-length"] == [b"%d" % length]
    assert b"transfer-encoding" not in dict(changed)
    assert declared_length(changed) == length


def lengths(*values):
    return tuple((b"content-length", value) for value in values)


def test_a_declared_length_is_read():
    assert declared_length(()) is None
    assert declared_length(lengths(b"0")) == 0
    assert declared_length(lengths(b" 17\t", b"17")) == 17


@pytest.mark.parametrize(
    "values",
    [
        *([b"1", b"2"], [b"1", b"01"], [b"1,1"], [b"+1"], [b"-1"], [b"1.0"], [b"1_0"], [b""], [b"0x1"]),
        *([b"\xb2"], ["١".encode()], [b"1 1"], [b"9" * 19], [b"9" * 5000], [b"1\n"], [b"\x001"]),
    ],
)
def test_a_length_that_is_no_plain_number_is_ambiguous(values):
    with pytest.raises(AmbiguousHeader, match="content-length"):
        declared_length(lengths(*values))


def typed(*values, coding=()):
    types = ((b"content-type", value) for value in values)
    return (*types, *((b"content-encoding", value) for value in coding))


@pytest.mark.parametrize("quoted", [b'"a;b"', b'"a\\"; charset=utf-16"', b'""', b'"\xff"', b"!#$%&'*+.^_`|~"])
def test_a_parameter_may_be_quoted(quoted):
    assert media_type_of(typed(b"application/json; p=" + quoted)).kind == "json"
    assert media_type_of(typed(b"application/json; p=" + quoted + b"; charset=utf-16")).kind == "other"


@pytest.mark.parametrize(
    "bad", [b'"', b'"a', b'a"', b"a b", b'"a"b', b"=", b"(x)", b"\xff", b'"a\\"', b"a,b", b"{", b"\x7f"]
)
def test_a_parameter_that_some_would_read_otherwise_is_not_read(bad):
    assert media_type_of(typed(b"application/json; p=" + bad)).kind == "other"


def test_codings_are_told_in_their_order_less_identity():
    assert codings_of(typed(b"application/json", coding=[b"gzip"])) == (b"gzip",)
    assert codings_of(typed(coding=[b"identity, BR", b" x-gzip\t"])) == (b"br", b"x-gzip")
    assert codings_of(typed(coding=[b"", b" identity ,IDENTITY,"])) == ()


def test_types_that_differ_are_ambiguous_and_repeated_ones_are_not():
    with pytest.raises(AmbiguousHeader, match="content-type"):
        media_type_of(typed(b"application/json", b"application/json;charset=utf-8"))
    assert media_type_of(typed(b"application/json", b" application/json")).kind == "json"


@given(st.binary(max_size=60))
@settings(max_examples=200, deadline=None)
def test_whatever_a_type_says_it_is_judged(value):
    kind = media_type_of(typed(b"application/json" + value)).kind
    assert kind in ("json", "lines", "other")  # application/jsonl
    if b"," in value and b'"' not in value:
        assert kind == "other"


def test_hostile_parameters_are_read_in_linear_time():
    for value in (b";" * 200_000, b'; a="' + b"\\" * 200_000, b"; a=b" * 50_000, b" " * 200_000):
        assert media_type_of(typed(b"application/json" + value)).kind in ("json", "other")


@pytest.mark.parametrize(
    "values", [[b"Accept-Encoding"], [b"origin , ACCEPT-encoding"], [b"*"], [b"a", b"accept-encoding"]]
)
def test_what_says_already_that_it_varies_by_coding_stays(values):
    headers = tuple((b"vary", value) for value in values)
    assert that_vary_by_coding(headers) is headers
    assert that_vary_by_coding(((b"vary", b"x-accept-encoding"),))[-1] == (b"vary", b"Accept-Encoding")
