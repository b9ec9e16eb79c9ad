"""The stores: one table for all of them, and which is which."""

from __future__ import annotations

import json
import threading
import time
from datetime import UTC, datetime, timedelta

import pytest
from rotation.processes import until

from secmiddleware.errors import StoreUnavailable
from secmiddleware.rotation import stores
from secmiddleware.rotation.stores import FileStore, MemoryStore, open_store
from secmiddleware.state import Document


def body(gen, **members):
    return json.dumps({"gen": gen} | members).encode()


@pytest.fixture(params=["memory", "file"])
def store(request, path):
    made = MemoryStore() if request.param == "memory" else FileStore(path)
    yield made
    made.close()
    made.close()


# The table: true of every store.


def test_an_empty_store_says_so(store):
    assert store.read_gen("ring") == 0
    assert store.read("ring") is None


def test_what_is_written_is_read_with_its_generation(store):
    assert store.cas("ring", 0, body(1)) == 1
    assert store.cas("ring", 1, body(2, note="ü")) == 2
    assert store.read_gen("ring") == 2
    assert store.read("ring") == Document(2, body(2, note="ü"))


@pytest.mark.parametrize("expect", [0, 1, 3, 99])
def test_a_write_that_expects_another_generation_changes_nothing(store, expect):
    store.cas("ring", 0, body(1))
    store.cas("ring", 1, body(2))
    assert store.cas("ring", expect, body(expect + 1, mine=True)) is None
    assert store.read("ring") == Document(2, body(2))


def test_a_first_write_expects_nothing_to_be_there(store):
    assert store.cas("ring", 1, body(2)) is None
    assert store.read("ring") is None


def test_records_do_not_know_each_other(store):
    store.cas("ring", 0, body(1))
    store.cas("revocations", 0, body(1, other=True))
    store.cas("revocations", 1, body(2, other=True))
    assert (store.read_gen("ring"), store.read_gen("revocations")) == (1, 2)
    assert store.try_lease("ring", "a", 30) is not None
    assert store.try_lease("revocations", "b", 30) is not None


def test_a_lease_is_one_holders_until_it_ends(store):
    before = datetime.now(UTC)
    lease = store.try_lease("ring", "a", 30)
    assert before + timedelta(seconds=29) < lease.until < datetime.now(UTC) + timedelta(seconds=31)
    assert store.try_lease("ring", "b", 30) is None
    assert store.try_lease("ring", "a", 30).fence > lease.fence


def test_a_lease_that_has_run_out_goes_to_the_next(store):
    first = store.try_lease("ring", "a", 0.05)
    granted = []
    until(lambda: granted.append(store.try_lease("ring", "b", 30)) or granted[-1])
    assert granted[-1].fence > first.fence
    assert datetime.now(UTC) >= first.until
    assert store.try_lease("ring", "a", 30) is None


def test_who_lost_the_lease_cannot_write_with_it_any_more(store):
    store.cas("ring", 0, body(1))
    old = store.try_lease("ring", "a", 0)
    new = store.try_lease("ring", "b", 30)
    assert store.cas("ring", 1, body(2, by="a"), old.fence) is None
    assert store.read_gen("ring") == 1
    assert store.cas("ring", 1, body(2, by="b"), new.fence) == 2


def test_a_fence_that_nobody_was_given_does_not_write(store):
    for fence in (1, -1, 99):
        assert store.cas("ring", 0, body(1), fence) is None
    assert store.cas("ring", 0, body(1), None) == 1


def test_a_right_fence_does_not_write_over_another_generation(store):
    store.cas("ring", 0, body(1))
    lease = store.try_lease("ring", "a", 30)
    assert store.cas("ring", 0, body(1, by="a"), lease.fence) is None


def test_threads_that_write_at_once_lose_nothing(store):
    def add():
        for _ in range(10):
            while True:
                found = store.read("ring")
                gen = 0 if found is None else found.gen
                count = 0 if found is None else json.loads(found.body)["count"]
                if store.cas("ring", gen, body(gen + 1, count=count + 1)) is not None:
                    break

    threads = [threading.Thread(target=add) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert json.loads(store.read("ring").body) == {"gen": 40, "count": 40}


def test_only_one_of_many_threads_gets_the_lease(store):
    granted = []

    def ask(holder):
        granted.append(store.try_lease("ring", holder, 30))

    threads = [threading.Thread(target=ask, args=(str(number),)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(lease is not None for lease in granted) == 1


def test_a_body_does_not_stand_in_a_repr(store):
    store.cas("ring", 0, body(1, wrapped="abcdef"))
    assert "abcdef" not in repr(store.read("ring")) + repr(store)


# Which store.


def test_a_reference_names_its_store(path):
    assert open_store("memory:").reach == "process"
    found = open_store(f"file:{path}")
    assert (found.reach, found.path) == ("host", path)


@pytest.mark.parametrize(
    "reference", ["", "memory", "memory:x", "file:", "redis://:hunter2@h/0", "FILE:x", "/var/x", ":"]
)
def test_any_other_reference_is_refused_and_not_echoed(reference):
    with pytest.raises(ValueError, match="memory: or file:PATH") as raised:
        open_store(reference)
    assert "hunter2" not in str(raised.value)


def test_two_memory_stores_share_nothing():
    one, other = MemoryStore(), MemoryStore()
    one.cas("ring", 0, body(1))
    assert other.read("ring") is None


def test_a_memory_store_whose_lock_is_lost_is_unavailable_and_does_not_hang(monkeypatch):
    monkeypatch.setattr(stores, "_PATIENCE_SECONDS", 0.2)
    store = MemoryStore()
    store._lock.acquire()
    begun = time.monotonic()
    with pytest.raises(StoreUnavailable):
        store.cas("ring", 0, body(1))
    assert time.monotonic() - begun < 2
    assert store.read("ring") is None
