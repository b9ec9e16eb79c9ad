"""What headers say of a body (its length, its codings), and what becomes of them where it is rewritten."""

from __future__ import annotations

from typing import Final

from secmiddleware.fields.digests import without_digests
from secmiddleware.messages import Headers, header_values, without_headers

_PARTS: Final = (b"range", b"if-range")
_LENGTHS: Final = (b"content-length", b"transfer-encoding")

# nginx; Apache and others; lighttpd. Such a file goes past us, as `http.response.pathsend` would.
_FILES: Final = (b"x-accel-redirect", b"x-sendfile", b"x-lighttpd-send-file")

# What some caches heed before Cache-Control. One's own field, as RFC 9213 has it, ends in this.
_CACHING: Final = (b"cache-control", b"surrogate-control", b"edge-control", b"x-accel-expires")
_FOR_ONE_CACHE: Final = b"-cache-control"


class AmbiguousHeader(ValueError):  # noqa: N818  (a fact about a head, for whoever must refuse it)
    """A header that can be read in two ways; the argument is its name."""


def declared_length(headers: Headers) -> int | None:
    """What Content-Length says, in bytes; None where it is missing.

    Raises:
        AmbiguousHeader: there are several different ones, or one that is no number (RFC 9112 §6.3).
    """
    values = {value.strip(b" \t") for value in header_values(headers, b"content-length")}
    if not values:
        return None
    value = values.pop()
    # 18 digits are more than any body; Python reads numbers of more than 4300 digits only when told to.
    if values or not value.isdigit() or len(value) > 18:
        raise AmbiguousHeader("content-length")
    return int(value)


def codings_of(headers: Headers) -> tuple[bytes, ...]:
    """The codings that a body is under, in lower case and in the order of their application (RFC 9110 §8.4).

    `identity` is none.
    """
    codings = b",".join(header_values(headers, b"content-encoding")).lower().split(b",")
    return tuple(
        stripped for coding in codings if (stripped := coding.strip(b" \t")) not in (b"", b"identity")
    )


def body_from_elsewhere(headers: Headers) -> str | None:
    """The header of a response that has a proxy send a file in place of the body; None where none does."""
    return next((name.decode("ascii") for name, _ in headers if name in _FILES), None)


def with_length(headers: Headers, length: int) -> Headers:
    """The headers with one Content-Length and no Transfer-Encoding; the same object where they have that."""
    value = b"%d" % length
    if [pair for pair in headers if pair[0] in _LENGTHS] == [(b"content-length", value)]:
        return headers
    return (*without_headers(headers, *_LENGTHS), (b"content-length", value))


def without_length(headers: Headers) -> Headers:
    """The headers of a message that has no body."""
    return without_headers(headers, *_LENGTHS)


def without_codings(headers: Headers) -> Headers:
    """The headers of a body that is under no coding any more."""
    return without_headers(headers, b"content-encoding")


def that_vary_by_coding(headers: Headers) -> Headers:
    """A response's headers, such that caches know that Accept-Encoding has chosen its coding."""
    named = b",".join(header_values(headers, b"vary")).lower().split(b",")
    if any(name.strip(b" \t") in (b"accept-encoding", b"*") for name in named):
        return headers
    return (*headers, (b"vary", b"Accept-Encoding"))


def without_content(headers: Headers) -> Headers:
    """A response's headers, such that they say that its body is empty. Its type stays: WSGI wants one."""
    return with_length(without_codings(without_digests(headers)), 0)


def for_readable_answer(headers: Headers) -> Headers:
    """A request's headers, such that the app answers with a whole body under no coding: it will be read.

    A part cannot be searched for a value that lies across its edge. Accept-Encoding is the caller's wish, and
    an app that compresses itself would otherwise be refused every answer to a caller who can decompress.
    """
    kept = without_headers(headers, *_PARTS)
    if any(name == b"accept-encoding" and value != b"identity" for name, value in kept):
        return tuple((name, b"identity" if name == b"accept-encoding" else value) for name, value in kept)
    return headers if len(kept) == len(headers) else kept


def without_parts(headers: Headers) -> Headers:
    """A response's headers less its offer of ranges."""
    return without_headers(headers, b"accept-ranges")


def for_one_caller(headers: Headers) -> Headers:
    """A response's headers, such that no cache keeps it for anybody else (RFC 9111 §5.2.2, RFC 9213)."""
    kept = (pair for pair in headers if pair[0] not in _CACHING and not pair[0].endswith(_FOR_ONE_CACHE))
    return (*kept, (b"cache-control", b"private, no-store"))
