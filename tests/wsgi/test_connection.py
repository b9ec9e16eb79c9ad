"""The live connection in the environ: it would show a certificate that was not accepted."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from servers.pki import Pki

from secmiddleware.certificates.contexts import server_context
from secmiddleware.certificates.trust import load_anchors
from secmiddleware.messages import IDENTITY_KEY, PRESENTED_KEY
from secmiddleware.wsgi import SecMiddleware
from wsgi.calling import call, environ_of

ROUTES = [{"path": "/off", "client": "off"}, {"path": "/maybe", "client": "optional"}]
KEYS = ("gunicorn.socket", "gunicorn.sock", "werkzeug.socket")


@contextmanager
def connected(pki: Pki, name: str | None, anchors: Any = None) -> Iterator[ssl.SSLSocket]:
    """The server's end of a real connection with this client."""
    context = server_context(pki.certificate, pki.key, anchors or load_anchors(pki.ca), "optional")
    ours, theirs = socket.socketpair()
    client: list[ssl.SSLSocket] = []

    def shake() -> None:
        client.append(pki.client(name).wrap_socket(theirs, server_hostname="localhost"))

    thread = threading.Thread(target=shake)
    thread.start()
    try:
        with context.wrap_socket(ours, server_side=True) as server:
            thread.join(10)
            yield server
    finally:
        thread.join(10)
        for end in client:
            end.close()


def what_the_app_gets(pki: Pki, path: str, connection: Any, key: str, **mtls: Any) -> dict[str, Any]:
    seen: list[dict[str, Any]] = []

    def app(environ: Any, start_response: Any) -> list[bytes]:
        seen.append(environ)
        start_response("200 OK", [])
        return []

    scheme = "https" if isinstance(connection, ssl.SSLSocket) else "http"
    environ = environ_of(path, **{key: connection, "wsgi.url_scheme": scheme})
    if key != "gunicorn.sock":  # it is no way in
        del environ[PRESENTED_KEY]
    assert call(SecMiddleware(app, config=pki.settings(routes=ROUTES, mtls=mtls)), environ).status == 200
    return seen[0]


@pytest.mark.parametrize("key", KEYS)
def test_where_nobody_is_asked_the_app_does_not_get_a_connection_that_has_a_certificate(
    pki: Pki, key: str
) -> None:
    with connected(pki, "alice") as connection:
        environ = what_the_app_gets(pki, "/off", connection, key)
        assert key not in environ
        assert environ[IDENTITY_KEY] is None


@pytest.mark.parametrize("key", KEYS)
def test_a_connection_that_has_no_certificate_is_the_apps_to_take_over(pki: Pki, key: str) -> None:
    with connected(pki, None) as connection:
        for path in ("/off", "/maybe"):
            assert what_the_app_gets(pki, path, connection, key)[key] is connection


def test_a_connection_whose_certificate_was_accepted_is_too(pki: Pki) -> None:
    with connected(pki, "alice") as connection:
        environ = what_the_app_gets(pki, "/maybe", connection, "gunicorn.socket")
        assert environ[IDENTITY_KEY].spiffe_id == pki.spiffe("alice")
        assert environ["gunicorn.socket"] is connection
        assert environ["SSL_CLIENT_VERIFY"] == "SUCCESS"


def test_a_connection_with_a_certificate_that_is_not_accepted_goes_where_the_code_is_shown(pki: Pki) -> None:
    """A server of its own making may let anybody through TLS."""
    anchors = [pki.trusted.certificate, pki.strange.certificate]
    with connected(pki, "!mallory", anchors) as connection:
        environ = what_the_app_gets(
            pki, "/maybe", connection, "gunicorn.socket", client="optional", unaccepted="show"
        )
        assert environ["secmiddleware.unaccepted"].code == "certificate_untrusted"
        assert "gunicorn.socket" not in environ
        assert environ["SSL_CLIENT_VERIFY"] == "NONE"


def test_a_plain_or_a_closed_connection_breaks_nothing(pki: Pki) -> None:
    plain, other = socket.socketpair()
    with plain, other:
        assert what_the_app_gets(pki, "/off", plain, "gunicorn.socket")["gunicorn.socket"] is plain
    with connected(pki, "alice") as connection:
        pass
    assert "werkzeug.socket" not in what_the_app_gets(pki, "/off", connection, "werkzeug.socket")
