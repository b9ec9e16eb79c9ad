"""The settings as frozen models: which keys there are, of what type, with what default.

What a single value may be is in `values`; what contradicts something else, or is not on disk, in `review`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from datetime import timedelta
from ipaddress import ip_network
from pathlib import Path
from typing import Annotated, Final, Literal

from pydantic import BeforeValidator, Field, PrivateAttr, SecretStr

from secmiddleware.encryption.document import MAX_GEN
from secmiddleware.settings.references import SettingError
from secmiddleware.settings.values import (
    AssertedName,
    Broker,
    Callback,
    Duration,
    FernetKey,
    HeaderName,
    HostAddress,
    Identifier,
    JweRecipient,
    Kek,
    MarksSource,
    MarkText,
    MethodText,
    Mount,
    NameText,
    NetworkText,
    PathSetting,
    PathText,
    PositiveDuration,
    Recheck,
    Section,
    ServiceName,
    Size,
    Store,
    Text,
    Texts,
    TrustDomain,
    UserId,
    read_network,
    read_text,
)

Client = Literal["required", "optional", "off"]
Source = Literal[
    "server", "nginx", "haproxy", "apache", "caddy", "rfc9440", "envoy", "traefik",
    "aws-alb", "aws-alb-passthrough", "gcp-lb", "azure-app-service", "cloudflare",
]  # fmt: skip
Algorithm = Literal[
    "ES256", "ES384", "ES512", "PS256", "PS384", "PS512", "RS256", "RS384", "RS512",
    "EdDSA", "Ed25519", "Ed448",
]  # fmt: skip
Format = Literal["aead", "xaes", "deterministic", "fernet", "jwe"]
JweAlgorithm = Literal["dir", "RSA-OAEP-256", "ECDH-ES+A256KW"]
Action = Literal["decrypt", "encrypt", "pass"]

# Pairs of rules, of places and of marks are compared with each other: these bound that work, far above any
# real file.
_MOST_ROUTES: Final = 1000
_MOST_PLACES: Final = 200
_MOST_MARKS: Final = 500
# Each is tried for a token that is none of the ones before it: 5 µs a key.
_MOST_FERNET_KEYS: Final = 32
# PCI DSS shows at most the last four of a card's number; what shows much more is no mask.
_MOST_SHOWN: Final = 16
# Every value of a field costs as much in each body.
_LONGEST_PAD: Final = 4096
# One is new, one is old; each more is one whose tokens somebody still has.
_MOST_JWE_KEYS: Final = 16
# Words such as "ping"; they are compared with the data of each event that is no JSON.
_MOST_PLAIN_EVENTS: Final = 100
# The registry of methods has some forty.
_MOST_METHODS: Final = 100


def _listed(value: object) -> object:
    return (value,) if isinstance(value, str) else value


JweAlgorithms = Annotated[
    tuple[JweAlgorithm, ...],
    Field(min_length=1, max_length=2),
    BeforeValidator(_listed, json_schema_input_type=JweAlgorithm | tuple[JweAlgorithm, ...]),
]


def _trust_table(value: object) -> object:
    if isinstance(value, str | os.PathLike):
        return {"ca": value}
    if not isinstance(value, Mapping | TrustSettings):
        raise SettingError('must be a path, or a table such as { ca = "…", may_assert = ["…"] }')
    return value


def _proxy_table(value: object) -> object:
    """A proxy's table; a text is short for one: an address, or unix:USER."""
    if isinstance(value, Mapping | ProxySettings):
        return value
    text = read_text(value)
    if text == "unix" or text.startswith("unix:"):
        user = text.removeprefix("unix").removeprefix(":")
        if not user:
            raise SettingError("must say whose process is at the other end", 'as in "unix:www-data"')
        return {"unix": int(user) if user.isascii() and user.isdigit() else user}
    if "/" in text:
        return _one_host(text)
    return {"address": text}


def _one_host(text: str) -> dict[str, object]:
    """The table for a network in a text, which may be one of a single host only."""
    network = ip_network(read_network(text))
    if network.num_addresses > 1:
        raise SettingError(
            f"is a network of {network.num_addresses} addresses, each of which could say who is calling",
            f'name single hosts, or say that all are meant: {{ network = "{network}", wide = true }}',
        )
    return {"address": str(network.network_address)}


class ServiceSettings(Section):
    """What is protected."""

    name: ServiceName = Field(description="The service's name in telemetry.")
    mount: Mount = Field(
        default="", description="The prefix under which the app is mounted; another one is refused."
    )
    max_body: Size = Field(
        default=4 << 20,
        description='The largest body that is read on a route with marks: bytes, or a text like "4MiB".',
    )
    max_held: Size = Field(
        default=256 << 20,
        description="What all bodies with marks that a process holds back at once may have together.",
    )
    # Above 500 the interpreter's own limit of recursion, 1000 by default, may come first.
    max_depth: Annotated[int, Field(ge=1, le=500)] = Field(
        default=200, description="How deep arrays and objects may stand inside each other in a marked body."
    )
    max_marked: Annotated[int, Field(ge=1, le=1 << 20)] = Field(
        default=1 << 16, description="The most marked values that one body may have."
    )
    duplicates: Literal["reject", "all"] = Field(
        default="reject",
        description="A name that an object has twice where a mark leads: the body is refused, or all count.",
    )
    # Measured while a loop ticked beside it: 64 kB took 0.5 ms on the loop where marks are names and [*], and
    # 3 ms where they are not; a thread adds 0.15 ms, and the loop goes on.
    offload: Size = Field(
        default=64 << 10,
        description="From which size on a marked body, or a message of a websocket, is worked on in a thread "
        "while the loop goes on.",
    )
    max_line: Size = Field(
        default=1 << 20,
        description="The longest line or event of a stream that is read on a route with marks.",
    )
    plain_events: tuple[str, ...] = Field(
        default=("[DONE]",),
        max_length=_MOST_PLAIN_EVENTS,
        description="The data of events that is no JSON and may pass on a route with marks, word for word.",
    )
    max_ratio: Annotated[int, Field(ge=1, le=100_000)] = Field(
        default=200,
        description="How many times its size a compressed body with marks may become, from 1 MiB on.",
    )


class TrustSettings(Section):
    """A bundle of certification authorities, and what names they may speak for."""

    ca: PathSetting = Field(description="A PEM file of one or more CA certificates.")
    may_assert: tuple[AssertedName, ...] = Field(
        default=(),
        max_length=_MOST_ROUTES,
        description="What names these CAs may speak for; empty: every name.",
    )
    trust_domain: TrustDomain | None = Field(
        default=None, description="The one SPIFFE trust domain whose ids, and no other names, they speak for."
    )

    @property
    def asserts(self) -> tuple[str, ...]:
        """The names that these CAs may speak for, whichever way it was said."""
        if self.trust_domain is None or self.may_assert:
            return self.may_assert
        return (f"spiffe://{self.trust_domain}/**",)


Trust = Annotated[TrustSettings, BeforeValidator(_trust_table, json_schema_input_type=str | TrustSettings)]


class ProxySettings(Section):
    """A proxy that may hand over its callers' certificates, told by exactly one of the keys."""

    address: HostAddress | None = Field(default=None, description="A single host.")
    network: NetworkText | None = Field(
        default=None, description="Every host of a network; needs wide = true, since each may be anybody."
    )
    wide: bool = Field(default=False, description="Says that all of the network is meant.")
    unix: UserId | None = Field(
        default=None,
        description="The user id, or the name, of the process at the other end of a unix socket.",
    )
    allow: tuple[NameText, ...] = Field(
        default=(),
        max_length=_MOST_ROUTES,
        description="The names in the proxy's own client certificate.",
    )
    trust: tuple[PathSetting, ...] = Field(
        default=(), max_length=100, description="The CAs of the proxies' certificates, of them alone."
    )
    crl: tuple[PathSetting, ...] = Field(
        default=(),
        max_length=100,
        description="Lists of revoked certificates of proxies, in PEM or DER; missing_crl is as in [mtls].",
    )


TrustedProxy = Annotated[
    ProxySettings, BeforeValidator(_proxy_table, json_schema_input_type=str | ProxySettings)
]


class MtlsSettings(Section):
    """Who has to show a certificate, where it comes from and which ones are trusted."""

    client: Client = Field(
        default="required", description="Whether a caller needs a certificate where no route says."
    )
    handshake: Literal["optional", "required"] = Field(
        default="optional",
        description="optional: who has no certificate gets a readable 401; required: TLS closes the door.",
    )
    source: Source = Field(
        default="server", description="Who hands over the certificate: the server, or the proxy."
    )
    trusted_proxies: tuple[TrustedProxy, ...] = Field(
        default=(),
        max_length=_MOST_ROUTES,
        description='The proxies that may hand over a certificate: "10.0.0.5", "unix:UID", or a table.',
    )
    proxy_headers: Mapping[str, HeaderName] = Field(
        default_factory=dict,
        description="The headers that the proxy uses where they are not the preset's: role = name.",
    )
    peer_address: Literal["transport", "server"] = Field(
        default="transport",
        description="server: nothing rewrites the peer's address that the server tells, also where it is not "
        "seen on the transport.",
    )
    trust: tuple[Trust, ...] = Field(
        default=(), max_length=100, description="The certification authorities of callers."
    )
    intermediates: tuple[PathSetting, ...] = Field(
        default=(),
        max_length=100,
        description="CA certificates, in PEM, for callers who send their leaf alone; they end no chain.",
    )
    certificate: PathSetting | None = Field(
        default=None, description="The server's own certificate chain, in PEM."
    )
    key: PathSetting | None = Field(
        default=None, description="The private key of the server's certificate, in PEM."
    )
    profile: Literal["strict", "private-pki"] = Field(default="strict", description="How a chain is judged.")
    crl: tuple[PathSetting, ...] = Field(
        default=(), max_length=1000, description="Lists of revoked certificates, in PEM or DER."
    )
    missing_crl: Literal["refuse", "allow"] = Field(
        default="refuse",
        description="What becomes of callers where crl names lists, and a CA of theirs has no current one.",
    )
    recheck: Recheck = Field(
        default=timedelta(minutes=1),
        description="How often an open websocket is judged again, and ended where its certificate is over, "
        'revoked or not trusted any more; "off": never.',
    )
    unaccepted: Literal["refuse", "show"] = Field(
        default="refuse",
        description="On an optional route, a certificate that is not accepted: refuse it, or let its bearer "
        "in as nobody and show the app why.",
    )


class RouteSettings(Section):
    """A rule for some paths; the first one that matches decides."""

    path: PathText = Field(description="* is one segment; /** is the whole tree below and the folder itself.")
    methods: tuple[MethodText, ...] = Field(
        default=(),
        max_length=_MOST_METHODS,
        description="The methods that it is for, in capitals; GET is HEAD too. Not given: every method.",
    )
    client: Client | None = Field(
        default=None, description="Whether a caller needs a certificate; else as in [mtls]."
    )
    allow: tuple[NameText, ...] = Field(
        default=(),
        max_length=_MOST_ROUTES,
        description="Who may: spiffe://… dns: email: uri: ip: sha256: and others.",
    )
    deny: tuple[NameText, ...] = Field(
        default=(),
        max_length=_MOST_ROUTES,
        description="Who may not, whatever allow says; without allow, everybody else who is trusted may.",
    )
    preflight: bool = Field(
        default=False, description="Lets CORS preflights in without a certificate, and nothing else."
    )
    require_bound_token: bool = Field(
        default=False,
        description="Whether a caller needs an access token, too, bound to the certificate (RFC 8705).",
    )

    def asks(self, default: Client) -> Client:
        """Whether a caller needs a certificate here: by default as in [mtls].

        A list, and a token that is bound to one, imply a certificate.
        """
        return "required" if self.allow or self.deny or self.require_bound_token else self.client or default


class TokensSettings(Section):
    """Which access tokens are good where a route requires one: JWTs of one issuer."""

    jwks: PathSetting = Field(description="The issuer's public keys, a JWK Set (RFC 7517).")
    issuer: Text = Field(description="What iss says in its tokens, letter by letter.")
    audience: Texts = Field(description="This service's name in aud, or a list of its names.")
    algorithms: tuple[Algorithm, ...] = Field(
        default=("ES256", "PS256", "RS256", "EdDSA", "Ed25519"),
        min_length=1,
        description="How a token may be signed; a key is good for those of its own kind only.",
    )
    leeway: Duration = Field(
        default=timedelta(seconds=30), description="How far the issuer's clock and ours may differ."
    )
    typ: Literal["any", "at+jwt"] = Field(
        default="any", description="at+jwt: only what says that it is an access token (RFC 9068)."
    )
    max_token: Size = Field(
        default=8 << 10, description='The largest token that is looked at: bytes, or a text like "8KiB".'
    )


class KeysSettings(Section):
    """The key ring: where it is, what protects it and when its keys change."""

    ring: Identifier = Field(description="The ring's name; it is bound into every token.")
    store: Store = Field(description='Where the ring is kept: "file:PATH" or "memory:".')
    kek: Kek = Field(description='The key-encryption key, 32 random bytes: "file:PATH" or "env:NAME".')
    rotate_every: PositiveDuration = Field(default=timedelta(days=30), description="How long a key seals.")
    activation_delay: Duration = Field(
        default=timedelta(minutes=5), description="How long a new key is published before it seals."
    )
    retire_after: PositiveDuration = Field(
        default=timedelta(days=90),
        description="How long what a key sealed stays readable once its successor seals.",
    )
    min_generation: Annotated[int, Field(ge=0, le=MAX_GEN)] = Field(
        default=0, description="A ring of a lower generation is refused as a replay."
    )
    max_document_age: PositiveDuration = Field(
        default_factory=lambda data: 2 * data.get("rotate_every", timedelta(days=30)),
        description="A node that starts refuses an older ring; twice rotate_every where it is not given.",
    )


class PlaceSettings(Section):
    """Where a field stands in requests and responses, and what happens to it there."""

    routes: tuple[PathText, ...] = Field(default=(), max_length=_MOST_ROUTES, description="The paths.")
    marks: tuple[MarkText, ...] = Field(
        default=(),
        max_length=_MOST_MARKS,
        description="JSONPath of names, [*], [n] and ..name; or header:NAME, cookie:NAME, query:NAME.",
    )
    marks_from: MarksSource | None = Field(
        default=None,
        description='What says the marks: a Pydantic model, "module:Model", or a schema, "FILE#/POINTER".',
    )
    openapi: PathSetting | None = Field(
        default=None,
        description="An OpenAPI document, JSON or YAML, that says both the routes and the marks.",
    )
    unnamed: bool = Field(
        default=False, description="Takes the values that a document calls sensitive and gives no field, too."
    )
    request: Action = Field(default="pass", description="What happens to the value on its way to the app.")
    response: Action = Field(
        default="pass", description="What happens to the value on its way to the caller."
    )
    required: bool = Field(
        default=False, description="Refuses a request in which one of the marks has no value."
    )
    already_sealed: Literal["refuse", "skip"] = Field(
        default="refuse",
        description="What becomes of a token where a value is to be encrypted; skip: it goes on as it is, if "
        "it opens.",
    )
    websocket: bool = Field(
        default=False,
        description="Whether the text messages of a websocket are rewritten too; else marks in bodies keep "
        "websockets out.",
    )


class JweSettings(Section):
    """How a field's JWEs are made, and with whose keys; a token that says otherwise does not open."""

    alg: JweAlgorithms = Field(
        description="Whose key seals: dir the ring's, the others, one or both, a recipient's of that kind."
    )
    enc: Literal["A256GCM"] = Field(default="A256GCM", description="How the content is encrypted.")
    recipient: JweRecipient | None = Field(
        default=None,
        description='Who opens what is sealed: "ring" with dir; "caller", by the client certificate; or '
        '"file:PATH", a public key, a certificate or a JWK.',
    )
    keys: tuple[PathSetting, ...] = Field(
        default=(),
        max_length=_MOST_JWE_KEYS,
        description="Our private keys, for what others have sealed to us: files in PEM or JWK, newest first.",
    )


class FieldSettings(Section):
    """One kind of secret; its name is bound into every token of it."""

    format: Format = Field(default="aead", description="The format of its tokens.")
    also_open: tuple[Format, ...] = Field(default=(), description="Other formats whose tokens it opens too.")
    fernet_keys: tuple[FernetKey, ...] = Field(
        default=(),
        max_length=_MOST_FERNET_KEYS,
        description="Fernet keys from elsewhere, newest first, whose tokens it opens where it opens Fernet.",
    )
    jwe: JweSettings | None = Field(default=None, description="How its JWEs are made, where it has any.")
    encoding: Literal["json", "text"] = Field(
        default="json",
        description="What stands inside its tokens: raw JSON, or the text of a string, without quotes.",
    )
    bind: Literal["none", "tenant", "caller"] = Field(
        default="none", description="Whose tokens open for whom, by the verified identity."
    )
    reveal_to: tuple[NameText, ...] = Field(
        default=(), max_length=_MOST_ROUTES, description="Who gets plaintext where a response decrypts."
    )
    otherwise: Literal["token", "mask", "null", "refuse"] = Field(
        default="token", description="What everyone else gets there."
    )
    mask_last: Annotated[int, Field(ge=0, le=_MOST_SHOWN)] = Field(
        default=0, description="How many of a value's last characters a mask shows."
    )
    pad: Annotated[int, Field(ge=0, le=_LONGEST_PAD)] = Field(
        default=0,
        description="Hides how long values are: each is padded to a multiple of so many bytes; 0: none is.",
    )
    rewrap: bool = Field(
        default=False, description="Renews tokens of old keys that pass through without being opened."
    )
    leak_guard: bool = Field(
        default=True, description="A value opened in an exchange may not leave it outside a mark."
    )
    places: tuple[PlaceSettings, ...] = Field(
        default=(), max_length=_MOST_PLACES, description="Where it stands."
    )


class RotationSettings(Section):
    """How changes of keys and certificates are noticed and told."""

    broker: Broker = Field(
        default=SecretStr(""),
        description="Where notices go: redis://… rediss://… amqp://… amqps://… or memory://; empty: none.",
    )
    broker_ca: PathSetting | None = Field(
        default=None, description="The CAs that may speak for a broker with TLS, in PEM."
    )
    poll: PositiveDuration = Field(
        default=timedelta(seconds=30), description="How often the store is looked at."
    )
    callbacks: tuple[Callback, ...] = Field(
        default=(), description='Functions to call on a change: "module:function".'
    )


class TelemetrySettings(Section):
    """What is told to OpenTelemetry, where an SDK is set up; where to, the OTEL_* variables say."""

    traces: Literal["auto", "off"] = Field(
        default="auto", description="auto: spans and metrics, where an SDK is set up; off: neither."
    )
    trust_inbound_context: Literal["always", "mtls_only", "link", "never"] = Field(
        default="mtls_only",
        description="Whose traceparent and baggage are believed: mtls_only is that of callers whose "
        "certificate is good; link begins a trace of our own that points to theirs.",
    )
    identity: Literal["digest", "name"] = Field(
        default="digest",
        description="What a span says of the caller: its certificate's digest, or its name too.",
    )


class Settings(Section):
    """All settings, checked; made by `secmiddleware.settings.load`."""

    service: ServiceSettings
    mtls: MtlsSettings = MtlsSettings()
    routes: tuple[RouteSettings, ...] = Field(default=(), max_length=_MOST_ROUTES)
    tokens: TokensSettings | None = None
    keys: KeysSettings | None = None
    fields: Mapping[Identifier, FieldSettings] = Field(default_factory=dict)
    rotation: RotationSettings = RotationSettings()
    telemetry: TelemetrySettings = TelemetrySettings()

    _source: Path | None = PrivateAttr(None)

    @property
    def source(self) -> Path | None:
        """The file that the settings came from, absolute; None for a mapping."""
        return self._source
