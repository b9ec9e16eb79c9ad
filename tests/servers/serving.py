"""uvicorn in a thread of this process, on a free port, and a client whose every byte can be chosen."""

from __future__ import annotations

import json
import socket
import ssl
import threading
import time
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPResponse
from typing import Any, Self

import uvicorn

from secmiddleware.asgi import SecMiddleware
from secmiddleware.certificates.contexts import HTTP_1, server_context
from secmiddleware.certificates.trust import load_anchors
from secmiddleware.scopes import App
from servers.pki import Pki

OURS = "secmiddleware.servers.uvicorn:"
HTTP = ("H11Protocol", "HttpToolsProtocol")
WITH_HTTP_2 = "ZttpProtocol"
LOOPS = ("asyncio", "uvloop")
PATIENCE = 10.0  # seconds for what takes milliseconds, on a machine that does other things too

with warnings.catch_warnings():
    # uvicorn's `websockets` implementation says on import that it will go; until then it is one of three.
    warnings.simplefilter("ignore")
    import uvicorn.protocols.websockets.websockets_impl


@contextmanager
def serving(
    app: App,
    pki: Pki,
    *,
    http: str = "HttpToolsProtocol",
    loop: str = "asyncio",
    ws: str = "websockets-sansio",
    handshake: str = "optional",
    alpn: tuple[str, ...] = HTTP_1,
    **options: Any,
) -> Iterator[int]:
    """The port on which `app` is served; `http` is a class of ours, or one of uvicorn's names."""
    context = server_context(pki.certificate, pki.key, load_anchors(pki.ca), handshake, alpn=alpn)
    config = uvicorn.Config(
        app,
        http=OURS + http if http in (*HTTP, WITH_HTTP_2) else http,
        loop=loop,
        ws=ws,
        log_config=None,
        proxy_headers=False,
        **{"lifespan": "on", "ssl_context_factory": lambda _config, _default: context, **options},
    )
    server = uvicorn.Server(config)
    # With the protocol named, asyncio switches Nagle's delay off, as it does where it makes the socket.
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP) as listening:
        listening.bind(("127.0.0.1", 0))
        thread = threading.Thread(target=server.run, args=([listening],), name=f"{http} on {loop}")
        thread.start()
        try:
            until(lambda: server.started or not thread.is_alive(), "the server starts")
            assert server.started, "the server has ended instead of starting"
            yield listening.getsockname()[1]
        finally:
            server.should_exit = True
            thread.join(PATIENCE)
            assert not thread.is_alive(), "the server does not stop"


def until(holds: Any, what: str, patience: float = PATIENCE) -> Any:
    """What `holds()` gives as soon as it is true."""
    deadline = time.monotonic() + patience
    while not (result := holds()):
        assert time.monotonic() < deadline, f"not within {patience} s: {what}"
        time.sleep(0.005)
    return result


@dataclass(frozen=True)
class Response:
    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes
    trailers: tuple[tuple[str, str], ...] = ()

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def code(self) -> str | None:
        """The code of a problem; None for what is none."""
        types = [value for name, value in self.headers if name.lower() == "content-type"]
        return self.json["code"] if types == ["application/problem+json"] else None


class Connection:
    """One TLS connection. What is sent is sent as it is; responses are read one after the other."""

    def __init__(self, port: int, context: ssl.SSLContext, session: ssl.SSLSession | None = None) -> None:
        raw = socket.create_connection(("127.0.0.1", port), PATIENCE)
        raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            self.tls = context.wrap_socket(raw, server_hostname="localhost", session=session)
        except BaseException:
            raw.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.tls.close()

    def send(self, data: bytes) -> None:
        self.tls.sendall(data)

    def response(self, method: str = "GET") -> Response:
        """The next response; ConnectionError where none comes."""
        with HTTPResponse(self.tls, method=method) as response:
            response.begin()
            return Response(response.status, tuple(response.getheaders()), response.read())

    def ask(
        self,
        target: str | bytes = "/",
        *,
        method: str = "GET",
        headers: Iterable[tuple[str, str]] = (),
        body: bytes | None = None,
    ) -> Response:
        """A request and its response; the connection stays."""
        self.send(request(target, method=method, headers=headers, body=body))
        return self.response(method)


def request(
    target: str | bytes = "/",
    *,
    method: str = "GET",
    headers: Iterable[tuple[str, str]] = (),
    body: bytes | None = None,
) -> bytes:
    """The bytes of a request; with a body its length is told."""
    target = target.encode() if isinstance(target, str) else target
    lines = [b"%s %s HTTP/1.1" % (method.encode(), target), b"host: localhost"]
    lines += [f"{name}: {value}".encode("latin-1") for name, value in headers]
    if body is not None:
        lines.append(b"content-length: %d" % len(body))
    return b"\r\n".join([*lines, b"", body or b""])


def ask(port: int, context: ssl.SSLContext, target: str | bytes = "/", **request: Any) -> Response:
    """One request on a connection of its own."""
    with Connection(port, context) as connection:
        return connection.ask(target, **request)


async def reply(send: Any, body: bytes, status: int = 200, kind: bytes = b"application/json") -> None:
    """The whole response of a small app."""
    headers = [(b"content-type", kind), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def answer_lifespan(receive: Any, send: Any) -> None:
    """The lifespan of an app that has nothing to start."""
    await receive()
    await send({"type": "lifespan.startup.complete"})
    await receive()
    await send({"type": "lifespan.shutdown.complete"})


def protected(app: App, settings: Any, **options: Any) -> SecMiddleware:
    """The app with ours round it."""
    return SecMiddleware(app, config=settings, **options)
