"""Whatever a caller writes, an attribute of it is short, visible ASCII without the values of the query."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from secmiddleware.messages import Identity, Peer, RequestHead
from secmiddleware.telemetry.attributes import (
    KNOWN_METHODS,
    Certificates,
    method_of,
    request_attributes,
    scrubbed_path,
    scrubbed_query,
    series_of,
    shown,
)
from secmiddleware.telemetry.observer import ExchangeRecord

_NAMES = st.sampled_from([b"host", b"user-agent", b"cookie"])
_text = st.text(st.characters(), max_size=600)


@st.composite
def heads(draw: st.DrawFn) -> RequestHead:
    return RequestHead(
        protocol="http",
        method=draw(_text),
        scheme=draw(_text),
        path="/" + draw(_text),
        raw_path=draw(st.none() | st.binary(max_size=600)),
        query=draw(st.binary(max_size=2000)),
        http_version=draw(_text),
        headers=tuple(
            (name, draw(st.binary(max_size=600)))
            for name in draw(st.sets(st.sampled_from([b"host", b"user-agent"])))
        ),
        peer=Peer(draw(st.none() | _text), draw(st.none() | st.integers(0, 65535))),
    )


@settings(max_examples=200, deadline=None)
@given(head=heads())
def test_every_text_is_short_and_visible(head: RequestHead) -> None:
    for value in request_attributes(head, method_of(head, KNOWN_METHODS)).values():
        if isinstance(value, str):
            assert value.isascii()
            assert value.isprintable()
            assert len(value) <= 256


@settings(max_examples=100, deadline=None)
@given(head=heads(), route=st.none() | _text, status=st.none() | st.integers(200, 599))
def test_a_series_is_made_of_nothing_that_a_caller_wrote(
    head: RequestHead, route: str | None, status: int | None
) -> None:
    series = dict(series_of(head, method_of(head, KNOWN_METHODS), ExchangeRecord(status, route=route)))
    assert series["http.request.method"] in KNOWN_METHODS | {"_OTHER"}
    assert series["url.scheme"] in {"http", "https", "ws", "wss", "_OTHER"}
    assert series.get("network.protocol.version", "2") in {"1.0", "1.1", "2", "3"}
    assert set(series) <= {
        "http.request.method",
        "url.scheme",
        "network.protocol.version",
        "http.response.status_code",
        "http.route",
        "error.type",
    }


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        (b"a=1", "a=REDACTED"),
        (b"a=", "a=REDACTED"),
        (b"a=1&b[]=2&c.d=3&e-f=4", "a=REDACTED&b[]=REDACTED&c.d=REDACTED&e-f=REDACTED"),
        (b"bare", "REDACTED"),
        (b"a&=b&&", "REDACTED&REDACTED&REDACTED&REDACTED"),
        (b"078-05-1120=1", "REDACTED"),
        (b"ada@example.org=1", "REDACTED"),
        (b"%61=1", "REDACTED"),
        (b"a=1=2;b=3", "a=REDACTED"),
        (b"n" * 41 + b"=1", "REDACTED"),
    ],
)
def test_of_a_query_only_plain_names_are_told(query: bytes, expected: str) -> None:
    assert scrubbed_query(query) == expected


@pytest.mark.parametrize(
    ("told", "expected"),
    [
        ({"path": "/a", "raw_path": b"/%61"}, "/%61"),
        ({"path": "/a b/ü"}, "/a%20b/%C3%BC"),
        ({"path": "/\udcff"}, "/%3F"),
        ({"path": "/", "raw_path": b"/\x00\xff\n"}, "/%00%FF%0A"),
        ({"path": "/x;v=1;w=2/y"}, "/x;v=REDACTED;w=REDACTED/y"),
        ({"path": "/sm1.AAAA"}, "/REDACTED"),
        ({"path": "/of/gAAAAABm/x"}, "/of/REDACTED/x"),
    ],
)
def test_a_path_is_told_as_it_came_without_tokens(told: dict[str, Any], expected: str) -> None:
    assert scrubbed_path(RequestHead("http", "GET", "https", **told)) == expected


@pytest.mark.parametrize(
    ("host", "address", "port"),
    [
        (b"shop.example", "shop.example", None),
        (b"shop.example:8443", "shop.example", 8443),
        (b"[::1]:8443", "[::1]", 8443),
        (b"[::1]", "[::1]", None),
        (b"x:99999999", "x:99999999", None),
        (b"x:\xb2", "x:\\xb2", None),
    ],
)
def test_a_host_is_taken_apart(host: bytes, address: str, port: int | None) -> None:
    head = RequestHead("http", "GET", "https", "/", headers=((b"host", host),))
    told = request_attributes(head, "GET")
    assert (told["server.address"], told.get("server.port")) == (address, port)


def test_paths_and_queries_are_cut() -> None:
    assert len(scrubbed_path(RequestHead("http", "GET", "https", "/" + "ü" * 300))) == 256
    assert len(scrubbed_query(b"a=1&" * 300)) == 256


def test_text_is_cut_also_where_escaping_makes_it_longer() -> None:
    assert len(shown("\u202e" * 300)) == 256


@settings(max_examples=100, deadline=None)
@given(text=_text)
def test_names_and_issuers_of_certificates_are_escaped(text: str) -> None:
    now = datetime.now(UTC)
    identity = Identity(
        subject=text,
        issuer=text,
        serial=1,
        dns=(),
        uris=(text,),
        emails=(),
        ips=(),
        spiffe_id=None,
        sha256=hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest(),
        spki_sha256="",
        not_before=now,
        not_after=now,
        anchor="",
        source="server",
        der=b"",
    )
    told = Certificates(names=True).attributes_of(identity)
    assert all(isinstance(value, str) and value.isascii() and value.isprintable() for value in told.values())
    assert set(Certificates(names=False).attributes_of(identity)) == set(told) - {"secmiddleware.identity"}
