"""The headers that speak of a client certificate: no app ever sees one, whoever sent it.

An app that reads `X-SSL-Client-Verify` believes whoever wrote it. So all that any known proxy calls its own
goes from every request, from trusted and from untrusted peers, in both spellings (`X_SSL_Client_Verify`
becomes the same WSGI key). What the app may know stands in the `Identity`.
"""

from __future__ import annotations

from typing import Final

from secmiddleware.messages import Headers

CERTIFICATE_HEADERS: Final = (
    b"cf-cert-",  # Cloudflare
    b"cf-client-cert-",
    b"client-cert",  # RFC 9440
    b"client-verify",
    b"cloudfront-viewer-cert-",
    b"ssl-cert",  # ingress-nginx and others
    b"ssl-client",
    b"tls-client",
    b"x-amzn-mtls-",
    b"x-arr-clientcert",
    b"x-client-cert",  # Caddy's and Google's users
    b"x-client-dn",
    b"x-client-fingerprint",
    b"x-client-issuer",
    b"x-client-s-dn",
    b"x-client-san",
    b"x-client-serial",
    b"x-client-subject",
    b"x-client-verif",
    b"x-clientcert",
    b"x-forwarded-client-cert",  # Envoy
    b"x-forwarded-ssl-client",
    b"x-forwarded-tls-client",  # Traefik
    b"x-mtls-",
    b"x-ssl-cert",
    b"x-ssl-client",  # nginx, HAProxy, Apache
    b"x-ssl-issuer",
    b"x-ssl-subject",
    b"x-ssl-verif",
    b"x-tls-cert",
    b"x-tls-client",
)
"""How the names begin; `x-ssl-…client…` is one wherever the word stands. Lower case, with hyphens."""

# What nearly every request has: known to be none, so that a look at the whole name will do.
_USUAL: Final = frozenset(
    {
        *(b"host", b"user-agent", b"accept", b"accept-encoding", b"accept-language", b"connection"),
        *(b"authorization", b"cookie", b"origin", b"referer", b"content-type", b"content-length"),
        *(b"cache-control", b"traceparent", b"tracestate", b"x-request-id"),
        *(b"x-forwarded-for", b"x-forwarded-proto", b"x-forwarded-host", b"x-real-ip"),
    }
)

_TOLD_BY: Final = 4  # bytes that tell most other headers apart, so that those cost one look-up


def _by_beginning() -> dict[bytes, tuple[int, frozenset[bytes]]]:
    """By the first four bytes of a name, in both spellings: how many more tell, and what they may be."""
    by: dict[bytes, tuple[int, frozenset[bytes]]] = {}
    for head in {name[:_TOLD_BY] for name in CERTIFICATE_HEADERS}:
        names = [name for name in CERTIFICATE_HEADERS if name.startswith(head)]
        size = min(map(len, names))
        for spelling in {head, head.replace(b"-", b"_")}:
            by[spelling] = size, frozenset(name[:size] for name in names)
    return by


_BY_BEGINNING: Final = _by_beginning()


def is_certificate_header(name: bytes) -> bool:
    """Whether a header (its name in lower case) speaks of a client certificate, in either spelling."""
    beginnings = _BY_BEGINNING.get(name[:_TOLD_BY])
    if beginnings is None:
        return False
    name = name.replace(b"_", b"-")
    size, may_be = beginnings
    if name[:size] in may_be and name.startswith(CERTIFICATE_HEADERS):
        return True
    return name[:6] == b"x-ssl-" and b"client" in name


def strip(headers: Headers, also: frozenset[bytes] = frozenset()) -> Headers:
    """The headers less those that speak of a client certificate, and less those named.

    Args:
        headers: names in lower case. The same object is returned where nothing goes.
        also: more names, in lower case and with hyphens, as a preset's `names`; both spellings go.
    """
    if not also:
        for name, _ in headers:
            if name not in _USUAL and name[:_TOLD_BY] in _BY_BEGINNING and is_certificate_header(name):
                break
        else:
            return headers
    kept = [pair for pair in headers if not is_certificate_header(pair[0])]
    if also:
        kept = [pair for pair in kept if pair[0].replace(b"_", b"-") not in also]
    return headers if len(kept) == len(headers) else tuple(kept)
