"""Forms: which pairs a mark selects, how a text stands for a value, and that frameworks see what we see."""

import json
from urllib.parse import quote, quote_plus

import pytest
from fields.flowing import exchange, is_no_token, place, request, response, seal, unseal
from fields.form_readers import READERS
from hypothesis import given, settings
from hypothesis import strategies as st

from secmiddleware.messages import Refusal

FORM = ((b"content-type", b"application/x-www-form-urlencoded"),)


def decrypt(*marks, **field):
    return [place(*marks, request="decrypt", **field)]


def encrypt(*marks, **field):
    return [place(*marks, request="encrypt", **field)]


def token(value, **context):
    return seal(value, **context)[1:-1]


def opened(places, body):
    return request(places, body, headers=FORM).body


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ('"123-45-6789"', b"123-45-6789"),
        ('"a b&c=\\u00e9;+%"', b"a+b%26c%3D%C3%A9%3B%2B%25"),
        ("1.10", b"1.10"),
        ("true", b"true"),
        ("null", b""),
        ('{"a": [1]}', b"%7B%22a%22%3A+%5B1%5D%7D"),
        ('""', b""),
    ],
)
def test_a_token_in_a_form_opens_to_the_text_of_its_value(value, text):
    assert opened(decrypt("$.ssn"), b"ssn=" + token(value)) == b"ssn=" + text


def test_every_other_pair_stays_as_it_was_spelled():
    before = b"&a=%c3%A9+x&&=&b&%zz=%&c=%ff&d=\xc3\xa9&"
    body = before + b"s%73n=" + token('"x"') + before
    assert opened(decrypt("$.ssn"), body) == before + b"s%73n=x" + before


def test_a_form_without_a_marked_name_is_the_very_same():
    body = b"a=1&b=2"
    assert request(decrypt("$.ssn"), body, headers=FORM).body is body


@pytest.mark.parametrize("mark", ["$.ssn", "$..ssn", "$.ssn[*]", "$[*]", "$['ssn']", "$..ssn[*]"])
def test_a_mark_selects_every_pair_of_its_name(mark):
    body = b"ssn=%b&ssn=%b" % (token('"x"'), token('"y"'))
    assert opened(decrypt(mark), body) == b"ssn=x&ssn=y"


def test_an_index_selects_one_of_several_pairs():
    body = b"tags=a&tags=%b&tags=c" % token('"b"')
    assert opened(decrypt("$.tags[1]"), body) == b"tags=a&tags=b&tags=c"


@pytest.mark.parametrize("mark", ["$.customer.ssn", "$.ssn.x", "$.ssn[1]", "$.people[*].ssn", "$.ssn[*][*]"])
def test_a_mark_of_what_a_form_has_not_selects_nothing(mark):
    assert opened(decrypt(mark), b"ssn=a&customer=b&people=c") == b"ssn=a&customer=b&people=c"


BLANKS = [char for char in map(chr, range(0x110000)) if char.isspace()]


@pytest.mark.parametrize(
    "text",
    [
        b'{"ssn":1}',
        b"%7B%22ssn%22:1}",
        b"+[1]",
        b"%EF%BB%BF{",
        pytest.param(quote("".join(BLANKS)).encode() + b"{", id="behind all that Python strips"),
    ],
)
def test_a_text_that_an_app_could_read_as_json_with_a_mark_inside_is_refused(text):
    refusal = request(decrypt("$.customer.ssn"), b"a=1&customer=" + text, headers=FORM).refusal
    assert (refusal.code, refusal.where) == ("payload_malformed", "$.customer.ssn")
    assert opened(decrypt("$.customer.ssn"), b"a=1&other=" + text) == b"a=1&other=" + text


def test_a_name_with_brackets_is_a_name():
    body = b"customer%5Bssn%5D=" + token('"x"')
    assert opened(decrypt("$['customer[ssn]']"), body) == b"customer%5Bssn%5D=x"


def test_a_text_is_sealed_as_the_json_string_of_it():
    sent = request(encrypt("$.ssn"), b"a=1&ssn=%C3%A9+%22", headers=FORM)
    before, _, sealed = sent.body.partition(b"ssn=")
    assert before == b"a=1&"
    assert unseal(b'"' + sealed + b'"') == '"é \\""'.encode()
    assert sent.values(b"content-length") == [b"%d" % len(sent.body)]


def test_a_name_without_a_value_is_one_with_an_empty_text():
    sent = request(encrypt("$.ssn"), b"ssn&a", headers=FORM).body
    assert sent.endswith(b"&a")
    assert unseal(b'"' + sent.removeprefix(b"ssn=").removesuffix(b"&a") + b'"') == b'""'


def test_a_token_that_is_spelled_in_escapes_opens():
    spelled = b"".join(b"%%%02x" % byte for byte in token('"x"'))
    assert opened(decrypt("$.ssn"), b"ssn=" + spelled) == b"ssn=x"


def test_a_token_in_its_place_stays_as_it_was_spelled():
    body = b"ssn=" + token('"x"').replace(b".", b"%2e")
    assert request(encrypt("$.ssn"), body, headers=FORM).refusal == Refusal("field_missing", "$.ssn")
    places = [place("$.ssn", request="encrypt", already_sealed="skip")]
    assert request(places, body, headers=FORM).body is body


@pytest.mark.parametrize(
    ("body", "code", "where"),
    [
        (b"ssn=plain", "field_undecryptable", "$.ssn"),
        (b"ssn=", "field_undecryptable", "$.ssn"),
        (b"ssn", "field_undecryptable", "$.ssn"),
        (b"ssn=%ff", "payload_malformed", "$.ssn"),
        (b"a=1;ssn=2", "payload_malformed", None),
        (b"%ff=1", "payload_malformed", None),
        (b"\xc3\xa9=1", "payload_malformed", None),
        (b'{"ssn":"plain"}', "payload_malformed", None),
        (b'\xef\xbb\xbf [{"ssn":"plain"}]', "payload_malformed", None),
        (' {"ssn":"plain"}'.encode("utf-16-be"), "payload_malformed", None),
        ('{"ssn":"plain"}'.encode("utf-32-be"), "payload_malformed", None),
        (b"a&" * (1 << 14), "payload_too_large", "fields"),
    ],
)
def test_a_form_that_cannot_be_read_or_opened_does_not_reach_the_app(body, code, where):
    refusal = request(decrypt("$.ssn"), body, headers=FORM).refusal
    assert (refusal.code, refusal.where) == (code, where)


def test_half_a_surrogate_pair_is_no_text():
    refusal = request(decrypt("$.ssn"), b"ssn=" + token('"\\ud800"'), headers=FORM).refusal
    assert (refusal.code, refusal.where) == ("payload_malformed", "$.ssn")


@pytest.mark.parametrize("charset", ["latin-1", "utf-16", '"iso-8859-1"'])
def test_a_form_of_another_charset_is_refused(charset):
    headers = ((b"content-type", f"application/x-www-form-urlencoded; charset={charset}".encode()),)
    assert request(decrypt("$.ssn"), b"ssn=1", headers=headers).code == "payload_encoding"


def test_a_response_that_is_a_form_is_sealed():
    sent = response([place("$.ssn", response="encrypt")], b"a=1&ssn=x+y", headers=FORM)
    assert unseal(b'"' + sent.body.removeprefix(b"a=1&ssn=") + b'"') == b'"x y"'


def test_a_value_that_was_opened_does_not_leave_in_another_pair():
    within = exchange()
    request(decrypt("$.ssn"), b"ssn=" + token('"123-45-6789"'), headers=FORM, within=within)
    places = [place("$.ssn", response="encrypt")]
    sent = response(places, b"ssn=1&echo=123%2d45%2D6789", headers=FORM, within=within)
    assert sent.refusal.where == "fields.ssn.leak_guard"


PIECES = st.sampled_from(
    [
        b"ssn",
        b"s%73n",
        b"S",
        b"=",
        b"&",
        b";",
        b"%",
        b"%7",
        b"%73",
        b"%ff",
        b"%C3%A9",
        b"\xc3\xa9",
        b"+",
        b"a",
    ]
)


@settings(deadline=None)
@given(st.lists(PIECES, max_size=14).map(b"".join))
def test_frameworks_see_no_text_at_a_marked_name_that_was_not_sealed(body):
    sent = request(encrypt("$.ssn"), body, headers=FORM)
    if sent.refusal is not None:
        return
    for name, read in READERS.items():
        form = read("application/x-www-form-urlencoded", sent.body)
        for key, value in form[0] if form is not None else ():
            if key == "ssn":
                unseal(b'"' + value.encode() + b'"')
            assert key != "ssn" or value.startswith("sm1."), (name, sent.body)


@settings(deadline=None)
@given(st.lists(st.tuples(st.sampled_from(["ssn", "a", "é", ""]), st.text().filter(is_no_token)), max_size=6))
def test_frameworks_read_what_was_sealed_and_opened_as_it_was(pairs):
    pairs = [(k, v.encode("utf-8", "replace").decode("utf-8")) for k, v in pairs]
    body = "&".join(f"{quote_plus(k)}={quote_plus(v)}" for k, v in pairs).encode()
    sealed = request(encrypt("$.ssn"), body, headers=FORM).body
    assert sealed.count(b"sm1.") >= sum(key == "ssn" for key, _ in pairs) or not pairs
    back = request(decrypt("$.ssn"), sealed, headers=FORM).body
    wanted = sorted(pairs, key=lambda pair: pair[0])
    for name, read in READERS.items():
        form = read("application/x-www-form-urlencoded", back)
        assert form == (wanted, []), (name, json.dumps(back.decode()))
