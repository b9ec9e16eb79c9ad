"""Callbacks as a user would write them, and worse."""

from __future__ import annotations

import asyncio
import sys
import threading

from secmiddleware.encryption.manager import Transition

heard: list[Transition] = []
"""By `note` and `note_async`, in their order."""
threads: list[threading.Thread] = []
"""In which they ran."""
let_go = threading.Event()
"""Ends `hang`."""


def note(transition: Transition) -> None:
    threads.append(threading.current_thread())
    heard.append(transition)


async def note_async(transition: Transition) -> None:
    await asyncio.sleep(0)
    note(transition)


def fail(transition: Transition) -> None:
    raise ValueError("the pager is broken")


async def fail_async(transition: Transition) -> None:
    await asyncio.sleep(0)
    raise ValueError("the pager is broken")


def leave(transition: Transition) -> None:
    sys.exit("enough")


async def give_up(transition: Transition) -> None:
    raise asyncio.CancelledError


def hang(transition: Transition) -> None:
    let_go.wait()


async def hang_async(transition: Transition) -> None:
    await asyncio.sleep(3600)


class Pager:
    """Callables of other kinds."""

    def __call__(self, transition: Transition) -> None:
        note(transition)

    @staticmethod
    def page(transition: Transition) -> None:
        note(transition)


pager = Pager()
number = 7
