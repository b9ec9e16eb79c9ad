"""Regular expressions with possessive groups, such as `(?:ab|c)*+`, right on every Python from 3.11 on.

Up to 3.11.4 such a group keeps what its last, failing turn has eaten (python/cpython#106052). There each is
made an atomic group, which means the same and remembers every turn until its end.
"""

from __future__ import annotations

import re
from typing import AnyStr, Final

_IS_RIGHT: Final = re.match(r"(?:ab?c)*+a", "aca") is not None

_POSSESSIVE: Final = re.compile(r"([*+?]|\{[0-9]*,?[0-9]*\})\+")
_CLASS: Final = re.compile(r"\[\^?\]?(?:[^\]\\]|\\.)*\]", re.DOTALL)


def compiled(pattern: AnyStr, flags: int | re.RegexFlag = 0) -> re.Pattern[AnyStr]:
    """The pattern, compiled; for all that have a possessive group."""
    return re.compile(pattern if _IS_RIGHT else atomic(pattern), flags)


def atomic(pattern: AnyStr) -> AnyStr:
    """The same pattern with atomic groups in the place of possessive ones."""
    if isinstance(pattern, bytes):
        return _atomic(pattern.decode("latin-1")).encode("latin-1")
    return _atomic(pattern)


def _atomic(pattern: str) -> str:
    parts: list[str] = []
    groups: list[int] = []
    at = 0
    while at < len(pattern):
        match pattern[at]:
            case "\\":
                part = pattern[at : at + 2]
            case "[" if (found := _CLASS.match(pattern, at)) is not None:
                part = found[0]
            case "(":
                part = "("
                groups.append(len(parts))
            case ")":
                part = ")"
                begun = groups.pop()
                if (quantifier := _POSSESSIVE.match(pattern, at + 1)) is not None:
                    parts[begun] = "(?>" + parts[begun]
                    part = f"){quantifier[1]})"
                    at = quantifier.end() - 1
            case part:
                pass
        parts.append(part)
        at += 1 if part.startswith(")") else len(part)
    return "".join(parts)
