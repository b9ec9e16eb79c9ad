"""Content codings (RFC 9110 §8.4): a body out of them within limits, and into them again.

gzip and deflate are Python's own; br and zstd come with the extras of these names, and are unknown without.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from typing import Any, Final, Protocol

from secmiddleware.fields.limits import Limits

RATIO_KEY: Final = "service.max_ratio"
BODY_KEY: Final = "service.max_body"

FREE: Final = 1 << 20
"""Bytes that any body may become, however little it was: a megabyte is decoded in about 3 ms."""

MOST: Final = 4
"""Codings of one body; nobody has a use for two."""

# A decompressor costs some 10 µs and its window: 4 MiB of empty members would be 200,000 of them.
_MOST_MEMBERS: Final = 1000
_SLICE: Final = 64 << 10

_GZIP: Final = 31
_ZLIB: Final = 15
_RAW: Final = -15
"""`wbits` of zlib: a header of gzip's, of zlib's own, none."""

_WINDOW_LOG: Final = 23
"""RFC 9659: a window of 8 MB is the largest of the content coding zstd."""


class UnknownCoding(ValueError):  # noqa: N818  (a fact about a body, for whoever must refuse it)
    """A coding that is not known here, or too many of them."""


class Undecodable(ValueError):  # noqa: N818
    """A body that is not what its codings say: other bytes, too few, or some to spare."""


class DecodedTooLarge(ValueError):  # noqa: N818
    """A body that becomes more than it may; the argument is the key of the limit."""


@dataclass(frozen=True, slots=True)
class Coding:
    """One coding, both ways."""

    decode: Callable[[bytes, int], bytes]
    """The decoded bytes, at most so many. Raises Undecodable, or DecodedTooLarge without a key."""
    encode: Callable[[bytes], bytes]


@cache
def known() -> Mapping[bytes, Coding]:
    """The codings that are known here, by name; the first call imports what is installed for them."""
    gzip = Coding(_gunzip, _gzip)
    found = {b"gzip": gzip, b"x-gzip": gzip, b"deflate": Coding(_inflate, zlib.compress)}
    for name, make in ((b"br", _brotli), (b"zstd", _zstd)):
        try:
            found[name] = make()
        except ImportError:
            continue
    return found


def decoded(body: bytes, codings: Iterable[bytes], limits: Limits) -> bytes:
    """The body without its codings, which are given in the order of their application.

    Nothing is decoded beyond the limits: neither beyond the largest body nor beyond the largest ratio, which
    holds for each coding and from a megabyte on.

    Raises:
        UnknownCoding: there is one that is not known here, or more than four.
        Undecodable: the body is not what they say, or goes on behind its end.
        DecodedTooLarge: it is more than it may be.
    """
    coders = coders_of(codings)
    for coder in reversed(coders):
        most = largest(len(body), limits)
        try:
            body = coder.decode(body, most)
        except DecodedTooLarge:
            raise DecodedTooLarge(RATIO_KEY if most < limits.body else BODY_KEY) from None
    return body


def largest(size: int, limits: Limits) -> int:
    """Bytes that so many may become without a coding."""
    return min(limits.body, max(FREE, limits.ratio * size))


def encoded(body: bytes, codings: Iterable[bytes]) -> bytes:
    """The body under codings, in the order of their application. Raises UnknownCoding."""
    for coder in coders_of(codings):
        body = coder.encode(body)
    return body


def coders_of(codings: Iterable[bytes]) -> list[Coding]:
    """What each coding is done and undone with. Raises UnknownCoding."""
    names, coders = list(codings), known()
    if len(names) > MOST or not all(name in coders for name in names):
        raise UnknownCoding
    return [coders[name] for name in names]


def admits(accepted: Iterable[bytes], codings: Iterable[bytes]) -> bool:
    """Whether a caller that sent these Accept-Encoding headers takes each of the codings.

    Without such a header a caller would have to take any (RFC 9110 §12.5.3); it is not relied on.
    """
    qualities: dict[bytes, bool] = {}
    for item in b",".join(accepted).lower().split(b","):
        name, _, parameter = item.partition(b";")
        qualities.setdefault(_name_of(name), not _is_zero(parameter))
    return all(qualities.get(_name_of(coding), qualities.get(b"*", False)) for coding in codings)


def _name_of(coding: bytes) -> bytes:
    name = coding.strip(b" \t")
    return b"gzip" if name == b"x-gzip" else name  # RFC 9110 §8.4.1.3


def _is_zero(parameter: bytes) -> bool:
    """Whether it is a quality of nothing: 0, 0.0 to 0.000; what cannot be read is nothing, too."""
    name, _, value = parameter.partition(b"=")
    if not name.strip(b" \t"):
        return False
    number = value.strip(b" \t")
    return name.strip(b" \t") != b"q" or not number[:1].isdigit() or not number.strip(b"0.")


class _Decompressor(Protocol):
    """What the decompressors of zlib and zstd have in common."""

    @property
    def eof(self) -> bool: ...

    @property
    def unused_data(self) -> bytes: ...

    def decompress(self, data: bytes, max_length: int, /) -> bytes: ...


def _members(
    data: bytes, limit: int, new: Callable[[], _Decompressor], error: type[Exception], most: int
) -> bytes:
    """What members, one behind the other, hold together. In slices: what is unused is copied each time."""
    pieces: list[bytes] = []
    at = members = 0
    current: _Decompressor | None = None
    while at < len(data):
        if current is None:
            members += 1
            if members > most:
                raise Undecodable
            current = new()
        piece = data[at : at + _SLICE]
        try:
            # One byte more than may be tells that there is one, and decompresses none of the rest.
            pieces.append(current.decompress(piece, limit + 1))
        except error:
            raise Undecodable from None
        limit -= len(pieces[-1])
        if limit < 0:
            raise DecodedTooLarge
        at += len(piece)
        if current.eof:
            at -= len(current.unused_data)
            current = None
    if current is not None:
        raise Undecodable
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)


def _gunzip(data: bytes, limit: int) -> bytes:
    # RFC 1952 §2.2: a file is a series of members.
    return _members(data, limit, lambda: zlib.decompressobj(_GZIP), zlib.error, _MOST_MEMBERS)


def _inflate(data: bytes, limit: int) -> bytes:
    """RFC 9110 §8.4.1.2: it is zlib's format, and some send deflate without it, as browsers take it."""
    wrapped = data[:1] and data[0] & 0x0F == 8 and int.from_bytes(data[:2], "big") % 31 == 0
    wbits = _ZLIB if wrapped else _RAW
    return _members(data, limit, lambda: zlib.decompressobj(wbits), zlib.error, 1)


def _gzip(body: bytes) -> bytes:
    packer = zlib.compressobj(wbits=_GZIP)  # no time and no name in it: equal bodies stay equal
    return packer.compress(body) + packer.flush()


def _brotli() -> Coding:
    brotli = import_module("brotli")

    def decode(data: bytes, limit: int) -> bytes:
        pieces, left = [], limit
        decompressor = brotli.Decompressor()
        while not decompressor.is_finished():
            try:
                piece: bytes = decompressor.process(data, output_buffer_limit=left + 1)
            except brotli.error:
                raise Undecodable from None
            if not piece and not data:
                raise Undecodable  # it wants more, and there is none
            pieces.append(piece)
            data = b""
            left -= len(piece)
            if left < 0:
                raise DecodedTooLarge
        return b"".join(pieces)

    def encode(body: bytes) -> bytes:
        # At 5 it is as fast as gzip, and better; the default, 11, takes a second for a megabyte.
        packed: bytes = brotli.compress(body, quality=5)
        return packed

    return Coding(decode, encode)


def _zstd() -> Coding:
    zstd: Any
    try:
        zstd = import_module("compression.zstd")
    except ImportError:
        zstd = import_module("backports.zstd")
    options = {zstd.DecompressionParameter.window_log_max: _WINDOW_LOG}

    def new() -> _Decompressor:
        decompressor: _Decompressor = zstd.ZstdDecompressor(options=options)
        return decompressor

    def decode(data: bytes, limit: int) -> bytes:
        return _members(data, limit, new, zstd.ZstdError, _MOST_MEMBERS)

    def encode(body: bytes) -> bytes:
        packed: bytes = zstd.compress(body)
        return packed

    return Coding(decode, encode)
