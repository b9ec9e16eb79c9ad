"""What an environ says of the client's certificate, and whose word it is."""

from __future__ import annotations

import base64
import ssl
import textwrap
from typing import Any

import pytest
from certificates.shapes import Made, strict_ca, strict_leaf
from hypothesis import given
from hypothesis import strategies as st

from secmiddleware.certificates.judgement import Trust
from secmiddleware.certificates.trust import TrustAnchor
from secmiddleware.engine import Places, Snapshot, admit
from secmiddleware.environs import head_of
from secmiddleware.fields.limits import Limits
from secmiddleware.identity.environ_certificates import presented_by
from secmiddleware.identity.policy import Policy, Rule
from secmiddleware.messages import PRESENTED_KEY, Presented, Refusal
from secmiddleware.server_kinds_wsgi import kind_of_environ, silence_of, twins_of

CA = strict_ca()
LEAF = strict_leaf(CA)
OTHER = strict_leaf(CA, subject="other")
EMPTY = Presented(b"")


def pem(made: Made) -> str:
    return made.pem.decode("ascii")


def environ(**keys: Any) -> dict[str, Any]:
    return {"wsgi.url_scheme": "https", "REQUEST_METHOD": "GET", "PATH_INFO": "/", **keys}


def apache(**keys: Any) -> dict[str, Any]:
    verdict = {"SSL_CLIENT_VERIFY": "SUCCESS", "SSL_CLIENT_CERT": pem(LEAF)}
    return environ(**{"mod_wsgi.version": (4, 9, 4), "SERVER_SOFTWARE": "Apache/2.4", **verdict, **keys})


def uwsgi(**keys: Any) -> dict[str, Any]:
    return environ(
        **{"uwsgi.version": b"2.0.21", "HTTPS_CLIENT_CERTIFICATE": LEAF.der.decode("latin-1"), **keys}
    )


def cheroot(**keys: Any) -> dict[str, Any]:
    verdict = {"SSL_CLIENT_VERIFY": "SUCCESS", "SSL_CLIENT_CERT": pem(LEAF).strip()}
    return environ(**{"SERVER_SOFTWARE": "Cheroot/11.1.2", **verdict, **keys})


def code_of(given: dict[str, Any]) -> str | None:
    """The refusal of a request with this environ where a certificate is required; None where it is let in."""
    now = LEAF.certificate.not_valid_before_utc
    snapshot = Snapshot(
        Trust((TrustAnchor(CA.certificate),)),
        Policy((), Rule(None, "required")),
        Places((), Limits(1000)),
        None,
    )
    verdict = admit(head_of(given), snapshot, now)
    return verdict.code if isinstance(verdict, Refusal) else None


@pytest.mark.parametrize("server", [apache, cheroot, uwsgi])
def test_each_server_is_read_by_its_own_keys(server: Any) -> None:
    assert presented_by(server()) == Presented(LEAF.der)
    assert code_of(server()) is None


def test_apache_hands_over_the_chain_in_its_order() -> None:
    given = apache(SSL_CLIENT_CERT_CHAIN_0=pem(OTHER), SSL_CLIENT_CERT_CHAIN_1=pem(CA))
    assert presented_by(given) == Presented(LEAF.der, (OTHER.der, CA.der))


def test_a_leaf_that_stands_in_the_chain_too_is_no_link_of_it() -> None:
    given = apache(SSL_CLIENT_CERT_CHAIN_0=pem(LEAF), SSL_CLIENT_CERT_CHAIN_1=pem(CA))
    assert presented_by(given) == Presented(LEAF.der, (CA.der,))


def test_a_chain_that_is_too_long_is_refused_and_not_cut_to_a_good_one() -> None:
    chain = {f"SSL_CLIENT_CERT_CHAIN_{number}": pem(CA) for number in range(5000)}
    assert code_of(apache(**chain)) == "certificate_malformed"


def test_a_chain_with_a_broken_link_is_malformed() -> None:
    assert code_of(apache(SSL_CLIENT_CERT_CHAIN_0="")) == "certificate_malformed"


@pytest.mark.parametrize("server", [apache, cheroot])
def test_no_certificate_is_none_only_where_the_server_says_so(server: Any) -> None:
    for nothing in ({"SSL_CLIENT_VERIFY": "NONE", "SSL_CLIENT_CERT": ""}, {"SSL_CLIENT_VERIFY": "NONE"}):
        given = server()
        del given["SSL_CLIENT_CERT"]
        assert presented_by({**given, **nothing}) is None
    assert code_of(server(SSL_CLIENT_VERIFY="NONE")) == "certificate_malformed"  # and yet there is one


@pytest.mark.parametrize(
    "verdict",
    ["FAILED:unable to get local issuer certificate", "FAILED", "success", "SUCCESS ", "", "0", None, True],
)
@pytest.mark.parametrize("server", [apache, cheroot])
def test_a_good_certificate_that_the_server_did_not_accept_is_untrusted(server: Any, verdict: Any) -> None:
    assert code_of(server(SSL_CLIENT_VERIFY=verdict)) == "certificate_untrusted"


def test_a_verdict_that_is_missing_is_a_denial() -> None:
    given = apache()
    del given["SSL_CLIENT_VERIFY"]
    assert code_of(given) == "certificate_untrusted"


def test_a_chain_that_apache_did_not_look_at_is_looked_at_here() -> None:
    assert code_of(apache(SSL_CLIENT_VERIFY="GENEROUS")) is None
    stranger = strict_leaf(strict_ca("strange"))
    given = apache(SSL_CLIENT_VERIFY="GENEROUS", SSL_CLIENT_CERT=pem(stranger))
    assert code_of(given) == "certificate_untrusted"
    assert (
        code_of(cheroot(SSL_CLIENT_VERIFY="GENEROUS")) == "certificate_untrusted"
    )  # not a word of cheroot's


@pytest.mark.parametrize("resumed", ["Initial", "Resumed"])
def test_a_resumed_session_is_as_good_as_what_is_left_of_its_chain(resumed: str) -> None:
    assert code_of(apache(SSL_SESSION_RESUMED=resumed)) is None
    between = strict_ca("between", CA)
    far = strict_leaf(between)
    given = apache(SSL_SESSION_RESUMED=resumed, SSL_CLIENT_CERT=pem(far))
    assert code_of(given) == "certificate_untrusted"
    assert code_of({**given, "SSL_CLIENT_CERT_CHAIN_0": pem(between)}) is None


# --- Whose word it is.


@pytest.mark.parametrize(
    "mark",
    [
        {"SERVER_SOFTWARE": "gunicorn/27.0.1", "gunicorn.socket": object()},
        {"SERVER_SOFTWARE": "waitress"},
        {"SERVER_SOFTWARE": "Granian"},
        {"SERVER_SOFTWARE": "WSGIServer/0.2 CPython/3.11.7"},
        {"SERVER_SOFTWARE": "nginx/1.22"},
        {},
    ],
)
def test_the_keys_of_another_server_are_nobodys_word(mark: dict[str, Any]) -> None:
    keys = {**apache(), **uwsgi(), **cheroot()}
    for key in ("mod_wsgi.version", "uwsgi.version", "SERVER_SOFTWARE"):
        del keys[key]
    assert presented_by({**keys, **mark}) is None
    assert code_of({**keys, **mark}) == "certificate_missing"


def test_apache_is_not_read_by_the_keys_of_uwsgi_nor_the_other_way_round() -> None:
    nothing = {"SSL_CLIENT_VERIFY": "NONE", "SSL_CLIENT_CERT": ""}
    assert presented_by(apache(**nothing, HTTPS_CLIENT_CERTIFICATE=LEAF.der.decode("latin-1"))) is None
    given = {**apache(), **uwsgi()}
    del given["mod_wsgi.version"], given["HTTPS_CLIENT_CERTIFICATE"]
    assert presented_by(given) is None


def test_the_marks_of_two_servers_are_no_server() -> None:
    for two in ({**apache(), **uwsgi()}, {**apache(), "gunicorn.socket": object()}):
        assert presented_by(two) == EMPTY
        assert code_of(two) == "certificate_malformed"
        kind = kind_of_environ(two)
        assert silence_of(kind, two) is not None
        assert twins_of(kind, "nginx") is not None


def test_what_a_hook_says_stands_whatever_the_server_says() -> None:
    for server in (apache, cheroot, uwsgi):
        assert presented_by(server(**{PRESENTED_KEY: None})) is None
        assert presented_by(server(**{PRESENTED_KEY: Presented(OTHER.der)})) == Presented(OTHER.der)
        assert presented_by(server(**{PRESENTED_KEY: pem(OTHER)})) is None


@pytest.mark.parametrize("server", [apache, cheroot, uwsgi])
def test_a_certificate_without_tls_contradicts_itself(server: Any) -> None:
    assert code_of(server(**{"wsgi.url_scheme": "http"})) == "certificate_malformed"


def test_werkzeugs_pem_must_be_what_its_connection_says() -> None:
    given = environ(**{"werkzeug.socket": object(), "SERVER_SOFTWARE": "Werkzeug/3.1.9"})
    assert presented_by(given) is None
    assert presented_by({**given, "SSL_CLIENT_CERT": pem(LEAF)}) == EMPTY


def test_uwsgis_pem_and_its_name_must_be_what_its_der_says() -> None:
    assert presented_by(uwsgi(HTTPS_CC=pem(LEAF), HTTPS_DN="/CN=leaf")) == Presented(LEAF.der)
    assert presented_by(uwsgi(HTTPS_CC=pem(OTHER))) == EMPTY
    given = uwsgi(HTTPS_DN="/CN=leaf")
    del given["HTTPS_CLIENT_CERTIFICATE"]
    assert presented_by(given) == EMPTY
    del given["HTTPS_DN"]
    assert presented_by(given) is None


@given(st.binary(max_size=300))
def test_any_der_comes_out_of_each_servers_keys_as_it_was(der: bytes) -> None:
    text = ssl.DER_cert_to_PEM_cert(der) if der else ""
    if der:
        for server in (apache, cheroot):
            assert presented_by(server(SSL_CLIENT_CERT=text)) == Presented(der)
    assert presented_by(uwsgi(HTTPS_CLIENT_CERTIFICATE=der.decode("latin-1"))) == Presented(der)


@given(st.text(max_size=200))
def test_no_text_raises_and_none_is_accepted(text: str) -> None:
    for given_ in (apache(SSL_CLIENT_CERT=text), uwsgi(HTTPS_CLIENT_CERTIFICATE=text)):
        assert code_of(given_) in ("certificate_malformed", "certificate_untrusted", "certificate_missing")


BODY = "\n".join(textwrap.wrap(base64.b64encode(LEAF.der).decode(), 64))


@pytest.mark.parametrize(
    "text",
    [
        pem(LEAF) + pem(OTHER),
        pem(LEAF)[:-30],
        pem(LEAF)[:400] + pem(LEAF)[500:],
        pem(LEAF).replace("\n", "\n!", 2),
        pem(LEAF).replace("CERTIFICATE", "TRUSTED CERTIFICATE"),
        f"-----BEGIN CERTIFICATE-----\n{BODY}==\n-----END CERTIFICATE-----",
        f"x\n{pem(LEAF)}",
        BODY,
        "(null)",
        LEAF.der.decode("latin-1"),
        LEAF.pem,
        7,
    ],
)
def test_what_is_not_exactly_one_certificate_is_malformed(text: Any) -> None:
    assert code_of(apache(SSL_CLIENT_CERT=text)) == "certificate_malformed"


def test_a_kind_is_told_by_any_product_that_its_server_names() -> None:
    names = {
        "CherryPy/18.10 Cheroot/11.1.2": "cheroot",
        "Cheroot/10.0.1": "cheroot",
        "gunicorn/23.0.0": "gunicorn",
        "Werkzeug/3.1.9 Python/3.13": "werkzeug",
        "WSGIServer/0.2 CPython/3.12.1": "wsgiref",
        "waitress": "waitress",
        "Granian": "granian",
        "NotCheroot/1": "unknown",
        "": "unnamed",
    }
    for software, name in names.items():
        assert kind_of_environ({"SERVER_SOFTWARE": software}).name == name, software
    assert kind_of_environ({}).name == "unnamed"
    assert kind_of_environ({"SERVER_SOFTWARE": 7}).name == "unnamed"


def test_a_server_that_has_only_a_mark_is_no_test_client_whose_target_may_be_anything() -> None:
    for target in ("http://x/admin", "/caf\xe9"):
        assert head_of(uwsgi(REQUEST_URI=target)).raw_path == target.encode("latin-1")
        assert head_of(environ(REQUEST_URI=target)).raw_path is None
