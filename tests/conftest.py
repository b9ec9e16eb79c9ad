"""What every test run says at its end: which tests were skipped, and why. Nothing is skipped in silence."""

from __future__ import annotations

import pytest


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
