"""HTTP's corners, mixed at random, in process: both raw shells come to the same, and to nothing wrong."""

from __future__ import annotations

import asyncio
import itertools
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from random import Random
from typing import Any

from hypothesis import given, note, settings
from hypothesis import strategies as st

from exchanges import asgi_server, wsgi_server
from exchanges.outcome import Outcome, Recorder
from exchanges.puppet import Puppet, ToldToRaiseError
from exchanges.puppet_wsgi import WsgiPuppet
from exchanges.table import App, Exchange, Expect, Request
from exchanges.world import World, to_bytes
from secmiddleware import asgi, wsgi
from secmiddleware.fields.codings import decoded, known
from secmiddleware.fields.digests import verify_digests
from secmiddleware.fields.heads import codings_of
from secmiddleware.fields.limits import Limits
from secmiddleware.messages import Headers
from secmiddleware.telemetry.audit import AuditObserver

SECRET = "123-45-6789"
TOKEN = re.compile(rb"sm1\.[A-Za-z0-9_-]+")
NUMBERS = itertools.count()

# What becomes of values there: opened and sealed, sealed, opened, shown to some, nothing.
TARGETS = {
    "/customers/7": "ssn",
    "/out": "ssn",
    "/in": "ssn",
    "/cards": "card",
    "/at-rest/token": "iban",
    "/at-rest/mask": "iban",
    "/elsewhere": "ssn",
}
FIELDS = {"/cards": "card", "/at-rest/token": "iban", "/at-rest/mask": "masked"}
SEALING = ("/customers/7", "/out", "/cards")
CODINGS = ["gzip", "deflate", "br", "zstd", "x-gzip", "gzip, br", "identity", "x-own", "gzip;q=1"]
TAGS = [
    *('"<<etag "v1">>"', 'W/"<<etag "v1">>"', '"<<etag W/"v1">>"', '"<<etag "v2" /elsewhere>>"'),
    *("*", '"foreign"', "v1"),
]
JSON = ("content-type", "application/json")


def bodies(target: str) -> list[str]:
    name, field = TARGETS[target], FIELDS.get(target, "ssn")
    sealed = f'"<<seal {field} "{SECRET}">>"'
    return [
        f'{{"{name}":{sealed}}}',
        f'{{"{name}":"{SECRET}"}}',
        f'{{ "x":1.10,"{name}":{sealed},"y":{{"{name}":1}} }}',
        f'{{"{name}":{sealed},"{name}":{sealed}}}',
        '{"x":1}',
        "[]",
        "{",
        "",
        "<<repeat 5000  >>",
        f"<p>{SECRET}",
    ]


def some(chance: Random, *pairs: tuple[str, str], odds: float = 0.25) -> tuple[tuple[str, str], ...]:
    """Some of these headers, each name once; of a name that is there again, any one."""
    shuffled = chance.sample(pairs, len(pairs))
    return tuple(dict(pair for pair in shuffled if chance.random() < odds).items())


def coded(chance: Random, body: str) -> tuple[str, tuple[tuple[str, str], ...]]:
    """A body and what is said of its codings, mostly the truth."""
    if chance.random() < 0.6:
        return body, ()
    coding = chance.choice(CODINGS)
    names = [name for name in coding.split(", ") if name.encode() in known()]
    if chance.random() < 0.85:
        for name in names:
            body = f"<<coded {name} {body}>>"
    return body, (("content-encoding", coding),)


def pieces(chance: Random, body: str) -> tuple[str, ...]:
    """The body in one piece or, where it is plain, in several; sometimes what comes behind its end."""
    if "<<" not in body and len(body) > 2 and chance.random() < 0.5:
        at = chance.randrange(len(body))
        return (body[:at], body[at:])
    return (body, " ") if chance.random() < 0.1 else (body,)


def a_request(chance: Random, target: str) -> Request:
    method = chance.choice(["GET", "GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"])
    tags = ", ".join(chance.sample(TAGS, chance.randint(1, 3)))
    headers = some(
        chance,
        ("if-match", tags),
        ("if-none-match", tags),
        ("if-modified-since", "Sat, 29 Oct 1994 19:43:31 GMT"),
        ("if-unmodified-since", "Sat, 29 Oct 1994 19:43:31 GMT"),
        ("range", "bytes=0-3"),
        ("if-range", '"v1"'),
        ("accept-encoding", chance.choice(["gzip", "br;q=0, *", "zstd, gzip;q=0", "identity", ""])),
        ("want-content-digest", "sha-256=1"),
        ("expect", "100-continue"),
    )
    chunks: tuple[str, ...] = ()
    if method not in ("GET", "HEAD") and chance.random() < 0.9:
        body, said = coded(chance, chance.choice(bodies(target)))
        chunks = pieces(chance, body)
        headers += said
        whole = "".join(chunks)
        told = f"sha-256=:<<digest sha-256 {whole}>>:"
        headers += some(
            chance,
            ("content-digest", chance.choice([told, told, "sha-512=:AAAA:", "md5=:AAAA:", "x"])),
            ("repr-digest", told),
            ("content-md5", "AAAA"),
            ("content-range", "bytes 0-3/9"),
            odds=0.15,
        )
        headers += chance.choice([(JSON,), (JSON,), (JSON,), (), (("content-type", "text/plain"),)])
    gone = bool(chunks) and chance.random() < 0.05
    # Of a body that was announced and is all there, a server of WSGI does not see who goes away behind it.
    length: Any = "chunked" if gone or (chunks and chance.random() < 0.3) else "true"
    return Request(method, target, headers, chunks, gone, length)


def an_app(chance: Random, target: str) -> App:
    does: Any = chance.choice(["respond"] * 8 + ["echo", "raise", "break"])
    status = chance.choice([200] * 6 + [201, 204, 205, 206, 301, 304, 400, 404, 412, 500])
    body, said = coded(chance, chance.choice(bodies(target)))
    chunks = pieces(chance, body)
    whole = "".join(chunks)
    headers = said + some(
        chance,
        ("etag", chance.choice(['"v1"', 'W/"v1"', "v1"])),
        ("cache-control", "public, max-age=600"),
        ("cdn-cache-control", "max-age=600"),
        ("accept-ranges", "bytes"),
        ("content-digest", f"sha-256=:<<digest sha-256 {whole}>>:, md5=:AAAA:"),
        ("repr-digest", f"sha-512=:<<digest sha-512 {whole}>>:"),
        ("digest", "x"),
        ("vary", chance.choice(["Accept-Encoding", "Origin", "*"])),
        ("location", "/elsewhere"),
        ("last-modified", "Sat, 29 Oct 1994 19:43:31 GMT"),
    )
    headers += some(chance, ("content-range", "bytes 0-3/9"), ("x-sendfile", "/etc/passwd"), odds=0.03)
    headers += chance.choice([(JSON,), (JSON,), (JSON,), (), (("content-type", "text/html"),)])
    return App(does, status, headers, chunks)


def a_row(chance: Random) -> Exchange:
    target = chance.choice(list(TARGETS))
    presented = chance.choice(["alice", "oscar"])
    request, app = a_request(chance, target), an_app(chance, target)
    if request.method == "HEAD" and app.does in ("raise", "break"):
        app = replace(app, does="respond")  # what is whole without a body, the server of WSGI cannot tell
    if request.truncated:
        app = replace(app, does="respond")  # how far it has read, and who still hears it, differs
    if app.does == "break" and not app.chunks[0]:
        app = replace(app, does="raise")  # PEP 3333: until there is a byte, there is no head to be refused
    return Exchange(f"corner {next(NUMBERS)}", "fields", request, Expect(), app, presented)


@dataclass
class Seen:
    """What came of an exchange, on both sides of a shell."""

    outcome: Outcome
    app_saw: list[dict[str, Any]]
    refusal: tuple[str, str | None] | None

    @property
    def headers(self) -> Headers:
        return tuple((to_bytes(name), to_bytes(value)) for name, value in self.outcome.headers)

    @property
    def plain(self) -> bytes:
        """The body as a client reads it, if it is under codings that are known."""
        codings = codings_of(self.headers)
        if not codings or not self.outcome.body or not all(name in known() for name in codings):
            return self.outcome.body
        try:
            return decoded(self.outcome.body, codings, Limits(1 << 20))
        except ValueError:
            return self.outcome.body  # an app's lie, where nobody looks

    def comparable(self) -> Any:
        """All of it but what is drawn at random, or follows from that."""
        of_bytes = {"content-digest", "repr-digest"}
        if codings_of(self.headers):
            of_bytes.add("content-length")
        if self.outcome.status in wsgi_server.NO_CONTENT:
            of_bytes.add("content-type")  # the WSGI puppet sends none with these
        headers = sorted(
            (name, "" if name in of_bytes else value)
            for name, value in self.outcome.headers
            if name != "content-type" or name not in of_bytes
        )
        body = masked(self.plain)
        if self.refusal is not None and body:
            problem = json.loads(body)
            del problem["trace_id"]
            body = json.dumps(problem).encode()
        return self.outcome.status, headers, body, self.outcome.broken, self.refusal, list(self._seen())

    def _seen(self) -> Iterator[Any]:
        for saw in self.app_saw:
            joined: dict[str, list[str]] = {}
            for name, value in saw["headers"]:
                if name != "transfer-encoding":
                    digest = name in ("content-digest", "repr-digest")
                    joined.setdefault(name, []).append("" if digest else value.strip())
            # What is there before the end depends on who reads.
            body = masked(to_bytes(saw["body"])) if saw["complete"] else b""
            yield saw["method"], body, saw["complete"], {n: ",".join(v) for n, v in joined.items()}


def masked(body: bytes) -> bytes:
    return TOKEN.sub(lambda found: b"<token of %d>" % len(found[0]), body)


def through_asgi(world: World, row: Exchange, observer: AuditObserver | None = None) -> Seen:
    puppet, recorder, server = Puppet(), observer or Recorder(), asgi_server.Server(world, row)
    puppet.play(world, row)
    shell = asgi.SecMiddleware(puppet, config=world.manager(row.config), observer=recorder)
    try:
        asyncio.run(shell(asgi_server.scope_of(world, row), server.receive, server.send))
    except ToldToRaiseError:
        assert row.app.does in ("raise", "break")
    return Seen(server.outcome(), puppet.seen, refused(recorder))


def through_wsgi(world: World, row: Exchange, observer: AuditObserver | None = None) -> Seen:
    puppet, recorder = WsgiPuppet(), observer or Recorder()
    puppet.play(world, row)
    shell = wsgi.SecMiddleware(puppet.wsgi, config=world.manager(row.config), observer=recorder)
    outcome, raised = wsgi_server.call(shell, wsgi_server.environ_of(world, row), validated=False)
    assert raised is None or isinstance(raised, ToldToRaiseError), raised
    return Seen(outcome, puppet.seen, refused(recorder))


def refused(recorder: AuditObserver) -> tuple[str, str | None] | None:
    """How it was refused, where the recorder is one."""
    if not isinstance(recorder, Recorder):
        return None
    (record,) = recorder.records
    return None if record.refusal is None else (record.refusal.code, record.refusal.where)


def check_sense(row: Exchange, seen: Seen) -> None:
    """What holds of every response of a marked route, whatever went in."""
    if row.request.target == "/elsewhere":
        return
    status, headers, target = seen.outcome.status, dict(seen.headers), row.request.target
    if target != "/in":
        assert not seen.outcome.broken
    everything = seen.plain + b"".join(value for _, value in seen.headers)
    if target in SEALING:
        assert SECRET.encode() not in everything
    if target != "/in":
        assert headers.get(b"etag", b'"sm').removeprefix(b"W/").startswith(b'"sm')
        assert b"accept-ranges" not in headers
    if target.startswith(("/cards", "/at-rest")) and seen.refusal is None:
        assert headers[b"cache-control"] == b"private, no-store"
        assert b"cdn-cache-control" not in headers
    bodiless = row.request.method == "HEAD" or status in (204, 205, 304)
    for saw in seen.app_saw:
        if saw["complete"] and target not in ("/out", "/elsewhere"):
            verify_digests(
                tuple((to_bytes(n), to_bytes(v)) for n, v in saw["headers"]), to_bytes(saw["body"])
            )
    if target == "/in" and any(SECRET in saw["body"] for saw in seen.app_saw):
        assert headers.get(b"etag", b'"sm').removeprefix(b"W/").startswith(b'"sm')
    if bodiless and target != "/in":
        assert seen.outcome.body == b""
        assert not {b"content-digest", b"repr-digest", b"digest"} & set(headers)
    if not bodiless:
        assert int(headers.get(b"content-length", len(seen.outcome.body))) == len(seen.outcome.body)
        if seen.outcome.body and row.app.does != "break":
            verify_digests(seen.headers, seen.outcome.body)


@given(st.randoms(use_true_random=False))
@settings(max_examples=500, deadline=None)
def test_both_shells_come_to_the_same_in_every_corner(world: World, chance: Random) -> None:
    row = a_row(chance)
    note(str(row))
    by_asgi, by_wsgi = through_asgi(world, row), through_wsgi(world, row)
    assert by_asgi.comparable() == by_wsgi.comparable()
    for seen in (by_asgi, by_wsgi):
        check_sense(row, seen)


@given(st.randoms(use_true_random=False))
@settings(max_examples=250, deadline=None)
def test_what_nobody_watches_comes_out_as_what_somebody_does(world: World, chance: Random) -> None:
    row = a_row(chance)
    told = some(chance, ("x-ssl-client-verify", "SUCCESS"), ("client-cert", ":AAAA:"), ("x-mtls-leaf", "x"))
    row = replace(row, request=replace(row.request, headers=(*row.request.headers, *told)))
    note(str(row))
    for through in (through_asgi, through_wsgi):
        watched, unwatched = through(world, row), through(world, row, AuditObserver())
        assert replace(unwatched, refusal=watched.refusal).comparable() == watched.comparable()
        assert not any(name in dict(saw["headers"]) for saw in unwatched.app_saw for name, _ in told)


def test_the_corners_are_reached(world: World) -> None:
    """The mixture is no use where almost everything is refused at the door."""
    chance = Random(5)
    results = [through_asgi(world, a_row(chance)) for _ in range(600)]
    codes = [seen.refusal and seen.refusal[0] for seen in results]
    assert codes.count(None) > 200
    for code in (
        "payload_malformed",
        "payload_encoding",
        "field_undecryptable",
        "seal_failed",
        "internal_error",
    ):
        assert codes.count(code) > 5, code
    good = [seen for seen in results if seen.refusal is None]
    assert sum("content-encoding" in dict(seen.outcome.headers) for seen in good) > 5
    assert sum(dict(seen.outcome.headers).get("etag", "").startswith('W/"sm') for seen in good) > 5
    assert sum(TOKEN.search(seen.plain) is not None for seen in good) > 10
    conditions = [dict(saw["headers"]).get("if-match", "") for seen in results for saw in seen.app_saw]
    assert sum('"v1"' in value for value in conditions) > 5
