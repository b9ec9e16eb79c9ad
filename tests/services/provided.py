"""Servers for the length of a run; `tests/conftest.py` has the fixtures of Redis and RabbitMQ."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import pytest
from services.binaries import MissingError, Say, Service, binary_of
from services.running import Server

SYSTEM_PYTHON = "/usr/bin/python3"

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


def plugged(program: Service, plugin: Service, config: pytest.Config) -> Path:
    """The binary of a server that has an interpreter of the system's for a plugin.

    Where it is not there, or that Python is of another version than ours and cannot load what is installed
    for it, the tests that need it are skipped, each with its reason.
    """
    try:
        binary_of(plugin, speaker(config))
        binary = binary_of(program, speaker(config))
    except MissingError as missing:
        pytest.skip(str(missing))
    ours = "{}.{}".format(*sys.version_info)
    asked = [SYSTEM_PYTHON, "-c", "import sys; print('{}.{}'.format(*sys.version_info))"]
    theirs = subprocess.run(asked, capture_output=True, text=True, check=True, timeout=30).stdout.strip()
    if theirs != ours:
        pytest.skip(f"{plugin.name} is for the system's Python {theirs}, and what is tested is on {ours}")
    return binary


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
