from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from servers.pki import Pki

from secmiddleware.files import make_private_folder, write_secret
from secmiddleware.messages import Presented
from secmiddleware.security import SecurityManager


@pytest.fixture(scope="session")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Pki:
    return Pki(tmp_path_factory.mktemp("pki"))


@pytest.fixture(scope="session")
def alice(pki: Pki) -> Presented:
    """What a caller of the trusted authority presents."""
    import ssl

    pem = pki.trusted.issue_client(spiffe_id=pki.spiffe("alice")).certificate_pem
    return Presented(ssl.PEM_cert_to_DER_cert(pem.decode("ascii")))


@pytest.fixture(scope="session")
def manager(tmp_path_factory: pytest.TempPathFactory, pki: Pki) -> Iterator[SecurityManager]:
    """Marked: /in on the way in, /out on the way out, /both; of /head a header on the way out."""
    folder: Path = tmp_path_factory.mktemp("wsgi")
    make_private_folder(folder / "state")
    write_secret(folder / "kek", os.urandom(32))
    places = [
        {"routes": ["/in"], "marks": ["$.ssn"], "request": "decrypt"},
        {"routes": ["/out"], "marks": ["$.ssn"], "response": "encrypt"},
        {"routes": ["/both"], "marks": ["$.ssn"], "request": "decrypt", "response": "encrypt"},
        {"routes": ["/head"], "marks": ["header:X-Ssn"], "response": "encrypt"},
    ]
    settings = pki.settings(
        service={"max_body": 100_000},
        keys={"ring": "wsgi", "store": f"file:{folder}/state/ring.json", "kek": f"file:{folder}/kek"},
        fields={"ssn": {"places": places}},
    )
    with SecurityManager.from_config(settings, {}) as made:
        yield made
