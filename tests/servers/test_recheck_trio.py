"""Open websockets of hypercorn's trio worker, which hands over no certificate: a proxy tells of it."""

from __future__ import annotations

import ssl
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import trio
from certificates.shapes import Made, revocation_list, strict_ca, strict_leaf
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from exchanges.outcome import Recorder
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

from secmiddleware.asgi import SecMiddleware
from secmiddleware.messages import IDENTITY_KEY
from secmiddleware.security import SecurityManager
from servers.in_thread import hypercorn_serving
from servers.serving import PATIENCE, answer_lifespan, until

LIFETIME = timedelta(seconds=2)


class Listener:
    """Echoes what it hears, or sleeps (`/sleeps`) or talks on and on (`/talks`); keeps how that ends."""

    def __init__(self) -> None:
        self.ends: dict[str, Any] = {}
        self.cancelled: list[str] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            await answer_lifespan(receive, send)
            return
        path = scope["path"]
        assert (await receive())["type"] == "websocket.connect"
        await send({"type": "websocket.accept"})
        await send({"type": "websocket.send", "text": str(scope[IDENTITY_KEY])})
        try:
            await self._go_on(path, receive, send)
        except trio.Cancelled:
            self.cancelled.append(path)
            raise

    async def _go_on(self, path: str, receive: Any, send: Any) -> None:
        if path == "/sleeps":
            await trio.sleep(2 * LIFETIME.total_seconds())
        while path == "/talks" and path not in self.ends:
            with trio.move_on_after(0.02):
                self.ends[path] = await receive()  # given up again and again
            await send({"type": "websocket.send", "text": "tick"})
        while (message := await _heard(receive, gives_up=path == "/chat"))["type"] == "websocket.receive":
            await send({"type": "websocket.send", "text": message["text"][::-1]})
        self.ends[path] = message


async def _heard(receive: Any, *, gives_up: bool) -> Any:
    """The next message; who `gives_up` does so every moment, and asks again."""
    while True:
        with trio.move_on_after(0.001 if gives_up else float("inf")):
            return await receive()


@dataclass
class Front:
    """A proxy that has read the client's certificate, and the service behind it."""

    folder: Path
    app: Listener = field(default_factory=Listener)
    seen: Recorder = field(default_factory=Recorder)
    port: int = 0

    def __post_init__(self) -> None:
        now = datetime.now(UTC)
        self.ca = strict_ca("ca", begin=now - timedelta(days=1), end=now + timedelta(days=1))
        (self.folder / "ca.pem").write_bytes(self.ca.pem)
        self.publish()

    def client(self, lifetime: timedelta = timedelta(days=1)) -> Made:
        now = datetime.now(UTC)
        return strict_leaf(self.ca, begin=now - timedelta(minutes=1), end=now + lifetime)

    def publish(self, *revoked: Made) -> None:
        now = datetime.now(UTC)
        begin, end = now - timedelta(minutes=1), now + timedelta(hours=1)
        new = self.folder / "new"
        new.write_bytes(revocation_list(self.ca, *revoked, begin=begin, end=end).public_bytes(Encoding.PEM))
        new.rename(self.folder / "list.pem")

    @contextmanager
    def running(self) -> Iterator[None]:
        settings = {
            "service": {"name": "behind"},
            "mtls": {
                "source": "nginx",
                "trusted_proxies": ["127.0.0.1"],
                "trust": [str(self.folder / "ca.pem")],
                "crl": [str(self.folder / "list.pem")],
                "recheck": "1s",
            },
            "rotation": {"poll": "20ms"},
        }
        with SecurityManager.from_config(settings, {}) as manager:
            shell = SecMiddleware(self.app, config=manager, observer=self.seen)
            with hypercorn_serving(shell, {}, "trio") as self.port:
                yield

    def forwarded(self, stack: ExitStack, client: Made, path: str) -> ClientConnection:
        """What a client gets through the proxy: here, the proxy's own connection."""
        pem = quote(ssl.DER_cert_to_PEM_cert(client.der), safe="")
        headers = {"X-SSL-Client-Verify": "SUCCESS", "X-SSL-Client-Cert": pem}
        url = f"ws://127.0.0.1:{self.port}{path}"
        opening = connect(
            url, additional_headers=headers, proxy=None, open_timeout=PATIENCE, close_timeout=PATIENCE
        )
        socket = stack.enter_context(opening)
        assert socket.recv(PATIENCE) != "None"
        return socket


@pytest.fixture
def front(tmp_path: Path) -> Iterator[Front]:
    made = Front(tmp_path)
    with made.running():
        yield made


def close_of(socket: ClientConnection) -> tuple[int, str]:
    """How the server closes a socket on which nothing more is said by the client."""
    try:
        while True:
            socket.recv(PATIENCE)
    except ConnectionClosed as closed:
        assert closed.rcvd is not None  # noqa: PT017  (what comes before it is not of interest)
        return closed.rcvd.code, closed.rcvd.reason


def test_an_idle_socket_ends_with_its_certificate_whatever_its_app_does_and_with_its_revocation(
    front: Front,
) -> None:
    stays, goes, brief = front.client(), front.client(), front.client(LIFETIME)
    with ExitStack() as stack:
        lasting = front.forwarded(stack, stays, "/lasting")
        revoked = front.forwarded(stack, goes, "/revoked")
        ending = {path: front.forwarded(stack, brief, path) for path in ("/idle", "/sleeps", "/talks")}
        for socket in ending.values():
            assert close_of(socket) == (1008, "certificate_expired")
        end = x509.load_der_x509_certificate(brief.der).not_valid_after_utc
        assert timedelta(0) < datetime.now(UTC) - end < LIFETIME, "the app's sleep has kept its client"
        front.publish(goes)
        assert close_of(revoked) == (1008, "certificate_revoked")
        lasting.send("drawer")
        assert lasting.recv(PATIENCE) == "reward"
        lasting.close(1000)
    until(lambda: len(front.app.ends) == 5, "all apps hear of it")
    for path, code in {
        "/revoked": "revoked",
        "/idle": "expired",
        "/sleeps": "expired",
        "/talks": "expired",
    }.items():
        told = {"type": "websocket.disconnect", "code": 1008, "reason": f"certificate_{code}"}
        assert front.app.ends[path] == told, path
    assert front.app.ends["/lasting"]["code"] != 1008
    until(lambda: len(front.seen.records) == 5, "all exchanges end")
    codes = sorted(r.refusal.code if r.refusal else "" for r in front.seen.records)
    assert codes == ["", *["certificate_expired"] * 3, "certificate_revoked"]
    assert front.app.cancelled == []


def test_no_message_is_lost_to_an_app_that_gives_up_waiting_again_and_again(front: Front) -> None:
    said = [f"{number}" for number in range(200)]
    with ExitStack() as stack:
        socket = front.forwarded(stack, front.client(), "/chat")
        for text in said:
            socket.send(text)
            time.sleep(0.001)
        assert [socket.recv(PATIENCE) for _ in said] == [text[::-1] for text in said]


def test_a_server_that_goes_down_takes_an_idle_app_with_it(tmp_path: Path) -> None:
    front = Front(tmp_path)
    with ExitStack() as stack:
        with front.running():
            front.forwarded(stack, front.client(), "/idle")
        # `running` asserts that the server's thread has ended.
        assert front.app.cancelled == ["/idle"]
