"""What a file has to stand beyond what every store does: rivals, accidents, other people."""

from __future__ import annotations

import fcntl
import json
import os
import stat
import time
from pathlib import Path

import pytest
from rotation.processes import begin, outputs, running, until

from secmiddleware.errors import KeyringError, StoreUnavailable
from secmiddleware.files import READ_LIMIT
from secmiddleware.rotation import stores
from secmiddleware.rotation.stores import FileStore
from secmiddleware.state import Document


def body(gen, **members):
    return json.dumps({"gen": gen} | members).encode()


def mode(path):
    return stat.S_IMODE(path.stat().st_mode)


@pytest.fixture
def file(path):
    made = FileStore(path)
    made.cas("ring", 0, body(1))
    made.cas("ring", 1, body(2))
    return made


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077, 0o277])
def test_every_file_is_its_owners_alone_whatever_the_umask(path, umask):
    kept = os.umask(umask)
    try:
        store = FileStore(path)
        store.cas("ring", 0, body(1))
        store.try_lease("ring", "a", 30)
    finally:
        os.umask(kept)
    files = sorted(path.parent.iterdir())
    assert [file.name for file in files] == [
        "ring.json",
        "ring.json.floor",
        "ring.json.lease",
        "ring.json.lock",
    ]
    for file in files:
        assert mode(file) & 0o077 == 0
    assert mode(path) == 0o600


def test_a_missing_folder_is_made_private_and_kept_out_of_version_control(tmp_path):
    store = FileStore(tmp_path / "state" / "deep" / "ring.json")
    assert store.read("ring") is None
    store.cas("ring", 0, body(1))
    folder = tmp_path / "state" / "deep"
    assert mode(folder) == 0o700
    assert (folder / ".gitignore").read_text() == "*\n"


def test_the_file_holds_the_body_as_it_is(file, path):
    assert path.read_bytes() == body(2)


def test_a_reader_never_sees_half_a_file_and_waits_for_no_writer(path):
    code = """
import json, sys
from secmiddleware.rotation.stores import FileStore
store = FileStore(sys.argv[1])
for gen in range(1, 80):
    store.cas("ring", gen - 1, json.dumps({"gen": gen, "padding": "x" * (gen * 50)}).encode())
"""
    seen, slowest = [], 0.0
    with running(code, path) as (writer,):
        store = FileStore(path)
        while writer.poll() is None:
            begun = time.monotonic()
            found = store.read("ring")
            slowest = max(slowest, time.monotonic() - begun)
            if found is not None:
                loaded = json.loads(found.body)
                assert len(loaded["padding"]) == 50 * loaded["gen"]
                seen.append(loaded["gen"])
        assert writer.returncode == 0
    assert seen == sorted(seen)
    assert len(set(seen)) > 5
    # A writer that never rests has the lock nearly always: reading must not need it.
    assert slowest < 1


HAMMERING = """
import json, sys
from secmiddleware.rotation.stores import FileStore
store, record, number = FileStore(sys.argv[1]), sys.argv[2], sys.argv[3]
for _ in range(20):
    while True:
        found = store.read(record)
        gen, members = (0, {}) if found is None else (found.gen, json.loads(found.body))
        members |= {"gen": gen + 1, number: members.get(number, 0) + 1}
        if store.cas(record, gen, json.dumps(members).encode()) is not None:
            break
"""


def test_processes_that_write_at_once_lose_nothing(path):
    outputs(HAMMERING, path, "ring", count=4)
    assert json.loads(FileStore(path).read("ring").body) == {"gen": 80, "0": 20, "1": 20, "2": 20, "3": 20}
    assert (path.parent / "ring.json.floor").read_text() == "80\n"
    assert [left for left in path.parent.iterdir() if left.suffix == ".tmp"] == []


def test_records_and_rings_beside_each_other_do_not_disturb_each_other(path):
    # Three locks in one folder; each name begins like the first.
    begun = [
        begin(HAMMERING, path, "ring", 0),
        begin(HAMMERING, path, "revocations", 0),
        begin(HAMMERING, f"{path}2", "ring", 0),
    ]
    for process in begun:
        process.communicate(timeout=20)
    assert [process.returncode for process in begun] == [0, 0, 0]


def test_processes_get_the_lease_one_at_a_time(path):
    code = """
import sys
from secmiddleware.rotation.stores import FileStore
lease = FileStore(sys.argv[1]).try_lease("ring", sys.argv[2], 30)
print("none" if lease is None else lease.fence)
"""
    told = sorted(line for (line,) in outputs(code, path, count=4))
    assert told == ["1", "none", "none", "none"]


def test_a_killed_process_lets_go_of_the_lock_and_its_leftovers_are_swept(file, path):
    code = """
import sys
from pathlib import Path
from secmiddleware.rotation.stores import FileStore
store = FileStore(sys.argv[1])
path = Path(sys.argv[1])
with store._alone(path):
    for name in (".ring.json.0123456789abcdef.tmp", ".ring.json.floor.0123456789abcdef.tmp"):
        path.with_name(name).write_bytes(b"half")
    print("held", flush=True)
    sys.stdin.read()
"""
    bystanders = [
        path.with_name(name) for name in (".ring.json2.0123456789abcdef.tmp", ".ring.json.notes.tmp")
    ]
    for bystander in bystanders:
        bystander.write_bytes(b"another's")
    with running(code, path) as (process,):
        assert process.stdout.readline() == "held\n"
        process.kill()
        process.wait()
    assert file.cas("ring", 2, body(3)) == 3
    assert sorted(left.name for left in path.parent.glob(".*.tmp")) == sorted(b.name for b in bystanders)


def test_a_lock_that_is_not_let_go_makes_writing_unavailable_and_reading_goes_on(file, path, monkeypatch):
    monkeypatch.setattr(stores, "_PATIENCE_SECONDS", 0.3)
    with open(f"{path}.lock", "rb") as lock:  # noqa: PTH123  (flock wants a descriptor of its own)
        fcntl.flock(lock, fcntl.LOCK_EX)
        begun = time.monotonic()
        with pytest.raises(StoreUnavailable, match="does not let go"):
            file.cas("ring", 2, body(3))
        assert 0.2 < time.monotonic() - begun < 2.5
        assert file.read("ring") == Document(2, body(2))
    assert file.cas("ring", 2, body(3)) == 3


# From the past, or gone.


@pytest.fixture(params=["same process", "next process"])
def later(request, file, path):
    """The store after an accident: the one that saw the newest generation, or one made afterwards."""
    return lambda: file if request.param == "same process" else FileStore(path)


def test_an_older_file_put_back_is_refused(later, path):
    path.write_bytes(body(1))
    for use in (later().read_gen, later().read, lambda name: later().cas(name, 1, body(2))):
        with pytest.raises(KeyringError, match="was at 2"):
            use("ring")


def test_a_file_that_is_gone_is_refused_and_not_made_anew(later, path):
    path.unlink()
    for use in (later().read_gen, later().read, lambda name: later().cas(name, 0, body(1))):
        with pytest.raises(KeyringError, match="is gone"):
            use("ring")
    assert not path.exists()


def test_a_restored_file_heals_the_store(later, path):
    kept = path.read_bytes()
    path.unlink()
    with pytest.raises(KeyringError):
        later().read("ring")
    path.write_bytes(kept)
    path.chmod(0o600)
    assert later().read_gen("ring") == 2


def test_an_operator_may_begin_anew_by_removing_the_floor(later, path):
    path.unlink()
    Path(f"{path}.floor").unlink()
    assert later().read("ring") is None
    assert later().cas("ring", 0, body(1, anew=True)) == 1


def test_the_highest_generation_that_was_only_read_is_remembered_too(path):
    path.write_bytes(body(7))
    path.chmod(0o600)
    assert FileStore(path).read_gen("ring") == 7
    path.write_bytes(body(6))
    with pytest.raises(KeyringError, match="was at 7"):
        FileStore(path).read("ring")


def test_a_killed_writer_between_file_and_floor_leaves_a_store_that_goes_on(file, path):
    path.write_bytes(body(3))
    assert FileStore(path).read("ring").gen == 3
    assert Path(f"{path}.floor").read_text() == "3\n"
    assert file.cas("ring", 3, body(4)) == 4


@pytest.mark.parametrize("text", [b"", b"x", b"-1\n", b"2", b"2\n2\n", b"1e3\n", b"9" * 70, "２\n".encode()])
def test_a_floor_that_is_no_number_is_refused(file, path, text):
    Path(f"{path}.floor").write_bytes(text)
    with pytest.raises((KeyringError, StoreUnavailable), match="floor"):
        file.read("ring")


@pytest.mark.parametrize(
    "text",
    [b"", b"{", b"[]", b"null", b"{}", b'{"gen":0}', b'{"gen":-1}', b'{"gen":"3"}', b'{"gen":true}',
     b'{"gen":3.0}', b'{"gen":9007199254740992}', b'{"gen":' + b"9" * 5000 + b"}", b"\xff", b"[" * 50_000],
    ids=range(14),
)  # fmt: skip
def test_a_file_that_is_no_record_is_refused(later, path, text):
    path.write_bytes(text)
    for use in (later().read_gen, later().read, lambda name: later().cas(name, 2, body(3))):
        with pytest.raises(KeyringError):
            use("ring")
    assert path.read_bytes() == text
    assert path.with_name("ring.json.floor").read_bytes() == b"2\n"


@pytest.mark.parametrize(
    "text",
    [b"", b"[]", b"{}", b'{"holder":"a","fence":"x","until":0}', b'{"holder":"a","fence":Infinity,"until":0}',
     b'{"holder":"a","fence":1,"until":1' + b"0" * 400 + b"}", b"[" * 4000, b"x" * 5000],
    ids=range(8),
)  # fmt: skip
def test_a_lease_that_cannot_be_read_says_what_to_do(file, path, text):
    lease = Path(f"{path}.lease")
    lease.write_bytes(text)
    lease.chmod(0o600)
    with pytest.raises(StoreUnavailable, match="remove it"):
        file.try_lease("ring", "a", 30)
    lease.unlink()
    assert file.try_lease("ring", "a", 30).fence == 1


def test_a_lease_from_another_clock_does_not_lock_everybody_out(file, path):
    lease = Path(f"{path}.lease")
    lease.write_text(json.dumps({"holder": "a", "fence": 7, "until": time.time() + 10**8}))
    lease.chmod(0o600)
    assert file.try_lease("ring", "b", 30).fence == 8


# Who else may touch it.


@pytest.mark.parametrize("bits", [0o640, 0o604, 0o620, 0o602, 0o610, 0o601, 0o666, 0o644])
def test_a_file_that_others_may_use_is_refused_with_the_command_that_helps(file, path, bits):
    path.chmod(bits)
    for use in (FileStore(path).read_gen, file.read, lambda name: file.cas(name, 2, body(3))):
        with pytest.raises(StoreUnavailable, match=f"chmod 600 {path}"):
            use("ring")
    path.chmod(0o600)
    assert file.read_gen("ring") == 2


def test_a_file_that_is_opened_to_others_later_is_noticed_at_the_next_look(file, path):
    # Long settled and known: a look costs one stat().
    os.utime(path, (time.time() - 60,) * 2)
    until(lambda: file.read_gen("ring") and file._seen.get("ring"))
    path.chmod(0o644)
    with pytest.raises(StoreUnavailable, match="chmod 600"):
        file.read_gen("ring")


@pytest.mark.parametrize("suffix", [".floor", ".lease"])
def test_what_stands_beside_it_must_be_the_owners_alone_as_well(file, path, suffix):
    file.try_lease("ring", "a", 30)
    path.with_name(path.name + suffix).chmod(0o644)
    with pytest.raises(StoreUnavailable):
        file.try_lease("ring", "a", 30) if suffix == ".lease" else file.read("ring")


def test_a_lock_that_is_a_link_is_not_followed(path, tmp_path):
    victim = tmp_path / "victim"
    Path(f"{path}.lock").symlink_to(victim)
    with pytest.raises(StoreUnavailable, match="lock"):
        FileStore(path).cas("ring", 0, body(1))
    assert not victim.exists()


def test_a_link_to_the_file_is_followed_and_stays(path, tmp_path):
    real = tmp_path / "real" / "ring.json"
    real.parent.mkdir(mode=0o700)
    path.symlink_to(real)
    store = FileStore(path)
    store.cas("ring", 0, body(1))
    store.cas("ring", 1, body(2))
    assert path.is_symlink()
    assert real.read_bytes() == body(2)
    # By whichever name, it is the same store, the same lock and the same floor.
    assert FileStore(real).cas("ring", 1, body(2)) is None
    real.unlink()
    with pytest.raises(KeyringError):
        FileStore(path).read("ring")


@pytest.mark.parametrize("make", [Path.mkdir, os.mkfifo], ids=["folder", "fifo"])
def test_what_is_no_file_is_refused_without_waiting(path, make):
    make(path)
    with pytest.raises(StoreUnavailable, match="not a regular file"):
        FileStore(path).read("ring")


def test_a_path_that_leads_through_a_file_is_unavailable(path):
    path.write_bytes(b"")
    store = FileStore(path / "ring.json")
    for use in (store.read_gen, store.read, lambda name: store.cas(name, 0, body(1))):
        with pytest.raises(StoreUnavailable):
            use("ring")


@pytest.mark.parametrize(
    "name", ["", "Ring", "a/b", "..", ".", "a.b", "a" * 33, "ring\n", "-a", "floor", "lock", "lease"]
)
def test_a_name_that_is_none_for_a_record_is_refused(path, name):
    store = FileStore(path)
    for use in (
        store.read,
        store.read_gen,
        lambda n: store.cas(n, 0, body(1)),
        lambda n: store.try_lease(n, "", 1),
    ):
        with pytest.raises(ValueError, match="no name"):
            use(name)
    assert list(path.parent.iterdir()) == []


@pytest.mark.parametrize("text", [b"", b"{}", body(2), body(0), b'{"gen":1.0}'])
def test_a_body_that_does_not_say_its_generation_is_not_written(path, text):
    with pytest.raises(ValueError, match="does not say so"):
        FileStore(path).cas("ring", 0, text)
    assert not path.exists()


def test_a_body_that_could_not_be_read_again_is_not_written(file):
    largest = body(3)[:-1] + b" " * (READ_LIMIT - len(body(3))) + b"}"
    with pytest.raises(ValueError, match="at most"):
        file.cas("ring", 2, largest + b" ")
    assert file.cas("ring", 2, largest) == 3
    assert file.read_gen("ring") == 3


# How often it is read.


def test_a_look_at_a_file_that_is_as_it_was_does_not_read_it(file, path):
    os.utime(path, (time.time() - 60,) * 2)
    until(lambda: file.read_gen("ring") and file._seen.get("ring"))
    at = path.stat().st_atime_ns
    file._read = None  # reading would fail
    for _ in range(50):
        assert file.read_gen("ring") == 2
    assert path.stat().st_atime_ns == at


def test_a_replacement_of_the_same_size_is_seen_at_once(path):
    here, there = FileStore(path), FileStore(path)
    here.cas("ring", 0, body(1))
    for gen in range(2, 10):
        assert there.read_gen("ring") == gen - 1
        here.cas("ring", gen - 1, body(gen))
        assert there.read_gen("ring") == gen


def test_a_file_that_was_written_just_now_is_read_at_every_look(path):
    # Where the file system's clock ticks slowly, another write may leave inode, size and time as they were.
    path.touch(0o600)
    path.write_bytes(body(1))
    store, look = FileStore(path), path.stat()
    assert store.read_gen("ring") == 1
    until(lambda: store.read_gen("ring") and store._seen)
    assert time.time_ns() - look.st_ctime_ns > 100_000_000
    assert store.read_gen("ring") == 1


FULL = """
import json, resource, signal, sys
from secmiddleware.errors import StoreUnavailable
from secmiddleware.rotation.stores import FileStore
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
store = FileStore(sys.argv[1])
store.cas("ring", 0, b'{"gen":1}')
# A limit on the size of files is what a test can have without a disk of its own.
resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))
try:
    store.cas("ring", 1, json.dumps({"gen": 2, "padding": "x" * 500}).encode())
except StoreUnavailable as error:
    print(store.read("ring").gen, "cannot be written" in str(error))
"""


def test_a_full_disk_leaves_the_old_file_and_is_unavailable(path):
    assert outputs(FULL, path) == [["1 True"]]
    assert list(path.parent.glob(".*.tmp")) == []
