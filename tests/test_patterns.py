"""Possessive groups mean the same on every Python, those with a fault in them too."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from secmiddleware.fields.json_reading import CONTENT, STRING, VALUE
from secmiddleware.patterns import atomic, compiled

PACKAGE = Path(__file__).parents[1] / "secmiddleware"


def test_a_turn_that_fails_has_eaten_nothing():
    """Python up to 3.11.4, Debian 12's among them, took `aca` for a match."""
    found = compiled(r"(?:ab?c)*+").match("aca")
    assert found is not None
    assert found[0] == "ac"


@pytest.mark.parametrize(
    ("possessive", "without"),
    [
        (r"(?:a|b)*+c", r"(?>(?:a|b)*)c"),
        (r"((?:a)++)?", r"((?>(?:a)+))?"),
        (r"(?:(?:a)?+b){0,7}+", r"(?>(?:(?>(?:a)?)b){0,7})"),
        (r"[)*+]\)*+(?:\))*+", r"[)*+]\)*+(?>(?:\))*)"),
        (r"[])]*+(x)[^])\]]++", r"[])]*+(x)[^])\]]++"),
        (rb"(?:\xff)*+", rb"(?>(?:\xff)*)"),
        ("(?:\xff)*+".encode("latin-1"), "(?>(?:\xff)*)".encode("latin-1")),
    ],
)
def test_only_possessive_groups_are_written_in_another_way(possessive, without):
    assert atomic(possessive) == without


@given(st.lists(st.sampled_from([*'{}[]",: \\1ab', '"a"', '\\"', "[1,", "{}"]), max_size=20).map("".join))
def test_an_atomic_group_matches_what_a_possessive_one_does(text):
    for pattern in (STRING, VALUE, CONTENT):
        ours = compiled(pattern, re.DOTALL).match(text.encode())
        theirs = re.compile(atomic(pattern), re.DOTALL).match(text.encode())
        assert (ours and ours.span()) == (theirs and theirs.span())


def test_no_module_compiles_a_possessive_group_by_itself():
    calls = [
        f"{path.name}: {ast.unparse(node)}"
        for path in PACKAGE.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and ast.unparse(node.func) in ("re.compile", "re.fullmatch")
        if any(map(has_possessive_group, ast.walk(node)))
    ]
    assert calls == []


def has_possessive_group(node):
    if isinstance(node, ast.Name):
        return node.id in ("STRING", "VALUE", "CONTENT")
    if not isinstance(node, ast.Constant) or not isinstance(node.value, str | bytes):
        return False
    # A piece of a pattern may end groups that it has not begun.
    text = node.value if isinstance(node.value, bytes) else node.value.encode()
    whole = b"(" * text.count(b")") + text
    return atomic(whole) != whole
