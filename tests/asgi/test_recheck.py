"""An open websocket is judged again: what its app hears, what its client is told, and what is left behind."""

from __future__ import annotations

import asyncio
import json
import logging
import ssl
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import quote

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from servers.pki import Pki
from starlette.applications import Starlette
from starlette.routing import WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect

from asgi.calling import http_scope
from secmiddleware import asgi_loops
from secmiddleware.asgi import SecMiddleware
from secmiddleware.certificates.judgement import Trust
from secmiddleware.certificates.manager import CertificateManager
from secmiddleware.engine import admit
from secmiddleware.messages import IDENTITY_KEY, Presented
from secmiddleware.security import SecurityManager

CLOSE = {"type": "websocket.close", "code": 1008, "reason": "certificate_untrusted"}
GONE = {"type": "websocket.disconnect", "code": 1008, "reason": "certificate_untrusted"}
SHORT = timedelta(milliseconds=30)


@pytest.fixture(scope="module")
def alice(pki: Pki) -> Presented:
    return Presented(der_of(pki.trusted.issue_client(spiffe_id=pki.spiffe("shop/alice")).certificate_pem))


def der_of(pem: bytes) -> bytes:
    return x509.load_pem_x509_certificate(pem).public_bytes(Encoding.DER)


def manager_of(pki: Pki, every: timedelta | None = SHORT, **mtls: Any) -> SecurityManager:
    """A manager that rechecks oftener than a file may say."""
    manager = SecurityManager.from_config(pki.settings(mtls=mtls), {})
    changed = manager.settings.mtls.model_copy(update={"recheck": every})
    manager.settings = manager.settings.model_copy(update={"mtls": changed})
    return manager


def distrust(manager: SecurityManager) -> None:
    """As when a trust file changes: a new Trust in a new snapshot."""
    manager.certificates = CertificateManager(Trust(()))


class Server:
    """A client who says nothing, and its server, which never gets rid of messages that are in `hangs`."""

    def __init__(self, presented: Presented | None, spec: str = "2.4", *hangs: str, **more: Any) -> None:
        self.sent: list[dict[str, Any]] = []
        self.inbox: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self.inbox.put_nowait({"type": "websocket.connect"})
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
        if message["type"] in self._hangs:
            await asyncio.Event().wait()
        self.sent.append(message)

    async def call(self, shell: SecMiddleware) -> None:
        await asyncio.wait_for(shell(self.scope, self.inbox.get, self.send), 5)


class Listener:
    """Accepts, and listens until it hears that nobody is there."""

    def __init__(self, when_open: Callable[[], None] = lambda: None) -> None:
        self.heard: list[dict[str, Any]] = []
        self._when_open = when_open

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.identity = scope[IDENTITY_KEY]
        assert (await receive())["type"] == "websocket.connect"
        await send({"type": "websocket.accept"})
        self._when_open()
        while not self.heard or self.heard[-1]["type"] != "websocket.disconnect":
            self.heard.append(await receive())


@contextmanager
def nothing_left() -> Iterator[None]:
    """No task and no timer outlives what happens within."""
    loop = asyncio.get_running_loop()
    tasks = asyncio.all_tasks()
    yield
    assert asyncio.all_tasks() == tasks
    assert [timer for timer in loop._scheduled if not timer.cancelled()] == []


def run(server: Server, app: Any, manager: SecurityManager, **options: Any) -> None:
    async def served() -> None:
        with nothing_left():
            await server.call(SecMiddleware(app, config=manager, **options))
            await asyncio.sleep(0)

    asyncio.run(served())


def test_who_is_trusted_no_more_is_told_so_and_so_is_the_app(pki: Pki, alice: Presented) -> None:
    manager = manager_of(pki)
    server, app = Server(alice), Listener(lambda: distrust(manager))
    run(server, app, manager)
    assert [message["type"] for message in server.sent] == ["websocket.accept", "websocket.close"]
    assert server.sent[-1] == CLOSE
    assert app.heard == [GONE]


def test_who_is_still_let_in_stays_and_is_judged_again_and_again(pki: Pki, alice: Presented) -> None:
    manager = manager_of(pki, timedelta(milliseconds=5))
    asked = 0

    class Counting(Listener):
        async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
            for number in range(5):
                server.inbox.put_nowait({"type": "websocket.receive", "text": str(number)})
            asyncio.get_running_loop().call_later(
                0.1, server.inbox.put_nowait, {"type": "websocket.disconnect", "code": 1001}
            )
            await super().__call__(scope, receive, send)

    judged = manager.admit

    def counting(head: Any) -> Any:
        nonlocal asked
        asked += 1
        return judged(head)

    manager.admit = counting  # type: ignore[method-assign]
    server, app = Server(alice), Counting()
    run(server, app, manager)
    assert [message.get("text") for message in app.heard[:-1]] == list("01234")
    assert app.heard[-1] == {"type": "websocket.disconnect", "code": 1001}
    assert [message["type"] for message in server.sent] == ["websocket.accept"]
    assert asked > 3


def test_it_ends_when_its_certificate_does_however_rarely_it_is_looked_at(pki: Pki) -> None:
    issued = pki.trusted.issue_client(spiffe_id=pki.spiffe("shop/brief"), lifetime=timedelta(seconds=1))
    server, app = Server(Presented(der_of(issued.certificate_pem))), Listener()
    run(server, app, manager_of(pki, timedelta(minutes=1)))
    assert app.heard == [GONE | {"reason": "certificate_expired"}]
    end = x509.load_pem_x509_certificate(issued.certificate_pem).not_valid_after_utc + timedelta(seconds=1)
    assert timedelta(0) <= datetime.now(UTC) - end < timedelta(seconds=1)


@pytest.mark.parametrize(
    ("jump", "code"),
    [(timedelta(days=365), "certificate_expired"), (timedelta(days=-365), "certificate_not_yet_valid")],
)
def test_a_clock_that_jumps_is_noticed_at_the_next_look(
    pki: Pki, alice: Presented, jump: timedelta, code: str
) -> None:
    manager, ahead = manager_of(pki), timedelta(0)

    def judged(head: Any) -> Any:
        return admit(head, manager.snapshot, datetime.now(UTC) + ahead)

    def set_the_clock() -> None:
        nonlocal ahead
        ahead = jump

    manager.admit = judged  # type: ignore[method-assign]
    server, app = Server(alice), Listener(set_the_clock)
    run(server, app, manager)
    assert app.heard == [GONE | {"reason": code}]


def test_a_policy_that_changed_ends_it_too(pki: Pki, alice: Presented) -> None:
    manager = manager_of(pki)
    other = SecurityManager.from_config(
        pki.settings(routes=[{"path": "/live", "allow": [pki.spiffe("ops/*")]}]), {}
    )

    def change() -> None:
        manager._snapshot = other.snapshot

    server, app = Server(alice), Listener(change)
    run(server, app, manager)
    assert app.heard == [GONE | {"reason": "identity_not_allowed"}]


def test_who_would_be_let_in_as_nobody_is_not_taken_for_who_it_was(pki: Pki, alice: Presented) -> None:
    manager = manager_of(pki, client="optional", unaccepted="show")
    server, app = Server(alice), Listener(lambda: distrust(manager))
    run(server, app, manager)
    assert app.identity is not None
    assert app.heard == [GONE]
    assert server.sent[-1] == CLOSE


def test_what_a_proxy_said_at_the_beginning_is_what_is_judged_again(pki: Pki, alice: Presented) -> None:
    """The app is not shown the proxy's headers; the judge must be."""
    manager = manager_of(pki, source="nginx", trusted_proxies=["127.0.0.1"])
    pem = ssl.DER_cert_to_PEM_cert(alice.leaf)
    headers = [(b"x-ssl-client-verify", b"SUCCESS"), (b"x-ssl-client-cert", quote(pem, safe="").encode())]
    seen: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append((str(scope[IDENTITY_KEY]), scope["headers"]))
        await receive()
        await send({"type": "websocket.accept"})
        await asyncio.sleep(0.1)
        await send({"type": "websocket.send", "text": "still here"})
        distrust(manager)
        seen.append(await receive())

    server = Server(None, headers=headers)
    run(server, app, manager)
    assert seen == [(pki.spiffe("shop/alice"), []), GONE]
    assert [message["type"] for message in server.sent] == [
        "websocket.accept",
        "websocket.send",
        "websocket.close",
    ]


def test_who_came_as_nobody_stays(pki: Pki) -> None:
    manager = manager_of(pki, client="optional")

    def later() -> None:
        distrust(manager)
        asyncio.get_running_loop().call_later(
            0.1, server.inbox.put_nowait, {"type": "websocket.disconnect", "code": 1001}
        )

    server, app = Server(None), Listener(later)
    run(server, app, manager)
    assert [message["code"] for message in app.heard] == [1001]


@pytest.mark.parametrize("spec", ["2.4", "2.5", "3.0"])
def test_an_app_that_only_sends_is_told_by_an_oserror(pki: Pki, alice: Presented, spec: str) -> None:
    manager = manager_of(pki)
    errors: list[OSError] = []

    async def sender(_scope: Any, _receive: Any, send: Any) -> None:
        await send({"type": "websocket.accept"})
        distrust(manager)
        try:
            while True:
                await send({"type": "websocket.send", "text": "tick"})
                await asyncio.sleep(0.002)
        except OSError as gone:
            errors.append(gone)
            raise

    server = Server(alice, spec)
    run(server, sender, manager)  # nothing is raised: it is no error of the app's
    assert len(errors) == 1
    assert server.sent[-1] == CLOSE


def test_an_app_of_an_older_asgi_speaks_to_nobody_and_may_say_goodbye(pki: Pki, alice: Presented) -> None:
    manager = manager_of(pki)
    came_to_its_end = False

    async def sender(_scope: Any, receive: Any, send: Any) -> None:
        nonlocal came_to_its_end
        await receive()
        await send({"type": "websocket.accept"})
        distrust(manager)
        assert await receive() == GONE
        assert await receive() == GONE  # as often as it asks
        await send({"type": "websocket.send", "text": "anybody?"})
        await send({"type": "websocket.close", "code": 1000})
        came_to_its_end = True

    server = Server(alice, "2.3")
    run(server, sender, manager)
    assert came_to_its_end
    assert [message["type"] for message in server.sent] == ["websocket.accept", "websocket.close"]


def test_a_client_that_does_not_read_holds_up_neither_the_app_nor_us(
    pki: Pki, alice: Presented, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(asgi_loops, "_FAREWELL_SECONDS", 0.1)
    manager = manager_of(pki)

    async def sender(_scope: Any, _receive: Any, send: Any) -> None:
        await send({"type": "websocket.accept"})
        distrust(manager)
        await send({"type": "websocket.send", "text": "much"})

    server = Server(alice, "2.4", "websocket.send", "websocket.close")
    run(server, sender, manager)
    assert [message["type"] for message in server.sent] == ["websocket.accept"]


def test_a_server_that_goes_down_over_the_last_word_has_no_task_left(pki: Pki, alice: Presented) -> None:
    manager = manager_of(pki)
    app = Listener(lambda: distrust(manager))

    async def served() -> None:
        server, speaks = Server(alice), asyncio.Event()

        async def send(message: Any) -> None:
            if message["type"] == "websocket.close":
                speaks.set()
                await asyncio.Event().wait()

        with nothing_left():
            task = asyncio.ensure_future(
                SecMiddleware(app, config=manager)(server.scope, server.inbox.get, send)
            )
            await speaks.wait()
            await asyncio.sleep(0.01)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            await asyncio.sleep(0)

    asyncio.run(served())
    assert app.heard == [GONE]


@pytest.mark.parametrize("hears", [True, False])
@pytest.mark.parametrize("offered", [True, False])
def test_one_that_is_not_accepted_yet_is_denied(
    pki: Pki, alice: Presented, hears: bool, offered: bool
) -> None:
    manager = manager_of(pki)

    async def slow(_scope: Any, receive: Any, send: Any) -> None:
        if hears:
            await receive()
        distrust(manager)
        await asyncio.sleep(0.1)
        await send({"type": "websocket.accept"})

    server = Server(alice, extensions={"websocket.http.response": {}} if offered else {})
    run(server, slow, manager)
    if offered:
        start, body = server.sent
        assert (start["type"], start["status"]) == ("websocket.http.response.start", 403)
        assert json.loads(body["body"])["code"] == "certificate_untrusted"
    else:
        assert server.sent == [CLOSE]


@pytest.mark.parametrize("spec", ["2.3", "2.4"])
def test_an_app_that_was_slow_to_begin_hears_of_the_connection_before_its_end(
    pki: Pki, alice: Presented, spec: str
) -> None:
    manager = manager_of(pki)
    caught: list[type[Exception]] = []

    async def endpoint(websocket: WebSocket) -> None:
        distrust(manager)
        await asyncio.sleep(0.1)
        try:
            await websocket.accept()
            await websocket.receive_text()
        except (WebSocketDisconnect, OSError) as gone:
            caught.append(type(gone))

    server = Server(alice, spec)
    run(server, Starlette(routes=[WebSocketRoute("/live", endpoint)]), manager)
    assert caught == [WebSocketDisconnect if spec == "2.3" else asgi_loops.SocketEndedError]
    assert server.sent == [CLOSE]


def test_what_cannot_be_judged_is_ended(pki: Pki, alice: Presented, caplog: pytest.LogCaptureFixture) -> None:
    manager = manager_of(pki)
    server, app = Server(alice), Listener(lambda: setattr(manager, "_snapshot", "broken"))
    run(server, app, manager)
    assert app.heard == [GONE | {"reason": "internal_error"}]
    assert "cannot be judged" in caplog.text


def test_the_end_is_in_the_audit_log_with_who_it_was(
    pki: Pki, alice: Presented, caplog: pytest.LogCaptureFixture
) -> None:
    manager = manager_of(pki)
    with caplog.at_level(logging.WARNING, "secmiddleware.audit"):
        run(Server(alice), Listener(lambda: distrust(manager)), manager)
    (line,) = (r.message for r in caplog.records if r.name == "secmiddleware.audit")
    told = json.loads(line)
    assert (told["code"], told["protocol"]) == ("certificate_untrusted", "websocket")
    assert told["client"] == pki.spiffe("shop/alice")


def test_an_app_that_is_cancelled_is_cancelled(pki: Pki, alice: Presented) -> None:
    async def served() -> None:
        server, app = Server(alice), Listener()
        with nothing_left():
            task = asyncio.ensure_future(
                SecMiddleware(app, config=manager_of(pki))(server.scope, server.inbox.get, server.send)
            )
            await asyncio.sleep(0.05)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

    asyncio.run(served())


def test_who_is_cancelled_and_ended_at_once_is_cancelled(pki: Pki, alice: Presented) -> None:
    """A server that goes down does not wait for an app that took its cancellation for a disconnect."""
    manager = manager_of(pki)
    heard: list[Any] = []

    async def app(_scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        distrust(manager)
        heard.append(await receive())

    async def served() -> None:
        server = Server(alice)
        task = asyncio.ensure_future(
            SecMiddleware(app, config=manager)(server.scope, server.inbox.get, server.send)
        )
        await asyncio.sleep(0.005)
        look = asyncio_timer(asyncio.get_running_loop())
        look()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(served())
    assert heard == []


def test_a_server_that_does_not_let_itself_be_cancelled_is_waited_for(pki: Pki, alice: Presented) -> None:
    manager = manager_of(pki)
    slow = asyncio.Event()

    async def stubborn() -> dict[str, Any]:
        if not server.inbox.empty():
            return server.inbox.get_nowait()
        try:
            await slow.wait()
        except asyncio.CancelledError:
            return {"type": "websocket.receive", "text": "too late"}
        raise AssertionError

    async def app(_scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        distrust(manager)
        assert await receive() == GONE
        task = asyncio.current_task()
        assert task is not None
        assert task.cancelling() == 0
        await asyncio.sleep(0)  # nothing is left of the cancellation

    server = Server(alice)
    asyncio.run(SecMiddleware(app, config=manager)(server.scope, stubborn, server.send))
    assert server.sent[-1] == CLOSE


def asyncio_timer(loop: Any) -> Callable[[], Any]:
    """What the one timer of this loop that is a socket's would do."""
    (timer,) = (t for t in loop._scheduled if not t.cancelled() and "Socket" in repr(t))
    return timer._callback


def test_an_error_of_the_app_is_its_own(pki: Pki, alice: Presented) -> None:
    async def slow_server() -> dict[str, Any]:
        raise TimeoutError("of the server")

    async def app(_scope: Any, receive: Any, _send: Any) -> None:
        await receive()

    server = Server(alice)
    server.inbox.get = slow_server  # type: ignore[method-assign]
    with pytest.raises(TimeoutError, match="of the server"):
        run(server, app, manager_of(pki))


def test_the_end_of_another_socket_is_an_error_of_the_app_that_writes_to_it(
    pki: Pki, alice: Presented
) -> None:
    """As a room of a chat does. Taken for its own, it would end the app in silence."""
    manager, steady = manager_of(pki), manager_of(pki)

    async def served() -> None:
        others: list[Any] = []

        async def guest(_scope: Any, receive: Any, send: Any) -> None:
            await receive()
            await send({"type": "websocket.accept"})
            others.append(send)
            distrust(manager)
            while (await receive())["type"] != "websocket.disconnect":
                pass

        async def host(_scope: Any, receive: Any, _send: Any) -> None:
            await receive()
            await others[0]({"type": "websocket.send", "text": "to all"})

        await Server(alice).call(SecMiddleware(guest, config=manager))
        with pytest.raises(OSError, match="the websocket was ended: certificate_untrusted"):
            await Server(alice).call(SecMiddleware(host, config=steady))

    asyncio.run(served())


def test_many_idle_sockets_have_no_task_beside_their_apps(pki: Pki, alice: Presented) -> None:
    manager = manager_of(pki, timedelta(milliseconds=200))

    async def served() -> None:
        open_now = 0
        all_open = asyncio.Event()

        def count() -> None:
            nonlocal open_now
            open_now += 1
            if open_now == len(servers):
                all_open.set()

        servers = [Server(alice) for _ in range(200)]
        apps = [Listener(count) for _ in servers]
        shells = [SecMiddleware(app, config=manager) for app in apps]
        calls = [asyncio.ensure_future(s.call(shell)) for s, shell in zip(servers, shells, strict=True)]
        await all_open.wait()
        # Until Python 3.12, `wait_for` of the test's own makes one more for each.
        tasks_of_each = 2 if sys.version_info < (3, 12) else 1
        assert len(asyncio.all_tasks()) == tasks_of_each * len(servers) + 1
        distrust(manager)
        await asyncio.gather(*calls)
        assert all(app.heard == [GONE] for app in apps)

    asyncio.run(served())
