"""Where shared state stands: small records with a generation each, written by compare-and-set.

The Protocol only; rotation/stores.py has the stores. Nobody on the path of a request ever calls one.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal, Protocol

Reach = Literal["process", "host", "network"]
"""Who sees the same records: this process, every process of this host, or every host."""


@dataclass(frozen=True, slots=True)
class Document:
    """One generation of a record."""

    gen: int
    """Counted from 1 by one."""
    body: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Lease:
    """The promise that nobody else gets this lease before `until`."""

    fence: int
    """Grows with every holder: a write that carries an older one is refused."""
    until: datetime


class StateStore(Protocol):
    """Records under short names (`ring`, `revocations`, ...); synchronous; safe to call from several threads.

    Every method raises StoreUnavailable when the store cannot be reached or does not answer in time, and
    KeyringError when what it finds is from the past, gone though it was there, or no record at all.
    """

    @property
    def reach(self) -> Reach:
        """Who sees the same records."""
        ...

    def read_gen(self, name: str) -> int:
        """The generation that is there now; 0 where nothing is. Cheap: meant to be asked often."""
        ...

    def read(self, name: str) -> Document | None:
        """The record that is there now."""
        ...

    def cas(self, name: str, expect: int, body: bytes, fence: int | None = None) -> int | None:
        """Writes generation `expect` + 1 and tells it, if `expect` is what is there (0: nothing is).

        None, and nothing written, where another was faster or `fence` is no longer the newest.
        """
        ...

    def try_lease(self, name: str, holder: str, ttl_s: float) -> Lease | None:
        """A lease for `ttl_s` seconds, or None while another holder has it; a holder may renew its own."""
        ...

    def close(self) -> None:
        """Lets go of whatever the store holds open; may be called twice."""
        ...
