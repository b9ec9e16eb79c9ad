"""A ring in a file of its own, and the line that watches one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from encryption.rings import manager_of
from rotation import listeners
from rotation.distant import NetworkStore
from rotation.processes import until

from secmiddleware.encryption.manager import EncryptionManager, utc_now
from secmiddleware.rotation.line import RotationLine
from secmiddleware.rotation.notices import Messenger
from secmiddleware.state import StateStore

Watched = tuple[EncryptionManager, RotationLine]


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


@pytest.fixture
def far() -> Iterator[NetworkStore]:
    store = NetworkStore()
    yield store
    store.let_go.set()


@pytest.fixture
def watch() -> Iterator[Callable[..., Watched]]:
    """Makes a started manager and its running line, with the clock of the machine; stopped after the test."""
    lines = []

    def make(
        store: StateStore,
        *,
        callbacks: tuple[str, ...] = (),
        poll: timedelta = timedelta(seconds=30),
        messenger: Messenger | None = None,
        watches: tuple[Callable[[], object], ...] = (),
        **arguments: Any,
    ) -> Watched:
        manager = manager_of(store, utc_now, **arguments)
        manager.start()
        line = RotationLine(manager, poll=poll, callbacks=callbacks, messenger=messenger, watches=watches)
        lines.append(line)
        line.start()
        until(lambda: line.health()["last_turn"])
        return manager, line

    yield make
    for line in lines:
        line.stop()
