"""How three frameworks read a form: the texts of it by name, in order, and the names of its files.

None stands for a form that one of them refuses to read.
"""

import asyncio
import io

from django.core.exceptions import BadRequest, SuspiciousOperation
from django.core.handlers.wsgi import WSGIRequest
from django.http.multipartparser import MultiPartParserError
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import Request
from werkzeug.exceptions import HTTPException as WerkzeugHTTPException
from werkzeug.formparser import parse_form_data

from integrations import django_project  # noqa: F401  (configures Django, once for all tests)


def environ(content_type, body):
    return {
        "REQUEST_METHOD": "POST",
        "SERVER_NAME": "shop.example",
        "SERVER_PORT": "443",
        "wsgi.url_scheme": "https",
        "wsgi.input": io.BytesIO(body),
        "CONTENT_TYPE": content_type,
        "CONTENT_LENGTH": str(len(body)),
    }


def werkzeug(content_type, body):
    try:
        _, form, files = parse_form_data(environ(content_type, body), silent=False)
    except (ValueError, WerkzeugHTTPException):
        return None
    for file in files.values():
        file.close()
    return _sorted(form.items(multi=True)), sorted(files)


def django_reads(content_type, body):
    request = WSGIRequest(environ(content_type, body))
    try:
        form, files = request.POST, request.FILES
    except (MultiPartParserError, SuspiciousOperation, BadRequest, UnicodeDecodeError):
        return None
    return _sorted((name, value) for name, values in form.lists() for value in values), sorted(files)


def starlette(content_type, body):
    sent = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive():
        return sent.pop()

    async def read():
        scope = {"type": "http", "headers": [(b"content-type", content_type.encode("latin-1"))]}
        async with Request(scope, receive).form() as form:
            return form

    try:
        form = asyncio.run(read())
    except (HTTPException, UnicodeDecodeError, ValueError):
        return None
    items = form.multi_items()
    texts = [(name, value) for name, value in items if not isinstance(value, UploadFile)]
    return _sorted(texts), sorted({name for name, value in items if isinstance(value, UploadFile)})


def _sorted(items):
    """By name, the values of a name in their order."""
    return sorted(items, key=lambda item: item[0])


READERS = {"werkzeug": werkzeug, "django": django_reads, "starlette": starlette}
