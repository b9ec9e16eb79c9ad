"""What PEP 3333 lets an app do with its response, where it passes and where it is held."""

from __future__ import annotations

import io
import logging
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any
from wsgiref.util import FileWrapper

import pytest

from secmiddleware.engine import Admission
from secmiddleware.messages import Presented, Refusal, RequestHead
from secmiddleware.security import SecurityManager
from secmiddleware.telemetry.audit import AuditObservation, AuditObserver
from secmiddleware.telemetry.observer import ExchangeRecord
from secmiddleware.wsgi import SecMiddleware
from wsgi.calling import JSON, SSN, Body, Response, answering, call, environ_of

ROUTES = ("/free", "/out")  # passes, is held


class AppError(Exception):
    """What apps here raise."""


class Watcher(AuditObserver):
    """An observer that wants to know everything."""

    def __init__(self) -> None:
        self.records: list[ExchangeRecord] = []
        self.active = 0

    def begin(self, head: RequestHead, verdict: Admission | Refusal, started_ns: int) -> AuditObservation:
        return _Watched(self, head, verdict)


class _Watched(AuditObservation):
    watches = True

    def __init__(self, watcher: Watcher, head: RequestHead, verdict: Admission | Refusal) -> None:
        super().__init__(head, verdict)
        self._watcher = watcher

    def active(self) -> AbstractContextManager[None]:
        @contextmanager
        def active() -> Iterator[None]:
            self._watcher.active += 1
            try:
                yield
            finally:
                self._watcher.active -= 1

        return active()

    def end(self, record: ExchangeRecord) -> None:
        super().end(record)
        self._watcher.records.append(record)


@pytest.fixture(params=[False, True], ids=["unwatched", "watched"])
def watcher(request: pytest.FixtureRequest) -> Watcher | None:
    return Watcher() if request.param else None


def shell(app: Any, manager: SecurityManager, watcher: Watcher | None = None) -> SecMiddleware:
    return SecMiddleware(app, config=manager, observer=watcher)


def sealed(response: Response, manager: SecurityManager) -> bytes:
    """The response's body with its token opened."""
    assert manager.encryption is not None
    before, token, after = response.body.partition(b"sm1.")
    token_end = after.index(b'"')
    value = manager.encryption.open("ssn", (token + after[:token_end]).decode())
    return before.removesuffix(b'"') + value + after[token_end + 1 :]


@pytest.mark.parametrize("path", ROUTES)
def test_an_iterable_is_closed_once(
    manager: SecurityManager, alice: Presented, watcher: Watcher | None, path: str
) -> None:
    body = Body(SSN)
    response = call(shell(answering(body), manager, watcher), environ_of(path, presented=alice))
    assert response.status == 200
    assert body.closed == 1
    if path == "/out":
        assert sealed(response, manager) == SSN


@pytest.mark.parametrize("path", ROUTES)
def test_an_iterable_that_fails_is_closed_once(
    manager: SecurityManager, alice: Presented, watcher: Watcher | None, path: str
) -> None:
    body = Body(b'{"ssn":', fails=AppError())
    response = call(shell(answering(body), manager, watcher), environ_of(path, presented=alice))
    assert isinstance(response.raised, AppError)
    assert body.closed == 1
    if path == "/out":
        assert (response.status, b"internal_error" in response.body) == (500, True)
        assert response.header("content-length") == str(len(response.body))
    if watcher is not None:
        assert [record.error for record in watcher.records] == ["wsgi.test_responses.AppError"]


@pytest.mark.parametrize("path", ROUTES)
def test_an_iterable_is_closed_once_when_the_client_goes_away(
    manager: SecurityManager, alice: Presented, watcher: Watcher | None, path: str
) -> None:
    body = Body(SSN, b" ", b" ")
    response = Response()
    iterable = shell(answering(body), manager, watcher)(environ_of(path, presented=alice), response.start)
    next(iter(iterable))
    if hasattr(iterable, "close"):  # a list of ours has none, and then all is over already
        iterable.close()
    assert body.closed == 1
    if watcher is not None:
        assert len(watcher.records) == 1


@pytest.mark.parametrize("path", ROUTES)
def test_a_close_that_fails_comes_after_the_response(
    manager: SecurityManager, alice: Presented, path: str
) -> None:
    class Stuck(Body):
        def close(self) -> None:
            super().close()
            raise AppError

    body, response = Stuck(SSN), Response()
    answer = shell(answering(body), manager)(environ_of(path, presented=alice), response.start)
    assert b"".join(answer)
    assert (response.status, body.closed) == (200, 0)
    with pytest.raises(AppError):
        answer.close()
    assert body.closed == 1


def test_where_nothing_is_marked_the_app_has_what_the_server_gave_and_the_server_what_the_app_gave(
    manager: SecurityManager, alice: Presented
) -> None:
    seen: dict[str, Any] = {}
    body = Body(b"one", b"two")

    def app(environ: dict[str, Any], start_response: Any) -> Any:
        seen.update(environ=environ, start_response=start_response, input=environ["wsgi.input"])
        start_response("200 Fine", [("X-Case", "Kept")])
        return body

    environ, response = environ_of("/free", b"x", presented=alice), Response()
    given = environ["wsgi.input"]
    start = response.start
    assert shell(app, manager)(environ, start) is body
    assert (seen["environ"], seen["start_response"], seen["input"]) == (environ, start, given)
    assert seen["environ"] is environ
    assert body.read == 0
    assert (response.line, response.headers) == ("200 Fine", [("X-Case", "Kept")])


def test_a_generator_runs_no_further_than_the_server_has_read(
    manager: SecurityManager, alice: Presented, watcher: Watcher | None
) -> None:
    steps: list[str] = []

    def app(environ: dict[str, Any], start_response: Any) -> Iterator[bytes]:
        steps.append("started")
        start_response("200 OK", [("Content-Type", "text/plain")])
        yield b"one"
        steps.append("went on")
        yield b"two"

    response = Response()
    iterable = shell(app, manager, watcher)(environ_of("/free", presented=alice), response.start)
    assert (steps, response.line) == ([], "")
    steps_of = iter(iterable)
    assert next(steps_of) == b"one"
    assert (steps, response.line) == (["started"], "200 OK")
    assert next(steps_of) == b"two"
    assert list(steps_of) == []
    iterable.close()  # type: ignore[attr-defined]
    if watcher is not None:
        assert [record.status for record in watcher.records] == [200]


def test_the_app_is_called_at_once(
    manager: SecurityManager, alice: Presented, watcher: Watcher | None
) -> None:
    called: list[str] = []

    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        called.append(environ["PATH_INFO"])
        start_response("200 OK", JSON)
        return [SSN]

    for path in ROUTES:
        shell(app, manager, watcher)(environ_of(path, presented=alice), Response().start)
    assert called == list(ROUTES)


def test_whoever_watches_is_active_while_the_app_works_and_never_else(
    manager: SecurityManager, alice: Presented
) -> None:
    watcher = Watcher()
    active: list[int] = []

    def app(environ: dict[str, Any], start_response: Any) -> Iterator[bytes]:
        start_response("200 OK", JSON)
        try:
            yield SSN
            active.append(watcher.active)
        finally:
            active.append(watcher.active)

    for path in ROUTES:
        call(shell(app, manager, watcher), environ_of(path, presented=alice))
        assert active == [1, 1]
        assert watcher.active == 0
        active.clear()
    assert [record.status for record in watcher.records] == [200, 200]


@pytest.mark.parametrize("path", ROUTES)
def test_write_works_and_keeps_its_place_before_the_iterable(
    manager: SecurityManager, alice: Presented, watcher: Watcher | None, path: str
) -> None:
    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        write = start_response("200 OK", JSON)
        write(b'{"ssn":')
        write(b"")
        write(b'"123-45-6789"')
        return [b"}"]

    response = call(shell(app, manager, watcher), environ_of(path, presented=alice))
    assert response.status == 200
    assert (sealed(response, manager) if path == "/out" else response.body) == SSN


@pytest.mark.parametrize("path", ROUTES)
def test_a_head_may_be_replaced_until_the_body_has_begun(
    manager: SecurityManager, alice: Presented, watcher: Watcher | None, path: str
) -> None:
    def app(environ: dict[str, Any], start_response: Any) -> Iterator[bytes]:
        start_response("200 OK", [("Content-Type", "text/plain"), ("X-First", "yes")])
        try:
            raise AppError
        except AppError:
            start_response("503 Later", JSON, sys.exc_info())
        yield SSN

    response = call(shell(app, manager, watcher), environ_of(path, presented=alice))
    assert response.line == "503 Later"
    assert response.header("x-first") is None
    assert (sealed(response, manager) if path == "/out" else response.body) == SSN
    if watcher is not None:
        assert [record.status for record in watcher.records] == [503]


@pytest.mark.parametrize("path", ROUTES)
def test_a_head_that_comes_too_late_raises_what_it_was_about(
    manager: SecurityManager, alice: Presented, watcher: Watcher | None, path: str
) -> None:
    def app(environ: dict[str, Any], start_response: Any) -> Iterator[bytes]:
        start_response("200 OK", JSON)
        yield b'{"ssn":'
        try:
            raise AppError
        except AppError:
            start_response("500 Sorry", JSON, sys.exc_info())
        yield b"sorry"

    response = call(shell(app, manager, watcher), environ_of(path, presented=alice))
    assert isinstance(response.raised, AppError)
    if path == "/out":
        assert (response.status, b"internal_error" in response.body) == (500, True)


@pytest.mark.parametrize(
    "app",
    [
        pytest.param(lambda environ, start_response: [SSN], id="a body without a head"),
        pytest.param(lambda environ, start_response: None, id="nothing"),
        pytest.param(lambda environ, start_response: [], id="neither head nor body"),
        pytest.param(lambda environ, start: [start("200 OK", JSON), start("200 OK", JSON)], id="two heads"),
        pytest.param(answering(["text"]), id="a body of text"),
        pytest.param(answering([bytearray(SSN)]), id="a body that may still change"),
        pytest.param(answering([SSN], status="fine"), id="no status"),
        pytest.param(answering([SSN], headers=[("X-Snow", "\u2603")]), id="a header beyond latin-1"),
        pytest.param(answering([SSN], headers=[("X-Number", 5)]), id="a header that is no text"),
    ],
)
def test_an_app_that_breaks_the_rules_has_sent_nothing(
    manager: SecurityManager, alice: Presented, app: Any
) -> None:
    response = call(shell(app, manager), environ_of("/out", presented=alice))
    assert response.status == 500
    assert b'"internal_error"' in response.body
    assert b"123-45-6789" not in response.body


def test_a_response_that_is_refused_half_way_stops_the_app(
    manager: SecurityManager, alice: Presented
) -> None:
    body = Body(*[b"[" * 1000] * 10_000)
    response = call(shell(answering(body), manager), environ_of("/out", presented=alice))
    assert (response.status, b"seal_failed" in response.body) == (500, True)
    assert body.closed == 1
    assert body.read < 200


def test_the_status_line_of_the_app_is_kept(manager: SecurityManager, alice: Presented) -> None:
    response = call(shell(answering([SSN], "201 Made by hand"), manager), environ_of("/out", presented=alice))
    assert response.line == "201 Made by hand"


@pytest.mark.parametrize("status", ["204 No Content", "304 Not Modified", "103 Early"])
def test_a_response_without_content_has_none(manager: SecurityManager, alice: Presented, status: str) -> None:
    app = answering([b"not for anybody"], status, [("ETag", '"x"')])
    response = call(shell(app, manager), environ_of("/out", presented=alice))
    assert (response.line, response.body) == (status, b"")
    assert response.header("content-length") is None
    assert (response.header("etag") or "").startswith('W/"sm')


def test_the_answer_to_a_head_has_no_body_and_no_length_of_another(
    manager: SecurityManager, alice: Presented
) -> None:
    app = answering([SSN], headers=[*JSON, ("Content-Length", str(len(SSN)))])
    response = call(shell(app, manager), environ_of("/out", method="HEAD", presented=alice))
    assert (response.status, response.body, response.header("content-length")) == (200, b"", None)


def test_a_head_that_fails_is_answered_by_us_and_then_raised(
    manager: SecurityManager, alice: Presented
) -> None:
    app = answering(Body(fails=AppError()))
    response = call(shell(app, manager), environ_of("/out", method="HEAD", presented=alice))
    assert isinstance(response.raised, AppError)
    assert (response.status, response.pieces) == (500, [b""])


def test_what_an_app_raises_while_it_is_held_is_raised_by_the_call(
    manager: SecurityManager, alice: Presented
) -> None:
    response = Response()
    with pytest.raises(AppError):
        shell(answering(Body(SSN, fails=AppError())), manager)(
            environ_of("/out", presented=alice), response.start
        )
    assert (response.status, b"internal_error" in response.body) == (500, True)
    assert response.header("content-length") == str(len(response.body))


def test_where_nothing_can_be_written_it_is_raised_behind_the_answer(
    manager: SecurityManager, alice: Presented
) -> None:
    response = Response()

    def start(status: str, headers: Any, exc_info: Any = None) -> None:
        response.start(status, headers, exc_info)

    app = shell(answering(Body(SSN, fails=AppError())), manager)
    answer = iter(app(environ_of("/out", presented=alice), start))  # type: ignore[arg-type]
    assert b"internal_error" in next(answer)
    with pytest.raises(AppError):
        next(answer)
    assert response.status == 500


def test_nothing_leads_past_a_response_that_is_held(manager: SecurityManager, alice: Presented) -> None:
    passages = {
        "wsgi.file_wrapper": FileWrapper,
        "wsgi.early_hints": print,
        "gunicorn.http2.send_trailers": print,
        "gunicorn.socket": object(),
        "werkzeug.socket": object(),
    }
    seen: dict[str, set[str]] = {}

    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        seen[environ["PATH_INFO"]] = set(passages) & set(environ)
        start_response("200 OK", JSON)
        return [SSN]

    for path in ROUTES:
        environ = environ_of(path, presented=alice, **passages)
        call(shell(app, manager), environ)
        assert set(passages) < set(environ), "a server looks for its own"
    assert seen == {"/free": set(passages), "/out": set()}


def test_a_file_that_passes_is_still_the_servers_to_send(manager: SecurityManager, alice: Presented) -> None:
    file = FileWrapper(io.BytesIO(b"much"))
    environ = environ_of("/free", presented=alice, **{"wsgi.file_wrapper": FileWrapper})
    assert shell(answering(file), manager)(environ, Response().start) is file


def test_what_was_opened_leaves_in_no_other_place(manager: SecurityManager, alice: Presented) -> None:
    assert manager.encryption is not None
    token = manager.encryption.seal("ssn", b'"123-45-6789"').encode()

    def echo(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        value = environ["wsgi.input"].read(1000)[8:-2]
        start_response("422 Wrong", [("Content-Type", "text/plain")])
        return [b"I do not like ", value]

    environ = environ_of("/in", b'{"ssn":"%s"}' % token, method="POST", presented=alice)
    response = call(shell(echo, manager), environ)
    assert (response.status, b"seal_failed" in response.body) == (500, True)
    assert b"123-45-6789" not in response.body


def test_no_log_line_has_what_an_app_raised_while_it_was_held(
    manager: SecurityManager, alice: Presented, caplog: pytest.LogCaptureFixture
) -> None:
    body = Body(b"{", fails=AppError("123-45-6789"))
    with caplog.at_level(logging.DEBUG, "secmiddleware"):
        call(shell(answering(body), manager), environ_of("/out", presented=alice))
    assert "123-45-6789" not in caplog.text


def test_what_was_opened_leaves_in_no_status_line(manager: SecurityManager, alice: Presented) -> None:
    assert manager.encryption is not None
    token = manager.encryption.seal("ssn", b'"123-45-6789"').encode()

    def complain(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        value = environ["wsgi.input"].read(1000)[8:-2].decode()
        start_response(f"422 no such {value}", [("Content-Type", "application/json")])
        return [b"{}"]

    environ = environ_of("/in", b'{"ssn":"%s"}' % token, method="POST", presented=alice)
    response = call(shell(complain, manager), environ)
    assert response.line in ("422 Unprocessable Entity", "422 Unprocessable Content")
    assert response.body == b"{}"
