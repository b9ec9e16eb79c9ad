"""The development authority: what it issues is good by every measure that we and OpenSSL have."""

from __future__ import annotations

import socket
import ssl
import subprocess
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from certificates.shapes import NOW, key_of, openssl, strict_ca, strict_leaf
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID
from cryptography.x509.verification import PolicyBuilder, Store

from secmiddleware.certificates.authority import Authority, Issued
from secmiddleware.certificates.contexts import client_context
from secmiddleware.certificates.judgement import Judged, Rejected, Trust
from secmiddleware.certificates.manager import CertificateManager
from secmiddleware.certificates.trust import CertificateError, TrustAnchor, load_anchors
from secmiddleware.identity.speaker import identify
from secmiddleware.messages import Presented

SPIFFE = "spiffe://example.org/ops/a"


def dns_of(certificate: x509.Certificate) -> list[str]:
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return names.get_values_for_type(x509.DNSName)


def leaf_of(issued: Issued) -> x509.Certificate:
    return x509.load_pem_x509_certificate(issued.certificate_pem)


def presented(issued: Issued) -> Presented:
    leaf, *rest = x509.load_pem_x509_certificates(issued.chain_pem)
    return Presented(leaf.public_bytes(Encoding.DER), tuple(one.public_bytes(Encoding.DER) for one in rest))


def extension(certificate: x509.Certificate, kind: type) -> x509.Extension:
    return certificate.extensions.get_extension_for_class(kind)


@pytest.fixture(scope="module")
def ca() -> Authority:
    return Authority.create("development CA", now=NOW)


@pytest.mark.parametrize("profile", ["strict", "private-pki"])
@pytest.mark.parametrize(
    "names",
    [{"spiffe_id": SPIFFE}, {"dns": ["a.example.org"]}, {"spiffe_id": SPIFFE, "dns": ["a.example.org"]}],
)
def test_a_client_certificate_passes_both_profiles_and_speaks_for_its_names(ca, names, profile):
    trust = Trust((TrustAnchor(ca.certificate),), profile)
    found = identify(presented(ca.issue_client(**names, now=NOW)), trust, NOW)
    assert found.spiffe_id == names.get("spiffe_id")
    assert list(found.dns) == names.get("dns", [])


def test_a_server_certificate_is_good_for_servers_and_not_for_clients(ca):
    issued = ca.issue_server(dns=["api.example.org"], ips=["127.0.0.1", "::1"], now=NOW)
    verifier = PolicyBuilder().store(Store([ca.certificate])).time(NOW.replace(tzinfo=None))
    for subject in (x509.DNSName("api.example.org"),):
        verifier.build_server_verifier(subject).verify(leaf_of(issued), [])
    assert [
        str(ip)
        for ip in extension(leaf_of(issued), x509.SubjectAlternativeName).value.get_values_for_type(
            x509.IPAddress
        )
    ] == ["127.0.0.1", "::1"]
    verdict = Trust((TrustAnchor(ca.certificate),)).judge(presented(issued), NOW)
    assert isinstance(verdict, Rejected)
    assert verdict.code == "certificate_purpose"


def test_openssl_agrees(ca, tmp_path):
    """Of its own: x509_strict, each purpose, and the other purpose refused."""
    authority = Authority.create("ca")
    (tmp_path / "ca.pem").write_bytes(authority.certificate_pem)
    (tmp_path / "client.pem").write_bytes(authority.issue_client(spiffe_id=SPIFFE).chain_pem)
    (tmp_path / "server.pem").write_bytes(authority.issue_server(dns=["localhost"]).chain_pem)
    for purpose, good, bad in [("sslclient", "client", "server"), ("sslserver", "server", "client")]:
        verify = ("verify", "-x509_strict", "-CAfile", "ca.pem", "-purpose", purpose)
        openssl(tmp_path, *verify, f"{good}.pem")
        with pytest.raises(subprocess.CalledProcessError):
            openssl(tmp_path, *verify, f"{bad}.pem")


def test_the_authority_issues_leaves_only(ca):
    constraints = extension(ca.certificate, x509.BasicConstraints)
    assert constraints.critical
    assert (constraints.value.ca, constraints.value.path_length) == (True, 0)
    usage = extension(ca.certificate, x509.KeyUsage)
    assert usage.critical
    assert usage.value.key_cert_sign
    assert not usage.value.digital_signature
    leaf = leaf_of(ca.issue_client(spiffe_id=SPIFFE, now=NOW))
    assert extension(leaf, x509.BasicConstraints).value.ca is False
    assert list(extension(leaf, x509.ExtendedKeyUsage).value) == [ExtendedKeyUsageOID.CLIENT_AUTH]
    assert isinstance(ca.certificate.public_key().curve, ec.SECP256R1)
    assert isinstance(leaf.public_key().curve, ec.SECP256R1)


def test_fields_can_be_sealed_to_a_client_of_it_and_to_no_server(ca):
    for issued, receives in (
        (ca.issue_client(spiffe_id=SPIFFE, now=NOW), True),
        (ca.issue_server(dns=["localhost"], now=NOW), False),
    ):
        usage = extension(leaf_of(issued), x509.KeyUsage).value
        assert usage.digital_signature
        assert usage.key_agreement is receives


def test_what_a_client_of_it_issues_is_worth_nothing(ca):
    client = ca.issue_client(spiffe_id=SPIFFE, now=NOW)
    key = load_pem_private_key(client.key_pem, None)
    forger = Authority(leaf_of(client), key)
    forged = forger.issue_client(spiffe_id="spiffe://example.org/ops/root", now=NOW)
    trust = Trust((TrustAnchor(ca.certificate),))
    chain = Presented(
        leaf_of(forged).public_bytes(Encoding.DER), (leaf_of(client).public_bytes(Encoding.DER),)
    )
    verdict = trust.judge(chain, NOW)
    assert isinstance(verdict, Rejected)
    assert verdict.code == "certificate_untrusted"


def test_lifetimes_begin_five_minutes_ago_and_end_where_they_say(ca):
    issued = leaf_of(ca.issue_client(dns=["a.org"], lifetime=timedelta(hours=1), now=NOW))
    assert issued.not_valid_before_utc == NOW - timedelta(minutes=5)
    assert issued.not_valid_after_utc == NOW + timedelta(hours=1)
    assert leaf_of(ca.issue_server(dns=["a.org"], now=NOW)).not_valid_after_utc == NOW + timedelta(days=90)
    assert ca.certificate.not_valid_before_utc == NOW - timedelta(minutes=5)
    assert ca.certificate.not_valid_after_utc == NOW + timedelta(days=3650)


def test_nothing_outlives_its_authority():
    short = Authority.create("short", lifetime=timedelta(days=1), now=NOW)
    assert leaf_of(short.issue_client(dns=["a.org"], now=NOW)).not_valid_after_utc == NOW + timedelta(days=1)


def test_a_certificate_is_good_until_it_ends_and_not_before_it_begins(ca):
    issued = presented(ca.issue_client(dns=["a.org"], lifetime=timedelta(hours=1), now=NOW))
    trust = Trust((TrustAnchor(ca.certificate),))
    assert isinstance(trust.judge(issued, NOW - timedelta(minutes=5)), Judged)
    assert trust.judge(issued, NOW - timedelta(minutes=6)).code == "certificate_not_yet_valid"
    assert isinstance(trust.judge(issued, NOW + timedelta(hours=1)), Judged)
    assert trust.judge(issued, NOW + timedelta(hours=1, seconds=1)).code == "certificate_expired"


def test_the_clock_counts_where_no_time_is_given():
    authority = Authority.create("ca")
    trust = Trust((TrustAnchor(authority.certificate),))
    assert isinstance(
        trust.judge(presented(authority.issue_client(dns=["a.org"])), datetime.now(UTC)), Judged
    )


@pytest.mark.parametrize("lifetime", [timedelta(0), timedelta(seconds=-1), timedelta(days=-1)])
def test_a_lifetime_that_is_over_at_once_is_refused(ca, lifetime):
    for make in (
        lambda: Authority.create("a", lifetime=lifetime),
        lambda: ca.issue_client(dns=["a.org"], lifetime=lifetime),
        lambda: ca.issue_server(dns=["a.org"], lifetime=lifetime),
    ):
        with pytest.raises(ValueError, match="lifetime"):
            make()


def test_an_authority_that_has_expired_issues_nothing():
    old = Authority.create("old", lifetime=timedelta(days=1), now=NOW - timedelta(days=2))
    with pytest.raises(ValueError, match="expired"):
        old.issue_client(dns=["a.org"], now=NOW)


def test_every_certificate_has_a_key_and_a_serial_number_of_its_own(ca):
    issued = [leaf_of(ca.issue_client(dns=["a.org"], now=NOW)) for _ in range(20)]
    assert len({one.serial_number for one in issued}) == 20
    assert len({one.public_key().public_numbers() for one in issued}) == 20
    assert all(0 < one.serial_number < 2**159 for one in issued)


@pytest.mark.parametrize(
    "names",
    [
        {},
        {"dns": []},
        {"spiffe_id": ""},
        {"spiffe_id": "spiffe://example.org"},
        {"spiffe_id": "spiffe://EXAMPLE.org/a"},
        {"spiffe_id": "https://example.org/a"},
        {"spiffe_id": "spiffe://example.org/../a"},
        {"dns": ["bücher.example"]},
        {"dns": "a.example.org"},
        {"dns": "localhost"},
        {"dns": ["a.org"], "common_name": ""},
        {"dns": ["a.org"], "common_name": "x" * 65},
    ],
)
def test_what_is_no_name_is_not_issued(ca, names):
    with pytest.raises(ValueError, match=r"."):
        ca.issue_client(**names)


@pytest.mark.parametrize(
    "names", [{}, {"dns": "localhost"}, {"ips": ["10.0.0.256"]}, {"ips": ["10.0.0.0/8"]}, {"ips": "::"}]
)
def test_a_server_without_a_good_name_gets_nothing(ca, names):
    with pytest.raises(ValueError, match=r"."):
        ca.issue_server(**names)


def test_a_wildcard_is_a_name_for_a_server(ca):
    issued = leaf_of(ca.issue_server(dns=["*.example.org"], now=NOW))
    assert dns_of(issued) == ["*.example.org"]


def test_a_long_first_name_is_cut_in_the_subject_only(ca):
    name = "a" * 60 + ".example.org"
    issued = leaf_of(ca.issue_client(dns=[name], now=NOW))
    assert issued.subject.rfc4514_string() == "CN=" + name[:64]
    assert dns_of(issued) == [name]
    named = leaf_of(ca.issue_client(dns=[name], common_name="ops", now=NOW))
    assert named.subject.rfc4514_string() == "CN=ops"


def test_it_is_the_same_authority_after_it_was_saved(ca):
    loaded = Authority.load(ca.certificate_pem, ca.key_pem)
    assert loaded.certificate == ca.certificate
    issued = loaded.issue_client(dns=["a.org"], now=NOW)
    assert isinstance(Trust((TrustAnchor(ca.certificate),)).judge(presented(issued), NOW), Judged)


def test_an_intermediate_of_somebody_else_presents_itself_too():
    root = strict_ca("root")
    middle = strict_ca("middle", root)
    authority = Authority.load(middle.pem, middle.key_pem)
    issued = authority.issue_client(dns=["a.org"], now=NOW)
    assert issued.chain_pem == issued.certificate_pem + middle.pem
    assert isinstance(Trust((TrustAnchor(root.certificate),)).judge(presented(issued), NOW), Judged)
    assert Authority.create("ca").issue_client(dns=["a.org"]).chain_pem.count(b"BEGIN CERTIFICATE") == 1


def test_what_is_no_authority_is_not_loaded(ca):
    other = Authority.create("other")
    leaf = strict_leaf(strict_ca())
    rsa = strict_ca("rsa", key=key_of("rsa2048"))
    encrypted = load_pem_private_key(ca.key_pem, None).private_bytes(
        Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"a")
    )
    for certificate, key, reason in [
        (ca.certificate_pem, other.key_pem, "not the one of its certificate"),
        (leaf.pem, leaf.key_pem, "not one of a CA"),
        (rsa.pem, rsa.key_pem, "elliptic curve"),
        (ca.certificate_pem, encrypted, "unencrypted PEM"),
        (ca.certificate_pem, b"", "unencrypted PEM"),
        (b"", ca.key_pem, "unencrypted PEM"),
        (ca.key_pem, ca.key_pem, "unencrypted PEM"),
        (b"\xff" * 100, b"\xff" * 100, "unencrypted PEM"),
    ]:
        with pytest.raises(CertificateError, match=reason) as caught:
            Authority.load(certificate, key)
        assert "PRIVATE KEY" not in str(caught.value)


def test_no_repr_holds_a_key(ca):
    issued = ca.issue_client(dns=["a.org"], now=NOW)
    secret = ca.key_pem.decode().splitlines()[1]
    assert secret not in repr(ca)
    assert issued.key_pem.decode().splitlines()[1] not in repr(issued)
    assert "PRIVATE KEY" not in repr(ca) + repr(issued)


# On the wire


@pytest.fixture(scope="module")
def pki(tmp_path_factory) -> Path:
    """Everything as files, keys private: an authority, a server, a good client and one of a strange CA."""
    folder = tmp_path_factory.mktemp("pki")
    authority, strange = Authority.create("ca"), Authority.create("strange")
    (folder / "ca.pem").write_bytes(authority.certificate_pem)
    for name, issued in [
        ("server", authority.issue_server(dns=["localhost"], ips=["127.0.0.1"])),
        ("client", authority.issue_client(spiffe_id=SPIFFE)),
        ("strange", strange.issue_client(spiffe_id=SPIFFE)),
    ]:
        (folder / f"{name}.pem").write_bytes(issued.chain_pem)
        (folder / f"{name}.key").touch(mode=0o600)
        (folder / f"{name}.key").write_bytes(issued.key_pem)
    return folder


def manager_of(pki: Path, handshake: str) -> CertificateManager:
    anchors = tuple(TrustAnchor(one, (f"{SPIFFE}",)) for one in load_anchors(pki / "ca.pem"))
    return CertificateManager(Trust(anchors), pki / "server.pem", pki / "server.key", handshake)


def served_once(context: ssl.SSLContext) -> tuple[int, list, threading.Thread]:
    """One connection on loopback: its peer's certificate (DER or None), or the error."""
    listener = socket.create_server(("127.0.0.1", 0))
    listener.settimeout(20)
    seen: list = []

    def serve() -> None:
        with listener:
            connection, _ = listener.accept()
            connection.settimeout(20)
            try:
                with connection, context.wrap_socket(connection, server_side=True) as tls:
                    seen.append(tls.getpeercert(binary_form=True))
                    tls.sendall(b"hello\n")
            except OSError as error:
                seen.append(error)

    thread = threading.Thread(target=serve)
    thread.start()
    return listener.getsockname()[1], seen, thread


def greeting(port: int, context: ssl.SSLContext, server_name: str = "localhost") -> bytes:
    """What the server says; OSError where it lets nobody in, which TLS 1.3 tells after the handshake only."""
    with (
        socket.create_connection(("127.0.0.1", port), timeout=20) as connection,
        context.wrap_socket(connection, server_hostname=server_name) as tls,
    ):
        said = tls.recv(100)
        if not said:
            raise ConnectionError("closed")
        return said


@pytest.mark.parametrize("server_name", ["localhost", "127.0.0.1"])
def test_a_handshake_hands_over_a_leaf_that_the_manager_takes(pki, server_name):
    manager = manager_of(pki, "required")
    port, seen, thread = served_once(manager.server_context())
    context = client_context(pki / "ca.pem", pki / "client.pem", pki / "client.key")
    assert greeting(port, context, server_name) == b"hello\n"
    thread.join(20)
    verdict = manager.judge(Presented(seen[0]), datetime.now(UTC))
    assert isinstance(verdict, Judged)
    assert ssl.DER_cert_to_PEM_cert(verdict.leaf.der).encode() in (pki / "client.pem").read_bytes()


@pytest.mark.parametrize("version", ["-tls1_2", "-tls1_3"])
def test_openssls_own_client_gets_in_with_the_files(pki, version):
    port, seen, thread = served_once(manager_of(pki, "required").server_context())
    done = subprocess.run(
        ["openssl", "s_client", "-connect", f"127.0.0.1:{port}", "-CAfile", "ca.pem", "-cert", "client.pem",
         "-key", "client.key", "-verify_return_error", "-verify_hostname", "localhost", "-x509_strict",
         "-quiet", "-no_ign_eof", version],
        cwd=pki, stdin=subprocess.PIPE, capture_output=True, timeout=30, check=False,
    )  # fmt: skip
    thread.join(20)
    assert isinstance(seen[0], bytes), (seen, done.stderr)


def test_a_client_of_a_strange_authority_of_the_same_name_gets_no_connection(pki):
    port, seen, thread = served_once(manager_of(pki, "optional").server_context())
    context = client_context(pki / "ca.pem", pki / "strange.pem", pki / "strange.key")
    with pytest.raises(OSError, match=r"."):
        greeting(port, context)
    thread.join(20)
    assert isinstance(seen[0], ssl.SSLError)


def test_a_manager_says_what_it_trusts_and_names_no_file(pki):
    status = manager_of(pki, "optional").status()
    (anchor,) = status["anchors"]
    ca = x509.load_pem_x509_certificate((pki / "ca.pem").read_bytes())
    assert status["profile"] == "strict"
    assert status["handshake"] == "optional"
    assert anchor["may_assert"] == [SPIFFE]
    assert datetime.fromisoformat(anchor["not_after"]) == ca.not_valid_after_utc
    assert str(pki) not in repr(status)


def test_a_manager_reads_its_files_when_they_are_needed(pki, tmp_path):
    trust = Trust(())
    manager = CertificateManager(trust, tmp_path / "later.pem", tmp_path / "later.key", "off")
    with pytest.raises(CertificateError, match=r"later\.pem"):
        manager.server_context()
    (tmp_path / "later.pem").write_bytes((pki / "server.pem").read_bytes())
    (tmp_path / "later.key").write_bytes((pki / "server.key").read_bytes())
    assert manager.server_context().verify_mode == ssl.CERT_NONE
    assert manager.server_context() is not manager.server_context()


@pytest.mark.parametrize("missing", ["certificate", "key"])
def test_half_a_pair_serves_nobody(pki, missing):
    pair = {"certificate": pki / "server.pem", "key": pki / "server.key"} | {missing: None}
    with pytest.raises(CertificateError, match="certificate and key"):
        CertificateManager(Trust(()), **pair).server_context()
