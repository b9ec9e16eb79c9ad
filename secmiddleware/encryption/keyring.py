"""The key ring as requests use it: an immutable snapshot that seals with one key and opens with several.

No I/O, no lock, no clock: the time is an argument. What a snapshot counts, the uses of a key, is shared with
the snapshots before and after it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import datetime
from typing import Final, TypeVar

from secmiddleware.encryption.document import KID, KeyEntry, KeyState, RingDocument, show_time
from secmiddleware.encryption.fernet import FieldFernet
from secmiddleware.encryption.jwe import DIRECT, DirectJwe, kid_of_jwe, read_header
from secmiddleware.encryption.opaque_tags import OpaqueTags, kid_of_tag
from secmiddleware.encryption.padding import padded, unpadded
from secmiddleware.encryption.suites import (
    SuiteOne,
    SuiteThree,
    SuiteTwo,
    long_random_nonce,
    random_nonces,
)
from secmiddleware.encryption.tokens import (
    BEGINNING,
    SHORTEST,
    SUITES,
    Context,
    beginnings,
    check_fernet_spelling,
    does_not_open,
    kid_of,
    looks_like_token,
    unspell,
)
from secmiddleware.encryption.uses import Ration
from secmiddleware.errors import KeyUnknown, SealError

__all__ = ["Context", "KeyEntry", "KeyState", "Keyring", "RingKey", "looks_like_token"]

_pop_nonce: Final = random_nonces.pop

_CIPHERS_KEPT: Final = 256
"""Ciphers of one kind kept for each key: of fields there are less, of tenants usually."""


_Name = TypeVar("_Name")
_Cipher = TypeVar("_Cipher")


class RingKey:
    """The secret of one key with its ciphers, set up once and kept from one snapshot to the next."""

    __slots__ = (
        "_fernets",
        "_jwe",
        "_ring",
        "_secret",
        "_sivs",
        "_suite_2",
        "_tags",
        "kid",
        "ration",
        "suite_1",
    )

    def __init__(self, ring: str, kid: str, secret: bytes, ration: Ration) -> None:
        """`secret` has 32 bytes; `ration` is spent by sealing."""
        self.kid = kid
        self.ration = ration
        self.suite_1 = SuiteOne(ring, kid, secret)
        self._ring = ring
        self._secret = secret
        # Two threads may both make one of these: they make the same.
        self._suite_2: SuiteTwo | None = None
        self._jwe: DirectJwe | None = None
        self._sivs: dict[tuple[str, str, str], SuiteThree] = {}
        self._fernets: dict[tuple[str, str], FieldFernet] = {}
        self._tags: OpaqueTags | None = None

    @property
    def suite_2(self) -> SuiteTwo:
        """The cipher of suite 2, set up when it is first needed."""
        suite = self._suite_2
        if suite is None:
            suite = self._suite_2 = SuiteTwo(self._ring, self.kid, self._secret)
        return suite

    @property
    def jwe(self) -> DirectJwe:
        """JWE with `dir`, set up when it is first needed."""
        direct = self._jwe
        if direct is None:
            direct = self._jwe = DirectJwe(self._ring, self.kid, self._secret)
        return direct

    def suite_3(self, context: Context) -> SuiteThree:
        """The cipher of suite 3 for a field and a tenant."""
        name = (context.field, context.purpose, context.tenant)
        cipher = self._sivs.get(name)
        if cipher is None:
            cipher = SuiteThree(self._ring, self.kid, self._secret, context)
            _keep(self._sivs, name, cipher)
        return cipher

    def fernet(self, context: Context) -> FieldFernet:
        """The Fernet cipher for a field."""
        name = (context.field, context.purpose)
        cipher = self._fernets.get(name)
        if cipher is None:
            cipher = FieldFernet(self._ring, self._secret, context)
            _keep(self._fernets, name, cipher)
        return cipher

    @property
    def tags(self) -> OpaqueTags:
        """The cipher of entity tags, set up when it is first needed."""
        tags = self._tags
        if tags is None:
            tags = self._tags = OpaqueTags(self._ring, self.kid, self._secret)
        return tags

    def __repr__(self) -> str:
        return f"RingKey(kid={self.kid!r})"

    def __reduce__(self) -> str:
        raise TypeError("a ring key is not written down")


class Keyring:
    """One generation of a key ring, verified; never changes, so an exchange may keep it to its end.

    Cannot be pickled or copied: what counts the uses of a key must be one.
    """

    __slots__ = ("_by_beginning", "_by_kid", "_document", "_entries", "_newest", "_newest_first")

    def __init__(self, document: RingDocument, keys: Iterable[RingKey]) -> None:
        """`keys` are those of the document that are not destroyed."""
        self._document = document
        self._entries = {entry.kid: entry for entry in document.keys}
        self._by_kid = {key.kid: key for key in keys}
        self._newest_first = tuple(
            (entry.activate_at, entry, self._by_kid.get(entry.kid)) for entry in reversed(document.keys)
        )
        self._newest = self._newest_first[0]
        # By the format that is due: no token of another suite begins so.
        self._by_beginning = {
            name: {
                beginning: (entry.readable_until, key)
                for _, entry, key in self._newest_first
                for beginning in beginnings(suite + bytes.fromhex(entry.kid))
            }
            for name, suite in SUITES.items()
        }

    @property
    def document(self) -> RingDocument:
        """What was verified."""
        return self._document

    @property
    def ring(self) -> str:
        """The name of the ring, which is in every token."""
        return self._document.ring

    @property
    def gen(self) -> int:
        """The generation of the document."""
        return self._document.gen

    @property
    def keys(self) -> tuple[KeyEntry, ...]:
        """What the document says of its keys, in the order of their activation."""
        return self._document.keys

    def primary(self, now: datetime) -> KeyEntry:
        """The one key that seals at `now`."""
        return self._document.primary(now)

    def state_of(self, kid: str, now: datetime) -> KeyState:
        """What a key of this ring is good for at `now`. Raises KeyError for a key that it has not."""
        return self._document.state_of(self._entries[kid], now)

    def secret_of(self, kid: str) -> RingKey | None:
        """A key's ciphers, kept for the next snapshot; None where it is destroyed or not of this ring."""
        return self._by_kid.get(kid)

    def seal(self, value: bytes, context: Context, now: datetime) -> bytes:
        """The token of a value, in ASCII.

        Suites 2 and 3 spend no uses: the nonces of suite 2 are long enough to draw for ever, and suite 3
        draws none. A JWE is one under the ring, with `dir`.

        Args:
            value: its bytes; for a field the raw JSON value.
            context: what it is sealed for.
            now: chooses the key.

        Raises:
            SealError: the primary key is distrusted, this process has no reserved use of it left, or the
                value is over 2 GiB.
        """
        activate_at, entry, key = self._newest
        if now < activate_at:
            # As `primary` has it: the last that is active, else the first.
            for activate_at, entry, key in self._newest_first:  # noqa: B007  (the last one stays)
                if activate_at <= now:
                    break
        if key is None or entry.distrusted:
            raise self._nothing_seals(entry, now)
        if context.format == "aead":
            key.ration.take()
            try:
                nonce = _pop_nonce()
            except IndexError:
                nonce = random_nonces.take()
            return key.suite_1.seal(value, context.slots, nonce)
        if context.format == "xaes":
            return key.suite_2.seal(value, context.slots, long_random_nonce())
        if context.format == "deterministic":
            return key.suite_3(context).seal(value, context.slots)
        key.ration.take()
        if context.format == "jwe":
            return key.jwe.seal(value, context)
        return key.fernet(context).seal(value, int(now.timestamp()))

    def open(self, token: bytes, context: Context, now: datetime, *, recover: bool = False) -> bytes:
        """The value of a token.

        With `recover` also of a distrusted or retired key, as long as it is not destroyed: for an operator
        who seals anew what is stored. Whoever has a distrusted key can forge its tokens, so never for what
        comes in a request.

        Raises:
            KeyUnknown: the token names a key that this ring has never had, as far as this snapshot knows.
            TokenError: it does not open; why, nobody is told.
        """
        due = context.format
        known = self._by_beginning.get(due)
        if known is None:
            open_other = self._open_fernet if due == "fernet" else self._open_jwe
            return open_other(token, context, now, recover=recover)
        found = known.get(token[:BEGINNING])
        if found is None:
            raw = unspell(token)
            if raw[:1] == SUITES[due] and len(raw) >= SHORTEST[due]:
                raise KeyUnknown("the token names a key that is not known here")
            raise does_not_open()
        until, key = found
        if key is None:
            raise does_not_open()
        # Opened before the state is asked for: a retired key's token takes as long as a forged one.
        if due == "aead":
            value = key.suite_1.open(token, context.slots)
        elif due == "xaes":
            value = key.suite_2.open(unspell(token), context.slots)
        else:
            value = key.suite_3(context).open(unspell(token), context.slots)
        if now >= until and not recover:
            raise does_not_open()
        return value

    def rewrap(
        self,
        token: bytes,
        context: Context,
        sealed_for: Context,
        now: datetime,
        *,
        pad: int = 0,
        recover: bool = False,
    ) -> bytes:
        """A token of the same value under the primary key, sealed for what `sealed_for` says, and padded.

        One that is so already comes back as it is, once it has been opened.

        Raises:
            KeyUnknown, TokenError: as `open`.
            SealError: as `seal`.
        """
        value = sealed = self.open(token, context, now, recover=recover)
        if pad:
            value = padded(unpadded(sealed), pad)
        if context == sealed_for and value == sealed and self._is_of_primary(token, context, now):
            return token
        return self.seal(value, sealed_for, now)

    def equality_tokens(self, value: bytes, context: Context, now: datetime) -> tuple[bytes, ...]:
        """The tokens that equal values have, one for each readable key, the newest key first.

        Raises:
            ValueError: the context is of another format than `deterministic`: its tokens are all different.
            SealError: the value is over 2 GiB.
        """
        if context.format != "deterministic":
            raise ValueError("only deterministic tokens of equal values are equal")
        return tuple(key.suite_3(context).seal(value, context.slots) for key in self._readable(now))

    def seal_tag(self, tag: bytes, bound: bytes, now: datetime) -> bytes | None:
        """What stands for an app's entity tag outside, without quotes; None where no key may be used now.

        Equal tags that are bound to equal bytes are equal under one key, whatever process seals them.
        """
        entry = self.primary(now)
        key = self._by_kid.get(entry.kid)
        return None if key is None or entry.distrusted else key.tags.seal(tag, bound)

    def open_tag(self, text: bytes, bound: bytes, now: datetime) -> tuple[bytes, bool] | None:
        """The app's tag, and whether its key is still the one that seals; None for what is none of ours."""
        kid = kid_of_tag(text)
        key = None if kid is None else self._by_kid.get(kid)
        if key is None or not self._entries[key.kid].readable(now):
            return None
        tag = key.tags.open(text, bound)
        return None if tag is None else (tag, key.kid == self.primary(now).kid)

    def _nothing_seals(self, primary: KeyEntry, now: datetime) -> SealError:
        which = f"key {primary.kid} of ring {self.ring} may not be used"
        for entry in self.keys:
            if entry.activate_at > now and not entry.distrusted and entry.destroyed_at is None:
                since = show_time(entry.activate_at)
                return SealError(f"{which}; nothing is sealed until key {entry.kid} has its turn, at {since}")
        return SealError(f"{which}; rotate the ring")

    def _is_of_primary(self, token: bytes, context: Context, now: datetime) -> bool:
        """Whether the key that seals at `now` has made a token that opens."""
        entry = self.primary(now)
        key = self._by_kid.get(entry.kid)
        if key is None or entry.distrusted:
            return False
        if context.format == "fernet":
            return key.fernet(context).open(token) is not None  # It names no key.
        return (kid_of_jwe(token) if context.format == "jwe" else kid_of(token)) == entry.kid

    def _open_fernet(self, token: bytes, context: Context, now: datetime, *, recover: bool) -> bytes:
        check_fernet_spelling(token)
        for key in self._there() if recover else self._readable(now):
            value = key.fernet(context).open(token)
            if value is not None:
                return value
        raise does_not_open()

    def _open_jwe(self, token: bytes, context: Context, now: datetime, *, recover: bool) -> bytes:
        header = read_header(token)
        kid = header.get("kid")
        if header["alg"] != DIRECT or kid is None or not KID.fullmatch(kid):
            raise does_not_open()
        entry, key = self._entries.get(kid), self._by_kid.get(kid)
        if entry is None:
            raise KeyUnknown("the token names a key that is not known here")
        if key is None:
            raise does_not_open()
        value = key.jwe.open(token, header, context)
        if not (entry.readable(now) or recover):
            raise does_not_open()
        return value

    def _readable(self, now: datetime) -> Iterator[RingKey]:
        """The keys that open at `now`, the newest first."""
        for _, entry, key in self._newest_first:
            if key is not None and entry.readable(now):
                yield key

    def _there(self) -> Iterator[RingKey]:
        """The keys that are not destroyed, whatever else they are, the newest first."""
        return (key for _, _, key in self._newest_first if key is not None)

    def __repr__(self) -> str:
        return f"Keyring(ring={self.ring!r}, gen={self.gen}, keys={[entry.kid for entry in self.keys]})"

    def __reduce__(self) -> str:
        raise TypeError("a key ring is not written down")


def _keep(kept: dict[_Name, _Cipher], name: _Name, cipher: _Cipher) -> None:
    if len(kept) >= _CIPHERS_KEPT:
        kept.clear()
    kept[name] = cipher
