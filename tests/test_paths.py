"""The path that is judged is the path that is routed, and patterns compare it segment by segment."""

from __future__ import annotations

import re
import time
from urllib.parse import quote_from_bytes, unquote, unquote_to_bytes

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from secmiddleware import paths
from secmiddleware.messages import Refusal, RequestHead
from secmiddleware.paths import PathPattern, judge_path

AMBIGUOUS = Refusal("path_ambiguous")


def head(path: str, raw: bytes | None = None, root: str = "") -> RequestHead:
    return RequestHead("http", "GET", "https", path, raw, root)


def from_target(raw: bytes, root: str = "", *, with_root: bool = True) -> RequestHead:
    """What uvicorn makes of a target: decoded, `root_path` in front of the path."""
    decoded = root + unquote(raw.decode("latin-1"))
    return head(decoded, root.encode() + raw if with_root else raw, root)


GOOD = {
    b"/": "/",
    b"/a": "/a",
    b"/a/": "/a/",
    b"/a/b.json": "/a/b.json",
    b"/.well-known/x": "/.well-known/x",
    b"/..a/...": "/..a/...",
    b"/a../b.": "/a../b.",
    b"/a;b=c/d;e": "/a;b=c/d;e",
    b"/~a!$&'()*+,;=:@_-": "/~a!$&'()*+,;=:@_-",
    b"/a%20b": "/a b",
    b"/%41": "/A",
    b"/%c3%bc": "/ü",
    b"/%F0%9F%98%80": "/😀",
    b"/a%3Fb%23c": "/a?b#c",
    b"/100%25": "/100%",
    b"/100%25/x": "/100%/x",
    b"/%25zz": "/%zz",
    b"/a%3bb%3a": "/a;b:",
    b'/"<>[]^`{|}': '/"<>[]^`{|}',
}


@pytest.mark.parametrize(("raw", "path"), GOOD.items())
def test_a_target_that_reads_in_one_way_is_decoded_once(raw, path):
    assert judge_path(head(path, raw), "") == path


HOSTILE = [
    # other forms of target (RFC 9112 §3.2)
    b"", b"*", b"a", b"admin", b"http://example.org/admin", b"example.org:443", b"?a",
    b" /a", b"\t/a", b"../a",
    # doubled slashes
    b"//", b"//a", b"/a//b", b"/a//", b"///", b"//evil.org/a",
    # dot segments
    b"/.", b"/..", b"/./", b"/../", b"/a/.", b"/a/..", b"/a/./b", b"/a/../b", b"/../../etc/passwd",
    # the same, encoded in part or twice
    b"/%2e", b"/%2E%2e/a", b"/.%2e/a", b"/%2e./a", b"/a/%2e%2e", b"/a/%2E/b", b"/%252e%252e/a", b"/a%252fb",
    b"/%25252e", b"/%2525", b"/a%2541", b"/%252E.",
    # with path parameters, which some routers strip first
    b"/..;/a", b"/..;x=y/a", b"/.;a/b", b"/a/..;", b"/a/;/..;a=b", b"/..%3b/a", b"/.%3Ba=b",
    # encoded slashes and backslashes
    b"/a%2fb", b"/a%2Fb", b"/%2f", b"/%2F%2fa", b"/a\\b", b"/\\a", b"/..\\a", b"/a%5cb", b"/a%5C..%5Cb",
    # overlong and broken UTF-8, and half characters
    b"/%c0%af", b"/%c0%ae%c0%ae/a", b"/%e0%80%af", b"/%ff", b"/%c3", b"/%c3/%bc", b"/%ed%a0%80", b"/%80",
    b"/%f4%90%80%80", b"/a%c3%28",
    # control characters
    b"/a\0", b"/a%00", b"/%00.json", b"/a%0a", b"/a%0d%0aHost:%20evil", b"/a%09b", b"/a\tb", b"/a\nb",
    b"/%7f", b"/a\x7f", b"/%1b[31m", b"/%c2%85", b"/%c2%80", b"/%C2%9F",
    # broken percent-encoding
    b"/%", b"/a%", b"/a%2", b"/%zz", b"/%2g", b"/%u002e", b"/%%32%65", b"/%-1", b"/% 0", b"/a%2/",
    b"/%%", b"/%25%", b"/%+1",
    # fragments, queries, raw bytes that are no part of a target
    b"/a#b", b"/#", b"/a?b", b"/?", b"/a b", b"/\xc3\xbc", b"/\xff", b"/a\x80",
]  # fmt: skip


@pytest.mark.parametrize("raw", HOSTILE)
def test_a_target_that_reads_in_two_ways_is_refused(raw):
    decoded = unquote(raw.decode("latin-1"))
    for path in {decoded, unquote_to_bytes(raw).decode("utf-8", "replace"), raw.decode("latin-1"), "/", "/a"}:
        assert judge_path(head(path, raw), "") == AMBIGUOUS


@pytest.mark.parametrize(
    "path",
    ["", "*", "a", "http://example.org/", "//", "/a//b", "/.", "/a/..", "/../a", "/..;a/b", "/.;", "/a\\b",
     "/a\0", "/a\n", "/a\x7f", "/a\x85", "/a#b", "/a%b", "/a%2fb", "/%2e", "/a\ufffdb", "/\ud800", "/100%"],
)  # fmt: skip
def test_without_a_target_the_path_that_the_app_gets_is_judged(path):
    assert judge_path(head(path), "") == AMBIGUOUS


@pytest.mark.parametrize("path", ["/", "/a", "/a/", "/ü", "/a b", "/a;b", "/...", "/a?b", "/😀"])
def test_a_plain_path_needs_no_target(path):
    assert judge_path(head(path), "") == path


@pytest.mark.parametrize(
    ("path", "raw"),
    [
        ("/admin", b"/public"),
        ("/admin", b"/Admin"),
        ("/admin/", b"/admin"),
        ("/admin", b"/admin/"),
        ("/a%20b", b"/a%20b"),
        ("/a b", b"/a+b"),
        ("/a+b", b"/a%20b"),
        ("/%41", b"/%2541"),
        ("/ü", b"/%fc"),
        ("/u\u0308", b"/%c3%bc"),
        ("/Ã¼", b"/%c3%bc"),
        ("/v1/admin", b"/admin"),
        ("/a", b""),
        ("", b"/a"),
    ],
)
def test_the_target_and_the_path_that_the_app_gets_are_one(path, raw):
    assert judge_path(head(path, raw), "") == AMBIGUOUS


MOUNTED = [
    # mount, root_path, path, raw, routed
    ("/v1", "/v1", "/v1/a", b"/v1/a", "/a"),
    ("/v1", "/v1", "/v1/a", b"/a", "/a"),
    ("/v1", "/v1", "/v1/a", None, "/a"),
    ("/v1", "/v1", "/v1/a%20", b"/v1/a%2520", AMBIGUOUS),
    ("/v1", "/v1", "/v1", b"/v1", "/"),
    ("/v1", "/v1", "/v1/", b"/v1/", "/"),
    ("/v1", "/v1", "/v1/", b"/", "/"),
    ("/v1", "/v1", "/v1/v1/a", b"/v1/v1/a", "/v1/a"),
    ("/v1", "/v1", "/v1/v1/a", b"/v1/a", "/v1/a"),
    ("/shop/v1", "/shop/v1", "/shop/v1/a", b"/shop/v1/a", "/a"),
    ("/v1", "/v1", "/v10/a", b"/v10/a", AMBIGUOUS),
    ("/v1", "/v1", "/v1a", None, AMBIGUOUS),
    ("/v1", "/v1", "/a", b"/a", AMBIGUOUS),
    ("/v1", "/v1", "/V1/a", b"/V1/a", AMBIGUOUS),
    ("/v1", "/v1", "/v1//a", b"/v1//a", AMBIGUOUS),
    ("/v1", "/v1", "/v1/../a", b"/v1/../a", AMBIGUOUS),
    ("/v1", "/v1", "/v1/..", b"/..", AMBIGUOUS),
    ("/v1", "/v1", "/v1", b"", AMBIGUOUS),
    # Who sends a prefix does not choose the mount.
    ("", "/v1", "/v1/a", b"/v1/a", AMBIGUOUS),
    ("", "/v1", "/a", b"/a", AMBIGUOUS),
    ("", "/admin", "/admin/a", b"/a", AMBIGUOUS),
    ("/v1", "", "/v1/a", b"/v1/a", AMBIGUOUS),
    ("/v1", "/v1/", "/v1/a", b"/v1/a", AMBIGUOUS),
    ("/v1", "/v2", "/v2/a", b"/v2/a", AMBIGUOUS),
    ("/v1", "v1", "/v1/a", b"/v1/a", AMBIGUOUS),
    ("/v1", "/v1/admin", "/v1/admin/a", b"/a", AMBIGUOUS),
    ("", "/", "/a", b"/a", AMBIGUOUS),
]  # fmt: skip


@pytest.mark.parametrize(("mount", "root", "path", "raw", "routed"), MOUNTED)
def test_only_what_lies_under_the_mount_is_routed_and_the_mount_is_taken_off(mount, root, path, raw, routed):
    assert judge_path(head(path, raw, root), mount) == routed


def test_no_target_costs_time():
    start = time.process_time()
    for raw in (
        b"/" + b"a" * 300_000,
        b"/a" * 150_000,
        b"/%41" * 75_000,
        b"/..a" * 75_000,
        b"/.;" + b"a" * 300_000,
    ):
        for end in (b"", b"%", b"/..", b"#"):
            judge_path(from_target(raw + end), "")
    assert time.process_time() - start < 3


# A second reader, written for its plainness: what is accepted has none of the shapes that readers differ on.


def is_plain(path: str) -> bool:
    if not path.startswith("/") or "\\" in path:
        return False
    *middle, last = path[1:].split("/")
    if "" in middle or any(re.split(";", segment)[0] in (".", "..") for segment in (*middle, last)):
        return False
    if any(ord(char) < 0x20 or 0x7F <= ord(char) <= 0x9F or 0xD800 <= ord(char) <= 0xDFFF for char in path):
        return False
    return unquote(path) == path or not re.search("%[0-9a-fA-F]{2}", path)


PIECES = st.sampled_from(
    [b"/", b"a", b"b", b".", b"..", b";", b"%2e", b"%2F", b"%25", b"%41", b"%c3%bc", b"%c0%af", b"%00", b"%",
     b"\\", b"#", b"?", b"//", b"%5c", b"+", b"%3B", b"admin", b"\xff", b" ", b"%20", b"2e", b"v1", b"%0a"]
)  # fmt: skip
TARGETS = st.lists(PIECES, max_size=8).map(b"".join)


@given(TARGETS, st.sampled_from(["", "/v1"]), st.booleans(), st.sampled_from([b"/", b"/v1/", b""]))
@settings(max_examples=500, deadline=None)
@example(b"admin", "/v1", True, b"/")
def test_what_is_accepted_is_what_the_app_routes_by_and_holds_no_trick(tail, mount, with_root, start):
    raw = start + tail
    asked = from_target(raw, mount, with_root=with_root)
    for judged in (judge_path(asked, mount), judge_path(head(asked.path, None, mount), mount)):
        if isinstance(judged, Refusal):
            assert judged == AMBIGUOUS
            continue
        assert judged == (asked.path.removeprefix(mount) or "/")
        assert is_plain(judged)


@given(st.lists(st.sampled_from([b"/", b"/", b".", b";", b"a", b"~", b"%2e", b"%", b"\\", b"#"]), max_size=8))
@settings(max_examples=500, deadline=None)
@example([b"/", b"a", b"/", b".", b".", b";"])
@example([b"/", b".", b"a"])
def test_the_short_way_through_a_common_target_comes_to_what_the_long_one_does(pieces):
    raw = b"/" + b"".join(pieces)
    if paths._PLAIN.fullmatch(raw):
        assert paths._decoded(raw) == raw.decode()


@pytest.mark.parametrize("raw", [b"/", b"/healthz", b"/v1/items/7/", b"/a.b/c-d_e~f;x=1,2/@me"])
def test_a_common_target_goes_the_short_way(raw):
    assert paths._PLAIN.fullmatch(raw)


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=12))
@settings(max_examples=300, deadline=None)
def test_a_plain_path_is_accepted_in_whatever_encoding_it_came(path):
    path = "/" + path
    assume(is_plain(path) and "/" not in path[1:])
    # Percent-encoded to the last byte, but for what must never be: dots and slashes.
    encoded = "".join(
        char if char in "/." else "".join(f"%{byte:02x}" for byte in char.encode()) for char in path
    ).encode()
    usual = quote_from_bytes(path.encode()).encode()
    double = re.search(rb"%25[0-9A-Fa-f]{2}", usual)
    assert judge_path(head(path, usual), "") == (AMBIGUOUS if double else path)
    if "%" not in path:
        assert judge_path(head(path, encoded), "") == path


@given(TARGETS, TARGETS)
@settings(max_examples=200, deadline=None)
def test_a_target_that_is_not_the_apps_path_is_never_accepted(one, other):
    raw = b"/" + one
    path = "/" + unquote(other.decode("latin-1"))
    if judge_path(head(path, raw), "") == path:
        assert unquote_to_bytes(raw).decode() == path


# Patterns

MATCHES = [
    ("/", ["/"], ["/a", "//"]),
    ("/admin", ["/admin", "/admin/"], ["/Admin", "/admin/a", "/admins", "/", "/admin//", "/xadmin"]),
    ("/admin/", ["/admin", "/admin/"], ["/admin/a"]),
    ("/a/*", ["/a/b", "/a/b/", "/a/*", "/a/ü", "/a/b\nc"], ["/a", "/a/", "/a//", "/a/b/c"]),
    ("/*", ["/a", "/a/"], ["/", "/a/b"]),
    ("/*/x", ["/a/x"], ["//x", "/x", "/a/b/x"]),
    ("/admin/**", ["/admin", "/admin/", "/admin/a", "/admin/a/b/", "/admin/\n"], [
        "/admins", "/", "/Admin/a", "/a/admin",
    ]),
    ("/**", ["/", "/a", "/a/b/", "/\n"], ["a"]),
    ("/*/**", ["/a", "/a/", "/a/b/c"], ["/"]),
    ("/a/*/**", ["/a/b", "/a/b/c/d"], ["/a", "/a/"]),
    ("/a.b/c+d", ["/a.b/c+d"], ["/aXb/c+d", "/a.b/ccd"]),
    ("/a(b)|c", ["/a(b)|c"], ["/ab", "c"]),
    ("/ü", ["/ü"], ["/u\u0308", "/%c3%bc"]),
    ("/100%", ["/100%"], ["/100"]),
]  # fmt: skip


@pytest.mark.parametrize(("text", "under", "others"), MATCHES, ids=[row[0] for row in MATCHES])
def test_a_pattern_matches_whole_segments_and_a_tree_its_folder_too(text, under, others):
    pattern = PathPattern.parse(text)
    assert [path for path in under if not pattern.matches(path)] == []
    assert [path for path in others if pattern.matches(path)] == []


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "starts with a slash"),
        ("admin", "starts with a slash"),
        ("*", "starts with a slash"),
        ("**", "starts with a slash"),
        (" /a", "starts with a slash"),
        ("https://example.org/a", "starts with a slash"),
        ("//", "empty segment"),
        ("//a", "empty segment"),
        ("/a//b", "empty segment"),
        ("/a//", "empty segment"),
        ("//**", "empty segment"),
        ("/**/a", "at the end"),
        ("/a/**/", "at the end"),
        ("/**/**", "at the end"),
        ("/a/../b", "dot segment"),
        ("/.", "dot segment"),
        ("/./**", "dot segment"),
        ("/a*", "one whole segment"),
        ("/*.json", "one whole segment"),
        ("/a**", "one whole segment"),
        ("/***", "one whole segment"),
        ("/users/{id}", "named parameters"),
        ("/users/<int:id>", "named parameters"),
        ("/a?b=c", "query"),
        ("/a#b", "fragment"),
        ("/a%20b", "decoded"),
        ("/%2e%2e", "decoded"),
        ("/a\\b", "backslashes"),
        ("/a\nb", "control characters"),
        ("/a\x7f", "control characters"),
        ("/a\x85", "control characters"),
        ("/\ud800", "control characters"),
    ],
)
def test_what_is_no_pattern_is_refused_with_a_sentence(text, reason):
    with pytest.raises(ValueError, match=r".") as caught:
        PathPattern.parse(text)
    assert reason in str(caught.value)


def test_a_pattern_is_written_in_one_way():
    for written, text in [("/a/", "/a"), ("/", "/"), ("/**", "/**"), ("/a/**", "/a/**"), ("/*/", "/*")]:
        assert str(PathPattern.parse(written)) == text
        assert PathPattern.parse(written) == PathPattern.parse(text)
    assert len({PathPattern.parse("/a"), PathPattern.parse("/a/"), PathPattern.parse("/A")}) == 2


@pytest.mark.parametrize(
    ("wide", "narrow", "covered"),
    [
        ("/**", "/**", True),
        ("/**", "/", True),
        ("/**", "/a/*", True),
        ("/a/**", "/a", True),
        ("/a/**", "/a/b/**", True),
        ("/a/**", "/**", False),
        ("/a/**", "/b", False),
        ("/a/**", "/ab", False),
        ("/a/**", "/*", False),
        ("/*", "/a", True),
        ("/a", "/*", False),
        ("/*", "/*", True),
        ("/*", "/", False),
        ("/*", "/**", False),
        ("/*/**", "/a", True),
        ("/*/**", "/**", False),
        ("/a/*", "/a/**", False),
        ("/a", "/a/**", False),
        ("/a/*/c", "/a/b/c", True),
        ("/a/b/c", "/a/*/c", False),
    ],
)
def test_a_pattern_covers_another_one_that_matches_nothing_else(wide, narrow, covered):
    assert PathPattern.parse(wide).covers(PathPattern.parse(narrow)) == covered


PATTERNS = st.builds(
    lambda segments, tree: PathPattern.parse("/" + "/".join([*segments, *(["**"] if tree else [])])),
    st.lists(st.sampled_from(["a", "b", "*"]), max_size=3),
    st.booleans(),
)
SOME_PATHS = st.builds(
    lambda segments, slash: ("/" + "/".join(segments)) + ("/" if slash and segments else ""),
    st.lists(st.sampled_from(["a", "b", "c"]), max_size=4),
    st.booleans(),
)
ALL_PATHS = ["/"] + [
    "/" + "/".join(path)
    for path in (
        *((x,) for x in "abc"),
        *((x, y) for x in "abc" for y in "abc"),
        *((x, y, z) for x in "abc" for y in "abc" for z in "abc"),
        *((x, y, z, "d") for x in "abc" for y in "abc" for z in "abc"),
    )
]


@given(PATTERNS, PATTERNS, SOME_PATHS)
@settings(max_examples=300, deadline=None)
def test_whatever_the_covered_pattern_matches_the_covering_one_does(wide, narrow, path):
    if wide.covers(narrow) and narrow.matches(path):
        assert wide.matches(path)


@given(PATTERNS, PATTERNS)
@settings(max_examples=200, deadline=None)
def test_a_pattern_covers_another_one_exactly_where_no_path_says_otherwise(wide, narrow):
    """The segments of the patterns and one more stand for all segments there are."""
    assert wide.covers(narrow) == all(wide.matches(path) for path in ALL_PATHS if narrow.matches(path))


@given(PATTERNS, SOME_PATHS)
@settings(max_examples=200, deadline=None)
def test_a_trailing_slash_of_a_path_changes_nothing(pattern, path):
    assert pattern.matches(path.rstrip("/") or "/") == pattern.matches(path)
