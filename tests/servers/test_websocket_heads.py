"""Marks of heads at websockets over real TLS: what an app reads of a handshake, and what its client does."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect
from websockets.typing import Subprotocol

from secmiddleware.files import write_secret
from secmiddleware.security import SecurityManager
from secmiddleware.servers.hypercorn import options
from servers.in_thread import hypercorn_serving
from servers.pki import Pki
from servers.serving import PATIENCE, answer_lifespan, protected, serving

# uvicorn's `websockets` uses what that library calls deprecated.
pytestmark = pytest.mark.filterwarnings("ignore:remove second argument of ws_handler:DeprecationWarning")

SECRET = "secret-0815"


async def app(scope: Any, receive: Any, send: Any) -> None:
    """Renews the session of its client and tells what it has read; says the secret when asked to."""
    if scope["type"] == "lifespan":
        await answer_lifespan(receive, send)
        return
    if scope["type"] == "http":
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body"})
        return
    read = {name.decode(): value.decode() for name, value in scope["headers"]}
    assert (await receive())["type"] == "websocket.connect"
    if scope["query_string"].endswith(b"deny"):
        headers = [(b"content-type", b"application/json"), (b"set-cookie", b"sid=secret-new")]
        await send({"type": "websocket.http.response.start", "status": 409, "headers": headers})
        await send({"type": "websocket.http.response.body", "body": b'{"again":1.10}'})
        return
    headers = [(b"set-cookie", b"sid=secret-new; Secure; HttpOnly"), (b"x-version", b"2")]
    await send({"type": "websocket.accept", "subprotocol": scope["subprotocols"][0], "headers": headers})
    seen = {"cookie": read["cookie"] == f"a=1; sid={SECRET}", "query": scope["query_string"].decode()[:12]}
    await send({"type": "websocket.send", "text": json.dumps(seen)})
    while (message := await receive())["type"] == "websocket.receive":
        await send({"type": "websocket.send", "text": SECRET if message["text"] == "tell" else "ok"})


@dataclass(frozen=True)
class Served:
    port: int
    manager: SecurityManager
    pki: Pki

    def seal(self, text: str = SECRET, caller: str = "shop/alice") -> str:
        assert self.manager.encryption is not None
        return self.manager.encryption.seal("sid", json.dumps(text).encode(), caller=self.pki.spiffe(caller))

    def opened(self, token: str, caller: str = "shop/alice") -> Any:
        assert self.manager.encryption is not None
        return json.loads(self.manager.encryption.open("sid", token, caller=self.pki.spiffe(caller)))

    def connect(self, query: str, cookie: str, caller: str = "shop/alice") -> ClientConnection:
        return connect(
            f"wss://127.0.0.1:{self.port}/live?{query}",
            ssl=self.pki.client(caller),
            proxy=None,
            subprotocols=[Subprotocol("v2.chat")],
            additional_headers={"Cookie": cookie},
            open_timeout=PATIENCE,
        )


@pytest.fixture(scope="module", params=["websockets", "websockets-sansio", "wsproto", "hypercorn"])
def served(
    request: pytest.FixtureRequest, pki: Pki, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Served]:
    """uvicorn with each of its implementations, and hypercorn."""
    folder: Path = tmp_path_factory.mktemp("heads")
    write_secret(folder / "kek", bytes(range(32)))
    place = {"routes": ["/**"], "marks": ["cookie:sid", "query:token"]}
    settings = pki.settings(
        keys={"ring": "heads", "store": f"file:{folder}/ring.json", "kek": f"file:{folder}/kek"},
        fields={
            "sid": {"bind": "caller", "places": [{**place, "request": "decrypt", "response": "encrypt"}]}
        },
    )
    manager = SecurityManager.from_config(settings, {})
    shell = protected(app, manager)
    if request.param == "hypercorn":
        server = hypercorn_serving(shell, options(settings))
    else:
        server = serving(shell, pki, ws=request.param)
    with server as port:
        yield Served(port, manager, pki)


def test_the_app_reads_its_handshake_opened_and_the_client_reads_the_acceptance_sealed(
    served: Served,
) -> None:
    token = served.seal()
    with served.connect(f"a=%2f&token={token}", f"a=1; sid={token}") as socket:
        assert json.loads(socket.recv(PATIENCE)) == {"cookie": True, "query": f"a=%2f&token={SECRET}"[:12]}
        assert socket.response is not None
        cookie = socket.response.headers["Set-Cookie"]
        assert cookie.startswith("sid=sm1.")
        assert cookie.endswith("; Secure; HttpOnly")
        assert served.opened(cookie.removeprefix("sid=").partition(";")[0]) == "secret-new"
        assert (socket.response.headers["X-Version"], socket.subprotocol) == ("2", "v2.chat")
        assert "Cache-Control" not in socket.response.headers
        socket.send("hello")
        assert socket.recv(PATIENCE) == "ok"


def test_what_the_handshake_brought_does_not_come_back_in_a_message(served: Served) -> None:
    with served.connect("a=1", f"a=1; sid={served.seal()}") as socket:
        socket.recv(PATIENCE)
        socket.send("tell")
        with pytest.raises(ConnectionClosed) as ended:
            socket.recv(PATIENCE)
    assert ended.value.rcvd is not None
    assert (ended.value.rcvd.code, ended.value.rcvd.reason) == (1011, "seal_failed")


def test_a_token_of_another_caller_is_refused_before_the_app_is_asked(served: Served) -> None:
    with pytest.raises(InvalidStatus) as refused:
        served.connect("a=1", f"sid={served.seal()}", caller="shop/bob")
    response = refused.value.response
    problem = json.loads(response.body)
    assert (response.status_code, problem["code"], problem["where"]) == (
        400,
        "field_undecryptable",
        "cookie:sid",
    )


def test_the_denial_of_an_app_is_sealed(served: Served) -> None:
    with pytest.raises(InvalidStatus) as refused:
        served.connect("deny", f"sid={served.seal()}")
    response = refused.value.response
    assert (response.status_code, response.body) == (409, b'{"again":1.10}')
    cookie = response.headers["Set-Cookie"]
    assert served.opened(cookie.removeprefix("sid=")) == "secret-new"
    assert response.headers["Cache-Control"] == "private, no-store"


def test_a_denial_that_holds_what_the_handshake_brought_does_not_leave(served: Served) -> None:
    token = served.seal('{"again":1.10}')
    with pytest.raises(InvalidStatus) as refused:
        served.connect(f"token={token}&deny", "a=1")
    response = refused.value.response
    assert (response.status_code, json.loads(response.body)["code"]) == (500, "seal_failed")
    assert "Set-Cookie" not in response.headers
