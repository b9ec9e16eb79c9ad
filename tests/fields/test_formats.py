"""Formats side by side in a field: what it opens, Fernet from elsewhere, texts, and deterministic tokens."""

from __future__ import annotations

import json

import msgspec
import pytest
from cryptography.fernet import Fernet, MultiFernet
from fields.flowing import NOW, RING, caller, exchange, is_no_token, place, request, seal, unseal
from hypothesis import given
from hypothesis import strategies as st

from secmiddleware.encryption.fernet import ListedFernet
from secmiddleware.encryption.keyring import Context
from secmiddleware.encryption.tokens import kid_of
from secmiddleware.fields.values import FieldRule, ValueWork
from secmiddleware.messages import Refusal

SSN = b'"078-05-1120"'
FORMATS = ("aead", "xaes", "deterministic", "fernet")
UNDECRYPTABLE = Refusal("field_undecryptable", "$.ssn")

KEYS = [Fernet.generate_key().decode() for _ in range(3)]
LISTED = ListedFernet(KEYS[:2])
MOVING = {"also_open": ("fernet",), "listed": LISTED, "encoding": "text"}
"""A field of an app that had MultiFernet."""


def foreign(value: bytes, key: int = 1) -> bytes:
    return b'"' + Fernet(KEYS[key]).encrypt(value) + b'"'


def asked(value, *, within=None, action="decrypt", **field):
    """What the app gets for a value: its bytes, or the refusal."""
    work = ValueWork(exchange() if within is None else within)
    return work.on_request(place("$.ssn", request=action, **field), value, "$.ssn")


def shown(value, **field):
    """What a caller who may have plaintext gets of what the app stores."""
    work = ValueWork(exchange(revealed=["ssn"]))
    return work.on_response(place("$.ssn", response="decrypt", otherwise="mask", **field), value, "$.ssn")


# Formats.


@pytest.mark.parametrize("sealed", FORMATS)
@pytest.mark.parametrize("own", ["aead", "xaes", "deterministic"])
@pytest.mark.parametrize("also", FORMATS)
def test_a_field_opens_its_own_format_and_what_it_also_opens(sealed, own, also):
    found = shown(seal(SSN, format=sealed), format=own, also_open=(also,))
    if sealed in (own, also):
        assert found == SSN
    else:
        assert isinstance(found, Refusal)


@pytest.mark.parametrize("own", ["xaes", "deterministic"])
def test_what_a_field_seals_is_of_its_own_format(own):
    work = ValueWork(exchange())
    rule = place(
        "$.ssn", request="encrypt", response="decrypt", format=own, also_open=("aead",), otherwise="mask"
    )
    token = work.on_request(rule, SSN, "$.ssn")
    assert unseal(token, format=own) == SSN
    assert work.report.sealed == 1
    assert work.report.kids == {kid_of(token[1:-1])}


@pytest.mark.parametrize("own", ["aead", "xaes"])
@pytest.mark.parametrize("sealed", FORMATS[:3])
def test_a_token_of_whatever_suite_is_never_sealed_again(own, sealed):
    token = seal(SSN, format=sealed)
    found = asked(token, action="encrypt", format=own, already_sealed="skip")
    assert found == (token if own == sealed else UNDECRYPTABLE)


def test_a_token_of_a_suite_that_nobody_knows_is_neither_opened_nor_sealed():
    token = b'"sm1.BA' + seal(SSN)[7:]
    for action in ("decrypt", "encrypt"):
        assert asked(token, action=action, also_open=("xaes",), already_sealed="skip") == UNDECRYPTABLE


def test_what_looks_like_fernet_is_any_text_where_no_fernet_is_due():
    token = asked(foreign(b"1"), action="encrypt")
    assert unseal(token).startswith(b'"gAAAA')


@pytest.mark.parametrize(
    "ways",
    [
        {"request": "decrypt"},
        {"response": "encrypt"},
        {"request": "encrypt", "response": "encrypt", "otherwise": "mask"},
        {"request": "encrypt", "response": "decrypt"},  # otherwise = "token"
    ],
    ids=str,
)
@pytest.mark.parametrize("formats", [{"format": "deterministic"}, {"also_open": ("deterministic",)}], ids=str)
def test_no_place_can_be_made_where_callers_receive_deterministic_tokens(ways, formats):
    with pytest.raises(ValueError, match="deterministic"):
        place("$.ssn", **ways, **formats)
    for otherwise in ("mask", "null", "refuse"):
        place("$.ssn", request="encrypt", response="decrypt", otherwise=otherwise, **formats)


def test_an_app_finds_equal_values_by_their_tokens_and_only_of_one_tenant():
    field = {"format": "deterministic", "otherwise": "mask", "bind": "tenant"}

    def stored(spiffe_id):
        return asked(SSN, action="encrypt", within=exchange(identity=caller(spiffe_id)), **field)

    one, same, other = map(stored, ("spiffe://a.example/x", "spiffe://a.example/y", "spiffe://b.example/x"))
    assert one == same != other
    context = Context("ssn", tenant="spiffe://a.example", format="deterministic")
    assert one[1:-1] in RING.equality_tokens(SSN, context, NOW)


# Fernet from elsewhere.


@pytest.mark.parametrize("key", [0, 1])
def test_tokens_of_multifernet_users_open_as_they_are(key):
    assert asked(foreign(b"078-05-1120", key), **MOVING) == SSN
    assert shown(foreign(b"078-05-1120", key), **MOVING) == SSN
    assert shown(foreign(SSN, key), **(MOVING | {"encoding": "json"})) == SSN


def test_a_token_of_a_key_that_is_not_listed_does_not_open():
    assert asked(foreign(b"078-05-1120", 2), **MOVING) == UNDECRYPTABLE


def test_listed_keys_open_nothing_where_the_field_opens_no_fernet():
    assert asked(foreign(SSN), listed=LISTED) == UNDECRYPTABLE


def test_the_rings_own_fernet_tokens_open_beside_those_from_elsewhere():
    assert asked(seal(b"078-05-1120", format="fernet"), **MOVING) == SSN
    work = ValueWork(exchange())
    rule = place("$.ssn", request="encrypt", format="fernet", listed=LISTED)
    token = work.on_request(rule, SSN, "$.ssn")
    # And what is sealed as Fernet is sealed with the ring's key, never with a listed one.
    assert unseal(token, format="fernet") == SSN
    assert LISTED.open(token[1:-1]) is None


def test_a_token_from_elsewhere_opens_before_a_ring_was_read():
    assert asked(foreign(b"1"), within=exchange(ring=None), **MOVING) == b'"1"'


def test_a_token_from_elsewhere_is_never_renewed_in_passing():
    """It is bound to nothing: whoever may post it would choose what it is bound to."""
    token = foreign(b"078-05-1120")
    kept = MOVING | {"already_sealed": "skip", "rewrap": True}
    assert asked(token, action="encrypt", **kept) == token
    work = ValueWork(exchange())
    assert work.on_response(place("$.ssn", response="encrypt", **kept), token, "$.ssn") == token
    assert (work.report.opened, work.report.sealed) == (1, 0)


def test_what_was_opened_of_a_token_from_elsewhere_is_guarded():
    within = exchange()
    asked(foreign(b"078-05-1120"), within=within, **MOVING)
    assert within.opened == [("ssn", SSN)]


def test_a_whole_request_with_a_token_from_elsewhere_reaches_the_app():
    token = MultiFernet([Fernet(key) for key in KEYS]).encrypt('zwölf "12"'.encode())
    plan = place("$.ssn", request="decrypt", response="encrypt", **MOVING)
    body = b'{"id":1.10, "ssn" : "%s"}' % token
    outcome = request([plan], body)
    assert outcome.body == '{"id":1.10, "ssn" : "zwölf \\"12\\""}'.encode()


# Texts.


@given(st.text().filter(is_no_token))
def test_a_text_comes_back_as_it_was(text):
    literal = msgspec.json.encode(text)
    token = asked(literal, action="encrypt", encoding="text")
    assert unseal(token) == text.encode()
    assert shown(token, encoding="text") == literal


def test_escapes_are_not_part_of_a_text():
    token = asked(b'"\\u0061\\/\\n"', action="encrypt", encoding="text")
    assert unseal(token) == b"a/\n"
    assert json.loads(shown(token, encoding="text")) == "a/\n"


@pytest.mark.parametrize("value", [b"null", b"1", b"true", b"[]", b"{}", b'["a"]', b'"\\ud800"'])
def test_nothing_but_a_text_is_sealed_as_one(value):
    assert asked(value, action="encrypt", encoding="text") == Refusal("payload_malformed", "$.ssn")
    work = ValueWork(exchange())
    rule = place("$.ssn", response="encrypt", encoding="text")
    assert work.on_response(rule, value, "$.ssn") == Refusal("seal_failed", "$.ssn")


@pytest.mark.parametrize("text", [b'x","admin":true,"y":"', b"</script>\n", b"\x00\x1f\\", b'"'])
def test_a_text_cannot_break_out_of_its_string(text):
    found = asked(foreign(text), **MOVING)
    assert json.loads(found) == text.decode()


@pytest.mark.parametrize("text", [b"\xff", b"\xed\xa0\x80", b"\xc0\x80"])
def test_bytes_that_are_no_text_do_not_open(text):
    assert asked(foreign(text), **MOVING) == UNDECRYPTABLE


def test_what_is_no_json_does_not_open_where_json_is_due():
    assert asked(foreign(b"078-05-1120 x"), **(MOVING | {"encoding": "json"})) == UNDECRYPTABLE


@pytest.mark.parametrize("text", ["sm1.AQ", "gAAAA" + "A" * 100])
def test_a_text_that_looks_like_a_token_is_not_sealed(text):
    kept = asked(json.dumps(text).encode(), action="encrypt", already_sealed="skip", **MOVING)
    assert kept == UNDECRYPTABLE
    assert asked(json.dumps(text).encode(), action="encrypt", **MOVING).code == "field_missing"


def test_bound_fields_take_no_fernet():
    with pytest.raises(ValueError, match="Fernet"):
        FieldRule("ssn", bind="tenant", also_open=("fernet",), listed=LISTED)


def test_no_listed_key_stands_in_the_repr_of_a_rule():
    for text in (repr(FieldRule("ssn", **MOVING)), repr(place("$.ssn", **MOVING))):
        assert not any(key in text for key in KEYS)
