"""A field sealed to the certificate of whoever calls, over real TLS: that client reads it and nobody else."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from certificates.shapes import USAGES, key_of
from cryptography import x509
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.keywrap import InvalidUnwrap
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.hazmat.primitives.serialization import load_pem_private_key as load_key
from encryption.jose import header_of, opened, to_ec

from secmiddleware.certificates.contexts import client_context
from secmiddleware.encryption.jwe_keys import load_opening_keys
from secmiddleware.files import write_secret
from servers.pki import Pki
from servers.serving import HTTP, answer_lifespan, ask, protected, reply, serving

SECRET = '"4111 1111 1111 1111"'
TO_CALLER = {"alg": ["ECDH-ES+A256KW", "RSA-OAEP-256"], "recipient": "caller"}


async def app(scope: Any, receive: Any, send: Any) -> None:
    """Tells the card of whoever asks, or what card it was sent."""
    if scope["type"] == "lifespan":
        await answer_lifespan(receive, send)
    elif scope["method"] == "POST":
        body = (await receive())["body"]
        await reply(send, json.dumps({"seen": json.loads(body)["card"] == json.loads(SECRET)}).encode())
    else:
        await reply(send, b'{"card":%s,"n":1.10}' % SECRET.encode())


@pytest.fixture(scope="module")
def signing_only(pki: Pki) -> Any:
    """The context of a client of the trusted authority whose key is for signatures alone."""
    issued = pki.trusted.issue_client(spiffe_id=pki.spiffe("shop/signs"))
    leaf = x509.load_pem_x509_certificate(issued.certificate_pem)
    ca_key = pki.trusted._key
    builder = (
        x509.CertificateBuilder(leaf.issuer, leaf.subject, leaf.public_key(), x509.random_serial_number())
        .not_valid_before(leaf.not_valid_before_utc)
        .not_valid_after(leaf.not_valid_after_utc)
    )
    for extension in leaf.extensions:
        value = extension.value
        if isinstance(value, x509.KeyUsage):
            value = x509.KeyUsage(**{name: name == "digital_signature" for name in USAGES})
        builder = builder.add_extension(value, extension.critical)
    made = builder.sign(ca_key, leaf.signature_hash_algorithm)
    certificate, key = pki.folder / "signs.pem", pki.folder / "signs.key"
    certificate.write_bytes(made.public_bytes(Encoding.PEM))
    write_secret(key, issued.key_pem)
    return client_context(pki.ca, certificate, key)


def private_key(pki: Pki, name: str) -> Any:
    pki.client(name)
    return load_key((pki.folder / f"{name.replace('/', '-')}.key").read_bytes(), None)


@pytest.fixture(scope="module", params=HTTP)
def served(request: pytest.FixtureRequest, pki: Pki, tmp_path_factory: Any) -> Iterator[Any]:
    folder: Path = tmp_path_factory.mktemp("jwe")
    write_secret(folder / "kek", bytes(range(32)))
    ours = key_of("p256", 40)
    write_secret(folder / "open.key", ours.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    place = {"routes": ["/card"], "marks": ["$.card"]}
    settings = pki.settings(
        keys={"ring": "cards", "store": f"file:{folder}/ring.json", "kek": f"file:{folder}/kek"},
        fields={
            "card": {
                "format": "jwe",
                "jwe": {**TO_CALLER, "keys": [str(folder / "open.key")]},
                "places": [{**place, "request": "decrypt", "response": "encrypt"}],
            }
        },
    )
    with serving(protected(app, settings), pki, http=request.param) as port:
        kid = load_opening_keys(folder / "open.key", "")[0].kid
        yield SimpleNamespace(port=port, public=ours.public_key(), kid=kid)


def test_only_the_client_that_called_reads_what_was_sealed_to_its_certificate(served: Any, pki: Pki) -> None:
    alice, bob = (private_key(pki, name) for name in ("shop/alice", "shop/bob"))
    answers = {name: ask(served.port, pki.client(f"shop/{name}"), "/card") for name in ("alice", "bob")}
    for answer in answers.values():
        assert answer.status == 200
        assert b"4111" not in answer.body
        assert b',"n":1.10}' in answer.body
        assert ("cache-control", "private, no-store") in answer.headers
    tokens = {name: answer.json["card"] for name, answer in answers.items()}
    assert opened(tokens["alice"], alice).decode() == SECRET
    assert opened(tokens["bob"], bob).decode() == SECRET
    with pytest.raises((InvalidTag, InvalidUnwrap)):
        opened(tokens["alice"], bob)
    told = header_of(tokens["alice"])
    assert (told["secmw.field"], told["secmw.ring"], told["alg"]) == ("card", "cards", "ECDH-ES+A256KW")
    # Nor does the server itself, to whomever the token is given.
    for name in ("alice", "bob"):
        body = json.dumps({"card": tokens["alice"]}).encode()
        again = ask(served.port, pki.client(f"shop/{name}"), "/card", method="POST", headers=SENT, body=body)
        assert (again.status, again.code) == (400, "field_undecryptable")


SENT = [("content-type", "application/json")]


def test_what_a_client_seals_to_our_key_the_app_reads(served: Any, pki: Pki) -> None:
    header = {"alg": "ECDH-ES+A256KW", "enc": "A256GCM", "kid": served.kid}
    slots = {"secmw.ring": "cards", "secmw.field": "card", "secmw.purpose": "field"}
    for told, status in (({}, 200), ({"secmw.field": "iban"}, 400)):
        token = to_ec({**header, **slots, **told}, served.public, SECRET.encode()).decode()
        body = json.dumps({"card": token}).encode()
        answer = ask(served.port, pki.client("shop/alice"), "/card", method="POST", headers=SENT, body=body)
        assert answer.status == status, answer
        assert (answer.json.get("seen"), answer.code) in ((True, None), (None, "field_undecryptable"))


def test_a_client_whose_certificate_is_for_signatures_alone_gets_nothing_of_it(
    served: Any, signing_only: Any
) -> None:
    answer = ask(served.port, signing_only, "/card")
    assert (answer.status, answer.code) == (500, "seal_failed")
    assert b"4111" not in answer.body
