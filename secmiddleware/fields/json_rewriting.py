"""Finding marked values in a JSON body and splicing others in, every other byte as it was.

Marks form one automaton: what a state of it does not care about is stepped over by one regular expression, so
that Python only sees members on the way to a mark. All duplicates of a name are found, and every escaped
spelling of it; where two marks take one value inside the other, the outer one has it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import islice
from typing import Final

from secmiddleware.fields.json_reading import (
    CONTENT,
    SCALAR,
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
from secmiddleware.fields.marks import Descend, Index, Mark, Name, advances

MAX_HITS: Final = 1 << 16
"""Marked values in one body: at 2 to 3 µs for each, some 0.2 s of work in one go."""

# Marks become states by the subset construction, which can double with every `[*]` behind a `..name`.
# Ordinary sets of marks have about one state a step.
_MAX_STATES: Final = 1000

_OPEN_OBJECT: Final = ord("{")
_OPEN_ARRAY: Final = ord("[")
_CLOSE_ARRAY: Final = ord("]")
_BACKSLASH: Final = ord("\\")


class TooManyHits(ValueError):  # noqa: N818  (a fact about a body, for whoever must refuse it)
    """A body with more than MAX_HITS marked values."""


@dataclass(frozen=True, slots=True)
class Hit:
    """A marked value: the bytes from `start` to `end`, and the index of the first mark that selects it."""

    start: int
    end: int
    mark: int


class Locator:
    """Finds the values that any of a set of marks selects. Compiled once, used for every body.

    Raises ValueError where the marks would make too large an automaton: many `[*]` behind a `..name`.
    """

    def __init__(self, marks: Sequence[Mark]) -> None:
        self._root = _build(marks)
        self._needs = tuple({_needed_names(mark) for mark in marks})
        names = [step.name for mark in marks for step in mark.steps if isinstance(step, Name | Descend)]
        # An escape that may stand for a character of a name. A letter, digit, `-` or `_` has only this form
        # of it (RFC 8259 §7).
        simple = all(_SIMPLE_NAME.fullmatch(name) for name in names)
        self._escape = re.compile(rb"\\u00[2-7]" if simple else rb"\\")
        self._sweep = _sweep_for(marks)

    def locate(self, body: bytes) -> list[Hit]:
        """Every marked value, in order, none inside another.

        Raises:
            UnreadableJSON: the body is not JSON; then it must not go on, marked values or not.
            TooManyHits: there are more than MAX_HITS of them.
        """
        start = check(body)
        escaped = self._escape.search(body) is not None
        if not escaped and not any(all(name in body for name in needs) for needs in self._needs):
            return []
        if self._sweep is not None and not escaped:
            found = _swept(body, self._sweep)
        else:
            found = _walked(body, _match(_SPACE, body, start).end(), self._root)
        hits = list(islice(found, MAX_HITS + 1))
        if len(hits) > MAX_HITS:
            raise TooManyHits
        return hits


def splice(body: bytes, hits: Iterable[Hit], values: Iterable[bytes]) -> bytes:
    """The body with the bytes of each hit replaced by the value that stands in its place in `values`."""
    pieces: list[bytes] = []
    position = 0
    for hit, value in zip(hits, values, strict=True):
        pieces += (body[position : hit.start], value)
        position = hit.end
    pieces.append(body[position:])
    return b"".join(pieces)


def _needed_names(mark: Mark) -> tuple[bytes, ...]:
    """What a body must contain for the mark to hit, escapes apart."""
    names = {step.name for step in mark.steps if isinstance(step, Name | Descend)}
    return tuple(sorted(name.encode("utf-8") for name in names))


# --- Marks of the form `$..name` and nothing else: one search over the text.
#
# A text `"name":` in a body of the right grammar is a member, unless its first quote is an escaped one. That
# is sound for these names only: with a colon in its name, the end of one string and the beginning of the next
# would do.
_SIMPLE_NAME: Final = re.compile(r"[A-Za-z0-9_-]++")


@dataclass(frozen=True, slots=True)
class _Sweep:
    pattern: re.Pattern[bytes]
    marks: dict[bytes, int]


def _sweep_for(marks: Sequence[Mark]) -> _Sweep | None:
    names: dict[bytes, int] = {}
    for index, mark in enumerate(marks):
        match mark.steps:
            case (Descend(name),) if _SIMPLE_NAME.fullmatch(name):
                names.setdefault(name.encode("ascii"), index)
            case _:
                return None
    choice = b"|".join(map(re.escape, names))
    return _Sweep(re.compile(rb'"(' + choice + rb')"' + WS + rb":" + WS), names)


def _swept(body: bytes, sweep: _Sweep) -> Iterator[Hit]:
    position = 0
    while (found := sweep.pattern.search(body, position)) is not None:
        position = found.end()
        # Behind a backslash the quote is no opening one: it stands in the middle of another name.
        if body[found.start() - 1] != _BACKSLASH:
            start, position = position, end_of_value(body, position)
            yield Hit(start, position, sweep.marks[found[1]])


# --- All other marks: an automaton over the structure.

_Positions = frozenset[tuple[int, int]]
"""How far each mark has come: its index, and that of the step it stands before."""

_ANY_ELEMENT: Final = Index(-1)
_SPACE: Final = re.compile(WS)
_SEPARATOR: Final = re.compile(SEPARATOR)


class _State:
    """What is wanted of a value: itself (`mark`), or some of its members and elements."""

    def __init__(self, mark: int | None) -> None:
        self.mark = mark
        self.members: dict[str, _State] = {}
        self.other_members: _State | None = None
        self.elements: dict[int, _State] = {}
        self.other_elements: _State | None = None

    def wants_within(self, opening: int) -> bool:
        """Whether anything is wanted inside of a value that begins with this byte."""
        if opening == _OPEN_OBJECT:
            return bool(self.members) or self.other_members is not None
        return opening == _OPEN_ARRAY and (bool(self.elements) or self.other_elements is not None)

    @cached_property
    def next_member(self) -> re.Pattern[bytes]:
        """Steps over dull members; its group is the next name, or unset at the closing brace."""
        dull = rb"(?:" + SEPARATOR + self._dull_member(1) + rb")*+" + SEPARATOR
        name = rb"(" + STRING + rb")" + WS + rb":" + WS
        return re.compile(dull + rb"(?:" + name + rb"|\})", re.DOTALL)

    @cached_property
    def next_element(self) -> re.Pattern[bytes]:
        """Steps over dull elements, when no more index is wanted; its group is set at the closing bracket."""
        dull = VALUE if self.other_elements is None else self.other_elements.dull(1)
        return re.compile(rb"(?:" + SEPARATOR + dull + rb")*+" + SEPARATOR + rb"(\])?", re.DOTALL)

    def next_index(self, index: int) -> int | None:
        """The first wanted index that is not below `index`."""
        return min((wanted for wanted in self.elements if wanted >= index), default=None)

    def dull(self, depth: int) -> bytes:
        """A pattern of values in which nothing can be wanted; those that it misses are looked into.

        `depth` is how many levels it looks down where something may be wanted at every level. It bounds how
        often a byte is read again, when a container turns out not to be dull.
        """
        if self.mark is not None:
            return rb"(?!)"
        forms = [STRING, SCALAR]
        if self.other_members is None or depth > 0:
            forms.append(rb"\{(?:" + SEPARATOR + self._dull_member(depth) + rb")*+" + SEPARATOR + rb"\}")
        if self.other_elements is None and not self.elements:
            forms.append(rb"\[" + CONTENT + rb"\]")
        elif self.other_elements is not None and not self.elements and depth > 0:
            inner = self.other_elements.dull(depth - 1)
            forms.append(rb"\[(?:" + SEPARATOR + inner + rb")*+" + SEPARATOR + rb"\]")
        return rb"(?:" + rb"|".join(forms) + rb")"

    def _dull_member(self, depth: int) -> bytes:
        # A name with an escape in it is never dull: what it says must be read first.
        wanted = rb"|".join(re.escape(name.encode("utf-8")) + rb'"' for name in sorted(self.members))
        value = VALUE if self.other_members is None else self.other_members.dull(depth - 1)
        return rb'"' + (rb"(?!" + wanted + rb")" if wanted else b"") + rb'[^"\\]*+"' + WS + rb":" + WS + value


def _build(marks: Sequence[Mark]) -> _State | None:
    states: dict[_Positions, _State] = {}
    todo: list[_Positions] = []

    def reach(positions: Iterable[tuple[int, int]]) -> _State | None:
        here = frozenset(positions)
        ended = min((mark for mark, step in here if step == len(marks[mark].steps)), default=None)
        if ended is not None:
            here = frozenset({(ended, len(marks[ended].steps))})
        if not here:
            return None
        if here not in states:
            if len(states) == _MAX_STATES:
                raise ValueError("these marks are too many to follow at once: too many [*] behind a ..name")
            states[here] = _State(ended)
            if ended is None:
                todo.append(here)
        return states[here]

    def along(here: _Positions, way: Name | Index | None) -> _State | None:
        return reach(
            (mark, step + further)
            for mark, step in here
            for further in advances(marks[mark].steps[step], way)
        )

    root = reach((mark, 0) for mark in range(len(marks)))
    while todo:
        here = todo.pop()
        state = states[here]
        for step in {marks[mark].steps[step] for mark, step in here}:
            match step:
                case Name(name) | Descend(name):
                    if (child := along(here, Name(name))) is not None:
                        state.members[name] = child
                case Index(index):
                    if (child := along(here, step)) is not None:
                        state.elements[index] = child
                case _:
                    pass
        state.other_members = along(here, None)
        state.other_elements = along(here, _ANY_ELEMENT)
    return root


_Place = tuple[int, _State | None, bool]
"""Where the next value of interest begins, what is wanted of it, True; or where all ends, None, False."""


class _InObject:
    """The walk through the members of one object."""

    __slots__ = ("_state",)

    def __init__(self, state: _State) -> None:
        self._state = state

    def proceed(self, body: bytes, position: int) -> _Place:
        found = _match(self._state.next_member, body, position)
        literal: bytes | None = found[1]
        if literal is None:
            return found.end(), None, False
        name = text_of_string(literal) if b"\\" in literal else literal[1:-1].decode("utf-8")
        other = self._state.other_members
        return found.end(), other if name is None else self._state.members.get(name, other), True


class _InArray:
    """The walk through the elements of one array."""

    __slots__ = ("_index", "_jumps", "_state")

    def __init__(self, state: _State) -> None:
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


def _walked(body: bytes, position: int, root: _State | None) -> Iterator[Hit]:
    """The hits in the value that begins at `position`, in order."""
    inside: list[_InObject | _InArray] = []
    wanted = root
    while True:
        opening = body[position]
        if wanted is not None and wanted.wants_within(opening):
            inside.append(_InObject(wanted) if opening == _OPEN_OBJECT else _InArray(wanted))
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
