"""The leak guard: whether a value that was opened in an exchange leaves it outside a mark.

An app can echo what it was given: a validation error that quotes its input would hand a caller the plaintext
of another's token. What is looked for is each opened value in the spellings that web apps produce; a value
that an app encodes otherwise (base64, another character set) or changes is not found.
"""

from __future__ import annotations

import html
import json
import re
from collections.abc import Iterable, Iterator
from typing import Final
from urllib.parse import quote, quote_plus

from secmiddleware.fields.json_reading import SCALAR, STRING, WS, text_of_string
from secmiddleware.messages import Headers

SHORTEST: Final = 6
"""Bytes of the shortest value that is looked for: a shorter one would be found by accident."""

# Up to here each needle is searched for by itself, at a gigabyte a second or more; beyond, the text is read
# once, at about 0.1 µs a byte, for all of them.
_FEW: Final = 64

_SCALARS: Final = re.compile(rb"(" + STRING + rb")(" + WS + rb":)?|(" + SCALAR + rb")", re.DOTALL)
_BETWEEN: Final = b"\x00"


class LeakGuard:
    """Looks for opened values in what is about to leave."""

    __slots__ = ("_needles", "_prefixes")

    def __init__(self, opened: Iterable[tuple[str, bytes]]) -> None:
        """`opened`: a field's name and the raw JSON value, for each value that the app was given."""
        self._needles: dict[bytes, str] = {}
        for field, value in dict.fromkeys(opened):
            for needle in _spellings_within(value):
                self._needles.setdefault(needle, field)
        self._prefixes: dict[bytes, list[bytes]] = {}
        if len(self._needles) > _FEW:
            for needle in self._needles:
                self._prefixes.setdefault(needle[:SHORTEST], []).append(needle)

    def found_in_headers(self, headers: Headers) -> str | None:
        """The field that a header's value holds a value of; None where none does."""
        return self._found(_BETWEEN.join(value for _, value in headers))

    def found_in_body(self, pieces: Iterable[bytes]) -> str | None:
        """The field that one of the pieces holds a value of; None where none does."""
        # A NUL cannot be in JSON text, nor in a needle that is not found as its escape too: no needle
        # straddles.
        return self._found(_BETWEEN.join(pieces))

    def _found(self, text: bytes) -> str | None:
        if not self._prefixes:
            return next((field for needle, field in self._needles.items() if needle in text), None)
        prefixes = self._prefixes
        for at in range(len(text) - SHORTEST + 1):
            for needle in prefixes.get(text[at : at + SHORTEST], ()):
                if text.startswith(needle, at):
                    return self._needles[needle]
        return None


def _spellings_within(value: bytes) -> Iterator[bytes]:
    """Every scalar of a JSON value that is long enough, in every spelling. Names of members are no secret."""
    for found in _SCALARS.finditer(value):
        literal, colon, number = found.groups()
        if number is not None:
            yield from _long_enough(number, _as_python_writes(number))
        elif colon is None:
            text = text_of_string(literal)
            if text is None:
                yield from _long_enough(literal[1:-1])
            elif len(text.encode("utf-8")) >= SHORTEST:
                yield literal[1:-1]
                yield from _spellings(text)


def _long_enough(*spellings: bytes) -> Iterator[bytes]:
    return (spelling for spelling in spellings if len(spelling) >= SHORTEST)


def _as_python_writes(number: bytes) -> bytes:
    # An app that reads 1234567.10 writes 1234567.1.
    return repr(float(number)).encode("ascii") if b"." in number or b"e" in number.lower() else number


def _spellings(text: str) -> Iterator[bytes]:
    as_is = text.encode("utf-8")
    yield as_is
    in_ascii = json.dumps(text).encode("ascii")[1:-1]
    in_utf_8 = json.dumps(text, ensure_ascii=False).encode("utf-8")[1:-1]
    for escaped in (in_ascii, in_utf_8):
        yield escaped
        yield escaped.replace(b"/", b"\\/")  # PHP
    yield re.sub(rb"\\u....", lambda found: b"\\u" + found[0][2:].upper(), in_ascii)  # .NET
    percent = quote(text, safe="").encode("ascii")
    yield percent
    yield re.sub(rb"%..", lambda found: found[0].lower(), percent)
    yield quote(text).encode("ascii")
    yield quote_plus(text).encode("ascii")
    in_html = html.escape(text)
    yield in_html.encode("utf-8")
    yield in_html.replace("&#x27;", "&#39;").replace("&quot;", "&#34;").encode("utf-8")  # MarkupSafe
