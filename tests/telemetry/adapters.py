"""One request through each adapter, in an app of its framework that does as it is told."""

from __future__ import annotations

from functools import partial
from typing import Any

import integrations.django_project  # noqa: F401  (sets Django up)
from django.core.handlers.asgi import ASGIHandler
from django.core.handlers.wsgi import WSGIHandler
from django.http import HttpResponse
from django.test import override_settings
from django.urls import re_path
from fastapi import FastAPI
from flask import Flask
from flask import Response as FlaskResponse
from flask import request as flask_request
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request as StarletteRequest
from starlette.responses import Response as StarletteResponse
from starlette.routing import Route

import secmiddleware_django
import secmiddleware_flask
import secmiddleware_starlette
from secmiddleware.security import SecurityManager
from secmiddleware.telemetry.observer import Observer
from telemetry.shells import Answer, Request, Shell, drive_asgi, drive_wsgi

JSON = "application/json"


def _said(request: Request, surroundings: Any, body: bytes) -> bytes:
    """What the app answers, or raises, after it has looked."""
    if request.look is not None:
        request.look(surroundings)
    if request.raises is not None:
        raise request.raises
    return body if request.says is None else request.says


def through_starlette(
    manager: SecurityManager,
    observer: Observer | None,
    request: Request,
    *,
    kind: type[Starlette] = Starlette,
) -> Answer:
    async def view(came: StarletteRequest) -> StarletteResponse:
        said = _said(request, came.scope, await came.body())
        return StarletteResponse(said, request.status, media_type=JSON)

    ours = Middleware(secmiddleware_starlette.SecMiddleware, config=manager, observer=observer)
    app = kind(middleware=[ours])
    app.router.routes.append(Route("/{rest:path}", view, methods=["GET", "POST"]))
    return drive_asgi(app, request)


def through_flask(manager: SecurityManager, observer: Observer | None, request: Request) -> Answer:
    app = Flask("shop")
    app.config["SECMIDDLEWARE"] = manager

    @app.route("/<path:rest>", methods=["GET", "POST"])
    def view(rest: str) -> FlaskResponse:
        said = _said(request, flask_request.environ, flask_request.get_data())
        return FlaskResponse(said, request.status, content_type=JSON)

    secmiddleware_flask.SecMiddleware(app, observer=observer)
    return drive_wsgi(app, request)


def through_django(
    manager: SecurityManager, observer: Observer | None, request: Request, *, asynchronous: bool
) -> Answer:
    def said(came: Any) -> HttpResponse:
        surroundings = came.scope if asynchronous else came.environ
        return HttpResponse(_said(request, surroundings, came.body), content_type=JSON, status=request.status)

    async def asaid(came: Any) -> HttpResponse:
        return said(came)

    class Watched(secmiddleware_django.SecMiddleware):
        def __init__(self, get_response: Any) -> None:
            super().__init__(get_response, observer=observer)

    globals()["Watched"] = Watched  # Django finds it by its name
    urls = type("Urls", (), {"urlpatterns": [re_path("", asaid if asynchronous else said)]})
    with override_settings(
        SECMIDDLEWARE=manager, ROOT_URLCONF=urls, MIDDLEWARE=[f"{__name__}.Watched"], DEBUG=False
    ):
        handler = ASGIHandler() if asynchronous else WSGIHandler()
        return drive_asgi(handler, request) if asynchronous else drive_wsgi(handler, request)


ADAPTERS: dict[str, Shell] = {
    "starlette": through_starlette,
    "fastapi": partial(through_starlette, kind=FastAPI),
    "flask": through_flask,
    "django under wsgi": partial(through_django, asynchronous=False),
    "django under asgi": partial(through_django, asynchronous=True),
}
