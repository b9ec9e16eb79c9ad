"""The rows: tokens against Fernet, rewriting against parse and dump, a wrapped app against it bare."""

from __future__ import annotations

import json
import sys
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from functools import partial
from importlib.util import find_spec
from typing import Any

import msgspec
from cryptography.fernet import Fernet
from joserfc import jwe
from joserfc.jwk import OctKey
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from bench.measure import Row, Step
from bench.world import World
from secmiddleware.asgi import SecMiddleware
from secmiddleware.encryption.keyring import Context, Keyring
from secmiddleware.fields.json_rewriting import Locator, splice
from secmiddleware.fields.marks import Mark
from secmiddleware.messages import PRESENTED_KEY
from secmiddleware.scopes import App, Message, Scope
from secmiddleware.security import SecurityManager

VALUE = b'"123-45-6789"'
SIXTEEN = b'"12345678901234"'
FIELD = Context(field="ssn")


def token_rows(keyring: Keyring) -> Iterator[Row]:
    """Sixteen bytes, sealed and opened; Fernet is what most Python services use today."""
    now = datetime.now(UTC)
    ours = keyring.seal(SIXTEEN, FIELD, now)
    assert keyring.open(ours, FIELD, now) == SIXTEEN
    for peer, seal, unseal in _peers():
        theirs = seal(SIXTEEN)
        assert unseal(theirs) == SIXTEEN
        yield Row("seal 16 bytes", lambda: keyring.seal(SIXTEEN, FIELD, now), peer, partial(seal, SIXTEEN))
        yield Row("open 16 bytes", lambda: keyring.open(ours, FIELD, now), peer, partial(unseal, theirs))


def _peers() -> Iterator[tuple[str, Callable[[bytes], Any], Callable[[Any], bytes]]]:
    """Whoever else makes a text of a value under one key, with the key set up beforehand."""
    fernet = Fernet(Fernet.generate_key())
    yield "Fernet", fernet.encrypt, fernet.decrypt
    secret, header = OctKey.generate_key(256), {"alg": "dir", "enc": "A256GCM"}
    yield (
        "joserfc dir",
        lambda value: jwe.encrypt_compact(dict(header), value, secret),
        lambda token: jwe.decrypt_compact(token, secret).plaintext or b"",
    )
    if find_spec("tink") is None:
        print("no row of Tink: it is not installed here (dependency group dev)", file=sys.stderr)
        return
    import tink
    from tink import aead

    aead.register()
    cipher = tink.new_keyset_handle(aead.aead_key_templates.AES256_GCM).primitive(aead.Aead)
    # It makes bytes, bound to what the caller gives; in JSON they are a text.
    yield (
        "Tink, base64url",
        lambda value: urlsafe_b64encode(cipher.encrypt(value, FIELD.slots)),
        lambda token: cipher.decrypt(urlsafe_b64decode(token), FIELD.slots),
    )


def _people(count: int) -> bytes:
    people = [
        {"id": n, "name": f"Person {n}", "ssn": f"{n:03}-45-6789", "tags": ["a", "b"], "balance": n * 1.25}
        for n in range(count)
    ]
    return json.dumps({"people": people, "next": None}).encode()


def json_rows() -> Iterator[Row]:
    """Replacing every `ssn` of a body, and reading a body that has none.

    The peers parse, change and dump, which keeps no `1.10`, no spaces and no key that comes twice.
    """
    marks = Locator([Mark.parse("$.people[*].ssn")])
    elsewhere = Locator([Mark.parse("$.accounts[*].iban")])
    new = b'"***"'

    def replaced(body: bytes) -> bytes:
        hits = marks.locate(body)
        return splice(body, hits, [new] * len(hits))

    def round_trip(body: bytes, decode: Callable[[bytes], Any], encode: Callable[[Any], bytes]) -> bytes:
        document = decode(body)
        for person in document["people"]:
            person["ssn"] = "***"
        return encode(document)

    def by_json(body: bytes) -> bytes:
        return round_trip(body, json.loads, lambda document: json.dumps(document).encode())

    def by_msgspec(body: bytes) -> bytes:
        return round_trip(body, msgspec.json.decode, msgspec.json.encode)

    for count in (3, 300):
        body = _people(count)
        assert replaced(body) == by_json(body)
        label = f"{count} values in {len(body) / 1000:.1f} kB"
        yield Row(f"replace {label}", partial(replaced, body), "json", partial(by_json, body))
        yield Row(f"replace {label}", partial(replaced, body), "msgspec", partial(by_msgspec, body))
        assert elsewhere.locate(body) == []
        yield Row(
            f"find nothing in {len(body) / 1000:.1f} kB",
            partial(elsewhere.locate, body),
            "msgspec decode",
            partial(msgspec.json.decode, body),
        )


async def _echo(request: Request) -> Response:
    return Response(await request.body(), media_type="application/json")


async def _health(_request: Request) -> Response:
    return Response(b'{"status":"ok"}', media_type="application/json")


def small_app() -> Starlette:
    return Starlette(
        routes=[
            Route("/echo", _echo, methods=["POST"]),
            Route("/plain", _echo, methods=["POST"]),
            Route("/healthz", _health, methods=["GET"]),
        ]
    )


def asgi_request(
    app: App, method: str, path: str, body: bytes, extra: dict[str, Any], expect: bytes | None
) -> Step:
    """One request, no socket, no loop: nothing in it waits, so the coroutine runs through in one go."""
    scope: Scope = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.4"},
        "http_version": "1.1",
        "method": method,
        "scheme": "https",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "root_path": "",
        "headers": [
            (b"host", b"bench.example"),
            (b"content-type", b"application/json"),
            (b"content-length", b"%d" % len(body)),
        ],
        "client": ("127.0.0.1", 40000),
        "server": ("127.0.0.1", 443),
        **extra,
    }
    sent: list[Message] = []

    async def receive() -> Message:
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message: Message) -> None:
        sent.append(message)

    def once() -> None:
        sent.clear()
        coroutine: Any = app(dict(scope), receive, send)
        try:
            coroutine.send(None)
        except StopIteration:
            return
        raise RuntimeError("the app waited for something: this measures only what runs through")

    once()
    answer = b"".join(message.get("body", b"") for message in sent)
    if sent[0]["status"] != 200 or (expect is not None and answer != expect):
        raise RuntimeError(f"{method} {path}: {sent[0]['status']} {answer!r}")
    return once


def request_rows(manager: SecurityManager, world: World) -> Iterator[Row]:
    """A whole request of a small Starlette app; the peer is the same app, bare. Without sockets and TLS."""
    bare, wrapped = small_app(), SecMiddleware(small_app(), config=manager)
    known = {PRESENTED_KEY: world.presented}
    keyring = manager.snapshot.keyring
    assert keyring is not None
    token = keyring.seal(VALUE, FIELD, datetime.now(UTC)).decode()
    sealed = json.dumps({"name": "Ada", "ssn": token, "balance": 1.5}).encode()
    plain = json.dumps({"name": "Ada", "balance": 1.5}).encode()

    def row(name: str, method: str, path: str, body: bytes, *, same: bool) -> Row:
        expect = body if same and method == "POST" else None
        return Row(
            name,
            asgi_request(wrapped, method, path, body, known, expect),
            "bare app",
            asgi_request(bare, method, path, body, {}, expect),
        )

    yield row("GET, no certificate asked for", "GET", "/healthz", b"", same=True)
    yield row("POST, certificate judged", "POST", "/plain", plain, same=True)
    yield row("POST, and a marked body without a hit", "POST", "/echo", plain, same=True)
    yield row("POST, and one field opened and sealed", "POST", "/echo", sealed, same=False)
