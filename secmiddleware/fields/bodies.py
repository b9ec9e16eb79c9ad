"""Whole bodies: what is marked in one, and the same body with other values in those places.

A marked value is raw JSON to whoever opens or seals it, whatever it stands in; how it is read there and
written back is a matter of the kind of body: json_rewriting, forms, multipart, records.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Final

from secmiddleware.fields import forms, multipart, records
from secmiddleware.fields.json_reading import UnreadableJSON
from secmiddleware.fields.json_rewriting import Hit, Locator, TooManyHits, splice
from secmiddleware.fields.limits import MOST_PADDING, Limits
from secmiddleware.fields.marks import Mark
from secmiddleware.fields.media_types import MediaType
from secmiddleware.fields.pairs import PairMarks, Spot, TooManyPairs, UnreadableForm, Unwritable
from secmiddleware.fields.values import PlaceRule
from secmiddleware.messages import Refusal

_MARKED_KEY: Final = "service.max_marked"

Act = Callable[[PlaceRule, bytes, str], bytes | Refusal]
"""What is done to one value: its place, its raw JSON and the text of its mark in, the value to write out."""

JSON: Final = MediaType("json")
WHOLE_KINDS: Final = frozenset({"json", "form", "multipart", "lines", "sequence"})
"""The kinds of bodies that are read when they are whole; events come as long as somebody listens."""


@dataclass(frozen=True, slots=True)
class Marked:
    """The marks of one direction: where their values are, and for each mark its place and its text."""

    locator: Locator
    pairs: PairMarks
    most: int
    """Marked values that one body may have."""
    places: tuple[tuple[PlaceRule, str], ...]
    required: tuple[int, ...] = ()
    """The marks that a body must have a value for."""
    pads: tuple[int, ...] = ()
    """To multiples of how many bytes the values of each mark are padded; empty where none are."""

    @classmethod
    def of(cls, places: Sequence[PlaceRule], limits: Limits, *, requires: bool = False) -> Marked | None:
        """What these places mark in bodies; None where nothing. Raises ValueError where they are too many.

        `requires`: whether what places require is required here. It is of requests.
        """
        pairs = [(place, mark) for place in places for mark in place.marks if isinstance(mark, Mark)]
        if not pairs:
            return None
        marks = [mark for _, mark in pairs]
        locator_for = partial(
            Locator, duplicates=limits.duplicates, max_depth=limits.depth, max_hits=limits.marked
        )
        return cls(
            locator_for(marks),
            PairMarks(marks, locator_for),
            limits.marked,
            tuple((place, str(mark)) for place, mark in pairs),
            tuple(index for index, (place, _) in enumerate(pairs) if requires and place.required),
            _pads([place for place, _ in pairs], requires),
        )

    def padded_too_long(self, hits: Sequence[Hit]) -> str | None:
        """The setting by which the values of these hits would make a body too long, or None."""
        if not self.pads:
            return None
        added = 0
        for hit in hits:
            # What is longer than a step at most doubles.
            added += max(0, self.pads[hit.mark] - (hit.end - hit.start))
            if added > MOST_PADDING:
                return f"fields.{self.places[hit.mark][0].field.name}.pad"
        return None

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


def rewrite(
    body: bytes, marked: Marked, act: Act, unreadable: str, media_type: MediaType = JSON
) -> Rewritten | Refusal:
    """The body with each marked value replaced by what `act` makes of it, or the first refusal.

    `unreadable` is the code for a body that cannot be read. A body of a kind that is not read is one, too.
    Of no body at all nothing is required here.
    """
    if not body:
        return Rewritten(body)
    try:
        hits = _located(body, marked, media_type)
        if len(hits) > marked.most:
            raise TooManyHits
    except UnreadableJSON:
        return Refusal(unreadable)
    except UnreadableForm as form:
        return Refusal(unreadable, None if form.mark is None else marked.places[form.mark][1])
    except TooManyHits as many:
        where = "fields" if isinstance(many, TooManyPairs) else _MARKED_KEY
        return Refusal("payload_too_large" if unreadable == "payload_malformed" else unreadable, where)
    if (too_long := marked.padded_too_long(hits)) is not None:
        return Refusal("payload_too_large" if unreadable == "payload_malformed" else unreadable, too_long)
    if (missing := _missing(body, marked, hits, media_type)) is not None:
        return missing
    values: list[bytes] = []
    changed = False
    for hit in hits:
        place, where = marked.places[hit.mark]
        before = body[hit.start : hit.end]
        if isinstance(hit, Spot):
            value = _written(hit, place, before, where, act, unreadable)
        else:
            value = act(place, before, where)
        if isinstance(value, Refusal):
            return value
        changed = changed or value != before
        values.append(value)
    if not changed:
        return Rewritten(body, hits)
    rewritten = splice(body, hits, values)
    if media_type.boundary and not _same_parts(body, rewritten, media_type.boundary):
        return Refusal(unreadable)
    return Rewritten(rewritten, hits)


def _pads(places: Sequence[PlaceRule], inward: bool) -> tuple[int, ...]:
    """For each place, the step to which its values are padded where they are sealed; nothing if none are."""
    pads = tuple(
        place.field.pad if (place.request if inward else place.response) == "encrypt" else 0
        for place in places
    )
    return pads if any(pads) else ()


def _located(body: bytes, marked: Marked, media_type: MediaType) -> Sequence[Hit]:
    match media_type.kind:
        case "json":
            return marked.locator.locate(body)
        case "form":
            return forms.locate(body, marked.pairs)
        case "multipart":
            return multipart.locate(body, media_type.boundary, marked.pairs)
        case "lines" | "sequence" as kind:
            return records.locate_in_texts(body, kind, marked.locator)
        case "events":
            return records.locate_in_events(body, marked.locator, media_type.plain)
    raise UnreadableForm


def _missing(body: bytes, marked: Marked, hits: Sequence[Hit], media_type: MediaType) -> Refusal | None:
    """Why the body may not go on: a required mark has no value, in one of its records where it has such."""
    if not marked.required or media_type.kind not in ("lines", "sequence"):
        return marked.missing(hits)
    within = (
        marked.missing([hit for hit in hits if start <= hit.start < end])
        for start, end in records.texts_of(body, media_type.kind)
    )
    return next((missing for missing in within if missing is not None), None)


def _written(
    spot: Spot, place: PlaceRule, before: bytes, where: str, act: Act, unreadable: str
) -> bytes | Refusal:
    """What stands there instead; the very bytes where the value is the same."""
    try:
        came = spot.writing.read(before)
        value = act(place, came, where)
        if isinstance(value, Refusal):
            return value
        return before if value == came else spot.writing.write(value)
    except (UnreadableForm, Unwritable):
        return Refusal(unreadable, where)


def _same_parts(before: bytes, after: bytes, boundary: bytes) -> bool:
    """Whether no value that was put in looks like the end of its part."""
    delimiter = b"--" + boundary
    return before.count(delimiter) == after.count(delimiter)


def unmarked(body: bytes, hits: Sequence[Hit]) -> Iterator[bytes]:
    """What is left of a body where its marked values are cut out."""
    position = 0
    for hit in hits:
        yield body[position : hit.start]
        position = hit.end
    yield body[position:] if position else body
