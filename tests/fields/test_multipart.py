"""Multipart forms: what is done to their parts, and that frameworks see in them what we see."""

import pytest
from fields.flowing import is_no_token, place, request, response, seal, unseal, unsealed
from fields.form_readers import READERS
from hypothesis import given, settings
from hypothesis import strategies as st

BOUNDARY = b"b-7"
TYPE = "multipart/form-data; boundary=b-7"
DECRYPT = [place("$.ssn", request="decrypt")]
ENCRYPT = [place("$.ssn", request="encrypt")]


def part(content, disposition=b'name="ssn"', *headers):
    lines = [b"Content-Disposition: form-data; " + disposition, *headers]
    return b"--b-7\r\n" + b"\r\n".join(lines) + b"\r\n\r\n" + content + b"\r\n"


def form(*parts):
    return b"".join(parts) + b"--b-7--\r\n"


def sent(places, body, kind=TYPE):
    return request(places, body, headers=((b"content-type", kind.encode("latin-1")),))


def token(value):
    return seal(value)[1:-1]


OTHERS = (
    part(b"\r\n\r\nsm1.x\n", b'name="note"'),
    part(bytes(range(256)), b'name="f"; filename="a;b=\xc3\xa9.bin"', b"Content-Type: image/png"),
    part(b"", b"name=x", b"X-Odd:y"),
    part(b"=41", b'name="quoted"', b"Content-Transfer-Encoding: quoted-printable"),
    part(b"x", b"name=\"g\"; filename*=UTF-8''%e2%82%ac.txt"),
)


def test_a_text_part_is_opened_and_every_other_byte_stays():
    preamble = b"for old readers\r\n"
    before = preamble + b"".join(OTHERS)
    body = before + part(token('"caf\\u00e9 \\r\\n"')) + form(*OTHERS) + b"epilogue"
    assert sent(DECRYPT, body).body == before + part("café \r\n".encode()) + form(*OTHERS) + b"epilogue"


@pytest.mark.parametrize(
    "headers",
    [
        (),
        (b"Content-Type: text/plain",),
        (b"content-type:text/plain; charset=UTF-8",),
        (b"Content-Type: text/plain", b"Content-Transfer-Encoding: 8bit", b"Content-Length: 5"),
    ],
)
def test_a_text_is_sealed_as_the_json_string_of_it(headers):
    begin, end = part(b"<>", b'name="ssn"', *headers).split(b"<>")
    body = sent(ENCRYPT, form(part('a"é'.encode(), b'name="ssn"', *headers))).body
    assert body.startswith(begin)
    sealed = body.removeprefix(begin).removesuffix(end + b"--b-7--\r\n")
    assert unseal(b'"' + sealed + b'"') == '"a\\"é"'.encode()


JSON = b"Content-Type: application/json"


def test_a_json_part_is_read_as_json():
    marks = [place("$.data.ssn", "$.whole", "$..deep", "$.list[*]", request="decrypt")]
    t = seal('{"a":1}')
    body = form(
        part(b' { "ssn" : %b } ' % t, b'name="data"', JSON),
        part(b" %b " % t, b'name="whole"', JSON),
        part(b'[{"deep":%b}]' % t, b'name="any"', b"Content-Type: application/vnd.x+json"),
        part(b"[%b,%b]" % (t, t), b'name="list"', JSON),
        part(b"%b" % t, b'name="list"', JSON),
        part(b'{"ssn":1}', b'name="none"', JSON),
    )
    assert sent(marks, body).body == body.replace(t, b'{"a":1}')


def test_repeated_names_and_indices_select_as_in_any_form():
    body = form(part(token("1"), b'name="t"'), part(b"plain", b'name="t"'), part(token('"3"'), b'name="t"'))
    marks = [place("$.t[0]", "$.t[2]", request="decrypt")]
    assert sent(marks, body).body == form(*(part(c, b'name="t"') for c in (b"1", b"plain", b"3")))


def of_json(*contents):
    """A form of parts that are JSON, all of one name."""
    return form(*(part(content, b'name="data"', JSON) for content in contents))


SEVERAL = {
    # What stands alone is what its name stands for: of a list, [n] is an element.
    ("$.data[0]", b"[<1>,2]"),
    ("$.data[1]", b"[1,<2>]"),
    ("$.data[*]", b"[<1>,<2>]"),
    ("$.data[0].ssn", b'[{"ssn":<1>},{"ssn":2}]'),
    ("$.data[*].ssn", b'[{"ssn":<1>},{"ssn":<2>}]'),
    ("$.data[0][1]", b"[[1,<2>],3]"),
    ("$.data[*]", b'{"a":<1>}'),
    # Anything else is the first of its name's parts, as a text is.
    ("$.data[0]", b"<1>"),
    ("$.data[0]", b'<{"a":1}>'),
    ("$..data[0]", b'<{"a":1}>'),
    ("$[*][0]", b'<{"a":1}>'),
    ("$.data[1]", b'{"a":1}'),
    ("$.data[0].ssn", b'{"ssn":<1>,"a":2}'),
    ("$.data[*].ssn", b'{"ssn":<1>,"a":{"ssn":<2>}}'),
    # Of several, [n] is the nth, and the rest is in it.
    ("$.data[0]", b'<{"a":1}>', b'{"a":2}'),
    ("$.data[1]", b'{"a":1}', b'<{"a":2}>'),
    ("$.data[1].ssn", b'{"ssn":1}', b'{"ssn":<2>}', b'{"ssn":3}'),
    ("$.data[*].ssn", b'{"ssn":<1>}', b'{"ssn":<2>}', b'{"ssn":<3>}'),
    ("$.data[0][0]", b"[<1>,2]", b"[3,4]"),
    ("$.data[*][0]", b"[<1>,2]", b"[<3>,4]"),
    ("$.data[*][*].ssn", b'[{"ssn":<1>}]', b'[{"ssn":<2>}]'),
    # An app may take one of them for what the name stands for: that is marked, too.
    ("$.data[0]", b"<[1,2]>", b"[<3>,4]"),
    ("$.data[1]", b"[1,<2>]", b"<[3,4]>"),
    ("$.data[0].ssn", b'{"ssn":<1>}', b'[{"ssn":<2>}]'),
}


@pytest.mark.parametrize("case", sorted(SEVERAL), ids=lambda case: " ".join(map(str, case)))
def test_what_a_mark_selects_in_and_among_parts_that_are_json(case):
    mark, *contents = case
    plain = [content.replace(b"<", b"").replace(b">", b"") for content in contents]
    sealed = sent([place(mark, request="encrypt")], of_json(*plain)).body
    assert b"<" not in sealed
    assert unsealed(sealed) == of_json(*contents)
    if b"[1,2]" not in contents[0] and b"<[" not in b"".join(contents):
        assert sent([place(mark, request="decrypt")], sealed).body == of_json(*plain)


def test_a_second_part_does_not_move_a_mark_away_from_what_an_app_reads():
    """With `$.data[0]` an app that reads one part and takes its first element gets nothing unopened."""
    marks = [place("$.data[0]", request="decrypt")]
    opens = of_json(b"[%b]" % seal("1"))
    assert sent(marks, opens).body == of_json(b"[1]")
    for body in (of_json(b'["x"]', b"[%b]" % seal("1")), of_json(b"[%b]" % seal("1"), b'["x"]')):
        assert sent(marks, body).code == "field_undecryptable"


def test_a_required_first_part_is_there_when_it_is_json():
    marks = [place("$.data[0]", request="encrypt", required=True)]
    assert sent(marks, of_json(b'{"a":1}')).code is None
    assert sent(marks, of_json(b"[]")).code == "field_missing"


@pytest.mark.parametrize("text", [b'{"ssn":"x"}', b' [{"ssn":"x"}]', b"\xef\xbb\xbf{"])
@pytest.mark.parametrize("mark", ["$.data.ssn", "$.data[*].ssn", "$.data..ssn"])
def test_a_text_that_an_app_could_read_as_json_with_a_mark_inside_is_refused(mark, text):
    """Else whoever leaves out the type has it passed unread."""
    places = [place(mark, request="encrypt")]
    for headers in ((), (b"Content-Type: text/plain",), (b"Content-Type: application/octet-stream",)):
        refusal = sent(places, form(part(text, b'name="data"', *headers))).refusal
        assert (refusal.code, refusal.where) == ("payload_malformed", mark)
    for other in (form(part(b"x" + text, b'name="data"')), form(part(text, b'name="other"'))):
        assert sent(places, other).body == other


def test_a_text_under_an_encoding_does_not_pass_where_something_in_it_could_be_marked():
    """Django undoes base64."""
    encoded = part(b"eyJzc24iOiJ4In0=", b'name="data"', b"Content-Transfer-Encoding: base64")
    refusal = sent([place("$.data.ssn", request="encrypt")], form(encoded)).refusal
    assert (refusal.code, refusal.where) == ("payload_malformed", "$.data.ssn")
    assert sent([place("$.other.ssn", request="encrypt")], form(encoded)).body == form(encoded)


FILE = part(b"x", b'name="data"; filename="a"')
TEXT_OF_DATA = part(b"x", b'name="data"')


@pytest.mark.parametrize("mark", ["$..data[1]", "$[*][1]", "$..data[1].ssn"])
def test_a_file_does_not_move_an_index_away_from_the_text_that_an_app_reads(mark):
    """Werkzeug and Django count files apart, Starlette among the texts of their name."""
    places = [place(mark, request="encrypt")]
    for parts in ((FILE, TEXT_OF_DATA, TEXT_OF_DATA), (TEXT_OF_DATA, TEXT_OF_DATA, FILE)):
        refusal = sent(places, form(*parts)).refusal
        assert (refusal.code, refusal.where) == ("payload_malformed", mark)
    alone = form(FILE, part(b"x", b'name="other"'))
    assert sent(places, alone).body == alone


@pytest.mark.parametrize(
    "content",
    [
        part(b"x", b'name="ssn"; filename=""'),
        part(b"x", b'name="ssn"; filename="a"'),
        part(b"x", b"name=\"ssn\"; filename*=utf-8''a"),
        part(b'"x"', b'name="ssn"; filename="blob"', JSON),
        part(b"x", b'name="ssn"', b"Content-Transfer-Encoding: base64"),
        part(b"1", b'name="ssn"', JSON, b"Content-Transfer-Encoding: base64"),
        part(b"x", b'name="ssn"', b"Content-Type: text/html"),
        part(b"x", b'name="ssn"', b"Content-Type: text/plain; charset=latin-1"),
        part(b"\xff"),
        part(b"{", b'name="ssn"', JSON),
        part(b"\xef\xbb\xbf1", b'name="ssn"', JSON),
    ],
)
def test_a_marked_part_that_is_no_text_is_refused_by_its_mark(content):
    refusal = sent(ENCRYPT, form(content)).refusal
    assert (refusal.code, refusal.where) == ("payload_malformed", "$.ssn")


INSIDE = [place("$.data.ssn", request="encrypt")]
ANYWHERE = [place("$..ssn", request="encrypt")]
UTF_16 = b"Content-Type: application/json; charset=utf-16"
BLOB = b'name="data"; filename="blob"'


@pytest.mark.parametrize(
    ("places", "content"),
    [
        (INSIDE, part(b'{"ssn":"x"}', BLOB, JSON)),
        (INSIDE, part(b'{"ssn":"x"}', BLOB, b"Content-Type: application/octet-stream")),
        (INSIDE, part(b'{"ssn":"x"}', BLOB)),
        (INSIDE, part('{"ssn":"x"}'.encode("utf-16"), b'name="data"', UTF_16)),
        (INSIDE, part(b"eyJzc24iOjF9", b'name="data"', JSON, b"Content-Transfer-Encoding: base64")),
        (ANYWHERE, part(b'[{"ssn":"x"}]', BLOB, JSON)),
        (ANYWHERE, part('{"ssn":"x"}'.encode("utf-16"), BLOB, UTF_16)),
        (ANYWHERE, part(b"{", BLOB, JSON)),
    ],
)
def test_a_value_inside_a_part_does_not_pass_because_the_part_is_a_file_or_not_read(places, content):
    assert sent(places, form(content)).code == "payload_malformed"


def test_files_without_a_marked_name_or_value_pass():
    body = form(
        part(b'{"other":"x"}', BLOB, JSON),
        part(b'{"ssn":"x"}', BLOB, b"Content-Type: image/png"),
    )
    assert sent(ANYWHERE, body).body == body
    assert sent([place("$.x.ssn", request="encrypt")], body).body == body


GOOD = part(b"x", b'name="a"')


@pytest.mark.parametrize(
    "body",
    [
        b"x",
        GOOD,
        GOOD + b"--b-7-- ",
        GOOD + b"--b-7",
        form(b"--b-7 \r\n" + GOOD.removeprefix(b"--b-7\r\n")),
        form(GOOD.replace(b"\r\n", b"\n")),
        b"x" + form(GOOD),
        b"a\r\n\r\nb\r\n" + form(GOOD),
        form(GOOD) + b"a\r\n\r\nb",
        form(GOOD) + form(GOOD),
        form(GOOD.removesuffix(b"\r\n") + b"\n", part(b"y")),
        form(GOOD.removesuffix(b"\r\n") + b"\r", part(b"y")),
        form(GOOD.removesuffix(b"\r\n"), part(b"y")),
        form(part(b"x--b-7--y")),
        form(part(b"x\n--b-7\ny")),
        form(part(b"x\r\n--b-77")),
        form(b"--b-7\r\n\r\n" + b"x\r\n"),
        form(b"--b-7\r\nContent-Type: text/plain\r\n\r\nx\r\n"),
        form(b'--b-7\r\nContent-Disposition: form-data; name="a"\r\n'),
        form(part(b"x", b'name="a"; name="ssn"')),
        form(part(b"x", b'filename="ssn"')),
        form(part(b"x", b'name="a\\"; name=\\"ssn"')),
        form(part(b"x", b"name*=utf-8''ssn")),
        form(part(b"x", b'name="a"; x="y"')),
        form(part(b"x", b'name = "ssn"')),
        form(part(b"x", b'name="a\xff"')),
        form(part(b"x", b'name=" ssn"')),
        form(part(b"x", b'name="ssn\t"')),
        form(part(b"x", 'name="ssn\u00a0"'.encode())),
        form(part(b"x", b'name="a%22b"')),
        form(part(b"x", b'name="a"\r\n ; filename="x"')),
        form(part(b"x", b'name="a"', b'Content-Disposition: form-data; name="ssn"')),
        form(part(b"x", b'name="a"', b'Content-Disposition : form-data; name="ssn"')),
        form(part(b"x", b'name="a"', b"X: a\rContent-Type: b")),
        form(part(b"x", b'name="a"', b"X: " + b"y" * 1024)),
        b"--b-7\r\nContent-Disposition: attachment; name=ssn\r\n\r\nx\r\n--b-7--",
    ],
)
def test_a_form_that_could_be_read_in_two_ways_is_refused(body):
    assert sent(DECRYPT, body).code == "payload_malformed"


@pytest.mark.parametrize(
    "kind",
    [
        "multipart/form-data",
        "multipart/form-data; boundary=",
        'multipart/form-data; boundary=""',
        "multipart/form-data; boundary=----",
        "multipart/form-data; boundary=b-7; boundary=b-8",
        "multipart/form-data; boundary*=utf-8''b-7",
        "multipart/form-data; boundary*0=b; boundary*1=-7",
        'multipart/form-data; boundary="b\\-7"',
        'multipart/form-data; boundary="b-7 "',
        "multipart/form-data; boundary=" + "b" * 71,
        "multipart/form-data; boundary=b-7; charset=utf-16",
        'multipart/form-data; x="; boundary=a"; boundary=b-7',
        "multipart/mixed; boundary=b-7",
    ],
)
def test_a_boundary_that_could_be_read_in_two_ways_is_refused(kind):
    assert sent(DECRYPT, form(GOOD), kind).code == "payload_encoding"


def test_a_boundary_may_be_quoted_and_the_charset_said():
    kind = 'Multipart/Form-Data; Charset=utf-8; Boundary="b-7"'
    assert sent(DECRYPT, form(part(token('"x"'))), kind).body == form(part(b"x"))


def test_too_many_parts_are_too_many():
    body = form(*[part(b"", b"name=a")] * ((1 << 14) + 1))
    assert request(DECRYPT, body, headers=((b"content-type", TYPE.encode()),), max_body=2 << 20).code == (
        "payload_too_large"
    )


def test_an_opened_text_that_would_end_its_part_is_refused():
    body = form(
        part(token('"x\\r\\n--b-7\\r\\nContent-Disposition: form-data; name=\\"role\\"\\r\\n\\r\\nroot"'))
    )
    assert sent(DECRYPT, body).code == "payload_malformed"


def test_a_response_that_is_a_multipart_form_is_sealed():
    headers = ((b"content-type", TYPE.encode()),)
    body = response([place("$.ssn", response="encrypt")], form(part(b"x")), headers=headers).body
    assert b"\r\n\r\nsm1." in body


LINES = st.sampled_from(
    [
        b"--b-7",
        b"--b-7--",
        b"--b-7 ",
        b"--b-77",
        b'Content-Disposition: form-data; name="ssn"',
        b'Content-Disposition: form-data; name=" ssn"',
        b'content-disposition:form-data;name=ssn;filename=""',
        b'Content-Disposition: form-data; name="a"; filename="b"',
        b'Content-Disposition: form-data; name="a"',
        b'Content-Disposition: form-data; filename="\\"; name="ssn"',
        b'Content-Disposition: form-data; name="a\\"; name="ssn"',
        b"Content-Type: text/plain",
        b"Content-Type: application/json",
        b"Content-Transfer-Encoding: base64",
        b' ; name="ssn"',
        b"secret",
        b"",
        b"",
        b"\n",
        b"\r",
    ]
)
ENDS = st.sampled_from([b"\r\n"] * 12 + [b"\n", b"\r", b""])
WILD = st.lists(st.tuples(LINES, ENDS).map(b"".join), max_size=16).map(
    lambda lines: b"--b-7\r\n" + b"".join(lines) + b"--b-7--"
)
DISPOSITIONS = st.sampled_from(
    [
        b'name="ssn"',
        b'name="ssn "',
        b'name="a"',
        b"name=ssn",
        b'name="ssn"; filename="x"',
        b'name="b"; filename="x;y"',
    ]
)
TAME = st.lists(
    st.tuples(st.binary(max_size=12) | st.lists(LINES, max_size=3).map(b"\r\n".join), DISPOSITIONS).map(
        lambda both: part(*both)
    ),
    max_size=4,
).map(lambda parts: form(*parts))


# Starlette leaves the files of a form open where it refuses the form.
@pytest.mark.filterwarnings("ignore:.*SpooledTemporaryFile:pytest.PytestUnraisableExceptionWarning")
@pytest.mark.filterwarnings("ignore:Unclosed file:ResourceWarning")
@settings(max_examples=300, deadline=None)
@given(WILD | TAME)
def test_frameworks_see_no_text_at_a_marked_name_that_was_not_sealed(body):
    outcome = sent(ENCRYPT, body)
    if outcome.refusal is not None:
        return
    for name, read in READERS.items():
        found = read(TYPE, outcome.body)
        for key, value in found[0] if found is not None else ():
            assert key != "ssn" or value.startswith("sm1."), (name, outcome.body)
        assert found is None or "ssn" not in found[1], (name, outcome.body)


TEXT = st.text(st.characters(codec="utf-8"), max_size=10).filter(is_no_token)


@settings(deadline=None)
@given(st.lists(st.tuples(st.sampled_from(["ssn", "a", "é"]), TEXT), min_size=1, max_size=4))
def test_frameworks_read_what_was_sealed_and_opened_as_it_was(pairs):
    body = form(*(part(value.encode(), f'name="{name}"'.encode()) for name, value in pairs))
    sealed = sent(ENCRYPT, body).body
    back = sent(DECRYPT, sealed).body
    assert back == body
    wanted = (sorted(pairs, key=lambda pair: pair[0]), [])
    for name, read in READERS.items():
        assert read(TYPE, back) == wanted, name
