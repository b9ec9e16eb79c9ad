"""Streams: each record goes on as soon as it is whole, and the same whatever pieces it comes in."""

import json
from datetime import timedelta

import pytest
from fields.flowing import (
    NOW,
    RING,
    STRANGE_RING,
    Outcome,
    exchange,
    having_opened,
    place,
    request,
    seal,
    unseal,
    unsealed,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from secmiddleware.fields.json_reading import UnreadableJSON
from secmiddleware.fields.json_rewriting import Locator
from secmiddleware.fields.limits import HeldBytes, Limits
from secmiddleware.fields.marks import Mark
from secmiddleware.fields.records import (
    data_of_events,
    locate_in_events,
    locate_in_texts,
    splitter_for,
)
from secmiddleware.fields.rules import Plan
from secmiddleware.messages import Body, Head, Refusal, RequestHead, ResponseHead, Trailers

TYPES = {
    "lines": b"application/x-ndjson",
    "sequence": b"application/json-seq",
    "events": b"text/event-stream",
}
SEAL = [place("$.ssn", response="encrypt")]
DECRYPT = [place("$.ssn", request="decrypt")]
GIVEN = [place("$.t", request="decrypt")]
BOTH = [place("$.ssn", request="decrypt", response="encrypt")]


def streamed(places, kind, within=None, limits=None, headers=(), status=200, method="GET"):
    """A flow of a response whose head has come."""
    plan = Plan.compile(places, limits or Limits(1 << 20))
    flow = plan.response_flow(exchange() if within is None else within, method)
    assert list(flow.start(ResponseHead(status, ((b"content-type", TYPES[kind]), *headers)))) == []
    return flow


def uploaded(places, kind="lines", within=None, limits=None, headers=()):
    """A flow of a request whose head has come."""
    plan = Plan.compile(places, limits or Limits(1 << 20))
    flow = plan.request_flow(exchange() if within is None else within, streams=True)
    head = RequestHead("http", "POST", "https", "/", headers=((b"content-type", TYPES[kind]), *headers))
    assert list(flow.start(head)) == []
    return flow


def outcome_of(flow, chunks, complete=True):
    outcome = Outcome(None, [], None)
    events = [event for chunk in chunks for event in flow.feed(chunk)]
    events += flow.finish(complete)
    for event in events:
        assert outcome.refusal is None, "an event after a refusal"
        match event:
            case Head(head):
                outcome.head = head
            case Body(data):
                assert outcome.head is not None, "a body before its head"
                outcome.pieces.append(data)
            case Refusal():
                outcome.refusal = event
    assert flow.load == 0
    return outcome


def data_in(events):
    return b"".join(event.data for event in events if isinstance(event, Body))


# --- When records go on.

RECORDS = {
    "lines": (b'{"a":', b'1}\n{"b"', b":2}\r\n"),
    "sequence": (b'\x1e{"a":', b'1}\n\x1e{"b"', b":2}\r\n"),
    "events": (b"data: {", b"}\n\n: x", b"\r\r"),
}


@pytest.mark.parametrize("kind", TYPES)
def test_a_record_goes_on_with_the_piece_that_ends_it(kind):
    flow = streamed(SEAL, kind)
    first, second, third = RECORDS[kind]
    assert list(flow.feed(first)) == []
    assert flow.load == len(first)
    head, body = flow.feed(second)
    assert isinstance(head, Head)
    assert body.more
    whole = first + second + third
    assert whole.startswith(body.data)
    (last,) = flow.feed(third)
    assert body.data + last.data == whole
    assert flow.load == 0
    assert list(flow.finish(True)) == [Body(b"")]


def test_a_text_of_a_sequence_on_several_lines_goes_on_when_it_is_whole():
    flow = streamed(SEAL, "sequence")
    assert data_in(flow.feed(b"\x1e{\n")) == b""
    assert data_in(flow.feed(b'"a":1\n')) == b""
    assert data_in(flow.feed(b"}\n")) == b'\x1e{\n"a":1\n}\n'


def test_a_text_of_a_sequence_may_begin_with_blank_lines_in_any_pieces():
    body = b'\x1e\n \n{"ssn":"1"}\n'
    for cut in range(len(body)):
        flow = streamed(SEAL, "sequence")
        outcome = outcome_of(flow, [body[:cut], body[cut:]])
        assert unsealed(outcome.body) == b'\x1e\n \n{"ssn":<"1">}\n', cut


def test_an_unfinished_text_of_a_sequence_is_looked_at_a_few_times_and_waits_then_for_the_next():
    flow = streamed(SEAL, "sequence")
    for _ in range(50):
        assert data_in(flow.feed(b"\x1e[\n" if flow.load == 0 else b"1,\n")) == b""
    assert data_in(flow.feed(b"1]\n")) == b""
    assert data_in(flow.feed(b"\x1e")).endswith(b"1]\n")


def test_the_lf_of_a_cr_lf_that_comes_later_is_no_line_of_its_own():
    flow = streamed(SEAL, "events")
    assert data_in(flow.feed(b"data: {}\r\n\r")) == b"data: {}\r\n\r"
    assert data_in(flow.feed(b'\ndata: {"ssn":\r')) == b""
    assert data_in(flow.feed(b'\ndata: "1"}\r\n\r')).startswith(b'\ndata: {"ssn":\r\ndata: "sm1.')
    assert data_in(flow.feed(b"\n")) == b"\n"


# --- The same whatever the pieces.

MARKS = Locator([Mark.parse("$.ssn"), Mark.parse("$..deep")])
NAMES, SPACES = st.sampled_from(["ssn", "x", "deep"]), st.sampled_from(["", " ", "\r"])
VALUES = st.recursive(
    st.sampled_from(['"1"', "1.10", "null", '"\\n\u00e9"', "[]"]),
    lambda inner: st.tuples(
        st.sampled_from(["ssn", "x", "deep"]), inner, st.sampled_from(["", " ", "\r"])
    ).map(lambda parts: f'{{"{parts[0]}":{parts[2]}{parts[1]}}}'),
    max_leaves=3,
)
SEQUENCE_ENDS = st.sampled_from(["\n", "\r\n", "\n\n", ""])
LINE_ENDS = st.sampled_from(["\n", "\r\n"])
LINES = st.lists(st.tuples(VALUES | st.just(""), LINE_ENDS).map("".join), max_size=5).map("".join)
SEQUENCES = st.lists(
    st.tuples(st.sampled_from(["\x1e", "\x1e\n"]), VALUES | st.just(""), SEQUENCE_ENDS).map("".join),
    max_size=5,
).map("".join)
EVENT_LINES = st.sampled_from(
    ["data", "data:", "data: ", ":", "id: 1", "event:data", "datax: 1", "data: [DONE]", "", "", ""]
) | VALUES.map(lambda value: "data: " + value.replace("\r", " "))
EVENTS = st.lists(
    st.tuples(EVENT_LINES, st.sampled_from(["\n", "\r\n", "\r"])).map("".join), max_size=12
).map("".join)
STREAMS = (
    st.tuples(st.just("lines"), LINES | LINES.map(lambda text: "\ufeff" + text))
    | st.tuples(st.just("sequence"), SEQUENCES)
    | st.tuples(st.just("events"), EVENTS | EVENTS.map(lambda text: "\ufeff" + text))
)


def pieces_of(data, body):
    cuts = sorted(data.draw(st.lists(st.integers(0, len(body)), max_size=8)))
    return [body[a:b] for a, b in zip([0, *cuts], [*cuts, len(body)], strict=True)]


@settings(deadline=None)
@given(STREAMS, st.data())
def test_the_units_of_a_stream_are_all_of_it_in_any_pieces(stream, data):
    kind, text = stream
    body = text.encode("utf-8")
    splitter = splitter_for(kind)
    units = [unit for piece in pieces_of(data, body) for unit in splitter.feed(piece)]
    assert b"".join([*units, splitter.finish()]) == body


def located(kind, body):
    if kind != "events":
        return locate_in_texts(body, kind, MARKS)
    return locate_in_events(body, MARKS, frozenset({b"[DONE]"}))


@settings(deadline=None, max_examples=300)
@given(STREAMS, st.data())
def test_what_is_marked_in_a_stream_is_marked_in_any_pieces(stream, data):
    kind, text = stream
    body = text.encode("utf-8")
    splitter = splitter_for(kind)
    units = [unit for piece in pieces_of(data, body) for unit in splitter.feed(piece)]
    units.append(splitter.finish())
    try:
        whole = [(hit.start, hit.end, hit.mark) for hit in located(kind, body)]
    except UnreadableJSON:
        whole = None
    found, start = [], 0
    try:
        for unit in units:
            found += [(start + hit.start, start + hit.end, hit.mark) for hit in located(kind, unit)]
            start += len(unit)
    except UnreadableJSON:
        found = None
    assert found == whole


@settings(deadline=None)
@given(LINES | LINES.map(lambda text: "\ufeff" + text), st.data())
def test_what_was_sealed_record_by_record_is_opened_record_by_record(text, data):
    body = text.encode("utf-8")
    sealed = outcome_of(streamed(SEAL, "lines"), pieces_of(data, body))
    if sealed.refusal is not None:
        return
    opened = outcome_of(uploaded(DECRYPT), pieces_of(data, sealed.body))
    # An end of a line inside of a record is only space, and a CR there becomes a blank.
    assert opened.body.replace(b"\r", b" ") == body.replace(b"\r", b" ")


# --- Events.


def test_a_value_on_several_lines_of_data_is_one_value():
    body = b'event: a\ndata: {"ssn": {\ndata:"x":\r\ndata: 1}}\n\n'
    sent = outcome_of(streamed(SEAL, "events"), [body]).body
    assert sent.startswith(b'event: a\ndata: {"ssn": "sm1.')
    assert sent.endswith(b'"}\n\n')
    assert unsealed(sent) == b'event: a\ndata: {"ssn": <{\n"x":\n1}>}\n\n'


def test_an_opened_value_with_ends_of_lines_has_lines_of_its_own():
    within = exchange(revealed={"ssn"})
    body = b'data: {"ssn":%b}\n\n' % seal("[1,\r\n\n2]")
    sent = outcome_of(streamed([place("$.ssn", response="decrypt")], "events", within), [body]).body
    assert sent == b'data: {"ssn":[1,\ndata: \ndata: 2]}\n\n'
    assert data_of_events(sent) == [b'{"ssn":[1,\n\n2]}']


def test_a_value_that_is_parted_by_another_field_is_refused():
    body = b'data: {"ssn": [\nid: 1\ndata: 1]}\n\n'
    assert outcome_of(streamed(SEAL, "events"), [body]).refusal == Refusal("seal_failed", "$.ssn")
    body = b'data: {"ssn": 1\nid: 1\ndata: }\n\n'
    assert outcome_of(streamed(SEAL, "events"), [body]).refusal is None


@pytest.mark.parametrize("data", [b"ping", b"[done]", b"[DONE] ", b"{", b'{"ssn":1} {}', b"[DONE]\ndata: x"])
def test_data_that_is_no_json_does_not_leave(data):
    assert outcome_of(streamed(SEAL, "events"), [b"data: " + data + b"\n\n"]).code == "seal_failed"


def test_the_plain_texts_of_the_settings_leave():
    limits = Limits(1 << 20, plain_events=frozenset({b"ping", b"a\nb"}))
    body = b"data: ping\n\ndata: a\ndata: b\n\ndata\n\ndata:  \n\n: comment\n\n"
    assert outcome_of(streamed(SEAL, "events", limits=limits), [body]).body == body


def test_an_event_without_its_end_is_one_all_the_same():
    assert b"sm1." in outcome_of(streamed(SEAL, "events"), [b'data: {"ssn":1}']).body


# --- Limits.


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("cut", [1, 7, 1000])
def test_a_record_that_is_too_long_is_refused(kind, cut):
    begin = {"lines": b'"', "sequence": b'\x1e"', "events": b'data: "'}[kind]
    end = {"lines": b'"\n', "sequence": b'"\n', "events": b'"\n\n'}[kind]
    for extra, code in ((0, None), (1, "seal_failed")):
        record = begin + b"x" * (64 - len(begin) - len(end) + extra) + end
        limits = Limits(1 << 20, line=64)
        chunks = [record[at : at + cut] for at in range(0, len(record), cut)]
        outcome = outcome_of(streamed(SEAL, kind, limits=limits), chunks)
        assert outcome.code == code
        assert code is None or outcome.refusal.where == "service.max_line"


def test_a_stream_may_be_longer_than_any_body():
    limits = Limits(64)
    body = b'{"x":1}\n' * 100
    assert outcome_of(streamed(SEAL, "lines", limits=limits), [body, body]).body == body * 2
    assert outcome_of(uploaded(DECRYPT, limits=limits), [body, body]).body == body * 2


def test_what_is_held_of_streams_counts_with_all_that_is_held():
    held = HeldBytes(10)
    limits = Limits(1 << 20, held)
    flow = streamed(SEAL, "lines", limits=limits)
    assert list(flow.feed(b"x" * 8)) == []
    assert held.total == 8
    other = uploaded(DECRYPT, limits=limits)
    (refusal,) = other.feed(b"x" * 3)
    assert refusal == Refusal("payload_too_large", "service.max_held")
    assert held.total == 8
    del flow
    assert held.total == 0


# --- Refusals.


def test_what_is_refused_before_anything_was_sent_is_answered():
    flow = streamed(SEAL, "lines")
    assert list(flow.feed(b'{}\n{"ssn"\n')) == [Refusal("seal_failed")]
    assert list(flow.feed(b"{}\n")) == []
    assert list(flow.finish(True)) == []


def test_what_is_refused_later_breaks_off_behind_what_was_good():
    flow = streamed(SEAL, "lines")
    assert data_in(flow.feed(b"{}\n")) == b"{}\n"
    assert list(flow.feed(b'{"x":1}\n{"ssn"\n')) == [Body(b'{"x":1}\n', more=True), Refusal("seal_failed")]


@pytest.mark.parametrize(("flow", "code"), [(streamed, "internal_error"), (uploaded, "payload_malformed")])
def test_a_stream_that_breaks_off_is_not_ended(flow, code):
    made = flow(BOTH, "lines")
    made.feed(b"{}\n{")
    assert list(made.finish(False)) == [Refusal(code)]
    assert made.load == 0


def test_a_stream_under_a_coding_and_a_part_of_one_are_refused():
    for headers, status in (((b"content-encoding", b"x-odd"),), 200), ((), 206):
        plan = Plan.compile(SEAL, Limits(1 << 20))
        flow = plan.response_flow(exchange(), "GET")
        events = list(flow.start(ResponseHead(status, ((b"content-type", TYPES["lines"]), *headers))))
        events += [*flow.feed(b"{}\n"), *flow.finish(True)]
        assert [event.code for event in events] == ["seal_failed"]


def test_a_stream_has_no_length_no_tag_and_no_digest():
    headers = ((b"content-length", b"3"), (b"etag", b'"1"'), (b"content-digest", b"x"), (b"x-own", b"1"))
    head = outcome_of(streamed(SEAL, "lines", headers=headers), [b"{}\n"]).head
    assert not {b"content-length", b"etag", b"content-digest"} & dict(head.headers).keys()
    assert (b"x-own", b"1") in head.headers
    head = outcome_of(uploaded(DECRYPT, headers=((b"content-length", b"3"),)), [b"{}\n"]).head
    assert head.headers == ((b"content-type", TYPES["lines"]), (b"transfer-encoding", b"chunked"))


def test_the_trailers_of_a_stream_come_behind_it_and_leak_nothing():
    flow = streamed(SEAL, "lines")
    flow.feed(b"{}\n")
    flow.trail(((b"x-own", b"1"), (b"etag", b'"1"'), (b"content-digest", b"x")))
    assert list(flow.finish(True)) == [Body(b""), Trailers(((b"x-own", b"1"),))]
    flow = streamed(SEAL, "lines", having_opened(GIVEN, SECRET))
    flow.feed(b"{}\n")
    flow.trail(((b"x-own", b"123-45-6789"),))
    assert list(flow.finish(True)) == [Refusal("seal_failed", "fields.ssn.leak_guard")]


def test_an_upload_with_a_digest_is_held_until_it_can_be_told():
    flow = uploaded(DECRYPT, headers=((b"repr-digest", b"sha-256=:AAAA:"), (b"content-length", b"3")))
    assert list(flow.feed(b"{}\n")) == []
    assert flow.load == 3


def test_a_stream_without_a_record_is_empty():
    for kind in TYPES:
        assert outcome_of(streamed(SEAL, kind), []).body == b""


def test_what_is_required_is_required_of_each_record():
    needs = [place("$.ssn", request="decrypt", required=True)]
    good, bad = b'\n{"ssn":%b}\n' % seal("1"), b'{"x":1}\n'
    flow = uploaded(needs)
    assert data_in(flow.feed(good)) == b'\n{"ssn":1}\n'
    assert list(flow.feed(bad)) == [Refusal("field_missing", "$.ssn")]
    held = request(needs, good, bad, headers=((b"content-type", TYPES["lines"]),))
    assert held.refusal == Refusal("field_missing", "$.ssn")
    assert request(needs, good, good, headers=((b"content-type", TYPES["lines"]),)).refusal is None


# --- Fresh keys and a clock that moves.


def test_each_record_is_sealed_with_the_keys_and_at_the_time_of_its_moment():
    within = exchange()
    flow = streamed(SEAL, "lines", within)
    first = data_in(flow.feed(b'{"ssn":1}\n'))
    within.fresh = lambda: (STRANGE_RING, {}, NOW + timedelta(hours=1))
    second = data_in(flow.feed(b'{"ssn":1}\n'))
    assert unseal(json_token(first)) == b"1"
    assert unseal(json_token(second), ring=STRANGE_RING) == b"1"
    assert within.now == NOW + timedelta(hours=1)


def json_token(line):
    return json.dumps(json.loads(line)["ssn"]).encode()


def test_a_record_of_a_key_that_came_during_the_upload_opens():
    within = exchange()
    flow = uploaded(DECRYPT, within=within)
    assert data_in(flow.feed(b'{"ssn":%b}\n' % seal("1"))) == b'{"ssn":1}\n'
    later = b'{"ssn":%b}\n' % seal("2", ring=STRANGE_RING)
    within.fresh = lambda: (STRANGE_RING, {}, NOW)
    assert data_in(flow.feed(later)) == b'{"ssn":2}\n'
    within.fresh = lambda: (RING, {}, NOW)
    assert [event.code for event in flow.feed(later)] == ["key_unknown"]


# --- The leak guard.

SECRET = '"123-45-6789"'


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("places", [SEAL, []], ids=["marked", "guarded"])
def test_an_opened_value_does_not_leave_outside_of_a_mark(kind, places):
    begin, end = {"lines": (b"", b"\n"), "sequence": (b"\x1e", b"\n"), "events": (b"data: ", b"\n\n")}[kind]
    for echo in (b'{"x":"123-45-6789"}', b'{"x":"12\\u0033-45-6789"}', b'{"123%2D45%2D6789":1}'):
        flow = streamed(places, kind, having_opened(GIVEN, SECRET))
        good = begin + b'{"ssn":"1"}' + end
        assert data_in(flow.feed(good))
        record = begin + echo + end
        events = [event for at in range(len(record)) for event in flow.feed(record[at : at + 1])]
        events += flow.finish(True)
        assert events == [Refusal("seal_failed", "fields.ssn.leak_guard")]


def test_an_opened_value_does_not_leave_in_a_comment_or_an_id():
    for line in (b": 123-45-6789", b"id:123-45-6789", b"123-45-6789: x"):
        within = having_opened(GIVEN, SECRET)
        flow = streamed(SEAL, "events", within)
        assert outcome_of(flow, [line + b"\ndata: {}\n\n"]).refusal.where == "fields.ssn.leak_guard"


def test_a_value_of_several_lines_does_not_leave_line_by_line():
    within = having_opened(GIVEN, '"first line\\nsecond"')
    flow = streamed([], "lines", within)
    assert data_in(flow.feed(b"a first line\n")) == b""
    assert flow.feed(b"second\n") == (Refusal("seal_failed", "fields.ssn.leak_guard"),)
    flow = streamed([], "lines", having_opened(GIVEN, '"first line\\nsecond"'))
    assert data_in(flow.feed(b"a first line\n")) == b""
    assert data_in(flow.feed(b"third\n")) == b"a first line\nthird\n"
    flow = streamed([], "events", having_opened(GIVEN, '"first line\\nsecond"'))
    events = flow.feed(b"data: first line\ndata: second\n\n")
    assert events == (Refusal("seal_failed", "fields.ssn.leak_guard"),)


def test_a_value_is_found_over_every_cut_of_a_piece_and_not_where_it_is_dealt_out_over_records():
    record = b'data: {"delta":"123-45-6789"}\n\n'
    for cut in range(1, len(record)):
        flow = streamed([], "events", having_opened(GIVEN, SECRET))
        events = (*flow.feed(record[:cut]), *flow.feed(record[cut:]))
        assert events == (Refusal("seal_failed", "fields.ssn.leak_guard"),)
    # The border that docs/bodies.md and docs/threat-model.md state: a text for each record.
    dealt = b'data: {"delta":"123-45"}\n\ndata: {"delta":"-6789"}\n\n'
    assert outcome_of(streamed([], "events", having_opened(GIVEN, SECRET)), [dealt]).body == dealt
    dealt = b'{"delta":"123-45"}\n{"delta":"-6789"}\n'
    assert outcome_of(streamed([], "lines", having_opened(GIVEN, SECRET)), [dealt]).body == dealt


def test_a_line_that_is_withheld_comes_with_the_end():
    flow = streamed([], "lines", having_opened(GIVEN, '"first line\\nsecond"'))
    assert outcome_of(flow, [b"first line\n"]).body == b"first line\n"


def test_what_is_opened_while_the_response_is_on_its_way_is_looked_for():
    within = exchange()
    upload = uploaded(DECRYPT, within=within)
    assert data_in(upload.feed(b"{}\n"))
    plan = Plan.compile(DECRYPT, Limits(1 << 20))
    flow = plan.response_flow(within, "GET")
    assert not flow.passive
    flow.start(ResponseHead(200, ((b"content-type", TYPES["lines"]),)))
    assert data_in(flow.feed(b'{"x":"123-45-6789"}\n'))
    assert data_in(upload.feed(b'{"ssn":%b}\n' % seal(SECRET)))
    (refusal,) = flow.feed(b'{"x":"123-45-6789"}\n')
    assert refusal.where == "fields.ssn.leak_guard"


def test_a_held_response_is_searched_for_what_was_opened_after_its_head():
    within = exchange()
    upload = uploaded(DECRYPT, within=within)
    upload.feed(b"{}\n")
    flow = Plan.compile(DECRYPT, Limits(1 << 20)).response_flow(within, "GET")
    flow.start(ResponseHead(200, ((b"content-type", b"text/plain"),)))
    upload.feed(b'{"ssn":%b}\n' % seal(SECRET))
    flow.feed(b"123-45-6789")
    (refusal,) = flow.finish(True)
    assert refusal.where == "fields.ssn.leak_guard"


def test_of_a_stream_without_end_the_newest_values_are_remembered():
    within = exchange()
    upload = uploaded(DECRYPT, within=within)
    flow = streamed(BOTH, "lines", within)
    for number in range(2000):
        line = b'{"ssn":%b}\n' % seal(f'"{"x" * 500}{number:06}"')
        assert data_in(upload.feed(line))
        if number % 100 == 99:
            assert data_in(flow.feed(b'{"y":1}\n'))
    assert sum(len(value) for _, value in within.opened) <= 256 << 10
    assert within.opened.forgotten + len(within.opened) == 2000
    (refusal,) = flow.feed(b'{"y":"%b001999"}\n' % (b"x" * 500))
    assert refusal.where == "fields.ssn.leak_guard"


# --- Many records at once.

MANY = {
    "lines": lambda text: text + b"\n",
    "sequence": lambda text: b"\x1e" + text + b"\n",
    "events": lambda text: b"data: " + text + b"\n\n",
}
# What must be seen among others that can go on together: each is texts of records in a row.
ODD_TEXTS = (
    (b"",), (b" ",), (b' {"a": [1, {}]} ',), (b'"\xc3\xa9"',), (b"{}\r",), (b'{"ssn":1}',),
    (b'{"s\\u0073n":1}',), (b'"\\u0041"',), (b'{"ssn":1,"ssn":2}',), (b"1 2",), (b"[" * 201 + b"]" * 201,),
    (b'["' + b"[" * 300 + b'"]',), (b'"\\ud800"',), (b'"\xff"',), (b"\xef\xbb\xbf1",),
    (b"\x0b",), (b"nul",), (b"[DONE]",), (b"1,2",),
    (b"[1,", b"2]"), (b"1 2", b"[3,", b"4]"), (b'{"a":"opened value"}',), (b'"open', b'ed value"'),
    (b"[1,\n2]",), (b"1\n1",), (b"1\n\x1e1",), (b"\x1e", b"1"), (b"1\n\n2",), (b"1\nid: 2",), (b"1\n\n: 2",),
    (b"1\n\ndata: [\ndata: 2]",), (b"1\n\n[2",), (b"1\n\n\n2",), (b"[\r]",),
)  # fmt: skip
WAYS = {
    "a request": lambda kind, within: uploaded([place("$.ssn", request="encrypt")], kind, within),
    "a request of which something is required": lambda kind, within: uploaded(
        [place("$.ssn", request="encrypt", required=True)], kind, within
    ),
    "a response": lambda kind, within: streamed(SEAL, kind, within),
    "a response without marks": lambda kind, within: streamed(GIVEN, kind, within),
}


def told(outcome):
    body = unsealed(b"".join(outcome.pieces))
    return body, outcome.refusal, None if outcome.head is None else outcome.head.headers


def together_and_apart(way, kind, chunks, opened):
    """What becomes of the chunks where records may go on together, and where each is looked at."""
    together = outcome_of(WAYS[way](kind, having_opened(GIVEN, opened)), chunks)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("secmiddleware.fields.streams._FEWEST", 1 << 30)
        apart = outcome_of(WAYS[way](kind, having_opened(GIVEN, opened)), chunks)
    return told(together), told(apart)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", MANY)
@pytest.mark.parametrize("begun", [False, True])
def test_many_records_in_one_piece_come_to_what_each_comes_to_by_itself(way, kind, begun):
    if "request" in way and kind == "events":
        kind = "lines"
    first = [MANY[kind](b'{"ssn":1}')] if begun else []
    for odd in ODD_TEXTS:
        for opened in (b'"another"', b'"opened value"'):
            texts = (b"1", b'{"a":1}', *odd, b'[["b"]]', b"2")
            for all_of_it in (texts, (*odd, b"1", b"1", b"1", b"1")):
                body = b"".join(map(MANY[kind], all_of_it))
                together, apart = together_and_apart(way, kind, [*first, body], opened)
                assert together == apart, (opened, body)


@pytest.mark.parametrize("kind", ["lines", "sequence"])
def test_what_stands_before_the_first_of_many_is_looked_at(kind):
    for before in (b"1", b"[", b"1 2", b"x"):
        body = before + b"\n" + MANY[kind](b"1") * 4
        together, apart = together_and_apart("a request", kind, [body], b'"another"')
        assert together == apart, before


def test_a_value_of_several_lines_does_not_leave_behind_many_records():
    """Its first line is the last of what could go on together, and the rest comes later."""
    chunks = [b"1\n1\n1\n1\nopened\n", b" value\n"]
    (body, refusal, _), apart = together_and_apart(
        "a response without marks", "lines", chunks, b'"opened\\n value"'
    )
    assert refusal == Refusal("seal_failed", "fields.ssn.leak_guard")
    assert b"opened" not in body
    assert (body, refusal) == apart[:2]


@pytest.mark.parametrize("kind", MANY)
@pytest.mark.parametrize("text", [b"", b"1", b'{"a": 1}'])
def test_small_records_without_marks_are_not_looked_at_one_by_one(monkeypatch, kind, text):
    """A piece of 64 KiB has tens of thousands, and took a tenth of a second of everybody's."""
    looked = []
    monkeypatch.setattr("secmiddleware.fields.streams.rewrite", lambda *_: looked.append(1))
    unit = MANY[kind](text)
    body = unit * (65536 // len(unit))
    flows = [streamed(SEAL, kind, having_opened(GIVEN, b'"078-05-1120"'))]
    if kind != "events":
        flows.append(uploaded(DECRYPT, kind))
    for flow in flows:
        went = data_in(flow.feed(body))
        # A text of a sequence that is blank so far waits for what may come.
        assert went + unit == body or went == body
    assert looked == []


def test_what_would_leak_among_many_records_stops_what_comes_behind_it_and_nothing_before():
    lines = [b'{"n":%d}\n' % number for number in range(200)]
    lines[150] = b'{"n":"078-05-1120"}\n'
    flow = streamed(SEAL, "lines", having_opened(GIVEN, b'"078-05-1120"'))
    outcome = outcome_of(flow, [lines[0], b"".join(lines[1:])])
    assert b"".join(outcome.pieces) == b"".join(lines[:150])
    assert outcome.refusal == Refusal("seal_failed", "fields.ssn.leak_guard")


def test_a_line_that_is_too_long_among_many_is_refused():
    long = b'"' + b"x" * 100 + b'"\n'
    for flow in (
        uploaded(DECRYPT, limits=Limits(99, line=100)),
        streamed(SEAL, "lines", limits=Limits(99, line=100)),
    ):
        outcome = outcome_of(flow, [b"1\n" * 50 + long + b"1\n" * 50])
        assert outcome.refusal.where == "service.max_line"
