from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from servers.pki import Pki

from secmiddleware.files import make_private_folder, write_secret
from secmiddleware.security import SecurityManager


@pytest.fixture(scope="session")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Pki:
    return Pki(tmp_path_factory.mktemp("pki"))


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """A section [keys] for a ring of this module's own."""
    folder = tmp_path_factory.mktemp("keys")
    make_private_folder(folder / "state")
    write_secret(folder / "kek", os.urandom(32))
    return {"ring": "asgi", "store": f"file:{folder}/state/ring.json", "kek": f"file:{folder}/kek"}


@pytest.fixture(scope="module")
def started() -> Iterator[Callable[[dict[str, Any]], SecurityManager]]:
    """Starts the manager of some settings, and stops it at the end."""
    managers: list[SecurityManager] = []

    def start(settings: dict[str, Any]) -> SecurityManager:
        managers.append(SecurityManager.from_config(settings, {}))
        managers[-1].start()
        return managers[-1]

    yield start
    for manager in managers:
        manager.stop()
