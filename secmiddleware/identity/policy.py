"""Who may come where: the first rule whose path matches decides, and one default for what no rule names."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from secmiddleware.identity.patterns import NamePattern
from secmiddleware.messages import Identity, Refusal
from secmiddleware.paths import PathPattern

Client = Literal["required", "optional", "off"]


@dataclass(frozen=True, slots=True)
class Rule:
    """What is asked of the callers of some paths; `path` is None for the default, which has no path.

    `allow` implies `required`, and an empty one allows every identity that the trust anchors vouch for.
    `where` is the key of the configuration that the rule comes from, as in `routes[1]`.
    """

    path: PathPattern | None
    client: Client
    allow: tuple[NamePattern, ...] = ()
    where: str = "mtls"
    bound_token: bool = False
    """Whether a token is required, too, that is bound to the caller's certificate."""

    def __post_init__(self) -> None:
        if self.allow and self.client != "required":
            raise ValueError("a rule that allows certain identities only requires one")
        if self.bound_token and self.client != "required":
            raise ValueError("a rule that requires a bound token requires what it is bound to")


@dataclass(frozen=True, slots=True)
class Policy:
    """All rules in their order, and the default."""

    rules: tuple[Rule, ...]
    default: Rule

    def rule_for(self, path: str) -> Rule:
        """The first rule that matches a routed path, or the default."""
        for rule in self.rules:
            if rule.path is None or rule.path.matches(path):
                return rule
        return self.default


def decide(rule: Rule, identity: Identity | None) -> Refusal | None:
    """Why a caller may not come here, or None: `certificate_missing` or `identity_not_allowed`."""
    if identity is None:
        return Refusal("certificate_missing", f"{rule.where}.client") if rule.client == "required" else None
    if rule.allow and not any(pattern.matches(identity) for pattern in rule.allow):
        return Refusal("identity_not_allowed", f"{rule.where}.allow")
    return None
