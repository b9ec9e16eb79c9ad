"""Every row about websockets, through every shell, adapter and server that speaks them.

Under trio hypercorn hands over no certificate: there the client is a proxy that tells of one. Django's own
handler takes no websockets, so that its adapter never sees one.
"""

from __future__ import annotations

import logging
import ssl
from collections import defaultdict
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from datetime import timedelta
from types import SimpleNamespace
from typing import Any, Final
from urllib.parse import quote

import anyio
import pytest
from servers.in_thread import gunicorn_serving, hypercorn_serving
from servers.serving import WITH_HTTP_2, serving, until
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.routing import WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect

from exchanges.outcome import Recorder
from exchanges.people import Minted, mint
from exchanges.socket_clients import Client, Http1, Http2
from exchanges.socket_server import Server
from exchanges.sockets import Closed, Denied, Opened, Row, Said, SocketPuppet, check_end, playing, socket_rows
from exchanges.world import World
from secmiddleware.asgi import SecMiddleware
from secmiddleware.certificates.judgement import Trust
from secmiddleware.certificates.manager import CertificateManager
from secmiddleware.certificates.trust import TrustAnchor
from secmiddleware.messages import Refusal
from secmiddleware.security import SecurityManager
from secmiddleware.servers import gunicorn_asgi, hypercorn
from secmiddleware.telemetry.observer import ExchangeRecord
from secmiddleware_starlette import SecMiddleware as StarletteMiddleware

# uvicorn's `websockets` uses what that library calls deprecated.
pytestmark = pytest.mark.filterwarnings("ignore:remove second argument of ws_handler:DeprecationWarning")

ROWS: Final = [pytest.param(row, id=row.name) for row in socket_rows()]


# --- In process.


class StarlettePuppet(SocketPuppet):
    """The puppet as an endpoint of Starlette's."""

    gone = (OSError, WebSocketDisconnect)

    async def endpoint(self, websocket: WebSocket) -> None:
        identity = websocket.state.client_identity
        await self.attend(websocket.scope, websocket.receive, websocket.send, identity)


@pytest.mark.parametrize("offered", [True, False], ids=["with a denial response", "without"])
@pytest.mark.parametrize("backend", ["asyncio", "trio"])
@pytest.mark.parametrize("row", ROWS)
def test_a_row_comes_out_as_expected_in_process(world: World, row: Row, backend: str, offered: bool) -> None:
    puppet, recorder = SocketPuppet(), Recorder()
    puppet.play(world, row)
    shell = SecMiddleware(puppet, config=world.manager(row.config), observer=recorder)
    server = Server(world, row, offered=offered)
    anyio.run(server.serve, shell, backend=backend)
    check_end(world, row, puppet, recorder, offered=offered)


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
@pytest.mark.parametrize("row", ROWS)
def test_a_row_comes_out_as_expected_under_starlette(world: World, row: Row, backend: str) -> None:
    puppet, recorder = StarlettePuppet(), Recorder()
    puppet.play(world, row)
    middleware = Middleware(StarletteMiddleware, config=world.manager(row.config), observer=recorder)
    app = Starlette(
        routes=[WebSocketRoute("/{rest:path}", puppet.endpoint)],  # type: ignore[arg-type]
        middleware=[middleware],
    )
    server = Server(world, row, offered=True)
    anyio.run(server.serve, app, backend=backend)
    check_end(world, row, puppet, recorder, offered=True)


# --- Over the wire.


@dataclass
class Wire:
    """A server on loopback, and how its clients come."""

    port: int
    manager: SecurityManager
    puppet: SocketPuppet
    recorder: Recorder
    proxied: bool = False
    offers: bool = True
    clients: dict[str, type[Any]] = field(default_factory=lambda: {"HTTP/1.1": Http1})

    def open(self, world: World, who: Minted | None, row: Row, version: str = "HTTP/1.1") -> Client:
        headers = [(name, world.fill(row, value)) for name, value in row.headers]
        if self.proxied:
            tls = None
            headers += [("x-ssl-client-verify", "NONE" if who is None else "SUCCESS")]
            if who is not None:
                headers += [("x-ssl-client-cert", quote(who.pem.decode("ascii")))]
        else:
            tls = ssl.create_default_context(cafile=world.pki / "ca.pem")
            tls.verify_flags &= ~ssl.VERIFY_X509_STRICT
            if who is not None:
                name = f"{who.certificate.serial_number:x}"
                if not (world.pki / f"{name}.pem").exists():
                    who.write(world.pki, name)
                tls.load_cert_chain(world.pki / f"{name}.pem", world.pki / f"{name}.key")
        client: Client = self.clients[version](
            self.port, tls, world.fill(row, row.target), headers, row.subprotocols
        )
        return client


# Each implementation of uvicorn's, and both parsers and loops among them.
UVICORN: Final = {
    "uvicorn, websockets": ("websockets", "H11Protocol", "asyncio"),
    "uvicorn, websockets-sansio": ("websockets-sansio", "HttpToolsProtocol", "uvloop"),
    "uvicorn, wsproto": ("wsproto", "HttpToolsProtocol", "asyncio"),
    "uvicorn, wsproto and h11": ("wsproto", "H11Protocol", "uvloop"),
    "uvicorn with zttp": ("websockets-sansio", WITH_HTTP_2, "asyncio"),
}
BOTH_VERSIONS: Final = {"HTTP/1.1": Http1, "HTTP/2": Http2}
SERVERS: Final = (*UVICORN, "hypercorn", "hypercorn on uvloop", "hypercorn on trio", "gunicorn")
WIRES: Final = [
    (server, version)
    for server in SERVERS
    for version in (BOTH_VERSIONS if server.startswith("hypercorn") else ("HTTP/1.1",))
]


class Wires:
    """The servers, each started when it is first asked for, in threads of this process."""

    def __init__(self, world: World, stack: ExitStack) -> None:
        self._world, self._stack = world, stack
        self._running: dict[str, Wire] = {}

    def __getitem__(self, name: str) -> Wire:
        if name not in self._running:
            self._running[name] = self._start(name)
        return self._running[name]

    def _start(self, name: str) -> Wire:
        world, settings = self._world, self._world.settings("live")
        manager = world.manager("live")
        if name == "hypercorn on trio":
            mtls = {**settings["mtls"], "source": "nginx", "trusted_proxies": ["127.0.0.1"]}
            manager = SecurityManager.from_config({**settings, "mtls": mtls}, {})
            self._stack.enter_context(manager)
        wire = Wire(0, manager, SocketPuppet(), Recorder())
        shell = SecMiddleware(wire.puppet, config=manager, observer=wire.recorder)
        if name in UVICORN:
            pki: Any = SimpleNamespace(
                certificate=world.pki / "server.pem", key=world.pki / "server.key", ca=world.pki / "ca.pem"
            )
            ws, http, loop = UVICORN[name]
            server = serving(shell, pki, ws=ws, http=http, loop=loop)
        elif name == "gunicorn":
            wire.offers = False
            server = gunicorn_serving(shell, gunicorn_asgi.options(settings))
        else:
            wire.clients = BOTH_VERSIONS
            wire.proxied = name.endswith("trio")
            loop = name.partition(" on ")[2] or "asyncio"
            chosen = {} if wire.proxied else hypercorn.options(settings)
            server = hypercorn_serving(shell, chosen, loop)
        wire.port = self._stack.enter_context(server)
        return wire


@pytest.fixture(scope="module")
def wires(world: World) -> Iterator[Wires]:
    with ExitStack() as stack:
        yield Wires(world, stack)


@pytest.mark.parametrize(("server", "version"), [pytest.param(*wire, id=", ".join(wire)) for wire in WIRES])
@pytest.mark.parametrize("row", ROWS)
def test_a_row_comes_out_as_expected_over_the_wire(
    world: World, wires: Wires, row: Row, server: str, version: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL)
    wire = wires[server]
    wire.puppet.play(world, row)
    wire.recorder.records.clear()
    who = world.people.minted[row.presented] if row.presented else None
    client = wire.open(world, who, row, version)
    try:
        part = playing(world, row, client.handshake, offered=wire.offers)
        answer: Said | Closed | None = None
        while True:
            try:
                said = part.send(answer)
            except StopIteration:
                break
            answer = None
            if said is None:
                answer = client.get()
            else:
                client.send(said)
    finally:
        client.close()
    check_end(world, row, wire.puppet, wire.recorder, offered=wire.offers)


# --- With time.


LIFETIME = timedelta(seconds=3)


def test_an_idle_socket_ends_with_its_certificate_and_with_the_trust_in_its_ca(
    world: World, wires: Wires
) -> None:
    """On all servers at once, so that all wait for the same seconds."""
    row = Row("an idle socket", "/live")
    ca, brief_name = world.people.ca, "spiffe://example.org/shop/brief"
    told: dict[tuple[str, str], list[Any]] = defaultdict(list)
    for server in SERVERS:
        wires[server].puppet.play(world, row)
        wires[server].recorder.records.clear()
    lasting, brief = {}, {}
    ends = mint("brief", ca, uris=(brief_name,), ends=LIFETIME)
    for server, version in WIRES:
        for who, sockets in ((world.people.minted["alice"], lasting), (ends, brief)):
            sockets[server, version] = wires[server].open(world, who, row, version)
            assert isinstance(sockets[server, version].handshake, Opened), server
    managers = {id(wires[server].manager): wires[server].manager for server in SERVERS}.values()
    trusted = [manager.certificates for manager in managers]
    try:
        for key, client in brief.items():
            told[key].append(client.get())
        for client in lasting.values():
            client.send("drawer")
            assert client.get() == "drawer"
        for manager in managers:
            trust = Trust((TrustAnchor(world.people.strange_ca.certificate),))
            manager.certificates = CertificateManager(trust)
        for key, client in lasting.items():
            told[key].append(client.get())
    finally:
        for manager, certificates in zip(managers, trusted, strict=True):
            manager.certificates = certificates
        for client in (*lasting.values(), *brief.values()):
            client.close()
    for key in WIRES:
        assert told[key] == [Closed(1008, "certificate_expired"), Closed(1008, "certificate_untrusted")], key
    for server in SERVERS:
        wire, sockets_of_it = wires[server], 2 * len(wires[server].clients)
        until(lambda w=wire, n=sockets_of_it: len(w.recorder.records) == n, f"all end: {server}")
        codes = sorted(record.refusal.code for record in wire.recorder.records if record.refusal)
        wanted = sorted(["certificate_expired", "certificate_untrusted"] * len(wire.clients))
        assert codes == wanted, server
        heard = sorted(seen["end"] for seen in wire.puppet.seen)
        assert heard == [("1008", code) for code in wanted], server


A_ROW: Final = next(
    row for row in socket_rows() if row.name.startswith("a message is opened for the app and")
)
A_DENIAL: Final = next(row for row in socket_rows() if row.code == "certificate_missing")


def played(world: World, row: Row, handshake: Opened | Denied, *answers: Said | Closed) -> None:
    """The client's part where this is what it gets."""
    left = list(answers)
    part = playing(world, row, handshake, offered=True)
    with suppress(StopIteration):
        said = next(part)
        while True:
            said = part.send(left.pop(0) if said is None else None)


def test_another_message_close_or_handshake_than_the_expected_one_is_noticed(world: World) -> None:
    sealed = world.fill(A_ROW, A_ROW.steps[1][1].replace("<<token", "<<seal"))
    opened = Opened((), None)
    played(world, A_ROW, opened, sealed, "[ ]")
    for handshake, *answers in (
        (opened, sealed, "[]"),
        (opened, sealed.replace("1.10", "1.1"), "[ ]"),
        (opened, world.fill(A_ROW, A_ROW.steps[1][1].replace("<<token", "<<forge")), "[ ]"),
        (opened, sealed, Closed(1008, "field_undecryptable")),
        (Opened((("x", "secret-new"),), None), sealed, "[ ]"),
        (Opened((), "v1.chat"), sealed, "[ ]"),
        (Denied(403), sealed, "[ ]"),
    ):
        with pytest.raises(Exception):  # noqa: B017, PT011  (an assertion, or the token that does not open)
            played(world, A_ROW, handshake, *answers)
    head, body = Refusal("certificate_missing").problem("0" * 32)
    headers = tuple((name.decode(), value.decode()) for name, value in head.headers)
    played(world, A_DENIAL, Denied(401, headers, body))
    for denied in (
        Denied(403, headers, body),
        Denied(401, headers, body.replace(b"_missing", b"_expired")),
        Denied(401, (("content-type", "text/plain"),), body),
        Denied(401, headers, body.replace(b'"code"', b'"where": "mtls", "code"')),
        opened,
    ):
        with pytest.raises(AssertionError):
            played(world, A_DENIAL, denied)


def test_an_app_and_an_observer_that_see_something_else_are_noticed(world: World) -> None:
    row = next(row for row in socket_rows() if row.name == "a forged token ends the socket")
    puppet, recorder = SocketPuppet(), Recorder()
    recorder.add(ExchangeRecord(101, Refusal("field_undecryptable")))
    good = {"heard": ["{}"], "end": ("1008", "field_undecryptable")}
    puppet.seen = [good]
    check_end(world, row, puppet, recorder, offered=True)
    for seen in ([], [good, good], [{**good, "heard": []}], [{**good, "end": ("1000", "")}]):
        puppet.seen = seen
        with pytest.raises(AssertionError):
            check_end(world, row, puppet, recorder, offered=True)
    puppet.seen = [good]
    for record in (ExchangeRecord(101), ExchangeRecord(101, Refusal("key_unknown"))):
        recorder.records[:] = [record]
        with pytest.raises(AssertionError):
            check_end(world, row, puppet, recorder, offered=True)


def test_django_takes_no_websocket_so_that_its_adapter_never_sees_one() -> None:
    django = pytest.importorskip("django.core.handlers.asgi")

    async def called() -> None:
        handler = django.ASGIHandler.__new__(django.ASGIHandler)
        await handler({"type": "websocket"}, None, None)

    with pytest.raises(ValueError, match="only handle ASGI/HTTP"):
        anyio.run(called)
