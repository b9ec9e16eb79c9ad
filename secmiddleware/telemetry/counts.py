"""What is counted of all exchanges of a process, and the levels that are looked at when somebody asks.

Counting is one addition under a lock; a metrics SDK reads the sums when it exports. Every label comes from a
closed set: refusal codes, operations, stages. No caller can make a series.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final, Literal

from secmiddleware.engine import Admission
from secmiddleware.fields.flows import Report
from secmiddleware.messages import Refusal
from secmiddleware.telemetry.attributes import DECISION, ERROR_TYPE, STAGE
from secmiddleware.telemetry.observer import Stage

Operation = Literal["decrypt", "encrypt"]

Label = tuple[tuple[str, str], ...]
"""Names and values of the attributes of one series."""

VERIFICATIONS: Final = "secmiddleware.mtls.verifications"
REFUSALS: Final = "secmiddleware.refusals"
OPERATIONS: Final = "secmiddleware.crypto.operations"
FIELDS: Final = "secmiddleware.crypto.fields"
OVERHEAD: Final = "secmiddleware.overhead.time"

OPERATION: Final = "secmiddleware.crypto.operation"

# Beside those whose codes begin with certificate_: what is said of who is calling.
_ABOUT_CALLERS: Final = frozenset({"identity_not_allowed", "proxy_untrusted"})

COUNTERS: Final[Mapping[str, tuple[str, str]]] = {
    VERIFICATIONS: ("{verification}", "Client certificates that were judged, with the decision."),
    REFUSALS: ("{refusal}", "Exchanges that were refused, by code."),
    OPERATIONS: ("{operation}", "Bodies in which fields were decrypted or encrypted, or should have been."),
    FIELDS: ("{field}", "Values of fields that were decrypted or encrypted."),
    OVERHEAD: ("s", "Time spent judging requests and rewriting bodies."),
}
"""Each counter's unit and what it counts."""

EXPIRY: Final = "secmiddleware.certificate.expiry"
KEY_AGE: Final = "secmiddleware.key.age"
GENERATION: Final = "secmiddleware.keyring.generation"

LEVELS: Final[Mapping[str, tuple[str, str]]] = {
    EXPIRY: ("s", "How long the first of the certificates to expire is still valid."),
    KEY_AGE: ("s", "For how long the key that seals has been sealing."),
    GENERATION: ("{generation}", "The generation of the key ring that this process has."),
}
"""Each gauge's unit and what it shows."""


class Counts:
    """Sums by counter and label; they only grow."""

    def __init__(self) -> None:
        self._sums: dict[str, dict[Label, float]] = {name: {} for name in COUNTERS}
        self._lock = threading.Lock()

    def add(self, counter: str, amount: float, *label: tuple[str, str]) -> None:
        """Count `amount` more."""
        sums = self._sums[counter]
        with self._lock:
            sums[label] = sums.get(label, 0) + amount

    def add_verdict(self, verdict: Admission | Refusal, spent_ns: int) -> None:
        """Count what was decided, where a certificate was judged or was missing."""
        self.add(OVERHEAD, spent_ns / 1e9, (STAGE, "verdict"))
        if isinstance(verdict, Admission):
            if verdict.identity is not None:
                self.add(VERIFICATIONS, 1, (DECISION, "allow"))
        elif verdict.code in _ABOUT_CALLERS or verdict.code.startswith("certificate_"):
            self.add(VERIFICATIONS, 1, (DECISION, "deny"), (ERROR_TYPE, verdict.code))

    def add_stage(self, name: Stage, report: Report, code: str | None, spent_ns: int) -> None:
        """Count what was done to a body, or by its code why it was not."""
        self.add(OVERHEAD, spent_ns / 1e9, (STAGE, name))
        done: dict[Operation, int] = {"decrypt": report.opened, "encrypt": report.sealed}
        for operation, fields in done.items():
            if fields:
                self.add(FIELDS, fields, (OPERATION, operation))
                if code is None:
                    self.add(OPERATIONS, 1, (OPERATION, operation))
        if code is not None:
            self.add(OPERATIONS, 1, (OPERATION, operation_of(name, report)), (ERROR_TYPE, code))

    def of(self, counter: str) -> list[tuple[Label, float]]:
        """What has been counted so far."""
        with self._lock:
            return list(self._sums[counter].items())


@dataclass(frozen=True, slots=True)
class Vitals:
    """How certificates and keys are just now: dates and numbers, nothing secret."""

    expiries: Mapping[str, datetime] = field(default_factory=dict)
    """When the first certificate of a role is over; roles are few and fixed."""
    ring: str | None = None
    generation: int | None = None
    primary_since: datetime | None = None

    def levels(self, level: str, now: datetime) -> list[tuple[Label, float]]:
        """What a gauge shows of it at `now`."""
        if level == EXPIRY:
            return [
                ((("secmiddleware.certificate.role", role),), (until - now).total_seconds())
                for role, until in self.expiries.items()
            ]
        label = (("secmiddleware.ring", self.ring or ""),)
        if level == GENERATION and self.generation is not None:
            return [(label, self.generation)]
        if level == KEY_AGE and self.primary_since is not None:
            return [(label, (now - self.primary_since).total_seconds())]
        return []


def operation_of(name: Stage, report: Report) -> Operation:
    """What a stage is called after: what it did, or, of both or neither, what is usual there."""
    if bool(report.opened) != bool(report.sealed):
        return "decrypt" if report.opened else "encrypt"
    return "decrypt" if name == "request" else "encrypt"
