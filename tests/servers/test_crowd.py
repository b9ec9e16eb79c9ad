"""Many clients at once: nobody is ever taken for somebody else."""

from __future__ import annotations

import asyncio
import itertools
import json
import ssl
from typing import Any

import pytest

from secmiddleware.messages import IDENTITY_KEY
from servers.pki import Pki
from servers.serving import HTTP, LOOPS, PATIENCE, answer_lifespan, protected, reply, request, serving

CLIENTS = 30
KEPT = 8  # requests over one connection
FRESH = 4  # requests over a connection of their own each


async def repeat(scope: Any, receive: Any, send: Any) -> None:
    """Who is calling, before and after others had their turn, and what the caller said to be told."""
    if scope["type"] == "lifespan":
        await answer_lifespan(receive, send)
        return
    before = scope[IDENTITY_KEY].spiffe_id
    for _ in range(3):
        await asyncio.sleep(0)
    said = dict(scope["headers"])[b"x-said"].decode()
    await reply(send, json.dumps([before, scope[IDENTITY_KEY].spiffe_id, said]).encode())


class Caller:
    """One connection of one client, without threads."""

    def __init__(self, port: int, context: ssl.SSLContext) -> None:
        self._port = port
        self._context = context

    async def __aenter__(self) -> Caller:  # noqa: PYI034  (it is nobody's base)
        self._reader, self._writer = await asyncio.open_connection(
            "127.0.0.1", self._port, ssl=self._context, server_hostname="localhost"
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        self._writer.close()
        await self._writer.wait_closed()

    async def ask(self, said: str) -> Any:
        self._writer.write(request("/", headers=[("x-said", said)]))
        head = await self._reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200 "), head
        length = next(line for line in head.split(b"\r\n") if line.startswith(b"content-length: "))
        return json.loads(await self._reader.readexactly(int(length[16:])))


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("http", HTTP)
def test_thirty_clients_at_once_never_get_each_others_identity(pki: Pki, http: str, loop: str) -> None:
    names = [f"crowd/{number}" for number in range(CLIENTS)]
    contexts = {name: pki.client(name) for name in names}
    answers: list[tuple[str, str, Any]] = []

    async def client(name: str, port: int) -> None:
        async def over_a_kept_connection() -> None:
            async with Caller(port, contexts[name]) as caller:
                for number in range(KEPT):
                    said = f"{name} kept {number}"
                    answers.append((name, said, await caller.ask(said)))

        async def over_fresh_connections() -> None:
            for number in range(FRESH):
                async with Caller(port, contexts[name]) as caller:
                    said = f"{name} fresh {number}"
                    answers.append((name, said, await caller.ask(said)))

        await asyncio.gather(over_a_kept_connection(), over_fresh_connections())

    async def crowd(port: int) -> None:
        async with asyncio.timeout(3 * PATIENCE):
            await asyncio.gather(*(client(name, port) for name in names))

    with serving(protected(repeat, pki.settings()), pki, http=http, loop=loop) as port:
        asyncio.run(crowd(port))
    mistaken = [
        answer for name, said, answer in answers if answer != [pki.spiffe(name), pki.spiffe(name), said]
    ]
    assert mistaken == []
    assert len(answers) == CLIENTS * (KEPT + FRESH)
    # They did come at once: one after the other, the callers would not alternate.
    callers = [name for name, _, _ in answers]
    turns = sum(before != after for before, after in itertools.pairwise(callers))
    assert turns > 2 * CLIENTS
