"""Where a certificate is presented: what a server put into the scope becomes a `Presented`, or None.

Nothing is judged here. The source `server` has one way in: the hook of `secmiddleware.servers`, the ASGI TLS
extension where a server fills it by itself, or the TLS connection where it hands over that. There is no way
from here to a header.
"""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from typing import Any

from secmiddleware.messages import PRESENTED_KEY, Presented


def presented_in(scope: Mapping[str, Any]) -> Presented | None:
    """The certificate that came with the connection of an ASGI scope, or None where there was none.

    A hook's word stands, None included: the extension is read only where no hook spoke.
    """
    if PRESENTED_KEY in scope:
        presented = scope[PRESENTED_KEY]
        return presented if isinstance(presented, Presented) else None
    extensions = scope.get("extensions")
    tls = extensions.get("tls") if isinstance(extensions, Mapping) else None
    return _from_extension(tls) if isinstance(tls, Mapping) else None


def hands_over(scope: Mapping[str, Any]) -> bool:
    """Whether the server says anything at all about client certificates."""
    return PRESENTED_KEY in scope or "tls" in (scope.get("extensions") or {})


def presented_on(connection: ssl.SSLObject | ssl.SSLSocket) -> Presented | None:
    """What the client of a TLS connection presented, or None where it presented nothing.

    The chain is as sent, leaf first and then apart. Before Python 3.13 it has no public name; a resumed
    session has no chain at all (our contexts allow none).
    """
    if isinstance(connection, ssl.SSLSocket) and connection.fileno() == -1:
        return None  # closed: there is nobody at the other end any more
    leaf = connection.getpeercert(binary_form=True)
    if not leaf:
        return None
    return Presented(leaf, tuple(der for der in _chain_of(connection) if der != leaf))


def _chain_of(connection: Any) -> list[bytes]:
    if hasattr(connection, "get_unverified_chain"):  # 3.13
        return list(connection.get_unverified_chain() or ())
    import _ssl  # the encoding constant has no public name where the chain has none

    chain = connection._sslobj.get_unverified_chain() or ()  # noqa: SLF001  (the only way there)
    return [certificate.public_bytes(_ssl.ENCODING_DER) for certificate in chain]


def _from_extension(tls: Mapping[str, Any]) -> Presented | None:
    """Out of the ASGI TLS extension, whose shape still moves: list or tuple, missing keys, an empty chain."""
    chain = tls.get("client_cert_chain")
    if not isinstance(chain, list | tuple) or not chain:
        return None
    leaf, *rest = (_der(certificate) for certificate in chain)
    return Presented(leaf, tuple(rest))


def _der(certificate: object) -> bytes:
    """DER out of PEM text; DER bytes stay. What is neither becomes empty, which no judge takes for one."""
    if isinstance(certificate, bytes):
        return certificate
    try:
        return ssl.PEM_cert_to_DER_cert(certificate) if isinstance(certificate, str) else b""
    except ValueError:
        return b""
