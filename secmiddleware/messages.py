"""The frozen data that all layers speak: heads, a presented certificate, an identity, a refusal, events.

A request becomes data, data a decision, the decision events; a shell performs them. Nothing here does I/O,
reads a clock or names a framework.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final, Literal, TypeVar, dataclass_transform

from msgspec import Struct

Headers = tuple[tuple[bytes, bytes], ...]
"""Lower-case names; order and duplicates as they came."""

PRESENTED_KEY: Final = "secmiddleware.presented"
"""The scope or environ key under which a server hook, or a test, hands over a `Presented` or None."""

PEER_KEY: Final = "secmiddleware.peer"
"""The scope or environ key under which a server hook tells the `Peer` that it sees on the transport."""

IDENTITY_KEY: Final = "secmiddleware.identity"
"""The scope or environ key under which the app finds the `Identity`, or None; always overwritten."""

TOKEN_CLAIMS_KEY: Final = "secmiddleware.token_claims"  # noqa: S105  (a name)
"""The scope or environ key under which the app finds the `TokenClaims`, or None; always overwritten."""

TokenClaims = Mapping[str, Any]
"""What a verified token says, JSON as Python has it, with mappings and tuples that cannot be changed."""

UNACCEPTED_KEY: Final = "secmiddleware.unaccepted"
"""The scope or environ key under which the app finds an `Unaccepted`, or None; always overwritten."""

_T = TypeVar("_T")


@dataclass_transform(frozen_default=True, field_specifiers=(field,))
def message(kind: type[_T]) -> type[_T]:
    """A slotted dataclass that nobody changes, for what is made anew in every exchange.

    It is the type checker that holds it frozen: what is frozen at run time, too, takes a microsecond more to
    make where it has ten fields. An `Identity`, which apps are given, is frozen for good.
    """
    return dataclass(slots=True, unsafe_hash=True)(kind)


def header_values(headers: Headers, name: bytes) -> list[bytes]:
    """Every value of a header, in order; `name` is lower-case."""
    return [value for key, value in headers if key == name]


def without_headers(headers: Headers, *names: bytes) -> Headers:
    """The headers less those named (lower-case)."""
    return tuple(pair for pair in headers if pair[0] not in names)


@message
class Peer:
    """The other end of the connection as the transport knows it, never as a forwarded header tells it."""

    host: str | None = None
    port: int | None = None
    unix: bool = False
    uid: int | None = None
    """Of a unix socket: who is at its other end (SO_PEERCRED), where the system tells."""
    seen: bool = False
    """Whether a hook has seen the transport itself; else this is what the server says, or what rewrote it."""


@message
class Presented:
    """A certificate as it was handed over, not judged yet: DER, the leaf apart from the rest of the chain."""

    leaf: bytes = field(repr=False)
    chain: tuple[bytes, ...] = field(default=(), repr=False)
    source: str = "server"
    rejected: bool = False
    """Whether whoever ended TLS did not accept it: no judgement of ours makes that good again."""
    kept: object = field(default=None, init=False, repr=False, compare=False)
    """What a judge remembers of it, for the connection that hands it over again; nobody else's business."""


@message
class RequestHead:
    """What is known of a request before its body."""

    protocol: Literal["http", "websocket"]
    method: str
    scheme: str
    path: str
    """Percent-decoded, `root_path` included, as the app will see it."""
    raw_path: bytes | None = None
    """The target's path as it came over the wire, without the query; None where the server does not tell."""
    root_path: str = ""
    query: bytes = field(default=b"", repr=False)
    http_version: str = "1.1"
    headers: Headers = field(default=(), repr=False)
    peer: Peer = Peer()
    presented: Presented | None = None


SWITCHING_PROTOCOLS: Final = 101
"""The status that a websocket begins with (RFC 9110 §15.2.2). No cache keeps it (RFC 9111 §3)."""


@dataclass(frozen=True, slots=True)
class ResponseHead:
    """Status and headers of a response."""

    status: int
    headers: Headers = field(default=(), repr=False)


class Identity(Struct, frozen=True, gc=False):
    """Who is calling: what an accepted chain says of its leaf.

    msgspec makes it, frozen at run time and in a third of the time of a dataclass.
    """

    subject: str
    """RFC 4514; to read, never to decide on. People's names stand in it: it is in no `repr`."""
    issuer: str
    serial: int
    dns: tuple[str, ...]
    uris: tuple[str, ...]
    emails: tuple[str, ...]
    ips: tuple[str, ...]
    spiffe_id: str | None
    sha256: str
    """SHA-256 of the leaf's DER, lower-case hex."""
    spki_sha256: str
    """SHA-256 of the leaf's SubjectPublicKeyInfo, lower-case hex."""
    not_before: datetime
    not_after: datetime
    anchor: str
    """SHA-256 of the DER of the trust anchor that the chain ended in, lower-case hex."""
    source: str
    der: bytes
    """The leaf itself; in no `repr`, either."""
    issuers: tuple[str, ...] = ()
    """SHA-256 of the DER of each CA of the verified chain, from the one that issued the leaf to the anchor.

    None where the leaf is itself the anchor.
    """
    issuer_spkis: tuple[str, ...] = ()
    """SHA-256 of their SubjectPublicKeyInfo, in the same order. A CA that is certified by several others has
    several certificates, among which a caller chooses, and one key."""

    @property
    def name(self) -> str:
        """The strongest name there is, with its kind: SPIFFE id, URI, DNS, e-mail, IP, else the key's digest.

        Unescaped: it is for comparing and for binding tokens. To show it, use `str(identity)`.
        """
        if self.spiffe_id is not None:
            return self.spiffe_id
        for kind, names in (("uri", self.uris), ("dns", self.dns), ("email", self.emails), ("ip", self.ips)):
            if names:
                return f"{kind}:{names[0]}"
        return f"spki-sha256:{self.spki_sha256}"

    @property
    def tenant(self) -> str:
        """The SPIFFE trust domain, or the trust anchor where there is no SPIFFE id."""
        if self.spiffe_id is not None:
            return "spiffe://" + self.spiffe_id.removeprefix("spiffe://").partition("/")[0]
        return f"anchor:{self.anchor}"

    def __repr__(self) -> str:
        shown = [name for name in self.__struct_fields__ if name not in {"subject", "der"}]
        return f"Identity({', '.join(f'{name}={getattr(self, name)!r}' for name in shown)})"

    def __str__(self) -> str:
        """`name`, safe to print: whatever is not visible ASCII, and a backslash, as in a Python literal."""
        return "".join(
            char
            if "!" <= char <= "~" and char != "\\"
            else f"\\x{ord(char):02x}"
            if ord(char) < 0x80
            else char.encode("unicode_escape").decode("ascii")
            for char in self.name
        )


@dataclass(frozen=True, slots=True)
class Unaccepted:
    """A certificate that was presented and not accepted, for an app that asks for it: it speaks for nobody.

    It has no names on purpose: whoever made the certificate chose them.
    """

    code: str
    """Why it was not accepted: `certificate_expired` and others."""
    sha256: str
    """SHA-256 of the leaf as it was presented, lower-case hex."""
    der: bytes = field(repr=False, compare=False)
    """The leaf as it was presented; it may be no certificate at all."""

    @classmethod
    def of(cls, code: str, presented: Presented) -> Unaccepted:
        """What there is to see of a presented certificate."""
        return cls(code, hashlib.sha256(presented.leaf).hexdigest(), presented.leaf)


# The closed set of DESIGN: the same word in the problem, in `error.type` and in the audit log.
STATUS_OF: Final[dict[str, int]] = {
    "certificate_malformed": 400,
    "header_ambiguous": 400,
    "path_ambiguous": 400,
    "payload_malformed": 400,
    "field_undecryptable": 400,
    "field_missing": 400,
    "certificate_missing": 401,
    "token_missing": 401,
    "token_invalid": 401,
    "certificate_expired": 403,
    "certificate_not_yet_valid": 403,
    "certificate_weak": 403,
    "certificate_purpose": 403,
    "certificate_untrusted": 403,
    "certificate_revoked": 403,
    "identity_not_allowed": 403,
    "proxy_untrusted": 403,
    "length_required": 411,
    "payload_too_large": 413,
    "payload_encoding": 415,
    "seal_failed": 500,
    "internal_error": 500,
    "revocation_unavailable": 503,
    "key_unknown": 503,
}

_TITLE: Final[dict[str, str]] = {
    "certificate_malformed": "The client certificate cannot be read",
    "header_ambiguous": "A header can be read in two ways",
    "path_ambiguous": "The path can be read in two ways",
    "payload_malformed": "The body cannot be read",
    "field_undecryptable": "A field does not open",
    "field_missing": "A field is missing",
    "certificate_missing": "A client certificate is required",
    "token_missing": "An access token is required",
    "token_invalid": "The access token is not good here",
    "certificate_expired": "The client certificate has expired",
    "certificate_not_yet_valid": "The client certificate is not valid yet",
    "certificate_weak": "The client certificate is too weak",
    "certificate_purpose": "The certificate is not one for clients",
    "certificate_untrusted": "The client certificate is not trusted",
    "certificate_revoked": "The client certificate has been revoked",
    "identity_not_allowed": "This client may not do this",
    "proxy_untrusted": "The request did not come by a trusted way",
    "length_required": "The body's length is required",
    "payload_too_large": "The body is too large",
    "payload_encoding": "The body's type or encoding is not one that is read here",
    "seal_failed": "The response could not be protected",
    "internal_error": "Something went wrong here",
    "revocation_unavailable": "Whether the certificate is revoked cannot be told now",
    "key_unknown": "A key is not known here yet",
}

# How the text of a mark begins, and no key of the configuration.
_MARKS: Final = ("$", "header:", "cookie:", "query:")

_RETRY_AFTER_SECONDS: Final = b"5"

# Limits that a body goes beyond only while others are held (RFC 9110 §15.5.14 has Retry-After for these).
_PASSING: Final = frozenset({"service.max_held"})

# RFC 6750 §3: a challenge has one parameter at least, and no error where there was no token (§3.1).
_CHALLENGE: Final[dict[str, bytes]] = {
    "token_missing": b'Bearer realm="secmiddleware"',
    "token_invalid": b'Bearer realm="secmiddleware", error="invalid_token"',
}


# Closed, as the codes are: docs/certificates.md says which goes with which code.
RULES: Final = frozenset(
    {
        *("der", "serial_number", "validity", "names", "chain_length", "chain_bytes"),
        *("not_before", "not_after"),
        *("rsa_bits", "rsa_exponent", "ec_bits", "key_kind", "signature_hash", "signature_kind"),
        *("ca_as_leaf", "leaf_signs", "digital_signature", "eku_client_auth", "svid_key_usage"),
        *("issuer_unknown", "signature", "ca_flag", "key_cert_sign", "path_length", "critical_extension"),
        *("name_constraints", "svid_signer", "may_assert", "subject_alt_name", "authority_key_id"),
        *("subject_key_id", "basic_constraints", "key_usage", "extended_key_usage", "version", "path"),
        "crl",
    }
)
"""The rules that a certificate can break."""


@dataclass(frozen=True, slots=True)
class Reason:
    """Why a certificate was not accepted: for our own log and traces, never for the caller."""

    rule: str
    """A short stable word of `RULES`."""
    certificate: int | str
    """Which one: 0 is the leaf, 1 the first behind it as presented; `sha256:` and a digest is one of ours."""
    detail: str = field(default="", compare=False)
    """A sentence for the log; no subject, no name, and nothing that the caller wrote."""

    def __post_init__(self) -> None:
        if self.rule not in RULES:
            raise ValueError(f"unknown rule {self.rule!r}")


@dataclass(frozen=True, slots=True)
class Refusal:
    """A caller's request that will not be served, with the stable code that says why."""

    code: str
    where: str | None = None
    """The mark, or the key of the configuration, that refused; the caller is told marks only."""
    identity: Identity | None = field(default=None, repr=False, compare=False)
    """Who was refused, where a good certificate said so: for the audit log, never for the caller."""
    presented: Presented | None = field(default=None, repr=False, compare=False)
    """What was judged, where it is not what the server handed over: a proxy's word."""
    reason: Reason | None = field(default=None, repr=False, compare=False)
    """Which rule which certificate broke: for the audit log and the trace, never for the caller."""

    def __post_init__(self) -> None:
        if self.code not in STATUS_OF:
            raise ValueError(f"unknown refusal code {self.code!r}")

    @property
    def status(self) -> int:
        """The HTTP status that goes with the code."""
        return STATUS_OF[self.code]

    def problem(self, trace_id: str) -> tuple[ResponseHead, bytes]:
        """The answer as `application/problem+json` (RFC 9457): head and whole body."""
        members = {
            "type": f"urn:secmiddleware:problem:{self.code}",
            "title": _TITLE[self.code],
            "status": self.status,
            "code": self.code,
            "trace_id": trace_id,
        }
        if self.where is not None and self.where.startswith(_MARKS):
            members["where"] = self.where
        body = json.dumps(members, ensure_ascii=True).encode("ascii") + b"\n"
        headers: Headers = (
            (b"content-type", b"application/problem+json"),
            (b"content-length", b"%d" % len(body)),
            (b"cache-control", b"no-store"),
        )
        if self.status == 503 or self.where in _PASSING:
            headers += ((b"retry-after", _RETRY_AFTER_SECONDS),)
        if self.code in _CHALLENGE:
            headers += ((b"www-authenticate", _CHALLENGE[self.code]),)
        return ResponseHead(self.status, headers), body


@dataclass(frozen=True, slots=True)
class Head:
    """An event: the head that goes on, rewritten or not."""

    head: RequestHead | ResponseHead


@dataclass(frozen=True, slots=True)
class Body:
    """An event: a piece of the body that goes on; `more` is False on the last one."""

    data: bytes = field(repr=False)
    more: bool = False


@dataclass(frozen=True, slots=True)
class Trailers:
    """An event: the trailers that go on behind the body (RFC 9110 §6.5); a message has them once, or not."""

    headers: Headers = field(repr=False)


Event = Head | Body | Trailers | Refusal
Events = Iterator[Event]
