"""How often a key seals: reserved in the document, spent in the process, never inherited."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta

import pytest
from encryption.rings import DELAY, KEK, RING, rewrite, sealing_key, started, states, stored, tended
from rotation.processes import outputs

from secmiddleware.encryption import manager as manager_module
from secmiddleware.encryption.kek import Kek
from secmiddleware.encryption.record import RECORD, RingRecord
from secmiddleware.encryption.root import Root
from secmiddleware.encryption.uses import FIRST_BLOCK, NEXT_BLOCK, USES_LIMIT, Ration
from secmiddleware.errors import KeyringError, SealError, StoreUnavailable
from secmiddleware.rotation.stores import FileStore

MONTH = timedelta(days=30)
HALF_LIMIT = USES_LIMIT // 2


def test_uses_are_reserved_in_the_document_before_anything_is_sealed(make, store):
    manager = started(make)
    assert stored(store).keys[0].uses == FIRST_BLOCK
    assert manager.status()["keys"][0]["uses_left_here"] == FIRST_BLOCK
    other = started(make)
    assert stored(store).keys[0].uses == 2 * FIRST_BLOCK
    manager.seal("ssn", b"1")
    assert manager.status()["keys"][0]["uses_left_here"] == FIRST_BLOCK - 1
    assert other.status()["keys"][0]["uses_left_here"] == FIRST_BLOCK


def test_of_a_distrusted_key_that_none_has_followed_yet_nobody_reserves_uses(make, store, clock):
    here, there = started(make), started(make, first_block=4)
    for _ in range(3):
        there.seal("ssn", b"1")
    first = sealing_key(here)
    here.distrust(first, rotate=True)
    reserved = stored(store).keys[0].uses
    there.look()
    for manager in (here, there, started(make)):
        manager.tend()
        assert manager.status()["alarms"] == {}
    assert stored(store).keys[0].uses == reserved
    clock.forward(DELAY)
    for manager in (here, there):
        manager.tend()
        assert manager.seal("ssn", b"1")


def test_a_process_seals_as_often_as_it_has_reserved_and_not_once_more(make, store):
    manager = started(make, first_block=5)
    for _ in range(5):
        manager.seal("ssn", b"1")
    store.away = True
    manager.tend()
    for _ in range(5):  # failing costs nothing of what is granted later
        with pytest.raises(SealError):
            manager.seal("ssn", b"1")
    assert set(manager.status()["alarms"]) == {"uses"}
    store.away = False
    manager.tend()
    assert manager.status()["alarms"] == {}
    assert manager.status()["keys"][0]["uses_left_here"] == NEXT_BLOCK
    assert stored(store).keys[0].uses == 5 + NEXT_BLOCK
    manager.seal("ssn", b"1")


def test_a_key_that_is_wrapped_anew_keeps_its_uses_and_opens_what_it_sealed(make, store, clock):
    manager = started(make, first_block=10)
    token = manager.seal("ssn", b"1")

    def wrapped_anew(document):
        root, (key,) = Root.opened(RING, Kek(KEK), document.root), document.keys
        wrapped = root.wrap(key.kid, root.unwrap(key.kid, key.wrapped))
        assert wrapped != key.wrapped
        return replace(document.reissued(clock.now), keys=(replace(key, wrapped=wrapped),))

    rewrite(store, wrapped_anew)
    manager.look()
    assert manager.status()["keys"][0]["uses_left_here"] == 9
    assert manager.open("ssn", token) == b"1"


def test_fernet_takes_uses_as_well(make):
    manager = tended(make, first_block=2)
    manager.seal("ssn", b"1", format="fernet")
    manager.seal("ssn", b"1", format="fernet")
    with pytest.raises(SealError):
        manager.seal("ssn", b"1", format="fernet")


def test_without_a_line_more_is_reserved_when_the_uses_are_spent_each_time_twice_as_much(make, store):
    manager = started(make, first_block=2)
    reserved = []
    for _ in range(15):
        manager.seal("ssn", b"1")
        reserved.append(stored(store).keys[0].uses)
    assert reserved == [2, 2, 6, 6, 6, 6, *[14] * 8, 30]
    assert manager.status()["keys"][0]["uses_left_here"] == 15


def test_without_a_line_threads_that_find_the_uses_spent_reserve_once_for_all_of_them(make, store):
    manager = started(make, first_block=500)
    with ThreadPoolExecutor(8) as pool:
        sealed = list(pool.map(lambda _: manager.seal("ssn", b"1"), range(1400)))
    assert len(set(sealed)) == 1400
    assert stored(store).keys[0].uses == 500 + 1000


def test_without_a_line_nothing_is_sealed_while_no_uses_are_to_be_had(make, store):
    manager = started(make, first_block=1)
    manager.seal("ssn", b"1")
    store.away = True
    with pytest.raises(SealError, match="the store is away"):
        manager.seal("ssn", b"1")
    store.away = False
    manager.seal("ssn", b"1")


def test_a_manager_that_opens_only_reserves_nothing(make, store):
    started(make)
    before = stored(store)
    reader = started(make, first_block=0)
    with pytest.raises(SealError):
        reader.seal("ssn", b"1")
    assert stored(store) == before


def test_more_is_asked_for_while_half_of_a_block_is_still_left(make):
    manager, asked = started(make, first_block=10), []
    manager.watched_by(lambda: asked.append("look"), lambda: asked.append("tend"))
    for _ in range(4):
        manager.seal("ssn", b"1")
    manager.tend()
    assert (asked, manager.status()["keys"][0]["uses_left_here"]) == ([], 6)
    manager.seal("ssn", b"1")
    assert asked == ["tend"]
    manager.tend()
    assert manager.status()["keys"][0]["uses_left_here"] == 5 + NEXT_BLOCK


def test_a_key_is_never_reserved_beyond_its_limit(make, store):
    first, second = (started(make, first_block=HALF_LIMIT) for _ in range(2))
    assert stored(store).keys[0].uses == USES_LIMIT
    third = started(make, first_block=HALF_LIMIT)
    assert "used up" in third.status()["alarms"]["uses"]
    with pytest.raises(SealError):
        third.seal("ssn", b"1")
    first.seal("ssn", b"1")
    second.seal("ssn", b"1")
    assert stored(store).keys[0].uses == USES_LIMIT


def test_a_used_up_key_does_not_keep_its_successor_from_being_ready(make, store, clock):
    for _ in range(2):
        started(make, first_block=HALF_LIMIT).look()
    late = started(make)
    late.tend()  # rotates, for so many uses are reserved
    other = started(make)
    assert states(other) == ["primary", "pending"]
    assert "used up" in other.status()["alarms"]["uses"]
    clock.forward(DELAY)
    # Without one more turn: its uses of the new key were reserved while that was PENDING.
    assert other.open("ssn", other.seal("ssn", b"1")) == b"1"
    other.tend()
    assert other.status()["alarms"] == {}


def test_who_only_reads_reserves_nothing_and_makes_no_ring(make, store, clock):
    with pytest.raises(KeyringError, match="no ring"):
        make(first_block=0).start()
    assert store.read(RECORD) is None
    token = started(make).seal("ssn", b"1")
    gen = stored(store).gen
    reader = started(make, first_block=0)
    clock.forward(2 * MONTH)
    reader.tend()
    assert reader.open("ssn", token) == b"1"
    assert stored(store).gen == gen
    with pytest.raises(SealError):
        reader.seal("ssn", b"1")


def test_threads_together_take_exactly_the_uses_there_are(make):
    manager = tended(make, first_block=2000)

    def seal(number):
        try:
            return manager.seal("ssn", b"1")
        except SealError:
            return None

    with ThreadPoolExecutor(8) as pool:
        sealed = [token for token in pool.map(seal, range(3000)) if token]
    assert len(sealed) == len(set(sealed)) == 2000


def test_two_threads_that_both_see_the_last_use_do_not_both_get_it():
    ration = Ration(1, lambda: None)
    ration.grant(1)
    counter = ration._counter

    class Between:
        """Lets another thread take its use after this one has seen that there is one, before it counts."""

        def __next__(self):
            ration._counter = counter
            ration.take()
            return next(counter)

    ration._counter = Between()
    with pytest.raises(SealError):
        ration.take()
    assert ration.left == 0


RESERVING = """
import sys, threading
from encryption.rings import manager_of
from secmiddleware.encryption.manager import utc_now
from secmiddleware.errors import SealError
from secmiddleware.rotation.stores import FileStore

had = []

def work():
    manager = manager_of(FileStore(sys.argv[1]), utc_now, first_block=3)
    manager.start()
    sealed = 0
    for _ in range(8):
        try:
            manager.seal("ssn", b"1")
            sealed += 1
        except SealError:
            pass  # others were faster in reserving; the next turn tries again
        manager.tend()
    had.append(sealed + manager.status()["keys"][0]["uses_left_here"])

threads = [threading.Thread(target=work) for _ in range(3)]
for thread in threads: thread.start()
for thread in threads: thread.join()
assert len(had) == 3
print(sum(had))
"""


def test_processes_and_threads_never_reserve_the_same_uses(tmp_path):
    told = outputs(RESERVING, tmp_path / "ring.json", count=3)
    document = stored(FileStore(tmp_path / "ring.json"))
    assert sum(int(line) for (line,) in told) == sum(key.uses for key in document.keys)
    assert len(document.keys) == 1


# Forks.

FORKING = """
import os, sys, threading
from encryption.rings import manager_of, stored
from secmiddleware.encryption.manager import utc_now
from secmiddleware.errors import SealError
from secmiddleware.rotation.stores import FileStore

_, path, lock, step, _ = sys.argv
store = FileStore(path)
manager = manager_of(store, utc_now, first_block=100)
manager.start()
token = manager.seal("ssn", b"1")
manager.watched_by(lambda: None, lambda: None)

def in_child():
    assert manager.open("ssn", token) == b"1"
    try:
        manager.seal("ssn", b"1")
    except SealError:
        pass
    else:
        raise AssertionError("sealed with a use of the parent")
    getattr(manager, step)()
    assert manager.status()["keys"][0]["uses_left_here"] == 100
    assert manager.open("ssn", manager.seal("ssn", b"2")) == b"2"
    assert manager._upkeep.holder != holder

def hold():
    with manager._lock:
        held.set()
        threading.Event().wait()

held, holder = threading.Event(), manager._upkeep.holder
if lock == "locked":
    threading.Thread(target=hold, daemon=True).start()
    held.wait()
child = os.fork()
if child == 0:
    try:
        in_child()
    except BaseException as error:
        print(repr(error), file=sys.stderr, flush=True)
        os._exit(1)
    os._exit(0)
_, status = os.waitpid(child, 0)
left = manager.status()["keys"][0]["uses_left_here"]
print(os.waitstatus_to_exitcode(status), left, stored(store).keys[0].uses)
"""


@pytest.mark.parametrize("lock", ["free", "locked"])
@pytest.mark.parametrize("step", ["start", "tend"])
def test_the_child_of_a_fork_has_no_uses_of_its_parent_and_gets_its_own(tmp_path, step, lock):
    ((line,),) = outputs(FORKING, tmp_path / "ring.json", lock, step)
    # The parent lost none, and the document has both blocks.
    assert line == "0 99 200"


def test_a_key_that_is_learned_of_while_it_seals_already_seals_at_once(make, store, clock):
    late, other = started(make), started(make)
    new = other.rotate()
    clock.forward(DELAY)
    late.look()  # and no `tend` yet: a request may come in between
    assert sealing_key(late) == new
    assert stored(store).keys[-1].uses == 2 * FIRST_BLOCK


def test_the_key_that_a_process_made_itself_has_uses_before_a_request_can_see_it(make, clock, monkeypatch):
    seen = []

    class Watched(RingRecord):
        def __setattr__(self, name, value):
            if name == "keyring" and value is not None:
                seen.append(value.secret_of(value.keys[-1].kid).ration.left)
            super().__setattr__(name, value)

    monkeypatch.setattr(manager_module, "RingRecord", Watched)
    manager = started(make, activation_delay=timedelta(0))
    manager.rotate()
    clock.forward(seconds=1)
    late = started(make, activation_delay=timedelta(0))
    manager.rotate()
    clock.forward(seconds=1)
    late.look()
    assert len(seen) >= 4
    assert set(seen) == {FIRST_BLOCK}


def test_a_fleet_that_learns_of_a_key_together_reserves_for_everyone(make, store, clock):
    fleet = [started(make) for _ in range(6)]
    new = fleet[0].rotate()
    clock.forward(DELAY)
    with ThreadPoolExecutor(6) as threads:
        list(threads.map(lambda manager: manager.look(), fleet))
    assert {sealing_key(manager) for manager in fleet} == {new}
    assert stored(store).keys[-1].uses == 6 * FIRST_BLOCK


def test_a_key_of_which_no_uses_are_to_be_had_opens_all_the_same(make, store, clock):
    late, other = started(make), started(make)
    other.rotate()
    clock.forward(DELAY)
    token = other.seal("ssn", b"1")
    original, store.cas = store.cas, _away
    late.look()
    assert late.open("ssn", token) == b"1"
    with pytest.raises(SealError):
        late.seal("ssn", b"1")
    late.tend()
    assert set(late.status()["alarms"]) == {"uses"}
    store.cas = original
    late.tend()
    assert late.status()["alarms"] == {}
    late.seal("ssn", b"1")


def _away(*_: object) -> None:
    raise StoreUnavailable("nobody may write here")
