"""The end of a test run names what it did not run."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path


def _run(folder: Path, source: str) -> str:
    shutil.copy(Path(__file__).with_name("conftest.py"), folder)
    (folder / "test_it.py").write_text(source)
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-p",
        "no:cacheprovider",
        "--rootdir",
        str(folder),
        str(folder),
    ]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True).stdout


def test_a_skipped_test_is_named_with_its_reason(tmp_path: Path) -> None:
    output = _run(
        tmp_path,
        "import pytest\n"
        "@pytest.mark.skip(reason='no moon tonight')\n"
        "def test_tide(): pass\n"
        "def test_sun(): pytest.skip('clouds')\n"
        "def test_rain(): pass\n",
    )
    assert "2 skipped" in output
    assert "SKIPPED test_it.py::test_tide: no moon tonight" in output
    assert "SKIPPED test_it.py::test_sun: clouds" in output


def test_a_module_that_is_skipped_whole_is_named_too(tmp_path: Path) -> None:
    (tmp_path / "test_other.py").write_text("def test_other(): pass\n")
    output = _run(tmp_path, "import pytest\npytest.skip('nothing here', allow_module_level=True)\n")
    assert "SKIPPED test_it.py: nothing here" in output


def test_a_run_without_skips_says_so(tmp_path: Path) -> None:
    assert "No test was skipped." in _run(tmp_path, "def test_rain(): pass\n")
