"""Forms in application/x-www-form-urlencoded (WHATWG URL §5): where the marked values of one stand.

A form is read as werkzeug, Django and Starlette read it, and where they differ it is not read at all: a raw
`;`, which was a separator once, and a name that is not ASCII or, escapes undone, not UTF-8. Nor is what could
be JSON.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Final
from urllib.parse import quote_plus

from secmiddleware.fields.pairs import (
    MAX_PAIRS,
    PairMarks,
    Spot,
    TooManyPairs,
    UnreadableForm,
    json_of_text,
    text_of_json,
    unescaped,
)
from secmiddleware.patterns import compiled

# Some apps read JSON whatever a body is called: a form that is JSON as well would come to them unread. To
# Python's `json` bytes may be UTF-16 or UTF-32, too; big-endian, these begin with a NUL.
_JSON: Final = compiled(rb"(?:\xef\xbb\xbf)?+[ \t\r\n\x00]*+[{\[]")


@dataclass(frozen=True, slots=True)
class _Escaped:
    """A text as a form spells it, behind the `=` or without one."""

    before: bytes = b""

    def read(self, written: bytes) -> bytes:
        return json_of_text(unescaped(written))

    def write(self, value: bytes) -> bytes:
        return self.before + quote_plus(text_of_json(value)).encode("ascii")


_BEHIND_EQUALS: Final = _Escaped()
_WITHOUT_EQUALS: Final = _Escaped(b"=")


def locate(body: bytes, marks: PairMarks) -> list[Spot]:
    """Every marked value, in order.

    Raises:
        UnreadableForm: it cannot be read in one way only.
        TooManyPairs: it has more than MAX_PAIRS pairs.
    """
    if body.count(b"&") >= MAX_PAIRS:
        raise TooManyPairs
    if b";" in body or _JSON.match(body) is not None:
        raise UnreadableForm
    spots: list[Spot] = []
    counts: Counter[str] = Counter()
    end = -1
    for pair in body.split(b"&"):
        start, end = end + 1, end + 1 + len(pair)
        if not pair:
            continue
        written, equals, value = pair.partition(b"=")
        name = _name(written)
        selection = marks.selection(name)
        if selection is None:
            continue
        mark = selection.of_text(counts[name])
        counts[name] += 1
        if mark is not None:
            writing = _BEHIND_EQUALS if equals else _WITHOUT_EQUALS
            spots.append(Spot(start + len(written) + len(equals), end, mark, writing))
        elif (hidden := selection.hidden_in(unescaped(value))) is not None:
            raise UnreadableForm(hidden)
    return spots


def _name(written: bytes) -> str:
    if not written.isascii():
        raise UnreadableForm
    try:
        return unescaped(written).decode("utf-8")
    except UnicodeDecodeError:
        raise UnreadableForm from None
