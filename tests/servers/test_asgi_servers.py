"""Servers of ASGI apps, each in a process of its own: who connected is who the app is told."""

from __future__ import annotations

import asyncio
import itertools
import json
import ssl
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import pytest
from websockets.asyncio.client import connect as connect_async
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from servers.http2 import Http2
from servers.pki import Pki
from servers.serving import PATIENCE, Connection, ask, until
from servers.shown import free_port, furnish, running
from servers.test_crowd import Caller

HYPERCORN = """
from secmiddleware.servers.hypercorn import options
globals().update(options("secmiddleware.toml", loop="{loop}"))
bind = "127.0.0.1:{port}"
"""

GUNICORN_ASGI = """
from secmiddleware.servers.gunicorn_asgi import options
globals().update(options("secmiddleware.toml", worker="asgi", http2=True))
bind, asgi_loop, control_socket_disable, graceful_timeout = "127.0.0.1:{port}", "{loop}", True, 2
"""

GUNICORN_UVICORN = """
from secmiddleware.servers.gunicorn_asgi import UvicornWorker, options
globals().update(options("secmiddleware.toml", worker="uvicorn", http2=True))
class Worker(UvicornWorker):
    CONFIG_KWARGS = {{**UvicornWorker.CONFIG_KWARGS, "loop": "{loop}"}}
worker_class = Worker
bind, control_socket_disable = "127.0.0.1:{port}", True
"""

UVICORN_ZTTP = """
import uvicorn
from secmiddleware.servers.uvicorn import options
if __name__ == "__main__":
    uvicorn.run("shown_app:app", port={port}, loop="{loop}", **options("secmiddleware.toml", http="zttp"))
"""

SERVERS = {
    "hypercorn": (HYPERCORN, ("hypercorn", "--config", "file:conf.py", "shown_app:app")),
    "gunicorn-asgi": (GUNICORN_ASGI, ("gunicorn", "--config", "conf.py", "shown_app:app")),
    "gunicorn-uvicorn": (GUNICORN_UVICORN, ("gunicorn", "--config", "conf.py", "shown_app:app")),
    "uvicorn-zttp": (UVICORN_ZTTP, ("conf",)),
}
LOOPS = ("asyncio", "uvloop")


@dataclass(frozen=True)
class Served:
    server: str
    loop: str
    port: int


@pytest.fixture(scope="module", params=[(server, loop) for server in SERVERS for loop in LOOPS], ids="-".join)
def served(
    request: pytest.FixtureRequest, pki: Pki, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Served]:
    server, loop = request.param
    conf, command = SERVERS[server]
    folder, port = tmp_path_factory.mktemp(server), free_port()
    furnish(folder, pki, conf=conf.format(port=port, loop=loop))
    with running(folder, pki, port, *command):
        yield Served(server, loop, port)


@pytest.fixture(scope="module")
def ended(pki: Pki) -> ssl.SSLContext:
    """The context of somebody whose certificate has ended."""
    context = pki.short_lived("shop/ended", timedelta(seconds=1))
    time.sleep(2)
    return context


@pytest.mark.parametrize("tls", ["1.2", "1.3"])
def test_the_certificate_of_the_connection_reaches_the_app_as_an_identity(
    served: Served, pki: Pki, tls: str
) -> None:
    with Connection(served.port, pki.client("shop/alice", tls)) as connection:
        assert connection.tls.version() == f"TLSv{tls}"
        for _ in range(3):
            told = connection.ask("/orders").json
            assert (told["identity"], told["path"], told["scheme"]) == (
                pki.spiffe("shop/alice"),
                "/orders",
                "https",
            )


@pytest.mark.parametrize("tls", ["1.2", "1.3"])
def test_without_a_certificate_the_caller_reads_why(served: Served, pki: Pki, tls: str) -> None:
    with Connection(served.port, pki.client(None, tls)) as connection:
        response = connection.ask("/orders")
        assert (response.status, response.code) == (401, "certificate_missing")
        assert connection.ask("/maybe/x").json["identity"] is None
        assert connection.ask("/healthz").json["identity"] is None


@pytest.mark.parametrize("tls", ["1.2", "1.3"])
def test_a_certificate_of_a_strange_ca_dies_in_the_handshake_with_its_alert(
    served: Served, pki: Pki, tls: str
) -> None:
    with (
        pytest.raises(ssl.SSLError, match=r"(?i)unknown.ca"),
        Connection(served.port, pki.client("!shop/alice", tls)) as refused,
    ):
        refused.tls.recv(1)


@pytest.mark.parametrize("tls", ["1.2", "1.3"])
def test_a_certificate_that_has_ended_dies_in_the_handshake(
    served: Served, ended: ssl.SSLContext, tls: str
) -> None:
    version = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}[tls]
    ended.minimum_version, ended.maximum_version = ssl.TLSVersion.TLSv1_2, version
    with pytest.raises(ssl.SSLError, match=r"(?i)expired"), Connection(served.port, ended) as refused:
        refused.tls.recv(1)


def test_a_certificate_that_ends_while_its_connection_stays_is_refused_from_then_on(
    served: Served, pki: Pki
) -> None:
    brief = pki.short_lived("shop/brief", timedelta(seconds=1.5))  # certificates count in whole seconds
    with Connection(served.port, brief) as connection:
        assert connection.ask().json["identity"] == pki.spiffe("shop/brief")
        refused = until(lambda: (r := connection.ask()).status != 200 and r, "the certificate ends")
        assert (refused.status, refused.code) == (403, "certificate_expired")


def test_only_who_is_allowed_gets_to_a_route_that_names_its_callers(served: Served, pki: Pki) -> None:
    assert ask(served.port, pki.client("ops/oscar"), "/admin/x").status == 200
    assert ask(served.port, pki.client("shop/alice"), "/admin/x").code == "identity_not_allowed"


@pytest.mark.parametrize("tls", ["1.2", "1.3"])
def test_a_session_is_never_resumed(served: Served, pki: Pki, tls: str) -> None:
    context, session = pki.client("shop/alice", tls), None
    for _ in range(3):
        with Connection(served.port, context, session) as connection:
            assert not connection.tls.session_reused
            assert connection.ask().json["identity"] == pki.spiffe("shop/alice")
            session = connection.tls.session


@pytest.mark.parametrize("tls", ["1.2", "1.3"])
def test_every_stream_of_a_connection_has_its_identity(served: Served, pki: Pki, tls: str) -> None:
    async def both() -> None:
        async with (
            asyncio.timeout(PATIENCE),
            Http2(served.port, pki.client("shop/alice", tls, http2=True)) as alice,
            Http2(served.port, pki.client("ops/oscar", tls, http2=True)) as oscar,
            Http2(served.port, pki.client(None, tls, http2=True)) as nobody,
        ):
            assert alice.tls.version() == f"TLSv{tls}"
            for told in await asyncio.gather(*(alice.told("/orders", str(n)) for n in range(10))):
                assert told["identity"] == pki.spiffe("shop/alice")
                assert told["http_version"].startswith("2")
            turns = await asyncio.gather(*(who.ask("/admin/x") for who in (alice, oscar, nobody) * 5))
            assert [turn.status for turn in turns] == [403, 200, 401] * 5
            assert {turn.code for turn in turns} == {"identity_not_allowed", None, "certificate_missing"}
            assert (await nobody.told("/maybe/x"))["identity"] is None

    asyncio.run(both())


def test_a_websocket_has_the_identity_of_its_connection_and_talks(served: Served, pki: Pki) -> None:
    for name, path in (("shop/alice", "/live"), ("ops/oscar", "/admin/live"), (None, "/healthz")):
        with connect(f"wss://127.0.0.1:{served.port}{path}", ssl=pki.client(name), proxy=None) as websocket:
            websocket.send("drawer")
            told = json.loads(websocket.recv(PATIENCE))
            assert (told["type"], told["said"], told["path"]) == ("websocket", "drawer", path)
            assert told["identity"] == told["later"] == (None if name is None else pki.spiffe(name))


# gunicorn's worker offers no denial response: a close before the accept is a plain 403.
@pytest.mark.parametrize(
    ("name", "path", "status", "code"),
    [(None, "/live", 401, "certificate_missing"), ("shop/alice", "/admin/live", 403, "identity_not_allowed")],
)
def test_a_refused_websocket_gets_the_problem_where_the_server_can_send_it(
    served: Served, pki: Pki, name: str | None, path: str, status: int, code: str
) -> None:
    with pytest.raises(InvalidStatus) as refused:
        connect(f"wss://127.0.0.1:{served.port}{path}", ssl=pki.client(name), proxy=None)
    response = refused.value.response
    if served.server == "gunicorn-asgi":
        assert response.status_code == 403
    else:
        assert (response.status_code, json.loads(response.body)["code"]) == (status, code)


CLIENTS = 24
KEPT = 6  # requests over one connection
FRESH = 3  # requests over a connection of their own each
STREAMS = 6  # requests at once over one connection of HTTP/2


def test_a_crowd_never_gets_each_others_identity(served: Served, pki: Pki) -> None:
    names = [f"crowd/{number}" for number in range(CLIENTS)]
    answers: list[tuple[str, str, Any]] = []

    async def client(name: str) -> None:
        async def over_a_kept_connection() -> None:
            async with Caller(served.port, pki.client(name)) as caller:
                for number in range(KEPT):
                    said = f"{name} kept {number}"
                    answers.append((name, said, await caller.ask(said)))

        async def over_fresh_connections() -> None:
            for number in range(FRESH):
                async with Caller(served.port, pki.client(name)) as caller:
                    said = f"{name} fresh {number}"
                    answers.append((name, said, await caller.ask(said)))

        async def over_streams() -> None:
            async with Http2(served.port, pki.client(name, http2=True)) as http:
                for _ in range(2):
                    said = [f"{name} stream {number}" for number in range(STREAMS)]
                    told = await asyncio.gather(*(http.told("/", each) for each in said))
                    answers.extend((name, each, one) for each, one in zip(said, told, strict=True))

        async def over_a_websocket() -> None:
            url = f"wss://127.0.0.1:{served.port}/live"
            async with connect_async(
                url, ssl=pki.client(name), proxy=None, open_timeout=PATIENCE
            ) as websocket:
                for number in range(KEPT):
                    said = f"{name} live {number}"
                    await websocket.send(said)
                    answers.append((name, said, json.loads(await websocket.recv())))

        await asyncio.gather(
            over_a_kept_connection(), over_fresh_connections(), over_streams(), over_a_websocket()
        )

    async def crowd() -> None:
        async with asyncio.timeout(6 * PATIENCE):
            await asyncio.gather(*map(client, names))

    for name in names:
        pki.client(name), pki.client(name, http2=True)
    asyncio.run(crowd())
    mistaken = [
        (name, said, told)
        for name, said, told in answers
        if (told["identity"], told["later"], told["said"]) != (pki.spiffe(name), pki.spiffe(name), said)
    ]
    assert mistaken == []
    assert len(answers) == CLIENTS * (2 * KEPT + FRESH + 2 * STREAMS)
    callers = [name for name, _, _ in answers]
    turns = sum(before != after for before, after in itertools.pairwise(callers))
    assert turns > 2 * CLIENTS  # they did come at once
