"""WSGI servers beside gunicorn, each on a free port: in a thread, or as what Debian packages have."""

from __future__ import annotations

import sysconfig
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from services.apache import APACHE, MOD_WSGI, ApacheServer
from services.provided import plugged
from services.uwsgi import PYTHON_PLUGIN, UWSGI, UwsgiServer

from servers.pki import Pki
from servers.processes import SOURCE
from servers.serving import PATIENCE

TESTS = Path(__file__).parents[1]

_SCRIPT = """\
import sys
sys.path[:0] = {path!r}
from servers import told
from secmiddleware.wsgi import SecMiddleware
application = {application}
"""


def script(app: str, settings: dict[str, Any] | None = None) -> str:
    """The source of a WSGI module that serves an app of `told`, with ours round it if there are settings."""
    path = [str(SOURCE), str(TESTS), sysconfig.get_paths()["purelib"]]
    made = f"told.{app}" if settings is None else f"SecMiddleware(told.{app}, config={settings!r})"
    return _SCRIPT.format(path=path, application=made)


@contextmanager
def werkzeug(app: Any, **options: Any) -> Iterator[int]:
    """The port on which Werkzeug's development server serves the app."""
    from werkzeug.serving import WSGIRequestHandler, make_server

    class Silent(WSGIRequestHandler):
        def log(self, type: str, message: str, *args: Any) -> None: ...  # noqa: A002

    server = make_server("127.0.0.1", 0, app, **{"threaded": True, **options}, request_handler=Silent)
    server.block_on_close = False
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        thread.join(PATIENCE)
        server.server_close()
        assert not thread.is_alive()


@contextmanager
def cheroot(app: Any, adapter: Any = None) -> Iterator[int]:
    """The port on which cheroot serves the app, with an SSL adapter."""
    from cheroot.wsgi import Server

    server = Server(("127.0.0.1", 0), app, numthreads=16, timeout=PATIENCE, shutdown_timeout=1)
    server.error_log = lambda *_, **__: None
    server.ssl_adapter = adapter
    server.prepare()
    thread = threading.Thread(target=server.serve)
    thread.start()
    try:
        yield server.bind_addr[1]
    finally:
        server.stop()
        thread.join(PATIENCE)
        assert not thread.is_alive()


@contextmanager
def wsgiref(app: Any) -> Iterator[int]:
    """The port on which Python's own server serves the app, without TLS."""
    from wsgiref.simple_server import WSGIRequestHandler, make_server

    class Silent(WSGIRequestHandler):
        def log_message(self, format: str, *args: Any) -> None: ...  # noqa: A002

    server = make_server("127.0.0.1", 0, app, handler_class=Silent)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        thread.join(PATIENCE)
        server.server_close()


@contextmanager
def waitress(app: Any) -> Iterator[int]:
    """The port on which waitress serves the app, without TLS."""
    from waitress.server import create_server

    server = create_server(app, host="127.0.0.1", port=0, threads=2)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        yield server.effective_port
    finally:
        with suppress(OSError):  # its thread may close what wakes it before it is woken
            server.trigger.pull_trigger(server.close)
        server.task_dispatcher.shutdown()
        thread.join(PATIENCE)
        assert not thread.is_alive()


TLS_OF_APACHE = (
    "SSLEngine on",
    "SSLVerifyClient optional",
    "SSLVerifyDepth 3",
    "SSLOptions +StdEnvVars +ExportCertData",
    "SSLSessionTickets off",
    "SSLProtocol -all +TLSv1.2 +TLSv1.3",
)


def files_of_apache(pki: Pki, trust: Path) -> list[str]:
    """Whose certificate it shows, and whose it believes."""
    return [
        f"SSLCertificateFile {pki.certificate}",
        f"SSLCertificateKeyFile {pki.key}",
        f"SSLCACertificateFile {trust}",
    ]


@contextmanager
def apache(
    config: pytest.Config, hosts: dict[str, tuple[str, list[str]]], sessions: str = "none"
) -> Iterator[ApacheServer]:
    """Apache with hosts: the source of the app, and lines of its configuration."""
    server = ApacheServer(plugged(APACHE, MOD_WSGI, config), [f"SSLSessionCache {sessions}"])
    for name, (app, lines) in hosts.items():
        server.add(name, app, lines)
    try:
        yield server.start()
    finally:
        server.end()


@contextmanager
def uwsgi(config: pytest.Config, app: str, **options: str) -> Iterator[UwsgiServer]:
    """uWSGI with an app; `{port}` in an option is the server's."""
    told = {key.replace("_", "-"): value for key, value in options.items()}
    server = UwsgiServer(plugged(UWSGI, PYTHON_PLUGIN, config), app, told)
    try:
        yield server.start()
    finally:
        server.end()


def tls_of_uwsgi(pki: Pki, trust: Path) -> dict[str, str]:
    """What docs/servers.md says."""
    return {
        "https": f"127.0.0.1:{{port}},{pki.certificate},{pki.key},HIGH,{trust}",
        "buffer_size": "32768",
    }
