"""Where marked values stand in heads, how each part spells a text, and the same head with other texts there.

A value in a head is a text. Sealed, it is the JSON string of that text; a token opens to a JSON value, of
which a string gives its text, null none, and anything else its JSON.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from http.cookies import SimpleCookie
from typing import Final, TypeVar
from urllib.parse import quote_plus

import msgspec

from secmiddleware.fields.bodies import Act
from secmiddleware.fields.head_marks import HeadMark
from secmiddleware.fields.pairs import Unwritable, text_of_json, unescaped
from secmiddleware.fields.values import PlaceRule
from secmiddleware.messages import Headers, Refusal, RequestHead, ResponseHead

_HeadT = TypeVar("_HeadT", RequestHead, ResponseHead)

_COOKIE_OCTETS: Final = re.compile(r"[!#-+\--:<-\[\]-~]*+")
"""RFC 6265 §4.1.1: what a cookie's value may have without quotes."""
_NO_HEADER_TEXT: Final = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]|[^\x00-\xff]")
"""Controls (RFC 9110 §5.5), and what no framework reads back from a header: they all read Latin-1."""
_BLANK: Final = rb"[\x00-\x20\x7f-\xff]"
"""What a framework may take for white space beside a name: Starlette reads Latin-1, Werkzeug UTF-8, and both
strip all that Unicode has of it."""
_LOCATIONS: Final = (b"location", b"content-location")


class _CannotStand(Exception):  # noqa: N818  (does not leave this module)
    """A text that this part of a head cannot carry, or bytes there that are no text."""


@dataclass(frozen=True, slots=True)
class MarkedHead:
    """The marks of one direction that are in heads, each with its place."""

    places: tuple[tuple[PlaceRule, HeadMark], ...]

    @classmethod
    def of(cls, places: Sequence[PlaceRule]) -> MarkedHead | None:
        """What these places mark in heads; None where they mark nothing there."""
        pairs = [(place, mark) for place in places for mark in place.marks if isinstance(mark, HeadMark)]
        return cls(tuple(pairs)) if pairs else None

    def rewrite_request(self, head: RequestHead, act: Act) -> RequestHead | Refusal:
        """The head with each marked value replaced by what `act` makes of it, or the first refusal."""
        for place, mark in self.places:
            # An empty text is what a caller was shown for null.
            empty = b"null" if place.field.otherwise == "null" else b'""'
            write = _Writer(place, str(mark), act, empty)
            try:
                if mark.part == "query":
                    query = _in_query(head.query, mark.name, write)
                    head = head if query == head.query else replace(head, query=query)
                elif mark.part == "header":
                    head = _with_headers(head, _in_header(head.headers, mark.name, write))
                else:
                    head = _with_headers(head, _in_cookies(head.headers, mark.name, write))
            except _CannotStand:
                return Refusal("payload_malformed", str(mark))
            except _Twin:
                return Refusal("header_ambiguous", str(mark))
            except _Refused as refused:
                return refused.refusal
            # A preflight brings none of the headers of the request that it asks for (Fetch §4.8).
            if place.required and not write.written and head.method != "OPTIONS":
                return Refusal("field_missing", str(mark))
        return head

    def rewrite_response(self, head: ResponseHead, act: Act) -> ResponseHead | Refusal:
        """The same for a response: its headers, the cookies that it sets, the queries that it leads to."""
        for place, mark in self.places:
            write = _Writer(place, str(mark), act)
            try:
                match mark.part:
                    case "query":
                        headers = _in_locations(head.headers, mark.name, write)
                    case "header":
                        headers = _in_header(head.headers, mark.name, write)
                    case "cookie":
                        headers = _in_set_cookies(head.headers, mark.name, write)
            except (_CannotStand, _Twin):
                return Refusal("seal_failed", str(mark))
            except _Refused as refused:
                return refused.refusal
            head = _with_headers(head, headers)
        return head


class _Twin(Exception):  # noqa: N818  (does not leave this module)
    """A header that WSGI and CGI cannot tell from the marked one (`X_Id`, `X-Id`), or such a cookie."""


class _Refused(Exception):  # noqa: N818  (does not leave this module)
    """A value that cannot be opened or sealed."""

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(refusal.code)
        self.refusal = refusal


_Write = Callable[[str], str]
"""The text that is to stand in the place of one."""


@dataclass(slots=True)
class _Writer:
    """Gives `act` the text as JSON, and takes what it says as a text."""

    place: PlaceRule
    where: str
    act: Act
    empty: bytes = b'""'
    """The JSON that an empty text stands for."""
    written: bool = False
    """Whether there was a text."""

    def __call__(self, text: str) -> str:
        self.written = True
        value = self.act(self.place, msgspec.json.encode(text) if text else self.empty, self.where)
        if isinstance(value, Refusal):
            raise _Refused(value)
        try:
            return text_of_json(value)
        except Unwritable:
            raise _CannotStand from None


def _with_headers(head: _HeadT, headers: Headers) -> _HeadT:
    return head if headers is head.headers else replace(head, headers=headers)


def _in_header(headers: Headers, name: str, write: _Write) -> Headers:
    wanted = name.encode("ascii")
    if not any(key.replace(b"_", b"-") == wanted for key, _ in headers):
        return headers
    rewritten = []
    for key, value in headers:
        if key == wanted:
            text = write(value.strip(b" \t").decode("latin-1"))
            if _NO_HEADER_TEXT.search(text) is not None:
                raise _CannotStand
            value = text.encode("latin-1")
        elif key.replace(b"_", b"-") == wanted:
            raise _Twin
        rewritten.append((key, value))
    return tuple(rewritten)


def _in_cookies(headers: Headers, name: str, write: _Write) -> Headers:
    wanted = name.encode("ascii")
    if not any(key == b"cookie" and wanted in value for key, value in headers):
        return headers
    rewritten = []
    for key, value in headers:
        if key == b"cookie" and wanted in value:
            pairs = value.split(b";")
            # Where there is one more, some framework takes for the marked cookie what is none here.
            if len(_somehow_named(wanted).findall(value)) != sum(_name_of(pair) == wanted for pair in pairs):
                raise _Twin
            value = b";".join(_cookie(pair, wanted, write) for pair in pairs)
        rewritten.append((key, value))
    return tuple(rewritten)


@lru_cache(maxsize=256)
def _somehow_named(wanted: bytes) -> re.Pattern[bytes]:
    """What any framework may take for the beginning of a cookie of this name.

    Commas part them for some, white space for http.cookies, and Werkzeug takes a name alone for a cookie.
    """
    name = re.escape(wanted) + _BLANK + rb"*+"
    return re.compile(
        rb"(?:^|[,;]|" + _BLANK + rb")" + name + rb"=|(?:^|;)" + _BLANK + rb"*+" + name + rb"(?![^;])"
    )


def _name_of(pair: bytes) -> bytes | None:
    name, equals, _ = pair.partition(b"=")
    return name.strip(b" \t") if equals else None


def _in_set_cookies(headers: Headers, name: str, write: _Write) -> Headers:
    wanted = name.encode("ascii")
    if not any(key == b"set-cookie" and wanted in value for key, value in headers):
        return headers
    rewritten = []
    for key, value in headers:
        if key == b"set-cookie":
            # RFC 6265 §5.2: the pair ends at the first semicolon, be it in quotes.
            pair, semicolon, attributes = value.partition(b";")
            # An empty value is how frameworks take a cookie away: there is nothing to seal in it.
            if pair.partition(b"=")[2].strip(b" \t") not in (b"", b'""'):
                value = _cookie(pair, wanted, write) + semicolon + attributes
        rewritten.append((key, value))
    return tuple(rewritten)


def _cookie(pair: bytes, wanted: bytes, write: _Write) -> bytes:
    """A pair of a cookie's name and value, the value replaced where the name is wanted."""
    if _name_of(pair) != wanted:
        return pair
    name, _, value = pair.partition(b"=")
    value = value.strip(b" \t")
    if value.startswith(b'"') and (len(value) == 1 or not value.endswith(b'"')):
        raise _CannotStand  # to http.cookies it goes on behind the semicolon
    try:
        text, _ = SimpleCookie().value_decode(value.decode("ascii"))
    except UnicodeDecodeError:
        raise _CannotStand from None
    made = write(text)
    if not made.isascii():
        raise _CannotStand  # frameworks read it in three ways
    if _COOKIE_OCTETS.fullmatch(made) is None:
        made = SimpleCookie().value_encode(made)[1]
    return name + b"=" + made.encode("ascii")


def _in_query(query: bytes, name: str, write: _Write) -> bytes:
    """A query in the form of HTML's (WHATWG URL, application/x-www-form-urlencoded)."""
    wanted = name.encode("utf-8")
    if not query:
        return query
    return b"&".join(_parameter(pair, wanted, write) for pair in query.split(b"&"))


def _parameter(pair: bytes, wanted: bytes, write: _Write) -> bytes:
    name, equals, value = pair.partition(b"=")
    if unescaped(name) != wanted:
        return pair
    try:
        text = unescaped(value).decode("utf-8")
    except UnicodeDecodeError:
        raise _CannotStand from None
    return name + (equals or b"=") + quote_plus(write(text)).encode("ascii")


def _in_locations(headers: Headers, name: str, write: _Write) -> Headers:
    rewritten = []
    for key, value in headers:
        if key in _LOCATIONS and b"?" in value:
            before, _, rest = value.partition(b"?")
            query, mark, fragment = rest.partition(b"#")
            value = before + b"?" + _in_query(query, name, write) + mark + fragment
        rewritten.append((key, value))
    return headers if rewritten == list(headers) else tuple(rewritten)
