"""The audit log: one line of JSON for every refusal, under the logger `secmiddleware.audit`.

A line holds the code, what refused, whose certificate it was (its digest and the escaped name) and the trace
id that the caller was shown; never a value, a certificate, a header or a path.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from contextlib import AbstractContextManager, nullcontext
from functools import cached_property

from secmiddleware.engine import Admission
from secmiddleware.fields.flows import Report
from secmiddleware.messages import Refusal, RequestHead
from secmiddleware.telemetry.observer import ExchangeRecord, Stage

audit_log = logging.getLogger("secmiddleware.audit")


class AuditObserver:
    """Writes a line for every exchange that was refused, at whatever stage."""

    def begin(self, head: RequestHead, verdict: Admission | Refusal, started_ns: int) -> AuditObservation:  # noqa: ARG002  (the Protocol's; a log line has its own time)
        """The observation of one exchange."""
        return AuditObservation(head, verdict)


class AuditObservation:
    """One exchange on its way to the audit log."""

    watches = False

    def __init__(self, head: RequestHead, verdict: Admission | Refusal) -> None:
        self.head = head
        self._verdict = verdict

    @cached_property
    def trace_id(self) -> str:
        """A random id, made when it is first asked for: most exchanges never need one."""
        return os.urandom(16).hex()

    def active(self) -> AbstractContextManager[None]:
        """Nothing: a log has no context."""
        return nullcontext()

    def stage(self, name: Stage, start_ns: int, end_ns: int, report: Report) -> None:
        """Nothing: what was done to whom is not for this log."""

    def end(self, record: ExchangeRecord) -> None:
        """Write the line, if the exchange was refused."""
        if record.refusal is not None:
            audit_log.warning("%s", json.dumps(self._line(record.refusal)))

    def _line(self, refusal: Refusal) -> dict[str, object]:
        identity, presented = self._verdict.identity, self.head.presented
        return {
            "event": "access.denied",
            "code": refusal.code,
            "status": refusal.status,
            "where": refusal.where,
            "protocol": self.head.protocol,
            "peer": self.head.peer.host,
            "client": None if identity is None else str(identity),
            "client_sha256": None if presented is None else hashlib.sha256(presented.leaf).hexdigest(),
            "trace_id": self.trace_id,
        }
