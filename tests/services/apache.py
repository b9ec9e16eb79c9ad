"""Apache with mod_wsgi for tests: in the foreground, on loopback, as nobody where root runs the tests.

Apache does not serve as root, and what it serves may stand where only root can read: it keeps that one right.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from services.binaries import Service
from services.running import Server, ask, free_port, of_the_system

MODULES = Path("/usr/lib/apache2/modules")
APACHE = Service("Apache", "libapache2-mod-wsgi-py3", ("apache2",))
MOD_WSGI = Service("mod_wsgi", "libapache2-mod-wsgi-py3", (str(MODULES / "mod_wsgi.so"),))

_NOBODY = 65534
_AS_NOBODY = [
    "setpriv",
    f"--reuid={_NOBODY}",
    f"--regid={_NOBODY}",
    "--clear-groups",
    "--inh-caps=+dac_override",
    "--ambient-caps=+dac_override",
]

_CONFIG = """\
ServerRoot {folder}
ServerName localhost
PidFile {folder}/pid
ErrorLog {folder}/output
LogLevel warn
DefaultRuntimeDir {folder}
Mutex file:{folder} default
LoadModule mpm_event_module {modules}/mod_mpm_event.so
LoadModule authz_core_module {modules}/mod_authz_core.so
LoadModule socache_shmcb_module {modules}/mod_socache_shmcb.so
LoadModule ssl_module {modules}/mod_ssl.so
LoadModule wsgi_module {modules}/mod_wsgi.so
StartServers 1
ServerLimit 1
ThreadsPerChild 32
MaxRequestWorkers 32
WSGISocketPrefix {folder}/wsgi
{lines}
<Directory {folder}>
  Require all granted
</Directory>
"""

_HOST = """\
Listen 127.0.0.1:{port}
<VirtualHost 127.0.0.1:{port}>
  WSGIDaemonProcess {name} threads=16 home={folder}
  WSGIScriptAlias / {app} process-group={name} application-group=%{{GLOBAL}}
{lines}
</VirtualHost>
"""


class ApacheServer(Server):
    """Several hosts, each on a port of its own, with an app and a daemon process of its own."""

    name = "apache"

    def __init__(self, binary: Path, lines: Sequence[str] = ()) -> None:
        """`lines` are of the configuration that all hosts have in common."""
        super().__init__(binary)
        self._lines = "\n".join(lines)
        self.ports: dict[str, int] = {}
        self._hosts: list[str] = []
        if os.geteuid() == 0:
            os.chown(self.folder, _NOBODY, _NOBODY)

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self.port}"

    def add(self, name: str, app: str, lines: Sequence[str]) -> None:
        """One more host: its app's source, and the lines of its configuration."""
        self.ports[name] = port = free_port() if self.ports else self.port
        file = self.folder / f"{name}.wsgi"
        file.write_text(app)
        told = "\n".join(f"  {line}" for line in lines)
        self._hosts.append(_HOST.format(name=name, port=port, app=file, folder=self.folder, lines=told))

    @property
    def said(self) -> str:
        """What Apache and the apps have logged."""
        return (self.folder / "output").read_text(errors="replace")

    def command(self) -> Sequence[str]:
        config = self.folder / "apache.conf"
        config.write_text(
            "".join([_CONFIG.format(folder=self.folder, modules=MODULES, lines=self._lines), *self._hosts])
        )
        (self.folder / "output").touch(0o666)
        (self.folder / "output").chmod(0o666)
        served = [str(self.binary), "-DFOREGROUND", "-f", str(config)]
        return [*_AS_NOBODY, *served] if os.geteuid() == 0 else served

    def environ(self) -> Mapping[str, str]:
        return of_the_system()

    def answers(self) -> bool:
        # It says in words that it speaks TLS.
        return all(ask(port, b"GET / HTTP/1.0\r\n\r\n", 8) == b"HTTP/1.1" for port in self.ports.values())
