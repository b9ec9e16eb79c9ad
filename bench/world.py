"""What makes the rows real: a CA and a client certificate, a key ring in a file, settings."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from secmiddleware.certificates.authority import Authority
from secmiddleware.files import make_private_folder, write_secret
from secmiddleware.messages import Presented

CALLER = "spiffe://example.org/clients/bench"


@dataclass(frozen=True, slots=True)
class World:
    """Settings, as a mapping, and who calls."""

    config: Mapping[str, Any]
    presented: Presented


def make_world(folder: Path) -> World:
    """A new world in an empty folder."""
    authority = Authority.create("bench CA")
    (folder / "ca.pem").write_bytes(authority.certificate_pem)
    issued = authority.issue_client(spiffe_id=CALLER)
    leaf, *rest = (
        certificate.public_bytes(Encoding.DER)
        for certificate in x509.load_pem_x509_certificates(issued.chain_pem)
    )
    make_private_folder(folder / "state")
    write_secret(folder / "state" / "kek", secrets.token_bytes(32))
    config = {
        "service": {"name": "bench"},
        "mtls": {"trust": [str(folder / "ca.pem")]},
        "routes": [{"path": "/healthz", "client": "off"}],
        "keys": {
            "ring": "bench",
            "store": f"file:{folder / 'state' / 'keyring.json'}",
            "kek": f"file:{folder / 'state' / 'kek'}",
        },
        "fields": {
            "ssn": {
                "places": [
                    {"routes": ["/echo"], "marks": ["$.ssn"], "request": "decrypt", "response": "encrypt"}
                ]
            }
        },
    }
    return World(config, Presented(leaf, tuple(rest)))
