"""A ring in a file of its own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from rotation import listeners


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ring.json"


@pytest.fixture(autouse=True)
def listening() -> Iterator[None]:
    """Nothing heard yet; whoever hangs is let go at the end."""
    listeners.heard.clear()
    listeners.threads.clear()
    listeners.let_go.clear()
    yield
    listeners.let_go.set()
