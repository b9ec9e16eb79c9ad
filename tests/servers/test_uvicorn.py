"""Our protocol classes under a real uvicorn: who connected is who the app is told, whatever runs below."""

from __future__ import annotations

import json
import re
import socket
import ssl
import struct
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from datetime import timedelta
from http.client import HTTPConnection, HTTPException
from typing import Any

import pytest
from cryptography import x509
from websockets.exceptions import ConnectionClosed, InvalidMessage, InvalidStatus
from websockets.sync.client import ClientConnection, connect

from secmiddleware.messages import IDENTITY_KEY, PRESENTED_KEY
from servers.pki import Pki
from servers.serving import (
    HTTP,
    LOOPS,
    PATIENCE,
    Connection,
    Response,
    answer_lifespan,
    ask,
    protected,
    reply,
    request,
    serving,
    until,
)

# What uvicorn's `websockets` implementation does is deprecated; it is served all the same.
pytestmark = pytest.mark.filterwarnings("ignore:remove second argument of ws_handler:DeprecationWarning")

ROUTES = [
    {"path": "/healthz", "client": "off"},
    {"path": "/maybe/**", "client": "optional"},
    {"path": "/admin/**", "allow": ["spiffe://example.org/ops/*"]},
]


class Echo:
    """Says who is calling, over HTTP and over websockets."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.scopes: list[Any] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            await answer_lifespan(receive, send)
            return
        self.calls.append(scope["path"])
        self.scopes.append(scope)
        identity = scope[IDENTITY_KEY]
        who = {"type": scope["type"], "identity": None if identity is None else identity.spiffe_id}
        if scope["type"] == "http":
            await reply(send, json.dumps(who).encode())
            return
        assert (await receive())["type"] == "websocket.connect"
        await send({"type": "websocket.accept"})
        await send({"type": "websocket.send", "text": json.dumps(who)})
        while (message := await receive())["type"] == "websocket.receive":
            await send({"type": "websocket.send", "text": message["text"][::-1]})


@pytest.fixture(scope="module")
def echo() -> Echo:
    return Echo()


@pytest.fixture(scope="module", params=[(http, loop) for http in HTTP for loop in LOOPS], ids="-".join)
def port(request: pytest.FixtureRequest, pki: Pki, echo: Echo) -> Iterator[int]:
    http, loop = request.param
    with serving(protected(echo, pki.settings(routes=ROUTES)), pki, http=http, loop=loop) as port:
        yield port


@pytest.fixture(autouse=True)
def _fresh(echo: Echo) -> None:
    echo.calls.clear()
    echo.scopes.clear()


@pytest.mark.parametrize("tls", ["1.2", "1.3"])
def test_the_certificate_of_the_connection_reaches_the_app_as_an_identity(
    port: int, pki: Pki, tls: str
) -> None:
    with Connection(port, pki.client("shop/alice", tls)) as connection:
        assert connection.tls.version() == f"TLSv{tls}"
        assert connection.ask("/orders").json == {"type": "http", "identity": pki.spiffe("shop/alice")}


@pytest.mark.parametrize("tls", ["1.2", "1.3"])
def test_without_a_certificate_the_caller_reads_why_and_the_app_is_not_called(
    port: int, pki: Pki, echo: Echo, tls: str
) -> None:
    with Connection(port, pki.client(None, tls)) as connection:
        response = connection.ask("/orders")
        assert (response.status, response.code) == (401, "certificate_missing")
        assert echo.calls == []
        # The refusal ends nothing: the same connection may ask for what is open to it.
        assert connection.ask("/healthz").json["identity"] is None
    assert echo.calls == ["/healthz"]


def test_where_a_certificate_is_optional_the_app_is_told_who_it_is_or_that_it_is_nobody(
    port: int, pki: Pki
) -> None:
    assert ask(port, pki.client(None), "/maybe/x").json["identity"] is None
    assert ask(port, pki.client("shop/alice"), "/maybe/x").json["identity"] == pki.spiffe("shop/alice")


def test_where_none_is_asked_for_the_app_sees_none(port: int, pki: Pki, echo: Echo) -> None:
    assert ask(port, pki.client("shop/alice"), "/healthz").json["identity"] is None
    assert echo.scopes[0][PRESENTED_KEY] is None
    assert "tls" not in echo.scopes[0].get("extensions", {})


def test_only_who_is_allowed_gets_to_a_route_that_names_its_callers(port: int, pki: Pki, echo: Echo) -> None:
    assert ask(port, pki.client("ops/oscar"), "/admin/x").status == 200
    response = ask(port, pki.client("shop/alice"), "/admin/x")
    assert (response.status, response.code) == (403, "identity_not_allowed")
    assert echo.calls == ["/admin/x"]


@pytest.mark.parametrize("tls", ["1.2", "1.3"])
def test_a_certificate_of_a_strange_ca_dies_in_the_handshake(
    port: int, pki: Pki, echo: Echo, tls: str
) -> None:
    # With TLS 1.3 the client learns of it only when it reads: an alert, a reset or the end.
    with pytest.raises((ssl.SSLError, ConnectionError)):
        ask(port, pki.client("!ops/oscar", tls), "/admin/x")
    assert echo.calls == []
    assert ask(port, pki.client("ops/oscar", tls), "/admin/x").status == 200


@pytest.mark.parametrize("tls", ["1.2", "1.3"])
def test_who_is_refused_in_the_handshake_is_told_why_by_an_alert(port: int, pki: Pki, tls: str) -> None:
    """asyncio and uvloop by themselves drop the connection, and the alert with it (RFC 8446 §6.2)."""
    with (
        pytest.raises(ssl.SSLError, match=r"(?i)unknown.ca"),
        Connection(port, pki.client("!ops/oscar", tls)) as refused,
    ):
        refused.tls.recv(1)  # nothing is written before: a reset would overtake the alert


def test_every_request_of_a_kept_connection_has_the_identity_of_the_connection(port: int, pki: Pki) -> None:
    with (
        Connection(port, pki.client("shop/alice")) as alice,
        Connection(port, pki.client("shop/bob")) as bob,
        Connection(port, pki.client(None)) as nobody,
    ):
        for _ in range(5):
            assert alice.ask("/maybe/x").json["identity"] == pki.spiffe("shop/alice")
            assert nobody.ask("/maybe/x").json["identity"] is None
            assert bob.ask("/maybe/x").json["identity"] == pki.spiffe("shop/bob")


def test_pipelined_requests_are_judged_one_by_one(port: int, pki: Pki, echo: Echo) -> None:
    with Connection(port, pki.client("shop/alice")) as connection:
        connection.send(request("/orders") + request("/admin/x") + request("/orders/2"))
        stream = connection.tls.makefile("rb")
        text = b""
        while text.count(b'"type"') < 3:
            text += stream.read1()
        stream.close()
    assert re.findall(rb"HTTP/1\.1 (\d+)", text) == [b"200", b"403", b"200"]
    assert echo.calls == ["/orders", "/orders/2"]


def test_the_body_of_a_refused_request_is_not_taken_for_another_request(
    port: int, pki: Pki, echo: Echo
) -> None:
    smuggled = request("/healthz")
    with Connection(port, pki.client(None)) as connection:
        # Refused by its head alone; its body comes afterwards.
        connection.send(request("/orders", method="POST", headers=[("content-length", str(len(smuggled)))]))
        assert connection.response().status == 401
        with suppress(OSError, HTTPException):  # a server may also close the connection
            connection.send(smuggled)
            assert connection.ask("/maybe/x").json["identity"] is None
    assert echo.calls in ([], ["/maybe/x"])


def test_clients_that_say_nothing_or_go_in_the_middle_of_a_handshake_disturb_nobody(
    port: int, pki: Pki
) -> None:
    with ExitStack() as stack:
        for data in (b"", b"\x16\x03\x01", b"GET / HTTP/1.1\r\n\r\n", b"\x00" * 300):
            rude = stack.enter_context(socket.create_connection(("127.0.0.1", port)))
            rude.sendall(data)
            gone = socket.create_connection(("127.0.0.1", port))
            gone.sendall(data)
            # Reset, not closed.
            gone.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            gone.close()
        for _ in range(5):
            Connection(port, pki.client("shop/bob")).tls.close()  # it had nothing to ask
        assert ask(port, pki.client("shop/alice")).json["identity"] == pki.spiffe("shop/alice")


@pytest.mark.parametrize("tls", ["1.2", "1.3"])
def test_a_client_that_offers_its_old_session_is_asked_for_its_certificate_again(
    port: int, pki: Pki, tls: str
) -> None:
    context = pki.client("shop/alice", tls)
    session = None
    for _ in range(3):
        with Connection(port, context, session) as connection:
            assert not connection.tls.session_reused
            assert connection.ask().json["identity"] == pki.spiffe("shop/alice")
            session = connection.tls.session


def test_a_certificate_that_ends_while_its_connection_stays_is_refused_from_then_on(
    pki: Pki, echo: Echo
) -> None:
    brief = pki.short_lived("shop/brief", timedelta(seconds=2))  # certificates count in whole seconds
    with (
        serving(protected(echo, pki.settings()), pki) as port,
        Connection(port, pki.client("shop/lasting")) as lasting,
        Connection(port, brief) as ending,
    ):
        assert ending.ask().json["identity"] == pki.spiffe("shop/brief")
        refused: Response = until(lambda: (r := ending.ask()).status != 200 and r, "the certificate ends")
        assert (refused.status, refused.code) == (403, "certificate_expired")
        assert lasting.ask().status == 200


def test_a_handshake_that_requires_a_certificate_lets_nobody_in_without(pki: Pki, echo: Echo) -> None:
    settings = pki.settings(mtls={"handshake": "required"})
    with serving(protected(echo, settings), pki, handshake="required") as port:
        with pytest.raises((ssl.SSLError, ConnectionError)):
            ask(port, pki.client(None))
        assert echo.calls == []
        assert ask(port, pki.client("shop/alice")).status == 200


def test_the_app_gets_the_accepted_chain_in_the_tls_extension(port: int, pki: Pki, echo: Echo) -> None:
    ask(port, pki.client("shop/alice"))
    tls = echo.scopes[0]["extensions"]["tls"]
    leaf = x509.load_pem_x509_certificate(tls["client_cert_chain"][0].encode())
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.UniformResourceIdentifier) == [pki.spiffe("shop/alice")]
    assert tls["client_cert_name"] == leaf.subject.rfc4514_string()
    assert tls["client_cert_error"] is None


def test_without_tls_nobody_is_recognised_and_nothing_breaks(pki: Pki, echo: Echo) -> None:

    for protocol in HTTP:
        with serving(
            protected(echo, pki.settings(routes=ROUTES)), pki, http=protocol, ssl_context_factory=None
        ) as port:
            connection = HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
            connection.request("GET", "/orders")
            assert connection.getresponse().status == 401
            connection.close()
    assert echo.calls == []


WEBSOCKETS = [
    (ws, http, loop)
    for ws in ("websockets", "websockets-sansio", "wsproto")
    for http in HTTP
    for loop in LOOPS
]


@pytest.fixture(scope="module", params=WEBSOCKETS, ids="-".join)
def websocket_port(request: pytest.FixtureRequest, pki: Pki, echo: Echo) -> Iterator[int]:
    ws, http, loop = request.param
    app = protected(echo, pki.settings(routes=ROUTES))
    with serving(app, pki, http=http, loop=loop, ws=ws) as port:
        yield port


def open_websocket(port: int, pki: Pki, name: str | None, path: str) -> ClientConnection:
    return connect(
        f"wss://127.0.0.1:{port}{path}",
        ssl=pki.client(name),
        proxy=None,
        open_timeout=PATIENCE,
        close_timeout=PATIENCE,
    )


def test_a_websocket_has_the_identity_of_its_connection_and_talks(websocket_port: int, pki: Pki) -> None:
    with (
        open_websocket(websocket_port, pki, "shop/alice", "/live") as alice,
        open_websocket(websocket_port, pki, "ops/oscar", "/admin/live") as oscar,
        open_websocket(websocket_port, pki, None, "/healthz") as nobody,
    ):
        expected = [(alice, pki.spiffe("shop/alice")), (oscar, pki.spiffe("ops/oscar")), (nobody, None)]
        for websocket, identity in expected:
            assert json.loads(websocket.recv(PATIENCE)) == {"type": "websocket", "identity": identity}
        for websocket, _ in expected:
            websocket.send("drawer")
            assert websocket.recv(PATIENCE) == "reward"


@pytest.mark.parametrize(
    ("name", "path", "status", "code"),
    [
        (None, "/live", 401, "certificate_missing"),
        ("shop/alice", "/admin/live", 403, "identity_not_allowed"),
        ("shop/alice", "/x/%2e%2e/admin/live", 400, "path_ambiguous"),
        ("shop/alice", "//admin/live", 400, "path_ambiguous"),
    ],
)
def test_a_refused_websocket_gets_the_problem_as_its_denial(
    websocket_port: int, pki: Pki, echo: Echo, name: str | None, path: str, status: int, code: str
) -> None:
    with pytest.raises(InvalidStatus) as refused:
        open_websocket(websocket_port, pki, name, path)
    response = refused.value.response
    assert response.status_code == status
    assert response.headers["content-type"] == "application/problem+json"
    assert json.loads(response.body)["code"] == code
    assert echo.calls == []


def test_a_websocket_of_a_strange_ca_dies_in_the_handshake(websocket_port: int, pki: Pki, echo: Echo) -> None:
    with pytest.raises((OSError, InvalidMessage, ConnectionClosed)):
        open_websocket(websocket_port, pki, "!shop/alice", "/live")
    assert echo.calls == []
