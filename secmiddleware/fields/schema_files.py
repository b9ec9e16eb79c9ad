"""Documents with schemas in them, as files have them, and where something stands in one.

A file is JSON, or YAML by the name's end; it is read when the settings are. Whatever stands somewhere has one
pointer, however a reference spells it: else it would be met again as something new.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final
from urllib.parse import unquote

from secmiddleware.fields.yaml_reading import YamlError, read_yaml

LARGEST: Final = 16 << 20
"""Bytes of a document: the largest published ones have some 10 MB."""

_YAML: Final = (".yaml", ".yml")


class SchemaError(ValueError):
    """A schema that no marks can be had from; says why, and where in it."""


class Documents:
    """A document, and what its references lead to."""

    def __init__(self, root: Mapping[str, Any]) -> None:
        self.root = root

    def locate(self, reference: object, at: str) -> str:
        """The pointer of what a reference leads to, out of what stands `at` one. Raises SchemaError."""
        if not isinstance(reference, str):
            raise SchemaError(f"{at}: $ref is not a text")
        file, _, fragment = reference.partition("#")
        if file:
            raise SchemaError(
                f"{at}: leads out of the document, to {reference[:200]!r}; bundle it into one file"
            )
        if fragment and not fragment.startswith("/"):
            raise SchemaError(
                f"{at}: leads to an anchor, {reference[:200]!r}; say where it stands instead, as in "
                "#/components/schemas/Customer"
            )
        return "#" + "".join(f"/{escaped(part)}" for part in _parts(unquote(fragment)))

    def resolve(self, pointer: str, at: str) -> Any:
        """What stands at a pointer. Raises SchemaError, which says that `at` leads nowhere."""
        here: Any = self.root
        for part in _parts(unquote(pointer.partition("#")[2])):
            if isinstance(here, Mapping) and part in here:
                here = here[part]
            elif isinstance(here, list) and _is_index(part) and int(part) < len(here):
                here = here[int(part)]
            else:
                raise SchemaError(f"{at}: there is no {pointer[:200]}")
            check_base(here, pointer)
        return here


def check_base(schema: object, pointer: str) -> None:
    """Raises SchemaError where a schema is a document of its own, so that `#` in it means that one."""
    if isinstance(schema, Mapping) and isinstance(schema.get("$id"), str):
        raise SchemaError(
            f"{pointer}: $id makes it a document of its own, with references that start there; take $id out, "
            "or write the marks by hand"
        )


def escaped(name: str) -> str:
    """A name as it stands in a pointer (RFC 6901 §3, §6)."""
    return name.replace("~", "~0").replace("/", "~1").replace("%", "%25").replace("#", "%23")


def _parts(pointer: str) -> list[str]:
    return [part.replace("~1", "/").replace("~0", "~") for part in pointer.split("/")[1:]]


def _is_index(part: str) -> bool:
    return part.isascii() and part.isdigit() and len(part) < 10


def read_document(path: Path) -> Mapping[str, Any]:
    """An object from a file. Raises SchemaError, which names the file, where there is none."""
    try:
        with path.open("rb") as file:
            data = file.read(LARGEST + 1)
    except OSError as error:
        raise SchemaError(f"{path} cannot be read: {error.strerror}") from None
    if len(data) > LARGEST:
        raise SchemaError(f"{path} is larger than {LARGEST} bytes")
    document = _of_yaml(data, path) if path.suffix.lower() in _YAML else _of_json(data, path)
    if not isinstance(document, Mapping):
        raise SchemaError(f"{path} is not an object with names")
    return document


def _of_yaml(data: bytes, path: Path) -> Any:
    try:
        return read_yaml(data)
    except YamlError as error:
        raise SchemaError(f"{path} {error}") from None
    except ModuleNotFoundError:
        raise SchemaError(
            f"{path} is YAML, and PyYAML is not installed: pip install 'secmiddleware[openapi]', or convert "
            "it to JSON"
        ) from None


def _of_json(data: bytes, path: Path) -> Any:
    try:
        return json.loads(data, object_pairs_hook=_unlike)
    except _TwiceError as error:
        raise SchemaError(f"{path} has the key {error.args[0][:100]!r} twice in one object") from None
    except (ValueError, RecursionError):
        raise SchemaError(f"{path} is not JSON; a file of YAML ends in .yaml or .yml") from None


class _TwiceError(Exception):
    """A name that is twice in one object: which of its values counts, each reader says for itself."""


def _unlike(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise _TwiceError(name)
        found[name] = value
    return found
