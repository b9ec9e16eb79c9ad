"""The certificate of a WSGI environ: each server's own keys, read only where it is that server which serves.

There is no fallback from one server's keys to another's, and none to a header. What contradicts itself is
refused. A server's verdict can only take away: what it lets through is judged again by us.
"""

from __future__ import annotations

import binascii
import re
import ssl
from collections.abc import Callable
from itertools import count
from typing import Final
from wsgiref.types import WSGIEnvironment

from secmiddleware.identity.presentation import presented_on
from secmiddleware.messages import PRESENTED_KEY, Presented
from secmiddleware.server_kinds_wsgi import (
    CHEROOT,
    CONFUSED,
    GUNICORN,
    MOD_WSGI,
    UWSGI,
    WERKZEUG,
    kind_of_environ,
)

_PEM: Final = re.compile(r"\s*-----BEGIN CERTIFICATE-----\s+([A-Za-z0-9+/=\s]+?)-----END CERTIFICATE-----\s*")

# One more than are ever judged: a longer chain is refused for its length, and not cut to a good one.
_MOST_READ: Final = 11

_CONTRADICTION: Final = Presented(b"")
"""No judge takes it for a certificate."""


def presented_by(environ: WSGIEnvironment) -> Presented | None:
    """The certificate that came with the connection, None where there was none; a hook's word stands.

    Where the server's keys contradict each other, something that no judge accepts.
    """
    if PRESENTED_KEY in environ:
        presented = environ[PRESENTED_KEY]
        return presented if isinstance(presented, Presented) else None
    read = _READERS.get(kind_of_environ(environ).name)
    return None if read is None else read(environ)


def _from_gunicorn(environ: WSGIEnvironment) -> Presented | None:
    return _on(environ.get("gunicorn.socket"))


def _from_werkzeug(environ: WSGIEnvironment) -> Presented | None:
    """The connection's; beside it stands the leaf as PEM, which must say the same."""
    presented = _on(environ.get("werkzeug.socket"))
    pem = environ.get("SSL_CLIENT_CERT")
    if pem is not None and (presented is None or _der(pem) != presented.leaf):
        return _CONTRADICTION
    return presented


def _from_cheroot(environ: WSGIEnvironment) -> Presented | None:
    return _from_mod_ssl_names(environ, accepting=("SUCCESS",))


def _from_mod_wsgi(environ: WSGIEnvironment) -> Presented | None:
    """What mod_ssl exports. GENEROUS is a chain that it did not look at (`optional_no_ca`): we do.

    The chain of a resumed session is not there any more; then the leaf has to do, or is refused for that.
    """
    return _from_mod_ssl_names(environ, accepting=("SUCCESS", "GENEROUS"))


def _from_mod_ssl_names(environ: WSGIEnvironment, accepting: tuple[str, ...]) -> Presented | None:
    verdict, pem = environ.get("SSL_CLIENT_VERIFY"), environ.get("SSL_CLIENT_CERT")
    if verdict in (None, "NONE") and not pem:
        return None
    if environ.get("wsgi.url_scheme") != "https" or verdict == "NONE":
        return _CONTRADICTION
    chain = []
    for number in count():
        further = environ.get(f"SSL_CLIENT_CERT_CHAIN_{number}")
        if further is None or number == _MOST_READ:
            break
        chain.append(_der(further))
    leaf = _der(pem)
    # FAILED:…, a word that mod_ssl does not have, or none at all: whatever we find, it was not accepted.
    rejected = verdict not in accepting
    return Presented(leaf, tuple(der for der in chain if der != leaf), rejected=rejected)


def _from_uwsgi(environ: WSGIEnvironment) -> Presented | None:
    """DER, each byte a character; `HTTPS_CC` is the same as PEM (--https-export-cert)."""
    der, pem = environ.get("HTTPS_CLIENT_CERTIFICATE"), environ.get("HTTPS_CC")
    if der is None:
        return _CONTRADICTION if pem or environ.get("HTTPS_DN") else None
    if environ.get("wsgi.url_scheme") != "https":
        return _CONTRADICTION
    try:
        leaf = der.encode("latin-1") if isinstance(der, str) else b""
    except UnicodeEncodeError:
        return _CONTRADICTION
    return _CONTRADICTION if pem is not None and _der(pem) != leaf else Presented(leaf)


def _from_two(_environ: WSGIEnvironment) -> Presented | None:
    return _CONTRADICTION


def _on(connection: object) -> Presented | None:
    return presented_on(connection) if isinstance(connection, ssl.SSLSocket) else None


def _der(pem: object) -> bytes:
    """DER out of the text of exactly one certificate; of anything else nothing, which no judge accepts."""
    found = _PEM.fullmatch(pem) if isinstance(pem, str) else None
    digits = "" if found is None else "".join(found[1].split())
    if len(digits) % 4:
        return b""
    try:
        return binascii.a2b_base64(digits, strict_mode=True)
    except binascii.Error:
        return b""


_READERS: Final[dict[str, Callable[[WSGIEnvironment], Presented | None]]] = {
    GUNICORN.name: _from_gunicorn,
    WERKZEUG.name: _from_werkzeug,
    CHEROOT.name: _from_cheroot,
    MOD_WSGI.name: _from_mod_wsgi,
    UWSGI.name: _from_uwsgi,
    CONFUSED.name: _from_two,
}
