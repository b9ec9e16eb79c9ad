"""The servers of the tests: seen by nobody else, gone afterwards; a missing one is told in one line."""

from __future__ import annotations

import os
import socket
import stat
import subprocess
from pathlib import Path

import pytest
from services import binaries, provided
from services.binaries import MissingError, Service, binary_of
from services.rabbitmq import RabbitMqServer
from services.redis_server import REDIS, RedisServer
from services.running import Server

NOWHERE = Service("Nowhere", "nowhere-server", ("/nowhere/bin/nowhere", "nowhere-server"), "NOWHERE_URL")


def listeners_of(group: int) -> set[str]:
    """The addresses on which the processes of a group listen for TCP, as the kernel has them."""
    inodes = set()
    for descriptor in Path("/proc").glob("[0-9]*/fd/*"):
        try:
            if os.getpgid(int(descriptor.parts[2])) == group:
                inodes.add(str(descriptor.readlink()))
        except OSError:  # closed in this moment
            continue
    found = set()
    for table, family in (("tcp", socket.AF_INET), ("tcp6", socket.AF_INET6)):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and f"socket:[{fields[9]}]" in inodes:
                words = bytes.fromhex(fields[1].partition(":")[0])
                address = b"".join(words[at : at + 4][::-1] for at in range(0, len(words), 4))
                found.add(socket.inet_ntop(family, address))
    return found


@pytest.mark.parametrize("name", ["redis_server", "rabbitmq_server"])
def test_a_server_of_the_tests_listens_on_loopback_alone(request, name):
    server: Server = request.getfixturevalue(name)
    assert listeners_of(server._process.pid) == {"127.0.0.1"}
    assert stat.S_IMODE(server.folder.stat().st_mode) == 0o700


def test_a_server_that_was_killed_starts_again_on_its_port_and_leaves_nothing_when_it_ends(redis_server):
    server = RedisServer(redis_server.binary).start()
    url = server.url
    server.kill()
    with pytest.raises(ConnectionRefusedError):
        server.answers()
    server.start()
    assert server.url == url
    group = server._process.pid
    server.end()
    server.end()
    assert not server.folder.exists()
    with pytest.raises(ProcessLookupError):
        os.killpg(group, 0)


def test_a_server_that_cannot_start_says_why(redis_server):
    server = RedisServer(redis_server.binary)
    server.port = redis_server.port
    try:
        with pytest.raises(AssertionError, match=r"redis did not start: (?s:.*)in use"):
            server.start()
    finally:
        server.end()


def test_rabbitmq_ends_with_all_that_belongs_to_it(rabbitmq_server):
    server = RabbitMqServer(rabbitmq_server.binary)
    server.begin()
    children = {server._process.pid, server._epmd.pid}
    server.end()
    assert not any(Path(f"/proc/{pid}").exists() for pid in children)
    assert not server.folder.exists()


def test_a_binary_that_is_there_is_taken_and_nothing_is_said(redis_server):
    said = []
    assert binary_of(REDIS, said.append) == redis_server.binary
    assert said == []


def test_a_binary_that_is_missing_and_may_not_be_installed_is_one_line_that_says_what_to_type(monkeypatch):
    monkeypatch.setattr(binaries, "_may_install", lambda: False)
    with pytest.raises(MissingError) as raised:
        binary_of(NOWHERE, print)
    line = str(raised.value)
    assert "\n" not in line
    assert "sudo apt-get install nowhere-server" in line
    assert "NOWHERE_URL" in line


def test_the_tests_that_need_a_missing_server_fail_and_are_counted(monkeypatch, pytestconfig):
    monkeypatch.setattr(binaries, "_may_install", lambda: False)
    with (
        pytest.raises(pytest.fail.Exception, match="apt-get install nowhere-server"),
        provided.serving(RedisServer, NOWHERE, pytestconfig),
    ):
        pass


def test_a_plugin_is_found_though_nobody_can_run_it(tmp_path):
    (tmp_path / "mod_nowhere.so").write_bytes(b"")
    plugin = Service("mod_nowhere", "nowhere-plugin", (str(tmp_path / "mod_nowhere.so"),))
    assert binary_of(plugin, print) == tmp_path / "mod_nowhere.so"


def test_the_tests_that_need_a_missing_plugin_are_skipped_with_what_to_type(monkeypatch, pytestconfig):
    monkeypatch.setattr(binaries, "_may_install", lambda: False)
    plugin = Service("mod_nowhere", "nowhere-plugin", ("/nowhere/mod_nowhere.so",))
    with pytest.raises(pytest.skip.Exception, match="sudo apt-get install nowhere-plugin") as skipped:
        provided.plugged(REDIS, plugin, pytestconfig)
    assert "set " not in str(skipped.value)


def test_a_plugin_for_another_python_than_ours_is_skipped_and_says_so(
    monkeypatch, tmp_path, pytestconfig, redis_server
):
    python = tmp_path / "python3"
    python.write_text("#!/bin/sh\necho 2.7\n")
    python.chmod(0o755)
    monkeypatch.setattr(provided, "SYSTEM_PYTHON", str(python))
    with pytest.raises(pytest.skip.Exception, match=r"Redis is for the system's Python 2\.7"):
        provided.plugged(REDIS, REDIS, pytestconfig)


@pytest.mark.parametrize("before", [None, b"#!/bin/sh\nexit 104\n"])
@pytest.mark.parametrize("trouble", [None, RuntimeError])
def test_while_a_package_is_installed_no_service_starts_and_the_policy_is_restored(
    monkeypatch, tmp_path, before, trouble
):
    policy = tmp_path / "policy-rc.d"
    monkeypatch.setattr(binaries, "POLICY", policy)
    monkeypatch.setattr(binaries, "_SAVED", tmp_path / "policy-rc.d.before-tests")
    if before is not None:
        policy.write_bytes(before)
        policy.chmod(0o755)
    try:
        with binaries._no_services():
            assert subprocess.run([policy, "redis-server", "start"], check=False).returncode == 101
            if trouble:
                raise trouble
    except RuntimeError:
        pass
    assert (policy.read_bytes() if policy.exists() else None) == before
    assert {path.name for path in tmp_path.iterdir()} == ({"policy-rc.d"} if before else set())


def test_a_policy_that_a_killed_run_left_behind_is_restored(monkeypatch, tmp_path):
    policy, saved = tmp_path / "policy-rc.d", tmp_path / "policy-rc.d.before-tests"
    monkeypatch.setattr(binaries, "POLICY", policy)
    monkeypatch.setattr(binaries, "_SAVED", saved)
    policy.write_bytes(b"ours")
    saved.write_bytes(b"theirs")
    with binaries._no_services():
        pass
    assert policy.read_bytes() == b"theirs"
    assert not saved.exists()
