"""Who vouches for proxies, and which of them is revoked, changes while requests come in."""

from __future__ import annotations

import logging
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from certificates.shapes import Made, presented, revocation_list, san, strict_ca, strict_leaf
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from identity.proxies import PROXIES
from servers.serving import until

from secmiddleware.errors import ConfigError
from secmiddleware.messages import Peer, Refusal, RequestHead
from secmiddleware.security import SecurityManager

NOW = datetime.now(UTC).replace(microsecond=0)
DATES = {"begin": NOW - timedelta(days=2), "end": NOW + timedelta(days=20)}
CALLERS, CA, NEXT = (strict_ca(name, **DATES) for name in ("callers", "proxies", "next proxies"))
CALLER = strict_leaf(CALLERS, **DATES)
EDGE = san(x509.DNSName("edge.internal"))


def proxy_of(ca: Made) -> Made:
    return strict_leaf(ca, names=EDGE, **DATES)


FIRST, SECOND, OF_NEXT = proxy_of(CA), proxy_of(CA), proxy_of(NEXT)


def list_of(ca: Made, *revoked: Made, end: datetime = NOW + timedelta(days=1)) -> bytes:
    crl = revocation_list(ca, *revoked, begin=NOW - timedelta(hours=2), end=end)
    return crl.public_bytes(Encoding.PEM)


class Behind:
    """A service behind proxies that show a certificate of their own."""

    def __init__(self, folder: Path, lists: bytes | None = None, **mtls: object) -> None:
        self.folder = folder
        self.put("callers", CALLERS.pem)
        self.put("proxies", CA.pem)
        self.put("server", proxy_of(CA).pem)
        server = proxy_of(CA)
        self.put("server", server.pem)
        self.put("key", server.key_pem)
        (folder / "key").chmod(0o600)
        table: dict[str, object] = {"allow": ["dns:edge.internal"], "trust": [str(folder / "proxies")]}
        if lists is not None:
            self.put("lists", lists)
            table["crl"] = [str(folder / "lists")]
        self.settings = {
            "service": {"name": "behind"},
            "mtls": {
                "source": "nginx",
                "trust": [str(folder / "callers")],
                "certificate": str(folder / "server"),
                "key": str(folder / "key"),
                "trusted_proxies": [table],
                **mtls,
            },
            "rotation": {"poll": "20ms"},
        }
        self.manager = SecurityManager.from_config(self.settings, {})

    def put(self, name: str, data: bytes) -> None:
        (self.folder / "new").write_bytes(data)
        (self.folder / "new").rename(self.folder / name)

    def code(self, proxy: Made) -> str | None:
        """What a proxy's word on the caller is answered with."""
        head = RequestHead(
            "http", "GET", "https", "/",
            headers=PROXIES["nginx"](CALLER.der),
            peer=Peer("203.0.113.9", 4711, seen=True),
            presented=presented(proxy),
        )  # fmt: skip
        verdict = self.manager.admit(head)
        return verdict.code if isinstance(verdict, Refusal) else None

    @property
    def trouble(self) -> str | None:
        (door,) = self.manager.status()["proxies"]
        return door["trouble"]


def test_a_ca_of_proxies_that_is_added_or_removed_takes_effect(tmp_path: Path) -> None:
    behind = Behind(tmp_path)
    with behind.manager:
        assert [behind.code(proxy) for proxy in (FIRST, OF_NEXT)] == [None, "proxy_untrusted"]
        behind.put("proxies", CA.pem + NEXT.pem)
        until(lambda: behind.code(OF_NEXT) is None, "the next CA is trusted")
        assert behind.code(FIRST) is None
        behind.put("proxies", NEXT.pem)
        until(lambda: behind.code(FIRST) == "proxy_untrusted", "the first one is not")
        assert behind.code(OF_NEXT) is None


def test_a_proxy_that_is_revoked_says_nothing_any_more(tmp_path: Path) -> None:
    behind = Behind(tmp_path, list_of(CA))
    with behind.manager:
        assert [behind.code(proxy) for proxy in (FIRST, SECOND)] == [None, None]
        behind.put("lists", list_of(CA, FIRST))
        until(lambda: behind.code(FIRST) == "proxy_untrusted", "it is revoked")
        assert behind.code(SECOND) is None


def test_bad_files_change_nothing_and_are_told_until_they_are_mended(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    behind = Behind(tmp_path, list_of(CA, SECOND))
    with behind.manager, caplog.at_level(logging.ERROR, "secmiddleware"):
        for name, good in (("proxies", CA.pem), ("lists", list_of(CA, SECOND))):
            before = behind.manager.snapshot
            for bad in (b"", good[:-40]):
                behind.put(name, bad)
                until(lambda: behind.trouble, "it is told")
                assert [behind.code(proxy) for proxy in (FIRST, SECOND)] == [None, "proxy_untrusted"]
            assert behind.manager.snapshot is before
            behind.put(name, good)
            until(lambda: behind.trouble is None, "it is mended")
    assert "changed certificates of proxies are not used" in caplog.text


@pytest.mark.parametrize(("missing", "code"), [("refuse", "proxy_untrusted"), ("allow", None)])
def test_what_becomes_of_proxies_without_a_current_list_is_as_for_callers(
    tmp_path: Path, missing: str, code: str | None
) -> None:
    overdue = list_of(CA, end=NOW - timedelta(hours=1))
    assert Behind(tmp_path, overdue, missing_crl=missing).code(FIRST) == code


def test_a_list_of_callers_says_nothing_of_proxies_and_is_a_mistake_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"mtls\.trusted_proxies\[0\]\.crl\[0\]"):
        Behind(tmp_path, list_of(CALLERS))
