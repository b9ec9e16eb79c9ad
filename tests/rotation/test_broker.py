"""Notices over real brokers, and whatever else somebody may send there."""

from __future__ import annotations

import json
import logging
import pickle
import threading
import time
import zlib
from datetime import timedelta

import pytest
import redis
from encryption.rings import RING
from kombu import Connection, Exchange, Producer
from rotation.processes import outputs, until

from secmiddleware.encryption.manager import utc_now
from secmiddleware.errors import StoreUnavailable
from secmiddleware.rotation import broker as broker_module
from secmiddleware.rotation.broker import Broker
from secmiddleware.rotation.notices import write_notice

EXCHANGE = Exchange(f"secmw.rotation.{RING}", type="fanout", durable=True, delivery_mode=1)


@pytest.fixture(params=["memory", "redis", "amqp"])
def url(request):
    """A broker that serves, of each kind."""
    return "memory://" if request.param == "memory" else request.getfixturevalue(f"{request.param}_url")


@pytest.fixture
def watch_over(watch, far):
    """Makes managers over one far store, each with a broker; ready."""

    def make(url, **arguments):
        manager, line = watch(far, messenger=Broker(url, RING, **arguments))
        until(lambda: health(line)["ready"])
        return manager, line

    return make


@pytest.fixture
def publish(url):
    """Sends whatever to everybody, as somebody who can write to the broker."""
    with Connection(url) as connection:
        connection.connect()
        producer = Producer(connection.channel(), EXCHANGE)

        def send(body, content_type="application/json", content_encoding="utf-8", **arguments):
            producer.publish(
                body,
                content_type=content_type,
                content_encoding=content_encoding,
                declare=[EXCHANGE],
                **arguments,
            )

        yield send


def health(line):
    return line.health()["broker"]


def dropped(line):
    return sum(health(line)["notices_dropped"].values())


def notice_of(manager, gen=None, now=None):
    gen = manager.keyring.gen if gen is None else gen
    return write_notice(RING, "ring", gen, now or utc_now(), manager.mac_of_notice)


# Heard.


def test_what_one_process_rotates_the_other_has_at_once(url, watch_over):
    first, _ = watch_over(url)
    second, line = watch_over(url)
    kid = first.rotate()
    assert until(lambda: second.keyring.keys[-1].kid == kid) < 2
    assert health(line)["notices_seen"] == 1


def test_many_notices_at_once_are_one_look_or_two(url, watch_over, far, publish):
    manager, line = watch_over(url)
    looks = far.looks
    for more in range(1, 51):
        publish(notice_of(manager, gen=manager.keyring.gen + more))
    until(lambda: health(line)["notices_seen"] == 50)
    time.sleep(0.3)  # the longest spread and more: whatever was asked for has been done
    assert 1 <= far.looks - looks <= 4


def test_an_own_notice_comes_back_and_is_nothing_new(url, watch_over, far):
    manager, line = watch_over(url)
    manager.rotate()
    until(lambda: health(line)["notices_not_new"] == 1)
    assert health(line)["notices_sent"] == 1
    assert health(line)["notices_dropped"] == {}


def test_the_destruction_of_a_key_is_announced(url, watch, far):
    first, line = watch(
        far,
        messenger=Broker(url, RING),
        activation_delay=timedelta(0),
        retire_after=timedelta(milliseconds=1),
    )
    second, other = watch(far, messenger=Broker(url, RING))
    until(lambda: health(line)["ready"] and health(other)["ready"])
    kid = first.keyring.keys[0].kid
    first.rotate()
    # From here on the clock alone has nothing to tell.
    until(lambda: all(found._states.get(kid) == "retired" for found in (first, second)))
    first.destroy(kid)
    until(lambda: second.keyring.keys[0].destroyed_at)


def test_what_was_told_before_anybody_listened_is_found_when_listening_begins(
    redis_server, watch, far, monkeypatch
):
    monkeypatch.setattr(broker_module, "_LONGEST_PAUSE", 0.3)
    redis_server.kill()
    try:
        manager, line = watch(far, messenger=Broker(redis_server.url, RING))
        until(lambda: health(line)["trouble"])
        assert not health(line)["ready"]
        other, _ = watch(far)
        kid = other.rotate()
    finally:
        redis_server.start()
    until(lambda: health(line)["ready"])
    # Ready says that it has looked since it listens.
    assert manager.keyring.keys[-1].kid == kid


def test_it_is_not_ready_before_the_store_was_looked_at(redis_server, watch, far, monkeypatch):
    monkeypatch.setattr(broker_module, "_LONGEST_PAUSE", 0.3)
    redis_server.kill()
    try:
        _, line = watch(far, messenger=Broker(redis_server.url, RING))
        until(lambda: health(line)["trouble"])
        far.hangs = True
    finally:
        redis_server.start()
    until(lambda: health(line)["connected_since"])
    assert far.inside.wait(20)
    assert not health(line)["ready"]
    far.let_go.set()
    until(lambda: health(line)["ready"])


def test_rings_that_share_a_broker_do_not_hear_each_other(url, watch_over, watch, far):
    manager, line = watch_over(url)
    stranger = Broker(url, "orders")
    heard, connected = [], threading.Event()
    stranger.start(take=heard.append, compose=lambda: b"", connected=connected.set)
    try:
        assert connected.wait(20)
        manager.rotate()
        until(lambda: health(line)["notices_not_new"])
        time.sleep(0.1)
        assert heard == []
    finally:
        stranger.stop()
        stranger.join(1)


def test_a_connection_is_renewed_by_itself_and_hears_on(url, watch_over, monkeypatch):
    first, _ = watch_over(url)
    second, line = watch_over(url, renewal=timedelta(milliseconds=150))
    until(lambda: health(line)["reconnects"] >= 2)
    kid = first.rotate()
    until(lambda: second.keyring.keys[-1].kid == kid)
    assert health(line)["trouble"] is None


# Not believed.


exploded = []


def explode():
    exploded.append("a pickle was opened")


class Explosive:
    def __reduce__(self):
        return explode, ()


def test_what_is_no_authentic_notice_is_counted_and_not_acted_on(url, watch_over, far, publish):
    manager, line = watch_over(url)
    gen = manager.keyring.gen
    good = notice_of(manager, gen=gen + 1)
    looks = far.looks
    forged = json.dumps(json.loads(good) | {"secmwgen": str(gen + 2)})
    publish(forged)
    publish(write_notice("orders", "ring", gen + 1, utc_now(), manager.mac_of_notice))
    publish(write_notice(RING, "ring", gen + 1, utc_now().replace(year=2025), manager.mac_of_notice))
    publish("x" * (5 << 20))
    publish("{")
    publish("")
    publish(b"\xff\xfe")
    publish(good, content_type="text/plain")
    pickled = pickle.dumps(Explosive())
    publish(pickled, content_type="application/x-python-serialize", content_encoding="binary")
    publish(pickled, content_encoding="binary")
    publish(b"{}", content_encoding="no-such-coding")
    # Whatever unpacks this would unpack a bomb as well.
    packed = zlib.compress(notice_of(manager, gen=gen + 1))
    publish(packed, content_encoding="binary", headers={"compression": "application/x-gzip"})
    publish("{}", headers={"compression": "no-such-compression"})
    until(lambda: dropped(line) == 13)
    assert health(line)["notices_dropped"] == {
        "forged": 1,
        "elsewhere": 1,
        "out_of_time": 1,
        "too_large": 1,
        "malformed": 9,
    }
    assert far.looks == looks
    assert exploded == []
    assert health(line)["reconnects"] == 0
    # It hears as before; and one that is repeated is not heard again.
    publish(good)
    until(lambda: health(line)["notices_seen"] == 1)
    until(lambda: far.looks > looks)
    for _ in range(5):
        publish(good)
    until(lambda: health(line)["notices_dropped"].get("replayed") == 5)


GARBAGE = [
    b"",
    b"{",
    b"[]",
    b"{}",
    b"7",
    b"null",
    b'"text"',
    b"\xff\xfe\x00",
    b"[" * 100_000,
    b'{"body": "e30=", "properties": {}}',
    b'{"body": "e30=", "properties": {"delivery_tag": "1", "body_encoding": "base64"}, "headers": 7}',
    b'{"body": "%%%", "properties": {"delivery_tag": "1", "body_encoding": "base64"}}',
    b'{"body": {"a": 1}, "content-type": "application/json", "properties": {"delivery_tag": "1"}}',
    b'{"__type__": "uuid", "__value__": "x"}',
    b'{"__type__": "decimal", "__value__": "x"}',
    b'{"__type__": "datetime", "__value__": 7}',
]


def test_what_no_kombu_has_sent_does_not_end_the_listening(redis_url, watch_over, far, caplog):
    # kombu logs each with its traceback, from our thread; CPython 3.11 now and then fails (SystemError in
    # ast) where pytest parses at the same time.
    caplog.set_level(logging.CRITICAL, "kombu.transport.redis")
    manager, line = watch_over(redis_url)
    looks = far.looks
    with redis.Redis.from_url(redis_url) as client:
        channel = f"/{client.get_connection_kwargs()['db']}.{EXCHANGE.name}"
        for body in GARBAGE:
            client.publish(channel, body)
    other, _ = watch_over(redis_url)
    looks = far.looks
    kid = other.rotate()
    until(lambda: manager.keyring.keys[-1].kid == kid)
    assert far.looks > looks
    assert health(line)["reconnects"] == 0


# Kept to itself.


def everything_said(line, caplog):
    return caplog.text + json.dumps(line.health()) + repr(line._messenger) + str(line._messenger)


@pytest.mark.parametrize("kind", ["redis", "amqp"])
def test_a_password_is_told_nowhere_whatever_goes_wrong(kind, request, watch, far, caplog):
    right = request.getfixturevalue(f"{kind}_url")
    scheme, _, place = right.partition("://")
    place = place.rpartition("@")[2]
    caplog.set_level(logging.DEBUG)
    for url in (
        f"{scheme}://somebody:hunter2%2Fhunter2@{place}",
        f"{scheme}://somebody:hunter2%2Fhunter2@nowhere.invalid:1/0",
        f"{scheme}://somebody:hunter2%2Fhunter2@127.0.0.1:1/0",
    ):
        _, line = watch(far, messenger=Broker(url, RING))
        until(lambda line=line: health(line)["trouble"])
        assert "hunter2" not in everything_said(line, caplog)
        assert "somebody" not in json.dumps(health(line)["address"])
        line.stop()


def test_what_a_broker_says_of_a_password_is_blotted_out():
    broker = Broker("redis://:p%40ss%2Fw@host:6379/0", RING)
    for spelling in ("p%40ss%2Fw", "p@ss/w", "p%40ss/w"):
        broker._complain(OSError(f"cannot connect with {spelling} to host"))
        assert broker.health()["trouble"] == "OSError: cannot connect with … to host"


def test_the_address_has_neither_name_nor_password():
    broker = Broker("amqp://shop:hunter2@[::1]:5672/tests", RING)
    assert broker.health()["address"] == "amqp://[::1]:5672"
    assert repr(broker) == "Broker('amqp://[::1]:5672')"


# In nobody's way.


@pytest.mark.parametrize("kind", ["redis", "rabbitmq"])
def test_a_rotation_waits_for_no_broker_and_a_stop_for_nothing(kind, request, watch, far):
    server = request.getfixturevalue(f"{kind}_server")
    manager, line = watch(far, messenger=Broker(server.url, RING))
    until(lambda: health(line)["ready"])
    server.halt()
    try:
        begun = time.monotonic()
        manager.rotate()
        for _ in range(1000):
            line._announce()
        assert time.monotonic() - begun < 0.5
        time.sleep(0.1)  # it hangs in the broker by now
        begun = time.monotonic()
        line.stop()
        assert time.monotonic() - begun < 0.1
    finally:
        server.go_on()


def test_a_rotation_that_could_not_be_announced_is_when_the_broker_is_back(
    redis_server, watch, far, monkeypatch
):
    monkeypatch.setattr(broker_module, "_LONGEST_PAUSE", 0.3)
    first, line = watch(far, messenger=Broker(redis_server.url, RING))
    until(lambda: health(line)["ready"])
    redis_server.kill()
    try:
        until(lambda: health(line)["connected_since"] is None)
        first.rotate()
    finally:
        redis_server.start()
    until(lambda: health(line)["notices_sent"] == 1)


def test_an_announcement_that_fails_half_way_is_made_again(redis_server, watch, far, monkeypatch):
    monkeypatch.setattr(broker_module, "_CONNECT_SECONDS", 0.3)
    monkeypatch.setattr(broker_module, "_LONGEST_PAUSE", 0.3)
    manager, line = watch(far, messenger=Broker(redis_server.url, RING))
    until(lambda: health(line)["ready"])
    redis_server.halt()
    try:
        manager.rotate()
        # It was about to send, and was not answered.
        until(lambda: health(line)["connected_since"] is None)
        assert health(line)["notices_sent"] == 0
    finally:
        redis_server.go_on()
    until(lambda: health(line)["notices_sent"] == 1)


def test_a_halted_rabbitmq_is_noticed_by_its_heartbeat(rabbitmq_server, watch, far, monkeypatch):
    monkeypatch.setattr(broker_module, "_HEARTBEAT_SECONDS", 2)
    monkeypatch.setattr(broker_module, "_LONGEST_PAUSE", 0.3)
    _, line = watch(far, messenger=Broker(rabbitmq_server.url, RING))
    until(lambda: health(line)["ready"])
    rabbitmq_server.halt()
    try:
        until(lambda: health(line)["connected_since"] is None)
    finally:
        rabbitmq_server.go_on()
    until(lambda: health(line)["ready"])


def test_a_halted_redis_is_noticed_when_the_connection_is_renewed(redis_server, watch, far, monkeypatch):
    monkeypatch.setattr(broker_module, "_CONNECT_SECONDS", 0.3)
    monkeypatch.setattr(broker_module, "_LONGEST_PAUSE", 0.3)
    broker = Broker(redis_server.url, RING, renewal=timedelta(seconds=0.5))
    _, line = watch(far, messenger=broker)
    until(lambda: health(line)["ready"])
    redis_server.halt()
    try:
        until(lambda: health(line)["connected_since"] is None)
    finally:
        redis_server.go_on()
    until(lambda: health(line)["ready"])


@pytest.mark.parametrize("scheme", ["redis", "amqp"])
def test_a_stop_between_two_attempts_to_connect_ends_the_pause(scheme, watch, far, monkeypatch):
    monkeypatch.setattr(broker_module, "_FIRST_PAUSE", 60)
    _, line = watch(far, messenger=Broker(f"{scheme}://127.0.0.1:1", RING))
    until(lambda: health(line)["trouble"])
    thread = line._messenger._thread
    begun = time.monotonic()
    line.stop()
    assert time.monotonic() - begun < 0.1
    thread.join(5)
    assert not thread.is_alive()


def test_a_stop_ends_the_thread_and_leaves_nothing_in_memory(watch, far):
    from kombu.transport.memory import Channel

    before = set(Channel.queues)
    _, line = watch(far, messenger=Broker("memory://", RING))
    until(lambda: health(line)["ready"])
    assert set(Channel.queues) - before
    thread = line._messenger._thread
    line.stop()
    thread.join(20)
    assert not thread.is_alive()
    assert set(Channel.queues) == before


def test_a_store_that_is_away_when_a_notice_comes_is_looked_at_later(watch_over, far):
    manager, line = watch_over("memory://")
    other, _ = watch_over("memory://")
    kid = other.rotate()
    far.error = StoreUnavailable("the store is away")
    line._take(notice_of(manager, gen=manager.keyring.gen + 5))
    until(lambda: manager.status()["alarms"])
    far.error = None
    line._call("notice")
    until(lambda: manager.keyring.keys[-1].kid == kid)


# Forks.

FORKING = """
import os, sys, threading, warnings
warnings.filterwarnings("ignore", message=".*fork", category=DeprecationWarning)
from datetime import timedelta
from encryption.rings import RING, manager_of
from rotation.members import FarStore
from rotation.processes import until
from secmiddleware.encryption.manager import utc_now
from secmiddleware.rotation.broker import Broker
from secmiddleware.rotation.line import RotationLine

_, path, url, way, _ = sys.argv
def manager():
    made = manager_of(FarStore(path), utc_now, activation_delay=timedelta(0))
    made.start()
    return made

ours = manager()
line = RotationLine(ours, messenger=Broker(url, RING))
line.start()
ready = lambda: line.health()["broker"]["ready"]
until(ready)

def in_child():
    assert not ready()
    if way == "start":
        line.start()
        until(ready)
        other = manager()
        outside = RotationLine(other, messenger=Broker(url, RING))
        outside.start()
        until(lambda: outside.health()["broker"]["ready"])
        kid = other.rotate()
        until(lambda: ours.keyring.keys[-1].kid == kid)
        outside.stop()
    else:
        ours.rotate()
    until(lambda: ready() and line.health()["broker"]["notices_seen"])
    line.stop()

child = os.fork()
if child == 0:
    try:
        in_child()
    except BaseException as error:
        print(repr(error), file=sys.stderr, flush=True)
        os._exit(1)
    os._exit(0)
_, status = os.waitpid(child, 0)
# The parent's connection was not touched: it has heard the notice.
until(lambda: len(ours.keyring.keys) == 2)
print(os.waitstatus_to_exitcode(status), ready(), line.health()["broker"]["reconnects"])
line.stop()
"""


@pytest.mark.parametrize("way", ["start", "rotate"])
@pytest.mark.parametrize("kind", ["redis", "amqp"])
def test_the_child_of_a_fork_has_a_connection_of_its_own_and_the_parent_keeps_its(
    request, tmp_path, kind, way
):
    url = request.getfixturevalue(f"{kind}_url")
    assert outputs(FORKING, tmp_path / "ring", url, way) == [["0 True 0"]]
