"""One certificate, looked at from every surface that an app has: all of them show the same, or nothing."""

from __future__ import annotations

import asyncio
import dataclasses
import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest
from asgi.calling import Call, body_messages, http_scope
from cryptography import x509
from django.http import HttpResponse
from django.test import AsyncClient, Client, override_settings
from django.urls import path as django_path
from exchanges.people import DAY, Minted, mint
from fastapi import FastAPI
from fastapi import Request as FastApiRequest
from flask import Flask, g
from flask import request as flask_request
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from wsgi.calling import call as call_wsgi
from wsgi.calling import environ_of

import integrations.django_project  # noqa: F401  (sets Django up)
import secmiddleware_flask
import secmiddleware_starlette
from secmiddleware import asgi, wsgi
from secmiddleware.messages import (
    IDENTITY_KEY,
    PRESENTED_KEY,
    UNACCEPTED_KEY,
    Identity,
    Presented,
    Unaccepted,
)
from secmiddleware.scopes import show
from secmiddleware.security import SecurityManager

SUBJECT = "Zoë, \n李"  # what no variable of an environ may hold as it is

# What servers, and Apache's redirects, may have put there about the very certificate.
SERVERS_WORD = {
    "SSL_CLIENT_VERIFY": "SUCCESS",
    "SSL_CLIENT_CERT": "forged",
    "SSL_CLIENT_CERT_CHAIN_0": "forged",
    "SSL_CLIENT_S_DN": "forged",
    "SSL_CLIENT_S_DN_CN": "forged",
    "SSL_CLIENT_SAN_DNS_7": "forged",
    "SSL_CLIENT_SAN_OTHER_msUPN_0": "forged",
    "REDIRECT_SSL_CLIENT_S_DN": "forged",
    "REDIRECT_REDIRECT_SSL_CLIENT_CERT": "forged",
    "HTTPS_CLIENT_CERTIFICATE": "forged",
    "HTTPS_DN": "forged",
    "HTTPS_CC": "forged",
    "peercert": {"forged": "forged"},
    "mod_ssl.var_lookup": lambda name: "forged",
}
TLS = {
    "server_cert": "of the server",
    "tls_version": 0x0304,
    "cipher_suite": 0x1301,
    "client_cert": b"forged",
    "client_cert_chain": ["forged"],
    "client_cert_name": "forged",
    "client_cert_error": "forged",
}


@dataclass
class Saw:
    """What one surface has shown to its app."""

    surface: str
    identity: Any
    around: dict[str, Any]
    """The scope or the environ."""


Look = Callable[[str, SecurityManager, Presented | None], Saw | int]
"""Asks for a path; gives what the app saw, or the status where it was not called."""


class Asgi:
    """Any ASGI app; it says by `state.seen` what it saw."""

    def __init__(self, shell: Callable[[SecurityManager, list[Any]], Any], kind: str = "http") -> None:
        self._shell = shell
        self._kind = kind

    def __call__(self, path: str, manager: SecurityManager, presented: Presented | None) -> Saw | int:
        seen: list[Any] = []
        shell = self._shell(manager, seen)
        more: dict[str, Any] = {"extensions": {"tls": dict(TLS), "websocket.http.response": {}}}
        messages = body_messages(b"")
        if self._kind == "websocket":
            more |= {"type": "websocket", "scheme": "wss"}
            messages = [{"type": "websocket.connect"}]
        done = asyncio.run(Call(http_scope(path, presented=presented, **more), *messages).to(shell))
        return Saw("", *seen[0]) if seen else done.status


def raw_asgi(manager: SecurityManager, seen: list[Any]) -> Any:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append((scope[IDENTITY_KEY], dict(scope)))
        if scope["type"] == "websocket":
            await send({"type": "websocket.close"})
            return
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    return asgi.SecMiddleware(app, config=manager)


def starlette(manager: SecurityManager, seen: list[Any]) -> Any:
    async def view(request: Request) -> PlainTextResponse:
        seen.append((request.state.client_identity, dict(request.scope)))
        return PlainTextResponse("")

    app = Starlette(routes=[Route("/{path:path}", view)])
    app.add_middleware(secmiddleware_starlette.SecMiddleware, config=manager)
    return app


def fastapi(manager: SecurityManager, seen: list[Any]) -> Any:
    app = FastAPI()

    @app.get("/{path:path}")
    async def view(path: str, request: FastApiRequest) -> str:
        seen.append((request.state.client_identity, dict(request.scope)))
        return path

    app.add_middleware(secmiddleware_starlette.SecMiddleware, config=manager)
    return app


def through_wsgi(path: str, manager: SecurityManager, presented: Presented | None) -> Saw | int:
    seen: list[Any] = []

    def app(environ: Any, start_response: Any) -> list[bytes]:
        seen.append((environ[IDENTITY_KEY], dict(environ)))
        start_response("200 OK", [])
        return []

    shell = wsgi.SecMiddleware(app, config=manager)
    done = call_wsgi(shell, environ_of(path, presented=presented, **SERVERS_WORD))
    return Saw("", *seen[0]) if seen else done.status


def through_flask(path: str, manager: SecurityManager, presented: Presented | None) -> Saw | int:
    seen: list[Any] = []
    app = Flask(__name__)
    app.config["SECMIDDLEWARE"] = manager
    secmiddleware_flask.SecMiddleware(app)

    @app.get("/<path:path>")
    def view(path: str) -> str:
        seen.append((g.client_identity, dict(flask_request.environ)))
        return path

    done = app.test_client().get(path, environ_overrides={PRESENTED_KEY: presented, **SERVERS_WORD})
    return Saw("", *seen[0]) if seen else done.status_code


class Django:
    def __init__(self, *, asynchronous: bool) -> None:
        self._asynchronous = asynchronous

    def __call__(self, path: str, manager: SecurityManager, presented: Presented | None) -> Saw | int:
        seen: list[Any] = []

        def view(request: Any) -> HttpResponse:
            around = request.scope if self._asynchronous else request.META
            seen.append((request.client_identity, dict(around)))
            return HttpResponse("")

        async def aview(request: Any) -> HttpResponse:
            return view(request)

        class Urls:
            urlpatterns = (django_path(path[1:], aview if self._asynchronous else view),)

        with override_settings(
            SECMIDDLEWARE=manager, ROOT_URLCONF=Urls, MIDDLEWARE=["secmiddleware_django.SecMiddleware"]
        ):
            if self._asynchronous:
                done = asyncio.run(_presenting(presented).get(path))
            else:
                done = Client(**{PRESENTED_KEY: presented, **SERVERS_WORD}).get(path)
        return Saw("", *seen[0]) if seen else done.status_code


def _presenting(presented: Presented | None) -> AsyncClient:
    class Presenting(AsyncClient):
        def _base_scope(self, **request: Any) -> dict[str, Any]:
            more = {PRESENTED_KEY: presented, "extensions": {"tls": dict(TLS)}}
            return {**super()._base_scope(**request), **more}

    return Presenting()


SURFACES: dict[str, Look] = {
    "asgi": Asgi(raw_asgi),
    "websocket": Asgi(raw_asgi, "websocket"),
    "starlette": Asgi(starlette),
    "fastapi": Asgi(fastapi),
    "wsgi": through_wsgi,
    "flask": through_flask,
    "django": Django(asynchronous=False),
    "django-async": Django(asynchronous=True),
}


@dataclass(frozen=True)
class Callers:
    ca: Minted
    good: Minted
    expired: Minted
    stranger: Minted


@pytest.fixture(scope="module")
def callers() -> Callers:
    ca = mint("ca", None, ca=True)
    names: dict[str, Any] = {
        "dns": ["a.example", "b.example"],
        "emails": ["zoe@example.org"],
        "ips": ["10.0.0.7"],
        "uris": ["spiffe://example.org/shop/zoe"],
    }
    return Callers(
        ca,
        mint(SUBJECT, ca, **names),
        mint("late", ca, **names, starts=-3 * DAY, ends=-DAY),
        mint("who", mint("strange", None, ca=True), **names),
    )


@pytest.fixture(scope="module")
def managers(
    callers: Callers, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, SecurityManager]]:
    folder: Path = tmp_path_factory.mktemp("surfaces")
    callers.ca.write(folder, "ca")
    made = {}
    for unaccepted in ("refuse", "show"):
        config = {
            "service": {"name": "surfaces"},
            "mtls": {"trust": [str(folder / "ca.pem")], "unaccepted": unaccepted},
            "routes": [{"path": "/off", "client": "off"}, {"path": "/maybe", "client": "optional"}],
        }
        made[unaccepted] = SecurityManager.from_config(config, {})
    yield made
    for manager in made.values():
        manager.stop()


def everywhere(path: str, manager: SecurityManager, presented: Presented | None) -> list[Saw]:
    """What each app saw; all were called."""
    saws = []
    for name, look in SURFACES.items():
        saw = look(path, manager, presented)
        assert isinstance(saw, Saw), f"{name}: {saw}"
        saws.append(dataclasses.replace(saw, surface=name))
    return saws


def check_nobody(saw: Saw, unaccepted: Unaccepted | None = None) -> None:
    """Nobody is known, and nothing of a certificate is to be found, under whatever name."""
    around = saw.around
    assert saw.identity is None, saw.surface
    assert around[IDENTITY_KEY] is None, saw.surface
    assert around[PRESENTED_KEY] is None, saw.surface
    assert around[UNACCEPTED_KEY] == unaccepted, saw.surface
    about = {name: around[name] for name in around if "SSL_CLIENT" in name}
    assert about == ({} if "type" in around else {"SSL_CLIENT_VERIFY": "NONE"}), saw.surface
    assert "forged" not in repr(around), saw.surface
    if "type" in around:
        assert around["extensions"]["tls"] == {
            "server_cert": "of the server",
            "tls_version": 0x0304,
            "cipher_suite": 0x1301,
            "client_cert_chain": (),
            "client_cert_name": None,
            "client_cert_error": None,
        }, saw.surface
    else:
        assert not {"HTTPS_DN", "HTTPS_CC", "peercert", "mod_ssl.var_lookup"} & set(around), saw.surface


@pytest.mark.parametrize("path", ["/must", "/maybe"])
@pytest.mark.parametrize("unaccepted", ["refuse", "show"])
def test_every_surface_shows_the_same_identity(
    managers: dict[str, SecurityManager], callers: Callers, path: str, unaccepted: str
) -> None:
    good = callers.good
    saws = everywhere(path, managers[unaccepted], good.presented)
    identity = saws[0].identity
    leaf = good.certificate
    assert identity == Identity(
        subject=leaf.subject.rfc4514_string(),
        issuer="CN=ca",
        serial=leaf.serial_number,
        dns=("a.example", "b.example"),
        uris=("spiffe://example.org/shop/zoe",),
        emails=("zoe@example.org",),
        ips=("10.0.0.7",),
        spiffe_id="spiffe://example.org/shop/zoe",
        sha256=hashlib.sha256(good.der).hexdigest(),
        spki_sha256=identity.spki_sha256,
        not_before=leaf.not_valid_before_utc,
        not_after=leaf.not_valid_after_utc,
        anchor=hashlib.sha256(callers.ca.der).hexdigest(),
        source="server",
        der=good.der,
        issuers=(hashlib.sha256(callers.ca.der).hexdigest(),),
        issuer_spkis=identity.issuer_spkis,
    )
    for saw in saws:
        around = saw.around
        assert saw.identity == identity, saw.surface
        assert around[IDENTITY_KEY] is saw.identity, saw.surface
        assert around[UNACCEPTED_KEY] is None, saw.surface
        assert around[PRESENTED_KEY] is None, saw.surface
        if "type" in around:
            tls = around["extensions"]["tls"]
            shown = x509.load_pem_x509_certificate(tls["client_cert_chain"][0].encode())
            assert tls["client_cert_name"] == identity.subject, saw.surface
            assert (tls["tls_version"], tls["client_cert_error"]) == (0x0304, None), saw.surface
            assert "client_cert" not in tls, saw.surface
        else:
            shown = x509.load_pem_x509_certificate(around["SSL_CLIENT_CERT"].encode())
            check_variables(around, leaf, saw.surface)
        assert shown == leaf, saw.surface


def check_variables(environ: dict[str, Any], leaf: x509.Certificate, surface: str) -> None:
    about = {name: environ[name] for name in environ if "SSL_CLIENT" in name}
    assert all(
        " " <= char <= "~" for name, text in about.items() if name != "SSL_CLIENT_CERT" for char in text
    )
    read = [
        datetime.strptime(about.pop(f"SSL_CLIENT_V_{end}"), "%b %d %H:%M:%S %Y GMT").replace(tzinfo=UTC)
        for end in ("START", "END")
    ]
    assert read == [leaf.not_valid_before_utc, leaf.not_valid_after_utc], surface
    assert int(about.pop("SSL_CLIENT_M_SERIAL"), 16) == leaf.serial_number, surface
    # A DN is read back to the same one, whatever was in it.
    assert x509.Name.from_rfc4514_string(about.pop("SSL_CLIENT_S_DN")) == leaf.subject, surface
    del about["SSL_CLIENT_CERT"]
    assert about == {
        "SSL_CLIENT_VERIFY": "SUCCESS",
        "SSL_CLIENT_I_DN": "CN=ca",
        "SSL_CLIENT_SAN_DNS_0": "a.example",
        "SSL_CLIENT_SAN_DNS_1": "b.example",
        "SSL_CLIENT_SAN_Email_0": "zoe@example.org",
    }, surface
    assert not {"HTTPS_CLIENT_CERTIFICATE", "HTTPS_DN", "HTTPS_CC", "peercert", "mod_ssl.var_lookup"} & set(
        environ
    ), surface


@pytest.mark.parametrize(
    ("path", "who"), [("/maybe", None), ("/off", None), ("/off", "good"), ("/off", "stranger")]
)
@pytest.mark.parametrize("unaccepted", ["refuse", "show"])
def test_no_surface_shows_anything_of_a_certificate_that_was_not_asked_for_or_not_there(
    managers: dict[str, SecurityManager], callers: Callers, path: str, who: str | None, unaccepted: str
) -> None:
    presented = None if who is None else getattr(callers, who).presented
    for saw in everywhere(path, managers[unaccepted], presented):
        check_nobody(saw)


def test_a_certificate_that_is_not_accepted_is_shown_where_the_settings_say_so_and_names_nobody(
    managers: dict[str, SecurityManager], callers: Callers
) -> None:
    for minted, code in (
        (callers.expired, "certificate_expired"),
        (callers.stranger, "certificate_untrusted"),
    ):
        shown = Unaccepted(code, hashlib.sha256(minted.der).hexdigest(), minted.der)
        for saw in everywhere("/maybe", managers["show"], minted.presented):
            check_nobody(saw, shown)
            assert saw.around[UNACCEPTED_KEY].der == minted.der
    garbage = Presented(b"no certificate")
    for saw in everywhere("/maybe", managers["show"], garbage):
        check_nobody(saw, Unaccepted("certificate_malformed", hashlib.sha256(garbage.leaf).hexdigest(), b""))


@pytest.mark.parametrize(
    ("path", "unaccepted"), [("/maybe", "refuse"), ("/must", "refuse"), ("/must", "show")]
)
def test_elsewhere_whose_certificate_is_not_accepted_is_refused(
    managers: dict[str, SecurityManager], callers: Callers, path: str, unaccepted: str
) -> None:
    for name, look in SURFACES.items():
        assert look(path, managers[unaccepted], callers.stranger.presented) == 403, name


def test_what_did_not_come_by_the_configured_way_is_refused_also_where_the_unaccepted_is_shown(
    managers: dict[str, SecurityManager], callers: Callers
) -> None:
    elsewhere = dataclasses.replace(callers.good.presented, source="nginx")
    for name, look in SURFACES.items():
        assert look("/maybe", managers["show"], elsewhere) == 403, name


def test_the_chain_that_is_shown_has_nobody_elses_certificate(callers: Callers) -> None:
    """A caller may send along whatever it likes; what did not sign its own was not accepted with it."""
    signing = mint("below", callers.ca, ca=True)
    leaf = mint("leaf", signing, dns=["leaf.example"])
    victim = mint("victim", callers.ca, dns=["victim.example"])
    twin = mint("below", callers.ca, ca=True)  # the same name, another key
    presented = leaf.behind(victim, twin, signing, callers.ca).presented
    scope = {PRESENTED_KEY: presented, "extensions": {}}
    identity = msgspec.structs.replace(_someone(callers), der=leaf.der)
    show(scope, identity, None)
    shown = [
        x509.load_pem_x509_certificate(pem.encode())
        for pem in scope["extensions"]["tls"]["client_cert_chain"]
    ]
    assert shown == [leaf.certificate, signing.certificate, callers.ca.certificate]


def _someone(callers: Callers) -> Identity:
    return Identity(
        "CN=x",
        "CN=ca",
        1,
        (),
        (),
        (),
        (),
        None,
        "",
        "",
        datetime.now(UTC),
        datetime.now(UTC),
        "",
        "server",
        b"",
    )
