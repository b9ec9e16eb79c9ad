"""The walk through a body that finds the marked values in it, whatever the marks and however it is spelled.

Python sees only members and elements on the way to a mark; what lies between is stepped over by the regular
expressions of the automaton's states.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from functools import lru_cache
from typing import Final

from secmiddleware.fields.json_reading import (
    SEPARATOR,
    VALUE,
    UnreadableJSON,
    end_of_value,
    is_shallow,
    text_of_string,
)
from secmiddleware.fields.json_states import Hit, State
from secmiddleware.patterns import compiled

_OPEN_OBJECT: Final = ord("{")
_CLOSE_ARRAY: Final = ord("]")


class DuplicateName(UnreadableJSON):
    """An object on the way to a mark that has a name of that way twice: which one counts, nobody can tell."""


_SEPARATOR: Final = re.compile(SEPARATOR)

# What stands where the next value of interest is: nothing more, the value, or those members of it, an object,
# that have not been stepped over.
_END: Final = 0
_VALUE: Final = 1
_MEMBERS: Final = 2

_STOPS: Final = {None: _VALUE, "inside": _MEMBERS, "end": _END}
"""By the groups of an array's pattern."""

_Place = tuple[int, State | None, int]
"""A position, what is wanted of the value there, and what of that stands there."""


class _InObject:
    """The walk through the members of one object."""

    __slots__ = ("_seen", "_state")

    def __init__(self, state: State, *, unique: bool) -> None:
        self._state = state
        self._seen: set[str] | None = set() if unique else None

    def proceed(self, body: bytes, position: int) -> _Place:
        found = _match(self._state.next_member, body, position)
        literal: bytes | None = found[1]
        if literal is None:
            return found.end(), None, _END
        name = text_of_string(literal) if b"\\" in literal else literal[1:-1].decode("utf-8")
        if name is None or name not in self._state.members:
            return found.end(), self._state.other_members, _VALUE
        if self._seen is not None:
            if name in self._seen:
                raise DuplicateName
            self._seen.add(name)
        return found.end(), self._state.members[name], _VALUE


class _InArray:
    """The walk through the elements of one array."""

    __slots__ = ("_index", "_jumps", "_state")

    def __init__(self, state: State) -> None:
        self._state = state
        self._index = 0
        self._jumps = state.other_elements is None

    def proceed(self, body: bytes, position: int) -> _Place:
        state = self._state
        wanted = state.next_index(self._index)
        if wanted is None:
            found = _match(state.next_element, body, position)
            return found.end(), state.other_elements, _STOPS[found.lastgroup]
        if self._jumps and wanted > self._index:
            found = _match(_steps_over(wanted - self._index), body, position)
            if found[1] is not None:
                return found.end(), None, _END
            if is_shallow(body, found.end()):
                self._index = wanted + 1
                return found.end(), state.elements[wanted], _VALUE
            # It may have stopped early, at an element too deep for it: from here on each one is counted.
            self._jumps = False
        position = _match(_SEPARATOR, body, position).end()
        if body[position] == _CLOSE_ARRAY:
            return position + 1, None, _END
        self._index += 1
        return position, state.elements.get(self._index - 1, state.other_elements), _VALUE


@lru_cache(maxsize=256)
def _steps_over(elements: int) -> re.Pattern[bytes]:
    # No body has 2**31 elements; a regular expression has a limit of its own at 2**32.
    count = b"%d" % min(elements, 1 << 31)
    return compiled(
        rb"(?:" + SEPARATOR + VALUE + rb"){0," + count + rb"}+" + SEPARATOR + rb"(\])?", re.DOTALL
    )


def walked(
    body: bytes, position: int, root: State | None, *, unique: bool, until: int = sys.maxsize
) -> Iterator[Hit]:
    """The hits in the value that begins at `position`, in order. None has its name behind `until`."""
    inside: list[_InObject | _InArray] = []
    wanted, stands = root, _VALUE
    while True:
        opening = body[position] if stands == _VALUE else _OPEN_OBJECT
        if wanted is not None and wanted.wants_within(opening):
            inside.append(_InObject(wanted, unique=unique) if opening == _OPEN_OBJECT else _InArray(wanted))
            position += stands == _VALUE
        else:
            start, position = position, end_of_value(body, position)
            if wanted is not None and wanted.mark is not None:
                yield Hit(start, position, wanted.mark)
        if position > until:
            return
        stands = _END
        while inside and stands == _END:
            position, wanted, stands = inside[-1].proceed(body, position)
            if stands == _END:
                inside.pop()
        if stands == _END:
            return


def _match(pattern: re.Pattern[bytes], body: bytes, position: int) -> re.Match[bytes]:
    found = pattern.match(body, position)
    if found is None:
        raise UnreadableJSON  # not after `check`
    return found
