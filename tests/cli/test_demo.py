"""`secmiddleware demo`: the tour, as it looks to somebody who knows nothing of it; nothing of it is left."""

from __future__ import annotations

import json
import os
import pty
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from cli.command import (
    ESCAPE,
    OURS,
    PACKAGE,
    PATIENCE,
    change,
    children,
    ended,
    environment,
    is_gone,
    running,
    until,
)
from secmiddleware.cli.stage import STOP_SECONDS, example_folder
from secmiddleware.cli.tour import _ROTATION_SECONDS

STEPS = (
    "a. A call without a certificate",
    "b. A certificate of a strange CA",
    "c. A good certificate",
    "d. A secret field",
    "e. A key rotates under running calls",
    "f. The trace of one call",
    "g. Two processes, one key ring",
)
APP = "customers_starlette"
AS_TOLD = "All 7 steps came out as told."
KEPT = "The server keeps running until you press Ctrl-C."


@dataclass
class Shown:
    """A demo that runs, and what it has shown so far."""

    process: subprocess.Popen[bytes]
    text: Callable[[], str]
    scratch: Path

    def until(self, what: str) -> None:
        until(lambda: what in self.text() or self.process.poll() is not None, f"{what!r} is shown")
        assert what in self.text(), self.text()

    def server(self) -> int:
        """The process that serves what is called; others come and go."""
        port = re.search(r"https://localhost:(\d+)", self.text())
        assert port is not None, self.text()
        words = {pid: Path(f"/proc/{pid}/cmdline").read_bytes() for pid in children(self.process.pid)}
        asked = f"\0--port\0{port[1]}\0".encode()
        (server,) = (pid for pid, typed in words.items() if asked in typed)
        return server

    def ends(self, number: int | None = None) -> int:
        """Its status; after it nothing is left: no process, no folder, no key."""
        servers = children(self.process.pid)
        status = ended(self.process, number)
        assert all(map(is_gone, servers))
        assert list(self.scratch.iterdir()) == []
        return status


@contextmanager
def demo(folder: Path, *options: str, terminal: bool = False, **env: str) -> Iterator[Shown]:
    """A demo whose temporary folder stands in `folder`, in a pipe or in a terminal."""
    scratch, log = folder / "it's a tmp", folder / "log"
    scratch.mkdir()
    surroundings = environment(TMPDIR=str(scratch), **env)
    if not terminal:
        with running([*OURS, "demo", *options], log=log, env=surroundings, cwd=folder) as process:
            yield Shown(process, lambda: log.read_text(), scratch)
        return
    ours, theirs = pty.openpty()
    seen = bytearray()

    def read() -> None:
        # Reading a terminal that nobody writes to any more is an error on Linux.
        try:
            while data := os.read(ours, 1 << 16):
                seen.extend(data)
        except OSError:
            return

    reader = threading.Thread(target=read, daemon=True)
    surroundings["TERM"] = "xterm-256color"
    with running(
        [*OURS, "demo", *options], log=log, env=surroundings, cwd=folder, stdout=theirs, stderr=theirs
    ) as process:
        os.close(theirs)
        reader.start()
        yield Shown(process, lambda: seen.decode(errors="replace").replace("\r\n", "\n"), scratch)
    reader.join(PATIENCE)
    os.close(ours)


@pytest.fixture(scope="module", autouse=True)
def piped(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shown]:
    """A demo in a pipe, under way while the others run: most of it is waiting."""
    meddling = {"SECMIDDLEWARE__MTLS__CLIENT": "off", "SECMIDDLEWARE__KEYS__STORE": "memory:"}
    with demo(tmp_path_factory.mktemp("piped"), **meddling) as shown:
        yield shown


def curl_lines(text: str) -> list[str]:
    kept = re.sub(r"\x1b\[[0-9;]*m", "", text).partition(KEPT)[2]
    return [line.strip() for line in kept.splitlines() if line.startswith("  ")]


# What the lines ask of curl, for a machine that has none.
CURL = """#!{python}
import ssl, sys, urllib.request
*options, url = sys.argv[1:]
given = dict(zip(options[::2], options[1::2], strict=True))
context = ssl.create_default_context(cafile=given["--cacert"])
if "--cert" in given:
    context.load_cert_chain(given["--cert"], given["--key"])
try:
    response = urllib.request.urlopen(url, context=context)
except urllib.error.HTTPError as error:
    response = error
print(response.read().decode())
"""


def path_with_curl(folder: Path) -> str:
    path = os.environ["PATH"]
    if shutil.which("curl") is None:
        (folder / "curl").write_text(CURL.format(python=sys.executable))
        (folder / "curl").chmod(0o755)
        path += f"{os.pathsep}{folder}"
    return path


def test_in_a_terminal_it_has_colours_and_what_it_offers_to_type_works(tmp_path: Path) -> None:
    with demo(tmp_path, "--keep", terminal=True) as shown:
        shown.until("keys rotate --config")
        shown.until(KEPT)
        coloured = shown.text()
        assert "NOT AS TOLD" not in coloured, coloured
        assert re.search(r"\x1b\[[0-9;]*m" + re.escape(STEPS[0]), coloured)
        assert re.search(r"\x1b\[[0-9;]*m" + re.escape(AS_TOLD), coloured)
        server = shown.server()
        lines = until(lambda: len(found := curl_lines(shown.text())) == 6 and found, "six lines are offered")

        surroundings = environment(PATH=path_with_curl(tmp_path))

        def typed(line: str) -> str:
            done = subprocess.run(
                ["sh", "-c", line],
                cwd=tmp_path,
                env=surroundings,
                capture_output=True,
                text=True,
                check=False,
            )
            assert done.returncode == 0, (line, done.stderr)
            return done.stdout

        bare, who, customers, held, seal, rotate = map(typed, lines)
        assert json.loads(bare)["code"] == "certificate_missing"
        assert json.loads(who) == {"caller": "spiffe://example.org/clients/demo"}
        assert json.loads(customers)["people"][0]["ssn"].startswith("sm1.")
        assert json.loads(held)["held"][0]["ssn"] == "078-05-1120"
        assert seal.startswith("sm1.")
        assert "is published" in rotate
        assert not is_gone(server)
        assert shown.ends(signal.SIGTERM) == 0
        assert shown.text().endswith("\nStopped.\n")


def in_a_copy(folder: Path, *changes: tuple[str, str]) -> dict[str, str]:
    """The environment in which a copy of the package runs, whose example app is another one."""
    shutil.copytree(PACKAGE, folder / "secmiddleware", ignore=shutil.ignore_patterns("__pycache__"))
    examples = folder / "secmiddleware" / "cli" / "examples"
    examples.mkdir(exist_ok=True)
    shutil.copy(example_folder(APP) / f"{APP}.py", examples)
    change(examples / f"{APP}.py", *changes)
    return {"PYTHONPATH": str(folder)}


def test_an_app_that_keeps_nothing_is_not_as_told(tmp_path: Path) -> None:
    env = in_a_copy(tmp_path / "copy", ('    request.app.state.customers[customer["id"]] = customer\n', ""))
    with demo(tmp_path, "--keep", **env) as shown:
        shown.until(KEPT)
        assert f"\n{STEPS[3]}\n" in shown.text()
        assert "   NOT AS TOLD: " in shown.text()
        assert STEPS[4] not in shown.text()
        assert AS_TOLD not in shown.text()
        assert shown.ends(signal.SIGINT) == 1
        assert shown.text().endswith("\nStopped.\n")


def test_a_server_that_dies_under_running_calls_is_not_as_told(tmp_path: Path) -> None:
    with demo(tmp_path) as shown:
        shown.until("$ secmiddleware keys rotate\n")
        os.kill(shown.server(), signal.SIGKILL)
        since = time.monotonic()
        assert shown.ends() == 1
        # For so long a new key would be waited for.
        assert time.monotonic() - since < _ROTATION_SECONDS
        last = shown.text().splitlines()[-1]
        assert last.startswith("   NOT AS TOLD: a call failed: ")
        assert "Traceback" not in shown.text()


def test_a_signal_in_the_middle_leaves_nothing_and_nobody_waits(tmp_path: Path) -> None:
    with demo(tmp_path) as shown:
        shown.until(STEPS[0])
        since = time.monotonic()
        assert shown.ends(signal.SIGTERM) == 1
        # For so long a server waits for connections that nobody has closed.
        assert time.monotonic() - since < STOP_SECONDS
        assert "Traceback" not in shown.text()


def test_a_kept_server_that_ends_by_itself_is_told(tmp_path: Path) -> None:
    env = in_a_copy(tmp_path / "copy", ('return JSONResponse({"caller":', 'return JSONResponse({"who":'))
    with demo(tmp_path, "--keep", **env) as shown:
        shown.until(KEPT)
        assert "   NOT AS TOLD: expected the caller spiffe://example.org/clients/demo\n" in shown.text()
        assert STEPS[3] not in shown.text()
        os.kill(shown.server(), signal.SIGKILL)
        assert shown.ends() == 1
        assert shown.text().endswith("\nError: the server has ended by itself\n")


def test_in_a_pipe_it_is_plain_text_with_every_step_in_its_place(piped: Shown) -> None:
    status, text = piped.ends(), piped.text()
    assert status == 0, text
    assert ESCAPE not in text
    assert "Traceback" not in text
    lines = text.splitlines()
    at = [lines.index(step) for step in STEPS]
    assert at == sorted(at)
    assert lines[-1] == AS_TOLD
    a, b, c, d, e, f, g = (
        "\n".join(lines[start:end]) for start, end in zip(at, [*at[1:], None], strict=True)
    )
    problem = re.search(r"< HTTP/1\.1 401 Unauthorized\n.*\n +< (\{.*\})", a, re.DOTALL)
    assert problem is not None
    assert "< content-type: application/problem+json\n" in a
    assert json.loads(problem[1])["code"] == "certificate_missing"
    assert re.search(r"\(TLS alert: .*UNKNOWN_CA\)", b)
    assert '< {"caller":"spiffe://example.org/clients/demo"}' in c
    token = r"sm1\.[\w-]+"
    assert re.search(rf'> \{{"name": "Ada", "ssn": "{token}"\}}', d)
    assert re.search(rf'< \{{"id":1,"name":"Ada","ssn":"{token}"\}}', d)
    assert '< {"held":[{"id":1,"name":"Ada","ssn":"078-05-1120"}]}' in d
    assert '"code": "field_undecryptable"' in d
    counted = re.search(r"(\d+) calls were made, 0 failed\. New tokens carry (\w{8}), no more (\w{8})\.", e)
    assert counted is not None
    assert int(counted[1]) > 10
    assert counted[2] != counted[3]
    assert f"key {counted[2]} is published" in e
    traced = re.search(r"traceparent: 00-([0-9a-f]{32})-[0-9a-f]{16}-01", f)
    assert traced is not None
    tree = [line.strip() for line in f.splitlines() if "secmiddleware." in line or "SERVER" in line]
    assert [re.sub(r"\d+\.\d+ ms.*", "", line).strip() for line in tree] == [
        "SERVER POST /customers",
        "├─ INTERNAL secmiddleware.decrypt",
        "└─ INTERNAL secmiddleware.encrypt",
    ]
    published = re.search(r"key (\w{8}) is published", g)
    assert published is not None
    assert g.count(f"saw it in the file: INFO:     ring customers: key {published[1]} is pending") == 2
    assert f"Both seal with {published[1]} now" in g


def test_the_other_world_is_shown_in_the_same_steps(tmp_path: Path) -> None:
    with demo(tmp_path, "--wsgi") as shown:
        assert shown.ends() == 0, shown.text()
        assert "examples/customers_flask.py knows nothing of certificates" in shown.text()
        lines = shown.text().splitlines()
        at = [lines.index(step) for step in STEPS]
        assert at == sorted(at)
        assert lines[-1] == AS_TOLD


@pytest.mark.parametrize(("broker", "scheme"), [("redis_url", "redis"), ("amqp_url", "amqp")])
def test_a_broker_announces_the_rotation(
    tmp_path: Path, request: pytest.FixtureRequest, broker: str, scheme: str
) -> None:
    with demo(tmp_path, "--broker", request.getfixturevalue(broker)) as shown:
        assert shown.ends() == 0, shown.text()
        last = shown.text().partition(STEPS[-1])[2]
        assert f"announced over {scheme}://" in last
        assert len(re.findall(r"was told by a notice|saw it in the file", last)) == 2
