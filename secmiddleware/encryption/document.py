"""The ring document: parsed strictly, written canonically, changed only by steps that keep its invariants.

Pure: clock, randomness and keys are arguments. docs/token-format.md specifies it. What a document says is
worth something only when its MAC has been checked, which `root.Root` does.
"""

from __future__ import annotations

import base64
import binascii
import enum
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Final, Never

from secmiddleware.encryption.uses import USES_LIMIT
from secmiddleware.errors import KeyringError

MAX_BYTES: Final = 1 << 20
"""The largest document that is read: some three times what MAX_KEYS keys take."""
MAX_KEYS: Final = 1024
"""Keys in one ring, destroyed ones included: 84 years of monthly rotation."""
MAX_GEN: Final = (1 << 53) - 1
"""The largest integer that every JSON reader keeps (RFC 8259 §6)."""
MAX_CLOCK_AHEAD: Final = timedelta(hours=1)
"""How far another node's clock may run ahead of ours before its document is taken for nonsense."""

KID: Final = re.compile(r"[0-9a-f]{8}")
"""What a key id looks like in text."""

_EARLIEST: Final = datetime(2020, 1, 1, tzinfo=UTC)
_LATEST: Final = datetime(2200, 1, 1, tzinfo=UTC)
_NEVER: Final = datetime.min.replace(tzinfo=UTC)
_RING: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/@-]{0,127}")
_TIME: Final = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", re.ASCII)
_TICK: Final = timedelta(microseconds=1)

_WITH_ROTATION: Final = (
    "or have both done now (--rotate), and nothing is sealed until the new key has its turn"
)

_DOCUMENT_MEMBERS: Final = frozenset({"ring", "gen", "issued_at", "root", "keys", "mac"})
_KEY_MEMBERS: Final = frozenset(
    {"kid", "created_at", "activate_at", "retire_at", "distrusted", "destroyed_at", "uses", "wrapped"}
)


class KeyState(enum.StrEnum):
    """What a key is good for at an instant; a pure function of document and clock."""

    PENDING = "pending"
    """Published, not used for sealing yet; opens, for a node whose clock is ahead may have sealed with it."""
    PRIMARY = "primary"
    """Seals and opens. Exactly one at any instant."""
    DECRYPT_ONLY = "decrypt_only"
    RETIRED = "retired"
    """Opens nothing any more; still in the document."""
    DESTROYED = "destroyed"
    """Its bytes are gone."""


@dataclass(frozen=True, slots=True)
class KeyEntry:
    """One key as the document has it."""

    kid: str
    """Eight lower-case hex digits: the four bytes in a token."""
    created_at: datetime
    activate_at: datetime
    """When it becomes PRIMARY, and the key before it DECRYPT_ONLY."""
    retire_at: datetime | None
    """When it stops opening; None while it has no successor."""
    distrusted: bool
    destroyed_at: datetime | None
    uses: int
    """How many uses processes have reserved, spent or not."""
    wrapped: bytes | None = field(repr=False)
    """Under the key-wrapping key; None once it is destroyed."""

    @property
    def readable_until(self) -> datetime:
        """Until when requests may open with it: while it is PENDING, PRIMARY or DECRYPT_ONLY, and trusted.

        The time alone tells: in a document that is valid no key retires before its successor is active.
        """
        if self.distrusted or self.destroyed_at is not None:
            return _NEVER
        return _LATEST if self.retire_at is None else self.retire_at

    def readable(self, now: datetime) -> bool:
        """Whether requests may open with it."""
        return now < self.readable_until


@dataclass(frozen=True, slots=True)
class RingDocument:
    """One generation of a key ring, its keys in the order in which they become PRIMARY.

    Raises KeyringError where the parts contradict each other.
    """

    ring: str
    gen: int
    issued_at: datetime
    root: bytes = field(repr=False)
    keys: tuple[KeyEntry, ...]

    def __post_init__(self) -> None:
        check_ring_name(self.ring)
        _require(1 <= self.gen <= MAX_GEN, "gen is out of range")
        _require(_EARLIEST <= self.issued_at < _LATEST, "issued_at is absurd")
        _require(1 <= len(self.keys) <= MAX_KEYS, f"a ring has 1 to {MAX_KEYS} keys")
        _require(len({key.kid for key in self.keys}) == len(self.keys), "two keys have the same kid")
        for key in self.keys:
            _check_times(key, self.issued_at)
            _require(0 <= key.uses <= USES_LIMIT, f"uses of key {key.kid} is out of range")
        for key, successor in zip(self.keys, self.keys[1:], strict=False):
            _require(key.activate_at < successor.activate_at, "the keys are not in order of activation")
            _require(
                key.retire_at is not None and key.retire_at >= successor.activate_at,
                f"key {key.kid} retires before it is replaced",
            )
            # Invariant 4: while one key waits for its turn, no other is made.
            _require(key.activate_at <= successor.created_at, "two keys are pending at once")
        _require(self.keys[-1].retire_at is None, "the newest key has no successor and yet a retire_at")

    def primary(self, now: datetime) -> KeyEntry:
        """The one key that seals at `now`: the last that is active, else the first, whatever the time."""
        for key in reversed(self.keys):
            if key.activate_at <= now:
                return key
        return self.keys[0]

    def state_of(self, key: KeyEntry, now: datetime) -> KeyState:
        """What `key`, one of this document's, is good for at `now`."""
        if key.destroyed_at is not None:
            return KeyState.DESTROYED
        if key is self.primary(now):
            return KeyState.PRIMARY
        if now < key.activate_at:
            return KeyState.PENDING
        if key.retire_at is not None and key.retire_at <= now:
            return KeyState.RETIRED
        return KeyState.DECRYPT_ONLY

    def next_change(self, now: datetime) -> datetime | None:
        """The first instant after `now` at which the clock alone changes a state."""
        instants = {instant for key in self.keys for instant in (key.activate_at, key.retire_at)}
        return min((instant for instant in instants if instant is not None and instant > now), default=None)

    def reissued(self, now: datetime) -> RingDocument:
        """The next generation, otherwise the same. `issued_at` never goes back, even where the clock does."""
        return replace(self, gen=self.gen + 1, issued_at=max(self.issued_at, now))

    def with_uses(self, kid: str, block: int, now: datetime) -> RingDocument:
        """The next generation with `block` more uses of a key reserved.

        Raises:
            KeyringError: that is more than a key may be used, or the ring has no such key.
        """
        key = self._key(kid)
        if key.uses + block > USES_LIMIT:
            raise KeyringError(f"key {kid} of ring {self.ring} is used up; rotate the ring")
        return _changed(self.reissued(now), replace(key, uses=key.uses + block))

    def with_key(
        self,
        kid: str,
        wrapped: bytes,
        *,
        uses: int,
        now: datetime,
        delay: timedelta,
        retire_after: timedelta,
        distrusting: str | None = None,
    ) -> RingDocument:
        """The next generation with a new key, PENDING for `delay`; `retire_after` later the last one retires.

        `distrusting` is the last key, if that is distrusted in the same generation.

        Raises:
            KeyringError: a key is PENDING already, or the ring is full.
        """
        document = self
        if distrusting is not None:
            document = self._distrusting(distrusting, now)
            now = max(now, document.keys[-1].activate_at)
        last = document.keys[-1]
        if document.state_of(last, now) is KeyState.PENDING:
            raise KeyringError(
                f"key {last.kid} of ring {self.ring} is pending until {show_time(last.activate_at)}; "
                "the ring can be rotated again after that"
            )
        if len(self.keys) == MAX_KEYS:
            raise KeyringError(f"ring {self.ring} has {MAX_KEYS} keys, which is the most there may be")
        now = max(now, last.activate_at)
        # With no delay at all, two keys in one tick would both be due.
        activate_at = max(now + delay, last.activate_at + _TICK)
        replaced = replace(last, retire_at=activate_at + retire_after)
        fresh = KeyEntry(
            kid, now, activate_at, None, distrusted=False, destroyed_at=None, uses=uses, wrapped=wrapped
        )
        return replace(document.reissued(now), keys=(*document.keys[:-1], replaced, fresh))

    def postponed(self, kid: str, activate_at: datetime, now: datetime) -> RingDocument:
        """The next generation with the newest key activated later, and the one before retired as much later.

        The same, issued anew, where `kid` is not the newest any more. Nothing becomes unreadable: PENDING
        opens.
        """
        *_, before, last = self.keys
        if last.kid != kid:
            return self.reissued(now)
        later = activate_at - last.activate_at
        retire_at = None if before.retire_at is None else before.retire_at + later
        following = _changed(self.reissued(now), replace(before, retire_at=retire_at))
        return _changed(following, replace(last, activate_at=activate_at))

    def check_distrust(self, kid: str, now: datetime, *, rotate: bool) -> None:
        """Raises KeyringError where a key cannot be distrusted, or where nothing would be left to seal with.

        With `rotate` that is no reason: a successor is published in the same generation, or was before.
        """
        key, which = self._key(kid), f"key {kid} of ring {self.ring}"
        last = self.keys[-1]
        match self.state_of(key, now):
            case KeyState.DESTROYED:
                raise KeyringError(f"{which} is destroyed: it opens nothing any more")
            case KeyState.PRIMARY if not rotate and key is last:
                first = "rotate the ring, and distrust it when the new key seals"
                raise KeyringError(f"{which} seals now: {first}, {_WITH_ROTATION}")
            case KeyState.PRIMARY if not rotate:
                until = show_time(last.activate_at)
                raise KeyringError(f"{which} seals until {until}: distrust it then, {_WITH_ROTATION}")
            case KeyState.PENDING if not rotate:
                since = show_time(key.activate_at)
                first = f"rotate the ring after {since}, and distrust it when the new key seals"
                raise KeyringError(f"{which} is the next to seal: {first}, {_WITH_ROTATION}")

    def with_distrusted(self, kid: str, now: datetime) -> RingDocument:
        """The next generation with a key that requests neither open nor seal with, whatever its state."""
        return self._distrusting(kid, now).reissued(now)

    def without_secret(self, kid: str, now: datetime) -> RingDocument:
        """The next generation with a RETIRED key destroyed: its bytes are no longer in it.

        Raises:
            KeyringError: the ring has no such key, or it is in any other state.
        """
        key = self._key(kid)
        state = self.state_of(key, now)
        if state is not KeyState.RETIRED:
            raise KeyringError(f"key {kid} of ring {self.ring} is {state}; only a retired key is destroyed")
        return _changed(self.reissued(now), replace(key, destroyed_at=now, wrapped=None))

    def _distrusting(self, kid: str, now: datetime) -> RingDocument:
        key = self._key(kid)
        activate_at = key.activate_at
        if self.state_of(key, now) is KeyState.PENDING:
            # Only behind an active key may another wait. It is not left out: a writer whose clock is ahead
            # may have sealed with it, and an operator can renew that.
            activate_at = max(now, key.created_at, self.keys[-2].activate_at + _TICK)
        return _changed(self, replace(key, distrusted=True, activate_at=activate_at))

    def _key(self, kid: str) -> KeyEntry:
        for key in self.keys:
            if key.kid == kid:
                return key
        raise KeyringError(f"ring {self.ring} has no key {kid}")


def first_document(
    ring: str, root: bytes, kid: str, wrapped: bytes, *, uses: int, now: datetime
) -> RingDocument:
    """Generation 1 of a ring: one key, PRIMARY at once."""
    key = KeyEntry(kid, now, now, None, distrusted=False, destroyed_at=None, uses=uses, wrapped=wrapped)
    return RingDocument(ring, 1, now, root, (key,))


def check_ring_name(ring: str) -> None:
    """Raises KeyringError unless `ring` is 1 to 128 letters, digits and `._:/@-`, no sign in front."""
    _require(
        _RING.fullmatch(ring) is not None,
        "the name of a key ring has 1 to 128 letters, digits and ._:/@- and begins with a letter or digit",
    )


def canonical(document: RingDocument) -> bytes:
    """What the MAC is over: the document without `mac`, as JSON with sorted names, no spaces, ASCII only."""
    return _dump(_members(document))


def serialise(document: RingDocument, mac: bytes) -> bytes:
    """The bytes that are stored."""
    return _dump(_members(document) | {"mac": _encode(mac)}) + b"\n"


def parse(body: bytes) -> tuple[RingDocument, bytes]:
    """A document and its MAC, which is not checked here.

    Raises:
        KeyringError: it is not exactly a ring document: unknown, missing or doubled members, other types or
            forms, absurd or contradictory dates, too large. Quotes nothing of it but key ids.
    """
    _require(len(body) <= MAX_BYTES, f"it is larger than {MAX_BYTES} bytes")
    try:
        loaded = json.loads(
            body.decode("utf-8"),
            object_pairs_hook=_no_doubles,
            parse_float=_no_such_number,
            parse_constant=_no_such_number,
        )
    except (ValueError, RecursionError):
        # UnicodeDecodeError and JSONDecodeError are ValueErrors; so are integers of thousands of digits.
        raise _malformed("it is not JSON") from None
    members = _exactly(loaded, _DOCUMENT_MEMBERS, "the document")
    entries = members["keys"]
    _require(type(entries) is list and len(entries) <= MAX_KEYS, f"keys is not a list of at most {MAX_KEYS}")
    document = RingDocument(
        ring=_string(members, "ring"),
        gen=_integer(members, "gen"),
        issued_at=_time(members, "issued_at"),
        root=_decode(_string(members, "root"), "root"),
        keys=tuple(_entry(entry) for entry in entries),
    )
    return document, _decode(_string(members, "mac"), "mac")


def show_time(instant: datetime) -> str:
    """RFC 3339 in UTC, always with six digits of a second."""
    return instant.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def _members(document: RingDocument) -> dict[str, Any]:
    return {
        "ring": document.ring,
        "gen": document.gen,
        "issued_at": show_time(document.issued_at),
        "root": _encode(document.root),
        "keys": [
            {
                "kid": key.kid,
                "created_at": show_time(key.created_at),
                "activate_at": show_time(key.activate_at),
                "retire_at": None if key.retire_at is None else show_time(key.retire_at),
                "distrusted": key.distrusted,
                "destroyed_at": None if key.destroyed_at is None else show_time(key.destroyed_at),
                "uses": key.uses,
                "wrapped": None if key.wrapped is None else _encode(key.wrapped),
            }
            for key in document.keys
        ],
    }


def _changed(document: RingDocument, changed: KeyEntry) -> RingDocument:
    return replace(document, keys=tuple(changed if key.kid == changed.kid else key for key in document.keys))


def _entry(loaded: object) -> KeyEntry:
    members = _exactly(loaded, _KEY_MEMBERS, "a key")
    kid = _string(members, "kid")
    _require(KID.fullmatch(kid) is not None, "a kid is not eight lower-case hex digits")
    _require(type(members["distrusted"]) is bool, "distrusted is not true or false")
    return KeyEntry(
        kid=kid,
        created_at=_time(members, "created_at"),
        activate_at=_time(members, "activate_at"),
        retire_at=None if members["retire_at"] is None else _time(members, "retire_at"),
        distrusted=members["distrusted"],
        destroyed_at=None if members["destroyed_at"] is None else _time(members, "destroyed_at"),
        uses=_integer(members, "uses"),
        wrapped=None if members["wrapped"] is None else _decode(_string(members, "wrapped"), "wrapped"),
    )


def _check_times(key: KeyEntry, issued_at: datetime) -> None:
    for instant in (key.created_at, key.activate_at, key.retire_at, key.destroyed_at):
        _require(instant is None or _EARLIEST <= instant < _LATEST, f"a date of key {key.kid} is absurd")
    _require(key.created_at <= key.activate_at, f"key {key.kid} is activated before it is made")
    _require(key.created_at <= issued_at, f"key {key.kid} is made after the document is issued")
    # Invariant 6: destroyed means retired before, and no bytes; everything else has its bytes.
    _require((key.wrapped is None) == (key.destroyed_at is not None), f"key {key.kid} is half destroyed")
    if key.destroyed_at is not None:
        _require(
            key.retire_at is not None and key.retire_at <= key.destroyed_at <= issued_at,
            f"key {key.kid} is destroyed without having been retired",
        )


def _exactly(loaded: object, names: frozenset[str], what: str) -> Mapping[str, Any]:
    if type(loaded) is not dict:
        raise _malformed(f"{what} is not an object")
    _require(loaded.keys() == names, f"{what} has other members than {', '.join(sorted(names))}")
    return loaded


def _string(members: Mapping[str, Any], name: str) -> str:
    value = members[name]
    if type(value) is not str:
        raise _malformed(f"{name} is not a string")
    return value


def _integer(members: Mapping[str, Any], name: str) -> int:
    value = members[name]
    # Not isinstance: true is an int in Python.
    if type(value) is not int:
        raise _malformed(f"{name} is not an integer")
    return value


def _time(members: Mapping[str, Any], name: str) -> datetime:
    text = _string(members, name)
    _require(_TIME.fullmatch(text) is not None, f"{name} is not RFC 3339 in UTC with six digits of a second")
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        raise _malformed(f"{name} is no date") from None


def _encode(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode("ascii")


def _decode(text: str, name: str) -> bytes:
    try:
        data = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    except (binascii.Error, ValueError):
        data = b""
    _require(data != b"" and _encode(data) == text, f"{name} is not unpadded base64url")
    return data


def _dump(members: Mapping[str, Any]) -> bytes:
    return json.dumps(members, sort_keys=True, separators=(",", ":"), ensure_ascii=True).encode("ascii")


def _no_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise ValueError("doubled member")
    return members


def _no_such_number(_: str) -> Never:
    raise ValueError("not an integer")


def _require(holds: bool, otherwise: str) -> None:
    if not holds:
        raise _malformed(otherwise)


def _malformed(why: str) -> KeyringError:
    return KeyringError(f"the ring document is not valid: {why}")
