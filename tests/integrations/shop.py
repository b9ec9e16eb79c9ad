"""What every app of these tests is configured with: one authority, callers, a ring, one marked field."""

from __future__ import annotations

import os
import ssl
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

from secmiddleware.certificates.authority import Authority
from secmiddleware.encryption.keyring import Context
from secmiddleware.files import make_private_folder, write_secret
from secmiddleware.messages import Presented
from secmiddleware.security import SecurityManager

SECRET = "123-45-6789"


class Shop:
    """`settings` is a mapping; `manager` is one that is made of it, and may be given in its place."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._authority = Authority.create("shop")
        ca = folder / "ca.pem"
        ca.write_bytes(self._authority.certificate_pem)
        make_private_folder(folder / "state")
        write_secret(folder / "state" / "kek", os.urandom(32))
        self.settings: dict[str, Any] = {
            "service": {"name": "shop", "max_body": "64KiB"},
            "mtls": {"trust": [str(ca)]},
            "routes": [{"path": "/open/**", "client": "off"}, {"path": "/admin/**", "client": "required"}],
            "keys": {
                "ring": "shop",
                "store": f"file:{folder}/state/ring.json",
                "kek": f"file:{folder}/state/kek",
            },
            "fields": {
                "ssn": {
                    "places": [
                        {
                            "routes": ["/customers", "/customers/*"],
                            "marks": ["$.ssn", "$.people[*].ssn"],
                            "request": "decrypt",
                            "response": "encrypt",
                        },
                        {"routes": ["/in"], "marks": ["$.ssn"], "request": "decrypt"},
                        {"routes": ["/found"], "marks": ["query:ssn"], "request": "decrypt"},
                        {"routes": ["/out", "/out/*"], "marks": ["$.ssn"], "response": "encrypt"},
                    ]
                }
            },
        }

    def written(self) -> Path:
        """The file of the same settings, less what the table of fields says."""
        path = self.folder / "secmiddleware.toml"
        mtls = self.settings["mtls"]
        path.write_text(f'[service]\nname = "shop"\n[mtls]\ntrust = ["{mtls["trust"][0]}"]\n', "utf-8")
        return path

    def caller(self, name: str) -> Presented:
        """What `spiffe://example.org/NAME` presents."""
        issued = self._authority.issue_client(spiffe_id=f"spiffe://example.org/{name}")
        return Presented(ssl.PEM_cert_to_DER_cert(issued.certificate_pem.decode("ascii")))

    @cached_property
    def alice(self) -> Presented:
        return self.caller("alice")

    @cached_property
    def manager(self) -> SecurityManager:
        manager = SecurityManager.from_config(self.settings, {})
        manager.start()
        return manager

    def seal(self, value: str) -> str:
        """A token of a JSON value."""
        assert self.manager.encryption is not None
        token = self.manager.encryption.keyring.seal(value.encode(), Context("ssn"), datetime.now(UTC))
        return token.decode("ascii")

    def open(self, token: str) -> str:
        """The JSON value that a token seals."""
        assert self.manager.encryption is not None
        return self.manager.encryption.keyring.open(
            token.encode("ascii"), Context("ssn"), datetime.now(UTC)
        ).decode()

    def close(self) -> None:
        self.manager.stop()
