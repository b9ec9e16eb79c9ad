"""The stores of shared state that need no server: this process's memory, and a file of this host."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple

from secmiddleware.errors import KeyringError, StoreUnavailable
from secmiddleware.files import (
    READ_LIMIT,
    SecretFileError,
    SecretMissingError,
    give_to_owner_of,
    make_private_folder,
    read_secret,
    replace_secret,
)
from secmiddleware.state import Document, Lease, StateStore

_PATIENCE_SECONDS: Final = 2.0
"""How long another process's write is waited for; one takes milliseconds."""
_SETTLED_NS: Final = 100_000_000
"""A file younger than this may be replaced by one of the same inode, size and time: the clocks of file
systems tick every 1 to 10 ms."""
_MAX_GEN: Final = (1 << 53) - 1
"""The largest integer that every JSON reader keeps (RFC 8259 §6); sixteen digits, as in the floor."""
_NAME: Final = re.compile(r"(?!(?:floor|lease|lock)\Z)[a-z][a-z0-9-]{0,31}")
"""Of a record; not of what stands beside one."""
_LEFT: Final = re.compile(r"(?:\.floor|\.lease)?\.[0-9a-f]{16}\.tmp")
"""What `replace_secret` leaves behind the name of a record's file when its process is killed."""
_READ_ONLY: Final = frozenset({errno.EROFS, errno.EACCES, errno.EPERM})


def open_store(reference: str) -> StateStore:
    """The store that `[keys] store` names: `memory:` or `file:PATH`.

    Raises ValueError for any other reference.
    """
    scheme, _, rest = reference.partition(":")
    match scheme:
        case "memory" if reference == "memory:":
            return MemoryStore()
        case "file" if rest:
            return FileStore(rest)
        case _:
            # Not echoed: another kind of store may have a password in its address.
            raise ValueError("a store is memory: or file:PATH")


class MemoryStore:
    """Records that live and die with this process. Each worker has its own: never for more than one."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._records: dict[str, Document] = {}
        self._leases: dict[str, tuple[str, int, float]] = {}

    @property
    def reach(self) -> Literal["process"]:
        """This process."""
        return "process"

    def read_gen(self, name: str) -> int:
        """As StateStore."""
        record = self._records.get(name)
        return 0 if record is None else record.gen

    def read(self, name: str) -> Document | None:
        """As StateStore."""
        return self._records.get(name)

    def cas(self, name: str, expect: int, body: bytes, fence: int | None = None) -> int | None:
        """As StateStore."""
        with self._alone():
            _, newest, _ = self._leases.get(name, ("", 0, 0.0))
            if self.read_gen(name) != expect or (fence is not None and fence != newest):
                return None
            self._records[name] = Document(expect + 1, body)
            return expect + 1

    def try_lease(self, name: str, holder: str, ttl_s: float) -> Lease | None:
        """As StateStore."""
        with self._alone():
            now = time.time()
            found = self._leases.get(name)
            granted = _next_lease(found, holder, now, ttl_s)
            if granted is not None:
                self._leases[name] = granted
            return _as_lease(granted)

    def close(self) -> None:
        """As StateStore; the records stay."""

    @contextmanager
    def _alone(self) -> Iterator[None]:
        # In the child of a fork the lock may be held by a thread that is not there.
        if not self._lock.acquire(timeout=_PATIENCE_SECONDS):
            raise StoreUnavailable("the memory store is held by a thread that does not answer")
        try:
            yield
        finally:
            self._lock.release()


class _Seen(NamedTuple):
    """What a file looked like when it was read, and the generation that was in it."""

    inode: int
    size: int
    written_ns: int
    changed_ns: int
    """Its mode counts too: a file that others may use from now on is no longer as it was."""
    gen: int


class FileStore:
    """Records of one host, each a file that holds its body as it is; for processes on a local file system.

    Record `ring` is the file itself, another record `PATH.<name>`. Bodies are JSON objects whose member
    `gen` is their generation. Beside each file: `.lock` (flock), `.floor` (the highest generation seen),
    `.lease`. Against a file that went back or got lost, the floor makes it an error until an operator says
    otherwise by removing it.
    """

    def __init__(self, path: str | Path) -> None:
        """Touches nothing yet. A link is followed once, here: what is replaced is what it leads to."""
        self.path = Path(os.path.realpath(path))
        self._seen: dict[str, _Seen] = {}

    @property
    def reach(self) -> Literal["host"]:
        """This host."""
        return "host"

    def read_gen(self, name: str) -> int:
        """As StateStore. One stat() while the file is as it was."""
        path = self._path(name)
        try:
            found = path.stat()
        except FileNotFoundError:
            # Whether it may be missing, `read` knows.
            found = None
        except OSError as error:
            raise StoreUnavailable(f"{path}: cannot be read: {error.strerror}") from error
        seen = self._seen.get(name)
        if found is not None and seen is not None and seen[:-1] == _look_of(found):
            return seen.gen
        record = self.read(name)
        return 0 if record is None else record.gen

    def read(self, name: str) -> Document | None:
        """As StateStore.

        Raises:
            StoreUnavailable: the file cannot be read, or others may read it.
            KeyringError: its generation is lower than one seen before, it is gone, or it is no record.
        """
        path = self._path(name)
        record, floor = self._read(name, path)
        if record is not None and record.gen > floor:
            self._raise_floor(path, record.gen)
        return record

    def cas(self, name: str, expect: int, body: bytes, fence: int | None = None) -> int | None:
        """As StateStore. A process killed in the middle leaves the old file or the new one.

        Raises:
            ValueError: `gen` in the body is not `expect` + 1, or the body is larger than is read again.
        """
        path = self._path(name)
        if _gen_of(body) != expect + 1:
            raise ValueError(f"the body of generation {expect + 1} does not say so")
        if len(body) > READ_LIMIT:
            raise ValueError(f"a record has at most {READ_LIMIT} bytes")
        with self._alone(path):
            found, _ = self._read(name, path)
            if (0 if found is None else found.gen) != expect:
                return None
            if fence is not None and fence != self._lease(path)[1]:
                return None
            _sweep(path)
            replace_secret(path, body)
            replace_secret(_beside(path, ".floor"), b"%d\n" % (expect + 1))
        return expect + 1

    def try_lease(self, name: str, holder: str, ttl_s: float) -> Lease | None:
        """As StateStore; by this host's clock."""
        path = self._path(name)
        with self._alone(path):
            granted = _next_lease(self._lease(path), holder, time.time(), ttl_s)
            if granted is not None:
                text = json.dumps(dict(zip(("holder", "fence", "until"), granted, strict=True)))
                replace_secret(_beside(path, ".lease"), text.encode("ascii"))
        return _as_lease(granted)

    def close(self) -> None:
        """As StateStore; nothing is held open between calls."""

    def __repr__(self) -> str:
        return f"FileStore({str(self.path)!r})"

    def _path(self, name: str) -> Path:
        if _NAME.fullmatch(name) is None:
            raise ValueError(f"{name!r} is no name for a record")
        return self.path if name == "ring" else self.path.with_name(f"{self.path.name}.{name}")

    def _read(self, name: str, path: Path) -> tuple[Document | None, int]:
        # The floor first: a write between the two reads may only raise what the file has.
        floor = self._floor(path)
        try:
            before = path.stat()
            body = read_secret(path)
        except (SecretMissingError, FileNotFoundError):
            if floor:
                raise KeyringError(
                    f"{path}: is gone, but was at generation {floor}; restore it. "
                    f"To begin anew and lose all that was sealed, remove {path}.floor"
                ) from None
            return None, 0
        except (SecretFileError, OSError) as error:
            raise StoreUnavailable(str(error)) from error
        gen = _gen_of(body)
        if gen is None:
            raise KeyringError(f"{path}: is no record with a generation; restore it")
        if gen < floor:
            raise KeyringError(
                f"{path}: is at generation {gen}, but was at {floor}; restore the newer one. "
                f"To take the older one all the same, remove {path}.floor"
            )
        if time.time_ns() - max(before.st_mtime_ns, before.st_ctime_ns) > _SETTLED_NS:
            # Of before the read: if it was replaced in between, the next look reads again.
            self._seen[name] = _Seen(*_look_of(before), gen)
        return Document(gen, body), floor

    def _floor(self, path: Path) -> int:
        floor = _beside(path, ".floor")
        try:
            text = read_secret(floor, limit=64)
        except SecretMissingError:
            return 0
        except SecretFileError as error:
            raise StoreUnavailable(str(error)) from error
        if re.fullmatch(rb"[0-9]{1,16}\n", text) is None:
            raise KeyringError(
                f"{floor}: holds no generation, with a line end; write the one of {path.name} into it"
            )
        return int(text)

    def _raise_floor(self, path: Path, gen: int) -> None:
        try:
            # Mostly a writer is just about to do it; among many of them there may be no lock to be had.
            with self._alone(path, lambda: self._floor(path) >= gen):
                if self._floor(path) < gen:
                    replace_secret(_beside(path, ".floor"), b"%d\n" % gen)
        except StoreUnavailable as error:
            # Somebody who may only read the folder reads all the same; the writers keep the floor.
            if not (isinstance(error.__cause__, OSError) and error.__cause__.errno in _READ_ONLY):
                raise

    def _lease(self, path: Path) -> tuple[str, int, float]:
        try:
            loaded = json.loads(read_secret(_beside(path, ".lease"), limit=4096))
            return str(loaded["holder"]), int(loaded["fence"]), float(loaded["until"])
        except SecretMissingError:
            return "", 0, 0.0
        except (SecretFileError, ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
            raise StoreUnavailable(f"{path}.lease: cannot be used; remove it") from error

    @contextmanager
    def _alone(self, path: Path, moot: Callable[[], bool] = lambda: False) -> Iterator[None]:
        """Alone among all processes and threads that write here; I/O errors inside are StoreUnavailable.

        Where `moot` says that others have done it already, not alone and without waiting any longer.
        """
        try:
            if not path.parent.exists():
                make_private_folder(path.parent)
            descriptor = os.open(
                _beside(path, ".lock"), os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600
            )
        except (OSError, SecretFileError) as error:
            raise StoreUnavailable(f"{path}.lock: cannot be used: {error}") from error
        try:
            give_to_owner_of(path.parent, descriptor)
            _lock(descriptor, path, moot)
            yield
        except OSError as error:
            raise StoreUnavailable(f"{path}: cannot be written: {error.strerror}") from error
        finally:
            # Closing lets go of the lock, as the death of the process does.
            os.close(descriptor)


def _lock(descriptor: int, path: Path, moot: Callable[[], bool]) -> None:
    deadline = time.monotonic() + _PATIENCE_SECONDS
    pause = 0.0005
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if moot():
                return
            if time.monotonic() > deadline:
                raise StoreUnavailable(f"{path}.lock: another process holds it and does not let go") from None
            time.sleep(pause)
            pause = min(2 * pause, 0.02)
        else:
            return


def _sweep(path: Path) -> None:
    # What a killed writer left: nobody else writes this record now, but others may write others beside it.
    for beside in path.parent.iterdir():
        if beside.name.startswith(f".{path.name}") and _LEFT.fullmatch(beside.name, len(path.name) + 1):
            beside.unlink(missing_ok=True)


def _beside(path: Path, suffix: str) -> Path:
    return path.with_name(path.name + suffix)


def _look_of(found: os.stat_result) -> tuple[int, int, int, int]:
    return found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def _gen_of(body: bytes) -> int | None:
    try:
        loaded: Any = json.loads(body)
    except (ValueError, RecursionError):
        return None
    gen = loaded.get("gen") if type(loaded) is dict else None
    return gen if type(gen) is int and 1 <= gen <= _MAX_GEN else None


def _next_lease(
    found: tuple[str, int, float] | None, holder: str, now: float, ttl_s: float
) -> tuple[str, int, float] | None:
    owner, fence, until = found or ("", 0, 0.0)
    # A lease from the far future was written under another clock: it must not lock everybody out.
    if owner != holder and now < until <= now + 10 * ttl_s:
        return None
    return holder, fence + 1, now + ttl_s


def _as_lease(granted: tuple[str, int, float] | None) -> Lease | None:
    if granted is None:
        return None
    _, fence, until = granted
    return Lease(fence, datetime.fromtimestamp(until, UTC))
