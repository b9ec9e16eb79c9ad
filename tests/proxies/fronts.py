"""nginx, HAProxy and Apache as they stand in front of an app: each ends TLS, and calls from 127.0.0.2."""

from __future__ import annotations

import os
import pwd
import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from services.binaries import Service
from services.running import Server, free_port

CALLS_FROM = "127.0.0.2"
"""Where a proxy's requests come from, so that nobody else's do."""


PROXY_NAME = "edge.internal"
"""What the proxy's own certificate says, where it shows one to the app."""


@dataclass(frozen=True)
class Pair:
    """What a server shows, and whose clients it believes."""

    certificate: Path
    key: Path
    ca: Path


def user_of_proxies() -> str:
    """Who a proxy runs as: Debian's user for web servers where we may change to it, else we ourselves."""
    if os.geteuid() == 0:
        return "www-data"
    return pwd.getpwuid(os.geteuid()).pw_name


class Front(Server):
    """A proxy. `/` leads to the app over TCP; nginx has ways over a unix socket and over TLS, too."""

    service: ClassVar[Service]

    def __init__(self, binary: Path, pair: Pair, app: int) -> None:
        super().__init__(binary)
        self.folder.chmod(0o755)
        self.pair = pair
        self.app = app

    def answers(self) -> bool:
        return accepts_tls(self.port)


def accepts_tls(port: int) -> bool:
    """Whether somebody on this port does TLS, whatever they think of a client without a certificate."""
    import socket

    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with socket.create_connection(("127.0.0.1", port), timeout=2) as raw, context.wrap_socket(raw):
        return True


class Nginx(Front):
    """`/by-socket/` leads over a unix socket, `/by-certificate/` over TLS with a certificate of its own."""

    name = "nginx"
    uds: Path | None = None
    own: Pair | None = None
    tls_port = 0
    service = Service("nginx", "nginx", ("nginx",), "PATH")

    def command(self) -> Sequence[str]:
        more = ""
        if self.uds is not None:
            more += f"location /by-socket/ {{ proxy_pass http://unix:{self.uds}:/; }}\n"
        if self.own is not None:
            more += f"location /by-certificate/ {{ proxy_pass https://127.0.0.1:{self.tls_port}/;"
            more += (
                f"proxy_ssl_certificate {self.own.certificate}; proxy_ssl_certificate_key {self.own.key}; }}"
            )
        paths = "".join(
            f"{kind}_temp_path {self.folder}/{kind};"
            for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        )
        (self.folder / "nginx.conf").write_text(f"""
daemon off;
pid {self.folder}/pid;
error_log stderr warn;
{f"user {user_of_proxies()};" if os.geteuid() == 0 else ""}
events {{ }}
http {{
  access_log off;
  {paths}
  large_client_header_buffers 8 64k;
  server {{
    listen 127.0.0.1:{self.port} ssl;
    ssl_certificate {self.pair.certificate};
    ssl_certificate_key {self.pair.key};
    ssl_client_certificate {self.pair.ca};
    ssl_verify_client optional;
    ssl_session_tickets off;
    proxy_http_version 1.1;
    proxy_set_header Host $host;
    proxy_set_header Connection "";
    proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
    proxy_set_header X-SSL-Client-Verify $ssl_client_verify;
    proxy_set_header X-SSL-Client-Cert $ssl_client_escaped_cert;
    location / {{ proxy_bind {CALLS_FROM}; proxy_pass http://127.0.0.1:{self.app}; }}
    {more}
  }}
}}
""")
        return [str(self.binary), "-p", str(self.folder), "-c", str(self.folder / "nginx.conf")]


class Haproxy(Front):
    name = "haproxy"
    service = Service("HAProxy", "haproxy", ("haproxy",), "PATH")
    verify = "verify optional ca-ignore-err all crt-ignore-err all"
    twins = "http-request del-header ^x[-_]ssl[-_]client[-_] -m reg"
    """Without this line HAProxy lets the underscore twins of its own headers through."""

    def command(self) -> Sequence[str]:
        both = self.folder / "both.pem"
        both.touch(mode=0o600)
        both.write_bytes(self.pair.certificate.read_bytes() + self.pair.key.read_bytes())
        (self.folder / "haproxy.cfg").write_text(f"""
global
  log stderr local0 warning
defaults
  mode http
  timeout connect 5s
  timeout client 20s
  timeout server 20s
frontend tls
  bind 127.0.0.1:{self.port} ssl crt {both} no-tls-tickets ca-file {self.pair.ca} {self.verify}
  {self.twins}
  http-request set-header X-Forwarded-For %[src]
  http-request set-header X-SSL-Client-Verify %[ssl_c_verify]
  http-request set-header X-SSL-Client-Used %[ssl_c_used]
  http-request set-header X-SSL-Client-Cert %[ssl_c_der,base64]
  default_backend app
backend app
  source {CALLS_FROM}
  server app 127.0.0.1:{self.app}
""")
        return [str(self.binary), "-db", "-f", str(self.folder / "haproxy.cfg")]


class CarelessHaproxy(Haproxy):
    """One whose operator has forgotten the underscores."""

    twins = ""


class Apache(Front):
    """Three listeners, which hand over the certificate in the three forms that Apache has for it."""

    name = "apache"
    service = Service("Apache", "apache2", ("apache2", "httpd"), "PATH")
    forms: ClassVar = {
        "spaces": '"%{SSL_CLIENT_CERT}s"',
        "escaped": '"expr=%{escape:%{SSL_CLIENT_CERT}}"',
        "base64": '"expr=%{base64:%{SSL_CLIENT_CERT}}"',
    }

    def __init__(self, binary: Path, pair: Pair, app: int) -> None:
        super().__init__(binary, pair, app)
        self.ports = {form: self.port if form == "spaces" else free_port() for form in self.forms}

    def command(self) -> Sequence[str]:
        modules = ["mpm_event", "authz_core", "ssl", "socache_shmcb", "headers", "proxy", "proxy_http"]
        folder = next(
            path
            for path in (Path("/usr/lib/apache2/modules"), Path("/usr/lib64/httpd/modules"))
            if path.is_dir()
        )
        loads = "\n".join(
            f"LoadModule {module}_module {folder}/mod_{module}.so"
            for module in modules
            if (folder / f"mod_{module}.so").exists()
        )
        hosts = "\n".join(self._host(form, port) for form, port in self.ports.items())
        user = f"User {user_of_proxies()}" if os.geteuid() == 0 else ""
        (self.folder / "apache.conf").write_text(f"""
{loads}
ServerRoot {self.folder}
ServerName localhost
PidFile {self.folder}/pid
Mutex file:{self.folder}
DefaultRuntimeDir {self.folder}
ErrorLog /dev/stderr
LogLevel warn
{user}
LimitRequestFieldSize 65536
ProxySourceAddress {CALLS_FROM}
SSLSessionCache none
SSLSessionTickets off
{hosts}
""")
        return [str(self.binary), "-DFOREGROUND", "-f", str(self.folder / "apache.conf")]

    def _host(self, form: str, port: int) -> str:
        return f"""
Listen 127.0.0.1:{port}
<VirtualHost 127.0.0.1:{port}>
  SSLEngine on
  SSLCertificateFile {self.pair.certificate}
  SSLCertificateKeyFile {self.pair.key}
  SSLCACertificateFile {self.pair.ca}
  SSLVerifyClient optional_no_ca
  SSLVerifyDepth 3
  SSLOptions +StdEnvVars +ExportCertData
  RequestHeader set X-SSL-Client-Verify "%{{SSL_CLIENT_VERIFY}}s"
  RequestHeader set X-SSL-Client-Cert {self.forms[form]}
  ProxyPass / http://127.0.0.1:{self.app}/
</VirtualHost>"""
