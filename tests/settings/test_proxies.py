"""`[mtls]` where a proxy ends TLS: who may be it, told clearly."""

from __future__ import annotations

import os
import pwd

import pytest
from settings.documents import MTLS, SERVICE

BEHIND = SERVICE + MTLS + 'source = "nginx"\n'
PAIR = 'certificate = "pki/server.pem"\nkey = "pki/server.key"\n'


def _proxies(told: str) -> str:
    return BEHIND + f"trusted_proxies = [{told}]\n"


WRONG = {
    "a network in passing": ('"10.0.0.0/24"', "trusted_proxies[0]", "256 addresses"),
    "a network without its word": (
        '{ network = "10.0.0.0/24" }', "trusted_proxies[0].network", "256 addresses",
    ),
    "all the world without its word": (
        '{ network = "0.0.0.0/0" }', "trusted_proxies[0].network", "4294967296",
    ),
    "a network with host bits": (
        '{ network = "10.0.0.5/24", wide = true }', "trusted_proxies[0].network", "without host bits",
    ),
    "a name": ('"proxy.internal"', "trusted_proxies[0].address", "names are not looked up"),
    "a port": ('"10.0.0.5:443"', "trusted_proxies[0].address", "without a port"),
    "a zone": ('"fe80::1%eth0"', "trusted_proxies[0].address", "zone"),
    "a socket of nobody's": ('"unix"', "trusted_proxies[0]", "whose process"),
    "a socket of a user who is not there": (
        '"unix:no-such-user-here"', "trusted_proxies[0].unix", "no user of this host",
    ),
    "a socket of nobody known": ("{ unix = -1 }", "trusted_proxies[0].unix", "user's id"),
    "two ways at once": (
        '{ address = "10.0.0.5", unix = 33 }', "trusted_proxies[0]", "has address and unix",
    ),
    "no way at all": ("{ wide = true }", "trusted_proxies[0]", "has none of them"),
    "a word about nothing": (
        '{ address = "10.0.0.5", wide = true }', "trusted_proxies[0].wide", "about a network",
    ),
    "names without a CA": (
        '{ allow = ["dns:edge.internal"] }', "trusted_proxies[0].trust", "whose certificates",
    ),
    "a CA without names": (
        '{ address = "10.0.0.5", trust = ["pki/ca.pem"] }', "trusted_proxies[0].trust", "allow",
    ),
    "a CA that is not there": (
        '{ allow = ["dns:edge.internal"], trust = ["pki/none.pem"] }',
        "trusted_proxies[0].trust[0]", "no file",
    ),
    "lists without names": (
        '{ address = "10.0.0.5", crl = ["pki/crl.pem"] }', "trusted_proxies[0].crl", "without allow",
    ),
    "a key that is none": ('{ adress = "10.0.0.5" }', "trusted_proxies[0].adress", "unknown key"),
    "a number": ("5", "trusted_proxies[0]", "text"),
}  # fmt: skip


@pytest.mark.parametrize(("told", "key", "message"), WRONG.values(), ids=WRONG)
def test_a_proxy_that_is_not_told_clearly_is_a_mistake(place, told, key, message):
    text = _proxies(told).replace('source = "nginx"\n', 'source = "nginx"\n' + PAIR)
    (found,) = place.findings(text)
    assert found.key == f"mtls.{key}"
    assert message in found.message
    assert found.line is not None


@pytest.mark.parametrize(
    ("told", "key", "value"),
    [
        ('"10.0.0.5"', "address", "10.0.0.5"),
        ('"10.0.0.5/32"', "address", "10.0.0.5"),
        ('"::ffff:10.0.0.5"', "address", "10.0.0.5"),
        ('"FD00:0::5"', "address", "fd00::5"),
        ('{ network = "10.0.0.0/8", wide = true }', "network", "10.0.0.0/8"),
        ('{ network = "10.0.0.5/32" }', "network", "10.0.0.5/32"),
        ('"unix:33"', "unix", 33),
        (f'"unix:{pwd.getpwuid(os.getuid()).pw_name}"', "unix", os.getuid()),
        ("{ unix = 33 }", "unix", 33),
        ('{ allow = ["dns:edge.internal"], trust = ["pki/ca.pem"] }', "allow", ("dns:edge.internal",)),
    ],
)
def test_a_proxy_is_told_in_one_of_these_ways(place, told, key, value):
    text = _proxies(told).replace('source = "nginx"\n', 'source = "nginx"\n' + PAIR)
    (proxy,) = place.load(text).mtls.trusted_proxies
    assert getattr(proxy, key) == value


def test_a_proxy_that_shows_a_certificate_needs_a_server_that_does_tls(place):
    (found,) = place.findings(_proxies('{ allow = ["dns:edge.internal"], trust = ["pki/ca.pem"] }'))
    assert found.key == "mtls.trusted_proxies[0].allow"
    assert "none of its own" in found.message


@pytest.mark.parametrize("key", ['trusted_proxies = ["10.0.0.5"]', 'peer_address = "server"',
                                 'proxy_headers = { verify = "x-verify" }'])  # fmt: skip
def test_without_a_proxy_nothing_is_said_of_one(place, key):
    (found,) = place.findings(SERVICE + MTLS + key + "\n")
    assert found.key == f"mtls.{key.split()[0]}"
    assert 'with source "server"' in found.message


@pytest.mark.parametrize(
    ("headers", "message"),
    [
        ('{ verdict = "x-verify" }', "verify"),
        ('{ verify = "x ssl" }', "letters, digits and dashes"),
        ('{ verify = "x_ssl_verify" }', "letters, digits and dashes"),
        ('{ verify = "x-ssl-client-cert" }', "x-ssl-client-cert"),
    ],
)
def test_a_header_that_the_preset_cannot_have_is_a_mistake(place, headers, message):
    (found,) = place.findings(_proxies('"10.0.0.5"') + f"proxy_headers = {headers}\n")
    assert found.key.startswith("mtls.proxy_headers")
    assert message in found.message
