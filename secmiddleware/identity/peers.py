"""Who may hand over somebody else's certificate: the proxies, told by what the transport knows of them.

A certificate is public, and a chain that verifies proves no possession: a header is worth exactly as much as
the peer that sent it. So a peer is trusted by its address as the transport knows it, by the user at the other
end of a unix socket, or by a client certificate of its own, which is judged against a trust list that speaks
for proxies only.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from datetime import datetime
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import Final

from secmiddleware.certificates.judgement import Trust
from secmiddleware.identity.patterns import NamePattern
from secmiddleware.identity.speaker import identify
from secmiddleware.messages import Headers, Identity, Peer, Presented

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

# What servers and middlewares take the place of the peer's address from.
_FORWARDED: Final = frozenset(
    {
        b"forwarded", b"x-forwarded-for", b"x-real-ip", b"x-client-ip", b"client-ip", b"true-client-ip",
        b"x-cluster-client-ip", b"x-forwarded", b"forwarded-for", b"x-original-forwarded-for",
        b"x-envoy-external-address", b"cf-connecting-ip", b"fastly-client-ip", b"fly-client-ip",
        b"x-azure-clientip", b"x-appengine-user-ip",
    }
)  # fmt: skip

# The characters of addresses, zones and ports; all others separate.
_WORDS: Final = re.compile(rb"[0-9A-Fa-f.:%\[\]]{2,}")


@dataclass(frozen=True, slots=True)
class CertifiedProxies:
    """Proxies that show a client certificate of their own: who vouches for them, and their names."""

    trust: Trust
    allow: tuple[NamePattern, ...]

    def __post_init__(self) -> None:
        if not self.allow:
            raise ValueError("proxies that show a certificate are named: not every one of their CA's is one")

    def vouches(self, presented: Presented, now: datetime) -> bool:
        """Whether what the peer presented in its own TLS handshake is a proxy's."""
        identity = identify(presented, self.trust, now)
        return isinstance(identity, Identity) and any(pattern.matches(identity) for pattern in self.allow)


@dataclass(frozen=True, slots=True)
class TrustedPeers:
    """The peers whose word on a client certificate is taken. Immutable; any one of the ways is enough.

    `rewritten` says what becomes of an address that no hook has seen: with False it is believed as the server
    tells it, since the operator has said that nothing rewrites it; with True it is not, where a header that
    servers rewrite it from names the same address.
    """

    hosts: frozenset[Address] = frozenset()
    networks: tuple[Network, ...] = ()
    uids: frozenset[int] = frozenset()
    certified: tuple[CertifiedProxies, ...] = ()
    rewritten: bool = field(default=True, kw_only=True)

    def include(self, peer: Peer, headers: Headers, presented: Presented | None, now: datetime) -> bool:
        """Whether a peer is one of them; `presented` is its own certificate, as the server handed it over."""
        if peer.unix:
            return peer.uid is not None and peer.uid in self.uids
        if presented is not None and any(proxies.vouches(presented, now) for proxies in self.certified):
            return True
        address = _address(peer.host)
        if address is None or not self._lists(address):
            return False
        return peer.seen or not self.rewritten or not _is_forwarded(address, headers)

    def _lists(self, address: Address) -> bool:
        return address in self.hosts or any(address in network for network in self.networks)


def _address(text: str | None) -> Address | None:
    """An address; one of IPv4 that came in IPv6's clothes is the one of IPv4 (RFC 4291 §2.5.5.2)."""
    try:
        address = ip_address(text or "")
    except ValueError:
        return None
    mapped = getattr(address, "ipv4_mapped", None)
    return address if mapped is None else mapped


def _is_forwarded(address: Address, headers: Headers) -> bool:
    """Whether a header that addresses are taken from names this one, with or without a port."""
    return any(
        _address(spelling) == address
        for name, value in headers
        if name.replace(b"_", b"-") in _FORWARDED
        for word in _WORDS.findall(value)
        for spelling in _spellings(word.decode("ascii"))
    )


def _spellings(word: str) -> tuple[str, ...]:
    """What a word may mean as an address: itself, or without brackets, a port or a zone."""
    bracketed, _, _ = word.removeprefix("[").partition("]")
    host, _, _ = word.rpartition(":")
    return (word, bracketed, host, bracketed.partition("%")[0])
