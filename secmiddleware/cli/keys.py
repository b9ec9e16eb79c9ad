"""`secmiddleware keys`: the ring of `[keys]`, as an operator sees it."""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from secmiddleware.cli.console import config_option
from secmiddleware.errors import ConfigError, Finding

if TYPE_CHECKING:
    from secmiddleware.encryption.manager import EncryptionManager
    from secmiddleware.settings import Settings

_BROKER_SECONDS: Final = 3.0
_SEALING: Final = ("pending", "primary")


def opened_ring(settings: Settings, config: Path, *, first_block: int = 0) -> EncryptionManager:
    """The key ring of the settings of a file, verified and opened; no ring is ever made here.

    Raises SecMiddlewareError where there is none to be had.
    """
    from secmiddleware.parts import encryption_of

    source = str(config)
    if settings.keys is None:
        raise ConfigError([Finding("keys", "is missing: these settings have no key ring", source)])
    if settings.keys.store == "memory:":
        message = '"memory:" lives and dies with the process that serves; nobody else can see it'
        raise ConfigError([Finding("keys.store", message, source, hint='use "file:PATH"')])
    encryption = encryption_of(settings.keys, first_block=first_block)
    if not encryption.exists():
        message = f"there is no ring {settings.keys.ring} yet: it is made when the service first starts"
        raise ConfigError([Finding("keys.store", message, source)])
    encryption.start()
    return encryption


@click.group(
    epilog="""\b
Examples:
  secmiddleware keys list
  secmiddleware keys rotate
  secmiddleware keys distrust 1f0c9a2e"""
)
def keys() -> None:
    """The key ring: list its keys, rotate, distrust a key that is in other hands."""


@keys.command(
    "list",
    epilog="""\b
Examples:
  secmiddleware keys list
  secmiddleware keys list --config deploy/secmiddleware.toml --json""",
)
@config_option
@click.option("--json", "as_json", is_flag=True, help="One JSON object on standard output.")
def list_keys(config: Path, as_json: bool) -> None:
    """List the keys of the ring with their states; no secret is shown."""
    from secmiddleware.settings import load

    status = opened_ring(load(config), config).status()
    if as_json:
        click.echo(json.dumps(status, indent=2))
        return
    click.echo(f"ring {status['ring']}, generation {status['gen']}, issued {_short(status['issued_at'])}")
    rows: list[tuple[str, ...]] = [("KEY", "STATE", "CREATED", "SEALS FROM", "RETIRES", "USES RESERVED")]
    rows += [_row(key) for key in status["keys"]]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def _row(key: dict[str, Any]) -> tuple[str, ...]:
    return (
        key["kid"],
        key["state"] + (" (distrusted)" if key["distrusted"] else ""),
        _short(key["created_at"]),
        _short(key["activate_at"]),
        _short(key["destroyed_at"] or key["retire_at"]),
        str(key["uses_reserved"]),
    )


def _short(time: str | None) -> str:
    return "-" if time is None else time[:19].replace("T", " ")


@keys.command(
    epilog="""\b
Example:
  secmiddleware keys rotate --config deploy/secmiddleware.toml

Running services see the new key at their next look at the store, long before it seals; with [rotation] broker
they are told to look at once."""
)
@config_option
def rotate(config: Path) -> None:
    """Add a key to the ring: published now, sealing after activation_delay.

    What older keys sealed stays readable. Refused while another new key has yet to begin to seal.
    """
    from secmiddleware.settings import load

    settings = load(config)
    encryption = opened_ring(settings, config)
    with _announcing(settings, encryption) as announce:
        kid = encryption.rotate()
        told = announce()
    new = next(key for key in encryption.status()["keys"] if key["kid"] == kid)
    click.echo(f"key {kid} is published, and seals from {_short(new['activate_at'])} UTC on")
    if told is not None:
        click.echo(told)


@keys.command(
    epilog="""\b
Examples:
  secmiddleware keys distrust 1f0c9a2e
  secmiddleware keys distrust 1f0c9a2e --rotate --yes --config deploy/secmiddleware.toml

What the key sealed is not lost: "secmiddleware fields rewrap" renews what is stored. Running services hear
of it as they do of a rotation."""
)
@config_option
@click.option(
    "--rotate",
    "with_rotation",
    is_flag=True,
    help="Also if KEY seals now, or is the next to: a new key is published with it, if none waits. Until "
    "that has its turn nothing is sealed, and requests that need it fail.",
)
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.argument("kid", metavar="KEY")
def distrust(config: Path, kid: str, with_rotation: bool, yes: bool) -> None:
    """Have no request open anything with KEY any more: it is in other hands, and its tokens may be forged.

    That cannot be taken back. KEY is an id of "secmiddleware keys list".
    """
    from secmiddleware.settings import load

    settings = load(config)
    encryption = opened_ring(settings, config)
    if not encryption.would_distrust(kid, rotate=with_rotation):
        click.echo(f"key {kid} is distrusted already")
        return
    if not yes:
        seals = any(key["kid"] == kid and key["state"] in _SEALING for key in encryption.status()["keys"])
        nothing = ", nothing is sealed until another key has its turn" if seals else ""
        _ask(f"From now on no request opens what key {kid} sealed{nothing}, and that stays so. Go on?")
    with _announcing(settings, encryption) as announce:
        encryption.distrust(kid, rotate=with_rotation)
        told = announce()
    status = encryption.status()
    click.echo(f"key {kid} is distrusted, from generation {status['gen']} of ring {status['ring']} on")
    sealing = next(key for key in status["keys"] if key["state"] == "primary")
    if sealing["distrusted"]:
        new = status["keys"][-1]
        click.echo(
            f"nothing is sealed until {_short(new['activate_at'])} UTC, when key {new['kid']} begins to"
        )
    if told is not None:
        click.echo(told)


def _ask(question: str) -> None:
    """Goes on only if somebody says so."""
    if sys.stdin is None or not sys.stdin.isatty():
        raise click.UsageError("there is nobody to ask: --yes goes on without")
    click.confirm(question, abort=True, err=True)


@contextmanager
def _announcing(settings: Settings, encryption: EncryptionManager) -> Iterator[Callable[[], str | None]]:
    """What tells the other processes over the broker, and how that went in words; None without a broker.

    It is connected before anything is published, so that nobody waits for that afterwards. A broker that is
    away holds nothing up for long: the others poll.
    """
    url = settings.rotation.broker.get_secret_value()
    if url in ("", "memory://"):  # which reaches nobody from here
        yield lambda: None
        return
    from datetime import UTC, datetime

    from secmiddleware.encryption.record import RECORD
    from secmiddleware.rotation.broker import Broker
    from secmiddleware.rotation.notices import write_notice

    broker = Broker(url, encryption.ring, ca=settings.rotation.broker_ca)
    connected = threading.Event()

    def compose() -> bytes:
        gen = encryption.status()["gen"]
        return write_notice(encryption.ring, RECORD, gen, datetime.now(UTC), encryption.mac_of_notice)

    def announce() -> str:
        broker.announce()
        until = time.monotonic() + _BROKER_SECONDS
        while broker.health()["notices_sent"] == 0 and time.monotonic() < until:
            time.sleep(0.01)
        if broker.health()["notices_sent"]:
            return f"announced over {broker.address}"
        return f"{broker.address} was not reached: running services find it at their next look"

    broker.start(take=lambda _: None, compose=compose, connected=connected.set)
    try:
        connected.wait(_BROKER_SECONDS)
        yield announce
    finally:
        broker.stop()
        broker.join(_BROKER_SECONDS)
