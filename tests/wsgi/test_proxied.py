"""Behind a proxy, whoever calls a WSGI app: a test that says so itself, and adapters that name no server."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

from servers.pki import Pki

from secmiddleware.messages import IDENTITY_KEY, PRESENTED_KEY
from secmiddleware.wsgi import SecMiddleware
from wsgi.calling import call, environ_of


class Stream:
    """What an adapter reads off a connection."""

    def read(self, size: int = -1) -> bytes:
        return b""


def _proxied(pki: Pki, **more: Any) -> tuple[int, list[Any]]:
    seen: list[Any] = []

    def app(environ: Any, start_response: Any) -> list[bytes]:
        seen.append(environ[IDENTITY_KEY])
        start_response("200 OK", [])
        return []

    pki.client("shop/alice")
    pem = (pki.folder / "shop-alice.pem").read_text()
    headers = {"HTTP_X_SSL_CLIENT_VERIFY": "SUCCESS", "HTTP_X_SSL_CLIENT_CERT": quote(pem, safe="")}
    environ = environ_of("/", **headers, **more)
    environ.pop("SERVER_SOFTWARE", None)
    del environ[PRESENTED_KEY]
    mtls = {"source": "nginx", "trusted_proxies": ["127.0.0.1"]}
    return call(SecMiddleware(app, config=pki.settings(mtls=mtls)), environ).status, seen


def test_a_test_client_that_names_no_server_may_speak_as_the_proxy(pki: Pki) -> None:
    status, (identity,) = _proxied(pki)
    assert status == 200
    assert str(identity) == pki.spiffe("shop/alice")


def test_an_adapter_that_names_no_server_and_may_mix_up_underscores_serves_nobody(pki: Pki) -> None:
    assert _proxied(pki, **{"wsgi.input": Stream()}) == (500, [])
