"""A folder as an operator has it: a CA, the server's pair, a key-encryption key, and a settings file."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from secmiddleware.certificates.authority import Authority
from secmiddleware.errors import ConfigError, Finding
from secmiddleware.settings import Settings, load


@dataclass(frozen=True)
class Place:
    """Where the settings lie, and everything that they may name."""

    folder: Path

    @property
    def file(self) -> Path:
        return self.folder / "secmiddleware.toml"

    def write(self, text: str | bytes) -> Path:
        self.file.write_bytes(text.encode() if isinstance(text, str) else text)
        return self.file

    def load(self, text: str | bytes, environ: Mapping[str, str] | None = None) -> Settings:
        return load(self.write(text), environ or {})

    def findings(self, text: str | bytes, environ: Mapping[str, str] | None = None) -> tuple[Finding, ...]:
        """What is wrong with a text; nothing where it loads."""
        try:
            self.load(text, environ)
        except ConfigError as error:
            return error.findings
        return ()

    def secret(self, name: str, data: bytes) -> Path:
        path = self.folder / name
        path.write_bytes(data)
        path.chmod(0o600)
        return path


@pytest.fixture(scope="session")
def _made(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("operator")
    place = Place(folder)
    (folder / "pki").mkdir()
    (folder / "state").mkdir(mode=0o700)
    ca = Authority.create("ca")
    (folder / "pki/ca.pem").write_bytes(ca.certificate_pem)
    (folder / "pki/partner.pem").write_bytes(Authority.create("partner").certificate_pem)
    for name in ("server", "other"):
        pair = ca.issue_server(dns=["localhost"])
        (folder / f"pki/{name}.pem").write_bytes(pair.chain_pem)
        place.secret(f"pki/{name}.key", pair.key_pem)
    place.secret("state/kek", os.urandom(31) + b"\0")
    return folder


@pytest.fixture
def place(_made, tmp_path) -> Place:
    """A fresh folder for each test."""
    shutil.copytree(_made, tmp_path, dirs_exist_ok=True)
    return Place(tmp_path)
