"""Views of every kind, and the middleware and URLs of the Django tests."""

from __future__ import annotations

import asyncio
import gzip
import io
import json
from collections.abc import AsyncIterator, Iterator
from typing import Any, ClassVar

from django.core.exceptions import PermissionDenied
from django.http import FileResponse, Http404, HttpRequest, HttpResponse, JsonResponse, StreamingHttpResponse
from django.urls import path
from django.views.decorators.csrf import csrf_exempt

from integrations.shop import SECRET
from secmiddleware.messages import Identity

closed: list[str] = []
"""What was closed, in order."""


def who(request: HttpRequest) -> str:
    identity: Identity | None = request.client_identity
    return "nobody" if identity is None else str(identity)


def who_am_i(request: HttpRequest) -> HttpResponse:
    return HttpResponse(who(request), content_type="text/plain")


async def async_who_am_i(request: HttpRequest) -> HttpResponse:
    await asyncio.sleep(0)
    return HttpResponse(who(request), content_type="text/plain")


def echo(request: HttpRequest, number: int = 0) -> HttpResponse:
    return JsonResponse(json.loads(request.body))


async def async_echo(request: HttpRequest) -> HttpResponse:
    return JsonResponse(json.loads(request.body))


@csrf_exempt
def exempt_echo(request: HttpRequest) -> HttpResponse:
    return JsonResponse(json.loads(request.body))


def found(request: HttpRequest) -> HttpResponse:
    return HttpResponse("found" if request.GET["ssn"] == SECRET else "not found")


def form(request: HttpRequest) -> HttpResponse:
    files = {name: file.read().decode() for name, file in request.FILES.items()}
    return JsonResponse({"ssn": SECRET, "fields": dict(request.POST.items()), "files": files})


def headers(request: HttpRequest) -> HttpResponse:
    names = ("HTTP_IF_NONE_MATCH", "HTTP_RANGE", "HTTP_ACCEPT_ENCODING", "HTTP_X_KEPT")
    return JsonResponse({name: request.META.get(name) for name in names} | dict(request.headers.items()))


class Noted(io.BytesIO):
    kept: ClassVar[list[Noted]] = []
    """Each of them, so that none is closed because nobody needs it."""

    def __init__(self, content: bytes) -> None:
        super().__init__(content)
        self.kept.append(self)

    def close(self) -> None:
        closed.append("file")
        super().close()


def file(request: HttpRequest) -> HttpResponse:
    return FileResponse(Noted(json.dumps({"ssn": SECRET}).encode()), content_type="application/json")


def compressed(request: HttpRequest) -> HttpResponse:
    headers = {"Content-Encoding": "gzip", "Vary": "Cookie"}
    body = gzip.compress(json.dumps({"ssn": SECRET}).encode())
    return HttpResponse(body, content_type="application/json", headers=headers)


def plain_file(request: HttpRequest) -> HttpResponse:
    return FileResponse(Noted(SECRET.encode()), content_type="text/plain")


def _pieces() -> Iterator[bytes]:
    try:
        yield b'{"ssn": "'
        yield SECRET.encode()
        yield b'"}'
    finally:
        closed.append("stream")


async def _async_pieces() -> AsyncIterator[bytes]:
    for piece in _pieces():
        yield piece


def stream(request: HttpRequest) -> HttpResponse:
    return StreamingHttpResponse(_pieces(), content_type="application/json")


async def async_stream(request: HttpRequest) -> HttpResponse:
    return StreamingHttpResponse(_async_pieces(), content_type="application/json")


def _breaking() -> Iterator[bytes]:
    yield b'{"ssn": "'
    raise RuntimeError(SECRET)


def breaks(request: HttpRequest) -> HttpResponse:
    return StreamingHttpResponse(_breaking(), content_type="application/json")


def endless(request: HttpRequest) -> HttpResponse:
    def forever() -> Iterator[bytes]:
        while True:
            yield b"x" * 65536

    return StreamingHttpResponse(forever(), content_type="application/json")


def fails(request: HttpRequest) -> HttpResponse:
    raise RuntimeError(json.loads(request.body or b"null"))


def missing(request: HttpRequest) -> HttpResponse:
    raise Http404


def forbidden(request: HttpRequest) -> HttpResponse:
    raise PermissionDenied


def talks(request: HttpRequest) -> HttpResponse:
    response = JsonResponse({"ok": True}, status=422, reason=f"no such {SECRET}")
    response.set_cookie("seen", "yes")
    response["ETag"] = '"of-plaintext"'
    response["X-Kept"] = "yes"
    return response


def cookie(request: HttpRequest) -> HttpResponse:
    response = JsonResponse({"ok": True})
    response.set_cookie("last", json.loads(request.body)["ssn"])
    return response


def as_json(request: HttpRequest) -> HttpResponse:
    return JsonResponse({"error": "here", "ssn": SECRET}, status=500)


def outer(get_response: Any) -> Any:
    """Middleware that stands before ours, and reads what it should not."""

    def middleware(request: HttpRequest) -> HttpResponse:
        request.from_outer = "there"
        request.headers.get("accept-encoding")
        if request.GET.get("read") == "body":
            request.seen_by_outer = request.body
        elif request.GET.get("read") == "stream":
            request.read(1)
        return get_response(request)

    return middleware


def outer_attribute(request: HttpRequest) -> HttpResponse:
    body = json.loads(request.body)
    return JsonResponse(
        {
            "from_outer": request.from_outer,
            "opened": body["ssn"] == SECRET,
            "asked_for": request.headers.get("accept-encoding"),
            "ssn": body["ssn"],
        }
    )


class Urls:
    urlpatterns: ClassVar = [
        path("", who_am_i),
        path("async", async_who_am_i),
        path("open/x", who_am_i),
        path("café/東京", who_am_i),
        path("customers", echo),
        path("customers/async", async_echo),
        path("customers/exempt", exempt_echo),
        path("customers/fails", fails),
        path("customers/talks", talks),
        path("customers/cookie", cookie),
        path("customers/outer", outer_attribute),
        path("customers/<int:number>", echo, name="customer"),
        path("in", cookie),
        path("found", found),
        path("out", form),
        path("out/headers", headers),
        path("out/東京", headers),
        path("out/file", file),
        path("out/compressed", compressed),
        path("out/plain", plain_file),
        path("out/stream", stream),
        path("out/async-stream", async_stream),
        path("out/breaks", breaks),
        path("out/endless", endless),
        path("out/missing", missing),
        path("out/forbidden", forbidden),
        path("elsewhere/stream", stream),
        path("elsewhere/async-stream", async_stream),
        path("elsewhere/file", file),
        path("elsewhere/form", form),
    ]


class UrlsWithJsonErrors(Urls):
    handler500 = staticmethod(as_json)
