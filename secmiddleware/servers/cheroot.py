"""cheroot, CherryPy's server: an SSL adapter that hands over the certificate with its chain.

cheroot's own adapter hands over the leaf alone, in keys named as Apache's are; that is understood too, if the
chain is not needed. With ours, TLS is as the file says, and no client who is silent holds up the others.
"""

from __future__ import annotations

import inspect
import os
import ssl
from collections.abc import Iterator, Mapping
from functools import cached_property
from importlib.metadata import version
from typing import Any

from cheroot.errors import FatalSSLAlert
from cheroot.ssl.builtin import BuiltinSSLAdapter
from cheroot.wsgi import Gateway_10

from secmiddleware.errors import SecMiddlewareError
from secmiddleware.identity.presentation import presented_on
from secmiddleware.messages import PRESENTED_KEY
from secmiddleware.parts import certificates_of
from secmiddleware.server_kinds_wsgi import CHEROOT
from secmiddleware.servers.late_handshakes import Door
from secmiddleware.servers.readiness import check_serveable, check_source
from secmiddleware.settings import Settings, load


def adapter(config: str | os.PathLike[str] | Mapping[str, Any]) -> BuiltinSSLAdapter:
    """What becomes the `ssl_adapter` of a cheroot server (of CherryPy: of `cherrypy.server.httpserver`).

    TLS as `[mtls]` says, and no session resumed. `config` is the path of the file, or the mapping, that the
    app's SecMiddleware has too.

    Raises:
        ConfigError: the settings cannot be used, or not on this server.
        CertificateError: the server's certificate cannot be used.
        SecMiddlewareError: this cheroot is not one that would use the adapter.
    """
    _check_version()
    settings = load(config)
    check_source(settings, CHEROOT)
    check_serveable(settings, 1)
    return _Adapter(settings)


def _check_version() -> None:
    wrap = list(inspect.signature(BuiltinSSLAdapter.wrap).parameters)
    told = list(inspect.signature(BuiltinSSLAdapter.get_environ).parameters)
    merged = "ssl_env" in Gateway_10.get_environ.__code__.co_names
    if wrap != ["self", "sock"] or told != ["self", "sock"] or not merged:
        raise SecMiddlewareError(
            f"cheroot {version('cheroot')} does not ask its SSL adapter for connections as cheroot 10 and 11 "
            "do: install secmiddleware[cheroot], or serve with `secmiddleware run`"
        )


class _Adapter(BuiltinSSLAdapter):
    """cheroot's own, but for the context, and for what an environ is told of a connection."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(str(settings.mtls.certificate), str(settings.mtls.key))
        self._door = Door(certificates_of(settings.mtls).server_context(), FatalSSLAlert)

    def wrap(self, sock: Any) -> tuple[ssl.SSLSocket, Mapping[str, Any]]:
        """The connection, and what is to stand in the environ of each of its requests."""
        connection = self._door.wrap_socket(sock, server_side=True)
        return connection, _Told(self, connection)

    def get_environ(self, sock: Any) -> dict[str, Any]:  # type: ignore[override]
        """What an app may read of TLS; of the client's certificate nothing, which is for us to judge."""
        told: dict[str, Any] = super().get_environ(sock)  # type: ignore[no-untyped-call]
        return {key: value for key, value in told.items() if not key.startswith("SSL_CLIENT")}


class _Told(Mapping[str, Any]):
    """What an environ is told, known once the first request has been read: cheroot wants it at the accept."""

    def __init__(self, adapter: _Adapter, connection: ssl.SSLSocket) -> None:
        self._adapter = adapter
        self._connection = connection

    @cached_property
    def _told(self) -> dict[str, Any]:
        presented = presented_on(self._connection)
        return {**self._adapter.get_environ(self._connection), PRESENTED_KEY: presented}

    def __getitem__(self, key: str) -> Any:
        return self._told[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._told)

    def __len__(self) -> int:
        return len(self._told)
