"""The system checks: every mistake in Django's settings, with an id and with what to do.

`secmiddleware.E001` not in MIDDLEWARE, `E002` not first there, `E003` there twice, `E004` SECMIDDLEWARE is
missing, `E005` what it says cannot be used (one for each finding).
"""

from __future__ import annotations

from typing import Any, Final

from django.conf import settings
from django.core.checks import CheckMessage, Error
from django.utils.module_loading import import_string

from secmiddleware.errors import ConfigError, SecMiddlewareError
from secmiddleware_django.configuration import NOT_SET, configured
from secmiddleware_django.middleware import SecMiddleware

_PLACE_HINT: Final = (
    'Put "secmiddleware_django.SecMiddleware" first: what stands before it sees requests that nobody has '
    "judged, and its own answers leave unsealed."
)


def check_place(**_: Any) -> list[CheckMessage]:
    """Whether SecMiddleware stands in MIDDLEWARE, once and first."""
    places = [index for index, name in enumerate(settings.MIDDLEWARE) if _is_ours(name)]
    if not places:
        return [
            Error(
                "SecMiddleware is not in MIDDLEWARE: it protects nothing.",
                hint=_PLACE_HINT,
                id="secmiddleware.E001",
            )
        ]
    found = []
    if places[0] != 0:
        before = settings.MIDDLEWARE[0]
        found.append(
            Error(
                f"{before} stands before SecMiddleware in MIDDLEWARE.",
                hint=_PLACE_HINT,
                id="secmiddleware.E002",
            )
        )
    if len(places) > 1:
        found.append(
            Error(
                "SecMiddleware stands in MIDDLEWARE more than once: the inner one would judge what the outer "
                "made.",
                hint="Leave one of them.",
                id="secmiddleware.E003",
            )
        )
    return found


def check_settings(**_: Any) -> list[CheckMessage]:
    """Whether settings.SECMIDDLEWARE is there and can be used."""
    if not hasattr(settings, "SECMIDDLEWARE"):
        return [
            Error(
                NOT_SET,
                hint="Set it to the path of a secmiddleware.toml, or to a mapping with the same keys.",
                id="secmiddleware.E004",
            )
        ]
    try:
        configured()
    except ConfigError as error:
        return [
            Error(f"settings.SECMIDDLEWARE: {finding}", id="secmiddleware.E005") for finding in error.findings
        ]
    except SecMiddlewareError as error:
        return [Error(f"settings.SECMIDDLEWARE: {error}", id="secmiddleware.E005")]
    return []


def _is_ours(name: str) -> bool:
    try:
        named = import_string(name)
    except ImportError:
        return False  # Django says so itself, when it loads its middleware
    return isinstance(named, type) and issubclass(named, SecMiddleware)
