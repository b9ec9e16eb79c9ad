"""The other end of a connection, read off the socket itself: what no header can have made of it."""

from __future__ import annotations

import os
import socket
import struct
from typing import Any, Final

from secmiddleware.messages import Peer

# struct ucred: pid, uid, gid (Linux, unix(7)).
_CREDENTIALS: Final = struct.Struct("3i")

# A process of another user namespace has this one (user_namespaces(7)): it could be anybody.
_NOBODY_KNOWN: Final = 65534


def peer_on(connection: socket.socket) -> Peer:
    """Who is at the other end of a connected socket; nobody where the system does not tell."""
    try:
        if connection.family == socket.AF_UNIX:
            return Peer(unix=True, uid=_uid_of(connection), seen=True)
        host, port, *_ = connection.getpeername()
    except OSError:  # it is closed already
        return Peer(seen=True)
    return Peer(host, port, seen=True)


def peer_by(transport: Any) -> Peer:
    """Who is at the other end of an asyncio transport."""
    connection = transport.get_extra_info("socket")
    if connection is None:
        return Peer(seen=True)
    if connection.family != socket.AF_UNIX:
        address = transport.get_extra_info("peername")
        return Peer(address[0], address[1], seen=True) if address else Peer(seen=True)
    try:
        # What asyncio and uvloop hand out is no socket, and may not tell options.
        with socket.socket(fileno=os.dup(connection.fileno())) as ours:
            return peer_on(ours)
    except OSError:
        return Peer(unix=True, seen=True)


def _uid_of(connection: socket.socket) -> int | None:
    """The user at the other end of a unix socket, as the kernel knows it; None where it does not tell."""
    option = getattr(socket, "SO_PEERCRED", None)
    if option is None:
        return None
    _, uid, _ = _CREDENTIALS.unpack(connection.getsockopt(socket.SOL_SOCKET, option, _CREDENTIALS.size))
    return None if uid in (-1, _NOBODY_KNOWN) else uid
