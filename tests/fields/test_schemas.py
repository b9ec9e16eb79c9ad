"""Marks out of schemas and models: all that is sensitive is marked, under every name that it may have."""

from __future__ import annotations

import dataclasses
import json
from decimal import Decimal
from enum import Enum
from typing import Annotated, Any, Generic, Literal, NamedTuple, TypeVar
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import (
    AliasChoices,
    AliasPath,
    BaseModel,
    ConfigDict,
    Field,
    PlainSerializer,
    RootModel,
    TypeAdapter,
    computed_field,
)
from pydantic.alias_generators import to_camel
from pydantic.dataclasses import dataclass as pydantic_dataclass
from typing_extensions import TypeAliasType, TypedDict

from secmiddleware import Encrypted
from secmiddleware.fields.json_rewriting import Locator
from secmiddleware.fields.model_schemas import schema_of
from secmiddleware.fields.schema_files import Documents, SchemaError, escaped
from secmiddleware.fields.schemas import Survey

SENSITIVE = {"type": "string", "x-sensitive-data": {"mask": "full", "field": "ssn"}}
SSN = Annotated[str, Encrypted("ssn")]
T = TypeVar("T")


def marks_in(schema: Any) -> dict[str, str | None]:
    """Mark and field of all that is sensitive in a document that is one schema."""
    return {str(found.mark()): found.field for found in Survey(Documents(schema)).found_at("#")}


def marks_of(model: Any, way: str = "request") -> set[str]:
    return set(marks_in(schema_of(model, way)))


class Address(BaseModel):
    street: Annotated[str, Encrypted("street")]
    city: str


class Base(BaseModel):
    ssn: SSN


class Customer(Base):
    name: str
    home: Address
    others: list[Address] = []
    by_name: dict[str, Address] = {}
    maybe: SSN | None = None
    numbers: list[SSN] = []
    either: Address | int = 1
    amount: Annotated[Decimal, Encrypted("amount")] = Decimal(1)
    whole: Annotated[Address, Encrypted("whole")] | None = None


def test_nested_models_lists_mappings_and_optionals_are_followed():
    expected = {
        "$.ssn": "ssn",
        "$.home.street": "street",
        "$.others[*].street": "street",
        "$.by_name[*].street": "street",
        "$.maybe": "ssn",
        "$.numbers[*]": "ssn",
        "$.either.street": "street",
        "$.amount": "amount",
        "$.whole": "whole",
    }
    for way in ("request", "response"):
        assert marks_in(schema_of(Customer, way)) == expected


def test_what_the_model_reads_and_writes_is_what_is_marked():
    """The oracle is Pydantic itself: a value is looked for in what the model makes of it."""
    address = {"street": "SECRET", "city": "x"}
    body = Customer.model_validate(
        {
            "ssn": "SECRET",
            "name": "x",
            "home": address,
            "others": [address, address],
            "by_name": {"a": address, "b": address},
            "maybe": "SECRET",
            "numbers": ["SECRET", "SECRET"],
            "either": address,
        }
    ).model_dump_json()
    data = body.encode()
    found = Survey(Documents(schema_of(Customer, "response"))).found_at("#")
    hits = Locator([one.mark() for one in found]).locate(data)
    for hit in reversed(hits):
        data = data[: hit.start] + b"0" + data[hit.end :]
    assert body.count("SECRET") == 10
    assert b"SECRET" not in data
    assert json.loads(data)["name"] == "x"


class Aliased(BaseModel):
    model_config = ConfigDict(alias_generator=to_camel)
    plain_name: SSN
    given: SSN = Field(validation_alias="in", serialization_alias="out")
    several: SSN = Field(validation_alias=AliasChoices("one", "two", AliasPath("deep", 0, "three")))
    path: SSN = Field(validation_alias=AliasPath("a", "b"))

    @computed_field(alias="last4")
    def last_four(self) -> Annotated[str, Encrypted("last")]:
        return self.given[-4:]


def test_every_name_that_a_value_may_come_or_go_by_is_marked():
    """Whether the model takes its names beside its aliases is a switch that somebody turns later."""
    assert marks_of(Aliased) == {
        "$.plain_name", "$.plainName", "$.given", "$.in", "$.several", "$.one", "$.two", "$.deep[0].three",
        "$.path", "$.a.b",
    }  # fmt: skip
    assert marks_of(Aliased, "response") == {
        "$.plain_name", "$.plainName", "$.given", "$.out", "$.several", "$.path", "$.last_four", "$.last4",
    }  # fmt: skip


def test_an_alias_that_is_another_attributes_name_marks_both():
    class Crossed(BaseModel):
        a: SSN = Field(alias="b")
        b: int = Field(alias="a")

    assert marks_of(Crossed) == {"$.a", "$.b"}


def test_an_alias_that_counts_from_the_end_is_refused():
    class Last(BaseModel):
        a: SSN = Field(validation_alias=AliasPath("list", -1))

    with pytest.raises(SchemaError, match=r"Last\.a: its alias counts from the end"):
        schema_of(Last, "request")


class Node(BaseModel):
    ssn: SSN
    label: str
    children: list[Node] = []


class Tree(BaseModel):
    ssn: SSN
    root: Node


def test_a_model_within_itself_is_marked_at_any_depth():
    assert marks_of(Node) == {"$..ssn"}
    assert marks_of(Tree) == {"$.ssn", "$.root..ssn"}


def test_models_within_each_other_are_marked_at_any_depth():
    assert marks_of(Parent) == {"$..secret", "$..lists[*]"}


class Parent(BaseModel):
    child: Child | None = None
    secret: SSN


class Child(BaseModel):
    parents: dict[str, Parent] = {}
    lists: list[SSN] = []


class Mixed(BaseModel):
    id: SSN
    other: Other | None = None


class Other(BaseModel):
    id: int
    back: Mixed | None = None


def test_a_name_at_any_depth_that_is_sometimes_something_else_is_refused():
    with pytest.raises(SchemaError, match=r"'id' is sensitive in one part of it and different in another"):
        marks_of(Mixed)


Nested = TypeAliasType("Nested", "list[Nested] | SSN")


def test_a_type_within_itself_without_a_name_is_refused():
    class Holder(BaseModel):
        value: Nested

    with pytest.raises(SchemaError, match="without a name on the way"):
        marks_of(Holder)


class Envelope(BaseModel, Generic[T]):
    data: T


class Cat(BaseModel):
    kind: Literal["cat"]
    chip: SSN


class Dog(BaseModel):
    kind: Literal["dog"]
    tag: Annotated[int, Encrypted("tag")]


class Pair(NamedTuple):
    public: str
    secret: SSN


class Row(TypedDict):
    ssn: SSN
    n: int


@dataclasses.dataclass
class Record:
    ssn: SSN
    n: int = 1


@pydantic_dataclass
class Checked:
    ssn: SSN = Field(alias="SSN")


class Colour(Enum):
    RED = "red"


class Odd(BaseModel):
    model_config = ConfigDict(arbitrary_types_allowed=True)
    call: Any = print
    colour: Colour = Colour.RED
    thing: type = int
    ssn: Annotated[str, PlainSerializer(lambda value: {"v": value}), Encrypted("ssn")]


class Extra(BaseModel):
    model_config = ConfigDict(extra="allow")
    a: int
    ssn: SSN


@pytest.mark.parametrize(
    ("model", "marks"),
    [
        (Envelope[Base], {"$.data.ssn"}),
        (list[Base], {"$[*].ssn"}),
        (dict[str, list[SSN]], {"$[*][*]"}),
        (RootModel[list[Base]], {"$[*].ssn"}),
        (Annotated[Cat | Dog, Field(discriminator="kind")], {"$.chip", "$.tag"}),
        (tuple[int, SSN], {"$[1]"}),
        (Pair, {"$[1]"}),
        (Row, {"$.ssn"}),
        (Record, {"$.ssn"}),
        (Checked, {"$.ssn", "$.SSN"}),
        (Odd, {"$.ssn"}),
        (Extra, {"$.ssn"}),
        (Envelope[TypeAliasType("Ssn", SSN)], {"$.data"}),
        (TypeAdapter(int).core_schema and int, set()),
    ],
    ids=lambda value: " ".join(sorted(value)) if isinstance(value, set) else str(value),
)
def test_whatever_pydantic_takes_is_followed(model, marks):
    assert marks_of(model) == marks
    assert {mark for mark in marks_of(model, "response") if mark != "$.SSN"} == marks - {"$.SSN"}


def test_the_attribute_is_told_where_a_mark_comes_from():
    found = {
        str(one.mark()): one.origin for one in Survey(Documents(schema_of(Customer, "request"))).found_at("#")
    }
    here = __name__
    assert found["$.ssn"] == f"{here}:Customer.ssn"
    assert found["$.others[*].street"] == f"{here}:Address.street"
    assert found["$.whole"] == f"{here}:Customer.whole"


@pytest.mark.parametrize("name", ["", "1", "a b", "__a" * 30, None, 1])
def test_encrypted_takes_the_name_of_a_field_and_nothing_else(name):
    with pytest.raises(ValueError, match="name of a field"):
        Encrypted(name)


def test_a_model_works_as_it_did_and_its_documentation_masks_the_value():
    assert Base(ssn="1").model_dump() == {"ssn": "1"}
    assert Base.model_json_schema()["properties"]["ssn"]["x-sensitive-data"] == {
        "mask": "full",
        "field": "ssn",
    }


@pytest.mark.parametrize(
    ("schema", "marks"),
    [
        ({"properties": {"a.b": SENSITIVE, "c d": SENSITIVE}}, {"$['a.b']", "$['c d']"}),
        (
            {"allOf": [{"properties": {"a": SENSITIVE}}, {"anyOf": [{"properties": {"b": SENSITIVE}}]}]},
            {"$.a", "$.b"},
        ),
        (
            {"if": True, "then": {"properties": {"a": SENSITIVE}}, "else": {"properties": {"b": SENSITIVE}}},
            {"$.a", "$.b"},
        ),
        ({"patternProperties": {"^x": SENSITIVE}}, {"$[*]"}),
        ({"items": [{}, SENSITIVE]}, {"$[1]"}),
        ({"prefixItems": [True, SENSITIVE]}, {"$[1]"}),
        ({"properties": {"a": True, "b": False}}, set()),
        ({"properties": {"a": {"x-sensitive-data": "ssn"}}}, {"$.a"}),
        ({"properties": {"a": {"x-sensitive-data": {"mask": "full"}}}}, {"$.a"}),
        ({"properties": {"a": {"x-sensitive-data": False}}}, set()),
        ({"properties": {"x-sensitive-data": {"type": "string"}}}, set()),
        ({"properties": {"a": {"$ref": "#/$defs/a~1b%20c"}}, "$defs": {"a/b c": SENSITIVE}}, {"$.a"}),
        ({"properties": {"a": {"x-sensitive-data": "ssn", "properties": {"b": SENSITIVE}}}}, {"$.a"}),
    ],
)
def test_a_schema_is_followed_wherever_it_leads(schema, marks):
    assert set(marks_in(schema)) == marks


@pytest.mark.parametrize(
    ("schema", "told"),
    [
        (SENSITIVE, "would mark the whole body"),
        ({"properties": {"a": {"$ref": "other.json#/a"}}}, "leads out of the document"),
        ({"properties": {"a": {"$ref": "#anchor"}}}, "leads to an anchor, '#anchor'; say where it stands"),
        ({"properties": {"a": {"$id": "b", "$ref": "#/$defs/c"}}, "$defs": {"c": {}}}, "a: \\$id makes it a"),
        ({"$ref": "#/$defs/a/$defs/b", "$defs": {"a": {"$id": "c", "$defs": {"b": {}}}}}, "\\$id makes it a"),
        ({"properties": {"a": {"$ref": "#/properties/a"}}}, "#/properties/a: is made of itself"),
        ({"$ref": "#/$defs/a", "$defs": {"a": {"allOf": [{"$ref": "#/$defs/a"}]}}}, "is made of itself"),
        (
            {
                "$ref": "#/$defs/a",
                "$defs": {
                    "a": {"allOf": [{}, {"allOf": [{"$ref": "#/$defs/b"}]}]},
                    "b": {"$ref": "#/$defs/a"},
                },
            },
            "is made of itself",
        ),
        ({"properties": {"a": {"$ref": "#/$defs/none"}}}, "there is no #/\\$defs/none"),
        ({"properties": {"a": {"$ref": 1}}}, "is not a text"),
        ({"properties": {"a": {"$dynamicRef": "#x"}}}, "is not followed"),
        ({"properties": {"a": {}}, "additionalProperties": SENSITIVE}, r"\[\*\] would select properties"),
        ({"prefixItems": [{}], "items": SENSITIVE}, r"\[\*\] would select prefixItems"),
    ],
)
def test_what_cannot_be_marked_is_refused_and_says_where(schema, told):
    with pytest.raises(SchemaError, match=told):
        marks_in(schema)


def test_references_that_double_at_each_step_are_followed_once():
    """2 to the 60th paths, none of them sensitive; and a chain of which the end is."""
    defs: dict[str, Any] = {
        f"d{n}": {"properties": {"a": {"$ref": f"#/$defs/d{n + 1}"}, "b": {"$ref": f"#/$defs/d{n + 1}"}}}
        for n in range(60)
    }
    schema = {"properties": {"a": {"$ref": "#/$defs/d0"}}, "$defs": {**defs, "d60": {"type": "string"}}}
    assert marks_in(schema) == {}


def test_more_marks_than_anybody_could_use_are_refused_in_time():
    defs: dict[str, Any] = {
        f"d{n}": {"properties": {"a": {"$ref": f"#/$defs/d{n + 1}"}, "b": {"$ref": f"#/$defs/d{n + 1}"}}}
        for n in range(60)
    }
    schema = {"properties": {"a": {"$ref": "#/$defs/d0"}}, "$defs": {**defs, "d60": SENSITIVE}}
    with pytest.raises(SchemaError, match="marks"):
        marks_in(schema)


PET = {"discriminator": {"propertyName": "type"}, "properties": {"chip": SENSITIVE, "name": {}}}


def made_of(base: str, *, says: str = "a", **more: Any) -> dict[str, Any]:
    return {"allOf": [{"$ref": f"#/$defs/{base}"}, {"properties": {says: SENSITIVE}}], **more}


def referring(defs: dict[str, Any], to: str = "Pet") -> dict[str, Any]:
    return {"properties": {"v": {"$ref": f"#/$defs/{to}"}}, "$defs": defs}


HIERARCHY = {
    "Pet": PET,
    "Dog": made_of("Pet", says="bark"),
    "Cat": made_of("Pet", says="purr"),
    "Puppy": made_of("Dog", says="toy"),
    "Alias": {"$ref": "#/$defs/Pet"},
    "Bird": {"$ref": "#/$defs/Alias", "properties": {"wing": SENSITIVE}},
    "Other": {"properties": {"other": SENSITIVE}},
    "MaybePet": {"allOf": [{"$ref": "#/$defs/Pet"}], "nullable": True},
}


@pytest.mark.parametrize(
    ("schema", "members"),
    [
        ("Pet", {"chip", "bark", "purr", "toy", "wing"}),
        ("Alias", {"chip", "bark", "purr", "toy", "wing"}),
        ("MaybePet", {"chip", "bark", "purr", "toy", "wing"}),
        ("Dog", {"chip", "bark", "toy"}),
        ("Puppy", {"chip", "bark", "toy"}),
        ("Cat", {"chip", "purr"}),
        ("Bird", {"chip", "wing"}),
    ],
)
def test_a_value_with_a_discriminator_may_be_of_each_subtype_and_of_no_other(schema, members):
    assert set(marks_in(referring(HIERARCHY, schema))) == {f"$.v.{name}" for name in members}


@pytest.mark.parametrize(
    "wrapped",
    [
        {"allOf": [{"$ref": "#/$defs/Pet"}], "description": "as those write it whose $ref stands alone"},
        {"oneOf": [{"$ref": "#/$defs/Pet"}, {"type": "null"}]},
        {"items": {"$ref": "#/$defs/Pet"}},
        {"allOf": [{"$ref": "#/$defs/Pet"}, {"properties": {"owner": {}}}]},
    ],
)
def test_subtypes_are_meant_wherever_their_base_is_the_value(wrapped):
    marks = set(marks_in({"properties": {"v": wrapped}, "$defs": HIERARCHY}))
    each = "[*]" if "items" in wrapped else ""
    assert marks == {f"$.v{each}.{name}" for name in ("chip", "bark", "purr", "toy", "wing")}


def test_without_a_discriminator_a_value_is_what_its_schema_says():
    base = {"properties": PET["properties"]}
    assert set(marks_in(referring({**HIERARCHY, "Pet": base}))) == {"$.v.chip"}


@pytest.mark.parametrize("named", ["#/$defs/Fish", "#/$defs/Fi%73h"])
def test_what_a_discriminator_maps_to_is_a_subtype(named):
    about = {"propertyName": "type", "mapping": {"f": named, "self": "#/$defs/Pet", "d": "#/$defs/Dog"}}
    fish = {"properties": {"fin": SENSITIVE}, "discriminator": {"mapping": {"s": "#/$defs/Shark"}}}
    defs = {**HIERARCHY, "Pet": {**PET, "discriminator": about}, "Fish": fish}
    defs |= {"Shark": {"properties": {"tooth": SENSITIVE}}, "Carp": made_of("Fish", says="scale")}
    members = ("chip", "bark", "purr", "toy", "wing", "fin", "tooth", "scale")
    assert set(marks_in(referring(defs))) == {f"$.v.{name}" for name in members}


def test_a_discriminator_names_schemas_of_the_document_by_their_names():
    about = {"propertyName": "type", "mapping": {"x": "a.b"}, "defaultMapping": "Other"}
    schemas = {
        "Pet": {**PET, "discriminator": about},
        "a.b": {"properties": {"a": SENSITIVE}},
        "Other": {"properties": {"b": SENSITIVE}},
    }
    schema = {"properties": {"v": {"$ref": "#/components/schemas/Pet"}}, "components": {"schemas": schemas}}
    assert set(marks_in(schema)) == {"$.v.chip", "$.v.a", "$.v.b"}


def test_a_discriminator_that_names_what_there_is_not_is_refused():
    about = {"propertyName": "type", "mapping": {"x": "#/$defs/None"}}
    with pytest.raises(SchemaError, match="there is no #/\\$defs/None"):
        marks_in(referring({"Pet": {**PET, "discriminator": about}}))


def test_pets_within_pets_are_marked_at_any_depth_with_their_subtypes():
    defs = {**HIERARCHY, "Pet": {**PET, "properties": {**PET["properties"], "of": {"$ref": "#/$defs/Pet"}}}}
    members = ("chip", "bark", "purr", "toy", "wing")
    assert set(marks_in(referring(defs))) == {f"$.v..{name}" for name in members}


def test_a_base_that_lists_what_is_made_of_it_marks_all_of_that():
    alternatives = [{"$ref": "#/$defs/Dog"}, {"$ref": "#/$defs/Cat"}, {"$ref": "#/$defs/Other"}]
    listing = {**HIERARCHY, "Pet": {**PET, "oneOf": alternatives}}
    members = {"chip", "bark", "purr", "toy", "wing", "other"}
    for schema in ("Pet", "Dog", "Puppy", "MaybePet"):
        assert set(marks_in(referring(listing, schema))) == {f"$.v.{name}" for name in members}
    sensitive = {**HIERARCHY, "Pet": {**PET, "oneOf": [{"$ref": "#/$defs/Dog", **SENSITIVE}]}}
    assert "$.v" in marks_in(referring(sensitive))


def test_a_hundred_subtypes_of_subtypes_are_followed_in_time():
    defs = {"Pet": PET, **{f"d{n}": made_of(f"d{n - 1}" if n else "Pet", says=f"m{n}") for n in range(150)}}
    assert len(marks_in(referring(defs))) == 151


def test_what_is_made_of_more_than_anybody_makes_it_of_is_refused():
    defs = {"Pet": PET, **{f"d{n}": made_of(f"d{n - 1}" if n else "Pet", says=f"m{n}") for n in range(250)}}
    with pytest.raises(SchemaError, match="is made of more than 200 schemas"):
        marks_in(referring(defs))


@given(st.text(max_size=8), st.booleans())
def test_a_name_with_any_character_in_it_is_found_again(name, quoted):
    fragment = quote(name.replace("~", "~0").replace("/", "~1")) if quoted else escaped(name)
    schema = {"properties": {"a": {"$ref": f"#/$defs/{fragment}"}}, "$defs": {name: SENSITIVE}}
    assert marks_in(schema) == {"$.a": "ssn"}


def test_schemas_within_each_other_are_followed_so_far_and_no_further(monkeypatch):
    defs = {
        f"d{n}": {"properties": {"a": {"$ref": f"#/$defs/d{(n + 1) % 30}"}, "ssn": SENSITIVE}}
        for n in range(30)
    }
    schema = {"properties": {f"v{n}": {"$ref": f"#/$defs/d{n}"} for n in range(30)}, "$defs": defs}
    assert set(marks_in(schema)) == {f"$.v{n}..ssn" for n in range(30)}
    monkeypatch.setattr("secmiddleware.fields.schemas._MOST_FOLLOWED", 500)
    with pytest.raises(SchemaError, match="has too many schemas within each other to follow"):
        marks_in(schema)
