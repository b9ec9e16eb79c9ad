"""WSGI environs: what a server hands over becomes a `RequestHead`; what was found out is shown to the app.

Text in an environ is bytes read as latin-1 (PEP 3333). Nothing is decided here.
"""

from __future__ import annotations

import io
import socket
import ssl
from typing import Final
from wsgiref.types import WSGIEnvironment
from wsgiref.validate import InputWrapper

from secmiddleware.environ_names import CONNECTIONS, KEY_OF, Names, names_of
from secmiddleware.identity.environ_certificates import presented_by
from secmiddleware.identity.transport import peer_on
from secmiddleware.identity.variables import variables_of
from secmiddleware.messages import (
    IDENTITY_KEY,
    PEER_KEY,
    PRESENTED_KEY,
    TOKEN_CLAIMS_KEY,
    UNACCEPTED_KEY,
    Headers,
    Identity,
    Peer,
    Refusal,
    RequestHead,
    TokenClaims,
    Unaccepted,
    header_values,
)
from secmiddleware.server_kinds_wsgi import UNNAMED, kind_of_environ

RAISED_KEY: Final = "secmiddleware.raised"
"""Where an adapter tells the type of what the app has raised, if the framework made a page of it."""

# What carries a body, or a head, to the client past `start_response`.
_PASSAGES: Final = (
    "wsgi.file_wrapper",
    "wsgi.early_hints",
    "gunicorn.http2.send_trailers",
    *CONNECTIONS,
)

# RFC 9110 §9.3: to these, content is what they are about.
_METHODS_WITH_CONTENT: Final = frozenset({"POST", "PUT", "PATCH"})

_MOST_DIGITS: Final = 18
"""Of a length, as `heads.declared_length` has it: Python reads no number of more than 4300."""

_NO_PATH: Final = "\ufffd"
"""Stands for a path that can be read in no way: it is refused whoever judges it."""


def head_of(environ: WSGIEnvironment, names: Names | None = None) -> RequestHead:
    """What is known of a request; its header names in lower case. `names` are its own, if known already."""
    names = names or names_of(environ)
    root_path, query = environ.get("SCRIPT_NAME", ""), environ.get("QUERY_STRING", "")
    return RequestHead(
        "http",
        environ.get("REQUEST_METHOD", "GET"),
        environ.get("wsgi.url_scheme", "http"),
        _text(root_path + environ.get("PATH_INFO", "")) or "/",  # PEP 3333 lets the root be empty
        _raw_path(environ, names),
        _text(root_path) if root_path else "",
        _bytes(query) if query else b"",
        environ.get("SERVER_PROTOCOL", "HTTP/1.1").removeprefix("HTTP/"),
        _headers_in(environ, names),
        _peer_of(environ),
        presented_by(environ),
    )


def method_of(environ: WSGIEnvironment) -> str:
    """The request's method; GET in an environ without one, as tests make it and frameworks read it."""
    method: str = environ.get("REQUEST_METHOD", "GET")
    return method


def length_of_body(environ: WSGIEnvironment) -> int | Refusal | None:
    """How many bytes of `wsgi.input` are the body; None where it is what there is, to the end.

    Without a length and without an end (`wsgi.input_terminated`), reading could wait for ever, or read the
    next request: then there is no body, or, where there may be one, the refusal `length_required`. No input,
    or one that is empty memory, as tests have it, is no body whatever the method.
    """
    declared = str(environ.get("CONTENT_LENGTH", ""))  # tests have numbers there, and None
    if declared.isascii() and declared.isdigit() and len(declared) <= _MOST_DIGITS:
        return int(declared)
    if environ.get("wsgi.input_terminated"):
        return None
    source = environ.get("wsgi.input")
    if isinstance(source, InputWrapper):
        source = source.input  # wsgiref.validate lays itself round what a test client gives
    if source is None or (isinstance(source, io.BytesIO) and source.tell() == source.getbuffer().nbytes):
        return 0
    if environ.get("HTTP_TRANSFER_ENCODING") or method_of(environ) in _METHODS_WITH_CONTENT:
        return Refusal("length_required")
    return 0


def route_of(environ: WSGIEnvironment) -> str | None:
    """The template of the route that the app chose, where it tells as Flask does: in the environ."""
    rule = getattr(getattr(environ.get("werkzeug.request"), "url_rule", None), "rule", None)
    return environ.get("SCRIPT_NAME", "") + rule if isinstance(rule, str) else None


def show(
    environ: WSGIEnvironment,
    identity: Identity | None,
    claims: TokenClaims | None,
    unaccepted: Unaccepted | None = None,
    names: Names | None = None,
) -> None:
    """Let the app see who is calling and with what token, and nothing that was not accepted.

    `unaccepted` is what the settings let it see all the same, apart from any identity. `names` are the
    environ's, if known already. Whatever the server
    says of the client's certificate is replaced by what was found out. The connection itself goes where it
    has a certificate that was not accepted; else it stays, for apps that speak websocket on it.
    """
    names = names or names_of(environ)
    for name in names.about_client:
        del environ[name]
    if identity is None:
        for name in names.connections:
            if _has_certificate(environ[name]):
                del environ[name]
    environ.update(variables_of(identity))
    environ[IDENTITY_KEY] = identity
    environ[TOKEN_CLAIMS_KEY] = claims
    environ[UNACCEPTED_KEY] = unaccepted
    environ[PRESENTED_KEY] = None


def put_head(environ: WSGIEnvironment, before: RequestHead, after: RequestHead) -> None:
    """Let the app see headers and query of `after` where the environ has those of `before`."""
    if after.query != before.query:
        environ["QUERY_STRING"] = after.query.decode("latin-1")
    if after.headers is before.headers:
        return
    for name in dict.fromkeys(name for name, _ in (*before.headers, *after.headers)):
        values = header_values(after.headers, name)
        if values == header_values(before.headers, name):
            continue
        key = KEY_OF.get(name) or "HTTP_" + name.decode("latin-1").upper().replace("-", "_")
        if values:
            # RFC 9113 §8.2.3: the pieces of a cookie header are no list.
            environ[key] = (b"; " if name == b"cookie" else b",").join(values).decode("latin-1")
        else:
            environ.pop(key, None)


def _has_certificate(connection: object) -> bool:
    if not isinstance(connection, ssl.SSLSocket):
        return False
    try:
        return connection.getpeercert(binary_form=True) is not None
    except (OSError, ValueError, AttributeError):  # its handshake is still to come, or it is closed
        return True


def without_passages(environ: WSGIEnvironment) -> WSGIEnvironment:
    """A copy of the environ in which nothing leads to the client past `start_response`.

    A copy, since the server may look for its own things in the one that it has made (gunicorn does).
    """
    return {key: value for key, value in environ.items() if key not in _PASSAGES}


def _text(wire: str) -> str:
    """The text that a part of the path is, decoded as apps do."""
    if wire.isascii():
        return wire
    try:
        return wire.encode("latin-1").decode("utf-8", "replace")
    except UnicodeEncodeError:
        return _NO_PATH


def _bytes(wire: str) -> bytes:
    """The bytes that came; of what no server hands over, since it cannot have come so, the UTF-8."""
    try:
        return wire.encode("latin-1")
    except UnicodeEncodeError:
        return wire.encode("utf-8", "surrogateescape")


def _raw_path(environ: WSGIEnvironment, names: Names) -> bytes | None:
    """The target's path as it came, or None where the server does not tell."""
    if names.target is None:
        return None
    path = _bytes(environ[names.target]).partition(b"?")[0]
    if not (path.startswith(b"/") and path.isascii()) and kind_of_environ(environ) is UNNAMED:
        # Every server names itself (RFC 3875 §4.1.17), or has a mark of its own. Who has neither is a test
        # client, such as Werkzeug's: its target is what the test wrote, a whole URL or letters of any
        # language, and has come by no wire.
        return None
    return path


def _headers_in(environ: WSGIEnvironment, names: Names) -> Headers:
    found = names.headers
    if names.content:
        found += tuple([pair for pair in names.content if environ[pair[1]] not in (None, "")])
    try:
        return tuple([(name, environ[key].encode("latin-1")) for name, key in found])
    except (UnicodeEncodeError, AttributeError):  # tests have any letters, and numbers
        return tuple([(name, _bytes(str(environ[key]))) for name, key in found])


def _peer_of(environ: WSGIEnvironment) -> Peer:
    """The other end, as the connection tells where the server hands it over, else as the server does."""
    if PEER_KEY in environ and isinstance(seen := environ[PEER_KEY], Peer):
        return seen
    if "gunicorn.socket" in environ and isinstance(connection := environ["gunicorn.socket"], socket.socket):
        return peer_on(connection)
    port = str(environ.get("REMOTE_PORT", ""))  # Werkzeug has a number
    return Peer(environ.get("REMOTE_ADDR") or None, int(port) if port.isdecimal() else None)
