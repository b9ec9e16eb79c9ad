"""The world in which the rows happen: the people, the managers, and what stands for values in rows.

In a row's text,

- `<<seal FIELD JSON>>` is a token of that value, the same one throughout the row; `<<seal FIELD@NAME JSON>>`
  of NAME, where the field is bound; `<<fernet FIELD JSON>>` and `<<aead FIELD JSON>>` one in this format,
  whatever the field's own; `<<old FIELD JSON>>` one of the key before the one that seals (of a format that
  spends no uses); `<<forge FIELD JSON>>` one with a bit turned; `<<strange FIELD JSON>>` one of a key that
  nobody here knows;
- `<<token FIELD JSON>>`, in what is expected only, is any token that opens to that value there;
- `<<jwt NAME>>` is an access token bound to that certificate, `<<jwt NAME KIND>>` one that is wrong so
  (tokens.py);
- `<<etag "TAG">>` is what stands, outside and without quotes, for the app's tag `"TAG"` of the row's target
  to the row's caller; `<<etag "TAG" /path>>` that of another target, `<<etag@NAME "TAG">>` that of NAME;
- `<<coded CODING TEXT>>` is the text under a coding, `<<digest ALGORITHM TEXT>>` its digest in base64; other
  values may stand in such a text;
- `<<bytes HEX>>` is what is no text, `<<repeat N TEXT>>` much of a text, and `<<pem NAME>>` somebody's
  certificate as a proxy would put it into a header.

Text is UTF-8; bytes that are none stand in it as surrogates (PEP 383).
"""

from __future__ import annotations

import copy
import datetime as dt
import hashlib
import re
from base64 import b64encode, urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

from cryptography import x509
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from identity.issuing import Issuer

from exchanges.people import People
from exchanges.table import Exchange, configs
from exchanges.tokens import make
from secmiddleware.encryption.kek import Kek
from secmiddleware.encryption.keyring import Context, Keyring
from secmiddleware.encryption.manager import EncryptionManager, KeyPolicy
from secmiddleware.encryption.padding import padded
from secmiddleware.encryption.tokens import PREFIX
from secmiddleware.engine import admit
from secmiddleware.fields.codings import encoded
from secmiddleware.fields.flows import Exchange as Within
from secmiddleware.files import make_private_folder, write_secret
from secmiddleware.messages import Identity, Refusal, RequestHead, ResponseHead
from secmiddleware.rotation.stores import open_store
from secmiddleware.security import SecurityManager

_VERBS: Final = r"seal|aead|fernet|old|forge|strange|bytes|repeat|pem|jwt|etag|etag@\w+|coded|digest"
_VALUE: Final = re.compile(rf"<<({_VERBS}) ((?:(?!<<).)*?)>>", re.DOTALL)
BETWEEN: Final = dt.timedelta(hours=1)
"""How long ago a key of the ring became the one that seals, and how long before that it was made."""
_TOKEN: Final = re.compile(r"<<token (.*?)>>", re.DOTALL)
_SEALED: Final = re.compile(r"([\w-]+)(?:@([\w-]+))? (.*)", re.DOTALL)


def to_bytes(text: str) -> bytes:
    """The bytes that a text of a row stands for."""
    return text.encode("utf-8", "surrogateescape")


def to_text(data: bytes) -> str:
    """The inverse of `to_bytes`, for any bytes."""
    return data.decode("utf-8", "surrogateescape")


def _spki_sha256(certificate: x509.Certificate) -> str:
    spki = certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return hashlib.sha256(spki).hexdigest()


def _make_rotated_ring(state: Path) -> None:
    """The ring of the rows, whose first key does not seal any more."""
    clock = [dt.datetime.now(dt.UTC) - 2 * BETWEEN]
    kek = Kek((state / "kek").read_bytes())
    policy = KeyPolicy(activation_delay=dt.timedelta(minutes=5))
    store = open_store(f"file:{state / 'keyring.json'}")
    manager = EncryptionManager(store, kek, "table", policy, first_block=1, clock=lambda: clock[0])
    manager.start()
    clock[0] += BETWEEN - policy.activation_delay
    manager.rotate()


def _filled(text: str, values: list[str]) -> str:
    return re.sub(r"\ue000(\d+)\ue001", lambda found: values[int(found[1])], text)


class World:
    """Made once for a run; everything in it is lazily made and then stays."""

    def __init__(self, folder: Path) -> None:
        self.pki = folder / "pki"
        self.state = folder / "state"
        self.pki.mkdir()
        make_private_folder(self.state)
        write_secret(self.state / "kek", bytes(range(32)))
        _make_rotated_ring(self.state)
        self.people = People()
        self.people.ca.write(self.pki, "ca")
        self.people.server.write(self.pki, "server")
        self.issuer = Issuer("es", "rsa")
        self.issuer.write_jwks(self.pki / "jwks.json")
        self._managers: dict[str, SecurityManager] = {}
        self._values: dict[tuple[str, str, str], str] = {}

    def settings(self, name: str) -> dict[str, Any]:
        """The named settings, filled in, with the server's own certificate."""
        bob, below = (self.people.minted[name].certificate for name in ("bob", "below"))
        sub_ca = x509.load_der_x509_certificate(self.people.minted["below"].presented.chain[0])
        values = {
            "{pki}": str(self.pki),
            "{state}": str(self.state),
            "{bob_spki}": _spki_sha256(bob),
            "{bob_serial}": hex(bob.serial_number),
            "{bob_sha256}": hashlib.sha256(self.people.minted["bob"].der).hexdigest(),
            "{below_serial}": str(below.serial_number),
            "{ca_sha256}": hashlib.sha256(self.people.ca.der).hexdigest(),
            "{ca_spki}": _spki_sha256(self.people.ca.certificate),
            "{sub_ca_sha256}": sub_ca.fingerprint(SHA256()).hex(),
            "{sub_ca_spki}": _spki_sha256(sub_ca),
        }

        def fill(value: Any) -> Any:
            if isinstance(value, str):
                for key, text in values.items():
                    value = value.replace(key, text)
                return value
            if isinstance(value, Mapping):
                return {key: fill(item) for key, item in value.items()}
            return [fill(item) for item in value] if isinstance(value, list) else value

        settings: dict[str, Any] = fill(copy.deepcopy(configs()[name]))
        settings["mtls"] |= {"certificate": str(self.pki / "server.pem"), "key": str(self.pki / "server.key")}
        return settings

    def manager(self, config: str) -> SecurityManager:
        """The started manager of the named settings."""
        if config not in self._managers:
            self._managers[config] = SecurityManager.from_config(self.settings(config), {})
            self._managers[config].start()
        return self._managers[config]

    def close(self) -> None:
        for manager in self._managers.values():
            manager.stop()

    def fill(self, row: Exchange, text: str) -> str:
        """The text of a row with its values in place."""
        values: list[str] = []

        def put(found: re.Match[str]) -> str:
            # A number in its place: a compressed text may have the very signs in it that values are told by.
            values.append(self._value(row, found[1], _filled(found[2], values)))
            return f"\ue000{len(values) - 1}\ue001"

        while (shorter := _VALUE.sub(put, text)) != text:
            text = shorter
        return _filled(text, values)

    def matches(self, row: Exchange, expected: str, text: str) -> bool:
        """Whether a text is as expected, tokens being whatever opens to their value."""
        pattern, wanted, at = "", [], 0
        for found in _TOKEN.finditer(expected):
            pattern += re.escape(self.fill(row, expected[at : found.start()])) + r"([A-Za-z0-9_.=-]+)"
            wanted.append(found[1])
            at = found.end()
        matched = re.fullmatch(pattern + re.escape(self.fill(row, expected[at:])), text, re.DOTALL)
        return matched is not None and all(
            self._opens(row, told, token) for told, token in zip(wanted, matched.groups(), strict=True)
        )

    def _value(self, row: Exchange, verb: str, told: str) -> str:
        match verb:
            case "bytes":
                return to_text(bytes.fromhex(told))
            case "repeat":
                times, _, text = told.partition(" ")
                return text * int(times)
            case "pem":
                return quote(self.people.minted[told].pem.decode("ascii"))
            case "coded":
                coding, _, text = told.partition(" ")
                return to_text(encoded(to_bytes(text), [coding.encode("ascii")]))
            case "digest":
                algorithm, _, text = told.partition(" ")
                digest = hashlib.new(algorithm.replace("-", ""), to_bytes(text)).digest()
                return b64encode(digest).decode("ascii")
        if verb.startswith("etag"):
            tag, _, target = told.partition(" ")
            return self._tag(row, verb.partition("@")[2] or row.presented, to_bytes(tag), target)
        key = row.name, verb, told
        if key not in self._values:
            self._values[key] = self._bound(told) if verb == "jwt" else self._sealed(row, verb, told)
        return self._values[key]

    def _bound(self, told: str) -> str:
        name, _, kind = told.partition(" ")
        return make(self.issuer, self.people.minted[name].der, kind)

    def _tag(self, row: Exchange, name: str, tag: bytes, target: str) -> str:
        target = target or row.request.target
        presented = self.people.presented(name)
        head = RequestHead("http", "GET", "https", target, target.encode(), presented=presented)
        snapshot, now = self.manager(row.config).snapshot, dt.datetime.now(dt.UTC)
        verdict = admit(head, snapshot, now)
        assert not isinstance(verdict, Refusal), verdict
        # Where nothing is marked nobody makes tags; a row may ask for one, to show that it is none elsewhere.
        within = verdict.exchange or Within(snapshot.keyring, now, verdict.identity, head=head)
        tags = verdict.plan.entity_tags(within)
        shown = tags.outward(ResponseHead(200), ((b"etag", tag),), weak=False)
        return shown[0][1].removeprefix(b"W/").strip(b'"').decode("ascii")

    def _sealed(self, row: Exchange, verb: str, told: str) -> str:
        context, value = self._context(row, told, verb if verb in ("aead", "fernet") else None)
        now = dt.datetime.now(dt.UTC)
        token = self._keyring(row).seal(value, context, now - 2 * BETWEEN if verb == "old" else now)
        if verb in ("seal", "aead", "fernet", "old"):
            return token.decode("ascii")
        raw = bytearray(urlsafe_b64decode(token.removeprefix(PREFIX) + b"=="))
        raw[{"forge": len(raw) // 2, "strange": 1}[verb]] ^= 1  # the ciphertext; the key id
        return (PREFIX + urlsafe_b64encode(raw).rstrip(b"=")).decode("ascii")

    def _opens(self, row: Exchange, told: str, token: str) -> bool:
        context, value = self._context(row, told, None)
        return self._keyring(row).open(token.encode("ascii"), context, dt.datetime.now(dt.UTC)) == value

    def _context(self, row: Exchange, told: str, format_: str | None) -> tuple[Context, bytes]:
        found = _SEALED.fullmatch(told)
        assert found is not None, told
        field, caller, value = found.groups()
        settings = self.manager(row.config).settings.fields[field]
        tenant = name = ""
        if settings.bind == "tenant":
            tenant = self._identity(caller or row.presented).tenant
        if settings.bind == "caller":
            name = self._identity(caller or row.presented).name
        context = Context(field, tenant=tenant, caller=name, format=format_ or settings.format)
        return context, padded(to_bytes(value), settings.pad)

    def _keyring(self, row: Exchange) -> Keyring:
        keyring = self.manager(row.config).snapshot.keyring
        assert keyring is not None
        return keyring

    def _identity(self, name: str) -> Identity:
        """Who a certificate of this world is, as the engine sees it."""
        head = RequestHead("http", "GET", "https", "/", b"/", presented=self.people.presented(name))
        verdict = admit(head, self.manager("required").snapshot, dt.datetime.now(dt.UTC))
        assert not isinstance(verdict, Refusal), verdict
        assert verdict.identity is not None
        return verdict.identity
