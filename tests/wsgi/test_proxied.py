"""Behind a proxy, where nobody says which WSGI server it is: adapters from ASGI, and test clients."""

from __future__ import annotations

import asyncio
import hashlib
import ssl
from typing import Any
from urllib.parse import quote

from hypercorn.app_wrappers import WSGIWrapper
from servers.pki import Pki

from secmiddleware.messages import IDENTITY_KEY, PRESENTED_KEY
from secmiddleware.wsgi import SecMiddleware
from wsgi.calling import call, environ_of


def _shell(pki: Pki, source: str, seen: list[Any]) -> SecMiddleware:
    def app(environ: Any, start_response: Any) -> list[bytes]:
        seen.append(str(environ[IDENTITY_KEY]))
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [b""]

    mtls = {"source": source, "trusted_proxies": ["127.0.0.1"]}
    return SecMiddleware(app, config=pki.settings(mtls=mtls))


def _pem(pki: Pki, name: str) -> str:
    pki.client(name)
    return (pki.folder / f"{name.replace('/', '-')}.pem").read_text()


def _xfcc(pki: Pki, name: str) -> bytes:
    pem = _pem(pki, name)
    digest = hashlib.sha256(ssl.PEM_cert_to_DER_cert(pem)).hexdigest()
    return f'Hash={digest};Cert="{quote(pem, safe="")}"'.encode()


def _status_by_adapter(shell: SecMiddleware, headers: list[tuple[bytes, bytes]]) -> int:
    """What a caller gets where hypercorn adapts the WSGI app to ASGI."""
    sent: list[Any] = []

    async def receive() -> Any:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Any) -> None:
        sent.append(message)

    async def run_sync(function: Any, *given: Any) -> Any:
        return await asyncio.to_thread(function, *given)

    async def main() -> None:
        scope = {"type": "http", "method": "GET", "path": "/", "raw_path": b"/", "root_path": "",
                 "query_string": b"", "http_version": "1.1", "scheme": "http", "headers": headers,
                 "client": ("127.0.0.1", 4711), "server": ("127.0.0.1", 80)}  # fmt: skip
        loop = asyncio.get_running_loop()
        spawned: list[Any] = []

        def call_soon(function: Any, *given: Any) -> None:
            spawned.append(asyncio.run_coroutine_threadsafe(function(*given), loop))
            spawned[-1].result(10)

        await WSGIWrapper(shell, 65536)(scope, receive, send, run_sync, call_soon)

    asyncio.run(main())
    status: int = sent[0]["status"]
    return status


def test_an_underscore_twin_that_an_adapter_joins_makes_nobody_somebody_else(pki: Pki) -> None:
    """Envoy appends at the end, and so does the adapter: the last element would be the client's own."""
    seen: list[Any] = []
    alice, oscar = _xfcc(pki, "shop/alice"), _xfcc(pki, "ops/oscar")
    twins = [(b"x-forwarded-client-cert", alice), (b"x_forwarded_client_cert", oscar)]
    assert _status_by_adapter(_shell(pki, "envoy", seen), twins) == 500
    assert seen == []


def _proxied(pki: Pki, **more: Any) -> tuple[int, list[Any]]:
    seen: list[Any] = []
    pem = quote(_pem(pki, "shop/alice"), safe="")
    headers = {"HTTP_X_SSL_CLIENT_VERIFY": "SUCCESS", "HTTP_X_SSL_CLIENT_CERT": pem}
    environ = environ_of("/", **headers)
    environ.pop("SERVER_SOFTWARE", None)
    del environ[PRESENTED_KEY]
    return call(_shell(pki, "nginx", seen), environ | more).status, seen


def test_who_names_no_server_is_served_behind_no_proxy(pki: Pki) -> None:
    assert _proxied(pki) == (500, [])


def test_a_test_may_say_for_which_server_it_speaks(pki: Pki) -> None:
    assert _proxied(pki, SERVER_SOFTWARE="gunicorn/test") == (200, [pki.spiffe("shop/alice")])
