"""A small customer register, as it was before anybody thought of mutual TLS: Django, JSON, a dict, one file.

It knows nothing of secmiddleware and imports nothing of it. Run it bare:

    gunicorn --chdir examples customers_django:app

or wrapped, with the same code and a file of settings beside it:

    secmiddleware run examples.customers_django:app --config secmiddleware.toml

`customers_django:asgi_app` is the same for ASGI.
"""

from __future__ import annotations

import itertools
import json
import secrets
from typing import Any

from django.conf import settings
from django.core.asgi import get_asgi_application
from django.core.wsgi import get_wsgi_application
from django.http import HttpRequest, JsonResponse
from django.urls import path
from django.views import View

settings.configure(ALLOWED_HOSTS=["*"], ROOT_URLCONF=__name__, SECRET_KEY=secrets.token_hex(), USE_TZ=True)

customers: dict[int, dict[str, Any]] = {}
numbers = itertools.count(1)


def error(status: int, detail: str) -> JsonResponse:
    """Every error that has a status, in the format of everything else."""
    return JsonResponse({"error": detail}, status=status)


class Page(View):  # type: ignore[misc]  # Django has no types
    """A view whose complaint about a method is JSON too."""

    def http_method_not_allowed(self, _request: HttpRequest, *_: Any, **__: Any) -> JsonResponse:
        response = error(405, "Method Not Allowed")
        response["Allow"] = ", ".join(self._allowed_methods())
        return response


class Customers(Page):
    def post(self, request: HttpRequest) -> JsonResponse:
        """`{"name": …, "ssn": …}` → 201 and the customer with its number."""
        try:
            body = json.loads(request.body)
        except ValueError:
            return error(400, "the body is not JSON")
        if not isinstance(body, dict):
            return error(422, "a JSON object is expected")
        for key in ("name", "ssn"):
            if not isinstance(body.get(key), str) or not body[key]:
                return error(422, f"{key} is missing or not a string")
        customer = {"id": next(numbers), "name": body["name"], "ssn": body["ssn"]}
        customers[customer["id"]] = customer
        return JsonResponse(customer, status=201, headers={"location": f"/customers/{customer['id']}"})

    def get(self, _request: HttpRequest) -> JsonResponse:
        """All of them, in the order in which they came."""
        return JsonResponse({"people": list(customers.values())})


class Customer(Page):
    def get(self, _request: HttpRequest, number: int) -> JsonResponse:
        """One customer, or 404."""
        customer = customers.get(number)
        return error(404, "no such customer") if customer is None else JsonResponse(customer)


class WhoAmI(Page):
    def get(self, request: HttpRequest) -> JsonResponse:
        """Who the app was told is calling; bare, that is nobody."""
        surroundings = request.scope if hasattr(request, "scope") else request.environ
        identity = surroundings.get("secmiddleware.identity")
        return JsonResponse({"caller": "nobody" if identity is None else str(identity)})


class Health(Page):
    def get(self, _request: HttpRequest) -> JsonResponse:
        """For a load balancer."""
        return JsonResponse({"status": "ok"})


class Store(Page):
    def get(self, _request: HttpRequest) -> JsonResponse:
        """What the app holds in memory, as it holds it. An app that is not an example has no such page."""
        return JsonResponse({"held": list(customers.values())})


def not_found(_request: HttpRequest, exception: Exception) -> JsonResponse:  # noqa: ARG001  (Django's name for it)
    """For what no URL leads to."""
    return error(404, "Not Found")


handler404 = not_found
urlpatterns = [
    path("customers", Customers.as_view()),
    path("customers/<int:number>", Customer.as_view()),
    path("whoami", WhoAmI.as_view()),
    path("healthz", Health.as_view()),
    path("debug/store", Store.as_view()),
]

app = get_wsgi_application()
asgi_app = get_asgi_application()
