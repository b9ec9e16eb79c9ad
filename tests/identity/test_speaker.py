"""Who a chain speaks for, what its anchor may assert, and how a name is written."""

from __future__ import annotations

import gc
import hashlib
import ipaddress
from dataclasses import replace
from datetime import timedelta

import pytest
from certificates.shapes import NOW, Made, presented, san, strict_ca, strict_leaf
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import NameOID
from hypothesis import given, settings
from hypothesis import strategies as st
from identity.callers import caller

from secmiddleware.certificates.judgement import Trust
from secmiddleware.certificates.trust import TrustAnchor
from secmiddleware.identity.speaker import identify
from secmiddleware.messages import Identity, Presented, Refusal

CA = strict_ca("ca")
OTHER_CA = strict_ca("other ca")
SPIFFE = "spiffe://td.org/ops/a"
UNTRUSTED = Refusal("certificate_untrusted", "mtls.trust.may_assert")


def uri(text: str) -> x509.UniformResourceIdentifier:
    return x509.UniformResourceIdentifier(text)


def dns(text: str) -> x509.DNSName:
    return x509.DNSName(text)


def email(text: str) -> x509.RFC822Name:
    return x509.RFC822Name(text)


def ip(text: str) -> x509.IPAddress:
    return x509.IPAddress(ipaddress.ip_address(text))


def directory(text: str) -> x509.DirectoryName:
    return x509.DirectoryName(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)]))


def leaf_of(*names: x509.GeneralName, ca: Made = CA, **rest) -> Made:
    return strict_leaf(ca, names=san(*names), **rest)


def spoken(leaf: Made, *may_assert: str, anchor: Made = CA, profile="strict") -> Identity | Refusal:
    return identify(presented(leaf), Trust((TrustAnchor(anchor.certificate, may_assert),), profile), NOW)


def test_an_identity_says_what_the_leaf_says():
    leaf = leaf_of(
        uri(SPIFFE), dns("a.example.org"), dns("b.example.org"), email("a@example.org"), ip("10.0.0.1")
    )
    found = spoken(leaf)
    assert isinstance(found, Identity)
    certificate = leaf.certificate
    spki = certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    assert found.spiffe_id == SPIFFE
    assert found.uris == (SPIFFE,)
    assert found.dns == ("a.example.org", "b.example.org")
    assert found.emails == ("a@example.org",)
    assert found.ips == ("10.0.0.1",)
    assert found.serial == certificate.serial_number
    assert (found.subject, found.issuer) == ("CN=leaf", "CN=ca")
    assert found.sha256 == hashlib.sha256(leaf.der).hexdigest()
    assert found.spki_sha256 == hashlib.sha256(spki).hexdigest()
    assert found.anchor == hashlib.sha256(CA.der).hexdigest()
    assert (found.not_before, found.not_after) == (NOW - timedelta(days=1), NOW + timedelta(days=30))
    assert found.source == "server"
    assert found.der == leaf.der
    assert leaf.der.hex() not in repr(found)
    assert repr(leaf.der)[2:-1] not in repr(found)


def test_what_is_not_good_is_refused_with_its_code_and_no_detail():
    assert spoken(leaf_of(dns("a.org"), ca=OTHER_CA)) == Refusal("certificate_untrusted", "mtls.trust")
    expired = leaf_of(dns("a.org"), end=NOW - timedelta(hours=1))
    assert spoken(expired) == Refusal("certificate_expired")
    assert identify(
        presented(expired), Trust((TrustAnchor(CA.certificate),)), NOW - timedelta(hours=2)
    ) != Refusal("certificate_expired")


@pytest.mark.parametrize(
    "names",
    [
        [uri(SPIFFE), uri("spiffe://td.org/ops/b")],
        [uri(SPIFFE), uri(SPIFFE)],
        [uri(SPIFFE), uri("https://example.org/")],
        [uri("https://example.org/"), uri(SPIFFE)],
        [uri("SPIFFE://td.org/ops/a")],
        [uri("spiffe://td.org")],
        [uri("spiffe://TD.org/a")],
        [uri("spiffe://td.org/a/")],
        [uri("spiffe://td.org/../a")],
        [uri("spiffe://td.org:8443/a")],
        [uri("spiffe://user@td.org/a")],
        [uri("spiffe://td.org/a?b")],
        [uri("spiffe:td.org/a")],
        [uri("spiffe://td.org/" + "a" * 2048)],
    ],
)
def test_a_spiffe_id_is_one_and_alone(names):
    assert spoken(leaf_of(*names)) == Refusal("certificate_malformed")


ASSERTED = [
    ([uri(SPIFFE)], ["spiffe://td.org/**"], True),
    ([uri(SPIFFE)], ["spiffe://other.org/**"], False),
    ([uri(SPIFFE)], ["dns:td.org"], False),
    ([uri(SPIFFE), dns("a.example.org")], ["spiffe://td.org/**"], False),
    ([uri(SPIFFE), dns("a.example.org")], ["spiffe://td.org/**", "dns:*.example.org"], True),
    ([dns("a.example.org"), dns("b.example.org")], ["dns:*.example.org"], True),
    ([dns("a.example.org"), dns("bank.example")], ["dns:*.example.org"], False),
    ([dns("*.example.org")], ["dns:*.example.org"], False),
    ([dns("A.EXAMPLE.ORG")], ["dns:a.example.org"], True),
    ([uri("https://example.org/a")], ["uri:https://example.org/a"], True),
    ([uri("https://example.org/a"), uri("https://bank.example/")], ["uri:https://example.org/a"], False),
    ([email("a@example.org")], ["email:*@example.org"], True),
    ([email("a@example.org")], ["dns:example.org"], False),
    ([ip("10.0.0.1")], ["ip:10.0.0.0/8"], True),
    ([ip("10.0.0.1"), ip("192.0.2.1")], ["ip:10.0.0.0/8"], False),
    ([dns("a.example.org"), directory("bank")], ["dns:a.example.org"], False),
    ([directory("bank")], ["dns:a.example.org"], False),
    ([dns("a.example.org"), x509.RegisteredID(x509.ObjectIdentifier("1.2.3"))], ["dns:a.example.org"], False),
    (
        [dns("a.example.org"), x509.OtherName(x509.ObjectIdentifier("1.2.3"), b"\x0c\x01a")],
        ["dns:a.example.org"],
        False,
    ),
]  # fmt: skip


@pytest.mark.parametrize(("names", "may_assert", "good"), ASSERTED)
def test_an_anchor_speaks_for_the_names_that_it_may_assert_all_of_them(names, may_assert, good):
    found = spoken(leaf_of(*names), *may_assert)
    assert isinstance(found, Identity) if good else found == UNTRUSTED
    assert isinstance(spoken(leaf_of(*names)), Identity)


def test_a_leaf_without_a_name_could_be_anybodys():
    unnamed = strict_leaf(CA, names=x509.SubjectKeyIdentifier(b"a"))
    found = spoken(unnamed, profile="private-pki")
    assert isinstance(found, Identity)
    assert found.name == f"spki-sha256:{found.spki_sha256}"
    assert spoken(unnamed, "dns:a.org", profile="private-pki") == UNTRUSTED


def test_the_subject_asserts_nothing():
    """A common name that looks like a name that others may have gives nobody that name."""
    found = spoken(leaf_of(dns("a.example.org"), subject="bank.example"), "dns:*.example.org")
    assert isinstance(found, Identity)
    assert found.dns == ("a.example.org",)
    assert found.name == "dns:a.example.org"


def test_each_anchor_is_held_to_its_own_names():
    trust = Trust(
        (TrustAnchor(CA.certificate, ("dns:*.a.org",)), TrustAnchor(OTHER_CA.certificate, ("dns:*.b.org",)))
    )
    for ca, name, good in [
        (CA, "x.a.org", True), (CA, "x.b.org", False),
        (OTHER_CA, "x.b.org", True), (OTHER_CA, "x.a.org", False),
    ]:  # fmt: skip
        found = identify(presented(leaf_of(dns(name), ca=ca)), trust, NOW)
        assert isinstance(found, Identity) if good else found == UNTRUSTED


def test_an_intermediate_does_not_widen_what_its_root_may_assert():
    middle = strict_ca("middle", CA)
    trust = Trust((TrustAnchor(CA.certificate, ("dns:*.a.org",)),))
    good, bad = (leaf_of(dns(name), ca=middle) for name in ("x.a.org", "x.b.org"))
    assert isinstance(identify(presented(good, middle), trust, NOW), Identity)
    assert identify(presented(bad, middle), trust, NOW) == UNTRUSTED


def test_an_identity_names_the_cas_of_its_path_from_its_issuer_to_its_anchor():
    middle = strict_ca("middle", CA)
    leaf = leaf_of(dns("a.example.org"), ca=middle)
    # What is sent along and vouches for nobody is no part of the path.
    found = identify(presented(leaf, OTHER_CA, middle), Trust((TrustAnchor(CA.certificate),)), NOW)
    assert isinstance(found, Identity)
    above = (middle.certificate, CA.certificate)
    assert found.issuers == tuple(hashlib.sha256(one.public_bytes(Encoding.DER)).hexdigest() for one in above)
    assert found.issuer_spkis == tuple(
        hashlib.sha256(
            one.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        ).hexdigest()
        for one in above
    )
    assert found.anchor == found.issuers[-1]


def test_a_pinned_leaf_has_no_ca_above_it():
    leaf = leaf_of(dns("a.example.org"), ca=OTHER_CA)
    found = spoken(leaf, anchor=leaf)
    assert isinstance(found, Identity)
    assert (found.issuers, found.issuer_spkis, found.anchor) == ((), (), found.sha256)


def test_a_ca_that_others_certify_too_has_another_certificate_and_the_same_key():
    """Which path is taken the caller chooses by what it sends; the key that signed its leaf it does not."""
    crossed = strict_ca("middle", OTHER_CA)
    middle = strict_ca("middle", CA, key=crossed.key)
    leaf = leaf_of(dns("a.example.org"), ca=middle)
    trust = Trust((TrustAnchor(CA.certificate), TrustAnchor(OTHER_CA.certificate)))
    ways = [identify(presented(leaf, one), trust, NOW) for one in (middle, crossed)]
    assert all(isinstance(way, Identity) for way in ways)
    assert ways[0].issuers != ways[1].issuers
    assert ways[0].issuer_spkis[0] == ways[1].issuer_spkis[0]


def test_the_same_leaf_under_other_settings_is_another_matter():
    """What is kept of a leaf belongs to the trust that it was judged by."""
    leaf = leaf_of(dns("a.example.org"))
    for _ in range(2):
        assert isinstance(spoken(leaf), Identity)
        assert spoken(leaf, "dns:b.example.org") == UNTRUSTED
        assert isinstance(spoken(leaf, "dns:a.example.org"), Identity)


def test_one_certificate_that_comes_two_ways_has_two_sources():
    """What is remembered of a leaf is remembered by the way it came."""
    trust = Trust((TrustAnchor(CA.certificate),))
    leaf = leaf_of(dns("a.example.org"))
    for _ in range(2):
        for source in ("server", "nginx"):
            found = identify(Presented(leaf.der, source=source), trust, NOW)
            assert isinstance(found, Identity)
            assert found.source == source


def test_whoever_was_told_already_is_not_worked_out_again():
    trust, refusing = (Trust((TrustAnchor(CA.certificate, names),)) for names in ((), ("dns:b.org",)))
    leaf = presented(leaf_of(dns("a.example.org")))
    assert identify(leaf, trust, NOW) is identify(replace(leaf), trust, NOW)
    assert identify(leaf, refusing, NOW) is identify(replace(leaf), refusing, NOW)


def test_nothing_that_was_said_keeps_a_trust_that_is_gone_alive():
    trust, leaf = Trust((TrustAnchor(CA.certificate),)), presented(leaf_of(dns("a.example.org")))
    assert isinstance(identify(leaf, trust, NOW), Identity)
    assert [one for one in gc.get_referrers(trust._kept) if one is not trust] == []
    # Nor a verdict that its trust has let go, where no connection holds it.
    verdict = trust._kept.popitem()[1]
    assert [one for one in gc.get_referrers(verdict) if one is not leaf] == []


# Names as they are compared, and as they are shown


@pytest.mark.parametrize(
    ("fields", "name", "tenant"),
    [
        (
            {"spiffe_id": SPIFFE, "uris": (SPIFFE,), "dns": ("a.org",)},
            SPIFFE,
            "spiffe://td.org",
        ),
        ({"uris": ("urn:a", "urn:b"), "dns": ("a.org",)}, "uri:urn:a", "anchor:" + "cc" * 32),
        ({"dns": ("b.org", "a.org"), "emails": ("a@a.org",)}, "dns:b.org", "anchor:" + "cc" * 32),
        ({"emails": ("a@a.org",), "ips": ("10.0.0.1",)}, "email:a@a.org", "anchor:" + "cc" * 32),
        ({"ips": ("10.0.0.1", "10.0.0.2")}, "ip:10.0.0.1", "anchor:" + "cc" * 32),
        ({}, "spki-sha256:" + "bb" * 32, "anchor:" + "cc" * 32),
        ({"subject": "CN=ops"}, "spki-sha256:" + "bb" * 32, "anchor:" + "cc" * 32),
    ],
)
def test_a_caller_goes_by_its_strongest_name(fields, name, tenant):
    assert caller(**fields).name == name
    assert caller(**fields).tenant == tenant


def test_a_name_of_one_kind_is_never_the_name_of_another():
    """Tokens are bound to names: two callers with one text in different kinds are two callers."""
    names = {
        caller(**fields).name
        for fields in ({"uris": ("x",)}, {"dns": ("x",)}, {"emails": ("x",)}, {"ips": ("x",)})
    }
    assert len(names) == 4
    assert caller(anchor="aa" * 32).tenant != caller(anchor="bb" * 32).tenant
    assert caller(spiffe_id="spiffe://a.b/c").tenant != caller(spiffe_id="spiffe://a.bc/c").tenant


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("a.example.org", "dns:a.example.org"),
        ("a\nb", "dns:a\\x0ab"),
        ("a\r\n200 OK", "dns:a\\x0d\\x0a200\\x20OK"),
        ("\x1b[31mred", "dns:\\x1b[31mred"),
        ("a\0b\x7f", "dns:a\\x00b\\x7f"),
        ("a b\tc", "dns:a\\x20b\\x09c"),
        ("a\\nb", "dns:a\\x5cnb"),
        ("ä", "dns:\\xe4"),
        ("\u202eevil", "dns:\\u202eevil"),
        ("\u2028", "dns:\\u2028"),
        ("😀", "dns:\\U0001f600"),
        ("\ud800", "dns:\\ud800"),
        ("\x85", "dns:\\x85"),
        ("\"'<>&{}%", "dns:\"'<>&{}%"),
    ],
)
def test_a_name_is_shown_in_visible_ascii_on_one_line(name, shown):
    assert str(caller(dns=(name,))) == shown
    assert caller(dns=(name,)).name == f"dns:{name}"


@given(st.text(st.characters(), max_size=20), st.text(st.characters(), max_size=20))
@settings(max_examples=200, deadline=None)
def test_two_names_are_never_shown_alike(first, second):
    one, other = (str(caller(uris=(text,))) for text in (first, second))
    assert (one == other) == (first == second)
    assert all("!" <= char <= "~" for char in one)
    assert one.removeprefix("uri:").encode("ascii").decode("unicode_escape") == first
