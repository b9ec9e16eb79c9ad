"""SecurityManager: builds the parts from the settings, starts and stops them, says how they are.

The constructor reads and checks what the settings name, and starts nothing. `start()` blocks for the first look at
the key ring only. What the request path needs is one attribute, `snapshot`: immutable, no lock, no I/O.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from secmiddleware.certificates.manager import CertificateManager
from secmiddleware.encryption.kek import load_kek
from secmiddleware.encryption.manager import EncryptionManager, KeyPolicy
from secmiddleware.engine import Place, Places, Snapshot
from secmiddleware.fields.marks import Mark
from secmiddleware.fields.rules import FieldRule, PlaceRule
from secmiddleware.identity.patterns import NamePattern
from secmiddleware.identity.policy import Policy, Rule
from secmiddleware.paths import PathPattern
from secmiddleware.rotation.line import RotationLine
from secmiddleware.rotation.stores import open_store
from secmiddleware.settings.loading import load
from secmiddleware.settings.models import Settings


class SecurityManager:
    """Everything that the settings ask for, in one place.

    Idempotent: a second `start()` or `stop()` does nothing; restartable; a context manager, sync and async. Used by
    several threads at once it is safe; after a fork the child's threads are its own.
    """

    def __init__(self, settings: Settings) -> None:
        """Raises ConfigError where a file that the settings name cannot be used."""
        self.settings = settings
        self.certificates = _certificates(settings)
        self.encryption = _encryption(settings)
        self._line = (
            RotationLine(self.encryption, poll=settings.rotation.poll, callbacks=settings.rotation.callbacks)
            if self.encryption is not None
            else None
        )
        self._snapshot = Snapshot(
            trust=self.certificates.trust,
            policy=_policy(settings),
            places=_places(settings),
            keyring=None,
            mount=settings.service.mount,
            source=settings.mtls.source,
            reveal={
                name: tuple(NamePattern.parse(text) for text in field.reveal_to)
                for name, field in settings.fields.items()
                if field.reveal_to
            },
        )
        self._changing = threading.Lock()
        self.running = False

    @classmethod
    def from_config(
        cls, source: str | Path | Mapping[str, Any], environ: Mapping[str, str] | None = None
    ) -> SecurityManager:
        """The manager for a secmiddleware.toml or a mapping with the same keys; `environ` is `os.environ`.

        Raises ConfigError with every mistake at once.
        """
        return cls(load(source, os.environ if environ is None else environ))

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
        if snapshot.keyring is not keyring:
            self._snapshot = snapshot = replace(snapshot, keyring=keyring)
        return snapshot

    def start(self) -> None:
        """Read the key ring and begin to watch it. Raises SecMiddlewareError where there is none to be had."""
        with self._changing:
            if self.running:
                return
            if self.encryption is not None and self._line is not None:
                self.encryption.start()
                self._line.start()
            self.running = True

    def stop(self) -> None:
        """End what `start` began; takes well under 100 ms."""
        with self._changing:
            if self.running and self._line is not None:
                self._line.stop()
            self.running = False

    def look_soon(self) -> None:
        """Have the store looked at behind the request: a key was named that is not known here. Never blocks."""
        if self._line is not None:
            self._line.wake()

    def status(self) -> dict[str, Any]:
        """How the parts are, as JSON-ready data: no key, no value, no certificate."""
        return {
            "service": self.settings.service.name,
            "running": self.running,
            "certificates": self.certificates.status(),
            "encryption": self.encryption.status() if self.encryption is not None else None,
            "rotation": self._line.health() if self._line is not None else None,
        }

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
