"""The spots of a server that a hook takes hold of: still as they were when the hook was made, or no start.

What a hook needs of a server is nothing that the server promises. So it is looked at before anything is
served, by version and by shape, and where it is not as expected there is a HookError, never a server that
recognises nobody.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from types import CodeType
from typing import Any

from secmiddleware.errors import SecMiddlewareError


class HookError(SecMiddlewareError):
    """A server is not one that the hook for it fits to, or is not run as it has to be."""


@dataclass(frozen=True, slots=True)
class Server:
    """A server by the name of its distribution, and the versions that its hook was tried with."""

    distribution: str
    since: str
    """The first version that fits."""
    before: str = ""
    """The first that does not; empty where the spots are public."""

    def check_version(self) -> None:
        """Raises HookError where another version is installed, or none."""
        try:
            found = metadata.version(self.distribution)
        except metadata.PackageNotFoundError:
            raise self._error("it is not installed") from None
        if _number(found) < _number(self.since) or (self.before and _number(found) >= _number(self.before)):
            raise self._error(f"{found} is installed")

    def check_parameters(self, function: Callable[..., Any], *names: str) -> None:
        """Raises HookError where a function does not take exactly these, `self` included."""
        found = tuple(inspect.signature(function).parameters)
        if found != names:
            raise self._error(f"{_name(function)} takes {', '.join(found)}")

    def check_mentions(self, function: Callable[..., Any], *names: str) -> None:
        """Raises HookError where the code of a function, or of one inside of it, does not name these."""
        code = getattr(inspect.unwrap(function), "__code__", None)
        found = _names_in(code) if isinstance(code, CodeType) else frozenset()
        for name in names:
            if name not in found:
                raise self._error(f"{_name(function)} does not use {name!r}")

    def check_is(self, holder: Any, name: str, expected: Any) -> None:
        """Raises HookError where something else than the server's own stands in a spot of it."""
        if getattr(holder, name, None) is not expected:
            raise self._error(f"{_name(holder)}.{name} is not the server's own")

    def _error(self, reason: str) -> HookError:
        fits = f"{self.distribution}>={self.since}" + (f",<{self.before}" if self.before else "")
        return HookError(
            f"the hook that hands over client certificates does not apply to {self.distribution}: {reason}; "
            f"install {fits}, or serve with `secmiddleware run`"
        )


def _number(version: str) -> tuple[int, ...]:
    """The release part of a version (PEP 440)."""
    release = re.match(r"\d+(\.\d+)*", version)
    return tuple(int(part) for part in release[0].split(".")) if release else ()


def _name(thing: Any) -> str:
    module = getattr(thing, "__module__", None)
    name = getattr(thing, "__qualname__", None) or getattr(thing, "__name__", repr(thing))
    return f"{module}.{name}" if module else str(name)


def _names_in(code: CodeType) -> frozenset[str]:
    inner = (_names_in(constant) for constant in code.co_consts if isinstance(constant, CodeType))
    return frozenset(code.co_names).union(code.co_freevars, *inner)
