"""`secmiddleware run`: an app that knows nothing of this package, wrapped and served over TLS."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Literal

import click

from secmiddleware.cli.console import config_option

_OTHER = {"asgi": "wsgi", "wsgi": "asgi"}


@click.command(
    epilog="""\b
Examples:
  secmiddleware run shop.main:app
  secmiddleware run shop.main:app --config deploy/secmiddleware.toml --host 0.0.0.0 --workers 4
  secmiddleware run shop.main:create_app --factory

An ASGI app is served by uvicorn: pip install "secmiddleware[uvicorn]".
A WSGI app is served by gunicorn: pip install "secmiddleware[gunicorn]"."""
)
@click.argument("target", metavar="MODULE:APP")
@config_option
@click.option("--host", default="127.0.0.1", show_default=True, help="The address to listen on.")
@click.option(
    "--port", default=8443, show_default=True, type=click.IntRange(1, 65535), help="The port to listen on."
)
@click.option(
    "--uds",
    default=None,
    type=click.Path(),
    help="A unix socket to listen on, in place of host and port: behind a proxy.",
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
    "--interface",
    default="auto",
    show_default=True,
    type=click.Choice(["auto", "asgi", "wsgi"]),
    help="What the app speaks; auto has a process of its own import the app, to see.",
)
@click.option(
    "--http",
    default="auto",
    show_default=True,
    type=click.Choice(["auto", "h11", "httptools", "zttp"]),
    help="ASGI: the implementation of HTTP.",
)
@click.option(
    "--loop",
    default="auto",
    show_default=True,
    type=click.Choice(["auto", "asyncio", "uvloop"]),
    help="ASGI: the event loop.",
)
@click.option(
    "--threads",
    default=None,
    show_default="8",
    type=click.IntRange(1, 1024),
    help="WSGI: how many requests a process serves at once.",
)
@click.option("--preload", is_flag=True, help="WSGI: import the app once, before the processes are forked.")
@click.option(
    "--log-level",
    default="info",
    show_default=True,
    type=click.Choice(["critical", "error", "warning", "info", "debug"]),
    help="What the server logs.",
)
@click.pass_context
def run(
    ctx: click.Context,
    target: str,
    config: Path,
    host: str,
    port: int,
    uds: str | None,
    workers: int,
    factory: bool,
    app_dir: str,
    interface: Literal["auto", "asgi", "wsgi"],
    http: Literal["auto", "h11", "httptools", "zttp"],
    loop: Literal["auto", "asyncio", "uvloop"],
    threads: int | None,
    preload: bool,
    log_level: str,
) -> None:
    """Serve the ASGI or WSGI app MODULE:APP over mutual TLS, wrapped as the settings say.

    Where a proxy ends TLS (`[mtls] source`) and there is no `certificate`, it serves the proxy without TLS.

    Who is calling stands in the app's scope or environ under "secmiddleware.identity", and marked fields are
    opened and sealed on their way. What is refused is told to the caller as a problem+json, and to the log
    "secmiddleware.audit" as a line of JSON.
    """
    from secmiddleware.servers.readiness import check_serveable
    from secmiddleware.servers.target import TargetError, probe
    from secmiddleware.settings import load

    check_serveable(load(config.absolute()), workers)  # its mistakes come before anything of the app's
    try:
        spoken: Literal["asgi", "wsgi"]
        if (interface == "asgi" and workers == 1) or (interface == "wsgi" and preload):
            spoken = interface  # this process imports the app soon, and sees then
        else:
            spoken = probe(target, factory=factory, interface=interface, app_dir=app_dir)
        if spoken == "asgi":
            _refuse(ctx, spoken, {"--threads": threads is not None, "--preload": preload})
            _need("uvicorn")
            from secmiddleware.servers import uvicorn

            uvicorn.serve(
                uvicorn.Serving(
                    target,
                    str(config.absolute()),
                    host=host,
                    port=port,
                    uds=uds,
                    workers=workers,
                    factory=factory,
                    app_dir=app_dir,
                    http=http,
                    loop=loop,
                    log_level=log_level,
                )
            )
        else:
            _refuse(ctx, spoken, {"--http": http != "auto", "--loop": loop != "auto"})
            _need("gunicorn")
            from secmiddleware.servers import gunicorn

            gunicorn.serve(
                gunicorn.Serving(
                    target,
                    str(config.absolute()),
                    host=host,
                    port=port,
                    uds=uds,
                    workers=workers,
                    threads=threads or gunicorn.DEFAULT_THREADS,
                    preload=preload,
                    factory=factory,
                    app_dir=app_dir,
                    log_level=log_level,
                )
            )
    except TargetError as error:
        raise click.BadParameter(str(error), ctx, param_hint="MODULE:APP") from None


def _refuse(ctx: click.Context, spoken: str, given: dict[str, bool]) -> None:
    """End where an option is given that goes with the other interface."""
    for option, is_given in given.items():
        if is_given:
            message = f"is for {_OTHER[spoken].upper()} apps, and this one speaks {spoken.upper()}"
            raise click.BadParameter(message, ctx, param_hint=option)


def _need(server: str) -> None:
    """End with what to install where the server is not there."""
    if find_spec(server) is None:
        raise click.ClickException(f'{server} is not installed: pip install "secmiddleware[{server}]"')
