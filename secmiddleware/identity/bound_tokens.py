"""Access tokens that are bound to their holder's certificate (RFC 8705 §3): to a thief, one is of no use.

A bearer token is a JWT of one issuer, verified against its key set and the time that is given; then its
thumbprint is compared with the caller's certificate. `is_bound` is that comparison alone, for apps that
verify or introspect tokens themselves. Nothing here does I/O or reads a clock.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from base64 import urlsafe_b64encode
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from types import MappingProxyType
from typing import Any, Final, Literal

from secmiddleware.identity.jwks import KeySet
from secmiddleware.jose import decode_base64url, parse_object
from secmiddleware.messages import Headers, Identity, Refusal, TokenClaims, header_values

_SCHEME: Final = re.compile(rb"bearer(?: |$)", re.IGNORECASE)
# RFC 6750 §2.1: 1*SP and b64token.
_BEARER: Final = re.compile(rb"bearer +([A-Za-z0-9._~+/-]+=*)", re.IGNORECASE)

_THUMBPRINT: Final = "x5t#S256"

# RFC 9068 §2.1, and §4 for the long form; RFC 7515 §4.1.9: without regard to case.
_ACCESS_TOKEN: Final = ("at+jwt", "application/at+jwt")

# RFC 7519 §2: seconds as a number. Beyond this a float has no seconds, and no calendar has the year.
_LATEST: Final = 1 << 53

# Two generations of so many: some ten MB where tokens are of the usual 1 KiB.
_KEPT: Final = 1024


def is_bound(claims: object, identity: Identity | None) -> bool:
    """Whether a token's claims bind it to this certificate and to nothing else: `cnf` with `x5t#S256` alone.

    For claims that somebody has verified already: those of a JWT, or an introspection's answer (RFC 8705
    §3.1, §3.2). That the token is authentic and of now is not looked at. False, never an error, for claims of
    any other shape: no `cnf`, another member beside the thumbprint, padding, hex.

    >>> is_bound({"sub": "a", "cnf": {"x5t": "SHA-1 does not bind"}}, None)
    False
    """
    if identity is None or not isinstance(claims, Mapping):
        return False
    confirmation = claims.get("cnf")
    if not isinstance(confirmation, Mapping) or set(confirmation) != {_THUMBPRINT}:
        return False
    told = confirmation[_THUMBPRINT]
    own = urlsafe_b64encode(bytes.fromhex(identity.sha256)).rstrip(b"=")
    return isinstance(told, str) and hmac.compare_digest(told.encode("utf-8", "surrogatepass"), own)


def bearer_in(headers: Headers) -> bytes | Refusal:
    """The one token of the Authorization header; `token_missing` or `token_invalid`.

    Never one of the query or the body (RFC 6750 §5.3). Two headers are one with a comma (RFC 9110 §5.3), as
    WSGI joins them, and a comma is in no token.
    """
    value = b",".join(header_values(headers, b"authorization")).strip(b" \t")
    if not _SCHEME.match(value):
        return Refusal("token_missing")
    bearer = _BEARER.fullmatch(value)
    return Refusal("token_invalid") if bearer is None else bearer[1]


@dataclass(frozen=True, slots=True)
class TokenRules:
    """Which tokens are meant for this service."""

    issuer: str
    audience: tuple[str, ...]
    """Names of ours; a token is for us if it is for one of them."""
    algorithms: frozenset[str]
    leeway: timedelta = timedelta(seconds=30)
    typ: Literal["any", "at+jwt"] = "any"
    max_bytes: int = 8192


@dataclass(frozen=True, slots=True)
class _Verified:
    """A token that is authentic and for us, and when it is good, in seconds of the epoch."""

    claims: TokenClaims = field(repr=False)
    good_from: float
    good_until: float


class TokenJudge:
    """The verdict on bearer tokens, by rules and keys that never change: other keys need another judge.

    What was verified once is remembered by the token's SHA-256, up to a bound; dates and binding are compared
    each time. Threads may share it: it takes no lock, and the worst of a race is to verify twice.
    """

    def __init__(self, rules: TokenRules, keys: KeySet) -> None:
        self._rules = rules
        self._keys = keys
        self._young: dict[bytes, _Verified] = {}
        self._old: dict[bytes, _Verified] = {}

    def judge(self, headers: Headers, identity: Identity, now: datetime) -> TokenClaims | Refusal:
        """The claims of the caller's token, which is bound to the caller's certificate; or the refusal.

        There is one refusal for whatever is wrong with a token.
        """
        token = bearer_in(headers)
        if isinstance(token, Refusal):
            return token
        verified = self._verified(token)
        if (
            verified is None
            or not verified.good_from <= now.timestamp() < verified.good_until
            or not is_bound(verified.claims, identity)
        ):
            return Refusal("token_invalid")
        return verified.claims

    def _verified(self, token: bytes) -> _Verified | None:
        if len(token) > self._rules.max_bytes:
            return None
        digest = hashlib.sha256(token).digest()
        found = self._young.get(digest)
        if found is None:
            found = self._old.get(digest) or _verify(token, self._rules, self._keys)
            if found is not None:
                self._remember(digest, found)
        return found

    def _remember(self, digest: bytes, verified: _Verified) -> None:
        if len(self._young) >= _KEPT:
            self._old, self._young = self._young, {}
        self._young[digest] = verified


def _verify(token: bytes, rules: TokenRules, keys: KeySet) -> _Verified | None:
    """The token, if some key of the issuer has signed it for us, at whatever time; nothing says why not.

    The signature is checked before any claim is read.
    """
    try:
        protected, payload, signature = token.split(b".")
        header = parse_object(decode_base64url(protected))
        if not _is_fit(header, rules):
            return None
        signed = protected + b"." + payload
        if not keys.verifies(header.get("kid"), header["alg"], signed, decode_base64url(signature)):
            return None
        claims = parse_object(decode_base64url(payload))
        if not _is_for_us(claims, rules):
            return None
        return _Verified(_frozen(claims), *_window(claims, rules.leeway.total_seconds()))
    except (ValueError, RecursionError):
        return None


def _is_fit(header: dict[str, Any], rules: TokenRules) -> bool:
    """Whether a header asks for nothing but one of our algorithms and, maybe, a key by its name.

    Where a header brings or points to keys of its own (jku, jwk, x5u, x5c), it is not listened to.
    """
    if "crit" in header or "b64" in header:  # RFC 7515 §4.1.11: we understand no extension; RFC 7797 §7
        return False
    if "kid" in header and not isinstance(header["kid"], str):
        return False
    typ = header.get("typ")
    if rules.typ == "at+jwt" and not (isinstance(typ, str) and typ.lower() in _ACCESS_TOKEN):
        return False
    algorithm = header.get("alg")
    return isinstance(algorithm, str) and algorithm in rules.algorithms


def _is_for_us(claims: dict[str, Any], rules: TokenRules) -> bool:
    """RFC 7519 §4.1.1 and §4.1.3, letter by letter: no case, no trailing slash is forgiven."""
    audience = claims.get("aud")
    names = [audience] if isinstance(audience, str) else audience
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        return False
    return claims.get("iss") == rules.issuer and any(name in names for name in rules.audience)


def _window(claims: dict[str, Any], leeway: float) -> tuple[float, float]:
    """From when until when; `exp` must be there. Raises ValueError for what is no date."""
    starts = [_date(claims[name]) for name in ("nbf", "iat") if name in claims]
    return max(starts, default=0.0) - leeway, _date(claims.get("exp")) + leeway


def _date(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < _LATEST:
        raise ValueError("not a date")
    return float(value)


def _frozen(value: Any) -> Any:
    """The same, unchangeable to its last leaf: what is remembered is shown to many requests."""
    if isinstance(value, dict):
        return MappingProxyType({name: _frozen(member) for name, member in value.items()})
    return tuple(map(_frozen, value)) if isinstance(value, list) else value
