"""Keys of JWEs in files change under running requests: ours to open with, a partner's to seal to."""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from certificates.shapes import key_of
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from encryption.jose import opened, to_ec

from secmiddleware.encryption.jwe_keys import load_opening_keys
from secmiddleware.engine import Admission
from secmiddleware.files import write_secret
from secmiddleware.messages import RequestHead
from secmiddleware.security import SecurityManager
from servers.pki import Pki
from servers.serving import PATIENCE, Connection, answer_lifespan, protected, reply, serving, until

SECRET = b'"4111 1111 1111 1111"'
OLD, NEW = key_of("p256", 41), key_of("p256", 42)
THEIRS, THEIRS_NEW = key_of("p256", 43), key_of("p256", 44)
SENT = [("content-type", "application/json")]
FOR_CARDS = {"secmw.ring": "cards", "secmw.field": "card", "secmw.purpose": "field"}


def pem(*private: Any) -> bytes:
    form = (Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return b"".join(key.private_bytes(*form) for key in private)


def public_pem(private: Any) -> bytes:
    written: bytes = private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    return written


async def app(scope: Any, receive: Any, send: Any) -> None:
    """Says whether it was sent the card in plain, and tells it to the partner."""
    if scope["type"] == "lifespan":
        await answer_lifespan(receive, send)
        return
    seen = json.loads((await receive())["body"])["card"] == json.loads(SECRET)
    await reply(send, b'{"seen":%s,"told":%s}' % (json.dumps(seen).encode(), SECRET))


class Service:
    """What opens cards with a key of ours, and seals them to a partner; both keys stand in files."""

    def __init__(self, pki: Pki, folder: Path) -> None:
        self.folder = folder
        self.ours, self.theirs = folder / "open.key", folder / "partner.pem"
        write_secret(folder / "kek", bytes(range(32)))
        write_secret(self.ours, pem(OLD))
        self.theirs.write_bytes(public_pem(THEIRS))
        jwe = {"alg": "ECDH-ES+A256KW"}
        self.settings = pki.settings(
            keys={"ring": "cards", "store": f"file:{folder}/ring.json", "kek": f"file:{folder}/kek"},
            rotation={"poll": "20ms"},
            routes=[{"path": "/open", "client": "off"}],
            fields={
                "card": {
                    "format": "jwe",
                    "jwe": {**jwe, "keys": [str(self.ours)]},
                    "places": [{"routes": ["/*"], "marks": ["$.card"], "request": "decrypt"}],
                },
                "told": {
                    "format": "jwe",
                    "leak_guard": False,
                    "jwe": {**jwe, "recipient": f"file:{self.theirs}"},
                    "places": [{"routes": ["/card"], "marks": ["$.told"], "response": "encrypt"}],
                },
            },
        )
        # The app tells what it was sent, on purpose: the guard of the one field would say so.
        self.settings["fields"]["card"]["leak_guard"] = False
        self.manager = SecurityManager.from_config(self.settings, {})

    def put(self, file: Path, data: bytes, mode: int = 0o600) -> None:
        """At one stroke, as one should."""
        new = file.with_suffix(".new")
        new.write_bytes(data)
        new.chmod(mode)
        new.rename(file)

    def kid(self, private: Any) -> str:
        path = self.folder / "kid"
        self.put(path, pem(private))
        return load_opening_keys(path, "")[0].kid

    def body(self, private: Any) -> bytes:
        """A card that is sealed to this key of ours."""
        header = {"alg": "ECDH-ES+A256KW", "enc": "A256GCM", "kid": self.kid(private), **FOR_CARDS}
        return json.dumps({"card": to_ec(header, private.public_key(), SECRET).decode()}).encode()

    @property
    def trouble(self) -> str | None:
        told: str | None = self.manager.status()["jwes"]["trouble"]
        return told


@pytest.fixture
def service(pki: Pki, tmp_path: Path) -> Service:
    return Service(pki, tmp_path)


def post(kept: Connection, body: bytes) -> Any:
    return kept.ask("/card", method="POST", headers=SENT, body=body)


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_a_new_key_opens_and_one_that_is_gone_does_not_while_requests_go_on(
    service: Service, pki: Pki, loop: str
) -> None:
    old, new = service.body(OLD), service.body(NEW)
    with (
        serving(protected(app, service.manager), pki, loop=loop) as port,
        Connection(port, pki.client("shop/web")) as kept,
    ):
        assert [post(kept, body).code for body in (old, new)] == [None, "field_undecryptable"]
        service.put(service.ours, pem(NEW, OLD))
        until(lambda: post(kept, new).status == 200, "the new key opens")
        answer = post(kept, old)
        assert (answer.status, answer.json["seen"]) == (200, True), "and so does the old one"
        service.put(service.ours, pem(NEW))
        until(lambda: post(kept, old).code == "field_undecryptable", "the old key is gone")
        assert post(kept, new).status == 200


def test_what_is_sealed_to_a_pinned_recipient_follows_its_file(service: Service, pki: Pki) -> None:
    body = service.body(OLD)
    with (
        serving(protected(app, service.manager), pki) as port,
        Connection(port, pki.client("shop/web")) as kept,
    ):
        assert opened(post(kept, body).json["told"], THEIRS) == SECRET
        before = service.manager.snapshot
        service.put(service.theirs, public_pem(THEIRS_NEW), 0o644)
        until(lambda: service.manager.snapshot is not before, "another snapshot")
        assert opened(post(kept, body).json["told"], THEIRS_NEW) == SECRET
        assert service.manager.snapshot.places is before.places


def only_one_of_two(service: Service) -> None:
    service.theirs.write_bytes(b"-----BEGIN")
    service.put(service.ours, pem(NEW))


OURS, TOLD = "fields.card.jwe.keys[0]", "fields.told.jwe.recipient"
BAD: dict[str, tuple[str, Callable[[Service], object]]] = {
    "half a file": (OURS, lambda service: service.ours.write_bytes(pem(NEW)[:120])),
    "half of a second key": (OURS, lambda service: service.ours.write_bytes(pem(NEW, OLD)[:-40])),
    "nothing": (OURS, lambda service: service.ours.write_bytes(b"")),
    "a key of another alg": (OURS, lambda service: service.ours.write_bytes(pem(key_of("rsa2048")))),
    "a key that others may read": (OURS, lambda service: service.put(service.ours, pem(NEW), 0o644)),
    "gone": (OURS, lambda service: service.ours.unlink()),
    "the wrong half": (TOLD, lambda service: service.theirs.write_bytes(pem(THEIRS_NEW))),
    # The good new key beside it waits, too: it is all of them or none.
    "one of two": (TOLD, only_one_of_two),
}


@pytest.mark.parametrize("bad", BAD)
def test_a_bad_file_leaves_the_keys_that_were_good_and_is_told_once(
    service: Service, pki: Pki, bad: str, caplog: pytest.LogCaptureFixture
) -> None:
    body = service.body(OLD)
    with (
        serving(protected(app, service.manager), pki) as port,
        Connection(port, pki.client("shop/web")) as kept,
        caplog.at_level(logging.ERROR, "secmiddleware"),
    ):
        key, spoil = BAD[bad]
        spoil(service)
        until(lambda: service.trouble, "it is told")
        assert key in str(service.trouble)
        time.sleep(0.1)
        for _ in range(3):
            assert opened(post(kept, body).json["told"], THEIRS) == SECRET
        told = [record.getMessage() for record in caplog.records if "keys of JWEs" in record.getMessage()]
        assert told[-1].startswith("changed keys of JWEs are not used, the last good ones stay: " + key)
        assert len(told) == len(set(told)) <= 2, told
        assert "BEGIN" not in caplog.text
        service.put(service.ours, pem(NEW, OLD))
        service.put(service.theirs, public_pem(THEIRS_NEW))
        told_to = ("kid", service.kid(THEIRS_NEW))
        until(lambda: service.manager.snapshot.jwes["told"].recipient.named == told_to, "it is mended")
        assert service.trouble is None
        assert post(kept, service.body(NEW)).status == 200
        assert opened(post(kept, body).json["told"], THEIRS_NEW) == SECRET


def test_no_request_fails_while_the_files_change_all_the_time(service: Service, pki: Pki) -> None:
    body = service.body(OLD)
    wrong: list[Any] = []
    enough = threading.Event()

    def ask_on(port: int) -> None:
        try:
            with Connection(port, pki.client("shop/web")) as kept:
                while not enough.is_set():
                    answer = post(kept, body)
                    if answer.status != 200 or b"4111" in answer.body:
                        wrong.append(answer)
        except Exception as error:  # noqa: BLE001  (whatever it is, it is what is looked for)
            wrong.append(error)

    with serving(protected(app, service.manager), pki) as port:
        threads = [threading.Thread(target=ask_on, args=(port,)) for _ in range(3)]
        for thread in threads:
            thread.start()
        for turn in range(40):
            service.put(service.ours, pem(*[(OLD,), (NEW, OLD)][turn % 2]))
            service.put(service.theirs, public_pem([THEIRS, THEIRS_NEW][turn % 2]))
            time.sleep(0.025)
        enough.set()
        for thread in threads:
            thread.join(PATIENCE)
    assert wrong == []


def test_an_exchange_keeps_the_keys_that_it_began_with_and_each_record_of_a_stream_takes_the_new_ones(
    service: Service,
) -> None:
    with service.manager as manager:
        before = manager.snapshot
        assert manager.snapshot is before
        verdict = manager.admit(RequestHead("http", "POST", "https", "/open", b"/open"))
        assert isinstance(verdict, Admission)
        service.put(service.ours, pem(NEW))
        until(lambda: manager.snapshot.jwes is not before.jwes, "other keys")
        assert (manager.snapshot.keyring, manager.snapshot.trust) == (before.keyring, before.trust)
        assert [key.kid for key in verdict.exchange.jwes["card"].keys] == [service.kid(OLD)]
        verdict.exchange.renew()
        assert [key.kid for key in verdict.exchange.jwes["card"].keys] == [service.kid(NEW)]
