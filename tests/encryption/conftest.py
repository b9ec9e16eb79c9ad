"""One store, one clock, and managers over them."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
from encryption.rings import Clock, FailingStore, manager_of

from secmiddleware.encryption.manager import EncryptionManager


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store(clock: Clock) -> FailingStore:
    return FailingStore(clock)


@pytest.fixture
def make(store: FailingStore, clock: Clock) -> Callable[..., EncryptionManager]:
    """A manager of ring `payments` in the one store, each as if in a process of its own; not started."""
    return partial(manager_of, store, clock)


@pytest.fixture
def manager(make: Callable[..., EncryptionManager]) -> EncryptionManager:
    started = make()
    started.start()
    return started
