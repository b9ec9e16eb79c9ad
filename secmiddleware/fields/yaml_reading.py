"""What a YAML text says, as JSON would say it: for the documents of an API, which are written in both.

Scalars are what YAML 1.2's core schema calls them (§10.3.2), and keys are texts as they are written: `no` is
no boolean, and `200` the name of a response. Merge keys (`<<`) merge as YAML 1.1 has it. Whatever two readers
may take for two things is refused. PyYAML is the `openapi` extra; it is imported here only.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final, cast

# Over the largest published documents of APIs. An alias counts as all that it stands for.
_MOST_NODES: Final = 2_000_000
_DEEPEST: Final = 500
_LONGEST_NUMBER: Final = 400

_NULL: Final = frozenset(("", "~", "null", "Null", "NULL"))
_BOOLEANS: Final[Mapping[str, bool]] = {
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
}
_INTEGER: Final = re.compile(r"(?:([-+]?[0-9]+)|0o([0-7]+)|0x([0-9a-fA-F]+))", re.ASCII)
_FLOAT: Final = re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?", re.ASCII)
_SPECIAL: Final = re.compile(r"([-+]?)\.(?:(inf|Inf|INF)|nan|NaN|NAN)", re.ASCII)
_TAG: Final = "tag:yaml.org,2002:"
_MERGE: Final = "<<"


class YamlError(ValueError):
    """A text that is no YAML, or none that JSON could say; says why, and in which line."""


def read_yaml(data: bytes) -> Any:
    """What the one document of a text says, in the types that json.loads has.

    What has an alias is one object wherever it stands: it is not to be written to.

    Raises:
        YamlError: it is none, says what JSON cannot, or expands to more than anybody writes.
        ModuleNotFoundError: PyYAML is not installed.
    """
    import yaml

    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError:
        raise YamlError("is not UTF-8") from None
    reading = _Reading()
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        for event in yaml.parse(text, Loader=loader):
            reading.take(type(event).__name__, event)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark is not None else ""
        raise YamlError(f"is not YAML: {getattr(error, 'problem', None) or 'a character'}{line}") from None
    return reading.root


class _Open:
    """A mapping or a list that is being read."""

    def __init__(self, value: dict[str, Any] | list[Any], anchor: str | None, before: int) -> None:
        self.value = value
        self.anchor = anchor
        self.before = before  # nodes that were read until here
        self.height = 1
        self.key: str | None = None
        self.merged: dict[str, Any] | None = None
        """What a merge key brings; None where there is none."""
        self.merging: int | None = None
        """The line of the merge key whose value comes next."""

    @property
    def is_at_key(self) -> bool:
        return isinstance(self.value, dict) and self.key is None and self.merging is None


class _Reading:
    """Builds the value out of events: nothing recurs, and nothing is built that is over a limit."""

    def __init__(self) -> None:
        self.root: Any = None
        self._open: list[_Open] = []
        self._anchors: dict[str, tuple[Any, int, int]] = {}
        """What an anchor stands for, its nodes, and how deep they go."""
        self._nodes = 0
        self._documents = 0

    def take(self, kind: str, event: Any) -> None:
        line = event.start_mark.line + 1
        match kind:
            case "DocumentStartEvent":
                self._documents += 1
                if self._documents > 1:
                    raise YamlError(f"has a second document, line {line}")
            case "MappingStartEvent" | "SequenceStartEvent":
                self._start({} if kind == "MappingStartEvent" else [], event, line)
            case "MappingEndEvent" | "SequenceEndEvent":
                self._end()
            case "AliasEvent":
                self._alias(event.anchor, line)
            case "ScalarEvent":
                self._scalar(event, line)

    def _start(self, value: dict[str, Any] | list[Any], event: Any, line: int) -> None:
        if self._open and self._open[-1].is_at_key:
            raise YamlError(f"has a key that is no text, line {line}")
        if event.tag not in (None, "!", f"{_TAG}{'map' if isinstance(value, dict) else 'seq'}"):
            raise YamlError(f"has a tag that JSON has not, line {line}")
        self._open.append(_Open(value, event.anchor, self._nodes))
        self._count(1, 0, line)
        self._anchors.pop(event.anchor, None)  # it names this one from here on, and this one is not read yet

    def _end(self) -> None:
        done = self._open.pop()
        if done.merged is not None:
            done.value = {**done.merged, **cast("dict[str, Any]", done.value)}
        size = self._nodes - done.before
        if done.anchor is not None:
            self._anchors[done.anchor] = (done.value, size, done.height)
        self._add(done.value, done.height)

    def _alias(self, anchor: str, line: int) -> None:
        if any(one.anchor == anchor for one in self._open) and anchor not in self._anchors:
            raise YamlError(f"has an alias within what it stands for, line {line}")
        if anchor not in self._anchors:
            raise YamlError(f"has an alias of nothing, line {line}")
        if self._open and self._open[-1].is_at_key:
            raise YamlError(f"has an alias for a key, line {line}: write it out")
        value, size, height = self._anchors[anchor]
        self._count(size, height, line)
        self._add(value, height)

    def _scalar(self, event: Any, line: int) -> None:
        plain = event.implicit[0] and event.tag is None
        if event.tag not in (None, "!", f"{_TAG}str"):
            raise YamlError(f"has a tag that JSON has not, line {line}")
        self._count(1, 0, line)
        text = str(event.value)
        value = _resolve(text, line) if plain else text
        if event.anchor is not None:
            self._anchors[event.anchor] = (value, 1, 0)
        if not (self._open and self._open[-1].is_at_key):
            self._add(value, 0)
        elif plain and text == _MERGE:
            self._merge(line)
        else:
            self._key(text, line)

    def _key(self, text: str, line: int) -> None:
        within = self._open[-1]
        if text in within.value:
            raise YamlError(f"has the key {text[:100]!r} twice in one mapping, line {line}")
        within.key = text

    def _merge(self, line: int) -> None:
        within = self._open[-1]
        if within.merged is not None:
            raise YamlError(f"has a merge key (<<) twice in one mapping, line {line}: list what it merges")
        within.merging = line

    def _add(self, value: Any, height: int) -> None:
        if not self._open:
            self.root = value
            return
        within = self._open[-1]
        if within.merging is not None:
            # It was counted as any value is, so that merging costs no more than what is counted.
            within.merged, within.merging = _merged(value, within.merging), None
            within.height = max(within.height, height)
            return
        within.height = max(within.height, height + 1)
        if isinstance(within.value, list):
            within.value.append(value)
        elif within.key is not None:
            within.value[within.key] = value
            within.key = None

    def _count(self, nodes: int, height: int, line: int) -> None:
        self._nodes += nodes
        if self._nodes > _MOST_NODES:
            raise YamlError(f"has more than {_MOST_NODES} values, line {line}")
        if len(self._open) + height > _DEEPEST:
            raise YamlError(f"nests deeper than {_DEEPEST}, line {line}")


def _merged(value: Any, line: int) -> dict[str, Any]:
    """What a mapping, or each of a list, brings into another one.

    Of two in a list that have one key, YAML 1.1 takes the first, and PyYAML 6.0.4 the last: that is refused.
    """
    several = value if isinstance(value, list) else [value]
    merged: dict[str, Any] = {}
    for one in several:
        if not isinstance(one, dict):
            raise YamlError(f"has a merge key (<<) of what is no mapping, line {line}")
        for name, inner in one.items():
            if not _is_same(merged.setdefault(name, inner), inner):
                raise YamlError(
                    f"merges two mappings that both have {name[:100]!r}, line {line}: write it out"
                )
    return merged


def _is_same(one: Any, other: Any) -> bool:
    """Whether two values are one, or equal scalars; comparing more could take long."""
    scalars = not isinstance(one, dict | list) and type(one) is type(other)
    return one is other or (scalars and one == other)


def _resolve(text: str, line: int) -> Any:
    """What a plain scalar is by the core schema."""
    if text in _NULL:
        return None
    if text in _BOOLEANS:
        return _BOOLEANS[text]
    if text[0] not in "-+.0123456789":
        return text
    if len(text) > _LONGEST_NUMBER and (_INTEGER.fullmatch(text) or _FLOAT.fullmatch(text)):
        raise YamlError(f"has a number of more than {_LONGEST_NUMBER} digits, line {line}")
    if found := _INTEGER.fullmatch(text):
        decimal, octal, hexadecimal = found.groups()
        return int(decimal) if decimal else int(octal, 8) if octal else int(hexadecimal, 16)
    if found := _SPECIAL.fullmatch(text):
        return float(f"{found[1]}inf" if found[2] else "nan")
    return float(text) if _FLOAT.fullmatch(text) else text
