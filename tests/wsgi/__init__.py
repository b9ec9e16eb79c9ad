"""The WSGI shell, without a server."""
