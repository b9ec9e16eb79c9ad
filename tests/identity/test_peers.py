"""Whose word on somebody else's certificate is taken."""

from __future__ import annotations

import datetime as dt
from ipaddress import ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from secmiddleware.certificates.authority import Authority
from secmiddleware.certificates.judgement import Trust
from secmiddleware.certificates.trust import TrustAnchor
from secmiddleware.identity.patterns import NamePattern
from secmiddleware.identity.peers import CertifiedProxies, TrustedPeers
from secmiddleware.messages import Headers, Peer, Presented

PROXY = TrustedPeers(hosts=frozenset({ip_address("10.0.0.5"), ip_address("fd00::5")}))


def _includes(peers: TrustedPeers, peer: Peer, headers: Headers = (), own: Presented | None = None) -> bool:
    return peers.include(peer, headers, own, dt.datetime.now(dt.UTC))


@pytest.mark.parametrize("host", ["10.0.0.5", "fd00::5", "fd00:0:0::0005", "::ffff:10.0.0.5"])
def test_a_host_that_is_named_is_trusted_however_its_address_is_written(host: str) -> None:
    assert _includes(PROXY, Peer(host, 40000))


@pytest.mark.parametrize(
    "host",
    ["10.0.0.6", "10.0.0.50", "fd00::6", "", None, "localhost", "10.0.0.5 ", "010.0.0.5", "fd00::5%eth0"],
)
def test_any_other_host_is_not(host: str | None) -> None:
    assert not _includes(PROXY, Peer(host, 40000, seen=True))


def test_a_network_trusts_all_of_its_hosts_and_no_others() -> None:
    peers = TrustedPeers(networks=(ip_network("10.1.0.0/16"),))
    assert _includes(peers, Peer("10.1.255.255"))
    assert not _includes(peers, Peer("10.2.0.0"))


@pytest.mark.parametrize(
    "headers",
    [
        ((b"x-forwarded-for", b"10.0.0.5"),),
        ((b"x-forwarded-for", b"203.0.113.9, 10.0.0.5:4711"),),
        ((b"x_forwarded_for", b"10.0.0.5"),),
        ((b"forwarded", b'for="[fd00::5]:4711";proto=https'), (b"x-real-ip", b"10.0.0.5")),
        ((b"forwarded", b"for=10.0.0.5"),),
        ((b"x-real-ip", b"::ffff:10.0.0.5"),),
    ],
)
def test_an_address_that_may_have_come_out_of_a_header_is_not_believed(headers: Headers) -> None:
    assert not _includes(PROXY, Peer("10.0.0.5", 4711), headers)
    assert _includes(PROXY, Peer("10.0.0.5", 4711, seen=True), headers), "but one that a hook saw is"
    told = TrustedPeers(hosts=PROXY.hosts, rewritten=False)
    assert _includes(told, Peer("10.0.0.5", 4711), headers), "and one of which the operator says so"


@pytest.mark.parametrize(
    "header",
    [
        (b"x-forwarded-for", b"203.0.113.9"),
        (b"host", b"10.0.0.5"),
        (b"forwarded", b"for=_hidden;by=10.0.0.50"),
    ],
)
def test_what_forwarded_headers_say_of_others_changes_nothing(header: tuple[bytes, bytes]) -> None:
    assert _includes(PROXY, Peer("10.0.0.5", 4711), (header,))


@given(st.binary(max_size=200))
def test_no_forwarded_header_breaks_the_judgement(value: bytes) -> None:
    assert _includes(PROXY, Peer("10.0.0.5"), ((b"x-forwarded-for", b"10.0.0.5 " + value),)) is False
    assert _includes(PROXY, Peer("10.9.9.9"), ((b"x-forwarded-for", value),)) is False


def test_at_a_unix_socket_the_user_counts() -> None:
    peers = TrustedPeers(hosts=frozenset({ip_address("127.0.0.1")}), uids=frozenset({33}))
    assert _includes(peers, Peer(unix=True, uid=33, seen=True))
    assert not _includes(peers, Peer(unix=True, uid=1000, seen=True))
    assert not _includes(peers, Peer(unix=True, uid=None, seen=True)), "of whom nothing is known"
    assert not _includes(peers, Peer("127.0.0.1", unix=True, uid=1000, seen=True))
    assert not _includes(peers, Peer())


class TestProxiesThatShowACertificate:
    proxies = Authority.create("proxies")
    callers = Authority.create("callers")

    def peers(self) -> TrustedPeers:
        trust = Trust((TrustAnchor(self.proxies.certificate),))
        return TrustedPeers(certified=(CertifiedProxies(trust, (NamePattern.parse("dns:edge.internal"),)),))

    @staticmethod
    def shown(authority: Authority, name: str) -> Presented:
        from cryptography import x509
        from cryptography.hazmat.primitives.serialization import Encoding

        issued = authority.issue_client(dns=[name])
        return Presented(x509.load_pem_x509_certificate(issued.certificate_pem).public_bytes(Encoding.DER))

    def test_one_of_the_named_is_trusted_wherever_it_calls_from(self) -> None:
        shown = self.shown(self.proxies, "edge.internal")
        assert _includes(self.peers(), Peer("203.0.113.9", seen=True), own=shown)

    def test_another_name_of_the_same_ca_is_not(self) -> None:
        assert not _includes(self.peers(), Peer("203.0.113.9"), own=self.shown(self.proxies, "app.internal"))

    def test_the_same_name_of_the_callers_ca_is_not(self) -> None:
        assert not _includes(self.peers(), Peer("203.0.113.9"), own=self.shown(self.callers, "edge.internal"))

    def test_without_a_certificate_nobody_is(self) -> None:
        assert not _includes(self.peers(), Peer("203.0.113.9"))

    def test_nobody_can_trust_all_of_a_ca(self) -> None:
        with pytest.raises(ValueError, match="named"):
            CertifiedProxies(Trust((TrustAnchor(self.proxies.certificate),)), ())
