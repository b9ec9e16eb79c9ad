"""`secmiddleware init`: makes a starter in a folder, and says what to do next."""

from __future__ import annotations

import shlex
from pathlib import Path

import click

from secmiddleware.cli.console import CONFIG_FILE
from secmiddleware.cli.starter import is_address, is_host, make_starter


@click.command(
    epilog="""\b
Examples:
  secmiddleware init .
  secmiddleware init deploy --service payments --trust-domain example.org --name pay.internal --name 10.0.0.7

For development: whoever has pki/ca.key can be everybody."""
)
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
@click.option(
    "--service",
    default="app",
    show_default=True,
    metavar="NAME",
    help="The service's name, and its key ring's.",
)
@click.option(
    "--trust-domain",
    "domain",
    metavar="DOMAIN",
    default="example.org",
    show_default=True,
    help="Of the SPIFFE ids in the certificates.",
)
@click.option(
    "--name",
    "names",
    multiple=True,
    metavar="HOST",
    default=("localhost", "127.0.0.1", "::1"),
    show_default=True,
    help="A DNS name or IP address of the server; may be given several times.",
)
def init(folder: Path, service: str, domain: str, names: tuple[str, ...]) -> None:
    """Make in DIR what is needed to serve on this machine: certificates, keys and secmiddleware.toml.

    A development CA, a server's and a client's certificate with SPIFFE ids, a key-encryption key and a key
    ring. Nothing that is there is ever written over.
    """
    _check_names(service, domain, names)
    starter = make_starter(folder, service=service, domain=domain, names=names)
    click.echo(f"Made in {folder}:")
    for what, is_what in (
        (CONFIG_FILE, "the settings"),
        ("pki/", f"a development CA, a server's certificate, and a client's for {starter.client_id}"),
        ("state/", "the key-encryption key and the key ring"),
    ):
        click.echo(f"  {what:<20} {is_what}")
    settings, pki = shlex.quote(str(starter.settings)), starter.pki
    certificates = " ".join(
        f"{option} {shlex.quote(str(pki / name))}"
        for option, name in (("--cacert", "ca.pem"), ("--cert", "client.pem"), ("--key", "client.key"))
    )
    click.echo("\nNext:")
    click.echo(f"  secmiddleware check --config {settings}")
    click.echo(f"  secmiddleware run MODULE:APP --config {settings}")
    click.echo(f"  curl {certificates} https://{_host_of(names)}:8443/")


def _host_of(names: tuple[str, ...]) -> str:
    """A host that the certificate is good for, as it stands in a URL."""
    name = names[0].replace("*", "www")
    return f"[{name}]" if ":" in name else name


def _check_names(service: str, domain: str, names: tuple[str, ...]) -> None:
    from pydantic import TypeAdapter

    from secmiddleware.certificates.spiffe import check_trust_domain
    from secmiddleware.settings.values import Identifier

    try:
        TypeAdapter(Identifier).validate_python(service)
    except ValueError:
        raise click.BadParameter(
            "must be up to 64 letters, digits, - and single _, beginning with a letter",
            param_hint="--service",
        ) from None
    try:
        check_trust_domain(domain)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--trust-domain") from None
    for name in names:
        if not is_address(name) and not is_host(name):
            raise click.BadParameter(f"{name!r} is no DNS name and no IP address", param_hint="--name")
