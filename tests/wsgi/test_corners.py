"""Who goes away when, and what is done afterwards, in WSGI's own way."""

from __future__ import annotations

import gc
import json
from typing import Any

import pytest

from secmiddleware.messages import Presented
from secmiddleware.security import SecurityManager
from secmiddleware.wsgi import SecMiddleware
from wsgi.calling import JSON, SSN, Body, Response, answering, call, environ_of


def shell(app: Any, manager: SecurityManager) -> SecMiddleware:
    return SecMiddleware(app, config=manager)


def held(manager: SecurityManager) -> int:
    gc.collect()
    return manager.snapshot.places.plan_for("/both")._limits.held.total


class Unread:
    """An input that must not be asked: a server answers `Expect: 100-continue` when it is."""

    def read(self, size: int = -1) -> bytes:
        raise AssertionError("asked for the body")

    readline = readlines = read


@pytest.mark.parametrize(
    ("status", "headers"),
    [
        (413, {"CONTENT_LENGTH": "99999999"}),
        (415, {"CONTENT_LENGTH": "9", "CONTENT_TYPE": "text/plain"}),
        (415, {"CONTENT_LENGTH": "9", "HTTP_CONTENT_ENCODING": "x-own"}),
        (400, {"CONTENT_LENGTH": "9", "HTTP_CONTENT_RANGE": "bytes 0-8/9"}),
        (400, {"CONTENT_LENGTH": "9, 9"}),
    ],
)
def test_a_refusal_that_the_head_decides_asks_for_no_body(
    manager: SecurityManager, alice: Presented, status: int, headers: dict[str, str]
) -> None:
    environ = environ_of("/both", method="POST", presented=alice, HTTP_EXPECT="100-continue")
    environ |= {"CONTENT_TYPE": "application/json", "wsgi.input": Unread(), **headers}
    assert call(shell(answering([SSN]), manager), environ).status == status


class Gone:
    """An input whose caller goes away after so much of the body."""

    def __init__(self, body: bytes, error: Exception) -> None:
        self._body, self._error = body, error

    def read(self, size: int = -1) -> bytes:
        piece, self._body = self._body[:4], self._body[4:]
        if not piece:
            raise self._error
        return piece

    readline = read


@pytest.mark.parametrize("body", [b"", b'{"x"', b'{"x":1}'])
@pytest.mark.parametrize("error", [ConnectionResetError(), TimeoutError(), ValueError("a server's own")])
def test_a_caller_who_goes_away_before_the_end_of_its_body_does_not_reach_the_app(
    manager: SecurityManager, alice: Presented, body: bytes, error: Exception
) -> None:
    reached: list[str] = []

    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        reached.append(environ["PATH_INFO"])
        return []

    environ = environ_of("/both", method="POST", presented=alice)
    environ |= {"CONTENT_LENGTH": "30", "CONTENT_TYPE": "application/json", "wsgi.input": Gone(body, error)}
    response = call(shell(app, manager), environ)
    assert (response.status, json.loads(response.body)["code"]) == (400, "payload_malformed")
    assert reached == []
    assert held(manager) == 0


@pytest.mark.parametrize("read", [0, 1])
def test_a_caller_who_is_gone_when_the_answer_is_ready_leaves_nothing_held(
    manager: SecurityManager, alice: Presented, read: int
) -> None:
    body = Body(SSN[:5], SSN[5:])
    answer = shell(answering(body), manager)(environ_of("/out", presented=alice), Response().start)
    pieces = iter(answer)
    for _ in range(read):
        next(pieces)
    answer.close()  # a server that cannot send any more reads no further
    del pieces, answer
    assert body.closed == 1
    assert held(manager) == 0


def test_that_a_caller_is_gone_when_the_head_is_sent_the_server_hears_and_the_app_is_closed(
    manager: SecurityManager, alice: Presented
) -> None:
    def start_response(*_: Any) -> Any:
        raise BrokenPipeError

    body = Body(SSN)
    with pytest.raises(BrokenPipeError):
        shell(answering(body), manager)(environ_of("/out", presented=alice), start_response)
    assert body.closed == 1
    assert held(manager) == 0


@pytest.mark.parametrize(
    ("headers", "pieces", "status"),
    [
        (JSON, [SSN], 200),
        (JSON, [b"<p>", SSN], 500),
        ([*JSON, ("Content-Range", "bytes 0-1/9")], [SSN], 500),
        (JSON, [b" " * 200_000, SSN], 500),
    ],
)
def test_what_an_app_does_at_the_close_it_does_whatever_becomes_of_the_answer(
    manager: SecurityManager, alice: Presented, headers: Any, pieces: list[bytes], status: int
) -> None:
    body = Body(*pieces)
    response = call(shell(answering(body, headers=headers), manager), environ_of("/out", presented=alice))
    assert response.status == status
    assert body.closed == 1
    assert SSN not in response.body


def test_an_app_that_fails_in_the_middle_has_sent_nothing(manager: SecurityManager, alice: Presented) -> None:
    body = Body(SSN[:9], fails=RuntimeError("in the middle"))
    response = call(shell(answering(body), manager), environ_of("/out", presented=alice))
    assert (response.status, json.loads(response.body)["code"]) == (500, "internal_error")
    assert b"123-45" not in response.body
    assert isinstance(response.raised, RuntimeError)
    assert body.closed == 1


def test_that_an_app_fails_where_only_its_head_is_marked_is_no_fault_of_the_callers(
    manager: SecurityManager, alice: Presented
) -> None:
    def app(environ: dict[str, Any], start_response: Any) -> Any:
        raise ZeroDivisionError

    for fails in (app, answering(Body(fails=ZeroDivisionError()))):
        response = call(shell(fails, manager), environ_of("/head", presented=alice))
        assert response.status == 500
        assert json.loads(response.body)["code"] == "internal_error"
        assert isinstance(response.raised, ZeroDivisionError)
