"""A small customer register, as it was before anybody thought of mutual TLS: Starlette, JSON, a dict.

It knows nothing of secmiddleware and imports nothing of it. Run it bare:

    uvicorn --app-dir examples customers_starlette:app

or wrapped, with the same code and a file of settings beside it:

    secmiddleware run examples.customers_starlette:app --config secmiddleware.toml
"""

from __future__ import annotations

import itertools
import json
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route


async def add_customer(request: Request) -> JSONResponse:
    """`{"name": …, "ssn": …}` → 201 and the customer with its number."""
    try:
        body = json.loads(await request.body())
    except ValueError:
        raise HTTPException(400, "the body is not JSON") from None
    if not isinstance(body, dict):
        raise HTTPException(422, "a JSON object is expected")
    for key in ("name", "ssn"):
        if not isinstance(body.get(key), str) or not body[key]:
            raise HTTPException(422, f"{key} is missing or not a string")
    customer = {"id": next(request.app.state.numbers), "name": body["name"], "ssn": body["ssn"]}
    request.app.state.customers[customer["id"]] = customer
    return JSONResponse(customer, status_code=201, headers={"location": f"/customers/{customer['id']}"})


async def show_customer(request: Request) -> JSONResponse:
    """One customer, or 404."""
    customer = request.app.state.customers.get(request.path_params["number"])
    if customer is None:
        raise HTTPException(404, "no such customer")
    return JSONResponse(customer)


async def list_customers(request: Request) -> JSONResponse:
    """All of them, in the order in which they came."""
    return JSONResponse({"people": list(request.app.state.customers.values())})


async def who_am_i(request: Request) -> JSONResponse:
    """Who the app was told is calling; bare, that is nobody."""
    identity = request.scope.get("secmiddleware.identity")
    return JSONResponse({"caller": "nobody" if identity is None else str(identity)})


async def health(_request: Request) -> JSONResponse:
    """For a load balancer."""
    return JSONResponse({"status": "ok"})


async def show_store(request: Request) -> JSONResponse:
    """What the app holds in memory, as it holds it. An app that is not an example has no such page."""
    return JSONResponse({"held": list(request.app.state.customers.values())})


async def as_json(_request: Request, error: Exception) -> JSONResponse:
    """Every error that has a status, in the format of everything else."""
    assert isinstance(error, HTTPException)  # it is registered for nothing else
    return JSONResponse({"error": error.detail}, status_code=error.status_code, headers=error.headers)


def create_app() -> Starlette:
    """A register of its own, empty."""
    app = Starlette(
        routes=[
            Route("/customers", add_customer, methods=["POST"]),
            Route("/customers", list_customers, methods=["GET"]),
            Route("/customers/{number:int}", show_customer, methods=["GET"]),
            Route("/whoami", who_am_i, methods=["GET"]),
            Route("/healthz", health, methods=["GET"]),
            Route("/debug/store", show_store, methods=["GET"]),
        ],
        exception_handlers={HTTPException: as_json},
    )
    customers: dict[int, dict[str, Any]] = {}
    app.state.customers = customers
    app.state.numbers = itertools.count(1)
    return app


app = create_app()
