"""What spans and metrics say of an exchange, in the words of OpenTelemetry's semantic conventions.

Pure: heads, verdicts and reports in, attributes out. The names are copied from the conventions (1.44), whose
Python package is pinned too tightly to depend on. Whatever a caller wrote is escaped and cut here, and what
may be secret (the values of a query, tokens in a path, every other header) never gets into an attribute.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from typing import Final
from urllib.parse import quote

from secmiddleware.engine import Admission
from secmiddleware.fields.flows import Report
from secmiddleware.messages import Identity, Refusal, RequestHead
from secmiddleware.telemetry.observer import ExchangeRecord, Stage

Value = str | int | float | tuple[str, ...]
Attributes = dict[str, Value]

SCHEMA_URL: Final = "https://opentelemetry.io/schemas/1.44.0"

METHOD: Final = "http.request.method"
METHOD_ORIGINAL: Final = "http.request.method_original"
STATUS: Final = "http.response.status_code"
ROUTE: Final = "http.route"
SCHEME: Final = "url.scheme"
PROTOCOL_VERSION: Final = "network.protocol.version"
ERROR_TYPE: Final = "error.type"
CERTIFICATE_SHA256: Final = "tls.client.hash.sha256"

DECISION: Final = "secmiddleware.decision"
REASON: Final = "secmiddleware.reason"
WHERE: Final = "secmiddleware.where"
RULE: Final = "secmiddleware.certificate.rule"
CERTIFICATE: Final = "secmiddleware.certificate.place"
IDENTITY: Final = "secmiddleware.identity"
STAGE: Final = "secmiddleware.stage"
OVERHEAD: Final = "secmiddleware.overhead.duration"
DECRYPTED: Final = "secmiddleware.crypto.decrypted_fields"
ENCRYPTED: Final = "secmiddleware.crypto.encrypted_fields"
KEY_IDS: Final = "secmiddleware.crypto.key_ids"

OTHER: Final = "_OTHER"
"""What the conventions call a method that is none of the known ones, and a value that is one too many."""

Series = tuple[tuple[str, str | int], ...]
"""The attributes of one series of a metric."""

# RFC 9110 §9, PATCH (RFC 5789) and QUERY, as the conventions have them.
KNOWN_METHODS: Final = frozenset(
    {"CONNECT", "DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT", "QUERY", "TRACE"}
)
_SCHEMES: Final = frozenset({"http", "https", "ws", "wss"})
_VERSIONS: Final = frozenset({"1.0", "1.1", "2", "3"})

# SDKs do not cut values by default; a longer one tells nobody more.
_LONGEST: Final = 256
_REDACTED: Final = "REDACTED"
_IN_A_URL: Final = "/%:@!$&'()*+,;=~-._[]"
_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_.\[\]-]{0,39}")
_PATH_SECRET: Final = re.compile(r"(?<=/)(?:sm1\.|gAAAAA)[^/;]+|(?<==)[^/;]+")
_CERTIFICATES_KEPT: Final = 1024
_MOST_KEY_IDS: Final = 8


def shown(text: str, longest: int = _LONGEST) -> str:
    """A text as visible ASCII and spaces, the rest escaped as in a Python literal; cut at `longest`."""
    text = text[:longest]
    if text.isascii() and text.isprintable():
        return text
    escaped = "".join(
        char if " " <= char <= "~" else char.encode("unicode_escape", "surrogatepass").decode("ascii")
        for char in text
    )
    return escaped[:longest]


def known_methods(environ: Mapping[str, str]) -> frozenset[str]:
    """The methods that are told apart; the conventions have one variable that replaces them."""
    listed = environ.get("OTEL_INSTRUMENTATION_HTTP_KNOWN_METHODS", "")
    return frozenset(name.strip() for name in listed.split(",") if name.strip()) or KNOWN_METHODS


def method_of(head: RequestHead, known: frozenset[str]) -> str:
    """The method, where it is a known one: else callers could make any number of series."""
    return head.method if head.method in known else OTHER


def scheme_of(head: RequestHead) -> str:
    """The scheme, where it is one of the web's."""
    return head.scheme if head.scheme in _SCHEMES else OTHER


def version_of(head: RequestHead) -> str | None:
    """The version of HTTP, where there is such a one."""
    return head.http_version if head.http_version in _VERSIONS else None


def scrubbed_path(head: RequestHead) -> str:
    """The path as it came; tokens and the values of path parameters replaced."""
    raw = head.path.encode("utf-8", "replace") if head.raw_path is None else head.raw_path
    path = quote(raw, safe=_IN_A_URL)
    if "=" in path or "/sm1." in path or "/gAAAAA" in path:
        path = _PATH_SECRET.sub(_REDACTED, path)
    return path[:_LONGEST]


def scrubbed_query(query: bytes) -> str:
    """The names of the parameters; each value, and whatever is no plain name, replaced."""
    parts = []
    for part in query[: 4 * _LONGEST].split(b"&"):
        name, equals, _ = part.decode("ascii", "replace").partition("=")
        parts.append(f"{name}={_REDACTED}" if equals and _NAME.fullmatch(name) else _REDACTED)
    return "&".join(parts)[:_LONGEST]


def request_attributes(head: RequestHead, method: str) -> Attributes:
    """What the HTTP conventions want of a SERVER span from its start; `method` is the known one."""
    attributes: Attributes = {
        METHOD: method,
        SCHEME: scheme_of(head),
        "url.path": scrubbed_path(head),
    }
    if method == OTHER:
        attributes[METHOD_ORIGINAL] = shown(head.method, 32)
    if head.query:
        attributes["url.query"] = scrubbed_query(head.query)
    if (version := version_of(head)) is not None:
        attributes[PROTOCOL_VERSION] = version
    if head.peer.host is not None:
        # Nobody here believes a forwarded header: the client is the other end of the connection.
        attributes["client.address"] = attributes["network.peer.address"] = shown(head.peer.host)
        if head.peer.port is not None:
            attributes["network.peer.port"] = head.peer.port
    for name, value in head.headers:
        if name == b"user-agent":
            attributes["user_agent.original"] = shown(value[:_LONGEST].decode("latin-1"))
        elif name == b"host":
            _add_server(attributes, value[:_LONGEST].decode("latin-1"))
    return attributes


def _add_server(attributes: Attributes, host: str) -> None:
    name, colon, port = host.rpartition(":")
    if not colon or not (port.isascii() and port.isdigit()) or len(port) > 5:
        name, port = host, ""
    attributes["server.address"] = shown(name)
    if port:
        attributes["server.port"] = int(port)


def verdict_attributes(verdict: Admission | Refusal, certificates: Certificates) -> Attributes:
    """What was decided on a request, and by which certificate."""
    attributes: Attributes = {DECISION: "allow"}
    if isinstance(verdict, Refusal):
        attributes = refusal_attributes(verdict)
    if verdict.identity is not None:
        attributes |= certificates.attributes_of(verdict.identity)
    elif isinstance(verdict, Refusal) and verdict.presented is not None:
        # Nothing that stands in it has been verified: its digest is all that can be said of it.
        attributes[CERTIFICATE_SHA256] = hashlib.sha256(verdict.presented.leaf).hexdigest().upper()
    return attributes


def refusal_attributes(refusal: Refusal) -> Attributes:
    """That an exchange was refused, and why."""
    attributes: Attributes = {DECISION: "deny", REASON: refusal.code}
    if refusal.where is not None:
        attributes[WHERE] = shown(refusal.where)
    if refusal.reason is not None:
        attributes[RULE] = refusal.reason.rule
        # A number or a digest: one attribute has one type.
        attributes[CERTIFICATE] = str(refusal.reason.certificate)
    return attributes


def stage_attributes(name: Stage, report: Report) -> Attributes:
    """What was done to a body."""
    attributes: Attributes = {STAGE: name, DECRYPTED: report.opened, ENCRYPTED: report.sealed}
    if report.kids:
        attributes[KEY_IDS] = tuple(sorted(report.kids)[:_MOST_KEY_IDS])
    return attributes


def error_of(record: ExchangeRecord) -> str | None:
    """Why an exchange failed, as a server sees it: 4xx is the caller's failure."""
    if record.error is not None:
        return shown(record.error)
    if record.refusal is not None:
        return record.refusal.code if record.refusal.status >= 500 else None
    return str(record.status) if record.status is not None and record.status >= 500 else None


def series_of(head: RequestHead, method: str, record: ExchangeRecord) -> Series:
    """The attributes of `http.server.request.duration`: nothing that a caller can choose freely."""
    series: list[tuple[str, str | int]] = [(METHOD, method), (SCHEME, scheme_of(head))]
    if (version := version_of(head)) is not None:
        series.append((PROTOCOL_VERSION, version))
    if record.status is not None:
        series.append((STATUS, record.status))
    if record.route is not None:
        series.append((ROUTE, shown(record.route)))
    if (error := error_of(record)) is not None:
        series.append((ERROR_TYPE, error))
    return tuple(series)


class Certificates:
    """What is told of the certificates of identities, worked out once for each."""

    def __init__(self, *, names: bool) -> None:
        """`names`: whether the caller's name is told too, and not only the digest of its certificate."""
        self._names = names
        # Many threads use it without a lock: single operations only, and losing an entry is harmless.
        self._kept: dict[str, Mapping[str, Value]] = {}

    def attributes_of(self, identity: Identity) -> Mapping[str, Value]:
        """The attributes `tls.client.*`, not to be changed. None is the certificate, nor its subject."""
        kept = self._kept.get(identity.sha256)
        if kept is None:
            if len(self._kept) >= _CERTIFICATES_KEPT:
                self._kept.clear()
            kept = self._kept[identity.sha256] = self._make(identity)
        return kept

    def _make(self, identity: Identity) -> Mapping[str, Value]:
        attributes: Attributes = {
            CERTIFICATE_SHA256: identity.sha256.upper(),
            "tls.client.issuer": shown(identity.issuer),
            "tls.client.not_before": f"{identity.not_before:%Y-%m-%dT%H:%M:%SZ}",
            "tls.client.not_after": f"{identity.not_after:%Y-%m-%dT%H:%M:%SZ}",
        }
        if self._names:
            attributes[IDENTITY] = str(identity)[:_LONGEST]
        return attributes
