from __future__ import annotations

import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from secmiddleware.certificates.authority import Authority
from secmiddleware.encryption.keyring import Context
from secmiddleware.files import write_secret
from secmiddleware.messages import Presented
from secmiddleware.security import SecurityManager
from telemetry.seeing import Sdk
from telemetry.shells import SHELLS, Shell

CALLER = "spiffe://example.org/clients/ada"


@dataclass(frozen=True)
class Shop:
    """A service with a marked field and a caller whom it knows."""

    authority: Authority
    config: dict[str, Any]
    manager: SecurityManager
    caller: Presented

    def token(self, value: bytes) -> str:
        keyring = self.manager.snapshot.keyring
        assert keyring is not None
        return keyring.seal(value, Context("ssn"), datetime.now(UTC)).decode()

    def certificate(self, **names: Any) -> Presented:
        return presented(self.authority, **names)


def presented(authority: Authority, **names: Any) -> Presented:
    issued = authority.issue_client(**names)
    leaf, *rest = x509.load_pem_x509_certificates(issued.chain_pem)
    return Presented(
        leaf.public_bytes(Encoding.DER), tuple(other.public_bytes(Encoding.DER) for other in rest)
    )


@pytest.fixture(scope="session")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    folder = tmp_path_factory.mktemp("shop")
    authority = Authority.create("test CA")
    (folder / "ca.pem").write_bytes(authority.certificate_pem)
    write_secret(folder / "kek", secrets.token_bytes(32))
    config = settings(folder)
    with SecurityManager.from_config(config, {}) as manager:
        yield Shop(authority, config, manager, presented(authority, spiffe_id=CALLER))


def settings(folder: Path) -> dict[str, Any]:
    return {
        "service": {"name": "shop", "max_body": 4096},
        "mtls": {"trust": [str(folder / "ca.pem")]},
        "routes": [
            {"path": "/open/**", "client": "off"},
            {"path": "/ops/**", "allow": ["spiffe://example.org/ops"]},
        ],
        "keys": {"ring": "shop", "store": "memory:", "kek": f"file:{folder / 'kek'}"},
        "fields": {
            "ssn": {
                "places": [
                    {
                        "routes": ["/customers", "/customers/*"],
                        "marks": ["$.ssn", "$.again"],
                        "request": "decrypt",
                        "response": "encrypt",
                    }
                ]
            }
        },
    }


@pytest.fixture
def sdk() -> Sdk:
    return Sdk()


@pytest.fixture(params=SHELLS)
def shell(request: pytest.FixtureRequest) -> Shell:
    return SHELLS[request.param]
