"""Which bytes are marked, and that all others stay as they were; what is no JSON at all."""

import json
import os
import random
import sys
import time
from pathlib import Path

import jsonpath_rfc9535
import msgspec
import pytest
from fields import documents, oracle

from secmiddleware.fields.json_reading import MAX_DEPTH, UnreadableJSON, check, end_of_value
from secmiddleware.fields.json_rewriting import MAX_HITS, Locator, TooManyHits, splice
from secmiddleware.fields.marks import Mark

VECTORS = Path(__file__).parent.parent / "vectors"
PARSING = sorted((VECTORS / "JSONTestSuite" / "test_parsing").glob("*.json"))


def locator(*marks):
    return Locator([Mark.parse(mark) for mark in marks], "all")


def found(body, *marks):
    return [body[hit.start : hit.end].decode() for hit in locator(*marks).locate(body)]


def test_only_the_marked_bytes_are_replaced():
    body = b'{ "ssn" : "123", "n":1.10, "big":12345678901234567890.123 ,"d":1,"d":2}'
    hits = locator("$.ssn").locate(body)
    assert splice(body, hits, [b'"token"']) == body.replace(b'"123"', b'"token"')


@pytest.mark.parametrize(
    ("marks", "body", "expected"),
    [
        (["$.ssn"], '{"ssn":1,"ssn":2,"x":{"ssn":3}}', ["1", "2"]),
        (["$.ssn"], r'{"ss\u006e":1,"\u0073\u0073\u006E":2}', ["1", "2"]),
        (["$..ssn"], r'{"x":[{"ss\u006e":1}]}', ["1"]),
        (["$.ssn"], r'{"a\"ssn":1,"ssn\\":2}', []),
        (["$..ssn"], r'{"a\"ssn":1,"ssn\\":2,"x":"\"ssn\": 3"}', []),
        (["$..['a\"ssn']"], r'{"a\"ssn":1}', ["1"]),
        (["$['a/b']"], r'{"a\/b":1,"a/b":2}', ["1", "2"]),
        (["$['😀']"], r'{"\ud83d\ude00":1,"😀":2}', ["1", "2"]),
        (["$.people[*].ssn"], '{"people":[{"ssn":1},{"x":2},3,{"y":[1],"ssn":[4]}]}', ["1", "[4]"]),
        (["$.people[*].ssn"], '{"people":{"a":{"ssn":1},"b":{"ssn":2}}}', ["1", "2"]),
        (["$[*]"], '{"a":1,"b":[2]}', ["1", "[2]"]),
        (["$[*]"], "[1,[2] , {}]", ["1", "[2]", "{}"]),
        (["$[1]"], "[1,2,3]", ["2"]),
        (["$[1]", "$[3]"], "[[[[[[[[[[[0]]]]]]]]]],2,[[[[[[[[[[0]]]]]]]]]],4]", ["2", "4"]),
        (["$[1]"], '{"1":2}', []),
        (["$[9007199254740991]"], "[1]", []),
        (["$[*].a", "$[1]"], '[{"a":1},{"a":2},{"a":3}]', ["1", '{"a":2}', "3"]),
        (["$..a"], '{"a":{"a":1},"b":{"a":2}}', ['{"a":1}', "2"]),
        (["$..a", "$.b"], '{"a":1,"b":{"a":2},"c":{"a":3}}', ["1", '{"a":2}', "3"]),
        (["$..a.b"], '{"a":{"b":1,"a":{"b":2}}}', ["1", "2"]),
        (["$.x..a"], '{"a":0,"x":[{"a":1}],"y":{"a":2}}', ["1"]),
        (["$..a[*]"], '{"a":[1,{"a":[2]}]}', ["1", '{"a":[2]}']),
        (["$['']"], '{"":1}', ["1"]),
        (["$..[':']"], '{"foo":": x",":":1}', ["1"]),
        (["$.a"], '[{"a":1}]', []),
        (["$.a"], '"a"', []),
        (["$.a"], '\ufeff {"a":1}', ["1"]),
        (["$.a"], '{"\\ud800":0,"a":"\\udfff"}', ['"\\udfff"']),
        (["$.a"], '{"b":' + "[" * 150 + "]" * 150 + ',"a":1}', ["1"]),
    ],
)
def test_marks_find_their_values(marks, body, expected):
    assert found(body.encode(), *marks) == expected


def test_the_first_mark_has_a_value_that_two_select():
    hits = locator("$.x", "$..a", "$.a").locate(b'{"a":1}')
    assert [hit.mark for hit in hits] == [1]


def test_marks_that_grow_without_bound_are_refused():
    with pytest.raises(ValueError, match="too many to follow"):
        locator("$..a" + "[*]" * 20 + ".b")


@pytest.mark.parametrize("path", PARSING, ids=lambda path: path.name)
def test_what_is_json_stays_and_what_is_not_is_refused(path):
    body = path.read_bytes()
    verdict = path.name[0]
    for marks in (["$.no_such_name"], ["$[*].x", "$..y"], ["$[7]"], ["$..z"], ["$..a[*]..b"]):
        try:
            hits = locator(*marks).locate(body)
        except UnreadableJSON:
            assert verdict in "ni"
        else:
            assert verdict in "yi"
            assert splice(body, hits, [body[hit.start : hit.end] for hit in hits]) == body
            assert oracle.is_json(body) or body.startswith(b"\xef\xbb\xbf")


@pytest.mark.parametrize(
    "body",
    [
        *(b"", b" ", b"NaN", b'{"a":Infinity}', b'{"a":1}\x00', b'{"a":1}{}', b"{'a':1}", b'{"a":1,}'),
        *(b'"\xff"', b'"\t"', b'{"a":01}', b'{"a":+1}', b'/**/{"a":1}', b'"\\x"', b'"\\ud80"', b'"\\ud8zz"'),
        *(b"\xef\xbb\xbf", b'"\\ud800'),
        *('{"a":1}'.encode(coding) for coding in ("utf-16", "utf-16-le", "utf-32")),
    ],
)
def test_what_some_parsers_forgive_is_refused(body):
    with pytest.raises(UnreadableJSON):
        check(body)


def test_depth_is_limited_whatever_brackets_stand_in_strings():
    for opening, closing in (("[", "]"), ('{"a":', "}")):
        for inner in ("0", '"]]]}}}\\""', '"[[[{{{"', r'"\\"'):
            deep = opening * (MAX_DEPTH - 1) + "[" + inner + "]" + closing * (MAX_DEPTH - 1)
            assert check(deep.encode()) == 0
            with pytest.raises(UnreadableJSON):
                check(f"[{deep}]".encode())
    assert check(b"[" + b",".join([b"[]"] * 1000) + b"]") == 0


def test_a_million_brackets_are_refused_at_once():
    started = time.thread_time()
    with pytest.raises(UnreadableJSON):
        check(b"[" * 1_000_000)
    with pytest.raises(UnreadableJSON):
        check(b"[" * 1_000_000 + b"]" * 1_000_000)
    assert time.thread_time() - started < 1


def test_more_hits_than_the_limit_are_refused():
    assert len(locator("$[*]").locate(b"[" + b",".join([b"1"] * MAX_HITS) + b"]")) == MAX_HITS
    with pytest.raises(TooManyHits):
        locator("$[*]").locate(b"[" + b",".join([b"1"] * (MAX_HITS + 1)) + b"]")
    with pytest.raises(TooManyHits):
        locator("$..a").locate(b"[" + b",".join([b'{"a":1}'] * (MAX_HITS + 1)) + b"]")


@pytest.mark.parametrize(
    "case", json.loads((VECTORS / "jsonpath-cts" / "subset.json").read_text("utf-8")), ids=str
)
def test_the_compliance_suite_selects_the_same_nodes(case):
    body = json.dumps(case["document"], ensure_ascii=False, indent=1).encode()
    hits = locator(case["selector"]).locate(body)
    nodes = jsonpath_rfc9535.find(case["selector"], case["document"])
    values = [json.loads(body[hit.start : hit.end]) for hit in hits]
    assert values == [node.value for node in nodes if not inside_another(node, nodes)]
    if "results" in case:
        assert sorted(map(str, values)) == sorted(map(str, case["results"][0]))
    elif len(nodes) == len(values):
        assert values == case["result"]


def inside_another(node, nodes):
    return any(
        other.location == node.location[: len(other.location)] and other is not node for other in nodes
    )


# Set these to repeat a failure, or to search for longer.
SEED = int(os.environ.get("FUZZ_SEED", random.SystemRandom().randrange(1 << 32)))
SECONDS = float(os.environ.get("FUZZ_SECONDS", "4"))


def test_random_documents_have_the_hits_that_an_independent_walker_finds():
    chance = random.Random(SEED)
    until = time.monotonic() + SECONDS
    bodies = hits_seen = 0
    while time.monotonic() < until:
        marks = documents.marks(chance)
        try:
            one = Locator(marks, "all")
        except ValueError:
            continue
        for _ in range(12):
            body = documents.document(chance)
            hits = [(hit.start, hit.end, hit.mark) for hit in one.locate(body)]
            assert hits == oracle.marked(body, marks)[0], (SEED, body, [str(mark) for mark in marks])
            bodies += 1
            hits_seen += len(hits)
    assert bodies > 100
    assert hits_seen > 100


def test_random_damage_is_judged_as_the_standard_library_judges_it():
    chance = random.Random(SEED)
    until = time.monotonic() + SECONDS / 2
    verdicts = {True: 0, False: 0}
    while time.monotonic() < until:
        body = documents.broken(chance, documents.document(chance))
        text = body.removeprefix(b"\xef\xbb\xbf")
        try:
            check(body)
        except UnreadableJSON:
            accepted = False
        else:
            accepted = True
        # The standard library takes a byte order mark only where it is told to.
        assert accepted == oracle.is_json(text), (SEED, body)
        verdicts[accepted] += 1
    assert min(verdicts.values()) > 50


@pytest.mark.parametrize(
    ("name", "unit", "marks"),
    [
        ("backslashes", rb'"\\\\\\\\\\\\\\\\",', ["$[*].a", "$..b"]),
        ("unclosed looks", rb'"\"{[",', ["$[*].a", "$..b"]),
        ("duplicate names", None, ["$.a.b", "$.c"]),
        ("whitespace", b"1          \n\n\n\t\t\t           ,", ["$[*].a"]),
        ("deep elements", b"[" * 100 + b"]" * 100 + b",", ["$[*][*].a", "$[5]", "$[100000]"]),
        (
            "objects that turn out not to be dull",
            b'{"x":[1,2,3,{"y":0}],"z":{"a":1}},',
            ["$[*].z.b", "$..q.r"],
        ),
        ("nested names", b'{"a":' * 90 + b"0" + b"}" * 90 + b",", ["$..a.b", "$..b"]),
        ("nested wildcards", b'[[{"x":0,"a":0}]],', ["$[*][*][*].b", "$[*][*].c"]),
        ("escapes in names", rb'{"\u0061\u0062\u0063":0},', ["$[*].a", "$..b"]),
        ("short arrays under a large index", b"[1,2,3],", ["$[*][5000].a"]),
    ],
)
def test_time_is_linear_in_hostile_bodies(name, unit, marks):
    one = locator(*marks)

    def body(size):
        if unit is None:
            return b'{"x":1' + b',"a":1' * (size // 6) + b"}"
        return b"[" + unit * (size // len(unit)) + b"0]"

    def seconds(size):
        text = body(size)
        best = 60.0
        for _ in range(3):
            started = time.thread_time()
            one.locate(text)
            best = min(best, time.thread_time() - started)
        return best

    one.locate(body(1000))
    small, large = seconds(60_000), seconds(600_000)
    # Ten times the body: ten times the time, where a quadratic step would take a hundred times. The
    # millisecond is for the clock and the neighbours.
    assert large < 30 * small + 0.001, (name, small, large)
    assert large < 1.5


def test_no_stack_is_used_by_depth():
    body = b'{"a":' * (MAX_DEPTH - 1) + b'{"b":1}' + b"}" * (MAX_DEPTH - 1)
    one = locator("$..b.c", "$..b")
    limit = sys.getrecursionlimit()
    assert len(one.locate(body)) == 1
    assert limit == sys.getrecursionlimit()


def test_a_value_ends_where_msgspec_says_it_ends():
    for path in PARSING:
        if path.name.startswith("y_"):
            body = path.read_bytes()
            start = len(body) - len(body.lstrip())
            assert (
                bytes(msgspec.json.decode(body, type=msgspec.Raw)) == body[start : end_of_value(body, start)]
            )
