"""`secmiddleware fields`: one value sealed or opened by hand, from standard input to standard output."""

from __future__ import annotations

import difflib
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from secmiddleware.cli.console import config_option
from secmiddleware.cli.keys import opened_ring
from secmiddleware.errors import ConfigError, Finding

if TYPE_CHECKING:
    from secmiddleware.settings import Settings
    from secmiddleware.settings.models import FieldSettings

# A value of a field, not a document; the largest body that settings allow by default.
_LARGEST: Final = 4 << 20

_tenant = click.option(
    "--tenant",
    metavar="TENANT",
    help='Where the field has bind = "tenant": whose it is, as in spiffe://example.org',
)
_caller = click.option(
    "--caller",
    metavar="NAME",
    help='Where the field has bind = "caller": whose it is, as in spiffe://example.org/shop',
)


@click.group(
    epilog="""\b
Examples:
  echo '"078-05-1120"' | secmiddleware fields seal ssn
  echo "$TOKEN" | secmiddleware fields open ssn"""
)
def fields() -> None:
    """A field's values: seal one, open one. Values come from standard input, never from arguments."""


@fields.command(
    epilog="""\b
Examples:
  echo '"078-05-1120"' | secmiddleware fields seal ssn
  echo 078-05-1120 | secmiddleware fields seal ssn --text"""
)
@click.argument("field")
@config_option
@click.option(
    "--text", is_flag=True, help="The input is a plain text; it is sealed as the JSON string of it."
)
@_tenant
@_caller
def seal(field: str, config: Path, text: bool, tenant: str | None, caller: str | None) -> None:
    """Seal a JSON value of FIELD, and print its token.

    The value is sealed as it is written, so that 1.10 stays 1.10. One line end behind it does not count.
    """
    from secmiddleware.fields.json_reading import UnreadableJSON, check, text_of_string

    settings, rule = _settings_of(config, field)
    bound = _bound(rule, tenant, caller)
    value = _read()
    if text:
        value = _string_of(value)
    try:
        start = check(value)
    except UnreadableJSON:
        raise click.ClickException(
            "the input is not a JSON value; a text stands in quotation marks, or is sealed with --text"
        ) from None
    value = value[start:].strip(b" \t\r\n")
    if rule.encoding == "text":
        content = text_of_string(value)
        if content is None:
            raise click.ClickException('encoding is "text" here: only a string can be sealed')
        value = content.encode("utf-8")
    token = opened_ring(settings, config, first_block=1).seal(
        field, value, **bound, pad=rule.pad, format=rule.format
    )
    click.echo(token)


@fields.command(
    "open",
    epilog="""\b
Example:
  echo "$TOKEN" | secmiddleware fields open ssn""",
)
@click.argument("field")
@config_option
@_tenant
@_caller
def open_token(field: str, config: Path, tenant: str | None, caller: str | None) -> None:
    """Open a token of FIELD, and print what was sealed: the JSON value, or the text where encoding = "text".

    Why a token does not open is never told.
    """
    from secmiddleware.encryption.padding import unpadded
    from secmiddleware.encryption.tokens import format_of
    from secmiddleware.errors import TokenError
    from secmiddleware.security import listed_fernet

    settings, rule = _settings_of(config, field)
    bound = _bound(rule, tenant, caller)
    token = _read().strip(b' \t\r\n"')
    fits = format_of(token)
    if fits is None or fits not in (rule.format, *rule.also_open):
        raise TokenError("the token does not open here")
    listed = listed_fernet(rule) if fits == "fernet" else None
    value = None if listed is None else listed.open(token)
    if value is None:
        value = opened_ring(settings, config).open(field, token, **bound, format=fits)
    click.echo(value if rule.encoding == "text" else unpadded(value))


def _settings_of(config: Path, name: str) -> tuple[Settings, FieldSettings]:
    from secmiddleware.settings import load

    settings = load(config)
    if name not in settings.fields:
        near = difflib.get_close_matches(name, settings.fields, n=1)
        known = ", ".join(settings.fields) or "none"
        hint = f'did you mean "{near[0]}"?' if near else f"there are: {known}"
        raise ConfigError([Finding("fields", f"there is no field {name!r}", str(config), hint=hint)])
    return settings, settings.fields[name]


def _string_of(value: bytes) -> bytes:
    """The JSON string of a text."""
    import msgspec

    try:
        return msgspec.json.encode(value.decode("utf-8"))
    except UnicodeDecodeError:
        raise click.ClickException("the input is not UTF-8 text") from None


def _bound(rule: FieldSettings, tenant: str | None, caller: str | None) -> dict[str, str]:
    """The slots that the field's `bind` asks for; what it does not ask for may not be given."""
    given = {"tenant": tenant, "caller": caller}
    for option, value in given.items():
        if (value is not None) != (rule.bind == option):
            wanted = "needs" if value is None else "takes no"
            raise click.UsageError(f'bind is "{rule.bind}" here: this {wanted} --{option}')
    return {option: value for option, value in given.items() if value is not None}


def _read() -> bytes:
    if sys.stdin is None:  # closed by whoever started the command
        raise click.ClickException("there is no standard input to read the value from")
    data = sys.stdin.buffer.read(_LARGEST + 1)
    if len(data) > _LARGEST:
        raise click.ClickException(f"the input is larger than {_LARGEST} bytes")
    return data.removesuffix(b"\n").removesuffix(b"\r")
