"""`secmiddleware keys`: what an operator sees of the ring, and how a key is added to it or distrusted."""

from __future__ import annotations

import fcntl
import json
import os
import re
import termios
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from cli.command import OURS, change, changed, inside, run, running, tree, until
from secmiddleware import SecurityManager
from secmiddleware.encryption.tokens import kid_of
from secmiddleware.errors import TokenError


def secrets_of(config: Path) -> list[str]:
    """What stands in the ring's document and is nobody's business, as it stands there."""
    document = json.loads((config.parent / "state" / "keyring.json").read_text())
    return [document["root"], document["mac"], *(key["wrapped"] for key in document["keys"])]


def test_the_list_has_a_line_for_each_key_and_no_secret(config: Path) -> None:
    before = tree(config.parent)
    done = run("keys", "list", cwd=config.parent)
    assert (done.status, done.err) == (0, "")
    ring, header, *rows = done.out.splitlines()
    assert re.fullmatch(r"ring app, generation 1, issued \d{4}-\d\d-\d\d \d\d:\d\d:\d\d", ring)
    assert re.split(r"\s{2,}", header) == [
        "KEY",
        "STATE",
        "CREATED",
        "SEALS FROM",
        "RETIRES",
        "USES RESERVED",
    ]
    assert len(rows) == 1
    assert re.fullmatch(r"[0-9a-f]{8} +primary +(\d{4}-\S+ \S{8} +){2}- +1", rows[0])
    assert not [secret for secret in secrets_of(config) if secret in done.printed]
    assert tree(config.parent) == before


def test_the_list_is_had_as_json(config: Path) -> None:
    done = inside("keys", "list", "--json", config=config)
    assert (done.status, done.err) == (0, "")
    assert (done.json["ring"], done.json["gen"], done.json["alarms"]) == ("app", 1, {})
    (key,) = done.json["keys"]
    assert set(key) == {
        "kid",
        "state",
        "created_at",
        "activate_at",
        "retire_at",
        "destroyed_at",
        "distrusted",
        "uses_reserved",
        "uses_left_here",
    }
    assert not [secret for secret in secrets_of(config) if secret in done.printed]


def test_a_rotation_adds_a_key_and_a_second_one_is_refused(config: Path, tmp_path: Path) -> None:
    copy = changed(config, tmp_path / "copy")
    old = inside("keys", "list", "--json", config=copy).json["keys"][0]
    token = inside("fields", "seal", "ssn", config=copy, stdin=b"1.10").stdout
    rotated = run("keys", "rotate", cwd=copy.parent)
    assert (rotated.status, rotated.err) == (0, "")
    said = re.fullmatch(r"key ([0-9a-f]{8}) is published, and seals from (.{19}) UTC on\n", rotated.out)
    assert said is not None, rotated.out
    assert not [secret for secret in secrets_of(copy) if secret in rotated.printed]

    keys = inside("keys", "list", "--json", config=copy).json["keys"]
    assert [(key["kid"], key["state"]) for key in keys] == [
        (old["kid"], "primary"),
        (said[1], "pending"),
    ]
    created, active = (datetime.fromisoformat(keys[1][name]) for name in ("created_at", "activate_at"))
    assert active - created == timedelta(minutes=5)
    assert f"{active:%F %T}" == said[2]

    before = tree(copy.parent)
    again = run("keys", "rotate", cwd=copy.parent)
    assert (again.status, again.out) == (1, "")
    assert re.match(r"Error: .+\n\Z", again.err)
    assert tree(copy.parent) == before
    # Sealed with the key that is in force, not with the one that waits; and the old one opens.
    assert inside("fields", "open", "ssn", config=copy, stdin=token).out == "1.10\n"


@pytest.mark.parametrize(
    "words",
    [
        ["keys", "list"],
        ["keys", "list", "--json"],
        ["keys", "rotate"],
        ["keys", "distrust", "00000000", "--yes"],
    ],
)
@pytest.mark.parametrize("lack", ["no [keys]", "memory:", "no ring yet"])
def test_where_there_is_no_ring_none_is_made(
    config: Path, tmp_path: Path, lack: str, words: list[str]
) -> None:
    copy = changed(config, tmp_path / "copy")
    for file in (copy.parent / "state").glob("keyring.json*"):
        file.unlink()
    text = copy.read_text()
    match lack:
        case "no [keys]":
            copy.write_text(text[: text.index("[keys]")])
            told = "keys: is missing: these settings have no key ring"
        case "memory:":
            change(copy, ("file:state/keyring.json", "memory:"))
            told = 'keys.store: "memory:" lives and dies with the process that serves'
        case _:
            told = "keys.store: there is no ring app yet"
    before = tree(copy.parent)
    result = inside(*words, config=copy)
    assert (result.status, result.out) == (1, "")
    assert f"{copy}: {told}" in result.err
    assert result.err.endswith("\n1 mistake.\n")
    assert tree(copy.parent) == before


def test_a_forged_ring_is_not_listed_and_not_rotated(config: Path, tmp_path: Path) -> None:
    copy = changed(config, tmp_path / "copy")
    change(copy.parent / "state" / "keyring.json", ('"distrusted":false', '"distrusted":true'))
    before = tree(copy.parent)
    for words in (["list"], ["rotate"], ["distrust", "00000000", "--yes"]):
        done = inside("keys", *words, config=copy)
        assert (done.status, done.out) == (1, "")
        assert re.match(r"Error: .+\n\Z", done.err)
    assert tree(copy.parent) == before


def test_mistakes_in_the_settings_are_named(config: Path, tmp_path: Path) -> None:
    copy = changed(config, tmp_path / "copy", ('client = "required"', 'client = "requierd"'))
    done = inside("keys", "list", config=copy)
    assert (done.status, done.out) == (1, "")
    assert f"{copy}:8: mtls.client: " in done.err


def published(config: Path, kid: str) -> dict[str, Any]:
    """What the list says of a key."""
    return next(
        key for key in inside("keys", "list", "--json", config=config).json["keys"] if key["kid"] == kid
    )


def replaced(config: Path) -> tuple[str, bytes]:
    """A copy's first key, after the second has begun to seal, and a token of the first."""
    change(config, ('activation_delay = "5m"', 'activation_delay = "2s"'), ('poll = "30s"', 'poll = "250ms"'))
    token = inside("fields", "seal", "ssn", config=config, stdin=b"1.10").stdout
    kid = kid_of(token.strip())
    assert inside("keys", "rotate", config=config).status == 0
    until(lambda: published(config, kid)["state"] == "decrypt_only", "the new key seals")
    return kid, token


def test_a_distrusted_key_opens_nothing_any_more_and_its_values_are_renewed(
    config: Path, tmp_path: Path
) -> None:
    copy = changed(config, tmp_path / "copy")
    kid, token = replaced(copy)
    done = run("keys", "distrust", kid, "--yes", cwd=copy.parent)
    gen = inside("keys", "list", "--json", config=copy).json["gen"]
    assert (done.status, done.err) == (0, "")
    assert done.out == f"key {kid} is distrusted, from generation {gen} of ring app on\n"
    assert not [secret for secret in secrets_of(copy) if secret in done.printed]

    rows = inside("keys", "list", config=copy).out.splitlines()[2:]
    assert [re.split(r"\s{2,}", row)[:2][1] for row in rows] == ["decrypt_only (distrusted)", "primary"]
    refused = inside("fields", "open", "ssn", config=copy, stdin=token)
    assert (refused.status, refused.err) == (1, "Error: the token does not open here\n")
    renewed = inside("fields", "rewrap", "ssn", config=copy, stdin=token).stdout
    assert inside("fields", "open", "ssn", config=copy, stdin=renewed).out == "1.10\n"

    before = tree(copy.parent)
    again = inside("keys", "distrust", kid, config=copy)
    assert (again.status, again.out) == (0, f"key {kid} is distrusted already\n")
    assert tree(copy.parent) == before


def test_the_key_that_seals_is_distrusted_only_with_a_rotation(config: Path, tmp_path: Path) -> None:
    copy = changed(config, tmp_path / "copy")
    token = inside("fields", "seal", "ssn", config=copy, stdin=b"1.10").stdout
    kid = kid_of(token.strip())
    before = tree(copy.parent)
    refused = inside("keys", "distrust", kid, "--yes", config=copy)
    assert (refused.status, refused.out) == (1, "")
    assert f"key {kid} of ring app seals now: rotate the ring, " in refused.err
    assert "--rotate" in refused.err
    assert tree(copy.parent) == before

    done = inside("keys", "distrust", kid, "--rotate", "--yes", config=copy)
    assert done.status == 0
    said = re.fullmatch(
        rf"key {kid} is distrusted, from generation \d+ of ring app on\n"
        r"nothing is sealed until (.{19}) UTC, when key ([0-9a-f]{8}) begins to\n",
        done.out,
    )
    assert said is not None, done.out
    new = published(copy, said[2])
    assert (new["state"], new["activate_at"][:19].replace("T", " ")) == ("pending", said[1])
    assert inside("fields", "open", "ssn", config=copy, stdin=token).status == 1
    nothing = inside("fields", "seal", "ssn", config=copy, stdin=b"1.10")
    assert (nothing.status, nothing.out) == (1, "")
    assert f"key {kid} of ring app may not be used" in nothing.err


@pytest.mark.parametrize(
    ("answer", "goes_on"), [("y\n", True), ("n\n", False), ("\n", False), ("\x04", False), ("\x03", False)]
)
def test_at_a_terminal_it_asks_first(config: Path, tmp_path: Path, answer: str, goes_on: bool) -> None:
    copy = changed(config, tmp_path / "copy")
    kid = inside("keys", "list", "--json", config=copy).json["keys"][0]["kid"]
    before = tree(copy.parent)
    ours, theirs = os.openpty()
    with running(
        [*OURS, "keys", "distrust", kid, "--rotate"],
        log=tmp_path / "said",
        cwd=copy.parent,
        stdin=theirs,
        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
    ) as process:
        os.close(theirs)
        said = until(lambda: (tmp_path / "said").read_text(), "it asks")
        assert (
            f"no request opens what key {kid} sealed, nothing is sealed until another key has its turn"
            in said
        )
        os.write(ours, answer.encode())
        assert process.wait(30) == (0 if goes_on else 1)
    os.close(ours)
    assert published(copy, kid)["distrusted"] is goes_on
    assert goes_on or tree(copy.parent) == before


def test_where_there_is_nobody_to_ask_it_is_refused(config: Path, tmp_path: Path) -> None:
    copy = changed(config, tmp_path / "copy")
    kid = inside("keys", "list", "--json", config=copy).json["keys"][0]["kid"]
    before = tree(copy.parent)
    done = run("keys", "distrust", kid, "--rotate", cwd=copy.parent, stdin=b"y\n")
    assert (done.status, done.out) == (2, "")
    assert "there is nobody to ask: --yes goes on without" in done.err
    assert tree(copy.parent) == before


@pytest.mark.parametrize("kid", ["00000000", "x", "", "../keyring"])
def test_a_key_that_is_not_in_the_ring_is_not_distrusted(config: Path, tmp_path: Path, kid: str) -> None:
    before = tree(config.parent)
    done = inside("keys", "distrust", kid, "--yes", "--rotate", config=config)
    assert (done.status, done.out) == (1, "")
    assert f"ring app has no key {kid}" in done.err
    assert tree(config.parent) == before


def test_a_service_that_runs_hears_of_it_and_tells_its_callbacks(config: Path, tmp_path: Path) -> None:
    copy = changed(config, tmp_path / "copy")
    kid, token = replaced(copy)
    told: list[Any] = []
    with SecurityManager.from_config(copy, {}) as manager:
        manager.on("key.distrusted")(told.append)
        ring = manager.encryption
        assert ring is not None
        assert ring.open("ssn", token.strip()) == b"1.10"
        assert run("keys", "distrust", kid, "--yes", cwd=copy.parent).status == 0
        until(lambda: told, "the callback is told")
        with pytest.raises(TokenError):
            ring.open("ssn", token.strip())
    (step,) = told
    assert (step.kid, step.distrusted, step.before, step.after) == (kid, True, step.after, "decrypt_only")
