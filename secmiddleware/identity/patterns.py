"""The patterns over names that `allow` and `may_assert` are written in.

A pattern has a kind, and compares names of that kind only, each by the rules of its kind. Distinguished
names are left out on purpose: their text has many spellings, and a decision on text picks one.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, Literal, Self, cast, get_args

from secmiddleware.certificates.spiffe import check_segment, check_trust_domain
from secmiddleware.messages import Identity

NameKind = Literal["spiffe", "dns", "email", "uri", "ip"]
"""The kinds of name that a certificate asserts in its subjectAltName."""

_DigestKind = Literal["sha256", "spki-sha256", "issuer-sha256", "serial"]
PatternKind = Literal[NameKind, _DigestKind]
"""What a pattern may look at: a name, or the certificate, its key, its trust anchor, its serial number."""

_NAME_KINDS: Final = get_args(NameKind)

# A host name label as certificates carry them; underscores are found in service discovery.
_LABEL: Final = r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?"
_HOST: Final = re.compile(rf"{_LABEL}(?:\.{_LABEL})*")
_VISIBLE_ASCII: Final = re.compile(r"[!-~]+")

_Test = Callable[[str], bool]


@dataclass(frozen=True, slots=True)
class NamePattern:
    """A pattern over one kind of name, made from its text; ValueError has a sentence for the operator.

    `spiffe://td/a/*` (`*` is one segment), `spiffe://td/**` (everything below, and the folder itself);
    `dns:api.example.org`, `dns:*.example.org` (exactly one label; any case); `email:a@example.org`,
    `email:*@example.org` (the domain in any case, the mailbox exactly); `uri:` (exactly); `ip:` (an address
    or a network); `sha256:`, `spki-sha256:`, `issuer-sha256:` (of the certificate, its public key, its trust
    anchor; 64 hex digits, colons allowed); `serial:` (decimal, or hex with 0x; unique per CA only).
    """

    text: str
    kind: PatternKind = field(init=False, compare=False, repr=False)
    _test: _Test = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        kind, test = _read(self.text)
        object.__setattr__(self, "kind", kind)
        object.__setattr__(self, "_test", test)

    @classmethod
    def parse(cls, text: str) -> Self:
        """The pattern that a text stands for; ValueError with a clear sentence where it stands for none."""
        return cls(text)

    @property
    def is_of_names(self) -> bool:
        """Whether it looks at asserted names, as `may_assert` needs, and not at keys or serials."""
        return self.kind in _NAME_KINDS

    def matches(self, identity: Identity) -> bool:
        """Whether any of the identity's names of this kind falls under the pattern."""
        return any(self._test(value) for value in _values(identity, self.kind))

    def matches_name(self, kind: NameKind, value: str) -> bool:
        """Whether one name of a certificate falls under the pattern; False for every other kind."""
        return kind == self.kind and self._test(value)

    def __str__(self) -> str:
        return self.text


def _values(identity: Identity, kind: PatternKind) -> tuple[str, ...]:
    """What an identity has of a kind."""
    match kind:
        case "spiffe":
            return () if identity.spiffe_id is None else (identity.spiffe_id,)
        case "dns":
            return identity.dns
        case "email":
            return identity.emails
        case "uri":
            return identity.uris
        case "ip":
            return identity.ips
        case "sha256":
            return (identity.sha256,)
        case "spki-sha256":
            return (identity.spki_sha256,)
        case "issuer-sha256":
            return (identity.anchor,)
        case "serial":
            return (str(identity.serial),)


def _read(text: str) -> tuple[PatternKind, _Test]:
    """The kind of a pattern and the test of one value."""
    kind, colon, rest = text.partition(":")
    if not colon and "=" in text:
        raise ValueError(
            "a distinguished name has many spellings and is never compared: name a dns:, uri: or key"
        )
    reader = _READERS.get(kind)
    if not colon or reader is None:
        raise ValueError(f"a name pattern starts with spiffe:// or one of {', '.join(_PREFIXES)}")
    return cast("PatternKind", kind), reader(rest)


def _read_spiffe(rest: str) -> _Test:
    if not rest.startswith("//"):
        raise ValueError("a SPIFFE pattern starts with spiffe://")
    trust_domain, *segments = rest[2:].split("/")
    if "*" in trust_domain:
        raise ValueError("the trust domain of a SPIFFE pattern is written out: it says whose names they are")
    check_trust_domain(trust_domain)
    tree = segments[-1:] == ["**"]
    if tree:
        segments.pop()
    elif not segments:
        raise ValueError("a SPIFFE pattern has a path; everything of a trust domain is spiffe://td/**")
    for segment in segments:
        if "*" in segment and segment != "*":
            raise ValueError("* stands for one whole segment of a SPIFFE id, and /** at the end for the rest")
        if segment != "*":
            check_segment(segment)
    parts = ["/[^/]+" if segment == "*" else "/" + re.escape(segment) for segment in segments]
    head = re.escape(f"spiffe://{trust_domain}")
    regex = re.compile(head + "".join(parts) + ("(?:/.+)?" if tree else ""), re.DOTALL)
    return lambda value: regex.fullmatch(value) is not None


def _read_dns(rest: str) -> _Test:
    _check_host(rest.removeprefix("*."))
    name = rest.lower()
    if not name.startswith("*."):
        return lambda value: value.isascii() and value.lower() == name
    # A wildcard name of a certificate ("*.example.org") is no label and falls under no pattern.
    regex = re.compile(_LABEL + re.escape(name[1:]))
    return lambda value: value.isascii() and regex.fullmatch(value.lower()) is not None


def _read_email(rest: str) -> _Test:
    mailbox, at, domain = rest.rpartition("@")
    if not at or not _VISIBLE_ASCII.fullmatch(mailbox) or ("*" in mailbox and mailbox != "*"):
        raise ValueError("an e-mail pattern is mailbox@domain, or *@domain for every mailbox of a domain")
    _check_host(domain)
    wanted = domain.lower()

    def test(value: str) -> bool:
        theirs, at, theirs_domain = value.rpartition("@")
        if not at or not theirs or not theirs_domain.isascii() or theirs_domain.lower() != wanted:
            return False
        return mailbox in ("*", theirs)

    return test


def _read_uri(rest: str) -> _Test:
    if rest.lower().startswith("spiffe:"):
        raise ValueError("a SPIFFE id is written without uri: in front")
    if not re.match("[A-Za-z][A-Za-z0-9+.-]*:", rest) or not _VISIBLE_ASCII.fullmatch(rest):
        raise ValueError("a URI pattern is one whole URI, percent-encoded, as in uri:https://example.org/x")
    return lambda value: value == rest


def _read_ip(rest: str) -> _Test:
    try:
        network = ipaddress.ip_network(rest)
    except ValueError:
        raise ValueError(
            "an IP pattern is an address or a network without host bits, as in ip:10.0.0.0/8"
        ) from None

    def test(value: str) -> bool:
        try:
            # A zone ("%eth0") is this host's business; no certificate has one, and `in` would not look at it.
            return "%" not in value and ipaddress.ip_address(value) in network
        except ValueError:
            return False

    return test


def _read_digest(rest: str) -> _Test:
    digest = rest.replace(":", "").lower()
    if not re.fullmatch("[0-9a-f]{64}", digest):
        raise ValueError("a SHA-256 digest has 64 hex digits, with or without colons")
    return lambda value: value == digest


def _read_serial(rest: str) -> _Test:
    if re.fullmatch("0[xX][0-9A-Fa-f]{1,40}", rest):
        wanted = str(int(rest, 16))
    elif re.fullmatch("[0-9]{1,49}", rest):  # 20 bytes, the most that RFC 5280 §4.1.2.2 allows
        wanted = str(int(rest))
    else:
        raise ValueError("a serial number is decimal, or hex with 0x in front, of at most 20 bytes")
    return lambda value: value == wanted


def _check_host(name: str) -> None:
    # The Kelvin sign would become a "k" in lower case.
    if not name.isascii() or not _HOST.fullmatch(name.lower()):
        raise ValueError(
            "a host name has letters, digits, dashes and dots only; an international one is written xn--…, "
            "and * stands for the whole first label"
        )


_READERS: Final[dict[str, Callable[[str], _Test]]] = {
    "spiffe": _read_spiffe,
    "dns": _read_dns,
    "email": _read_email,
    "uri": _read_uri,
    "ip": _read_ip,
    "sha256": _read_digest,
    "spki-sha256": _read_digest,
    "issuer-sha256": _read_digest,
    "serial": _read_serial,
}
_PREFIXES: Final = tuple(f"{kind}:" for kind in _READERS if kind != "spiffe")
