"""Websockets with marks: each text message is opened and sealed as a body is, or the socket is ended."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any

import pytest
from servers.pki import Pki

from asgi.calling import Call, call, http_scope
from secmiddleware.asgi import SecMiddleware
from secmiddleware.security import SecurityManager

LIMIT = 4096


@pytest.fixture(scope="module", params=["off", "1m"])
def manager(
    request: pytest.FixtureRequest,
    pki: Pki,
    keys: dict[str, str],
    started: Callable[[dict[str, Any]], SecurityManager],
) -> SecurityManager:
    """With and without a timer that judges sockets again."""

    def place(path: str, **more: Any) -> dict[str, Any]:
        return {"routes": [path], "marks": ["$.ssn", "$..deep"], "websocket": True, **more}

    places = [
        place("/both", request="decrypt", response="encrypt"),
        place("/in", request="decrypt"),
        place("/out", response="encrypt"),
        place("/mixed", request="decrypt"),
    ]
    closed = {"routes": ["/mixed"], "marks": ["$.other"], "request": "decrypt"}
    fields = {"ssn": {"places": places}, "more": {"places": [closed]}}
    service = {"max_body": LIMIT}
    mtls = {"client": "off", "recheck": request.param}
    return started(pki.settings(service=service, mtls=mtls, keys=keys, fields=fields))


def seal(manager: SecurityManager, value: str = '"123-45-6789"') -> str:
    assert manager.encryption is not None
    return manager.encryption.seal("ssn", value.encode())


class Talk:
    """A client that sends these messages, and an app that answers each as told, until one of them ends it."""

    def __init__(
        self, manager: SecurityManager, path: str, *messages: Any, answer: Any = None, **more: Any
    ) -> None:
        self.heard: list[Any] = []
        self.sent: list[dict[str, Any]] = []
        self.raised: BaseException | None = None
        self._answer = answer
        self._messages = [{"type": "websocket.connect"}]
        self._messages += [{"type": "websocket.receive", **self._content(message)} for message in messages]
        self._messages.append({"type": "websocket.disconnect", "code": 1000})
        scope = http_scope(path, type="websocket", scheme="wss", **more)
        del scope["method"]
        asyncio.run(SecMiddleware(self._app, config=manager)(scope, self._receive, self._send))

    @staticmethod
    def _content(message: Any) -> dict[str, Any]:
        if isinstance(message, dict):
            return message
        return {"text": message} if isinstance(message, str) else {"bytes": message}

    async def _receive(self) -> Any:
        await asyncio.sleep(0)
        return self._messages.pop(0)

    async def _send(self, message: Any) -> None:
        self.sent.append(message)

    async def _app(self, scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        while (message := await receive())["type"] == "websocket.receive":
            self.heard.append(message.get("text") if message.get("text") is not None else message["bytes"])
            answer = self.heard[-1] if self._answer is None else self._answer
            try:
                await send({"type": "websocket.send", **self._content(answer)})
            except OSError as error:
                self.raised = error
                raise
        self.heard.append((message["type"], message["code"]))

    @property
    def texts(self) -> list[Any]:
        return [message.get("text") for message in self.sent if message["type"] == "websocket.send"]

    @property
    def closed(self) -> tuple[int, str] | None:
        if self.sent[-1]["type"] != "websocket.close":
            return None
        return self.sent[-1]["code"], self.sent[-1]["reason"]


def test_each_message_is_opened_for_the_app_and_sealed_for_the_client(manager: SecurityManager) -> None:
    messages = [f'{{ "ssn" : "{seal(manager)}","x":1.10}}', "[]", '{"x": "é"}']
    talk = Talk(manager, "/both", *messages)
    assert talk.heard == [
        '{ "ssn" : "123-45-6789","x":1.10}', "[]", '{"x": "é"}', ("websocket.disconnect", 1000)
    ]  # fmt: skip
    first, *others = talk.texts
    assert others == ["[]", '{"x": "é"}']
    assert "123-45-6789" not in first
    assert first.startswith('{ "ssn" : "sm1.')
    assert talk.closed is None


@pytest.mark.parametrize(
    ("message", "code", "reason"),
    [
        (b"{}", 1003, "payload_encoding"),
        ("{", 1007, "payload_malformed"),
        ("ping", 1007, "payload_malformed"),
        ("\ud800", 1007, "payload_malformed"),
        ('{"ssn":"plain"}', 1008, "field_undecryptable"),
        ('"' + "x" * LIMIT + '"', 1009, "payload_too_large"),
    ],
)
def test_a_message_that_cannot_be_opened_ends_the_socket(
    manager: SecurityManager, message: Any, code: int, reason: str
) -> None:
    talk = Talk(manager, "/both", "{}", message, "{}")
    assert talk.heard == ["{}", ("websocket.disconnect", code)]
    assert talk.texts == ["{}"]
    assert talk.closed == (code, reason)


@pytest.mark.parametrize("answer", ["oops 123-45-6789", b"123-45-6789", '"' + "x" * LIMIT + '"'])
def test_what_cannot_be_sealed_is_not_sent_and_ends_the_socket(manager: SecurityManager, answer: Any) -> None:
    talk = Talk(manager, "/out", "hello", answer=answer, asgi={"version": "3.0", "spec_version": "2.4"})
    assert talk.heard == ["hello"]
    assert talk.texts == []
    assert talk.closed == (1011, "seal_failed")
    assert isinstance(talk.raised, OSError)


@pytest.mark.parametrize("path", ["/both", "/in", "/out"])
def test_a_message_with_two_contents_does_not_leave(manager: SecurityManager, path: str) -> None:
    message = f'{{"ssn":"{seal(manager)}"}}' if path != "/out" else "{}"
    talk = Talk(manager, path, message, answer={"text": "{}", "bytes": b"123-45-6789"})
    assert talk.closed == (1011, "seal_failed")
    assert "123-45-6789" not in repr(talk.sent)


def test_an_app_of_an_older_version_hears_of_the_end_by_its_disconnect(manager: SecurityManager) -> None:
    talk = Talk(manager, "/out", "hello", answer="oops")
    assert talk.heard == ["hello", ("websocket.disconnect", 1011)]


@pytest.mark.parametrize("answer", ['{"x":"123-45-6789"}', "no JSON: 123-45-6789", b"123-45-6789"])
@pytest.mark.parametrize("path", ["/both", "/in"])
def test_an_opened_value_does_not_leave_outside_of_a_mark_as_long_as_the_socket_lives(
    manager: SecurityManager, path: str, answer: Any
) -> None:
    talk = Talk(manager, path, f'{{"ssn":"{seal(manager)}"}}', answer=answer)
    assert talk.texts == []
    assert talk.closed == (1011, "seal_failed")


@pytest.mark.parametrize(
    "pieces", [("so 123-45", "-6789 it is"), (b"1", b"23-45-67", b"89"), ("12\\u00", "33-45-6789")]
)
def test_an_opened_value_does_not_leave_in_pieces_of_several_messages(
    manager: SecurityManager, pieces: tuple[Any, ...]
) -> None:
    sent = _after_opening(manager, [], pieces)
    assert sent == [*pieces[:-1], (1011, "seal_failed")]


def test_what_the_app_said_before_it_was_opened_holds_nothing_back(manager: SecurityManager) -> None:
    ssn = "123-45-6789"
    assert _after_opening(manager, [ssn], ["fine", "and well"]) == [ssn, "fine", "and well"]
    assert _after_opening(manager, [ssn], ["fine", ssn]) == [ssn, "fine", (1011, "seal_failed")]
    assert _after_opening(manager, [ssn], ["123-45", "-6789"]) == [ssn, "123-45", (1011, "seal_failed")]


def _after_opening(manager: SecurityManager, before: Iterable[Any], after: Iterable[Any]) -> list[Any]:
    """What the caller gets of what an app says before and after it is given a value."""
    sent: list[Any] = []
    messages = [
        {"type": "websocket.connect"},
        {"type": "websocket.receive", "text": f'{{"ssn":"{seal(manager)}"}}'},
    ]

    async def app(scope: Any, receive: Any, send: Any) -> None:
        async def say(all_of_it: Iterable[Any]) -> None:
            for one in all_of_it:
                kind = "text" if isinstance(one, str) else "bytes"
                await send({"type": "websocket.send", kind: one})

        await receive()
        await send({"type": "websocket.accept"})
        await say(before)
        await receive()
        with suppress(OSError):
            await say(after)

    async def receive() -> Any:
        return messages.pop(0)

    async def send(message: Any) -> None:
        match message["type"]:
            case "websocket.send":
                sent.append(message.get("text") or message.get("bytes"))
            case "websocket.close":
                sent.append((message["code"], message["reason"]))

    scope = http_scope("/in", type="websocket", scheme="wss")
    asyncio.run(SecMiddleware(app, config=manager)(scope, receive, send))
    return sent


def test_where_one_way_is_marked_the_other_is_not_read(manager: SecurityManager) -> None:
    assert Talk(manager, "/in", "{}", answer="no JSON").texts == ["no JSON"]
    assert Talk(manager, "/out", "no JSON", b"\xff", answer="{}").heard[:2] == ["no JSON", b"\xff"]


def test_a_place_that_does_not_say_so_keeps_websockets_out(manager: SecurityManager) -> None:
    talk = Talk(manager, "/mixed", "{}")
    assert talk.closed == (1008, "payload_encoding")
    assert talk.heard == []


def test_an_opened_value_does_not_leave_in_the_reason_of_a_close(manager: SecurityManager) -> None:
    sent = []
    messages = [
        {"type": "websocket.connect"},
        {"type": "websocket.receive", "text": f'{{"ssn":"{seal(manager)}"}}'},
    ]

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        ssn = json.loads((await receive())["text"])["ssn"]
        await send({"type": "websocket.close", "code": 4000, "reason": f"bad {ssn}"})

    async def receive() -> Any:
        return messages.pop(0)

    async def send(message: Any) -> None:
        sent.append(message)

    scope = http_scope("/in", type="websocket", scheme="wss")
    asyncio.run(SecMiddleware(app, config=manager)(scope, receive, send))
    assert sent[-1] == {"type": "websocket.close", "code": 4000, "reason": ""}


def denied(manager: SecurityManager, path: str, kind: bytes, *pieces: bytes) -> Call:
    """What becomes of an app's own denial, with a body in these pieces."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        headers = [(b"Content-Type", kind), (b"x-kept", b"1")]
        await send({"type": "websocket.http.response.start", "status": 403, "headers": headers})
        for piece in pieces:
            message = {"type": "websocket.http.response.body", "body": piece, "more_body": True}
            await send(message)
        await send({"type": "websocket.http.response.body"})

    scope = http_scope(path, type="websocket", extensions={"websocket.http.response": {}})
    return call(SecMiddleware(app, config=manager), scope, {"type": "websocket.connect"})


def test_the_denial_of_an_app_is_a_response_like_any_other(manager: SecurityManager) -> None:
    done = denied(manager, "/out", b"application/json", b'{ "ssn" : "123-', b'45-6789"}')
    assert (done.status, done.body[:15]) == (403, b'{ "ssn" : "sm1.')
    head, *body = done.sent
    length = b"%d" % len(done.body)
    assert head["headers"] == [
        (b"content-type", b"application/json"), (b"x-kept", b"1"), (b"content-length", length)
    ]  # fmt: skip
    assert [message["more_body"] for message in body][-1] is False


@pytest.mark.parametrize(
    ("kind", "piece"),
    [
        (b"text/html", b"<p>123-45-6789"),
        (b"application/json", b'{"ssn":'),
        (b"application/json", b"x" * 5000),
    ],
)
def test_of_a_denial_that_cannot_be_sealed_nothing_leaves(
    manager: SecurityManager, kind: bytes, piece: bytes
) -> None:
    done = denied(manager, "/out", kind, piece)
    assert (done.status, json.loads(done.body)["code"]) == (500, "seal_failed")
    assert b"123-45-6789" not in done.body


def test_a_denial_that_is_a_stream_breaks_off_where_it_cannot_be_sealed(manager: SecurityManager) -> None:
    done = denied(manager, "/out", b"application/x-ndjson", b'{"ssn":"123-45-6789"}\n', b"oops\n", b"{}\n")
    assert done.status == 403
    assert done.body.startswith(b'{"ssn":"sm1.')
    assert b"oops" not in done.body
    assert all(message["more_body"] for message in done.sent[1:])


def test_each_message_takes_the_keys_of_its_moment(manager: SecurityManager) -> None:
    seen: list[Any] = []
    admit = manager.admit

    def admitted(head: Any) -> Any:
        verdict = admit(head)
        fresh = verdict.exchange.fresh
        verdict.exchange.fresh = lambda: seen.append(1) or fresh()
        return verdict

    manager.admit = admitted  # type: ignore[method-assign]
    try:
        Talk(manager, "/both", "{}", "{}", "[]")
    finally:
        del manager.admit  # type: ignore[method-assign]
    assert len(seen) == 6
