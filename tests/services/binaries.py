"""Where a server's binary is; the system's package manager installs one that is missing, if that may be."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

Say = Callable[[str], None]
"""Says a line on the terminal."""

POLICY = Path("/usr/sbin/policy-rc.d")
"""Debian asks it before a package may start a service; 101 is no (invoke-rc.d(8), deb-systemd-invoke(1))."""
_SAVED = POLICY.with_name("policy-rc.d.before-tests")
_NO = b"#!/bin/sh\n# Made by the tests of secmiddleware, for as long as they install a server.\nexit 101\n"
_INSTALL_SECONDS = 480.0


class Service(NamedTuple):
    """A server as packages have it."""

    name: str
    package: str
    """Debian's."""
    places: tuple[str, ...]
    """Paths, or names to look for on PATH; the first that is there is taken."""
    variable: str = ""
    """Names a running one that is used instead, if there is such a thing."""

    @property
    def instead(self) -> str:
        """What can be done if it cannot be installed."""
        return f", or set {self.variable} to one that runs" if self.variable else ""


class MissingError(Exception):
    """There is no such server, and it may not be installed; says in one line what to type."""


def binary_of(service: Service, say: Say) -> Path:
    """The path of a server's binary. Raises MissingError where it is not there and cannot be made to be."""
    found = _find(service)
    if found is None and _may_install():
        say(f"installing {service.package} with apt-get; its own service is not started")
        _install(service)
        found = _find(service)
    if found is None:
        raise MissingError(
            f"{service.name} is missing: type `sudo apt-get install {service.package}` (or what installs it "
            f"on this system){service.instead}"
        )
    return found


def _find(service: Service) -> Path | None:
    for place in service.places:
        if place.startswith("/") and Path(place).is_file():
            return Path(place)  # a plugin need not be executable
        found = shutil.which(
            place, path=f"{os.environ.get('PATH', os.defpath)}:/usr/local/sbin:/usr/sbin:/sbin"
        )
        if found is not None:
            return Path(found)
    return None


def _may_install() -> bool:
    return os.geteuid() == 0 and shutil.which("apt-get") is not None and Path("/etc/debian_version").exists()


def _install(service: Service) -> None:
    # A machine that was just made has no lists of packages, or old ones: tried with what is there first.
    install = ["apt-get", "install", "--yes", "--quiet", "--no-install-recommends", service.package]
    environ = os.environ | {"DEBIAN_FRONTEND": "noninteractive", "LC_ALL": "C.UTF-8"}
    with _no_services():
        for command in (install, ["apt-get", "update", "--quiet"], install):
            done = subprocess.run(
                command,
                env=environ,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                timeout=_INSTALL_SECONDS,
                check=False,
            )
            if command is install and done.returncode == 0:
                return
    last = next((line for line in reversed(done.stdout.splitlines()) if line.strip()), "it said nothing")
    raise MissingError(
        f"{service.name} is missing, and `apt-get install {service.package}` failed: {last}{service.instead}"
    )


@contextmanager
def _no_services() -> Iterator[None]:
    """While this lasts, no package starts a service; afterwards the system's policy is what it was."""
    if _SAVED.exists():
        # A run before this one was killed in here.
        _SAVED.replace(POLICY)
    if POLICY.exists():
        POLICY.replace(_SAVED)
    try:
        POLICY.write_bytes(_NO)
        POLICY.chmod(0o755)
        yield
    finally:
        if _SAVED.exists():
            _SAVED.replace(POLICY)
        else:
            POLICY.unlink()
