"""Every row that a real client can bring, over TLS on loopback, through uvicorn with either of its parsers.

The client's certificate stands in a real handshake, and the request is bytes on a socket. Whatever cannot be
brought so is told by name and reason (`Way`), and run all the same as far as it goes.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Iterator
from typing import Final

import pytest
import uvicorn

from exchanges import over_the_wire
from exchanges.outcome import Recorder
from exchanges.people import BYTES_ONLY, DIES_IN_TLS
from exchanges.puppet import Puppet
from exchanges.table import Exchange, configs, rows
from exchanges.wire import Way, connect, talk
from exchanges.world import World
from secmiddleware.asgi import SecMiddleware
from secmiddleware.messages import STATUS_OF

PARSERS: Final = {"h11": ("H11Protocol", "asyncio"), "httptools": ("HttpToolsProtocol", "uvloop")}


def way_of(row: Exchange, parser: str) -> Way:
    """The way of a row with this parser."""
    reason = row.elsewhere.get("uvicorn") or row.elsewhere.get(parser)
    if reason:
        return Way("not here", reason)
    if not row.request.raw:
        return Way("not here", "uvicorn always tells the raw target")
    if row.presented in BYTES_ONLY:
        return Way("not here", BYTES_ONLY[row.presented])
    mtls = configs()[row.config]["mtls"]
    if mtls.get("trust") and row.presented in DIES_IN_TLS:
        return Way("dies in TLS", "OpenSSL refuses the certificate")
    if mtls.get("handshake") == "required" and not row.presented:
        return Way("dies in TLS", "the handshake requires a certificate")
    if parser in row.refused_by:
        return Way("refused by the parser", "the server answers what it cannot read by itself")
    if row.request.truncated:
        return Way("gone", "the caller does not wait for the answer")
    return Way("through")


CASES: Final = [
    pytest.param(row, parser, id=f"{parser}: {row.name}")
    for parser in PARSERS
    for row in rows()
    if way_of(row, parser).how != "not here"
]


class Served:
    """uvicorn in threads of this process, one for each config, prefix and parser that a row asks for."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.puppet = Puppet()
        self.recorder = Recorder()
        self._running: dict[tuple[str, str, str], tuple[uvicorn.Server, threading.Thread, int]] = {}

    def port(self, config: str, root_path: str, parser: str) -> int:
        """The port of the server for these, started where none runs yet."""
        key = config, root_path, parser
        if key not in self._running:
            self._running[key] = self._start(*key)
        return self._running[key][2]

    def _start(
        self, config: str, root_path: str, parser: str
    ) -> tuple[uvicorn.Server, threading.Thread, int]:
        manager = self.world.manager(config)
        protocol, loop = PARSERS[parser]
        settings = uvicorn.Config(
            SecMiddleware(self.puppet, config=manager, observer=self.recorder),
            host="127.0.0.1",
            port=0,
            http=f"secmiddleware.servers.uvicorn:{protocol}",
            loop=loop,
            lifespan="on",
            proxy_headers=False,
            root_path=root_path,
            log_config=None,
            ssl_context_factory=lambda _config, _default: manager.certificates.server_context(),
        )
        server = uvicorn.Server(settings)
        thread = threading.Thread(target=server.run, name=f"uvicorn for {config}")
        thread.start()
        until = time.monotonic() + 10
        while not server.started:
            assert thread.is_alive(), "uvicorn does not start"
            assert time.monotonic() < until, "uvicorn does not start in time"
            time.sleep(0.005)
        return server, thread, server.servers[0].sockets[0].getsockname()[1]

    def close(self) -> None:
        for server, _, _ in self._running.values():
            server.should_exit = True
        for _, thread, _ in self._running.values():
            thread.join(10)
            assert not thread.is_alive(), "uvicorn does not stop"


@pytest.fixture(scope="module")
def served(world: World) -> Iterator[Served]:
    for name, minted in world.people.minted.items():
        if not (world.pki / f"{name}.pem").exists():
            minted.write(world.pki, name)
    serving = Served(world)
    yield serving
    serving.close()


@pytest.mark.parametrize(("row", "parser"), CASES)
def test_a_row_comes_out_as_expected(
    world: World, served: Served, caplog: pytest.LogCaptureFixture, row: Exchange, parser: str
) -> None:
    caplog.set_level(logging.CRITICAL, "uvicorn.error")  # apps that raise are meant to
    served.puppet.play(world, row)
    served.recorder.records.clear()
    port = served.port(row.config, row.request.root_path, parser)
    over_the_wire.run(world, row, way_of(row, parser), served, port)


@pytest.mark.parametrize("parser", PARSERS)
def test_what_is_not_run_here_has_a_reason_and_is_little(parser: str) -> None:
    ways = [way_of(row, parser) for row in rows()]
    assert all(way.reason for way in ways if way.how != "through")
    counts = Counter(way.how for way in ways)
    assert counts["through"] > 0.8 * len(ways), counts
    assert counts["not here"] < 0.06 * len(ways), counts


@pytest.mark.parametrize("parser", PARSERS)
@pytest.mark.parametrize(
    ("config", "target", "presented", "code"),
    [
        ("required", b"/x", "", "certificate_missing"),
        ("fields", b"/customers", "alice", "payload_encoding"),
    ],
)
def test_the_unread_body_of_a_refused_request_is_not_the_next_request(
    world: World, served: Served, parser: str, config: str, target: bytes, presented: str, code: str
) -> None:
    served.puppet.play(world, next(row for row in rows() if row.expect.code is None))
    served.recorder.records.clear()
    inner = b"GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n"
    head = b"POST %s HTTP/1.1\r\nhost: localhost\r\ncontent-type: text/plain\r\n" % target
    outer = head + b"content-length: %d\r\n\r\n" % len(inner)
    last = head + b"connection: close\r\ncontent-length: 2\r\n\r\n{}"
    with connect(served.port(config, "", parser), world.pki, presented) as connection:
        received = talk(connection, [outer, inner, last])
    assert (
        received.count(b"HTTP/1.1 ") == received.count(code.encode()) / 2 == 2
    )  # each problem names it twice
    served.recorder.wait(2)
    assert served.puppet.seen == []
    assert {record.status for record in served.recorder.records} == {STATUS_OF[code]}
