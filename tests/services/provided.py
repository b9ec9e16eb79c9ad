"""Redis and RabbitMQ for the length of a run; `tests/conftest.py` has the fixtures."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeVar

import pytest
from services.binaries import MissingError, Say, Service, binary_of
from services.running import Server

Kind = TypeVar("Kind", bound=Server)


@contextmanager
def serving(kind: type[Kind], service: Service, config: pytest.Config) -> Iterator[Kind]:
    """A server of our own. Where there is no binary of it, the tests that need it fail with one line."""
    try:
        binary = binary_of(service, speaker(config))
    except MissingError as missing:
        pytest.fail(str(missing), pytrace=False)
    server = kind(binary)
    try:
        yield server.start()
    finally:
        server.end()


def speaker(config: pytest.Config) -> Say:
    """Says a line on the terminal, also while pytest keeps to itself what tests print."""
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    capture = config.pluginmanager.get_plugin("capturemanager")

    def say(line: str) -> None:
        if reporter is None:
            return
        if capture is None:
            reporter.write_line(line)
            return
        with capture.global_and_fixture_disabled():
            reporter.ensure_newline()
            reporter.write_line(line)

    return say
