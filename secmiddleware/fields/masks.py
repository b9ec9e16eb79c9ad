"""Masks: what a caller is shown of a value that is not for them, and how it is known when it comes back.

A mask is a JSON string of three stars and, where the field says so, the last characters of the value. However
long the value is, its mask is as long as any other of the field.
"""

from __future__ import annotations

import re
from typing import Final

import msgspec

from secmiddleware.fields.json_reading import text_of_string

STARS: Final = "***"
MASK: Final = b'"***"'
"""The mask that shows nothing."""

HIDDEN: Final = 4
"""Characters that stay hidden at least: three decimal digits are found in five hundred tries or so."""

_NUMBER: Final = re.compile(rb"-?([0-9]+)(?:\.([0-9]+))?")


def mask_of(value: bytes, last: int) -> bytes:
    """The mask of a raw JSON value with its `last` characters, where as many, and HIDDEN, stay hidden.

    Of a string these are the last of its text, of a number its last digits. Nothing is shown of a number with
    an exponent, of a string with half a surrogate pair, or of what is neither string nor number.
    """
    text = _text_of(value)
    if last == 0 or text is None or len(text) - last < max(last, HIDDEN):
        return MASK
    return msgspec.json.encode(STARS + text[-last:])


def is_mask(text: str, last: int) -> bool:
    """Whether a text has the form of a mask with up to `last` characters of a value."""
    # Up to, as some clients trim what they send: a mask that ended in a space is a mask without it, too.
    return text.startswith(STARS) and len(text) - len(STARS) <= last


def _text_of(value: bytes) -> str | None:
    if value.startswith(b'"'):
        return text_of_string(value)
    number = _NUMBER.fullmatch(value)
    return None if number is None else b"".join(part or b"" for part in number.groups()).decode("ascii")
