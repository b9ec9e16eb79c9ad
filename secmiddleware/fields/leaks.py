"""The leak guard: whether a value that was opened in an exchange leaves it outside a mark.

An app can echo what it was given: a validation error that quotes its input would hand a caller the plaintext
of another's token. What is looked for is each opened value as it is and as web apps escape it (JSON and
JavaScript, HTML and XML, URLs, cookies, Python's repr, CSV); a value that an app encodes otherwise (base64,
UTF-16) or changes is not found.
"""

from __future__ import annotations

import html
import json
import re
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import Final
from urllib.parse import quote, quote_plus

from secmiddleware.fields.json_reading import SCALAR, STRING, WS, text_of_string
from secmiddleware.messages import Headers
from secmiddleware.patterns import compiled

SHORTEST: Final = 6
"""Bytes of the shortest value that is looked for: a shorter one would be found by accident."""
LONGEST: Final = 256
"""Bytes that are looked for of a longer value: who is shown its beginning is shown too much. The bound keeps
the search linear, however long and alike the values are."""

# Up to here each needle is searched for by itself, at a gigabyte a second or more; beyond, the text is read
# once, at about 0.1 µs a byte, for all of them.
_FEW: Final = 64

_SCALARS: Final = compiled(rb"(" + STRING + rb")(" + WS + rb":)?|(" + SCALAR + rb")", re.DOTALL)
_BETWEEN: Final = b"\x00"
_LINE_END: Final = re.compile(rb"\r\n|\n|\r")

# What is kept of a stream: as much as the longest needle, were each byte of it escaped in six.
_TAIL: Final = 6 * LONGEST


class Opened(list[tuple[str, bytes]]):
    """What the app was given: a field's name and a raw JSON value, each time; of a stream the newest."""

    # Of the class, so that making one, which every exchange does, is making a list.
    limit: int | None = None
    """Bytes of values that are remembered of those that are appended; None: all of them."""
    forgotten: int = 0
    """How many are not remembered any more."""
    guard: LeakGuard | None = None
    """The one that looks for them; see `LeakGuard.over`."""
    _size: int = 0

    def append(self, value: tuple[str, bytes], /) -> None:
        """Remember one more; half of what is beyond the limit is forgotten at once, the oldest first."""
        super().append(value)
        self._size += len(value[1])
        if self.limit is None or self._size <= self.limit:
            return
        count = 0
        while self._size > self.limit // 2 and count < len(self) - 1:
            self._size -= len(self[count][1])
            count += 1
        self.forgotten += count
        del self[:count]


class LeakGuard:
    """Looks for opened values in what is about to leave, and for those that are opened meanwhile."""

    __slots__ = ("_needles", "_older", "_opened", "_seen", "_size", "_tail")

    def __init__(self, opened: Iterable[tuple[str, bytes]]) -> None:
        """`opened`: a field's name and the raw JSON value, for each value that the app was given."""
        self._opened = opened if isinstance(opened, Opened) else Opened(opened)
        self._seen = 0
        self._size = 0
        self._needles = _Needles()
        self._older: _Needles | None = None
        self._tail = b""

    @classmethod
    def over(cls, opened: Opened) -> LeakGuard:
        """The one guard of an exchange."""
        if opened.guard is None:
            opened.guard = cls(opened)
        return opened.guard

    def prepare(self) -> None:
        """Make out what to look for: of large values that takes a microsecond or two for each byte."""
        self._looks()

    def found_in_headers(self, headers: Headers) -> str | None:
        """The field that a header's value holds a value of; None where none does."""
        return self._found(_BETWEEN.join(value for _, value in headers)) if self._looks() else None

    def found_in_body(self, pieces: Iterable[bytes]) -> str | None:
        """The field that one of the pieces holds a value of; None where none does."""
        # What a value would have to hold for straddling two pieces: no app puts a raw NUL there.
        return self._found(_BETWEEN.join(pieces)) if self._looks() else None

    def found_in_next(self, pieces: Iterable[bytes], *, runs_on: bool = False) -> str | None:
        """The same for the next unit of a stream, and for what lies over its edge.

        A unit ends with a line; where it `runs_on` with the next, as messages may that an app's page puts
        together, nothing need end with it.
        """
        text = _BETWEEN.join(pieces)
        before, self._tail = self._tail, (self._tail + text)[-_TAIL:]
        if not self._looks():
            return None
        # Nothing but a value of several lines lies over the end of one.
        if not runs_on and not self._has_beginnings:
            return self._found(text)
        if _MAY_ESCAPE.search(before) is None:
            before = before[-LONGEST:]  # it reads as it stands, and no needle is longer
        found = self._found(before + text)
        if found is None or self._found(before) is None:
            return found
        # The app had it before it was opened here, and it has gone: what comes behind it is for itself.
        self._tail = text[-_TAIL:]
        return self._found(text)

    @property
    def heeds_edges(self) -> bool:
        """Whether it matters where a unit of a stream ends: a value of several lines may lie over that."""
        return self._looks() and self._has_beginnings

    @property
    def _has_beginnings(self) -> bool:
        older = self._older
        return bool(self._needles.beginnings) or (older is not None and bool(older.beginnings))

    @property
    def may_have_begun(self) -> bool:
        """Whether the stream so far ends in the middle of a value that has several lines."""
        if not self._looks() or not self._has_beginnings:
            return False
        readings = tuple(_readings(self._tail))
        return any(
            reading[-size:] in needles.beginnings
            for needles in (self._needles, self._older)
            if needles is not None
            for size in needles.sizes
            for reading in readings
        )

    def _looks(self) -> bool:
        """Whether there is anything to look for."""
        opened = self._opened
        total = opened.forgotten + len(opened)
        if self._seen != total:
            for field, value in dict.fromkeys(opened[max(self._seen - opened.forgotten, 0) :]):
                self._add(field, value)
            self._seen = total
        return bool(self._needles.fields) or self._older is not None

    def _add(self, field: str, value: bytes) -> None:
        self._size += len(value)
        if self._opened.limit is not None and self._size > self._opened.limit:
            self._needles, self._older, self._size = _Needles(), self._needles, len(value)
        for needle in _needles_of(value):
            self._needles.add(needle[:LONGEST], field)

    def _found(self, text: bytes) -> str | None:
        for reading in _readings(text):
            for needles in (self._needles, self._older):
                if needles is not None and (needle := needles.first_in(reading)) is not None:
                    return needles.fields[needle]
        return None


class _Needles:
    """What is looked for, each with its field."""

    __slots__ = ("_index", "beginnings", "fields", "sizes")

    def __init__(self) -> None:
        self.fields: dict[bytes, str] = {}
        self.beginnings: set[bytes] = set()
        """Of needles with several lines: what comes up to the end of each line but the last."""
        self.sizes: set[int] = set()
        """How long these are: at most LONGEST of them."""
        self._index: _Index | None = None

    def add(self, needle: bytes, field: str) -> None:
        if needle in self.fields:
            return
        self.fields[needle] = field
        if b"\n" in needle or b"\r" in needle:
            for end in _LINE_END.finditer(needle):
                self.beginnings.add(needle[: end.end()])
                self.sizes.add(end.end())
        if self._index is not None:
            self._index.add(needle)
        elif len(self.fields) > _FEW:
            self._index = _Index(self.fields)

    def first_in(self, text: bytes) -> bytes | None:
        if self._index is not None:
            return self._index.first_in(text)
        return next((needle for needle in self.fields if needle in text), None)


class _Index:
    """Many needles, looked for together: the work for a byte of the text does not grow with their number."""

    __slots__ = ("_rows",)

    def __init__(self, needles: Iterable[bytes]) -> None:
        """Needles of SHORTEST to LONGEST bytes."""
        self._rows: dict[bytes, list[bytes]] = {}
        """Needles by how they begin, sorted, none the beginning of another: the shorter one is enough."""
        for needle in sorted(needles):
            row = self._rows.setdefault(needle[:SHORTEST], [])
            if not row or not needle.startswith(row[-1]):
                row.append(needle)

    def add(self, needle: bytes) -> None:
        row = self._rows.setdefault(needle[:SHORTEST], [])
        at = bisect_right(row, needle)
        if at and needle.startswith(row[at - 1]):
            return
        end = at
        while end < len(row) and row[end].startswith(needle):
            end += 1
        row[at:end] = [needle]

    def first_in(self, text: bytes) -> bytes | None:
        rows = self._rows
        for at in range(len(text) - SHORTEST + 1):
            row = rows.get(text[at : at + SHORTEST])
            if row is not None:
                window = text[at : at + LONGEST]
                # What the window begins with sorts before it, and nothing of the row sorts in between. Where
                # nothing sorts before it, this is the last of the row: then the window begins otherwise.
                needle = row[bisect_right(row, window) - 1]
                if window.startswith(needle):
                    return needle
        return None


# Text that no escaping changes.
_INERT: Final = re.compile(rb"[A-Za-z0-9 _.:,;@#()/*=?!~-]*+")


def _needles_of(value: bytes) -> Iterator[bytes]:
    """Every scalar of a JSON value that is long enough, in its spellings. Names of members are none."""
    for found in _SCALARS.finditer(value):
        literal, colon, number = found.groups()
        if number is not None:
            if number[:1].isalpha():
                continue  # true, false, null
            yield from _long_enough(number, _as_floats_are_written(number))
        elif colon is None:
            content: bytes = literal[1:-1]
            if _INERT.fullmatch(content):
                yield from _long_enough(content)
                continue
            text = text_of_string(literal)
            if text is None:
                yield from _long_enough(content, _unescaped(content))
            elif len(text.encode("utf-8")) >= SHORTEST:
                yield from _long_enough(content, *_spellings(text))


def _long_enough(*needles: bytes) -> Iterator[bytes]:
    return (needle for needle in needles if len(needle) >= SHORTEST)


def _as_floats_are_written(number: bytes) -> bytes:
    # An app that reads 1234567.10 writes 1234567.1; some read an integer of more than 64 bits as a float.
    if len(number) > 18 or b"." in number or b"e" in number.lower():
        return repr(float(number)).encode("ascii")
    return number


_LOOKS_ESCAPED: Final = re.compile(r"[\\&%+]")


def _spellings(text: str) -> Iterator[bytes]:
    as_is = text.encode("utf-8")
    yield as_is
    yield _unescaped(as_is)
    yield json.dumps(text).encode("ascii")[1:-1]
    yield json.dumps(text, ensure_ascii=False).encode("utf-8")[1:-1]
    if _LOOKS_ESCAPED.search(text) is not None:
        # Undoing the app's escapes would undo the text's own with them: it is looked for as it was escaped.
        for escaped in (html.escape(text), html.escape(text, quote=False), quote(text), quote(text, safe="")):
            yield escaped.encode("utf-8")
        yield quote_plus(text).encode("ascii")
    if _LINE_END.search(as_is) is not None:
        # Clients and writers of events join lines with a line feed, forms and mails with both.
        yield _LINE_END.sub(b"\n", as_is)
        yield _LINE_END.sub(b"\r\n", as_is)
    if '"' in text:
        yield text.replace('"', '""').encode("utf-8")  # as CSV has it
    with suppress(UnicodeEncodeError):
        yield text.encode("latin-1")  # as frameworks write headers


_ENTITY: Final = re.compile(rb"&(?:#([0-9]{1,7})|#[xX]([0-9a-fA-F]{1,6})|(amp|lt|gt|quot|apos));")
_NAMED: Final = {b"amp": b"&", b"lt": b"<", b"gt": b">", b"quot": b'"', b"apos": b"'"}
# JSON and JavaScript, the octal escapes of a quoted cookie (http.cookies), and what Python's repr has.
_ESCAPE: Final = compiled(
    rb"((?:\\u[0-9a-fA-F]{4})++)|((?:\\x[0-9a-fA-F]{2})++)|\\U([0-9a-fA-F]{8})|\\([0-3][0-7]{2})|\\([^u])",
    re.DOTALL,
)
_MAY_ESCAPE: Final = re.compile(rb"[\\&%+]")
_PERCENT: Final = compiled(rb"(?:%[0-9a-fA-F]{2})++")
_SHORT: Final = {b"b": b"\b", b"f": b"\f", b"n": b"\n", b"r": b"\r", b"t": b"\t"}


def _readings(text: bytes) -> Iterator[bytes]:
    """The text as it is, and as it reads when escapes are undone, once and twice."""
    yield text
    for _ in range(2):
        plain = _unescaped(text)
        if plain == text:
            return
        yield plain
        text = plain


def _unescaped(text: bytes) -> bytes:
    """The text with all that looks escaped put as it is, so that two spellings of one value become equal.

    It need not be what was meant: needles go through it too.
    """
    if b"&" in text:
        text = _ENTITY.sub(_of_entity, text)
    if b"\\" in text:
        text = _ESCAPE.sub(_of_escape, text)
    if b"%" in text:
        text = _PERCENT.sub(_of_percent, text)
    return text.replace(b"+", b" ")


def _of_entity(found: re.Match[bytes]) -> bytes:
    decimal, hexadecimal, name = found.groups()
    if name is not None:
        return _NAMED[name]
    code = int(decimal) if decimal is not None else int(hexadecimal, 16)
    return _utf_8_of(code)


def _utf_8_of(code: int) -> bytes:
    return chr(code).encode("utf-8", "surrogatepass") if code <= 0x10FFFF else b""


def _of_percent(found: re.Match[bytes]) -> bytes:
    return bytes.fromhex(found[0].replace(b"%", b"").decode("ascii"))


def _of_escape(found: re.Match[bytes]) -> bytes:
    units, octets, code, octal, char = found.groups()
    if units is not None:
        utf_16 = bytes.fromhex(units.replace(b"\\u", b"").decode("ascii"))
        return utf_16.decode("utf-16-be", "surrogatepass").encode("utf-8", "surrogatepass")
    if octets is not None:
        # UTF-8 in what is shown of bytes; of a text, each is a letter of Latin-1.
        said = bytes.fromhex(octets.replace(b"\\x", b"").decode("ascii"))
        try:
            said.decode("utf-8")
        except UnicodeDecodeError:
            return said.decode("latin-1").encode("utf-8")
        return said
    if code is not None:
        return _utf_8_of(int(code, 16))
    return bytes((int(octal, 8),)) if octal is not None else _SHORT.get(char, char)
