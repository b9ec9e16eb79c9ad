"""Finding marked values in a JSON body and splicing others in, every other byte as it was.

There are three ways to find them, each quicker than the next and good for less: the shortcut, the pieces of a
large body, the walk. All duplicates of a name are found, and every escaped spelling of it; where two marks
take one value inside the other, the outer one has it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, Final, Literal

from secmiddleware.fields.json_pieces import SMALL, Pieces, Sieve
from secmiddleware.fields.json_reading import (
    MAX_DEPTH,
    SEPARATOR,
    STRING,
    VALUE,
    WS,
    after_separator,
    are_texts,
    check,
    end_of_value,
)
from secmiddleware.fields.json_shapes import SIMPLE_NAME, may_escape
from secmiddleware.fields.json_shortcut import Shortcut
from secmiddleware.fields.json_states import Hit, State, build
from secmiddleware.fields.json_walk import DuplicateName, walked
from secmiddleware.fields.marks import Descend, Mark, Name
from secmiddleware.patterns import compiled

__all__ = ["MAX_HITS", "DuplicateName", "Duplicates", "Hit", "Locator", "TooManyHits", "splice"]

Duplicates = Literal["reject", "all"]

MAX_HITS: Final = 1 << 16
"""Marked values in one body: at 2 to 3 µs for each, some 0.2 s of work in one go."""

# Up to here slices of bytes are quicker.
_COPIED: Final = 32 * 1024

_BACKSLASH: Final = ord("\\")
_QUOTE: Final = ord('"')


class TooManyHits(ValueError):  # noqa: N818  (a fact about a body, for whoever must refuse it)
    """A body with more marked values than are allowed."""


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
        """`duplicates`: members of one name in one object, at a step of a mark, are refused, or all count."""
        self._unique = duplicates == "reject"
        self._max_depth = max_depth
        self._max_hits = max_hits
        self._root = build(marks)
        self._needs = tuple({_needed_names(mark, self._unique) for mark in marks})
        names = [step.name for mark in marks for step in mark.steps if isinstance(step, Name | Descend)]
        simple = all(SIMPLE_NAME.fullmatch(name) for name in names)
        self._may_escape = may_escape if simple else _has_backslash
        # Where all marks end on names, nothing is wanted behind the last of their names in a text.
        named = all(isinstance(mark.steps[-1], Name | Descend) for mark in marks)
        self._ends = tuple({name.encode("utf-8") for name in names}) if named else ()
        self._sweep = _sweep_for(marks)
        self._sieves: dict[State, Sieve | None] = {}
        self._shortcut = _shortcut(self._root, unique=self._unique, max_depth=max_depth)

    def locate(self, body: bytes) -> list[Hit]:
        """Every marked value, in order, none inside another.

        Raises:
            UnreadableJSON: the body is not JSON; then it must not go on, marked values or not. Where
                duplicates are rejected, a DuplicateName.
            TooManyHits: there are more than `max_hits` of them.
        """
        if self._shortcut is None:
            return self.walk(body)
        single = self._shortcut.find_single(body)
        if isinstance(single, list):
            if len(single) > self._max_hits:
                raise TooManyHits
            return single
        if single is False or (root := self._shortcut.read(body)) is None:
            return self.walk(body)
        hits = self._shortcut.find(body, root)
        if hits is None:
            return self.walk(body, checked=True, read=root)
        if len(hits) > self._max_hits:
            raise TooManyHits
        return hits

    def walk(self, body: bytes, *, checked: bool = False, read: Any = None) -> list[Hit]:
        """As `locate`, without the shortcut: right for all marks and bodies, and slower.

        `checked` says that the whole body is JSON, no deeper than allowed, without a byte order mark; `read`
        is what the shortcut has read of it.
        """
        start = 0 if checked else check(body, self._max_depth)
        escaped = self._may_escape(body)
        if not escaped and not self._has_needed_names(body):
            return []
        if self._sweep is not None and not escaped:
            try:
                return self._up_to_the_limit(_swept(body, self._sweep, unique=self._unique))
            except _NeedsTheWalk:
                pass
        if self._root is None:
            return []
        start = after_separator(body, start)
        if len(body) < SMALL:
            until = len(body) if escaped or not self._ends else max(map(body.rfind, self._ends))
            hits = walked(body, start, self._root, unique=self._unique, until=until)
        else:
            text = memoryview(body)[start : len(body.rstrip(b" \t\n\r"))]
            pieces = Pieces(body, self._sieves, unique=self._unique, escaped=escaped)
            hits = pieces.hits(start, text, self._root, read)
        return self._up_to_the_limit(hits)

    def passes_by(self, lines: bytes) -> bool:
        """Whether each line is a JSON text or blank, and nothing in it is marked; False where it may be so.

        For many lines in one go: looked at one by one, each takes as long as a small body.
        """
        return (
            not self._has_needed_names(lines)
            and are_texts(lines, self._max_depth)
            and not self._may_escape(lines)
        )

    def _has_needed_names(self, body: bytes) -> bool:
        """Whether it has all the names that some mark needs."""
        for names in self._needs:
            for name in names:
                if body.find(name) < 0:
                    break
            else:
                return True
        return False

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


def splice(body: bytes, hits: Sequence[Hit], values: Iterable[bytes]) -> bytes:
    """The body with the bytes of each hit replaced by the value that stands in its place in `values`."""
    if len(body) < _COPIED and len(hits) == 1:
        ((hit,), (value,)) = hits, values
        return b"".join((body[: hit.start], value, body[hit.end :]))
    # The pieces of a large body are looked at, not copied: there would be a second body in memory meanwhile.
    source: bytes | memoryview = body if len(body) < _COPIED else memoryview(body)
    pieces: list[bytes | memoryview] = []
    position = 0
    for hit, value in zip(hits, values, strict=True):
        pieces += (source[position : hit.start], value)
        position = hit.end
    pieces.append(source[position:])
    return b"".join(pieces)


def _has_backslash(body: bytes) -> bool:
    return _BACKSLASH in body


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
    return _Sweep(re.compile(pattern), compiled(rest, re.DOTALL), names)


def _swept(body: bytes, sweep: _Sweep, *, unique: bool) -> Iterator[Hit]:
    position = end_of_object = 0
    while (found := sweep.pattern.search(body, position)) is not None:
        position = found.end()
        quote = found.start(1) - 1
        # Behind a backslash the quote is no opening one: it stands in the middle of another name.
        if body[quote] != _QUOTE or body[quote - 1] == _BACKSLASH:
            continue
        if quote < end_of_object:
            raise _NeedsTheWalk  # the rest of objects inside each other would be stepped over again and again
        start, position = position, end_of_value(body, position)
        if unique:
            rest = sweep.rest.match(body, position)
            if rest is None or rest[1] is None:
                raise _NeedsTheWalk
            end_of_object = rest.end()
        yield Hit(start, position, sweep.marks[found[1]])
