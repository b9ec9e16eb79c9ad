"""gunicorn as `secmiddleware run` serves with it: a parent, its forked workers, and how they end."""

from __future__ import annotations

import base64
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from telemetry.collector import Collector

from secmiddleware.encryption.uses import FIRST_BLOCK
from secmiddleware.errors import ConfigError
from secmiddleware.files import make_private_folder, write_secret
from secmiddleware.security import SecurityManager
from secmiddleware.servers.gunicorn import options
from servers.pki import Pki
from servers.processes import SOURCE, answers, end_of, running, start
from servers.serving import PATIENCE, Connection, Response, ask, until

APP = """
import json, os, threading

def app(environ, start_response):
    identity = environ["secmiddleware.identity"]
    if environ["PATH_INFO"] == "/people":
        body = environ["wsgi.input"].read(int(environ["CONTENT_LENGTH"]))
    else:
        body = json.dumps({
            "identity": None if identity is None else identity.spiffe_id,
            "threads": [thread.name for thread in threading.enumerate()],
            "SCRIPT_NAME": environ["SCRIPT_NAME"], "PATH_INFO": environ["PATH_INFO"],
        }).encode()
    start_response("200 OK", [
        ("Content-Type", "application/json"), ("Content-Length", str(len(body))), ("x-pid", str(os.getpid())),
    ])
    return [body]
"""

SETTINGS = """
[service]
name = "shop"
mount = "{mount}"
[mtls]
trust = ["{pki.ca}"]
certificate = "{pki.certificate}"
key = "{pki.key}"
[keys]
ring = "shop"
store = "file:state/ring.json"
kek = "file:kek"
activation_delay = "900ms"
[rotation]
poll = "100ms"
[fields.ssn]
[[fields.ssn.places]]
routes = ["/people"]
marks = ["$.ssn"]
request = "decrypt"
response = "encrypt"
"""

JSON = [("content-type", "application/json")]
WAYS = {"threads": {"threads": 8}, "sync": {"threads": 1}}


@pytest.fixture
def folder(tmp_path: Path, pki: Pki) -> Path:
    make_private_folder(tmp_path / "state")
    write_secret(tmp_path / "kek", os.urandom(32))
    (tmp_path / "shop.py").write_text(APP)
    (tmp_path / "secmiddleware.toml").write_text(SETTINGS.format(pki=pki, mount=""))
    return tmp_path


@pytest.fixture
def here(folder: Path) -> Iterator[SecurityManager]:
    """Another process of the same service, this one."""
    with SecurityManager.from_config(folder / "secmiddleware.toml", {}) as manager:
        yield manager


def parts(token: str) -> tuple[str, bytes]:
    """The key id and the nonce: docs/token-format.md."""
    data = token.removeprefix("sm1.")
    raw = base64.urlsafe_b64decode(data + "=" * (-len(data) % 4))
    return raw[1:5].hex(), raw[5:17]


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


class Workers:
    """Who answers on a port, and with what tokens."""

    def __init__(self, port: int, pki: Pki, token: str) -> None:
        self.tokens: dict[int, list[str]] = {}
        self._port = port
        self._clients = [pki.client(f"shop/{number}") for number in range(4)]
        self._token = token

    def ask(self, clients: int = 4) -> None:
        """Clients who come at once get spread over the workers."""
        with ThreadPoolExecutor(clients) as pool:
            for response in pool.map(self._ask, range(clients)):
                assert response.status == 200, response
                pid = int(dict(response.headers)["x-pid"])
                self.tokens.setdefault(pid, []).append(response.json["ssn"])

    def _ask(self, number: int) -> Response:
        body = json.dumps({"ssn": self._token}).encode()
        with Connection(self._port, self._clients[number]) as connection:
            return connection.ask("/people", method="POST", headers=JSON, body=body)

    def ask_until(self, holds: Any, what: str) -> None:
        until(lambda: self.ask() or holds(), what, 2 * PATIENCE)

    def newest(self) -> set[str]:
        """The key ids of each worker's newest token."""
        return {parts(tokens[-1])[0] for tokens in self.tokens.values()}


@pytest.mark.parametrize("preload", [False, True], ids=["each loads", "preloaded"])
@pytest.mark.parametrize("way", WAYS)
def test_two_workers_seal_for_themselves_follow_a_rotation_and_end_together(
    folder: Path, pki: Pki, here: SecurityManager, way: str, preload: bool
) -> None:
    assert here.encryption is not None
    token = here.encryption.seal("ssn", b'"078-05-1120"')
    first = parts(token)[0]
    with running(folder, pki, server="gunicorn", workers=2, preload=preload, **WAYS[way]) as (process, port):
        workers = Workers(port, pki, token)
        workers.ask_until(
            lambda: len(workers.tokens) == 2 and all(len(one) > 15 for one in workers.tokens.values()),
            "both workers have served",
        )
        assert process.pid not in workers.tokens
        assert workers.newest() == {first}

        told = ask(port, pki.client("shop/alice")).json
        assert told["identity"] == pki.spiffe("shop/alice")
        assert "secmiddleware-rotation" in told["threads"]
        assert ask(port, pki.client(None)).code == "certificate_missing"
        with pytest.raises((OSError, ConnectionError)):
            ask(port, pki.client("!alice"))

        # No nonce twice, and the document has a block for each of the three processes.
        nonces = [parts(one)[1] for tokens in workers.tokens.values() for one in tokens]
        assert len(set(nonces)) == len(nonces) > 30
        document = json.loads((folder / "state" / "ring.json").read_bytes())
        assert [key["uses"] for key in document["keys"]] == [3 * FIRST_BLOCK]

        second = here.encryption.rotate()
        workers.ask_until(lambda: workers.newest() == {second}, "both workers seal with the new key")
        assert here.encryption.open("ssn", workers.tokens[min(workers.tokens)][-1]) == b'"078-05-1120"'

        before = time.monotonic()
        process.send_signal(signal.SIGTERM)
        status, said = end_of(process)
        assert (status, time.monotonic() - before < 4) == (0, True), said
        assert "Traceback" not in said
        assert not any(is_alive(pid) for pid in workers.tokens)


def test_a_worker_that_is_killed_is_replaced_by_one_that_seals_with_uses_of_its_own(
    folder: Path, pki: Pki, here: SecurityManager
) -> None:
    assert here.encryption is not None
    with running(folder, pki, server="gunicorn", preload=True) as (_, port):
        workers = Workers(port, pki, here.encryption.seal("ssn", b'"078-05-1120"'))
        workers.ask()
        (killed,) = workers.tokens
        os.kill(killed, signal.SIGKILL)
        until(lambda: answers(port, pki), "another worker answers")
        workers.ask()
        assert len(workers.tokens) == 2
        document = json.loads((folder / "state" / "ring.json").read_bytes())
        assert [key["uses"] for key in document["keys"]] == [3 * FIRST_BLOCK]


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_a_client_that_idles_does_not_hold_up_the_end(folder: Path, pki: Pki, how: signal.Signals) -> None:
    with (
        running(folder, pki, server="gunicorn") as (process, port),
        Connection(port, pki.client("shop/alice")) as idle,
    ):
        assert idle.ask().status == 200
        before = time.monotonic()
        process.send_signal(how)
        assert process.wait(PATIENCE) == 0
        assert time.monotonic() - before < 4


def test_a_mount_is_found_in_script_name_whoever_takes_it_off(
    folder: Path, pki: Pki, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "secmiddleware.toml").write_text(SETTINGS.format(pki=pki, mount="/api"))
    alice = pki.client("shop/alice")
    with running(folder, pki, server="gunicorn") as (_, port):
        told = ask(port, alice, "/x", headers=[("SCRIPT_NAME", "/other")]).json
        assert (told["SCRIPT_NAME"], told["PATH_INFO"]) == ("/api", "/x")
    monkeypatch.setenv("SCRIPT_NAME", "/api")  # as gunicorn has it: then targets have the prefix
    with running(folder, pki, server="gunicorn") as (_, port):
        told = ask(port, alice, "/api/x").json
        assert (told["SCRIPT_NAME"], told["PATH_INFO"]) == ("/api", "/x")
        assert ask(port, alice, "/apix").code == "path_ambiguous"
    monkeypatch.setenv("SCRIPT_NAME", "/other")
    with running(folder, pki, server="gunicorn") as (_, port):
        assert ask(port, alice, "/other/x").code == "path_ambiguous"


@pytest.mark.parametrize("preload", [False, True])
def test_an_app_that_has_us_already_is_not_served(folder: Path, preload: bool) -> None:
    wrapped = "from secmiddleware.wsgi import SecMiddleware\napp = SecMiddleware(app, config=CONFIG)\n"
    (folder / "shop.py").write_text(APP + wrapped.replace("CONFIG", "'secmiddleware.toml'"))
    process, _ = start(folder, server="gunicorn", preload=preload)
    status, said = end_of(process)
    assert status == (1 if preload else 3)
    assert "SecMiddleware is applied twice" in said


def test_a_key_ring_that_cannot_be_read_ends_everything_in_words(folder: Path) -> None:
    broken = folder / "state" / "ring.json"
    write_secret(broken, b"broken")
    process, _ = start(folder, server="gunicorn", workers=2)
    status, said = end_of(process)
    assert status == 3
    assert str(broken) in said
    assert "Traceback" not in said


# --- A gunicorn that the user starts.

OWN = """
from secmiddleware.security import SecurityManager
from secmiddleware.wsgi import SecMiddleware
manager = SecurityManager.from_config("secmiddleware.toml")
manager.start()
token = manager.encryption.seal("ssn", b'"1"')
app = SecMiddleware(app, config=manager)
"""

GUNICORN = (sys.executable, "-m", "gunicorn")
CONF = """
from secmiddleware.servers.gunicorn import options
globals().update(options("secmiddleware.toml", workers=2))
preload_app = True
"""


@contextmanager
def own_gunicorn(folder: Path, pki: Pki) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    process = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "gunicorn",
            "own:app",
            "--bind",
            f"127.0.0.1:{port}",
            "--log-level",
            "warning",
        ],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": os.pathsep.join((str(SOURCE), str(folder)))},
        stderr=subprocess.PIPE,
    )
    try:
        until(lambda: answers(port, pki) or process.poll() is not None, "it serves", 2 * PATIENCE)
        assert process.poll() is None, process.communicate()[1].decode()
        yield process, port
    finally:
        process.terminate()
        process.communicate(timeout=PATIENCE)


def test_what_was_started_before_the_fork_is_started_anew_in_each_worker(
    folder: Path, pki: Pki, here: SecurityManager
) -> None:
    assert here.encryption is not None
    (folder / "own.py").write_text(APP + OWN)
    (folder / "gunicorn.conf.py").write_text(CONF)
    with own_gunicorn(folder, pki) as (process, port):
        workers = Workers(port, pki, here.encryption.seal("ssn", b'"078-05-1120"'))
        workers.ask_until(lambda: len(workers.tokens) == 2, "both workers have served")
        assert process.pid not in workers.tokens
        assert "secmiddleware-rotation" in ask(port, pki.client("shop/alice")).json["threads"]
        document = json.loads((folder / "state" / "ring.json").read_bytes())
        # This process, the parent, and each worker.
        assert [key["uses"] for key in document["keys"]] == [4 * FIRST_BLOCK]
        second = here.encryption.rotate()
        workers.ask_until(lambda: workers.newest() == {second}, "both workers seal with the new key")
        process.send_signal(signal.SIGTERM)
        status, said = end_of(process)
        assert (status, [line for line in said.splitlines() if not line.startswith('{"event"')]) == (0, [])


def test_options_that_cannot_serve_are_told_before_anything_listens(pki: Pki, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"mtls\.certificate: is missing"):
        options({"service": {"name": "shop"}, "mtls": {"trust": [str(pki.ca)]}})
    write_secret(tmp_path / "kek", bytes(range(32)))
    settings = pki.settings(keys={"ring": "shop", "store": "memory:", "kek": f"file:{tmp_path / 'kek'}"})
    assert options(settings)["worker_class"] == "gthread"
    assert options(settings, threads=1)["worker_class"] == "sync"
    with pytest.raises(ConfigError, match=r"keys\.store: .* 2 workers"):
        options(settings, workers=2)


def test_every_worker_exports_what_it_did_before_it_ends(
    folder: Path, pki: Pki, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Collector() as collector:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.endpoint)
        with running(folder, pki, server="gunicorn", workers=2, preload=True) as (process, port):
            asked = set()

            def both_have_served() -> bool:
                response = ask(port, pki.client("shop/alice"), headers=[("connection", "close")])
                asked.add(dict(response.headers)["x-pid"])
                return len(asked) == 2

            until(both_have_served, "both workers have served")
            process.send_signal(signal.SIGTERM)
            status, said = end_of(process)
            assert status == 0, said
        services = collector.wait(lambda: [told for told in collector.resources if collector.spans])
    assert {told["service.name"] for told in services} == {"shop"}
    assert len({told["service.instance.id"] for told in services}) == 2
    assert {span.name for span in collector.spans} >= {"GET"}
