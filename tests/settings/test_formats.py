"""A field's formats, and Fernet keys from elsewhere: what loads, what is refused, and what is never told."""

from __future__ import annotations

import os

import pytest
from cryptography.fernet import Fernet
from settings.documents import KEYS, MTLS, SERVICE

from secmiddleware.security import SecurityManager
from secmiddleware.settings.models import Settings

BASE = SERVICE + MTLS + KEYS
ONE, OTHER = (Fernet.generate_key().decode() for _ in range(2))
ENVIRON = {"ONE": ONE, "OTHER": OTHER}
LISTED = 'also_open = ["fernet"]\nfernet_keys = [{ env = "ONE" }, { env = "OTHER" }]\n'


def field(
    keys: str = "", ways: str = 'request = "decrypt"\nresponse = "encrypt"\n', name: str = "ssn"
) -> str:
    routes = f'routes = ["/{name}"]\nmarks = ["$.x"]\n'
    return f"[fields.{name}]\n{keys}[[fields.{name}.places]]\n{routes}{ways}"


AT_REST = 'request = "encrypt"\nresponse = "decrypt"\n'
REVEALED = 'reveal_to = ["spiffe://example.org/ops/*"]\n'


def told(place, text, environ=ENVIRON):
    return {(found.key, found.message) for found in place.findings(BASE + text, environ)}


# Formats.


@pytest.mark.parametrize("keys", ['format = "xaes"\n', 'also_open = ["xaes"]\n', 'format = "fernet"\n'])
def test_every_format_of_this_version_loads(place, keys):
    assert place.findings(BASE + field(keys)) == ()


@pytest.mark.parametrize("keys", ['format = "deterministic"\n', 'also_open = ["deterministic"]\n'])
def test_deterministic_tokens_load_where_no_caller_receives_them(place, keys):
    for otherwise in ("mask", "null", "refuse"):
        text = BASE + field(keys + REVEALED + f'otherwise = "{otherwise}"\n', AT_REST)
        assert place.findings(text) == ()
        SecurityManager(place.load(text))


@pytest.mark.parametrize("keys", ['format = "deterministic"\n', 'also_open = ["deterministic"]\n'])
@pytest.mark.parametrize(
    ("ways", "key"),
    [
        ('request = "decrypt"\n', "fields.ssn.places[0].request"),
        ('response = "encrypt"\n', "fields.ssn.places[0].response"),
        (
            'request = "encrypt"\nresponse = "encrypt"\nalready_sealed = "skip"\n',
            "fields.ssn.places[0].response",
        ),
        (AT_REST, "fields.ssn.otherwise"),
    ],
)
def test_deterministic_tokens_are_refused_wherever_a_caller_receives_them(place, keys, ways, key):
    ((found, message),) = told(place, field(keys + REVEALED, ways))
    assert found == key
    assert "equality leaks" in message


def test_both_ways_of_a_place_are_told_at_once(place):
    found = {key for key, _ in told(place, field('format = "deterministic"\n'))}
    assert found == {"fields.ssn.places[0].request", "fields.ssn.places[0].response"}


# Fernet keys from elsewhere.


def test_keys_come_by_reference_from_private_files_and_the_environment(place):
    place.secret("fernet", ONE.encode() + b"\n")
    text = BASE + field('format = "fernet"\nfernet_keys = [{ file = "fernet" }, { env = "OTHER" }]\n')
    loaded = place.load(text, ENVIRON)
    assert [key.get_secret_value() for key in loaded.fields["ssn"].fernet_keys] == [ONE, OTHER]
    (listed,) = {place.rule.field.listed for place in SecurityManager(loaded).snapshot.places._places}
    for key in (ONE, OTHER):
        assert listed.open(Fernet(key).encrypt(b"1")) == b"1"


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        pytest.param(f'["{ONE}"]', "a key does not stand in the settings", id="the key itself"),
        ('[{ file = "nobody" }]', "there is no such file"),
        ('[{ env = "NOBODY" }]', "is not set"),
        ('[{ env = "SHORT" }]', "is no Fernet key"),
        ('[{ env = "STANDARD" }]', "is no Fernet key"),
        ('[{ env = "SPACED" }]', "is no Fernet key"),
        ('[{ env = "HEX" }]', "is no Fernet key"),
        ('[{ env = "SPARE" }]', "is no Fernet key"),
        ('[{ file = "open" }]', "others may use it"),
        ('[{ env = "ONE", file = "open" }]', "holds one key"),
    ],
)
def test_what_is_no_key_is_told_and_never_shown(place, keys, message):
    place.secret("open", ONE.encode()).chmod(0o640)
    environ = ENVIRON | {
        "SHORT": ONE[:-4],
        "STANDARD": "+/" + ONE[2:],
        "SPACED": ONE + " ",
        "HEX": os.urandom(32).hex(),
        "SPARE": "A" * 42 + "B=",
    }
    (found,) = place.findings(BASE + field(f'also_open = ["fernet"]\nfernet_keys = {keys}\n'), environ)
    assert found.key.startswith("fields.ssn.fernet_keys[0]")
    assert message in found.message
    for value in environ.values():
        assert value[2:-4] not in str(found)


def test_keys_are_of_no_use_where_no_fernet_is_opened(place):
    ((key, message),) = told(place, field('fernet_keys = [{ env = "ONE" }]\n'))
    assert key == "fields.ssn.fernet_keys"
    assert "opens no Fernet" in message


def test_a_key_that_is_listed_twice_is_told(place):
    ((key, message),) = told(place, field(LISTED.replace("OTHER", "ONE")))
    assert key == "fields.ssn.fernet_keys[1]"
    assert "fernet_keys[0] again" in message


def test_a_fernet_key_in_two_fields_needs_the_same_readers(place):
    same = field(LISTED + REVEALED, AT_REST) + field(LISTED + REVEALED, AT_REST, name="iban")
    assert told(place, same) == set()
    others = field(LISTED + REVEALED, AT_REST) + field(
        'also_open = ["fernet"]\nfernet_keys = [{ env = "OTHER" }]\nreveal_to = ["dns:a.org"]\n',
        AT_REST,
        "iban",
    )
    ((key, message),) = told(place, others)
    assert key == "fields.iban.fernet_keys[0]"
    assert "fields.ssn" in message


def test_more_keys_than_are_tried_are_refused(place):
    keys = ", ".join('{ env = "ONE" }' for _ in range(33))
    found = told(place, field(f'also_open = ["fernet"]\nfernet_keys = [{keys}]\n'))
    assert {key for key, _ in found} == {"fields.ssn.fernet_keys"}


def test_no_key_stands_in_the_repr_of_settings(place):
    loaded = place.load(BASE + field(LISTED), ENVIRON)
    assert isinstance(loaded, Settings)
    assert ONE not in repr(loaded)
    assert ONE not in str(loaded.model_dump())


def test_keys_may_be_given_by_variables(place):
    environ = ENVIRON | {"SECMIDDLEWARE__FIELDS__SSN__FERNET_KEYS": '[{ env = "OTHER" }]'}
    loaded = place.load(BASE + field(LISTED), environ)
    assert [key.get_secret_value() for key in loaded.fields["ssn"].fernet_keys] == [OTHER]


@pytest.mark.parametrize("encoding", ["json", "text"])
def test_the_encoding_of_a_field_reaches_its_rule(place, encoding):
    loaded = place.load(BASE + field(f'encoding = "{encoding}"\n'))
    (found,) = SecurityManager(loaded).snapshot.places._places
    assert found.rule.field.encoding == encoding
