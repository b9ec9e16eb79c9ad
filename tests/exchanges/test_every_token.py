"""Every token in every slot, over both shells: it opens in its own for its own, and else nothing leaves."""

from __future__ import annotations

import io
import json
import logging
from collections import Counter
from collections.abc import Callable, Coroutine, Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from itertools import product
from typing import Any

import pytest

from exchanges.every_token import (
    ANSWERS,
    PARTS,
    PATH,
    RING,
    SLOTS,
    Answer,
    Part,
    Slot,
    Token,
    every_token,
)
from exchanges.world import World
from secmiddleware.asgi import SecMiddleware as AsgiShell
from secmiddleware.encryption.keyring import Context
from secmiddleware.engine import admit
from secmiddleware.messages import PRESENTED_KEY, Identity, Presented, Refusal, RequestHead
from secmiddleware.security import SecurityManager
from secmiddleware.wsgi import SecMiddleware as WsgiShell

App = Callable[[bytes], tuple[int, list[tuple[str, str]], bytes]]
"""An app: what it answers to a body."""


class Stage:
    """One service whose fields are the slots, all tokens, and who calls."""

    def __init__(self, world: World) -> None:
        settings = world.settings("fields")
        settings |= {"fields": {slot.name: slot.settings for slot in SLOTS}, "telemetry": {"traces": "off"}}
        settings["routes"] = []
        settings["keys"] |= {"ring": RING}
        self.manager = SecurityManager.from_config(settings, {})
        self.manager.start()
        self.presented = {name: world.people.presented(name) for name in ("alice", "oscar", "bob")}
        self.people = {name: self._identity(presented) for name, presented in self.presented.items()}
        alice, oscar, bob = (self.people[name] for name in ("alice", "oscar", "bob"))
        keyring = self.manager.snapshot.keyring
        assert keyring is not None
        self.keyring = keyring
        self.tokens = tuple(every_token(keyring, (alice.tenant, bob.tenant), (alice.name, oscar.name)))

    def _identity(self, presented: Presented | None) -> Identity:
        head = RequestHead("http", "GET", "https", PATH, PATH.encode(), presented=presented)
        verdict = admit(head, self.manager.snapshot, datetime.now(UTC))
        assert not isinstance(verdict, Refusal)
        assert verdict.identity is not None
        return verdict.identity


class Caller:
    """Somebody who calls an app through a shell, and what the app was given."""

    def __init__(self, stage: Stage, name: str, shell: str) -> None:
        self.given: bytes | None = None
        self.given_head: frozenset[str] = frozenset()
        """The query, and each header as a line."""
        self._app: App = lambda body: (204, [], b"")
        self._presented = stage.presented[name]
        self._is_asgi = shell == "asgi"
        self._asgi = AsgiShell(self._asgi_app, config=stage.manager)
        self._wsgi = WsgiShell(self._wsgi_app, config=stage.manager)

    def call(
        self, body: bytes, app: App, method: str = "POST", sent: str = "", path: str = PATH
    ) -> tuple[int, bytes, bytes]:
        """Status, headers in one text, and body that came back; `sent` is a header or the query."""
        self.given, self._app = None, app
        name, colon, value = sent.partition(": ")
        query, more = ("", [(name, value)]) if colon else (name, [])
        if self._is_asgi:
            return _done(self._call_asgi(body, method, path, query, more))
        return self._call_wsgi(body, method, path, query, more)

    def _answer(
        self, body: bytes, query: str, headers: Iterable[tuple[str, str]]
    ) -> tuple[int, list[tuple[str, str]], bytes]:
        self.given = body
        self.given_head = frozenset([query, *(f"{name}: {value}" for name, value in headers)])
        return self._app(body)

    async def _asgi_app(self, scope: Any, receive: Any, send: Any) -> None:
        body, more = b"", True
        while more:
            message = await receive()
            body += message["body"]
            more = message.get("more_body", False)
        came = [(name.decode(), value.decode("latin-1")) for name, value in scope["headers"]]
        status, headers, answer = self._answer(body, scope["query_string"].decode(), came)
        raw = [(name.encode(), value.encode()) for name, value in headers]
        await send({"type": "http.response.start", "status": status, "headers": raw})
        await send({"type": "http.response.body", "body": answer})

    def _wsgi_app(self, environ: Any, start_response: Any) -> list[bytes]:
        came = [
            (key[5:].replace("_", "-").lower(), value)
            for key, value in environ.items()
            if key.startswith("HTTP_")
        ]
        body = environ["wsgi.input"].read()
        status, headers, answer = self._answer(body, environ["QUERY_STRING"], came)
        start_response(f"{status} OK", headers)
        return [answer]

    async def _call_asgi(
        self, body: bytes, method: str, path: str, query: str, more: list[tuple[str, str]]
    ) -> tuple[int, bytes, bytes]:
        scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": method,
            "scheme": "https",
            "path": path,
            "raw_path": path.encode(),
            "query_string": query.encode(),
            "root_path": "",
            "headers": [
                (b"content-type", b"application/json"),
                (b"content-length", str(len(body)).encode()),
                *((name.encode(), value.encode()) for name, value in more),
            ],
            "client": ("127.0.0.1", 50000),
            "server": ("localhost", 8443),
            PRESENTED_KEY: self._presented,
        }
        incoming = [{"type": "http.request", "body": body}]
        sent: list[Any] = []

        async def receive() -> Any:
            return incoming.pop() if incoming else {"type": "http.disconnect"}

        async def send(message: Any) -> None:
            sent.append(message)

        await self._asgi(scope, receive, send)
        head = b"\n".join(name + b": " + value for name, value in sent[0]["headers"])
        return sent[0]["status"], head, b"".join(message.get("body", b"") for message in sent[1:])

    def _call_wsgi(
        self, body: bytes, method: str, path: str, query: str, more: list[tuple[str, str]]
    ) -> tuple[int, bytes, bytes]:
        environ = {
            "REQUEST_METHOD": method,
            "SCRIPT_NAME": "",
            "PATH_INFO": path,
            "RAW_URI": path,
            "QUERY_STRING": query,
            "CONTENT_TYPE": "application/json",
            "CONTENT_LENGTH": str(len(body)),
            "SERVER_NAME": "localhost",
            "SERVER_PORT": "8443",
            "SERVER_PROTOCOL": "HTTP/1.1",
            "SERVER_SOFTWARE": "gunicorn/every",
            "REMOTE_ADDR": "127.0.0.1",
            "wsgi.version": (1, 0),
            "wsgi.url_scheme": "https",
            "wsgi.input": io.BytesIO(body),
            "wsgi.input_terminated": True,
            "wsgi.errors": io.StringIO(),
            "wsgi.multithread": True,
            "wsgi.multiprocess": False,
            "wsgi.run_once": False,
            PRESENTED_KEY: self._presented,
            **{"HTTP_" + name.replace("-", "_").upper(): value for name, value in more},
        }
        started: list[Any] = []

        def start_response(status: str, headers: Any, exc_info: Any = None) -> Any:
            started[:] = [int(status[:3]), "\n".join(f"{name}: {value}" for name, value in headers)]

        answer = self._wsgi(environ, start_response)
        whole = b"".join(answer)
        if hasattr(answer, "close"):
            answer.close()
        return started[0], started[1].encode("latin-1"), whole


@dataclass(slots=True)
class Shown:
    """What a failed assertion tells; written out only then."""

    token: Token
    slot: Slot
    status: int
    head: bytes
    body: bytes
    given: bytes | frozenset[str] | None


class _NoSecrets(logging.Handler):
    """Looks through all that is logged."""

    def emit(self, record: logging.LogRecord) -> None:
        assert "secret-" not in record.getMessage()


@pytest.fixture(scope="module")
def stage(world: World) -> Iterator[Stage]:
    handler, logger = _NoSecrets(), logging.getLogger("secmiddleware")
    logger.addHandler(handler)
    logger.propagate = (
        False  # pytest would write out each of a hundred thousand refusals, which takes seconds
    )
    made = Stage(world)
    yield made
    made.manager.stop()
    logger.propagate = True
    logger.removeHandler(handler)


@pytest.fixture(params=["asgi", "wsgi"])
def shell(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def calling(shell: str, stage: Stage) -> Callable[[str], Caller]:
    return partial(Caller, stage, shell=shell)


def _done(coroutine: Coroutine[Any, Any, tuple[int, bytes, bytes]]) -> tuple[int, bytes, bytes]:
    """What it returns, without a loop: there is nothing here that it would have to wait for."""
    try:
        coroutine.send(None)
    except StopIteration as stop:
        result: tuple[int, bytes, bytes] = stop.value
        return result
    raise AssertionError("it waits")


def fixed(body: bytes) -> App:
    return lambda given: (200, [("content-type", "application/json")], body)


def test_there_is_a_token_for_every_slot_and_every_way_to_be_another(stage: Stage) -> None:
    alice = stage.people["alice"]
    opening = Counter(slot.name for slot in SLOTS for token in stage.tokens if token.opens(slot, alice))
    assert set(opening) == {slot.name for slot in SLOTS}
    assert opening["card"] == opening["moving"] == 2  # of two formats
    assert len({token.secret for token in stage.tokens}) == len(stage.tokens) > 600


def test_a_token_opens_in_its_own_slot_and_in_no_other(
    stage: Stage, calling: Callable[[str], Caller]
) -> None:
    alice, caller = stage.people["alice"], calling("alice")
    silent = fixed(b"{}")
    for slot, token in product(SLOTS, stage.tokens):
        status, head, body = caller.call(slot.body(token.literal), silent)
        shown = Shown(token, slot, status, head, body, caller.given)
        assert token.secret.encode() not in head + body, shown
        if not goes_on(token, slot, alice):
            assert caller.given is None, shown
            assert status == 400, shown
            continue
        assert status == 200, shown
        assert caller.given is not None, shown
        if slot.does("request") == "decrypt":
            assert caller.given == slot.body(token.value), shown
        elif slot.does("request") == "pass" or token.is_token_in(slot):
            assert caller.given == slot.body(token.literal), shown
        else:
            assert token.secret.encode() not in caller.given, shown
            assert token.text.encode() not in caller.given, shown


def goes_on(token: Token, slot: Slot, who: Identity) -> bool:
    """Whether a request with this token in this slot reaches the app."""
    if slot.does("request") == "pass":
        return True
    if slot.does("request") == "encrypt" and not token.is_token_in(slot):
        return True  # It is a text like any, and is sealed.
    skips = slot.does("request") == "decrypt" or slot.place.get("already_sealed") == "skip"
    return skips and token.opens(slot, who)


def test_a_kept_token_opens_for_whom_it_is_and_to_whom_it_is_revealed(
    stage: Stage, calling: Callable[[str], Caller], shell: str
) -> None:
    for (name, caller, token), slot in product(by_turns(stage, calling, shell), SLOTS):
        who = stage.people[name]
        status, head, body = caller.call(b"", fixed(slot.body(token.literal)), "GET")
        shown = Shown(token, slot, status, head, body, caller.given)
        assert token.secret.encode() not in head, shown
        expected = becomes(token, slot, who, revealed=name == "oscar")
        if isinstance(expected, int):
            assert status == expected, shown
            assert token.secret.encode() not in body, shown
        elif expected is None:
            assert status == 200, shown
            assert token.secret.encode() not in body, shown
            assert token.text.encode() not in body, shown
        else:
            assert (status, body) == (200, slot.body(expected)), shown


def by_turns(
    stage: Stage, calling: Callable[[str], Caller], shell: str
) -> Iterator[tuple[str, Caller, Token]]:
    """Every token, and who asks for it: in this shell the one of two, in the other shell the other."""
    callers = [(name, calling(name)) for name in ("alice", "oscar")]
    for number, token in enumerate(stage.tokens):
        yield *callers[(number + (shell == "asgi")) % 2], token


def becomes(token: Token, slot: Slot, who: Identity, *, revealed: bool) -> str | int | None:
    """What a token in a response becomes: this JSON, a refusal of this status; None: a token of it."""
    opens = token.opens(slot, who)
    match slot.does("response"):
        case "pass":
            return token.literal
        case "encrypt" if not token.is_token_in(slot):
            return None
        case "encrypt":
            return token.literal if opens and slot.place.get("already_sealed") == "skip" else 500
    if not token.is_token_in(slot) or (revealed and not opens):
        return 500
    if revealed:
        return token.value
    match slot.otherwise:
        case "token":
            return token.literal
        case "mask":
            return '"***tail"' if opens and "mask_last" in slot.field else '"***"'
        case "null":
            return "null"
    return 403


@pytest.mark.parametrize("answer", ANSWERS.values(), ids=ANSWERS)
def test_what_was_opened_leaves_sealed_at_its_mark_or_not_at_all(
    stage: Stage, calling: Callable[[str], Caller], answer: Answer
) -> None:
    alice, caller = stage.people["alice"], calling("alice")
    for slot, token in product(SLOTS, stage.tokens):
        if not token.opens(slot, alice) or not goes_on(token, slot, alice):
            continue
        status, head, body = caller.call(slot.body(token.literal), talking(answer), answer.method)
        shown = Shown(token, slot, status, head, body, caller.given)
        assert caller.given is not None, shown
        assert token.secret.encode() not in head + body, shown
        if slot.does("request") != "decrypt":
            continue  # The app has a token to talk about.
        if answer is not ANSWERS["the same"] or slot.does("response") == "pass":
            assert status == 500, shown
            continue
        sealed = body[len(slot.body("")) - 1 : -3]
        context = Context(slot.name, "field", *slot.binding(alice), slot.formats[0])
        value = stage.keyring.open(sealed, context, datetime.now(UTC))
        assert value.rstrip(b" ").decode() == token.value, shown


def talking(answer: Answer) -> App:
    """The app that gives this answer."""

    def app(given: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
        headers = [("content-type", answer.media_type)]
        if answer.header:
            value = given.decode().split('"')[3]
            headers.append((answer.header, f'"{value}"'))
        return answer.status, headers, answer.body(given)

    return app


@pytest.mark.parametrize("part", PARTS.values(), ids=PARTS)
def test_a_token_in_a_head_opens_in_its_own_slot_and_in_no_other(
    stage: Stage, calling: Callable[[str], Caller], part: Part
) -> None:
    alice, caller = stage.people["alice"], calling("alice")
    silent = fixed(b"{}")
    for slot, token in product(SLOTS, stage.tokens):
        sent = part.in_request(slot, token.text)
        status, head, body = caller.call(b"", silent, "GET", sent, slot.heads_path)
        shown = Shown(token, slot, status, head, body, caller.given_head)
        assert token.secret.encode() not in head + body, shown
        if not goes_on(token, slot, alice):
            assert (status, caller.given) == (400, None), shown
            continue
        assert (status, caller.given) == (200, b""), shown
        if slot.does("request") == "decrypt":
            assert part.in_request(slot, token.plain) in caller.given_head, shown
        elif slot.does("request") == "pass" or token.is_token_in(slot):
            assert sent in caller.given_head, shown
        else:
            assert not any(token.text in line or token.secret in line for line in caller.given_head), shown


@pytest.mark.parametrize("part", PARTS.values(), ids=PARTS)
def test_a_kept_token_in_a_head_opens_for_whom_it_is_and_to_whom_it_is_revealed(
    stage: Stage, calling: Callable[[str], Caller], part: Part, shell: str
) -> None:
    for (name, caller, token), slot in product(by_turns(stage, calling, shell), SLOTS):
        app = heading(part.in_response(slot, token.text), b"{}")
        status, head, body = caller.call(b"", app, "GET", path=slot.heads_path)
        shown = Shown(token, slot, status, head, body, caller.given_head)
        expected = becomes(token, slot, stage.people[name], revealed=name == "oscar")
        if isinstance(expected, int):
            assert status == expected, shown
        elif expected is None:
            assert status == 200, shown
            assert token.text.encode() not in head, shown
        else:
            text = part.in_response(slot, json.loads(expected) or "")
            assert (status, body) == (200, b"{}"), shown
            assert text.encode() in head.split(b"\n"), shown
        if expected != token.value:
            assert token.secret.encode() not in head + body, shown


@pytest.mark.parametrize("part", PARTS.values(), ids=PARTS)
def test_what_was_opened_in_a_head_leaves_sealed_in_a_head(
    stage: Stage, calling: Callable[[str], Caller], part: Part
) -> None:
    alice, caller = stage.people["alice"], calling("alice")
    for (slot, token), where in product(opened_in_heads(stage, alice), PARTS.values()):
        app = heading(where.in_response(slot, token.plain), b"{}")
        status, head, body = caller.call(b"", app, "GET", part.in_request(slot, token.text), slot.heads_path)
        shown = Shown(token, slot, status, head, body, caller.given_head)
        assert token.secret.encode() not in head + body, shown
        if slot.does("response") == "pass":
            assert (status, caller.given) == (500, b""), shown
            continue
        assert status == 200, shown
        context = Context(slot.name, "field", *slot.binding(alice), slot.formats[0])
        value = stage.keyring.open(where.text_in(slot, head).encode(), context, datetime.now(UTC))
        assert value.rstrip(b" ").decode() == token.value, shown


@pytest.mark.parametrize("part", PARTS.values(), ids=PARTS)
def test_what_was_opened_in_a_head_leaves_nowhere_else(
    stage: Stage, calling: Callable[[str], Caller], part: Part
) -> None:
    alice, caller = stage.people["alice"], calling("alice")
    for (slot, token), answer in product(opened_in_heads(stage, alice), ANSWERS.values()):
        app = partial(_told, talking(answer), slot.body(token.value))
        status, head, body = caller.call(
            b"", app, answer.method, part.in_request(slot, token.text), slot.heads_path
        )
        shown = Shown(token, slot, status, head, body, caller.given_head)
        assert (status, caller.given) == (500, b""), shown
        assert token.secret.encode() not in head + body, shown


def opened_in_heads(stage: Stage, who: Identity) -> Iterator[tuple[Slot, Token]]:
    """The slots that open what comes in, each with the tokens that open there."""
    for slot in SLOTS:
        if slot.does("request") == "decrypt":
            yield from ((slot, token) for token in stage.tokens if token.opens(slot, who))


def heading(line: str, body: bytes) -> App:
    """The app that answers with this header and body."""
    name, _, value = line.partition(": ")
    return lambda given: (200, [("content-type", "application/json"), (name, value)], body)


def _told(app: App, told: bytes, given: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
    """What an app answers to this body, whatever it was given."""
    return app(told)
