"""EncryptionManager on JSON documents: values at marks become tokens, come back, and nothing else changes."""

from __future__ import annotations

import json
from datetime import timedelta

import pytest
from encryption.rings import Clock, manager_of
from fields.documents import document
from fields.documents import marks as random_marks
from hypothesis import given, settings
from hypothesis import strategies as st

from secmiddleware.errors import DocumentError, KeyringError, TokenError
from secmiddleware.rotation.stores import MemoryStore

BODY = b'{ "ssn" : "078-05-1120", "people":[{"ssn":1.10},{"ssn":{"a":  [1]}}], "n":1.10, "x":"\\u00e9" }\n'
MARKS = ("$.ssn", "$.people[*].ssn")


@pytest.fixture(scope="module")
def manager():
    made = manager_of(MemoryStore(), Clock())
    made.start()
    return made


def test_values_at_marks_become_tokens_and_every_other_byte_stays(manager):
    sealed = manager.seal_json("ssn", BODY, MARKS)
    found = json.loads(sealed)
    tokens = [found["ssn"], *(one["ssn"] for one in found["people"])]
    values = [b'"078-05-1120"', b"1.10", b'{"a":  [1]}']
    assert [manager.open("ssn", token) for token in tokens] == values
    for token, value in zip(tokens, values, strict=True):
        sealed = sealed.replace(b'"%s"' % token.encode(), value)
    assert sealed == BODY


@pytest.mark.parametrize(
    "how",
    [
        {},
        {"tenant": "spiffe://a"},
        {"caller": "spiffe://a/b"},
        {"format": "xaes"},
        {"pad": 64},
        {"format": "deterministic"},
        {"format": "fernet"},
    ],
)
def test_what_was_sealed_comes_back_byte_for_byte_and_for_its_owner_alone(manager, how):
    sealed = manager.seal_json("ssn", BODY, MARKS, **how)
    how = {name: value for name, value in how.items() if name != "pad"}
    assert manager.open_json("ssn", sealed, MARKS, **how) == BODY
    with pytest.raises(TokenError, match=r"\$\.ssn"):
        manager.open_json("iban", sealed, MARKS, **how)
    if how.get("format") != "fernet":
        with pytest.raises(TokenError, match=r"\$\.ssn"):
            manager.open_json("ssn", sealed, MARKS, **(how | {"tenant": "spiffe://other"}))


def test_texts_are_not_padded_since_they_may_end_in_spaces(manager):
    for text in (b'{"x":"a"}', b'{"x":"a  "}'):
        sealed = manager.seal_json("ssn", text, "$.x", encoding="text")
        assert manager.open_json("ssn", sealed, "$.x", encoding="text") == text
        with pytest.raises(ValueError, match="padding"):
            manager.seal_json("ssn", text, "$.x", encoding="text", pad=32)


@settings(max_examples=200, deadline=timedelta(seconds=5))
@given(random=st.randoms(use_true_random=False))
def test_any_document_comes_back(manager, random):
    body, marks = document(random), [str(mark) for mark in random_marks(random)]
    assert manager.open_json("ssn", manager.seal_json("ssn", body, marks), marks) == body


def test_a_document_without_marked_values_is_the_same_object(manager):
    body = b'{"a":1}'
    assert manager.seal_json("ssn", body, "$.ssn") is body
    assert manager.open_json("ssn", body, "$.ssn") is body


def test_padding_hides_how_long_the_values_of_a_document_are(manager):
    sealed = json.loads(manager.seal_json("ssn", b'{"a":1,"b":"something longer"}', "$[*]", pad=32))
    assert len(sealed["a"]) == len(sealed["b"])
    assert manager.open("ssn", sealed["a"]) == b"1".ljust(32)


def test_texts_are_sealed_without_their_quotes_where_the_field_says_so(manager):
    sealed = manager.seal_json("ssn", b'{"ssn":"z\\u00f6lf"}', "$.ssn", encoding="text")
    assert manager.open("ssn", json.loads(sealed)["ssn"]) == "zölf".encode()
    assert manager.open_json("ssn", sealed, "$.ssn", encoding="text") == '{"ssn":"zölf"}'.encode()
    with pytest.raises(DocumentError, match=r"\$\.ssn: encoding"):
        manager.seal_json("ssn", b'{"ssn":1}', "$.ssn", encoding="text")


@pytest.mark.parametrize("inside", [b'1,"admin":true', b"", b"x", b"\xef\xbb\xbf1", b'"a', b"1 2"])
def test_what_was_sealed_by_others_and_is_no_value_does_not_change_the_document_around_it(manager, inside):
    body = b'{"ssn":"%s"}' % manager.seal("ssn", inside).encode()
    with pytest.raises(TokenError):
        manager.open_json("ssn", body, "$.ssn")


def test_a_text_that_is_not_utf_8_does_not_open(manager):
    body = b'{"ssn":"%s"}' % manager.seal("ssn", b"\xff").encode()
    with pytest.raises(TokenError):
        manager.open_json("ssn", body, "$.ssn", encoding="text")


@pytest.mark.parametrize(
    "body", [b"", b"{", b'{"ssn":NaN}', b'{"ssn":"\xff"}', b"{} {}", '{"ssn":1}'.encode("utf-16")]
)
def test_what_is_not_json_is_refused_and_not_repeated(manager, body):
    for rewrite in (manager.seal_json, manager.open_json):
        with pytest.raises(DocumentError) as caught:
            rewrite("ssn", body, "$.ssn")
        assert str(caught.value) == "not JSON in UTF-8, or too deep"


@pytest.mark.parametrize("marks", [(), "", "ssn", "$", ["$.a", "$[-1]"]])
def test_what_is_no_mark_is_said(manager, marks):
    with pytest.raises(ValueError, match=r"mark|JSONPath|index"):
        manager.seal_json("ssn", b"{}", marks)


def test_before_the_start_nothing_is_sealed_or_opened():
    early = manager_of(MemoryStore(), Clock())
    with pytest.raises(KeyringError, match="start"):
        early.seal_json("ssn", BODY, MARKS)
