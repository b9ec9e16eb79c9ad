"""Overrides from environment variables: `SECMIDDLEWARE__MTLS__CLIENT`, `SECMIDDLEWARE__ROUTES__0__CLIENT`.

Two underscores separate the parts; a number is an index of a list, and the one after the last item adds an
item. Behind the prefix, case does not matter. A variable that names nothing is a mistake, and so is one whose
prefix is misspelt: who writes it believes that it is in force.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from difflib import SequenceMatcher
from typing import Any, Final

from secmiddleware.settings.mistakes import ROOT, Shape, nearest_word
from secmiddleware.settings.positions import KeyPath, scan

PREFIX: Final = "SECMIDDLEWARE"
_LONGEST_VALUE: Final = 64 * 1024
_LONGEST_NAME: Final = 200
# Two letters missing, doubled or swapped are near; "MIDDLEWARE" alone is somebody else's.
_NEAR: Final = 0.88


@dataclass(frozen=True, slots=True)
class WrongVariable:
    """A variable that names nothing, or cannot be used."""

    name: str
    message: str
    hint: str | None = None


@dataclass(frozen=True, slots=True)
class Override:
    """A variable that names a key: where its value goes."""

    name: str
    path: KeyPath
    value: Any


def read_environment(
    environ: Mapping[str, str], data: Mapping[str, Any]
) -> tuple[list[Override], list[WrongVariable]]:
    """The overrides in an environment, the outer before the inner, and the variables that name nothing.

    `data` are the settings that they go over: it has the names of fields, which no model knows.
    """
    overrides: dict[KeyPath, Override] = {}
    wrong: list[WrongVariable] = []
    for name in sorted(environ):
        parts = _parts(name)
        if parts is None:
            hint = _misspelt_prefix(name)
            if hint is not None:
                wrong.append(WrongVariable(_shown(name), "looks like one of ours, but is not read", hint))
            continue
        found = _find(name, parts, data)
        if isinstance(found, WrongVariable):
            wrong.append(found)
            continue
        path, shape = found
        if path in overrides:
            other = overrides[path].name
            wrong.append(WrongVariable(_shown(name), f"names the same key as {_shown(other)}"))
            continue
        value = environ[name]
        if len(value) > _LONGEST_VALUE:
            wrong.append(WrongVariable(_shown(name), f"is larger than {_LONGEST_VALUE // 1024} KiB"))
        elif any("\ud800" <= char <= "\udfff" for char in value):
            wrong.append(WrongVariable(_shown(name), "is not UTF-8 text"))
        else:
            overrides[path] = Override(_shown(name), path, _read_value(value, shape))
    return sorted(overrides.values(), key=lambda found: (len(found.path), *map(_sortable, found.path))), wrong


def apply(
    data: dict[str, Any], overrides: list[Override], origins: dict[KeyPath, str], made: dict[KeyPath, str]
) -> list[WrongVariable]:
    """Put the overrides into `data`; what did not fit.

    `origins` gets the variable of each path that holds one's value now, `made` of each table or list that was
    not there before one needed it.
    """
    wrong: list[WrongVariable] = []
    for override in overrides:
        problem = _put(data, override, made)
        if problem is None:
            origins[override.path] = override.name
        elif problem:
            wrong.append(WrongVariable(override.name, problem))
    return wrong


def _put(data: dict[str, Any], override: Override, made: dict[KeyPath, str]) -> str | None:
    """Set one value. None when it is set; "" when what stands in its way is reported as a mistake itself."""
    shape: Shape | None = ROOT
    here: Any = data
    for number, key in enumerate(override.path, 1):
        shape = shape.child(key) if shape is not None else None
        if isinstance(key, int):
            if not isinstance(here, list):
                return ""
            if key > len(here):
                return f"names item {key}, but the list has {len(here)}: the next one is {len(here)}"
            if key == len(here):
                here.append(None)
        elif not isinstance(here, dict):
            return ""
        if number == len(override.path):
            here[key] = override.value
            return None
        below = here[key] if isinstance(key, int) else here.get(key)
        here[key] = _container(below, shape)
        if below is None or (shape is not None and shape.is_reference and not isinstance(below, dict)):
            made[override.path[:number]] = override.name
        here = here[key]
    return ""


def _container(value: Any, shape: Shape | None) -> Any:
    """What a further part of the path goes into: what is there, in its long form, or a new table or list."""
    if shape is None or isinstance(value, dict | list):
        return value
    if shape.is_reference:
        return {}
    if value is None:
        return [] if shape.item is not None else {}
    if shape.table is not None and isinstance(value, str) and "ca" in shape.table.model_fields:
        return {"ca": value}
    return value


def _parts(name: str) -> list[str] | None:
    prefix, separator, rest = name.partition("__")
    return rest.split("__") if separator and prefix == PREFIX else None


def _find(name: str, parts: list[str], data: Mapping[str, Any]) -> tuple[KeyPath, Shape] | WrongVariable:
    shape = ROOT
    path: KeyPath = ()
    here: Any = data
    if len(name) > _LONGEST_NAME:
        return WrongVariable(_shown(name), "unknown variable")
    for number, part in enumerate(parts):
        key: str | int | None
        known: tuple[str, ...]
        if shape.item is not None:
            key = int(part) if re.fullmatch("[0-9]{1,6}", part) else None
            known = ("0",) if key is None else ()
        elif shape.value is not None:
            names = tuple(here) if isinstance(here, Mapping) else ()
            key = next((one for one in names if one.lower() == part.lower()), part.lower() or None)
            near = nearest_word(part, names)
            known = names
            if near is not None and key not in names:
                key = None
        else:
            known = shape.keys
            key = part.lower() if part.lower() in known else None
        below = None if key is None else shape.child(key)
        if key is None or below is None:
            return WrongVariable(_shown(name), "unknown variable", _suggest(parts, number, known))
        path, shape = (*path, key), below
        if isinstance(here, Mapping):
            here = here.get(key)
        elif isinstance(here, list) and isinstance(key, int) and key < len(here):
            here = here[key]
        else:
            here = None
    return path, shape


def _suggest(parts: list[str], number: int, known: tuple[str, ...]) -> str | None:
    """The name with its wrong part replaced by the nearest that is known there."""
    near = "0" if known == ("0",) else nearest_word(parts[number], known)
    if near is None:
        first, *rest = parts[number].split("_")
        if number == 0 and rest and first.lower() in known:  # one underscore too few
            return _meant([first, *_keys_of(first.lower(), rest), *parts[1:]])
        choice = "__".join([PREFIX, *(part.upper() for part in parts[:number])])
        return f"known here: {', '.join(f'{choice}__{key.upper()}' for key in known)}" if known else None
    inserted = [near, parts[number]] if near == "0" else [near]
    return _meant([*parts[:number], *inserted, *parts[number + 1 :]])


def _meant(parts: list[str]) -> str:
    return f"did you mean {'__'.join([PREFIX, *(part.upper() for part in parts)])}?"


def _misspelt_prefix(name: str) -> str | None:
    """What was meant by a name that only looks like one of ours; None for everybody else's names."""
    if len(name) > _LONGEST_NAME:
        return None
    words = [word for word in name.upper().split("_") if word]
    sections = ROOT.keys
    # The prefix may be cut in two (SEC_MIDDLEWARE) and the separators may be single.
    for count in (1, 2):
        prefix = "".join(words[:count])
        near = prefix == PREFIX or SequenceMatcher(None, prefix, PREFIX).ratio() >= _NEAR
        if not near or len(words) <= count:
            continue
        section = nearest_word(words[count], sections)
        if section is not None:
            return _meant([section, *_keys_of(section, words[count + 1 :])])
        if "__" in name:
            return f"ours begin with {PREFIX}__"
    return None


def _keys_of(section: str, words: list[str]) -> Iterator[str]:
    """The parts behind a section, of words cut at each underscore: the longest that is a key comes first."""
    shape = ROOT.child(section)
    for count in range(len(words), 0, -1):
        key = "_".join(words[:count]).lower()
        if shape is not None and key in shape.keys:
            yield key
            words = words[count:]
            break
    if words:
        yield "_".join(words) if shape is None or shape.item is None else "__".join(words)


def _read_value(text: str, shape: Shape) -> Any:
    """A TOML value where it is one of the type that is due there, else the text as it is."""
    value = _toml_value(text)
    if value is None:
        return text
    if shape.plain is None or shape.plain in (bool, int):
        return value
    # A name such as 123, or a duration in quotation marks.
    return value if isinstance(value, str | dict) else text


def _toml_value(text: str) -> Any:
    document = f"value = {text.strip()}"
    if scan(document).too_deep is not None:
        return None
    try:
        found = tomllib.loads(document)
    except (ValueError, RecursionError):
        return None
    # More keys than one: the value ended and something else began.
    return found["value"] if len(found) == 1 else None


def _sortable(key: str | int) -> tuple[str, int]:
    return ("", key) if isinstance(key, int) else (key, 0)


def _shown(name: str) -> str:
    """A variable's name, safe to print."""
    shown = "".join(char if "!" <= char <= "~" else ascii(char)[1:-1] for char in name[:_LONGEST_NAME])
    return shown if len(name) <= _LONGEST_NAME else shown + "…"
