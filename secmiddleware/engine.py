"""The decision, pure: a request's head, a snapshot and the time in; an admission or a refusal out.

Nothing here waits, logs, reads a clock or names a framework. Whoever is not refused gets two flows, one for
the request's body and one for the response; a shell drives them and performs their events.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import lru_cache
from typing import Any, Final

from secmiddleware.certificates.judgement import Trust
from secmiddleware.encryption.jwe import FieldJwe
from secmiddleware.encryption.keyring import Keyring
from secmiddleware.fields.flows import PASSIVE, Bodiless, Exchange, Flow
from secmiddleware.fields.frames import Frames
from secmiddleware.fields.limits import Limits
from secmiddleware.fields.rules import PlaceRule, Plan
from secmiddleware.identity import certificate_headers
from secmiddleware.identity.bound_tokens import TokenJudge
from secmiddleware.identity.patterns import NamePattern
from secmiddleware.identity.policy import Policy, Rule, decide
from secmiddleware.identity.proxies import Proxy
from secmiddleware.identity.speaker import identify
from secmiddleware.messages import (
    Identity,
    Presented,
    Refusal,
    RequestHead,
    TokenClaims,
    Unaccepted,
    message,
)
from secmiddleware.paths import PathPattern, judge_path

# A place set is one bit a place; a service has a handful of them in practice, and a caller can only reach
# those that its routes combine. The bound is against a file with hundreds of overlapping places.
_PLANS_KEPT: Final = 512


@dataclass(frozen=True, slots=True)
class Place:
    """Where a field is marked: the routes, and what happens there."""

    routes: tuple[PathPattern, ...]
    rule: PlaceRule


class Places:
    """All places of a service; for a path, the compiled plan of those that apply. Immutable."""

    def __init__(self, places: tuple[Place, ...], limits: Limits) -> None:
        self._places = places

        @lru_cache(maxsize=_PLANS_KEPT)
        def plan_of(rules: tuple[int, ...]) -> Plan:
            return Plan.compile(tuple(places[index].rule for index in rules), limits)

        self._plan_of = plan_of
        self._nothing = plan_of(())
        regexes = (route.regex for place in places for route in place.routes)
        self._anywhere = re.compile("|".join(regexes) or "(?!)", re.DOTALL)

    def plan_for(self, path: str) -> Plan:
        """What is to be done with the bodies of this routed path; an empty plan where nothing is marked."""
        if not self._places or self._anywhere.fullmatch(path) is None:
            return self._nothing
        return self._plan_of(
            tuple(
                index
                for index, place in enumerate(self._places)
                if any(route.matches(path) for route in place.routes)
            )
        )


@dataclass(frozen=True, slots=True)
class Snapshot:
    """All that a verdict depends on beside the request and the time. One exchange uses one snapshot."""

    trust: Trust
    policy: Policy
    places: Places = field(repr=False)
    keyring: Keyring | None
    mount: str = ""
    proxy: Proxy | None = None
    """Who hands over certificates in the server's place, and how; None where the server itself does."""
    reveal: Mapping[str, tuple[NamePattern, ...]] = field(default_factory=dict)
    """For each field: who gets plaintext in a response."""
    shows_unaccepted: bool = False
    """Whether an optional route lets in, as nobody, whose certificate is not accepted."""
    reads_paths: bool = True
    """Whether anything depends on the path; where nothing does, it is not judged: no reader is misled."""
    tokens: TokenJudge | None = None
    """Who judges bearer tokens; needed where a rule requires them."""
    jwes: Mapping[str, FieldJwe] = field(default_factory=dict, repr=False)
    """The keys of JWEs that are not the ring's, by field; needed where a field has such."""


@message
class Admission:
    """A request that may go on."""

    identity: Identity | None
    head: RequestHead
    """As the app is to see it: nothing in its headers could be taken for a client certificate."""
    request: Flow
    """What happens to the request on its way to the app."""
    exchange: Exchange | None = field(repr=False)
    """What its flows share; None where nothing is marked, and no flow has anything to do."""
    plan: Plan = field(repr=False)
    claims: TokenClaims | None = field(default=None, repr=False)
    """What the caller's bound token says, where the rule requires one."""
    unaccepted: Unaccepted | None = None
    """What was presented in vain, where the settings let its bearer in as nobody."""

    @property
    def passes(self) -> bool:
        """Whether all is decided: nothing is done to request or response, and neither is refused any more.

        A websocket never does, since it is judged again while it is open.
        """
        return self.exchange is None and self.request is PASSIVE and self.head.protocol != "websocket"

    @property
    def has_opened(self) -> bool:
        """Whether the app was given plaintext of a caller's."""
        return self.exchange is not None and bool(self.exchange.opened)

    def streamed(self) -> Flow:
        """`request` for an app that takes a body of unknown length, record by record; one or the other."""
        flow = PASSIVE if self.exchange is None else self.plan.request_flow(self.exchange, streams=True)
        return Bodiless(flow) if isinstance(self.request, Bodiless) else flow

    def frames(self) -> Frames | None:
        """What happens to a websocket once its handshake has been let go; None where all of it passes."""
        return None if self.exchange is None else self.plan.frames(self.exchange)

    def respond(self, method: str) -> Flow:
        """What happens to the response; to be asked for when the request flow has ended, not before.

        Whether a response must be held may depend on what the request opened.
        """
        if self.exchange is None or self.head.protocol == "websocket":
            return PASSIVE
        return self.plan.response_flow(self.exchange, method)


def seen_by_the_app(head: RequestHead, verdict: Admission | Refusal) -> RequestHead:
    """The head that goes on after the verdict; the one that came where nobody goes on."""
    return verdict.head if isinstance(verdict, Admission) else head


def admit(head: RequestHead, snapshot: Snapshot, now: datetime) -> Admission | Refusal:
    """The verdict on a request, from its head alone.

    In this order: can the path be read in one way only, is the certificate good, may this identity come here,
    is there a token bound to the certificate where one is required.
    A certificate that is presented and is not good is refused also where none is required: what cannot be
    judged is not let in, unless the settings show its bearer to an optional route, as nobody. Where the route
    says `off`, a certificate is not looked at and the app sees no identity. A CORS preflight without a
    certificate is let in where the route says so, as nobody.
    """
    path = judge_path(head, snapshot.mount) if snapshot.reads_paths else "/"
    if isinstance(path, Refusal):
        return replace(path, presented=head.presented if snapshot.proxy is None else None)
    is_socket = head.protocol == "websocket"
    if is_socket and head.method != "GET":
        # Its handshake is a GET (RFC 6455 §4.1), also where HTTP/2 brings it by CONNECT (RFC 8441 §5).
        head = replace(head, method="GET")
    rule = snapshot.policy.rule_for(path, head.method)
    if isinstance(rule, Refusal):
        return replace(rule, presented=head.presented if snapshot.proxy is None else None)
    caller = _NOBODY if rule.client == "off" else _caller(head, rule, path, snapshot, now)
    if isinstance(caller, Refusal):
        return caller
    identity = caller.identity
    plan = snapshot.places.plan_for(path)
    exchange: Exchange | None = None
    request = PASSIVE
    if plan.marks_anything:
        if is_socket and not plan.sockets:
            # Its messages would pass unread, both ways.
            return Refusal("payload_encoding", "fields", identity)
        revealed = _revealed(snapshot, identity) if snapshot.reveal else _NOTHING
        exchange = Exchange(snapshot.keyring, now, identity, revealed, head, jwes=snapshot.jwes)
        request = plan.request_flow(exchange)
    its_own = _NOTHING if snapshot.proxy is None else snapshot.proxy.headers
    headers = certificate_headers.strip(head.headers, its_own)
    return Admission(
        identity,
        head if headers is head.headers else replace(head, headers=headers),
        Bodiless(request) if caller.by_preflight else request,
        exchange,
        plan,
        caller.claims,
        caller.unaccepted,
    )


@message
class _Caller:
    """Who may come in, and what is known beside: claims of a bound token, a certificate that is not good."""

    identity: Identity | None = None
    claims: TokenClaims | None = None
    unaccepted: Unaccepted | None = None
    by_preflight: bool = False


_NOBODY: Final = _Caller()
_NOTHING: Final = frozenset[Any]()


def _caller(head: RequestHead, rule: Rule, path: str, snapshot: Snapshot, now: datetime) -> _Caller | Refusal:
    """Who comes in by a rule that looks at certificates, or why nobody does."""
    presented = _presented(head, snapshot, now)
    if isinstance(presented, Refusal):
        return presented
    identity: Identity | None = None
    unaccepted: Unaccepted | None = None
    if presented is not None:
        who = identify(presented, snapshot.trust, now)
        if isinstance(who, Identity):
            identity = who
        elif rule.client == "optional" and snapshot.shows_unaccepted and _was_judged(who):
            unaccepted = Unaccepted.of(who.code, presented)
        else:
            return replace(who, presented=presented)
    refusal = decide(rule, identity)
    if refusal is not None:
        if presented is None and snapshot.policy.lets_preflight(path, head):
            return _Caller(by_preflight=True)
        return replace(refusal, identity=identity, presented=presented)
    claims = _claims(head, rule, identity, snapshot, now)
    if isinstance(claims, Refusal):
        return replace(claims, identity=identity, presented=presented)
    return _Caller(identity, claims, unaccepted)


def _presented(head: RequestHead, snapshot: Snapshot, now: datetime) -> Presented | Refusal | None:
    """The caller's certificate from the one source there is, not judged yet."""
    presented = head.presented
    if presented is not None and presented.source != "server":
        return Refusal("proxy_untrusted", "mtls.source")
    return presented if snapshot.proxy is None else snapshot.proxy.presented(head, now)


def _claims(
    head: RequestHead, rule: Rule, identity: Identity | None, snapshot: Snapshot, now: datetime
) -> TokenClaims | Refusal | None:
    if not rule.bound_token:
        return None
    if identity is None or snapshot.tokens is None:
        return Refusal("internal_error", "tokens")  # neither settings nor rules can be so
    claims = snapshot.tokens.judge(head.headers, identity, now)
    if isinstance(claims, Refusal):
        return replace(claims, where=f"{rule.where}.require_bound_token")
    return claims


def _was_judged(refusal: Refusal) -> bool:
    """Whether a certificate is not accepted; else it could not be told (`revocation_unavailable`)."""
    return refusal.code.startswith("certificate_")


def _revealed(snapshot: Snapshot, identity: Identity | None) -> frozenset[str]:
    if identity is None:
        return _NOTHING
    return frozenset(
        name
        for name, patterns in snapshot.reveal.items()
        if any(pattern.matches(identity) for pattern in patterns)
    )
