"""Which requests are CORS preflights."""

from __future__ import annotations

import pytest
from identity.callers import head

from secmiddleware.identity.preflights import requested_method

REAL = {"origin": "https://shop.example", "access_control_request_method": "PUT"}


def asked(method="OPTIONS", also=(), protocol="http", **headers):
    return requested_method(head(protocol, method, tuple(also), **REAL | headers))


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"access_control_request_headers": "content-type,x-a"},
        {"content_length": "0"},
        {"content_type": "text/plain"},
        {"accept": "*/*", "user_agent": "Mozilla/5.0", "sec_fetch_mode": "cors", "referer": "https://a/"},
        *(
            {"origin": one}
            for one in ("null", "http://localhost:3000", "https://[::1]:8443", "app+x-1.2://a")
        ),
    ],
)
def test_what_a_browser_sends_before_a_request_of_another_origin_is_a_preflight(more):
    assert asked(**more) == "PUT"


@pytest.mark.parametrize("method", ["GET", "PROPFIND", "patch", "X!"])
def test_it_asks_about_one_method_exactly_as_it_is_written(method):
    assert asked(access_control_request_method=method) == method


@pytest.mark.parametrize("method", ["GET", "POST", "options", "Options", "OPTION", "OPTIONS ", "HEAD"])
def test_another_method_is_none(method):
    assert asked(method) is None


def test_a_websocket_is_none():
    assert asked(protocol="websocket") is None


@pytest.mark.parametrize("missing", REAL)
def test_without_one_of_its_headers_it_is_none(missing):
    assert requested_method(head(method="OPTIONS", **{k: v for k, v in REAL.items() if k != missing})) is None


@pytest.mark.parametrize(
    "twice",
    [
        (b"origin", b"https://shop.example"),
        (b"origin", b"https://evil.example"),
        (b"access-control-request-method", b"PUT"),
        (b"access-control-request-method", b"GET"),
    ],
)
def test_with_one_of_its_headers_twice_it_is_none(twice):
    assert asked(also=[twice]) is None


@pytest.mark.parametrize(
    "wrong",
    [
        *({"origin": one} for one in (
            "", "shop.example", "//shop.example", "https://", "https://a/", "https://a/x", "https://a b",
            "https://a,https://b", "https://a, https://b", "https://u@a", "https://a?x", "https://a\n",
            "NULL", "null, null", "https://\xe4", "1://a",
        )),
        *({"access_control_request_method": one} for one in (
            "", "GET, POST", "GET,POST", "G T", "GET\n", "G@T", "\xc4",
        )),
        {"content_length": "1"}, {"content_length": "00"}, {"content_length": ""}, {"content_length": "0, 0"},
        {"transfer_encoding": "chunked"}, {"trailer": "x"}, {"expect": "100-continue"},
        {"cookie": "a=b"}, {"authorization": "Bearer x"}, {"upgrade": "websocket"},
    ],
)  # fmt: skip
def test_what_no_browser_sends_so_is_none(wrong):
    assert asked(**wrong) is None


def test_two_lists_of_headers_are_none():
    name = b"access-control-request-headers"
    assert asked(also=[(name, b"x-a")]) == "PUT"
    assert asked(also=[(name, b"x-a"), (name, b"x-b")]) is None
