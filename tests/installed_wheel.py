"""`make wheel`: build the wheel, install it into a clean environment, run the tests against it there.

The environment is a new one, outside of this folder: the pinned packages and the wheel, nothing editable.
Everything but the package's source is copied beside it, and the tests run there, so that no import can find
the source: a `secmiddleware` that lies anywhere else ends the run. Left out is only test_wheel.py, which
builds from the source. Options go to pytest.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
COPIED = (
    "CHANGELOG.md", "LICENSE", "Makefile", "README.md", "bench", "docs", "examples", "pyproject.toml",
    "requirements", "tests",
)  # fmt: skip

# The rooms' files lie where the environment says, and nothing of the checkout is on the path.
WHERE = """
import importlib.metadata, pathlib, sys
import secmiddleware
lies, venv, checkout = pathlib.Path(secmiddleware.__file__).resolve(), *map(pathlib.Path, sys.argv[1:])
strangers = [entry for entry in sys.path if entry and pathlib.Path(entry).resolve().is_relative_to(checkout)]
if not lies.is_relative_to(venv) or strangers:
    sys.exit(f"the tests would run against {lies}; on the path: {strangers}")
if importlib.metadata.distribution("secmiddleware").read_text("direct_url.json").find("editable") != -1:
    sys.exit("this is an editable install")
print(f"testing {lies}")
"""


def run(*command: str | Path, cwd: Path) -> None:
    """Run it, with nothing of this interpreter's surroundings; a failure ends everything with its status."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if name not in {"PYTHONPATH", "VIRTUAL_ENV", "MAKEFLAGS"}
    }
    done = subprocess.run(command, cwd=cwd, env={**kept, "PYTHONSAFEPATH": "1"}, check=False)
    if done.returncode:
        sys.exit(done.returncode)


def main(options: list[str]) -> None:
    """Build, install, test."""
    dist = ROOT / "dist"
    shutil.rmtree(dist, ignore_errors=True)
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", dist, ROOT, cwd=ROOT)
    (wheel,) = dist.glob("*.whl")

    with tempfile.TemporaryDirectory(prefix="secmiddleware-wheel-") as name:
        folder = Path(name).resolve()
        print("Installing the pinned packages and the wheel into a clean environment", flush=True)
        venv.create(folder / "venv", with_pip=True)
        python = folder / "venv" / "bin" / "python"
        pip = [python, "-m", "pip", "--disable-pip-version-check", "--no-input"]
        lock = ROOT / "requirements" / "dev.lock"
        run(*pip, "install", "--quiet", "--only-binary", ":all:", "--require-hashes", "-r", lock, cwd=folder)
        run(*pip, "install", "--quiet", "--no-index", "--no-deps", wheel, cwd=folder)
        run(*pip, "check", cwd=folder)

        work = folder / "work"
        work.mkdir()
        for entry in COPIED:
            source = ROOT / entry
            if source.is_dir():
                shutil.copytree(
                    source, work / entry, ignore=shutil.ignore_patterns("__pycache__", "test_wheel.py")
                )
            else:
                shutil.copy(source, work / entry)
        run(python, "-c", WHERE, folder / "venv", ROOT, cwd=work)
        run(folder / "venv" / "bin" / "secmiddleware", "--help", cwd=work)
        run(python, "-m", "pytest", *options, "tests", "--pyargs", "secmiddleware", cwd=work)


if __name__ == "__main__":
    main(sys.argv[1:])
