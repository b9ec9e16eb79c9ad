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
from secmiddleware.fields.schemas import Found, SchemaError, Survey
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


def describe(document: Mapping[str, Any], mount: str) -> tuple[Described, ...]:
    """What an OpenAPI document says of each of its paths; `mount` is taken off where it is in front of one.

    Raises:
        SchemaError: it is none, or cannot be followed; says where in it.
    """
    version = document.get("openapi")
    if not isinstance(version, str) or not version.startswith("3."):
        raise SchemaError("is not an OpenAPI document of version 3")
    survey = Survey(document)
    bases = _bases(document)
    return tuple(
        _Operations(survey, path, mount).described(item, bases)
        for path, item in _table(document.get("paths")).items()
        if not path.startswith("x-")
    )


class _Operations:
    """The operations of one path."""

    def __init__(self, survey: Survey, path: str, mount: str) -> None:
        self._survey = survey
        self._path = path
        self._mount = mount
        self._pointer = f"#/paths/{path.replace('~', '~0').replace('/', '~1')}"

    def described(self, item: object, bases: tuple[str, ...]) -> Described:
        item, pointer = self._followed(item, self._pointer)
        operations = [(name, item[name], f"{pointer}/{name}") for name in _METHODS if name in item]
        more = _table(item.get("additionalOperations"))
        operations += [(name, one, f"{pointer}/additionalOperations/{name}") for name, one in more.items()]
        own = (*bases, *_bases(item), *(base for _, one, _ in operations for base in _bases(one)))
        described = Described(self._path, self._routes(own))
        self._parameters(item, pointer, described)
        for _, operation, at in operations:
            self._parameters(operation, at, described)
            body, body_at = self._followed(_table(operation).get("requestBody"), f"{at}/requestBody")
            described.request |= dict.fromkeys(self._content(body, body_at))
            for status, response in _table(_table(operation).get("responses")).items():
                response, response_at = self._followed(response, f"{at}/responses/{status}")
                described.response |= dict.fromkeys(self._content(response, response_at))
                for name, header in _table(response.get("headers")).items():
                    header, header_at = self._followed(header, f"{response_at}/headers/{name}")
                    for found in self._of_parameter(header, header_at):
                        described.heads[found, "response", f"header:{name}"] = None
        return described

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
            about, pointer = self._followed(
                about, f"{at}/content/{media.replace('~', '~0').replace('/', '~1')}"
            )
            for keyword in ("schema", "itemSchema"):
                if keyword in about:
                    yield from self._survey.found_at(f"{pointer}/{keyword}")

    def _followed(self, value: object, pointer: str) -> tuple[Mapping[str, Any], str]:
        """An object, or the one that it refers to, and where that stands."""
        for _ in range(10):
            reference = _table(value).get("$ref")
            if not isinstance(reference, str):
                return _table(value), pointer
            value, pointer = self._survey.resolve(reference, pointer), reference
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
