"""Entity tags, between the app's and those that callers see (RFC 9110 §8.8.3, §13.1).

What leaves is opaque and says nothing about the app's own. What comes back in a condition is opened again,
in the form that the app gave: it is the app that compares.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from datetime import datetime
from itertools import islice
from typing import Final
from urllib.parse import quote, unquote, urljoin, urlsplit

from secmiddleware.encryption.derivation import lp
from secmiddleware.encryption.keyring import Keyring
from secmiddleware.fields.values import Exchange
from secmiddleware.messages import Headers, ResponseHead, header_values, without_headers

# RFC 9110 §8.8.3: visible signs but quotes, and everything beyond ASCII.
_TAG: Final = re.compile(rb'(?:W/)?"([\x21\x23-\x7e\x80-\xff]*+)"')

_MOST: Final = 100
"""Tags of one condition: each costs 2 µs or more. Of a longer list none is looked at."""

# An entity tag in a form that no response of ours has.
NEVER_MATCHES: Final = b'"secmiddleware-never"'

_CREATED: Final = 201
_CONDITIONS: Final = (b"if-match", b"if-none-match")


@dataclass(frozen=True, slots=True)
class EntityTags:
    """The entity tags of one exchange, both ways: bound to the resource, and to the caller where it matters.

    Without a key ring none leaves, and none that comes matches.
    """

    keyring: Keyring | None = field(repr=False)
    now: datetime
    path: str
    viewer: bytes = b""
    """Whose view of the resource they are of: nothing where all have the same."""
    beside: bool = False
    """Whether the app's own tags are out there, too: only responses to opened values have ours."""

    @classmethod
    def of(cls, exchange: Exchange, *, private: bool, beside: bool = False) -> EntityTags:
        """Those of an exchange; `private`: what a response shows depends on its caller."""
        path = "" if exchange.head is None else exchange.head.path
        viewer = b""
        if private:
            name = "" if exchange.identity is None else exchange.identity.name
            shown = (name, *sorted(exchange.revealed))
            viewer = b"".join(lp(part.encode("utf-8", "surrogatepass")) for part in shown)
        return cls(exchange.keyring, exchange.now, path, viewer, beside)

    def outward(self, head: ResponseHead, headers: Headers, *, weak: bool) -> Headers:
        """A response's headers with its tag as callers see it; without, where it cannot be made.

        `weak`: equal tags of the app do not promise equal bytes (RFC 9110 §8.8.1).
        """
        values = header_values(headers, b"etag")
        if not values:
            return headers
        value = values[0].strip(b" \t")
        sealed = None
        if len(values) == 1 and self.keyring is not None and _TAG.fullmatch(value) is not None:
            sealed = self.keyring.seal_tag(value, self._bound_to(self._resource_of(head)), self.now)
        if sealed is None:
            return without_headers(headers, b"etag")
        mark = b"W/" if weak or value.startswith(b"W/") else b""
        return tuple((name, mark + b'"' + sealed + b'"' if name == b"etag" else v) for name, v in headers)

    def inward(self, headers: Headers) -> Headers:
        """A request's headers, such that the app's own tags stand in its conditions.

        If-None-Match keeps those only that the key has made which seals now: the tokens that the caller has
        kept would not open for ever. If-Match keeps all that can be opened; if there is none, one that
        matches nothing. Both keep `*`. No date is left to ask by: If-Modified-Since knows no keys.

        Beside the app's own tags, ours are opened and all else stays.
        """
        if self.beside:
            return self._inward_beside(headers)
        kept = without_headers(headers, b"if-modified-since")
        none_match, match = header_values(kept, b"if-none-match"), header_values(kept, b"if-match")
        if none_match and not _is_any(none_match):
            tags = [tag for tag, current in self._opened(none_match) if current]
            kept = _replaced(kept, b"if-none-match", b", ".join(tags))
        if match and not _is_any(match):
            tags = [tag for tag, _ in self._opened(match)]
            kept = _replaced(kept, b"if-match", b", ".join(tags) or NEVER_MATCHES)
        return headers if len(kept) == len(headers) and kept == headers else kept

    def _inward_beside(self, headers: Headers) -> Headers:
        values = [value for name, value in headers if name in _CONDITIONS]
        if self.keyring is None or not any(b'"sm' in value for value in values):
            return headers
        keyring, bound, left = self.keyring, self._bound_to(self.path), iter(range(_MOST))

        def opened(tag: re.Match[bytes]) -> bytes:
            found = None if next(left, None) is None else keyring.open_tag(tag[1], bound, self.now)
            return tag[0] if found is None else found[0]

        return tuple((n, _TAG.sub(opened, value) if n in _CONDITIONS else value) for n, value in headers)

    def _opened(self, values: list[bytes]) -> list[tuple[bytes, bool]]:
        if self.keyring is None:
            return []
        found = list(islice(_TAG.finditer(b",".join(values)), _MOST + 1))
        if len(found) > _MOST:
            return []
        bound = self._bound_to(self.path)
        opened = (self.keyring.open_tag(tag[1], bound, self.now) for tag in found)
        return list(dict.fromkeys(one for one in opened if one is not None))

    def _bound_to(self, path: str) -> bytes:
        return lp(path.encode("utf-8", "surrogatepass")) + self.viewer

    def _resource_of(self, head: ResponseHead) -> str:
        """Whose tag it is: RFC 9110 §15.3.2 has a 201 speak of what was created, at its Location."""
        places = header_values(head.headers, b"location")
        if head.status != _CREATED or len(places) != 1:
            return self.path
        try:
            return unquote(urlsplit(urljoin(quote(self.path), places[0].decode("latin-1"))).path)
        except ValueError:
            return self.path


def _is_any(values: list[bytes]) -> bool:
    return all(value.strip(b" \t") == b"*" for value in values)


def _replaced(headers: Headers, name: bytes, value: bytes) -> Headers:
    """The headers with this one value in the place of the first of that name; without, if it is empty."""
    kept: list[tuple[bytes, bytes]] = []
    for pair in headers:
        if pair[0] != name:
            kept.append(pair)
        elif value:
            kept.append((name, value))
            value = b""
    return tuple(kept)
