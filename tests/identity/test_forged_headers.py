"""Forged, bent and hostile headers: nothing that a proxy did not write becomes a certificate."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from secmiddleware.identity.presets import PRESETS
from secmiddleware.messages import Headers, Presented, Refusal
from tests.identity import proxies
from tests.identity.proxies import (
    AMBIGUOUS,
    FORMS,
    MALFORMED,
    PROXIES,
    WITH_CHAIN,
    certificate,
    code_of,
    preset_of,
    value_of,
    with_value,
)


def _around(form: str, leaf: bytes) -> Iterator[tuple[str, Headers, str]]:
    """The same header in another place, another number, another spelling."""
    headers = PROXIES[form](leaf)
    other = PROXIES[form](certificate("p384"))
    for role in (name for name, _ in headers):
        twin = role.replace(b"-", b"_")
        half = role[::-1].replace(b"-", b"_", 1)[::-1]
        value, forged = dict(headers)[role], dict(other)[role]
        label = role.decode()
        yield f"{label} twice", (*headers, (role, value)), AMBIGUOUS
        yield f"{label} another before", ((role, forged), *headers), AMBIGUOUS
        yield f"{label} another after", (*headers, (role, forged)), AMBIGUOUS
        yield f"{label} empty after", (*headers, (role, b"")), AMBIGUOUS
        yield f"{label} twin before", ((twin, forged), *headers), AMBIGUOUS
        yield f"{label} twin after", (*headers, (twin, forged)), AMBIGUOUS
        yield f"{label} half a twin", (*headers, (half, forged)), AMBIGUOUS
        yield f"{label} twin alone", tuple((twin, v) if n == role else (n, v) for n, v in headers), AMBIGUOUS


def _bent(form: str, leaf: bytes) -> Iterator[tuple[str, bytes, str]]:
    """A value that almost is one, whatever the codec."""
    value = value_of(form, PROXIES[form](leaf))
    middle = len(value) // 2
    for label, char in {
        "LF": b"\n",
        "CR": b"\r",
        "TAB": b"\t",
        "NUL": b"\0",
        "DEL": b"\x7f",
        "fold": b"\r\n ",
    }.items():
        yield f"{label} in it", value[:middle] + char + value[middle:], AMBIGUOUS
        yield f"{label} before it", char + value, AMBIGUOUS
        yield f"{label} after it", value + char, AMBIGUOUS
    yield "nothing", b"", AMBIGUOUS
    yield "null", b"(null)", AMBIGUOUS
    yield "a placeholder", b"{http.request.tls.client.certificate_der_base64}", AMBIGUOUS
    yield "a placeholder between colons", b":{http.request.tls.client.certificate_der_base64}:", AMBIGUOUS
    yield "huge", b"A" * 500_000, MALFORMED
    yield "a hundred copies", value * 100, AMBIGUOUS if form == "envoy" else MALFORMED
    if form == "envoy":
        return
    yield "a comma before", b"," + value, MALFORMED if form.startswith("traefik") else AMBIGUOUS
    yield "a comma after", value + b",", MALFORMED if form.startswith("traefik") else AMBIGUOUS
    if not form.startswith("traefik"):
        yield "joined", value + b"," + value, AMBIGUOUS
        yield "joined with a space", value + b", " + value, AMBIGUOUS
    for label, bent in {
        "one byte less": value[:-2],
        "half of it": value[:middle],
        "no beginning": value[1:],
        "a letter after": value + b"A",
        "a space after": value + b"  ",
        "a space before": b" " + value,
        "a space in it": value[:middle] + b" " + value[middle:],
        "é": value[:middle] + b"\xc3\xa9" + value[middle:],
        "latin-1 é": value + b"\xe9",
        "quoted": b'"' + value + b'"',
        "a semicolon after": value + b";q=1",
        "only colons": b"::",
        "colon": b":",
        "words": b"SUCCESS",
        "none": b"NONE",
        "minus": b"-",
        "escape": b"%",
        "half an escape": value + b"%0",
        "NUL escape": value + b"%00",
        "a bad escape": value + b"%zz",
        "json": b"[1]",
        "dashes": b"-----",
        "begin": b"-----BEGIN CERTIFICATE-----",
        "begin and end": b"-----BEGIN CERTIFICATE----- -----END CERTIFICATE-----",
        "escaped begin": b"-----BEGIN%20CERTIFICATE-----%0A",
        "escaped end": b"-----END%20CERTIFICATE-----%0A",
    }.items():
        yield label, bent, MALFORMED


@pytest.mark.parametrize("form", FORMS)
def test_a_header_that_is_there_more_than_once_or_in_another_spelling_is_ambiguous(form: str) -> None:
    for label, headers, code in _around(form, certificate("p256")):
        assert code_of(preset_of(form).read(headers)) == code, label


@pytest.mark.parametrize("form", FORMS)
def test_a_bent_value_is_no_certificate(form: str) -> None:
    headers = PROXIES[form](certificate("p256"))
    for label, value, code in _bent(form, certificate("p256")):
        assert code_of(preset_of(form).read(with_value(form, headers, value))) == code, label


# How each form's codec can be bent: a writer that takes DER, and what to do with the base64 of it.
BASE64 = {
    "haproxy": lambda text: text,
    "caddy": lambda text: text,
    "caddy sequence": lambda text: b":" + text + b":",
    "rfc9440": lambda text: b":" + text + b":",
    "gcp-lb": lambda text: b":" + text + b":",
    "traefik": lambda text: text,
    "azure-app-service": lambda text: text,
    "cloudflare": lambda text: text,
}


@pytest.mark.parametrize("form", sorted(BASE64))
def test_base64_has_one_spelling(form: str) -> None:
    wrap, leaf = BASE64[form], proxies.certificate_with_plus()
    while len(leaf) % 3 != 1:  # two signs of padding, and bits that belong to no byte
        leaf = leaf[:1] + b"\x82" + (len(leaf) - 3).to_bytes(2, "big") + leaf[4:] + b"\xff"
    text = proxies.b64(leaf)
    headers = PROXIES[form](leaf)
    assert isinstance(preset_of(form).read(with_value(form, headers, wrap(text))), Presented)
    for label, bent in {
        "no padding": text.rstrip(b"="),
        "half the padding": text[:-1],
        "more padding": text + b"=",
        "other bits": text[:-3] + bytes([text[-3] + 1]) + b"==",
        "a space for a plus": text.replace(b"+", b" "),
        "of URLs": text.replace(b"+", b"-"),
        "with lines": text[:64] + b" " + text[64:],
        "twice": text + text,
        "twice encoded": proxies.b64(text),
        "padding in it": text[:4] + b"====" + text[4:],
        "a byte after the certificate": proxies.b64(leaf + b"\0"),
        "a byte less": proxies.b64(leaf[:-1]),
        "no certificate": proxies.b64(b"\x31" + leaf[1:]),
        "indefinite length": proxies.b64(b"\x30\x80" + leaf[4:] + b"\0\0"),
        "a length with a zero": proxies.b64(b"\x30\x83\0" + leaf[2:]),
        "a length of four bytes": proxies.b64(b"\x30\x84\0\0" + leaf[2:]),
        "empty": proxies.b64(b""),
        "an empty sequence": proxies.b64(b"\x30\0"),
        "PEM": proxies.b64(proxies.pem(leaf)),
        "raw": leaf.hex().encode(),
    }.items():
        outcome = preset_of(form).read(with_value(form, headers, wrap(bent)))
        assert code_of(outcome) == (MALFORMED if wrap(bent) else AMBIGUOUS), label


PEM = {
    "nginx": lambda text: proxies.quote(text.decode(), safe="").encode(),
    "aws-alb": lambda text: proxies.quote(text.decode(), safe="+=/").encode(),
    "aws-alb-passthrough": lambda text: proxies.quote(text.decode(), safe="+=/").encode(),
    "apache spaced": lambda text: text.replace(b"\n", b" "),
    "apache escaped": lambda text: text.replace(b" ", b"%20").replace(b"\n", b"%0a"),
    "apache encoded": proxies.b64,
    "envoy": lambda text: b'Hash=00;Cert="' + proxies.quote(text.decode(), safe="").encode() + b'"',
}


@pytest.mark.parametrize("form", sorted(PEM))
def test_pem_has_one_spelling(form: str) -> None:
    wrap, leaf = PEM[form], proxies.certificate_with_plus()
    text, body = proxies.pem(leaf), proxies.b64(leaf)
    headers = PROXIES[form](leaf)
    for good in (text, text.rstrip(b"\n")):
        outcome = preset_of(form).read(with_value(form, headers, wrap(good)))
        assert isinstance(outcome, Presented) or form == "envoy"
    bent = {
        "lower case": text.lower(),
        "lower-case begin": text.replace(b"BEGIN", b"begin"),
        "four dashes": text[1:],
        "no end": text.replace(b"-----END CERTIFICATE-----\n", b""),
        "no begin": text.partition(b"\n")[2],
        "begin twice": b"-----BEGIN CERTIFICATE-----\n" + text,
        "end twice": text + b"-----END CERTIFICATE-----\n",
        "junk before": b"x\n" + text,
        "junk after": text + b"x",
        "a line after": text + b"\n",
        "a key after": text + text.replace(b"CERTIFICATE", b"PRIVATE KEY"),
        "trusted": text.replace(b"CERTIFICATE", b"TRUSTED CERTIFICATE"),
        "x509": text.replace(b"CERTIFICATE", b"X509 CERTIFICATE"),
        "another label": text.replace(b"CERTIFICATE", b"PKCS7"),
        "no lines": b"-----BEGIN CERTIFICATE-----\n" + body + b"\n-----END CERTIFICATE-----\n",
        "no newline": text.replace(b"\n", b""),
        "an empty line": text.replace(b"\n", b"\n\n", 1),
        "a header": text.replace(b"\n", b"\nProc-Type: 4\n\n", 1),
        "a space for a plus": text.replace(b"+", b" "),
        "URL alphabet": text.replace(b"+", b"-"),
        "no padding": text.replace(b"=", b""),
        "nothing in it": b"-----BEGIN CERTIFICATE-----\n-----END CERTIFICATE-----\n",
        "no certificate in it": proxies.pem(b"\x31" + leaf[1:]),
        "a byte after": proxies.pem(leaf + b"\0"),
        "a byte less": proxies.pem(leaf[:-1]),
        "comment": b"subject=CN = x\n" + text,
        "twelve": text * 12,
        "two thousand": text * 200,
    }
    if form != "aws-alb-passthrough":
        bent["two"] = text + proxies.pem(certificate("p384"))
        bent["the same twice"] = text + text
    for label, value in bent.items():
        code = code_of(preset_of(form).read(with_value(form, headers, wrap(value))))
        assert code == MALFORMED, label


@pytest.mark.parametrize("form", ["nginx", "aws-alb", "aws-alb-passthrough", "apache escaped"])
def test_what_is_percent_encoded_is_so_once_and_a_plus_is_a_plus(form: str) -> None:
    leaf = proxies.certificate_with_plus()
    headers = PROXIES[form](leaf)
    value = value_of(form, headers)
    for label, bent in {
        "twice": value.replace(b"%", b"%25"),
        "a form's space": value.replace(b"%20", b"+"),
        "not at all": proxies.pem(leaf).replace(b"\n", b" "),
        "spaces left": value.replace(b"%20", b" "),
        "unicode": value.replace(b"%20", b"%u0020"),
        "overlong": value.replace(b"%20", b"%C0%A0"),
        "CRLF": value.replace(b"%0A", b"%0D%0A").replace(b"%0a", b"%0d%0a"),
        "NUL": value + b"%00",
        "form": value.replace(b"+", b"%20").replace(b"%2B", b"%20"),
    }.items():
        if form == "apache escaped" and label == "not at all":
            continue  # Apache's other form
        assert code_of(preset_of(form).read(with_value(form, headers, bent))) == MALFORMED, label


def test_apache_is_read_by_the_form_of_each_value_and_by_no_other_one() -> None:
    leaf, intermediate = certificate("rsa"), certificate("intermediate")
    for form in (proxies.spaced, proxies.apache_escaped, proxies.apache_encoded):
        headers = (
            (b"x-ssl-client-verify", b"SUCCESS"),
            (b"x-ssl-client-cert", form(leaf)),
            (b"x-ssl-client-cert-chain-0", proxies.spaced(intermediate)),
        )
        assert PRESETS["apache"].read(headers) == Presented(leaf, (intermediate,), "apache")
        for other in (proxies.b64, proxies.sequence, proxies.pem, proxies.escaped):
            bent = (headers[0], (b"x-ssl-client-cert", other(leaf)), headers[2])
            assert code_of(PRESETS["apache"].read(bent)) in {MALFORMED, AMBIGUOUS}


def test_the_chain_of_apache_has_no_gap_and_no_number_written_in_two_ways() -> None:
    leaf, one, two = certificate("rsa"), certificate("p256"), certificate("p384")
    verdict = ((b"x-ssl-client-verify", b"SUCCESS"), (b"x-ssl-client-cert", proxies.spaced(leaf)))

    def read(*chain: tuple[bytes, bytes]) -> Presented | Refusal | None:
        numbered = tuple((b"x-ssl-client-cert-chain-" + number, value) for number, value in chain)
        return PRESETS["apache"].read((*verdict, *numbered))

    first, second = (b"0", proxies.spaced(one)), (b"1", proxies.spaced(two))
    assert read(second, first) == Presented(leaf, (one, two), "apache")
    assert read(first, second, (b"2", b"(null)"), (b"3", b"")) == Presented(leaf, (one, two), "apache")
    assert code_of(read(second)) == AMBIGUOUS
    assert code_of(read((b"0", b"(null)"), second)) == AMBIGUOUS
    assert code_of(read(first, first)) == AMBIGUOUS
    assert code_of(read((b"0", b"junk"))) == MALFORMED
    assert code_of(read((b"0", proxies.pem(one) * 2))) == AMBIGUOUS
    for stranger in (b"00", b"-0", b"x", b"", b"999", b"0-0", b"\xb2"):  # no number: nothing of ours
        assert read((stranger, proxies.spaced(one))) == Presented(leaf, (), "apache")
    many = [(b"%d" % number, proxies.spaced(one)) for number in range(11)]
    assert code_of(read(*many)) == MALFORMED
    assert isinstance(read(*many[:10]), Presented)


@pytest.mark.parametrize("form", sorted(WITH_CHAIN))
def test_a_chain_has_ten_certificates_beside_the_leaf_and_no_more(form: str) -> None:
    chain = [certificate("p256")[:-1] + bytes([number]) for number in range(11)]
    leaf = certificate("p384")
    assert preset_of(form).read(PROXIES[form](leaf, *chain[:10])) == Presented(
        leaf, tuple(chain[:10]), preset_of(form).name
    )
    assert code_of(preset_of(form).read(PROXIES[form](leaf, *chain))) == MALFORMED


@pytest.mark.parametrize("form", ["haproxy", "rfc9440", "gcp-lb", "traefik"])
def test_a_chain_is_read_to_its_last_byte(form: str) -> None:
    leaf, one = certificate("rsa"), certificate("p256")
    role = "certificate" if form == "traefik" else "chain"
    name = PRESETS[form].roles[role].encode()
    headers = PROXIES[form](leaf, one)
    value = dict(headers)[name]
    for bent in (
        value[:-1],
        value[:-5],
        value + b"A",
        value + value[-9:],
        value.replace(b"M", b"-", 1),
        b"junk",
        b"::",
        b",",
        b":,:",
    ):
        changed = tuple((key, bent if key == name else old) for key, old in headers)
        assert code_of(PRESETS[form].read(changed)) in {MALFORMED, AMBIGUOUS}, bent[-20:]
    for separator in (b";", b" ", b",,", b", ,"):
        if form != "haproxy":
            changed = tuple(
                (key, value.replace(b",", separator) + separator if key == name else old)
                for key, old in headers
            )
            assert code_of(PRESETS[form].read(changed)) == MALFORMED


def test_certificates_one_after_another_are_told_apart_by_their_lengths() -> None:
    leaf, one, two = certificate("rsa"), certificate("p256"), certificate("p384")

    def read(chain: bytes) -> Presented | Refusal | None:
        name = b"x-ssl-client-chain-der"
        headers = tuple(pair for pair in PROXIES["haproxy"](leaf) if pair[0] != name)
        return PRESETS["haproxy"].read((*headers, (name, proxies.b64(chain))))

    assert read(one + two) == Presented(leaf, (one, two), "haproxy")
    for bent in (
        one[:-1],
        one + two[:-1],
        one + two[:3],
        one + b"\0",
        one[1:] + two,
        one + b"\x30",
        b"\0" + one,
    ):
        assert code_of(read(bent)) == MALFORMED


def test_certificates_are_together_no_longer_than_all_that_is_judged() -> None:
    chain = [b"\x30\x82" + (30_000).to_bytes(2, "big") + bytes(30_000) for _ in range(4)]
    for count, taken in ((3, True), (4, False)):
        outcome = PRESETS["traefik"].read(PROXIES["traefik"](certificate("p256"), *chain[:count]))
        assert isinstance(outcome, Presented) is taken
        assert code_of(outcome) == (None if taken else MALFORMED)


def test_a_certificate_is_no_longer_than_all_that_is_judged() -> None:
    def read(der: bytes) -> Presented | Refusal | None:
        return PRESETS["azure-app-service"].read(PROXIES["azure-app-service"](der))

    longest = 100 * 1024
    assert isinstance(read(b"\x30\x83" + (longest - 5).to_bytes(3, "big") + bytes(longest - 5)), Presented)
    assert code_of(read(b"\x30\x83" + (longest - 4).to_bytes(3, "big") + bytes(longest - 4))) == MALFORMED
    four = b"\x30\x84\x01\0\0"  # three of the four bytes of its length would make it as long as it is
    assert code_of(read(four + bytes(0x10000 + 6 - len(four)))) == MALFORMED


@pytest.mark.parametrize("form", FORMS)
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_no_bytes_at_all_bring_anything_but_a_certificate_or_a_refusal(
    form: str, data: st.DataObject
) -> None:
    headers = PROXIES[form](certificate("p256"))
    value = value_of(form, headers)
    at = data.draw(st.integers(0, len(value)))
    junk = data.draw(
        st.binary(max_size=12) | st.sampled_from((b'"', b";", b",", b"%", b"\\", b"=", b":", b"Cert="))
    )
    size = data.draw(st.integers(0, 12))
    bent = value[:at] + junk + value[at + size :]
    outcome = preset_of(form).read(with_value(form, headers, bent))
    if not isinstance(outcome, Presented):
        assert isinstance(outcome, Refusal)
    elif (
        form in BASE64 and form != "traefik"
    ):  # other bytes, but these: whether they are a certificate is judged
        assert BASE64[form](proxies.b64(outcome.leaf)) == bent
    else:
        assert outcome.leaf[:2] == b"\x30\x82"
        assert len(outcome.leaf) == 4 + int.from_bytes(outcome.leaf[2:4], "big")


@pytest.mark.parametrize("form", FORMS)
def test_hostile_values_cost_no_more_than_their_length(form: str) -> None:
    headers = PROXIES[form](certificate("p256"))
    worst = 0.0
    for piece in (
        b"A",
        b"%",
        b"%41",
        b",",
        b":",
        b";",
        b'"',
        b"\\",
        b'\\"',
        b"=",
        b"MIIB",
        b"-----BEGIN CERTIFICATE-----%0A",
        b"URI=;",
        b'a="",',
        b"-----END CERTIFICATE-----\n",
        b"URI=;x,",
        b'Subject="\\"',
        b"MII=,",
        b":MII=:,",
    ):
        value = piece * (400_000 // len(piece))
        for spelled in (
            value,
            b'Hash=a;Cert="' + value,
            b"-----BEGIN CERTIFICATE----- " + value,
            b":" + value + b":",
        ):
            began = time.thread_time()
            assert isinstance(preset_of(form).read(with_value(form, headers, spelled)), Refusal)
            worst = max(worst, time.thread_time() - began)
    assert worst < 1.0  # some ms; what is quadratic takes minutes
