"""The client of the demo, on a real connection."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from servers.pki import Pki
from servers.serving import answer_lifespan, reply, serving

from secmiddleware.cli.wire import Caller


async def app(scope: Any, receive: Any, send: Any) -> None:
    await (answer_lifespan(receive, send) if scope["type"] == "lifespan" else reply(send, b"{}"))


def test_a_connection_that_the_server_has_closed_meanwhile_is_made_anew(tmp_path: Path) -> None:
    pki = Pki(tmp_path)
    with serving(app, pki, timeout_keep_alive=1) as port:
        caller = Caller(port, pki.client("demo"))
        assert caller.call("GET", "/").status == 200
        first = caller._connection
        assert caller.call("GET", "/").status == 200
        assert caller._connection is first
        time.sleep(1.5)
        assert caller.call("GET", "/").status == 200
        assert caller._connection is not first
        caller.close()
