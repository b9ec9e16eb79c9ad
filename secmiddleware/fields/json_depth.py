"""Reading JSON no deeper than a limit: arrays and objects inside each other.

A parser does not tell how deep it went. So it is told by what there is: few brackets; the interpreter's own
limit of recursion, where that can be made tight; else the brackets that stand in no string are counted.
"""

from __future__ import annotations

import os
import re
import sys
import threading
from collections.abc import Callable, Iterator
from functools import lru_cache
from itertools import accumulate
from typing import Any, Final, Generic, TypeVar

import msgspec

T = TypeVar("T")

# Where the interpreter's limit is the quicker proof: it takes 10 µs, brackets 1 to 4 ns a byte.
_LARGE: Final = 8 * 1024
# So deep may an app raise that limit before it is left alone; the usual one is 1000.
_MOST_STEPS: Final = 1500
# Bodies of less depth than this are proven at once; a parser takes a step or two of its own.
_USUAL: Final = 30

_OPEN_ARRAY: Final = ord("[")
# So much of a body is copied at once.
_PART: Final = 64 * 1024
_NOT_SKELETON: Final = bytes(set(range(256)) - set(b'[]{}"'))
_STRING: Final = re.compile(rb'"[^"]*+"')
_STEP: Final = [1 if byte in b"[{" else -1 if byte in b"]}" else 0 for byte in range(256)]


class TooDeep(ValueError):  # noqa: N818  (a fact about a body, for whoever must refuse it)
    """A body of the right grammar that is deeper than the limit."""


def decode_shallow(decode: Callable[[bytes], T], body: bytes, limit: int) -> T:
    """What msgspec's `decode` makes of the body, if that is no deeper than `limit`.

    Raises:
        TooDeep: it is deeper.
        RecursionError: it is so much deeper that the interpreter gave up.

    Whatever else `decode` raises goes through.
    """
    if len(body) <= 2 * limit:  # a level takes two bytes
        return decode(body)
    if len(body) < _LARGE:
        decoded = decode(body)
        if not is_surely_shallow(body, limit) and depth(body) > limit:
            raise TooDeep
        return decoded
    try:
        return _decode_at_the_limit(decode, body, limit)
    except (_Unproven, RecursionError):
        decoded = decode(body)
    if depth(body) > limit:
        raise TooDeep
    return decoded


def is_surely_shallow(body: bytes, limit: int) -> bool:
    """Whether it is by the brackets that open in it, in strings and out of them, no deeper than `limit`."""
    # To look for one byte is ten times quicker than to count it, and many bodies are one flat object.
    arrays = body.count(b"[") if _OPEN_ARRAY in body else 0
    # A level takes five bytes, `{"":}`; if it is an array or the last, two.
    if len(body) < 5 * limit - 3 * arrays + 2:
        return True
    objects = body.count(b"{") if body.rfind(b"{") > 0 else 1
    return arrays + objects <= limit


def depth(body: bytes) -> int:
    """How deep a body of the right grammar is."""
    brackets = b"".join(_skeleton(body)).replace(b'""', b"")
    if b'"' in brackets:
        brackets = _STRING.sub(b"", brackets)
    return max(accumulate(map(_STEP.__getitem__, brackets)), default=0)


def _skeleton(body: bytes) -> Iterator[bytes]:
    """The brackets, and the quotes in which strings stand, of one part of the body after the other."""
    position = 0
    while position < len(body):
        end = position + _PART
        while body[end - 1 : end] == b"\\":  # an escape is not cut in two
            end += 1
        part = body[position:end]
        if b"\\" in part:
            # Pairs first: what is left of a run of backslashes escapes the quote behind it.
            part = part.replace(b"\\\\", b"").replace(b'\\"', b"")
        yield part.translate(None, _NOT_SKELETON)
        position = end


class _Unproven(Exception):  # noqa: N818  (does not leave this module)
    """The interpreter's limit says nothing about a body here and now."""


def _decode_at_the_limit(decode: Callable[[bytes], T], body: bytes, limit: int) -> T:
    """What `decode` makes of the body where little is left of the interpreter's limit of recursion.

    CPython 3.11 counts the levels of a parser in C with those of Python, and refuses what would be too many.
    So we go down first, by the quickest way there is: `isinstance` with tuples inside each other. That so
    little is left is seen and not reckoned: at the bottom, a text one deeper than `limit` must be refused.
    """
    if sys.version_info >= (3, 12) or not _is_roomy():
        raise _Unproven  # from 3.12 on C has a limit of its own, which is no lower than 10,000
    steps = sys.getrecursionlimit() - _stack() - limit + min(_USUAL, limit // 2)
    if not 0 < steps <= _MOST_STEPS or limit < 2 * _USUAL:
        raise _Unproven
    work = _Work(decode, body, limit)
    if not isinstance(work, _way_down(steps)):
        raise _Unproven
    decoded: T = work.decoded
    return decoded


def _has_glibc() -> bool:
    try:
        return (os.confstr("CS_GNU_LIBC_VERSION") or "").startswith("glibc")
    except (AttributeError, ValueError, OSError):
        return False


# Each step takes some 150 bytes of C's stack: glibc gives threads 8 MiB of it, musl 128 KiB.
_GLIBC: Final = _has_glibc()
_ROOMY: Final = 1 << 20


def _is_roomy() -> bool:
    """Whether a thing of some hundred kilobytes may be put on the stack of any thread."""
    size = threading.stack_size()
    return _GLIBC and (size == 0 or size >= _ROOMY)


class _Work(Generic[T]):
    """What is to be done at the bottom."""

    __slots__ = ("_body", "_decode", "_limit", "decoded")

    def __init__(self, decode: Callable[[bytes], T], body: bytes, limit: int) -> None:
        self._decode = decode
        self._body = body
        self._limit = limit
        self.decoded: T

    def do(self) -> bool:
        """Whether it has been done, and has proven something."""
        if _can_go(self._limit + 1):
            return False
        self.decoded = self._decode(self._body)
        return True


class _Asking(type):
    def __instancecheck__(cls, instance: Any) -> bool:
        return bool(instance.do())


class _Bottom(metaclass=_Asking):
    """Whoever asks whether some work is one of these has it done."""


def _stack() -> int:
    frame: Any = sys._getframe()  # noqa: SLF001  (documented, and the only way)
    count = 0
    while frame is not None:
        frame = frame.f_back
        count += 1
    return count


_raw: Final = msgspec.json.Decoder(msgspec.Raw)


@lru_cache(maxsize=8)
def _nested(levels: int) -> bytes:
    return b"[" * levels + b"]" * levels


def _can_go(levels: int) -> bool:
    try:
        _raw.decode(_nested(levels))
    except RecursionError:
        return False
    return True


@lru_cache(maxsize=32)
def _way_down(steps: int) -> Any:
    way: Any = _Bottom
    for _ in range(steps):
        way = (way,)
    return way
