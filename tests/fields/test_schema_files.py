"""Documents of several files, in JSON and YAML: what their references lead to, and what they never do."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from secmiddleware.fields.openapi import describe
from secmiddleware.fields.schema_files import Documents, SchemaError
from secmiddleware.fields.schemas import Survey

SENSITIVE = {"type": "string", "x-sensitive-data": {"mask": "full", "field": "ssn"}}

ROOT = """\
openapi: 3.1.0
paths:
  /people: {$ref: ./paths/people.yaml}
  /orders:
    get:
      parameters:
        - $ref: shared.json#/parameters/email
      responses:
        200: {$ref: "shared.json#/responses/Order"}
components:
  schemas:
    Money: {properties: {card: {x-sensitive-data: {field: ssn}}}}
"""
PEOPLE = """\
post:
  requestBody:
    content:
      application/json:
        schema: {$ref: '../schemas/person.yaml#/Person'}
"""
PERSON = """\
Person:
  properties:
    ssn: &secret
      x-sensitive-data: {field: ssn}
    home: {$ref: 'address.json'}
    paid: {$ref: '../api.yaml#/components/schemas/Money'}
Secret: *secret
"""


def write(folder: Path, files: dict[str, Any]) -> Path:
    """The files in a folder of their own; the first one is the document."""
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content if isinstance(content, str) else json.dumps(content))
    return folder / next(iter(files))


def described(path: Path) -> dict[str, set[str]]:
    """For each path of a document what is marked in it, with where the document says so."""
    return {
        one.path: {f"{found.mark()} {found.origin}" for found in (*one.request, *one.response)}
        | {f"{where} {found.origin}" for found, _, where in one.heads}
        for one in describe(Documents.read(path), "")
    }


def marks(path: Path, pointer: str) -> set[str]:
    return {str(found.mark()) for found in Survey(Documents.read(path)).found_at(pointer)}


def body(schema: Any) -> dict[str, Any]:
    content = {"content": {"application/json": {"schema": schema}}}
    return {"openapi": "3.1.0", "paths": {"/a": {"post": {"requestBody": content}}}}


@pytest.fixture
def api(tmp_path: Path) -> Path:
    address = {"properties": {"street": {"$ref": "person.yaml#/Secret"}, "city": {}}}
    order = {
        "content": {"application/json": {"schema": {"items": {"$ref": "./schemas/person.yaml#/Person"}}}}
    }
    email = {"in": "query", "name": "email", "schema": SENSITIVE}
    shared = {"parameters": {"email": email}, "responses": {"Order": order}}
    files = {"api.yaml": ROOT, "paths/people.yaml": PEOPLE, "schemas/person.yaml": PERSON}
    return write(tmp_path / "api", {**files, "schemas/address.json": address, "shared.json": shared})


def test_a_document_of_several_files_is_one_and_each_mark_names_its_file(api):
    person = "schemas/person.yaml#/Person/properties"
    money = "#/components/schemas/Money/properties/card"
    told = (("ssn", f"{person}/ssn"), ("home.street", "schemas/person.yaml#/Secret"), ("paid.card", money))
    assert described(api) == {
        "/people": {f"$.{name} {origin}" for name, origin in told},
        "/orders": {f"$[*].{name} {origin}" for name, origin in told}
        | {"query:email shared.json#/parameters/email/schema"},
    }


@pytest.mark.parametrize(
    "spelled",
    ["a.json#/A", "./a.json#/A", "x/../a.json#/A", "a%2Ejson#/%41", "../api/a.json#/A", "link.json#/A"],
)
def test_a_file_is_the_same_however_it_is_spelled(tmp_path, spelled):
    a = {"A": {"properties": {"ssn": SENSITIVE, "b": {"$ref": "b.json"}}}}
    back = {"properties": {"a": {"$ref": spelled}}}
    root = write(tmp_path / "api", {"api.json": body({"$ref": "a.json#/A"}), "a.json": a, "b.json": back})
    (root.parent / "link.json").symlink_to("a.json")
    assert described(root) == {"/a": {"$..ssn a.json#/A/properties/ssn"}}


def test_a_reference_back_to_the_document_is_one_within_it(tmp_path):
    files = {
        "api.json": body({"$ref": "#/components/schemas/A"}),
        "b.yaml": "{$ref: 'api.json#/components/schemas/A'}",
    }
    a = {"properties": {"ssn": SENSITIVE, "b": {"$ref": "b.yaml"}}}
    files["api.json"]["components"] = {"schemas": {"A": a}}
    root = write(tmp_path, files)
    assert described(root) == {"/a": {"$..ssn #/components/schemas/A/properties/ssn"}}
    (tmp_path / "other.json").symlink_to("api.json")
    assert described(tmp_path / "other.json") == described(root)


def test_a_circle_of_files_that_describes_nothing_is_refused(tmp_path):
    files = {
        "api.json": body({"$ref": "a.json"}),
        "a.json": {"$ref": "b.json"},
        "b.json": {"allOf": [{"$ref": "a.json#"}]},
    }
    with pytest.raises(SchemaError, match=r"is made of itself"):
        described(write(tmp_path, files))


def test_subtypes_are_found_in_other_files(tmp_path):
    pet = {
        "discriminator": {"propertyName": "t", "mapping": {"f": "./fish.json"}},
        "properties": {"a": SENSITIVE},
    }
    root = body({"$ref": "schemas/pet.json"})
    root["components"] = {"schemas": {"Dog": {"$ref": "schemas/dog.json"}}}
    made = [{"$ref": "pet.json"}, {"properties": {"b": SENSITIVE}}]
    files = {"api.json": root, "schemas/pet.json": pet, "schemas/dog.json": {"allOf": made}}
    path = write(tmp_path, {**files, "schemas/fish.json": {"properties": {"c": SENSITIVE}}})
    assert {one.split()[0] for one in described(path)["/a"]} == {"$.a", "$.b", "$.c"}


def test_a_discriminator_names_schemas_of_its_own_document_too(tmp_path):
    pet = {"discriminator": {"mapping": {"e": "Eel"}}}
    shared = {
        "openapi": "3.1.0",
        "components": {"schemas": {"Pet": pet, "Eel": {"properties": {"a": SENSITIVE}}}},
    }
    root = body({"$ref": "shared.json#/components/schemas/Pet"})
    found = described(write(tmp_path, {"api.json": root, "shared.json": shared}))
    assert found == {"/a": {"$.a shared.json#/components/schemas/Eel/properties/a"}}


def test_subtypes_are_found_in_a_table_of_schemas(tmp_path):
    table = {
        "Pet": {"discriminator": {"propertyName": "t"}, "properties": {"a": SENSITIVE}},
        "Dog": {"allOf": [{"$ref": "#/Pet"}, {"properties": {"b": SENSITIVE}}]},
        "properties": {"$ref": {"type": "string"}},
    }
    root = write(tmp_path, {"api.json": body({"$ref": "pets.json#/Pet"}), "pets.json": table})
    assert {one.split()[0] for one in described(root)["/a"]} == {"$.a", "$.b"}
    assert marks(tmp_path / "pets.json", "#/Pet") == {"$.a", "$.b"}


def test_files_that_are_links_to_a_folder_of_their_own_are_read(tmp_path):
    """As Kubernetes mounts a ConfigMap."""
    write(
        tmp_path / "..2026",
        {"api.json": body({"$ref": "a.json"}), "a.json": {"properties": {"x": SENSITIVE}}},
    )
    (tmp_path / "..data").symlink_to("..2026")
    for name in ("api.json", "a.json"):
        (tmp_path / name).symlink_to(f"..data/{name}")
    assert described(tmp_path / "api.json") == {"/a": {"$.x a.json#/properties/x"}}


@pytest.mark.parametrize(
    "reference",
    [
        "../secret.json", "..%2Fsecret.json", "%2e%2e/secret.json", "x/../../secret.json", "out.json",
        "folder/secret.json", "{outside}", "{inside}", "%2F{inside}", "%2F{outside}", "a.json?v=1",
        "..\\secret.json", "a\0.json", "a%00.json",
    ],
)  # fmt: skip
def test_no_reference_leads_out_of_the_documents_folder(tmp_path, reference):
    outside = write(tmp_path, {"secret.json": {"properties": {"x": SENSITIVE}}})
    reference = reference.replace("{outside}", str(outside)).replace("%2F/", "%2F")
    reference = reference.replace("{inside}", str(tmp_path / "api" / "a.json")).replace("%2F/", "%2F")
    root = write(
        tmp_path / "api", {"api.json": body({"$ref": reference}), "a.json": {}, "..\\secret.json": {}}
    )
    (root.parent / "out.json").symlink_to("../secret.json")
    (root.parent / "folder").symlink_to("..")
    with pytest.raises(SchemaError, match=r"schema: leads out of the document's folder, to .*; put that"):
        described(root)


@pytest.mark.parametrize(
    "reference",
    ["http://127.0.0.1/a.json", "HTTPS://a/b", "//a/b.json", "file:///etc/hostname", "urn:a:b", "C:a.json"],
)
def test_nothing_is_fetched(tmp_path, reference):
    with pytest.raises(
        SchemaError, match=r"schema: leads to an address, .*, and nothing is fetched; save it"
    ):
        described(write(tmp_path, {"api.json": body({"$ref": reference})}))


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("lost.json", None, "cannot be read: No such file or directory"),
        ("a.json", "openapi: 3", "is not JSON; a file of YAML ends in .yaml or .yml"),
        ("a.json", '{"a": 1, "a": 2}', "has the key 'a' twice in one object"),
        ("a.yaml", "a: 1\na: 2\n", "has the key 'a' twice in one mapping, line 2"),
        ("a.yaml", "a: [", "is not YAML: "),
    ],
)
def test_what_is_wrong_with_a_file_names_it_and_what_refers_to_it(tmp_path, name, content, told):
    files = {"api.json": body({"$ref": f"x/{name}"})}
    root = write(tmp_path, {**files, **({f"x/{name}": content} if content else {})})
    with pytest.raises(SchemaError) as raised:
        described(root)
    at = "#/paths/~1a/post/requestBody/content/application~1json/schema"
    assert str(raised.value).startswith(f"{at}: x/{name} {told}")


def test_a_place_that_is_not_in_a_file_is_told_with_what_refers_to_it(tmp_path):
    root = write(tmp_path, {"api.json": body({"$ref": "a.json#/A"}), "a.json": {"A": {"$ref": "#/B"}}})
    with pytest.raises(SchemaError, match=r"^a\.json#/A: there is no a\.json#/B$"):
        described(root)


def test_a_pipe_is_not_waited_for(tmp_path):
    root = write(tmp_path, {"api.json": body({"$ref": "pipe.json"})})
    os.mkfifo(tmp_path / "pipe.json")
    with pytest.raises(SchemaError, match=r"pipe\.json is no file"):
        described(root)
    with pytest.raises(SchemaError, match=r"pipe\.json is no file"):
        Documents.read(tmp_path / "pipe.json")


def test_links_in_a_circle_are_refused(tmp_path):
    root = write(tmp_path, {"api.json": body({"$ref": "loop.json"})})
    (tmp_path / "loop.json").symlink_to("loop.json")
    with pytest.raises(SchemaError, match=r"schema: (leads out of the document's folder|loop\.json )"):
        described(root)
    with pytest.raises(SchemaError, match=r"loop\.json cannot be read: "):
        Documents.read(tmp_path / "loop.json")


def test_all_files_together_are_bounded(tmp_path, monkeypatch):
    chain = {f"{n}.json": {"properties": {"a": {"$ref": f"{n + 1}.json"}}} for n in range(20)}
    root = write(tmp_path, {"api.json": body({"$ref": "0.json"}), **chain, "20.json": SENSITIVE})
    assert len(described(root)["/a"]) == 1
    monkeypatch.setattr("secmiddleware.fields.schema_files._MOST_FILES", 10)
    with pytest.raises(SchemaError, match=r"^8\.json#/properties/a: leads to more than 10 files"):
        described(root)
    monkeypatch.undo()
    sizes = [path.stat().st_size for path in tmp_path.iterdir()]
    monkeypatch.setattr("secmiddleware.fields.schema_files.LARGEST", sum(sizes))
    assert len(described(root)["/a"]) == 1
    monkeypatch.setattr("secmiddleware.fields.schema_files.LARGEST", sum(sizes) - 1)
    with pytest.raises(SchemaError, match=r"json makes all files larger than \d+ bytes"):
        described(root)
