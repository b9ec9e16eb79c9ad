"""Which certificate of a chain broke which rule: told to our log, and to nobody else."""

from __future__ import annotations

import time
from datetime import timedelta

import pytest
from certificates.shapes import (
    NOW,
    SERVER,
    authority_key_id,
    key_of,
    make,
    plain_ca,
    presented,
    raw,
    raw_san,
    san,
    strict_ca,
    strict_leaf,
    usage,
)
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from hypothesis import given
from hypothesis import strategies as st

from secmiddleware.certificates.judgement import Rejected, Trust
from secmiddleware.certificates.trust import TrustAnchor
from secmiddleware.messages import Presented

CA = strict_ca("ca")
MIDDLE = strict_ca("middle", CA)
HOUR = timedelta(hours=1)


def digest_of(made) -> str:
    return f"sha256:{made.certificate.fingerprint(hashes.SHA256()).hex()}"


def reason_of(given, *anchors, profile="strict", intermediates=()):
    trusted = tuple(TrustAnchor(anchor.certificate) for anchor in anchors or (CA,))
    ours = tuple(made.certificate for made in intermediates)
    verdict = Trust(trusted, profile, ours).judge(given, NOW)
    assert isinstance(verdict, Rejected)
    return verdict.code, verdict.reason.rule, verdict.reason.certificate


def below(middle, *more):
    return presented(strict_leaf(middle), middle, *more)


def middle_with(*extensions, name="odd"):
    return make(name, CA, extensions=[*extensions, (authority_key_id(CA), False)])


IS_CA = (x509.BasicConstraints(True, None), True)
SIGNS = (usage("key_cert_sign"), True)


# Of one certificate


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ({"names": raw_san(0x82, b"a\0b")}, ("certificate_malformed", "names", 0)),
        ({"end": NOW - HOUR}, ("certificate_expired", "not_after", 0)),
        ({"begin": NOW + HOUR}, ("certificate_not_yet_valid", "not_before", 0)),
        ({"key": key_of("rsa1024")}, ("certificate_weak", "rsa_bits", 0)),
        ({"key": key_of("p224")}, ("certificate_weak", "ec_bits", 0)),
        ({"key": key_of("dsa")}, ("certificate_weak", "key_kind", 0)),
        ({"eku": [SERVER]}, ("certificate_purpose", "eku_client_auth", 0)),
        ({"ca": True}, ("certificate_purpose", "ca_as_leaf", 0)),
        ({"ku": usage("key_encipherment")}, ("certificate_purpose", "digital_signature", 0)),
        (
            {"more": [(raw("1.2.3.4", b"\5\0"), True)]},
            ("certificate_untrusted", "critical_extension", 0),
        ),
    ],
    ids=lambda value: value[1] if isinstance(value, tuple) else ",".join(value),
)
def test_the_fault_of_a_leaf_has_its_rule(shape, expected):
    assert reason_of(presented(strict_leaf(CA, **shape))) == expected


def test_a_fault_behind_the_leaf_is_told_of_the_certificate_that_has_it():
    leaf = strict_leaf(CA)
    weak, junk = strict_leaf(CA, key=key_of("rsa1024")), Presented(leaf.der, (CA.der, b"junk"))
    assert reason_of(presented(leaf, CA, weak)) == ("certificate_weak", "rsa_bits", 2)
    assert reason_of(junk) == ("certificate_malformed", "der", 2)
    assert reason_of(Presented(leaf.der, (CA.der,) * 11)) == ("certificate_malformed", "chain_length", 0)


# Of the path


@pytest.mark.parametrize("profile", ["strict", "private-pki"])
@pytest.mark.parametrize(
    ("given", "rule", "place"),
    [
        (presented(strict_leaf(MIDDLE)), "issuer_unknown", 0),
        (presented(strict_leaf(strict_ca("lower", MIDDLE)), strict_ca("lower", MIDDLE)), "issuer_unknown", 1),
        (presented(strict_leaf(strict_ca("stranger"))), "issuer_unknown", 0),
        (presented(strict_leaf(strict_ca("ca", key=key_of("p256", 999)))), "signature", 0),
        (below(strict_ca("middle", strict_ca("ca", key=key_of("p256", 999)))), "signature", 1),
        (below(strict_ca("old", CA, end=NOW - HOUR)), "not_after", 1),
        (below(strict_ca("new", CA, begin=NOW + HOUR)), "not_before", 1),
        (below(middle_with(SIGNS)), "ca_flag", 1),
        (below(middle_with((x509.BasicConstraints(False, None), True))), "ca_flag", 1),
        (below(middle_with(IS_CA, (usage("crl_sign"), True))), "key_cert_sign", 1),
        (below(middle_with(IS_CA, SIGNS, (raw("1.2.3.4", b"\5\0"), True))), "critical_extension", 1),
        (
            presented(
                strict_leaf(strict_ca("lower", strict_ca("short", CA, path_length=0))),
                strict_ca("lower", strict_ca("short", CA, path_length=0)),
                strict_ca("short", CA, path_length=0),
            ),
            "path_length",
            2,
        ),
        (below(middle_with(IS_CA, SIGNS, (x509.ExtendedKeyUsage([SERVER]), False))), "eku_client_auth", 1),
    ],
    ids=[
        "no-intermediate", "no-root", "stranger", "namesake", "namesake-above", "old", "new", "no-flag",
        "flag-false", "no-sign", "critical", "length", "eku",
    ],
)  # fmt: skip
def test_the_certificate_that_breaks_a_path_is_named(given, rule, place, profile):
    assert reason_of(given, profile=profile) == ("certificate_untrusted", rule, place)


def test_what_we_hold_ourselves_is_named_by_its_digest():
    anchor = strict_ca("anchor", end=NOW - HOUR)
    found = reason_of(presented(strict_leaf(anchor)), anchor)
    assert found == ("certificate_untrusted", "not_after", digest_of(anchor))
    old = strict_ca("old", CA, end=NOW - HOUR)
    found = reason_of(presented(strict_leaf(old)), intermediates=[old])
    assert found == ("certificate_untrusted", "not_after", digest_of(old))
    assert reason_of(below(old), intermediates=[old]) == ("certificate_untrusted", "not_after", 1)


@pytest.mark.parametrize(
    ("leaf", "rule"),
    [
        (make("leaf", CA, extensions=[(san(x509.DNSName("a")), False)]), "authority_key_id"),
        (make("leaf", CA, extensions=[(authority_key_id(CA), False)]), "subject_alt_name"),
        (
            make("leaf", CA, extensions=[(san(x509.DNSName("a")), True), (authority_key_id(CA), False)]),
            "subject_alt_name",
        ),
    ],
)
def test_what_only_the_strict_profile_asks_for_is_named_too(leaf, rule):
    assert reason_of(presented(leaf)) == ("certificate_untrusted", rule, 0)


def test_a_fault_that_only_a_dead_end_has_is_not_taken_for_the_reason():
    old = strict_ca("middle", CA, key=MIDDLE.key, end=NOW - HOUR)
    leaf = strict_leaf(MIDDLE, more=[(raw("1.2.3.4", b"\5\0"), True)])
    for chain in ([old, MIDDLE], [MIDDLE, old]):
        assert reason_of(presented(leaf, *chain))[1:] == ("critical_extension", 0)


# What is never in it


@pytest.mark.parametrize(
    "leaf",
    [
        strict_leaf(CA, subject="Ada Lovelace", more=[(raw("1.2.3.4", b"\5\0"), True)]),
        make("Ada Lovelace", CA),
        strict_leaf(strict_ca("Ada Lovelace"), subject="Ada Lovelace"),
        strict_leaf(CA, subject="Ada Lovelace", names=raw_san(0x82, b"Ada Lovelace\0")),
    ],
)
def test_no_name_out_of_a_certificate_stands_in_a_reason(leaf):
    verdict = Trust((TrustAnchor(CA.certificate),)).judge(presented(leaf), NOW)
    assert isinstance(verdict, Rejected)
    assert "Ada" not in repr(verdict)
    assert len(verdict.reason.detail) <= 200


def test_looking_for_the_reason_among_namesakes_is_bounded():
    key = key_of("p256", 5)
    ring = [make("ring", key=key_of("p256", 100 + n), extensions=[IS_CA]) for n in range(10)]
    leaf = strict_leaf(make("ring", key=key, extensions=[IS_CA]))
    started = time.thread_time()
    assert reason_of(presented(leaf, *ring), profile="private-pki")[1] in {"signature", "path"}
    same = [make("ring", key=key, extensions=[IS_CA]) for _ in range(10)]
    assert reason_of(presented(leaf, *same), profile="private-pki")[1] == "path"
    assert time.thread_time() - started < 1


@given(st.data())
def test_no_heap_of_certificates_keeps_the_reason_from_being_found(data):
    heap = [CA, MIDDLE, strict_ca("old", CA, end=NOW - HOUR), plain_ca("plain"), strict_leaf(MIDDLE), LOOP]
    chain = data.draw(st.lists(st.sampled_from(heap), max_size=6))
    leaf = data.draw(st.sampled_from([strict_leaf(LOOP), strict_leaf(heap[2]), strict_leaf(heap[3])]))
    code, rule, place = reason_of(presented(leaf, *chain), profile="private-pki")
    assert code == "certificate_untrusted"
    assert rule
    assert isinstance(place, int | str)


LOOP = strict_ca("loop")
