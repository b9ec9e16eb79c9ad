"""`secmiddleware check`: every mistake at once, in words or as JSON; nothing imported, no secret told."""

from __future__ import annotations

import base64
import json
import os
import pty
import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from certificates.shapes import revocation_list, strict_ca
from cryptography.hazmat.primitives.serialization import Encoding

from cli.command import ESCAPE, OURS, change, changed, environment, inside, run, running, tree
from secmiddleware import SecurityManager

KEK = 'kek = "file:state/kek"'
MISTAKES = (
    ('client = "required"', 'client = "requierd"'),
    ('poll = "30s"', 'pol = "30s"'),
    ('trust = ["pki/ca.pem"]', 'trust = ["pki/partner.pem"]'),
)


def test_good_settings_are_summed_up(config: Path) -> None:
    before = tree(config.parent)
    done = run("check", "--config", config, cwd=config.parent)
    assert (done.status, done.err) == (0, "")
    assert done.out.splitlines() == [
        f"{config}: good",
        "  a caller's certificate is required; routes of their own: 2",
        "  trust anchors: 1, profile strict",
        f"  server certificate: {config.parent}/pki/server.pem",
        "  field ssn: aead, marks: 2",
        "  key ring app: generation 1, keys: 1",
    ]
    assert tree(config.parent) == before


def test_good_settings_are_no_findings_in_json(config: Path) -> None:
    done = run("check", "--json", cwd=config.parent)
    assert (done.status, done.err) == (0, "")
    assert done.json == {"config": "secmiddleware.toml", "ok": True, "findings": []}


def test_all_mistakes_are_named_at_once_with_line_and_hint(config: Path, tmp_path: Path) -> None:
    wrong = changed(config, tmp_path / "wrong", *MISTAKES)
    shutil.copy(config.parent / "pki" / "client.key", wrong.parent / "pki" / "server.key")
    lines = [(line.split() or [""])[0] for line in wrong.read_text().splitlines()]
    variables = {"SECMIDDLEWARE__MTLS__CLIETN": "off", "SECMIDLEWARE__MTLS__CLIENT": "off"}
    done = run("check", "--json", cwd=wrong.parent, env=variables)
    assert done.status == 1
    assert done.json["ok"] is False
    found = done.json["findings"]
    assert [(finding["key"], finding["source"]) for finding in found] == [
        ("mtls.client", "secmiddleware.toml"),
        ("mtls.trust[0]", "secmiddleware.toml"),
        ("mtls.key", "secmiddleware.toml"),
        ("rotation.pol", "secmiddleware.toml"),
        ("SECMIDDLEWARE__MTLS__CLIETN", "environment"),
        ("SECMIDLEWARE__MTLS__CLIENT", "environment"),
    ]
    numbers = [lines.index(key) + 1 for key in ("client", "trust", "key", "pol")]
    assert [finding["line"] for finding in found] == [*numbers, None, None]
    hints = [finding["hint"] for finding in found]
    assert [hint for hint in hints if hint] == [
        'did you mean "required"?',
        'did you mean "poll"?',
        "did you mean SECMIDDLEWARE__MTLS__CLIENT?",
        "did you mean SECMIDDLEWARE__MTLS__CLIENT?",
    ]
    assert all(set(finding) == {"key", "message", "source", "line", "hint"} for finding in found)

    told = run("check", cwd=wrong.parent, env=variables)
    assert (told.status, told.err) == (1, "")
    for finding in found:
        place = finding["source"] + (f":{finding['line']}" if finding["line"] else "")
        assert f"{place}: {finding['key']}: {finding['message']}\n" in told.out
        assert finding["hint"] is None or f"    {finding['hint']}\n" in told.out
    assert told.out.endswith("\n6 mistakes.\n")


def test_one_mistake_is_counted_as_one(config: Path, tmp_path: Path) -> None:
    wrong = changed(config, tmp_path / "wrong", MISTAKES[0])
    assert inside("check", config=wrong).out.endswith("\n1 mistake.\n")


def test_a_variable_overrides_the_file(config: Path, tmp_path: Path) -> None:
    wrong = changed(config, tmp_path / "wrong", MISTAKES[0])
    done = inside("check", config=wrong, env={"SECMIDDLEWARE__MTLS__CLIENT": "optional"})
    assert done.status == 0
    assert "a caller's certificate is optional" in done.out


def test_a_ring_under_another_key_encryption_key_is_a_finding(config: Path, tmp_path: Path) -> None:
    other = changed(config, tmp_path / "other")
    (other.parent / "state" / "kek").write_bytes(os.urandom(32))
    done = inside("check", "--json", config=other)
    assert done.status == 1
    (finding,) = done.json["findings"]
    assert (finding["key"], finding["source"]) == ("keys.store", str(other))
    assert "does not open under this key-encryption key" in finding["message"]


def test_a_ring_of_another_generation_than_was_seen_is_a_finding(config: Path, tmp_path: Path) -> None:
    other = changed(config, tmp_path / "other")
    (other.parent / "state" / "keyring.json.floor").write_text("7\n")
    done = inside("check", "--json", config=other)
    assert [finding["key"] for finding in done.json["findings"]] == ["keys.store"]
    assert done.status == 1


def test_a_forged_ring_is_a_finding(config: Path, tmp_path: Path) -> None:
    other = changed(config, tmp_path / "other")
    ring = other.parent / "state" / "keyring.json"
    document = json.loads(ring.read_text())
    document["keys"][0]["distrusted"] = True
    ring.write_text(json.dumps(document))
    done = inside("check", config=other)
    assert done.status == 1
    assert f"{other}: keys.store: " in done.out


def test_a_ring_that_is_not_there_yet_is_no_mistake_and_is_not_made(config: Path, tmp_path: Path) -> None:
    fresh = changed(config, tmp_path / "fresh")
    for file in (fresh.parent / "state").glob("keyring.json*"):
        file.unlink()
    before = tree(fresh.parent)
    done = inside("check", config=fresh)
    assert done.status == 0
    assert "key ring app: made when the service first starts" in done.out
    assert tree(fresh.parent) == before


def test_no_code_of_the_user_is_imported(config: Path, tmp_path: Path) -> None:
    named = changed(config, tmp_path / "named", ('poll = "30s"', 'poll = "30s"\ncallbacks = ["evil:module"]'))
    (named.parent / "evil.py").write_text("open('evil was here', 'w')\ndef module(): ...\n")
    done = run("check", cwd=named.parent, env={"PYTHONPATH": f"{environment()['PYTHONPATH']}:{named.parent}"})
    assert done.status == 0
    assert not (named.parent / "evil was here").exists()


@pytest.mark.parametrize("name", ["nowhere.toml", ".", "pki/server.pem", "state/kek"])
def test_what_is_no_file_of_settings_is_a_finding(config: Path, name: str) -> None:
    done = inside("check", "--json", config=config.parent / name)
    assert (done.status, done.err) == (1, "")
    assert done.json["findings"][0]["source"] == str(config.parent / name)


def test_wrong_use_has_status_2(config: Path) -> None:
    for words in (["check", "--jsn"], ["check", "secmiddleware.toml"], ["chekc"]):
        done = run(*words, cwd=config.parent)
        assert (done.status, done.out) == (2, "")
        assert "Usage: " in done.err


def test_no_secret_is_ever_told(config: Path, tmp_path: Path) -> None:
    secrets = [base64.b64encode(os.urandom(size)).decode() for size in (24, 32, 32)]
    wrong = changed(config, tmp_path / "wrong", (KEK, f'kek = "{secrets[0]}"'))
    told = [run("check", cwd=wrong.parent)]
    change(wrong, (f'"{secrets[0]}"', '"env:OUR_KEK"'))
    # As it should be, but another ring's; as it should not be.
    told.append(inside("check", "--json", config=wrong, env={"OUR_KEK": secrets[1]}))
    told.append(inside("check", "--json", config=wrong, env={"OUR_KEK": secrets[2] + "!"}))
    for done in told:
        assert done.status == 1
        assert not [secret for secret in secrets if secret in done.printed]


def test_only_a_terminal_gets_escape_codes(config: Path, tmp_path: Path) -> None:
    wrong = changed(
        config, tmp_path / "wrong", ('poll = "30s"', 'poll = "30s"\n"\\u001b[41mx" = 1'), *MISTAKES[:1]
    )
    done = run("check", cwd=wrong.parent)
    assert done.status == 1
    assert ESCAPE not in done.printed
    assert "[41mx" in done.out

    seen, terminal = pty.openpty()
    with running([*OURS, "check"], log=tmp_path / "log", cwd=wrong.parent, stdout=terminal) as process:
        os.close(terminal)
        assert process.wait() == 1
    said = os.read(seen, 1 << 16)
    os.close(seen)
    assert b"\x1b[31m" in said
    assert b"\x1b[41m" not in said


WIDE = """
source = "nginx"
trusted_proxies = ["127.0.0.1", "10.0.0.5", "unix:0", "unix:33", { network = "10.0.0.0/8", wide = true }]
peer_address = "server"
"""


def test_what_is_too_wide_for_production_is_named_when_asked_for(config: Path, tmp_path: Path) -> None:
    wide = changed(config, tmp_path / "wide", ('client = "required"', 'client = "optional"' + WIDE))
    done = run("check", "--json", "--deploy", cwd=wide.parent)
    assert done.status == 0, "advice is no mistake"
    advice = {one["key"]: one for one in done.json["advice"]}
    assert set(advice) == {
        "mtls.trusted_proxies[0]",
        "mtls.trusted_proxies[2]",
        "mtls.trusted_proxies[4]",
        "mtls.peer_address",
        "mtls.client",
        "mtls.crl",
    }
    assert "16777216 addresses" in advice["mtls.trusted_proxies[4]"]["message"]
    assert all(one["line"] and one["hint"] for one in advice.values())
    said = run("check", "--deploy", cwd=wide.parent)
    assert (said.status, "6 things to think over" in said.out) == (0, True)
    assert "think over" not in run("check", cwd=wide.parent).out


def test_who_is_denied_by_the_digest_of_a_certificate_can_get_around_it(config: Path, tmp_path: Path) -> None:
    digest = "ab" * 32
    names = [f"{kind}:{digest}" for kind in ("sha256", "spki-sha256", "issuer-sha256", "issuer-spki-sha256")]
    route = f"""
[[routes]]
path = "/reports/**"
deny = {json.dumps(names)}

[rotation]
"""
    other = changed(config, tmp_path / "other", ("[rotation]", route))
    advice = {one["key"] for one in run("check", "--json", "--deploy", cwd=other.parent).json["advice"]}
    index = other.read_text().count("[[routes]]") - 1
    assert {key for key in advice if ".deny" in key} == {f"routes[{index}].deny[{n}]" for n in (0, 2)}


def test_advice_does_not_hide_a_mistake(config: Path, tmp_path: Path) -> None:
    wrong = changed(config, tmp_path / "wrong", ('client = "required"', 'client = "requierd"' + WIDE))
    done = run("check", "--json", "--deploy", cwd=wrong.parent)
    assert (done.status, done.json["ok"], done.json["advice"]) == (1, False, [])


def test_a_list_that_is_overdue_is_a_finding_and_no_reason_not_to_start(config: Path, tmp_path: Path) -> None:
    other = changed(config, tmp_path / "other")
    now = datetime.now(UTC)
    ca = strict_ca("ca", begin=now - timedelta(days=9), end=now + timedelta(days=9))
    (other.parent / "pki" / "callers.pem").write_bytes(ca.pem)
    change(other, ('trust = ["pki/ca.pem"]', 'trust = ["pki/callers.pem"]\ncrl = ["pki/a.crl"]'))
    path = other.parent / "pki" / "a.crl"

    def publish(end: datetime) -> None:
        crl = revocation_list(ca, 1, 2, begin=now - timedelta(days=2), end=end)
        path.write_bytes(crl.public_bytes(Encoding.DER))

    publish(now + timedelta(days=1))
    done = inside("check", config=other)
    assert "  revocation lists: 1, entries: 2\n" in done.out, done.out
    assert done.status == 0
    publish(now - timedelta(days=1))
    done = inside("check", "--json", config=other)
    (finding,) = done.json["findings"]
    assert (done.status, finding["key"]) == (1, "mtls.crl[0]")
    assert f"{path} is not current" in finding["message"]
    assert SecurityManager.from_config(other, {}).status()["certificates"]["revocation_lists"]
