"""What is wrong with the formats of a field's tokens, and with the Fernet keys that it lists."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from secmiddleware.encryption.tokens import WITHOUT_ASSOCIATED_DATA
from secmiddleware.settings.mistakes import Mistake, Note
from secmiddleware.settings.models import FieldSettings, PlaceSettings, Settings
from secmiddleware.settings.positions import KeyPath

_EQUALITY: Final = "whoever sees two that are equal knows that their values are"


def review_formats(settings: Settings) -> Iterator[Note]:
    """Formats that cannot be bound or that callers must not see, and keys of no use or in two hands."""
    for name, one in settings.fields.items():
        here: KeyPath = ("fields", name)
        formats = [
            ((*here, "format"), one.format),
            *(((*here, "also_open", index), other) for index, other in enumerate(one.also_open)),
        ]
        yield from _bind(here, one, formats)
        deterministic = next((path for path, format_ in formats if format_ == "deterministic"), None)
        if deterministic is not None:
            for index, place in enumerate(one.places):
                yield from _deterministic(deterministic, one, (*here, "places", index), place)
        yield from _listed(here, one, formats)
    yield from _in_two_hands(settings)


def _bind(here: KeyPath, one: FieldSettings, formats: Sequence[tuple[KeyPath, str]]) -> Iterator[Note]:
    if one.bind == "none":
        return
    for path, name in formats:
        if name in WITHOUT_ASSOCIATED_DATA:
            message = f'"{one.bind}" is impossible: a token of {path[2]} "{name}" cannot name its {one.bind}'
            yield Mistake((*here, "bind"), message, 'use "aead" alone, or bind = "none"'), (path,)


def _deterministic(path: KeyPath, one: FieldSettings, here: KeyPath, place: PlaceSettings) -> Iterator[Note]:
    """Deterministic tokens are for what an app stores and searches; a caller gets none."""
    for way, action in (("request", "decrypt"), ("response", "encrypt")):
        if getattr(place, way) == action:
            message = (
                f'"{action}" gives callers tokens, and of deterministic ones equality leaks: {_EQUALITY}'
            )
            hint = 'keep them from callers (request = "encrypt", response = "decrypt"), or use "aead"'
            yield Mistake((*here, way), message, hint), (path,)
    if place.response == "decrypt" and one.otherwise == "token":
        message = f'"token" gives callers tokens, and of deterministic ones equality leaks: {_EQUALITY}'
        looked_at = (path, (*here, "response"))
        yield Mistake((*here[:2], "otherwise"), message, 'use "mask", "null" or "refuse"'), looked_at


def _listed(here: KeyPath, one: FieldSettings, formats: Sequence[tuple[KeyPath, str]]) -> Iterator[Note]:
    if one.fernet_keys and all(name != "fernet" for _, name in formats):
        message = "is of no use: the field opens no Fernet tokens"
        looked_at = ((*here, "format"), (*here, "also_open"))
        yield Mistake((*here, "fernet_keys"), message, 'say also_open = ["fernet"]'), looked_at
    seen: dict[str, int] = {}
    for index, key in enumerate(one.fernet_keys):
        earlier = seen.setdefault(key.get_secret_value(), index)
        if earlier != index:
            yield Mistake((*here, "fernet_keys", index), f"is the key of fernet_keys[{earlier}] again"), ()


def _in_two_hands(settings: Settings) -> Iterator[Note]:
    """Listed keys bind to no field: who may put a token at another field's mark reads it as that field's."""
    first: dict[str, str] = {}
    for name, one in settings.fields.items():
        for index, key in enumerate(one.fernet_keys):
            other = first.setdefault(key.get_secret_value(), name)
            if set(settings.fields[other].reveal_to) != set(one.reveal_to):
                message = (
                    f"is a key of fields.{other} too, which is revealed to others: who may read one field "
                    "could read the other's tokens as its own"
                )
                hint = "give both the same reveal_to, or seal the tokens of one anew with a key of its own"
                looked_at = (
                    ("fields", name, "reveal_to"),
                    ("fields", other, "reveal_to"),
                    ("fields", other, "fernet_keys"),
                )
                yield Mistake(("fields", name, "fernet_keys", index), message, hint), looked_at
