"""What each proxy says of a certificate, beside handing it over: its word, matched to the letter.

A word that is missing denies: a client can have some proxies drop it (`Connection: X-SSL-Client-Verify`).
What comes of a good word is only that the certificate is decoded, and judged here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

Found = Mapping[str, bytes]
"""The values that a request has, by role; those of a numbered role by role and number: `chain-0`."""

Verdict = Callable[[Found], bool | str]
"""Whether the proxy says that there was a good certificate (True) or none (False); else a refusal's code."""


def presence(found: Found) -> bool | str:
    """The header is there or it is not; nothing else is said."""
    return "certificate" in found


def openssl_words(found: Found) -> bool | str:
    """What nginx and Apache say alike: SUCCESS, NONE, else GENEROUS or FAILED with a reason."""
    match found.get("verify"):
        case None:
            return "proxy_untrusted"
        case b"SUCCESS":
            return True
        case b"NONE":
            return False
        case _:
            return "certificate_untrusted"


def openssl_numbers(found: Found) -> bool | str:
    """HAProxy's `ssl_c_verify`, which is 0 without a certificate too, and `ssl_c_used`, which tells."""
    match found.get("used"), found.get("verify"):
        case (None, _) | (_, None):
            return "proxy_untrusted"
        case b"1", b"0":
            return True
        case b"0", b"0":
            return False
        case b"0", _:  # something is wrong with a certificate that was not there
            return "header_ambiguous"
        case b"1", b"10":  # X509_V_ERR_CERT_HAS_EXPIRED
            return "certificate_expired"
        case _:
            return "certificate_untrusted"


def google_words(found: Found) -> bool | str:
    """`client_cert_present` and `client_cert_chain_verified`, each true or false."""
    match found.get("present"), found.get("verified"):
        case (None, _) | (_, None):
            return "proxy_untrusted"
        case b"true", b"true":
            return True
        case b"false", b"false":
            return False
        case b"false", b"true":
            return "header_ambiguous"
        case _:
            return "certificate_untrusted"


def cloudflare_words(found: Found) -> bool | str:
    """`cert_verified` is true of a revoked certificate too, so that it is not enough."""
    match found.get("presented"), found.get("verified"), found.get("revoked"):
        case (None, _, _) | (_, None, _) | (_, _, None):
            return "proxy_untrusted"
        case b"true", b"true", b"false":
            return True
        case b"false", b"false", b"false":
            return False
        case b"false", b"true" | b"false", b"true" | b"false":
            return "header_ambiguous"
        case b"true", _, b"true":
            return "certificate_revoked"
        case _:
            return "certificate_untrusted"
