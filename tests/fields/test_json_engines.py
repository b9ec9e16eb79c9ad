"""The ways to find marked values agree, with each other and with a walker that shares nothing with them.

The shortcut, the pieces and the walk each take what they can: here all of them take all that they can.
"""

import json
import multiprocessing
import os
import random
import re
from pathlib import Path

import jsonpath_rfc9535
import pytest
from fields import documents, oracle
from hypothesis import given
from hypothesis import strategies as st

from secmiddleware.fields import json_depth, json_pieces, json_reading, json_rewriting, json_shapes
from secmiddleware.fields.json_reading import MAX_DEPTH, UnreadableJSON
from secmiddleware.fields.json_rewriting import DuplicateName, Locator, TooManyHits, splice
from secmiddleware.fields.marks import Mark

VECTORS = Path(__file__).parent.parent / "vectors"
PARSING = sorted((VECTORS / "JSONTestSuite" / "test_parsing").glob("*.json"))
CTS = json.loads((VECTORS / "jsonpath-cts" / "subset.json").read_text("utf-8"))

# One seed is always the same, one is new; FUZZ_SEED repeats a failure, FUZZ_DOCUMENTS searches for longer.
FIXED_SEED = 5
FRESH_SEED = int(os.environ.get("FUZZ_SEED", random.SystemRandom().randrange(1 << 32)))
DOCUMENTS = int(os.environ.get("FUZZ_DOCUMENTS", "100_000"))
DOCUMENTS_A_TASK = 1000
DOCUMENTS_A_LOCATOR = 125


def locator(*marks, duplicates="all"):
    return Locator([Mark.parse(mark) for mark in marks], duplicates)


def outcome(locate, body):
    """What a way to find values says: its hits, or why there are none."""
    try:
        return [(hit.start, hit.end, hit.mark) for hit in locate(body)]
    except DuplicateName:
        return "duplicate"
    except UnreadableJSON:
        return "unreadable"


def expected(body, marks, duplicates):
    text = body.removeprefix(b"\xef\xbb\xbf")
    if not oracle.is_json(text) or oracle.depth(text) > MAX_DEPTH:
        return "unreadable"
    hits, twice = oracle.marked(body, marks)
    return "duplicate" if twice and duplicates == "reject" else hits


def take_all_ways():
    """Lowers the sizes from which on a way is taken, so that small documents take it, too."""
    json_pieces.SMALL = json_rewriting.SMALL = json_pieces._SHORT = 1
    json_pieces._BATCH = 2
    json_depth._LARGE = json_shapes._RARE = 1


def disagreements(seed):
    """(Disagreements, what was seen of each kind) in the documents of one seed."""
    take_all_ways()
    chance = random.Random(seed)
    found = []
    kinds = (
        "shortcut",
        "shortcut with hits",
        "single",
        "single with hits",
        "hits",
        "duplicate",
        "unreadable",
    )
    seen = dict.fromkeys(kinds, 0)
    for _ in range(DOCUMENTS_A_TASK // DOCUMENTS_A_LOCATOR):
        marks = documents.simple_marks(chance) if chance.random() < 0.6 else documents.marks(chance)
        try:
            locators = {duplicates: Locator(marks, duplicates) for duplicates in ("reject", "all")}
        except ValueError:
            marks = [Mark.parse("$.ssn")]
            locators = {duplicates: Locator(marks, duplicates) for duplicates in ("reject", "all")}
        for _ in range(DOCUMENTS_A_LOCATOR):
            body = documents.any_document(chance, marks)
            duplicates = chance.choice(["reject", "all"])
            one = locators[duplicates]
            due = expected(body, marks, duplicates)
            found += (
                (seed, way.__name__, duplicates, [str(mark) for mark in marks], body)
                for way in (one.locate, one.walk)
                if outcome(way, body) != due
            )
            seen["hits"] += len(due) if isinstance(due, list) else 0
            if isinstance(due, str):
                seen[due] += 1
            elif one._shortcut is not None and (root := one._shortcut.read(body)) is not None:
                hits = one._shortcut.find(body, root)
                seen["shortcut"] += hits is not None
                seen["shortcut with hits"] += bool(hits)
                if hits is not None and outcome(lambda _, hits=hits: hits, body) != due:
                    found.append((seed, "find", duplicates, [str(mark) for mark in marks], body))
                single = one._shortcut.find_single(body)
                seen["single"] += isinstance(single, list)
                seen["single with hits"] += bool(single)
    return found, seen


def test_no_way_to_find_values_disagrees_in_100_000_random_documents():
    tasks = DOCUMENTS // DOCUMENTS_A_TASK
    seeds = [(FIXED_SEED if task % 2 else FRESH_SEED) * 1_000_000 + task for task in range(tasks)]
    totals = {}
    # A fork has all modules already, and changes none of ours.
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        for found, seen in pool.imap_unordered(disagreements, seeds):
            assert found == [], f"FUZZ_SEED={FRESH_SEED}"
            for kind, count in seen.items():
                totals[kind] = totals.get(kind, 0) + count
    assert totals["shortcut"] > DOCUMENTS // 20, totals
    assert totals["shortcut with hits"] > DOCUMENTS // 50, totals
    assert totals["single"] > DOCUMENTS // 40, totals
    assert totals["single with hits"] > DOCUMENTS // 200, totals
    assert totals["hits"] > DOCUMENTS // 4, totals
    assert min(totals["duplicate"], totals["unreadable"]) > DOCUMENTS // 500, totals


@pytest.fixture(params=["as it is", "all ways"])
def ways(request, monkeypatch):
    """The sizes from which on a way is taken, as they are and so low that all bodies take it."""
    if request.param == "all ways":
        monkeypatch.setattr(json_pieces, "SMALL", 1)
        monkeypatch.setattr(json_pieces, "_SHORT", 1)
        monkeypatch.setattr(json_pieces, "_BATCH", 2)
        monkeypatch.setattr(json_rewriting, "SMALL", 1)
        monkeypatch.setattr(json_depth, "_LARGE", 1)
        monkeypatch.setattr(json_shapes, "_RARE", 1)


@pytest.mark.usefixtures("ways")
@pytest.mark.parametrize("path", PARSING, ids=lambda path: path.name)
def test_every_way_takes_what_is_json_byte_for_byte_and_refuses_what_is_not(path):
    body = path.read_bytes()
    verdict = path.name[0]
    for marks in (["$.no_such_name"], ["$.a", "$.b"], ["$[*].a", "$[*].id"], ["$[*].x", "$..y"], ["$[*][0]"]):
        one = locator(*marks)
        for locate in (one.locate, one.walk):
            try:
                hits = locate(body)
            except UnreadableJSON:
                assert verdict in "ni"
            else:
                assert verdict in "yi"
                assert splice(body, hits, [body[hit.start : hit.end] for hit in hits]) == body


@pytest.mark.usefixtures("ways")
@pytest.mark.parametrize("case", CTS, ids=str)
def test_every_way_selects_the_nodes_that_the_compliance_suite_selects(case):
    body = json.dumps(case["document"], ensure_ascii=False, indent=1).encode()
    nodes = jsonpath_rfc9535.find(case["selector"], case["document"])
    outermost = [node.value for node in nodes if not any(is_inside(node, other) for other in nodes)]
    one = locator(case["selector"])
    for locate in (one.locate, one.walk):
        hits = locate(body)
        assert [json.loads(body[hit.start : hit.end]) for hit in hits] == outermost


def is_inside(node, other):
    return other is not node and other.location == node.location[: len(other.location)]


def test_a_name_that_another_member_spells_with_an_escape_does_not_fool_the_count():
    # One member is marked and the text does not show it, one is not and the text does: both counts are 1.
    body = rb'{"items":[{"ss\u006e":"secret"}],"x":{"ssn":"public"}}'
    one = locator("$.items[*].ssn", duplicates="reject")
    assert outcome(one.locate, body) == outcome(one.walk, body) == [(22, 30, 0)]


@pytest.mark.parametrize("duplicates", ["reject", "all"])
def test_values_of_one_name_whose_ways_part_at_different_depths_are_told_apart(duplicates):
    body = b'{"a":{"y":{"n":"longer"},"x":{"n":1}},"b":{"n":2}}'
    one = locator("$.a.x.n", "$.a.y.n", "$.b.n", duplicates=duplicates)
    hits = [(body[start:end], mark) for start, end, mark in outcome(one.locate, body)]
    assert hits == [(b'"longer"', 1), (b"1", 0), (b"2", 2)]
    assert outcome(one.walk, body) == outcome(one.locate, body)


def test_an_escaped_name_in_an_object_that_nothing_is_wanted_of_stops_no_walk():
    body = rb'[{"\u0061":1},[{"ssn":22}]]'
    one = locator("$[*][0].ssn")
    assert outcome(one.locate, body) == outcome(one.walk, body) == [(22, 24, 0)]


def test_members_of_an_element_that_are_stepped_over_on_the_way_to_it_are_none_of_its_marked_ones():
    # The walk goes on within each element, before the first of its members that is of interest.
    deep = b"[" * 12 + b"]" * 12
    body = rb'[{"a":[0],"ssn":1,"b":"ssn"},"ssn",{},{"\u0073sn":2},{"c":{"ssn":0}},{"d":%b,"ssn":3}]' % deep
    one = locator("$[*].ssn", duplicates="reject")
    assert [body[start:end] for start, end, _ in outcome(one.walk, body)] == [b"1", b"2", b"3"]
    twice = body.replace(b'"b":"ssn"', b'"b":0,"ssn":9')
    assert outcome(one.walk, twice) == "duplicate"


@pytest.mark.usefixtures("ways")
def test_a_value_behind_a_name_that_its_escaped_twin_overwrites_is_found():
    # msgspec keeps the last address, which has nothing; in the text there is one, as there is for msgspec.
    body = rb'{"items":[{"address":{"p":1},"\u0061ddress":{}},{"x":0}]}'
    one = locator("$.items[*].address.p")
    assert outcome(one.locate, body) == outcome(one.walk, body) == [(26, 27, 0)]
    strict = locator("$.items[*].address.p", duplicates="reject")
    assert outcome(strict.locate, body) == outcome(strict.walk, body) == "duplicate"


def test_a_name_that_stands_twice_between_the_values_of_two_arrays_is_seen():
    body = b'{"b":[],"a":[{"x":1}],"b":[{"y":2}]}'
    strict = locator("$.a[*].x", "$.b[*].y", duplicates="reject")
    assert outcome(strict.locate, body) == outcome(strict.walk, body) == "duplicate"
    assert strict._shortcut.find(body, strict._shortcut.read(body)) is None


def test_values_of_two_marks_on_one_name_are_told_apart_by_where_their_ways_part():
    one = locator("$.buyer.ssn", "$.seller.ssn", "$.items[*].ssn")
    body = b'{"seller":{"ssn":22},"items":[{"ssn":4},{"ssn":55}],"buyer":{"ssn":1}}'
    root = one._shortcut.read(body)
    hits = one._shortcut.find(body, root)
    assert [(body[hit.start : hit.end], hit.mark) for hit in hits] == [
        (b"22", 1), (b"4", 2), (b"55", 2), (b"1", 0),
    ]  # fmt: skip
    assert hits == one.walk(body)
    # Where a name of the way is there once more, it cannot be told.
    nested = body.replace(b":4}", b':{"seller":0}}')
    assert one._shortcut.find(nested, one._shortcut.read(nested)) is None
    assert one.locate(nested) == one.walk(nested)


@pytest.mark.parametrize("proof", [True, False])
def test_a_body_is_read_no_deeper_than_the_limit_wherever_the_stack_is(ways, monkeypatch, proof):
    if not proof:  # as where the C library gives threads little stack, and on CPython 3.12
        monkeypatch.setattr(json_depth, "_GLIBC", False)
    one = Locator([Mark.parse("$.a")], max_depth=100)

    def verdicts(frames):
        if frames:
            return verdicts(frames - 1)
        filler = b'"' + b"x" * 70_000 + rb"\\]\"[" + b'"'
        bodies = (b"[" * n + filler + b"]" * n for n in (1, 60, 99, 100, 101, 102, 140, 400))
        return [outcome(one.locate, body) for body in bodies]

    due = [[]] * 4 + ["unreadable"] * 4
    for frames in (0, 30, 300, 500):
        assert verdicts(frames) == due


@given(levels=st.lists(st.sampled_from(["[", '{"":']), max_size=40), core=st.sampled_from(["{}", "[]", "0"]))
def test_no_body_that_is_too_deep_is_surely_shallow(levels, core):
    ends = "".join("]" if level == "[" else "}" for level in reversed(levels))
    body = f"{''.join(levels)}{core}{ends}".encode()
    assert not json_depth.is_surely_shallow(body, oracle.depth(body) - 1)


def test_more_values_than_the_limit_are_refused_by_every_way():
    for marks in (["$[*].a"], ["$..a"], ["$[*].a", "$[*].b.c"]):
        one = Locator([Mark.parse(mark) for mark in marks], max_hits=3)
        body = b"[" + b",".join([b'{"a":1}'] * 3) + b"]"
        assert len(one.locate(body)) == len(one.walk(body)) == 3
        more = body[:-1] + b',{"a":0}]'
        for locate in (one.locate, one.walk):
            with pytest.raises(TooManyHits):
                locate(more)


ESCAPES = st.sampled_from([r"\"", r"\\", r"\n", r"\u0061", r"\u00e9", r"\ud83d", "u0061", "u", "0", "x" * 40])


@given(parts=st.lists(ESCAPES), sparse=st.sampled_from([1, 16, 512]))
def test_an_escaped_letter_is_found_however_the_backslashes_lie(parts, sparse):
    body = f'"{"".join(parts)}"'.encode()
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(json_shapes, "_SPARSE", sparse)
        found = json_shapes.may_escape(body)
    if r"\u0061" in parts:
        assert found
    # An escaped backslash may look like the beginning of an escape, no more than that.
    assert not found or json_shapes.ESCAPED_SIMPLE.search(body)


NAMED = st.sampled_from(['"ssn":', '"ssn" \n:\t', '"ssn"', 'ssn":', '\\"ssn":', "ssn", '"', ":", "x" * 40])


@given(parts=st.lists(NAMED), cut=st.integers(0, 400))
def test_a_name_is_found_and_counted_the_same_whether_it_is_rare_or_not(parts, cut):
    body = b"{" + "".join(parts).encode()
    ends = [found.end() for found in re.finditer(rb'(?<=")ssn"[ \t\n\r]*:[ \t\n\r]*', body)]
    finder = json_shapes.Finder("ssn")
    for due in range(len(ends) + 2):
        starts, stands = [], []
        for rare in (1, 1 << 20):
            with pytest.MonkeyPatch.context() as patched:
                patched.setattr(json_shapes, "_RARE", rare)
                starts.append(finder.starts(body, due))
                stands.append(finder.stands(due, body, (0, cut), (cut, len(body))))
        assert starts == [ends if due == len(ends) else None] * 2
        assert stands[0] == stands[1]


TEXTS = st.text(st.sampled_from("aé€😀")).map(str.encode) | st.binary()


@given(parts=st.lists(TEXTS), size=st.integers(4, 9))
def test_utf8_is_checked_in_parts_as_it_is_in_one(parts, size):
    body = b"".join(parts)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(json_reading, "_PART", size)
        try:
            body.decode()
        except UnicodeDecodeError:
            with pytest.raises(UnicodeDecodeError):
                json_reading.check_utf8(body)
        else:
            json_reading.check_utf8(body)
