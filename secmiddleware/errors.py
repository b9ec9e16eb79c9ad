"""Every exception of the project, under one root.

A caller's fault over HTTP is not here: it is a `Refusal` value (messages.py). What is raised is an operator's
or a programmer's fault, and says which key of the file, which place and what to do; it never holds a secret.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass


class SecMiddlewareError(Exception):
    """The root: catch this to catch everything that the package raises on purpose."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One mistake of an operator: where it stands, what is wrong and what to do."""

    key: str
    """The key path, as in `fields.ssn.places[0].marks`, or the name of an environment variable."""
    message: str
    """What is wrong, in one sentence; never a value that may be secret."""
    source: str | None = None
    """The file, `environment` or `mapping`, as far as it is known."""
    line: int | None = None
    """The line in `source`, counted from 1."""
    hint: str | None = None
    """What to do about it: a "did you mean", a command."""

    def __str__(self) -> str:
        place = "" if self.source is None else self.source + ("" if self.line is None else f":{self.line}")
        hint = "" if self.hint is None else f" ({self.hint})"
        return f"{place}: {self.key}: {self.message}{hint}" if place else f"{self.key}: {self.message}{hint}"

    def as_dict(self) -> dict[str, str | int | None]:
        """The finding as JSON-ready data, for `secmiddleware check --json`."""
        return asdict(self)


class ConfigError(SecMiddlewareError):
    """The settings cannot be used; `findings` lists every mistake at once."""

    def __init__(self, findings: Iterable[Finding]) -> None:
        self.findings = tuple(findings)
        super().__init__("\n".join(str(finding) for finding in self.findings))


class StoreUnavailable(SecMiddlewareError):  # noqa: N818  (a state of the world, not a mistake)
    """A state store cannot be read or written now; the last good state stays in force."""


class KeyringError(SecMiddlewareError):
    """A ring document is forged, too old, from the past or not for this ring; it is not taken."""


class TokenError(SecMiddlewareError):
    """A token did not open. Deliberately vague: it never says which check failed."""


class KeyUnknown(TokenError):  # noqa: N818  (as StoreUnavailable: the world may be ahead of us)
    """The token names a key that this ring does not know (yet): worth a look at the store and another try."""


class DocumentError(SecMiddlewareError):
    """A document cannot be rewritten: it is not JSON, or too large in some way. Never says what it holds."""


class SealError(SecMiddlewareError):
    """A value could not be sealed; nothing of it may leave."""


class BrokenOffError(SecMiddlewareError, OSError):
    """A response that was begun and cannot go on: whoever serves it must not let it look like a whole one.

    An OSError too: apps take it for what it is to them, a caller who is gone.
    """
