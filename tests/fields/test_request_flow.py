"""What becomes of a request with marks: opened or sealed for the app, or refused before the app sees it."""

import itertools
import json
import random

import pytest
from fields import documents, oracle
from fields.flowing import (
    JSON,
    MAX_BODY,
    caller,
    exchange,
    forged,
    is_no_token,
    place,
    request,
    seal,
    unseal,
    unsealed,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from secmiddleware.fields.json_rewriting import MAX_HITS
from secmiddleware.fields.limits import Limits
from secmiddleware.fields.rules import Plan
from secmiddleware.messages import Body, Head, Refusal, RequestHead

DECRYPT = [place("$.ssn", request="decrypt")]
ENCRYPT = [place("$.ssn", request="encrypt")]
PROPERTY = settings(max_examples=150, deadline=None)


def cut(body, places):
    """The body in pieces, cut at these places; empty pieces among them."""
    cuts = [0, *sorted(at % (len(body) + 1) for at in places), len(body)]
    return [body[start:end] for start, end in itertools.pairwise(cuts)]


def typed(*types):
    return tuple((b"content-type", value) for value in types)


def test_only_the_token_is_replaced_in_the_body_of_the_readme():
    body = b'{ "ssn" : %s, "n":1.10, "big":12345678901234567890.123 ,"d":1,"d":2}'
    sent = request(DECRYPT, body % seal('"078-05-1120"'))
    assert sent.body == body % b'"078-05-1120"'
    assert sent.values(b"content-length") == [str(len(sent.body)).encode()]


@pytest.mark.parametrize(
    "value",
    [
        "1.10",
        "12345678901234567890.123",
        "-0",
        "1E+400",
        "null",
        "true",
        '""',
        '"\\u0041\\/"',
        '{"a": [1,  2]}',
        '"é😀\\ud800"',
        "[ ]",
        '{"a":1,"a":2}',
    ],
)
def test_a_value_of_any_type_comes_back_byte_for_byte(value):
    token = request(ENCRYPT, b'{"ssn":' + value.encode() + b"}").body
    assert value.encode() not in token.removeprefix(b'{"ssn":') or len(value) < 5
    assert request(DECRYPT, token).body == b'{"ssn":' + value.encode() + b"}"


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(JSON_VALUES.filter(is_no_token), st.booleans())
@PROPERTY
def test_sealing_then_opening_is_the_identity(value, in_ascii):
    text = json.dumps({"ssn": value, "x": value}, ensure_ascii=in_ascii).encode("utf-8", "surrogatepass")
    if not oracle.is_json(text):
        return
    sealed = request(ENCRYPT, text).body
    assert sealed != text
    assert request(DECRYPT, sealed).body == text


@given(st.randoms(use_true_random=False))
@PROPERTY
def test_unmarked_bytes_stay_as_they_were(chance):
    marks = documents.marks(chance)
    places = [place(*map(str, marks), request="encrypt")]
    try:
        Plan.compile(places, Limits(MAX_BODY))
    except ValueError:
        return
    body = documents.document(chance)
    expected, position = b"", 0
    for start, end, _ in oracle.marked(body, marks)[0]:
        expected += body[position:start] + b"<" + body[start:end] + b">"
        position = end
    sent = request(places, body, duplicates="all")
    assert unsealed(sent.body) == expected + body[position:]
    assert [int(value) for value in sent.values(b"content-length")] == [len(sent.body)]


TOKENS = [seal(value) for value in ('"078-05-1120"', "1.10", "null", '["a", {"ssn": 1}]')]
BODIES = st.sampled_from(
    [
        b'{"ssn": %s, "x": "\xc3\xa9 \\u00e9", "ssn":%s}' % (TOKENS[0], TOKENS[1]),
        b'\xef\xbb\xbf [{"s\\u0073n":%s},{"ssn":%s}] ' % (TOKENS[2], TOKENS[3]),
        b'{"ssn":"plain"}',
        b'{"ssn":%s' % TOKENS[0],
        b'{"no":"mark"}',
        b" ",
        b"",
    ]
)


@given(BODIES, st.lists(st.integers(0, 1 << 16), max_size=12), st.sampled_from([None, False, 1, 400]))
@PROPERTY
def test_the_outcome_is_the_same_under_any_chunking(body, places, length):
    marked = [place("$.ssn", "$[*].ssn", request="decrypt")]
    length = len(body) if length is None else length
    whole = request(marked, body, length=length, max_body=400)
    pieces = request(marked, *cut(body, places), length=length, max_body=400)
    assert pieces == whole


def test_a_body_without_a_hit_goes_on_as_the_same_object_under_the_same_headers():
    for places in (DECRYPT, ENCRYPT):
        body = b'{"x": {"ssn": "078-05-1120"}}'
        head = RequestHead(
            "http",
            "POST",
            "https",
            "/",
            headers=(*JSON, (b"content-length", b"%d" % len(body)), (b"digest", b"x")),
        )
        flow = Plan.compile(places, Limits(MAX_BODY)).request_flow(exchange())
        assert [*flow.start(head), *flow.feed(body)] == []
        assert flow.held == len(body)
        gone, piece = flow.finish(complete=True)
        assert gone.head is head
        assert piece.data is body


def test_nothing_goes_on_before_the_whole_body_has_been_judged():
    flow = Plan.compile(DECRYPT, Limits(MAX_BODY)).request_flow(exchange())
    head = RequestHead("http", "POST", "https", "/", headers=JSON)
    assert list(flow.start(head)) == []
    for piece in cut(b'{"ssn":%s}' % TOKENS[0], [1, 5, 40]):
        assert list(flow.feed(piece)) == []
    kinds = [type(event) for event in flow.finish(complete=True)]
    assert kinds == [Head, Body]


@pytest.mark.parametrize(
    "body",
    [
        b'{"ssn":%s,"ssn":%s}',
        b'{"ssn":%s,"x":[{}],"s\\u0073n":%s}',
        b'\xef\xbb\xbf{"ssn":%s,"ssn":%s}',
        b'{"ssn":%s,"\\ud800":0,"ssn":%s}',
    ],
)
def test_a_marked_name_that_is_there_twice_is_refused_unless_all_are_wanted(body):
    assert request(DECRYPT, body % tuple(TOKENS[:2])).code == "payload_malformed"
    assert request(DECRYPT, body % tuple(TOKENS[:2]), duplicates="all").body is not None
    assert request(DECRYPT, body % (TOKENS[0], b"0"), duplicates="all").code == "field_undecryptable"


def test_a_name_that_is_there_twice_on_the_way_to_a_mark_is_refused_and_elsewhere_is_not():
    places = [place("$.people[*].id.ssn", request="decrypt")]
    hit = b'{"id":{"ssn":%s}}' % TOKENS[0]
    for twice in (
        b'{"people":[%s],"people":[]}' % hit,
        b'{"people":[],"people":[%s]}' % hit,
        b'{"people":[{"id":{"ssn":%s},"id":{}}]}' % TOKENS[0],
        b'{"people":[{"id":0,"id":0},%s]}' % hit,
        b'{"people":{"a":%s},"people":0}' % hit,
        b'{"people":0,"people":0}',
    ):
        assert request(places, twice).code == "payload_malformed", twice
        assert request(places, twice, duplicates="all").refusal is None, twice
    for once in (
        b'{"x":1,"x":{"people":0,"people":0},"people":[%s]}' % hit,
        b'{"people":{"a":%s,"a":%s},"id":0,"id":0}' % (hit, hit),
        b'{"people":[{"ssn":0,"ssn":0,"id":{"ssn":%s}}]}' % TOKENS[0],
    ):
        assert request(places, once).refusal is None, once


def test_limits_of_depth_and_of_marked_values_are_the_settings():
    places = [place("$.a[*].ssn", request="encrypt")]
    body = b'{"a":[{"ssn":1},{"ssn":[2]}]}'
    assert request(places, body, depth=4, marked=2).refusal is None
    assert request(places, body, depth=3).code == "payload_malformed"
    assert request(places, body, marked=1).refusal == Refusal("payload_too_large", "service.max_marked")


def test_every_duplicate_and_every_spelling_of_a_marked_name_is_handled():
    body = b'{"ssn":%s,"\\u0073sn":%s,"s\\u0073n":%s}' % (TOKENS[0], TOKENS[1], TOKENS[0])
    sent = request(DECRYPT, body, duplicates="all")
    assert sent.body == b'{"ssn":"078-05-1120","\\u0073sn":1.10,"s\\u0073n":"078-05-1120"}'
    for twin in (b'"ssn":"plain"', b'"s\\u0073n":"plain"'):
        for text in (b'{"ssn":%s,%s}' % (TOKENS[0], twin), b'{%s,"ssn":%s}' % (twin, TOKENS[0])):
            assert request(DECRYPT, text, duplicates="all").code == "field_undecryptable"
    sealed = request(ENCRYPT, b'{"ssn":"one","s\\u0073n":"two","ssn":"three"}', duplicates="all").body
    assert unsealed(sealed) == b'{"ssn":<"one">,"s\\u0073n":<"two">,"ssn":<"three">}'


def test_a_token_may_be_spelled_with_escapes():
    token = b'"\\u0073' + TOKENS[0][2:]
    assert request(DECRYPT, b'{"ssn":%s}' % token).body == b'{"ssn":"078-05-1120"}'


def test_a_byte_order_mark_stays_in_front():
    sent = request(DECRYPT, b'\xef\xbb\xbf{"ssn":%s}' % TOKENS[1])
    assert sent.body == b'\xef\xbb\xbf{"ssn":1.10}'


@pytest.mark.parametrize(
    "body",
    [
        b"\xff\xfe{\x00}\x00",
        '{"ssn":"x"}'.encode("utf-16"),
        '{"ssn":"x"}'.encode("utf-16-le"),
        '{"ssn":"x"}'.encode("utf-32"),
        b'{"ssn":NaN}',
        b'{"x":-Infinity}',
        b'{"ssn":"x"',
        b'{"ssn":"x"}{"ssn":"y"}',
        b'{"ssn":"x"}\x00',
        b"{'ssn':'x'}",
        b"ssn=x",
        b'{"x":"\xff"}',
        b" ",
        b"\xef\xbb\xbf",
        b"[" * 100_000,
        b'{"ssn":' * 300 + b"1" + b"}" * 300,
    ],
)
def test_a_body_that_some_parser_could_read_and_we_cannot_is_refused(body):
    for places in (DECRYPT, ENCRYPT):
        assert request(places, body).code == "payload_malformed"


def test_a_marked_value_is_found_at_any_depth_that_is_let_through():
    depth = 199
    inner = b'{"ssn":' + TOKENS[0] + b"}"
    body = b'{"a":' * depth + inner + b"}" * depth
    sent = request([place("$..ssn", request="decrypt")], body)
    assert sent.body == body.replace(TOKENS[0], b'"078-05-1120"')


def test_an_empty_body_passes_whatever_its_type():
    for headers in (JSON, (), typed(b"text/html"), typed(b"multipart/form-data; boundary=x")):
        sent = request(DECRYPT, headers=headers, length=False)
        assert sent.body == b""
        assert sent.headers == headers
        assert request(DECRYPT, b"", headers=headers, length=0).headers == (
            *headers,
            (b"content-length", b"0"),
        )


@pytest.mark.parametrize(
    ("headers", "announced"),
    [
        ([(b"transfer-encoding", b"chunked")], False),
        ([(b"content-length", b"0"), (b"content-length", b"0")], False),
        ([(b"transfer-encoding", b"chunked")], 0),
        ([(b"content-length", b"00")], False),
    ],
)
def test_a_request_without_a_body_has_one_length_at_most(headers, announced):
    sent = request(DECRYPT, headers=tuple(headers), length=announced)
    assert sent.headers == ((b"content-length", b"0"),)


@pytest.mark.parametrize("hit", [True, False])
@pytest.mark.parametrize(
    "lengths",
    [
        [],
        [(b"transfer-encoding", b"chunked")],
        [(b"content-length", b"%d")],
        [(b"content-length", b"%d"), (b"content-length", b" %d")],
        [(b"content-length", b"%d"), (b"transfer-encoding", b"chunked")],
        [(b"content-length", b"0%d")],
    ],
)
def test_there_is_exactly_one_content_length_and_it_is_right(lengths, hit):
    body = b'{"ssn":%s}' % TOKENS[0] if hit else b'{"x":1}'
    lengths = [(name, value.replace(b"%d", b"%d" % len(body))) for name, value in lengths]
    sent = request(DECRYPT, body, headers=(*JSON, *lengths, (b"x-last", b"1")), length=False)
    framing = [pair for pair in sent.headers if pair[0] in (b"content-length", b"transfer-encoding")]
    assert framing == [(b"content-length", b"%d" % len(sent.body))]
    assert [pair for pair in sent.headers if pair not in framing] == [*JSON, (b"x-last", b"1")]


@pytest.mark.parametrize(
    "values", [(b"1", b"2"), (b"1, 1",), (b"+7",), (b"",), (b"0x7",), (b"-1",), (b"9" * 30,)]
)
def test_a_length_that_can_be_read_in_two_ways_is_refused_before_any_body(values):
    headers = (*JSON, *((b"content-length", value) for value in values))
    flow = Plan.compile(DECRYPT, Limits(MAX_BODY)).request_flow(exchange())
    events = list(flow.start(RequestHead("http", "POST", "https", "/", headers=headers)))
    assert events == [Refusal("header_ambiguous", "content-length")]
    assert [*flow.feed(b"{}"), *flow.finish(complete=True)] == []


@pytest.mark.parametrize("difference", [-30, -1, 1, 30])
def test_a_body_shorter_or_longer_than_announced_is_refused(difference):
    body = b'{"ssn":%s}' % TOKENS[0]
    assert request(DECRYPT, body, length=len(body) + difference).code == "payload_malformed"
    # Even where the announced part alone would be a good body.
    assert request(DECRYPT, body, b" ", length=len(body)).code == "payload_malformed"
    assert request(DECRYPT, body + b" ", length=len(body)).code == "payload_malformed"
    assert request(DECRYPT, body, length=0).code == "payload_malformed"
    assert request(DECRYPT, b"", length=1).code == "payload_malformed"


@pytest.mark.parametrize(
    "body", [b"", b'{"x":1}', b'{"ssn":%s}' % TOKENS[0]], ids=["empty", "unmarked", "a token"]
)
def test_a_request_that_broke_off_is_refused_though_it_looks_whole(body):
    within = exchange()
    sent = request(DECRYPT, body, length=False, complete=False, within=within)
    assert sent.code == "payload_malformed"
    assert sent.head is None
    assert within.opened == []


def test_a_body_over_the_limit_is_refused_by_its_announced_length_alone():
    flow = Plan.compile(DECRYPT, Limits(100)).request_flow(exchange())
    head = RequestHead("http", "POST", "https", "/", headers=(*JSON, (b"content-length", b"101")))
    assert list(flow.start(head)) == [Refusal("payload_too_large", "service.max_body")]


def test_a_body_over_the_limit_is_refused_with_the_byte_that_is_too_much():
    flow = Plan.compile(DECRYPT, Limits(100)).request_flow(exchange())
    assert list(flow.start(RequestHead("http", "POST", "https", "/", headers=JSON))) == []
    assert list(flow.feed(b" " * 98)) == []
    assert list(flow.feed(b"{}")) == []
    assert list(flow.feed(b" ")) == [Refusal("payload_too_large", "service.max_body")]
    assert flow.held == 0
    assert [*flow.feed(b" "), *flow.finish(complete=True)] == []
    assert request(DECRYPT, b" " * 98 + b"{}", max_body=100).refusal is None


def test_more_marked_values_than_the_limit_are_refused():
    body = b"[" + b",".join([b"1"] * (MAX_HITS + 1)) + b"]"
    assert request([place("$[*]", request="encrypt")], body).code == "payload_too_large"


@pytest.mark.parametrize(
    "kind",
    [
        b"application/json",
        b"Application/JSON",
        b"application/json; charset=utf-8",
        b"application/json;charset=UTF8",
        b'application/json; charset="UTF-8"; x=y',
        b"application/problem+json",
        b"application/vnd.shop.v2+json;v=1;",
        b" application/json\t",
    ],
)
def test_json_is_read_under_each_of_its_media_types(kind):
    assert request(DECRYPT, b'{"ssn":%s}' % TOKENS[1], headers=typed(kind)).body == b'{"ssn":1.10}'
    assert request(DECRYPT, b'{"ssn":"plain"}', headers=typed(kind)).code == "field_undecryptable"


def test_a_body_without_a_media_type_must_be_json():
    assert request(DECRYPT, b'{"ssn":%s}' % TOKENS[1], headers=()).body == b'{"ssn":1.10}'
    assert request(DECRYPT, b"ssn=1", headers=()).code == "payload_malformed"


@pytest.mark.parametrize(
    "kind",
    [
        b";charset=utf-8",
        b"text/html",
        b"text/json",
        b"text/plain",
        b"json",
        b"application/jsonp",
        b"multipart/form-data; boundary=application/json",
        b"application/xml+json/x",
        b"application/json, text/html",
        b"text/html, application/json",
        b"application/json; charset=utf-16",
        b"application/json; charset=utf-7",
        b'application/json; charset="utf-16"',
        b"application/json; charset=utf-8; charset=utf-16",
        b"application/json; charset*=utf-8''utf-16",
        b"application/json; charset*0=utf-; charset*1=16",
        b"application/json; charset",
        b"application/json charset=utf-8",
        b"application/json\x00",
        b"\xc3\xa4pplication/json",
    ],
)
def test_a_body_of_any_other_media_type_is_refused_though_it_is_json(kind):
    body = b'{"ssn":%s}' % TOKENS[0]
    for length in (None, False):
        assert request(DECRYPT, body, headers=typed(kind), length=length).code == "payload_encoding"


def test_a_body_that_could_not_be_read_is_refused_before_it_comes():
    for headers in (typed(b"text/html"), (*JSON, (b"content-encoding", b"gzip, x"))):
        flow = Plan.compile(DECRYPT, Limits(MAX_BODY)).request_flow(exchange())
        head = RequestHead("http", "POST", "https", "/", headers=(*headers, (b"content-length", b"9")))
        assert list(flow.start(head)) == [Refusal("payload_encoding")]
        flow = Plan.compile(DECRYPT, Limits(MAX_BODY)).request_flow(exchange())
        assert list(flow.start(RequestHead("http", "POST", "https", "/", headers=headers))) == []
        assert list(flow.feed(b"")) == []
        assert list(flow.feed(b"{")) == [Refusal("payload_encoding")]


def test_several_media_types_are_refused_unless_they_are_the_same():
    body = b'{"ssn":%s}' % TOKENS[1]
    assert (
        request(DECRYPT, body, headers=typed(b"application/json", b"application/json ")).body
        == b'{"ssn":1.10}'
    )
    sent = request(DECRYPT, body, headers=typed(b"application/json", b"text/plain"))
    assert sent.refusal == Refusal("header_ambiguous", "content-type")


def test_an_empty_media_type_says_nothing():
    # WSGI servers have one, too, where none was sent.
    assert request(DECRYPT, b'{"ssn":%s}' % TOKENS[1], headers=typed(b" ")).body == b'{"ssn":1.10}'
    assert request(DECRYPT, b"ssn=x", headers=typed(b"")).refusal == Refusal("payload_malformed")
    sent = request(DECRYPT, b"{}", headers=typed(b"", b"text/plain"))
    assert sent.refusal == Refusal("header_ambiguous", "content-type")


@pytest.mark.parametrize("coding", [b"x", b"gzip, x", b"gzip;q=1", b"gzip,gzip,gzip,gzip,gzip", b"aes128gcm"])
def test_a_body_under_a_coding_that_nobody_knows_is_refused(coding):
    headers = (*JSON, (b"content-encoding", coding))
    assert request(DECRYPT, b'{"ssn":%s}' % TOKENS[0], headers=headers).code == "payload_encoding"
    assert request(DECRYPT, b"", headers=headers).body == b""
    for identity in (b"identity", b"", b"Identity , identity"):
        headers = (*JSON, (b"content-encoding", identity))
        assert request(DECRYPT, b'{"ssn":%s}' % TOKENS[1], headers=headers).body == b'{"ssn":1.10}'


def test_former_digests_go_where_the_body_changes_and_only_there():
    digests = [(name, b"x") for name in (b"digest", b"content-md5")]
    headers = (*JSON, *digests, (b"want-content-digest", b"sha-256=1"))
    changed = request(DECRYPT, b'{"ssn":%s}' % TOKENS[0], headers=headers)
    assert [name for name, _ in changed.headers] == [
        b"content-type",
        b"want-content-digest",
        b"content-length",
    ]
    assert request(DECRYPT, b'{"x":1}', headers=headers).headers[: len(headers)] == headers
    token = b'{"ssn":%s}' % TOKENS[0]  # It is a token already: nothing changes.
    keeping = [place("$.ssn", request="encrypt", already_sealed="skip")]
    assert request(keeping, token, headers=headers).headers[: len(headers)] == headers


CONDITIONS = (
    (b"range", b"bytes=0-9"),
    (b"if-range", b'"a"'),
    (b"if-none-match", b'"a"'),
    (b"if-modified-since", b"Mon, 01 Jun 2026 12:00:00 GMT"),
)


@pytest.mark.parametrize("asks", ["pass", "decrypt", "encrypt"])
@pytest.mark.parametrize("answers", ["encrypt", "decrypt"])
def test_where_responses_are_rewritten_an_app_is_asked_for_no_part_and_no_version(asks, answers):
    places = [place("$.ssn", request=asks, response=answers)]
    extra = ((b"if-match", b'"a", "b"'), (b"if-unmodified-since", b"x"), (b"accept-encoding", b"gzip, br"))
    for body in (b"", b'{"x":1}'):
        sent = request(places, body, headers=(*JSON, *CONDITIONS, *extra))
        assert not {name for name, _ in CONDITIONS} & {name for name, _ in sent.headers}
        (wanted,) = sent.values(b"if-match")
        assert wanted.startswith(b'"')
        assert b'"a"' not in wanted
        assert b'"b"' not in wanted
        assert sent.values(b"accept-encoding") == [b"identity"]
        assert sent.values(b"if-unmodified-since") == [b"x"]
    assert request(places, headers=((b"if-match", b"*"),)).values(b"if-match") == [b"*"]


def test_where_responses_pass_conditions_stay_unless_a_value_is_opened():
    headers = (*JSON, *CONDITIONS, (b"if-match", b'"a"'), (b"accept-encoding", b"gzip"))
    assert request(DECRYPT, b'{"x":1}', headers=headers).headers[:-1] == headers
    assert request(ENCRYPT, b'{"ssn":1}', headers=headers).headers[:-1] == headers
    sent = request(DECRYPT, b'{"ssn":%s}' % TOKENS[0], headers=headers)
    assert sent.headers[:-1] == (
        *JSON,
        *CONDITIONS[2:],
        (b"if-match", b'"a"'),
        (b"accept-encoding", b"identity"),
    )
    unguarded = [place("$.ssn", request="decrypt", leak_guard=False)]
    assert request(unguarded, b'{"ssn":%s}' % TOKENS[0], headers=headers).headers[:-1] == headers


def test_the_request_of_a_route_that_only_marks_responses_streams():
    flow = Plan.compile([place("$.ssn", response="encrypt")], Limits(10)).request_flow(exchange())
    head = RequestHead("http", "PUT", "https", "/", headers=(*typed(b"video/mp4"), *CONDITIONS))
    (event,) = flow.start(head)
    assert event.head.headers == typed(b"video/mp4")
    assert list(flow.feed(b"x" * 1000)) == [Body(b"x" * 1000, more=True)]
    assert list(flow.finish(complete=True)) == [Body(b"")]
    assert list(flow.finish(complete=False)) == [Refusal("payload_malformed")]
    same = RequestHead("http", "GET", "https", "/", headers=JSON)
    assert next(iter(flow.start(same))).head is same


def test_a_buffer_that_is_filled_again_does_not_change_what_was_judged():
    flow = Plan.compile(ENCRYPT, Limits(MAX_BODY)).request_flow(exchange())
    assert list(flow.start(RequestHead("http", "POST", "https", "/", headers=JSON))) == []
    buffer = bytearray(b'{"ssn":"first"')
    assert list(flow.feed(buffer)) == []
    buffer[:] = b',"x":"second"}'
    assert list(flow.feed(memoryview(buffer))) == []
    buffer[:] = b" " * len(buffer)
    _, body = flow.finish(complete=True)
    assert unsealed(body.data) == b'{"ssn":<"first">,"x":"second"}'


def test_a_refusal_names_the_mark_and_never_a_value_or_a_reason():
    places = [place("$.people[*].ssn", request="decrypt")]
    good = seal('"078-05-1120"')
    for bad in (b'"078-05-1120"', b"null", b"1", forged(good), seal("1", field="other"), b'"sm1.AAAA"'):
        sent = request(places, b'{"people":[{"ssn":%s},{"ssn":%s}]}' % (good, bad))
        assert sent.refusal == Refusal("field_undecryptable", "$.people[*].ssn")
        _, problem = sent.refusal.problem("0")
        assert b"078-05" not in problem
        assert bad.strip(b'"') not in problem or bad in (b"1", b"null")


def test_what_was_opened_before_a_refusal_is_still_remembered_and_nothing_goes_on():
    within = exchange()
    sent = request([place("$.a", "$.b", request="decrypt")], b'{"a":%s,"b":1}' % TOKENS[0], within=within)
    assert sent.head is None
    assert sent.pieces == []


def test_fields_of_one_body_are_opened_each_in_its_own_context():
    alice = caller("spiffe://a.example/alice")
    places = [
        place("$.t", name="t", bind="tenant", request="decrypt"),
        place("$.c", name="c", bind="caller", request="decrypt"),
        place("$.n", name="n", request="encrypt"),
    ]
    body = b'{"t":%s,"c":%s,"n":3}' % (
        seal("1", "t", tenant=alice.tenant),
        seal("2", "c", caller=alice.name),
    )
    sent = request(places, body, within=exchange(identity=alice))
    assert unsealed(sent.body, "n") == b'{"t":1,"c":2,"n":<3>}'


def test_the_report_counts_and_names_keys_only():
    places = [place("$[*]", request="encrypt", already_sealed="skip")]
    flow = Plan.compile(places, Limits(MAX_BODY)).request_flow(exchange())
    head = RequestHead("http", "POST", "https", "/", headers=JSON)
    list(flow.start(head))
    list(flow.feed(b'["078-05-1120",2,%s]' % TOKENS[0]))
    list(flow.finish(complete=True))
    assert (flow.report.sealed, flow.report.opened) == (2, 1)
    (kid,) = flow.report.kids
    assert bytes.fromhex(kid)
    assert "078-05" not in repr(flow.report)


def test_values_of_a_large_batch_are_each_sealed_afresh():
    body = json.dumps([{"ssn": "same"}] * 500).encode()
    sent = request([place("$[*].ssn", request="encrypt")], body)
    tokens = [item["ssn"] for item in json.loads(sent.body)]
    assert len(set(tokens)) == 500
    assert {unseal(b'"%s"' % random.choice(tokens).encode())} == {b'"same"'}
