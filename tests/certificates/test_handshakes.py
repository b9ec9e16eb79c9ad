"""The terms of handshakes: contexts are made of bytes, wherever a system lets keys be read from."""

from __future__ import annotations

import os
import ssl
import tempfile
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from secmiddleware.certificates.authority import Authority, Issued
from secmiddleware.certificates.handshakes import HTTP_1, Terms


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority.create("ca")


def terms_of(issued: Issued) -> Terms:
    return Terms(issued.chain_pem, issued.key_pem, (), (), "off", HTTP_1)


def shown_by(context: ssl.SSLContext, ca_pem: bytes) -> bytes | None:
    """What a client is shown, in memory."""
    client = ssl.create_default_context(cadata=ca_pem.decode())
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = [
        context.wrap_bio(to_server, to_client, server_side=True),
        client.wrap_bio(to_client, to_server, server_hostname="localhost"),
    ]
    open_ends = list(ends)
    for _ in range(10):
        for end in tuple(open_ends):
            try:
                end.do_handshake()
                open_ends.remove(end)
            except ssl.SSLWantReadError:
                pass
    assert not open_ends
    return ends[1].getpeercert(binary_form=True)


@pytest.mark.parametrize("in_memory", [True, False])
def test_a_context_is_made_of_bytes_and_leaves_no_key_behind(
    authority: Authority, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, in_memory: bool
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    if not in_memory:
        monkeypatch.delattr(os, "memfd_create")
    issued = authority.issue_server(dns=["localhost"])
    before = set(Path("/dev/fd").iterdir())
    context = terms_of(issued).context()
    assert set(Path("/dev/fd").iterdir()) == before
    assert list(tmp_path.iterdir()) == []
    expected = ssl.PEM_cert_to_DER_cert(issued.certificate_pem.decode())
    assert shown_by(context, authority.certificate_pem) == expected


def test_a_folder_for_a_key_is_nobody_elses_and_is_gone_where_the_key_is_none(
    authority: Authority, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.delattr(os, "memfd_create")
    issued = authority.issue_server(dns=["localhost"])
    seen: list[tuple[int, int]] = []

    class Looking(ssl.SSLContext):
        def load_cert_chain(self, certfile: str, keyfile: str, password: object = None) -> None:
            paths = Path(keyfile), Path(keyfile).parent
            seen.append(tuple(path.stat().st_mode & 0o777 for path in paths))
            super().load_cert_chain(certfile, keyfile, password)

    terms_of(issued).configure(Looking(ssl.PROTOCOL_TLS_SERVER))
    assert seen == [(0o600, 0o700)]
    with pytest.raises(OSError, match="PEM"):
        Terms(issued.chain_pem, b"no key", (), (), "off", HTTP_1).context()
    assert list(tmp_path.iterdir()) == []


def test_a_certificate_that_clients_would_not_take_has_a_fault(authority: Authority) -> None:
    now = datetime.now(UTC)
    good = terms_of(authority.issue_server(dns=["localhost"]))
    assert good.fault(now) is None
    assert "not after" in str(good.fault(now + timedelta(days=4000)))
    assert "not before" in str(good.fault(now - timedelta(days=1)))
    assert terms_of(authority.issue_client(dns=["localhost"])).fault(now) == "it is not for servers"
    assert terms_of(Issued(b"junk", b"", b"")).fault(now) == "it cannot be read"


def test_terms_show_no_key(authority: Authority) -> None:
    assert "PRIVATE" not in repr(terms_of(authority.issue_server(dns=["localhost"])))
