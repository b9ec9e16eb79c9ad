"""Durations and sizes as the settings write them: "30d", "5m", "250ms"; "512KiB", "4MiB"."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Final

_MILLISECONDS: Final = {"ms": 1, "s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000, "w": 604_800_000}
_BYTES: Final = {"B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}

# A hundred years: longer is a slip of the pen, and sums of dates stay far from the calendar's end.
LONGEST: Final = timedelta(days=36_500)
# A body is held in memory as a whole while it is rewritten.
LARGEST: Final = 1 << 30

DURATION_PATTERN: Final = r"^[0-9]{1,13}(ms|s|m|h|d|w)$"
SIZE_PATTERN: Final = r"^[0-9]{1,12}(B|KiB|MiB|GiB)$"

_DURATION: Final = re.compile(r"([0-9]{1,13})(ms|s|m|h|d|w)")
_SIZE: Final = re.compile(r"([0-9]{1,12})(B|KiB|MiB|GiB)")
_DURATION_EXAMPLES: Final = 'a whole number with one unit, as in "250ms", "30s", "5m", "12h" or "30d"'
_SIZE_EXAMPLES: Final = 'a number of bytes, or a text such as "512KiB" or "4MiB"'


def parse_duration(text: str) -> timedelta:
    """The duration that a text such as "90s" names; ValueError with a sentence that does not repeat the text.

    >>> parse_duration("90s")
    datetime.timedelta(seconds=90)
    """
    if text.startswith("-"):
        raise ValueError("must not be negative")
    match = _DURATION.fullmatch(text)
    if match is None:
        raise ValueError(f"must be a duration: {_DURATION_EXAMPLES}")
    duration = int(match[1]) * _MILLISECONDS[match[2]]
    if duration > LONGEST / timedelta(milliseconds=1):
        raise ValueError(f"must be no longer than {LONGEST.days}d")
    return timedelta(milliseconds=duration)


def write_duration(duration: timedelta) -> str:
    """The shortest text that `parse_duration` reads back; finer than a millisecond is cut off.

    >>> write_duration(timedelta(minutes=90)), write_duration(timedelta(days=14))
    ('90m', '14d')
    """
    milliseconds = duration // timedelta(milliseconds=1)
    for unit in ("d", "h", "m", "s"):
        if milliseconds % _MILLISECONDS[unit] == 0 and (milliseconds or unit == "s"):
            return f"{milliseconds // _MILLISECONDS[unit]}{unit}"
    return f"{milliseconds}ms"


def parse_size(text: str) -> int:
    """The bytes that a text such as "4MiB" names; ValueError with a sentence that does not repeat the text.

    >>> parse_size("512KiB")
    524288
    """
    if text.startswith("-"):
        raise ValueError("must not be negative")
    match = _SIZE.fullmatch(text)
    if match is None:
        raise ValueError(f"must be {_SIZE_EXAMPLES}")
    return int(match[1]) * _BYTES[match[2]]
