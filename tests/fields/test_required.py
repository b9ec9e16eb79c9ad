"""What a place requires of a request, and of what it requires nothing."""

from __future__ import annotations

import pytest
from fields.flowing import JSON, MAX_BODY, drive, exchange, place, request, response, seal

from secmiddleware.fields.head_marks import read_mark
from secmiddleware.fields.limits import Limits
from secmiddleware.fields.rules import FieldRule, PlaceRule, Plan
from secmiddleware.messages import Refusal, RequestHead

PLACES = [
    place("$.ssn", "$.people[*].ssn", request="encrypt", required=True),
    place("$.iban", request="encrypt", name="iban"),
]
WHOLE = b'{"people":[{},{"ssn":"a"}],"ssn":"b"}'


def sent(method, *chunks, places=PLACES, headers=JSON):
    """What becomes of a request of this method, without a length."""
    head = RequestHead("http", method, "https", "/customers", headers=headers)
    return drive(Plan.compile(places, Limits(MAX_BODY)).request_flow(exchange()), head, chunks)


def test_a_request_with_a_value_at_each_mark_goes_on():
    assert request(PLACES, WHOLE).refusal is None
    assert request(PLACES, b'{"ssn":null,"people":[{"ssn":""}]}').refusal is None


@pytest.mark.parametrize(
    ("body", "mark"),
    [
        (b"{}", "$.ssn"),
        (b"[]", "$.ssn"),
        (b'"ssn"', "$.ssn"),
        (b'{"iban":"x"}', "$.ssn"),
        (b'{"x":{"ssn":1},"people":[{"ssn":1}]}', "$.ssn"),
        (b'{"ssn":1}', "$.people[*].ssn"),
        (b'{"ssn":1,"people":[]}', "$.people[*].ssn"),
        (b'{"ssn":1,"people":[{"x":1}]}', "$.people[*].ssn"),
        (b'{"ssn":1,"people":"ssn"}', "$.people[*].ssn"),
    ],
)
def test_a_mark_without_a_value_is_named(body, mark):
    assert request(PLACES, body).refusal == Refusal("field_missing", mark)


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "QUERY", "MERGE", "post"])
def test_a_request_without_a_body_has_no_value_either(method):
    assert sent(method).refusal == Refusal("field_missing", "$.ssn")
    assert sent(method, headers=(*JSON, (b"content-length", b"0"))).code == "field_missing"


@pytest.mark.parametrize("streams", [True, False])
@pytest.mark.parametrize("kind", [b"application/x-ndjson", b"application/json-seq"])
def test_of_records_there_must_be_one(kind, streams):
    def code_of(method, *chunks):
        head = RequestHead("http", method, "https", "/customers", headers=((b"content-type", kind),))
        flow = Plan.compile(PLACES[:1], Limits(MAX_BODY)).request_flow(exchange(), streams=streams)
        return drive(flow, head, chunks).code

    assert code_of("POST") == code_of("POST", b"\n") == code_of("POST", b" \n", b"\n ") == "field_missing"
    assert code_of("GET") is None
    assert code_of("GET", b"\n") == "field_missing"
    separator = b"\x1e" if b"seq" in kind else b""
    assert code_of("POST", b"\n", separator + WHOLE, b"\n", b"\n") is None
    assert code_of("POST", b"\n", separator + b"{}") == "field_missing"


@pytest.mark.parametrize("method", ["GET", "HEAD", "DELETE", "OPTIONS"])
def test_of_a_method_that_brings_no_body_none_is_required_and_of_its_body_all_the_same(method):
    assert sent(method).refusal is None
    assert sent(method, b"{}").refusal == Refusal("field_missing", "$.ssn")


HEADS = [
    PlaceRule(FieldRule("ssn"), (read_mark(f"{part}:id"),), "decrypt", required=True)
    for part in ("header", "cookie", "query")
]
SEALED = seal('"12345"')[1:-1]


@pytest.mark.parametrize("method", ["GET", "POST", "DELETE"])
@pytest.mark.parametrize("one", HEADS, ids=lambda one: str(one.marks[0]))
def test_a_value_in_a_head_is_required_whatever_the_method(method, one):
    def sent_with(headers=(), query=b""):
        head = RequestHead("http", method, "https", "/customers", query=query, headers=(*JSON, *headers))
        return drive(Plan.compile([one], Limits(MAX_BODY)).request_flow(exchange()), head, ())

    whole = {"headers": ((b"id", SEALED), (b"cookie", b"id=" + SEALED)), "query": b"id=" + SEALED}
    assert sent_with(**whole).refusal is None
    others = {"headers": ((b"id2", SEALED), (b"cookie", b"i=" + SEALED)), "query": b"x=id&xid=1"}
    for lacking in ({}, others):
        assert sent_with(**lacking).refusal == Refusal("field_missing", str(one.marks[0]))


def test_a_preflight_brings_no_header_that_is_required_of_the_request_that_it_asks_for():
    assert sent("OPTIONS", places=HEADS).refusal is None


def test_where_a_value_is_missing_no_other_one_is_opened():
    places = [place("$.ssn", "$.other", request="decrypt", required=True)]
    within = exchange()
    body = b'{"ssn":%s}' % seal('"078-05-1120"')
    assert request(places, body, within=within).refusal == Refusal("field_missing", "$.other")
    assert within.opened == []
    spoiled = b'{"ssn":"plain"}'
    assert request(places, spoiled).refusal == Refusal("field_missing", "$.other")


def test_a_body_that_cannot_be_read_is_malformed_and_not_short_of_a_value():
    assert request(PLACES, b'{"ssn":').code == "payload_malformed"
    assert request(PLACES, b"ssn=1", headers=((b"content-type", b"text/plain"),)).code == "payload_encoding"


def test_of_a_response_nothing_is_required():
    places = [place("$.ssn", request="decrypt", response="encrypt", required=True)]
    assert response(places, b"{}").body == b"{}"
    assert response(places, b"").refusal is None


def test_nothing_can_be_required_of_a_request_that_passes():
    with pytest.raises(ValueError, match="passes"):
        place("$.ssn", response="encrypt", required=True)
