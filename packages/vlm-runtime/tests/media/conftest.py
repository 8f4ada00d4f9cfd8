"""Pictures made in memory, and a network that leads every public name to a loopback server."""

from __future__ import annotations

import io
import socket
import threading
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image as Pillow


@pytest.fixture(scope="session")
def gradient() -> np.ndarray:
    y, x = np.mgrid[0:24, 0:32]
    return np.stack([x * 8, y * 10, (x + y) * 4], axis=-1).astype(np.uint8)


@pytest.fixture
def encoded(gradient) -> Callable[..., bytes]:
    def encode(kind: str = "PNG", picture: Pillow.Image | None = None, **options) -> bytes:
        buffer = io.BytesIO()
        (picture or Pillow.fromarray(gradient)).save(buffer, kind, **options)
        return buffer.getvalue()

    return encode


class Server:
    """Answers each connection with the next of its scripted replies, byte for byte, and records the requests."""

    def __init__(self) -> None:
        self.replies: list[bytes | Callable[[socket.socket], None]] = []
        self.requests: list[bytes] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def reply(self, body: bytes, status: str = "200 OK", *headers: str, length: int | None = None) -> None:
        lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body) if length is None else length}", *headers]
        self.replies.append("\r\n".join([*lines, "Connection: close", "", ""]).encode() + body)

    def redirect(self, location: str, status: str = "302 Found") -> None:
        self.reply(b"", status, f"Location: {location}")

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)  # wakes accept
        self._listener.close()
        self._thread.join(5)

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            with connection:
                connection.settimeout(5)
                try:
                    self.requests.append(connection.recv(65536))
                    reply = self.replies.pop(0) if self.replies else b""
                    if callable(reply):
                        reply(connection)
                    else:
                        connection.sendall(reply)
                except OSError:
                    continue


class Names:
    """A resolver for tests. Connections to any public address reach the server; others would be a hole in the door."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.addresses = {"public.test": ["93.184.216.34"]}
        self.connected: list[str] = []

    def resolve(self, host: str, port: int, timeout: float) -> list[str]:
        if host in self.addresses:
            return self.addresses[host]
        return list(dict.fromkeys(str(row[4][0]) for row in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)))

    def connect(self, address: str, port: int, timeout: float) -> socket.socket:
        self.connected.append(address)
        return socket.create_connection(("127.0.0.1", self.port), timeout)


@pytest.fixture
def server():
    server = Server()
    yield server
    server.close()


@pytest.fixture
def names(server) -> Names:
    return Names(server.port)
