"""Tokens that are bound to a certificate: whose are good, and every forgery that is not."""

from __future__ import annotations

import hashlib
import json
from datetime import datetime, timedelta
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from identity.callers import NOW, caller
from identity.issuing import AUDIENCE, ISSUER, KIND_OF, Issuer, base64url, segment, thumbprint

import secmiddleware
from secmiddleware.identity import bound_tokens
from secmiddleware.identity.bound_tokens import TokenJudge, TokenRules, bearer_in, is_bound
from secmiddleware.identity.jwks import KeySet, load_jwks
from secmiddleware.messages import Identity, Refusal

DER, THIEFS_DER = b"the victim's certificate", b"the thief's certificate"
VICTIM = caller(sha256=hashlib.sha256(DER).hexdigest())
THIEF = caller(sha256=hashlib.sha256(THIEFS_DER).hexdigest())
AT = NOW.timestamp()
INVALID = Refusal("token_invalid")
RULES = TokenRules(ISSUER, (AUDIENCE,), frozenset({"ES256", "RS256", "EdDSA"}))


@pytest.fixture(scope="module")
def issuer() -> Issuer:
    return Issuer("es", "rsa", "ed")


@pytest.fixture(scope="module")
def keys(issuer: Issuer, tmp_path_factory: pytest.TempPathFactory) -> KeySet:
    return load_jwks(issuer.write_jwks(tmp_path_factory.mktemp("jwks") / "jwks.json"))


@pytest.fixture
def judge(keys: KeySet) -> TokenJudge:
    return TokenJudge(RULES, keys)


def bearing(token: str) -> tuple[tuple[bytes, bytes], ...]:
    return ((b"host", b"shop.example"), (b"authorization", b"Bearer " + token.encode("latin-1")))


def verdict(judge: TokenJudge, token: str, who: Identity = VICTIM, at: float = AT) -> Any:
    """A refusal, or the claims."""
    return judge.judge(bearing(token), who, NOW + timedelta(seconds=at - AT))


# --- Good ones.


@pytest.mark.parametrize("by", KIND_OF)
def test_a_token_by_any_kind_of_key_is_good(by: str, tmp_path: Path) -> None:
    issuer = Issuer(by)
    rules = TokenRules(ISSUER, (AUDIENCE,), frozenset({KIND_OF[by][0]}))
    judge = TokenJudge(rules, load_jwks(issuer.write_jwks(tmp_path / "jwks.json")))
    assert verdict(judge, issuer.sign(issuer.claims(AT, DER), by))["sub"] == "client-7"
    other = Issuer(by)
    assert verdict(judge, other.sign(other.claims(AT, DER), by)) == INVALID


def test_the_audience_may_be_one_of_several(issuer: Issuer, keys: KeySet) -> None:
    rules = TokenRules(ISSUER, ("https://old.example", AUDIENCE), RULES.algorithms)
    for audience in (AUDIENCE, ["https://else.example", AUDIENCE], ["https://old.example"]):
        token = issuer.sign(issuer.claims(AT, DER, aud=audience))
        assert verdict(TokenJudge(rules, keys), token)["iss"] == ISSUER


def test_a_token_without_kid_is_good_where_one_key_fits(
    issuer: Issuer, judge: TokenJudge, tmp_path: Path
) -> None:
    assert verdict(judge, issuer.sign(issuer.claims(AT, DER), kid=None))["sub"] == "client-7"
    two = Issuer("es")
    two.public["second"] = Issuer("es").public["es"] | {"kid": "second"}
    judge = TokenJudge(RULES, load_jwks(two.write_jwks(tmp_path / "jwks.json", "es", "second")))
    assert verdict(judge, two.sign(two.claims(AT, DER)))["sub"] == "client-7"
    assert verdict(judge, two.sign(two.claims(AT, DER), kid=None)) == INVALID


def test_headers_that_bring_or_name_keys_are_not_listened_to(issuer: Issuer, judge: TokenJudge) -> None:
    stranger = Issuer("es")
    brought = {
        "jku": "http://127.0.0.1:9/jwks.json",
        "x5u": "http://127.0.0.1:9/cert.pem",
        "x5c": ["AAAA"],
        "jwk": stranger.public["es"],
    }
    assert verdict(judge, issuer.sign(issuer.claims(AT, DER), **brought))["sub"] == "client-7"
    assert verdict(judge, stranger.sign(stranger.claims(AT, DER), **brought)) == INVALID
    assert verdict(judge, stranger.sign(stranger.claims(AT, DER), kid=None, **brought)) == INVALID


def test_claims_cannot_be_changed_to_their_last_leaf(issuer: Issuer, judge: TokenJudge) -> None:
    claims = verdict(judge, issuer.sign(issuer.claims(AT, DER, roles=[{"a": ["b"]}])))
    assert claims["roles"] == (MappingProxyType({"a": ("b",)}),)
    for mapping in (claims, claims["cnf"], claims["roles"][0]):
        with pytest.raises(TypeError):
            mapping["sub"] = "root"


# --- Whose they are.


def test_a_stolen_token_is_of_no_use_with_another_certificate(issuer: Issuer, judge: TokenJudge) -> None:
    token = issuer.sign(issuer.claims(AT, DER))
    assert verdict(judge, token, THIEF) == INVALID
    assert verdict(judge, token, VICTIM)["sub"] == "client-7"
    assert verdict(judge, token, THIEF) == INVALID  # remembered, and compared all the same


UNBOUND = {
    "no cnf": None,
    "another certificate": {"x5t#S256": thumbprint(THIEFS_DER)},
    "x5t, SHA-1, alone": {"x5t": base64url(hashlib.sha1(DER).digest())},
    "a key beside it": {"x5t#S256": thumbprint(DER), "jkt": thumbprint(DER)},
    "padding": {"x5t#S256": thumbprint(DER) + "="},
    "hex": {"x5t#S256": hashlib.sha256(DER).hexdigest()},
    "not all of it": {"x5t#S256": thumbprint(DER)[:-1]},
    "other letters for the same bytes": {"x5t#S256": thumbprint(DER)[:-1] + "\u00e9"},
    "a list": {"x5t#S256": [thumbprint(DER)]},
    "no object": thumbprint(DER),
    "a list of objects": [{"x5t#S256": thumbprint(DER)}],
    "nothing": {},
    "null": {"x5t#S256": None},
    "half a surrogate": {"x5t#S256": "\ud800"},
    "in another case": {"X5T#S256": thumbprint(DER)},
}


@pytest.mark.parametrize("cnf", UNBOUND.values(), ids=UNBOUND)
def test_what_binds_otherwise_or_not_at_all_is_not_bound(cnf: Any, issuer: Issuer, judge: TokenJudge) -> None:
    claims = issuer.claims(AT, cnf=cnf)
    assert not is_bound(claims, VICTIM)
    assert verdict(judge, issuer.sign(claims)) == INVALID


def test_claims_that_the_app_has_verified_itself_are_bound_or_not() -> None:
    introspected = {"active": True, "cnf": {"x5t#S256": thumbprint(DER)}}
    assert secmiddleware.is_bound(introspected, VICTIM)
    assert is_bound(MappingProxyType({"cnf": MappingProxyType(introspected["cnf"])}), VICTIM)
    assert not is_bound(introspected, THIEF)
    assert not is_bound(introspected, None)
    for odd in (None, "cnf", ["cnf"], 7, b"", {}):
        assert not is_bound(odd, VICTIM)


def test_the_thumbprint_is_the_one_of_rfc_8705() -> None:
    """Appendix A: its certificate's SHA-256 and the cnf that goes with it."""
    told = "A4DtL2JmUMhAsvJj5tKyn64SqzmuXbMrJa0n761y5v0"
    digest = "0380ed2f626650c840b2f263e6d2b29fae12ab39ae5db32b25ad27efad72e6fd"
    assert is_bound({"cnf": {"x5t#S256": told}}, caller(sha256=digest))


_JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text() | st.just("x5t#S256"), inner),
    max_leaves=6,
)


@given(st.dictionaries(st.text() | st.just("cnf"), _JSON))
def test_no_claims_of_chance_are_bound_and_none_raise(claims: dict[str, Any]) -> None:
    assert is_bound(claims, VICTIM) is False


# --- When they are good.


def test_a_token_ends_to_the_second_and_a_remembered_one_too(issuer: Issuer, judge: TokenJudge) -> None:
    token = issuer.sign(issuer.claims(AT, DER))  # 300 s, and 30 s of leeway
    assert verdict(judge, token, at=AT)["sub"] == "client-7"
    assert verdict(judge, token, at=AT + 329.9)["sub"] == "client-7"
    assert verdict(judge, token, at=AT + 330) == INVALID
    assert verdict(judge, issuer.sign(issuer.claims(AT, DER, exp=int(AT) - 31))) == INVALID
    assert verdict(judge, issuer.sign(issuer.claims(AT, DER, exp=int(AT) - 29)))["sub"] == "client-7"


@pytest.mark.parametrize("name", ["nbf", "iat"])
def test_a_token_of_the_future_is_refused_until_then(name: str, issuer: Issuer, judge: TokenJudge) -> None:
    token = issuer.sign(issuer.claims(AT, DER, **{name: int(AT) + 60}))
    assert verdict(judge, token) == INVALID
    assert verdict(judge, token, at=AT + 29.9) == INVALID
    assert verdict(judge, token, at=AT + 30)["sub"] == "client-7"


@pytest.mark.parametrize("name", ["exp", "nbf", "iat"])
@pytest.mark.parametrize(
    "value", ["2030-01-01", "1e999", "NaN", "true", "[1]", '"9999999999"', "1" + "0" * 400]
)
def test_what_is_no_date_is_refused(name: str, value: str, issuer: Issuer, judge: TokenJudge) -> None:
    claims = json.dumps(issuer.claims(AT, DER) | {name: "@"}).replace('"@"', value)
    assert verdict(judge, issuer.sign(claims)) == INVALID


# --- For whom.


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("iss", ISSUER + "/"),
        ("iss", ISSUER.upper()),
        ("iss", [ISSUER]),
        ("iss", None),
        ("aud", None),
        ("aud", "https://else.example"),
        ("aud", AUDIENCE + "/"),
        ("aud", []),
        ("aud", [AUDIENCE, 7]),
        ("aud", {AUDIENCE: 1}),
        ("aud", [[AUDIENCE]]),
        ("exp", None),
    ],
)
def test_a_token_for_somebody_else_or_for_ever_is_refused(
    name: str, value: Any, issuer: Issuer, judge: TokenJudge
) -> None:
    assert verdict(judge, issuer.sign(issuer.claims(AT, DER, **{name: value}))) == INVALID


def test_where_only_access_tokens_are_wanted_an_id_token_is_refused(issuer: Issuer, keys: KeySet) -> None:
    strict = TokenJudge(TokenRules(ISSUER, (AUDIENCE,), RULES.algorithms, typ="at+jwt"), keys)
    claims = issuer.claims(AT, DER)
    for typ in ("at+jwt", "AT+JWT", "application/at+jwt"):
        assert verdict(strict, issuer.sign(claims, typ=typ))["sub"] == "client-7"
    for other in ("JWT", None, "jwt+at", 7, "at+jwt "):
        assert verdict(strict, issuer.sign(claims, typ=other)) == INVALID
        assert verdict(TokenJudge(RULES, keys), issuer.sign(claims, typ=other))["sub"] == "client-7"


# --- Forged.


def _unsigned(header: Any, claims: Any, signature: str = "") -> str:
    return f"{segment(header)}.{segment(claims)}.{signature}"


def _forged(issuer: Issuer) -> dict[str, str]:
    claims = issuer.claims(AT, DER)
    good = issuer.sign(claims)
    protected, payload, signature = good.split(".")
    stranger = Issuer("es", "rsa")
    doubled = json.dumps(claims)[:-1] + f', "cnf": {{"x5t#S256": "{thumbprint(DER)}"}}}}'
    deep = '{"a":' * 900 + "1" + "}" * 900
    return {
        "alg none": _unsigned({"alg": "none"}, claims),
        "alg None": _unsigned({"alg": "None", "kid": "es"}, claims, signature),
        "alg none with the signature": _unsigned({"alg": "none", "kid": "es"}, claims, signature),
        "no alg": issuer.sign_raw('{"kid":"es"}', claims),
        "alg a list": issuer.sign_raw('{"alg":["ES256"],"kid":"es"}', claims),
        "HS256 with the public key": issuer.with_public_key_as_secret(claims),
        "alg of another kind": issuer.sign_raw('{"alg":"RS256","kid":"es"}', claims),
        "alg that is not ours": issuer.sign(claims, "rsa", alg="PS256"),
        "kid of another key": issuer.sign(claims, kid="rsa"),
        "kid of nobody": issuer.sign(claims, kid="nobody"),
        "kid a number": issuer.sign(claims, kid=7),
        "kid null": issuer.sign_raw('{"alg":"ES256","kid":null}', claims),
        "kid empty": issuer.sign(claims, kid=""),
        "another's key of that name": stranger.sign(claims),
        "no signature": f"{protected}.{payload}.",
        "no third part": f"{protected}.{payload}",
        "a fourth part": f"{good}.{signature}",
        "zeros": f"{protected}.{payload}.{base64url(bytes(64))}",
        "a padded signature": f"{good}=",
        "other claims": f"{protected}.{segment(claims | {'sub': 'root'})}.{signature}",
        "crit": issuer.sign(claims, crit=["exp"]),
        "crit empty": issuer.sign(claims, crit=[]),
        "b64": issuer.sign(claims, b64=True),
        "cnf twice": issuer.sign(doubled),
        "cnf twice inside": issuer.sign(json.dumps(claims).replace('{"x5t', '{"x5t#S256":"","x5t')),
        "alg twice": issuer.sign_raw('{"alg":"none","alg":"ES256","kid":"es"}', claims),
        "nested": issuer.sign(good, cty="JWT"),
        "claims a list": issuer.sign([claims]),
        "claims empty": f"{protected}..{signature}",
        "deep claims": issuer.sign(json.dumps(claims)[:-1] + f', "a": {deep}}}'),
        "deep header": f"{segment(deep)}.{payload}.{signature}",
        "UTF-16 claims": issuer.sign(claims).replace(payload, base64url(json.dumps(claims).encode("utf-16"))),
        "NaN": issuer.sign(json.dumps(claims)[:-1] + ', "a": NaN}'),
        "huge": issuer.sign(claims | {"a": "a" * 9000}),
        "a space inside": good[:40] + " " + good[40:],
        "newline": good + "\n",
        "trailing junk": good + ";x",
        "two": f"{good}, Bearer {good}",
        "nothing": "",
        "dots": "..",
        "garbage": "AAAA.BBBB.CCCC",
    }


def test_a_forged_token_is_refused_like_every_other(issuer: Issuer, keys: KeySet) -> None:
    forged = _forged(issuer)
    assert len(set(forged.values())) == len(forged)
    judge = TokenJudge(RULES, keys)
    assert {name for name, token in forged.items() if verdict(judge, token) != INVALID} == set()


def test_the_forgeries_differ_from_what_is_good(issuer: Issuer, judge: TokenJudge) -> None:
    """Else a broken test of a forgery would look like a refused one."""
    good = issuer.sign(issuer.claims(AT, DER))
    assert verdict(judge, good)["sub"] == "client-7"
    _, payload, _ = good.split(".")
    assert verdict(judge, issuer.sign_raw('{"alg":"ES256","kid":"es"}', issuer.claims(AT, DER)))
    assert segment(json.dumps(issuer.claims(AT, DER), separators=(",", ":"))) == payload


def test_no_changed_token_is_good(issuer: Issuer, judge: TokenJudge) -> None:
    good = issuer.sign(issuer.claims(AT, DER))
    for place in range(0, len(good), 5):
        for letter in "A.-":
            if good[place] != letter:
                assert verdict(judge, good[:place] + letter + good[place + 1 :]) == INVALID


@given(st.text(alphabet="AQgw-_.=e{}", max_size=60))
def test_no_text_at_all_brings_anything_but_a_refusal(text: str) -> None:
    assert verdict(TokenJudge(RULES, KeySet(())), text) == INVALID


# --- Where a token stands.


@pytest.mark.parametrize(
    "headers",
    [
        (),
        ((b"authorization", b""),),
        ((b"authorization", b"Basic dXNlcjpwYXNz"),),
        ((b"authorization", b"Bearertoken"),),
        ((b"authorization", b"DPoP abc"),),
        ((b"x-authorization", b"Bearer abc"),),
    ],
)
def test_no_bearer_is_a_missing_token(headers: Any) -> None:
    assert bearer_in(headers) == Refusal("token_missing")


@pytest.mark.parametrize("value", [b"Bearer abc", b"bearer abc", b"BEARER   abc", b" Bearer abc "])
def test_the_scheme_has_no_case(value: bytes) -> None:
    assert bearer_in(((b"authorization", value),)) == b"abc"


@pytest.mark.parametrize(
    "values",
    [
        [b"Bearer"],
        [b"Bearer "],
        [b"Bearer abc def"],
        [b"Bearer\tabc"],
        [b"Bearer abc,"],
        [b"Bearer =abc"],
        [b'Bearer "abc"'],
        [b"Bearer abc", b"Bearer abc"],
        [b"Bearer abc", b"Basic abc"],
        [b"Bearer \xff"],
    ],
)
def test_what_is_not_one_token_is_no_token(values: list[bytes]) -> None:
    refused = bearer_in(tuple((b"authorization", value) for value in values))
    assert isinstance(refused, Refusal)
    # RFC 9110 §5.1: white space other than SP ends no scheme, and who reads it so has no bearer.
    assert refused.code == ("token_missing" if b"\t" in values[0] else "token_invalid")


def test_two_headers_are_refused_whichever_is_good(issuer: Issuer, judge: TokenJudge) -> None:
    good = (b"authorization", b"Bearer " + issuer.sign(issuer.claims(AT, DER)).encode())
    for other in ((b"authorization", b"Basic x"), (b"authorization", b"Bearer x"), good):
        for both in ((good, other), (other, good)):
            assert isinstance(judge.judge(both, VICTIM, NOW), Refusal)


def test_a_refusal_says_that_a_token_is_wanted_and_never_what_is_wrong() -> None:
    def told(code: str) -> bytes:
        return dict(Refusal(code).problem("0" * 32)[0].headers)[b"www-authenticate"]

    assert told("token_missing").startswith(b"Bearer ")
    assert b"error" not in told("token_missing")
    assert told("token_invalid").endswith(b'error="invalid_token"')
    assert b"www-authenticate" not in dict(Refusal("certificate_missing").problem("0" * 32)[0].headers)


# --- What is remembered.


def _counting(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    seen: list[bytes] = []
    real = bound_tokens._verify

    def verify(token: bytes, *rest: Any) -> Any:
        seen.append(token)
        return real(token, *rest)

    monkeypatch.setattr(bound_tokens, "_verify", verify)
    return seen


def test_a_token_is_verified_once_for_a_key_set(
    issuer: Issuer, keys: KeySet, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    seen, judge = _counting(monkeypatch), TokenJudge(RULES, keys)
    token = issuer.sign(issuer.claims(AT, DER))
    for _ in range(3):
        assert verdict(judge, token)["sub"] == "client-7"
    assert len(seen) == 1
    without = load_jwks(issuer.write_jwks(tmp_path / "jwks.json", "rsa"))
    assert verdict(TokenJudge(RULES, without), token) == INVALID  # the key is gone: so is what it signed


def test_bad_tokens_are_not_remembered_and_good_ones_up_to_a_bound(
    issuer: Issuer, keys: KeySet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bound_tokens, "_KEPT", 4)
    seen, judge = _counting(monkeypatch), TokenJudge(RULES, keys)
    for _ in range(2):
        assert verdict(judge, "a.b.c") == INVALID
    assert len(seen) == 2
    assert judge._young == {}
    tokens = [issuer.sign(issuer.claims(AT, DER, jti=str(number))) for number in range(20)]
    for token in tokens:
        assert verdict(judge, token)["sub"] == "client-7"
        assert len(judge._young) + len(judge._old) <= 8
    seen.clear()
    assert verdict(judge, tokens[-1])["jti"] == "19"
    assert verdict(judge, tokens[-5])["jti"] == "15"  # of the generation before
    assert seen == []
    assert verdict(judge, tokens[0])["jti"] == "0"
    assert len(seen) == 1
    assert not any(token.encode() in repr(vars(judge)).encode() for token in tokens)


def test_a_judge_keeps_no_clock(issuer: Issuer, judge: TokenJudge) -> None:
    past = datetime(2001, 1, 1, tzinfo=NOW.tzinfo)
    token = issuer.sign(issuer.claims(past.timestamp(), DER))
    assert judge.judge(bearing(token), VICTIM, past)
    assert judge.judge(bearing(token), VICTIM, NOW) == INVALID
