"""Which server it is that has Django called: Django tells its middleware nothing of it.

What gives a server away is the `send` that it calls Django's handler with; and that is still held by whoever
waits for our answer.
"""

from __future__ import annotations

import sys
from types import FrameType
from typing import Final

from secmiddleware.server_kinds import ServerKind, kind_of_callables

_HANDLER: Final = "django.core.handlers.asgi"


def server_of_this_request() -> ServerKind | None:
    """The server that waits for the answer to the request at hand, under ASGI.

    None where it cannot be told: in test clients, and where something round Django has a `send` of its own.
    """
    frame: FrameType | None = sys._getframe(1)  # noqa: SLF001  (there is no other way to who is waiting)
    while frame is not None:
        if frame.f_globals.get("__name__") == _HANDLER and "send" in frame.f_locals:
            return kind_of_callables(frame.f_locals["send"])
        frame = frame.f_back
    return None
