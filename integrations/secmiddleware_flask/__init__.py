"""The Flask adapter: an extension that puts the WSGI shell round an app, and the caller's identity on `g`.

    app.config["SECMIDDLEWARE"] = "secmiddleware.toml"      # or a mapping with the same keys
    SecMiddleware(app)

or, with an app factory, `sec = SecMiddleware()` and then `sec.init_app(app)` for each app. It belongs after
all else that wraps `app.wsgi_app`: what wraps it later sees requests that nobody has judged.
"""

from __future__ import annotations

from typing import Any, Final

from flask import Flask, g, got_request_exception, request, request_started

from secmiddleware import wsgi
from secmiddleware.environs import RAISED_KEY
from secmiddleware.errors import SecMiddlewareError
from secmiddleware.messages import IDENTITY_KEY, TOKEN_CLAIMS_KEY
from secmiddleware.telemetry.observer import Observer

__all__ = ["SecMiddleware"]

_NAME: Final = "secmiddleware"


class SecMiddleware:
    """The extension: every request has `g.client_identity`, the caller's `Identity`, or None.

    And `g.token_claims`: what the caller's token says, where the route requires one that is bound to the
    certificate, else None.

    `app.config["SECMIDDLEWARE"]` is the path of a secmiddleware.toml, a mapping with the same keys,
    `Settings`, or a `SecurityManager`. It is read once, by `init_app`.
    """

    def __init__(self, app: Flask | None = None, *, observer: Observer | None = None) -> None:
        self._observer = observer
        if app is not None:
            self.init_app(app)

    def init_app(self, app: Flask) -> None:
        """Put the shell round this app.

        Raises:
            ConfigError: the settings cannot be used; every mistake is in it.
            SecMiddlewareError: there are none, a file that they name cannot be used, or the app has a
                SecMiddleware already.
        """
        if _NAME in app.extensions:
            raise SecMiddlewareError("SecMiddleware is applied twice to this Flask app")
        config = app.config.get("SECMIDDLEWARE")
        if config is None:
            raise SecMiddlewareError(
                'app.config["SECMIDDLEWARE"] is missing: set it to the path of a secmiddleware.toml, or to a '
                "mapping with the same keys, before SecMiddleware is initialised"
            )
        shell = wsgi.SecMiddleware(app.wsgi_app, config=config, observer=self._observer)
        app.wsgi_app = shell  # type: ignore[method-assign]  # as Flask's own documentation has it
        app.extensions[_NAME] = self
        # Signals, since functions of `before_request` run in the order in which they came: whichever the app
        # has already would run before ours.
        request_started.connect(_introduce, app)
        got_request_exception.connect(_note, app)


def _introduce(_app: Flask, **_: Any) -> None:
    g.client_identity = request.environ.get(IDENTITY_KEY)
    g.token_claims = request.environ.get(TOKEN_CLAIMS_KEY)


def _note(_app: Flask, *, exception: BaseException, **_: Any) -> None:
    kind = type(exception)
    request.environ[RAISED_KEY] = f"{kind.__module__}.{kind.__qualname__}"
