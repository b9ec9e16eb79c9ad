"""The bench measures what it says: every row runs, and both sides of it do the same work."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def _bench(*options: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "bench", *options]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)


def test_every_group_has_rows_with_a_peer_measured_beside_them() -> None:
    done = _bench("--rounds", "2", "--json")
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    memory = rows.pop()
    assert memory["group"] == "memory"
    assert 1 < memory["bodies"] < 1.5  # what it gives out, and little beside it
    groups = {"certificates", "tokens", "json", "rewriting", "requests", "passing", "telemetry"}
    assert {row["group"] for row in rows} == groups
    for row in rows:
        assert row["ours_us"] > 0
        assert row["ratio"] == pytest.approx(row["ours_us"] / row["peer_us"], rel=0.05)


def test_words_choose_rows_and_the_table_names_both_sides() -> None:
    done = _bench("--rounds", "2", "seal")
    assert done.returncode == 0, done.stderr
    assert "Fernet" in done.stdout
    assert "msgspec" not in done.stdout


def test_fewer_than_two_rounds_are_refused() -> None:
    done = _bench("--rounds", "1")
    assert done.returncode == 2
    assert "--rounds must be 2 or more" in done.stderr
