"""What docs/bound-tokens.md shows is run as it stands there."""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import Any

import pytest
from identity.callers import caller
from identity.issuing import Issuer
from starlette.testclient import TestClient

from secmiddleware.messages import PRESENTED_KEY
from secmiddleware.settings import load

PAGE = (Path(__file__).parents[1] / "docs" / "bound-tokens.md").read_text()


def _blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)


def _executed(source: str) -> dict[str, Any]:
    names: dict[str, Any] = {}
    exec(source, names)
    return names


def test_the_app_of_the_page_gets_the_claims_of_bound_tokens_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from exchanges.people import People

    people, issuer = People(), Issuer("es")
    (tmp_path / "pki").mkdir()
    people.ca.write(tmp_path / "pki", "ca")
    issuer.write_jwks(tmp_path / "pki" / "jwks.json")
    (settings,) = _blocks("toml")
    (tmp_path / "secmiddleware.toml").write_text(settings)
    monkeypatch.chdir(tmp_path)
    audience = load(tmp_path / "secmiddleware.toml", {}).tokens.audience[0]
    app = _executed(_blocks("python")[0])["app"]

    def answer(name: str, bound_to: str) -> Any:
        async def server(scope: Any, receive: Any, send: Any) -> None:
            await app({**scope, PRESENTED_KEY: people.presented(name)}, receive, send)

        claims = issuer.claims(time.time(), people.minted[bound_to].der, aud=audience)
        with TestClient(server) as client:
            return client.get("/accounts/1", headers={"authorization": f"Bearer {issuer.sign(claims)}"})

    good = answer("alice", "alice")
    assert good.json() == {"client": "client-7", "certificate": "spiffe://example.org/shop/alice"}
    stolen = answer("oscar", "alice")
    assert (stolen.status_code, stolen.json()["code"]) == (401, "token_invalid")


def test_the_function_of_the_page_says_who_may_pay() -> None:
    may_pay = _executed(_blocks("python")[1])["may_pay"]
    bound = {"x5t#S256": "qqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqo"}  # 32 bytes of 0xaa
    assert may_pay({"active": True, "cnf": bound}, caller())
    assert not may_pay({"active": False, "cnf": bound}, caller())
    assert not may_pay({"active": True}, caller())
    assert not may_pay({"active": True, "cnf": bound}, caller(sha256="bb" * 32))
    assert not may_pay({"active": True, "cnf": bound}, None)
