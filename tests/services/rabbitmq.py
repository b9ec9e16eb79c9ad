"""RabbitMQ for tests: as whoever runs them, root included, and seen by nobody else on the machine.

The start script of Debian's packages (/usr/sbin) changes the user and reads /etc; the one below it is taken.
Everything that it would look for at home or under /var has a place in the server's own folder, and Erlang's
name server (epmd) is a child of ours: one that was left behind would keep its port for ever.
"""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from urllib.parse import quote

from services.binaries import Service
from services.running import Server, ask, free_port

RABBITMQ = Service(
    "RabbitMQ", "rabbitmq-server", ("/usr/lib/rabbitmq/bin/rabbitmq-server", "rabbitmq-server"), "AMQP_URL"
)


class RabbitMqServer(Server):
    name = "rabbitmq"

    def __init__(self, binary: Path) -> None:
        super().__init__(binary)
        self.password = secrets.token_hex(8)
        self._distribution, self._names = free_port(), free_port()
        self._epmd: subprocess.Popen[bytes] | None = None
        self._configure()

    @property
    def url(self) -> str:
        return f"amqp://tests:{quote(self.password)}@127.0.0.1:{self.port}//"

    def _configure(self) -> None:
        self.folder.chmod(0o700)
        (self.folder / "rabbitmq.conf").write_text(
            f"listeners.tcp.local = 127.0.0.1:{self.port}\n"
            "listeners.ssl = none\n"
            "default_user = tests\n"
            f"default_pass = {self.password}\n"
            "log.file = false\n"
            "log.console = true\n"
            "log.console.level = warning\n"
            # How full the machine's disk and memory are is not what is tested.
            "disk_free_limit.absolute = 1MB\n"
            "vm_memory_high_watermark.relative = 0.9\n"
        )
        (self.folder / "enabled_plugins").write_text("[].\n")
        (self.folder / "environment.conf").write_text("")
        cookie = self.folder / ".erlang.cookie"
        cookie.write_text(secrets.token_hex(16))
        cookie.chmod(0o600)

    def command(self) -> Sequence[str]:
        return [str(self.binary)]

    def environ(self) -> Mapping[str, str]:
        home = self.folder
        kept = {
            name: value for name, value in os.environ.items() if not name.startswith(("RABBITMQ_", "ERL_"))
        }
        return kept | {
            "HOME": str(home),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "ERL_EPMD_PORT": str(self._names),
            # An address: not every machine knows what `localhost` is.
            "RABBITMQ_NODENAME": f"tests{self.port}@127.0.0.1",
            "RABBITMQ_USE_LONGNAME": "true",
            "RABBITMQ_DIST_PORT": str(self._distribution),
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": (
                # No waiting for work in busy loops: the cores are the tests'.
                "-kernel inet_dist_use_interface {127,0,0,1} -start_epmd false "
                "+sbwt none +sbwtdcpu none +sbwtdio none"
            ),
            "RABBITMQ_CONF_ENV_FILE": str(home / "environment.conf"),
            "RABBITMQ_CONFIG_FILE": str(home / "rabbitmq.conf"),
            "RABBITMQ_ADVANCED_CONFIG_FILE": str(home / "none.config"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(home / "enabled_plugins"),
            "RABBITMQ_MNESIA_BASE": str(home / "mnesia"),
            "RABBITMQ_MNESIA_DIR": str(home / "mnesia" / "tests"),
            "RABBITMQ_LOG_BASE": str(home / "log"),
            "RABBITMQ_PID_FILE": str(home / "pid"),
            "RABBITMQ_GENERATED_CONFIG_DIR": str(home / "generated"),
            "RABBITMQ_SCHEMA_DIR": str(home / "schema"),
            "RABBITMQ_PLUGINS_EXPAND_DIR": str(home / "plugins"),
            "RABBITMQ_FEATURE_FLAGS_FILE": str(home / "feature_flags"),
        }

    def begin(self) -> None:
        if self._epmd is None:
            epmd = shutil.which("epmd")
            assert epmd is not None, "Erlang has no epmd"
            self._epmd = subprocess.Popen(
                [epmd, "-address", "127.0.0.1", "-port", str(self._names)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
        super().begin()

    def answers(self) -> bool:
        # A frame on channel 0 (AMQP 0-9-1, 2.3.5: Connection.Start) to whoever offers that protocol.
        return ask(self.port, b"AMQP\x00\x00\x09\x01", 1) == b"\x01"

    def end(self) -> None:
        super().end()
        if self._epmd is not None:
            self._epmd.kill()
            self._epmd.wait()
            self._epmd = None
