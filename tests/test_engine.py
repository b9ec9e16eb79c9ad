"""The engine by itself: data in, a verdict out. Whole exchanges are the table's (exchanges/)."""

from __future__ import annotations

import ast
import inspect
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from secmiddleware import SecurityManager, engine
from secmiddleware.certificates.authority import Authority
from secmiddleware.engine import Admission, Place, Places, Snapshot, admit
from secmiddleware.fields.head_marks import read_mark
from secmiddleware.fields.limits import Limits
from secmiddleware.fields.rules import FieldRule, PlaceRule
from secmiddleware.identity.bound_tokens import TokenJudge, TokenRules
from secmiddleware.identity.jwks import KeySet
from secmiddleware.identity.policy import Policy, Rule
from secmiddleware.messages import Body, Head, Presented, Refusal, RequestHead
from secmiddleware.paths import PathPattern

NOW = datetime(2026, 5, 1, 12, tzinfo=UTC)
DAY = timedelta(days=1)


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority.create("test CA", now=NOW - DAY)


@pytest.fixture(scope="module")
def snapshot(authority: Authority, tmp_path_factory: pytest.TempPathFactory) -> Snapshot:
    folder = tmp_path_factory.mktemp("engine")
    (folder / "ca.pem").write_bytes(authority.certificate_pem)
    (folder / "kek").write_bytes(bytes(range(32)))
    (folder / "kek").chmod(0o600)
    place = {"routes": ["/marked/**"], "marks": ["$.a"], "request": "decrypt", "response": "encrypt"}
    settings = {
        "service": {"name": "shop"},
        "mtls": {"trust": [str(folder / "ca.pem")]},
        "routes": [
            {"path": "/open/**", "client": "off"},
            {"path": "/ops/**", "allow": ["spiffe://example.org/ops/*"]},
            {"path": "/live", "methods": ["GET"], "client": "off"},
            {"path": "/live", "allow": ["spiffe://example.org/ops/*"], "preflight": True},
        ],
        "keys": {"ring": "shop", "store": "memory:", "kek": f"file:{folder / 'kek'}"},
        "fields": {"a": {"places": [place]}},
    }
    with SecurityManager.from_config(settings, {}) as manager:
        return manager.snapshot


def _presented(authority: Authority, *, lifetime: timedelta = DAY, source: str = "server") -> Presented:
    from cryptography import x509
    from cryptography.hazmat.primitives.serialization import Encoding

    pem = authority.issue_client(
        spiffe_id="spiffe://example.org/shop", lifetime=lifetime, now=NOW
    ).certificate_pem
    return Presented(x509.load_pem_x509_certificate(pem).public_bytes(Encoding.DER), (), source)


def _head(path: str, presented: Presented | None = None, **more: object) -> RequestHead:
    values = {"protocol": "http", "method": "GET", "scheme": "https", "path": path, "raw_path": path.encode()}
    return RequestHead(**{**values, "presented": presented, **more})  # type: ignore[arg-type]


def test_the_time_is_an_argument_and_decides_alone(authority: Authority, snapshot: Snapshot) -> None:
    head = _head("/", _presented(authority))
    assert isinstance(admit(head, snapshot, NOW), Admission)
    assert admit(head, snapshot, NOW + DAY + timedelta(seconds=1)) == Refusal("certificate_expired")
    assert admit(head, snapshot, NOW - timedelta(minutes=6)) == Refusal("certificate_not_yet_valid")
    assert isinstance(admit(head, snapshot, NOW), Admission)


def test_it_reads_no_clock_and_waits_for_nothing() -> None:
    tree = ast.parse(inspect.getsource(engine))
    names = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    names |= {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    assert not names & {"time", "sleep", "open", "getenv", "environ", "getLogger"}
    assert not [node for node in ast.walk(tree) if isinstance(node, ast.Await | ast.AsyncFunctionDef)]
    attributes = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    assert "now" not in attributes  # datetime.now


def test_the_same_head_snapshot_and_time_give_the_same_verdict(
    authority: Authority, snapshot: Snapshot
) -> None:
    head = _head("/ops/x", _presented(authority))
    verdicts = [admit(head, snapshot, NOW) for _ in range(3)]
    assert verdicts == [Refusal("identity_not_allowed", "routes[1].allow")] * 3


def test_whom_a_rule_refused_is_told_to_the_log_and_not_to_the_caller(
    authority: Authority, snapshot: Snapshot
) -> None:
    verdict = admit(_head("/ops/x", _presented(authority)), snapshot, NOW)
    assert isinstance(verdict, Refusal)
    assert verdict.identity is not None
    assert verdict.identity.name == "spiffe://example.org/shop"
    assert b"spiffe" not in verdict.problem("0" * 32)[1]
    assert "spiffe" not in repr(verdict)


def test_an_ambiguous_path_is_refused_before_any_rule_is_asked(snapshot: Snapshot) -> None:
    for target in (b"/open/../ops/x", b"/open/%2e%2e/ops/x", b"/open//x", b"/open%2fx"):
        head = _head("/open/x", raw_path=target)
        assert admit(head, snapshot, NOW) == Refusal("path_ambiguous")


def test_a_certificate_of_another_source_than_the_configured_one_is_not_looked_at(
    authority: Authority, snapshot: Snapshot
) -> None:
    head = _head("/", _presented(authority, source="nginx"))
    assert admit(head, snapshot, NOW) == Refusal("proxy_untrusted", "mtls.source")


def test_where_no_certificate_is_asked_for_one_gives_no_identity(
    authority: Authority, snapshot: Snapshot
) -> None:
    verdict = admit(_head("/open/x", _presented(authority)), snapshot, NOW)
    assert isinstance(verdict, Admission)
    assert verdict.identity is None


def test_a_websocket_where_bodies_are_marked_is_refused(authority: Authority, snapshot: Snapshot) -> None:
    presented = _presented(authority)
    assert admit(_head("/marked/x", presented, protocol="websocket"), snapshot, NOW) == Refusal(
        "payload_encoding", "fields"
    )
    assert isinstance(admit(_head("/other", presented, protocol="websocket"), snapshot, NOW), Admission)


def test_where_nobody_can_judge_a_token_that_a_rule_requires_nobody_is_let_in(
    authority: Authority, snapshot: Snapshot
) -> None:
    required = Rule(None, "required", where="routes[0]", bound_token=True)
    bound = replace(snapshot, policy=Policy((), required))
    for protocol in ("http", "websocket"):
        head = _head("/", _presented(authority), protocol=protocol)
        assert admit(head, bound, NOW) == Refusal("internal_error", "tokens")
        judged = admit(
            head, replace(bound, tokens=TokenJudge(TokenRules("i", ("a",), frozenset()), KeySet(()))), NOW
        )
        assert judged == Refusal("token_missing", "routes[0].require_bound_token")
        assert isinstance(judged, Refusal)
        assert str(judged.identity) == "spiffe://example.org/shop"
        assert judged.presented is head.presented


def test_a_websocket_is_a_get_whatever_its_scope_says(snapshot: Snapshot) -> None:
    # CONNECT: how HTTP/2 brings it (RFC 8441 §5).
    for method in ("GET", "CONNECT", "POST", "get"):
        assert isinstance(
            admit(_head("/live", method=method, protocol="websocket"), snapshot, NOW), Admission
        )
    post = _head("/live", method="POST")
    assert admit(post, snapshot, NOW) == Refusal("certificate_missing", "routes[3].client")


PREFLIGHT = ((b"origin", b"https://shop.example"), (b"access-control-request-method", b"POST"))


def test_a_preflight_comes_in_as_nobody_and_brings_no_body(snapshot: Snapshot) -> None:
    verdict = admit(_head("/live", method="OPTIONS", headers=PREFLIGHT), snapshot, NOW)
    assert isinstance(verdict, Admission)
    assert verdict.identity is None
    assert not verdict.request.passive
    assert list(verdict.request.start(verdict.head)) == [Head(verdict.head)]
    assert list(verdict.request.feed(b"")) == []
    assert list(verdict.request.feed(b"x")) == [Refusal("payload_malformed")]
    assert list(verdict.request.finish(complete=True)) == [Body(b"")]
    assert verdict.request.load == 0
    assert not verdict.request.report.kids


def test_a_preflight_about_what_another_rule_is_for_is_no_exception(snapshot: Snapshot) -> None:
    about_get = (PREFLIGHT[0], (b"access-control-request-method", b"GET"))
    assert admit(_head("/live", method="OPTIONS", headers=about_get), snapshot, NOW) == Refusal(
        "certificate_missing", "routes[3].client"
    )


def test_whoever_presents_a_certificate_is_judged_by_it_at_a_preflight_too(
    authority: Authority, snapshot: Snapshot
) -> None:
    for presented, refusal in [
        (_presented(authority), Refusal("identity_not_allowed", "routes[3].allow")),
        (Presented(b"\0"), Refusal("certificate_malformed")),
        (_presented(authority, source="nginx"), Refusal("proxy_untrusted", "mtls.source")),
    ]:
        head = _head("/live", presented, method="OPTIONS", headers=PREFLIGHT)
        assert admit(head, snapshot, NOW) == refusal


def test_flows_are_passive_where_nothing_is_marked_and_only_there(
    authority: Authority, snapshot: Snapshot
) -> None:
    plain = admit(_head("/", _presented(authority)), snapshot, NOW)
    marked = admit(_head("/marked/x", _presented(authority)), snapshot, NOW)
    assert isinstance(plain, Admission)
    assert isinstance(marked, Admission)
    assert plain.request.passive
    assert plain.respond("GET").passive
    assert not marked.request.passive
    assert not marked.respond("GET").passive


SEGMENTS = st.sampled_from(["a", "b", "*", "a.b"])
PATTERNS = st.tuples(st.lists(SEGMENTS, max_size=3), st.sampled_from(["", "/", "/**"])).map(
    lambda parts: "".join(f"/{segment}" for segment in parts[0]) + parts[1] or "/"
)
PATHS = st.tuples(
    st.lists(st.sampled_from(["a", "b", "axb", "c"]), max_size=4), st.sampled_from(["", "/"])
).map(lambda parts: "".join(f"/{segment}" for segment in parts[0]) + parts[1] or "/")


@given(st.lists(st.lists(PATTERNS, min_size=1, max_size=3), max_size=3), PATHS)
@example([["/a/**"], ["/b"]], "/b/")
@example([], "/")
def test_a_path_is_marked_where_any_route_of_any_place_is_for_it(routes: list[list[str]], path: str) -> None:
    rule = PlaceRule(FieldRule("a"), (read_mark("$.a"),), "decrypt", "encrypt")
    patterns = [tuple(map(PathPattern, texts)) for texts in routes]
    places = Places(tuple(Place(of_one, rule) for of_one in patterns), Limits(1000))
    expected = any(pattern.matches(path) for of_one in patterns for pattern in of_one)
    assert places.plan_for(path).marks_anything is expected


def test_an_exchange_keeps_the_ring_it_began_with(authority: Authority, snapshot: Snapshot) -> None:
    verdict = admit(_head("/marked/x", _presented(authority)), snapshot, NOW)
    assert isinstance(verdict, Admission)
    assert verdict.exchange is not None
    assert verdict.exchange.keyring is snapshot.keyring


def test_no_exchange_is_made_where_nothing_is_marked_and_nothing_comes_of_it(
    authority: Authority, snapshot: Snapshot
) -> None:
    verdict = admit(_head("/plain", _presented(authority)), snapshot, NOW)
    assert isinstance(verdict, Admission)
    assert (verdict.exchange, verdict.has_opened, verdict.frames()) == (None, False, None)
    assert verdict.streamed().passive


def test_only_what_can_be_refused_no_more_passes(authority: Authority, snapshot: Snapshot) -> None:
    def passes(path: str, **more: object) -> bool:
        verdict = admit(_head(path, _presented(authority), **more), snapshot, NOW)
        assert isinstance(verdict, Admission), verdict
        return verdict.passes

    assert passes("/plain")
    assert passes("/open/x")
    assert not passes("/marked/x")
    assert not passes("/plain", protocol="websocket")  # it is judged again
    preflight = admit(_head("/live", method="OPTIONS", headers=PREFLIGHT), snapshot, NOW)
    assert isinstance(preflight, Admission)
    assert not preflight.passes  # it must have no body


def test_nothing_secret_is_in_the_repr_of_a_verdict(authority: Authority, snapshot: Snapshot) -> None:
    text = repr(admit(_head("/marked/x", _presented(authority)), snapshot, NOW))
    assert "Keyring" not in text
    assert "der=" not in text


def test_the_module_imports_neither_telemetry_nor_rotation() -> None:
    source = Path(inspect.getfile(engine)).read_text()
    assert "telemetry" not in source
    assert "rotation" not in source
