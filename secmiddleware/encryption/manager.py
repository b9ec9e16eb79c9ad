"""EncryptionManager: keeps a verified key ring at hand for requests, and everything else behind them.

Requests use `keyring`, one attribute. All the rest (`start`, `look`, `tend`, `rotate`, `distrust`, `destroy`)
talks to the store and belongs to the rotation line or to an operator's command.
"""

from __future__ import annotations

import logging
import os
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final, Literal

from secmiddleware.encryption.document import KeyState, show_time
from secmiddleware.encryption.kek import Kek
from secmiddleware.encryption.keyring import Keyring
from secmiddleware.encryption.padding import padded
from secmiddleware.encryption.record import RECORD, KeyPolicy, RingRecord
from secmiddleware.encryption.tokens import Context, Format, does_not_open
from secmiddleware.encryption.upkeep import Upkeep
from secmiddleware.encryption.uses import FIRST_BLOCK, Ration
from secmiddleware.errors import KeyringError, KeyUnknown, SealError, StoreUnavailable
from secmiddleware.state import Reach, StateStore

__all__ = ["EncryptionManager", "KeyPolicy", "Transition", "utc_now"]

_LOOK_SECONDS: Final = 1.0
"""Between two looks for an unknown key where there is no line: whoever made a token chose its key id."""

_logger: Final = logging.getLogger("secmiddleware.rotation")


@dataclass(frozen=True, slots=True)
class Transition:
    """A key has come, has changed its state or is distrusted, as this process learned of it."""

    ring: str
    gen: int
    kid: str
    before: KeyState | None
    """None for a key that was not known here before."""
    after: KeyState
    distrusted: bool = False
    """Told is that requests open nothing with it any more; its state, before and after, is the same."""


def utc_now() -> datetime:
    """The time, aware, in UTC."""
    return datetime.now(UTC)


def _nobody() -> None:
    """Calls nobody: there is no line."""


def _as_bytes(token: str | bytes) -> bytes:
    try:
        return token.encode("ascii") if isinstance(token, str) else token
    except UnicodeEncodeError:
        raise does_not_open() from None


class EncryptionManager:
    """One key ring of one store, as this process sees it.

    Whatever fails after `start` keeps the last good ring in force, logs a warning once for each distinct
    failure and stands in `status()` until it heals. Safe to use from several threads. The child of a fork
    keeps the ring but has no reserved uses: it seals again after its first `start` or `tend`.

    In a script or a worker, where no rotation line tends it (`watched_by`), it sees to that itself: `seal`
    reserves more uses when they are spent, and `open` looks at the store for a key that it does not know.
    Whoever runs for longer calls `tend` now and then.
    """

    def __init__(
        self,
        store: StateStore,
        kek: Kek,
        ring: str,
        policy: KeyPolicy | None = None,
        *,
        first_block: int = FIRST_BLOCK,
        clock: Callable[[], datetime] = utc_now,
    ) -> None:
        """Touches nothing yet.

        Args:
            store: where the ring document stands, as record `ring`.
            kek: opens its root.
            ring: its name, which is in every token.
            policy: how its keys live; the defaults of `[keys]` unless given.
            first_block: how many uses this process reserves first. A command that seals one value needs
                few; 0 is for one that only opens or lists: it reserves nothing and makes no ring.
            clock: the time, in UTC.

        Raises:
            KeyringError: `ring` is no name for a ring.
        """
        self.ring = ring
        self.policy = KeyPolicy() if policy is None else policy
        self._store = store
        self._first_block = first_block
        self._clock = clock
        self._record = RingRecord(
            store,
            kek,
            ring,
            self.policy,
            clock=clock,
            ration=lambda: Ration(first_block, self._want_uses),
        )
        self._states: Mapping[str, KeyState] = {}
        self._seen_at: datetime | None = None
        """The time for which these are the states."""
        self._distrusted: frozenset[str] = frozenset()
        self._alarms: dict[str, str] = {}
        self._lock = threading.RLock()
        self._last_look = 0.0
        self._look_soon: Callable[[], None] = _nobody
        self._tend_soon: Callable[[], None] = _nobody
        self._published: Callable[[], None] = _nobody
        self._upkeep = Upkeep(self._record, self.policy, first_block, clock)
        _managers.add(self)

    @property
    def keyring(self) -> Keyring | None:
        """The ring as it was last seen and verified; None before `start`. Never blocks."""
        return self._record.keyring

    @property
    def reach(self) -> Reach:
        """Who shares the store."""
        return self._store.reach

    def exists(self) -> bool:
        """Whether the store has the ring; it is not read yet.

        Raises:
            StoreUnavailable: the store cannot be read.
            KeyringError: it is gone, though it was there.
        """
        return self._store.read_gen(RECORD) > 0

    def start(self) -> None:
        """Takes the first look and reserves uses; makes the ring where none was ever seen.

        On a manager that has a ring already this is a look: what fails then is an alarm, not an error.

        Raises:
            StoreUnavailable: the store cannot be read, or a new ring not be written.
            KeyringError: what is there may not be taken, or there is nothing and none may be made.
        """
        with self._lock:
            if self.keyring is None:
                self._begin()
                self._seen_at = self._clock()
                self._states = self._states_at(self._seen_at)
                self._distrusted = self._distrusted_now()
            else:
                with self._watched("store"):
                    self._record.look()
            with self._watched("uses"):
                self._upkeep.reserve(self._clock())

    def look(self) -> tuple[Transition, ...]:
        """What has changed since the last look, by others or by the clock; takes what is new in the store."""
        with self._lock:
            with self._watched("store"):
                self._record.look()
            return self._transitions(self._clock())

    def tend(self, now: datetime | None = None) -> tuple[Transition, ...]:
        """Does what is due, and tells what that changed.

        Reserves uses, rotates by the calendar or by the count, issues a document anew before it is too old.
        """
        with self._lock:
            if self.keyring is None or self._first_block == 0:
                return ()
            now = self._clock() if now is None else now
            with self._watched("rotation"):
                if self._upkeep.rotate_if_due(now):
                    self._published()
            with self._watched("uses"):
                self._upkeep.reserve(now)
            with self._watched("issue"):
                self._upkeep.reissue_if_due(now)
            return self._transitions(now)

    def rotate(self) -> str:
        """The id of a new key, published now, PRIMARY after `activation_delay`.

        Raises:
            KeyringError: a key is PENDING already; the ring may not be taken; `start` was never called.
            StoreUnavailable: the store cannot be read or written.
        """
        with self._lock:
            self._record.look()
            kid = self._record.add_key(self._first_block)
            self._published()
        self._tend_soon()
        return kid

    def distrust(self, kid: str, *, rotate: bool = False) -> str | None:
        """Has requests open nothing with a key any more, for good: for one that is in other hands.

        What it sealed opens for `rewrap` with `recover` only. One that is distrusted already stays so.

        Args:
            kid: its id.
            rotate: also for the key that seals now, or is the next to: its successor is published with it,
                unless one waits already. Until that has its turn nothing is sealed: `seal` raises.

        Returns:
            The id of the key that was published in its place; None where none was needed.

        Raises:
            KeyringError: the ring has no such key, it is destroyed, or it seals and `rotate` is not given.
            StoreUnavailable: the store cannot be read or written.
        """
        with self._lock:
            self._record.look()
            if not self.would_distrust(kid, rotate=rotate):
                return None
            successor = self._record.distrust(kid, self._first_block, rotate=rotate)
            self._published()
        self._tend_soon()
        return successor

    def would_distrust(self, kid: str, *, rotate: bool = False) -> bool:
        """Whether `distrust` would change the ring as it is known here. Raises KeyringError as that does."""
        if kid in self._distrusted_now():
            return False
        self._record.known().document.check_distrust(kid, self._clock(), rotate=rotate)
        return True

    def destroy(self, kid: str) -> None:
        """Removes the bytes of a RETIRED key for good: nothing sealed with it will ever open again.

        Raises:
            KeyringError: the ring has no such key, or it is in any other state.
            StoreUnavailable: the store cannot be read or written.
        """
        with self._lock:
            self._record.look()
            self._record.publish(lambda document: document.without_secret(kid, self._clock()))
        self._published()
        self._tend_soon()

    def seal(
        self,
        field: str,
        value: bytes,
        *,
        tenant: str = "",
        caller: str = "",
        pad: int = 0,
        purpose: str = "field",
        format: Format = "aead",  # noqa: A002  (as in the file)
    ) -> str:
        """The token of a value of `field`; for a JSON value its raw bytes.

        `pad` is the field's own, for JSON values.

        Raises:
            SealError: it cannot be sealed now.
            KeyringError: `start` was never called.
        """
        context = Context(field, purpose, tenant, caller, format)
        value = padded(value, pad)
        return self._spend(lambda ring: ring.seal(value, context, self._clock())).decode("ascii")

    def open(
        self,
        field: str,
        token: str | bytes,
        *,
        tenant: str = "",
        caller: str = "",
        purpose: str = "field",
        format: Format = "aead",  # noqa: A002  (as in the file)
    ) -> bytes:
        """The value of a token of `field`, with the spaces behind it where it was padded.

        Raises:
            KeyUnknown: it names a key that is not known here; the store is looked at behind this call.
            TokenError: it does not open; why, nobody is told.
            KeyringError: `start` was never called.
        """
        context = Context(field, purpose, tenant, caller, format)
        data = _as_bytes(token)
        return self._know(lambda ring: ring.open(data, context, self._clock()))

    def rewrap(
        self,
        field: str,
        token: str | bytes,
        *,
        tenant: str = "",
        caller: str = "",
        pad: int = 0,
        purpose: str = "field",
        format: Format = "aead",  # noqa: A002  (as in the file)
        to: Format | None = None,
        recover: bool = False,
    ) -> str:
        """A token of the same value under the key that seals now, bound to the same as before.

        A token that is so already comes back as it is, so that a second run over a store changes nothing.

        Args:
            field: its field, which it keeps, as it does what follows.
            token: what is to be sealed anew; opened here, and so authenticated.
            tenant: whose it is, where the field is bound to tenants.
            caller: whose it is, where the field is bound to callers.
            pad: the field's own, for JSON values; one that was padded otherwise is padded anew.
            purpose: what it was sealed for.
            format: in which it is.
            to: the format that it gets; unless given, the one that it has.
            recover: opens with keys that requests do not open with any more, distrusted and retired ones. For
                an operator who renews what is stored. Whoever has a distrusted key can forge its tokens, and
                would have them made good: never for a token that a caller sent.

        Raises:
            KeyUnknown, TokenError: as `open`; a destroyed key's token never opens.
            SealError: as `seal`.
            KeyringError: `start` was never called.
        """
        context = Context(field, purpose, tenant, caller, format)
        sealed_for = Context(field, purpose, tenant, caller, format if to is None else to)
        data = _as_bytes(token)

        def renewed(ring: Keyring) -> bytes:
            return ring.rewrap(data, context, sealed_for, self._clock(), pad=pad, recover=recover)

        return self._know(lambda _: self._spend(renewed)).decode("ascii")

    def seal_json(
        self,
        field: str,
        body: bytes,
        marks: str | Iterable[str],
        *,
        tenant: str = "",
        caller: str = "",
        pad: int = 0,
        format: Format = "aead",  # noqa: A002  (as in the file)
        encoding: Literal["json", "text"] = "json",
    ) -> bytes:
        """A JSON document with a token in place of each value at the marks, every other byte as it was.

        A token of the field that stands there already stays, if it opens.

        Args:
            field: whose values they are; a document with values of several fields is sealed once for each.
            body: the document, in UTF-8.
            marks: where they stand, as in the file: `"$.people[*].ssn"`, or several such texts.
            tenant: as for `seal`, like the next three.
            caller: see there.
            pad: see there.
            format: see there.
            encoding: what stands inside the tokens, as in `[fields.NAME] encoding`.

        Raises:
            DocumentError: the document is not JSON or cannot be sealed as it is; says at which mark.
            TokenError, KeyUnknown: something at a mark has the form of a token and does not open.
            SealError: a value cannot be sealed now.
            KeyringError: `start` was never called.
            ValueError: a mark is none, or texts would be padded.
        """
        from secmiddleware.fields.documents import Hand

        hand = Hand(self, field, tenant=tenant, caller=caller, pad=pad, format=format, encoding=encoding)
        return hand.seal_json(body, (marks,) if isinstance(marks, str) else marks)

    def open_json(
        self,
        field: str,
        body: bytes,
        marks: str | Iterable[str],
        *,
        tenant: str = "",
        caller: str = "",
        format: Format = "aead",  # noqa: A002  (as in the file)
        encoding: Literal["json", "text"] = "json",
    ) -> bytes:
        """A JSON document with the value in place of each token at the marks, every other byte as it was.

        Arguments as for `seal_json`. A null at a mark stays.

        Raises:
            DocumentError: the document is not JSON.
            KeyUnknown, TokenError: as `open`; also where at a mark stands what is no token.
            KeyringError: `start` was never called.
            ValueError: a mark is none.
        """
        from secmiddleware.fields.documents import Hand

        hand = Hand(self, field, tenant=tenant, caller=caller, format=format, encoding=encoding)
        return hand.open_json(body, (marks,) if isinstance(marks, str) else marks)

    def equality_tokens(
        self, field: str, value: bytes, *, tenant: str = "", caller: str = "", pad: int = 0
    ) -> tuple[str, ...]:
        """The tokens to search for where a field's tokens are `deterministic`: one of them is the value's.

        One for each key that opens, the newest first; a field that is not bound has no tenant and no caller.
        A value is found only as it was sealed: of JSON the raw bytes, so that `1.1` and `1.10` are two, and
        with the field's own `pad`.

        Raises:
            SealError: the value is over 2 GiB.
            KeyringError: `start` was never called.
        """
        context = Context(field, tenant=tenant, caller=caller, format="deterministic")
        tokens = self._record.known().equality_tokens(padded(value, pad), context, self._clock())
        return tuple(token.decode("ascii") for token in tokens)

    def watched_by(
        self,
        look_soon: Callable[[], None],
        tend_soon: Callable[[], None],
        published: Callable[[], None] = _nobody,
    ) -> None:
        """Has others called; none of them may block.

        Args:
            look_soon: when a caller names an unknown key. Callers choose key ids, so it should take its time
                between looks.
            tend_soon: when uses or states have changed.
            published: when this process has written a generation in which keys came, went or are distrusted.
        """
        self._look_soon = look_soon
        self._tend_soon = tend_soon
        self._published = published

    def mac_of_notice(self, message: bytes) -> bytes:
        """HMAC-SHA-256 of a notice, under the ring's subkey for them. Raises KeyringError before `start`."""
        return self._record.mac_of_notice(message)

    def seconds_to_change(self) -> float | None:
        """In how many seconds the clock alone changes a key's state; None if never.

        Not above 0 where it has changed one since the last look, which has told nobody of it.
        """
        keyring = self.keyring
        if keyring is None:
            return None
        now = self._clock()
        change = keyring.document.next_change(now if self._seen_at is None else min(self._seen_at, now))
        return None if change is None else (change - now).total_seconds()

    def status(self) -> dict[str, Any]:
        """How the ring is, as JSON-ready data: generation, keys with states and times, alarms; no secret."""
        keyring, now = self.keyring, self._clock()
        status: dict[str, Any] = {"ring": self.ring, "gen": None, "keys": [], "alarms": dict(self._alarms)}
        if keyring is None:
            return status
        status["gen"] = keyring.gen
        status["issued_at"] = show_time(keyring.document.issued_at)
        for entry in keyring.keys:
            key = keyring.secret_of(entry.kid)
            status["keys"].append(
                {
                    "kid": entry.kid,
                    "state": str(keyring.state_of(entry.kid, now)),
                    "created_at": show_time(entry.created_at),
                    "activate_at": show_time(entry.activate_at),
                    "retire_at": None if entry.retire_at is None else show_time(entry.retire_at),
                    "destroyed_at": None if entry.destroyed_at is None else show_time(entry.destroyed_at),
                    "distrusted": entry.distrusted,
                    "uses_reserved": entry.uses,
                    "uses_left_here": 0 if key is None else key.ration.left,
                }
            )
        return status

    def __repr__(self) -> str:
        return f"EncryptionManager(ring={self.ring!r}, keyring={self.keyring!r})"

    def _spend(self, seal: Callable[[Keyring], bytes]) -> bytes:
        """What `seal` makes; where the uses are spent and nobody tends the ring, more are reserved first."""
        keyring = self._record.known()
        try:
            return seal(keyring)
        except SealError:
            if self._tend_soon is not _nobody:
                raise
            with self._lock:
                if not self._upkeep.reserve_more():
                    raise
        return seal(self._record.known())

    def _know(self, use: Callable[[Keyring], bytes]) -> bytes:
        """What `use` makes; an unknown key has the store looked at, here and now where nobody else does."""
        try:
            return use(self._record.known())
        except KeyUnknown:
            if self._look_soon is not _nobody:
                self._look_soon()
                raise
            if not self._looked():
                raise
        return use(self._record.known())

    def _looked(self) -> bool:
        """Looks at the store, if it is time; whether a newer ring was there."""
        with self._lock:
            if time.monotonic() < self._last_look + _LOOK_SECONDS:
                return False
            self._last_look = time.monotonic()
            before = self._record.known().gen
            with self._watched("store"):
                self._record.look()
            return self._record.known().gen != before

    def _begin(self) -> None:
        if self._record.take_in():
            return
        if self._first_block == 0:
            raise KeyringError(f"there is no ring {self.ring} in the store")
        if self._record.make(self._first_block) is None and not self._record.take_in():
            raise StoreUnavailable(f"the store refuses a first ring {self.ring} and has none")

    def _want_uses(self) -> None:
        self._tend_soon()

    def _states_at(self, now: datetime) -> dict[str, KeyState]:
        keyring = self._record.known()
        return {entry.kid: keyring.state_of(entry.kid, now) for entry in keyring.keys}

    def _distrusted_now(self) -> frozenset[str]:
        return frozenset(entry.kid for entry in self._record.known().keys if entry.distrusted)

    def _transitions(self, now: datetime) -> tuple[Transition, ...]:
        if self.keyring is None:
            return ()
        gen = self.keyring.gen
        before, self._states = self._states, self._states_at(now)
        self._seen_at = now
        known, self._distrusted = self._distrusted, self._distrusted_now()
        changed = [
            Transition(self.ring, gen, kid, before.get(kid), after)
            for kid, after in self._states.items()
            if before.get(kid) is not after
        ]
        lost = [
            Transition(self.ring, gen, kid, state, state, distrusted=True)
            for kid, state in self._states.items()
            if kid in self._distrusted - known
        ]
        return (*changed, *lost)

    @contextmanager
    def _watched(self, part: str) -> Iterator[None]:
        try:
            yield
        except (StoreUnavailable, KeyringError) as error:
            message = str(error)
            if self._alarms.get(part) != message:
                self._alarms[part] = message
                _logger.warning(
                    "ring %s (%s): %s; the last good state stays in force", self.ring, part, message
                )
        else:
            if self._alarms.pop(part, None) is not None:
                _logger.info("ring %s (%s): well again", self.ring, part)

    def _leave_the_parent(self) -> None:
        # Another thread of the parent may have held the lock, and its uses are the parent's.
        self._lock = threading.RLock()
        if self.keyring is not None:
            for entry in self.keyring.keys:
                key = self.keyring.secret_of(entry.kid)
                if key is not None:
                    key.ration.drop()


def _after_fork_in_child() -> None:
    for manager in list(_managers):
        manager._leave_the_parent()  # noqa: SLF001  (this module's own)


_managers: Final[weakref.WeakSet[EncryptionManager]] = weakref.WeakSet()
os.register_at_fork(after_in_child=_after_fork_in_child)
