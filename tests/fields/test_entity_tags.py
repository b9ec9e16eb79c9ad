"""Entity tags: opaque outside, the app's own inside, and nothing in between."""

from dataclasses import replace
from datetime import timedelta

import pytest
from encryption.rings import DELAY, RETIRE, Clock, manager_of, rewrite
from fields.flowing import JSON, NOW, RING, STRANGE_RING, caller, exchange, place, request, response
from hypothesis import given, settings
from hypothesis import strategies as st

from secmiddleware.encryption.opaque_tags import LONGEST
from secmiddleware.fields.entity_tags import NEVER_MATCHES, EntityTags
from secmiddleware.messages import RequestHead, ResponseHead
from secmiddleware.rotation.stores import MemoryStore

PROPERTY = settings(max_examples=200, deadline=None)
SIGNS = st.integers(0x21, 0xFF).filter(lambda code: code not in (0x22, 0x7F))
TAGS = st.builds(
    lambda weak, codes: (b"W/" if weak else b"") + b'"' + bytes(codes) + b'"',
    st.booleans(),
    st.lists(SIGNS, max_size=80),
)


def tags(ring=RING, *, path="/customers/7", viewer=b"", now=NOW) -> EntityTags:
    return EntityTags(ring, now, path, viewer)


def outward(of, tag, *, weak=False, status=200, location=None):
    headers = ((b"etag", tag), *(() if location is None else ((b"location", location),)))
    found = dict(of.outward(ResponseHead(status, headers), headers, weak=weak))
    return found.get(b"etag")


def inward(of, name, *values):
    found = of.inward(tuple((name, value) for value in values))
    assert {key for key, _ in found} <= {name}
    assert len(found) < 2
    return found[0][1] if found else None


@given(TAGS, st.booleans(), st.booleans(), st.sampled_from([b"if-match", b"if-none-match"]))
@PROPERTY
def test_what_leaves_comes_back_in_the_form_that_the_app_gave(tag, weak, mark, condition):
    shown = outward(tags(), tag, weak=weak)
    assert shown.startswith(b"W/") == (weak or tag.startswith(b"W/"))
    assert shown.removeprefix(b"W/").strip(b'"').isascii()
    if len(tag) > 8:
        assert tag.strip(b'W/"') not in shown
    sent = b"W/" + shown.removeprefix(b"W/") if mark else shown.removeprefix(b"W/")
    assert inward(tags(), condition, sent) == tag


@given(st.binary(max_size=120))
@PROPERTY
def test_whatever_a_caller_sends_as_a_tag_is_none_of_ours(noise):
    for value in (noise, b'"' + noise + b'"', b'"sm' + noise + b'"'):
        assert inward(tags(), b"if-none-match", value) in (None, b"*", b" * ")
        assert inward(tags(), b"if-match", value) in (NEVER_MATCHES, b"*")


def test_a_tag_with_one_sign_changed_or_gone_is_none_of_ours():
    shown = outward(tags(), b'"v7"').strip(b'"')
    for at in range(len(shown)):
        other = b"A" if shown[at : at + 1] != b"A" else b"B"
        for forged in (shown[:at] + other + shown[at + 1 :], shown[:at] + shown[at + 1 :]):
            assert inward(tags(), b"if-none-match", b'"' + forged + b'"') is None


def test_equal_tags_are_equal_outside_in_every_process_and_for_one_resource_only():
    one, another = outward(tags(), b'"v7"'), outward(tags(), b'"v7"')
    assert one == another
    others = [
        outward(tags(path="/customers/8"), b'"v7"'),
        outward(tags(viewer=b"bob"), b'"v7"'),
        outward(tags(), b'"v8"'),
        outward(tags(), b'W/"v7"').removeprefix(b"W/"),
    ]
    assert len({one, *others}) == 5
    assert inward(tags(path="/customers/8"), b"if-match", one) == NEVER_MATCHES
    assert inward(tags(viewer=b"bob"), b"if-match", one) == NEVER_MATCHES


def test_path_and_viewer_cannot_be_put_together_in_another_way():
    assert outward(tags(path="/a", viewer=b"b"), b'"v"') != outward(tags(path="/ab"), b'"v"')
    alice = caller("spiffe://a/b")
    several = [exchange(identity=alice, revealed=names) for names in ((), ("c",), ("c", "d"))]
    views = [EntityTags.of(one, private=True).viewer for one in several]
    assert len({*views, EntityTags.of(exchange(), private=True).viewer}) == 4
    assert {EntityTags.of(one, private=False).viewer for one in several} == {b""}


def test_its_length_tells_no_single_sign_of_the_tag():
    assert len({len(outward(tags(), b'"' + b"x" * size + b'"')) for size in range(1, 15)}) == 1


def test_what_is_no_tag_or_too_long_or_doubled_does_not_leave():
    for value in (b"v7", b"", b'"a" "b"', b'w/"v7"', b'"a\x00b"', b'"a b"', b'"' + b"x" * LONGEST + b'"'):
        assert outward(tags(), value) is None
    twice = ((b"etag", b'"a"'), (b"x-a", b"1"), (b"etag", b'"a"'))
    assert tags().outward(ResponseHead(200, twice), twice, weak=False) == ((b"x-a", b"1"),)
    assert outward(tags(), b'"' + b"x" * (LONGEST - 2) + b'"') is not None


def test_without_a_key_ring_no_tag_leaves_and_none_matches():
    nobody = tags(None)
    assert outward(nobody, b'"v7"') is None
    assert inward(nobody, b"if-match", outward(tags(), b'"v7"')) == NEVER_MATCHES
    assert inward(nobody, b"if-none-match", outward(tags(), b'"v7"')) is None
    assert inward(nobody, b"if-match", b"*") == b"*"


def test_a_tag_of_a_strange_ring_is_none_of_ours():
    assert inward(tags(), b"if-match", outward(tags(STRANGE_RING), b'"v7"')) == NEVER_MATCHES


def test_after_a_rotation_a_tag_of_the_old_key_is_good_for_writing_and_not_for_not_reading():
    clock = Clock()
    manager = manager_of(MemoryStore(), clock)
    manager.start()
    shown = outward(tags(manager.keyring, now=clock.now), b'"v7"')
    manager.rotate()
    for pause, current in ((timedelta(), True), (DELAY, False)):
        then = tags(manager.keyring, now=clock.forward(pause))
        assert inward(then, b"if-match", shown) == b'"v7"'
        assert inward(then, b"if-none-match", shown) == (b'"v7"' if current else None)
        assert (outward(then, b'"v7"') == shown) == current
    retired = tags(manager.keyring, now=clock.forward(RETIRE))
    assert inward(retired, b"if-match", shown) == NEVER_MATCHES


def test_a_distrusted_key_makes_no_tag_and_opens_none():
    clock, store = Clock(), MemoryStore()
    manager = manager_of(store, clock)
    manager.start()
    shown = outward(tags(manager.keyring, now=clock.now), b'"v7"')
    rewrite(store, _distrusted)
    manager.look()
    then = tags(manager.keyring, now=clock.now)
    assert outward(then, b'"v7"') is None
    assert inward(then, b"if-match", shown) == NEVER_MATCHES


def _distrusted(ring):
    return replace(ring, gen=ring.gen + 1, keys=(replace(ring.keys[0], distrusted=True),))


def test_lists_are_read_whatever_stands_between():
    one, two = outward(tags(), b'"1"'), outward(tags(), b'W/"2"')
    assert inward(tags(), b"if-match", b" ,, " + one + b'\t,"x",' + two + b" , junk") == b'"1", W/"2"'
    assert inward(tags(), b"if-match", one, b"x", two, one) == b'"1", W/"2"'
    assert inward(tags(), b"if-none-match", b"*, " + one) == b'"1"'
    assert inward(tags(), b"if-match", b"*", one) == b'"1"'
    assert inward(tags(), b"if-match", b",".join([one] * 100)) == b'"1"'
    assert inward(tags(), b"if-match", b",".join([one] * 101)) == NEVER_MATCHES
    assert inward(tags(), b"if-none-match", b",".join([one] * 101)) is None


def test_beside_the_app_s_own_tags_ours_are_opened_and_all_else_stays():
    beside = replace(tags(), beside=True)
    shown = outward(beside, b'"v7"')
    kept = ((b"if-modified-since", b"x"), (b"if-none-match", b'W/"own", *'), (b"x-a", b'"sm"'))
    assert beside.inward(kept) is kept
    sent = ((b"if-match", b'"own", W/' + shown + b", junk"), (b"if-none-match", b'"sm",' + shown), *kept)
    assert beside.inward(sent) == (
        (b"if-match", b'"own", "v7", junk'),
        (b"if-none-match", b'"sm","v7"'),
        *kept,
    )
    assert replace(beside, keyring=None).inward(sent) is sent
    many = ((b"if-match", b",".join([shown] * 101)),)
    assert beside.inward(many)[0][1].count(b'"v7"') == 100


def test_headers_without_a_condition_stay_the_same_object():
    headers = ((b"if-match", b" * "), (b"if-none-match", b"*"), (b"if-unmodified-since", b"x"))
    assert tags().inward(headers) is headers
    assert tags().inward(()) == ()
    assert tags().inward(((b"if-modified-since", b"x"),)) == ()


def test_hostile_lists_are_read_in_linear_time():
    for value in (b'"' * 200_000, b'W/"' * 100_000, b'"a",' * 50_000, b'"' + b"x" * 200_000):
        assert inward(tags(), b"if-match", value) == NEVER_MATCHES


@pytest.mark.parametrize(
    ("status", "location", "path"),
    [
        (201, b"/customers/7", "/customers/7"),
        (201, b"https://shop.example/customers/7?x=1#y", "/customers/7"),
        (201, b"7", "/customers/7"),
        (201, b"/customers/M%C3%BCller", "/customers/Müller"),
        (201, b"", "/customers/"),
        (201, b"//[", "/customers/"),
        (200, b"/customers/7", "/customers/"),
        (303, b"/customers/7", "/customers/"),
    ],
)
def test_the_tag_of_what_was_created_is_that_of_its_place(status, location, path):
    shown = outward(tags(path="/customers/"), b'"v1"', status=status, location=location)
    assert shown is not None
    assert inward(tags(path=path), b"if-match", shown) == b'"v1"'


def within(path="/customers/7", **arguments):
    one = exchange(**arguments)
    one.head = RequestHead("http", "GET", "https", path)
    return one


def test_a_condition_goes_round_through_both_flows():
    places = [place("$.ssn", request="decrypt", response="encrypt")]
    headers = (*JSON, (b"etag", b'"v7"'))
    first, second = (response(places, b'{"ssn":1}', headers=headers, within=within()) for _ in range(2))
    assert first.body != second.body
    (shown,) = first.values(b"etag")
    assert second.values(b"etag") == [shown]
    assert shown.startswith(b'W/"sm')
    sent = request(places, b"{}", headers=(*JSON, (b"if-match", shown)), within=within())
    assert sent.values(b"if-match") == [b'"v7"']
    elsewhere = request(places, b"{}", headers=(*JSON, (b"if-match", shown)), within=within("/customers/8"))
    assert elsewhere.values(b"if-match") == [NEVER_MATCHES]


@pytest.mark.parametrize(
    ("field", "strong"), [({}, True), ({"rewrap": True}, False), ({"otherwise": "mask"}, True)]
)
def test_a_tag_is_strong_only_where_equal_answers_are_equal_bytes(field, strong):
    opened = [place("$.ssn", response="decrypt", **field)]
    answer = response(opened, b"{}", headers=(*JSON, (b"etag", b'"v7"')), within=within())
    assert answer.values(b"etag")[0].startswith(b'"sm') == strong


def test_who_may_see_less_than_before_is_not_told_that_nothing_has_changed():
    places = [place("$.ssn", response="decrypt", otherwise="mask")]
    alice = caller()
    headers = (*JSON, (b"etag", b'"v7"'))
    shown = response(places, b"{}", headers=headers, within=within(identity=alice, revealed={"ssn"}))
    asked = (*JSON, (b"if-none-match", shown.values(b"etag")[0]))
    again = request(places, headers=asked, within=within(identity=alice, revealed={"ssn"}))
    assert again.values(b"if-none-match") == [b'"v7"']
    assert request(places, headers=asked, within=within(identity=alice)).values(b"if-none-match") == []
    bob = caller("spiffe://shop.example/bob")
    asked_by_bob = request(places, headers=asked, within=within(identity=bob, revealed={"ssn"}))
    assert asked_by_bob.values(b"if-none-match") == []
