"""What `module:attribute` may name, and what is said where it names no app."""

from __future__ import annotations

import itertools
import sys
from pathlib import Path

import pytest

from secmiddleware.servers.target import TargetError, load_app

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


@pytest.mark.parametrize("attribute", ["create_app", "wsgi", "text", "Application"])
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
