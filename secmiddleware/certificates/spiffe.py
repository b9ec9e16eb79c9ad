"""What a SPIFFE id is (SPIFFE-ID §2), so that certificates are issued, read and matched by one rule."""

from __future__ import annotations

import re
from typing import Final

_MAX_ID_BYTES: Final = 2048  # SPIFFE-ID §2.3
_TRUST_DOMAIN: Final = re.compile(r"[a-z0-9._-]{1,255}")  # SPIFFE-ID §2.1: lower-case only, at most 255 bytes
_SEGMENT: Final = re.compile(r"(?!\.\.?\Z)[A-Za-z0-9._-]+")  # SPIFFE-ID §2.2: no empty and no dot segments

# A whole id of the kind that is met every day, in one go: never longer than an id may be. Of what is not such
# a one, `check_spiffe_id` says why.
is_usual_spiffe_id: Final = re.compile(
    r"(?=.{1,2048}\Z)spiffe://[a-z0-9._-]{1,255}(?:/(?!\.\.?(?:/|\Z))[A-Za-z0-9._-]+)+"
).fullmatch


def is_spiffe_uri(uri: str) -> bool:
    """Whether a URI claims to be a SPIFFE id, in any case (RFC 3986 §3.1), well-formed or not."""
    return uri[:7].lower() == "spiffe:"


def check_spiffe_id(text: str) -> None:
    """Raise ValueError unless `text` is the SPIFFE id of a workload: a trust domain and a path.

    The id of a bare trust domain is one of signing certificates, not of leaves (X509-SVID §3.1).
    """
    if is_usual_spiffe_id(text):
        return
    if not text.startswith("spiffe://"):
        raise ValueError("a SPIFFE id starts with spiffe://, in lower case")
    if len(text) > _MAX_ID_BYTES:
        raise ValueError(f"a SPIFFE id has at most {_MAX_ID_BYTES} bytes")
    trust_domain, *segments = text.removeprefix("spiffe://").split("/")
    check_trust_domain(trust_domain)
    if not segments:
        raise ValueError("the SPIFFE id of a workload has a path after its trust domain")
    for segment in segments:
        check_segment(segment)


def trust_domain_of(spiffe_id: str) -> str:
    """The trust domain of a SPIFFE id that was checked."""
    return spiffe_id.removeprefix("spiffe://").partition("/")[0]


def check_trust_domain(text: str) -> None:
    """Raise ValueError unless `text` can be a trust domain."""
    if not _TRUST_DOMAIN.fullmatch(text):
        raise ValueError(
            "a SPIFFE trust domain has lower-case letters, digits, dots, dashes and underscores only"
        )


def check_segment(text: str) -> None:
    """Raise ValueError unless `text` can be one segment of a SPIFFE id's path."""
    if not _SEGMENT.fullmatch(text):
        raise ValueError(
            "a segment of a SPIFFE id has letters, digits, dots, dashes and underscores only, "
            "and is not a dot segment"
        )
