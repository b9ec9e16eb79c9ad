"""Subtypes: what a value may be as well where its schema has a `discriminator` (OpenAPI 3.1 §4.8.25).

A body of `Pet` may be a `Dog`, which `Pet` does not name: Dog says that it is made of Pet (`allOf`), or the
discriminator has a `mapping`. All named schemas are looked at that a discriminator may mean.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from secmiddleware.fields.schema_files import Documents, SchemaError, escaped

_MOST_BASES: Final = 200  # far over any API's
_SECTIONS: Final = ("#/components/schemas", "#/$defs", "#/definitions")

# What says something of an object's members; a description, or that it may be null, makes it no other type.
_SAYING: Final = frozenset(
    (
        "additionalProperties",
        "allOf",
        "anyOf",
        "dependentSchemas",
        "else",
        "items",
        "oneOf",
        "patternProperties",
        "prefixItems",
        "properties",
        "required",
        "then",
        "unevaluatedProperties",
        "$ref",
    )
)
_KEYWORDS: Final = _SAYING | {"$defs", "components", "definitions", "discriminator", "example", "examples"}


class Subtypes:
    """Which schemas of a document are made of which."""

    def __init__(self, documents: Documents) -> None:
        self._documents = documents
        self._bases: dict[str, frozenset[str]] = {}
        self._open: dict[str, bool] = {}
        self._listing: dict[str, bool] = {}
        self._tables: dict[str, dict[str, None]] = {}
        self._derived: dict[str, dict[str, dict[str, None]]] = {}

    def bases(self, pointer: str) -> frozenset[str]:
        """The schemas that one is made of, by `$ref` and `allOf`, however far up.

        Raises SchemaError where it is one of them: then no value is any of its.
        """
        if pointer not in self._bases:
            found: dict[str, None] = {}
            self._open[pointer] = False
            todo = [pointer]
            while todo:
                at = todo.pop()
                for reference in self._direct(at, pointer):
                    if reference == pointer:
                        raise SchemaError(f"{at}: is made of itself (allOf, $ref), so no value is described")
                    if reference not in found:
                        found[reference] = None
                        todo.append(reference)
                if len(found) > _MOST_BASES:
                    raise SchemaError(f"{pointer}: is made of more than {_MOST_BASES} schemas")
            self._bases[pointer] = frozenset(found)
        return self._bases[pointer]

    def has_discriminator(self, pointer: str) -> bool:
        """Whether a schema has one, or is made of one that has: its values may be of a subtype."""
        self.bases(pointer)
        return self._open[pointer]

    def is_one(self, schema: Mapping[str, Any], pointer: str) -> bool:
        """Whether a schema that is made of others is a subtype: it has a name, and says more than they do."""
        if not self._is_named(pointer):
            return False
        parts = [_list(schema.get("allOf")), [{"$ref": schema.get("$ref")}] if "$ref" in schema else []]
        own = {key: value for key, value in schema.items() if key not in ("allOf", "$ref")}
        saying = [one for one in (own, *parts[0], *parts[1]) if _SAYING & _table(one).keys()]
        # A base that lists what is made of it says that whatever is made of it is one of those, too.
        return len(saying) > 1 and not any(self._lists_its_own(base) for base in self.bases(pointer))

    def is_listed(self, alternative: object, pointer: str) -> bool:
        """Whether an alternative of a schema is but one of its subtypes, which are followed anyway."""
        if not isinstance(alternative, Mapping) or set(alternative) != {"$ref"}:
            return False
        if not self.has_discriminator(pointer):
            return False
        return self._documents.locate(alternative["$ref"], pointer) in self._derivatives(pointer)

    def _lists_its_own(self, pointer: str) -> bool:
        if pointer not in self._listing:
            schema = _table(self._documents.resolve(pointer))
            alternatives = (*_list(schema.get("oneOf")), *_list(schema.get("anyOf")))
            self._listing[pointer] = any(self.is_listed(one, pointer) for one in alternatives)
        return self._listing[pointer]

    def of(self, schema: Mapping[str, Any], pointer: str) -> tuple[str, ...]:
        """The schemas that a value of one may be of as well."""
        made = "allOf" in schema or "$ref" in schema
        if "discriminator" not in schema and not (made and self._is_named(pointer)):
            return ()
        if not self.has_discriminator(pointer):
            return ()
        found = {pointer: None}
        todo = [(schema, pointer)]
        while todo:
            at = todo.pop()
            for one in (*self._mapped(*at), *self._derivatives(at[1])):
                if one not in found:
                    found[one] = None
                    todo.append((_table(self._documents.resolve(one)), one))
        del found[pointer]
        return tuple(found)

    def _direct(self, pointer: str, of: str) -> Iterator[str]:
        """What a schema refers to as what it is made of; notes whether there is a discriminator."""
        todo = [(self._documents.resolve(pointer), pointer)]
        while todo:
            schema, at = todo.pop()
            if not isinstance(schema, Mapping):
                continue
            self._open[of] = self._open[of] or "discriminator" in schema
            if "$ref" in schema:
                yield self._documents.locate(schema["$ref"], at)
            todo += [(one, f"{at}/allOf/{index}") for index, one in enumerate(_list(schema.get("allOf")))]

    def _mapped(self, schema: Mapping[str, Any], pointer: str) -> Iterator[str]:
        """What a discriminator names: a schema by its name, or by a reference to it."""
        about = _table(schema.get("discriminator"))
        for name in (*_table(about.get("mapping")).values(), about.get("defaultMapping")):
            if name is None:
                continue
            files = ("", pointer.partition("#")[0])
            by_name = [f"{file}#/components/schemas/{escaped(str(name))}" for file in files]
            known = [one for one, file in zip(by_name, files, strict=True) if one in self._named(file)]
            yield known[0] if known else self._documents.locate(name, f"{pointer}/discriminator")

    def _derivatives(self, pointer: str) -> Mapping[str, None]:
        """The named schemas that are made of one."""
        file = pointer.partition("#")[0]
        if file not in self._derived:
            derived: dict[str, dict[str, None]] = {}
            for one in {**self._named(""), **self._named(file)}:
                for base in self.bases(one):
                    derived.setdefault(base, {})[one] = None
            self._derived[file] = derived
        return self._derived[file].get(pointer, {})

    def _is_named(self, pointer: str) -> bool:
        return pointer.endswith("#") or pointer in self._named(pointer.partition("#")[0])

    def _named(self, file: str) -> dict[str, None]:
        """The schemas of a document that have names."""
        if file not in self._tables:
            found: dict[str, None] = {}
            content = _table(self._documents.content(file, f"{file}#"))
            for section in _SECTIONS:
                here: Any = content
                for name in section.split("/")[1:]:
                    here = _table(here).get(name)
                found.update((f"{file}{section}/{escaped(name)}", None) for name in _table(here))
            if "openapi" not in content:  # a file of schemas may be a table of them
                names = [name for name, one in content.items() if isinstance(one, Mapping)]
                found.update((f"{file}#/{escaped(name)}", None) for name in names if name not in _KEYWORDS)
            self._tables[file] = found
        return self._tables[file]


def _list(value: object) -> list[Any]:
    return value if isinstance(value, list) else []


def _table(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}
