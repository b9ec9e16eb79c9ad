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
from msgspec import Struct

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
_KEY_AGREEMENT: Final = 0x08
_CERT_SIGN: Final = 0x04
_CRL_SIGN: Final = 0x02
_ENCIPHER_ONLY: Final = 0x01
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


class MalformedError(ValueError):
    """A certificate that can be loaded, and breaks this rule."""

    def __init__(self, rule: str, detail: str) -> None:
        super().__init__(detail)
        self.rule = rule


def load(der: bytes) -> Loaded:
    """The certificate of this DER.

    Raises MalformedError where its serial number or its validity is none, one of UNREADABLE where it is no
    certificate.
    """
    certificate = x509.load_der_x509_certificate(der)
    serial, since = certificate.serial_number, certificate.not_valid_before_utc
    last = certificate.not_valid_after_utc
    if serial <= 0:
        raise MalformedError("serial_number", "the serial number is not positive (RFC 5280 §4.1.2.2)")
    if since > last:
        raise MalformedError("validity", "the validity ends before it begins")
    return certificate, serial, since, last


class Leaf(Struct, frozen=True, gc=False):
    """What is known of a leaf that can be read wholly.

    msgspec makes it: of what cannot be changed, nothing is made as quickly. It holds no certificate, which
    would be kept as long and is larger.
    """

    der: bytes
    """All of it."""
    subject: str
    """RFC 4514."""
    sha256: str
    """SHA-256 of its DER, lower-case hex."""
    spki_sha256: str
    """SHA-256 of its SubjectPublicKeyInfo, lower-case hex."""
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
        spki = spki_of(der)
        return cls(
            der,
            certificate.subject.rfc4514_string(),
            hashlib.sha256(der).hexdigest(),
            hashlib.sha256(spki).hexdigest(),
            Names.of(certificate),
            Purpose.of(certificate.extensions),
            weakness_of_leaf(certificate, spki),
            serial,
            since,
            last,
            behind(last),
        )

    @classmethod
    def usual(cls, loaded: Loaded, der: bytes) -> Self | None:
        """The same, quickly, for a certificate with a path behind it; None where it has another form.

        A path is what says that its issuer can be read.
        """
        certificate, serial, since, last = loaded
        # First: the library has just hashed it for the signature, and its code is at hand.
        sha256 = hashlib.sha256(der).hexdigest()
        try:
            subject, spki, extensions, is_strong = _parts(der)
            key_usage, usages, alt_name = extensions.group(4, 5, 6)
            purpose = _purpose(key_usage, usages)
            names = Names() if alt_name is None else _names(alt_name)
        except (LookupError, ValueError):
            return None
        weakness = None if is_strong else weakness_of_leaf(certificate, spki)
        return cls(
            der, subject, sha256, hashlib.sha256(spki).hexdigest(), names, purpose, weakness,
            serial, since, last, behind(last),
        )  # fmt: skip


# The usual form. What was loaded is DER, where elements end as their lengths say. Up to the extensions these
# are followed; behind that a pattern takes over, of which every length is a part, or is compared with what
# was found.

# A certificate of 256 bytes and more, of version 3.
_LONG_SEQUENCE: Final = b"\x30\x82"
_V3: Final = b"\xa0\x03\x02\x01\x02"
_HEAD: Final = 8
_SERIAL_NUMBER: Final = _HEAD + len(_V3)
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

# Values of extensions, each an OCTET STRING as a whole. Of keyUsage: one byte of bits, which stands last, and
# how many of them are none. Where encipherOnly stands without keyAgreement, which it says more of (RFC 5280
# §4.2.1.3), the library cannot read it.
_KEY_USAGES: Final[dict[bytes | None, int | None]] = {
    bytes((0x04, 0x04, 0x03, 0x02, (bits & -bits).bit_length() - 1, bits)): bits & _ASKED
    for bits in range(1, 256)
    if bits & _KEY_AGREEMENT or not bits & _ENCIPHER_ONLY
} | {None: None}
_USAGES: Final[dict[bytes | None, frozenset[x509.ObjectIdentifier] | None]] = {
    bytes((0x04, len(value))) + value: frozenset(usages)
    for usages, value in (
        (usages, x509.ExtendedKeyUsage(usages).public_bytes())
        for usages in (
            [ExtendedKeyUsageOID.CLIENT_AUTH],
            [ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH],
            [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH],
        )
    )
} | {None: None}
# All extensions, in any order, none of them twice. Of the first three nothing is asked, but that they can be
# read: identifiers of keys have twenty bytes (RFC 5280 §4.2.1.2), and who is no CA says no more. A name has
# none of the bytes by which an extension is told, so that it ends where it seems to.
_EXTENSIONS: Final = re.compile(
    rb"""
    \xa3 (?:\x81)? . \x30 (?:\x81)? .
    (?: \x30 . \x06\x03\x55\x1d (?:
        \x0e (?(1)(?!))                  (\x04\x16\x04\x14 .{20})                     # subjectKeyIdentifier
      | \x23 (?(2)(?!))                  (\x04\x18\x30\x16\x80\x14 .{20})             # authorityKeyIdentifier
      | \x13 (?(3)(?!)) (?:\x01\x01\xff)? (\x04\x02\x30\x00)                          # basicConstraints
      | \x0f (?(4)(?!)) (?:\x01\x01\xff)? (\x04\x04\x03\x02 ..)                       # keyUsage
      | \x25 (?(5)(?!)) (?:\x01\x01\xff)? (\x04 . \x30 . (?:\x06\x08 .{7} [\x01\x02])+)  # extendedKeyUsage
      | \x11 (?(6)(?!)) (?:\x01\x01\xff)? (\x04 . \x30 . (?:[\x81\x82\x86] . [!-~]+)+)   # subjectAltName
    ))+
    """,
    re.VERBOSE | re.DOTALL,
)
_EMAIL: Final = 0x81
_DNS: Final = 0x82
_URI: Final = 0x86


class _UnusualError(ValueError):
    """Something is not spelled as it is in most certificates."""


def _parts(der: bytes) -> tuple[str, bytes, re.Match[bytes], bool]:
    """Subject, SubjectPublicKeyInfo, extensions, and whether key and signature are of the usual, strong kind.

    Raises LookupError or ValueError where something is not as usual.
    """
    if not (der.startswith(_LONG_SEQUENCE, 4) and der.startswith(_V3, _HEAD)):
        raise _UnusualError
    behind = _HEAD + int.from_bytes(der[_HEAD - 2 : _HEAD], "big")
    start = _SERIAL_NUMBER
    for _field in ("serialNumber", "signature", "issuer", "validity"):
        length = der[start + 1]
        start = start + 2 + length if length < _LONG else content_at(der, start)[1]
    first, start = content_at(der, start)
    is_strong = der.startswith(USUAL_KEY, start)
    end = start + USUAL_KEY_BYTES if is_strong else content_at(der, start)[1]
    extensions = _EXTENSIONS.fullmatch(der, end, behind)
    if extensions is None:
        raise _UnusualError
    is_strong = is_strong and der.startswith(USUAL_SIGNATURES, behind)
    return _subject(der, first, start), der[start:end], extensions, is_strong


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


@cache  # of what stands in two closed tables
def _purpose(key_usage: bytes | None, usages: bytes | None) -> Purpose:
    return Purpose(ca=False, key_usage=_KEY_USAGES[key_usage], usages=_USAGES[usages])


def _names(value: bytes) -> Names:
    """The names of a subjectAltName, of which the extent is known to be that of its texts."""
    dns: tuple[str, ...] = ()
    uris: tuple[str, ...] = ()
    emails: tuple[str, ...] = ()
    position, end = 4, len(value)
    if value[1] != end - 2 or value[3] != end - 4:
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
    return Names.of_visible(dns, uris, emails)
