"""Masks: what they show of a value, what they never tell, and that none is stored when it comes back."""

from __future__ import annotations

import json

import pytest
from fields.flowing import (
    STRANGE_RING,
    caller,
    exchange,
    forged,
    is_no_token,
    place,
    request,
    response,
    seal,
    unseal,
)
from hypothesis import example, given
from hypothesis import strategies as st

from secmiddleware.fields.masks import HIDDEN, MASK, is_mask, mask_of
from secmiddleware.fields.values import ValueWork
from secmiddleware.messages import Refusal

MASKED = {"otherwise": "mask", "mask_last": 4}
AT_REST = {"request": "encrypt", "response": "decrypt"} | MASKED


def shown(value, *, within=None, **field):
    """What a caller who may not have plaintext gets of what the app stores."""
    work = ValueWork(exchange() if within is None else within)
    return work.on_response(place("$.ssn", response="decrypt", **(MASKED | field)), value, "$.ssn")


@pytest.mark.parametrize(
    ("value", "mask"),
    [
        (b'"078-05-1120"', '"***1120"'),
        (b'"DE89370400440532013000"', '"***3000"'),
        (b'"\\u0041BCDEFG\\u0048"', '"***EFGH"'),
        ('"aé漢字𝒳𝒴𝒵🙂"'.encode(), '"***𝒳𝒴𝒵🙂"'),
        (b'"\\ud835\\udcb3\\ud835\\udcb4\\ud835\\udcb5abcde"', '"***bcde"'),
        (b'"1234abc\\""', '"***abc\\""'),
        (b"4111111111111111", '"***1111"'),
        (b"-12345678", '"***5678"'),
        (b"12345.678", '"***5678"'),
        # Of these at least half, or four characters, would not stay hidden.
        (b'"1234567"', '"***"'),
        (b'"12345678"', '"***5678"'),
        (b'"1120"', '"***"'),
        (b'""', '"***"'),
        (b"1234567", '"***"'),
        (b"0", '"***"'),
        # And these have no last characters.
        (b"12345678e10", '"***"'),
        (b"1.2345678E-7", '"***"'),
        (b"true", '"***"'),
        (b"null", '"***"'),
        (b'["078-05-1120"]', '"***"'),
        (b'{"number":"078-05-1120"}', '"***"'),
        (b'"078-05-1120\\ud800"', '"***"'),
        (b'"\\ud800078-05-1120"', '"***"'),
    ],
)
def test_a_mask_shows_the_last_characters_where_enough_stays_hidden(value, mask):
    assert mask_of(value, 4).decode() == mask
    assert shown(seal(value)).decode() == mask
    assert shown(seal(value), mask_last=0) == MASK


@pytest.mark.parametrize("last", [1, 2, 3])
def test_of_a_short_value_four_characters_stay_hidden_however_few_are_shown(last):
    assert mask_of(b'"%s"' % (b"7" * (HIDDEN + last - 1)), last) == MASK
    assert mask_of(b"7" * (HIDDEN + last - 1), last) == MASK
    assert mask_of(b'"%s"' % (b"7" * (HIDDEN + last)), last) == b'"***%s"' % (b"7" * last)


@given(st.text(), st.integers(0, 16))
@example("🙂" * 20, 7)
def test_a_mask_is_a_string_of_the_values_end_and_no_more_than_half_of_it(text, last):
    mask = json.loads(mask_of(json.dumps(text).encode(), last))
    assert mask.startswith("***")
    tail = mask[3:]
    assert tail in ("", text[len(text) - last :])
    assert len(tail) in (0, last)
    assert 2 * len(tail) <= len(text)
    assert is_mask(mask, last)


@given(st.integers(8, 300), st.integers(8, 300))
def test_the_length_of_a_value_is_not_told_by_its_mask(one, other):
    assert mask_of(b'"%s"' % (b"7" * one), 4) == mask_of(b'"%s"' % (b"7" * other), 4)
    assert mask_of(b"7" * one, 4) == mask_of(b"7" * other, 4)


def test_a_text_is_masked_like_a_string():
    assert shown(seal(b"078-05-1120"), encoding="text") == b'"***1120"'
    assert shown(seal('zwölf "12"'.encode()), encoding="text") == b'"***\\"12\\""'


def test_what_is_opened_for_its_mask_is_given_to_nobody():
    within = exchange()
    work = ValueWork(within)
    token = seal('"078-05-1120"')
    assert work.on_response(place("$.ssn", response="decrypt", **MASKED), token, "$.ssn") == b'"***1120"'
    assert within.opened == []
    assert (work.report.opened, work.report.sealed) == (1, 0)
    assert "1120" not in repr(work.report)


def test_who_may_have_plaintext_gets_no_mask():
    assert shown(seal('"078-05-1120"'), within=exchange(revealed={"ssn"})) == b'"078-05-1120"'


def test_nothing_is_shown_of_a_token_that_does_not_open():
    alice, bob = caller("spiffe://a.example/alice"), caller("spiffe://b.example/bob")
    token = seal('"078-05-1120"')
    for one in (forged(token), seal('"078-05-1120"', field="other"), seal(b"078-05-1120"), b'"sm1."'):
        assert shown(one) == MASK
    bound = seal('"078-05-1120"', caller=alice.name)
    assert shown(bound, bind="caller", within=exchange(identity=alice)) == b'"***1120"'
    assert shown(bound, bind="caller", within=exchange(identity=bob)) == MASK
    assert shown(bound, bind="caller", within=exchange()) == MASK


def test_where_a_key_is_not_known_yet_the_caller_may_come_again():
    strange = seal('"078-05-1120"', ring=STRANGE_RING)
    assert shown(strange) == Refusal("key_unknown", "$.ssn")
    assert shown(strange, mask_last=0) == MASK


def test_plaintext_that_the_app_kept_is_not_masked_but_told():
    assert shown(b'"078-05-1120"') == Refusal("seal_failed", "$.ssn")
    assert shown(b"4111111111111111") == Refusal("seal_failed", "$.ssn")


@pytest.mark.parametrize(
    ("value", "comes_back"),
    [
        (b'"***"', True),
        (b'"***1120"', True),
        (b'"\\u002a**1120"', True),
        ('"***𝒳𝒴𝒵🙂"'.encode(), True),
        (b'"***112"', True),  # a client trims what it sends
        (b'"***11200"', False),
        (b'"**1120"', False),
        (b'" ***1120"', False),
        (b'"1120"', False),
        (b"1120", False),
        (b"null", False),
    ],
)
def test_what_has_the_form_of_a_mask_is_not_stored(value, comes_back):
    work = ValueWork(exchange())
    stored = work.on_request(place("$.ssn", request="encrypt", **MASKED), value, "$.ssn")
    assert stored == Refusal("field_missing", "$.ssn") if comes_back else unseal(stored) == value


@given(
    st.text(max_size=30).filter(is_no_token)
    | st.integers()
    | st.decimals(allow_nan=False, allow_infinity=False).map(float)
)
def test_whatever_a_stranger_was_shown_is_refused_on_its_way_back(value):
    places = [place("$.ssn", **AT_REST)]
    body = json.dumps({"ssn": value}).encode()
    stored = request(places, body)
    if stored.refusal is not None:
        assert isinstance(value, str)
        assert value.startswith("***")
        return
    masked = response(places, stored.body).body
    assert request(places, masked).refusal == Refusal("field_missing", "$.ssn")
    assert response(places, stored.body, within=exchange(revealed={"ssn"})).body == body
