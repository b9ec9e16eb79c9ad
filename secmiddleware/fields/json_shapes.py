"""What msgspec is to make of a body for a set of marks, and what is found in that.

Only marks of names and of `[*]` over arrays have such a shape, and of names only the simple ones: letters,
digits, `-` and `_`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain, count, islice
from operator import attrgetter
from typing import Any, Final

import msgspec
from msgspec import UNSET, Raw, UnsetType

from secmiddleware.fields.json_reading import WS
from secmiddleware.fields.json_states import State

SIMPLE_NAME: Final = re.compile(r"[A-Za-z0-9_-]++")
ESCAPED_SIMPLE: Final = re.compile(rb"\\u00[2-7]")
"""An escape that may stand for a character of a simple name, which has only this form of it (RFC 8259 §7)."""
# Its beginning, which few bodies have: CPython looks for a text from the end in less time than for a pattern.
_ESCAPED_LATIN: Final = rb"\u00"
# Where backslashes are at least so far apart, going from one to the next is quicker than ESCAPED_SIMPLE.
_SPARSE: Final = 512
_BACKSLASH: Final = ord("\\")
_LETTER: Final = ord("u")

_QUOTE: Final = ord('"')
# Where names are at least so far apart, going from one to the next is quicker than one search for a pattern.
# CPython looks for a text twice as fast from the end as from the beginning.
_RARE: Final = 1024

Values = list[tuple["Value", list[Raw]]]
"""The values of each mark, in the order of the body. None is ever false: msgspec gives no empty ones."""


@dataclass(frozen=True, slots=True)
class Value:
    """A marked value; `trunk` are the names on the way to it that stand in no array."""

    mark: int
    name: str
    trunk: tuple[str, ...]

    def gather(self, values: list[Any], _counts: dict[str, int], found: Values) -> None:
        """Adds the values, all those that msgspec has for this part, to what was found."""
        found.append((self, values))


@dataclass(frozen=True, slots=True)
class Array:
    """An array, all elements of which are looked into."""

    elements: Part

    def gather(self, values: list[Any], counts: dict[str, int], found: Values) -> None:
        """Adds what is in the values, all that msgspec has for this part; null may be left out."""
        inner = values[0] if len(values) == 1 else list(chain.from_iterable(filter(None, values)))
        if inner:
            self.elements.gather(inner, counts, found)


@dataclass(frozen=True, slots=True)
class Object:
    """An object with the members that are looked into: how to get one, its name, what it is."""

    members: tuple[tuple[attrgetter[Any], str, Part], ...]

    def gather(self, values: list[Any], counts: dict[str, int], found: Values) -> None:
        """Adds what is in the values, all that msgspec has for this part, and counts their members."""
        for get, name, member in self.members:
            try:
                inner = list(filter(None, map(get, values)))
            except AttributeError:
                values = [value for value in values if value is not None]
                inner = list(filter(None, map(get, values)))
            names = len(inner)
            if names < len(values) and not isinstance(member, Value):
                # What is null or empty has nothing inside, but a name.
                names = sum(1 for value in map(get, values) if value is not UNSET)
            if names:
                counts[name] = counts.get(name, 0) + names
            if inner:
                member.gather(inner, counts, found)


Part = Value | Array | Object


def shape_of(state: State, trunk: tuple[str, ...], *, in_array: bool) -> tuple[Any, Part]:
    """What msgspec is to make of a value, and what is looked for in that.

    A value of another type than the marks expect, null apart, makes msgspec refuse the body. Raises
    LookupError where there is no such shape.
    """
    if state.elements or (state.other_elements is None) != (state.other_members is None):
        raise LookupError("an index, or a name at any depth")
    if state.other_elements is not None:
        if state.members or state.other_elements is not state.other_members:
            raise LookupError("[*] beside names")
        if state.other_elements.mark is not None:
            raise LookupError("a mark that ends on elements has no name to look for")
        shape, part = shape_of(state.other_elements, trunk, in_array=True)
        return list[shape] | None, Array(part)  # type: ignore[valid-type]
    shapes: list[tuple[str, Any, Any]] = []
    members: list[tuple[attrgetter[Any], str, Part]] = []
    names: dict[str, str] = {}
    for index, (name, wanted) in enumerate(sorted(state.members.items())):
        if SIMPLE_NAME.fullmatch(name) is None:
            raise LookupError("a name that may be spelled in other ways")
        way = trunk if in_array else (*trunk, name)
        if wanted.mark is not None:
            shape, part = Raw, Value(wanted.mark, name, way)
        else:
            shape, part = shape_of(wanted, way, in_array=in_array)
        attribute = _attribute(index)
        names[attribute] = name
        shapes.append((attribute, shape | UnsetType, UNSET))
        members.append((attrgetter(attribute), name, part))
    wanted_members = msgspec.defstruct("WantedMembers", shapes, rename=names, gc=False, eq=False)
    return wanted_members | None, Object(tuple(members))


def read_member(read: Any, state: State, name: str) -> Any:
    """A member out of what msgspec has read of an object; None where it has read nothing."""
    if read is None or name not in state.members:
        return None
    member = getattr(read, _attribute(sorted(state.members).index(name)))
    return None if member is UNSET else member


def _attribute(index: int) -> str:
    return f"m{index}"


def leaves(part: Part) -> Iterator[Value]:
    """The marked values of a shape."""
    match part:
        case Value():
            yield part
        case Array(elements):
            yield from leaves(elements)
        case Object(members):
            for _, _, member in members:
                yield from leaves(member)


def passed(part: Part, *, in_array: bool = False) -> tuple[set[str], set[str]]:
    """The names on the way to marks: those of objects in arrays, and those of objects in none."""
    inside: set[str] = set()
    outside: set[str] = set()
    deeper: list[tuple[set[str], set[str]]] = []
    match part:
        case Value():
            pass
        case Array(elements):
            deeper.append(passed(elements, in_array=True))
        case Object(members):
            (inside if in_array else outside).update(
                name for _, name, member in members if not isinstance(member, Value)
            )
            deeper += (passed(member, in_array=in_array) for _, _, member in members)
    return inside.union(*(one for one, _ in deeper)), outside.union(*(other for _, other in deeper))


def has_escaped_simple(body: bytes, start: int = 0) -> bool:
    """Whether ESCAPED_SIMPLE is in the body, from `start` on."""
    return body.rfind(_ESCAPED_LATIN, start) >= 0 and ESCAPED_SIMPLE.search(body, start) is not None


def may_escape(body: bytes) -> bool:
    """Whether an escape may stand for a character of a simple name; `body` is of the right grammar."""
    place = body.find(_BACKSLASH)
    for due in count(place - 8 * _SPARSE, _SPARSE):
        if place < 0:
            return False
        if place < due or body[place + 1] == _LETTER:
            break
        place = body.find(_BACKSLASH, place + 2)
    return has_escaped_simple(body, place)


def _is_rare(due: int, length: int) -> bool:
    return (due - 1) * _RARE < length


class Finder:
    """Finds where a simple name stands in quotes with a colon behind it, be it in a string or not."""

    __slots__ = ("_pattern", "_quoted")

    def __init__(self, name: str) -> None:
        self._quoted = b'"%s"' % name.encode("ascii")
        # Without its first quote, which is far more frequent than any letter.
        self._pattern = re.compile(self._quoted[1:] + WS + rb":" + WS)

    def starts(self, body: bytes, due: int) -> list[int] | None:
        """Where the values behind the name begin; None where they are not as many as are due."""
        if _is_rare(due, len(body)):
            places = self._quoted_places(body, 0, len(body), due)
            found = [self._pattern.match(body, place + 1) for place in reversed(places)]
            starts = [name.end() for name in found if name is not None]
            if len(starts) == len(places) == due:
                return starts
        # One too many is enough to know.
        starts = list(islice(self._places(body, 0, len(body)), due + 1))
        return starts if len(starts) == due else None

    def stands(self, due: int, body: bytes, *parts: tuple[int, int]) -> bool:
        """Whether it stands so often as is due in these parts of the body."""
        at_most = 0
        for start, end in parts:
            if _is_rare(due, end - start):
                at_most += len(self._quoted_places(body, start, end, due))
            else:
                at_most += body.count(self._quoted, start, end)
        if at_most == due:
            return True
        return due == sum(1 for start, end in parts for _ in self._places(body, start, end))

    def _quoted_places(self, body: bytes, start: int, end: int, due: int) -> list[int]:
        """Where it stands in quotes, from the end; where that is more often than is due, one place more."""
        places: list[int] = []
        while len(places) <= due and (end := body.rfind(self._quoted, start, end)) >= 0:
            places.append(end)
        return places

    def _places(self, body: bytes, start: int, end: int) -> Iterator[int]:
        return (
            found.end()
            for found in self._pattern.finditer(body, start, end)
            if body[found.start() - 1] == _QUOTE
        )
