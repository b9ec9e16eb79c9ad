"""`secmiddleware check`: every mistake in the settings at once, without serving or importing anything."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from secmiddleware.cli.console import config_option, show_findings
from secmiddleware.errors import ConfigError, Finding, SecMiddlewareError

if TYPE_CHECKING:
    from secmiddleware.certificates.judgement import Trust
    from secmiddleware.settings import Settings  # pydantic takes its time, and `--help` does not need it


@click.command(
    epilog="""\b
Examples:
  secmiddleware check
  secmiddleware check --deploy --config deploy/secmiddleware.toml
  SECMIDDLEWARE__MTLS__CLIENT=optional secmiddleware check --json

Exit status 1 if there is a mistake; advice is none. No code of the app is imported, nothing is changed."""
)
@config_option
@click.option("--deploy", is_flag=True, help="Also name what is wider than production should have it.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on standard output.")
@click.pass_context
def check(ctx: click.Context, config: Path, deploy: bool, as_json: bool) -> None:
    """Say what is wrong with the settings: the file, and SECMIDDLEWARE__ variables over it.

    Every mistake is named at once, with its key, its line and what to do about it; the files that the
    settings name are looked at too.
    """
    from secmiddleware.settings.loading import load_with_advice

    summary: list[str] = []
    advice: tuple[Finding, ...] = ()
    try:
        settings, advice = load_with_advice(config)
        findings = tuple(_findings(config, settings, summary))
    except ConfigError as error:
        findings = error.findings
    if not deploy:
        advice = ()
    if as_json:
        told = {"config": str(config), "ok": not findings, "findings": [one.as_dict() for one in findings]}
        if deploy:
            told["advice"] = [one.as_dict() for one in advice]
        click.echo(json.dumps(told, indent=2))
    elif findings:
        show_findings(findings)
    else:
        click.echo("\n  ".join([f"{config}: good", *summary]))
    if advice and not as_json:
        show_findings(advice, count="thing to think over", counts="things to think over")
    ctx.exit(1 if findings else 0)


def _findings(config: Path, settings: Settings, summary: list[str]) -> Iterator[Finding]:
    """What is wrong with good settings once their parts are built; what there is goes to `summary`.

    Raises ConfigError where a part finds more than one mistake.
    """
    from secmiddleware.parts import certificates_of, encryption_of

    source = str(config)
    summary.append(
        f"a caller's certificate is {settings.mtls.client}; routes of their own: {len(settings.routes)}"
    )
    try:
        certificates = certificates_of(settings.mtls)
        summary.append(f"trust anchors: {len(certificates.trust.anchors)}, profile {settings.mtls.profile}")
        if settings.mtls.crl:
            yield from _overdue(settings.mtls.crl, certificates.trust, source, summary)
        if settings.mtls.certificate is not None:
            certificates.server_context()
            summary.append(f"server certificate: {settings.mtls.certificate}")
    except SecMiddlewareError as error:
        yield Finding("mtls", str(error), source)
    summary += _fields(settings)
    if settings.keys is None:
        return
    try:
        encryption = encryption_of(settings.keys, first_block=0)
        if encryption.exists():
            encryption.start()
            status = encryption.status()
            summary.append(
                f"key ring {status['ring']}: generation {status['gen']}, keys: {len(status['keys'])}"
            )
        else:
            summary.append(f"key ring {settings.keys.ring}: made when the service first starts")
    except ConfigError as error:
        yield from error.findings
    except SecMiddlewareError as error:
        yield Finding("keys.store", str(error), source)


def _fields(settings: Settings) -> Iterator[str]:
    """How many marks each field has; those of models are not known, since no code of the app is imported."""
    from secmiddleware.settings.places import places_of

    placed = places_of(settings, import_models=False)
    for name, field in settings.fields.items():
        count = sum(len(place.marks) for place in placed.places if place.field == name)
        sources = [place.marks_from or "" for place in field.places]
        models = ", ".join(dict.fromkeys(source for source in sources if source and "#" not in source))
        more = f", and those of {models}" if models else ""
        yield f"field {name}: {field.format}, marks: {count}{more}"


def _overdue(paths: tuple[Path, ...], trust: Trust, source: str, summary: list[str]) -> Iterator[Finding]:
    """Which revocation lists are not current: the service starts with them, and heals by itself."""
    from secmiddleware.certificates.files import load_lists

    count = entries = 0
    for index, path in enumerate(paths):
        for one in load_lists(path, trust.issuers):
            count, entries = count + 1, entries + len(one.revoked)
            if not one.is_current(datetime.now(UTC)):
                message = f"{path} is not current: it is good from {one.this_update} to {one.next_update}"
                hint = "put the newer one there: until then missing_crl says what becomes of callers"
                yield Finding(f"mtls.crl[{index}]", message, source, hint=hint)
    summary.append(f"revocation lists: {count}, entries: {entries}")
