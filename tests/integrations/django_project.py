"""Django, set up once for all tests of a run; what differs between them is overridden."""

from __future__ import annotations

import django
from django.conf import settings

if not settings.configured:
    settings.configure(
        SECRET_KEY="not secret, tests only",
        ALLOWED_HOSTS=["*"],
        INSTALLED_APPS=["secmiddleware_django"],
        MIDDLEWARE=["secmiddleware_django.SecMiddleware", "django.middleware.common.CommonMiddleware"],
        ROOT_URLCONF="integrations.django_project",
        LOGGING_CONFIG=None,
        USE_TZ=True,
    )
    django.setup()

urlpatterns: list[object] = []
