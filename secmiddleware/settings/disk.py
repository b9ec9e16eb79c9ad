"""The files that the settings name: there, readable, of the right kind, and private where they are secret."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization

from secmiddleware.certificates.files import load_lists
from secmiddleware.certificates.revocation import UnknownIssuerError
from secmiddleware.certificates.trust import CertificateError, load_anchors, load_intermediates
from secmiddleware.encryption.kek import load_kek
from secmiddleware.errors import ConfigError
from secmiddleware.files import too_open
from secmiddleware.identity.jwks import load_jwks
from secmiddleware.settings.mistakes import Mistake, Note
from secmiddleware.settings.models import (
    KeysSettings,
    MtlsSettings,
    ProxySettings,
    Settings,
    TokensSettings,
)
from secmiddleware.settings.positions import KeyPath
from secmiddleware.settings.review_routes import callers_named

# The public CAs of the whole world take a quarter of this.
_LARGEST_PEM: Final = 1 << 20


def review_disk(settings: Settings, environ: Mapping[str, str]) -> Iterator[Note]:
    """What is wrong with the files that the settings name; the content of none is ever told."""
    yield from _trust(settings.mtls)
    for index, proxy in enumerate(settings.mtls.trusted_proxies):
        yield from _proxy(proxy, ("mtls", "trusted_proxies", index))
    yield from _serials(settings)
    yield from _own_pair(settings.mtls)
    if settings.tokens is not None and find_spec("joserfc") is not None:
        yield from _tokens(settings.tokens)
    if settings.keys is not None:
        yield from _keys(settings.keys, environ)
    if settings.rotation.broker_ca is not None:
        yield from _bundle(settings.rotation.broker_ca, ("rotation", "broker_ca"))


def _trust(mtls: MtlsSettings) -> Iterator[Note]:
    seen: dict[bytes, int] = {}
    issuers: list[x509.Certificate] = []
    unread = False
    for index, trust in enumerate(mtls.trust):
        key: KeyPath = ("mtls", "trust", index)
        anchors = _load(key, trust.ca, load_anchors)
        if isinstance(anchors, Mistake):
            unread = True
            yield anchors, ()
            continue
        issuers += anchors
        for digest in {anchor.fingerprint(hashes.SHA256()) for anchor in anchors}:
            earlier = seen.setdefault(digest, index)
            if earlier != index and mtls.trust[earlier].asserts != trust.asserts:
                message = f"holds a CA that mtls.trust[{earlier}] holds too, with other names to speak for"
                hint = "name it once; a CA of several trust domains lists them in may_assert"
                yield Mistake(key, message, hint), (key, ("mtls", "trust", earlier))
                break
    for index, path in enumerate(mtls.intermediates):
        intermediates = _load(("mtls", "intermediates", index), path, load_intermediates)
        if isinstance(intermediates, Mistake):
            unread = True
            yield intermediates, ()
        else:
            issuers += intermediates
    who: tuple[KeyPath, ...] = (("mtls", "trust"), ("mtls", "intermediates"))
    hint = "name the certificate of its issuer in intermediates: lists of other CAs cannot be used"
    for number, path in enumerate(mtls.crl):
        yield from _list(path, ("mtls", "crl", number), tuple(issuers), None if unread else (hint, who))


def _proxy(proxy: ProxySettings, here: KeyPath) -> Iterator[Note]:
    issuers: list[x509.Certificate] = []
    unread = False
    for number, path in enumerate(proxy.trust):
        anchors = _load((*here, "trust", number), path, load_anchors)
        if isinstance(anchors, Mistake):
            unread = True
            yield anchors, ()
        else:
            issuers += anchors
    hint = "name the certificate of its issuer in trust, beside it: lists of other CAs cannot be used"
    for number, path in enumerate(proxy.crl if proxy.allow else ()):
        who = None if unread else (hint, ((*here, "trust"),))
        yield from _list(path, (*here, "crl", number), tuple(issuers), who)


def _load(
    key: KeyPath, path: Path, load: Callable[[Path], tuple[x509.Certificate, ...]]
) -> tuple[x509.Certificate, ...] | Mistake:
    data = _read(path)
    if isinstance(data, str):
        return Mistake(key, data)
    if _is_key(data):
        hint = "name the CA's certificate; its key stays away"
        return Mistake(key, f"{path} holds a private key", hint)
    try:
        return load(path)
    except CertificateError as error:
        return Mistake(key, str(error))


def _list(
    path: Path,
    key: KeyPath,
    issuers: tuple[x509.Certificate, ...],
    unknown: tuple[str, tuple[KeyPath, ...]] | None,
) -> Iterator[Note]:
    """What is wrong with a file of lists.

    `unknown`: what to do where nobody knows an issuer, and what says who is known; None where not every file
    that may hold an issuer could be read, so that nobody is called unknown.
    """
    try:
        load_lists(path, issuers)
    except UnknownIssuerError as error:
        if unknown is not None:
            hint, who = unknown
            yield Mistake(key, str(error), hint), who
    except CertificateError as error:
        yield Mistake(key, str(error)), ()


def _serials(settings: Settings) -> Iterator[Note]:
    """Serial numbers that more than one CA may have given."""
    bare = [path for path, pattern in callers_named(settings) if pattern.is_bare_serial]
    anchors = _anchors(settings.mtls) if bare else set()
    for path in bare if len(anchors) > 1 else ():
        message = f"is a serial number, and {len(anchors)} CAs are trusted: each has its own numbers"
        hint = "name the CA too, as in serial:N@issuer-spki-sha256:…"
        yield Mistake(path, message, hint), (("mtls", "trust"),)


def _anchors(mtls: MtlsSettings) -> set[x509.Certificate]:
    """Every CA that is trusted, as far as its file is good."""
    anchors: set[x509.Certificate] = set()
    for trust in mtls.trust:
        if isinstance(_read(trust.ca), bytes):
            with suppress(CertificateError):
                anchors.update(load_anchors(trust.ca))
    return anchors


def _bundle(path: Path, at: KeyPath) -> Iterator[Note]:
    """What is wrong with a file of CAs that vouch for others than the callers."""
    data = _read(path)
    problem = data if isinstance(data, str) else None
    if problem is None:
        try:
            load_anchors(path)
        except CertificateError as error:
            problem = str(error)
    if problem is not None:
        yield Mistake(at, problem), ()


def _own_pair(mtls: MtlsSettings) -> Iterator[Note]:
    certificate_at, key_at = ("mtls", "certificate"), ("mtls", "key")
    leaf = None if mtls.certificate is None else _leaf(mtls.certificate)
    if isinstance(leaf, Mistake):
        yield leaf, ()
    public = None if mtls.key is None else _public_half(mtls.key)
    if isinstance(public, Mistake):
        yield public, ()
    if isinstance(leaf, bytes) and isinstance(public, bytes) and leaf != public:
        yield Mistake(key_at, "is not the key of mtls.certificate"), (certificate_at,)


def _leaf(path: Path) -> bytes | Mistake:
    """The public key (SubjectPublicKeyInfo, DER) of the first certificate of a file."""
    at = ("mtls", "certificate")
    data = _read(path)
    if isinstance(data, str):
        return Mistake(at, data)
    if _is_key(data) and b"-----BEGIN CERTIFICATE-----" not in data:
        return Mistake(at, f"{path} holds a private key", "the certificate belongs here")
    if _is_key(data) and too_open(path):
        return Mistake(at, f"{path} holds a private key and can be used by others", f"do: chmod 600 {path}")
    try:
        key = x509.load_pem_x509_certificates(data)[0].public_key()
    except (ValueError, x509.InvalidVersion, UnsupportedAlgorithm):
        return Mistake(at, f"{path} is not a certificate in PEM")
    return key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)


def _public_half(path: Path) -> bytes | Mistake:
    """The public half (SubjectPublicKeyInfo, DER) of a private key's file."""
    at = ("mtls", "key")
    data = _read(path)
    if isinstance(data, str):
        return Mistake(at, data)
    if too_open(path):
        return Mistake(at, f"{path} can be used by others", f"do: chmod 600 {path}")
    try:
        key = serialization.load_pem_private_key(data, password=None)
    except TypeError:
        return Mistake(at, f"{path} is encrypted", "a server starts without a password: decrypt the key")
    except (ValueError, UnsupportedAlgorithm):
        return Mistake(at, f"{path} is not a private key in PEM")
    return key.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )


def _tokens(tokens: TokensSettings) -> Iterator[Note]:
    try:
        keys = load_jwks(tokens.jwks)
    except ConfigError as error:
        for found in error.findings:
            yield Mistake(("tokens", "jwks"), found.message, found.hint), ()
        return
    if keys.algorithms.isdisjoint(tokens.algorithms):
        message = f"are none that a key of {tokens.jwks} is good for"
        hint = f"its keys are good for {', '.join(sorted(keys.algorithms))}"
        yield Mistake(("tokens", "algorithms"), message, hint), (("tokens", "jwks"),)


def _keys(keys: KeysSettings, environ: Mapping[str, str]) -> Iterator[Note]:
    try:
        load_kek(keys.kek, environ)
    except ConfigError as error:
        for found in error.findings:
            yield Mistake(("keys", "kek"), found.message, found.hint), ()
    scheme, _, where = keys.store.partition(":")
    if scheme != "file":
        return
    ring = Path(where)
    problem = _not_there_or_private(ring)
    if problem is not None:
        yield Mistake(("keys", "store"), *problem), ()


def _not_there_or_private(ring: Path) -> tuple[str, str | None] | None:
    """What keeps a key ring from being kept there; None where it can be, or where it may still be made."""
    try:
        found = ring.stat()
    except (FileNotFoundError, NotADirectoryError):
        around = next(folder for folder in ring.parents if folder.exists())
        if not around.is_dir():
            return f"{around} is not a folder", None
        return None if os.access(around, os.W_OK | os.X_OK) else (f"nothing can be made in {around}", None)
    except OSError as error:
        return f"{ring} cannot be read: {error.strerror}", None
    if not stat.S_ISREG(found.st_mode):
        return f"{ring} is not a regular file", None
    if too_open(ring):
        return f"{ring} can be used by others", f"do: chmod 600 {ring}"
    return None


def _read(path: Path) -> bytes | str:
    """The bytes of a PEM file, or why they cannot be had."""
    try:
        # O_NONBLOCK: opening a fifo would wait for somebody to write into it.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return f"there is no file {path}"
    except OSError as error:
        return f"{path} cannot be read: {error.strerror}"
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            return f"{path} is not a regular file"
        with os.fdopen(os.dup(descriptor), "rb") as file:
            data = file.read(_LARGEST_PEM + 1)
    except OSError as error:
        return f"{path} cannot be read: {error.strerror}"
    finally:
        os.close(descriptor)
    return f"{path} is larger than {_LARGEST_PEM // 1024} KiB" if len(data) > _LARGEST_PEM else data


def _is_key(data: bytes) -> bool:
    return b"PRIVATE KEY-----" in data
