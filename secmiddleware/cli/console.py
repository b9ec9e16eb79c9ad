"""What commands print: findings, and the option that names the file of settings."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

import click

from secmiddleware.errors import Finding

CONFIG_FILE: Final = "secmiddleware.toml"

config_option = click.option(
    "-c",
    "--config",
    type=click.Path(path_type=Path),
    default=CONFIG_FILE,
    show_default=True,
    metavar="FILE",
    help="The file of settings.",
)
"""`--config FILE`, the same for every command."""


def show_findings(
    findings: Sequence[Finding], *, err: bool = False, count: str = "mistake", counts: str = "mistakes"
) -> None:
    """Print each finding on a line of its own, with what to do below it, and count them."""
    for finding in findings:
        place = "" if finding.source is None else finding.source
        if finding.line is not None:
            place += f":{finding.line}"
        lead = click.style(f"{place}: ", dim=True) if place else ""
        click.echo(f"{lead}{click.style(finding.key, bold=True)}: {finding.message}", err=err)
        if finding.hint is not None:
            click.echo(f"    {click.style(finding.hint, fg='green')}", err=err)
    total = f"1 {count}" if len(findings) == 1 else f"{len(findings)} {counts}"
    click.echo(click.style(f"{total}.", fg="red"), err=err)
