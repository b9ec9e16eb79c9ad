"""A real key ring, and messages driven through flows as a shell drives them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from secmiddleware.encryption.kek import Kek
from secmiddleware.encryption.keyring import Context, Keyring
from secmiddleware.encryption.manager import EncryptionManager
from secmiddleware.fields.limits import Limits
from secmiddleware.fields.marks import Mark
from secmiddleware.fields.rules import FieldRule, PlaceRule, Plan
from secmiddleware.fields.values import Exchange
from secmiddleware.messages import Body, Head, Identity, Refusal, RequestHead, ResponseHead
from secmiddleware.rotation.stores import MemoryStore

NOW = datetime(2026, 6, 1, 12, tzinfo=UTC)
JSON = ((b"content-type", b"application/json"),)
MAX_BODY = 1 << 20
TOKEN = re.compile(rb'"((?:sm1\.|gAAAA)[A-Za-z0-9_=-]+)"')


def new_ring(name: str = "shop") -> Keyring:
    manager = EncryptionManager(MemoryStore(), Kek(bytes(range(32))), name, clock=lambda: NOW)
    manager.start()
    assert manager.keyring is not None
    return manager.keyring


RING = new_ring()
STRANGE_RING = new_ring()
"""Of the same name, but none of its keys is known to RING."""


def is_no_token(value: object) -> bool:
    """Whether a value may be sealed: hypothesis reads our prefix in the code, and tries it as a text."""
    return not (isinstance(value, str) and value.startswith("sm1."))


def seal(value, field="ssn", ring=RING, **context) -> bytes:
    """A JSON string: the token of a raw JSON value."""
    value = value.encode("utf-8") if isinstance(value, str) else value
    return b'"' + ring.seal(value, Context(field, **context), NOW) + b'"'


def unseal(literal, field="ssn", ring=RING, **context) -> bytes:
    """The raw JSON value of a JSON string that is a token."""
    assert literal[:1] == literal[-1:] == b'"'
    return ring.open(literal[1:-1], Context(field, **context), NOW)


def unsealed(body, field="ssn", **context) -> bytes:
    """The body with every token in it opened, in angle brackets."""
    return TOKEN.sub(lambda found: b"<" + unseal(found[0], field, **context) + b">", body)


def forged(literal) -> bytes:
    """The token with one bit of its tag turned."""
    at = len(literal) - 6
    turned = b"A" if literal[at : at + 1] != b"A" else b"B"
    return literal[:at] + turned + literal[at + 1 :]


def caller(spiffe_id="spiffe://shop.example/web") -> Identity:
    return Identity(
        subject="CN=web",
        issuer="CN=ca",
        serial=1,
        dns=(),
        uris=(spiffe_id,),
        emails=(),
        ips=(),
        spiffe_id=spiffe_id,
        sha256="ab" * 32,
        spki_sha256="cd" * 32,
        not_before=NOW - timedelta(days=1),
        not_after=NOW + timedelta(days=1),
        anchor="ef" * 32,
        source="server",
        der=b"",
    )


def place(
    *marks, request="pass", response="pass", required=False, already_sealed="refuse", name="ssn", **field
) -> PlaceRule:
    marks = tuple(map(Mark.parse, marks))
    return PlaceRule(FieldRule(name, **field), marks, request, response, required, already_sealed)


def exchange(*, ring=RING, identity=None, revealed=(), now=NOW, jwes=None) -> Exchange:
    return Exchange(ring, now, identity, frozenset(revealed), jwes=jwes or {})


@dataclass
class Outcome:
    """What a flow let go, or why it did not."""

    head: RequestHead | ResponseHead | None
    pieces: list[bytes]
    refusal: Refusal | None

    @property
    def body(self) -> bytes:
        assert self.refusal is None, self.refusal
        return b"".join(self.pieces)

    @property
    def headers(self):
        assert self.head is not None, self.refusal
        return self.head.headers

    def values(self, name):
        return [value for key, value in self.headers if key == name]

    @property
    def code(self) -> str | None:
        return None if self.refusal is None else self.refusal.code


def drive(flow, head, chunks, complete=True) -> Outcome:
    """Everything fed as a shell feeds it, and the order of the events held to the protocol."""
    outcome = Outcome(None, [], None)
    ended = False

    def take(events) -> None:
        nonlocal ended
        for event in events:
            assert outcome.refusal is None, "an event after a refusal"
            assert not ended, "an event after the last piece"
            match event:
                case Head():
                    assert outcome.head is None, "a second head"
                    outcome.head = event.head
                case Body():
                    assert outcome.head is not None, "a body before its head"
                    outcome.pieces.append(event.data)
                    ended = not event.more
                case Refusal():
                    assert outcome.head is None or isinstance(head, RequestHead), "a refusal after the head"
                    outcome.refusal = event

    take(flow.start(head))
    for chunk in chunks:
        take(flow.feed(chunk))
    take(flow.finish(complete))
    assert ended or outcome.refusal is not None
    assert flow.load == 0
    return outcome


def request(
    places, *chunks, headers=JSON, within=None, max_body=MAX_BODY, complete=True, length=None, **limits
):
    """What becomes of a request: its Content-Length as it is sent, or `length`; False for none."""
    within = exchange() if within is None else within
    if length is None:
        length = sum(map(len, chunks))
    if length is not False:
        headers = (*headers, (b"content-length", str(length).encode()))
    head = RequestHead("http", "POST", "https", "/customers", headers=tuple(headers))
    return drive(
        Plan.compile(places, Limits(max_body, **limits)).request_flow(within), head, chunks, complete
    )


def response(
    places,
    *chunks,
    headers=JSON,
    status=200,
    method="GET",
    within=None,
    max_body=MAX_BODY,
    complete=True,
    **limits,
):
    """What becomes of a response to a request that has gone through its flow."""
    within = exchange() if within is None else within
    flow = Plan.compile(places, Limits(max_body, **limits)).response_flow(within, method)
    return drive(flow, ResponseHead(status, tuple(headers)), chunks, complete)


def having_opened(places, *values, field="ssn", **arguments) -> Exchange:
    """An exchange whose request has given the app these raw JSON values, as `$.t`, of a field."""
    within = exchange(**arguments)
    for value in values:
        sent = request(places, b'{"t":' + seal(value, field) + b"}", within=within)
        assert sent.refusal is None, sent.refusal
    return within
