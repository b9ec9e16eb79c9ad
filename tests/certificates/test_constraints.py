"""Name constraints (RFC 5280 §4.2.1.10): what a CA may not say is not believed, in either profile."""

from __future__ import annotations

from ipaddress import ip_address, ip_network

import pytest
from certificates.shapes import NOW, name, presented, san, strict_ca, strict_leaf
from cryptography import x509

from secmiddleware.certificates.judgement import Judged, Trust
from secmiddleware.certificates.trust import TrustAnchor
from secmiddleware.messages import Reason

BOTH = ("strict", "private-pki")
DNS, MAIL, IP, URI = x509.DNSName, x509.RFC822Name, x509.IPAddress, x509.UniformResourceIdentifier

CASES = {
    "dns": (DNS("p.example"), DNS("a.p.example"), DNS("a.q.example")),
    "dns, no suffix of a text": (DNS("p.example"), DNS("p.example"), DNS("ap.example")),
    "email of a host": (MAIL("p.example"), MAIL("ada@p.example"), MAIL("ada@q.example")),
    "email of a host is not of those below": (MAIL("p.example"), MAIL("a@p.example"), MAIL("a@b.p.example")),
    "email, one mailbox": (MAIL("ada@p.example"), MAIL("ada@p.example"), MAIL("bob@p.example")),
    "ip": (IP(ip_network("10.0.0.0/8")), IP(ip_address("10.1.2.3")), IP(ip_address("11.1.2.3"))),
    "ip version 6": (IP(ip_network("fd00::/8")), IP(ip_address("fd00::1")), IP(ip_address("fe80::1"))),
}


def judge(profile, constraint, *names, critical=True, at="root"):
    more = [(constraint, critical)]
    if at == "root":
        issuer = root = strict_ca("root", more=more)
    else:
        root = strict_ca("root")
        issuer = strict_ca("middle", root, more=more)
    chain = () if issuer is root else (issuer,)
    given = presented(strict_leaf(issuer, names=san(*names)), *chain)
    return Trust((TrustAnchor(root.certificate),), profile).judge(given, NOW)


@pytest.mark.parametrize("at", ["root", "middle"])
@pytest.mark.parametrize("critical", [True, False])
@pytest.mark.parametrize("profile", BOTH)
@pytest.mark.parametrize("case", list(CASES))
def test_names_are_held_to_what_is_permitted_and_to_what_is_excluded(case, profile, critical, at):
    constraint, inside, outside = CASES[case]
    permitted, excluded = x509.NameConstraints([constraint], None), x509.NameConstraints(None, [constraint])
    for rule, good, bad in [(permitted, inside, outside), (excluded, outside, inside)]:
        assert isinstance(judge(profile, rule, good, critical=critical, at=at), Judged)
        for names in ([bad], [good, bad], [bad, good]):
            verdict = judge(profile, rule, *names, critical=critical, at=at)
            assert (verdict.code, verdict.reason.rule) == ("certificate_untrusted", "name_constraints")


@pytest.mark.parametrize("profile", BOTH)
def test_names_of_another_kind_than_the_constraint_are_not_held_to_it(profile):
    rule = x509.NameConstraints([DNS("p.example")], None)
    assert isinstance(judge(profile, rule, MAIL("ada@q.example")), Judged)


@pytest.mark.parametrize("critical", [True, False])
@pytest.mark.parametrize("profile", BOTH)
def test_a_uri_under_any_constraint_on_uris_is_refused_a_spiffe_id_too(profile, critical):
    for rule in (
        x509.NameConstraints([URI("p.example")], None),
        x509.NameConstraints(None, [URI("q.example")]),
    ):
        for uri in ("https://p.example/a", "spiffe://p.example/a"):
            verdict = judge(profile, rule, URI(uri), critical=critical)
            assert (verdict.code, verdict.reason.rule) == ("certificate_untrusted", "name_constraints")
        assert isinstance(judge(profile, rule, DNS("a.example"), critical=critical), Judged)


@pytest.mark.parametrize("at", ["root", "middle"])
@pytest.mark.parametrize("critical", [True, False])
@pytest.mark.parametrize("profile", BOTH)
@pytest.mark.parametrize(
    "tree",
    [
        x509.DirectoryName(name("p")),
        x509.RegisteredID(x509.ObjectIdentifier("1.2.3")),
        x509.OtherName(x509.ObjectIdentifier("1.2.3"), b"\x05\x00"),
    ],
    ids=["directoryName", "registeredID", "otherName"],
)
def test_a_ca_with_a_constraint_that_cannot_be_held_to_vouches_for_nobody(tree, profile, critical, at):
    for rule in (x509.NameConstraints([tree], None), x509.NameConstraints(None, [tree])):
        verdict = judge(profile, rule, DNS("a.example"), critical=critical, at=at)
        assert (verdict.code, verdict.reason.rule) == ("certificate_untrusted", "name_constraints")
        if not critical:
            assert verdict.reason.certificate == 1 or str(verdict.reason.certificate).startswith("sha256:")
            assert verdict.reason != Reason("name_constraints", 0)
