"""docs/servers.md: its examples are run, and it names every server that the code knows, with its way out."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from secmiddleware import server_kinds
from secmiddleware.server_kinds import ServerKind
from secmiddleware.servers import gunicorn_asgi, hypercorn, uvicorn
from secmiddleware.servers.spots import Server
from servers.pki import Pki
from servers.shown import furnish

PAGE = (Path(__file__).parents[2] / "docs" / "servers.md").read_text()
FOR_ASGI = PAGE.partition("## For WSGI apps")[0]  # the others are in test_wsgi_servers.py
EXAMPLES = re.findall(r"^```python\n(.*?)^```", FOR_ASGI, re.DOTALL | re.MULTILINE)
KINDS = [kind for kind in vars(server_kinds).values() if isinstance(kind, ServerKind)]


def test_every_example_gives_a_server_what_it_needs(
    tmp_path: Path, pki: Pki, monkeypatch: pytest.MonkeyPatch
) -> None:
    furnish(tmp_path, pki)
    monkeypatch.chdir(tmp_path)
    assert len(EXAMPLES) == 3
    for example in EXAMPLES:
        told: dict[str, Any] = {"__name__": "conf"}
        exec(example, told)
        given = told["options"]("secmiddleware.toml")
        assert {"create_ssl_context", "ssl_context", "ssl_context_factory"} & set(given)
        if "globals()" in example:
            assert set(given) <= set(told)


def test_the_page_names_every_server_and_what_those_do_that_cannot() -> None:
    for kind in KINDS:
        if kind is server_kinds.UNKNOWN:
            continue
        assert kind.name.partition("'")[0] in PAGE
        if kind.hands_over == "hooked":
            hook = re.search(r"secmiddleware\.servers\.\w+", kind.way_out)
            assert hook is not None
            assert hook[0] in PAGE


@pytest.mark.parametrize(
    "server",
    [
        uvicorn._UVICORN, uvicorn._UVICORN_WITH_ZTTP, hypercorn._HYPERCORN,
        gunicorn_asgi._GUNICORN, gunicorn_asgi._UVICORN_WORKER,
    ],
    ids=lambda server: f"{server.distribution} {server.since}",
)  # fmt: skip
def test_the_page_names_the_versions_that_the_hooks_fit(server: Server) -> None:
    assert f"{server.distribution} {server.since}" in PAGE
