"""A leaf of the usual form is read in one pass over its DER, to what the library reads or not at all."""

from __future__ import annotations

import warnings

import pytest
from certificates.shapes import (
    ANY,
    CLIENT,
    NOW,
    SERVER,
    USAGES,
    key_of,
    raw,
    raw_san,
    san,
    strict_ca,
    strict_leaf,
    usage,
)
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.name import _ASN1Type
from cryptography.x509.oid import NameOID
from hypothesis import HealthCheck, given, note, settings
from hypothesis import strategies as st

from secmiddleware.certificates.encoding import UNREADABLE
from secmiddleware.certificates.leaves import Leaf, load

CA = strict_ca("issuer of leaves")
SIGNER = Ed25519PrivateKey.generate()
AUTHORITY = x509.AuthorityKeyIdentifier.from_issuer_public_key(CA.key.public_key())
SUBJECT_KEY = x509.SubjectKeyIdentifier.from_public_key(CA.key.public_key())
URI = x509.UniformResourceIdentifier("spiffe://example.org/clients/bench")


def leaf(subject: x509.Name, *extensions: tuple[x509.ExtensionType, bool], kind: str = "rsa2048") -> bytes:
    """The DER of a certificate with this subject and these extensions; its signature is nobody's concern."""
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(CA.certificate.subject)
        .public_key(key_of(kind).public_key())
        .serial_number(1 << 150)
        .not_valid_before(NOW)
        .not_valid_after(NOW.replace(year=2027))
    )
    for extension, critical in extensions:
        builder = builder.add_extension(extension, critical)
    return builder.sign(SIGNER, None).public_bytes(Encoding.DER)


def named(*texts: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text) for text in texts])


def by_the_library(der: bytes) -> Leaf | None:
    """What the library says of a certificate; None where it cannot read it, or its names.

    The issuer is left out: where there is a path, it is the subject of the next certificate, which was read.
    """
    try:
        loaded = load(der)
        _ = loaded[0].subject, loaded[0].extensions
        return Leaf.of(loaded, der)
    except UNREADABLE:
        return None


def in_one_pass(der: bytes) -> Leaf | None:
    return Leaf.usual(load(der), der)


USUAL = [
    (x509.BasicConstraints(False, None), True),
    (usage("digital_signature", "key_encipherment"), True),
    (x509.ExtendedKeyUsage([CLIENT]), False),
    (san(URI), False),
    (AUTHORITY, False),
    (SUBJECT_KEY, False),
]


@pytest.mark.parametrize("kind", ["p256", "p384", "rsa2048", "ed25519"])
@pytest.mark.parametrize("extensions", [USUAL, USUAL[::-1], USUAL[1:], USUAL[:4]])
def test_what_most_cas_issue_is_read_in_one_pass(extensions, kind):
    subject = x509.Name(
        [
            x509.NameAttribute(NameOID.COUNTRY_NAME, "CH"),
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Example & Co."),
            x509.NameAttribute(NameOID.COMMON_NAME, "client-1.example.org"),
        ]
    )
    der = leaf(subject, *extensions, kind=kind)
    said = in_one_pass(der)
    assert said is not None
    assert said == by_the_library(der)


@pytest.mark.parametrize(
    "subject",
    [
        x509.Name([]),
        named("x" * 64),
        x509.Name(
            [x509.NameAttribute(oid, "a b") for oid in (
                NameOID.STATE_OR_PROVINCE_NAME, NameOID.LOCALITY_NAME, NameOID.ORGANIZATIONAL_UNIT_NAME
            )]
        ),
    ],
)  # fmt: skip
def test_subjects_without_anything_to_escape_are_read_in_one_pass(subject):
    der = leaf(subject, *USUAL)
    assert in_one_pass(der) == by_the_library(der) is not None


@pytest.mark.parametrize("kind", ["p256", "p384", "rsa1024"])
@pytest.mark.parametrize("signer", ["p256", "rsa2048"])
def test_what_is_weak_is_the_same_whichever_way_a_leaf_is_read(kind, signer):
    ca = strict_ca("signer of leaves", key=key_of(signer))
    der = strict_leaf(ca, key=key_of(kind)).der
    # SHA-1 with RSA instead of SHA-256: nobody makes such certificates any more.
    broken = der.replace(bytes.fromhex("2a864886f70d01010b"), bytes.fromhex("2a864886f70d010105"))
    assert (broken == der) is (signer == "p256")
    for one in (der, broken):
        said = in_one_pass(one)
        assert said is not None
        assert said == by_the_library(one)
        assert (said.weakness is None) is (one == der and kind != "rsa1024")


def too_long() -> x509.Name:
    with pytest.warns(UserWarning, match="length"):
        return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "x" * 65, _validate=False)])


UNUSUAL = {
    "a name of which the library warns": ([too_long()], USUAL),
    "a last space that is to be escaped": ([named("a ")], USUAL),
    "no extensions": ([named("a")], []),
    "a name to be escaped": ([named("a,b")], USUAL),
    "a space that is to be escaped": ([named(" a")], USUAL),
    "a sharp that is to be escaped": ([named("#a")], USUAL),
    "letters beyond ASCII": ([named("Zoë")], USUAL),
    "two attributes in one": (
        [
            x509.Name(
                [x509.RelativeDistinguishedName([*named("a"), x509.NameAttribute(NameOID.USER_ID, "b")])]
            )
        ],
        USUAL,
    ),
    "an attribute that is met rarely": ([x509.Name([x509.NameAttribute(NameOID.USER_ID, "b")])], USUAL),
    "an address": ([named("a")], [*USUAL[:3], (raw_san(0x87, b"\x7f\0\0\1"), False)]),
    "a name of another kind": ([named("a")], [*USUAL[:3], (raw_san(0x88, b"\x2a\x03"), False)]),
    "a name that is empty": ([named("a")], [*USUAL[:3], (raw_san(0x82, b""), False)]),
    "an extension of somebody's own": ([named("a")], [*USUAL, (raw("1.2.3.4", b"\x05\x00"), False)]),
    "a certificate policy": ([named("a")], [*USUAL, (raw("2.5.29.32", b"\x30\x00"), False)]),
    "a CA": ([named("a")], [(x509.BasicConstraints(True, None), True), *USUAL[1:]]),
    "any purpose": ([named("a")], [*USUAL[:2], (x509.ExtendedKeyUsage([ANY]), False)]),
    "two bytes of key usage": (
        [named("a")],
        [(usage("digital_signature", "key_agreement", "decipher_only"), True)],
    ),
    "more behind a key's identifier": (
        [named("a")],
        [(raw("2.5.29.35", b"\x30\x16\x80\x14" + bytes(21)), False)],
    ),
    "a long name": ([named("a")], [(san(x509.DNSName("a." * 70 + "example")), False)]),
}


@pytest.mark.parametrize("case", UNUSUAL)
def test_what_is_not_the_usual_form_is_left_to_the_library(case):
    [subject], extensions = UNUSUAL[case]
    assert in_one_pass(leaf(subject, *extensions)) is None


def test_an_extension_that_is_there_twice_is_left_to_the_library():
    strict, lax = usage("key_cert_sign"), usage("digital_signature")
    der = leaf(named("a"), (strict, True), (raw("2.5.29.99", lax.public_bytes()), False))
    twice = der.replace(b"\x06\x03\x55\x1d\x63", b"\x06\x03\x55\x1d\x0f")
    assert twice != der
    assert in_one_pass(twice) is None
    assert by_the_library(twice) is None


@pytest.mark.parametrize("bits", range(1, 256))
def test_whatever_bits_of_key_usage_there_are_both_ways_say_the_same(bits):
    value = bytes((3, 2, (bits & -bits).bit_length() - 1, bits))
    der = leaf(named("a"), (raw("2.5.29.15", value), True), (AUTHORITY, False))
    said, due = in_one_pass(der), by_the_library(der)
    assert said == due
    # What is only for encryption, and for no agreement on a key, is nothing that the library reads.
    assert (due is None) is bool(bits & 0x01 and not bits & 0x08)


LETTERS = "abcXYZ019 '()+,-./:=?"  # of a PrintableString
TEXTS = st.one_of(
    st.tuples(st.just("client-1"), st.sampled_from([_ASN1Type.UTF8String, _ASN1Type.PrintableString])),
    st.tuples(st.text(LETTERS, min_size=1, max_size=70), st.just(_ASN1Type.PrintableString)),
    st.tuples(st.text(LETTERS + '#&@_";<>\\\0', min_size=1, max_size=20), st.just(_ASN1Type.UTF8String)),
    st.tuples(st.text(st.characters(codec="utf-8"), min_size=1, max_size=9), st.just(_ASN1Type.UTF8String)),
    st.tuples(st.text(LETTERS + "#@", min_size=1, max_size=9), st.just(_ASN1Type.IA5String)),
)
OIDS = st.sampled_from(
    [
        NameOID.COMMON_NAME,
        NameOID.COUNTRY_NAME,
        NameOID.ORGANIZATION_NAME,
        NameOID.ORGANIZATIONAL_UNIT_NAME,
        NameOID.LOCALITY_NAME,
        NameOID.STATE_OR_PROVINCE_NAME,
        NameOID.USER_ID,
        NameOID.EMAIL_ADDRESS,
    ]
)


@st.composite
def attributes(draw):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of lengths
        text, kind = draw(TEXTS)
        return x509.NameAttribute(draw(OIDS), text, kind, _validate=False)


NAMES = st.one_of(
    st.builds(lambda text: raw_san(0x86, text), st.binary(max_size=40)),
    st.builds(
        lambda tag, text: raw_san(tag, text.encode()),
        st.sampled_from([0x81, 0x82, 0x86, 0x87, 0x88]),
        st.sampled_from(["", "a.example", "spiffe://example.org/a", "SPIFFE://x", "a b", "a@b.example"]),
    ),
    st.just(san(URI, x509.DNSName("b.example"))),
    st.just(san(URI, x509.UniformResourceIdentifier("urn:a"))),
)
EXTENSIONS = st.one_of(
    NAMES,
    st.builds(lambda bits: usage(*bits), st.sets(st.sampled_from(USAGES[:7]), min_size=1)),
    st.builds(
        x509.ExtendedKeyUsage, st.lists(st.sampled_from([CLIENT, SERVER, ANY]), min_size=1, max_size=3)
    ),
    st.builds(x509.BasicConstraints, st.booleans(), st.none()),
    st.just(AUTHORITY),
    st.just(x509.AuthorityKeyIdentifier(b"k" * 20, [x509.DirectoryName(named("a"))], 5)),
    st.builds(x509.SubjectKeyIdentifier, st.binary(min_size=1, max_size=40)),
    st.builds(
        raw, st.sampled_from(["2.5.29.14", "2.5.29.15", "2.5.29.19", "2.5.29.37"]), st.binary(max_size=6)
    ),
)


# Texts and lists are drawn slowly where the machine is busy.
@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(
    st.lists(attributes(), max_size=2),
    st.lists(st.one_of(st.sampled_from(USUAL), st.tuples(EXTENSIONS, st.booleans())), min_size=1, max_size=5),
    st.data(),
)
def test_the_pass_says_what_the_library_says_or_nothing(subject, extensions, data):
    unlike = {extension.oid: (extension, critical) for extension, critical in extensions}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of lengths, while the certificate is made
        der = bytearray(leaf(x509.Name(subject), *unlike.values()))
    for _ in range(data.draw(st.integers(0, 2))):
        der[data.draw(st.integers(0, len(der) - 1))] = data.draw(st.integers(0, 255))
    try:
        said = in_one_pass(bytes(der))
    except UNREADABLE:  # it is not even loaded
        return
    note(bytes(der).hex())
    if said is not None:
        assert said == by_the_library(bytes(der))
