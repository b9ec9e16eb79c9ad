"""What the tour prints: rich on a terminal, plain text in a pipe."""

from __future__ import annotations

from collections.abc import Iterable

from rich.console import Console
from rich.text import Text

from secmiddleware.cli.wire import Call


class NotAsToldError(Exception):
    """A step came out otherwise."""


def expect(came_out: bool, what: str) -> None:
    """Raise NotAsToldError unless it came out so."""
    if not came_out:
        raise NotAsToldError(f"expected {what}")


class Teller:
    """Prints on one console."""

    def __init__(self, console: Console) -> None:
        self._console = console

    def title(self, text: str) -> None:
        """The title of a step."""
        self._console.print()
        self._console.print(Text(text, "bold cyan"))

    def verdict(self, text: str, *, good: bool) -> None:
        """How it came out."""
        self._console.print(Text(text, "bold green" if good else "bold red"))

    def lines(self, lines: Iterable[Text]) -> None:
        """Something that was laid out already, below what was said."""
        for line in lines:
            self._console.print(Text("     ").append_text(line))

    def say(self, text: str) -> None:
        """Something in words."""
        for line in text.splitlines():
            self._console.print(Text(f"   {line}"))

    def wire(self, mark: str, text: str) -> None:
        """Lines that went over the wire: `>` sent, `<` received; or `$`, a command."""
        style = {">": "yellow", "<": "green", "$": "bold"}.get(mark, "")
        for line in text.splitlines():
            self._console.print(Text(f"     {mark} {line}", style))

    def show(self, call: Call) -> Call:
        """Print a call as `curl -v` does: what was sent, what came."""
        head, _, body = call.sent.decode("ascii").partition("\r\n\r\n")
        for line in [*head.split("\r\n"), *filter(None, [body])]:
            self.wire(">", line)
        self.wire("<", f"HTTP/1.1 {call.status} {call.reason}")
        for name, value in call.headers:
            if name.lower() not in ("date", "content-length"):
                self.wire("<", f"{name}: {value}")
        self.wire("<", call.body.decode("utf-8", "replace").strip())
        return call
