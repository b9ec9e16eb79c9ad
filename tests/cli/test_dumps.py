"""`secmiddleware fields` on files: documents and dumps, byte for byte, whole or not at all."""

from __future__ import annotations

import json
import os
import pty
import stat
import subprocess
from pathlib import Path

import pytest
from cryptography.fernet import Fernet

from cli.command import OURS, Done, change, environment, inside, made, run, tree
from secmiddleware.cli.dumps import LARGEST_VALUE
from secmiddleware.cli.fields import _FIRST_BLOCK
from secmiddleware.encryption.tokens import format_of, kid_of
from secmiddleware.security import SecurityManager

FERNET = Fernet.generate_key()
FIELDS = """
[fields.name]
[[fields.name.places]]
routes = ["/names"]
marks = ["$.name", "$.people[*].name"]
request = "decrypt"
[[fields.name.places]]
routes = ["/others"]
marks = ["$.name"]
response = "encrypt"

[fields.owned]
bind = "tenant"
[[fields.owned.places]]
routes = ["/owned"]
marks = ["$.x"]
request = "decrypt"

[fields.moving]
format = "xaes"
also_open = ["fernet", "aead"]
fernet_keys = [{ file = "state/fernet" }]
encoding = "text"
[[fields.moving.places]]
routes = ["/moving"]
marks = ["$.x"]
request = "decrypt"

[fields.padded]
pad = 32
[[fields.padded.places]]
routes = ["/padded"]
marks = ["$.x"]
request = "decrypt"

[fields.nested]
[[fields.nested.places]]
routes = ["/outer"]
marks = ["$.a"]
request = "decrypt"
[[fields.nested.places]]
routes = ["/inner"]
marks = ["$.a.b"]
request = "decrypt"
"""
LINES = (
    b'{"id": 1.10, "name" : "Ada"}\r\n\n  \t\n'
    b'{"name":null,"name": [1,  2.0]}\n[]\n{"people":[{"name":"B\\u00e9"},{}]}'
)


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = made(tmp_path_factory.mktemp("dumps") / "app")
    (path.parent / "state" / "fernet").write_bytes(FERNET)
    (path.parent / "state" / "fernet").chmod(0o600)
    change(path, ("\n[rotation]", FIELDS + "\n[rotation]"))
    return path


def fields(config: Path, command: str, *words: str | Path, stdin: bytes = b"") -> Done:
    return inside("fields", command, *map(str, words), config=config, stdin=stdin)


def good(done: Done) -> bytes:
    assert done.status == 0, done.err
    return done.stdout


def uses(config: Path) -> int:
    (key,) = json.loads((config.parent / "state" / "keyring.json").read_text())["keys"]
    return int(key["uses"])


def test_a_dump_goes_through_a_pipe_and_comes_back_byte_for_byte(config: Path) -> None:
    sealed = run("fields", "seal", "name", "--ndjson", cwd=config.parent, stdin=LINES)
    assert (sealed.status, sealed.err) == (0, "")
    assert sealed.out.count("sm1.") == 4
    assert b"Ada" not in sealed.stdout
    assert sealed.stdout.count(b"\n") == LINES.count(b"\n")
    opened = run("fields", "open", "name", "--ndjson", cwd=config.parent, stdin=sealed.stdout)
    assert (opened.status, opened.stdout, opened.err) == (0, LINES, "")


def test_a_document_comes_back_byte_for_byte(config: Path) -> None:
    body = b'\xef\xbb\xbf{ "people": [ {"name":"Ada", "n": 1.10} ],\n "name" :\t{"a":  1} , "other":"x"}\n\n'
    sealed = good(fields(config, "seal", "name", "--json", stdin=body))
    assert sealed.count(b"sm1.") == 2
    assert good(fields(config, "open", "name", "--json", stdin=sealed)) == body


def test_marks_may_be_named_instead_of_those_of_the_file(config: Path) -> None:
    sealed = good(
        fields(config, "seal", "name", "--json", "--mark", "$..deep", stdin=b'{"name":1,"a":{"deep":2}}')
    )
    assert sealed.startswith(b'{"name":1,"a":{"deep":"sm1.')


def test_what_is_sealed_already_stays_so_that_a_second_run_changes_nothing(config: Path) -> None:
    once = good(fields(config, "seal", "name", "--ndjson", stdin=LINES))
    assert good(fields(config, "seal", "name", "--ndjson", stdin=once)) == once
    assert good(fields(config, "rewrap", "name", "--ndjson", stdin=once)) == once


def test_a_forged_token_is_not_taken_for_a_value(config: Path) -> None:
    done = fields(config, "seal", "name", "--ndjson", stdin=b'{}\n{"name":"sm1.AAAA"}\n')
    assert (done.status, done.err) == (1, "Error: line 2: $.name: the token does not open here\n")


def test_a_null_stays_where_a_token_would_be_opened(config: Path) -> None:
    body = b'{"name":null}\n'
    assert good(fields(config, "open", "name", "--ndjson", stdin=body)) == body
    assert good(fields(config, "rewrap", "name", "--ndjson", stdin=body)) == body
    assert b"sm1." in good(fields(config, "seal", "name", "--ndjson", stdin=body))


@pytest.mark.parametrize("command", ["open", "rewrap"])
@pytest.mark.parametrize("value", ["1", '"Ada"', "{}", "true", r'"\ud800"', '"sm1.AAAA"'])
def test_what_is_no_token_is_not_passed_off_as_opened(config: Path, command: str, value: str) -> None:
    done = fields(config, command, "name", "--json", stdin=b'{"name":%s}' % value.encode())
    assert (done.status, done.out, done.err) == (1, "", "Error: $.name: the token does not open here\n")


def test_rewrap_brings_tokens_over_from_fernet_to_the_fields_own_format(config: Path) -> None:
    theirs = Fernet(FERNET).encrypt("zwölf".encode()).decode()
    with SecurityManager.from_config(config, {}) as manager:
        assert manager.encryption is not None
        ours = manager.encryption.seal("moving", b"elf", format="fernet")
        older = manager.encryption.seal("moving", b"zehn")
    dump = b"".join(b'{"x":"%s"}\n' % token.encode() for token in (theirs, ours, older))
    renewed = good(fields(config, "rewrap", "moving", "--ndjson", stdin=dump))
    tokens = [json.loads(line)["x"].encode() for line in renewed.splitlines()]
    assert [format_of(token) for token in tokens] == ["xaes"] * 3
    opened = good(fields(config, "open", "moving", "--ndjson", stdin=renewed))
    assert opened.decode() == '{"x":"zwölf"}\n{"x":"elf"}\n{"x":"zehn"}\n'
    assert format_of(good(fields(config, "rewrap", "moving", stdin=theirs.encode())).strip()) == "xaes"


def test_rewrap_renews_under_the_new_key_also_what_a_distrusted_key_sealed(tmp_path: Path) -> None:
    """Invariant 5: requests do not open it, only an operator's rewrap does."""
    config = made(tmp_path / "app")
    change(config, ('activation_delay = "5m"', 'activation_delay = "2s"'), ('poll = "30s"', 'poll = "250ms"'))
    old = good(fields(config, "seal", "ssn", stdin=b"1.10"))
    with SecurityManager.from_config(config, {}) as manager:
        ring = manager.encryption
        assert ring is not None
        assert ring.keyring is not None
        kid = kid_of(old.strip())
        ring.distrust(kid, rotate=True)
        while (left := ring.seconds_to_change()) is not None and left < 60:
            pass
    refused = fields(config, "open", "ssn", stdin=old)
    assert (refused.status, refused.err) == (1, "Error: the token does not open here\n")
    new = good(fields(config, "rewrap", "ssn", stdin=old))
    assert kid_of(new.strip()) != kid
    assert good(fields(config, "open", "ssn", stdin=new)) == b"1.10\n"


def test_a_padded_field_is_padded_in_dumps_and_opens_as_it_was(config: Path) -> None:
    body = b'{"x":1}\n{"x":"something longer"}\n'
    sealed = good(fields(config, "seal", "padded", "--ndjson", stdin=body))
    assert len({len(line) for line in sealed.splitlines()}) == 1
    assert good(fields(config, "open", "padded", "--ndjson", stdin=sealed)) == body
    assert good(fields(config, "rewrap", "padded", "--ndjson", stdin=sealed)) == sealed


def test_a_bound_dump_is_of_its_owner_alone(config: Path) -> None:
    body = b'{"x":1}\n'
    sealed = good(fields(config, "seal", "owned", "--ndjson", "--tenant", "spiffe://a", stdin=body))
    renewed = good(fields(config, "rewrap", "owned", "--ndjson", "--tenant", "spiffe://a", stdin=sealed))
    assert good(fields(config, "open", "owned", "--ndjson", "--tenant", "spiffe://a", stdin=renewed)) == body
    for command in ("open", "rewrap"):
        done = fields(config, command, "owned", "--ndjson", "--tenant", "spiffe://b", stdin=sealed)
        assert done.err == "Error: line 1: $.x: the token does not open here\n"


def test_a_file_is_written_for_its_owner_alone_and_what_was_done_is_told(
    config: Path, tmp_path: Path
) -> None:
    plain, sealed, back = tmp_path / "plain", tmp_path / "sealed", tmp_path / "back"
    plain.write_bytes(LINES)
    done = fields(config, "seal", "name", "--ndjson", "--in", plain, "--out", sealed)
    assert (done.status, done.out, done.err) == (0, "", f"{sealed}: 4 values sealed in 6 lines\n")
    done = fields(config, "open", "name", "--ndjson", "--in", sealed, "--out", back)
    assert (done.status, done.err) == (0, f"{back}: 4 values opened in 6 lines\n")
    assert back.read_bytes() == LINES
    assert {stat.S_IMODE(path.stat().st_mode) for path in (sealed, back)} == {0o600}
    done = fields(config, "rewrap", "name", "--ndjson", "--in", sealed, "--out", sealed, "--force")
    assert done.err == f"{sealed}: 0 values sealed anew in 6 lines, 4 left as they were\n"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["back", "plain", "sealed"]


def test_a_file_that_is_there_is_not_replaced_without_being_told_to(config: Path, tmp_path: Path) -> None:
    (tmp_path / "out").write_bytes(b"precious")
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    for name in ("out", "dangling"):
        done = fields(config, "seal", "name", "--out", tmp_path / name, stdin=b"1")
        assert (done.status, done.err) == (
            1,
            f"Error: {tmp_path / name}: is there already; --force replaces it\n",
        )
    assert (tmp_path / "out").read_bytes() == b"precious"
    assert good(fields(config, "seal", "name", "--out", tmp_path / "out", "--force", stdin=b"1")) == b""
    assert (tmp_path / "out").read_bytes().startswith(b"sm1.")
    os.mkfifo(tmp_path / "fifo")
    for name in ("fifo", ".", "dangling"):
        done = fields(config, "seal", "name", "--out", tmp_path / name, "--force", stdin=b"1")
        assert (done.status, done.out) == (1, "")
        assert "is no regular file" in done.err


BAD_LINES = {
    "no JSON": (b'{"name":"Secret', "not JSON in UTF-8, or too deep"),
    "no UTF-8": (b'{"name":"Secret\xff"}', "not JSON in UTF-8, or too deep"),
    "too deep": (b"[" * 300 + b"]" * 300, "not JSON in UTF-8, or too deep"),
    "too long": (
        b'{"name":"' + b"Secret" * (LARGEST_VALUE // 6) + b'"}',
        f"is longer than {LARGEST_VALUE} bytes",
    ),
    "two documents": (b'{"name":"Secret"} {}', "not JSON in UTF-8, or too deep"),
    "too many": (b'{"people":[' + b'{"name":1},' * 70_000 + b"{}]}", "more than 65536 values at the marks"),
    "no token": (b'{"name":"sm1.Secret"}', "$.name: the token does not open here"),
}


@pytest.mark.parametrize("bad", BAD_LINES)
def test_a_bad_line_is_named_by_its_number_and_leaves_nothing_behind(
    config: Path, tmp_path: Path, bad: str
) -> None:
    line, told = BAD_LINES[bad]
    before, out = tree(tmp_path), tmp_path / "out"
    done = fields(config, "seal", "name", "--ndjson", "--out", out, stdin=LINES + b"\n" + line + b"\n{}\n")
    assert (done.status, done.out) == (1, "")
    assert done.err.startswith(f"Error: line 7: {told}")
    assert "Secret" not in done.printed
    assert tree(tmp_path) == before


def test_a_file_that_cannot_be_read_or_written_is_named(config: Path, tmp_path: Path) -> None:
    lacking = tmp_path / "lacking"
    done = fields(config, "seal", "name", "--in", lacking)
    assert (done.status, done.err) == (1, f"Error: {lacking}: cannot be read: No such file or directory\n")
    done = fields(config, "seal", "name", "--in", tmp_path)
    assert (done.status, done.err) == (1, f"Error: {tmp_path}: cannot be read: Is a directory\n")
    done = fields(config, "seal", "name", "--out", lacking / "out", stdin=b"1")
    assert (done.status, done.err) == (
        1,
        f"Error: {lacking / 'out'}: cannot be written: No such file or directory\n",
    )


def test_a_full_disk_is_told_and_nothing_is_put_in_place(config: Path) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("there is no /dev/full here")
    done = run(
        "fields", "seal", "name", "--ndjson", "--out", "/dev/full", "--force", cwd=config.parent, stdin=b"{}"
    )
    assert (done.status, done.err) == (1, "Error: /dev/full: is no regular file\n")


def test_what_was_sealed_can_be_opened_however_large_it_has_become(config: Path, tmp_path: Path) -> None:
    """As large as a body may be by default, and sealed larger than that."""
    inside, most = tmp_path / "in", 4 << 20
    for words, text in (
        (["--ndjson"], b'{"name":"' + b"x" * (most - 11) + b'"}\n'),
        ([], b'"' + b"x" * (most - 2) + b'"\n'),
        (
            ["--ndjson"],
            b'{"people":[' + b",".join([b'{"name":"of forty bytes or even more"}'] * 65_000) + b"]}\n",
        ),
    ):
        inside.write_bytes(text)
        sealed = good(fields(config, "seal", "name", *words, "--in", inside))
        assert len(sealed) > most
        again = good(fields(config, "rewrap", "name", *words, stdin=sealed))
        assert good(fields(config, "open", "name", *words, stdin=again)) == text


def test_what_could_not_be_opened_again_is_not_sealed(config: Path, tmp_path: Path) -> None:
    value = b'{"x":1}\n{"name":"' + b"x" * (LARGEST_VALUE - 100) + b'"}\n'
    done = fields(config, "seal", "name", "--ndjson", "--out", tmp_path / "out", stdin=value)
    told = f"Error: line 2: would be larger than {LARGEST_VALUE} bytes, and could not be opened again\n"
    assert (done.status, done.err) == (1, told)
    assert tree(tmp_path) == {}


@pytest.mark.parametrize("words", [["keys", "list"], ["check"], ["fields", "seal", "name", "--ndjson"]])
def test_a_standard_output_that_is_full_or_closed_is_told_without_a_traceback(
    config: Path, words: list[str]
) -> None:
    for shell in ('exec "$@" > /dev/full', 'exec "$@" >&-'):
        done = subprocess.run(
            ["sh", "-c", shell, "sh", *OURS, *words],
            cwd=config.parent,
            env=environment(),
            input=b'{"name":1}\n' * 5000,
            capture_output=True,
            check=False,
        )
        assert b"Traceback" not in done.stderr
        if "full" in shell:
            told = b"Error: what was read or written gave out: No space left on device\n"
            assert (done.returncode, done.stderr) == (1, told)
        elif "fields" in words:
            assert (done.returncode, done.stderr) == (1, b"Error: there is no standard output to write to\n")


def test_input_that_breaks_off_is_told_without_a_traceback(config: Path) -> None:
    memory = Path("/proc/self/mem")
    if not memory.exists():
        pytest.skip("there is nothing here that cannot be read from its beginning")
    done = run("fields", "seal", "name", "--ndjson", "--in", memory, cwd=config.parent)
    assert (done.status, done.err) == (1, "Error: what was read or written gave out: Input/output error\n")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("seal", "name", "--mark", "$.x"), "--mark is for documents"),
        (("seal", "name", "--force"), "--force is for --out"),
        (("seal", "name", "--json", "--text"), "--text is for one value"),
        (("seal", "name", "--json", "--mark", "x"), "is not a JSONPath expression"),
        (("seal", "name", "--json", "--mark", "$.a", "--mark", "$.a[*]"), "are one inside the other"),
        (("open", "nested", "--ndjson"), "$.a and $.a.b are one inside the other"),
    ],
)
def test_what_is_asked_for_wrongly_is_said(config: Path, words: tuple[str, ...], told: str) -> None:
    done = fields(config, *words, stdin=b"{}")
    assert (done.status, done.out) == (2, "")
    assert told in " ".join(done.err.split())


def test_a_long_run_reserves_more_uses_as_it_goes_and_wastes_less_than_it_took(config: Path) -> None:
    lines = 5 * _FIRST_BLOCK
    before = uses(config)
    sealed = good(fields(config, "seal", "name", "--ndjson", stdin=b'{"name":1}\n' * lines))
    assert len(set(sealed.splitlines())) == lines
    assert uses(config) - before == _FIRST_BLOCK * (1 + 2 + 4)
    before = uses(config)
    good(fields(config, "open", "name", "--ndjson", stdin=sealed))
    assert uses(config) == before


def test_memory_does_not_grow_with_the_dump(config: Path, tmp_path: Path) -> None:
    line = b'{"other":"' + b"x" * 1000 + b'"}\n'
    sizes = []
    for count in (1_000, 20_000):
        (tmp_path / "in").write_bytes(line * count)
        code = (
            "from secmiddleware.cli import main\n"
            f"main(['fields', 'seal', 'name', '--ndjson', '--in', {str(tmp_path / 'in')!r}, '--out', "
            f"{str(tmp_path / 'out')!r}, '--force'], standalone_mode=False)\n"
            "print(open('/proc/self/status').read().partition('VmHWM:')[2].split()[0])"
        )
        done = subprocess.run(
            [OURS[0], "-c", code], cwd=config.parent, env=environment(), capture_output=True, check=True
        )
        sizes.append(int(done.stdout))
    assert (tmp_path / "out").stat().st_size == 20_000 * len(line)
    assert sizes[1] - sizes[0] < 8_000, sizes  # KiB, of 20 MB


def test_a_reader_that_goes_away_ends_the_run_without_a_traceback(config: Path, tmp_path: Path) -> None:
    (tmp_path / "in").write_bytes(b'{"name":1}\n' * 50_000)
    line = '"$@" | head -n 1'
    done = subprocess.run(
        ["sh", "-c", line, "sh", *OURS, "fields", "seal", "name", "--ndjson", "--in", str(tmp_path / "in")],
        cwd=config.parent,
        env=environment(),
        capture_output=True,
        check=False,
    )
    assert (done.stdout.count(b"\n"), done.stderr) == (1, b"")


def test_a_bar_is_shown_at_a_terminal_and_nowhere_else(config: Path, tmp_path: Path) -> None:
    (tmp_path / "in").write_bytes((b'{"name":"' + b"x" * 500 + b'"}\n') * 60_000)
    words = [*OURS, "fields", "seal", "name", "--ndjson", "--in", str(tmp_path / "in"), "--force", "--out"]
    ours, theirs = pty.openpty()
    shown = subprocess.Popen(
        [*words, str(tmp_path / "out")],
        cwd=config.parent,
        env=environment(TERM="xterm"),
        stderr=theirs,
        stdout=subprocess.DEVNULL,
    )
    os.close(theirs)
    told = b""
    try:
        while chunk := os.read(ours, 65536):
            told += chunk
    except OSError:  # how Linux says that nobody is at the other end
        pass
    finally:
        os.close(ours)
        assert shown.wait(60) == 0
    assert b"MB/s" in told
    assert b"values sealed in 60000 lines" in told
    quiet = subprocess.run(
        [*words, str(tmp_path / "out")], cwd=config.parent, env=environment(), capture_output=True, check=True
    )
    assert quiet.stderr == f"{tmp_path / 'out'}: 60000 values sealed in 60000 lines\n".encode()


@pytest.mark.parametrize(("name", "told"), [("\udcff", "is not in UTF-8"), ("", "names nobody")])
def test_a_name_that_nobody_has_is_refused(config: Path, name: str, told: str) -> None:
    for command in ("seal", "open", "rewrap"):
        done = fields(config, command, "owned", "--tenant", name, stdin=b"1")
        assert (done.status, done.out) == (2, "")
        assert f"--tenant {told}" in done.err
