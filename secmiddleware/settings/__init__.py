"""The declarative file: what may stand in it, how it is read, and where a mistake in it stands.

`load` is the way in. Importing this costs what pydantic costs: it is imported where settings are read, not
before.
"""

from secmiddleware.settings.loading import load
from secmiddleware.settings.models import Settings

__all__ = ["Settings", "load"]
