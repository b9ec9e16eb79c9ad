"""A client of HTTP/2 that keeps many requests under way on one connection."""

from __future__ import annotations

import asyncio
import contextlib
import json
import ssl
from collections.abc import Iterable
from typing import Any

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import (
    ConnectionTerminated,
    DataReceived,
    ResponseReceived,
    StreamEnded,
    StreamReset,
    TrailersReceived,
)

from servers.serving import Response


class Http2:
    """One connection. `ask` may be called many times at once: each is a stream of it."""

    def __init__(self, port: int, context: ssl.SSLContext) -> None:
        self._port = port
        self._context = context
        # What is sent is sent as it is.
        sloppy = H2Configuration(
            header_encoding=None, validate_outbound_headers=False, normalize_outbound_headers=False
        )
        self._http = H2Connection(sloppy)
        self._heads: dict[int, list[tuple[bytes, bytes]]] = {}
        self._bodies: dict[int, bytes] = {}
        self._trailers: dict[int, list[tuple[bytes, bytes]]] = {}
        self._waiting: dict[int, asyncio.Future[Response]] = {}

    async def __aenter__(self) -> Http2:  # noqa: PYI034  (it is nobody's base)
        self._reader, self._writer = await asyncio.open_connection(
            "127.0.0.1", self._port, ssl=self._context, server_hostname="localhost"
        )
        self.tls: ssl.SSLObject = self._writer.get_extra_info("ssl_object")
        assert self.tls.selected_alpn_protocol() == "h2"
        self._http.initiate_connection()
        self._flush()
        self._listening = asyncio.create_task(self._listen())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._writer.close()
        await self._listening
        with contextlib.suppress(OSError):  # SSLError is one
            await self._writer.wait_closed()

    async def ask(
        self, target: str | bytes = "/", said: str = "", *, more: Iterable[tuple[bytes, bytes]] = ()
    ) -> Response:
        """A request and its response; ConnectionError where none comes. `more` stands before `x-said`."""
        stream = self._http.get_next_available_stream_id()
        path = target.encode() if isinstance(target, str) else target
        head = [(b":method", b"GET"), (b":path", path), (b":scheme", b"https"), (b":authority", b"localhost")]
        self._waiting[stream] = asyncio.get_running_loop().create_future()
        self._http.send_headers(stream, [*head, *more, (b"x-said", said.encode())], end_stream=True)
        self._flush()
        return await self._waiting[stream]

    async def told(self, target: str = "/", said: str = "") -> Any:
        response = await self.ask(target, said)
        assert response.status == 200, response
        return json.loads(response.body)

    def _flush(self) -> None:
        self._writer.write(self._http.data_to_send())

    async def _listen(self) -> None:
        why: Exception = ConnectionResetError("the connection has ended")
        try:
            while data := await self._reader.read(65536):
                for event in self._http.receive_data(data):
                    self._handle(event)
                self._flush()
        except OSError as error:  # SSLError is one
            why = error
        for future in self._waiting.values():
            if not future.done():
                future.set_exception(why)

    def _handle(self, event: Any) -> None:
        match event:
            case ResponseReceived():
                self._heads[event.stream_id] = event.headers
            case DataReceived():
                self._bodies[event.stream_id] = self._bodies.get(event.stream_id, b"") + event.data
                self._http.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
            case TrailersReceived():
                self._trailers[event.stream_id] = event.headers
            case StreamEnded():
                raw = self._heads[event.stream_id]
                headers = {name.decode(): value.decode("latin-1") for name, value in raw}
                body = self._bodies.get(event.stream_id, b"")
                status = int(headers.pop(":status"))
                raw = self._trailers.get(event.stream_id, [])
                trailers = tuple((name.decode(), value.decode("latin-1")) for name, value in raw)
                response = Response(status, tuple(headers.items()), body, trailers)
                self._waiting[event.stream_id].set_result(response)
            case StreamReset():
                if not self._waiting[event.stream_id].done():
                    self._waiting[event.stream_id].set_exception(ConnectionResetError("the stream was reset"))
            case ConnectionTerminated():
                self._writer.close()
