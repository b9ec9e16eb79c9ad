"""Trailers, extensions, and who goes away when: what only ASGI has, or has in its own way."""

from __future__ import annotations

import asyncio
import gc
import json
from typing import Any

import pytest
from exchanges.outcome import Recorder
from servers.pki import Pki

from asgi.calling import Call, body_messages, call, http_scope
from secmiddleware.asgi import SecMiddleware
from secmiddleware.fields.limits import HeldBytes
from secmiddleware.security import SecurityManager

SSN = "078-05-1120"
BODY = b'{"ssn":"078-05-1120"}'
JSON = (b"content-type", b"application/json")
TRAILERS = "http.response.trailers"
EXTENSIONS = {TRAILERS: {}, "http.response.pathsend": {}, "http.response.zerocopysend": {}, "tls": {}}


@pytest.fixture(scope="module")
def manager(pki: Pki, keys: dict[str, str], started: Any) -> SecurityManager:
    places = [
        {"routes": ["/marked"], "marks": ["$.ssn"], "request": "decrypt", "response": "encrypt"},
        {"routes": ["/in"], "marks": ["$.ssn"], "request": "decrypt"},
        {"routes": ["/head"], "marks": ["header:X-Ssn"], "response": "encrypt"},
        {"routes": ["/out"], "marks": ["$.ssn"], "response": "encrypt"},
    ]
    settings = pki.settings(mtls={"client": "off"}, keys=keys, fields={"ssn": {"places": places}})
    return started(settings)


@pytest.fixture
def token(manager: SecurityManager) -> bytes:
    assert manager.encryption is not None
    return b'{"ssn":"%s"}' % manager.encryption.seal("ssn", b'"078-05-1120"').encode()


def opened(manager: SecurityManager, text: bytes) -> bytes:
    assert manager.encryption is not None
    return manager.encryption.open("ssn", text.decode())


def held(manager: SecurityManager) -> HeldBytes:
    gc.collect()
    return manager.snapshot.places.plan_for("/marked")._limits.held


def answering(*messages: dict[str, Any], after: Any = None) -> Any:
    """An app that reads its body, sends these messages and then does what comes after."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        while (await receive()).get("more_body", False):
            pass
        for message in messages:
            await send(message)
        if after is not None:
            await after(scope, receive, send)

    return app


def start(*headers: tuple[bytes, bytes], **more: Any) -> dict[str, Any]:
    return {"type": "http.response.start", "status": 200, "headers": [JSON, *headers], **more}


def body(data: bytes = BODY, **more: Any) -> dict[str, Any]:
    return {"type": "http.response.body", "body": data, **more}


def trailing(*headers: tuple[bytes, bytes], **more: Any) -> dict[str, Any]:
    return {"type": TRAILERS, "headers": list(headers), **more}


def sent_for(manager: SecurityManager, path: str, *messages: dict[str, Any], request: bytes = b"{}") -> Call:
    shell = SecMiddleware(answering(*messages), config=manager)
    scope = http_scope(path, method="POST", extensions=dict(EXTENSIONS), headers=[JSON])
    return call(shell, scope, *body_messages(request))


def test_trailers_leave_behind_a_sealed_body_without_those_that_speak_of_another(
    manager: SecurityManager,
) -> None:
    done = sent_for(
        manager,
        "/marked",
        start((b"trailer", b"x-sum, etag"), trailers=True),
        body(),
        trailing(
            (b"X-Sum", b"1"), (b"Content-Digest", b"sha-256=:AAAA:"), (b"Digest", b"x"), more_trailers=True
        ),
        trailing((b"ETag", b'"v7"'), (b"repr-digest", b"sha-256=:AAAA:"), (b"content-md5", b"x")),
    )
    head, piece, last = done.sent
    assert head["trailers"] is True
    assert opened(manager, json.loads(piece["body"])["ssn"].encode()) == b'"078-05-1120"'
    assert last["more_trailers"] is False
    (sum_, (name, tag)) = last["headers"]
    assert sum_ == (b"x-sum", b"1")
    assert (name, tag[:5]) == (b"etag", b'W/"sm')


def test_nothing_leaves_before_the_trailers_have_come(manager: SecurityManager) -> None:
    after: list[int] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send(start(trailers=True))
        await send(body())
        after.append(len(server.sent))
        await send(trailing(more_trailers=True))
        after.append(len(server.sent))
        await send(trailing())

    server = Call(http_scope("/marked", extensions=dict(EXTENSIONS)), *body_messages(b""))
    asyncio.run(server.to(SecMiddleware(app, config=manager)))
    assert after == [0, 0]
    # None are left to promise.
    assert [message["type"] for message in server.sent] == ["http.response.start", "http.response.body"]
    assert "trailers" not in server.sent[0]


def test_a_response_whose_trailers_do_not_come_is_not_whole(manager: SecurityManager) -> None:
    for messages in (
        [start(trailers=True), body()],
        [start(trailers=True), body(), trailing(more_trailers=True)],
    ):
        done = sent_for(manager, "/marked", *messages)
        assert (done.status, json.loads(done.body)["code"]) == (500, "internal_error")
        assert not any(message.get("trailers") for message in done.sent)


def test_what_was_opened_leaves_in_no_trailer(manager: SecurityManager, token: bytes) -> None:
    for path in ("/marked", "/in"):
        leaking = trailing((b"x-echo", SSN.encode()))
        done = sent_for(manager, path, start(trailers=True), body(b"{}"), leaking, request=token)
        assert (done.status, json.loads(done.body)["code"]) == (500, "seal_failed")
        assert [message["type"] for message in done.sent] == ["http.response.start", "http.response.body"]
        assert SSN not in str(done.sent)
        harmless = trailing((b"x-echo", b"1"), (b"content-digest", b"x"))
        done = sent_for(manager, path, start(trailers=True), body(b"{}"), harmless, request=token)
        assert (b"x-echo", b"1") in done.sent[-1]["headers"]
        assert ((b"content-digest", b"x") in done.sent[-1]["headers"]) == (path == "/in")


def test_a_header_that_is_marked_is_marked_in_the_trailers_too(manager: SecurityManager) -> None:
    done = sent_for(
        manager,
        "/head",
        start(trailers=True),
        body(b"free"),
        trailing((b"x-ssn", SSN.encode()), (b"x-a", b"1")),
    )
    (name, sealed), other = done.sent[-1]["headers"]
    assert (name, other) == (b"x-ssn", (b"x-a", b"1"))
    assert SSN.encode() in opened(manager, sealed)
    assert done.body == b"free"


def test_trailers_that_nobody_has_announced_are_an_error_of_the_app(manager: SecurityManager) -> None:
    for messages in ([start(), trailing()], [start(trailers=True), trailing()], [trailing()]):
        with pytest.raises(Exception, match="ASGI"):
            sent_for(manager, "/marked", *messages)


def test_of_a_held_response_the_app_is_offered_no_way_past_us(manager: SecurityManager, token: bytes) -> None:
    seen: dict[str, list[str]] = {}

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen[scope["path"]] = sorted(scope["extensions"])
        await answering(start(), body(b"{}"))(scope, receive, send)

    for path in ("/marked", "/in", "/head", "/elsewhere"):
        scope = http_scope(path, method="POST", extensions=dict(EXTENSIONS), headers=[JSON])
        call(SecMiddleware(app, config=manager), scope, *body_messages(token))
    assert seen["/elsewhere"] == sorted(EXTENSIONS)
    assert seen["/marked"] == seen["/in"] == seen["/head"] == [TRAILERS, "tls"]
    call(SecMiddleware(app, config=manager), http_scope("/marked"), *body_messages(b""))
    assert seen["/marked"] == []


def test_a_file_that_an_app_sends_past_us_all_the_same_does_not_leave(manager: SecurityManager) -> None:
    for kind in ("http.response.pathsend", "http.response.zerocopysend"):
        with pytest.raises(Exception, match="ASGI"):
            sent_for(manager, "/marked", start(), {"type": kind, "path": "/etc/passwd"})


def test_a_refusal_that_the_head_decides_asks_for_no_body(manager: SecurityManager) -> None:
    """A server answers `Expect: 100-continue` when it is asked for the body: then it must not be."""

    class Server(Call):
        async def receive(self) -> dict[str, Any]:
            raise AssertionError("asked for the body")

    for headers in (
        [JSON, (b"expect", b"100-continue"), (b"content-length", b"99999999")],
        [(b"content-type", b"text/plain"), (b"expect", b"100-continue"), (b"content-length", b"9")],
        [JSON, (b"content-encoding", b"x-own"), (b"content-length", b"9")],
        [JSON, (b"content-range", b"bytes 0-8/9"), (b"content-length", b"9")],
    ):
        server = Server(http_scope("/marked", method="POST", headers=headers))
        asyncio.run(server.to(SecMiddleware(answering(), config=manager)))
        assert server.status in (400, 413, 415)


class Lost(Call):
    """A server whose caller is gone when it sends: ASGI 2.4 has it raise an OSError."""

    async def send(self, message: dict[str, Any]) -> None:
        raise OSError("gone")


def test_a_caller_who_is_gone_when_the_answer_is_ready_is_the_apps_to_hear_of(
    manager: SecurityManager,
) -> None:
    heard: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send(start())
        try:
            await send(body())
        except OSError as gone:
            heard.append(str(gone))
        await send(body())  # said into the void

    server = Lost(http_scope("/marked"), *body_messages(b""))
    asyncio.run(server.to(SecMiddleware(app, config=manager)))
    assert heard == ["gone"]
    assert held(manager).total == 0


def test_an_app_that_waits_for_its_caller_hears_that_it_is_gone(
    manager: SecurityManager, token: bytes
) -> None:
    heard: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        heard.append((await receive())["body"].decode())
        await send(start())
        await send(body(b'{"ssn":', more_body=True))
        heard.append((await receive())["type"])

    server = Call(http_scope("/marked", method="POST", headers=[JSON]), *body_messages(token))
    asyncio.run(server.to(SecMiddleware(app, config=manager)))
    assert heard == [BODY.decode(), "http.disconnect"]
    assert server.sent == []  # nothing of what it began leaves, and there is nobody to be told why
    assert held(manager).total == 0


@pytest.mark.parametrize("phase", ["upload", "app", "answer"])
def test_a_task_that_is_cancelled_in_any_phase_leaves_nothing_held(
    manager: SecurityManager, token: bytes, phase: str
) -> None:
    reached = asyncio.Event()

    async def never() -> None:
        reached.set()
        await asyncio.Event().wait()

    class Server(Call):
        async def receive(self) -> dict[str, Any]:
            if phase == "upload" and not self._messages:
                await never()
            return await super().receive()

        async def send(self, message: dict[str, Any]) -> None:
            if phase == "answer":
                await never()
            await super().send(message)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send(start())
        await send(body(b'{"ssn":1', more_body=True))
        if phase == "app":
            await never()
        await send(body(b"}"))

    async def run() -> Server:
        message = {"type": "http.request", "body": token, "more_body": phase == "upload"}
        server = Server(http_scope("/marked", method="POST", headers=[JSON]), message)
        task = asyncio.create_task(server.to(SecMiddleware(app, config=manager)))
        await reached.wait()
        assert held(manager).total > 0 or phase == "answer"
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        return server

    server = asyncio.run(run())
    assert server.sent == []
    assert held(manager).total == 0


@pytest.mark.parametrize(
    ("messages", "status"),
    [
        ([start(), body()], 200),
        ([start((b"content-range", b"bytes 0-1/9")), body()], 500),
        ([start(), body(b"<p>")], 500),
        ([start(), body(b" " * (5 << 20)), body()], 500),
    ],
)
def test_what_an_app_does_after_its_answer_it_does_whatever_becomes_of_the_answer(
    manager: SecurityManager, messages: list[dict[str, Any]], status: int
) -> None:
    done: list[int] = []

    async def task(scope: Any, receive: Any, send: Any) -> None:
        await asyncio.sleep(0)
        done.append(len(server.sent))

    server = Call(http_scope("/marked"), *body_messages(b""))
    asyncio.run(server.to(SecMiddleware(answering(*messages, after=task), config=manager)))
    assert server.status == status
    assert done == [2]  # the answer had left before


def test_what_fails_after_the_answer_does_not_change_it(manager: SecurityManager) -> None:
    async def fails(scope: Any, receive: Any, send: Any) -> None:
        raise RuntimeError("a background task")

    server = Call(http_scope("/marked"), *body_messages(b""))
    with pytest.raises(RuntimeError, match="a background task"):
        asyncio.run(server.to(SecMiddleware(answering(start(), body(), after=fails), config=manager)))
    assert (server.status, len(server.sent)) == (200, 2)
    assert SSN.encode() not in server.body


def test_a_caller_who_goes_away_while_an_upload_streams_to_the_app_is_not_refused(
    manager: SecurityManager,
) -> None:
    recorder = Recorder()
    shell = SecMiddleware(answering(start(), body()), config=manager, observer=recorder)
    scope = http_scope("/out", method="POST", headers=[JSON])
    call(shell, scope, {"type": "http.request", "body": b"{", "more_body": True}, {"type": "http.disconnect"})
    (record,) = recorder.records
    assert record.refusal is None
