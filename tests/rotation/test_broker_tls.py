"""Brokers behind TLS: who is there is checked, or nothing is said."""

from __future__ import annotations

import socket
import ssl
import threading
from contextlib import contextmanager, suppress
from urllib.parse import urlsplit

import pytest
import trustme
from encryption.rings import RING
from rotation.processes import until

from secmiddleware.rotation.broker import Broker

PORTS = {"redis": 6379, "amqp": 5672}


@contextmanager
def tls_before(address, certificate):
    """A door with TLS before a server; tells its port and what came through it, in clear text."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    certificate.configure_cert(context)
    came = bytearray()

    def relay(source, target, note):
        with suppress(OSError):
            while data := source.recv(65536):
                note += data
                target.sendall(data)
        for end in (source, target):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def let_in(connection):
        with (
            suppress(OSError),
            context.wrap_socket(connection, server_side=True) as inside,
            socket.create_connection(address) as server,
        ):
            back = threading.Thread(target=relay, args=(server, inside, bytearray()), daemon=True)
            back.start()
            relay(inside, server, came)
            back.join(5)

    def serve():
        with suppress(OSError):
            while True:
                threading.Thread(target=let_in, args=(door.accept()[0],), daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as door:
        threading.Thread(target=serve, daemon=True).start()
        yield door.getsockname()[1], came
        door.shutdown(socket.SHUT_RDWR)


@pytest.fixture(params=["redis", "amqp"])
def plain(request):
    return urlsplit(request.getfixturevalue(f"{request.param}_url"))


@pytest.fixture
def over_tls(plain, tmp_path):
    """Makes a running broker to which TLS with that certificate leads; the authority is the one trusted."""
    running = []

    @contextmanager
    def made(certificate, trusted):
        trusted.cert_pem.write_to_path(tmp_path / "ca.pem")
        userinfo = plain.netloc.rpartition("@")[0]
        with tls_before((plain.hostname, plain.port or PORTS[plain.scheme]), certificate) as (port, came):
            url = f"{plain.scheme}s://{userinfo}@127.0.0.1:{port}{plain.path}"
            broker = Broker(url, RING, ca=tmp_path / "ca.pem")
            running.append(broker)
            broker.start(take=lambda body: None, compose=lambda: b"{}", connected=lambda: None)
            yield broker, came

    yield made
    for broker in running:
        broker.stop()
        broker.join(1)


def test_a_broker_whose_certificate_the_ca_has_issued_is_connected_to(over_tls):
    authority = trustme.CA()
    with over_tls(authority.issue_cert("127.0.0.1"), authority) as (broker, came):
        until(lambda: broker.health()["connected_since"])
        assert came
        broker.stop()
        broker.join(1)


@pytest.mark.parametrize("wrong", ["its CA", "its name"])
def test_a_broker_that_may_be_anybody_is_told_nothing(over_tls, wrong):
    authority = trustme.CA()
    if wrong == "its CA":
        certificate, trusted = authority.issue_cert("127.0.0.1"), trustme.CA()
    else:
        certificate, trusted = authority.issue_cert("broker.example"), authority
    with over_tls(certificate, trusted) as (broker, came):
        until(lambda: broker.health()["trouble"])
        assert "CERTIFICATE_VERIFY_FAILED" in broker.health()["trouble"].upper().replace(" ", "_")
        assert broker.health()["connected_since"] is None
        assert came == b""


@pytest.mark.parametrize("scheme", ["rediss", "amqps"])
def test_tls_without_a_ca_is_refused(scheme):
    with pytest.raises(ValueError, match=f"{scheme}:// needs the CA"):
        Broker(f"{scheme}://:hunter2@host", RING)
