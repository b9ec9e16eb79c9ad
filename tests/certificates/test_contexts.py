from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from certificates.shapes import key_of, plain_ca, strict_ca, strict_leaf
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.serialization import Encoding

from secmiddleware.certificates.authority import Authority, Issued
from secmiddleware.certificates.contexts import HTTP_2, client_context, server_context
from secmiddleware.certificates.judgement import Judged, Trust
from secmiddleware.certificates.manager import CertificateManager
from secmiddleware.certificates.trust import CertificateError, TrustAnchor, load_anchors
from secmiddleware.messages import Presented

VERSIONS = [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3]
SPIFFE = "spiffe://example.org/client"


@dataclass
class Pki:
    folder: Path
    ca: Authority
    strange: Authority

    def write(self, name: str, issued: Issued) -> tuple[Path, Path]:
        certificate, key = self.folder / f"{name}.pem", self.folder / f"{name}.key"
        certificate.write_bytes(issued.chain_pem)
        key.write_bytes(issued.key_pem)
        return certificate, key

    @property
    def ca_file(self) -> Path:
        return self.folder / "ca.pem"


@pytest.fixture(scope="module")
def pki(tmp_path_factory) -> Pki:
    made = Pki(tmp_path_factory.mktemp("pki"), Authority.create("ca"), Authority.create("strange"))
    made.ca_file.write_bytes(made.ca.certificate_pem)
    made.write("server", made.ca.issue_server(dns=["localhost"], ips=["127.0.0.1"]))
    made.write("good", made.ca.issue_client(spiffe_id=SPIFFE))
    made.write("strange", made.strange.issue_client(spiffe_id=SPIFFE))
    return made


@dataclass
class Seen:
    """What the server knew of each connection: the leaf's DER or None, and whether a session was resumed."""

    leaves: list[bytes | None] = field(default_factory=list)
    reused: list[bool] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)


@contextmanager
def serving(context: ssl.SSLContext) -> Iterator[tuple[int, Seen]]:
    seen = Seen()
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            connection.settimeout(10)
            with connection:
                try:
                    with context.wrap_socket(connection, server_side=True) as tls:
                        seen.leaves.append(tls.getpeercert(binary_form=True))
                        seen.reused.append(bool(tls.session_reused))
                        tls.sendall(tls.recv(100))
                        tls.recv(1)
                except OSError as error:
                    seen.failures.append(str(error))

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield listener.getsockname()[1], seen
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join(10)
        assert not thread.is_alive()


def call(port: int, context: ssl.SSLContext, session: ssl.SSLSession | None = None) -> ssl.SSLSession | None:
    """One echo; raises OSError where TLS fails, in the handshake or, with TLS 1.3, behind it."""
    with (
        socket.create_connection(("127.0.0.1", port), timeout=10) as connection,
        context.wrap_socket(connection, server_hostname="localhost", session=session) as tls,
    ):
        tls.sendall(b"ping")
        if tls.recv(100) != b"ping":
            raise ConnectionError("no echo")
        assert tls.selected_alpn_protocol() == "http/1.1"
        assert not tls.session_reused
        return tls.session


def of_server(pki: Pki, handshake: str, anchors=None) -> ssl.SSLContext:
    anchors = load_anchors(pki.ca_file) if anchors is None else anchors
    return server_context(pki.folder / "server.pem", pki.folder / "server.key", anchors, handshake)


def of_client(pki: Pki, name: str | None, version: ssl.TLSVersion) -> ssl.SSLContext:
    pair = () if name is None else (pki.folder / f"{name}.pem", pki.folder / f"{name}.key")
    context = client_context(pki.ca_file, *pair)
    context.minimum_version = context.maximum_version = version
    return context


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize(
    ("handshake", "admitted"),
    [
        ("optional", {None: True, "good": True, "strange": False}),
        ("required", {None: False, "good": True, "strange": False}),
        ("off", {None: True, "good": True, "strange": True}),
    ],
)
def test_who_gets_through_the_handshake(pki, version, handshake, admitted):
    with serving(of_server(pki, handshake)) as (port, seen):
        for name, through in admitted.items():
            context = of_client(pki, name, version)
            if through:
                call(port, context)
            else:
                with pytest.raises(OSError):  # noqa: PT011  (an alert, a reset or an end: TLS 1.3 tells late)
                    call(port, context)
    presented = [leaf is not None for leaf in seen.leaves]
    assert presented == [name is not None and handshake != "off" for name, ok in admitted.items() if ok]


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("handshake", ["optional", "required"])
def test_no_session_is_ever_resumed(pki, version, handshake):
    with serving(of_server(pki, handshake)) as (port, seen):
        context = of_client(pki, "good", version)
        session = call(port, context)
        for _ in range(3):
            session = call(port, context, session)
    assert seen.reused == [False] * 4
    assert None not in seen.leaves


@pytest.mark.parametrize("version", VERSIONS)
def test_an_intermediate_comes_with_the_leaf_or_is_trusted_itself(pki, version):
    now = datetime.now(UTC)
    dates = {"begin": now - timedelta(hours=1), "end": now + timedelta(days=1)}
    root = strict_ca("root", **dates)
    middle = strict_ca("middle", root, **dates)
    leaf = strict_leaf(middle, **dates)
    (pki.folder / "whole.pem").write_bytes(leaf.pem + middle.pem)
    (pki.folder / "bare.pem").write_bytes(leaf.pem)
    for name in ("whole.key", "bare.key"):
        (pki.folder / name).write_bytes(leaf.key_pem)
    with serving(of_server(pki, "required", [root.certificate])) as (port, seen):
        call(port, of_client(pki, "whole", version))
        with pytest.raises(OSError):  # noqa: PT011
            call(port, of_client(pki, "bare", version))
    with serving(of_server(pki, "required", [middle.certificate])) as (port, partial):
        call(port, of_client(pki, "bare", version))
    with serving(of_server(pki, "required", [leaf.certificate])) as (port, pinned):
        call(port, of_client(pki, "bare", version))
    assert seen.leaves == partial.leaves == pinned.leaves == [leaf.der]


def test_what_tls_lets_in_the_judge_takes(pki):
    trust = Trust(tuple(TrustAnchor(anchor) for anchor in load_anchors(pki.ca_file)))
    manager = CertificateManager(trust, pki.folder / "server.pem", pki.folder / "server.key", "required")
    with serving(manager.server_context()) as (port, seen):
        call(port, of_client(pki, "good", ssl.TLSVersion.TLSv1_3))
    (leaf,) = seen.leaves
    assert leaf is not None
    assert isinstance(manager.judge(Presented(leaf), datetime.now(UTC)), Judged)
    (anchor,) = manager.status()["anchors"]
    assert anchor["sha256"] == trust.anchors[0].sha256
    assert datetime.fromisoformat(anchor["not_after"]) == pki.ca.certificate.not_valid_after_utc


def test_a_client_does_not_speak_to_a_server_of_another_name_or_ca(pki):
    elsewhere = pki.write("elsewhere", pki.ca.issue_server(dns=["elsewhere.example.org"]))
    strange = pki.write("strange-server", pki.strange.issue_server(dns=["localhost"]))
    for pair in (elsewhere, strange):
        with (
            serving(server_context(*pair, (), "off")) as (port, _),
            pytest.raises(ssl.SSLCertVerificationError),
        ):
            call(port, client_context(pki.ca_file))


def test_old_protocols_and_renegotiation_are_off(pki):
    for context in (of_server(pki, "optional"), client_context(pki.ca_file)):
        assert context.minimum_version == ssl.TLSVersion.TLSv1_2
    assert of_server(pki, "optional").options & ssl.OP_NO_RENEGOTIATION


def test_an_unusable_pair_is_named_with_what_to_do(pki, tmp_path):
    server, key = pki.folder / "server.pem", pki.folder / "server.key"
    encrypted = tmp_path / "encrypted.key"
    encrypted.write_bytes(encrypt(key.read_bytes()))
    text = tmp_path / "text"
    text.write_text("hello")
    for pair in [
        (server, pki.folder / "good.key"),
        (server, tmp_path / "missing"),
        (tmp_path / "missing", key),
        (text, key),
        (server, text),
        (server, encrypted),
    ]:
        with pytest.raises(CertificateError) as caught:
            server_context(*pair, (), "off")
        assert str(pair[0]) in str(caught.value)
        assert str(pair[1]) in str(caught.value)


def encrypt(key_pem: bytes) -> bytes:
    key = serialization.load_pem_private_key(key_pem, None)
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(b"secret"),
    )


def test_an_unusable_bundle_is_named(pki, tmp_path):
    (tmp_path / "text").write_text("hello")
    (tmp_path / "broken").write_text("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
    for bundle in (tmp_path / "missing", tmp_path / "text", tmp_path / "broken", pki.folder / "server.key"):
        with pytest.raises(CertificateError, match=str(bundle)):
            load_anchors(bundle)
    for bundle in (tmp_path / "missing", tmp_path / "text"):
        with pytest.raises(CertificateError, match=str(bundle)):
            client_context(bundle)


def test_a_bundle_may_hold_several_and_each_counts_once(pki, tmp_path):
    bundle = tmp_path / "bundle.pem"
    bundle.write_bytes(
        pki.ca.certificate_pem + b"a comment\n" + pki.strange.certificate_pem + pki.ca.certificate_pem
    )
    assert load_anchors(bundle) == (pki.ca.certificate, pki.strange.certificate)


def test_a_bundle_that_is_still_being_written_is_not_taken_for_a_shorter_one(pki, tmp_path):
    bundle = tmp_path / "bundle.pem"
    first, second = pki.ca.certificate_pem, pki.strange.certificate_pem
    assert first.endswith(b"-----\n")
    for cut in range(1, len(second) - 1):
        bundle.write_bytes(first + second[:cut])
        with pytest.raises(CertificateError, match=r"bundle\.pem is not whole, "):
            load_anchors(bundle)


@pytest.mark.parametrize(
    "second",
    [
        lambda pem: pem.split(b"\n", 1)[1],
        lambda pem: pem.replace(b" CERTIFICATE", b" TRUSTED CERTIFICATE"),
    ],
    ids=["without-its-first-line", "of-another-kind"],
)
def test_no_certificate_of_a_bundle_is_passed_over(second, pki, tmp_path):
    bundle = tmp_path / "bundle.pem"
    bundle.write_bytes(pki.ca.certificate_pem + second(pki.strange.certificate_pem))
    with pytest.raises(
        CertificateError, match=r"bundle\.pem (is not whole|holds a certificate that does not)"
    ):
        load_anchors(bundle)


@pytest.mark.parametrize(
    "write",
    [
        lambda one, two: one + two.rstrip(b"\n"),
        lambda one, two: (one + two).replace(b"\n", b"\r\n"),
        lambda one, two: b"# -----\n-----\n---- one ----\n" + one + b"-------\n" + two + b"\n---\n",
        lambda one, two: b"Certificate:\n    Data:\n" + one + b"Signature: - 1\n" + two + b"the end\n",
        lambda one, two: one + key_pem() + two,
        lambda one, two: one.rstrip(b"\n") + two,
    ],
    ids=["no-last-newline", "crlf", "dashes", "text", "with-a-key", "one-line"],
)
def test_what_stands_between_the_certificates_of_a_bundle_does_not_matter(write, pki, tmp_path):
    bundle = tmp_path / "bundle.pem"
    bundle.write_bytes(write(pki.ca.certificate_pem, pki.strange.certificate_pem))
    assert load_anchors(bundle) == (pki.ca.certificate, pki.strange.certificate)


def key_pem() -> bytes:
    return key_of("p256").private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def test_a_chain_that_is_still_being_written_is_not_shown(pki, tmp_path):
    served, behind = (pki.folder / "server.pem").read_bytes(), pki.ca.certificate_pem
    certificate, key = tmp_path / "server.pem", pki.folder / "server.key"
    for cut in (1, 5, 20, len(behind) // 2, len(behind) - 3):
        certificate.write_bytes(served + behind[:cut])
        with pytest.raises(CertificateError, match=r"server\.pem is not whole, "):
            server_context(certificate, key, (), "off")
    certificate.write_bytes(served + behind)
    server_context(certificate, key, (), "off")


def test_a_bundle_with_a_weak_key_is_named(tmp_path):
    (tmp_path / "weak.pem").write_bytes(plain_ca(key=key_of("rsa1024")).pem)
    with pytest.raises(CertificateError, match="1024 bits"):
        load_anchors(tmp_path / "weak.pem")


def test_a_manager_without_a_pair_judges_but_does_not_serve(pki):
    manager = CertificateManager(Trust((TrustAnchor(pki.ca.certificate),)))
    with pytest.raises(CertificateError, match="certificate and key"):
        manager.server_context()
    leaf = x509.load_pem_x509_certificate(pki.ca.issue_client(dns=["a.example.org"]).certificate_pem)
    assert isinstance(manager.judge(Presented(leaf.public_bytes(Encoding.DER)), datetime.now(UTC)), Judged)


def test_no_session_is_resumed_where_both_ends_close_cleanly(pki):
    """asyncio closes with close_notify; OpenSSL then keeps a TLS 1.2 session by its id, tickets or not."""
    context = of_server(pki, "optional")
    reused: list[bool] = []

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        reused.append(writer.get_extra_info("ssl_object").session_reused)
        writer.write(await reader.readexactly(4))
        await writer.drain()
        writer.close()

    def clean_call(
        port: int, client: ssl.SSLContext, session: ssl.SSLSession | None
    ) -> ssl.SSLSession | None:
        with (
            socket.create_connection(("127.0.0.1", port), timeout=10) as connection,
            client.wrap_socket(connection, server_hostname="localhost", session=session) as tls,
        ):
            tls.sendall(b"ping")
            assert tls.recv(4) == b"ping"
            session = tls.session
            assert tls.recv(1) == b""
            tls.unwrap()
            return session

    async def run(version: ssl.TLSVersion) -> None:
        client = of_client(pki, "good", version)
        server = await asyncio.start_server(echo, "127.0.0.1", 0, ssl=context)
        port = server.sockets[0].getsockname()[1]
        session = None
        async with server:
            for _ in range(4):
                session = await asyncio.to_thread(clean_call, port, client, session)

    for version in VERSIONS:
        asyncio.run(run(version))
    assert reused == [False] * 8


def test_a_session_offered_by_a_connection_older_than_it_gets_no_connection(pki):
    context = of_server(pki, "optional")
    client = of_client(pki, "good", ssl.TLSVersion.TLSv1_2)

    def shake(first: ssl.SSLObject, second: ssl.SSLObject) -> None:
        open_ends = [first, second]
        for _ in range(20):
            for end in tuple(open_ends):
                try:
                    end.do_handshake()
                    open_ends.remove(end)
                except ssl.SSLWantReadError:
                    pass

    def ends(session: ssl.SSLSession | None) -> tuple[ssl.SSLObject, ssl.SSLObject]:
        to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
        return (
            context.wrap_bio(to_server, to_client, server_side=True),
            client.wrap_bio(to_client, to_server, server_hostname="localhost", session=session),
        )

    early_in, early_out = ssl.MemoryBIO(), ssl.MemoryBIO()
    early = context.wrap_bio(early_in, early_out, server_side=True)
    server, caller = ends(None)
    shake(server, caller)
    session = caller.session
    for end in (server, caller):
        with contextlib.suppress(ssl.SSLError):
            end.unwrap()
    late = client.wrap_bio(early_out, early_in, server_hostname="localhost", session=session)
    with pytest.raises(ssl.SSLError, match="resumed"):
        shake(early, late)
    server, caller = ends(session)
    shake(server, caller)
    assert not caller.session_reused


def test_bad_new_files_change_nothing(pki, tmp_path):
    certificate, key = tmp_path / "c.pem", tmp_path / "k.pem"
    certificate.write_bytes((pki.folder / "server.pem").read_bytes())
    key.write_bytes((pki.folder / "server.key").read_bytes())
    with serving(server_context(certificate, key, load_anchors(pki.ca_file), "optional")) as (port, seen):
        client = of_client(pki, "good", ssl.TLSVersion.TLSv1_2)
        call(port, client)
        certificate.write_text("half a fi")
        key.unlink()
        for _ in range(3):
            call(port, client)
    assert len(seen.leaves) == 4


def test_http_2_is_offered_first_and_with_no_cipher_that_it_forbids(pki):
    """RFC 9113 §9.2.2 and Appendix A: of TLS 1.2, ephemeral key exchange and AEAD only."""
    pair = pki.folder / "server.pem", pki.folder / "server.key"
    context = server_context(*pair, load_anchors(pki.ca_file), "optional", alpn=HTTP_2)
    old = [cipher["name"] for cipher in context.get_ciphers() if cipher["protocol"] != "TLSv1.3"]
    assert old
    assert all(name.startswith("ECDHE-") and ("GCM" in name or "POLY1305" in name) for name in old)
    assert context.options & ssl.OP_NO_TICKET
    assert context.options & ssl.OP_NO_RENEGOTIATION
    for offered, chosen in ((["http/1.1", "h2"], "h2"), (["http/1.1"], "http/1.1"), (["h3"], None)):
        client = of_client(pki, "good", ssl.TLSVersion.TLSv1_2)
        client.set_alpn_protocols(offered)
        with (
            serving(context) as (port, _seen),
            socket.create_connection(("127.0.0.1", port), timeout=10) as raw,
            client.wrap_socket(raw, server_hostname="localhost") as tls,
        ):
            assert tls.selected_alpn_protocol() == chosen
            tls.sendall(b"ping")
            assert tls.recv(100) == b"ping"


@pytest.mark.parametrize("version", VERSIONS)
def test_who_sends_the_leaf_alone_gets_in_below_an_intermediate_that_is_configured(pki, version, tmp_path):
    dates = {"begin": datetime.now(UTC) - timedelta(days=1), "end": datetime.now(UTC) + timedelta(days=1)}
    root, stranger = strict_ca("root", **dates), strict_ca("stranger", **dates)
    middle, lost = strict_ca("middle", root, **dates), strict_ca("lost", stranger, **dates)
    for name, ca in (("alone", middle), ("lost", lost)):
        leaf = strict_leaf(ca, subject=f"client {name}", **dates)
        (tmp_path / f"{name}.pem").write_bytes(leaf.pem)
        (tmp_path / f"{name}.key").write_bytes(leaf.key_pem)

    def get_in(name, *helpers):
        helping = [helper.certificate for helper in helpers]
        pair = pki.folder / "server.pem", pki.folder / "server.key"
        context = server_context(*pair, [root.certificate], "required", helping)
        context.maximum_version = version
        client = client_context(pki.ca_file, tmp_path / f"{name}.pem", tmp_path / f"{name}.key")
        with serving(context) as (port, _):
            call(port, client)

    get_in("alone", middle)
    for name, helpers in [("alone", ()), ("lost", (middle,)), ("lost", (middle, lost))]:
        with pytest.raises(OSError):  # noqa: PT011  (whichever end closes first)
            get_in(name, *helpers)
