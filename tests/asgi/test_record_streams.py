"""Marked streams in ASGI: record after record, both ways, over real servers, and how they break off."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable
from typing import Any

import pytest
from servers.in_thread import hypercorn_serving
from servers.pki import Pki
from servers.serving import HTTP, PATIENCE, Connection, answer_lifespan, serving
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import StreamingResponse
from starlette.routing import Route

from asgi.calling import Call, body_messages, http_scope
from secmiddleware.asgi import SecMiddleware
from secmiddleware.errors import BrokenOffError
from secmiddleware.messages import Refusal
from secmiddleware.security import SecurityManager
from secmiddleware.servers.hypercorn import options
from secmiddleware.telemetry.audit import AuditObservation, AuditObserver

NDJSON = [(b"content-type", b"application/x-ndjson")]
EVENTS = [(b"content-type", b"text/event-stream")]


@pytest.fixture(scope="module")
def settings(pki: Pki, keys: dict[str, str]) -> dict[str, Any]:
    place = {"routes": ["/marked"], "marks": ["$.ssn"], "request": "decrypt", "response": "encrypt"}
    inward = {"routes": ["/in"], "marks": ["$.ssn"], "request": "decrypt"}
    return pki.settings(mtls={"client": "off"}, keys=keys, fields={"ssn": {"places": [place, inward]}})


@pytest.fixture(scope="module")
def manager(
    settings: dict[str, Any], started: Callable[[dict[str, Any]], SecurityManager]
) -> SecurityManager:
    return started(settings)


@pytest.fixture(params=[*HTTP, "hypercorn"])
def serve(
    request: pytest.FixtureRequest, pki: Pki, settings: dict[str, Any], manager: SecurityManager
) -> Callable[[Any], Any]:
    def served(app: Any) -> Any:
        shell = SecMiddleware(app, config=manager)
        if request.param == "hypercorn":
            return hypercorn_serving(shell, options(settings))
        return serving(shell, pki, http=request.param)

    return served


class Records(AuditObserver):
    """Keeps how exchanges ended."""

    def __init__(self) -> None:
        self.ended: list[Any] = []

    def begin(self, head: Any, verdict: Any, started_ns: int) -> Any:
        ended = self.ended

        class Observation(AuditObservation):
            def end(self, record: Any) -> None:
                super().end(record)
                ended.append(record)

        return Observation(head, verdict)


def sealed(manager: SecurityManager, value: str) -> str:
    assert manager.encryption is not None
    return manager.encryption.seal("ssn", value.encode())


def next_line(stream: Any, ends: bytes) -> bytes:
    """The next line that ends so; where none comes the socket's time-out ends it."""
    while not (line := stream.readline()).endswith(ends):
        assert line, "the server has closed the connection"
    return line


async def turns(scope: Any, receive: Any, send: Any) -> None:
    """Answers each record before it asks for the next, with the record and what it read in it."""
    if scope["type"] == "lifespan":
        await answer_lifespan(receive, send)
        return
    await send({"type": "http.response.start", "status": 200, "headers": NDJSON})
    more = True
    while more:
        message = await receive()
        more = message["more_body"]
        if message["body"]:
            ssn = json.loads(message["body"])["ssn"]
            body = json.dumps({"ssn": ssn, "length": len(ssn)}).encode() + b"\n"
            await send({"type": "http.response.body", "body": body, "more_body": True})
    await send({"type": "http.response.body", "body": b""})


def test_each_record_is_opened_and_answered_before_the_next_is_sent(
    pki: Pki, manager: SecurityManager, serve: Callable[[Any], Any]
) -> None:
    with serve(turns) as port, Connection(port, pki.client("shop/alice")) as connection:
        connection.send(
            b"POST /marked HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n"
            b"content-type: application/x-ndjson\r\n\r\n"
        )
        stream = connection.tls.makefile("rb")
        for text in ("first", "second one", "third"):
            # Nothing more is sent until the answer to this one is there: a held record would hang here.
            line = json.dumps({"ssn": sealed(manager, json.dumps(text))}).encode() + b"\n"
            connection.send(b"%x\r\n%s\r\n" % (len(line), line))
            answer = json.loads(next_line(stream, b"}\n"))
            assert answer["length"] == len(text)
            assert answer["ssn"].startswith("sm1.")
        connection.send(b"0\r\n\r\n")
        next_line(stream, b"0\r\n")
        stream.close()


def test_an_event_is_there_before_the_next_is_made(pki: Pki, serve: Callable[[Any], Any]) -> None:
    go_on = threading.Event()

    async def events(request: Request) -> StreamingResponse:
        async def made() -> Any:
            yield b'data: {"ssn":"123-45-6789"}\n\n'
            await asyncio.to_thread(go_on.wait, PATIENCE)
            yield b"data: [DONE]\n\n"

        return StreamingResponse(made(), media_type="text/event-stream")

    app = Starlette(routes=[Route("/marked", events)])
    with serve(app) as port, Connection(port, pki.client("shop/alice")) as connection:
        connection.send(b"GET /marked HTTP/1.1\r\nhost: localhost\r\n\r\n")
        stream = connection.tls.makefile("rb")
        assert b"sm1." in next_line(stream, b'"}\n')
        go_on.set()
        next_line(stream, b"[DONE]\n")
        next_line(stream, b"0\r\n")
        stream.close()


def test_a_stream_that_cannot_go_on_is_cut_off_and_its_app_hears_of_it(
    pki: Pki, serve: Callable[[Any], Any]
) -> None:
    stopped = threading.Event()

    async def endless(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            await answer_lifespan(receive, send)
            return
        await send({"type": "http.response.start", "status": 200, "headers": EVENTS})
        try:
            while True:
                await send({"type": "http.response.body", "body": b"data: {}\n\n", "more_body": True})
                await send({"type": "http.response.body", "body": b"data: oops\n\n", "more_body": True})
        except OSError:
            stopped.set()

    with serve(endless) as port, Connection(port, pki.client("shop/alice")) as connection:
        connection.send(b"GET /marked HTTP/1.1\r\nhost: localhost\r\n\r\n")
        stream = connection.tls.makefile("rb")
        everything = stream.read()
        stream.close()
        assert everything.endswith(b"data: {}\n\n\r\n"), "a whole chunk, and no last one"
        assert stopped.wait(PATIENCE)


def run(manager: SecurityManager, app: Any, *chunks: bytes, path: str = "/marked") -> tuple[Call, Any]:
    records = Records()
    made = Call(http_scope(path, method="POST", headers=NDJSON), *body_messages(*chunks))
    asyncio.run(made.to(SecMiddleware(app, config=manager, observer=records)))
    (record,) = records.ended
    return made, record


def test_an_upload_that_breaks_off_is_a_disconnect_to_the_app_and_a_problem_to_the_caller(
    manager: SecurityManager,
) -> None:
    heard = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        while True:
            message = await receive()
            heard.append(message["type"])
            if message["type"] == "http.disconnect":
                raise RuntimeError("as frameworks do")

    for path in ("/marked", "/in"):
        heard.clear()
        made, record = run(manager, app, b"{}\n", b'{"ssn":"plain"}\n', b"{}\n", path=path)
        assert heard == ["http.request", "http.disconnect"]
        assert made.status == 400
        assert json.loads(made.body)["code"] == "field_undecryptable"
        assert (record.status, record.refusal.code, record.error) == (400, "field_undecryptable", None)


def test_an_answer_that_had_begun_before_its_upload_broke_off_stays_and_is_recorded(
    manager: SecurityManager,
) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        await send({"type": "http.response.start", "status": 422, "headers": []})
        await send({"type": "http.response.body", "body": b"{}"})

    made, record = run(manager, app, b"{}\n", b'{"ssn":"plain"}\n')
    assert made.status == 422
    assert (record.status, record.refusal.code) == (422, "field_undecryptable")


def test_the_record_of_a_stream_that_was_broken_off_says_why(manager: SecurityManager) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": NDJSON})
        await send({"type": "http.response.body", "body": b"{}\n", "more_body": True})
        await send({"type": "http.response.body", "body": b"oops\n", "more_body": True})

    records = Records()
    made = Call(http_scope("/marked"), *body_messages(b""))
    with pytest.raises(BrokenOffError, match="seal_failed"):
        asyncio.run(made.to(SecMiddleware(app, config=manager, observer=records)))
    (record,) = records.ended
    assert (record.status, record.refusal, record.error) == (200, Refusal("seal_failed"), None)
    assert all(message.get("more_body", True) for message in made.sent)


def test_an_app_that_leaves_a_stream_unfinished_is_an_error(manager: SecurityManager) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": NDJSON})
        await send({"type": "http.response.body", "body": b"{}\n", "more_body": True})

    with pytest.raises(BrokenOffError, match="unfinished"):
        run(manager, app, b"{}\n")


def test_a_stream_takes_the_keys_of_the_moment(manager: SecurityManager) -> None:
    kids = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        assert manager.encryption is not None
        await send({"type": "http.response.start", "status": 200, "headers": NDJSON})
        for _ in range(2):
            await send({"type": "http.response.body", "body": b'{"ssn":1}\n', "more_body": True})
            kids.append(exchange_of_now().keyring)
            if len(kids) == 1:
                manager.encryption.rotate()
        await send({"type": "http.response.body", "body": b""})

    seen: list[Any] = []
    admit = manager.admit

    def watched(head: Any) -> Any:
        seen.append(admit(head))
        return seen[-1]

    def exchange_of_now() -> Any:
        return seen[-1].exchange

    manager.admit = watched  # type: ignore[method-assign]
    try:
        made = Call(http_scope("/marked"), *body_messages(b""))
        asyncio.run(made.to(SecMiddleware(app, config=manager)))
    finally:
        del manager.admit  # type: ignore[method-assign]
    assert kids[0].gen < kids[1].gen
