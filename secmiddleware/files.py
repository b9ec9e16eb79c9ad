"""Files that hold secrets: made private, replaced as a whole, read only where nobody else can read them.

What stands in them is others' business. POSIX only: modes are what is judged, access-control lists are
not seen.
"""

from __future__ import annotations

import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Final

from secmiddleware.errors import SecMiddlewareError

READ_LIMIT: Final = 1 << 20
"""Bytes that `read_secret` takes at most: far over any key, certificate or key ring, far under what hurts."""

_OTHERS: Final = 0o077
_FRESH: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


class SecretFileError(SecMiddlewareError):
    """A file that should hold a secret cannot be used; the message names it and says what to do."""


class SecretMissingError(SecretFileError, FileNotFoundError):
    """There is no such file."""


def write_secret(path: str | Path, data: bytes) -> None:
    """Makes a new file of mode 0600, safe on disk when this returns.

    Raises:
        FileExistsError: something of that name is there already, a dangling link included; it is not touched.
        OSError: it cannot be written; nothing is left behind.
    """
    path = Path(path)
    _write_fresh(path, data)
    _sync_folder(path.parent)


def replace_secret(path: str | Path, data: bytes) -> None:
    """Puts a file of mode 0600 in the place of `path` at one stroke: readers see the old bytes or the new.

    A killed process may leave a `.<name>.<hex>.tmp` beside it, never a broken `path`.

    Raises:
        OSError: it cannot be written; the old file is as it was.
    """
    path = Path(path)
    fresh = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
    _write_fresh(fresh, data)
    try:
        fresh.replace(path)
    except BaseException:
        fresh.unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)


@contextmanager
def begun_secret(path: str | Path, *, replace: bool = False) -> Iterator[BinaryIO]:
    """A file of mode 0600 to write to, which is `path` only once the block has ended well, whole and on disk.

    Otherwise `path` is what it was. A killed process may leave a `.<name>.<hex>.tmp` beside it.

    Raises:
        FileExistsError: something of that name is there, and is not to be replaced or is no regular file.
        OSError: it cannot be written.
    """
    path = Path(path)
    if os.path.lexists(path) and not (replace and path.is_file()):
        raise FileExistsError(path)
    fresh = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
    descriptor = os.open(fresh, _FRESH, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            os.fchmod(descriptor, 0o600)
            give_to_owner_of(path.parent, descriptor)
            yield file
            file.flush()
            os.fsync(descriptor)
        if replace:
            fresh.replace(path)
        else:
            # Unlike a rename, a link does not take the place of what has come there meanwhile.
            os.link(fresh, path)
            fresh.unlink()
    except BaseException:
        fresh.unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)


def read_secret(path: str | Path, *, limit: int = READ_LIMIT) -> bytes:
    """The bytes of a regular file that neither group nor others may touch.

    Links are followed (Kubernetes mounts secrets that way); what they lead to is judged. The file that was
    judged is the file that is read.

    Args:
        path: where it is.
        limit: the most bytes it may have.

    Raises:
        SecretMissingError: there is no such file.
        SecretFileError: it cannot be read, is no regular file, is too open or too large.
    """
    return _read(Path(path), limit, private=True)


def read_file(path: str | Path, *, limit: int = READ_LIMIT) -> bytes:
    """The bytes of a regular file that is no secret: as `read_secret`, but anybody may touch it.

    Raises:
        SecretMissingError: there is no such file.
        SecretFileError: it cannot be read, is no regular file, or too large.
    """
    return _read(Path(path), limit, private=False)


def _read(path: Path, limit: int, *, private: bool) -> bytes:
    try:
        # O_NONBLOCK: opening a fifo must not wait for its other end.
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError:
        raise SecretMissingError(f"{path}: there is no such file") from None
    except OSError as error:
        raise SecretFileError(f"{path}: cannot be read: {error.strerror}") from error
    try:
        # Before it becomes a file object: Python makes none of a folder.
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            raise SecretFileError(f"{path}: is not a regular file")
        if private and found.st_mode & _OTHERS:
            mode = stat.S_IMODE(found.st_mode)
            raise SecretFileError(f"{path}: others may use it (mode {mode:04o}); do: chmod 600 {path}")
        with os.fdopen(descriptor, "rb", closefd=False) as file:
            data = file.read(limit + 1)
    except OSError as error:
        raise SecretFileError(f"{path}: cannot be read: {error.strerror}") from error
    finally:
        os.close(descriptor)
    if len(data) > limit:
        raise SecretFileError(f"{path}: is larger than {limit} bytes")
    return data


def make_private_folder(path: str | Path) -> None:
    """Sees to a folder of mode 0700 whose own .gitignore keeps everything in it out of version control.

    Parents are made with the usual mode. A folder that is there is left as it is, if nobody else may use it.

    Raises:
        SecretFileError: it is there but too open, or it is no folder.
        OSError: it cannot be made.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        path.mkdir(mode=0o700)
    except FileExistsError:
        if not path.is_dir():
            raise SecretFileError(f"{path}: is not a folder") from None
        if too_open(path):
            raise SecretFileError(f"{path}: others may use this folder; do: chmod 700 {path}") from None
    try:
        _write_fresh(path / ".gitignore", b"*\n")
    except FileExistsError:
        return


def too_open(path: str | Path) -> bool:
    """Whether group or others may read, write or enter what `path` leads to.

    Raises:
        OSError: it is not there, or may not be asked about.
    """
    return bool(Path(path).stat().st_mode & _OTHERS)


def _write_fresh(path: Path, data: bytes) -> None:
    descriptor = os.open(path, _FRESH, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            # The umask may have taken bits away from what os.open asked for.
            os.fchmod(descriptor, 0o600)
            give_to_owner_of(path.parent, descriptor)
            file.write(data)
            file.flush()
            os.fsync(descriptor)
    except BaseException:
        path.unlink(missing_ok=True)
        raise


def give_to_owner_of(folder: Path, descriptor: int) -> None:
    """What root makes in somebody's folder is that somebody's: else `sudo` would lock a service out.

    Does nothing for anybody but root.
    """
    if os.geteuid() == 0:
        found = folder.stat()
        os.fchown(descriptor, found.st_uid, found.st_gid)


def _sync_folder(path: Path) -> None:
    # A rename or a new name is on disk only when its folder is.
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
