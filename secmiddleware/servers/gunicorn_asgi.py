"""gunicorn with ASGI apps: workers that hand over the client certificate.

`asgi` is gunicorn's own worker for them, `uvicorn` the one of the package uvicorn-worker. Both run asyncio or
uvloop, speak HTTP/1.1, HTTP/2 where asked to, and websockets, and keep the TLS connection from the app: the
workers here are these, with the one step more that each connection needs.

`options` is for those who start gunicorn themselves. For WSGI apps there is `secmiddleware.servers.gunicorn`.
"""

from __future__ import annotations

import os
import ssl
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any, Final, Literal
from urllib.parse import unquote_to_bytes

from secmiddleware.certificates.contexts import HTTP_1, HTTP_2
from secmiddleware.parts import certificates_of
from secmiddleware.scopes import Scope
from secmiddleware.servers.certified import MountedApp
from secmiddleware.servers.gunicorn import DISBELIEF
from secmiddleware.servers.readiness import check_serveable
from secmiddleware.servers.spots import Server
from secmiddleware.settings import Settings, load

_GUNICORN: Final = Server("gunicorn", "27", "28")
_UVICORN_WORKER: Final = Server("uvicorn-worker", "0.4", "0.5")

_CLASSES: Final = {"asgi": "AsgiWorker", "uvicorn": "UvicornWorker"}


def options(
    config: str | os.PathLike[str] | Mapping[str, Any],
    *,
    worker: Literal["asgi", "uvicorn"] = "asgi",
    workers: int = 1,
    http2: bool = False,
) -> dict[str, Any]:
    """The settings of gunicorn that go with these of ours; a gunicorn.conf.py does `globals().update(…)`.

    TLS as `[mtls]` says, no session resumed, the lifespan, and no belief in a header that tells of a proxy, a
    scheme or a prefix. A `[service] mount` is told to the app as `root_path`; the targets of requests do not
    have it. Address, logging and the rest are the caller's, as long as none of these is changed.

    Args:
        config: the path of the file, or the mapping, that the app's SecMiddleware has too.
        worker: gunicorn's own worker for ASGI, or uvicorn's.
        workers: how many processes will serve.
        http2: whether HTTP/2 is spoken beside HTTP/1.1; needs h2, or zttp for uvicorn.

    Raises:
        ConfigError: the settings cannot be used, or not by so many processes.
        CertificateError: the server's certificate cannot be used.
        HookError: what is installed is not what the worker fits to.
    """
    settings = load(config)
    check_serveable(settings, workers)
    __getattr__(_CLASSES[worker])  # which looks whether it fits
    tls = {
        # gunicorn takes these for the sign that there is TLS; they are read by our context.
        "certfile": str(settings.mtls.certificate),
        "keyfile": str(settings.mtls.key),
        "ssl_context": _tls_of(settings, HTTP_2 if http2 else HTTP_1),
    }
    return {
        **DISBELIEF,
        "workers": workers,
        "worker_class": f"{__name__}.{_CLASSES[worker]}",
        **({} if settings.mtls.certificate is None else tls),
        "http_protocols": "h2,h1" if http2 else "h1",
        "asgi_lifespan": "on",
        "root_path": settings.service.mount,
    }


def _tls_of(settings: Settings, alpn: tuple[str, ...]) -> Callable[[Any, Any], ssl.SSLContext]:
    """The hook that a worker asks once, for the context of all its connections."""

    def ssl_context(_config: Any, _default: Any) -> ssl.SSLContext:
        return certificates_of(settings.mtls).server_context(alpn)

    return ssl_context


def __getattr__(name: str) -> type:
    """`AsgiWorker` and `UvicornWorker`, where what they are made of is installed and fits."""
    if name == "AsgiWorker":
        return _asgi_worker()
    if name == "UvicornWorker":
        return _uvicorn_worker()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


class _App(MountedApp):
    """An app whose paths are decoded, as ASGI has it; gunicorn leaves those of HTTP/2 as they came."""

    async def __call__(self, scope: Scope, *rest: Any) -> None:
        """Call the app with a scope that is complete."""
        if scope.get("http_version") == "2":
            scope["path"] = unquote_to_bytes(scope["raw_path"]).decode("utf-8", "replace")
        await super().__call__(scope, *rest)


@cache
def _asgi_worker() -> type:
    _GUNICORN.check_version()
    from gunicorn import sock  # type: ignore[import-untyped]
    from gunicorn.asgi import protocol  # type: ignore[import-untyped]
    from gunicorn.workers import gasgi  # type: ignore[import-untyped]

    _GUNICORN.check_is(gasgi, "ASGIProtocol", protocol.ASGIProtocol)
    _GUNICORN.check_parameters(gasgi.ASGIProtocol.__init__, "self", "worker")
    _GUNICORN.check_parameters(gasgi.ASGIProtocol.connection_made, "self", "transport")
    _GUNICORN.check_mentions(gasgi.ASGIProtocol.__init__, "app")
    _GUNICORN.check_mentions(gasgi.ASGIWorker._serve, "ASGIProtocol", "_get_ssl_context")  # noqa: SLF001

    class Protocol(gasgi.ASGIProtocol):  # type: ignore[misc]
        app: Any

        def connection_made(self, transport: Any) -> None:
            self.app = _App(self.app, transport)
            super().connection_made(transport)

    class AsgiWorker(gasgi.ASGIWorker):  # type: ignore[misc]
        """gunicorn's worker for ASGI apps, which hands over the client certificate."""

        _tls: ssl.SSLContext | None = None

        def load_wsgi(self) -> None:
            """Load the app; a certificate that cannot be used ends the start here, which gunicorn hears."""
            super().load_wsgi()
            gasgi.ASGIProtocol = Protocol
            if self.cfg.is_ssl:
                self._tls = sock.ssl_context(self.cfg)

        def _get_ssl_context(self) -> ssl.SSLContext | None:
            # gunicorn's own would go on without TLS where there is an error.
            return self._tls

    return AsgiWorker


@cache
def _uvicorn_worker() -> type:
    _UVICORN_WORKER.check_version()
    from gunicorn import sock
    from uvicorn import Config
    from uvicorn_worker import UvicornWorker as Stock  # type: ignore[import-untyped]

    from secmiddleware.servers.uvicorn import protocol_name

    _UVICORN_WORKER.check_mentions(Stock.__init__, "CONFIG_KWARGS", "Config", "config")
    _UVICORN_WORKER.check_mentions(Stock._serve, "config")  # noqa: SLF001

    class UvicornWorker(Stock):  # type: ignore[misc]
        """uvicorn as a worker of gunicorn, which hands over the client certificate."""

        CONFIG_KWARGS = {  # noqa: RUF012  (as the stock one has it)
            "http": protocol_name("auto"),
            "lifespan": "on",
            "proxy_headers": False,
            "server_header": False,
        }
        config: Config

        def __init__(self, *arguments: Any, **named: Any) -> None:
            super().__init__(*arguments, **named)
            self.config.root_path = self.cfg.root_path
            if "h2" in self.cfg.http_protocols:
                self.config.http = protocol_name("zttp")

        def load_wsgi(self) -> None:
            """Load the app; a certificate that cannot be used ends the start here, which gunicorn hears."""
            super().load_wsgi()
            if self.cfg.is_ssl:
                context = sock.ssl_context(self.cfg)
                self.config.ssl_context_factory = lambda _config, _default: context

    return UvicornWorker
