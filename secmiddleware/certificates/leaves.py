"""What a leaf says of itself, read once.

The library makes an object of every attribute and every extension, of which little is wanted. So a leaf of
the usual form is read in one pass over its DER, and any other by the library: whatever is not spelled just so
is not the usual form. Both come to the same, or the pass to nothing.
"""

from __future__ import annotations

import re
from datetime import datetime
from typing import Final, NamedTuple, Self

from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID

from secmiddleware.certificates.encoding import content_at, spki_of
from secmiddleware.certificates.faults import behind
from secmiddleware.certificates.names import Names
from secmiddleware.certificates.strength import Weakness, weakness_of_leaf

_DIGITAL_SIGNATURE: Final = 0x80
_CERT_SIGN: Final = 0x04
_CRL_SIGN: Final = 0x02
_ASKED: Final = _DIGITAL_SIGNATURE | _CERT_SIGN | _CRL_SIGN

Loaded = tuple[x509.Certificate, int, datetime, datetime]
"""A certificate, and what is read of it first: the serial number, the first and the last valid second."""

_Said = tuple[str, bytes, Names, "Purpose"]
"""Subject, SubjectPublicKeyInfo, names and purpose."""


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
        return cls._saying(loaded, der, _read(loaded[0], der))

    @classmethod
    def usual(cls, loaded: Loaded, der: bytes) -> Self | None:
        """The same, quickly, for a certificate with a path behind it; None where it has another form.

        A path is what says that its issuer can be read.
        """
        try:
            said = _read_usual(der)
        except (LookupError, ValueError):
            return None
        return cls._saying(loaded, der, said)

    @classmethod
    def _saying(cls, loaded: Loaded, der: bytes, said: _Said) -> Self:
        certificate, serial, since, last = loaded
        subject, spki, names, purpose = said
        weakness = weakness_of_leaf(certificate, spki)
        return cls(
            certificate, der, subject, spki, names, purpose, weakness, serial, since, last, behind(last)
        )  # fmt: skip


def _read(certificate: x509.Certificate, der: bytes) -> _Said:
    extensions = certificate.extensions
    subject = certificate.subject.rfc4514_string()
    return subject, spki_of(der), Names.of(certificate), Purpose.of(extensions)


# The usual form. What was loaded is DER, where elements end as their lengths say: nothing is looked for by
# what it begins with, so that nothing which stands inside of another is taken for it. Only the values of
# extensions are still unread then, and are compared whole.

# A certificate of 256 bytes and more, of version 3.
_SEQUENCE: Final = 0x30
_LONG_SEQUENCE: Final = b"\x30\x82"
_V3: Final = b"\xa0\x03\x02\x01\x02"
_HEAD: Final = 8
_EXTENSIONS_TAG: Final = 0xA3
_LONG: Final = 0x80
"""From here on a length has more than one byte (X.690 §8.1.3.5)."""

_ATTRIBUTES: Final = {
    bytes.fromhex("0603550406"): "C=",
    bytes.fromhex("0603550408"): "ST=",
    bytes.fromhex("0603550407"): "L=",
    bytes.fromhex("060355040a"): "O=",
    bytes.fromhex("060355040b"): "OU=",
    bytes.fromhex("0603550403"): "CN=",
}
# From a set with one attribute to its text.
_BEFORE_TEXT: Final = 11
# What is written as it stands (RFC 4514 §2.4), and no longer than any of these may be (X.520).
_TEXT_OF: Final = {
    0x0C: re.compile(rb"(?![ #])[ !#-*./0-9:=?-\[\]-~-]{1,64}(?<! )"),  # UTF8String
    0x13: re.compile(rb"(?! )[0-9A-Za-z '()./:=?-]{1,64}(?<! )"),  # PrintableString
}

_ID_CE: Final = b"\x06\x03\x55\x1d"  # 2.5.29, and one number more
_BEFORE_NUMBER: Final = 6
_CRITICAL: Final = 0x01
_KEY_USAGE: Final = 15
_ALT_NAME: Final = 17
_EXT_KEY_USAGE: Final = 37
_READ: Final = frozenset((_KEY_USAGE, _ALT_NAME, _EXT_KEY_USAGE))
# Nothing is asked of these, but that they can be read: how they begin, and their length. The identifiers of
# keys are of twenty bytes (RFC 5280 §4.2.1.2).
_UNASKED: Final = {
    14: (b"\x04\x14", 22),  # subjectKeyIdentifier
    19: (b"\x30\x00", 2),  # basicConstraints of no CA
    35: (b"\x30\x16\x80\x14", 24),  # authorityKeyIdentifier
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


class _UnusualError(ValueError):
    """Something is not spelled as it is in most certificates."""


def _read_usual(der: bytes) -> _Said:
    """What `_read` says; raises LookupError or ValueError where something is not as usual."""
    if not (der.startswith(_LONG_SEQUENCE, 4) and der.startswith(_V3, _HEAD)):
        raise _UnusualError
    start = _HEAD + len(_V3)
    for _field in ("serialNumber", "signature", "issuer", "validity"):
        length = der[start + 1]
        start = start + 2 + length if length < _LONG else content_at(der, start)[1]
    first, start = content_at(der, start)
    _, end = content_at(der, start)
    if der[end] != _EXTENSIONS_TAG:
        raise _UnusualError
    values = _values(der, *content_at(der, content_at(der, end)[0]))
    names = values.get(_ALT_NAME)
    purpose = Purpose(False, _KEY_USAGES[values.get(_KEY_USAGE)], _USAGES[values.get(_EXT_KEY_USAGE)])  # noqa: FBT003
    return (
        _subject(der, first, start), der[start:end], Names() if names is None else _names(names), purpose
    )  # fmt: skip


def _subject(der: bytes, position: int, end: int) -> str:
    """A name of one attribute a set, as RFC 4514 writes it: backwards."""
    written = ""
    while position < end:
        length = der[position + 1]
        text = position + _BEFORE_TEXT
        behind = position + 2 + length
        attribute = _ATTRIBUTES[der[position + 4 : text - 2]]
        if length >= _LONG or der[position + 3] != length - 2 or (attribute == "C=" and behind - text != 2):
            raise _UnusualError
        if _TEXT_OF[der[text - 2]].fullmatch(der, text, behind) is None:
            raise _UnusualError
        one = attribute + der[text:behind].decode("ascii")
        written = f"{one},{written}" if written else one
        position = behind
    return written


def _values(der: bytes, position: int, end: int) -> dict[int, bytes]:
    """The values of extensions, by the last part of their identifiers; each is there once."""
    values: dict[int, bytes] = {}
    while position < end:
        length = der[position + 1]
        number = der[position + _BEFORE_NUMBER]
        value = position + _BEFORE_NUMBER + 1
        if der[value] == _CRITICAL:
            value += 3
        behind = position + 2 + length
        if length >= _LONG or number in values or not der.startswith(_ID_CE, position + 2):
            raise _UnusualError
        values[number] = content = der[value + 2 : behind]
        if number not in _READ:
            begins, size = _UNASKED[number]
            if len(content) != size or not content.startswith(begins):
                raise _UnusualError
        position = behind
    return values


def _names(value: bytes) -> Names:
    texts: dict[int, list[str]] = {0x81: [], 0x82: [], 0x86: []}
    position = 2
    while position < len(value):
        behind = position + 2 + value[position + 1]
        texts[value[position]].append(value[position + 2 : behind].decode("ascii"))
        position = behind
    if position != len(value) or value[0] != _SEQUENCE or value[1] != position - 2:
        raise _UnusualError
    return Names.of_texts(texts[0x82], texts[0x86], texts[0x81])
