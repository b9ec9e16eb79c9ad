"""Where each key and each list item of a TOML text stands, for messages that name a line.

`tomllib` gives values and no places. This scanner walks the same text (TOML v1.0.0) and keeps only places: it
never evaluates a value, so it does not judge either. On a text that is no TOML it keeps what it saw up to
there.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from secmiddleware.patterns import compiled

KeyPath = tuple[str | int, ...]
"""Keys and list indexes from the root, as in `("routes", 1, "allow", 0)`."""

# Ours nest five levels. tomllib's time grows with the square of the parts of a dotted key, and it recurses:
# beyond this a text is not handed to it.
DEPTH_LIMIT: Final = 32

_BARE_KEY: Final = re.compile(r"[A-Za-z0-9_-]+")
_SPACES: Final = re.compile(r"[ \t]*")
_BLANK: Final = re.compile(r"(?:[ \t\n]|#[^\n]*)*")
_REST_OF_LINE: Final = re.compile(r"[ \t]*(?:#[^\n]*)?(?:\n|\Z)")
# A number, a boolean, a date: a date and its time may have one space between them.
_BARE_VALUE: Final = re.compile(r"[^\s,\]}#=\"'\[{][^,\]}#\n]*")
# The possessive groups keep a long unclosed string from costing more than one pass. A multi-line string may
# end in up to two quotes of its own before the three that close it.
_STRINGS: Final = (
    ('"""', compiled(r'"""(?:[^"\\]|\\.|"{1,2}(?!"))*+"{3,5}', re.DOTALL)),
    ("'''", compiled(r"'''(?:[^']|'{1,2}(?!'))*+'{3,5}")),
    ('"', compiled(r'"(?:[^"\\\n]|\\[^\n])*+"')),
    ("'", re.compile(r"'[^'\n]*+'")),
)
_ESCAPE: Final = re.compile(r"\\(?:u([0-9A-Fa-f]{4})|U([0-9A-Fa-f]{8})|([btnfr\"\\]))")
_ESCAPED: Final = {"b": "\b", "t": "\t", "n": "\n", "f": "\f", "r": "\r", '"': '"', "\\": "\\"}


@dataclass(frozen=True, slots=True)
class Positions:
    """The lines of a text, counted from 1."""

    lines: Mapping[KeyPath, int]
    """Where each key, table and list item begins; a table is first seen where any part of it is."""
    repeated: tuple[tuple[KeyPath, int, int], ...] = ()
    """What is given twice: the path, its first line and the other."""
    too_deep: int | None = None
    """The line on which the text nests deeper than `DEPTH_LIMIT`; nothing behind it was read."""

    def line_of(self, path: KeyPath) -> int | None:
        """The line of a path, or of the nearest table or list around it; None where there is none."""
        for length in range(len(path), 0, -1):
            line = self.lines.get(path[:length])
            if line is not None:
                return line
        return None

    def last_before(self, line: int) -> KeyPath | None:
        """The path that begins last at or above a line."""
        found: KeyPath | None = None
        best = 0
        for path, at in self.lines.items():
            if best <= at <= line:
                found, best = path, at
        return found


def scan(text: str) -> Positions:
    r"""The places of everything in a TOML text.

    >>> scan('[a]\nb = [1,\n 2]').lines
    {('a',): 1, ('a', 'b'): 2, ('a', 'b', 0): 2, ('a', 'b', 1): 3}
    """
    scanner = _Scanner(text)
    too_deep = None
    try:
        scanner.read_document()
    except _Unreadable:
        pass
    except _TooDeep:
        too_deep = scanner.line()
    return Positions(scanner.lines, tuple(scanner.repeated), too_deep)


class _Unreadable(Exception):  # noqa: N818  (ends the walk, is never seen outside)
    """The text is not TOML here."""


class _TooDeep(Exception):  # noqa: N818
    """The text nests deeper than any of ours."""


@dataclass(slots=True)
class _Open:
    """A list or an inline table that is not closed yet."""

    path: KeyPath
    close: str
    count: int = 0


class _Scanner:
    def __init__(self, text: str) -> None:
        self.text = text.replace("\r\n", "\n")
        self.pos = 0
        self.lines: dict[KeyPath, int] = {}
        self.repeated: list[tuple[KeyPath, int, int]] = []
        self._newlines = [match.start() for match in re.finditer("\n", self.text)]
        self._lengths: dict[KeyPath, int] = {}
        self._given: dict[KeyPath, int] = {}

    def line(self) -> int:
        return bisect_left(self._newlines, self.pos) + 1

    def read_document(self) -> None:
        table: KeyPath = ()
        while self._skip(_BLANK) < len(self.text):
            if self._accept("[["):
                table = self._header("]]", of_list=True)
            elif self._accept("["):
                table = self._header("]", of_list=False)
            else:
                self._value(self._assignment(table))
            self._expect(_REST_OF_LINE)

    def _header(self, close: str, *, of_list: bool) -> KeyPath:
        keys = self._key()
        path: KeyPath = ()
        for number, key in enumerate(keys, 1):
            path = (*path, key)
            self._note(path)
            if number < len(keys) and path in self._lengths:
                path = (*path, self._lengths[path] - 1)
        if of_list:
            index = self._lengths.get(path, 0)
            self._lengths[path] = index + 1
            path = (*path, index)
            self._note(path)
        else:
            self._give(path)
        self._skip(_SPACES)
        if not self._accept(close):
            raise _Unreadable
        return path

    def _assignment(self, table: KeyPath) -> KeyPath:
        keys = self._key()
        self._skip(_SPACES)
        if not self._accept("="):
            # What stands alone on a line may be a piece of a secret, and is never named.
            raise _Unreadable
        path = table
        for key in keys:
            path = (*path, key)
            self._note(path)
        self._give(path)
        self._skip(_SPACES)
        return path

    def _key(self) -> list[str]:
        keys = []
        while True:
            self._skip(_SPACES)
            keys.append(self._simple_key())
            if len(keys) > DEPTH_LIMIT:
                raise _TooDeep
            self._skip(_SPACES)
            if not self._accept("."):
                return keys

    def _simple_key(self) -> str:
        match self._peek():
            case '"':
                return _unescape(self._expect(_STRINGS[2][1])[1:-1])
            case "'":
                return self._expect(_STRINGS[3][1])[1:-1]
            case _:
                return self._expect(_BARE_KEY)

    def _value(self, path: KeyPath) -> None:
        stack: list[_Open] = []
        self._begin_value(path, stack)
        while stack:
            top = stack[-1]
            self._skip(_BLANK)
            if self._accept(top.close):
                stack.pop()
            elif self._accept(","):
                continue
            elif top.close == "]":
                item = (*top.path, top.count)
                top.count += 1
                self._note(item)
                self._begin_value(item, stack)
            else:
                self._begin_value(self._assignment(top.path), stack)

    def _begin_value(self, path: KeyPath, stack: list[_Open]) -> None:
        """Pass over a plain value, or push the list or inline table that begins here."""
        if self._accept("["):
            stack.append(_Open(path, "]"))
        elif self._accept("{"):
            stack.append(_Open(path, "}"))
        else:
            quoted = (pattern for mark, pattern in _STRINGS if self.text.startswith(mark, self.pos))
            self._expect(next(quoted, _BARE_VALUE))

    def _note(self, path: KeyPath) -> None:
        if len(path) > DEPTH_LIMIT:
            raise _TooDeep
        self.lines.setdefault(path, self.line())

    def _give(self, path: KeyPath) -> None:
        if path in self._given:
            self.repeated.append((path, self._given[path], self.line()))
        else:
            self._given[path] = self.line()

    def _peek(self) -> str:
        return self.text[self.pos : self.pos + 1]

    def _accept(self, mark: str) -> bool:
        if not self.text.startswith(mark, self.pos):
            return False
        self.pos += len(mark)
        return True

    def _skip(self, pattern: re.Pattern[str]) -> int:
        match = pattern.match(self.text, self.pos)
        self.pos = self.pos if match is None else match.end()
        return self.pos

    def _expect(self, pattern: re.Pattern[str]) -> str:
        match = pattern.match(self.text, self.pos)
        if match is None:
            raise _Unreadable
        self.pos = match.end()
        return match.group()


def _unescape(text: str) -> str:
    """A basic string's value (TOML v1.0.0, “String”), as far as a key needs it."""

    def decode(match: re.Match[str]) -> str:
        short, long, letter = match.groups()
        if letter is not None:
            return _ESCAPED[letter]
        point = int(short or long, 16)
        if point > 0x10FFFF:
            raise _Unreadable
        return chr(point)

    return _ESCAPE.sub(decode, text)
