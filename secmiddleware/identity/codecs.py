"""How proxies write certificates into a header's value, and back to DER: one exact spelling for each.

Nothing is judged here, and nothing of a certificate is read but its length: whether it is one, and whether it
is good, is said where chains are judged. Whatever is not spelled as its proxy spells it raises `Undecodable`.
Every function is linear in the length of its input, and looks at the length first.
"""

from __future__ import annotations

import base64
import binascii
from typing import Final
from urllib.parse import unquote_to_bytes

MAX_CERTIFICATES: Final = 11
"""A leaf and ten more, as many as are judged."""

# As many bytes as are judged. Base64 makes four characters of three bytes, and three of each of those where
# it is percent-encoded to the last letter; no proxy does, and no server takes a header of that length by
# default.
MAX_DER: Final = 100 * 1024
"""Bytes of all certificates together."""
MAX_TEXT: Final = 4 * MAX_DER

_BEGIN: Final = b"-----BEGIN CERTIFICATE-----\n"
_END: Final = b"-----END CERTIFICATE-----\n"
_LINE: Final = 64  # RFC 7468 §2: generators wrap lines so that each but the last has exactly 64 characters

_VISIBLE: Final = bytes(range(0x21, 0x7F))


class Undecodable(ValueError):  # noqa: N818  (it is the value's state, not a fault of ours)
    """A value is not what its proxy writes. The text says why, for a log: it quotes nothing of the value."""


def der_of_base64(text: bytes) -> bytes:
    """The certificate in plain base64: RFC 4648 §4, padded, canonical, without any white space."""
    der = _bytes_of_base64(text)
    if _length_of(der, 0) != len(der):
        raise Undecodable("something follows the certificate")
    return der


def ders_of_base64(text: bytes) -> tuple[bytes, ...]:
    """The certificates in the base64 of one DER after another (HAProxy: `ssl_c_chain_der,base64`)."""
    joined = _bytes_of_base64(text)
    ders: list[bytes] = []
    at = 0
    while at < len(joined):
        _count(len(ders) + 1)
        length = _length_of(joined, at)
        ders.append(joined[at : at + length])
        at += length
    return tuple(ders)


def der_of_byte_sequence(text: bytes) -> bytes:
    """The certificate in a byte sequence of RFC 8941 §3.3.5, without parameters (RFC 9440 §2.1)."""
    if len(text) < 2 or not (text.startswith(b":") and text.endswith(b":")):
        raise Undecodable("a byte sequence stands between colons")
    return der_of_base64(text[1:-1])


def ders_of_byte_sequences(text: bytes) -> tuple[bytes, ...]:
    """The certificates in a list of byte sequences (RFC 9440 §2.3), in their order."""
    if text != text.strip(b" "):
        raise Undecodable("spaces stand between certificates only")
    _count(text.count(b",") + 1)
    return tuple(der_of_byte_sequence(member.strip(b" ")) for member in text.split(b","))


def ders_of_pem(text: bytes) -> tuple[bytes, ...]:
    """The certificates in PEM, one after another: strict by RFC 7468 §3, and nothing else beside them.

    The newline after the last one may be missing.
    """
    if len(text) > MAX_TEXT:
        raise Undecodable("the value is too long")
    *blocks, rest = (text if text.endswith(b"\n") else text + b"\n").split(_END)
    if rest or not blocks:
        raise Undecodable("PEM ends with the line that ends a certificate, and only with it")
    _count(len(blocks))
    return tuple(_der_of_block(block) for block in blocks)


def ders_of_escaped_pem(text: bytes) -> tuple[bytes, ...]:
    """The certificates in percent-encoded PEM; `+` is a plus, as it is not in a form."""
    return ders_of_pem(unescaped(text))


def ders_of_spaced_pem(text: bytes) -> tuple[bytes, ...]:
    """The certificates in PEM whose newlines became spaces (Apache: `%{SSL_CLIENT_CERT}s`)."""
    if b"\n" in text or len(text) > MAX_TEXT:
        raise Undecodable("newlines are spaces here")
    # The two spaces within the lines that begin and end a certificate are no newlines.
    lines = text.replace(b" ", b"\n")
    return ders_of_pem(
        lines.replace(b"-----BEGIN\nCERTIFICATE-----", b"-----BEGIN CERTIFICATE-----").replace(
            b"-----END\nCERTIFICATE-----", b"-----END CERTIFICATE-----"
        )
    )


def ders_of_encoded_pem(text: bytes) -> tuple[bytes, ...]:
    """The certificates in the base64 of PEM (Apache: `%{base64:%{SSL_CLIENT_CERT}}`)."""
    return ders_of_pem(_bytes_of_base64(text))


def unescaped(text: bytes) -> bytes:
    """The bytes that are percent-encoded (RFC 3986 §2.1), once; `+` is a plus, as it is not in a form.

    An escape that is none stays, so that what comes of it is not base64, and no PEM.
    """
    if len(text) > MAX_TEXT:
        raise Undecodable("the value is too long")
    if text.translate(None, _VISIBLE):
        raise Undecodable("what is percent-encoded is visible ASCII")
    return unquote_to_bytes(text)


def only(ders: tuple[bytes, ...]) -> bytes:
    """The certificate where exactly one is due."""
    if len(ders) != 1:
        raise Undecodable("exactly one certificate is due")
    return ders[0]


def _der_of_block(block: bytes) -> bytes:
    if not block.startswith(_BEGIN):
        raise Undecodable("PEM begins with the line that begins a certificate")
    body = block[len(_BEGIN) :]
    *full, last = body.removesuffix(b"\n").split(b"\n")
    if not body.endswith(b"\n") or not 0 < len(last) <= _LINE or any(len(line) != _LINE for line in full):
        raise Undecodable("PEM has lines of 64 characters")
    return der_of_base64(b"".join((*full, last)))


def _bytes_of_base64(text: bytes) -> bytes:
    if len(text) > MAX_TEXT:
        raise Undecodable("the value is too long")
    try:
        data = base64.b64decode(text, validate=True)
    except binascii.Error:
        raise Undecodable("this is no base64") from None
    # The decoder takes bits that belong to no byte, and more; there is one way to write each value.
    if base64.b64encode(data) != text:
        raise Undecodable("this is no canonical base64")
    return data


def _length_of(data: bytes, at: int) -> int:
    """How many bytes the DER of a certificate has that begins at `at`: X.690 §8.1, §10.1.

    It is a SEQUENCE of more than 127 bytes, so that its length stands in one to three bytes of their own,
    without leading zeros.
    """
    head = data[at : at + 5]
    size = head[1] - 0x80 if len(head) == 5 and head[0] == 0x30 else 0
    if not 1 <= size <= 3 or head[2] == 0:
        raise Undecodable("this does not begin like a certificate")
    length = 2 + size + int.from_bytes(head[2 : 2 + size], "big")
    if at + length > len(data):
        raise Undecodable("the certificate breaks off")
    return length


def _count(certificates: int) -> None:
    if certificates > MAX_CERTIFICATES:
        raise Undecodable("there are too many certificates")
