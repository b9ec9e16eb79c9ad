"""Mistakes in the settings, in the operator's words: from pydantic's errors to sentences about keys.

A mistake knows its key path only. Where that stands, in a file or in a variable, is `loading`'s to add.
"""

from __future__ import annotations

import datetime as dt
import difflib
import json
import re
import types
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Final, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from secmiddleware.settings.models import Settings
from secmiddleware.settings.positions import KeyPath
from secmiddleware.settings.references import SettingError
from secmiddleware.settings.values import EnvReference, FileReference, IsReference

# A close match of longer words costs time and helps nobody.
_LONGEST_WORD: Final = 64
_LONGEST_MESSAGE: Final = 400
_BARE_KEY: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")


@dataclass(frozen=True, slots=True)
class Mistake:
    """What is wrong with one key, before it is known where it stands."""

    path: KeyPath
    message: str
    hint: str | None = None


Note = tuple[Mistake, tuple[KeyPath, ...]]
"""A mistake, and what else was looked at to find it."""


def write_path(path: KeyPath) -> str:
    """A key path as findings show it; control characters in a key are escaped, a long key is cut.

    >>> write_path(("fields", "ssn", "places", 0, "marks")), write_path(("a b", "c"))
    ('fields.ssn.places[0].marks', '"a b".c')
    """
    text = ""
    for part in path:
        if isinstance(part, int):
            text += f"[{part}]"
        else:
            text += ("." if text else "") + (part if _BARE_KEY.fullmatch(part) else json.dumps(part[:64]))
    return text


def did_you_mean(word: str, words: Iterable[str]) -> str | None:
    """The nearest of some words, as a hint; None where none is near."""
    nearest = nearest_word(word, words)
    return None if nearest is None else f'did you mean "{nearest}"?'


def nearest_word(word: str, words: Iterable[str]) -> str | None:
    """The nearest of some words in whatever case; None where none is near."""
    if len(word) > _LONGEST_WORD:
        return None
    found = difflib.get_close_matches(
        word.lower().replace("-", "_"), {w.replace("-", "_"): w for w in words}, 1
    )
    return next((w for w in words if found and w.replace("-", "_") == found[0]), None)


@dataclass(frozen=True, slots=True)
class Shape:
    """What may stand at a place of the settings, as far as walking to a key needs it."""

    table: type[BaseModel] | None = None
    item: Shape | None = None
    value: Shape | None = None
    is_reference: bool = False
    plain: Any = None

    def child(self, key: str | int) -> Shape | None:
        """The shape one step down; None where there is no such key."""
        if isinstance(key, int):
            return self.item
        if self.value is not None:
            return self.value
        if self.is_reference:
            return Shape(plain=str) if key in self.keys else None
        if self.table is not None and key in self.table.model_fields:
            return _shape_of_field(self.table.model_fields[key])
        return None

    @property
    def keys(self) -> tuple[str, ...]:
        """The keys that may stand here; none for a list, a plain value or a table whose keys are free."""
        if self.is_reference:
            return (*FileReference.model_fields, *EnvReference.model_fields)
        return () if self.table is None else tuple(self.table.model_fields)


ROOT: Final = Shape(table=Settings)


def shape_at(path: KeyPath) -> Shape | None:
    """What may stand at a path; None where nothing may."""
    shape: Shape | None = ROOT
    for key in path:
        if shape is None:
            return None
        shape = shape.child(key)
    return shape


def _shape_of_field(field: FieldInfo) -> Shape:
    return _shape(field.annotation, field.metadata)


def _shape(annotation: Any, metadata: Sequence[object] = ()) -> Shape:
    if any(isinstance(mark, IsReference) for mark in metadata):
        return Shape(is_reference=True, plain=str)
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _shape(arguments[0], arguments[1:])
    if origin in (Union, types.UnionType):
        return _shape(next(argument for argument in arguments if argument is not types.NoneType))
    if origin is tuple:
        return Shape(item=_shape(arguments[0]))
    if origin is Mapping:
        return Shape(value=_shape(arguments[1]))
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return Shape(table=annotation)
    return Shape(plain=annotation)


def mistakes_of(error: ValidationError) -> Iterator[Mistake]:
    """The mistakes that pydantic found, one by one; nothing that was given is repeated, but names of keys."""
    found = error.errors(include_url=False)
    inner = {details["loc"][:-1] for details in found}
    for details in found:
        match details["type"]:
            case "default_factory_not_called":
                continue  # its default is made of other keys, and it is one of those that is wrong
            case "too_short" if details["loc"] in inner:
                continue  # pydantic counts the good items only
        path = tuple(part for part in details["loc"] if part != "[key]")
        message, hint = _in_words(details, path)
        yield Mistake(path, message[:_LONGEST_MESSAGE], hint)


def _in_words(details: ErrorDetails, path: KeyPath) -> tuple[str, str | None]:
    context: dict[str, Any] = details.get("ctx", {})
    match details["type"]:
        case "missing":
            return "is missing", _what_it_is(path)
        case "extra_forbidden":
            return "unknown key", _where_it_belongs(path)
        case "value_error" if isinstance(context["error"], SettingError):
            return str(context["error"]), context["error"].hint
        case "value_error":
            return str(context["error"]), None
        case "literal_error":
            words = re.findall("'([^']*)'", context["expected"])
            return _one_of(words, details["input"])
        case "bool_type":
            return _not_a("true or false", details["input"])
        case "int_type" | "int_from_float":
            return _not_a("a whole number", details["input"])
        case "greater_than_equal":
            return f"must be {context['ge']} or more", None
        case "string_type":
            return _not_a("a text", details["input"])
        case "tuple_type" | "list_type":
            return _not_a("a list", details["input"], "write one value as a list, too: in [ and ]")
        case "too_long":
            return f"has too many entries: {context['max_length']} are the most", None
        case "too_short":
            return "must not be empty", None
        case "model_type" | "mapping_type" | "dict_type" | "model_attributes_type":
            hint = None
            if isinstance(details["input"], Sequence) and not isinstance(details["input"], str):
                hint = f"write [{write_path(path)}], with single brackets" if len(path) == 1 else None
            return _not_a("a table", details["input"], hint)
        case _:
            return "is not valid here", None


def _not_a(due: str, given: object, hint: str | None = None) -> tuple[str, str | None]:
    return f"must be {due}, not {_kind(given)}", hint


def _one_of(words: list[str], given: object) -> tuple[str, str | None]:
    choice = " or ".join(filter(None, (", ".join(f'"{word}"' for word in words[:-1]), f'"{words[-1]}"')))
    if not isinstance(given, str):
        return f"must be {choice}, not {_kind(given)}", None
    return f"must be {choice}", did_you_mean(given, words)


def _kind(value: object) -> str:
    match value:
        case bool():
            return "a boolean"
        case int():
            return "a whole number"
        case float():
            return "a number"
        case str():
            return "a text"
        case None:
            return "nothing"
        case Mapping():
            return "a table"
        case list() | tuple():
            return "a list"
        case dt.date() | dt.time():
            return "a date or a time"
        case _:
            return "a value of another type"


def _what_it_is(path: KeyPath) -> str | None:
    around = shape_at(path[:-1])
    if around is None or around.table is None or not isinstance(path[-1], str):
        return None
    return around.table.model_fields[path[-1]].description


def _where_it_belongs(path: KeyPath) -> str | None:
    """The nearest key of the same table, else the table that has a key of that very name."""
    around, key = shape_at(path[:-1]), path[-1]
    if around is None or not isinstance(key, str):
        return None
    hint = did_you_mean(key, around.keys)
    if hint is not None:
        return hint
    for section in ROOT.keys:
        shape = ROOT.child(section)
        if shape is not None and key in shape.keys and (section,) != path[:-1]:
            return f'[{section}] has a key "{key}"'
    return f"known here: {', '.join(around.keys)}" if around.keys else None
