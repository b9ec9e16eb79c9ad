"""Every row that a real client can bring, over TLS on loopback, through both of gunicorn's WSGI workers.

The client's certificate stands in a real handshake, and the request is bytes on a socket. Whatever cannot be
brought so is told by name and reason (`Way`), and run all the same as far as it goes.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any, Final

import pytest

from exchanges import over_the_wire
from exchanges.gunicorn_worker import WORKERS, Running
from exchanges.outcome import Recorder
from exchanges.people import BYTES_ONLY, DIES_IN_TLS
from exchanges.puppet_wsgi import WsgiPuppet
from exchanges.table import Exchange, configs, rows
from exchanges.wire import Way, connect, talk
from exchanges.world import World
from secmiddleware.messages import STATUS_OF
from secmiddleware.servers.gunicorn import options
from secmiddleware.wsgi import SecMiddleware


def way_of(row: Exchange) -> Way:
    """The way of a row."""
    reason = row.elsewhere.get("gunicorn") or row.elsewhere.get("wsgi")
    if reason:
        return Way("not here", reason)
    if not row.request.raw:
        return Way("not here", "gunicorn always tells the raw target")
    if row.presented in BYTES_ONLY:
        return Way("not here", BYTES_ONLY[row.presented])
    mtls = configs()[row.config]["mtls"]
    if mtls.get("trust") and row.presented in DIES_IN_TLS:
        return Way("dies in TLS", "OpenSSL refuses the certificate")
    if mtls.get("handshake") == "required" and not row.presented:
        return Way("dies in TLS", "the handshake requires a certificate")
    if "gunicorn" in row.refused_by:
        return Way("refused by the parser", "the server answers what it cannot read by itself")
    if row.request.truncated:
        return Way("gone", "the caller does not wait for the answer")
    return Way("through")


CASES: Final = [
    pytest.param(row, worker, id=f"{worker}: {row.name}")
    for worker in WORKERS
    for row in rows()
    if way_of(row).how != "not here"
]


class Served:
    """Workers in threads of this process, one for each config, prefix and kind that a row asks for."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.puppet = WsgiPuppet()
        self.recorder = Recorder()
        self._running: dict[tuple[str, str, str], Running] = {}

    def port(self, config: str, root_path: str, worker: str) -> int:
        """The port of the worker for these, started where none runs yet."""
        key = config, root_path, worker
        if key not in self._running:
            manager = self.world.manager(config)
            shell = SecMiddleware(self.puppet.wsgi, config=manager, observer=self.recorder)

            def app(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
                environ["SCRIPT_NAME"] = root_path
                return shell(environ, start_response)

            chosen = options(self.world.settings(config), threads=1 if worker == "sync" else 4)
            assert chosen["worker_class"] == worker
            self._running[key] = Running(app, chosen)
        return self._running[key].port

    def close(self) -> None:
        for running in self._running.values():
            running.end()


@pytest.fixture(scope="module")
def served(world: World) -> Iterator[Served]:
    for name, minted in world.people.minted.items():
        if not (world.pki / f"{name}.pem").exists():
            minted.write(world.pki, name)
    serving = Served(world)
    yield serving
    serving.close()


@pytest.mark.parametrize(("row", "worker"), CASES)
def test_a_row_comes_out_as_expected(
    world: World, served: Served, caplog: pytest.LogCaptureFixture, row: Exchange, worker: str
) -> None:
    caplog.set_level(logging.CRITICAL, "gunicorn.error")  # apps that raise are meant to
    served.puppet.play(world, row)
    served.recorder.records.clear()
    port = served.port(row.config, row.request.root_path, worker)
    over_the_wire.run(world, row, way_of(row), served, port)


def test_what_is_not_run_here_has_a_reason_and_is_little() -> None:
    ways = [way_of(row) for row in rows()]
    assert all(way.reason for way in ways if way.how != "through")
    counts = Counter(way.how for way in ways)
    assert counts["through"] > 0.8 * len(ways), counts
    assert counts["not here"] < 0.07 * len(ways), counts


@pytest.mark.parametrize("worker", WORKERS)
@pytest.mark.parametrize(
    ("config", "target", "presented", "code"),
    [
        ("required", b"/x", "", "certificate_missing"),
        ("fields", b"/customers", "alice", "payload_encoding"),
    ],
)
def test_the_unread_body_of_a_refused_request_is_not_the_next_request(
    world: World, served: Served, worker: str, config: str, target: bytes, presented: str, code: str
) -> None:
    served.puppet.play(world, next(row for row in rows() if row.expect.code is None))
    served.recorder.records.clear()
    inner = b"GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n"
    head = b"POST %s HTTP/1.1\r\nhost: localhost\r\ncontent-type: text/plain\r\n" % target
    outer = head + b"content-length: %d\r\n\r\n" % len(inner)
    last = head + b"connection: close\r\ncontent-length: 2\r\n\r\n{}"
    with connect(served.port(config, "", worker), world.pki, presented) as connection:
        received = talk(connection, [outer, inner, last])
    answers = 1 if worker == "sync" else 2  # a sync worker closes after each
    assert received.count(b"HTTP/1.1 ") == received.count(code.encode()) / 2 == answers
    served.recorder.wait(answers)
    assert served.puppet.seen == []
    assert {record.status for record in served.recorder.records} == {STATUS_OF[code]}
