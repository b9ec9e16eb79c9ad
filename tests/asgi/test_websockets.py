"""Websockets at the gate, message by message: with a denial response, and where a server offers none."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from servers.pki import Pki
from servers.serving import protected

from asgi.calling import Call, call, http_scope

CONNECT = {"type": "websocket.connect"}


class Called:
    def __init__(self) -> None:
        self.scopes: list[str] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.scopes.append(scope["path"])


def scope(path: str = "/live", **more: Any) -> dict[str, Any]:
    made = http_scope(path, type="websocket", scheme="wss", subprotocols=[], **more)
    del made["method"]
    return made


@pytest.mark.parametrize("extensions", [{}, {"extensions": {}}, {"extensions": None}])
def test_a_refused_websocket_without_a_denial_response_is_closed_with_1008_and_the_code(
    pki: Pki, extensions: dict[str, Any]
) -> None:
    app = Called()
    done = call(protected(app, pki.settings()), scope(**extensions), CONNECT)
    assert done.sent == [{"type": "websocket.close", "code": 1008, "reason": "certificate_missing"}]
    assert app.scopes == []


@pytest.mark.parametrize("extensions", [{}, {"websocket.http.response": {}}])
def test_a_refusal_is_sent_after_the_server_has_said_that_a_client_connects(
    pki: Pki, extensions: dict[str, Any]
) -> None:
    order: list[str] = []

    class Server(Call):
        async def receive(self) -> dict[str, Any]:
            message = await super().receive()
            order.append(message["type"])
            return message

        async def send(self, message: dict[str, Any]) -> None:
            order.append(message["type"])

    asyncio.run(Server(scope(extensions=extensions), CONNECT).to(protected(Called(), pki.settings())))
    assert order[0] == "websocket.connect"
    assert len(order) > 1


def test_where_it_is_offered_the_denial_response_is_the_problem(pki: Pki) -> None:
    app = Called()
    done = call(protected(app, pki.settings()), scope(extensions={"websocket.http.response": {}}), CONNECT)
    assert [message["type"] for message in done.sent] == [
        "websocket.http.response.start",
        "websocket.http.response.body",
    ]
    assert done.status == 401
    assert b"certificate_missing" in done.body
    assert app.scopes == []


def test_a_path_that_can_be_read_in_two_ways_is_refused_to_websockets_too(pki: Pki) -> None:
    app = Called()
    rule = {"path": "/admin/**", "client": "off"}
    shell = protected(app, pki.settings(mtls={"client": "off"}, routes=[rule]))
    done = call(shell, scope("/x/../live"), CONNECT)
    assert done.sent == [{"type": "websocket.close", "code": 1008, "reason": "path_ambiguous"}]
    call(shell, scope("/live"), CONNECT)
    assert app.scopes == ["/live"]


def test_on_a_marked_route_no_websocket_carries_values_past_their_marks(
    pki: Pki, keys: dict[str, str]
) -> None:
    app = Called()
    place = {"routes": ["/marked"], "marks": ["$.ssn"], "request": "decrypt", "response": "encrypt"}
    settings = pki.settings(mtls={"client": "off"}, keys=keys, fields={"ssn": {"places": [place]}})
    done = call(protected(app, settings), scope("/marked"), CONNECT)
    assert done.sent == [{"type": "websocket.close", "code": 1008, "reason": "payload_encoding"}]
    assert app.scopes == []


LIVE = [
    {"path": "/live", "methods": ["GET"], "client": "off"},
    {"path": "/posted", "methods": ["POST"], "client": "off"},
    {"path": "/asked", "preflight": True},
]


@pytest.mark.parametrize("more", [{}, {"method": "CONNECT", "http_version": "2"}, {"method": "POST"}])
def test_a_rule_for_get_is_the_one_for_websockets(pki: Pki, more: dict[str, Any]) -> None:
    app = Called()
    shell = protected(app, pki.settings(routes=LIVE))
    assert call(shell, scope("/live", **more), CONNECT).sent == []
    refused = call(shell, scope("/posted", **more), CONNECT)
    assert refused.sent == [{"type": "websocket.close", "code": 1008, "reason": "certificate_missing"}]
    assert app.scopes == ["/live"]


def test_a_websocket_with_the_headers_of_a_preflight_is_none(pki: Pki) -> None:
    app = Called()
    headers = [(b"origin", b"https://a.example"), (b"access-control-request-method", b"GET")]
    shell = protected(app, pki.settings(routes=LIVE))
    for more in ({}, {"method": "OPTIONS"}):
        refused = call(shell, {**scope("/asked"), "headers": headers, **more}, CONNECT)
        assert refused.sent == [{"type": "websocket.close", "code": 1008, "reason": "certificate_missing"}]
    assert app.scopes == []
