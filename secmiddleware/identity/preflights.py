"""CORS preflights: which requests are one.

A browser asks, before a request to another origin, whether it may be sent (Fetch §4.8, CORS-preflight fetch).
That question never carries a certificate, a cookie or a body. A route can let it in; whatever only looks like
one stays the OPTIONS request that it is.
"""

from __future__ import annotations

import re
from typing import Final

from secmiddleware.messages import RequestHead, header_values

# An origin as browsers write it (Fetch §3.2): one, with nothing behind the host. A comma would be two headers
# that WSGI has joined.
_ORIGIN: Final = re.compile(rb"null|[a-z][a-z0-9+.-]*://[^\x00- ,/?#@\x7f-\xff]+")
_TOKEN: Final = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+")

# A real one has no credentials and no body. (Content-Type is no sign of one: wsgiref makes it up.)
_NEVER: Final = (b"authorization", b"cookie", b"transfer-encoding", b"trailer", b"expect", b"upgrade")


def requested_method(head: RequestHead) -> str | None:
    """The method that a CORS preflight asks about; None for every request that is not a real one.

    Real is an OPTIONS request with exactly one Origin and exactly one Access-Control-Request-Method, both
    well-formed, at most one Access-Control-Request-Headers, without credentials, upgrade and marks of a body.
    """
    if head.protocol != "http" or head.method != "OPTIONS":
        return None
    headers = head.headers
    if any(header_values(headers, name) for name in _NEVER):
        return None
    if any(length != b"0" for length in header_values(headers, b"content-length")):
        return None
    if len(header_values(headers, b"access-control-request-headers")) > 1:
        return None
    origin = _only(header_values(headers, b"origin"), _ORIGIN)
    method = _only(header_values(headers, b"access-control-request-method"), _TOKEN)
    return None if origin is None or method is None else method.decode("ascii")


def _only(values: list[bytes], form: re.Pattern[bytes]) -> bytes | None:
    """The one value of a header, where it is one and has this form."""
    return values[0] if len(values) == 1 and form.fullmatch(values[0]) else None
