"""The lifespan of an ASGI app with ours round it, also of an app that speaks none."""

from __future__ import annotations

import logging
from collections.abc import Callable

from secmiddleware.errors import SecMiddlewareError
from secmiddleware.scopes import App, Message, Receive, Scope, Send

logger = logging.getLogger("secmiddleware.asgi")


def nothing() -> None:
    """Stops nothing: it was running before us, or has not begun."""


class Lifespan:
    """The lifespan of the app with ours round it: started before the app, stopped after it.

    Where the app does not speak lifespan (it raises, or returns without an answer), the answers are ours.
    What it has raised then is raised in place of the last one: a server that serves such apps ends all the
    same, and a test client shows it to the test.
    """

    def __init__(
        self,
        app: App,
        start: Callable[[Scope, Receive, Send], Callable[[], None]],
        scope: Scope,
        receive: Receive,
        send: Send,
    ) -> None:
        """`start` starts what the shell needs, and gives what stops it again."""
        self._app = app
        self._start = start
        self._scope = scope
        self._receive = receive
        self._send = send
        self._first: Message | None = None
        self._answered = False
        self._failed = False
        self._asked_to_stop = False
        self._ended = False
        self._stop: Callable[[], None] = nothing
        self._raised: Exception | None = None

    async def run(self) -> None:
        """From startup to shutdown."""
        self._first = await self._receive()
        try:
            self._stop = self._start(self._scope, self._receive, self._send)
        except SecMiddlewareError as error:
            await self._send({"type": "lifespan.startup.failed", "message": f"secmiddleware: {error}"})
            raise  # as Starlette does: its test client takes whoever returns for started
        try:
            await self._app_lifespan()
            if not self._failed:
                await self._finish_for_the_app()
        finally:
            # On the loop, if it waits a little for a thread: servers that end cancel whoever waits for more.
            self._stop()
        if self._raised is not None:
            raise self._raised
        if not self._failed and not self._ended:
            await self._send({"type": "lifespan.shutdown.complete"})

    async def _app_lifespan(self) -> None:
        try:
            await self._app(self._scope, self._receive_for_app, self._send_for_app)
        except Exception as raised:
            if self._answered or self._failed:
                raise
            self._raised = raised
            logger.info("the app does not speak the lifespan protocol; it is answered for it")

    async def _finish_for_the_app(self) -> None:
        if not self._answered:
            await self._send({"type": "lifespan.startup.complete"})
        if not self._asked_to_stop:
            await self._receive()

    async def _receive_for_app(self) -> Message:
        if self._first is not None:
            message, self._first = self._first, None
            return message
        message = await self._receive()
        self._asked_to_stop = message["type"] == "lifespan.shutdown"
        return message

    async def _send_for_app(self, message: Message) -> None:
        match message["type"]:
            case "lifespan.startup.complete":
                self._answered = True
            case "lifespan.startup.failed":
                self._failed = True
            case "lifespan.shutdown.complete" | "lifespan.shutdown.failed":
                self._ended = True
                self._stop()  # before the server hears of it and ends the process
        await self._send(message)
