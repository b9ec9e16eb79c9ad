"""The issuer of access tokens changes its keys, and the file of them changes under running requests."""

from __future__ import annotations

import logging
import ssl
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from identity.issuing import AUDIENCE, ISSUER, Issuer

from secmiddleware.certificates.contexts import client_context
from secmiddleware.security import SecurityManager
from servers.pki import Pki
from servers.serving import PATIENCE, Connection, answer_lifespan, ask, protected, reply, serving, until


async def app(scope: Any, receive: Any, send: Any) -> None:
    await (answer_lifespan(receive, send) if scope["type"] == "lifespan" else reply(send, b"{}"))


class Caller:
    """Somebody with a certificate, and tokens that are bound to it."""

    def __init__(self, pki: Pki) -> None:
        issued = pki.trusted.issue_client(spiffe_id=pki.spiffe("bound"))
        files = pki.fresh("bound", issued)
        self.context: ssl.SSLContext = client_context(pki.ca, *files)
        leaf = x509.load_pem_x509_certificate(issued.certificate_pem)
        self.der = leaf.public_bytes(Encoding.DER)

    def token(self, issuer: Issuer, by: str) -> str:
        return issuer.sign(issuer.claims(datetime.now(UTC).timestamp(), self.der), by)


def bearing(token: str) -> list[tuple[str, str]]:
    return [("authorization", f"Bearer {token}")]


class Published:
    """The file that the issuer's keys are fetched into, and the service that reads it; it has no [keys]."""

    def __init__(self, pki: Pki, folder: Path) -> None:
        self.issuer = Issuer("es", "ed")
        self.file = folder / "jwks.json"
        self.issuer.write_jwks(self.file, "es")
        self.settings = pki.settings(
            tokens={"jwks": str(self.file), "issuer": ISSUER, "audience": AUDIENCE},
            routes=[{"path": "/**", "require_bound_token": True}],
            rotation={"poll": "20ms"},
        )
        self.manager = SecurityManager.from_config(self.settings, {})

    def publish(self, *names: str) -> None:
        """At one stroke, as one should."""
        new = self.file.with_suffix(".new")
        self.issuer.write_jwks(new, *names)
        new.rename(self.file)

    @property
    def trouble(self) -> str | None:
        return self.manager.status()["tokens"]["trouble"]


@pytest.fixture
def published(pki: Pki, tmp_path: Path) -> Published:
    return Published(pki, tmp_path)


@pytest.fixture
def caller(pki: Pki) -> Caller:
    return Caller(pki)


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_a_new_key_is_good_and_an_old_one_is_not_while_requests_go_on(
    published: Published, caller: Caller, pki: Pki, loop: str
) -> None:
    old, new = (bearing(caller.token(published.issuer, by)) for by in ("es", "ed"))
    with (
        serving(protected(app, published.manager), pki, loop=loop) as port,
        Connection(port, caller.context) as kept,
    ):
        assert [kept.ask(headers=token).code for token in (old, new)] == [None, "token_invalid"]
        published.publish("es", "ed")
        until(lambda: kept.ask(headers=new).status == 200, "the new key is good")
        assert kept.ask(headers=old).status == 200, "and the old one still is"
        published.publish("ed")
        # It was verified before, and is remembered no more.
        until(lambda: kept.ask(headers=old).code == "token_invalid", "the old key is no more")
        assert kept.ask(headers=new).status == 200
        assert ask(port, caller.context, headers=old).code == "token_invalid"


SECRET = b"c2VjcmV0LXRoYXQtbm9ib2R5LXNlZXM"


BAD: dict[str, Callable[[bytes], bytes]] = {
    "half a file": lambda good: good[: len(good) // 2],
    "nothing": lambda _: b"",
    "no key": lambda _: b'{"keys": []}',
    "a secret": lambda _: b'{"keys": [{"kty": "oct", "k": "%s"}]}' % SECRET,
    "a private key": lambda good: good.replace(b'"kty"', b'"d": "%s", "kty"' % SECRET),
    "two keys of one name": lambda good: good.replace(b"]", b", " + good[good.index(b"[") + 1 :]),
}


@pytest.mark.parametrize("bad", BAD)
def test_a_bad_file_leaves_the_keys_that_were_good_and_is_told_once(
    published: Published, caller: Caller, pki: Pki, bad: str, caplog: pytest.LogCaptureFixture
) -> None:
    token = bearing(caller.token(published.issuer, "es"))
    good = published.file.read_bytes()
    with (
        serving(protected(app, published.manager), pki) as port,
        Connection(port, caller.context) as kept,
        caplog.at_level(logging.ERROR, "secmiddleware"),
    ):
        published.file.write_bytes(BAD[bad](good))
        until(lambda: published.trouble, "it is told")
        for _ in range(3):
            assert kept.ask(headers=token).status == 200
            assert ask(port, caller.context, headers=token).status == 200
            time.sleep(0.03)
        told = [record.getMessage() for record in caplog.records if "keys of tokens" in record.getMessage()]
        assert len(told) == 1, told
        assert str(published.file) in told[0]
        assert SECRET.decode() not in caplog.text + str(published.manager.status())
        published.publish("es", "ed")
        until(lambda: published.trouble is None, "it is mended")
        assert kept.ask(headers=bearing(caller.token(published.issuer, "ed"))).status == 200


def test_keys_that_are_good_for_nothing_that_is_accepted_are_not_taken(
    published: Published, caller: Caller, pki: Pki
) -> None:
    token = bearing(caller.token(published.issuer, "es"))
    with serving(protected(app, published.manager), pki) as port:
        Issuer("es512").write_jwks(published.file)
        until(lambda: published.trouble, "it is told")
        assert str(published.trouble).startswith("tokens.algorithms: are none that a key of")
        assert ask(port, caller.context, headers=token).status == 200


def test_a_file_that_is_gone_is_told_and_taken_when_it_is_back(
    published: Published, caller: Caller, pki: Pki
) -> None:
    token = bearing(caller.token(published.issuer, "es"))
    with serving(protected(app, published.manager), pki) as port:
        published.file.unlink()
        until(lambda: published.trouble, "it is told")
        assert f"there is no file {published.file}" in str(published.trouble)
        assert ask(port, caller.context, headers=token).status == 200
        published.publish("ed")
        until(lambda: ask(port, caller.context, headers=token).code == "token_invalid", "it is taken")


def test_no_request_fails_while_the_file_changes_all_the_time(
    published: Published, caller: Caller, pki: Pki
) -> None:
    token = bearing(caller.token(published.issuer, "es"))
    wrong: list[Any] = []
    enough = threading.Event()

    def ask_on(port: int) -> None:
        try:
            with Connection(port, caller.context) as kept:
                while not enough.is_set():
                    response = kept.ask(headers=token)
                    if response.status != 200:
                        wrong.append(response)
        except Exception as error:  # noqa: BLE001  (whatever it is, it is what is looked for)
            wrong.append(error)

    with serving(protected(app, published.manager), pki) as port:
        threads = [threading.Thread(target=ask_on, args=(port,)) for _ in range(3)]
        for thread in threads:
            thread.start()
        for turn in range(40):
            published.publish(*["es", "ed"][: 1 + turn % 2])
            time.sleep(0.025)
        enough.set()
        for thread in threads:
            thread.join(PATIENCE)
    assert wrong == []


def test_without_a_key_ring_the_file_is_watched_and_a_request_goes_on_with_what_it_had(
    published: Published,
) -> None:
    with published.manager as manager:
        assert manager.encryption is None
        before = manager.snapshot
        assert manager.snapshot is before
        published.publish("ed")
        until(lambda: manager.snapshot.tokens is not before.tokens, "another judge")
        assert before.tokens is not None
        assert manager.snapshot.trust is before.trust
