"""Which marks are read, which are refused, and when two of them get in each other's way."""

import json
from pathlib import Path

import jsonpath_rfc9535
import pytest

from secmiddleware.fields.marks import MAX_STEPS, Descend, Each, Index, Mark, Name, contains, joins, overlaps

CTS = Path(__file__).parent.parent / "vectors" / "jsonpath-cts" / "subset.json"


@pytest.mark.parametrize(
    ("text", "steps"),
    [
        ("$.ssn", (Name("ssn"),)),
        ("$['ssn']", (Name("ssn"),)),
        ('$["s\\u0073n"]', (Name("ssn"),)),
        ("$.people[*].ssn", (Name("people"), Each(), Name("ssn"))),
        ("$.people.*.ssn", (Name("people"), Each(), Name("ssn"))),
        ("$[0][12]", (Index(0), Index(12))),
        ("$..ssn", (Descend("ssn"),)),
        ("$..['a b'].c", (Descend("a b"), Name("c"))),
        ("$.naïve", (Name("naïve"),)),
        ("$['']", (Name(""),)),
    ],
)
def test_names_wildcards_indices_and_descents_are_read(text, steps):
    assert Mark.parse(text).steps == steps


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("$", "whole body"),
        ("", "not a JSONPath"),
        ("ssn", "not a JSONPath"),
        ("/ssn", "not a JSONPath"),
        ("$.", "not a JSONPath"),
        ("$.ssn ", "not a JSONPath"),
        ("$[-1]", "0 or more"),
        ("$[-0]", "not a JSONPath"),
        ("$[01]", "not a JSONPath"),
        ("$[9007199254740992]", "not a JSONPath"),
        ("$['a','b']", "several selectors"),
        ("$[0,1]", "several selectors"),
        ("$..['a','b']", "several selectors"),
        ("$[0:2]", "only names"),
        ("$[:]", "only names"),
        ("$[?@.a]", "only names"),
        ("$..*", "only names"),
        ("$..[*]", "only names"),
        ("$..[0]", "only names"),
        ('$["\\ud800"]', "surrogate|not a JSONPath"),
        ("$" + ".a" * (MAX_STEPS + 1), "32 at most"),
    ],
)
def test_everything_else_is_refused_with_a_sentence(text, why):
    with pytest.raises(ValueError, match=why.replace("[", "\\[")) as raised:
        Mark.parse(text)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("case", json.loads(CTS.read_text("utf-8")), ids=lambda case: case["name"])
def test_a_marks_text_reads_back_as_the_same_mark(case):
    mark = Mark.parse(case["selector"])
    assert Mark.parse(str(mark)) == mark
    found = {str(node.path()) for node in jsonpath_rfc9535.find(case["selector"], case["document"])}
    assert {str(node.path()) for node in jsonpath_rfc9535.find(str(mark), case["document"])} == found


@pytest.mark.parametrize(
    "name", ["a'b", 'a"b', "a\\b", 'a\\"b', "\n\t\b\f\r", "é", "😀", " ", "..", "1a", "a-b"]
)
def test_a_name_of_any_characters_reads_back(name):
    assert Mark.parse(str(Mark((Name(name),)))) == Mark((Name(name),))
    assert Mark.parse(str(Mark((Descend(name),)))) == Mark((Descend(name),))


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ("$.a", "$.a", True),
        ("$.a", "$.a.b", True),
        ("$.a", "$.b", False),
        ("$.a.b", "$.a.c", False),
        ("$.a[*]", "$.a.b", True),
        ("$.a[*]", "$.a[3]", True),
        ("$.a[0]", "$.a[1]", False),
        ("$.a[0]", "$.a.b", False),
        ("$[*].a", "$.x.b", False),
        ("$[*].a", "$.x.a", True),
        ("$.x..a", "$.y", False),
        ("$.x..a", "$.x", True),
        ("$..a", "$.b[*].a", True),
        ("$..a", "$.a", True),
        ("$..a.b", "$.a", True),
        ("$..a", "$..a", True),
        ("$..a", "$.b", False),
        ("$..a", "$.b.c", False),
        ("$..a", "$..b", False),
        ("$..a", "$[*]", True),
    ],
)
def test_marks_overlap_when_some_body_nests_or_joins_their_values(first, second, expected):
    assert overlaps(Mark.parse(first), Mark.parse(second)) is expected
    assert overlaps(Mark.parse(second), Mark.parse(first)) is expected


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ("$.a", "$.a", True),
        ("$.a", "$.a.b", False),
        ("$.a[*]", "$.a.b", True),
        ("$.a[*]", "$.a.b.c", False),
        ("$..a", "$.b[*].a", True),
        ("$..a.b", "$.a", False),
        ("$[*].ssn", "$.iban", False),
        ("$[*].ssn", "$.deep.ssn", True),
    ],
)
def test_marks_join_when_both_may_select_the_same_value(first, second, expected):
    assert joins(Mark.parse(first), Mark.parse(second)) is expected
    assert joins(Mark.parse(second), Mark.parse(first)) is expected


def test_a_mark_contains_what_goes_on_from_its_end():
    outer = Mark.parse("$.a[*]")
    assert contains(outer, Mark.parse("$['a'][*].b"))
    for other in ("$.a[*]", "$.a", "$.a.b.c", "$.b[*].a"):
        assert not contains(outer, Mark.parse(other))
