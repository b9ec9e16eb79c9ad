"""The automaton of a set of marks: what is wanted of each value that a walk through a body comes to.

What a state does not care about is stepped over by one regular expression of its own.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import Final

import msgspec

from secmiddleware.fields.json_reading import COLON, CONTENT, SCALAR, SEPARATOR, STRING, VALUE
from secmiddleware.fields.marks import Descend, Index, Mark, Name, advances
from secmiddleware.patterns import compiled

# Marks become states by the subset construction, which can double with every `[*]` behind a `..name`.
# Ordinary sets of marks have about one state a step.
_MAX_STATES: Final = 1000

_OPEN_OBJECT: Final = ord("{")
_OPEN_ARRAY: Final = ord("[")

_Positions = frozenset[tuple[int, int]]
"""How far each mark has come: its index, and that of the step it stands before."""

_ANY_ELEMENT: Final = Index(-1)


class Hit(msgspec.Struct, frozen=True, gc=False):
    """A marked value: the bytes from `start` to `end`, and the index of the first mark that selects it."""

    start: int
    end: int
    mark: int


class State:
    """What is wanted of a value: itself (`mark`), or some of its members and elements."""

    def __init__(self, mark: int | None) -> None:
        self.mark = mark
        self.members: dict[str, State] = {}
        self.other_members: State | None = None
        self.elements: dict[int, State] = {}
        self.other_elements: State | None = None

    def wants_within(self, opening: int) -> bool:
        """Whether anything is wanted inside of a value that begins with this byte."""
        if opening == _OPEN_OBJECT:
            return bool(self.members) or self.other_members is not None
        return opening == _OPEN_ARRAY and (bool(self.elements) or self.other_elements is not None)

    @cached_property
    def next_member(self) -> re.Pattern[bytes]:
        """Steps over dull members; its group is the next name, or unset at the closing brace."""
        dull = rb"(?:" + SEPARATOR + self._dull_member(1) + rb")*+" + SEPARATOR
        name = rb"(" + STRING + rb")" + COLON
        return compiled(dull + rb"(?:" + name + rb"|\})", re.DOTALL)

    @cached_property
    def next_element(self) -> re.Pattern[bytes]:
        """Steps over dull elements, when no more index is wanted; where it stops, the last group tells.

        That is `end` behind the closing bracket. It is `inside` within an object, before the first member
        that is not dull: those before it need not be read again.
        """
        wanted = self.other_elements
        if wanted is None:
            dull = VALUE
        elif wanted.wants_within(_OPEN_OBJECT):
            dull = rb"(?(1)(?!))" + wanted.dull(1, closing=rb"(?:\}|(?P<inside>))")
        else:
            dull = wanted.dull(1)
        return compiled(rb"(?:" + SEPARATOR + dull + rb")*+" + SEPARATOR + rb"(?P<end>\])?", re.DOTALL)

    def next_index(self, index: int) -> int | None:
        """The first wanted index that is not below `index`."""
        if not self.elements:
            return None
        return min((wanted for wanted in self.elements if wanted >= index), default=None)

    def dull(self, depth: int, closing: bytes = rb"\}") -> bytes:
        """A pattern of values in which nothing can be wanted; those that it misses are looked into.

        `depth` is how many levels it looks down where something may be wanted at every level. It bounds how
        often a byte is read again, when a container turns out not to be dull. `closing` is what may stand
        behind the dull members of an object.
        """
        if self.mark is not None:
            return rb"(?!)"
        forms = [STRING, SCALAR]
        if self.other_members is None or depth > 0:
            forms.append(rb"\{(?:" + SEPARATOR + self._dull_member(depth) + rb")*+" + SEPARATOR + closing)
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
        return rb'"' + (rb"(?!" + wanted + rb")" if wanted else b"") + rb'[^"\\]*+"' + COLON + value


def build(marks: Sequence[Mark]) -> State | None:
    """The state of a whole body; None without marks. Raises ValueError: they would make too many states."""
    states: dict[_Positions, State] = {}
    todo: list[_Positions] = []

    def reach(positions: Iterable[tuple[int, int]]) -> State | None:
        here = frozenset(positions)
        ended = min((mark for mark, step in here if step == len(marks[mark].steps)), default=None)
        if ended is not None:
            here = frozenset({(ended, len(marks[ended].steps))})
        if not here:
            return None
        if here not in states:
            if len(states) == _MAX_STATES:
                raise ValueError("these marks are too many to follow at once: too many [*] behind a ..name")
            states[here] = State(ended)
            if ended is None:
                todo.append(here)
        return states[here]

    def along(here: _Positions, way: Name | Index | None) -> State | None:
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
