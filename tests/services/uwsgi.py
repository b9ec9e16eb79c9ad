"""uWSGI for tests: its router ends TLS on loopback, a worker serves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from services.binaries import Service
from services.running import Server, of_the_system

UWSGI = Service("uWSGI", "uwsgi-plugin-python3", ("uwsgi", "uwsgi-core"))
PYTHON_PLUGIN = Service(
    "uWSGI's plugin for Python", "uwsgi-plugin-python3", ("/usr/lib/uwsgi/plugins/python3_plugin.so",)
)


class UwsgiServer(Server):
    """One app; `options` are beside what every one of these servers has."""

    name = "uwsgi"

    def __init__(self, binary: Path, app: str, options: Mapping[str, str]) -> None:
        super().__init__(binary)
        self._options = {key: value.format(port=self.port) for key, value in options.items()}
        (self.folder / "app.py").write_text(app)

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self.port}"

    @property
    def said(self) -> str:
        """What uWSGI and the app have logged."""
        return (self.folder / "output").read_text(errors="replace")

    def command(self) -> Sequence[str]:
        options = {
            "plugins": "http,python3",
            "wsgi-file": str(self.folder / "app.py"),
            "threads": "16",
            "master": "true",
            "need-app": "true",
            "die-on-term": "true",
            **self._options,
        }
        config = self.folder / "uwsgi.ini"
        config.write_text("[uwsgi]\n" + "".join(f"{key} = {value}\n" for key, value in options.items()))
        return [str(self.binary), "--ini", str(config)]

    def environ(self) -> Mapping[str, str]:
        return of_the_system()

    def answers(self) -> bool:
        # It listens before the app is there.
        return "spawned uWSGI worker 1" in self.said
