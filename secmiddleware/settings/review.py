"""Settings that are right one by one and wrong together, and what this version cannot do yet.

Works on what is left after validation: a rule stays silent where a key that it looks at was taken out, for
its mistake is told already. The files that the settings name are `disk`'s, the routes
`review_routes`'s.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from datetime import timedelta
from importlib.util import find_spec
from typing import Final

from secmiddleware.paths import PathPattern
from secmiddleware.settings.disk import review_disk
from secmiddleware.settings.mistakes import Mistake, Note, write_path
from secmiddleware.settings.models import Client, FieldSettings, MtlsSettings, PlaceSettings, Settings
from secmiddleware.settings.places import MarkedPlace, meet, overlapping, places_of
from secmiddleware.settings.positions import KeyPath
from secmiddleware.settings.proxies import review_proxies
from secmiddleware.settings.quantities import write_duration
from secmiddleware.settings.references import TLS_SCHEMES
from secmiddleware.settings.review_formats import review_formats
from secmiddleware.settings.review_jwe import review_jwe
from secmiddleware.settings.review_routes import review_routes
from secmiddleware.settings.review_values import review_values

# RFC 7519 §4.1.4: usually no more than a few minutes.
_LONGEST_LEEWAY: Final = timedelta(minutes=10)

# A thread costs some 0.15 ms, in which 16 KiB with marks are rewritten.
_LEAST_OFFLOAD: Final = 16 << 10


def review(settings: Settings, broken: Collection[KeyPath], environ: Mapping[str, str]) -> list[Mistake]:
    """What contradicts something else, is not there, or is not supported by this version.

    `broken` are paths whose values were wrong by themselves; in `settings` stand defaults in their place.
    """
    placed = places_of(settings, import_models=False)
    notes = [
        *_service(settings),
        *_mtls(settings),
        *review_proxies(settings.mtls),
        *review_routes(settings),
        *_tokens(settings),
        *_keys(settings),
        *_broker(settings),
        *_fields(settings),
        *review_formats(settings),
        *review_values(settings),
        *review_jwe(settings),
        *placed.mistakes,
        *_described_routes(settings, placed.places),
        *overlapping(placed.places),
        *review_disk(settings, environ),
    ]
    gone = frozenset(broken)
    touched = {bad[:length] for bad in gone for length in range(len(bad))}

    def is_gone(path: KeyPath) -> bool:
        return any(path[:length] in gone for length in range(len(path) + 1))

    return [
        mistake
        for mistake, looked_at in notes
        if not is_gone(mistake.path) and not any(is_gone(path) or path in touched for path in looked_at)
    ]


def _service(settings: Settings) -> Iterator[Note]:
    service = settings.service
    if service.max_held < service.max_body:
        message = f"is less than the {service.max_body} bytes of one body that max_body allows"
        hint = "make it many times as large: it is what all bodies that are held at once may have"
        yield Mistake(("service", "max_held"), message, hint), (("service", "max_body"),)
    if service.max_held < service.max_line:
        message = f"is more than the {service.max_held} bytes of all bodies that max_held allows"
        hint = "a line is held until it ends: make it smaller, or max_held larger"
        yield Mistake(("service", "max_line"), message, hint), (("service", "max_held"),)
    for index, text in enumerate(service.plain_events):
        if "\r" in text or not text.strip():
            message = (
                "is no data that an event could have" if text.strip() else "is blank, which passes anyway"
            )
            yield Mistake(("service", "plain_events", index), message, "take it out"), ()
    if "offload" not in service.model_fields_set:
        return
    if service.offload < _LEAST_OFFLOAD:
        message = "is so little that handing it to a thread takes longer than the work"
        hint = f"at least {_LEAST_OFFLOAD} bytes, or leave it out"
        yield Mistake(("service", "offload"), message, hint), ()
    elif service.offload > service.max_body:
        message = f"is never reached: max_body lets bodies have {service.max_body} bytes at the most"
        hint = "make it less, or as much to keep all but the largest on the loop"
        yield Mistake(("service", "offload"), message, hint), (("service", "max_body"),)


def _mtls(settings: Settings) -> Iterator[Note]:
    mtls = settings.mtls
    if mtls.handshake == "required":
        for path, client in _clients(settings):
            if client != "required":
                message = f'"required" closes the door in TLS, but {write_path(path)} is "{client}"'
                hint = 'use handshake = "optional", or require a certificate everywhere'
                yield Mistake(("mtls", "handshake"), message, hint), (path, ("mtls", "client"), ("routes",))
                break
    asking = next((path for path, client in _clients(settings) if client != "off"), None)
    if asking is not None and not mtls.trust:
        message = f"is empty, but {write_path(asking)} asks for certificates, and none would be accepted"
        hint = 'name the CA of the callers, as in trust = ["pki/ca.pem"]'
        yield Mistake(("mtls", "trust"), message, hint), (asking, ("mtls", "client"), ("routes",))
    if mtls.unaccepted == "show" and not any(client == "optional" for _, client in _clients(settings)):
        message = '"show" has nothing to show: no route has client = "optional"'
        hint = 'leave it "refuse", or make the certificate optional somewhere'
        yield Mistake(("mtls", "unaccepted"), message, hint), (("mtls", "client"), ("routes",))
    yield from _trust_domains(mtls)
    if mtls.certificate is not None and mtls.key is None:
        message = "is missing: the certificate is of no use without its private key"
        yield Mistake(("mtls", "key"), message), (("mtls", "certificate"),)
    if mtls.key is not None and mtls.certificate is None:
        message = "is missing: the key is of no use without its certificate"
        yield Mistake(("mtls", "certificate"), message), (("mtls", "key"),)


def _trust_domains(mtls: MtlsSettings) -> Iterator[Note]:
    """Names that a CA may assert, and that the trust domain which it is good for alone does not have."""
    for index, trust in enumerate(mtls.trust):
        here: KeyPath = ("mtls", "trust", index)
        for place, text in enumerate(trust.may_assert):
            inside = text.startswith(f"spiffe://{trust.trust_domain}/")
            if trust.trust_domain is not None and not inside:
                message = f"is outside of trust_domain, which is all that this CA speaks for: {text}"
                hint = "remove it, or remove trust_domain and list every name in may_assert"
                yield Mistake((*here, "may_assert", place), message, hint), ((*here, "trust_domain"),)


def _clients(settings: Settings) -> Iterator[tuple[KeyPath, Client]]:
    """What is asked for anywhere, and by which key."""
    yield ("mtls", "client"), settings.mtls.client
    for index, route in enumerate(settings.routes):
        bound = ("require_bound_token", route.require_bound_token)
        lists = (("allow", route.allow), ("deny", route.deny), bound)
        key = next((key for key, given in lists if given), "client" if route.client else None)
        if key is not None:
            yield ("routes", index, key), route.asks(settings.mtls.client)


def _tokens(settings: Settings) -> Iterator[Note]:
    tokens, here = settings.tokens, ("tokens",)
    requiring = next(
        (index for index, route in enumerate(settings.routes) if route.require_bound_token), None
    )
    if tokens is None:
        if requiring is not None:
            at: KeyPath = ("routes", requiring, "require_bound_token")
            message = "requires a token, and there is no [tokens] to say which are good"
            yield Mistake(at, message, "jwks, issuer and audience are needed"), (here,)
        return
    if requiring is None:
        message = "is of no use: no route requires a token"
        yield Mistake(here, message, "say require_bound_token = true for a route"), (("routes",),)
    if tokens.leeway > _LONGEST_LEEWAY:
        longest = write_duration(_LONGEST_LEEWAY)
        message = f"is longer than {longest}: a token would be good so long after its end"
        yield Mistake(("tokens", "leeway"), message, "clocks that are set differ by seconds"), ()
    if not _is_installed("joserfc"):
        hint = "pip install 'secmiddleware[joserfc]'"
        yield Mistake(here, "needs joserfc, which is not installed", hint), ()


def least_delay(poll: timedelta, reach: str) -> timedelta:
    """The least time for which a new key has to be known before it seals, for a store of that reach.

    From P·(1+j)·(1+k) + J + T_fetch + 2·skew + T_pause: P is the poll, j = 0.1 its jitter, and k =
    ⌈ln(N·loss/ε) / ln(1/f)⌉ the looks in a row that may fail. For a file on one host, N = 64 processes, f
    = 0.001 of the looks fail, ε = 0.001 is the accepted chance that any process is late, and none is told
    but by its poll (loss = 1): k = ⌈11.1 / 6.9⌉ = 2, hence 3.3·P. There is no notice to spread (J = 0)
    and one clock (skew = 0); half a second is left for reading the file and for pauses. Inside one
    process a new key is known at once.
    """
    return timedelta(0) if reach == "process" else 3.3 * poll + timedelta(seconds=0.5)


def _keys(settings: Settings) -> Iterator[Note]:
    keys = settings.keys
    if keys is None:
        return
    least = least_delay(settings.rotation.poll, "process" if keys.store == "memory:" else "host")
    delay, rotate = ("keys", "activation_delay"), ("keys", "rotate_every")
    if keys.activation_delay < least:
        poll = write_duration(settings.rotation.poll)
        enough = write_duration(timedelta(seconds=-(-least // timedelta(seconds=1))))
        message = f"is too short: with poll = {poll} a process may learn of a new key later than that"
        hint = f"at least {enough}, or a shorter poll"
        yield Mistake(delay, message, hint), (("rotation", "poll"), ("keys", "store"))
    if keys.rotate_every <= keys.activation_delay:
        message = (
            "must be longer than activation_delay: a key would be due before its predecessor ever sealed"
        )
        yield Mistake(rotate, message), (delay,)
    if keys.retire_after < keys.activation_delay:
        message = "must not be shorter than activation_delay: values would become unreadable under way"
        yield Mistake(("keys", "retire_after"), message), (delay,)
    if keys.max_document_age < keys.rotate_every:
        message = "must not be shorter than rotate_every: a node could not start on a ring that is in order"
        yield Mistake(("keys", "max_document_age"), message), (rotate,)


def _broker(settings: Settings) -> Iterator[Note]:
    here, ca = ("rotation", "broker"), ("rotation", "broker_ca")
    scheme, colon, _ = settings.rotation.broker.get_secret_value().partition(":")
    if settings.rotation.broker_ca is not None and scheme not in TLS_SCHEMES:
        message = "is of no use: only a broker with rediss:// or amqps:// is asked for a certificate"
        yield Mistake(ca, message), (here,)
    if not colon:
        return
    if scheme in TLS_SCHEMES and settings.rotation.broker_ca is None:
        message = f"is {scheme}://, but nothing says whose certificates are good there"
        yield Mistake(here, message, 'name the CA: broker_ca = "…"'), (ca,)
    if settings.keys is None:
        yield Mistake(here, "has nothing to tell: there is no [keys]", "leave it empty"), (("keys",),)
    needed = ("kombu", "redis") if scheme.startswith("redis") else ("kombu",)
    missing = [package for package in needed if not _is_installed(package)]
    if missing:
        message = f"needs {' and '.join(missing)}, which is not installed"
        yield Mistake(here, message, f"pip install 'secmiddleware[{','.join(needed)}]'"), ()


def _is_installed(package: str) -> bool:
    try:
        return find_spec(package) is not None
    except ValueError:
        # It is imported already, and has put something without a spec in its own place: kombu does.
        return True


def _fields(settings: Settings) -> Iterator[Note]:
    for name, one in settings.fields.items():
        here: KeyPath = ("fields", name)
        if not one.places:
            message = "has no place, so it never happens"
            yield Mistake(here, message, f"add [[fields.{name}.places]]"), ((*here, "places"),)
        reveals = next((i for i, place in enumerate(one.places) if place.response == "decrypt"), None)
        if reveals is not None and not one.reveal_to:
            message = f"must say who gets plaintext: places[{reveals}] decrypts responses"
            looked_at = ((*here, "places", reveals, "response"),)
            yield Mistake((*here, "reveal_to"), message, 'as in ["spiffe://example.org/ops/*"]'), looked_at
        for index, place in enumerate(one.places):
            yield from _place(settings, one, (*here, "places", index), place)
    sealed = next((name for name, one in settings.fields.items() if one.places), None)
    if settings.keys is None and sealed is not None:
        message = f"is missing, and fields.{sealed} needs a key ring"
        yield Mistake(("keys",), message, "ring, store and kek are needed"), ()


def _place(settings: Settings, one: FieldSettings, here: KeyPath, place: PlaceSettings) -> Iterator[Note]:
    if place.request == "pass" and place.response == "pass":
        message = "does nothing: request and response are both pass"
        hint = 'give request or response: "decrypt" or "encrypt"'
        yield Mistake(here, message, hint), (here, (*here, "request"), (*here, "response"))
    sealed_to_caller = one.jwe is not None and one.jwe.recipient == "caller"
    if one.bind != "none":
        key, whose = "bind", f"is bound to the {one.bind}"
    elif sealed_to_caller and "encrypt" in (place.request, place.response):
        key, whose = "jwe", "is sealed to the caller"
    else:
        return
    for index, route in enumerate(place.routes):
        open_door = _may_lack_certificate(settings, PathPattern.parse(route))
        if open_door is not None:
            door = write_path(open_door)
            message = f"{whose}, but {door} lets callers in without a certificate"
            hint = "require one there" + (', or bind = "none"' if key == "bind" else "")
            looked_at = ((*here[:2], key), ("routes",), ("mtls", "client"))
            yield Mistake((*here, "routes", index), message, hint), looked_at


def _described_routes(settings: Settings, places: Sequence[MarkedPlace]) -> Iterator[Note]:
    """Paths of a document where a bound field's owner may be unknown."""
    for place in places:
        _, name, _, index = place.key
        one = settings.fields[place.field]
        if one.bind == "none" or one.places[int(index)].openapi is None:
            continue
        for route in place.routes:
            open_door = _may_lack_certificate(settings, route)
            if open_door is not None:
                door = write_path(open_door)
                message = f"has {route}, and {door} lets callers in without a certificate"
                hint = f'bind is "{one.bind}": require one there, or bind = "none"'
                looked_at = (("fields", name, "bind"), ("routes",), ("mtls", "client"))
                yield Mistake((*place.key, "openapi"), message, hint), looked_at
                break


def _may_lack_certificate(settings: Settings, pattern: PathPattern) -> KeyPath | None:
    """The key that lets callers without a certificate reach some path of a pattern; None where none does."""
    for index, route in enumerate(settings.routes):
        rule = PathPattern.parse(route.path)
        if not meet(rule, pattern):
            continue
        if route.asks(settings.mtls.client) != "required":
            return ("routes", index, "client") if route.client else ("mtls", "client")
        if rule.covers(pattern) and not route.methods:
            return None
    return None if settings.mtls.client == "required" else ("mtls", "client")
