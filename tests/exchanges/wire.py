"""A client that sends exactly what it is told, over TLS, and reads what comes to the last byte.

A real HTTP library would refuse half of the rows, mend the other half, and hide how the response was cut.
"""

from __future__ import annotations

import re
import socket
import ssl
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from exchanges.outcome import Outcome
from exchanges.table import Exchange
from exchanges.world import World, to_bytes

SECONDS = 10
"""After which a server that says nothing has failed."""


class NoConnectionError(Exception):
    """The server ended the connection without a byte of HTTP: TLS was not to its liking."""


@dataclass(frozen=True)
class Way:
    """How far a row gets on a real connection, and why no further."""

    how: Literal["through", "dies in TLS", "refused by the parser", "gone", "not here"]
    """gone: the caller goes away and sees nothing; what the shell made of it is known from its observer."""
    reason: str = ""


def connect(port: int, pki: Path, certificate: str) -> ssl.SSLSocket:
    """A TLS connection to the server on this port, with a certificate of `pki` or none."""
    context = ssl.create_default_context(cafile=pki / "ca.pem")
    # Level 0 lets the client hold up a short key: to refuse it is the server's business.
    context.set_ciphers("DEFAULT@SECLEVEL=0")
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    if certificate:
        context.load_cert_chain(pki / f"{certificate}.pem", pki / f"{certificate}.key")
    raw = socket.create_connection(("127.0.0.1", port), SECONDS)
    # Else a second small record waits for the answer to the first, which the server delays.
    raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    try:
        return context.wrap_socket(raw, server_hostname="localhost")
    except (ssl.SSLError, ConnectionError) as error:
        raw.close()
        raise NoConnectionError from error


def messages_of(world: World, row: Exchange) -> Iterator[bytes]:
    """The request on the wire: its head, then each of its chunks."""
    request = row.request
    chunks = [to_bytes(world.fill(row, chunk)) for chunk in request.chunks]
    head = to_bytes(f"{request.method} {world.fill(row, request.target)} HTTP/1.1\r\n")
    headers = [(to_bytes(name), to_bytes(world.fill(row, value))) for name, value in request.headers]
    if not any(name == b"host" for name, _ in headers):
        headers.insert(0, (b"host", b"localhost"))
    headers.append((b"connection", b"close"))
    match request.length:
        case int(length):
            headers.append((b"content-length", b"%d" % length))
        case "true" if chunks:
            headers.append((b"content-length", b"%d" % sum(map(len, chunks))))
        case "chunked":
            headers.append((b"transfer-encoding", b"chunked"))
    yield head + b"".join(b"%s: %s\r\n" % pair for pair in headers) + b"\r\n"
    for chunk in filter(None, chunks):
        yield b"%x\r\n%s\r\n" % (len(chunk), chunk) if request.length == "chunked" else chunk
    if request.length == "chunked" and not request.truncated:
        yield b"0\r\n\r\n"


def talk(connection: ssl.SSLSocket, messages: Iterable[bytes]) -> bytes:
    """Send these, each in a TLS record of its own, and read to the end. The server may end early."""
    with suppress(ConnectionError, ssl.SSLError):
        for message in messages:
            connection.sendall(message)
    received = b""
    with suppress(ConnectionError, ssl.SSLEOFError):
        while data := _receive(connection):
            received += data
    if not received:
        raise NoConnectionError
    return received


def _receive(connection: ssl.SSLSocket) -> bytes:
    try:
        return connection.recv(65536)
    except ssl.SSLEOFError:
        raise
    except (
        ssl.SSLError
    ) as error:  # TLS 1.3: the server's alert about our certificate comes with the first read
        raise NoConnectionError from error


def read_response(received: bytes, method: str) -> Outcome:
    """A whole HTTP/1.1 response, read strictly (RFC 9112 §6.3): anything behind it is a mistake."""
    head, blank, body = received.partition(b"\r\n\r\n")
    assert blank, received
    first, *lines = head.split(b"\r\n")
    status = re.fullmatch(rb"HTTP/1\.1 ([2-5]\d\d) ?[ -~]*", first)
    assert status is not None, received
    headers = []
    for line in lines:
        name, colon, value = line.partition(b":")
        assert colon, received
        assert re.fullmatch(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+", name), received
        headers.append((name.decode("ascii").lower(), value.strip(b" \t").decode("utf-8", "surrogateescape")))
    pieces, broken = _read_body(body, int(status[1]), dict(headers), method)
    return Outcome(int(status[1]), tuple(headers), pieces, broken)


def _read_body(
    body: bytes, status: int, headers: dict[str, str], method: str
) -> tuple[tuple[bytes, ...], bool]:
    """The pieces, and whether the end is missing."""
    if method == "HEAD" or status in (204, 304):
        assert body == b"", body
        return (), False
    if headers.get("transfer-encoding") == "chunked":
        return _read_chunks(body)
    if "content-length" not in headers:  # to the end of the connection; h11 answers unreadable requests so
        assert headers["connection"] == "close", headers
        return (body,), False
    length = int(headers["content-length"])
    assert len(body) <= length, body
    return ((body,) if body else ()), len(body) < length


def _read_chunks(body: bytes) -> tuple[tuple[bytes, ...], bool]:
    pieces = []
    while body:
        size, _, rest = body.partition(b"\r\n")
        length = int(size, 16)
        if length == 0:
            assert rest == b"\r\n", body
            return tuple(pieces), False
        assert rest[length : length + 2] == b"\r\n", body
        pieces.append(rest[:length])
        body = rest[length + 2 :]
    return tuple(pieces), True
