"""Content codings: undone within limits, done again for who takes them."""

import gzip
import json
import time
import tracemalloc
import zlib
from base64 import b64decode

import pytest
from fields.flowing import (
    JSON,
    MAX_BODY,
    exchange,
    having_opened,
    place,
    request,
    response,
    seal,
    unsealed,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from secmiddleware.fields.codings import (
    DecodedTooLarge,
    Undecodable,
    UnknownCoding,
    admits,
    decoded,
    encoded,
    known,
)
from secmiddleware.fields.limits import HeldBytes, Limits
from secmiddleware.fields.rules import Plan
from secmiddleware.messages import Refusal, RequestHead

PROPERTY = settings(max_examples=100, deadline=None)
LIMITS = Limits(MAX_BODY)
NAMES = [b"gzip", b"deflate", b"br", b"zstd"]
EACH = pytest.mark.parametrize("name", NAMES, ids=[name.decode() for name in NAMES])
DECRYPT = [place("$.ssn", request="decrypt")]
SEAL = [place("$.ssn", response="encrypt")]


def coding(*names):
    return tuple((b"content-encoding", name) for name in names)


def test_all_four_codings_are_known_here():
    """The tests' environment has the packages; without one its coding would be unknown."""
    assert set(known()) == {*NAMES, b"x-gzip"}


@given(st.binary(max_size=2000), st.lists(st.sampled_from([*NAMES, b"x-gzip"]), max_size=4))
@PROPERTY
def test_decoding_is_the_inverse_of_encoding(body, names):
    assert decoded(encoded(body, names), names, LIMITS) == body


# Made by gzip and zstd on the command line, and by Node's zlib.
@pytest.mark.parametrize(
    ("name", "told"),
    [
        (b"gzip", "H4sIAAAAAAAAA6tWKi7OU7JSMjC30DUw1TU0NDJQqgUA8uMBnBUAAAA="),
        (b"deflate", "eJyrViouzlOyUjIwt9A1MNU1NDQyUKoFAD4YBTE="),
        (b"deflate", "q1YqLs5TslIyMLfQNTDVNTQ0MlCqBQA="),
        (b"br", "CwqAeyJzc24iOiIwNzgtMDUtMTEyMCJ9Aw=="),
        (b"zstd", "KLUv/QRYqQAAeyJzc24iOiIwNzgtMDUtMTEyMCJ9zn3S/Q=="),
    ],
)
def test_what_others_have_made_is_read(name, told):
    assert decoded(b64decode(told), [name], LIMITS) == b'{"ssn":"078-05-1120"}'


@EACH
@given(st.binary(min_size=1, max_size=300), st.data())
@PROPERTY
def test_what_is_cut_short_or_goes_on_is_not_read(name, body, data):
    packed = encoded(body, [name])
    cut = data.draw(st.integers(1, len(packed) - 1))
    for bad in (packed[:cut], packed + b"\x00", packed + b"{}"):
        with pytest.raises(Undecodable):
            decoded(bad, [name], LIMITS)


@EACH
@given(st.binary(min_size=1, max_size=200))
@PROPERTY
def test_whatever_comes_is_read_or_refused(name, noise):
    try:
        decoded(noise, [name], LIMITS)
    except (Undecodable, DecodedTooLarge):
        return


def test_members_behind_one_another_are_one_body_where_the_format_has_them():
    for name in (b"gzip", b"zstd"):
        pieces = [encoded(piece, [name]) for piece in (b'{"a"', b"", b":1}")]
        assert decoded(b"".join(pieces), [name], LIMITS) == b'{"a":1}'
    for name in (b"deflate", b"br"):
        with pytest.raises(Undecodable):
            decoded(encoded(b"1", [name]) * 2, [name], LIMITS)


@pytest.mark.parametrize("name", [b"gzip", b"zstd"])
def test_more_members_than_anybody_writes_are_refused_at_once(name):
    start = time.thread_time()
    with pytest.raises(Undecodable):
        decoded(encoded(b"", [name]) * 100_000, [name], LIMITS)
    assert time.thread_time() - start < 1
    assert decoded(encoded(b"1", [name]) * 1000, [name], LIMITS) == b"1" * 1000


def test_a_checksum_that_does_not_fit_is_no_body():
    packed = bytearray(gzip.compress(b"x" * 100))
    packed[-5] ^= 1
    with pytest.raises(Undecodable):
        decoded(bytes(packed), [b"gzip"], LIMITS)
    wrapped = bytearray(zlib.compress(b"x" * 100))
    wrapped[-1] ^= 1
    with pytest.raises(Undecodable):
        decoded(bytes(wrapped), [b"deflate"], LIMITS)


@EACH
def test_a_bomb_is_not_unpacked(name):
    bomb = encoded(bytes(64 << 20), [name])
    tracemalloc.start()
    start = time.thread_time()
    with pytest.raises(DecodedTooLarge):
        decoded(bomb, [name], LIMITS)
    taken, (_, peak) = time.thread_time() - start, tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert taken < 1
    assert peak < 8 * MAX_BODY
    nested = encoded(encoded(bytes(64 << 20), [name]), [name])
    with pytest.raises(DecodedTooLarge):
        decoded(nested, [name, name], LIMITS)


@EACH
def test_a_body_of_the_limit_is_read_and_one_byte_more_is_not(name):
    limits = Limits(5000, ratio=1)
    assert len(decoded(encoded(b" " * 5000, [name]), [name], limits)) == 5000
    with pytest.raises(DecodedTooLarge, match=r"service\.max_body"):
        decoded(encoded(b" " * 5001, [name]), [name], limits)


@EACH
def test_the_ratio_holds_from_a_megabyte_on(name):
    limits = Limits(16 << 20, ratio=200)
    assert len(decoded(encoded(bytes(1 << 20), [name]), [name], limits)) == 1 << 20
    with pytest.raises(DecodedTooLarge, match=r"service\.max_ratio"):
        decoded(encoded(bytes(1 << 23), [name]), [name], limits)


@EACH
def test_real_json_is_not_taken_for_a_bomb(name):
    rows = [
        {"id": number, "name": "Ada Lovelace", "status": "active", "balance": 0.0, "tags": [], "at": None}
        for number in range(20_000)
    ]
    body = json.dumps(rows).encode()
    assert len(body) > 1 << 20
    assert decoded(encoded(body, [name]), [name], Limits(4 << 20)) == body


def test_a_window_that_the_coding_does_not_allow_is_refused():
    zstd = pytest.importorskip("backports.zstd", reason="Python's own from 3.14 on")
    options = {zstd.CompressionParameter.window_log: 27}
    packed = zstd.compress(b"0123456789abcdef" * (1 << 20), options=options)
    with pytest.raises(Undecodable):
        decoded(packed, [b"zstd"], Limits(1 << 30, ratio=100_000))


def test_what_nobody_knows_and_too_many_are_unknown():
    for names in ([b"compress"], [b"gzip", b"x"], [b"gzip;q=1"], [b"aes128gcm"], [b"gzip"] * 5):
        with pytest.raises(UnknownCoding):
            decoded(b"", names, LIMITS)


@pytest.mark.parametrize(
    ("accepted", "names", "taken"),
    [
        ([], [b"gzip"], False),
        ([b""], [b"gzip"], False),
        ([b"gzip"], [b"gzip"], True),
        ([b"GZIP"], [b"x-gzip"], True),
        ([b"x-gzip"], [b"gzip"], True),
        ([b"br, gzip;q=0.1"], [b"gzip"], True),
        ([b"br", b"gzip ; q=1.0"], [b"br", b"gzip"], True),
        ([b"gzip;q=0"], [b"gzip"], False),
        ([b"gzip;q=0.000, *"], [b"gzip"], False),
        ([b"*"], [b"br"], True),
        ([b"*;q=0"], [b"br"], False),
        ([b"identity"], [b"gzip"], False),
        ([b"gzip;q=x"], [b"gzip"], False),
        ([b"gzip;x=1"], [b"gzip"], False),
        ([b"gzip;q=0, gzip"], [b"gzip"], False),
        ([b"gzip"], [b"gzip", b"br"], False),
        ([], [], True),
    ],
)
def test_what_a_caller_takes_is_what_it_says(accepted, names, taken):
    assert admits(accepted, names) is taken


@EACH
def test_a_body_is_opened_under_its_coding_in_any_pieces(name):
    body = b'{"ssn":%s}' % seal('"078-05-1120"')
    packed = encoded(body, [name])
    for size in (1, 7, len(packed)):
        pieces = [packed[at : at + size] for at in range(0, len(packed), size)]
        sent = request(DECRYPT, *pieces, headers=(*JSON, *coding(name)))
        assert sent.body == b'{"ssn":"078-05-1120"}'
        assert sent.headers == (*JSON, (b"content-length", b"21"))


def test_a_body_without_a_hit_loses_its_coding_too():
    """What was looked at is what the app gets: not what another unpacker may make of it."""
    sent = request(DECRYPT, gzip.compress(b'{"x":1}'), headers=(*JSON, *coding(b"gzip")))
    assert (sent.body, sent.values(b"content-encoding")) == (b'{"x":1}', [])


def test_an_empty_body_under_a_coding_passes():
    sent = request(DECRYPT, headers=coding(b"gzip"), length=False)
    assert (sent.body, sent.headers) == (b"", coding(b"gzip"))


def test_an_unpacked_body_is_held_and_counts_with_all_others():
    held = HeldBytes(100_000)
    plan = Plan.compile(DECRYPT, Limits(MAX_BODY, held))
    packed = gzip.compress(b" " * 150_000)
    head = RequestHead("http", "POST", "https", "/", headers=coding(b"gzip"))
    flow = plan.request_flow(exchange())
    assert [*flow.start(head), *flow.feed(packed)] == []
    assert list(flow.finish(complete=True)) == [Refusal("payload_too_large", "service.max_held")]
    assert held.total == flow.held == 0


def accepting(value, **arguments):
    within = exchange(**arguments)
    within.head = RequestHead("http", "GET", "https", "/", headers=((b"accept-encoding", value),))
    return within


@EACH
def test_a_response_is_sealed_under_its_coding_and_packed_again(name):
    body = b'{"ssn":"078-05-1120","x":1}'
    answer = response(SEAL, encoded(body, [name]), headers=(*JSON, *coding(name)), within=accepting(name))
    assert answer.values(b"content-encoding") == [name]
    assert answer.values(b"content-length") == [b"%d" % len(answer.body)]
    assert answer.values(b"vary") == [b"Accept-Encoding"]
    assert unsealed(decoded(answer.body, [name], LIMITS)) == b'{"ssn":<"078-05-1120">,"x":1}'
    plain = response(SEAL, encoded(body, [name]), headers=(*JSON, *coding(name)), within=accepting(b"x"))
    assert plain.values(b"content-encoding") == []
    assert unsealed(plain.body) == b'{"ssn":<"078-05-1120">,"x":1}'


@EACH
def test_the_leak_guard_looks_under_codings(name):
    guarded = [place("$.t", request="decrypt")]
    page = encoded(b"<p>078-05-1120</p>", [name])
    headers = ((b"content-type", b"text/html"), *coding(name))
    opened, another = (having_opened(guarded, value) for value in (b'"078-05-1120"', b'"078-05-1121"'))
    answer = response(guarded, page, headers=headers, within=opened)
    assert answer.refusal == Refusal("seal_failed", "fields.ssn.leak_guard")
    other = response(guarded, page, headers=headers, within=another)
    assert (other.pieces[0], other.headers) == (page, headers)


def test_a_response_that_cannot_be_unpacked_does_not_leave():
    bomb = gzip.compress(bytes(2 * MAX_BODY))
    headers = (*JSON, *coding(b"gzip"))
    assert response(SEAL, bomb, headers=headers).refusal == Refusal("seal_failed", "service.max_body")
    for bad in (b"{}", gzip.compress(b"{}") + b"{}", gzip.compress(b"{}")[:-1]):
        assert response(SEAL, bad, headers=headers).refusal == Refusal("seal_failed", "content-encoding")
    redirect = (*headers, (b"location", b"/new"))
    assert response(SEAL, b"<p>", headers=redirect, status=302).body == b""


def test_a_head_says_the_coding_that_the_answer_would_have():
    headers = (*JSON, *coding(b"gzip"))
    for value, kept in ((b"gzip", [b"gzip"]), (b"br", [])):
        answer = response(SEAL, headers=headers, method="HEAD", within=accepting(value))
        assert answer.values(b"content-encoding") == kept
