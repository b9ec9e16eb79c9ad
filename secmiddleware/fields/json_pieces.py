"""Large bodies in pieces: what nothing is marked in is stepped over at the speed of a parser.

msgspec tells the text of each member and element, and so its length; what stands between two of them shows
that none is missing, since of two members of one name it keeps the last. Only pieces in which something is
marked are walked through. Where a proof fails, the whole value is.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import Any, Final

import msgspec
from msgspec import UNSET, Raw

from secmiddleware.fields.json_reading import SEPARATOR, STRING, WS, after_separator
from secmiddleware.fields.json_shapes import Array, Finder, Object, Part, passed, read_member, shape_of
from secmiddleware.fields.json_states import Hit, State
from secmiddleware.fields.json_walk import walked
from secmiddleware.patterns import compiled

# Below it, the walk is as quick.
SMALL: Final = 16 * 1024
# What is read takes some 64 bytes of memory for each element, whatever that is: where elements are shorter
# than so many bytes, the walk takes less.
_SHORT: Final = 16
# So many elements are compared with the body at once: a text that stays in the cache.
_BATCH: Final = 256

# Each level is read again as a whole; marks rarely go deeper before they come to small values.
_LEVELS: Final = 6

_OPEN_OBJECT: Final = ord("{")
_MEMBER: Final = compiled(SEPARATOR + STRING + WS + rb":" + WS, re.DOTALL)

_members: Final = msgspec.json.Decoder(dict[str, Raw])
_elements: Final = msgspec.json.Decoder(list[Raw])

_Text = bytes | memoryview | Raw
_Piece = tuple[int, _Text, State, Any]
"""Where a value begins, its text, what is wanted of it, what msgspec has read of that, if anything."""
# A name with half a surrogate pair, values of other types than the marks expect, too little stack.
_NOT_TOLD: Final = (msgspec.DecodeError, RecursionError, LookupError)


class Sieve:
    """Tells which elements of an array have something marked in them, for one state of theirs.

    Raises LookupError where msgspec cannot tell.
    """

    def __init__(self, wanted: State) -> None:
        if wanted.mark is not None:
            raise LookupError("all elements are marked")
        shape, self._part = shape_of(wanted, (), in_array=True)
        self._decoder = msgspec.json.Decoder(list[shape])  # type: ignore[valid-type]
        names, _ = passed(self._part, in_array=True)
        self._passed = tuple((name, Finder(name)) for name in sorted(names))

    def sift(self, value: _Text, body: bytes, start: int, read: Any, *, escaped: bool) -> list[int]:
        """The indices of those elements of `value`, which begins at `start`, that may have a hit inside.

        `read` are the elements, if they have been read already as this would read them.

        An element with a marked member twice is one of them. One with a name on the way to it twice may not
        be: msgspec keeps the last.

        Raises:
            LookupError: there may be such names.
            msgspec.DecodeError: there are values of other types than the marks expect.
        """
        if escaped and self._passed:
            raise LookupError
        elements = self._decoder.decode(value) if read is None else read
        counts: Counter[str] = Counter()
        found: set[int] = set()
        _sift(self._part, elements, range(len(elements)), counts, found)
        end = start + len(value)
        for name, finder in self._passed:
            if not finder.stands(counts[name], body, (start, end)):
                raise LookupError
        return sorted(found)


def _sift(
    part: Part, values: Sequence[Any], indices: Sequence[int], counts: Counter[str], found: set[int]
) -> None:
    match part:
        case Array(elements):
            pairs = [(i, one) for i, many in zip(indices, values, strict=True) for one in many or ()]
            _sift(elements, [one for _, one in pairs], [i for i, _ in pairs], counts, found)
        case Object(members):
            if None in values:
                indices = [i for i, value in zip(indices, values, strict=True) if value is not None]
                values = [value for value in values if value is not None]
            for get, name, member in members:
                inner = list(map(get, values))
                there = [i for i, value in zip(indices, inner, strict=True) if value is not UNSET]
                if there:
                    counts[name] += len(there)
                    _sift(member, [value for value in inner if value is not UNSET], there, counts, found)
        case _:
            found.update(indices)


class Pieces:
    """Finds the hits in one large body of the right grammar."""

    def __init__(
        self, body: bytes, sieves: dict[State, Sieve | None], *, unique: bool, escaped: bool
    ) -> None:
        """`sieves` are those of earlier bodies with the same marks; new ones are added.

        `escaped`: an escape in the body may stand for a character of a name.
        """
        self._body = body
        self._sieves = sieves
        self._unique = unique
        self._escaped = escaped

    def hits(
        self, start: int, value: _Text, wanted: State, read: Any, levels: int = _LEVELS
    ) -> Iterator[Hit]:
        """The hits in the value that begins at `start`, in order.

        `read` is what msgspec has read of it in the shape of `wanted`, None if it has not.
        """
        pieces = None
        opening = self._body[start]
        if levels and len(value) >= SMALL and wanted.wants_within(opening):
            in_value = self._in_object if opening == _OPEN_OBJECT else self._in_array
            pieces = in_value(start, value, wanted, read)
        if pieces is None:
            yield from walked(self._body, start, wanted, unique=self._unique)
        else:
            for place, piece, within, read_piece in pieces:
                yield from self.hits(place, piece, within, read_piece, levels - 1)

    def _in_object(self, start: int, value: _Text, state: State, read: Any) -> list[_Piece] | None:
        """The members in which something is wanted; None where they are not told apart so, or too small."""
        try:
            found = _members.decode(value)
        except _NOT_TOLD:
            return None
        if len(value) < _SHORT * len(found):
            return None
        pieces: list[_Piece] = []
        position = start + 1
        for name, member in found.items():
            before = _MEMBER.match(self._body, position)
            if before is None or not self._body.startswith(member, before.end()):
                return None
            position = before.end() + len(member)
            wanted = state.members.get(name, state.other_members)
            if wanted is not None:
                # There is one of this name, or the texts would not follow each other: it is what was read.
                pieces.append((before.end(), member, wanted, read_member(read, state, name)))
        return pieces if after_separator(self._body, position) + 1 == start + len(value) else None

    def _in_array(self, start: int, value: _Text, state: State, read: Any) -> list[_Piece] | None:
        """The elements in which something is wanted; None where they are not told apart so, or too small."""
        most = len(read) if read else self._body.count(b",", start, start + len(value))
        if len(value) < _SHORT * most:
            return None
        try:
            elements = _elements.decode(value)
        except _NOT_TOLD:
            return None
        if state.other_elements is None:
            indices: Sequence[int] = sorted(index for index in state.elements if index < len(elements))
        elif state.elements:
            indices = range(len(elements))
        else:
            indices = self._sifted(state.other_elements, start, value, read, len(elements))
        pieces: list[_Piece] = []
        for index, position in self._places(start + 1, elements, indices):
            wanted = state.elements.get(index, state.other_elements)
            if wanted is None:
                raise ValueError("only wanted elements are looked for")
            pieces.append((position, elements[index], wanted, read[index] if read else None))
        return pieces

    def _sifted(self, wanted: State, start: int, value: _Text, read: Any, count: int) -> Sequence[int]:
        """The elements that may have a hit inside; where that cannot be told, all."""
        if wanted not in self._sieves:
            self._sieves[wanted] = _sieve_for(wanted)
        sieve = self._sieves[wanted]
        if sieve is not None:
            try:
                return sieve.sift(value, self._body, start, read, escaped=self._escaped)
            except _NOT_TOLD:
                pass
        return range(count)

    def _places(
        self, position: int, elements: list[Raw], indices: Sequence[int]
    ) -> Iterator[tuple[int, int]]:
        """Each of the indices, which are in order, and where that element begins."""
        separator = None
        done = 0
        for first in range(0, indices[-1] + 1 if indices else 0, _BATCH):
            batch = elements[first : first + _BATCH]
            position = after_separator(self._body, position)
            if separator is None:
                behind = position + len(batch[0])
                separator = self._body[behind : after_separator(self._body, behind)]
            text = separator.join(batch)
            if self._body.startswith(text, position):
                apart = [len(element) + len(separator) for element in batch]
                places = list(accumulate(apart, initial=position))
                position += len(text)
            else:
                places = []
                for element in batch:
                    position = after_separator(self._body, position)
                    places.append(position)
                    position += len(element)
            until = bisect_left(indices, first + len(batch), done)
            yield from ((index, places[index - first]) for index in indices[done:until])
            done = until


def _sieve_for(wanted: State) -> Sieve | None:
    try:
        return Sieve(wanted)
    except LookupError:
        return None
