"""What a Content-Type says that a body is (RFC 9110 §8.3)."""

from __future__ import annotations

import re
from typing import Final, Literal

from secmiddleware.fields.heads import AmbiguousHeader
from secmiddleware.messages import Headers, header_values

Kind = Literal["json", "other"]

# RFC 9110 §8.3.1: type, subtype and parameters; a value is a token or a quoted string.
_TOKEN: Final = rb"[!#$%&'*+.^_`|~0-9A-Za-z-]++"
_PARAMETER: Final = re.compile(
    rb"[ \t]*+;[ \t]*+(?:(" + _TOKEN + rb")=(" + _TOKEN + rb'|"(?:[^"\\]|\\.)*+"))?', re.DOTALL
)
_MEDIA_TYPE: Final = re.compile(rb"(" + _TOKEN + rb"/" + _TOKEN + rb")")
_JSON: Final = re.compile(rb"application/(?:json|[!#$%&'*+.^_`|~0-9a-z-]+\+json)")


def kind_of_body(headers: Headers) -> Kind:
    """Whether the body is said to be JSON in UTF-8 (or nothing is said), or something else.

    Raises:
        AmbiguousHeader: there are several different Content-Type headers.
    """
    types = {value.strip(b" \t") for value in header_values(headers, b"content-type")}
    if len(types) > 1:
        raise AmbiguousHeader("content-type")
    return "json" if all(_is_json(value) for value in types) else "other"


def _is_json(value: bytes) -> bool:
    media_type = _MEDIA_TYPE.match(value)
    if media_type is None or _JSON.fullmatch(media_type[1].lower()) is None:
        return False
    position = media_type.end()
    while position < len(value):
        parameter = _PARAMETER.match(value, position)
        if parameter is None:
            return False
        name, said = parameter.groups()
        if name is not None and not _is_harmless(name.lower(), said.lower()):
            return False
        position = parameter.end()
    return True


def _is_harmless(parameter: bytes, value: bytes) -> bool:
    # `charset*=` and `charset*0=` are a charset to those who read them (RFC 2231).
    if parameter.partition(b"*")[0] != b"charset":
        return True
    return parameter == b"charset" and value.strip(b'"') in (b"utf-8", b"utf8")
