"""Documents with schemas in them, as files have them, and where something stands in one.

A file is JSON, or YAML by the name's end; it is read when the settings are. References lead to files in the
folder of the first one and below it, never to the net. Whatever stands somewhere has one pointer, however a
reference spells it: else it would be met again as something new.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final
from urllib.parse import unquote

from secmiddleware.fields.yaml_reading import YamlError, read_yaml

LARGEST: Final = 16 << 20
"""Bytes of a document and of all that it refers to: the largest published ones have some 10 MB."""

_MOST_FILES: Final = 5000  # published documents have up to some 2000

_YAML: Final = (".yaml", ".yml")
_ADDRESS: Final = re.compile(r"//|[A-Za-z][A-Za-z0-9+.-]*:")


class SchemaError(ValueError):
    """A schema that no marks can be had from; says why, and where in it."""


class Documents:
    """A document, and the files that its references lead to, each read when it is come to.

    A pointer is `#/components/schemas/A` in the document itself, and in others `schemas/a.yaml#/A`, by their
    path from its folder.
    """

    def __init__(self, root: Mapping[str, Any], path: Path | None = None, size: int = 0) -> None:
        """Without a path (resolved), there are no other files; `size` is that of this one, in bytes."""
        self.root = root
        self._path = path
        self._contents: dict[str, Any] = {"": root}
        self._names: dict[tuple[str, str], str] = {}
        self._paths: dict[str, Path] = {} if path is None else {"": path}
        self._referring: dict[str, str] = {}
        """Where each reference was met first: it is to blame for what is not there."""
        self._left = LARGEST - size

    @classmethod
    def read(cls, path: Path) -> Documents:
        """The document of a file. Raises SchemaError, which names the file, where it is none."""
        try:
            resolved = path.resolve()
            data = _bytes(resolved, LARGEST)
            root = _parsed(data, path)
            if not isinstance(root, Mapping):
                raise SchemaError("is not an object with names")
            return cls(root, resolved, len(data))
        except SchemaError as error:
            raise SchemaError(f"{path} {error}") from None
        except (OSError, RuntimeError) as error:
            raise SchemaError(f"{path} cannot be read: {_reason(error)}") from None

    def locate(self, reference: object, at: str) -> str:
        """The pointer of what a reference leads to, out of what stands `at` one. Raises SchemaError."""
        if not isinstance(reference, str):
            raise SchemaError(f"{at}: $ref is not a text")
        file, _, fragment = reference.partition("#")
        if fragment and not fragment.startswith("/"):
            raise SchemaError(
                f"{at}: leads to an anchor, {reference[:200]!r}; say where it stands instead, as in "
                "#/components/schemas/Customer"
            )
        name = self._named(file, at) if file else at.partition("#")[0]
        pointer = f"{name}#" + "".join(f"/{escaped(part)}" for part in _parts(unquote(fragment)))
        self._referring.setdefault(pointer, at)
        return pointer

    def resolve(self, pointer: str) -> Any:
        """What stands at a pointer. Raises SchemaError, which says what leads nowhere."""
        file, _, fragment = pointer.partition("#")
        at = self._referring.get(pointer, pointer)
        here = self.content(file, at)
        for part in _parts(unquote(fragment)):
            if isinstance(here, Mapping) and part in here:
                here = here[part]
            elif isinstance(here, list) and _is_index(part) and int(part) < len(here):
                here = here[int(part)]
            else:
                raise SchemaError(f"{at}: there is no {pointer[:200]}")
            check_base(here, pointer)
        return here

    def content(self, file: str, at: str) -> Any:
        """All of a file that a reference was located in. Raises SchemaError where it cannot be read."""
        if file not in self._contents:
            if len(self._contents) >= _MOST_FILES:
                raise SchemaError(f"{at}: leads to more than {_MOST_FILES} files; bundle them into one")
            path = self._paths[file]
            try:
                data = _bytes(path, self._left)
                self._left -= len(data)
                self._contents[file] = _parsed(data, path)
            except OSError as error:
                raise SchemaError(f"{at}: {file} cannot be read: {_reason(error)}") from None
            except SchemaError as error:
                raise SchemaError(f"{at}: {file} {error}") from None
        return self._contents[file]

    def _named(self, reference: str, at: str) -> str:
        """What a file is called in pointers that something `at` one refers to."""
        within = at.partition("#")[0]
        if (within, reference) not in self._names:
            if _ADDRESS.match(reference):
                raise SchemaError(
                    f"{at}: leads to an address, {reference[:200]!r}, and nothing is fetched; save it in the "
                    "document's folder, and refer to that"
                )
            path = self._beside(within, reference)
            if self._path is None or path is None:
                raise SchemaError(
                    f"{at}: leads out of the document's folder, to {reference[:200]!r}; put that file "
                    "there or below, or bundle all into one"
                )
            inside = path.relative_to(self._path.parent).as_posix()
            name = "" if path == self._path else inside.replace("%", "%25").replace("#", "%23")
            self._paths[name] = path
            self._names[within, reference] = name
        return self._names[within, reference]

    def _beside(self, within: str, reference: str) -> Path | None:
        """The file that a reference in another one means; None where it is not in the folder or below it."""
        name = unquote(reference)
        if self._path is None or name.startswith("/") or "\\" in name or "?" in reference:
            return None
        try:
            path = (self._paths[within].parent / name).resolve()
        except (OSError, RuntimeError, ValueError):  # links in a circle, a name with a null in it
            return None
        return path if path.is_relative_to(self._path.parent) else None


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


def _bytes(path: Path, most: int) -> bytes:
    if path.exists() and not path.is_file():
        raise SchemaError("is no file")  # a pipe would be waited for
    with path.open("rb") as file:
        data = file.read(most + 1)
    if len(data) > most:
        raise SchemaError(f"{'is' if most == LARGEST else 'makes all files'} larger than {LARGEST} bytes")
    return data


def _parsed(data: bytes, path: Path) -> Any:
    if path.suffix.lower() not in _YAML:
        return _of_json(data)
    try:
        return read_yaml(data)
    except YamlError as error:
        raise SchemaError(str(error)) from None
    except ModuleNotFoundError:
        raise SchemaError(
            "is YAML, and PyYAML is not installed: pip install 'secmiddleware[openapi]', or convert it to "
            "JSON"
        ) from None


def _of_json(data: bytes) -> Any:
    try:
        return json.loads(data, object_pairs_hook=_unlike)
    except _TwiceError as error:
        raise SchemaError(f"has the key {error.args[0][:100]!r} twice in one object") from None
    except (ValueError, RecursionError):
        raise SchemaError("is not JSON; a file of YAML ends in .yaml or .yml") from None


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or "its links go in a circle"


class _TwiceError(Exception):
    """A name that is twice in one object: which of its values counts, each reader says for itself."""


def _unlike(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise _TwiceError(name)
        found[name] = value
    return found
