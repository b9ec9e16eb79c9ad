"""Whether `[mtls]` says clearly who may hand over a certificate in the server's place, and how."""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import ip_network

from secmiddleware.identity.presets import PRESETS
from secmiddleware.settings.mistakes import Mistake, Note
from secmiddleware.settings.models import MtlsSettings, ProxySettings
from secmiddleware.settings.positions import KeyPath

_WAYS = ("address", "network", "unix", "allow")


def review_proxies(mtls: MtlsSettings) -> Iterator[Note]:
    """What is missing, superfluous or too wide where a proxy ends TLS."""
    source, proxies = ("mtls", "source"), ("mtls", "trusted_proxies")
    if mtls.source == "server":
        for key, given, message in (
            ("trusted_proxies", mtls.trusted_proxies, "names proxies"),
            ("proxy_headers", mtls.proxy_headers, "names headers of a proxy"),
            ("peer_address", mtls.peer_address != "transport", "is about proxies"),
        ):
            if given:
                yield Mistake(("mtls", key), f'{message}, but with source "server" none is asked'), (source,)
        return
    if not mtls.trusted_proxies:
        message = f'source "{mtls.source}" needs the proxies that may hand over a certificate'
        yield Mistake(proxies, message, 'as in trusted_proxies = ["10.0.0.5"]'), (source,)
    for index, proxy in enumerate(mtls.trusted_proxies):
        yield from _proxy(mtls, proxy, (*proxies, index))
    yield from _headers(mtls)


def _proxy(mtls: MtlsSettings, proxy: ProxySettings, here: KeyPath) -> Iterator[Note]:
    told = [way for way in _WAYS if getattr(proxy, way) not in (None, ())]
    if len(told) != 1:
        found = " and ".join(told) or "none of them"
        message = f"must say by exactly one of {', '.join(_WAYS)} who the proxy is, and has {found}"
        yield Mistake(here, message), (here,)
        return
    if proxy.network is not None and not proxy.wide and ip_network(proxy.network).num_addresses > 1:
        count = ip_network(proxy.network).num_addresses
        message = f"has {count} addresses, each of which could say who is calling"
        yield Mistake((*here, "network"), message, "name single hosts, or add wide = true"), ()
    if proxy.wide and proxy.network is None:
        yield Mistake((*here, "wide"), "is about a network, and none is named"), (here,)
    if proxy.allow and not proxy.trust:
        message = "is missing: nothing says whose certificates are good for a proxy"
        yield Mistake((*here, "trust"), message, 'name their CA, as in trust = ["pki/proxies.pem"]'), ()
    if proxy.trust and not proxy.allow:
        yield Mistake((*here, "trust"), "is of no use without allow, the names of the proxies"), ()
    if proxy.crl and not proxy.allow:
        message = "is of no use without allow: only proxies that show a certificate can have one revoked"
        yield Mistake((*here, "crl"), message), ()
    if proxy.allow and mtls.certificate is None:
        message = "asks the proxy for a certificate, but this server has none of its own to do TLS with"
        yield Mistake((*here, "allow"), message, "set mtls.certificate and mtls.key"), ()


def _headers(mtls: MtlsSettings) -> Iterator[Note]:
    preset = PRESETS[mtls.source]
    try:
        preset.named(mtls.proxy_headers)
    except ValueError as error:
        yield Mistake(("mtls", "proxy_headers"), str(error)), (("mtls", "source"),)
