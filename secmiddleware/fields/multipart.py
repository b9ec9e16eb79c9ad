"""Forms in multipart/form-data (RFC 7578): where the marked values of one stand.

A form is read only if werkzeug, Django and python-multipart (Starlette's) see the same in it. What they
differ on (a boundary inside of a line, headers that are folded or doubled, backslashes in names) is not read
at all: whoever sends it means to be read in two ways, or could be.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from secmiddleware.fields.json_reading import UnreadableJSON
from secmiddleware.fields.json_rewriting import Hit
from secmiddleware.fields.media_types import is_plain_text, read_media_type, says_json
from secmiddleware.fields.pairs import (
    MAX_PAIRS,
    PairMarks,
    Selection,
    Spot,
    TooManyPairs,
    UnreadableForm,
    json_of_text,
    text_of_json,
)

_CRLF: Final = b"\r\n"
_BLANK: Final = b"\r\n\r\n"

# Django's own limit; so much for a name and a filename that are spelled in escapes.
_MOST_HEADER_BYTES: Final = 1024

# No control character: a lone CR or LF is a line's end to some. Bytes above ASCII are UTF-8, looked at below.
_HEADER: Final = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]++):[ \t]*+([^\x00-\x08\x0a-\x1f\x7f]*+)")
_FORM_DATA: Final = re.compile(rb"form-data", re.IGNORECASE)
# In quotes without a backslash, which some undo and some do not; browsers write %22. RFC 5987 for filename*.
_PARAMETER: Final = re.compile(
    rb"[ \t]*+;[ \t]*+(?:(name|filename)=(?:\"([^\"\\]*+)\"|([!#$&'+.^_`|~0-9A-Za-z-]++))"
    rb"|(filename\*)=([Uu][Tt][Ff]-8'[A-Za-z0-9-]*+'[!#$%&+.^_`|~0-9A-Za-z-]*+))"
)
_SAME_BYTES: Final = (b"", b"7bit", b"8bit", b"binary")
"""Transfer encodings that are none."""


@dataclass(frozen=True, slots=True)
class _Text:
    """A text as a part has it: UTF-8."""

    def read(self, written: bytes) -> bytes:
        return json_of_text(written)

    def write(self, value: bytes) -> bytes:
        return text_of_json(value).encode("utf-8")


@dataclass(frozen=True, slots=True)
class _Json:
    """A JSON value as it is."""

    def read(self, written: bytes) -> bytes:
        return written

    def write(self, value: bytes) -> bytes:
        return value


_TEXT: Final = _Text()
_JSON: Final = _Json()


@dataclass(frozen=True, slots=True)
class _Part:
    """What the headers of a part say, and where its content is."""

    name: str
    is_file: bool
    content_type: bytes | None
    transfer_encoding: bytes
    start: int
    end: int


def locate(body: bytes, boundary: bytes, marks: PairMarks) -> list[Spot]:
    """Every marked value, in order.

    Raises:
        UnreadableForm: it cannot be read in one way only, or a part with a mark is a file, or of a type or
            encoding that is not read.
        TooManyPairs: it has more than MAX_PAIRS parts.
    """
    spots: list[Spot] = []
    counts: Counter[str] = Counter()
    parts = [_part(body, start, end) for start, end in _encapsulated(body, b"--" + boundary)]
    of_each = Counter(part.name for part in parts)
    texts = {part.name for part in parts if not part.is_file}
    for part in parts:
        selection = marks.selection(part.name)
        if selection is not None:
            nth, sole, among_texts = counts[part.name], of_each[part.name] == 1, part.name in texts
            spots += _in_part(body, part, selection, nth, sole=sole, among_texts=among_texts)
            counts[part.name] += 1
    return spots


def _in_part(
    body: bytes, part: _Part, selection: Selection, nth: int, *, sole: bool, among_texts: bool
) -> Iterator[Spot]:
    encoded = part.transfer_encoding not in _SAME_BYTES
    mark = selection.of_file(nth, among_texts=among_texts) if part.is_file else selection.of_text(nth)
    if part.content_type is not None and says_json(part.content_type):
        is_read = read_media_type(part.content_type).kind == "json"
        if not is_read or encoded:
            raise UnreadableForm(mark)
        hits = _in_json(body, part, selection, nth, sole=sole)
        if part.is_file and (mark is not None or hits):
            # Browsers give a filename to every blob: an app may read it as it reads the part without one.
            raise UnreadableForm(hits[0].mark if mark is None else mark)
        for hit in hits:
            yield Spot(hit.start, hit.end, hit.mark, _JSON)
    elif mark is not None:
        is_text = part.content_type is None or is_plain_text(part.content_type)
        if part.is_file or not is_text or encoded:
            raise UnreadableForm(mark)
        yield Spot(part.start, part.end, mark, _TEXT)
    elif (hidden := selection.hidden_in(body[part.start : part.end], encoded=encoded)) is not None:
        raise UnreadableForm(hidden)


def _in_json(body: bytes, part: _Part, selection: Selection, nth: int, *, sole: bool) -> list[Hit]:
    try:
        return selection.in_json(body[part.start : part.end], part.start, nth, sole=sole)
    except UnreadableJSON:
        raise UnreadableForm(selection.of_text(nth)) from None


def _encapsulated(body: bytes, delimiter: bytes) -> Iterator[tuple[int, int]]:
    """Where each part begins, headers included, and ends; what stands round them is looked at, too.

    Wherever the delimiter is found it must be one: on a line of its own, without padding (RFC 2046 §5.1.1
    has a receiver heed it even then).
    """
    at = body.find(delimiter)
    # To Django a preamble and an epilogue with a blank line in them are parts.
    if at < 0 or (at and body[at - 2 : at] != _CRLF) or _BLANK in body[:at]:
        raise UnreadableForm
    for _ in range(MAX_PAIRS + 1):
        behind = at + len(delimiter)
        if body.startswith(b"--", behind):
            epilogue = body[behind + 2 :]
            if (epilogue and not epilogue.startswith(_CRLF)) or _BLANK in epilogue or delimiter in epilogue:
                raise UnreadableForm
            return
        at = body.find(delimiter, behind)
        if not body.startswith(_CRLF, behind) or at < 0 or body[at - 2 : at] != _CRLF:
            raise UnreadableForm
        yield behind + 2, at - 2
    raise TooManyPairs


def _part(body: bytes, start: int, end: int) -> _Part:
    blank = body.find(_BLANK, start, min(end, start + _MOST_HEADER_BYTES))
    if blank < 0:
        raise UnreadableForm
    headers: dict[bytes, bytes] = {}
    for line in body[start:blank].split(_CRLF):
        header = _HEADER.fullmatch(line)
        if header is None:
            raise UnreadableForm
        name = header[1].lower()
        if name in headers:
            raise UnreadableForm
        headers[name] = header[2].rstrip(b" \t")
    name, is_file = _disposition(headers.get(b"content-disposition", b""))
    return _Part(
        name,
        is_file,
        headers.get(b"content-type"),
        headers.get(b"content-transfer-encoding", b"").lower(),
        blank + len(_BLANK),
        end,
    )


def _disposition(value: bytes) -> tuple[str, bool]:
    """The name of a part, and whether it is a file."""
    kind = _FORM_DATA.match(value)
    if kind is None:
        raise UnreadableForm
    position = kind.end()
    said: dict[bytes, bytes] = {}
    while position < len(value):
        parameter = _PARAMETER.match(value, position)
        if parameter is None:
            raise UnreadableForm
        plain, quoted, token, extended, encoded = parameter.groups()
        key, text = (
            (extended, encoded) if extended is not None else (plain, quoted if token is None else token)
        )
        if key in said:
            raise UnreadableForm
        said[key] = text
        position = parameter.end()
    try:
        name = said[b"name"].decode("utf-8")
    except (KeyError, UnicodeDecodeError):
        raise UnreadableForm from None
    # Django takes blanks from both ends of a name, and werkzeug a %22 for the quote that browsers mean by it.
    if name != name.strip() or "%22" in name:
        raise UnreadableForm
    return name, b"filename" in said or b"filename*" in said
