"""Marks of a message's head: `header:X-Id`, `cookie:sid`, `query:email`. Those of a body are in marks.py."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final, Literal, cast, get_args

from secmiddleware.fields import marks
from secmiddleware.fields.marks import Mark

Part = Literal["header", "cookie", "query"]

_PREFIX: Final = re.compile(r"(" + "|".join(get_args(Part)) + r"):", re.ASCII)
_NAMES: Final = {
    # RFC 9110 §5.6.2, less the underscore: WSGI has one name for X-Id and X_Id.
    "header": re.compile(r"[!#$%&'*+.^`|~0-9A-Za-z-]++"),
    "cookie": re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]++"),  # RFC 6265 §4.1.1
}
_LONGEST_NAME: Final = 200

# What servers, proxies and we ourselves go by: a token in its place would break the message.
_NEVER_MARKED: Final = frozenset(
    {
        *("accept-encoding", "connection", "content-encoding", "content-length", "content-range"),
        *("content-type", "cookie", "date", "etag", "expect", "host", "http2-settings", "if-match"),
        *("if-none-match", "if-range", "keep-alive", "location", "proxy-connection", "range", "set-cookie"),
        *("te", "trailer", "transfer-encoding", "upgrade", "vary"),
        *("sec-websocket-accept", "sec-websocket-extensions", "sec-websocket-key"),
        *("sec-websocket-protocol", "sec-websocket-version"),
    }
)
_INSTEAD: Final = {
    "cookie": "mark the cookie by its name, as in cookie:sid",
    "set-cookie": "mark the cookie by its name, as in cookie:sid",
    "location": "mark the parameter of its query, as in query:email",
}


@dataclass(frozen=True, slots=True)
class HeadMark:
    """The values that one name has in one part of a message's head."""

    part: Part
    name: str
    """Of a header in lower case; of a cookie and a parameter as it is, unescaped."""

    @classmethod
    def parse(cls, text: str) -> HeadMark:
        """The mark that `text` says, as in `header:X-Id`.

        Raises:
            ValueError: it says no such mark, or one that would break the message.
        """
        part, _, name = text.partition(":")
        if not name or len(name) > _LONGEST_NAME:
            raise ValueError(f"{text!r} must have a name of 1 to {_LONGEST_NAME} characters behind the colon")
        if any("\ud800" <= char <= "\udfff" for char in name):
            raise ValueError(f"{text!r} names half a surrogate pair, which is no character")
        if part == "query":
            return cls("query", name)
        if _NAMES[part].fullmatch(name) is None:
            raise ValueError(f"{text!r} is not the name of a {part}: letters, digits and - make one")
        if part == "header":
            name = name.lower()
            if name in _NEVER_MARKED:
                instead = _INSTEAD.get(name, "it must stay readable")
                raise ValueError(f"{text!r} would break messages: {instead}")
        return cls(cast("Part", part), name)

    def __str__(self) -> str:
        """The mark as it is written."""
        return f"{self.part}:{self.name}"


AnyMark = Mark | HeadMark


def read_mark(text: str) -> AnyMark:
    """The mark that a text of the settings says: JSONPath for a body, else a part of the head and a name.

    Raises ValueError, with one sentence that says what is wrong.
    """
    return HeadMark.parse(text) if _PREFIX.match(text) is not None else Mark.parse(text)


def overlaps(first: AnyMark, second: AnyMark) -> bool:
    """Whether both marks may select one value, or one mark a value inside what the other selects."""
    if isinstance(first, Mark) and isinstance(second, Mark):
        return marks.overlaps(first, second)
    return first == second
