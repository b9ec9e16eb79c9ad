"""Identities and heads for tests: every field has a value, and any of them can be another one."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from secmiddleware.messages import Headers, Identity, RequestHead

NOW = datetime(2026, 6, 1, 12, 0, tzinfo=UTC)


def caller(**fields: Any) -> Identity:
    everything: dict[str, Any] = {
        "subject": "CN=caller",
        "issuer": "CN=ca",
        "serial": 4096,
        "dns": (),
        "uris": (),
        "emails": (),
        "ips": (),
        "spiffe_id": None,
        "sha256": "aa" * 32,
        "spki_sha256": "bb" * 32,
        "not_before": NOW - timedelta(days=1),
        "not_after": NOW + timedelta(days=1),
        "anchor": "cc" * 32,
        "source": "server",
        "der": b"",
    }
    return Identity(**everything | fields)


def head(protocol: str = "http", method: str = "GET", also: Headers = (), **headers: str) -> RequestHead:
    """A head with these headers, named with underscores, and `also` as they are."""
    named = tuple(
        (name.replace("_", "-").encode(), value.encode("latin-1")) for name, value in headers.items()
    )
    return RequestHead(protocol, method, "https", "/", headers=(*named, *also))  # type: ignore[arg-type]
