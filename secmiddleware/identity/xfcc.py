"""`X-Forwarded-Client-Cert` as Envoy writes it, and whose certificate the proxy before us saw.

The header has an element for each proxy on the way, and a proxy appends its own at the end: only the last one
is the word of the peer that we trust.
https://www.envoyproxy.io/docs/envoy/latest/configuration/http/http_conn_man/headers has the grammar; Envoy
does not keep to it: `By`, `URI` and `DNS` are never quoted, whatever stands in them (envoyproxy/envoy#32945),
and `URI` and `DNS` are the client's own words. So this takes less than the grammar:

- A quote stands around a value or is escaped in a quoted one, nowhere else.
- A semicolon in `By`, `URI` or `DNS` is taken for part of the value unless a known key follows, and then what
  must be there once is there twice.
- A comma ends an element. A client could have one in its subjectAltName, to write an element of its own
  behind the real one. But then the digest which that element must name stands in the client's own certificate
  too, and that is in an element before; where it is not, nothing may be behind the client's unquoted words.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, field
from typing import Final

from secmiddleware.identity.codecs import Undecodable, ders_of_escaped_pem, only
from secmiddleware.patterns import compiled

_UNQUOTED: Final = frozenset({b"by", b"uri", b"dns"})  # each may be there several times
_KNOWN: Final = _UNQUOTED | {b"hash", b"cert", b"chain", b"subject"}

# Three hundred names in a certificate are many; each pair costs 1 us.
_MAX_PAIRS: Final = 2000

# A pair and what ends it. Possessive throughout: nothing is ever tried twice, so time is linear.
_PAIR: Final = compiled(
    rb'(?P<key>[^=;,"]*+)'
    rb'(?:=(?:"(?P<quoted>[^"\\]*+(?:\\.[^"\\]*+)*+)"|(?P<plain>[^;,"]*+)))?+'
    rb"(?P<end>[;,]|\Z)",
    re.DOTALL,
)


@dataclass(slots=True)
class Element:
    """What one proxy wrote."""

    once: dict[bytes, bytes] = field(default_factory=dict)
    """What may be there once only, by its key in lower case."""
    goes_on: bool = False
    """Whether its last value is unquoted, so that what follows a semicolon may be the rest of it."""
    quotes_client: bool = False
    """Whether the client's own words stand in it unquoted, so that what follows a comma may be theirs too."""


class Ambiguous(ValueError):  # noqa: N818  (it is the value's state, not a fault of ours)
    """An `X-Forwarded-Client-Cert` that could be read in two ways."""


def ders_of_xfcc(text: bytes) -> tuple[bytes, ...]:
    """The leaf that the last proxy saw, and what else of its chain is there.

    `Cert` and `Hash` must be there and agree. Raises Undecodable where there is no readable certificate,
    Ambiguous where the value, or any element of it, can be read in two ways.
    """
    *earlier, last = _elements(text)
    if b"cert" not in last.once or b"hash" not in last.once:
        raise Undecodable("Cert and Hash are needed")
    leaf = only(ders_of_escaped_pem(last.once[b"cert"]))
    digest = hashlib.sha256(leaf).hexdigest().encode("ascii")
    if last.once[b"hash"] != digest:
        raise Ambiguous("Hash is that of another certificate than Cert")
    for element in earlier:
        _see_whole(element, digest)
    return leaf, *(ders_of_escaped_pem(last.once[b"chain"]) if b"chain" in last.once else ())


def _see_whole(element: Element, digest: bytes) -> None:
    """See that what names this digest behind an element was not written by the element's own client."""
    if b"cert" not in element.once:
        if element.quotes_client:
            raise Ambiguous("what follows might be part of an unquoted value")
    elif digest in only(ders_of_escaped_pem(element.once[b"cert"])):
        raise Ambiguous("the last element is written in the certificate of one before it")


def _elements(text: bytes) -> list[Element]:
    """Every element, in the order of the header, so that the last is the one of the proxy before us."""
    elements = [Element()]
    at = 0
    for _ in range(_MAX_PAIRS):
        pair = _PAIR.match(text, at)
        if pair is None:
            raise Ambiguous("a quote stands where none may")
        _add(elements[-1], pair)
        at = pair.end()
        match pair["end"]:
            case b"":
                return elements
            case b",":
                elements.append(Element())
    raise Ambiguous("there are too many pairs")


def _add(element: Element, pair: re.Match[bytes]) -> None:
    """Take one pair into the element that it belongs to."""
    key = pair["key"].lower()
    quoted, plain = pair["quoted"], pair["plain"]
    if key not in _KNOWN or (quoted is None and plain is None):
        if not element.goes_on or quoted is not None:
            raise Ambiguous("this is no pair of a known key and a value")
        return  # the rest of an unquoted value with a semicolon in it
    element.goes_on = key in _UNQUOTED and quoted is None
    if key in _UNQUOTED:
        element.quotes_client |= key != b"by" and quoted is None
        return
    if key in element.once:
        raise Ambiguous("a key is there twice")
    if key != b"hash" and quoted is None:
        raise Ambiguous("what is always quoted is not")
    element.once[key] = plain if quoted is None else quoted
