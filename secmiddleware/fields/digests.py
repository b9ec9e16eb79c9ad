"""Digests of bodies in headers (RFC 9530): verified against what came, made anew for what goes on.

Those of its predecessors, Digest (RFC 3230) and Content-MD5 (RFC 1864), are neither: they go where a body
changes.
"""

from __future__ import annotations

import binascii
import hashlib
from binascii import a2b_base64, b2a_base64
from collections.abc import Callable, Iterator
from typing import Any, Final

from secmiddleware.messages import Headers, header_values, without_headers
from secmiddleware.patterns import compiled

# The two of RFC 9530 §5 that are not insecure.
_ALGORITHMS: Final[dict[bytes, Callable[[bytes], Any]]] = {
    b"sha-256": hashlib.sha256,
    b"sha-512": hashlib.sha512,
}
_VERIFIED: Final = (b"content-digest", b"repr-digest")
_FORMER: Final = (b"digest", b"content-md5")

# RFC 9651 §3.2, §3.3.5: a dictionary whose values are byte sequences; parameters say nothing here.
_BARE: Final = rb'(?:[!#$%&\'*+.^_`|~0-9A-Za-z:/?-]++|"(?:[^"\\]|\\["\\])*+")'
_MEMBER: Final = compiled(
    rb"[ \t]*+([a-z*][a-z0-9_.*-]*+)=:([A-Za-z0-9+/]*+={0,2}+):"
    rb"(?:;[ ]*+[a-z*][a-z0-9_.*-]*+(?:=" + _BARE + rb")?)*+[ \t]*+(,|$)"
)


class DigestMismatch(ValueError):  # noqa: N818  (a fact about a message, for whoever must refuse it)
    """A digest that is not the body's, or that cannot be read; the argument is the header's name."""


def verify_digests(headers: Headers, body: bytes) -> None:
    """Holds the body, as it came and under its codings, against every digest whose algorithm is known.

    For a request Repr-Digest is of the same bytes as Content-Digest: it encloses the representation that it
    speaks of (RFC 9530 §3.1 and appendix B).

    Raises:
        DigestMismatch: one of them is another body's, or there is a digest that cannot be read.
    """
    made: dict[bytes, bytes] = {}
    for name in _VERIFIED:
        try:
            for algorithm, said in _members(header_values(headers, name)):
                if algorithm not in _ALGORITHMS:
                    continue
                if algorithm not in made:  # a header has room for a thousand of one
                    made[algorithm] = _ALGORITHMS[algorithm](body).digest()
                if said != made[algorithm]:
                    raise ValueError("another body's")
        except ValueError:
            raise DigestMismatch(name.decode("ascii")) from None


def with_digests_of(headers: Headers, body: bytes) -> Headers:
    """The headers with the digests that were there, of this body; what cannot be made anew is gone."""
    changed: list[tuple[bytes, bytes]] = []
    done: set[bytes] = set()
    for name, value in headers:
        if name in _FORMER or name in done:
            continue
        if name not in _VERIFIED:
            changed.append((name, value))
            continue
        done.add(name)
        made = _made_anew(header_values(headers, name), body)
        if made:
            changed.append((name, made))
    return headers if len(changed) == len(headers) and tuple(changed) == headers else tuple(changed)


def without_digests(headers: Headers) -> Headers:
    """The headers less what is a digest of a body."""
    return without_headers(headers, *_VERIFIED, *_FORMER)


def _made_anew(values: list[bytes], body: bytes) -> bytes:
    try:
        algorithms = dict.fromkeys(algorithm for algorithm, _ in _members(values))
    except ValueError:
        return b""
    return b", ".join(
        algorithm + b"=:" + b2a_base64(_ALGORITHMS[algorithm](body).digest(), newline=False) + b":"
        for algorithm in algorithms
        if algorithm in _ALGORITHMS
    )


def _members(values: list[bytes]) -> Iterator[tuple[bytes, bytes]]:
    """Each algorithm with its digest, several of one included. Raises ValueError for another structure."""
    text = b",".join(values)
    position = 0
    while values:
        member = _MEMBER.match(text, position)
        if member is None:
            raise ValueError("no dictionary of byte sequences")
        try:
            yield member[1], a2b_base64(member[2], strict_mode=True)
        except binascii.Error as error:
            raise ValueError("no base64") from error
        if not member[3]:
            return
        position = member.end()
