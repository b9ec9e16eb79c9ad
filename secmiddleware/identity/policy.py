"""Who may come where: the first rule whose path and method match decides, and one default for the rest."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final, Literal

from secmiddleware.identity.patterns import NamePattern
from secmiddleware.identity.preflights import requested_method
from secmiddleware.messages import Identity, Refusal, RequestHead
from secmiddleware.paths import PathPattern

Client = Literal["required", "optional", "off"]

# A token of RFC 9110 §5.6.2 without lower-case letters.
_METHOD: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Z-]+")


def is_plain_method(method: str) -> bool:
    """Whether a method can be read in one way only: a token without lower-case letters.

    Methods are case-sensitive (RFC 9110 §9.1), and yet Django, Werkzeug and others take `delete` for DELETE.
    """
    return _METHOD.fullmatch(method) is not None


def methods_meant(methods: Iterable[str]) -> frozenset[str] | None:
    """The methods that a rule with these is for; None, every method, where it names none.

    GET brings HEAD with it, since apps answer HEAD by what they have for GET (RFC 9110 §9.3.2).
    """
    meant = frozenset(methods)
    return (meant | {"HEAD"} if "GET" in meant else meant) or None


@dataclass(frozen=True, slots=True)
class Rule:
    """What is asked of the callers of some paths; `path` is None for the default, which has no path.

    `allow` and `deny` imply `required`. Whom `deny` names is kept out, whatever `allow` says; an empty
    `allow` allows every other identity that the trust anchors vouch for. `methods` are as `methods_meant`
    has them. `preflight` lets CORS preflights in without a certificate. `where` is the key of the
    configuration that the rule comes from, as in `routes[1]`.
    """

    path: PathPattern | None
    client: Client
    allow: tuple[NamePattern, ...] = ()
    where: str = "mtls"
    deny: tuple[NamePattern, ...] = ()
    methods: frozenset[str] | None = None
    preflight: bool = False
    bound_token: bool = False
    """Whether a token is required, too, that is bound to the caller's certificate."""

    def __post_init__(self) -> None:
        if (self.allow or self.deny) and self.client != "required":
            raise ValueError("a rule that allows or denies certain identities requires one")
        if self.bound_token and self.client != "required":
            raise ValueError("a rule that requires a bound token requires what it is bound to")
        if self.methods is not None and (
            self.methods != methods_meant(self.methods) or not all(map(is_plain_method, self.methods))
        ):
            raise ValueError("the methods of a rule are what methods_meant makes of plain ones")

    def is_for(self, method: str) -> bool:
        """Whether requests with a method fall under the rule, if their path does."""
        return self.methods is None or method in self.methods


@dataclass(frozen=True, slots=True)
class _Finder:
    """The rules for one method, and one expression over all their paths: group n is the n-th rule."""

    rules: tuple[Rule, ...]
    regex: re.Pattern[str] = field(init=False)

    def __post_init__(self) -> None:
        paths = ("/.*" if rule.path is None else rule.path.regex for rule in self.rules)
        # The groups are empty and come last: one that opens before its path has matched costs the engine a
        # step for every group before it, and a thousand of them half a millisecond.
        text = "|".join(f"{path}()" for path in paths) or "(?!)"
        object.__setattr__(self, "regex", re.compile(text, re.DOTALL))

    def find(self, path: str) -> Rule | None:
        """The first rule that matches a routed path."""
        found = self.regex.fullmatch(path) if self.rules else None
        return None if found is None or found.lastindex is None else self.rules[found.lastindex - 1]


@dataclass(frozen=True, slots=True)
class Policy:
    """All rules in their order, and the default."""

    rules: tuple[Rule, ...]
    default: Rule
    asks: bool = field(init=False, repr=False, compare=False)
    """Whether anybody is asked for a certificate anywhere."""
    requires: bool = field(init=False, repr=False, compare=False)
    """Whether anybody is required to have one anywhere."""
    _of_method: dict[str, _Finder] = field(init=False, repr=False, compare=False)
    _of_others: _Finder = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        named = frozenset().union(*(rule.methods or () for rule in self.rules))
        finders: dict[tuple[Rule, ...], _Finder] = {}
        of_method = {}
        for method in named:
            rules = tuple(rule for rule in self.rules if rule.is_for(method))
            if rules not in finders:
                finders[rules] = _Finder(rules)
            of_method[method] = finders[rules]
        clients = {rule.client for rule in (*self.rules, self.default)}
        object.__setattr__(self, "asks", clients != {"off"})
        object.__setattr__(self, "requires", "required" in clients)
        object.__setattr__(self, "_of_method", of_method)
        others = tuple(rule for rule in self.rules if rule.methods is None)
        object.__setattr__(self, "_of_others", _Finder(others))

    def rule_for(self, path: str, method: str) -> Rule | Refusal:
        """The first rule that matches a routed path and a method, or the default.

        A method that two readers could read in two ways (`delete`) gets no further than the first rule of its
        path that has methods: `identity_not_allowed`, for by which rule it came could not be told.
        """
        finder = self._of_method.get(method)
        if finder is None:
            if self._of_method and not is_plain_method(method):
                return self._rule_for_any(path)
            finder = self._of_others
        return finder.find(path) or self.default

    def _rule_for_any(self, path: str) -> Rule | Refusal:
        """The rule of a path, as long as that is the same for every method."""
        first = next(
            (rule for rule in self.rules if rule.path is None or rule.path.matches(path)), self.default
        )
        if first.methods is not None:
            return Refusal("identity_not_allowed", f"{first.where}.methods")
        return first

    def lets_preflight(self, path: str, head: RequestHead) -> bool:
        """Whether a request is a CORS preflight, and may come without a certificate.

        The first rule decides that matches the path and is for OPTIONS, which a preflight is, or for the
        method that it asks about.
        """
        requested = requested_method(head)
        if requested is None:
            return False
        for rule in self.rules:
            if not (rule.is_for("OPTIONS") or rule.is_for(requested)):
                continue
            if rule.path is None or rule.path.matches(path):
                return rule.preflight
        return self.default.preflight


def decide(rule: Rule, identity: Identity | None) -> Refusal | None:
    """Why a caller may not come here, or None: `certificate_missing` or `identity_not_allowed`."""
    if identity is None:
        return Refusal("certificate_missing", f"{rule.where}.client") if rule.client == "required" else None
    if rule.deny and any(pattern.may_mean(identity) for pattern in rule.deny):
        return Refusal("identity_not_allowed", f"{rule.where}.deny")
    if rule.allow and not any(pattern.matches(identity) for pattern in rule.allow):
        return Refusal("identity_not_allowed", f"{rule.where}.allow")
    return None
