"""The Starlette adapter, and FastAPI's: the ASGI shell, and the caller's identity on `request.state`.

    app = Starlette(routes=…, middleware=[Middleware(SecMiddleware, config="secmiddleware.toml")])
    app.add_middleware(SecMiddleware, config="secmiddleware.toml")

Outermost is where it belongs: first in the list, or added last. What stands before it sees requests that
nobody has judged, and answers without us.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from secmiddleware import asgi
from secmiddleware.messages import IDENTITY_KEY, TOKEN_CLAIMS_KEY
from secmiddleware.scopes import App, Receive, Scope, Send
from secmiddleware.security import SecurityManager
from secmiddleware.settings.models import Settings
from secmiddleware.telemetry.observer import Observer

__all__ = ["SecMiddleware"]

_STATE_NAMES: Final = {"client_identity": IDENTITY_KEY, "token_claims": TOKEN_CLAIMS_KEY}


class SecMiddleware(asgi.SecMiddleware):
    """The middleware for Starlette and FastAPI: requests and websockets carry `state.client_identity`.

    That is the caller's `Identity`, or None where the route asks for none. `state.token_claims` is what the
    caller's token says, where the route requires one that is bound to the certificate, else None. `config`
    and what becomes of one that cannot be used: as `secmiddleware.asgi.SecMiddleware` says.
    """

    def __init__(
        self,
        app: App,
        *,
        config: str | Path | Mapping[str, Any] | Settings | SecurityManager,
        observer: Observer | None = None,
    ) -> None:
        super().__init__(_Introduced(app), config=config, observer=observer)


class _Introduced:
    """The app, told by Starlette's own means who is calling."""

    def __init__(self, app: App) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "lifespan":
            # In place: middleware that stands before us may have made its `request.state` of this very dict.
            state = scope.setdefault("state", {})
            for name, key in _STATE_NAMES.items():
                state[name] = scope[key]
        await self.app(scope, receive, send)
