"""Many processes over one ring, and the child of a fork: each has a line of its own, and all agree."""

from __future__ import annotations

import threading
from datetime import timedelta

import pytest
from encryption.rings import states
from rotation.processes import BOUND_SECONDS, outputs, running, until

from secmiddleware.encryption.tokens import kid_of
from secmiddleware.errors import TokenError
from secmiddleware.rotation.stores import FileStore

SEALING = """
import sys, threading
from datetime import timedelta
from encryption.rings import manager_of
from secmiddleware.encryption.manager import utc_now
from secmiddleware.errors import SealError
from secmiddleware.rotation.line import RotationLine
from secmiddleware.rotation.stores import FileStore
manager = manager_of(FileStore(sys.argv[1]), utc_now, activation_delay=timedelta(seconds=0.8))
manager.start()
line = RotationLine(manager, poll=timedelta(seconds=0.05))
line.start()
ended = threading.Event()
threading.Thread(target=lambda: (sys.stdin.read(), ended.set()), daemon=True).start()
while not ended.wait(0.01):
    try:
        print(manager.seal("ssn", b"1"), flush=True)
    except SealError:
        print("no use", flush=True)
line.stop()
print("end", flush=True)
"""


def test_while_a_fleet_seals_and_the_ring_rotates_every_token_opens_at_once(watch, path):
    manager, _ = watch(FileStore(path), poll=timedelta(seconds=0.05), activation_delay=timedelta(seconds=0.8))
    opened, failed = [], []

    def read(process):
        for line in iter(process.stdout.readline, "end\n"):
            token = line.strip()
            try:
                assert manager.open("ssn", token) == b"1"
                opened.append(kid_of(token.encode()))
            except TokenError as error:
                failed.append((token, error))

    with running(SEALING, path, count=3) as fleet:
        readers = [threading.Thread(target=read, args=(process,)) for process in fleet]
        for reader in readers:
            reader.start()
        kids = [manager.keyring.keys[0].kid]
        for _ in range(3):
            until(lambda: opened.count(kids[-1]) >= 3)
            kids.append(manager.rotate())
            until(lambda: states(manager)[-1] == "primary")
        until(lambda: opened.count(kids[-1]) >= 3)
        for process in fleet:
            process.stdin.close()
        for reader in readers:
            reader.join(BOUND_SECONDS)
        for process in fleet:
            process.stdin = None
    assert failed == []
    assert set(opened) == set(kids)


# Forks.

FORKING = """
import os, sys, time, warnings
warnings.filterwarnings("ignore", message=".*fork", category=DeprecationWarning)
from datetime import timedelta
from encryption.rings import manager_of
from rotation import listeners
from rotation.processes import until
from secmiddleware.encryption.manager import utc_now
from secmiddleware.errors import KeyUnknown, SealError, TokenError
from secmiddleware.rotation.line import RotationLine
from secmiddleware.rotation.stores import FileStore

_, path, way, _ = sys.argv
def manager():
    made = manager_of(FileStore(path), utc_now, activation_delay=timedelta(0))
    made.start()
    return made

ours = manager()
line = RotationLine(ours, poll=timedelta(seconds=0.1), callbacks=["rotation.listeners:note"])
line.start()
until(lambda: line.health()["last_turn"])

def in_child():
    assert not line.health()["running"]
    other = manager()
    kid = other.rotate()
    token = other.seal("ssn", b"1")
    if way == "start":
        line.start()
    elif way == "open":
        try:
            ours.open("ssn", token)
        except KeyUnknown:
            pass
    elif way == "seal":
        try:
            ours.seal("ssn", b"1")
        except SealError:
            pass
    elif way == "stop":
        line.stop()
        line.start()
    until(lambda: ours.keyring.keys[-1].kid == kid)
    assert ours.open("ssn", token) == b"1"
    until(lambda: any(told.kid == kid for told in listeners.heard))
    until(lambda: ours.status()["keys"][-1]["uses_left_here"])
    ours.seal("ssn", b"1")
    assert line.health()["running"]
    begun = time.monotonic()
    line.stop()
    assert time.monotonic() - begun < 0.1

child = os.fork()
if child == 0:
    try:
        in_child()
    except BaseException as error:
        print(repr(error), file=sys.stderr, flush=True)
        os._exit(1)
    os._exit(0)
_, status = os.waitpid(child, 0)
until(lambda: len(ours.keyring.keys) == 2)
print(os.waitstatus_to_exitcode(status), line.health()["running"])
"""


@pytest.mark.parametrize("way", ["start", "open", "seal", "stop"])
def test_the_child_of_a_fork_gets_a_line_of_its_own_and_the_parent_keeps_its(path, way):
    assert outputs(FORKING, path, way) == [["0 True"]]
