"""`Encrypted`: what marks a value at the model that it is an attribute of."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

EXTENSION: Final = "x-sensitive-data"
"""Registered for OpenAPI's schema objects: a mask for what is displayed. The member `field` is ours."""

_NAME: Final = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,63}")


@dataclass(frozen=True, slots=True)
class Encrypted:
    """Says that a value is one of a field of the settings: `ssn: Annotated[str, Encrypted("ssn")]`.

    It changes nothing about the model. A place with `marks_from` takes its marks from it, and the JSON Schema
    that Pydantic or FastAPI makes of the model carries it as `x-sensitive-data`, so that documentation masks
    the value, and a place with `openapi` finds it there. Raises ValueError for what no field can be called.
    """

    field: str

    def __post_init__(self) -> None:
        if not isinstance(self.field, str) or not _NAME.fullmatch(self.field):
            raise ValueError('Encrypted takes the name of a field of the settings, as in Encrypted("ssn")')

    def __get_pydantic_json_schema__(
        self, core_schema: Any, handler: Callable[[Any], dict[str, Any]]
    ) -> dict[str, Any]:
        """Pydantic's own schema of the value, and the extension."""
        return {**handler(core_schema), EXTENSION: {"mask": "full", "field": self.field}}
