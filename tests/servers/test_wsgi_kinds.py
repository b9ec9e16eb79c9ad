"""Real servers that cannot hand over a certificate, and those on which a proxy's header is worth nothing."""

from __future__ import annotations

import logging
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any

import pytest
from certificates.shapes import strict_ca
from exchanges.gunicorn_worker import Running
from services.running import free_port

from secmiddleware.certificates.contexts import client_context
from secmiddleware.errors import ConfigError, SecMiddlewareError
from secmiddleware.files import write_secret
from secmiddleware.server_kinds_wsgi import CHEROOT, GUNICORN
from secmiddleware.servers import cheroot as our_cheroot
from secmiddleware.servers import werkzeug as our_werkzeug
from secmiddleware.servers.readiness import check_source
from secmiddleware.settings import load
from secmiddleware.wsgi import SecMiddleware
from servers import wsgi_servers
from servers.pki import Pki
from servers.serving import PATIENCE, Connection, ask, until
from servers.told import mirror, tell

Starts = Callable[[Any], AbstractContextManager[int]]


@contextmanager
def gunicorn(app: Any) -> Iterator[int]:
    running = Running(app, {"worker_class": "sync", "threads": 1})
    try:
        yield running.port
    finally:
        running.end()


@contextmanager
def granian(folder: Path, source: str, *tls: str) -> Iterator[tuple[int, Path]]:
    """granian, which is a process, with the source of an app; its port, and what it logs."""
    (folder / "granian_app.py").write_text(source)
    port, log = free_port(), folder / "granian.log"
    command = [sys.executable, "-m", "granian", "--interface", "wsgi", "--host", "127.0.0.1"]
    with log.open("wb") as output:
        process = subprocess.Popen(
            [*command, "--port", str(port), *tls, "granian_app:application"],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": str(folder)},
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        until(lambda: "Started worker" in log.read_text() or process.poll() is not None, "it serves")
        assert process.poll() is None, log.read_text()
        yield port, log
    finally:
        process.terminate()
        process.wait(PATIENCE)


def get(port: int, headers: tuple[tuple[str, str], ...] = ()) -> tuple[int, Any]:
    """Status and JSON of a request without TLS, its headers in that order and spelling."""
    import json

    connection = HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
    try:
        connection.putrequest("GET", "/")
        for name, value in headers:
            connection.putheader(name, value)
        connection.endheaders()
        response = connection.getresponse()
        return response.status, json.loads(response.read())
    finally:
        connection.close()


# --- Servers that cannot.


@pytest.mark.parametrize("server", [wsgi_servers.waitress, wsgi_servers.wsgiref])
def test_a_server_that_cannot_tell_who_calls_serves_nobody_and_the_log_says_what_to_do(
    pki: Pki, server: Starts, caplog: pytest.LogCaptureFixture
) -> None:
    name = server.__name__
    for client in ("required", "optional"):
        caplog.clear()
        shell = SecMiddleware(tell, config=pki.settings(mtls={"client": client}))
        with caplog.at_level(logging.ERROR, "secmiddleware.wsgi"), server(shell) as port:
            answers = [get(port) for _ in range(3)]
        assert [(status, told["code"]) for status, told in answers] == [(500, "internal_error")] * 3
        said = [record.getMessage() for record in caplog.records if record.name == "secmiddleware.wsgi"]
        assert len(said) == 1
        assert name in said[0]
        assert "secmiddleware run" in said[0]


@pytest.mark.parametrize("server", [wsgi_servers.waitress, wsgi_servers.wsgiref])
def test_where_nobody_is_asked_any_server_will_do(server: Starts) -> None:
    settings = {"service": {"name": "open"}, "mtls": {"client": "off"}}
    with server(SecMiddleware(tell, config=settings)) as port:
        assert get(port)[0] == 200


@pytest.mark.parametrize("server", [wsgi_servers.werkzeug, wsgi_servers.cheroot, gunicorn])
def test_without_tls_a_server_that_could_tell_has_a_caller_without_a_certificate(
    pki: Pki, server: Starts
) -> None:
    with server(SecMiddleware(tell, config=pki.settings())) as port:
        status, told = get(port)
    assert (status, told["code"]) == (401, "certificate_missing")


def test_granian_serves_nobody_and_its_log_says_what_to_do(pki: Pki, tmp_path: Path) -> None:
    source = wsgi_servers.script("tell", pki.settings())
    tls = ("--ssl-certificate", str(pki.certificate), "--ssl-keyfile", str(pki.key))
    more = ("--ssl-ca", str(pki.ca), "--ssl-client-verify")
    with granian(tmp_path, source, *tls, *more) as (port, log):
        answers = [ask(port, pki.client("alice")) for _ in range(2)]
        assert [(answer.status, answer.code) for answer in answers] == [(500, "internal_error")] * 2
        assert log.read_text().count("granian keeps what it knows") == 1
        assert "secmiddleware run" in log.read_text()


UWSGI_WITHOUT = {
    "https_socket": "127.0.0.1:{{port}},{certificate},{key},HIGH,!{ca}",
    "https": "127.0.0.1:{{port}},{certificate},{key}",
}


@pytest.mark.parametrize("option", UWSGI_WITHOUT)
def test_a_uwsgi_that_keeps_the_certificate_to_itself_serves_nobody(
    pki: Pki, pytestconfig: pytest.Config, option: str
) -> None:
    value = UWSGI_WITHOUT[option].format(certificate=pki.certificate, key=pki.key, ca=pki.ca)
    source = wsgi_servers.script("tell", pki.settings())
    with wsgi_servers.uwsgi(pytestconfig, source, **{option: value}) as server:
        answers = [ask(server.port, pki.client("alice")) for _ in range(2)]
        assert [(answer.status, answer.code) for answer in answers] == [(500, "internal_error")] * 2
        assert server.said.count("every request is refused") == 1
        assert re.search(rf"--{option.replace('_', '-')} (demands|names).*use `--https ADDRESS", server.said)


def test_a_certificate_that_is_too_large_for_uwsgi_is_no_missing_one(
    pki: Pki, pytestconfig: pytest.Config
) -> None:
    # Its packets have 4096 bytes by default.
    names = [f"a-name-of-some-length-{number}.example.org" for number in range(120)]
    issued = pki.trusted.issue_client(dns=names)
    file, key = pki.folder / "large.pem", pki.folder / "large.key"
    file.write_bytes(issued.chain_pem)
    write_secret(key, issued.key_pem)
    context = client_context(pki.ca, file, key)
    tls = wsgi_servers.tls_of_uwsgi(pki, pki.ca)
    del tls["buffer_size"]
    settings = pki.settings(mtls={"client": "optional"})
    with wsgi_servers.uwsgi(pytestconfig, wsgi_servers.script("tell", settings), **tls) as server:
        assert ask(server.port, pki.client("alice")).status == 200
        with pytest.raises((OSError, HTTPException)):  # not let in as somebody without a certificate
            ask(server.port, context)
    tls["buffer_size"] = "32768"
    with wsgi_servers.uwsgi(pytestconfig, wsgi_servers.script("tell", settings), **tls) as server:
        assert ask(server.port, context).json["identity"] == f"dns:{names[0]}"


# --- What Apache may be told, each host with an app of its own.


@pytest.fixture(scope="module")
def apache(pki: Pki, pytestconfig: pytest.Config) -> Iterator[Any]:
    settings = pki.settings(mtls={"client": "optional"})
    good = [*wsgi_servers.TLS_OF_APACHE, *wsgi_servers.files_of_apache(pki, pki.ca)]

    def without(*gone: str, more: tuple[str, ...] = ()) -> tuple[str, list[str]]:
        lines = [line for line in good if not line.startswith(gone)]
        return wsgi_servers.script("tell", settings), [*lines, *more]

    hosts = {
        "silent": without("SSLOptions"),
        "leafless": without("SSLOptions", more=("SSLOptions +StdEnvVars",)),
        "generous": without("SSLVerifyClient", more=("SSLVerifyClient optional_no_ca",)),
        "resuming": without("SSLSessionTickets", more=("SSLSessionTickets on",)),
        "mirror": (wsgi_servers.script("mirror"), good),
    }
    with wsgi_servers.apache(pytestconfig, hosts, "shmcb:sessions(512000)") as server:
        yield server


@pytest.mark.parametrize("host", ["silent", "leafless"])
def test_an_apache_that_exports_nothing_serves_nobody_and_says_what_is_missing(
    pki: Pki, apache: Any, host: str
) -> None:
    missing = {"silent": "SSL_CLIENT_VERIFY", "leafless": "SSL_CLIENT_CERT"}[host]
    for name in ("alice", None, "alice"):
        answer = ask(apache.ports[host], pki.client(name))
        assert (answer.status, answer.code) == (500, "internal_error")
    until(lambda: f"{missing} is missing" in apache.said, "the log has it")
    assert apache.said.count(f"{missing} is missing") == 1
    assert "SSLOptions +StdEnvVars +ExportCertData" in apache.said


def test_a_chain_that_apache_did_not_look_at_is_judged_by_us(pki: Pki, apache: Any) -> None:
    port = apache.ports["generous"]
    assert ask(port, pki.client("alice")).json["identity"] == pki.spiffe("alice")
    assert ask(port, pki.client("!alice")).code == "certificate_untrusted"
    assert ask(port, pki.client(None)).json["identity"] is None


@pytest.mark.parametrize("tls", ["1.2", "1.3"])
def test_what_a_session_was_begun_with_is_judged_again_when_it_is_resumed(
    pki: Pki, apache: Any, tls: str
) -> None:
    context, session, resumed = pki.client("alice", tls), None, False
    for _ in range(3):
        with Connection(apache.ports["resuming"], context, session) as connection:
            assert connection.ask().json["identity"] == pki.spiffe("alice")
            resumed = resumed or connection.tls.session_reused
            session = connection.tls.session
    assert resumed


def test_what_the_page_of_servers_says_is_what_is_tested(pki: Pki) -> None:
    page = (Path(__file__).parents[2] / "docs" / "servers.md").read_text()
    for line in (*wsgi_servers.TLS_OF_APACHE, "SSLSessionCache none"):
        assert re.search(rf"^ *{re.escape(line)}$", page, re.MULTILINE), line
    for key, value in wsgi_servers.tls_of_uwsgi(pki, Path("pki/ca.pem")).items():
        tail = value.partition("server.key")[2] or value
        assert re.search(rf"^{key.replace('_', '-')} = .*{re.escape(tail)}$", page, re.MULTILINE), key


# --- Underscore twins.

TWINS = (("X-Client-Cert", "real"), ("X_Client_Cert", "twin"))


def _check_twins(told: dict[str, Any], kind: str, seen: str) -> None:
    assert told["kind"] == kind
    assert told["seen"] == seen
    assert bool(told["twins"]) == (seen != "real"), "what is said of this server is not so"


@pytest.mark.parametrize(
    ("server", "seen"),
    [
        (wsgi_servers.cheroot, "twin"),
        (wsgi_servers.wsgiref, "real,twin"),
        (wsgi_servers.werkzeug, "real"),
        (wsgi_servers.waitress, "real"),
        (gunicorn, "real"),
    ],
)
def test_what_is_said_of_underscore_twins_is_so(server: Starts, seen: str) -> None:
    with server(mirror) as port:
        _check_twins(get(port, TWINS)[1], server.__name__, seen)
        alone = get(port, TWINS[1:])[1]["seen"]
        assert alone == (None if seen == "real" else "twin")


def test_under_granian_the_twin_wins(tmp_path: Path) -> None:
    with granian(tmp_path, wsgi_servers.script("mirror")) as (port, _):
        _check_twins(get(port, TWINS)[1], "granian", "twin")


def test_uwsgi_joins_the_twin(pytestconfig: pytest.Config) -> None:
    source = wsgi_servers.script("mirror")
    with wsgi_servers.uwsgi(pytestconfig, source, http_socket="127.0.0.1:{port}") as server:
        told = get(server.port, TWINS)[1]
    assert sorted(told["seen"].replace(" ", "").split(",")) == ["real", "twin"]
    assert (told["kind"], bool(told["twins"])) == ("uwsgi", True)


def test_apache_drops_the_twin(pki: Pki, apache: Any) -> None:
    _check_twins(ask(apache.ports["mirror"], pki.client("alice"), headers=TWINS).json, "mod_wsgi", "real")


def behind(pki: Pki) -> dict[str, Any]:
    """The settings of an app behind an nginx on this machine."""
    return pki.settings(mtls={"source": "nginx", "trusted_proxies": ["127.0.0.1"]})


@pytest.mark.parametrize("server", [wsgi_servers.cheroot, wsgi_servers.wsgiref])
def test_where_a_twin_gets_through_a_proxy_is_not_believed(
    pki: Pki, server: Starts, caplog: pytest.LogCaptureFixture
) -> None:
    with server(SecMiddleware(tell, config=behind(pki))) as port:
        answers = [get(port, TWINS) for _ in range(2)]
    assert [(status, told["code"]) for status, told in answers] == [(500, "internal_error")] * 2
    said = [record.getMessage() for record in caplog.records if record.name == "secmiddleware.wsgi"]
    assert len(said) == 1
    assert '[mtls] source = "nginx"' in said[0]
    assert "gunicorn" in said[0]


@pytest.mark.parametrize("server", [wsgi_servers.werkzeug, wsgi_servers.waitress, gunicorn])
def test_where_twins_are_dropped_a_proxy_may_be_believed(pki: Pki, server: Starts) -> None:
    with server(SecMiddleware(tell, config=behind(pki))) as port:
        status, told = get(port, TWINS)
    assert status != 500, told


def test_a_server_that_is_told_of_a_proxy_it_cannot_stand_behind_does_not_start(pki: Pki) -> None:
    with pytest.raises(ConfigError, match=r'mtls\.source: "nginx": cheroot takes .* the underscore wins'):
        our_cheroot.adapter(behind(pki))
    check_source(load(behind(pki)), GUNICORN)
    check_source(load(pki.settings()), CHEROOT)


# --- Hooks that do not apply.


def test_a_werkzeug_that_keeps_its_connections_to_itself_does_not_start(
    pki: Pki, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Other(our_werkzeug.WSGIRequestHandler):
        def make_environ(self) -> Any: ...

    monkeypatch.setattr(our_werkzeug, "WSGIRequestHandler", Other)
    with pytest.raises(SecMiddlewareError, match=r"Werkzeug \d.* does not hand over its connections"):
        our_werkzeug.options(pki.settings())


def test_a_cheroot_that_asks_its_adapter_otherwise_does_not_start(
    pki: Pki, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Other(our_cheroot.BuiltinSSLAdapter):
        def wrap(self, sock: Any, context: Any) -> Any: ...

    monkeypatch.setattr(our_cheroot, "BuiltinSSLAdapter", Other)
    with pytest.raises(SecMiddlewareError, match=r"cheroot \d.* does not ask its SSL adapter"):
        our_cheroot.adapter(pki.settings())


@pytest.mark.parametrize("hook", [our_werkzeug.options, our_cheroot.adapter])
def test_settings_that_cannot_serve_are_told_before_anything_listens(pki: Pki, hook: Any) -> None:
    with pytest.raises(ConfigError, match=r"mtls\.certificate: is missing"):
        hook({"service": {"name": "shop"}, "mtls": {"trust": [str(pki.ca)]}})
    other = strict_ca("other")
    strange = pki.folder / "strange.key"
    strange.write_bytes(other.key_pem)
    strange.chmod(0o600)
    with pytest.raises(SecMiddlewareError, match="is not the key of"):
        hook(pki.settings(mtls={"key": str(strange)}))
