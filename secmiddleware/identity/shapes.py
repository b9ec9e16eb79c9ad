"""What a name pattern is inside, kind by kind: which values it matches, and how it lies to another one.

A shape is read from what stands behind the kind in a pattern's text; ValueError has a sentence for the
operator. `matches` is exact and decides who is let in. `may_mean` decides who is kept out, and takes other
spellings of the same name too. `covers` and `meets` compare two shapes of one kind.
"""

# ruff: noqa: D102  (the Protocol says what each method tells; a shape's own says where it differs)

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass, field
from typing import Final, Protocol, Self

from secmiddleware.certificates.spiffe import check_segment, check_trust_domain

# A host name label as certificates carry them; underscores are found in service discovery.
_LABEL: Final = r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?"
_HOST: Final = re.compile(rf"{_LABEL}(?:\.{_LABEL})*")
_FIRST_LABEL: Final = re.compile(_LABEL)
_VISIBLE_ASCII: Final = re.compile(r"[!-~]+")
_MAPPED: Final = ipaddress.IPv6Network("::ffff:0:0/96")


class Shape(Protocol):
    """What all shapes have; `other` is always of the same kind."""

    def matches(self, value: str) -> bool:
        """Whether a value is exactly one of those meant."""
        ...

    def may_mean(self, value: str) -> bool:
        """Whether a value is one of those meant, in any spelling."""
        ...

    def covers(self, other: Self) -> bool:
        """Whether every value that `other` matches is matched here too; False where that cannot be told."""
        ...

    def meets(self, other: Self) -> bool:
        """Whether some value is matched by both."""
        ...


@dataclass(frozen=True, slots=True)
class SpiffeShape:
    """`//td/a/*`, `//td/**`: a trust domain that is written out, and segments; a tree has itself in it."""

    trust_domain: str
    segments: tuple[str, ...]
    tree: bool
    _regex: re.Pattern[str] = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        parts = ["/[^/]+" if segment == "*" else "/" + re.escape(segment) for segment in self.segments]
        text = re.escape(f"spiffe://{self.trust_domain}") + "".join(parts) + ("(?:/.+)?" if self.tree else "")
        object.__setattr__(self, "_regex", re.compile(text, re.DOTALL))

    @classmethod
    def read(cls, rest: str) -> Self:
        """The shape of what stands behind `spiffe:`."""
        if not rest.startswith("//"):
            raise ValueError("a SPIFFE pattern starts with spiffe://")
        trust_domain, *segments = rest[2:].split("/")
        if "*" in trust_domain:
            raise ValueError(
                "the trust domain of a SPIFFE pattern is written out: it says whose names they are"
            )
        check_trust_domain(trust_domain)
        tree = segments[-1:] == ["**"]
        if tree:
            segments.pop()
        elif not segments:
            raise ValueError("a SPIFFE pattern has a path; everything of a trust domain is spiffe://td/**")
        for segment in segments:
            if "*" in segment and segment != "*":
                raise ValueError(
                    "* stands for one whole segment of a SPIFFE id, and /** at the end for the rest"
                )
            if segment != "*":
                check_segment(segment)
        return cls(trust_domain, tuple(segments), tree)

    def matches(self, value: str) -> bool:
        """Case counts: a SPIFFE id has one spelling."""
        return self._regex.fullmatch(value) is not None

    may_mean = matches

    def covers(self, other: Self) -> bool:
        if self.trust_domain != other.trust_domain or len(other.segments) < len(self.segments):
            return False
        if not self.tree and (other.tree or len(other.segments) != len(self.segments)):
            return False
        pairs = zip(self.segments, other.segments, strict=False)  # a tree looks at its own depth only
        return all(mine in ("*", theirs) for mine, theirs in pairs)

    def meets(self, other: Self) -> bool:
        if self.trust_domain != other.trust_domain:
            return False
        shorter, longer = sorted((self, other), key=lambda shape: len(shape.segments))
        if len(shorter.segments) < len(longer.segments) and not shorter.tree:
            return False
        pairs = zip(shorter.segments, longer.segments, strict=False)  # the shorter one's tree takes the rest
        return all("*" in (one, another) or one == another for one, another in pairs)


@dataclass(frozen=True, slots=True)
class HostShape:
    """`api.example.org`, or `*.example.org` for exactly one label in front; in any case."""

    name: str
    """In lower case; with a star, what is behind it, with its dot in front."""
    star: bool

    @classmethod
    def read(cls, rest: str) -> Self:
        """The shape of what stands behind `dns:`."""
        _check_host(rest.removeprefix("*."))
        star = rest.startswith("*.")
        return cls(rest.removeprefix("*").lower() if star else rest.lower(), star)

    def matches(self, value: str) -> bool:
        """A wildcard name of a certificate ("*.example.org") is no label and falls under no pattern."""
        if not value.isascii():
            return False
        value = value.lower()
        if not self.star:
            return value == self.name
        return value.endswith(self.name) and bool(_FIRST_LABEL.fullmatch(value[: -len(self.name)]))

    def may_mean(self, value: str) -> bool:
        """Also with a dot at the end, and a wildcard name that stands for a host that is meant."""
        value = value.removesuffix(".")
        if not value.startswith("*."):
            return self.matches(value)
        suffix = value[1:].lower()
        return suffix == (self.name if self.star else "." + self.name.partition(".")[2])

    def covers(self, other: Self) -> bool:
        return self == other if other.star else self.matches(other.name)

    def meets(self, other: Self) -> bool:
        return self.covers(other) or other.covers(self)


@dataclass(frozen=True, slots=True)
class MailboxShape:
    """`ops@example.org`, or `*@example.org`; the mailbox exactly (RFC 5321 §2.4), the domain in any case."""

    mailbox: str
    domain: str

    @classmethod
    def read(cls, rest: str) -> Self:
        """The shape of what stands behind `email:`."""
        mailbox, at, domain = rest.rpartition("@")
        if not at or not _VISIBLE_ASCII.fullmatch(mailbox) or ("*" in mailbox and mailbox != "*"):
            raise ValueError("an e-mail pattern is mailbox@domain, or *@domain for every mailbox of a domain")
        _check_host(domain)
        return cls(mailbox, domain.lower())

    def matches(self, value: str) -> bool:
        mailbox = self._mailbox_in(value)
        return mailbox is not None and self.mailbox in ("*", mailbox)

    def may_mean(self, value: str) -> bool:
        """Also with the mailbox in another case: few hosts tell `Ops` from `ops`."""
        mailbox = self._mailbox_in(value.removesuffix("."))
        return mailbox is not None and (self.mailbox == "*" or self.mailbox.lower() == mailbox.lower())

    def _mailbox_in(self, value: str) -> str | None:
        mailbox, at, domain = value.rpartition("@")
        if not at or not mailbox or not domain.isascii() or domain.lower() != self.domain:
            return None
        return mailbox

    def covers(self, other: Self) -> bool:
        return self.domain == other.domain and self.mailbox in ("*", other.mailbox)

    def meets(self, other: Self) -> bool:
        return self.covers(other) or other.covers(self)


@dataclass(frozen=True, slots=True)
class UriShape:
    """One URI, exactly."""

    uri: str

    @classmethod
    def read(cls, rest: str) -> Self:
        """The shape of what stands behind `uri:`."""
        if rest.lower().startswith("spiffe:"):
            raise ValueError("a SPIFFE id is written without uri: in front")
        if not re.match("[A-Za-z][A-Za-z0-9+.-]*:", rest) or not _VISIBLE_ASCII.fullmatch(rest):
            raise ValueError(
                "a URI pattern is one whole URI, percent-encoded, as in uri:https://example.org/x"
            )
        return cls(rest)

    def matches(self, value: str) -> bool:
        return value == self.uri

    def may_mean(self, value: str) -> bool:
        """Also in another case: scheme and host have none (RFC 3986 §6.2.2.1)."""
        return value.lower() == self.uri.lower()

    def covers(self, other: Self) -> bool:
        return self == other

    meets = covers


@dataclass(frozen=True, slots=True)
class NetworkShape:
    """An address or a network of addresses."""

    network: ipaddress.IPv4Network | ipaddress.IPv6Network

    @classmethod
    def read(cls, rest: str) -> Self:
        """The shape of what stands behind `ip:`."""
        try:
            if "%" in rest:  # a zone, which no certificate has
                raise ValueError(rest)
            return cls(ipaddress.ip_network(rest))
        except ValueError:
            raise ValueError(
                "an IP pattern is an address or a network without host bits, as in ip:10.0.0.0/8"
            ) from None

    def matches(self, value: str) -> bool:
        address = _address(value)
        return address is not None and address in self.network

    def may_mean(self, value: str) -> bool:
        """Also an IPv4 address that is written as an IPv6 one (RFC 4291 §2.5.5.2), there or here."""
        address = _address(value)
        if address is None:
            return False
        if address in self.network:
            return True
        if isinstance(address, ipaddress.IPv6Address):
            mapped = address.ipv4_mapped
            return mapped is not None and mapped in self.network
        # All of ::/0 is no spelling of IPv4.
        written = ipaddress.IPv6Address(int(_MAPPED.network_address) | int(address))
        return self.network.prefixlen >= _MAPPED.prefixlen and written in self.network

    def covers(self, other: Self) -> bool:
        mine, theirs = self.network, other.network
        return (
            mine.version == theirs.version
            and mine.prefixlen <= theirs.prefixlen
            and theirs.network_address in mine
        )

    def meets(self, other: Self) -> bool:
        return self.covers(other) or other.covers(self)


@dataclass(frozen=True, slots=True)
class DigestShape:
    """A SHA-256 digest; 64 hex digits, with or without colons."""

    digest: str

    @classmethod
    def read(cls, rest: str) -> Self:
        """The shape of what stands behind one of the kinds of digests."""
        digest = rest.replace(":", "").lower()
        if not re.fullmatch("[0-9a-f]{64}", digest):
            raise ValueError("a SHA-256 digest has 64 hex digits, with or without colons")
        return cls(digest)

    def matches(self, value: str) -> bool:
        return value == self.digest

    may_mean = matches

    def covers(self, other: Self) -> bool:
        return self == other

    meets = covers


@dataclass(frozen=True, slots=True)
class SerialShape:
    """A serial number, and the CA that gave it: unique with that only (RFC 5280 §4.1.2.2).

    A value is the number in decimal, alone or with `@` and the issuer in the form of a pattern.
    """

    number: str
    issuer: str | None

    @classmethod
    def read(cls, rest: str) -> Self:
        """The shape of what stands behind `serial:`."""
        number, at, issuer = rest.partition("@")
        if re.fullmatch("0[xX][0-9A-Fa-f]{1,40}", number):
            number = str(int(number, 16))
        elif re.fullmatch("[0-9]{1,49}", number):  # 20 bytes, the most that RFC 5280 §4.1.2.2 allows
            number = str(int(number))
        else:
            raise ValueError("a serial number is decimal, or hex with 0x in front, of at most 20 bytes")
        return cls(number, _read_issuer(issuer) if at else None)

    def matches(self, value: str) -> bool:
        return value == (self.number if self.issuer is None else f"{self.number}@{self.issuer}")

    may_mean = matches

    def covers(self, other: Self) -> bool:
        return self.number == other.number and self.issuer in (None, other.issuer)

    def meets(self, other: Self) -> bool:
        return self.covers(other) or other.covers(self)


def _read_issuer(text: str) -> str:
    kind, _, digest = text.partition(":")
    if kind not in ("issuer-sha256", "issuer-spki-sha256"):
        raise ValueError(
            "behind the @ of a serial number stands its CA: issuer-sha256:… or issuer-spki-sha256:…"
        )
    return f"{kind}:{DigestShape.read(digest).digest}"


def _address(value: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        # A zone ("%eth0") is this host's business; no certificate has one, and `in` would not look at it.
        return None if "%" in value else ipaddress.ip_address(value)
    except ValueError:
        return None


def _check_host(name: str) -> None:
    # The Kelvin sign would become a "k" in lower case.
    if not name.isascii() or not _HOST.fullmatch(name.lower()):
        raise ValueError(
            "a host name has letters, digits, dashes and dots only; an international one is written xn--…, "
            "and * stands for the whole first label"
        )
