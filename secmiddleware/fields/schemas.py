"""Marks out of a JSON Schema: where in a body the values stand that it says are sensitive.

Pydantic's models and OpenAPI documents both come here as schemas, so that both mean the same. Where a schema
leaves open what a value is, as a union does, a mark of any form holds for all of them: nothing that may be
sensitive is left out.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any, Final
from urllib.parse import unquote

from secmiddleware.fields.encrypted import EXTENSION
from secmiddleware.fields.marks import Descend, Each, Index, Mark, Name, Step

ORIGIN: Final = "x-secmiddleware-origin"
"""Where a schema was made of something else: what it was made of, for people."""

# Far over any API's schemas, and a second's work or so.
_MOST_SCHEMAS: Final = 200_000
_DEEPEST: Final = 200
_MOST_FOUND: Final = 2000


class SchemaError(ValueError):
    """A schema that no marks can be had from; says why, and where in it."""


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


@dataclass(frozen=True, slots=True)
class _Child:
    """A schema within another one, and the step to its values; None where they are the same."""

    step: Step | None
    schema: Any
    pointer: str
    keyword: str


class Survey:
    """What one document says of its values; every part of it is looked at once."""

    def __init__(self, document: Mapping[str, Any]) -> None:
        self._document = document
        self._known: dict[str, tuple[Found, ...]] = {}
        self._reached: dict[tuple[str, bool], frozenset[str]] = {}
        self._seen = 0

    def found_at(self, pointer: str) -> tuple[Found, ...]:
        """All that is sensitive in the values of the schema at a JSON pointer, as in `#/$defs/Customer`.

        Raises:
            SchemaError: there is nothing, or it cannot be followed.
        """
        return self._referenced(pointer, pointer, 0)

    def resolve(self, pointer: str, at: str) -> Any:
        """What stands at a pointer. Raises SchemaError, which says that `at` leads nowhere."""
        if pointer != "#" and not pointer.startswith("#/"):
            raise SchemaError(
                f"{at}: leads out of the document, to {pointer[:200]!r}; bundle it into one file"
            )
        here: Any = self._document
        for part in pointer[2:].split("/") if len(pointer) > 1 else ():
            name = unquote(part).replace("~1", "/").replace("~0", "~")
            if isinstance(here, Mapping) and name in here:
                here = here[name]
            elif isinstance(here, list) and name.isascii() and name.isdigit() and int(name) < len(here):
                here = here[int(name)]
            else:
                raise SchemaError(f"{at}: there is no {pointer[:200]}")
        return here

    def _referenced(self, pointer: str, at: str, depth: int) -> tuple[Found, ...]:
        if pointer not in self._known:
            schema = self.resolve(pointer, at)
            if pointer in self._reachable(pointer):
                found = self._of_recursive(pointer)
            else:
                found = self._within(schema, pointer, depth)
            self._known[pointer] = told = tuple(islice(found, _MOST_FOUND + 1))
            if len(told) > _MOST_FOUND:
                raise SchemaError(f"{pointer}: says more than {_MOST_FOUND} marks")
        return self._known[pointer]

    def _within(self, schema: Any, pointer: str, depth: int) -> Iterator[Found]:
        """All that is sensitive in the values of a schema."""
        named, field = _named(schema)
        if named:
            yield Found(field, (), _origin(schema, pointer))
        if field is not None:
            return  # and so is all within it
        if depth > _DEEPEST:
            raise SchemaError(f"{pointer[:200]}: nests deeper than {_DEEPEST} schemas")
        if isinstance(schema, Mapping) and "$ref" in schema:
            for found in self._referenced(_reference(schema, pointer), pointer, depth + 1):
                yield _seen_from(found, schema)
        for child in self._children(schema, pointer):
            for found in self._within(child.schema, child.pointer, depth + 1):
                yield _further_up(found, schema, child)

    def _children(self, schema: Any, pointer: str) -> Iterator[_Child]:
        """The schemas of the same value and of what is directly in it."""
        if not isinstance(schema, Mapping):
            return  # true and false say nothing of what is inside
        self._seen += 1
        if self._seen > _MOST_SCHEMAS:
            raise SchemaError(f"has more than {_MOST_SCHEMAS} schemas to follow")
        for keyword in ("$dynamicRef", "$recursiveRef"):
            if keyword in schema:
                raise SchemaError(f"{pointer}: {keyword} is not followed; write the marks by hand")
        for keyword in ("allOf", "anyOf", "oneOf"):
            for index, one in enumerate(_list(schema.get(keyword))):
                yield _Child(None, one, f"{pointer}/{keyword}/{index}", keyword)
        for keyword in ("then", "else"):
            if keyword in schema:
                yield _Child(None, schema[keyword], f"{pointer}/{keyword}", keyword)
        for name, one in _table(schema.get("dependentSchemas")).items():
            yield _Child(None, one, f"{pointer}/dependentSchemas/{_escaped(name)}", "dependentSchemas")
        for name, one in _table(schema.get("properties")).items():
            yield _Child(Name(name), one, f"{pointer}/properties/{_escaped(name)}", "properties")
        for name, one in _table(schema.get("patternProperties")).items():
            yield _Child(Each(), one, f"{pointer}/patternProperties/{_escaped(name)}", "patternProperties")
        for keyword in ("additionalProperties", "unevaluatedProperties", "unevaluatedItems", "contains"):
            if keyword in schema:
                yield _Child(Each(), schema[keyword], f"{pointer}/{keyword}", keyword)
        items = schema.get("items")
        first = schema.get("prefixItems", items if isinstance(items, list) else None)
        for index, one in enumerate(_list(first)):
            yield _Child(Index(index), one, f"{pointer}/prefixItems/{index}", "prefixItems")
        if isinstance(items, Mapping):
            yield _Child(Each(), items, f"{pointer}/items", "items")

    # --- Schemas within themselves: a value may stand at any depth, so its name is looked for at any depth.

    def _of_recursive(self, pointer: str) -> Iterator[Found]:
        """What is sensitive in a schema that is within itself.

        Raises SchemaError where a name at any depth would select more than is sensitive, or there is none.
        """
        yield from self._beside(pointer, frozenset(), pointer)
        tails: dict[str, tuple[Found, ...]] = {}
        for part in sorted({pointer, *self._reachable(pointer)}):
            for name, found in self._properties(self.resolve(part, pointer), part, 0):
                same = {(one.field, one.steps) for one in found}
                if same != {(one.field, one.steps) for one in tails.setdefault(name, found)}:
                    raise SchemaError(
                        f"{pointer}: is within itself, and {name!r} is sensitive in one part of it and "
                        "different in another; write the marks by hand"
                    )
        for name, found in tails.items():
            yield from (one.below(Descend(name)) for one in found)

    def _properties(self, schema: Any, pointer: str, depth: int) -> Iterator[tuple[str, tuple[Found, ...]]]:
        """Each property in a schema, not following references, and what is sensitive at no further name."""
        if _named(schema)[1] is not None or depth > _DEEPEST:
            return
        for child in self._children(schema, pointer):
            if isinstance(child.step, Name):
                found = self._beside_of(child.schema, child.pointer, frozenset())
                yield child.step.name, tuple(found)
            yield from self._properties(child.schema, child.pointer, depth + 1)

    def _beside(self, pointer: str, open_: frozenset[str], at: str) -> tuple[Found, ...]:
        if pointer in open_:
            return ()  # what is in it is found where it was entered
        found = tuple(self._beside_of(self.resolve(pointer, at), pointer, open_ | {pointer}))
        if found and pointer in self._reachable(pointer, names=False):
            raise SchemaError(
                f"{pointer}: is within itself without a name on the way, so a value may stand at any depth; "
                "write the marks by hand"
            )
        return found

    def _beside_of(self, schema: Any, pointer: str, open_: frozenset[str]) -> Iterator[Found]:
        """What is sensitive in the values of a schema without a name on the way to it."""
        named, field = _named(schema)
        if named:
            yield Found(field, (), _origin(schema, pointer))
        if field is not None:
            return
        if isinstance(schema, Mapping) and "$ref" in schema:
            for found in self._beside(_reference(schema, pointer), open_, pointer):
                yield _seen_from(found, schema)
        for child in self._children(schema, pointer):
            if isinstance(child.step, Name):
                continue
            for found in self._beside_of(child.schema, child.pointer, open_):
                yield _further_up(found, schema, child)

    def _reachable(self, pointer: str, *, names: bool = True) -> frozenset[str]:
        """All references that can be come to from what stands at a pointer, by one or more of them.

        Without `names`, only those on whose way no member's name is.
        """
        if (pointer, names) not in self._reached:
            found: set[str] = set()
            todo = [pointer]
            while todo:
                at = todo.pop()
                for reference in self._references(self.resolve(at, pointer), at, 0, names=names):
                    if reference not in found:
                        found.add(reference)
                        todo.append(reference)
            self._reached[pointer, names] = frozenset(found)
        return self._reached[pointer, names]

    def _references(self, schema: Any, pointer: str, depth: int, *, names: bool) -> Iterator[str]:
        if _named(schema)[1] is not None or depth > _DEEPEST:
            return
        if isinstance(schema, Mapping) and "$ref" in schema:
            yield _reference(schema, pointer)
        for child in self._children(schema, pointer):
            if names or not isinstance(child.step, Name):
                yield from self._references(child.schema, child.pointer, depth + 1, names=names)


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
                f"{child.pointer}: is sensitive, and [*] would select {keyword} beside it too; write the "
                "marks by hand"
            )


def _origin(schema: Mapping[str, Any], pointer: str) -> str:
    return str(schema.get(ORIGIN, pointer))


def _seen_from(found: Found, schema: Mapping[str, Any]) -> Found:
    """The same; what is somewhere in an attribute's type is looked for at the attribute."""
    return replace(found, origin=_origin(schema, found.origin)) if found.origin.startswith("#") else found


def _reference(schema: Mapping[str, Any], pointer: str) -> str:
    reference = schema["$ref"]
    if not isinstance(reference, str):
        raise SchemaError(f"{pointer}: $ref is not a text")
    return reference


def _list(value: object) -> list[Any]:
    return value if isinstance(value, list) else []


def _table(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _escaped(name: str) -> str:
    return name.replace("~", "~0").replace("/", "~1")
