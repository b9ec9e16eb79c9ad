"""What stands behind the proxies: it tells whom it was called by, and what it was told in headers."""

from __future__ import annotations

import json
from typing import Any

HEADERS = [(b"content-type", b"application/json")]


async def asgi(scope: Any, receive: Any, send: Any) -> None:
    """In ASGI."""
    if scope["type"] == "lifespan":
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await send({"type": "lifespan.shutdown.complete"})
        return
    identity = scope["secmiddleware.identity"]
    told = {
        "who": None if identity is None else str(identity),
        "source": None if identity is None else identity.source,
        "names": sorted({name.decode("latin-1").lower().replace("_", "-") for name, _ in scope["headers"]}),
    }
    await send({"type": "http.response.start", "status": 200, "headers": HEADERS})
    await send({"type": "http.response.body", "body": json.dumps(told).encode()})


def wsgi(environ: Any, start_response: Any) -> list[bytes]:
    """In WSGI."""
    identity = environ["secmiddleware.identity"]
    told = {
        "who": None if identity is None else str(identity),
        "source": None if identity is None else identity.source,
        "names": sorted(
            key.removeprefix("HTTP_").lower().replace("_", "-") for key in environ if key.startswith("HTTP_")
        ),
    }
    start_response("200 OK", [("Content-Type", "application/json")])
    return [json.dumps(told).encode()]
