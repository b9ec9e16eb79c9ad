"""The ring document in its store: what may be taken from there, and how the next generation gets there.

Not thread-safe by itself: the manager holds its lock around every call. Reading `keyring` needs none.
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from secmiddleware.encryption.derivation import LENGTH
from secmiddleware.encryption.document import (
    MAX_CLOCK_AHEAD,
    RingDocument,
    check_ring_name,
    first_document,
    show_time,
)
from secmiddleware.encryption.kek import Kek
from secmiddleware.encryption.keyring import Keyring, RingKey
from secmiddleware.encryption.root import Root, read_document
from secmiddleware.encryption.uses import Ration
from secmiddleware.errors import KeyringError, StoreUnavailable
from secmiddleware.state import StateStore

RECORD: Final = "ring"
"""The name of the ring document in its store."""

_ATTEMPTS: Final = 16
"""Writes tried before others' being faster is a failure."""
_PROMPT: Final = timedelta(milliseconds=500)
"""What a publication may take without costing the others time: the half second that the formula for
`activation_delay` sets aside."""
_PAUSE_SECONDS: Final = 0.002
"""By which the longest pause between two attempts grows: about the time one write to a disk takes."""

_chance: Final = random.SystemRandom()
"""Without a state, which a fork would copy and which an app may have seeded."""


@dataclass(frozen=True, slots=True)
class KeyPolicy:
    """How a ring's keys live; `[keys]` of the file."""

    rotate_every: timedelta = timedelta(days=30)
    activation_delay: timedelta = timedelta(minutes=5)
    retire_after: timedelta = timedelta(days=90)
    min_generation: int = 0
    max_document_age: timedelta | None = None
    """How old a document may be that a process takes as its first; None is twice `rotate_every`."""

    @property
    def oldest_first(self) -> timedelta:
        """`max_document_age`, or its default."""
        return 2 * self.rotate_every if self.max_document_age is None else self.max_document_age


class RingRecord:
    """One ring in one store, and the newest generation of it that was verified."""

    def __init__(
        self,
        store: StateStore,
        kek: Kek,
        ring: str,
        policy: KeyPolicy,
        *,
        clock: Callable[[], datetime],
        ration: Callable[[], Ration],
    ) -> None:
        """`ration` makes the empty ration of a key that is new here. Raises KeyringError for a bad name."""
        check_ring_name(ring)
        self.ring = ring
        self.keyring: Keyring | None = None
        self._policy = policy
        self._store = store
        self._kek = kek
        self._clock = clock
        self._ration = ration
        self._root: Root | None = None

    def look(self) -> None:
        """Takes in what is there, if its generation is not the one that is known."""
        if self._store.read_gen(RECORD) != self.known().gen:
            self.take_in()

    def known(self) -> Keyring:
        """The keyring. Raises KeyringError while there is none."""
        if self.keyring is None:
            raise KeyringError(f"ring {self.ring} has not been read yet: call start() first")
        return self.keyring

    def take_in(self) -> bool:
        """Reads what is there and lets it be the keyring; False where there is nothing and never was.

        Of a key that is new here and seals already, uses are reserved first: requests find it ready.

        Raises:
            KeyringError: it may not be taken: forged, of another ring, from the past, too old, gone.
            StoreUnavailable: it cannot be read.
        """
        for attempt in range(1, _ATTEMPTS + 1):
            found = self._read()
            if found is None:
                return False
            document, root = found
            if self.keyring is not None and document.gen <= self.keyring.gen:
                return True
            keyring = self._build(document, root)
            if not self._is_overtaken_in_reserving(keyring, root):
                break
            _pause(attempt)
        if self.keyring is None or self.keyring.gen < document.gen:
            self.keyring, self._root = keyring, root
        return True

    def _read(self) -> tuple[RingDocument, Root] | None:
        """What is there and may be taken, or None where there is nothing and never was."""
        found = self._store.read(RECORD)
        current = self.keyring
        if found is None:
            if current is not None:
                raise KeyringError(
                    f"ring {self.ring} is gone from its store; it was at generation {current.gen}"
                )
            return None
        document, root = read_document(found.body, self.ring, self._kek, self._root)
        if document.gen != found.gen:
            raise KeyringError(f"the store says generation {found.gen}, the ring document {document.gen}")
        self._check_newness(document)
        return document, root

    def _is_overtaken_in_reserving(self, keyring: Keyring, root: Root) -> bool:
        """Whether another wrote first. Else the uses are there, or none are due or to be had."""
        now = self._clock()
        entry = keyring.primary(now)
        kid, key = entry.kid, keyring.secret_of(entry.kid)
        if key is None or entry.distrusted:
            return False
        if self.keyring is not None and self.keyring.secret_of(kid) is not None:
            return False
        block = key.ration.next_block
        if not block:
            return False
        try:
            return not self._write(keyring.document.with_uses(kid, block, now), root, None, {kid: block})
        except (KeyringError, StoreUnavailable):
            # Without them the ring still opens; whoever tends it asks again and tells why there are none.
            return False

    def make(self, uses: int) -> str | None:
        """Writes generation 1 and tells the id of its key; None where another was faster.

        Raises:
            KeyringError: a ring was there once, says the policy.
        """
        if self._policy.min_generation > 0:
            raise KeyringError(
                f"the store is empty, but [keys] min_generation is {self._policy.min_generation}: a ring was "
                "there, and a new one would open nothing that was sealed with it; restore it"
            )
        root = Root.fresh(self.ring, self._kek)
        kid, wrapped = _fresh_key(root)
        document = first_document(self.ring, root.wrapped, kid, wrapped, uses=uses, now=self._clock())
        return kid if self._write(document, root, None, {kid: uses}) else None

    def add_key(self, uses: int, fence: int | None = None) -> str:
        """Publishes a new key, with `uses` reserved for this process, and tells its id.

        Invariant 1 counts from the moment it can be seen: where writing took long, its activation is put off.

        Raises:
            KeyringError: a key is PENDING, or the ring is full.
            StoreUnavailable: it cannot be written, or others were faster each time.
        """
        kid, wrapped = _fresh_key(self._opened_root())
        begun = self._clock()
        self.publish(
            lambda document: self._with_key(document, kid, wrapped, uses), fence, granted={kid: uses}
        )
        self._put_off(kid, begun)
        return kid

    def distrust(self, kid: str, uses: int, *, rotate: bool) -> str | None:
        """Publishes that a key is distrusted, and with `rotate` a key in its place where none waits for that.

        Tells the id of that one, with `uses` reserved for this process; None where none was needed.

        Raises:
            KeyringError: the ring has no such key, it is destroyed, or it seals and `rotate` is not given.
            StoreUnavailable: as `add_key`.
        """
        successor, wrapped = _fresh_key(self._opened_root())
        begun = self._clock()

        def step(document: RingDocument) -> RingDocument:
            now = self._clock()
            document.check_distrust(kid, now, rotate=rotate)
            if document.keys[-1].kid == kid:
                return self._with_key(document, successor, wrapped, uses, distrusting=kid)
            return document.with_distrusted(kid, now)

        self.publish(step, granted={successor: uses})
        if self.known().secret_of(successor) is None:
            return None
        self._put_off(successor, begun)
        return successor

    def publish(
        self,
        step: Callable[[RingDocument], RingDocument],
        fence: int | None = None,
        *,
        granted: Mapping[str, int] | None = None,
    ) -> None:
        """Writes what `step` makes of the newest document, and again of a newer one where another was faster.

        `granted` says, by key id, which uses the step reserves for this process.

        Raises:
            StoreUnavailable: it cannot be written, or others were faster each time.
        """
        for attempt in range(1, _ATTEMPTS + 1):
            if self._write(step(self.known().document), self._opened_root(), fence, granted or {}):
                return
            _pause(attempt)
            self.take_in()
        raise StoreUnavailable(f"others were faster in writing ring {self.ring} {_ATTEMPTS} times")

    def mac_of_notice(self, message: bytes) -> bytes:
        """As Root's. Raises KeyringError while there is no ring."""
        return self._opened_root().mac_of_notice(message)

    def lease(self, holder: str, seconds: float) -> int | None:
        """The fence of a lease on the ring, or None while another has it."""
        lease = self._store.try_lease(RECORD, holder, seconds)
        return None if lease is None else lease.fence

    def _write(
        self, document: RingDocument, root: Root, fence: int | None, granted: Mapping[str, int]
    ) -> bool:
        body = root.write(document)
        # What could not be read back is not published: from the bytes, with the KEK, every new key.
        written, _ = read_document(body, self.ring, self._kek)
        keyring = self._build(written, root)
        if self._store.cas(RECORD, document.gen - 1, body, fence) is None:
            return False
        # Before others see the keyring: from then on, requests seal with its keys.
        for kid, block in granted.items():
            key = keyring.secret_of(kid)
            if key is not None and block:
                key.ration.grant(block)
        self.keyring, self._root = keyring, root
        return True

    def _build(self, document: RingDocument, root: Root) -> Keyring:
        current = self.keyring
        known = {} if current is None else {entry.kid: entry.wrapped for entry in current.keys}
        keys = []
        for entry in document.keys:
            if entry.wrapped is None:
                continue
            key = None if current is None else current.secret_of(entry.kid)
            if key is None or known[entry.kid] != entry.wrapped:
                ration = self._ration() if key is None else key.ration
                key = RingKey(self.ring, entry.kid, root.unwrap(entry.kid, entry.wrapped), ration)
            keys.append(key)
        return Keyring(document, keys)

    def _check_newness(self, document: RingDocument) -> None:
        current, now = self.keyring, self._clock()
        floor = max(self._policy.min_generation, 0 if current is None else current.gen)
        if document.gen < floor:
            raise KeyringError(
                f"the store has generation {document.gen} of ring {self.ring}, which was at {floor} already; "
                "restore the newer one"
            )
        if current is not None and document.gen == current.gen and document != current.document:
            raise KeyringError(
                f"the store has another generation {document.gen} of ring {self.ring} than before"
            )
        if document.issued_at > now + MAX_CLOCK_AHEAD:
            raise KeyringError(
                f"ring {self.ring} was issued at {show_time(document.issued_at)}, which is yet to come; "
                "set the clocks"
            )
        if current is None and document.issued_at < now - self._policy.oldest_first:
            raise KeyringError(
                f"ring {self.ring} was issued at {show_time(document.issued_at)}, longer ago than [keys] "
                f"max_document_age ({self._policy.oldest_first}); if it is the newest there is, "
                "raise that for one start"
            )

    def _with_key(
        self, document: RingDocument, kid: str, wrapped: bytes, uses: int, *, distrusting: str | None = None
    ) -> RingDocument:
        return document.with_key(
            kid,
            wrapped,
            uses=uses,
            now=self._clock(),
            delay=self._policy.activation_delay,
            retire_after=self._policy.retire_after,
            distrusting=distrusting,
        )

    def _put_off(self, kid: str, begun: datetime) -> None:
        """Sees to invariant 1 where a key took long to be published, after `begun`."""
        delay = self._policy.activation_delay
        if delay and self._clock() - begun > _PROMPT:
            self.publish(lambda document: document.postponed(kid, self._clock() + delay, self._clock()))

    def _opened_root(self) -> Root:
        if self._root is None:
            raise KeyringError(f"ring {self.ring} has not been read yet: call start() first")
        return self._root


def _pause(attempt: int) -> None:
    """Those who lost together would meet again together."""
    time.sleep(_chance.uniform(0, _PAUSE_SECONDS * attempt))


def _fresh_key(root: Root) -> tuple[str, bytes]:
    # A kid that the ring has already is refused by the document: once in four thousand million keys.
    kid = os.urandom(4).hex()
    return kid, root.wrap(kid, os.urandom(LENGTH))
