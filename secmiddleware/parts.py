"""The parts of a service, each made of what the settings say of it; SecurityManager puts them together.

Making one may read the files that it is named after, and starts nothing.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from ipaddress import ip_address, ip_network
from typing import Final

from secmiddleware.certificates.files import TrustFiles, TrustWatch
from secmiddleware.certificates.manager import CertificateManager
from secmiddleware.encryption.fernet import ListedFernet
from secmiddleware.encryption.jwe import FieldJwe
from secmiddleware.encryption.jwe_files import JweFiles
from secmiddleware.encryption.kek import load_kek
from secmiddleware.encryption.manager import EncryptionManager, KeyPolicy
from secmiddleware.encryption.uses import FIRST_BLOCK
from secmiddleware.engine import Place, Places
from secmiddleware.errors import ConfigError, Finding
from secmiddleware.fields.codings import known
from secmiddleware.fields.limits import HeldBytes, Limits
from secmiddleware.fields.rules import FieldRule, PlaceRule
from secmiddleware.fields.values import JweKind
from secmiddleware.identity.bound_tokens import TokenJudge, TokenRules
from secmiddleware.identity.jwks import load_jwks
from secmiddleware.identity.patterns import NamePattern
from secmiddleware.identity.peers import CertifiedProxies, TrustedPeers
from secmiddleware.identity.policy import Policy, Rule, methods_meant
from secmiddleware.identity.presets import PRESETS
from secmiddleware.identity.proxies import Proxy
from secmiddleware.paths import PathPattern
from secmiddleware.rotation.notices import Messenger
from secmiddleware.rotation.stores import open_store
from secmiddleware.settings.mistakes import write_path
from secmiddleware.settings.models import (
    FieldSettings,
    KeysSettings,
    MtlsSettings,
    RotationSettings,
    Settings,
)
from secmiddleware.settings.places import MarkedPlace, overlapping, places_of
from secmiddleware.settings.review_jwe import jwe_files
from secmiddleware.watched import Watched

_logger: Final = logging.getLogger("secmiddleware.security")


def messenger_of(rotation: RotationSettings, ring: str) -> Messenger | None:
    """Who tells the other processes of a rotation; None without a broker. Connects to nothing yet."""
    url = rotation.broker.get_secret_value()
    if not url:
        return None
    # Here and not above: kombu takes a tenth of a second to import.
    from secmiddleware.rotation.broker import Broker

    return Broker(url, ring, ca=rotation.broker_ca)


def doors_of(mtls: MtlsSettings) -> tuple[TrustWatch, ...]:
    """For each kind of proxies that shows a certificate, who vouches for it and whom it has revoked."""
    return tuple(
        TrustWatch(
            TrustFiles(
                tuple((path, ()) for path in proxy.trust),
                mtls.profile,
                lists=proxy.crl,
                missing_list=mtls.missing_crl,
            ),
            "certificates of proxies",
        )
        for proxy in mtls.trusted_proxies
        if proxy.allow
    )


def proxy_of(mtls: MtlsSettings, doors: tuple[TrustWatch, ...]) -> Proxy | None:
    """Whose word on certificates is taken in the server's place, and how it is read."""
    if mtls.source == "server":
        return None
    told = mtls.trusted_proxies
    peers = TrustedPeers(
        hosts=frozenset(ip_address(proxy.address) for proxy in told if proxy.address is not None),
        networks=tuple(ip_network(proxy.network) for proxy in told if proxy.network is not None),
        uids=frozenset(proxy.unix for proxy in told if proxy.unix is not None),
        certified=tuple(
            CertifiedProxies(door.trust, tuple(NamePattern.parse(text) for text in proxy.allow))
            for door, proxy in zip(doors, (proxy for proxy in told if proxy.allow), strict=True)
        ),
        rewritten=mtls.peer_address == "transport",
    )
    return Proxy(PRESETS[mtls.source].named(mtls.proxy_headers), peers)


def certificates_of(mtls: MtlsSettings) -> CertificateManager:
    """The manager for `[mtls]`; reads the files of trust. Raises CertificateError, which names the file."""
    files = TrustFiles(
        tuple((trusted.ca, trusted.asserts) for trusted in mtls.trust),
        mtls.profile,
        mtls.intermediates,
        mtls.crl,
        mtls.missing_crl,
    )
    # Behind a proxy, it is the proxy that shows itself here, and not the caller.
    doors = None
    if mtls.source != "server":
        doors = tuple(dict.fromkeys(path for proxy in mtls.trusted_proxies for path in proxy.trust))
    asks = (mtls.trust if doors is None else doors) or mtls.handshake == "required"
    return CertificateManager(
        files if files.paths() else files.read(),
        mtls.certificate,
        mtls.key,
        mtls.handshake if asks else "off",
        doors=doors,
    )


def encryption_of(
    keys: KeysSettings, environ: Mapping[str, str] | None = None, *, first_block: int = FIRST_BLOCK
) -> EncryptionManager:
    """The manager for `[keys]`, not started; reads the key-encryption key. `first_block` as there.

    Raises ConfigError where the key-encryption key cannot be used.
    """
    policy = KeyPolicy(
        rotate_every=keys.rotate_every,
        activation_delay=keys.activation_delay,
        retire_after=keys.retire_after,
        min_generation=keys.min_generation,
        max_document_age=keys.max_document_age,
    )
    kek = load_kek(keys.kek, environ)
    return EncryptionManager(open_store(keys.store), kek, keys.ring, policy, first_block=first_block)


def tokens_of(settings: Settings) -> TokenJudge | None:
    """The judge of `[tokens]`, with the keys that its file holds now; None where no token is asked for.

    Raises ConfigError where the file cannot be used, no key of it is good for what `[tokens]` accepts, or a
    route requires tokens and nothing says which.
    """
    tokens = settings.tokens
    if tokens is None:
        if any(route.require_bound_token for route in settings.routes):
            raise ConfigError([Finding("tokens", "is missing, and a route requires a token")])
        return None
    rules = TokenRules(
        tokens.issuer,
        tokens.audience,
        frozenset(tokens.algorithms),
        tokens.leeway,
        tokens.typ,
        tokens.max_token,
    )
    keys = load_jwks(tokens.jwks)
    if keys.algorithms.isdisjoint(tokens.algorithms):
        message = f"are none that a key of {tokens.jwks} is good for"
        raise ConfigError([Finding("tokens.algorithms", message)])
    return TokenJudge(rules, keys)


def watched_tokens_of(settings: Settings) -> Watched[TokenJudge | None] | None:
    """The judge of `[tokens]`, another one where its file has changed: what it remembered is gone with it."""
    if settings.tokens is None:
        tokens_of(settings)  # which says so where a route needs them
        return None
    return Watched((settings.tokens.jwks,), lambda: tokens_of(settings), "keys of tokens", _logger)


def listed_fernet(field: FieldSettings) -> ListedFernet | None:
    """What opens tokens of a field's `fernet_keys`; None where there are none."""
    if not field.fernet_keys:
        return None
    return ListedFernet(key.get_secret_value() for key in field.fernet_keys)


def _jwe_files(settings: Settings) -> dict[str, JweFiles]:
    """What JWEs need of files, by field; not where their keys are the ring's."""
    named = {name: field.jwe for name, field in settings.fields.items()}
    return {name: jwe_files(jwe) for name, jwe in named.items() if jwe is not None and "dir" not in jwe.alg}


def jwes_of(settings: Settings) -> dict[str, FieldJwe]:
    """With whose keys each field's JWEs are sealed and opened, where it is not with the ring's.

    Raises ConfigError with every file that cannot be used.
    """
    jwes: dict[str, FieldJwe] = {}
    findings: list[Finding] = []
    for name, files in _jwe_files(settings).items():
        match files.read():
            case FieldJwe() as jwe:
                jwes[name] = jwe
            case faults:
                findings += (
                    Finding(write_path(("fields", name, "jwe", *fault.at)), fault.message, hint=fault.hint)
                    for fault in faults
                )
    if findings:
        raise ConfigError(findings)
    return jwes


def watched_jwes_of(settings: Settings) -> Watched[dict[str, FieldJwe]] | None:
    """The same, and others where a file has changed; None where no field has any."""
    files = _jwe_files(settings).values()
    if not files:
        return None
    paths = dict.fromkeys(path for one in files for path in one.paths())
    return Watched(paths, lambda: jwes_of(settings), "keys of JWEs", _logger)


def _jwe_kind_of(field: FieldSettings) -> JweKind:
    jwe = field.jwe
    if jwe is None or "dir" in jwe.alg:
        return "ring"
    return "caller" if jwe.recipient == "caller" else "files"


def policy_of(settings: Settings) -> Policy:
    """Who may come in where, as `[[routes]]` and `[mtls] client` have it."""
    default = settings.mtls.client
    rules = tuple(
        Rule(
            PathPattern.parse(route.path),
            route.asks(default),
            tuple(NamePattern.parse(text) for text in route.allow),
            f"routes[{index}]",
            tuple(NamePattern.parse(text) for text in route.deny),
            methods_meant(route.methods),
            route.preflight,
            route.require_bound_token,
        )
        for index, route in enumerate(settings.routes)
    )
    return Policy(rules, Rule(None, default))


def marked_places(settings: Settings) -> tuple[MarkedPlace, ...]:
    """Where everything is marked, with where each mark comes from. Imports the models that are named.

    Raises ConfigError where a model or a document gives no marks, or marks that are in each other's way.
    """
    placed = places_of(settings, import_models=True)
    notes = placed.mistakes or list(overlapping(placed.places))
    if notes:
        source = "mapping" if settings.source is None else str(settings.source)
        raise ConfigError(
            Finding(write_path(found.path), found.message, source, hint=found.hint) for found, _ in notes
        )
    return tuple(placed.places)


def reads_paths(settings: Settings, placed: Sequence[MarkedPlace]) -> bool:
    """Whether a caller could gain anything by a path that two readers read in two ways.

    Not where no certificate is required, no route has a rule of its own and what is marked is marked on all
    of them: whatever the path is, the same happens. An app that stands behind nothing gets what it got.
    """
    everywhere = all(str(route) == "/**" for place in placed for route in place.routes)
    return bool(
        settings.mtls.client == "required" or settings.routes or settings.service.mount or not everywhere
    )


def places_for(settings: Settings, placed: Sequence[MarkedPlace]) -> Places:
    """What is done to the values at these marks."""
    rules = {
        name: FieldRule(
            name,
            field.format,
            field.bind,
            field.otherwise,
            field.leak_guard,
            field.also_open,
            listed_fernet(field),
            field.encoding,
            field.mask_last,
            field.pad,
            field.rewrap,
            _jwe_kind_of(field),
        )
        for name, field in settings.fields.items()
    }
    places = [
        Place(place.routes, rule)
        for place in placed
        for rule in _place_rules(rules[place.field], place, settings)
    ]
    service = settings.service
    plain = frozenset(text.encode("utf-8") for text in service.plain_events)
    limits = Limits(
        service.max_body,
        HeldBytes(service.max_held),
        service.max_depth,
        service.max_marked,
        service.duplicates,
        service.max_line,
        plain,
        service.max_ratio,
    )
    if places:
        known()  # imports what there is for codings now, and not with the first compressed body
    return Places(tuple(places), limits)


def _place_rules(rule: FieldRule, place: MarkedPlace, settings: Settings) -> Iterator[PlaceRule]:
    """What happens at a place: at once where both ways have the same marks, else each way by itself."""
    _, name, _, index = place.key
    said = settings.fields[str(name)].places[int(index)]
    request, response = (tuple(one.mark for one in way) for way in (place.request, place.response))
    made = partial(PlaceRule, rule, already_sealed=said.already_sealed, websocket=said.websocket)
    if request == response:
        yield made(request, said.request, said.response, required=said.required)
        return
    if request:
        yield made(request, said.request, required=said.required)
    if response:
        yield made(response, response=said.response)
