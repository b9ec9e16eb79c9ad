from __future__ import annotations

import gc
import hashlib
import shutil
import threading
import time
from dataclasses import replace
from datetime import timedelta
from itertools import pairwise

import pytest
import trustme
from certificates.shapes import (
    ANY,
    CLIENT,
    NOW,
    SERVER,
    Made,
    authority_key_id,
    key_of,
    make,
    openssl,
    plain_ca,
    presented,
    raw,
    raw_san,
    san,
    signed_over,
    strict_ca,
    strict_leaf,
    usage,
)
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given
from hypothesis import strategies as st

from secmiddleware.certificates import judgement
from secmiddleware.certificates.encoding import spki_of
from secmiddleware.certificates.judgement import Judged, Rejected, Trust
from secmiddleware.certificates.trust import CertificateError, TrustAnchor
from secmiddleware.messages import Presented, Reason

CA = strict_ca()
PLAIN = plain_ca()
BOTH = ("strict", "private-pki")

# The shapes that openssl makes are all made with cryptography too; the program itself is the proof.
needs_openssl = pytest.mark.skipif(
    shutil.which("openssl") is None, reason="the program openssl is not installed"
)


def trust(*anchors: Made, profile: str = "strict") -> Trust:
    return Trust(tuple(TrustAnchor(anchor.certificate) for anchor in anchors or (CA,)), profile)


def code(verdict: Judged | Rejected) -> str | None:
    return verdict.code if isinstance(verdict, Rejected) else None


def code_of(given: Presented, *anchors: Made, profile: str = "strict", now=NOW) -> str | None:
    return code(trust(*anchors, profile=profile).judge(given, now))


# What is good


@pytest.mark.parametrize("profile", BOTH)
@pytest.mark.parametrize("kind", ["p256", "p384", "rsa2048", "ed25519"])
def test_an_ordinary_client_certificate_is_good(profile, kind):
    leaf = strict_leaf(CA, key=key_of(kind))
    verdict = trust(profile=profile).judge(presented(leaf), NOW)
    assert isinstance(verdict, Judged)
    assert verdict.leaf.der == leaf.der
    assert [issuer.certificate for issuer in verdict.line.issuers] == [CA.certificate]
    assert verdict.anchor.certificate == CA.certificate


@pytest.mark.parametrize("profile", BOTH)
def test_an_intermediate_is_needed_and_its_place_in_the_list_is_not(profile):
    middle = strict_ca("middle", CA)
    lower = strict_ca("lower", middle)
    leaf = strict_leaf(lower)
    assert code_of(presented(leaf, lower, middle), profile=profile) is None
    assert code_of(presented(leaf, middle, lower, CA, lower), profile=profile) is None
    assert code_of(presented(leaf, lower), profile=profile) == "certificate_untrusted"
    assert code_of(presented(leaf), profile=profile) == "certificate_untrusted"


@pytest.mark.parametrize("profile", BOTH)
def test_an_intermediate_that_is_trusted_needs_no_root(profile):
    middle = strict_ca("middle", CA)
    verdict = trust(middle, profile=profile).judge(presented(strict_leaf(middle)), NOW)
    assert isinstance(verdict, Judged)
    assert verdict.anchor.certificate == middle.certificate


@pytest.mark.parametrize("profile", BOTH)
def test_a_leaf_that_is_trusted_itself_is_good_and_vouches_for_nobody(profile):
    pinned = strict_leaf(CA, key=key_of("p256", 77))
    verdict = trust(pinned, profile=profile).judge(presented(pinned), NOW)
    assert isinstance(verdict, Judged)
    assert verdict.line.issuers == ()
    assert verdict.anchor.certificate == pinned.certificate
    child = strict_leaf(pinned, subject="child")
    assert code_of(presented(child), pinned, profile=profile) == "certificate_untrusted"
    assert code_of(presented(child, pinned), pinned, profile=profile) == "certificate_untrusted"


@pytest.mark.parametrize("profile", BOTH)
def test_a_trusted_leaf_is_judged_like_any_leaf(profile):
    for pinned, expected in [
        (strict_leaf(CA, eku=[SERVER]), "certificate_purpose"),
        (strict_leaf(CA, end=NOW - timedelta(hours=1)), "certificate_expired"),
        (CA, "certificate_purpose"),
    ]:
        assert code_of(presented(pinned), pinned, profile=profile) == expected


# Faults, one at a time and in their order


def rsa_signed(digest: str) -> Presented:
    return Presented(signed_over(strict_leaf(RSA_CA), digest))


RSA_CA = strict_ca("rsa", key=key_of("rsa2048"))

FAULTS = {
    "certificate_malformed": {"names": raw_san(0x82, b"a\0b")},
    "certificate_expired": {"end": NOW - timedelta(seconds=1)},
    "certificate_weak": {"key": key_of("rsa1024")},
    "certificate_purpose": {"eku": [SERVER]},
}
ORDER = list(FAULTS)


@pytest.mark.parametrize("profile", BOTH)
@pytest.mark.parametrize("fault", ORDER)
def test_each_fault_has_its_code(fault, profile):
    assert code_of(presented(strict_leaf(CA, **FAULTS[fault])), profile=profile) == fault


@pytest.mark.parametrize("profile", BOTH)
@pytest.mark.parametrize(("first", "second"), list(pairwise(ORDER)))
def test_of_two_faults_the_first_in_order_is_named(first, second, profile):
    both = strict_leaf(CA, **FAULTS[second], **FAULTS[first])
    assert code_of(presented(both), profile=profile) == first


@pytest.mark.parametrize("profile", BOTH)
@pytest.mark.parametrize("fault", ORDER)
def test_every_fault_is_named_before_a_strange_ca(fault, profile):
    stranger = strict_ca("stranger")
    assert code_of(presented(strict_leaf(stranger, **FAULTS[fault])), profile=profile) == fault
    assert code_of(presented(strict_leaf(stranger)), profile=profile) == "certificate_untrusted"


# Malformed

GOOD = strict_leaf(CA)


@pytest.mark.parametrize(
    "leaf",
    [
        b"",
        b"hello",
        GOOD.der + b"\0",
        GOOD.der[:-1],
        GOOD.pem,
        b"\x30\x80" + GOOD.der[4:] + b"\0\0",
        CA.der + GOOD.der,
    ],
    ids=["empty", "text", "trailing", "truncated", "pem", "indefinite-length", "two"],
)
def test_what_is_not_one_certificate_in_der_is_malformed(leaf):
    assert code_of(Presented(leaf)) == "certificate_malformed"
    assert code_of(Presented(GOOD.der, (leaf,))) == "certificate_malformed"


@pytest.mark.parametrize(
    "names",
    [
        raw_san(0x82, b"a\0.example.org"),
        raw_san(0x82, b""),
        raw_san(0x82, "é.example.org".encode()),
        raw_san(0x82, b"a.example.org\r\nX: y"),
        raw_san(0x81, b"a b@example.org"),
        raw_san(0x87, b"\x0a\0\0\0\xff\0\0\0"),
        raw_san(0x87, b"\x0a\0\0"),
        raw("2.5.29.17", b"\x05\x00"),
        san(x509.UniformResourceIdentifier("spiffe://Example.org/a")),
        san(x509.UniformResourceIdentifier("SPIFFE://example.org/a")),
        san(x509.UniformResourceIdentifier("spiffe://example.org")),
        san(x509.UniformResourceIdentifier("spiffe://example.org/a/../b")),
        san(x509.UniformResourceIdentifier("spiffe://example.org/a%2fb")),
        san(x509.UniformResourceIdentifier("spiffe://example.org/a?b")),
        san(x509.UniformResourceIdentifier("spiffe:x")),
        san(x509.UniformResourceIdentifier("spiffe://a/b"), x509.UniformResourceIdentifier("spiffe://a/c")),
        san(x509.UniformResourceIdentifier("https://a/b"), x509.UniformResourceIdentifier("spiffe://a/c")),
    ],
)
def test_a_name_that_cannot_be_read_in_one_way_is_malformed(names):
    assert code_of(presented(strict_leaf(CA, names=names)), profile="private-pki") == "certificate_malformed"


def test_an_empty_extended_key_usage_is_no_extension_at_all():
    leaf = strict_leaf(CA, eku=[])
    assert code_of(presented(leaf)) == "certificate_malformed"
    assert code_of(presented(leaf), profile="private-pki") == "certificate_malformed"


def test_a_broken_certificate_behind_the_leaf_is_malformed():
    broken = make("broken", CA, extensions=[(raw("2.5.29.19", b"\x05\x00"), True)])
    assert code_of(presented(GOOD, broken)) == "certificate_malformed"


X400_ADDRESS = raw_san(0xA3, b"\x30\0")
EDI_PARTY = raw_san(0xA5, b"\xa1\3\x0c\1x")


@pytest.mark.parametrize(
    "extension",
    [
        X400_ADDRESS,
        EDI_PARTY,
        raw("2.5.29.18", X400_ADDRESS.value),  # issuerAltName
        raw("2.5.29.31", bytes.fromhex("300a3008a006a004a3023000")),  # cRLDistributionPoints
        raw(
            "1.3.6.1.5.5.7.1.1", bytes.fromhex("3010300e06082b06010505073001a3023000")
        ),  # authorityInfoAccess
        raw("1.3.6.1.5.5.7.1.24", bytes.fromhex("3003020163")),  # a TLS feature of no known number
    ],
    ids=["x400", "edi", "issuer", "crl", "aia", "tls-feature"],
)
def test_what_the_library_has_no_word_for_is_malformed_in_the_leaf_and_behind_it(extension):
    named = extension.oid == x509.SubjectAlternativeName.oid
    extensions = (
        [(extension, False)] if named else [(san(x509.DNSName("a.example.org")), False), (extension, False)]
    )
    odd = make("odd", CA, extensions=[*extensions, (authority_key_id(CA), False)])
    for profile in BOTH:
        assert code_of(presented(odd), profile=profile) == "certificate_malformed"
        assert code_of(presented(GOOD, odd), profile=profile) == "certificate_malformed"
    assert code_of(presented(make("odd", extensions=extensions))) == "certificate_malformed"
    with pytest.raises(CertificateError, match="cannot be read"):
        trust(odd)


def test_a_pss_signature_without_parameters_is_weak():
    """What the library raises for it is no UnsupportedAlgorithm."""
    ecdsa, pss = bytes.fromhex("300a06082a8648ce3d040302"), bytes.fromhex("300b06092a864886f70d01010a")
    head, rest = GOOD.der[:8], GOOD.der[8:]
    assert (head[:2], head[4:6], rest.count(ecdsa)) == (b"\x30\x82", b"\x30\x82", 2)
    whole, signed = (int.from_bytes(head[at : at + 2], "big") for at in (2, 6))
    longer = b"\x30\x82" + (whole + 2).to_bytes(2, "big") + b"\x30\x82" + (signed + 1).to_bytes(2, "big")
    verdict = trust().judge(Presented(longer + rest.replace(ecdsa, pss)), NOW)
    assert isinstance(verdict, Rejected)
    assert (verdict.code, verdict.reason.rule) == ("certificate_weak", "signature_kind")


def test_a_validity_that_ends_before_it_begins_is_malformed():
    good = strict_leaf(CA, begin=NOW, end=NOW + timedelta(days=1))
    swapped = good.der.replace(b"260601120000Z", b"260603120000Z")
    assert swapped != good.der
    assert code_of(Presented(swapped)) == "certificate_malformed"


@needs_openssl
@pytest.mark.parametrize("serial", ["0", "-5"])
def test_a_serial_number_that_is_not_positive_is_malformed(serial, tmp_path):
    request = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout k -out c -outform DER"
    openssl(tmp_path, *request.split(), "-subj", "/CN=x", "-set_serial", serial)
    assert code_of(Presented((tmp_path / "c").read_bytes())) == "certificate_malformed"


def test_too_many_or_too_large_certificates_are_not_even_read():
    chain = (CA.der,) * 11
    assert code_of(Presented(GOOD.der, chain[:10])) is None
    assert code_of(Presented(GOOD.der, chain)) == "certificate_malformed"
    huge = strict_leaf(CA, more=[(raw("1.2.3.4", b"\x04\x84\0\x02\0\0" + bytes(0x20000)), False)])
    assert code_of(presented(huge)) == "certificate_malformed"


@given(st.data())
def test_no_damaged_certificate_is_good_and_none_raises(data):
    der = bytearray(GOOD.der)
    for _ in range(data.draw(st.integers(1, 4))):
        der[data.draw(st.integers(0, len(der) - 1))] ^= data.draw(st.integers(1, 255))
    damaged = bytes(der[: data.draw(st.integers(1, len(der)))]) if data.draw(st.booleans()) else bytes(der)
    if damaged != GOOD.der:
        verdict = TRUSTS[data.draw(st.sampled_from(BOTH))].judge(Presented(damaged, (CA.der,)), NOW)
        assert isinstance(verdict, Rejected) or is_signed_alike(damaged, GOOD.certificate)


def is_signed_alike(der, other):
    """Only how many bits of the signature's last byte count may differ: the library reads them all."""
    one = x509.load_der_x509_certificate(der)
    return (one.tbs_certificate_bytes, one.signature) == (other.tbs_certificate_bytes, other.signature)


def test_the_signature_of_a_certificate_has_two_spellings_so_that_its_digest_keeps_nobody_out():
    order = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
    r, s = decode_dss_signature(GOOD.certificate.signature)
    signature = der_of(0x03, b"\0" + encode_dss_signature(r, order - s))
    ours = der_of(0x03, b"\0" + GOOD.certificate.signature)
    assert GOOD.der.endswith(ours)
    respelled = der_of(0x30, GOOD.der[4 : -len(ours)] + signature)
    verdict = TRUSTS["strict"].judge(Presented(respelled, (CA.der,)), NOW)
    assert isinstance(verdict, Judged)
    assert verdict.leaf.sha256 != GOOD.certificate.fingerprint(SHA256()).hex()
    assert verdict.leaf.spki_sha256 == hashlib.sha256(spki_of(GOOD.der)).hexdigest()
    assert verdict.leaf.serial == GOOD.certificate.serial_number


def der_of(tag, content):
    size = len(content)
    length = size.to_bytes((size.bit_length() + 7) // 8, "big")
    return bytes([tag, size] if size < 128 else [tag, 0x80 | len(length), *length]) + content


TRUSTS = {profile: trust(profile=profile) for profile in BOTH}


# Dates


def test_the_first_and_the_last_second_count():
    leaf = strict_leaf(CA, begin=NOW, end=NOW + timedelta(hours=1))
    judge = trust().judge
    end = NOW + timedelta(hours=1)
    for instant, expected in [
        (NOW - timedelta(microseconds=1), "certificate_not_yet_valid"),
        (NOW, None),
        (end, None),
        (end + timedelta(microseconds=999_999), None),
        (end + timedelta(seconds=1), "certificate_expired"),
    ]:
        assert code(judge(presented(leaf), instant)) == expected


def test_a_certificate_without_end_is_good():
    assert code_of(presented(strict_leaf(CA, end=NOW.replace(year=9999, month=12, day=31)))) is None


@pytest.mark.parametrize("profile", BOTH)
def test_an_issuer_that_has_expired_vouches_for_nobody(profile):
    old = strict_ca("old", CA, end=NOW - timedelta(hours=1))
    assert code_of(presented(strict_leaf(old), old), profile=profile) == "certificate_untrusted"
    anchor = strict_ca("anchor", end=NOW - timedelta(hours=1))
    assert code_of(presented(strict_leaf(anchor)), anchor, profile=profile) == "certificate_untrusted"


# Strength


@pytest.mark.parametrize("profile", BOTH)
@pytest.mark.parametrize("kind", ["rsa1024", "p192", "p224", "dsa", "x25519"])
def test_a_weak_key_is_refused_in_the_leaf_and_behind_it(kind, profile):
    leaf = strict_leaf(CA, key=key_of(kind))
    assert code_of(presented(leaf), profile=profile) == "certificate_weak"
    assert code_of(presented(GOOD, leaf), profile=profile) == "certificate_weak"


@pytest.mark.parametrize("kind", ["rsa1024", "p192"])
def test_a_weak_intermediate_is_refused_also_where_the_leaf_is_strong(kind):
    weak = strict_ca("weak", CA, key=key_of(kind))
    assert code_of(presented(strict_leaf(weak), weak), profile="private-pki") == "certificate_weak"


@pytest.mark.parametrize("digest", ["md5", "sha1"])
def test_a_broken_hash_is_refused_in_the_leaf_and_behind_it(digest):
    leaf = rsa_signed(digest)
    assert code_of(leaf, RSA_CA) == "certificate_weak"
    assert code_of(leaf, CA) == "certificate_weak"
    assert code_of(Presented(strict_leaf(RSA_CA).der, (leaf.leaf,)), RSA_CA) == "certificate_weak"


@needs_openssl
def test_real_sha1_and_md5_signatures_are_refused(tmp_path):
    (tmp_path / "ca.pem").write_bytes(RSA_CA.pem)
    (tmp_path / "ca.key").write_bytes(RSA_CA.key_pem)
    openssl(
        tmp_path,
        *["req", "-newkey", "rsa:2048", "-nodes", "-keyout", "k", "-out", "r", "-subj", "/CN=client"],
    )
    for digest in ("-sha1", "-md5"):
        openssl(
            tmp_path,
            *[
                "x509",
                "-req",
                "-in",
                "r",
                "-CA",
                "ca.pem",
                "-CAkey",
                "ca.key",
                "-outform",
                "DER",
                "-out",
                "c",
            ],
            digest,
        )
        der = (tmp_path / "c").read_bytes()
        later = x509.load_der_x509_certificate(der).not_valid_before_utc + timedelta(hours=1)
        verdict = code_of(Presented(der), RSA_CA, profile="private-pki", now=later)
        assert verdict == "certificate_weak"


@needs_openssl
def test_the_signature_of_a_presented_anchor_is_nobodys_concern(tmp_path):
    (tmp_path / "k").write_bytes(RSA_CA.key_pem)
    openssl(
        tmp_path,
        *[
            "req",
            "-x509",
            "-key",
            "k",
            "-sha1",
            "-days",
            "36500",
            "-outform",
            "DER",
            "-out",
            "c",
            "-subj",
            "/CN=rsa",
        ],
    )
    old = x509.load_der_x509_certificate((tmp_path / "c").read_bytes())
    leaf = make("leaf", Made(old, RSA_CA.key), end=NOW + timedelta(days=36000), extensions=[])
    later = old.not_valid_before_utc + timedelta(days=1)
    given = presented(leaf, Made(old, None))
    assert code_of(given, Made(old, None), profile="private-pki", now=later) is None
    assert code_of(given, CA, profile="private-pki", now=later) == "certificate_weak"


@pytest.mark.parametrize("kind", ["rsa1024", "p192", "dsa"])
def test_a_weak_key_cannot_be_trusted_at_all(kind):
    with pytest.raises(CertificateError, match="cannot be trusted"):
        TrustAnchor(make("x", CA, key=key_of(kind)).certificate)


# Purpose


@pytest.mark.parametrize("profile", BOTH)
@pytest.mark.parametrize(
    "shape",
    [
        {"eku": [SERVER]},
        {"eku": [ANY]},
        {"ca": True},
        {"ku": usage("digital_signature", "key_cert_sign")},
        {"ku": usage("digital_signature", "crl_sign")},
        {"ku": usage("key_encipherment")},
    ],
    ids=str,
)
def test_what_is_no_client_certificate_is_refused_for_its_purpose(shape, profile):
    assert code_of(presented(strict_leaf(CA, **shape)), profile=profile) == "certificate_purpose"


@pytest.mark.parametrize("profile", BOTH)
def test_a_ca_is_no_client_though_it_is_trusted_and_signs_itself(profile):
    assert code_of(presented(CA), profile=profile) == "certificate_purpose"
    assert code_of(presented(PLAIN), PLAIN, profile=profile) == "certificate_purpose"


@pytest.mark.parametrize("profile", BOTH)
def test_both_purposes_or_none_named_are_good(profile):
    assert code_of(presented(strict_leaf(CA, eku=[SERVER, CLIENT])), profile=profile) is None
    leaf = make("x", CA, extensions=[(san(x509.DNSName("x")), False), (authority_key_id(CA), False)])
    assert code_of(presented(leaf), profile=profile) is None


# Chain


@pytest.mark.parametrize("profile", BOTH)
def test_a_leaf_does_not_issue(profile):
    leaf = strict_leaf(CA, key=key_of("p256", 5))
    child = strict_leaf(leaf, subject="child")
    assert code_of(presented(child, leaf), profile=profile) == "certificate_untrusted"


@pytest.mark.parametrize("profile", BOTH)
@pytest.mark.parametrize(
    "more",
    [
        [],
        [(x509.BasicConstraints(False, None), True)],
        [(x509.BasicConstraints(True, None), True), (usage("digital_signature"), True)],
        [(x509.BasicConstraints(True, None), True), (x509.ExtendedKeyUsage([SERVER]), False)],
        [(x509.BasicConstraints(True, None), True), (x509.ExtendedKeyUsage([SERVER]), True)],
        [(x509.BasicConstraints(True, None), True), (raw("1.2.3.4", b"\x05\0"), True)],
    ],
    ids=["no-basic-constraints", "ca-false", "no-cert-sign", "server", "critical-server", "unknown-critical"],
)
def test_what_is_no_ca_for_clients_does_not_issue(more, profile):
    issuer = make("issuer", CA, extensions=[*more, (authority_key_id(CA), False)])
    assert code_of(presented(strict_leaf(issuer), issuer), profile=profile) == "certificate_untrusted"
    anchor = make("issuer", extensions=more)
    assert code_of(presented(strict_leaf(anchor)), anchor, profile=profile) == "certificate_untrusted"


@pytest.mark.parametrize("usages", [[CLIENT], [ANY], [SERVER, CLIENT]])
def test_a_ca_may_say_that_it_is_for_clients(usages):
    issuer = strict_ca("issuer", CA, more=[(x509.ExtendedKeyUsage(usages), False)])
    assert code_of(presented(strict_leaf(issuer), issuer)) is None
    assert code_of(presented(strict_leaf(issuer), issuer), profile="private-pki") is None


@pytest.mark.parametrize("profile", BOTH)
def test_a_path_length_is_kept(profile):
    short = strict_ca("short", path_length=0)
    middle = strict_ca("middle", short)
    assert code_of(presented(strict_leaf(short)), short, profile=profile) is None
    assert code_of(presented(strict_leaf(middle), middle), short, profile=profile) == "certificate_untrusted"


@pytest.mark.parametrize("profile", BOTH)
def test_an_unknown_critical_extension_is_refused(profile):
    leaf = strict_leaf(CA, more=[(raw("1.2.3.4", b"\x05\0"), True)])
    assert code_of(presented(leaf), profile=profile) == "certificate_untrusted"
    leaf = strict_leaf(CA, more=[(raw("1.2.3.4", b"\x05\0"), False)])
    assert code_of(presented(leaf), profile=profile) is None


@pytest.mark.parametrize("profile", BOTH)
def test_a_namesake_with_another_key_is_a_strange_ca(profile):
    namesake = strict_ca(key=key_of("p256", 1234))
    leaf = strict_leaf(namesake)
    assert code_of(presented(leaf), profile=profile) == "certificate_untrusted"
    assert code_of(presented(leaf, namesake), profile=profile) == "certificate_untrusted"
    assert code_of(presented(leaf), namesake, profile=profile) is None
    assert code_of(presented(leaf), CA, namesake, profile=profile) is None


def test_nothing_trusted_means_nobody():
    assert code(Trust(()).judge(presented(GOOD), NOW)) == "certificate_untrusted"


def test_issuers_that_vouch_for_each_other_do_not_cost_time():
    key = key_of("p256", 99)
    ring = [make("ring", key=key, extensions=[(x509.BasicConstraints(True, None), True)]) for _ in range(10)]
    started = time.thread_time()
    assert code_of(presented(strict_leaf(ring[0]), *ring), profile="private-pki") == "certificate_untrusted"
    assert time.thread_time() - started < 2


# private-pki takes what everyday private CAs make; strict does not

EVERYDAY = {
    "critical-eku": make(
        "leaf",
        PLAIN,
        extensions=[
            (san(x509.DNSName("a")), False),
            (authority_key_id(PLAIN), False),
            (x509.ExtendedKeyUsage([CLIENT]), True),
            (usage("digital_signature"), False),
        ],
    ),
    "no-san": make("leaf", PLAIN),
    "no-aki": make("leaf", PLAIN, extensions=[(san(x509.DNSName("a")), False)]),
    "critical-san": make(
        "leaf", PLAIN, extensions=[(san(x509.DNSName("a")), True), (authority_key_id(PLAIN), False)]
    ),
}


@pytest.mark.parametrize("shape", list(EVERYDAY))
def test_everyday_leaves_are_good_for_private_pki_only(shape):
    given = presented(EVERYDAY[shape])
    assert code_of(given, PLAIN, profile="private-pki") is None
    assert code_of(given, PLAIN, profile="strict") == "certificate_untrusted"


def test_a_ca_whose_flag_is_not_critical_is_good_for_private_pki_only():
    lax = make(
        "lax", extensions=[(x509.BasicConstraints(True, None), False), (usage("key_cert_sign"), False)]
    )
    assert code_of(presented(strict_leaf(lax)), lax, profile="private-pki") is None
    assert code_of(presented(strict_leaf(lax)), lax, profile="strict") == "certificate_untrusted"


@needs_openssl
def test_certificates_that_openssl_makes_by_default_are_good_for_private_pki(tmp_path):
    openssl(
        tmp_path,
        *[
            "req",
            "-x509",
            "-newkey",
            "rsa:2048",
            "-nodes",
            "-keyout",
            "ca.key",
            "-out",
            "ca.pem",
            "-subj",
            "/CN=home",
        ],
    )
    openssl(
        tmp_path,
        *["req", "-newkey", "rsa:2048", "-nodes", "-keyout", "k", "-out", "r", "-subj", "/CN=client"],
    )
    (tmp_path / "ext").write_text("basicConstraints = CA:FALSE\n")
    openssl(
        tmp_path,
        *[
            "x509",
            "-req",
            "-in",
            "r",
            "-CA",
            "ca.pem",
            "-CAkey",
            "ca.key",
            "-outform",
            "DER",
            "-out",
            "c",
            "-extfile",
            "ext",
        ],
    )
    home = Made(x509.load_pem_x509_certificate((tmp_path / "ca.pem").read_bytes()), None)
    now = home.certificate.not_valid_before_utc + timedelta(hours=1)
    leaf = (tmp_path / "c").read_bytes()
    assert code_of(Presented(leaf), home, profile="private-pki", now=now) is None
    assert code_of(Presented(leaf), home, profile="strict", now=now) == "certificate_untrusted"
    openssl(
        tmp_path,
        *["x509", "-req", "-in", "r", "-CA", "ca.pem", "-CAkey", "ca.key", "-outform", "DER", "-out", "v1"],
    )
    version1 = Presented((tmp_path / "v1").read_bytes())
    assert code_of(version1, home, profile="private-pki", now=now) == "certificate_untrusted"


@pytest.mark.parametrize("key_type", list(trustme.KeyType))
def test_certificates_of_trustme_are_good_for_private_pki(key_type):
    ca = trustme.CA(key_type=key_type)
    middle = ca.create_child_ca(key_type=key_type)
    anchor = Made(x509.load_pem_x509_certificate(ca.cert_pem.bytes()), None)
    for issuer in (ca, middle):
        pems = issuer.issue_cert("client@example.org", common_name="c", key_type=key_type).cert_chain_pems
        leaf, *rest = (x509.load_pem_x509_certificate(pem.bytes()).public_bytes(Encoding.DER) for pem in pems)
        now = x509.load_der_x509_certificate(leaf).not_valid_before_utc + timedelta(hours=1)
        assert code_of(Presented(leaf, tuple(rest)), anchor, profile="private-pki", now=now) is None


# What is kept


def test_a_kept_verdict_ends_with_the_first_certificate_of_the_path_that_does():
    middle = strict_ca("middle", CA, end=NOW + timedelta(hours=1))
    given = presented(strict_leaf(middle), middle)
    judging = trust()
    assert code(judging.judge(given, NOW)) is None
    assert code(judging.judge(given, NOW + timedelta(minutes=59))) is None
    assert code(judging.judge(given, NOW + timedelta(hours=2))) == "certificate_untrusted"
    assert code(judging.judge(given, NOW - timedelta(days=2))) == "certificate_not_yet_valid"
    assert code(judging.judge(given, NOW + timedelta(days=40))) == "certificate_expired"
    assert code(judging.judge(given, NOW)) is None


def test_the_same_leaf_with_another_chain_is_judged_anew():
    middle = strict_ca("middle", CA)
    leaf = strict_leaf(middle)
    judging = trust()
    assert code(judging.judge(presented(leaf, middle), NOW)) is None
    assert code(judging.judge(presented(leaf), NOW)) == "certificate_untrusted"
    assert code(judging.judge(Presented(leaf.der, (b"junk",)), NOW)) == "certificate_malformed"


def test_what_is_kept_is_bounded_and_the_verdicts_stay_right(monkeypatch):
    monkeypatch.setattr(judgement, "_MAX_KEPT", 16)
    judging = trust()
    leaves = [presented(strict_leaf(CA)) for _ in range(40)]
    assert all(isinstance(judging.judge(leaf, NOW), Judged) for leaf in leaves)
    assert 0 < len(judging._kept) <= 16
    assert all(isinstance(judging.judge(leaf, NOW), Judged) for leaf in leaves)


def test_what_is_sent_along_is_held_by_its_digest_where_it_is_large_and_nobody_passes_by_that():
    more = [(raw("1.2.3.4", b"\x04\x82\x20\0" + bytes(0x2000)), False)]
    large, judging = strict_ca("large", CA, more=more), trust()
    leaf = strict_leaf(large)
    assert code(judging.judge(presented(leaf, large), NOW)) is None
    [(kept, *along)] = judging._kept
    assert (kept, sum(map(len, along))) == (leaf.der, 64)
    for digest in (hashlib.sha256(large.der).digest(), hashlib.sha256(large.der).hexdigest().encode()):
        assert code(judging.judge(Presented(leaf.der, (digest,)), NOW)) == "certificate_malformed"


def test_a_verdict_is_kept_with_the_connection_and_found_from_another(monkeypatch):
    judging, first = trust(), presented(GOOD, CA)
    verdict = judging.judge(first, NOW)
    monkeypatch.setattr(Trust, "_judge", None)  # whoever would judge anew from here on fails
    assert judging.judge(first, NOW) is verdict
    judging._kept.clear()
    assert judging.judge(first, NOW) is verdict
    with pytest.raises(TypeError):
        judging.judge(presented(GOOD, CA), NOW)


def test_another_trust_does_not_go_by_what_was_kept_with_the_connection():
    given = presented(GOOD)
    assert code(trust().judge(given, NOW)) is None
    assert given.kept is not None
    assert code(trust(strict_ca("another")).judge(given, NOW)) == "certificate_untrusted"
    assert code(trust().judge(given, NOW)) is None


def test_a_connection_does_not_keep_a_trust_that_is_gone_alive():
    judging, given = trust(), presented(GOOD)
    judging.judge(given, NOW)
    held = [one for one in gc.get_referrers(judging._kept) if one is not judging]
    assert held == []


def test_what_is_kept_is_no_part_of_what_was_presented():
    fresh, judged = presented(GOOD), presented(GOOD)
    trust().judge(judged, NOW)
    assert (fresh, hash(fresh), repr(fresh)) == (judged, hash(judged), repr(judged))
    assert replace(judged, source="nginx").kept is None


def test_a_rejection_is_not_kept():
    judging, given = trust(), presented(strict_leaf(CA, eku=[SERVER]))
    assert code(judging.judge(given, NOW)) == "certificate_purpose"
    assert (judging._kept, given.kept) == ({}, None)


def test_many_threads_get_each_their_own_verdict():
    judging = trust()
    leaves = [strict_leaf(CA, subject=f"client-{number}") for number in range(8)]
    bad = presented(strict_leaf(CA, eku=[SERVER]))
    wrong: list[object] = []

    def run(leaf: Made) -> None:
        for _ in range(200):
            verdict = judging.judge(presented(leaf), NOW)
            if (
                not isinstance(verdict, Judged)
                or verdict.leaf.der != leaf.der
                or code(judging.judge(bad, NOW)) is None
            ):
                wrong.append(verdict)

    threads = [threading.Thread(target=run, args=(leaf,)) for leaf in leaves]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_one_certificate_is_not_trusted_in_two_ways():
    with pytest.raises(CertificateError, match="twice"):
        Trust((TrustAnchor(CA.certificate, ("dns:a",)), TrustAnchor(CA.certificate)))
    assert (
        code(Trust((TrustAnchor(CA.certificate), TrustAnchor(CA.certificate))).judge(presented(GOOD), NOW))
        is None
    )


def test_a_rejection_tells_the_log_why_and_nothing_secret():
    verdict = trust().judge(presented(strict_leaf(CA, key=key_of("rsa1024"))), NOW)
    assert verdict == Rejected("certificate_weak", Reason("rsa_bits", 0))
    assert verdict.reason.detail == "its RSA key has 1024 bits, 2048 are the least"


def test_an_impossible_public_exponent_proves_nothing():
    leaf = strict_leaf(CA, key=key_of("rsa2048"))
    spki = leaf.key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    even = leaf.der.replace(spki, spki[:-3] + b"\x01\x00\x02")
    assert even != leaf.der
    assert code_of(Presented(even)) == "certificate_weak"
