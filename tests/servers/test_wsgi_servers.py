"""WSGI servers that end TLS themselves, each with real handshakes: whose certificate it is."""

from __future__ import annotations

import itertools
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from http.client import HTTPException
from pathlib import Path
from typing import Any

import pytest
from certificates.shapes import Made, strict_ca, strict_leaf

from secmiddleware.certificates.contexts import client_context
from secmiddleware.servers.cheroot import adapter
from secmiddleware.servers.werkzeug import options
from secmiddleware.wsgi import SecMiddleware
from servers import wsgi_servers
from servers.pki import Pki
from servers.serving import PATIENCE, Connection, ask, until
from servers.told import tell

DIES = (OSError, HTTPException)
"""With TLS 1.3 a client hears of it at its first read, in whatever way the server ends."""

SERVERS = ("werkzeug", "cheroot", "cheroot's own adapter", "apache", "uwsgi")
LEAF_ONLY = ("cheroot's own adapter", "uwsgi")  # and they resume sessions

ROUTES = [
    {"path": "/open/**", "client": "optional"},
    {"path": "/admin/**", "allow": ["spiffe://example.org/ops/*"]},
]


@dataclass(frozen=True)
class Served:
    name: str
    port: int


@dataclass(frozen=True)
class Chains:
    """A second CA, one that it vouches for, and who of that is calling."""

    trust: Path
    client: Callable[[str], ssl.SSLContext]


@pytest.fixture(scope="module")
def chains(pki: Pki, tmp_path_factory: pytest.TempPathFactory) -> Chains:
    folder = tmp_path_factory.mktemp("chains")
    now = datetime.now(UTC)
    dates: dict[str, Any] = {"begin": now - timedelta(hours=1), "end": now + timedelta(hours=1)}
    root = strict_ca("root", **dates)
    between = strict_ca("between", root, **dates)
    leaf = strict_leaf(between, **dates)
    trust = folder / "trust.pem"
    trust.write_bytes(pki.ca.read_bytes() + root.pem)

    def written(name: str, *certificates: Made) -> Path:
        file = folder / name
        file.write_bytes(b"".join(made.pem for made in certificates))
        return file

    key = folder / "leaf.key"
    key.write_bytes(leaf.key_pem)
    key.chmod(0o600)
    file = written("leaf.pem", leaf, between)

    def client(tls: str) -> ssl.SSLContext:
        context = client_context(pki.ca, file, key)
        context.minimum_version = context.maximum_version = ssl.TLSVersion[f"TLSv{tls.replace('.', '_')}"]
        return context

    return Chains(trust, client)


@pytest.fixture(scope="module")
def expired(pki: Pki) -> ssl.SSLContext:
    brief = pki.short_lived("over", timedelta(seconds=1))
    time.sleep(2.1)  # dates have whole seconds
    return brief


@pytest.fixture(scope="module", params=SERVERS)
def served(
    request: pytest.FixtureRequest, pytestconfig: pytest.Config, pki: Pki, chains: Chains
) -> Iterator[Served]:
    settings = pki.settings(mtls={"trust": [str(chains.trust)]}, routes=ROUTES)
    shell = SecMiddleware(tell, config=settings)
    with ExitStack() as stack:
        match request.param:
            case "werkzeug":
                port = stack.enter_context(wsgi_servers.werkzeug(shell, **options(settings)))
            case "cheroot":
                port = stack.enter_context(wsgi_servers.cheroot(shell, adapter(settings)))
            case "cheroot's own adapter":
                port = stack.enter_context(wsgi_servers.cheroot(shell, _stock_adapter(pki, chains)))
            case "apache":
                lines = [*wsgi_servers.TLS_OF_APACHE, *wsgi_servers.files_of_apache(pki, chains.trust)]
                app = wsgi_servers.script("tell", settings)
                port = stack.enter_context(wsgi_servers.apache(pytestconfig, {"shop": (app, lines)})).port
            case "uwsgi":
                tls = wsgi_servers.tls_of_uwsgi(pki, chains.trust)
                app = wsgi_servers.script("tell", settings)
                port = stack.enter_context(wsgi_servers.uwsgi(pytestconfig, app, **tls)).port
        yield Served(request.param, port)


def _stock_adapter(pki: Pki, chains: Chains) -> Any:
    from cheroot.ssl.builtin import BuiltinSSLAdapter

    made = BuiltinSSLAdapter(str(pki.certificate), str(pki.key))
    made.context.load_verify_locations(chains.trust)
    made.context.verify_mode = ssl.CERT_OPTIONAL
    made.context.options |= ssl.OP_NO_TICKET
    return made


@pytest.mark.parametrize("tls", ["1.2", "1.3"])
def test_the_app_knows_who_is_calling(pki: Pki, served: Served, tls: str) -> None:
    for name in ("alice", "bob"):
        told = ask(served.port, pki.client(name, tls)).json
        assert (told["identity"], told["presented"]) == (pki.spiffe(name), None)
    refused = ask(served.port, pki.client(None, tls))
    assert (refused.status, refused.code) == (401, "certificate_missing")
    assert ask(served.port, pki.client(None, tls), "/open/x").json["identity"] is None
    assert ask(served.port, pki.client("alice", tls), "/admin/x").code == "identity_not_allowed"
    assert ask(served.port, pki.client("ops/zoe", tls), "/admin/x").json["identity"] == pki.spiffe("ops/zoe")


@pytest.mark.parametrize("tls", ["1.2", "1.3"])
def test_a_certificate_of_a_strange_ca_dies_in_the_handshake(pki: Pki, served: Served, tls: str) -> None:
    with pytest.raises(DIES):
        ask(served.port, pki.client("!alice", tls), "/open/x")
    assert ask(served.port, pki.client("alice", tls)).status == 200


@pytest.mark.parametrize("tls", ["1.2", "1.3"])
def test_an_expired_certificate_dies_in_the_handshake(
    served: Served, expired: ssl.SSLContext, tls: str
) -> None:
    expired.minimum_version = ssl.TLSVersion.TLSv1_2
    expired.maximum_version = ssl.TLSVersion[f"TLSv{tls.replace('.', '_')}"]
    expired.minimum_version = expired.maximum_version
    with pytest.raises(DIES):
        ask(served.port, expired, "/open/x")


def test_a_certificate_that_ends_while_its_connection_stays_is_refused_from_then_on(
    pki: Pki, served: Served
) -> None:
    if served.name in ("werkzeug", "uwsgi"):
        return  # each request has a connection of its own there
    with Connection(served.port, pki.short_lived("brief", timedelta(seconds=2))) as connection:
        assert connection.ask().status == 200
        # Apache keeps a connection for a hundred requests.
        until(lambda: time.sleep(0.1) or connection.ask().status == 403, "it ends")
        assert connection.ask().code == "certificate_expired"


@pytest.mark.parametrize("tls", ["1.2", "1.3"])
def test_a_chain_is_followed_where_the_server_hands_it_over_and_else_refused(
    served: Served, chains: Chains, tls: str
) -> None:
    answer = ask(served.port, chains.client(tls))
    if served.name in LEAF_ONLY:
        assert (answer.status, answer.code) == (403, "certificate_untrusted")
    else:
        assert answer.json["identity"] == "dns:client.example.org"


@pytest.mark.parametrize("tls", ["1.2", "1.3"])
def test_a_session_is_not_resumed_or_makes_nobody_another(pki: Pki, served: Served, tls: str) -> None:
    context, session = pki.client("alice", tls), None
    for _ in range(3):
        with Connection(served.port, context, session) as connection:
            assert connection.ask().json["identity"] == pki.spiffe("alice")
            # These cannot be told not to; what was presented in the first handshake is judged again.
            assert not connection.tls.session_reused or served.name in LEAF_ONLY
            session = connection.tls.session


LIES = [
    ("SSL_CLIENT_VERIFY", "SUCCESS"), ("ssl-client-verify", "SUCCESS"), ("HTTPS", "on"),
    ("HTTPS_CLIENT_CERTIFICATE", "{pem}"), ("https-client-certificate", "{pem}"),
    ("S-CLIENT-CERTIFICATE", "{pem}"),
    ("SSL_CLIENT_CERT", "{pem}"), ("ssl-client-cert", "{pem}"), ("secmiddleware.presented", "{pem}"),
    ("X-Forwarded-Client-Cert", "{pem}"), ("Client-Cert", "{pem}"), ("werkzeug.socket", "x"),
    ("gunicorn.socket", "x"),
]  # fmt: skip


def test_no_header_makes_a_certificate(pki: Pki, served: Served) -> None:
    victim = pki.trusted.issue_client(spiffe_id=pki.spiffe("victim")).certificate_pem.decode()
    pem = "".join(victim.split("-----")[2].split())
    headers = [(name, value.format(pem=pem)) for name, value in LIES]
    for lies in (*([header] for header in headers), headers):
        answer = ask(served.port, pki.client(None), headers=lies)
        # Some of these are no names of headers: Apache says so.
        assert answer.status == 400 or answer.code == "certificate_missing", lies
        answer = ask(served.port, pki.client("alice"), headers=lies)
        assert answer.status == 400 or answer.json["identity"] == pki.spiffe("alice"), lies


@pytest.mark.parametrize(
    "target",
    ["/open/../admin/x", "//admin/x", "/open/%2e%2e/admin/x", "/open%2f..%2fadmin/x", "/%61dmin/x", "/admin",
     "/admin//x", "https://localhost/admin/x", "/open/..;/admin/x", "/./admin/x", "/admin%2fx",
     "/ADMIN/../admin/x"],
)  # fmt: skip
def test_no_spelling_of_a_path_gets_past_its_rule(pki: Pki, served: Served, target: str) -> None:
    answer = ask(served.port, pki.client("alice"), target)
    if answer.status == 200:
        path = answer.json["path"]
        assert not path.startswith("/admin"), path
        assert ".." not in path.split("/"), path
    else:
        assert answer.status in (400, 403, 404)


def test_many_clients_at_once_never_get_each_others_identity(pki: Pki, served: Served) -> None:
    names = [f"crowd/{number}" for number in range(16)]
    contexts = {name: pki.client(name) for name in names}
    answers: list[tuple[str, str, Any]] = []
    failures: list[BaseException] = []

    def client(name: str) -> None:
        try:
            for number in range(6):
                said = f"{name} {number}"
                headers = [("x-said", said)]
                answers.append((name, said, ask(served.port, contexts[name], headers=headers).json))
        except BaseException as error:  # noqa: BLE001  (whatever it is, it is what is looked for)
            failures.append(error)

    threads = [threading.Thread(target=client, args=(name,)) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(3 * PATIENCE)
    assert failures == []
    assert len(answers) == 6 * len(names)
    for name, said, told in answers:
        assert (told["identity"], told["again"], told["said"]) == (pki.spiffe(name), pki.spiffe(name), said)
    turns = sum(before[0] != after[0] for before, after in itertools.pairwise(answers))
    assert turns > 2 * len(names)


def test_a_client_who_says_nothing_holds_up_nobody(pki: Pki, served: Served) -> None:
    if served.name == "cheroot's own adapter":
        return  # it waits for each handshake where it accepts: docs/servers.md
    with ExitStack() as stack:
        for said in (b"", b"\x16\x03\x01\x02\x00", b"GET / HT"):
            silent = stack.enter_context(socket.create_connection(("127.0.0.1", served.port)))
            silent.sendall(said)
        begun = time.monotonic()
        assert ask(served.port, pki.client("alice")).status == 200
        assert time.monotonic() - begun < PATIENCE / 4


def test_what_does_not_speak_tls_gets_nothing_of_the_app(served: Served) -> None:
    with socket.create_connection(("127.0.0.1", served.port), PATIENCE) as plain:
        plain.sendall(b"GET /open/x HTTP/1.1\r\nhost: localhost\r\n\r\n")
        try:
            said = plain.recv(65536)
        except ConnectionError:
            said = b""
    assert b"200 OK" not in said
    assert b"identity" not in said
