"""The short way to marked values: two independent counts of them that agree.

msgspec reads a body into what the marks want of it, and so tells how many marked members there are, and how
long their values. One search over the text tells how often their names stand there. Where both come to the
same number for each name, every occurrence of a name is a marked member, and no object has it twice: what
msgspec does not see, since it keeps the last of two, would be one more in the text. Whatever else is the
case, this module says that it does not know; the walk of json_rewriting does.

That is sound for names of letters, digits, `-` and `_` only, and for bodies in which none of these is
escaped: an escaped twin is a member that the text does not show, and could make up for one that is not marked.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import chain, takewhile
from operator import attrgetter
from typing import Any, Final

import msgspec
from msgspec import UNSET, Raw, UnsetType

from secmiddleware.fields.json_depth import TooDeep, decode_shallow
from secmiddleware.fields.json_reading import WS
from secmiddleware.fields.json_states import State

SIMPLE_NAME: Final = re.compile(r"[A-Za-z0-9_-]++")
ESCAPED_SIMPLE: Final = re.compile(rb"\\u00[2-7]")
"""An escape that may stand for a character of a simple name, which has only this form of it (RFC 8259 §7)."""

Span = tuple[int, int, int]
"""A marked value: where it starts, where it ends, and its mark."""

_QUOTE: Final = ord('"')


@dataclass(frozen=True, slots=True)
class _Value:
    """A marked value; `trunk` are the names on the way to it that stand in no array."""

    mark: int
    name: str
    trunk: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Array:
    elements: _Part


@dataclass(frozen=True, slots=True)
class _Object:
    members: tuple[tuple[attrgetter[Any], str, _Part], ...]


_Part = _Value | _Array | _Object


@dataclass(slots=True)
class _Seen:
    """What msgspec has seen: how many members of each name, and the values of each mark, in their order."""

    members: Counter[str] = field(default_factory=Counter)
    values: list[tuple[_Value, list[Raw]]] = field(default_factory=list)


class Shortcut:
    """Finds the values of a set of marks, or does not know. Compiled once, used for every body.

    Raises LookupError where the marks are none for it: they have indices, `..name`, or names that are not
    simple.
    """

    def __init__(self, root: State, *, unique: bool, max_depth: int) -> None:
        """`unique`: also the names on the way to a mark must each be there once."""
        shape, self._part = _compile(root, (), in_array=False)
        self._decoder = msgspec.json.Decoder(shape)
        self._max_depth = max_depth
        leaves = {leaf.name for leaf in _leaves(self._part)}
        self._finders = {name: _finder(name) for name in leaves}
        inside, outside = _passed(self._part)
        passed = inside | outside
        if leaves & passed:
            raise LookupError("a name that is marked here and passed there")
        self._passed = tuple((name, _finder(name)) for name in sorted(passed)) if unique else ()
        self._only_outside = outside - inside

    def find(self, body: bytes) -> list[Span] | None:
        """Every marked value, in order; None where that cannot be proven, be the body JSON or not."""
        if b"\\" in body and ESCAPED_SIMPLE.search(body) is not None:
            return None
        try:
            if not body.isascii():
                body.decode("utf-8")
            root = decode_shallow(self._decoder.decode, body, self._max_depth)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, TooDeep):
            return None
        seen = _Seen()
        _gather(self._part, [root], seen)
        spans: list[Span] = []
        for name, finder in self._finders.items():
            starts = _starts(finder, body)
            if len(starts) != seen.members[name]:
                return None
            if starts:
                groups = [group for group in seen.values if group[0].name == name]
                if len(groups) > 1 and not _put_in_order(groups, seen, body):
                    return None
                spans += _spans(starts, groups)
        if len(self._finders) > 1:
            spans.sort()
        for name, finder in self._passed:
            if not self._is_unique(name, finder, seen, body, spans):
                return None
        return spans

    def _is_unique(
        self, name: str, finder: re.Pattern[bytes], seen: _Seen, body: bytes, spans: list[Span]
    ) -> bool:
        """Whether every occurrence of a name on the way is one that msgspec has seen."""
        due = seen.members[name]
        first = last = 0
        if spans and name in self._only_outside and len(seen.values) == 1:
            # Between two values of one mark is nothing but the inside of one array.
            first, last = spans[0][0], spans[-1][1]
        quoted = b'"%s"' % name.encode("ascii")
        return body.count(quoted, 0, first) + body.count(quoted, last) == due or (
            len(_starts(finder, body)) == due
        )


def _compile(state: State, trunk: tuple[str, ...], *, in_array: bool) -> tuple[Any, _Part]:
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
        shape, part = _compile(state.other_elements, trunk, in_array=True)
        return list[shape] | None, _Array(part)  # type: ignore[valid-type]
    shapes: list[tuple[str, Any, Any]] = []
    members: list[tuple[attrgetter[Any], str, _Part]] = []
    names: dict[str, str] = {}
    for index, (name, wanted) in enumerate(sorted(state.members.items())):
        if SIMPLE_NAME.fullmatch(name) is None:
            raise LookupError("a name that may be spelled in other ways")
        way = trunk if in_array else (*trunk, name)
        if wanted.mark is not None:
            shape, part = Raw, _Value(wanted.mark, name, way)
        else:
            shape, part = _compile(wanted, way, in_array=in_array)
        attribute = f"m{index}"
        names[attribute] = name
        shapes.append((attribute, shape | UnsetType, UNSET))
        members.append((attrgetter(attribute), name, part))
    wanted_members = msgspec.defstruct("WantedMembers", shapes, rename=names, gc=False)
    return wanted_members | None, _Object(tuple(members))


def _leaves(part: _Part) -> Iterator[_Value]:
    match part:
        case _Value():
            yield part
        case _Array(elements):
            yield from _leaves(elements)
        case _Object(members):
            for _, _, member in members:
                yield from _leaves(member)


def _passed(part: _Part, *, in_array: bool = False) -> tuple[set[str], set[str]]:
    """The names on the way to marks: those of objects in arrays, and those of objects in none."""
    inside: set[str] = set()
    outside: set[str] = set()
    deeper: list[tuple[set[str], set[str]]] = []
    match part:
        case _Value():
            pass
        case _Array(elements):
            deeper.append(_passed(elements, in_array=True))
        case _Object(members):
            (inside if in_array else outside).update(
                name for _, name, member in members if not isinstance(member, _Value)
            )
            deeper += (_passed(member, in_array=in_array) for _, _, member in members)
    return inside.union(*(one for one, _ in deeper)), outside.union(*(other for _, other in deeper))


def _gather(part: _Part, values: list[Any], seen: _Seen) -> None:
    """Counts what is in `values`, all those that msgspec has for one part, in the order of the body."""
    match part:
        case _Value():
            seen.values.append((part, values))
        case _Array(elements):
            inner = list(chain.from_iterable(value for value in values if value is not None))
            if inner:
                _gather(elements, inner, seen)
        case _Object(members):
            if values[0] is None or values[-1] is None or None in values:
                values = [value for value in values if value is not None]
            for get, name, member in members:
                inner = [value for value in map(get, values) if value is not UNSET]
                if inner:
                    seen.members[name] += len(inner)
                    _gather(member, inner, seen)


def _finder(name: str) -> re.Pattern[bytes]:
    # Without its first quote, which is far more frequent than a letter: that is looked at where one is found.
    return re.compile(name.encode("ascii") + rb'"' + WS + rb":" + WS)


def _starts(finder: re.Pattern[bytes], body: bytes) -> list[int]:
    """Where a value begins that stands behind the name in quotes and a colon, be it in a string or not."""
    return [found.end() for found in finder.finditer(body) if body[found.start() - 1] == _QUOTE]


def _put_in_order(groups: list[tuple[_Value, list[Raw]]], seen: _Seen, body: bytes) -> bool:
    """Puts the values of several marks, which have one name, in the order of the body, if that can be told.

    It can where the ways to them part at names that are there once, in no array: what is behind one of these
    ends before the next begins.
    """
    trunks = [leaf.trunk for leaf, _ in groups]
    shared = sum(1 for _ in takewhile(lambda names: len(set(names)) == 1, zip(*trunks, strict=False)))
    if any(len(trunk) == shared for trunk in trunks):
        return False
    places: dict[int, int] = {}
    for leaf, _ in groups:
        name = leaf.trunk[shared]
        starts = _starts(_finder(name), body)
        if len(starts) != 1 or seen.members[name] != 1:
            return False
        places[leaf.mark] = starts[0]
    groups.sort(key=lambda group: places[group[0].mark])
    return True


def _spans(starts: list[int], groups: list[tuple[_Value, list[Raw]]]) -> Iterator[Span]:
    position = iter(starts)
    for leaf, values in groups:
        for value in values:
            start = next(position)
            yield start, start + len(value), leaf.mark
