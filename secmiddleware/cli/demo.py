"""`secmiddleware demo`: the main job shown on this machine, in a temporary folder that is gone afterwards."""

from __future__ import annotations

import shlex
import signal
import sys
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Final

import click

from secmiddleware.cli.stage import Server, served
from secmiddleware.cli.starter import make_starter
from secmiddleware.errors import SecMiddlewareError

if TYPE_CHECKING:
    from secmiddleware.cli.tour import Tour

# The shortest delay that this poll allows: the tour shows in seconds what takes days in service.
_POLL: Final = "250ms"
_ACTIVATION_DELAY: Final = "1500ms"

# Spans are printed, and only those of calls whose caller asks for it: thousands are made here.
_TRACED: Final = {
    "OTEL_TRACES_EXPORTER": "console",
    "OTEL_METRICS_EXPORTER": "none",
    "OTEL_TRACES_SAMPLER": "parentbased_always_off",
}

_LOOK_SECONDS: Final = 0.1

_INSTALL: Final = 'pip install "secmiddleware[all]"'


@click.command(
    epilog="""\b
Examples:
  secmiddleware demo
  secmiddleware demo --wsgi
  secmiddleware demo --broker redis://127.0.0.1:6379/0
  secmiddleware demo --keep

Needs the servers and frameworks that it shows: pip install "secmiddleware[all]"."""
)
@click.option("--wsgi", is_flag=True, help="Show it with Flask on gunicorn, not with Starlette on uvicorn.")
@click.option(
    "--broker",
    metavar="URL",
    help="Announce rotations over this broker, as in amqp://… or redis://…, beside watching the file.",
)
@click.option(
    "--keep",
    is_flag=True,
    help="Leave the server running afterwards, until Ctrl-C, and print the curl lines.",
)
@click.pass_context
def demo(ctx: click.Context, wsgi: bool, broker: str | None, keep: bool) -> None:
    """Show the main job in some fifteen seconds, over real TLS on this machine.

    An example app that knows nothing of this package is served, called with and without certificates, with
    fields that travel as tokens, and with keys that rotate under running calls. Exit status 0 only if every
    step came out as told.
    """
    from secmiddleware.cli.tour import Tour

    app = "customers_flask" if wsgi else "customers_starlette"
    _need("flask", "gunicorn") if wsgi else _need("starlette", "uvicorn")
    _need("opentelemetry.sdk", *(() if broker is None else ("kombu",)))
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:  # as it is under nohup
            signal.signal(number, _as_interrupt)  # so that the servers are stopped and the folder removed
    with tempfile.TemporaryDirectory(prefix="secmiddleware-demo-") as folder:
        starter = make_starter(
            Path(folder) / "demo",
            service="customers",
            domain="example.org",
            names=("localhost", "127.0.0.1"),
            activation_delay=_ACTIVATION_DELAY,
            poll=_POLL,
            broker=broker,
        )
        interface = ("--interface", "wsgi" if wsgi else "asgi")
        with served(starter, app, interface, _TRACED, servers=2) as (server, other):
            tour = Tour(starter, app, server, other, broker=broker)
            came_out = tour.run()
            if keep:
                _keep(tour, server)
    ctx.exit(0 if came_out else 1)


def _need(*packages: str) -> None:
    for package in packages:
        if find_spec(package.partition(".")[0]) is None or find_spec(package) is None:
            raise click.ClickException(f"{package} is not installed: {_INSTALL}")


def _as_interrupt(_signal: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _keep(tour: Tour, server: Server) -> None:
    pki = tour.starter.pki
    url = f"https://localhost:{server.port}"
    ca = f"--cacert {shlex.quote(str(pki / 'ca.pem'))}"
    client = f"--cert {shlex.quote(str(pki / 'client.pem'))} --key {shlex.quote(str(pki / 'client.key'))}"
    settings = shlex.quote(str(tour.starter.settings))
    ours = f"{shlex.quote(sys.executable)} -m secmiddleware"
    try:
        click.echo("\nThe server keeps running until you press Ctrl-C. Try, in another terminal:\n")
        click.echo(f"  curl {ca} {url}/whoami")
        click.echo(f"  curl {ca} {client} {url}/whoami")
        click.echo(f"  curl {ca} {client} {url}/customers")
        click.echo(f"  curl {ca} {client} {url}/debug/store")
        click.echo(f"  echo '\"078-05-1120\"' | {ours} fields seal ssn --config {settings}")
        click.echo(f"  {ours} keys rotate --config {settings}")
        # Not `wait()`: a signal that comes just before it blocks would not be heard until the server ends.
        while server.process.poll() is None:
            time.sleep(_LOOK_SECONDS)
        raise SecMiddlewareError("the server has ended by itself")
    except KeyboardInterrupt:
        click.echo("\nStopped.")
