"""A worker of gunicorn in a thread of this process: all of it, but for the fork before it and its signals."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from typing import Any, Final
from wsgiref.types import WSGIApplication

from gunicorn.config import Config
from gunicorn.glogging import Logger
from gunicorn.sock import create_sockets
from gunicorn.workers.gthread import ThreadWorker
from gunicorn.workers.sync import SyncWorker


class _InThread:
    """Mixed into a worker class."""

    def init_signals(self) -> None: ...

    def end(self) -> None:
        """What a SIGTERM would do, and what wakes the worker up."""
        self.handle_exit(None, None)  # type: ignore[attr-defined]
        os.write(self.PIPE[1], b"1")  # type: ignore[attr-defined]


class _Threads(_InThread, ThreadWorker): ...


class _Sync(_InThread, SyncWorker): ...


WORKERS: Final[dict[str, type[Any]]] = {"sync": _Sync, "gthread": _Threads}


class Running:
    """The worker, until `end`."""

    def __init__(self, app: WSGIApplication, options: dict[str, Any]) -> None:
        cfg = Config()
        for name, value in {**options, "bind": "127.0.0.1:0", "loglevel": "critical"}.items():
            cfg.set(name, value)
        log = Logger(cfg)
        sockets = create_sockets(cfg, log)
        self.port: int = sockets[0].getsockname()[1]
        ready = threading.Event()
        cfg.set("post_worker_init", lambda worker: ready.set())
        loaded = type("Loaded", (), {"wsgi": lambda _self: app})()
        self._sockets = sockets
        self._worker = WORKERS[options["worker_class"]](1, os.getppid(), sockets, loaded, 15, cfg, log)
        self._thread = threading.Thread(target=self._worker.init_process, name=f"gunicorn {self.port}")
        self._thread.start()
        assert ready.wait(10), "the worker does not start"

    @property
    def connections(self) -> int:
        """How many a gthread worker believes to have."""
        count: int = self._worker.nr_conns
        return count

    def end(self) -> None:
        self._worker.end()
        self._thread.join(10)
        assert not self._thread.is_alive(), "the worker does not end"
        self._worker.tmp.close()
        for descriptor in self._worker.PIPE:
            os.close(descriptor)
        for listening in self._sockets:
            listening.close()


def until(holds: Callable[[], Any], what: str) -> None:
    deadline = time.monotonic() + 10
    while not holds():
        assert time.monotonic() < deadline, what
        time.sleep(0.002)
