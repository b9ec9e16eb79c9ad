"""What JOSE texts are made of, read in one way only: JSON objects and base64url."""

from __future__ import annotations

import json
from base64 import urlsafe_b64decode, urlsafe_b64encode
from typing import Any, Final, NoReturn

_DEEPEST: Final = 64
"""Objects and lists inside each other: no token or key in practice comes near."""


def parse_object(data: bytes) -> dict[str, Any]:
    """The JSON object that these bytes are: UTF-8, 64 deep at most, no member twice, finite numbers.

    Raises ValueError. RFC 7515 §4 and RFC 7516 §4 leave it open what becomes of a member that is there twice:
    two readers could see two tokens.
    """
    try:
        value = json.loads(
            data.decode("utf-8"), object_pairs_hook=_unique, parse_constant=_refuse, parse_float=_finite
        )
    except RecursionError:
        raise ValueError("too deep") from None
    if not isinstance(value, dict):
        raise ValueError("not an object")
    if _is_deep(value):
        raise ValueError("too deep")
    return value


def decode_base64url(text: bytes) -> bytes:
    """The bytes that a text without padding stands for, if it is the one text for them; else ValueError."""
    data = urlsafe_b64decode(text + b"=" * (-len(text) % 4))
    if urlsafe_b64encode(data).rstrip(b"=") != text:
        raise ValueError("not the text that an encoder makes")
    return data


def _is_deep(value: dict[str, Any]) -> bool:
    """From Python 3.12 on its parser goes deeper than whoever reads the claims may."""
    level: list[Any] = [value]
    for _ in range(_DEEPEST):
        within = [inner for one in level for inner in (one.values() if isinstance(one, dict) else one)]
        level = [inner for inner in within if isinstance(inner, dict | list)]
        if not level:
            return False
    return True


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise ValueError("a member is there twice")
    return members


def _refuse(_: str) -> NoReturn:
    raise ValueError("not a number")


def _finite(text: str) -> float:
    value = float(text)
    if value in (float("inf"), float("-inf")):
        raise ValueError("too large a number")
    return value
