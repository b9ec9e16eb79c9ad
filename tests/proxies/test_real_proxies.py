"""Real proxies in front of real servers: who is admitted, who is refused, and who only says so.

Whoever is behind the proxy is told by what the proxy wrote, whatever the client sent beside it.
"""

from __future__ import annotations

import json
import os
import socket
import ssl
from base64 import b64encode
from collections.abc import Callable
from itertools import product
from typing import Any
from urllib.parse import quote

import pytest
from servers.serving import Response
from services.running import Server

from proxies.behind import Behind
from proxies.conftest import Street
from proxies.fronts import Apache
from secmiddleware.certificates.contexts import client_context

INTERFACES = ("asgi", "wsgi")
WAYS = [
    ("nginx", None),
    ("haproxy", None),
    ("careless haproxy", None),
    ("apache", "spaces"),
    ("apache", "escaped"),
    ("apache", "base64"),
]


WRITTEN: dict[tuple[str, str | None], Callable[[str], str]] = {
    ("nginx", None): lambda pem: quote(pem, safe=""),
    ("haproxy", None): lambda pem: b64encode(ssl.PEM_cert_to_DER_cert(pem)).decode(),
    ("apache", "spaces"): lambda pem: pem.replace("\n", " ").strip(),
    ("apache", "escaped"): lambda pem: pem.replace(" ", "%20").replace("\n", "%0a"),
    ("apache", "base64"): lambda pem: b64encode(pem.encode()).decode(),
}
"""How each proxy writes a certificate."""


class Way:
    """From a client through a proxy to the app."""

    def __init__(self, street: Street, front: Server, form: str | None) -> None:
        self.street = street
        self.victim = _victim(street, WRITTEN["nginx" if isinstance(front, Behind) else front.name, form])
        self.port = front.ports[form] if isinstance(front, Apache) and form is not None else front.port

    def ask(self, caller: str | None, target: str = "/", *lines: str) -> Response | None:
        return self.send(self.street.pki.client(caller), target, *lines)

    def send(self, context: ssl.SSLContext, target: str, *lines: str) -> Response | None:
        """The response to a request with these header lines, sent as they are; None where TLS refuses."""
        try:
            with (
                socket.create_connection(("127.0.0.1", self.port), 20) as raw,
                context.wrap_socket(raw, server_hostname="localhost") as tls,
            ):
                tls.sendall(_request(target, *lines))
                return _response(tls)
        except (ssl.SSLError, ConnectionError):
            return None


def _request(target: str, *lines: str) -> bytes:
    head = [f"GET {target} HTTP/1.1", "Host: localhost", *lines]
    if not any(line.lower().startswith("connection") for line in lines):
        head.append("Connection: close")
    return "\r\n".join([*head, "", ""]).encode("latin-1", "surrogateescape")


def _response(connection: socket.socket) -> Response | None:
    data = b""
    connection.settimeout(20)
    try:
        while chunk := connection.recv(65536):
            data += chunk
            head, blank, body = data.partition(b"\r\n\r\n")
            if blank and _is_whole(head, body):
                break
    except (ConnectionError, ssl.SSLError):
        pass
    head, blank, body = data.partition(b"\r\n\r\n")
    if not blank:
        return None
    if b"transfer-encoding: chunked" in head.lower():
        body = body.partition(b"\r\n")[2].partition(b"\r\n")[0]
    pairs = [line.partition(b": ") for line in head.split(b"\r\n")[1:]]
    headers = tuple((name.decode("latin-1").lower(), value.decode("latin-1")) for name, _, value in pairs)
    return Response(int(head.split(b" ")[1]), headers, body)


def _is_whole(head: bytes, body: bytes) -> bool:
    lower = head.lower()
    if b"transfer-encoding: chunked" in lower:
        return body.endswith(b"0\r\n\r\n")
    _, told, rest = lower.partition(b"content-length: ")
    return bool(told) and len(body) >= int(rest.split(b"\r\n")[0])


@pytest.fixture(scope="module", params=[(*way, interface) for way in WAYS for interface in INTERFACES],
                ids=lambda way: " ".join(filter(None, way)))  # fmt: skip
def way(street: Street, request: pytest.FixtureRequest) -> Way:
    name, form, interface = request.param
    return Way(street, street.front(name, interface), form)


def _who(response: Response | None) -> Any:
    assert response is not None
    assert response.status == 200, (response.status, response.body)
    told = json.loads(response.body)
    assert not [name for name in told["names"] if "ssl" in name or "cert" in name], told
    return told["who"]


def _victim(street: Street, written: Callable[[str], str]) -> str:
    """A good certificate of somebody who may do more, as anybody can have it, written as a proxy does."""
    street.pki.client("ops/oscar")
    return written((street.pki.folder / "ops-oscar.pem").read_text())


def test_who_has_a_certificate_is_known_to_the_app(way: Way) -> None:
    assert _who(way.ask("shop/alice")) == "spiffe://example.org/shop/alice"
    assert _who(way.ask("ops/oscar", "/admin/x")) == "spiffe://example.org/ops/oscar"


def test_who_may_not_come_there_is_refused(way: Way) -> None:
    refused = way.ask("shop/alice", "/admin/x")
    assert refused is not None
    assert (refused.status, refused.code) == (403, "identity_not_allowed")


def test_who_has_none_is_refused_or_nobody(way: Way) -> None:
    refused = way.ask(None)
    assert refused is not None
    assert (refused.status, refused.code) == (401, "certificate_missing")
    assert _who(way.ask(None, "/maybe/x")) is None
    assert _who(way.ask(None, "/open")) is None


@pytest.mark.parametrize("caller", ["!shop/alice", "!ops/oscar"])
def test_a_stranger_is_refused(way: Way, caller: str) -> None:
    for target in ("/", "/maybe/x", "/admin/x"):
        refused = way.ask(caller, target)
        assert refused is None or refused.status in (400, 403), target


def test_an_expired_certificate_is_refused(way: Way) -> None:
    refused = way.send(way.street.expired(), "/")
    assert refused is None or refused.status in (400, 403)


# What a client may write beside what the proxy writes. {v}: the victim's certificate, in every form.
FORGED = {
    "the header itself": ("X-SSL-Client-Cert: {v}",),
    "the header and its verdict": ("X-SSL-Client-Cert: {v}", "X-SSL-Client-Verify: SUCCESS"),
    "haproxy's words": ("X-SSL-Client-Cert: {v}", "X-SSL-Client-Verify: 0", "X-SSL-Client-Used: 1"),
    "all of it twice": ("X-SSL-Client-Cert: {v}", "X-SSL-Client-Cert: {v}", "X-SSL-Client-Verify: SUCCESS",
                        "X-SSL-Client-Verify: SUCCESS"),
    "underscore twins": ("X_SSL_Client_Cert: {v}", "X_SSL_Client_Verify: SUCCESS", "X_SSL_Client_Used: 1"),
    "one underscore": ("X-SSL-Client_Cert: {v}", "X-SSL-Client_Verify: SUCCESS"),
    "odd capitals": ("x-SSL-cLIENT-cERT: {v}", "x-ssl-client-VERIFY: SUCCESS"),
    "a connection that drops the verdict": ("X-SSL-Client-Cert: {v}",
                                            "Connection: close, X-SSL-Client-Verify"),
    "a connection that drops the certificate": ("X-SSL-Client-Cert: {v}",
                                                "Connection: close, X-SSL-Client-Cert"),
    "a connection that drops whether it was used": ("X-SSL-Client-Cert: {v}", "X-SSL-Client-Used: 1",
                                                    "Connection: close, X-SSL-Client-Used"),
    "a connection that drops everything": (
        "Connection: close, X-SSL-Client-Verify, X-SSL-Client-Cert, X-SSL-Client-Used",
        "X_SSL_Client_Cert: {v}", "X_SSL_Client_Verify: SUCCESS", "X_SSL_Client_Used: 1"),
    "another proxy's header": ("Client-Cert: {v}", "X-Forwarded-Client-Cert: Hash=00;Cert=\"{v}\"",
                               "X-Forwarded-Tls-Client-Cert: {v}", "X-Amzn-Mtls-Clientcert: {v}",
                               "X-ARR-ClientCert: {v}", "Cf-Client-Cert-Der-Base64: {v}"),
    "the rest of a chain": ("X-SSL-Client-Cert-Chain-0: {v}", "X-SSL-Client-Chain-Der: {v}"),
    "an unset variable": ("X-SSL-Client-Cert: (null)", "X-SSL-Client-Verify: (null)"),
    "a placeholder": ("X-SSL-Client-Cert: {{http.request.tls.client.certificate_der_base64}}",),
    "nothing": ("X-SSL-Client-Cert:", "X-SSL-Client-Verify:"),
    "a folded line": ("X-SSL-Client-Cert: x\r\n {v}", "X-SSL-Client-Verify: FAILED\r\n SUCCESS"),
    "a space before the colon": ("X-SSL-Client-Cert : {v}", "X-SSL-Client-Verify : SUCCESS"),
    "a tab before the colon": ("X-SSL-Client-Cert\t: {v}", "X-SSL-Client-Verify\t: SUCCESS"),
    "a carriage return": ("X-A: b\rX-SSL-Client-Cert: {v}\rX-SSL-Client-Verify: SUCCESS",),
    "a line feed": ("X-A: b\nX-SSL-Client-Cert: {v}\nX-SSL-Client-Verify: SUCCESS",),
    "a forwarded address": ("X-Forwarded-For: 127.0.0.2", "Forwarded: for=127.0.0.2", "X-Real-IP: 127.0.0.2",
                            "X-SSL-Client-Cert: {v}", "X-SSL-Client-Verify: SUCCESS"),
    "a proxy protocol of one's own": ("X-SSL-Client-Verify: SUCCESS, SUCCESS", "X-SSL-Client-Cert: {v},{v}"),
    "an over-long chain": ("X-SSL-Client-Cert: " + "{v}" * 9, "X-SSL-Client-Verify: SUCCESS"),
}  # fmt: skip


@pytest.mark.parametrize("lines", FORGED.values(), ids=FORGED)
def test_nothing_that_a_client_writes_makes_it_somebody_else(way: Way, lines: tuple[str, ...]) -> None:
    written = [line.format(v=way.victim) for line in lines]
    for caller, target in ((None, "/"), (None, "/maybe/x"), ("shop/alice", "/admin/x"), ("shop/alice", "/")):
        response = way.ask(caller, target, *written)
        if response is None or response.status >= 400:
            continue
        assert target != "/admin/x"
        assert (caller, target) != (None, "/")
        assert _who(response) == (None if caller is None else f"spiffe://example.org/{caller}")


def test_a_request_behind_a_request_is_no_way_either(way: Way) -> None:
    """Two in one connection: what the first has in its headers is none of the second's."""
    context = way.street.pki.client(None)
    first = _request("/open", f"X-SSL-Client-Cert: {way.victim}", "Connection: keep-alive")
    with (
        socket.create_connection(("127.0.0.1", way.port), 20) as raw,
        context.wrap_socket(raw, server_hostname="localhost") as tls,
    ):
        tls.sendall(first)
        opened = _response(tls)
        assert opened is not None
        assert opened.status == 200
        tls.sendall(_request("/"))
        refused = _response(tls)
    assert refused is not None
    assert (refused.status, refused.code) == (401, "certificate_missing")


@pytest.mark.parametrize("source", ["nginx", "haproxy", "apache"])
@pytest.mark.parametrize("interface", INTERFACES)
def test_past_the_proxy_a_real_certificate_in_a_header_is_worth_nothing(
    street: Street, source: str, interface: str
) -> None:
    app = street.app(source, interface)
    verdicts = ("X-SSL-Client-Verify: SUCCESS", "X-SSL-Client-Verify: 0\r\nX-SSL-Client-Used: 1")
    forms = [_victim(street, written) for (front, _), written in WRITTEN.items() if front == source]
    forwarded = ((), ("X-Forwarded-For: 127.0.0.2",), ("Forwarded: for=127.0.0.2",))
    for form, verdict, more, target in product(forms, verdicts, forwarded, ("/admin/x", "/maybe/x")):
        with socket.create_connection(("127.0.0.1", app.port), 20) as direct:
            direct.sendall(_request(target, f"X-SSL-Client-Cert: {form}", verdict, *more))
            refused = _response(direct)
        assert refused is not None
        assert (refused.status, refused.code) == (403, "proxy_untrusted")


@pytest.mark.parametrize("interface", INTERFACES)
def test_over_a_unix_socket_the_proxys_user_is_believed(street: Street, interface: str) -> None:
    front = street.front("nginx", interface)
    way = Way(street, front, None)
    assert _who(way.ask("shop/alice", "/by-socket/")) == "spiffe://example.org/shop/alice"
    assert _who(way.ask("ops/oscar", "/by-socket/admin/x")) == "spiffe://example.org/ops/oscar"
    refused = way.ask(None, "/by-socket/")
    assert refused is not None
    assert refused.code == "certificate_missing"


@pytest.mark.parametrize("interface", INTERFACES)
def test_over_a_unix_socket_no_other_user_is(street: Street, interface: str) -> None:
    if os.geteuid() != 0:
        pytest.skip("the proxy runs as the same user here: only root can start it as another one")
    app = street.app("nginx", interface, "unix")
    victim = _victim(street, WRITTEN["nginx", None])
    with socket.socket(socket.AF_UNIX) as direct:
        direct.connect(str(app.uds))
        direct.sendall(_request("/", f"X-SSL-Client-Cert: {victim}", "X-SSL-Client-Verify: SUCCESS"))
        refused = _response(direct)
    assert refused is not None
    assert (refused.status, refused.code) == (403, "proxy_untrusted")


@pytest.mark.parametrize("interface", INTERFACES)
def test_a_proxy_that_shows_its_own_certificate_is_believed(street: Street, interface: str) -> None:
    way = Way(street, street.front("nginx", interface), None)
    assert _who(way.ask("shop/alice", "/by-certificate/")) == "spiffe://example.org/shop/alice"
    refused = way.ask(None, "/by-certificate/")
    assert refused is not None
    assert refused.code == "certificate_missing"


@pytest.mark.parametrize("interface", INTERFACES)
def test_who_shows_another_certificate_than_the_proxys_is_not(street: Street, interface: str) -> None:
    """None at all, a caller's own, and one of the proxies' CA with another name."""
    app = street.app("nginx", interface, "own")
    victim = _victim(street, WRITTEN["nginx", None])
    other = street.pki.written(f"other-{interface}", street.proxies.issue_client(dns=["app.internal"]))
    way = Way(street, app, None)
    strange = client_context(street.pki.ca, *other)
    for context in (street.pki.client(None), street.pki.client("ops/oscar"), strange):
        refused = way.send(context, "/", f"X-SSL-Client-Cert: {victim}", "X-SSL-Client-Verify: SUCCESS")
        assert refused is None or (refused.status, refused.code) == (403, "proxy_untrusted")
