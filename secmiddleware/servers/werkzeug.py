"""Werkzeug's development server, which is Flask's: serving with TLS as the file says.

It hands over the connection itself, as `werkzeug.socket`, and what that presented is read there. What is left
to say is TLS in our context.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Mapping
from importlib.metadata import version
from typing import Any

from werkzeug.serving import WSGIRequestHandler, run_simple

from secmiddleware.errors import SecMiddlewareError
from secmiddleware.parts import certificates_of
from secmiddleware.server_kinds_wsgi import WERKZEUG
from secmiddleware.servers.late_handshakes import Door
from secmiddleware.servers.readiness import check_serveable, check_source
from secmiddleware.settings import load


def options(config: str | os.PathLike[str] | Mapping[str, Any]) -> dict[str, Any]:
    """What `run_simple`, or Flask's `app.run`, is to be called with beside host, port and app.

    TLS as `[mtls]` says, no session resumed, a thread for each request. `config` is the path of the file, or
    the mapping, that the app's SecMiddleware has too. It is a server to develop with.

    Raises:
        ConfigError: the settings cannot be used.
        CertificateError: the server's certificate cannot be used.
        SecMiddlewareError: this Werkzeug is not one that hands over its connections.
    """
    _check_version()
    settings = load(config)
    check_source(settings, WERKZEUG)
    check_serveable(settings, 1)
    if settings.mtls.certificate is None:
        return {"threaded": True}  # the proxy has TLS
    return {"ssl_context": Door(certificates_of(settings.mtls).server_context()), "threaded": True}


def _check_version() -> None:
    hands_over = "werkzeug.socket" in WSGIRequestHandler.make_environ.__code__.co_consts
    if not hands_over or "ssl_context" not in inspect.signature(run_simple).parameters:
        raise SecMiddlewareError(
            f"Werkzeug {version('werkzeug')} does not hand over its connections as Werkzeug 3 does: install "
            "secmiddleware[werkzeug], or serve with `secmiddleware run`"
        )
