"""A small customer register, as it was before anybody thought of mutual TLS: Flask, JSON, a dict.

It knows nothing of secmiddleware and imports nothing of it. Run it bare:

    gunicorn --chdir examples customers_flask:app

or wrapped, with the same code and a file of settings beside it:

    secmiddleware run examples.customers_flask:app --config secmiddleware.toml
"""

from __future__ import annotations

import itertools
import json
from typing import Any

from flask import Flask, Response, abort, jsonify, request
from werkzeug.exceptions import HTTPException


def create_app() -> Flask:
    """A register of its own, empty."""
    app = Flask(__name__, static_folder=None)
    customers: dict[int, dict[str, Any]] = {}
    numbers = itertools.count(1)

    @app.post("/customers")
    def add_customer() -> tuple[Response, int, dict[str, str]]:
        """`{"name": …, "ssn": …}` → 201 and the customer with its number."""
        try:
            body = json.loads(request.get_data())
        except ValueError:
            abort(400, "the body is not JSON")
        if not isinstance(body, dict):
            abort(422, "a JSON object is expected")
        for key in ("name", "ssn"):
            if not isinstance(body.get(key), str) or not body[key]:
                abort(422, f"{key} is missing or not a string")
        customer = {"id": next(numbers), "name": body["name"], "ssn": body["ssn"]}
        customers[customer["id"]] = customer
        return jsonify(customer), 201, {"location": f"/customers/{customer['id']}"}

    @app.get("/customers/<int:number>")
    def show_customer(number: int) -> Response:
        """One customer, or 404."""
        if number not in customers:
            abort(404, "no such customer")
        return jsonify(customers[number])

    @app.get("/customers")
    def list_customers() -> Response:
        """All of them, in the order in which they came."""
        return jsonify(people=list(customers.values()))

    @app.get("/whoami")
    def who_am_i() -> Response:
        """Who the app was told is calling; bare, that is nobody."""
        identity = request.environ.get("secmiddleware.identity")
        return jsonify(caller="nobody" if identity is None else str(identity))

    @app.get("/healthz")
    def health() -> Response:
        """For a load balancer."""
        return jsonify(status="ok")

    @app.get("/debug/store")
    def show_store() -> Response:
        """What the app holds in memory, as it holds it. An app that is not an example has no such page."""
        return jsonify(held=list(customers.values()))

    @app.errorhandler(HTTPException)
    def as_json(error: HTTPException) -> Response:
        """Every error that has a status, in the format of everything else."""
        response = error.get_response()
        response.data = json.dumps({"error": error.description})
        response.content_type = "application/json"
        return response  # type: ignore[return-value]  # Werkzeug's own class, which Flask takes too

    return app


app = create_app()
