"""The puppet in raw WSGI: a generator, so that nothing of it runs before the first step."""

from __future__ import annotations

from collections.abc import Iterator
from http import HTTPStatus
from typing import Any

from exchanges.puppet import Puppet, ToldToRaiseError, shown
from exchanges.world import to_text
from exchanges.wsgi_server import NO_CONTENT
from secmiddleware.messages import IDENTITY_KEY, TOKEN_CLAIMS_KEY


class WsgiPuppet(Puppet):
    """One app for all rows."""

    def wsgi(self, environ: dict[str, Any], start_response: Any) -> Iterator[bytes]:
        body, complete = _read(environ)
        identity = environ[IDENTITY_KEY]
        claims = environ[TOKEN_CLAIMS_KEY]
        path = environ["SCRIPT_NAME"] + environ["PATH_INFO"]
        headers = [
            (key[5:].replace("_", "-").lower(), to_text(value.encode("latin-1")))
            for key, value in environ.items()
            if key.startswith("HTTP_")
        ]
        headers += [
            (name, to_text(environ[key].encode("latin-1")))
            for name, key in (("content-type", "CONTENT_TYPE"), ("content-length", "CONTENT_LENGTH"))
            if environ.get(key)
        ]
        self.seen.append(
            {
                "method": environ["REQUEST_METHOD"],
                "scheme": environ["wsgi.url_scheme"],
                "path": path.encode("latin-1").decode("utf-8"),
                "query": to_text(environ["QUERY_STRING"].encode("latin-1")),
                "body": to_text(body),
                "complete": complete,
                "headers": headers,
                "identity": str(identity) if identity is not None else None,
                "sub": claims["sub"] if claims is not None else None,
                "peer": environ["REMOTE_ADDR"],
                **shown(environ),
            }
        )
        yield from self._respond(body, dict(headers), start_response)

    def _respond(self, body: bytes, request: dict[str, str], start_response: Any) -> Iterator[bytes]:
        does, status = self._app.does, self._app.status
        headers = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in self._headers]
        chunks = self._chunks
        if does == "raise":
            raise ToldToRaiseError
        if does == "silent":
            return
        if does == "echo":
            headers = [("content-type", request["content-type"])] if "content-type" in request else []
            chunks = [body]
        if status in NO_CONTENT:
            # PEP 3333 does not say so, but `wsgiref.validate` does.
            headers = [pair for pair in headers if pair[0] != "content-type"]
        line = f"{status} {HTTPStatus(status).phrase}"
        start_response(line, headers)
        ends = does not in ("break", "unfinished", "restart")
        yield from chunks if ends else chunks[:1]
        if does == "restart":
            start_response(line, headers)
        if does == "break":
            raise ToldToRaiseError


def _read(environ: dict[str, Any]) -> tuple[bytes, bool]:
    """The request's body, and whether it was whole."""
    length = environ.get("CONTENT_LENGTH")
    source, body = environ["wsgi.input"], b""
    try:
        while piece := source.read(65536 if length is None else int(length) - len(body)):
            body += piece
    except OSError:
        return body, False
    return body, length is None or len(body) == int(length)
