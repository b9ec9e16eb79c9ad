"""A proxy that ends TLS in front of us: whose word it is, and what it says of the caller's certificate."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime

from secmiddleware.identity.peers import TrustedPeers
from secmiddleware.identity.presets import Preset
from secmiddleware.messages import Presented, Refusal, RequestHead


@dataclass(frozen=True, slots=True)
class Proxy:
    """Where a certificate comes from that a proxy hands over, and who may do that."""

    preset: Preset
    peers: TrustedPeers
    headers: frozenset[bytes] = field(init=False, repr=False, compare=False)
    """What it hands certificates over in, in lower case and with hyphens."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "headers", self.preset.names)

    def presented(self, head: RequestHead, now: datetime) -> Presented | Refusal | None:
        """The caller's certificate as the proxy handed it over, not judged; None where it says there is none.

        `proxy_untrusted` for whoever is not one of the proxies, whatever the request says: it has not come by
        the way on which callers are known.
        """
        if not self.peers.include(head.peer, head.headers, head.presented, now):
            return Refusal("proxy_untrusted", "mtls.trusted_proxies")
        return self.preset.read(head.headers)
