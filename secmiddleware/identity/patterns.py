"""The patterns over names that `allow`, `deny` and `may_assert` are written in.

A pattern has a kind, and compares names of that kind only, each by the rules of its kind (`shapes`).
Distinguished names are left out on purpose: their text has many spellings, and a decision on text picks one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final, Literal, Self, cast, get_args

from secmiddleware.identity.shapes import (
    DigestShape,
    HostShape,
    MailboxShape,
    NetworkShape,
    SerialShape,
    Shape,
    SpiffeShape,
    UriShape,
)
from secmiddleware.messages import Identity

NameKind = Literal["spiffe", "dns", "email", "uri", "ip"]
"""The kinds of name that a certificate asserts in its subjectAltName."""

_DigestKind = Literal["sha256", "spki-sha256", "issuer-sha256", "issuer-spki-sha256", "serial"]
PatternKind = Literal[NameKind, _DigestKind]
"""What a pattern may look at: a name, or the certificate, its key, a CA of its chain, its serial number."""

_NAME_KINDS: Final = get_args(NameKind)


@dataclass(frozen=True, slots=True)
class NamePattern:
    """A pattern over one kind of name, made from its text; ValueError has a sentence for the operator.

    `spiffe://td/a/*` (`*` is one segment), `spiffe://td/**` (everything below, and the folder itself);
    `dns:api.example.org`, `dns:*.example.org` (exactly one label; any case); `email:a@example.org`,
    `email:*@example.org` (the domain in any case, the mailbox exactly); `uri:` (exactly); `ip:` (an address
    or a network); `sha256:`, `spki-sha256:` (of the certificate, its public key; 64 hex digits, colons
    allowed); `issuer-sha256:`, `issuer-spki-sha256:` (of a CA of its verified chain, that CA's key);
    `serial:` (decimal, or hex with 0x), alone or as `serial:N@issuer-sha256:…`, where the CA is the one that
    issued the certificate itself.
    """

    text: str
    kind: PatternKind = field(init=False, compare=False, repr=False)
    shape: Shape = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        kind, shape = _read(self.text)
        object.__setattr__(self, "kind", kind)
        object.__setattr__(self, "shape", shape)

    @classmethod
    def parse(cls, text: str) -> Self:
        """The pattern that a text stands for; ValueError with a clear sentence where it stands for none."""
        return cls(text)

    @property
    def is_of_names(self) -> bool:
        """Whether it looks at asserted names, as `may_assert` needs, and not at keys or serials."""
        return self.kind in _NAME_KINDS

    @property
    def is_bare_serial(self) -> bool:
        """Whether it is a serial number without the CA that gave it, which another CA may give too."""
        return isinstance(self.shape, SerialShape) and self.shape.issuer is None

    def matches(self, identity: Identity) -> bool:
        """Whether any of the identity's names of this kind falls under the pattern."""
        return any(map(self.shape.matches, _VALUES[self.kind](identity)))

    def may_mean(self, identity: Identity) -> bool:
        """Whether the pattern names the identity in any spelling: who is kept out is not to slip through.

        Beside what `matches`: a host name with a dot at its end, a wildcard name that stands for a host that
        is meant, a mailbox or a URI in another case, an IPv4 address written as an IPv6 one.
        """
        return any(map(self.shape.may_mean, _VALUES[self.kind](identity)))

    def matches_name(self, kind: NameKind, value: str) -> bool:
        """Whether one name of a certificate falls under the pattern; False for every other kind."""
        return kind == self.kind and self.shape.matches(value)

    def covers(self, other: NamePattern) -> bool:
        """Whether every identity that `other` matches is matched here too; False where that is not known."""
        return self.kind == other.kind and self.shape.covers(cast("Any", other.shape))

    def meets(self, other: NamePattern) -> bool:
        """Whether one and the same name falls under both."""
        return self.kind == other.kind and self.shape.meets(cast("Any", other.shape))

    def __str__(self) -> str:
        return self.text


def _serials_of(identity: Identity) -> tuple[str, ...]:
    """A serial number alone, and with each way to name the CA that issued the certificate."""
    number = str(identity.serial)
    return (
        number,
        *(f"{number}@issuer-sha256:{digest}" for digest in identity.issuers[:1]),
        *(f"{number}@issuer-spki-sha256:{digest}" for digest in identity.issuer_spkis[:1]),
    )


# What an identity has of each kind.
_VALUES: Final[dict[PatternKind, Callable[[Identity], tuple[str, ...]]]] = {
    "spiffe": lambda identity: () if identity.spiffe_id is None else (identity.spiffe_id,),
    "dns": lambda identity: identity.dns,
    "email": lambda identity: identity.emails,
    "uri": lambda identity: identity.uris,
    "ip": lambda identity: identity.ips,
    "sha256": lambda identity: (identity.sha256,),
    "spki-sha256": lambda identity: (identity.spki_sha256,),
    # A leaf that is pinned is its own anchor, with no CA above it.
    "issuer-sha256": lambda identity: (*identity.issuers, identity.anchor),
    "issuer-spki-sha256": lambda identity: identity.issuer_spkis,
    "serial": _serials_of,
}

_READERS: Final[dict[PatternKind, Callable[[str], Shape]]] = {
    "spiffe": SpiffeShape.read,
    "dns": HostShape.read,
    "email": MailboxShape.read,
    "uri": UriShape.read,
    "ip": NetworkShape.read,
    "sha256": DigestShape.read,
    "spki-sha256": DigestShape.read,
    "issuer-sha256": DigestShape.read,
    "issuer-spki-sha256": DigestShape.read,
    "serial": SerialShape.read,
}
_PREFIXES: Final = tuple(f"{kind}:" for kind in _READERS if kind != "spiffe")


def _read(text: str) -> tuple[PatternKind, Shape]:
    """The kind of a pattern, and what it is inside."""
    kind, colon, rest = text.partition(":")
    if not colon and "=" in text:
        raise ValueError(
            "a distinguished name has many spellings and is never compared: name a dns:, uri: or key"
        )
    reader = _READERS.get(cast("PatternKind", kind))
    if not colon or reader is None:
        raise ValueError(f"a name pattern starts with spiffe:// or one of {', '.join(_PREFIXES)}")
    return cast("PatternKind", kind), reader(rest)
