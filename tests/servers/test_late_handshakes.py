"""Sockets whose handshake waits for their reader: it is made, looked at, and not waited for by others."""

from __future__ import annotations

import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from secmiddleware.certificates.contexts import server_context
from secmiddleware.certificates.handshakes import FullSocket
from secmiddleware.certificates.trust import load_anchors
from secmiddleware.servers import late_handshakes
from secmiddleware.servers.late_handshakes import Door
from servers.pki import Pki
from servers.serving import PATIENCE


class RefusedError(Exception):
    """What a server of these tests has a failed handshake raise."""


@pytest.fixture(scope="module")
def resuming(pki: Pki) -> ssl.SSLContext:
    """A context that resumes sessions, as ours do only where two clients come between each other."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.sslsocket_class = FullSocket
    context.load_cert_chain(pki.certificate, pki.key)
    context.load_verify_locations(pki.ca)
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    return context


@contextmanager
def dialled(client: ssl.SSLContext, session: Any = None) -> Iterator[tuple[socket.socket, list[Any]]]:
    """The server's end of a connection, and what became of the client's: its session, or an error."""
    ours, theirs = socket.socketpair()
    ours.settimeout(PATIENCE)
    theirs.settimeout(PATIENCE)
    became: list[Any] = []

    def speak() -> None:
        try:
            with client.wrap_socket(theirs, server_hostname="localhost", session=session) as tls:
                tls.sendall(b"hello")
                became.append(tls.recv(5))
                became.append(tls.session)
        except OSError as error:
            became.append(error)

    thread = threading.Thread(target=speak)
    thread.start()
    try:
        yield ours, became
    finally:
        ours.close()
        thread.join(PATIENCE)
        theirs.close()


@pytest.mark.parametrize("failure", [None, RefusedError])
def test_a_session_that_was_resumed_is_seen_at_the_first_read_and_at_every_other(
    pki: Pki, resuming: ssl.SSLContext, failure: Any
) -> None:
    door, session = Door(resuming, failure), None
    with dialled(pki.client("alice", "1.2")) as (ours, became):
        with door.wrap_socket(ours, server_side=True) as tls:
            assert tls.recv(5) == b"hello"
            tls.sendall(b"hello")
            tls.recv(1)
        session = became[1]
    with (
        dialled(pki.client("alice", "1.2"), session) as (ours, _),
        door.wrap_socket(ours, server_side=True) as tls,
    ):
        reads: list[Callable[[], Any]] = [
            lambda: tls.recv(5),
            lambda: tls.recv_into(bytearray(5)),
            lambda: tls.send(b"x"),
            lambda: tls.sendall(b"x"),
        ]
        for read in reads:
            with pytest.raises(failure or ssl.SSLError, match="a session was resumed"):
                read()


def test_a_handshake_is_made_by_whatever_is_asked_first(pki: Pki) -> None:
    door = Door(server_context(pki.certificate, pki.key, load_anchors(pki.ca), "optional"))
    first: list[Callable[[ssl.SSLSocket], Any]] = [
        lambda tls: tls.recv(5),
        lambda tls: tls.recv_into(bytearray(5)),
        lambda tls: tls.sendall(b"hello"),
    ]
    for ask in first:
        with dialled(pki.client("alice")) as (ours, _):
            tls = door.wrap_socket(ours, server_side=True)
            with pytest.raises(ValueError, match="handshake not done"):
                tls.getpeercert()
            ask(tls)
            assert tls.getpeercert(binary_form=True)
            assert tls.gettimeout() == PATIENCE  # as the server had it
            tls.close()


def test_a_client_who_says_nothing_is_given_up(pki: Pki, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(late_handshakes, "_SILENCE_SECONDS", 0.1)
    context = server_context(pki.certificate, pki.key, load_anchors(pki.ca), "optional")
    for failure in (None, RefusedError):
        ours, theirs = socket.socketpair()
        ours.settimeout(PATIENCE)
        door, begun = Door(context, failure), time.monotonic()
        with (
            theirs,
            door.wrap_socket(ours, server_side=True) as tls,
            pytest.raises(failure or TimeoutError),
        ):
            tls.recv(5)
        assert time.monotonic() - begun < PATIENCE / 2
