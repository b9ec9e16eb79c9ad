"""Where keys and items of a TOML text stand; `tomllib` says what is there at all."""

from __future__ import annotations

import tomllib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from secmiddleware.settings.positions import DEPTH_LIMIT, scan


def paths_of(value, path=()):
    """Every path of a parsed document."""
    if isinstance(value, dict):
        items = value.items()
    elif isinstance(value, list):
        items = enumerate(value)
    else:
        return
    for key, below in items:
        yield (*path, key)
        yield from paths_of(below, (*path, key))


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("a = 1\nb = 2", {("a",): 1, ("b",): 2}),
        ("\n# c\n\na = 1 # b = 2\n", {("a",): 4}),
        ("a.b.c = 1\na.b.d = 2", {("a",): 1, ("a", "b"): 1, ("a", "b", "c"): 1, ("a", "b", "d"): 2}),
        ("a . \"b\" . 'c' = 1", {("a",): 1, ("a", "b"): 1, ("a", "b", "c"): 1}),
        ('"a.b" = 1', {("a.b",): 1}),
        ('"\\u0061\\t" = 1', {("a\t",): 1}),
        ("1.2 = 3", {("1",): 1, ("1", "2"): 1}),
        ("[a]\nb = 1\n[a.c]\nd = 2", {("a",): 1, ("a", "b"): 2, ("a", "c"): 3, ("a", "c", "d"): 4}),
        ("[a.b]\n[a]\nc = 1", {("a",): 1, ("a", "b"): 1, ("a", "c"): 3}),
        ("[ a . b ]\nc = 1", {("a",): 1, ("a", "b"): 1, ("a", "b", "c"): 2}),
        ("a = [1,\n2, # x, y\n\n3,\n]", {("a",): 1, ("a", 0): 1, ("a", 1): 2, ("a", 2): 4}),
        (
            "a = [[1], [\n2]]",
            {("a",): 1, ("a", 0): 1, ("a", 0, 0): 1, ("a", 1): 1, ("a", 1, 0): 2},
        ),
        ("a = { b = 1, c.d = 2 }", {("a",): 1, ("a", "b"): 1, ("a", "c"): 1, ("a", "c", "d"): 1}),
        ("a = [\n{ b = 1 },\n{ b = [\n2] }]", {
            ("a",): 1, ("a", 0): 2, ("a", 0, "b"): 2, ("a", 1): 3, ("a", 1, "b"): 3, ("a", 1, "b", 0): 4,
        }),
        ("[[a]]\nb = 1\n\n[[a]]\nb = 2", {
            ("a",): 1, ("a", 0): 1, ("a", 0, "b"): 2, ("a", 1): 4, ("a", 1, "b"): 5,
        }),
        ("[[a]]\n[[a.b]]\nc = 1\n[[a.b]]\n[[a]]\n[[a.b]]\nc = 1\n[a.d]\ne = 1", {
            ("a",): 1, ("a", 0): 1, ("a", 0, "b"): 2, ("a", 0, "b", 0): 2, ("a", 0, "b", 0, "c"): 3,
            ("a", 0, "b", 1): 4, ("a", 1): 5, ("a", 1, "b"): 6, ("a", 1, "b", 0): 6, ("a", 1, "b", 0, "c"): 7,
            ("a", 1, "d"): 8, ("a", 1, "d", "e"): 9,
        }),
        ('a = """\n[x]\ny = 1\n"""\nb = 1', {("a",): 1, ("b",): 5}),
        ('a = """x\\"""\nb"""\nc = 1', {("a",): 1, ("c",): 3}),
        ('a = """""two quotes"""""\nb = 1', {("a",): 1, ("b",): 2}),
        ("a = '''\n'x' = 1\\\n'''\nb = 1", {("a",): 1, ("b",): 4}),
        ("a = ''\nb = \"\"\nc = '''''' \nd = \"\"\"\"\"\"", {("a",): 1, ("b",): 2, ("c",): 3, ("d",): 4}),
        ("a = '#'\nb = \"]#\"", {("a",): 1, ("b",): 2}),
        ("a = 1979-05-27 07:32:00Z\nb = inf\nc = 0x1F", {("a",): 1, ("b",): 2, ("c",): 3}),
        ("a = 1_0e-5\nb = -nan\nc = 07:32:00.5", {("a",): 1, ("b",): 2, ("c",): 3}),
        ("a = 1\r\n[b]\r\nc = \"\"\"\r\n\r\n\"\"\"\r\nd = 1", {
            ("a",): 1, ("b",): 2, ("b", "c"): 3, ("b", "d"): 6,
        }),
        ("", {}),
    ],
)  # fmt: skip
def test_every_key_and_item_has_its_line(text, lines):
    assert set(lines) == set(paths_of(tomllib.loads(text)))
    assert dict(scan(text).lines) == lines
    assert scan(text).repeated == ()


def test_a_path_that_is_not_there_has_the_line_of_what_is_around_it():
    positions = scan("[a]\nb = [1]\n")
    assert positions.line_of(("a", "b", 7, "c")) == 2
    assert positions.line_of(("a", "x")) == 1
    assert positions.line_of(("x",)) is None


@pytest.mark.parametrize(
    ("text", "repeated"),
    [
        ("a = 1\nb = 1\na = 2", ((("a",), 1, 3),)),
        ("[a]\n[b]\n[a]", ((("a",), 1, 3),)),
        ("a = { b = 1, b = 2 }", ((("a", "b"), 1, 1),)),
        ("[[a]]\nb = 1\n[[a]]\nb = 2", ()),
        ("[a]\nb.c = 1\nb.d = 2", ()),
    ],
)
def test_what_is_given_twice_is_seen(text, repeated):
    assert scan(text).repeated == repeated


@pytest.mark.parametrize("before", ["", "a = 1\n"])
@pytest.mark.parametrize(
    "broken",
    ["b", "b =", "[b", "[[b]", 'b = "x', "b = [1,", "b = { c = ", "= 1", "b = 'x' 'y'", "?", "b.. = 1"],
)
def test_up_to_where_a_text_is_no_toml_everything_is_seen(before, broken):
    positions = scan(before + broken)
    assert (("a",) in positions.lines) == bool(before)
    assert positions.too_deep is None


def test_a_word_that_stands_alone_is_no_key():
    assert dict(scan("a = 1\nc2VjcmV0").lines) == {("a",): 1}


@pytest.mark.parametrize("levels", [DEPTH_LIMIT - 2, DEPTH_LIMIT + 2])
@pytest.mark.parametrize(
    "nested",
    [
        lambda n: "\n" + ".".join("a" * n) + " = 1",
        lambda n: "\n[" + ".".join("a" * n) + "]",
        lambda n: "\na = " + "[" * n + "]" * n,
        lambda n: "\na = " + "{a = " * n + "1" + "}" * n,
    ],
)
def test_depth_ends_the_walk(levels, nested):
    assert scan(nested(levels)).too_deep == (None if levels < DEPTH_LIMIT else 2)


# Documents of any shape, written in any of TOML's ways

KEYS = st.one_of(st.sampled_from(["a", "b", "c-d", "1", "a.b", "", "é", 'q"', "\\", "\n", "[x]"]))
TEXTS = st.text(st.sampled_from("ab \n\t'\"\\#[]{}=,.é"), max_size=8)
SCALARS = st.one_of(st.integers(-99, 99), st.booleans(), TEXTS, st.just(1.5))
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(KEYS, inner, max_size=3)),
    max_leaves=8,
)


def quoted(text: str) -> str:
    return '"' + "".join(f"\\u{ord(char):04x}" if char in '"\\\n\t' else char for char in text) + '"'


class Writer:
    """Writes a document as TOML, in a manner that hypothesis draws, and notes the line of each path."""

    def __init__(self, data) -> None:
        self.data = data
        self.text = ""
        self.lines: dict = {}

    def choose(self, *choices):
        return self.data.draw(st.sampled_from(choices))

    def note(self, path) -> None:
        self.lines.setdefault(path, self.text.count("\n") + 1)

    def key(self, key: str) -> str:
        bare = key.isascii() and key.replace("-", "").isalnum()
        return key if bare and self.choose(True, False) else quoted(key)

    def blank(self) -> None:
        self.text += self.choose("", " ", "\n", "# a = [1]\n", "\t\n\n")

    def scalar(self, value) -> str:
        match value:
            case bool():
                return str(value).lower()
            case str():
                plain = "\n" not in value and "'" not in value
                ways = [quoted(value), f'"""\n{quoted(value)[1:-1]}"""']
                if plain:
                    ways.append(f"'{value}'")
                if "'" not in value:
                    ways.append(f"'''\n{value}'''")
                return self.choose(*ways)
            case _:
                return str(value)

    def value(self, value, path) -> None:
        match value:
            case list():
                self.text += "["
                for index, item in enumerate(value):
                    self.blank()
                    self.note((*path, index))
                    self.value(item, (*path, index))
                    self.blank()
                    self.text += "," if index < len(value) - 1 else self.choose("", ",")
                self.blank()
                self.text += "]"
            case dict():
                self.text += "{ "
                for number, (key, item) in enumerate(value.items()):
                    self.text += ", " if number else ""
                    self.note((*path, key))
                    self.text += self.key(key) + " = "
                    self.value(item, (*path, key))
                self.text += " }"
            case _:
                self.text += self.scalar(value)

    def table(self, table: dict, path, written) -> None:
        """The plain keys of a table first, then its tables and its lists of tables under headers."""
        later = []
        for key, value in table.items():
            here = (*path, key)
            if isinstance(value, dict) and self.choose(True, False):
                later.append((key, value))
                continue
            tables = isinstance(value, list) and value and all(isinstance(item, dict) for item in value)
            if tables and self.choose(True, False):
                later.append((key, value))
                continue
            self.note(here)
            self.text += f"{self.key(key)} = "
            self.value(value, here)
            self.text += self.choose("\n", " # x\n", "\n\n")
        for key, value in later:
            here, name = (*path, key), [*written, key]
            header = ".".join(self.key(part) for part in name)
            items = enumerate(value) if isinstance(value, list) else [(None, value)]
            for index, item in items:
                self.note(here)
                if index is None:
                    self.text += f"[{header}]\n"
                    self.table(item, here, name)
                else:
                    self.note((*here, index))
                    self.text += f"[[{header}]]\n"
                    self.table(item, (*here, index), name)


@given(st.dictionaries(KEYS, VALUES, max_size=4), st.data())
@settings(max_examples=200, deadline=None)
def test_however_a_document_is_written_everything_has_its_line(document, data):
    writer = Writer(data)
    writer.table(document, (), [])
    assert tomllib.loads(writer.text) == document
    positions = scan(writer.text)
    assert dict(positions.lines) == writer.lines
    assert positions.repeated == ()
    assert dict(scan(writer.text.replace("\n", "\r\n")).lines) == writer.lines


@given(st.text(st.sampled_from("ab=.[]{}'\"\\,#\n 1u"), max_size=60))
@settings(max_examples=300, deadline=None)
def test_no_text_is_too_strange_and_what_is_toml_is_seen_whole(text):
    positions = scan(text)
    try:
        document = tomllib.loads(text)
    except ValueError:
        return
    assert set(positions.lines) == set(paths_of(document))
