"""A server in this process on a free port, for tests and measurements."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import uvicorn

from .app import create_app
from .settings import Settings


@dataclass(frozen=True)
class Running:
    """Where a server answers, and its model's name."""

    url: str
    model: str


@contextmanager
def running(settings: Settings, *, start_seconds: float = 60.0) -> Iterator[str]:
    """A server for these settings; its address. Raises RuntimeError where it does not start or stop."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    config = uvicorn.Config(create_app(settings), host="127.0.0.1", port=port, log_level="error", ws="none")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, name="vlm-server", daemon=True)
    thread.start()
    deadline = time.monotonic() + start_seconds
    while not server.started:
        if not thread.is_alive() or time.monotonic() > deadline:
            raise RuntimeError("the server did not start")
        time.sleep(0.02)
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join(timeout=30)
    if thread.is_alive():
        raise RuntimeError("the server did not stop")
