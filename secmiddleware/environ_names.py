"""What the names of a WSGI environ tell, whatever its values: read once for each set of names, and kept.

An environ has sixty names or a hundred, of which a handful are headers and mostly none speaks of a client's
certificate. A server makes the same ones again and again, but for the headers that clients send.
"""

from __future__ import annotations

from typing import Final, NamedTuple, Self
from wsgiref.types import WSGIEnvironment

from secmiddleware.identity.variables import about_client

# CGI names that are not HTTP_ and the header's name (RFC 3875 §4.1.2, §4.1.3).
KEY_OF: Final = {b"content-type": "CONTENT_TYPE", b"content-length": "CONTENT_LENGTH"}
_NO_HEADERS: Final = frozenset({"HTTP_CONTENT_TYPE", "HTTP_CONTENT_LENGTH"})
"""Servers that let underscores through make these of headers that only look like the real ones."""

# gunicorn and Werkzeug; mod_wsgi, uWSGI, waitress and others.
_TARGETS: Final = ("RAW_URI", "REQUEST_URI")

CONNECTIONS: Final = ("gunicorn.socket", "gunicorn.sock", "werkzeug.socket")
"""The client's connection itself, as servers hand it to apps."""

# Clients choose names, so that what is kept has a bound: 256 sets of at most 128 names and 4096 letters are
# 8 MiB at worst. Beyond it all are let go, and those that matter are back with the next request.
_MOST_KEPT: Final = 256
_MOST_NAMES: Final = 128
_MOST_LETTERS: Final = 4096


class Names(NamedTuple):
    """What there is to look at in an environ with these names.

    A tuple, since one is made for each set of names that nobody has sent yet, and sooner than a dataclass.
    """

    headers: tuple[tuple[bytes, str], ...]
    """Of each header its name, in lower case, and its key."""
    content: tuple[tuple[bytes, str], ...]
    """The same of those that servers have empty, too, where none was sent."""
    about_client: tuple[str, ...]
    """The keys under which a server says something of the client's certificate."""
    connections: tuple[str, ...]
    """Those under which it hands over the client's connection itself."""
    target: str | None
    """The one under which it tells the target as it came."""

    @classmethod
    def of(cls, environ: WSGIEnvironment) -> Self:
        """What the names of this environ tell."""
        return cls(
            tuple(
                [
                    (name, key)
                    for key in environ
                    # `in` is three times as fast as `startswith`.
                    if "HTTP_" in key and (name := _USUAL.get(key) or _header_of(key)) is not None
                ]
            ),
            tuple([(name, key) for name, key in KEY_OF.items() if key in environ]),
            tuple(about_client(environ)),
            tuple([key for key in CONNECTIONS if key in environ]),
            _target_in(environ),
        )


_kept: Final[dict[tuple[str, ...], Names]] = {}


def names_of(environ: WSGIEnvironment) -> Names:
    """What the names of an environ tell. They are true of it as long as no name comes or goes."""
    keys = tuple(environ)
    return _kept.get(keys) or _read(environ, keys)


def _read(environ: WSGIEnvironment, keys: tuple[str, ...]) -> Names:
    names = Names.of(environ)
    if len(keys) <= _MOST_NAMES and len("".join(keys)) <= _MOST_LETTERS:
        if len(_kept) >= _MOST_KEPT:
            _kept.clear()
        _kept[keys] = names
    return names


def _target_in(environ: WSGIEnvironment) -> str | None:
    for key in _TARGETS:
        if key in environ:
            return key
    return None


def _header_of(key: str) -> bytes | None:
    """The name, in lower case, of the header that an environ has under a key; None where it is none."""
    if not key.startswith("HTTP_") or key in _NO_HEADERS:
        return None
    return key.removeprefix("HTTP_").replace("_", "-").lower().encode("latin-1", "replace")


# Of the headers that nearly every request has: their names need not be worked out for each set.
_USUAL: Final = {
    key: _header_of(key)
    for key in (
        *("HTTP_HOST", "HTTP_USER_AGENT", "HTTP_ACCEPT", "HTTP_ACCEPT_ENCODING", "HTTP_ACCEPT_LANGUAGE"),
        *("HTTP_CONNECTION", "HTTP_AUTHORIZATION", "HTTP_COOKIE", "HTTP_ORIGIN", "HTTP_REFERER"),
        *("HTTP_CACHE_CONTROL", "HTTP_TRACEPARENT", "HTTP_TRACESTATE", "HTTP_X_REQUEST_ID"),
        *("HTTP_X_FORWARDED_FOR", "HTTP_X_FORWARDED_PROTO", "HTTP_X_FORWARDED_HOST", "HTTP_X_REAL_IP"),
    )
}
