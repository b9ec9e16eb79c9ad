"""Out of an ASGI scope: what a hook put there, else the TLS extension, and never a header."""

from __future__ import annotations

from types import MappingProxyType

import pytest
from certificates.shapes import presented, strict_ca, strict_leaf
from cryptography import x509

from secmiddleware.identity.presentation import hands_over, presented_in
from secmiddleware.messages import PRESENTED_KEY, Presented

CA = strict_ca()
LEAF = strict_leaf(CA)
OTHER = strict_leaf(CA, subject="other")
PEM, CA_PEM = LEAF.pem.decode(), CA.pem.decode()


def extension(**tls) -> dict:
    return {"type": "http", "extensions": {"tls": tls}}


def test_a_hook_hands_over_what_it_has():
    scope = {PRESENTED_KEY: presented(LEAF, CA)}
    assert presented_in(scope) == presented(LEAF, CA)
    assert hands_over(scope)


@pytest.mark.parametrize("word", [None, "", b"", PEM, LEAF.der, {"leaf": LEAF.der}, object(), True])
def test_the_hooks_word_stands_whatever_the_extension_says(word):
    scope = extension(client_cert_chain=[PEM]) | {PRESENTED_KEY: word}
    assert presented_in(scope) is None
    assert hands_over(scope)
    assert presented_in(scope | {PRESENTED_KEY: presented(OTHER)}) == presented(OTHER)


@pytest.mark.parametrize("kind", [list, tuple])
def test_the_extension_may_hold_a_list_or_a_tuple_of_pem_or_der(kind):
    assert presented_in(extension(client_cert_chain=kind([PEM]))) == presented(LEAF)
    assert presented_in(extension(client_cert_chain=kind([PEM, CA_PEM]))) == presented(LEAF, CA)
    assert presented_in(extension(client_cert_chain=kind([LEAF.der, CA.der]))) == presented(LEAF, CA)
    assert presented_in(extension(client_cert_chain=kind([PEM]))).source == "server"


@pytest.mark.parametrize("chain", [(), [], None, "", PEM, LEAF.der, 7, {"0": PEM}, {PEM}, iter([PEM])])
def test_no_chain_is_no_certificate(chain):
    assert presented_in(extension(client_cert_chain=chain)) is None


@pytest.mark.parametrize(
    "scope",
    [
        {},
        {"extensions": None},
        {"extensions": {}},
        {"extensions": []},
        {"extensions": "tls"},
        {"extensions": {"tls": None}},
        {"extensions": {"tls": {}}},
        {"extensions": {"tls": []}},
        {"extensions": {"tls": "client_cert_chain"}},
        {"extensions": {"tls": {"client_cert_name": "CN=ops", "client_cert_error": None}}},
        {"extensions": {"TLS": {"client_cert_chain": [PEM]}}},
        {"tls": {"client_cert_chain": [PEM]}},
        {"headers": [(b"x-client-cert", LEAF.pem), (PRESENTED_KEY.encode(), LEAF.der)]},
        {"state": {PRESENTED_KEY: presented(LEAF)}},
    ],
)
def test_nothing_else_presents_anything(scope):
    assert presented_in(scope) is None


def test_a_server_that_says_nothing_of_certificates_is_known():
    assert not hands_over({"extensions": {}})
    assert not hands_over({"extensions": None})
    assert hands_over(extension())


@pytest.mark.parametrize(
    "garbage",
    ["", "hello", "-----BEGIN CERTIFICATE-----", PEM[:-10], PEM.replace("-----BEGIN", "-----BEGIN X"),
     PEM.replace("M", "*"), "-----BEGIN CERTIFICATE-----\n!\n-----END CERTIFICATE-----", None, 7, [PEM],
     "\udcff", "ü" + PEM],
)  # fmt: skip
def test_garbage_is_something_that_no_judge_takes_for_a_certificate_and_never_nothing(garbage):
    for found in (
        presented_in(extension(client_cert_chain=[garbage])),
        presented_in(extension(client_cert_chain=[garbage, CA_PEM])),
    ):
        assert isinstance(found, Presented)
        assert found.leaf != LEAF.der
        with pytest.raises(ValueError, match=r"."):
            x509.load_der_x509_certificate(found.leaf)
    behind = presented_in(extension(client_cert_chain=[PEM, garbage]))
    assert behind.leaf == LEAF.der
    assert len(behind.chain) == 1


def test_frozen_scopes_are_read_too():
    scope = MappingProxyType(
        {"extensions": MappingProxyType({"tls": MappingProxyType({"client_cert_chain": (PEM,)})})}
    )
    assert presented_in(scope) == presented(LEAF)
