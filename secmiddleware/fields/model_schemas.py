"""The JSON Schema of a Pydantic model as marks need it: with every name that a value may come or go by.

What Pydantic makes for documentation has one name for each attribute. A body may use others that the model
takes too, and a value under one of them must not go unmarked.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Literal

from pydantic import TypeAdapter
from pydantic.json_schema import GenerateJsonSchema

from secmiddleware.fields.schema_files import SchemaError
from secmiddleware.fields.schemas import ORIGIN

Way = Literal["request", "response"]


def schema_of(model: Any, way: Way) -> dict[str, Any]:
    """The schema of what a model reads, or writes; `model` is anything that Pydantic can be asked about.

    Raises:
        SchemaError: it cannot.
    """
    mode: Literal["validation", "serialization"] = "validation" if way == "request" else "serialization"
    try:
        return TypeAdapter(model).json_schema(by_alias=False, mode=mode, schema_generator=_EveryName)
    except SchemaError:
        raise
    except Exception as error:  # whatever the app's own hooks raise
        raise SchemaError(f"there is no JSON Schema of it: {type(error).__name__}") from error


class _EveryName(GenerateJsonSchema):
    """Every name of an attribute as a property of its own, and which attribute of which class that is."""

    _owner = ""

    def model_schema(self, schema: Any) -> dict[str, Any]:
        before, self._owner = self._owner, _name_of(schema["cls"])
        try:
            return super().model_schema(schema)
        finally:
            self._owner = before

    def dataclass_schema(self, schema: Any) -> dict[str, Any]:
        before, self._owner = self._owner, _name_of(schema["cls"])
        try:
            return super().dataclass_schema(schema)
        finally:
            self._owner = before

    def model_fields_schema(self, schema: Any) -> dict[str, Any]:
        return self._renamed(super().model_fields_schema(schema), schema["fields"].items(), schema)

    def dataclass_args_schema(self, schema: Any) -> dict[str, Any]:
        fields = ((field["name"], field) for field in schema["fields"])
        return self._renamed(super().dataclass_args_schema(schema), fields, schema)

    def typed_dict_schema(self, schema: Any) -> dict[str, Any]:
        before, self._owner = self._owner, _name_of(schema.get("cls", dict))
        try:
            return self._renamed(super().typed_dict_schema(schema), schema["fields"].items(), schema)
        finally:
            self._owner = before

    def _renamed(
        self, made: dict[str, Any], fields: Iterable[tuple[str, Any]], schema: Mapping[str, Any]
    ) -> dict[str, Any]:
        properties = dict(made.get("properties", {}))
        every: dict[str, list[Any]] = {}
        paths: list[Any] = list(made.get("allOf", ()))
        computed = ((one["property_name"], one) for one in schema.get("computed_fields", ()))
        for name, field in (*fields, *computed):
            if name not in properties:
                continue  # not written, or left out
            about = {**properties[name], ORIGIN: f"{self._owner}.{name}"}
            for path in ((name,), *self._aliases(field)):
                if len(path) == 1:
                    every.setdefault(path[0], []).append(about)
                else:
                    paths.append(_nested(path, about, f"{self._owner}.{name}"))
        made["properties"] = {
            name: one[0] if len(one) == 1 else {"anyOf": one} for name, one in every.items()
        }
        if paths:
            made["allOf"] = paths
        return made

    def _aliases(self, field: Mapping[str, Any]) -> Iterator[tuple[Any, ...]]:
        """The ways to an attribute beside its name: names, or paths of names and indices."""
        if field["type"] == "computed-field":
            alias = field.get("alias")
        else:
            alias = field.get("validation_alias" if self.mode == "validation" else "serialization_alias")
        match alias:
            case None:
                return
            case str():
                yield (alias,)
            case [list(), *_]:
                yield from map(tuple, alias)
            case _:
                yield tuple(alias)

    def handle_invalid_for_json_schema(self, schema: Any, error_info: str) -> dict[str, Any]:  # noqa: ARG002
        """Nothing is known of a value that JSON does not have, a callable say; it marks nothing."""
        return {}

    def emit_warning(self, kind: Any, detail: str) -> None:
        """Says nothing of a default that JSON has no form for."""


def _nested(path: tuple[Any, ...], about: dict[str, Any], attribute: str) -> dict[str, Any]:
    for step in reversed(path):
        if isinstance(step, str):
            about = {"properties": {step: about}}
        elif step >= 0:
            about = {"prefixItems": [*[True] * step, about]}
        else:
            raise SchemaError(f"{attribute}: its alias counts from the end, which no mark can")
    return about


def _name_of(cls: Any) -> str:
    return f"{cls.__module__}:{cls.__qualname__}"
