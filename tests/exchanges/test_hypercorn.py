"""The rows over TLS on loopback, through hypercorn: what uvicorn's driver does, with another server."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Final

import pytest
from servers.in_thread import hypercorn_serving

from exchanges import over_the_wire
from exchanges.outcome import Recorder
from exchanges.puppet import Puppet
from exchanges.table import Exchange, rows
from exchanges.test_uvicorn import way_of as way_of_uvicorn
from exchanges.wire import Way
from exchanges.world import World
from secmiddleware.asgi import SecMiddleware
from secmiddleware.servers.hypercorn import options


def way_of(row: Exchange) -> Way:
    """The way of a row: as under uvicorn with h11, which hypercorn reads HTTP/1.1 with."""
    if reason := row.elsewhere.get("hypercorn"):
        return Way("not here", reason)
    if row.request.method != row.request.method.upper():
        return Way("not here", "hypercorn makes every method upper case, for the rule and the app alike")
    return way_of_uvicorn(row, "h11")


CASES: Final = [pytest.param(row, id=row.name) for row in rows() if way_of(row).how != "not here"]


class Served:
    """hypercorn in threads of this process, one for each config and prefix that a row asks for."""

    def __init__(self, world: World, stack: ExitStack) -> None:
        self.world = world
        self.puppet = Puppet()
        self.recorder = Recorder()
        self._stack = stack
        self._ports: dict[tuple[str, str], int] = {}

    def port(self, config: str, root_path: str) -> int:
        """The port of the server for these, started where none runs yet."""
        key = config, root_path
        if key not in self._ports:
            shell = SecMiddleware(self.puppet, config=self.world.manager(config), observer=self.recorder)
            chosen = {**options(self.world.settings(config)), "root_path": root_path}
            self._ports[key] = self._stack.enter_context(hypercorn_serving(shell, chosen))
        return self._ports[key]


@pytest.fixture(scope="module")
def served(world: World) -> Iterator[Served]:
    for name, minted in world.people.minted.items():
        if not (world.pki / f"{name}.pem").exists():
            minted.write(world.pki, name)
    with ExitStack() as stack:
        yield Served(world, stack)


@pytest.mark.parametrize("row", CASES)
def test_a_row_comes_out_as_expected(
    world: World, served: Served, caplog: pytest.LogCaptureFixture, row: Exchange
) -> None:
    caplog.set_level(logging.CRITICAL, "hypercorn.error")  # apps that raise are meant to
    served.puppet.play(world, row)
    served.recorder.records.clear()
    port = served.port(row.config, row.request.root_path)
    over_the_wire.run(world, row, way_of(row), served, port)


def test_what_is_not_run_here_has_a_reason_and_is_little() -> None:
    ways = [way_of(row) for row in rows()]
    assert all(way.reason for way in ways if way.how != "through")
    counts = Counter(way.how for way in ways)
    assert counts["through"] > 0.8 * len(ways), counts
    assert counts["not here"] < 0.06 * len(ways), counts
