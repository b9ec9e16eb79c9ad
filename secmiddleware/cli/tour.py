"""The tour that `secmiddleware demo` gives: steps, each of which says what it expects and checks it."""

from __future__ import annotations

import json
import os
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.client import HTTPException
from typing import Final

from rich.console import Console

from secmiddleware.certificates.authority import Authority
from secmiddleware.certificates.contexts import client_context
from secmiddleware.cli.spans import spans_of, tree_of
from secmiddleware.cli.stage import Server, environment
from secmiddleware.cli.starter import Starter
from secmiddleware.cli.teller import NotAsToldError, Teller, expect
from secmiddleware.cli.wire import Caller, handshake_refusal
from secmiddleware.encryption.tokens import kid_of
from secmiddleware.errors import SecMiddlewareError
from secmiddleware.files import write_secret

_SSN: Final = "078-05-1120"  # never anybody's: it stood in the wallets that Woolworth sold
_CALLERS: Final = 4
_ROTATION_SECONDS: Final = 15.0
_AFTERWARDS_SECONDS: Final = 0.5
_TRACE_SECONDS: Final = 5.0


# What reading an answer of another shape, or none at all, raises.
_OTHERWISE: Final = (
    NotAsToldError,
    SecMiddlewareError,
    OSError,
    HTTPException,
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
)


class Tour:
    """The steps, against two servers of one example app that share a key ring."""

    def __init__(
        self,
        starter: Starter,
        app: str,
        server: Server,
        other: Server,
        *,
        broker: str | None,
        console: Console | None = None,
    ) -> None:
        self.starter = starter
        self._app = app
        self._server = server
        self._other = other
        self._broker = broker
        self._tell = Teller(console or Console(highlight=False, soft_wrap=True))
        self._nobody = Caller(server.port, client_context(starter.pki / "ca.pem"))
        self._client = Caller(server.port, self._client_tls())
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
            ("f", "The trace of one call", self._trace),
            ("g", "Two processes, one key ring", self._two_processes),
        )
        self._tell.say(
            f"examples/{self._app}.py knows nothing of certificates or tokens. Here it is served by\n"
            f"`secmiddleware run` on https://localhost:{self._server.port}, wrapped as these settings say:\n"
            f"{self.starter.settings}"
        )
        for letter, title, step in steps:
            self._tell.title(f"{letter}. {title}")
            try:
                step()
            except _OTHERWISE as error:
                what = error if isinstance(error, NotAsToldError) else f"{type(error).__name__}: {error}"
                self._tell.verdict(f"   NOT AS TOLD: {what}", good=False)
                return False
        self._tell.verdict(f"\nAll {len(steps)} steps came out as told.", good=True)
        return True

    def _without_certificate(self) -> None:
        self._tell.say("is told what is missing, in a form that programs read (RFC 9457):")
        call = self._tell.show(self._nobody.call("GET", "/customers"))
        expect(call.status == 401, "status 401")
        expect(call.json["code"] == "certificate_missing", "the code certificate_missing")

    def _strange_certificate(self) -> None:
        self._tell.say("does not get as far as HTTP. The same names, signed by a CA that nobody here trusts:")
        pki = self.starter.pki
        strange = Authority.create("a strange CA").issue_client(spiffe_id=self.starter.client_id)
        (pki / "strange.pem").write_bytes(strange.chain_pem)
        write_secret(pki / "strange.key", strange.key_pem)
        stranger = client_context(pki / "ca.pem", pki / "strange.pem", pki / "strange.key")
        refusal = handshake_refusal(self._server.port, stranger)
        self._tell.wire("<", f"(TLS alert: {refusal})")
        expect(refusal is not None and "UNKNOWN_CA" in refusal, "the alert unknown_ca (RFC 8446 §6.2)")

    def _good_certificate(self) -> None:
        where = "environ" if self._app.endswith("flask") else "scope"
        self._tell.say(
            f"is admitted, and the app is told who is calling ({where}['secmiddleware.identity']):"
        )
        call = self._tell.show(self._client.call("GET", "/whoami"))
        expect(call.status == 200, "status 200")
        expect(call.json == {"caller": self.starter.client_id}, f"the caller {self.starter.client_id}")

    def _secret_field(self) -> None:
        self._tell.say(
            "travels as a token. `secmiddleware fields seal ssn` makes one, as the service's operator may:"
        )
        self._token = self._command("fields", "seal", "ssn", stdin=json.dumps(_SSN))
        self._tell.wire("$", f"echo '\"{_SSN}\"' | secmiddleware fields seal ssn")
        self._tell.wire(" ", self._token)
        self._tell.say("The client sends that token, and gets one back; it never sees the number:")
        call = self._tell.show(self._client.call("POST", "/customers", self._customer("Ada", self._token)))
        expect(call.status == 201, "status 201")
        expect(call.json["ssn"].startswith("sm1."), "a token in the response")
        expect(_SSN.encode() not in call.sent + call.body, "no plaintext on the wire")
        self._tell.say(
            "The app was given plaintext, and that is what it holds (a page that real apps do not have):"
        )
        held = self._tell.show(self._client.call("GET", "/debug/store"))
        expect(held.json["held"][-1]["ssn"] == _SSN, f"the app holding {_SSN}")
        self._tell.say("One character of the token changed, and the app is not even called:")
        forged = self._token[:-6] + ("A" if self._token[-6] != "A" else "B") + self._token[-5:]
        refused = self._tell.show(self._client.call("POST", "/customers", self._customer("Eve", forged)))
        expect(refused.status == 400, "status 400")
        expect(refused.json["code"] == "field_undecryptable", "the code field_undecryptable")
        again = self._client.call("GET", "/debug/store").json["held"]
        expect(len(again) == len(held.json["held"]), "no customer more in the app")

    def _rotation(self) -> None:
        before = kid_of(self._token.encode())
        runners = [_Runner(self, number) for number in range(_CALLERS)]
        for runner in runners:
            runner.start()
        try:
            self._tell.say(
                f"{_CALLERS} clients call without a pause, while another process adds a key to the ring:"
            )
            self._tell.wire("$", "secmiddleware keys rotate")
            self._tell.wire(" ", self._command("keys", "rotate"))
            seen = self._wait_for_new_key(runners, before)
        finally:
            for runner in runners:
                runner.end()
        calls = sum(runner.calls for runner in runners)
        failures = [failure for runner in runners for failure in runner.failures]
        self._tell.say(
            f"{calls} calls were made, {len(failures)} failed. New tokens carry {seen}, no more {before}."
        )
        expect(not failures, f"no failure; the first: {failures[:1]}")
        self._client.close()  # idle meanwhile, perhaps for longer than the server keeps a connection
        self._tell.say("The token of before still opens, and what comes back is sealed with the new key:")
        call = self._tell.show(self._client.call("POST", "/customers", self._customer("Grace", self._token)))
        expect(call.status == 201, "status 201")
        expect(kid_of(call.json["ssn"].encode()) == seen, f"a token of key {seen}")
        newest = self._client.call("GET", "/debug/store").json["held"][-1]
        expect(newest == {**newest, "name": "Grace", "ssn": _SSN}, "the app holding the same number")

    def _trace(self) -> None:
        self._tell.say(
            "as OpenTelemetry's SDK sees it. This server prints its spans (OTEL_TRACES_EXPORTER=console);\n"
            "with OTEL_EXPORTER_OTLP_ENDPOINT they go to a collector. A good certificate may begin a trace:"
        )
        trace_id = os.urandom(16).hex()
        parent = f"00-{trace_id}-{os.urandom(8).hex()}-01"
        call = self._client.call("POST", "/customers", self._customer("Hedy", self._token), parent)
        self._tell.wire(">", f"POST /customers HTTP/1.1   traceparent: {parent}")
        self._tell.wire("<", f"HTTP/1.1 {call.status} {call.reason}")
        expect(call.status == 201, "status 201")
        until = time.monotonic() + _TRACE_SECONDS
        while True:
            spans = spans_of(self._server.said(), trace_id)
            root = next((span for span in spans if span.kind == "SERVER"), None)
            if root is not None or time.monotonic() > until:
                break
            time.sleep(0.05)
        if root is None:
            raise NotAsToldError("expected a SERVER span in the trace that the caller began")
        self._tell.lines(tree_of(spans, root))
        below = {span.name for span in spans if span.parent == root.id}
        wanted = {"secmiddleware.decrypt", "secmiddleware.encrypt"}
        expect(wanted <= below, f"{' and '.join(sorted(wanted))} below it")
        told = f"{[span.attributes for span in spans]}"
        expect(_SSN not in told and self._token not in told, "no value and no token in any span")

    def _two_processes(self) -> None:
        ports = f"{self._server.port} and {self._other.port}"
        ear = "" if self._broker is None else " and listens to the broker"
        self._tell.say(f"serve here, on ports {ports}. Each watches the file of the ring{ear}:")
        with self._connected(self._server) as one, self._connected(self._other) as two:
            before = {self._added("Radia", one)[0], self._added("Radia", two)[0]}
            expect(len(before) == 1, "tokens of one key from both")
            self._tell.wire("$", "secmiddleware keys rotate")
            self._tell.wire(" ", self._command("keys", "rotate"))
            until = time.monotonic() + _ROTATION_SECONDS
            tokens: dict[str, str] = {}
            while time.monotonic() < until and (len(tokens) != 1 or before & tokens.keys()):
                # What one of them has sealed, the other opens, at every instant.
                of_one, of_two = self._added("Barbara", one), self._added("Barbara", two)
                self._added("Barbara", two, of_one[1])
                self._added("Barbara", one, of_two[1])
                tokens = dict([of_one, of_two])
                time.sleep(0.05)
        expect(len(tokens) == 1 and not before & tokens.keys(), "a new key at both")
        (newest,) = tokens
        for server in (self._server, self._other):
            self._tell.wire(" ", f"{server.port} {_how_it_learned_of(newest, server)}")
        self._tell.say(f"Both seal with {newest} now; each opened what the other sealed, at every instant.")

    def _added(self, name: str, caller: Caller, token: str | None = None) -> tuple[str, str]:
        """The key id and the token of a customer who was added."""
        call = caller.call("POST", "/customers", self._customer(name, token or self._token))
        if call.status != 201:
            raise NotAsToldError(f"status {call.status}: {call.body[:200]!r}")
        sealed: str = call.json["ssn"]
        return kid_of(sealed.encode()), sealed

    @contextmanager
    def _connected(self, server: Server) -> Iterator[Caller]:
        caller = Caller(server.port, self._client_tls())
        try:
            yield caller
        finally:
            caller.close()

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
                raise NotAsToldError(f"a call failed: {failure}")
        raise NotAsToldError(f"no token of a new key within {_ROTATION_SECONDS:.0f} seconds")

    def customer_added(self, number: int, caller: Caller) -> str:
        """A call of a runner; the id of the key that sealed the response. Raises where it went wrong."""
        return self._added(f"Runner {number}", caller)[0]

    def new_client(self) -> Caller:
        """Another connection of the client."""
        return Caller(self._server.port, self._client_tls())

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
            raise NotAsToldError(f"secmiddleware {' '.join(words)}: {done.stderr.strip()}")
        return done.stdout.strip()


def _how_it_learned_of(kid: str, server: Server) -> str:
    """What its log says: whether a notice came first, or the file was seen to have changed."""
    lines = [line.strip() for line in server.said().splitlines()]
    pending = [at for at, line in enumerate(lines) if f"key {kid} is pending" in line]
    expect(bool(pending), f"key {kid} in the log of each")
    before = lines[pending[0] - 1]
    if "a notice says" in before:
        return f"was told by a notice: {before}"
    return f"saw it in the file: {lines[pending[0]]}"


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
