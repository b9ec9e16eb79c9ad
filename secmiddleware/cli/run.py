"""`secmiddleware run`: an app that knows nothing of this package, wrapped and served over TLS."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Literal

import click

from secmiddleware.cli.console import config_option


@click.command(
    epilog="""\b
Examples:
  secmiddleware run shop.main:app
  secmiddleware run shop.main:app --config deploy/secmiddleware.toml --host 0.0.0.0 --workers 4
  secmiddleware run shop.main:create_app --factory

The app is served by uvicorn: pip install "secmiddleware[uvicorn]"."""
)
@click.argument("target", metavar="MODULE:APP")
@config_option
@click.option("--host", default="127.0.0.1", show_default=True, help="The address to listen on.")
@click.option(
    "--port", default=8443, show_default=True, type=click.IntRange(1, 65535), help="The port to listen on."
)
@click.option(
    "--workers", default=1, show_default=True, type=click.IntRange(1, 1024), help="How many processes serve."
)
@click.option("--factory", is_flag=True, help="MODULE:APP is called, and gives the app.")
@click.option(
    "--app-dir",
    default=".",
    show_default=True,
    type=click.Path(exists=True, file_okay=False),
    help="The folder from which MODULE is imported.",
)
@click.option(
    "--http",
    default="auto",
    show_default=True,
    type=click.Choice(["auto", "h11", "httptools"]),
    help="The implementation of HTTP.",
)
@click.option(
    "--loop",
    default="auto",
    show_default=True,
    type=click.Choice(["auto", "asyncio", "uvloop"]),
    help="The event loop.",
)
@click.option(
    "--log-level",
    default="info",
    show_default=True,
    type=click.Choice(["critical", "error", "warning", "info", "debug"]),
    help="What uvicorn logs.",
)
@click.pass_context
def run(
    ctx: click.Context,
    target: str,
    config: Path,
    host: str,
    port: int,
    workers: int,
    factory: bool,
    app_dir: str,
    http: Literal["auto", "h11", "httptools"],
    loop: Literal["auto", "asyncio", "uvloop"],
    log_level: str,
) -> None:
    """Serve the ASGI app MODULE:APP over mutual TLS, wrapped as the settings say.

    Who is calling stands in the app's scope under "secmiddleware.identity", and marked fields are opened and
    sealed on their way. What is refused is told to the caller as a problem+json, and to the log
    "secmiddleware.audit" as a line of JSON.
    """
    if find_spec("uvicorn") is None:
        raise click.ClickException('uvicorn is not installed: pip install "secmiddleware[uvicorn]"')
    from secmiddleware.servers.target import TargetError
    from secmiddleware.servers.uvicorn import Serving, serve

    serving = Serving(
        target,
        str(config.absolute()),
        host=host,
        port=port,
        workers=workers,
        factory=factory,
        app_dir=app_dir,
        http=http,
        loop=loop,
        log_level=log_level,
    )
    try:
        serve(serving)
    except TargetError as error:
        raise click.BadParameter(str(error), ctx, param_hint="MODULE:APP") from None
