"""Where a WSGI app is wrapped, and what starts when: there is no lifespan."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from servers.pki import Pki

from secmiddleware.errors import ConfigError, SecMiddlewareError
from secmiddleware.files import make_private_folder, write_secret
from secmiddleware.messages import PRESENTED_KEY, Presented
from secmiddleware.security import SecurityManager
from secmiddleware.settings import load
from secmiddleware.wsgi import SecMiddleware
from wsgi.calling import answering, call, environ_of

HELLO = answering([b"{}"])


@pytest.fixture
def ring(tmp_path: Path, pki: Pki) -> dict[str, Any]:
    """Settings with a key ring that nobody has started."""
    make_private_folder(tmp_path / "state")
    write_secret(tmp_path / "kek", os.urandom(32))
    keys = {"ring": "late", "store": f"file:{tmp_path}/state/ring.json", "kek": f"file:{tmp_path}/kek"}
    return pki.settings(keys=keys)


def test_settings_that_cannot_be_used_refuse_to_start(pki: Pki, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"mtls\.client") as error:
        SecMiddleware(HELLO, config=pki.settings(mtls={"client": "requird"}, telemtry={}))
    assert len(error.value.findings) == 2
    with pytest.raises(SecMiddlewareError):
        SecMiddleware(HELLO, config=tmp_path / "nowhere.toml")


def test_every_form_of_config_is_taken(pki: Pki, alice: Presented, tmp_path: Path) -> None:
    file = tmp_path / "secmiddleware.toml"
    file.write_text(f'[service]\nname = "file"\n[mtls]\ntrust = ["{pki.ca}"]\n')
    for config in (file, str(file), pki.settings(), load(file, {}), SecurityManager.from_config(file, {})):
        shell = SecMiddleware(HELLO, config=config)
        assert call(shell, environ_of(presented=alice)).status == 200
        assert call(shell, environ_of()).status == 401


def test_an_app_that_is_wrapped_already_refuses_to_start(manager: SecurityManager) -> None:
    once = SecMiddleware(HELLO, config=manager)

    class Framework:
        wsgi_app = once

    for twice in (once, partial(once), Framework()):
        with pytest.raises(SecMiddlewareError, match="applied twice"):
            SecMiddleware(twice, config=manager)  # type: ignore[arg-type]


def test_two_of_us_round_one_app_that_cannot_see_each_other_let_nobody_in(
    manager: SecurityManager, alice: Presented, caplog: pytest.LogCaptureFixture
) -> None:
    called: list[Any] = []
    inner = SecMiddleware(lambda environ, start: called.append(environ) or [], config=manager)
    outer = SecMiddleware(lambda environ, start: inner(environ, start), config=manager)
    response = call(outer, environ_of(presented=alice))
    assert (response.status, b"internal_error" in response.body, called) == (500, True, [])
    assert "applied twice" in caplog.text


def test_an_environ_may_be_used_once_more_and_by_another_app(
    manager: SecurityManager, alice: Presented
) -> None:
    shells = SecMiddleware(HELLO, config=manager), SecMiddleware(HELLO, config=manager)
    environ = environ_of()
    for shell in (*shells, *shells):
        environ[PRESENTED_KEY] = alice
        assert call(shell, environ).status == 200


def test_the_first_request_starts_what_nobody_has_started(ring: dict[str, Any], alice: Presented) -> None:
    manager = SecurityManager.from_config(ring, {})
    shell = SecMiddleware(HELLO, config=manager)
    assert not manager.running
    assert call(shell, environ_of(presented=alice)).status == 200
    assert manager.running
    manager.stop()


def test_a_key_ring_that_cannot_be_read_lets_nobody_in_until_it_can(
    ring: dict[str, Any], alice: Presented, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    state = tmp_path / "state" / "ring.json"
    state.write_bytes(b"broken")
    state.chmod(0o600)
    manager = SecurityManager.from_config(ring, {})
    shell = SecMiddleware(HELLO, config=manager)
    response = call(shell, environ_of(presented=alice))
    assert (response.status, b"internal_error" in response.body) == (500, True)
    assert "the settings cannot be used" in caplog.text
    state.unlink()
    assert call(shell, environ_of(presented=alice)).status == 200
    manager.stop()


def test_a_server_that_says_nothing_of_certificates_serves_nobody_and_is_told_once(
    manager: SecurityManager, caplog: pytest.LogCaptureFixture
) -> None:
    shell = SecMiddleware(HELLO, config=manager)
    environ = environ_of()
    del environ[PRESENTED_KEY]
    with caplog.at_level(logging.ERROR, "secmiddleware.wsgi"):
        for _ in range(3):
            assert call(shell, dict(environ)).status == 500
        # Without TLS there is no certificate that it could keep to itself: the caller has none.
        assert call(shell, {**environ, "wsgi.url_scheme": "http"}).status == 401
    assert caplog.text.count("says nothing about client certificates") == 1


def test_a_test_client_is_a_caller_without_a_certificate(
    manager: SecurityManager, caplog: pytest.LogCaptureFixture
) -> None:
    shell = SecMiddleware(HELLO, config=manager)
    environ = environ_of()
    del environ[PRESENTED_KEY], environ["SERVER_SOFTWARE"]
    for scheme in ("http", "https", "https"):
        assert call(shell, {**environ, "wsgi.url_scheme": scheme}).status == 401
    assert caplog.text.count("nobody can be recognised") == 1


EXITS = """
import sys
from secmiddleware.wsgi import SecMiddleware
from wsgi.calling import answering, call, environ_of
shell = SecMiddleware(answering([b"{}"]), config=sys.argv[1])
assert call(shell, environ_of()).status == 401
"""


def test_a_process_that_nobody_stops_ends_at_once_and_in_silence(tmp_path: Path, pki: Pki) -> None:
    make_private_folder(tmp_path / "state")
    write_secret(tmp_path / "kek", os.urandom(32))
    config = tmp_path / "secmiddleware.toml"
    config.write_text(
        f'[service]\nname = "ends"\n[mtls]\ntrust = ["{pki.ca}"]\n'
        '[keys]\nring = "ends"\nstore = "file:state/ring.json"\nkek = "file:kek"\n'
    )
    tests = Path(__file__).parents[1]
    done = subprocess.run(
        [sys.executable, "-c", EXITS, str(config)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join((str(tests.parent), str(tests)))},
        capture_output=True,
        text=True,
        check=False,
        timeout=10,
    )
    assert done.returncode == 0, done.stderr
    assert [line for line in done.stderr.splitlines() if not line.startswith('{"event"')] == []
