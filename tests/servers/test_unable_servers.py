"""Servers that hand over no certificate: where one is required, they do not start, or serve nobody."""

from __future__ import annotations

from pathlib import Path

import pytest

from secmiddleware.server_kinds import DAPHNE, GRANIAN, HYPERCORN_TRIO, ServerKind
from servers.pki import Pki
from servers.serving import until
from servers.shown import answers, ask_plainly, free_port, furnish, refused, running

APP = "shown_app:app"
LENIENT = '[[routes]]\npath = "/**"\nclient = "optional"\n'

HYPERCORN = """
from secmiddleware.servers.hypercorn import options
globals().update(options("secmiddleware.toml"))
bind = "127.0.0.1:0"
"""


def test_granian_is_refused_at_the_lifespan_and_the_way_out_is_told(tmp_path: Path, pki: Pki) -> None:
    furnish(tmp_path, pki)
    status, said = refused(tmp_path, "granian", "--interface", "asgi", "--port", str(free_port()), APP)
    assert status != 0
    assert GRANIAN.refusal() in said
    assert "secmiddleware run" in GRANIAN.refusal()


def test_granian_serves_where_nobody_has_to_be_known(tmp_path: Path, pki: Pki) -> None:
    furnish(tmp_path, pki, routes=LENIENT, client="optional")
    port = free_port()
    with running(tmp_path, pki, port, "granian", "--interface", "asgi", "--port", str(port), APP, plain=True):
        assert ask_plainly(port).json["identity"] is None


@pytest.mark.parametrize(
    ("kind", "command"),
    [(DAPHNE, ("daphne", "--port")), (GRANIAN, ("granian", "--interface", "asginl", "--port"))],
    ids=["daphne", "granian without a lifespan"],
)
def test_without_a_lifespan_every_request_fails_and_the_way_out_is_told_once(
    tmp_path: Path, pki: Pki, kind: ServerKind, command: tuple[str, ...]
) -> None:
    furnish(tmp_path, pki)
    port = free_port()
    with running(tmp_path, pki, port, *command, str(port), APP, plain=True) as output:
        for target in ("/", "/healthz", "/maybe/x"):
            response = ask_plainly(port, target)
            assert (response.status, response.code) == (500, "internal_error")
    assert output.text.count(kind.refusal()) == 1


DJANGO = """
import django, logging
from django.conf import settings
from django.http import HttpResponse
from django.urls import re_path

logging.basicConfig()
settings.configure(
    SECRET_KEY="tests only", ALLOWED_HOSTS=["*"], ROOT_URLCONF=__name__, LOGGING_CONFIG=None,
    INSTALLED_APPS=["secmiddleware_django"], MIDDLEWARE=["secmiddleware_django.SecMiddleware"],
    SECMIDDLEWARE="secmiddleware.toml",
)
django.setup()
urlpatterns = [re_path("", lambda request: HttpResponse(str(request.client_identity)))]
from django.core.asgi import get_asgi_application
app = get_asgi_application()
"""


@pytest.mark.parametrize(
    ("kind", "command"),
    [
        (DAPHNE, ("daphne", "--port")),
        (GRANIAN, ("granian", "--interface", "asginl", "--port")),
        (GRANIAN, ("granian", "--interface", "asgi", "--port")),
    ],
    ids=["daphne", "granian without a lifespan", "granian"],
)
def test_under_django_every_request_fails_and_the_way_out_is_told_once(
    tmp_path: Path, pki: Pki, kind: ServerKind, command: tuple[str, ...]
) -> None:
    furnish(tmp_path, pki, django_app=DJANGO)
    port = free_port()
    with running(tmp_path, pki, port, *command, str(port), "django_app:app", plain=True) as output:
        for target in ("/", "/healthz", "/maybe/x"):
            response = ask_plainly(port, target)
            assert (response.status, response.code) == (500, "internal_error")
        until(lambda: kind.refusal() in output.text, "it is told")
    assert output.text.count(kind.refusal()) == 1


def test_under_django_they_serve_where_nobody_has_to_be_known(tmp_path: Path, pki: Pki) -> None:
    furnish(tmp_path, pki, django_app=DJANGO, routes=LENIENT, client="optional")
    port = free_port()
    with running(tmp_path, pki, port, "daphne", "--port", str(port), "django_app:app", plain=True):
        response = ask_plainly(port)
        assert (response.status, response.body) == (200, b"None")


def test_hypercorns_trio_worker_is_refused_at_the_lifespan(tmp_path: Path, pki: Pki) -> None:
    furnish(tmp_path, pki)
    # It ends; hypercorn's own exit status is 0 whatever becomes of its workers.
    _, said = refused(tmp_path, "hypercorn", "-k", "trio", "--bind", f"127.0.0.1:{free_port()}", APP)
    assert HYPERCORN_TRIO.refusal() in said


def test_trio_gets_no_tls_context_of_ours_where_nobody_has_to_be_known_either(
    tmp_path: Path, pki: Pki
) -> None:
    furnish(tmp_path, pki, conf=HYPERCORN, routes=LENIENT, client="optional")
    _, said = refused(tmp_path, "hypercorn", "-k", "trio", "--config", "file:conf.py", APP)
    assert "hypercorn's trio worker cannot hand over client certificates: choose" in said


def test_a_server_without_its_hook_is_told_of_by_name_and_recognises_nobody(tmp_path: Path, pki: Pki) -> None:
    conf = f'certfile, keyfile, bind = "{pki.certificate}", "{pki.key}", "127.0.0.1:{{port}}"'
    port = free_port()
    furnish(tmp_path, pki, conf=conf.format(port=port))
    with running(tmp_path, pki, port, "hypercorn", "--config", "file:conf.py", APP) as output:
        for _ in range(3):
            assert answers(port, pki)
    said = output.text
    assert said.count("hypercorn says nothing about client certificates") == 1
    assert "secmiddleware.servers.hypercorn.options" in said
