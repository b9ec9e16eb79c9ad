"""Tokens sealed anew: under the key that seals now, bound as before, and by whom of closed keys."""

from __future__ import annotations

from dataclasses import replace

import pytest
from encryption.rings import DELAY, RETIRE, rewrite, sealing_key, started, stored

from secmiddleware.encryption.tokens import kid_of
from secmiddleware.errors import KeyUnknown, SealError, TokenError

VALUE = b'"078-05-1120"'


def rotated(manager, clock):
    """Rotates, and lets the new key become primary."""
    kid = manager.rotate()
    clock.forward(DELAY)
    manager.tend()
    return kid


def distrust(store, kid):
    """What an operator does whose key is in other hands."""
    rewrite(
        store,
        lambda document: replace(
            document.reissued(document.issued_at),
            keys=tuple(replace(key, distrusted=key.distrusted or key.kid == kid) for key in document.keys),
        ),
    )


@pytest.mark.parametrize("format_", ["aead", "xaes", "deterministic"])
def test_a_token_of_an_old_key_is_renewed_under_the_key_that_seals(manager, clock, format_):
    old = manager.seal("ssn", VALUE, format=format_)
    new_key = rotated(manager, clock)
    new = manager.rewrap("ssn", old, format=format_)
    assert (kid_of(old.encode()) != new_key, kid_of(new.encode())) == (True, new_key)
    assert manager.open("ssn", new, format=format_) == VALUE


@pytest.mark.parametrize(
    "whose", [{"tenant": "spiffe://a"}, {"caller": "spiffe://a/b"}, {"purpose": "export"}]
)
def test_what_a_token_is_bound_to_is_kept(manager, clock, whose):
    old = manager.seal("ssn", VALUE, **whose)
    rotated(manager, clock)
    for wrong in ({}, {"tenant": "spiffe://b"}, {"caller": "spiffe://a"}, {"purpose": "other"}):
        with pytest.raises(TokenError):
            manager.rewrap("ssn", old, **wrong)
    new = manager.rewrap("ssn", old, **whose)
    assert manager.open("ssn", new, **whose) == VALUE
    with pytest.raises(TokenError):
        manager.open("ssn", new)
    with pytest.raises(TokenError):
        manager.rewrap("iban", old, **whose)


@pytest.mark.parametrize("format_", ["aead", "xaes", "deterministic", "fernet", "jwe"])
def test_a_second_run_changes_nothing_and_takes_no_uses(manager, clock, format_):
    old = manager.seal("ssn", VALUE, format=format_)
    rotated(manager, clock)
    new = manager.rewrap("ssn", old, format=format_)
    assert new != old
    left = manager.status()["keys"][1]["uses_left_here"]
    assert manager.rewrap("ssn", new, format=format_) == new
    assert manager.status()["keys"][1]["uses_left_here"] == left


def test_a_value_that_was_padded_otherwise_is_padded_anew(manager):
    token = manager.seal("ssn", b"1.10", pad=8)
    assert manager.rewrap("ssn", token, pad=8) == token
    longer = manager.rewrap("ssn", token, pad=32)
    assert manager.open("ssn", longer) == b"1.10".ljust(32)
    assert manager.open("ssn", manager.rewrap("ssn", longer, pad=8)) == b"1.10".ljust(8)
    assert manager.rewrap("ssn", longer) == longer


def test_a_forged_token_of_the_primary_key_is_not_handed_back(manager):
    token = manager.seal("ssn", VALUE)
    forged = token[:-8] + ("A" if token[-8] != "A" else "B") + token[-7:]
    with pytest.raises(TokenError):
        manager.rewrap("ssn", forged)


def test_a_token_moves_from_one_format_to_another(manager):
    for before, after in (
        ("fernet", "aead"),
        ("aead", "xaes"),
        ("xaes", "deterministic"),
        ("aead", "fernet"),
    ):
        old = manager.seal("ssn", VALUE, format=before)
        new = manager.rewrap("ssn", old, format=before, to=after)
        assert manager.open("ssn", new, format=after) == VALUE


@pytest.mark.parametrize("format_", ["aead", "xaes", "deterministic", "fernet"])
def test_a_distrusted_key_opens_for_an_operators_rewrap_and_for_nothing_else(make, store, clock, format_):
    manager = started(make)
    kid = sealing_key(manager)
    old = manager.seal("ssn", VALUE, format=format_)
    rotated(manager, clock)
    distrust(store, kid)
    manager.look()
    for refused in (manager.open, manager.rewrap):
        with pytest.raises(TokenError):
            refused("ssn", old, format=format_)
    new = manager.rewrap("ssn", old, format=format_, recover=True)
    assert manager.open("ssn", new, format=format_) == VALUE


def test_nothing_is_sealed_with_a_distrusted_key_though_it_can_be_recovered(make, store):
    manager = started(make)
    old = manager.seal("ssn", VALUE)
    distrust(store, sealing_key(manager))
    manager.look()
    before = stored(store)
    for to in ("xaes", None):
        with pytest.raises(SealError, match="rotate the ring"):
            manager.rewrap("ssn", old, to=to, recover=True)
    assert stored(store) == before


def test_a_retired_key_is_recovered_until_it_is_destroyed(make, clock):
    manager = started(make)
    old_key = sealing_key(manager)
    old = manager.seal("ssn", VALUE)
    rotated(manager, clock)
    clock.forward(RETIRE)
    with pytest.raises(TokenError):
        manager.rewrap("ssn", old)
    assert manager.open("ssn", manager.rewrap("ssn", old, recover=True)) == VALUE
    manager.destroy(old_key)
    with pytest.raises(TokenError):
        manager.rewrap("ssn", old, recover=True)


def test_a_token_of_a_key_that_came_since_opens_without_a_line_after_a_look(make, clock):
    script, service = started(make), started(make)
    rotated(service, clock)
    token = service.seal("ssn", VALUE)
    assert script.open("ssn", token) == VALUE


def test_unknown_keys_do_not_have_the_store_looked_at_without_end(make, store, clock, monkeypatch):
    script, looks = started(make), []
    token = script.seal("ssn", VALUE)
    unknown = token[:7] + ("A" if token[7] != "A" else "B") + token[8:]  # another key id
    monkeypatch.setattr(store, "read_gen", lambda name: looks.append(name) or 1)
    for _ in range(20):
        with pytest.raises(KeyUnknown):
            script.open("ssn", unknown)
    assert len(looks) == 1
