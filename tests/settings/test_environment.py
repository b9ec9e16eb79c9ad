"""Variables of the environment go over the file, and none that looks like one of ours is passed over."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from settings.documents import FULL, KEYS, MTLS, SERVICE

from secmiddleware.errors import ConfigError
from secmiddleware.settings import load

OURS = "SECMIDDLEWARE__"


def ours(**variables: str) -> dict[str, str]:
    return {OURS + name: value for name, value in variables.items()}


@pytest.mark.parametrize(
    ("name", "value", "holds"),
    [
        ("MTLS__CLIENT", "optional", lambda s: s.mtls.client == "optional"),
        ("MTLS__CLIENT", '"optional"', lambda s: s.mtls.client == "optional"),
        ("mtls__Client", "optional", lambda s: s.mtls.client == "optional"),
        ("SERVICE__NAME", "a b, c", lambda s: s.service.name == "a b, c"),
        ("SERVICE__NAME", "true", lambda s: s.service.name == "true"),
        ("SERVICE__NAME", "123", lambda s: s.service.name == "123"),
        ("SERVICE__NAME", "[x]", lambda s: s.service.name == "[x]"),
        ("SERVICE__NAME", "ünï", lambda s: s.service.name == "ünï"),
        ("SERVICE__MOUNT", "", lambda s: s.service.mount == ""),
        ("SERVICE__MOUNT", "/shop", lambda s: s.service.mount == "/shop"),
        ("SERVICE__MAX_BODY", "1000", lambda s: s.service.max_body == 1000),
        ("SERVICE__MAX_BODY", "1_000", lambda s: s.service.max_body == 1000),
        ("SERVICE__MAX_BODY", "1KiB", lambda s: s.service.max_body == 1024),
        ("KEYS__ROTATE_EVERY", "10d", lambda s: s.keys.rotate_every.days == 10),
        ("KEYS__MIN_GENERATION", "5", lambda s: s.keys.min_generation == 5),
        ("FIELDS__SSN__LEAK_GUARD", "false", lambda s: s.fields["ssn"].leak_guard is False),
        ("FIELDS__SSN__ALSO_OPEN", "[]", lambda s: s.fields["ssn"].also_open == ()),
        ("ROUTES__0__CLIENT", "optional", lambda s: s.routes[0].client == "optional"),
        ("ROUTES__1__ALLOW__0", "dns:a.org", lambda s: s.routes[1].allow == ("dns:a.org",)),
        ("ROUTES__1__ALLOW__1", "dns:a.org", lambda s: len(s.routes[1].allow) == 2),
        ("ROUTES__1__ALLOW", '["dns:a.org", "dns:b.org"]', lambda s: len(s.routes[1].allow) == 2),
        ("ROUTES__2__PATH", "/new", lambda s: s.routes[2].path == "/new"),
        ("ROUTES", '[{ path = "/x", client = "off" }]', lambda s: [r.path for r in s.routes] == ["/x"]),
        ("ROUTES", "[]", lambda s: s.routes == ()),
        ("MTLS__TRUST", '["pki/ca.pem"]', lambda s: len(s.mtls.trust) == 1),
        ("MTLS__TRUST__1", "pki/partner.pem", lambda s: s.mtls.trust[1].may_assert == ()),
        (
            "MTLS__TRUST__0__MAY_ASSERT",
            '["spiffe://example.org/**"]',
            lambda s: s.mtls.trust[0].may_assert == ("spiffe://example.org/**",),
        ),
        ("MTLS__TRUST__1__CA", "pki/server.pem", lambda s: s.mtls.trust[1].may_assert != ()),
        ("KEYS__STORE", "memory:", lambda s: s.keys.store == "memory:"),
        ("KEYS__KEK__FILE", "state/kek", lambda s: s.keys.kek.endswith("/state/kek")),
        ("KEYS__KEK", '{ file = "state/kek" }', lambda s: s.keys.kek.endswith("/state/kek")),
        ("FIELDS__SSN__PLACES__0__REQUEST", "pass", lambda s: s.fields["ssn"].places[0].request == "pass"),
        ("FIELDS__ssn__PLACES__0__ROUTES__1", "/b", lambda s: s.fields["ssn"].places[0].routes[1] == "/b"),
        ("TELEMETRY", '{ traces = "off" }', lambda s: s.telemetry.traces == "off"),
        ("ROTATION__CALLBACKS", '["a.b:c"]', lambda s: s.rotation.callbacks == ("a.b:c",)),
    ],
)
def test_a_variable_goes_over_what_stands_in_the_file(place, name, value, holds):
    before = place.load(FULL)
    after = place.load(FULL, ours(**{name: value}))
    assert holds(after)
    assert after.mtls.certificate == before.mtls.certificate


def test_everything_may_come_from_the_environment(place):
    settings = place.load(
        "",
        ours(
            SERVICE__NAME="a",
            MTLS__TRUST__0__CA="pki/ca.pem",
            MTLS__TRUST__0__MAY_ASSERT__0="dns:a.org",
            ROUTES__0__PATH="/a",
            ROUTES__1__PATH="/b",
            KEYS__RING="r",
            KEYS__STORE="memory:",
            KEYS__KEK__ENV="KEK",
            FIELDS__PAN__PLACES='[{ routes = ["/a"], marks = ["$.pan"], request = "decrypt" }]',
        )
        | {"KEK": "+/+/" * 10 + "+/8="},
    )
    assert settings.mtls.trust[0].may_assert == ("dns:a.org",)
    assert [route.path for route in settings.routes] == ["/a", "/b"]
    assert settings.fields["pan"].places[0].marks == ("$.pan",)


def test_an_outer_variable_comes_before_an_inner_one(place):
    settings = place.load(
        FULL,
        ours(ROUTES__1__CLIENT="optional", ROUTES='[{ path = "/a" }, { path = "/b" }]', ROUTES__0__PATH="/c"),
    )
    assert [(route.path, route.client) for route in settings.routes] == [("/c", None), ("/b", "optional")]


def test_more_than_nine_items_are_added_in_the_order_of_their_numbers(place):
    variables = {f"ROUTES__{number}__PATH": f"/n{number}" for number in range(12)}
    settings = place.load(SERVICE + MTLS, ours(**variables))
    assert [route.path for route in settings.routes] == [f"/n{number}" for number in range(12)]


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("SECMIDDLEWARE__MTLS__CLEINT", "SECMIDDLEWARE__MTLS__CLIENT"),
        ("SECMIDDLEWARE__MTSL__CLIENT", "SECMIDDLEWARE__MTLS__CLIENT"),
        ("SECMIDDLEWARE__MTLS_CLIENT", "SECMIDDLEWARE__MTLS__CLIENT"),
        ("SECMIDDLEWARE__KEYS__ROTATE__EVERY", "SECMIDDLEWARE__KEYS__ROTATE_EVERY"),
        ("SECMIDDLEWARE__KEYS__CLIENT", "SECMIDDLEWARE__KEYS__RING"),
        ("SECMIDDLEWARE__CLIENT", "SECMIDDLEWARE__MTLS"),
        ("SECMIDDLEWARE__", "SECMIDDLEWARE__MTLS"),
        ("SECMIDDLEWARE__MTLS__", "SECMIDDLEWARE__MTLS__CLIENT"),
        ("SECMIDDLEWARE__MTLS____CLIENT", "SECMIDDLEWARE__MTLS__CLIENT"),
        ("SECMIDDLEWARE__ROUTES__CLIENT", "SECMIDDLEWARE__ROUTES__0__CLIENT"),
        ("SECMIDDLEWARE__ROUTES__-1__CLIENT", "SECMIDDLEWARE__ROUTES__0__"),
        ("SECMIDDLEWARE__ROUTES__0__CLEINT", "SECMIDDLEWARE__ROUTES__0__CLIENT"),
        ("SECMIDDLEWARE__FIELDS__SNS__FORMAT", "SECMIDDLEWARE__FIELDS__SSN__FORMAT"),
        ("SECMIDDLEWARE__FIELDS__SSN__FORMATS", "SECMIDDLEWARE__FIELDS__SSN__FORMAT"),
        ("SECMIDDLEWARE__FIELDS__SSN__PLACES__0__REQEST", "SECMIDDLEWARE__FIELDS__SSN__PLACES__0__REQUEST"),
        ("SECMIDDLEWARE__MTLS__TRUST__0__MAYASSERT", "SECMIDDLEWARE__MTLS__TRUST__0__MAY_ASSERT"),
        ("SECMIDDLEWARE__KEYS__KEK__FILES", "SECMIDDLEWARE__KEYS__KEK__FILE"),
        ("SECMIDDLEWARE__MTLS__CLIENT__X", None),
        ("SECMIDLEWARE__MTLS__CLIENT", "SECMIDDLEWARE__MTLS__CLIENT"),
        ("SECMIDDELWARE__MTLS__CLIENT", "SECMIDDLEWARE__MTLS__CLIENT"),
        ("SECMIDDLEWARES__MTLS__CLIENT", "SECMIDDLEWARE__MTLS__CLIENT"),
        ("SEC_MIDDLEWARE__MTLS__CLIENT", "SECMIDDLEWARE__MTLS__CLIENT"),
        ("SECMIDDLEWARE_MTLS_CLIENT", "SECMIDDLEWARE__MTLS__CLIENT"),
        ("SECMIDDLEWARE_MTLS__CLIENT", "SECMIDDLEWARE__MTLS__CLIENT"),
        ("SECMIDDLEWARE_KEYS_ROTATE_EVERY", "SECMIDDLEWARE__KEYS__ROTATE_EVERY"),
        ("secmiddleware__mtls__client", "SECMIDDLEWARE__MTLS__CLIENT"),
        ("Secmiddleware__MTLS__CLIENT", "SECMIDDLEWARE__MTLS__CLIENT"),
        ("MY_SECMIDDLEWARE__MTLS__CLIENT", "SECMIDDLEWARE__MTLS__CLIENT"),
        ("SECMIDDLEWARE__FOO__BAR", "SECMIDDLEWARE__SERVICE"),
        ("SECMIDLEWARE__FOO", "SECMIDDLEWARE__"),
    ],
)
def test_a_variable_that_names_nothing_is_a_mistake_and_what_was_meant_is_said(place, name, hint):
    (found,) = place.findings(FULL, {name: "optional"})
    assert found.key == name
    assert found.source == "environment"
    assert found.line is None
    assert hint is None or hint in found.hint


@pytest.mark.parametrize(
    "name",
    [
        "PATH",
        "MIDDLEWARE__MTLS__CLIENT",
        "SECURITY__MTLS__CLIENT",
        "MTLS__CLIENT",
        "SECMIDDLEWARE",
        "A" * 9000,
    ],
)
def test_other_peoples_variables_are_left_alone(place, name):
    assert place.findings(FULL, {name: "whatever"}) == ()


def test_what_a_variable_breaks_is_told_by_its_name(place):
    for name, value, key, message in [
        ("MTLS__CLIENT", "maybe", "MTLS__CLIENT", "must be"),
        ("MTLS", "x", "MTLS", "must be a table, not a text"),
        ("ROUTES", "x", "ROUTES", "must be a list, not a text"),
        ("MTLS__TRUST", "pki/ca.pem", "MTLS__TRUST", "must be a list, not a text"),
        ("MTLS__TRUST", '["pki/ca.pem", 7]', "MTLS__TRUST[1]", "must be a path"),
        ("ROUTES", '[{ path = "x" }]', "ROUTES[0].path", "starts with a slash"),
        ("ROUTES__9__PATH", "/x", "ROUTES__9__PATH", "names item 9, but the list has 2"),
        ("ROUTES__2__CLIENT", "off", "ROUTES__2__CLIENT", "routes[2].path: is missing"),
        (
            "MTLS__TRUST__2__MAY_ASSERT__0",
            "dns:a.org",
            "MTLS__TRUST__2__MAY_ASSERT__0",
            "mtls.trust[2].ca: is missing",
        ),
        ("FIELDS__PAN__FORMAT", "aead", "FIELDS__PAN__FORMAT", "fields.pan: has no place"),
        ("KEYS__KEK__ENV", "NOT_THERE", "KEYS__KEK__ENV", "the environment has no NOT_THERE"),
        ("KEYS__KEK__FILE", "not/there", "KEYS__KEK__FILE", "there is no such file"),
        ("ROTATION__BROKER__ENV", "NOT_THERE", "ROTATION__BROKER__ENV", "is not set"),
        ("ROTATION__POLL", "10m", "keys.activation_delay", "is too short"),
        ("FIELDS__SSN__LEAK_GUARD", "False", "FIELDS__SSN__LEAK_GUARD", "must be true or false"),
        ("SERVICE__NAME", "", "SERVICE__NAME", "must not be empty"),
        ("SERVICE__NAME", "a\udcff", "SERVICE__NAME", "is not UTF-8"),
        ("SERVICE__NAME", "a" * 70_000, "SERVICE__NAME", "is larger than 64 KiB"),
        ("SERVICE__MAX_BODY", "[" * 5000, "SERVICE__MAX_BODY", "must be"),
        ("MTLS__CLIENT", 'optional"\nclient = "off', "MTLS__CLIENT", "must be"),
        ("MTLS__CLIENT", '"optional"\nx = 1', "MTLS__CLIENT", "must be"),
    ]:
        (found,) = place.findings(FULL, ours(**{name: value}))
        of_variable = found.source == "environment"
        assert found.key == (OURS if of_variable else "") + key, name
        assert message in found.message, name


def test_a_table_that_is_in_the_source_keeps_its_place_beside_a_variable_inside_it(place):
    (found,) = place.findings(FULL.replace('name = "payments"', ""), ours(SERVICE__MOUNT="/a"))
    assert (found.key, found.source, found.line) == ("service.name", str(place.file), 1)
    with pytest.raises(ConfigError) as caught:
        load({"service": {"name": "a"}, "mtls": {"clint": "off"}}, ours(MTLS__PROFILE="strict"))
    assert [one.key for one in caught.value.findings] == ["mtls.clint", "mtls.trust"]


def test_two_variables_for_one_key_are_a_mistake(place):
    for names in [("MTLS__CLIENT", "mtls__client"), ("ROUTES__0__PATH", "ROUTES__00__PATH")]:
        (found,) = place.findings(FULL, {OURS + name: "/x" for name in names} | ours(SERVICE__NAME="a"))[:1]
        assert "names the same key as" in found.message


def test_mistakes_of_the_environment_come_after_those_of_the_file(place):
    found = place.findings(
        "[service]\n[mtls]\ntrust = ['pki/ca.pem']\nzz = 1\n", ours(MTLS__CLEINT="a", MTLS__PROFILE="b")
    )
    assert [one.key for one in found] == [
        "service.name",
        "mtls.zz",
        "SECMIDDLEWARE__MTLS__CLEINT",
        "SECMIDDLEWARE__MTLS__PROFILE",
    ]


def test_a_variable_is_judged_even_where_the_file_is_none(place):
    found = place.findings("[service", ours(MTLS__CLEINT="a"))
    assert [one.source for one in found] == [str(place.file), "environment"]


def test_no_name_of_a_variable_breaks_a_line_or_reaches_the_terminal(place):
    for name in ("X\x1b[31m", "X\nY", "Ü", "X" * 500, "X\udcff"):
        (found,) = place.findings(FULL, {OURS + name: "a"})
        assert str(found).isascii() or "…" in str(found)
        assert found.key.isprintable()
        assert len(found.key) < 250


def test_a_path_in_a_variable_starts_at_the_folder_of_the_file(place, monkeypatch, tmp_path_factory):
    monkeypatch.chdir(tmp_path_factory.mktemp("elsewhere"))
    settings = place.load(SERVICE + MTLS + KEYS, ours(MTLS__TRUST__0="pki/partner.pem"))
    assert settings.mtls.trust[0].ca == place.folder / "pki/partner.pem"


def test_the_environment_of_the_process_is_read_unless_another_is_given(place):
    place.write(FULL)
    script = "import sys; from secmiddleware.settings import load; print(load(sys.argv[1]).mtls.client)"
    done = subprocess.run(
        [sys.executable, "-c", script, os.fspath(place.file)],
        env={**os.environ, **ours(MTLS__CLIENT="optional")},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "optional\n"
