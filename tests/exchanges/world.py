"""The world in which the rows happen: a CA, named certificates, a key ring, and what stands for values in
rows.

In the strings of a row, `<<seal FIELD JSON>>` is a token of that value (`<<seal FIELD@NAME JSON>>`: bound to
that caller as the field says), `<<forge FIELD JSON>>` one with a bit turned, `<<strange FIELD JSON>>` one of
a ring that nobody here knows. In an expected body, `<<token FIELD JSON>>` is any token that opens to that
value.
"""

from __future__ import annotations

import copy
import datetime as dt
import json
import re
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from exchanges.table import Exchange, configs
from secmiddleware.encryption.keyring import Context
from secmiddleware.engine import admit
from secmiddleware.files import make_private_folder, write_secret
from secmiddleware.messages import Identity, Presented, Refusal, RequestHead
from secmiddleware.security import SecurityManager

DAY = dt.timedelta(days=1)
PLACEHOLDER = re.compile(r"<<(\w+) (\w+)(?:@([\w-]+))? (.*?)>>")


class Minted:
    """A certificate with its key and whatever stands between it and the CA."""

    def __init__(
        self, certificate: x509.Certificate, key: Any, chain: tuple[x509.Certificate, ...] = ()
    ) -> None:
        self.certificate = certificate
        self.key = key
        self.chain = chain

    @property
    def der(self) -> bytes:
        return self.certificate.public_bytes(serialization.Encoding.DER)

    @property
    def presented(self) -> Presented:
        return Presented(self.der, tuple(c.public_bytes(serialization.Encoding.DER) for c in self.chain))

    def write(self, folder: Path, name: str) -> None:
        pems = [c.public_bytes(serialization.Encoding.PEM) for c in (self.certificate, *self.chain)]
        (folder / f"{name}.pem").write_bytes(b"".join(pems))
        write_secret(
            folder / f"{name}.key",
            self.key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            ),
        )


def mint(
    name: str,
    signer: Minted | None,
    *,
    uris: tuple[str, ...] = (),
    dns: tuple[str, ...] = (),
    ips: tuple[str, ...] = (),
    ca: bool = False,
    usage: tuple[x509.ObjectIdentifier, ...] = (ExtendedKeyUsageOID.CLIENT_AUTH,),
    starts: dt.timedelta = -DAY,
    ends: dt.timedelta = DAY,
    key: Any = None,
    digest: hashes.HashAlgorithm | None = None,
) -> Minted:
    """A certificate of any shape, good or bad."""
    import ipaddress

    key = key or ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = dt.datetime.now(dt.UTC)
    issuer_key = signer.key if signer else key
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(signer.certificate.subject if signer else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now + starts)
        .not_valid_after(now + ends)
        .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()), critical=False
        )
        .add_extension(
            x509.KeyUsage(
                digital_signature=not ca,
                content_commitment=False,
                key_encipherment=False,
                data_encipherment=False,
                key_agreement=False,
                key_cert_sign=ca,
                crl_sign=ca,
                encipher_only=False,
                decipher_only=False,
            ),
            critical=True,
        )
    )
    names: list[x509.GeneralName] = [x509.UniformResourceIdentifier(uri) for uri in uris]
    names += [x509.DNSName(host) for host in dns]
    names += [x509.IPAddress(ipaddress.ip_address(ip)) for ip in ips]
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    if usage and not ca:
        builder = builder.add_extension(x509.ExtendedKeyUsage(usage), critical=False)
    return Minted(builder.sign(issuer_key, digest or hashes.SHA256()), key)


class World:
    """Made once for a folder; everything in it is lazily made and then stays."""

    def __init__(self, folder: Path) -> None:
        self.pki = folder / "pki"
        self.state = folder / "state"
        self.pki.mkdir()
        make_private_folder(self.state)
        write_secret(self.state / "kek", bytes(range(32)))
        self.ca = mint("table CA", None, ca=True, ends=100 * DAY)
        self.strange_ca = mint("strange CA", None, ca=True, ends=100 * DAY)
        self.ca.write(self.pki, "ca")
        mint(
            "localhost",
            self.ca,
            dns=("localhost",),
            ips=("127.0.0.1",),
            usage=(ExtendedKeyUsageOID.SERVER_AUTH,),
        ).write(self.pki, "server")
        self._managers: dict[str, SecurityManager] = {}

    @cached_property
    def certificates(self) -> dict[str, Minted]:
        """Whoever a row may name as `presented`, by name."""
        ca = self.ca
        sub = mint("table sub CA", ca, ca=True, ends=50 * DAY)
        people = {
            "alice": mint("alice", ca, uris=("spiffe://example.org/shop/alice",)),
            "oscar": mint("oscar", ca, uris=("spiffe://example.org/ops/oscar",)),
            "bob": mint("bob", ca, uris=("spiffe://other.org/shop/bob",)),
            "carol": mint("carol", ca, dns=("carol.example",)),
            "rsa": mint("rsa", ca, dns=("rsa.example",), key=rsa.generate_private_key(65537, 2048)),
            "plain": mint("plain", ca),
            "eve": mint("eve\nadmin", ca, uris=("https://eve.example/%0a?x=\u007f",)),
            "expired": mint("expired", ca, dns=("x.example",), starts=-3 * DAY, ends=-DAY),
            "not-yet": mint("not yet", ca, dns=("x.example",), starts=DAY, ends=2 * DAY),
            "stranger": mint("alice", self.strange_ca, uris=("spiffe://example.org/shop/alice",)),
            "weak": mint("weak", ca, dns=("x.example",), key=rsa.generate_private_key(65537, 1024)),
            "server-only": mint("s", ca, dns=("x.example",), usage=(ExtendedKeyUsageOID.SERVER_AUTH,)),
        }
        below = mint("below", sub, uris=("spiffe://example.org/shop/below",))
        people["below"] = Minted(below.certificate, below.key, (sub.certificate,))
        people["ca-itself"] = sub
        return people

    def presented(self, name: str) -> Presented | None:
        """What a server hands over for a name of a row."""
        match name:
            case "":
                return None
            case "garbage":
                return Presented(b"0\x82\x01\x00not a certificate")
            case "doubled":
                der = self.certificates["alice"].der
                return Presented(der + der)
        return self.certificates[name].presented

    def settings(self, name: str) -> dict[str, Any]:
        """The named settings, filled in."""
        from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

        spki = (
            self.certificates["bob"]
            .certificate.public_key()
            .public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        )
        digest = hashes.Hash(hashes.SHA256())
        digest.update(spki)
        values = {"{pki}": str(self.pki), "{state}": str(self.state), "{bob_spki}": digest.finalize().hex()}

        def fill(value: Any) -> Any:
            if isinstance(value, str):
                for key, text in values.items():
                    value = value.replace(key, text)
                return value
            if isinstance(value, Mapping):
                return {key: fill(item) for key, item in value.items()}
            return [fill(item) for item in value] if isinstance(value, list) else value

        return fill(copy.deepcopy(configs()[name]))

    def manager(self, config: str) -> SecurityManager:
        """The started manager of the named settings."""
        if config not in self._managers:
            self._managers[config] = SecurityManager.from_config(self.settings(config), {})
            self._managers[config].start()
        return self._managers[config]

    def close(self) -> None:
        for manager in self._managers.values():
            manager.stop()

    def identity(self, name: str) -> Identity:
        """Who a certificate of this world is, as the engine sees it."""
        head = RequestHead("http", "GET", "https", "/", b"/", presented=self.presented(name))
        verdict = admit(head, self.manager("required").snapshot, dt.datetime.now(dt.UTC))
        assert not isinstance(verdict, Refusal), verdict
        assert verdict.identity is not None
        return verdict.identity

    def _context(self, row: Exchange, field: str, caller: str) -> Context:
        settings = self.manager(row.config).settings.fields[field]
        tenant = name = ""
        if settings.bind == "tenant":
            tenant = self.identity(caller or row.presented).tenant
        if settings.bind == "caller":
            name = self.identity(caller or row.presented).name
        return Context(field, tenant=tenant, caller=name, format=settings.format)

    def fill(self, row: Exchange, text: str) -> str:
        """The text of a row with its values in place."""

        def replacement(match: re.Match[str]) -> str:
            verb, field, caller, value = match.groups()
            keyring = self.manager(row.config).snapshot.keyring
            assert keyring is not None
            now = dt.datetime.now(dt.UTC)
            token = keyring.seal(value.encode(), self._context(row, field, caller), now).decode()
            match verb:
                case "seal":
                    return token
                case "forge":
                    middle = len(token) // 2
                    return token[:middle] + ("A" if token[middle] != "A" else "B") + token[middle + 1 :]
                case "strange":
                    return token[:5] + "AAAAA" + token[10:]
            raise AssertionError(f"unknown placeholder {verb}")

        return PLACEHOLDER.sub(replacement, text)

    def matches(self, row: Exchange, expected: str, body: str) -> bool:
        """Whether a body is as expected, tokens being whatever opens to their value."""
        pattern, checks, at = "", [], 0
        for match in PLACEHOLDER.finditer(expected):
            pattern += re.escape(expected[at : match.start()]) + r"([A-Za-z0-9_.=-]+)"
            checks.append(match.groups())
            at = match.end()
        found = re.fullmatch(pattern + re.escape(expected[at:]), body, re.DOTALL)
        return found is not None and all(
            self._opens(row, field, caller, token) == value.encode()
            for (_, field, caller, value), token in zip(checks, found.groups(), strict=True)
        )

    def _opens(self, row: Exchange, field: str, caller: str, token: str) -> bytes:
        keyring = self.manager(row.config).snapshot.keyring
        assert keyring is not None
        return keyring.open(token.encode(), self._context(row, field, caller), dt.datetime.now(dt.UTC))


def check(
    world: World, row: Exchange, status: int, headers: list[tuple[str, str]], body: bytes, seen: list[Any]
) -> None:
    """Assert that what came out is what the row expects; the same for every shell."""
    names = [name.lower() for name, _ in headers]
    shown = f"{row.name}: {status} {headers} {body!r}"
    assert status == row.expect.status, shown
    if row.expect.code is not None:
        assert dict(headers)["content-type"] == "application/problem+json", shown
        if row.request.method != "HEAD":
            problem = json.loads(body)
            assert problem["code"] == row.expect.code, shown
            assert problem["status"] == status, shown
            assert set(problem) <= {"type", "title", "status", "code", "trace_id", "where"}, shown
            assert re.fullmatch("[0-9a-f]{32}", problem["trace_id"]), shown
    for name, value in row.expect.headers.items():
        assert [v for n, v in headers if n.lower() == name] == [world.fill(row, value)], shown
    for name in row.expect.absent:
        assert name not in names, shown
    if row.expect.body is not None:
        assert world.matches(row, row.expect.body, body.decode()), shown
    if "content-length" in names and row.request.method != "HEAD" and status not in (204, 304):
        assert [int(v) for n, v in headers if n.lower() == "content-length"] == [len(body)], shown
    if row.expect.app_saw is None:
        assert seen == [], f"{row.name}: the app was called: {seen}"
        return
    assert len(seen) == 1, f"{row.name}: the app saw {seen}"
    for key, value in row.expect.app_saw.items():
        if key == "absent_headers":
            assert not set(value) & {n for n, _ in seen[0]["headers"]}, seen[0]
        elif key == "headers":
            for name, expected in value.items():
                assert [v for n, v in seen[0]["headers"] if n == name] == [expected], seen[0]
        else:
            assert seen[0][key] == (world.fill(row, value) if isinstance(value, str) else value), seen[0]
