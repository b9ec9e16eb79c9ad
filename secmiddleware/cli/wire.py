"""An HTTP/1.1 client that remembers what it sent and got: the demo shows what really went over the wire."""

from __future__ import annotations

import json
import select
import socket
import ssl
from contextlib import suppress
from dataclasses import dataclass
from http.client import HTTPResponse
from typing import Any, Final

_SECONDS: Final = 10.0
_ALERT_SECONDS: Final = 2.0


@dataclass(frozen=True, slots=True)
class Call:
    """One request as it was sent inside TLS, and its response."""

    sent: bytes
    status: int
    reason: str
    headers: tuple[tuple[str, str], ...]
    body: bytes

    @property
    def json(self) -> Any:
        """The response's body, read as JSON."""
        return json.loads(self.body)


def handshake_refusal(port: int, context: ssl.SSLContext) -> str | None:
    """Why the server refuses the handshake, as its TLS alert says; None where it does not.

    In TLS 1.3 a client has finished before the server has judged it, and learns of the verdict by reading
    (RFC 8446 §4.4.2.4). Where one writes first, the alert may be lost.
    """
    with socket.create_connection(("127.0.0.1", port), _SECONDS) as plain:
        try:
            with _wrapped(plain, context) as connection:
                connection.do_handshake()
                connection.settimeout(_ALERT_SECONDS)
                return None if connection.recv(1) else "the connection was closed"
        except ssl.SSLError as error:
            return error.reason or str(error)
        except ConnectionError as error:
            return str(error)
        except TimeoutError:
            return None


def _has_ended(connection: ssl.SSLSocket) -> bool:
    """Whether the server has said farewell to a connection that was idle: nothing else is due from it now."""
    return bool(select.select([connection], [], [], 0)[0])


def _wrapped(plain: socket.socket, context: ssl.SSLContext) -> ssl.SSLSocket:
    """The connection before its handshake: whoever is interrupted during that, has it and can close it."""
    return context.wrap_socket(plain, server_hostname="localhost", do_handshake_on_connect=False)


class Caller:
    """A client of one server that keeps its connection; not for several threads."""

    def __init__(self, port: int, context: ssl.SSLContext) -> None:
        self._port = port
        self._context = context
        self._connection: ssl.SSLSocket | None = None

    def call(self, method: str, path: str, body: bytes = b"", traceparent: str | None = None) -> Call:
        """Send a request and read its response. Raises OSError (SSLError is one) where that fails."""
        if self._connection is not None and _has_ended(self._connection):
            self.close()
        if self._connection is None:
            plain = socket.create_connection(("127.0.0.1", self._port), _SECONDS)
            self._connection = _wrapped(plain, self._context)
            self._connection.do_handshake()
        lines = [f"{method} {path} HTTP/1.1", f"host: localhost:{self._port}"]
        if traceparent is not None:
            lines.append(f"traceparent: {traceparent}")
        if body:
            lines += ["content-type: application/json", f"content-length: {len(body)}"]
        sent = "\r\n".join((*lines, "", "")).encode("ascii") + body
        self._connection.sendall(sent)
        response = HTTPResponse(self._connection, method=method)
        response.begin()
        received = response.read()
        if response.will_close:
            self.close()
        return Call(sent, response.status, response.reason, tuple(response.getheaders()), received)

    def close(self) -> None:
        """Close the connection; the next call makes a new one."""
        if self._connection is not None:
            with suppress(OSError):
                self._connection.shutdown(socket.SHUT_RDWR)  # even if a response is still being read
            self._connection.close()
            self._connection = None
