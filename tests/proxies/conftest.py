from __future__ import annotations

import ssl
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from typing import Literal

import pytest
from servers.pki import Pki
from services.binaries import MissingError, binary_of
from services.provided import speaker

from proxies.behind import Behind
from proxies.fronts import PROXY_NAME, Apache, CarelessHaproxy, Front, Haproxy, Nginx, Pair, user_of_proxies
from secmiddleware.certificates.authority import Authority
from secmiddleware.certificates.contexts import client_context

FRONTS: dict[str, type[Front]] = {
    "nginx": Nginx,
    "haproxy": Haproxy,
    "careless haproxy": CarelessHaproxy,
    "apache": Apache,
}


class Street:
    """The proxies and the apps behind them; each is started when it is first asked for."""

    def __init__(self, pki: Pki, config: pytest.Config) -> None:
        self.pki = pki
        self._config = config
        self._stack = ExitStack()
        self._expired: ssl.SSLContext | None = None
        self._apps: dict[tuple[str, str, str], Behind] = {}
        self._fronts: dict[tuple[str, str], Front] = {}
        self.proxies = Authority.create("proxies")
        ca = pki.folder / "proxies.pem"
        ca.write_bytes(self.proxies.certificate_pem)
        edge = pki.written("edge", self.proxies.issue_client(dns=[PROXY_NAME]))
        self.edge = Pair(*edge, ca)
        self.inner = Pair(pki.certificate, pki.key, ca)

    def app(self, source: str, interface: str, by: Literal["address", "unix", "own"] = "address") -> Behind:
        key = source, interface, by
        if key not in self._apps:
            unix = user_of_proxies() if by == "unix" else None
            own = self.inner if by == "own" else None
            app = Behind(source, interface, self.pki.ca, unix=unix, own=own)
            self._stack.callback(app.end)
            self._apps[key] = app.start()
        return self._apps[key]

    def front(self, name: str, interface: str) -> Front:
        key = name, interface
        if key not in self._fronts:
            kind = FRONTS[name]
            try:
                binary = binary_of(kind.service, speaker(self._config))
            except MissingError as missing:
                pytest.fail(str(missing), pytrace=False)
            app = self.app(name.rpartition(" ")[2], interface)
            front = kind(binary, Pair(self.pki.certificate, self.pki.key, self.pki.ca), app.port)
            if isinstance(front, Nginx):
                front.uds, front.own = self.app(name, interface, "unix").uds, self.edge
                front.tls_port = self.app(name, interface, "own").port
            self._stack.callback(front.end)
            self._fronts[key] = front.start()
        return self._fronts[key]

    def expired(self) -> ssl.SSLContext:
        """The context of a client whose certificate has ended."""
        if self._expired is None:
            a_while_ago = datetime.now(UTC) - timedelta(days=2)
            issued = self.pki.trusted.issue_client(
                spiffe_id=self.pki.spiffe("shop/alice"), lifetime=timedelta(days=1), now=a_while_ago
            )
            self._expired = client_context(self.pki.ca, *self.pki.written("expired", issued))
        return self._expired

    def close(self) -> None:
        self._stack.close()


@pytest.fixture(scope="session")
def street(tmp_path_factory: pytest.TempPathFactory, pytestconfig: pytest.Config) -> Iterator[Street]:
    street = Street(Pki(tmp_path_factory.mktemp("street")), pytestconfig)
    yield street
    street.close()
