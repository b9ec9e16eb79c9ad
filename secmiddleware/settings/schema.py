"""The JSON Schema of the settings file: made from the models, shipped beside them as `schema.json`.

`python -m secmiddleware.settings.schema` prints what the models say now.
"""

from __future__ import annotations

import json
import sys
from datetime import timedelta
from typing import Any, Final

from pydantic import SecretStr
from pydantic.json_schema import GenerateJsonSchema

from secmiddleware.settings.models import Settings
from secmiddleware.settings.quantities import write_duration

_DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"


def make_schema() -> dict[str, Any]:
    """The JSON Schema (draft 2020-12) of what `load` reads, as the models say it.

    It knows types and names. Patterns, contradictions and files are judged by `load` only.
    """
    schema = Settings.model_json_schema(schema_generator=_AsWritten)
    for section in schema["properties"].values():
        # A section that is not there has its keys' defaults; one default for all of it would say them twice.
        section.pop("default", None)
    about = {"title": "secmiddleware.toml", "description": "The settings of secmiddleware."}
    return {"$schema": _DIALECT, **schema, **about}


def write_schema(schema: dict[str, Any]) -> str:
    """The schema as the text that ships."""
    return json.dumps(schema, indent=2, ensure_ascii=False) + "\n"


class _AsWritten(GenerateJsonSchema):
    """Defaults as the file writes them, and no titles made of names, which editors show anyway."""

    def encode_default(self, dft: Any) -> Any:
        match dft:
            case timedelta():
                return write_duration(dft)
            case SecretStr():
                return dft.get_secret_value()
            case _:
                return super().encode_default(dft)

    def field_title_should_be_set(self, schema: Any) -> bool:  # noqa: ARG002  (pydantic's name for it)
        return False


if __name__ == "__main__":
    sys.stdout.write(write_schema(make_schema()))
