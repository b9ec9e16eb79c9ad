"""What happens to one marked value on its way in or out: opened, sealed, kept, masked or refused.

Fields and places are plain data here; settings fill them in. Where the values stand in a body, and the heads
around it, are others' business (json_rewriting, flows).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final, Literal

import msgspec

from secmiddleware.encryption.fernet import ListedFernet
from secmiddleware.encryption.jwe import FieldJwe, kid_of_jwe
from secmiddleware.encryption.keyring import Context, Keyring, KeyState
from secmiddleware.encryption.padding import padded, unpadded
from secmiddleware.encryption.tokens import SUITES, WITHOUT_ASSOCIATED_DATA, Format, format_of, kid_of
from secmiddleware.errors import KeyUnknown, SealError, TokenError
from secmiddleware.fields.head_marks import AnyMark
from secmiddleware.fields.json_reading import UnreadableJSON, check, text_of_string
from secmiddleware.fields.leaks import SHORTEST, Opened
from secmiddleware.fields.masks import MASK, is_mask, mask_of
from secmiddleware.messages import Identity, Refusal, RequestHead

Action = Literal["decrypt", "encrypt", "pass"]
Bind = Literal["none", "tenant", "caller"]
Encoding = Literal["json", "text"]
Otherwise = Literal["token", "mask", "null", "refuse"]
AlreadySealed = Literal["refuse", "skip"]
JweKind = Literal["ring", "files", "caller"]

_NULL: Final = b"null"


@dataclass(frozen=True, slots=True)
class FieldRule:
    """One kind of secret.

    Raises ValueError where tokens of a format could not be bound as `bind` says, or texts would be padded.
    """

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
    mask_last: int = 0
    """How many of a value's last characters its mask shows."""
    pad: int = 0
    """The step, in bytes, to whose multiples values are padded before they are sealed; 0: they are not."""
    rewrap: bool = False
    """Whether tokens that pass through are renewed where an old key sealed them."""
    jwe: JweKind = "ring"
    """Whose keys its JWEs are of: the ring's, those of files, or the caller's, beside files to open with."""

    def __post_init__(self) -> None:
        if self.pad and self.encoding != "json":
            raise ValueError(f"field {self.name!r}: a text may end in spaces, so none can be its padding")
        if self.bind != "none" and not WITHOUT_ASSOCIATED_DATA.isdisjoint(self.formats):
            raise ValueError(f"field {self.name!r}: Fernet tokens cannot be bound to a {self.bind}")

    @property
    def is_for_one_caller(self) -> bool:
        """Whether what one caller receives is of no use to another."""
        return self.bind != "none" or self.jwe == "caller"

    @property
    def formats(self) -> tuple[Format, ...]:
        """The formats of tokens that it opens, its own first."""
        return (self.format, *self.also_open)


@dataclass(frozen=True, slots=True)
class PlaceRule:
    """What happens to the values of some marks, each way.

    Raises ValueError where a caller would receive deterministic tokens (whose are equal, their values are),
    and where values are required of a request that nobody looks at.
    """

    field: FieldRule
    marks: tuple[AnyMark, ...]
    request: Action = "pass"
    response: Action = "pass"
    required: bool = False
    """Whether a request needs a value at each of the marks."""
    already_sealed: AlreadySealed = "refuse"
    """What becomes of a token that stands where a value is to be sealed."""
    websocket: bool = False
    """Whether the messages of websockets are rewritten, too."""

    def __post_init__(self) -> None:
        shown = self.request == "decrypt" or self.response == "encrypt"
        if self.response == "decrypt" and self.field.otherwise == "token":
            shown = True
        if shown and "deterministic" in self.field.formats:
            raise ValueError(f"field {self.field.name!r}: a caller would receive deterministic tokens")
        if self.required and self.request == "pass":
            raise ValueError(f"field {self.field.name!r}: nothing is required of a request that passes")


@dataclass(slots=True)
class Exchange:
    """What the flows of one request share: keys, time, caller, and what was opened for the app."""

    keyring: Keyring | None = field(repr=False)
    now: datetime
    identity: Identity | None
    revealed: frozenset[str] = frozenset()
    """The fields whose plaintext this caller may have in a response."""
    head: RequestHead | None = field(default=None, repr=False)
    """The request's head as it came."""
    opened: Opened = field(default_factory=Opened, repr=False)
    """The leak guard's memory: field and raw JSON value of all that the app was given of guarded fields."""
    jwes: Mapping[str, FieldJwe] = field(default_factory=dict, repr=False)
    """The keys of JWEs that are not the ring's, by field."""
    streaming: bool = False
    """Whether more may be opened while the response is on its way."""
    fresh: Callable[[], tuple[Keyring | None, Mapping[str, FieldJwe], datetime]] | None = field(
        default=None, repr=False
    )
    """What gives the keys and the time of this moment; without it, those of the beginning stay."""

    def renew(self) -> None:
        """Take the keys and the time of this moment: for each event of a stream, anew."""
        if self.fresh is not None:
            self.keyring, self.jwes, self.now = self.fresh()


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
            if _is_stand_in(rule, value):
                raise _CameBack
            return self._sealed(place, value)
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
                return self._sealed(place, value)
            if value == _NULL:
                return value
            content = _content_of_string(value)
            if content is None or _format_of(rule, content) is None:
                return Refusal("seal_failed", where)
            if rule.name in self._exchange.revealed:
                return self._open(rule, content)
            match rule.otherwise:
                case "token":
                    return self._passed(rule, content, value)
                case "mask":
                    return self._masked(rule, content)
                case "null":
                    return _NULL
                case "refuse":
                    return Refusal("identity_not_allowed", where)
        except KeyUnknown:
            return Refusal("key_unknown", where)
        except (_Unbound, _CameBack, _NoText, TokenError, SealError):
            return Refusal("seal_failed", where)

    def _open(self, rule: FieldRule, content: bytes | None) -> bytes:
        """The raw JSON value of what must be a token of the field."""
        if content is None:
            raise TokenError("not a token of this field")
        return _value_of(rule, self._inside(rule, content))

    def _inside(self, rule: FieldRule, token: bytes) -> bytes:
        """What was sealed, without its padding, counted. Formats are opened here and nowhere else."""
        token_format = _format_of(rule, token)
        if token_format is None or token_format not in rule.formats:
            raise TokenError("not a token of this field")
        value = None
        if token_format == "fernet" and rule.listed is not None:  # noqa: S105  (a format)
            value = rule.listed.open(token)
        if value is None:
            context = self._context(rule, token_format)
            if token_format == "jwe" and rule.jwe != "ring":  # noqa: S105  (a format)
                value = self._exchange.jwes[rule.name].open(token, context, self._keyring().ring)
            else:
                value = self._keyring().open(token, context, self._exchange.now)
        self.report.opened += 1
        if token_format in SUITES:
            self.report.kids.add(kid_of(token))
        elif token_format == "jwe" and (kid := kid_of_jwe(token)) is not None:  # noqa: S105  (a format)
            self.report.kids.add(kid)
        return value if rule.encoding == "text" else unpadded(value)

    def _seal(self, rule: FieldRule, value: bytes) -> bytes:
        """The JSON string of a new token, counted. Formats are sealed here and nowhere else."""
        keyring, context = self._keyring(), self._context(rule, rule.format)
        value = padded(value, rule.pad)
        if rule.format == "jwe" and rule.jwe != "ring":
            identity = self._exchange.identity
            if identity is None and rule.jwe == "caller":
                raise _Unbound
            certificate = None if identity is None else identity.der
            token = self._exchange.jwes[rule.name].seal(value, context, keyring.ring, certificate)
        else:
            token = keyring.seal(value, context, self._exchange.now)
            self.report.kids.add(keyring.primary(self._exchange.now).kid)
        self.report.sealed += 1
        return b'"' + token + b'"'

    def _sealed(self, place: PlaceRule, value: bytes) -> bytes:
        """The token of a value; of a token, that token or a newer one, where the place says so."""
        rule = place.field
        content = _content_of_string(value)
        if content is not None and _format_of(rule, content) is not None:
            if place.already_sealed == "refuse":
                raise _CameBack
            held = self._inside(rule, content)
            _value_of(rule, held)
            return self._renewed(rule, held) or value if self._is_renewable(rule, content) else value
        if rule.encoding == "text":
            if content is None:
                raise _NoText
            value = content
        return self._seal(rule, value)

    def _passed(self, rule: FieldRule, token: bytes, value: bytes) -> bytes:
        """A token that is not opened for anybody, or a newer one; `value` is the string that it stands in."""
        try:
            if self._is_renewable(rule, token):
                return self._renewed(rule, self._inside(rule, token)) or value
        except (_Unbound, TokenError):
            pass  # Whether it opens is not what was asked; nobody is shown more by it.
        return value

    def _is_renewable(self, rule: FieldRule, token: bytes) -> bool:
        """Whether the field renews tokens, and a key that seals no more made this one.

        Raises KeyUnknown and TokenError.
        """
        token_format = _format_of(rule, token)
        if not rule.rewrap or token_format is None or rule.jwe != "ring":
            return False
        # What is bound to nothing would be bound to whoever had it pass through here, or the reverse.
        if not WITHOUT_ASSOCIATED_DATA.isdisjoint((token_format, rule.format)):
            return False
        kid = kid_of_jwe(token) if token_format == "jwe" else kid_of(token)  # noqa: S105  (a format)
        try:
            state = self._keyring().state_of(kid or "", self._exchange.now)
        except KeyError:
            return False
        # A key that does not seal yet is newer than the one that would now.
        return state is KeyState.DECRYPT_ONLY

    def _renewed(self, rule: FieldRule, held: bytes) -> bytes | None:
        """A new token, bound as the old one is; None where nothing can be sealed: the old one still opens."""
        try:
            return self._seal(rule, held)
        except SealError:
            return None

    def _masked(self, rule: FieldRule, token: bytes) -> bytes:
        """The mask of what a token holds, which is opened for its last characters only."""
        if not rule.mask_last:
            return MASK
        try:
            return mask_of(self._open(rule, token), rule.mask_last)
        except KeyUnknown:
            raise
        except (_Unbound, TokenError):
            # It may be bound to another caller. A mask that shows nothing is right of every token.
            return MASK

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


def _value_of(rule: FieldRule, held: bytes) -> bytes:
    """The raw JSON value of what a token held. Raises TokenError where there is none.

    Whoever sealed it could have sealed anything: what is not one JSON value would change the body around it.
    """
    if rule.encoding == "text":
        return _string_of(held)
    try:
        is_value = check(held) == 0
    except UnreadableJSON:
        is_value = False
    if not is_value:
        raise TokenError("not a JSON value")
    return held


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
            content = _content_of_string(value)
            return content is not None and is_mask(content.decode("utf-8", "replace"), rule.mask_last)
        case "null":
            return value == _NULL
        case _:
            return False
