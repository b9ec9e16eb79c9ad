"""Revocation lists: which are believed, of whom they speak, and what becomes of a caller without one."""

from __future__ import annotations

import shutil
import statistics
import time
from base64 import b64encode
from datetime import timedelta

import pytest
from certificates.shapes import (
    NOW,
    Made,
    authority_key_id,
    key_of,
    make,
    openssl,
    presented,
    raw,
    revocation_list,
    strict_ca,
    strict_leaf,
    usage,
)
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import given
from hypothesis import strategies as st

from secmiddleware.certificates.files import TrustFiles, load_lists
from secmiddleware.certificates.judgement import Judged, Rejected, Trust
from secmiddleware.certificates.revocation import (
    Revocations,
    UnknownIssuerError,
    check_list,
    parse_lists,
)
from secmiddleware.certificates.trust import CertificateError, TrustAnchor
from secmiddleware.messages import Reason

CA = strict_ca("ca")
MIDDLE = strict_ca("middle", CA)
OTHER = strict_ca("other")
LEAF = strict_leaf(CA)
LOWER = strict_leaf(MIDDLE, subject="lower")

needs_openssl = pytest.mark.skipif(
    shutil.which("openssl") is None, reason="the program openssl is not installed"
)


def trusting(*crls, anchors=(CA,), intermediates=(), missing="refuse"):
    middles = tuple(made.certificate for made in intermediates)
    issuers = (*(anchor.certificate for anchor in anchors), *middles)
    revocations = Revocations([check_list(crl, issuers) for crl in crls], missing)
    trusted = tuple(TrustAnchor(anchor.certificate) for anchor in anchors)
    return Trust(trusted, "strict", middles, revocations)


def code(verdict: Judged | Rejected) -> str | None:
    return verdict.code if isinstance(verdict, Rejected) else None


def code_of(given, *crls, now=NOW, **arguments):
    return code(trusting(*crls, **arguments).judge(given, now))


# Who is revoked


def test_who_is_listed_is_revoked_and_who_is_not_is_good():
    crl = revocation_list(CA, LEAF, reason=x509.ReasonFlags.key_compromise)
    verdict = trusting(crl).judge(presented(LEAF), NOW)
    assert verdict == Rejected("certificate_revoked", Reason("crl", 0))
    assert verdict.reason.detail == "keyCompromise, since 2026-06-01T11:00:00Z"
    assert code_of(presented(strict_leaf(CA)), crl) is None


def test_a_revoked_intermediate_takes_everybody_below_with_it():
    lists = [revocation_list(CA, MIDDLE), revocation_list(MIDDLE)]
    given = presented(LOWER, MIDDLE)
    verdict = trusting(*lists, intermediates=[MIDDLE]).judge(given, NOW)
    assert verdict == Rejected("certificate_revoked", Reason("crl", 1))
    configured = trusting(*lists, intermediates=[MIDDLE]).judge(presented(LOWER), NOW)
    assert isinstance(configured, Rejected)
    assert str(configured.reason.certificate).startswith("sha256:")


def test_every_issuer_of_the_path_needs_a_list_of_its_own():
    given = presented(LOWER, MIDDLE)
    for lists, expected in [
        ([revocation_list(CA), revocation_list(MIDDLE)], None),
        ([revocation_list(CA)], "revocation_unavailable"),
        ([revocation_list(MIDDLE)], "revocation_unavailable"),
        ([], "revocation_unavailable"),
    ]:
        assert code_of(given, *lists, intermediates=[MIDDLE]) == expected
        assert code_of(given, *lists, intermediates=[MIDDLE], missing="allow") is None


def test_a_serial_number_on_the_list_of_another_ca_means_nothing():
    theirs = revocation_list(OTHER, LEAF.certificate.serial_number)
    assert code_of(presented(LEAF), theirs, revocation_list(CA), anchors=(CA, OTHER)) is None


def test_an_anchor_is_looked_up_nowhere():
    pinned = strict_leaf(CA)
    assert code_of(presented(pinned), anchors=(pinned,)) is None


def test_revocation_is_judged_after_the_chain_and_a_stranger_is_not_told_of_it():
    stranger = strict_leaf(OTHER)
    assert code_of(presented(stranger), revocation_list(CA, stranger)) == "certificate_untrusted"


def test_the_renewed_certificate_of_a_ca_goes_by_the_same_list():
    renewed = strict_ca("middle", CA, key=MIDDLE.key, end=NOW + timedelta(days=90))
    lists = [revocation_list(CA), revocation_list(MIDDLE, LOWER)]
    assert code_of(presented(LOWER, renewed), *lists, intermediates=[MIDDLE]) == "certificate_revoked"


def test_a_hold_that_was_taken_back_is_no_revocation():
    back = revocation_list(CA, LEAF, reason=x509.ReasonFlags.remove_from_crl)
    assert code_of(presented(LEAF), back) is None
    held = revocation_list(CA, LEAF, reason=x509.ReasonFlags.certificate_hold)
    assert code_of(presented(LEAF), held) == "certificate_revoked"


def test_of_two_lists_of_one_ca_the_newer_counts_whatever_their_order():
    old = revocation_list(CA, LEAF, begin=NOW - timedelta(hours=2), number=1)
    new = revocation_list(CA, begin=NOW - timedelta(hours=1), number=2)
    assert code_of(presented(LEAF), old, new) is None
    assert code_of(presented(LEAF), new, old) is None
    assert code_of(presented(LEAF), old) == "certificate_revoked"


# How long a list is current


def test_a_list_that_is_overdue_says_of_nobody_that_it_is_good():
    crl = revocation_list(CA, end=NOW + timedelta(hours=1))
    judging = trusting(crl)
    for after, expected in [
        (timedelta(0), None),
        (timedelta(minutes=59), None),
        (timedelta(hours=1), "revocation_unavailable"),
        (-timedelta(hours=2), "revocation_unavailable"),
    ]:
        assert code(judging.judge(presented(LEAF), NOW + after)) == expected


def test_a_verdict_that_is_kept_ends_with_the_list_it_rests_on():
    crl = revocation_list(CA, end=NOW + timedelta(hours=1))
    judging, given = trusting(crl), presented(LEAF)
    assert code(judging.judge(given, NOW)) is None
    assert given.kept is not None
    assert code(judging.judge(given, NOW + timedelta(hours=2))) == "revocation_unavailable"


def test_an_overdue_list_still_revokes_also_where_none_is_needed():
    overdue = revocation_list(CA, LEAF, begin=NOW - timedelta(days=2), end=NOW - timedelta(days=1))
    assert code_of(presented(LEAF), overdue) == "certificate_revoked"
    assert code_of(presented(LEAF), overdue, missing="allow") == "certificate_revoked"
    assert code_of(presented(strict_leaf(CA)), overdue, missing="allow") is None


# Of whom a list speaks


def scoped(**fields):
    given = {
        "full_name": None,
        "relative_name": None,
        "only_contains_user_certs": False,
        "only_contains_ca_certs": False,
        "only_some_reasons": None,
        "indirect_crl": False,
        "only_contains_attribute_certs": False,
    } | fields
    return [(x509.IssuingDistributionPoint(**given), True)]


def test_a_list_of_leaves_says_nothing_of_cas_and_one_of_cas_nothing_of_leaves():
    leaves = revocation_list(CA, extensions=scoped(only_contains_user_certs=True))
    cas = revocation_list(CA, extensions=scoped(only_contains_ca_certs=True))
    assert code_of(presented(LEAF), leaves) is None
    assert code_of(presented(LEAF), cas) == "revocation_unavailable"
    lower, rest = presented(LOWER, MIDDLE), revocation_list(MIDDLE)
    assert code_of(lower, leaves, rest, intermediates=[MIDDLE]) == "revocation_unavailable"
    assert code_of(lower, cas, rest, intermediates=[MIDDLE]) is None
    assert code_of(lower, cas, leaves, rest, intermediates=[MIDDLE]) is None


def test_a_list_of_one_distribution_point_speaks_of_those_who_name_it():
    here, there = (x509.UniformResourceIdentifier(f"http://crl.example/{name}") for name in "ab")

    def naming(name, **more):
        point = x509.DistributionPoint([name], None, more.get("reasons"), more.get("crl_issuer"))
        return strict_leaf(CA, more=[(x509.CRLDistributionPoints([point]), False)])

    crl = revocation_list(CA, extensions=scoped(full_name=[here]))
    some = frozenset({x509.ReasonFlags.key_compromise})
    assert code_of(presented(naming(here)), crl) is None
    assert code_of(presented(naming(there)), crl) == "revocation_unavailable"
    assert code_of(presented(LEAF), crl) == "revocation_unavailable"
    assert code_of(presented(naming(here, reasons=some)), crl) == "revocation_unavailable"
    both = revocation_list(CA, extensions=scoped(full_name=[there]))
    assert code_of(presented(naming(there)), crl, both) is None


# Which lists are believed


def refused(crl, *issuers: Made) -> str:
    with pytest.raises(CertificateError) as caught:
        check_list(crl, [issuer.certificate for issuer in issuers or (CA,)])
    return str(caught.value)


@pytest.mark.parametrize(
    ("crl", "part"),
    [
        (revocation_list(CA, extensions=scoped(indirect_crl=True)), "indirect"),
        (
            revocation_list(
                CA, extensions=scoped(only_some_reasons=frozenset({x509.ReasonFlags.key_compromise}))
            ),
            "some reasons",
        ),
        (revocation_list(CA, extensions=scoped(only_contains_attribute_certs=True)), "attribute"),
        (
            revocation_list(
                CA,
                extensions=scoped(relative_name=x509.RelativeDistinguishedName(list(CA.certificate.subject))),
            ),
            "relative",
        ),
        (revocation_list(CA, extensions=[(x509.DeltaCRLIndicator(1), True)]), "delta"),
        (revocation_list(CA, extensions=[(x509.DeltaCRLIndicator(1), False)]), "delta"),
        (revocation_list(CA, extensions=[(raw("1.2.3.4", b"\5\0"), True)]), "critical extension 1.2.3.4"),
        (
            revocation_list(CA, LEAF, entry_extensions=[(raw("1.2.3.4", b"\5\0"), True)]),
            "entry with the critical extension 1.2.3.4",
        ),
        (
            revocation_list(
                CA,
                LEAF,
                entry_extensions=[
                    (x509.CertificateIssuer([x509.DirectoryName(CA.certificate.subject)]), True)
                ],
            ),
            "entry with the critical extension",
        ),
        (
            revocation_list(CA, number=None, extensions=[(x509.CRLNumber(1), True)]),
            "critical extension 2.5.29.20",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_list_that_says_less_or_other_than_it_seems_to_is_refused(crl, part):
    assert part in refused(crl)


@pytest.mark.parametrize("at", ["list", "entry"])
def test_a_list_with_a_name_that_the_library_has_no_word_for_is_refused(at):
    names = bytes.fromhex("3004a3023000")  # an x400Address
    odd = {"list": {"extensions": [(raw("2.5.29.18", names), False)]},
           "entry": {"entry_extensions": [(raw("2.5.29.29", names), False)]}}  # fmt: skip
    assert "cannot be read" in refused(revocation_list(CA, LEAF, **odd[at]))


def test_what_is_not_critical_and_not_known_is_passed_over():
    unknown = [(raw("1.2.3.4", b"\5\0"), False)]
    crl = revocation_list(CA, LEAF, extensions=unknown, entry_extensions=unknown)
    assert code_of(presented(LEAF), crl) == "certificate_revoked"


@pytest.mark.parametrize("kind", ["p256", "p384", "rsa2048", "ed25519"])
def test_whatever_key_a_ca_has_its_lists_are_checked(kind):
    ca = strict_ca("issuer", key=key_of(kind, 7))
    ours = [ca.certificate]
    assert check_list(revocation_list(ca, LEAF), ours).revoked.keys() == {LEAF.certificate.serial_number}
    with pytest.raises(UnknownIssuerError, match="not signed by its issuer"):
        check_list(revocation_list(ca, LEAF, key=key_of(kind, 8)), ours)


def test_a_list_is_of_whom_its_signature_says_and_not_of_whom_its_name_says():
    assert "neither in trust nor in intermediates" in refused(revocation_list(OTHER))
    assert "not signed" in refused(revocation_list(OTHER, name_of=CA))
    assert "not signed" in refused(revocation_list(CA, name_of=OTHER), CA, OTHER)


def test_who_may_not_sign_lists_has_not_signed_any():
    mute = make(
        "mute", CA,
        extensions=[
            (x509.BasicConstraints(True, None), True),
            (usage("key_cert_sign"), True),
            (authority_key_id(CA), False),
        ],
    )  # fmt: skip
    assert "may not sign lists" in refused(revocation_list(mute), mute)
    assert "may not sign lists" in refused(revocation_list(LEAF), LEAF)
    silent = make("silent", CA, extensions=[(x509.BasicConstraints(True, None), True)])
    assert check_list(revocation_list(silent), [silent.certificate])


def test_of_namesakes_the_one_that_signed_counts():
    renamed = strict_ca("ca", key=key_of("p256", 4321))
    theirs = revocation_list(renamed, 5)
    for order in ([CA, renamed], [renamed, CA]):
        checked = check_list(theirs, [made.certificate for made in order])
        judging = Revocations([checked])
        assert judging.standing(LEAF.certificate, CA.certificate, NOW, is_ca=False).current is None
        found = judging.standing(LEAF.certificate, renamed.certificate, NOW, is_ca=False)
        assert found.current is checked


def test_a_list_without_an_end_is_refused():
    whole = revocation_list(CA).public_bytes(Encoding.DER)
    until = f"{NOW + timedelta(days=1):%y%m%d%H%M%SZ}".encode()
    field = b"\x17\x0d" + until
    assert whole.count(field) == 1
    # Take the field out, and correct the two lengths around it; the fault is found before the signature.
    without = bytearray(whole.replace(field, b""))
    assert without[1] == 0x81
    without[2] -= len(field)
    assert without[3] == 0x30
    if without[4] == 0x81:
        without[5] -= len(field)
    else:
        without[4] -= len(field)
    crl = x509.load_der_x509_crl(bytes(without))
    assert crl.next_update_utc is None
    assert "nextUpdate" in refused(crl)


@needs_openssl
@pytest.mark.parametrize("digest", ["sha1", "md5", "sha256"])
def test_a_list_over_a_broken_hash_is_refused(digest, tmp_path):
    ca = strict_ca("rsa", key=key_of("rsa2048"))
    (tmp_path / "ca.pem").write_bytes(ca.pem)
    (tmp_path / "ca.key").write_bytes(ca.key_pem)
    (tmp_path / "index").write_bytes(b"")
    (tmp_path / "number").write_bytes(b"01\n")
    (tmp_path / "conf").write_text("[ca]\ndefault_ca=x\n[x]\ndatabase=index\ncrlnumber=number\n")
    command = "ca -gencrl -config conf -keyfile ca.key -cert ca.pem -crldays 30 -out list.pem -md"
    openssl(tmp_path, *command.split(), digest)
    (crl,) = parse_lists((tmp_path / "list.pem").read_bytes())
    if digest == "sha256":
        assert check_list(crl, [ca.certificate]).revoked == {}
    else:
        assert "broken" in refused(crl, ca)


# Files


def test_a_file_holds_any_number_of_lists_in_pem_or_one_in_der(tmp_path):
    lists = [revocation_list(CA, LEAF), revocation_list(OTHER)]
    pem = tmp_path / "lists.pem"
    pem.write_bytes(b"some words\n" + b"and more\n".join(crl.public_bytes(Encoding.PEM) for crl in lists))
    der = tmp_path / "list.der"
    der.write_bytes(lists[0].public_bytes(Encoding.DER))
    issuers = (CA.certificate, OTHER.certificate)
    assert [len(one.revoked) for one in load_lists(pem, issuers)] == [1, 0]
    assert [len(one.revoked) for one in load_lists(der, issuers)] == [1]
    with pytest.raises(UnknownIssuerError, match=r"list 2 of .*lists\.pem is of an issuer"):
        load_lists(pem, issuers[:1])


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"hello",
        CA.pem,
        CA.der,
        revocation_list(CA).public_bytes(Encoding.PEM)[:-20],
        revocation_list(CA).public_bytes(Encoding.PEM) + b"-----BEGIN X509 CRL-----\n",
        revocation_list(CA).public_bytes(Encoding.PEM) + b"-----BEGIN X50",
        revocation_list(CA).public_bytes(Encoding.PEM) + b"--",
        revocation_list(CA).public_bytes(Encoding.DER)[:-1],
        revocation_list(CA).public_bytes(Encoding.DER) + b"\0",
    ],
    ids=[
        "empty",
        "text",
        "pem",
        "der",
        "cut-pem",
        "begun-pem",
        "begun-line",
        "begun-dashes",
        "cut-der",
        "longer-der",
    ],
)
def test_what_is_no_list_or_not_a_whole_one_is_refused(data, tmp_path):
    path = tmp_path / "list"
    path.write_bytes(data)
    with pytest.raises(CertificateError, match="holds no revocation list, or one that is damaged"):
        load_lists(path, (CA.certificate,))


def test_a_file_that_is_not_there_or_no_file_is_named(tmp_path):
    for path, part in [(tmp_path / "none", "there is no file"), (tmp_path, "is not a regular file")]:
        with pytest.raises(CertificateError, match=part):
            load_lists(path, ())


@pytest.mark.parametrize("encoding", [Encoding.DER, Encoding.PEM])
def test_a_list_of_a_version_that_there_is_not_is_a_mistake_and_no_crash(tmp_path, encoding):
    der = bytearray(revocation_list_der)
    at = der.index(b"\x02\x01\x01")
    der[at + 2] = 0
    body = b64encode(der)
    pem = b"-----BEGIN X509 CRL-----\n" + body + b"\n-----END X509 CRL-----\n"
    (tmp_path / "a.crl").write_bytes(pem if encoding is Encoding.PEM else der)
    with pytest.raises(CertificateError, match=r"a\.crl"):
        load_lists(tmp_path / "a.crl", (CA.certificate,))


@given(st.data())
def test_no_damaged_list_is_believed(data):
    der = bytearray(revocation_list_der)
    for _ in range(data.draw(st.integers(1, 3))):
        der[data.draw(st.integers(0, len(der) - 1))] ^= data.draw(st.integers(1, 255))
    if bytes(der) == revocation_list_der:
        return
    try:
        (crl,) = parse_lists(bytes(der))
    except (ValueError, TypeError, Warning):
        return
    whole = x509.load_der_x509_crl(revocation_list_der)
    if (crl.tbs_certlist_bytes, crl.signature) == (whole.tbs_certlist_bytes, whole.signature):
        return  # what is left is how many bits of the signature's last byte count: the library reads them all
    with pytest.raises(CertificateError):
        check_list(crl, [CA.certificate])


revocation_list_der = revocation_list(CA, LEAF, reason=x509.ReasonFlags.superseded).public_bytes(Encoding.DER)


# Size


def test_a_hundred_thousand_entries_cost_a_judgement_nothing(tmp_path):
    one, many = revocation_list(CA, 1), large_list(CA, 100_000)
    (tmp_path / "ca.pem").write_bytes(CA.pem)
    (tmp_path / "many").write_bytes(many.public_bytes(Encoding.DER))
    large = TrustFiles(((tmp_path / "ca.pem", ()),), lists=(tmp_path / "many",)).read()
    assert large.revocations is not None
    assert len(large.revocations.lists[0].revoked) == 100_000
    small = trusting(one)
    assert code(large.judge(presented(strict_leaf(CA)), NOW)) is None

    def seconds(judging):
        times = []
        for _ in range(40):
            judging._kept.clear()
            given = presented(LEAF)
            started = time.thread_time()
            judging.judge(given, NOW)
            times.append(time.thread_time() - started)
        return statistics.median(times)

    # cryptography's own look-up takes 7 ms and more at this size.
    assert seconds(large) < seconds(small) + 0.001


def large_list(issuer: Made, count: int) -> x509.CertificateRevocationList:
    builder = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(issuer.certificate.subject)
        .last_update(NOW - timedelta(hours=1))
        .next_update(NOW + timedelta(days=1))
    )
    entries = [
        x509.RevokedCertificateBuilder().serial_number(1 << 150 | number).revocation_date(NOW).build()
        for number in range(count)
    ]
    # One by one takes time that grows with the square; and the list that stands there is every builder's.
    builder._revoked_certificates = entries
    return builder.sign(issuer.key, LEAF.certificate.signature_hash_algorithm)
