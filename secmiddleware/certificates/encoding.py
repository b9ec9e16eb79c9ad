"""Where the public key stands in a certificate's DER, whether PEM is whole, and what the library raises.

The library hands a key out by parsing and encoding it anew, 15 us for what lies there as it was signed.
"""

from __future__ import annotations

import re
from typing import Final

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm

# Parts are read when they are asked for, so each access can raise any of these. Two are no ValueError, and
# yet a stranger's bytes bring them about: an x400Address or ediPartyName wherever a name stands is an
# UnsupportedGeneralNameType, a TLS feature (RFC 7633) that the library has no word for a KeyError. A warning
# is an exception where the interpreter runs with -W error: of a serial number that is not positive, and more.
UNREADABLE: Final = (
    ValueError, TypeError, OverflowError, KeyError, UnsupportedAlgorithm, x509.InvalidVersion,
    x509.DuplicateExtension, x509.UnsupportedGeneralNameType, Warning,
)  # fmt: skip

_VERSION_TAG: Final = 0xA0

# No body goes beyond the next five dashes, so that time is linear.
_BLOCK: Final = re.compile(
    rb"-----BEGIN ([^\r\n-]*+)-----[^-]*+(?:-(?!----)[^-]*+)*-----END \1-----"
)  # RFC 7468 §3
# Text between the blocks may be anything, a row of dashes too, but for how the line of a block begins.
_BEGUN: Final = re.compile(
    rb"^[ \t]*(?:-----(?:BEGIN |END |(?:B|BE|BEG|BEGI|BEGIN|E|EN|END)?\Z)|-{1,4}\Z)", re.MULTILINE
)


def spki_of(der: bytes) -> bytes:
    """The SubjectPublicKeyInfo of a certificate, as it stands in the certificate (RFC 5280 §4.1).

    `der` is one that was loaded: nothing is checked here.
    """
    start, _ = content_at(der, 0)  # Certificate
    start, _ = content_at(der, start)  # TBSCertificate
    if der[start] == _VERSION_TAG:
        _, start = content_at(der, start)
    for _field in ("serialNumber", "signature", "issuer", "validity", "subject"):
        _, start = content_at(der, start)
    _, end = content_at(der, start)
    return der[start:end]


def is_cut_short(pem: bytes) -> bool:
    """Whether a file of PEM has a block that is not whole, as one that is being written has.

    Readers pass such a block over at the end of a file, and take what is before it for all that there is.
    """
    return _BEGUN.search(_BLOCK.sub(b"\n", pem)) is not None


def content_at(der: bytes, start: int) -> tuple[int, int]:
    """Where the content of the element at `start` begins, and where it ends (X.690 §8.1.3)."""
    length = der[start + 1]
    start += 2
    if length < 0x80:
        return start, start + length
    count = length & 0x7F
    return start + count, start + count + int.from_bytes(der[start : start + count], "big")
