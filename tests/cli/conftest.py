from __future__ import annotations

from pathlib import Path

import pytest

from cli.command import made


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The settings of a folder that `init` has made; nobody changes more in it than uses of its keys."""
    return made(tmp_path_factory.mktemp("starter") / "app")
