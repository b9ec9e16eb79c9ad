"""From a file or a mapping, and the environment over it, to `Settings`; or to every mistake at once.

One merged mapping is validated once, and it is remembered where each of its values came from. Where something
is wrong, what is right is still looked at for contradictions (`review`), so that no mistake hides another
one.
"""

from __future__ import annotations

import ast
import os
import re
import stat
import tomllib
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from pydantic import ValidationError

from secmiddleware.errors import ConfigError, Finding
from secmiddleware.settings.deployment import advise
from secmiddleware.settings.environment import WrongVariable, apply, read_environment
from secmiddleware.settings.mistakes import Mistake, mistakes_of, write_path
from secmiddleware.settings.models import Settings
from secmiddleware.settings.positions import DEPTH_LIMIT, KeyPath, Positions, scan
from secmiddleware.settings.review import review

# A file with hundreds of rules has some tens of KiB.
LARGEST_FILE: Final = 1 << 20
# More than a person reads; the rest is counted.
MOST_FINDINGS: Final = 200
_WHOLE: Final = "(the whole file)"


def load(
    source: str | os.PathLike[str] | Mapping[str, Any], environ: Mapping[str, str] | None = None
) -> Settings:
    """The settings of a TOML file, or of a mapping with the same keys, with the environment's overrides.

    Relative paths, those of overrides included, start at the folder of the file; for a mapping, at the
    working directory. Files that the settings name are looked at, secrets given by reference are read; no
    user code is imported and nothing is started.

    Args:
        source: the path of the file, or the mapping. It is not changed.
        environ: where overrides and `{ env = … }` come from; `os.environ` unless given.

    Raises:
        ConfigError: with every mistake that was found, in the file's order, those of the environment last.
    """
    return _load(source, os.environ if environ is None else environ)[0]


def load_with_advice(
    source: str | os.PathLike[str] | Mapping[str, Any], environ: Mapping[str, str] | None = None
) -> tuple[Settings, tuple[Finding, ...]]:
    """The settings, as `load` gives them, and what is wider in them than production should have it.

    Raises ConfigError as `load` does.
    """
    settings, draft = _load(source, os.environ if environ is None else environ)
    return settings, tuple(map(draft.finding, advise(settings)))


def load_with_origins(
    source: str | os.PathLike[str] | Mapping[str, Any], environ: Mapping[str, str] | None = None
) -> tuple[Settings, Callable[[KeyPath], Finding]]:
    """The settings, as `load` gives them, and what says of each key where it stands: its source and line.

    Raises ConfigError as `load` does.
    """
    settings, draft = _load(source, os.environ if environ is None else environ)
    return settings, lambda key: draft.finding(Mistake(key, ""))


def _load(
    source: str | os.PathLike[str] | Mapping[str, Any], environ: Mapping[str, str]
) -> tuple[Settings, _Draft]:
    draft = _of_mapping(source) if isinstance(source, Mapping) else _of_file(source)
    overrides, wrong = read_environment(environ, draft.data)
    if not draft.findings:
        wrong += apply(draft.data, overrides, draft.origins, draft.made)
    draft.findings += map(_of_variable, wrong)
    if draft.unreadable:
        raise _error(draft.findings)
    settings, broken = _validate(draft, environ)
    if settings is not None:
        draft.findings += map(draft.finding, review(settings, broken, environ))
    if draft.findings or settings is None:
        raise _error(draft.findings)
    settings._source = draft.path  # noqa: SLF001  (not a key: whoever reads the file says which it was)
    return settings, draft


@dataclass(slots=True)
class _Draft:
    """The data of a source before it is validated, and where everything in it came from."""

    name: str
    base: Path
    path: Path | None = None
    data: dict[str, Any] = field(default_factory=dict)
    positions: Positions = field(default_factory=lambda: Positions({}))
    origins: dict[KeyPath, str] = field(default_factory=dict)
    made: dict[KeyPath, str] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)
    unreadable: bool = False

    def refuse(
        self, message: str, *, key: str = _WHOLE, line: int | None = None, hint: str | None = None
    ) -> None:
        """Note that nothing of the source can be used."""
        self.unreadable = True
        self.findings.append(Finding(key, message, self.name, line, hint))

    def finding(self, mistake: Mistake) -> Finding:
        """The mistake with the line or the variable that it comes from."""
        for length in range(len(mistake.path), 0, -1):
            around = mistake.path[:length]
            if around in self.origins:
                key = self.origins[around] + _below(mistake.path[length:])
                return Finding(key, mistake.message, "environment", hint=mistake.hint)
            if around in self.made:
                message = f"{write_path(mistake.path)}: {mistake.message}"
                return Finding(self.made[around], message, "environment", hint=mistake.hint)
        line = self.positions.line_of(mistake.path)
        return Finding(write_path(mistake.path) or _WHOLE, mistake.message, self.name, line, mistake.hint)


def _below(path: KeyPath) -> str:
    text = write_path(path)
    return text if not text or text.startswith("[") else f".{text}"


def _of_variable(wrong: WrongVariable) -> Finding:
    return Finding(wrong.name, wrong.message, "environment", hint=wrong.hint)


def _error(findings: Sequence[Finding]) -> ConfigError:
    ordered = sorted(findings, key=lambda found: (found.source == "environment", found.line or 0))
    shown = list(dict.fromkeys(ordered))
    if len(shown) > MOST_FINDINGS:
        more = Finding(_WHOLE, f"and {len(shown) - MOST_FINDINGS} more mistakes", shown[0].source)
        shown[MOST_FINDINGS:] = [more]
    return ConfigError(shown)


def _of_mapping(source: Mapping[Any, Any]) -> _Draft:
    draft = _Draft("mapping", Path.cwd())
    try:
        draft.data = _plain(source, ())
    except _NotPlain as problem:
        draft.refuse(problem.message, key=write_path(problem.path) or "(the whole mapping)")
    return draft


class _NotPlain(Exception):  # noqa: N818  (a signal inside this module)
    def __init__(self, path: KeyPath, message: str) -> None:
        super().__init__(message)
        self.path = path
        self.message = message


def _plain(value: Any, path: KeyPath) -> Any:
    """A copy of tables and lists as dicts and lists; everything else as it is."""
    if len(path) > DEPTH_LIMIT:
        raise _NotPlain(path[:DEPTH_LIMIT], f"nests deeper than {DEPTH_LIMIT} levels")
    if isinstance(value, Mapping):
        wrong = next((key for key in value if not isinstance(key, str)), None)
        if wrong is not None:
            raise _NotPlain(path, "has a key that is not a text")
        return {str(key): _plain(below, (*path, str(key))) for key, below in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(below, (*path, index)) for index, below in enumerate(value)]
    return value


def _of_file(source: object) -> _Draft:
    if not isinstance(source, str | os.PathLike) or not isinstance(named := os.fspath(source), str):
        draft = _Draft("settings", Path.cwd())
        draft.refuse("must be the path of a file, or a mapping")
        return draft
    path = Path.cwd() / named if named and "\0" not in named else None
    draft = _Draft(named or '""', Path.cwd() if path is None else path.parent, path)
    if path is None:
        draft.refuse("is not a path of a file")
        return draft
    text = _read(path, draft)
    if text is not None:
        _parse(text, draft)
    return draft


def _read(path: Path, draft: _Draft) -> str | None:
    try:
        # O_NONBLOCK: opening a fifo would wait for somebody to write into it.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(descriptor, "rb", buffering=0) as file:
            mode = os.fstat(descriptor).st_mode
            if not stat.S_ISREG(mode):
                kind = "a directory" if stat.S_ISDIR(mode) else "no regular file"
                draft.refuse(f"is {kind}, not a settings file")
                return None
            data = file.read(LARGEST_FILE + 1) or b""
    except FileNotFoundError:
        draft.refuse("there is no such file", hint=f"looked for it at {path}")
        return None
    except OSError as error:
        # os.fdopen refuses a directory by itself.
        reason = "it is a directory" if isinstance(error, IsADirectoryError) else str(error.strerror).lower()
        draft.refuse(f"cannot be read: {reason}")
        return None
    if len(data) > LARGEST_FILE:
        draft.refuse(f"is larger than {LARGEST_FILE // 1024} KiB")
        return None
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        draft.refuse("is not UTF-8 text", line=line, hint="save it as UTF-8")
        return None


def _parse(text: str, draft: _Draft) -> None:
    positions = scan(text)
    if positions.too_deep is not None:
        draft.refuse(f"nests deeper than {DEPTH_LIMIT} levels", line=positions.too_deep)
        return
    draft.positions = positions
    try:
        draft.data = tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        _refuse_syntax(str(error), draft)


def _refuse_syntax(reason: str, draft: _Draft) -> None:
    """Note a TOML error with its line and the key around it. tomllib's reasons hold keys and no values."""
    match = re.fullmatch(r"(.*) \(at (?:line (\d+), column \d+|end of document)\)", reason, re.DOTALL)
    if match is None:
        draft.refuse("is not TOML")
        return
    line = int(match[2]) if match[2] else None
    at = max(draft.positions.lines.values(), default=1) if line is None else line
    for path, first, again in draft.positions.repeated:
        if again <= at:
            draft.refuse(f"is given twice, first on line {first}", key=write_path(path), line=again)
            return
    named = re.search(r"\((?:'|\").*\)", match[1], re.DOTALL)
    if named is not None:  # "Cannot declare ('a', 'b') twice", and what cannot be added to
        key = write_path(ast.literal_eval(named[0]))
        draft.refuse("is given already, and cannot be given again or added to", key=key, line=at)
        return
    path_before = draft.positions.last_before(at)
    key = _WHOLE if path_before is None else write_path(path_before)
    draft.refuse(f"is not TOML: {match[1][0].lower()}{match[1][1:200]}", key=key, line=at)


def _validate(draft: _Draft, environ: Mapping[str, str]) -> tuple[Settings | None, Collection[KeyPath]]:
    """The settings without what is wrong, and the paths that were taken out; None where nothing is left."""
    broken: set[KeyPath] = set()
    data = draft.data
    context = {"base": draft.base, "environ": environ}
    # A key taken out may have been a required one, then its table goes, then the list that the table is in.
    for attempt in range(2 * DEPTH_LIMIT):
        try:
            return Settings.model_validate(_frozen(data), context=context), broken
        except ValidationError as error:
            mistakes = list(mistakes_of(error))
        if attempt == 0:
            draft.findings += map(draft.finding, mistakes)
        gone: set[KeyPath] = set()
        for mistake in mistakes:
            if not any(mistake.path[:length] in gone for length in range(len(mistake.path) + 1)):
                gone.add(_take_out(data, mistake.path))
        broken |= gone
    return None, broken


def _frozen(value: Any) -> Any:
    """Lists as tuples, all the way down: the strict models take no lists."""
    if isinstance(value, dict):
        return {key: _frozen(below) for key, below in value.items()}
    if isinstance(value, list):
        return tuple(map(_frozen, value))
    return value


def _take_out(data: dict[str, Any], path: KeyPath) -> KeyPath:
    """Remove what stands at a path, or what misses a required key there; the path that is gone.

    Of a list no single item goes, since the others must keep their numbers.
    """
    if path in (("service",), ("service", "name")):
        # The only required ones outside a list or an optional table: what stands here is never looked at.
        data["service"] = {**(_as_table(data.get("service"))), "name": "unnamed"}
        return path
    here: Any = data
    for number, key in enumerate(path[:-1]):
        below = _item(here, key)
        if not isinstance(below, dict | list):  # a short form, such as a text for a table
            return _take_out(data, path[: number + 1])
        here = below
    last = path[-1]
    if isinstance(last, int):
        return _take_out(data, path[:-1])
    if last not in here:
        return _take_out(data, path[:-1])
    del here[last]
    return path


def _item(container: Any, key: str | int) -> Any:
    if isinstance(container, dict):
        return container.get(key)
    return container[key] if isinstance(key, int) and key < len(container) else None


def _as_table(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}
