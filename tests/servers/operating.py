"""An operator who renews the server's certificate and changes whom it trusts, while it serves; callers."""

from __future__ import annotations

import contextlib
import itertools
import os
import ssl
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from secmiddleware.certificates.authority import Authority, Issued
from secmiddleware.certificates.contexts import client_context
from secmiddleware.files import replace_secret, write_secret
from servers.serving import PATIENCE, Connection, until

NAMES: dict[str, Any] = {"dns": ["localhost"], "ips": ["127.0.0.1"]}


class Operator:
    """Everything stands in one folder; the server's pair in `current`, a link to a folder of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._numbers = itertools.count()
        self.own, self.first, self.second = map(Authority.create, ("own", "first", "second"))
        self.own_ca, self.ca = folder / "own.pem", folder / "callers.pem"
        self.own_ca.write_bytes(self.own.certificate_pem)
        self.trust(self.first)
        self.certificate, self.key = folder / "current/server.pem", folder / "current/server.key"
        self.swap(self.issue())
        self.config = folder / "secmiddleware.toml"
        self.config.write_text(
            '[service]\nname = "shop"\n[mtls]\ntrust = ["callers.pem"]\n'
            'certificate = "current/server.pem"\nkey = "current/server.key"\n[rotation]\npoll = "50ms"\n'
        )

    def issue(self, now: datetime | None = None) -> Issued:
        """Another pair for the server."""
        return self.own.issue_server(**NAMES, now=now)

    def trust(self, *authorities: Authority) -> None:
        """From now on, callers of these."""
        self._rename(self.ca, b"".join(one.certificate_pem for one in authorities))

    def swap(self, pair: Issued) -> None:
        """Both files at one stroke, by the link to their folder."""
        folder = self.folder / f"v{next(self._numbers)}"
        folder.mkdir()
        (folder / "server.pem").write_bytes(pair.chain_pem)
        write_secret(folder / "server.key", pair.key_pem)
        link = self.folder / "link"
        link.symlink_to(folder.name)
        link.rename(self.folder / "current")

    def replace(self, pair: Issued) -> None:
        """One after the other, each by a rename."""
        self._rename(self.certificate, pair.chain_pem)
        replace_secret(self.key, pair.key_pem)

    def overwrite(self, pair: Issued) -> None:
        """In place, as one should not."""
        self.certificate.write_bytes(pair.chain_pem)
        self.key.write_bytes(pair.key_pem)

    def _rename(self, path: Path, data: bytes) -> None:
        new = self.folder / "new"
        new.write_bytes(data)
        new.rename(path)

    def caller(self, authority: Authority | None, tls: str = "") -> ssl.SSLContext:
        """The context of a caller whom this authority vouches for; of one without a certificate."""
        files: tuple[Path, ...] = ()
        if authority is not None:
            number = next(self._numbers)
            issued = authority.issue_client(spiffe_id=f"spiffe://example.org/shop/{number}")
            files = (self.folder / f"caller{number}.pem", self.folder / f"caller{number}.key")
            files[0].write_bytes(issued.chain_pem)
            write_secret(files[1], issued.key_pem)
        context = client_context(self.own_ca, *files)
        if tls:
            version = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}[tls]
            context.minimum_version = context.maximum_version = version
        return context


def der_of(pair: Issued) -> bytes:
    """What a client is shown of a pair."""
    return ssl.PEM_cert_to_DER_cert(pair.certificate_pem.decode())


def shown(port: int, context: ssl.SSLContext) -> bytes | None:
    """The certificate that the server shows in a new handshake."""
    with Connection(port, context) as connection:
        return connection.tls.getpeercert(binary_form=True)


def enters(port: int, context: ssl.SSLContext) -> bool:
    """Whether a new connection is made and a request of it answered with 200."""
    with contextlib.suppress(OSError, ConnectionError), Connection(port, context) as connection:
        return connection.ask("/orders").status == 200
    return False


@dataclass
class Crowd:
    """Callers who ask without a pause: some on one connection, some on a new one each time."""

    port: int
    contexts: list[ssl.SSLContext]
    answered: int = 0
    failures: list[Any] = field(default_factory=list)

    @contextlib.contextmanager
    def asking(self) -> Iterator[Crowd]:
        enough = threading.Event()
        threads = [
            threading.Thread(target=self._ask, args=(context, keeps, enough))
            for context in self.contexts
            for keeps in (True, False)
        ]
        for thread in threads:
            thread.start()
        try:
            yield self
        finally:
            enough.set()
            for thread in threads:
                thread.join(PATIENCE)

    def _ask(self, context: ssl.SSLContext, keeps: bool, enough: threading.Event) -> None:
        try:
            while not enough.is_set():
                with Connection(self.port, context) as connection:
                    self._ask_once(connection)
                    while keeps and not enough.is_set():
                        self._ask_once(connection)
        except Exception as error:  # noqa: BLE001  (whatever it is, it is what is looked for)
            self.failures.append(error)

    def _ask_once(self, connection: Connection) -> None:
        response = connection.ask("/orders")
        if response.status != 200:
            self.failures.append(response)
        self.answered += 1

    def go_on(self, number: int = 30) -> None:
        """A good many more requests are answered."""
        goal = self.answered + number
        until(lambda: self.failures or self.answered >= goal, "requests are answered")
        assert self.failures == []


def make_world_readable(path: Path) -> None:
    os.chmod(path, 0o644)  # noqa: PTH101  (the mistake of an operator)
