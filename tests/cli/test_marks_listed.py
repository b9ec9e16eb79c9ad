"""`secmiddleware fields list`: every mark with where it comes from, and models for documents and dumps."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cli.command import Done, made, run

MODELS = """\
from typing import Annotated

from pydantic import BaseModel, Field

from secmiddleware import Encrypted


class Customer(BaseModel):
    ssn: Annotated[str, Encrypted("ssn")] = Field(validation_alias="in")
    name: str


class Order(BaseModel):
    buyer: Customer
"""
PLACES = """
[[fields.ssn.places]]
routes = ["/orders"]
marks_from = "shop_models:Order"
request = "decrypt"
response = "encrypt"

[[fields.ssn.places]]
openapi = "openapi.json"
request = "decrypt"
"""
DOCUMENT = {
    "openapi": "3.1.0",
    "paths": {
        "/people/{id}": {
            "post": {
                "requestBody": {
                    "content": {"application/json": {"schema": {"$ref": "#/components/schemas/P"}}}
                }
            }
        }
    },
    "components": {
        "schemas": {
            "P": {
                "properties": {
                    "pin\u202e": {"x-sensitive-data": {"mask": "full"}},
                    "ssn": {"x-sensitive-data": {"mask": "full", "field": "ssn"}},
                }
            }
        }
    },
}


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = made(tmp_path_factory.mktemp("marks") / "app")
    (path.parent / "shop_models.py").write_text(MODELS)
    (path.parent / "openapi.json").write_text(json.dumps(DOCUMENT))
    path.write_text(path.read_text().replace("\n[rotation]", PLACES + "\n[rotation]"))
    return path


def fields(config: Path, *words: str, stdin: bytes = b"", **env: str) -> Done:
    return run("fields", *words, cwd=config.parent, stdin=stdin, env=env)


def test_each_mark_is_listed_with_what_happens_there_and_who_says_so(config: Path) -> None:
    done = fields(config, "list")
    assert (done.status, done.err) == (0, "")
    lines = config.read_text().splitlines()
    by_hand = lines.index('marks = ["$.ssn", "$.people[*].ssn"]') + 1
    model = lines.index('marks_from = "shop_models:Order"') + 1
    document = lines.index('openapi = "openapi.json"') + 1
    schema = "openapi.json#/components/schemas/P/properties/"
    assert [line.split() for line in done.out.splitlines()] == [
        ["FIELD", "MARK", "REQUEST", "RESPONSE", "ROUTES", "FROM"],
        *(
            ["ssn", mark, "decrypt", "encrypt", "/customers", "/customers/*", f"secmiddleware.toml:{by_hand}"]
            for mark in ("$.ssn", "$.people[*].ssn")
        ),
        *(
            ["ssn", mark, *ways, "/orders", "shop_models:Customer.ssn", f"(secmiddleware.toml:{model})"]
            for mark, ways in (("$.buyer.ssn", ("decrypt", "encrypt")), ("$.buyer.in", ("decrypt", "pass")))
        ),
        ["ssn", "$.ssn", "decrypt", "pass", "/people/*", f"{schema}ssn", f"(secmiddleware.toml:{document})"],
        ["not", "marked:", f"{schema}pin\\u202e", "is", "sensitive,", "and", "names", "no", "field"],
    ]


def test_a_mark_of_a_file_that_a_document_refers_to_names_that_file(config: Path) -> None:
    folder = config.parent / "api"
    (folder / "schemas").mkdir(parents=True)
    schema = {"$ref": "schemas/person.yaml#/Person"}
    content = {"content": {"application/json": {"schema": schema}}}
    document = {"openapi": "3.1.0", "paths": {"/a": {"post": {"requestBody": content}}}}
    (folder / "openapi.json").write_text(json.dumps(document))
    (folder / "schemas" / "person.yaml").write_text(
        "Person: {properties: {no: {x-sensitive-data: {field: ssn}}, pin: {x-sensitive-data: {}}}}\n"
    )
    done = fields(config, "list", SECMIDDLEWARE__FIELDS__SSN__PLACES__2__OPENAPI=str(folder / "openapi.json"))
    assert (done.status, done.err) == (0, "")
    person = "schemas/person.yaml#/Person/properties"
    row = ["ssn", "$.no", "decrypt", "pass", "/a", f"{person}/no", "(environment)"]
    assert row in [line.split() for line in done.out.splitlines()]
    assert f"not marked: {person}/pin is sensitive, and names no field\n" in done.out


def test_the_list_as_json_has_the_same(config: Path) -> None:
    told = fields(config, "list", "--json").json
    assert [(one["mark"], one["request"], one["response"]) for one in told["marks"]] == [
        ("$.ssn", "decrypt", "encrypt"),
        ("$.people[*].ssn", "decrypt", "encrypt"),
        ("$.buyer.ssn", "decrypt", "encrypt"),
        ("$.buyer.in", "decrypt", "pass"),
        ("$.ssn", "decrypt", "pass"),
    ]
    by_hand, *_, document = told["marks"]
    assert (by_hand["origin"], by_hand["key"]) == (None, "fields.ssn.places[0].marks[0]")
    assert (document["key"], document["source"]) == ("fields.ssn.places[2].openapi", "secmiddleware.toml")
    assert len(told["not_marked"]) == 1


def test_an_override_of_the_environment_is_named_as_the_source(config: Path) -> None:
    done = fields(config, "list", SECMIDDLEWARE__FIELDS__SSN__PLACES__0__MARKS="['$.other']")
    (row,) = (line for line in done.out.splitlines() if "$.other" in line)
    assert row.endswith("  environment")


def test_a_dump_is_rewritten_at_the_marks_of_models_and_documents_too(config: Path) -> None:
    body = b'{"ssn":1,"buyer":{"ssn":2,"in":3},"people":[{"ssn":4}],"name":5}\n'
    sealed = fields(config, "seal", "ssn", "--ndjson", stdin=body)
    assert (sealed.status, sealed.err, sealed.out.count("sm1.")) == (0, "", 4)
    assert fields(config, "open", "ssn", "--ndjson", stdin=sealed.stdout).stdout == body


def test_check_imports_no_model_and_says_whose_marks_it_does_not_know(config: Path, tmp_path: Path) -> None:
    broken = config.parent / "shop_models.py"
    broken.write_text("raise SystemExit('imported')\n")
    try:
        done = run("check", cwd=config.parent)
    finally:
        broken.write_text(MODELS)
    assert (done.status, done.err) == (0, "")
    assert "field ssn: aead, marks: 3, and those of shop_models:Order\n" in done.out


def test_a_model_that_is_not_there_is_a_mistake_of_the_list_and_not_a_traceback(config: Path) -> None:
    done = fields(config, "list", SECMIDDLEWARE__FIELDS__SSN__PLACES__1__MARKS_FROM="shop_lost:Order")
    assert (done.status, done.out) == (1, "")
    assert "fields.ssn.places[1].marks_from: shop_lost:Order: shop_lost cannot be imported" in done.err
