"""`secmiddleware fields`: a field's values sealed, opened and sealed anew by hand, in files and in pipes."""

from __future__ import annotations

import difflib
import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial, reduce
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

import click

from secmiddleware.cli.console import config_option
from secmiddleware.cli.dumps import (
    LARGEST_DOCUMENT,
    LARGEST_VALUE,
    Bar,
    no_larger,
    read_document,
    read_value,
    rewrite_lines,
    sink,
    source,
)
from secmiddleware.cli.keys import opened_ring
from secmiddleware.errors import ConfigError, Finding

if TYPE_CHECKING:
    from secmiddleware.encryption.manager import EncryptionManager
    from secmiddleware.fields.documents import Hand
    from secmiddleware.settings import Settings
    from secmiddleware.settings.models import FieldSettings
    from secmiddleware.settings.places import MarkedPlace

_FIRST_BLOCK: Final = 64
"""Uses that a document or a dump begins with; each time they are spent, twice as many are reserved."""
_LOOK_EVERY: Final = 10.0
"""Seconds after which a long run looks whether the ring was rotated meanwhile: as often as services do."""

_OPTIONS: Final = (
    click.option(
        "--in",
        "in_",
        type=click.Path(path_type=Path),
        metavar="FILE",
        help="Read from FILE, not standard input.",
    ),
    click.option(
        "--out",
        type=click.Path(path_type=Path),
        metavar="FILE",
        help="Write to FILE, not standard output: for its owner only, and there only once all of it is.",
    ),
    click.option("--force", is_flag=True, help="Let --out replace a file that is there."),
    click.option("--json", "shape", flag_value="json", help="The input is one JSON document."),
    click.option(
        "--ndjson", "shape", flag_value="ndjson", help="The input has a JSON document on each line."
    ),
    click.option(
        "--mark",
        "marks",
        multiple=True,
        metavar="JSONPATH",
        help="Where the values stand in a document; not given: where the field's places have them. What "
        "marks_from names is imported for that.",
    ),
    click.option(
        "--tenant",
        metavar="TENANT",
        help='Where the field has bind = "tenant": whose it is, as in spiffe://example.org',
    ),
    click.option(
        "--caller",
        metavar="NAME",
        help='Where the field has bind = "caller": whose it is, as in spiffe://example.org/shop',
    ),
    config_option,
    click.argument("field"),
)


def _with_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """The arguments that every command here takes."""
    return reduce(lambda wrapped, option: option(wrapped), _OPTIONS, command)


@dataclass(frozen=True, slots=True)
class _Work:
    """What is asked for on the command line, whichever command it is."""

    field: str
    config: Path
    in_: Path | None
    out: Path | None
    force: bool
    shape: Literal["json", "ndjson"] | None
    marks: tuple[str, ...]
    tenant: str | None
    caller: str | None

    def __post_init__(self) -> None:
        if self.marks and self.shape is None:
            raise click.UsageError("--mark is for documents: it takes --json or --ndjson")
        if self.force and self.out is None:
            raise click.UsageError("--force is for --out")


@click.group(
    epilog="""\b
Examples:
  echo '"078-05-1120"' | secmiddleware fields seal ssn
  echo "$TOKEN" | secmiddleware fields open ssn
  secmiddleware fields rewrap ssn --ndjson --in customers.ndjson --out renewed.ndjson
  secmiddleware fields list"""
)
def fields() -> None:
    """A field's values: seal, open and rewrap them, one by one, in documents and in dumps.

    Values come from standard input or from files, never from arguments.
    """


@fields.command(
    epilog="""\b
Examples:
  echo '"078-05-1120"' | secmiddleware fields seal ssn
  echo 078-05-1120 | secmiddleware fields seal ssn --text
  secmiddleware fields seal ssn --ndjson --mark '$.ssn' --in customers.ndjson --out sealed.ndjson"""
)
@_with_options
@click.option(
    "--text", is_flag=True, help="The input is a plain text; it is sealed as the JSON string of it."
)
def seal(text: bool, **given: Any) -> None:
    """Seal a JSON value of FIELD, and print its token; or the values in a document, or in a dump.

    The value is sealed as it is written, so that 1.10 stays 1.10. One line end behind it does not count. In a
    document every other byte stays as it was, and so do tokens of the field that open.
    """
    work = _Work(**given)
    if text and work.shape is not None:
        raise click.UsageError("--text is for one value; documents are JSON")
    settings, rule = _settings_of(work)
    whose = _bound(rule, work)

    def seal_value(hand: Hand, value: bytes) -> bytes:
        return hand.seal(_string_of(value) if text else _checked(value))

    _run(work, settings, rule, whose, value=seal_value, document="seal_json", first_block=1)


@fields.command(
    "open",
    epilog="""\b
Examples:
  echo "$TOKEN" | secmiddleware fields open ssn
  secmiddleware fields open ssn --ndjson --in sealed.ndjson --out plain.ndjson""",
)
@_with_options
def open_tokens(**given: Any) -> None:
    """Open a token of FIELD, and print what was sealed; or the tokens in a document, or in a dump.

    What was sealed is the JSON value, or the text where encoding = "text". Why a token does not open is never
    told.
    """
    work = _Work(**given)
    settings, rule = _settings_of(work)
    whose = _bound(rule, work)
    _run(
        work,
        settings,
        rule,
        whose,
        value=lambda hand, token: hand.open(token.strip(b' \t\r\n"')),
        document="open_json",
        first_block=0,
    )


@fields.command(
    epilog="""\b
Examples:
  echo "$TOKEN" | secmiddleware fields rewrap ssn
  secmiddleware fields rewrap ssn --ndjson --in customers.ndjson --out customers.ndjson --force

Tokens of distrusted and of retired keys are renewed too, which no request opens any more. Whoever has a
distrusted key can forge such tokens, and this makes them good: know where your dump comes from."""
)
@_with_options
def rewrap(**given: Any) -> None:
    """Seal a token of FIELD anew; or the tokens in a document, or in a dump.

    It gets the field's own format and the key that seals now, and stays bound to the same tenant or caller. A
    token that has both already stays as it is. What also_open and fernet_keys open is brought over.
    """
    work = _Work(**given)
    settings, rule = _settings_of(work)
    whose = _bound(rule, work)
    _run(
        work,
        settings,
        rule,
        whose,
        value=lambda hand, token: hand.rewrap(token.strip(b' \t\r\n"')),
        document="rewrap_json",
        first_block=1,
    )


@fields.command(
    "list",
    epilog="""\b
Examples:
  secmiddleware fields list
  secmiddleware fields list --json

Models that marks_from names are imported, and so is what they import.""",
)
@config_option
@click.option("--json", "as_json", is_flag=True, help="One JSON object on standard output.")
def list_marks(config: Path, as_json: bool) -> None:
    """List every mark of every field: where it holds, what happens there, and who says so.

    That is a line of the settings, and beyond it an attribute of a model or a schema in a document.
    """
    from secmiddleware.settings.loading import load_with_origins
    from secmiddleware.settings.mistakes import write_path
    from secmiddleware.settings.places import places_of

    settings, found_at = load_with_origins(config)
    rows = []
    for place in _placed(settings):
        _, name, _, index = place.key
        said = settings.fields[str(name)].places[int(index)]
        for one in place.marks:
            at = found_at(one.key)
            rows.append(
                {
                    "field": place.field,
                    "mark": str(one.mark),
                    "request": said.request if one in place.request else "pass",
                    "response": said.response if one in place.response else "pass",
                    "routes": [str(route) for route in place.routes],
                    "origin": one.origin,
                    "key": write_path(one.key),
                    "source": at.source,
                    "line": at.line,
                }
            )
    left = [text for _, text in places_of(settings, import_models=False).left]
    if as_json:
        click.echo(json.dumps({"marks": rows, "not_marked": left}, indent=2))
        return
    table = [("FIELD", "MARK", "REQUEST", "RESPONSE", "ROUTES", "FROM"), *map(_row, rows)]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    for row in table:
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        click.echo(_printable("  ".join(cells).rstrip()))
    for text in left:
        click.echo(_printable(f"not marked: {text}"))


def _printable(text: str) -> str:
    """A line as a terminal may have it: names come out of documents."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


def _row(mark: dict[str, Any]) -> tuple[str, ...]:
    line = "" if mark["line"] is None else f":{mark['line']}"
    at = f"{mark['source']}{line}"
    origin = at if mark["origin"] is None else f"{mark['origin']} ({at})"
    return (
        mark["field"],
        mark["mark"],
        mark["request"],
        mark["response"],
        " ".join(mark["routes"]),
        origin,
    )


def _run(
    work: _Work,
    settings: Settings,
    rule: FieldSettings,
    whose: dict[str, str],
    *,
    value: Callable[[Hand, bytes], bytes],
    document: Literal["seal_json", "open_json", "rewrap_json"],
    first_block: int,
) -> None:
    """Does to a value, a document or a dump what is asked for."""
    marks = () if work.shape is None else _marks(settings, work)
    block = min(first_block, 1) * _FIRST_BLOCK if work.shape else first_block
    lines = None
    with source(work.in_) as incoming:
        if work.shape is None:
            given = read_value(incoming)
        elif work.shape == "json":
            given = read_document(incoming)
        ring = opened_ring(settings, work.config, first_block=block)
        hand = _hand(ring, rule, work.field, whose)
        rewritten = partial(getattr(hand, document), marks=marks)
        most = {None: LARGEST_VALUE, "json": LARGEST_DOCUMENT, "ndjson": LARGEST_VALUE}[work.shape]

        def change(body: bytes) -> bytes:
            result = value(hand, body) if work.shape is None else rewritten(body)
            return result if document == "open_json" else no_larger(result, most)

        with sink(work.out, force=work.force) as outgoing:
            if work.shape is None:
                outgoing.write(change(given) + b"\n")
            elif work.shape == "json":
                outgoing.write(change(given))
            else:
                to_terminal = work.out is None and sys.stdout.isatty()
                with Bar(incoming, to_terminal=to_terminal) as bar:
                    lines = rewrite_lines(incoming, outgoing, _looking(ring, change), bar)
            outgoing.flush()
    if work.out is not None:
        there = "" if lines is None else f" in {lines} lines"
        told = f"{work.out}: {hand.count.changed} values {_DONE[document]}{there}"
        click.echo(told + (f", {hand.count.kept} left as they were" if hand.count.kept else ""), err=True)


_DONE: Final = {"seal_json": "sealed", "open_json": "opened", "rewrap_json": "sealed anew"}


def _looking(ring: EncryptionManager, change: Callable[[bytes], bytes]) -> Callable[[bytes], bytes]:
    """The same, with a look at the ring now and then: a run of hours must not seal with yesterday's key."""
    due = time.monotonic() + _LOOK_EVERY

    def changed(line: bytes) -> bytes:
        nonlocal due
        if time.monotonic() > due:
            due = time.monotonic() + _LOOK_EVERY
            ring.look()
        return change(line)

    return changed


def _hand(ring: EncryptionManager, rule: FieldSettings, field: str, whose: dict[str, str]) -> Hand:
    from secmiddleware.fields.documents import Hand
    from secmiddleware.parts import listed_fernet

    return Hand(
        ring,
        field,
        **whose,
        pad=rule.pad,
        format=rule.format,
        also_open=rule.also_open,
        encoding=rule.encoding,
        listed=listed_fernet(rule),
        recover=True,
    )


def _settings_of(work: _Work) -> tuple[Settings, FieldSettings]:
    from secmiddleware.settings import load

    settings, name = load(work.config), work.field
    if name not in settings.fields:
        near = difflib.get_close_matches(name, settings.fields, n=1)
        known = ", ".join(settings.fields) or "none"
        hint = f'did you mean "{near[0]}"?' if near else f"there are: {known}"
        raise ConfigError([Finding("fields", f"there is no field {name!r}", str(work.config), hint=hint)])
    rule = settings.fields[name]
    if rule.jwe is not None and "dir" not in rule.jwe.alg:
        raise click.ClickException(
            f"JWEs of fields.{name} are sealed to a recipient's key, not under the ring: they are made and "
            "opened by the service and by that recipient, not by hand"
        )
    return settings, rule


def _marks(settings: Settings, work: _Work) -> tuple[str, ...]:
    """The marks given, else those of the field's places; none may select a value inside another one's."""
    from secmiddleware.fields.marks import Mark, contains

    try:
        given = [Mark.parse(text) for text in work.marks] or [
            one.mark
            for place in _placed(settings)
            if place.field == work.field
            for one in place.marks
            if isinstance(one.mark, Mark)
        ]
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    marks = tuple(dict.fromkeys(given))
    if not marks:
        raise click.UsageError(f"{work.field} has no marks in JSON: name some with --mark")
    for one, other in combinations(marks, 2):
        if contains(one, other) or contains(other, one):
            raise click.UsageError(
                f"{one} and {other} are one inside the other: name what is meant with --mark"
            )
    return tuple(map(str, marks))


def _placed(settings: Settings) -> tuple[MarkedPlace, ...]:
    """Where everything is marked; models are looked for where the command was started, as `run` does."""
    from secmiddleware.parts import marked_places

    sys.path.insert(0, str(Path.cwd()))
    return marked_places(settings)


def _checked(value: bytes) -> bytes:
    """A JSON value. Says what to do about a text that is none."""
    from secmiddleware.fields.json_reading import UnreadableJSON, check

    try:
        check(value)
    except UnreadableJSON:
        raise click.ClickException(
            "the input is not a JSON value; a text stands in quotation marks, or is sealed with --text"
        ) from None
    return value


def _string_of(value: bytes) -> bytes:
    """The JSON string of a text."""
    import msgspec

    try:
        return msgspec.json.encode(value.decode("utf-8"))
    except UnicodeDecodeError:
        raise click.ClickException("the input is not UTF-8 text") from None


def _bound(rule: FieldSettings, work: _Work) -> dict[str, str]:
    """The slots that the field's `bind` asks for; what it does not ask for may not be given."""
    given = {"tenant": work.tenant, "caller": work.caller}
    for option, value in given.items():
        if (value is not None) != (rule.bind == option):
            wanted = "needs" if value is None else "takes no"
            raise click.UsageError(f'bind is "{rule.bind}" here: this {wanted} --{option}')
        if not value and value is not None:
            raise click.UsageError(f"--{option} names nobody")
        try:
            (value or "").encode("utf-8")  # of other bytes the command line makes half surrogate pairs
        except UnicodeEncodeError:
            raise click.UsageError(f"--{option} is not in UTF-8") from None
    return {option: value for option, value in given.items() if value is not None}
