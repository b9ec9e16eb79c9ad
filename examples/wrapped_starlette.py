"""Starlette with the adapter: the app brings its own protection, and any start of uvicorn will do.

After `secmiddleware init`, in the same folder:

    python examples/wrapped_starlette.py

PORT says where it listens, 8443 unless it is set. FastAPI takes the adapter in the same way.
"""

from __future__ import annotations

import os

import uvicorn
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from secmiddleware.servers.uvicorn import options
from secmiddleware_starlette import SecMiddleware


async def who_am_i(request: Request) -> JSONResponse:
    return JSONResponse({"caller": str(request.state.client_identity)})


async def add_customer(request: Request) -> JSONResponse:
    customer = await request.json()
    print(f"the app sees {customer['ssn']}", flush=True)  # what the caller sent was a token
    return JSONResponse(customer, status_code=201)


app = Starlette(
    routes=[Route("/whoami", who_am_i), Route("/customers", add_customer, methods=["POST"])],
    middleware=[Middleware(SecMiddleware, config="secmiddleware.toml")],
)

if __name__ == "__main__":
    uvicorn.run(app, port=int(os.environ.get("PORT", "8443")), **options("secmiddleware.toml"))
