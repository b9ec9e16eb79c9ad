"""What is said over a websocket with marks, both ways: each message through its frames, one after the other.

What is large is worked on aside of the loop, as a body is over HTTP. The order stays, and nothing is lost: a
message that has come waits here for the app's next `receive` where the one that it was for is cancelled.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import TypeVar

from secmiddleware.asgi_loops import aside, make_lock
from secmiddleware.fields.frames import Frames
from secmiddleware.messages import SWITCHING_PROTOCOLS, Body, Event, Head, Refusal, ResponseHead
from secmiddleware.scopes import Message, headers_of

_Result = TypeVar("_Result")


class Talk:
    """The messages of one websocket, rewritten in the order in which they come and are sent."""

    def __init__(self, frames: Frames, offload: int) -> None:
        """From `offload` bytes on a message is worked on in a thread. Made within the loop."""
        self._frames = frames
        self._offload = offload
        self._hearing = make_lock()
        self._working = make_lock()
        """Both ways share the values that were opened, so that only one message is worked on at a time."""
        self._came: deque[Message] = deque()
        self._opened: deque[Message | Refusal] = deque()

    async def hear(self, receive: Callable[[], Awaitable[Message]]) -> Message | Refusal:
        """The next message for the app; or why the socket must end."""
        async with self._hearing:
            if not self._opened:
                if not self._came:
                    self._came.append(await receive())
                async with self._working:
                    await self._work(self._load_in(self._came[0]), self._open)
            return self._opened.popleft()

    async def say(self, message: Message) -> Sequence[Message] | Refusal:
        """What leaves now for a message of the app's; or why the socket must end."""
        async with self._working:
            match message["type"]:
                case "websocket.send":
                    return await self._work(self._load_out(message), lambda: self._sealed(message))
                case "websocket.accept" if self._frames.leaks(str(message.get("subprotocol") or "")):
                    return Refusal("seal_failed")
                case "websocket.accept" | "websocket.http.response.start" | "websocket.http.response.body":
                    return await self._answered(message)
                case "websocket.close" if self._frames.leaks(str(message.get("reason") or "")):
                    return ({**message, "reason": ""},)
            return (message,)

    async def _work(self, load: int, work: Callable[[], _Result]) -> _Result:
        return work() if load < self._offload else await aside(work)

    def _load_in(self, message: Message) -> int:
        opens = message["type"] == "websocket.receive" and self._frames.opens
        return _size(_content(message), self._offload) if opens else 0

    def _load_out(self, message: Message) -> int:
        return _size(_content(message), self._offload) if self._frames.reads_what_leaves else 0

    def _open(self) -> None:
        """Open the message that came first. It stays here, so or so."""
        message = self._came.popleft()
        if message["type"] == "websocket.receive":
            content = _content(message)
            self._opened.append(_with(message, content, self._frames.receive(content)))
        else:
            self._opened.append(message)

    def _sealed(self, message: Message) -> Sequence[Message] | Refusal:
        if message.get("text") is not None and message.get("bytes") is not None:
            # Servers send the bytes; the specification allows one of them, and nobody looks at two.
            return Refusal("seal_failed")
        content = _content(message)
        rewritten = _with(message, content, self._frames.send(content))
        return rewritten if isinstance(rewritten, Refusal) else (rewritten,)

    async def _answered(self, message: Message) -> Sequence[Message] | Refusal:
        """What goes on of the app's answer to the handshake: an acceptance has no body, a denial has one."""
        flow, kind = self._frames.answer, message["type"]
        events: list[Event] = []
        if kind == "websocket.http.response.body":
            events += flow.feed(message.get("body", b""))
        else:
            status = message.get("status", SWITCHING_PROTOCOLS)
            events += flow.start(ResponseHead(status, headers_of(message)))
        if kind == "websocket.accept" or (kind.endswith("body") and not message.get("more_body", False)):
            events += await self._work(flow.load, lambda: tuple(flow.finish(complete=True)))
        return _leaving(message, events)


def _leaving(message: Message, events: Iterable[Event]) -> Sequence[Message] | Refusal:
    """The messages for these events of an answer's flow."""
    accepts = message["type"] == "websocket.accept"
    leaves: list[Message] = []
    for event in events:
        match event:
            case Refusal():
                return event
            case Head(ResponseHead(_, headers)) if accepts:
                leaves.append({**message, "headers": list(headers)})
            case Head(ResponseHead(status, headers)):
                start = {"type": "websocket.http.response.start", "status": status, "headers": list(headers)}
                leaves.append(start)
            case Body(data, more) if not accepts:
                leaves.append({"type": "websocket.http.response.body", "body": data, "more_body": more})
    return leaves


def _with(message: Message, content: str | bytes, rewritten: str | bytes | Refusal) -> Message | Refusal:
    """The message with what became of its content."""
    if isinstance(rewritten, Refusal):
        return rewritten
    return message if rewritten is content else {**message, "text": rewritten}


def _content(message: Message) -> str | bytes:
    """What a message holds: the text where it has one."""
    text: str | None = message.get("text")
    return bytes(message.get("bytes") or b"") if text is None else text


def _size(content: str | bytes, enough: int) -> int:
    """Its bytes; of a text that has as many characters as are `enough`, these."""
    if isinstance(content, bytes) or content.isascii() or len(content) >= enough:
        return len(content)
    return len(content.encode("utf-8", "surrogatepass"))
