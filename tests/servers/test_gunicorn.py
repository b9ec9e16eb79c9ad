"""gunicorn's own workers over TLS: whose certificate it is, whose path it is, and who is waited for."""

from __future__ import annotations

import json
import random
import socket
import ssl
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from datetime import timedelta
from http.client import HTTPException
from typing import Any

import flask
import pytest
from exchanges.gunicorn_worker import WORKERS, Running

from secmiddleware.messages import IDENTITY_KEY
from secmiddleware.servers import gunicorn
from secmiddleware.servers.gunicorn import options
from secmiddleware.wsgi import SecMiddleware
from servers.pki import Pki
from servers.serving import PATIENCE, Connection, Response, ask, request, until
from servers.test_judged_path import ADMIN, BY_HAND, GRAMMAR, PREFIX_HEADERS, SLASHES, TAILS, has_one_reading

CLIENTS = 30
KEPT = 8  # requests over one connection
FRESH = 4  # requests over a connection of their own each

KEYS = ("REMOTE_ADDR", "SCRIPT_NAME", "PATH_INFO", "wsgi.url_scheme", "REQUEST_METHOD", "CONTENT_LENGTH")


def tell(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
    """What the app sees of a request."""
    identity = environ[IDENTITY_KEY]
    told = {key: environ.get(key) for key in KEYS}
    told["identity"] = None if identity is None else identity.spiffe_id
    told["headers"] = {key: value for key, value in environ.items() if key.startswith("HTTP_")}
    body = json.dumps(told).encode()
    start_response("200 OK", [("Content-Type", "application/json"), ("Content-Length", str(len(body)))])
    return [body]


@contextmanager
def working(
    app: Any, pki: Pki, worker: str = "gthread", *, threads: int = 4, settings: Any = None, **changed: Any
) -> Iterator[int]:
    """The port on which a worker serves the app, wrapped."""
    settings = settings or pki.settings()
    shell = SecMiddleware(app, config=settings)
    running = Running(shell, {**options(settings, threads=1 if worker == "sync" else threads), **changed})
    try:
        yield running.port
    finally:
        running.end()


@pytest.fixture(scope="module", params=list(WORKERS))
def worker(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def port(pki: Pki, worker: str) -> Iterator[int]:
    routes = [
        {"path": "/open", "client": "optional"},
        {"path": "/admin/**", "allow": ["spiffe://example.org/ops/*"]},
    ]
    with working(tell, pki, worker, settings=pki.settings(routes=routes)) as port:
        yield port


# --- Whose certificate it is.


@pytest.mark.parametrize("tls", ["1.2", "1.3"])
def test_the_app_knows_who_is_calling(pki: Pki, port: int, tls: str) -> None:
    for name in ("alice", "bob"):
        assert ask(port, pki.client(name, tls)).json["identity"] == pki.spiffe(name)
    assert ask(port, pki.client(None, tls)).code == "certificate_missing"
    assert ask(port, pki.client(None, tls), "/open").json["identity"] is None


def test_a_certificate_of_a_strange_ca_dies_in_the_handshake(pki: Pki, port: int) -> None:
    for tls in ("1.2", "1.3"):
        with pytest.raises((ssl.SSLError, ConnectionError)):
            ask(port, pki.client("!alice", tls))


def test_a_session_is_never_resumed(pki: Pki, port: int) -> None:
    for tls in ("1.2", "1.3"):
        context, session = pki.client("alice", tls), None
        for _ in range(3):
            with Connection(port, context, session) as connection:
                assert connection.ask().json["identity"] == pki.spiffe("alice")
                assert not connection.tls.session_reused
                session = connection.tls.session


def test_a_handshake_is_looked_at_before_anything_is_read(pki: Pki, worker: str) -> None:
    seen: list[bool] = []

    def app(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        seen.append(environ["gunicorn.socket"]._shaken)
        return tell(environ, start_response)

    with working(app, pki, worker) as port:
        assert ask(port, pki.client("alice")).status == 200
    assert seen == [True]


def test_a_certificate_that_ends_while_its_connection_stays_is_refused_from_then_on(pki: Pki) -> None:
    brief = pki.short_lived("brief", timedelta(seconds=1.5))
    with working(tell, pki) as port, Connection(port, brief) as connection:
        assert connection.ask().status == 200
        until(lambda: connection.ask().status == 403, "it ends")
        assert connection.ask().code == "certificate_expired"


def repeat(environ: dict[str, Any], start_response: Any) -> Iterator[bytes]:
    """Who is calling, before and after others had their turn, and what the caller said to be told."""
    length = environ["HTTP_X_LENGTH"]
    start_response("200 OK", [("Content-Type", "application/json"), ("Content-Length", length)])
    told = [environ[IDENTITY_KEY].spiffe_id]
    for _ in range(3):
        time.sleep(0)
    told += [environ[IDENTITY_KEY].spiffe_id, environ["HTTP_X_SAID"]]
    yield json.dumps(told).encode().ljust(int(length))


def test_thirty_clients_at_once_never_get_each_others_identity(pki: Pki, worker: str) -> None:
    names = [f"crowd/{number}" for number in range(CLIENTS)]
    contexts = {name: pki.client(name) for name in names}
    answers: list[tuple[str, str, Any]] = []
    failures: list[BaseException] = []

    def client(name: str, port: int) -> None:
        def one(connection: Connection, said: str) -> None:
            headers = [("x-said", said), ("x-length", "200")]
            answers.append((name, said, connection.ask(headers=headers).json))

        try:
            if worker == "gthread":
                with Connection(port, contexts[name]) as connection:
                    for number in range(KEPT):
                        one(connection, f"{name} kept {number}")
            for number in range(FRESH):
                with Connection(port, contexts[name]) as connection:
                    one(connection, f"{name} fresh {number}")
        except BaseException as error:  # noqa: BLE001  (whatever it is, it is what is looked for)
            failures.append(error)

    with working(repeat, pki, worker, threads=CLIENTS) as port:
        threads = [threading.Thread(target=client, args=(name, port)) for name in names]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(3 * PATIENCE)
    assert failures == []
    assert len(answers) == CLIENTS * (FRESH + (KEPT if worker == "gthread" else 0))
    for name, said, told in answers:
        assert told == [pki.spiffe(name), pki.spiffe(name), said]


# --- What clients say of themselves.


LIES = [
    *PREFIX_HEADERS,
    ("SCRIPT_NAME", "/admin"), ("script_name", "/open"), ("Path_Info", "/admin/x"), ("PATH_INFO", "/open"),
    ("REMOTE_ADDR", "10.0.0.1"), ("remote-addr", "10.0.0.1"), ("RAW_URI", "/open"), ("raw-uri", "/open"),
    ("x-forwarded-ssl", "on"), ("x-forwarded-protocol", "http"), ("wsgi.url_scheme", "http"),
    ("secmiddleware.presented", "x"), ("request-method", "GET"),
]  # fmt: skip


def test_no_header_of_the_client_moves_its_request(pki: Pki, port: int) -> None:
    alice = pki.client("alice")
    for header in LIES:
        if header[0] == ":path":
            continue  # no name of a header: gunicorn says so itself
        refused = ask(port, alice, "/admin/x", headers=[header])
        assert refused.status in (400, 403), header
        if header[0] == "host":
            continue  # there is one already
        told = ask(port, alice, "/x", headers=[header]).json
        seen = {key: told[key] for key in KEYS}
        assert seen == {
            "REMOTE_ADDR": "127.0.0.1",
            "SCRIPT_NAME": "",
            "PATH_INFO": "/x",
            "wsgi.url_scheme": "https",
            "REQUEST_METHOD": "GET",
            "CONTENT_LENGTH": None,
        }, header


def test_underscore_twins_do_not_reach_the_app(pki: Pki, port: int) -> None:
    twins = [
        ("X-Real", "real"),
        ("X_Real", "twin"),
        ("X_Only", "twin"),
        ("Content_Type", "x"),
        ("Transfer_Encoding", "chunked"),
    ]
    told = ask(port, pki.client("alice"), headers=twins).json
    assert told["headers"] == {"HTTP_HOST": "localhost", "HTTP_X_REAL": "real"}


@pytest.mark.parametrize("name", ["host", "content-type", "content-length", "transfer-encoding"])
def test_a_header_that_must_be_one_and_is_two_is_refused(pki: Pki, port: int, name: str) -> None:
    values = {"host": ("localhost", "other"), "content-type": ("a/b", "c/d"), "content-length": ("0", "0")}
    headers = [(name, value) for value in values.get(name, ("chunked", "chunked"))]
    assert ask(port, pki.client("alice"), method="POST", headers=headers).status == 400


def test_a_header_that_is_doubled_is_one_with_a_comma(pki: Pki, port: int) -> None:
    told = ask(port, pki.client("alice"), headers=[("x-a", "1"), ("x-a", "2")]).json
    assert told["headers"]["HTTP_X_A"] == "1,2"


def test_who_starts_gunicorn_without_our_options_is_not_moved_by_a_header_either(pki: Pki) -> None:
    # By default gunicorn believes whoever calls from this host.
    believing = {
        "forwarded_allow_ips": "127.0.0.1",
        "forwarder_headers": "SCRIPT_NAME,PATH_INFO",
        "secure_scheme_headers": {"X-FORWARDED-PROTO": "https"},
    }
    routes = [{"path": "/admin/**", "allow": ["spiffe://example.org/ops/*"]}, {"path": "/x/**"}]
    with working(tell, pki, settings=pki.settings(routes=routes), **believing) as port:
        alice = pki.client("alice")
        assert ask(port, alice, "/x/admin/y", headers=[("SCRIPT_NAME", "/x")]).code == "path_ambiguous"
        assert ask(port, alice, "/admin/y", headers=[("SCRIPT_NAME", "/admin")]).code == "path_ambiguous"
        assert ask(port, alice, "/admin/y", headers=[("SCRIPT_NAME", "/x")]).status == 500


# --- The path that is judged is the path that is routed.


class Routed:
    """Flask routes of the admin's and of everybody's; who comes to the admin's is written down."""

    def __init__(self) -> None:
        self.seen: list[str] = []
        self.to_admin: list[str] = []
        self.app = flask.Flask("routed", static_folder=None)

        @self.app.route("/admin", defaults={"rest": ""}, strict_slashes=False)
        @self.app.route("/admin/<path:rest>")
        def admin(rest: str) -> str:
            self.to_admin.append(rest)
            return "the admin's"

        @self.app.route("/", defaults={"rest": ""})
        @self.app.route("/<path:rest>")
        def public(rest: str) -> str:
            return "everybody's"

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Any:
        self.seen.append(environ["PATH_INFO"].encode("latin-1").decode("utf-8"))
        return self.app(environ, start_response)


def _send(port: int, connection: Connection | None, context: ssl.SSLContext, target: bytes) -> Any:
    """The response, or None where the server closes the door, and the connection if it stays."""
    try:
        connection = connection or Connection(port, context)
        connection.send(request(target))
        response: Response | None = connection.response()
    except (OSError, Exception):  # noqa: BLE001  (a server may end such a connection in any way)
        response = None
    if response is None or ("Connection", "close") in response.headers:
        if connection is not None:
            connection.tls.close()
        connection = None
    return response, connection


def test_no_hostile_target_gets_past_the_rule(pki: Pki) -> None:
    routed = Routed()
    rules = [{"path": "/admin/**", "allow": ["spiffe://example.org/ops/*"]}]
    drawn = [b"".join(parts) for parts in random.Random("gunicorn").sample(GRAMMAR, 300)]
    simple = [slash + admin + tail for slash in SLASHES for admin in ADMIN[:4] for tail in TAILS[:3]]
    answered, alice = 0, pki.client("shop/alice")
    with working(routed, pki, settings=pki.settings(routes=rules)) as port, ExitStack() as stack:
        connection: Connection | None = None
        for target in BY_HAND + drawn + simple:
            routed.seen.clear()
            response, connection = _send(port, connection, alice, target)
            answered += response is not None
            assert routed.to_admin == [], f"{target!r} was let through to the admin's"
            assert all(has_one_reading(path) for path in routed.seen), target
            if response is not None and not routed.seen:
                assert response.status >= 400, target
        if connection is not None:
            stack.callback(connection.tls.close)
        assert answered > 0.9 * len(BY_HAND + drawn + simple)
        for target in ("/admin", "/admin/x", "/%61dmin/x"):
            assert ask(port, pki.client("ops/oscar"), target).body == b"the admin's"
        assert len(routed.to_admin) == 3


# --- Who is waited for.


def test_a_handshake_that_fails_is_counted_once(pki: Pki, monkeypatch: pytest.MonkeyPatch) -> None:
    """By its count of connections a worker knows, at its end, that there are requests to wait for."""
    monkeypatch.setattr(gunicorn, "_SILENCE_SECONDS", 0.2)
    settings = pki.settings()
    running = Running(SecMiddleware(tell, config=settings), options(settings))
    try:
        with Connection(running.port, pki.client("alice")) as kept:
            assert kept.ask().status == 200
            for _ in range(3):
                with pytest.raises((ssl.SSLError, ConnectionError)):
                    ask(running.port, pki.client("!alice"))
                for said in (b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01\x02\x00"):
                    with socket.create_connection(("127.0.0.1", running.port), PATIENCE) as other:
                        other.sendall(said)
                        with suppress(ConnectionError):
                            while other.recv(1000):
                                pass
            assert kept.ask().status == 200
            until(lambda: running.connections <= 1, "the others are over")
            assert running.connections == 1
            with Connection(running.port, pki.client("bob")) as another:
                assert another.ask().status == 200
                assert running.connections == 2
    finally:
        running.end()


def read(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
    """How much of its body a request has."""
    body = environ["wsgi.input"].read()
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", "4")])
    return [b"%4d" % len(body)]


def test_a_client_who_says_nothing_holds_up_nobody_for_long(
    pki: Pki, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gunicorn, "_SILENCE_SECONDS", 0.2)
    alice = pki.client("alice")
    begun = time.monotonic()
    with working(read, pki, threads=2) as port, ExitStack() as stack:
        for _ in range(2):  # as many as there are threads
            half = stack.enter_context(socket.create_connection(("127.0.0.1", port)))
            half.sendall(b"\x16\x03\x01\x02\x00")  # the beginning of a handshake
        assert ask(port, alice).status == 200
        for said in (b"", b"GET / HT", b"POST /x HTTP/1.1\r\nhost: x\r\ncontent-length: 9\r\n\r\nhalf"):
            for _ in range(2):
                silent = stack.enter_context(Connection(port, alice))
                silent.send(said)
            assert ask(port, alice).status == 200
        # Nor does gunicorn wait for the farewells of all those, 2 s each.
        assert time.monotonic() - begun < PATIENCE / 4


def test_what_comes_after_a_silence_is_not_a_request(pki: Pki, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gunicorn, "_SILENCE_SECONDS", 0.2)
    seen: list[str] = []

    def app(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        seen.append(environ["PATH_INFO"])
        return read(environ, start_response)

    with working(app, pki) as port, Connection(port, pki.client("alice")) as connection:
        connection.send(b"POST /first HTTP/1.1\r\nhost: x\r\ncontent-length: 60\r\n\r\nhalf")
        assert connection.response().body == b"   4"
        connection.send(b"GET /second HTTP/1.1\r\nhost: x\r\n\r\n")
        with pytest.raises((OSError, HTTPException)):
            connection.response()
    assert seen == ["/first"]


def test_a_slow_reader_gets_all_of_it(pki: Pki, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gunicorn, "_SILENCE_SECONDS", 0.2)
    much = b"x" * 20_000_000

    def app(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(much)))])
        return [much]

    with working(app, pki) as port, Connection(port, pki.client("alice")) as connection:
        connection.send(request("/"))
        time.sleep(0.6)  # longer than a client may be silent: it is not its turn to speak
        assert connection.response().body == much
