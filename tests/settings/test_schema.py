"""The JSON Schema that ships says what the models say, as far as a schema can."""

from __future__ import annotations

import json
import tomllib
from importlib.resources import files
from typing import Any

import jsonschema
import pytest
from pydantic import ValidationError
from settings.documents import FIELD, FULL, KEYS, MTLS, SERVICE

from secmiddleware.settings.loading import _frozen
from secmiddleware.settings.models import Settings
from secmiddleware.settings.schema import make_schema, write_schema

TEXT = (files("secmiddleware.settings") / "schema.json").read_text(encoding="utf-8")
SHIPPED = json.loads(TEXT)
VALIDATOR = jsonschema.Draft202012Validator(SHIPPED)


def accepted_by_the_models(document: dict[str, Any]) -> bool:
    try:
        Settings.model_validate(_frozen(document))
    except ValidationError:
        return False
    return True


def test_the_schema_that_ships_is_what_the_models_generate():
    assert write_schema(make_schema()) == TEXT


def test_it_is_a_schema_of_the_dialect_that_it_names():
    assert SHIPPED["$schema"] == jsonschema.Draft202012Validator.META_SCHEMA["$id"]
    jsonschema.Draft202012Validator.check_schema(SHIPPED)


def test_every_key_but_the_sections_is_described():
    for table in SHIPPED["$defs"].values():
        if set(table["properties"]) & {"file", "env"}:
            continue
        assert [key for key, value in table["properties"].items() if "description" not in value] == []


def test_every_default_is_a_value_that_the_file_may_have():
    for name, table in SHIPPED["$defs"].items():
        for key, schema in table["properties"].items():
            if "default" in schema:
                within = VALIDATOR.evolve(schema={**schema, "$defs": SHIPPED["$defs"]})
                assert within.is_valid(schema["default"]), f"{name}.{key}"


def test_defaults_are_written_as_in_the_file():
    keys, rotation = SHIPPED["$defs"]["KeysSettings"], SHIPPED["$defs"]["RotationSettings"]
    assert keys["properties"]["rotate_every"]["default"] == "30d"
    assert rotation["properties"]["poll"]["default"] == "30s"
    assert rotation["properties"]["broker"]["default"] == ""


VALID = {
    "the least": SERVICE,
    "the example": FULL,
    "a field": SERVICE + MTLS + KEYS + FIELD,
    "sizes": '[service]\nname = "a"\nmax_body = "512KiB"\n',
    "bytes": '[service]\nname = "a"\nmax_body = 1000\n',
    "references": SERVICE
    + '[keys]\nring = "r"\nstore = "memory:"\nkek = { file = "kek" }\n[rotation]\nbroker = { env = "B" }\n',
    "trust in its long form": SERVICE + '[mtls]\ntrust = [{ ca = "a.pem", may_assert = ["dns:*.a.org"] }]\n',
    "a proxy and JWEs": SERVICE
    + '[mtls]\nsource = "nginx"\n[fields.a]\nformat = "jwe"\n[fields.a.jwe]\nalg = "dir"\n'
    + '[fields.b.jwe]\nalg = ["RSA-OAEP-256"]\nrecipient = "file:a.pem"\nkeys = ["a.key"]\n',
}


@pytest.mark.parametrize("text", VALID.values(), ids=VALID)
def test_what_loads_is_valid(text, monkeypatch):
    monkeypatch.setenv("B", "")
    document = tomllib.loads(text)
    assert accepted_by_the_models(document)
    VALIDATOR.validate(document)


INVALID = {
    "nothing": "",
    "no name": "[service]\nmount = ''\n",
    "a section too many": SERVICE + "[secrets]\n",
    "a misspelt section": SERVICE + "[mtl]\n",
    "a misspelt key": SERVICE + '[mtls]\nclinet = "off"\n',
    "a misspelt word": SERVICE + '[mtls]\nclient = "of"\n',
    "a word in upper case": SERVICE + '[mtls]\nclient = "OFF"\n',
    "another type": "[service]\nname = 7\n",
    "a text for a list": SERVICE + '[mtls]\ntrust = "ca.pem"\n',
    "a number in a list": SERVICE + "[mtls]\ntrust = [1]\n",
    "a list for a table": '[[service]]\nname = "a"\n',
    "a table for a list": SERVICE + '[routes]\npath = "/a"\n',
    "a text for a table": 'service = "a"\n',
    "a text for a boolean": SERVICE + '[fields.a]\nleak_guard = "true"\n',
    "a number for a boolean": SERVICE + "[fields.a]\nleak_guard = 1\n",
    "a boolean for a number": SERVICE
    + '[keys]\nring="r"\nstore="memory:"\nkek="env:K"\nmin_generation = true\n',
    "a generation that no ring can have": SERVICE
    + f'[keys]\nring="r"\nstore="memory:"\nkek="env:K"\nmin_generation = {2**53}\n',
    "a negative number": SERVICE + '[keys]\nring="r"\nstore="memory:"\nkek="env:K"\nmin_generation = -1\n',
    "keys without a ring": SERVICE + '[keys]\nstore = "memory:"\nkek = "env:K"\n',
    "a route without a path": SERVICE + '[[routes]]\nclient = "off"\n',
    "trust without a file": SERVICE + '[mtls]\ntrust = [{ may_assert = ["dns:a.org"] }]\n',
    "an unknown kind of reference": SERVICE + '[rotation]\nbroker = { path = "a" }\n',
    "two references": SERVICE + '[rotation]\nbroker = { file = "a", env = "B" }\n',
    "no reference": SERVICE + "[rotation]\nbroker = {}\n",
    "a duration without a unit": SERVICE + '[rotation]\npoll = "30"\n',
    "a duration as a number": SERVICE + "[rotation]\npoll = 30\n",
    "a duration with two units": SERVICE + '[rotation]\npoll = "1m30s"\n',
    "a negative duration": SERVICE + '[rotation]\npoll = "-30s"\n',
    "a size with a strange unit": '[service]\nname = "a"\nmax_body = "4MB"\n',
    "no size": '[service]\nname = "a"\nmax_body = 0\n',
    "a size without end": '[service]\nname = "a"\nmax_body = 1073741825\n',
    "too many routes": SERVICE + '[[routes]]\npath = "/a"\n' * 1001,
    "a date": "[service]\nname = 1979-05-27\n",
}


@pytest.mark.parametrize("text", INVALID.values(), ids=INVALID)
def test_what_a_schema_can_tell_is_refused_by_both(text, monkeypatch):
    monkeypatch.setenv("B", "")
    document = tomllib.loads(text)
    assert not accepted_by_the_models(document)
    assert not VALIDATOR.is_valid(document)
