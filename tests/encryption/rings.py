"""A key-encryption key, a clock that stands still until it is told, and managers over one store.

Every manager stands for a process of its own: they share the store and nothing else.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

from secmiddleware.encryption.document import RingDocument
from secmiddleware.encryption.kek import Kek
from secmiddleware.encryption.manager import EncryptionManager, KeyPolicy
from secmiddleware.encryption.record import RECORD
from secmiddleware.encryption.root import read_document
from secmiddleware.encryption.tokens import kid_of
from secmiddleware.errors import StoreUnavailable
from secmiddleware.rotation.stores import MemoryStore
from secmiddleware.state import Document, Lease, StateStore

RING = "payments"
KEK = bytes(range(200, 232))
TICK = timedelta(microseconds=1)
DELAY = KeyPolicy().activation_delay
RETIRE = KeyPolicy().retire_after


class Clock:
    def __init__(self) -> None:
        self.now = datetime(2026, 6, 1, 12, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.now

    def forward(self, span: timedelta | None = None, **parts: float) -> datetime:
        self.now += timedelta(**parts) if span is None else span
        return self.now


def manager_of(store: StateStore, clock: Callable[[], datetime], **arguments: Any) -> EncryptionManager:
    """Not started. Parts of the policy and of the manager alike are arguments."""
    policy = {name: arguments.pop(name) for name in list(arguments) if name in KeyPolicy.__slots__}
    known: dict[str, Any] = {"store": store, "kek": Kek(KEK), "ring": RING, "clock": clock}
    return EncryptionManager(policy=KeyPolicy(**policy), **(known | arguments))


def stored(store: StateStore, kek: bytes = KEK, ring: str = RING) -> RingDocument:
    """What a process that knows nothing yet would find in the store."""
    found = store.read(RECORD)
    assert found is not None
    return read_document(found.body, ring, Kek(kek))[0]


def rewrite(store: StateStore, step: Callable[[RingDocument], RingDocument]) -> int:
    """Lets somebody who holds the KEK write the next generation; tells it."""
    found = store.read(RECORD)
    assert found is not None
    document, root = read_document(found.body, RING, Kek(KEK))
    gen = store.cas(RECORD, found.gen, root.write(step(document)))
    assert gen is not None
    return gen


def started(make: Callable[..., EncryptionManager], **arguments: Any) -> EncryptionManager:
    """What `make` makes of the arguments, started."""
    manager = make(**arguments)
    manager.start()
    return manager


def tended(make: Callable[..., EncryptionManager], **arguments: Any) -> EncryptionManager:
    """Started, with a rotation line that has not come to it yet: it reserves nothing by itself."""
    manager = started(make, **arguments)
    manager.watched_by(lambda: None, lambda: None)
    return manager


def sealing_key(manager: EncryptionManager) -> str:
    """The id of the key that a token is made with now; takes a use."""
    return kid_of(manager.seal("ssn", b"1").encode())


def states(manager: EncryptionManager) -> list[str]:
    """Of all keys, the oldest first."""
    return [key["state"] for key in manager.status()["keys"]]


class FailingStore(MemoryStore):
    """A memory store that can be away, or slow by the clock, when it is told to be."""

    def __init__(self, clock: Clock) -> None:
        super().__init__()
        self.away = False
        self.slow = timedelta()
        self._clock = clock

    def _answer(self) -> None:
        if self.away:
            raise StoreUnavailable("the store is away")

    def read_gen(self, name: str) -> int:
        self._answer()
        return super().read_gen(name)

    def read(self, name: str) -> Document | None:
        self._answer()
        return super().read(name)

    def cas(self, name: str, expect: int, body: bytes, fence: int | None = None) -> int | None:
        self._answer()
        # Time passes before the others can see it.
        self._clock.forward(self.slow)
        self.slow = timedelta()
        return super().cas(name, expect, body, fence)

    def try_lease(self, name: str, holder: str, ttl_s: float) -> Lease | None:
        self._answer()
        return super().try_lease(name, holder, ttl_s)
