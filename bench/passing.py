"""The rows of requests that pass untouched: nothing is marked where they go."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from bench.measure import Row, Step
from bench.rows import asgi_request, small_app
from bench.telemetry import health, wsgi_request
from bench.world import World
from secmiddleware import asgi, wsgi
from secmiddleware.messages import PRESENTED_KEY
from secmiddleware.security import SecurityManager

BUDGET_US = 8.0
"""What a request that passes may cost beside the app, where no certificate is looked at."""
BUDGET_KNOWN_US = 20.0
"""And where one is judged that this connection has presented before."""

# Those of httpx.
_HEADERS = {"host": "bench.example", "accept": "*/*", "accept-encoding": "gzip, deflate",
            "connection": "keep-alive", "user-agent": "python-httpx/0.28.1"}  # fmt: skip


def passing_rows(world: World) -> Iterator[Row]:
    """Both shells with the same settings, whose rules and marks are for other paths, if there are any."""
    nothing: dict[str, Any] = {"service": {"name": "bench"}, "mtls": {"client": "off"}}
    known = {**world.config, "routes": [{"path": "/admin/**", "allow": ["spiffe://example.org/ops/*"]}]}
    without = {"telemetry": {"traces": "off"}}
    for name, config, presented, budget in (
        ("nothing asked for, nothing marked", nothing, None, BUDGET_US),
        ("the same, traces off", {**nothing, **without}, None, BUDGET_US),
        ("rules and marks elsewhere", world.config, None, BUDGET_US),
        ("the same, traces off", {**world.config, **without}, None, BUDGET_US),
        ("known caller, optional", _asking(known, "optional"), world.presented, BUDGET_KNOWN_US),
        ("known caller, required", _asking(known, "required"), world.presented, BUDGET_KNOWN_US),
    ):
        manager = SecurityManager.from_config(config, environ={})
        ours = asgi.SecMiddleware(small_app(), config=manager)
        yield _row(f"ASGI, {name}", _asgi(ours, presented), _asgi(small_app(), presented), budget)
        within = wsgi.SecMiddleware(health, config=manager)
        yield _row(f"WSGI, {name}", _wsgi(within, presented), _wsgi(health, presented), budget)
        manager.stop()


def _row(name: str, ours: Step, bare: Step, budget_us: float) -> Row:
    return Row(name, ours, "bare app", bare, budget_us)


def _asking(config: dict[str, Any], client: str) -> dict[str, Any]:
    return {**config, "mtls": {**config["mtls"], "client": client}}


def _asgi(app: Any, presented: object) -> Step:
    headers = [(name.encode(), value.encode()) for name, value in _HEADERS.items()]
    extra = {"headers": headers, PRESENTED_KEY: presented}
    return asgi_request(app, "GET", "/healthz", b"", extra, None)


def _wsgi(app: Any, presented: object) -> Step:
    headers = {f"HTTP_{name.upper().replace('-', '_')}": value for name, value in _HEADERS.items()}
    return wsgi_request(app, {**headers, PRESENTED_KEY: presented})
