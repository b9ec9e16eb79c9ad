"""What a field and its places say of values that could never come to pass, or that would undo each other."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from secmiddleware.encryption.tokens import WITHOUT_ASSOCIATED_DATA
from secmiddleware.settings.mistakes import Mistake, Note
from secmiddleware.settings.models import FieldSettings, PlaceSettings, Settings
from secmiddleware.settings.positions import KeyPath

_NO_USE: Final = "is of no use"


def review_values(settings: Settings) -> Iterator[Note]:
    """Masks that nobody sees, padding and renewal that cannot be, and what places require or keep in vain."""
    for name, one in settings.fields.items():
        here: KeyPath = ("fields", name)
        yield from _masks(here, one)
        if one.pad and one.encoding == "text":
            message = (
                'is impossible with encoding = "text": a text may end in spaces, so none can be its padding'
            )
            yield (
                Mistake((*here, "pad"), message, 'leave it out, or use encoding = "json"'),
                ((*here, "encoding"),),
            )
        yield from _renewal(here, one)
        for index, place in enumerate(one.places):
            yield from _place((*here, "places", index), place)


def _masks(here: KeyPath, one: FieldSettings) -> Iterator[Note]:
    otherwise, places = (*here, "otherwise"), (*here, "places")
    if one.mask_last and one.otherwise != "mask":
        message = f'{_NO_USE}: otherwise is "{one.otherwise}", and nobody sees a mask'
        yield Mistake((*here, "mask_last"), message, 'say otherwise = "mask"'), (otherwise,)
    if one.otherwise != "token" and one.places and all(place.response != "decrypt" for place in one.places):
        message = (
            f'"{one.otherwise}" {_NO_USE}: no place decrypts a response, so nothing is kept from anybody'
        )
        yield Mistake(otherwise, message, 'leave it out, or say response = "decrypt" at a place'), (places,)


def _renewal(here: KeyPath, one: FieldSettings) -> Iterator[Note]:
    if not one.rewrap:
        return
    rewrap, places = (*here, "rewrap"), (*here, "places")
    if one.format in WITHOUT_ASSOCIATED_DATA:
        message = (
            f'is impossible with format = "{one.format}": what is bound to nothing is not renewed in passing'
        )
        yield Mistake(rewrap, message, 'use "aead" or "xaes"'), ((*here, "format"),)
        return
    shown = one.otherwise == "token" and any(place.response == "decrypt" for place in one.places)
    if one.places and not shown and all(place.already_sealed == "refuse" for place in one.places):
        message = f"{_NO_USE}: at no place does a token pass without being opened"
        hint = 'leave it out, or say already_sealed = "skip" at a place'
        yield Mistake(rewrap, message, hint), (places, (*here, "otherwise"))


def _place(here: KeyPath, place: PlaceSettings) -> Iterator[Note]:
    request, response, already = (*here, "request"), (*here, "response"), (*here, "already_sealed")
    if place.required and place.request == "pass":
        message = 'requires values of requests, and request is "pass": nobody looks for them'
        yield Mistake((*here, "required"), message, 'give request: "decrypt" or "encrypt"'), (request,)
    encrypts = [way for way in (place.request, place.response) if way == "encrypt"]
    if place.already_sealed == "skip" and not encrypts:
        message = f'"skip" {_NO_USE}: neither way are values encrypted here'
        yield Mistake(already, message, "leave it out"), (request, response)
    if place.already_sealed == "refuse" and len(encrypts) == 2:
        message = (
            '"encrypt" both ways gives the app tokens and refuses them when it answers with what it was given'
        )
        yield Mistake(response, message, 'say already_sealed = "skip"'), (request, already)
