"""What `module:attribute` may name, and what is said where it names no app."""

from __future__ import annotations

import itertools
import sys
from pathlib import Path

import pytest

from secmiddleware.errors import SecMiddlewareError
from secmiddleware.servers.target import TargetError, interface_of, load_app, probe

_numbers = itertools.count()

SHOP = """
import functools
class nested:
    async def app(scope, receive, send): ...
async def app(scope, receive, send): ...
def create_app(): return app
async def create_late(): return app
def wsgi(environ, start_response): ...
class Application:
    async def __call__(self, scope, receive, send): ...
instance = Application()
half = functools.partial(app, None)
class Framework:
    def __call__(self, environ, start_response): ...
framework = Framework()
class PerRequest:
    def __init__(self, environ, start_response): ...
    def __iter__(self): ...
def wrapper(*args, **kwargs): ...
late = functools.partial(wsgi)
def wsgi_with_more(environ, start_response, more=None): ...
def create_wsgi(config=None, testing=False): return wsgi
def create_wsgi_of(config): return wsgi
def keyword_only(environ, start_response, *, more): ...
text = "not an app"
def broken(): raise RuntimeError("the factory's own trouble")
"""


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of a module that can be imported now."""
    name = f"shop{next(_numbers)}"
    (tmp_path / f"{name}.py").write_text(SHOP)
    monkeypatch.syspath_prepend(tmp_path)
    return name


@pytest.mark.parametrize("attribute", ["app", "instance", "half", "nested.app"])
def test_an_app_is_found_by_its_name(shop: str, attribute: str) -> None:
    app = load_app(f"{shop}:{attribute}")
    found = sys.modules[shop]
    for part in attribute.split("."):
        found = getattr(found, part)
    assert app is found


def test_a_factory_is_called(shop: str) -> None:
    assert load_app(f"{shop}:create_app", factory=True) is sys.modules[shop].app
    assert isinstance(load_app(f"{shop}:Application", factory=True), sys.modules[shop].Application)


@pytest.mark.parametrize("target", ["shop", "shop:", ":app", "", ":"])
def test_a_target_of_another_form_is_told_the_form(target: str) -> None:
    with pytest.raises(TargetError, match="does not name an app; the form is module:attribute"):
        load_app(target)


def test_a_module_that_is_not_there_is_told_with_where_it_is_looked_for() -> None:
    for target, module in [("shoop:app", "shoop"), ("shoop.main:app", "shoop.main")]:
        with pytest.raises(
            TargetError, match=f"there is no module '{module}'; run from the folder .*--app-dir"
        ):
            load_app(target)


def test_a_module_below_one_that_is_no_package_is_not_there_either(shop: str) -> None:
    with pytest.raises(TargetError, match=f"there is no module '{shop}.main'"):
        load_app(f"{shop}.main:app")


def test_a_module_that_itself_imports_what_is_missing_shows_its_own_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "needing.py").write_text("import nowhere_to_be_found")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError, match="nowhere_to_be_found") as error:
        load_app("needing:app")
    assert not isinstance(error.value, TargetError)


def test_an_attribute_that_is_not_there_is_told(shop: str) -> None:
    for attribute in ("nope", "nested.nope", "app.nope"):
        with pytest.raises(TargetError, match=f"module '{shop}' has no attribute '{attribute}'"):
            load_app(f"{shop}:{attribute}")


@pytest.mark.parametrize("attribute", ["create_app", "create_wsgi", "text", "Application"])
def test_what_is_not_awaited_is_no_app_but_maybe_a_factory(shop: str, attribute: str) -> None:
    with pytest.raises(TargetError, match=f"'{shop}:{attribute}' is not an ASGI app; is it a factory"):
        load_app(f"{shop}:{attribute}")


def test_a_factory_that_gives_no_app_is_told(shop: str) -> None:
    with pytest.raises(TargetError, match=r"is not an ASGI app$"):
        load_app(f"{shop}:nested", factory=True)


def test_what_cannot_be_called_is_no_factory(shop: str) -> None:
    with pytest.raises(TargetError, match=f"'{shop}:text' is no factory: it cannot be called"):
        load_app(f"{shop}:text", factory=True)


@pytest.mark.parametrize("attribute", ["app", "instance", "create_late"])
def test_what_is_awaited_is_no_factory(shop: str, attribute: str) -> None:
    with pytest.raises(TargetError, match=f"'{shop}:{attribute}' is awaited, .* leave out --factory"):
        load_app(f"{shop}:{attribute}", factory=True)


def test_the_trouble_of_a_factory_is_its_own(shop: str) -> None:
    with pytest.raises(RuntimeError, match="the factory's own trouble"):
        load_app(f"{shop}:broken", factory=True)


WSGI = ["wsgi", "framework", "PerRequest", "wrapper", "late", "wsgi_with_more"]
NEITHER = ["create_wsgi", "create_wsgi_of", "create_app", "keyword_only", "text", "Framework", "Application"]


@pytest.mark.parametrize("attribute", WSGI)
def test_a_wsgi_app_is_told_by_how_it_is_called(shop: str, attribute: str) -> None:
    app = load_app(f"{shop}:{attribute}", interface="wsgi")
    assert app is getattr(sys.modules[shop], attribute)
    assert load_app(f"{shop}:{attribute}", interface="auto") is app
    assert interface_of(app) == "wsgi"


@pytest.mark.parametrize("attribute", ["app", "instance", "half"])
def test_an_asgi_app_is_told_by_being_awaited(shop: str, attribute: str) -> None:
    assert interface_of(load_app(f"{shop}:{attribute}", interface="auto")) == "asgi"


def test_frameworks_are_told_apart() -> None:
    import fastapi
    import flask
    import starlette.applications
    from django.core.handlers.asgi import ASGIHandler
    from django.core.handlers.wsgi import WSGIHandler

    for asgi in (fastapi.FastAPI(), starlette.applications.Starlette(), ASGIHandler.__new__(ASGIHandler)):
        assert interface_of(asgi) == "asgi"
    for wsgi in (flask.Flask("shop"), WSGIHandler.__new__(WSGIHandler)):
        assert interface_of(wsgi) == "wsgi"


@pytest.mark.parametrize("attribute", NEITHER)
def test_what_is_neither_may_be_a_factory(shop: str, attribute: str) -> None:
    with pytest.raises(TargetError, match="is not an ASGI or a WSGI app; is it a factory"):
        load_app(f"{shop}:{attribute}", interface="auto")
    with pytest.raises(TargetError, match="is not a WSGI app; is it a factory"):
        load_app(f"{shop}:{attribute}", interface="wsgi")


def test_a_wrong_pair_is_told_with_what_to_do(shop: str) -> None:
    load_app(f"{shop}:create_wsgi", factory=True, interface="wsgi")
    for target, factory, interface, told in [
        ("app", False, "wsgi", "is not a WSGI app but an ASGI app: leave out --interface"),
        ("wsgi", False, "asgi", "is not an ASGI app but a WSGI app: leave out --interface"),
        ("create_app", True, "wsgi", "gives an ASGI app, not a WSGI app: leave out --interface"),
        ("create_wsgi", True, "asgi", "gives a WSGI app, not an ASGI app: leave out --interface"),
    ]:
        with pytest.raises(TargetError, match=told):
            load_app(f"{shop}:{target}", factory=factory, interface=interface)  # type: ignore[call-overload]


# --- The probe: a child imports the app, and this process does not.


def _probe(target: str, folder: Path, factory: bool = False, interface: str = "auto") -> str:
    return probe(target, factory=factory, interface=interface, app_dir=str(folder))  # type: ignore[arg-type]


def test_a_probe_leaves_nothing_behind_here(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "probed.py").write_text('print("imported")\n' + SHOP)
    before = list(sys.path)
    assert _probe("probed:wsgi", tmp_path) == "wsgi"
    assert _probe("probed:app", tmp_path) == "asgi"
    assert _probe("probed:create_wsgi", tmp_path, factory=True) == "wsgi"
    assert "probed" not in sys.modules
    assert sys.path == before
    assert capfd.readouterr() == ("", "")


def test_a_probe_tells_of_a_wrong_pair(tmp_path: Path) -> None:
    (tmp_path / "probed.py").write_text(SHOP)
    with pytest.raises(TargetError, match="is not a WSGI app but an ASGI app"):
        _probe("probed:app", tmp_path, interface="wsgi")
    with pytest.raises(TargetError, match="there is no module 'nowhere'"):
        _probe("nowhere:app", tmp_path)


@pytest.mark.parametrize("trouble", ["1 / 0", "import sys; sys.exit(0)", "import os; os._exit(0)"])
def test_an_app_that_ends_the_probe_is_not_served(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], trouble: str
) -> None:
    (tmp_path / "probed.py").write_text(trouble)
    with pytest.raises(SecMiddlewareError, match="'probed:app' cannot be loaded") as error:
        _probe("probed:app", tmp_path)
    assert not isinstance(error.value, TargetError)
    if trouble == "1 / 0":
        assert "ZeroDivisionError" in capfd.readouterr().err
