"""Whole bodies: what is marked in one, and the same body with other values in those places."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

from secmiddleware.fields.json_reading import UnreadableJSON
from secmiddleware.fields.json_rewriting import Hit, Locator, TooManyHits, splice
from secmiddleware.fields.limits import Limits
from secmiddleware.fields.marks import Mark
from secmiddleware.fields.values import PlaceRule
from secmiddleware.messages import Refusal

_MARKED_KEY: Final = "service.max_marked"

Act = Callable[[PlaceRule, bytes, str], bytes | Refusal]
"""What is done to one value: its place, its raw JSON and the text of its mark in, the value to write out."""


@dataclass(frozen=True, slots=True)
class Marked:
    """The marks of one direction: where their values are, and for each mark its place and its text."""

    locator: Locator
    places: tuple[tuple[PlaceRule, str], ...]
    required: tuple[int, ...] = ()
    """The marks that a body must have a value for."""

    @classmethod
    def of(cls, places: Sequence[PlaceRule], limits: Limits, *, requires: bool = False) -> Marked | None:
        """What these places mark in bodies; None where nothing. Raises ValueError where they are too many.

        `requires`: whether what places require is required here. It is of requests.
        """
        pairs = [(place, mark) for place in places for mark in place.marks if isinstance(mark, Mark)]
        if not pairs:
            return None
        return cls(
            Locator(
                [mark for _, mark in pairs],
                limits.duplicates,
                max_depth=limits.depth,
                max_hits=limits.marked,
            ),
            tuple((place, str(mark)) for place, mark in pairs),
            tuple(index for index, (place, _) in enumerate(pairs) if requires and place.required),
        )

    def missing(self, hits: Sequence[Hit]) -> Refusal | None:
        """Why a body with these hits may not go on: a mark that is required has none."""
        if not self.required:
            return None
        found = {hit.mark for hit in hits}
        lacking = next((mark for mark in self.required if mark not in found), None)
        return None if lacking is None else Refusal("field_missing", self.places[lacking][1])


@dataclass(frozen=True, slots=True)
class Rewritten:
    """A body that may go on."""

    body: bytes = field(repr=False)
    """What goes on; the same object where nothing changed."""
    hits: Sequence[Hit] = ()
    """Where the marked values were in the body that came."""


def rewrite(body: bytes, marked: Marked, act: Act, unreadable: str) -> Rewritten | Refusal:
    """The body with each marked value replaced by what `act` makes of it, or the first refusal.

    `unreadable` is the code for a body that cannot be read. Of no body at all nothing is required here.
    """
    if not body:
        return Rewritten(body)
    try:
        hits = marked.locator.locate(body)
    except UnreadableJSON:
        return Refusal(unreadable)
    except TooManyHits:
        return Refusal("payload_too_large" if unreadable == "payload_malformed" else unreadable, _MARKED_KEY)
    if (missing := marked.missing(hits)) is not None:
        return missing
    values: list[bytes] = []
    changed = False
    for hit in hits:
        place, where = marked.places[hit.mark]
        before = body[hit.start : hit.end]
        value = act(place, before, where)
        if isinstance(value, Refusal):
            return value
        changed = changed or value != before
        values.append(value)
    return Rewritten(splice(body, hits, values) if changed else body, hits)


def unmarked(body: bytes, hits: Sequence[Hit]) -> Iterator[bytes]:
    """What is left of a body where its marked values are cut out."""
    position = 0
    for hit in hits:
        yield body[position : hit.start]
        position = hit.end
    yield body[position:] if position else body
