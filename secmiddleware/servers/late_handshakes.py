"""TLS sockets whose handshake waits for the thread that reads from them.

Werkzeug and cheroot make it where they accept: one client who says nothing holds up all others. OpenSSL would
make it unseen at the first read, and a resumed session would not be noticed then.
"""

from __future__ import annotations

import socket
import ssl
from functools import cache
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    _Stock = ssl.SSLSocket
else:
    _Stock = object

# As with gunicorn: each silent client costs a thread for so long, and nobody else waits.
_SILENCE_SECONDS: Final = 20.0


class Door:
    """A TLS context, as far as a server uses one to wrap a socket, be it one that listens or a connection."""

    def __init__(self, context: ssl.SSLContext, failure: type[Exception] | None = None) -> None:
        """`failure` is what a handshake that fails raises, in place of an OSError."""
        self._context = context
        self._failure = failure

    def wrap_socket(self, raw: socket.socket, **options: Any) -> ssl.SSLSocket:
        """The TLS socket, its handshake still to come."""
        wrapped = self._context.wrap_socket(raw, **{**options, "do_handshake_on_connect": False})
        return _late(wrapped, self._failure)


def _late(wrapped: ssl.SSLSocket, failure: Any) -> ssl.SSLSocket:
    stock: Any = type(wrapped)
    wrapped.__class__ = _kind_of(stock, failure)
    return wrapped


@cache
def _kind_of(stock: Any, failure: Any) -> type[ssl.SSLSocket]:
    return type("LateSocket", (_LateSocket, stock), {"failure": failure})


class _LateSocket(_Stock):
    """Mixed into a TLS socket: whatever is asked of it first makes the handshake."""

    failure: type[Exception] | None = None
    _shaken = False

    def accept(self) -> tuple[ssl.SSLSocket, Any]:
        """As a socket does it; what comes of it is late, too."""
        connection, address = super().accept()
        return _late(connection, self.failure), address

    def do_handshake(self, block: bool = False) -> None:  # noqa: FBT002  (as a socket has it)
        """As a socket does it; it fails also where the client takes too long."""
        patience = self.gettimeout()
        self.settimeout(_SILENCE_SECONDS)
        try:
            super().do_handshake(block)
        except OSError as error:
            if self.failure is None:
                raise
            raise self.failure(*error.args) from error
        self.settimeout(patience)
        self._shaken = True

    def recv(self, buflen: int = 1024, flags: int = 0) -> bytes:
        """As a socket does it."""
        self._shake()
        return super().recv(buflen, flags)

    def recv_into(self, buffer: Any, nbytes: int | None = None, flags: int = 0) -> int:
        """As a socket does it."""
        self._shake()
        return super().recv_into(buffer, nbytes, flags)

    def send(self, data: Any, flags: int = 0) -> int:
        """As a socket does it."""
        self._shake()
        return super().send(data, flags)

    def _shake(self) -> None:
        if not self._shaken:
            self.do_handshake()
