"""`[fields.NAME.jwe]`: what loads and becomes keys, and every mistake with its key path and what to do."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from certificates.shapes import key_of, make, usage
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from settings.documents import KEYS, MTLS, SERVICE

from secmiddleware.encryption.jwe_keys import SealingKey
from secmiddleware.errors import ConfigError
from secmiddleware.security import SecurityManager
from secmiddleware.settings import load
from secmiddleware.settings.models import Settings

BASE = SERVICE + MTLS + KEYS
BOTH = 'request = "decrypt"\nresponse = "encrypt"\n'
SEALS, OPENS = 'response = "encrypt"\n', 'request = "decrypt"\n'
RSA, EC = 'alg = "RSA-OAEP-256"\n', 'alg = "ECDH-ES+A256KW"\n'
EITHER = 'alg = ["RSA-OAEP-256", "ECDH-ES+A256KW"]\n'
CALLER = 'recipient = "caller"\n'


def field(
    jwe: str | None, ways: str = BOTH, keys: str = 'format = "jwe"\n', routes: str = '["/card"]'
) -> str:
    table = "" if jwe is None else f"[fields.card.jwe]\n{jwe}"
    return f'[fields.card]\n{keys}{table}[[fields.card.places]]\nroutes = {routes}\nmarks = ["$.x"]\n{ways}'


@pytest.fixture
def with_keys(place):
    """A folder with keys of both kinds, their public halves, and certificates for both uses."""
    for name, kind, number in (("rsa", "rsa2048", 0), ("old", "rsa2048", 1), ("ec", "p256", 0)):
        private = key_of(kind, number)
        place.secret(f"{name}.key", private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        public = private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        (place.folder / f"{name}.pem").write_bytes(public)
    for name, bits in (("receives", "key_agreement"), ("signs", "digital_signature")):
        made = make(name, key=key_of("p256"), extensions=[(usage(bits), True)])
        (place.folder / f"{name}.crt").write_bytes(made.pem)
    place.secret("open.key", b"").chmod(0o644)
    return place


def rule_of(place, text):
    """The rule of the one field, and its keys where they are not the ring's."""
    snapshot = SecurityManager(place.load(BASE + text)).snapshot
    (found,) = {one.rule.field for one in snapshot.places._places}
    return found, snapshot.jwes.get("card")


# What loads.


@pytest.mark.parametrize("recipient", ["", 'recipient = "ring"\n'])
def test_with_dir_the_keys_are_the_rings(with_keys, recipient):
    for said in ('alg = "dir"\n' + recipient, 'alg = ["dir"]\nenc = "A256GCM"\n'):
        rule, keys = rule_of(with_keys, field(said))
        assert (rule.jwe, keys) == ("ring", None)


def test_a_field_is_sealed_to_one_key_and_opened_with_several(with_keys):
    text = field(EITHER + 'recipient = "file:ec.pem"\nkeys = ["rsa.key", "old.key", "ec.key"]\n')
    rule, jwe = rule_of(with_keys, text)
    assert rule.jwe == "files"
    assert isinstance(jwe.recipient, SealingKey)
    assert [key.algorithm for key in jwe.keys] == ["RSA-OAEP-256", "RSA-OAEP-256", "ECDH-ES+A256KW"]
    assert jwe.keys[2].kid == jwe.recipient.named[1]
    assert not jwe.to_caller


def test_a_field_is_sealed_to_its_caller(with_keys):
    rule, jwe = rule_of(with_keys, field(EITHER + CALLER, SEALS))
    assert rule.jwe == "caller"
    assert jwe.to_caller
    assert (jwe.algorithms, jwe.keys) == (("RSA-OAEP-256", "ECDH-ES+A256KW"), ())


def test_a_field_of_another_format_opens_what_was_sealed_to_us(with_keys):
    rule, jwe = rule_of(with_keys, field(RSA + 'keys = ["rsa.key"]\n', keys='also_open = ["jwe"]\n'))
    assert (rule.format, rule.also_open, jwe.recipient) == ("aead", ("jwe",), None)


def test_a_recipient_may_be_pinned_by_certificate_behind_a_proxy(with_keys):
    proxied = MTLS + 'source = "nginx"\ntrusted_proxies = ["10.0.0.5"]\n'
    text = SERVICE + proxied + KEYS + field(EC + 'recipient = "file:receives.crt"\n', SEALS)
    assert with_keys.findings(text) == ()


def test_paths_are_seen_from_the_file_and_variables_reach_every_key(with_keys):
    text = BASE + field(RSA + 'recipient = "file:nowhere"\nkeys = ["nowhere"]\n')
    environ = {
        "SECMIDDLEWARE__FIELDS__CARD__JWE__RECIPIENT": "file:rsa.pem",
        "SECMIDDLEWARE__FIELDS__CARD__JWE__KEYS__0": "rsa.key",
    }
    loaded = with_keys.load(text, environ).fields["card"].jwe
    assert loaded.recipient == with_keys.folder / "rsa.pem"
    assert loaded.keys == (with_keys.folder / "rsa.key",)


# What does not.


MISTAKES = {
    "nothing says how": (field(None), "jwe", "is missing"),
    "nothing says how, of what it also opens": (
        field(None, keys='also_open = ["jwe"]\n'),
        "jwe",
        "is missing",
    ),
    "it is of no use": (field('alg = "dir"\n', keys=""), "jwe", "is of no use"),
    "no alg": (field(""), "jwe.alg", "is missing"),
    "no alg at all": (field("alg = []\n"), "jwe.alg", "must not be empty"),
    "another alg": (field('alg = "RSA1_5"\n'), "jwe.alg[0]", "must be"),
    "another enc": (field('alg = "dir"\nenc = "A128GCM"\n'), "jwe.enc", "must be"),
    "one alg twice": (field('alg = ["RSA-OAEP-256", "RSA-OAEP-256"]\n' + CALLER, SEALS), "jwe.alg", "twice"),
    "dir beside another": (field('alg = ["dir", "RSA-OAEP-256"]\n'), "jwe.alg", "stands alone"),
    "dir for the caller": (field('alg = "dir"\n' + CALLER), "jwe.recipient", "only its servers open"),
    "dir for a file": (
        field('alg = "dir"\nrecipient = "file:rsa.pem"\n'),
        "jwe.recipient",
        "only its servers",
    ),
    "dir with keys": (field('alg = "dir"\nkeys = ["rsa.key"]\n'), "jwe.keys", "are of no use"),
    "the ring without dir": (field(RSA + 'recipient = "ring"\n', SEALS), "jwe.recipient", 'needs alg "dir"'),
    "nobody to seal to": (field(RSA, SEALS), "jwe.recipient", "is missing"),
    "nobody is sealed to": (
        field(RSA + CALLER + 'keys = ["rsa.key"]\n', keys='also_open = ["jwe"]\n'),
        "jwe.recipient",
        "is of no use",
    ),
    "nothing to open with": (field(RSA + CALLER), "jwe.keys", "are missing"),
    "nothing to reveal with": (
        field(
            RSA + 'recipient = "file:rsa.pem"\n',
            'request = "encrypt"\nresponse = "decrypt"\n',
            'format = "jwe"\nreveal_to = ["dns:a.org"]\n',
        ),
        "jwe.keys",
        "are missing",
    ),
    "a recipient that is a bare path": (
        field(RSA + 'recipient = "rsa.pem"\n', SEALS),
        "jwe.recipient",
        '"file:PATH"',
    ),
    "a recipient that is no text": (field(RSA + "recipient = 7\n", SEALS), "jwe.recipient", '"file:PATH"'),
    "a recipient that is not there": (
        field(RSA + 'recipient = "file:x.pem"\n', SEALS),
        "jwe.recipient",
        "there is no such file",
    ),
    "a private recipient": (
        field(RSA + 'recipient = "file:rsa.key"\n', SEALS),
        "jwe.recipient",
        "a private key",
    ),
    "a recipient of another kind": (
        field(RSA + 'recipient = "file:ec.pem"\n', SEALS),
        "jwe.recipient",
        "holds a key of ECDH-ES+A256KW",
    ),
    "a recipient that only signs": (
        field(EC + 'recipient = "file:signs.crt"\n', SEALS),
        "jwe.recipient",
        "lacks keyAgreement",
    ),
    "a key of another kind": (
        field(RSA + 'keys = ["ec.key"]\n', OPENS),
        "jwe.keys[0]",
        "holds a key of ECDH",
    ),
    "a key that others may read": (
        field(RSA + 'keys = ["open.key"]\n', OPENS),
        "jwe.keys[0]",
        "others may use it",
    ),
    "a key that is not there": (
        field(RSA + 'keys = ["x.key"]\n', OPENS),
        "jwe.keys[0]",
        "there is no such file",
    ),
    "a key that is public": (field(RSA + 'keys = ["rsa.pem"]\n', OPENS), "jwe.keys[0]", "others may use it"),
    "a key twice": (
        field(RSA + 'keys = ["rsa.key", "rsa.key"]\n', OPENS),
        "jwe.keys[1]",
        "has the kid of keys[0]",
    ),
    "a key that stands there itself": (
        field(RSA + 'keys = ["""-----BEGIN PRIVATE KEY-----\nMII"""]\n', OPENS),
        "jwe.keys[0]",
        "the content of a file",
    ),
}


@pytest.mark.parametrize("case", MISTAKES)
def test_a_mistake_is_told_once_with_its_key(with_keys, case):
    text, key, message = MISTAKES[case]
    (found,) = with_keys.findings(BASE + text)
    assert found.key == f"fields.card.{key}"
    assert message in f"{found.message} {found.hint}"
    assert found.source == str(with_keys.file)
    assert found.line is not None


def test_the_caller_is_no_recipient_behind_a_proxy(with_keys):
    proxied = MTLS + 'source = "nginx"\ntrusted_proxies = ["10.0.0.5"]\n'
    (found,) = with_keys.findings(SERVICE + proxied + KEYS + field(EC + CALLER, SEALS))
    assert found.key == "fields.card.jwe.recipient"
    assert 'mtls.source "nginx"' in found.message
    assert "pin the recipient" in found.hint


def test_the_caller_is_no_recipient_where_it_need_not_show_itself(with_keys):
    optional = '[[routes]]\npath = "/card"\nclient = "optional"\n'
    (found,) = with_keys.findings(BASE + optional + field(EC + CALLER, SEALS))
    assert found.key == "fields.card.places[0].routes[0]"
    assert "is sealed to the caller, but routes[0].client lets callers in without" in found.message
    # What is only opened there needs no caller.
    opens = field(EC + CALLER + 'keys = ["ec.key"]\n', OPENS)
    assert with_keys.findings(BASE + optional + opens) == ()


def test_every_mistake_is_told_at_once(with_keys):
    text = field(RSA + 'recipient = "file:ec.pem"\nkeys = ["x.key", "open.key", "ec.key"]\n')
    found = [finding.key for finding in with_keys.findings(BASE + text)]
    assert found == [f"fields.card.jwe.{key}" for key in ("recipient", "keys[0]", "keys[1]", "keys[2]")]


def test_without_joserfc_it_is_said_what_to_install(with_keys):
    with_keys.write(BASE + field('alg = "dir"\n'))
    program = (
        "import importlib.util, json, sys\n"
        "found = importlib.util.find_spec\n"
        "importlib.util.find_spec = lambda name, *more: None if name == 'joserfc' else found(name, *more)\n"
        "from secmiddleware.settings import load\n"
        "try:\n    load(sys.argv[1], {})\n"
        "except Exception as error:\n    print(json.dumps([(f.key, f.hint) for f in error.findings]))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(with_keys.file)], capture_output=True, text=True, check=False
    )
    assert json.loads(done.stdout) == [["fields.card.jwe", "pip install 'secmiddleware[joserfc]'"]], (
        done.stderr
    )


def test_a_file_that_has_changed_since_the_review_stops_the_start(with_keys):
    loaded = with_keys.load(BASE + field(RSA + 'recipient = "file:rsa.pem"\nkeys = ["rsa.key"]\n'))
    (with_keys.folder / "rsa.key").write_bytes(b"")
    with pytest.raises(ConfigError, match=r"fields\.card\.jwe\.keys\[0\]"):
        SecurityManager(loaded)


def test_a_file_may_hold_several_keys_of_which_each_opens(with_keys):
    """An old key stays below the new one, and both change at one stroke."""
    both = b"".join((with_keys.folder / f"{name}.key").read_bytes() for name in ("rsa", "old"))
    with_keys.secret("both.key", both)
    _, jwe = rule_of(with_keys, field(RSA + 'keys = ["both.key"]\n', OPENS))
    apart = rule_of(with_keys, field(RSA + 'keys = ["rsa.key", "old.key"]\n', OPENS))[1]
    assert jwe.keys == apart.keys
    # One of them stands in another file, too.
    (found,) = with_keys.findings(BASE + field(RSA + 'keys = ["old.key", "both.key"]\n', OPENS))
    assert (found.key, found.message) == ("fields.card.jwe.keys[1]", "has the kid of keys[0]")


def test_no_key_stands_in_what_is_shown(with_keys):
    loaded = load(with_keys.write(BASE + field(EC + 'recipient = "file:ec.pem"\nkeys = ["ec.key"]\n')), {})
    assert isinstance(loaded, Settings)
    secret = str(key_of("p256").private_numbers().private_value)
    manager = SecurityManager(loaded)
    shown = repr((loaded, manager.snapshot, manager.status(), manager.snapshot.places))
    assert secret not in shown
    assert "PRIVATE" not in shown
