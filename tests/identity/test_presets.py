"""Presets: what a proxy wrote comes back, and nothing that it did not write becomes a certificate."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from secmiddleware.identity.presets import PRESETS
from secmiddleware.messages import Presented
from tests.identity import proxies
from tests.identity.proxies import (
    AMBIGUOUS,
    DENIED,
    FORMS,
    KINDS,
    NOBODY,
    PROXIES,
    UNTRUSTED,
    WITH_CHAIN,
    certificate,
    code_of,
    header_of,
    preset_of,
    with_value,
)


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


@pytest.mark.parametrize("form", sorted(form for form in NOBODY if NOBODY[form]))
def test_a_certificate_beside_the_word_that_there_was_none_is_refused(form: str) -> None:
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


# Decoded once.


def test_the_same_values_give_the_same_object_and_others_do_not() -> None:
    preset = PRESETS["nginx"].named({})
    leaf, other = certificate("p256"), certificate("p384")
    first = preset.read(PROXIES["nginx"](leaf))
    assert first == Presented(leaf, (), "nginx")
    assert preset.read((*PROXIES["nginx"](leaf), (b"accept", b"x"))) is first
    assert preset.read(PROXIES["nginx"](other)) == Presented(other, (), "nginx")
    (_, certified) = PROXIES["nginx"](leaf)
    assert code_of(preset.read(((b"x-ssl-client-verify", b"FAILED"), certified))) == UNTRUSTED
    assert code_of(preset.read((certified,))) == DENIED
    assert code_of(preset.read((*PROXIES["nginx"](leaf), certified))) == AMBIGUOUS


def test_what_is_kept_is_bounded_in_number_and_in_size() -> None:
    preset = PRESETS["azure-app-service"].named({})
    for number in range(600):
        body = number.to_bytes(200, "big")
        der = b"\x30\x81%c" % len(body) + body
        assert preset.read(PROXIES[preset.name](der)) == Presented(der, (), preset.name)
        assert 0 < len(preset._kept) <= 256
    long = b"\x30\x82" + (20_000).to_bytes(2, "big") + bytes(20_000)
    kept = dict(preset._kept)
    assert preset.read(PROXIES[preset.name](long)) == Presented(long, (), preset.name)
    assert preset._kept == kept
    assert not PRESETS["azure-app-service"].named({})._kept


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
