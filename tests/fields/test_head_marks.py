"""Marks in heads: what is one, and that what is written there is what frameworks read back."""

from __future__ import annotations

from contextlib import suppress
from http.cookies import CookieError, SimpleCookie
from urllib.parse import parse_qsl

import msgspec
import pytest
from django.http.cookie import parse_cookie as django_cookies
from fields.flowing import JSON, exchange, is_no_token, place, request, response, seal, unseal
from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.requests import cookie_parser as starlette_cookies
from werkzeug.http import parse_cookie as werkzeug_cookies

from secmiddleware.fields.head_marks import HeadMark, overlaps, read_mark
from secmiddleware.fields.limits import Limits
from secmiddleware.fields.marks import Mark
from secmiddleware.fields.rules import FieldRule, PlaceRule, Plan
from secmiddleware.messages import Body, Head, Refusal, RequestHead, ResponseHead


def marked(*marks, name="ssn", **actions) -> list[PlaceRule]:
    return [PlaceRule(FieldRule(name), tuple(map(read_mark, marks)), **actions)]


BLANKS = (b"\t", b"\x0b", b"\x1c", b"\x85", b"\xa0", b"\xc2\xa0", b"\xe2\x80\x83", b"\xe3\x80\x80")

DECRYPT = marked("header:X-SSN", "cookie:ssn", "query:ssn", request="decrypt", response="encrypt")
STORE = marked("header:X-SSN", "cookie:ssn", "query:ssn", request="encrypt")


def asked(places, *, query=b"", headers=(), within=None):
    """What the app gets to see of a request's head, or the refusal."""
    within = exchange() if within is None else within
    head = RequestHead("http", "GET", "https", "/", query=query, headers=tuple(headers))
    first, *_ = Plan.compile(places, Limits(1000)).request_flow(within).start(head)
    return first.head if isinstance(first, Head) else first


def answered(places, *headers, within=None):
    within = exchange() if within is None else within
    flow = Plan.compile(places, Limits(1000)).response_flow(within, "GET")
    first, *_ = flow.start(ResponseHead(200, headers))
    return first.head.headers if isinstance(first, Head) else first


def token(text: str) -> bytes:
    return seal(msgspec.json.encode(text))[1:-1]


def test_a_mark_says_which_part_and_which_name():
    assert read_mark("header:X-Id") == HeadMark("header", "x-id")
    assert read_mark("cookie:SID") == HeadMark("cookie", "SID")
    assert read_mark("query:customer[e mail]") == HeadMark("query", "customer[e mail]")
    assert read_mark("$.ssn") == Mark.parse("$.ssn")
    assert str(read_mark("header:X-Id")) == "header:x-id"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("header:", "must have a name"),
        ("cookie:" + "a" * 201, "must have a name"),
        ("header:X_Id", "is not the name of a header"),
        ("header:X Id", "is not the name of a header"),
        ("cookie:a=b", "is not the name of a cookie"),
        ("header:Content-Length", "it must stay readable"),
        ("header:Sec-WebSocket-Protocol", "it must stay readable"),
        ("header:Cookie", "as in cookie:sid"),
        ("header:location", "as in query:email"),
        ("query:\ud800", "half a surrogate pair"),
        ("Header:X-Id", "is not a JSONPath expression"),
    ],
)
def test_what_is_no_mark_is_told(text, message):
    with pytest.raises(ValueError, match=message):
        read_mark(text)


def test_a_mark_in_a_head_overlaps_with_itself_alone():
    assert overlaps(read_mark("header:X-Id"), read_mark("header:x-id"))
    assert not overlaps(read_mark("cookie:id"), read_mark("query:id"))
    assert not overlaps(read_mark("query:id"), read_mark("$.id"))
    assert overlaps(read_mark("$.id"), read_mark("$..id"))


def test_a_body_without_marks_streams_behind_a_marked_head():
    flow = Plan.compile(DECRYPT, Limits(10)).request_flow(exchange())
    head = RequestHead("http", "POST", "https", "/", query=b"ssn=" + token("123-45"))
    (event,) = flow.start(head)
    assert event.head.query == b"ssn=123-45"
    assert list(flow.feed(b"x" * 100)) == [Body(b"x" * 100, more=True)]
    assert flow.report.opened == 1


@given(st.text(st.characters(codec="ascii"), max_size=20).filter(is_no_token))
@settings(deadline=None)
def test_every_ascii_text_in_a_cookie_is_what_frameworks_read(text):
    seen = asked(DECRYPT, headers=[(b"cookie", b"a=1; ssn=" + token(text) + b"; b=2")])
    (cookie,) = [value.decode("ascii") for name, value in seen.headers if name == b"cookie"]
    for parse in (django_cookies, starlette_cookies, werkzeug_cookies):
        assert dict(parse(cookie)) == {"a": "1", "ssn": text, "b": "2"}, parse
    spelled = cookie.partition("; ")[2].partition("; b=2")[0].encode("ascii")
    ((_, sealed),) = answered(DECRYPT, (b"set-cookie", spelled + b"; Path=/"))
    if text:
        name, _, value = sealed.removesuffix(b"; Path=/").partition(b"=")
        assert (name, msgspec.json.decode(unseal(b'"' + value + b'"'))) == (b"ssn", text)
    else:
        assert sealed == spelled + b"; Path=/"


@given(st.text(st.characters(codec="utf-8"), max_size=20).filter(is_no_token))
@settings(deadline=None)
def test_every_text_in_a_query_is_what_everybody_reads(text):
    seen = asked(DECRYPT, query=b"a=%2f+&ssn=" + token(text) + b"&&b")
    assert seen.query.startswith(b"a=%2f+&ssn=")
    assert seen.query.endswith(b"&&b")
    assert parse_qsl(seen.query.decode("ascii"), keep_blank_values=True) == [
        ("a", "/ "),
        ("ssn", text),
        ("b", ""),
    ]
    stored = asked(STORE, query=seen.query)
    opened = asked(DECRYPT, query=stored.query)
    assert opened.query == seen.query


@given(st.text(st.characters(codec="latin-1"), max_size=20))
@settings(deadline=None)
def test_a_text_in_a_header_arrives_whole_or_not_at_all(text):
    seen = asked(DECRYPT, headers=[(b"x-ssn", token(text))])
    if any((char < " " and char != "\t") or char == "\x7f" for char in text):
        assert seen == Refusal("payload_malformed", "header:x-ssn")
    else:
        assert seen.headers == ((b"x-ssn", text.encode("latin-1")),)


def test_what_a_part_of_a_head_cannot_carry_is_refused():
    for text in ("\u2603", "a\r\nset-cookie: b=c", "\x00"):
        seen = asked(DECRYPT, headers=[(b"x-ssn", token(text))])
        assert seen == Refusal("payload_malformed", "header:x-ssn")
    seen = asked(DECRYPT, headers=[(b"cookie", b"ssn=" + token("\u00e9"))])
    assert seen == Refusal("payload_malformed", "cookie:ssn")
    assert asked(STORE, query=b"ssn=%ff") == Refusal("payload_malformed", "query:ssn")


def test_a_header_that_wsgi_takes_for_the_marked_one_is_refused():
    twin = [(b"x-ssn", token("123-45-6789")), (b"x_ssn", b"plain")]
    assert asked(DECRYPT, headers=twin) == Refusal("header_ambiguous", "header:x-ssn")
    assert answered(DECRYPT, (b"x_ssn", b"123-45-6789")) == Refusal("seal_failed", "header:x-ssn")


def seen_by_frameworks(cookie):
    """What any framework takes for the value of `ssn`, an empty one apart; some read UTF-8, some Latin-1."""
    latin_1, utf_8 = cookie.decode("latin-1"), cookie.decode("utf-8", "replace")
    parsers = (django_cookies, starlette_cookies, http_cookies)
    read = [parse(text) for text in (latin_1, utf_8) for parse in parsers]
    with suppress(UnicodeDecodeError):
        read.append(werkzeug_cookies(latin_1))
    return [one["ssn"] for one in read if one.get("ssn")]


def http_cookies(text):
    try:
        return {name: morsel.value for name, morsel in SimpleCookie(text).items()}
    except CookieError:
        return {}


@pytest.mark.parametrize(
    "cookie",
    [
        *(b"\xa0ssn=x", b"a=1;\x85ssn=x", b"ssn\xa0=x", b"a=1; \xc2\xa0ssn=x", b"\xe3\x80\x80ssn=x"),
        *(b"a=1; \x1fssn=x", b"\x0bssn=x", b"a=1 ssn=x", b"a=1,ssn=x", b"ssn", b"a=1; ssn ;b=2"),
    ],
)
def test_a_cookie_that_some_framework_takes_for_the_marked_one_is_refused(cookie):
    assert asked(DECRYPT, headers=[(b"cookie", cookie)]) == Refusal("header_ambiguous", "cookie:ssn")
    mixed = [(b"cookie", b"ssn=" + token("123-45-6789") + b"; " + cookie)]
    assert asked(DECRYPT, headers=mixed) == Refusal("header_ambiguous", "cookie:ssn")


def test_a_quoted_cookie_that_does_not_end_before_its_semicolon_is_refused():
    for value in (b'"12;34"', b'"', b'"12'):
        seen = asked(STORE, headers=[(b"cookie", b"ssn=" + value + b"; b=2")])
        assert seen == Refusal("payload_malformed", "cookie:ssn")


@given(st.lists(st.sampled_from([b"ssn", b"=", b";", b" ", b",", b'"', b"a", b"\\", *BLANKS]), max_size=12))
@settings(max_examples=1000, deadline=None)
def test_no_framework_sees_a_marked_cookie_that_was_not_opened(pieces):
    cookie = b"".join(pieces)
    seen = asked(DECRYPT, headers=[(b"cookie", cookie)])
    assert isinstance(seen, Refusal) or seen_by_frameworks(cookie) == []


def test_other_cookies_may_hold_the_name_of_a_marked_one():
    cookie = b'a=ssn=1; my-ssn=2; b="ssn"; c={"ssn":1}; ssn.d=3; e=/x?ssn=4&ssn=5'
    assert asked(DECRYPT, headers=[(b"cookie", cookie)]).headers == ((b"cookie", cookie),)


def test_every_header_cookie_and_parameter_of_the_name_is_opened():
    one, two = token("one-value"), token("two-values")
    seen = asked(
        DECRYPT,
        query=b"ssn=" + one + b"&ssn=" + two,
        headers=[(b"x-ssn", one), (b"x-ssn", two), (b"cookie", b"ssn=" + one), (b"cookie", b"ssn=" + two)],
    )
    assert seen.query == b"ssn=one-value&ssn=two-values"
    assert seen.headers == (
        *((b"x-ssn", b"one-value"), (b"x-ssn", b"two-values")),
        *((b"cookie", b"ssn=one-value"), (b"cookie", b"ssn=two-values")),
    )


def test_values_that_are_no_strings_are_written_as_their_json():
    for value, text in ((b"1.10", b"1.10"), (b"true", b"true"), (b"null", b""), (b'{"a": 1}', b'{"a": 1}')):
        seen = asked(DECRYPT, headers=[(b"x-ssn", seal(value)[1:-1])])
        assert seen.headers == ((b"x-ssn", text),)


def test_what_a_head_brought_is_guarded_and_the_answer_asked_for_readable():
    within = exchange()
    headers = [(b"x-ssn", token("123-45-6789")), (b"accept-encoding", b"br"), (b"range", b"bytes=0-3")]
    seen = asked(DECRYPT, headers=headers, within=within)
    assert seen.headers == ((b"x-ssn", b"123-45-6789"), (b"accept-encoding", b"identity"))
    outcome = response(DECRYPT, b'{"echo":"123-45-6789"}', within=within)
    assert outcome.refusal == Refusal("seal_failed", "fields.ssn.leak_guard")


def test_a_head_and_a_body_are_counted_together():
    both = marked("query:ssn", "$.ssn", request="decrypt")
    within = exchange()
    flow = Plan.compile(both, Limits(1000)).request_flow(within)
    head = RequestHead("http", "POST", "https", "/", query=b"ssn=" + token("a"), headers=JSON)
    assert list(flow.start(head)) == []
    assert list(flow.feed(b'{"ssn":' + seal('"b"') + b"}")) == []
    went, body = flow.finish(complete=True)
    assert went.head.query == b"ssn=a"
    assert body.data == b'{"ssn":"b"}'
    assert flow.report.opened == 2


def test_a_refused_head_ends_the_message():
    flow = Plan.compile(DECRYPT, Limits(1000)).request_flow(exchange())
    refused = list(flow.start(RequestHead("http", "GET", "https", "/", query=b"ssn=plain")))
    assert refused == [Refusal("field_undecryptable", "query:ssn")]
    assert list(flow.feed(b"{}")) == list(flow.finish(complete=True)) == []


def test_places_for_bodies_take_no_marks_of_heads():
    assert request(marked("$.a", "query:a", request="encrypt"), b'{"query:a":1}').body == b'{"query:a":1}'
    assert place("$.a").marks == (Mark.parse("$.a"),)


@pytest.mark.parametrize("mark", ["header:X-SSN", "cookie:ssn", "query:ssn"])
@pytest.mark.parametrize(("otherwise", "last"), [("null", 0), ("mask", 0), ("mask", 4)])
def test_what_a_stranger_was_shown_in_a_head_is_not_stored_when_it_comes_back(mark, otherwise, last):
    rule = FieldRule("ssn", otherwise=otherwise, mask_last=last)
    places = [PlaceRule(rule, (read_mark(mark),), request="encrypt", response="decrypt")]
    for text in {("null", 0): ("",), ("mask", 0): ("***",), ("mask", 4): ("***", "***1120")}[otherwise, last]:
        raw = text.encode()
        sent = {"headers": ((b"x-ssn", raw), (b"cookie", b"ssn=" + raw)), "query": b"ssn=" + raw}
        assert asked(places, **sent) == Refusal("field_missing", str(read_mark(mark)))
    # Where nobody is shown an empty text for null, it is a text like any.
    if otherwise == "mask":
        empty = {"headers": ((b"x-ssn", b""), (b"cookie", b"ssn=")), "query": b"ssn="}
        seen = asked(places, **empty)
        spelled = [seen.query.partition(b"=")[2], *(value.rpartition(b"=")[2] for _, value in seen.headers)]
        (stored,) = [value for value in spelled if value]
        assert unseal(b'"' + stored + b'"') == b'""'
