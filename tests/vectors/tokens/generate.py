"""Writes tokens.json anew: `python tests/vectors/tokens/generate.py`. Every random byte is fixed here."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import zlib
from dataclasses import asdict, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives import padding
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import CBC

from secmiddleware.encryption.derivation import FERNET, JWE_DIRECT, SUITE_1, derive
from secmiddleware.encryption.document import KeyEntry, RingDocument, show_time
from secmiddleware.encryption.kek import Kek
from secmiddleware.encryption.root import Root
from secmiddleware.encryption.suites import SuiteOne, SuiteThree, SuiteTwo
from secmiddleware.encryption.tokens import Context, Format

HERE = Path(__file__).parent
NOW = datetime(2026, 6, 1, 12, tzinfo=UTC)
RING = "payments"


def fixed(label: str, length: int) -> bytes:
    """Bytes that look random and are always the same."""
    return hashlib.shake_256(b"secmiddleware test vector " + label.encode()).digest(length)


def days(count: float) -> datetime:
    return NOW + timedelta(days=count)


# kid, created, activated, retired, distrusted, destroyed; days from now
PLAN = [
    ("00000001", -200, -200, -100, False, -50),
    ("a1b2c3d4", -190, -190, -70, False, None),
    ("0badc0de", -160, -160, 20, True, None),
    ("feedf00d", -60, -59, 60, False, None),
    ("12345678", -30, -30, 80, False, None),
    ("cafebabe", -0.001, 0.002, None, False, None),
]


def ring(name: str) -> tuple[RingDocument, Root, dict[str, bytes]]:
    root = Root.fresh(name, Kek(fixed("kek", 32)), lambda length: fixed(f"root {name} {length}", length))
    secrets = {kid: fixed(f"ring key {kid}", 32) for kid, *_ in PLAN}
    keys = tuple(
        KeyEntry(
            kid,
            days(created),
            days(activated),
            None if retired is None else days(retired),
            distrusted=distrusted,
            destroyed_at=None if destroyed is None else days(destroyed),
            uses=1 << 18,
            wrapped=None
            if destroyed is not None
            else root.wrap(kid, secrets[kid], lambda length, kid=kid: fixed(f"wrap {kid}", length)),
        )
        for kid, created, activated, retired, distrusted, destroyed in PLAN
    )
    return RingDocument(name, 42, days(-0.001), root.wrapped, keys), root, secrets


def sealed(secret: bytes, kid: str, context: Context, value: bytes, nonce: bytes, name: str = RING) -> str:
    return SuiteOne(name, kid, secret).seal(value, context.slots, nonce).decode()


def xaes(secret: bytes, kid: str, context: Context, value: bytes, nonce: bytes, name: str = RING) -> str:
    return SuiteTwo(name, kid, secret).seal(value, context.slots, nonce).decode()


def deterministic(secret: bytes, kid: str, context: Context, value: bytes, name: str = RING) -> str:
    return SuiteThree(name, kid, secret, context).seal(value, context.slots).decode()


def fernet(secret: bytes, context: Context, value: bytes, iv: bytes, seconds: int) -> str:
    key = derive(secret, FERNET, RING.encode(), context.field.encode(), context.purpose.encode())
    return fernet_under(key, value, iv, seconds)


def fernet_under(key: bytes, value: bytes, iv: bytes, seconds: int) -> str:
    padder = padding.PKCS7(128).padder()
    encryptor = Cipher(AES(key[16:]), CBC(iv)).encryptor()
    text = encryptor.update(padder.update(value) + padder.finalize()) + encryptor.finalize()
    signed = b"\x80" + seconds.to_bytes(8, "big") + iv + text
    return base64.urlsafe_b64encode(signed + hmac.digest(key[:16], signed, "sha256")).decode()


def header(kid: str, context: Context, name: str = RING) -> dict[str, Any]:
    """The protected header of a JWE; slots that are empty are not in it."""
    told = {f"secmw.{slot}": value for slot, value in {"ring": name, **slots(context)}.items() if value}
    return {"alg": "dir", "enc": "A256GCM", "kid": kid, **told}


def jwe(secret: bytes, told: dict[str, Any] | str, value: bytes, iv: bytes, label: bytes = JWE_DIRECT) -> str:
    """A JWE with `dir`, of any header; a `label` of b"" takes the secret itself."""
    text = told if isinstance(told, str) else json.dumps(told, separators=(",", ":"))
    head = b64u(text.encode())
    cek = derive(secret, label) if label else secret
    raw = AESGCM(cek).encrypt(iv, value, head.encode())
    return f"{head}..{b64u(iv)}.{b64u(raw[:-16])}.{b64u(raw[-16:])}"


def b64u(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def slots(context: Context) -> dict[str, str]:
    return {name: asdict(context)[name] for name in ("field", "purpose", "tenant", "caller")}


def case(
    name: str, form: Format, kid: str, context: Context, nonce: str, value: str, token: str
) -> dict[str, Any]:
    head = {"name": name, "format": form, "kid": kid}
    return head | slots(context) | {"nonce": nonce, "value": value, "token": token}


def tokens(secrets: dict[str, bytes]) -> list[dict[str, Any]]:
    plain, bound = (
        Context("ssn"),
        Context("ssn", "field", "spiffe://example.org", "spiffe://example.org/shop"),
    )
    cases = [
        ("a string under the primary key", "12345678", plain, '"123-45-6789"'),
        ("under a key that opens only", "feedf00d", plain, '"123-45-6789"'),
        ("under a key that is pending", "cafebabe", plain, "null"),
        ("a number keeps its last zero", "12345678", plain, "1.10"),
        ("bound to tenant and caller", "12345678", bound, '{"iban": "DE00"}'),
        ("another purpose", "12345678", Context("ssn", "probe"), "true"),
        ("names that are not ASCII", "12345678", Context("größe", tenant="münchen"), '"ü"'),
        ("an empty value", "12345678", plain, ""),
        ("a long value", "12345678", plain, json.dumps("x" * 1000)),
    ]
    found = []
    for name, kid, context, value in cases:
        nonce = fixed(f"nonce {name}", 12)
        token = sealed(secrets[kid], kid, context, value.encode(), nonce)
        found.append(
            {
                "name": name,
                "format": "aead",
                "kid": kid,
                **slots(context),
                "nonce": nonce.hex(),
                "value": value,
            }
            | {"token": token}
        )
    for name, kid, context, value in cases:
        nonce = fixed(f"long nonce {name}", 24)
        token = xaes(secrets[kid], kid, context, value.encode(), nonce)
        found.append(case(f"XAES: {name}", "xaes", kid, context, nonce.hex(), value, token))
        token = deterministic(secrets[kid], kid, context, value.encode())
        found.append(case(f"AES-SIV: {name}", "deterministic", kid, context, "", value, token))
        iv = fixed(f"jwe nonce {name}", 12)
        token = jwe(secrets[kid], header(kid, context), value.encode(), iv)
        found.append(case(f"JWE: {name}", "jwe", kid, context, iv.hex(), value, token))
    at = int(NOW.timestamp())
    for name, kid, value in [
        ("Fernet under the primary key", "12345678", '"123-45-6789"'),
        ("Fernet under a key that opens only", "feedf00d", "1.10"),
        ("Fernet under a key that is pending", "cafebabe", ""),
    ]:
        iv = fixed(f"iv {name}", 16)
        token = fernet(secrets[kid], plain, value.encode(), iv, at)
        found.append(
            {"name": name, "format": "fernet", "kid": kid, **slots(plain), "nonce": iv.hex(), "value": value}
            | {"token": token}
        )
    return found


def respelled(raw: bytes) -> str:
    return "sm1." + base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def refused(secrets: dict[str, bytes]) -> list[dict[str, Any]]:
    """Tokens that must not open, each a small step away from one that does."""
    here, value = Context("ssn"), b'"123-45-6789"'
    primary = secrets["12345678"]
    # A nonce for which the text has both letters of base64url that base64 has not, and bits to spare at its
    # end.
    nonce = next(
        nonce
        for nonce in (fixed(f"nonce refused {number}", 12) for number in range(1000))
        if {"-", "_"} <= set(sealed(primary, "12345678", here, value, nonce)[4:])
    )
    good = sealed(primary, "12345678", here, value, nonce)
    raw = base64.urlsafe_b64decode(good[4:] + "=" * (-len(good[4:]) % 4))
    assert len(raw) % 3 == 1, "no bits to spare"
    last = chr(ord(good[-1]) + 1)
    cases: list[tuple[str, str, Context]] = [
        ("a flipped bit in the tag", respelled(raw[:-1] + bytes([raw[-1] ^ 1])), here),
        ("a flipped bit in the ciphertext", respelled(raw[:17] + bytes([raw[17] ^ 128]) + raw[18:]), here),
        ("a flipped bit in the nonce", respelled(raw[:5] + bytes([raw[5] ^ 1]) + raw[6:]), here),
        ("the id of another key", respelled(raw[:1] + bytes.fromhex("feedf00d") + raw[5:]), here),
        ("suite 0", respelled(b"\x00" + raw[1:]), here),
        ("suite 2", respelled(b"\x02" + raw[1:]), here),
        ("suite 3", respelled(b"\x03" + raw[1:]), here),
        ("suite 255", respelled(b"\xff" + raw[1:]), here),
        ("a byte short", respelled(raw[:-1]), here),
        ("a byte long", respelled(raw + b"\x00"), here),
        ("nothing but a header and a nonce", respelled(raw[:17]), here),
        ("nothing after the prefix", "sm1.", here),
        ("the empty text", "", here),
        ("padding", good + "=" * (-len(good[4:]) % 4), here),
        ("the alphabet of base64", "sm1." + good[4:].replace("-", "+").replace("_", "/"), here),
        ("bits to spare that are not zero", good[:-1] + last, here),
        ("a line end behind it", good + "\n", here),
        ("a space in the middle", good[:20] + " " + good[20:], here),
        ("a space in front", " " + good, here),
        ("four spaces in the middle", good[:20] + "    " + good[20:], here),
        ("four signs of padding in the middle", good[:20] + "====" + good[20:], here),
        ("nothing but the header of a key that the ring never had", respelled(b"\x01\xde\xad\xbe\xef"), here),
        ("a dot too many", "sm1.." + good[4:], here),
        ("the prefix in capitals", "SM1." + good[4:], here),
        ("another version", "sm2." + good[4:], here),
        ("no prefix", good[4:], here),
        ("the prefix twice", "sm1." + good, here),
        ("another field", good, Context("iban")),
        ("another purpose", good, Context("ssn", "probe")),
        ("a tenant", good, Context("ssn", tenant="spiffe://example.org")),
        ("a caller", good, Context("ssn", caller="spiffe://example.org/shop")),
        ("a border moved between two slots", good, Context("ss", "nfield")),
        (
            "a caller where the tenant was",
            sealed(primary, "12345678", Context("ssn", tenant="a"), value, nonce),
            Context("ssn", caller="a"),
        ),
        ("another ring", sealed(primary, "12345678", here, value, nonce, "invoices"), here),
        ("the ring key itself as the key", sealed_raw(primary, here, value, nonce), here),
        ("a key that is retired", sealed(secrets["a1b2c3d4"], "a1b2c3d4", here, value, nonce), here),
        ("a key that is distrusted", sealed(secrets["0badc0de"], "0badc0de", here, value, nonce), here),
        ("a key that is destroyed", sealed(secrets["00000001"], "00000001", here, value, nonce), here),
    ]
    at, iv = int(NOW.timestamp()), fixed("iv refused", 16)
    as_fernet = Context("ssn", format="fernet")
    good_fernet = fernet(primary, as_fernet, value, iv, at)
    assert good_fernet.endswith("=")
    assert "-" in good_fernet or "_" in good_fernet
    fernets = [
        ("suite 1 where Fernet is due", good, as_fernet),
        ("Fernet for another field", good_fernet, Context("iban", format="fernet")),
        ("Fernet for another purpose", good_fernet, Context("ssn", "probe", format="fernet")),
        ("Fernet without padding", good_fernet.rstrip("="), as_fernet),
        ("Fernet with more padding", good_fernet + "====", as_fernet),
        ("Fernet in the alphabet of base64", good_fernet.replace("-", "+").replace("_", "/"), as_fernet),
        ("Fernet with a line end", good_fernet + "\n", as_fernet),
        (
            "Fernet with a flipped bit",
            good_fernet[:30] + ("A" if good_fernet[30] != "A" else "B") + good_fernet[31:],
            as_fernet,
        ),
        ("Fernet under a retired key", fernet(secrets["a1b2c3d4"], as_fernet, value, iv, at), as_fernet),
        ("Fernet under a distrusted key", fernet(secrets["0badc0de"], as_fernet, value, iv, at), as_fernet),
        ("Fernet under a destroyed key", fernet(secrets["00000001"], as_fernet, value, iv, at), as_fernet),
        ("nothing where Fernet is due", "", as_fernet),
    ]
    cases.append(("Fernet where suite 1 is due", good_fernet, here))
    cases += jwes(secrets, good)
    cases += other_suites(secrets, good)
    found = [
        {"name": name, "format": context.format, **slots(context), "token": token, "error": "refused"}
        for name, token, context in cases + fernets
    ]
    nobody = fixed("ring key of nobody", 32)
    as_jwe = replace(here, format="jwe")
    found.append(
        {"name": "JWE: a key that the ring never had", "format": "jwe", **slots(here)}
        | {"token": jwe(nobody, header("deadbeef", as_jwe), value, nonce), "error": "key_unknown"}
    )
    unknown = sealed(nobody, "deadbeef", here, value, nonce)
    found.append(
        {"name": "a key that the ring never had", "format": "aead", **slots(here)}
        | {"token": unknown, "error": "key_unknown"}
    )
    return found


def jwes(secrets: dict[str, bytes], suite_1: str) -> list[tuple[str, str, Context]]:
    """JWEs with `dir` that must not open."""
    value, primary, iv = b'"123-45-6789"', secrets["12345678"], fixed("jwe nonce refused", 12)
    here = Context("ssn", format="jwe")
    told = header("12345678", here)

    def made(secret: bytes = primary, value: bytes = value, label: bytes = JWE_DIRECT, **changed: Any) -> str:
        return jwe(secret, {**told, **changed}, value, iv, label)

    def without(name: str) -> str:
        return jwe(primary, {key: text for key, text in told.items() if key != name}, value, iv)

    good = made()
    head, _, nonce, sealed_text, tag = good.split(".")
    text = json.dumps(told, separators=(",", ":"))
    other = b64u(text.replace("ssn", "ssm").encode())
    spare = sealed_text[:-1] + chr(ord(sealed_text[-1]) + 1)
    tokens = {
        "a flipped bit in the tag": f"{head}..{nonce}.{sealed_text}.{flipped(tag)}",
        "a flipped bit in the ciphertext": f"{head}..{nonce}.{flipped(sealed_text)}.{tag}",
        "a flipped bit in the nonce": f"{head}..{flipped(nonce)}.{sealed_text}.{tag}",
        "a header that was changed": f"{other}..{nonce}.{sealed_text}.{tag}",
        "the id of another key": made(kid="feedf00d"),
        "no key id": without("kid"),
        "a key id in capitals": made(kid="CAFEBABE"),
        "a key id that is no text": made(kid=12345678),
        "no ring": without("secmw.ring"),
        "no field": without("secmw.field"),
        "no purpose": without("secmw.purpose"),
        "another ring": made(**{"secmw.ring": "invoices"}),
        "a tenant too many": made(**{"secmw.tenant": "a"}),
        "a caller that is null": made(**{"secmw.caller": None}),
        "no alg": without("alg"),
        "alg none": made(alg="none"),
        "alg A256KW": made(alg="A256KW"),
        "another alg, and a key that the ring never had": made(kid="deadbeef", alg="RSA-OAEP-256"),
        "enc A128GCM": made(enc="A128GCM"),
        "compressed": made(value=raw_deflate(value), zip="DEF"),
        "an extension that is critical": made(crit=["secmw.ring"]),
        "a member twice": jwe(primary, text[:-1] + ',"secmw.field":"ssn"}', value, iv),
        "a member twice, within another": jwe(primary, text[:-1] + ',"jwk":{"k":1,"k":2}}', value, iv),
        "a header that is no object": jwe(primary, f"[{text}]", value, iv),
        "a header that is no JSON": jwe(primary, text[:-1], value, iv),
        "an encrypted key": f"{head}.AAAA.{nonce}.{sealed_text}.{tag}",
        "a part too few": f"{head}..{nonce}.{sealed_text}",
        "a part too many": f"{good}.",
        "no tag": f"{head}..{nonce}.{sealed_text}.",
        "half a tag": f"{head}..{nonce}.{sealed_text}.{tag[:11]}",
        "padding": good + "==",
        "bits to spare that are not zero": f"{head}..{nonce}.{spare}.{tag}",
        "a line end behind it": good + "\n",
        "the key of suite 1": made(label=SUITE_1),
        "the ring key itself as the key": made(label=b""),
        "a key that is retired": made(secrets["a1b2c3d4"], kid="a1b2c3d4"),
        "a key that is distrusted": made(secrets["0badc0de"], kid="0badc0de"),
        "a key that is destroyed": made(secrets["00000001"], kid="00000001"),
        "suite 1 where JWE is due": suite_1,
        "nothing where JWE is due": "",
    }
    cases = [(f"JWE: {name}", token, here) for name, token in tokens.items()]
    for name, context in {
        "another field": replace(here, field="iban"),
        "another purpose": replace(here, purpose="probe"),
        "a tenant": replace(here, tenant="spiffe://example.org"),
        "a caller": replace(here, caller="spiffe://example.org/shop"),
        "where suite 1 is due": Context("ssn"),
        "where Fernet is due": Context("ssn", format="fernet"),
    }.items():
        cases.append((f"JWE: {name}", good, context))
    return cases


def flipped(part: str) -> str:
    """With a bit of its first byte turned."""
    raw = base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))
    return b64u(bytes([raw[0] ^ 1]) + raw[1:])


def raw_deflate(value: bytes) -> bytes:
    compressor = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    return compressor.compress(value) + compressor.flush()


def other_suites(secrets: dict[str, bytes], suite_1: str) -> list[tuple[str, str, Context]]:
    """The same of suites 2 and 3, as far as it is another thing there."""
    value, primary, nonce = b'"123-45-6789"', secrets["12345678"], fixed("long nonce refused", 24)
    here, there = Context("ssn", format="xaes"), Context("ssn", format="deterministic")
    tenant = Context("ssn", tenant="a", format="deterministic")
    good = {
        "xaes": xaes(primary, "12345678", here, value, nonce),
        "deterministic": deterministic(primary, "12345678", there, value),
    }
    cases: list[tuple[str, str, Context]] = [
        ("suite 1 where suite 2 is due", suite_1, here),
        ("suite 1 where suite 3 is due", suite_1, there),
        ("suite 2 where suite 1 is due", good["xaes"], Context("ssn")),
        ("suite 2 where suite 3 is due", good["xaes"], there),
        ("suite 3 where suite 1 is due", good["deterministic"], Context("ssn")),
        ("suite 3 where suite 2 is due", good["deterministic"], here),
        ("suite 3 for a tenant", good["deterministic"], tenant),
        (
            "suite 3 for a caller where the tenant was",
            deterministic(primary, "12345678", tenant, value),
            Context("ssn", caller="a", format="deterministic"),
        ),
        ("suite 2 of another ring", xaes(primary, "12345678", here, value, nonce, "invoices"), here),
        ("suite 3 of another ring", deterministic(primary, "12345678", there, value, "invoices"), there),
    ]
    for context in (here, there):
        token = good[context.format]
        raw = base64.urlsafe_b64decode(token[4:] + "=" * (-len(token[4:]) % 4))
        for name, changed in {
            "a flipped bit at its end": raw[:-1] + bytes([raw[-1] ^ 1]),
            "a flipped bit behind the header": raw[:5] + bytes([raw[5] ^ 1]) + raw[6:],
            "a flipped bit in the middle": raw[:20] + bytes([raw[20] ^ 128]) + raw[21:],
            "a byte short": raw[:-1],
            "a byte long": raw + b"\x00",
            "the id of another key": raw[:1] + bytes.fromhex("feedf00d") + raw[5:],
            "nothing but a header": raw[:5],
            "nothing but sixteen bytes": raw[:21],
            "nothing but thirty-nine bytes": raw[:44],
        }.items():
            if changed == raw:
                continue
            cases.append((f"{context.format}: {name}", respelled(changed), context))
        cases.append((f"{context.format}: another field", token, replace(context, field="iban")))
        cases.append((f"{context.format}: another purpose", token, replace(context, purpose="probe")))
        for kid, what in (("a1b2c3d4", "retired"), ("0badc0de", "distrusted"), ("00000001", "destroyed")):
            under = (
                xaes(secrets[kid], kid, context, value, nonce)
                if context.format == "xaes"
                else deterministic(secrets[kid], kid, context, value)
            )
            cases.append((f"{context.format}: a key that is {what}", under, context))
    return cases


def listed() -> dict[str, Any]:
    """Fernet keys from elsewhere, the newest first, tokens of theirs, and one of a key that is not listed."""
    keys = [fixed(f"fernet key {number}", 32) for number in range(3)]
    at = int(NOW.timestamp())
    return {
        "keys": [base64.urlsafe_b64encode(key).decode() for key in keys[:2]],
        "tokens": [
            {"value": value, "token": fernet_under(key, value.encode(), fixed(f"iv {value}", 16), at)}
            for key, value in zip(keys, ["123-45-6789", "zwölf"], strict=False)
        ],
        "refused": [fernet_under(keys[2], b"of a key that is not listed", fixed("iv listed", 16), at)],
    }


def sealed_raw(secret: bytes, context: Context, value: bytes, nonce: bytes) -> str:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    header = b"\x01" + bytes.fromhex("12345678")
    associated = b"secmw/token/v1" + header + len(RING).to_bytes(4, "big") + RING.encode() + context.slots
    return respelled(header + nonce + AESGCM(secret).encrypt(nonce, value, associated))


def documents() -> list[dict[str, str]]:
    """Documents that must be refused although, or because, somebody changed one thing."""
    document, root, _ = ring(RING)
    text = root.write(document).decode()
    other, other_root, _ = ring("invoices")
    keys = document.keys
    swapped = replace(document, keys=(*keys[:3], replace(keys[3], wrapped=keys[4].wrapped), *keys[4:]))
    return [
        {"name": "a later generation, same MAC", "document": text.replace('"gen":42', '"gen":43')},
        {"name": "trusted again", "document": text.replace('"distrusted":true', '"distrusted":false')},
        {"name": "the name of another ring", "document": text.replace('"payments"', '"invoices"')},
        {"name": "another ring under the same KEK", "document": other_root.write(other).decode()},
        {"name": "two members of one name", "document": text.replace('{"gen":42', '{"gen":41,"gen":42')},
        {"name": "a member too many", "document": text.replace('{"gen":42', '{"note":"","gen":42')},
        {"name": "a MAC that fits over a key wrapped as another", "document": root.write(swapped).decode()},
    ]


def vectors() -> dict[str, Any]:
    document, root, secrets = ring(RING)
    return {
        "specification": "docs/token-format.md",
        "kek": fixed("kek", 32).hex(),
        "ring": RING,
        "now": show_time(NOW),
        "document": root.write(document).decode(),
        "root": fixed(f"root {RING} 32", 32).hex(),
        "ring_keys": {entry.kid: secrets[entry.kid].hex() for entry in document.keys if entry.wrapped},
        "tokens": tokens(secrets),
        "refused": refused(secrets),
        "listed": listed(),
        "refused_documents": documents(),
    }


def text() -> str:
    return json.dumps(vectors(), indent=1, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    (HERE / "tokens.json").write_text(text(), encoding="utf-8")
