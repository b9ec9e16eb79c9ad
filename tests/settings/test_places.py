"""Marks from models and from OpenAPI documents: what comes of them, and what is wrong with them."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import pytest
from fastapi import FastAPI
from pydantic import BaseModel
from settings.documents import KEYS, SERVICE
from starlette.testclient import TestClient

from secmiddleware import Encrypted
from secmiddleware.asgi import SecMiddleware
from secmiddleware.errors import ConfigError
from secmiddleware.parts import marked_places
from secmiddleware.security import SecurityManager
from secmiddleware.settings.places import MarkedPlace, places_of

OPEN = SERVICE + '[mtls]\nclient = "off"\n' + KEYS
WAYS = 'request = "decrypt"\nresponse = "encrypt"\n'
SENSITIVE = {"type": "string", "x-sensitive-data": {"mask": "full", "field": "ssn"}}


def place_of(keys: str, field: str = "ssn", more: str = "") -> str:
    return f"[fields.{field}]\n{more}[[fields.{field}.places]]\n{keys}\n{WAYS}"


class Customer(BaseModel):
    ssn: Annotated[str, Encrypted("ssn")]
    name: str


class CustomerList(BaseModel):
    customers: list[Customer]


def make_app() -> FastAPI:
    """An app that knows nothing of the middleware but at its model."""
    app, stored = FastAPI(), {}

    @app.post("/customers")
    def add(customer: Customer) -> Customer:
        stored[customer.name] = customer
        return customer

    @app.get("/customers")
    def every() -> CustomerList:
        return CustomerList(customers=list(stored.values()))

    @app.get("/customers/{name}")
    def one(name: str) -> Customer:
        return stored[name]

    @app.get("/plain/{name}")
    def plain(name: str) -> dict[str, str]:
        return {"ssn": name}

    @app.get("/seen/{name}")
    def seen(name: str) -> dict[str, int]:
        return {"length": len(stored[name].ssn)}

    return app


def by_path(places: tuple[MarkedPlace, ...] | list[MarkedPlace]) -> dict[str, tuple[set[str], set[str]]]:
    """For each route what is marked, each way."""
    found: dict[str, tuple[set[str], set[str]]] = {}
    for place in places:
        for route in place.routes:
            request, response = found.setdefault(str(route), (set(), set()))
            request |= {str(one.mark) for one in place.request}
            response |= {str(one.mark) for one in place.response}
    return found


@pytest.fixture
def module(place, monkeypatch):
    """A module of the app's, next to its settings."""
    source = (
        "from typing import Annotated\nfrom pydantic import BaseModel, Field\n"
        "from secmiddleware import Encrypted\n"
        "class Customer(BaseModel):\n"
        '    ssn: Annotated[str, Encrypted("ssn")] = '
        'Field(validation_alias="in", serialization_alias="out")\n'
        "class Plain(BaseModel):\n    a: int\n"
        'class Typo(BaseModel):\n    a: Annotated[str, Encrypted("snn")]\n'
        'class Iban(BaseModel):\n    a: Annotated[str, Encrypted("iban")]\n'
    )
    (place.folder / "shop_models.py").write_text(source)
    (place.folder / "shop_broken.py").write_text("1 / 0\n")
    monkeypatch.syspath_prepend(str(place.folder))
    yield "shop_models"
    for name in ("shop_models", "shop_broken"):
        sys.modules.pop(name, None)


def document(paths: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"openapi": "3.1.0", "info": {"title": "t", "version": "1"}, "paths": paths, **more}


def body(schema: Any, media: str = "application/json") -> dict[str, Any]:
    return {"content": {media: {"schema": schema}}}


SSN = {"type": "object", "properties": {"ssn": SENSITIVE}}


# As it works: a real FastAPI app, whose document is its own.


def test_a_fastapi_app_that_says_it_at_its_model_is_marked_by_its_own_document(place):
    app = make_app()
    (place.folder / "openapi.json").write_text(json.dumps(app.openapi()))
    settings = place.load(OPEN + place_of('openapi = "openapi.json"'))
    with SecurityManager(settings) as manager, TestClient(SecMiddleware(app, config=manager)) as client:
        ring = manager.encryption
        token = ring.seal("ssn", b'"078-05-1120"')
        answer = client.post("/customers", json={"ssn": token, "name": "Ada"})
        assert answer.status_code == 200
        assert ring.open("ssn", answer.json()["ssn"]) == b'"078-05-1120"'
        assert client.get("/seen/Ada").json() == {"length": 11}
        for found in (client.get("/customers/Ada").json(), *client.get("/customers").json()["customers"]):
            assert found["name"] == "Ada"
            assert ring.open("ssn", found["ssn"]) == b'"078-05-1120"'
        assert client.post("/customers", json={"ssn": "078-05-1120", "name": "Eve"}).status_code == 400
        assert client.get("/plain/x").json() == {"ssn": "x"}


def test_a_model_marks_what_it_reads_and_what_it_writes(place, module):
    text = OPEN + place_of(f'routes = ["/a"]\nmarks = ["$.more"]\nmarks_from = "{module}:Customer"')
    settings = place.load(text)
    assert module not in sys.modules
    assert by_path(marked_places(settings)) == {
        "/a": ({"$.more", "$.ssn", "$.in"}, {"$.more", "$.ssn", "$.out"})
    }
    (found,) = marked_places(settings)
    assert [str(one) for one in found.request] == [
        "fields.ssn.places[0].marks[0]",
        "shop_models:Customer.ssn",
        "shop_models:Customer.ssn",
    ]
    rules = [one.rule for one in SecurityManager(settings).snapshot.places._places]
    assert [(rule.request, rule.response) for rule in rules] == [("decrypt", "pass"), ("pass", "encrypt")]


def test_load_imports_no_code_of_the_app(place, module):
    assert place.findings(OPEN + place_of('routes = ["/a"]\nmarks_from = "shop_broken:Customer"')) == ()
    assert "shop_broken" not in sys.modules


def test_a_schema_of_a_document_marks_routes_that_are_named(place):
    (place.folder / "api.json").write_text(json.dumps({"$defs": {"C": SSN}}))
    settings = place.load(OPEN + place_of('routes = ["/a"]\nmarks_from = "api.json#/$defs/C"'))
    (found,) = marked_places(settings)
    assert by_path([found]) == {"/a": ({"$.ssn"}, {"$.ssn"})}
    assert str(found.request[0]) == "api.json#/$defs/C/properties/ssn"


# What a document says.


def described(place, found: dict[str, Any], more: str = "", service: str = "") -> dict[str, Any]:
    (place.folder / "api.json").write_text(json.dumps(found))
    text = OPEN.replace("[mtls]", service + "[mtls]") + place_of(f'openapi = "api.json"\n{more}')
    return by_path(marked_places(place.load(text)))


def test_each_way_of_each_path_has_its_own_marks(place):
    list_ = {"type": "array", "items": {"$ref": "#/components/schemas/C"}}
    found = document(
        {
            "/a/{id}": {
                "put": {"requestBody": body(SSN), "responses": {"200": body(list_)}},
                "get": {"responses": {"default": {"$ref": "#/components/responses/R"}}},
            },
            "/files/{name}.json": {"$ref": "#/components/pathItems/P"},
            "/stream": {
                "post": {
                    "requestBody": {"$ref": "#/components/requestBodies/B"},
                    "responses": {"200": {"content": {"application/jsonl": {"itemSchema": SSN}}}},
                }
            },
            "/nothing": {"get": {"responses": {"200": body({"type": "object"})}}},
            "/custom": {"additionalOperations": {"COPY": {"requestBody": body(SSN)}}},
            "x-extra": {"get": 1},
        },
        components={
            "schemas": {"C": SSN},
            "responses": {"R": body({"properties": {"deep": {"$ref": "#/components/schemas/C"}}})},
            "requestBodies": {"B": body(SSN, "application/x-www-form-urlencoded")},
            "pathItems": {"P": {"post": {"requestBody": body(SSN)}}},
        },
    )
    assert described(place, found) == {
        "/a/*": ({"$.ssn"}, {"$[*].ssn", "$.deep.ssn"}),
        "/files/*": ({"$.ssn"}, set()),
        "/stream": ({"$.ssn"}, {"$.ssn"}),
        "/custom": ({"$.ssn"}, set()),
    }


def test_what_stands_beside_the_reference_of_a_path_is_marked_too(place):
    shared = {
        "parameters": [{"in": "query", "name": "q", "schema": SENSITIVE}],
        "servers": [{"url": "/v1"}],
        "put": {"requestBody": body({"properties": {"b": SENSITIVE}})},
    }
    paths = {"/a": {"$ref": "#/components/pathItems/Shared", "post": {"requestBody": body(SSN)}}}
    written = document(paths, components={"pathItems": {"Shared": shared}})
    (place.folder / "api.json").write_text(json.dumps(written))
    found = by_path(
        places_of(place.load(OPEN + place_of('openapi = "api.json"')), import_models=False).places
    )
    assert found == {route: ({"$.ssn", "$.b", "query:q"}, set()) for route in ("/a", "/v1/a")}


def test_names_that_a_pointer_must_escape_are_followed(place):
    paths = {"/a%20b/~c": {"additionalOperations": {"A/B": {"requestBody": body(SSN)}}}}
    (place.folder / "api.json").write_text(json.dumps(document(paths)))
    found = by_path(
        places_of(place.load(OPEN + place_of('openapi = "api.json"')), import_models=False).places
    )
    assert found == {"/a b/~c": ({"$.ssn"}, set())}


def test_parameters_and_headers_are_marked_where_they_stand(place):
    parameters = [
        {"in": "query", "name": "q", "schema": SENSITIVE},
        {"in": "cookie", "name": "sid", "schema": {"$ref": "#/components/schemas/S"}},
        {"$ref": "#/components/parameters/H"},
    ]
    found = document(
        {
            "/a": {
                "parameters": parameters[:1],
                "get": {
                    "parameters": parameters[1:],
                    "responses": {"200": {"headers": {"X-Out": {"schema": SENSITIVE}}}},
                },
            }
        },
        components={
            "schemas": {"S": SENSITIVE},
            "parameters": {"H": {"in": "header", "name": "X-In", "schema": SENSITIVE}},
        },
    )
    assert described(place, found) == {
        "/a": ({"query:q", "cookie:sid", "header:x-in"}, {"header:x-out"}),
    }


def test_paths_that_are_marked_alike_are_one_place(place):
    one = {"get": {"responses": {"200": body({"$ref": "#/components/schemas/C"})}}}
    found = document({f"/a{n}": one for n in range(50)}, components={"schemas": {"C": SSN}})
    (place.folder / "api.json").write_text(json.dumps(found))
    settings = place.load(OPEN + place_of('openapi = "api.json"'))
    (only,) = marked_places(settings)
    assert len(only.routes) == 50


def test_what_servers_put_in_front_of_a_path_is_a_route_too(place):
    operation = {"post": {"requestBody": body(SSN)}}
    servers = [{"url": "https://a.org/api/{v}", "variables": {"v": {"default": "v1"}}}, {"url": "/"}]
    found = document({"/a": {**operation, "servers": [{"url": "/own"}]}}, servers=servers)
    assert set(described(place, found)) == {"/a", "/api/v1/a", "/own/a"}
    mounted = described(place, found, service='mount = "/api"\n')
    assert set(mounted) == {"/a", "/api/v1/a", "/own/a", "/v1/a"}


def test_values_without_a_field_are_left_and_told_unless_the_place_takes_them(place):
    schema = {"properties": {"pin": {"x-sensitive-data": {"mask": "full"}}, "ssn": SENSITIVE}}
    found = document({"/a": {"post": {"requestBody": body(schema)}}})
    assert described(place, found) == {"/a": ({"$.ssn"}, set())}
    settings = place.load(OPEN + place_of('openapi = "api.json"'))
    (left,) = places_of(settings, import_models=False).left
    assert left[1].endswith("schema/properties/pin is sensitive, and names no field")
    assert described(place, found, "unnamed = true") == {"/a": ({"$.ssn", "$.pin"}, set())}


def test_fields_of_one_document_are_marked_side_by_side(place):
    iban = {"x-sensitive-data": "iban"}
    found = document(
        {"/a": {"post": {"requestBody": body({"properties": {"ssn": SENSITIVE, "iban": iban}})}}}
    )
    (place.folder / "api.json").write_text(json.dumps(found))
    text = OPEN + place_of('openapi = "api.json"') + place_of('openapi = "api.json"', "iban")
    marks = {(one.field, str(mark.mark)) for one in marked_places(place.load(text)) for mark in one.marks}
    assert marks == {("ssn", "$.ssn"), ("iban", "$.iban")}


def test_a_pattern_and_a_path_of_one_document_may_mark_the_same(place):
    operation = {"get": {"responses": {"200": body(SSN)}}}
    other = {"get": {"responses": {"200": body({"properties": {"ssn": SENSITIVE, "deep": SSN}})}}}
    found = described(place, document({"/a/{id}": operation, "/a/search": other}))
    assert found == {"/a/*": (set(), {"$.ssn"}), "/a/search": (set(), {"$.ssn", "$.deep.ssn"})}


def test_a_list_and_an_object_on_one_path_are_not_in_each_others_way(place):
    schema = {"properties": {"ssn": SENSITIVE, "iban": {"x-sensitive-data": "iban"}}}
    responses = {"200": body(schema), "201": body({"type": "array", "items": schema})}
    (place.folder / "api.json").write_text(json.dumps(document({"/a": {"get": {"responses": responses}}})))
    text = OPEN + place_of('openapi = "api.json"') + place_of('openapi = "api.json"', "iban")
    marks = {str(mark.mark) for one in marked_places(place.load(text)) for mark in one.response}
    assert marks == {"$.ssn", "$[*].ssn", "$.iban", "$[*].iban"}


def test_one_value_for_two_fields_is_told(place):
    schemas = ({"properties": {"id": SENSITIVE}}, {"properties": {"id": {"x-sensitive-data": "iban"}}})
    found = document({"/a": {"post": {"requestBody": body({"oneOf": list(schemas)})}}})
    (place.folder / "api.json").write_text(json.dumps(found))
    ((key, message, _),) = told(
        place, OPEN + place_of('openapi = "api.json"') + place_of('openapi = "api.json"', "iban")
    )
    assert key == "fields.iban.places[0].openapi"
    assert "oneOf/1/properties/id ($.id) may select a value that" in message


# What is wrong.


def told(place, text: str) -> list[tuple[str, str, str | None]]:
    return [(one.key, one.message, one.hint) for one in place.findings(text)]


@pytest.mark.parametrize(
    ("keys", "key", "message"),
    [
        ('marks = ["$.a"]', "routes", "is missing"),
        ('routes = []\nmarks = ["$.a"]', "routes", "is missing"),
        ('routes = ["/a"]', "marks", "is missing"),
        ('routes = ["/a"]\nopenapi = "api.json"', "routes", "is given beside openapi"),
        ('marks = ["$.a"]\nopenapi = "api.json"', "marks", "is given beside openapi"),
        ('marks_from = "a:B"\nopenapi = "api.json"', "marks_from", "is given beside openapi"),
        ('routes = ["/a"]\nmarks = ["$.a"]\nunnamed = true', "unnamed", "is of no use"),
        ('routes = ["/a"]\nmarks_from = "a:B"\nunnamed = true', "unnamed", "is of no use"),
        ('routes = ["/a"]\nmarks_from = "a.B"', "marks_from", 'as "module:Model"'),
        ('routes = ["/a"]\nmarks_from = "api.json#ssn"', "marks_from", "as FILE#/POINTER"),
        ('routes = ["/a"]\nmarks_from = "#/a"', "marks_from", "as FILE#/POINTER"),
        (
            'routes = ["/a"]\nmarks_from = "lost.json#/a"',
            "marks_from",
            "lost.json cannot be read: No such file",
        ),
        ('routes = ["/a"]\nmarks_from = "api.json#/lost"', "marks_from", "there is no #/lost"),
        ('routes = ["/a"]\nmarks_from = "api.json#/info"', "marks_from", "api.json marks nothing as ssn"),
        ('routes = ["/a"]\nmarks_from = "a:B"\nrequired = true', "required", "is for marks that stand here"),
        ('openapi = "api.json"\nrequired = true', "required", "is for marks that stand here"),
        ('openapi = "lost.json"', "openapi", "lost.json cannot be read: No such file or directory"),
        ('openapi = "."', "openapi", "is no file"),
    ],
)
def test_a_place_that_says_too_little_or_too_much_is_told(place, keys, key, message):
    operation = {"post": {"requestBody": body(SSN)}}
    (place.folder / "api.json").write_text(json.dumps(document({"/a": operation})))
    found = place.findings(OPEN + place_of(keys))
    (one,) = (one for one in found if one.key == f"fields.ssn.places[0].{key}")
    assert message in one.message
    assert one.source == str(place.file)
    assert one.line is not None


def cyclic() -> dict[str, Any]:
    a = {"$ref": "#/components/pathItems/B"}
    return document({"/a": a}, components={"pathItems": {"B": {"$ref": "#/components/pathItems/B"}}})


BAD_DOCUMENTS: dict[str, tuple[Any, str]] = {
    "no JSON": ("openapi: 3.1.0", "api.json is not JSON"),
    "too deep": ("[" * 100_000, "api.json is not JSON"),
    "a list": ([], "is not an object with names"),
    "of version 2": ({"swagger": "2.0", "paths": {}}, "is not an OpenAPI document of version 3"),
    "nothing in it": (document({}), "marks nothing as ssn"),
    "only without a field": (
        document({"/a": {"post": {"requestBody": body({"properties": {"a": {"x-sensitive-data": {}}}})}}}),
        "marks nothing as ssn",
    ),
    "a field that is not there": (
        document({"/a": {"post": {"requestBody": body({"properties": {"a": {"x-sensitive-data": "snn"}}})}}}),
        'is of a field "snn", which there is not',
    ),
    "a reference to nowhere": (
        document({"/a": {"post": {"requestBody": {"$ref": "#/components/requestBodies/X"}}}}),
        "there is no #/components/requestBodies/X",
    ),
    "a reference to another file": (
        document({"/a": {"post": {"requestBody": body({"$ref": "c.json"})}}}),
        "application~1json/schema: c.json cannot be read: No such file",
    ),
    "a reference that is no text": (
        document({"/a": {"post": {"requestBody": {"$ref": 5}}}}), "requestBody: $ref is not a text",
    ),
    "references in a circle": (cyclic(), "refers in a circle"),
    "the whole body": (
        document({"/a": {"post": {"requestBody": body(SENSITIVE)}}}), "would mark the whole body",
    ),
    "an impossible path": (document({"a": {"post": {"requestBody": body(SSN)}}}), "starts with a slash"),
    "a part of a path": (
        document({"/a/{q}": {"parameters": [{"in": "path", "name": "q", "schema": SENSITIVE}],
                             "post": {"requestBody": body(SSN)}}}),
        "is in path:q of /a/{q}, where nothing can be marked",
    ),
    "a part of a parameter": (
        document({"/a": {"get": {"parameters": [{"in": "query", "name": "q", **body(SSN)}]}}}),
        "is in query:q of /a, where nothing can be marked",
    ),
    "a header that must stay readable": (
        document({"/a": {"get": {"responses": {"200": {"headers": {"ETag": {"schema": SENSITIVE}}}}}}}),
        "is in header:ETag of /a, where nothing can be marked",
    ),
    "marks within each other": (
        document({"/a": {"post": {"requestBody": body({"oneOf": [
            {"properties": {"ssn": SENSITIVE}},
            {"properties": {"ssn": {"properties": {"b": SENSITIVE}}}}]})}}}),
        "may select a value that api.json#",
    ),
}  # fmt: skip


@pytest.mark.parametrize("bad", BAD_DOCUMENTS)
def test_a_document_that_cannot_be_followed_is_named_with_what_is_wrong(place, bad):
    found, message = BAD_DOCUMENTS[bad]
    (place.folder / "api.json").write_text(found if isinstance(found, str) else json.dumps(found))
    (one,) = place.findings(OPEN + place_of('openapi = "api.json"'))
    assert one.key == "fields.ssn.places[0].openapi"
    assert message in one.message
    assert one.line == (OPEN + place_of("")).count("\n") - 2


IN_YAML = """\
openapi: 3.1.0
info: {title: Shop, version: 1}
paths:
  /people/{id}:
    post:
      requestBody: &body
        content:
          application/json:
            schema: {$ref: '#/components/schemas/Person'}
      responses:
        200: *body
components:
  schemas:
    Person:
      properties:
        no:
          x-sensitive-data: {mask: full, field: ssn}
        name: {type: string}
"""


@pytest.mark.parametrize("name", ["api.yaml", "api.YML"])
def test_a_document_in_yaml_marks_what_it_would_mark_in_json(place, name):
    (place.folder / name).write_text(IN_YAML)
    settings = place.load(OPEN + place_of(f'openapi = "{name}"'))
    assert by_path(places_of(settings, import_models=False).places) == {"/people/*": ({"$.no"}, {"$.no"})}
    schema = f"{name}#/components/schemas/Person"
    settings = place.load(OPEN + place_of(f'routes = ["/a"]\nmarks_from = "{schema}"'))
    assert by_path(places_of(settings, import_models=False).places) == {"/a": ({"$.no"}, {"$.no"})}


MERGING = """\
openapi: 3.1
x-parts:
  secret: &secret {type: string, x-sensitive-data: {field: ssn}}
  answers: &answers
    '200':
      content:
        application/json:
          schema: {properties: {ssn: {<<: *secret, maxLength: 11}}}
paths:
  /a:
    get:
      responses: {<<: *answers, '404': {description: none}}
"""


@pytest.mark.parametrize("version", ["3.0", "3.1", "3.2", "'3.1'", "3.1.0"])
def test_a_document_with_merge_keys_and_a_version_without_quotes_marks_what_it_merges(place, version):
    (place.folder / "api.yaml").write_text(MERGING.replace("3.1", version, 1))
    settings = place.load(OPEN + place_of('openapi = "api.yaml"'))
    assert by_path(places_of(settings, import_models=False).places) == {"/a": (set(), {"$.ssn"})}


def test_a_yaml_document_is_refused_with_what_to_do_where_nothing_reads_it(place, monkeypatch):
    monkeypatch.setitem(sys.modules, "yaml", None)
    (place.folder / "api.yaml").write_text(IN_YAML)
    ((key, message, _),) = told(place, OPEN + place_of('openapi = "api.yaml"'))
    assert key == "fields.ssn.places[0].openapi"
    assert message.endswith(
        "api.yaml is YAML, and PyYAML is not installed: pip install 'secmiddleware[openapi]', or convert it "
        "to JSON"
    )


def test_a_yaml_document_that_says_a_thing_twice_is_named_with_the_line(place):
    (place.folder / "api.yaml").write_text(IN_YAML + "    Person: {}\n")
    ((_, message, _),) = told(place, OPEN + place_of('openapi = "api.yaml"'))
    assert message.endswith("api.yaml has the key 'Person' twice in one mapping, line 19")


def test_a_json_document_that_says_a_thing_twice_is_refused(place):
    (place.folder / "api.json").write_text('{"openapi": "3.1.0", "paths": {}, "paths": {}}')
    ((_, message, _),) = told(place, OPEN + place_of('openapi = "api.json"'))
    assert message.endswith("api.json has the key 'paths' twice in one object")


def test_a_document_that_is_too_large_is_not_read(place, monkeypatch):
    monkeypatch.setattr("secmiddleware.fields.schema_files.LARGEST", 10)
    (place.folder / "api.json").write_text(json.dumps(document({})))
    ((_, message, _),) = told(place, OPEN + place_of('openapi = "api.json"'))
    assert message.endswith("api.json is larger than 10 bytes")


def test_what_two_fields_mark_is_told_with_both_origins(place):
    (place.folder / "api.json").write_text(json.dumps(document({"/a": {"post": {"requestBody": body(SSN)}}})))
    by_hand = place_of('routes = ["/a"]\nmarks = ["$.ssn"]', "iban")
    ((key, message, _),) = told(place, OPEN + by_hand + place_of('openapi = "api.json"'))
    assert key == "fields.ssn.places[0].openapi"
    assert "($.ssn) may select a value that fields.iban.places[0].marks[0] selects too" in message


def test_a_path_that_is_open_to_all_holds_no_bound_field(place):
    (place.folder / "api.json").write_text(json.dumps(document({"/a": {"post": {"requestBody": body(SSN)}}})))
    found = told(place, OPEN + place_of('openapi = "api.json"', more='bind = "tenant"\n'))
    (one,) = (message for key, message, _ in found if key == "fields.ssn.places[0].openapi")
    assert one == "has /a, and mtls.client lets callers in without a certificate"


@pytest.mark.parametrize(
    ("source", "message", "hint"),
    [
        ("shop_lost:Customer", "shop_lost cannot be imported: ModuleNotFoundError", None),
        ("shop_broken:Customer", "shop_broken cannot be imported: ZeroDivisionError", None),
        ("shop_models:Lost", "shop_models has no Lost, or not yet", None),
        ("shop_models:Plain", "shop_models:Plain marks nothing as ssn", 'Annotated[str, Encrypted("ssn")]'),
        ("shop_models:Typo", 'Typo.a is of a field "snn", which there is not', 'did you mean "ssn"?'),
        ("shop_models:Iban", 'Iban.a is of a field "iban", which there is not', "[fields.iban]"),
        ("shop_models:BaseModel.mro", "there is no JSON Schema of it", None),
    ],
)
def test_a_model_that_marks_nothing_keeps_the_service_from_starting(place, module, source, message, hint):
    settings = place.load(OPEN + place_of(f'routes = ["/a"]\nmarks_from = "{source}"'))
    with pytest.raises(ConfigError) as caught:
        SecurityManager(settings)
    first = caught.value.findings[0]
    assert (first.key, first.source) == ("fields.ssn.places[0].marks_from", str(place.file))
    assert message in first.message
    assert hint is None or hint in str(first.hint)


def test_marks_of_a_model_that_are_in_anothers_way_keep_the_service_from_starting(place, module):
    text = OPEN + place_of(f'routes = ["/a"]\nmarks = ["$.ssn.a"]\nmarks_from = "{module}:Customer"')
    settings = place.load(text)
    with pytest.raises(ConfigError, match=r"shop_models:Customer\.ssn \(\$\.ssn\) may select"):
        SecurityManager(settings)


def test_a_mapping_takes_documents_and_models_too(place, module, monkeypatch):
    monkeypatch.chdir(place.folder)
    Path("api.json").write_text(json.dumps(document({"/a": {"post": {"requestBody": body(SSN)}}})))
    fields = {"ssn": {"places": [{"openapi": "api.json", "request": "decrypt"}]}}
    keys = {"ring": "r", "store": "memory:", "kek": "file:state/kek"}
    manager = SecurityManager.from_config(
        {"service": {"name": "s"}, "mtls": {"client": "off"}, "keys": keys, "fields": fields}, {}
    )
    assert by_path(marked_places(manager.settings)) == {"/a": ({"$.ssn"}, set())}
