"""What is wrong with the JWEs of a field: keys that its algorithm cannot use, no recipient, bad files."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Final, Literal

from secmiddleware.encryption.jwe_files import JweFiles
from secmiddleware.settings.mistakes import Mistake, Note
from secmiddleware.settings.models import FieldSettings, JweSettings, Settings
from secmiddleware.settings.positions import KeyPath

_INSTALL: Final = "pip install 'secmiddleware[joserfc]'"


def review_jwe(settings: Settings) -> Iterator[Note]:
    """Fields with JWEs and nothing about them, the other way round, and all that does not go together."""
    for name, one in settings.fields.items():
        here: KeyPath = ("fields", name, "jwe")
        formats: tuple[KeyPath, ...] = (("fields", name, "format"), ("fields", name, "also_open"))
        has_any = "jwe" in (one.format, *one.also_open)
        if one.jwe is None:
            if has_any:
                hint = f'add [fields.{name}.jwe] with alg = "dir", "RSA-OAEP-256" or "ECDH-ES+A256KW"'
                yield Mistake(here, "is missing: nothing says how its JWEs are made", hint), formats
            continue
        if not has_any:
            message = "is of no use: the field has no JWEs"
            yield Mistake(here, message, 'say format = "jwe", or also_open = ["jwe"]'), formats
        if find_spec("joserfc") is None:
            yield Mistake(here, "needs joserfc, which is not installed", _INSTALL), ()
            continue
        yield from _direct(here, one.jwe) if "dir" in one.jwe.alg else _with_keys(here, one, one.jwe, formats)
        if one.jwe.recipient == "caller" and settings.mtls.source != "server":
            message = (
                f'"caller" is impossible with mtls.source "{settings.mtls.source}": '
                "the certificate comes by the proxy, which could name another"
            )
            hint = 'pin the recipient: recipient = "file:PATH" of its public key'
            yield Mistake((*here, "recipient"), message, hint), (("mtls", "source"),)


def _direct(here: KeyPath, jwe: JweSettings) -> Iterator[Note]:
    """With `dir` the key is the ring's, and nobody else's."""
    alg: KeyPath = (*here, "alg")
    if len(jwe.alg) > 1:
        message = '"dir" stands alone: with a key of the ring there is no other way'
        yield Mistake(alg, message), ()
    if jwe.recipient not in (None, "ring"):
        message = '"dir" seals under the ring, and only its servers open'
        hint = 'leave it out, or say alg = "RSA-OAEP-256" or "ECDH-ES+A256KW"'
        yield Mistake((*here, "recipient"), message, hint), (alg,)
    if jwe.keys:
        message = 'are of no use with alg "dir", whose keys are the ring\'s'
        yield Mistake((*here, "keys"), message, "leave them out"), (alg,)


def _with_keys(
    here: KeyPath, one: FieldSettings, jwe: JweSettings, formats: tuple[KeyPath, ...]
) -> Iterator[Note]:
    """With public keys: somebody to seal to where something is sealed, a key of ours where it is opened."""
    ways = {way for place in one.places for way in (place.request, place.response)}
    places, recipient, keys = (*here[:2], "places"), (*here, "recipient"), (*here, "keys")
    if len(set(jwe.alg)) < len(jwe.alg):
        yield Mistake((*here, "alg"), "has one twice"), ()
    if jwe.recipient == "ring":
        message = f'"ring" needs alg "dir": with "{jwe.alg[0]}" a value is sealed to somebody\'s key'
        yield Mistake(recipient, message, 'say "caller" or "file:PATH"'), ((*here, "alg"),)
    if one.format != "jwe" and jwe.recipient is not None:
        message = f'is of no use: what the field seals is of format "{one.format}"'
        yield Mistake(recipient, message, "leave it out"), formats
    if one.format == "jwe" and jwe.recipient is None and "encrypt" in ways:
        message = "is missing: nothing says to whom values are sealed"
        yield Mistake(recipient, message, 'say "caller" or "file:PATH"'), (places,)
    if not jwe.keys and "decrypt" in ways and "jwe" in (one.format, *one.also_open):
        message = "are missing: without a private key no JWE opens"
        yield Mistake(keys, message, 'as in keys = ["pki/open.pem"]'), (places,)
    yield from _files(here, jwe)


def _files(here: KeyPath, jwe: JweSettings) -> Iterator[Note]:
    alg: KeyPath = (*here, "alg")
    read = jwe_files(jwe).read()
    for fault in read if isinstance(read, tuple) else ():
        yield Mistake((*here, *fault.at), fault.message, fault.hint), ((alg,) if fault.of_alg else ())


def jwe_files(jwe: JweSettings) -> JweFiles:
    """The files that the settings name; not for `dir`, which has none."""
    told = jwe.recipient
    recipient: Path | Literal["caller"] | None = told if isinstance(told, Path) else None
    if told == "caller":
        recipient = "caller"
    return JweFiles(tuple(name for name in jwe.alg if name != "dir"), recipient, jwe.keys)
