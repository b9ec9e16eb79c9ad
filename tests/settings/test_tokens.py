"""What an operator may say of access tokens, and every mistake that there is to make."""

from __future__ import annotations

import json
import sys
from datetime import timedelta

import pytest
from identity.issuing import Issuer
from joserfc.jwk import ECKey, OctKey
from settings.documents import MTLS, SERVICE

from secmiddleware import SecurityManager
from secmiddleware.errors import ConfigError
from secmiddleware.identity.bound_tokens import TokenJudge
from secmiddleware.parts import tokens_of
from secmiddleware.settings.models import Settings

ROUTE = '[[routes]]\npath = "/accounts/**"\nrequire_bound_token = true\n'
TOKENS = (
    '[tokens]\njwks = "pki/jwks.json"\nissuer = "https://issuer.example"\naudience = "https://shop.example"\n'
)
GOOD = SERVICE + MTLS + ROUTE + TOKENS


@pytest.fixture
def served(place):
    """A folder in which the issuer's keys are, too."""
    Issuer("es", "ed").write_jwks(place.folder / "pki/jwks.json")
    return place


def test_three_keys_are_enough(served):
    tokens = served.load(GOOD).tokens
    assert tokens.jwks == served.folder / "pki/jwks.json"
    assert tokens.audience == ("https://shop.example",)
    assert tokens.leeway == timedelta(seconds=30)
    assert "none" not in tokens.algorithms
    assert not any(name.startswith("HS") for name in tokens.algorithms)


def test_a_service_may_have_several_names(served):
    text = GOOD.replace('audience = "https://shop.example"', 'audience = ["a", "b"]')
    assert served.load(text).tokens.audience == ("a", "b")


def test_a_bound_token_implies_a_certificate_whatever_the_default(served):
    text = GOOD.replace("[mtls]\n", '[mtls]\nclient = "off"\n')
    (rule,) = SecurityManager(served.load(text)).snapshot.policy.rules
    assert (rule.client, rule.bound_token) == ("required", True)
    assert served.findings(SERVICE + '[mtls]\nclient = "off"\n' + ROUTE + TOKENS)[0].key == "mtls.trust"


@pytest.mark.parametrize(
    ("text", "key", "told"),
    [
        (SERVICE + MTLS + ROUTE, "routes[0].require_bound_token", "there is no [tokens]"),
        (SERVICE + MTLS + TOKENS, "tokens", "no route requires a token"),
        (
            GOOD.replace("true\n", 'true\nclient = "off"\n'),
            "routes[0].require_bound_token",
            'client is "off"',
        ),
        (
            GOOD.replace("true\n", 'true\nclient = "optional"\n'),
            "routes[0].require_bound_token",
            'client is "optional"',
        ),
        (GOOD + 'leeway = "11m"\n', "tokens.leeway", "longer than 10m"),
        (GOOD + 'algorithms = ["none"]\n', "tokens.algorithms[0]", 'must be "ES256", "ES384"'),
        (GOOD + 'algorithms = ["ES256", "HS256"]\n', "tokens.algorithms[1]", 'must be "ES256", "ES384"'),
        (GOOD + "algorithms = []\n", "tokens.algorithms", "must not be empty"),
        (GOOD + 'algorithms = ["RS256"]\n', "tokens.algorithms", "are none that a key of"),
        (GOOD.replace('"https://shop.example"', "[]"), "tokens.audience", "must not be empty"),
        (GOOD.replace('"https://shop.example"', '""'), "tokens.audience[0]", "must not be empty"),
        (GOOD.replace('issuer = "https://issuer.example"\n', ""), "tokens.issuer", "is missing"),
        (GOOD + 'typ = "JWT"\n', "tokens.typ", "must be"),
        (GOOD.replace("jwks.json", "nowhere.json"), "tokens.jwks", "there is no file"),
        (GOOD.replace("jwks.json", "ca.pem"), "tokens.jwks", "is not a JWK Set"),
        (GOOD.replace("true\n", '"yes"\n'), "routes[0].require_bound_token", "must be"),
    ],
)
def test_a_mistake_is_told_once_with_its_key(served, text, key, told):
    (found,) = served.findings(text)
    assert found.key == key
    assert told in found.message
    assert found.line is not None


def test_every_mistake_of_a_key_set_is_told_at_once_and_no_secret_is(served):
    secret, private = OctKey.generate_key(256), ECKey.generate_key("P-256")
    keys = [secret.as_dict(private=True), private.as_dict(private=True), {"kty": "none"}]
    (served.folder / "pki/jwks.json").write_text(json.dumps({"keys": keys}))
    found = served.findings(GOOD)
    assert [one.key for one in found] == ["tokens.jwks"] * 3
    assert all(one.source == str(served.file) and one.line and one.hint for one in found)
    for key in (keys[0]["k"], keys[1]["d"]):
        assert key not in str(found)


def test_without_joserfc_it_is_said_what_to_install(served, monkeypatch):
    monkeypatch.setitem(sys.modules, "joserfc", None)  # cannot be imported
    (found,) = served.findings(GOOD)
    assert (found.key, found.hint) == ("tokens", "pip install 'secmiddleware[joserfc]'")


def test_settings_that_nobody_reviewed_do_not_let_a_route_go_without(served):
    whole = served.load(GOOD)
    with pytest.raises(ConfigError, match="tokens: is missing"):
        SecurityManager(Settings(service=whole.service, mtls=whole.mtls, routes=whole.routes))


def test_a_judge_is_made_of_what_the_file_holds_now(served):
    settings = served.load(GOOD)
    before = tokens_of(settings)
    Issuer("ed").write_jwks(served.folder / "pki/jwks.json")
    after = tokens_of(settings)
    assert isinstance(before, TokenJudge)
    assert isinstance(after, TokenJudge)
    assert [key.kid for key in before._keys.keys] == ["es", "ed"]
    assert [key.kid for key in after._keys.keys] == ["ed"]
    (served.folder / "pki/jwks.json").write_text("{}")
    with pytest.raises(ConfigError, match=r"tokens\.jwks"):
        tokens_of(settings)
