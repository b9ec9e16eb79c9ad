"""`python -m bench [WORDS]`: measures the rows whose group or name has one of the words, or all."""

from __future__ import annotations

import argparse
import json
import platform
import tempfile
from collections.abc import Iterator
from pathlib import Path

import cryptography

from bench.certificates import certificate_rows
from bench.measure import Result, Row, measure
from bench.passing import passing_rows
from bench.rewriting import extra_memory, rewriting_rows
from bench.rows import json_rows, request_rows, token_rows
from bench.telemetry import telemetry_rows
from bench.world import make_world
from secmiddleware.security import SecurityManager

_COLUMNS = "{:<9} {:<44} {:>9} {:<18} {:>9} {:>7} {:>15} {:>10} {:>7}"


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument(
        "words",
        nargs="*",
        metavar="WORD",
        help="as in: certificates, tokens, requests, passing, telemetry, seal",
    )
    parser.add_argument("--rounds", type=int, default=40, help="turns of each side, at least 2 (default 40)")
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    options = parser.parse_args()
    if options.rounds < 2:
        parser.error("--rounds must be 2 or more")
    return options


def _rows(folder: Path) -> Iterator[tuple[str, Row]]:
    world = make_world(folder)
    with SecurityManager.from_config(world.config, environ={}) as manager:
        keyring = manager.snapshot.keyring
        if keyring is None:
            raise RuntimeError("the settings have [keys], so there is a ring after the start")
        groups = {
            "certificates": certificate_rows(),
            "tokens": token_rows(keyring),
            "json": json_rows(),
            "rewriting": rewriting_rows(keyring),
            "requests": request_rows(manager, world),
            "passing": passing_rows(world),
            "telemetry": telemetry_rows(manager),
        }
        for group, rows in groups.items():
            for row in rows:
                yield group, row


def _as_json(group: str, result: Result) -> str:
    return json.dumps(
        {
            "group": group,
            "row": result.row.name,
            "peer": result.row.peer_name,
            "ours_us": round(result.ours_us, 3),
            "peer_us": round(result.peer_us, 3),
            "ratio": round(result.ratio, 3),
            "quartiles": [round(quartile, 3) for quartile in result.spread],
            "budget_us": result.row.budget_us,
        }
    )


def _as_text(group: str, result: Result) -> str:
    low, high = result.spread
    return _COLUMNS.format(
        group,
        result.row.name,
        f"{result.ours_us:.2f}",
        result.row.peer_name,
        f"{result.peer_us:.2f}",
        f"{result.ratio:.2f}x",
        f"{low:.2f}-{high:.2f}",
        f"{result.ours_us - result.peer_us:+.2f}",
        "" if result.row.budget_us is None else f"<= {result.row.budget_us:g}",
    )


def main() -> None:
    """Print a line for each row as soon as it is measured."""
    options = _options()
    if not options.json:
        print(
            f"Python {platform.python_version()}, {platform.machine()}, "
            f"cryptography {cryptography.__version__}; "
            f"CPU time of one call in microseconds, the best of {options.rounds} rounds\n"
        )
        print(_COLUMNS.format("", "", "ours", "peer", "", "ratio", "quartiles", "added", "bound"))
    with tempfile.TemporaryDirectory(prefix="secmiddleware-bench-") as folder:
        for group, row in _rows(Path(folder)):
            if options.words and not any(word in f"{group} {row.name}" for word in options.words):
                continue
            result = measure(row, options.rounds)
            print(_as_json(group, result) if options.json else _as_text(group, result), flush=True)
    if not options.words or "memory" in options.words:
        bodies = extra_memory()
        told = json.dumps({"group": "memory", "row": "replace 10 MB", "bodies": round(bodies, 3)})
        print(
            told
            if options.json
            else f"\nreplace 10 MB: {bodies:.2f} times the body in memory beside it, at most"
        )


if __name__ == "__main__":
    main()
