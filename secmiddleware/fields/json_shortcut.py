"""The short way to marked values: two independent counts of them that agree.

msgspec reads a body into what the marks want of it, and so tells how many marked members there are, and how
long their values. One search over the text tells how often their names stand there. Where both come to the
same number for each name, every occurrence of a name is a marked member, and no object has it twice: what
msgspec does not see, since it keeps the last of two, would be one more in the text. Whatever else is the
case, this module says that it does not know; the walk of json_rewriting does.

That is sound for names of letters, digits, `-` and `_` only, and for bodies in which none of these is
escaped: an escaped twin is a member that the text does not show, and could make up for one that is not
marked.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import chain, repeat, takewhile
from operator import attrgetter
from typing import Any, Final, Literal

import msgspec
from msgspec import UNSET

from secmiddleware.fields.json_depth import TooDeep, decode_shallow, is_surely_shallow
from secmiddleware.fields.json_reading import check_utf8
from secmiddleware.fields.json_shapes import (
    Array,
    Finder,
    Object,
    Part,
    Value,
    Values,
    has_escaped_simple,
    leaves,
    may_escape,
    passed,
    shape_of,
)
from secmiddleware.fields.json_states import Hit, State

_START: Final = attrgetter("start")

_BACKSLASH: Final = ord("\\")

# So small a body has few values, and every function that is called is felt.
_SMALL: Final = 8 * 1024

_Way = tuple[Callable[[Any], Any] | None, ...]
"""From the root of what msgspec made to the values of one mark: how to get each member; None are the elements
of an array."""


class Shortcut:
    """Finds the values of a set of marks, or does not know. Compiled once, used for every body.

    Raises LookupError where the marks are none for it: they have indices, `..name`, or names that are not
    simple.
    """

    def __init__(self, root: State, *, unique: bool, max_depth: int) -> None:
        """`unique`: also the names on the way to a mark must each be there once."""
        shape, self._part = shape_of(root, (), in_array=False)
        self._decode = msgspec.json.Decoder(shape).decode
        self._max_depth = max_depth
        marked = {leaf.name for leaf in leaves(self._part)}
        inside, outside = passed(self._part)
        if not marked.isdisjoint(inside | outside):
            raise LookupError("a name that is marked here and passed there")
        self._marked = tuple((name, Finder(name)) for name in sorted(marked))
        self._passed = tuple((name, Finder(name)) for name in sorted(inside | outside))
        self._only_outside = outside - inside
        self._unique = unique
        names = [leaf.name for leaf in leaves(self._part)]
        # Marks that end on one name are told apart by `find`.
        self._singles = (
            tuple((b'"%s"' % leaf.name.encode("ascii"), way, leaf.mark) for leaf, way in _ways(self._part))
            if len(set(names)) == len(names)
            else None
        )
        self._once = tuple(b'"%s"' % name.encode("ascii") for name, _ in self._passed) if unique else ()

    def find_single(self, body: bytes) -> list[Hit] | Literal[False] | None:
        """The hits of a small body in which each name stands once at most, as in most requests.

        None where it has another form; False where it is none that the shortcut can read.
        """
        if self._singles is None or len(body) > _SMALL:
            return None
        if _BACKSLASH in body and has_escaped_simple(body):
            return None
        places = []
        for single in self._singles:
            place = body.find(single[0])
            if place >= 0:
                if body.rfind(single[0]) != place:
                    return None
                places.append((place, single))
        for quoted in self._once:
            if body.find(quoted) != body.rfind(quoted):
                return None
        try:
            if not body.isascii():
                body.decode("utf-8")
            root = self._decode(body)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return False
        if len(body) > 2 * self._max_depth and not is_surely_shallow(body, self._max_depth):
            return None
        hits = []
        for place, (quoted, way, mark) in places:
            try:
                (raw,) = _values(root, way)
            except ValueError:
                return None
            if raw is UNSET:
                return None
            # What stands there once is the name of this value, and no value begins with a space or a colon.
            start = body.find(raw, place + len(quoted))
            hits.append(Hit(start, start + len(raw), mark))
        if len(hits) > 1:
            hits.sort(key=_START)
        return hits

    def read(self, body: bytes) -> object:
        """What a body has of the marks; None where that, or whether it may be read at all, is unknown."""
        try:
            check_utf8(body)
            return decode_shallow(self._decode, body, self._max_depth)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, TooDeep):
            return None

    def find(self, body: bytes, root: Any) -> list[Hit] | None:
        """Every marked value, in order, of a body that was read; None where that cannot be proven."""
        if may_escape(body):
            return None
        counts: dict[str, int] = {}
        values: Values = []
        self._part.gather([root], counts, values)
        hits: list[Hit] = []
        for name, finder in self._marked:
            starts = finder.starts(body, counts.get(name, 0))
            if starts is None:
                return None
            if starts:
                found = self._hits(name, starts, counts, values, body)
                if found is None:
                    return None
                hits += found
        if len(hits) > 1 and len(self._marked) > 1:
            hits.sort(key=_START)
        if self._unique and self._passed and not self._are_unique(counts, hits, values, body):
            return None
        return hits

    def _hits(
        self, name: str, starts: list[int], counts: Mapping[str, int], values: Values, body: bytes
    ) -> list[Hit] | None:
        """The hits of all marks on one name; None where it cannot be told whose each value is."""
        groups = [group for group in values if group[0].name == name]
        if len(groups) == 1:
            leaf, found = groups[0]
            mark = leaf.mark
            return [Hit(start, start + len(raw), mark) for start, raw in zip(starts, found, strict=True)]
        if not self._put_in_order(groups, counts, body):
            return None
        marks = chain.from_iterable(repeat(leaf.mark, len(raw)) for leaf, raw in groups)
        lengths = map(len, chain.from_iterable(raw for _, raw in groups))
        return [
            Hit(start, start + length, mark)
            for start, length, mark in zip(starts, lengths, marks, strict=True)
        ]

    def _put_in_order(self, groups: Values, counts: Mapping[str, int], body: bytes) -> bool:
        """Puts the values of several marks, which have one name, in the order of the body, if it can be told.

        It can where all ways to them part at one object, at names that are there once, in no array: what is
        behind one of these ends before the next begins.
        """
        trunks = [leaf.trunk for leaf, _ in groups]
        shared = sum(1 for _ in takewhile(lambda names: len(set(names)) == 1, zip(*trunks, strict=False)))
        finders = dict(self._passed)
        places: dict[int, int] = {}
        for leaf, _ in groups:
            name = leaf.trunk[shared] if len(leaf.trunk) > shared else ""
            if counts.get(name) != 1 or name not in finders:
                return False
            starts = finders[name].starts(body, 1)
            if starts is None:
                return False
            places[leaf.mark] = starts[0]
        if len(set(places.values())) < len(groups):
            return False  # two of them part further on
        groups.sort(key=lambda group: places[group[0].mark])
        return True

    def _are_unique(self, counts: Mapping[str, int], hits: list[Hit], values: Values, body: bytes) -> bool:
        """Whether the names on the way stand nowhere but where msgspec has seen them."""
        everywhere = ((0, len(body)),)
        # Marks of one trunk part in one array: between two of their values there is nothing but its inside.
        in_one = len({leaf.trunk for leaf, _ in values}) == 1
        outside = ((0, hits[0].start), (hits[-1].end, len(body))) if in_one else everywhere
        for name, finder in self._passed:
            parts = outside if name in self._only_outside else everywhere
            if not finder.stands(counts.get(name, 0), body, *parts):
                return False
        return True


def _ways(part: Part, way: _Way = ()) -> Iterator[tuple[Value, _Way]]:
    """The marked values of a shape, each with the way to it."""
    match part:
        case Value():
            yield part, way
        case Array(elements):
            yield from _ways(elements, (*way, None))
        case Object(members):
            for get, _, member in members:
                yield from _ways(member, (*way, get))


def _values(root: Any, way: _Way) -> Iterable[Any]:
    """The values that msgspec has on this way; or nothing but UNSET."""
    if len(way) == 1 and (get := way[0]) is not None:  # most marks
        return (get(root),)
    values: Iterable[Any] = (root,) if root is not None else ()
    for get in way:
        # Left out is what is null, empty or not there.
        values = filter(None, chain.from_iterable(values) if get is None else map(get, values))
    return values
