"""Who may come where."""

from __future__ import annotations

import timeit

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from identity.callers import caller, head

from secmiddleware.identity.patterns import NamePattern
from secmiddleware.identity.policy import Client, Policy, Rule, decide, is_plain_method, methods_meant
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
    assert [policy.rule_for(path, "GET").where for path in ("/a/b", "/a/b/", "/a", "/a/b/c", "/x", "/")] == [
        "routes[0]", "routes[0]", "routes[1]", "routes[1]", "mtls", "mtls",
    ]  # fmt: skip
    assert Policy(rules[::-1], rules[0]).rule_for("/a/b", "GET").where == "routes[2]"


def test_no_rules_at_all_means_the_default():
    default = rule(None, "required")
    assert Policy((), default).rule_for("/anything", "GET") is default


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
    found = Policy(rules, Rule(None, "off")).rule_for(path, "GET")
    matching = [one for one in rules if one.path.matches(path)]
    assert found == (matching[0] if matching else Rule(None, "off"))


def test_a_rule_with_a_bound_token_requires_what_it_is_bound_to() -> None:
    for client in ("optional", "off"):
        with pytest.raises(ValueError, match="requires what it is bound to"):
            Rule(None, client, bound_token=True)
    assert Rule(None, "required", bound_token=True).bound_token


# Who may not

BAD = NamePattern.parse("spiffe://td.org/ops/bad")
DENYING = Rule(PathPattern.parse("/"), "required", (), "routes[0]", (BAD, PARTNER))
BOTH = Rule(PathPattern.parse("/"), "required", (OPS,), "routes[0]", (BAD,))
DENIED = Refusal("identity_not_allowed", "routes[0].deny")
NOT_ALLOWED = Refusal("identity_not_allowed", "routes[0].allow")


@pytest.mark.parametrize(
    ("decided", "identity", "refusal"),
    [
        (DENYING, None, Refusal("certificate_missing", "routes[0].client")),
        (DENYING, caller(), None),
        (DENYING, caller(spiffe_id="spiffe://td.org/ops/a"), None),
        (DENYING, caller(spiffe_id="spiffe://td.org/ops/bad"), DENIED),
        (DENYING, caller(dns=("good.example", "API.partner.example")), DENIED),
        (BOTH, caller(spiffe_id="spiffe://td.org/ops/a"), None),
        (BOTH, caller(spiffe_id="spiffe://td.org/ops/bad"), DENIED),
        (BOTH, caller(spiffe_id="spiffe://td.org/dev/a"), NOT_ALLOWED),
        (BOTH, caller(), NOT_ALLOWED),
    ],
)
def test_whom_a_rule_denies_is_kept_out_whatever_it_allows(decided, identity, refusal):
    assert decide(decided, identity) == refusal


@pytest.mark.parametrize("client", ["optional", "off"])
def test_to_deny_names_is_to_require_one(client):
    with pytest.raises(ValueError, match="requires one"):
        Rule(PathPattern.parse("/"), client, deny=(BAD,))


# By method


def of_methods(path, *methods, where="routes[0]", preflight=False, client="required"):
    return Rule(PathPattern.parse(path), client, (), where, (), methods_meant(methods), preflight)


def test_get_is_head_too_and_no_method_is_every_method():
    assert methods_meant(["GET"]) == methods_meant(["GET", "HEAD"]) == {"GET", "HEAD"}
    assert methods_meant(["HEAD"]) == {"HEAD"}
    assert methods_meant([]) is None
    assert of_methods("/").is_for("BREW")
    assert not of_methods("/", "POST").is_for("GET")


@pytest.mark.parametrize("methods", [set(), {"GET"}, {"get"}, {"POST", "G T"}, {"DEL\u0395TE"}])
def test_a_rule_with_methods_that_nobody_means_is_not_built(methods):
    with pytest.raises(ValueError, match="methods of a rule"):
        Rule(None, "off", methods=frozenset(methods))


@pytest.mark.parametrize("method", ["GET", "M-SEARCH", "BREW", "A_B", "X!", "PATCH"])
def test_a_token_in_capitals_is_read_in_one_way_only(method):
    assert is_plain_method(method)


ODD = [
    "get",
    "Delete",
    "dELETE",
    "",
    " GET",
    "GET ",
    "GET\n",
    "GE\tT",
    "P\u00d6ST",
    "PO\u017fT",
    "G@T",
    "GET\0",
]


@pytest.mark.parametrize("method", ODD)
def test_an_odd_method_gets_no_further_than_the_first_rule_that_has_methods(method):
    assert not is_plain_method(method)
    rules = (
        of_methods("/open", where="routes[0]"),
        of_methods("/**", "DELETE", where="routes[1]"),
        of_methods("/later", where="routes[2]"),
    )
    policy = Policy(rules, rule(None, "off", where="mtls"))
    refusal = Refusal("identity_not_allowed", "routes[1].methods")
    assert policy.rule_for("/open", method) is rules[0]
    assert policy.rule_for("/later", method) == policy.rule_for("/x", method) == refusal
    # Where no rule of the path has methods, the method decides nothing, and the app has the last word.
    assert Policy(rules[::2], rules[0]).rule_for("/x", method) is rules[0]
    narrow = Policy((of_methods("/a", "GET"),), rules[0])
    assert narrow.rule_for("/b", method) is rules[0]
    assert isinstance(narrow.rule_for("/a", method), Refusal)


METHODS = st.sampled_from(["GET", "HEAD", "POST", "DELETE", "OPTIONS"])
RULES = st.lists(
    st.builds(
        lambda pattern, methods, preflight: Rule(
            pattern, "required", methods=methods_meant(methods), preflight=preflight
        ),
        st.none() | PATTERNS,
        st.lists(METHODS, max_size=2),
        st.booleans(),
    ),
    max_size=6,
).map(lambda rules: tuple(Rule(**{**fields_of(one), "where": f"routes[{n}]"}) for n, one in enumerate(rules)))
PATHS = st.lists(st.sampled_from(["a", "b", "ab", "\n", "a.b"]), max_size=4).map(
    lambda parts: "/" + "/".join(parts)
)


def fields_of(one):
    return {name: getattr(one, name) for name in ("path", "client", "methods", "preflight")}


def naive(rules, path, methods):
    """The first rule, one by one, that matches the path and one of the methods."""
    for one in rules:
        if one.path is not None and not one.path.matches(path):
            continue
        takes = {method for method in methods if one.methods is None or method in one.methods}
        if takes:
            return one
    return None


@given(RULES, PATHS, st.sampled_from(["GET", "HEAD", "POST", "DELETE", "OPTIONS", "PUT", "BREW"]))
@settings(max_examples=300, deadline=None)
def test_the_first_rule_of_path_and_method_decides_as_one_by_one(rules, path, method):
    default = Rule(None, "off")
    assert Policy(rules, default).rule_for(path, method) is (naive(rules, path, [method]) or default)


@given(RULES, PATHS, METHODS)
@settings(max_examples=300, deadline=None)
def test_no_method_in_another_case_gets_what_a_later_rule_says(rules, path, method):
    policy = Policy(rules, Rule(None, "off"))
    found = policy.rule_for(path, method.lower())
    first = next((one for one in rules if one.path is None or one.path.matches(path)), policy.default)
    if first.methods is None:
        assert found is first is policy.rule_for(path, method)
    else:
        assert found == Refusal("identity_not_allowed", f"{first.where}.methods")


@given(RULES, PATHS, METHODS)
@settings(max_examples=300, deadline=None)
def test_a_preflight_is_let_in_by_the_first_rule_for_options_or_its_method(rules, path, method):
    policy = Policy(rules, Rule(None, "required"))
    decides = naive(rules, path, ["OPTIONS", method])
    asks = head(method="OPTIONS", origin="https://a.example", access_control_request_method=method)
    assert policy.lets_preflight(path, asks) == (decides is not None and decides.preflight)
    assert not policy.lets_preflight(path, head(method="OPTIONS", origin="https://a.example"))


def test_fifty_rules_are_found_in_little_more_time_than_one():
    """One expression holds them all: a rule more costs a fraction of what trying it would."""

    def seconds(count):
        rules = tuple(of_methods(f"/api/v1/r{n}/**", "GET") for n in range(count))
        policy, path = Policy(rules, Rule(None, "off")), f"/api/v1/r{count - 1}/x"
        assert policy.rule_for(path, "GET") is rules[-1]
        return min(timeit.repeat(lambda: policy.rule_for(path, "GET"), number=500, repeat=7))

    assert seconds(50) < 8 * seconds(1)  # one by one: 30 and more
    assert seconds(1000) < 100 * seconds(1)  # one by one: 600 and more


@pytest.mark.parametrize("default", ["off", "optional", "required"])
@pytest.mark.parametrize("of_a_route", ["off", "optional", "required"])
def test_somebody_is_asked_where_any_rule_asks_and_required_where_any_requires(
    default: Client, of_a_route: Client
) -> None:
    policy = Policy((Rule(PathPattern("/x"), of_a_route),), Rule(None, default))
    assert policy.asks is ({default, of_a_route} != {"off"})
    assert policy.requires is ("required" in (default, of_a_route))
