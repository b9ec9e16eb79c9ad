"""Streamed responses of Django: each record leaves before the next is made, sync and async."""

from __future__ import annotations

import asyncio
import gc
import io
import warnings
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from asgi.calling import http_scope
from django.core.handlers.asgi import ASGIHandler
from django.core.handlers.wsgi import WSGIHandler
from django.http import HttpRequest, HttpResponse, StreamingHttpResponse
from django.test import override_settings
from django.urls import path

import integrations.django_project  # noqa: F401  (sets Django up)
from integrations.shop import Shop
from secmiddleware.errors import BrokenOffError
from secmiddleware.messages import PRESENTED_KEY
from secmiddleware.telemetry.audit import AuditObservation
from secmiddleware_django import SecMiddleware

TYPE = "application/x-ndjson"
log: list[str] = []
go_on: list[asyncio.Event] = []
ended: list[Any] = []
records: list[bytes] = []


def noted(data: bytes) -> bytes:
    log.append(f"made {data!r}")
    return data


def sync_view(request: HttpRequest) -> StreamingHttpResponse:
    def stream() -> Iterator[bytes]:
        try:
            for record in records:
                yield noted(record)
        finally:
            log.append("closed")

    return StreamingHttpResponse(stream(), content_type=TYPE)


async def async_view(request: HttpRequest) -> StreamingHttpResponse:
    async def stream() -> AsyncIterator[bytes]:
        try:
            for number, record in enumerate(records):
                if number:
                    await asyncio.wait_for(go_on[0].wait(), 10)
                yield noted(record)
        finally:
            log.append("closed")

    return StreamingHttpResponse(stream(), content_type=TYPE)


def whole_view(request: HttpRequest) -> HttpResponse:
    return HttpResponse(b"".join(records), content_type=TYPE)


class Urls:
    urlpatterns = (
        path("customers/sync", sync_view),
        path("customers/async", async_view),
        path("customers/whole", whole_view),
    )


class Recorded(SecMiddleware):
    """Keeps how exchanges ended."""

    def __init__(self, get_response: Any) -> None:
        super().__init__(get_response)
        inner = self._observer

        class Observer:
            def begin(self, head: Any, verdict: Any, started_ns: int) -> Any:
                class Observation(AuditObservation):
                    def end(self, record: Any) -> None:
                        super().end(record)
                        ended.append(record)

                return Observation(head, verdict)

        assert inner is not None
        self._observer = Observer()


@pytest.fixture(autouse=True)
def django(shop: Shop) -> Iterator[None]:
    for kept in (log, go_on, ended, records):
        kept.clear()
    records.extend([b'{"ssn":"123-45-6789"}\n', b'{"x":1}\n'])
    ours = "integrations.test_django_streams.Recorded"
    with override_settings(SECMIDDLEWARE=shop.manager, ROOT_URLCONF=Urls, MIDDLEWARE=[ours]):
        yield


def wsgi(shop: Shop, target: str) -> tuple[Any, list[Any]]:
    started: list[Any] = []
    environ = {
        "REQUEST_METHOD": "GET",
        "SCRIPT_NAME": "",
        "PATH_INFO": target,
        "SERVER_NAME": "localhost",
        "SERVER_PORT": "443",
        "wsgi.input": io.BytesIO(),
        "wsgi.url_scheme": "https",
        PRESENTED_KEY: shop.alice,
    }
    response = WSGIHandler()(environ, lambda *head: started.append(head) or (lambda _: None))
    return response, started


def test_under_wsgi_a_record_leaves_before_the_next_is_made(shop: Shop) -> None:
    response, started = wsgi(shop, "/customers/sync")
    assert started[0][0] == "200 OK"
    assert "content-length" not in {name.lower() for name, _ in started[0][1]}
    assert log == ['made b\'{"ssn":"123-45-6789"}\\n\'']
    pieces = iter(response)
    assert b"sm1." in next(pieces)
    assert len(log) == 1
    assert next(pieces) == b'{"x":1}\n'
    assert list(pieces) == []
    assert ended == []
    response.close()
    assert log[-1] == "closed"
    assert [(record.status, record.refusal, record.error) for record in ended] == [(200, None, None)]


def test_under_wsgi_a_stream_that_cannot_go_on_raises_and_its_record_says_why(shop: Shop) -> None:
    records[1:] = [b"oops\n", b"{}\n"]
    response, _ = wsgi(shop, "/customers/sync")
    pieces = iter(response)
    assert b"sm1." in next(pieces)
    with pytest.raises(BrokenOffError, match="seal_failed"):
        next(pieces)
    response.close()
    assert log == ['made b\'{"ssn":"123-45-6789"}\\n\'', "made b'oops\\n'", "closed"]
    (record,) = ended
    assert (record.status, record.refusal.code, record.error) == (200, "seal_failed", None)


def test_a_response_that_is_not_streamed_is_refused_as_a_whole(shop: Shop) -> None:
    records[1:] = [b"oops\n"]
    response, started = wsgi(shop, "/customers/whole")
    assert started[0][0].startswith("500")
    assert b"seal_failed" in b"".join(response)
    response.close()


async def asgi(shop: Shop, target: str, sent: asyncio.Queue[Any]) -> None:
    async def receive() -> Any:
        if not go_on[1:]:
            go_on.append(asyncio.Event())
            return {"type": "http.request", "body": b"", "more_body": False}
        await go_on[1].wait()
        return {"type": "http.disconnect"}

    await ASGIHandler()(http_scope(target, presented=shop.alice), receive, sent.put)


def test_under_asgi_a_record_leaves_before_the_next_is_made(shop: Shop) -> None:
    async def talk() -> list[bytes]:
        go_on.append(asyncio.Event())
        sent: asyncio.Queue[Any] = asyncio.Queue()
        task = asyncio.create_task(asgi(shop, "/customers/async", sent))
        start = await asyncio.wait_for(sent.get(), 10)
        assert start["status"] == 200
        bodies = [(await asyncio.wait_for(sent.get(), 10))["body"]]
        assert b"sm1." in bodies[0]
        assert len(log) == 1
        go_on[0].set()
        await asyncio.wait_for(task, 10)
        while not sent.empty():
            bodies.append(sent.get_nowait().get("body", b""))
        return bodies

    bodies = asyncio.run(talk())
    assert b"".join(bodies[1:]) == b'{"x":1}\n'
    assert log[-1] == "closed"
    assert [(record.status, record.refusal, record.error) for record in ended] == [(200, None, None)]


def test_under_asgi_a_stream_that_cannot_go_on_raises_and_its_record_says_why(shop: Shop) -> None:
    records[1:] = [b"oops\n", b"{}\n"]

    async def talk() -> None:
        go_on.append(asyncio.Event())
        go_on[0].set()
        await asgi(shop, "/customers/async", asyncio.Queue())

    with pytest.raises(BrokenOffError, match="seal_failed"):
        asyncio.run(talk())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # Django leaves the request's file open then
        gc.collect()
    assert log[-1] == "closed"
    (record,) = ended
    assert (record.status, record.refusal.code, record.error) == (200, "seal_failed", None)
