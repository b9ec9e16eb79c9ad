"""Which server it is, by what it calls an app with; real ones are in tests/servers/test_unable_servers.py."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Any

import pytest

from secmiddleware.server_kinds import (
    DAPHNE,
    GRANIAN,
    GUNICORN_ASGI,
    HYPERCORN,
    HYPERCORN_TRIO,
    UVICORN,
    ServerKind,
    kind_of_callables,
)


def method_in(module: str) -> Any:
    """A method of an object whose class is defined there."""
    made = type("Cycle", (), {"__module__": module, "send": lambda self: None})
    return made().send


def function_in(module: str) -> Any:
    def send() -> None: ...

    send.__module__ = module
    return send


@pytest.mark.parametrize(
    ("modules", "kind"),
    [
        (("uvicorn.protocols.http.h11_impl",), UVICORN),
        (("gunicorn.asgi.protocol",), GUNICORN_ASGI),
        (("granian._granian",), GRANIAN),
        (("granian.asgi", "granian.asgi"), GRANIAN),
        (("asyncio.queues", "daphne.server"), DAPHNE),
        (("asyncio.queues", "hypercorn.protocol.http_stream"), HYPERCORN),
        (("trio._channel", "hypercorn.protocol.http_stream"), HYPERCORN_TRIO),
        (("hypercorn.trio.lifespan",), HYPERCORN_TRIO),
        (("starlette.testclient",), None),
        (("uvicorn_extras.sender", "granianish"), None),
        (("gunicorn.workers.sync",), None),
    ],
)
def test_a_server_is_known_by_the_modules_of_what_it_gives(
    modules: tuple[str, ...], kind: ServerKind | None
) -> None:
    for make in (method_in, function_in):
        assert kind_of_callables(*map(make, modules)) is kind


def test_a_send_that_is_a_partial_or_of_a_subclass_is_its_servers() -> None:
    assert kind_of_callables(partial(partial(method_in("daphne.server"), 1), 2)) is DAPHNE
    derived = type("Mine", (type(method_in("granian.asgi").__self__),), {"__module__": "shop"})
    assert kind_of_callables(derived().send) is GRANIAN


def test_a_middlewares_send_hides_nothing_as_long_as_the_receive_is_the_servers() -> None:
    assert kind_of_callables(method_in("granian._granian"), function_in("shop.middleware")) is GRANIAN
    assert kind_of_callables(asyncio.Queue().get, function_in("shop.middleware")) is None


def test_what_is_no_function_at_all_is_of_no_server() -> None:
    assert kind_of_callables(None, 3, object(), "uvicorn") is None
