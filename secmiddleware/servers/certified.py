"""The app of one connection: it finds in each scope what this connection presented.

This is the one step that each hook adds to its server. A ContextVar set during the handshake would be simpler
and is wrong: under uvloop it gave one client another client's certificate.
"""

from __future__ import annotations

from typing import Any

from secmiddleware.identity.presentation import presented_on
from secmiddleware.identity.transport import peer_by
from secmiddleware.messages import PEER_KEY, PRESENTED_KEY, Presented
from secmiddleware.scopes import Scope


def presented_by(transport: Any) -> Presented | None:
    """What the client of a TLS transport presented, or None: no TLS, or no certificate."""
    connection = transport.get_extra_info("ssl_object")
    return None if connection is None else presented_on(connection)


class CertifiedApp:
    """An app, as one connection calls it: its scopes hold what the connection presented, and whose it is."""

    def __init__(self, app: Any, transport: Any) -> None:
        """The transport is asyncio's, or what tells of it: a StreamWriter."""
        self._app = app
        self._presented = presented_by(transport)
        self._peer = peer_by(transport)

    async def __call__(self, scope: Scope, *rest: Any) -> None:
        """Call the app with a scope that is complete."""
        scope[PRESENTED_KEY] = self._presented
        scope[PEER_KEY] = self._peer
        await self._app(scope, *rest)


class MountedApp(CertifiedApp):
    """The same under a server that leaves `root_path` away from the path, where ASGI has it in front."""

    async def __call__(self, scope: Scope, *rest: Any) -> None:
        """Call the app with a scope that is complete."""
        scope["path"] = scope["root_path"] + scope["path"]
        await super().__call__(scope, *rest)
