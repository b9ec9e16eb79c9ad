"""An open websocket under trio: an idle one is ended, too, and nothing else changes for whoever runs it."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import quote

import anyio
import pytest
import trio
from cryptography import x509
from servers.pki import Pki
from starlette.testclient import TestClient, WebSocketDenialResponse
from starlette.websockets import WebSocketDisconnect
from trio.testing import MockClock

from asgi.calling import http_scope
from asgi.test_recheck import CLOSE, GONE, Listener, alice, der_of, distrust, manager_of
from secmiddleware import asgi_loops
from secmiddleware.asgi import SecMiddleware
from secmiddleware.engine import admit
from secmiddleware.messages import Presented, Refusal
from secmiddleware.security import SecurityManager

__all__ = ["alice"]  # a fixture

TWO_HOURS = 7200
CONNECT = {"type": "websocket.connect"}
BYE = {"type": "websocket.disconnect", "code": 1001}


class Server:
    """A client and its server, as hypercorn's is made: what comes stands in a memory channel."""

    def __init__(self, presented: Presented | None, *hangs: str, spec: str = "2.4", **more: Any) -> None:
        self.sent: list[dict[str, Any]] = []
        self.put, self._inbox = trio.open_memory_channel[dict[str, Any]](10)
        self.put.send_nowait(CONNECT)
        self._hangs = hangs
        self.scope = http_scope(
            "/live",
            type="websocket",
            scheme="wss",
            presented=presented,
            asgi={"version": "3.0", "spec_version": spec},
            **more,
        )
        del self.scope["method"]

    async def send(self, message: Any) -> None:
        await trio.lowlevel.checkpoint()
        if message["type"] in self._hangs:
            await trio.sleep_forever()
        self.sent.append(message)

    async def receive(self) -> dict[str, Any]:
        return await self._inbox.receive()

    async def call(self, app: Any, manager: SecurityManager) -> None:
        with trio.fail_after(TWO_HOURS):  # of a clock that does not wait
            await SecMiddleware(app, config=manager)(self.scope, self.receive, self.send)


def run(scenario: Callable[[], Any], clock: MockClock | None = None) -> None:
    """Run it; no task outlives it."""

    async def alone() -> None:
        before = trio.lowlevel.current_statistics().tasks_living
        await scenario()
        assert trio.lowlevel.current_statistics().tasks_living == before

    trio.run(alone, clock=clock)


def quick() -> MockClock:
    """Nobody waits for what is long from now."""
    return MockClock(autojump_threshold=0)


def on_trios_clock(manager: SecurityManager) -> None:
    """Have it judge at the time that trio's clock shows."""
    began, zero = datetime.now(UTC), trio.current_time()

    def judged(head: Any) -> Any:
        return admit(head, manager.snapshot, began + timedelta(seconds=trio.current_time() - zero))

    manager.admit = judged  # type: ignore[method-assign]


def test_an_idle_socket_ends_where_its_client_is_trusted_no_more(pki: Pki, alice: Presented) -> None:
    async def scenario() -> None:
        manager = manager_of(pki, timedelta(minutes=1))
        server, app = Server(alice), Listener(lambda: distrust(manager))
        await server.call(app, manager)
        assert app.heard == [GONE]
        assert server.sent[-1] == CLOSE

    trio_time: list[float] = []

    async def timed() -> None:
        began = trio.current_time()
        await scenario()
        trio_time.append(trio.current_time() - began)

    run(timed, quick())
    assert 45 <= trio_time[0] <= 60


def test_an_idle_socket_ends_when_its_certificate_does(pki: Pki) -> None:
    issued = pki.trusted.issue_client(spiffe_id=pki.spiffe("shop/brief"), lifetime=timedelta(seconds=1))

    async def scenario() -> None:
        server, app = Server(Presented(der_of(issued.certificate_pem))), Listener()
        await server.call(app, manager_of(pki, timedelta(minutes=1)))
        assert app.heard == [GONE | {"reason": "certificate_expired"}]
        assert server.sent[-1] == CLOSE | {"reason": "certificate_expired"}

    run(scenario)
    end = x509.load_pem_x509_certificate(issued.certificate_pem).not_valid_after_utc + timedelta(seconds=1)
    assert timedelta(0) <= datetime.now(UTC) - end < timedelta(seconds=1)


def test_an_idle_socket_behind_a_proxy_ends_when_the_certificate_that_it_told_of_does(pki: Pki) -> None:
    issued = pki.trusted.issue_client(spiffe_id=pki.spiffe("shop/hour"), lifetime=timedelta(hours=1))
    pem = ssl.DER_cert_to_PEM_cert(der_of(issued.certificate_pem))
    headers = [(b"x-ssl-client-verify", b"SUCCESS"), (b"x-ssl-client-cert", quote(pem, safe="").encode())]

    async def scenario() -> None:
        manager = manager_of(pki, timedelta(minutes=1), source="nginx", trusted_proxies=["127.0.0.1"])
        on_trios_clock(manager)
        began = trio.current_time()
        server, app = Server(None, headers=headers), Listener()
        await server.call(app, manager)
        assert str(app.identity) == pki.spiffe("shop/hour")
        assert app.heard == [GONE | {"reason": "certificate_expired"}]
        assert 3600 <= trio.current_time() - began <= 3662

    run(scenario, quick())


def test_who_is_still_let_in_stays_and_no_message_is_lost(pki: Pki, alice: Presented) -> None:
    """Looks come between the messages and in the midst of waits; nobody who waits hears of one."""
    looks = 0

    async def scenario() -> None:
        manager = manager_of(pki, timedelta(seconds=1))
        judged = manager.admit

        def counting(head: Any) -> Any:
            nonlocal looks
            looks += 1
            return judged(head)

        manager.admit = counting  # type: ignore[method-assign]
        server, app = Server(alice), Listener()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(server.call, app, manager)
            for number in range(20):
                await trio.sleep(0.37)
                await server.put.send({"type": "websocket.receive", "text": str(number)})
            await server.put.send(BYE)
        assert [m.get("text") for m in app.heard[:-1]] == [str(number) for number in range(20)]
        assert app.heard[-1] == BYE
        assert [m["type"] for m in server.sent] == ["websocket.accept"]

    run(scenario, quick())
    assert looks > 6


def test_a_receive_that_the_app_gives_up_loses_no_message(pki: Pki, alice: Presented) -> None:
    async def app(_scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        while not heard or heard[-1]["type"] != "websocket.disconnect":
            with trio.move_on_after(0.1):
                heard.append(await receive())

    heard: list[Any] = []

    async def scenario() -> None:
        server = Server(alice)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(server.call, app, manager_of(pki, timedelta(minutes=1)))
            for number in range(30):
                await trio.sleep(0.1)  # as long as the app has patience: both at once
                await server.put.send({"type": "websocket.receive", "text": str(number)})
            await server.put.send(BYE)
        assert [m.get("text") for m in heard[:-1]] == [str(number) for number in range(30)]

    run(scenario, quick())


@pytest.mark.parametrize("spec", ["2.3", "2.4"])
def test_an_app_that_sleeps_does_not_keep_its_client(pki: Pki, alice: Presented, spec: str) -> None:
    """The client is told at once, the app when it speaks or hears again."""
    raised: list[OSError] = []
    told_after: list[float] = []

    async def sleeper(_scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        distrust(manager)
        await trio.sleep(1.5)
        told_after.append(len(server.sent))
        try:
            await send({"type": "websocket.send", "text": "is anybody there?"})
        except OSError as gone:
            raised.append(gone)
        assert await receive() == GONE

    manager = manager_of(pki, timedelta(seconds=1))

    async def scenario() -> None:
        nonlocal server
        server = Server(alice, spec=spec)
        await server.call(sleeper, manager)

    server: Server = None  # type: ignore[assignment]
    run(scenario, quick())
    assert server.sent == [{"type": "websocket.accept"}, CLOSE]
    assert told_after == [2]
    assert len(raised) == (spec == "2.4")


def test_an_app_that_only_sends_is_told_by_an_oserror_which_is_no_error_of_its(
    pki: Pki, alice: Presented
) -> None:
    async def sender(_scope: Any, _receive: Any, send: Any) -> None:
        await send({"type": "websocket.accept"})
        distrust(manager)
        while True:
            await send({"type": "websocket.send", "text": "tick"})
            await trio.sleep(0.1)

    manager = manager_of(pki, timedelta(seconds=1))

    async def scenario() -> None:
        server = Server(alice)
        await server.call(sender, manager)
        assert server.sent[-1] == CLOSE

    run(scenario, quick())


@pytest.mark.parametrize("offered", [True, False])
@pytest.mark.parametrize("hears", [True, False])
def test_one_that_is_not_accepted_yet_is_denied(
    pki: Pki, alice: Presented, offered: bool, hears: bool
) -> None:
    manager = manager_of(pki)

    async def slow(_scope: Any, receive: Any, send: Any) -> None:
        if hears:
            await receive()
        distrust(manager)
        await trio.sleep(1)
        await send({"type": "websocket.accept"})

    async def scenario() -> None:
        server = Server(alice, extensions={"websocket.http.response": {}} if offered else {})
        await server.call(slow, manager)
        if offered:
            assert server.sent[0]["status"] == 403
            assert b"certificate_untrusted" in server.sent[1]["body"]
        else:
            assert server.sent == [CLOSE]

    run(scenario, quick())


@pytest.mark.parametrize("tells", ["websocket.send", "websocket.close"])
def test_a_client_that_does_not_read_holds_up_neither_the_app_nor_us(
    pki: Pki, alice: Presented, tells: str
) -> None:
    manager = manager_of(pki)

    async def sender(_scope: Any, _receive: Any, send: Any) -> None:
        await send({"type": "websocket.accept"})
        distrust(manager)
        await send({"type": "websocket.send", "text": "much"})

    async def scenario() -> None:
        server, began = Server(alice, "websocket.send", tells), trio.current_time()
        await server.call(sender, manager)
        waited = asgi_loops._FAREWELL_SECONDS if tells == "websocket.close" else 0
        assert waited <= trio.current_time() - began < waited + 0.1

    run(scenario, quick())


class OwnError(Exception):
    """An error of an app's."""


@pytest.mark.parametrize("ended", [False, True])
def test_what_an_app_raises_comes_out_as_it_is(pki: Pki, alice: Presented, ended: bool) -> None:
    manager = manager_of(pki, timedelta(seconds=1))

    async def app(_scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        if ended:
            distrust(manager)
            await receive()
        raise OwnError("the app")

    async def scenario() -> None:
        with pytest.raises(OwnError, match="the app") as raised:
            await Server(alice).call(app, manager)
        assert raised.value.__cause__ is None

    run(scenario, quick())


def test_a_group_that_an_app_raises_is_the_apps(pki: Pki, alice: Presented) -> None:
    async def fails() -> None:
        raise OwnError("of a task")

    async def app(_scope: Any, _receive: Any, _send: Any) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(fails)

    async def scenario() -> None:
        with pytest.raises(ExceptionGroup) as raised:
            await Server(alice).call(app, manager_of(pki))
        assert [type(error) for error in raised.value.exceptions] == [OwnError]

    run(scenario, quick())


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
@pytest.mark.parametrize("fails", [False, True])
def test_what_an_ended_socket_raises_in_a_task_of_the_app_is_no_error_of_its_either(
    pki: Pki, alice: Presented, backend: str, fails: bool
) -> None:
    manager = manager_of(pki)
    sent: list[Any] = []

    async def app(_scope: Any, _receive: Any, send: Any) -> None:
        await send({"type": "websocket.accept"})
        distrust(manager)
        try:
            async with anyio.create_task_group() as group:
                group.start_soon(talk, send)
        except* OSError as ended:
            others = [OwnError("besides")] if fails else []
            raise ExceptionGroup("of tasks", [*ended.exceptions, *others]) from None

    async def talk(send: Any) -> None:
        while True:
            await send({"type": "websocket.send", "text": "tick"})
            await anyio.sleep(0.001)

    async def send(message: Any) -> None:
        sent.append(message)

    async def connected() -> Any:
        return CONNECT

    async def scenario() -> None:
        scope = http_scope("/live", type="websocket", scheme="wss", presented=alice)
        scope["asgi"]["spec_version"] = "2.4"
        await SecMiddleware(app, config=manager)(scope, connected, send)

    if fails:
        with pytest.raises(ExceptionGroup) as raised:
            anyio.run(scenario, backend=backend)
        assert "OwnError" in repr(raised.value)
        assert "SocketEndedError" not in repr(raised.value)
    else:
        anyio.run(scenario, backend=backend)
    assert sent[-1] == CLOSE


@pytest.mark.parametrize("waits", ["receive", "sleep", "send"])
def test_an_app_that_is_cancelled_is_cancelled_and_not_in_a_group(
    pki: Pki, alice: Presented, waits: str
) -> None:
    outcomes: list[BaseException] = []

    async def app(_scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        match waits:
            case "receive":
                await receive()
            case "sleep":
                await trio.sleep_forever()
            case "send":
                await send({"type": "websocket.send", "text": "much"})

    async def scenario() -> None:
        server = Server(alice, "websocket.send")
        with trio.move_on_after(0.2) as scope:
            try:
                await server.call(app, manager_of(pki, timedelta(minutes=1)))
            except BaseException as error:
                outcomes.append(error)
                raise
        assert scope.cancelled_caught
        assert server.sent == [{"type": "websocket.accept"}]

    run(scenario, quick())
    assert [type(error) for error in outcomes] == [trio.Cancelled]


def test_who_is_cancelled_and_ended_at_once_is_cancelled(pki: Pki, alice: Presented) -> None:
    """A server that goes down does not wait for an app that took its cancellation for a disconnect."""
    manager = manager_of(pki, timedelta(seconds=1))
    heard: list[Any] = []

    async def app(_scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        heard.append(await receive())

    async def scenario() -> None:
        def end(_head: Any) -> Any:
            scope.cancel()
            return Refusal("certificate_revoked")

        verdicts = [manager.admit, end]
        manager.admit = lambda head: verdicts.pop(0)(head)  # type: ignore[method-assign]
        with trio.CancelScope() as scope:
            await Server(alice).call(app, manager)
        assert scope.cancelled_caught
        assert verdicts == []

    run(scenario, quick())
    assert heard == []


def test_an_error_is_not_kept_by_the_frame_that_lets_it_out(pki: Pki, alice: Presented) -> None:
    async def app(_scope: Any, _receive: Any, _send: Any) -> None:
        raise OwnError

    async def scenario() -> None:
        with pytest.raises(OwnError) as raised:
            await Server(alice).call(app, manager_of(pki))
        keeps = [entry.frame for entry in raised.traceback if entry.name == "keep"]
        assert keeps
        assert not any(raised.value in frame.f_locals.values() for frame in keeps)

    run(scenario)


def test_starlettes_test_client_sees_under_trio_what_it_sees_under_asyncio(
    pki: Pki, alice: Presented
) -> None:
    told = []
    for backend in ("asyncio", "trio"):
        manager = manager_of(pki)
        app = Listener(lambda manager=manager: distrust(manager))  # type: ignore[misc]

        async def presented(scope: Any, receive: Any, send: Any, app: Any = app, m: Any = manager) -> None:
            scope |= {"secmiddleware.presented": alice}
            await SecMiddleware(app, config=m)(scope, receive, send)

        client = TestClient(presented, backend=backend, base_url="https://localhost")  # type: ignore[arg-type]
        with client.websocket_connect("/live") as socket, pytest.raises(WebSocketDisconnect) as gone:
            socket.receive_text()
        told.append((gone.value.code, gone.value.reason, app.heard))
        with pytest.raises(WebSocketDenialResponse) as denied, client.websocket_connect("/live"):
            pass
        told[-1] = (*told[-1], denied.value.status_code, denied.value.json()["code"])
    assert told == [(1008, "certificate_untrusted", [GONE], 403, "certificate_untrusted")] * 2


def test_without_a_recheck_a_socket_stays_as_long_as_it_likes(pki: Pki, alice: Presented) -> None:
    async def scenario() -> None:
        manager = manager_of(pki, None)
        server, app = Server(alice), Listener(lambda: distrust(manager))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(server.call, app, manager)
            await trio.sleep(5)
            await server.put.send(BYE)
        assert app.heard == [BYE]

    run(scenario, quick())
