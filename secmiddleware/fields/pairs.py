"""What marks select in a form, and how a text stands for a JSON value there.

A form is an object of its names: `$.ssn` and `$['customer[ssn]']` select pairs by their name, every one of
that name, and so do `$..ssn` and `$.ssn[*]`; `$.ssn[0]` selects the first of them. A text has nothing inside
that a mark could select; a part that is JSON has. Such a part may be what its name stands for, or one of the
list of its name's parts: what either reading selects is selected.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from operator import itemgetter
from typing import Final, Protocol
from urllib.parse import unquote_plus

import msgspec

from secmiddleware.fields.json_reading import BOM, UnreadableJSON, text_of_string
from secmiddleware.fields.json_rewriting import Hit, Locator, TooManyHits
from secmiddleware.fields.marks import Descend, Each, Index, Mark, Name, Step, advances
from secmiddleware.patterns import compiled

MAX_PAIRS: Final = 1 << 14
"""Pairs or parts of one form: at 1 to 5 µs for each. Frameworks stop at a thousand unless told otherwise."""

_SPACE: Final = b" \t\r\n"
# What may stand before JSON: a byte order mark, and what Python's `strip` takes away, as forms of Django do.
_BLANK: Final = (
    rb"[\t-\r\x1c-\x20]|\xc2[\x85\xa0]|\xe1\x9a\x80|\xe2\x80[\x80-\x8a\xa8\xa9\xaf]"
    rb"|\xe2\x81\x9f|\xe3\x80\x80|\xef\xbb\xbf"
)
_LIKE_JSON: Final = compiled(rb"(?:" + _BLANK + rb")*+[{\[]")

LocatorFor = Callable[[Sequence[Mark]], Locator]


class UnreadableForm(ValueError):  # noqa: N818  (a fact about a body, for whoever must refuse it)
    """A form that cannot be read, or not in one way; `mark` is the index of the mark whose value cannot."""

    def __init__(self, mark: int | None = None) -> None:
        super().__init__()
        self.mark = mark


class TooManyPairs(TooManyHits):
    """A form with more than MAX_PAIRS pairs or parts, marked or not."""


class Unwritable(ValueError):  # noqa: N818  (a fact about a value, for whoever must refuse it)
    """A value that cannot stand where it must: half a surrogate pair, which is no text."""


class Writing(Protocol):
    """How a value is written where it stands."""

    def read(self, written: bytes) -> bytes:
        """The raw JSON of it. Raises UnreadableForm."""

    def write(self, value: bytes) -> bytes:
        """What stands for a raw JSON value. Raises Unwritable."""


class Spot(Hit, frozen=True, gc=False):
    """A marked value that is not written as JSON is."""

    writing: Writing


def json_of_text(text: bytes) -> bytes:
    """The JSON string of a text. Raises UnreadableForm for what is not UTF-8."""
    try:
        return msgspec.json.encode(text.decode("utf-8"))
    except UnicodeDecodeError:
        raise UnreadableForm from None


def text_of_json(value: bytes) -> str:
    """The text that stands for a raw JSON value: of a string what it says, of null none, else its JSON."""
    if value == b"null":
        return ""
    if not value.startswith(b'"'):
        return value.decode("utf-8")
    text = text_of_string(value)
    if text is None:
        raise Unwritable
    return text


def unescaped(written: bytes) -> bytes:
    """What a name or value of a form, or of a query, says (WHATWG URL §5.1)."""
    # By way of Latin-1: a percent sign that begins no escape stays, as it does for frameworks.
    if b"%" not in written and b"+" not in written:
        return written
    return unquote_plus(written.decode("latin-1"), "latin-1").encode("latin-1")


class Selection:
    """What the marks want of the pairs of one name."""

    def __init__(
        self,
        residues: Sequence[tuple[tuple[Step, ...], int]],
        locator_for: LocatorFor,
        named: int | None = None,
    ) -> None:
        """For each mark that has come to this name: the steps that are left of it, and its index.

        `named` is the first mark that begins with this very name.
        """
        self._locator_for = locator_for
        self._named = named
        self._whole = min((mark for steps, mark in residues if not steps), default=None)
        self._each = min((mark for steps, mark in residues if steps in ((), (Each(),))), default=None)
        self._counted = min(
            (mark for steps, mark in residues if steps and isinstance(steps[0], Index)), default=None
        )
        self._nth = {
            steps[0].index: mark
            for steps, mark in reversed(residues)
            if len(steps) == 1 and isinstance(steps[0], Index)
        }
        self._inside = tuple((steps, mark) for steps, mark in residues if steps)
        # The same of one part among others: a first [n] or [*] has led to it, and the rest leads on.
        self._within = tuple(
            (steps[0], steps[1:], mark)
            for steps, mark in self._inside
            if len(steps) > 1 and isinstance(steps[0], Each | Index)
        )
        self._indices = frozenset(step.index for step, _, _ in self._within if isinstance(step, Index))
        self._locators: dict[int | None, tuple[Locator, tuple[int, ...]]] = {}

    @property
    def is_empty(self) -> bool:
        """Whether nothing is wanted."""
        return self._whole is None and not self._inside

    def of_text(self, nth: int) -> int | None:
        """The mark that selects the text of the nth pair of the name, counted from 0."""
        marks = [mark for mark in (self._each, self._nth.get(nth)) if mark is not None]
        return min(marks, default=None)

    def of_file(self, nth: int, *, among_texts: bool) -> int | None:
        """The mark for whose sake the nth pair of the name may be no file: of it, or of something in it."""
        mark = self.of_text(nth)
        if mark is None and among_texts:
            mark = self._counted  # some count files among the texts of a name, and some apart
        return self._named if mark is None else mark

    def hidden_in(self, text: bytes, *, encoded: bool = False) -> int | None:
        """The mark of something inside of the name's values, where a text that none selects could be JSON.

        Nobody has said that it is. An app may read it so all the same, and nothing in it was looked at.
        `encoded`: what the text says is not read here, and could be anything.
        """
        return self._named if encoded or _LIKE_JSON.match(text) is not None else None

    def in_json(self, text: bytes, start: int, nth: int, *, sole: bool) -> list[Hit]:
        """What is marked in a JSON text, the value of the nth pair of the name; `start` is where it begins.

        `sole`: it is the only pair of the name. Then a list is what the name stands for, and `[n]` one of its
        elements; else `[n]` is the nth pair, whatever it is.

        Raises UnreadableJSON, TooManyHits; UnreadableForm where the marks are too many to follow.
        """
        content = text.strip(_SPACE)
        is_list = content.startswith(b"[")
        locator, marks = self._located_by(None if sole and is_list else nth)
        found = locator.locate(text)  # which looks whether it is JSON, too
        if text.startswith(BOM):
            raise UnreadableJSON
        if content.startswith((b"{", b"[")):
            nth_of_all = None if sole and is_list else self._nth.get(nth)
            mark = min((one for one in (self._whole, nth_of_all) if one is not None), default=None)
        else:
            mark = self.of_text(nth)
        if mark is not None:
            at = start + text.index(content)
            return [Hit(at, at + len(content), mark)]
        return [Hit(start + hit.start, start + hit.end, marks[hit.mark]) for hit in found]

    def _located_by(self, nth: int | None) -> tuple[Locator, tuple[int, ...]]:
        """What finds the marks in the nth of several, in the order of these; None for what stands alone."""
        # Most are told apart by no mark: callers choose how many there are.
        key = nth if nth is None or nth in self._indices else -1
        made = self._locators.get(key)
        if made is None:
            wanted = list(self._inside)
            if nth is not None:
                wanted += ((rest, mark) for step, rest, mark in self._within if step in (Each(), Index(nth)))
            wanted.sort(key=itemgetter(1))  # of two that select one value, the first has it
            try:
                locator = self._locator_for([Mark(steps) for steps, _ in wanted])
            except ValueError:
                raise UnreadableForm(self._named) from None
            made = self._locators[key] = locator, tuple(mark for _, mark in wanted)
        return made


class PairMarks:
    """What a set of marks wants of a form. Compiled once, used for every form."""

    def __init__(self, marks: Sequence[Mark], locator_for: LocatorFor = Locator) -> None:
        """`locator_for` makes what finds marks in a part that is JSON."""
        names = {mark.steps[0].name for mark in marks if isinstance(mark.steps[0], Name | Descend)}
        self._named = {
            name: Selection(_residues(marks, Name(name)), locator_for, _first_of(marks, name))
            for name in names
        }
        self._others = Selection(_residues(marks, None), locator_for)

    def selection(self, name: str) -> Selection | None:
        """What is wanted of the pairs of this name; None where nothing is."""
        found = self._named.get(name, self._others)
        return None if found.is_empty else found


def _first_of(marks: Sequence[Mark], name: str) -> int | None:
    return next((index for index, mark in enumerate(marks) if mark.steps[0] == Name(name)), None)


def _residues(marks: Sequence[Mark], way: Name | None) -> list[tuple[tuple[Step, ...], int]]:
    return [
        (mark.steps[further:], index)
        for index, mark in enumerate(marks)
        for further in advances(mark.steps[0], way)
    ]
