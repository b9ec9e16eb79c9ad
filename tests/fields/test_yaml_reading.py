"""YAML as JSON would say it: scalars by the core schema, keys as written, nothing that means two things."""

from __future__ import annotations

import json
import math
import time
from contextlib import suppress

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from secmiddleware.fields.yaml_reading import YamlError, read_yaml

# What YAML may hold as it is (§5.1), without the line ends that it makes one of.
CHARACTERS = st.characters(exclude_categories=("Cs", "Cc", "Cn"), exclude_characters="\u2028\u2029\x85\ufeff")
TEXTS = st.text(CHARACTERS, max_size=20)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXTS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4),
    max_leaves=20,
)


@pytest.fixture(params=["libyaml", "Python"])
def loader(request, monkeypatch):
    """Either of PyYAML's parsers: the one in C is not on every platform."""
    if request.param == "Python":
        monkeypatch.delattr(yaml, "CSafeLoader")
    else:
        assert yaml.__with_libyaml__


@given(JSON)
def test_what_json_says_yaml_says_too(value):
    assert read_yaml(json.dumps(value, ensure_ascii=False).encode()) == value


@given(st.binary(max_size=60) | st.text("[]{}:,-?&*!|>'\"%#<ab1~ \n\t", max_size=60).map(str.encode))
def test_whatever_comes_is_read_or_refused(data):
    with suppress(YamlError):
        json.dumps(read_yaml(data))


@pytest.mark.parametrize(
    ("text", "value"),
    [
        *((text, None) for text in ("", "~", "null", "Null", "NULL")),
        *((text, True) for text in ("true", "True", "TRUE")),
        *((text, False) for text in ("false", "False", "FALSE")),
        *((text, text) for text in ("yes", "No", "on", "OFF", "y", "nUll", "12:30", "2026-01-02", "1_000")),
        *((text, text) for text in ("-a", "0b1", "3.1.0", "\u0661", "+0o7", "0x", ".", "1e", "e1")),
        ("012", 12), ("0o14", 12), ("0xC", 12), ("-12", -12), ("+12", 12), ("1.5", 1.5), (".5", 0.5),
        ("1e3", 1000.0), ("-.inf", -math.inf), ("3.1", 3.1),
        ("'12'", "12"), ('"true"', "true"), ("! 12", "12"), ("!!str 12", "12"), ("|-\n  no", "no"),
    ],
)  # fmt: skip
def test_a_scalar_is_what_the_core_schema_calls_it(loader, text, value):
    found = read_yaml(f"a: {text}\n".encode())["a"]
    assert (found, type(found)) == (value, type(value))


def test_a_number_that_is_none_is_one(loader):
    assert math.isnan(read_yaml(b"a: .nan")["a"])


@pytest.mark.parametrize("key", ["200", "0x1F", "no", "on", "null", "~", "1.50", "true", "2026-01-02"])
def test_a_key_is_the_text_that_is_written(loader, key):
    assert read_yaml(f"{key}: 1\n? {key}x\n: 2\n".encode()) == {key: 1, f"{key}x": 2}


def test_an_alias_is_what_it_stands_for_and_the_latest_of_its_name(loader):
    text = b"a: &x {b: [1]}\nc: *x\nd: &x 2\ne: [*x]\n&k 3: *k\nf: *k\n"
    with pytest.raises(YamlError, match="an alias of nothing, line 5"):
        read_yaml(text.replace(b"&k 3", b"3"))
    assert read_yaml(text) == {"a": {"b": [1]}, "c": {"b": [1]}, "d": 2, "e": [2], "3": 3, "f": 3}


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("a: 1\nb: 2\na: 3", "has the key 'a' twice in one mapping, line 3"),
        ("200: 1\n'200': 2", "has the key '200' twice in one mapping, line 2"),
        ("a: {b: 1, b: 2}", "has the key 'b' twice"),
        ("a: &x\n  b: *x", "has an alias within what it stands for, line 2"),
        ("&x [*x]", "has an alias within what it stands for"),
        ("a: &x 1\nb: &x [*x]", "has an alias within what it stands for, line 2"),
        ("a: *x", "has an alias of nothing, line 1"),
        ("a: &x b\n*x : 1", "has an alias for a key, line 2"),
        ("a: 1\n<<: x", r"has a merge key \(<<\) of what is no mapping, line 2"),
        ("a: 1\n<<:\nb: 2", r"has a merge key \(<<\) of what is no mapping, line 2"),
        ("<<: [{a: 1}, [{b: 1}]]", r"has a merge key \(<<\) of what is no mapping, line 1"),
        ("<<: {a: 1}\n<<: {b: 1}", r"has a merge key \(<<\) twice in one mapping, line 2"),
        ("<<: [{a: 1}, {a: 2}]", "merges two mappings that both have 'a', line 1"),
        ("<<: [{a: 1}, {a: true}]", "merges two mappings that both have 'a', line 1"),
        ("<<: [{a: [1]}, {a: [1]}]", "merges two mappings that both have 'a', line 1"),
        ("<<: {a: 1, a: 2}", "has the key 'a' twice in one mapping"),
        ("a: &x\n  <<: *x", "has an alias within what it stands for, line 2"),
        ("<<: &x\n  <<: [*x]", "has an alias within what it stands for, line 2"),
        ("{a: 1}: 2", "has a key that is no text, line 1"),
        ("? [a]\n: 2", "has a key that is no text, line 1"),
        ("a: !!int 1", "has a tag that JSON has not, line 1"),
        ("a: !!python/object/apply:os.getcwd []", "has a tag that JSON has not, line 1"),
        ("a: !x {}", "has a tag that JSON has not"),
        ("a: 1\n---\nb: 2", "has a second document, line 2"),
        ("a: [1", "is not YAML: .*, line"),
        ("a: b: c", "is not YAML: .*, line 1"),
        ("a: \x01", "is not YAML"),
        ("a: " + "1" * 5000, "has a number of more than 400 digits, line 1"),
        ("[" * 600 + "]" * 600, "nests deeper than 500, line 1"),
        ("[" * 100_000, "nests deeper than 500, line 1|exceeded maximum nesting depth"),
        ("- " * 600 + "a", "nests deeper than 500, line 1"),
    ],
)
def test_what_two_readers_may_read_as_two_things_is_refused_with_the_line(loader, text, told):
    with pytest.raises(YamlError, match=told):
        read_yaml(text.encode())


def test_a_quoted_merge_key_is_a_name(loader):
    assert read_yaml(b"'<<': 1") == {"<<": 1}
    assert read_yaml(b"'<<': 1\n<<: {a: 2}\nb: <<") == {"<<": 1, "a": 2, "b": "<<"}


def test_a_merge_key_brings_what_the_mapping_has_not(loader):
    text = b"""
    a: &a {x: 1, y: [1]}
    b: &b {<<: *a, x: 2}
    c: {x: 3, <<: [{z: 9}, *b, {x: 2, w: 5}]}
    d: {<<: []}
    e: {<<: {x: {<<: *a}}}
    """
    assert read_yaml(text) == {
        "a": {"x": 1, "y": [1]},
        "b": {"x": 2, "y": [1]},
        "c": {"x": 3, "y": [1], "z": 9, "w": 5},
        "d": {},
        "e": {"x": {"x": 1, "y": [1]}},
    }


MERGING = st.recursive(
    st.sampled_from(["*p", "*q", "{}", "[*q, *p]", "one", "{aa: two}"]),
    lambda inner: (
        st.dictionaries(st.sampled_from(["aa", "bb", "<<"]), inner, min_size=1).map(
            lambda pairs: "{" + ", ".join(f"{name}: {value}" for name, value in pairs.items()) + "}"
        )
        | st.lists(inner, max_size=3).map(lambda values: f"[{', '.join(values)}]")
    ),
    max_leaves=6,
)


@given(MERGING, MERGING, MERGING)
def test_what_is_merged_is_what_pyyaml_merges(first, second, third):
    # Names of two letters: PyYAML 6.0.4 compares keys by identity, which letters alone have in common.
    anchored = f"p: &p {{aa: 1, cc: {{}}}}\nq: &q {{bb: [2], cc: 3, <<: *p}}\nr: {first}\n"
    text = f"{anchored}s: {second}\nt: {third}\n"
    with suppress(YamlError):
        found = read_yaml(text.encode())
        assert found == yaml.safe_load(text)


def test_merging_is_bounded_as_aliases_are(loader):
    lines = ["a0: &a0 {" + ", ".join(f"k{n}: {n}" for n in range(100)) + "}"]
    lines += [f"a{n}: &a{n} {{x{n}: {{<<: [*a{n - 1}, *a{n - 1}]}}, <<: *a{n - 1}}}" for n in range(1, 40)]
    started = time.perf_counter()
    with pytest.raises(YamlError, match="has more than 2000000 values"):
        read_yaml("\n".join(lines).encode())
    assert time.perf_counter() - started < 10
    deep = ["a0: &a0 {x: 1}", *(f"a{n}: &a{n} {{x: {{<<: *a{n - 1}}}}}" for n in range(1, 600))]
    with pytest.raises(YamlError, match="nests deeper than 500"):
        read_yaml("\n".join(deep).encode())


def test_only_utf_8_is_read_with_a_mark_of_it_or_without(loader):
    assert read_yaml("a: é".encode("utf-8-sig")) == {"a": "é"}
    for encoding in ("utf-16", "latin-1"):
        with pytest.raises(YamlError, match="is not UTF-8"):
            read_yaml("a: é".encode(encoding))


def test_aliases_that_expand_to_more_than_anybody_writes_are_refused_in_time(loader):
    lines = ["a0: &a0 [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 30)]
    began = time.monotonic()
    with pytest.raises(YamlError, match="has more than 2000000 values, line 7"):
        read_yaml("\n".join(lines).encode())
    assert time.monotonic() - began < 5


def test_aliases_that_nest_are_as_deep_as_what_they_expand_to(loader):
    lines = ["a0: &a0 [1]", *(f"a{n}: &a{n} [*a{n - 1}]" for n in range(1, 600))]
    with pytest.raises(YamlError, match="nests deeper than 500, line 500"):
        read_yaml("\n".join(lines).encode())
