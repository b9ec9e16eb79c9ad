"""`secmiddleware init`: all there, private, good; and never over anything."""

from __future__ import annotations

import os
import resource
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from cli.command import OURS, Done, environment, inside, made, run, tree
from secmiddleware.certificates.judgement import Judged, Trust
from secmiddleware.certificates.trust import TrustAnchor, load_anchors
from secmiddleware.cli import main
from secmiddleware.encryption.manager import utc_now
from secmiddleware.messages import Presented
from secmiddleware.security import SecurityManager

MADE = {
    "secmiddleware.toml",
    "pki",
    "pki/.gitignore",
    "pki/ca.key",
    "pki/ca.pem",
    "pki/client.key",
    "pki/client.pem",
    "pki/server.key",
    "pki/server.pem",
    "state",
    "state/.gitignore",
    "state/kek",
    "state/keyring.json",
    "state/keyring.json.floor",
    "state/keyring.json.lock",
}
IN_THE_WAY = ("secmiddleware.toml", "pki", "state")


def refused(folder: Path, *options: str) -> Done:
    """`init` of a folder in which something is in the way: nothing changes there."""
    before = tree(folder)
    done = run("init", ".", *options, cwd=folder)
    assert tree(folder) == before
    assert done.status == 1
    assert done.out == ""
    assert done.err.startswith("Error: nothing was made")
    assert done.err.count("\n") == 1
    return done


def test_everything_is_there_and_nothing_else(config: Path) -> None:
    assert set(tree(config.parent)) == MADE


def test_nobody_else_can_read_what_is_secret(tmp_path: Path) -> None:
    config = made(tmp_path / "open", preexec_fn=lambda: os.umask(0))
    folder = config.parent
    assert {name: (folder / name).stat().st_mode & 0o777 for name in ("pki", "state")} == {
        "pki": 0o700,
        "state": 0o700,
    }
    files = [path for name in ("pki", "state") for path in (folder / name).iterdir() if path.suffix != ".pem"]
    assert len(files) == len(MADE) - 6
    assert {path.name: path.stat().st_mode & 0o777 for path in files} == {path.name: 0o600 for path in files}


def test_version_control_sees_no_secret(config: Path, tmp_path: Path) -> None:
    subprocess.run(["git", "init", "--quiet", tmp_path / "index"], check=True)
    git = ["git", f"--git-dir={tmp_path / 'index' / '.git'}", f"--work-tree={config.parent}"]
    seen = subprocess.run(
        [*git, "ls-files", "--others", "--exclude-standard"], capture_output=True, check=True
    )
    assert seen.stdout.split() == [b"secmiddleware.toml"]


def test_check_is_pleased_with_it(config: Path) -> None:
    done = run("check", cwd=config.parent)
    assert (done.status, done.err) == (0, "")
    assert done.out.startswith("secmiddleware.toml: good\n")


@pytest.mark.skipif(shutil.which("openssl") is None, reason="there is no openssl here; apt install openssl")
def test_openssl_verifies_its_certificates(config: Path) -> None:
    for name, purpose in (("server", "sslserver"), ("client", "sslclient")):
        command = [
            "openssl",
            "verify",
            "-x509_strict",
            "-purpose",
            purpose,
            "-CAfile",
            "ca.pem",
            f"{name}.pem",
        ]
        done = subprocess.run(command, cwd=config.parent / "pki", capture_output=True, text=True, check=False)
        assert (done.returncode, done.stdout) == (0, f"{name}.pem: OK\n"), done.stderr


def test_its_client_passes_the_strict_profile_for_a_year(config: Path) -> None:
    pki = config.parent / "pki"
    trust = Trust(tuple(TrustAnchor(anchor) for anchor in load_anchors(pki / "ca.pem")), "strict")
    leaf, *chain = x509.load_pem_x509_certificates((pki / "client.pem").read_bytes())
    now = utc_now()
    for at in (now, now.replace(year=now.year + 1, month=1, day=1)):
        presented = Presented(_der(leaf), tuple(map(_der, chain)))
        assert isinstance(trust.judge(presented, at), Judged)


def _der(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(Encoding.DER)


def test_its_names_are_those_that_were_asked_for(tmp_path: Path) -> None:
    names = ["pay.internal", "*.example.org", "10.0.0.7", "fd00::7"]
    options = ["--service", "payments", "--trust-domain", "prod.example"]
    config = made(tmp_path / "pay", *options, *(word for name in names for word in ("--name", name)))
    shown = {
        name: x509.load_pem_x509_certificates((config.parent / "pki" / f"{name}.pem").read_bytes())[0]
        .extensions.get_extension_for_class(x509.SubjectAlternativeName)
        .value
        for name in ("server", "client")
    }
    assert shown["server"].get_values_for_type(x509.DNSName) == ["pay.internal", "*.example.org"]
    addresses = shown["server"].get_values_for_type(x509.IPAddress)
    assert list(map(str, addresses)) == ["10.0.0.7", "fd00::7"]
    spiffe = {name: seen.get_values_for_type(x509.UniformResourceIdentifier) for name, seen in shown.items()}
    assert spiffe == {
        "server": ["spiffe://prod.example/payments"],
        "client": ["spiffe://prod.example/clients/demo"],
    }
    with SecurityManager.from_config(config, {}) as manager:
        assert manager.settings.service.name == "payments"
        assert manager.encryption is not None
        assert manager.encryption.ring == "payments"
        assert manager.encryption.open("ssn", manager.encryption.seal("ssn", b"1.10")) == b"1.10"


def test_the_longest_service_name_is_not_too_long_for_its_ca(tmp_path: Path) -> None:
    config = made(tmp_path / "long", "--service", "a" * 64)
    assert inside("check", config=config).status == 0


def test_two_folders_share_no_secret(config: Path, tmp_path: Path) -> None:
    other = made(tmp_path / "other").parent
    for name in ("pki/ca.key", "pki/server.key", "pki/client.key", "state/kek", "state/keyring.json"):
        assert (other / name).read_bytes() != (config.parent / name).read_bytes()


@pytest.mark.parametrize("kind", ["file", "folder", "dangling link"])
@pytest.mark.parametrize("name", IN_THE_WAY)
def test_one_thing_in_the_way_and_nothing_is_made(tmp_path: Path, name: str, kind: str) -> None:
    path = tmp_path / name
    match kind:
        case "file":
            path.write_text("mine\n")
        case "folder":
            path.mkdir()
        case _:
            path.symlink_to(tmp_path / "nowhere")
    assert name in refused(tmp_path).err


def test_everything_in_the_way_is_named(config: Path) -> None:
    error = refused(config.parent).err
    assert all(name in error for name in IN_THE_WAY)


@pytest.mark.parametrize("where", ["file", "file/below", "dangling"])
def test_where_no_folder_can_be_nothing_is_made(tmp_path: Path, where: str) -> None:
    (tmp_path / "file").write_text("mine\n")
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    before = tree(tmp_path)
    done = run("init", where, cwd=tmp_path)
    assert (done.status, done.out) == (1, "")
    assert done.err.startswith("Error: nothing was made")
    assert where in done.err
    assert tree(tmp_path) == before


# In bytes; what is too large for it: the first file of all, the client's certificate, the settings.
@pytest.mark.parametrize(("largest", "folder"), [(1, "new/below"), (700, "."), (1000, "new/below")])
def test_a_failure_half_way_leaves_nothing_of_it(tmp_path: Path, largest: int, folder: str) -> None:
    (tmp_path / "app.py").write_text("mine\n")
    before = tree(tmp_path)
    limit = (largest, largest)

    def limited() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)

    done = run("init", folder, cwd=tmp_path, preexec_fn=limited)
    assert (done.status, done.out) == (1, "")
    assert done.err.startswith("Error: nothing was made: ")
    assert tree(tmp_path) == before


def test_of_several_that_start_at_once_one_wins(tmp_path: Path) -> None:
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    start = {"cwd": tmp_path, "env": environment(), **pipes}
    several = [subprocess.Popen([*OURS, "init", "app"], **start) for _ in range(4)]
    said = [process.communicate()[1] for process in several]
    assert sorted(process.returncode for process in several) == [0, 1, 1, 1], said
    assert "".join(said).count("Error: nothing was made, for this is there already") == 3
    assert set(tree(tmp_path / "app")) == MADE
    assert inside("check", config=tmp_path / "app" / "secmiddleware.toml").status == 0


# Stands in for another process that is faster: it acts at the worst moment, when the way seems clear.
FASTER = """
import os, subprocess, sys
from secmiddleware.cli import main

def meanwhile(event, arguments):
    global act
    if event in ("os.mkdir", "open") and str(arguments[0]).endswith(sys.argv[1]) and act:
        act, args = None, act
        subprocess.run(args, check=True, stdout=subprocess.DEVNULL)

act = sys.argv[2:]
sys.addaudithook(meanwhile)
main(["init", "."])
"""


@pytest.mark.parametrize("name", IN_THE_WAY)
def test_what_comes_in_the_way_at_the_last_moment_stays_as_it_is(tmp_path: Path, name: str) -> None:
    other = [*OURS, "init", "."] if name == "pki" else ["sh", "-c", f"echo mine > {name}"]
    command = [sys.executable, "-c", FASTER, name, *other]
    done = subprocess.run(
        command, cwd=tmp_path, env=environment(), capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"Error: nothing was made, for this is there already: {name}\n"
    if name == "pki":
        assert set(tree(tmp_path)) == MADE
        assert inside("check", config=tmp_path / "secmiddleware.toml").status == 0
    else:
        assert tree(tmp_path) == {name: b"mine\n"}


def test_a_folder_that_holds_an_app_keeps_it(tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text("async def app(scope, receive, send): ...\n")
    (tmp_path / ".gitignore").write_text("*.pyc\n")
    before = tree(tmp_path)
    done = run("init", ".", cwd=tmp_path)
    assert done.status == 0
    assert {name: there for name, there in tree(tmp_path).items() if name not in MADE} == before
    assert inside("check", config=tmp_path / "secmiddleware.toml").status == 0


@pytest.mark.parametrize("name", ["-c", 'it\'s a "shop" & $HOME; `x` */über\ntwo lines'])
def test_a_shell_can_run_the_commands_that_are_printed(tmp_path: Path, name: str) -> None:
    (tmp_path / "bin").mkdir()
    ours = tmp_path / "bin" / "secmiddleware"
    ours.write_text(f'#!/bin/sh\nexec {shlex.join(OURS)} "$@"\n')
    ours.chmod(0o755)
    curl = tmp_path / "bin" / "curl"
    curl.write_text('#!/bin/sh\ntest -f "$2" && test -f "$4" && test -f "$6" && echo "$@"\n')
    curl.chmod(0o755)
    done = run("init", "--", name, cwd=tmp_path)
    assert (done.status, done.err) == (0, "")
    assert f"Made in {name}:\n" in done.out
    check, *others = done.out.partition("\nNext:\n")[2].rstrip().split("\n  secmiddleware run MODULE:APP ")
    run_options, _, call = others[0].partition("\n  curl ")
    path = f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}"

    def shell(line: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["sh", "-c", line],
            cwd=tmp_path,
            env=environment(PATH=path),
            capture_output=True,
            text=True,
            check=False,
        )

    checked = shell(check)
    assert checked.returncode == 0, checked.stderr
    assert checked.stdout.startswith(f"{name}/secmiddleware.toml: good")
    # Good settings, and an app that is not there: the file was found.
    served = shell(f"secmiddleware run no.such:app {run_options}")
    assert "there is no module 'no.such'" in served.stderr
    called = shell(f"curl {call}")
    assert called.stdout.endswith("https://localhost:8443/\n"), called.stderr


@pytest.mark.parametrize(
    ("names", "url"),
    [
        (["::1"], "https://[::1]:8443/"),
        (["10.0.0.7", "pay.internal"], "https://10.0.0.7:8443/"),
        (["*.example.org"], "https://www.example.org:8443/"),
    ],
)
def test_the_url_that_is_printed_fits_the_certificate(tmp_path: Path, names: list[str], url: str) -> None:
    words = [word for name in names for word in ("--name", name)]
    result = CliRunner().invoke(main, ["init", str(tmp_path / "app"), *words])
    assert result.stdout.endswith(f" {url}\n")


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--service", ""),
        ("--service", "a" * 65),
        ("--service", 'x"\nring = "y'),
        ("--service", "with space"),
        ("--service", "a/b"),
        ("--trust-domain", ""),
        ("--trust-domain", "Example.org"),
        ("--trust-domain", "example.org/ops"),
        ("--trust-domain", "example.org:8443"),
        ("--trust-domain", 'x"]'),
        ("--name", ""),
        ("--name", "a b"),
        ("--name", "-dash.example"),
        ("--name", "a..b"),
        ("--name", "https://localhost"),
        ("--name", "a.*.example"),
        ("--name", "10.0.0.256"),
        ("--name", "10.0.0.0/8"),
        ("--name", "fe80::1%eth0"),
        ("--name", "x" * 64),
        ("--name", "münchen.example"),
    ],
)
def test_a_name_that_cannot_be_is_wrong_use(tmp_path: Path, option: str, value: str) -> None:
    result = CliRunner().invoke(main, ["init", str(tmp_path / "app"), option, value])
    assert result.exit_code == 2, result.output
    assert option in result.output
    assert list(tmp_path.iterdir()) == []


def test_wrong_names_end_the_process_with_status_2(tmp_path: Path) -> None:
    done = run("init", "app", "--name", "a b", cwd=tmp_path)
    assert (done.status, done.out) == (2, "")
    assert "'a b' is no DNS name and no IP address" in done.err
    assert run("init", cwd=tmp_path).status == 2
    assert list(tmp_path.iterdir()) == []
