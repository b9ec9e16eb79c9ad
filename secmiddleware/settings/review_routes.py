"""Routes that are right one by one and wrong together: what can never match, and what contradicts itself.

Works on what is left after validation, like `review`, which asks for it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from secmiddleware.identity.patterns import NamePattern
from secmiddleware.identity.policy import methods_meant
from secmiddleware.paths import PathPattern
from secmiddleware.settings.mistakes import Mistake, Note, write_path
from secmiddleware.settings.models import RouteSettings, Settings
from secmiddleware.settings.positions import KeyPath

# Each name that a route allows is compared with each that it denies: a second's work or so.
_MOST_PAIRS: Final = 1_000_000


def review_routes(settings: Settings) -> Iterator[Note]:
    """What is wrong among the routes, and between them and what is trusted."""
    yield from _shadowed(settings)
    for index, route in enumerate(settings.routes):
        here: KeyPath = ("routes", index)
        yield from _lists(here, route)
        if route.preflight:
            yield from _preflight(settings, index)
    yield from _denied_names(settings)
    yield from _impossible_names(settings)


def callers_named(settings: Settings) -> Iterator[tuple[KeyPath, NamePattern]]:
    """Every pattern that a decision on callers hangs on, and where it stands."""
    for index, route in enumerate(settings.routes):
        for key, texts in (("allow", route.allow), ("deny", route.deny)):
            for number, text in enumerate(texts):
                yield ("routes", index, key, number), NamePattern.parse(text)
    for name, one in settings.fields.items():
        for number, text in enumerate(one.reveal_to):
            yield ("fields", name, "reveal_to", number), NamePattern.parse(text)


def _shadowed(settings: Settings) -> Iterator[Note]:
    """Routes of which the earlier ones leave nothing: no path, or none of their methods."""
    patterns = [PathPattern.parse(route.path) for route in settings.routes]
    meant = [methods_meant(route.methods) for route in settings.routes]
    for index, pattern in enumerate(patterns):
        earlier, left = [], meant[index]
        for number in range(index):
            theirs = meant[number]
            if not patterns[number].covers(pattern):
                continue
            if theirs is None:
                earlier, left = [number], frozenset()
                break
            if left is not None and left & theirs:
                earlier, left = [*earlier, number], left - theirs
        if left is None or left or not earlier:
            continue
        names = " and ".join(f"routes[{number}]" for number in earlier)
        verb = ("matches", "comes") if len(earlier) == 1 else ("match", "come")
        message = f"can never match: {names} {verb[0]} all of it, and {verb[1]} first"
        looked_at = tuple(("routes", number, key) for number in earlier for key in ("path", "methods"))
        yield (
            Mistake(("routes", index, "path"), message, "remove it, or move it up"),
            (*looked_at, ("routes", index, "methods")),
        )


def _lists(here: KeyPath, route: RouteSettings) -> Iterator[Note]:
    if route.client in ("off", "optional"):
        for key, names, verb in (("allow", route.allow, "may"), ("deny", route.deny, "may not")):
            if names:
                message = f'says who {verb}, which requires a certificate, but client is "{route.client}"'
                yield Mistake((*here, key), message, "remove client from this route"), ((*here, "client"),)
        if route.require_bound_token:
            message = f'requires a certificate that the token is bound to, but client is "{route.client}"'
            at = (*here, "require_bound_token")
            yield Mistake(at, message, "remove client from this route"), ((*here, "client"),)
    if not route.methods and "methods" in route.model_fields_set:
        at = (*here, "methods")
        yield Mistake(at, "is empty, so it can never match", "leave it out for every method"), (at,)
    if not route.allow and "allow" in route.model_fields_set:
        at = (*here, "allow")
        message = "is empty, which would be everybody who is trusted"
        yield Mistake(at, message, "leave it out, or name who may"), (at,)


def _preflight(settings: Settings, index: int) -> Iterator[Note]:
    route, at = settings.routes[index], ("routes", index, "preflight")
    methods = methods_meant(route.methods)
    if settings.mtls.handshake == "required":
        message = (
            'lets preflights in without a certificate, but mtls.handshake "required" closes the door in TLS'
        )
        yield Mistake(at, message, 'use handshake = "optional"'), (("mtls", "handshake"),)
    if route.asks(settings.mtls.client) != "required" and (methods is None or "OPTIONS" in methods):
        message = "is of no use: nobody needs a certificate for OPTIONS here"
        looked_at = (
            ("mtls", "client"),
            *(("routes", index, key) for key in ("client", "methods", "allow", "deny")),
        )
        yield Mistake(at, message, "remove it"), looked_at
    pattern = PathPattern.parse(route.path)
    for number, earlier in enumerate(settings.routes[:index]):
        if "OPTIONS" in earlier.methods and PathPattern.parse(earlier.path).covers(pattern):
            message = f"is of no use: routes[{number}] comes first, and decides about OPTIONS"
            looked_at = (("routes", number, "path"), ("routes", number, "methods"))
            yield Mistake(at, message, f"say it in routes[{number}], or move this one up"), looked_at
            break


def _denied_names(settings: Settings) -> Iterator[Note]:
    """Names that a route allows, and denies all of."""
    pairs = sum(len(route.allow) * len(route.deny) for route in settings.routes)
    if pairs > _MOST_PAIRS:
        message = (
            f"are too many names to compare: allow times deny are {pairs:,}, {_MOST_PAIRS:,} are the most"
        )
        yield Mistake(("routes",), message), ()
        return
    for index, route in enumerate(settings.routes):
        denied = [NamePattern.parse(text) for text in route.deny]
        for number, text in enumerate(route.allow if denied else ()):
            allowed = NamePattern.parse(text)
            by = next((place for place, one in enumerate(denied) if one.covers(allowed)), None)
            if by is not None:
                deny: KeyPath = ("routes", index, "deny", by)
                message = f"can never match: {write_path(deny)} denies all of it"
                yield Mistake(("routes", index, "allow", number), message, "remove one of them"), (deny,)


def _impossible_names(settings: Settings) -> Iterator[Note]:
    """Names that no trusted CA may assert, so that no caller ever has them."""
    trust = settings.mtls.trust
    if not trust or not all(one.asserts for one in trust):
        return
    asserted = [NamePattern.parse(text) for one in trust for text in dict.fromkeys(one.asserts)]
    for path, pattern in callers_named(settings):
        if pattern.is_of_names and not any(pattern.meets(one) for one in asserted):
            message = "can never match: no CA that is trusted may assert such a name"
            yield Mistake(path, message, "look at may_assert in mtls.trust"), (("mtls", "trust"),)
