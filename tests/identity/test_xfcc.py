"""X-Forwarded-Client-Cert: the last proxy's word is found, and no client can write it."""

from __future__ import annotations

import hashlib
import time

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given, settings
from hypothesis import strategies as st

from secmiddleware.identity.presets import PRESETS
from secmiddleware.messages import Presented, Refusal
from tests.identity.proxies import b64, certificate, element, escaped, pem, signed, xfcc

VICTIM = "p384"


def read(value: bytes) -> Presented | Refusal | None:
    return PRESETS["envoy"].read(((b"x-forwarded-client-cert", value),))


def code_of(value: bytes) -> str | None:
    outcome = read(value)
    return outcome.code if isinstance(outcome, Refusal) else None


def leaf_of(value: bytes) -> bytes:
    outcome = read(value)
    assert isinstance(outcome, Presented), outcome
    return outcome.leaf


def with_uri(uri: str) -> bytes:
    """A certificate that a careless CA signed: its URI is whatever the client wanted."""
    return signed(
        ec.generate_private_key(ec.SECP256R1()),
        "client",
        [x509.UniformResourceIdentifier(uri), x509.DNSName("c")],
    )


def sent_by_envoy(leaf: bytes, uri: str, before: bytes = b"") -> bytes:
    """What Envoy makes of a certificate, its URI unquoted as it stands (envoyproxy/envoy#32945)."""
    own = element(leaf, tail=f';Subject="CN=client";URI={uri};DNS=c')
    return before + b"," + own if before else own


def digest(leaf: bytes) -> str:
    return hashlib.sha256(leaf).hexdigest()


def test_the_last_element_is_the_one_that_counts() -> None:
    ours, first = certificate("p256"), certificate("rsa")
    for earlier in (
        element(first),
        xfcc(first),
        element(first) + b"," + element(certificate("long")),
        b'By=spiffe://forged;Hash=00;Subject="CN=admin"',
        b'Subject="a, b; Cert=x"',
        b'Subject=""',
        b'subject="\\"\\\\"',
    ):
        assert leaf_of(earlier + b"," + xfcc(ours)) == ours, earlier


@pytest.mark.parametrize(
    "tail",
    [
        "",
        ';Subject=""',
        ';Subject="CN=Zo\\C3\\AB\\, \\"x\\";y=\\\\,Cert=,O=a\\+b"',
        ';Subject="a,b;Cert=c=d"',
        ";URI=",
        ";URI=spiffe://a/b;URI=spiffe://c/d;DNS=a;DNS=b",
        ";URI=urn:abc:principal(grpc;None;i001);DNS=a",
        ";URI=urn:a;b=c;d;DNS=x",
        ";URI=urn:a;;b",
        ';URI="quoted, as the documents say; with = too"',
        ";URI=urn:{x}",
    ],
)
def test_what_else_envoy_says_of_a_certificate_changes_nothing(tail: str) -> None:
    ours = certificate("utf8")
    assert leaf_of(element(ours, tail=tail)) == ours
    assert leaf_of(element(ours, by="urn:abc:servicePrincipal(a;b;c)", tail=tail)) == ours
    assert leaf_of(element(ours, tail=tail).replace(b"By=", b"By=urn:a;BY=", 1)) == ours


def test_a_certificate_with_many_names_is_read_and_one_with_endlessly_many_is_not() -> None:
    ours = certificate("long")
    assert leaf_of(element(ours, tail=";DNS=host.example" * 1900)) == ours
    assert code_of(element(ours, tail=";DNS=host.example" * 2000)) == "header_ambiguous"


def test_keys_have_no_case() -> None:
    ours = certificate("p256")
    value = element(ours, certificate("rsa"))
    for bent in (
        value.replace(b"Cert=", b"CERT="),
        value.replace(b"Hash=", b"hash="),
        value.replace(b"Chain=", b"chaIN="),
    ):
        assert leaf_of(bent) == ours


def test_the_chain_has_the_leaf_in_it_and_is_told_apart() -> None:
    ours, one, two = certificate("p256"), certificate("rsa"), certificate("long")
    assert read(element(ours, one, two)) == Presented(ours, (one, two), "envoy")
    assert read(element(ours)) == Presented(ours, (), "envoy")


# What a client can put where Envoy writes it out: into its own header, and into its own certificate.


def forged(victim: bytes) -> str:
    return element(victim).decode()


@pytest.mark.parametrize("config", ["cert", "no cert"])
@pytest.mark.parametrize(
    "uri",
    [
        "x,{forged}",
        "x;y,{forged}",
        "x,{forged},{forged}",
        'x,By=a;Hash=00;Subject="",{forged}',
        'x,Subject="a",{forged}',
        ",{forged}",
        "{forged}",
        "x;{forged}",
        'x";{forged}',
        'x",{forged}',
        'x\\",{forged}',
        'x="",{forged}',
        'x;Subject="",{forged}',
        'x;Subject="a";DNS=b,{forged}',
        'x;Chain="",{forged}',
        'x;a="b",{forged}',
        "x;Hash={digest};Cert=",
        'x;Cert="{pem}"',
        'x;Hash={digest};Cert="{pem}";Subject="',
        'x,Hash={digest};Cert="{pem}"',
        'x,HASH={digest};CERT="{pem}";SUBJECT=""',
    ],
)
def test_no_uri_in_a_clients_certificate_makes_it_somebody_else(uri: str, config: str) -> None:
    victim = certificate(VICTIM)
    words = {"forged": forged(victim), "digest": digest(victim), "pem": escaped(victim).decode()}
    for word, value in words.items():
        uri = uri.replace("{" + word + "}", value)
    leaf = with_uri(uri)
    for before in (b"", element(certificate("rsa")), b'Subject="x"'):
        for subject in (b';Subject="CN=client"', b""):
            value = sent_by_envoy(leaf, uri, before).replace(b';Subject="CN=client"', subject, 1)
            if config == "no cert":  # an Envoy that was told to send no certificate: nobody gets in
                value = value.replace(b';Cert="' + escaped(leaf) + b'"', b"", 1)
            outcome = read(value)
            if isinstance(outcome, Presented):
                assert outcome.leaf == leaf
                assert config == "cert"
            else:
                assert isinstance(outcome, Refusal)


@pytest.mark.parametrize(
    "uri",
    [
        "urn:a,b",
        "urn:a;b",
        'urn:a;b="c"',
        'urn:a"b',
        "urn:a=b",
        'http://x/?a=1,2;b="3"',
        "urn:a\\",
        ",",
        ";",
        '"',
        "=",
    ],
)
def test_an_honest_uri_with_a_delimiter_in_it_is_read_or_refused(uri: str) -> None:
    leaf = with_uri(uri)
    outcome = read(sent_by_envoy(leaf, uri))
    if any(char in uri for char in ',"'):
        assert outcome == Refusal("header_ambiguous", "mtls.proxy_headers.certificate")
    else:
        assert outcome == Presented(leaf, (), "envoy")


@pytest.mark.parametrize(
    "sent",
    [
        '"',
        'x="',
        'By="',
        'Subject="',
        'Subject="\\',
        "Subject=\\",
        'Subject="a"b',
        'Cert="',
        ",",
        ";",
        "=",
        "",
        " ",
        "x",
        "By",
        "By=a,",
        'By="a',
        "{forged},",
        '{forged},By="',
        'Hash={digest};Cert="{pem}";Subject="',
        'By=a;Cert="{pem}";Hash={digest};Subject=\\"',
    ],
)
def test_no_header_of_the_client_before_the_real_element_makes_it_somebody_else(sent: str) -> None:
    """APPEND_FORWARD keeps what the client sent, and appends the real one."""
    victim, ours = certificate(VICTIM), certificate("p256")
    for word, value in {
        "forged": forged(victim),
        "digest": digest(victim),
        "pem": escaped(victim).decode(),
    }.items():
        sent = sent.replace("{" + word + "}", value)
    outcome = read(sent.encode() + b"," + xfcc(ours))
    assert isinstance(outcome, Refusal) or (isinstance(outcome, Presented) and outcome.leaf == ours)


FORGED: dict[str, tuple[bytes, str]] = {}


def _forge(label: str, value: bytes, code: str) -> None:
    FORGED[label] = value, code


def _fill() -> None:
    ours, other = certificate("p256"), certificate(VICTIM)
    good, cert, hashed = element(ours), b'Cert="' + escaped(ours) + b'"', b"Hash=" + digest(ours).encode()
    strange = b"Hash=" + digest(other).encode()
    ambiguous, malformed = "header_ambiguous", "certificate_malformed"
    for label, value in {
        "hash of another": good.replace(hashed, strange),
        "hash in capitals": good.replace(hashed, hashed.upper().replace(b"HASH", b"Hash")),
        "hash cut": good.replace(hashed, hashed[:-1]),
        "hash empty": good.replace(hashed, b"Hash="),
        "sha-1": good.replace(hashed, b"Hash=" + b"0" * 40),
        "hash base64": good.replace(hashed, b"Hash=" + b64(hashlib.sha256(ours).digest()).replace(b"=", b"")),
        "hash twice": good + b";" + hashed,
        "two hashes": hashed + b";" + good.replace(hashed, strange),
        "hash twice, case": good + b";hash=" + digest(ours).encode(),
        "cert twice": good + b";" + cert,
        "another cert": good + b';cert="' + escaped(other) + b'"',
        "chain twice": element(ours, other) + b';CHAIN="x"',
        "subject twice": good + b';Subject="a";Subject="b"',
        "cert unquoted": good.replace(cert, b"Cert=" + escaped(ours)),
        "cert half quoted": good.replace(cert, cert[:-1]),
        "cert quoted in part": good.replace(cert, cert + b"x"),
        "space after quote": good.replace(cert, cert + b" "),
        "space after comma": b'Subject="a", ' + good,
        "unknown key": good + b";Foo=bar",
        "unknown key first": b"Foo=bar;" + good,
        "key only": good + b";Cert",
        "no pair": good + b";x",
        "empty pair": good + b";",
        "empty first": b";" + good,
        "empty element": good + b",",
        "empty element first": b"," + good,
        "empty element amid": b'Subject="a",,' + good,
        "semicolon for comma": good + b";" + good,
        "unquoted subject": good + b";Subject=CN=x",
        "quote in URI": good + b';URI=a"b',
        "quote after URI": good + b';URI=a"',
        "quote in DNS": good + b';DNS=a"b"',
        "quote in key": good + b';UR"I=a',
        "open quote": good + b';Subject="a',
        "escape open": good + b';Subject="a\\',
        "escaped end": good + b';Subject="a\\"',
        "comma in URI": good + b";URI=a,b",
        "placeholder": b"{cert}",
        "words": b"SUCCESS",
        "colon": b":" + b64(ours) + b":",
        "base64": b64(ours),
        "URI after quoted": good + b';URI="a";b',
        "unquoted URI before": b"URI=a;DNS=b," + good,
        "by in the middle of nothing": b"By=a;URI=b," + good,
        "equals first": b"=" + good,
        "two equals": good.replace(b"Cert=", b"Cert=="),
        "colon for equals": good.replace(b"Cert=", b"Cert:"),
        "key with NUL escape": good.replace(b"Cert=", b"Cert%00="),
        "key spaced": good.replace(b"Cert=", b"Cert ="),
    }.items():
        _forge(label, value, ambiguous)
    for label, value in {
        "no hash": good.replace(hashed + b";", b""),
        "space before hash": good.replace(b"Hash=", b" Hash="),
        "no cert": good.replace(b";" + cert, b""),
        "only by": b"By=a",
        "only hash": hashed,
        "only chain": hashed + b';Chain="' + escaped(ours) + b'"',
        "cert empty": good.replace(cert, b'Cert=""'),
        "two certs in one": good.replace(cert, b'Cert="' + escaped(ours, other) + b'"'),
        "cert raw PEM": good.replace(cert, b'Cert="' + pem(ours).replace(b"\n", b" ") + b'"'),
        "cert twice encoded": good.replace(b"%", b"%25"),
        "cert base64": good.replace(cert, b'Cert="' + b64(ours) + b'"'),
        "cert escaped quote": good.replace(cert, cert[:-1] + b'\\""'),
        "cert plus": good.replace(b"%20", b"+"),
        "cert with junk": good.replace(cert, cert[:-1] + b'x"'),
        "chain junk": good + b';Chain="x"',
        "chain empty": good + b';Chain=""',
        "chain half": good + b';Chain="' + escaped(ours)[:-9] + b'"',
        "last without": element(other) + b',Subject="a"',
        "an earlier cert junk": b'Cert="x",' + good,
        "earlier two certs": b'Cert="' + escaped(ours, other) + b'",' + good,
        "chain of twelve": good + b';Chain="' + escaped(*[other] * 12) + b'"',
        "long": good + b";DNS=" + b"a" * 500_000,
    }.items():
        _forge(label, value, malformed)


_fill()


@pytest.mark.parametrize("label", FORGED)
def test_a_bent_element_is_refused(label: str) -> None:
    value, code = FORGED[label]
    assert code_of(value) == code


def test_a_client_that_quotes_its_own_digest_is_itself() -> None:
    """The digest of the last element is looked for in the certificates before it, not in its own."""
    ours = certificate("p256")
    assert leaf_of(element(ours) + b"," + element(ours)) == ours


text = st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E), max_size=30)


@settings(max_examples=200, deadline=None)
@given(
    subject=text,
    uris=st.lists(text, max_size=3),
    before=st.lists(st.sampled_from(("rsa", "long")), max_size=2),
)
def test_whatever_stands_in_a_certificate_it_is_read_as_itself_or_refused(
    subject: str, uris: list[str], before: list[str]
) -> None:
    ours = certificate("p256")
    quoted = subject.replace("\\", "\\\\").replace('"', '\\"')
    tail = f';Subject="{quoted}"' + "".join(f";URI={uri}" for uri in uris)
    value = b",".join((*(element(certificate(kind)) for kind in before), element(ours, tail=tail)))
    outcome = read(value)
    if any(char in uri for uri in uris for char in ',";'):
        assert isinstance(outcome, Refusal) or outcome == Presented(ours, (), "envoy")
    else:
        assert outcome == Presented(ours, (), "envoy")


def test_hostile_headers_cost_no_more_than_their_length() -> None:
    ours = element(certificate("p256"))
    for piece in (
        b"a",
        b"=",
        b";",
        b'"',
        b"\\",
        b'\\"',
        b'a="',
        b"URI=;",
        b"URI=a,",
        b'Subject="",',
        b"By=x;y,",
        b"Hash=a,",
    ):
        value = piece * (380_000 // len(piece))
        for whole in (
            value,
            value + b"," + ours,
            ours + b";URI=" + value,
            ours + b';Subject="' + value,
            value + b'"',
        ):
            began = time.thread_time()
            read(whole)
            assert time.thread_time() - began < 1.0  # some ms; what is quadratic takes minutes
