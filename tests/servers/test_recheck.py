"""Open websockets whose certificate ends, or is trusted no more: all implementations of uvicorn, over TLS."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import pytest
from exchanges.outcome import Recorder
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

from secmiddleware.certificates.judgement import Trust
from secmiddleware.certificates.manager import CertificateManager
from secmiddleware.certificates.trust import TrustAnchor
from secmiddleware.messages import IDENTITY_KEY
from secmiddleware.security import SecurityManager
from servers.pki import Pki
from servers.serving import HTTP, LOOPS, PATIENCE, answer_lifespan, protected, serving, until

# uvicorn's `websockets` uses what that library calls deprecated.
pytestmark = pytest.mark.filterwarnings("ignore:remove second argument of ws_handler:DeprecationWarning")

KINDS = ("websockets", "websockets-sansio", "wsproto")


class Talker:
    """Echoes; writes down the last thing that it heard on each path, when it has returned."""

    def __init__(self) -> None:
        self.ends: dict[str, Any] = {}
        self.said_after: dict[str, str] = {}

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            await answer_lifespan(receive, send)
            return
        assert (await receive())["type"] == "websocket.connect"
        await send({"type": "websocket.accept"})
        await send({"type": "websocket.send", "text": json.dumps(scope[IDENTITY_KEY].spiffe_id)})
        while (message := await receive())["type"] == "websocket.receive":
            await send({"type": "websocket.send", "text": message["text"][::-1]})
        try:
            await send({"type": "websocket.send", "text": "is anybody there?"})
        except OSError as gone:
            self.said_after[scope["path"]] = type(gone).__name__
        self.ends[scope["path"]] = message


@dataclass
class Served:
    name: str
    port: int
    manager: SecurityManager
    app: Talker
    seen: Recorder = field(repr=False)


@pytest.fixture(scope="module")
def everywhere(pki: Pki) -> Iterator[list[Served]]:
    """All implementations at once, so that all wait for the same seconds."""
    served = []
    with ExitStack() as stack:
        for ws in KINDS:
            for http in HTTP:
                for loop in LOOPS:
                    app, seen = Talker(), Recorder()
                    manager = SecurityManager.from_config(pki.settings(mtls={"recheck": "1s"}), {})
                    shell = protected(app, manager, observer=seen)
                    port = stack.enter_context(serving(shell, pki, http=http, loop=loop, ws=ws))
                    served.append(Served(f"{ws}-{http}-{loop}", port, manager, app, seen))
        yield served


def opened(stack: ExitStack, port: int, context: Any, path: str) -> ClientConnection:
    socket = stack.enter_context(
        connect(
            f"wss://127.0.0.1:{port}{path}",
            ssl=context,
            proxy=None,
            open_timeout=PATIENCE,
            close_timeout=PATIENCE,
        )
    )
    assert json.loads(socket.recv(PATIENCE)).startswith("spiffe://")
    return socket


def close_of(socket: ClientConnection) -> tuple[int, str]:
    """How the server closes a socket on which nothing is said."""
    with pytest.raises(ConnectionClosed) as closed:
        socket.recv(PATIENCE)
    assert closed.value.rcvd is not None
    return closed.value.rcvd.code, closed.value.rcvd.reason


def test_an_idle_socket_ends_with_its_certificate_and_with_the_trust_in_its_ca(
    everywhere: list[Served], pki: Pki
) -> None:
    ended: dict[str, dict[str, Any]] = defaultdict(dict)
    with ExitStack() as stack:
        lasting = [opened(stack, s.port, pki.client("shop/lasting"), "/lasting") for s in everywhere]
        context = pki.short_lived("shop/brief", timedelta(seconds=3))
        brief = [opened(stack, s.port, context, "/brief") for s in everywhere]
        for served, socket in zip(everywhere, brief, strict=True):
            ended[served.name]["brief"] = close_of(socket)
        for socket in lasting:
            socket.send("drawer")
            assert socket.recv(PATIENCE) == "reward"
        for served in everywhere:
            trust = Trust((TrustAnchor(pki.strange.certificate),))
            served.manager.certificates = CertificateManager(trust)
        for served, socket in zip(everywhere, lasting, strict=True):
            ended[served.name]["lasting"] = close_of(socket)
        for served in everywhere:
            served.seen.wait(2)
    for served in everywhere:
        told = ended[served.name]
        assert told == {
            "brief": (1008, "certificate_expired"),
            "lasting": (1008, "certificate_untrusted"),
        }, served.name
        for path, (code, reason) in {"/brief": told["brief"], "/lasting": told["lasting"]}.items():
            heard = until(lambda s=served, p=path: s.app.ends.get(p), "the app hears of it")
            assert heard == {"type": "websocket.disconnect", "code": code, "reason": reason}, served.name
            assert served.app.said_after[path] == "SocketEndedError", served.name
        codes = {record.refusal.code for record in served.seen.records if record.refusal}
        assert codes == {"certificate_expired", "certificate_untrusted"}, served.name
