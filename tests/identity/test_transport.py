"""Who is at the other end of a socket, as the system knows it."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from secmiddleware.identity.transport import peer_on
from secmiddleware.messages import Peer


def test_over_tcp_it_is_the_address() -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as listening,
        socket.create_connection(listening.getsockname()) as calling,
    ):
        called, _ = listening.accept()
        with called:
            assert peer_on(called) == Peer("127.0.0.1", calling.getsockname()[1], seen=True)


def test_over_a_unix_socket_it_is_the_user() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        assert peer_on(ours) == Peer(unix=True, uid=os.getuid(), seen=True)


@pytest.mark.skipif(os.getuid() != 0, reason="only root can be somebody else")
def test_over_a_unix_socket_it_is_the_user_who_connected() -> None:
    with TemporaryDirectory() as folder, socket.socket(socket.AF_UNIX) as listening:
        Path(folder).chmod(0o755)
        path = Path(folder) / "s"
        listening.bind(str(path))
        listening.listen()
        path.chmod(0o666)
        call = (
            "import os, socket, sys; os.setuid(33); "
            "s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1]); s.recv(1)"
        )
        with subprocess.Popen([sys.executable, "-I", "-S", "-c", call, str(path)]) as caller:
            called, _ = listening.accept()
            with called:
                assert peer_on(called) == Peer(unix=True, uid=33, seen=True)
            assert caller.wait(10) == 0


def test_of_a_closed_connection_nothing_is_known() -> None:
    ours, theirs = socket.socketpair()
    ours.close()
    theirs.close()
    assert peer_on(ours).uid is None
