"""Hostile targets over HTTP/2, whose `:path` may be any bytes: what was judged is what the app saw."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest
from h2.exceptions import ProtocolError

from servers.http2 import Http2
from servers.pki import Pki
from servers.serving import PATIENCE, Response, protected
from servers.test_judged_path import BY_HAND, GRAMMAR, Judged, Routed, has_one_reading, serving_by

RULES = [{"path": "/admin/**", "allow": ["spiffe://example.org/ops/*"]}]

ODD = [
    b" /admin",
    b"/admin ",
    b"\t/admin",
    b"/\r\n/admin",
    b"/x\x00/admin",
    b"\xff/admin",
    b":path",
    b"/admin\n",
]


class Served:
    def __init__(self, port: int, app: Routed, judge: Judged, pki: Pki) -> None:
        self.port, self.app, self.judge = port, app, judge
        self._alice = pki.client("shop/alice", http2=True)

    def send(self, target: bytes, **more: Any) -> Response | None:
        """The response; None where the server closes the door. Everything that holds for all is checked."""
        self.app.seen.clear()
        self.judge.heads.clear()
        response = asyncio.run(self._send(target, **more))
        assert self.app.to_admin == [], f"{target!r} was let through to the admin's"
        if self.app.seen:
            (head,), (seen,) = self.judge.heads, self.app.seen
            assert seen == {key: getattr(head, key) for key in seen}, target
            assert has_one_reading(seen["path"]), target
        elif response is not None and self.judge.heads:
            assert response.status >= 400, target
        return response

    async def _send(self, target: bytes, **more: Any) -> Response | None:
        with suppress(OSError, ProtocolError, TimeoutError):
            async with asyncio.timeout(PATIENCE), Http2(self.port, self._alice) as http:
                return await http.ask(target, **more)
        return None


@pytest.fixture(scope="module", params=["ZttpProtocol", "hypercorn", "gunicorn"])
def served(request: pytest.FixtureRequest, pki: Pki) -> Iterator[Served]:
    app, judge = Routed(), Judged()
    settings = pki.settings(routes=RULES)
    wrapped = protected(app, settings, observer=judge)
    with serving_by(request.param, wrapped, settings, pki, "", http2=True) as port:
        yield Served(port, app, judge, pki)


def test_no_hostile_target_gets_past_the_rule(served: Served) -> None:
    drawn = [b"".join(parts) for parts in random.Random(2).sample(GRAMMAR, 40)]
    targets = [target for target in BY_HAND if len(target) < 10_000] + ODD + drawn
    answered = sum(served.send(target) is not None for target in targets)
    assert answered > 0.5 * len(targets)  # each library refuses many of them by itself


@pytest.mark.parametrize("target", [b"/", b"/x", b"/caf%C3%A9", b"/a%20b;c=d,e", b"/x?y=/../admin#z"])
def test_a_target_that_can_be_read_in_one_way_reaches_the_app(served: Served, target: bytes) -> None:
    response = served.send(target)
    assert response is not None
    assert response.status == 200


@pytest.mark.parametrize(
    "more",
    [
        [(b":path", b"/admin/x")],
        [(b":scheme", b"http")],
        [(b":authority", b"x/admin")],
        [(b"host", b"x/admin")],
        [(b"x-forwarded-prefix", b"/admin"), (b"x-original-url", b"/admin/x")],
        [(b"connection", b"upgrade"), (b"transfer-encoding", b"chunked")],
        [(b"secmiddleware.identity", b"spiffe://example.org/ops/oscar")],
    ],
    ids=lambda more: more[0][0].decode(),
)
def test_no_field_of_the_head_moves_its_request(served: Served, more: list[tuple[bytes, bytes]]) -> None:
    for target in (b"/admin/x", b"/x"):
        response = served.send(target, more=more)
        if served.app.seen:
            assert response is not None
            assert served.app.seen[0]["path"] == target.decode() == "/x"
