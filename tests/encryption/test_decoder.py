"""examples/open_token.mjs, the decoder in another language: it opens and refuses what we open and refuse."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest
from certificates.shapes import key_of, make
from cryptography.fernet import Fernet
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from encryption.jose import to_ec, to_rsa
from encryption.rings import KEK, manager_of, started

from secmiddleware.encryption.jwe import FieldJwe
from secmiddleware.encryption.jwe_keys import load_opening_keys
from secmiddleware.encryption.keyring import Context
from secmiddleware.encryption.manager import utc_now
from secmiddleware.errors import TokenError
from secmiddleware.rotation.stores import FileStore

ROOT = Path(__file__).parents[2]
DECODER = ROOT / "examples" / "open_token.mjs"
VECTORS = ROOT / "tests" / "vectors" / "tokens" / "tokens.json"
NODE = shutil.which("node")
PATIENCE = 30.0  # seconds, for a start that takes a twentieth of one

pytestmark = pytest.mark.skipif(NODE is None, reason="needs Node, which is not on this machine")


def node(*arguments: object, told: str = "") -> subprocess.CompletedProcess[str]:
    assert NODE is not None
    words = [NODE, *map(str, arguments)]
    return subprocess.run(words, input=told, capture_output=True, text=True, timeout=PATIENCE, check=False)


@pytest.fixture(scope="module")
def vector_outcomes():
    done = node(Path(__file__).with_name("open_vectors.mjs"), DECODER, VECTORS)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def vectors():
    return json.loads(VECTORS.read_text(encoding="utf-8"))


def test_it_opens_every_token_of_the_vectors(vector_outcomes, vectors):
    assert vector_outcomes["tokens"] == [{"value": case["value"]} for case in vectors["tokens"]]
    assert {case["format"] for case in vectors["tokens"]} == {
        "aead",
        "xaes",
        "deterministic",
        "fernet",
        "jwe",
    }
    assert vector_outcomes["listed"] == [{"value": case["value"]} for case in vectors["listed"]["tokens"]]


def test_it_refuses_what_is_near_a_token_and_tells_an_unknown_key_apart(vector_outcomes, vectors):
    assert vector_outcomes["refused"] == [{"error": case["error"]} for case in vectors["refused"]]
    assert vector_outcomes["listed_refused"] == [{"error": "refused"}] * len(vectors["listed"]["refused"])


def test_it_takes_no_changed_document(vector_outcomes, vectors):
    assert vector_outcomes["documents"] == [{"error": "refused"}] * len(vectors["refused_documents"])


@pytest.fixture
def ring(tmp_path):
    """A ring in a file, of two keys, and its key-encryption key in another."""
    manager = started(lambda **_: manager_of(FileStore(tmp_path / "ring.json"), utc_now))
    (tmp_path / "kek").write_bytes(KEK)
    return manager, tmp_path / "ring.json", tmp_path / "kek"


def test_it_opens_what_was_sealed_just_now_with_a_ring_in_a_file(ring, tmp_path):
    manager, document, kek = ring
    key = Fernet.generate_key()
    (tmp_path / "fernet").write_bytes(key)
    values = ['"ü"', "1.10", json.dumps("x" * 5000), "[]", '"' + "y" * 14 + '"']
    bound = {"tenant": "spiffe://example.org", "caller": "spiffe://example.org/shop"}
    sealed = [
        manager.seal("ssn", value.encode(), **bound, format=form)
        for value in values
        for form in ("aead", "xaes", "deterministic", "jwe")
    ]
    manager.rotate()
    options = ("--tenant", bound["tenant"], "--caller", bound["caller"])
    done = node(DECODER, document, kek, "ssn", *options, told="\n".join(sealed))
    assert done.stderr == ""
    assert done.stdout.splitlines() == [value for value in values for _ in range(4)]
    unbound = [manager.seal("ssn", b"1"), Fernet(key).encrypt(b"2").decode()]
    unbound.append(manager.seal("ssn", b"3", format="fernet"))
    done = node(DECODER, document, kek, "ssn", "--fernet-key", tmp_path / "fernet", told="\n".join(unbound))
    assert (done.stdout, done.stderr) == ("1\n2\n3\n", "")


@pytest.mark.parametrize("kind", ["rsa2048", "p256", "p384", "p521"])
def test_it_opens_what_was_sealed_to_a_private_key_and_with_no_other(tmp_path, kind):
    made = make("caller", key=key_of(kind, 5))
    for name, private in (("key", made.key), ("other", key_of(kind, 6))):
        pem = private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        (tmp_path / name).write_bytes(pem)
    field = FieldJwe(("RSA-OAEP-256", "ECDH-ES+A256KW"), "caller")
    context = Context("ssn", tenant="spiffe://example.org", caller="größe", format="jwe")
    values = ['"ü"', "1.10", json.dumps("x" * 5000), ""]
    tokens = [field.seal(value.encode(), context, "payments", made.der).decode() for value in values]
    bound = ("--tenant", context.tenant, "--caller", context.caller)

    def opened(key, ring, name, *options):
        return node(DECODER, "--key", tmp_path / key, ring, name, *options, told="\n".join(tokens))

    assert opened("key", "payments", "ssn", *bound).stdout == "\n".join(values) + "\n"
    for arguments in (
        ("other", "payments", "ssn", *bound),
        ("key", "invoices", "ssn", *bound),
        ("key", "payments", "iban", *bound),
        ("key", "payments", "ssn"),
    ):
        done = opened(*arguments)
        assert (done.returncode, done.stdout, done.stderr) == (1, "", "it does not open here\n")


def test_it_opens_what_is_for_somebody_of_a_very_long_name(ring):
    manager, document, kek = ring
    tenant = "spiffe://" + "a" * 2000
    tokens = [manager.seal("ssn", b"1", tenant=tenant, format=form) for form in ("aead", "deterministic")]
    done = node(DECODER, document, kek, "ssn", "--tenant", tenant, told="\n".join(tokens))
    assert (done.stdout, done.stderr) == ("1\n1\n", "")


@pytest.fixture
def outcomes(tmp_path):
    """What we make of a token that was sealed to a key by a stranger, and what the decoder does."""

    def found(token, private):
        key = tmp_path / "key"
        key.write_bytes(private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        key.chmod(0o600)
        opening = load_opening_keys(key, "")[0]
        done = node(DECODER, "--key", key, "payments", "ssn", told=token.decode())
        try:
            ours = FieldJwe((opening.algorithm,), None, (opening,))
            value = ours.open(token, Context("ssn", format="jwe"), "payments")
        except TokenError:
            value = b""
        return value, done.stdout.encode().rstrip(b"\n"), done.stderr

    return found


FOR_SSN = {"enc": "A256GCM", "secmw.ring": "payments", "secmw.field": "ssn", "secmw.purpose": "field"}
REFUSED = (b"", b"", "it does not open here\n")


@pytest.mark.parametrize(
    "odd",
    [{"kid": 7}, {"kid": None}, {"x": "y" * 12_300}, {"apu": None}, {"apu": "!"}, {"apv": 1}],
    ids=["kid", "null", "long", "apu", "no base64url", "apv"],
)
def test_it_refuses_the_headers_of_strangers_that_we_refuse(outcomes, odd):
    private, header = key_of("p256", 5), {"alg": "ECDH-ES+A256KW", **FOR_SSN}
    assert outcomes(to_ec(header, private.public_key(), b"1"), private) == (b"1", b"1", "")
    assert outcomes(to_ec(header, private.public_key(), b"1", **odd), private) == REFUSED


def test_it_refuses_a_header_that_is_not_utf_8_as_we_do(outcomes):
    private = key_of("rsa2048", 5)
    header = json.dumps({"alg": "RSA-OAEP-256", **FOR_SSN, "x": "?"}).encode()
    assert outcomes(to_rsa(header, private.public_key(), b"1"), private) == (b"1", b"1", "")
    assert outcomes(to_rsa(header.replace(b"?", b"\xff"), private.public_key(), b"1"), private) == REFUSED


def test_it_says_no_more_than_we_do_of_what_does_not_open(ring):
    manager, document, kek = ring
    token = manager.seal("ssn", b"1", tenant="a")
    for arguments in (("ssn",), ("iban", "--tenant", "a"), ("ssn", "--tenant", "b")):
        done = node(DECODER, document, kek, *arguments, told=token)
        assert (done.returncode, done.stdout, done.stderr) == (1, "", "it does not open here\n")
    strange = token[:6] + ("A" if token[6] != "A" else "B") + token[7:]
    done = node(DECODER, document, kek, "ssn", told=strange)
    assert (done.returncode, done.stderr) == (1, "the ring has no such key\n")
