"""Django in one file with the adapter, served as ASGI: the project brings its own protection.

After `secmiddleware init`, in the same folder:

    python examples/wrapped_django.py

PORT says where it listens, 8443 unless it is set. What is set up wrong is told by

    python examples/wrapped_django.py check
"""

from __future__ import annotations

import json
import os
import secrets
import sys

import uvicorn
from django.conf import settings
from django.core.asgi import get_asgi_application
from django.core.management import execute_from_command_line
from django.http import HttpRequest, JsonResponse
from django.urls import path

from secmiddleware.servers.uvicorn import options

settings.configure(
    ALLOWED_HOSTS=["*"],
    INSTALLED_APPS=["secmiddleware_django"],
    MIDDLEWARE=["secmiddleware_django.SecMiddleware", "django.middleware.common.CommonMiddleware"],
    ROOT_URLCONF=__name__,
    SECMIDDLEWARE="secmiddleware.toml",
    SECRET_KEY=secrets.token_hex(),
)


async def who_am_i(request: HttpRequest) -> JsonResponse:
    return JsonResponse({"caller": str(request.client_identity)})


def add_customer(request: HttpRequest) -> JsonResponse:
    customer = json.loads(request.body)
    print(f"the app sees {customer['ssn']}", flush=True)  # what the caller sent was a token
    return JsonResponse(customer, status=201)


urlpatterns = [path("whoami", who_am_i), path("customers", add_customer)]

if __name__ == "__main__":
    if len(sys.argv) > 1:
        execute_from_command_line(sys.argv)
    else:
        # Django knows no lifespan: what the middleware needs starts with the first request.
        chosen = {**options("secmiddleware.toml"), "lifespan": "off"}
        uvicorn.run(get_asgi_application(), port=int(os.environ.get("PORT", "8443")), **chosen)
