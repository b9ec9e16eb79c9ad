"""An identity as the variables in which CGI and WSGI apps look for a certificate, as mod_ssl names them.

They are made from the accepted certificate alone. All text is visible ASCII: a distinguished name is whatever
a certificate's maker has written, and a variable is often printed, logged and split.
"""

from __future__ import annotations

import ssl
from collections.abc import Collection, Iterable, Mapping
from datetime import datetime
from functools import lru_cache
from typing import Final

from secmiddleware.messages import Identity

_NOBODY: Final[Mapping[str, str]] = {"SSL_CLIENT_VERIFY": "NONE"}

# mod_ssl, cheroot and Werkzeug; uWSGI.
_PREFIXES: Final = ("SSL_CLIENT_", "HTTPS_CLIENT_")
# Apache puts it before all names, once for each redirect of its own.
_REDIRECTED: Final = "REDIRECT_"
# uWSGI's two names of the leaf and its subject; the door to all of mod_ssl's variables; others'.
_NAMES: Final = frozenset({"HTTPS_CC", "HTTPS_DN", "mod_ssl.var_lookup", "peercert"})
_BEGINNINGS: Final = (*_PREFIXES, *_NAMES, _REDIRECTED)
# One of these is in each such name, redirected or not.
_SIGNS: Final = ("SSL_CLIENT_", "HTTPS_", "mod_ssl.", "peercert")

# ASN1_TIME_print's, whatever the locale.
_MONTHS: Final = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


def about_client(names: Collection[str]) -> list[str]:
    """Those of the names under which a server says something of the client's certificate."""
    # An environ has sixty names, and mostly none of these: then a look at all of them at once has to do.
    if not any(map("".join(names).__contains__, _SIGNS)):
        return []
    return [name for name in names if name.startswith(_BEGINNINGS) and _is_about_client(name)]


def _is_about_client(name: str) -> bool:
    while name.startswith(_REDIRECTED):
        name = name.removeprefix(_REDIRECTED)
    return name.startswith(_PREFIXES) or name in _NAMES


def variables_of(identity: Identity | None) -> Mapping[str, str]:
    """What apps read: `SSL_CLIENT_VERIFY`, and with an identity the certificate, its names and its dates."""
    return _NOBODY if identity is None else _variables_of(identity)


@lru_cache(maxsize=1024)
def _variables_of(identity: Identity) -> Mapping[str, str]:
    serial = f"{identity.serial:X}"
    return {
        "SSL_CLIENT_VERIFY": "SUCCESS",
        "SSL_CLIENT_CERT": ssl.DER_cert_to_PEM_cert(identity.der),
        "SSL_CLIENT_S_DN": _visible(identity.subject),
        "SSL_CLIENT_I_DN": _visible(identity.issuer),
        "SSL_CLIENT_M_SERIAL": serial.zfill(len(serial) + len(serial) % 2),
        "SSL_CLIENT_V_START": _date(identity.not_before),
        "SSL_CLIENT_V_END": _date(identity.not_after),
        **_numbered("SSL_CLIENT_SAN_DNS", identity.dns),
        **_numbered("SSL_CLIENT_SAN_Email", identity.emails),
    }


def _numbered(name: str, values: Iterable[str]) -> dict[str, str]:
    return {f"{name}_{number}": _visible(value) for number, value in enumerate(values)}


def _visible(text: str) -> str:
    """The text with every other character as the hex of its UTF-8 (RFC 4514 §2.4)."""
    return "".join(
        char if " " <= char <= "~" else "".join(f"\\{byte:02X}" for byte in char.encode("utf-8"))
        for char in text
    )


def _date(moment: datetime) -> str:
    return f"{_MONTHS[moment.month - 1]} {moment.day:2} {moment:%H:%M:%S} {moment.year} GMT"
