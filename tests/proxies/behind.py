"""The app behind a proxy: `secmiddleware run`, as an operator starts it, over TCP and over a unix socket."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from services.running import Server, ask

from proxies.fronts import CALLS_FROM, PROXY_NAME, Pair, accepts_tls

CONFIG = """
[service]
name = "behind"
[mtls]
source = "{source}"
trusted_proxies = [{proxies}]
trust = ["{ca}"]
[[routes]]
path = "/admin/**"
allow = ["spiffe://example.org/ops/*"]
[[routes]]
path = "/maybe/**"
client = "optional"
[[routes]]
path = "/open"
client = "off"
"""


TLS = """
[mtls]
certificate = "{pair.certificate}"
key = "{pair.key}"
"""


class Behind(Server):
    """Serves `app.py` behind a proxy of some kind: one that calls from an address, unless it is told by the
    user at the other end of a unix socket, or by a certificate of its own (`own`: its CA, and what we show).
    """

    name = "behind"

    def __init__(
        self, source: str, interface: str, ca: Path, *, unix: str | None = None, own: Pair | None = None
    ) -> None:
        super().__init__(Path(sys.executable))
        self.folder.chmod(0o755)
        self.interface = interface
        self.uds = None if unix is None else Path(tempfile.mkdtemp(prefix="secmw-uds-")) / "app"
        if self.uds is not None:
            self.uds.parent.chmod(0o755)
        self.own = own
        proxies = f'"{CALLS_FROM}"' if unix is None else f'"unix:{unix}"'
        config = CONFIG
        if own is not None:
            proxies = f'{{ allow = ["dns:{PROXY_NAME}"], trust = ["{own.ca}"] }}'
            config = config.replace("\n[mtls]\n", TLS.format(pair=own))
        self.config = self.folder / "secmiddleware.toml"
        self.config.write_text(config.format(source=source, proxies=proxies, ca=ca))

    def command(self) -> Sequence[str]:
        where = ["--port", str(self.port)] if self.uds is None else ["--uds", str(self.uds)]
        target = f"app:{self.interface}"
        serving = ["run", target, "--config", str(self.config), "--app-dir", str(Path(__file__).parent)]
        return [str(self.binary), "-m", "secmiddleware", *serving, "--interface", self.interface, *where]

    def answers(self) -> bool:
        if self.uds is not None:
            return self.uds.exists()
        if self.own is not None:
            return accepts_tls(self.port)
        return ask(self.port, b"GET /open HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n", 12).endswith(
            b" 200"
        )
