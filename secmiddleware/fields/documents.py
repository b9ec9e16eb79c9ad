"""A field's values outside of any exchange: in scripts, workers and files, for whoever holds the key ring.

What values.py does for callers is done here by hand: nobody is identified, and whose the values are is given.
`EncryptionManager.seal_json` and `open_json` are this, and so is `secmiddleware fields`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Final, Literal

import msgspec

from secmiddleware.encryption.padding import unpadded
from secmiddleware.encryption.tokens import SUITES, Format, does_not_open, format_of
from secmiddleware.errors import DocumentError, TokenError
from secmiddleware.fields.json_reading import UnreadableJSON, check, text_of_string
from secmiddleware.fields.json_rewriting import MAX_HITS, Locator, TooManyHits, splice
from secmiddleware.fields.marks import Mark

if TYPE_CHECKING:
    from secmiddleware.encryption.fernet import ListedFernet
    from secmiddleware.encryption.manager import EncryptionManager

_NULL: Final = b"null"
_SPACE: Final = b" \t\r\n"


@dataclass(slots=True)
class Count:
    """What became of the values that went through a hand."""

    changed: int = 0
    kept: int = 0
    """Tokens that were already what was wanted, and null where a token would be opened."""


class Hand:
    """Seals, opens and rewraps the values of one field that belong to one tenant or caller."""

    def __init__(
        self,
        ring: EncryptionManager,
        field: str,
        *,
        tenant: str = "",
        caller: str = "",
        pad: int = 0,
        format: Format = "aead",  # noqa: A002  (as in the file)
        also_open: Iterable[Format] = (),
        encoding: Literal["json", "text"] = "json",
        listed: ListedFernet | None = None,
        recover: bool = False,
    ) -> None:
        """Touches nothing yet.

        Args:
            ring: started; where it opens only, it need not have reserved uses.
            field: the field's name, and then as its settings say.
            tenant: whose the values are, where the field is bound to tenants.
            caller: whose they are, where it is bound to callers.
            pad: the step to whose multiples JSON values are padded.
            format: of the tokens that are made.
            also_open: formats that are opened too.
            encoding: what stands inside the tokens.
            listed: opens Fernet tokens from elsewhere, where Fernet is opened at all.
            recover: rewraps tokens of distrusted and retired keys too.

        Raises:
            ValueError: texts would be padded.
        """
        if pad and encoding == "text":
            raise ValueError("a text may end in spaces, so none can be its padding")
        self.count = Count()
        self._ring = ring
        self._field = field
        self._tenant = tenant
        self._caller = caller
        self._pad = pad
        self._format: Format = format
        self._formats = frozenset((format, *also_open))
        self._text = encoding == "text"
        self._listed = listed
        self._recover = recover

    def seal(self, value: bytes) -> bytes:
        """The token of a raw JSON value; a token of the field that opens comes back as it is.

        Raises:
            DocumentError: it is not a JSON value, or no text where tokens hold texts.
            TokenError, KeyUnknown: it has the form of a token and does not open.
            SealError: it cannot be sealed now.
        """
        value = _json_value(value)
        content = _content(value)
        if content is not None and self._format_of(content) is not None:
            self._value_in(content)
            self.count.kept += 1
            return content
        if self._text:
            if content is None:
                raise DocumentError('encoding is "text" here: only a string can be sealed')
            value = content
        token = self._ring.seal(
            self._field, value, tenant=self._tenant, caller=self._caller, pad=self._pad, format=self._format
        )
        self.count.changed += 1
        return token.encode("ascii")

    def open(self, token: bytes) -> bytes:
        """What was sealed: the raw JSON value, or the text where tokens hold texts.

        Raises:
            KeyUnknown, TokenError: it does not open here; why, is not told.
        """
        value = self._value_in(token)
        self.count.changed += 1
        return value

    def rewrap(self, token: bytes) -> bytes:
        """A token in the field's own format, under the key that seals now; one that is so comes back.

        Raises:
            KeyUnknown, TokenError: it does not open here; why, is not told.
            SealError: it cannot be sealed now.
        """
        found = self._opening_format(token)
        value = self._listed.open(token) if found == "fernet" and self._listed is not None else None
        whose = {"tenant": self._tenant, "caller": self._caller}
        if value is not None:
            renewed = self._ring.seal(self._field, value, **whose, pad=self._pad, format=self._format)
        else:
            renewed = self._ring.rewrap(
                self._field,
                token,
                **whose,
                pad=self._pad,
                format=found,
                to=self._format,
                recover=self._recover,
            )
        fresh = renewed.encode("ascii")
        if fresh == token:
            self.count.kept += 1
        else:
            self.count.changed += 1
        return fresh

    def seal_json(self, body: bytes, marks: Iterable[str]) -> bytes:
        """A JSON document with tokens at the marks. Raises as `seal`, and ValueError for what is no mark."""
        return self._rewritten(body, marks, lambda value: b'"' + self.seal(value) + b'"')

    def open_json(self, body: bytes, marks: Iterable[str]) -> bytes:
        """A JSON document with values at the marks; null stays. Raises as `open`, and ValueError."""
        return self._rewritten(body, marks, self._opened)

    def rewrap_json(self, body: bytes, marks: Iterable[str]) -> bytes:
        """A JSON document with renewed tokens at the marks; null stays. Raises as `rewrap`, or ValueError."""
        return self._rewritten(body, marks, self._renewed)

    def _rewritten(self, body: bytes, marks: Iterable[str], change: Callable[[bytes], bytes]) -> bytes:
        marked, locator = _locator(tuple(marks))
        try:
            hits = locator.locate(body)
        except UnreadableJSON:
            raise DocumentError("not JSON in UTF-8, or too deep") from None
        except TooManyHits:
            raise DocumentError(f"more than {MAX_HITS} values at the marks: give them as NDJSON") from None
        values = []
        for hit in hits:
            try:
                values.append(change(body[hit.start : hit.end]))
            except (TokenError, DocumentError) as error:
                raise type(error)(f"{marked[hit.mark]}: {error}") from None
        return splice(body, hits, values) if hits else body

    def _opened(self, value: bytes) -> bytes:
        if value == _NULL:
            self.count.kept += 1
            return value
        opened = self.open(_token_in(value))
        if self._text:
            try:
                return msgspec.json.encode(opened.decode("utf-8"))
            except UnicodeDecodeError:
                raise does_not_open() from None
        # Whoever sealed it could have sealed anything: what is not one JSON value would change the document
        # around it.
        try:
            if check(opened) == 0:
                return opened
        except UnreadableJSON:
            pass
        raise does_not_open()

    def _renewed(self, value: bytes) -> bytes:
        if value == _NULL:
            self.count.kept += 1
            return value
        return b'"' + self.rewrap(_token_in(value)) + b'"'

    def _value_in(self, token: bytes) -> bytes:
        found = self._opening_format(token)
        value = self._listed.open(token) if found == "fernet" and self._listed is not None else None
        if value is None:
            whose = {"tenant": self._tenant, "caller": self._caller}
            value = self._ring.open(self._field, token, **whose, format=found)
        return value if self._text else unpadded(value)

    def _opening_format(self, token: bytes) -> Format:
        found = self._format_of(token)
        if found is None or found not in self._formats:
            raise does_not_open()
        return found

    def _format_of(self, content: bytes) -> Format | None:
        # As for requests: our own prefix is a token to every field, Fernet and JWE only where they are due.
        found = format_of(content)
        return found if found in SUITES or found in self._formats else None


@lru_cache(maxsize=64)
def _locator(texts: tuple[str, ...]) -> tuple[tuple[Mark, ...], Locator]:
    # It takes milliseconds to make, and a worker has few.
    if not texts:
        raise ValueError("there are no marks: name what is secret, as in $.ssn")
    marks = tuple(map(Mark.parse, texts))
    # What an operator has is dealt with to the last duplicate: nobody reads it beside us meanwhile.
    return marks, Locator(marks, duplicates="all")


def _json_value(value: bytes) -> bytes:
    try:
        return value[check(value) :].strip(_SPACE)
    except UnreadableJSON:
        raise DocumentError("not a JSON value") from None


def _content(value: bytes) -> bytes | None:
    """What a JSON string says, in UTF-8; None for what is none, or half a surrogate pair."""
    if not value.startswith(b'"'):
        return None
    text = text_of_string(value)
    return None if text is None else text.encode("utf-8")


def _token_in(value: bytes) -> bytes:
    content = _content(value)
    if content is None:
        raise does_not_open()
    return content
