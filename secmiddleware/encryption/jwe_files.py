"""The keys of one field's JWEs as its files have them now, or all that is wrong with these files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from secmiddleware.encryption.jwe import FieldJwe
from secmiddleware.encryption.jwe_keys import (
    Algorithm,
    OpeningKey,
    SealingKey,
    load_opening_keys,
    load_sealing_key,
)
from secmiddleware.errors import ConfigError


@dataclass(frozen=True, slots=True)
class JweFault:
    """What is wrong with a file, and what to do."""

    at: tuple[str | int, ...]
    """Which one, below the settings of the field's JWEs: `recipient`, or `keys` and its index."""
    message: str
    hint: str | None = None
    of_alg: bool = False
    """Whether the file is good and the field has another `alg`."""


@dataclass(frozen=True, slots=True)
class JweFiles:
    """What a field's JWEs need of files, and of which kinds their keys must be."""

    algorithms: tuple[Algorithm, ...]
    recipient: Path | Literal["caller"] | None = None
    keys: tuple[Path, ...] = ()
    """Each holds one private key of ours or several, the newest first, as here."""

    def paths(self) -> tuple[Path, ...]:
        """All of them."""
        return (*((self.recipient,) if isinstance(self.recipient, Path) else ()), *self.keys)

    def read(self) -> FieldJwe | tuple[JweFault, ...]:
        """What is sealed and opened with; every fault where there is one. Nothing of a key is told."""
        faults: list[JweFault] = []
        recipient = self._recipient(faults) if isinstance(self.recipient, Path) else self.recipient
        keys = self._keys(faults)
        return tuple(faults) if faults else FieldJwe(self.algorithms, recipient, keys)

    def _recipient(self, faults: list[JweFault]) -> SealingKey | None:
        at = ("recipient",)
        if not isinstance(self.recipient, Path):
            return None
        try:
            key = load_sealing_key(self.recipient, "")
        except ConfigError as error:
            faults += (JweFault(at, found.message, found.hint) for found in error.findings)
            return None
        self._fit(self.recipient, key, at, faults)
        return key

    def _keys(self, faults: list[JweFault]) -> tuple[OpeningKey, ...]:
        ours: list[OpeningKey] = []
        names: dict[str, int] = {}
        for index, path in enumerate(self.keys):
            at = ("keys", index)
            try:
                held = load_opening_keys(path, "")
            except ConfigError as error:
                faults += (JweFault(at, found.message, found.hint) for found in error.findings)
                continue
            for key in held:
                self._fit(path, key, at, faults)
                earlier = names.setdefault(key.kid, index)
                if earlier != index:
                    faults.append(JweFault(at, f"has the kid of keys[{earlier}]", "a kid names one key"))
            ours += held
        return tuple(ours)

    def _fit(
        self, path: Path, key: SealingKey | OpeningKey, at: tuple[str | int, ...], faults: list[JweFault]
    ) -> None:
        if key.algorithm not in self.algorithms:
            fitting = " or ".join(f'"{name}"' for name in self.algorithms)
            message = f"{path} holds a key of {key.algorithm}, but alg is {fitting}"
            faults.append(JweFault(at, message, of_alg=True))
