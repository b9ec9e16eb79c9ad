"""Every token that there could be, every slot that it could be put in, and apps that talk too much.

A token is told apart by what it is bound to (ring, field, purpose, tenant, caller) and by its format. A slot
is a field with one marked place in bodies, and, under a path of its own, with one in each part of a head.
What must become of a token in a slot follows from these words alone.
"""

from __future__ import annotations

import html
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import product
from typing import Any, Final
from urllib.parse import quote_plus, unquote_plus

from secmiddleware.encryption.fernet import FieldFernet
from secmiddleware.encryption.jwe import DirectJwe
from secmiddleware.encryption.keyring import Context, Keyring
from secmiddleware.encryption.suites import SuiteOne, SuiteThree, SuiteTwo
from secmiddleware.messages import Identity

PATH: Final = "/all"
RING: Final = "table"
REVEALED_TO: Final = "spiffe://example.org/ops/*"

IN_TRANSIT: Final = {"request": "decrypt", "response": "encrypt"}
AT_REST: Final = {"request": "encrypt", "response": "decrypt"}
SKIP: Final = {"already_sealed": "skip"}
TAIL: Final = {"otherwise": "mask", "mask_last": 4}


@dataclass(frozen=True)
class Slot:
    """A field, and its places: the member of its name; in a head, the header, cookie and parameter of it."""

    name: str
    place: dict[str, Any]
    field: dict[str, Any]

    @property
    def settings(self) -> dict[str, Any]:
        reveal_to = [REVEALED_TO] if self.place.get("response") == "decrypt" else []
        in_body = {"routes": [PATH], "marks": [f'$["{self.name}"]'], **self.place}
        in_heads = {
            "routes": [self.heads_path],
            "marks": [f"{part}:{self.name}" for part in PARTS],
            **self.place,
        }
        return {"reveal_to": reveal_to, **self.field, "places": [in_body, in_heads]}

    @property
    def heads_path(self) -> str:
        return f"/heads/{self.name}"

    @property
    def formats(self) -> tuple[str, ...]:
        return (self.field.get("format", "aead"), *self.field.get("also_open", ()))

    @property
    def otherwise(self) -> str:
        return self.field.get("otherwise", "token")

    def does(self, way: str) -> str:
        return self.place.get(way, "pass")

    def binding(self, who: Identity) -> tuple[str, str]:
        """The tenant and the caller that a token must be bound to, to open here for somebody."""
        match self.field.get("bind"):
            case "tenant":
                return who.tenant, ""
            case "caller":
                return "", who.name
        return "", ""

    def body(self, literal: str) -> bytes:
        return f'{{"{self.name}": {literal} }}'.encode()


SLOTS: Final = (
    Slot("plain", IN_TRANSIT, {}),
    Slot("kept", IN_TRANSIT | SKIP, {}),
    Slot("branch", IN_TRANSIT, {"bind": "tenant"}),
    Slot("card", IN_TRANSIT, {"bind": "caller", "also_open": ["xaes"], "pad": 32}),
    Slot("old", IN_TRANSIT, {"format": "fernet"}),
    Slot("moving", IN_TRANSIT, {"also_open": ["fernet"]}),
    Slot("sent", IN_TRANSIT, {"format": "jwe", "jwe": {"alg": "dir"}, "bind": "caller"}),
    Slot("inward", {"request": "decrypt"}, {}),
    Slot("new", AT_REST, {}),
    Slot("shown", AT_REST | SKIP, {"rewrap": True}),
    Slot("tail", AT_REST | SKIP, TAIL),
    Slot("nulled", AT_REST | SKIP, {"otherwise": "null", "bind": "tenant"}),
    Slot("held", AT_REST | SKIP, {"otherwise": "refuse"}),
    Slot("mine", AT_REST | SKIP, {"bind": "caller", "format": "xaes"}),
    Slot("same", AT_REST | SKIP, {"bind": "tenant", "format": "deterministic", **TAIL}),
)


@dataclass(frozen=True)
class Part:
    """Where a text stands in a head, for any slot's name: in a request's, and in a response's."""

    asked: str
    """A header, or the query where there is no colon."""
    answered: str
    escape: Callable[[str], str] = str
    unescape: Callable[[str], str] = str

    def in_request(self, slot: Slot, text: str) -> str:
        return self.asked.format(slot.name, self.escape(text))

    def in_response(self, slot: Slot, text: str) -> str:
        return self.answered.format(slot.name, self.escape(text))

    def text_in(self, slot: Slot, head: bytes) -> str:
        """The text that stands in a response's head."""
        before, after = self.answered.format(slot.name, "\n").split("\n")
        (line,) = (line for line in head.decode("latin-1").split("\n") if line.startswith(before))
        return self.unescape(line.removeprefix(before).removesuffix(after))


PARTS: Final = {
    "header": Part("{}: {}", "{}: {}"),
    "cookie": Part("cookie: a=1; {}={}; b=2", "set-cookie: {}={}; Path=/"),
    "query": Part("a=1&{}={}&b=%2f", "location: /next?a=1&{}={}#there", quote_plus, unquote_plus),
}


@dataclass(frozen=True)
class Token:
    """A token, what it is bound to, and the secret in it, which no other token has."""

    ring: str
    field: str
    purpose: str
    binding: tuple[str, str]
    format: str
    secret: str
    text: str

    @property
    def value(self) -> str:
        return f'"{self.secret}-tail"'

    @property
    def plain(self) -> str:
        """The text of its value."""
        return self.value.strip('"')

    @property
    def literal(self) -> str:
        return f'"{self.text}"'

    def opens(self, slot: Slot, who: Identity) -> bool:
        """Whether it opens in this slot for somebody: where it is bound to the very same."""
        bound = (RING, slot.name, "field", slot.binding(who))
        return (self.ring, self.field, self.purpose, self.binding) == bound and self.format in slot.formats

    def is_token_in(self, slot: Slot) -> bool:
        """Whether the slot takes it for a token: what looks like Fernet or JWE may be any text."""
        return self.format not in ("fernet", "jwe") or self.format in slot.formats


def every_token(keyring: Keyring, tenants: tuple[str, str], callers: tuple[str, str]) -> Iterator[Token]:
    """Each ring (of the very same keys), field, purpose, binding and format."""
    bindings = [("", ""), *((tenant, "") for tenant in tenants), *(("", caller) for caller in callers)]
    fields = [slot.name for slot in SLOTS]
    formats = ("aead", "xaes", "deterministic", "fernet", "jwe")
    kinds = product(((RING, "field"), ("other", "field"), (RING, "notice")), fields, bindings, formats)
    for number, ((ring, purpose), field, binding, form) in enumerate(kinds):
        if form == "fernet" and binding != ("", ""):
            continue  # There is no such token.
        secret = f"secret-{number:06d}"
        text = _seal(keyring, ring, Context(field, purpose, *binding, form), f'"{secret}-tail"'.encode())
        yield Token(ring, field, purpose, binding, form, secret, text.decode("ascii"))


def _seal(keyring: Keyring, ring: str, context: Context, value: bytes) -> bytes:
    """The token under the ring's last key, with this name of a ring in it, be it the ring's or not."""
    key = keyring.secret_of(keyring.keys[-1].kid)
    assert key is not None
    secret = key._secret
    match context.format:
        case "aead":
            return SuiteOne(ring, key.kid, secret).seal(value, context.slots, os.urandom(12))
        case "xaes":
            return SuiteTwo(ring, key.kid, secret).seal(value, context.slots, os.urandom(24))
        case "deterministic":
            return SuiteThree(ring, key.kid, secret, context).seal(value, context.slots)
        case "jwe":
            return DirectJwe(ring, key.kid, secret).seal(value, context)
    return FieldFernet(ring, secret, context).seal(value, 1_800_000_000)


@dataclass(frozen=True)
class Answer:
    """What an app says to a request: status, headers and body, made of the body that it was given."""

    status: int
    media_type: str
    body: Callable[[bytes], bytes]
    header: str = ""
    """A header in which it tells the value, too."""
    method: str = "POST"
    """The request's."""


def _only_value(body: bytes) -> Any:
    return next(iter(json.loads(body).values()))


def _text_in(body: bytes) -> bytes:
    return str(_only_value(body)).encode()


ANSWERS: Final = {
    "the same": Answer(200, "application/json", bytes),
    "a copy": Answer(200, "application/json", lambda body: json.dumps({"x": [_only_value(body)]}).encode()),
    "what was wrong with it": Answer(
        422,
        "application/problem+json",
        lambda body: json.dumps({"detail": [{"loc": ["body"], "input": json.loads(body)}]}).encode(),
    ),
    "a traceback": Answer(500, "text/plain", lambda body: f"ValueError: {json.loads(body)!r}".encode()),
    "a page": Answer(200, "text/html", lambda body: f"<p>{html.escape(_only_value(body))}</p>".encode()),
    "a table": Answer(200, "text/csv", lambda body: f'id,value\r\n1,"{_only_value(body)}"\r\n'.encode()),
    "lines": Answer(200, "application/x-ndjson", lambda body: b'{"x": "%s"}\n{}\n' % _text_in(body)),
    "events": Answer(200, "text/event-stream", lambda body: b'data: {"x": "%s"}\n\n' % _text_in(body)),
    "a form": Answer(200, "application/x-www-form-urlencoded", lambda body: b"x=" + _text_in(body)),
    "a head": Answer(200, "application/json", lambda body: b"", "x-value", method="HEAD"),
    "a new place": Answer(303, "application/json", lambda body: b"", "location"),
    "no change": Answer(304, "application/json", lambda body: b"", "etag", method="GET"),
}
"""Of one piece each; records that come later, and values across their edges, are others' business."""
