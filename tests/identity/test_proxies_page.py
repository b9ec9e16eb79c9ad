"""docs/proxies.md says of every preset what it reads, and of every refusal the code that it has."""

from __future__ import annotations

import re
from pathlib import Path

from secmiddleware.identity.presets import PRESETS
from secmiddleware.messages import STATUS_OF

PAGE = (Path(__file__).parents[2] / "docs" / "proxies.md").read_text()


def test_the_page_names_every_preset_with_its_roles_and_headers() -> None:
    rows = []
    for preset in PRESETS.values():
        roles = [
            f"`{role}` = `{name}`" + (" with a number" if role in preset.numbered else "")
            for role, name in preset.roles.items()
        ]
        rows.append(f"| `{preset.name}` | {', '.join(roles)} |")
    table = PAGE.partition("| source | role = header |\n|---|---|\n")[2].partition("\n\n")[0]
    assert table.splitlines() == rows


def test_the_page_gives_each_code_its_status() -> None:
    refused = PAGE.partition("## What is refused\n")[2].partition("\n## ")[0]
    codes = re.findall(r"\b(\d{3}) `([a-z_]+)`", refused)
    assert {code for _, code in codes} == {
        "header_ambiguous",
        "proxy_untrusted",
        "certificate_untrusted",
        "certificate_malformed",
    }
    for status, code in codes:
        assert STATUS_OF[code] == int(status)
    assert {"certificate_expired", "certificate_revoked"} <= set(
        re.findall(r"`([a-z_]+)`", refused)
    ) & STATUS_OF.keys()


def test_the_configurations_on_the_page_set_the_usual_names() -> None:
    for source in ("nginx", "haproxy", "apache", "caddy", "gcp-lb"):
        language = {"caddy": "caddyfile", "gcp-lb": "sh"}.get(source, source)
        (block, *_) = re.findall(rf"^```{language}\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)
        for name in PRESETS[source].roles.values():
            assert name in block.lower(), (source, name)
