"""What is no whole body never reaches the app where there are marks; a large one stops nobody else."""

from __future__ import annotations

import asyncio
import gzip
import json
import logging
import threading
from collections.abc import Iterator
from contextlib import suppress
from http.client import HTTPException
from typing import Any

import pytest
from servers.pki import Pki
from servers.serving import (
    HTTP,
    LOOPS,
    Connection,
    answer_lifespan,
    ask,
    protected,
    reply,
    serving,
    until,
)

from asgi.calling import Call, body_messages, call, http_scope
from secmiddleware.messages import PRESENTED_KEY
from secmiddleware.security import SecurityManager

LARGE = 256 * 1024


@pytest.fixture(scope="module")
def manager(pki: Pki, keys: dict[str, str], started: Any) -> SecurityManager:
    place = {"routes": ["/marked"], "marks": ["$..ssn"], "request": "decrypt", "response": "encrypt"}
    settings = pki.settings(
        service={"max_body": "32MiB"},
        mtls={"client": "off"},
        keys=keys,
        fields={"ssn": {"places": [place]}},
    )
    return started(settings)


@pytest.fixture(scope="module")
def token(manager: SecurityManager) -> str:
    assert manager.encryption is not None
    return manager.encryption.seal("ssn", b'"078-05-1120"')


class Register:
    """Answers with the body that it was given; notes what it was asked, and how each body ended."""

    def __init__(self) -> None:
        self.bodies: list[tuple[str, bytes]] = []
        self.broken_off: list[str] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            await answer_lifespan(receive, send)
            return
        body = b""
        more = True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                self.broken_off.append(scope["path"])
                return
            body += message["body"]
            more = message["more_body"]
        self.bodies.append((scope["path"], body))
        await reply(send, body or b"{}")


@pytest.fixture(scope="module")
def register() -> Register:
    return Register()


@pytest.fixture(autouse=True)
def _empty(register: Register) -> None:
    register.bodies.clear()
    register.broken_off.clear()


@pytest.fixture(scope="module", params=[(http, loop) for http in HTTP for loop in LOOPS], ids="-".join)
def port(
    request: pytest.FixtureRequest, pki: Pki, register: Register, manager: SecurityManager
) -> Iterator[int]:
    http, loop = request.param
    with serving(protected(register, manager), pki, http=http, loop=loop) as port:
        yield port


def head(path: str, *lines: str) -> bytes:
    return "\r\n".join(
        [f"POST {path} HTTP/1.1", "host: localhost", "content-type: application/json", *lines, "", ""]
    ).encode()


def break_off(port: int, pki: Pki, data: bytes) -> None:
    """Say so much, and go, in the order that TLS has for it."""
    with Connection(port, pki.client("shop/alice")) as connection:
        connection.send(data)
        connection.tls.unwrap().close()


@pytest.mark.parametrize(
    ("case", "lines", "sent"),
    [
        ("shorter than its length", ["content-length: 40"], b'{"ssn": "%s"}'),
        ("nothing of its length", ["content-length: 40"], b""),
        ("without the last chunk", ["transfer-encoding: chunked"], b'c\r\n{"a": "open"\r\n'),
        ("in the middle of a chunk", ["transfer-encoding: chunked"], b'ff\r\n{"a": "open"}'),
        ("whole JSON, but not its last chunk", ["transfer-encoding: chunked"], b'd\r\n{"a": "done"}\r\n'),
        ("the last chunk without its end", ["transfer-encoding: chunked"], b'd\r\n{"a": "done"}\r\n0\r\n'),
    ],
)
def test_a_body_that_breaks_off_does_not_reach_the_app(
    port: int, pki: Pki, register: Register, case: str, lines: list[str], sent: bytes
) -> None:
    break_off(port, pki, head("/marked", *lines) + sent)
    # On an unmarked route the app hears of it itself, which tells that the server has noticed.
    break_off(port, pki, head("/unmarked", *lines) + sent)
    until(lambda: register.broken_off, "the app hears of the client that went away")
    with Connection(port, pki.client("shop/alice")) as connection:
        connection.send(head("/unmarked", "content-length: 2") + b"{}")
        assert connection.response().status == 200
    assert register.broken_off == ["/unmarked"]
    assert register.bodies == [("/unmarked", b"{}")]


def test_what_comes_after_the_length_of_a_body_is_no_part_of_it(
    port: int, pki: Pki, register: Register, token: str
) -> None:
    body = json.dumps({"ssn": token}).encode()
    with Connection(port, pki.client("shop/alice")) as connection:
        connection.send(head("/marked", f"content-length: {len(body)}") + body + b', "x": 1}\r\n\r\n')
        with suppress(OSError, HTTPException):
            while connection.response().status == 200:
                pass
    ask(port, pki.client("shop/alice"), "/after")  # whatever came of the first is over now
    assert register.bodies in (
        [("/after", b"")],
        [("/marked", b'{"ssn": "078-05-1120"}'), ("/after", b"")],
    )


def test_lengths_that_differ_are_not_let_through(port: int, pki: Pki, register: Register) -> None:
    for lines in (
        ["content-length: 2", "content-length: 3"],
        ["content-length: 2, 3"],
        ["content-length: -2"],
        ["content-length: 0x2"],
        ["content-length: 2", "transfer-encoding: gzip, chunked"],
    ):
        with Connection(port, pki.client("shop/alice")) as connection:
            connection.send(head("/marked", *lines) + b"{}x\r\n\r\n")
            with suppress(OSError, HTTPException):
                assert connection.response().status in (400, 501), lines
    assert register.bodies == []


def test_chunks_are_one_body_and_the_app_is_told_its_new_length(
    port: int, pki: Pki, register: Register, token: str
) -> None:
    body = json.dumps({"ssn": token, "n": 1}).encode()
    chunks = [b"%x\r\n%s\r\n" % (len(piece), piece) for piece in (body[:7], body[7:30], body[30:])]
    with Connection(port, pki.client("shop/alice")) as connection:
        connection.send(head("/marked", "transfer-encoding: chunked") + b"".join(chunks) + b"0\r\n\r\n")
        response = connection.response()
    assert register.bodies == [("/marked", b'{"ssn": "078-05-1120", "n": 1}')]
    assert dict(response.headers)["content-length"] == str(len(response.body))
    assert response.json["ssn"].startswith("sm1.")


def test_a_client_that_waits_to_be_told_to_go_on_is_told(port: int, pki: Pki, register: Register) -> None:
    with Connection(port, pki.client("shop/alice")) as connection:
        connection.send(head("/marked", "content-length: 2", "expect: 100-continue"))
        stream = connection.tls.makefile("rb")
        assert stream.readline() == b"HTTP/1.1 100 Continue\r\n"
        assert stream.readline().strip() == b""
        connection.send(b"{}")
        assert stream.readline() == b"HTTP/1.1 200 OK\r\n"
        stream.close()


def test_a_body_that_is_too_large_is_refused_before_it_is_sent(
    port: int, pki: Pki, register: Register
) -> None:
    with Connection(port, pki.client("shop/alice")) as connection:
        connection.send(head("/marked", f"content-length: {33 << 20}", "expect: 100-continue"))
        response = connection.response()
    assert (response.status, response.code) == (413, "payload_too_large")
    assert register.bodies == []


@pytest.mark.parametrize(
    "messages",
    [
        [],
        [{"type": "http.disconnect"}],
        [{"type": "http.request", "body": b'{"a": 1}', "more_body": True}],
        [{"type": "http.request", "body": b'{"a": 1}', "more_body": True}, {"type": "http.disconnect"}],
        [{"type": "http.request", "body": b"", "more_body": True}, {"type": "http.disconnect"}],
    ],
)
def test_a_disconnect_is_no_end_of_a_body(
    manager: SecurityManager, register: Register, messages: list[dict[str, Any]]
) -> None:
    done = call(protected(register, manager), http_scope("/marked", method="POST"), *messages)
    assert done.status == 400
    assert json.loads(done.body)["code"] == "payload_malformed"
    assert register.bodies == register.broken_off == []


@pytest.mark.parametrize("length", [b"3", b"40", b"0"])
def test_a_body_of_another_length_than_announced_is_no_whole_body(
    manager: SecurityManager, register: Register, length: bytes
) -> None:
    # A server may count wrongly, or not at all: what is announced is held against what came.
    scope = http_scope("/marked", method="POST", headers=[(b"content-length", length)])
    done = call(protected(register, manager), scope, *body_messages(b'{"a"', b": 1}"))
    assert done.status == 400
    assert register.bodies == []


def large_body(token: str) -> bytes:
    """Ten megabytes of numbers and some hundred tokens: half a second of work for one processor."""
    people = ",".join(json.dumps({"ssn": token}) for _ in range(300))
    return b'{"people":[%s],"f":[%s[]]}' % (people.encode(), b"[1.10,true]," * 900_000)


@pytest.mark.parametrize(("http", "loop"), [("H11Protocol", "uvloop"), ("HttpToolsProtocol", "asyncio")])
def test_a_large_body_is_rewritten_like_any_other_and_others_are_answered_meanwhile(
    pki: Pki, register: Register, manager: SecurityManager, token: str, http: str, loop: str
) -> None:
    body = large_body(token)
    assert len(body) > LARGE
    received = 0
    shell = protected(register, manager)

    async def counting(scope: Any, receive: Any, send: Any) -> None:
        async def counted() -> Any:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            return message

        await shell(scope, counted if scope.get("path") == "/marked" else receive, send)

    with (
        serving(counting, pki, http=http, loop=loop) as port,
        Connection(port, pki.client("shop/alice")) as large,
        Connection(port, pki.client("shop/bob")) as small,
    ):
        large.send(head("/marked", f"content-length: {len(body)}") + body[:-1])
        assert small.ask("/before").status == 200
        until(lambda: received == len(body) - 1, "all but the last byte is with the shell")
        large.send(body[-1:])
        while not any(path == "/marked" for path, _ in register.bodies):
            small.ask("/meanwhile")
        response = large.response()
    paths = [path for path, _ in register.bodies]
    assert paths[0] == "/before"
    # Worked out on the loop, the large body would let one pass that came with it, but no more.
    assert paths.index("/marked") > 2
    (given,) = (body for path, body in register.bodies if path == "/marked")
    assert given == body.replace(token.encode(), b"078-05-1120")
    assert response.status == 200
    assert response.body.count(b'"ssn": "sm1.') == 300
    assert b"078-05-1120" not in response.body


def test_a_large_body_is_worked_out_beside_the_loop(
    manager: SecurityManager, register: Register, token: str
) -> None:
    shell = protected(register, manager)
    order: list[str] = []

    async def scenario() -> None:
        others: list[asyncio.Task[Any]] = []

        async def other(name: str) -> None:
            await Call(http_scope("/small", method="POST"), *body_messages(b"{}")).to(shell)
            order.append(name)

        class Large(Call):
            async def receive(self) -> dict[str, Any]:
                message = await super().receive()
                # From here on the shell has all of it, and works until it calls the app.
                others.append(asyncio.create_task(other("another request")))
                return message

            async def send(self, message: dict[str, Any]) -> None:
                order.append(message["type"])
                await super().send(message)

        await Large(http_scope("/marked", method="POST"), *body_messages(large_body(token))).to(shell)
        await asyncio.gather(*others)

    asyncio.run(scenario())
    assert order[0] == "another request"
    assert [path for path, _ in register.bodies] == ["/small", "/marked"]


def test_a_large_response_is_worked_out_beside_the_loop(manager: SecurityManager, token: str) -> None:
    order: list[str] = []
    threads = threading.active_count()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["path"] == "/small":
            order.append("another request")
            await reply(send, b"{}")
            return
        body = b'{"ssn":"1234567890","f":[' + b"1.10," * 200_000 + b"0]}"
        headers = [(b"content-type", b"application/json")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        others.append(asyncio.create_task(Call(http_scope("/small")).to(shell)))
        await send({"type": "http.response.body", "body": body})
        order.append("the app is done")

    others: list[asyncio.Task[Any]] = []
    shell = protected(app, manager)

    async def scenario() -> Call:
        done = await Call(http_scope("/marked"), *body_messages(b"")).to(shell)
        await asyncio.gather(*others)
        return done

    done = asyncio.run(scenario())
    assert order == ["another request", "the app is done"]
    assert done.status == 200
    assert json.loads(done.body)["ssn"].startswith("sm1.")
    assert threading.active_count() == threads


def test_the_settings_say_how_large_a_body_is_when_it_leaves_the_loop(
    pki: Pki, keys: dict[str, str], register: Register, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = {"routes": ["/marked"], "marks": ["$.ssn"], "request": "decrypt", "response": "encrypt"}
    settings = pki.settings(
        service={"offload": "20KiB"},
        mtls={"client": "off"},
        keys={**keys, "ring": "offload", "store": "memory:"},
        fields={"ssn": {"places": [place]}},
    )
    aside: list[Any] = []
    to_thread = asyncio.to_thread
    monkeypatch.setattr(asyncio, "to_thread", lambda work: aside.append(work) or to_thread(work))
    shell = protected(register, settings)
    json_type = (b"content-type", b"application/json")
    for size, threads in ((20 * 1024 - 1, 0), (20 * 1024, 2)):
        aside.clear()
        body = b"{" + b" " * (size - 2) + b"}"
        scope = http_scope("/marked", method="POST", headers=[json_type])
        done = call(shell, scope, *body_messages(body))
        assert (done.status, done.body) == (200, body)
        assert len(aside) == threads  # one for the request, one for the response
    # What is small under a coding may become large.
    aside.clear()
    scope = http_scope("/marked", method="POST", headers=[json_type, (b"content-encoding", b"gzip")])
    call(shell, scope, *body_messages(gzip.compress(b"{}")))
    assert register.bodies[-1] == ("/marked", b"{}")
    assert len(aside) == 1


@pytest.mark.parametrize(("client", "told"), [("off", 0), ("optional", 1)])
def test_a_silent_server_is_told_of_where_somebody_is_asked_for_a_certificate(
    pki: Pki, register: Register, caplog: pytest.LogCaptureFixture, client: str, told: int
) -> None:
    shell = protected(register, pki.settings(mtls={"client": client}))
    scope = http_scope("/x")
    del scope[PRESENTED_KEY]
    with caplog.at_level(logging.ERROR, "secmiddleware.asgi"):
        call(shell, scope, *body_messages(b""))
    assert register.bodies == [("/x", b"")]
    assert len(caplog.records) == told


def test_a_client_that_can_be_read_once_is_there_for_the_app(manager: SecurityManager) -> None:
    seen: list[tuple[str, int]] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        host, port = scope["client"]
        seen.append((host, port))
        await reply(send, b"{}")

    call(protected(app, manager), http_scope("/", client=iter(["192.0.2.7", 50000])), *body_messages(b""))
    assert seen == [("192.0.2.7", 50000)]


def test_a_preflight_whose_body_nobody_announced_breaks_off_at_its_first_byte(
    pki: Pki, register: Register
) -> None:
    """Over HTTP/2 no header tells that a body comes; who came in for having none brings none."""
    shell = protected(register, pki.settings(routes=[{"path": "/asked", "preflight": True}]))
    headers = [(b"origin", b"https://a.example"), (b"access-control-request-method", b"GET")]
    asked = http_scope("/asked", method="OPTIONS", headers=headers, http_version="2")
    call(shell, asked, *body_messages(b"", b"x", b"y"))
    assert (register.bodies, register.broken_off) == ([], ["/asked"])
    call(shell, asked, *body_messages(b""))
    assert register.bodies == [("/asked", b"")]
