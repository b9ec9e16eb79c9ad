"""A hook looks at its server before anything is served: where that is another than it was, nothing starts."""

from __future__ import annotations

import inspect
import os
import subprocess
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import hypercorn.asyncio.run
import pytest
from gunicorn.workers import gasgi
from uvicorn.protocols.http import auto_zttp_impl

from secmiddleware.errors import ConfigError, SecMiddlewareError
from secmiddleware.files import write_secret
from secmiddleware.servers import gunicorn_asgi, uvicorn
from secmiddleware.servers import hypercorn as ours
from secmiddleware.servers.spots import HookError, Server
from servers.pki import Pki
from servers.serving import ask, until
from servers.shown import PATHS, ask_plainly, free_port, furnish, refused, running

# --- Version and shape.


def unhook() -> None:
    """hypercorn as it is where no hook of ours has been yet; the workers to be made anew."""
    hypercorn.asyncio.run.TCPServer = ours._StockTcp
    hypercorn.asyncio.run.UDPServer = ours._StockUdp
    for made in (gunicorn_asgi._asgi_worker, gunicorn_asgi._uvicorn_worker, uvicorn._zttp_protocol):
        made.cache_clear()


@pytest.fixture
def unhooked() -> Iterator[None]:
    unhook()
    yield
    unhook()


ALL: dict[str, Any] = {
    "hypercorn": ours.options,
    "gunicorn": gunicorn_asgi.options,
    "uvicorn-worker": lambda config: gunicorn_asgi.options(config, worker="uvicorn"),
    "zttp": lambda config: uvicorn.options(config, http="zttp"),
}


@pytest.mark.usefixtures("unhooked")
@pytest.mark.parametrize("distribution", ALL)
@pytest.mark.parametrize("version", ["0.0.1", "99.1rc1", None])
def test_a_version_that_the_hook_was_not_tried_with_is_refused_by_name(
    pki: Pki, monkeypatch: pytest.MonkeyPatch, distribution: str, version: str | None
) -> None:
    real = metadata.version

    def pretended(name: str) -> str:
        if name != distribution:
            return real(name)
        if version is None:
            raise metadata.PackageNotFoundError(name)
        return version

    ALL[distribution](pki.settings())
    unhook()
    monkeypatch.setattr(metadata, "version", pretended)
    found = "it is not installed" if version is None else f"{version} is installed"
    with pytest.raises(
        HookError, match=rf"does not apply to {distribution}: {found}; install {distribution}>="
    ):
        ALL[distribution](pki.settings())


class Stranger:
    def __init__(self, app: Any, config: Any) -> None: ...


@pytest.mark.usefixtures("unhooked")
@pytest.mark.parametrize(
    ("holder", "name", "asked"),
    [
        (hypercorn.asyncio.run, "TCPServer", "hypercorn"),
        (hypercorn.asyncio.run, "UDPServer", "hypercorn"),
        (gasgi, "ASGIProtocol", "gunicorn"),
    ],
)
def test_a_spot_that_somebody_else_has_taken_is_not_taken_from_him(
    pki: Pki, monkeypatch: pytest.MonkeyPatch, holder: Any, name: str, asked: str
) -> None:
    monkeypatch.setattr(holder, name, Stranger)
    with pytest.raises(HookError, match=rf"{name} is not the server's own"):
        ALL[asked](pki.settings())
    assert getattr(holder, name) is Stranger


async def serves_otherwise() -> None: ...


@pytest.mark.usefixtures("unhooked")
@pytest.mark.parametrize(
    ("holder", "name", "changed", "asked", "reason"),
    [
        (hypercorn.asyncio.run, "worker_serve", serves_otherwise, "hypercorn", "does not use 'TCPServer'"),
        (ours._StockTcp, "__init__", Stranger.__init__, "hypercorn", "takes self, app, config"),
        (gasgi.ASGIWorker, "_serve", serves_otherwise, "gunicorn", "does not use 'ASGIProtocol'"),
        (gasgi.ASGIProtocol, "connection_made", Stranger.__init__, "gunicorn", "takes self, app, config"),
        (auto_zttp_impl.AutoZttpProtocol, "_switch", Stranger.__init__, "zttp", "takes self, app, config"),
        (auto_zttp_impl.AutoZttpProtocol, "data_received", serves_otherwise, "zttp", "use '_switch'"),
    ],
)
def test_a_spot_of_another_shape_is_refused(
    pki: Pki, monkeypatch: pytest.MonkeyPatch, holder: Any, name: str, changed: Any, asked: str, reason: str
) -> None:
    monkeypatch.setattr(holder, name, changed)
    with pytest.raises(HookError, match=reason):
        ALL[asked](pki.settings())


def test_versions_are_compared_by_their_numbers() -> None:
    installed = metadata.version("hypercorn")
    Server("hypercorn", "0.9", "0.100").check_version()
    Server("hypercorn", installed).check_version()
    for since, before in (("0.100", ""), ("0.1", installed)):
        with pytest.raises(HookError, match=f"{installed} is installed"):
            Server("hypercorn", since, before).check_version()


def test_hook_errors_are_operators_errors() -> None:
    assert issubclass(HookError, SecMiddlewareError)


# --- Where a process is started that shall have the hook.


def conf_of(source: str, port: int) -> str:
    # gunicorn waits so long for a worker that was told to end before it could hear it.
    return f"{source}\nbind, control_socket_disable, graceful_timeout = '127.0.0.1:{port}', True, 2\n"


HYPERCORN = """
from secmiddleware.servers.hypercorn import options
globals().update(options("secmiddleware.toml", workers={workers}))
"""
GUNICORN = """
from secmiddleware.servers.gunicorn_asgi import options
globals().update(options("secmiddleware.toml", worker="{worker}", workers={workers}))
"""


@pytest.mark.parametrize(
    ("source", "command"),
    [
        (HYPERCORN, ("hypercorn", "--config", "file:conf.py")),
        (GUNICORN.replace("{worker}", "asgi"), ("gunicorn", "--config", "conf.py")),
        (GUNICORN.replace("{worker}", "uvicorn"), ("gunicorn", "--config", "conf.py")),
    ],
    ids=["hypercorn", "gunicorn-asgi", "gunicorn-uvicorn"],
)
def test_each_of_several_workers_has_the_hook_and_the_mount_is_in_front_of_every_path(
    tmp_path: Path, pki: Pki, source: str, command: tuple[str, ...]
) -> None:
    port = free_port()
    furnish(tmp_path, pki, mount="/v1", conf=conf_of(source.format(workers=2), port))
    with running(tmp_path, pki, port, *command, "shown_app:app"):
        seen = set()

        def both_have_answered() -> bool:
            told = ask(port, pki.client("shop/alice"), "/orders").json
            assert told["identity"] == pki.spiffe("shop/alice")
            assert (told["path"], told["root_path"]) == ("/v1/orders", "/v1")
            seen.add(told["process"])
            return len(seen) == 2

        until(both_have_answered, "either worker takes a connection")
        assert ask(port, pki.client("shop/alice"), "/admin/x").code == "identity_not_allowed"


@pytest.mark.parametrize(
    ("source", "command"),
    [
        (HYPERCORN, ("hypercorn", "--config", "file:conf.py")),
        (GUNICORN.replace("{worker}", "asgi"), ("gunicorn", "--config", "conf.py")),
        (GUNICORN.replace("{worker}", "uvicorn"), ("gunicorn", "--config", "conf.py")),
    ],
    ids=["hypercorn", "gunicorn-asgi", "gunicorn-uvicorn"],
)
def test_a_pair_that_goes_bad_before_the_workers_read_it_ends_all_of_them(
    tmp_path: Path, pki: Pki, source: str, command: tuple[str, ...]
) -> None:
    port, key, other = free_port(), tmp_path / "own.key", tmp_path / "other.key"
    write_secret(key, pki.key.read_bytes())
    write_secret(other, pki.trusted.issue_client(spiffe_id=pki.spiffe("other")).key_pem)
    conf = conf_of(source.format(workers=1), port) + 'import os; os.rename("other.key", "own.key")\n'
    furnish(tmp_path, pki, conf=conf)
    toml = tmp_path / "secmiddleware.toml"
    toml.write_text(toml.read_text().replace(str(pki.key), str(key)))
    _, said = refused(tmp_path, *command, "shown_app:app")
    assert f"{key} cannot be used" in said or "mtls.key: is not the key of mtls.certificate" in said


@pytest.mark.parametrize("worker", ["asgi", "uvicorn"])
def test_a_worker_without_a_tls_context_does_not_serve(tmp_path: Path, pki: Pki, worker: str) -> None:
    """gunicorn's own one would go on without TLS."""
    conf = conf_of(GUNICORN.format(worker=worker, workers=1), free_port())
    furnish(
        tmp_path, pki, conf=conf + "def ssl_context(config, default): raise RuntimeError('no TLS today')\n"
    )
    status, said = refused(tmp_path, "gunicorn", "--config", "conf.py", "shown_app:app")
    assert status == 3  # gunicorn's, where a worker cannot start
    assert "no TLS today" in said


@pytest.mark.parametrize(
    ("source", "command"),
    [
        (HYPERCORN, ("hypercorn", "--config", "file:conf.py")),
        (GUNICORN.replace("{worker}", "asgi"), ("gunicorn", "--config", "conf.py")),
        (GUNICORN.replace("{worker}", "uvicorn"), ("gunicorn", "--config", "conf.py")),
    ],
    ids=["hypercorn", "gunicorn-asgi", "gunicorn-uvicorn"],
)
def test_behind_a_proxy_that_ends_tls_the_hook_sees_the_other_end(
    tmp_path: Path, pki: Pki, source: str, command: tuple[str, ...]
) -> None:
    port = free_port()
    furnish(tmp_path, pki, conf=conf_of(source.format(workers=1), port))
    (tmp_path / "secmiddleware.toml").write_text(
        f'[service]\nname = "shown"\n[mtls]\nsource = "nginx"\ntrusted_proxies = ["127.0.0.1"]\n'
        f'trust = ["{pki.ca}"]\n[[routes]]\npath = "/healthz"\nclient = "off"\n'
    )
    with running(tmp_path, pki, port, *command, "shown_app:app", plain=True):
        assert ask_plainly(port, "/healthz").json["seen"] is True
        assert ask_plainly(port, "/orders").status in (401, 403)


PROGRAM = """
import asyncio, sys
from hypercorn.asyncio import serve
from hypercorn.config import Config
from secmiddleware.servers.hypercorn import options
from shown_app import app

config = Config.from_mapping(options("secmiddleware.toml"), bind="127.0.0.1:" + sys.argv[1], **{more})
if __name__ == "__main__":
    asyncio.run(serve(app, config))
"""


def test_a_hypercorn_that_a_program_starts_by_itself_has_the_hook(tmp_path: Path, pki: Pki) -> None:
    port = free_port()
    furnish(tmp_path, pki, program=PROGRAM.replace("{more}", "{}"))
    with running(tmp_path, pki, port, "program", str(port)):
        assert ask(port, pki.client("shop/alice")).json["identity"] == pki.spiffe("shop/alice")


def test_http_3_is_refused(tmp_path: Path, pki: Pki) -> None:
    furnish(tmp_path, pki, program=PROGRAM.replace("{more}", '{"quic_bind": "127.0.0.1:0"}'))
    status, said = refused(tmp_path, "program", str(free_port()))
    assert status != 0
    assert "over QUIC no client certificate is handed over: take `quic_bind` away" in said


@pytest.mark.parametrize("asked", ALL)
def test_settings_that_cannot_serve_are_told_before_anything_listens(pki: Pki, asked: str) -> None:
    settings = {"service": {"name": "shop"}, "mtls": {"trust": [str(pki.ca)]}}
    with pytest.raises(ConfigError, match=r"mtls\.certificate: is missing"):
        ALL[asked](settings)


def test_no_worker_of_gunicorn_believes_a_forwarded_header(pki: Pki) -> None:
    for worker in ("asgi", "uvicorn"):
        chosen = gunicorn_asgi.options(pki.settings(), worker=worker)
        assert (chosen["forwarded_allow_ips"], chosen["forwarder_headers"]) == ("", "")
    assert gunicorn_asgi.UvicornWorker.CONFIG_KWARGS["proxy_headers"] is False


def test_nothing_is_imported_of_a_server_that_is_not_used() -> None:
    code = (
        "import sys, secmiddleware.servers.uvicorn, secmiddleware.servers.gunicorn_asgi\n"
        "print(*{'zttp', 'uvicorn_worker', 'gunicorn.workers.gasgi', 'hypercorn'} & set(sys.modules))"
    )
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, PATHS))}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environ, check=True
    )
    assert done.stdout.split() == []


def test_a_hook_is_installed_once(unhooked: None) -> None:
    ours._hook()
    hooked = hypercorn.asyncio.run.TCPServer
    ours._hook()
    assert hypercorn.asyncio.run.TCPServer is hooked is ours._Certified
    assert "app" in inspect.signature(hooked).parameters
