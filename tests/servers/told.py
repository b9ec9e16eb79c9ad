"""What apps say of their caller, in whatever server; imported there too, where pytest is not."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable
from typing import Any


def tell(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
    """Who is calling, before and after others had their turn, what was said, and what else the app sees."""
    identity = environ["secmiddleware.identity"]
    name = None if identity is None else str(identity)
    if "HTTP_X_SAID" in environ:
        time.sleep(0.005)
    again = environ["secmiddleware.identity"]
    told = {
        "identity": name,
        "again": None if again is None else str(again),
        "said": environ.get("HTTP_X_SAID"),
        "path": environ.get("PATH_INFO"),
        "presented": environ["secmiddleware.presented"],
    }
    body = json.dumps(told).encode()
    start_response("200 OK", [("Content-Type", "application/json"), ("Content-Length", str(len(body)))])
    return [body]


def mirror(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
    """What became of a header and its twin, and how the server is recognised; nothing of ours in between."""
    from secmiddleware.server_kinds_wsgi import kind_of_environ

    kind = kind_of_environ(environ)
    told = {"seen": environ.get("HTTP_X_CLIENT_CERT"), "kind": kind.name, "twins": kind.twins}
    body = json.dumps(told).encode()
    start_response("200 OK", [("Content-Type", "application/json"), ("Content-Length", str(len(body)))])
    return [body]
