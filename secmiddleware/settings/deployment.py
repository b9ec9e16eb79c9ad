"""What is allowed, and wider than production should have it: advice for `secmiddleware check --deploy`.

Nothing here is a mistake: each has its place on a developer's machine, or where the operator knows better.
"""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import ip_address, ip_network

from secmiddleware.paths import PathPattern
from secmiddleware.settings.mistakes import Mistake
from secmiddleware.settings.models import MtlsSettings, ProxySettings, Settings
from secmiddleware.settings.positions import KeyPath


def advise(settings: Settings) -> list[Mistake]:
    """What to think over before this is put in front of the world, each with its key."""
    return [
        *_proxies(settings.mtls),
        *_callers(settings),
        *_revocation(settings),
        *_keys(settings),
        *_telemetry(settings),
    ]


def _proxies(mtls: MtlsSettings) -> Iterator[Mistake]:
    for index, proxy in enumerate(mtls.trusted_proxies):
        wide = _too_wide(proxy)
        if wide is not None:
            key: KeyPath = ("mtls", "trusted_proxies", index)
            yield Mistake(key, *wide)
    if mtls.peer_address == "server":
        message = 'is "server": a server that believes X-Forwarded-For would make anybody a trusted proxy'
        hint = 'serve with a hook of ours and leave it at "transport"'
        yield Mistake(("mtls", "peer_address"), message, hint)


def _too_wide(proxy: ProxySettings) -> tuple[str, str] | None:
    """Who else can speak for callers, and what would be narrower."""
    if proxy.network is not None:
        count = ip_network(proxy.network).num_addresses
        message = f"lets each of the {count} addresses of {proxy.network} say who is calling"
        return message, "name the proxies' own addresses, or have them show a certificate (allow and trust)"
    if proxy.address is not None and ip_address(proxy.address).is_loopback:
        message = f"lets every process and user of this host say who is calling: {proxy.address}"
        return message, 'use a unix socket and the proxy\'s user: "unix:USER"'
    if proxy.unix == 0:
        return "lets everything that runs as root say who is calling", "run the proxy as a user of its own"
    return None


def _callers(settings: Settings) -> Iterator[Mistake]:
    mtls = settings.mtls
    if mtls.client != "required":
        message = f'is "{mtls.client}": what no route names needs no certificate'
        hint = 'client = "required", and routes for what is open'
        yield Mistake(("mtls", "client"), message, hint)
    for index, route in enumerate(settings.routes):
        if route.client in ("off", "optional") and PathPattern.parse(route.path).covers(_EVERYTHING):
            message = "opens every path that no earlier route names"
            yield Mistake(("routes", index, "path"), message, "name the paths that are open")
        for number, name in enumerate(route.deny):
            if name.startswith(("sha256:", "issuer-sha256:")):
                message = f"can be got around: the same certificate has other digests than {name[:20]}…"
                key: KeyPath = ("routes", index, "deny", number)
                yield Mistake(key, message, "deny the key (spki-sha256:, issuer-spki-sha256:) or the serial")


_EVERYTHING = PathPattern.parse("/**")


def _revocation(settings: Settings) -> Iterator[Mistake]:
    mtls = settings.mtls
    if mtls.trust and not mtls.crl:
        message = "is empty: a certificate that was stolen is good until it expires"
        hint = "name the lists of your CAs, or issue certificates that live for hours"
        yield Mistake(("mtls", "crl"), message, hint)
    if mtls.crl and mtls.missing_crl == "allow":
        message = 'is "allow": while a list is missing or out of date, revoked certificates are good'
        yield Mistake(("mtls", "missing_crl"), message, '"refuse"')


def _keys(settings: Settings) -> Iterator[Mistake]:
    if settings.keys is not None and settings.keys.store == "memory:":
        message = 'is "memory:": what it sealed is unreadable after a restart'
        yield Mistake(("keys", "store"), message, 'use "file:PATH"')
    for name, field in settings.fields.items():
        if not field.leak_guard:
            message = "is off: an app that echoes its input hands out what was opened for it"
            yield Mistake(("fields", name, "leak_guard"), message, "leave it on")


def _telemetry(settings: Settings) -> Iterator[Mistake]:
    if settings.telemetry.trust_inbound_context == "always":
        message = 'is "always": everybody can write into your traces'
        yield Mistake(("telemetry", "trust_inbound_context"), message, '"mtls_only" or "link"')
