"""The app that `secmiddleware run` is told to serve: found by name, and called where it is a factory."""

from __future__ import annotations

import importlib
import inspect
import json
import os
import sys
import traceback
from pathlib import Path
from typing import Any, Final, Literal, cast, overload
from wsgiref.types import WSGIApplication

from secmiddleware.errors import SecMiddlewareError
from secmiddleware.scopes import App

Interface = Literal["asgi", "wsgi"]

_NAMES: Final[dict[str, str]] = {"asgi": "an ASGI app", "wsgi": "a WSGI app", "auto": "an ASGI or a WSGI app"}


class TargetError(SecMiddlewareError):
    """The app cannot be found, or is not one that can be served."""


@overload
def load_app(target: str, *, factory: bool = False, interface: Literal["asgi"] = "asgi") -> App: ...
@overload
def load_app(target: str, *, factory: bool = False, interface: Literal["wsgi"]) -> WSGIApplication: ...
@overload
def load_app(
    target: str, *, factory: bool = False, interface: Literal["asgi", "wsgi", "auto"]
) -> App | WSGIApplication: ...
def load_app(
    target: str, *, factory: bool = False, interface: Literal["asgi", "wsgi", "auto"] = "asgi"
) -> App | WSGIApplication:
    """The app that `module:attribute` names (attributes may be dotted); raises TargetError in words.

    It speaks the interface that is asked for; with `auto`, either (`interface_of` tells which).
    """
    found = _find(target)
    if factory:
        if not callable(found):
            raise TargetError(f"{target!r} is no factory: it cannot be called")
        if _speaks_asgi(found):
            raise TargetError(
                f"{target!r} is awaited, as an app is and a factory is not; leave out --factory"
            )
        found = found()
    spoken = interface_of(found)
    if spoken is not None and interface in ("auto", spoken):
        return cast("App | WSGIApplication", found)
    if spoken is None or not factory:
        hint = "" if factory or spoken is not None else "; is it a factory? try --factory"
        other = "" if spoken is None else f" but {_NAMES[spoken]}: leave out --interface"
        raise TargetError(f"{target!r} is not {_NAMES[interface]}{other}{hint}")
    raise TargetError(f"{target!r} gives {_NAMES[spoken]}, not {_NAMES[interface]}: leave out --interface")


def interface_of(app: object) -> Interface | None:
    """What an app speaks, told from how it is called; None where it can be neither.

    One that is awaited speaks ASGI. One that needs two arguments, or takes any number, speaks WSGI; so may a
    class (PEP 3333 has one as an example). A factory, whose arguments are its own wish, is neither.
    """
    if _speaks_asgi(app):
        return "asgi"
    return "wsgi" if _speaks_wsgi(app) else None


def probe(
    target: str, *, factory: bool, interface: Literal["asgi", "wsgi", "auto"], app_dir: str
) -> Interface:
    """What the app speaks, found out by a child of this process: here it is not imported.

    What an app opens on import (connections, threads) must not be shared by workers that are forked later.
    Raises TargetError in words, and SecMiddlewareError where the app itself fails: then it has shown how.
    """
    reading, writing = os.pipe()
    sys.stdout.flush()
    sys.stderr.flush()
    child = os.fork()
    if child == 0:
        os.close(reading)
        _tell(writing, target, factory, interface, app_dir)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        told = pipe.read()
    os.waitpid(child, 0)
    if not told:
        raise SecMiddlewareError(f"the app {target!r} cannot be loaded")
    answer = json.loads(told)
    if "mistake" in answer:
        raise TargetError(answer["mistake"])
    return cast("Interface", answer["interface"])


def _tell(pipe: int, target: str, factory: bool, interface: Any, app_dir: str) -> None:
    """The child's whole life."""
    try:
        # What the app prints on import is for the process that serves to print.
        sys.stdout = Path(os.devnull).open("w")  # noqa: SIM115  (it ends with the process)
        os.dup2(sys.stdout.fileno(), 1)
        sys.path.insert(0, app_dir)
        try:
            app = load_app(target, factory=factory, interface=interface)
        except TargetError as mistake:
            answer = {"mistake": str(mistake)}
        else:
            answer = {"interface": interface_of(app) or ""}
        os.write(pipe, json.dumps(answer).encode("ascii"))
    except BaseException:  # noqa: BLE001  (whatever it is, this process ends here)
        traceback.print_exc()
        sys.stderr.flush()
    finally:
        os._exit(0)


def _find(target: str) -> Any:
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
    return found


def _speaks_asgi(app: Any) -> bool:
    """Whether it is called with (scope, receive, send) and awaited."""
    if inspect.isclass(app) or not callable(app):
        return False
    while hasattr(app, "func"):  # functools.partial
        app = app.func
    if inspect.iscoroutinefunction(app):
        return True
    return inspect.iscoroutinefunction(getattr(app, "__call__", None))  # noqa: B004


def _speaks_wsgi(app: Any) -> bool:
    """Whether it is called with (environ, start_response) and gives an iterable."""
    if not callable(app) or (inspect.isclass(app) and not hasattr(app, "__iter__")):
        return False
    try:
        parameters = inspect.signature(app).parameters.values()
    except (TypeError, ValueError):  # a callable that is not written in Python
        return not inspect.isclass(app)
    needed = [one for one in parameters if one.default is one.empty and one.kind is not one.VAR_KEYWORD]
    if any(one.kind is one.KEYWORD_ONLY for one in needed):
        return False
    takes_any = any(one.kind is one.VAR_POSITIONAL for one in needed)
    return len(needed) == 2 or (takes_any and len(needed) < 3)
