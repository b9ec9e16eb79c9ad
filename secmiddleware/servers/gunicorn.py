"""gunicorn: how it hands over the client certificate, and serving WSGI apps with it.

The sync and gthread workers of gunicorn hand over the connection itself, as `gunicorn.socket`, and the shell
reads there what it presented. What is left to say is in gunicorn's settings: TLS in our contexts, and belief
in no header that a client could have sent.

`options` is for those who start gunicorn themselves; `serve` is what `secmiddleware run` does.
"""

from __future__ import annotations

import logging
import logging.config
import os
import socket
import ssl
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, Final
from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

from gunicorn.app.base import BaseApplication  # type: ignore[import-untyped]
from gunicorn.arbiter import Arbiter  # type: ignore[import-untyped]
from gunicorn.errors import HaltServer  # type: ignore[import-untyped]

from secmiddleware.errors import SecMiddlewareError
from secmiddleware.parts import certificates_of
from secmiddleware.security import SecurityManager
from secmiddleware.servers.readiness import check_serveable
from secmiddleware.servers.target import load_app
from secmiddleware.settings import Settings, load
from secmiddleware.telemetry.exporting import start_exporting, wanted
from secmiddleware.wsgi import SecMiddleware

if TYPE_CHECKING:
    _Stock = ssl.SSLSocket
else:
    _Stock = object

logger = logging.getLogger("secmiddleware.servers")

DEFAULT_THREADS: Final = 8
"""Requests that a worker serves at once."""

# The longest request line that gunicorn can be told to read; its own default is half of that.
_REQUEST_LINE_BYTES: Final = 8190

DISBELIEF: Final[dict[str, Any]] = {
    "forwarded_allow_ips": "",
    "forwarder_headers": "",
    "secure_scheme_headers": {},
    "header_map": "drop",
    "limit_request_line": _REQUEST_LINE_BYTES,
}
"""Settings of gunicorn for any of its workers: no header tells of a proxy, a scheme or a prefix."""

# A client who says nothing holds up a thread, or all of a sync worker, which gunicorn ends after 30 s.
_SILENCE_SECONDS: Final = 20.0


def options(
    config: str | os.PathLike[str] | Mapping[str, Any], *, workers: int = 1, threads: int = DEFAULT_THREADS
) -> dict[str, Any]:
    """The settings of gunicorn that go with these of ours; a gunicorn.conf.py does `globals().update(…)`.

    TLS as `[mtls]` says, no session resumed, HTTP/1.1, and no belief in a header that tells of a proxy, a
    scheme or a prefix. Address, logging and the rest are the caller's, as long as none of these is changed.

    Args:
        config: the path of the file, or the mapping, that the app's SecMiddleware has too.
        workers: how many processes will serve.
        threads: how many requests each serves at once; 1 is gunicorn's sync worker, more its gthread.

    Raises:
        ConfigError: the settings cannot be used, or not by so many processes.
        CertificateError: the server's certificate cannot be used.
    """
    settings = load(config)
    check_serveable(settings, workers)
    return _options(settings, workers, threads)


def _options(settings: Settings, workers: int, threads: int) -> dict[str, Any]:
    tls = {
        # gunicorn takes these for the sign that there is TLS; they are read by our context.
        "certfile": str(settings.mtls.certificate),
        "keyfile": str(settings.mtls.key),
        "ssl_context": _tls_of(settings),
    }
    return {
        "workers": workers,
        "threads": threads,
        "worker_class": "sync" if threads == 1 else "gthread",
        **({} if settings.mtls.certificate is None else tls),
        # The connection makes it (`_Connection`): where it fails, gunicorn needs one that it can close.
        "do_handshake_on_connect": False,
        **DISBELIEF,
    }


def _tls_of(settings: Settings) -> Callable[[Any, Any], _Door]:
    """The hook that gunicorn asks for each connection: here one context serves all of a process."""

    @cache
    def door(_process: int) -> _Door:
        return _Door(certificates_of(settings.mtls).server_context())

    def ssl_context(_config: Any, _default: Any) -> _Door:
        return door(os.getpid())

    return ssl_context


class _Door:
    """The TLS context, as far as gunicorn uses one."""

    def __init__(self, context: ssl.SSLContext) -> None:
        self._context = context
        self._kind: type | None = None

    def wrap_socket(self, raw: socket.socket, **options: Any) -> ssl.SSLSocket:
        """The connection, its handshake still to come."""
        connection = self._context.wrap_socket(raw, **options)
        if self._kind is None:
            self._kind = type("Connection", (_Connection, type(connection)), {})
        connection.__class__ = self._kind
        return connection


class _Connection(_Stock):
    """Mixed into a TLS socket: it waits for nobody who is silent, and never reads before its handshake.

    The sync worker leaves the handshake to the first read, which OpenSSL would make unseen: a resumed session
    would not be noticed.
    """

    _shaken = False
    _given_up = False

    def do_handshake(self, block: bool = False) -> None:  # noqa: FBT002  (as a socket has it)
        """As a socket does it; ssl.SSLError also where the client takes too long."""
        self.settimeout(_SILENCE_SECONDS)
        try:
            super().do_handshake(block)
        except TimeoutError as late:
            raise ssl.SSLError(ssl.SSL_ERROR_EOF, "the client was silent during the handshake") from late
        except OSError:
            self._given_up = True
            raise
        finally:
            self.settimeout(None)
        self._shaken = True

    def recv(self, buflen: int = 1024, flags: int = 0) -> bytes:
        """As a socket does it; nothing, and from then on for ever, where nothing comes in time."""
        if self._given_up:
            return b""
        if not self._shaken:
            self.do_handshake()
        if self.gettimeout() is not None:
            return super().recv(buflen, flags)
        self.settimeout(_SILENCE_SECONDS)
        try:
            return super().recv(buflen, flags)
        except TimeoutError:
            self._given_up = True
            return b""
        finally:
            self.settimeout(None)

    def setblocking(self, flag: bool) -> None:
        """As a socket does it; of one that is closed, nothing: gunicorn would count its end twice."""
        if self.fileno() != -1:
            super().setblocking(flag)


@dataclass(frozen=True, slots=True)
class Serving:
    """What is to be served and how."""

    target: str
    """`module:attribute`."""
    config: str
    host: str = "127.0.0.1"
    port: int = 8443
    uds: str | None = None
    """The path of a unix socket, in place of host and port."""
    workers: int = 1
    threads: int = DEFAULT_THREADS
    preload: bool = False
    """Whether the app is imported once, before the workers are forked."""
    factory: bool = False
    app_dir: str = "."
    log_level: str = "info"


def serve(serving: Serving) -> None:
    """Serve until a signal comes; does not return. TLS as the file says; no header is believed.

    Raises SecMiddlewareError where the settings, the server's certificate or, with `preload`, the app cannot
    be used. Where a worker cannot start after that, all of them end with gunicorn's exit status, 3.
    """
    settings = load(serving.config)
    check_serveable(settings, serving.workers)
    logging.config.dictConfig(_LOGGING)
    sys.path.insert(0, serving.app_dir)
    try:
        _Application(serving, SecurityManager(settings)).run()
    except HaltServer as halted:
        # A second worker that could not start, while gunicorn was ending because of the first.
        sys.exit(halted.exit_status)


# Ours beside gunicorn's: the audit log in pure JSON lines, for whoever collects them.
_LOGGING: Final = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {
        "worded": {
            "format": "[%(asctime)s] [%(process)d] [%(levelname)s] %(message)s",
            "datefmt": "%Y-%m-%d %H:%M:%S %z",
        },
        "bare": {"format": "%(message)s"},
    },
    "handlers": {
        "default": {"class": "logging.StreamHandler", "formatter": "worded", "stream": "ext://sys.stderr"},
        "audit": {"class": "logging.StreamHandler", "formatter": "bare", "stream": "ext://sys.stderr"},
    },
    "loggers": {
        "secmiddleware": {"handlers": ["default"], "level": "INFO", "propagate": False},
        "secmiddleware.audit": {"handlers": ["audit"], "level": "INFO", "propagate": False},
    },
}


class _Application(BaseApplication):  # type: ignore[misc]
    """The wrapped app in gunicorn: the manager is made once, and started in each worker after its fork."""

    def __init__(self, serving: Serving, manager: SecurityManager) -> None:
        self._serving = serving
        self._manager = manager
        self._master = os.getpid()
        self._stop_exporting: Callable[[], None] | None = None
        super().__init__()

    def load_config(self) -> None:
        """Set what gunicorn is told; called by gunicorn."""
        serving = self._serving
        host = f"[{serving.host}]" if ":" in serving.host else serving.host
        chosen = {
            **_options(self._manager.settings, serving.workers, serving.threads),
            "bind": f"{host}:{serving.port}" if serving.uds is None else f"unix:{serving.uds}",
            "preload_app": serving.preload,
            "loglevel": serving.log_level,
            "post_worker_init": self._begin,
            "worker_exit": self._end,
            # A door for whoever may write to a file of the user's; not every version has it.
            "control_socket_disable": True,
        }
        for name, value in chosen.items():
            if name in self.cfg.settings or name != "control_socket_disable":
                self.cfg.set(name, value)

    def load(self) -> WSGIApplication:
        """The wrapped app; called by gunicorn, in the worker or before the fork."""
        with self._ends_a_worker():
            serving = self._serving
            app = load_app(serving.target, factory=serving.factory, interface="wsgi")
            return _mounted(SecMiddleware(app, config=self._manager), self._manager.settings.service.mount)

    def _begin(self, _worker: Any) -> None:
        """The worker is about to serve."""
        with self._ends_a_worker():
            self._manager.start()
            settings = self._manager.settings
            if settings.mtls.certificate is not None:
                # A pair that has become bad is told now, and not to callers.
                self.cfg.ssl_context(self.cfg, None)
            if settings.telemetry.traces != "off" and wanted():
                self._stop_exporting = start_exporting(settings.service.name)

    def _end(self, _arbiter: Any, _worker: Any) -> None:
        """The worker is about to end."""
        self._manager.stop()
        if self._stop_exporting is not None:
            self._stop_exporting()

    @contextmanager
    def _ends_a_worker(self) -> Iterator[None]:
        """Where a worker cannot start, it ends such that gunicorn starts no other, which could not either."""
        try:
            yield
        except Exception as error:
            if os.getpid() == self._master:
                raise
            # An app that cannot be imported shows where; our own errors say it in words.
            logger.error("%s", error, exc_info=not isinstance(error, SecMiddlewareError))
            sys.exit(Arbiter.WORKER_BOOT_ERROR)


def _mounted(app: WSGIApplication, mount: str) -> WSGIApplication:
    """The app under `[service] mount`, which the targets of requests do not have (as with uvicorn).

    They may have it where gunicorn is told by the variable SCRIPT_NAME, and has taken it off. Whatever else
    may have been taken off, the path and the target disagree then, and the request is refused.
    """
    if not mount:
        return app

    def under_the_mount(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        environ["SCRIPT_NAME"] = mount
        return app(environ, start_response)

    return under_the_mount
