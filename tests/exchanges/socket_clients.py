"""Clients of websockets over a real connection: of HTTP/1.1 by `websockets`, of HTTP/2 by h2 and wsproto."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any, Protocol

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import DataReceived, RemoteSettingsChanged, ResponseReceived, StreamEnded, StreamReset
from h2.settings import SettingCodes
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect
from wsproto.connection import Connection, ConnectionType
from wsproto.events import BytesMessage, CloseConnection, TextMessage

from exchanges.sockets import Closed, Denied, Opened, Said
from exchanges.wire import SECONDS

Headers = Sequence[tuple[str, str]]


class Client(Protocol):
    """One websocket, or what became of it."""

    handshake: Opened | Denied

    def send(self, said: Said) -> None: ...

    def get(self) -> Said | Closed: ...

    def close(self) -> None: ...


class Http1:
    """Over HTTP/1.1 (RFC 6455)."""

    def __init__(
        self, port: int, tls: ssl.SSLContext | None, target: str, headers: Headers, protocols: Sequence[str]
    ) -> None:
        self.handshake: Opened | Denied
        self._open = ExitStack()
        try:
            opening = connect(
                f"{'ws' if tls is None else 'wss'}://localhost:{port}{target}",
                sock=socket.create_connection(("127.0.0.1", port), SECONDS),
                ssl=tls,
                proxy=None,
                compression=None,
                subprotocols=list(protocols) or None,  # type: ignore[arg-type]
                additional_headers=list(headers),
                open_timeout=SECONDS,
                close_timeout=SECONDS,
            )
            self._socket: Any = self._open.enter_context(opening)
        except InvalidStatus as refused:
            response = refused.response
            self.handshake = Denied(
                response.status_code, _lower(response.headers.raw_items()), response.body or b""
            )
            return
        self.handshake = Opened(_lower(self._socket.response.headers.raw_items()), self._socket.subprotocol)

    def send(self, said: Said) -> None:
        self._socket.send(said)

    def get(self) -> Said | Closed:
        try:
            return self._socket.recv(SECONDS)
        except ConnectionClosed as closed:
            assert closed.rcvd is not None, "the connection is cut"  # noqa: PT017
            return Closed(closed.rcvd.code, closed.rcvd.reason)

    def close(self) -> None:
        self._open.close()


class Http2:
    """Over one stream of HTTP/2 (RFC 8441); without TLS with prior knowledge."""

    def __init__(
        self, port: int, tls: ssl.SSLContext | None, target: str, headers: Headers, protocols: Sequence[str]
    ) -> None:
        raw = socket.create_connection(("127.0.0.1", port), SECONDS)
        raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._raw = raw
        if tls is not None:
            tls.set_alpn_protocols(["h2"])
            self._raw = tls.wrap_socket(raw, server_hostname="localhost")
            assert self._raw.selected_alpn_protocol() == "h2"
        self._http = H2Connection(H2Configuration(header_encoding=None))
        self._http.initiate_connection()
        self._events: list[Any] = []
        while not self._until(RemoteSettingsChanged).changed_settings.get(
            SettingCodes.ENABLE_CONNECT_PROTOCOL
        ):
            pass
        more = [("sec-websocket-protocol", ", ".join(protocols))] if protocols else []
        head = [
            (":method", "CONNECT"),
            (":protocol", "websocket"),
            (":scheme", "http" if tls is None else "https"),
            (":path", target),
            (":authority", "localhost"),
            ("sec-websocket-version", "13"),
        ]
        self._stream = self._http.get_next_available_stream_id()
        self._http.send_headers(self._stream, [*head, *more, *headers])
        self._frames = Connection(ConnectionType.CLIENT)
        self._got: list[Said | Closed] = []
        self._parts: list[Any] = []
        self.handshake = self._answer()

    def _answer(self) -> Opened | Denied:
        raw = self._until(ResponseReceived).headers
        headers = _lower((name.decode(), value.decode()) for name, value in raw if not name.startswith(b":"))
        status = int(dict(raw)[b":status"])
        if status == 200:
            return Opened(headers, dict(headers).get("sec-websocket-protocol"))
        body = b""
        while not isinstance(event := self._until(DataReceived, StreamEnded), StreamEnded):
            body += event.data
        return Denied(status, headers, body)

    def _until(self, *kinds: type) -> Any:
        """The next event of these kinds; what else comes is passed over."""
        while True:
            while self._events:
                event = self._events.pop(0)
                assert not isinstance(event, StreamReset) or StreamReset in kinds, event
                if isinstance(event, kinds):
                    return event
            self._read()

    def send(self, said: Said) -> None:
        event = TextMessage(said) if isinstance(said, str) else BytesMessage(said)
        self._write(self._frames.send(event))

    def _write(self, data: bytes) -> None:
        while data:
            window = self._http.local_flow_control_window(self._stream)
            size = min(window, self._http.max_outbound_frame_size, len(data))
            if size == 0:
                self._read()  # whatever makes room
                continue
            self._http.send_data(self._stream, data[:size])
            data = data[size:]
        self._raw.sendall(self._http.data_to_send())

    def _read(self) -> None:
        """Wait for whatever comes next."""
        self._raw.sendall(self._http.data_to_send())
        data = self._raw.recv(65536)
        assert data, "the connection is cut"
        came = self._http.receive_data(data)
        for event in came:
            if isinstance(event, DataReceived):
                self._http.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
        self._events += came

    def get(self) -> Said | Closed:
        while not self._got:
            self._frames.receive_data(self._until(DataReceived).data)
            for event in self._frames.events():
                match event:
                    case CloseConnection(code=code, reason=reason):
                        self._got.append(Closed(code, reason or ""))
                    case TextMessage() | BytesMessage():
                        self._parts.append(event.data)
                        if event.message_finished:
                            self._got.append(self._parts[0][:0].join(self._parts))
                            self._parts = []
        return self._got.pop(0)

    def close(self) -> None:
        self._raw.close()


def _lower(headers: Any) -> tuple[tuple[str, str], ...]:
    return tuple((name.lower(), value) for name, value in headers)
