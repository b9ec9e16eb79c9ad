"""Another process rotates the keys of a service that is being asked all the time: nobody notices."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from secmiddleware.files import make_private_folder, write_secret
from secmiddleware.security import SecurityManager
from servers.pki import Pki
from servers.processes import SOURCE, running
from servers.serving import (
    PATIENCE,
    Connection,
    Response,
    answer_lifespan,
    protected,
    reply,
    serving,
    until,
)

SSN = b'"078-05-1120"'
JSON = [("content-type", "application/json")]

SETTINGS = """
[service]
name = "rotating"
[mtls]
trust = ["{pki.ca}"]
certificate = "{pki.certificate}"
key = "{pki.key}"
[keys]
ring = "rotating"
store = "file:state/ring.json"
kek = "file:kek"
activation_delay = "900ms"
[rotation]
poll = "100ms"
[fields.ssn]
[[fields.ssn.places]]
routes = ["/people"]
marks = ["$.ssn"]
request = "decrypt"
response = "encrypt"
"""

ROTATE = """
import sys
from secmiddleware.parts import encryption_of
from secmiddleware.settings.loading import load
manager = encryption_of(load(sys.argv[1], {}).keys)
manager.start()
print(manager.rotate())
"""


@pytest.fixture
def config(tmp_path: Path, pki: Pki) -> Path:
    make_private_folder(tmp_path / "state")
    write_secret(tmp_path / "kek", os.urandom(32))
    config = tmp_path / "secmiddleware.toml"
    config.write_text(SETTINGS.format(pki=pki))
    return config


@pytest.fixture
def manager(config: Path) -> SecurityManager:
    return SecurityManager.from_config(config, {})


def rotate_elsewhere(config: Path) -> str:
    """The id of the new key that another process has published."""
    command = [sys.executable, "-c", ROTATE, str(config)]
    environ = {**os.environ, "PYTHONPATH": str(SOURCE)}
    done = subprocess.run(command, env=environ, capture_output=True, text=True, check=False, timeout=PATIENCE)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def kid_of(token: str) -> str:
    """docs/token-format.md: suite, then four bytes of key id."""
    data = token.removeprefix("sm1.")
    return base64.urlsafe_b64decode(data + "=" * (-len(data) % 4))[1:5].hex()


async def register(scope: Any, receive: Any, send: Any) -> None:
    """Gives back what it was given, if that is what it should be."""
    if scope["type"] == "lifespan":
        await answer_lifespan(receive, send)
        return
    body = (await receive())["body"]
    good = body == b'{"ssn": %s}' % SSN
    await reply(send, body if good else b'{"wrong": true}')


@dataclass
class Callers:
    """Clients that ask without a pause, each with the token that it began with and the last one it got."""

    tokens: list[str]
    answered: int = 0
    failures: list[Response | Exception] = field(default_factory=list)
    kids: set[str] = field(default_factory=set)
    latest: str = ""

    @contextmanager
    def asking(self, port: int, pki: Pki, number: int = 3) -> Iterator[None]:
        enough = threading.Event()
        contexts = [pki.client(f"rotating/{index}") for index in range(number)]
        threads = [threading.Thread(target=self._ask, args=(port, context, enough)) for context in contexts]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            enough.set()
            for thread in threads:
                thread.join(PATIENCE)

    def _ask(self, port: int, context: Any, enough: threading.Event) -> None:
        try:
            with Connection(port, context) as connection:
                mine = self.tokens[0]
                while not enough.is_set():
                    for token in (*self.tokens, mine):
                        body = json.dumps({"ssn": token}).encode()
                        response = connection.ask("/people", method="POST", headers=JSON, body=body)
                        if response.status != 200 or "ssn" not in response.json:
                            self.failures.append(response)
                            return
                        mine = self.latest = response.json["ssn"]
                        self.kids.add(kid_of(mine))
                        self.answered += 1
        except Exception as error:  # noqa: BLE001  (whatever it is, it is what is looked for)
            self.failures.append(error)

    def until(self, holds: Callable[[], Any], what: str) -> None:
        until(lambda: self.failures or holds(), what)
        assert self.failures == []

    def go_on(self) -> None:
        """A good many more requests are answered."""
        goal = self.answered + 30
        self.until(lambda: self.answered >= goal, "requests are answered")


def test_a_key_that_another_process_publishes_is_taken_up_and_no_request_fails(
    config: Path, manager: SecurityManager, pki: Pki
) -> None:
    with serving(protected(register, manager), pki, loop="uvloop") as port:
        assert manager.encryption is not None
        first = manager.encryption.status()["keys"][0]["kid"]
        old = manager.encryption.seal("ssn", SSN)
        assert kid_of(old) == first
        callers = Callers([old])
        with callers.asking(port, pki):
            callers.go_on()
            assert callers.kids == {first}
            second = rotate_elsewhere(config)
            callers.until(lambda: second in callers.kids, "new tokens carry the new key")
            callers.go_on()
        assert callers.failures == []
        # The callers went on to send the old token, and whatever they had got last.
        assert callers.kids == {first, second}
        states = {key["kid"]: key["state"].upper() for key in manager.encryption.status()["keys"]}
        assert states == {first: "DECRYPT_ONLY", second: "PRIMARY"}
        assert manager.encryption.open("ssn", old) == SSN
        assert kid_of(callers.latest) == second


def test_a_ring_that_is_broken_while_it_serves_leaves_the_last_good_one_in_force(
    config: Path, manager: SecurityManager, pki: Pki
) -> None:
    ring = config.parent / "state" / "ring.json"
    with serving(protected(register, manager), pki) as port:
        assert manager.encryption is not None
        old = manager.encryption.seal("ssn", SSN)
        gen = manager.encryption.status()["gen"]
        good = ring.read_bytes()
        alarms = lambda: manager.encryption.status()["alarms"]  # noqa: E731  (asked again and again)
        callers = Callers([old])
        with callers.asking(port, pki):
            for broken in (b"", good[:-20], b"\xff" * 100):
                ring.write_bytes(broken)
                callers.until(alarms, f"an alarm for {broken[:20]!r}")
                callers.go_on()
                ring.write_bytes(good)
                callers.until(lambda: not alarms(), "it is well again")
            ring.write_bytes(good.replace(b'"gen":1', b'"gen":2'))
            callers.until(alarms, "an alarm for a forged generation")
            callers.go_on()
            # The store has seen it; that the older one shall be taken all the same is for an operator to say.
            (ring.parent / "ring.json.floor").unlink()
            ring.write_bytes(good)
            callers.until(lambda: not alarms(), "it is well again")
            ring.unlink()
            callers.until(alarms, "an alarm for a ring that is gone")
            callers.go_on()
            write_secret(ring, good)
            callers.until(lambda: not alarms(), "it is well again")
        assert callers.failures == []
        assert callers.kids == {kid_of(old)}
        assert manager.encryption.status()["gen"] == gen


TWO_WORKERS = """
import json, os
async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        raise NotImplementedError
    body = (await receive())["body"]
    headers = [(b"content-type", b"application/json"), (b"x-pid", b"%d" % os.getpid())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})
"""


def test_every_worker_takes_up_the_key_of_another_process(config: Path, pki: Pki) -> None:
    folder = config.parent
    (folder / "shop.py").write_text(TWO_WORKERS)
    with SecurityManager.from_config(config, {}) as here, running(folder, pki, workers=2) as (_, port):
        assert here.encryption is not None
        old = here.encryption.seal("ssn", SSN)
        body = json.dumps({"ssn": old}).encode()

        def kids_by_worker() -> dict[str, str]:
            found = {}
            with ExitStack() as stack:
                connections = [
                    stack.enter_context(Connection(port, pki.client(f"rotating/{index}")))
                    for index in range(4)
                ]
                for connection in connections:
                    response = connection.ask("/people", method="POST", headers=JSON, body=body)
                    assert response.status == 200, response
                    found[dict(response.headers)["x-pid"]] = kid_of(response.json["ssn"])
            return found

        before: dict[str, str] = {}
        until(lambda: before.update(kids_by_worker()) or len(before) == 2, "both workers serve")
        assert set(before.values()) == {kid_of(old)}
        new = here.encryption.rotate()
        after: dict[str, str] = {}
        until(
            lambda: after.update(kids_by_worker()) or list(after.values()) == [new] * 2, "both seal with it"
        )
        assert after.keys() == before.keys()
