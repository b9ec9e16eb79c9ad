"""The house's walls: imports only look down, optional packages have one door, the front one is light."""

from __future__ import annotations

import ast
import importlib.util
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import secmiddleware
import secmiddleware_starlette

PACKAGE = Path(next(iter(secmiddleware.__path__)))
ADAPTERS = Path(next(iter(secmiddleware_starlette.__path__))).parent  # in a checkout, or where the wheel is

# What an adapter stands on, beside Python itself and secmiddleware.
FRAMEWORK_OF = {
    "secmiddleware_django": {"asgiref", "django"},
    "secmiddleware_flask": {"flask"},
    "secmiddleware_starlette": set(),
}

# From the top down. A module may import what stands below its own row, and within its own room.
LAYERS = (
    {"__main__"},
    {"cli"},
    {
        "asgi",
        "asgi_bodies",
        "asgi_lifespan",
        "asgi_loops",
        "asgi_talk",
        "asgi_websocket",
        "wsgi",
        "wsgi_input",
        "wsgi_output",
        "server_check",
        "servers",
        "client",
        "testing",
    },
    {"security"},
    {"parts"},
    {"engine", "rotation", "telemetry", "settings", "scopes", "environs", "environ_names"},
    {"identity", "fields"},
    {"certificates", "encryption"},
    {
        "messages",
        "errors",
        "paths",
        "patterns",
        "files",
        "jose",
        "state",
        "server_kinds",
        "server_kinds_wsgi",
        "watched",
    },
)
FLOOR = len(LAYERS) - 1  # the base modules may use each other

# Rooms side by side do not know each other, but for these, each in one direction.
NEIGHBOURS = {
    ("asgi", "asgi_lifespan"),  # the shell is what starts and stops within it
    ("asgi", "asgi_websocket"),  # the shell puts it round an app's receive and send
    ("asgi", "asgi_bodies"),  # the shell has the bodies driven
    ("asgi", "asgi_talk"),  # it says from which size on messages leave the loop
    ("asgi_websocket", "asgi_talk"),  # what is heard and said goes through it
    ("asgi_websocket", "asgi_loops"),  # asyncio's or trio's
    ("asgi_talk", "asgi_loops"),
    ("asgi_bodies", "asgi_loops"),
    ("asgi_bodies", "asgi_websocket"),  # a refusal of a websocket is its denial
    ("wsgi", "wsgi_input"),  # the shell has the bodies driven
    ("wsgi", "wsgi_output"),
    ("wsgi_output", "wsgi_input"),  # what ends a flow ends both
    ("wsgi", "server_check"),  # and asks about its server
    ("servers", "asgi"),  # what a server hook wraps is the shell
    ("servers", "wsgi"),
    ("environs", "environ_names"),  # the names of an environ are known before its values are looked at
    ("telemetry", "engine"),  # an observer is told the engine's verdict
}

# The one import that looks up: what EncryptionManager does to JSON documents stands with the marks. It is
# late, and what it leads to knows the manager's type alone, so that the ring is used without it.
LOOKS_UP = {("secmiddleware.encryption.manager", "secmiddleware.fields.documents")}

# Each is imported in one module at most; OpenTelemetry's SDK, which is set up for servers only, apart from
# its API.
ONE_DOOR = ("backports.zstd", "brotli", "opentelemetry.sdk", "kombu", "redis", "yaml")
API_DOORS = {"secmiddleware.telemetry.opentelemetry", "secmiddleware.telemetry.exporting"}
# Its signatures, its keys for encryption, its encryption.
JOSE_DOORS = {
    "secmiddleware.identity.jwks",
    "secmiddleware.encryption.jwe_keys",
    "secmiddleware.encryption.jwe",
}

# Nobody pays for what is not configured.
OPTIONAL = {
    "backports", "brotli", "cheroot", "django", "fastapi", "flask", "granian", "gunicorn", "h11", "httptools",
    "hypercorn", "joserfc", "kombu", "opentelemetry", "redis", "starlette", "trio", "uvicorn", "uvloop",
    "waitress", "watchfiles", "websockets", "werkzeug", "wsproto", "yaml",
}  # fmt: skip


def _modules(package: Path) -> Iterator[tuple[str, str]]:
    """The name of every module of the package and its source."""
    for path in sorted(package.rglob("*.py")):
        parts = ("secmiddleware", *path.relative_to(package).with_suffix("").parts)
        yield ".".join(parts[:-1] if parts[-1] == "__init__" else parts), path.read_text()


def _is_package(module: str) -> bool:
    return PACKAGE.parent.joinpath(*module.split("."), "__init__.py").is_file()


def _imported(module: str, source: str, *, package: bool) -> Iterator[str]:
    """Everything that a module imports, wherever in it: in functions and for type checking too."""
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Import(names=names):
                yield from (alias.name for alias in names)
            case ast.ImportFrom(module=target, names=names, level=level):
                origin = target or ""
                if level:
                    here = module.split(".") if package else module.split(".")[:-1]
                    origin = ".".join([*here[: len(here) - level + 1], *([target] if target else [])])
                # `from secmiddleware import engine` names a room in its second half
                yield from (
                    (f"{origin}.{alias.name}" for alias in names) if origin == "secmiddleware" else (origin,)
                )
            case ast.Call(
                func=ast.Attribute(attr="import_module") | ast.Name(id="import_module" | "__import__"),
                args=[ast.Constant(value=str(name)), *_],
            ):
                yield name


def _layer(room: str) -> int | None:
    return next((number for number, rooms in enumerate(LAYERS) if room in rooms), None)


def violations(module: str, source: str, *, package: bool = False) -> list[str]:
    """What a module imports against the rules, one sentence each."""
    found = []
    room = module.split(".")[1] if "." in module else ""
    layer = _layer(room)
    if room and layer is None:
        return [f"{module} is in no layer: give its room a place in LAYERS"]
    for name in _imported(module, source, package=package):
        first, *rest = name.split(".")
        if first != "secmiddleware" or rest == ["__version__"]:
            continue
        target = rest[0] if rest else ""
        below = _layer(target)
        if layer is None:
            continue  # the package's front door hands out names lazily: what that costs is tested below
        if below is None:
            found.append(f"{module} imports {name}, which is no room: import from where it is defined")
        elif target != room and not (
            below > layer
            or layer == below == FLOOR
            or (room, target) in NEIGHBOURS
            or (module, name) in LOOKS_UP
        ):
            found.append(f"{module} imports {name}: imports only look down")
        elif room == "engine" and target in {"telemetry", "rotation"}:
            found.append(f"{module} imports {name}: the engine knows neither telemetry nor rotation")
    return found


def doors(modules: list[tuple[str, str]], distribution: str) -> list[str]:
    """The modules that import a package, or a part of it."""
    return [
        module
        for module, source in modules
        if any(
            f"{name}.".startswith(f"{distribution}.")
            for name in _imported(module, source, package=_is_package(module))
        )
    ]


def test_imports_only_look_down() -> None:
    modules = list(_modules(PACKAGE))
    assert len(modules) > 2
    assert [v for name, source in modules for v in violations(name, source, package=_is_package(name))] == []


def test_the_api_of_opentelemetry_has_its_doors_in_one_room() -> None:
    assert set(doors(list(_modules(PACKAGE)), "opentelemetry")) <= API_DOORS


def test_joserfc_has_a_door_for_each_of_its_uses() -> None:
    assert set(doors(list(_modules(PACKAGE)), "joserfc")) <= JOSE_DOORS


@pytest.mark.parametrize("distribution", ONE_DOOR)
def test_a_heavy_package_has_one_door(distribution: str) -> None:
    assert len(doors(list(_modules(PACKAGE)), distribution)) <= 1


@pytest.mark.parametrize(
    ("module", "package", "source"),
    [
        ("secmiddleware.engine", False, "from secmiddleware.asgi import SecMiddleware"),
        ("secmiddleware.engine", False, "import secmiddleware.telemetry.observer"),
        ("secmiddleware.engine", False, "from secmiddleware import rotation"),
        ("secmiddleware.engine", False, "from secmiddleware import SecurityManager"),
        ("secmiddleware.engine", False, "from .settings import load"),
        (
            "secmiddleware.messages",
            False,
            "def late():\n    from secmiddleware.encryption.keyring import Keyring",
        ),
        ("secmiddleware.messages", False, "if TYPE_CHECKING:\n    from secmiddleware.fields import Flow"),
        ("secmiddleware.fields.marks", False, "from ..identity import policy"),
        ("secmiddleware.fields", True, "from ..security import SecurityManager"),
        ("secmiddleware.encryption.manager", False, "from secmiddleware.fields.values import FieldRule"),
        ("secmiddleware.encryption.keyring", False, "from secmiddleware.fields.documents import Hand"),
        ("secmiddleware.asgi", False, "from secmiddleware.servers.uvicorn import Protocol"),
        ("secmiddleware.paths", False, "importlib.import_module('secmiddleware.cli')"),
        ("secmiddleware.helpers", False, ""),
    ],
)
def test_the_rule_catches_an_import_that_looks_up(module: str, package: bool, source: str) -> None:
    assert len(violations(module, source, package=package)) == 1


@pytest.mark.parametrize(
    ("module", "package", "source"),
    [
        ("secmiddleware.cli.main", False, "from secmiddleware.asgi import SecMiddleware\nimport uvicorn"),
        (
            "secmiddleware.fields.flows",
            False,
            "from .marks import Mark\nfrom ..encryption.keyring import Keyring",
        ),
        ("secmiddleware.fields", True, "from .marks import Mark\nfrom .. import errors"),
        ("secmiddleware.paths", False, "from secmiddleware.messages import Refusal"),
        ("secmiddleware.paths", False, "from secmiddleware import __version__"),
        ("secmiddleware.servers.uvicorn", False, "from secmiddleware.asgi import SecMiddleware"),
        (
            "secmiddleware",
            True,
            "def __getattr__(name):\n    from secmiddleware.security import SecurityManager",
        ),
    ],
)
def test_the_rule_lets_an_import_pass_that_looks_down(module: str, package: bool, source: str) -> None:
    assert violations(module, source, package=package) == []


def foreign(adapter: str, source: str) -> set[str]:
    """The top-level packages that a module of an adapter imports and has no business with."""
    imported = {name.split(".")[0] for name in _imported(adapter, source, package=True)}
    return imported - sys.stdlib_module_names - {"secmiddleware", adapter} - FRAMEWORK_OF[adapter]


def test_an_adapter_imports_secmiddleware_and_its_framework_and_nothing_else() -> None:
    found = {path.name: path for path in ADAPTERS.glob("secmiddleware_*") if path.is_dir()}
    assert set(found) == set(FRAMEWORK_OF)
    for name, folder in found.items():
        for path in folder.rglob("*.py"):
            assert foreign(name, path.read_text()) == set(), path


def test_an_adapter_that_imports_another_framework_is_seen() -> None:
    source = "import flask\nfrom secmiddleware_flask import SecMiddleware\nfrom secmiddleware.asgi import App"
    assert foreign("secmiddleware_starlette", source) == {"flask", "secmiddleware_flask"}


def test_nothing_of_ours_but_the_adapters_imports_them() -> None:
    for name, source in _modules(PACKAGE):
        imported = {target.split(".")[0] for target in _imported(name, source, package=_is_package(name))}
        assert not imported & set(FRAMEWORK_OF), name


def test_a_second_door_is_seen() -> None:
    modules = [
        ("secmiddleware.rotation.stores", "def connect():\n    import redis.asyncio"),
        ("secmiddleware.rotation.line", "from redis import Redis"),
        ("secmiddleware.rotation.callbacks", "import redistribution"),
    ]
    assert doors(modules, "redis") == ["secmiddleware.rotation.stores", "secmiddleware.rotation.line"]


def _loaded_by(statement: str) -> set[str]:
    """The packages, other than Python's own and ours, that a statement loads in a new interpreter."""
    code = (
        "import sys\n"
        "before = set(sys.modules)\n"
        f"{statement}\n"
        "print(*{name.partition('.')[0] for name in set(sys.modules) - before})\n"
    )
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split()) - sys.stdlib_module_names - {"secmiddleware"}


def test_the_front_door_loads_nothing_but_python_itself() -> None:
    assert _loaded_by("import secmiddleware; dir(secmiddleware)") == set()


def test_the_key_ring_is_loaded_without_the_fields() -> None:
    code = "import sys, secmiddleware.encryption.manager; print('secmiddleware.fields' in sys.modules)"
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "False\n"), done.stderr


@pytest.mark.parametrize("room", ["asgi", "wsgi", "security", "cli"])
def test_nothing_optional_is_loaded_before_it_is_used(room: str) -> None:
    assert importlib.util.find_spec(f"secmiddleware.{room}") is not None
    loaded = _loaded_by(f"import secmiddleware.{room}")
    assert loaded  # of the core: else the measurement is broken
    assert loaded & OPTIONAL == set()
