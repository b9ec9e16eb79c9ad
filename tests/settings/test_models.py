"""What one value may be, key by key."""

from __future__ import annotations

from datetime import timedelta

import pytest
from settings.documents import FULL, KEYS, MTLS, SERVICE


def toml(text: str) -> str:
    return '"' + "".join(c if " " <= c <= "~" and c not in '"\\' else f"\\u{ord(c):04x}" for c in text) + '"'


@pytest.mark.parametrize(
    ("key", "good", "bad"),
    [
        (
            "service.name",
            ["a", "Zahlungen für alle", "x" * 100],
            ["", " ", "a\nb", "\x1b[31m", "x" * 101, "a\u202eb"],
        ),
        (
            "service.mount",
            ["", "/shop", "/v1/shop", "/~a/b:c@d"],
            [
                "shop",
                "/",
                "/shop/",
                "//shop",
                "/a//b",
                "/a/../b",
                "/.",
                "/a b",
                "/a%2fb",
                "/ü",
                "/a?b",
                "/a\n",
            ],
        ),
        (
            "keys.ring",
            ["a", "payments-eu_1", "A" * 64],
            ["", "1a", "-a", "a b", "a__b", "A" * 65, "ü", "a.b", "a\n"],
        ),
    ],
)
def test_names_and_mounts_are_plain(place, key, good, bad):
    section, _, name = key.partition(".")
    for value, is_good in [*((value, True) for value in good), *((value, False) for value in bad)]:
        text = FULL.replace(f"[{section}]\n", f"[{section}]\n{name} = {toml(value)}\n")
        text = (
            text.replace(f'\n{name} = "payments"', "").replace('\nmount = ""', "")
            if section == "service"
            else (text.replace(f'\n{name} = "payments"\nstore', "\nstore"))
        )
        assert [one.key for one in place.findings(text)] == ([] if is_good else [key]), value


@pytest.mark.parametrize("name", ["a b", "1a", "a__b", "", "ü", "a.b", "x" * 65])
def test_the_name_of_a_field_is_a_plain_name(place, name):
    found = place.findings(SERVICE + MTLS + KEYS + f'[fields.{toml(name)}]\nformat = "aead"\n')
    assert any("must" in one.message and one.line == 9 for one in found)


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ('[[routes]]\npath = "admin"\n', "routes[0].path"),
        ('[[routes]]\npath = "/a/../b"\n', "routes[0].path"),
        ('[[routes]]\npath = ""\n', "routes[0].path"),
        ('[[routes]]\npath = "/' + "a" * 2000 + '"\n', "routes[0].path"),
        ('[[routes]]\npath = "/a"\nallow = ["CN=ops,O=a"]\n', "routes[0].allow[0]"),
        ('[[routes]]\npath = "/a"\ndeny = ["CN=ops,O=a"]\n', "routes[0].deny[0]"),
        ('[[routes]]\npath = "/a"\nmethods = ["get"]\n', "routes[0].methods[0]"),
        ('[[routes]]\npath = "/a"\nmethods = ["GET", "*"]\n', "routes[0].methods[1]"),
        ('[[routes]]\npath = "/a"\nmethods = ["GET POST"]\n', "routes[0].methods[0]"),
        ('[[routes]]\npath = "/a"\nmethods = ["GET", ""]\n', "routes[0].methods[1]"),
        ('[[routes]]\npath = "/a"\nmethods = "GET"\n', "routes[0].methods"),
        ('[[routes]]\npath = "/a"\npreflight = "yes"\n', "routes[0].preflight"),
        ('[[routes]]\npath = "/a"\nallow = ["dns:a.org", "ops"]\n', "routes[0].allow[1]"),
        ('[[routes]]\npath = "/a"\nallow = [""]\n', "routes[0].allow[0]"),
        (
            '[[fields.a.places]]\nroutes = ["a"]\nmarks = ["$.a"]\nrequest = "decrypt"\n',
            "fields.a.places[0].routes[0]",
        ),
        (
            '[[fields.a.places]]\nroutes = ["/a"]\nmarks = ["a"]\nrequest = "decrypt"\n',
            "fields.a.places[0].marks[0]",
        ),
        (
            '[[fields.a.places]]\nroutes = ["/a"]\nmarks = ["$"]\nrequest = "decrypt"\n',
            "fields.a.places[0].marks[0]",
        ),
        (
            '[[fields.a.places]]\nroutes = ["/a"]\nmarks = ["$[-1]"]\nrequest = "decrypt"\n',
            "fields.a.places[0].marks[0]",
        ),
        (
            '[[fields.a.places]]\nroutes = []\nmarks = ["$.a"]\nrequest = "decrypt"\n',
            "fields.a.places[0].routes",
        ),
        ('[rotation]\ncallbacks = ["shop.security"]\n', "rotation.callbacks[0]"),
        ('[rotation]\ncallbacks = ["shop.security:"]\n', "rotation.callbacks[0]"),
        ('[rotation]\ncallbacks = ["os:system(1)"]\n', "rotation.callbacks[0]"),
        ('[rotation]\ncallbacks = ["..a:b"]\n', "rotation.callbacks[0]"),
    ],
)
def test_patterns_marks_and_callbacks_are_read_when_the_file_is(place, text, key):
    (found,) = place.findings(SERVICE + MTLS + KEYS + text)
    assert found.key == key


@pytest.mark.parametrize(
    "pattern", ["sha256:" + "0" * 64, "serial:1", "issuer-sha256:" + "0" * 64, "spki-sha256:0"]
)
def test_a_ca_speaks_for_names_and_not_for_keys(place, pattern):
    (found,) = place.findings(
        SERVICE + f'[mtls]\ntrust = [{{ ca = "pki/ca.pem", may_assert = ["{pattern}"] }}]\n'
    )
    assert found.key == "mtls.trust[0].may_assert[0]"


def test_no_user_code_is_imported(place):
    (place.folder / "trap.py").write_text("raise SystemExit('imported')")
    assert place.findings(FULL.replace("shop.security:on_rotation", "trap:on_rotation")) == ()


@pytest.mark.parametrize(
    "path",
    ["", "   ", "https://example.org/ca.pem", "-----BEGIN CERTIFICATE-----", "a\nb", "a\0b", "x" * 5000],
)
def test_what_is_no_path_is_refused_for_what_it_is(place, path):
    (found,) = place.findings(SERVICE + f"[mtls]\ntrust = [{toml(path)}]\n")
    assert found.key.startswith("mtls.trust[0]")
    assert "x" * 100 not in found.message


@pytest.mark.parametrize(
    ("value", "expected"),
    [("1s", timedelta(seconds=1)), ("1m", timedelta(minutes=1)), ("12h", timedelta(hours=12)), ("off", None)],
)
def test_an_open_websocket_is_judged_again_as_often_as_the_file_says_or_never(place, value, expected):
    assert place.load(SERVICE + MTLS + f'recheck = "{value}"\n').mtls.recheck == expected
    assert place.load(SERVICE + MTLS, {"SECMIDDLEWARE__MTLS__RECHECK": value}).mtls.recheck == expected


def test_without_a_word_an_open_websocket_is_judged_every_minute(place):
    assert place.load(SERVICE + MTLS).mtls.recheck == timedelta(minutes=1)


@pytest.mark.parametrize(
    "value", ['"0s"', '"999ms"', '"-1m"', '"no"', '""', '"OFF"', "60", "false", '"40000d"']
)
def test_what_is_no_pace_of_judging_again_is_a_mistake(place, value):
    (found,) = place.findings(SERVICE + MTLS + f"recheck = {value}\n")
    assert found.key == "mtls.recheck"
    if value in ('"0s"', '"999ms"'):
        assert 'at least "1s"' in str(found)
        assert '"off"' in str(found)
