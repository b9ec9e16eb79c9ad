"""Where fields are marked, whichever way the settings say it: by hand, at a model, in an OpenAPI document.

All of it becomes the same marks, each with where it came from. Models are the app's code, and are imported
only for those who say so: never by `load` or `check`.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from itertools import combinations
from pathlib import Path
from typing import Any, Final, get_args

from secmiddleware.fields.head_marks import AnyMark, HeadMark, Part, overlaps, read_mark
from secmiddleware.fields.marks import Mark, contains, joins
from secmiddleware.fields.model_schemas import Way, schema_of
from secmiddleware.fields.openapi import Described, describe
from secmiddleware.fields.schema_files import Documents, SchemaError
from secmiddleware.fields.schemas import Found, Survey
from secmiddleware.paths import PathPattern
from secmiddleware.settings.mistakes import Mistake, Note, did_you_mean, write_path
from secmiddleware.settings.models import PlaceSettings, Settings
from secmiddleware.settings.positions import KeyPath

# Each mark is compared with every other one that shares a route with it: a second's work or so.
MOST_MARKS: Final = 1000
_PARTS: Final = tuple(f"{part}:" for part in get_args(Part))


@dataclass(frozen=True, slots=True)
class SourcedMark:
    """A mark, and who says it: a key of the settings, and what that leads to in a model or a document."""

    mark: AnyMark
    key: KeyPath
    origin: str | None = None
    """None where it stands in the settings themselves."""

    def __str__(self) -> str:
        return write_path(self.key) if self.origin is None else self.origin


@dataclass(frozen=True, slots=True)
class MarkedPlace:
    """Some routes, and what of a field is marked there, each way."""

    field: str
    key: KeyPath
    routes: tuple[PathPattern, ...]
    request: tuple[SourcedMark, ...]
    response: tuple[SourcedMark, ...]

    @property
    def marks(self) -> tuple[SourcedMark, ...]:
        """All of them, of both ways."""
        return tuple(dict.fromkeys((*self.request, *self.response)))

    @property
    def by_hand(self) -> bool:
        """Whether all of them stand in the settings."""
        return all(one.origin is None for one in self.marks)


@dataclass(slots=True)
class Placed:
    """All marked places of the settings, what is wrong with them, and what a document says in vain."""

    places: list[MarkedPlace] = field(default_factory=list)
    mistakes: list[Note] = field(default_factory=list)
    left: list[tuple[KeyPath, str]] = field(default_factory=list)
    """Values that are called sensitive without a field, so that nothing is done to them."""


def places_of(settings: Settings, *, import_models: bool) -> Placed:
    """The marked places of the settings. OpenAPI documents are read; models with `import_models` only.

    Without it, places that take their marks from a model have none beside those that stand there too.
    """
    placed = Placed()
    reader = _Reader(settings, import_models=import_models)
    for name, one in settings.fields.items():
        for index, place in enumerate(one.places):
            key: KeyPath = ("fields", name, "places", index)
            placed.mistakes += _lacking(key, place)
            placed.places += _Taker(settings, name, key, place, placed).places(reader)
    return placed


def _lacking(key: KeyPath, place: PlaceSettings) -> Iterator[Note]:
    """What a place should say, or should not."""
    openapi = (*key, "openapi")
    for name in ("routes", "marks", "marks_from"):
        given = bool(getattr(place, name))
        if place.openapi is not None and given:
            message = "is given beside openapi, which says it all"
            yield Mistake((*key, name), message, "make it a place of its own"), (openapi,)
    if place.openapi is None:
        if not place.routes:
            yield Mistake((*key, "routes"), "is missing", "or take all from openapi"), (openapi,)
        if not place.marks and place.marks_from is None:
            yield Mistake((*key, "marks"), "is missing", "or say marks_from, or openapi"), (openapi,)
    if place.required and (place.openapi is not None or place.marks_from is not None):
        message = "is for marks that stand here: of those from elsewhere, no body needs to have them all"
        hint = "make what is required a place of its own, with marks"
        yield Mistake((*key, "required"), message, hint), (openapi, (*key, "marks_from"))
    if place.unnamed and place.openapi is None and "#" not in (place.marks_from or ""):
        message = "is of no use: Encrypted always names its field"
        yield Mistake((*key, "unnamed"), message), ((*key, "marks_from"), openapi)


class _Reader:
    """Reads each document once."""

    def __init__(self, settings: Settings, *, import_models: bool) -> None:
        self.import_models = import_models
        self._mount = settings.service.mount
        self._documents: dict[Path, Documents] = {}
        self._described: dict[Path, tuple[Described, ...]] = {}

    def described(self, path: Path) -> tuple[Described, ...]:
        if path not in self._described:
            self._described[path] = describe(self._document(path), self._mount)
        return self._described[path]

    def found(self, source: str, way: Way) -> tuple[Found, ...]:
        """What is sensitive in a schema of a document (`FILE#/POINTER`), or in a model (`module:Name`)."""
        file, pointer, inside = source.partition("#")
        if pointer:
            return Survey(self._document(Path(file))).found_at(f"#{inside}")
        return Survey(Documents(schema_of(_imported(source), way))).found_at("#")

    def _document(self, path: Path) -> Documents:
        if path not in self._documents:
            self._documents[path] = Documents.read(path)
        return self._documents[path]


def _imported(reference: str) -> Any:
    module, _, name = reference.partition(":")
    try:
        found: Any = importlib.import_module(module)
    except Exception as error:  # a module that is being imported may raise anything
        raise SchemaError(f"{module} cannot be imported: {type(error).__name__}: {error}") from error
    for part in name.split("."):
        if not hasattr(found, part):
            raise SchemaError(
                f"{module} has no {name}, or not yet: a module that sets up the middleware itself is not "
                "through by then"
            )
        found = getattr(found, part)
    return found


@dataclass(frozen=True, slots=True)
class _Taker:
    """Takes for one place what is of its field."""

    settings: Settings
    name: str
    key: KeyPath
    place: PlaceSettings
    placed: Placed

    def places(self, reader: _Reader) -> list[MarkedPlace]:
        if self.place.openapi is not None:
            return self._of_document(self.place.openapi, reader)
        by_hand = tuple(
            SourcedMark(read_mark(text), (*self.key, "marks", index))
            for index, text in enumerate(self.place.marks)
        )
        request, response = self._of_model(reader) if self.place.marks_from is not None else ((), ())
        routes = tuple(map(PathPattern.parse, self.place.routes))
        return [self._place(routes, by_hand + request, by_hand + response)]

    def _of_model(self, reader: _Reader) -> tuple[tuple[SourcedMark, ...], tuple[SourcedMark, ...]]:
        source = self.place.marks_from or ""
        key = (*self.key, "marks_from")
        if "#" not in source and not reader.import_models:
            return (), ()
        about = Path(source.partition("#")[0]).name if "#" in source else ""
        taken: dict[Way, tuple[SourcedMark, ...]] = {"request": (), "response": ()}
        ways: tuple[Way, ...] = ("request", "response")
        try:
            for way in ways:
                taken[way] = self._taken(reader.found(source, way), key, about)
        except SchemaError as error:
            self._wrong(key, f"{about or source}: {error}", None)
            return (), ()
        if not any(taken.values()):
            self._nothing(
                key, about or source, (found for way in ways for found in reader.found(source, way))
            )
        return taken["request"], taken["response"]

    def _of_document(self, path: Path, reader: _Reader) -> list[MarkedPlace]:
        key = (*self.key, "openapi")
        places: dict[tuple[Any, ...], MarkedPlace] = {}
        all_found: list[Found] = []
        try:
            for described in reader.described(path):
                all_found += (*described.request, *described.response, *(one[0] for one in described.heads))
                heads = self._heads(described, key, path.name)
                place = self._place(
                    described.routes,
                    self._taken(described.request, key, path.name) + heads["request"],
                    self._taken(described.response, key, path.name) + heads["response"],
                )
                if place.marks:
                    # What is the same for several paths is one place: each place costs every request.
                    same = places.setdefault((place.request, place.response), place)
                    routes = tuple(dict.fromkeys((*same.routes, *place.routes)))
                    places[place.request, place.response] = replace(same, routes=routes)
        except SchemaError as error:
            text = str(error)
            self._wrong(key, text if text.startswith(str(path)) else f"{path.name}: {text}", None)
            return []
        if not places:
            self._nothing(key, path.name, all_found)
        return list(places.values())

    def _place(
        self,
        routes: tuple[PathPattern, ...],
        request: tuple[SourcedMark, ...],
        response: tuple[SourcedMark, ...],
    ) -> MarkedPlace:
        return MarkedPlace(
            self.name,
            self.key,
            routes,
            () if self.place.request == "pass" else request,
            () if self.place.response == "pass" else response,
        )

    def _taken(self, found: Iterable[Found], key: KeyPath, about: str) -> tuple[SourcedMark, ...]:
        """The marks of what is of this field. Several ways to one mark count once."""
        marks: dict[AnyMark, SourcedMark] = {}
        for one in found:
            if self._is_ours(one, key, about):
                mark = one.mark()
                marks.setdefault(mark, SourcedMark(mark, key, _told(one, about)))
        return tuple(marks.values())

    def _is_ours(self, found: Found, key: KeyPath, about: str) -> bool:
        """Whether a value is of this field. A field that there is not is a mistake; one without is told."""
        if found.field is not None and found.field not in self.settings.fields:
            hint = did_you_mean(found.field, self.settings.fields) or f"make it one: [fields.{found.field}]"
            message = f'{_told(found, about)} is of a field "{found.field}", which there is not'
            self._wrong(key, message, hint, ("fields", found.field))
        if found.field is None and not self.place.unnamed:
            self._left(key, f"{_told(found, about)} is sensitive, and names no field")
        return found.field == self.name or (found.field is None and self.place.unnamed)

    def _heads(self, described: Described, key: KeyPath, about: str) -> dict[Way, tuple[SourcedMark, ...]]:
        """Marks of headers, cookies and query parameters. What cannot be one is a mistake, never ignored."""
        taken: dict[Way, dict[AnyMark, SourcedMark]] = {"request": {}, "response": {}}
        for found, way, where in described.heads:
            if not self._is_ours(found, key, about):
                continue
            try:
                mark = HeadMark.parse(where) if where.startswith(_PARTS) and not found.steps else None
            except ValueError:
                mark = None
            if mark is None:
                message = (
                    f"{_told(found, about)} is in {where} of {described.path}, where nothing can be marked"
                )
                self._wrong(key, message, "a value that is sensitive belongs in a body")
            else:
                taken[way].setdefault(mark, SourcedMark(mark, key, _told(found, about)))
        return {way: tuple(marks.values()) for way, marks in taken.items()}

    def _nothing(self, key: KeyPath, about: str, found: Iterable[Found]) -> None:
        told = list(found)
        unnamed = sum(one.field is None for one in told)
        others = sorted({one.field for one in told if one.field is not None} - {self.name})
        hint = f"it marks {', '.join(others)}" if others else None
        if unnamed and not self.place.unnamed:
            hint = f"{unnamed} values there are sensitive without a field: unnamed = true takes them"
        elif not told:
            hint = f'as in Annotated[str, Encrypted("{self.name}")]'
        told_already = any(mistake.path == key for mistake, _ in self.placed.mistakes)
        if told_already or self.place.request == self.place.response == "pass":
            return  # and that is told, too
        self._wrong(key, f"{about} marks nothing as {self.name}", hint)

    def _wrong(self, key: KeyPath, message: str, hint: str | None, *looked_at: KeyPath) -> None:
        note: Note = (Mistake(key, message, hint), (("service", "mount"), *looked_at))
        if note not in self.placed.mistakes:
            self.placed.mistakes.append(note)

    def _left(self, key: KeyPath, text: str) -> None:
        if (key, text) not in self.placed.left:
            self.placed.left.append((key, text))


def _told(found: Found, about: str) -> str:
    """Where something was found: in the document, or in another file that this refers to."""
    return about + found.origin if found.origin.startswith("#") else found.origin


def meet(first: PathPattern, second: PathPattern) -> bool:
    """Whether some path is matched by both patterns."""
    shorter, longer = sorted((first, second), key=lambda pattern: len(pattern.segments))
    if len(shorter.segments) < len(longer.segments) and not shorter.tree:
        return False
    pairs = zip(shorter.segments, longer.segments, strict=False)  # the shorter one's tree takes the rest
    return all("*" in (one, other) or one == other for one, other in pairs)


def overlapping(places: Iterable[MarkedPlace]) -> Iterator[Note]:
    """Marks on one route that may select one value, or one inside the other: it would be handled twice."""
    places = tuple(places)
    total = sum(len(place.marks) for place in places)
    if total > MOST_MARKS:
        yield Mistake(("fields",), f"has {total} marks in all: {MOST_MARKS} are the most"), ()
        return
    for place in places:
        for marks in _each_way(place, place):
            for first, second in combinations(marks[0], 2):
                if _collide(first, second, one_place=True):
                    yield _overlap(second, first)
    for one, other in combinations(places, 2):
        # Two paths of one document that a pattern both matches mark what they mark, and mean the same field.
        if one.key == other.key or not any(meet(a, b) for a in one.routes for b in other.routes):
            continue
        for ones, others in _each_way(one, other):
            for first in ones:
                for second in others:
                    if _collide(first, second, one_place=False):
                        yield _overlap(second, first)


def _collide(first: SourcedMark, second: SourcedMark, *, one_place: bool) -> bool:
    """Whether two marks are in each other's way.

    By hand, each is meant for a body that the other fits too. Where a document has several bodies for one
    path, `$[*].ssn` of a list and `$.iban` of an object reach into each other by chance only, and then the
    outer one has it; what counts is one value for two fields, or one that is described as part of another.
    """
    if first.origin is None and second.origin is None:
        return overlaps(first.mark, second.mark)
    one, other = first.mark, second.mark
    if not isinstance(one, Mark) or not isinstance(other, Mark):
        return one == other and not one_place
    return contains(one, other) or contains(other, one) or (not one_place and joins(one, other))


def _each_way(
    one: MarkedPlace, other: MarkedPlace
) -> Iterator[tuple[tuple[SourcedMark, ...], tuple[SourcedMark, ...]]]:
    """The marks that could be in each other's way. By hand, one place says all that happens to a value."""
    if one.by_hand and other.by_hand:
        yield one.marks, other.marks
        return
    yield one.request, other.request
    if (one.response, other.response) != (one.request, other.request):
        yield one.response, other.response


def _overlap(later: SourcedMark, earlier: SourcedMark) -> Note:
    said = "" if later.origin is None else f"{later.origin} ({later.mark}) "
    message = f"{said}may select a value that {earlier} selects too, on a route that both are for"
    return Mistake(later.key, message, "mark each value once"), (earlier.key,)
