"""`secmiddleware fields`: a value sealed and opened by hand, byte for byte; no argument or error holds it."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
from cryptography.fernet import Fernet

from cli.command import OURS, Done, change, changed, environment, inside, made, run, tree
from secmiddleware.cli.dumps import LARGEST_VALUE as _LARGEST
from secmiddleware.security import SecurityManager

VAGUE = "Error: the token does not open here\n"
VALUE = b'"078-05-1120"'
FERNET = Fernet.generate_key()
FIELDS = """
[fields.tenants]
bind = "tenant"
[[fields.tenants.places]]
routes = ["/tenants"]
marks = ["$.x"]
request = "decrypt"

[fields.callers]
bind = "caller"
[[fields.callers.places]]
routes = ["/callers"]
marks = ["$.x"]
request = "decrypt"

[fields.old]
format = "fernet"
[[fields.old.places]]
routes = ["/old"]
marks = ["$.x"]
request = "decrypt"

[fields.moving]
also_open = ["fernet"]
[[fields.moving.places]]
routes = ["/moving"]
marks = ["$.x"]
request = "decrypt"

[fields.listed]
also_open = ["fernet", "xaes"]
fernet_keys = [{ file = "state/fernet" }]
encoding = "text"
[[fields.listed.places]]
routes = ["/listed"]
marks = ["$.x"]
request = "decrypt"

[fields.kept]
format = "deterministic"
[[fields.kept.places]]
routes = ["/kept"]
marks = ["$.x"]
request = "encrypt"

[fields.padded]
pad = 64
[[fields.padded.places]]
routes = ["/padded"]
marks = ["$.x"]
request = "decrypt"

[fields.ssn2]
[[fields.ssn2.places]]
routes = ["/ssn2"]
marks = ["$.x"]
request = "decrypt"
"""


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As `init` made it, with fields of every kind."""
    path = made(tmp_path_factory.mktemp("fields") / "app")
    (path.parent / "state" / "fernet").write_bytes(FERNET)
    (path.parent / "state" / "fernet").chmod(0o600)
    change(path, ("\n[rotation]", FIELDS + "\n[rotation]"))
    return path


def seal(config: Path, value: bytes, *words: str) -> Done:
    return inside("fields", "seal", *words, config=config, stdin=value)


def opened(config: Path, token: str | bytes, *words: str) -> Done:
    data = token.encode() if isinstance(token, str) else token
    return inside("fields", "open", *words, config=config, stdin=data)


def test_a_value_goes_through_a_pipe_and_comes_back(config: Path) -> None:
    sealed = run("fields", "seal", "ssn", cwd=config.parent, stdin=b"\t1.10 \r\n")
    assert (sealed.status, sealed.err) == (0, "")
    assert sealed.out.startswith("sm1.")
    assert sealed.out.count("\n") == 1
    opened = run("fields", "open", "ssn", cwd=config.parent, stdin=sealed.stdout)
    assert (opened.status, opened.stdout, opened.err) == (0, b"1.10\n", "")


@pytest.mark.parametrize(
    "value",
    [
        "1.10",
        "-0",
        "12345678901234567890.1230e+05",
        "null",
        "false",
        '""',
        '"078-05-1120"',
        r'"\u00fc\/\ud83d\ude00"',
        '"über 😀 \\n"',
        '" leading and trailing "',
        '{ "a" : [1, 2.0,{}],  "a":null}',
        "[\n  1,\n  2\n]",
    ],
)
def test_a_value_comes_back_byte_for_byte(config: Path, value: str) -> None:
    for end in ("", "\n", "\r\n"):
        sealed = seal(config, (value + end).encode(), "ssn")
        assert (sealed.status, sealed.err) == (0, "")
        assert opened(config, sealed.out, "ssn").stdout == value.encode() + b"\n"
    # As what was copied out of a JSON body.
    assert opened(config, f' "{sealed.out.strip()}"\r\n', "ssn").stdout == value.encode() + b"\n"


@pytest.mark.parametrize(
    ("typed", "text"),
    [
        ("078-05-1120\n", "078-05-1120"),
        ("078-05-1120\r\n", "078-05-1120"),
        ('über 😀 "quoted" \\ \t', 'über 😀 "quoted" \\ \t'),
        ("two\nlines\n\n", "two\nlines\n"),
        (" 1.10 ", " 1.10 "),
        ("\n", ""),
        ("\x00\x1b", "\x00\x1b"),
    ],
)
def test_a_text_is_sealed_as_the_json_string_of_it(config: Path, typed: str, text: str) -> None:
    sealed = seal(config, typed.encode(), "ssn", "--text")
    assert sealed.status == 0
    assert json.loads(opened(config, sealed.out, "ssn").stdout) == text


def test_a_token_of_a_fernet_key_from_elsewhere_is_opened_as_the_text_that_it_holds(config: Path) -> None:
    found = opened(config, Fernet(FERNET).encrypt("zwölf 12".encode()), "listed")
    assert (found.status, found.stdout) == (0, "zwölf 12\n".encode())
    strange = opened(config, Fernet(Fernet.generate_key()).encrypt(b"1"), "listed")
    assert (strange.status, strange.err) == (1, VAGUE)
    # Of a field that does not list the key it opens nothing.
    assert opened(config, Fernet(FERNET).encrypt(b"1"), "moving").err == VAGUE


def test_where_tokens_hold_texts_a_string_is_sealed_as_its_text(config: Path) -> None:
    for words, value in (((), rb'"z\u00f6lf"'), (("--text",), "zölf".encode())):
        sealed = seal(config, value, "listed", *words)
        assert sealed.status == 0
        assert opened(config, sealed.out, "listed").stdout == "zölf\n".encode()
    for value in (b"1.10", b"null", b'["a"]', rb'"\ud800"'):
        refused = seal(config, value, "listed")
        assert refused.status == 1
        assert 'encoding is "text"' in refused.err


def test_deterministic_values_are_sealed_alike(config: Path) -> None:
    one, two = (seal(config, VALUE, "kept").out for _ in range(2))
    assert one == two
    assert opened(config, one, "kept").stdout == VALUE + b"\n"
    assert opened(config, one, "ssn").err == VAGUE


def test_a_padded_value_is_sealed_with_its_padding_and_printed_without(config: Path) -> None:
    short, longer = (seal(config, value, "padded").out for value in (b"1.10", VALUE))
    assert len(short) == len(longer)
    assert opened(config, short, "padded").stdout == b"1.10\n"
    assert opened(config, longer, "padded").stdout == VALUE + b"\n"


def test_what_it_seals_the_service_opens_and_the_other_way_round(config: Path) -> None:
    with SecurityManager.from_config(config, {}) as manager:
        ring = manager.encryption
        assert ring is not None
        ours = ring.seal("ssn", b"1.10")
        theirs = seal(config, b"1.10", "ssn").out.strip()
        assert ring.open("ssn", theirs) == b"1.10"
        assert opened(config, ours, "ssn").out == "1.10\n"


@pytest.mark.parametrize(
    "value",
    [b"", b"\n", b"078-05-1120", b'"078', b"{", b"1 2", b"01", b"NaN", b"'x'", b'"\xff"', b'"\x01"', b"\x00"],
)
def test_what_is_no_json_value_is_not_sealed_and_not_repeated(config: Path, value: bytes) -> None:
    result = seal(config, value, "ssn")
    assert (result.status, result.out) == (1, "")
    assert result.err == (
        "Error: the input is not a JSON value; a text stands in quotation marks, or is sealed with --text\n"
    )


def test_a_text_that_is_not_utf_8_is_not_sealed(config: Path) -> None:
    result = seal(config, b"\xff\xfe", "ssn", "--text")
    assert (result.status, result.out) == (1, "")
    assert result.err == "Error: the input is not UTF-8 text\n"


def test_what_is_too_large_is_refused(config: Path) -> None:
    value = b'"' + b"x" * (_LARGEST - 2) + b'"'
    result = seal(config, value, "ssn")
    assert (result.status, result.out) == (1, "")
    assert result.err == f"Error: would be larger than {_LARGEST} bytes, and could not be opened again\n"
    for command in (seal, opened):
        result = command(config, value + b" ", "ssn")
        assert (result.status, result.out) == (1, "")
        assert result.err == f"Error: the input is larger than {_LARGEST} bytes\n"


def test_a_field_that_is_not_there_is_named_with_those_that_are(config: Path) -> None:
    for command in (seal, opened):
        result = command(config, VALUE, "snn")
        assert (result.status, result.out) == (1, "")
        assert f"{config}: fields: there is no field 'snn'\n    did you mean \"ssn\"?\n" in result.err
        assert "078-05-1120" not in result.printed
        result = command(config, VALUE, "iban")
        assert "there are: ssn, tenants, callers, old, moving, listed, kept, padded, ssn2\n" in result.err
        assert "078-05-1120" not in result.printed


@pytest.mark.parametrize(
    ("field", "options", "told"),
    [
        ("tenants", [], 'bind is "tenant" here: this needs --tenant'),
        (
            "tenants",
            ["--tenant", "spiffe://a", "--caller", "b"],
            'bind is "tenant" here: this takes no --caller',
        ),
        ("callers", [], 'bind is "caller" here: this needs --caller'),
        ("callers", ["--tenant", "spiffe://a"], 'bind is "caller" here: this takes no --tenant'),
        ("ssn", ["--tenant", "spiffe://a"], 'bind is "none" here: this takes no --tenant'),
        ("ssn", ["--caller", "b"], 'bind is "none" here: this takes no --caller'),
        ("old", ["--caller", "b"], 'bind is "none" here: this takes no --caller'),
    ],
)
def test_whose_a_value_is_must_be_said_where_it_counts_and_only_there(
    config: Path, field: str, options: list[str], told: str
) -> None:
    for command in (seal, opened):
        result = command(config, VALUE, field, *options)
        assert (result.status, result.out) == (2, "")
        assert told in result.err


def test_a_bound_value_opens_for_its_owner_alone(config: Path) -> None:
    for field, option in (("tenants", "--tenant"), ("callers", "--caller")):
        token = seal(config, VALUE, field, option, "spiffe://example.org").out
        assert opened(config, token, field, option, "spiffe://example.org").stdout == VALUE + b"\n"
        other = opened(config, token, field, option, "spiffe://example.com")
        assert (other.status, other.out, other.err) == (1, "", VAGUE)


def test_a_fernet_field_seals_what_fernet_is(config: Path) -> None:
    token = seal(config, VALUE, "old").out.strip()
    assert token.startswith("gAAAA")
    assert opened(config, token, "old").stdout == VALUE + b"\n"
    # Read by a field that says it also opens them; by no other.
    assert opened(config, token, "ssn").err == VAGUE
    sealed = seal(config, VALUE, "moving").out
    assert sealed.startswith("sm1.")
    assert opened(config, sealed, "old").err == VAGUE


def test_a_field_that_also_opens_fernet_opens_its_own_and_no_other_fields(config: Path) -> None:
    with SecurityManager.from_config(config, {}) as manager:
        assert manager.encryption is not None
        own, unheard_of = (
            manager.encryption.seal(field, VALUE, format="fernet") for field in ("moving", "ssn")
        )
    assert opened(config, own, "moving").stdout == VALUE + b"\n"
    assert opened(config, unheard_of, "ssn").err == VAGUE
    assert opened(config, seal(config, VALUE, "old").stdout, "moving").err == VAGUE
    assert opened(config, own, "ssn").err == VAGUE


def forgeries(token: str) -> dict[str, str]:
    middle = len(token) // 2
    changed = "A" if token[middle] != "A" else "B"
    return {
        "one character changed": token[:middle] + changed + token[middle + 1 :],
        "cut short": token[:-1],
        "too long": token + "A",
        "doubled": token + token,
        "padded": token + "=",
        "prefix only": "sm1.",
        "another suite": "sm1.Ag" + token[6:],
        "another kind": "sm2." + token[4:],
        "nothing": "",
        "plaintext": '"078-05-1120"',
        "not ASCII": "sm1.ü",
        "of another fernet": Fernet(Fernet.generate_key()).encrypt(b"1").decode(),
    }


def test_why_a_token_does_not_open_is_never_told(config: Path) -> None:
    token = seal(config, VALUE, "ssn").out.strip()
    wrong = forgeries(token)
    wrong["of another field"] = seal(config, VALUE, "ssn2").out.strip()
    for name, forged in wrong.items():
        result = opened(config, forged, "ssn")
        assert (result.status, result.out, result.err) == (1, "", VAGUE), name
    assert opened(config, token, "ssn").status == 0


def test_a_forged_token_ends_the_process_with_status_1(config: Path) -> None:
    done = run("fields", "open", "ssn", cwd=config.parent, stdin=b"sm1.AAAA")
    assert (done.status, done.out, done.err) == (1, "", VAGUE)


def test_a_token_of_another_ring_does_not_open_and_says_why_that_may_be(config: Path, tmp_path: Path) -> None:
    stranger = seal(made(tmp_path / "other"), VALUE, "ssn").out
    result = opened(config, stranger, "ssn")
    assert (result.status, result.out) == (1, "")
    assert "key" in result.err
    assert result.err.count("\n") == 1


@pytest.mark.parametrize("lack", ["no ring yet", "memory:"])
def test_without_a_ring_nothing_is_sealed_and_none_is_made(config: Path, tmp_path: Path, lack: str) -> None:
    copy = changed(config, tmp_path / "copy")
    for file in (copy.parent / "state").glob("keyring.json*"):
        file.unlink()
    if lack == "memory:":
        change(copy, ("file:state/keyring.json", "memory:"))
    before = tree(copy.parent)
    for command in (seal, opened):
        result = command(copy, VALUE if command is seal else "sm1.AAAA", "ssn")
        assert (result.status, result.out) == (1, "")
        assert f"{copy}: keys.store: " in result.err
    assert tree(copy.parent) == before


@pytest.mark.parametrize("command", ["seal", "open"])
def test_a_closed_standard_input_is_said_to_be_closed(config: Path, command: str) -> None:
    line = '"$@" <&-'
    done = subprocess.run(
        ["sh", "-c", line, "sh", *OURS, "fields", command, "ssn"],
        cwd=config.parent,
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "Error: there is no standard input to read the value from\n"


def test_no_argument_takes_a_value(config: Path) -> None:
    """What stands in an argument, everybody on the machine can read."""
    for command in ("seal", "open"):
        result = inside("fields", command, "ssn", "1.10", config=config)
        assert result.status == 2
        assert "unexpected extra argument" in result.err
