"""What is read of a request: its head as PEP 3333 puts it, and its body never past the end."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from typing import Any
from wsgiref.validate import InputWrapper

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from secmiddleware.environs import head_of, put_head
from secmiddleware.messages import IDENTITY_KEY, PRESENTED_KEY, Presented, header_values
from secmiddleware.security import SecurityManager
from secmiddleware.wsgi import SecMiddleware
from wsgi.calling import Response, call, environ_of

VALUE = b"123-45-6789"


class Wire:
    """An input that is the connection itself: what lies behind the body is the next request."""

    def __init__(self, data: bytes, pieces: int = 10**9) -> None:
        self.left = data
        self.asked: list[int] = []
        self._piece = pieces

    def read(self, size: int) -> bytes:
        assert size > 0, "asked for all that will ever come"
        self.asked.append(size)
        size = min(size, self._piece)
        piece, self.left = self.left[:size], self.left[size:]
        return piece

    def readline(self, size: int = -1) -> bytes:
        assert size > 0, "asked for a line of any length"
        self.asked.append(size)
        end = min(self.left.find(b"\n") + 1 or size, size)
        piece, self.left = self.left[:end], self.left[end:]
        return piece


class Gone(Wire):
    """An input whose caller goes away."""

    def read(self, size: int) -> bytes:
        if not self.left:
            raise ConnectionResetError
        return super().read(size)


NEXT = b"GET /admin HTTP/1.1\r\n\r\n"


def token(manager: SecurityManager) -> bytes:
    assert manager.encryption is not None
    return manager.encryption.seal("ssn", b'"%s"' % VALUE).encode()


class Reader:
    """An app that reads, and says in JSON what it has read."""

    def __init__(self, how: Any = lambda source: source.read()) -> None:
        self.calls: list[dict[str, Any]] = []
        self._how = how

    def __call__(self, environ: dict[str, Any], start_response: Any) -> list[bytes]:
        self.calls.append(dict(environ))
        start_response("200 OK", [("Content-Type", "application/json")])
        body = self._how(environ["wsgi.input"])
        return [json.dumps({"read": body.decode("latin-1")}).encode()]


def shell(app: Any, manager: SecurityManager) -> SecMiddleware:
    return SecMiddleware(app, config=manager)


def test_a_body_is_opened_and_nothing_is_read_past_its_length(
    manager: SecurityManager, alice: Presented
) -> None:
    body = b'{"ssn":"%s"}' % token(manager)
    for piece in (10**9, 7, 1):
        wire, app = Wire(body + NEXT, piece), Reader(lambda source: source.read())
        environ = environ_of("/in", body, method="POST", presented=alice, **{"wsgi.input": wire})
        response = call(shell(app, manager), environ)
        # The leak guard sees what was opened come back: the app has read it.
        assert response.status == 500
        assert wire.left == NEXT
        (seen,) = app.calls
        assert seen["CONTENT_LENGTH"] == str(len(b'{"ssn":"123-45-6789"}'))


def test_the_app_reads_the_opened_body_in_any_way(manager: SecurityManager, alice: Presented) -> None:
    body = b'{"ssn":"%s",\n"x":\n1}' % token(manager)
    opened = b'{"ssn":"123-45-6789",\n"x":\n1}'
    ways = {
        "all": lambda source: [source.read()],
        "none": lambda source: [source.read(None)],
        "pieces": lambda source: list(iter(lambda: source.read(3), b"")),
        "lines": list,
        "readline": lambda source: list(iter(source.readline, b"")),
        "readlines": lambda source: source.readlines(),
    }
    for name, way in ways.items():
        read: list[bytes] = []

        def app(
            environ: dict[str, Any], start_response: Any, way: Any = way, read: Any = read
        ) -> list[bytes]:
            read.extend(way(environ["wsgi.input"]))
            start_response("204 No Content", [])
            return []

        environ = environ_of("/in", body, method="POST", presented=alice)
        assert call(shell(app, manager), environ).status == 204, name
        assert b"".join(read) == opened, name
        assert all(line.endswith((b"\n", b"}")) for line in read if "line" in name)


@pytest.mark.parametrize("wire", [Wire, Gone])
def test_a_body_that_is_shorter_than_its_length_does_not_reach_the_app(
    manager: SecurityManager, alice: Presented, wire: type[Wire]
) -> None:
    body, app = b'{"ssn":"%s"}' % token(manager), Reader()
    environ = environ_of("/in", b"x", method="POST", presented=alice)
    environ |= {"wsgi.input": wire(body), "CONTENT_LENGTH": str(len(body) + 1)}
    response = call(shell(app, manager), environ)
    assert (response.status, b"payload_malformed" in response.body, app.calls) == (400, True, [])


def test_a_length_that_is_no_number_is_refused_before_anything_is_read(
    manager: SecurityManager, alice: Presented
) -> None:
    for length in ("+2", "2,2", "-1", "0x2", "2 2", "\u0662", "9" * 19, "9" * 5000, "2.0"):
        wire, app = Wire(b"{}"), Reader()
        environ = environ_of("/in", b"{}", method="POST", presented=alice)
        environ |= {"wsgi.input": wire, "CONTENT_LENGTH": length, "wsgi.input_terminated": True}
        response = call(shell(app, manager), environ)
        assert (response.status, b"header_ambiguous" in response.body) == (400, True), length
        assert (wire.asked, app.calls) == ([], [])


@pytest.mark.parametrize("path", ["/free", "/out", "/head"])
def test_where_a_body_is_not_marked_a_length_that_is_no_number_is_the_apps_to_refuse(
    manager: SecurityManager, alice: Presented, path: str
) -> None:
    wire, app = Wire(NEXT), Reader(lambda source: b"")
    environ = environ_of(path, method="GET", presented=alice)
    environ |= {"wsgi.input": wire, "CONTENT_LENGTH": "9" * 5000}
    assert call(shell(app, manager), environ).status == 200
    assert [saw["CONTENT_LENGTH"] for saw in app.calls] == ["9" * 5000]
    assert wire.asked == []


def test_a_body_that_says_it_is_too_large_is_not_read(manager: SecurityManager, alice: Presented) -> None:
    wire, app = Wire(b"{}"), Reader()
    environ = environ_of("/in", b"{}", method="POST", presented=alice)
    environ |= {"wsgi.input": wire, "CONTENT_LENGTH": "100001"}
    assert call(shell(app, manager), environ).status == 413
    assert (wire.asked, app.calls) == ([], [])


@pytest.mark.parametrize(
    ("method", "more"),
    [
        ("POST", {"HTTP_TRANSFER_ENCODING": "chunked"}),
        ("GET", {"HTTP_TRANSFER_ENCODING": "chunked"}),
        ("POST", {}),
        ("PUT", {}),
        ("PATCH", {"wsgi.input_terminated": False}),
    ],
)
def test_where_neither_length_nor_end_is_known_a_length_is_required(
    manager: SecurityManager, alice: Presented, method: str, more: dict[str, Any]
) -> None:
    wire, app = Wire(b'{"ssn":"plain"}'), Reader()
    environ = environ_of("/in", method=method, presented=alice, **{"wsgi.input": wire, **more})
    response = call(shell(app, manager), environ)
    assert (response.status, b"length_required" in response.body) == (411, True)
    assert (wire.asked, app.calls) == ([], [])


@pytest.mark.parametrize("method", ["GET", "HEAD", "DELETE", "OPTIONS"])
def test_a_request_that_announces_no_body_has_none_whatever_lies_behind_it(
    manager: SecurityManager, alice: Presented, method: str
) -> None:
    wire, app = Wire(NEXT), Reader()
    environ = environ_of("/in", method=method, presented=alice, **{"wsgi.input": wire})
    response = call(shell(app, manager), environ)
    assert response.status == 200
    assert (wire.left, wire.asked) == (NEXT, [])
    assert app.calls[0]["wsgi.input"].read() == b""


def test_a_body_without_a_length_is_read_to_the_end_that_the_server_makes(
    manager: SecurityManager, alice: Presented
) -> None:
    body, app = b'{"ssn":"%s"}' % token(manager), Reader(lambda source: b"")
    environ = environ_of("/in", method="POST", presented=alice)
    environ |= {
        "wsgi.input": Wire(body, 10),
        "wsgi.input_terminated": True,
        "HTTP_TRANSFER_ENCODING": "chunked",
        "CONTENT_TYPE": "application/json",
    }
    assert call(shell(app, manager), environ).status == 200
    (seen,) = app.calls
    assert "HTTP_TRANSFER_ENCODING" not in seen
    assert seen["CONTENT_LENGTH"] == "21"


def test_a_body_without_a_length_that_is_too_large_is_read_no_further(
    manager: SecurityManager, alice: Presented
) -> None:
    wire, app = Wire(b" " * 10_000_000), Reader()
    environ = environ_of("/in", method="POST", presented=alice)
    environ |= {"wsgi.input": wire, "wsgi.input_terminated": True, "CONTENT_TYPE": "application/json"}
    assert call(shell(app, manager), environ).status == 413
    assert len(wire.left) > 9_000_000
    assert app.calls == []


def test_where_only_the_response_is_marked_the_body_comes_as_it_comes(
    manager: SecurityManager, alice: Presented
) -> None:
    steps: list[int] = []

    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        source = environ["wsgi.input"]
        steps.append(len(wire.left))
        assert source.read(0) == b""
        assert source.read(3) == b"one"
        steps.append(len(wire.left))
        assert source.readline() == b"\n"
        assert source.readline(2) == b"tw"
        assert source.readlines(1) == [b"o\n"]
        assert list(source) == [b"three\n", b"rest"]
        assert source.read() == source.readline() == b""
        start_response("200 OK", [("Content-Type", "application/json")])
        return [b"{}"]

    wire = Wire(b"one\ntwo\nthree\nrest" + NEXT)
    environ = environ_of("/out", b"x" * 18, method="POST", presented=alice, **{"wsgi.input": wire})
    response = call(shell(app, manager), environ)
    assert response.raised is None
    assert steps == [18 + len(NEXT), 15 + len(NEXT)]
    assert wire.left == NEXT


def test_where_only_the_response_is_marked_the_app_sees_the_callers_going(
    manager: SecurityManager, alice: Presented
) -> None:
    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        with pytest.raises(ConnectionResetError):
            environ["wsgi.input"].read()
        start_response("200 OK", [("Content-Type", "application/json")])
        return [b"{}"]

    environ = environ_of("/out", b"xxx", method="POST", presented=alice, **{"wsgi.input": Gone(b"x")})
    assert call(shell(app, manager), environ).status == 200


def test_where_only_the_response_is_marked_the_app_may_get_the_whole_and_no_condition(
    manager: SecurityManager, alice: Presented
) -> None:
    app = Reader(lambda source: b"")
    environ = environ_of("/out", presented=alice, HTTP_IF_NONE_MATCH='"x"', HTTP_ACCEPT_ENCODING="gzip")
    assert call(shell(app, manager), environ).status == 200
    (seen,) = app.calls
    assert "HTTP_IF_NONE_MATCH" not in seen
    assert seen["HTTP_ACCEPT_ENCODING"] == "identity"


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    data=st.binary(max_size=300),
    sizes=st.lists(st.integers(-1, 40), min_size=1, max_size=30),
    lines=st.data(),
)
def test_an_input_that_comes_as_it_comes_is_read_like_a_file(
    manager: SecurityManager, alice: Presented, data: bytes, sizes: list[int], lines: st.DataObject
) -> None:
    data = data.replace(b"\x00", b"\n")
    file = io.BytesIO(data)

    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        for size in sizes:
            how = lines.draw(st.sampled_from(["read", "readline"]))
            assert getattr(environ["wsgi.input"], how)(size) == getattr(file, how)(size)
        start_response("204 No Content", [])
        return []

    environ = environ_of("/out", b"x", method="POST", presented=alice)
    environ |= {"wsgi.input": Wire(data + NEXT), "CONTENT_LENGTH": str(len(data))}
    response = call(shell(app, manager), environ)
    assert response.raised is None


# --- The head.


def test_text_of_an_environ_is_bytes() -> None:
    head = head_of(
        environ_of(
            "/caf\xc3\xa9",
            QUERY_STRING="q=\xe9",
            HTTP_X_NAME="\xc3\xa9\xff",
            HTTP_X_TWO_WORDS="a",
            RAW_URI="/caf%C3%A9?q=\xe9",
            REMOTE_PORT="50000",
        )
    )
    assert (head.path, head.raw_path, head.query) == ("/café", b"/caf%C3%A9", b"q=\xe9")
    assert set(head.headers) == {(b"x-name", b"\xc3\xa9\xff"), (b"x-two-words", b"a")}
    assert (head.peer.host, head.peer.port, head.http_version) == ("127.0.0.1", 50000, "1.1")


def test_an_empty_path_is_the_root(manager: SecurityManager, alice: Presented) -> None:
    assert head_of({}).path == "/"
    assert head_of({"SCRIPT_NAME": "/v1", "PATH_INFO": ""}).path == "/v1"
    app = Reader()
    assert call(shell(app, manager), environ_of("", presented=alice)).status == 200
    assert app.calls
    assert call(shell(app, manager), environ_of("free", presented=alice)).status == 400


def test_a_path_lies_under_its_script_name() -> None:
    head = head_of(environ_of("/x", SCRIPT_NAME="/api"))
    assert (head.path, head.root_path) == ("/api/x", "/api")


def test_empty_cgi_variables_are_no_headers_and_twins_of_them_neither() -> None:
    environ = environ_of(HTTP_CONTENT_LENGTH="5", HTTP_CONTENT_TYPE="application/json")
    assert head_of(environ).headers == ()
    environ |= {"CONTENT_TYPE": "text/plain", "CONTENT_LENGTH": "2"}
    assert set(head_of(environ).headers) == {(b"content-type", b"text/plain"), (b"content-length", b"2")}


@pytest.mark.parametrize("name", ["host", "x-forwarded-for", "x-never-heard-of", "x-http-y", "content-md5"])
def test_a_header_has_its_name_whether_it_is_a_usual_one_or_not(name: str) -> None:
    key = f"HTTP_{name.upper().replace('-', '_')}"
    beside = {f"X_{key}": "no header", key.lower(): "none either"}
    assert head_of(environ_of(**beside, **{key: "x"})).headers == ((name.encode(), b"x"),)


def test_what_no_server_makes_of_a_header_is_read_all_the_same() -> None:
    environ = environ_of(HTTP_X_NUMBER=5, HTTP_X_LETTER="\u20ac", HTTP_X_BYTE="\xe9")
    headers = {b"x-number": b"5", b"x-letter": "\u20ac".encode(), b"x-byte": b"\xe9"}
    assert dict(head_of(environ).headers) == headers


@pytest.mark.parametrize("key", ["RAW_URI", "REQUEST_URI"])
@pytest.mark.parametrize(
    "target", ["/x//../admin", "http://x/admin", "/a%2fb", "/a#b", "*", "", "/caf\xc3\xa9"]
)
def test_a_target_that_a_server_tells_is_what_is_judged(
    manager: SecurityManager, alice: Presented, key: str, target: str
) -> None:
    app = Reader()
    response = call(shell(app, manager), environ_of("/admin", presented=alice, **{key: target}))
    assert (response.status, b"path_ambiguous" in response.body, app.calls) == (400, True, [])


@pytest.mark.parametrize("target", ["http://localhost/x", "/caf\xc3\xa9", "http://localhost"])
def test_a_target_that_a_test_client_made_up_is_not_one_from_the_wire(
    manager: SecurityManager, alice: Presented, target: str
) -> None:
    environ = environ_of("/x", presented=alice, RAW_URI=target)
    del environ["SERVER_SOFTWARE"]
    assert call(shell(Reader(), manager), environ).status == 200
    environ |= {"PATH_INFO": "/x/../y"}
    assert call(shell(Reader(), manager), environ).status == 400


def test_a_path_that_cannot_have_come_over_a_wire_is_refused(
    manager: SecurityManager, alice: Presented
) -> None:
    for more in ({}, {"RAW_URI": "/\u2603"}, {"RAW_URI": "/%E2%98%83"}):
        assert call(shell(Reader(), manager), environ_of("/\u2603", presented=alice, **more)).status == 400


def test_only_headers_that_changed_are_touched() -> None:
    environ = environ_of(HTTP_A="one and only", HTTP_B_C="2", HTTP_D="3", CONTENT_LENGTH="7")
    kept = environ["HTTP_A"]
    before = head_of(environ)
    headers = (
        (b"a", b"one and only"),
        (b"b-c", b"20"),
        (b"content-length", b"9"),
        (b"e", b"4"),
        (b"e", b"5"),
    )
    put_head(environ, before, replace(before, headers=headers))
    assert environ["HTTP_A"] is kept
    assert (environ["HTTP_B_C"], environ["CONTENT_LENGTH"], environ["HTTP_E"]) == ("20", "9", "4,5")
    assert "HTTP_D" not in environ


# --- Who is calling.


def test_the_app_finds_who_is_calling_and_never_what_somebody_else_says(
    manager: SecurityManager, alice: Presented
) -> None:
    app = Reader(lambda source: b"")
    lies = {IDENTITY_KEY: "somebody", "HTTP_SECMIDDLEWARE.IDENTITY": "somebody"}
    assert call(shell(app, manager), environ_of("/x", presented=alice, **lies)).status == 200
    (seen,) = app.calls
    assert seen[IDENTITY_KEY].spiffe_id == "spiffe://example.org/alice"
    assert seen[PRESENTED_KEY] is None


@pytest.mark.parametrize("presented", ["a text", b"bytes", object(), {"leaf": b""}])
def test_what_is_presented_in_another_form_is_nothing(manager: SecurityManager, presented: Any) -> None:
    app = Reader()
    response = call(shell(app, manager), environ_of("/x", presented=presented))
    assert (response.status, b"certificate_missing" in response.body, app.calls) == (401, True, [])


def test_a_refusal_reads_nothing(manager: SecurityManager) -> None:
    wire = Wire(b"x" * 100)
    environ = environ_of("/in", b"x", method="POST", **{"wsgi.input": wire, "CONTENT_LENGTH": "100"})
    response = Response()
    assert shell(Reader(), manager)(environ, response.start) != []
    assert (response.status, wire.asked) == (401, [])


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH"])
def test_a_test_client_that_sends_no_body_announces_none(
    manager: SecurityManager, alice: Presented, method: str
) -> None:
    for source in (io.BytesIO(), InputWrapper(io.BytesIO())):
        empty = {"wsgi.input": source, "CONTENT_LENGTH": ""}
        app = Reader()
        response = call(shell(app, manager), environ_of("/in", method=method, presented=alice, **empty))
        assert response.status == 200
        assert app.calls


def test_a_body_in_memory_without_a_length_is_still_one(manager: SecurityManager, alice: Presented) -> None:
    for wrapped in (io.BytesIO, lambda body: InputWrapper(io.BytesIO(body))):
        unannounced = {"wsgi.input": wrapped(b'{"ssn":"plain"}'), "CONTENT_LENGTH": ""}
        app = Reader()
        response = call(shell(app, manager), environ_of("/in", method="POST", presented=alice, **unannounced))
        assert (response.status, app.calls) == (411, [])


@pytest.mark.parametrize(
    ("length", "status", "read"), [(11, 200, [b'{"x":"ssn"}']), (0, 200, [b""]), (None, 411, [])]
)
def test_a_length_that_a_test_gives_as_a_number_is_one(
    manager: SecurityManager, alice: Presented, length: int | None, status: int, read: list[bytes]
) -> None:
    seen: list[bytes] = []

    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        seen.append(environ["wsgi.input"].read())
        start_response("200 OK", [("Content-Type", "application/json")])
        return [b"{}"]

    more = {"CONTENT_LENGTH": length, "wsgi.input": io.BytesIO(b'{"x":"ssn"}')}
    environ = environ_of("/in", b"x", method="POST", presented=alice, **more)
    sent = [] if length is None else [b"%d" % length]
    assert header_values(head_of(environ).headers, b"content-length") == sent
    assert call(shell(app, manager), environ).status == status
    assert seen == read


@pytest.mark.parametrize("path", ["/free", "/in", "/out", "/both"])
def test_an_environ_with_next_to_nothing_in_it_is_a_get_without_a_body(
    manager: SecurityManager, alice: Presented, path: str
) -> None:
    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        start_response("200 OK", [("Content-Type", "application/json")])
        return [b"{}"]

    environ = {"PATH_INFO": path, PRESENTED_KEY: alice}
    response = call(shell(app, manager), environ)
    assert (response.raised, response.status, response.body) == (None, 200, b"{}")
    assert head_of(environ).method == "GET"
    assert call(shell(app, manager), {"PATH_INFO": path}).status == 401
