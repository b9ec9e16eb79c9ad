"""What is due on a key ring: uses to reserve, a rotation, a document to issue anew before it is too old.

Not safe for several threads by itself: whoever has it looks to that.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import datetime
from typing import Final

from secmiddleware.encryption.document import KeyState
from secmiddleware.encryption.record import KeyPolicy, RingRecord
from secmiddleware.encryption.uses import NEXT_BLOCK, ROTATE_AT
from secmiddleware.errors import KeyringError, SealError, StoreUnavailable

_LEASE_SECONDS: Final = 30.0
"""For one read and one write; whoever takes longer is refused by the store."""
_SPENDING: Final = frozenset({KeyState.PENDING, KeyState.PRIMARY})


class Upkeep:
    """Does to the ring in the store what its policy asks for, on behalf of one process."""

    def __init__(
        self, record: RingRecord, policy: KeyPolicy, first_block: int, clock: Callable[[], datetime]
    ) -> None:
        """`first_block` is how many uses are reserved first; 0: none ever."""
        self._record = record
        self._policy = policy
        self._first_block = first_block
        self._clock = clock
        self._name = os.urandom(8).hex()

    def reserve(self, now: datetime) -> None:
        """Reserves the next uses of each key that seals, or will. Raises KeyringError, StoreUnavailable."""
        keyring = self._record.known()
        refused: KeyringError | None = None
        for entry in keyring.keys:
            key = keyring.secret_of(entry.kid)
            if key is None or entry.distrusted or keyring.state_of(entry.kid, now) not in _SPENDING:
                continue
            block = key.ration.next_block
            if not block:
                continue
            try:
                self._reserve_block(entry.kid, block)
            except KeyringError as error:
                # A key that is used up must not keep the one that waits behind it from being ready.
                refused = refused or error
        if refused is not None:
            raise refused

    def reserve_more(self) -> bool:
        """Reserves uses of the primary key, each time twice as many; whether that could have helped.

        Raises SealError where none are to be had.
        """
        if self._first_block == 0:
            return False
        try:
            self._record.look()
            keyring = self._record.known()
            entry = keyring.primary(self._clock())
            key = keyring.secret_of(entry.kid)
            if key is None or entry.distrusted:
                return False
            if key.ration.left == 0:
                block = min(max(2 * key.ration.block, self._first_block), NEXT_BLOCK)
                self._reserve_block(entry.kid, block)
        except (StoreUnavailable, KeyringError) as error:
            raise SealError(f"no more uses of the key could be reserved: {error}") from error
        return True

    def rotate_if_due(self, now: datetime) -> bool:
        """Adds a key by the calendar or by the count; whether it did."""
        if not self._rotation_is_due(now):
            return False
        fence = self._record.lease(self.holder, _LEASE_SECONDS)
        if fence is None:
            return False
        # Another may have done it between our last look and the lease.
        self._record.take_in()
        if not self._rotation_is_due(now):
            return False
        self._record.add_key(self._first_block, fence)
        return True

    def reissue_if_due(self, now: datetime) -> None:
        """Issues the document anew where it is half as old as a new node would still take it."""
        if self._record.known().document.issued_at < now - self._policy.oldest_first / 2:
            self._record.publish(lambda document: document.reissued(self._clock()))

    def _reserve_block(self, kid: str, block: int) -> None:
        self._record.publish(
            lambda document: document.with_uses(kid, block, self._clock()), granted={kid: block}
        )

    def _rotation_is_due(self, now: datetime) -> bool:
        last = self._record.known().keys[-1]
        if now < last.activate_at:
            return False
        return (
            now >= last.activate_at + self._policy.rotate_every or last.uses >= ROTATE_AT or last.distrusted
        )

    @property
    def holder(self) -> str:
        """Who holds a lease: this process, and not the one that it was forked from."""
        return f"{self._name}-{os.getpid()}"
