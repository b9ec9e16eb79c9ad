"""Marks out of a JSON Schema: where in a body the values stand that it says are sensitive.

Pydantic's models and OpenAPI documents both come here as schemas, so that both mean the same. Where a schema
leaves open what a value is, as a union does, a mark of any form holds for all of them: nothing that may be
sensitive is left out.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any, Final, NamedTuple

from secmiddleware.fields.encrypted import EXTENSION
from secmiddleware.fields.marks import Descend, Each, Index, Mark, Name, Step
from secmiddleware.fields.schema_files import Documents, SchemaError, check_base, escaped
from secmiddleware.fields.subtypes import Subtypes

ORIGIN: Final = "x-secmiddleware-origin"
"""Where a schema was made of something else: what it was made of, for people."""

# Far over any API's schemas, and a second's work or so.
_MOST_SCHEMAS: Final = 200_000
_MOST_FOLLOWED: Final = 5_000_000
_DEEPEST: Final = 200
_MOST_FOUND: Final = 2000


@dataclass(frozen=True, slots=True)
class Found:
    """A value that is sensitive: of which field, how far below, and where the schema says so."""

    field: str | None
    """None where the schema names none."""
    steps: tuple[Step, ...]
    origin: str

    def below(self, step: Step) -> Found:
        """The same, one step further up."""
        return replace(self, steps=(step, *self.steps))

    def mark(self) -> Mark:
        """The mark that selects it. Raises SchemaError where there is none."""
        try:
            return Mark.parse("$" + "".join(map(str, self.steps)))
        except ValueError as error:
            raise SchemaError(f"{self.origin}: {error}") from None


class _Spot(NamedTuple):
    """Where a schema stands, and what for."""

    pointer: str
    part: bool = False
    """Of a schema that is made of it: its other subtypes are not meant then."""

    def below(self, *names: str | int, part: bool = False) -> _Spot:
        return _Spot("/".join((self.pointer, *(escaped(str(name)) for name in names))), part)


@dataclass(frozen=True, slots=True)
class _Child:
    """A schema within another one, and the step to its values; None where they are the same."""

    step: Step | None
    schema: Any
    spot: _Spot
    keyword: str


class Survey:
    """What one document says of its values; every part of it is looked at once."""

    def __init__(self, documents: Documents) -> None:
        self._documents = documents
        self._subtypes = Subtypes(documents)
        self._known: dict[_Spot, tuple[Found, ...]] = {}
        self._reached: dict[tuple[_Spot, bool], frozenset[_Spot]] = {}
        self._leading: dict[tuple[_Spot, bool], frozenset[_Spot]] = {}
        self._seen = 0
        self._followed = 0

    def found_at(self, pointer: str) -> tuple[Found, ...]:
        """All that is sensitive in the values of the schema at a pointer, as in `#/$defs/Customer`.

        Raises:
            SchemaError: there is nothing, or it cannot be followed.
        """
        _, _, fragment = pointer.partition("#")
        return self._referenced(_Spot(self._documents.locate(f"#{fragment}", pointer)), 0)

    def _referenced(self, spot: _Spot, depth: int) -> tuple[Found, ...]:
        if spot not in self._known:
            schema = self._documents.resolve(spot.pointer)
            found = (
                self._of_recursive(spot) if self._is_recursive(spot) else self._within(schema, spot, depth)
            )
            told = tuple(islice(_once(found), _MOST_FOUND + 1))
            if len(told) > _MOST_FOUND:
                raise SchemaError(f"{spot.pointer}: says more than {_MOST_FOUND} marks")
            self._known[spot] = told
        return self._known[spot]

    def _within(self, schema: Any, spot: _Spot, depth: int) -> Iterator[Found]:
        """All that is sensitive in the values of a schema."""
        named, field = _named(schema)
        if named:
            yield Found(field, (), _origin(schema, spot.pointer))
        if field is not None:
            return  # and so is all within it
        if depth > _DEEPEST:
            raise SchemaError(f"{spot.pointer[:200]}: nests deeper than {_DEEPEST} schemas")
        for other in self._others(schema, spot):
            for found in self._referenced(other, depth + 1):
                yield _seen_from(found, schema)
        for child in self._children(schema, spot):
            for found in self._within(child.schema, child.spot, depth + 1):
                yield _further_up(found, schema, child)

    def _others(self, schema: Any, spot: _Spot) -> Iterator[_Spot]:
        """The schemas elsewhere that a value is of, too, or may be of: what is referred to, and subtypes."""
        if not isinstance(schema, Mapping):
            return
        if "$ref" in schema:
            part = spot.part or self._subtypes.is_one(schema, spot.pointer)
            yield self._spot(self._documents.locate(schema["$ref"], spot.pointer), part=part)
        if not spot.part:
            for pointer in self._subtypes.of(schema, spot.pointer):
                yield self._spot(pointer, part=True)

    def _spot(self, pointer: str, *, part: bool) -> _Spot:
        return _Spot(pointer, part and self._subtypes.has_discriminator(pointer))

    def _children(self, schema: Any, spot: _Spot) -> Iterator[_Child]:
        """The schemas of the same value and of what is directly in it."""
        if not isinstance(schema, Mapping):
            return  # true and false say nothing of what is inside
        self._seen += 1
        if self._seen > _MOST_SCHEMAS:
            raise SchemaError(f"has more than {_MOST_SCHEMAS} schemas to follow")
        for keyword in ("$dynamicRef", "$recursiveRef"):
            if keyword in schema:
                raise SchemaError(f"{spot.pointer}: {keyword} is not followed; write the marks by hand")
        if not spot.pointer.endswith("#"):
            check_base(schema, spot.pointer)
        part = spot.part or ("allOf" in schema and self._subtypes.is_one(schema, spot.pointer))
        for index, one in enumerate(_list(schema.get("allOf"))):
            yield _Child(None, one, spot.below("allOf", index, part=part), "allOf")
        for keyword in ("anyOf", "oneOf"):
            for index, one in enumerate(_list(schema.get(keyword))):
                if not self._subtypes.is_listed(one, spot.pointer):
                    yield _Child(None, one, spot.below(keyword, index), keyword)
        for keyword in ("then", "else"):
            if keyword in schema:
                yield _Child(None, schema[keyword], spot.below(keyword), keyword)
        for name, one in _table(schema.get("dependentSchemas")).items():
            yield _Child(None, one, spot.below("dependentSchemas", name), "dependentSchemas")
        for name, one in _table(schema.get("properties")).items():
            yield _Child(Name(name), one, spot.below("properties", name), "properties")
        for name, one in _table(schema.get("patternProperties")).items():
            yield _Child(Each(), one, spot.below("patternProperties", name), "patternProperties")
        for keyword in ("additionalProperties", "unevaluatedProperties", "unevaluatedItems", "contains"):
            if keyword in schema:
                yield _Child(Each(), schema[keyword], spot.below(keyword), keyword)
        items = schema.get("items")
        keyword = "prefixItems" if "prefixItems" in schema else "items"
        for index, one in enumerate(_list(schema.get(keyword))):
            yield _Child(Index(index), one, spot.below(keyword, index), "prefixItems")
        if isinstance(items, Mapping):
            yield _Child(Each(), items, spot.below("items"), "items")

    # --- Schemas within themselves: a value may stand at any depth, so its name is looked for at any depth.

    def _is_recursive(self, spot: _Spot) -> bool:
        return spot in self._reachable(spot)

    def _of_recursive(self, spot: _Spot) -> Iterator[Found]:
        """What is sensitive in a schema that is within itself.

        Raises SchemaError where a name at any depth would select more than is sensitive, or there is none.
        """
        yield from self._beside(spot, frozenset())
        tails: dict[str, tuple[Found, ...]] = {}
        for part in sorted({spot, *self._reachable(spot)}):
            schema = self._documents.resolve(part.pointer)
            for name, found in self._properties(schema, part, 0):
                same = {(one.field, one.steps) for one in found}
                if same != {(one.field, one.steps) for one in tails.setdefault(name, found)}:
                    raise SchemaError(
                        f"{spot.pointer}: is within itself, and {name!r} is sensitive in one part of it and "
                        "different in another; write the marks by hand"
                    )
        for name, found in tails.items():
            yield from (one.below(Descend(name)) for one in found)

    def _properties(self, schema: Any, spot: _Spot, depth: int) -> Iterator[tuple[str, tuple[Found, ...]]]:
        """Each property in a schema, not following references, and what is sensitive at no further name."""
        if _named(schema)[1] is not None or depth > _DEEPEST:
            return
        for child in self._children(schema, spot):
            if isinstance(child.step, Name):
                found = self._beside_of(child.schema, child.spot, frozenset())
                yield child.step.name, tuple(found)
            yield from self._properties(child.schema, child.spot, depth + 1)

    def _beside(self, spot: _Spot, open_: frozenset[_Spot]) -> tuple[Found, ...]:
        if spot in open_:
            return ()  # what is in it is found where it was entered
        schema = self._documents.resolve(spot.pointer)
        found = tuple(self._beside_of(schema, spot, open_ | {spot}))
        if found and spot in self._reachable(spot, names=False):
            raise SchemaError(
                f"{spot.pointer}: is within itself without a name on the way, so a value may stand at any "
                "depth; write the marks by hand"
            )
        return found

    def _beside_of(self, schema: Any, spot: _Spot, open_: frozenset[_Spot]) -> Iterator[Found]:
        """What is sensitive in the values of a schema without a name on the way to it."""
        named, field = _named(schema)
        if named:
            yield Found(field, (), _origin(schema, spot.pointer))
        if field is not None:
            return
        for other in self._others(schema, spot):
            for found in self._beside(other, open_):
                yield _seen_from(found, schema)
        for child in self._children(schema, spot):
            if isinstance(child.step, Name):
                continue
            for found in self._beside_of(child.schema, child.spot, open_):
                yield _further_up(found, schema, child)

    def _reachable(self, spot: _Spot, *, names: bool = True) -> frozenset[_Spot]:
        """All that can be come to from what stands somewhere, by one or more references.

        Without `names`, only those on whose way no member's name is. Raises SchemaError where one of them is
        made of itself.
        """
        if (spot, names) not in self._reached:
            found: set[_Spot] = set()
            todo = [spot]
            while todo:
                new = self._leading_on(todo.pop(), names=names) - found
                found |= new
                todo += new
            self._reached[spot, names] = frozenset(found)
            self._followed += len(found)
            if self._followed > _MOST_FOLLOWED:
                raise SchemaError("has too many schemas within each other to follow; write the marks by hand")
        return self._reached[spot, names]

    def _leading_on(self, spot: _Spot, *, names: bool) -> frozenset[_Spot]:
        """What can be come to from what stands somewhere, by one reference."""
        if (spot, names) not in self._leading:
            self._subtypes.bases(spot.pointer)
            schema = self._documents.resolve(spot.pointer)
            self._leading[spot, names] = frozenset(self._references(schema, spot, 0, names=names))
        return self._leading[spot, names]

    def _references(self, schema: Any, spot: _Spot, depth: int, *, names: bool) -> Iterator[_Spot]:
        if _named(schema)[1] is not None or depth > _DEEPEST:
            return
        yield from self._others(schema, spot)
        for child in self._children(schema, spot):
            if names or not isinstance(child.step, Name):
                yield from self._references(child.schema, child.spot, depth + 1, names=names)


def _once(found: Iterable[Found]) -> Iterator[Found]:
    """Each once: what subtypes share is found in each of them."""
    told: set[Found] = set()
    for one in found:
        if one not in told:
            told.add(one)
            yield one


def _named(schema: Any) -> tuple[bool, str | None]:
    """Whether a schema says that its values are sensitive, and of which field they are, if it says that."""
    told = schema.get(EXTENSION) if isinstance(schema, Mapping) else None
    match told:
        case None | False:
            return False, None
        case str():
            return True, told
        case Mapping() if isinstance(told.get("field"), str):
            return True, told["field"]
        case _:
            return True, None


def _further_up(found: Found, schema: Mapping[str, Any], child: _Child) -> Found:
    """What was found in a child, as it is found in the schema around it."""
    _check_alone(schema, child, found)
    return _seen_from(found if child.step is None else found.below(child.step), schema)


def _check_alone(schema: Mapping[str, Any], child: _Child, found: Found) -> None:
    """Raises SchemaError where `[*]` would select values that have a schema of their own."""
    beside = {
        "patternProperties": ("properties", "additionalProperties"),
        "additionalProperties": ("properties", "patternProperties"),
        "unevaluatedProperties": ("properties", "patternProperties"),
        "items": ("prefixItems",),
        "unevaluatedItems": ("prefixItems", "items"),
    }
    for keyword in beside.get(child.keyword, ()):
        if schema.get(keyword) and found.field is not None:
            raise SchemaError(
                f"{child.spot.pointer}: is sensitive, and [*] would select {keyword} beside it too; write "
                "the marks by hand"
            )


def _origin(schema: Mapping[str, Any], pointer: str) -> str:
    return str(schema.get(ORIGIN, pointer))


def _seen_from(found: Found, schema: Mapping[str, Any]) -> Found:
    """The same; what is somewhere in an attribute's type is looked for at the attribute."""
    return replace(found, origin=_origin(schema, found.origin)) if found.origin.startswith("#") else found


def _list(value: object) -> list[Any]:
    return value if isinstance(value, list) else []


def _table(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}
