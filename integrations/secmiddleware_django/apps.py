"""The app of INSTALLED_APPS: all that it brings is the system checks."""

from __future__ import annotations

from django.apps import AppConfig
from django.core.checks import Tags, register

from secmiddleware_django.checks import check_place, check_settings


class SecMiddlewareConfig(AppConfig):  # type: ignore[misc]  # Django has no types
    """Has `manage.py check`, and with it every `runserver` and `migrate`, say what is wrong."""

    name = "secmiddleware_django"
    verbose_name = "secmiddleware"

    def ready(self) -> None:
        """Register the checks."""
        register(check_place, Tags.security)
        register(check_settings, Tags.security)
