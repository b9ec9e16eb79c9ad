"""Hostile targets, byte for byte, over each server: the path that was judged is the path that the app saw.

The one rule is that /admin and everything below is for ops; the caller is not of them. The app has three
routers that would send a request there, and says which of them did.
"""

from __future__ import annotations

import itertools
import random
import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from http.client import HTTPException
from typing import Any
from urllib.parse import unquote

import fastapi
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Mount, Route, Router

from secmiddleware.certificates.contexts import HTTP_1, HTTP_2
from secmiddleware.messages import RequestHead
from secmiddleware.servers import gunicorn_asgi, hypercorn
from secmiddleware.telemetry.audit import AuditObserver
from servers.in_thread import gunicorn_serving, hypercorn_serving
from servers.pki import Pki
from servers.serving import (
    HTTP,
    WITH_HTTP_2,
    Connection,
    Response,
    answer_lifespan,
    protected,
    reply,
    request,
    serving,
)

METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE"]


class Judged(AuditObserver):
    """Writes down what was judged."""

    def __init__(self) -> None:
        super().__init__()
        self.heads: list[RequestHead] = []

    def begin(self, head: RequestHead, *rest: Any) -> Any:
        self.heads.append(head)
        return super().begin(head, *rest)


@dataclass
class Routed:
    """An app that writes down what it saw, and lets three routers say where it would go."""

    seen: list[dict[str, Any]] = field(default_factory=list)
    to_admin: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        def admin(router: str) -> Any:
            async def endpoint(_: Request) -> PlainTextResponse:
                self.to_admin.append(router)
                return PlainTextResponse("the admin's")

            return endpoint

        async def public(_: Request) -> PlainTextResponse:
            return PlainTextResponse("everybody's")

        rest = Route("/{rest:path}", public, methods=METHODS)
        by_routes = Router(
            [
                Route("/admin", admin("routes"), methods=METHODS),
                Route("/admin/{rest:path}", admin("routes"), methods=METHODS),
                rest,
            ]
        )
        below = [Route("/{rest:path}", admin("mount"), methods=METHODS), Route("/", admin("mount"))]
        by_mount = Router([Mount("/admin", routes=below), rest])
        by_fastapi = fastapi.FastAPI()
        for path in ("/admin", "/admin/{rest:path}"):
            by_fastapi.add_api_route(path, admin("fastapi"), methods=METHODS, response_model=None)
        by_fastapi.add_api_route("/{rest:path}", public, methods=METHODS, response_model=None)
        self._routers = (by_routes, by_mount, by_fastapi)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            await answer_lifespan(receive, send)
            return
        self.seen.append({key: scope[key] for key in ("path", "raw_path", "root_path", "method")})

        async def nothing() -> Any:
            return {"type": "http.request", "body": b"", "more_body": False}

        async def into_nothing(_: Any) -> None: ...

        for router in self._routers:
            await router(dict(scope), nothing, into_nothing)
        await reply(send, b"seen", kind=b"text/plain")


def has_one_reading(path: str) -> bool:
    """Whether it is the same to who decodes once more, joins dots and slashes, or drops path parameters."""
    segments = re.sub(r";[^/]*", "", path).replace("\\", "/").split("/")
    return (
        path.startswith("/")
        and unquote(path) == path
        and path.isprintable()
        and "\\" not in path
        and "//" not in path
        and not {".", ".."} & set(segments)
    )


class Served:
    """A server, and a caller who is not of ops."""

    def __init__(self, port: int, app: Routed, judge: Judged, prefix: bytes, pki: Pki) -> None:
        self.port = port
        self.app = app
        self.judge = judge
        self.prefix = prefix  # what targets of the app begin with, on the wire
        self._context = pki.client("shop/alice")
        self._connection: Connection | None = None

    def close(self) -> None:
        if self._connection is not None:
            self._connection.tls.close()
            self._connection = None

    def _ask(self, target: bytes, **options: Any) -> Response | None:
        if self._connection is None:
            self._connection = Connection(self.port, self._context)
        method = options.get("method", "GET")
        try:
            self._connection.send(request(target, **options))
            response = self._connection.response(method)
        except (OSError, HTTPException):
            response = None
        if response is None or ("connection", "close") in response.headers or method == "CONNECT":
            self.close()
        return response

    def send(self, target: bytes, **options: Any) -> Response | None:
        """The response; None where the server closes the door. Everything that holds for all is checked."""
        self.app.seen.clear()
        self.app.to_admin.clear()
        self.judge.heads.clear()
        response = self._ask(target, **options)
        if response is None and not self.judge.heads:
            response = self._ask(target, **options)  # the kept connection may have been at its end
        assert self.app.to_admin == [], f"{target!r} {options} was let through to the admin's"
        if self.app.seen:
            (head,) = self.judge.heads
            (seen,) = self.app.seen
            judged = {key: getattr(head, key) for key in seen}
            assert seen == judged, f"{target!r} {options}"
            assert has_one_reading(seen["path"]), f"{target!r} {options}"
        elif response is not None and self.judge.heads:
            assert response.status >= 400, f"{target!r} {options}: {response}"
        return response


# How the app comes to its prefix, if it has one.
PLACES = ("at the root", "root_path", "Mount")


SERVERS = (*HTTP, WITH_HTTP_2, "hypercorn", "gunicorn")


@contextmanager
def serving_by(
    server: str, app: Any, settings: dict[str, Any], pki: Pki, root_path: str, *, http2: bool = False
) -> Iterator[int]:
    """The port of a server: uvicorn with a protocol class, or one with our options for it."""
    with ExitStack() as stack:
        match server:
            case "hypercorn":
                chosen = {**hypercorn.options(settings, http2=http2), "root_path": root_path}
                yield stack.enter_context(hypercorn_serving(app, chosen))
            case "gunicorn":
                chosen = {**gunicorn_asgi.options(settings, http2=http2), "root_path": root_path}
                yield stack.enter_context(gunicorn_serving(app, chosen))
            case _:
                alpn = HTTP_2 if http2 else HTTP_1
                serves = serving(app, pki, http=server, root_path=root_path, alpn=alpn)
                yield stack.enter_context(serves)


@pytest.fixture(scope="module", params=[(http, place) for http in SERVERS for place in PLACES], ids="-".join)
def served(request: pytest.FixtureRequest, pki: Pki) -> Iterator[Served]:
    http, place = request.param
    app, judge = Routed(), Judged()
    rules = [{"path": "/admin/**", "allow": ["spiffe://example.org/ops/*"]}]
    mount = "" if place == "at the root" else "/api"
    settings = pki.settings(service={"mount": mount}, routes=rules)
    wrapped: Any = protected(app, settings, observer=judge)
    if place == "Mount":
        wrapped = Starlette(routes=[Mount("/api", app=wrapped)])
    with ExitStack() as stack:
        root_path = mount if place == "root_path" else ""
        port = stack.enter_context(serving_by(http, wrapped, settings, pki, root_path))
        made = Served(port, app, judge, b"/api" if place == "Mount" else b"", pki)
        stack.callback(made.close)
        yield made


DOTS = [
    b".",
    b"..",
    b"%2e",
    b"%2E%2e",
    b".%2e",
    b"%2e.",
    b"%252e%252e",
    b"..%00",
    b"..;",
    b"..;x=1",
    b"%2e%2e;x",
]
SLASHES = [
    b"/",
    b"//",
    b"///",
    b"%2f",
    b"%2F",
    b"/%2f",
    b"%5c",
    b"%5C",
    b"\\",
    b"/\\",
    b"%252f",
    b"%c0%af",
    b"%ef%bc%8f",
]
ADMIN = [
    b"admin", b"%61dmin", b"%61%64%6d%69%6e", b"%61%64%6D%69%6E", b"ADMIN", b"admin%20", b"admin%00",
    b"admin.", b"admin;a=b", b"admi%6e;", b"%2561dmin", b"adm%ffin", b"admin%0a", b"admin%09", b"\xe1dmin",
    b"admin%3f", b"admin%23", b"%c1%a1dmin", b"admin%",
]  # fmt: skip
TAILS = [
    b"", b"/", b"/x", b"//", b"/.", b"/%2e", b"/..", b"/../admin", b"/x/..", b"/x/../", b"?x",
    b"?/../admin", b"#x", b"/#", b";a", b"%2f", b"%2fx", b"%5cx", b"/x%", b"/%zz", b"%", b"%2",
]  # fmt: skip

BY_HAND = [
    b"http://x/admin/x", b"https://localhost/admin/x", b"HTTP://x/admin", b"http://x//admin",
    b"http://x/../admin", b"http://user:word@x/admin", b"http://x:443/admin", b"http:/admin", b"http:admin",
    b"ftp://x/admin", b"file:///admin", b"x/admin", b"admin", b"admin/x", b"./admin", b"../admin", b"x:443",
    b"localhost:443/admin", b"[::1]:443", b"*", b"*/admin", b"/*", b"?/admin", b"#/admin", b";/admin",
    b"//x/admin", b"///x/admin", b"/\\x/admin", b"\\admin", b"\\\\x\\admin", b"/x#/admin", b"/x?#/admin",
    b"/x%3f/../admin", b"/x%23/../admin", b"/x;/../admin", b"/x;a=/../admin", b"/x/;/admin", b"/;/admin",
    b"/%", b"/%%", b"/%2", b"/%zz/admin", b"/%u0061dmin", b"/%u002e%u002e/admin", b"/%%32%65%%32%65/admin",
    b"/%00/admin", b"/admin/%00", b"/%e0%80%af/admin", b"/%c0%ae%c0%ae/admin", b"/%f0%80%80%af/admin",
    b"/%ed%a0%80", b"/%ff/admin", b"/%c3%28", b"/\xc0\xaf/admin", b"/\xe2\x80\xae/admin", b"/a\x7fb",
    b"/a\x01b", b"/a\x0cb/admin", b"/a\x85/admin", b"/ admin", b"/admin \t", b"/%20admin", b"/%09admin",
    b"/%0d%0aadmin", b"/%0d%0a%0d%0aGET%20/admin%20HTTP/1.1", b"/x%0a/admin", b"/.admin", b"/admin..",
    b"/...", b"/.../admin", b"/x/.../../admin", b"/....//admin", b"/%2e%2e%2fadmin", b"/..%2fadmin",
    b"/..%5cadmin", b"/.%5c..%5cadmin", b"/" + b"x/../" * 200 + b"admin", b"/" + b"a" * 8000,
    b"/" + b"%61" * 5000, b"/" * 5000 + b"admin", b"/" + b"./" * 3000 + b"admin",
    b"/" + b"a" * 70_000 + b"/../admin", b"", b"/api/admin/x", b"/api/../admin/x", b"/api//admin",
    b"/%61pi/admin", b"/API/admin", b"/apix/admin", b"/api%2fadmin", b"/x/../api/admin", b"/api/api/admin",
    b"/api/.", b"/api;x/admin", b"api/admin",
]  # fmt: skip

GRAMMAR = list(itertools.product([b"/x"], SLASHES, [b"", *DOTS], [b"", *SLASHES], ADMIN, TAILS))


def test_no_hostile_target_gets_past_the_rule(served: Served) -> None:
    # The whole grammar is far more than can be sent: each run sends the same few hundred targets of it.
    drawn = [b"".join(parts) for parts in random.Random(served.prefix).sample(GRAMMAR, 200)]
    simple = [slash + admin + tail for slash in SLASHES for admin in ADMIN[:4] for tail in TAILS[:3]]
    targets = BY_HAND + drawn + simple
    if served.prefix:
        targets = [served.prefix + target for target in targets] + BY_HAND
    answered = sum(served.send(target) is not None for target in targets)
    assert answered > 0.9 * len(targets)


@pytest.mark.parametrize(
    ("target", "path"),
    [
        (b"/", "/"),
        (b"/x", "/x"),
        (b"/x/", "/x/"),
        (b"/caf%C3%A9/%F0%9F%A6%8A", "/café/🦊"),
        (b"/a%20b;c=d,e", "/a b;c=d,e"),
        (b"/a%3fb%23c", "/a?b#c"),
        (b"/x?y=/../admin#z", "/x"),
        (b"/administration", "/administration"),
        (b"/ADMIN/x", "/ADMIN/x"),
        (b"/x/admin", "/x/admin"),
        (b"/~a:b@c!$&'()*+=", "/~a:b@c!$&'()*+="),
    ],
)
def test_a_target_that_can_be_read_in_one_way_reaches_the_app(
    served: Served, target: bytes, path: str
) -> None:
    response = served.send(served.prefix + target)
    assert response is not None
    assert response.status == 200
    (seen,) = served.app.seen
    assert seen["path"] == seen["root_path"] + path


@pytest.mark.parametrize(
    "target", [b"/admin", b"/admin/", b"/admin/x", b"/%61dmin/x/y", b"/admin?x", b"/admin%2Cx"]
)
def test_who_is_of_ops_is_routed_to_the_admin_by_all_three(served: Served, pki: Pki, target: bytes) -> None:
    # That the others never were is worth something only if they could have been.
    served.app.to_admin.clear()
    with Connection(served.port, pki.client("ops/oscar")) as connection:
        assert connection.ask(served.prefix + target).status == 200
    if target != b"/admin%2Cx":
        assert set(served.app.to_admin) >= {"routes", "fastapi"}
        assert served.app.to_admin.count("mount") == (1 if target.count(b"/") > 1 else 0)


@pytest.mark.parametrize(
    "method",
    ["GET", "get", "Get", "HEAD", "POST", "OPTIONS", "CONNECT", "TRACE", "PRI", "BREW", "G@T", "PROPFIND"],
)
def test_no_method_gets_past_the_rule(served: Served, method: str) -> None:
    for target in (b"/admin", b"/admin/", b"/admin/x", b"/%61dmin/x", b"/admin?x", b"/admin/;x"):
        response = served.send(served.prefix + target, method=method)
        assert response is None or response.status in (400, 403), target
        assert served.app.seen == [], target


@pytest.mark.parametrize("method", ["OPTIONS", "CONNECT", "get", "BREW"])
def test_what_the_app_sees_of_an_odd_method_was_judged(served: Served, method: str) -> None:
    for target in (b"*", b"localhost:443", served.prefix + b"/x"):
        response = served.send(target, method=method)
        if not target.endswith(b"/x"):
            assert response is not None
            assert response.status in (400, 404)
            assert served.app.seen == []


PREFIX_HEADERS = [
    ("script-name", "/api"), ("script_name", "/api"), ("script-name", "/x"), ("x-script-name", "/admin"),
    ("x-forwarded-prefix", "/admin"), ("x-forwarded-prefix", "/api"), ("x-forwarded-path", "/admin"),
    ("x-original-url", "/admin/x"), ("x-rewrite-url", "/admin/x"), ("x-original-uri", "/admin/x"),
    ("x-envoy-original-path", "/admin/x"), ("path-info", "/admin"), ("x-http-method-override", "DELETE"),
    ("x-http-method", "PUT"), ("x-method-override", "TRACE"), ("forwarded", 'for=x;host="x/admin"'),
    ("x-forwarded-host", "x/admin"), ("x-forwarded-proto", "http"), ("x-forwarded-for", "127.0.0.1"),
    ("root-path", "/admin"), ("secmiddleware.identity", "spiffe://example.org/ops/oscar"),
    ("x-ssl-client-verify", "SUCCESS"), ("client-cert", ":AAAA:"),
    ("x-forwarded-client-cert", 'URI="spiffe://example.org/ops/oscar"'), (":path", "/admin"),
    ("host", "x/admin"),
]  # fmt: skip


def test_no_header_of_the_client_moves_its_request(served: Served) -> None:
    for header in PREFIX_HEADERS:
        response = served.send(served.prefix + b"/admin/x", headers=[header])
        assert response is None or response.status in (400, 403), header
        assert served.app.seen == [], header
        response = served.send(served.prefix + b"/x", headers=[header])
        if response is not None and response.status == 200:
            (seen,) = served.app.seen
            assert (seen["path"], seen["method"]) == (seen["root_path"] + "/x", "GET"), header
        else:
            assert served.app.seen == []
            assert header[0] in (":path", "host"), header


@pytest.mark.parametrize(
    "target",
    [b"%s/a#b", b"%s/#", b"http://localhost%s/a", b"HTTP://localhost%s/a", b"https://localhost%s/a?x"],
)
def test_a_target_of_another_form_is_refused_whatever_parser_the_server_has(
    served: Served, target: bytes
) -> None:
    response = served.send(target % served.prefix)
    assert response is not None
    # A router that stands before us may not find us under such a target.
    assert response.code == "path_ambiguous" or (served.prefix and response.status == 404)
    assert served.app.seen == []
