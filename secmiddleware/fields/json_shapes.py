"""What msgspec is to make of a body for a set of marks, and what is found in that.

Only marks of names and of `[*]` over arrays have such a shape, and of names only the simple ones: letters,
digits, `-` and `_`.
"""

from __future__ import annotations

import re
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import chain
from operator import attrgetter
from typing import Any, Final

import msgspec
from msgspec import UNSET, Raw, UnsetType

from secmiddleware.fields.json_reading import WS
from secmiddleware.fields.json_states import State

SIMPLE_NAME: Final = re.compile(r"[A-Za-z0-9_-]++")
ESCAPED_SIMPLE: Final = re.compile(rb"\\u00[2-7]")
"""An escape that may stand for a character of a simple name, which has only this form of it (RFC 8259 §7)."""

_QUOTE: Final = ord('"')


@dataclass(frozen=True, slots=True)
class Value:
    """A marked value; `trunk` are the names on the way to it that stand in no array."""

    mark: int
    name: str
    trunk: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Array:
    """An array, all elements of which are looked into."""

    elements: Part


@dataclass(frozen=True, slots=True)
class Object:
    """An object with the members that are looked into: how to get one, its name, what it is."""

    members: tuple[tuple[attrgetter[Any], str, Part], ...]


Part = Value | Array | Object


@dataclass(slots=True)
class Seen:
    """What msgspec has seen: how many members of each name, and the values of each mark, in their order."""

    members: Counter[str] = field(default_factory=Counter)
    values: list[tuple[Value, list[Raw]]] = field(default_factory=list)


def shape_of(state: State, trunk: tuple[str, ...], *, in_array: bool) -> tuple[Any, Part]:
    """What msgspec is to make of a value, and what is looked for in that.

    A value of another type than the marks expect, null apart, makes msgspec refuse the body.
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
        attribute = f"m{index}"
        names[attribute] = name
        shapes.append((attribute, shape | UnsetType, UNSET))
        members.append((attrgetter(attribute), name, part))
    wanted_members = msgspec.defstruct("WantedMembers", shapes, rename=names, gc=False)
    return wanted_members | None, Object(tuple(members))


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


def gather(part: Part, values: list[Any], seen: Seen) -> None:
    """Counts what is in `values`, all those that msgspec has for one part, in the order of the body."""
    match part:
        case Value():
            seen.values.append((part, values))
        case Array(elements):
            inner = list(chain.from_iterable(value for value in values if value is not None))
            if inner:
                gather(elements, inner, seen)
        case Object(members):
            if values[0] is None or values[-1] is None or None in values:
                values = [value for value in values if value is not None]
            for get, name, member in members:
                inner = [value for value in map(get, values) if value is not UNSET]
                if inner:
                    seen.members[name] += len(inner)
                    gather(member, inner, seen)


def finder_of(name: str) -> re.Pattern[bytes]:
    """Finds a simple name with a colon behind it; its first quote is `starts_of`'s to look at."""
    # A quote is far more frequent than any letter.
    return re.compile(name.encode("ascii") + rb'"' + WS + rb":" + WS)


def starts_of(finder: re.Pattern[bytes], body: bytes, start: int = 0, end: int = sys.maxsize) -> list[int]:
    """Where a value begins that stands behind the name in quotes and a colon, be it in a string or not."""
    return [found.end() for found in finder.finditer(body, start, end) if body[found.start() - 1] == _QUOTE]
