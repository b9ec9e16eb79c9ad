"""docs/telemetry.md names what there is: every metric, every attribute of ours, and nothing else."""

from __future__ import annotations

import re
from pathlib import Path

from secmiddleware.telemetry import attributes, counts

PAGE = (Path(__file__).parents[2] / "docs" / "telemetry.md").read_text()

# Children are named after what is done.
SPANS = {f"secmiddleware.{name}" for name in ("authenticate", "decrypt", "encrypt")}


def _ours(module: object) -> set[str]:
    return {
        value
        for name, value in vars(module).items()
        if name.isupper() and isinstance(value, str) and re.fullmatch(r"secmiddleware\.[a-z_.]+", value)
    }


def test_the_page_has_every_name_and_no_other() -> None:
    labels = {"secmiddleware.certificate.role", "secmiddleware.ring"}
    named = set(re.findall(r"\bsecmiddleware\.[a-z_.]+[a-z]", PAGE))
    assert named - SPANS == _ours(attributes) | _ours(counts) | labels
    assert named >= SPANS


def test_every_metric_has_a_row() -> None:
    rows = set(re.findall(r"^\| `([a-z_.]+)` \| (?:counter|gauge|histogram)", PAGE, re.MULTILINE))
    assert rows == {"http.server.request.duration", *counts.COUNTERS, *counts.LEVELS}
