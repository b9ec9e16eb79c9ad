"""The tour that `secmiddleware demo` gives: five steps, each of which says what it expects and checks it."""

from __future__ import annotations

import json
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from http.client import HTTPException
from typing import Final

from rich.console import Console
from rich.text import Text

from secmiddleware.certificates.authority import Authority
from secmiddleware.certificates.contexts import client_context
from secmiddleware.cli.demo import environment
from secmiddleware.cli.starter import Starter
from secmiddleware.cli.wire import Call, Caller, handshake_refusal
from secmiddleware.encryption.tokens import take_apart
from secmiddleware.errors import SecMiddlewareError
from secmiddleware.files import write_secret

_SSN: Final = "078-05-1120"  # never anybody's: it stood in the wallets that Woolworth sold
_CALLERS: Final = 4
_ROTATION_SECONDS: Final = 15.0
_AFTERWARDS_SECONDS: Final = 0.5


class _NotAsToldError(Exception):
    """A step came out otherwise."""


# What reading an answer of another shape, or none at all, raises.
_OTHERWISE: Final = (
    _NotAsToldError,
    SecMiddlewareError,
    OSError,
    HTTPException,
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
)


class Tour:
    """Five steps against the served example app."""

    def __init__(self, starter: Starter, port: int, console: Console | None = None) -> None:
        self.starter = starter
        self.port = port
        self._console = console or Console(highlight=False, soft_wrap=True)
        pki = starter.pki
        self._nobody = Caller(port, client_context(pki / "ca.pem"))
        self._client = Caller(port, self._client_tls())
        self._token = ""

    def run(self) -> bool:
        """Give the tour; whether every step came out as told. It ends at the first that did not."""
        try:
            return self._steps()
        finally:
            # A server that is told to stop waits for the connections that it has.
            self._nobody.close()
            self._client.close()

    def _steps(self) -> bool:
        steps = (
            ("a", "A call without a certificate", self._without_certificate),
            ("b", "A certificate of a strange CA", self._strange_certificate),
            ("c", "A good certificate", self._good_certificate),
            ("d", "A secret field", self._secret_field),
            ("e", "A key rotates under running calls", self._rotation),
        )
        self._say(
            "examples/customers_starlette.py knows nothing of certificates or tokens. Here it is served by\n"
            f"`secmiddleware run` on https://localhost:{self.port}, wrapped as these settings say:\n"
            f"{self.starter.settings}"
        )
        for letter, title, step in steps:
            self._console.print()
            self._console.print(Text(f"{letter}. {title}", "bold cyan"))
            try:
                step()
            except _OTHERWISE as error:
                what = error if isinstance(error, _NotAsToldError) else f"{type(error).__name__}: {error}"
                self._console.print(Text(f"   NOT AS TOLD: {what}", "bold red"))
                return False
        self._console.print()
        self._console.print(Text(f"All {len(steps)} steps came out as told.", "bold green"))
        return True

    def _without_certificate(self) -> None:
        self._say("is told what is missing, in a form that programs read (RFC 9457):")
        call = self._show(self._nobody.call("GET", "/customers"))
        self._expect(call.status == 401, "status 401")
        self._expect(call.json["code"] == "certificate_missing", "the code certificate_missing")

    def _strange_certificate(self) -> None:
        self._say("does not get as far as HTTP. The same names, signed by a CA that nobody here trusts:")
        pki = self.starter.pki
        strange = Authority.create("a strange CA").issue_client(spiffe_id=self.starter.client_id)
        (pki / "strange.pem").write_bytes(strange.chain_pem)
        write_secret(pki / "strange.key", strange.key_pem)
        stranger = client_context(pki / "ca.pem", pki / "strange.pem", pki / "strange.key")
        refusal = handshake_refusal(self.port, stranger)
        self._wire("<", f"(TLS alert: {refusal})")
        self._expect(refusal is not None and "UNKNOWN_CA" in refusal, "the alert unknown_ca (RFC 8446 §6.2)")

    def _good_certificate(self) -> None:
        self._say("is admitted, and the app is told who is calling (scope['secmiddleware.identity']):")
        call = self._show(self._client.call("GET", "/whoami"))
        self._expect(call.status == 200, "status 200")
        self._expect(call.json == {"caller": self.starter.client_id}, f"the caller {self.starter.client_id}")

    def _secret_field(self) -> None:
        self._say(
            "travels as a token. `secmiddleware fields seal ssn` makes one, as the service's operator may:"
        )
        self._token = self._command("fields", "seal", "ssn", stdin=json.dumps(_SSN))
        self._wire("$", f"echo '\"{_SSN}\"' | secmiddleware fields seal ssn")
        self._wire(" ", self._token)
        self._say("The client sends that token, and gets one back; it never sees the number:")
        call = self._show(self._client.call("POST", "/customers", self._customer("Ada", self._token)))
        self._expect(call.status == 201, "status 201")
        self._expect(call.json["ssn"].startswith("sm1."), "a token in the response")
        self._expect(_SSN.encode() not in call.sent + call.body, "no plaintext on the wire")
        self._say(
            "The app was given plaintext, and that is what it holds (a page that real apps do not have):"
        )
        held = self._show(self._client.call("GET", "/debug/store"))
        self._expect(held.json["held"][-1]["ssn"] == _SSN, f"the app holding {_SSN}")
        self._say("One character of the token changed, and the app is not even called:")
        forged = self._token[:-6] + ("A" if self._token[-6] != "A" else "B") + self._token[-5:]
        refused = self._show(self._client.call("POST", "/customers", self._customer("Eve", forged)))
        self._expect(refused.status == 400, "status 400")
        self._expect(refused.json["code"] == "field_undecryptable", "the code field_undecryptable")
        again = self._client.call("GET", "/debug/store").json["held"]
        self._expect(len(again) == len(held.json["held"]), "no customer more in the app")

    def _rotation(self) -> None:
        before = take_apart(self._token.encode()).kid
        runners = [_Runner(self, number) for number in range(_CALLERS)]
        for runner in runners:
            runner.start()
        try:
            self._say(
                f"{_CALLERS} clients call without a pause, while another process adds a key to the ring:"
            )
            self._wire("$", "secmiddleware keys rotate")
            self._wire(" ", self._command("keys", "rotate"))
            seen = self._wait_for_new_key(runners, before)
        finally:
            for runner in runners:
                runner.end()
        calls = sum(runner.calls for runner in runners)
        failures = [failure for runner in runners for failure in runner.failures]
        self._say(
            f"{calls} calls were made, {len(failures)} failed. New tokens carry {seen}, no more {before}."
        )
        self._expect(not failures, f"no failure; the first: {failures[:1]}")
        self._client.close()  # idle meanwhile, perhaps for longer than the server keeps a connection
        self._say("The token of before still opens, and what comes back is sealed with the new key:")
        call = self._show(self._client.call("POST", "/customers", self._customer("Grace", self._token)))
        self._expect(call.status == 201, "status 201")
        self._expect(take_apart(call.json["ssn"].encode()).kid == seen, f"a token of key {seen}")
        newest = self._client.call("GET", "/debug/store").json["held"][-1]
        self._expect(newest == {**newest, "name": "Grace", "ssn": _SSN}, "the app holding the same number")

    def _wait_for_new_key(self, runners: list[_Runner], before: str) -> str:
        until = time.monotonic() + _ROTATION_SECONDS
        while time.monotonic() < until and not any(runner.failures for runner in runners):
            latest = {runner.kid for runner in runners} - {before, ""}
            if latest and all(runner.kid in latest for runner in runners):
                time.sleep(_AFTERWARDS_SECONDS)
                return latest.pop()
            time.sleep(0.05)
        for runner in runners:
            for failure in runner.failures:
                raise _NotAsToldError(f"a call failed: {failure}")
        raise _NotAsToldError(f"no token of a new key within {_ROTATION_SECONDS:.0f} seconds")

    def customer_added(self, number: int, caller: Caller) -> str:
        """A call of a runner; the id of the key that sealed the response. Raises where it went wrong."""
        call = caller.call("POST", "/customers", self._customer(f"Runner {number}", self._token))
        if call.status != 201:
            raise _NotAsToldError(f"status {call.status}: {call.body[:200]!r}")
        return take_apart(call.json["ssn"].encode()).kid

    def new_client(self) -> Caller:
        """Another connection of the client."""
        return Caller(self.port, self._client_tls())

    def _client_tls(self) -> ssl.SSLContext:
        pki = self.starter.pki
        return client_context(pki / "ca.pem", pki / "client.pem", pki / "client.key")

    def _customer(self, name: str, token: str) -> bytes:
        return json.dumps({"name": name, "ssn": token}).encode()

    def _command(self, *words: str, stdin: str = "") -> str:
        """What a command of ours, run as a process of its own, prints."""
        command = [sys.executable, "-m", "secmiddleware", *words, "--config", str(self.starter.settings)]
        done = subprocess.run(  # noqa: S603  (our own command, no shell)
            command, input=stdin, capture_output=True, text=True, check=False, env=environment()
        )
        if done.returncode != 0:
            raise _NotAsToldError(f"secmiddleware {' '.join(words)}: {done.stderr.strip()}")
        return done.stdout.strip()

    def _say(self, text: str) -> None:
        for line in text.splitlines():
            self._console.print(Text(f"   {line}"))

    def _wire(self, mark: str, text: str) -> None:
        style = {">": "yellow", "<": "green", "$": "bold"}.get(mark, "")
        self._console.print(Text(f"     {mark} {text}", style))

    def _show(self, call: Call) -> Call:
        """Print a call as `curl -v` does: what was sent, what came."""
        head, _, body = call.sent.decode("ascii").partition("\r\n\r\n")
        for line in [*head.split("\r\n"), *filter(None, [body])]:
            self._wire(">", line)
        self._wire("<", f"HTTP/1.1 {call.status} {call.reason}")
        for name, value in call.headers:
            if name.lower() not in ("date", "content-length"):
                self._wire("<", f"{name}: {value}")
        self._wire("<", call.body.decode("utf-8", "replace").strip())
        return call

    def _expect(self, came_out: bool, what: str) -> None:
        if not came_out:
            raise _NotAsToldError(f"expected {what}")


class _Runner(threading.Thread):
    """A client that calls until it is told to end, and counts."""

    def __init__(self, tour: Tour, number: int) -> None:
        super().__init__(daemon=True)
        self.calls = 0
        self.failures: list[str] = []
        self.kid = ""
        self._caller = tour.new_client()
        self._call: Callable[[], str] = lambda: tour.customer_added(number, self._caller)
        self._ending = threading.Event()

    def run(self) -> None:
        """Call."""
        while not self._ending.is_set():
            self.calls += 1
            try:
                self.kid = self._call()
            except _OTHERWISE as error:
                self.failures.append(f"{type(error).__name__}: {error}")
                self._caller.close()

    def end(self) -> None:
        """Let the last call end."""
        self._ending.set()
        self.join()
        self._caller.close()
