"""ASGI scopes: what a server hands over becomes a `RequestHead`, and what was found out is shown to the app.

The types of ASGI 3 are here too. Nothing is decided here.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from functools import lru_cache
from typing import Any, Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.serialization import Encoding

from secmiddleware.identity.presentation import presented_in
from secmiddleware.messages import (
    IDENTITY_KEY,
    PEER_KEY,
    PRESENTED_KEY,
    TOKEN_CLAIMS_KEY,
    UNACCEPTED_KEY,
    Headers,
    Identity,
    Peer,
    Presented,
    RequestHead,
    TokenClaims,
    Unaccepted,
)

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

_INDEXED: Final = (list, tuple)


def head_of(scope: Scope) -> RequestHead:
    """What is known of the request of an HTTP or websocket scope; its header names in lower case."""
    client = scope.get("client")
    if client and not isinstance(client, _INDEXED):
        # The specification allows any iterable: one that can be read once is still to be read by the app.
        scope["client"] = client = tuple(client)
    return RequestHead(
        scope["type"],
        scope.get("method", "GET"),
        scope.get("scheme", "http"),
        scope["path"],
        scope.get("raw_path"),
        scope.get("root_path", ""),
        scope.get("query_string", b""),
        scope.get("http_version", "1.1"),
        tuple([(name.lower(), value) for name, value in scope["headers"]]),
        _peer_of(scope, client),
        presented_in(scope),
    )


def headers_of(message: Message) -> Headers:
    """What an app's message has of headers; their names in lower case."""
    return tuple((bytes(name).lower(), bytes(value)) for name, value in message.get("headers", ()))


def _peer_of(scope: Scope, client: Any) -> Peer:
    """The other end, as a hook saw it, else as the server tells it. A hook's word stands."""
    seen = scope.get(PEER_KEY)
    if isinstance(seen, Peer):
        return seen
    return Peer(client[0], client[1]) if client else Peer()


def route_of(scope: Scope) -> str | None:
    """The template of the route that the app chose, where it tells as Starlette does: in the scope.

    The prefix of a mount belongs to it, unless a parameter of the path stands in there: a template never has
    what a caller wrote.
    """
    route = getattr(scope.get("route"), "path", None)
    if not isinstance(route, str):
        return None
    prefix = scope.get("root_path", "").rstrip("/")
    parameters = scope.get("path_params") or {}
    return route if any(f"/{value}/" in f"{prefix}/" for value in parameters.values()) else prefix + route


def show(
    scope: Scope,
    identity: Identity | None,
    claims: TokenClaims | None,
    unaccepted: Unaccepted | None = None,
) -> None:
    """Let the app see who is calling and with what token, and nothing that was not accepted.

    `unaccepted` is what the settings let it see all the same, apart from any identity.
    """
    scope[IDENTITY_KEY] = identity
    scope[TOKEN_CLAIMS_KEY] = claims
    scope[UNACCEPTED_KEY] = unaccepted
    presented = scope.get(PRESENTED_KEY)
    scope[PRESENTED_KEY] = None
    extensions = scope.get("extensions") or {}
    if identity is None and "tls" not in extensions:
        return
    theirs = extensions.get("tls")
    tls = {
        "server_cert": None,
        "tls_version": None,
        "cipher_suite": None,
        # What a server says of the client's certificate, it may say under names that are still to come.
        **{
            name: value
            for name, value in (theirs.items() if isinstance(theirs, Mapping) else ())
            if not str(name).startswith("client_cert")
        },
        "client_cert_chain": () if identity is None else _pem_chain(identity.der, presented),
        "client_cert_name": identity.subject if identity is not None else None,
        "client_cert_error": None,
    }
    scope["extensions"] = {**extensions, "tls": tls}


@lru_cache(maxsize=1024)
def _pem_chain(leaf: bytes, presented: Presented | None) -> tuple[str, ...]:
    """The leaf, and of what was presented with it each certificate that signed the one before it.

    A caller may send others along, somebody's own among them; they are not accepted for having been sent.
    """
    path = [x509.load_der_x509_certificate(leaf)]
    sent = () if presented is None else presented.chain
    others = [x509.load_der_x509_certificate(der) for der in sent]
    while others:
        issuer = next((other for other in others if _signed(path[-1], other)), None)
        if issuer is None:
            break
        others.remove(issuer)
        path.append(issuer)
    return tuple(certificate.public_bytes(Encoding.PEM).decode("ascii") for certificate in path)


def _signed(certificate: x509.Certificate, issuer: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(issuer)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return certificate != issuer
