"""Whether the WSGI server that serves can hand over what the settings ask it for: told at its first request.

WSGI has no start at which it could be asked. What is found is the operator's fault and not the caller's, so
that no request is let through, and the log says once what to do.
"""

from __future__ import annotations

import logging
from typing import Self
from wsgiref.types import WSGIEnvironment

from secmiddleware.messages import PRESENTED_KEY, Refusal
from secmiddleware.security import SecurityManager
from secmiddleware.server_kinds_wsgi import UNNAMED, ServerKind, kind_of_environ, silence_of, twins_of

logger = logging.getLogger("secmiddleware.wsgi")


class ServerCheck:
    """The check of each request's server for one set of settings."""

    def __init__(self, source: str, *, asks: bool) -> None:
        """`source` is `[mtls] source`; `asks`: whether any caller is asked for a certificate."""
        self._source = source
        self._asks = asks
        self._told = False

    @classmethod
    def of(cls, manager: SecurityManager) -> Self:
        """The check for the settings of a manager."""
        return cls(manager.settings.mtls.source, asks=manager.snapshot.policy.asks)

    def refusal_of(self, environ: WSGIEnvironment) -> Refusal | None:
        """`internal_error` on a server on which nobody could be recognised, or anybody could be another."""
        if not self._asks or (self._source == "server" and PRESENTED_KEY in environ):
            return None  # a hook that has spoken is heard whatever the server
        kind = kind_of_environ(environ)
        why = self._why_not(kind, environ)
        if why is None:
            return None
        # A test client has no certificates to hand over: whoever is required to have one has none.
        goes_on = kind is UNNAMED and self._source == "server"
        if not self._told:
            self._told = True
            logger.error("%s; %s", why, "nobody can be recognised" if goes_on else "every request is refused")
        return None if goes_on else Refusal("internal_error", "mtls.source")

    def _why_not(self, kind: ServerKind, environ: WSGIEnvironment) -> str | None:
        if self._source == "server":
            silence = silence_of(kind, environ)
            return None if silence is None else f"{silence}: {kind.way_out}"
        twins = twins_of(kind, self._source)
        return None if twins is None else f'[mtls] source = "{self._source}": {twins}'
