"""JSON text (RFC 8259) as bytes: whether it may be rewritten at all, and patterns that step over its parts.

The patterns are loose on purpose and fit only what `check` has let through: they never look for mistakes. All
quantifiers are possessive, so that nothing is ever tried twice: the time is linear, whatever a body holds.
"""

from __future__ import annotations

import codecs
import re
from typing import Final

import msgspec

from secmiddleware.fields.json_depth import TooDeep, decode_shallow, depth
from secmiddleware.patterns import compiled

MAX_DEPTH: Final = 200
"""Arrays and objects inside each other. No document in practice comes near, and Python's own `json`, which an
app may read the body with, gives up at about 1000 less the depth of its stack."""

BOM: Final = b"\xef\xbb\xbf"

STRING: Final = rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"'
SCALAR: Final = rb"[-+.0-9A-Za-z]++"
WS: Final = rb"[ \t\n\r]*+"
SEPARATOR: Final = rb"[ \t\n\r,]*+"
"""Between members or elements. That commas stand where they must has been checked."""
COLON: Final = rb"[ \t\n\r:]*+"
"""Between a name and its value; likewise."""

# The depth to which containers are stepped over by one regular expression, which has no recursion: each level
# is written out. What is deeper is counted bracket by bracket.
_UNROLLED: Final = 8


def _unrolled(depth: int) -> bytes:
    flat = rb'[^"\[\]{}]*+'
    inside = flat + rb"(?:" + STRING + flat + rb")*+"
    for _ in range(depth):
        inside = flat + rb"(?:" + STRING + flat + rb"|[\[{]" + inside + rb"[\]}]" + flat + rb")*+"
    return inside


CONTENT: Final = _unrolled(_UNROLLED - 1)
"""Everything between the brackets of an array or object."""
VALUE: Final = rb"(?:" + STRING + rb"|" + SCALAR + rb"|[\[{]" + CONTENT + rb"[\]}])"

_VALUE_AT: Final = compiled(VALUE, re.DOTALL)
_BRACKET: Final = compiled(rb'[^"\[\]{}]*+(?:' + STRING + rb'[^"\[\]{}]*+)*+([\[\]{}])', re.DOTALL)
_PART: Final = 128 * 1024

_SEPARATOR: Final = re.compile(SEPARATOR)
_LONE_SURROGATE: Final = re.compile(rb"\\u[dD][89a-fA-F][0-9a-fA-F]{2}")

_raw: Final = msgspec.json.Decoder(msgspec.Raw)
_string: Final = msgspec.json.Decoder(str)


class UnreadableJSON(ValueError):  # noqa: N818  (a fact about a body, for whoever must refuse it)
    """A body that is not JSON in UTF-8, or too deep. Never says more: the body may hold secrets."""


def check(body: bytes, max_depth: int = MAX_DEPTH) -> int:
    """Where the JSON text of `body` begins: 0, or behind a byte order mark.

    It has the grammar of RFC 8259 to the letter: no NaN, no comments, nothing behind it, UTF-8 only. The
    escape of half a surrogate pair is let through, as the grammar does (§8.2); JavaScript sends it.

    Raises:
        UnreadableJSON: it is anything else, or deeper than `max_depth`.
    """
    start = len(BOM) if body.startswith(BOM) else 0
    try:
        check_utf8(body)
        _check_grammar(body[start:] if start else body, max_depth)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, TooDeep):
        raise UnreadableJSON from None
    return start


def are_texts(lines: bytes, max_depth: int = MAX_DEPTH) -> bool:
    """Whether each line is a JSON text or blank, by one look at all of them.

    False also where `check` might say otherwise: of half a surrogate pair, and of a byte order mark.
    """
    try:
        check_utf8(lines)
        texts = _raw.decode_lines(lines)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return False
    apart = lines.split(b"\n")
    # To msgspec the end of a line is a space. Where no text goes over one, each line that is not blank has a
    # text at least; as many texts as such lines, and each has one.
    if len(texts) != sum(map(bool, map(bytes.strip, apart))) or b"\n" in b"".join(texts):
        return False
    # A level takes two bytes.
    return len(max(apart, key=len)) <= 2 * max_depth or depth(lines) <= max_depth


def check_utf8(body: bytes) -> None:
    """Raises UnicodeDecodeError for what is not UTF-8: msgspec does not look at what it steps over."""
    if body.isascii():
        return
    if len(body) <= _PART:
        body.decode("utf-8")
        return
    # In parts: as text it may be four times as large.
    view = memoryview(body)
    start, last = 0, len(body) - _PART
    while start < last:
        # A character that is cut in two is left for the next part.
        start += codecs.utf_8_decode(view[start : start + _PART])[1]
    codecs.utf_8_decode(view[start:], None, True)  # noqa: FBT003  (the codec's)


def _check_grammar(text: bytes, max_depth: int) -> None:
    try:
        decode_shallow(_raw.decode, text, max_depth)
    except msgspec.DecodeError:
        # msgspec refuses half a surrogate pair. Put a letter in the place of every surrogate, as long and as
        # much an escape as it was, and ask again: the grammar of the rest is the same.
        mended, surrogates = _LONE_SURROGATE.subn(rb"\\u0041", text)
        if not surrogates:
            raise
        decode_shallow(_raw.decode, mended, max_depth)


def after_separator(body: bytes, position: int) -> int:
    """Where the next member, element or closing bracket begins."""
    found = _SEPARATOR.match(body, position)
    return position if found is None else found.end()


def end_of_value(body: bytes, start: int) -> int:
    """Where the value that begins at `start` ends, of a body that `check` let through."""
    if (found := _VALUE_AT.match(body, start)) is not None:
        return found.end()
    depth = 0
    for bracket in _BRACKET.finditer(body, start):
        depth += 1 if body[bracket.end() - 1] in b"[{" else -1
        if depth == 0:
            return bracket.end()
    raise UnreadableJSON  # not after `check`


def is_shallow(body: bytes, start: int) -> bool:
    """Whether the value that begins at `start` is one that VALUE matches: not too deep for it."""
    return _VALUE_AT.match(body, start) is not None


def text_of_string(literal: bytes) -> str | None:
    """What a JSON string (its quotes included) says; None for half a surrogate pair, which is no text.

    `literal` is a value of a body that `check` let through, or anything else: then the answer is None too.
    """
    try:
        return _string.decode(literal)
    except msgspec.DecodeError:
        return None
