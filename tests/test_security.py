"""SecurityManager: one face for everything that the settings ask for."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import cached_property
from pathlib import Path
from typing import Any

import pytest
from certificates.shapes import revocation_list, strict_ca, strict_leaf
from cryptography.hazmat.primitives.serialization import Encoding

from secmiddleware import SecurityManager
from secmiddleware.cli.starter import Starter, make_starter
from secmiddleware.engine import Admission
from secmiddleware.errors import ConfigError, SecMiddlewareError
from secmiddleware.messages import Presented, Refusal, RequestHead
from secmiddleware.settings import load

Threads = Callable[[], list[str]]


@pytest.fixture(scope="module")
def starter(tmp_path_factory: pytest.TempPathFactory) -> Starter:
    folder = tmp_path_factory.mktemp("starter") / "made"
    return make_starter(
        folder,
        service="shop",
        domain="example.org",
        names=("localhost",),
        activation_delay="1s",
        poll="100ms",
    )


def _mapping(starter: Starter, **more: Any) -> dict[str, Any]:
    return {
        "service": {"name": "shop"},
        "mtls": {"trust": [str(starter.pki / "ca.pem")]},
        "keys": {"ring": "shop", "store": "memory:", "kek": f"file:{starter.state / 'kek'}"},
    } | more


def _marked(route: str) -> dict[str, Any]:
    return {"ssn": {"places": [{"routes": [route], "marks": ["$.ssn"], "request": "encrypt"}]}}


@pytest.fixture
def threads() -> Threads:
    """The names of our threads that have begun since the test did, and have not ended."""
    before = set(threading.enumerate())

    def since() -> list[str]:
        begun = set(threading.enumerate()) - before
        return sorted(thread.name for thread in begun if thread.name.startswith("secmiddleware"))

    return since


def _eventually(fact: Callable[[], object], seconds: float = 5.0) -> None:
    until = time.monotonic() + seconds
    while not fact():
        assert time.monotonic() < until, "never came true"
        time.sleep(0.01)


def test_the_constructor_validates_and_starts_nothing(starter: Starter, threads: Threads) -> None:
    manager = SecurityManager.from_config(starter.settings, {})
    assert not manager.running
    assert threads() == []
    assert manager.snapshot.keyring is None


def test_start_and_stop_may_be_called_twice_and_again(starter: Starter, threads: Threads) -> None:
    manager = SecurityManager.from_config(starter.settings, {})
    for _ in range(3):
        manager.start()
        manager.start()
        assert manager.running
        assert threads() == ["secmiddleware-rotation"]
        manager.stop()
        manager.stop()
        assert not manager.running
        _eventually(lambda: threads() == [])


def test_a_stop_without_a_start_does_nothing(starter: Starter) -> None:
    SecurityManager.from_config(starter.settings, {}).stop()


def test_it_is_a_context_manager_sync_and_async(starter: Starter) -> None:
    manager = SecurityManager.from_config(_mapping(starter), {})
    with manager as entered:
        assert entered is manager
        assert manager.running
        assert manager.snapshot.keyring is not None
    assert not manager.running

    async def inside() -> None:
        async with manager as entered_again:
            assert entered_again is manager
            assert manager.running
        assert not manager.running

    asyncio.run(inside())


def test_many_threads_that_start_at_once_start_one_line(starter: Starter, threads: Threads) -> None:
    manager = SecurityManager.from_config(starter.settings, {})
    starters = [threading.Thread(target=manager.start) for _ in range(16)]
    for thread in starters:
        thread.start()
    for thread in starters:
        thread.join()
    try:
        assert threads() == ["secmiddleware-rotation"]
    finally:
        manager.stop()


def test_settings_and_managers_are_taken_as_they_are(starter: Starter) -> None:
    settings = load(starter.settings, {})
    manager = SecurityManager.of(settings)
    assert manager.settings is settings
    assert SecurityManager.of(manager) is manager


def test_every_mistake_is_raised_at_once(starter: Starter) -> None:
    with pytest.raises(ConfigError) as raised:
        SecurityManager.from_config(
            _mapping(starter, rotation={"pol": "1s"}, routes=[{"path": "admin", "client": "of"}]), {}
        )
    assert {finding.key for finding in raised.value.findings} >= {
        "rotation.pol",
        "routes[0].path",
        "routes[0].client",
    }


def test_a_start_that_fails_leaves_it_stopped_and_says_why(
    starter: Starter, tmp_path: Path, threads: Threads
) -> None:
    forged = tmp_path / "keyring.json"
    forged.write_bytes((starter.state / "keyring.json").read_bytes().replace(b'"gen"', b'"gem"'))
    forged.chmod(0o600)
    manager = SecurityManager.from_config(
        _mapping(
            starter, keys={"ring": "shop", "store": f"file:{forged}", "kek": f"file:{starter.state / 'kek'}"}
        ),
        {},
    )
    with pytest.raises(SecMiddlewareError, match="ring"):
        manager.start()
    assert not manager.running
    assert threads() == []


def test_a_callback_that_is_not_there_stops_the_start_and_names_its_key(starter: Starter) -> None:
    manager = SecurityManager.from_config(_mapping(starter, rotation={"callbacks": ["no_such_module:f"]}), {})
    with pytest.raises(ConfigError, match=r"rotation\.callbacks\[0\]"):
        manager.start()
    assert not manager.running


def test_without_keys_there_is_no_ring_and_the_files_of_trust_are_watched(
    starter: Starter, threads: Threads
) -> None:
    settings = _mapping(starter)
    del settings["keys"]
    with SecurityManager.from_config(settings, {}) as manager:
        assert manager.encryption is None
        assert manager.snapshot.keyring is None
        assert threads() == ["secmiddleware-rotation"]
        assert manager.status()["encryption"] is None
        assert manager.status()["rotation"]["running"] is True
        manager.look_soon()
    _eventually(lambda: threads() == [])


def test_without_keys_and_certificates_there_is_no_thread(threads: Threads) -> None:
    settings = {"service": {"name": "shop"}, "mtls": {"client": "off"}}
    with SecurityManager.from_config(settings, {}) as manager:
        assert threads() == []
        assert manager.status()["rotation"] is None
        manager.look_soon()


class Revoking:
    """A service without keys whose operator revokes: a CA, a client, a list in a file."""

    def __init__(self, folder: Path) -> None:
        self.folder, now = folder, datetime.now(UTC)
        dates: dict[str, Any] = {"begin": now - timedelta(days=1), "end": now + timedelta(days=1)}
        self.ca = strict_ca("ca", **dates)
        self.client = strict_leaf(self.ca, **dates)
        (folder / "ca.pem").write_bytes(self.ca.pem)
        self.publish()
        self.settings = {
            "service": {"name": "shop"},
            "mtls": {"trust": [str(folder / "ca.pem")], "crl": [str(folder / "list.pem")]},
            "rotation": {"poll": "20ms"},
        }

    def publish(self, *revoked: Any, count: int = 0) -> None:
        now = datetime.now(UTC)
        serials = [made.certificate.serial_number for made in revoked] + list(range(1, count + 1))
        crl = revocation_list(
            self.ca, *serials, begin=now - timedelta(minutes=1), end=now + timedelta(hours=1)
        )
        (self.folder / "new").write_bytes(crl.public_bytes(Encoding.PEM))
        (self.folder / "new").rename(self.folder / "list.pem")

    def code(self, manager: SecurityManager) -> str | None:
        head = RequestHead("http", "GET", "https", "/", presented=self.presented)
        verdict = manager.admit(head)
        return verdict.code if isinstance(verdict, Refusal) else None

    @cached_property
    def presented(self) -> Presented:
        """One connection that is kept."""
        return Presented(self.client.der)


def test_who_is_revoked_while_the_service_runs_is_refused_on_a_kept_connection_too(tmp_path: Path) -> None:
    service = Revoking(tmp_path)
    with SecurityManager.from_config(service.settings, {}) as manager:
        assert service.code(manager) is None
        before = manager.snapshot
        service.publish(service.client)
        _eventually(lambda: service.code(manager) == "certificate_revoked")
        assert manager.snapshot.policy is before.policy
        (tmp_path / "list.pem").write_bytes(b"junk")
        _eventually(lambda: manager.status()["certificates"]["trouble"])
        assert service.code(manager) == "certificate_revoked"
        service.publish()
        _eventually(lambda: service.code(manager) is None)
        assert manager.status()["certificates"]["trouble"] is None
        assert "crl" in manager.vitals().expiries


def test_a_ca_that_is_removed_from_its_file_vouches_for_nobody_any_more(tmp_path: Path) -> None:
    service = Revoking(tmp_path)
    with SecurityManager.from_config(service.settings, {}) as manager:
        assert service.code(manager) is None
        (tmp_path / "ca.pem").write_bytes(strict_ca("another").pem)
        _eventually(lambda: service.code(manager) == "certificate_untrusted")


def test_a_stop_does_not_wait_for_a_large_list_to_be_read(tmp_path: Path, threads: Threads) -> None:
    service = Revoking(tmp_path)
    manager = SecurityManager.from_config(service.settings, {})
    manager.start()
    reading, go_on = threading.Event(), threading.Event()
    look = manager.certificates.look

    def slowly(now: datetime | None = None) -> None:
        reading.set()
        go_on.wait(5)
        look(now)

    assert manager._line is not None
    manager._line._watches = (slowly,)
    assert reading.wait(5)
    begun = time.monotonic()
    manager.stop()
    assert time.monotonic() - begun < 0.1
    go_on.set()
    _eventually(lambda: threads() == [])


WATCHING_IN_CHILD = """
import os, sys, time
from secmiddleware import SecurityManager

config, folder = sys.argv[1:]
manager = SecurityManager.from_config(config, {})
manager.start()
child = os.fork()
if child == 0:
    try:
        assert not manager.running
        manager.start()
        before = manager.snapshot.trust
        os.rename(folder + "/other", folder + "/ca.pem")
        until = time.monotonic() + 5
        while manager.snapshot.trust is before:
            assert time.monotonic() < until
            time.sleep(0.01)
        manager.stop()
    except BaseException as error:
        print(repr(error), file=sys.stderr, flush=True)
        os._exit(1)
    os._exit(0)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
manager.stop()
"""


def test_the_child_of_a_fork_watches_the_files_itself(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_bytes(strict_ca("ca").pem)
    (tmp_path / "other").write_bytes(strict_ca("other").pem)
    config = tmp_path / "secmiddleware.toml"
    config.write_text('[service]\nname = "a"\n[mtls]\ntrust = ["ca.pem"]\n[rotation]\npoll = "20ms"\n')
    done = subprocess.run(
        [sys.executable, "-c", WATCHING_IN_CHILD, str(config), str(tmp_path)],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])},
        capture_output=True,
        text=True,
        check=False,
        timeout=20,
    )
    assert done.returncode == 0, done.stderr


def test_the_status_is_json_and_has_no_secret(starter: Starter) -> None:
    with SecurityManager.from_config(starter.settings, {}) as manager:
        text = json.dumps(manager.status())
    status = json.loads(text)
    assert status["service"] == "shop"
    assert status["running"] is True
    assert status["certificates"]["profile"] == "strict"
    assert [key["state"] for key in status["encryption"]["keys"]] == ["primary"]
    assert status["rotation"]["running"] is True
    document = json.loads((starter.state / "keyring.json").read_text())
    assert document["root"] not in text
    assert not any(key["wrapped"] in text for key in document["keys"])


def test_the_snapshot_follows_a_rotation_and_one_that_was_taken_stays(tmp_path: Path) -> None:
    starter = make_starter(
        tmp_path / "made",
        service="shop",
        domain="example.org",
        names=("localhost",),
        activation_delay="1s",
        poll="100ms",
    )
    with SecurityManager.from_config(starter.settings, {}) as manager:
        before = manager.snapshot
        assert before.keyring is not None
        assert manager.encryption is not None
        manager.encryption.rotate()
        _eventually(lambda: manager.snapshot.keyring is not before.keyring)
        after = manager.snapshot.keyring
        assert after is not None
        assert after.gen > before.keyring.gen
        assert manager.snapshot is manager.snapshot
        assert manager.snapshot.policy is before.policy


def test_the_key_encryption_key_comes_from_the_environment_that_was_given(starter: Starter) -> None:
    import base64

    settings = _mapping(starter, keys={"ring": "shop", "store": "memory:", "kek": "env:SHOP_KEK"})
    environ = {"SHOP_KEK": base64.b64encode(os.urandom(32)).decode()}
    with SecurityManager.from_config(settings, environ) as manager:
        assert manager.encryption is not None
        token = manager.encryption.seal("ssn", b"1.10")
        assert manager.encryption.open("ssn", token) == b"1.10"


FORKING = """
import os, sys, threading
from secmiddleware import SecurityManager

manager = SecurityManager.from_config(sys.argv[1], {})
manager.start()
parents = manager.encryption.seal("ssn", b"1")

def in_child():
    assert not manager.running
    manager.start()
    assert manager.running and manager.status()["rotation"]["running"]
    assert "secmiddleware-rotation" in [thread.name for thread in threading.enumerate()]
    # At once, and not only when the uses that it asks for have come.
    assert manager.encryption.open("ssn", manager.encryption.seal("ssn", b"2")) == b"2"
    assert manager.encryption.open("ssn", parents) == b"1"
    manager.stop()

def hold():
    with manager._changing:
        held.set()
        threading.Event().wait()

held = threading.Event()
threading.Thread(target=hold, daemon=True).start()
held.wait()
child = os.fork()
if child == 0:
    try:
        in_child()
    except BaseException as error:
        print(repr(error), file=sys.stderr, flush=True)
        os._exit(1)
    os._exit(0)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
assert manager.running and manager.status()["rotation"]["running"]
"""


def test_the_child_of_a_fork_can_be_started_and_then_seals_at_once(starter: Starter) -> None:
    done = subprocess.run(
        [sys.executable, "-c", FORKING, str(starter.settings)],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])},
        capture_output=True,
        text=True,
        check=False,
        timeout=20,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("more", "reads"),
    [
        ({}, True),
        ({"mtls": {"client": "off"}}, False),
        ({"mtls": {"client": "off"}, "service": {"name": "shop", "mount": "/v1"}}, True),
        ({"mtls": {"client": "off"}, "routes": [{"path": "/**", "client": "off"}]}, True),
        ({"mtls": {"client": "off"}, "fields": _marked("/**")}, False),
        ({"mtls": {"client": "off"}, "fields": _marked("/customers")}, True),
    ],
)
def test_a_path_is_judged_where_anything_depends_on_it(
    starter: Starter, more: dict[str, Any], reads: bool
) -> None:
    manager = SecurityManager.from_config(_mapping(starter, **more))
    odd = RequestHead("http", "POST", "https", "/customers/../admin", b"/customers/../admin")
    with manager:
        verdict = manager.admit(odd)
    assert (isinstance(verdict, Refusal) and verdict.code == "path_ambiguous") == reads


@pytest.mark.parametrize("path", ["/customers", "//customers", "customers", "/..", "*", ""])
def test_a_mark_on_every_path_is_on_the_odd_ones_too(starter: Starter, path: str) -> None:
    manager = SecurityManager.from_config(_mapping(starter, mtls={"client": "off"}, fields=_marked("/**")))
    with manager:
        verdict = manager.admit(RequestHead("http", "POST", "https", path, path.encode()))
    assert isinstance(verdict, Admission)
    assert not verdict.request.passive
