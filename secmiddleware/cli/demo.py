"""`secmiddleware demo`: the stage of the tour: a temporary folder, the example app on a server of its own."""

from __future__ import annotations

import os
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Final

import click

from secmiddleware.cli.starter import Starter, make_starter
from secmiddleware.errors import SecMiddlewareError

if TYPE_CHECKING:
    from secmiddleware.cli.tour import Tour

_APP: Final = "customers_starlette"
_START_SECONDS: Final = 20.0
_STOP_SECONDS: Final = 5.0

# The shortest delay that this poll allows: the tour shows in seconds what takes days in service.
_POLL: Final = "250ms"
_ACTIVATION_DELAY: Final = "1500ms"


@click.command(
    epilog="""\b
Examples:
  secmiddleware demo
  secmiddleware demo --keep

Needs uvicorn and starlette: pip install "secmiddleware[uvicorn,starlette]"."""
)
@click.option(
    "--keep",
    is_flag=True,
    help="Leave the server running afterwards, until Ctrl-C, and print the curl lines.",
)
@click.pass_context
def demo(ctx: click.Context, keep: bool) -> None:
    """Show the main job in about ten seconds, over real TLS on this machine.

    An example app that knows nothing of this package is served, called with and without certificates, with
    fields that travel as tokens, and with a key that rotates under running calls. Exit status 0 only if every
    step came out as told.
    """
    from secmiddleware.cli.tour import Tour

    for package in ("uvicorn", "starlette"):
        if find_spec(package) is None:
            raise click.ClickException(
                f'{package} is not installed: pip install "secmiddleware[uvicorn,starlette]"'
            )
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:  # as it is under nohup
            signal.signal(number, _as_interrupt)  # so that the server is stopped and the folder removed
    with tempfile.TemporaryDirectory(prefix="secmiddleware-demo-") as folder:
        starter = make_starter(
            Path(folder) / "demo",
            service="customers",
            domain="example.org",
            names=("localhost", "127.0.0.1"),
            activation_delay=_ACTIVATION_DELAY,
            poll=_POLL,
        )
        with _served(starter) as (server, port):
            tour = Tour(starter, port)
            came_out = tour.run()
            if keep:
                _keep(tour, server)
    ctx.exit(0 if came_out else 1)


def _as_interrupt(_signal: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _app_dir() -> Path:
    """Where the example app is: beside this module in a wheel, in examples/ in a checkout."""
    here = Path(__file__).parent
    for folder in (here / "examples", here.parents[1] / "examples"):
        if (folder / f"{_APP}.py").is_file():
            return folder
    raise SecMiddlewareError("the example app is not there: this installation is incomplete")


@contextmanager
def _served(starter: Starter) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """The example app, wrapped and served by a process of its own; gives that and the port."""
    port = _free_port()
    log = starter.folder / "server.log"
    command = [sys.executable, "-m", "secmiddleware", "run", f"{_APP}:app", "--app-dir", str(_app_dir())]
    command += ["--config", str(starter.settings), "--port", str(port)]
    with log.open("wb") as output:
        server = subprocess.Popen(  # noqa: S603  (our own command, no shell)
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, env=environment()
        )
    try:
        _wait_until_it_answers(server, port, log)
        yield server, port
    finally:
        server.terminate()
        try:
            server.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()


def environment() -> dict[str, str]:
    """The environment less what would change the demo's settings."""
    return {name: value for name, value in os.environ.items() if not name.startswith("SECMIDDLEWARE")}


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _wait_until_it_answers(server: subprocess.Popen[bytes], port: int, log: Path) -> None:
    until = time.monotonic() + _START_SECONDS
    while time.monotonic() < until and server.poll() is None:
        try:
            socket.create_connection(("127.0.0.1", port), 1.0).close()
        except OSError:
            time.sleep(0.05)
        else:
            return
    raise SecMiddlewareError(f"the server did not start; it said:\n{log.read_text(errors='replace')}")


def _keep(tour: Tour, server: subprocess.Popen[bytes]) -> None:
    pki = tour.starter.pki
    url = f"https://localhost:{tour.port}"
    ca = f"--cacert {shlex.quote(str(pki / 'ca.pem'))}"
    client = f"--cert {shlex.quote(str(pki / 'client.pem'))} --key {shlex.quote(str(pki / 'client.key'))}"
    settings = shlex.quote(str(tour.starter.settings))
    ours = f"{shlex.quote(sys.executable)} -m secmiddleware"
    click.echo("\nThe server keeps running until you press Ctrl-C. Try, in another terminal:\n")
    click.echo(f"  curl {ca} {url}/whoami")
    click.echo(f"  curl {ca} {client} {url}/whoami")
    click.echo(f"  curl {ca} {client} {url}/customers")
    click.echo(f"  curl {ca} {client} {url}/debug/store")
    click.echo(f"  echo '\"078-05-1120\"' | {ours} fields seal ssn --config {settings}")
    click.echo(f"  {ours} keys rotate --config {settings}")
    try:
        server.wait()
        raise SecMiddlewareError("the server has ended by itself")
    except KeyboardInterrupt:
        click.echo("\nStopped.")
