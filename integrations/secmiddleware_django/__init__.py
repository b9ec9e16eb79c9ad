"""The Django adapter: a shell of its own, on request and response objects, under WSGI and under ASGI.

    INSTALLED_APPS = ["secmiddleware_django", …]             # for the system checks
    MIDDLEWARE = ["secmiddleware_django.SecMiddleware", …]   # first: what stands before it is not protected
    SECMIDDLEWARE = BASE_DIR / "secmiddleware.toml"          # or a mapping with the same keys

A view finds who is calling in `request.client_identity`: an `Identity`, or None where the route asks for
none.
"""

from secmiddleware_django.middleware import SecMiddleware

__all__ = ["SecMiddleware"]
