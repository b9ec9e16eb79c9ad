"""SecurityManager: builds the parts from the settings, starts and stops them, says how they are.

The constructor reads and checks what the settings name, and starts nothing. `start()` blocks for the first
look at the key ring only. What the request path needs is one attribute, `snapshot`: immutable, no lock, no
I/O.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from ipaddress import ip_address, ip_network
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Literal, Self, TypeVar
from weakref import WeakSet

from secmiddleware.certificates.files import TrustFiles, TrustWatch
from secmiddleware.certificates.manager import CertificateManager
from secmiddleware.encryption.fernet import ListedFernet
from secmiddleware.encryption.jwe import FieldJwe
from secmiddleware.encryption.jwe_keys import SealingKey, load_opening_key, load_sealing_key
from secmiddleware.encryption.kek import load_kek
from secmiddleware.encryption.keyring import Keyring
from secmiddleware.encryption.manager import EncryptionManager, KeyPolicy, Transition
from secmiddleware.encryption.uses import FIRST_BLOCK
from secmiddleware.engine import Admission, Place, Places, Snapshot, admit
from secmiddleware.errors import ConfigError, Finding
from secmiddleware.fields.codings import known
from secmiddleware.fields.limits import HeldBytes, Limits
from secmiddleware.fields.rules import FieldRule, PlaceRule
from secmiddleware.identity.bound_tokens import TokenJudge, TokenRules
from secmiddleware.identity.jwks import load_jwks
from secmiddleware.identity.patterns import NamePattern
from secmiddleware.identity.peers import CertifiedProxies, TrustedPeers
from secmiddleware.identity.policy import Policy, Rule, methods_meant
from secmiddleware.identity.presets import PRESETS
from secmiddleware.identity.proxies import Proxy
from secmiddleware.messages import Refusal, RequestHead
from secmiddleware.paths import PathPattern
from secmiddleware.rotation.callbacks import check_events
from secmiddleware.rotation.line import RotationLine
from secmiddleware.rotation.notices import Messenger
from secmiddleware.rotation.stores import open_store
from secmiddleware.settings.loading import load
from secmiddleware.settings.mistakes import write_path
from secmiddleware.settings.models import (
    FieldSettings,
    KeysSettings,
    MtlsSettings,
    RotationSettings,
    Settings,
)
from secmiddleware.settings.places import MarkedPlace, overlapping, places_of
from secmiddleware.telemetry.audit import AuditObserver
from secmiddleware.telemetry.counts import Vitals
from secmiddleware.telemetry.observer import Observer
from secmiddleware.watched import Watched

_logger: Final = logging.getLogger("secmiddleware.security")

Listener = TypeVar("Listener", bound=Callable[[Transition], object])
"""A function that is told of a key; what it returns is awaited where that can be, and else ignored."""


class SecurityManager:
    """Everything that the settings ask for, in one place.

    Idempotent: a second `start()` or `stop()` does nothing; restartable; a context manager, sync and async.
    Used by several threads at once it is safe. In the child of a fork it is stopped, whatever it was in the
    parent: threads and reserved uses are not inherited, and `start()` gives the child its own.
    """

    def __init__(self, settings: Settings, environ: Mapping[str, str] | None = None) -> None:
        """Reads the files of trust and the key-encryption key; `environ` is `os.environ`.

        Raises SecMiddlewareError where a file that the settings name cannot be used.
        """
        self.settings = settings
        self.certificates = certificates_of(settings.mtls)
        self.encryption = None if settings.keys is None else encryption_of(settings.keys, environ)
        self._tokens = _watched_tokens(settings)
        self._doors = _doors(settings.mtls)
        self._proxy = _proxy(settings.mtls, self._doors)
        self._line = self._watching(settings.rotation)
        placed = marked_places(settings)
        self._snapshot = Snapshot(
            trust=self.certificates.trust,
            policy=_policy(settings),
            places=_places(settings, placed),
            keyring=None,
            mount=settings.service.mount,
            proxy=self._proxy,
            reveal={
                name: tuple(NamePattern.parse(text) for text in field.reveal_to)
                for name, field in settings.fields.items()
                if field.reveal_to
            },
            shows_unaccepted=settings.mtls.unaccepted == "show",
            reads_paths=_reads_paths(settings, placed),
            tokens=self._judge_of_tokens,
        )
        self.observer: Observer = AuditObserver(self._telemetry())
        self._changing = threading.Lock()
        self.running = False
        _managers.add(self)

    @classmethod
    def from_config(
        cls, source: str | Path | Mapping[str, Any], environ: Mapping[str, str] | None = None
    ) -> SecurityManager:
        """The manager for a secmiddleware.toml or a mapping with the same keys; `environ` is `os.environ`.

        Raises ConfigError with every mistake at once.
        """
        return cls(load(source, environ), environ)

    @classmethod
    def of(cls, config: str | Path | Mapping[str, Any] | Settings | SecurityManager) -> SecurityManager:
        """The manager for whatever form of config somebody has; one that exists already is handed back."""
        if isinstance(config, SecurityManager):
            return config
        if isinstance(config, Settings):
            return cls(config)
        return cls.from_config(config)

    @property
    def snapshot(self) -> Snapshot:
        """What verdicts depend on just now. Two threads may both renew it; both make the same."""
        snapshot = self._snapshot
        keyring = self.encryption.keyring if self.encryption is not None else None
        trust, tokens, proxy = self.certificates.trust, self._judge_of_tokens, self._proxy
        if (
            snapshot.keyring is not keyring
            or snapshot.trust is not trust
            or snapshot.tokens is not tokens
            or snapshot.proxy is not proxy
        ):
            self._snapshot = snapshot = replace(
                snapshot, keyring=keyring, trust=trust, tokens=tokens, proxy=proxy
            )
        return snapshot

    @property
    def _judge_of_tokens(self) -> TokenJudge | None:
        return None if self._tokens is None else self._tokens.made

    @property
    def asks_the_server(self) -> bool:
        """Whether somewhere a certificate is asked for, and the server that ends TLS has to hand it over."""
        return self._snapshot.proxy is None and self._snapshot.policy.asks

    def admit(self, head: RequestHead) -> Admission | Refusal:
        """The verdict on a request that came just now."""
        verdict = admit(head, self.snapshot, datetime.now(UTC))
        if isinstance(verdict, Admission) and verdict.plan.marks_anything:
            verdict.exchange.fresh = self._keys_of_now
        return verdict

    def _keys_of_now(self) -> tuple[Keyring | None, datetime]:
        return self.snapshot.keyring, datetime.now(UTC)

    def start(self) -> None:
        """Read the key ring and begin to watch it. Raises SecMiddlewareError where none is to be had."""
        with self._changing:
            if self.running:
                return
            if self.encryption is not None:
                self.encryption.start()
            if self._line is not None:
                self._line.start()
            self.running = True

    def stop(self) -> None:
        """End what `start` began; takes well under 100 ms."""
        with self._changing:
            if self.running and self._line is not None:
                self._line.stop()
            self.running = False

    def on(self, *events: str) -> Callable[[Listener], Listener]:
        """Has the decorated function told what becomes of keys.

        The events are `key.published`, `key.activated`, `key.demoted`, `key.retired` and `key.destroyed`.
        Sync or async, it gets a Transition (`ring, gen, kid, before, after`) once for each key, event and
        process, whoever rotated and however this process learned of it; it disturbs neither requests nor
        other listeners. Without `[keys]` there is nothing to tell.

        Raises:
            ValueError: there is no such event; says which there are.
        """
        check_events(events)

        def listen(function: Listener) -> Listener:
            if self._line is not None:
                self._line.on(events, function)
            return function

        return listen

    def look_soon(self) -> None:
        """Have the store looked at: a request named a key that is not known here. Never blocks."""
        if self._line is not None:
            self._line.wake()

    def status(self) -> dict[str, Any]:
        """How the parts are, as JSON-ready data: no key, no value, no certificate."""
        return {
            "service": self.settings.service.name,
            "running": self.running,
            "certificates": self.certificates.status(),
            "proxies": [{"trouble": door.trouble} for door in self._doors],
            "tokens": None if self._tokens is None else {"trouble": self._tokens.trouble},
            "encryption": self.encryption.status() if self.encryption is not None else None,
            "rotation": self._line.health() if self._line is not None else None,
        }

    def vitals(self) -> Vitals:
        """How certificates and keys are, for metrics: dates and numbers."""
        now, keyring = datetime.now(UTC), self.snapshot.keyring
        expiries = self.certificates.expiries()
        if keyring is None:
            return Vitals(expiries)
        return Vitals(expiries, keyring.ring, keyring.gen, keyring.primary(now).activate_at)

    def _watching(self, rotation: RotationSettings) -> RotationLine | None:
        """The line for the ring and the files of certificates and tokens, where there is either."""
        watches: list[Callable[[], object]] = []
        if self.certificates.watches:
            watches.append(self.certificates.look)
        if self._doors:
            watches.append(self._look_at_doors)
        if self._tokens is not None:
            watches.append(self._tokens.look)
        if self.encryption is None:
            return RotationLine(None, poll=rotation.poll, watches=watches) if watches else None
        return RotationLine(
            self.encryption,
            poll=rotation.poll,
            callbacks=rotation.callbacks,
            messenger=_messenger(rotation, self.encryption.ring),
            watches=watches,
        )

    def _look_at_doors(self) -> None:
        """Whether another proxy is trusted now, or one of them not any more."""
        now = datetime.now(UTC)
        changed = [door.look(now) for door in self._doors]
        if any(changed):
            self._proxy = _proxy(self.settings.mtls, self._doors)

    def _telemetry(self) -> Observer | None:
        """Who makes spans and metrics, unless that is off."""
        telemetry = self.settings.telemetry
        if telemetry.traces == "off":
            return None
        from secmiddleware.telemetry.opentelemetry import OpenTelemetryObserver  # takes 40 ms

        return OpenTelemetryObserver(
            trust_inbound_context=telemetry.trust_inbound_context,
            names=telemetry.identity == "name",
            vitals=self.vitals,
        )

    def __enter__(self) -> Self:
        """Start."""
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop."""
        self.stop()

    async def __aenter__(self) -> Self:
        """Start. Blocks the loop for the first look at the store, as `start` does."""
        self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop."""
        self.stop()


def _after_fork_in_child() -> None:
    for manager in list(_managers):
        manager._changing = threading.Lock()  # noqa: SLF001  (a thread of the parent may have held it)
        manager.running = False


_managers: Final[WeakSet[SecurityManager]] = WeakSet()
os.register_at_fork(after_in_child=_after_fork_in_child)


def _messenger(rotation: RotationSettings, ring: str) -> Messenger | None:
    url = rotation.broker.get_secret_value()
    if not url:
        return None
    # Here and not above: kombu takes a tenth of a second to import.
    from secmiddleware.rotation.broker import Broker

    return Broker(url, ring, ca=rotation.broker_ca)


def _doors(mtls: MtlsSettings) -> tuple[TrustWatch, ...]:
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


def _proxy(mtls: MtlsSettings, doors: tuple[TrustWatch, ...]) -> Proxy | None:
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


def _watched_tokens(settings: Settings) -> Watched[TokenJudge | None] | None:
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


def jwe_of(field: FieldSettings, setting: str) -> FieldJwe | None:
    """With whose keys a field's JWEs are sealed and opened; None where it is the ring's, or it has none.

    Raises ConfigError under the key path `setting` where a file cannot be used.
    """
    jwe = field.jwe
    if jwe is None or "dir" in jwe.alg:
        return None
    keys = (load_opening_key(path, f"{setting}.keys[{index}]") for index, path in enumerate(jwe.keys))
    match jwe.recipient:
        case Path() as path:
            recipient: SealingKey | Literal["caller"] | None = load_sealing_key(path, f"{setting}.recipient")
        case told:
            recipient = "caller" if told == "caller" else None
    return FieldJwe(tuple(name for name in jwe.alg if name != "dir"), recipient, tuple(keys))


def _policy(settings: Settings) -> Policy:
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


def _reads_paths(settings: Settings, placed: Sequence[MarkedPlace]) -> bool:
    """Whether a caller could gain anything by a path that two readers read in two ways.

    Not where no certificate is required, no route has a rule of its own and what is marked is marked on all
    of them: whatever the path is, the same happens. An app that stands behind nothing gets what it got.
    """
    everywhere = all(str(route) == "/**" for place in placed for route in place.routes)
    return bool(
        settings.mtls.client == "required" or settings.routes or settings.service.mount or not everywhere
    )


def _places(settings: Settings, placed: Sequence[MarkedPlace]) -> Places:
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
            jwe_of(field, f"fields.{name}.jwe"),
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
    ways = said.required, said.already_sealed, said.websocket
    if request == response:
        yield PlaceRule(rule, request, said.request, said.response, *ways)
        return
    if request:
        yield PlaceRule(rule, request, said.request, "pass", *ways)
    if response:
        yield PlaceRule(rule, response, "pass", said.response, False, *ways[1:])  # noqa: FBT003  (required)
