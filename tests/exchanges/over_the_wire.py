"""A row over a real connection, whatever server is at its other end: what its way says must come out."""

from __future__ import annotations

from typing import Any, Protocol

import pytest

from exchanges.gunicorn_worker import until
from exchanges.outcome import Outcome, Recorder, check, check_record, check_seen
from exchanges.table import Exchange
from exchanges.wire import NoConnectionError, Way, connect, messages_of, read_response, talk
from exchanges.world import World


class Served(Protocol):
    """A server, as far as a row needs one."""

    puppet: Any
    recorder: Recorder


def run(world: World, row: Exchange, way: Way, served: Served, port: int) -> None:
    """Run the row against the server on this port, whose puppet plays it already."""
    if way.how == "dies in TLS":
        with pytest.raises(NoConnectionError):
            _outcome(world, row, port)
        assert served.recorder.records == []
        assert served.puppet.seen == []
        return
    if way.how == "gone":
        with connect(port, world.pki, row.presented) as connection:
            for message in messages_of(world, row):
                connection.sendall(message)
        if row.expect.app_saw is not None:  # by then it may still be on its way there
            until(lambda: served.puppet.seen, "the app is called")
    else:
        outcome = _outcome(world, row, port)
        if way.how == "refused by the parser":
            assert (outcome.status, served.puppet.seen, served.recorder.records) == (400, [], []), outcome
            return
        check(world, row, outcome)
    check_record(row, served.recorder.wait())
    check_seen(world, row, served.puppet.seen)


def _outcome(world: World, row: Exchange, port: int) -> Outcome:
    with connect(port, world.pki, row.presented) as connection:
        return read_response(talk(connection, messages_of(world, row)), row.request.method)
