"""What each kind of name pattern matches, what it does not, and what is no pattern."""

from __future__ import annotations

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from identity.callers import caller

from secmiddleware.identity.patterns import NamePattern

AA, BB, CC = "aa" * 32, "bb" * 32, "cc" * 32
FINGERPRINT = ":".join(["AA"] * 32)

# pattern, kind, values that fall under it, values that do not
NAMES = [
    ("spiffe://td.org/ops", "spiffe", ["spiffe://td.org/ops"], [
        "spiffe://td.org/Ops", "spiffe://td.org/ops/", "spiffe://td.org/ops/a", "spiffe://td.org/op",
        "spiffe://td.org.evil.org/ops", "spiffe://evil.org/ops", "SPIFFE://td.org/ops", "spiffe://TD.org/ops",
        "spiffe://td.org/ops\n", " spiffe://td.org/ops", "spiffe://tdXorg/ops", "spiffe://td.org//ops",
        "spiffe://td.org/%6fps", "https://td.org/ops", "",
    ]),
    ("spiffe://td.org/ops/*", "spiffe", ["spiffe://td.org/ops/a", "spiffe://td.org/ops/*"], [
        "spiffe://td.org/ops", "spiffe://td.org/ops/", "spiffe://td.org/ops/a/b", "spiffe://td.org/opsa",
        "spiffe://td.org/ops/a/",
    ]),
    ("spiffe://td.org/*/db", "spiffe", ["spiffe://td.org/a/db"], [
        "spiffe://td.org//db", "spiffe://td.org/a/b/db", "spiffe://td.org/db", "spiffe://a/td.org/a/db",
    ]),
    ("spiffe://td.org/ops/**", "spiffe", [
        "spiffe://td.org/ops", "spiffe://td.org/ops/a", "spiffe://td.org/ops/a/b/c",
    ], ["spiffe://td.org/opsa", "spiffe://td.org/ops/", "spiffe://td.org/", "spiffe://td.org"]),
    ("spiffe://td.org/**", "spiffe", ["spiffe://td.org/a", "spiffe://td.org/a/b"], [
        "spiffe://td.org.evil/a", "spiffe://td.orga", "spiffe://evil/td.org/a",
    ]),
    ("spiffe://td.org/a.b", "spiffe", ["spiffe://td.org/a.b"], ["spiffe://td.org/aXb"]),
    ("dns:api.example.org", "dns", ["api.example.org", "API.Example.ORG"], [
        "apiXexample.org", "api.example.org\0", "api.example.org\n", " api.example.org", "*.example.org", "",
        "api.example.org.", "xapi.example.org", "a.api.example.org", "api.example.org.evil.org",
        "api-example.org", "api.example.or\u212a",
    ]),
    ("dns:kit.example.org", "dns", ["kit.example.org"], ["\u212ait.example.org"]),
    ("dns:API.Example.org", "dns", ["api.example.org"], []),
    ("dns:*.example.org", "dns", ["a.example.org", "A-1.EXAMPLE.org", "xn--a.example.org", "_.example.org"], [
        "example.org", ".example.org", "a.b.example.org", "*.example.org", "a*.example.org", "aexample.org",
        "a.example.org.evil.org", "-a.example.org", "a-.example.org", "a.example.org.", "ä.example.org",
        "a b.example.org", "a\n.example.org", "a.example.org\n", "a" * 64 + ".example.org",
        "a/b.example.org", "a@b.example.org",
    ]),
    ("dns:xn--bcher-kva.example", "dns", ["XN--bcher-KVA.example"], ["bücher.example"]),
    ("dns:localhost", "dns", ["localhost"], ["localhost.localdomain"]),
    ("email:ops@example.org", "email", ["ops@example.org", "ops@EXAMPLE.org"], [
        "Ops@example.org", "ops@example.org.evil.org", "ops@sub.example.org", "xops@example.org",
        "@example.org",
        "ops", "ops@evil.org@example.org", "ops@example.org@evil.org", "ops@exämple.org", "",
    ]),
    ("email:*@example.org", "email", ["ops@example.org", "x+y@Example.Org", '"a@b"@example.org'], [
        "@example.org", "ops@sub.example.org", "ops@example.org.evil.org", "example.org", "ops@evil.org",
    ]),
    ("uri:https://example.org/x", "uri", ["https://example.org/x"], [
        "https://example.org/X", "HTTPS://example.org/x", "https://EXAMPLE.org/x", "https://example.org/x/",
        "https://example.org/x?a", "https://example.org/%78", "http://example.org/x", "",
    ]),
    ("uri:urn:a*b", "uri", ["urn:a*b"], ["urn:aXb"]),
    ("ip:10.0.0.1", "ip", ["10.0.0.1"], [
        "10.0.0.10", "::ffff:10.0.0.1", "10.0.0.2", "010.0.0.1", "10.0.0.1/32", "0x0a000001", "167772161", "",
    ]),
    ("ip:10.0.0.0/8", "ip", ["10.0.0.0", "10.255.255.255"], ["11.0.0.0", "::10.0.0.1", "::ffff:10.0.0.1"]),
    ("ip:2001:db8::1", "ip", ["2001:db8::1", "2001:0DB8:0::0001"], ["2001:db8::2", "2001:db8::1%eth0"]),
    ("ip:2001:db8::/32", "ip", ["2001:db8::", "2001:db8:ffff::1"], ["2001:db9::", "10.0.0.1"]),
    ("ip:::ffff:10.0.0.0/104", "ip", ["::ffff:10.0.0.1"], ["10.0.0.1"]),
]  # fmt: skip


@pytest.mark.parametrize(("text", "kind", "under", "others"), NAMES, ids=[row[0] for row in NAMES])
def test_a_pattern_matches_names_of_its_kind_by_the_rules_of_that_kind(text, kind, under, others):
    pattern = NamePattern.parse(text)
    assert pattern.kind == kind
    assert pattern.is_of_names
    assert [value for value in under if not pattern.matches_name(kind, value)] == []
    assert [value for value in others if pattern.matches_name(kind, value)] == []
    strangers = {"spiffe", "dns", "email", "uri", "ip"} - {kind}
    assert not any(pattern.matches_name(other, value) for other in strangers for value in under)


@pytest.mark.parametrize(
    ("text", "fields"),
    [
        ("spiffe://td.org/ops/*", {"spiffe_id": "spiffe://td.org/ops/a"}),
        ("dns:*.example.org", {"dns": ("other.org", "a.example.org")}),
        ("email:*@example.org", {"emails": ("a@example.org",)}),
        ("uri:urn:a", {"uris": ("urn:b", "urn:a")}),
        ("ip:10.0.0.0/8", {"ips": ("192.0.2.1", "10.1.1.1")}),
        (f"sha256:{AA}", {"sha256": AA, "spki_sha256": CC, "anchor": CC}),
        (f"sha256:{FINGERPRINT}", {"sha256": AA}),
        (f"spki-sha256:{BB}", {"spki_sha256": BB}),
        (f"issuer-sha256:{CC.upper()}", {"anchor": CC}),
        ("serial:4096", {"serial": 4096}),
        ("serial:0x1000", {"serial": 4096}),
        ("serial:0X001000", {"serial": 4096}),
        ("serial:0004096", {"serial": 4096}),
        ("serial:0x" + "f" * 40, {"serial": 2**160 - 1}),
        (f"serial:{2**160 - 1}", {"serial": 2**160 - 1}),
    ],
)
def test_a_pattern_looks_at_what_it_names_in_an_identity_and_at_nothing_else(text, fields):
    nobody = {"sha256": "00" * 32, "spki_sha256": "11" * 32, "anchor": "22" * 32, "serial": 1}
    pattern = NamePattern.parse(text)
    assert pattern.matches(caller(**nobody | fields))
    assert not pattern.matches(caller(**nobody))
    assert str(pattern) == text


def test_a_digest_of_one_thing_is_not_the_digest_of_another():
    same = caller(sha256=AA, spki_sha256=BB, anchor=CC)
    for digest, kinds in ((AA, {"sha256"}), (BB, {"spki-sha256"}), (CC, {"issuer-sha256"})):
        for kind in ("sha256", "spki-sha256", "issuer-sha256"):
            assert NamePattern.parse(f"{kind}:{digest}").matches(same) == (kind in kinds)


def test_a_spiffe_id_is_no_uri_for_a_pattern_and_a_name_of_one_kind_no_name_of_another():
    spiffe = caller(spiffe_id="spiffe://td.org/a", uris=("spiffe://td.org/a",))
    assert NamePattern.parse("spiffe://td.org/a").matches(spiffe)
    # A URI that merely looks like one is no SPIFFE id.
    assert not NamePattern.parse("spiffe://td.org/a").matches(caller(uris=("spiffe://td.org/a",)))
    assert not NamePattern.parse("dns:10.0.0.1").matches(caller(ips=("10.0.0.1",)))
    assert not NamePattern.parse("ip:10.0.0.1").matches(caller(dns=("10.0.0.1",)))
    # Nor does the subject count, whatever stands in it.
    assert not NamePattern.parse("dns:caller").matches(caller(subject="CN=caller"))


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "a name pattern starts with"),
        ("*", "a name pattern starts with"),
        ("**", "a name pattern starts with"),
        ("example.org", "a name pattern starts with"),
        (":", "a name pattern starts with"),
        ("DNS:example.org", "a name pattern starts with"),
        ("Spiffe://td.org/a", "a name pattern starts with"),
        (" dns:example.org", "a name pattern starts with"),
        ("subject:CN=a", "a name pattern starts with"),
        ("cn:a", "a name pattern starts with"),
        ("CN=ops,O=Example", "many spellings"),
        ("spiffe:", "starts with spiffe://"),
        ("spiffe:td.org/a", "starts with spiffe://"),
        ("spiffe://", "trust domain"),
        ("spiffe:///a", "trust domain"),
        ("spiffe://td.org", "has a path"),
        ("spiffe://td.org/", "segment"),
        ("spiffe://TD.org/a", "lower-case"),
        ("spiffe://td.org:8443/a", "lower-case"),
        ("spiffe://user@td.org/a", "lower-case"),
        ("spiffe://täglich.org/a", "lower-case"),
        ("spiffe://*/a", "is written out"),
        ("spiffe://*.td.org/a", "is written out"),
        ("spiffe://**", "is written out"),
        ("spiffe://td.org/a/", "segment"),
        ("spiffe://td.org//a", "segment"),
        ("spiffe://td.org/../a", "segment"),
        ("spiffe://td.org/./a", "segment"),
        ("spiffe://td.org/a%2fb", "segment"),
        ("spiffe://td.org/a?b", "segment"),
        ("spiffe://td.org/a#b", "segment"),
        ("spiffe://td.org/a\n", "segment"),
        ("spiffe://td.org/a*", "one whole segment"),
        ("spiffe://td.org/a**", "one whole segment"),
        ("spiffe://td.org/**/a", "one whole segment"),
        ("dns:", "host name"),
        ("dns:*", "host name"),
        ("dns:*.", "host name"),
        ("dns:**.example.org", "host name"),
        ("dns:*.*.example.org", "host name"),
        ("dns:a*.example.org", "host name"),
        ("dns:a.*.org", "host name"),
        ("dns:example.org.", "host name"),
        ("dns:.example.org", "host name"),
        ("dns:a..b", "host name"),
        ("dns:-a.org", "host name"),
        ("dns:bücher.example", "xn--"),
        ("dns:\u212ait.org", "host name"),
        ("dns:a b", "host name"),
        ("dns:a\0b", "host name"),
        ("dns:example.org\n", "host name"),
        ("dns:example.org/a", "host name"),
        ("dns:" + "a" * 64 + ".org", "host name"),
        ("email:", "mailbox@domain"),
        ("email:a", "mailbox@domain"),
        ("email:@example.org", "mailbox@domain"),
        ("email:a*@example.org", "mailbox@domain"),
        ("email:*@*", "host name"),
        ("email:a@*.example.org", "host name"),
        ("email:a@", "host name"),
        ("email:a b@example.org", "mailbox@domain"),
        ("uri:", "one whole URI"),
        ("uri:example.org/x", "one whole URI"),
        ("uri:https://example.org/ä", "one whole URI"),
        ("uri:https://example.org/a b", "one whole URI"),
        ("uri:spiffe://td.org/a", "without uri:"),
        ("uri:SPIFFE://td.org/a", "without uri:"),
        ("ip:", "address or a network"),
        ("ip:10.0.0.1/8", "without host bits"),
        ("ip:10.0.0.256", "address or a network"),
        ("ip:010.0.0.1", "address or a network"),
        ("ip:10.0.0", "address or a network"),
        ("ip:10.0.0.*", "address or a network"),
        ("ip:example.org", "address or a network"),
        ("ip:10.0.0.0/33", "address or a network"),
        ("ip:167772161", "address or a network"),
        ("sha256:", "64 hex digits"),
        ("sha256:" + "a" * 63, "64 hex digits"),
        ("sha256:" + "a" * 65, "64 hex digits"),
        ("sha256:" + "g" * 64, "64 hex digits"),
        ("sha256:" + "a" * 64 + "\n", "64 hex digits"),
        ("spki-sha256:*", "64 hex digits"),
        ("sha1:" + "a" * 40, "a name pattern starts with"),
        ("serial:", "decimal, or hex"),
        ("serial:abc", "decimal, or hex"),
        ("serial:0x", "decimal, or hex"),
        ("serial:-1", "decimal, or hex"),
        ("serial:1_000", "decimal, or hex"),
        ("serial:0x1_0", "decimal, or hex"),
        ("serial:٣", "decimal, or hex"),
        ("serial:0o17", "decimal, or hex"),
        ("serial:1e3", "decimal, or hex"),
        ("serial:01:00", "decimal, or hex"),
        ("serial:0x" + "f" * 41, "decimal, or hex"),
        ("serial:" + "9" * 5000, "decimal, or hex"),
    ],
)
def test_what_is_no_pattern_is_refused_with_a_sentence(text, reason):
    with pytest.raises(ValueError, match=r".") as caught:
        NamePattern.parse(text)
    assert reason in str(caught.value)


def test_no_value_of_a_caller_costs_time():
    start = time.process_time()
    for text in (
        "spiffe://td.org/*/*/*/a",
        "spiffe://td.org/b/**",
        "dns:*.example.org",
        "email:*@example.org",
    ):
        pattern = NamePattern.parse(text)
        for value in ("spiffe://td.org" + "/a" * 50_000, "a-" * 50_000 + ".example.org", "@" * 100_000):
            assert not pattern.matches_name(pattern.kind, value + "!")
    assert time.process_time() - start < 2


@given(
    st.lists(st.sampled_from(["a", "b", "*"]), max_size=3),
    st.booleans(),
    st.lists(st.sampled_from(["a", "b", "ab", ""]), min_size=1, max_size=4),
)
@settings(max_examples=200, deadline=None)
def test_spiffe_patterns_compare_segment_by_segment(segments, tree, path):
    if not segments and not tree:
        return
    pattern = NamePattern.parse("/".join(["spiffe://td.org", *segments, *(["**"] if tree else [])]))
    fits = len(path) >= len(segments) if tree else len(path) == len(segments)
    fits = fits and all(wanted in ("*", have) and have for wanted, have in zip(segments, path, strict=False))
    fits = fits and not (tree and path[len(segments) :] == [""])
    assert pattern.matches_name("spiffe", "/".join(["spiffe://td.org", *path])) == fits
