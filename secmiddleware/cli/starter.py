"""What a service needs to start on a developer's machine, made at once and never over anything."""

from __future__ import annotations

import os
import re
import shutil
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING, Final

from secmiddleware.cli.console import CONFIG_FILE
from secmiddleware.errors import SecMiddlewareError

if TYPE_CHECKING:
    from secmiddleware.certificates.authority import Issued

# Long enough that a developer does not meet an expired certificate every quarter.
_LIFETIME: Final = timedelta(days=365)
_KEK_BYTES: Final = 32
_SHOWN: Final = 40  # of the service in the name of its CA, which X.509 limits to 64 characters
_LABEL: Final = r"(?!-)[A-Za-z0-9-]{1,63}(?<!-)"
# What has digits and dots only would be a mistyped address.
_HOST: Final = re.compile(rf"(?=.{{1,253}}\Z)(?![0-9.]+\Z)(?:\*\.)?{_LABEL}(?:\.{_LABEL})*")

_SETTINGS: Final = Template("""\
# secmiddleware: who may call, and what is secret. `secmiddleware check` says what is wrong here.

[service]
name = "$service"
mount = ""                       # the prefix under which the app is mounted, as in "/api"

[mtls]
client = "required"              # required | optional | off: does a caller need a certificate?
handshake = "optional"           # optional: who has none gets a readable 401; required: TLS closes the door
trust = ["pki/ca.pem"]           # the CAs of the callers
certificate = "pki/server.pem"   # what this server shows
key = "pki/server.key"
profile = "strict"               # strict | private-pki: how much is asked of a chain

# The first route that matches decides; what no route names gets [mtls] client.
[[routes]]
path = "/healthz"
client = "off"

[[routes]]
path = "/admin/**"               # * is one segment, /** the folder and the whole tree below it
allow = ["spiffe://$domain/ops/*"]

[keys]
ring = "$service"
store = "file:state/keyring.json"
kek = "file:state/kek"           # the key-encryption key: whoever has it and the store, has everything
rotate_every = "30d"
activation_delay = "$activation_delay"          # a new key is published for so long before it seals
retire_after = "90d"             # and opens for so long after its successor took over

# One kind of secret. Clients send and get tokens; the app sees and returns plaintext.
[fields.ssn]
[[fields.ssn.places]]
routes = ["/customers", "/customers/*"]
marks = ["$$.ssn", "$$.people[*].ssn"]
request = "decrypt"
response = "encrypt"

[rotation]
poll = "$poll"
""")


@dataclass(frozen=True, slots=True)
class Starter:
    """What `make_starter` made, by its paths."""

    folder: Path
    client_id: str

    @property
    def settings(self) -> Path:
        """The file of settings."""
        return self.folder / CONFIG_FILE

    @property
    def pki(self) -> Path:
        """The folder of certificates and keys: ca, server and client, each .pem and .key."""
        return self.folder / "pki"

    @property
    def state(self) -> Path:
        """The folder of the key-encryption key and the key ring."""
        return self.folder / "state"


def make_starter(
    folder: Path,
    *,
    service: str,
    domain: str,
    names: tuple[str, ...],
    activation_delay: str = "5m",
    poll: str = "30s",
    broker: str | None = None,
) -> Starter:
    """A development CA, a server's and a client's certificate, a key-encryption key, a key ring and settings.

    Nothing that is there is written over: then nothing at all is made, and SecMiddlewareError says what is in
    the way. Where something fails half-way, what was made is taken away again.
    """
    starter = Starter(folder, f"spiffe://{domain}/clients/demo")
    in_the_way = [path for path in (starter.settings, starter.pki, starter.state) if os.path.lexists(path)]
    if in_the_way:
        raise _in_the_way(*map(str, in_the_way))
    text = _SETTINGS.substitute(service=service, domain=domain, activation_delay=activation_delay, poll=poll)
    if broker is not None:
        text += 'broker = { file = "state/broker" }   # its URL, which may have a password\n'
    with ExitStack() as undo:
        try:
            _claim_folders(starter, undo)
            _fill_pki(starter, service, domain, names)
            _write_settings(starter, text, undo)
            _fill_state(starter, broker)
        except FileExistsError as error:
            raise _in_the_way(str(error.filename)) from None
        except OSError as error:
            raise SecMiddlewareError(f"nothing was made: {error}") from error
        undo.pop_all()
    return starter


def _in_the_way(*paths: str) -> SecMiddlewareError:
    return SecMiddlewareError(f"nothing was made, for this is there already: {', '.join(paths)}")


def _claim_folders(starter: Starter, undo: ExitStack) -> None:
    """Makes them, or raises FileExistsError: of two who start at once, the second gets no further.

    `undo` takes away again what was made here, and nothing else.
    """
    from secmiddleware.files import make_private_folder

    missing = [path for path in (starter.folder, *starter.folder.parents) if not path.exists()]
    for path in reversed(missing):
        undo.callback(_remove_if_empty, path)
    starter.folder.mkdir(parents=True, exist_ok=True)
    for private in (starter.pki, starter.state):
        private.mkdir(mode=0o700)
        undo.callback(shutil.rmtree, private, ignore_errors=True)
        make_private_folder(private)


def _remove_if_empty(folder: Path) -> None:
    with suppress(OSError):
        folder.rmdir()


def _fill_pki(starter: Starter, service: str, domain: str, names: tuple[str, ...]) -> None:
    from secmiddleware.certificates.authority import Authority
    from secmiddleware.files import write_secret

    authority = Authority.create(f"{service[:_SHOWN]} development CA")
    (starter.pki / "ca.pem").write_bytes(authority.certificate_pem)
    write_secret(starter.pki / "ca.key", authority.key_pem)
    addresses = tuple(name for name in names if is_address(name))
    hosts = tuple(name for name in names if name not in addresses)
    server_id = f"spiffe://{domain}/{service}"
    server = authority.issue_server(dns=hosts, ips=addresses, spiffe_id=server_id, lifetime=_LIFETIME)
    client = authority.issue_client(spiffe_id=starter.client_id, lifetime=_LIFETIME)
    _write_pair(starter.pki, "server", server)
    _write_pair(starter.pki, "client", client)


def _write_settings(starter: Starter, text: str, undo: ExitStack) -> None:
    with starter.settings.open("x", encoding="utf-8") as file:
        undo.callback(starter.settings.unlink, missing_ok=True)
        file.write(text)


def _fill_state(starter: Starter, broker: str | None) -> None:
    from secmiddleware.files import write_secret
    from secmiddleware.parts import encryption_of
    from secmiddleware.settings import load

    write_secret(starter.state / "kek", os.urandom(_KEK_BYTES))
    if broker is not None:
        write_secret(starter.state / "broker", broker.encode())
    keys = load(starter.settings, {}).keys
    if keys is not None:
        encryption_of(keys, {}, first_block=1).start()


def _write_pair(pki: Path, name: str, issued: Issued) -> None:
    from secmiddleware.files import write_secret

    (pki / f"{name}.pem").write_bytes(issued.chain_pem)
    write_secret(pki / f"{name}.key", issued.key_pem)


def is_host(name: str) -> bool:
    """Whether it is a DNS name, a wildcard in front included."""
    return _HOST.fullmatch(name) is not None


def is_address(name: str) -> bool:
    """Whether it is an IP address that means the same on every host."""
    import ipaddress

    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return "%" not in name  # the zone of a link-local address means something on one host only
