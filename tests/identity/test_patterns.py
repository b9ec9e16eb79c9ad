"""What each kind of name pattern matches, what it does not, and what is no pattern."""

from __future__ import annotations

import itertools
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
        (f"issuer-sha256:{AA}", {"issuers": (BB, AA, CC)}),
        (f"issuer-spki-sha256:{AA}", {"issuer_spkis": (BB, AA)}),
        (f"serial:0x10@issuer-sha256:{FINGERPRINT}", {"serial": 16, "issuers": (AA, BB)}),
        (f"serial:16@issuer-spki-sha256:{AA}", {"serial": 16, "issuer_spkis": (AA, BB)}),
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
        ("ip:fe80::1%eth0", "address or a network"),
        ("sha256:", "64 hex digits"),
        ("sha256:" + "a" * 63, "64 hex digits"),
        ("sha256:" + "a" * 65, "64 hex digits"),
        ("sha256:" + "g" * 64, "64 hex digits"),
        ("sha256:" + "a" * 64 + "\n", "64 hex digits"),
        ("spki-sha256:*", "64 hex digits"),
        ("sha1:" + "a" * 40, "a name pattern starts with"),
        (f"serial:1@{AA}", "behind the @"),
        (f"serial:1@sha256:{AA}", "behind the @"),
        ("serial:1@CN=ca", "behind the @"),
        ("serial:1@", "behind the @"),
        ("serial:1@issuer-sha256:", "64 hex digits"),
        (f"serial:@issuer-sha256:{AA}", "decimal, or hex"),
        ("issuer-spki-sha256:ab", "64 hex digits"),
        ("issuer:CN=ca", "a name pattern starts with"),
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


# CAs of the chain


def test_a_serial_number_with_its_ca_is_not_that_of_another_ca_nor_of_the_ca_above():
    bearer = caller(serial=16, issuers=(AA, BB), issuer_spkis=(BB, CC), anchor=BB)
    for text, good in [
        ("serial:16", True),
        (f"serial:16@issuer-sha256:{AA}", True), (f"serial:16@issuer-spki-sha256:{BB}", True),
        (f"serial:17@issuer-sha256:{AA}", False),
        (f"serial:16@issuer-sha256:{BB}", False), (f"serial:16@issuer-spki-sha256:{CC}", False),
        (f"serial:16@issuer-spki-sha256:{AA}", False), (f"serial:16@issuer-sha256:{CC}", False),
    ]:  # fmt: skip
        assert NamePattern.parse(text).matches(bearer) is good, text
    pinned = caller(serial=16, anchor=AA)
    assert not NamePattern.parse(f"serial:16@issuer-sha256:{AA}").matches(pinned)


def test_only_a_serial_number_alone_is_one_that_any_ca_may_give():
    assert NamePattern.parse("serial:16").is_bare_serial
    for text in (f"serial:16@issuer-sha256:{AA}", f"sha256:{AA}", "dns:a.org", f"issuer-sha256:{AA}"):
        assert not NamePattern.parse(text).is_bare_serial


# Kept out in any spelling


@pytest.mark.parametrize(
    ("text", "fields"),
    [
        ("dns:a.example.org", {"dns": ("A.Example.ORG",)}),
        ("dns:a.example.org", {"dns": ("a.example.org.",)}),
        ("dns:a.example.org", {"dns": ("*.example.org",)}),
        ("dns:a.example.org", {"dns": ("*.Example.org.",)}),
        ("dns:*.example.org", {"dns": ("*.example.org",)}),
        ("dns:*.example.org", {"dns": ("b.example.org.",)}),
        ("email:ops@example.org", {"emails": ("OPS@Example.org",)}),
        ("email:ops@example.org", {"emails": ("ops@example.org.",)}),
        ("email:*@example.org", {"emails": ("a@EXAMPLE.org.",)}),
        ("uri:https://example.org/x", {"uris": ("HTTPS://Example.org/x",)}),
        ("ip:10.0.0.0/8", {"ips": ("::ffff:10.1.2.3",)}),
        ("ip:10.0.0.1", {"ips": ("10.0.0.1",)}),
        ("ip:::ffff:10.0.0.0/104", {"ips": ("10.1.2.3",)}),
    ],
)
def test_who_is_meant_is_meant_in_any_spelling(text, fields):
    assert NamePattern.parse(text).may_mean(caller(**fields))


@pytest.mark.parametrize(
    ("text", "fields"),
    [
        ("dns:a.example.org", {"dns": ("*.a.example.org", "b.example.org", "*.org", "*", "a.example.org..")}),
        ("dns:*.example.org", {"dns": ("*.a.example.org", "example.org", "*.org", "a.b.example.org")}),
        ("dns:localhost", {"dns": ("*", "*.", "*.localhost")}),
        ("email:ops@example.org", {"emails": ("dev@example.org", "ops@sub.example.org", "ops@@example.org")}),
        ("uri:https://example.org/x", {"uris": ("https://example.org/y",)}),
        ("ip:10.0.0.0/8", {"ips": ("::ffff:11.0.0.1", "::10.0.0.1", "11.0.0.1")}),
        ("ip:::ffff:10.0.0.0/104", {"ips": ("11.0.0.1", "::10.0.0.1")}),
        ("ip:::/0", {"ips": ("10.0.0.1",)}),
        ("spiffe://td.org/ops/a", {"spiffe_id": "spiffe://td.org/ops/A"}),
        (f"sha256:{BB}", {"spki_sha256": BB}),
    ],
)
def test_who_is_not_meant_is_not_meant_in_any_spelling(text, fields):
    assert not NamePattern.parse(text).may_mean(caller(**fields))


# How patterns lie to each other

SPIFFE = st.builds(
    lambda domain, parts, tree: "/".join(
        [f"spiffe://{domain}", *parts, *(["**"] if tree or not parts else [])]
    ),
    st.sampled_from(["td.org", "other.org"]),
    st.lists(st.sampled_from(["a", "b", "*"]), max_size=3),
    st.booleans(),
)
ANY = SPIFFE | st.sampled_from([
    "dns:a.x.org", "dns:b.x.org", "dns:*.x.org", "dns:*.a.x.org", "dns:c.a.x.org", "dns:A.X.org",
    "email:a@x.org", "email:*@x.org", "email:A@x.org", "email:*@y.org", "email:b@X.ORG",
    "uri:urn:a", "uri:urn:b", "ip:10.0.0.0/8", "ip:10.1.0.0/16", "ip:10.1.2.3", "ip:11.0.0.0/8",
    "ip:::/0", "ip:::1",
    "serial:1", "serial:0x1", "serial:2", f"serial:1@issuer-sha256:{AA}", f"serial:1@issuer-spki-sha256:{AA}",
    f"sha256:{AA}", f"sha256:{FINGERPRINT}", f"sha256:{BB}",
    f"issuer-sha256:{AA}", f"issuer-spki-sha256:{AA}",
])  # fmt: skip
EVERYBODY = [
    *(
        caller(spiffe_id=f"spiffe://{domain}/{'/'.join(parts)}")
        for domain in ("td.org", "other.org")
        for depth in range(1, 5)
        for parts in itertools.product("abz", repeat=depth)
    ),
    *(caller(dns=(one,)) for one in ("a.x.org", "b.x.org", "z.x.org", "c.a.x.org", "z.a.x.org")),
    *(caller(emails=(one,)) for one in ("a@x.org", "A@x.org", "b@x.org", "z@x.org", "z@y.org")),
    *(caller(uris=(one,)) for one in ("urn:a", "urn:b")),
    *(caller(ips=(one,)) for one in ("10.1.2.3", "10.1.0.1", "10.9.9.9", "11.0.0.1", "::1", "::2")),
    *(caller(serial=n, issuers=i, issuer_spkis=i, sha256=i[0] if i else CC, anchor=a)
      for n in (1, 2, 9) for i in ((), (AA,), (BB,)) for a in (AA, CC)),
]  # fmt: skip


@given(ANY, ANY)
@settings(max_examples=600, deadline=None)
def test_a_pattern_covers_and_meets_another_as_the_names_say_that_fall_under_both(first, second):
    one, other = NamePattern.parse(first), NamePattern.parse(second)
    mine, theirs = (
        {number for number, who in enumerate(EVERYBODY) if pattern.matches(who)} for pattern in (one, other)
    )
    if one.covers(other):
        assert theirs <= mine
    if one.kind == other.kind and one.is_of_names:
        assert one.meets(other) == other.meets(one) == bool(mine & theirs)
    assert not one.covers(other) or one.meets(other)


@given(SPIFFE, SPIFFE)
@settings(max_examples=300, deadline=None)
def test_a_spiffe_pattern_covers_another_wherever_every_id_says_so(first, second):
    one, other = NamePattern.parse(first), NamePattern.parse(second)
    everything = all(one.matches(who) for who in EVERYBODY if other.matches(who))
    # A tree has its folder in it, a bare trust domain too, though no workload has that for an id.
    if other.text.count("/") > 3:
        assert one.covers(other) == everything


@given(ANY, st.sampled_from(EVERYBODY))
@settings(max_examples=300, deadline=None)
def test_who_matches_is_meant(text, who):
    pattern = NamePattern.parse(text)
    assert pattern.may_mean(who) or not pattern.matches(who)
