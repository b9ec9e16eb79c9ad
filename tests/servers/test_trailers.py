"""Trailers over HTTP/2, from the two servers that send them: behind a body that is sealed, and elsewhere."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from secmiddleware.files import write_secret
from secmiddleware.security import SecurityManager
from servers.http2 import Http2
from servers.pki import Pki
from servers.serving import PATIENCE, Response, answer_lifespan, protected
from servers.test_judged_path import serving_by

SSN = "123-45-6789"
BODY = b'{"ssn":"%s"}' % SSN.encode()
DIGEST = ("content-digest", "sha-256=:AAAA:")


async def app(scope: Any, receive: Any, send: Any) -> None:
    """Sends the trailers that it was asked for, in JSON, behind a body that is told by its path."""
    if scope["type"] == "lifespan":
        await answer_lifespan(receive, send)
        return
    said = json.loads(dict(scope["headers"])[b"x-said"])
    body, kind = {
        b"": (BODY, b"application/json"),
        b"empty": (b"{}", b"application/json"),
        b"lines": (BODY + b"\n", b"application/x-ndjson"),
    }[scope["query_string"]]
    headers = [(b"content-type", kind)]
    await send({"type": "http.response.start", "status": 200, "headers": headers, "trailers": True})
    await send({"type": "http.response.body", "body": body})
    pairs = [(name.encode(), value.encode()) for name, value in said]
    await send({"type": "http.response.trailers", "headers": pairs, "more_trailers": False})


@dataclass
class Served:
    port: int
    pki: Pki
    manager: SecurityManager

    def ask(self, path: str, *trailers: tuple[str, str], wants: bool = True, ssn: str = "") -> Response:
        """What comes of asking the app for trailers; `ssn` is a token that is sent along."""
        more = [(b"te", b"trailers")] if wants else []
        if ssn:
            more.append((b"x-ssn", ssn.encode()))
        return asyncio.run(self._ask(path, json.dumps(trailers), more))

    async def _ask(self, path: str, said: str, more: list[tuple[bytes, bytes]]) -> Response:
        context = self.pki.client("shop/alice", http2=True)
        async with asyncio.timeout(PATIENCE), Http2(self.port, context) as http:
            return await http.ask(path, said, more=more)

    def seal(self, text: str) -> str:
        assert self.manager.encryption is not None
        return self.manager.encryption.seal("ssn", json.dumps(text).encode())

    def open(self, token: str) -> str:
        assert self.manager.encryption is not None
        text: str = json.loads(self.manager.encryption.open("ssn", token))
        return text


@pytest.fixture(scope="module", params=["hypercorn", "gunicorn"])
def served(
    request: pytest.FixtureRequest, pki: Pki, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Served]:
    folder: Path = tmp_path_factory.mktemp("trailers")
    write_secret(folder / "kek", bytes(range(32)))
    marks = ["$.ssn", "header:X-SSN"]
    place = {"routes": ["/sealed"], "marks": marks, "request": "decrypt", "response": "encrypt"}
    head = {"routes": ["/head"], "marks": marks[1:], "response": "encrypt"}
    settings = pki.settings(
        keys={"ring": "trailers", "store": f"file:{folder}/ring.json", "kek": f"file:{folder}/kek"},
        fields={"ssn": {"places": [place, {**place, "routes": ["/in"], "response": "pass"}, head]}},
    )
    with SecurityManager.from_config(settings, {}) as manager:
        wrapped = protected(app, manager)
        with serving_by(request.param, wrapped, settings, pki, "", http2=True) as port:
            yield Served(port, pki, manager)


def test_where_nothing_is_marked_trailers_pass_as_they_are(served: Served) -> None:
    trailers = (("x-sum", "1"), DIGEST, ("etag", '"v7"'), ("x-ssn", SSN))
    answer = served.ask("/elsewhere", *trailers)
    assert (answer.status, answer.body, answer.trailers) == (200, BODY, trailers)
    assert served.ask("/elsewhere", *trailers, wants=False).trailers in ((), trailers)  # gunicorn asks nobody


def test_behind_a_sealed_body_come_those_that_do_not_speak_of_another(served: Served) -> None:
    answer = served.ask("/sealed", ("x-sum", "1"), DIGEST, ("etag", '"v7"'), ("x-ssn", SSN))
    assert served.open(answer.json["ssn"]) == SSN
    sum_, (name, tag), (marked, sealed) = answer.trailers
    assert (sum_, name, marked) == (("x-sum", "1"), "etag", "x-ssn")
    assert tag.startswith('W/"sm')
    assert served.open(sealed) == SSN
    answer = served.ask("/sealed", ("x-ssn", SSN), wants=False)
    assert served.open(answer.json["ssn"]) == SSN
    assert SSN not in str(answer)


@pytest.mark.parametrize("path", ["/sealed?empty", "/in?empty"])
def test_what_was_opened_leaves_in_no_trailer_over_the_wire(served: Served, path: str) -> None:
    token = served.seal(SSN)
    answer = served.ask(path, ("x-echo", f"no such {SSN}"), ssn=token)
    assert (answer.status, answer.code, answer.trailers) == (500, "seal_failed", ())
    assert SSN not in str(answer)
    answer = served.ask(path, ("x-echo", "1"), DIGEST, ssn=token)
    digests = () if path.startswith("/sealed") else (DIGEST,)
    assert (answer.body, answer.trailers) == (b"{}", (("x-echo", "1"), *digests))


def test_a_body_whose_trailers_all_stay_behind_ends_all_the_same(served: Served) -> None:
    for trailers in ((DIGEST,), ()):
        answer = served.ask("/sealed", *trailers)
        assert (served.open(answer.json["ssn"]), answer.trailers) == (SSN, ())


def test_a_stream_whose_trailers_all_stay_behind_ends_all_the_same(served: Served) -> None:
    # The head has promised some: what servers send of none breaks the connection.
    for path, trailer in (("/sealed?lines", DIGEST), ("/head", ("x-ssn", served.seal(SSN)))):
        answer = served.ask(path, trailer)
        assert (answer.status, answer.trailers) == (200, (("server-timing", ""),))
        assert answer.json["ssn"] == SSN if path == "/head" else served.open(answer.json["ssn"]) == SSN
