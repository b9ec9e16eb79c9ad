"""Where nothing is marked, the shell is not in the way: the server's own callables, chunk after chunk."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest
from servers.pki import Pki
from servers.serving import HTTP, LOOPS, PATIENCE, Connection, answer_lifespan, protected, serving

from asgi.calling import Call, call, http_scope

PLACE = {"routes": ["/marked"], "marks": ["$.ssn"], "request": "decrypt", "response": "encrypt"}


@pytest.fixture(scope="module")
def settings(pki: Pki, keys: dict[str, str]) -> dict[str, Any]:
    half = {"routes": ["/sealed"], "marks": ["$.ssn"], "response": "encrypt"}
    other_half = {"routes": ["/opened"], "marks": ["$.ssn"], "request": "decrypt"}
    fields = {"ssn": {"places": [PLACE, half, other_half]}}
    return pki.settings(mtls={"client": "off"}, keys=keys, fields=fields)


def what_the_app_gets(shell: Any, scope: dict[str, Any], *messages: dict[str, Any]) -> tuple[Call, Any, Any]:
    return asyncio.run(_what_the_app_gets(shell, Call(scope, *messages)))


async def _what_the_app_gets(shell: Any, made: Call) -> tuple[Call, Any, Any]:
    receive, send = made.receive, made.send
    await shell(made.scope, receive, send)
    return made, receive, send


class Keeps:
    """Keeps what it is called with."""

    def __init__(self) -> None:
        self.got: list[tuple[Any, Any]] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.got.append((receive, send))
        if scope["type"] == "http":
            headers = [(b"content-type", b"application/json")]
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            await send({"type": "http.response.body", "body": b"{}"})


@pytest.mark.parametrize("path", ["/", "/x", "/marked/below"])
@pytest.mark.parametrize("method", ["GET", "POST", "HEAD"])
def test_on_an_unmarked_route_the_app_gets_the_very_receive_and_send_of_the_server(
    settings: dict[str, Any], path: str, method: str
) -> None:
    app = Keeps()
    _, receive, send = what_the_app_gets(protected(app, settings), http_scope(path, method=method))
    ((got_receive, got_send),) = app.got
    assert got_receive is receive
    assert got_send is send


def test_a_websocket_that_is_not_judged_again_gets_the_very_receive_and_send_of_the_server(
    settings: dict[str, Any],
) -> None:
    settings = {**settings, "mtls": {**settings["mtls"], "recheck": "off"}}
    app = Keeps()
    scope = http_scope("/live", type="websocket", scheme="wss")
    _, receive, send = what_the_app_gets(protected(app, settings), scope)
    assert app.got == [(receive, send)]


def test_only_the_marked_side_of_a_route_is_in_the_way(settings: dict[str, Any]) -> None:
    app = Keeps()
    end = {"type": "http.request", "body": b"", "more_body": False}
    _, receive, send = what_the_app_gets(protected(app, settings), http_scope("/marked"), end)
    assert app.got[-1][0] is not receive
    assert app.got[-1][1] is not send
    _, receive, send = what_the_app_gets(protected(app, settings), http_scope("/opened"), end)
    assert app.got[-1][0] is not receive
    # Nothing was opened in this exchange, so there is nothing that could leave it.
    assert app.got[-1][1] is send


def test_a_body_whose_response_alone_is_marked_goes_on_piece_by_piece(settings: dict[str, Any]) -> None:
    log: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        more = True
        while more:
            message = await receive()
            more = message["more_body"]
            log.append(f"app {message['body'].decode()}")
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    class Server(Call):
        async def receive(self) -> dict[str, Any]:
            message = await super().receive()
            log.append(f"server {message['body'].decode()}")
            return message

    pieces = [
        {"type": "http.request", "body": piece, "more_body": piece != b"c"} for piece in (b"a", b"b", b"c")
    ]
    asyncio.run(Server(http_scope("/sealed", method="POST"), *pieces).to(protected(app, settings)))
    assert log == ["server a", "app a", "server b", "app b", "server c", "app c", "app "]


def test_what_the_app_hears_after_the_body_is_what_the_server_says(settings: dict[str, Any]) -> None:
    heard: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        heard.extend([(await receive())["type"] for _ in range(3)])
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    body = {"type": "http.request", "body": b"", "more_body": False}
    for path in ("/x", "/marked"):
        heard.clear()
        call(protected(app, settings), http_scope(path, method="POST"), body)
        assert heard == ["http.request", "http.disconnect", "http.disconnect"], path


class TwoWays:
    """Answers each piece of the request before it has the next, and notes what happens in what order."""

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            await answer_lifespan(receive, send)
            return
        await send({"type": "http.response.start", "status": 200, "headers": []})
        more = True
        while more:
            message = await receive()
            more = message["more_body"]
            if message["body"]:
                await send({"type": "http.response.body", "body": message["body"].upper(), "more_body": True})
        await send({"type": "http.response.body", "body": b""})


def read_up_to(stream: Any, wanted: bytes) -> None:
    """Read lines up to the wanted one; where none comes the socket's time-out ends it."""
    while (line := stream.readline()) != wanted:
        assert line, "the server has closed the connection"


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("http", HTTP)
def test_over_the_wire_each_piece_is_answered_before_the_next_is_made(
    pki: Pki, settings: dict[str, Any], http: str, loop: str
) -> None:
    with (
        serving(protected(TwoWays(), settings), pki, http=http, loop=loop) as port,
        Connection(port, pki.client("shop/alice")) as connection,
    ):
        head = b"POST /x HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\n"
        connection.send(head)
        stream = connection.tls.makefile("rb")
        for piece in (b"one", b"two", b"three"):
            # Nothing more is sent until the answer to this one is there: a held piece would hang here.
            connection.send(b"%x\r\n%s\r\n" % (len(piece), piece))
            read_up_to(stream, piece.upper() + b"\r\n")
        connection.send(b"0\r\n\r\n")
        assert [stream.readline() for _ in range(2)] == [b"0\r\n", b"\r\n"]
        stream.close()


@pytest.mark.parametrize("http", HTTP)
def test_an_endless_response_reaches_the_client_while_it_is_made(
    pki: Pki, settings: dict[str, Any], http: str
) -> None:
    go_on, gone = threading.Event(), threading.Event()

    async def ticks(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            await answer_lifespan(receive, send)
            return
        headers = [(b"content-type", b"text/event-stream")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b"data: first\n\n", "more_body": True})
        await asyncio.to_thread(go_on.wait, PATIENCE)
        await send({"type": "http.response.body", "body": b"data: second\n\n", "more_body": True})
        while (await receive())["type"] != "http.disconnect":
            pass
        gone.set()

    with serving(protected(ticks, settings), pki, http=http) as port:
        with Connection(port, pki.client("shop/alice")) as connection:
            connection.send(b"GET /events HTTP/1.1\r\nhost: localhost\r\n\r\n")
            stream = connection.tls.makefile("rb")
            read_up_to(stream, b"data: first\n")
            go_on.set()
            read_up_to(stream, b"data: second\n")
            stream.close()
        # The app hears at once that the client has gone.
        assert gone.wait(PATIENCE)
