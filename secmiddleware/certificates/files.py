"""The files that trust is made of: CAs, intermediates, revocation lists; read again when one has changed.

A `Trust` is made anew from all of them as soon as one has changed, off the request path. What cannot be used
changes nothing: the trust that was good stays in force, and `trouble` says what is wrong until it is mended.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final

from cryptography import x509

from secmiddleware.certificates.judgement import Trust
from secmiddleware.certificates.profiles import Profile
from secmiddleware.certificates.revocation import (
    Missing,
    RevocationList,
    Revocations,
    UnknownIssuerError,
    check_list,
    parse_lists,
)
from secmiddleware.certificates.trust import (
    CertificateError,
    TrustAnchor,
    load_anchors,
    load_intermediates,
    read_file,
)
from secmiddleware.watched import Watched

# A list of a million entries; beyond that something else lies there.
_LARGEST_LIST: Final = 64 << 20

_logger: Final = logging.getLogger("secmiddleware.certificates")


@dataclass(frozen=True, slots=True)
class TrustFiles:
    """Which files trust is made of, and how it judges."""

    trust: tuple[tuple[Path, tuple[str, ...]], ...]
    """Bundles of CAs, each with the names that these may speak for; none means every name."""
    profile: Profile = "strict"
    intermediates: tuple[Path, ...] = ()
    lists: tuple[Path, ...] = ()
    missing_list: Missing = "refuse"

    def paths(self) -> tuple[Path, ...]:
        """All of them."""
        return (*(path for path, _ in self.trust), *self.intermediates, *self.lists)

    def read(self, former: tuple[x509.Certificate, ...] = ()) -> Trust:
        """The trust as the files have it now. Raises CertificateError, which names the file.

        Lists that only a `former` issuer has signed are left out: who removes a CA in a hurry must not be
        kept from it by a list that is still there, nor from revoking anybody afterwards.
        """
        anchors = tuple(
            TrustAnchor(certificate, may_assert)
            for path, may_assert in self.trust
            for certificate in load_anchors(path)
        )
        intermediates = tuple(
            dict.fromkeys(
                certificate for path in self.intermediates for certificate in load_intermediates(path)
            )
        )
        revocations = None
        if self.lists:
            issuers = (*(anchor.certificate for anchor in anchors), *intermediates)
            checked = [one for path in self.lists for one in load_lists(path, issuers, former)]
            revocations = Revocations(checked, self.missing_list)
        return Trust(anchors, self.profile, intermediates, revocations)


def load_lists(
    path: Path, issuers: tuple[x509.Certificate, ...], gone: tuple[x509.Certificate, ...] = ()
) -> tuple[RevocationList, ...]:
    """The revocation lists of a file, checked against those who may have issued them; less those of `gone`.

    Raises CertificateError, which names the file, where it cannot be read or one of its lists cannot be used.
    """
    data = read_file(path, _LARGEST_LIST)
    try:
        lists = parse_lists(data)
    except (ValueError, TypeError, Warning) as error:
        raise CertificateError(
            f"{path} holds no revocation list, or one that is damaged (PEM or DER)"
        ) from error
    checked = []
    for place, crl in enumerate(lists):
        try:
            checked.append(check_list(crl, issuers))
        except CertificateError as error:
            if isinstance(error, UnknownIssuerError) and _is_of(crl, gone):
                continue
            which = f"list {place + 1} of {path}" if len(lists) > 1 else str(path)
            raise type(error)(f"{which} {error}") from error
    return tuple(checked)


def _is_of(crl: x509.CertificateRevocationList, issuers: tuple[x509.Certificate, ...]) -> bool:
    try:
        check_list(crl, issuers)
    except CertificateError:
        return False
    return True


class TrustWatch:
    """Looks whether the files of a trust have changed. One thread at a time may look."""

    def __init__(self, files: TrustFiles, what: str = "certificates") -> None:
        """Reads them. Raises CertificateError, which names the file. `what` they are called in the log."""
        self.files = files
        self._former: dict[x509.Certificate, None] = {}
        """Whoever was an issuer since the start."""
        self._watched = Watched(files.paths(), self._read, what, _logger)
        self._remember()
        self._overdue: frozenset[int] = frozenset()

    @property
    def trust(self) -> Trust:
        """What is in force; swapped as a whole."""
        return self._watched.made

    @property
    def trouble(self) -> str | None:
        """Why the files as they are now are not in force; None where they are."""
        return self._watched.trouble

    def look(self, now: datetime) -> bool:
        """Puts into force what has changed and is good, and says so; says in the log, once, what is not."""
        changed = self._watched.look()
        if changed:
            self._remember()
        self._tell_overdue(now)
        return changed

    def _read(self) -> Trust:
        return self.files.read(tuple(self._former))

    def _remember(self) -> None:
        self._former |= dict.fromkeys(self.trust.issuers)

    def _tell_overdue(self, now: datetime) -> None:
        revocations = self.trust.revocations
        lists = () if revocations is None else revocations.lists
        overdue = {id(one): one for one in lists if not one.is_current(now)}
        for key, one in overdue.items():
            if key not in self._overdue:
                _logger.error(
                    "the revocation list of %s is not current: it was to be replaced by %s",
                    one.issuer_sha256,
                    f"{one.next_update:%Y-%m-%dT%H:%M:%SZ}",
                )
        self._overdue = frozenset(overdue)
