"""What a set of places compiles to."""

import pytest
from fields.flowing import JSON, MAX_BODY, exchange, place, request, response, seal, unsealed

from secmiddleware.fields.flows import PASSIVE, Unconditional
from secmiddleware.fields.limits import Limits
from secmiddleware.fields.requests import RequestFlow
from secmiddleware.fields.rules import Plan
from secmiddleware.messages import Body, Head, Refusal, RequestHead


def plan(*places):
    return Plan.compile(places, Limits(MAX_BODY))


@pytest.mark.parametrize(
    ("asks", "answers", "flow"),
    [
        ("pass", "pass", PASSIVE),
        ("pass", "encrypt", Unconditional),
        ("pass", "decrypt", Unconditional),
        ("decrypt", "pass", RequestFlow),
        ("encrypt", "pass", RequestFlow),
        ("decrypt", "encrypt", RequestFlow),
    ],
)
def test_only_marked_requests_are_held(asks, answers, flow):
    compiled = plan(place("$.ssn", request=asks, response=answers))
    assert compiled.marks_anything == ((asks, answers) != ("pass", "pass"))
    got = compiled.request_flow(exchange())
    assert got.passive == (flow is PASSIVE)
    if flow is PASSIVE:
        assert got is PASSIVE
    else:
        assert isinstance(got, flow)
        assert got is not compiled.request_flow(exchange())


def test_nothing_marked_leaves_every_message_alone():
    for compiled in (plan(), plan(place("$.ssn")), plan(place())):
        assert not compiled.marks_anything
        assert compiled.request_flow(exchange()) is PASSIVE
        assert compiled.response_flow(exchange(), "GET") is PASSIVE


def test_a_passive_flow_changes_nothing_and_streams():
    head = RequestHead("http", "POST", "https", "/", headers=JSON)
    assert [event.head for event in PASSIVE.start(head)] == [head]
    chunk = b"x" * 100
    (event,) = PASSIVE.feed(chunk)
    assert event == Body(chunk, more=True)
    assert event.data is chunk
    assert list(PASSIVE.feed(b"")) == []
    assert list(PASSIVE.finish(complete=True)) == [Body(b"")]
    assert list(PASSIVE.finish(complete=False)) == [Refusal("payload_malformed")]
    assert (PASSIVE.load, PASSIVE.report.opened, PASSIVE.report.sealed) == (0, 0, 0)


def test_a_plan_serves_many_exchanges_at_once():
    compiled = plan(place("$.ssn", request="encrypt"))
    flows = [compiled.request_flow(exchange()) for _ in range(3)]
    head = RequestHead("http", "POST", "https", "/", headers=JSON)
    for flow in flows:
        assert list(flow.start(head)) == []
    for number, flow in enumerate(flows):
        list(flow.feed(b'{"ssn":%d' % number))
    for flow in reversed(flows):
        list(flow.feed(b"}"))
    bodies = [unsealed(list(flow.finish(complete=True))[1].data) for flow in flows]
    assert bodies == [b'{"ssn":<0>}', b'{"ssn":<1>}', b'{"ssn":<2>}']


def test_each_direction_has_the_marks_of_its_own():
    places = [
        place("$.in", name="in", request="encrypt"),
        place("$.out", name="out", response="encrypt"),
    ]
    body = b'{"in":1,"out":2}'
    assert unsealed(request(places, body).body, "in") == b'{"in":<1>,"out":2}'
    assert unsealed(response(places, body).body, "out") == b'{"in":1,"out":<2>}'


def test_fields_with_marks_side_by_side_are_each_handled_as_their_place_says():
    places = [
        place("$[*].a", name="a", request="decrypt"),
        place("$[*].b", "$[*].c", name="b", request="encrypt"),
    ]
    sent = request(places, b'[{"b":1,"a":%s},{"c":2}]' % seal("9", "a"))
    assert unsealed(sent.body, "b") == b'[{"b":<1>,"a":9},{"c":<2>}]'
    refused = request(places, b'[{"b":1},{"a":%s}]' % seal("9", "b"))
    assert refused.refusal == Refusal("field_undecryptable", "$[*].a")


def test_of_two_places_that_mark_one_value_the_first_has_it():
    places = [place("$.x", name="first", request="encrypt"), place("$..x", name="second", request="encrypt")]
    body = request(places, b'{"x":1,"y":{"x":2}}').body
    first, second = body.split(b',"y"')
    assert unsealed(first, "first") == b'{"x":<1>'
    assert unsealed(second, "second") == b':{"x":<2>}}'


def test_an_empty_mark_list_marks_nothing():
    assert Plan.compile([place(request="encrypt")], Limits(MAX_BODY)).request_flow(exchange()) is PASSIVE


def test_marks_that_cannot_be_followed_at_once_are_refused_at_start():
    with pytest.raises(ValueError, match="too many to follow"):
        plan(place("$..a" + "[*]" * 20 + ".b", response="encrypt"))


@pytest.mark.parametrize(
    ("answers", "bind", "private"),
    [
        ("decrypt", "none", True),
        ("encrypt", "caller", True),
        ("encrypt", "tenant", True),
        ("encrypt", "none", False),
        ("pass", "caller", False),
    ],
)
def test_a_plan_is_private_where_its_responses_depend_on_the_caller(answers, bind, private):
    assert plan(place("$.ssn", request="decrypt", response=answers, bind=bind)).private is private


def test_a_request_flow_gives_its_head_once_with_its_body():
    flow = plan(place("$.ssn", request="encrypt")).request_flow(exchange())
    list(flow.start(RequestHead("http", "POST", "https", "/", headers=JSON)))
    list(flow.feed(b"{}"))
    assert [type(event) for event in flow.finish(complete=True)] == [Head, Body]
    assert list(flow.finish(complete=True)) == []
    assert list(flow.feed(b"{}")) == []
