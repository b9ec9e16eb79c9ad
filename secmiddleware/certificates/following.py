"""Server contexts that follow their files: a new certificate, an added or a removed CA, without a restart.

A context that is served with is never changed: a handshake could see one half of the old pair and one of the
new, and a CA can only be added to it. Another one is made of what the files have now, and takes the place of
the old for the connections that come; those that are open go on. What cannot be used changes nothing. One
thread a process looks, and none where nothing is served.
"""

from __future__ import annotations

import logging
import os
import ssl
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final
from weakref import WeakSet

from cryptography import x509

from secmiddleware.certificates.encoding import is_cut_short
from secmiddleware.certificates.handshakes import FullObject, FullSocket, Handshake, Terms, unusable
from secmiddleware.certificates.trust import CertificateError, load_anchors, load_intermediates, read_file
from secmiddleware.files import too_open
from secmiddleware.watched import Watched

_LOOK_SECONDS: Final = 1.0
# Certificate and key may be replaced one after the other; what has just changed is not read yet.
_SETTLING_SECONDS: Final = 0.1
_LARGEST_PEM: Final = 1 << 20

_logger: Final = logging.getLogger("secmiddleware.certificates")

Certificates = tuple[Path | x509.Certificate, ...]
"""Bundles of them by their files, and such as never change."""


@dataclass(frozen=True, slots=True)
class ServerFiles:
    """Where the terms of a server's handshakes are read from."""

    certificate: Path
    key: Path
    anchors: Certificates
    intermediates: Certificates
    handshake: Handshake
    alpn: tuple[str, ...]

    def paths(self) -> tuple[Path, ...]:
        """All files."""
        bundles = (one for one in (*self.anchors, *self.intermediates) if isinstance(one, Path))
        return (self.certificate, self.key, *bundles)

    def read(self) -> Terms:
        """The terms as the files have them now; raises CertificateError, which names the file."""
        try:
            chain, key = (read_file(path, _LARGEST_PEM) for path in (self.certificate, self.key))
        except CertificateError as error:
            raise CertificateError(f"{self.pair} cannot be used: {error}") from error
        if is_cut_short(chain):  # OpenSSL would show the certificates before the cut
            raise CertificateError(
                f"{self.certificate} is not whole, a certificate in it breaks off: replace it by a rename"
            )
        return Terms(
            chain,
            key,
            _certificates(self.anchors, load_anchors),
            _certificates(self.intermediates, load_intermediates),
            self.handshake,
            self.alpn,
        )

    @property
    def pair(self) -> str:
        """The two files of the pair, as messages name them."""
        return f"{self.certificate} with {self.key}"


def _certificates(
    ones: Certificates, load: Callable[[Path], tuple[x509.Certificate, ...]]
) -> tuple[x509.Certificate, ...]:
    found: dict[x509.Certificate, None] = {}
    for one in ones:
        found |= dict.fromkeys(load(one) if isinstance(one, Path) else (one,))
    return tuple(found)


class Shown:
    """Terms that are in force, and a context of them in which no session is kept."""

    def __init__(self, terms: Terms) -> None:
        """Raises OSError, as `ssl` does, where the terms have no usable pair."""
        self.terms = terms
        self._context = terms.context()

    def context(self) -> ssl.SSLContext:
        """A context without sessions.

        `OP_NO_TICKET` is not enough: where both ends close cleanly, as asyncio does, OpenSSL keeps TLS 1.2
        sessions by their id, and Python cannot switch that cache off. A client that offers a session finds an
        empty cache here, and makes a full handshake. One that connects before the session is made and offers
        it afterwards gets no connection. With TLS 1.3 the cache stays empty, and so the context.
        """
        context = self._context
        if context.session_stats()["number"]:
            context = self._context = self.terms.context()
        return context


class Source:
    """Where the contexts of one server come from, in whatever process."""

    def __init__(self, files: ServerFiles) -> None:
        """Reads the files; raises CertificateError, which names them."""
        self.files = files
        self._again = False
        self._watched = Watched(files.paths(), self._read, "files of TLS", _logger)
        self._again = True
        self.begun = False
        """Whether this process serves from it."""

    @property
    def terms(self) -> Terms:
        """What is in force."""
        return self._watched.made.terms

    @property
    def trouble(self) -> str | None:
        """Why the files as they are now are not in force; None where they are."""
        return self._watched.trouble

    def context(self) -> ssl.SSLContext:
        """What the next connection is to be made with; the first one of a process looks at the files."""
        if not self.begun:
            _watcher.begin(self)
        return self._watched.made.context()

    def look(self, settling: float = 0.0) -> None:
        """Puts into force what has changed and is good. For one thread at a time.

        What is not good now may be in an hour: a certificate of tomorrow.
        """
        self._watched.look(settling, again=self.trouble is not None)

    def _read(self) -> Shown:
        terms = self.files.read()
        try:
            shown = Shown(terms)
        except OSError as error:  # SSLError is one
            raise unusable(self.files.pair, error) from error
        # One that was bad at the start is the operator's word; no good one gives way to one that is bad.
        if self._again:
            self._check(terms)
        return shown

    def _check(self, terms: Terms) -> None:
        fault = terms.fault(datetime.now(UTC))
        if fault is not None:
            raise CertificateError(f"{self.files.certificate} cannot be used: {fault}")
        with suppress(OSError):  # gone since it was read, it is another one at the next look
            if too_open(self.files.key):
                message = f"{self.files.key} can be used by others: do chmod 600 {self.files.key}"
                raise CertificateError(message)


class FollowingContext(ssl.SSLContext):
    """A server's context that makes no connection itself: each is made by the one that is in force then."""

    sslobject_class, sslsocket_class = FullObject, FullSocket
    source: Source

    def wrap_bio(self, *arguments: Any, **options: Any) -> ssl.SSLObject:
        """As SSLContext does it."""
        return self.source.context().wrap_bio(*arguments, **options)

    def wrap_socket(self, sock: Any, *arguments: Any, **options: Any) -> ssl.SSLSocket:
        """As SSLContext does it; what listens keeps this context, and asks it for each connection."""
        if _listens(sock):
            return super().wrap_socket(sock, *arguments, **options)
        return self.source.context().wrap_socket(sock, *arguments, **options)


def following_context(files: ServerFiles) -> ssl.SSLContext:
    """A context that follows these files; raises CertificateError, which names one that cannot be used."""
    context = FollowingContext(ssl.PROTOCOL_TLS_SERVER)
    context.source = Source(files)
    # For whoever looks at it: it is as the first of those that it stands for.
    return context.source.terms.configure(context)


def served_from(certificate: Path, key: Path) -> Source | None:
    """Where this process gets the handshakes of a server with this pair from; None where there is none."""
    return next(
        (
            source
            for source in _watcher.sources()
            if (source.files.certificate, source.files.key) == (certificate, key)
        ),
        None,
    )


def _listens(sock: Any) -> bool:
    with suppress(OSError):
        sock.getpeername()
        return False
    return True


class _Watcher:
    """The thread that looks, as long as there is anything to look at."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._sources: WeakSet[Source] = WeakSet()
        self._thread: threading.Thread | None = None

    def sources(self) -> tuple[Source, ...]:
        """From where this process serves."""
        with self._lock:
            return tuple(self._sources)

    def begin(self, source: Source) -> None:
        """Looks at once, since the start may have been long ago, and from then on."""
        with self._lock:
            if source.begun:
                return
            source.look()
            source.begun = True
            self._sources.add(source)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="secmiddleware-tls", daemon=True)
                self._thread.start()

    def _run(self) -> None:
        while True:
            time.sleep(_LOOK_SECONDS)
            with self._lock:
                sources = tuple(self._sources)
                if not sources:
                    self._thread = None
                    return
            for source in sources:
                try:
                    source.look(_SETTLING_SECONDS)
                except Exception:
                    _logger.exception("what is watched for TLS met an error; the watch goes on")
            # Else the last one would be held here, and never be let go.
            del sources, source

    def leave_the_parent(self) -> None:
        """In the child of a fork nobody serves yet, and there is no thread."""
        for source in tuple(self._sources):
            source.begun = False
        self._lock = threading.Lock()  # a thread of the parent may have held it
        self._sources = WeakSet()
        self._thread = None


_watcher: Final = _Watcher()
os.register_at_fork(after_in_child=_watcher.leave_the_parent)
