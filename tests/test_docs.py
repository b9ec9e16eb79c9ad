"""What the documents say is so: settings, codes, links, and the tests that the threat model names."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any, get_args

import pytest

from secmiddleware import SecurityManager
from secmiddleware.identity.patterns import NameKind
from secmiddleware.messages import RULES, STATUS_OF, Refusal
from secmiddleware.settings import load

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]


def _blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.DOTALL | re.MULTILINE)


def _secmiddleware(*words: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "secmiddleware", *words]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder after `secmiddleware init .`."""
    folder = tmp_path_factory.mktemp("made")
    done = _secmiddleware("init", ".", cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder


def test_the_settings_of_the_readme_are_good_where_init_has_been(made: Path) -> None:
    (text,) = _blocks((ROOT / "README.md").read_text(), "toml")
    (made / "readme.toml").write_text(text)
    settings = load(made / "readme.toml", {})
    assert settings.service.name == "payments"
    assert settings.fields["ssn"].places[0].marks == ("$.ssn", "$.people[*].ssn")


def test_the_routes_of_the_page_on_policy_say_what_it_says(made: Path) -> None:
    (text,) = _blocks((ROOT / "docs" / "policy.md").read_text(), "toml")
    (made / "policy.toml").write_text(text)
    with SecurityManager.from_config(made / "policy.toml", {}) as manager:
        policy = manager.snapshot.policy
        rules = {
            method: rule.where
            for method in ("GET", "HEAD", "POST", "BREW", "delete")
            if not isinstance(rule := policy.rule_for("/payments/1", method), Refusal)
        }
    assert rules == {"GET": "routes[1]", "HEAD": "routes[1]", "POST": "routes[2]", "BREW": "routes[2]"}


def test_the_page_on_policy_knows_every_kind_of_pattern() -> None:
    page = (ROOT / "docs" / "policy.md").read_text()
    table = page.partition("## Whom a pattern names")[2].partition("##")[0]
    for kind in (
        *get_args(NameKind),
        "sha256",
        "spki-sha256",
        "issuer-sha256",
        "issuer-spki-sha256",
        "serial",
    ):
        assert f"`{kind}:" in table, kind


def test_the_readme_shows_the_commands_that_init_prints(made: Path, tmp_path: Path) -> None:
    printed = _secmiddleware("init", ".", cwd=tmp_path).stdout.partition("Next:\n")[2].strip().splitlines()
    assert len(printed) == 3
    readme = (ROOT / "README.md").read_text()
    for line in printed:
        assert f"    {line.strip()}\n" in readme


def test_the_apps_of_the_readme_tell_a_caller_what_is_missing(
    made: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from starlette.testclient import TestClient

    monkeypatch.chdir(made)
    blocks = _blocks((ROOT / "README.md").read_text(), "python")
    apps: dict[str, Any] = {}
    for name in ("starlette", "flask"):
        (block,) = (block for block in blocks if f"from secmiddleware_{name} import" in block)
        namespace: dict[str, Any] = {"__name__": "shop"}
        exec(block, namespace)
        apps[name] = namespace["app"]
    with TestClient(apps["starlette"]) as client:
        assert client.get("/").json()["code"] == "certificate_missing"
    assert apps["flask"].test_client().get("/").json["code"] == "certificate_missing"


def test_the_page_on_marks_shows_what_comes_of_its_model(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from secmiddleware.parts import marked_places

    page = (ROOT / "docs" / "marks.md").read_text()
    (model,) = _blocks(page, "python")
    by_model, by_document = _blocks(page, "toml")
    (tmp_path / "shop").mkdir()
    (tmp_path / "shop" / "models.py").write_text(model)
    monkeypatch.syspath_prepend(str(tmp_path))
    (schema,) = map(json.loads, _blocks(page, "json"))
    content = {"application/json": {"schema": {"properties": {"ssn": schema}}}}
    paths = {"/export": {"post": {"requestBody": {"content": content}}}}
    (made / "openapi.json").write_text(json.dumps({"openapi": "3.1.0", "paths": paths}))
    starter = (made / "secmiddleware.toml").read_text()
    (made / "marks.toml").write_text(starter + by_model + by_document)
    try:
        _, model_place, document_place = marked_places(load(made / "marks.toml", {}))
    finally:
        for name in ("shop", "shop.models"):
            sys.modules.pop(name, None)
    for mark in model_place.marks:
        assert f"`{mark.mark}`" in page or str(mark.mark) in by_model
    assert [str(one.mark) for one in model_place.request] == ["$.buyer.ssn", "$.others[*].ssn"]
    assert [str(one.mark) for one in document_place.request] == ["$.ssn"]


def test_the_code_of_the_page_on_values_by_hand_does_what_it_says(
    made: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(made)
    (code,) = _blocks((ROOT / "docs" / "by-hand.md").read_text(), "python")
    assert code.count("assert ") == 3
    exec(code, {})


def test_every_command_that_a_page_names_is_there() -> None:
    named = {
        match[1]
        for page in PAGES
        for match in re.finditer(r"\bsecmiddleware ((?:keys|fields) [a-z]+)", page.read_text())
    }
    named |= {
        match[1]
        for page in PAGES
        for match in re.finditer(
            r"^    secmiddleware ([a-z]+)|`secmiddleware ([a-z]+)", page.read_text(), re.MULTILINE
        )
        if match[1]
    }
    assert {"keys list", "keys rotate", "fields seal", "fields open", "init", "check", "run"} <= named
    for words in sorted(named):
        done = _secmiddleware(*words.split(), "--help")
        assert done.returncode == 0, f"{words}: {done.stderr}"


def test_every_link_leads_to_a_file_and_to_a_heading_of_it() -> None:
    for page in PAGES:
        for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
            if target.startswith(("http://", "https://")):
                continue
            name, _, anchor = target.partition("#")
            linked = page.parent / name if name else page
            assert linked.exists(), f"{page.name}: {target}"
            if anchor:
                headings = re.findall(r"^#+ (.*)$", linked.read_text(), re.MULTILINE)
                slugs = {
                    re.sub(r"[^a-z0-9 -]", "", heading.lower()).replace(" ", "-") for heading in headings
                }
                assert anchor in slugs, f"{page.name}: {target}"


def test_the_closed_set_of_codes_stands_in_the_architecture_with_its_statuses() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text()
    table = text.partition("The set of codes is closed")[2].partition("\n\n`certificate_revoked`")[0]
    told = {
        code: row.split("|")[1]
        for row in table.splitlines()
        if row.startswith("|")
        for code in re.findall(r"`([a-z_]+)`", row.split("|")[2])
    }
    assert set(told) == set(STATUS_OF)
    for code, statuses in told.items():
        assert str(STATUS_OF[code]) in statuses


def _keys(schema: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Section, key and description of each, as the schema has them."""
    for name, definition in schema["$defs"].items():
        if name.endswith("Settings"):
            for key, about in definition["properties"].items():
                yield name, key, about


def test_the_page_of_settings_has_every_key_with_its_default_and_choices() -> None:
    schema = json.loads((files("secmiddleware.settings") / "schema.json").read_text(encoding="utf-8"))
    page = (ROOT / "docs" / "settings.md").read_text()
    for section, key, about in _keys(schema):
        rows = [row for row in page.splitlines() if row.startswith(f"| `{key}` |")]
        assert rows, f"{section}: {key}"
        row = next((row for row in rows if about["description"] in row), None)
        assert row is not None, f"{section}: {key}: {about['description']}"
        if about.get("default") is not None:
            assert f"`{json.dumps(about['default'])}`" in row, f"{section}: {key}: {row}"
        for choice in about.get("enum", ()):
            assert f"`{choice}`" in row, f"{section}: {key}: {row}"


def test_the_threat_model_names_tests_that_are_there() -> None:
    text = (ROOT / "docs" / "threat-model.md").read_text()
    rows = [row for row in text.splitlines() if row.startswith("| ") and not row.startswith("| What")]
    assert len(rows) > 20
    for row in rows:
        named = re.findall(r"`(tests/[\w/]+\.py)(?:::(\w+))?`", row)
        assert named, f"no test: {row}"
        for path, test in named:
            assert (ROOT / path).is_file(), path
            assert not test or f"def {test}(" in (ROOT / path).read_text(), f"{path}::{test}"


def test_the_page_of_certificates_has_every_rule_and_code_and_no_other() -> None:
    page = (ROOT / "docs" / "certificates.md").read_text().partition("## Reasons")[2]
    rows = [row.split("|") for row in page.splitlines() if row.startswith("| `")]
    assert {rule for row in rows for rule in re.findall(r"`([a-z_0-9]+)`", row[2])} == RULES
    codes = {code for row in rows for code in re.findall(r"`([a-z_]+)`", row[1])}
    assert codes == {code for code in STATUS_OF if code.startswith("certificate_")} - {
        "certificate_missing"
    } | {"revocation_unavailable"}
