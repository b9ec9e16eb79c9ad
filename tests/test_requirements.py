"""The locks: every file pinned by its hash, no word of where it came from, pyproject.toml covered."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
LOCKS = ("demo", "dev")
PYTHONS = ("3.11", "3.12", "3.13", "3.14")


class Pin(NamedTuple):
    requirement: Requirement
    hashes: tuple[str, ...]

    @property
    def name(self) -> str:
        return canonicalize_name(self.requirement.name)

    @property
    def version(self) -> str:
        (specifier,) = self.requirement.specifier
        assert specifier.operator == "=="
        return specifier.version

    def applies_to(self, python: str, platform: str = "linux") -> bool:
        marker = self.requirement.marker
        environment = {
            "python_version": python,
            "python_full_version": f"{python}.1",
            "sys_platform": platform,
        }
        return marker is None or marker.evaluate(environment)


def _pins(text: str) -> Iterator[Pin]:
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    for logical in "\n".join(lines).replace("\\\n", " ").splitlines():
        requirement, *hashes = re.split(r"\s+--hash=", logical.strip())
        yield Pin(Requirement(requirement), tuple(hashes))


def _lock(name: str) -> list[Pin]:
    return list(_pins((ROOT / "requirements" / f"{name}.lock").read_text()))


# What `secmiddleware demo` can show; the last line of requirements/lock.sh says the same.
DEMO_EXTRAS = ("uvicorn", "starlette", "gunicorn", "flask", "otel", "kombu", "redis")


def _declared() -> dict[str, list[Requirement]]:
    """What pyproject.toml asks for: of the demo, and of everything."""
    project: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())

    def group(name: str) -> list[str]:
        entries = project["dependency-groups"][name]
        return [
            e
            for entry in entries
            for e in ([entry] if isinstance(entry, str) else group(entry["include-group"]))
        ]

    core, extras = project["project"]["dependencies"], project["project"]["optional-dependencies"]
    everything = [
        one for entries in extras.values() for one in entries if not one.startswith("secmiddleware")
    ]
    shown = [one for name in DEMO_EXTRAS for one in extras[name]]
    return {
        "demo": [Requirement(r) for r in (*core, *shown, *group("build"))],
        "dev": [Requirement(r) for r in (*core, *everything, *group("dev"))],
    }


@pytest.mark.parametrize("lock", LOCKS)
def test_every_requirement_is_one_version_with_hashes(lock: str) -> None:
    pins = _lock(lock)
    assert len(pins) > 10
    for pin in pins:
        assert pin.version
        assert pin.requirement.url is None
        assert pin.hashes
        assert all(re.fullmatch(r"sha256:[0-9a-f]{64}", digest) for digest in pin.hashes)


def _says_where(text: str) -> list[str]:
    """Lines that name an address, a folder or an index: a lock is the same wherever it was made."""
    pattern = (
        r"://|file:|(^|\s)(-i|-f|--(extra-)?index-url|--find-links|--trusted-host)\b|(^|\s|=)/(?!dev/null)\w"
    )
    return [line for line in text.splitlines() if re.search(pattern, line)]


@pytest.mark.parametrize("lock", LOCKS)
def test_no_lock_says_where_packages_come_from(lock: str) -> None:
    assert _says_where((ROOT / "requirements" / f"{lock}.lock").read_text()) == []


@pytest.mark.parametrize(
    "line",
    [
        "--index-url https://index.example/simple",
        "--find-links /opt/wheels",
        "-f wheels",
        "click @ file:///opt/click.whl",
        "#    uv pip compile --output-file=/home/ada/dev.lock",
    ],
)
def test_a_line_that_says_where_is_found(line: str) -> None:
    assert _says_where(f"click==8.1\n{line}\n") == [line]


@pytest.mark.parametrize("lock", LOCKS)
@pytest.mark.parametrize("python", PYTHONS)
def test_the_lock_answers_everything_that_pyproject_asks_for(lock: str, python: str) -> None:
    pins: dict[str, list[str]] = {}
    for pin in _lock(lock):
        if pin.applies_to(python):
            pins.setdefault(pin.name, []).append(pin.version)
    assert all(len(versions) == 1 for versions in pins.values())
    for asked in _declared()[lock]:
        if not Pin(asked, ()).applies_to(python):
            continue
        assert asked.specifier.contains(pins[canonicalize_name(asked.name)][0]), f"{asked}: make lock"


def test_jsonpath_has_a_version_for_pythons_before_and_after_3_12() -> None:
    by_python = {
        python: next(
            p.version for p in _lock("demo") if p.name == "jsonpath-rfc9535" and p.applies_to(python)
        )
        for python in PYTHONS
    }
    assert by_python["3.11"] < by_python["3.12"] == by_python["3.13"] == by_python["3.14"]


def test_what_the_demo_pins_the_tests_pin_too() -> None:
    """So that `make test` after `make demo` only adds."""
    for python in PYTHONS:  # the same version may stand there under a wider marker
        demo, dev = (
            {(pin.name, pin.version) for pin in _lock(name) if pin.applies_to(python)} for name in LOCKS
        )
        assert demo < dev
