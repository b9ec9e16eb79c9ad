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

import re
from collections.abc import Iterator
from itertools import takewhile

import msgspec
from msgspec import Raw

from secmiddleware.fields.json_depth import TooDeep, decode_shallow
from secmiddleware.fields.json_shapes import (
    ESCAPED_SIMPLE,
    Seen,
    Value,
    finder_of,
    gather,
    leaves,
    passed,
    shape_of,
    starts_of,
)
from secmiddleware.fields.json_states import State

Span = tuple[int, int, int]
"""A marked value: where it starts, where it ends, and its mark."""


class Shortcut:
    """Finds the values of a set of marks, or does not know. Compiled once, used for every body.

    Raises LookupError where the marks are none for it: they have indices, `..name`, or names that are not
    simple.
    """

    def __init__(self, root: State, *, unique: bool, max_depth: int) -> None:
        """`unique`: also the names on the way to a mark must each be there once."""
        shape, self._part = shape_of(root, (), in_array=False)
        self._decoder = msgspec.json.Decoder(shape)
        self._max_depth = max_depth
        marked = {leaf.name for leaf in leaves(self._part)}
        self._finders = {name: finder_of(name) for name in marked}
        inside, outside = passed(self._part)
        names = inside | outside
        if marked & names:
            raise LookupError("a name that is marked here and passed there")
        self._passed = tuple((name, finder_of(name)) for name in sorted(names)) if unique else ()
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
        seen = Seen()
        gather(self._part, [root], seen)
        spans: list[Span] = []
        for name, finder in self._finders.items():
            starts = starts_of(finder, body)
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
        self, name: str, finder: re.Pattern[bytes], seen: Seen, body: bytes, spans: list[Span]
    ) -> bool:
        """Whether every occurrence of a name on the way is one that msgspec has seen."""
        due = seen.members[name]
        first = last = 0
        if spans and name in self._only_outside and len(seen.values) == 1:
            # Between two values of one mark is nothing but the inside of one array.
            first, last = spans[0][0], spans[-1][1]
        quoted = b'"%s"' % name.encode("ascii")
        return body.count(quoted, 0, first) + body.count(quoted, last) == due or (
            len(starts_of(finder, body)) == due
        )


def _put_in_order(groups: list[tuple[Value, list[Raw]]], seen: Seen, body: bytes) -> bool:
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
        starts = starts_of(finder_of(name), body)
        if len(starts) != 1 or seen.members[name] != 1:
            return False
        places[leaf.mark] = starts[0]
    groups.sort(key=lambda group: places[group[0].mark])
    return True


def _spans(starts: list[int], groups: list[tuple[Value, list[Raw]]]) -> Iterator[Span]:
    position = iter(starts)
    for leaf, values in groups:
        for value in values:
            start = next(position)
            yield start, start + len(value), leaf.mark
