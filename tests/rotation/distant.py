"""A store that is far away, in this process."""

from __future__ import annotations

import threading
from typing import Literal

from secmiddleware.rotation.stores import MemoryStore


class NetworkStore(MemoryStore):
    """As if far away: looked at every `poll` only. Counts looks, and can hang in one, or break."""

    def __init__(self) -> None:
        super().__init__()
        self.looks = 0
        self.hangs = False
        self.inside = threading.Event()
        self.let_go = threading.Event()
        self.error: Exception | None = None
        self.error_in_writing: Exception | None = None

    @property
    def reach(self) -> Literal["network"]:  # type: ignore[override]
        return "network"

    def read_gen(self, name):
        self.looks += 1
        if self.hangs:
            self.inside.set()
            self.let_go.wait()
        if self.error is not None:
            raise self.error
        return super().read_gen(name)

    def cas(self, name, expect, body, fence=None):
        if self.error_in_writing is not None:
            raise self.error_in_writing
        return super().cas(name, expect, body, fence)
