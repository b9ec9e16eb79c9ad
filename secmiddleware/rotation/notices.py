"""Notices: “record R of this ring has a new version: go and look”. CloudEvents 1.0 in JSON, with a MAC.

A notice carries no key, no state and no order. Whoever can write to the broker may withhold notices, repeat
and reorder them: the poll finds what they would have told, and a needless look is cheap. Nothing here raises
for what came over a wire. docs/token-format.md has the form.
"""

from __future__ import annotations

import base64
import hmac
import json
import os
import re
from collections import Counter, OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final, Literal, Protocol

from secmiddleware.encryption.derivation import lp
from secmiddleware.encryption.document import MAX_GEN, show_time

MOST_BYTES: Final = 4096
"""The largest notice that is read; one of ours has some 350 bytes."""
WINDOW: Final = timedelta(minutes=5)
"""How far a notice's time may be from ours, either way: brokers are fast, clocks are not all right."""
_REMEMBERED: Final = 1024
"""Notices known again when they are repeated; a ring has a few a month."""

_CONTEXT: Final = b"secmw/notice/v1"
_VERSION: Final = "1.0"
_TYPE: Final = "secmiddleware.record.written.v1"
_SIGNED: Final = ("specversion", "id", "source", "type", "subject", "time", "secmwgen")
"""In the order in which the MAC takes them."""
_FORMS: Final = {
    "id": re.compile(r"[0-9a-f]{32}"),
    "subject": re.compile(r"[a-z][a-z0-9-]{0,31}"),
    "time": re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", re.ASCII),
    "secmwgen": re.compile(r"[1-9][0-9]{0,15}"),
    "secmwmac": re.compile(r"[A-Za-z0-9_-]{43}"),
}

Mac = Callable[[bytes], bytes]
"""HMAC-SHA-256 under the ring's subkey for notices."""

Reason = Literal["too_large", "malformed", "elsewhere", "forged", "out_of_time", "replayed"]


@dataclass(frozen=True, slots=True)
class Notice:
    """An authentic one, not heard before."""

    ring: str
    record: str
    gen: int
    """The generation that its sender had written, or knew of."""


@dataclass(frozen=True, slots=True)
class Dropped:
    """What came is no notice for us."""

    reason: Reason
    """`elsewhere`: of another ring, or of another kind; `forged`: its MAC is not of this ring."""


class Messenger(Protocol):
    """Carries notices between processes, in a thread of its own. No method blocks, none raises."""

    def start(
        self, *, take: Callable[[bytes], None], compose: Callable[[], bytes], connected: Callable[[], None]
    ) -> None:
        """Begins to listen.

        Args:
            take: called with each body that comes, whatever it is; b"" for what had none.
            compose: called for the notice to send, when there is somebody to send it to.
            connected: called whenever listening has begun, for what was told before was not heard.
        """
        ...

    def announce(self) -> None:
        """Has a notice sent, soon and once, at best: a broker that is away may get it later, or never."""
        ...

    def stop(self) -> None:
        """Lets the thread end; waits for nothing. It can be started again."""
        ...

    def join(self, seconds: float) -> None:
        """Waits that long at most for the thread that was stopped."""
        ...

    def health(self) -> dict[str, Any]:
        """How the connection is, as JSON-ready data without a password.

        `connected_since` is None while there is none.
        """
        ...


def write_notice(ring: str, record: str, gen: int, now: datetime, mac: Mac) -> bytes:
    """The notice that `record` of `ring` has the version `gen`."""
    attributes = {
        "specversion": _VERSION,
        "id": os.urandom(16).hex(),
        "source": _source(ring),
        "type": _TYPE,
        "subject": record,
        "time": show_time(now),
        # Text: an Integer of CloudEvents ends at 2³¹−1.
        "secmwgen": str(gen),
    }
    signed = attributes | {"secmwmac": _sign(attributes, mac)}
    return json.dumps(signed, separators=(",", ":")).encode("ascii")


class NoticeReader:
    """Reads what comes, for one ring, and counts it. For one thread."""

    def __init__(self, ring: str, mac: Mac) -> None:
        """`mac` is asked anew for each notice."""
        self._ring = ring
        self._mac = mac
        self._heard: OrderedDict[str, None] = OrderedDict()
        self.seen = 0
        """Authentic ones, each once."""
        self.dropped: Counter[Reason] = Counter()

    def read(self, body: bytes, now: datetime) -> Notice | Dropped:
        """The notice in some bytes, or why they are not one. Never raises, whatever they are."""
        result = self._read(body, now)
        match result:
            case Notice():
                self.seen += 1
            case Dropped(reason):
                self.dropped[reason] += 1
        return result

    def _read(self, body: bytes, now: datetime) -> Notice | Dropped:
        if len(body) > MOST_BYTES:
            return Dropped("too_large")
        attributes = _parse(body)
        if attributes is None:
            return Dropped("malformed")
        if (attributes["source"], attributes["type"]) != (_source(self._ring), _TYPE):
            return Dropped("elsewhere")
        if not hmac.compare_digest(attributes["secmwmac"], _sign(attributes, self._mac)):
            return Dropped("forged")
        if abs(now - datetime.fromisoformat(attributes["time"])) > WINDOW:
            return Dropped("out_of_time")
        if attributes["id"] in self._heard:
            return Dropped("replayed")
        # Only what is authentic is remembered: nobody else can make us forget.
        self._heard[attributes["id"]] = None
        if len(self._heard) > _REMEMBERED:
            self._heard.popitem(last=False)
        return Notice(self._ring, attributes["subject"], int(attributes["secmwgen"]))


def _parse(body: bytes) -> dict[str, str] | None:
    """The attributes, each of its form; None for anything else."""
    try:
        loaded: Any = json.loads(body.decode("ascii"), object_pairs_hook=_no_doubles)
    except (ValueError, RecursionError):
        return None
    if type(loaded) is not dict or loaded.keys() != {*_SIGNED, "secmwmac"}:
        return None
    if not all(type(value) is str and value.isascii() for value in loaded.values()):
        return None
    if loaded["specversion"] != _VERSION:
        return None
    if not all(form.fullmatch(loaded[name]) for name, form in _FORMS.items()):
        return None
    try:
        datetime.fromisoformat(loaded["time"])
    except ValueError:
        return None
    return loaded if int(loaded["secmwgen"]) <= MAX_GEN else None


def _no_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise ValueError("doubled member")
    return members


def _source(ring: str) -> str:
    return f"/secmiddleware/rings/{ring}"


def _sign(attributes: dict[str, str], mac: Mac) -> str:
    message = _CONTEXT + b"".join(lp(attributes[name].encode("ascii")) for name in _SIGNED)
    return base64.urlsafe_b64encode(mac(message)).rstrip(b"=").decode("ascii")
