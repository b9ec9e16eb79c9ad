"""docs/http.md names every header that is changed, and says of each what the code does."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from secmiddleware.encryption import opaque_tags
from secmiddleware.fields import codings, digests, entity_tags, heads

PAGE = (Path(__file__).parents[1] / "docs" / "http.md").read_text("utf-8")
NAMED = {name.lower().encode() for name in re.findall(r"`([A-Za-z0-9-]+)`", PAGE)}


def test_every_header_that_a_marked_body_changes_is_on_the_page() -> None:
    changed = {
        *heads._PARTS,
        *heads._LENGTHS,
        *heads._FILES,
        *heads._CACHING,
        *digests._VERIFIED,
        *digests._FORMER,
        *(b"etag", b"if-match", b"if-none-match", b"if-modified-since", b"vary", b"accept-encoding"),
        *(b"content-encoding", b"accept-ranges", b"content-range", b"content-type"),
    }
    assert changed - NAMED == set()


@pytest.mark.parametrize(
    ("said", "number", "limit"),
    [
        ("more than 1024 bytes", 1024, opaque_tags.LONGEST),
        ("of more than a hundred", 100, entity_tags._MOST),
        ("up to four", 4, codings.MOST),
        ("once there is a megabyte", 1 << 20, codings.FREE),
        ("up to a thousand", 1000, codings._MOST_MEMBERS),
    ],
)
def test_the_limits_on_the_page_are_those_of_the_code(said: str, number: int, limit: int) -> None:
    assert said in " ".join(PAGE.split())
    assert number == limit


def test_the_codings_on_the_page_are_those_that_are_known() -> None:
    section = PAGE.partition("## Content codings")[2].partition("##")[0]
    assert {name.decode() for name in codings.known()} <= set(re.findall(r"`([a-z-]+)`", section))
