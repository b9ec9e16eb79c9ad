"""uvicorn: protocol classes that hand over the client certificate, and serving with them.

uvicorn keeps the TLS connection from the app. The classes here are the stock ones plus one step: when a
connection is made, the app of that connection is wrapped, so that every scope of it, a websocket's too, holds
what the connection presented.

`options` is for those who start uvicorn themselves; `serve` is what `secmiddleware run` does.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import socket
import ssl
import sys
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cache, partial
from importlib.util import find_spec
from multiprocessing import parent_process
from typing import TYPE_CHECKING, Any, Final, Literal

import uvicorn
from uvicorn.config import LOGGING_CONFIG, STARTUP_FAILURE
from uvicorn.protocols.http.h11_impl import H11Protocol as _StockH11
from uvicorn.supervisors import Multiprocess

from secmiddleware.asgi import SecMiddleware
from secmiddleware.certificates.contexts import HTTP_1, HTTP_2
from secmiddleware.errors import SecMiddlewareError
from secmiddleware.parts import certificates_of
from secmiddleware.scopes import App, Message, Receive, Scope, Send
from secmiddleware.security import SecurityManager
from secmiddleware.servers.certified import CertifiedApp
from secmiddleware.servers.readiness import check_serveable
from secmiddleware.servers.spots import Server
from secmiddleware.servers.target import load_app
from secmiddleware.settings import load
from secmiddleware.telemetry.exporting import start_exporting, wanted

if TYPE_CHECKING:

    class _Stock(asyncio.Protocol):
        def shutdown(self) -> None: ...
else:
    _Stock = object

logger = logging.getLogger("secmiddleware.servers")

# The classes that `--http` and `--ws` name are public; `ssl_context_factory` came with this one.
_UVICORN: Final = Server("uvicorn", "0.47")
# Its HTTP/2 is young and has no public place for a hook.
_UVICORN_WITH_ZTTP: Final = Server("uvicorn", "0.54", "0.55")
_ZTTP: Final = Server("zttp", "0.0.35", "0.1")

# How long a connection that is closed may take to say goodbye.
_FAREWELL_SECONDS: Final = 0.5

# Read by the worker processes: what they serve has to reach them by name, since uvicorn starts them afresh.
# Its name is unlike those of settings, among which it would pass for a misspelt one.
_SERVING: Final = "_SMW_SERVING"


class _HandsOver(_Stock):
    """Mixed into a protocol class of uvicorn, HTTP or websocket, before it."""

    app: App
    loop: asyncio.AbstractEventLoop
    transport: Any
    ws_protocol_class: Any

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self.app = CertifiedApp(self.app, transport)
        websocket = getattr(self, "ws_protocol_class", None)
        if websocket is not None:
            self.ws_protocol_class = _handing_over(websocket)

    def shutdown(self) -> None:
        super().shutdown()
        if self.transport.is_closing():
            # A client that idles does not answer the farewell of TLS, and loops wait for that half a minute.
            self.loop.call_later(_FAREWELL_SECONDS, self.transport.abort)


@cache
def _handing_over(stock: type) -> type:
    return type(stock.__name__, (_HandsOver, stock), {})


def _check_fits(stock: Any, *makes_requests: Callable[..., Any]) -> None:
    """Raises HookError where a protocol looks elsewhere for its app or its websockets than we put them."""
    _UVICORN.check_version()
    _UVICORN.check_parameters(stock.connection_made, "self", "transport")
    _UVICORN.check_mentions(stock.__init__, "app", "ws_protocol_class")
    for function in makes_requests:
        _UVICORN.check_mentions(function, "app")
    _UVICORN.check_mentions(stock.handle_websocket_upgrade, "ws_protocol_class")


_check_fits(_StockH11, _StockH11.handle_events)


class H11Protocol(_HandsOver, _StockH11):
    """uvicorn's h11 protocol, which hands over the client certificate."""


def __getattr__(name: str) -> type:
    """`HttpToolsProtocol` and `ZttpProtocol`, where httptools and zttp are installed: the same for them."""
    if name == "HttpToolsProtocol":
        return _httptools_protocol()
    if name == "ZttpProtocol":
        return _zttp_protocol()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


@cache
def _httptools_protocol() -> type:
    from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol as _StockHttpTools

    _check_fits(_StockHttpTools, _StockHttpTools.on_headers_complete)

    class HttpToolsProtocol(_HandsOver, _StockHttpTools):
        """uvicorn's httptools protocol, which hands over the client certificate, and the target as it came.

        The stock one hands over what is left of it without a fragment, or without a scheme and an authority:
        with that, `/a#b` and `http://x/a` could not be told from `/a`, and refused.
        """

        def on_headers_complete(self) -> None:
            super().on_headers_complete()
            if "raw_path" in self.scope:  # else a websocket's protocol takes over, and reads the target anew
                self.scope["raw_path"] = self.root_path.encode("ascii") + self.url.partition(b"?")[0]

    return HttpToolsProtocol


@cache
def _zttp_protocol() -> type:
    _ZTTP.check_version()
    _UVICORN_WITH_ZTTP.check_version()
    from uvicorn.protocols.http.auto_zttp_impl import AutoZttpProtocol as _StockZttp
    from uvicorn.protocols.http.zttp_h2_impl import ZttpH2Protocol as _StockHttp2
    from uvicorn.protocols.http.zttp_impl import ZttpProtocol as _StockHttp1

    fits = _UVICORN_WITH_ZTTP
    fits.check_parameters(_StockZttp._switch, "self", "http2", "initial_data")  # noqa: SLF001
    fits.check_mentions(_StockZttp.connection_made, "_switch")
    fits.check_mentions(_StockZttp.data_received, "_switch")
    fits.check_mentions(_StockHttp2.__init__, "app")
    fits.check_mentions(_StockHttp2.handle_request, "app")
    _check_fits(_StockHttp1, _StockHttp1.handle_events)
    over_http1, over_http2 = _handing_over(_StockHttp1), _handing_over(_StockHttp2)

    class ZttpProtocol(_StockZttp):
        """uvicorn's zttp protocols for HTTP/1.1 and HTTP/2, which hand over the client certificate."""

        def _switch(self, http2: bool, initial_data: bytes = b"") -> None:
            protocol = (over_http2 if http2 else over_http1)(
                config=self.config,
                server_state=self.server_state,
                app_state=self.app_state,
                _loop=self.loop,
            )
            self.transport.set_protocol(protocol)
            protocol.connection_made(self.transport)
            if initial_data:
                protocol.data_received(initial_data)

    return ZttpProtocol


Http = Literal["auto", "h11", "httptools", "zttp"]


def options(
    config: str | os.PathLike[str] | Mapping[str, Any], *, http: Http = "auto", workers: int = 1
) -> dict[str, Any]:
    """The keyword arguments of `uvicorn.run`, or `uvicorn.Config`, that go with these settings.

    A protocol class that hands over the certificate, TLS as `[mtls]` says (none where a proxy ends it and
    `certificate` is not given), the lifespan, and no belief in
    forwarded headers. A `[service] mount` is told to the app as `root_path`; the targets of requests do not
    have it (as with uvicorn's `--root-path`). Host, port and the rest are the caller's, as long as none of
    these is changed.

    Args:
        config: the path of the file, or the mapping, that the app's SecMiddleware has too.
        http: which implementation of HTTP; `auto` is httptools where it is installed, zttp speaks HTTP/2 too.
        workers: how many processes will serve.

    Raises:
        ConfigError: the settings cannot be used, or not by so many processes.
        CertificateError: the server's certificate cannot be used.
    """
    settings = load(config)
    check_serveable(settings, workers)
    tls = settings.mtls.certificate is not None
    if http == "zttp":
        _zttp_protocol()  # which looks whether it fits
    return {
        "http": protocol_name(http),
        "lifespan": "on",
        "proxy_headers": False,
        "root_path": settings.service.mount,
        "server_header": False,
        "ssl_context_factory": partial(_tls_context, config, HTTP_2 if http == "zttp" else HTTP_1)
        if tls
        else None,
        "workers": workers,
    }


def _tls_context(
    config: str | os.PathLike[str] | Mapping[str, Any],
    alpn: tuple[str, ...],
    _config: uvicorn.Config,
    _default: Callable[[], ssl.SSLContext],
) -> ssl.SSLContext:
    """The TLS context of the settings (uvicorn's `ssl_context_factory`), in whatever process serves."""
    with _ends_a_worker():
        return certificates_of(load(config).mtls).server_context(alpn)


@dataclass(frozen=True, slots=True)
class Serving:
    """What is to be served and how; all of it fits into an environment variable."""

    target: str
    """`module:attribute`."""
    config: str
    host: str = "127.0.0.1"
    port: int = 8443
    uds: str | None = None
    """The path of a unix socket, in place of host and port."""
    workers: int = 1
    factory: bool = False
    app_dir: str = "."
    http: Http = "auto"
    loop: Literal["auto", "asyncio", "uvloop"] = "auto"
    log_level: str = "info"


def serve(serving: Serving) -> None:
    """Serve until a signal comes. TLS as the file says; the peer's address is never a header's word.

    Raises SecMiddlewareError where the settings, the server's certificate or, with one worker, the app cannot
    be used. Where the start fails after that, in whatever process, all of them end with uvicorn's exit
    status, 3.
    """
    os.environ[_SERVING] = json.dumps(asdict(serving))
    _served.cache_clear()
    chosen = {
        **options(serving.config, http=serving.http, workers=serving.workers),
        "factory": True,
        "host": serving.host,
        "port": serving.port,
        "uds": serving.uds,
        "loop": serving.loop,
        "log_config": _LOGGING,
        "log_level": serving.log_level,
    }
    if serving.workers > 1:
        _serve_by_many(serving.app_dir, chosen)
    else:
        uvicorn.run(f"{__name__}:application", app_dir=serving.app_dir, **chosen)


def _serve_by_many(app_dir: str, chosen: dict[str, Any]) -> None:
    """As `uvicorn.run` does it, but for the exit status, which is 0 there even if no worker could start."""
    sys.path.insert(0, app_dir)
    config = uvicorn.Config(f"{__name__}:application", **chosen)
    listening = config.bind_socket()
    # asyncio does it for sockets of its own making only; without, each response waits 40 ms for an ACK.
    if listening.family != socket.AF_UNIX:
        listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    supervisor = Multiprocess(config, sockets=[listening])
    supervisor.run()
    if any(worker.process.exitcode == STARTUP_FAILURE for worker in supervisor.processes):
        sys.exit(STARTUP_FAILURE)


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


def protocol_name(http: Http) -> str:
    """The protocol class by name: a worker process looks it up anew."""
    if http == "zttp":
        return f"{__name__}:ZttpProtocol"
    slower = http == "h11" or (http == "auto" and find_spec("httptools") is None)
    return f"{__name__}:{'H11Protocol' if slower else 'HttpToolsProtocol'}"


@cache
def _served() -> tuple[Serving, SecurityManager]:
    """What this process serves, and the one manager of it."""
    serving = Serving(**json.loads(os.environ[_SERVING]))
    return serving, SecurityManager.from_config(serving.config)


def application() -> App:
    """The wrapped app, in the process that serves it."""
    with _ends_a_worker():
        serving, manager = _served()
        app = _Lenient(load_app(serving.target, factory=serving.factory))
        shell = SecMiddleware(app, config=manager)
        settings = manager.settings
        if settings.telemetry.traces == "off" or not wanted():
            return shell
        return _Exporting(shell, settings.service.name)


class _Lenient:
    """An app that leaves a lifespan which it does not speak unanswered, where it would raise: Django does."""

    def __init__(self, app: App) -> None:
        self._app = app

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        speak = self._lifespan if scope["type"] == "lifespan" else self._app
        return speak(scope, receive, send)

    async def _lifespan(self, scope: Scope, receive: Receive, send: Send) -> None:
        answered = False

        async def hear(message: Message) -> None:
            nonlocal answered
            answered = True
            await send(message)

        try:
            await self._app(scope, receive, hear)
        except Exception:
            if answered:
                raise
            logger.info("the app does not speak the lifespan protocol; it is answered for it")


class _Exporting:
    """An app with an OpenTelemetry SDK from its startup, unless it sets up its own, to its shutdown."""

    def __init__(self, app: App, service: str) -> None:
        self._app = app
        self._service = service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._lifespan(scope, receive, send)
        else:
            await self._app(scope, receive, send)

    async def _lifespan(self, scope: Scope, receive: Receive, send: Send) -> None:
        stop: Callable[[], None] | None = None

        async def hear(message: Message) -> None:
            nonlocal stop
            match message["type"]:
                case "lifespan.startup.complete":
                    stop = start_exporting(self._service)
                case "lifespan.shutdown.complete" | "lifespan.shutdown.failed" if stop is not None:
                    # Before the server hears of it and ends the process.
                    await asyncio.to_thread(stop)
            await send(message)

        await self._app(scope, receive, hear)


@contextmanager
def _ends_a_worker() -> Iterator[None]:
    """Where a worker cannot start, it ends such that its parent starts no other, which could not either."""
    try:
        yield
    except Exception as error:
        if parent_process() is None:
            if isinstance(error, TypeError):  # which uvicorn takes for one of calling `application`
                logger.exception("the app cannot be loaded")
            raise
        # An app that cannot be imported shows where; our own errors say it in words.
        logger.error("%s", error, exc_info=not isinstance(error, SecMiddlewareError))
        sys.exit(STARTUP_FAILURE)
