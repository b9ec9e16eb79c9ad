"""What each proxy calls its headers, what it writes into them, and what becomes of it.

A preset decodes and judges no chain: whatever a proxy says of a certificate, it is verified here afterwards.
Nor does it ask who sent the headers: whoever calls `read` has seen to it that the peer is a trusted proxy.
There is no way from one header to another: what the configured one does not say is not said.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from itertools import combinations
from types import MappingProxyType
from typing import Final

from secmiddleware.identity import codecs
from secmiddleware.identity.codecs import Undecodable
from secmiddleware.identity.verdicts import (
    Found,
    Verdict,
    cloudflare_words,
    google_words,
    openssl_numbers,
    openssl_words,
    presence,
)
from secmiddleware.identity.xfcc import Ambiguous, ders_of_xfcc
from secmiddleware.messages import Headers, Presented, Refusal

_CONTROLS: Final = bytes((*range(0x20), 0x7F))
_NULL: Final = b"(null)"  # Apache's word for a variable that is not set

# Decoding costs 10 to 50 us, a look-up 1 us. Clients choose what is kept: 4 MiB at most.
_MAX_KEPT: Final = 256
_MAX_KEPT_BYTES: Final = 16 * 1024

# RFC 9110 §5.6.2, less the underscore: proxies, servers and WSGI mix it up with the hyphen.
_NAME: Final = re.compile(r"[a-z0-9!#$%&'*+.^`|~-]{1,100}")
# What HTTP needs, or the app: taken for a certificate and stripped, nothing would work.
_NO_NAMES: Final = frozenset(
    {"authorization", "connection", "content-length", "content-type", "cookie", "forwarded", "host"}
    | {"keep-alive", "te", "trailer", "transfer-encoding", "upgrade"}
)


@dataclass(frozen=True, slots=True)
class Preset:
    """How one proxy hands over a client certificate. Immutable; `PRESETS` has those that are known."""

    name: str
    roles: Mapping[str, str]
    """The header of each role, in lower case; of a numbered role, what stands before the number."""
    verdict: Verdict = field(repr=False)
    decode: Callable[[Found], tuple[bytes, ...]] = field(repr=False)
    """DER out of what was found, leaf first; raises Undecodable or Ambiguous."""
    blanks: frozenset[bytes] = frozenset()
    """What this proxy writes where there is no certificate, or no chain; or it leaves the header out."""
    lists: frozenset[str] = frozenset()
    """The roles in whose values a comma may stand."""
    free: frozenset[str] = frozenset()
    """The roles whose values hold text of a certificate, so that braces in them mean nothing."""
    numbered: frozenset[str] = frozenset()
    names: frozenset[bytes] = field(init=False, repr=False, compare=False)
    """Every header that is read, for `certificate_headers.strip`."""
    _role_of: Mapping[bytes, str] = field(init=False, repr=False, compare=False)
    _prefixes: tuple[tuple[bytes, str], ...] = field(init=False, repr=False, compare=False)
    # Read and written by many threads without a lock: single dict operations only, and losing an entry is
    # harmless.
    _kept: dict[tuple[tuple[str, bytes], ...], Presented] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "roles", MappingProxyType(dict(self.roles)))
        whole = {name.encode(): role for role, name in self.roles.items() if role not in self.numbered}
        object.__setattr__(self, "_role_of", MappingProxyType(whole))
        prefixes = tuple((name.encode(), role) for role, name in self.roles.items() if role in self.numbered)
        object.__setattr__(self, "_prefixes", prefixes)
        numbered = (prefix + b"%d" % number for prefix, _ in prefixes for number in range(100))
        object.__setattr__(self, "names", frozenset((*whole, *numbered)))
        object.__setattr__(self, "_kept", {})

    def named(self, overrides: Mapping[str, str]) -> Preset:
        """The same preset with other header names.

        Args:
            overrides: a header name by role; capitals do not matter.

        Raises:
            ValueError: with every mistake in it, in words for the operator, one a line.
        """
        roles = {**self.roles, **{role: name.lower() for role, name in overrides.items()}}
        known = sorted(self.roles)
        mistakes = [
            f'"{role}" is nothing that {self.name} hands over; there is: {", ".join(known)}'
            for role in sorted(overrides.keys() - self.roles.keys())
        ]
        mistakes += [
            f'{role}: "{overrides[role]}" {why}'
            for role in sorted(overrides.keys() & self.roles.keys())
            if (why := _unfit(roles[role]))
        ]
        mistakes += [
            f'{one} and {other} are both "{roles[other]}": each needs a header of its own'
            for one, other in combinations(known, 2)
            if self._clash(one, roles[one], other, roles[other])
        ]
        if mistakes:
            raise ValueError("\n".join(mistakes))
        return replace(self, roles={role: roles[role] for role in self.roles})

    def read(self, headers: Headers) -> Presented | Refusal | None:
        """What the headers of a request from this proxy say; None only where that is: no certificate.

        The same values are decoded once, and give the same object again.

        Args:
            headers: all of the request, names in lower case, in order, duplicates kept.
        """
        found = self._find(headers)
        if isinstance(found, Refusal):
            return found
        said = tuple(found.items())
        kept = self._kept.get(said)
        if kept is not None:
            return kept
        outcome = self._read(found)
        if isinstance(outcome, Presented) and sum(map(len, found.values())) <= _MAX_KEPT_BYTES:
            if len(self._kept) >= _MAX_KEPT:
                self._kept.clear()
            self._kept[said] = outcome
        return outcome

    def _read(self, found: Found) -> Presented | Refusal | None:
        for role, value in found.items():
            if code := self._unreadable(role, value):
                return _refusal(code, role)
        verdict = self.verdict(found)
        if isinstance(verdict, str):
            return _refusal(verdict, "certificate")
        said = {role: value for role, value in found.items() if value not in self.blanks}
        if not verdict:
            for role in said:
                if self._hands_over(role):  # nobody's certificate
                    return _refusal("header_ambiguous", role)
            return None
        if "certificate" not in said:  # a good one, and it is not here
            return _refusal("header_ambiguous", "certificate")
        return self._decoded(said)

    def _decoded(self, said: Found) -> Presented | Refusal:
        try:
            leaf, *rest = self.decode(said)
        except Undecodable:
            return _refusal("certificate_malformed", "certificate")
        except Ambiguous:
            return _refusal("header_ambiguous", "certificate")
        chain = tuple(der for der in rest if der != leaf)  # some proxies count the leaf in
        if len(chain) >= codecs.MAX_CERTIFICATES or len(leaf) + sum(map(len, chain)) > codecs.MAX_DER:
            return _refusal("certificate_malformed", "certificate")
        return Presented(leaf, chain, self.name)

    def _find(self, headers: Headers) -> dict[str, bytes] | Refusal:
        """The value of each role; a role that is there twice, or spelled with an underscore, is ambiguous."""
        found: dict[str, bytes] = {}
        for name, value in headers:
            spelled = name.replace(b"_", b"-")
            role = self._role_of.get(spelled)
            if role is None and self._prefixes:
                role = self._numbered_role(spelled)
            if role is None:
                continue
            if role in found or spelled != name:
                return _refusal("header_ambiguous", role)
            found[role] = value
        return found

    def _numbered_role(self, name: bytes) -> str | None:
        for prefix, role in self._prefixes:
            if name.startswith(prefix):
                number = name[len(prefix) :]
                if number.isdigit() and len(number) <= 2 and number == b"%d" % int(number):
                    return f"{role}-{int(number)}"
        return None

    def _unreadable(self, role: str, value: bytes) -> str | None:
        """The refusal's code where a value cannot be what this proxy wrote, whatever it means."""
        if len(value) > codecs.MAX_TEXT:
            return "certificate_malformed"
        if value in self.blanks and self._hands_over(role):
            return None
        if not value or value == _NULL or value.translate(None, _CONTROLS) != value:
            return "header_ambiguous"
        if b"," in value and role not in self.lists:
            return "header_ambiguous"
        if role not in self.free and (b"{" in value or b"}" in value):  # a placeholder that was not filled
            return "header_ambiguous"
        return None

    def _hands_over(self, role: str) -> bool:
        """Whether a role carries certificates, and is no verdict about one."""
        return role == "certificate" or role == "chain" or role.startswith("chain-")

    def _clash(self, role: str, name: str, other: str, its: str) -> bool:
        if name == its:
            return True
        return (role in self.numbered and its.startswith(name)) or (
            other in self.numbered and name.startswith(its)
        )


def _unfit(name: str) -> str | None:
    """Why a header name cannot be one that a proxy hands a certificate over in, or None."""
    if "_" in name:
        return "has an underscore, which servers and proxies drop or take for a hyphen: use hyphens"
    if not _NAME.fullmatch(name):
        return "is no name of a header (RFC 9110 §5.1)"
    if name in _NO_NAMES:
        return "is a header that HTTP or the app needs"
    return None


def _refusal(code: str, role: str) -> Refusal:
    return Refusal(code, f"mtls.proxy_headers.{role}")


# How each proxy writes a certificate.


def _escaped(found: Found) -> tuple[bytes, ...]:
    return (codecs.only(codecs.ders_of_escaped_pem(found["certificate"])),)


def _escaped_chain(found: Found) -> tuple[bytes, ...]:
    return codecs.ders_of_escaped_pem(found["certificate"])


def _bare(found: Found) -> tuple[bytes, ...]:
    return (codecs.der_of_base64(found["certificate"]),)


def _bare_with_chain(found: Found) -> tuple[bytes, ...]:
    chain = codecs.ders_of_base64(found["chain"]) if "chain" in found else ()
    return codecs.der_of_base64(found["certificate"]), *chain


def _bare_or_sequence(found: Found) -> tuple[bytes, ...]:
    """Plain base64, or the same between the colons of RFC 9440; which of them was the operator's choice."""
    text = found["certificate"]
    decode = codecs.der_of_byte_sequence if text.startswith(b":") else codecs.der_of_base64
    return (decode(text),)


def _sequences(found: Found) -> tuple[bytes, ...]:
    chain = codecs.ders_of_byte_sequences(found["chain"]) if "chain" in found else ()
    return codecs.der_of_byte_sequence(found["certificate"]), *chain


def _apache(found: Found) -> tuple[bytes, ...]:
    numbers = sorted(int(role.removeprefix("chain-")) for role in found if role.startswith("chain-"))
    if numbers != list(range(len(numbers))):
        raise Ambiguous("a certificate of the chain is missing")
    if len(numbers) >= codecs.MAX_CERTIFICATES:
        raise Undecodable("there are too many certificates")
    values = (found["certificate"], *(found[f"chain-{number}"] for number in numbers))
    return tuple(codecs.only(_apache_form(value)) for value in values)


def _apache_form(text: bytes) -> tuple[bytes, ...]:
    """One of three, told apart by how PEM must begin in each."""
    if text.startswith(b"-----BEGIN CERTIFICATE----- "):
        return codecs.ders_of_spaced_pem(text)
    if text.startswith(b"-----BEGIN%20CERTIFICATE-----%0a"):
        return codecs.ders_of_escaped_pem(text)
    return codecs.ders_of_encoded_pem(text)


def _traefik(found: Found) -> tuple[bytes, ...]:
    """Base64 joined by commas, leaf first; from Traefik 2 up to 2.9.1 each of them percent-encoded."""
    members = found["certificate"].split(b",")
    if len(members) > codecs.MAX_CERTIFICATES:
        raise Undecodable("there are too many certificates")
    return tuple(codecs.der_of_base64(codecs.unescaped(member)) for member in members)


def _xfcc(found: Found) -> tuple[bytes, ...]:
    return ders_of_xfcc(found["certificate"])


_EMPTY: Final = frozenset({b""})
_CERTIFICATE: Final = frozenset({"certificate"})
_CHAIN: Final = frozenset({"chain"})

PRESETS: Final[Mapping[str, Preset]] = MappingProxyType(
    {
        preset.name: preset
        for preset in (
            Preset(
                "nginx",
                {"certificate": "x-ssl-client-cert", "verify": "x-ssl-client-verify"},
                openssl_words,
                _escaped,
            ),
            Preset(
                "haproxy",
                {
                    "certificate": "x-ssl-client-cert",
                    "verify": "x-ssl-client-verify",
                    "used": "x-ssl-client-used",
                    "chain": "x-ssl-client-chain-der",
                },
                openssl_numbers,
                _bare_with_chain,
                blanks=_EMPTY,
            ),
            Preset(
                "apache",
                {
                    "certificate": "x-ssl-client-cert",
                    "verify": "x-ssl-client-verify",
                    "chain": "x-ssl-client-cert-chain-",
                },
                openssl_words,
                _apache,
                blanks=_EMPTY | {_NULL},
                numbered=_CHAIN,
            ),
            Preset("caddy", {"certificate": "x-client-cert-der-base64"}, presence, _bare_or_sequence),
            Preset(
                "rfc9440",
                {"certificate": "client-cert", "chain": "client-cert-chain"},
                presence,
                _sequences,
                lists=_CHAIN,
            ),
            Preset(
                "envoy",
                {"certificate": "x-forwarded-client-cert"},
                presence,
                _xfcc,
                lists=_CERTIFICATE,
                free=_CERTIFICATE,
            ),
            Preset(
                "traefik",
                {"certificate": "x-forwarded-tls-client-cert"},
                presence,
                _traefik,
                lists=_CERTIFICATE,
            ),
            Preset("aws-alb", {"certificate": "x-amzn-mtls-clientcert-leaf"}, presence, _escaped),
            Preset(
                "aws-alb-passthrough", {"certificate": "x-amzn-mtls-clientcert"}, presence, _escaped_chain
            ),
            Preset(
                "gcp-lb",
                {
                    "certificate": "x-client-cert-leaf",
                    "chain": "x-client-cert-chain",
                    "present": "x-client-cert-present",
                    "verified": "x-client-cert-chain-verified",
                },
                google_words,
                _sequences,
                blanks=_EMPTY,
                lists=_CHAIN,
            ),
            Preset("azure-app-service", {"certificate": "x-arr-clientcert"}, presence, _bare),
            Preset(
                "cloudflare",
                {
                    "certificate": "cf-client-cert-der-base64",
                    "presented": "cf-cert-presented",
                    "verified": "cf-cert-verified",
                    "revoked": "cf-cert-revoked",
                },
                cloudflare_words,
                _bare_or_sequence,
            ),
        )
    }
)
"""Every proxy that is known, by the name that `[mtls] source` has for it, with its usual header names."""
