"""Flask with the adapter: the app brings its own protection, and any start of gunicorn will do.

After `secmiddleware init`, in the same folder:

    python examples/wrapped_flask.py

PORT says where it listens, 8443 unless it is set. A gunicorn.conf.py would say
`globals().update(options("secmiddleware.toml"))` in place of the class below.
"""

from __future__ import annotations

import os

from flask import Flask, Response, g, jsonify, request
from gunicorn.app.base import BaseApplication  # type: ignore[import-untyped]

from secmiddleware.servers.gunicorn import options
from secmiddleware_flask import SecMiddleware

app = Flask(__name__)
app.config["SECMIDDLEWARE"] = "secmiddleware.toml"


@app.get("/whoami")
def who_am_i() -> Response:
    return jsonify(caller=str(g.client_identity))


@app.post("/customers")
def add_customer() -> tuple[Response, int]:
    customer = request.get_json()
    print(f"the app sees {customer['ssn']}", flush=True)  # what the caller sent was a token
    return jsonify(customer), 201


SecMiddleware(app)


class Served(BaseApplication):  # type: ignore[misc]
    def load_config(self) -> None:
        port = os.environ.get("PORT", "8443")
        for name, value in {"bind": f"127.0.0.1:{port}", **options("secmiddleware.toml")}.items():
            self.cfg.set(name, value)

    def load(self) -> Flask:
        return app


if __name__ == "__main__":
    Served().run()
