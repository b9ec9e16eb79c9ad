"""Finding marked values in a JSON body and splicing others in, every other byte as it was.

Marks form one automaton: what a state of it does not care about is stepped over by one regular expression, so
that Python only sees members on the way to a mark. All duplicates of a name are found, and every escaped
spelling of it; where two marks take one value inside the other, the outer one has it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from typing import Final, Literal

import msgspec

from secmiddleware.fields.json_reading import (
    MAX_DEPTH,
    SEPARATOR,
    STRING,
    VALUE,
    WS,
    UnreadableJSON,
    check,
    end_of_value,
    is_shallow,
    text_of_string,
)
from secmiddleware.fields.json_shortcut import ESCAPED_SIMPLE, SIMPLE_NAME, Shortcut
from secmiddleware.fields.json_states import State, build
from secmiddleware.fields.marks import Descend, Mark, Name

Duplicates = Literal["reject", "all"]

MAX_HITS: Final = 1 << 16
"""Marked values in one body: at 2 to 3 µs for each, some 0.2 s of work in one go."""

_OPEN_OBJECT: Final = ord("{")
_CLOSE_ARRAY: Final = ord("]")
_BACKSLASH: Final = ord("\\")
_QUOTE: Final = ord('"')


class TooManyHits(ValueError):  # noqa: N818  (a fact about a body, for whoever must refuse it)
    """A body with more marked values than are allowed."""


class DuplicateName(UnreadableJSON):
    """An object on the way to a mark that has a name of that way twice: which one counts, nobody can tell."""


class Hit(msgspec.Struct, frozen=True, gc=False):
    """A marked value: the bytes from `start` to `end`, and the index of the first mark that selects it."""

    start: int
    end: int
    mark: int


class Locator:
    """Finds the values that any of a set of marks selects. Compiled once, used for every body.

    Raises ValueError where the marks would make too large an automaton: many `[*]` behind a `..name`.
    """

    def __init__(
        self,
        marks: Sequence[Mark],
        duplicates: Duplicates = "reject",
        *,
        max_depth: int = MAX_DEPTH,
        max_hits: int = MAX_HITS,
    ) -> None:
        """`duplicates`: members of one name in one object, at a step of a mark, are unreadable or all marked."""
        self._unique = duplicates == "reject"
        self._max_depth = max_depth
        self._max_hits = max_hits
        self._root = build(marks)
        self._needs = tuple({_needed_names(mark, self._unique) for mark in marks})
        names = [step.name for mark in marks for step in mark.steps if isinstance(step, Name | Descend)]
        simple = all(SIMPLE_NAME.fullmatch(name) for name in names)
        self._escape = ESCAPED_SIMPLE if simple else re.compile(rb"\\")
        self._sweep = _sweep_for(marks)
        self._shortcut = _shortcut(self._root, unique=self._unique, max_depth=max_depth)

    def locate(self, body: bytes) -> list[Hit]:
        """Every marked value, in order, none inside another.

        Raises:
            UnreadableJSON: the body is not JSON; then it must not go on, marked values or not. Where
                duplicates are rejected, a DuplicateName.
            TooManyHits: there are more than `max_hits` of them.
        """
        if self._shortcut is not None and (spans := self._shortcut.find(body)) is not None:
            if len(spans) > self._max_hits:
                raise TooManyHits
            return [Hit(*span) for span in spans]
        return self.walk(body)

    def walk(self, body: bytes) -> list[Hit]:
        """As `locate`, without the shortcut: right for all marks and bodies, and several times slower."""
        start = check(body, self._max_depth)
        escaped = self._escape.search(body) is not None
        if not escaped and not any(all(name in body for name in needs) for needs in self._needs):
            return []
        if self._sweep is not None and not escaped:
            try:
                return self._up_to_the_limit(_swept(body, self._sweep, unique=self._unique))
            except _NeedsTheWalk:
                pass
        text = _match(_SPACE, body, start).end()
        return self._up_to_the_limit(_walked(body, text, self._root, unique=self._unique))

    def _up_to_the_limit(self, found: Iterator[Hit]) -> list[Hit]:
        hits = list(islice(found, self._max_hits + 1))
        if len(hits) > self._max_hits:
            raise TooManyHits
        return hits


def _shortcut(root: State | None, *, unique: bool, max_depth: int) -> Shortcut | None:
    if root is None:
        return None
    try:
        return Shortcut(root, unique=unique, max_depth=max_depth)
    except LookupError:
        return None


def splice(body: bytes, hits: Iterable[Hit], values: Iterable[bytes]) -> bytes:
    """The body with the bytes of each hit replaced by the value that stands in its place in `values`."""
    pieces: list[bytes] = []
    position = 0
    for hit, value in zip(hits, values, strict=True):
        pieces += (body[position : hit.start], value)
        position = hit.end
    pieces.append(body[position:])
    return b"".join(pieces)


def _needed_names(mark: Mark, unique: bool) -> tuple[bytes, ...]:
    """What a body must contain for the mark to matter, escapes apart."""
    names = [step.name.encode("utf-8") for step in mark.steps if isinstance(step, Name | Descend)]
    # Where the second of two names is not there, the first may still be there twice.
    return tuple(sorted(set(names[:1] if unique else names)))


# --- Marks of the form `$..name` and nothing else: one search over the text.
#
# A text `"name":` in a body of the right grammar is a member, unless its first quote is an escaped one. That
# is sound for simple names only: with a colon in its name, the end of one string and the beginning of the
# next would do.


@dataclass(frozen=True, slots=True)
class _Sweep:
    pattern: re.Pattern[bytes]
    rest: re.Pattern[bytes]
    """Steps over what follows in an object; its group is set if no wanted name was there up to the end."""
    marks: dict[bytes, int]


class _NeedsTheWalk(Exception):  # noqa: N818  (does not leave this module)
    """A search over the text cannot tell whether an object has a name twice."""


def _sweep_for(marks: Sequence[Mark]) -> _Sweep | None:
    names: dict[bytes, int] = {}
    for index, mark in enumerate(marks):
        match mark.steps:
            case (Descend(name),) if SIMPLE_NAME.fullmatch(name):
                names.setdefault(name.encode("ascii"), index)
            case _:
                return None
    choice = b"|".join(map(re.escape, names))
    # The first quote of a single name is left to look at where the rest was found: a letter is much rarer.
    pattern = (rb'"' if len(names) > 1 else b"") + rb"(" + choice + rb')"' + WS + rb":" + WS
    member = rb"(?!" + rb'"(?:' + choice + rb')")' + STRING + WS + rb":" + WS + VALUE
    rest = rb"(?:" + SEPARATOR + member + rb")*+" + SEPARATOR + rb"(\})?"
    return _Sweep(re.compile(pattern), re.compile(rest, re.DOTALL), names)


def _swept(body: bytes, sweep: _Sweep, *, unique: bool) -> Iterator[Hit]:
    position = end_of_object = 0
    while (found := sweep.pattern.search(body, position)) is not None:
        position = found.end()
        quote = found.start(1) - 1
        # Behind a backslash the quote is no opening one: it stands in the middle of another name.
        if body[quote] != _QUOTE or body[quote - 1] == _BACKSLASH:
            continue
        if quote < end_of_object:
            raise _NeedsTheWalk
        start, position = position, end_of_value(body, position)
        if unique:
            rest = _match(sweep.rest, body, position)
            if rest[1] is None:
                raise _NeedsTheWalk
            end_of_object = rest.end()
        yield Hit(start, position, sweep.marks[found[1]])


# --- All other marks: a walk through what the automaton wants.

_SPACE: Final = re.compile(WS)
_SEPARATOR: Final = re.compile(SEPARATOR)

_Place = tuple[int, State | None, bool]
"""Where the next value of interest begins, what is wanted of it, True; or where all ends, None, False."""


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
            return found.end(), None, False
        name = text_of_string(literal) if b"\\" in literal else literal[1:-1].decode("utf-8")
        if name is None or name not in self._state.members:
            return found.end(), self._state.other_members, True
        if self._seen is not None:
            if name in self._seen:
                raise DuplicateName
            self._seen.add(name)
        return found.end(), self._state.members[name], True


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
            return found.end(), state.other_elements, found[1] is None
        if self._jumps and wanted > self._index:
            found = _match(_steps_over(wanted - self._index), body, position)
            if found[1] is not None:
                return found.end(), None, False
            if is_shallow(body, found.end()):
                self._index = wanted + 1
                return found.end(), state.elements[wanted], True
            # It may have stopped early, at an element too deep for it: from here on each one is counted.
            self._jumps = False
        position = _match(_SEPARATOR, body, position).end()
        if body[position] == _CLOSE_ARRAY:
            return position + 1, None, False
        self._index += 1
        return position, state.elements.get(self._index - 1, state.other_elements), True


@lru_cache(maxsize=256)
def _steps_over(elements: int) -> re.Pattern[bytes]:
    # No body has 2**31 elements; a regular expression has a limit of its own at 2**32.
    count = b"%d" % min(elements, 1 << 31)
    return re.compile(
        rb"(?:" + SEPARATOR + VALUE + rb"){0," + count + rb"}+" + SEPARATOR + rb"(\])?", re.DOTALL
    )


def _walked(body: bytes, position: int, root: State | None, *, unique: bool) -> Iterator[Hit]:
    """The hits in the value that begins at `position`, in order."""
    inside: list[_InObject | _InArray] = []
    wanted = root
    while True:
        opening = body[position]
        if wanted is not None and wanted.wants_within(opening):
            inside.append(_InObject(wanted, unique=unique) if opening == _OPEN_OBJECT else _InArray(wanted))
            position += 1
        else:
            start, position = position, end_of_value(body, position)
            if wanted is not None and wanted.mark is not None:
                yield Hit(start, position, wanted.mark)
        more = False
        while inside and not more:
            position, wanted, more = inside[-1].proceed(body, position)
            if not more:
                inside.pop()
        if not more:
            return


def _match(pattern: re.Pattern[bytes], body: bytes, position: int) -> re.Match[bytes]:
    found = pattern.match(body, position)
    if found is None:
        raise UnreadableJSON  # not after `check`
    return found
