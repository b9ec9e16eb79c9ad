"""The headers that real proxies sent: each gives its leaf, or a refusal, or is read by nobody."""

from __future__ import annotations

import hashlib
import json
import ssl
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest

from secmiddleware.identity.certificate_headers import is_certificate_header
from secmiddleware.identity.presets import PRESETS
from secmiddleware.messages import Headers, Presented, Refusal

VECTORS = Path(__file__).parents[1] / "vectors" / "proxy-headers"
INDEX: list[dict[str, Any]] = json.loads((VECTORS / "index.json").read_text())

NGINX, HAPROXY, APACHE, CADDY = "nginx-1.22.1", "haproxy-2.6.12", "apache-2.4.71", "caddy-2.6.2"

# Which preset reads a header, by which role: "certificate" gives its leaf, "folded" is refused as one.
READ: dict[str, dict[str, tuple[str, str]]] = {
    NGINX: {
        "x-ssl-client-verify": ("nginx", "verify"),
        "x-ssl-client-cert": ("nginx", "certificate"),
        "x-ssl-client-cert-deprecated": ("nginx", "folded"),
    },
    NGINX + "-optional_no_ca": {
        "x-ssl-client-verify": ("nginx", "verify"),
        "x-ssl-client-cert": ("nginx", "certificate"),
    },
    HAPROXY: {
        "x-ssl-client-verify": ("haproxy", "verify"),
        "x-ssl-client-used": ("haproxy", "used"),
        "x-ssl-client-cert": ("haproxy", "certificate"),
        "x-ssl-client-chain-der": ("haproxy", "chain"),
        "client-cert": ("rfc9440", "certificate"),
    },
    APACHE: {
        "x-ssl-client-verify": ("apache", "verify"),
        "x-ssl-client-cert": ("apache", "certificate"),
        "x-ssl-client-b64": ("apache", "certificate"),
        "x-ssl-client-escape": ("apache", "certificate"),
        "x-ssl-client-cert-chain-0": ("apache", "chain-0"),
    },
    CADDY: {
        "x-client-cert-der-base64": ("caddy", "certificate"),
        "client-cert": ("rfc9440", "certificate"),
    },
    "rfc9440": {"client-cert": ("rfc9440", "certificate")},
    "aws-alb-verify": {"x-amzn-mtls-clientcert-leaf": ("aws-alb", "certificate")},
    "aws-alb-passthrough": {"x-amzn-mtls-clientcert": ("aws-alb-passthrough", "certificate")},
    "traefik-v3": {"x-forwarded-tls-client-cert": ("traefik", "certificate")},
    "envoy-xfcc": {"x-forwarded-client-cert": ("envoy", "certificate")},
    "azure-app-service": {"x-arr-clientcert": ("azure-app-service", "certificate")},
    "cloudflare": {"cf-client-cert-der-base64": ("cloudflare", "certificate")},
    "gcp-lb": {"x-client-cert-leaf": ("gcp-lb", "certificate")},
}

# What no preset reads, since it is text about a certificate or about the connection.
TEXT = {
    NGINX: "s-dn s-dn-legacy i-dn serial fingerprint v-end",
    HAPROXY: "dn dn-2253 cn notafter sha1 serial",
    APACHE: "s-dn m-serial san-email-0",
}
CADDY_TEXT = ("fingerprint", "issuer", "san-dns", "san-uris", "serial", "subject")
UNREAD = {
    *((server, f"x-ssl-client-{word}") for server, words in TEXT.items() for word in words.split()),
    *((NGINX, f"x-ssl-{word}") for word in ("protocol", "cipher")),
    *((HAPROXY, name) for name in ("x-ssl", "x-ssl-issuer")),
    *((CADDY, f"x-client-{word}") for word in CADDY_TEXT),
    *(
        ("aws-alb-verify", f"x-amzn-mtls-clientcert-{word}")
        for word in ("serial-number", "subject", "validity")
    ),
}

# What the synthetic entries lack: those proxies send their verdict beside.
VERDICTS: dict[str, Headers] = {
    "gcp-lb": ((b"x-client-cert-present", b"true"), (b"x-client-cert-chain-verified", b"true")),
    "cloudflare": (
        (b"cf-cert-presented", b"true"),
        (b"cf-cert-verified", b"true"),
        (b"cf-cert-revoked", b"false"),
    ),
}


def _requests() -> dict[tuple[str, str | None], dict[str, bytes]]:
    requests: dict[tuple[str, str | None], dict[str, bytes]] = defaultdict(dict)
    for entry in INDEX:
        requests[entry["server"], entry["cert"]][entry["header"].lower()] = entry["value"].encode("latin-1")
    return requests


REQUESTS = _requests()


def _leaf(cert: str) -> bytes:
    return ssl.PEM_cert_to_DER_cert((VECTORS / "certs" / f"{cert}.pem").read_text())


def _entry_id(entry: dict[str, Any]) -> str:
    return f"{entry['server']}-{entry['cert']}-{entry['header']}"


@pytest.mark.parametrize("entry", INDEX, ids=_entry_id)
def test_every_header_of_a_real_proxy_comes_out_as_it_should(entry: dict[str, Any]) -> None:
    server, cert, header = entry["server"], entry["cert"], entry["header"].lower()
    if (server, header) in UNREAD:
        assert header not in READ[server]
        return
    name, role = READ[server][header]
    preset = PRESETS[name]
    if role == "certificate":  # the header may have another name than usual
        preset = preset.named({"certificate": header})
    elif role == "folded":
        preset, cert = preset.named({"certificate": header}), "folded"
    request = REQUESTS[server, entry["cert"]]
    headers = tuple((key.encode(), value) for key, value in request.items()) + VERDICTS.get(name, ())
    outcome = preset.read(headers)
    match name, cert:
        case _, "folded":
            assert outcome == Refusal("header_ambiguous", "mtls.proxy_headers.certificate")
        case "haproxy", "expired":
            assert outcome == Refusal("certificate_expired", "mtls.proxy_headers.certificate")
        case ("caddy", None) | ("rfc9440", None):  # the placeholder that was not filled
            assert outcome == Refusal("header_ambiguous", "mtls.proxy_headers.certificate")
        case _, None:
            assert outcome is None
        case _:
            assert isinstance(outcome, Presented)
            assert hashlib.sha256(outcome.leaf).hexdigest() == entry["leaf_sha256"]
            assert outcome.leaf == _leaf(cert)
            assert outcome.source == name


@pytest.mark.parametrize(
    ("server", "cert", "name"),
    [
        (HAPROXY, "ecdsa", "haproxy"),
        (HAPROXY, "spiffe", "haproxy"),
        (APACHE, "spiffe", "apache"),
        ("aws-alb-passthrough", "ecdsa", "aws-alb-passthrough"),
        ("aws-alb-passthrough", "spiffe", "aws-alb-passthrough"),
        ("traefik-v3", "spiffe", "traefik"),
        ("envoy-xfcc", "ecdsa", "envoy"),
        ("envoy-xfcc", "spiffe", "envoy"),
    ],
)
def test_the_intermediate_comes_with_the_leaf_and_apart_from_it(server: str, cert: str, name: str) -> None:
    headers = tuple((key.encode(), value) for key, value in REQUESTS[server, cert].items())
    outcome = PRESETS[name].read(headers)
    assert isinstance(outcome, Presented)
    assert outcome.chain == (_leaf("inter"),)


@pytest.mark.parametrize("name", ["gcp-lb", "cloudflare"])
def test_a_certificate_without_the_verdict_of_its_proxy_is_denied(name: str) -> None:
    headers = tuple((key.encode(), value) for key, value in REQUESTS[name, "rsa"].items())
    assert PRESETS[name].read(headers) == Refusal("proxy_untrusted", "mtls.proxy_headers.certificate")


def test_all_that_real_proxies_say_of_a_certificate_is_kept_from_the_app() -> None:
    names = {entry["header"].lower() for entry in INDEX}
    shown = {name for name in names if not is_certificate_header(name.encode())}
    assert shown == {"x-ssl", "x-ssl-protocol", "x-ssl-cipher"}


def test_the_table_names_every_header_of_the_index_once() -> None:
    named = {(server, header) for server, headers in READ.items() for header in headers}
    assert not named & UNREAD
    assert named | UNREAD == {(entry["server"], entry["header"].lower()) for entry in INDEX}
