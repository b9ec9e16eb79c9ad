"""settings.SECMIDDLEWARE as the one manager of this process, however many handlers and clients it has."""

from __future__ import annotations

import threading
from typing import Any, Final

from django.conf import settings
from django.core.signals import setting_changed

from secmiddleware.errors import SecMiddlewareError
from secmiddleware.security import SecurityManager

NOT_SET: Final = "settings.SECMIDDLEWARE is missing."

_making: Final = threading.Lock()
_made: list[tuple[object, SecurityManager]] = []
"""The one that is in use, and the setting that it was made of."""


def configured() -> SecurityManager:
    """The manager for settings.SECMIDDLEWARE, not started yet where it is new.

    The setting is the path of a secmiddleware.toml, a mapping with the same keys, `Settings`, or a
    `SecurityManager`. As long as it stays the same, so does the manager.

    Raises:
        ConfigError: the settings cannot be used; every mistake is in it.
        SecMiddlewareError: there are none, or a file that they name cannot be used.
    """
    if not hasattr(settings, "SECMIDDLEWARE"):
        raise SecMiddlewareError(NOT_SET)
    config = settings.SECMIDDLEWARE
    with _making:
        if not _made or _made[0][0] != config:
            manager = SecurityManager.of(config)
            _forget()
            _made.append((config, manager))
        return _made[0][1]


def _forget() -> None:
    """Stop the manager that was made here; one that was given is its giver's."""
    while _made:
        config, manager = _made.pop()
        if config is not manager:
            manager.stop()


def _on_setting_changed(*, setting: str, **_: Any) -> None:
    if setting == "SECMIDDLEWARE":
        with _making:
            _forget()


# What `override_settings` sets is over with it, and so is the thread that watches its ring.
setting_changed.connect(_on_setting_changed, dispatch_uid="secmiddleware")
