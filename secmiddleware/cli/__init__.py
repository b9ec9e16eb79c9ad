"""The command `secmiddleware`: each command is a module here, and imports what it needs when it is run.

Exit status: 0 all is good, 1 something was found wrong (the settings, a token, a key ring), 2 the command was
used wrongly.
"""

from __future__ import annotations

import errno
from typing import Any, Final

import click

from secmiddleware.cli.check import check
from secmiddleware.cli.console import show_findings
from secmiddleware.cli.demo import demo
from secmiddleware.cli.fields import fields
from secmiddleware.cli.init import init
from secmiddleware.cli.keys import keys
from secmiddleware.cli.run import run
from secmiddleware.errors import ConfigError, SecMiddlewareError

__all__ = ["main"]

_OF_THE_DISK: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO})
"""What may come of standard output and input at any time; of a reader that goes away click makes an end."""


class _Commands(click.Group):
    """Turns what our own code raises into words and an exit status; anything else is a defect, and shows."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            result = super().invoke(ctx)
        except ConfigError as error:
            show_findings(error.findings, err=True)
        except SecMiddlewareError as error:
            click.echo(f"Error: {error}", err=True)
        except OSError as error:
            if error.errno not in _OF_THE_DISK:
                raise
            click.echo(f"Error: what was read or written gave out: {error.strerror}", err=True)
        else:
            return result
        return ctx.exit(1)


@click.group(
    cls=_Commands,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="""\b
To begin:
  secmiddleware init .               certificates, keys and secmiddleware.toml for development
  secmiddleware check                every mistake in secmiddleware.toml at once
  secmiddleware run shop.main:app    serve the app, wrapped
  secmiddleware demo                 a tour of ten seconds""",
)
@click.version_option(package_name="secmiddleware", prog_name="secmiddleware")
def main() -> None:
    """Mutual TLS, field encryption and key rotation for a web app that already exists."""


for command in (init, check, run, demo, keys, fields):
    main.add_command(command)
