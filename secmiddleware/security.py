"""SecurityManager: builds the parts from the settings, starts and stops them, says how they are.

The constructor reads and checks what the settings name, and starts nothing. `start()` blocks for the first
look at the key ring only. What the request path needs is one attribute, `snapshot`: immutable, no lock, no
I/O.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self, TypeVar
from weakref import WeakSet

from secmiddleware.encryption.jwe import FieldJwe
from secmiddleware.encryption.keyring import Keyring
from secmiddleware.encryption.manager import Transition
from secmiddleware.engine import Admission, Snapshot, admit
from secmiddleware.identity.patterns import NamePattern
from secmiddleware.messages import Refusal, RequestHead
from secmiddleware.parts import (
    certificates_of,
    doors_of,
    encryption_of,
    marked_places,
    messenger_of,
    places_for,
    policy_of,
    proxy_of,
    reads_paths,
    watched_jwes_of,
    watched_tokens_of,
)
from secmiddleware.rotation.callbacks import check_events
from secmiddleware.rotation.line import RotationLine
from secmiddleware.settings.loading import load
from secmiddleware.settings.models import (
    RotationSettings,
    Settings,
)
from secmiddleware.telemetry.audit import AuditObserver
from secmiddleware.telemetry.counts import Vitals
from secmiddleware.telemetry.observer import Observer

Listener = TypeVar("Listener", bound=Callable[[Transition], object])
"""A function that is told of a key; what it returns is awaited where that can be, and else ignored."""

_NO_JWES: Final[Mapping[str, FieldJwe]] = {}
"""One for all, so that a snapshot stays what it is."""


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
        self._tokens = watched_tokens_of(settings)
        self._jwes = watched_jwes_of(settings)
        self._doors = doors_of(settings.mtls)
        self._proxy = proxy_of(settings.mtls, self._doors)
        self._line = self._watching(settings.rotation)
        placed = marked_places(settings)
        self._snapshot = Snapshot(
            trust=self.certificates.trust,
            policy=policy_of(settings),
            places=places_for(settings, placed),
            keyring=None,
            mount=settings.service.mount,
            proxy=self._proxy,
            reveal={
                name: tuple(NamePattern.parse(text) for text in field.reveal_to)
                for name, field in settings.fields.items()
                if field.reveal_to
            },
            shows_unaccepted=settings.mtls.unaccepted == "show",
            reads_paths=reads_paths(settings, placed),
            tokens=None if self._tokens is None else self._tokens.made,
            jwes=_NO_JWES if self._jwes is None else self._jwes.made,
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
        tokens = None if self._tokens is None else self._tokens.made
        jwes = _NO_JWES if self._jwes is None else self._jwes.made
        trust, proxy = self.certificates.trust, self._proxy
        if (
            snapshot.keyring is not keyring
            or snapshot.trust is not trust
            or snapshot.tokens is not tokens
            or snapshot.proxy is not proxy
            or snapshot.jwes is not jwes
        ):
            self._snapshot = snapshot = replace(
                snapshot, keyring=keyring, trust=trust, tokens=tokens, proxy=proxy, jwes=jwes
            )
        return snapshot

    @property
    def asks_the_server(self) -> bool:
        """Whether somewhere a certificate is asked for, and the server that ends TLS has to hand it over."""
        return self._snapshot.proxy is None and self._snapshot.policy.asks

    def admit(self, head: RequestHead) -> Admission | Refusal:
        """The verdict on a request that came just now."""
        verdict = admit(head, self.snapshot, datetime.now(UTC))
        if isinstance(verdict, Admission) and verdict.exchange is not None:
            verdict.exchange.fresh = self._keys_of_now
        return verdict

    def _keys_of_now(self) -> tuple[Keyring | None, Mapping[str, FieldJwe], datetime]:
        snapshot = self.snapshot
        return snapshot.keyring, snapshot.jwes, datetime.now(UTC)

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

        The events are `key.published`, `key.activated`, `key.demoted`, `key.retired`, `key.destroyed` and
        `key.distrusted`. Sync or async, it gets a Transition (`ring, gen, kid, before, after, distrusted`)
        once for each key, event and process, whoever rotated and however this process learned of it; it
        disturbs neither requests nor other listeners. Without `[keys]` there is nothing to tell.

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
            "jwes": None if self._jwes is None else {"trouble": self._jwes.trouble},
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
        """The line for the ring and the files of certificates, tokens and JWEs, where there is either."""
        watches: list[Callable[[], object]] = []
        if self.certificates.watches:
            watches.append(self.certificates.look)
        if self._doors:
            watches.append(self._look_at_doors)
        if self._tokens is not None:
            watches.append(self._tokens.look)
        if self._jwes is not None:
            watches.append(self._jwes.look)
        if self.encryption is None:
            return RotationLine(None, poll=rotation.poll, watches=watches) if watches else None
        return RotationLine(
            self.encryption,
            poll=rotation.poll,
            callbacks=rotation.callbacks,
            messenger=messenger_of(rotation, self.encryption.ring),
            watches=watches,
        )

    def _look_at_doors(self) -> None:
        """Whether another proxy is trusted now, or one of them not any more."""
        now = datetime.now(UTC)
        changed = [door.look(now) for door in self._doors]
        if any(changed):
            self._proxy = proxy_of(self.settings.mtls, self._doors)

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
