"""What a Content-Type says that a body is (RFC 9110 §8.3)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final, Literal

from secmiddleware.fields.heads import AmbiguousHeader
from secmiddleware.messages import Headers, header_values
from secmiddleware.patterns import compiled

Kind = Literal["json", "form", "multipart", "lines", "sequence", "events", "other"]

# RFC 9110 §8.3.1: type, subtype and parameters; a value is a token or a quoted string.
_TOKEN: Final = rb"[!#$%&'*+.^_`|~0-9A-Za-z-]++"
_PARAMETER: Final = compiled(
    rb"[ \t]*+;[ \t]*+(?:(" + _TOKEN + rb")=(" + _TOKEN + rb'|"(?:[^"\\]|\\.)*+"))?', re.DOTALL
)
_MEDIA_TYPE: Final = re.compile(rb"(" + _TOKEN + rb"/" + _TOKEN + rb")")
_JSON: Final = re.compile(rb"application/(?:json|[!#$%&'*+.^_`|~0-9a-z-]+\+json)")
_KINDS: Final[dict[bytes, Kind]] = {
    b"application/x-www-form-urlencoded": "form",
    b"multipart/form-data": "multipart",
    # No registered name is in use more than these four.
    b"application/x-ndjson": "lines",
    b"application/ndjson": "lines",
    b"application/jsonl": "lines",
    b"application/x-jsonlines": "lines",
    b"application/json-seq": "sequence",
    b"text/event-stream": "events",
}
# RFC 2046 §5.1.1, less a boundary that has dashes only: it would be found in its own end.
_BOUNDARY: Final = re.compile(rb"(?=-*+[^-])[0-9A-Za-z'()+_,./:=? -]{0,69}[0-9A-Za-z'()+_,./:=?-]")


@dataclass(frozen=True, slots=True)
class MediaType:
    """A kind of body that can be told from its type, and what delimits its parts where it has any."""

    kind: Kind
    boundary: bytes = b""
    plain: frozenset[bytes] = frozenset()
    """The data of events that are no JSON and may pass."""


_NOTHING_SAID: Final = MediaType("json")
_OTHER: Final = MediaType("other")


def media_type_of(headers: Headers) -> MediaType:
    """What the body is said to be. Where nothing is said, or an empty text, it is taken for JSON.

    Whatever two readers could read in two ways is `other`: a charset that is not UTF-8, a boundary that is
    given twice, or with parameters beside it that nobody should need.

    Raises:
        AmbiguousHeader: there are several different Content-Type headers.
    """
    types = {value.strip(b" \t") for value in header_values(headers, b"content-type")}
    if len(types) > 1:
        raise AmbiguousHeader("content-type")
    said = types.pop() if types else b""
    return read_media_type(said) if said else _NOTHING_SAID


def read_media_type(value: bytes) -> MediaType:
    """What one value of a Content-Type says."""
    media_type = _MEDIA_TYPE.match(value)
    if media_type is None:
        return _OTHER
    name = media_type[1].lower()
    kind: Kind = "json" if _JSON.fullmatch(name) is not None else _KINDS.get(name, "other")
    parameters = _parameters(value, media_type.end())
    if kind == "other" or parameters is None:
        return _OTHER
    if not all(_is_harmless(key, said) for key, said in parameters):
        return _OTHER
    return MediaType(kind) if kind != "multipart" else _multipart(parameters)


def says_json(value: bytes) -> bool:
    """Whether a Content-Type says JSON, be it in an encoding that is not read here."""
    media_type = _MEDIA_TYPE.match(value)
    return media_type is not None and _JSON.fullmatch(media_type[1].lower()) is not None


def is_plain_text(value: bytes) -> bool:
    """Whether a Content-Type says text/plain in UTF-8, or in an encoding that is not told."""
    media_type = _MEDIA_TYPE.match(value)
    if media_type is None or media_type[1].lower() != b"text/plain":
        return False
    parameters = _parameters(value, media_type.end())
    return parameters is not None and all(_is_harmless(key, said) for key, said in parameters)


def _parameters(value: bytes, position: int) -> list[tuple[bytes, bytes]] | None:
    """Names in lower case and values as they stand; None where they cannot be read."""
    found = []
    while position < len(value):
        parameter = _PARAMETER.match(value, position)
        if parameter is None:
            return None
        name, said = parameter.groups()
        if name is not None:
            found.append((name.lower(), said))
        position = parameter.end()
    return found


def _multipart(parameters: list[tuple[bytes, bytes]]) -> MediaType:
    names = [name for name, _ in parameters]
    if sorted(set(names) | {b"charset"}) != [b"boundary", b"charset"] or names.count(b"boundary") != 1:
        return _OTHER
    boundary = dict(parameters)[b"boundary"]
    if boundary.startswith(b'"'):
        boundary = boundary[1:-1]
    return MediaType("multipart", boundary) if _BOUNDARY.fullmatch(boundary) is not None else _OTHER


def _is_harmless(parameter: bytes, value: bytes) -> bool:
    # `charset*=` and `charset*0=` are a charset to those who read them (RFC 2231).
    if parameter.partition(b"*")[0] != b"charset":
        return True
    return parameter == b"charset" and value.strip(b'"').lower() in (b"utf-8", b"utf8")
