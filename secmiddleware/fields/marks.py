"""Marks: the JSONPath expressions (RFC 9535) that say which values of a body are secret.

A mark is read once, when the settings are. Only what can be found in one pass over a body is allowed: a name,
`[*]`, `[n]` and `..name`. Finding the values is json_rewriting's business.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import jsonpath_rfc9535

from secmiddleware.patterns import compiled

# Far above what anybody writes; each step is a state of json_rewriting's automaton, which stays small so.
MAX_STEPS: Final = 32

_PLAIN_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*+")


@dataclass(frozen=True, slots=True)
class Name:
    """A step to the member of that name: `.name`."""

    name: str

    def __str__(self) -> str:
        return f".{self.name}" if _PLAIN_NAME.fullmatch(self.name) else f"[{_quoted(self.name)}]"


@dataclass(frozen=True, slots=True)
class Each:
    """A step to every element of an array and every member of an object: `[*]` (RFC 9535 §2.3.2)."""

    def __str__(self) -> str:
        return "[*]"


@dataclass(frozen=True, slots=True)
class Index:
    """A step to one element of an array, counted from 0: `[n]`."""

    index: int

    def __str__(self) -> str:
        return f"[{self.index}]"


@dataclass(frozen=True, slots=True)
class Descend:
    """A step to every member of that name at any depth below: `..name` (RFC 9535 §2.5.2)."""

    name: str

    def __str__(self) -> str:
        return f"..{self.name}" if _PLAIN_NAME.fullmatch(self.name) else f"..[{_quoted(self.name)}]"


Step = Name | Each | Index | Descend


@dataclass(frozen=True, slots=True)
class Mark:
    """The values of a body that one expression selects.

    Two marks are equal when they select the same values in the same way, however they were written.
    """

    steps: tuple[Step, ...]

    @classmethod
    def parse(cls, text: str) -> Mark:
        """The mark that `text` says, as in `$.people[*].ssn`.

        Raises:
            ValueError: `text` is not JSONPath, or uses more of it than names, `[*]`, `[n]` (n >= 0) and
                `..name`. The message says which part, in one sentence.
        """
        try:
            normal = str(jsonpath_rfc9535.compile(text))
        except jsonpath_rfc9535.JSONPathError as error:
            # Not str(error): where the text is empty, one line of versions cannot write its own error.
            reason = str(error.args[0]).partition("\n")[0] if error.args else "it cannot be read"
            raise ValueError(f"{text!r} is not a JSONPath expression (RFC 9535): {reason}") from None
        steps = tuple(_steps(text, normal))
        if not steps:
            raise ValueError("'$' alone would mark the whole body: name what is secret in it, as in $.ssn")
        if len(steps) > MAX_STEPS:
            raise ValueError(f"{text!r} has {len(steps)} steps; a mark has {MAX_STEPS} at most")
        return cls(steps)

    def __str__(self) -> str:
        """The mark in its shortest spelling, whichever was written."""
        return "$" + "".join(map(str, self.steps))


# One segment of an expression as the library writes it back: brackets only, names in single quotes. That form
# is RFC 9535's own (§2.7), so it is the same in every line of the library's versions, which share no classes.
_SEGMENT: Final = compiled(r"(\.\.)?\[(?:'((?:[^'\\]|\\.)*+)'|(\*)|(-?[0-9]++))(, )?\]?", re.DOTALL)


def _steps(text: str, normal: str) -> Iterator[Step]:
    position = 1  # behind the $
    while position < len(normal):
        found = _SEGMENT.match(normal, position)
        if found is None:
            raise _too_much(text)
        position = found.end()
        descends, name, wildcard, index, several = found.groups()
        if several is not None:
            raise ValueError(f"{text!r} has several selectors in one pair of brackets: write a mark for each")
        if normal[position - 1] != "]" or (descends and name is None):
            raise _too_much(text)
        if name is not None:
            yield _named(text, _unescaped(name), descends=descends is not None)
        elif wildcard is not None:
            yield Each()
        elif int(index) < 0:
            raise ValueError(f"{text!r} counts from the end: an index must be 0 or more here")
        else:
            yield Index(int(index))


def _too_much(text: str) -> ValueError:
    return ValueError(
        f"{text!r} uses more of JSONPath than is possible here: only names, [*], [n] and ..name are"
    )


def _named(text: str, name: str, *, descends: bool) -> Name | Descend:
    if any("\ud800" <= char <= "\udfff" for char in name):
        raise ValueError(f"{text!r} names half a surrogate pair, which is no character")
    return Descend(name) if descends else Name(name)


def _unescaped(name: str) -> str:
    def char(found: re.Match[str]) -> str:
        return chr(int(found[1], 16)) if found[1] else _UNESCAPES[found[2]]

    return re.sub(r"\\(?:u([0-9A-Fa-f]{4})|(.))", char, name, flags=re.DOTALL)


# RFC 9535 §2.7: how a name is escaped between single quotes.
_ESCAPES: Final = {"'": r"\'", "\\": r"\\", "\b": r"\b", "\f": r"\f", "\n": r"\n", "\r": r"\r", "\t": r"\t"}

_UNESCAPES: Final = {escape[1]: char for char, escape in _ESCAPES.items()}


def _quoted(name: str) -> str:
    return "'" + "".join(_ESCAPES.get(c, c if c >= " " else f"\\u{ord(c):04x}") for c in name) + "'"


# A way down from a container: to the member of a name, or to the element of an index. None and the index -1
# stand for all the names and all the indices that no mark in question has.
_Way = Name | Index | None
_ANY_OTHER_ELEMENT: Final = Index(-1)


def overlaps(first: Mark, second: Mark) -> bool:
    """Whether both marks may select one value, or one mark a value inside what the other selects.

    A `..name` that just happens to reach into the other's value does not count, or it could stand beside no
    other mark: `$..ssn` goes with `$.notes`, where an `ssn` inside the notes is part of the notes. It does
    count where both end on one value (`$..ssn` with `$.people[*].ssn`), and where it starts inside the other
    (`$.notes..ssn`).
    """
    return next(_meetings(first, second), None) is not None


def joins(first: Mark, second: Mark) -> bool:
    """Whether both marks may select one and the same value; `..name` counts as in `overlaps`."""
    return any(_meetings(first, second))


def contains(outer: Mark, inner: Mark) -> bool:
    """Whether a mark goes on from where another one ends, step by step: `$.a[*].b` from `$.a[*]`."""
    length = len(outer.steps)
    return length < len(inner.steps) and inner.steps[:length] == outer.steps


def _meetings(first: Mark, second: Mark) -> Iterator[bool]:
    """Each way in which two marks overlap: whether they end on one value, or one inside the other."""
    seen: set[tuple[int, int, bool, bool]] = set()
    todo = [(0, 0, False, False)]
    while todo:
        here = todo.pop()
        if here in seen:
            continue
        seen.add(here)
        i, j, first_strayed, second_strayed = here
        if i == len(first.steps) or j == len(second.steps):
            if not (first_strayed and _descends(first, i)) and not (second_strayed and _descends(second, j)):
                yield i == len(first.steps) and j == len(second.steps)
            continue
        a, b = first.steps[i], second.steps[j]
        for way in (*_ways(a), *_ways(b), None, _ANY_OTHER_ELEMENT):
            todo.extend(
                (i + m, j + n, first_strayed or m == 0, second_strayed or n == 0)
                for m in advances(a, way)
                for n in advances(b, way)
            )


def _descends(mark: Mark, position: int) -> bool:
    return any(isinstance(step, Descend) for step in mark.steps[position:])


def _ways(step: Step) -> Iterator[_Way]:
    match step:
        case Name(name) | Descend(name):
            yield Name(name)
        case Index():
            yield step
        case Each():
            pass


def advances(step: Step, way: _Way) -> tuple[int, ...]:
    """By how many steps a mark standing before `step` gets further that way: none, one, or (`..name`) both.

    `way` is a `Name`, an `Index`, or None for a member whose name is none that a mark has.
    """
    match step:
        case Each():
            return (1,)
        case Descend(name):
            return (0, 1) if way == Name(name) else (0,)
        case _:
            return (1,) if way == step else ()
