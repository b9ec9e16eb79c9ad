"""What fields and places say of values: what loads, and what could never come to pass."""

from __future__ import annotations

import pytest
from settings.documents import KEYS, MTLS, SERVICE

from secmiddleware.security import SecurityManager

BASE = SERVICE + MTLS + KEYS
IN_TRANSIT = 'request = "decrypt"\nresponse = "encrypt"\n'
AT_REST = 'request = "encrypt"\nresponse = "decrypt"\n'
REVEALED = 'reveal_to = ["spiffe://example.org/ops/*"]\n'
SKIP = 'already_sealed = "skip"\n'


def field(keys: str = "", ways: str = IN_TRANSIT) -> str:
    routes = 'routes = ["/ssn"]\nmarks = ["$.x"]\n'
    return f"{BASE}[fields.ssn]\n{keys}[[fields.ssn.places]]\n{routes}{ways}"


@pytest.mark.parametrize(
    ("keys", "ways"),
    [
        (REVEALED + 'otherwise = "mask"\nmask_last = 4\n', AT_REST),
        (REVEALED + 'otherwise = "mask"\nmask_last = 0\n', AT_REST),
        (REVEALED + "rewrap = true\n", AT_REST),
        ("rewrap = true\n", IN_TRANSIT + SKIP),
        ('rewrap = true\nalso_open = ["fernet"]\n', 'request = "encrypt"\n' + SKIP),
        ("pad = 32\n", IN_TRANSIT),
        ('pad = 32\nformat = "fernet"\n', IN_TRANSIT),
        (REVEALED + 'pad = 4096\nformat = "deterministic"\notherwise = "mask"\n', AT_REST),
        ("", IN_TRANSIT + "required = true\n"),
        ("", 'request = "encrypt"\nresponse = "encrypt"\n' + SKIP),
    ],
)
def test_what_makes_sense_loads(place, keys, ways):
    assert place.findings(field(keys, ways)) == ()


def test_the_settings_reach_the_rules(place):
    keys = REVEALED + 'otherwise = "mask"\nmask_last = 4\npad = 32\nrewrap = true\n'
    loaded = place.load(field(keys, AT_REST + SKIP + "required = true\n"))
    (found,) = SecurityManager(loaded).snapshot.places._places
    rule = found.rule
    assert (rule.required, rule.already_sealed) == (True, "skip")
    assert (rule.field.mask_last, rule.field.pad, rule.field.rewrap) == (4, 32, True)
    (plain,) = SecurityManager(place.load(field())).snapshot.places._places
    rule = plain.rule
    assert (rule.required, rule.already_sealed) == (False, "refuse")
    assert (rule.field.mask_last, rule.field.pad, rule.field.rewrap) == (0, 0, False)


@pytest.mark.parametrize(
    ("keys", "ways", "key", "message"),
    [
        (REVEALED + "mask_last = 4\n", AT_REST, "mask_last", 'otherwise is "token"'),
        (REVEALED + 'otherwise = "null"\nmask_last = 4\n', AT_REST, "mask_last", "nobody sees a mask"),
        ('otherwise = "mask"\n', IN_TRANSIT, "otherwise", "no place decrypts a response"),
        ('otherwise = "null"\n', 'request = "encrypt"\n', "otherwise", "no place decrypts a response"),
        ('otherwise = "refuse"\n', 'response = "encrypt"\n', "otherwise", "no place decrypts a response"),
        ('pad = 32\nencoding = "text"\n', IN_TRANSIT, "pad", "a text may end in spaces"),
        ('rewrap = true\nformat = "fernet"\n', IN_TRANSIT + SKIP, "rewrap", "bound to nothing"),
        ("rewrap = true\n", IN_TRANSIT, "rewrap", "at no place"),
        (REVEALED + 'rewrap = true\notherwise = "mask"\n', AT_REST, "rewrap", "at no place"),
        ("", 'response = "encrypt"\nrequired = true\n', "places[0].required", "nobody looks"),
        ("", 'request = "decrypt"\n' + SKIP, "places[0].already_sealed", "is of no use"),
        (REVEALED, 'response = "decrypt"\n' + SKIP, "places[0].already_sealed", "is of no use"),
        ("", 'request = "encrypt"\nresponse = "encrypt"\n', "places[0].response", "refuses them"),
        ("", AT_REST, "reveal_to", "must say who gets plaintext"),
    ],
)
def test_what_could_never_come_to_pass_is_told(place, keys, ways, key, message):
    (found,) = place.findings(field(keys, ways))
    assert found.key == f"fields.ssn.{key}"
    assert message in found.message


@pytest.mark.parametrize(
    "keys",
    [
        "mask_last = -1\n",
        "mask_last = 17\n",
        'mask_last = "4"\n',
        "mask_last = true\n",
        "mask_last = 4.0\n",
        "pad = -1\n",
        "pad = 4097\n",
        'pad = "32"\n',
        "rewrap = 1\n",
        "otherwise = { mask = 4 }\n",
    ],
)
def test_what_is_no_such_value_is_told_alone(place, keys):
    (found,) = place.findings(field(REVEALED + keys, AT_REST))
    assert found.key == f"fields.ssn.{keys.split()[0]}"


def test_all_is_told_at_once(place):
    keys = 'mask_last = 4\npad = 2\nencoding = "text"\nrewrap = true\n'
    found = {
        finding.key for finding in place.findings(field(keys, 'response = "encrypt"\nrequired = true\n'))
    }
    wanted = ("mask_last", "pad", "rewrap", "places[0].required")
    assert found == {f"fields.ssn.{key}" for key in wanted}
