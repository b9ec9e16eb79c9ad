"""The server's pair and the CAs of its callers change under running requests: the next handshakes have it."""

from __future__ import annotations

import json
import logging
import os
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from secmiddleware.asgi import SecMiddleware as Asgi
from secmiddleware.certificates import following
from secmiddleware.certificates.authority import Issued
from secmiddleware.certificates.following import served_from
from secmiddleware.parts import certificates_of
from secmiddleware.security import SecurityManager
from secmiddleware.servers import cheroot, gunicorn_asgi, hypercorn, werkzeug
from secmiddleware.wsgi import SecMiddleware as Wsgi
from servers import wsgi_servers
from servers.in_thread import gunicorn_serving, hypercorn_serving
from servers.operating import Crowd, Operator, der_of, enters, make_world_readable, shown
from servers.pki import Pki
from servers.processes import SOURCE, running
from servers.serving import Connection, answer_lifespan, reply, serving, until

ASGI = ("uvicorn on asyncio", "uvicorn on uvloop", "hypercorn", "gunicorn's asgi worker")
WSGI = ("werkzeug", "cheroot")
GUNICORN = {"gunicorn, sync": 1, "gunicorn, threads": 4}
SERVERS = (*ASGI, *WSGI, *GUNICORN)
KEEP = (*ASGI, "cheroot")
"""Keep a connection open for as long as these tests take."""

SHOP = """
def app(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", "2")])
    return [b"ok"]
"""


async def shop(scope: Any, receive: Any, send: Any) -> None:
    await (answer_lifespan(receive, send) if scope["type"] == "lifespan" else reply(send, b"{}"))


def wsgi_shop(_environ: Any, start_response: Any) -> list[bytes]:
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", "2")])
    return [b"ok"]


@pytest.fixture
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who looks every second looks more often."""
    monkeypatch.setattr(following, "_LOOK_SECONDS", 0.03)
    monkeypatch.setattr(following, "_SETTLING_SECONDS", 0.03)


@pytest.fixture
def operator(tmp_path: Path) -> Operator:
    return Operator(tmp_path)


@pytest.fixture(params=SERVERS)
def served(
    request: pytest.FixtureRequest, operator: Operator, pki: Pki, soon: None
) -> Iterator[tuple[Operator, int, bool]]:
    """An operator, the port on which a server serves by the operator's files, whether connections stay."""
    name, config = request.param, operator.config
    with ExitStack() as stack:
        if name in GUNICORN:
            (operator.folder / "shop.py").write_text(SHOP)
            # What it says of each refused handshake would fill the pipe that nobody reads.
            told = {"server": "gunicorn", "threads": GUNICORN[name], "log_level": "error"}
            _, port = stack.enter_context(running(operator.folder, _Trusting(operator), **told))
        elif name == "werkzeug":
            shell = Wsgi(wsgi_shop, config=config)
            port = stack.enter_context(wsgi_servers.werkzeug(shell, **werkzeug.options(config)))
        elif name == "cheroot":
            shell = Wsgi(wsgi_shop, config=config)
            port = stack.enter_context(wsgi_servers.cheroot(shell, cheroot.adapter(config)))
        elif name == "hypercorn":
            port = stack.enter_context(
                hypercorn_serving(Asgi(shop, config=config), hypercorn.options(config))
            )
        elif name.startswith("gunicorn"):
            options = gunicorn_asgi.options(config)
            port = stack.enter_context(gunicorn_serving(Asgi(shop, config=config), options))
        else:
            port = stack.enter_context(uvicorn_serving(operator, pki, loop=name.rpartition(" ")[2]))
        yield operator, port, name in KEEP


class _Trusting:
    """Who only asks whether a server is there."""

    def __init__(self, operator: Operator) -> None:
        self._context = operator.caller(None)

    def client(self, _name: None) -> ssl.SSLContext:
        return self._context


def uvicorn_serving(operator: Operator, pki: Pki, app: Any = None, *, loop: str = "asyncio") -> Any:
    manager = SecurityManager.from_config(operator.config, {}) if app is None else app
    context = certificates_of(manager.settings.mtls).server_context()
    return serving(
        Asgi(shop, config=manager), pki, loop=loop, ssl_context_factory=lambda _config, _default: context
    )


def test_what_connects_next_has_the_new_files_and_open_connections_go_on(
    served: tuple[Operator, int, bool],
) -> None:
    operator, port, keeps = served
    alice, bob = (
        [operator.caller(authority, tls) for tls in ("1.2", "1.3")]
        for authority in (operator.first, operator.second)
    )
    old = shown(port, alice[0])
    assert ([enters(port, one) for one in alice], [enters(port, one) for one in bob]) == (
        [True, True],
        [False, False],
    )
    with Connection(port, alice[0]) as kept:
        assert kept.ask("/orders").status == 200
        pair = operator.issue()
        operator.swap(pair)
        operator.trust(operator.first, operator.second)
        until(lambda: shown(port, alice[1]) == der_of(pair), "the new pair is shown")
        until(lambda: all(enters(port, one) for one in bob), "who is of the added CA gets in")
        assert all(enters(port, one) for one in alice)
        if keeps:
            assert kept.ask("/orders").status == 200
            assert kept.tls.getpeercert(binary_form=True) == old
        operator.replace(pair := operator.issue())
        operator.trust(operator.second)
        until(
            lambda: all(dies(port, one) for one in alice), "who is of the removed CA gets no connection", 20
        )
        until(lambda: shown(port, bob[0]) == der_of(pair), "the next pair is shown")
        assert all(enters(port, one) for one in bob)
        if keeps:  # it stays open, and its certificate is not good any more
            until(lambda: kept.ask("/orders").code == "certificate_untrusted", "nor any request")


def dies(port: int, context: ssl.SSLContext) -> bool:
    """Whether TLS itself refuses the caller, and not we."""
    try:
        with Connection(port, context) as connection:
            connection.ask("/orders")
    except OSError:
        return True
    return False


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
@pytest.mark.parametrize("way", ["swap", "replace", "overwrite"])
def test_no_handshake_fails_while_pairs_are_replaced_in_whatever_way(
    operator: Operator, pki: Pki, soon: None, loop: str, way: str
) -> None:
    with uvicorn_serving(operator, pki, loop=loop) as port:
        callers = [operator.caller(operator.first, tls) for tls in ("1.2", "1.3")]
        with Crowd(port, callers).asking() as crowd:
            for _ in range(4):
                pair = operator.issue()
                getattr(operator, way)(pair)
                until(lambda pair=pair: shown(port, callers[0]) == der_of(pair), "the new one is shown")
                crowd.go_on(10)


def told_by(caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    """What those who look at certificates have logged; threads of other tests may log beside them."""
    return [record for record in caplog.records if record.name == "secmiddleware.certificates"]


def test_a_pair_that_is_replaced_one_after_the_other_is_no_alarm(
    operator: Operator, pki: Pki, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(following, "_LOOK_SECONDS", 0.01)  # so that some look falls between the two
    with uvicorn_serving(operator, pki) as port, caplog.at_level(logging.INFO, "secmiddleware.certificates"):
        alice = operator.caller(operator.first)
        shown(port, alice)
        for _ in range(4):
            pair = operator.issue()
            operator._rename(operator.certificate, pair.chain_pem)
            time.sleep(0.05)
            operator._rename(operator.key, pair.key_pem)
            operator.key.chmod(0o600)
            until(lambda pair=pair: shown(port, alice) == der_of(pair), "the new one is shown")
    assert [record for record in told_by(caplog) if record.levelno >= logging.ERROR] == []


def bad_pairs(operator: Operator) -> dict[str, Any]:
    """What an operator may put in the place of a good pair, by its name: a function that does it."""
    tomorrow, long_ago = datetime.now(UTC) + timedelta(days=1), datetime.now(UTC) - timedelta(days=4000)
    new, other = operator.issue(), operator.issue()
    client = operator.own.issue_client(dns=["localhost"])

    def put(certificate: bytes, key: bytes) -> Any:
        return lambda: operator.swap(Issued(certificate, b"", key))

    return {
        "key of another certificate": put(new.chain_pem, other.key_pem),
        "half a certificate": put(new.chain_pem[:300], new.key_pem),
        "half a key": put(new.chain_pem, new.key_pem[:60]),
        "nothing": put(b"", b""),
        "only a certificate": put(new.chain_pem, b""),
        "over": lambda: operator.swap(operator.issue(now=long_ago)),
        "of tomorrow": lambda: operator.swap(operator.issue(now=tomorrow)),
        "for clients": lambda: operator.swap(client),
        "gone": lambda: (operator.folder / "current").unlink(),
        "a key for everybody": lambda: (operator.swap(new), make_world_readable(operator.key)),
    }


BAD = (
    "key of another certificate", "half a certificate", "half a key", "nothing", "only a certificate", "over",
    "of tomorrow", "for clients", "gone", "a key for everybody",
)  # fmt: skip


@pytest.mark.parametrize("bad", BAD)
def test_a_bad_pair_leaves_the_good_one_in_force_and_is_told_once(
    operator: Operator, pki: Pki, soon: None, bad: str, caplog: pytest.LogCaptureFixture
) -> None:
    manager = SecurityManager.from_config(operator.config, {})
    alice = operator.caller(operator.first)
    told = lambda: manager.status()["certificates"]["server"]["trouble"]  # noqa: E731  (asked again and again)
    with uvicorn_serving(operator, pki, manager) as port, caplog.at_level(logging.ERROR, "secmiddleware"):
        good = shown(port, alice)
        assert told() is None
        bad_pairs(operator)[bad]()
        until(told, "it is told")
        for _ in range(3):
            assert shown(port, alice) == good
            assert enters(port, alice)
            time.sleep(0.05)
        assert str(operator.folder) in told()
        assert len(told_by(caplog)) == 1
        assert "PRIVATE" not in caplog.text + json.dumps(manager.status())
        mended = operator.issue()
        operator.swap(mended)
        until(lambda: shown(port, alice) == der_of(mended), "the mended one is shown")
        assert told() is None
        expiry = manager.vitals().expiries["server"]
        assert expiry == datetime.fromisoformat(manager.status()["certificates"]["server"]["not_after"])


def shown_to_the_second(port: int, caller: ssl.SSLContext) -> bytes | None:
    """As `shown`; None where OpenSSL's clock, which is some milliseconds late, is not there yet."""
    try:
        return shown(port, caller)
    except ssl.SSLCertVerificationError:
        return None


def test_a_certificate_of_later_is_taken_when_its_time_has_come(
    operator: Operator, pki: Pki, soon: None
) -> None:
    soon_good = operator.own.issue_server(
        dns=["localhost"], now=datetime.now(UTC) + timedelta(minutes=5, seconds=3)
    )
    with uvicorn_serving(operator, pki) as port:
        alice = operator.caller(operator.first)
        good = shown(port, alice)
        operator.swap(soon_good)
        source = served_from(operator.certificate, operator.key)
        assert source is not None
        until(lambda: source.trouble, "it is not taken yet")
        assert shown(port, alice) == good
        until(lambda: shown_to_the_second(port, alice) == der_of(soon_good), "its time has come")


def test_bad_cas_leave_the_good_ones_in_force(operator: Operator, pki: Pki, soon: None) -> None:
    with uvicorn_serving(operator, pki) as port:
        alice, bob = operator.caller(operator.first), operator.caller(operator.second)
        assert enters(port, alice)
        source = served_from(operator.certificate, operator.key)
        assert source is not None
        for bad in (b"", operator.first.certificate_pem[:200], b"-----BEGIN CERTIFICATE-----"):
            operator.ca.write_bytes(bad)
            until(lambda: source.trouble, "it is told")
            assert enters(port, alice)
            operator.trust(operator.first)
            until(lambda: source.trouble is None, "it is mended")
        assert (enters(port, alice), enters(port, bob)) == (True, False)


def test_behind_a_proxy_the_handshake_follows_whoever_vouches_for_proxies(
    operator: Operator, pki: Pki, soon: None
) -> None:
    of_callers = operator.folder / "callers-of-the-proxy.pem"
    of_callers.write_bytes(operator.own.certificate_pem)
    settings = operator.config.read_text().replace(
        'trust = ["callers.pem"]',
        f'trust = ["{of_callers}"]\nsource = "nginx"\n'
        'trusted_proxies = [{ allow = ["spiffe://example.org/**"], trust = ["callers.pem"] }]',
    )
    operator.config.write_text(settings)
    with uvicorn_serving(operator, pki) as port:
        proxy, next_proxy = operator.caller(operator.first), operator.caller(operator.second)
        assert (dies(port, proxy), dies(port, next_proxy)) == (False, True)
        with Connection(port, proxy) as kept:
            # It is believed; without a verdict in its headers it says nothing that could be.
            assert kept.ask("/orders").code == "proxy_untrusted"
            operator.trust(operator.second)
            until(lambda: dies(port, proxy), "who is of the removed CA gets no connection")
            assert not dies(port, next_proxy)


def test_what_has_changed_since_the_start_is_there_at_the_first_handshake(
    operator: Operator, pki: Pki, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(following, "_LOOK_SECONDS", 3600)
    with uvicorn_serving(operator, pki) as port:
        pair = operator.issue()
        operator.swap(pair)
        operator.trust(operator.second)
        bob = operator.caller(operator.second)
        assert shown(port, bob) == der_of(pair)
        assert dies(port, operator.caller(operator.first))


NOBODY_SERVES = """
import gc, os, ssl, sys, threading, time
from secmiddleware.certificates import following
from secmiddleware.security import SecurityManager

following._LOOK_SECONDS = 0.02
manager = SecurityManager.from_config(sys.argv[1], {})
looks = lambda: "secmiddleware-tls" in [thread.name for thread in threading.enumerate()]
shake = lambda: context.wrap_bio(ssl.MemoryBIO(), ssl.MemoryBIO(), server_side=True)
served = lambda: manager.status()["certificates"]["server"]

context = manager.certificates.server_context()
assert not looks() and served() is None
shake()
assert looks() and served()["trouble"] is None
child = os.fork()
if child == 0:
    # Its thread was not inherited, nor is anything served here until it is.
    good = not looks() and served() is None
    shake()
    os._exit(0 if good and looks() and served() else 1)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
del context
until = time.monotonic() + 5
while looks():
    assert time.monotonic() < until
    gc.collect()
    time.sleep(0.01)
assert served() is None
"""


def test_nobody_looks_where_nobody_serves_and_a_child_looks_itself(operator: Operator) -> None:
    done = subprocess.run(
        [sys.executable, "-c", NOBODY_SERVES, str(operator.config)],
        env={**os.environ, "PYTHONPATH": str(SOURCE)},
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )
    assert done.returncode == 0, done.stderr
