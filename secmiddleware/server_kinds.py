"""Which server it is that calls an app, and whether it can hand over client certificates.

A server does not give its name. What gives it away is what it gives to the app: its `receive` and `send` are
defined in its own modules. Whether a module is loaded says nothing: Django loads daphne where another serves.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any, Final, Literal

_PROXY: Final = "let a proxy end TLS and name it in [mtls] source"


@dataclass(frozen=True, slots=True)
class ServerKind:
    """A server, as an operator calls it."""

    name: str
    hands_over: Literal["hooked", "never"]
    """The certificate of a connection: where a hook of `secmiddleware.servers` is in it, or not at all."""
    way_out: str
    """What to do where it hands over nothing."""

    def refusal(self) -> str:
        """Why nothing that asks for client certificates can be served by it, and what to do."""
        return f"{self.name} cannot hand over client certificates, which are required here: {self.way_out}"


UVICORN: Final = ServerKind(
    "uvicorn",
    "hooked",
    "serve with `secmiddleware run`, or give uvicorn `--http secmiddleware.servers.uvicorn:H11Protocol`",
)
GUNICORN_ASGI: Final = ServerKind(
    "gunicorn's asgi worker", "hooked", "take the settings of `secmiddleware.servers.gunicorn_asgi.options`"
)
HYPERCORN: Final = ServerKind(
    "hypercorn", "hooked", "take the settings of `secmiddleware.servers.hypercorn.options`"
)
HYPERCORN_TRIO: Final = ServerKind(
    "hypercorn's trio worker",
    "never",
    "choose its asyncio or uvloop worker, or serve with `secmiddleware run`",
)
GRANIAN: Final = ServerKind("granian", "never", f"serve with `secmiddleware run`, or {_PROXY}")
DAPHNE: Final = ServerKind("daphne", "never", f"serve with `secmiddleware run`, or {_PROXY}")
UNKNOWN: Final = ServerKind(
    "this server",
    "hooked",
    "serve with `secmiddleware run`, or let a hook of `secmiddleware.servers` be in it",
)

# What stands in the modules of `receive` and `send` together; the first row that fits is it.
_ASGI: Final = (
    (("hypercorn.trio",), HYPERCORN_TRIO),
    (("hypercorn", "trio"), HYPERCORN_TRIO),
    (("hypercorn",), HYPERCORN),
    (("granian",), GRANIAN),
    (("daphne",), DAPHNE),
    (("gunicorn.asgi",), GUNICORN_ASGI),
    (("uvicorn",), UVICORN),
)


def kind_of_callables(*callables: Any) -> ServerKind | None:
    """The server whose `receive` and `send` these are; None where they are a stranger's or a middleware's."""
    return _kind_of_modules(frozenset(name for given in callables for name in _modules_of(given)))


@lru_cache(maxsize=64)  # a process has a handful of servers and middlewares
def _kind_of_modules(modules: frozenset[str]) -> ServerKind | None:
    for packages, kind in _ASGI:
        if all(any(f"{module}.".startswith(f"{name}.") for module in modules) for name in packages):
            return kind
    return None


def _modules_of(given: Any) -> Iterator[str]:
    """Where a function is defined, or the classes of the object whose method it is."""
    while isinstance(given, partial):
        given = given.func
    owner = getattr(given, "__self__", None)
    if owner is not None:
        yield from (kind.__module__ for kind in type(owner).__mro__)
    elif isinstance(module := getattr(given, "__module__", None), str):
        yield module
