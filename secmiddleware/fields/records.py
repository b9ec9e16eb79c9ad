"""Rows of JSON texts: lines, sequences (RFC 7464), and server-sent events (WHATWG HTML §9.2).

Splitters cut a stream into units, each of which can go on by itself; the functions say where marked values
stand in units, one or many. Every byte belongs to a unit, so that what is not marked stays as it was.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Literal, Protocol

from secmiddleware.fields.json_reading import BOM, UnreadableJSON, check
from secmiddleware.fields.json_rewriting import MAX_HITS, Hit, Locator, TooManyHits
from secmiddleware.fields.pairs import Spot, UnreadableForm
from secmiddleware.patterns import compiled

RecordKind = Literal["lines", "sequence", "events"]

_RS: Final = b"\x1e"
_SPACE: Final = b" \t\r\n"

# How often an unfinished text of a sequence is looked at: each look reads it from its beginning.
_MOST_LOOKS: Final = 16


class Splitter(Protocol):
    """Cuts a stream into units."""

    @property
    def held(self) -> int:
        """Bytes of the unit that has begun and not ended."""

    def feed(self, chunk: bytes) -> list[bytes]:
        """The units that end with this chunk."""

    def finish(self) -> bytes:
        """What is left at the end."""


class _Buffer:
    """The bytes that no unit has yet."""

    def __init__(self) -> None:
        self._bytes = bytearray()
        self._searched = 0
        """Up to here no unit ends."""

    @property
    def held(self) -> int:
        """Bytes of the unit that has begun and not ended."""
        return len(self._bytes)

    def finish(self) -> bytes:
        """What is left at the end."""
        return self._take(len(self._bytes))

    def _take(self, end: int) -> bytes:
        taken = bytes(self._bytes[:end])
        del self._bytes[:end]
        self._searched = 0
        return taken


class Lines(_Buffer):
    """Units that end with a line feed. A carriage return before it is space to JSON, and stays."""

    def feed(self, chunk: bytes) -> list[bytes]:
        """The units that end with this chunk."""
        self._bytes += chunk
        end = self._bytes.rfind(b"\n", self._searched) + 1
        if end == 0:
            self._searched = len(self._bytes)
            return []
        return [line + b"\n" for line in self._take(end)[:-1].split(b"\n")]


class Sequence(_Buffer):
    """Units that begin with a record separator (RFC 7464 §2.2).

    One ends where the next begins, or with a line feed behind a JSON text that is whole: nobody waits for the
    next one to get this.
    """

    def __init__(self) -> None:
        super().__init__()
        self._looks = 0

    def feed(self, chunk: bytes) -> list[bytes]:
        """The units that end with this chunk."""
        self._bytes += chunk
        units = []
        if (end := self._bytes.rfind(_RS, max(self._searched, 1))) > 0:
            head, *texts = self._take(end).split(_RS)
            units = [*((head,) if head else ()), *(_RS + text for text in texts)]
            self._looks = 0
        self._searched = len(self._bytes)
        if self._ends_with_a_text():
            units.append(self._take(len(self._bytes)))
            self._looks = 0
        return units

    def _ends_with_a_text(self) -> bool:
        if not self._bytes.endswith(b"\n") or self._looks == _MOST_LOOKS:
            return False
        text = bytes(self._bytes[1:]) if self._bytes.startswith(_RS) else bytes(self._bytes)
        self._looks += 1
        try:
            check(text)
        except UnreadableJSON:
            # Behind a separator, blank lines may be how a text begins.
            return len(text) == len(self._bytes) and not text.strip(_SPACE)
        return True


# Possessive, so that CR LF is never taken for two ends of lines.
_EOL: Final = rb"(?>\r\n|\n|\r)"
_BLANK_LINE: Final = re.compile(_EOL + _EOL)
_LEADING_EOL: Final = re.compile(_EOL)


class Events(_Buffer):
    """Units that end with a blank line."""

    def feed(self, chunk: bytes) -> list[bytes]:
        """The units that end with this chunk."""
        self._bytes += chunk
        units = []
        while self._bytes:
            # A first LF may be that of a CR LF whose CR has gone already: no line ends with it, for certain.
            begin = 1 if self._bytes.startswith(b"\n") else 0
            found = _LEADING_EOL.match(self._bytes, begin)
            if found is None:
                found = _BLANK_LINE.search(self._bytes, max(self._searched - 3, begin))
            if found is None:
                self._searched = len(self._bytes)
                if begin == len(self._bytes):
                    units.append(self._take(begin))
                break
            units.append(self._take(found.end()))
        return units


def splitter_for(kind: RecordKind) -> Splitter:
    """A new splitter for a stream of this kind."""
    match kind:
        case "lines":
            return Lines()
        case "sequence":
            return Sequence()
        case "events":
            return Events()


@dataclass(frozen=True, slots=True)
class _OnOneLine:
    """A JSON value in a line: an end of a line in it, which is space, becomes a blank."""

    def read(self, written: bytes) -> bytes:
        return written

    def write(self, value: bytes) -> bytes:
        return value.replace(b"\r", b" ").replace(b"\n", b" ")


_ON_ONE_LINE: Final = _OnOneLine()


def texts_of(body: bytes, kind: Literal["lines", "sequence"]) -> Iterator[tuple[int, int]]:
    """Where each text of lines or of a sequence begins and ends; blank ones are none."""
    separator = b"\n" if kind == "lines" else _RS
    start = 0
    while start < len(body):
        end = body.find(separator, start)
        end = end if end >= 0 else len(body)
        if body[start:end].strip(_SPACE):
            yield start, end
        start = end + 1


def has_text(unit: bytes) -> bool:
    """Whether there is more in lines or a sequence than what is blank."""
    return bool(unit.strip(_SPACE + _RS))


# Events that are one line of data each.
_DATA_ALONE: Final = compiled(rb"(?:data:[^\r\n]*+\n\n)++")


def passes_by(block: bytes, kind: RecordKind, locator: Locator | None) -> bool:
    """Whether nothing is marked in these units, joined, and all of it can be read.

    False where only a look at each can tell. Without a locator nobody asks what they hold.
    """
    if locator is None or not block.strip(_SPACE + (_RS if kind == "sequence" else b"")):
        return True
    if kind == "events":
        if _DATA_ALONE.fullmatch(block) is None:
            return False
        block = block.replace(b"\n\ndata:", b"\n").removeprefix(b"data:")
    elif kind == "sequence":
        # A text may have several lines, and then is looked at by itself. The feed that ends one is space.
        block = block.replace(b"\n" + _RS, _RS).removesuffix(b"\n")
        if not block.startswith(_RS) or b"\n" in block:
            return False
        block = block.replace(_RS, b"\n")
    return locator.passes_by(block)


def locate_in_texts(body: bytes, kind: Literal["lines", "sequence"], locator: Locator) -> list[Hit]:
    """Every marked value of lines or of a sequence, each of which is a JSON text or blank.

    Raises UnreadableJSON, also for a text before the first separator of a sequence; TooManyHits.
    """
    if kind == "sequence" and body.partition(_RS)[0].strip(_SPACE):
        raise UnreadableJSON
    hits: list[Hit] = []
    for start, end in texts_of(body, kind):
        found = locator.locate(body[start:end])
        hits += (Spot(start + hit.start, start + hit.end, hit.mark, _ON_ONE_LINE) for hit in found)
        if len(hits) > MAX_HITS:
            raise TooManyHits
    return hits


_LINE: Final = re.compile(rb"([^\r\n]*+)(" + _EOL + rb"|\Z)")
_CONTINUED: Final = re.compile(_EOL + rb"data(?:: ?+|(?=[\r\n]|\Z))")


@dataclass(frozen=True, slots=True)
class _InEvent:
    """A JSON value in the data of an event, which may have several lines."""

    def read(self, written: bytes) -> bytes:
        return _CONTINUED.sub(b"\n", written)

    def write(self, value: bytes) -> bytes:
        return b"\ndata: ".join(value.replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n"))


_IN_EVENT: Final = _InEvent()


@dataclass(frozen=True, slots=True)
class _Data:
    """The data of one event: where its lines are, and whether other fields stand between them."""

    lines: tuple[tuple[int, int], ...]
    parted: bool

    def text(self, body: bytes) -> bytes:
        return b"\n".join(body[start:end] for start, end in self.lines)


def data_of_events(body: bytes) -> list[bytes]:
    """The data of each event, as a client gets it."""
    return [data.text(body) for data in _data_of_events(body)]


def locate_in_events(body: bytes, locator: Locator, plain: frozenset[bytes]) -> list[Hit]:
    """Every marked value in the data of events. Data must be a JSON text, blank, or one of `plain`.

    Raises UnreadableJSON, TooManyHits; UnreadableForm where a value is parted by another field.
    """
    hits: list[Hit] = []
    for data in _data_of_events(body):
        text = data.text(body)
        if not text.strip(_SPACE) or text in plain:
            continue
        for hit in locator.locate(text):
            start, end = _place(data, hit.start), _place(data, hit.end)
            if data.parted and b"\n" in text[hit.start : hit.end]:
                raise UnreadableForm(hit.mark)
            hits.append(Spot(start, end, hit.mark, _IN_EVENT))
        if len(hits) > MAX_HITS:
            raise TooManyHits
    return hits


def _place(data: _Data, offset: int) -> int:
    """Where a byte of an event's data stands in the body."""
    for start, end in data.lines:
        if offset <= end - start:
            return start + offset
        offset -= end - start + 1
    raise UnreadableForm  # no byte of the data is elsewhere


def _data_of_events(body: bytes) -> Iterator[_Data]:
    position = len(BOM) if body.startswith(BOM) else 0
    lines: list[tuple[int, int]] = []
    parted = other = False
    while position < len(body):
        line = _LINE.match(body, position)
        if line is None:
            break  # the pattern matches everywhere
        position = line.end()
        field, _, value = line[1].partition(b":")
        if not line[1]:
            if lines:
                yield _Data(tuple(lines), parted)
            lines, parted, other = [], False, False
        elif field == b"data":
            parted = parted or other
            start = line.end(1) - len(value) + value.startswith(b" ")
            lines.append((start, line.end(1)))
        else:
            other = bool(lines)
    if lines:
        yield _Data(tuple(lines), parted)
