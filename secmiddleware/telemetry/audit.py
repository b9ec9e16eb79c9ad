"""The audit log: one line of JSON for every refusal, under the logger `secmiddleware.audit`.

A line holds the code, what refused, which certificate of the chain broke which rule, whose certificate it was
(its digest and the escaped name) and the trace id that the caller was shown; never a value, a certificate, a
header or a path. It is written whether traces are sampled or not: another observer may stand within this one,
and sees all that it sees.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from contextlib import AbstractContextManager

from secmiddleware.engine import Admission
from secmiddleware.fields.flows import Report
from secmiddleware.messages import Refusal, RequestHead
from secmiddleware.telemetry.attributes import shown
from secmiddleware.telemetry.observer import (
    NOTHING,
    ExchangeRecord,
    Observation,
    Observer,
    Stage,
    Unobserved,
)

audit_log = logging.getLogger("secmiddleware.audit")


def certificate_of(verdict: Admission | Refusal) -> str | None:
    """SHA-256 of the caller's certificate, good or not, lower-case hex; None where none was looked at."""
    if verdict.identity is not None:
        return verdict.identity.sha256
    if isinstance(verdict, Admission) or verdict.presented is None:
        return None
    return hashlib.sha256(verdict.presented.leaf).hexdigest()


class AuditObserver:
    """Writes a line for every exchange that was refused, at whatever stage."""

    def __init__(self, within: Observer | None = None) -> None:
        """`within` sees every exchange too; where it has a trace, its id is the one that is told."""
        self._within = within

    def begin(self, head: RequestHead, verdict: Admission | Refusal, started_ns: int) -> Observation:
        """The observation of one exchange; nobody's where nobody stands within and nothing is refused."""
        within = Unobserved(head) if self._within is None else self._within.begin(head, verdict, started_ns)
        if type(within) is not Unobserved:
            return _AroundAnother(head, verdict, within)
        if isinstance(verdict, Admission) and verdict.passes:
            return within
        return AuditObservation(head, verdict)


class AuditObservation:
    """One exchange on its way to the audit log."""

    __slots__ = ("_trace_id", "_verdict", "head")

    watches = False
    """A log of refusals does not want the status of what passes."""

    def __init__(self, head: RequestHead, verdict: Admission | Refusal) -> None:
        self.head = head
        self._verdict = verdict
        self._trace_id: str | None = None

    @property
    def trace_id(self) -> str:
        """A random id, made when it is first asked for."""
        if self._trace_id is None:
            self._trace_id = os.urandom(16).hex()
        return self._trace_id

    def active(self) -> AbstractContextManager[None]:
        """Nothing."""
        return NOTHING

    def stage(self, name: Stage, start_ns: int, end_ns: int, report: Report) -> None:
        """Nothing: what was done to whom is not for this log."""

    def end(self, record: ExchangeRecord) -> None:
        """Write the line, if the exchange was refused."""
        if record.refusal is not None:
            audit_log.warning("%s", json.dumps(self._line(record.refusal)))

    def _line(self, refusal: Refusal) -> dict[str, object]:
        identity, reason = self._verdict.identity, refusal.reason
        return {
            "event": "access.denied",
            "code": refusal.code,
            "status": refusal.status,
            "where": refusal.where,
            "rule": None if reason is None else reason.rule,
            "certificate": None if reason is None else reason.certificate,
            "detail": None if reason is None else shown(reason.detail),
            "protocol": self.head.protocol,
            "peer": self.head.peer.host,
            "client": None if identity is None else str(identity),
            "client_sha256": certificate_of(self._verdict),
            "trace_id": self.trace_id,
        }


class _AroundAnother(AuditObservation):
    """One exchange on its way to the audit log, and to whoever stands within."""

    __slots__ = ("_within", "watches")

    def __init__(self, head: RequestHead, verdict: Admission | Refusal, within: Observation) -> None:
        super().__init__(head, verdict)
        self._within = within
        self.head = within.head
        self.watches = within.watches

    @property
    def trace_id(self) -> str:
        """The trace's id; a random one where there is none."""
        if self._trace_id is None:
            self._trace_id = self._within.trace_id
        return super().trace_id

    def active(self) -> AbstractContextManager[None]:
        """What those within want to be in force while the app is called."""
        return self._within.active()

    def stage(self, name: Stage, start_ns: int, end_ns: int, report: Report) -> None:
        """For those within."""
        self._within.stage(name, start_ns, end_ns, report)

    def end(self, record: ExchangeRecord) -> None:
        """Write the line, if there is one to write, and tell those within."""
        super().end(record)
        self._within.end(record)
