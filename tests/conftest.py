"""What every test run says at its end (which tests were skipped, and why: nothing is skipped in silence), and
the servers that some tests need: each is started when the first of them asks, and ends with the run.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from services.rabbitmq import RabbitMqServer
    from services.redis_server import RedisServer


def _reason(report: pytest.TestReport | pytest.CollectReport) -> str:
    longrepr = report.longrepr
    return str(longrepr[2] if isinstance(longrepr, tuple) else longrepr).removeprefix("Skipped: ")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """List the skipped tests by name, or say that there are none."""
    skipped = terminalreporter.stats.get("skipped", [])
    if not skipped:
        terminalreporter.write_line("No test was skipped.")
        return
    terminalreporter.section(f"{len(skipped)} skipped", yellow=True)
    for report in skipped:
        terminalreporter.write_line(f"SKIPPED {report.nodeid}: {_reason(report)}")


def pytest_configure() -> None:
    """Hear Ctrl-C, and let what the tests start hear it: a shell has its background jobs ignore it."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def redis_server(pytestconfig: pytest.Config) -> Iterator[RedisServer]:
    """A Redis of the tests' own, for those that do to it what nobody would like done to theirs."""
    from services.provided import serving
    from services.redis_server import REDIS, RedisServer

    with serving(RedisServer, REDIS, pytestconfig) as server:
        yield server


@pytest.fixture(scope="session")
def rabbitmq_server(pytestconfig: pytest.Config) -> Iterator[RabbitMqServer]:
    """A RabbitMQ of the tests' own, likewise."""
    from services.provided import serving
    from services.rabbitmq import RABBITMQ, RabbitMqServer

    with serving(RabbitMqServer, RABBITMQ, pytestconfig) as server:
        yield server


@pytest.fixture(scope="session")
def redis_url(request: pytest.FixtureRequest) -> str:
    """The URL of a Redis that serves: REDIS_URL, or one of the tests' own."""
    return os.environ.get("REDIS_URL") or request.getfixturevalue("redis_server").url


@pytest.fixture(scope="session")
def amqp_url(request: pytest.FixtureRequest) -> str:
    """The URL of a RabbitMQ that serves: AMQP_URL, or one of the tests' own."""
    return os.environ.get("AMQP_URL") or request.getfixturevalue("rabbitmq_server").url
