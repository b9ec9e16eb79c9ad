"""WSGI servers, told apart by their marks in an environ: what each hands over, and else the way out.

An environ key is worth what the server is that set it: `SSL_CLIENT_CERT` is Apache's word under mod_wsgi, and
nobody's under gunicorn. So the server is recognised first, and its keys are looked at then. No client can set
any of the marks: what a client sends becomes `HTTP_…` in every one of these servers.
"""

from __future__ import annotations

import ssl
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Final
from wsgiref.types import WSGIEnvironment

from secmiddleware.messages import PRESENTED_KEY

_GUNICORN_SOCKET: Final = "gunicorn.socket"
_WERKZEUG_SOCKET: Final = "werkzeug.socket"


@dataclass(frozen=True, slots=True)
class ServerKind:
    """A WSGI server, as far as client certificates go."""

    name: str
    silence: Callable[[WSGIEnvironment], str | None]
    """Why an environ that came over TLS can say nothing of the client's certificate, or None."""
    way_out: str
    """What to do about it."""
    twins: str
    """What becomes of `X_Client_Cert` beside `X-Client-Cert`, where it is not dropped; empty where it is."""
    has_tls: bool = True
    """Whether it ends TLS at all in a way that an app could see."""


_RUN: Final = "serve with `secmiddleware run`, or with gunicorn's sync or gthread workers"


def _of_a_socket(key: str) -> Callable[[WSGIEnvironment], str | None]:
    def silence(environ: WSGIEnvironment) -> str | None:
        if isinstance(environ.get(key), ssl.SSLSocket):
            return None
        return "the scheme is https, but the connection is not: TLS ended before this server"

    return silence


def _of_mod_ssl(environ: WSGIEnvironment) -> str | None:
    if "SSL_CLIENT_VERIFY" not in environ:
        return "SSL_CLIENT_VERIFY is missing: mod_ssl does not export what it knows"
    if "SSL_CLIENT_CERT" not in environ:
        return "SSL_CLIENT_CERT is missing: mod_ssl does not export the certificate"
    return None


def _of_cheroot(environ: WSGIEnvironment) -> str | None:
    verdict = environ.get("SSL_CLIENT_VERIFY")
    if verdict is None or (verdict == "SUCCESS" and "SSL_CLIENT_CERT" not in environ):
        return "its TLS adapter says nothing about the client"
    return None


def _of_uwsgi(environ: WSGIEnvironment) -> str | None:
    if "HTTPS_CLIENT_CERTIFICATE" in environ:
        return None
    options = getattr(sys.modules.get("uwsgi"), "opt", None)
    return _silence_of_options(options) if isinstance(options, dict) else None


def _silence_of_options(options: dict[object, object]) -> str | None:
    """Why a uWSGI with these options hands over no certificate; None where it, or a router of it, may."""
    sockets = list(_values(options, "https-socket"))
    routers = list(_values(options, "https")) + list(_values(options, "https2"))
    if sockets and not routers:
        return "--https-socket demands a certificate and hands over none"
    # address,certificate,key,ciphers,CA; https2 has names for them
    asking = [value for value in routers if value.count(",") >= 4 or "clientca=" in value]
    if routers and not asking:
        return "--https names no CA of the clients, so that none is asked for a certificate"
    return None


def _values(options: dict[object, object], name: str) -> Iterator[str]:
    for key in (name, name.encode()):
        found = options.get(key)
        for value in found if isinstance(found, list | tuple) else [found]:
            if isinstance(value, bytes | str):
                yield value.decode("latin-1") if isinstance(value, bytes) else value


def _never(reason: str) -> Callable[[WSGIEnvironment], str | None]:
    return lambda _environ: reason


_WIN: Final = "takes X_Client_Cert for X-Client-Cert, and the one with the underscore wins"
_JOIN: Final = "takes X_Client_Cert for X-Client-Cert, also where the proxy sends none"
_UNKNOWN: Final = "is not one of those that are known to drop X_Client_Cert beside X-Client-Cert"

GUNICORN: Final = ServerKind(
    "gunicorn",
    _of_a_socket(_GUNICORN_SOCKET),
    'have gunicorn terminate TLS, or name the proxy that does as [mtls] source (not "server")',
    "",
)
WERKZEUG: Final = ServerKind(
    "werkzeug",
    _of_a_socket(_WERKZEUG_SOCKET),
    "start it with secmiddleware.servers.werkzeug.options(…)",
    "",
)
CHEROOT: Final = ServerKind(
    "cheroot",
    _of_cheroot,
    "give it secmiddleware.servers.cheroot.adapter(…) as its ssl_adapter",
    f"cheroot {_WIN}",
)
MOD_WSGI: Final = ServerKind(
    "mod_wsgi",
    _of_mod_ssl,
    "set `SSLVerifyClient optional` and `SSLOptions +StdEnvVars +ExportCertData` (docs/servers.md)",
    "",
)
UWSGI: Final = ServerKind(
    "uwsgi",
    _of_uwsgi,
    "use `--https ADDRESS,CERTIFICATE,KEY,CIPHERS,CA` (docs/servers.md)",
    f"uWSGI {_JOIN}",
)
WAITRESS: Final = ServerKind(
    "waitress",
    _never("waitress has no TLS"),
    f"{_RUN}, or let a proxy end TLS and name it as [mtls] source",
    "",
    has_tls=False,
)
GRANIAN: Final = ServerKind(
    "granian",
    _never("granian keeps what it knows of the client's certificate to itself"),
    _RUN,
    f"granian {_WIN}",
    has_tls=False,
)
WSGIREF: Final = ServerKind(
    "wsgiref",
    _never("wsgiref's server, which is also Django's runserver, has no TLS"),
    _RUN,
    f"wsgiref's server {_JOIN}",
    has_tls=False,
)
UNKNOWN: Final = ServerKind(
    "unknown", _never("this server says nothing about client certificates"), _RUN, f"this server {_UNKNOWN}"
)
UNNAMED: Final = ServerKind(
    "unnamed",
    _never("whoever calls names no server and says nothing about client certificates"),
    _RUN,
    f"this server names itself nowhere (SERVER_SOFTWARE), and so {_UNKNOWN}",
)
"""Test clients, and a few adapters from ASGI to WSGI."""
CONFUSED: Final = ServerKind(
    "confused",
    _never("the marks of two servers stand in one environ"),
    _RUN,
    f"this server has the marks of two, and so {_UNKNOWN}",
)

_BY_MARK: Final = {
    "mod_wsgi.version": MOD_WSGI,
    "uwsgi.version": UWSGI,
    _GUNICORN_SOCKET: GUNICORN,
    _WERKZEUG_SOCKET: WERKZEUG,
}
_MARKS: Final = _BY_MARK.keys()
_BY_SOFTWARE: Final = {
    "gunicorn": GUNICORN,
    "werkzeug": WERKZEUG,
    "cheroot": CHEROOT,
    "waitress": WAITRESS,
    "granian": GRANIAN,
    "wsgiserver": WSGIREF,
}


def kind_of_environ(environ: WSGIEnvironment) -> ServerKind:
    """The server that made an environ."""
    if not _MARKS.isdisjoint(environ.keys()):  # looks four names up, and makes no set
        marks = environ.keys() & _MARKS
        return _BY_MARK[marks.pop()] if len(marks) == 1 else CONFUSED
    software = environ.get("SERVER_SOFTWARE")
    return _kind_named(software) if isinstance(software, str) and software else UNNAMED


@lru_cache(maxsize=16)
def _kind_named(software: str) -> ServerKind:
    """By SERVER_SOFTWARE: products and versions, the server's not always first (`CherryPy/18 Cheroot/11`)."""
    products = [word.partition("/")[0].lower() for word in software.split()]
    return next((_BY_SOFTWARE[product] for product in products if product in _BY_SOFTWARE), UNKNOWN)


def silence_of(kind: ServerKind, environ: WSGIEnvironment) -> str | None:
    """Why this server can tell nobody's certificate, whoever calls; None where it can, or a hook has spoken.

    A request without TLS proves nothing of a server that has it: its caller has no certificate, that is all.
    """
    if PRESENTED_KEY in environ:
        return None
    if kind.has_tls and environ.get("wsgi.url_scheme") != "https":
        return None
    return kind.silence(environ)


def twins_of(kind: ServerKind, source: str) -> str | None:
    """Why the header of a proxy is worth nothing on this server, or None; `source` is `[mtls] source`.

    Proxies hand on a client's `X_Client_Cert` beside their own `X-Client-Cert` (HAProxy, Apache and Caddy
    do), and a WSGI environ has one key for both.
    """
    if source == "server" or not kind.twins:
        return None
    return (
        f"{kind.twins}; serve with gunicorn (`secmiddleware run` does), waitress or mod_wsgi, which drop it"
    )
