"""The files of trust while they change: the good takes effect, what is not changes nothing and is told."""

from __future__ import annotations

import logging
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from certificates.shapes import Made, presented, revocation_list, strict_ca, strict_leaf
from cryptography.hazmat.primitives.serialization import Encoding

from secmiddleware.certificates.files import TrustFiles
from secmiddleware.certificates.judgement import Judged, Rejected
from secmiddleware.certificates.manager import CertificateManager
from secmiddleware.certificates.trust import CertificateError

NOW = datetime.now(UTC).replace(microsecond=0)
DATES = {"begin": NOW - timedelta(days=2), "end": NOW + timedelta(days=20)}
CA, OTHER = strict_ca("ca", **DATES), strict_ca("other", **DATES)
MIDDLE = strict_ca("middle", CA, **DATES)
LEAF, THEIRS, LOWER = (strict_leaf(ca, **DATES) for ca in (CA, OTHER, MIDDLE))


def list_of(ca: Made, *revoked: Made, end: datetime = NOW + timedelta(days=1), ago: int = 60) -> bytes:
    crl = revocation_list(ca, *revoked, begin=NOW - timedelta(minutes=ago), end=end)
    return crl.public_bytes(Encoding.PEM)


class Operator:
    """Who puts files where the settings want them, and looks."""

    def __init__(self, folder: Path, **files: bytes) -> None:
        self.folder = folder
        for name, data in files.items():
            self.put(name, data)
        self.manager = CertificateManager(
            TrustFiles(
                ((folder / "ca", ()),),
                intermediates=(folder / "middle",) if "middle" in files else (),
                lists=(folder / "crl",) if "crl" in files else (),
            )
        )

    def put(self, name: str, data: bytes) -> None:
        """By a rename, as one should."""
        new = self.folder / "new"
        new.write_bytes(data)
        new.rename(self.folder / name)

    def look(self, **data: bytes) -> None:
        for name, content in data.items():
            self.put(name, content)
        self.manager.look(NOW)

    def code(self, leaf: Made, *chain: Made) -> str | None:
        verdict = self.manager.judge(presented(leaf, *chain), NOW)
        assert isinstance(verdict, Judged | Rejected)
        return verdict.code if isinstance(verdict, Rejected) else None

    @property
    def trouble(self) -> str | None:
        return self.manager.status()["trouble"]


def test_whoever_is_put_on_a_list_is_refused_from_the_next_look_on(tmp_path):
    operator = Operator(tmp_path, ca=CA.pem, crl=list_of(CA))
    given = presented(LEAF)
    assert isinstance(operator.manager.judge(given, NOW), Judged)
    operator.put("crl", list_of(CA, LEAF))
    assert isinstance(operator.manager.judge(given, NOW), Judged)
    operator.look()
    verdict = operator.manager.judge(given, NOW)  # a kept connection: the same object as before
    assert isinstance(verdict, Rejected)
    assert verdict.code == "certificate_revoked"


def test_a_ca_that_is_removed_or_added_takes_effect(tmp_path):
    operator = Operator(tmp_path, ca=CA.pem)
    assert (operator.code(LEAF), operator.code(THEIRS)) == (None, "certificate_untrusted")
    operator.look(ca=CA.pem + OTHER.pem)
    assert (operator.code(LEAF), operator.code(THEIRS)) == (None, None)
    operator.look(ca=OTHER.pem)
    assert (operator.code(LEAF), operator.code(THEIRS)) == ("certificate_untrusted", None)


def test_an_intermediate_helps_those_who_send_their_leaf_alone_and_ends_no_chain(tmp_path):
    operator = Operator(tmp_path, ca=CA.pem, middle=MIDDLE.pem)
    assert operator.code(LOWER) is None
    operator.look(ca=OTHER.pem)
    assert operator.code(LOWER) == "certificate_untrusted"
    operator.look(ca=CA.pem, middle=strict_ca("another", CA, **DATES).pem)
    assert operator.code(LOWER) == "certificate_untrusted"
    assert operator.code(LOWER, MIDDLE) is None


@pytest.mark.parametrize(
    "bad",
    [
        {"ca": b""},
        {"ca": CA.pem[:-40]},
        {"ca": LEAF.key_pem},
        {"crl": b"-----BEGIN X509 CRL-----\n"},
        {"crl": list_of(CA)[:200]},
        {"crl": list_of(OTHER)},
        {"crl": revocation_list(OTHER, name_of=CA).public_bytes(Encoding.DER)},
        {"middle": CA.pem},
        {"middle": LEAF.pem},
        {"middle": b"junk"},
    ],
    ids=lambda bad: next(iter(bad)),
)
def test_a_bad_file_changes_nothing_and_is_told_until_it_is_mended(bad, tmp_path, caplog):
    good = {"ca": CA.pem, "crl": list_of(CA) + list_of(MIDDLE), "middle": MIDDLE.pem}
    operator = Operator(tmp_path, **good)
    before = operator.manager.trust
    with caplog.at_level(logging.INFO, "secmiddleware.certificates"):
        for _ in range(3):
            operator.look(**bad)
            operator.look()
    assert operator.manager.trust is before
    (name,) = bad
    assert operator.trouble is not None
    assert str(tmp_path) in operator.trouble
    told = [record for record in caplog.records if record.name == "secmiddleware.certificates"]
    assert [record.levelname for record in told] == ["ERROR"]
    assert "PRIVATE KEY" not in caplog.text
    operator.look(**{name: good[name]})
    assert operator.trouble is None
    assert operator.manager.trust is not before
    assert operator.code(LOWER) is None


def test_a_ca_can_be_removed_though_its_list_is_still_there(tmp_path):
    operator = Operator(tmp_path, ca=CA.pem + OTHER.pem, crl=list_of(CA) + list_of(OTHER))
    assert (operator.code(LEAF), operator.code(THEIRS)) == (None, None)
    operator.look(ca=OTHER.pem)
    assert operator.trouble is None
    assert (operator.code(LEAF), operator.code(THEIRS)) == ("certificate_untrusted", None)


def test_a_list_that_a_removed_ca_has_left_keeps_nobody_from_being_revoked(tmp_path):
    operator = Operator(tmp_path, ca=CA.pem + OTHER.pem, crl=list_of(CA) + list_of(OTHER))
    operator.look(ca=OTHER.pem)
    operator.look(crl=list_of(CA) + list_of(OTHER, THEIRS))
    assert (operator.trouble, operator.code(THEIRS)) == (None, "certificate_revoked")
    operator.look(crl=list_of(strict_ca("stranger", **DATES)) + list_of(OTHER))
    assert operator.trouble is not None, "the list of a stranger is a mistake still"
    assert operator.code(THEIRS) == "certificate_revoked"


def test_a_file_that_goes_away_changes_nothing_and_comes_back(tmp_path):
    operator = Operator(tmp_path, ca=CA.pem, crl=list_of(CA))
    before = operator.manager.trust
    (tmp_path / "crl").unlink()
    operator.look()
    assert operator.manager.trust is before
    assert operator.trouble == f"there is no file {tmp_path / 'crl'}"
    operator.look(crl=list_of(CA, LEAF))
    assert (operator.trouble, operator.code(LEAF)) == (None, "certificate_revoked")


def test_a_fifo_in_the_place_of_a_file_holds_nobody_up(tmp_path):
    operator = Operator(tmp_path, ca=CA.pem, crl=list_of(CA))
    for name in ("ca", "crl"):
        (tmp_path / name).unlink()
        os.mkfifo(tmp_path / name)
        operator.look()
        assert operator.trouble is not None
        assert "not a regular file" in operator.trouble


def test_what_has_not_changed_is_not_read_again(tmp_path, monkeypatch):
    operator = Operator(tmp_path, ca=CA.pem, crl=list_of(CA))
    before = operator.manager.trust
    monkeypatch.setattr(TrustFiles, "read", None)  # whoever would read fails
    for _ in range(3):
        operator.look()
    assert operator.manager.trust is before


def test_a_file_that_is_written_over_in_place_is_read_again(tmp_path):
    operator = Operator(tmp_path, ca=CA.pem, crl=list_of(CA))
    (tmp_path / "crl").write_bytes(list_of(CA, LEAF))
    operator.look()
    assert operator.code(LEAF) == "certificate_revoked"


def test_a_list_that_grows_stale_is_told_once_and_shown(tmp_path, caplog):
    end = NOW + timedelta(hours=1)
    operator = Operator(tmp_path, ca=CA.pem, crl=list_of(CA, end=end))
    (shown,) = operator.manager.status()["revocation_lists"]
    assert (shown["current"], shown["next_update"], shown["entries"]) == (True, end.isoformat(), 0)
    assert operator.manager.expiries()["crl"] == end
    for minutes in (0, 59, 60, 61, 120):
        operator.manager.look(NOW + timedelta(minutes=minutes))
    (record,) = caplog.records
    assert f"was to be replaced by {end:%Y-%m-%dT%H:%M:%SZ}" in record.getMessage()
    operator.look(crl=list_of(CA, end=end))
    operator.manager.look(NOW + timedelta(minutes=120))
    assert len(caplog.records) == 2


def test_a_service_starts_with_an_overdue_list_and_not_without_one(tmp_path):
    overdue = list_of(CA, end=NOW - timedelta(hours=1), ago=120)
    operator = Operator(tmp_path, ca=CA.pem, crl=overdue)
    assert operator.code(LEAF) == "revocation_unavailable"
    assert [one["current"] for one in operator.manager.status()["revocation_lists"]] == [False]
    with pytest.raises(CertificateError, match="there is no file"):
        TrustFiles(((tmp_path / "ca", ()),), lists=(tmp_path / "none",)).read()


def test_a_manager_of_a_trust_without_files_has_nothing_to_look_at(tmp_path):
    operator = Operator(tmp_path, ca=CA.pem)
    fixed = CertificateManager(operator.manager.trust)
    assert (fixed.watches, operator.manager.watches) == (False, True)
    fixed.look(NOW)
    assert fixed.trust is operator.manager.trust
    assert fixed.status()["trouble"] is None
