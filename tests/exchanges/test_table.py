"""The table itself: that it leaves nothing out, and that its own means are worth something."""

from __future__ import annotations

import dataclasses

import pytest

from exchanges.outcome import Outcome, check, check_record, check_seen
from exchanges.people import BYTES_ONLY, DIES_IN_TLS
from exchanges.sockets import socket_rows
from exchanges.table import Exchange, configs, rows
from exchanges.world import World
from secmiddleware.encryption.keyring import looks_like_token
from secmiddleware.messages import STATUS_OF, Refusal
from secmiddleware.telemetry.observer import ExchangeRecord

NOT_IN_THIS_VERSION = {
    "certificate_revoked": "lists of revoked certificates are refused by the settings",
    "revocation_unavailable": "lists of revoked certificates are refused by the settings",
    "length_required": "these servers all tell the end of a body; for those that do not: tests/wsgi",
}


def test_every_code_has_a_row_or_a_reason() -> None:
    produced = {row.expect.code for row in rows()} - {None}
    assert produced | set(NOT_IN_THIS_VERSION) == set(STATUS_OF)
    assert not produced & set(NOT_IN_THIS_VERSION)


def test_every_config_and_every_certificate_is_used(world: World) -> None:
    assert {row.config for row in (*rows(), *socket_rows())} == set(configs())
    people = set(world.people.minted) | set(BYTES_ONLY)
    assert {row.presented for row in rows()} - {""} <= people
    assert people - {row.presented for row in rows()} == set()
    assert set(world.people.minted) >= DIES_IN_TLS


def test_every_refusal_before_the_app_says_that_the_app_is_not_called() -> None:
    after_the_app = {"seal_failed", "internal_error", "identity_not_allowed", "key_unknown"}
    for row in rows():
        if row.expect.app_saw is not None and row.expect.code is not None:
            assert row.expect.code in after_the_app, row.name


def _a_row(name: str) -> Exchange:
    return next(row for row in rows() if row.name == name)


def _outcome(row: Exchange, body: str) -> Outcome:
    return Outcome(row.expect.status, tuple(row.expect.headers.items()), (body.encode(),))


SEALED = "a value in the response is sealed, and every other byte stays"
KEPT = "at rest, a token that comes back goes on as it is"


@pytest.mark.parametrize(
    "body",
    [
        '{ "ssn" : "123-45-6789", "n":1.10, "big":12345678901234567890.123 ,"d":1,"d":2}',
        '{ "ssn" : "<<seal ssn "078-05-1120">>", "n":1.10, "big":12345678901234567890.123 ,"d":1,"d":2}',
        '{ "ssn" : "<<seal ssn "123-45-6789">>", "n":1.1, "big":12345678901234567890.123 ,"d":1,"d":2}',
        '{ "ssn" : "<<seal ssn "123-45-6789">>", "n":1.10, "big":12345678901234567890.123 ,"d":1,"d":2} ',
    ],
)
def test_another_body_than_the_expected_one_is_noticed(world: World, body: str) -> None:
    row = _a_row(SEALED)
    with pytest.raises(Exception):  # noqa: B017, PT011  (an assertion, or the token that does not open)
        check(world, row, _outcome(row, world.fill(row, body)))


def test_the_expected_body_is_taken_for_it(world: World) -> None:
    row = _a_row(SEALED)
    body = row.expect.body or ""
    check(world, row, _outcome(row, world.fill(row, body.replace("<<token", "<<seal"))))


def test_a_status_a_piece_a_length_and_a_broken_end_are_noticed(world: World) -> None:
    row = _a_row("where nothing is marked, a response streams as it comes")
    good = Outcome(
        200, (("content-type", "text/event-stream"),), tuple(map(str.encode, row.expect.pieces or ()))
    )
    check(world, row, good)
    for wrong in (
        dataclasses.replace(good, status=201),
        dataclasses.replace(good, pieces=(good.body,)),
        dataclasses.replace(good, headers=(*good.headers, ("content-length", "1"))),
        dataclasses.replace(good, headers=good.headers * 2),
        dataclasses.replace(good, broken=True),
    ):
        with pytest.raises(AssertionError):
            check(world, row, wrong)


def test_a_problem_that_says_more_or_something_else_is_noticed(world: World) -> None:
    row = _a_row("plaintext where a token is due is refused")
    head, body = Refusal("field_undecryptable", "$.ssn").problem("0" * 32)
    headers = tuple((name.decode(), value.decode()) for name, value in head.headers)
    check(world, row, Outcome(400, headers, (body,)))
    for wrong in (
        body.replace(b"field_undecryptable", b"field_missing"),
        body.replace(b"$.ssn", b"$.people"),
        body.replace(b'"where": "$.ssn"', b'"detail": "123-45-6789"'),
        body.replace(b"}", b', "reason": "bad tag"}'),
    ):
        assert wrong != body
        longer = tuple((n, str(len(wrong)) if n == "content-length" else v) for n, v in headers)
        with pytest.raises(AssertionError):
            check(world, row, Outcome(400, longer, (wrong,)))


def test_an_app_that_is_called_or_not_called_is_noticed(world: World) -> None:
    refused = _a_row("plaintext where a token is due is refused")
    with pytest.raises(AssertionError):
        check_seen(world, refused, [{"headers": [], "body": ""}])
    admitted = _a_row("a good certificate is let in, and the app sees whose it is")
    for seen in ([], [{"headers": [], "presented": None, "sub": None}] * 2):
        with pytest.raises(AssertionError):
            check_seen(world, admitted, seen)


def test_an_observer_that_is_told_something_else_is_noticed() -> None:
    refused = _a_row("plaintext where a token is due is refused")
    check_record(refused, ExchangeRecord(400, Refusal("field_undecryptable", "$.ssn")))
    for record in (ExchangeRecord(400, Refusal("field_missing")), ExchangeRecord(200), ExchangeRecord(None)):
        with pytest.raises(AssertionError):
            check_record(refused, record)


def test_a_forged_and_a_strange_token_are_tokens_in_form_and_differ_from_each_other(world: World) -> None:
    row = _a_row(KEPT)
    kinds = [world.fill(row, f'<<{verb} iban "x">>') for verb in ("seal", "forge", "strange")]
    assert all(looks_like_token(kind.encode()) for kind in kinds)
    assert len({len(kind) for kind in kinds}) == 1
    assert len(set(kinds)) == 3
    assert world.fill(row, '<<seal iban "x">>') == kinds[0]
