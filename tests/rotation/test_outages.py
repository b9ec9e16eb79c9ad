"""Several processes, a real broker, and what happens to brokers.

Requests never notice, and the ring is current again by itself. Most members look at the store every 30
seconds only, so what they learn earlier they have been told.
"""

from __future__ import annotations

import pytest
from rotation.members import members
from rotation.processes import until

LONG = 30.0


@pytest.fixture(params=["redis_server", "rabbitmq_server"])
def server(request):
    """One that serves again afterwards, whatever was done to it."""
    found = request.getfixturevalue(request.param)
    yield found
    found.go_on()
    if not found.running:
        found.start()


def rotate_and_wait(first, others, seconds):
    kid, _, took = first.ask("rotate")
    until(lambda: all(other.knows(kid) for other in others), seconds)
    return kid, took


def test_a_rotation_reaches_the_other_processes_in_a_fraction_of_a_second(server, tmp_path):
    with members(tmp_path / "ring", server.url, [LONG] * 3, delay=0.7) as fleet:
        until(lambda: all(member.ready for member in fleet))
        kids, delays = [], []
        for first in fleet:
            kid, when, _ = first.ask("rotate")
            until(lambda kid=kid: all(("activated", kid) in member.told for member in fleet))
            kids.append(kid)
            delays += [member.knows(kid) - when for member in fleet]
        assert sorted(delays)[len(delays) // 2] < 0.5
        assert max(delays) < 3
        for member in fleet:
            # Once each, whoever it was that rotated.
            assert member.told == [(what, kid) for kid in kids for what in ("published", "activated")]
        for member in fleet:
            seconds, requests = member.ask("stop")
            assert seconds < 0.1
            assert requests["done"] > 0
            assert requests["failed"] == []


def none_failed(fleet):
    for member in fleet:
        seconds, requests = member.ask("stop")
        assert seconds < 0.1
        assert requests["done"] > 20
        assert requests["failed"] == []
        assert requests["worst"] < 2


def test_a_broker_that_is_away_at_the_start_holds_nobody_up_and_is_found_when_it_comes(server, tmp_path):
    server.kill()
    with members(tmp_path / "ring", server.url, [LONG, LONG, 1.0]) as fleet:
        first, other, polling = fleet
        kid, took = rotate_and_wait(first, [polling], 5)
        assert took < 2
        assert other.knows(kid) is None
        assert not any(member.ready for member in fleet)
        server.start()
        # Whoever connects looks.
        until(lambda: all(member.ready and member.knows(kid) for member in fleet))
        none_failed(fleet)


def test_a_broker_that_is_killed_under_load_costs_no_request_and_all_are_current_when_it_is_back(
    server, tmp_path
):
    with members(tmp_path / "ring", server.url, [LONG, LONG, 1.0]) as fleet:
        first, other, polling = fleet
        until(lambda: all(member.ready for member in fleet))
        server.kill()
        until(lambda: not any(member.ready for member in fleet))
        kid, took = rotate_and_wait(first, [polling], 5)
        assert took < 2
        assert other.knows(kid) is None
        server.start()
        until(lambda: all(member.ready and member.knows(kid) for member in fleet))
        none_failed(fleet)


def test_a_broker_that_is_halted_costs_no_request_and_nobody_waits_for_it_at_the_end(server, tmp_path):
    with members(tmp_path / "ring", server.url, [LONG, LONG, 1.0]) as fleet:
        first, other, polling = fleet
        until(lambda: all(member.ready for member in fleet))
        # Connections stay open, and nobody answers.
        server.halt()
        kid, took = rotate_and_wait(first, [polling], 5)
        assert took < 2
        assert other.knows(kid) is None
        server.go_on()
        until(lambda: other.knows(kid))
        server.halt()
        none_failed(fleet)


def test_without_a_broker_the_poll_finds_it(tmp_path):
    with members(tmp_path / "ring", "", [LONG, 0.5, 0.5]) as fleet:
        kid, _ = rotate_and_wait(fleet[0], fleet[1:], 5)
        assert kid


def test_processes_that_are_killed_leave_one_name_in_redis_and_not_one_each(redis_server, tmp_path):
    import redis

    with redis.Redis.from_url(redis_server.url) as client:
        client.flushall()
        for _ in range(2):
            with members(tmp_path / "ring", redis_server.url, [LONG] * 3) as fleet:
                until(lambda fleet=fleet: all(member.ready for member in fleet))
                for member in fleet:
                    member.kill()
        left = {key: client.smembers(key) for key in client.scan_iter()}
    assert len(left) <= 2, left
    assert all(len(members) == 1 for members in left.values())
