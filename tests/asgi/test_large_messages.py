"""Large messages of a websocket with marks leave the loop, asyncio's or trio's; their order stays.

Whether the loop is free is told by a gate: the work waits in it for what only the loop can do.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import anyio
import pytest
from servers.pki import Pki
from servers.serving import PATIENCE

from asgi.calling import Call, body_messages, http_scope
from secmiddleware.asgi import SecMiddleware
from secmiddleware.fields import requests, responses
from secmiddleware.fields.frames import Frames
from secmiddleware.fields.streams import RequestStream
from secmiddleware.messages import Refusal
from secmiddleware.security import SecurityManager

OFFLOAD = 20 * 1024
LIMIT = 256 * 1024
CONNECT = {"type": "websocket.connect"}
BYE = {"type": "websocket.disconnect", "code": 1001}

pytestmark = pytest.mark.usefixtures("backend")


@pytest.fixture(params=["asyncio", "trio"])
def backend(request: pytest.FixtureRequest) -> Any:
    return request.param


@pytest.fixture(scope="module")
def manager(pki: Pki, keys: dict[str, str], started: Any) -> SecurityManager:
    def place(path: str, **more: Any) -> dict[str, Any]:
        return {"routes": [path], "marks": ["$.ssn"], "websocket": True, **more}

    places = [
        place("/both", request="decrypt", response="encrypt"),
        place("/in", request="decrypt"),
        place("/out", response="encrypt"),
    ]
    return started(
        pki.settings(
            service={"max_body": LIMIT, "offload": OFFLOAD},
            mtls={"client": "off", "recheck": "1m"},
            keys={**keys, "ring": "large", "store": "memory:"},
            fields={"ssn": {"places": places}},
        )
    )


class Gate:
    """Stands in the work; lets it go on when the loop, or whoever has the gate, says so."""

    def __init__(self) -> None:
        self.reached = threading.Event()
        self.opened = threading.Event()
        self.threads: list[threading.Thread] = []

    def around(self, patch: pytest.MonkeyPatch, owner: Any, name: str, at: int = OFFLOAD) -> None:
        """Into the method or function, for what is as large as `at`."""
        work = getattr(owner, name)

        def gated(*given: Any) -> Any:
            if any(isinstance(one, (str, bytes)) and len(one) >= at for one in given):
                self.threads.append(threading.current_thread())
                self.reached.set()
                assert self.opened.wait(PATIENCE), "the loop is not free"
            return work(*given)

        patch.setattr(owner, name, gated)

    async def until_reached(self) -> None:
        assert await anyio.to_thread.run_sync(self.reached.wait, PATIENCE)


@pytest.fixture
def gate() -> Iterator[Gate]:
    made = Gate()
    yield made
    made.opened.set()


class Line:
    """A client, its server, and what is between them and the app."""

    def __init__(self, path: str = "/both", **more: Any) -> None:
        self.sent: list[dict[str, Any]] = []
        self.put, self._inbox = anyio.create_memory_object_stream[Any](100)
        self.put.send_nowait(CONNECT)
        extensions = {"websocket.http.response": {}}
        self.scope = http_scope(path, type="websocket", scheme="wss", extensions=extensions, **more)
        self.scope["asgi"]["spec_version"] = "2.4"
        del self.scope["method"]

    def says(self, *texts: str) -> None:
        for text in texts:
            self.put.send_nowait({"type": "websocket.receive", "text": text})

    async def send(self, message: Any) -> None:
        await anyio.lowlevel.checkpoint()
        self.sent.append(message)

    async def call(self, app: Any, manager: SecurityManager) -> None:
        with anyio.fail_after(PATIENCE):
            await SecMiddleware(app, config=manager)(self.scope, self._inbox.receive, self.send)
        self.put.close()
        self._inbox.close()

    @property
    def texts(self) -> list[str]:
        return [message["text"] for message in self.sent if message["type"] == "websocket.send"]


def large(value: str = "123-45-6789", size: int = OFFLOAD) -> str:
    """A message of this size with a value at its mark."""
    short = json.dumps({"ssn": value, "f": ""})
    return json.dumps({"ssn": value, "f": "x" * (size - len(short))})


def seal(manager: SecurityManager, value: str = "123-45-6789") -> str:
    assert manager.encryption is not None
    return manager.encryption.seal("ssn", json.dumps(value).encode())


async def heard_all(receive: Any, heard: list[Any]) -> None:
    while (message := await receive())["type"] == "websocket.receive":
        heard.append(json.loads(message["text"]))
    heard.append(message)


def run(backend: str, scenario: Callable[[], Awaitable[None]]) -> None:
    anyio.run(scenario, backend=backend)


def test_a_large_message_is_opened_beside_the_loop_and_before_the_next(
    manager: SecurityManager, gate: Gate, backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate.around(monkeypatch, Frames, "receive")
    heard: list[Any] = []

    async def app(_scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        # Two that wait at once: the second has the small message, and must not have it first.
        async with anyio.create_task_group() as group:
            for _ in range(2):
                group.start_soon(take, receive)
        await heard_all(receive, heard)

    async def take(receive: Any) -> None:
        heard.append(json.loads((await receive())["text"]))

    async def scenario() -> None:
        line = Line()
        line.says(large(seal(manager)), '{"n":1}', '{"n":2}')
        line.put.send_nowait(BYE)
        async with anyio.create_task_group() as group:
            group.start_soon(line.call, app, manager)
            await gate.until_reached()
            assert heard == []
            gate.opened.set()

    run(backend, scenario)
    assert heard[0]["ssn"] == "123-45-6789"
    assert heard[1:] == [{"n": 1}, {"n": 2}, BYE]
    assert threading.main_thread() not in gate.threads


def test_a_large_message_is_sealed_beside_the_loop_and_leaves_before_the_next(
    manager: SecurityManager, gate: Gate, backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate.around(monkeypatch, Frames, "send")

    async def app(_scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        async with anyio.create_task_group() as group:
            group.start_soon(send, {"type": "websocket.send", "text": large()})
            await gate.until_reached()
            for number in range(5):
                group.start_soon(send, {"type": "websocket.send", "text": f"[{number}]"})
                await anyio.wait_all_tasks_blocked()
            gate.opened.set()

    line: list[Line] = []

    async def scenario() -> None:
        line.append(Line())
        await line[0].call(app, manager)

    run(backend, scenario)
    first, *others = line[0].texts
    assert json.loads(first)["ssn"].startswith("sm1.")
    assert others == [f"[{number}]" for number in range(5)]
    assert threading.main_thread() not in gate.threads


def test_one_message_is_worked_on_at_a_time_both_ways_together(
    manager: SecurityManager, gate: Gate, backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The values that were opened are looked for in what leaves: neither may see the other's half."""
    gate.around(monkeypatch, Frames, "receive")
    order: list[str] = []

    async def app(_scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "websocket.accept"})

        async def answer() -> None:
            # It is asked for while the value is being opened, and must wait for that.
            await gate.until_reached()
            async with anyio.create_task_group() as inner:
                inner.start_soon(say)
                await anyio.wait_all_tasks_blocked()
                assert order == []
                gate.opened.set()

        async def say() -> None:
            with pytest.raises(OSError, match="sealed"):
                await send({"type": "websocket.send", "text": '{"echo":"123-45-6789"}'})
            order.append("said")

        async with anyio.create_task_group() as group:
            group.start_soon(answer)
            message = await receive()
            order.append(message["type"])

    line: list[Line] = []

    async def scenario() -> None:
        line.append(Line())
        line[0].says(large(seal(manager)))
        await line[0].call(app, manager)

    run(backend, scenario)
    assert line[0].texts == []
    assert line[0].sent[-1]["reason"] == "seal_failed"
    assert "said" in order


@pytest.mark.parametrize("waits_for", ["the work", "its turn"])
def test_a_receive_that_is_given_up_over_a_large_message_loses_it_not(
    manager: SecurityManager, gate: Gate, backend: str, waits_for: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate.around(monkeypatch, Frames, "receive" if waits_for == "the work" else "send")
    heard: list[Any] = []
    gave_up: list[bool] = []

    async def app(_scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        async with anyio.create_task_group() as group:
            if waits_for == "its turn":
                group.start_soon(send, {"type": "websocket.send", "text": large()})
            group.start_soon(impatient, receive)
        await heard_all(receive, heard)

    async def impatient(receive: Any) -> None:
        with anyio.CancelScope() as scope:
            async with anyio.create_task_group() as group:
                group.start_soon(give_up, scope)
                heard.append(json.loads((await receive())["text"]))
        gave_up.append(scope.cancelled_caught)

    async def give_up(scope: anyio.CancelScope) -> None:
        await gate.until_reached()
        await anyio.wait_all_tasks_blocked()
        scope.cancel()
        threading.Timer(0.05, gate.opened.set).start()

    async def scenario() -> None:
        line = Line()
        line.says(large(seal(manager)), '{"n":1}')
        line.put.send_nowait(BYE)
        await line.call(app, manager)

    run(backend, scenario)
    assert gave_up  # under trio, the work in a thread is waited for, and its message comes
    assert [message.get("ssn") for message in heard[:-1]] == ["123-45-6789", None]
    assert heard[1:] == [{"n": 1}, BYE]


def test_two_that_wait_while_another_message_is_in_work_get_one_each(
    manager: SecurityManager, gate: Gate, backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate.around(monkeypatch, Frames, "send")
    heard: list[Any] = []

    async def app(_scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "websocket.accept"})

        async def take() -> None:
            heard.append(json.loads((await receive())["text"]))

        async with anyio.create_task_group() as group:
            group.start_soon(send, {"type": "websocket.send", "text": large()})
            await gate.until_reached()
            for _ in range(2):
                group.start_soon(take)
                await anyio.wait_all_tasks_blocked()
            gate.opened.set()

    async def scenario() -> None:
        line = Line()
        line.says('{"n":1}', '{"n":2}')
        await line.call(app, manager)

    run(backend, scenario)
    assert heard == [{"n": 1}, {"n": 2}]


@pytest.mark.parametrize("path", ["/in", "/out"])
def test_all_that_wait_for_a_message_hear_of_the_end(
    manager: SecurityManager, backend: str, path: str
) -> None:
    heard: list[Any] = []
    line = Line(path)

    async def app(_scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "websocket.accept"})

        async def listen() -> None:
            heard.append(await receive())

        async with anyio.create_task_group() as group:
            for _ in range(3):
                group.start_soon(listen)
                await anyio.wait_all_tasks_blocked()
            if path == "/in":
                line.says("no JSON")
            else:
                with pytest.raises(OSError, match="could not be sealed"):
                    await send({"type": "websocket.send", "text": "no JSON"})

    async def scenario() -> None:
        await line.call(app, manager)

    run(backend, scenario)
    assert [message["type"] for message in heard] == ["websocket.disconnect"] * 3
    assert [message["type"] for message in line.sent] == ["websocket.accept", "websocket.close"]


@pytest.mark.parametrize("way", ["receive", "send"])
def test_a_socket_that_ends_over_a_large_message_ends_without_it(
    manager: SecurityManager, gate: Gate, backend: str, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate.around(monkeypatch, Frames, way)
    verdicts = [manager.admit]
    monkeypatch.setattr("secmiddleware.asgi_websocket._EARLIEST", 0)
    monkeypatch.setattr("secmiddleware.asgi_websocket.random.uniform", lambda _least, _most: 0.0005)

    def admit(head: Any) -> Any:
        if verdicts:
            return verdicts.pop()(head)
        # It is long since in the thread when the next look comes.
        if not gate.reached.is_set():
            return let_in(head)
        threading.Timer(0.05, gate.opened.set).start()
        return Refusal("certificate_revoked")

    let_in = manager.admit
    monkeypatch.setattr(manager, "admit", admit)
    heard: list[Any] = []

    async def app(_scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        if way == "send":
            with pytest.raises(OSError, match="certificate_revoked"):
                await send({"type": "websocket.send", "text": large()})
        heard.append(await receive())

    line: list[Line] = []

    async def scenario() -> None:
        line.append(Line())
        if way == "receive":
            line[0].says(large(seal(manager)))
        await line[0].call(app, manager)

    run(backend, scenario)
    assert heard == [{"type": "websocket.disconnect", "code": 1008, "reason": "certificate_revoked"}]
    assert [message["type"] for message in line[0].sent] == ["websocket.accept", "websocket.close"]


def test_a_close_that_is_given_up_over_a_large_message_leaves_the_socket_judged(
    manager: SecurityManager, gate: Gate, backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate.around(monkeypatch, Frames, "send")
    monkeypatch.setattr("secmiddleware.asgi_websocket.random.uniform", lambda _least, _most: 0.0005)
    good, let_in = True, manager.admit
    monkeypatch.setattr(
        manager, "admit", lambda head: let_in(head) if good else Refusal("certificate_revoked")
    )
    heard: list[Any] = []

    async def app(_scope: Any, receive: Any, send: Any) -> None:
        nonlocal good
        await receive()
        await send({"type": "websocket.accept"})
        async with anyio.create_task_group() as group:
            group.start_soon(send, {"type": "websocket.send", "text": large()})
            await gate.until_reached()
            with anyio.move_on_after(0.01):
                await send({"type": "websocket.close", "code": 1000})
            gate.opened.set()
        good = False
        heard.append(await receive())

    async def scenario() -> None:
        line = Line()
        await line.call(app, manager)
        closes = [message["code"] for message in line.sent if message["type"] == "websocket.close"]
        assert closes == [1008]

    run(backend, scenario)
    assert heard == [{"type": "websocket.disconnect", "code": 1008, "reason": "certificate_revoked"}]


def test_a_large_denial_is_sealed_beside_the_loop(
    manager: SecurityManager, gate: Gate, backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate.around(monkeypatch, responses, "rewrite")

    async def app(_scope: Any, receive: Any, send: Any) -> None:
        await receive()
        headers = [(b"content-type", b"application/json")]
        await send({"type": "websocket.http.response.start", "status": 409, "headers": headers})
        body = large().encode()
        half = len(body) // 2
        await send({"type": "websocket.http.response.body", "body": body[:half], "more_body": True})
        await send({"type": "websocket.http.response.body", "body": body[half:]})

    line: list[Line] = []

    async def scenario() -> None:
        line.append(Line("/out"))
        async with anyio.create_task_group() as group:
            group.start_soon(line[0].call, app, manager)
            await gate.until_reached()
            assert line[0].sent == []
            gate.opened.set()

    run(backend, scenario)
    start, *bodies = line[0].sent
    assert start["status"] == 409
    assert json.loads(b"".join(m["body"] for m in bodies))["ssn"].startswith("sm1.")
    assert threading.main_thread() not in gate.threads


def test_a_large_body_over_http_is_opened_and_sealed_beside_the_loop(
    pki: Pki, keys: dict[str, str], started: Any, backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    places = [{"routes": ["/x"], "marks": ["$.ssn"], "request": "decrypt", "response": "encrypt"}]
    settings = pki.settings(
        service={"offload": OFFLOAD},
        mtls={"client": "off"},
        keys={**keys, "ring": "large-http", "store": "memory:"},
        fields={"ssn": {"places": places}},
    )
    manager = started(settings)
    gates = Gate(), Gate()
    gates[0].around(monkeypatch, requests, "rewrite")
    gates[1].around(monkeypatch, responses, "rewrite")
    json_type = [(b"content-type", b"application/json")]

    async def app(_scope: Any, receive: Any, send: Any) -> None:
        body = (await receive())["body"]
        assert json.loads(body)["ssn"] == "123-45-6789"
        await send({"type": "http.response.start", "status": 200, "headers": json_type})
        await send({"type": "http.response.body", "body": body + b" " * OFFLOAD})

    body = large(seal(manager)).encode()
    call = Call(http_scope("/x", method="POST", headers=json_type), *body_messages(body))

    async def scenario() -> None:
        async with anyio.create_task_group() as group:
            group.start_soon(call.to, SecMiddleware(app, config=manager))
            for gate in gates:
                await gate.until_reached()
                gate.opened.set()

    run(backend, scenario)
    assert json.loads(call.body)["ssn"].startswith("sm1.")
    assert threading.main_thread() not in gates[0].threads + gates[1].threads


def test_a_receive_that_is_given_up_over_a_large_record_loses_it_not(
    pki: Pki, keys: dict[str, str], started: Any, gate: Gate, backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    manager = started(
        pki.settings(
            service={"offload": OFFLOAD},
            mtls={"client": "off"},
            keys={**keys, "ring": "records", "store": "memory:"},
            fields={"ssn": {"places": [{"routes": ["/x"], "marks": ["$.ssn"], "request": "decrypt"}]}},
        )
    )
    gate.around(monkeypatch, RequestStream, "_rewritten")
    heard: list[Any] = []

    async def app(_scope: Any, receive: Any, _send: Any) -> None:
        heard.append(await receive())

        async def give_up(scope: anyio.CancelScope) -> None:
            await gate.until_reached()
            scope.cancel()
            await anyio.lowlevel.checkpoint()
            gate.opened.set()

        async with anyio.create_task_group() as group:
            with anyio.CancelScope() as scope:
                group.start_soon(give_up, scope)
                heard.append(await receive())
        while heard[-1].get("more_body", False):
            heard.append(await receive())

    short, long = json.dumps({"ssn": seal(manager)}).encode() + b"\n", large(seal(manager)).encode()
    call = Call(
        http_scope("/x", method="POST", headers=[(b"content-type", b"application/x-ndjson")]),
        *body_messages(short, long),
    )

    async def scenario() -> None:
        with anyio.fail_after(PATIENCE):
            await call.to(SecMiddleware(app, config=manager))

    run(backend, scenario)
    records = b"".join(message["body"] for message in heard).splitlines()
    assert [json.loads(record)["ssn"] for record in records] == ["123-45-6789"] * 2


@pytest.mark.parametrize(
    ("path", "way", "message", "leaves"),
    [
        ("/in", "receive", large(size=OFFLOAD - 1), False),
        ("/in", "receive", large(size=OFFLOAD), True),
        ("/in", "receive", json.dumps({"f": "é" * (OFFLOAD // 2 - 10)}, ensure_ascii=False), False),
        ("/in", "receive", json.dumps({"f": "é" * (OFFLOAD // 2)}, ensure_ascii=False), True),
        ("/in", "receive", "x" * (2 * LIMIT), True),  # it is too large, which takes a look at all of it
        ("/out", "receive", large(), False),  # nobody reads it
        ("/out", "send", large(size=OFFLOAD - 1), False),
        ("/out", "send", large(size=OFFLOAD), True),
        ("/in", "send", large(), True),  # what was opened is looked for in it
        ("/in", "send", b"x" * OFFLOAD, True),
    ],
    ids=repr,
)
def test_the_settings_say_how_large_a_message_is_when_it_leaves_the_loop(
    manager: SecurityManager,
    backend: str,
    path: str,
    way: str,
    message: str | bytes,
    leaves: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    where: list[threading.Thread] = []
    work = getattr(Frames, way)

    def noted(frames: Frames, content: Any) -> Any:
        where.append(threading.current_thread())
        return work(frames, content)

    monkeypatch.setattr(Frames, way, noted)

    async def app(_scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        if way == "receive":
            await receive()
        else:
            kind = "text" if isinstance(message, str) else "bytes"
            await send({"type": "websocket.send", kind: message})

    async def scenario() -> None:
        line = Line(path)
        if way == "receive":
            assert isinstance(message, str)
            line.says(message if "ssn" not in message else message.replace("ssn", "nnn"))
        await line.call(app, manager)

    run(backend, scenario)
    assert [thread is not threading.main_thread() for thread in where] == [leaves]


def test_messages_of_all_sizes_come_and_leave_in_their_order(manager: SecurityManager, backend: str) -> None:
    sizes = [OFFLOAD * (7 * number % 5) // 3 + 200 for number in range(12)]
    texts = [large(f"value {number:03}", size) for number, size in enumerate(sizes)]
    heard: list[str] = []
    lines: list[Line] = []

    async def app(_scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        async with anyio.create_task_group() as group:
            while (message := await receive())["type"] == "websocket.receive":
                heard.append(json.loads(message["text"])["ssn"])
                # All at once, in the order in which they began.
                group.start_soon(send, {"type": "websocket.send", "text": message["text"]})
                await anyio.wait_all_tasks_blocked()

    async def scenario() -> None:
        lines.append(Line())
        for text in texts:
            token = seal(manager, json.loads(text)["ssn"])
            lines[0].says(json.dumps({**json.loads(text), "ssn": token}))
        lines[0].put.send_nowait(BYE)
        await lines[0].call(app, manager)

    run(backend, scenario)
    assert heard == [f"value {number:03}" for number in range(12)]
    left = [json.loads(text) for text in lines[0].texts]
    assert [len(one["f"]) for one in left] == [len(json.loads(text)["f"]) for text in texts]
    assert manager.encryption is not None
    assert [json.loads(manager.encryption.open("ssn", one["ssn"])) for one in left] == heard


def test_a_large_message_that_is_refused_ends_the_socket(manager: SecurityManager, backend: str) -> None:
    heard: list[Any] = []

    async def app(_scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        await heard_all(receive, heard)

    lines: list[Line] = []

    async def scenario() -> None:
        lines.append(Line())
        lines[0].says(large(), "{}")
        await lines[0].call(app, manager)

    run(backend, scenario)
    assert heard == [{"type": "websocket.disconnect", "code": 1008, "reason": "field_undecryptable"}]
    assert lines[0].sent[-1]["code"] == 1008
