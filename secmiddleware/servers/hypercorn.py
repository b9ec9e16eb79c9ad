"""hypercorn: its asyncio workers hand over the client certificate, over HTTP/1.1, HTTP/2 and websockets.

hypercorn keeps the TLS connection from the app and has no place for a hook: the class that it makes of each
connection is replaced by one with one step more. That is done by what it asks for its TLS context, wherever
that is made or unpickled: in the process of the program, and in that of each worker, which hypercorn starts
afresh with the settings and nothing else.

`options` is for those who start hypercorn themselves.
"""

from __future__ import annotations

import asyncio
import os
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

import hypercorn.asyncio.run
from hypercorn.asyncio.tcp_server import TCPServer as _StockTcp
from hypercorn.asyncio.udp_server import UDPServer as _StockUdp

from secmiddleware.certificates.contexts import HTTP_1, HTTP_2
from secmiddleware.parts import certificates_of
from secmiddleware.servers.certified import MountedApp
from secmiddleware.servers.readiness import check_serveable
from secmiddleware.servers.spots import HookError, Server
from secmiddleware.settings import load

_HYPERCORN: Final = Server("hypercorn", "0.18", "0.19")

# The module whose globals are the spots.
_running: Final[Any] = hypercorn.asyncio.run

Config = str | os.PathLike[str] | Mapping[str, Any]


def options(
    config: Config, *, workers: int = 1, loop: Literal["asyncio", "uvloop"] = "asyncio", http2: bool = True
) -> dict[str, Any]:
    """What hypercorn is told to go with these settings of ours.

    For `hypercorn.config.Config.from_mapping(…)`; the file of `hypercorn --config file:PATH` does
    `globals().update(…)`. TLS as `[mtls]` says, no session resumed; the hook that hands over the certificate.
    hypercorn believes in no forwarded header by itself. A `[service] mount` is told to the app as
    `root_path`; the targets of requests do not have it. Address, logging and the rest are the caller's, as
    long as none of these is changed.

    Args:
        config: the path of the file, or the mapping, that the app's SecMiddleware has too.
        workers: how many processes will serve.
        loop: which event loop they run; never trio.
        http2: whether HTTP/2 is spoken beside HTTP/1.1.

    Raises:
        ConfigError: the settings cannot be used, or not by so many processes.
        CertificateError: the server's certificate cannot be used.
        HookError: this hypercorn is not one that the hook fits to.
    """
    settings = load(config)
    check_serveable(settings, workers)
    tls = {
        # hypercorn takes these for the sign that there is TLS; they are read by our context.
        "certfile": str(settings.mtls.certificate),
        "keyfile": str(settings.mtls.key),
    }
    return {
        **({} if settings.mtls.certificate is None else tls),
        "create_ssl_context": Hook(config, HTTP_2 if http2 else HTTP_1),
        "include_server_header": False,
        "root_path": settings.service.mount,
        "worker_class": loop,
        "workers": workers,
    }


@dataclass(frozen=True)
class Hook:
    """What hypercorn asks for the TLS context of the settings; it is where this is that the hook is, too."""

    config: Config
    alpn: tuple[str, ...]

    def __post_init__(self) -> None:
        _hook()

    def __reduce__(self) -> tuple[type[Hook], tuple[Config, tuple[str, ...]]]:
        """Made anew in a worker."""
        return Hook, (self.config, self.alpn)

    def __call__(self) -> ssl.SSLContext:
        """The context, in the process that serves."""
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            raise HookError(
                "hypercorn's trio worker cannot hand over client certificates: choose `--worker-class "
                "asyncio` or uvloop, or serve with `secmiddleware run`"
            ) from None
        return certificates_of(load(self.config).mtls).server_context(self.alpn)


def _hook() -> None:
    """Have each connection hand over what it presented; once in a process is enough."""
    if _running.TCPServer is not _Certified:
        _check_fits()
        _running.TCPServer = _Certified
        _running.UDPServer = _NoQuic


def _check_fits() -> None:
    """Raises HookError where the class of a connection is not made, or not used, as it was."""
    _HYPERCORN.check_version()
    _HYPERCORN.check_is(_running, "TCPServer", _StockTcp)
    _HYPERCORN.check_is(_running, "UDPServer", _StockUdp)
    made_of = ("self", "app", "loop", "config", "context", "state")
    _HYPERCORN.check_parameters(_StockTcp.__init__, *made_of, "reader", "writer")
    _HYPERCORN.check_parameters(_StockUdp.__init__, *made_of)
    _HYPERCORN.check_mentions(_StockTcp.run, "app", "writer")
    _HYPERCORN.check_mentions(_running.worker_serve, "TCPServer", "UDPServer", "create_ssl_context")


class _Certified(_StockTcp):
    """A connection whose app is told what it presented."""

    def __init__(
        self, app: Any, loop: Any, config: Any, context: Any, state: Any, reader: Any, writer: Any
    ) -> None:
        app = MountedApp(app, writer)
        super().__init__(app, loop, config, context, state, reader, writer)


class _NoQuic(_StockUdp):
    """HTTP/3 has its TLS elsewhere: nobody could be recognised over it."""

    def __init__(self, app: Any, loop: Any, config: Any, context: Any, state: Any) -> None:
        if isinstance(config.create_ssl_context, Hook):
            raise HookError("over QUIC no client certificate is handed over: take `quic_bind` away")
        super().__init__(app, loop, config, context, state)
