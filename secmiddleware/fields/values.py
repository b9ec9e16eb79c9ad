"""What happens to one marked value on its way in or out: opened, sealed, kept, masked or refused.

Fields and places are plain data here; settings fill them in. Where the values stand in a body, and the heads
around it, are others' business (json_rewriting, flows).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import Final, Literal

import msgspec

from secmiddleware.encryption.fernet import ListedFernet
from secmiddleware.encryption.jwe import FieldJwe, kid_of_jwe
from secmiddleware.encryption.keyring import Context, Keyring
from secmiddleware.encryption.tokens import SUITES, WITHOUT_ASSOCIATED_DATA, Format, format_of, kid_of
from secmiddleware.errors import KeyUnknown, SealError, TokenError
from secmiddleware.fields.head_marks import AnyMark
from secmiddleware.fields.json_reading import UnreadableJSON, check, text_of_string
from secmiddleware.fields.leaks import SHORTEST
from secmiddleware.messages import Identity, Refusal

Action = Literal["decrypt", "encrypt", "pass"]
Bind = Literal["none", "tenant", "caller"]
Encoding = Literal["json", "text"]
Otherwise = Literal["token", "mask", "null", "refuse"]

MASK: Final = "***"
_MASK_JSON: Final = b'"***"'
_NULL: Final = b"null"


@dataclass(frozen=True, slots=True)
class FieldRule:
    """One kind of secret. Raises ValueError where tokens of a format could not be bound as `bind` says."""

    name: str
    format: Format = "aead"
    bind: Bind = "none"
    otherwise: Otherwise = "token"
    leak_guard: bool = True
    also_open: tuple[Format, ...] = ()
    listed: ListedFernet | None = field(default=None, repr=False)
    """Fernet keys from elsewhere, whose tokens it opens too where it opens Fernet at all."""
    encoding: Encoding = "json"
    """What stands inside its tokens: raw JSON, or the text of a JSON string."""
    jwe: FieldJwe | None = field(default=None, repr=False)
    """Whose keys its JWEs are of, where they are not the ring's."""

    def __post_init__(self) -> None:
        if self.bind != "none" and not WITHOUT_ASSOCIATED_DATA.isdisjoint(self.formats):
            raise ValueError(f"field {self.name!r}: Fernet tokens cannot be bound to a {self.bind}")

    @property
    def is_for_one_caller(self) -> bool:
        """Whether what one caller receives is of no use to another."""
        return self.bind != "none" or (self.jwe is not None and self.jwe.to_caller)

    @property
    def formats(self) -> tuple[Format, ...]:
        """The formats of tokens that it opens, its own first."""
        return (self.format, *self.also_open)


@dataclass(frozen=True, slots=True)
class PlaceRule:
    """What happens to the values of some marks, each way.

    Raises ValueError where a caller would receive deterministic tokens: whose are equal, their values are.
    """

    field: FieldRule
    marks: tuple[AnyMark, ...]
    request: Action = "pass"
    response: Action = "pass"

    def __post_init__(self) -> None:
        shown = self.request == "decrypt" or self.response == "encrypt"
        if self.response == "decrypt" and self.field.otherwise == "token":
            shown = True
        if shown and "deterministic" in self.field.formats:
            raise ValueError(f"field {self.field.name!r}: a caller would receive deterministic tokens")


@dataclass(slots=True)
class Exchange:
    """What the flows of one request share: keys, time, caller, and what was opened for the app."""

    keyring: Keyring | None = field(repr=False)
    now: datetime
    identity: Identity | None
    revealed: frozenset[str] = frozenset()
    """The fields whose plaintext this caller may have in a response."""
    opened: list[tuple[str, bytes]] = field(default_factory=list, repr=False)
    """The leak guard's memory: field and raw JSON value of all that the app was given of guarded fields."""


@dataclass(slots=True)
class Report:
    """What a flow did, for telemetry: counts and key ids, never a value."""

    opened: int = 0
    sealed: int = 0
    kids: set[str] = field(default_factory=set)


class ValueWork:
    """Does to marked values of one exchange what their place says, and counts it."""

    __slots__ = ("_contexts", "_exchange", "report")

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange
        self._contexts: dict[tuple[str, Format], Context] = {}
        self.report = Report()

    def on_request(self, place: PlaceRule, value: bytes, where: str) -> bytes | Refusal:
        """The raw JSON value that the app gets instead of `value`; `where` is the mark, for a refusal."""
        rule = place.field
        try:
            if place.request == "decrypt":
                opened = self._open(rule, _content_of_string(value))
                if rule.leak_guard and len(opened) >= SHORTEST:
                    self._exchange.opened.append((rule.name, opened))
                return opened
            return self._seal_unless_token(rule, value, came_back=_is_stand_in(rule, value))
        except _Unbound:
            return Refusal("certificate_missing", where)
        except _CameBack:
            return Refusal("field_missing", where)
        except _NoText:
            return Refusal("payload_malformed", where)
        except KeyUnknown:
            return Refusal("key_unknown", where)
        except TokenError:
            return Refusal("field_undecryptable", where)
        except SealError:
            return Refusal("seal_failed", where)

    def on_response(self, place: PlaceRule, value: bytes, where: str) -> bytes | Refusal:
        """The raw JSON value that the caller gets instead of `value`; `where` is the mark, for a refusal."""
        rule = place.field
        try:
            if place.response == "encrypt":
                return self._seal_unless_token(rule, value, came_back=False)
            if value == _NULL:
                return value
            content = _content_of_string(value)
            if content is None or _format_of(rule, content) is None:
                return Refusal("seal_failed", where)
            if rule.name in self._exchange.revealed:
                return self._open(rule, content)
        except KeyUnknown:
            return Refusal("key_unknown", where)
        except (_Unbound, _NoText, TokenError, SealError):
            return Refusal("seal_failed", where)
        match rule.otherwise:
            case "token":
                return value
            case "mask":
                return _MASK_JSON
            case "null":
                return _NULL
            case "refuse":
                return Refusal("identity_not_allowed", where)

    def _open(self, rule: FieldRule, content: bytes | None) -> bytes:
        token_format = None if content is None else _format_of(rule, content)
        if content is None or token_format is None or token_format not in rule.formats:
            raise TokenError("not a token of this field")
        value = self._value_in(rule, content, token_format)
        if rule.encoding == "text":
            return _string_of(value)
        # Whoever sealed it could have sealed anything: what is not one JSON value would change the body
        # around it.
        try:
            is_value = check(value) == 0
        except UnreadableJSON:
            is_value = False
        if not is_value:
            raise TokenError("not a JSON value")
        return value

    def _value_in(self, rule: FieldRule, token: bytes, token_format: Format) -> bytes:
        """What a token holds, counted."""
        value = None
        if token_format == "fernet" and rule.listed is not None:  # noqa: S105  (a format)
            value = rule.listed.open(token)
        if value is None:
            context = self._context(rule, token_format)
            if token_format == "jwe" and rule.jwe is not None:  # noqa: S105  (a format)
                value = rule.jwe.open(token, context, self._keyring().ring)
            else:
                value = self._keyring().open(token, context, self._exchange.now)
        self.report.opened += 1
        if token_format in SUITES:
            self.report.kids.add(kid_of(token))
        elif token_format == "jwe" and (kid := kid_of_jwe(token)) is not None:  # noqa: S105  (a format)
            self.report.kids.add(kid)
        return value

    def _sealed(self, rule: FieldRule, value: bytes) -> bytes:
        """The token of a value, counted."""
        keyring, context = self._keyring(), self._context(rule, rule.format)
        if rule.format == "jwe" and rule.jwe is not None:
            identity = self._exchange.identity
            if identity is None and rule.jwe.to_caller:
                raise _Unbound
            token = rule.jwe.seal(value, context, keyring.ring, None if identity is None else identity.der)
        else:
            token = keyring.seal(value, context, self._exchange.now)
            self.report.kids.add(keyring.primary(self._exchange.now).kid)
        self.report.sealed += 1
        return token

    def _seal_unless_token(self, rule: FieldRule, value: bytes, *, came_back: bool) -> bytes:
        if came_back:
            raise _CameBack
        content = _content_of_string(value)
        if content is not None and _format_of(rule, content) is not None:
            self._open(rule, content)
            return value
        if rule.encoding == "text":
            if content is None:
                raise _NoText
            value = content
        return b'"' + self._sealed(rule, value) + b'"'

    def _keyring(self) -> Keyring:
        if self._exchange.keyring is None:
            raise KeyUnknown("no key ring has been read yet")
        return self._exchange.keyring

    def _context(self, rule: FieldRule, token_format: Format) -> Context:
        context = self._contexts.get((rule.name, token_format))
        if context is None:
            identity = self._exchange.identity
            if rule.bind == "none":
                context = Context(rule.name, format=token_format)
            elif identity is None:
                raise _Unbound
            elif rule.bind == "tenant":
                context = Context(rule.name, tenant=identity.tenant, format=token_format)
            else:
                context = Context(rule.name, caller=identity.name, format=token_format)
            self._contexts[rule.name, token_format] = context
        return context


class _Unbound(Exception):  # noqa: N818  (does not leave this module)
    """A bound field, and nobody that it could be bound to."""


class _CameBack(Exception):  # noqa: N818  (does not leave this module)
    """What a response showed in place of a value has come back as one."""


class _NoText(Exception):  # noqa: N818  (does not leave this module)
    """A value that is no string, or half a surrogate pair in one, where only texts are sealed."""


def _content_of_string(value: bytes) -> bytes | None:
    if not value.startswith(b'"'):
        return None
    if b"\\" not in value:
        return value[1:-1]
    text = text_of_string(value)  # Some writers escape the = of a token.
    return None if text is None else text.encode("utf-8")


def _string_of(text: bytes) -> bytes:
    """The JSON string of a text. Raises TokenError for what is not UTF-8."""
    try:
        return msgspec.json.encode(text.decode("utf-8"))
    except UnicodeDecodeError:
        raise TokenError("not a text") from None


def _format_of(rule: FieldRule, content: bytes) -> Format | None:
    # Our own prefix is a token to every field, be it one that the field does not open: it is never sealed
    # again. What looks like Fernet or JWE may be any text where none is due.
    found = format_of(content)
    return found if found in SUITES or found in rule.formats else None


def _is_stand_in(rule: FieldRule, value: bytes) -> bool:
    match rule.otherwise:
        case "mask":
            return _content_of_string(value) == MASK.encode("ascii")
        case "null":
            return value == _NULL
        case _:
            return False
