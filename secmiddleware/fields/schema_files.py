"""Documents with schemas in them, as files have them: JSON, and YAML by the name's end.

They are read when the settings are.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from secmiddleware.fields.schemas import SchemaError
from secmiddleware.fields.yaml_reading import YamlError, read_yaml

LARGEST: Final = 16 << 20
"""Bytes of a document: the largest published ones have some 10 MB."""

_YAML: Final = (".yaml", ".yml")


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
