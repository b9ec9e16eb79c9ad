"""What the command says of itself, and what that costs."""

from __future__ import annotations

import shlex
import subprocess
import sys
import tomllib
from importlib.metadata import EntryPoint, PackageNotFoundError, distribution
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from cli.command import OURS, environment, run
from secmiddleware import __version__
from secmiddleware.cli import main

PYPROJECT = Path(__file__).parents[2] / "pyproject.toml"


def all_commands(
    command: click.Command = main, words: tuple[str, ...] = ()
) -> dict[tuple[str, ...], click.Command]:
    below = command.commands if isinstance(command, click.Group) else {}
    found = {words: command}
    for name, inner in below.items():
        found |= all_commands(inner, (*words, name))
    return found


def test_these_are_the_commands() -> None:
    assert set(all_commands()) == {
        (),
        ("init",),
        ("check",),
        ("run",),
        ("demo",),
        ("keys",),
        ("keys", "list"),
        ("keys", "rotate"),
        ("keys", "distrust"),
        ("fields",),
        ("fields", "seal"),
        ("fields", "open"),
        ("fields", "rewrap"),
        ("fields", "list"),
    }


@pytest.mark.parametrize("words", all_commands())
def test_every_help_has_examples_that_are_written_as_the_command_reads_them(words: tuple[str, ...]) -> None:
    for option in ("--help", "-h"):
        result = CliRunner().invoke(main, [*words, option])
        assert result.exit_code == 0
        assert "\b" not in result.stdout
        assert r"\b" not in result.stdout
        lines = [line.strip() for line in result.stdout.splitlines()]
        examples = [
            line for line in lines if " secmiddleware " in f" {line} " and not line.startswith("Usage")
        ]
        assert examples
        for example in examples:
            assert example.startswith(("secmiddleware ", "echo ", "SECMIDDLEWARE__")), "a line of its own"
            # Behind it may stand what it does, in a column of its own.
            typed = shlex.split(example.partition("secmiddleware ")[2].partition("    ")[0])
            named = max((name for name in all_commands() if tuple(typed[: len(name)]) == name), key=len)
            assert named[: len(words)] == words
            command = all_commands()[named]
            assert not isinstance(command, click.Group)
            context = click.Context(command, help_option_names=["-h", "--help"])
            command.make_parser(context).parse_args(typed[len(named) :])


def test_it_can_be_called_as_a_module_and_as_a_script() -> None:
    scripts = tomllib.loads(PYPROJECT.read_text())["project"]["scripts"]
    assert EntryPoint("secmiddleware", scripts["secmiddleware"], "console_scripts").load() is main
    module, _, attribute = scripts["secmiddleware"].partition(":")
    # As the script that pip writes.
    script = f"import sys, {module} as m; sys.argv[0] = 'secmiddleware'; sys.exit(m.{attribute}())"

    def said(*command: str) -> str:
        done = subprocess.run(command, env=environment(), capture_output=True, text=True, check=True, cwd="/")
        return done.stdout

    as_module, as_script = said(*OURS, "--help"), said(sys.executable, "-c", script, "--help")
    assert as_script.startswith("Usage: secmiddleware [OPTIONS]")
    assert as_module.replace("python -m secmiddleware", "secmiddleware", 1) == as_script


def test_its_version_is_that_of_the_package() -> None:
    try:
        distribution("secmiddleware")
    except PackageNotFoundError:
        pytest.skip("secmiddleware is not installed, it runs from its source: that has no version to tell")
    assert run("--version", cwd=Path("/")).out == f"secmiddleware, version {__version__}\n"


def test_help_costs_no_import_that_only_some_commands_need() -> None:
    asked = "import sys, secmiddleware.cli; print(*{name.partition('.')[0] for name in sys.modules})"
    done = subprocess.run(
        [sys.executable, "-c", asked], env=environment(), capture_output=True, text=True, check=True, cwd="/"
    )
    imported = set(done.stdout.split())
    assert {"click", "secmiddleware"} <= imported
    late = {"uvicorn", "starlette", "pydantic", "cryptography", "rich", "msgspec", "asyncio", "ssl"}
    assert not imported & late


def test_nothing_typed_is_an_invitation() -> None:
    done = run(cwd=Path("/"))
    assert done.status == 2
    assert "secmiddleware init ." in done.printed
