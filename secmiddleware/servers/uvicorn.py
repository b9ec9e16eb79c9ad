"""uvicorn: protocol classes that hand over the client certificate, and serving with them.

uvicorn keeps the TLS connection from the app. The classes here are the stock ones plus one step: when a
connection is made, the app of that connection is wrapped, so that every scope of it, a websocket's too, holds
what the connection presented. A ContextVar set during the handshake would be simpler and is wrong: under
uvloop it gave one client another client's certificate.

    uvicorn --http secmiddleware.servers.uvicorn:HttpToolsProtocol --no-proxy-headers --ssl-… app:app

needs the TLS options on the command line; `secmiddleware run` takes them from the file.
"""

from __future__ import annotations

import json
import os
import ssl
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import cache
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Final, Literal

import uvicorn
from uvicorn.config import LOGGING_CONFIG
from uvicorn.protocols.http.h11_impl import H11Protocol as _StockH11

from secmiddleware.asgi import App, Receive, Scope, SecMiddleware, Send
from secmiddleware.messages import PRESENTED_KEY, Presented
from secmiddleware.security import SecurityManager
from secmiddleware.servers.target import load_app

if TYPE_CHECKING:
    import asyncio

    _Stock = asyncio.Protocol
else:
    _Stock = object

# Read by the worker processes: what they serve has to reach them by name, since uvicorn starts them afresh.
_SERVING: Final = "_SECMIDDLEWARE_SERVING"


def presented_on(transport: Any) -> Presented | None:
    """What the client of a TLS transport presented, or None: no TLS, or no certificate.

    The chain is as sent, leaf first and then apart. Before Python 3.13 it has no public name; a resumed
    session has no chain at all (our contexts allow none).
    """
    connection = transport.get_extra_info("ssl_object")
    if connection is None:
        return None
    leaf = connection.getpeercert(binary_form=True)
    if not leaf:
        return None
    return Presented(leaf, tuple(der for der in _chain_of(connection) if der != leaf))


def _chain_of(connection: Any) -> list[bytes]:
    if hasattr(connection, "get_unverified_chain"):  # 3.13
        return list(connection.get_unverified_chain() or ())
    import _ssl  # the encoding constant has no public name where the chain has none

    chain = connection._sslobj.get_unverified_chain() or ()  # noqa: SLF001  (the only way there)
    return [certificate.public_bytes(_ssl.ENCODING_DER) for certificate in chain]


class _CertifiedApp:
    """The app of one connection: it finds in each scope what this connection presented."""

    def __init__(self, app: App, presented: Presented | None) -> None:
        self._app = app
        self._presented = presented

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope[PRESENTED_KEY] = self._presented
        await self._app(scope, receive, send)


class _HandsOver(_Stock):
    """Mixed into a protocol class of uvicorn, HTTP or websocket, before it."""

    app: App
    ws_protocol_class: Any

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self.app = _CertifiedApp(self.app, presented_on(transport))
        websocket = getattr(self, "ws_protocol_class", None)
        if websocket is not None:
            self.ws_protocol_class = _handing_over(websocket)


@cache
def _handing_over(stock: type) -> type:
    return type(stock.__name__, (_HandsOver, stock), {})


class H11Protocol(_HandsOver, _StockH11):
    """uvicorn's h11 protocol, which hands over the client certificate."""


def __getattr__(name: str) -> type:
    """`HttpToolsProtocol`, where httptools is installed: the same for uvicorn's faster protocol."""
    if name == "HttpToolsProtocol":
        from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

        return _handing_over(HttpToolsProtocol)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


@dataclass(frozen=True, slots=True)
class Serving:
    """What is to be served and how; all of it fits into an environment variable."""

    target: str
    """`module:attribute`."""
    config: str
    host: str = "127.0.0.1"
    port: int = 8443
    workers: int = 1
    factory: bool = False
    app_dir: str = "."
    http: Literal["auto", "h11", "httptools"] = "auto"
    loop: Literal["auto", "asyncio", "uvloop"] = "auto"
    log_level: str = "info"


def serve(serving: Serving) -> None:
    """Serve until a signal comes. TLS as the file says; the peer's address is never a header's word.

    Where the start fails, the process is ended with uvicorn's exit status, 3.
    """
    os.environ[_SERVING] = json.dumps(asdict(serving))
    uvicorn.run(
        f"{__name__}:application",
        factory=True,
        app_dir=serving.app_dir,
        host=serving.host,
        port=serving.port,
        workers=serving.workers,
        http=_protocol(serving.http),
        loop=serving.loop,
        lifespan="on",
        proxy_headers=False,
        server_header=False,
        log_config=_LOGGING,
        log_level=serving.log_level,
        ssl_context_factory=tls_context,
    )


# Ours beside uvicorn's: the audit log in pure JSON lines, for whoever collects them.
_LOGGING: Final = {
    **LOGGING_CONFIG,
    "formatters": {**LOGGING_CONFIG["formatters"], "bare": {"format": "%(message)s"}},
    "handlers": {
        **LOGGING_CONFIG["handlers"],
        "audit": {"class": "logging.StreamHandler", "formatter": "bare", "stream": "ext://sys.stderr"},
    },
    "loggers": {
        **LOGGING_CONFIG["loggers"],
        "secmiddleware": {"handlers": ["default"], "level": "INFO", "propagate": False},
        "secmiddleware.audit": {"handlers": ["audit"], "level": "INFO", "propagate": False},
    },
}


def _protocol(http: str) -> str:
    """The protocol class by name: a worker process looks it up anew."""
    slower = http == "h11" or (http == "auto" and find_spec("httptools") is None)
    return f"{__name__}:{'H11Protocol' if slower else 'HttpToolsProtocol'}"


@cache
def _served() -> tuple[Serving, SecurityManager]:
    """What this process serves, and the one manager of it."""
    serving = Serving(**json.loads(os.environ[_SERVING]))
    return serving, SecurityManager.from_config(serving.config)


def application() -> SecMiddleware:
    """The wrapped app, in the process that serves it."""
    serving, manager = _served()
    return SecMiddleware(load_app(serving.target, factory=serving.factory), config=manager)


def tls_context(_config: uvicorn.Config, _default: Callable[[], ssl.SSLContext]) -> ssl.SSLContext:
    """The TLS context of the served settings (uvicorn's `ssl_context_factory`)."""
    return _served()[1].certificates.server_context()
