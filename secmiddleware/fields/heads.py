"""What headers say of a body (its length, its codings), and what becomes of them where it is rewritten."""

from __future__ import annotations

from typing import Final

from secmiddleware.messages import Headers, header_values, without_headers

_DIGESTS: Final = (b"content-digest", b"repr-digest", b"digest", b"content-md5")
_PARTS: Final = (b"range", b"if-range")
_LENGTHS: Final = (b"content-length", b"transfer-encoding")

# nginx; Apache and others; lighttpd. Such a file goes past us, as `http.response.pathsend` would.
_FILES: Final = (b"x-accel-redirect", b"x-sendfile", b"x-lighttpd-send-file")

# What some caches heed before Cache-Control; a CDN's own `…-cdn-cache-control` is found by its ending.
_CACHING: Final = (b"cache-control", b"surrogate-control", b"edge-control", b"x-accel-expires")

# An entity tag in a form that no response of ours has: they have none (RFC 9110 §13.1.1).
_NEVER_MATCHES: Final = b'"secmiddleware-never"'


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


def without_content(headers: Headers) -> Headers:
    """A response's headers, such that they say that its body is empty. Its type stays: WSGI wants one."""
    return with_length(without_headers(headers, b"content-encoding", *_DIGESTS), 0)


def without_digests(headers: Headers) -> Headers:
    """The headers less what is a digest of the body that was (RFC 9530, RFC 3230, RFC 1864)."""
    return without_headers(headers, *_DIGESTS)


def without_conditions(headers: Headers) -> Headers:
    """A request's headers, such that the app answers in full, whatever part or version the caller has.

    Validators and ranges over plaintext would tell the caller about it. `If-Match: *` stays; any other entity
    tag is replaced by one that matches nothing: no caller has got one from us.
    """
    kept = without_headers(headers, *_PARTS, b"if-none-match", b"if-modified-since")
    wanted = header_values(kept, b"if-match")
    if all(value.strip(b" \t") == b"*" for value in wanted):
        return headers if len(kept) == len(headers) else kept
    return tuple((name, _NEVER_MATCHES if name == b"if-match" else value) for name, value in kept)


def for_readable_answer(headers: Headers) -> Headers:
    """A request's headers, such that the app answers with a whole body under no coding: it will be read.

    A part cannot be searched for a value that lies across its edge. Accept-Encoding is the caller's wish, and
    an app that compresses itself would otherwise be refused every answer to a caller who can decompress.
    """
    kept = without_headers(headers, *_PARTS)
    if any(name == b"accept-encoding" and value != b"identity" for name, value in kept):
        return tuple((name, b"identity" if name == b"accept-encoding" else value) for name, value in kept)
    return headers if len(kept) == len(headers) else kept


def without_validators(headers: Headers) -> Headers:
    """A response's headers less its entity tag (a dictionary oracle over plaintext) and offer of ranges."""
    return without_headers(headers, b"etag", b"accept-ranges")


def for_one_caller(headers: Headers) -> Headers:
    """A response's headers, such that no cache keeps it for anybody else (RFC 9111 §5.2.2, RFC 9213)."""
    kept = (
        pair for pair in headers if pair[0] not in _CACHING and not pair[0].endswith(b"cdn-cache-control")
    )
    return (*kept, (b"cache-control", b"private, no-store"))
