"""hypercorn and gunicorn's own ASGI worker in a thread of this process: a test can look into the app."""

from __future__ import annotations

import asyncio
import os
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import trio
import uvloop
from gunicorn.config import Config as GunicornConfig
from gunicorn.glogging import Logger
from gunicorn.sock import create_sockets
from gunicorn.workers import gasgi
from hypercorn.asyncio import serve
from hypercorn.config import Config
from hypercorn.trio import serve as serve_trio

from secmiddleware.scopes import App
from secmiddleware.servers.gunicorn_asgi import AsgiWorker
from servers.serving import PATIENCE, until

LOOPS = {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}


@contextmanager
def hypercorn_serving(app: App, options: dict[str, Any], loop: str = "asyncio") -> Iterator[int]:
    """The port on which hypercorn serves the app, with these options of ours; `loop` may be trio, too."""
    started = threading.Event()
    ends: list[Callable[[], object]] = []

    async def until_stopped() -> None:
        stop = asyncio.Event()
        ends.append(partial(asyncio.get_running_loop().call_soon_threadsafe, stop.set))
        started.set()  # the sockets listen from here on
        await stop.wait()

    async def until_trio_is_stopped() -> None:
        stop = trio.Event()
        ends.append(partial(trio.lowlevel.current_trio_token().run_sync_soon, stop.set))
        started.set()
        await stop.wait()

    with socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP) as listening:
        listening.bind(("127.0.0.1", 0))
        config = Config.from_mapping(options, bind=f"fd://{os.dup(listening.fileno())}", errorlog=None)
        config.graceful_timeout = 0.2  # for clients that do not answer the farewell of TLS

        def run() -> None:
            with asyncio.Runner(loop_factory=LOOPS[loop]) as runner:
                runner.run(serve(app, config, shutdown_trigger=until_stopped))  # type: ignore[arg-type]

        def run_trio() -> None:
            trio.run(partial(serve_trio, app, config, shutdown_trigger=until_trio_is_stopped))  # type: ignore[arg-type]

        running = run_trio if loop == "trio" else run
        thread = threading.Thread(target=running, name=f"hypercorn on {loop}")
        thread.start()
        try:
            until(lambda: started.is_set() or not thread.is_alive(), "hypercorn starts")
            assert started.is_set(), "hypercorn has ended instead of starting"
            yield listening.getsockname()[1]
        finally:
            for end in ends:
                end()
            thread.join(PATIENCE)
            assert not thread.is_alive(), "hypercorn does not stop"


class _Worker(AsgiWorker):  # type: ignore[misc,valid-type]
    """The worker, but for the fork before it and its signals."""

    def init_signals(self) -> None: ...


@contextmanager
def gunicorn_serving(app: App, options: dict[str, Any], loop: str = "asyncio") -> Iterator[int]:
    """The port on which gunicorn's ASGI worker serves the app, with these options of ours."""
    cfg = GunicornConfig()
    for name, value in {**options, "bind": "127.0.0.1:0", "loglevel": "critical", "asgi_loop": loop}.items():
        cfg.set(name, value)
    log = Logger(cfg)
    sockets = create_sockets(cfg, log)
    loaded = type("Loaded", (), {"wsgi": lambda _self: app})()
    worker = _Worker(1, os.getppid(), sockets, loaded, 15, cfg, log)
    before = gasgi.ASGIProtocol  # a worker has its process for itself, and so puts ours there for good
    thread = threading.Thread(target=worker.init_process, name=f"gunicorn on {loop}")
    thread.start()
    try:
        until(lambda: worker.servers or not thread.is_alive(), "gunicorn starts")
        assert worker.servers, "gunicorn has ended instead of starting"
        yield sockets[0].getsockname()[1]
    finally:
        worker._quick_shutdown, worker.alive = True, False
        thread.join(PATIENCE)
        gasgi.ASGIProtocol = before
        assert not thread.is_alive(), "gunicorn does not stop"
        worker.tmp.close()
        for descriptor in worker.PIPE:
            os.close(descriptor)
