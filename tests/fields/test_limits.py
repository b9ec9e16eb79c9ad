"""What all bodies of a process may have together while they are held back."""

from __future__ import annotations

import gc
from concurrent.futures import ThreadPoolExecutor

from fields.flowing import JSON, exchange, place, seal

from secmiddleware.fields.limits import HeldBytes, Limits
from secmiddleware.fields.rules import Plan
from secmiddleware.messages import Refusal, RequestHead, ResponseHead

DECRYPT = [place("$.ssn", request="decrypt", response="encrypt")]
FULL = "service.max_held"


def uploading(limits, *chunks, length=None):
    """A request that has begun, and what its flow has said to the last chunk."""
    flow = Plan.compile(DECRYPT, limits).request_flow(exchange())
    headers = JSON if length is None else (*JSON, (b"content-length", b"%d" % length))
    said = list(flow.start(RequestHead("http", "POST", "https", "/", headers=headers)))
    for chunk in chunks:
        said = list(flow.feed(chunk))
    return flow, said


def test_bodies_that_are_held_at_once_share_one_limit():
    limits = Limits(100, HeldBytes(150))
    first, said = uploading(limits, b" " * 90)
    assert said == []
    second, said = uploading(limits, b" " * 60)
    assert said == []
    third, said = uploading(limits, b" ")
    assert said == [Refusal("payload_too_large", FULL)]
    assert (first.held, second.held, third.held) == (90, 60, 0)
    list(first.finish(complete=False))
    fourth, said = uploading(limits, b" " * 90)
    assert said == []
    assert limits.held.total == fourth.held + second.held == 150


def test_who_is_refused_for_the_sake_of_others_may_come_again():
    head, _ = Refusal("payload_too_large", FULL).problem("")
    assert head.status == 413
    assert (b"retry-after", b"5") in head.headers
    head, _ = Refusal("payload_too_large", "service.max_body").problem("")
    assert b"retry-after" not in dict(head.headers)


def test_a_response_that_goes_beyond_the_limit_of_all_is_refused_whole():
    limits = Limits(100, HeldBytes(100))
    waiting, _ = uploading(limits, b" " * 90)
    flow = Plan.compile(DECRYPT, limits).response_flow(exchange(), "GET")
    assert list(flow.start(ResponseHead(200, JSON))) == []
    assert list(flow.feed(b" " * 11)) == [Refusal("seal_failed", FULL)]
    assert limits.held.total == 90
    assert waiting.held == 90


def test_a_flow_that_nobody_ends_gives_back_what_it_held():
    limits = Limits(100, HeldBytes(100))
    flow, _ = uploading(limits, b" " * 100)
    assert limits.held.total == 100
    del flow
    gc.collect()
    assert limits.held.take(0)
    assert limits.held.total == 0


def test_what_is_being_rewritten_still_counts():
    counted = []
    limits = Limits(1000, HeldBytes(1000))
    body = b'{"ssn":' + seal('"078-05-1120"') + b"}"
    flow, _ = uploading(limits, body)
    taking = flow._work.on_request

    def watching(place, value, where):
        counted.append(limits.held.total)
        return taking(place, value, where)

    flow._work = type("Work", (), {"on_request": staticmethod(watching)})
    assert len(list(flow.finish(complete=True))) == 2
    assert counted == [len(body)]
    assert limits.held.total == 0


def test_threads_count_together_without_losing_a_byte():
    held = HeldBytes(1 << 40)

    def work(number):
        for _ in range(2000):
            held.take(number)
            held.give_back(number)
        held.take(number)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(1, 9)))
    assert held.total == sum(range(1, 9))
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(held.give_back, range(1, 9)))
    assert held.total == 0
