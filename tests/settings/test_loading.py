"""From a file or a mapping to settings, or to every mistake at once."""

from __future__ import annotations

import os
import socket
import time
import traceback
from collections import OrderedDict
from datetime import timedelta
from pathlib import Path
from types import MappingProxyType

import pytest
from pydantic import ValidationError
from settings.documents import FIELD, FULL, KEYS, MTLS, SERVICE

from secmiddleware.errors import ConfigError
from secmiddleware.settings import load
from secmiddleware.settings.models import KeysSettings, MtlsSettings, RotationSettings

SECRET = "hunter2-c2VjcmV0"


def test_the_example_of_the_documentation_loads(place):
    settings = place.load(FULL)
    assert settings.source == place.file
    assert settings.service.name == "payments"
    assert settings.service.max_body == 4 << 20
    assert [trust.ca for trust in settings.mtls.trust] == [
        place.folder / "pki/ca.pem",
        place.folder / "pki/partner.pem",
    ]
    assert settings.mtls.trust[1].may_assert == ("spiffe://partner.example/**",)
    assert settings.routes[0].client == "off"
    assert settings.routes[1].allow == ("spiffe://example.org/ops/*",)
    assert settings.keys is not None
    assert settings.keys.store == f"file:{place.folder}/state/keyring.json"
    assert settings.keys.kek == f"file:{place.folder}/state/kek"
    assert settings.keys.rotate_every == timedelta(days=30)
    assert settings.keys.max_document_age == timedelta(days=60)
    assert settings.fields["ssn"].also_open == ("fernet",)
    assert settings.fields["ssn"].places[0].marks == ("$.ssn", "$.people[*].ssn")
    assert settings.rotation.poll == timedelta(seconds=30)
    assert settings.rotation.callbacks == ("shop.security:on_rotation",)
    assert settings.telemetry.traces == "auto"


def test_what_is_not_given_has_its_default(place):
    settings = place.load(SERVICE + MTLS)
    assert (settings.mtls.client, settings.mtls.handshake, settings.mtls.profile) == (
        "required",
        "optional",
        "strict",
    )
    assert settings.keys is None
    assert settings.routes == ()
    assert dict(settings.fields) == {}


def test_settings_cannot_be_changed(place):
    settings = place.load(FULL)
    for section, key in ((settings, "keys"), (settings.mtls, "client"), (settings.keys, "ring")):
        with pytest.raises(ValueError, match="frozen"):
            setattr(section, key, None)


def test_the_age_of_a_document_follows_the_rotation_unless_it_is_given(place):
    text = SERVICE + MTLS + KEYS + 'rotate_every = "10d"\n'
    assert place.load(text).keys.max_document_age == timedelta(days=20)
    assert place.load(text + 'max_document_age = "11d"\n').keys.max_document_age == timedelta(days=11)


def test_every_mistake_is_told_at_once_with_key_line_and_what_was_meant(place):
    found = place.findings(
        """\
[servce]
name = "payments"

[mtls]
client = "requird"
handshke = "optional"
trust = "pki/ca.pem"

[[routes]]
pth = "/admin"
[[routes]]
path = "admin"
allow = ["spiffe://example.org/ops/*", "CN=ops"]

[keys]
ring = "a b"
store = "redis://localhost"
kek = "state/kek"

[fields.ssn]
format = "aed"
[[fields.ssn.places]]
routes = ["/customers"]
marks = ["$.ssn[?@.a]"]
respnse = "encrypt"

[rotation]
poll = "30"
"""
    )
    told = [(one.line, one.key, one.message.partition(":")[0], one.hint) for one in found]
    assert [row[:2] for row in told] == [
        (None, "service"),
        (1, "servce"),
        (5, "mtls.client"),
        (6, "mtls.handshke"),
        (7, "mtls.trust"),
        (9, "routes[0].path"),
        (10, "routes[0].pth"),
        (12, "routes[1].path"),
        (13, "routes[1].allow[1]"),
        (16, "keys.ring"),
        (17, "keys.store"),
        (18, "keys.kek"),
        (21, "fields.ssn.format"),
        (24, "fields.ssn.places[0].marks[0]"),
        (25, "fields.ssn.places[0].respnse"),
        (28, "rotation.poll"),
    ]
    hints = {key: hint for _, key, _, hint in told}
    assert hints["servce"] == 'did you mean "service"?'
    assert hints["mtls.client"] == 'did you mean "required"?'
    assert hints["mtls.handshke"] == 'did you mean "handshake"?'
    assert hints["routes[0].pth"] == 'did you mean "path"?'
    assert hints["keys.kek"] == 'did you mean "file:state/kek"?'
    assert hints["fields.ssn.format"] == 'did you mean "aead"?'
    assert hints["fields.ssn.places[0].respnse"] == 'did you mean "response"?'
    assert {one.source for one in found} == {str(place.file)}


def test_the_error_reads_as_one_line_for_each_mistake(place):
    with pytest.raises(ConfigError) as caught:
        place.load(SERVICE + '[mtls]\nclient = "of"\n')
    assert str(caught.value).splitlines() == [
        f'{place.file}:4: mtls.client: must be "required", "optional" or "off" (did you mean "off"?)'
    ]


def test_a_mistake_does_not_hide_a_contradiction_elsewhere(place):
    found = place.findings(SERVICE + MTLS + 'certificate = "pki/server.pem"\nprofile = "stict"\n')
    assert [(one.key, one.line) for one in found] == [("mtls.key", 3), ("mtls.profile", 6)]


def test_a_mistake_causes_no_second_one(place):
    """What stands in for a wrong value is judged by nobody."""
    for text, key in [
        (SERVICE + MTLS + KEYS.replace('"payments"', '"a b"'), "keys.ring"),
        (SERVICE + MTLS + KEYS + "min_generation = -1\n", "keys.min_generation"),
        (SERVICE + MTLS + KEYS + f"min_generation = {2**53}\n", "keys.min_generation"),
        (SERVICE + MTLS + KEYS + 'rotate_every = "1x"\nactivation_delay = "40d"\n', "keys.rotate_every"),
        (SERVICE + '[mtls]\ntrust = ["pki/ca.pem", 1]\n', "mtls.trust[1]"),
        (SERVICE + '[mtls]\ntrust = ["pki/ca.pem"]\nclient = "non"\n', "mtls.client"),
        (SERVICE + MTLS + KEYS + FIELD.replace('"encrypt"', '"decript"'), "fields.ssn.places[0].response"),
        (SERVICE + MTLS + FIELD + KEYS.replace('"file:state/kek"', "7"), "keys.kek"),
    ]:
        assert [one.key for one in place.findings(text)] == [key], text


def test_a_key_of_another_section_is_sent_there(place):
    (found,) = place.findings(SERVICE + MTLS + 'poll = "30s"\n')
    assert (found.key, found.message, found.hint) == (
        "mtls.poll",
        "unknown key",
        '[rotation] has a key "poll"',
    )


def test_more_mistakes_than_anybody_reads_are_counted(place):
    found = place.findings(SERVICE + MTLS + "".join(f"zz{number} = 1\n" for number in range(500)))
    assert len(found) == 201
    assert found[-1].message == "and 300 more mistakes"


def test_no_name_of_a_key_breaks_a_line_or_reaches_the_terminal(place):
    found = place.findings(SERVICE + MTLS + '"a\\u001b[31m\\nb" = 1\n' + f'"{"x" * 5000}" = 1\n')
    for one in found:
        assert str(one).isprintable()
        assert len(one.key) < 100


# What is no settings file at all


def error_of(source) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        load(source, {})
    return caught.value


@pytest.mark.parametrize(
    ("text", "key", "line", "message"),
    [
        ('[service]\nname = "a"\nname = "b"\n', "service.name", 3, "given twice, first on line 2"),
        (SERVICE + "[mtls]\n[service]\n", "service", 4, "given twice, first on line 1"),
        ('service.name = "a"\n[service]\n', "service", 2, "given already"),
        ('service = { name = "a" }\n[service.x]\n', "service.x", 2, "given already"),
        ('routes = []\n[[routes]]\npath = "/a"\n', "routes", 2, "given already"),
        ('[service]\nname = "a\n', "service.name", 2, "is not TOML"),
        ('[service]\nname = """a\n\n', "service.name", 2, "is not TOML"),
        ("[service]\nname =\n", "service.name", 2, "is not TOML"),
        ("[service\n", "service", 1, "is not TOML"),
        ('[service]\nname = "a" "b"\n', "service.name", 2, "is not TOML"),
        ("[service]\nname = a\n", "service.name", 2, "is not TOML"),
        ('[service]\rname = "a"\r', "service", 1, "is not TOML"),
        ('[service]\nname = "a\0b"\n', "service.name", 2, "is not TOML"),
        ('[service]\nname = "\\ud800"\n', "service.name", 2, "is not TOML"),
        ("{}", "(the whole file)", 1, "is not TOML"),
        (b"[service]\nname = '\xff'\n", "(the whole file)", 2, "is not UTF-8"),
        (SERVICE.encode("utf-16"), "(the whole file)", 1, "is not UTF-8"),
        ("# " + "x" * (1 << 20), "(the whole file)", None, "is larger than 1024 KiB"),
        ("\n\nx = " + "[" * 5000 + "]" * 5000, "(the whole file)", 3, "nests deeper than 32"),
        ("\nx = " + "{a=" * 2000 + "1" + "}" * 2000, "(the whole file)", 2, "nests deeper than 32"),
        ("x" + ".x" * 5000 + " = 1\n", "(the whole file)", 1, "nests deeper than 32"),
        ("[x" + ".x" * 5000 + "]\n", "(the whole file)", 1, "nests deeper than 32"),
    ],
)
def test_what_is_not_toml_is_told_with_its_line(place, text, key, line, message):
    (found,) = error_of(place.write(text)).findings
    assert (found.key, found.line) == (key, line)
    assert message in found.message
    assert len(found.message) < 250


def test_a_byte_order_mark_and_windows_line_ends_are_nothing(place):
    text = SERVICE + MTLS + 'client = "of"\n'
    (found,) = place.findings(b"\xef\xbb\xbf" + text.replace("\n", "\r\n").encode())
    assert (found.key, found.line) == ("mtls.client", 5)


def test_no_hostile_text_costs_more_than_a_moment(place):
    for text in (
        "a" * 120_000,
        "a." * 60_000,
        '"' * 120_000,
        "x = '''" + "''" * 60_000,
        'x = """' + '\\"' * 60_000,
        "x = [" + "[]," * 40_000 + "]",
        "x = [" + '"a",' * 30_000,
        "[a]\n" * 30_000,
        "[[a]]\n" * 20_000,
        "x = " + "9" * 120_000,
    ):
        start = time.process_time()
        assert place.findings(text)
        assert time.process_time() - start < 3, text[:20]


def test_thousands_of_mistakes_are_gone_through_once(place):
    start = time.process_time()
    assert len(place.findings("".join(f"{'k' * 65}{number} = 1\n" for number in range(12_000)))) == 201
    assert time.process_time() - start < 8


def test_what_is_no_readable_file_is_refused_and_never_waited_for(place, tmp_path):
    os.mkfifo(tmp_path / "fifo")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(os.fspath(tmp_path / "s"))
        for source, message in [
            (tmp_path / "missing.toml", "there is no such file"),
            (tmp_path, "is a directory"),
            (tmp_path / "fifo", "is no regular file"),
            (tmp_path / "s", "cannot be read"),
            ("/dev/zero", "is no regular file"),
            (place.write(SERVICE) / "x", "cannot be read"),
            ("", "is not a path"),
            ("a\0b", "is not a path"),
            ("x" * 5000, "cannot be read: file name too long"),
            (b"secmiddleware.toml", "must be the path of a file, or a mapping"),
            (7, "must be the path of a file, or a mapping"),
            (None, "must be the path of a file, or a mapping"),
            ([SERVICE], "must be the path of a file, or a mapping"),
        ]:
            (found,) = error_of(source).findings
            assert message in found.message
            assert found.key == "(the whole file)"


def test_a_relative_path_and_a_text_are_as_good_as_an_absolute_one(place, monkeypatch):
    place.write(FULL)
    monkeypatch.chdir(place.folder.parent)
    named = os.path.join(place.folder.name, "secmiddleware.toml")  # noqa: PTH118  (a text is the point)
    for source in (named, Path(named), os.fspath(place.file)):
        settings = load(source, {})
        assert settings.source == place.file
        assert settings == load(place.file, {})


def test_paths_start_at_the_file_and_not_where_the_process_is(place, monkeypatch, tmp_path_factory):
    monkeypatch.chdir(tmp_path_factory.mktemp("elsewhere"))
    assert place.load(FULL).mtls.certificate == place.folder / "pki/server.pem"
    absolute = place.folder / "pki/ca.pem"
    assert place.load(SERVICE + f'[mtls]\ntrust = ["{absolute}"]\n').mtls.trust[0].ca == absolute


# Mappings


def mapping(place) -> dict:
    return {
        "service": {"name": "payments", "max_body": 1000},
        "mtls": {"trust": [place.folder / "pki/ca.pem"]},
        "keys": {
            "ring": "r",
            "store": "memory:",
            "kek": f"file:{place.folder}/state/kek",
            "rotate_every": timedelta(days=3),
        },
    }


def test_a_mapping_has_the_same_keys_and_may_hold_paths_and_durations(place):
    settings = load(mapping(place), {})
    assert settings.source is None
    assert settings.mtls.trust[0].ca == place.folder / "pki/ca.pem"
    assert settings.keys.rotate_every == timedelta(days=3)


def test_any_kind_of_mapping_will_do_and_none_is_changed(place):
    plain = mapping(place)
    source = MappingProxyType(
        {**plain, "mtls": OrderedDict(plain["mtls"]), "routes": ({"path": "/a", "client": "off"},)}
    )
    before = repr(source)
    settings = load(source, {"SECMIDDLEWARE__ROUTES__1__PATH": "/b", "SECMIDDLEWARE__SERVICE__NAME": "other"})
    assert [route.path for route in settings.routes] == ["/a", "/b"]
    assert settings.service.name == "other"
    assert repr(source) == before


def test_the_mistakes_of_a_mapping_name_it(place):
    found = error_of({**mapping(place), "mtls": {"clint": "off"}, "rotation": {"poll": 30}}).findings
    assert [(one.source, one.line, one.key) for one in found] == [
        ("mapping", None, "mtls.clint"),
        ("mapping", None, "rotation.poll"),
        ("mapping", None, "mtls.trust"),
    ]


def test_a_strange_mapping_is_refused():
    endless: dict = {}
    endless["service"] = endless
    for source, message in [
        (endless, "nests deeper than 32"),
        ({1: 2}, "a key that is not a text"),
        ({"service": {b"name": 1}}, "a key that is not a text"),
    ]:
        assert message in error_of(source).findings[0].message
    for value in (set(), object(), b"name", lambda: "name", 1j):
        (found,) = [
            one for one in error_of({"service": {"name": value}}).findings if one.key == "service.name"
        ]
        assert found.message == "must be a text"


# Secrets


def test_a_secret_may_stand_in_a_file_or_in_the_environment(place):
    place.secret("broker", b"\n")
    place.secret("store", b"memory:\r\n")
    text = SERVICE + MTLS + '[keys]\nring = "r"\nstore = { file = "store" }\nkek = { env = "KEK" }\n'
    text += '[rotation]\nbroker = { file = "broker" }\n'
    kek = "+/+/" * 10 + "+/8="
    settings = place.load(text, {"KEK": kek})
    assert settings.keys.store == "memory:"
    assert settings.keys.kek == "env:KEK"
    assert settings.rotation.broker.get_secret_value() == ""


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ('{ file = "missing" }', "there is no such file"),
        ('{ file = "open" }', "chmod 600"),
        ('{ file = "." }', "is not a regular file"),
        ('{ file = "binary" }', "is not UTF-8"),
        ('{ file = "large" }', "is larger than"),
        ('{ file = "" }', '"file" must be a text'),
        ("{ file = 7 }", '"file" must be a text'),
        ('{ env = "MISSING" }', "is not set"),
        ('{ path = "a" }', 'one key, "file" or "env"'),
        ('{ file = "a", env = "B" }', 'one key, "file" or "env"'),
        ("{}", 'one key, "file" or "env"'),
        ("7", 'must be a text, { file = "…" } or { env = "…" }'),
        ('["a"]', 'must be a text, { file = "…" } or { env = "…" }'),
    ],
)
def test_a_reference_that_leads_nowhere_is_told(place, reference, message):
    (place.folder / "open").write_bytes(SECRET.encode())
    (place.folder / "open").chmod(0o644)
    place.secret("binary", b"\xff" + SECRET.encode())
    place.secret("large", SECRET.encode() * 10_000)
    for key, text in [
        ("rotation.broker", SERVICE + MTLS + f"[rotation]\nbroker = {reference}\n"),
        ("keys.store", SERVICE + MTLS + f'[keys]\nring = "r"\nkek = "file:state/kek"\nstore = {reference}\n'),
    ]:
        (found,) = place.findings(text)
        assert found.key == key
        assert message in found.message
        assert SECRET not in str(found)


@pytest.mark.parametrize(
    "text",
    [
        MTLS + KEYS + f'[rotation]\nbroker = "amqps://user:{SECRET}@host"\n',
        MTLS + KEYS + f'[rotation]\nbroker = "amqp://user:{SECRET}@host?a"\n',
        MTLS + KEYS + f'[rotation]\nbroker = "sqs://user:{SECRET}@host"\n',
        MTLS + KEYS + f'[rotation]\nbroker = "{SECRET}"\n',
        MTLS + KEYS.replace("file:state/keyring.json", f"redis://:{SECRET}@host/0"),
        MTLS + KEYS.replace("file:state/keyring.json", f"postgres://:{SECRET}@host/0"),
        MTLS + KEYS.replace("file:state/keyring.json", f"file://{SECRET}"),
        MTLS + KEYS.replace("file:state/kek", SECRET),
        MTLS + KEYS.replace("file:state/kek", f"env:{SECRET}"),
        MTLS + KEYS.replace("file:state/kek", f"vault:{SECRET}"),
        MTLS + KEYS.replace('"file:state/kek"', f'{{ value = "{SECRET}" }}'),
        MTLS + KEYS.replace('"file:state/kek"', f'["{SECRET}"]'),
        f'[mtls]\ntrust = ["pki/ca.pem"]\nkey = """-----BEGIN PRIVATE KEY-----\n{SECRET}\n"""\n',
        f'[mtls]\ntrust = ["pki/ca.pem"]\nkey = "https://user:{SECRET}@host/key"\n',
        f'[mtls]\ntrust = ["pki/ca.pem"]\nclient = "{SECRET}"\n',
        f'[mtls]\ntrust = "{SECRET}"\n',
        f'[mtls]\ntrust = [{{ caa = "{SECRET}" }}]\n',
        f"[rotation]\nbroker = {SECRET}\n",
        f"[rotation]\nbroker = amqp://user:{SECRET}@host\n",
        f"[rotation]\nbroker = 'amqp://user:{SECRET}@host\n",
        f'[rotation]\nbroker = """{SECRET}\n',
        f'[rotation]\nbroker = "{SECRET}" {SECRET}\n',
        f'[keys]\nkek = "file:a\n{SECRET}\n"\n',
        f"[keys]\n{SECRET}\n",
        f'[keys]\nring = "r"\n\n{SECRET} {SECRET}\n',
    ],
)
def test_what_may_be_a_secret_is_never_told(place, text):
    with pytest.raises(ConfigError) as caught:
        place.load(SERVICE + text)
    assert caught.value.findings
    shown = "".join(traceback.format_exception(caught.value)) + repr(caught.value)
    assert SECRET not in shown
    assert "hunter2" not in shown


def test_a_secret_of_the_environment_is_never_told(place):
    for name in ("ROTATION__BROKER", "KEYS__KEK", "KEYS__STORE", "MTLS__CLIENT", "KEYS__KEK__ENV", "NOTHING"):
        with pytest.raises(ConfigError) as caught:
            place.load(FULL, {f"SECMIDDLEWARE__{name}": SECRET})
        assert "hunter2" not in "".join(traceback.format_exception(caught.value)), name


def test_settings_do_not_show_a_secret(place):
    rotation = RotationSettings(broker=f"amqp://user:{SECRET}@host")
    assert rotation.broker.get_secret_value().count(SECRET) == 1
    assert (
        "hunter2"
        not in repr(rotation) + str(rotation) + str(rotation.model_dump()) + rotation.model_dump_json()
    )


@pytest.mark.parametrize("model", [RotationSettings, MtlsSettings, KeysSettings])
def test_the_models_alone_repeat_no_value_either(model):
    wrong = dict.fromkeys(model.model_fields, SECRET) | {SECRET[:3]: SECRET}
    with pytest.raises(ValidationError) as caught:
        model.model_validate(wrong)
    assert SECRET not in str(caught.value)
