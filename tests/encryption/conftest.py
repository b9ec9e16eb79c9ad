"""A key-encryption key, a clock that stands still until it is told, and managers over one store."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from secmiddleware.encryption.kek import Kek
from secmiddleware.encryption.manager import EncryptionManager, KeyPolicy
from secmiddleware.rotation.stores import MemoryStore


class Clock:
    def __init__(self) -> None:
        self.now = datetime(2026, 6, 1, 12, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.now

    def forward(self, **parts: float) -> None:
        self.now += timedelta(**parts)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def kek() -> Kek:
    return Kek(bytes(range(200, 232)))


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore()


@pytest.fixture
def make(store: MemoryStore, kek: Kek, clock: Clock) -> Callable[..., EncryptionManager]:
    """A manager of ring `payments` in the one store, each as if in a process of its own; not started."""

    def build(**arguments: Any) -> EncryptionManager:
        policy = {name: arguments.pop(name) for name in list(arguments) if name in KeyPolicy.__slots__}
        known = {"store": store, "kek": kek, "ring": "payments", "clock": clock} | arguments
        return EncryptionManager(policy=KeyPolicy(**policy), **known)

    return build


@pytest.fixture
def manager(make: Callable[..., EncryptionManager]) -> EncryptionManager:
    started = make()
    started.start()
    return started
