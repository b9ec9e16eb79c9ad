"""What users get: a wheel, built from the source distribution, that holds the packages and nothing else."""

from __future__ import annotations

import email
import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the source distribution, and the wheel made of it."""
    folder = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.fixture(scope="module")
def wheel(built: Path) -> Path:
    (wheel,) = built.glob("*.whl")
    return wheel


def test_the_wheel_holds_the_package_and_its_adapters_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        packed = {name for name in archive.namelist() if ".dist-info/" not in name}
    here = {
        path.relative_to(folder).as_posix()
        for folder, top in ((ROOT, "secmiddleware"), (ROOT / "integrations", "."))
        for path in (folder / top).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    shown = {f"secmiddleware/cli/examples/customers_{name}.py" for name in ("starlette", "flask")}
    assert packed == here | shown  # the demo's apps
    for package in {name.split("/")[0] for name in packed}:
        assert f"{package}/py.typed" in packed
    assert {"secmiddleware", "secmiddleware_starlette"} <= {name.split("/")[0] for name in packed}


def test_its_metadata_names_licence_python_command_and_extras(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        (info,) = {name.split("/")[0] for name in archive.namelist() if ".dist-info/" in name}
        metadata = email.message_from_bytes(archive.read(f"{info}/METADATA"))
        assert archive.read(f"{info}/licenses/LICENSE") == (ROOT / "LICENSE").read_bytes()
        assert "secmiddleware = secmiddleware.cli:main" in archive.read(f"{info}/entry_points.txt").decode()
    assert metadata["License-Expression"] == "Apache-2.0"
    assert metadata["Requires-Python"] == ">=3.11"
    assert {"all", "starlette", "uvicorn"} <= set(metadata.get_all("Provides-Extra", []))
    assert metadata.get_payload(decode=True) == (ROOT / "README.md").read_bytes()


def test_the_source_distribution_holds_what_its_tests_need(built: Path) -> None:
    (sdist,) = built.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        packed = {name.partition("/")[2] for name in archive.getnames()}
    wanted = {
        "Makefile",
        "CHANGELOG.md",
        "requirements/dev.lock",
        "examples/customers_starlette.py",
        "tests/conftest.py",
    }
    assert wanted <= packed
    assert not [name for name in packed if name.startswith((".venv", "dist/", ".git/"))]
    assert not [name for name in packed if name.endswith((".key", ".pyc"))]


def test_the_installed_wheel_runs_far_from_its_source(wheel: Path, tmp_path: Path) -> None:
    target, elsewhere = tmp_path / "site", tmp_path / "elsewhere"
    elsewhere.mkdir()
    pip = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--quiet",
        "--no-index",
        "--no-deps",
        "--target",
        str(target),
    ]
    subprocess.run([*pip, str(wheel)], check=True)
    environment = {**os.environ, "PYTHONPATH": str(target), "PYTHONSAFEPATH": "1"}

    def output_of(*command: str) -> str:
        return subprocess.run(
            command, cwd=elsewhere, env=environment, capture_output=True, text=True, check=True
        ).stdout

    where = output_of(sys.executable, "-c", "import secmiddleware.cli; print(secmiddleware.__file__)")
    assert Path(where.strip()) == target / "secmiddleware" / "__init__.py"
    where = output_of(sys.executable, "-c", "import secmiddleware_starlette as it; print(it.__file__)")
    assert Path(where.strip()) == target / "secmiddleware_starlette" / "__init__.py"
    assert "Usage: secmiddleware" in output_of(str(target / "bin" / "secmiddleware"), "--help")
