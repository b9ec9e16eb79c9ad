"""What a leaf says of itself, read once.

The library makes an object of every attribute and every extension, of which little is wanted. So a leaf of
the usual form is read in one pass over its DER, and any other by the library: whatever is not spelled just so
is not the usual form. Both come to the same, or the pass to nothing.
"""

from __future__ import annotations

import hashlib
import re
from datetime import datetime
from functools import cache
from typing import Final, NamedTuple, Self

from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID

from secmiddleware.certificates.encoding import content_at, spki_of
from secmiddleware.certificates.faults import behind
from secmiddleware.certificates.names import Names
from secmiddleware.certificates.strength import (
    USUAL_KEY,
    USUAL_KEY_BYTES,
    USUAL_SIGNATURES,
    Weakness,
    weakness_of_leaf,
)  # fmt: skip

_DIGITAL_SIGNATURE: Final = 0x80
_CERT_SIGN: Final = 0x04
_CRL_SIGN: Final = 0x02
_ASKED: Final = _DIGITAL_SIGNATURE | _CERT_SIGN | _CRL_SIGN

Loaded = tuple[x509.Certificate, int, datetime, datetime]
"""A certificate, and what is read of it first: the serial number, the first and the last valid second."""


class Purpose(NamedTuple):
    """What a certificate is for, as its extensions say."""

    ca: bool = False
    key_usage: int | None = None
    """The bits of keyUsage's first byte that matter to a client; None where there is no keyUsage."""
    usages: frozenset[x509.ObjectIdentifier] | None = None
    """extendedKeyUsage; None where there is none."""

    @classmethod
    def of(cls, extensions: x509.Extensions) -> Self:
        """What these extensions say."""
        ca, key_usage, usages = False, None, None
        for extension in extensions:
            match extension.value:
                case x509.BasicConstraints() as value:
                    ca = value.ca
                case x509.KeyUsage() as value:
                    key_usage = _DIGITAL_SIGNATURE * value.digital_signature
                    key_usage |= _CERT_SIGN * value.key_cert_sign | _CRL_SIGN * value.crl_sign
                case x509.ExtendedKeyUsage() as value:
                    usages = frozenset(value)
        return cls(ca, key_usage, usages)

    def fault(self, usage: x509.ObjectIdentifier, *, is_svid: bool) -> tuple[str, str] | None:
        """Why it is none for a leaf of this extended usage, rule and sentence, or None.

        RFC 5280 §4.2.1.3, .9, .12; RFC 8446 §4.4.2.2. A SPIFFE id asks for more: keyUsage must be there and
        say what the key is for (X509-SVID §4.3).
        """
        if self.ca:
            return "ca_as_leaf", "it is the certificate of a CA"
        if self.key_usage is None:
            if is_svid:
                return "svid_key_usage", "it has a SPIFFE id and does not say what its key is for"
        elif self.key_usage & (_CERT_SIGN | _CRL_SIGN):
            return "leaf_signs", "its key is for signing certificates or CRLs"
        elif not self.key_usage & _DIGITAL_SIGNATURE:
            return "digital_signature", "its key is not for signatures"
        if self.usages is not None and usage not in self.usages:
            return "eku_client_auth", "it is not for client authentication"
        return None


def load(der: bytes) -> Loaded:
    """The certificate of this DER; raises one of UNREADABLE where it is none."""
    certificate = x509.load_der_x509_certificate(der)
    return (
        certificate,
        certificate.serial_number,
        certificate.not_valid_before_utc,
        certificate.not_valid_after_utc,
    )


class Leaf(NamedTuple):
    """A leaf that can be read wholly. A tuple: nothing else that cannot be changed is made as quickly."""

    certificate: x509.Certificate
    der: bytes
    """All of it."""
    subject: str
    """RFC 4514."""
    sha256: str
    """SHA-256 of its DER, lower-case hex."""
    spki_sha256: str
    """SHA-256 of its SubjectPublicKeyInfo, lower-case hex."""
    spki: bytes
    """Its SubjectPublicKeyInfo, as it stands there."""
    names: Names
    purpose: Purpose
    weakness: Weakness | None
    """What is too weak about its key or its signature."""
    serial: int
    since: datetime
    last: datetime
    """The last second at which it is valid."""
    until: datetime
    """The first instant at which it is not valid any more."""

    @classmethod
    def of(cls, loaded: Loaded, der: bytes) -> Self:
        """The leaf of a certificate that the library can read wholly, and its DER, whatever its form.

        Raises ValueError where a name can be read in two ways.
        """
        certificate, serial, since, last = loaded
        sha256 = hashlib.sha256(der).hexdigest()
        subject, spki, spki_sha256, names, purpose, weakness = _read(certificate, der)
        return cls(
            certificate, der, subject, sha256, spki_sha256, spki, names, purpose, weakness,
            serial, since, last, behind(last),
        )  # fmt: skip

    @classmethod
    def usual(cls, loaded: Loaded, der: bytes) -> Self | None:
        """The same, quickly, for a certificate with a path behind it; None where it has another form.

        A path is what says that its issuer can be read.
        """
        certificate, serial, since, last = loaded
        try:
            # First: the library has just hashed it for the signature, and its code is at hand.
            sha256 = hashlib.sha256(der).hexdigest()
            subject, spki, spki_sha256, names, purpose, is_strong = _read_usual(der)
        except (LookupError, ValueError):
            return None
        weakness = None if is_strong else weakness_of_leaf(certificate, spki)
        return cls(
            certificate, der, subject, sha256, spki_sha256, spki, names, purpose, weakness,
            serial, since, last, behind(last),
        )  # fmt: skip


def _read(
    certificate: x509.Certificate, der: bytes
) -> tuple[str, bytes, str, Names, Purpose, Weakness | None]:
    extensions = certificate.extensions
    subject, spki = certificate.subject.rfc4514_string(), spki_of(der)
    weakness = weakness_of_leaf(certificate, spki)
    return (
        subject,
        spki,
        hashlib.sha256(spki).hexdigest(),
        Names.of(certificate),
        Purpose.of(extensions),
        weakness,
    )


# The usual form. What was loaded is DER, where elements end as their lengths say: nothing is looked for by
# what it begins with, so that nothing which stands inside of another is taken for it. Only the values of
# extensions are still unread then, and are compared whole.

# A certificate of 256 bytes and more, of version 3.
_LONG_SEQUENCE: Final = b"\x30\x82"
_V3: Final = b"\xa0\x03\x02\x01\x02"
_HEAD: Final = 8
_SERIAL_NUMBER: Final = _HEAD + len(_V3)
_EXTENSIONS_TAG: Final = 0xA3
_LONG: Final = 0x80
"""From here on a length has more than one byte (X.690 §8.1.3.5)."""

# Of an attribute that stands alone: its type and the tag of its text. A length of more than one byte before
# them would stand where they do, and is no part of any.
_FROM_TYPE: Final = 4
_TO_TEXT: Final = 11
_UTF8: Final = b"\x0c"
_PRINTABLE: Final = b"\x13"
# What is written as it stands (RFC 4514 §2.4), and no longer than any of these may be (X.520).
_TEXTS: Final = {
    _UTF8: rb"(?![ #])[ !#-*./0-9:=?-\[\]-~-]{1,64}(?<! )",
    _PRINTABLE: rb"(?! )[0-9A-Za-z '()./:=?-]{1,64}(?<! )",
}
_ATTRIBUTES: Final = {
    bytes.fromhex("06035504") + number + tag: (name, re.compile(text.replace(b"1,64", sizes)).fullmatch)
    for number, name, sizes in (
        (b"\x06", "C=", b"2"),
        (b"\x08", "ST=", b"1,64"),
        (b"\x07", "L=", b"1,64"),
        (b"\x0a", "O=", b"1,64"),
        (b"\x0b", "OU=", b"1,64"),
        (b"\x03", "CN=", b"1,64"),
    )
    for tag, text in _TEXTS.items()
}

_ID_CE: Final = b"\x06\x03\x55\x1d"  # 2.5.29, and one number more
_CRITICAL: Final = 0x01
_KEY_USAGE: Final = 15
_ALT_NAME: Final = 17
_EXT_KEY_USAGE: Final = 37
_READ: Final = frozenset((_KEY_USAGE, _ALT_NAME, _EXT_KEY_USAGE))
# Nothing is asked of these, but that they can be read: how they begin, their length in front. The identifiers
# of keys are of twenty bytes (RFC 5280 §4.2.1.2).
_UNASKED: Final = {
    14: b"\x04\x16\x04\x14",  # subjectKeyIdentifier
    19: b"\x04\x02\x30\x00",  # basicConstraints of no CA
    35: b"\x04\x18\x30\x16\x80\x14",  # authorityKeyIdentifier
}
# One byte of bits, which stands last, and how many of them are none.
_KEY_USAGES: Final[dict[bytes | None, int | None]] = {
    bytes((0x03, 0x02, (bits & -bits).bit_length() - 1, bits)): bits & _ASKED for bits in range(1, 256)
} | {None: None}
_USAGES: Final[dict[bytes | None, frozenset[x509.ObjectIdentifier] | None]] = {
    x509.ExtendedKeyUsage(usages).public_bytes(): frozenset(usages)
    for usages in (
        [ExtendedKeyUsageOID.CLIENT_AUTH],
        [ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH],
        [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH],
    )
} | {None: None}

_SEQUENCE: Final = 0x30
_EMAIL: Final = 0x81
_DNS: Final = 0x82
_URI: Final = 0x86


class _UnusualError(ValueError):
    """Something is not spelled as it is in most certificates."""


def _read_usual(der: bytes) -> tuple[str, bytes, str, Names, Purpose, bool]:
    """What `_read` says, and whether key and signature are of the usual kind, which is a strong one.

    Raises LookupError or ValueError where something is not as usual.
    """
    if not (der.startswith(_LONG_SEQUENCE, 4) and der.startswith(_V3, _HEAD)):
        raise _UnusualError
    start = _SERIAL_NUMBER
    for _field in ("serialNumber", "signature", "issuer", "validity"):
        length = der[start + 1]
        start = start + 2 + length if length < _LONG else content_at(der, start)[1]
    first, start = content_at(der, start)
    is_strong = der.startswith(USUAL_KEY, start)
    end = start + USUAL_KEY_BYTES if is_strong else content_at(der, start)[1]
    if der[end] != _EXTENSIONS_TAG:
        raise _UnusualError
    spki = der[start:end]
    spki_sha256 = hashlib.sha256(spki).hexdigest()
    position, behind = content_at(der, content_at(der, end)[0])
    key_usage, usages, alt_name = _values(der, position, behind)
    return (
        _subject(der, first, start),
        spki,
        spki_sha256,
        Names() if alt_name is None else _names(alt_name),
        _purpose(key_usage, usages),
        is_strong and der.startswith(USUAL_SIGNATURES, behind),
    )


def _subject(der: bytes, position: int, end: int) -> str:
    """A name of one attribute a set, as RFC 4514 writes it: backwards."""
    written = ""
    while position < end:
        length = der[position + 1]
        text = position + _TO_TEXT
        behind = position + 2 + length
        attribute, is_plain = _ATTRIBUTES[der[position + _FROM_TYPE : text - 1]]
        if der[position + 3] != length - 2 or is_plain(der, text, behind) is None:
            raise _UnusualError
        one = attribute + der[text:behind].decode()
        written = f"{one},{written}" if written else one
        position = behind
    return written


def _values(der: bytes, position: int, end: int) -> tuple[bytes | None, bytes | None, bytes | None]:
    """The values of keyUsage, extendedKeyUsage and subjectAltName; each extension is there once."""
    values: dict[int, bytes] = {}
    while position < end:
        # A length of more than one byte would stand where the identifier does, and is none.
        behind = position + 2 + der[position + 1]
        number = der[position + 6]
        value = position + 10 if der[position + 7] == _CRITICAL else position + 7
        if number in values or not der.startswith(_ID_CE, position + 2):
            raise _UnusualError
        if number not in _READ and not der.startswith(_UNASKED[number], value):
            raise _UnusualError
        values[number] = der[value + 2 : behind]
        position = behind
    return values.get(_KEY_USAGE), values.get(_EXT_KEY_USAGE), values.get(_ALT_NAME)


@cache  # of what stands in two closed tables
def _purpose(key_usage: bytes | None, usages: bytes | None) -> Purpose:
    return Purpose(ca=False, key_usage=_KEY_USAGES[key_usage], usages=_USAGES[usages])


def _names(value: bytes) -> Names:
    dns: tuple[str, ...] = ()
    uris: tuple[str, ...] = ()
    emails: tuple[str, ...] = ()
    position, end = 2, len(value)
    if value[0] != _SEQUENCE or value[1] != end - 2:
        raise _UnusualError
    while position < end:
        kind, text = value[position], position + 2
        position = text + value[position + 1]
        one = value[text:position].decode("ascii")
        if kind == _URI:
            uris += (one,)
        elif kind == _DNS:
            dns += (one,)
        elif kind == _EMAIL:
            emails += (one,)
        else:
            raise _UnusualError
    if position != end:
        raise _UnusualError
    return Names.of_texts(dns, uris, emails)
