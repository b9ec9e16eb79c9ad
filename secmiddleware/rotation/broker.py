"""Notices over a message broker, RabbitMQ, Redis or this process's memory: the one module that imports kombu.

A broker is a hint and never the truth: it may be away, halted, lying or full, and all that it can cost is
time, for the store is looked at whenever a connection begins, and polled anyway. One daemon thread a process
does everything: it connects, hears, sends, and waits between attempts; nobody ever waits for it.
"""

# Half of kombu has no types.
# mypy: disable-error-code="no-untyped-call"

from __future__ import annotations

import logging
import os
import random
import ssl
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final, NamedTuple
from urllib.parse import quote, unquote, urlsplit

from kombu.connection import Connection
from kombu.entity import Exchange, Queue
from kombu.message import Message
from kombu.messaging import Consumer, Producer

from secmiddleware.encryption.document import show_time

_DRAIN_SECONDS: Final = 0.04
"""How long one wait for messages takes: a stop, and a notice of our own, wait that long."""
_SUBSCRIBE_SECONDS: Final = 0.02
"""The first wait. Redis subscribes in it: what is published before would be lost."""
_CONNECT_SECONDS: Final = 3.0
_ANSWER_SECONDS: Final = 10.0
"""After which a broker that does not answer in the middle of something is given up."""
_HEARTBEAT_SECONDS: Final = 10
"""RabbitMQ: a half-open connection is noticed within two of them."""
_FIRST_PAUSE: Final = 0.2
_LONGEST_PAUSE: Final = 10.0
_STEADY_SECONDS: Final = 10.0
"""A connection that held so long was a good one: after it the pauses begin anew."""
_RENEWAL: Final = timedelta(minutes=4)
"""Redis: nothing else tells a half-open subscription."""
_GARBLED_PAUSE: Final = 0.01
"""After a message that no kombu could have sent: whoever sends thousands shall not have all our time."""
_MOST_WAITING: Final = 1000
"""Messages kept for a process that hangs; one is as good as all of them."""
_LONGEST_TROUBLE: Final = 300

_chance: Final = random.SystemRandom()
"""Without a state, which a fork would copy and which an app may have seeded."""

_logger: Final = logging.getLogger("secmiddleware.rotation")


class _Owner(NamedTuple):
    """Whom a connection is for, until it has ended."""

    take: Callable[[bytes], None]
    compose: Callable[[], bytes]
    connected: Callable[[], None]
    ended: threading.Event


class Broker:
    """A `notices.Messenger` over kombu. Neither its `repr` nor its log nor its health tells the password."""

    def __init__(self, url: str, ring: str, *, ca: Path | None = None, renewal: timedelta = _RENEWAL) -> None:
        """Connects to nothing yet.

        Args:
            url: as `[rotation] broker` may be, and was checked there.
            ring: whose notices; each ring has an exchange of its own.
            ca: a PEM file of the authorities that may speak for the broker; needed with TLS.
            renewal: after which a connection is made anew.

        Raises:
            ValueError: a URL with TLS and no `ca`: kombu would check no certificate.
        """
        parts = urlsplit(url)
        host = parts.hostname or ""
        self.address = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"
        self._scheme = parts.scheme
        self._url = url
        self._secrets = _spellings_of(parts.password)
        self._tls = _tls(parts.scheme, host, ca)
        self._name = f"secmw.rotation.{ring}"
        self._renewal = renewal.total_seconds()
        self._thread: threading.Thread | None = None
        self._ended = threading.Event()
        self._to_announce = threading.Event()
        self._connected_since: datetime | None = None
        self._connections = 0
        self._sent = 0
        self._trouble: str | None = None
        _brokers.add(self)

    def start(
        self, *, take: Callable[[bytes], None], compose: Callable[[], bytes], connected: Callable[[], None]
    ) -> None:
        """As Messenger."""
        self.stop()
        # The thread gets its own end: one that hangs in a broker must not take the next one's for its.
        self._ended = threading.Event()
        owner = _Owner(take, compose, connected, self._ended)
        self._thread = threading.Thread(
            target=self._run, args=(owner,), name="secmiddleware-broker", daemon=True
        )
        self._thread.start()

    def announce(self) -> None:
        """As Messenger. What is asked for while there is no connection goes out over the next one, once."""
        self._to_announce.set()

    def stop(self) -> None:
        """As Messenger."""
        self._ended.set()
        self._connected_since = None

    def join(self, seconds: float) -> None:
        """As Messenger."""
        thread, self._thread = self._thread, None
        if thread is not None and thread is not threading.current_thread():
            thread.join(seconds)

    def health(self) -> dict[str, Any]:
        """As Messenger."""
        since = self._connected_since
        return {
            "address": self.address,
            "connected_since": None if since is None else show_time(since),
            "reconnects": max(0, self._connections - 1),
            "notices_sent": self._sent,
            "trouble": self._trouble,
        }

    def __repr__(self) -> str:
        return f"Broker({self.address!r})"

    def _run(self, owner: _Owner) -> None:
        pause = _FIRST_PAUSE
        while not owner.ended.is_set():
            begun = time.monotonic()
            try:
                self._serve(owner)
            except Exception as error:  # noqa: BLE001  (a broker makes the libraries below raise anything)
                if owner.ended.is_set():
                    return
                self._complain(error)
            else:
                # Renewed, or at its end.
                continue
            if time.monotonic() - begun > _STEADY_SECONDS:
                pause = _FIRST_PAUSE
            owner.ended.wait(pause * _chance.uniform(0.5, 1))
            pause = min(2 * pause, _LONGEST_PAUSE)

    def _serve(self, owner: _Owner) -> None:
        """Hears and sends over one connection, until it is due to be renewed or all is to end."""
        with self._connection(owner) as connection:
            channel = connection.channel()
            channel.Message = _uncompressed(channel.Message)
            exchange, queue = self._declarations()

            def hear(message: Message) -> None:
                if not owner.ended.is_set():
                    owner.take(_body_of(message))

            def garbled(_: Message, error: Exception) -> None:
                self._drop(error, owner)

            # With `on_message` kombu decodes nothing; without the other two, what it cannot read would raise.
            consumer = Consumer(
                channel, [queue], on_message=hear, accept=["json"], on_decode_error=garbled, no_ack=True
            )
            consumer.consume()
            self._drain(connection, _SUBSCRIBE_SECONDS, owner)
            if not owner.ended.is_set():
                self._begin(owner)
                # On Redis what goes to an exchange that this very connection has not declared is lost.
                self._work(connection, Producer(channel, exchange, auto_declare=True), owner)
            if self._scheme == "memory":
                # Nobody else tidies up: a real broker sees the connection end.
                consumer.cancel()
                queue(channel).delete()

    def _begin(self, owner: _Owner) -> None:
        self._connections += 1
        self._connected_since = datetime.now(UTC)
        if self._trouble is not None:
            self._trouble = None
            _logger.info("broker %s: connected again", self.address)
        # Only now: what was told before this moment is in the store, what is told from now on is heard.
        owner.connected()

    def _work(self, connection: Connection, producer: Producer, owner: _Owner) -> None:
        renewal = time.monotonic() + self._renewal * _chance.uniform(0.8, 1.2)
        beat = time.monotonic()
        while not owner.ended.is_set() and time.monotonic() < renewal:
            if self._to_announce.is_set():
                # Cleared first: who asks while this one is sent gets another.
                self._to_announce.clear()
                self._send(producer, owner)
            self._drain(connection, _DRAIN_SECONDS, owner)
            if time.monotonic() >= beat:
                connection.heartbeat_check(rate=2)
                beat = time.monotonic() + _HEARTBEAT_SECONDS / 4

    def _send(self, producer: Producer, owner: _Owner) -> None:
        try:
            producer.publish(
                owner.compose(),
                content_type="application/json",
                content_encoding="utf-8",
                retry=False,
            )
        except Exception:
            self._to_announce.set()
            raise
        self._sent += 1

    def _drain(self, connection: Connection, seconds: float, owner: _Owner) -> None:
        """Hears what comes within some seconds. Raises what ends a connection, drops what cannot be read."""
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0 and not owner.ended.is_set():
            try:
                connection.drain_events(timeout=left)
            except TimeoutError:
                return
            except (OSError, *connection.connection_errors, *connection.channel_errors):
                raise
            except Exception as error:  # noqa: BLE001  (who writes to the broker chooses what kombu trips over)
                self._drop(error, owner)
                owner.ended.wait(_GARBLED_PAUSE)

    def _drop(self, error: Exception, owner: _Owner) -> None:
        _logger.debug("broker %s: a message cannot be read: %s", self.address, type(error).__name__)
        owner.take(b"")

    @contextmanager
    def _connection(self, owner: _Owner) -> Iterator[Connection]:
        connection = Connection(
            self._url,
            ssl=self._tls,
            heartbeat=_HEARTBEAT_SECONDS,
            connect_timeout=_CONNECT_SECONDS,
            transport_options=_options(self._scheme),
        )
        try:
            # Its own pauses cannot be interrupted: one attempt, and ours.
            connection.ensure_connection(max_retries=1, interval_start=0, interval_step=0, interval_max=0)
            yield connection
        except Exception:
            if not owner.ended.is_set():
                self._connected_since = None
            # RabbitMQ would be bidden farewell, and one that hangs would not answer.
            if self._scheme.startswith("amqp") and connection.connected:
                connection.connection.collect()
            raise
        finally:
            with suppress(Exception):
                connection.release()

    def _declarations(self) -> tuple[Exchange, Queue]:
        exchange = Exchange(self._name, type="fanout", durable=True, delivery_mode=1)
        # Redis keeps the name of every queue that was ever bound: there, all processes share one. It stands
        # for a subscription of each.
        name = self._name if self._scheme.startswith("redis") else f"{self._name}.{os.urandom(8).hex()}"
        queue = Queue(
            name,
            exchange,
            exclusive=self._scheme.startswith("amqp"),
            auto_delete=self._scheme.startswith("amqp"),
            durable=False,
            max_length=_MOST_WAITING,
        )
        return exchange, queue

    def _complain(self, error: Exception) -> None:
        text = f"{type(error).__name__}: {error}"
        for secret in self._secrets:
            text = text.replace(secret, "…")
        text = text[:_LONGEST_TROUBLE]
        if text != self._trouble:
            self._trouble = text
            _logger.warning("broker %s: %s; the store is polled until it is back", self.address, text)

    def _leave_the_parent(self) -> None:
        # The thread is not here, and its connection is the parent's.
        self._thread = None
        self._ended = threading.Event()
        self._connected_since = None


def _uncompressed(stock: Any) -> type:
    """The message class of a channel, without what kombu does to a message before anybody has asked.

    A header would have it unpacked: a few kilobytes become gigabytes. And what is no message at all must not
    pass for the end of the connection, as a KeyError would.
    """

    class Uncompressed(stock):  # type: ignore[misc]  # the transport decides whose class it is
        def __init__(self, payload: Any, channel: Any = None, **arguments: Any) -> None:
            if isinstance(payload, dict):
                payload = payload | {"headers": {}}
            else:
                payload.properties.pop("application_headers", None)
            try:
                super().__init__(payload, channel=channel, **arguments)
            except LookupError as error:
                raise ValueError("this is no message") from error

    return Uncompressed


def _body_of(message: Message) -> bytes:
    """The bytes as they came, not decoded in any way; none where they do not say that they are JSON."""
    if message.content_type != "application/json":
        return b""
    body = message.body
    return body.encode("utf-8", "surrogatepass") if isinstance(body, str) else bytes(body or b"")


def _tls(scheme: str, host: str, ca: Path | None) -> dict[str, Any] | None:
    if scheme not in ("rediss", "amqps"):
        return None
    if ca is None:
        raise ValueError(f"{scheme}:// needs the CA of the broker")
    if scheme == "amqps":
        return {"server_hostname": host, "context": {"cafile": str(ca), "check_hostname": True}}
    return {
        "ssl_cert_reqs": ssl.CERT_REQUIRED,
        "ssl_ca_certs": str(ca),
        "ssl_check_hostname": True,
        "ssl_min_version": ssl.TLSVersion.TLSv1_2,
    }


def _options(scheme: str) -> dict[str, Any]:
    match scheme:
        case "memory":
            return {"polling_interval": _DRAIN_SECONDS / 2}
        case "amqp" | "amqps":
            return {"read_timeout": _ANSWER_SECONDS, "write_timeout": _ANSWER_SECONDS}
        case _:
            return {
                "socket_connect_timeout": _CONNECT_SECONDS,
                "socket_timeout": _CONNECT_SECONDS,
                "socket_keepalive": True,
                "retry_on_timeout": False,
                # Nothing of ours is acknowledged.
                "ack_emulation": False,
            }


def _spellings_of(password: str | None) -> tuple[str, ...]:
    """How a password of a URL may stand in an error."""
    if not password:
        return ()
    plain = unquote(password)
    return tuple(sorted({password, plain, quote(plain), quote(plain, safe="")}, key=len, reverse=True))


def _after_fork_in_child() -> None:
    for broker in list(_brokers):
        broker._leave_the_parent()  # noqa: SLF001  (this module's own)


_brokers: Final[weakref.WeakSet[Broker]] = weakref.WeakSet()
os.register_at_fork(after_in_child=_after_fork_in_child)
