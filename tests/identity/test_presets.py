"""Presets: what a proxy wrote comes back, and nothing that it did not write becomes a certificate."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from secmiddleware.identity.presets import PRESETS, Preset
from secmiddleware.messages import Headers, Presented, Refusal
from tests.identity import proxies
from tests.identity.proxies import KINDS, NOBODY, PROXIES, WITH_CHAIN, certificate

AMBIGUOUS, MALFORMED = "header_ambiguous", "certificate_malformed"
UNTRUSTED, DENIED = "certificate_untrusted", "proxy_untrusted"

FORMS = sorted(PROXIES)


def preset_of(form: str) -> Preset:
    return PRESETS[form.partition(" ")[0]]


def header_of(form: str) -> bytes:
    return preset_of(form).roles["certificate"].encode()


def value_of(form: str, headers: Headers) -> bytes:
    (value,) = (value for name, value in headers if name == header_of(form))
    return value


def with_value(form: str, headers: Headers, value: bytes) -> Headers:
    return tuple((name, value if name == header_of(form) else old) for name, old in headers)


def code_of(outcome: object) -> str | None:
    return outcome.code if isinstance(outcome, Refusal) else None


def ders() -> st.SearchStrategy[bytes]:
    """Certificates, and what is as long as one says it is."""
    shaped = st.binary(min_size=128, max_size=2000).map(
        lambda body: (
            b"\x30\x82" + len(body).to_bytes(2, "big") + body
            if len(body) > 255
            else b"\x30\x81%c" % len(body) + body
        )
    )
    return st.sampled_from(KINDS).map(certificate) | shaped


# What was written comes back.


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", KINDS)
def test_a_certificate_of_any_kind_comes_back_from_every_proxy(form: str, kind: str) -> None:
    leaf = certificate(kind)
    presented = preset_of(form).read(PROXIES[form](leaf))
    assert presented == Presented(leaf, (), preset_of(form).name)


@pytest.mark.parametrize("form", FORMS)
@settings(max_examples=40, deadline=None)
@given(
    leaf=ders(),
    chain=st.lists(ders(), max_size=10),
    others=st.lists(st.sampled_from((b"accept", b"host", b"x-id"))),
)
def test_leaf_and_chain_come_back_in_their_order(
    form: str, leaf: bytes, chain: list[bytes], others: list[bytes]
) -> None:
    rest = tuple((name, b"anything, {at} all") for name in others)
    presented = preset_of(form).read((*rest, *PROXIES[form](leaf, *chain), *rest))
    expected = tuple(der for der in chain if der != leaf) if form in WITH_CHAIN else ()
    assert presented == Presented(leaf, expected, preset_of(form).name)


@pytest.mark.parametrize("form", sorted(NOBODY))
def test_only_a_proxy_that_says_so_had_no_certificate(form: str) -> None:
    assert preset_of(form).read(NOBODY[form]) is None


@pytest.mark.parametrize("form", sorted(NOBODY))
def test_a_certificate_beside_the_word_that_there_was_none_is_refused(form: str) -> None:
    if not NOBODY[form]:
        return  # without a verdict the header says that there was one
    leaf = certificate("p256")
    for name, value in PROXIES[form](leaf, leaf):
        if value in (b"", b"(null)") or name in dict(PRESETS_WITH_VERDICT[form]):
            continue
        headers = tuple(pair for pair in NOBODY[form] if pair[0] != name)
        assert code_of(preset_of(form).read((*headers, (name, value)))) == AMBIGUOUS, name


PRESETS_WITH_VERDICT: dict[str, list[tuple[bytes, bytes]]] = {
    form: [pair for pair in NOBODY[form] if pair[1] in (b"NONE", b"0", b"true", b"false")]
    for form in NOBODY
    if NOBODY[form]
}


# Verdicts.


@pytest.mark.parametrize("form", sorted(PRESETS_WITH_VERDICT))
def test_without_its_whole_verdict_nothing_is_believed(form: str) -> None:
    leaf = certificate("p256")
    for missing, _ in PRESETS_WITH_VERDICT[form]:
        for headers in (PROXIES[form](leaf), NOBODY[form]):
            less = tuple(pair for pair in headers if pair[0] != missing)
            assert code_of(preset_of(form).read(less)) == DENIED
            underscored = (*less, (missing.replace(b"-", b"_"), dict(headers)[missing]))
            assert code_of(preset_of(form).read(underscored)) == AMBIGUOUS
    assert code_of(preset_of(form).read(())) == DENIED


VERDICTS: list[tuple[str, dict[bytes, bytes], str]] = [
    *(
        (form, {b"x-ssl-client-verify": word}, UNTRUSTED)
        for form in ("nginx", "apache spaced", "apache escaped", "apache encoded")
        for word in (
            b"FAILED:unable to verify the first certificate",
            b"FAILED:certificate has expired",
            b"FAILED",
            b"success",
            b"SUCCESS ",
            b" SUCCESS",
            b"SUCCESSFUL",
            b"GENEROUS",
            b"OK",
            b"0",
            b"1",
            b"true",
            b"none",
            b"NONE ",
            b"\xef\xbc\xb3UCCESS",
            b"SUCCESS;x",
        )
    ),
    *(
        (form, {b"x-ssl-client-verify": word}, AMBIGUOUS)
        for form in ("nginx", "apache spaced", "haproxy")
        for word in (
            b"",
            b"(null)",
            b"SUCCESS,SUCCESS",
            b"NONE, SUCCESS",
            b"SUCCESS\n",
            b"SUCCESS\0",
            b"\tSUCCESS",
            b"{verify}",
            b"NONE" if form != "haproxy" else b"0,0",
        )
    ),
    *(
        ("haproxy", {b"x-ssl-client-verify": word}, UNTRUSTED)
        for word in (
            b"1",
            b"2",
            b"18",
            b"20",
            b"21",
            b"23",
            b"00",
            b"010",
            b"10 ",
            b"-0",
            b"0x0",
            b"0.0",
            b"SUCCESS",
            b"ten",
        )
    ),
    ("haproxy", {b"x-ssl-client-verify": b"10"}, "certificate_expired"),
    ("haproxy", {b"x-ssl-client-used": b"0"}, AMBIGUOUS),  # nobody's certificate
    ("haproxy", {b"x-ssl-client-used": b"0", b"x-ssl-client-verify": b"10"}, AMBIGUOUS),
    *(("haproxy", {b"x-ssl-client-used": word}, UNTRUSTED) for word in (b"2", b"01", b"true", b"yes", b"1 ")),
    *(("haproxy", {b"x-ssl-client-used": word}, AMBIGUOUS) for word in (b"", b"1,1", b"1\r\n", b"(null)")),
    ("gcp-lb", {b"x-client-cert-chain-verified": b"false"}, UNTRUSTED),
    ("gcp-lb", {b"x-client-cert-present": b"false"}, AMBIGUOUS),
    ("gcp-lb", {b"x-client-cert-present": b"false", b"x-client-cert-chain-verified": b"false"}, AMBIGUOUS),
    *(
        ("gcp-lb", {name: word}, UNTRUSTED)
        for name in (b"x-client-cert-chain-verified", b"x-client-cert-present")
        for word in (b"True", b"1", b"yes", b"true ", b"SUCCESS")
    ),
    *(
        ("gcp-lb", {name: word}, AMBIGUOUS)
        for name in (b"x-client-cert-chain-verified", b"x-client-cert-present")
        for word in (b"", b"true,true", b"{client_cert_present}")
    ),
    ("cloudflare", {b"cf-cert-revoked": b"true"}, "certificate_revoked"),
    ("cloudflare", {b"cf-cert-revoked": b"true", b"cf-cert-verified": b"false"}, "certificate_revoked"),
    ("cloudflare", {b"cf-cert-verified": b"false"}, UNTRUSTED),
    ("cloudflare", {b"cf-cert-presented": b"false"}, AMBIGUOUS),
    ("cloudflare", {b"cf-cert-presented": b"false", b"cf-cert-verified": b"false"}, AMBIGUOUS),
    (
        "cloudflare",
        {b"cf-cert-presented": b"false", b"cf-cert-verified": b"false", b"cf-cert-revoked": b"true"},
        AMBIGUOUS,
    ),
    *(
        ("cloudflare", {name: word}, UNTRUSTED)
        for name in (b"cf-cert-presented", b"cf-cert-verified", b"cf-cert-revoked")
        for word in (b"1", b"0", b"TRUE", b"SUCCESS")
    ),
]


@pytest.mark.parametrize(("form", "said", "code"), VERDICTS)
def test_a_verdict_is_believed_to_the_letter(form: str, said: dict[bytes, bytes], code: str) -> None:
    headers = tuple((name, said.get(name, value)) for name, value in PROXIES[form](certificate("p256")))
    assert code_of(preset_of(form).read(headers)) == code


@pytest.mark.parametrize("form", sorted(PRESETS_WITH_VERDICT))
def test_a_good_certificate_that_is_not_there_is_refused(form: str) -> None:
    headers = PROXIES[form](certificate("p256"))
    less = tuple(pair for pair in headers if pair[0] != header_of(form))
    for nothing in (less, *(with_value(form, headers, blank) for blank in (b"", b"(null)"))):
        assert code_of(preset_of(form).read(nothing)) == AMBIGUOUS


def test_a_chain_without_a_leaf_is_refused() -> None:
    chain = (b"client-cert-chain", proxies.sequence(certificate("p256")))
    assert code_of(PRESETS["rfc9440"].read((chain,))) == AMBIGUOUS


# Forgeries.


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
            began = time.perf_counter()
            assert isinstance(preset_of(form).read(with_value(form, headers, spelled)), Refusal)
            worst = max(worst, time.perf_counter() - began)
    assert worst < 1.0  # some ms when idle; what is quadratic takes minutes


# No way from one header to another.


@pytest.mark.parametrize("form", FORMS)
def test_a_preset_looks_at_no_header_of_another(form: str) -> None:
    preset = preset_of(form)
    ours = {name.encode() for name in preset.roles.values()}
    for other in FORMS:
        headers = tuple(pair for pair in PROXIES[other](certificate("p256")) if pair[0] not in ours)
        outcome = preset.read(headers)
        assert not isinstance(outcome, Presented), other


# Names.


def test_every_preset_is_known_by_its_name_and_has_names_in_lower_case() -> None:
    from typing import get_args

    from secmiddleware.settings.models import Source

    assert set(PRESETS) == set(get_args(Source)) - {"server"}
    for name, preset in PRESETS.items():
        assert preset.name == name
        assert all(header == header.lower() and "_" not in header for header in preset.roles.values())
        assert {
            preset.roles[role].encode() for role in preset.roles if role not in preset.numbered
        } <= preset.names


def test_other_names_are_read_instead_of_the_usual_ones() -> None:
    leaf = certificate("p256")
    preset = PRESETS["nginx"].named({"certificate": "X-My-Cert"})
    assert preset.read(
        ((b"x-ssl-client-verify", b"SUCCESS"), (b"x-my-cert", proxies.escaped(leaf)))
    ) == Presented(leaf, (), "nginx")
    assert code_of(preset.read(PROXIES["nginx"](leaf))) == AMBIGUOUS
    assert preset.names == {b"x-my-cert", b"x-ssl-client-verify"}
    assert PRESETS["nginx"].roles["certificate"] == "x-ssl-client-cert"
    apache = PRESETS["apache"].named({"chain": "x-hop-"})
    assert b"x-hop-0" in apache.names
    headers = (*PROXIES["apache spaced"](leaf), (b"x-hop-0", proxies.spaced(certificate("rsa"))))
    assert apache.read(headers) == Presented(leaf, (certificate("rsa"),), "apache")
    assert PRESETS["nginx"].named({}) == PRESETS["nginx"]


@pytest.mark.parametrize(
    ("name", "overrides", "words"),
    [
        ("nginx", {"used": "x-used"}, ['"used" is nothing that nginx hands over', "certificate, verify"]),
        ("nginx", {"certificate": "x my cert"}, ['certificate: "x my cert" is no name of a header']),
        ("nginx", {"certificate": ""}, ["is no name of a header"]),
        ("nginx", {"certificate": "x-cért"}, ["is no name of a header"]),
        ("nginx", {"certificate": "x-cert\n"}, ["is no name of a header"]),
        ("nginx", {"certificate": "x:y"}, ["is no name of a header"]),
        ("nginx", {"certificate": "x" * 101}, ["is no name of a header"]),
        ("nginx", {"certificate": "x_cert"}, ['"x_cert" has an underscore']),
        ("nginx", {"certificate": "Cookie"}, ['"Cookie" is a header that HTTP or the app needs']),
        ("nginx", {"certificate": "x-ssl-client-verify"}, ["certificate and verify are both"]),
        ("haproxy", {"used": "X-A", "verify": "x-a"}, ["used and verify are both"]),
        ("apache", {"certificate": "x-ssl-client-cert-chain-0"}, ["certificate and chain are both"]),
        (
            "apache",
            {"chain": "x-ssl-client-"},
            ["certificate and chain are both", "chain and verify are both"],
        ),
        ("nginx", {"chain": "x", "certificate": "a b", "verify": "host"}, ['"chain" is', '"a b"', '"host"']),
    ],
)
def test_impossible_names_are_refused_in_words_for_the_operator(
    name: str, overrides: dict[str, str], words: list[str]
) -> None:
    with pytest.raises(ValueError, match=r".") as caught:
        PRESETS[name].named(overrides)
    for word in words:
        assert word in str(caught.value)


def test_a_preset_shows_no_certificate_and_cannot_be_changed() -> None:
    preset = PRESETS["nginx"]
    with pytest.raises(AttributeError):
        preset.name = "other"  # type: ignore[misc]
    with pytest.raises(TypeError):
        preset.roles["certificate"] = "x"  # type: ignore[index]
    with pytest.raises(TypeError):
        PRESETS["other"] = preset  # type: ignore[index]
    presented = preset.read(PROXIES["nginx"](certificate("p256")))
    assert "BEGIN" not in repr(presented)
    assert "MII" not in repr(presented)
