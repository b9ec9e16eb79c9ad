"""What becomes of a response with marks: sealed or opened for its caller, or none of it is sent."""

import itertools
import json

import pytest
from fields import documents, oracle
from fields.flowing import (
    JSON,
    MAX_BODY,
    STRANGE_RING,
    caller,
    exchange,
    forged,
    having_opened,
    place,
    response,
    seal,
    unseal,
    unsealed,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from secmiddleware.fields.flows import PASSIVE
from secmiddleware.fields.json_rewriting import MAX_HITS
from secmiddleware.fields.limits import Limits
from secmiddleware.fields.rules import Plan
from secmiddleware.messages import Body, Head, Refusal, RequestHead, ResponseHead

SEAL = [place("$.ssn", response="encrypt", already_sealed="skip")]
OPEN = [place("$.ssn", response="decrypt")]
SSN = b'"078-05-1120"'
PROPERTY = settings(max_examples=150, deadline=None)
BOTH = pytest.mark.parametrize("places", [SEAL, OPEN], ids=["seal", "open"])
NO_BODY = [("HEAD", 200), ("GET", 204), ("POST", 205), ("GET", 304), ("GET", 100), ("GET", 103)]


def test_only_the_marked_bytes_are_sealed():
    body = b'{ "ssn" : %s, "n":1.10, "big":12345678901234567890.123 ,"d":1,"d":2}'
    answer = response(SEAL, body % SSN)
    assert unsealed(answer.body) == body % b'<"078-05-1120">'
    assert answer.values(b"content-length") == [str(len(answer.body)).encode()]


@given(st.randoms(use_true_random=False))
@PROPERTY
def test_unmarked_bytes_stay_as_they_were(chance):
    marks = documents.marks(chance)
    places = [place(*map(str, marks), response="encrypt")]
    try:
        Plan.compile(places, Limits(MAX_BODY))
    except ValueError:
        return
    body = documents.document(chance)
    expected, position = b"", 0
    for start, end, _ in oracle.marked(body, marks)[0]:
        expected += body[position:start] + b"<" + body[start:end] + b">"
        position = end
    assert unsealed(response(places, body, duplicates="all").body) == expected + body[position:]


BODIES = [
    b'{"ssn":%s,"s\\u0073n":%s}' % (seal("1"), seal('"two"')),
    b'{"ssn":"plain"}',
    b'{"ssn":',
    b"[]",
    b"",
]


@given(
    st.sampled_from(BODIES),
    st.lists(st.integers(0, 999), max_size=9),
    st.booleans(),
    st.sampled_from([50, 400]),
)
@PROPERTY
def test_the_outcome_is_the_same_under_any_chunking(body, cuts, revealed, limit):
    def answer(*chunks):
        within = exchange(revealed={"ssn"} if revealed else ())
        return response(OPEN, *chunks, within=within, max_body=limit)

    cuts = [0, *sorted(cut % (len(body) + 1) for cut in cuts), len(body)]
    assert answer(*(body[start:end] for start, end in itertools.pairwise(cuts))) == answer(body)


def test_every_duplicate_and_every_spelling_of_a_marked_name_is_sealed():
    body = b'\xef\xbb\xbf{"ssn":1,"s\\u0073n":null,"ssn":{"ssn":[ ]}}'
    expected = b'\xef\xbb\xbf{"ssn":<1>,"s\\u0073n":<null>,"ssn":<{"ssn":[ ]}>}'
    assert unsealed(response(SEAL, body, duplicates="all").body) == expected
    assert response(SEAL, body).refusal == Refusal("seal_failed")


@BOTH
def test_nothing_leaves_before_the_body_has_decided(places):
    flow = Plan.compile(places, Limits(MAX_BODY)).response_flow(exchange(), "GET")
    assert not flow.passive
    assert list(flow.start(ResponseHead(200, JSON))) == []
    for piece in (b"{", b'"x":', b"1", b"}"):
        assert list(flow.feed(piece)) == []
    assert flow.load == 7
    head, body = flow.finish(complete=True)
    assert isinstance(head, Head)
    assert body == Body(b'{"x":1}')


def test_a_body_without_a_hit_leaves_as_the_same_object():
    body = b'{"x":1}'
    headers = (*JSON, (b"content-length", b"7"), (b"digest", b"x"))
    answer = response(SEAL, body, headers=headers)
    assert answer.pieces[0] is body
    assert answer.headers == headers


@BOTH
@pytest.mark.parametrize(
    "lengths",
    [
        [],
        [(b"content-length", b"100")],
        [(b"content-length", b"5"), (b"content-length", b"5")],
        [(b"transfer-encoding", b"chunked")],
        [(b"transfer-encoding", b"chunked"), (b"content-length", b"9")],
    ],
)
def test_there_is_exactly_one_content_length_and_it_is_right(places, lengths):
    for body in (b'{"ssn":%s}' % seal("1"), b'{"x":1}'):
        answer = response(places, body, headers=(*JSON, *lengths), within=exchange(revealed={"ssn"}))
        framing = [pair for pair in answer.headers if pair[0] in (b"content-length", b"transfer-encoding")]
        assert framing == [(b"content-length", b"%d" % len(answer.body))]


@BOTH
@pytest.mark.parametrize(
    "body",
    [
        b'{"ssn":"1"',
        b"NaN",
        b" ",
        b"ssn=1",
        '{"ssn":"1"}'.encode("utf-16"),
        b'{"x":"\xff"}',
        b'{"a":1}{"ssn":"1"}',
        b"[" * 201 + b"]" * 201,
        b"<html>",
    ],
)
def test_a_body_that_cannot_be_read_does_not_leave(places, body):
    for headers in (JSON, (), ((b"content-type", b""),)):
        assert response(places, body, headers=headers).refusal == Refusal("seal_failed")


@BOTH
@pytest.mark.parametrize(
    "kind",
    [
        b"text/html",
        b"text/plain",
        b"application/octet-stream",
        b"application/json; charset=latin-1",
        b"multipart/byteranges; boundary=x",
    ],
)
def test_a_body_of_another_media_type_does_not_leave(places, kind):
    headers = ((b"content-type", kind),)
    assert response(places, b"{}", headers=headers).refusal == Refusal("seal_failed", "content-type")
    assert response(places, b"", headers=headers).body == b""
    assert response(places, b"{}", headers=headers, method="HEAD").body == b""


@BOTH
@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize("said", [(b"content-type", b"text/html"), (b"content-encoding", b"gzip")])
def test_a_redirect_leaves_without_the_note_that_frameworks_add(places, status, said):
    headers = ((b"location", b"/new"), said, (b"content-length", b"6"), (b"digest", b"x"), (b"vary", b"*"))
    answer = response(places, b"<p>no<", headers=headers, status=status)
    assert answer.body == b""
    kept = [pair for pair in headers if pair[0] in (b"location", b"content-type", b"vary")]
    assert answer.headers[: len(kept)] == tuple(kept)
    assert answer.values(b"content-length") == [b"0"]
    assert not {b"content-encoding", b"digest"} & {name for name, _ in answer.headers}


@BOTH
def test_the_answer_to_a_preflight_leaves_without_the_word_that_frameworks_add(places):
    headers = ((b"content-type", b"text/plain"), (b"access-control-allow-origin", b"*"))
    answer = response(places, b"OK", headers=headers, method="OPTIONS")
    assert (answer.body, answer.values(b"access-control-allow-origin")) == (b"", [b"*"])


@BOTH
@pytest.mark.parametrize("status", [200, 201, 300, 302, 404, 500])
def test_what_is_no_redirect_is_no_note_either(places, status):
    headers = ((b"content-type", b"text/html"),)
    if status != 302:
        headers += ((b"location", b"/new"),)
    answer = response(places, b"<p>", headers=headers, status=status)
    assert answer.refusal == Refusal("seal_failed", "content-type")


def test_a_redirect_does_not_carry_away_in_its_head_what_was_opened():
    opened = having_opened([place("$.t", request="decrypt")], SSN)
    headers = ((b"location", b"/new?ssn=078-05-1120"), (b"content-type", b"text/html"))
    answer = response(SEAL, b"<p>", headers=headers, status=302, within=opened)
    assert answer.refusal == Refusal("seal_failed", "fields.ssn.leak_guard")


@BOTH
def test_differing_heads_of_one_body_do_not_leave(places):
    types = (*JSON, (b"content-type", b"text/html"))
    assert response(places, b"{}", headers=types).refusal == Refusal("seal_failed", "content-type")
    lengths = (*JSON, (b"content-length", b"2"), (b"content-length", b"3"))
    assert response(places, b"{}", headers=lengths).refusal == Refusal("seal_failed", "content-length")


@BOTH
def test_a_coded_body_does_not_leave(places):
    for coding in (b"gzip", b"identity, br", b"zstd"):
        headers = (*JSON, (b"content-encoding", coding))
        assert response(places, b"{}", headers=headers).refusal == Refusal("seal_failed", "content-encoding")
        assert response(places, b"", headers=headers).body == b""
    assert response(places, b"{}", headers=(*JSON, (b"content-encoding", b"identity"))).body == b"{}"


@BOTH
def test_a_part_of_a_body_does_not_leave(places):
    assert response(places, b"{}", status=206).refusal == Refusal("seal_failed", "content-range")
    headers = (*JSON, (b"content-range", b"bytes 0-1/9"))
    assert response(places, b"{}", headers=headers).refusal == Refusal("seal_failed", "content-range")


@pytest.mark.parametrize("name", [b"x-accel-redirect", b"x-sendfile", b"x-lighttpd-send-file"])
def test_a_file_that_a_proxy_would_send_past_us_does_not_leave(name):
    headers = (*JSON, (name, b"/protected/customers.json"))
    for body in (b"", b"{}"):
        assert response(SEAL, body, headers=headers).refusal == Refusal("seal_failed", name.decode())
    guarded = [place("$.t", request="decrypt")]
    within = having_opened(guarded, SSN)
    assert response(guarded, b"", headers=headers, within=within).refusal == Refusal(
        "seal_failed", name.decode()
    )
    assert response(guarded, b"", headers=headers).headers is headers


@BOTH
def test_a_body_over_the_limit_does_not_leave(places):
    late = Refusal("seal_failed", "service.max_body")
    assert response(places, b" " * 98, b"{}", b" ", max_body=100).refusal == late
    assert response(places, b" " * 98, b"{}", max_body=100).refusal is None
    flow = Plan.compile(places, Limits(100)).response_flow(exchange(), "GET")
    assert list(flow.start(ResponseHead(200, ((b"content-length", b"101"),)))) == [late]
    assert flow.load == 0
    assert [*flow.feed(b"{}"), *flow.finish(complete=True), *flow.finish(complete=False)] == []


def test_more_marked_values_than_the_limit_do_not_leave():
    body = b"[" + b",".join([b"1"] * (MAX_HITS + 1)) + b"]"
    assert response([place("$[*]", response="encrypt")], body).code == "seal_failed"


@BOTH
@pytest.mark.parametrize(("method", "status"), [("GET", 200), *NO_BODY])
def test_the_response_of_an_app_that_died_is_not_sent(places, method, status):
    for chunks in ([], [b'{"x":1}']):
        answer = response(places, *chunks, complete=False, method=method, status=status)
        assert answer.refusal == Refusal("internal_error")
    flow = Plan.compile(places, Limits(MAX_BODY)).response_flow(exchange(), "GET")
    assert list(flow.finish(complete=False)) == [Refusal("internal_error")]
    flow = Plan.compile(places, Limits(MAX_BODY)).response_flow(exchange(), "GET")
    assert list(flow.finish(complete=True)) == [Refusal("internal_error")]


RANGES = (b"accept-ranges", b"bytes")
DIGESTS = tuple((name, b"x") for name in (b"content-digest", b"repr-digest", b"digest", b"content-md5"))


@pytest.mark.parametrize(("method", "status"), NO_BODY)
def test_a_response_without_a_body_says_nothing_of_one(method, status):
    headers = (*JSON, (b"content-length", b"22"), RANGES, *DIGESTS, (b"vary", b"x"))
    answer = response(SEAL, b'{"ssn":"078-05-1120"}', headers=headers, method=method, status=status)
    assert answer.body == b""
    length = [(b"content-length", b"0")] if status == 205 else []
    assert answer.headers == (*JSON, (b"vary", b"x"), *length)
    assert answer.head.status == status


@pytest.mark.parametrize(("method", "status"), NO_BODY)
def test_a_response_without_a_body_gets_no_length_added(method, status):
    answer = response(SEAL, headers=JSON, method=method, status=status)
    assert answer.values(b"content-length") == ([b"0"] if status == 205 else [])


def test_an_empty_body_leaves_under_its_own_length():
    assert response(SEAL, headers=JSON).headers == JSON
    headers = (*JSON, (b"content-length", b"0"))
    assert response(SEAL, b"", headers=headers).headers == headers
    assert response(SEAL, b"", headers=(*headers, RANGES)).headers == headers


def test_digests_go_or_are_made_anew_where_the_body_changes():
    unreadable = response(SEAL, b'{"ssn":"x"}', headers=(*JSON, *DIGESTS))
    assert unreadable.headers[:-1] == JSON
    assert response(SEAL, b'{"ssn":%s}' % seal("1"), headers=(*JSON, *DIGESTS)).headers[:-1] == (
        *JSON,
        *DIGESTS,
    )


CACHING = [
    (b"cache-control", b"public, max-age=600"),
    (b"cache-control", b"s-maxage=9"),
    (b"cdn-cache-control", b"max-age=600"),
    (b"cloudflare-cdn-cache-control", b"max-age=600"),
    (b"surrogate-control", b"max-age=600"),
    (b"x-accel-expires", b"600"),
]


@pytest.mark.parametrize(("method", "status"), [("GET", 200), *NO_BODY])
def test_what_depends_on_its_caller_is_kept_by_no_cache(method, status):
    bound = [place("$.ssn", response="encrypt", bind="caller")]
    for places in (OPEN, bound):
        for body in (b'{"x":1}', b""):
            answer = response(places, body, headers=(*JSON, *CACHING), method=method, status=status)
            kept = [pair for pair in answer.headers if b"cache" in pair[0] or b"control" in pair[0]]
            assert kept == [(b"cache-control", b"private, no-store")]
            assert answer.values(b"x-accel-expires") == []


def test_what_is_the_same_for_all_may_be_cached():
    answer = response(SEAL, b'{"ssn":1}', headers=(*JSON, *CACHING))
    assert answer.headers[1:-1] == tuple(CACHING)


def test_plaintext_is_for_those_to_whom_it_is_revealed():
    body = b'{"x": 1.0, "ssn" : %s }' % seal("1.10")
    revealed = exchange(revealed={"ssn"})
    assert response(OPEN, body, within=revealed).body == b'{"x": 1.0, "ssn" : 1.10 }'
    for others in (exchange(), exchange(revealed={"other"}), exchange(identity=caller())):
        assert response(OPEN, body, within=others).body == body


@pytest.mark.parametrize("otherwise", ["token", "mask", "null", "refuse"])
def test_others_get_what_the_field_says(otherwise):
    places = [place("$.ssn", response="decrypt", otherwise=otherwise)]
    token = seal(SSN)
    shown = {"token": token, "mask": b'"***"', "null": b"null"}
    answer = response(places, b'{"ssn":%s,"ssn":%s}' % (token, token), duplicates="all")
    if otherwise == "refuse":
        assert answer.refusal == Refusal("identity_not_allowed", "$.ssn")
    else:
        assert answer.body == b'{"ssn":%s,"ssn":%s}' % (shown[otherwise], shown[otherwise])
        assert answer.values(b"content-length") == [str(len(answer.body)).encode()]
    # There is nothing to hide in a null, and nothing to tell.
    assert response(places, b'{"ssn":null}').body == b'{"ssn":null}'


@pytest.mark.parametrize("value", [SSN, b"1", b"true", b'["x"]', b"{}", b'""', b'"***"', b'"\\ud800"'])
@pytest.mark.parametrize("revealed", [True, False])
@pytest.mark.parametrize("otherwise", ["token", "mask", "null", "refuse"])
def test_plaintext_that_an_app_kept_unsealed_does_not_leave(value, revealed, otherwise):
    places = [place("$.ssn", response="decrypt", otherwise=otherwise)]
    within = exchange(revealed={"ssn"} if revealed else ())
    answer = response(places, b'{"ok":%s,"ssn":%s}' % (seal("1"), value), within=within)
    assert answer.refusal == Refusal("seal_failed", "$.ssn")


def test_a_token_that_does_not_open_does_not_leave_in_place_of_plaintext():
    within = exchange(revealed={"ssn"})
    for token in (forged(seal("1")), seal("1", field="other"), seal("1", tenant="x"), b'"sm1."'):
        assert response(OPEN, b'{"ssn":%s}' % token, within=within).refusal == Refusal("seal_failed", "$.ssn")
    strange = seal("1", ring=STRANGE_RING)
    assert response(OPEN, b'{"ssn":%s}' % strange, within=within).refusal == Refusal("key_unknown", "$.ssn")


def test_a_token_is_not_sealed_again():
    token = seal(SSN)
    body = b'{"ssn":%s}' % token
    assert response([place("$.ssn", response="encrypt")], body).refusal == Refusal("seal_failed", "$.ssn")
    assert response(SEAL, body).pieces[0] is body
    for bad in (forged(token), seal("1", field="other"), seal("1", caller="x"), b'"sm1.x"', b'"sm\\u0031."'):
        assert response(SEAL, b'{"ssn":%s}' % bad).refusal == Refusal("seal_failed", "$.ssn")
    strange = seal("1", ring=STRANGE_RING)
    assert response(SEAL, b'{"ssn":%s}' % strange).refusal == Refusal("key_unknown", "$.ssn")


def test_null_is_sealed_like_any_value():
    sealed = json.loads(response(SEAL, b'{"ssn":null}').body)["ssn"]
    assert unseal(json.dumps(sealed).encode()) == b"null"


@pytest.mark.parametrize("bind", ["tenant", "caller"])
def test_a_bound_field_is_sealed_for_its_caller_alone(bind):
    places = [place("$.ssn", response="encrypt", bind=bind, already_sealed="skip")]
    alice = caller("spiffe://a.example/alice")
    body = response(places, b'{"ssn":1}', within=exchange(identity=alice)).body
    context = {"tenant": alice.tenant} if bind == "tenant" else {"caller": alice.name}
    assert unsealed(body, **context) == b'{"ssn":<1>}'
    assert response(places, body, within=exchange(identity=alice)).body == body
    bob = caller("spiffe://b.example/bob")
    assert response(places, body, within=exchange(identity=bob)).code == "seal_failed"
    for token in (b"1", seal("1")):
        answer = response(places, b'{"ssn":%s}' % token, within=exchange())
        assert answer.refusal == Refusal("seal_failed", "$.ssn")


def test_without_a_key_ring_nothing_is_sealed_or_opened():
    for places, body in ((SEAL, b'{"ssn":1}'), (OPEN, b'{"ssn":%s}' % seal("1"))):
        within = exchange(ring=None, revealed={"ssn"})
        assert response(places, body, within=within).refusal == Refusal("key_unknown", "$.ssn")
        assert response(places, b'{"x":1}', within=within).body == b'{"x":1}'


def test_what_a_revealed_response_opens_is_no_leak_of_itself():
    within = exchange(revealed={"ssn"})
    body = b'{"ssn":%s,"copy":"078-05-1120"}' % seal(SSN)
    assert response(OPEN, body, within=within).body == b'{"ssn":"078-05-1120","copy":"078-05-1120"}'


def test_a_response_is_held_only_where_something_can_be_wrong_with_it():
    guarded = Plan.compile([place("$.t", request="decrypt")], Limits(MAX_BODY))
    assert guarded.response_flow(exchange(), "GET") is PASSIVE
    opened = having_opened([place("$.t", request="decrypt")], SSN)
    assert not guarded.response_flow(opened, "GET").passive
    assert Plan.compile([], Limits(MAX_BODY)).response_flow(exchange(), "GET") is PASSIVE
    assert not Plan.compile(SEAL, Limits(MAX_BODY)).response_flow(exchange(), "GET").passive


def test_a_body_in_buffers_leaves_as_it_was_when_they_were_handed_over():
    flow = Plan.compile(SEAL, Limits(MAX_BODY)).response_flow(exchange(), "GET")
    assert list(flow.start(ResponseHead(200, JSON))) == []
    buffer = bytearray(b'{"ssn":1')
    assert list(flow.feed(memoryview(buffer))) == []
    buffer[:] = b"        "
    assert list(flow.feed(bytearray(b"}"))) == []
    _, body = flow.finish(complete=True)
    assert unsealed(body.data) == b'{"ssn":<1>}'


def test_the_flow_of_a_response_takes_no_head_of_a_request():
    flow = Plan.compile(SEAL, Limits(MAX_BODY)).response_flow(exchange(), "GET")
    with pytest.raises(TypeError, match="head"):
        flow.start(RequestHead("http", "GET", "https", "/"))


def test_the_report_counts_what_was_sealed_and_opened():
    places = [place("$[*]", response="encrypt", already_sealed="skip")]
    flow = Plan.compile(places, Limits(MAX_BODY)).response_flow(exchange(), "GET")
    list(flow.start(ResponseHead(200, JSON)))
    list(flow.feed(b"[1,2,%s]" % seal("3")))
    list(flow.finish(complete=True))
    assert (flow.report.sealed, flow.report.opened, len(flow.report.kids)) == (2, 1, 1)
