"""The shell under the servers that people develop with, over plain sockets."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterable, Iterator
from http.client import HTTPConnection
from pathlib import Path
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, make_server
from wsgiref.validate import validator

import pytest
from servers.pki import Pki
from werkzeug.serving import WSGIRequestHandler as WerkzeugHandler
from werkzeug.serving import make_server as make_werkzeug

from secmiddleware.files import make_private_folder, write_secret
from secmiddleware.security import SecurityManager
from secmiddleware.wsgi import SecMiddleware

JSON = {"content-type": "application/json"}


def app(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
    """Says what it has read: by its length, or to the end where the server makes one."""
    length = environ.get("CONTENT_LENGTH")
    size = int(length) if length else 2**20 if environ.get("wsgi.input_terminated") else 0
    body = environ["wsgi.input"].read(size) if size else b""
    told = json.dumps({"path": environ["PATH_INFO"], "length": len(body), "ssn": "123-45-6789"}).encode()
    start_response("200 OK", [("Content-Type", "application/json"), ("Content-Length", str(len(told)))])
    return [told]


@pytest.fixture(scope="module")
def manager(tmp_path_factory: pytest.TempPathFactory, pki: Pki) -> Iterator[SecurityManager]:
    folder: Path = tmp_path_factory.mktemp("develop")
    make_private_folder(folder / "state")
    write_secret(folder / "kek", bytes(range(32)))
    place = {"routes": ["/marked"], "marks": ["$.ssn"], "request": "encrypt", "response": "encrypt"}
    place |= {"already_sealed": "skip"}
    settings = {
        "service": {"name": "develop"},
        "mtls": {"client": "off"},
        "keys": {"ring": "d", "store": f"file:{folder}/state/ring.json", "kek": f"file:{folder}/kek"},
        "fields": {"ssn": {"leak_guard": False, "places": [place]}},
    }
    with SecurityManager.from_config(settings, {}) as made:
        yield made


class _Silent(WSGIRequestHandler):
    def log_message(self, format: str, *args: Any) -> None: ...  # noqa: A002


class _SilentWerkzeug(WerkzeugHandler):
    def log(self, type: str, message: str, *args: Any) -> None: ...  # noqa: A002


@pytest.fixture(scope="module", params=["wsgiref", "werkzeug"])
def served(request: pytest.FixtureRequest, manager: SecurityManager) -> Iterator[tuple[str, int]]:
    # Both sides are looked at: what the server gives us, and what we give the app. Werkzeug, for its part,
    # puts a number into the environ, which the validator minds.
    check = validator if request.param == "wsgiref" else lambda app: app
    shell = check(SecMiddleware(check(app), config=manager))
    server: Any
    if request.param == "wsgiref":
        server = make_server("127.0.0.1", 0, shell, handler_class=_Silent)
    else:
        server = make_werkzeug("127.0.0.1", 0, shell, request_handler=_SilentWerkzeug)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield request.param, server.server_port
    server.shutdown()
    thread.join(10)
    server.server_close()


def _ask(port: int, method: str, path: str, body: Any = None, headers: Any = None) -> tuple[int, bytes]:
    connection = HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request(method, path, body, headers or {}, encode_chunked=False)
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


def test_a_body_is_sealed_on_its_way_in_and_out(served: tuple[str, int]) -> None:
    status, body = _ask(served[1], "POST", "/marked", b'{"ssn":"078-05-1120"}', JSON)
    told = json.loads(body)
    assert status == 200
    assert told["length"] > 60
    assert told["ssn"].startswith("sm1.")


def test_what_is_not_marked_passes(served: tuple[str, int]) -> None:
    status, body = _ask(served[1], "POST", "/free", b"x" * 1000, {"content-type": "text/plain"})
    assert (status, json.loads(body)) == (200, {"path": "/free", "length": 1000, "ssn": "123-45-6789"})


@pytest.mark.parametrize("method", ["GET", "HEAD", "DELETE"])
def test_a_request_without_a_body_waits_for_none(served: tuple[str, int], method: str) -> None:
    status, body = _ask(served[1], method, "/marked")
    assert status == 200
    assert (body == b"") == (method == "HEAD")


def test_a_chunked_body_is_read_where_the_server_ends_it_and_else_refused(served: tuple[str, int]) -> None:
    chunked = b'15\r\n{"ssn":"078-05-1120"}\r\n0\r\n\r\n'
    headers = {**JSON, "transfer-encoding": "chunked"}
    status, body = _ask(served[1], "POST", "/marked", chunked, headers)
    if served[0] == "wsgiref":  # hands over the chunks as they are
        assert (status, json.loads(body)["code"]) == (411, "length_required")
    else:
        assert (status, json.loads(body)["length"] > 60) == (200, True)


def test_a_caller_who_goes_away_in_the_middle_does_not_reach_the_app(served: tuple[str, int]) -> None:
    with socket.create_connection(("127.0.0.1", served[1]), 10) as connection:
        connection.sendall(
            b"POST /marked HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
            b'content-length: 100\r\n\r\n{"ssn":"078-05-1120"}'
        )
        connection.shutdown(socket.SHUT_WR)
        received = b""
        while data := connection.recv(65536):
            received += data
    assert b" 400 " in received.partition(b"\r\n")[0]
    assert b"payload_malformed" in received


@pytest.mark.parametrize("target", ["/x/../marked", "//marked", "/free%2Fx", "/free%00", "/%2e%2e/marked"])
def test_a_path_with_two_readings_is_refused(served: tuple[str, int], target: str) -> None:
    status, body = _ask(served[1], "GET", target)
    if served[0] == "wsgiref" and "%2F" in target:
        assert json.loads(body)["path"] == "/free/x"  # nobody tells that the slash was encoded
    elif target == "//marked":
        # Both servers take one of the slashes off, and route and tell the rest.
        assert json.loads(body)["path"] == "/marked"
        assert json.loads(body)["ssn"].startswith("sm1.")
    else:
        assert (status, json.loads(body)["code"]) == (400, "path_ambiguous")
