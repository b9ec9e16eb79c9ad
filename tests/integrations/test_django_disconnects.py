"""A caller goes away while a view of Django's works: the view hears of it as it would without us, or ends."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from typing import Any

import pytest
from asgiref.sync import sync_to_async
from asgiref.testing import ApplicationCommunicator
from django.core.handlers.asgi import ASGIHandler
from django.http import HttpResponse
from django.test import AsyncRequestFactory, override_settings
from django.urls import path

import integrations.django_project  # noqa: F401  (sets Django up)
from integrations.shop import SECRET, Shop
from secmiddleware import asgi
from secmiddleware.messages import PRESENTED_KEY

PATIENCE = 5.0


class Views:
    """One view that works in a thread, one that waits on the loop; what became of each."""

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.started, self.ended = asyncio.Event(), asyncio.Event()
        self.outcome: list[Any] = []
        self.urlpatterns = [
            path(f"{folder}/{name}", view)
            for folder in ("customers", "plain")
            for name, view in (("sync", sync_to_async(self.sync)), ("waits", self.waits))
        ]

    def sync(self, request: Any) -> HttpResponse:
        try:
            self.loop.call_soon_threadsafe(self.started.set)
            time.sleep(0.05)
            self.outcome.append(json.loads(request.body))
            return HttpResponse(b"{}", content_type="application/json")
        finally:
            self.loop.call_soon_threadsafe(self.ended.set)

    async def waits(self, request: Any) -> HttpResponse:
        try:
            self.started.set()
            await asyncio.sleep(PATIENCE)
            return HttpResponse(b"{}", content_type="application/json")
        except asyncio.CancelledError:
            self.outcome.append("cancelled")
            raise
        finally:
            self.ended.set()


def behind_the_adapter(shop: Shop) -> Any:
    with override_settings(SECMIDDLEWARE=shop.manager, MIDDLEWARE=["secmiddleware_django.SecMiddleware"]):
        return ASGIHandler()


def behind_the_shell(shop: Shop) -> Any:
    with override_settings(MIDDLEWARE=[]):
        return asgi.SecMiddleware(ASGIHandler(), config=shop.manager)


@pytest.mark.parametrize("folder", ["customers", "plain"])
@pytest.mark.parametrize("view", ["sync", "waits"])
@pytest.mark.parametrize("behind", [behind_the_adapter, behind_the_shell])
def test_a_caller_who_goes_away_leaves_a_view_as_it_would_without_us(
    shop: Shop, behind: Callable[[Shop], Any], view: str, folder: str
) -> None:
    told = shop.seal(f'"{SECRET}"') if folder == "customers" else SECRET
    body = json.dumps({"ssn": told}).encode()

    async def run() -> list[Any]:
        views = Views()
        with override_settings(ROOT_URLCONF=views):
            scope = AsyncRequestFactory()._base_scope(method="POST", path=f"/{folder}/{view}")
            scope |= {PRESENTED_KEY: shop.alice, "raw_path": scope["path"].encode()}
            headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
            scope["headers"] = [*scope["headers"], *headers]
            caller = ApplicationCommunicator(behind(shop), scope)
            await caller.send_input({"type": "http.request", "body": body})
            await asyncio.wait_for(views.started.wait(), PATIENCE)
            await caller.send_input({"type": "http.disconnect"})
            await asyncio.wait_for(views.ended.wait(), PATIENCE / 2)
            await caller.wait(PATIENCE)
            assert caller.output_queue.empty(), "nobody is there to be answered"
        return views.outcome

    assert asyncio.run(run()) == [{"ssn": SECRET} if view == "sync" else "cancelled"]
