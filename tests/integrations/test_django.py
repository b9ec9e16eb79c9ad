"""The Django adapter beyond the table: under Django's own test clients, sync and async."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import quote

import pytest
from asgiref.sync import async_to_sync, iscoroutinefunction
from asgiref.testing import ApplicationCommunicator
from django.conf import settings
from django.core.checks import run_checks
from django.core.exceptions import ImproperlyConfigured
from django.core.files.uploadedfile import SimpleUploadedFile
from django.core.handlers.asgi import ASGIHandler
from django.core.handlers.wsgi import WSGIHandler
from django.core.signals import got_request_exception, request_finished
from django.http import HttpResponse
from django.test import AsyncClient, AsyncRequestFactory, Client, RequestFactory, override_settings

import integrations.django_project  # noqa: F401  (sets Django up)
from integrations import django_views
from integrations.django_views import Urls, UrlsWithJsonErrors
from integrations.shop import SECRET, Shop
from secmiddleware import asgi, wsgi
from secmiddleware.messages import PRESENTED_KEY, Presented
from secmiddleware.security import SecurityManager
from secmiddleware_django import SecMiddleware, configuration

OURS = "secmiddleware_django.SecMiddleware"
COMMON = "django.middleware.common.CommonMiddleware"
CSRF = "django.middleware.csrf.CsrfViewMiddleware"


class Caller:
    """A test client of either kind that presents a certificate; both are called alike."""

    def __init__(self, presented: Presented | None, *, asynchronous: bool, **more: Any) -> None:
        self.asynchronous = asynchronous
        if asynchronous:
            self._client: Any = _Presenting(**more)
            self._client.presented = presented
        else:
            self._client = Client(**more, **{PRESENTED_KEY: presented})

    def __call__(self, method: str, path: str, **more: Any) -> Any:
        call = getattr(self._client, method.lower())
        return async_to_sync(call)(path, **more) if self.asynchronous else call(path, **more)

    def send(self, path: str, body: Any, **more: Any) -> Any:
        return self("POST", path, data=json.dumps(body), content_type="application/json", **more)

    def text(self, response: Any) -> str:
        if not response.streaming:
            return response.content.decode()
        if not response.is_async:
            return response.getvalue().decode()

        async def whole() -> bytes:
            return b"".join([piece async for piece in response.streaming_content])

        return asyncio.run(whole()).decode()


class _Presenting(AsyncClient):
    presented: Presented | None = None

    def _base_scope(self, **request: Any) -> dict[str, Any]:
        return {**super()._base_scope(**request), PRESENTED_KEY: self.presented}


Make = Callable[..., Caller]


@pytest.fixture(params=["sync", "async"])
def caller(request: pytest.FixtureRequest, shop: Shop) -> Iterator[Make]:
    """Makes clients, all of one kind; alice unless somebody else is said."""

    def make(presented: Presented | None = shop.alice, **more: Any) -> Caller:
        return Caller(presented, asynchronous=request.param == "async", **more)

    with override_settings(SECMIDDLEWARE=shop.manager, ROOT_URLCONF=Urls, MIDDLEWARE=[OURS, COMMON, CSRF]):
        yield make


def test_a_request_carries_the_identity_of_its_caller_or_none(caller: Make) -> None:
    alice = caller()
    # The async client gives a path in other letters than those of ASCII as no server does.
    for path in ("/", "/async", *(() if alice.asynchronous else ("/café/東京",))):
        assert alice("GET", path).content == b"spiffe://example.org/alice"
    assert alice("GET", "/open/x").content == b"nobody"
    refused = caller(None)("GET", "/")
    assert (refused.status_code, refused.json()["code"]) == (401, "certificate_missing")
    assert refused["content-type"] == "application/problem+json"


@pytest.mark.parametrize("path", ["/customers", "/customers/async", "/customers/7"])
def test_marked_values_are_opened_for_the_view_and_sealed_for_the_caller(
    shop: Shop, caller: Make, path: str
) -> None:
    answer = caller().send(path, {"ssn": shop.seal(f'"{SECRET}"')})
    assert answer.status_code == 200, answer.content
    assert shop.open(answer.json()["ssn"]) == f'"{SECRET}"'
    assert answer["content-length"] == str(len(answer.content))


def test_a_query_of_either_test_client_is_opened(shop: Shop, caller: Make) -> None:
    """Django's asynchronous client puts it into the scope as a text, where servers have bytes."""
    token = quote(shop.seal(f'"{SECRET}"'))
    assert caller()("GET", f"/found?ssn={token}").content == b"found"
    assert caller()("GET", f"/found?ssn={SECRET}").status_code == 400


def test_the_request_of_the_test_client_stays_the_same_object_with_its_csrf_flag(
    shop: Shop, caller: Make
) -> None:
    body = {"ssn": shop.seal(f'"{SECRET}"')}
    lenient, strict = caller(), caller(enforce_csrf_checks=True)
    answer = lenient.send("/customers", body)
    assert answer.status_code == 200
    request = answer.asgi_request if lenient.asynchronous else answer.wsgi_request
    assert json.loads(request.body) == {"ssn": SECRET}
    assert str(request.client_identity) == "spiffe://example.org/alice"
    refused = strict.send("/customers/exempt", body)
    assert refused.status_code == 200
    with override_settings(CSRF_FAILURE_VIEW="integrations.test_django.csrf_failed"):
        assert strict.send("/customers", body).json()["csrf"] == "failed"


def csrf_failed(request: Any, reason: str = "") -> HttpResponse:
    return HttpResponse(b'{"csrf": "failed"}', content_type="application/json", status=403)


def test_a_form_of_several_parts_comes_whole_where_only_the_response_is_marked(
    shop: Shop, caller: Make
) -> None:
    big = "x" * 300_000
    for path in ("/out", "/elsewhere/form"):
        parts = {"name": "Ada", "upload": SimpleUploadedFile("a.txt", big.encode())}
        answer = caller()("POST", path, data=parts)
        expected = 500 if path == "/out" else 200  # 300 kB are more than max_body, on the way out
        assert answer.status_code == expected
        parts = {"name": "Ada", "upload": SimpleUploadedFile("a.txt", b"small")}
        told = caller()("POST", path, data=parts).json()
        assert (told["fields"], told["files"]) == ({"name": "Ada"}, {"upload": "small"})
        assert (told["ssn"] == SECRET) == (path != "/out")


def test_a_view_does_not_see_conditions_that_its_sealed_answer_cannot_meet(caller: Make) -> None:
    asked = {"if-none-match": '"a"', "range": "bytes=0-1", "accept-encoding": "gzip", "x-kept": "yes"}
    told = caller()("GET", "/out/headers", headers=asked).json()
    assert told["HTTP_IF_NONE_MATCH"] is None
    assert told["HTTP_RANGE"] is None
    assert told["HTTP_ACCEPT_ENCODING"] == told["Accept-Encoding"] == "identity"
    assert told["HTTP_X_KEPT"] == told["X-Kept"] == "yes"


def test_what_a_response_varies_by_is_not_lost_where_its_coding_is_one_thing_more(
    shop: Shop, caller: Make
) -> None:
    answer = caller()("GET", "/out/compressed")
    assert shop.open(answer.json()["ssn"]) == f'"{SECRET}"'
    assert "content-encoding" not in answer.headers
    assert answer["vary"] == "Cookie, Accept-Encoding"


@pytest.mark.parametrize("path", ["/out/file", "/out/stream", "/out/async-stream"])
@pytest.mark.filterwarnings("ignore:StreamingHttpResponse must consume")
def test_files_and_streams_are_sealed_as_one_and_closed(shop: Shop, caller: Make, path: str) -> None:
    django_views.closed.clear()
    alice = caller()
    answer = alice("GET", path)
    text = alice.text(answer)
    assert shop.open(json.loads(text)["ssn"]) == f'"{SECRET}"'
    assert answer["content-length"] == str(len(text))
    answer.close()
    assert django_views.closed == ["file" if path == "/out/file" else "stream"]


def test_a_refused_file_is_closed_too_and_the_request_is_over_once(caller: Make) -> None:
    django_views.closed.clear()
    over: list[Any] = []
    note = lambda **_: over.append(1)  # noqa: E731
    request_finished.connect(note, weak=False)
    try:
        answer = caller()("GET", "/out/plain")
    finally:
        request_finished.disconnect(note)
    assert (answer.status_code, answer.json()["code"]) == (500, "seal_failed")
    assert (django_views.closed, over) == (["file"], [1])


def test_no_server_sends_the_file_in_place_of_what_was_sealed(shop: Shop) -> None:
    sent: list[Any] = []
    environ = RequestFactory().get("/out/file", **{PRESENTED_KEY: shop.alice}).environ
    environ["wsgi.file_wrapper"] = lambda file, size=0: sent.append(file) or [file.read()]
    with override_settings(SECMIDDLEWARE=shop.manager, ROOT_URLCONF=Urls, MIDDLEWARE=[OURS]):
        answer = WSGIHandler()(environ, lambda status, headers: None)
        body = b"".join(answer)
        answer.close()
    assert sent == []
    assert shop.open(json.loads(body)["ssn"]) == f'"{SECRET}"'


@pytest.mark.filterwarnings("ignore:StreamingHttpResponse must consume")
def test_where_nothing_is_marked_streams_and_files_are_django_s_own(caller: Make) -> None:
    alice = caller()
    for path in ("/elsewhere/stream", "/elsewhere/async-stream", "/elsewhere/file"):
        answer = alice("GET", path)
        assert json.loads(alice.text(answer)) == {"ssn": SECRET}
        assert not answer.has_header("content-length") or path == "/elsewhere/file"


def test_a_stream_that_never_ends_is_refused_when_it_is_too_much(caller: Make) -> None:
    answer = caller()("GET", "/out/endless")
    assert (answer.status_code, answer.json()["code"]) == (500, "seal_failed")


@pytest.mark.parametrize("path", ["/out/file", "/out/endless", "/out/stream"])
@pytest.mark.filterwarnings("ignore:StreamingHttpResponse must consume")
def test_a_head_of_a_sealed_response_has_no_length_and_waits_for_no_body(caller: Make, path: str) -> None:
    answer = caller()("HEAD", path)
    assert answer.status_code == 200
    assert not answer.has_header("content-length")


def test_a_stream_that_breaks_sends_nothing_and_is_heard_of(
    caller: Make, caplog: pytest.LogCaptureFixture
) -> None:
    heard: list[Any] = []
    note = lambda **more: heard.append(more["request"].path)  # noqa: E731
    got_request_exception.connect(note, weak=False)
    try:
        answer = caller(raise_request_exception=False)("GET", "/out/breaks")
    finally:
        got_request_exception.disconnect(note)
    assert (answer.status_code, answer.json()["code"]) == (500, "internal_error")
    assert heard == ["/out/breaks"]
    (line,) = (record for record in caplog.records if record.exc_info and record.name == "django.request")
    assert line.exc_info[0] is RuntimeError


@pytest.mark.parametrize("debug", [False, True])
def test_the_page_of_an_exception_does_not_leave_a_sealing_route(
    shop: Shop, caller: Make, debug: bool
) -> None:
    with override_settings(DEBUG=debug):
        answer = caller(raise_request_exception=False).send(
            "/customers/fails", {"ssn": shop.seal(f'"{SECRET}"')}
        )
    assert (answer.status_code, answer.json()["code"]) == (500, "internal_error")
    assert SECRET not in answer.content.decode()


def test_an_error_page_in_json_is_sealed_like_any_view(shop: Shop, caller: Make) -> None:
    with override_settings(ROOT_URLCONF=UrlsWithJsonErrors):
        answer = caller(raise_request_exception=False).send("/customers/fails", {})
    assert (answer.status_code, answer.json()["error"]) == (500, "here")
    assert shop.open(answer.json()["ssn"]) == f'"{SECRET}"'


@pytest.mark.parametrize("path", ["/out/missing", "/out/forbidden"])
def test_an_error_page_in_html_is_no_exception_and_does_not_leave_a_sealing_route(
    caller: Make, path: str
) -> None:
    answer = caller()("GET", path)
    assert (answer.status_code, answer.json()["code"]) == (500, "seal_failed")


def test_cookies_and_other_headers_of_a_sealed_response_stay_and_its_reason_goes(caller: Make) -> None:
    answer = caller()("GET", "/customers/talks")
    assert (answer.status_code, answer["X-Kept"], answer.cookies["seen"].value) == (422, "yes", "yes")
    assert answer["ETag"].startswith('W/"sm')
    assert SECRET not in answer.reason_phrase


@pytest.mark.parametrize("path", ["/customers/cookie", "/in"])
def test_an_opened_value_does_not_leave_in_a_cookie(shop: Shop, caller: Make, path: str) -> None:
    answer = caller().send(path, {"ssn": shop.seal(f'"{SECRET}"')})
    assert (answer.status_code, answer.json()["code"]) == (500, "seal_failed")
    assert not answer.cookies


def test_a_body_without_a_length_is_none_to_django_as_ever(caller: Make) -> None:
    for method in ("PUT", "PATCH", "DELETE", "OPTIONS"):
        answer = caller()(method, "/customers/talks")
        assert answer.status_code == 422, method


def test_a_path_of_letters_beyond_ascii_is_the_same_for_a_request_that_is_made_anew(shop: Shop) -> None:
    with override_settings(SECMIDDLEWARE=shop.manager, ROOT_URLCONF=Urls, MIDDLEWARE=[OURS]):
        answer = Client(**{PRESENTED_KEY: shop.alice}).get("/out/東京")
        request = answer.wsgi_request
        assert answer.status_code == 200
        assert request.path == request.path_info == request.META["PATH_INFO"] == "/out/東京"


def test_what_other_middleware_hung_on_the_request_before_us_stays(shop: Shop, caller: Make) -> None:
    with override_settings(MIDDLEWARE=["integrations.django_views.outer", OURS]):
        for query in ("", "?read=body"):
            answer = caller().send(
                f"/customers/outer{query}",
                {"ssn": shop.seal(f'"{SECRET}"')},
                headers={"accept-encoding": "gzip"},
            )
            told = answer.json()
            assert (told["from_outer"], told["opened"], told["asked_for"]) == ("there", True, "identity")
            assert shop.open(answer.json()["ssn"]) == f'"{SECRET}"'


def test_a_body_that_other_middleware_has_begun_to_read_is_not_taken_for_an_empty_one(
    shop: Shop, caller: Make
) -> None:
    with override_settings(MIDDLEWARE=["integrations.django_views.outer", OURS]):
        answer = caller(raise_request_exception=False).send("/customers/outer?read=stream", {"ssn": "plain"})
    assert answer.status_code == 500
    assert b"plain" not in answer.content


@pytest.mark.parametrize("prefix", ["/open", "/api"])
def test_a_script_name_that_was_not_configured_moves_nobody_past_a_rule(shop: Shop, prefix: str) -> None:
    with override_settings(SECMIDDLEWARE=shop.manager, ROOT_URLCONF=Urls, MIDDLEWARE=[OURS]):
        answer = Client(**{PRESENTED_KEY: shop.alice, "SCRIPT_NAME": prefix}).get("/x")
        assert (answer.status_code, answer.json()["code"]) == (400, "path_ambiguous")


def test_a_forced_script_name_is_the_mount(shop: Shop, caller: Make) -> None:
    mounted = SecurityManager.from_config({**shop.settings, "service": {"name": "shop", "mount": "/api"}}, {})
    with override_settings(FORCE_SCRIPT_NAME="/api"):
        alice = caller()
        path = "/api/" if alice.asynchronous else "/"
        assert alice("GET", path).json()["code"] == "path_ambiguous"
        with override_settings(SECMIDDLEWARE=mounted):
            assert caller()("GET", path).content == b"spiffe://example.org/alice"
    mounted.stop()


# --- Set up wrong.


def ids(**changed: Any) -> list[str]:
    with override_settings(**changed):
        return sorted(found.id for found in run_checks() if found.id.startswith("secmiddleware."))


def test_the_checks_name_every_mistake_by_an_id(shop: Shop) -> None:
    good: dict[str, Any] = {"SECMIDDLEWARE": shop.settings, "MIDDLEWARE": [OURS, COMMON]}
    assert ids(**good) == []
    assert ids(**good | {"MIDDLEWARE": [COMMON]}) == ["secmiddleware.E001"]
    assert ids(**good | {"MIDDLEWARE": [COMMON, OURS]}) == ["secmiddleware.E002"]
    assert ids(**good | {"MIDDLEWARE": [OURS, COMMON, OURS]}) == ["secmiddleware.E003"]
    assert ids(**good | {"MIDDLEWARE": ["exchanges.puppet_django.Recorded", COMMON]}) == []  # a subclass
    two = {"service": {"name": "x"}, "mtls": {"trust": ["/nowhere/ca.pem"], "clinet": "off"}}
    assert ids(**good | {"SECMIDDLEWARE": two}) == ["secmiddleware.E005"] * 2


def test_a_setting_that_is_missing_is_found_by_the_checks_and_at_the_start() -> None:
    assert not hasattr(settings, "SECMIDDLEWARE")
    assert ids(MIDDLEWARE=[OURS]) == ["secmiddleware.E004"]
    for kind in (WSGIHandler, ASGIHandler):
        with (
            override_settings(MIDDLEWARE=[OURS]),
            pytest.raises(ImproperlyConfigured, match="SECMIDDLEWARE is missing"),
        ):
            kind()


def test_a_setting_that_cannot_be_used_ends_the_start_and_names_every_mistake() -> None:
    two = {"service": {"name": "x"}, "mtls": {"trust": ["/nowhere/ca.pem"], "clinet": "off"}}
    for kind in (WSGIHandler, ASGIHandler):
        with (
            override_settings(MIDDLEWARE=[OURS], SECMIDDLEWARE=two),
            pytest.raises(ImproperlyConfigured, match=r"(?s)mtls\.trust.*mtls\.clinet|clinet.*trust"),
        ):
            kind()


def test_applied_twice_nothing_is_let_through(shop: Shop, caller: Make) -> None:
    with override_settings(MIDDLEWARE=[OURS, OURS]):
        answer = caller()("GET", "/open/x")
    assert (answer.status_code, answer.json()["code"]) == (500, "internal_error")


@pytest.mark.parametrize("server", ["WSGIServer/0.2", "waitress", "Granian", "some/1"])
def test_a_server_that_can_tell_nobody_s_certificate_serves_nobody(
    shop: Shop, caplog: pytest.LogCaptureFixture, server: str
) -> None:
    with override_settings(SECMIDDLEWARE=shop.manager, ROOT_URLCONF=Urls, MIDDLEWARE=[OURS]):
        told = {"SERVER_SOFTWARE": server, "wsgi.url_scheme": "https"}
        client = Client()
        for _ in range(2):
            answer = client.get("/open/x", **told)
            assert (answer.status_code, answer.json()["code"]) == (500, "internal_error")
        assert client.get("/open/x").content == b"nobody"  # a test client names no server
        assert client.get("/").status_code == 401
    assert caplog.text.count("every request is refused") == 1


def test_one_scope_may_be_given_to_many_requests_at_once(shop: Shop) -> None:
    async def together() -> list[int]:
        app, scope = ASGIHandler(), AsyncRequestFactory()._base_scope(path="/open/x")

        async def status() -> int:
            communicator = ApplicationCommunicator(app, scope)
            await communicator.send_input({"type": "http.request"})
            start = await communicator.receive_output()
            await communicator.receive_output()
            await communicator.wait()
            return start["status"]

        return await asyncio.gather(status(), status())

    with override_settings(SECMIDDLEWARE=shop.manager, ROOT_URLCONF=Urls, MIDDLEWARE=[OURS]):
        assert asyncio.run(together()) == [200, 200]


def test_wrapped_in_another_shell_nothing_is_let_through(shop: Shop) -> None:
    with override_settings(SECMIDDLEWARE=shop.manager, ROOT_URLCONF=Urls, MIDDLEWARE=[OURS]):
        environ = RequestFactory().get("/open/x").environ
        told: list[str] = []
        answer = wsgi.SecMiddleware(WSGIHandler(), config=shop.manager)(
            environ, lambda status, headers, *_: told.append(status)
        )
        assert (told[0][:3], json.loads(b"".join(answer))["code"]) == ("500", "internal_error")


def test_the_asgi_shell_lives_its_lifespan_though_django_has_none(shop: Shop) -> None:
    sent: list[Any] = []
    messages = [{"type": "lifespan.startup"}, {"type": "lifespan.shutdown"}]

    async def receive() -> dict[str, Any]:
        return messages.pop(0)

    async def send(message: dict[str, Any]) -> None:
        sent.append(message["type"])

    with override_settings(ROOT_URLCONF=Urls, MIDDLEWARE=[COMMON]):
        shell = asgi.SecMiddleware(ASGIHandler(), config=shop.manager)
        with pytest.raises(ValueError, match="not lifespan"):
            asyncio.run(shell({"type": "lifespan"}, receive, send))
    assert (sent, messages) == (["lifespan.startup.complete"], [])


def test_the_settings_say_how_large_a_body_is_when_it_leaves_the_loop(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = {**shop.settings, "service": {"name": "shop", "offload": "20KiB"}}
    aside: list[Any] = []
    to_thread = asyncio.to_thread
    monkeypatch.setattr(asyncio, "to_thread", lambda work: aside.append(work) or to_thread(work))
    with (
        SecurityManager.from_config(config, {}) as manager,
        override_settings(SECMIDDLEWARE=manager, ROOT_URLCONF=Urls, MIDDLEWARE=[OURS]),
    ):
        send = Caller(shop.alice, asynchronous=True).send
        for size, threads in ((20 * 1024 - 1, 0), (20 * 1024, 1)):
            aside.clear()
            filler = {"ssn": shop.seal('"1"'), "filler": ""}
            filler["filler"] = "x" * (size - len(json.dumps(filler)))
            assert send("/in", filler).status_code == 200
            assert len(aside) == threads


# --- One manager.


def test_every_handler_and_client_of_a_process_has_the_same_manager_until_the_setting_changes(
    shop: Shop,
) -> None:
    before = threading.active_count()
    with override_settings(SECMIDDLEWARE=shop.settings, ROOT_URLCONF=Urls, MIDDLEWARE=[OURS]):
        for _ in range(3):
            assert Client(**{PRESENTED_KEY: shop.alice}).get("/").status_code == 200
        manager = configuration.configured()
        assert manager.running
        assert threading.active_count() <= before + 1
        with override_settings(SECMIDDLEWARE={**shop.settings, "service": {"name": "other"}}):
            assert configuration.configured() is not manager
        assert not manager.running
        assert Client(**{PRESENTED_KEY: shop.alice}).get("/").status_code == 200
        manager = configuration.configured()
        assert manager.running
    assert not manager.running


def test_a_manager_that_was_given_is_not_stopped(shop: Shop) -> None:
    with override_settings(SECMIDDLEWARE=shop.manager, ROOT_URLCONF=Urls, MIDDLEWARE=[OURS]):
        assert Client(**{PRESENTED_KEY: shop.alice}).get("/").status_code == 200
    assert shop.manager.running


def test_the_class_runs_in_both_colours_and_knows_which(shop: Shop) -> None:
    async def view(request: Any) -> HttpResponse:
        return HttpResponse()

    with override_settings(SECMIDDLEWARE=shop.manager):
        assert iscoroutinefunction(SecMiddleware(view))
        assert not iscoroutinefunction(SecMiddleware(lambda request: HttpResponse()))
    assert SecMiddleware.sync_capable
    assert SecMiddleware.async_capable


def test_django_s_own_conditions_work_round_a_sealed_answer(shop: Shop, caller: Make) -> None:
    """Its middleware makes an entity tag of the plaintext, and compares what comes back with it."""
    conditional = "django.middleware.http.ConditionalGetMiddleware"
    with override_settings(MIDDLEWARE=[OURS, conditional, COMMON]):
        alice = caller()
        first, second = (alice("GET", "/out") for _ in range(2))
        tag = first["ETag"]
        assert (first.status_code, second["ETag"]) == (200, tag)
        assert tag.startswith('W/"sm')
        again = alice("GET", "/out", headers={"if-none-match": tag})
        assert (again.status_code, again.content, again["ETag"]) == (304, b"", tag)
        assert alice("GET", "/out", headers={"if-none-match": '"sm"'}).status_code == 200
