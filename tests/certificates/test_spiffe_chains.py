"""X.509-SVID: what is asked of a leaf with a SPIFFE id, and of those who sign it."""

from __future__ import annotations

import pytest
from certificates.shapes import (
    CLIENT,
    NOW,
    SERVER,
    authority_key_id,
    make,
    presented,
    san,
    strict_ca,
    strict_leaf,
    usage,
)
from cryptography import x509

from secmiddleware.certificates.judgement import Judged, Rejected, Trust
from secmiddleware.certificates.trust import TrustAnchor
from secmiddleware.identity.speaker import identify
from secmiddleware.messages import Identity, Reason, Refusal

BOTH = ("strict", "private-pki")
URI = x509.UniformResourceIdentifier
ID = san(URI("spiffe://example.org/web"))
CA = strict_ca("ca")


def judge(given, *anchors, profile="strict"):
    trusted = tuple(TrustAnchor(anchor.certificate) for anchor in anchors or (CA,))
    return Trust(trusted, profile).judge(given, NOW)


def found(verdict: Judged | Rejected) -> tuple[str, str] | None:
    return None if isinstance(verdict, Judged) else (verdict.code, verdict.reason.rule)


# The leaf


@pytest.mark.parametrize("profile", BOTH)
@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ({}, None),
        ({"eku": [CLIENT, SERVER]}, None),
        ({"ca": None}, None),
        ({"names": san(URI("spiffe://example.org/web"), x509.DNSName("web.example"))}, None),
        ({"eku": [SERVER]}, ("certificate_purpose", "eku_client_auth")),
        ({"ca": True}, ("certificate_purpose", "ca_as_leaf")),
        ({"ku": usage("key_encipherment")}, ("certificate_purpose", "digital_signature")),
        ({"ku": usage("digital_signature", "key_cert_sign")}, ("certificate_purpose", "leaf_signs")),
        ({"ku": usage("digital_signature", "crl_sign")}, ("certificate_purpose", "leaf_signs")),
        (
            {"names": san(URI("spiffe://example.org/web"), URI("spiffe://example.org/b"))},
            ("certificate_malformed", "names"),
        ),
        (
            {"names": san(URI("spiffe://example.org/web"), URI("https://example.org/b"))},
            ("certificate_malformed", "names"),
        ),
        ({"names": san(URI("spiffe://example.org"))}, ("certificate_malformed", "names")),
    ],
    ids=str,
)
def test_a_leaf_with_a_spiffe_id_is_held_to_the_rules_of_svids(shape, expected, profile):
    leaf = strict_leaf(CA, **{"names": ID, **shape})
    assert found(judge(presented(leaf), profile=profile)) == expected


@pytest.mark.parametrize("profile", BOTH)
def test_a_leaf_with_a_spiffe_id_says_what_its_key_is_for(profile):
    def silent(names):
        return presented(make("leaf", CA, extensions=[(names, False), (authority_key_id(CA), False)]))

    verdict = judge(silent(ID), profile=profile)
    assert verdict == Rejected("certificate_purpose", Reason("svid_key_usage", 0))
    assert found(judge(silent(san(x509.DNSName("web.example"))), profile=profile)) is None


# Those who sign


def signer(uri: str, issuer=None):
    return strict_ca("signer", issuer, more=[(san(URI(uri)), False)])


@pytest.mark.parametrize("profile", BOTH)
@pytest.mark.parametrize(
    ("uri", "good"),
    [
        ("spiffe://example.org", True),
        ("https://ca.example.org/", True),
        ("spiffe://example.com", False),
        ("spiffe://example.org/", False),
        ("spiffe://example.org/ca", False),
        ("SPIFFE://example.org", False),
    ],
)
def test_who_signs_under_a_spiffe_id_is_the_trust_domain_of_the_leaf(uri, good, profile):
    middle, root = signer(uri, CA), signer(uri)
    expected = None if good else ("certificate_untrusted", "svid_signer")
    below = judge(presented(strict_leaf(middle, names=ID), middle), profile=profile)
    assert found(below) == expected
    assert found(judge(presented(strict_leaf(root, names=ID)), root, profile=profile)) == expected
    if not good:
        assert isinstance(below, Rejected)
        assert below.reason.certificate == 1
        # What has no SPIFFE id is none of SPIFFE's business.
        assert found(judge(presented(strict_leaf(middle), middle), profile=profile)) is None


# Trust domains


def test_a_ca_of_one_trust_domain_says_nothing_of_another():
    theirs = strict_ca("theirs")
    trust = Trust(
        (
            TrustAnchor(CA.certificate, ("spiffe://example.org/**",)),
            TrustAnchor(theirs.certificate, ("spiffe://example.com/**",)),
        )
    )

    def who(ca, *names):
        return identify(presented(strict_leaf(ca, names=san(*names))), trust, NOW)

    ours, other = URI("spiffe://example.org/a"), URI("spiffe://example.com/a")
    assert isinstance(who(CA, ours), Identity)
    assert isinstance(who(theirs, other), Identity)
    for ca, names in [
        (CA, [other]),
        (theirs, [ours]),
        (CA, [x509.DNSName("a.example.org")]),
        (CA, [ours, x509.DNSName("a.example.org")]),
        (CA, [URI("spiffe://example.org.evil/a")]),
    ]:
        refusal = who(ca, *names)
        assert isinstance(refusal, Refusal)
        assert (refusal.code, refusal.where) == ("certificate_untrusted", "mtls.trust.may_assert")
        assert refusal.reason is not None
        assert refusal.reason.rule == "may_assert"
        assert str(refusal.reason.certificate).startswith("sha256:")
