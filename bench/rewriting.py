"""The rows of rewriting: marked values found and replaced, beside an orjson round trip of the same body.

The peer parses and dumps the whole body, and keeps no spaces, no `1.10` and no name that comes twice. Both
ways to find values are measured: a service's, and the walk, which is left where nothing can be proven.
"""

from __future__ import annotations

import json
import tracemalloc
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache, partial
from random import Random
from typing import Any

import orjson

from bench.measure import Row
from secmiddleware.encryption.keyring import Context, Keyring
from secmiddleware.fields.json_rewriting import Hit, Locator, splice
from secmiddleware.fields.marks import Mark

_FIELD = Context(field="ssn")
_NEW = b'"sm1.AQAAAAGrVtYsLWNu4lxJmZk1cX0Zb3JvdHRlbiBhcHBsZSBpbiBhIGJveA"'


@dataclass(frozen=True, slots=True)
class _Case:
    name: str
    body: bytes
    marks: tuple[str, ...]
    hits: int


def _person(number: int, random: Random) -> dict[str, Any]:
    return {
        "id": number,
        "uuid": f"{random.getrandbits(128):032x}",
        "name": f"Person {number}",
        "email": f"p{number}@example.org",
        "active": bool(number % 3),
        "balance": round(random.random() * 10_000, 2),
        "tags": ["alpha", "beta", "gamma"][: number % 4],
        "address": {
            "street": f"{number} Main Street",
            "city": "Zürich" if number % 50 == 0 else "Springfield",
            "geo": {"lat": round(random.random() * 90, 6), "lon": round(random.random() * 180, 6)},
        },
        "note": 'She said "hello" and left.' if number % 5 == 0 else "plain text of some length",
    }


@cache
def _people(size: int, hits: int, put: Callable[[dict[str, Any], str], None]) -> bytes:
    """Some `size` bytes of people, `hits` of whom have what `put` gives them."""
    random = Random(1)  # the same body in every run
    people: list[dict[str, Any]] = []
    length = 0
    while length < size:
        people.append(_person(len(people), random))
        length += len(json.dumps(people[-1], ensure_ascii=False)) + 2
    for number in range(hits):
        put(people[number * len(people) // hits], f"{number:03}-45-6789")
    return json.dumps({"page": 1, "items": people, "next": None}, ensure_ascii=False).encode()


def _flat(size: int) -> bytes:
    document: dict[str, Any] = {"id": 1, "name": "Ada", "email": "ada@example.org", "ssn": "123-45-6789"}
    for number in range(size):
        if len(json.dumps(document)) >= size:
            break
        document[f"text_{number}"] = f"some value {number}"
        document[f"number_{number}"] = number * 1.5
    return json.dumps(document).encode()


def _put_ssn(person: dict[str, Any], value: str) -> None:
    person["ssn"] = value


def _put_several(person: dict[str, Any], value: str) -> None:
    name = ("ssn", "iban")[person["id"] % 2]
    person[name] = value
    person["address"]["passport"] = value


def _put_latitude(person: dict[str, Any], value: str) -> None:
    person["lat"] = value


_ITEMS = ("$.items[*].ssn",)
_SEVERAL = ("$.items[*].ssn", "$.items[*].iban", "$.items[*].address.passport")


def _cases() -> Iterator[_Case]:
    yield _Case("1 kB, 1 of $.ssn", _flat(1000), ("$.ssn",), 1)
    yield _Case("1 kB, 1 of $.items[*].ssn", _people(900, 1, _put_ssn), _ITEMS, 1)
    yield _Case("100 kB, 10 of $.items[*].ssn", _people(100_000, 10, _put_ssn), _ITEMS, 10)
    yield _Case("100 kB, 10 of three marks", _people(100_000, 5, _put_several), _SEVERAL, 10)
    yield _Case("10 MB, 1000 of $.items[*].ssn", _people(10_000_000, 1000, _put_ssn), _ITEMS, 1000)
    yield _Case("10 MB, 1000 of three marks", _people(10_000_000, 500, _put_several), _SEVERAL, 1000)
    yield _Case(
        "10 MB, 1000, the name elsewhere too",
        _people(10_000_000, 1000, _put_latitude),
        ("$.items[*].lat",),
        1000,
    )
    yield _Case("10 MB, 1000 of $..ssn", _people(10_000_000, 1000, _put_ssn), ("$..ssn",), 1000)


def rewriting_rows(keyring: Keyring) -> Iterator[Row]:
    """Each body by each way, a token put in the place of each value; and once with real tokens."""
    now = datetime.now(UTC)
    for case in _cases():
        one = Locator([Mark.parse(mark) for mark in case.marks])
        assert len(one.locate(case.body)) == case.hits
        assert one.locate(case.body) == one.walk(case.body)
        peer = partial(_round_trip, case.body)
        yield Row(f"replace {case.name}", partial(_replaced, one.locate, case.body), "orjson", peer)
        yield Row(f"walk {case.name}", partial(_replaced, one.walk, case.body), "orjson", peer)
        if case.marks is _ITEMS:
            sealed = partial(_sealed, one.locate, case.body, keyring, now)
            yield Row(f"seal {case.name}", sealed, "orjson", peer)


def _round_trip(body: bytes) -> bytes:
    return orjson.dumps(orjson.loads(body))


def _replaced(locate: Callable[[bytes], Sequence[Hit]], body: bytes) -> bytes:
    hits = locate(body)
    return splice(body, hits, [_NEW] * len(hits))


def _sealed(locate: Callable[[bytes], Sequence[Hit]], body: bytes, keyring: Keyring, now: datetime) -> bytes:
    hits = locate(body)
    values = [b'"' + keyring.seal(body[hit.start : hit.end], _FIELD, now) + b'"' for hit in hits]
    return splice(body, hits, values)


def extra_memory() -> float:
    """The most memory that rewriting 10 MB takes beside the body, what it gives out included, in bodies.

    Python's allocations are what there is of it: msgspec and the regular expressions have them, too.
    """
    body = _people(10_000_000, 1000, _put_ssn)
    one = Locator([Mark.parse(mark) for mark in _ITEMS])
    most = 0
    for locate in (one.locate, one.walk):
        tracemalloc.start()
        _replaced(locate, body)
        most = max(most, tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    return most / len(body)
