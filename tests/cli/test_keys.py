"""`secmiddleware keys`: what an operator sees of the ring, and how a key is added to it."""

from __future__ import annotations

import json
import re
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from cli.command import change, changed, inside, run, tree


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


@pytest.mark.parametrize("words", [["keys", "list"], ["keys", "list", "--json"], ["keys", "rotate"]])
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
    for words in (["list"], ["rotate"]):
        done = inside("keys", *words, config=copy)
        assert (done.status, done.out) == (1, "")
        assert re.match(r"Error: .+\n\Z", done.err)
    assert tree(copy.parent) == before


def test_mistakes_in_the_settings_are_named(config: Path, tmp_path: Path) -> None:
    copy = changed(config, tmp_path / "copy", ('client = "required"', 'client = "requierd"'))
    done = inside("keys", "list", config=copy)
    assert (done.status, done.out) == (1, "")
    assert f"{copy}:8: mtls.client: " in done.err
