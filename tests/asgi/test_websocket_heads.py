"""Marks of heads where a websocket begins: its handshake is a GET's head, what the app answers a response."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any
from urllib.parse import quote_plus

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from exchanges.outcome import Recorder
from hypothesis import given, settings
from hypothesis import strategies as st
from servers.pki import Pki

from asgi.calling import Call, call, http_scope
from secmiddleware.asgi import SecMiddleware
from secmiddleware.messages import Presented, Refusal, RequestHead
from secmiddleware.security import SecurityManager

MARKS = ["header:X-Id", "cookie:sid", "query:token"]
CONNECT = {"type": "websocket.connect"}
SECRET = "secret-0815"
TOKEN = re.compile(rb"sm1\.[A-Za-z0-9_-]+")


@pytest.fixture(scope="module", params=["off", "1m"])
def manager(
    request: pytest.FixtureRequest,
    pki: Pki,
    keys: dict[str, str],
    started: Callable[[dict[str, Any]], SecurityManager],
) -> SecurityManager:
    """With and without a timer that judges sockets again."""

    def place(path: str, marks: list[str] = MARKS, **more: Any) -> dict[str, Any]:
        return {"routes": [path], "marks": marks, **more}

    sid = [
        place("/both", request="decrypt", response="encrypt"),
        place("/said", request="decrypt", response="encrypt", websocket=True),
        place("/in", request="decrypt"),
        place("/stored", request="encrypt", response="decrypt"),
        place("/required", ["cookie:sid"], request="decrypt", required=True),
        place("/shut", ["cookie:sid"], request="decrypt"),
        place("/mixed", ["cookie:sid"], request="decrypt"),
        place("/kept", ["$.sid"], response="decrypt", websocket=True),
    ]
    ssn = [
        place("/shut", ["$.ssn"], request="decrypt"),
        place("/mixed", ["$.ssn"], request="decrypt", websocket=True),
    ]
    fields = {
        "sid": {"reveal_to": ["spiffe://example.org/ops/*"], "otherwise": "mask", "places": sid},
        "ssn": {"places": ssn},
        "mine": {"bind": "caller", "places": [place("/mine", ["cookie:sid"], request="decrypt")]},
    }
    mtls = {"client": "off", "recheck": request.param}
    routes = [{"path": "/mine", "client": "required"}, {"path": "/stored", "client": "required"}]
    return started(pki.settings(mtls=mtls, keys=keys, fields=fields, routes=routes))


@pytest.fixture(scope="module")
def people(pki: Pki) -> dict[str, Presented]:
    def presented(name: str) -> Presented:
        pem = pki.trusted.issue_client(spiffe_id=pki.spiffe(name)).certificate_pem
        return Presented(x509.load_pem_x509_certificate(pem).public_bytes(Encoding.DER))

    return {name: presented(name) for name in ("shop/alice", "shop/bob", "ops/oscar")}


def seal(manager: SecurityManager, text: str = SECRET, field: str = "sid", **context: str) -> bytes:
    assert manager.encryption is not None
    return manager.encryption.seal(field, json.dumps(text).encode(), **context).encode()


def unsealed(manager: SecurityManager, token: bytes, field: str = "sid") -> str:
    assert manager.encryption is not None
    return json.loads(manager.encryption.open(field, token.decode()))


def with_ssn(manager: SecurityManager, text: str) -> dict[str, Any]:
    return {"type": "websocket.receive", "text": f'{{"ssn":"{seal(manager, text, "ssn").decode()}"}}'}


class App:
    """Remembers the scope, and answers with these messages; then it hears what there is to hear."""

    def __init__(self, *answers: dict[str, Any]) -> None:
        self.scope: dict[str, Any] | None = None
        self.heard: list[dict[str, Any]] = []
        self.raised: OSError | None = None
        self._answers = answers

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.scope = dict(scope)
        if scope["type"] == "http":
            await send({"type": "http.response.start", "status": 204, "headers": []})
            await send({"type": "http.response.body"})
            return
        assert (await receive())["type"] == "websocket.connect"
        try:
            for answer in self._answers:
                await send(answer)
        except OSError as error:
            self.raised = error
        while not self.heard or self.heard[-1]["type"] == "websocket.receive":
            self.heard.append(await receive())

    @property
    def head(self) -> Any:
        return None if self.scope is None else (self.scope["headers"], self.scope["query_string"])


def accept(*headers: tuple[bytes, bytes], **more: Any) -> dict[str, Any]:
    return {"type": "websocket.accept", "headers": list(headers), **more}


def denial(body: bytes = b"", *headers: tuple[bytes, bytes]) -> list[dict[str, Any]]:
    return [
        {"type": "websocket.http.response.start", "status": 403, "headers": list(headers)},
        {"type": "websocket.http.response.body", "body": body},
    ]


def connect(
    manager: SecurityManager,
    app: App,
    path: str = "/both",
    *messages: dict[str, Any],
    query: bytes = b"",
    headers: Sequence[tuple[bytes, bytes]] = (),
    offered: bool = True,
    observer: Any = None,
    **more: Any,
) -> Call:
    scope = http_scope(path, type="websocket", scheme="wss", query_string=query, headers=[*headers], **more)
    scope["extensions"] = {"websocket.http.response": {}} if offered else {}
    scope["asgi"] = {"version": "3.0", "spec_version": "2.4"}
    if "method" not in more:
        del scope["method"]
    return call(SecMiddleware(app, config=manager, observer=observer), scope, CONNECT, *messages)


def code_of(done: Call) -> tuple[int, str, str | None]:
    problem = json.loads(done.body)
    return done.status, problem["code"], problem.get("where")


def head_of(manager: SecurityManager) -> dict[str, Any]:
    """A head with a token in each marked part."""
    token = seal(manager)
    return {
        "query": b"a=%2f&token=" + token,
        "headers": [(b"x-id", token), (b"cookie", b"a=1; sid=" + token)],
    }


@pytest.mark.parametrize("path", ["/both", "/said", "/in"])
def test_the_app_gets_the_handshake_with_its_marks_opened(manager: SecurityManager, path: str) -> None:
    app = App(accept())
    connect(manager, app, path, **head_of(manager))
    secret = SECRET.encode()
    assert app.head == ([(b"x-id", secret), (b"cookie", b"a=1; sid=" + secret)], b"a=%2f&token=" + secret)


def test_what_is_encrypted_for_the_app_is_nowhere_plain_in_its_scope(
    manager: SecurityManager, people: dict[str, Presented]
) -> None:
    app = App(accept())
    headers = [(b"x-id", b"secret-1"), (b"cookie", b"sid=secret-2")]
    alice = people["shop/alice"]
    connect(manager, app, "/stored", query=b"token=secret-3", headers=headers, presented=alice)
    (_, x_id), (_, cookie) = app.head[0]
    tokens = (x_id, cookie.removeprefix(b"sid="), app.head[1].removeprefix(b"token="))
    assert [unsealed(manager, token) for token in tokens] == ["secret-1", "secret-2", "secret-3"]
    assert "secret-" not in repr(app.scope)


TEXTS = st.text(st.characters(codec="ascii", exclude_categories=["Cc"]), max_size=8)
PLAIN = st.binary(max_size=6).map(lambda text: bytes(byte for byte in text if 32 <= byte < 127))


@settings(deadline=None, max_examples=150)
@given(data=st.data(), path=st.sampled_from(["/both", "/said", "/in", "/stored", "/required", "/mixed"]))
def test_a_handshake_reaches_the_app_or_is_refused_as_the_head_of_a_get_would_be(
    manager: SecurityManager, people: dict[str, Presented], data: st.DataObject, path: str
) -> None:
    values = st.one_of(TEXTS.map(lambda text: seal(manager, text)), PLAIN)
    cookies = st.sampled_from([b"sid", b"a", b" sid ", b"\xa0sid", b""])
    cookie = st.lists(st.tuples(cookies, values), max_size=3).map(
        lambda pairs: (b"cookie", b"; ".join(name + b"=" + value for name, value in pairs))
    )
    others = st.sampled_from([b"x-id", b"x_id", b"x-other", b"range", b"accept-encoding", b"if-none-match"])
    said = st.sampled_from([(b"content-type", b"application/x-ndjson"), (b"content-length", b"0")])
    headers = data.draw(st.lists(st.one_of(cookie, st.tuples(others, values), said), max_size=4))
    names = st.sampled_from([b"token", b"tok%65n", b"b"])
    spelled = st.one_of(values.map(lambda value: quote_plus(value).encode()), values)
    parameters = data.draw(st.lists(st.tuples(names, spelled), max_size=3))
    query = b"&".join(name + b"=" + value for name, value in parameters)
    head = {"headers": headers, "presented": people["shop/alice"]}
    asked, connected = App(), App(accept())
    scope = http_scope(path, query_string=query, **head)
    got = call(SecMiddleware(asked, config=manager), scope, {"type": "http.request"})
    denied = connect(manager, connected, path, query=query, **head)
    if asked.head is None:
        assert connected.head is None
        assert code_of(denied) == code_of(got)
    elif path == "/stored":  # no two tokens are equal
        assert [opened(manager, text) for text in texts_of(connected)] == [
            opened(manager, text) for text in texts_of(asked)
        ]
    else:
        assert connected.head == asked.head


def texts_of(app: App) -> list[bytes]:
    headers, query = app.head
    return [query, *(name + b": " + value for name, value in headers)]


def opened(manager: SecurityManager, text: bytes) -> bytes:
    """The text with what each token in it holds in its place."""
    return TOKEN.sub(lambda token: b"<" + unsealed(manager, token[0]).encode() + b">", text)


@pytest.mark.parametrize("offered", [True, False])
def test_a_handshake_that_does_not_open_is_refused_and_the_app_not_called(
    manager: SecurityManager, offered: bool
) -> None:
    for path, head, status, code, where in (
        ("/both", {"query": b"token=plain"}, 400, "field_undecryptable", "query:token"),
        ("/both", {"headers": [(b"x_id", b"1"), (b"x-id", seal(manager))]}, 400, "header_ambiguous", None),
        ("/both", {"headers": [(b"cookie", b'sid="a; b=1')]}, 400, "payload_malformed", "cookie:sid"),
        ("/required", {}, 400, "field_missing", "cookie:sid"),
        ("/required", {"method": "OPTIONS"}, 400, "field_missing", "cookie:sid"),
    ):
        app, seen = App(accept()), Recorder()
        done = connect(manager, app, path, offered=offered, observer=seen, **head)
        assert app.scope is None
        assert seen.wait().refusal == Refusal(code, where or "header:x-id")
        if offered:
            assert code_of(done) == (status, code, where or "header:x-id")
        else:
            assert done.sent == [{"type": "websocket.close", "code": 1008, "reason": code}]


def test_a_token_in_the_place_of_a_value_is_refused_in_a_handshake_too(
    manager: SecurityManager, people: dict[str, Presented]
) -> None:
    headers = [(b"cookie", b"sid=" + seal(manager))]
    done = connect(manager, App(), "/stored", headers=headers, presented=people["shop/alice"])
    assert code_of(done) == (400, "field_missing", "cookie:sid")


def test_a_token_that_is_bound_to_a_caller_opens_in_that_callers_handshake_alone(
    manager: SecurityManager, pki: Pki, people: dict[str, Presented]
) -> None:
    headers = [(b"cookie", b"sid=" + seal(manager, field="mine", caller=pki.spiffe("shop/alice")))]
    app = App(accept())
    connect(manager, app, "/mine", headers=headers, presented=people["shop/alice"])
    assert app.head == ([(b"cookie", b"sid=" + SECRET.encode())], b"")
    done = connect(manager, app, "/mine", headers=headers, presented=people["shop/bob"])
    assert code_of(done) == (400, "field_undecryptable", "cookie:sid")


ANSWERED = ((b"Set-Cookie", b"sid=secret-1; Path=/"), (b"x-id", b"secret-2"), (b"x-other", b"1"))


@pytest.mark.parametrize("path", ["/both", "/said"])
def test_headers_of_the_acceptance_are_sealed_and_the_subprotocol_stays(
    manager: SecurityManager, path: str
) -> None:
    done = connect(manager, App(accept(*ANSWERED, subprotocol="v2.chat")), path)
    (accepted,) = done.sent
    (cookie_name, cookie), (name, x_id), other = accepted["headers"]
    assert (cookie_name, name, other) == (b"set-cookie", b"x-id", (b"x-other", b"1"))
    assert cookie.endswith(b"; Path=/")
    token = cookie.removeprefix(b"sid=").removesuffix(b"; Path=/")
    assert [unsealed(manager, token), unsealed(manager, x_id)] == ["secret-1", "secret-2"]
    assert accepted["subprotocol"] == "v2.chat"


@pytest.mark.parametrize(
    ("name", "shown"), [("ops/oscar", SECRET.encode()), ("shop/alice", b"***"), ("shop/bob", b"***")]
)
def test_an_acceptance_shows_plaintext_to_those_only_to_whom_it_is_revealed(
    manager: SecurityManager, people: dict[str, Presented], name: str, shown: bytes
) -> None:
    token = seal(manager)
    answers = (accept((b"x-id", token)), *denial(b"", (b"x-id", token)))
    for answer in (answers[:1], answers[1:]):
        done = connect(manager, App(*answer), "/stored", presented=people[name])
        assert done.sent[0]["headers"][0] == (b"x-id", shown)


@pytest.mark.parametrize("path", ["/stored", "/kept"])
def test_that_nobody_may_keep_it_is_said_of_a_denial_and_of_no_acceptance(
    manager: SecurityManager, people: dict[str, Presented], path: str
) -> None:
    alice = people["shop/alice"]
    cached = (b"cache-control", b"max-age=60")
    done = connect(manager, App(accept(cached)), path, presented=alice)
    assert done.sent[0]["headers"] == [cached]
    done = connect(manager, App(*denial(b"", cached)), path, presented=alice)
    assert done.sent[0]["headers"] == [(b"cache-control", b"private, no-store")]


def test_a_denial_is_sealed_where_a_response_is(manager: SecurityManager) -> None:
    location = b"/login?a=1&token=secret-3#there"
    done = connect(manager, App(*denial(b"no", *ANSWERED, (b"location", location))))
    assert (done.status, done.body) == (403, b"no")
    assert "secret-" not in repr(done.sent)
    token = done.sent[0]["headers"][-1][1].removeprefix(b"/login?a=1&token=").removesuffix(b"#there")
    assert unsealed(manager, token) == "secret-3"


@pytest.mark.parametrize("offered", [True, False])
@pytest.mark.parametrize("kind", ["acceptance", "denial"])
def test_of_an_answer_that_cannot_be_sealed_nothing_leaves(
    manager: SecurityManager, offered: bool, kind: str
) -> None:
    headers = (*ANSWERED, (b"x-id", seal(manager)))  # sealed already
    app = App(accept(*headers)) if kind == "acceptance" else App(*denial(b"secret-3", *headers))
    seen = Recorder()
    done = connect(manager, app, offered=offered, observer=seen)
    if offered:
        assert code_of(done) == (500, "seal_failed", "header:x-id")
    else:
        assert done.sent == [{"type": "websocket.close", "code": 1011, "reason": "seal_failed"}]
    assert b"secret" not in done.body
    assert app.raised is not None
    assert (app.heard[0]["type"], app.heard[0]["code"]) == ("websocket.disconnect", 1011)
    assert seen.wait().refusal == Refusal("seal_failed", "header:x-id")


TEXT = {"type": "websocket.send", "text": f"hello {SECRET}"}
BYTES = {"type": "websocket.send", "bytes": SECRET.encode()}


@pytest.mark.parametrize("path", ["/in", "/both", "/mixed"])
@pytest.mark.parametrize("message", [TEXT, BYTES], ids=["text", "bytes"])
def test_what_the_handshake_brought_leaves_in_no_message(
    manager: SecurityManager, path: str, message: dict[str, Any]
) -> None:
    headers = [(b"cookie", b"sid=" + seal(manager))]
    app = App(accept(), {"type": "websocket.send", "text": "hello"}, message)
    done = connect(manager, app, path, headers=headers)
    assert [sent["type"] for sent in done.sent] == ["websocket.accept", "websocket.send", "websocket.close"]
    assert done.sent[-1]["code"] == 1011
    assert SECRET not in repr(done.sent)


@pytest.mark.parametrize(
    "answers",
    [
        [accept((b"x-other", b"for " + SECRET.encode()))],
        [accept(subprotocol=SECRET)],
        denial(b"", (b"x-other", SECRET.encode())),
        denial(b'{"detail":"no such session: ' + SECRET.encode() + b'"}'),
    ],
    ids=["header", "subprotocol", "header of a denial", "body of a denial"],
)
@pytest.mark.parametrize("path", ["/in", "/both"])
def test_what_the_handshake_brought_leaves_in_no_answer(
    manager: SecurityManager, path: str, answers: list[dict[str, Any]]
) -> None:
    done = connect(manager, App(*answers), path, headers=[(b"cookie", b"sid=" + seal(manager))])
    assert code_of(done)[:2] == (500, "seal_failed")
    assert SECRET not in repr(done.sent)


@pytest.mark.parametrize("accepted", [True, False])
def test_what_the_handshake_brought_leaves_in_no_reason_of_a_close(
    manager: SecurityManager, accepted: bool
) -> None:
    close = {"type": "websocket.close", "code": 4000, "reason": f"bad {SECRET}"}
    app = App(*[accept()] * accepted, close)
    done = connect(manager, app, "/in", headers=[(b"cookie", b"sid=" + seal(manager))])
    assert done.sent[-1] == {**close, "reason": ""}


def test_no_number_of_messages_makes_the_guard_forget_the_handshake(manager: SecurityManager) -> None:
    many = [with_ssn(manager, str(n) * 50_000) for n in range(12)]

    class Late(App):
        async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
            assert (await receive())["type"] == "websocket.connect"
            await send(accept())
            for number in range(12):
                assert len((await receive())["text"]) > 50_000
                await send({"type": "websocket.send", "text": f"{number}"})
            await super().__call__(scope, receive, send)

    app = Late(TEXT)
    headers = [(b"cookie", b"sid=" + seal(manager))]
    done = connect(manager, app, "/mixed", *many, CONNECT, headers=headers)
    assert [message.get("text") for message in done.sent[1:-1]] == [f"{number}" for number in range(12)]
    assert (done.sent[-1]["type"], done.sent[-1]["code"]) == ("websocket.close", 1011)


def test_where_heads_alone_are_marked_messages_pass_as_they_are(manager: SecurityManager) -> None:
    comes = [
        {"type": "websocket.receive", "text": "no JSON"},
        {"type": "websocket.receive", "bytes": b"\xff"},
    ]
    goes = [{"type": "websocket.send", "text": "{"}, {"type": "websocket.send", "bytes": b"\xfe"}]
    for path in ("/both", "/said"):
        app = App(accept(), *goes)
        done = connect(manager, app, path, *comes, headers=[(b"cookie", b"sid=" + seal(manager))])
        assert app.heard[:-1] == comes
        assert done.sent[1:] == goes


def test_a_place_for_bodies_keeps_websockets_out_unless_it_says_otherwise(manager: SecurityManager) -> None:
    head = {"headers": [(b"cookie", b"sid=" + seal(manager))]}
    app = App(accept())
    assert code_of(connect(manager, app, "/shut", **head))[:2] == (415, "payload_encoding")
    assert app.scope is None
    connect(manager, app, "/mixed", with_ssn(manager, "x"), **head)
    assert app.head == ([(b"cookie", b"sid=" + SECRET.encode())], b"")
    assert app.heard[0]["text"] == '{"ssn":"x"}'


def test_what_was_opened_and_sealed_is_reported_of_each_way(manager: SecurityManager) -> None:
    told: list[tuple[str, int, int]] = []

    class Seen(Recorder):
        def begin(self, *args: Any) -> Any:
            observation = super().begin(*args)
            observation.stage = lambda name, _start, _end, report: told.append(
                (name, report.opened, report.sealed)
            )
            return observation

    connect(manager, App(accept(*ANSWERED)), observer=Seen(), **head_of(manager))
    assert [one for one in told if one[1:] != (0, 0)] == [("request", 3, 0), ("response", 0, 2)]


def test_a_socket_is_judged_again_by_the_head_that_came(
    manager: SecurityManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    heads: list[RequestHead] = []
    admit, judged = manager.admit, asyncio.Event()

    def admitted(head: RequestHead) -> Any:
        heads.append(head)
        if len(heads) == 3:
            judged.set()
        return admit(head)

    often = manager.settings.mtls.model_copy(update={"recheck": timedelta(milliseconds=20)})
    monkeypatch.setattr(manager, "settings", manager.settings.model_copy(update={"mtls": often}))
    monkeypatch.setattr(manager, "admit", admitted)

    class Patient(App):
        async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
            await asyncio.wait_for(judged.wait(), 5)
            await super().__call__(scope, receive, send)

    app = Patient(accept())
    connect(manager, app, **head_of(manager))
    assert b"sid=sm1." in heads[0].headers[1][1]
    assert heads[:3] == heads[:1] * 3
    assert app.heard[0]["type"] == "websocket.disconnect"
    assert "code" not in app.heard[0]  # the client's own
