"""Marked streams in WSGI: record after record over real servers, and PEP 3333 to the letter."""

from __future__ import annotations

import socket
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from exchanges.gunicorn_worker import Running
from servers.wsgi_servers import waitress, werkzeug, wsgiref

from secmiddleware.errors import BrokenOffError
from secmiddleware.messages import Refusal
from secmiddleware.security import SecurityManager
from secmiddleware.telemetry.audit import AuditObservation, AuditObserver
from secmiddleware.wsgi import SecMiddleware
from wsgi.calling import environ_of

PATIENCE = 10.0
NDJSON = [("Content-Type", "application/x-ndjson")]


@pytest.fixture(scope="module")
def anybody(manager: SecurityManager) -> Iterator[SecurityManager]:
    """The same marks, and no certificate."""
    settings = manager.settings
    mtls = settings.mtls.model_copy(update={"client": "off"})
    with SecurityManager(settings.model_copy(update={"mtls": mtls}), {}) as made:
        yield made


@contextmanager
def gunicorn(app: Any) -> Iterator[int]:
    running = Running(app, {"worker_class": "gthread", "threads": 2})
    try:
        yield running.port
    finally:
        running.end()


SERVERS = {"gunicorn": gunicorn, "waitress": waitress, "wsgiref": wsgiref, "werkzeug": werkzeug}


@contextmanager
def asked(port: int) -> Iterator[Any]:
    with socket.create_connection(("127.0.0.1", port), PATIENCE) as connection:
        connection.sendall(b"GET /out HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")
        with connection.makefile("rb") as stream:
            yield stream


def next_line(stream: Any, ends: bytes) -> bytes:
    """The next line that ends so; where none comes the socket's time-out ends it."""
    while not (line := stream.readline()).endswith(ends):
        assert line, "the server has closed the connection"
    return line


@pytest.mark.parametrize("way", ["iterable", "write"])
@pytest.mark.parametrize("server", SERVERS)
def test_a_record_is_there_before_the_next_is_made(anybody: SecurityManager, server: str, way: str) -> None:
    go_on, closed = threading.Event(), threading.Event()

    class Records:
        def __iter__(self) -> Iterator[bytes]:
            yield b'{"ssn":"123-45'
            yield b'-6789"}\n'
            assert go_on.wait(PATIENCE)
            yield b'{"ssn":2}\n'

        def close(self) -> None:
            closed.set()

    def app(environ: dict[str, Any], start_response: Any) -> Any:
        write = start_response("200 OK", NDJSON)
        if way == "iterable":
            return Records()
        for record in Records():
            write(record)
        closed.set()
        return []

    with SERVERS[server](SecMiddleware(app, config=anybody)) as port, asked(port) as stream:
        assert b"sm1." in next_line(stream, b'"}\n')
        go_on.set()
        assert b"sm1." in next_line(stream, b'"}\n')
        stream.read()
        assert closed.wait(PATIENCE)


@pytest.mark.parametrize("server", ["gunicorn"])  # whose chunks have an end that can be missing
def test_a_stream_that_cannot_go_on_is_cut_off(anybody: SecurityManager, server: str) -> None:
    def app(environ: dict[str, Any], start_response: Any) -> Iterator[bytes]:
        start_response("200 OK", NDJSON)
        yield b"{}\n"
        yield b"oops\n"
        yield b"{}\n"

    with SERVERS[server](SecMiddleware(app, config=anybody)) as port, asked(port) as stream:
        assert stream.read().endswith(b"\r\n\r\n3\r\n{}\n\r\n"), "a whole chunk, and no last one"


class Records(AuditObserver):
    """Keeps how exchanges ended."""

    def __init__(self) -> None:
        self.ended: list[Any] = []
        self.sealed: list[int] = []

    def begin(self, head: Any, verdict: Any, started_ns: int) -> Any:
        ended, sealed = self.ended, self.sealed

        class Observation(AuditObservation):
            def stage(self, name: Any, start_ns: int, end_ns: int, report: Any) -> None:
                super().stage(name, start_ns, end_ns, report)
                sealed.extend([report.sealed] if name == "response" else [])

            def end(self, record: Any) -> None:
                super().end(record)
                ended.append(record)

        return Observation(head, verdict)


class Server:
    """What a server does, in steps."""

    def __init__(self, app: Any, manager: SecurityManager, path: str = "/out", **environ: Any) -> None:
        self.records = Records()
        self.heads: list[tuple[str, list[tuple[str, str]]]] = []
        self.written: list[bytes] = []
        shell = SecMiddleware(app, config=manager, observer=self.records)
        self.iterable = shell(environ_of(path, **environ), self._start_response)
        self.iterator = iter(self.iterable)

    def _start_response(self, status: str, headers: Any, *_: Any) -> Callable[[bytes], object]:
        self.heads.append((status, headers))
        return self.written.append

    def close(self) -> Any:
        self.iterable.close()  # type: ignore[attr-defined]
        (record,) = self.records.ended
        return record


class App:
    """A stream whose every step is noted."""

    def __init__(self, *steps: bytes | Exception) -> None:
        self.steps = iter(steps)
        self.log: list[str] = []

    def __call__(self, environ: dict[str, Any], start_response: Any) -> App:
        self.start_response = start_response
        start_response("200 Fine", NDJSON)
        return self

    def __iter__(self) -> App:
        return self

    def __next__(self) -> bytes:
        step = next(self.steps)
        self.log.append(repr(step))
        if isinstance(step, Exception):
            raise step
        return step

    def close(self) -> None:
        self.log.append("closed")


def test_nothing_is_pulled_before_the_server_asks_for_it(anybody: SecurityManager) -> None:
    app = App(b'{"x":', b"1}\n", b"{", b"}\n")
    server = Server(app, anybody)
    assert len(app.log) == 2, "up to the first record, which decides the head"
    assert server.heads == [("200 Fine", [("content-type", "application/x-ndjson")])]
    assert next(server.iterator) == b'{"x":1}\n'
    assert len(app.log) == 2
    assert next(server.iterator) == b"", "PEP 3333: an empty piece for a piece that is not enough"
    assert next(server.iterator) == b"{}\n"
    assert list(server.iterator) == []
    assert "closed" not in app.log
    assert server.records.ended == []
    record = server.close()
    server.iterable.close()  # type: ignore[attr-defined]
    assert app.log[-2:] == [repr(b"}\n"), "closed"]
    assert (record.status, record.refusal, record.error) == (200, None, None)


def test_a_caller_who_goes_away_is_no_refusal(anybody: SecurityManager) -> None:
    app = App(b"{}\n", b'{"held":')
    server = Server(app, anybody)
    next(server.iterator)
    next(server.iterator)
    record = server.close()
    assert app.log[-1] == "closed"
    assert (record.status, record.refusal, record.error) == (200, None, None)


def test_the_record_of_a_stream_that_was_broken_off_says_why(anybody: SecurityManager) -> None:
    app = App(b"{}\n", b"oops\n", b"{}\n")
    server = Server(app, anybody)
    assert next(server.iterator) == b"{}\n"
    with pytest.raises(BrokenOffError, match="seal_failed"):
        next(server.iterator)
    record = server.close()
    assert app.log == [repr(b"{}\n"), repr(b"oops\n"), "closed"]
    assert (record.status, record.refusal, record.error) == (200, Refusal("seal_failed"), None)


def test_what_was_sealed_of_a_stream_is_told_also_where_the_caller_leaves_before_its_end(
    anybody: SecurityManager,
) -> None:
    server = Server(App(b'{"ssn":1}\n', b'{"ssn":2}\n', b'{"ssn":3}\n'), anybody)
    next(server.iterator)
    next(server.iterator)
    assert server.records.sealed == []
    server.close()
    assert server.records.sealed == [2]


def test_what_an_app_raises_in_the_middle_of_a_stream_is_raised(anybody: SecurityManager) -> None:
    app = App(b"{}\n", ValueError("oops"))
    server = Server(app, anybody)
    assert next(server.iterator) == b"{}\n"
    with pytest.raises(ValueError, match="oops"):
        next(server.iterator)
    record = server.close()
    assert (record.status, record.error) == (200, "builtins.ValueError")


def test_what_an_app_raises_before_the_first_record_is_answered_as_ever(anybody: SecurityManager) -> None:
    with pytest.raises(ValueError, match="oops"):
        Server(App(b'{"x":', ValueError("oops")), anybody)


def test_a_head_that_has_left_is_not_replaced(anybody: SecurityManager) -> None:
    def app(environ: dict[str, Any], start_response: Any) -> Iterator[bytes]:
        start_response("200 OK", NDJSON)
        yield b"{}\n"
        try:
            raise ValueError("oops")
        except ValueError:
            start_response("500 Oops", [], sys.exc_info())
        yield b"{}\n"

    server = Server(app, anybody)
    next(server.iterator)
    with pytest.raises(ValueError, match="oops"):
        next(server.iterator)
    assert server.close().error == "builtins.ValueError"
    assert len(server.heads) == 1


def test_what_was_written_before_leaves_before_what_is_returned(anybody: SecurityManager) -> None:
    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        write = start_response("200 OK", NDJSON)
        write(b"1\n")
        write(b"2")
        return [b"\n", b"3\n"]

    server = Server(app, anybody)
    assert server.written == [b"1\n"]
    assert b"".join(server.iterator) == b"2\n3\n"
    assert server.close().status == 200


def test_an_upload_of_records_is_held_and_has_a_length(anybody: SecurityManager) -> None:
    seen = []

    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        seen.append((environ["CONTENT_LENGTH"], environ["wsgi.input"].read()))
        start_response("204 No Content", [])
        return []

    assert anybody.encryption is not None
    token = anybody.encryption.seal("ssn", b'"x"').encode()
    body = b'{"ssn":"%b"}\n{"ssn":"%b"}\n' % (token, token)
    server = Server(app, anybody, "/in", method="POST", body=body, CONTENT_TYPE="application/x-ndjson")
    assert list(server.iterator) == []
    assert seen == [("24", b'{"ssn":"x"}\n{"ssn":"x"}\n')]
