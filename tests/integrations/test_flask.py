"""The Flask adapter beyond the table: in Flask apps, under Flask's own test client."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from typing import Any

import pytest
from flask import (
    Blueprint,
    Flask,
    Response,
    abort,
    g,
    jsonify,
    request,
    send_file,
    session,
    stream_with_context,
)
from werkzeug.middleware.proxy_fix import ProxyFix
from werkzeug.test import TestResponse

from integrations.shop import SECRET, Shop
from secmiddleware import wsgi
from secmiddleware.errors import ConfigError, SecMiddlewareError
from secmiddleware.messages import PRESENTED_KEY, Presented
from secmiddleware.security import SecurityManager
from secmiddleware_flask import SecMiddleware


def who() -> str:
    return "nobody" if g.client_identity is None else str(g.client_identity)


def bare(config: Any = None) -> Flask:
    """An app, and settings for it where there are some; not protected yet."""
    app = Flask(__name__)
    app.secret_key = "tests only"
    if config is not None:
        app.config["SECMIDDLEWARE"] = config

    @app.get("/")
    @app.get("/open/x")
    def who_am_i() -> str:
        return who()

    @app.post("/customers")
    def echo() -> Response:
        return jsonify(request.get_json())

    return app


def protected(config: Any) -> Flask:
    app = bare(config)
    SecMiddleware(app)
    return app


def send(
    app: Flask, path: str, presented: Presented | None, method: str = "GET", **more: Any
) -> TestResponse:
    environ = {PRESENTED_KEY: presented, **more.pop("environ", {})}
    return app.test_client().open(path, method=method, environ_overrides=environ, **more)


def test_a_request_carries_the_identity_of_its_caller_or_none(shop: Shop) -> None:
    app = protected(shop.manager)
    assert send(app, "/", shop.alice).text == "spiffe://example.org/alice"
    assert send(app, "/open/x", shop.alice).text == "nobody"
    refused = send(app, "/", None)
    assert (refused.status_code, refused.json["code"]) == (401, "certificate_missing")


def test_marked_values_are_opened_for_the_app_and_sealed_for_the_caller(shop: Shop) -> None:
    answer = send(
        protected(shop.manager), "/customers", shop.alice, "POST", json={"ssn": shop.seal(f'"{SECRET}"')}
    )
    assert answer.status_code == 200
    assert shop.open(answer.json["ssn"]) == f'"{SECRET}"'


def test_the_identity_is_there_for_functions_that_came_before_ours_for_blueprints_and_for_async_views(
    shop: Shop,
) -> None:
    app, seen = bare(shop.manager), []
    inner = Blueprint("inner", __name__)

    @app.url_value_preprocessor
    def preprocess(endpoint: str | None, values: dict[str, Any] | None) -> None:
        seen.append(who())

    @app.before_request
    def before() -> None:
        seen.append(who())

    @inner.before_request
    def before_inner() -> None:
        seen.append(who())

    @inner.get("/inner")
    def view() -> str:
        return who()

    @app.teardown_request
    def teardown(error: BaseException | None) -> None:
        seen.append(who())

    app.register_blueprint(inner)
    SecMiddleware(app)
    assert send(app, "/inner", shop.alice).text == "spiffe://example.org/alice"
    assert seen == ["spiffe://example.org/alice"] * 4


def test_one_extension_serves_the_apps_of_a_factory_each_with_its_own_settings(shop: Shop) -> None:
    extension = SecMiddleware()
    open_settings = {"service": {"name": "open"}, "mtls": {"client": "off"}}

    def create_app(config: Any) -> Flask:
        app = bare(config)
        extension.init_app(app)
        return app

    one, other = create_app(shop.manager), create_app(open_settings)
    assert send(one, "/", None).status_code == 401
    assert send(other, "/", None).text == "nobody"
    assert send(one, "/", shop.alice).text == "spiffe://example.org/alice"


def test_the_config_may_be_a_path_or_a_mapping(shop: Shop) -> None:
    for config in (shop.written(), str(shop.written()), shop.settings):
        assert send(protected(config), "/", shop.alice).text == "spiffe://example.org/alice"


def test_a_config_that_is_missing_says_so_where_the_extension_is_initialised() -> None:
    with pytest.raises(SecMiddlewareError, match=r'app\.config\["SECMIDDLEWARE"\] is missing'):
        SecMiddleware(bare())


def test_a_config_that_cannot_be_used_names_every_mistake_and_leaves_the_app_as_it_was() -> None:
    app = bare({"mtls": {"trust": ["/nowhere/ca.pem"], "clinet": "off"}})
    with pytest.raises(ConfigError) as refused:
        SecMiddleware(app)
    assert {finding.key for finding in refused.value.findings} >= {"mtls.trust[0]", "mtls.clinet"}
    assert "secmiddleware" not in app.extensions
    assert not isinstance(app.wsgi_app, wsgi.SecMiddleware)


def test_initialised_twice_the_second_time_is_refused(shop: Shop) -> None:
    app = protected(shop.manager)
    app.wsgi_app = ProxyFix(app.wsgi_app)
    for again in (lambda: SecMiddleware(app), lambda: SecMiddleware().init_app(app)):
        with pytest.raises(SecMiddlewareError, match="applied twice"):
            again()
    assert send(app, "/", shop.alice).text == "spiffe://example.org/alice"


def test_what_wraps_the_app_once_more_refuses_to_start(shop: Shop) -> None:
    app = protected(shop.manager)
    for wrapped in (app, app.wsgi_app):
        with pytest.raises(SecMiddlewareError, match="applied twice"):
            wsgi.SecMiddleware(wrapped, config=shop.manager)


def test_what_wraps_the_app_once_more_unseen_lets_nothing_through(shop: Shop) -> None:
    app = protected(shop.manager)
    inner = app.wsgi_app
    app.wsgi_app = wsgi.SecMiddleware(lambda *asked: inner(*asked), config=shop.manager)
    answer = send(app, "/", shop.alice)
    assert (answer.status_code, answer.json["code"]) == (500, "internal_error")


def test_a_page_of_an_exception_does_not_leave_a_sealing_route(shop: Shop) -> None:
    for testing in (False, True):
        app = bare(shop.manager)
        app.debug = True
        app.config["PROPAGATE_EXCEPTIONS"] = testing

        @app.put("/customers/1")
        def fails() -> Response:
            raise RuntimeError(request.get_json()["ssn"])

        SecMiddleware(app)
        try:
            answer = send(
                app, "/customers/1", shop.alice, "PUT", json={"ssn": shop.seal(f'"{SECRET}"')}, buffered=True
            )
        except RuntimeError:
            assert testing  # Werkzeug's client raises what the app raised, as ever
        else:
            assert (answer.status_code, answer.json["code"]) == (500, "internal_error")
            assert SECRET not in answer.text


def test_an_error_handler_that_answers_in_json_is_sealed_like_any_view(shop: Shop) -> None:
    app = bare(shop.manager)

    @app.put("/customers/1")
    def fails() -> Response:
        raise RuntimeError

    @app.get("/customers/2")
    def no_such() -> Response:
        abort(404)

    @app.errorhandler(500)
    @app.errorhandler(404)
    def as_json(error: Any) -> tuple[dict[str, Any], int]:
        return {"error": error.name, "ssn": SECRET}, error.code

    SecMiddleware(app)
    for method, path, status in (("PUT", "/customers/1", 500), ("GET", "/customers/2", 404)):
        answer = send(app, path, shop.alice, method, json={})
        assert answer.status_code == status
        assert shop.open(answer.json["ssn"]) == f'"{SECRET}"'


def test_where_nothing_is_marked_streams_files_and_sessions_are_flask_s_own(shop: Shop) -> None:
    app = bare(shop.manager)

    @app.get("/stream")
    def stream() -> Response:
        def count() -> Iterator[str]:
            for number in range(3):
                yield f"{who()} {number}\n"

        return Response(stream_with_context(count()), mimetype="text/plain")

    @app.get("/file")
    def file() -> Response:
        return send_file(io.BytesIO(b"0123456789"), download_name="x.txt", conditional=True)

    @app.get("/session")
    def visits() -> str:
        session["visits"] = session.get("visits", 0) + 1
        return str(session["visits"])

    SecMiddleware(app)
    answer = send(app, "/stream", shop.alice)
    assert list(answer.response) == [f"spiffe://example.org/alice {number}\n".encode() for number in range(3)]
    part = send(app, "/file", shop.alice, headers={"range": "bytes=2-4"})
    assert (part.status_code, part.data) == (206, b"234")
    client = app.test_client()
    told = [client.get("/session", environ_overrides={PRESENTED_KEY: shop.alice}).text for _ in range(2)]
    assert told == ["1", "2"]


def test_a_file_does_not_leave_a_sealing_route_past_us(shop: Shop) -> None:
    app = bare(shop.manager)

    @app.get("/out/plain")
    def plain() -> Response:
        return send_file(io.BytesIO(SECRET.encode()), mimetype="text/plain")

    @app.get("/out")
    def file() -> Response:
        return send_file(io.BytesIO(json.dumps({"ssn": SECRET}).encode()), mimetype="application/json")

    SecMiddleware(app)
    assert shop.open(send(app, "/out", shop.alice).json["ssn"]) == f'"{SECRET}"'
    refused = send(app, "/out/plain", shop.alice)
    assert (refused.status_code, refused.json["code"]) == (500, "seal_failed")


def test_a_prefix_from_a_forwarded_header_is_no_way_past_the_rules(shop: Shop) -> None:
    app = protected(shop.manager)
    app.wsgi_app = ProxyFix(app.wsgi_app, x_prefix=1)
    assert send(app, "/open/x", None).text == "nobody"
    answer = send(app, "/", None, headers={"x-forwarded-prefix": "/open"})
    assert (answer.status_code, answer.json["code"]) == (400, "path_ambiguous")


def test_a_view_called_without_a_server_has_nobody_as_its_caller(shop: Shop) -> None:
    app = protected(shop.manager)
    with app.test_request_context("/"):
        assert app.full_dispatch_request().get_data(as_text=True) == "nobody"


def test_the_manager_starts_with_the_first_request_and_not_before(shop: Shop) -> None:
    manager = SecurityManager.from_config(shop.settings, {})
    app = protected(manager)
    assert not manager.running
    assert send(app, "/", shop.alice).status_code == 200
    assert manager.running
    manager.stop()


def test_flask_s_own_conditions_work_round_a_sealed_answer(shop: Shop) -> None:
    """It makes an entity tag of the plaintext, and compares what comes back with it."""
    app = bare(shop.manager)

    @app.route("/customers/7", methods=["GET", "PUT"])
    def customer() -> Response:
        answer = jsonify(ssn=SECRET)
        answer.add_etag(weak=False)
        if request.method == "PUT" and not request.if_match.contains(answer.get_etag()[0]):
            abort(412)
        return answer.make_conditional(request)

    SecMiddleware(app)
    first, second = (send(app, "/customers/7", shop.alice) for _ in range(2))
    tag = first.headers["ETag"]
    assert first.data != second.data
    assert second.headers["ETag"] == tag
    assert tag.startswith('W/"sm')
    again = send(app, "/customers/7", shop.alice, headers={"If-None-Match": tag})
    assert (again.status_code, again.data, again.headers["ETag"]) == (304, b"", tag)
    for sent, status in ((tag, 200), (tag.removeprefix("W/"), 200), ('"other"', 500)):
        assert send(app, "/customers/7", shop.alice, "PUT", headers={"If-Match": sent}).status_code == status
