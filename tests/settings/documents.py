"""Settings that load, as texts to be changed."""

from __future__ import annotations

SERVICE = """\
[service]
name = "payments"
"""

MTLS = """\
[mtls]
trust = ["pki/ca.pem"]
"""

KEYS = """\
[keys]
ring = "payments"
store = "file:state/keyring.json"
kek = "file:state/kek"
"""

FIELD = """\
[fields.ssn]
[[fields.ssn.places]]
routes = ["/customers", "/customers/*"]
marks = ["$.ssn", "$.people[*].ssn"]
request = "decrypt"
response = "encrypt"
"""

# The example of the documentation, with everything that this version can do.
FULL = """\
[service]
name = "payments"
mount = ""                       # the prefix under which the app is mounted

[mtls]
client = "required"              # required | optional | off
handshake = "optional"
source = "server"
trusted_proxies = []
trust = ["pki/ca.pem", { ca = "pki/partner.pem", may_assert = ["spiffe://partner.example/**"] }]
profile = "strict"               # strict | private-pki
crl = []
certificate = "pki/server.pem"
key = "pki/server.key"

[[routes]]                       # first match wins
path = "/healthz"
client = "off"
[[routes]]
path = "/admin/**"
allow = ["spiffe://example.org/ops/*"]

[keys]
ring = "payments"
store = "file:state/keyring.json"
kek = "file:state/kek"
rotate_every = "30d"
activation_delay = "5m"
retire_after = "90d"

[fields.ssn]
format = "aead"
also_open = ["fernet"]
bind = "none"
reveal_to = []
otherwise = "token"
leak_guard = true
[[fields.ssn.places]]
routes = ["/customers", "/customers/*"]
marks = ["$.ssn", "$.people[*].ssn"]
request = "decrypt"
response = "encrypt"

[rotation]
broker = ""
poll = "30s"
callbacks = ["shop.security:on_rotation"]

[telemetry]
traces = "auto"
"""
