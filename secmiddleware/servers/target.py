"""The app that `secmiddleware run` is told to serve: found by name, and called where it is a factory."""

from __future__ import annotations

import importlib
import inspect
from typing import Any, cast

from secmiddleware.errors import SecMiddlewareError
from secmiddleware.scopes import App


class TargetError(SecMiddlewareError):
    """The app cannot be found, or is not one that can be served."""


def load_app(target: str, *, factory: bool = False) -> App:
    """The ASGI app that `module:attribute` names (attributes may be dotted); raises TargetError in words."""
    module_name, _, attributes = target.partition(":")
    if not module_name or not attributes:
        raise TargetError(
            f"{target!r} does not name an app; the form is module:attribute, as in shop.main:app"
        )
    try:
        found: Any = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not (module_name + ".").startswith(error.name + "."):
            raise
        raise TargetError(
            f"there is no module {module_name!r}; run from the folder that holds it, or name it: --app-dir"
        ) from None
    for attribute in attributes.split("."):
        try:
            found = getattr(found, attribute)
        except AttributeError:
            raise TargetError(f"module {module_name!r} has no attribute {attributes!r}") from None
    if factory:
        if not callable(found):
            raise TargetError(f"{target!r} is no factory: it cannot be called")
        if _speaks_asgi(found):
            raise TargetError(
                f"{target!r} is awaited, as an app is and a factory is not; leave out --factory"
            )
        found = found()
    if not _speaks_asgi(found):
        raise TargetError(
            f"{target!r} is not an ASGI app" + ("" if factory else "; is it a factory? try --factory")
        )
    return cast("App", found)


def _speaks_asgi(app: Any) -> bool:
    """Whether it is called with (scope, receive, send) and awaited."""
    if inspect.isclass(app) or not callable(app):
        return False
    while hasattr(app, "func"):  # functools.partial
        app = app.func
    if inspect.iscoroutinefunction(app):
        return True
    return inspect.iscoroutinefunction(getattr(app, "__call__", None))  # noqa: B004
