"""Redis for tests, in memory and behind a password."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from pathlib import Path

from services.binaries import Service
from services.running import Server, ask

REDIS = Service("Redis", "redis-server", ("redis-server", "valkey-server"), "REDIS_URL")


class RedisServer(Server):
    name = "redis"

    def __init__(self, binary: Path) -> None:
        super().__init__(binary)
        self.password = secrets.token_hex(8)

    @property
    def url(self) -> str:
        return f"redis://:{self.password}@127.0.0.1:{self.port}/0"

    def command(self) -> Sequence[str]:
        config = self.folder / "redis.conf"
        config.write_text(
            f"bind 127.0.0.1\nport {self.port}\nrequirepass {self.password}\n"
            f'save ""\nappendonly no\ndaemonize no\ndir {self.folder}\n'
        )
        config.chmod(0o600)
        return [str(self.binary), str(config)]

    def answers(self) -> bool:
        return ask(self.port, f"AUTH {self.password}\r\nPING\r\n".encode(), 64).startswith(b"+OK")
