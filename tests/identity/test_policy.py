"""Who may come where."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from identity.callers import caller

from secmiddleware.identity.patterns import NamePattern
from secmiddleware.identity.policy import Policy, Rule, decide
from secmiddleware.messages import Refusal
from secmiddleware.paths import PathPattern

OPS = NamePattern.parse("spiffe://td.org/ops/*")
PARTNER = NamePattern.parse("dns:api.partner.example")


def rule(path: str | None, client: str, *allow: NamePattern, where: str = "routes[0]") -> Rule:
    return Rule(None if path is None else PathPattern.parse(path), client, allow, where)


def test_the_first_rule_that_matches_decides_and_the_default_the_rest():
    rules = (
        rule("/a/b", "off", where="routes[0]"),
        rule("/a/**", "required", OPS, where="routes[1]"),
        rule("/**", "optional", where="routes[2]"),
    )
    policy = Policy(rules[:2], rule(None, "required", where="mtls"))
    assert [policy.rule_for(path).where for path in ("/a/b", "/a/b/", "/a", "/a/b/c", "/x", "/")] == [
        "routes[0]", "routes[0]", "routes[1]", "routes[1]", "mtls", "mtls",
    ]  # fmt: skip
    assert Policy(rules[::-1], rules[0]).rule_for("/a/b").where == "routes[2]"


def test_no_rules_at_all_means_the_default():
    default = rule(None, "required")
    assert Policy((), default).rule_for("/anything") is default


@pytest.mark.parametrize(
    ("decided", "identity", "refusal"),
    [
        (rule("/", "required"), None, Refusal("certificate_missing", "routes[0].client")),
        (rule("/", "required", OPS), None, Refusal("certificate_missing", "routes[0].client")),
        (rule("/", "optional"), None, None),
        (rule("/", "off"), None, None),
        (rule("/", "required"), caller(), None),
        (rule("/", "optional"), caller(), None),
        (rule("/", "off"), caller(), None),
        (rule("/", "required", OPS), caller(spiffe_id="spiffe://td.org/ops/a"), None),
        (rule("/", "required", OPS, PARTNER), caller(dns=("api.partner.example",)), None),
        (rule("/", "required", OPS), caller(spiffe_id="spiffe://td.org/dev/a"), "denied"),
        (rule("/", "required", OPS), caller(), "denied"),
        (rule("/", "required", OPS), caller(dns=("api.partner.example",)), "denied"),
        (rule(None, "required", where="mtls"), None, Refusal("certificate_missing", "mtls.client")),
    ],
)
def test_who_is_let_through(decided, identity, refusal):
    if refusal == "denied":
        refusal = Refusal("identity_not_allowed", "routes[0].allow")
    assert decide(decided, identity) == refusal


@pytest.mark.parametrize("client", ["optional", "off"])
def test_to_allow_names_is_to_require_one(client):
    with pytest.raises(ValueError, match="requires one"):
        rule("/", client, OPS)


PATTERNS = st.builds(
    lambda segments, tree: PathPattern.parse("/" + "/".join([*segments, *(["**"] if tree else [])])),
    st.lists(st.sampled_from(["a", "b", "*"]), max_size=3),
    st.booleans(),
)


@given(st.lists(PATTERNS, max_size=5), st.lists(st.sampled_from("abc"), max_size=4))
@settings(max_examples=150, deadline=None)
def test_no_later_rule_ever_decides_where_an_earlier_one_matches(patterns, segments):
    path = "/" + "/".join(segments)
    rules = tuple(Rule(pattern, "required", (), f"routes[{n}]") for n, pattern in enumerate(patterns))
    found = Policy(rules, Rule(None, "off")).rule_for(path)
    matching = [one for one in rules if one.path.matches(path)]
    assert found == (matching[0] if matching else Rule(None, "off"))


def test_a_rule_with_a_bound_token_requires_what_it_is_bound_to() -> None:
    for client in ("optional", "off"):
        with pytest.raises(ValueError, match="requires what it is bound to"):
            Rule(None, client, bound_token=True)
    assert Rule(None, "required", bound_token=True).bound_token
