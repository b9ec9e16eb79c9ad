"""One row: ours and a peer take turns, so that a busy machine slows both."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

Step = Callable[[], object]

_ROUND_SECONDS = 0.02  # long against the clock's resolution, short against the moods of a shared machine


@dataclass(frozen=True, slots=True)
class Row:
    """What is compared with what; both do their work once for each call."""

    name: str
    ours: Step
    peer_name: str
    peer: Step
    budget_us: float | None = None
    """What ours may take longer than the peer, where that has a bound."""


@dataclass(frozen=True, slots=True)
class Result:
    """CPU time of one call, in µs, the best of all rounds; `spread` is how the rounds' ratios lie."""

    row: Row
    ours_us: float
    peer_us: float
    spread: tuple[float, float]

    @property
    def ratio(self) -> float:
        """Ours over the peer's: under 1 is faster than the peer."""
        return self.ours_us / self.peer_us


def _calls_for(step: Step) -> int:
    """How many calls fill a round."""
    calls = 1
    while (taken := _seconds(step, calls)) < _ROUND_SECONDS / 2:
        calls = max(2 * calls, int(calls * _ROUND_SECONDS / 2 / max(taken, 1e-6)))
    return max(1, int(calls * _ROUND_SECONDS / taken))


def _seconds(step: Step, calls: int) -> float:
    started = time.process_time()
    for _ in range(calls):
        step()
    return time.process_time() - started


def measure(row: Row, rounds: int) -> Result:
    """The row's numbers out of `rounds` turns (at least 2) of each, the garbage collector off."""
    ours_calls, peer_calls = _calls_for(row.ours), _calls_for(row.peer)
    ours, peers = [], []
    gc.collect()
    gc.disable()
    try:
        for _ in range(rounds):
            ours.append(_seconds(row.ours, ours_calls) / ours_calls)
            peers.append(_seconds(row.peer, peer_calls) / peer_calls)
    finally:
        gc.enable()
    quarters = statistics.quantiles([a / b for a, b in zip(ours, peers, strict=True)], n=4)
    return Result(row, min(ours) * 1e6, min(peers) * 1e6, (quarters[0], quarters[2]))
