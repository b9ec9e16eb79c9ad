"""What is right by itself and wrong together, what this version cannot do, and what is not on disk."""

from __future__ import annotations

import base64
import itertools
import json
import os
import sys
import time
from datetime import timedelta
from pathlib import Path

import pytest
from certificates.shapes import Made, key_of, plain_ca, revocation_list, strict_ca, strict_leaf
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.serialization import Encoding, PrivateFormat
from hypothesis import given, settings
from hypothesis import strategies as st
from settings.documents import FIELD, FULL, KEYS, MTLS, SERVICE

from secmiddleware.identity.policy import Policy, Rule, methods_meant
from secmiddleware.paths import PathPattern
from secmiddleware.settings.loading import _frozen
from secmiddleware.settings.models import Settings
from secmiddleware.settings.places import meet
from secmiddleware.settings.review import least_delay
from secmiddleware.settings.review_routes import review_routes

PLACE = '[[fields.{}.places]]\nroutes = ["{}"]\nmarks = ["{}"]\nrequest = "decrypt"\n'
REVEALING = FIELD.replace('response = "encrypt"', 'response = "decrypt"')


def with_keys(more: str, field: str = FIELD) -> str:
    return field.replace("[fields.ssn]\n", f"[fields.ssn]\n{more}")


def line_of(text: str, part: str) -> int:
    return text[: text.index(part)].count("\n") + 1


def route(path: str, **keys: object) -> str:
    lines = (f"{key} = {json.dumps(value)}\n" for key, value in keys.items())
    return f'[[routes]]\npath = "{path}"\n' + "".join(lines)


ASSERTING = '[mtls]\ntrust = [{ ca = "pki/ca.pem", may_assert = ["spiffe://td.org/ops/**", "dns:*.org"] }]\n'
TWO_CAS = '[mtls]\ntrust = ["pki/ca.pem", "pki/partner.pem"]\n'

# name: (text, key, the piece of the text whose line is named, part of the message)
CONTRADICTIONS = {
    "a certificate is asked for and no CA is trusted": (
        SERVICE + "[mtls]\n", "mtls.trust", "[mtls]", "is empty, but mtls.client asks",
    ),
    "only a route asks, and no CA is trusted": (
        SERVICE + '[mtls]\nclient = "off"\n[[routes]]\npath = "/a"\nallow = ["dns:a.org"]\n',
        "mtls.trust", "[mtls]", "routes[0].allow asks",
    ),
    "the door is closed before a default that does not require": (
        SERVICE + MTLS + 'client = "optional"\nhandshake = "required"\n',
        "mtls.handshake", "handshake", 'mtls.client is "optional"',
    ),
    "the door is closed before a route that does not require": (
        SERVICE + MTLS + 'handshake = "required"\n[[routes]]\npath = "/healthz"\nclient = "off"\n',
        "mtls.handshake", "handshake", 'routes[0].client is "off"',
    ),
    "proxies without a source that asks them": (
        SERVICE + MTLS + 'trusted_proxies = ["10.0.0.1"]\n',
        "mtls.trusted_proxies", "trusted_proxies", 'with source "server" none is asked',
    ),
    "a certificate without its key": (
        SERVICE + MTLS + 'certificate = "pki/server.pem"\n', "mtls.key", "[mtls]", "is missing",
    ),
    "a key without its certificate": (
        SERVICE + MTLS + 'key = "pki/server.key"\n', "mtls.certificate", "[mtls]", "is missing",
    ),
    "what is not accepted is shown where everybody is refused": (
        SERVICE + MTLS + 'unaccepted = "show"\n', "mtls.unaccepted", "unaccepted", "has nothing to show",
    ),
    "what is not accepted is shown where nobody is looked at": (
        SERVICE + MTLS + 'unaccepted = "show"\nclient = "off"\n[[routes]]\npath = "/a"\n'
        'client = "required"\n',
        "mtls.unaccepted", "unaccepted", "has nothing to show",
    ),
    "names are allowed where no certificate is asked for": (
        SERVICE + MTLS + '[[routes]]\npath = "/a"\nclient = "off"\nallow = ["dns:a.org"]\n',
        "routes[0].allow", "allow", 'client is "off"',
    ),
    "names are allowed where a certificate is optional": (
        SERVICE + MTLS + '[[routes]]\npath = "/a"\nclient = "optional"\nallow = ["dns:a.org"]\n',
        "routes[0].allow", "allow", 'client is "optional"',
    ),
    "a rule behind its twin": (
        SERVICE + MTLS + '[[routes]]\npath = "/a"\n[[routes]]\npath = "/a/"\n',
        "routes[1].path", 'path = "/a/"', "routes[0] matches all of it",
    ),
    "a rule below a tree": (
        SERVICE + MTLS + '[[routes]]\npath = "/b"\n[[routes]]\npath = "/a/**"\n[[routes]]\npath = "/a/*/c"\n',
        "routes[2].path", '"/a/*/c"', "routes[1] matches all of it",
    ),
    "a rule behind the tree of everything": (
        SERVICE + MTLS + '[[routes]]\npath = "/**"\n[[routes]]\npath = "/"\nclient = "off"\n',
        "routes[1].path", 'path = "/"\n', "can never match",
    ),
    "names are denied where no certificate is asked for": (
        SERVICE + MTLS + '[[routes]]\npath = "/a"\nclient = "off"\ndeny = ["dns:a.org"]\n',
        "routes[0].deny", "deny", 'says who may not, which requires a certificate, but client is "off"',
    ),
    "only a route with denied names asks, and no CA is trusted": (
        SERVICE + '[mtls]\nclient = "off"\n[[routes]]\npath = "/a"\ndeny = ["dns:a.org"]\n',
        "mtls.trust", "[mtls]", "routes[0].deny asks",
    ),
    "a list of nobody who may": (
        SERVICE + MTLS + '[[routes]]\npath = "/a"\nallow = []\n',
        "routes[0].allow", "allow", "everybody who is trusted",
    ),
    "a list of no methods": (
        SERVICE + MTLS + '[[routes]]\npath = "/a"\nmethods = []\n',
        "routes[0].methods", "methods", "is empty, so it can never match",
    ),
    "a rule behind another one for its methods": (
        SERVICE + MTLS + route("/a/**", methods=["GET", "POST"]) + route("/a/b", methods=["GET"]),
        "routes[1].path", '"/a/b"', "routes[0] matches all of it, and comes first",
    ),
    "a rule for HEAD behind one for GET": (
        SERVICE + MTLS + route("/a", methods=["GET"]) + route("/a", methods=["HEAD"]),
        "routes[1].path", 'path = "/a"\nmethods = ["HEAD"]', "routes[0] matches all of it",
    ),
    "a rule behind several that have all its methods": (
        SERVICE + MTLS + route("/a", methods=["GET"]) + route("/b", methods=["PUT"])
        + route("/**", methods=["POST", "BREW"]) + route("/a", methods=["POST", "GET"]),
        "routes[3].path", 'path = "/a"\nmethods = ["POST", "GET"]',
        "routes[0] and routes[2] match all of it, and come first",
    ),
    "a rule for one method behind one for all": (
        SERVICE + MTLS + route("/a") + route("/a", methods=["POST"]),
        "routes[1].path", 'path = "/a"\nmethods', "routes[0] matches all of it",
    ),
    "a name that is allowed and denied": (
        SERVICE + MTLS + route("/a", allow=["dns:a.org", "spiffe://td.org/ops/*"], deny=["spiffe://td.org/**"]),
        "routes[0].allow[1]", "allow", "can never match: routes[0].deny[0] denies all of it",
    ),
    "a network that is allowed in one that is denied": (
        SERVICE + MTLS + route("/a", allow=["ip:10.1.0.0/16"], deny=["dns:a.org", "ip:10.0.0.0/8"]),
        "routes[0].allow[0]", "allow", "routes[0].deny[1] denies all of it",
    ),
    "a serial number of a CA that is denied of every CA": (
        SERVICE + MTLS + route("/a", allow=[f"serial:1@issuer-sha256:{'a' * 64}"], deny=["serial:0x1"]),
        "routes[0].allow[0]", "allow", "routes[0].deny[0] denies all of it",
    ),
    "more names than are compared": (
        SERVICE + MTLS + "".join(
            route(f"/{n}", **{key: [f"dns:{key}{m}.org" for m in range(800)] for key in ("allow", "deny")})
            for n in range(2)
        ),
        "routes", "[[routes]]", "1,280,000",
    ),
    "a name that no CA may assert": (
        SERVICE + ASSERTING + route("/a", allow=["spiffe://td.org/ops/*", "spiffe://td.org/shop/*"]),
        "routes[0].allow[1]", "allow", "no CA that is trusted may assert such a name",
    ),
    "a denied name that no CA may assert": (
        SERVICE + ASSERTING + route("/a", deny=["dns:evil.example"]),
        "routes[0].deny[0]", "deny", "no CA that is trusted may assert such a name",
    ),
    "plaintext for whom no CA may name": (
        SERVICE + ASSERTING + KEYS + with_keys('reveal_to = ["email:*@a.org"]\n', REVEALING),
        "fields.ssn.reveal_to[0]", "reveal_to", "no CA that is trusted may assert such a name",
    ),
    "a serial number that two CAs may give": (
        SERVICE + TWO_CAS + route("/a", allow=["dns:a.org", "serial:7"]),
        "routes[0].allow[1]", "allow", "is a serial number, and 2 CAs are trusted",
    ),
    "a serial number that is denied of two CAs": (
        SERVICE + TWO_CAS + route("/a", deny=["serial:0x7"]),
        "routes[0].deny[0]", "deny", "is a serial number, and 2 CAs are trusted",
    ),
    "plaintext for a serial number of two CAs": (
        SERVICE + TWO_CAS + KEYS + with_keys('reveal_to = ["serial:7"]\n', REVEALING),
        "fields.ssn.reveal_to[0]", "reveal_to", "is a serial number, and 2 CAs are trusted",
    ),
    "preflights that die in TLS": (
        SERVICE + MTLS + 'handshake = "required"\n' + route("/a", preflight=True),
        "routes[0].preflight", "preflight", 'mtls.handshake "required" closes the door in TLS',
    ),
    "preflights where nobody is asked for a certificate": (
        SERVICE + MTLS + route("/a", client="off", preflight=True),
        "routes[0].preflight", "preflight", "nobody needs a certificate for OPTIONS here",
    ),
    "preflights where OPTIONS is asked for none": (
        SERVICE + MTLS + route("/a", client="optional", methods=["OPTIONS", "GET"], preflight=True),
        "routes[0].preflight", "preflight", "nobody needs a certificate for OPTIONS here",
    ),
    "preflights that an earlier route decides about": (
        SERVICE + MTLS + route("/a/**", methods=["OPTIONS"]) + route("/a/b", preflight=True),
        "routes[1].preflight", "preflight", "routes[0] comes first, and decides about OPTIONS",
    ),
    "a caller's tokens on a route that asks for a certificate by one method only": (
        SERVICE + MTLS + 'client = "optional"\n' + route("/customers", methods=["GET"], allow=["dns:a.org"])
        + KEYS + with_keys('bind = "caller"\n').replace(', "/customers/*"', ""),
        "fields.ssn.places[0].routes[0]", '["/customers"]', "mtls.client lets callers in",
    ),
    "a key that seals before everybody knows it": (
        SERVICE + MTLS + KEYS + 'activation_delay = "99s"\n',
        "keys.activation_delay", "activation_delay", "with poll = 30s",
    ),
    "a poll that is too slow for the delay": (
        SERVICE + MTLS + KEYS + '[rotation]\npoll = "2m"\n',
        "keys.activation_delay", "[keys]", "with poll = 2m",
    ),
    "keys that change before they seal": (
        SERVICE + MTLS + KEYS + 'rotate_every = "5m"\n',
        "keys.rotate_every", "rotate_every", "must be longer than activation_delay",
    ),
    "values that cannot be read before their key changes": (
        SERVICE + MTLS + KEYS + 'retire_after = "4m"\n',
        "keys.retire_after", "retire_after", "must not be shorter than activation_delay",
    ),
    "a ring that is too old while it is in order": (
        SERVICE + MTLS + KEYS + 'max_document_age = "29d"\n',
        "keys.max_document_age", "max_document_age", "must not be shorter than rotate_every",
    ),
    "a field that is nowhere": (
        SERVICE + MTLS + KEYS + "[fields.ssn]\n", "fields.ssn", "[fields.ssn]", "has no place",
    ),
    "a place where nothing happens": (
        SERVICE + MTLS + KEYS + '[[fields.a.places]]\nroutes = ["/a"]\nmarks = ["$.a"]\n',
        "fields.a.places[0]", "[[fields.a.places]]", "request and response are both pass",
    ),
    "fields without keys": (
        SERVICE + MTLS + FIELD, "keys", None, "is missing, and fields.ssn needs a key ring",
    ),
    "plaintext for nobody knows whom": (
        SERVICE + MTLS + KEYS + REVEALING, "fields.ssn.reveal_to", "[fields.ssn]",
        "places[0] decrypts responses",
    ),
    "a caller's tokens in a format that cannot name a caller": (
        SERVICE + MTLS + KEYS + with_keys('format = "fernet"\nbind = "caller"\n'),
        "fields.ssn.bind", "bind", 'a token of format "fernet" cannot name its caller',
    ),
    "a tenant's tokens beside a format that cannot name a tenant": (
        SERVICE + MTLS + KEYS
        + with_keys('also_open = ["fernet"]\nbind = "tenant"\n'),
        "fields.ssn.bind", "bind", 'a token of also_open "fernet" cannot name its tenant',
    ),
    "a caller's tokens where callers need no certificate": (
        SERVICE + MTLS + 'client = "optional"\n' + KEYS
        + with_keys('bind = "caller"\n').replace(', "/customers/*"', ""),
        "fields.ssn.places[0].routes[0]", "routes", "mtls.client lets callers in without a certificate",
    ),
    "a caller's tokens on a route that some part of asks for no certificate": (
        SERVICE + MTLS + '[[routes]]\npath = "/customers/me"\nclient = "off"\n' + KEYS
        + with_keys('bind = "caller"\n'),
        "fields.ssn.places[0].routes[1]", 'routes = ["/customers"', "routes[0].client lets callers in",
    ),
    "one mark twice": (
        SERVICE + MTLS + KEYS + FIELD.replace('"$.people[*].ssn"', '"$[\'ssn\']"'),
        "fields.ssn.places[0].marks[1]", "marks", "fields.ssn.places[0].marks[0] selects too",
    ),
    "a mark inside what another one marks": (
        SERVICE + MTLS + KEYS + FIELD.replace('"$.people[*].ssn"', '"$.ssn.last"'),
        "fields.ssn.places[0].marks[1]", "marks", "on a route that both are for",
    ),
    "two fields in one place": (
        SERVICE + MTLS + KEYS + PLACE.format("a", "/x/*", "$.n") + PLACE.format("b", "/x/y/**", "$..n"),
        "fields.b.places[0].marks[0]", '"$..n"', "fields.a.places[0].marks[0] selects too",
    ),
    "two places of a field in one place": (
        SERVICE + MTLS + KEYS + PLACE.format("a", "/x", "$.n") + PLACE.format("a", "/**", "$.*"),
        "fields.a.places[1].marks[0]", '"$.*"', "fields.a.places[0].marks[0] selects too",
    ),
    "more marks than are compared": (
        SERVICE + MTLS + KEYS
        + "".join(
            PLACE.format("f", f"/r{n}", '", "'.join(f"$.m{m}" for m in range(300))) for n in range(4)
        ),
        "fields", "[[fields.f", "has 1200 marks in all",
    ),
    "a broker and nothing to tell": (
        SERVICE + MTLS + '[rotation]\nbroker = "memory://"\n',
        "rotation.broker", "broker", "there is no [keys]",
    ),
    "TLS to a Redis that anybody may be": (
        SERVICE + MTLS + KEYS + '[rotation]\nbroker = "rediss://:pw@host/0"\n',
        "rotation.broker", "broker", "nothing says whose certificates are good",
    ),
    "TLS to a RabbitMQ that anybody may be": (
        SERVICE + MTLS + KEYS + '[rotation]\nbroker = "amqps://host"\n',
        "rotation.broker", "broker", "nothing says whose certificates are good",
    ),
    "a broker's CA without TLS": (
        SERVICE + MTLS + KEYS + '[rotation]\nbroker = "amqp://host"\nbroker_ca = "pki/ca.pem"\n',
        "rotation.broker_ca", "broker_ca", "of no use",
    ),
    "a broker's CA without a broker": (
        SERVICE + MTLS + KEYS + '[rotation]\nbroker_ca = "pki/ca.pem"\n',
        "rotation.broker_ca", "broker_ca", "of no use",
    ),
    "a broker's CA that is not there": (
        SERVICE + MTLS + KEYS + '[rotation]\nbroker = "amqps://host"\nbroker_ca = "pki/nobody.pem"\n',
        "rotation.broker_ca", "broker_ca", "there is no file",
    ),
    "a broker's CA that is none": (
        SERVICE + MTLS + KEYS + '[rotation]\nbroker = "amqps://host"\nbroker_ca = "state/kek"\n',
        "rotation.broker_ca", "broker_ca", "kek",
    ),
    "a CA of one trust domain that speaks for another": (
        SERVICE + '[mtls]\ntrust = [{ ca = "pki/ca.pem", trust_domain = "a.org", '
        'may_assert = ["spiffe://a.org/x", "spiffe://b.org/**"] }]\n',
        "mtls.trust[0].may_assert[1]", "trust =", "is outside of trust_domain",
    ),
    "a CA of one trust domain that speaks for hosts": (
        SERVICE + '[mtls]\ntrust = [{ ca = "pki/ca.pem", trust_domain = "a.org", '
        'may_assert = ["dns:a.org"] }]\n',
        "mtls.trust[0].may_assert[0]", "trust =", "is outside of trust_domain",
    ),
    "one CA for two trust domains": (
        SERVICE + '[mtls]\ntrust = [{ ca = "pki/ca.pem", trust_domain = "a.org" }, '
        '{ ca = "pki/ca.pem", trust_domain = "b.org" }]\n',
        "mtls.trust[1]", "trust =", "mtls.trust[0] holds too, with other names to speak for",
    ),
    "a header that is marked twice": (
        SERVICE + MTLS + KEYS + PLACE.format("ssn", "/a", 'header:X-SSN", "header:x-ssn'),
        "fields.ssn.places[0].marks[1]", "marks", "marks[0] selects too",
    ),
    "less for all bodies than one may have": (
        SERVICE + 'max_body = "2MiB"\nmax_held = "1MiB"\n' + MTLS,
        "service.max_held", "max_held", "is less than the 2097152 bytes of one body",
    ),
    "a line that is longer than all that may be held": (
        SERVICE + 'max_body = 1000\nmax_held = "1KiB"\nmax_line = "2KiB"\n' + MTLS,
        "service.max_line", "max_line", "is more than the 1024 bytes of all bodies",
    ),
    "a plain event that is blank": (
        SERVICE + 'plain_events = ["ping", " "]\n' + MTLS,
        "service.plain_events[1]", "plain_events", "is blank, which passes anyway",
    ),
    "a plain event that no event can have": (
        SERVICE + 'plain_events = ["a\\rb"]\n' + MTLS,
        "service.plain_events[0]", "plain_events", "is no data that an event could have",
    ),
    "a thread for next to nothing": (
        SERVICE + 'offload = "1KiB"\n' + MTLS,
        "service.offload", "offload", "takes longer than the work",
    ),
    "a thread for bodies that never come": (
        SERVICE + 'max_body = "1MiB"\noffload = "2MiB"\n' + MTLS,
        "service.offload", "offload", "is never reached: max_body lets bodies have 1048576 bytes",
    ),
    # What this version cannot do.
    "redis": (
        SERVICE + MTLS + KEYS.replace("file:state/keyring.json", "rediss://host/0"),
        "keys.store", "store", "not supported by this version",
    ),
    "a KMS": (
        SERVICE + MTLS + KEYS.replace("file:state/kek", "awskms:alias/a"),
        "keys.kek", "kek", "not supported by this version",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("text", "key", "at", "message"), CONTRADICTIONS.values(), ids=CONTRADICTIONS)
def test_what_contradicts_itself_or_cannot_be_done_is_told(place, text, key, at, message):
    (found,) = place.findings(text)
    assert found.key == key
    assert found.line == (None if at is None else line_of(text, at))
    assert message in found.message


@pytest.mark.parametrize(
    "source",
    ["nginx", "haproxy", "apache", "caddy", "rfc9440", "envoy", "traefik", "aws-alb", "aws-alb-passthrough",
     "gcp-lb", "azure-app-service", "cloudflare"],
)  # fmt: skip
def test_a_proxy_as_the_source_needs_those_who_may_be_it(place, source):
    (found,) = place.findings(SERVICE + MTLS + f'source = "{source}"\n')
    assert found.key == "mtls.trusted_proxies"
    assert "needs the proxies" in found.message
    assert place.findings(SERVICE + MTLS + f'source = "{source}"\ntrusted_proxies = ["10.0.0.1"]\n') == ()


FINE = {
    "nobody is asked and nothing trusted": SERVICE + '[mtls]\nclient = "off"\n',
    "the door is closed and every route requires": SERVICE + MTLS
    + 'handshake = "required"\n[[routes]]\npath = "/a"\nallow = ["dns:a.org"]\n',
    "a narrow rule before a wide one": SERVICE + MTLS
    + '[[routes]]\npath = "/a/b"\nclient = "off"\n[[routes]]\npath = "/a/*"\n[[routes]]\npath = "/a/**"\n'
    '[[routes]]\npath = "/**"\n',
    "a rule for other methods": SERVICE + MTLS
    + route("/a", methods=["GET"]) + route("/a", methods=["POST", "GET"]) + route("/a"),
    "a rule for the GET that an earlier one for HEAD leaves": SERVICE + MTLS
    + route("/a", methods=["HEAD"]) + route("/a", methods=["GET"]),
    "a rule for all methods behind those for some": SERVICE + MTLS
    + route("/**", methods=["GET", "POST", "PUT", "DELETE", "OPTIONS", "PATCH"]) + route("/a"),
    "some of those who are allowed are denied": SERVICE + MTLS
    + route("/a", allow=["spiffe://td.org/**"], deny=["spiffe://td.org/ops/*", "dns:a.org"]),
    "nobody in particular is denied": SERVICE + MTLS + route("/a", deny=[]),
    "names of which a CA may assert some": SERVICE + ASSERTING
    + route("/a", allow=["spiffe://td.org/**", "dns:a.org", f"sha256:{'a' * 64}"]),
    "names where one CA may assert all": SERVICE + ASSERTING.replace("}]", '}, "pki/partner.pem"]')
    + route("/a", allow=["email:*@a.org"]),
    "a serial number of the only CA": SERVICE + MTLS + route("/a", allow=["serial:7"]),
    "a serial number of the only CA, which is named twice": SERVICE
    + '[mtls]\ntrust = ["pki/ca.pem", "pki/ca.pem"]\n' + route("/a", allow=["serial:7"]),
    "a serial number with its CA": SERVICE + TWO_CAS
    + route("/a", allow=[f"serial:7@issuer-spki-sha256:{'a' * 64}"]),
    "preflights of a route that is open for GET": SERVICE + MTLS
    + route("/a", client="off", methods=["GET"], preflight=True),
    "preflights about what an earlier route is not for": SERVICE + MTLS
    + route("/a", methods=["POST"]) + route("/a", preflight=True),
    "just late enough": SERVICE + MTLS + KEYS + 'activation_delay = "100s"\n',
    "no delay in memory": SERVICE + MTLS + KEYS.replace("file:state/keyring.json", "memory:")
    + 'activation_delay = "0s"\n',
    "keys that nothing uses yet": SERVICE + MTLS + KEYS,
    "plaintext for somebody": SERVICE + MTLS + KEYS
    + with_keys('reveal_to = ["dns:a.org"]\n', REVEALING),
    "a caller's tokens where a certificate is required": SERVICE + MTLS
    + '[[routes]]\npath = "/customers/**"\n[[routes]]\npath = "/**"\nclient = "off"\n' + KEYS
    + with_keys('bind = "caller"\n'),
    "a caller's tokens where allow implies one": SERVICE + MTLS
    + 'client = "off"\n[[routes]]\npath = "/customers/**"\nallow = ["dns:a.org"]\n' + KEYS
    + with_keys('bind = "tenant"\n'),
    "one mark on two routes": SERVICE + MTLS + KEYS
    + PLACE.format("a", "/x", "$.n") + PLACE.format("b", "/x/*", "$.n")
    + PLACE.format("c", "/x/y/z/**", "$.n"),
    "a broker with TLS and its CA": SERVICE + MTLS + KEYS
    + '[rotation]\nbroker = "rediss://host"\nbroker_ca = "pki/ca.pem"\n',
    "a broker in one process": SERVICE + MTLS + KEYS + '[rotation]\nbroker = "memory://"\n',
    "a broker with a name, a password and a virtual host": SERVICE + MTLS + KEYS
    + '[rotation]\nbroker = "amqp://shop:p%40ss%2F%3B@[::1]:5672/tests"\n',
    "fernet alone": SERVICE + MTLS + KEYS + with_keys('format = "fernet"\n'),
}  # fmt: skip


@pytest.mark.parametrize("text", FINE.values(), ids=FINE)
def test_what_only_looks_like_a_contradiction_loads(place, text):
    assert place.findings(text) == ()


@pytest.mark.parametrize(
    ("broker", "missing", "extra"),
    [
        ("memory://", "kombu", "kombu"),
        ("amqp://host", "kombu", "kombu"),
        ("redis://host", "redis", "kombu,redis"),
        ("redis://host", "kombu", "kombu,redis"),
    ],
)
def test_a_package_that_a_broker_needs_is_told_with_what_to_type(place, monkeypatch, broker, missing, extra):
    monkeypatch.setitem(sys.modules, missing, None)  # cannot be imported
    (found,) = place.findings(SERVICE + MTLS + KEYS + f'[rotation]\nbroker = "{broker}"\n')
    assert found.key == "rotation.broker"
    assert f"needs {missing}, which is not installed" in found.message
    assert found.hint == f"pip install 'secmiddleware[{extra}]'"


def test_packages_that_are_imported_already_are_installed(place):
    import kombu
    import redis

    assert kombu.__spec__ is None  # it has put something of its own in its place
    assert redis.__spec__
    assert place.findings(SERVICE + MTLS + KEYS + '[rotation]\nbroker = "redis://host"\n') == ()


@pytest.mark.parametrize(
    ("broker", "message"),
    [
        ("sqs://hunter2@host", "must be empty, memory://, or begin with one of redis://"),
        ("hunter2", "must be empty, memory://, or begin with one of redis://"),
        ("AMQP+x://:hunter2@host", "must be empty, memory://, or begin with one of redis://"),
        ("memory://hunter2", "must be empty, memory://, or begin with one of redis://"),
        ("redis+socket:///hunter2", "must be empty, memory://, or begin with one of redis://"),
        ("pyamqp://:hunter2@host", "must be empty, memory://, or begin with one of redis://"),
        ("amqp://", "is not a URL of a broker"),
        ("amqp://:hunter2@/", "is not a URL of a broker"),
        ("amqp://:hunter2@host:port", "is not a URL of a broker"),
        ("amqp://:hunter2@host:99999", "is not a URL of a broker"),
        ("amqp://:hunter2@host:0", "is not a URL of a broker"),
        ("amqp://:hunter2@[::1", "is not a URL of a broker"),
        ("amqp://:hunter2@host ", "is not a URL of a broker"),
        ("amqp://:hunter2@ho\\u0000st", "is not a URL of a broker"),
        ("amqp://:hunter2@host\\namqp://other", "is not a URL of a broker"),
        ("rediss://:hunter2@host/0?ssl_cert_reqs=none", "must have no options"),
        ("amqps://:hunter2@host?", "must have no options"),
        ("amqp://:hunter2@host#a", "must have no options"),
        ("amqp://:hunter2@host;amqp://other", "must name one broker"),
        ("redis://:hunter2@host/0;redis://other", "must name one broker"),
        ("redis://:hunter2@host/zero", "must end in the number of a Redis database"),
        ("redis://:hunter2@host/0/1", "must end in the number of a Redis database"),
    ],
)
def test_what_is_no_broker_is_told_and_not_repeated(place, broker, message):
    (found,) = place.findings(SERVICE + MTLS + KEYS + f'[rotation]\nbroker = "{broker}"\n')
    assert found.key == "rotation.broker"
    assert message in found.message
    assert "hunter2" not in str(found)


def test_the_delay_follows_the_formula():
    """P·(1+j)·(1+k) with j = 0.1 and k = 2, and half a second; nothing inside one process."""
    assert least_delay(timedelta(seconds=30), "host") == timedelta(seconds=99.5)
    assert least_delay(timedelta(seconds=1), "host") == timedelta(seconds=3.8)
    assert least_delay(timedelta(days=30), "process") == timedelta(0)


SEGMENTS = st.sampled_from(["a", "b", "*"])
PATTERNS = st.builds(
    lambda segments, tree: PathPattern.parse("/" + "/".join([*segments, *(["**"] if tree else [])])),
    st.lists(SEGMENTS, max_size=3),
    st.booleans(),
)
PATHS = [
    "/" + "/".join(path)
    for path in (
        (), ("a",), ("b",), ("c",), *((x, y) for x in "abc" for y in "abc"),
        *((x, y, z) for x in "abc" for y in "abc" for z in "abc"),
        *((x, y, z, "d") for x in "abc" for y in "abc" for z in "abc"),
    )
]  # fmt: skip


@given(PATTERNS, PATTERNS)
@settings(max_examples=200, deadline=None)
def test_patterns_meet_where_some_path_falls_under_both(first, second):
    common = any(first.matches(path) and second.matches(path) for path in PATHS)
    assert meet(first, second) == meet(second, first) == common


# Files


def strange_version(pem: bytes) -> bytes:
    der = x509.load_pem_x509_certificate(pem).public_bytes(Encoding.DER)
    changed = der.replace(b"\xa0\x03\x02\x01\x02", b"\xa0\x03\x02\x01\x07", 1)
    return b"-----BEGIN CERTIFICATE-----\n" + base64.encodebytes(changed) + b"-----END CERTIFICATE-----\n"


def ca_of(place, name: str) -> Made:
    """A CA of the operator's, with a key that the tests have: the file is made anew."""
    ca = strict_ca(name)
    (place.folder / f"pki/{name}.pem").write_bytes(ca.pem)
    return ca


@pytest.fixture
def files(place) -> Path:
    """A folder with files of every unfit kind."""
    folder = place.folder
    pki = folder / "pki"
    (pki / "text.pem").write_text("hello\n")
    (pki / "empty.pem").write_text("")
    (pki / "broken.pem").write_text("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
    (pki / "version.pem").write_bytes(strange_version((pki / "ca.pem").read_bytes()))
    (pki / "weak.pem").write_bytes(plain_ca(key=key_of("rsa1024")).pem)
    (pki / "large.pem").write_bytes(b"#" * (1 << 20) + (pki / "ca.pem").read_bytes())
    (pki / "both.pem").write_bytes((pki / "server.pem").read_bytes() + (pki / "server.key").read_bytes())
    os.mkfifo(pki / "fifo")
    (pki / "loop").symlink_to("loop")
    (pki / "open.key").write_bytes((pki / "server.key").read_bytes())
    (pki / "open.key").chmod(0o640)
    ca, partner = ca_of(place, "ca"), strict_ca("ca", key=key_of("p256", 77))
    (pki / "leaf.pem").write_bytes(strict_leaf(ca).pem)
    for name, crl in [
        ("good", revocation_list(ca)),
        ("partner", revocation_list(strict_ca("stranger"))),
        ("forged", revocation_list(ca, key=partner.key)),
        ("delta", revocation_list(ca, extensions=[(x509.DeltaCRLIndicator(1), True)])),
    ]:
        (pki / f"{name}.crl").write_bytes(crl.public_bytes(Encoding.PEM))
    key = serialization.load_pem_private_key((pki / "server.key").read_bytes(), None)
    place.secret(
        "pki/encrypted.key",
        key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, serialization.BestAvailableEncryption(b"a")),
    )
    for name, data in [
        ("kek31", os.urandom(30) + b"\0"),
        ("kek33", os.urandom(32) + b"\0"),
        ("text", b"0123456789abcdef" * 2),
        ("empty", b""),
        ("ring", b"{}"),
    ]:
        place.secret(f"state/{name}", data)
    for name in ("kek", "ring"):
        (folder / f"state/open-{name}").write_bytes((folder / f"state/{name}").read_bytes())
        (folder / f"state/open-{name}").chmod(0o644)
    os.mkfifo(folder / "state/fifo", 0o600)
    return folder


def with_trust(name: str) -> str:
    return SERVICE + f'[mtls]\ntrust = ["{name}"]\n'


def with_more(line: str) -> str:
    return SERVICE + MTLS + line + "\n"


def with_pair(certificate: str, key: str = "pki/server.key") -> str:
    return SERVICE + MTLS + f'certificate = "{certificate}"\nkey = "{key}"\n'


def with_kek(kek: str) -> str:
    return SERVICE + MTLS + KEYS.replace("file:state/kek", kek)


def with_store(store: str) -> str:
    return SERVICE + MTLS + KEYS.replace("state/keyring.json", store)


@pytest.mark.parametrize(
    ("text", "key", "message"),
    [
        (with_trust("pki/missing.pem"), "mtls.trust[0]", "there is no file"),
        (with_trust("pki"), "mtls.trust[0]", "is not a regular file"),
        (with_trust("pki/fifo"), "mtls.trust[0]", "is not a regular file"),
        (with_trust("/dev/zero"), "mtls.trust[0]", "is not a regular file"),
        (with_trust("pki/loop"), "mtls.trust[0]", "cannot be read"),
        (with_trust("pki/ca.pem/x"), "mtls.trust[0]", "cannot be read"),
        (with_trust("pki/text.pem"), "mtls.trust[0]", "is not a bundle"),
        (with_trust("pki/empty.pem"), "mtls.trust[0]", "is not a bundle"),
        (with_trust("pki/broken.pem"), "mtls.trust[0]", "is not a bundle"),
        (with_trust("pki/version.pem"), "mtls.trust[0]", "is not a bundle"),
        (with_trust("pki/weak.pem"), "mtls.trust[0]", "1024 bits"),
        (with_trust("pki/large.pem"), "mtls.trust[0]", "is larger than"),
        (with_trust("pki/both.pem"), "mtls.trust[0]", "holds a private key"),
        (with_trust("pki/server.key"), "mtls.trust[0]", "holds a private key"),
        (
            SERVICE + '[mtls]\ntrust = ["pki/ca.pem", { ca = "pki/ca.pem", may_assert = ["dns:a.org"] }]\n',
            "mtls.trust[1]",
            "mtls.trust[0] holds too, with other names to speak for",
        ),
        (with_more('intermediates = ["pki/missing.pem"]'), "mtls.intermediates[0]", "there is no file"),
        (with_more('intermediates = ["pki/text.pem"]'), "mtls.intermediates[0]", "is not a bundle"),
        (with_more('intermediates = ["pki/both.pem"]'), "mtls.intermediates[0]", "holds a private key"),
        (with_more('intermediates = ["pki/ca.pem"]'), "mtls.intermediates[0]", "is signed by itself"),
        (
            with_more('intermediates = ["pki/leaf.pem"]'),
            "mtls.intermediates[0]",
            "not the certificate of a CA",
        ),
        (with_more('crl = ["pki/missing.crl"]'), "mtls.crl[0]", "there is no file"),
        (with_more('crl = ["pki/fifo"]'), "mtls.crl[0]", "is not a regular file"),
        (with_more('crl = ["pki/good.crl", "pki/ca.pem"]'), "mtls.crl[1]", "holds no revocation list"),
        (with_more('crl = ["pki/server.key"]'), "mtls.crl[0]", "holds no revocation list"),
        (with_more('crl = ["pki/partner.crl"]'), "mtls.crl[0]", "neither in trust nor in intermediates"),
        (with_more('crl = ["pki/forged.crl"]'), "mtls.crl[0]", "is not signed by its issuer"),
        (with_more('crl = ["pki/delta.crl"]'), "mtls.crl[0]", "is a delta list"),
        (with_pair("pki/missing.pem"), "mtls.certificate", "there is no file"),
        (with_pair("pki/text.pem"), "mtls.certificate", "is not a certificate in PEM"),
        (with_pair("pki/version.pem"), "mtls.certificate", "is not a certificate in PEM"),
        (with_pair("pki/server.key"), "mtls.certificate", "holds a private key"),
        (with_pair("pki/both.pem"), "mtls.certificate", "can be used by others"),
        (with_pair("pki/server.pem", "pki/missing.key"), "mtls.key", "there is no file"),
        (with_pair("pki/server.pem", "pki/fifo"), "mtls.key", "is not a regular file"),
        (with_pair("pki/server.pem", "pki/open.key"), "mtls.key", "can be used by others"),
        (with_pair("pki/server.pem", "pki/encrypted.key"), "mtls.key", "is encrypted"),
        (with_pair("pki/server.pem", "pki/other.key"), "mtls.key", "is not the key of mtls.certificate"),
        (with_pair("pki/server.pem", "state/kek"), "mtls.key", "is not a private key in PEM"),
        (with_kek("file:state/missing"), "keys.kek", "there is no such file"),
        (with_kek("file:state/kek31"), "keys.kek", "exactly 32 bytes; this has 31"),
        (with_kek("file:state/kek33"), "keys.kek", "exactly 32 bytes; this has 33"),
        (with_kek("file:state/text"), "keys.kek", "this is text"),
        (with_kek("file:state/empty"), "keys.kek", "exactly 32 bytes; this has 0"),
        (with_kek("file:state/open-kek"), "keys.kek", "chmod 600"),
        (with_kek("file:state/fifo"), "keys.kek", "is not a regular file"),
        (with_kek("file:state"), "keys.kek", "is not a regular file"),
        (with_kek("env:NOT_THERE"), "keys.kek", "the environment has no NOT_THERE"),
        (with_kek("env:SHORT"), "keys.kek", "exactly 32 bytes"),
        (with_kek("env:GARBAGE"), "keys.kek", "is not standard base64"),
        (with_kek("env:"), "keys.kek", "must name an environment variable"),
        (with_kek("file:"), "keys.kek", "must not be empty"),
        (with_kek("file:///state/kek"), "keys.kek", "followed by a plain path"),
        (with_store("state"), "keys.store", "is not a regular file"),
        (with_store("state/fifo"), "keys.store", "is not a regular file"),
        (with_store("state/open-ring"), "keys.store", "can be used by others"),
        (with_store("state/kek/ring"), "keys.store", "is not a folder"),
        (with_store("pki/loop"), "keys.store", "cannot be read"),
        (with_store("x" * 300), "keys.store", "cannot be read"),
    ],
)
def test_a_file_that_cannot_be_used_is_told(place, files, text, key, message):
    (found,) = place.findings(text, {"SHORT": "AAAA", "GARBAGE": "?" * 44})
    assert found.key == key
    assert message in found.message
    assert found.line is not None


def test_no_list_is_called_a_strangers_while_a_file_that_may_hold_its_issuer_cannot_be_read(place, files):
    text = SERVICE + '[mtls]\ntrust = ["pki/missing.pem"]\ncrl = ["pki/good.crl"]\n'
    assert [one.key for one in place.findings(text)] == ["mtls.trust[0]"]


def test_lists_and_intermediates_that_are_good_are_taken(place, files):
    ca = ca_of(place, "ca")
    middle = strict_ca("middle", ca)
    (files / "pki/middle.pem").write_bytes(middle.pem)
    both = [revocation_list(one).public_bytes(Encoding.PEM) for one in (ca, middle)]
    (files / "pki/both.crl").write_bytes(b"".join(both))
    settings = place.load(with_more('intermediates = ["pki/middle.pem"]\ncrl = ["pki/both.crl"]'))
    assert settings.mtls.crl == (files / "pki/both.crl",)
    assert settings.mtls.intermediates == (files / "pki/middle.pem",)
    (found,) = place.findings(with_more('crl = ["pki/both.crl"]'))
    assert "list 2 of" in found.message
    assert "in intermediates" in str(found.hint)


def test_a_trust_domain_is_all_that_its_ca_speaks_for(place):
    def asserts(rest: str) -> tuple[str, ...]:
        text = SERVICE + f'[mtls]\ntrust = [{{ ca = "pki/ca.pem", {rest} }}]\n'
        return place.load(text).mtls.trust[0].asserts

    assert asserts('trust_domain = "a.org"') == ("spiffe://a.org/**",)
    narrower = 'trust_domain = "a.org", may_assert = ["spiffe://a.org/ops/*"]'
    assert asserts(narrower) == ("spiffe://a.org/ops/*",)
    for bad in ("A.org", "spiffe://a.org", "a.org/x", "*.a.org"):
        (found,) = place.findings(
            SERVICE + f'[mtls]\ntrust = [{{ ca = "pki/ca.pem", trust_domain = "{bad}" }}]\n'
        )
        assert found.key == "mtls.trust[0].trust_domain"


def test_a_ring_that_is_not_there_yet_may_be_made_later(place):
    for store in ("state/new", "new/and/new", "state/keyring.json"):
        assert place.findings(with_store(store)) == ()


def test_a_link_to_a_secret_is_good_if_the_secret_is(place):
    (place.folder / "kek").symlink_to("state/kek")
    assert place.findings(with_kek("file:kek")) == ()


def test_all_that_is_wrong_on_disk_is_told_at_once(place):
    found = place.findings(
        FULL.replace("pki/", "nowhere/")
        .replace("state/kek", "state/nothing")
        .replace("state/keyring.json", "pki")
    )
    assert [one.key for one in found] == [
        "mtls.trust[0]",
        "mtls.trust[1]",
        "mtls.certificate",
        "mtls.key",
        "keys.store",
        "keys.kek",
    ]


def test_a_bundle_of_cas_is_several(place):
    both = (place.folder / "pki/ca.pem").read_bytes() + (place.folder / "pki/partner.pem").read_bytes()
    (place.folder / "pki/both.pem").write_bytes(both)
    text = SERVICE + MTLS.replace("ca.pem", "both.pem") + route("/a", allow=["serial:7"])
    (found,) = place.findings(text)
    assert (found.key, found.hint) == (
        "routes[0].allow[0]", "name the CA too, as in serial:N@issuer-spki-sha256:…",
    )  # fmt: skip


def test_lists_whose_entries_are_all_wrong_are_not_called_empty(place):
    found = place.findings(SERVICE + MTLS + route("/a", allow=["CN=a"], methods=["get"]))
    assert {one.key for one in found} == {"routes[0].allow[0]", "routes[0].methods[0]"}


def test_a_thousand_routes_are_reviewed_in_a_moment(place):
    methods = ["GET", "POST", "PUT", "PATCH", "DELETE"]
    text = (
        SERVICE
        + ASSERTING
        + "".join(
            route(f"/a/r{n // 5}/**", methods=[methods[n % 5]], allow=["dns:a.org"], preflight=True)
            for n in range(1000)
        )
    )
    start = time.process_time()
    assert place.findings(text) == ()
    assert time.process_time() - start < 10


PATTERNS = st.builds(
    lambda parts, tree: "/" + "/".join([*parts, *(["**"] if tree else [])]),
    st.lists(st.sampled_from(["a", "b", "*"]), max_size=2),
    st.booleans(),
)
ROUTES = st.lists(
    st.builds(
        lambda path, methods: {"path": path, **({"methods": methods} if methods else {})},
        PATTERNS,
        st.lists(st.sampled_from(["GET", "HEAD", "POST"]), max_size=2),
    ),
    max_size=6,
)
REQUESTS = [
    ("/" + "/".join(parts), method)
    for depth in range(4)
    for parts in itertools.product("abz", repeat=depth)
    for method in ("GET", "HEAD", "POST", "BREW")
]


@given(ROUTES)
@settings(max_examples=200, deadline=None)
def test_a_route_that_is_said_to_match_never_decides_about_no_request(routes):
    made = Settings.model_validate(_frozen({"service": {"name": "a"}, "routes": routes}))
    dead = {mistake.path[1] for mistake, _ in review_routes(made)}
    policy = Policy(
        tuple(
            Rule(PathPattern.parse(one.path), "off", (), str(n), methods=methods_meant(one.methods))
            for n, one in enumerate(made.routes)
        ),
        Rule(None, "off", where="none"),
    )
    alive = {policy.rule_for(path, method).where for path, method in REQUESTS}
    assert not {str(number) for number in dead} & alive
    # The other way round, as far as one earlier route leaves nothing.
    for number, one in enumerate(made.routes):
        twins = [earlier for earlier in made.routes[:number] if earlier.path == one.path]
        if any(not twin.methods or (one.methods and set(one.methods) <= set(twin.methods)) for twin in twins):
            assert number in dead
