"""Marks out of an OpenAPI document (3.0, 3.1, 3.2): for each path what is sensitive, each way.

It is read when the settings are. Paths are taken as the app routes them, with and without what `servers` puts
in front: a route too many marks nothing, one too few would let a value pass.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import unquote, urlsplit

from secmiddleware.fields.model_schemas import Way
from secmiddleware.fields.schema_files import Documents, SchemaError, escaped
from secmiddleware.fields.schemas import Found, Survey
from secmiddleware.paths import PathPattern

_METHODS: Final = ("get", "put", "post", "delete", "options", "head", "patch", "trace", "query")


@dataclass(slots=True)
class Described:
    """What a document says of one path."""

    path: str
    routes: tuple[PathPattern, ...]
    request: dict[Found, None] = field(default_factory=dict)
    response: dict[Found, None] = field(default_factory=dict)
    heads: dict[tuple[Found, Way, str], None] = field(default_factory=dict)
    """What is sensitive in a header, a cookie, a query or a path, and where: as in `query:email`."""


def describe(documents: Documents, mount: str) -> tuple[Described, ...]:
    """What an OpenAPI document says of each of its paths; `mount` is taken off where it is in front of one.

    Raises:
        SchemaError: it is none, or cannot be followed; says where in it.
    """
    document = documents.root
    version = document.get("openapi")
    # In YAML without quotes it is a number, as authors write it and their tools take it.
    if not isinstance(version, str | float) or not str(version).startswith("3."):
        raise SchemaError("is not an OpenAPI document of version 3")
    survey = Survey(documents)
    bases = _bases(document)
    return tuple(
        _Operations(documents, survey, path, mount).described(item, bases)
        for path, item in _table(document.get("paths")).items()
        if not path.startswith("x-")
    )


class _Operations:
    """The operations of one path."""

    def __init__(self, documents: Documents, survey: Survey, path: str, mount: str) -> None:
        self._documents = documents
        self._survey = survey
        self._path = path
        self._mount = mount
        self._pointer = f"#/paths/{escaped(path)}"

    def described(self, item: object, bases: tuple[str, ...]) -> Described:
        # What stands beside a path item's reference is not defined to be the one or the other: it is both.
        items = list(self._chain(item, self._pointer))
        operations = [operation for one, pointer in items for operation in _operations(one, pointer)]
        servers = [base for one, _ in (*items, *operations) for base in _bases(one)]
        described = Described(self._path, self._routes((*bases, *servers)))
        for one, pointer in items:
            self._parameters(one, pointer, described)
        for operation, at in operations:
            self._operation(_table(operation), at, described)
        return described

    def _operation(self, operation: Mapping[str, Any], at: str, described: Described) -> None:
        self._parameters(operation, at, described)
        body, body_at = self._followed(operation.get("requestBody"), f"{at}/requestBody")
        described.request |= dict.fromkeys(self._content(body, body_at))
        for status, response in _table(operation.get("responses")).items():
            response, response_at = self._followed(response, f"{at}/responses/{escaped(status)}")
            described.response |= dict.fromkeys(self._content(response, response_at))
            for name, header in _table(response.get("headers")).items():
                header, header_at = self._followed(header, f"{response_at}/headers/{escaped(name)}")
                for found in self._of_parameter(header, header_at):
                    described.heads[found, "response", f"header:{name}"] = None

    def _parameters(self, within: object, at: str, described: Described) -> None:
        for index, one in enumerate(_table(within).get("parameters") or ()):
            parameter, pointer = self._followed(one, f"{at}/parameters/{index}")
            for found in self._of_parameter(parameter, pointer):
                where = f"{parameter.get('in')}:{parameter.get('name')}"
                described.heads[found, "request", where] = None

    def _of_parameter(self, parameter: Mapping[str, Any], pointer: str) -> Iterator[Found]:
        if "schema" in parameter:
            yield from self._survey.found_at(f"{pointer}/schema")
        yield from self._content(parameter, pointer)

    def _content(self, within: Mapping[str, Any], at: str) -> Iterator[Found]:
        """What is sensitive in a body, of whichever media type; of a stream, in each of its items."""
        for media, about in _table(within.get("content")).items():
            about, pointer = self._followed(about, f"{at}/content/{escaped(media)}")
            for keyword in ("schema", "itemSchema"):
                if keyword in about:
                    yield from self._survey.found_at(f"{pointer}/{keyword}")

    def _followed(self, value: object, pointer: str) -> tuple[Mapping[str, Any], str]:
        """An object, or the one that it refers to, and where that stands."""
        *_, last = self._chain(value, pointer)
        return last

    def _chain(self, value: object, pointer: str) -> Iterator[tuple[Mapping[str, Any], str]]:
        """An object, and those that it refers to, one after the other."""
        for _ in range(10):
            yield _table(value), pointer
            if "$ref" not in _table(value):
                return
            pointer = self._documents.locate(_table(value)["$ref"], pointer)
            value = self._documents.resolve(pointer)
        raise SchemaError(f"{pointer}: refers in a circle")

    def _routes(self, bases: tuple[str, ...]) -> tuple[PathPattern, ...]:
        segments = ["*" if "{" in part else unquote(part) for part in self._path.split("/")]
        path = "/".join(segments)
        wide = [path, *(base + path for base in bases)]
        mount = self._mount
        paths = [*wide, *(one[len(mount) :] for one in wide if mount and one.startswith(f"{mount}/"))]
        try:
            return tuple(PathPattern.parse(one) for one in dict.fromkeys(paths))
        except ValueError as error:
            raise SchemaError(f"{self._pointer}: {error}") from None


def _operations(item: Mapping[str, Any], pointer: str) -> Iterator[tuple[object, str]]:
    """The operations of a path item, and where they stand."""
    yield from ((item[name], f"{pointer}/{name}") for name in _METHODS if name in item)
    for name, one in _table(item.get("additionalOperations")).items():
        yield one, f"{pointer}/additionalOperations/{escaped(name)}"


def _bases(within: object) -> tuple[str, ...]:
    """The paths that `servers` put in front of an API's."""
    found = []
    servers = _table(within).get("servers")
    for server in servers if isinstance(servers, list) else ():
        url = str(_table(server).get("url", ""))
        for name, about in _table(_table(server).get("variables")).items():
            url = url.replace(f"{{{name}}}", str(_table(about).get("default", "")))
        base = urlsplit(url).path.strip("/")
        if base:
            found.append("/" + "/".join("*" if "{" in part else unquote(part) for part in base.split("/")))
    return tuple(dict.fromkeys(found))


def _table(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}
