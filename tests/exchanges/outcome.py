"""What came out of an exchange, whatever shell it went through, and whether it is what the row expects."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from threading import Condition
from typing import Any

from exchanges.table import Exchange, Expect
from exchanges.world import World, to_bytes
from secmiddleware.engine import Admission
from secmiddleware.messages import STATUS_OF, Refusal, RequestHead
from secmiddleware.telemetry.audit import AuditObservation, AuditObserver
from secmiddleware.telemetry.observer import ExchangeRecord


@dataclass(frozen=True)
class Outcome:
    """A response as a client got it."""

    status: int
    headers: tuple[tuple[str, str], ...]
    """Lower-case names."""
    pieces: tuple[bytes, ...]
    """The body, as it was cut on its way; no empty pieces."""
    broken: bool = False
    """It ended before its end."""

    @property
    def body(self) -> bytes:
        return b"".join(self.pieces)


class Recorder(AuditObserver):
    """Writes the audit log as ever, and keeps what it is told of the ends of exchanges."""

    def __init__(self) -> None:
        self.records: list[ExchangeRecord] = []
        self._changed = Condition()

    def begin(self, head: RequestHead, verdict: Admission | Refusal, started_ns: int) -> AuditObservation:
        return _Recorded(self, head, verdict)

    def add(self, record: ExchangeRecord) -> None:
        with self._changed:
            self.records.append(record)
            self._changed.notify_all()

    def wait(self, count: int = 1) -> ExchangeRecord:
        """The record of the last of so many exchanges. They end some time after their responses."""
        with self._changed:
            assert self._changed.wait_for(lambda: len(self.records) >= count, 5), "an exchange does not end"
            assert len(self.records) == count, self.records
            return self.records[-1]


class _Recorded(AuditObservation):
    def __init__(self, recorder: Recorder, head: RequestHead, verdict: Admission | Refusal) -> None:
        super().__init__(head, verdict)
        self._recorder = recorder

    def end(self, record: ExchangeRecord) -> None:
        super().end(record)
        self._recorder.add(record)


def check(world: World, row: Exchange, outcome: Outcome) -> None:
    """Assert that the response is the one that the row expects."""
    expect, shown = row.expect, f"{row.name}: {outcome}"
    assert outcome.status == expect.status, shown
    assert outcome.broken == expect.broken, shown
    if expect.code is not None:
        _check_problem(row, outcome, shown)
    values = _values_by_name(outcome)
    for name, value in expect.headers.items():
        assert _is_one(world, row, value, values.get(name, [])), shown
    for name in expect.absent:
        assert name not in values, shown
    if expect.body is not None:
        assert world.matches(row, expect.body, outcome.body.decode("utf-8", "surrogateescape")), shown
    if expect.pieces is not None:
        assert outcome.pieces == tuple(to_bytes(world.fill(row, piece)) for piece in expect.pieces), shown
    everything = outcome.body + b"\n".join(f"{n}: {v}".encode() for n, v in outcome.headers)
    for text in expect.without:
        assert to_bytes(world.fill(row, text)) not in everything, shown
    _check_framing(row, outcome, values, shown)


def _is_one(world: World, row: Exchange, expected: str, values: Sequence[str]) -> bool:
    return len(values) == 1 and world.matches(row, expected, values[0])


def _values_by_name(outcome: Outcome) -> dict[str, list[str]]:
    values: dict[str, list[str]] = {}
    for name, value in outcome.headers:
        values.setdefault(name, []).append(value)
    return values


def _check_problem(row: Exchange, outcome: Outcome, shown: str) -> None:
    headers = dict(outcome.headers)
    assert outcome.status == STATUS_OF[row.expect.code or ""], shown
    assert headers["content-type"] == "application/problem+json", shown
    assert headers["cache-control"] == "no-store", shown
    assert ("retry-after" in headers) == (outcome.status == 503), shown
    if row.request.method == "HEAD":
        return
    problem = json.loads(outcome.body)
    optional = {"where"} if row.expect.where is not None else set()
    assert set(problem) == {"type", "title", "status", "code", "trace_id"} | optional, shown
    assert (problem["code"], problem["status"]) == (row.expect.code, outcome.status), shown
    assert problem.get("where") == row.expect.where, shown
    assert re.fullmatch("[0-9a-f]{32}", problem["trace_id"]), shown


def _check_framing(row: Exchange, outcome: Outcome, values: dict[str, list[str]], shown: str) -> None:
    """RFC 9112 §6: one length or a coding, never both, and none where there is no body."""
    lengths = values.get("content-length", [])
    assert len(lengths) <= 1, shown
    assert not (lengths and "transfer-encoding" in values), shown
    bodiless = row.request.method == "HEAD" or outcome.status in (204, 304)
    if bodiless:
        assert outcome.pieces == (), shown
    elif lengths and not outcome.broken:
        assert lengths == [str(len(outcome.body))], shown
    if outcome.status == 204:
        assert not lengths, shown


def check_seen(world: World, row: Exchange, seen: Sequence[dict[str, Any]]) -> None:
    """Assert that the app was called as the row expects, or not at all."""
    wanted = row.expect.app_saw
    if wanted is None:
        assert seen == [], f"{row.name}: the app was called: {seen}"
        return
    assert len(seen) == 1, f"{row.name}: the app saw {seen}"
    what = seen[0]
    assert what["presented"] is None, f"{row.name}: the app sees what was presented, judged or not"
    assert what["sub"] == wanted.get("sub"), f"{row.name}: the app sees the claims of {what['sub']}"
    assert what["unaccepted"] == wanted.get("unaccepted"), f"{row.name}: {what['unaccepted']} is shown"
    assert (what["verify"] == "SUCCESS") == (what["identity"] is not None), f"{row.name}: {what['verify']}"
    headers: list[tuple[str, str]] = what["headers"]
    for key, value in wanted.items():
        shown = f"{row.name}: {key} of {what}"
        match key:
            case "body":
                assert world.matches(row, value, what["body"]), shown
            case "absent_headers":
                assert not set(value) & {name for name, _ in headers}, shown
            case "headers":
                for name, text in value.items():
                    assert _is_one(world, row, text, [v for n, v in headers if n == name]), shown
            case "query":
                assert world.matches(row, value, what["query"]), shown
            case "anonymous":
                assert (what["identity"] is None) == value, shown
            case _:
                assert what[key] == value, shown


def check_record(row: Exchange, record: ExchangeRecord) -> None:
    """Assert that what the observer is told is what the row expects the caller to be told."""
    expect: Expect = row.expect
    code = record.refusal.code if record.refusal is not None else None
    assert code == (expect.code or expect.broken_by), f"{row.name}: {record}"
    if expect.code is not None:
        assert record.status == expect.status, f"{row.name}: {record}"
